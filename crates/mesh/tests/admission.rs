//! Who gets in, who does not and why, and whose session ends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::time::Duration;

use futures::future::poll_fn;
use futures::{AsyncReadExt as _, AsyncWriteExt as _};
use libp2p::core::Endpoint;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse};
use libp2p::core::upgrade::Version;
use libp2p::{Transport as _, noise, tcp, yamux};
use multistream_select::Negotiated;
use support::{Organization, TestNode, YEAR, eventually};
use warren_identity::{NodeKey, Trust, UnixTime};
use warren_mesh::{
    AdmissionError, ConnectError, DisconnectReason, MeshEvent, Multiaddr, RefusalCode,
};

const ADMISSION: &str = "/warren/admission/1.0.0";

async fn refused_with(
    dialler: &TestNode,
    listener: &mut TestNode,
    reason: &str,
    code: RefusalCode,
) {
    let address = listener.address("/tcp/").await;
    let outcome = dialler.mesh.connect(address).await;
    assert!(
        matches!(&outcome, Err(ConnectError::Refused(AdmissionError::RefusedUs(told))) if *told == code),
        "the dialler was told {outcome:?}"
    );
    assert_eq!(listener.refusal().await, reason);
    assert_eq!(listener.refused(reason), 1);
    assert!(listener.mesh.peers().await.is_empty());
}

#[tokio::test]
async fn given_a_member_of_another_ca_when_it_connects_then_it_is_refused_as_of_an_unknown_issuer()
{
    let mut listener = Organization::new("org_acme").node().await;
    let foreign = Organization::new("org_acme").node().await;
    refused_with(
        &foreign,
        &mut listener,
        "unknown_issuer",
        RefusalCode::NotAMember,
    )
    .await;
}

#[tokio::test]
async fn given_a_certificate_that_ended_when_its_node_connects_then_it_is_refused_as_expired() {
    let acme = Organization::new("org_acme");
    let mut listener = acme.node().await;
    let trust = acme.trust(Duration::from_secs(2));
    let short = TestNode::start(trust.clone(), |_| {}).await;
    let own = trust.own_member().unwrap();
    eventually("the certificate ends", async || {
        trust.recheck(&own, UnixTime::now()).is_err()
    })
    .await;
    refused_with(&short, &mut listener, "expired", RefusalCode::Expired).await;
}

#[tokio::test]
async fn given_a_revoked_peer_when_it_connects_then_it_is_refused_as_revoked() {
    let acme = Organization::new("org_acme");
    let mut listener = acme.node().await;
    let revoked = acme.node().await;
    let list = acme.revoke(1, &[revoked.id()]);
    listener.trust.merge_revocations(&list).unwrap();
    refused_with(
        &revoked,
        &mut listener,
        "peer_revoked",
        RefusalCode::Revoked,
    )
    .await;
}

#[tokio::test]
async fn given_a_node_without_a_certificate_when_started_then_it_does_not_start() {
    let acme = Organization::new("org_acme");
    let trust = Trust::new(NodeKey::from_seed([3; 32]), acme.ca.roots().clone());
    let metrics = warren_telemetry::Metrics::new();
    let network = warren_telemetry::NetworkMetrics::register(&metrics);
    let config = warren_mesh::MeshConfig::new(
        "org_acme",
        warren_mesh::NodeDescription::default(),
        Vec::new(),
    );
    let error = warren_mesh::Mesh::start(config, trust, &metrics, network)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("warren ca issue"), "{error}");
}

#[tokio::test]
async fn given_another_peer_id_in_the_address_when_connecting_then_the_error_names_who_answered() {
    let acme = Organization::new("org_acme");
    let (a, b) = (acme.node().await, acme.node().await);
    let other = NodeKey::from_seed([9; 32]).peer_id();
    let address = b.address("/tcp/").await.to_string();
    let wrong: Multiaddr = address
        .replace(&b.id().to_string(), &other.to_string())
        .parse()
        .unwrap();
    let outcome = a.mesh.connect(wrong).await;
    assert!(
        matches!(&outcome, Err(ConnectError::WrongPeer { obtained, .. }) if *obtained == b.id()),
        "{outcome:?}"
    );
    assert!(b.mesh.peers().await.is_empty());
}

