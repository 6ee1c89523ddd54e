//! Nodes that find each other, speak of themselves, leave, fail and come back, over real sockets of loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::time::SystemTime;

use support::{Organization, TestNode, all_meet, config, eventually};
use warren_cluster::{
    Cluster, ClusterState, DEFAULT_MAX_AGE, JoinError, Proof, Registry, State, TagError, TagFilter,
};
use warren_identity::{CrlRequest, NodeKey, RevokedSerial, Trust, UnixTime};
use warren_telemetry::Metrics;

#[test]
fn given_one_seed_when_three_nodes_start_then_each_lists_all_three() {
    let organization = Organization::new("org_find");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    let third = organization.node(&[], &[first.address()]);

    eventually("everyone knows everyone", || {
        all_meet(&[&first, &second, &third])
    });

    assert!(first.node(&first.id()).unwrap().is_self);
    assert_eq!(first.node(&third.id()).unwrap().address, third.address());
}

#[test]
fn given_a_node_that_is_killed_when_time_passes_then_it_failed_everywhere() {
    let organization = Organization::new("org_kill");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    let third = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || {
        all_meet(&[&first, &second, &third])
    });

    let killed = third.id();
    third.kill();

    eventually("it failed for both", || {
        [&first, &second]
            .iter()
            .all(|node| node.state(&killed) == Some(State::Failed))
    });
    assert_eq!(first.cluster.node_count(), 2);
    assert_eq!(first.metric("warren_cluster_failures_total", ""), 1.0);
}

#[test]
fn given_a_node_that_leaves_when_it_is_gone_then_it_left_everywhere_and_never_failed() {
    let organization = Organization::new("org_leave");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    let third = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || {
        all_meet(&[&first, &second, &third])
    });

    futures::executor::block_on(third.cluster.leave());

    let left = third.id();
    eventually("it left for both", || {
        [&first, &second]
            .iter()
            .all(|node| node.state(&left) == Some(State::Left))
    });
    assert_eq!(first.metric("warren_cluster_failures_total", ""), 0.0);
    assert_eq!(third.state(&left), Some(State::Left));
    let too_late = third.cluster.set_tag("zone", "a");
    assert_eq!(too_late, Err(TagError::HasLeft("zone".into())));
}

#[test]
fn given_tags_when_set_and_removed_then_every_node_sees_it() {
    let organization = Organization::new("org_tags");
    let first = organization.node(&[], &[]);
    let tagged = config(&[first.address()]).with_tag("zone", "a");
    let second = TestNode::start(organization.member(&[]), tagged);
    let sees = |key: &str, value: Option<&str>| {
        let node = first.node(&second.id());
        node.is_some_and(|node| node.tags.get(key).map(String::as_str) == value)
    };

    second.cluster.set_tag("id", "4711").unwrap();
    eventually("both tags are seen", || {
        sees("id", Some("4711")) && sees("zone", Some("a"))
    });

    assert!(second.cluster.remove_tag("zone"));
    eventually("the removed tag is gone", || sees("zone", None));
    assert!(!second.cluster.remove_tag("zone"));
}

#[test]
fn given_roles_when_claimed_then_only_those_with_the_capability_are_proven_and_counted() {
    let organization = Organization::new("org_roles");
    let director = organization.node(&["director"], &[]);
    let as_worker = || config(&[director.address()]).with_tag("role", "worker");
    let worker = TestNode::start(organization.member(&["worker"]), as_worker());
    let liar = TestNode::start(organization.member(&[]), as_worker());
    eventually("everyone knows everyone", || {
        all_meet(&[&director, &worker, &liar])
    });

    let counted = |worker_count, healthy_count| Registry {
        worker_count,
        healthy_count,
    };
    for node in [&director, &worker, &liar] {
        eventually("one worker is counted", || {
            node.cluster.registry() == counted(1, 1)
        });
    }
    let workers = director
        .cluster
        .members_with(&TagFilter::tag("role", "worker"));
    assert_eq!(workers.len(), 1);
    assert_eq!(workers[0].peer_id, worker.id());
    let claimed = director.node(&liar.id()).unwrap();
    assert_eq!(claimed.roles[0].proof, Proof::Unproven);
    assert_eq!(director.metric("warren_cluster_healthy_workers", ""), 1.0);

    worker.cluster.set_tag("ready", "false").unwrap();
    eventually("the worker is not healthy", || {
        director.cluster.registry() == counted(1, 0)
    });
}

