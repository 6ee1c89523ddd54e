//! Documents through the command line: into one node, out of another.

use std::collections::BTreeMap;
use std::path::Path;

use crate::support::{Invocation, Node, Organization, Plan, eventually, noise};

/// Two nodes of one organisation that are connected.
struct Pair {
    first: Node,
    second: Node,
    organization: Organization,
}

impl Pair {
    fn new() -> Self {
        let organization = Organization::new();
        let first = Node::start(&organization.home("node-1"));
        let second = organization.planned(
            "node-2",
            Plan {
                bootstrap: vec![first.address()],
                ..Plan::default()
            },
        );
        let second = Node::start(&second);
        second.meets(&first);
        Self {
            first,
            second,
            organization,
        }
    }

    fn file(&self, name: &str) -> String {
        self.organization
            .folder()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }
}

fn tree(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut files = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in std::fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path
                    .strip_prefix(folder)
                    .unwrap()
                    .to_str()
                    .unwrap()
                    .to_owned();
                files.insert(name, std::fs::read(&path).unwrap());
            }
        }
    }
    files
}

#[test]
fn given_a_file_on_one_node_when_got_from_another_then_the_bytes_are_equal() {
    let pair = Pair::new();
    let bytes = noise(1, 3_000_000);
    std::fs::write(pair.file("in.bin"), &bytes).unwrap();
    let id = pair.first.warren(["put", &pair.file("in.bin")]).ok();

    pair.second
        .warren(["get", &id, "-o", &pair.file("out.bin")])
        .ok();

    assert_eq!(std::fs::read(pair.file("out.bin")).unwrap(), bytes);
}

#[test]
fn given_64_mib_from_standard_input_when_got_from_another_node_then_the_bytes_are_equal() {
    let pair = Pair::new();
    let (id, bytes) = pair.first.put_noise(2, 64 << 20);

    let got = pair.second.content(&id).bytes();

    assert!(
        got == bytes,
        "{} bytes came back for {}",
        got.len(),
        bytes.len()
    );
}

#[test]
fn given_an_empty_document_when_got_from_another_node_then_it_is_empty() {
    let pair = Pair::new();
    let id = pair.first.put(b"");

    assert_eq!(pair.second.content(&id).bytes(), b"");
}

#[test]
fn given_a_folder_of_many_files_when_got_from_another_node_then_every_file_is_there() {
    let pair = Pair::new();
    let source = pair.organization.folder().join("source");
    for number in 0..600_u64 {
        let folder = source.join(format!("part-{}/ä ö", number % 7));
        std::fs::create_dir_all(&folder).unwrap();
        let length = usize::try_from(number % 5 * 1_000).unwrap();
        std::fs::write(folder.join(format!("{number}.txt")), noise(number, length)).unwrap();
    }
    std::fs::write(source.join("large.bin"), noise(9, 6_000_000)).unwrap();
    let id = pair.first.warren(["put", source.to_str().unwrap()]).ok();

    let target = pair.organization.folder().join("target");
    pair.second
        .warren(["get", &id, "-o", target.to_str().unwrap()])
        .ok();

    assert!(tree(&target) == tree(&source), "the folders differ");
}

#[test]
fn given_a_folder_when_got_without_a_place_then_the_message_says_how() {
    let pair = Pair::new();
    let source = pair.organization.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a.txt"), "a").unwrap();
    let id = pair.first.warren(["put", source.to_str().unwrap()]).ok();

    let refusal = pair.first.content(&id).failed();

    assert!(refusal.contains("-o DIR"), "{refusal}");
}

#[test]
fn given_a_link_in_a_folder_when_put_then_it_is_left_out_by_name() {
    let pair = Pair::new();
    let source = pair.organization.folder().join("source");
    std::fs::create_dir(&source).unwrap();
    std::fs::write(source.join("a.txt"), "a").unwrap();
    std::os::unix::fs::symlink("/etc/passwd", source.join("link")).unwrap();

    let put = pair.first.warren(["put", source.to_str().unwrap()]);

    assert!(put.stderr.contains("link"), "{}", put.stderr);
    let id = put.ok();
    let target = pair.organization.folder().join("target");
    pair.first
        .warren(["get", &id, "-o", target.to_str().unwrap()])
        .ok();
    assert_eq!(tree(&target).into_keys().collect::<Vec<_>>(), ["a.txt"]);
}

