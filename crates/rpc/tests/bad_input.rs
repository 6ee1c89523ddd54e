//! What members may send and what it costs others: bytes by hand over a QUIC connection with a member's certificate.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ConnectionError, RecvStream, SendStream, TransportConfig, VarInt};
use support::probe::{MyProbe, ProbeClient, ProbeServer, client};
use support::{DEADLINE, Organization, eventually};
use warren_identity::tls::{ExpectedPeer, node_client};
use warren_rpc::core::compress::pack;
use warren_rpc::core::frame::{
    ALPN, Body, CALL, Frame, LANE, MAX_BOUND_METHODS, Part, Terms, put_bind, put_call, put_opening,
    put_part,
};
use warren_rpc::core::wire::FrameReader;
use warren_rpc::{Code, Connection, Context, Server, ServerOptions, Status};

/// The close code of a server that meets what is no protocol of its own.
const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
const PLAIN: Terms<Option<&warren_rpc::Metadata>> = Terms {
    timeout: None,
    idempotent: false,
    metadata: None,
};

struct Place {
    server: Server,
    organization: Organization,
    address: SocketAddr,
}

fn serve(probe: MyProbe, options: ServerOptions) -> Place {
    let organization = Organization::new("org_test");
    let (server, address) = organization.serve(ProbeServer::new(probe), options);
    Place {
        server,
        organization,
        address,
    }
}

impl Place {
    /// A member's connection that is not driven by the library.
    async fn raw(&self) -> quinn::Connection {
        self.raw_with(TransportConfig::default()).await
    }

    async fn raw_with(&self, transport: TransportConfig) -> quinn::Connection {
        let trust = self.organization.member(&[]);
        let tls = node_client(&trust, ExpectedPeer::AnyMember, &[ALPN]).unwrap();
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        let mut config = quinn::ClientConfig::new(Arc::new(crypto));
        config.transport_config(Arc::new(transport));
        let endpoint = quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap();
        let connecting = endpoint.connect_with(config, self.address, "127.0.0.1");
        connecting.unwrap().await.unwrap()
    }

    async fn well_behaved(&self) -> ProbeClient<Connection> {
        client(&self.organization, self.address).await
    }
}

/// Sends `bytes` as one stream and expects to be thrown out for it, while another client goes on.
async fn is_thrown_out(what: &str, place: &Place, bytes: &[u8]) {
    let other = place.well_behaved().await;
    let raw = place.raw().await;
    let (mut send, _receive) = raw.open_bi().await.unwrap();
    // The server may be faster than the last bytes.
    let _ = send.write_all(bytes).await;
    let closed = tokio::time::timeout(DEADLINE, raw.closed()).await;
    match closed.unwrap_or_else(|_| panic!("{what}: never thrown out")) {
        ConnectionError::ApplicationClosed(close) => {
            assert_eq!(close.error_code, PROTOCOL_ERROR, "{what}");
        }
        other => panic!("{what}: {other}"),
    }
    assert_eq!(other.echo(Context::new(), vec![1]).await, Ok(vec![1]));
    assert_eq!(place.server.in_flight(), 0, "{what}");
}

/// A lane's first byte and `frames` behind it.
fn lane(frames: impl FnOnce(&mut BytesMut)) -> Vec<u8> {
    let mut out = BytesMut::from(&[LANE][..]);
    frames(&mut out);
    out.to_vec()
}

fn empty_call(out: &mut BytesMut, id: u32, method: u16) {
    put_call(out, id, method, &PLAIN, &Body::plain(Bytes::new()));
}

