//! What can happen to a store while it is used: nothing acknowledged is lost, nothing half is listed, the node says so.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crate::support::{Home, Node, Organization, Plan, Request, eventually, noise, tool};

/// Flips one bit in the middle of the node's largest pack.
fn flip_a_bit(home: &Home) {
    let packs = std::fs::read_dir(home.path("data/store/packs")).unwrap();
    let paths: Vec<PathBuf> = packs.map(|entry| entry.unwrap().path()).collect();
    let largest = paths
        .iter()
        .max_by_key(|path| std::fs::metadata(path).unwrap().len())
        .unwrap();
    let mut bytes = std::fs::read(largest).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 0x10;
    std::fs::write(largest, bytes).unwrap();
}

/// A stopped node with a damaged document that the second node holds too.
fn damaged(organization: &Organization) -> (Home, Node, String, Vec<u8>) {
    let first = Node::start(&organization.home("node-1"));
    let (id, bytes) = first.put_noise(1, 3_000_000);
    let second = Node::start(&organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    ));
    second.meets(&first);
    second.content(&id).ok();
    let home = first.home.clone();
    first.stop();
    flip_a_bit(&home);
    (home, second, id, bytes)
}

#[test]
fn given_a_flipped_bit_when_verified_then_the_block_is_repaired_from_the_peer() {
    let organization = Organization::new();
    let (home, second, id, bytes) = damaged(&organization);
    let first = Node::start(&home);
    first.warren(["connect", &second.address()]).ok();

    let verified = first.warren(["store", "verify", "--json"]).json();

    assert_eq!(
        verified["damaged"].as_array().unwrap().len(),
        1,
        "{verified}"
    );
    assert_eq!(verified["damaged"], verified["repaired"]);
    second.stop();
    assert!(first.content(&id).bytes() == bytes);
}

#[test]
fn given_a_flipped_bit_and_no_peer_when_verified_then_it_fails_and_names_the_block() {
    let organization = Organization::new();
    let (home, second, _, _) = damaged(&organization);
    second.stop();
    let first = Node::start(&home);

    let verified = first.warren(["store", "verify"]);

    assert_eq!(verified.code, Some(1), "{verified:?}");
    assert!(
        String::from_utf8_lossy(&verified.stdout).contains("was damaged"),
        "{verified:?}"
    );
    assert!(verified.stderr.contains("connect a peer"), "{verified:?}");
}

#[test]
fn given_a_flipped_bit_and_no_peer_when_got_then_no_wrong_byte_is_given_out() {
    let organization = Organization::new();
    let (home, second, id, bytes) = damaged(&organization);
    second.stop();
    let first = Node::start(&home);

    let got = first.content(&id);

    assert_eq!(got.code, Some(1), "{} bytes came", got.stdout.len());
    assert!(bytes.starts_with(&got.stdout));
    assert_eq!(first.get("/health").status, 200, "the node stays up");
}

#[test]
fn given_a_flipped_bit_and_a_peer_when_got_then_the_whole_document_comes() {
    let organization = Organization::new();
    let (home, second, id, bytes) = damaged(&organization);
    let first = Node::start(&home);
    first.warren(["connect", &second.address()]).ok();

    assert!(first.content(&id).bytes() == bytes);
}

/// What one life of the node was told to keep.
#[derive(Default)]
struct Lives {
    tried: BTreeMap<String, Vec<u8>>,
    acknowledged: Vec<String>,
}

impl Lives {
    /// Puts documents until the node dies.
    fn put_until_it_dies(&mut self, node: &Node, seed: &mut u64) {
        loop {
            *seed += 1;
            let bytes = noise(*seed, usize::try_from(*seed * 7_919 % 1_500_000).unwrap());
            let reply = node
                .request("POST", &format!("/api/v1/documents?title=t{seed}"))
                .body(&bytes)
                .try_send();
            self.tried.insert(format!("t{seed}"), bytes);
            match reply {
                Ok(reply) if reply.status == 201 => {
                    self.acknowledged
                        .push(reply.json()["id"].as_str().unwrap().to_owned());
                }
                _ => return,
            }
        }
    }

    /// Every acknowledged document is listed, and every listed one is whole.
    fn check(&self, node: &Node) {
        let mut listed = BTreeMap::new();
        let documents = node.warren(["ls", "--json"]).json();
        for document in documents["documents"].as_array().unwrap() {
            let text = |field: &str| document[field].as_str().unwrap().to_owned();
            listed.insert(text("id"), text("title"));
        }
        for id in &self.acknowledged {
            assert!(listed.contains_key(id), "{id} was acknowledged and is lost");
        }
        for (id, title) in listed {
            let reply = node.get(&format!("/api/v1/documents/{id}/content"));
            assert_eq!(reply.status, 200, "{title}: {}", reply.text());
            assert!(
                reply.body == self.tried[&title],
                "{title} is listed and not whole"
            );
        }
    }
}