#[test]
fn given_a_new_leaf_with_a_capability_when_it_is_in_place_then_the_role_is_proven_without_a_restart()
 {
    let organization = Organization::new("org_renewal");
    let first = organization.node(&[], &[]);
    let as_worker = config(&[first.address()]).with_tag("role", "worker");
    let second = TestNode::start(organization.member(&[]), as_worker);
    eventually("everyone knows everyone", || all_meet(&[&first, &second]));
    assert!(!first.node(&second.id()).unwrap().has_role("worker"));

    let day = std::time::Duration::from_secs(24 * 3_600);
    organization.issue(&second.trust, &["worker"], day);

    eventually("the role is proven", || {
        first.node(&second.id()).unwrap().has_role("worker")
    });
}

#[test]
fn given_a_stranger_of_another_ca_when_it_dials_then_it_learns_nothing_and_changes_nothing() {
    let organization = Organization::new("org_home");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || all_meet(&[&first, &second]));
    // It even calls itself by the same name.
    let stranger = Organization::new("org_home").node(&[], &[first.address(), second.address()]);

    eventually("it is refused over both paths", || {
        first.metric("warren_cluster_handshakes_refused_total", "") >= 2.0
    });

    assert_eq!(stranger.cluster.node_count(), 1);
    assert!(first.node(&stranger.id()).is_none());
    assert!(all_meet(&[&first, &second]));
}

#[test]
fn given_garbage_and_callers_that_say_nothing_when_they_flood_then_members_still_meet() {
    let organization = Organization::new("org_flood");
    let first = organization.node(&[], &[]);
    let udp = UdpSocket::bind("127.0.0.1:0").unwrap();
    let mut silent = Vec::new();
    for number in 0..400_u32 {
        let garbage: Vec<u8> = (0..1_200_u32).map(|i| (i * number) as u8).collect();
        udp.send_to(&garbage, first.address()).unwrap();
        silent.extend(TcpStream::connect(first.address()));
    }

    let second = organization.node(&[], &[first.address()]);

    eventually("everyone knows everyone", || all_meet(&[&first, &second]));
    assert!(first.metric("warren_cluster_handshakes_refused_total", "rate") > 0.0);
}

/// A port on which UDP is taken and never answered, and TCP goes on to wherever it is told.
struct TcpOnly {
    address: SocketAddr,
    listener: TcpListener,
    _silent: UdpSocket,
}

impl TcpOnly {
    fn new() -> Self {
        loop {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let address = listener.local_addr().unwrap();
            match UdpSocket::bind(address) {
                Ok(silent) => {
                    return Self {
                        address,
                        listener,
                        _silent: silent,
                    };
                }
                Err(error) => assert_eq!(error.kind(), ErrorKind::AddrInUse),
            }
        }
    }

    fn forward(self, to: SocketAddr) {
        std::thread::spawn(move || {
            for stream in self.listener.incoming() {
                let (Ok(near), Ok(far)) = (stream, TcpStream::connect(to)) else {
                    continue;
                };
                for (mut from, mut to) in [
                    (near.try_clone().unwrap(), far.try_clone().unwrap()),
                    (far, near),
                ] {
                    std::thread::spawn(move || {
                        let mut buffer = [0; 16 * 1024];
                        while let Ok(count @ 1..) = from.read(&mut buffer) {
                            if to.write_all(&buffer[..count]).is_err() {
                                break;
                            }
                        }
                        let _ = to.shutdown(std::net::Shutdown::Both);
                    });
                }
            }
        });
    }
}

