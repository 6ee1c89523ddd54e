//! Members that do not keep to the protocol: with a good leaf, and bad manners.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use support::{Organization, TestNode, all_meet, config, eventually};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use warren_cluster::{Frame, MAX_FRAME_BYTES};
use warren_identity::tls::{ExpectedPeer, node_client};
use warren_identity::{Trust, UnixTime, decode_chain};

const ALPN: &[u8] = b"warren-gossip/1";

/// A bare link of a member over TCP.
struct RawLink(TlsStream<TcpStream>);

impl RawLink {
    async fn open(trust: &Trust, to: SocketAddr, alpn: &[&[u8]]) -> std::io::Result<Self> {
        let tls = node_client(trust, ExpectedPeer::AnyMember, alpn).unwrap();
        let stream = TcpStream::connect(to).await.unwrap();
        let name = to.ip().into();
        let stream = TlsConnector::from(Arc::new(tls)).connect(name, stream);
        Ok(Self(stream.await?))
    }

    async fn send(&mut self, bytes: &[u8]) {
        self.0.write_u32(bytes.len() as u32).await.unwrap();
        self.0.write_all(bytes).await.unwrap();
        self.0.flush().await.unwrap();
    }

    async fn receive(&mut self) -> std::io::Result<Frame> {
        let read = async {
            let length = self.0.read_u32().await?;
            let mut bytes = vec![0; length as usize];
            self.0.read_exact(&mut bytes).await?;
            Ok(Frame::decode(bytes.into()).unwrap())
        };
        tokio::time::timeout(support::DEADLINE, read).await.unwrap()
    }

    /// Waits until the other side ends it.
    async fn is_closed(&mut self) {
        let mut rest = [0; 1024];
        let closed = async { while let Ok(1..) = self.0.read(&mut rest).await {} };
        tokio::time::timeout(support::DEADLINE, closed)
            .await
            .unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn given_frames_that_are_none_when_a_member_sends_them_then_its_link_is_closed_and_it_is_counted()
 {
    let organization = Organization::new("org_hostile");
    let node = organization.node(&[], &[]);
    let member = organization.member(&[]);
    let unknown_kind = [9_u8, 1, 2, 3].as_slice();
    let no_key = &[[3].as_slice(), &[0xff; 31]].concat();
    let too_long_packet = &[[1].as_slice(), &[0; 1_300]].concat();
    for (number, bytes) in [unknown_kind, no_key, too_long_packet, &[]]
        .into_iter()
        .enumerate()
    {
        let mut link = RawLink::open(&member, node.address(), &[ALPN])
            .await
            .unwrap();
        link.send(bytes).await;
        link.is_closed().await;
        eventually("it is counted", || {
            node.metric("warren_cluster_drops_total", "bad_frame") >= number as f64 + 1.0
        });
    }
    let mut link = RawLink::open(&member, node.address(), &[ALPN])
        .await
        .unwrap();
    link.0.write_u32(MAX_FRAME_BYTES as u32 + 1).await.unwrap();
    link.is_closed().await;

    assert_eq!(node.cluster.node_count(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn given_membership_garbage_and_forgeries_when_a_member_sends_them_then_nothing_changes() {
    let organization = Organization::new("org_forge");
    let first = organization.node(&[], &[]);
    let second = organization.node(&[], &[first.address()]);
    eventually("everyone knows everyone", || all_meet(&[&first, &second]));
    let before = first.cluster.nodes();
    let member = organization.member(&[]);
    let mut link = RawLink::open(&member, first.address(), &[ALPN])
        .await
        .unwrap();

    for number in 0..200_u8 {
        let noise: Vec<u8> = (0..=number).map(|i| i.wrapping_mul(number)).collect();
        link.send(&Frame::Packet(noise.clone().into()).encode())
            .await;
        link.send(&Frame::Message(noise.into()).encode()).await;
    }
    eventually("it is counted", || {
        let dropped = |reason: &str| first.metric("warren_cluster_drops_total", reason);
        dropped("malformed") + dropped("unknown_version") >= 200.0
    });

    assert_eq!(first.cluster.nodes(), before);
    assert!(all_meet(&[&first, &second]));
}

#[tokio::test(flavor = "multi_thread")]
async fn given_another_protocol_when_a_member_speaks_it_then_it_is_turned_away() {
    let organization = Organization::new("org_alpn");
    let node = organization.node(&[], &[]);
    let member = organization.member(&[]);

    if let Ok(mut link) = RawLink::open(&member, node.address(), &[b"other/1"]).await {
        link.is_closed().await;
    }
    let mut without = RawLink::open(&member, node.address(), &[]).await.unwrap();
    without.is_closed().await;

    eventually("it is counted", || {
        node.metric("warren_cluster_handshakes_refused_total", "alpn") >= 1.0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn given_members_that_are_asked_for_when_somebody_has_their_chains_then_they_come_and_prove_themselves()
 {
    let organization = Organization::new("org_chains");
    let first = organization.node(&["director"], &[]);
    let as_worker = config(&[first.address()]).with_tag("role", "worker");
    let second = TestNode::start(organization.member(&["worker"]), as_worker);
    eventually("everyone knows everyone", || all_meet(&[&first, &second]));
    let asking = organization.member(&[]);
    let mut link = RawLink::open(&asking, first.address(), &[ALPN])
        .await
        .unwrap();

    let wanted = vec![first.id(), second.id(), organization.member(&[]).peer_id()];
    link.send(&Frame::Ask(wanted).encode()).await;

    let chains = loop {
        match link.receive().await.unwrap() {
            Frame::Chains(chains) => break chains,
            _ => continue,
        }
    };
    assert_eq!(chains.len(), 2);
    for (peer, der) in chains {
        let chain = decode_chain(&der).unwrap();
        let member = asking.verify(&chain, UnixTime::now()).unwrap();
        assert_eq!(member.peer_id, peer);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn given_chains_that_nobody_asked_for_when_they_come_then_they_are_dropped() {
    let organization = Organization::new("org_unasked");
    let node = organization.node(&[], &[]);
    let member = organization.member(&[]);
    let mut link = RawLink::open(&member, node.address(), &[ALPN])
        .await
        .unwrap();

    let chain = Bytes::from_static(b"anything");
    let pushed = Frame::Chains(vec![(member.peer_id(), chain)]);
    link.send(&pushed.encode()).await;

    eventually("it is counted", || {
        node.metric("warren_cluster_drops_total", "unasked_chain") >= 1.0
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn given_a_member_that_never_reads_when_others_talk_then_they_are_not_slowed() {
    let organization = Organization::new("org_deaf");
    let first = organization.node(&[], &[]);
    let deaf = organization.member(&[]);
    let mut link = RawLink::open(&deaf, first.address(), &[ALPN])
        .await
        .unwrap();
    // Far more questions than answers fit into the queues between us.
    let question = Frame::Ask(vec![first.id(); 32]).encode();
    let flood = async {
        loop {
            link.send(&question).await;
        }
    };
    let flood = tokio::time::timeout(Duration::from_secs(3), flood);

    let (_, ()) = tokio::join!(flood, async {
        let second = organization.node(&[], &[first.address()]);
        let meet = || eventually("everyone knows everyone", || all_meet(&[&first, &second]));
        tokio::task::block_in_place(meet);
    });
}