#[test]
fn given_puts_when_the_node_is_killed_at_any_moment_then_nothing_acknowledged_is_lost() {
    const ROUNDS: u32 = 6;
    let organization = Organization::new();
    let home = organization.home("node-1");
    let (mut lives, mut seed) = (Lives::default(), u64::from(std::process::id()));
    println!("seed {seed}");

    for round in 0..ROUNDS {
        let node = Node::start(&home);
        lives.check(&node);
        std::thread::scope(|scope| {
            let putting = scope.spawn(|| lives.put_until_it_dies(&node, &mut seed));
            let end = Instant::now() + Duration::from_millis(u64::from(100 + round * 137));
            eventually("the moment has come", || {
                (Instant::now() >= end).then_some(())
            });
            node.signal(rustix::process::Signal::KILL);
            putting.join().unwrap();
        });
    }

    assert!(!lives.acknowledged.is_empty());
    lives.check(&Node::start(&home));
}

/// A node that runs in a mount namespace of its own after `mounts`; `None` (and said so) where that is not possible.
fn node_with_mounts(test: &str, home: &Home, mounts: &str) -> Option<Node> {
    if tool("unshare", &home.folder, ["-m", "true"]).code != Some(0) {
        warren_lab::skip(test, "needs root, for a mount namespace");
        return None;
    }
    let script = format!("set -e; {mounts}; exec \"$@\"");
    let mut node = Node::launch_through(home, &["unshare", "-m", "sh", "-c", &script, "sh"]);
    eventually("the API answers", || {
        node.assert_running();
        Request::new(node.api(), "GET", "/metrics").try_send().ok()
    });
    Some(node)
}

/// The admin token stands where the test can see it.
fn token_outside(organization: &Organization) -> Home {
    let home = organization.home("node-1");
    home.edit("api: {", "api: {token_file: token, ");
    home
}

#[test]
fn given_a_full_disk_when_put_then_it_is_said_and_the_node_goes_on() {
    let organization = Organization::new();
    let home = token_outside(&organization);
    std::fs::create_dir(home.path("data")).unwrap();
    let mount = format!(
        "mount -t tmpfs -o size=24m tmpfs {}",
        home.path("data").display()
    );
    let Some(node) = node_with_mounts("damage::full_disk", &home, &mount) else {
        return;
    };
    let small = node.put(b"small and early");

    let refusal = node
        .invocation()
        .args(["put", "-"])
        .input(&noise(1, 40 << 20))
        .run();

    assert!(refusal.failed().contains("space"), "{}", refusal.stderr);
    let listed = node.warren(["ls", "--json"]).json();
    assert_eq!(listed["total"], 1, "no half document is listed: {listed}");
    assert_eq!(node.content(&small).bytes(), b"small and early");
    assert_eq!(node.get("/health").status, 200);
    node.warren(["store", "gc"]).ok();
    let after = node.put(b"small and late");
    assert_eq!(node.content(&after).bytes(), b"small and late");
}

#[test]
fn given_a_quota_when_it_would_be_passed_then_the_put_is_refused_and_the_node_goes_on() {
    let organization = Organization::new();
    let node = Node::start(&organization.planned(
        "node-1",
        Plan {
            storage: ", max_size: 20MB".to_owned(),
            ..Plan::default()
        },
    ));

    let refusal = node
        .invocation()
        .args(["put", "-"])
        .input(&noise(1, 30 << 20))
        .run()
        .failed();

    assert!(refusal.contains("storage.max_size"), "{refusal}");
    assert_eq!(node.warren(["ls", "--json"]).json()["total"], 0);
    node.put(b"this fits");
}

#[test]
fn given_a_store_that_can_only_be_read_when_used_then_reading_works_and_putting_says_why_not() {
    let organization = Organization::new();
    let home = token_outside(&organization);
    let node = Node::start(&home);
    let id = node.put(b"written before");
    node.stop();
    let data = home.path("data").display().to_string();
    let mount = format!("mount --bind {data} {data}; mount -o remount,ro,bind {data}");
    let Some(node) = node_with_mounts("damage::read_only", &home, &mount) else {
        return;
    };

    let refusal = node
        .invocation()
        .args(["put", "-"])
        .input(b"new")
        .run()
        .failed();

    assert!(refusal.contains("read"), "{refusal}");
    assert_eq!(node.content(&id).bytes(), b"written before");
    eventually("the health report says so", || {
        let reply = Request::new(node.api(), "GET", "/health").send();
        (reply.status == 503).then_some(())
    });
}
