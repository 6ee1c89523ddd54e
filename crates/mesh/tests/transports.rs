//! Every transport carries a member's connection, and listening fails or ends as it should.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::{Organization, YEAR, eventually};
use warren_mesh::{
    ConnectError, Mesh, MeshConfig, MeshEvent, Multiaddr, NodeDescription, StartError,
};
use warren_telemetry::{Metrics, NetworkMetrics};

/// Two members, one listening at `listen`, connect over the address that contains `kind`.
async fn connects_over(listen: &str, kind: &str) {
    let acme = Organization::new("org_acme");
    let listen: Multiaddr = listen.parse().unwrap();
    let b = acme
        .node_with(|config| config.listen_addresses = vec![listen])
        .await;
    let a = acme
        .node_with(|config| config.listen_addresses.clear())
        .await;
    let peer = a.mesh.connect(b.address(kind).await).await.unwrap();
    assert_eq!(peer, b.id());
    eventually("both have identified each other", async || {
        let peers = (a.mesh.peers().await, b.mesh.peers().await);
        [peers.0, peers.1].iter().all(|p| {
            p.len() == 1
                && p[0].member.is_some()
                && p[0].agent.is_some()
                && p[0]
                    .protocols
                    .iter()
                    .any(|name| name == "/warren/sync/1.0.0")
        })
    })
    .await;
    let seen = a.mesh.peers().await;
    assert!(
        seen[0].connections[0]
            .remote_address
            .to_string()
            .contains(kind)
    );
    assert!(seen[0].is_direct());
}

#[tokio::test]
async fn given_a_tcp_listener_when_a_member_dials_then_both_are_members() {
    connects_over("/ip4/127.0.0.1/tcp/0", "/tcp/").await;
}

#[tokio::test]
async fn given_a_quic_listener_when_a_member_dials_then_both_are_members() {
    connects_over("/ip4/127.0.0.1/udp/0/quic-v1", "/quic-v1").await;
}

#[tokio::test]
async fn given_a_websocket_listener_when_a_member_dials_then_both_are_members() {
    connects_over("/ip4/127.0.0.1/tcp/0/ws", "/ws").await;
}

#[tokio::test]
async fn given_an_ipv6_tcp_listener_when_a_member_dials_then_both_are_members() {
    connects_over("/ip6/::1/tcp/0", "/ip6/").await;
}

#[tokio::test]
async fn given_an_ipv6_quic_listener_when_a_member_dials_then_both_are_members() {
    connects_over("/ip6/::1/udp/0/quic-v1", "/ip6/").await;
}

#[tokio::test]
async fn given_a_dns_name_in_the_address_when_dialled_then_it_is_resolved() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    let address = b
        .address("/tcp/")
        .await
        .to_string()
        .replace("/ip4/127.0.0.1", "/dns4/localhost");
    assert_eq!(
        a.mesh.connect(address.parse().unwrap()).await.unwrap(),
        b.id()
    );
}

#[tokio::test]
async fn given_nobody_at_the_address_when_dialled_then_the_error_says_so_in_a_line() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    let address = b.address("/tcp/").await;
    b.mesh.shutdown().await;
    let error = a.mesh.connect(address).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::Unreachable { .. }),
        "{error:?}"
    );
    let text = error.to_string();
    assert!(
        text.contains("refused") && !text.contains('\n') && text.len() < 300,
        "{text}"
    );
}

#[tokio::test]
async fn given_our_own_address_when_dialled_then_the_error_says_so() {
    let a = Organization::new("org_acme").node().await;
    let error = a.mesh.connect(a.address("/tcp/").await).await.unwrap_err();
    assert!(matches!(error, ConnectError::Ourselves(_)), "{error:?}");
}

async fn start_at(acme: &Organization, address: &str) -> Result<Mesh, StartError> {
    let metrics = Metrics::new();
    let network = NetworkMetrics::register(&metrics);
    let listen = vec![address.parse().unwrap()];
    let config = MeshConfig::new("org_acme", NodeDescription::default(), listen);
    Mesh::start(config, acme.trust(YEAR), &metrics, network).await
}

fn without_peer(address: &Multiaddr) -> String {
    address
        .to_string()
        .split("/p2p/")
        .next()
        .unwrap()
        .to_owned()
}

#[tokio::test]
async fn given_a_taken_port_when_started_then_the_error_names_the_address() {
    let acme = Organization::new("org_acme");
    for listen in ["/ip4/127.0.0.1/tcp/0", "/ip4/127.0.0.1/udp/0/quic-v1"] {
        let first = acme
            .node_with(|config| config.listen_addresses = vec![listen.parse().unwrap()])
            .await;
        let taken = without_peer(&first.address("127.0.0.1").await);
        let error = start_at(&acme, &taken).await.unwrap_err();
        assert!(error.to_string().contains(&taken), "{error}");
        assert!(error.to_string().contains("in use"), "{error}");
    }
}

#[tokio::test]
async fn given_an_address_of_no_transport_when_started_then_the_error_names_it() {
    let acme = Organization::new("org_acme");
    let error = start_at(&acme, "/ip4/127.0.0.1/sctp/4001")
        .await
        .unwrap_err();
    assert!(error.to_string().contains("/sctp/4001"), "{error}");
}

#[tokio::test]
async fn given_a_node_that_shut_down_when_its_port_is_wanted_then_it_is_free() {
    let acme = Organization::new("org_acme");
    let (first, peer) = (acme.node().await, acme.node().await);
    peer.connect(&first).await;
    let address = without_peer(&first.address("/tcp/").await);
    first.mesh.shutdown().await;
    let second = start_at(&acme, &address).await.unwrap();
    second.shutdown().await;
}

#[tokio::test]
async fn given_announce_addresses_when_configured_then_exactly_those_reach_other_members() {
    let acme = Organization::new("org_acme");
    let public: Multiaddr = "/ip4/203.0.113.10/tcp/4001".parse().unwrap();
    let announced = public.clone();
    let b = acme
        .node_with(|config| config.announce_addresses = vec![announced])
        .await;
    let a = acme.node().await;
    a.connect(&b).await;
    eventually("a knows what b announces", async || {
        let peers = a.mesh.peers().await;
        peers[0].agent.is_some() && peers[0].addresses == [public.clone()]
    })
    .await;
}

#[tokio::test]
async fn given_a_bootstrap_peer_that_restarts_when_it_is_back_then_it_is_connected_again() {
    let acme = Organization::new("org_acme");
    let trust = acme.trust(YEAR);
    let first = support::TestNode::start(trust.clone(), |_| {}).await;
    let address = first.address("/tcp/").await;
    let bootstrap = address.clone();
    let mut a = acme
        .node_with(|config| config.bootstrap_peers = vec![bootstrap])
        .await;
    eventually("the bootstrap peer is connected", async || {
        a.is_connected(first.id()).await
    })
    .await;
    first.mesh.shutdown().await;
    a.event("disconnection", |event| match event {
        MeshEvent::PeerDisconnected { .. } => Some(()),
        _ => None,
    })
    .await;
    let again = without_peer(&address).parse().unwrap();
    let second =
        support::TestNode::start(trust, |config| config.listen_addresses = vec![again]).await;
    eventually("it is connected again", async || {
        a.is_connected(second.id()).await
    })
    .await;
}
