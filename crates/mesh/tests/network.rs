//! What members do together: gossip, lookups, requests, streams, relaying.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::multiaddr::Protocol;
use support::{DEADLINE, Organization, TestNode, eventually};
use warren_identity::NodeKey;
use warren_mesh::{
    BLOCKS_PROTOCOL, DhtError, DhtMode, MeshEvent, MessageType, Multiaddr, OpenStreamError,
    Presence, PublishError, Reachability, RelayClient, RelayServerConfig, RequestError,
    RequestRate, SyncRequest, SyncResponse,
};

/// Nodes in a line, each connected to the next only.
async fn line(acme: &Organization, count: usize, topic: &str) -> Vec<TestNode> {
    let mut nodes: Vec<TestNode> = Vec::new();
    for _ in 0..count {
        let node = acme
            .node_with(|config| {
                config.limits.wanted_members = 0;
                config.gossip.as_mut().unwrap().topics = vec![topic.to_owned()];
            })
            .await;
        if let Some(last) = nodes.last() {
            node.connect(last).await;
        }
        nodes.push(node);
    }
    nodes
}

#[tokio::test]
async fn given_ten_nodes_in_a_line_when_one_publishes_then_all_others_receive_it_once_signed() {
    let acme = Organization::new("org_acme");
    let mut nodes = line(&acme, 10, "warren.global").await;
    for node in &nodes {
        eventually("every node has gossip neighbours", async || {
            !node.mesh.gossip_mesh("warren.global").await.is_empty()
        })
        .await;
    }
    let source = nodes[0].id();
    nodes[0]
        .mesh
        .publish("warren.global", b"hello".to_vec())
        .await
        .unwrap();
    for node in &mut nodes[1..] {
        let got = node
            .event("gossip", |event| match event {
                MeshEvent::Gossip {
                    topic,
                    source,
                    data,
                } => Some((topic, source, data.to_vec())),
                _ => None,
            })
            .await;
        assert_eq!(got, ("warren.global".to_owned(), source, b"hello".to_vec()));
    }
}

#[tokio::test]
async fn given_twenty_nodes_when_gossip_settles_then_each_mesh_has_four_to_twelve_peers_and_a_message_reaches_all()
 {
    const TOPIC: &str = "warren.global";
    let acme = Organization::new("org_acme");
    let mut nodes: Vec<TestNode> = Vec::new();
    for _ in 0..20 {
        let topics = |config: &mut warren_mesh::MeshConfig| {
            config.gossip.as_mut().unwrap().topics = vec![TOPIC.to_owned()];
        };
        let node = acme.node_with(topics).await;
        if let Some(first) = nodes.first() {
            node.connect(first).await;
        }
        nodes.push(node);
    }
    for node in &nodes {
        eventually("its meshes have four to twelve peers", async || {
            let meshes = node.mesh.gossip_meshes().await;
            meshes.len() == 2 && meshes.values().all(|peers| (4..=12).contains(peers))
        })
        .await;
    }
    let source = nodes[7].id();
    let sent = nodes[7].mesh.publish(TOPIC, b"hello".to_vec()).await;
    sent.unwrap();
    for node in nodes.iter_mut().filter(|node| node.id() != source) {
        let from = node
            .event("gossip", |event| match event {
                MeshEvent::Gossip { source, .. } => Some(source),
                _ => None,
            })
            .await;
        assert_eq!(from, source);
    }
    let gauge = format!("warren_network_gossip_mesh_peers{{topic=\"{TOPIC}\"}}");
    assert!((4..=12).contains(&nodes[0].counter(&gauge)));
}

