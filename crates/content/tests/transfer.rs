//! Both ends of the block protocol: time-outs in virtual time, hostile input, and the bulk connection over real TLS.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod transfer_support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;
use transfer_support::{
    Node, Reader, block_frame, key, member, next_request, noise, peer, read_all,
};
use warren_content::core::wire::{MAX_FRAME, MAX_HAVE_DOCUMENTS, Request, Response};
use warren_content::transfer::bulk::{BulkDialer, BulkListener};
use warren_content::transfer::{
    BlockClient, CallError, ConnectError, FarEnd, Outcome, TransferLimits, TransferMetrics,
};
use warren_content::{BlockId, ChunkId, DocumentId, MAX_BLOCK_BYTES};
use warren_identity::{
    CA_VALIDITY, CaRequest, Capabilities, CertificateAuthority, CrlRequest, LeafRequest,
    OrganizationId, RevokedSerial, Roots, Serial, Trust, UnixTime, WildcardNames,
};
use warren_telemetry::Metrics;

const MIB: usize = 1024 * 1024;

fn chunk(content: &[u8]) -> BlockId {
    BlockId::Chunk(ChunkId::of(content))
}

fn client(stream: tokio::io::DuplexStream, metrics: &Metrics) -> BlockClient {
    BlockClient::start(
        stream,
        member(1),
        TransferLimits::default(),
        TransferMetrics::register(metrics),
    )
}