#[tokio::test]
async fn given_a_connected_member_when_it_is_revoked_then_its_session_ends_within_two_seconds() {
    let acme = Organization::new("org_acme");
    let (mut a, b) = (acme.node().await, acme.node().await);
    a.connect(&b).await;
    let before = tokio::time::Instant::now();
    a.trust
        .merge_revocations(&acme.revoke(1, &[b.id()]))
        .unwrap();
    let (peer, reason) = a
        .event("disconnection", |event| match event {
            MeshEvent::PeerDisconnected { peer, reason } => Some((peer, reason)),
            _ => None,
        })
        .await;
    assert_eq!((peer, reason), (b.id(), DisconnectReason::Revoked));
    assert!(before.elapsed() < Duration::from_secs(2));
    assert!(a.mesh.peers().await.is_empty());
    assert_eq!(
        a.counter("warren_network_peer_disconnections_total{reason=\"revoked\"}"),
        1
    );
}

#[tokio::test]
async fn given_a_connected_member_when_its_certificate_ends_then_so_does_its_session() {
    let acme = Organization::new("org_acme");
    let mut a = acme.node().await;
    let b = TestNode::start(acme.trust(Duration::from_secs(4)), |_| {}).await;
    a.connect(&b).await;
    let reason = a
        .event("disconnection", |event| match event {
            MeshEvent::PeerDisconnected { reason, .. } => Some(reason),
            _ => None,
        })
        .await;
    // Either side may see its clock pass the end first.
    assert!(
        matches!(reason, DisconnectReason::Expired | DisconnectReason::Remote),
        "{reason:?}"
    );
    assert!(!a.is_connected(b.id()).await);
}

#[tokio::test]
async fn given_a_renewed_certificate_when_the_old_one_ends_then_a_new_session_stands() {
    let acme = Organization::new("org_acme");
    let (a, trust) = (acme.node().await, acme.trust(Duration::from_secs(4)));
    let b = TestNode::start(trust.clone(), |_| {}).await;
    a.connect(&b).await;
    let renewed = acme.leaf(trust.key(), YEAR);
    trust
        .replace_leaf(renewed.clone(), UnixTime::now())
        .unwrap();
    eventually("a holds the renewed certificate", async || {
        let peers = a.mesh.peers().await;
        let member = peers
            .iter()
            .find(|p| p.peer_id == b.id())
            .and_then(|p| p.member.clone());
        member.is_some_and(|m| m.not_after.as_secs() == renewed.facts().not_after.as_secs())
    })
    .await;
}

/// A connection past security and multiplexer, before admission.
async fn raw_connection(address: &Multiaddr) -> (StreamMuxerBox, libp2p::PeerId) {
    let keypair = libp2p::identity::Keypair::generate_ed25519();
    let mut transport = tcp::tokio::Transport::new(tcp::Config::default())
        .upgrade(Version::V1)
        .authenticate(noise::Config::new(&keypair).unwrap())
        .multiplex(yamux::Config::default())
        .boxed();
    let options = DialOpts {
        role: Endpoint::Dialer,
        port_use: PortUse::New,
    };
    let (peer, muxer) = transport
        .dial(address.clone(), options)
        .unwrap()
        .await
        .unwrap();
    (muxer, peer)
}

/// Opens substreams of one connection; a task keeps the muxer moving until it ends.
async fn raw_streams<const N: usize>(address: &Multiaddr) -> [SubstreamBox; N] {
    let (mut muxer, _) = raw_connection(address).await;
    let mut streams = Vec::new();
    for _ in 0..N {
        streams.push(poll_fn(|cx| muxer.poll_outbound_unpin(cx)).await.unwrap());
    }
    tokio::spawn(async move {
        let _: Result<(), std::io::Error> = poll_fn(|cx| {
            while let std::task::Poll::Ready(event) = muxer.poll_unpin(cx) {
                if let Err(error) = event {
                    return std::task::Poll::Ready(Err(error));
                }
            }
            std::task::Poll::Pending
        })
        .await;
    });
    streams.try_into().ok().unwrap()
}