#[tokio::test]
async fn given_a_signer_that_floods_when_its_share_is_used_up_then_no_more_of_it_is_passed_on_and_others_are()
 {
    const TOPIC: &str = "warren.global";
    const SHARE: usize = 3;
    let acme = Organization::new("org_acme");
    let node = async |burst: f64| {
        acme.node_with(|config| {
            config.limits.wanted_members = 0;
            config.limits.gossip = RequestRate {
                per_second: 0.0,
                burst,
            };
            config.gossip.as_mut().unwrap().topics = vec![TOPIC.to_owned()];
        })
        .await
    };
    // The announcements at connect are counted too where they are news; these two know each other by admission.
    let (flooder, middle, mut last) = (node(1e6).await, node(SHARE as f64).await, node(1e6).await);
    flooder.connect(&middle).await;
    last.connect(&middle).await;
    for node in [&flooder, &last] {
        eventually("it has a gossip neighbour", async || {
            !node.mesh.gossip_mesh(TOPIC).await.is_empty()
        })
        .await;
    }
    eventually("the middle has both", async || {
        middle.mesh.gossip_mesh(TOPIC).await.len() == 2
    })
    .await;
    let limited = "warren_network_gossip_messages_total{result=\"limited\"}";
    for number in 0..10_u8 {
        flooder.mesh.publish(TOPIC, vec![number]).await.unwrap();
    }
    eventually("the middle has dropped what was too much", async || {
        middle.counter(limited) >= 10 - SHARE as u64
    })
    .await;
    middle.mesh.publish(TOPIC, b"mine".to_vec()).await.unwrap();
    let mut passed_on = 0;
    loop {
        let (source, data) = last
            .event("gossip", |event| match event {
                MeshEvent::Gossip { source, data, .. } => Some((source, data)),
                _ => None,
            })
            .await;
        if source == middle.id() {
            assert_eq!(&*data, b"mine");
            break;
        }
        passed_on += 1;
    }
    assert!(passed_on <= SHARE, "{passed_on} were passed on");
    last.mesh.publish(TOPIC, b"other".to_vec()).await.unwrap();
    let mut middle = middle;
    let other = middle
        .event("gossip of the other", |event| match event {
            MeshEvent::Gossip { source, .. } if source != flooder.id() => Some(source),
            _ => None,
        })
        .await;
    assert_eq!(other, last.id());
}

#[tokio::test]
async fn given_a_member_that_is_gone_when_dials_fail_then_it_is_unreachable_until_it_is_back() {
    let acme = Organization::new("org_acme");
    let (node, other) = (acme.node().await, acme.node().await);
    let presence = async || node.mesh.members().await[0].presence;
    node.connect(&other).await;
    assert_eq!(presence().await, Presence::Connected);
    let (trust, address) = (other.trust.clone(), other.address("/tcp/").await);
    other.mesh.shutdown().await;
    eventually("nobody answers there", async || {
        presence().await == Presence::Unreachable
    })
    .await;
    let port: Multiaddr = address.iter().take(2).collect();
    let back = TestNode::start(trust, |config| config.listen_addresses = vec![port]).await;
    back.connect(&node).await;
    assert_eq!(presence().await, Presence::Connected);
}

#[tokio::test]
async fn given_a_line_of_nodes_when_the_first_takes_a_revocation_then_the_last_refuses_the_peer() {
    let acme = Organization::new("org_acme");
    let nodes = line(&acme, 5, "warren.global").await;
    let revoked = acme.node().await;
    let list = acme.revoke(7, &[revoked.id()]);
    for node in &nodes {
        eventually("every node has gossip neighbours", async || {
            !node
                .mesh
                .gossip_mesh("warren.mesh.org_acme")
                .await
                .is_empty()
        })
        .await;
    }
    nodes[0].trust.merge_revocations(&list).unwrap();
    let last = nodes.last().unwrap();
    eventually("the list reaches the last node", async || {
        last.trust.revocations().highest_number() == 7
    })
    .await;
    assert!(
        revoked
            .mesh
            .connect(last.address("/tcp/").await)
            .await
            .is_err()
    );
}

#[tokio::test]
async fn given_members_without_gossip_when_one_takes_a_revocation_then_a_live_session_brings_it_over()
 {
    let acme = Organization::new("org_acme");
    let quiet = |config: &mut warren_mesh::MeshConfig| {
        config.gossip = None;
        config.compare_lists_interval = Duration::from_millis(100);
    };
    let (a, b) = (acme.node_with(quiet).await, acme.node_with(quiet).await);
    a.connect(&b).await;
    let list = acme.revoke(5, &[NodeKey::from_seed([9; 32]).peer_id()]);
    a.trust.merge_revocations(&list).unwrap();
    eventually("the list comes over", async || {
        b.trust.revocations().highest_number() == 5
    })
    .await;
}