#[test]
fn given_the_uploader_has_stopped_when_got_from_a_third_node_then_another_holder_serves_it() {
    let Pair {
        first,
        second,
        organization,
    } = Pair::new();
    let (id, bytes) = first.put_noise(3, 5_000_000);
    second.content(&id).ok();
    let third = organization.planned(
        "node-3",
        Plan {
            bootstrap: vec![second.address()],
            ..Plan::default()
        },
    );
    assert!(first.stop().success());
    let third = Node::start(&third);
    third.meets(&second);

    assert!(third.content(&id).bytes() == bytes);
}

#[test]
fn given_no_holder_when_got_then_it_fails_and_says_so() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let elsewhere = "bafyr4igmelil7mgxnrrrn3bcek3izwqbfcqkwjq7yka3fmx7givqf53wru";

    let refusal = node.content(elsewhere).failed();

    assert!(refusal.contains(elsewhere), "{refusal}");
}

#[test]
fn given_an_id_that_is_none_when_asked_for_then_no_request_is_made_of_it() {
    for command in ["get", "stat", "rm"] {
        for id in [
            "../status",
            "nonsense",
            "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi",
        ] {
            let refusal = crate::support::warren([command, id]).usage();

            assert!(refusal.contains(id), "{refusal}");
        }
    }
}

#[test]
fn given_a_folder_that_is_not_there_when_a_file_is_got_into_it_then_the_folder_is_told() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let id = node.put(b"content");
    let target = node.path("nosuch/dir/file");

    let refusal = node
        .warren(["get", &id, "-o", target.to_str().unwrap()])
        .failed();

    let folder = target.parent().unwrap().display();
    assert!(
        refusal.contains(&format!("mkdir -p {folder}")) && !refusal.contains(".tmp"),
        "{refusal}"
    );
}

#[test]
fn given_an_empty_node_when_listed_then_it_says_that_only_its_own_would_be() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let listed = node.warren(["ls"]);

    assert_eq!(listed.ok(), "");
    assert!(listed.stderr.contains("other nodes"), "{}", listed.stderr);
}

#[test]
fn given_title_tags_and_retention_when_put_then_stat_tells_them() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let id = node
        .invocation()
        .args([
            "put",
            "-",
            "--title",
            "Runbook, third edition",
            "--tag",
            "ops",
            "--tag",
            "night shift",
            "--source-type",
            "wiki",
            "--retention",
            "30d",
        ])
        .input(b"call me")
        .run()
        .ok();

    let stat = node.warren(["stat", &id, "--json"]).json();

    assert_eq!(stat["title"], "Runbook, third edition");
    assert_eq!(stat["tags"], serde_json::json!(["night shift", "ops"]));
    assert_eq!(stat["source_type"], "wiki");
    assert_eq!(stat["size"], 7);
    assert_eq!(stat["signed_by"], node.peer_id.as_str());
    let instant = |field: &str| {
        let text = stat[field].as_str().unwrap();
        text.parse::<jiff::Timestamp>().unwrap().as_second()
    };
    assert_eq!(instant("expires_at") - instant("created_at"), 30 * 86_400);
}

#[test]
fn given_a_tag_with_a_comma_when_put_then_it_is_refused_rather_than_cut_in_two() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let refusal = node
        .invocation()
        .args(["put", "-", "--tag", "red,blue"])
        .input(b"x")
        .run();

    assert_ne!(refusal.code, Some(0));
    assert!(refusal.stderr.contains("red,blue"), "{}", refusal.stderr);
}

#[test]
fn given_documents_when_listed_by_tag_then_only_those_are_shown_newest_first() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let put = |text: &str, tag: &str| {
        let arguments = ["put", "-", "--tag", tag];
        node.invocation()
            .args(arguments)
            .input(text.as_bytes())
            .run()
            .ok()
    };
    let (first, _, third) = (put("1", "ops"), put("2", "dev"), put("3", "ops"));

    let listed = node.warren(["ls", "--tag", "ops", "--json"]).json();

    let ids: Vec<&str> = listed["documents"]
        .as_array()
        .unwrap()
        .iter()
        .map(|document| document["id"].as_str().unwrap())
        .collect();
    assert_eq!(ids, [third.as_str(), first.as_str()]);
    assert_eq!(listed["total"], 2);
}