/// Waits, with a deadline, until `holds`.
async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    while !holds() {
        assert!(
            std::time::Instant::now() < deadline,
            "{what} did not happen"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn given_a_silent_server_when_asked_then_the_client_ends_after_the_progress_time_out() {
    let (near, _far) = tokio::io::duplex(1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    let (replies, mut arrivals) = mpsc::channel(1);
    let begun = Instant::now();
    client
        .get(chunk(b"x"), MAX_BLOCK_BYTES, 7, &replies)
        .unwrap();
    let arrival = arrivals.recv().await.unwrap();
    assert!(matches!(arrival.outcome, Outcome::Lost) && arrival.ticket == 7);
    let waited = begun.elapsed();
    assert!((15..=31).contains(&waited.as_secs()), "{waited:?}");
    assert!(
        metrics
            .encode()
            .contains(r#"ended_total{side="client",reason="stalled"} 1"#)
    );
}

#[tokio::test(start_paused = true)]
async fn given_a_server_that_stops_in_a_block_when_waited_for_then_the_client_ends_after_the_progress_time_out()
 {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    let (replies, mut arrivals) = mpsc::channel(1);
    client
        .get(chunk(b"x"), MAX_BLOCK_BYTES, 7, &replies)
        .unwrap();
    let request = next_request(&mut far).await.unwrap().id();
    let block = warren_content::StoredBlock {
        encoding: warren_content::Encoding::Plain,
        plain_size: 1000,
        bytes: vec![0; 1000].into(),
    };
    far.write_all(&block_frame(request, &block)[..500])
        .await
        .unwrap();
    assert!(matches!(
        arrivals.recv().await.unwrap().outcome,
        Outcome::Lost
    ));
    assert!(
        metrics
            .encode()
            .contains(r#"ended_total{side="client",reason="stalled"} 1"#)
    );
}

#[tokio::test(start_paused = true)]
async fn given_a_peer_that_is_no_member_any_more_when_asked_then_every_question_is_answered_as_lost()
 {
    let (near, _far) = tokio::io::duplex(1024);
    let ended = Arc::new(AtomicBool::new(false));
    let far_end = FarEnd {
        peer: peer(1),
        membership: Arc::new(Expiring(ended.clone())),
    };
    let limits = TransferLimits {
        membership_interval: Duration::from_secs(3600),
        ..TransferLimits::default()
    };
    let metrics = TransferMetrics::register(&Metrics::new());
    let client = BlockClient::start(near, far_end, limits, metrics);
    let (replies, mut arrivals) = mpsc::channel(500);
    // The first look at the membership is over.
    tokio::time::sleep(Duration::from_secs(1)).await;
    ended.store(true, Ordering::Relaxed);
    for ticket in 0..500 {
        client.get(chunk(b"x"), 1, ticket, &replies).unwrap();
    }
    for _ in 0..500 {
        let arrival = timeout(Duration::from_secs(5), arrivals.recv()).await;
        assert!(matches!(
            arrival.expect("it is told").unwrap().outcome,
            Outcome::Lost
        ));
    }
}

#[tokio::test(start_paused = true)]
async fn given_an_unused_connection_when_idle_then_the_client_closes_it() {
    let (near, _far) = tokio::io::duplex(1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    tokio::time::sleep(Duration::from_secs(80)).await;
    assert!(client.is_closed());
    assert!(
        metrics
            .encode()
            .contains(r#"ended_total{side="client",reason="idle"} 1"#)
    );
}

#[tokio::test]
async fn given_many_requests_at_once_when_answered_then_each_gets_its_own_block() {
    let node = Node::new(1);
    let document = node.put(&noise("pipelined", 30 * MIB)).await;
    let blocks: Vec<BlockId> = node
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .map(|link| link.id)
        .collect();
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = node.server.clone();
    tokio::spawn(async move { server.serve(far, member(9)).await });
    let client = client(near, &Metrics::new());
    let (replies, mut arrivals) = mpsc::channel(blocks.len());
    for (index, block) in blocks.iter().enumerate() {
        client
            .get(*block, MAX_BLOCK_BYTES, index as u64, &replies)
            .unwrap();
    }
    for _ in &blocks {
        let arrival = arrivals.recv().await.unwrap();
        let Outcome::Block(stored) = arrival.outcome else {
            panic!("no block")
        };
        stored.verify(blocks[arrival.ticket as usize]).unwrap();
    }
}

#[tokio::test]
async fn given_documents_held_and_not_held_when_asked_about_then_the_answer_tells_them_apart() {
    let node = Node::new(1);
    let held = node.put(b"held").await;
    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = node.server.clone();
    tokio::spawn(async move { server.serve(far, member(9)).await });
    let client = client(near, &Metrics::new());
    let other = DocumentId::of(b"other");
    assert_eq!(
        client.have(&[other, held, other]).await.unwrap(),
        [false, true, false]
    );
    assert_eq!(
        client.record(held).await.unwrap().unwrap().signer(),
        peer(1)
    );
    assert!(client.record(other).await.unwrap().is_none());
}

#[tokio::test]
async fn given_a_record_of_another_document_when_received_then_it_is_refused() {
    let node = Node::new(1);
    let document = node.put(b"one").await;
    let record = node
        .store
        .document(document)
        .unwrap()
        .unwrap()
        .record
        .unwrap()
        .to_bytes();
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    tokio::spawn(async move {
        let request = next_request(&mut far).await.unwrap().id();
        let answer = warren_content::core::wire::Response::Record { request, record };
        far.write_all(&transfer_support::frame(&answer))
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    let client = client(near, &Metrics::new());
    let error = client.record(DocumentId::of(b"two")).await.unwrap_err();
    assert!(matches!(error, CallError::BadRecord { .. }), "{error}");
}

#[tokio::test]
async fn given_garbage_from_a_client_when_served_then_the_connection_is_closed_and_counted() {
    let node = Node::new(1);
    for (bytes, reason) in [
        (b"GET / HTTP/1.1\r\n\r\n".to_vec(), "frame_length"),
        (
            (2u32 * 1024 * 1024 * 1024).to_be_bytes().to_vec(),
            "frame_length",
        ),
        (
            ((MAX_FRAME + 1) as u32).to_be_bytes().to_vec(),
            "frame_length",
        ),
        (vec![0, 0, 0, 5, 0x99, 0, 0, 0, 1], "unknown_kind"),
        (vec![0, 0, 0, 6, 0x01, 0, 0, 0, 1, 0x55], "truncated_frame"),
    ] {
        let (mut near, far) = tokio::io::duplex(64 * 1024);
        let server = node.server.clone();
        let serving = tokio::spawn(async move { server.serve(far, member(9)).await });
        let sample =
            format!(r#"warren_transfer_sessions_ended_total{{side="server",reason="{reason}"}}"#);
        let before = node.counter(&sample);
        near.write_all(&bytes).await.unwrap();
        timeout(Duration::from_secs(10), serving)
            .await
            .expect("it ends")
            .unwrap();
        assert_eq!(node.counter(&sample), before + 1, "{reason}");
    }
}

#[tokio::test]
async fn given_half_a_request_when_nothing_follows_then_the_server_ends_the_connection() {
    let limits = TransferLimits {
        progress: Duration::from_millis(100),
        ..TransferLimits::default()
    };
    let node = Node::with_limits(1, limits);
    let (mut near, far) = tokio::io::duplex(1024);
    near.write_all(&[0, 0, 0]).await.unwrap();
    timeout(Duration::from_secs(10), node.server.serve(far, member(9)))
        .await
        .expect("it ends");
    assert_eq!(
        node.counter(r#"warren_transfer_sessions_ended_total{side="server",reason="stalled"}"#),
        1
    );
}

#[tokio::test]
async fn given_a_client_that_does_not_read_when_served_then_the_server_ends_the_connection() {
    let limits = TransferLimits {
        progress: Duration::from_millis(100),
        ..TransferLimits::default()
    };
    let node = Node::with_limits(1, limits);
    let document = node.put(&noise("unread", MIB)).await;
    let block = node
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .next()
        .unwrap()
        .id;
    let (mut near, far) = tokio::io::duplex(1024);
    let mut request = Vec::new();
    Request::Get { request: 1, block }.encode(&mut request);
    near.write_all(&request).await.unwrap();
    timeout(Duration::from_secs(10), node.server.serve(far, member(9)))
        .await
        .expect("it ends");
    assert_eq!(
        node.counter(r#"warren_transfer_sessions_ended_total{side="server",reason="stalled"}"#),
        1
    );
}

#[tokio::test]
async fn given_more_connections_than_allowed_when_served_then_the_surplus_is_closed_and_counted() {
    let node = Node::with_limits(
        1,
        TransferLimits {
            sessions: 1,
            ..TransferLimits::default()
        },
    );
    let (_first, far) = tokio::io::duplex(1024);
    let server = node.server.clone();
    let first = tokio::spawn(async move { server.serve(far, member(8)).await });
    tokio::task::yield_now().await;
    let (_second, far) = tokio::io::duplex(1024);
    timeout(Duration::from_secs(10), node.server.serve(far, member(9)))
        .await
        .expect("it ends");
    assert_eq!(
        node.counter(
            r#"warren_transfer_sessions_ended_total{side="server",reason="too_many_sessions"}"#
        ),
        1
    );
    first.abort();
}

const UNVERIFIED: &str = "warren_transfer_unverified_bytes";
const QUEUED: &str = "warren_transfer_queued_request_bytes";

fn gauge(metrics: &Metrics, name: &str) -> usize {
    let text = metrics.encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.expect("the gauge is registered").parse().unwrap()
}

#[tokio::test]
async fn given_answers_that_nobody_verifies_when_they_reach_the_budget_then_no_more_is_read_until_some_are_gone()
 {
    const BLOCKS: usize = 64;
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    let (replies, mut arrivals) = mpsc::channel(BLOCKS);
    let written = Arc::new(AtomicUsize::new(0));
    let count = written.clone();
    tokio::spawn(async move {
        let block = warren_content::StoredBlock {
            encoding: warren_content::Encoding::Plain,
            plain_size: MIB as u32,
            bytes: vec![0; MIB].into(),
        };
        while let Some(request) = next_request(&mut far).await {
            let answer = block_frame(request.id(), &block);
            far.write_all(&answer).await.unwrap();
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    for ticket in 0..BLOCKS as u64 {
        client
            .get(chunk(b"x"), MAX_BLOCK_BYTES, ticket, &replies)
            .unwrap();
    }

    let budget = TransferLimits::default().unverified_bytes;
    eventually("a full budget", || gauge(&metrics, UNVERIFIED) == budget).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        (written.load(Ordering::Relaxed), gauge(&metrics, UNVERIFIED)),
        (budget / MIB, budget)
    );

    for _ in 0..BLOCKS {
        let arrival = arrivals.recv().await.unwrap();
        assert!(matches!(arrival.outcome, Outcome::Block(_)));
        assert!(gauge(&metrics, UNVERIFIED) <= budget);
    }
    assert_eq!(gauge(&metrics, UNVERIFIED), 0);
}

#[tokio::test]
async fn given_an_answer_larger_than_asked_for_when_received_then_nothing_of_it_is_kept_and_the_next_is_read()
 {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    let (replies, mut arrivals) = mpsc::channel(2);
    client.get(chunk(b"x"), 1000, 0, &replies).unwrap();
    client.get(chunk(b"y"), 1000, 1, &replies).unwrap();
    for size in [1001, 1000] {
        let request = next_request(&mut far).await.unwrap();
        let block = warren_content::StoredBlock {
            encoding: warren_content::Encoding::Plain,
            plain_size: size,
            bytes: vec![0; size as usize].into(),
        };
        far.write_all(&block_frame(request.id(), &block))
            .await
            .unwrap();
    }
    let first = arrivals.recv().await.unwrap();
    assert!(
        matches!(first.outcome, Outcome::Oversized { plain_size: 1001 }),
        "{first:?}"
    );
    let second = arrivals.recv().await.unwrap();
    assert!(matches!(second.outcome, Outcome::Block(_)), "{second:?}");
    assert_eq!(gauge(&metrics, UNVERIFIED), 1000);
}

#[tokio::test]
async fn given_a_peer_that_leaves_every_second_question_open_when_asked_on_and_on_then_it_is_given_up()
 {
    let (near, mut far) = tokio::io::duplex(64 * 1024);
    let metrics = Metrics::new();
    let client = client(near, &metrics);
    tokio::spawn(async move {
        while let Some(request) = next_request(&mut far).await {
            let request = request.id();
            let answer = transfer_support::frame(&Response::NotFound { request });
            if request % 2 == 1 && far.write_all(&answer).await.is_err() {
                return;
            }
        }
    });
    let (replies, mut arrivals) = mpsc::channel(100_000);
    for round in 0..50 {
        let asked =
            (0..1000).map(|ticket| client.get(chunk(b"x"), 1, round * 1000 + ticket, &replies));
        if asked.filter(Result::is_ok).count() < 1000 {
            break;
        }
        for _ in 0..500 {
            arrivals.recv().await.unwrap();
        }
    }
    assert!(client.is_closed(), "every question was taken");
}

#[tokio::test]
async fn given_a_peer_that_asks_much_and_reads_nothing_when_served_then_its_requests_wait_outside_and_others_are_answered()
 {
    let node = Node::new(1);
    let held = node.put(b"held").await;
    let (mut greedy, far) = tokio::io::duplex(1024);
    let server = node.server.clone();
    tokio::spawn(async move { server.serve(far, member(8)).await });
    let mut question = Vec::new();
    Request::Have {
        request: 1,
        documents: vec![held; MAX_HAVE_DOCUMENTS],
    }
    .encode(&mut question);
    let asked = Arc::new(AtomicUsize::new(0));
    let count = asked.clone();
    let asking = tokio::spawn(async move {
        while greedy.write_all(&question).await.is_ok() {
            count.fetch_add(1, Ordering::Relaxed);
        }
    });
    let budget = TransferLimits::default().queued_request_bytes;
    let frame = 32 * MAX_HAVE_DOCUMENTS;
    eventually("a full queue", || {
        gauge(&node.metrics, QUEUED) > budget - 2 * frame
    })
    .await;

    let (near, far) = tokio::io::duplex(64 * 1024);
    let server = node.server.clone();
    tokio::spawn(async move { server.serve(far, member(9)).await });
    let other = client(near, &Metrics::new());
    assert_eq!(other.have(&[held]).await.unwrap(), [true]);
    assert!(gauge(&node.metrics, QUEUED) <= budget);
    let before = asked.load(Ordering::Relaxed);
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    assert_eq!(
        asked.load(Ordering::Relaxed),
        before,
        "it is still read from"
    );
    asking.abort();
}

// ---- the bulk connection ----

/// An organisation with a CA of its own.
struct Organization(CertificateAuthority);

impl Organization {
    fn new(name: &str, material: u8) -> Self {
        let request = CaRequest {
            organization: OrganizationId::new(name).unwrap(),
            key_material: zeroize::Zeroizing::new([material; 32]),
            serial: Serial::from_random([material; 16]),
            validity: CA_VALIDITY,
        };
        Self(CertificateAuthority::create(&request, UnixTime::now()).unwrap())
    }

    fn roots(&self) -> Roots {
        self.0.roots().clone()
    }

    fn trust(&self, n: u8) -> Trust {
        self.trust_for(n, Duration::from_secs(3600))
    }

    fn trust_for(&self, n: u8, validity: Duration) -> Trust {
        let request = LeafRequest {
            peer_id: peer(n),
            name: format!("node-{n}"),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(["storage"]).unwrap(),
            validity,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let now = UnixTime::now();
        let leaf = self
            .0
            .issue(&request, now, Serial::from_random([n; 16]))
            .unwrap();
        let trust = Trust::new(key(n), self.roots());
        trust.replace_leaf(leaf, now).unwrap();
        trust
    }

    fn revocation_of(&self, n: u8) -> Vec<u8> {
        let now = UnixTime::now();
        let next_update = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 3600));
        let revoked = vec![RevokedSerial::peer(&peer(n), now)];
        self.0
            .sign_crl(&CrlRequest {
                number: 1,
                this_update: now,
                next_update,
                revoked,
            })
            .unwrap()
    }
}

/// A node that serves its store on a bulk port.
struct Served {
    node: Node,
    address: SocketAddr,
    stop: CancellationToken,
}

impl Served {
    async fn new(node: Node, trust: &Trust) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let listener = BulkListener::bind(any, trust, node.server.clone(), node.transfer.clone())
            .await
            .unwrap();
        let (address, stop) = (listener.local_addr(), CancellationToken::new());
        tokio::spawn(listener.run(stop.clone()));
        Self {
            node,
            address,
            stop,
        }
    }

    fn refused(&self, reason: &str) -> u64 {
        self.node.counter(&format!(
            r#"warren_transfer_handshakes_refused_total{{reason="{reason}"}}"#
        ))
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn dial(reader: &Reader, n: u8, trust: &Trust, address: SocketAddr) {
    let dialer = BulkDialer::new(trust.clone());
    reader.network.add(n, move || -> BoxFuture<'static, _> {
        let dialer = dialer.clone();
        Box::pin(async move { dialer.dial(peer(n), &[address.to_string()]).await })
    });
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_two_members_when_a_document_is_read_over_tls_then_it_is_identical() {
    let organization = Organization::new("org_acme_corp", 1);
    let served = Served::new(Node::new(1), &organization.trust(1)).await;
    let content = noise("over tls", 40 * MIB + 5);
    let document = served.node.put(&content).await;
    let reader = Reader::new();
    dial(&reader, 1, &organization.trust(100), served.address);
    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
}

#[tokio::test]
async fn given_another_node_at_the_address_when_dialled_then_it_is_refused_by_its_peer_id() {
    let organization = Organization::new("org_acme_corp", 1);
    let served = Served::new(Node::new(1), &organization.trust(1)).await;
    let dialer = BulkDialer::new(organization.trust(100));
    let error = dialer
        .dial(peer(2), &[served.address.to_string()])
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn given_a_node_of_another_organisation_when_it_dials_then_it_is_refused_and_counted() {
    let (ours, theirs) = (
        Organization::new("org_acme_corp", 1),
        Organization::new("org_other", 2),
    );
    let served = Served::new(Node::new(1), &ours.trust(1)).await;
    // It trusts our CA, so that it is our side that refuses.
    let stranger = Trust::new(key(100), ours.roots());
    let dialer = BulkDialer::new(stranger);
    let _ = dialer.dial(peer(1), &[served.address.to_string()]).await;
    eventually("the refusal of a client without a leaf", || {
        served.refused("no_certificate") + served.refused("tls") + served.refused("io") == 1
    })
    .await;
    let error = BulkDialer::new(theirs.trust(100))
        .dial(peer(1), &[served.address.to_string()])
        .await
        .err()
        .unwrap();
    assert!(matches!(error, ConnectError::Refused { .. }), "{error}");
}

#[tokio::test]
async fn given_a_connection_that_says_nothing_when_accepted_then_others_are_served_meanwhile() {
    let organization = Organization::new("org_acme_corp", 1);
    let served = Served::new(Node::new(1), &organization.trust(1)).await;
    let document = served.node.put(b"meanwhile").await;
    let _silent = TcpStream::connect(served.address).await.unwrap();
    let reader = Reader::new();
    dial(&reader, 1, &organization.trust(100), served.address);
    assert_eq!(reader.read(document).await.unwrap(), b"meanwhile");
}

#[tokio::test]
async fn given_no_tls_when_spoken_to_then_the_connection_is_closed_and_counted() {
    let organization = Organization::new("org_acme_corp", 1);
    let served = Served::new(Node::new(1), &organization.trust(1)).await;
    let mut socket = TcpStream::connect(served.address).await.unwrap();
    socket.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    let mut rest = Vec::new();
    // A reset says the same as an end.
    let _ = timeout(Duration::from_secs(5), socket.read_to_end(&mut rest))
        .await
        .expect("it is closed");
    eventually("the refusal", || served.refused("tls") == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_a_live_session_when_the_asker_is_revoked_then_the_server_cuts_it() {
    let organization = Organization::new("org_acme_corp", 1);
    let server_trust = organization.trust(1);
    let served = Served::new(Node::new(1), &server_trust).await;
    let held = served.node.put(b"held").await;
    let link = BulkDialer::new(organization.trust(100))
        .dial(peer(1), &[served.address.to_string()])
        .await
        .unwrap();
    let metrics = TransferMetrics::register(&Metrics::new());
    let client = BlockClient::start(
        link.stream,
        link.far_end,
        TransferLimits::default(),
        metrics,
    );
    assert_eq!(client.have(&[held]).await.unwrap(), [true]);

    server_trust
        .merge_revocations(&organization.revocation_of(100))
        .unwrap();

    assert!(
        client.have(&[held]).await.is_err(),
        "a revoked peer was answered"
    );
    eventually("the end of the session", || client.is_closed()).await;
    let ended = r#"warren_transfer_sessions_ended_total{side="server",reason="not_a_member"}"#;
    eventually("the count of it", || served.node.counter(ended) == 1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_a_live_session_when_the_provider_is_revoked_then_the_reader_completes_from_another()
{
    let organization = Organization::new("org_acme_corp", 1);
    let (first, second) = (Node::new(1), Node::new(2));
    let content = noise("revoked", 8 * MIB);
    let document = first.put(&content).await;
    second.put(&content).await;
    let (first, second) = (
        Served::new(first, &organization.trust(1)).await,
        Served::new(second, &organization.trust(2)).await,
    );
    let reader = Reader::new();
    let trust = organization.trust(100);
    dial(&reader, 1, &trust, first.address);
    // Opens the connection, and learns the size.
    let retrieved = reader.retriever.open(document, None).await.unwrap();
    trust
        .merge_revocations(&organization.revocation_of(1))
        .unwrap();
    dial(&reader, 2, &trust, second.address);
    let ended = r#"warren_transfer_sessions_ended_total{side="client",reason="not_a_member"}"#;
    eventually("the end of the session", || reader.node.counter(ended) == 1).await;
    assert!(
        read_all(retrieved).await.unwrap() == content,
        "the content differs"
    );
}

#[tokio::test]
async fn given_a_leaf_that_ends_when_its_time_comes_then_the_live_session_ends() {
    let organization = Organization::new("org_acme_corp", 1);
    let served = Served::new(Node::new(1), &organization.trust(1)).await;
    let clock = Arc::new(AtomicBool::new(false));
    let watched = Expiring(clock.clone());
    let (near, far) = tokio::io::duplex(1024);
    let server = served.node.server.clone();
    let far_end = FarEnd {
        peer: peer(5),
        membership: Arc::new(watched),
    };
    let serving = tokio::spawn(async move { server.serve(far, far_end).await });
    clock.store(true, Ordering::Relaxed);
    timeout(Duration::from_secs(10), serving)
        .await
        .expect("it ends")
        .unwrap();
    drop(near);
}

/// A member until told otherwise.
struct Expiring(Arc<AtomicBool>);

impl warren_content::transfer::Membership for Expiring {
    fn check(&self) -> Result<(), warren_content::transfer::MembershipEnded> {
        match self.0.load(Ordering::Relaxed) {
            false => Ok(()),
            true => Err(warren_content::transfer::MembershipEnded {
                reason: "expired".to_owned(),
            }),
        }
    }
}