#[tokio::test]
async fn given_a_node_behind_on_revocations_when_it_connects_then_it_fetches_the_list() {
    let acme = Organization::new("org_acme");
    let (ahead, behind) = (acme.node().await, acme.node().await);
    let other = acme.node().await;
    ahead
        .trust
        .merge_revocations(&acme.revoke(3, &[other.id()]))
        .unwrap();
    behind.connect(&ahead).await;
    eventually("the list is fetched", async || {
        behind.trust.revocations().highest_number() == 3
    })
    .await;
}

#[tokio::test]
async fn given_three_members_that_know_one_when_joined_then_all_know_and_connect_to_all() {
    let acme = Organization::new("org_acme");
    let hub = acme.node().await;
    let nodes = [acme.node().await, acme.node().await, acme.node().await];
    for node in &nodes {
        node.connect(&hub).await;
    }
    for node in &nodes {
        eventually("it is connected to all three others", async || {
            node.mesh.peers().await.len() == 3
        })
        .await;
        assert_eq!(node.mesh.members().await.len(), 3);
    }
}

#[tokio::test]
async fn given_a_provider_two_hops_away_when_looked_up_then_it_is_found_and_can_be_dialled() {
    let acme = Organization::new("org_acme");
    let apart = |config: &mut warren_mesh::MeshConfig| config.limits.wanted_members = 0;
    let hub = acme.node_with(apart).await;
    let (provider, seeker) = (acme.node_with(apart).await, acme.node_with(apart).await);
    provider.connect(&hub).await;
    seeker.connect(&hub).await;
    for node in [&provider, &seeker] {
        eventually("the hub is in the routing table", async || {
            !node.mesh.routing_table().await.is_empty()
        })
        .await;
    }
    eventually("the announcement is placed", async || {
        provider.mesh.provide(b"document".to_vec()).await.is_ok()
    })
    .await;
    eventually("the provider is found", async || {
        seeker
            .mesh
            .find_providers(b"document".to_vec())
            .await
            .unwrap()
            == [provider.id()]
    })
    .await;
    let addresses = seeker.mesh.find_peer(provider.id()).await.unwrap();
    assert!(!addresses.is_empty());
}

#[tokio::test]
async fn given_nobody_provides_it_when_looked_up_then_the_answer_is_empty_and_in_time() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    a.connect(&b).await;
    let found = tokio::time::timeout(DEADLINE, a.mesh.find_providers(b"nothing".to_vec()))
        .await
        .unwrap();
    assert!(found.unwrap().is_empty());
}

#[tokio::test]
async fn given_a_client_of_the_table_when_connected_then_it_enters_nobodys_table() {
    let acme = Organization::new("org_acme");
    let server = acme.node().await;
    let client = acme
        .node_with(|config| config.dht.as_mut().unwrap().mode = DhtMode::Client)
        .await;
    client.connect(&server).await;
    eventually("the client knows the server", async || {
        !client.mesh.routing_table().await.is_empty()
    })
    .await;
    eventually("the server has identified the client", async || {
        server
            .mesh
            .peers()
            .await
            .iter()
            .any(|peer| peer.agent.is_some())
    })
    .await;
    assert!(server.mesh.routing_table().await.is_empty());
}

#[tokio::test]
async fn given_no_dht_when_asked_then_the_error_names_the_switch() {
    let a = Organization::new("org_acme")
        .node_with(|config| config.dht = None)
        .await;
    let error = a.mesh.find_providers(b"x".to_vec()).await.unwrap_err();
    assert!(matches!(error, DhtError::Disabled));
}

#[tokio::test]
async fn given_a_have_query_when_the_daemon_answers_then_the_asker_gets_it_in_order() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    a.connect(&b).await;
    let mut queries = b.mesh.have_queries().unwrap();
    let answering = tokio::spawn(async move {
        let query = queries.recv().await.unwrap();
        let held = query
            .documents
            .iter()
            .map(|id| id.starts_with("held"))
            .collect();
        query.answer.send(held).unwrap();
        query.peer
    });
    let documents = vec![
        "held-1".to_owned(),
        "missing".to_owned(),
        "held-2".to_owned(),
    ];
    let response = a
        .mesh
        .request(b.id(), SyncRequest::Have { documents })
        .await
        .unwrap();
    assert!(matches!(response, SyncResponse::Have(held) if held == [true, false, true]));
    assert_eq!(answering.await.unwrap(), a.id());
}