#[tokio::test]
async fn given_bytes_that_are_no_frames_then_the_connection_is_closed_and_nobody_else_notices() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let cases = [
        ("a stream of no kind", vec![77]),
        ("a frame of nothing", vec![LANE, 0, 0, 0, 0]),
        (
            "a frame of 4 GiB",
            vec![LANE, 0xff, 0xff, 0xff, 0xff, 2, 1, 1],
        ),
        (
            "a frame larger than a lane's",
            [&[LANE][..], &(1_u32 << 20).to_le_bytes(), &[2]].concat(),
        ),
        ("a kind of no frame", vec![LANE, 1, 0, 0, 0, 99]),
        ("a server's frame", vec![LANE, 6, 0, 0, 0, 4, 0, 1, 0, 0, 0]),
        ("a call cut short", vec![LANE, 3, 0, 0, 0, 2, 0, 1]),
        ("a call of no method", lane(|out| empty_call(out, 1, 0))),
        (
            "a number out of order",
            lane(|out| put_bind(out, 1, "test.v1.Probe/Echo")),
        ),
        (
            "a number taken",
            lane(|out| {
                put_bind(out, 0, "test.v1.Probe/Echo");
                put_bind(out, 0, "test.v1.Probe/About");
            }),
        ),
        ("a method without a name", lane(|out| put_bind(out, 0, ""))),
        (
            "a name too long",
            lane(|out| put_bind(out, 0, &"x".repeat(256))),
        ),
        (
            "too many methods",
            lane(|out| {
                for number in 0..=MAX_BOUND_METHODS {
                    put_bind(out, number, "a/b");
                }
            }),
        ),
        (
            "no text as a name",
            vec![LANE, 5, 0, 0, 0, 1, 0, 0, 0xff, 0xfe],
        ),
    ];
    for (what, bytes) in cases {
        is_thrown_out(what, &place, &bytes).await;
    }
    let mut state = 88_172_645_463_325_252_u64;
    let noise: Vec<u8> = (0..4096)
        .map(|_| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state as u8 | 1
        })
        .collect();
    is_thrown_out("noise", &place, &[&[LANE][..], &noise].concat()).await;
}

#[tokio::test]
async fn given_an_id_that_is_in_flight_then_a_second_call_with_it_ends_the_connection() {
    let probe = MyProbe {
        leave: Arc::new(tokio::sync::Semaphore::new(0)),
        ..MyProbe::default()
    };
    let place = serve(probe, ServerOptions::default());
    let bytes = lane(|out| {
        put_bind(out, 0, "test.v1.Probe/Pay");
        for _ in 0..2 {
            put_call(out, 7, 0, &PLAIN, &Body::plain(Bytes::from_static(&[1])));
        }
    });
    let raw = place.raw().await;
    let (mut send, _receive) = raw.open_bi().await.unwrap();
    send.write_all(&bytes).await.unwrap();
    let closed = tokio::time::timeout(DEADLINE, raw.closed()).await.unwrap();
    assert!(
        matches!(closed, ConnectionError::ApplicationClosed(close) if close.error_code == PROTOCOL_ERROR)
    );
    // And the call that ran is not left behind.
    eventually("nothing in flight", || place.server.in_flight() == 0).await;
}

#[tokio::test]
async fn given_more_lanes_than_a_client_may_have_then_the_connection_is_closed() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let raw = place.raw().await;
    let mut lanes = Vec::new();
    for _ in 0..17 {
        let (mut send, receive) = raw.open_bi().await.unwrap();
        let _ = send.write_all(&[LANE]).await;
        lanes.push((send, receive));
    }
    let closed = tokio::time::timeout(DEADLINE, raw.closed()).await.unwrap();
    assert!(
        matches!(closed, ConnectionError::ApplicationClosed(close) if close.error_code == PROTOCOL_ERROR)
    );
}

/// The next frame of a lane.
async fn next(receive: &mut RecvStream, reader: &mut FrameReader) -> Frame {
    let frame = async {
        loop {
            if let Some((kind, payload)) = reader.next_frame().unwrap() {
                return Frame::parse(kind, payload).unwrap();
            }
            let chunk = receive.read_chunk(usize::MAX, true).await.unwrap();
            reader.push(chunk.unwrap().bytes);
        }
    };
    tokio::time::timeout(DEADLINE, frame).await.unwrap()
}