#[test]
fn given_a_removed_document_when_listed_then_it_is_gone_here_and_stays_elsewhere() {
    let pair = Pair::new();
    let (id, bytes) = pair.first.put_noise(4, 100_000);
    pair.second.content(&id).ok();

    pair.first.warren(["rm", &id]).ok();

    assert_eq!(pair.first.warren(["ls"]).ok(), "");
    pair.first.warren(["stat", &id]).failed();
    pair.first.warren(["rm", &id]).failed();
    assert!(pair.second.content(&id).bytes() == bytes);
}

#[test]
fn given_a_removed_document_when_garbage_is_collected_then_the_space_comes_back() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let (id, _) = node.put_noise(5, 8 << 20);
    node.warren(["rm", &id]).ok();

    let collected = node.warren(["store", "gc", "--json"]).json();

    assert!(
        collected["bytes"].as_u64().unwrap() >= 8 << 20,
        "{collected}"
    );
    let status = node.warren(["status", "--json"]).json();
    assert!(
        status["storage"]["used_bytes"].as_u64().unwrap() < 1 << 20,
        "{status}"
    );
}

#[test]
fn given_a_document_whose_retention_has_ended_when_time_passes_then_it_is_dropped() {
    let organization = Organization::new();
    let node = Node::start(&organization.planned(
        "node-1",
        Plan {
            storage: ", gc: {interval: 10s}".to_owned(),
            ..Plan::default()
        },
    ));
    let arguments = ["put", "-", "--retention", "1s"];
    node.invocation()
        .args(arguments)
        .input(b"soon gone")
        .run()
        .ok();

    eventually("the document is gone", || {
        node.warren(["ls"]).ok().is_empty().then_some(())
    });
}

#[test]
fn given_a_file_in_the_way_when_got_then_it_stays_unless_forced() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let id = node.put(b"new");
    let path = organization.folder().join("out.txt");
    std::fs::write(&path, "old").unwrap();
    let out = path.to_str().unwrap();

    let refusal = node.warren(["get", &id, "-o", out]).failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(std::fs::read(&path).unwrap(), b"old");
    node.warren(["get", &id, "-o", out, "--force"]).ok();
    assert_eq!(std::fs::read(&path).unwrap(), b"new");
}

#[test]
fn given_pipes_when_put_and_got_then_no_progress_is_shown_and_a_put_says_who_may_read() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let put = node.invocation().args(["put", "-"]).input(b"quiet").run();
    let got = node.content(&put.ok());

    assert_eq!(
        put.stderr,
        "stored 5 B; every member of the organisation may read it until access control is built\n"
    );
    assert_eq!(got.stderr, "");
    assert_eq!(got.bytes(), b"quiet");
}

#[test]
fn given_the_api_and_token_named_when_called_without_a_configuration_then_it_works() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let token = node.path("data/admin.token");

    let status = Invocation::warren()
        .args([
            "--api",
            &format!("http://{}", node.api()),
            "--token-file",
            token.to_str().unwrap(),
            "status",
            "--json",
        ])
        .run()
        .json();

    assert_eq!(status["peer_id"], node.peer_id.as_str());
}

#[test]
fn given_no_node_when_asked_then_the_message_says_how_to_start_one() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    Node::start(&home).stop();

    let refusal = home.warren(["ls"]).failed();

    assert!(refusal.contains("warren start"), "{refusal}");
}

#[test]
fn given_a_source_or_target_that_fails_when_copied_then_that_is_named_and_not_the_node() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let id = node.put(b"some bytes");

    let unreadable = node.warren(["put", "/proc/self/mem"]).failed();
    // Written by a shell: the test's own standard output is a file.
    let script = format!(
        "'{}' --config '{}' get {id} > /dev/full",
        crate::support::binary().to_str().unwrap(),
        node.config.display()
    );
    let full = crate::support::tool("sh", &node.folder, ["-c", &script]).failed();

    assert!(
        unreadable.contains("cannot read /proc/self/mem"),
        "{unreadable}"
    );
    assert!(full.contains("cannot write to standard output"), "{full}");
}

#[test]
fn given_a_device_when_put_then_it_gives_no_title() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let id = node.warren(["put", "/dev/null"]).ok();

    assert_eq!(node.warren(["stat", &id, "--json"]).json()["title"], "");
}