#[tokio::test]
async fn given_nobody_serves_queries_when_asked_then_the_answer_is_an_error_not_a_hang() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    a.connect(&b).await;
    drop(b.mesh.have_queries());
    let outcome = a
        .mesh
        .request(
            b.id(),
            SyncRequest::Have {
                documents: vec!["x".into()],
            },
        )
        .await;
    assert!(
        matches!(outcome, Err(RequestError::Refused { .. })),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn given_a_peer_that_asks_without_end_when_over_its_rate_then_it_is_told_and_then_banned() {
    let acme = Organization::new("org_acme");
    let rate = RequestRate {
        per_second: 0.001,
        burst: 20.0,
    };
    let mut b = acme.node_with(|config| config.limits.requests = rate).await;
    let a = acme.node().await;
    a.connect(&b).await;
    let mut told = 0;
    for _ in 0..400 {
        match a.mesh.request(b.id(), SyncRequest::Members).await {
            Ok(_) => {}
            Err(RequestError::Refused { reason, .. }) => {
                assert!(reason.contains("too many requests"), "{reason}");
                told += 1;
            }
            Err(_) => break,
        }
    }
    assert!(told > 50, "told {told} times");
    let reason = b
        .event("disconnection", |event| match event {
            MeshEvent::PeerDisconnected { reason, .. } => Some(reason),
            _ => None,
        })
        .await;
    assert_eq!(reason.as_str(), "misbehaved");
    assert!(a.mesh.connect(b.address("/tcp/").await).await.is_err());
    assert_eq!(b.refused("banned"), 1);
}

#[tokio::test]
async fn given_forty_streams_at_once_when_opened_then_each_carries_its_own_bytes() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    let mut incoming = b.mesh.accept_streams(BLOCKS_PROTOCOL).unwrap();
    assert!(b.mesh.accept_streams(BLOCKS_PROTOCOL).is_none());
    a.connect(&b).await;
    let a_id = a.id();
    tokio::spawn(async move {
        while let Some(mut accepted) = incoming.recv().await {
            assert_eq!(accepted.peer, a_id);
            tokio::spawn(async move {
                let mut bytes = Vec::new();
                accepted.stream.read_to_end(&mut bytes).await.unwrap();
                accepted.stream.write_all(&bytes).await.unwrap();
                accepted.stream.close().await.unwrap();
            });
        }
    });
    let echoes = (0..40u8).map(|n| {
        let (mesh, peer) = (a.mesh.clone(), b.id());
        async move {
            let mut stream = mesh.open_stream(peer, BLOCKS_PROTOCOL).await.unwrap();
            stream.write_all(&[n; 50_000]).await.unwrap();
            stream.close().await.unwrap();
            let mut back = Vec::new();
            stream.read_to_end(&mut back).await.unwrap();
            assert_eq!(back, [n; 50_000]);
        }
    });
    tokio::time::timeout(DEADLINE, futures::future::join_all(echoes))
        .await
        .unwrap();
    let counted = a.mesh.bandwidth()[&(Some(b.id()), MessageType::Blocks)];
    assert!(
        counted.sent >= 2_000_000 && counted.sent < 2_100_000,
        "{counted:?}"
    );
    assert!(
        counted.received >= 2_000_000 && counted.received < 2_100_000,
        "{counted:?}"
    );
    let series = format!(
        "warren_network_bytes_sent_total{{peer_id=\"{}\",message_type=\"blocks\"}}",
        b.id()
    );
    assert_eq!(a.counter(&series), counted.sent);
}