#[test]
fn given_nodes_whose_udp_is_not_answered_when_they_start_then_they_meet_by_tcp_and_stay() {
    let organization = Organization::new("org_tcp");
    let (front, back) = (TcpOnly::new(), TcpOnly::new());
    let (front_address, back_address) = (front.address, back.address);
    let first = TestNode::start(
        organization.member(&[]),
        config(&[]).with_advertise_addr(front_address),
    );
    front.forward(first.address());
    let second = TestNode::start(
        organization.member(&[]),
        config(&[front_address]).with_advertise_addr(back_address),
    );
    back.forward(second.address());

    eventually("everyone knows everyone", || all_meet(&[&first, &second]));

    assert_eq!(first.metric("warren_cluster_links", "quic"), 0.0);
    first.cluster.set_tag("zone", "a").unwrap();
    eventually("a tag came by TCP", || {
        let seen = second.node(&first.id());
        seen.is_some_and(|seen| seen.tags.contains_key("zone"))
    });
    assert!(second.metric("warren_cluster_gossip_bytes_total", "path=\"tcp\"") > 0.0);
}

#[test]
fn given_a_node_that_starts_again_at_once_when_it_is_back_then_it_has_a_higher_incarnation() {
    let organization = Organization::new("org_restart");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    let third = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || {
        all_meet(&[&first, &second, &third])
    });
    let (id, address) = (third.id(), third.address());
    let before = first.node(&id).unwrap().incarnation;

    let trust = third.kill();
    let free = || {
        let udp = UdpSocket::bind(address).is_ok();
        udp && TcpListener::bind(address).is_ok()
    };
    eventually("its port is free", free);
    let again = config(&[first.address()]).with_bind_addr(address);
    let third = TestNode::start(trust, again);

    eventually("everyone knows everyone again", || {
        let is_newer =
            |node: &TestNode| node.node(&id).is_some_and(|seen| seen.incarnation > before);
        all_meet(&[&first, &second, &third]) && is_newer(&first) && is_newer(&second)
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn given_a_node_that_left_when_it_joins_again_at_the_same_address_then_it_is_alive() {
    let organization = Organization::new("org_return");
    let first = organization.node(&[], &[]);
    let trust = organization.member(&[]);
    let cluster = join(trust.clone(), config(&[first.address()])).unwrap();
    let (id, address) = (cluster.peer_id(), cluster.local_address());
    let is = |state| {
        tokio::task::block_in_place(|| {
            eventually("it is seen so", || first.state(&id) == Some(state));
        });
    };
    is(State::Alive);
    cluster.leave().await;
    is(State::Left);

    let mut again = None;
    let settings = || config(&[first.address()]).with_bind_addr(address);
    tokio::task::block_in_place(|| {
        eventually("the port is free again", || {
            again = join(trust.clone(), settings()).ok();
            again.is_some()
        });
    });

    is(State::Alive);
}

#[test]
fn given_a_backup_when_all_seeds_are_gone_then_a_new_node_and_the_rest_form_a_cluster_again() {
    let organization = Organization::new("org_backup");
    let seed = organization.node(&[], &[]);
    let second = organization.node(&[], &[seed.address()]);
    let third = organization.node(&[], &[seed.address()]);
    let failed = organization.node(&[], &[seed.address()]);
    eventually("everyone knows everyone", || {
        all_meet(&[&seed, &second, &third, &failed])
    });
    let gone = failed.id();
    failed.kill();
    eventually("one failed", || seed.state(&gone) == Some(State::Failed));
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cluster_state.json");
    seed.cluster.state().write(&path).unwrap();
    let old_seed = seed.id();
    seed.kill();

    let fresh = organization.node(&[], &[]);
    let state = ClusterState::read(&path).unwrap();
    let seeds = state.seeds(SystemTime::now(), DEFAULT_MAX_AGE);
    assert_eq!(seeds.len(), 3, "the failed one is dropped");
    futures::executor::block_on(fresh.cluster.contact(seeds));

    let met = || {
        [&fresh, &second, &third].iter().all(|node| {
            [fresh.id(), second.id(), third.id()]
                .iter()
                .all(|id| node.state(id) == Some(State::Alive))
        })
    };
    eventually("the rest and the new node know each other", met);
    eventually("the old seed failed", || {
        second.state(&old_seed) == Some(State::Failed)
    });
}

#[test]
fn given_a_revoked_member_when_the_list_comes_then_it_is_removed_and_stays_out() {
    let organization = Organization::new("org_revoke");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    let revoked = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || {
        all_meet(&[&first, &second, &revoked])
    });

    let list = revocation_of(&organization, &revoked.trust);
    for node in [&first, &second] {
        node.trust.merge_revocations(&list).unwrap();
    }

    eventually("it is removed by both", || {
        [&first, &second].iter().all(|node| {
            let is_gone = node.node(&revoked.id()).is_none();
            is_gone && node.metric("warren_cluster_handshakes_refused_total", "revoked") > 0.0
        })
    });
    eventually("it is alone", || revoked.cluster.node_count() == 1);
    assert!(first.node(&revoked.id()).is_none());
    assert!(all_meet(&[&first, &second]));
}

fn revocation_of(organization: &Organization, trust: &Trust) -> Vec<u8> {
    let request = CrlRequest {
        number: 1,
        this_update: UnixTime::now(),
        next_update: UnixTime::since_unix_epoch(std::time::Duration::from_secs(
            UnixTime::now().as_secs() + 3_600,
        )),
        revoked: vec![RevokedSerial::peer(&trust.peer_id(), UnixTime::now())],
    };
    organization.ca.sign_crl(&request).unwrap()
}

#[test]
fn given_a_leaf_that_ends_when_it_has_ended_then_the_session_ends() {
    let organization = Organization::new("org_expiry");
    let first = organization.node(&[], &[]);
    let mortal = organization.member(&[]);
    organization.issue(&mortal, &[], std::time::Duration::from_secs(4));
    let mortal = TestNode::start(mortal, config(&[first.address()]));
    eventually("everyone knows everyone", || all_meet(&[&first, &mortal]));

    eventually("it is no member any more", || {
        first.node(&mortal.id()).is_none()
    });
    assert!(first.metric("warren_cluster_handshakes_refused_total", "expired") > 0.0);
}

fn join(trust: Trust, config: warren_cluster::ClusterConfig) -> Result<Cluster, JoinError> {
    Cluster::join(trust, config, &Metrics::new())
}

#[tokio::test]
async fn given_what_cannot_work_when_joined_then_the_error_says_what_and_nothing_runs() {
    let organization = Organization::new("org_errors");
    let taken = UdpSocket::bind("127.0.0.1:0").unwrap();
    let no_leaf = Trust::new(
        NodeKey::from_seed(support::fresh()),
        organization.ca.roots().clone(),
    );
    let member = || organization.member(&[]);

    assert!(matches!(join(no_leaf, config(&[])), Err(JoinError::NoLeaf)));
    let bad_seed = config(&[]).with_seeds(["http://somewhere:1"]);
    assert!(matches!(join(member(), bad_seed), Err(JoinError::Seed(_))));
    let bad_tag = config(&[]).with_tag("Role", "worker");
    assert!(matches!(join(member(), bad_tag), Err(JoinError::Tag(_))));
    let bad_bind = config(&[]).with_bind_addr(taken.local_addr().unwrap());
    assert!(matches!(
        join(member(), bad_bind),
        Err(JoinError::Bind { .. })
    ));
}