async fn raw_stream(address: &Multiaddr) -> SubstreamBox {
    let [stream] = raw_streams(address).await;
    stream
}

async fn raw_admission(node: &TestNode) -> Negotiated<SubstreamBox> {
    let address = node.address("/tcp/").await;
    let stream = raw_stream(&address).await;
    let selected = multistream_select::dialer_select_proto(
        stream,
        [ADMISSION],
        multistream_select::Version::V1,
    );
    selected.await.unwrap().1
}

/// Everything the other side says until it closes.
async fn rest_of(stream: &mut (impl futures::AsyncRead + Unpin)) -> Vec<u8> {
    let mut rest = Vec::new();
    let read = stream.read_to_end(&mut rest);
    // A reset after the last byte is as good as a close.
    let _ = tokio::time::timeout(support::DEADLINE, read)
        .await
        .expect("the other side closes");
    rest
}

#[tokio::test]
async fn given_garbage_on_the_admission_stream_when_sent_then_it_is_refused_and_counted() {
    let mut node = Organization::new("org_acme").node().await;
    let mut stream = raw_admission(&node).await;
    stream
        .write_all(&[0, 0, 0, 5, 0xff, 0xff, 0xff, 0xff, 0xff])
        .await
        .unwrap();
    stream.flush().await.unwrap();
    let said = rest_of(&mut stream).await;
    assert!(
        said.len() <= 8,
        "a refused side gets a code and no more, not {said:?}"
    );
    assert_eq!(node.refusal().await, "malformed_message");
    assert_eq!(node.refused("malformed_message"), 1);
}

#[tokio::test]
async fn given_a_two_gib_length_when_announced_then_it_is_refused_without_waiting_for_it() {
    let mut node = Organization::new("org_acme").node().await;
    let mut stream = raw_admission(&node).await;
    stream.write_all(&[0x80, 0, 0, 0]).await.unwrap();
    stream.flush().await.unwrap();
    rest_of(&mut stream).await;
    assert_eq!(node.refusal().await, "message_too_long");
}

#[tokio::test]
async fn given_a_peer_that_dawdles_when_the_time_is_over_then_it_is_disconnected() {
    let mut node = Organization::new("org_acme")
        .node_with(|config| config.admission_timeout = Duration::from_millis(300))
        .await;
    let mut stream = raw_admission(&node).await;
    stream.write_all(&[0, 0, 1]).await.unwrap();
    stream.flush().await.unwrap();
    assert!(rest_of(&mut stream).await.is_empty());
    assert_eq!(node.refusal().await, "timeout");
}

#[tokio::test]
async fn given_a_peer_that_says_nothing_when_the_time_is_over_then_it_is_disconnected() {
    let mut node = Organization::new("org_acme")
        .node_with(|config| config.admission_timeout = Duration::from_millis(300))
        .await;
    let address = node.address("/tcp/").await;
    let (_muxer, _) = raw_connection(&address).await;
    assert_eq!(node.refusal().await, "timeout");
}

#[tokio::test]
async fn given_a_stranger_that_asks_for_identify_when_it_connects_then_it_hears_not_one_byte() {
    let mut node = Organization::new("org_acme").node().await;
    let address = node.address("/tcp/").await;
    let mut stream = raw_stream(&address).await;
    stream
        .write_all(b"\x13/multistream/1.0.0\n\x0f/ipfs/id/1.0.0\n")
        .await
        .unwrap();
    stream.flush().await.unwrap();
    assert!(rest_of(&mut stream).await.is_empty());
    assert_eq!(node.refusal().await, "stranger");
    assert_eq!(node.refused("stranger"), 1);
}

#[tokio::test]
async fn given_a_stranger_when_it_opens_a_second_substream_then_the_connection_ends_at_once() {
    let mut node = Organization::new("org_acme").node().await;
    let address = node.address("/tcp/").await;
    let [mut first, mut second] = raw_streams(&address).await;
    first.write_all(b"\x13/multistream/1.0.0\n").await.unwrap();
    first.flush().await.unwrap();
    second.write_all(&[0; 1024]).await.unwrap();
    second.flush().await.unwrap();
    assert_eq!(node.refusal().await, "stranger");
}