fn failure(frame: Frame) -> (u32, Status) {
    match frame {
        Frame::Failure { id, failure } => (id, failure.status),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn given_calls_that_cannot_be_carried_out_then_each_is_answered_and_the_lane_goes_on() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let raw = place.raw().await;
    let (mut send, mut receive) = raw.open_bi().await.unwrap();
    let mut reader = FrameReader::new(1 << 20);
    let bomb = pack(Bytes::from(vec![0; 8 << 20]), Some(0));
    assert!(bomb.compressed && bomb.bytes.len() < 4096);
    let bytes = lane(|out| {
        put_bind(out, 0, "no.Such/Method");
        put_bind(out, 1, "test.v1.Probe/Count");
        put_bind(out, 2, "test.v1.Probe/Echo");
        put_bind(out, 3, "test.v1.Probe/Crash");
        empty_call(out, 1, 0);
        empty_call(out, 2, 1);
        put_call(out, 3, 2, &PLAIN, &bomb);
        let garbage = Body {
            bytes: Bytes::from_static(b"no zstandard"),
            compressed: true,
        };
        put_call(out, 4, 2, &PLAIN, &garbage);
        put_call(out, 5, 2, &PLAIN, &Body::plain(Bytes::from_static(&[9, 1])));
        put_call(out, 6, 3, &PLAIN, &Body::plain(Bytes::from_static(&[0])));
        put_call(out, 7, 2, &PLAIN, &Body::plain(Bytes::from_static(&[1, 5])));
    });
    send.write_all(&bytes).await.unwrap();
    for (id, code) in [
        (1, Code::Unimplemented),
        (2, Code::Unimplemented),
        (3, Code::ResourceExhausted),
        (4, Code::InvalidArgument),
        (5, Code::InvalidArgument),
        (6, Code::Internal),
    ] {
        let (answered, status) = failure(next(&mut receive, &mut reader).await);
        assert_eq!((answered, status.code()), (id, code), "{status}");
    }
    let last = next(&mut receive, &mut reader).await;
    let Frame::Reply { id: 7, body } = last else {
        panic!("{last:?}");
    };
    assert_eq!(&body.bytes[..], [1, 5]);
}

#[tokio::test]
async fn given_handlers_that_panic_then_their_callers_learn_it_and_others_are_answered() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let client = place.well_behaved().await;
    for later in [false, true] {
        let crashed = client.crash(Context::new(), later).await.unwrap_err();
        assert_eq!(crashed.code(), Code::Internal, "{crashed}");
    }
    assert_eq!(client.echo(Context::new(), vec![1]).await, Ok(vec![1]));
    let server = place.server.clone();
    eventually("nothing in flight", || server.in_flight() == 0).await;
}

#[tokio::test]
async fn given_streams_that_say_nothing_then_they_take_no_place_and_end_in_time() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let raw = place.raw().await;
    let mut silent = Vec::new();
    for _ in 0..500 {
        let (mut send, receive) = raw.open_bi().await.unwrap();
        send.write_all(&[CALL]).await.unwrap();
        silent.push((send, receive));
    }
    let other = place.well_behaved().await;
    assert_eq!(other.echo(Context::new(), vec![1]).await, Ok(vec![1]));
    assert_eq!(place.server.in_flight(), 0);
    for (_, receive) in &mut silent {
        let end = tokio::time::timeout(DEADLINE, receive.read_to_end(4096)).await;
        assert!(end.unwrap().is_ok_and(|answer| !answer.is_empty()));
    }
}

#[tokio::test]
async fn given_a_request_that_stops_in_the_middle_then_the_server_has_a_place_for_others() {
    let options = ServerOptions {
        max_calls: 4,
        ..ServerOptions::default()
    };
    let place = serve(MyProbe::default(), options);
    let raw = place.raw().await;
    let mut halves = Vec::new();
    for _ in 0..32 {
        let (mut send, receive) = raw.open_bi().await.unwrap();
        let mut out = BytesMut::from(&[CALL][..]);
        put_opening(&mut out, "test.v1.Probe/Echo", &PLAIN);
        let whole = out.len();
        put_part(
            &mut out,
            &Part::Message(Body::plain(vec![0; 100_000].into())),
        );
        send.write_all(&out[..whole + 50_000]).await.unwrap();
        halves.push((send, receive));
    }
    let other = place.well_behaved().await;
    for _ in 0..10 {
        assert_eq!(other.echo(Context::new(), vec![1]).await, Ok(vec![1]));
    }
}

/// Calls that go in one write.
const CALLS_AT_ONCE: u32 = 200;

/// Calls for big answers that nobody reads, until the server reads no more of them.
async fn flood(raw: &quinn::Connection, answer_bytes: u32) -> (usize, SendStream, RecvStream) {
    let (mut send, receive) = raw.open_bi().await.unwrap();
    send.write_all(&lane(|out| put_bind(out, 0, "test.v1.Probe/Inflate")))
        .await
        .unwrap();
    // As postcard writes a number.
    let mut request = Vec::new();
    let mut left = answer_bytes;
    while left >= 0x80 {
        request.push(left as u8 | 0x80);
        left >>= 7;
    }
    request.push(left as u8);
    let request = Body::plain(request.into());
    let mut sent = 0;
    for batch in 0_u32.. {
        let mut out = BytesMut::new();
        for id in 0..CALLS_AT_ONCE {
            put_call(&mut out, batch * CALLS_AT_ONCE + id, 0, &PLAIN, &request);
        }
        // Blocked for this long, the server has stopped to read.
        let write = tokio::time::timeout(Duration::from_secs(2), send.write_all(&out)).await;
        match write {
            Ok(written) => written.unwrap(),
            Err(_) => break,
        }
        sent += CALLS_AT_ONCE as usize;
        assert!(sent < 4_000_000, "the server reads on and on");
    }
    (sent, send, receive)
}