#[tokio::test]
async fn given_a_peer_that_does_not_accept_when_a_stream_is_opened_then_the_error_says_so() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    let error = a
        .mesh
        .open_stream(b.id(), BLOCKS_PROTOCOL)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenStreamError::NotConnected(_)),
        "{error:?}"
    );
    a.connect(&b).await;
    let error = a
        .mesh
        .open_stream(b.id(), BLOCKS_PROTOCOL)
        .await
        .unwrap_err();
    assert!(
        matches!(error, OpenStreamError::Unsupported { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn given_messages_that_cannot_be_published_when_tried_then_each_error_is_its_own() {
    let acme = Organization::new("org_acme");
    let nodes = line(&acme, 2, "warren.global").await;
    let publish =
        async |topic: &str, bytes: usize| nodes[0].mesh.publish(topic, vec![1; bytes]).await;
    assert!(matches!(
        publish("warren.other", 1).await,
        Err(PublishError::UnknownTopic(_))
    ));
    eventually("there is a neighbour", async || {
        !nodes[0].mesh.gossip_mesh("warren.global").await.is_empty()
    })
    .await;
    let error = publish("warren.global", 70_000).await.unwrap_err();
    assert!(
        matches!(
            error,
            PublishError::TooLong {
                bytes: 70_000,
                limit: 65_536
            }
        ),
        "{error:?}"
    );
}

#[tokio::test]
async fn given_two_connected_members_when_time_passes_then_latency_and_peers_are_measured() {
    let acme = Organization::new("org_acme");
    let a = acme
        .node_with(|config| config.ping_interval = Duration::from_millis(100))
        .await;
    let b = acme.node().await;
    a.connect(&b).await;
    eventually("latency is known", async || {
        a.mesh.peers().await[0].latency.is_some()
    })
    .await;
    let peers = "warren_network_peers_total{organization=\"org_acme\",region=\"here\"}";
    assert_eq!(a.counter(peers), 1);
    let pings = format!(
        "warren_network_latency_seconds_count{{peer_id=\"{}\",message_type=\"ping\"}}",
        b.id()
    );
    assert!(a.counter(&pings) >= 1);
    b.mesh.shutdown().await;
    eventually("nobody is connected", async || a.counter(peers) == 0).await;
}

#[tokio::test]
async fn given_members_that_test_each_other_when_reachable_then_the_status_is_public() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    a.connect(&b).await;
    eventually("a is known to be reachable", async || {
        a.mesh.nat_status().await.reachability == Reachability::Public
    })
    .await;
}

#[tokio::test]
async fn given_two_members_that_only_reach_a_relay_when_they_connect_then_requests_pass_through_it()
{
    let acme = Organization::new("org_acme");
    let relay = acme
        .node_with(|config| {
            config.relay.server = Some(RelayServerConfig::default());
            config.limits.wanted_members = 0;
        })
        .await;
    let relay_address = relay.address("/tcp/").await;
    let hidden = acme
        .node_with(|config| {
            config.listen_addresses.clear();
            config.limits.wanted_members = 0;
            config.hole_punching = false;
            config.relay.client = RelayClient::Always;
            config.relay.relays = vec![relay_address.clone()];
        })
        .await;
    eventually("the relay holds a slot", async || {
        hidden.mesh.nat_status().await.relays == [relay.id()]
    })
    .await;
    let seeker = acme
        .node_with(|config| {
            config.listen_addresses.clear();
            config.limits.wanted_members = 0;
            config.hole_punching = false;
        })
        .await;
    let circuit: Multiaddr = relay_address
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(hidden.id()));
    assert_eq!(seeker.mesh.connect(circuit).await.unwrap(), hidden.id());
    let peers = seeker.mesh.peers().await;
    let through = peers
        .iter()
        .find(|peer| peer.peer_id == hidden.id())
        .unwrap();
    assert!(through.connections[0].relayed && through.member.is_some());
    let response = seeker
        .mesh
        .request(hidden.id(), SyncRequest::Members)
        .await
        .unwrap();
    assert!(matches!(response, SyncResponse::Members(_)));
}

#[tokio::test]
async fn given_a_relayed_connection_when_hole_punching_failed_then_it_is_tried_again_and_circuits_do_not_pile_up()
 {
    let acme = Organization::new("org_acme");
    let relay = acme
        .relay_with(|config| config.limits.wanted_members = 0)
        .await;
    let relay_address = relay.address("/tcp/").await;
    // Neither listens anywhere, so no attempt can succeed.
    let silent = |config: &mut warren_mesh::MeshConfig| {
        config.listen_addresses.clear();
        config.limits.wanted_members = 0;
        config.hole_punch_again = Duration::from_millis(500);
    };
    let hidden = acme
        .node_with(|config| {
            silent(config);
            config.relay.client = RelayClient::Always;
            config.relay.relays = vec![relay_address.clone()];
        })
        .await;
    eventually("the relay holds a slot", async || {
        hidden.mesh.nat_status().await.relays == [relay.id()]
    })
    .await;
    let seeker = acme.node_with(silent).await;
    let circuit: Multiaddr = relay_address
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(hidden.id()));
    seeker.mesh.connect(circuit).await.unwrap();

    eventually("three rounds of attempts have failed", async || {
        hidden.mesh.nat_status().await.hole_punches_failed >= 3
    })
    .await;

    let peers = seeker.mesh.peers().await;
    let hidden = peers.iter().find(|peer| peer.peer_id == hidden.id());
    let circuits = hidden.unwrap().connections.len();
    assert!((1..=3).contains(&circuits), "{circuits} circuits");
}