/// A client whose windows are so small that answers stay with the server.
fn reluctant() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(VarInt::from_u32(4 * 1024))
        .receive_window(VarInt::from_u32(16 * 1024));
    transport
}

/// Bytes of memory that this process has touched.
fn resident_bytes() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib: usize = line
        .and_then(|line| line.trim().strip_suffix(" kB"))
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    kib * 1024
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_a_client_that_calls_and_never_reads_then_memory_is_bounded_and_others_are_answered()
{
    let options = ServerOptions {
        max_calls: 64,
        max_calls_per_connection: 32,
        max_queued_bytes_per_connection: 1024 * 1024,
        compress_above: None,
        ..ServerOptions::default()
    };
    for answer_bytes in [30_000, 200_000] {
        let place = serve(MyProbe::default(), options);
        let other = place.well_behaved().await;
        let before = resident_bytes();
        let raws = join_all((0..4).map(|_| place.raw_with(reluctant()))).await;
        let flooding = join_all(raws.iter().map(|raw| flood(raw, answer_bytes)));
        let watching = async {
            let mut answered = 0;
            let end = Instant::now() + Duration::from_secs(2);
            while Instant::now() < end {
                let context = Context::deadline(DEADLINE);
                assert_eq!(other.echo(context, vec![1]).await, Ok(vec![1]));
                answered += 1;
                assert!(place.server.in_flight() <= 64 + 4 * 32);
            }
            answered
        };
        let (floods, answered) = tokio::join!(flooding, watching);
        assert!(
            answered >= 5,
            "another client got {answered} answers in two seconds"
        );
        for _ in 0..100 {
            assert_eq!(other.echo(Context::new(), vec![1]).await, Ok(vec![1]));
        }
        // What the four may have queued in answers, windows of requests and of sending, and room to breathe.
        let grown = resident_bytes().saturating_sub(before);
        let sent: usize = floods.iter().map(|(sent, ..)| sent).sum();
        println!("{answer_bytes}-byte answers: {sent} calls sent, {grown} bytes more in memory");
        assert!(grown < 192 * 1024 * 1024, "{grown} bytes more in memory");
    }
}

#[tokio::test]
async fn given_more_big_requests_than_there_is_room_for_then_they_wait_for_each_other_and_all_arrive()
 {
    let options = ServerOptions {
        max_message_bytes: 1024 * 1024,
        max_queued_bytes_per_connection: 2 * 1024 * 1024,
        ..ServerOptions::default()
    };
    let place = serve(MyProbe::default(), options);
    let client = place.well_behaved().await;
    // The room is for two of the largest.
    let calls = (0..32_u8).map(|number| {
        let client = client.clone();
        tokio::spawn(async move {
            let bytes: Vec<u8> = (0..1_000_000_u32)
                .map(|at| (at.wrapping_mul(2_654_435_761) >> 13) as u8 ^ number)
                .collect();
            let reply = client.echo(Context::new(), bytes.clone()).await;
            assert!(reply.unwrap() == bytes);
        })
    });
    for call in calls.collect::<Vec<_>>() {
        tokio::time::timeout(DEADLINE, call).await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn given_a_frame_in_a_stream_of_messages_that_only_servers_send_then_the_call_fails_alone() {
    let place = serve(MyProbe::default(), ServerOptions::default());
    let raw = place.raw().await;
    let (mut send, mut receive) = raw.open_bi().await.unwrap();
    let mut out = BytesMut::new();
    out.put_u8(CALL);
    put_opening(&mut out, "test.v1.Probe/Gather", &PLAIN);
    put_part(&mut out, &Part::End);
    send.write_all(&out).await.unwrap();
    let answer = receive.read_to_end(4096).await.unwrap();
    let mut reader = FrameReader::new(4096);
    reader.push(answer.into());
    let (kind, payload) = reader.next_frame().unwrap().unwrap();
    let Part::Failure(failure) = Part::parse(kind, payload).unwrap() else {
        panic!("no failure");
    };
    assert_eq!(failure.status.code(), Code::Internal);
    assert!(raw.close_reason().is_none());
}