#[tokio::test]
async fn given_a_member_that_offers_to_relay_without_the_capability_then_it_is_not_asked_for_a_slot()
 {
    let acme = Organization::new("org_acme");
    let self_appointed = acme
        .node_with(|config| {
            config.relay.server = Some(RelayServerConfig::default());
            config.limits.wanted_members = 0;
        })
        .await;
    let certified = acme
        .relay_with(|config| config.limits.wanted_members = 0)
        .await;
    let hidden = acme
        .node_with(|config| {
            config.limits.wanted_members = 0;
            config.relay.client = RelayClient::Always;
        })
        .await;
    for relay in [&self_appointed, &certified] {
        hidden.connect(relay).await;
        eventually("it offers to relay", async || {
            let peers = hidden.mesh.peers().await;
            peers.iter().any(|peer| {
                peer.peer_id == relay.id() && peer.protocols.iter().any(|p| p.ends_with("/hop"))
            })
        })
        .await;
    }
    // The one that was met first would have been asked first.
    eventually("a slot is granted", async || {
        !hidden.mesh.nat_status().await.relays.is_empty()
    })
    .await;
    assert_eq!(hidden.mesh.nat_status().await.relays, [certified.id()]);
}

/// Two members that know each other only through a relay, nothing standing between them.
async fn punches_through(listen: &str, kind: &str) {
    let acme = Organization::new("org_acme");
    let listen: Multiaddr = listen.parse().unwrap();
    let relay = acme
        .relay_with(|config| {
            config.listen_addresses = vec![listen.clone()];
            config.limits.wanted_members = 0;
        })
        .await;
    let relay_address = relay.address(kind).await;
    let behind = |config: &mut warren_mesh::MeshConfig| {
        config.listen_addresses = vec![listen.clone()];
        config.limits.wanted_members = 0;
        config.bootstrap_peers = vec![relay_address.clone()];
    };
    let hidden = acme
        .node_with(|config| {
            behind(config);
            config.relay.client = RelayClient::Always;
        })
        .await;
    let mut seeker = acme.node_with(behind).await;
    for node in [&hidden, &seeker] {
        eventually("the relay tells what it sees", async || {
            !node.mesh.nat_status().await.observed.is_empty()
        })
        .await;
    }
    eventually("the relay holds a slot", async || {
        hidden.mesh.nat_status().await.relays == [relay.id()]
    })
    .await;
    let circuit = relay_address
        .clone()
        .with(Protocol::P2pCircuit)
        .with(Protocol::P2p(hidden.id()));
    seeker.mesh.connect(circuit).await.unwrap();
    eventually(
        "a direct connection stands beside the relayed one",
        async || {
            let peers = seeker.mesh.peers().await;
            peers
                .iter()
                .any(|peer| peer.peer_id == hidden.id() && peer.is_direct())
        },
    )
    .await;
    let result = seeker
        .event("hole punch", |event| match event {
            MeshEvent::HolePunch { result, .. } => Some(result),
            _ => None,
        })
        .await;
    assert_eq!(result, Ok(()));
    let peers = seeker.mesh.peers().await;
    let direct = peers
        .iter()
        .find(|peer| peer.peer_id == hidden.id())
        .unwrap();
    assert!(direct.member.is_some());
}

#[tokio::test]
async fn given_a_relayed_tcp_connection_when_punched_through_then_both_sides_are_admitted_again() {
    punches_through("/ip4/127.0.0.1/tcp/0", "/tcp/").await;
}

#[tokio::test]
async fn given_a_relayed_quic_connection_when_punched_through_then_both_sides_are_admitted_again() {
    punches_through("/ip4/127.0.0.1/udp/0/quic-v1", "/quic-v1").await;
}
