//! gRPC over the wire, spoken by hand: what stock clients rely on, and what none of them sends.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "grpc/client.rs"]
mod client;
mod support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use client::{Ask, Key, Raw, message};
use futures::{Stream, StreamExt, stream};
use prost::Message;
use support::{Organization, eventually};
use warren_rpc::{
    ApplicationError, Code, Context, DescriptorsError, Server, ServerOptions, Status, Streaming, ms,
};

#[derive(Clone, PartialEq, Message)]
struct Text {
    #[prost(string, tag = "1")]
    text: String,
}

fn text(text: impl Into<String>) -> Text {
    Text { text: text.into() }
}

#[derive(Clone, PartialEq, Message)]
struct Refusal {
    #[prost(string, tag = "1")]
    reason: String,
}

impl std::error::Error for Refusal {}

impl ApplicationError for Refusal {
    fn code(&self) -> Code {
        Code::FailedPrecondition
    }
}

impl std::fmt::Display for Refusal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "100 % refused: {}", self.reason)
    }
}

#[warren_rpc::service(package = "test.v1", codec = prost)]
trait Probe {
    /// Does what the text says.
    async fn act(&self, ctx: Context, request: Text) -> Result<Text, Refusal>;
    /// As many texts as the text says.
    async fn count(&self, ctx: Context, request: Text) -> impl Stream<Item = Result<Text, Status>>;
    /// All texts in one.
    async fn join(&self, ctx: Context, requests: Streaming<Text>) -> Result<Text, Status>;
    /// Each text as it comes.
    async fn echo(
        &self,
        ctx: Context,
        requests: Streaming<Text>,
    ) -> impl Stream<Item = Result<Text, Status>>;
}

#[warren_rpc::service(package = "test.v1")]
trait Rusty {
    async fn act(&self, ctx: Context, request: String) -> Result<String, Status>;
}

#[derive(Default)]
struct MyProbe {
    running: Arc<AtomicUsize>,
}

/// Counted while a handler lives.
struct Alive(Arc<AtomicUsize>);

impl Alive {
    fn new(of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(1, Ordering::SeqCst);
        Self(Arc::clone(of))
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Probe for MyProbe {
    async fn act(&self, ctx: Context, request: Text) -> Result<Text, Refusal> {
        let _alive = Alive::new(&self.running);
        match request.text.as_str() {
            "wait" => std::future::pending().await,
            "a moment" => {
                tokio::time::sleep(ms(300)).await;
                Ok(text("rested"))
            }
            "panic" => panic!("as asked"),
            "refuse" => Err(Refusal {
                reason: "nämlich so".into(),
            }),
            "who" => Ok(text(ctx.caller().unwrap().peer_id.to_string())),
            key if key.starts_with("metadata ") => {
                let value = ctx.metadata(&key["metadata ".len()..]);
                Ok(text(value.unwrap_or("none")))
            }
            other => Ok(text(other)),
        }
    }

    async fn count(&self, _: Context, request: Text) -> impl Stream<Item = Result<Text, Status>> {
        let alive = Alive::new(&self.running);
        let end: u64 = request.text.parse().unwrap();
        stream::iter(0..end).map(move |number| {
            let _alive = &alive;
            // Big enough that a thousand of them fill every window.
            Ok(text(format!("{number:010000}")))
        })
    }

    async fn join(&self, _: Context, requests: Streaming<Text>) -> Result<Text, Status> {
        let texts: Vec<_> = requests.collect().await;
        let texts: Result<Vec<_>, Status> = texts.into_iter().collect();
        let texts: Vec<_> = texts?.into_iter().map(|it| it.text).collect();
        Ok(text(texts.join(" ")))
    }

    async fn echo(
        &self,
        _: Context,
        requests: Streaming<Text>,
    ) -> impl Stream<Item = Result<Text, Status>> {
        let alive = Alive::new(&self.running);
        requests.inspect(move |_| {
            let _alive = &alive;
        })
    }
}

struct MyRusty;

impl Rusty for MyRusty {
    async fn act(&self, _: Context, request: String) -> Result<String, Status> {
        Ok(request)
    }
}

/// A server, and how many of its handlers run.
struct World {
    organization: Organization,
    server: Server,
    running: Arc<AtomicUsize>,
}

impl World {
    fn new() -> Self {
        Self::with(ServerOptions::default())
    }

    fn with(options: ServerOptions) -> Self {
        let organization = Organization::new("org_grpc");
        let server = Server::builder()
            .with_trust(organization.member(&["worker"]))
            .with_options(options)
            .with_grpc("127.0.0.1:0".parse().unwrap())
            .bind("127.0.0.1:0".parse().unwrap())
            .unwrap();
        let probe = MyProbe::default();
        let running = Arc::clone(&probe.running);
        server.register(ProbeServer::new(probe));
        server.register(RustyServer::new(MyRusty));
        let serving = server.clone();
        tokio::spawn(async move { serving.run().await });
        Self {
            organization,
            server,
            running,
        }
    }

    /// A new member's connection.
    async fn connect(&self) -> Raw {
        let member = self.organization.member(&[]);
        self.connect_as(&member, Key::Companion).await.unwrap()
    }

    async fn connect_as(
        &self,
        member: &warren_identity::Trust,
        key: Key,
    ) -> Result<Raw, std::io::Error> {
        let address = self.server.grpc_address().unwrap();
        Raw::connect(address, &self.organization.ca, member, key).await
    }

    async fn idle(&self) {
        eventually("no handler runs", || {
            self.running.load(Ordering::SeqCst) == 0 && self.server.in_flight() == 0
        })
        .await;
    }

    async fn busy(&self) {
        eventually("a handler runs", || {
            self.running.load(Ordering::SeqCst) == 1
        })
        .await;
    }
}

const ACT: &str = "/test.v1.Probe/Act";
const COUNT: &str = "/test.v1.Probe/Count";

fn texts(answer: &client::Answer) -> Vec<String> {
    let texts = answer.messages.iter();
    texts
        .map(|bytes| Text::decode(&bytes[..]).unwrap().text)
        .collect()
}

#[tokio::test]
async fn given_calls_of_all_four_kinds_then_each_is_answered() {
    let world = World::new();
    let mut raw = world.connect().await;
    let one = raw.call(Ask::to(ACT).message(&text("hello"))).await;
    assert_eq!((one.status, texts(&one)), (0, vec!["hello".to_owned()]));
    assert_eq!(one.headers["content-type"], "application/grpc");

    let many = raw.call(Ask::to(COUNT).message(&text("3"))).await;
    assert_eq!((many.status, many.messages.len()), (0, 3));
    let none = raw.call(Ask::to(COUNT).message(&text("0"))).await;
    assert_eq!((none.status, none.messages.len()), (0, 0));

    for (path, answered) in [
        ("/test.v1.Probe/Join", vec!["a b"]),
        ("/test.v1.Probe/Echo", vec!["a", "b"]),
    ] {
        let ask = Ask::to(path).message(&text("a")).message(&text("b"));
        let answer = raw.call(ask).await;
        assert_eq!(
            (answer.status, texts(&answer)),
            (0, answered.into_iter().map(str::to_owned).collect())
        );
    }
    world.idle().await;
}

#[tokio::test]
async fn given_a_leaf_or_its_companion_then_the_handler_sees_the_same_member() {
    let world = World::new();
    let member = world.organization.member(&[]);
    for key in [Key::Node, Key::Companion] {
        let mut raw = world.connect_as(&member, key).await.unwrap();
        let answer = raw.call(Ask::to(ACT).message(&text("who"))).await;
        assert_eq!(texts(&answer), [member.peer_id().to_string()]);
    }
}

#[tokio::test]
async fn given_metadata_then_the_handler_gets_it() {
    let world = World::new();
    let mut raw = world.connect().await;
    for (key, value, got) in [
        ("trace", "on", "on"),
        ("blob-bin", "AAEC/w", "AAEC/w"),
        ("grpc-tags", "x", "none"),
    ] {
        let ask = Ask::to(ACT).header(key, value);
        let answer = raw
            .call(ask.message(&text(format!("metadata {key}"))))
            .await;
        assert_eq!(texts(&answer), [got], "{key}");
    }
    let long = "x".repeat(8 * 1024);
    let ask = Ask::to(ACT).header("long", &long).message(&text("hello"));
    assert_eq!(raw.call(ask).await.status, Code::ResourceExhausted as u32);
}

#[tokio::test]
async fn given_handlers_that_fail_then_the_status_says_how() {
    let world = World::new();
    let mut raw = world.connect().await;
    let refused = raw.call(Ask::to(ACT).message(&text("refuse"))).await;
    assert_eq!(refused.status, Code::FailedPrecondition as u32);
    assert_eq!(
        refused.trailers["grpc-message"],
        "100 %25 refused: n%C3%A4mlich so"
    );
    // The error itself: base64 of its protobuf, without padding.
    assert_eq!(
        refused.trailers["application-error-bin"],
        "Cgtuw6RtbGljaCBzbw"
    );
    let panicked = raw.call(Ask::to(ACT).message(&text("panic"))).await;
    assert_eq!(panicked.status, Code::Internal as u32);
    let garbled = raw.call(Ask::to(ACT).bytes(&message(&[255]))).await;
    assert_eq!(garbled.status, Code::InvalidArgument as u32);
    world.idle().await;
}

#[tokio::test]
async fn given_a_deadline_when_it_passes_then_the_caller_is_told_and_the_handler_dropped() {
    let world = World::new();
    let mut raw = world.connect().await;
    for ask in [
        Ask::to(ACT).message(&text("wait")),
        Ask::to("/test.v1.Probe/Echo").left_open(),
        // Its request never ends.
        Ask::to(ACT).left_open(),
    ] {
        let answer = raw.call(ask.header("grpc-timeout", "100m")).await;
        assert_eq!(answer.status, Code::DeadlineExceeded as u32);
        world.idle().await;
    }
}

#[tokio::test]
async fn given_a_caller_that_does_not_read_when_its_deadline_passes_then_its_place_is_free() {
    let world = World::new();
    let mut raw = world.connect().await;
    let ask = Ask::to(COUNT).message(&text("100000"));
    let unread = raw.begin(ask.header("grpc-timeout", "400m")).await;
    world.busy().await;
    world.idle().await;
    drop(unread);
}

#[tokio::test]
async fn given_a_caller_that_resets_its_stream_then_the_handler_is_dropped() {
    let world = World::new();
    let mut raw = world.connect().await;
    for ask in [
        Ask::to(ACT).message(&text("wait")),
        Ask::to(COUNT).message(&text("100000")),
        Ask::to("/test.v1.Probe/Echo")
            .message(&text("a"))
            .left_open(),
    ] {
        let mut begun = raw.begin(ask).await;
        world.busy().await;
        begun.reset();
        world.idle().await;
    }
}

#[tokio::test]
async fn given_a_connection_that_breaks_then_its_handlers_are_dropped() {
    let world = World::new();
    let mut raw = world.connect().await;
    let _begun = raw.begin(Ask::to(ACT).message(&text("wait"))).await;
    world.busy().await;
    raw.break_off();
    world.idle().await;
}

#[tokio::test]
async fn given_heads_that_are_no_call_then_http_says_so() {
    let world = World::new();
    let mut raw = world.connect().await;
    for (ask, status) in [
        (Ask::to(ACT).method("GET"), 405),
        (Ask::to(ACT).header("content-type", "application/json"), 415),
        (
            Ask::to(ACT).header("content-type", "application/grpc-web"),
            415,
        ),
        (Ask::to(ACT).without("content-type"), 415),
    ] {
        let answer = raw.call(ask.message(&text("hello"))).await;
        assert_eq!(answer.http, status);
    }
}

#[tokio::test]
async fn given_heads_of_calls_that_cannot_be_then_the_status_says_why() {
    let world = World::new();
    let mut raw = world.connect().await;
    let cases = [
        (Ask::to(ACT).without("te"), Code::Internal, "te: trailers"),
        (
            Ask::to("/test.v1.Probe/Nothing"),
            Code::Unimplemented,
            "no method",
        ),
        (Ask::to("/"), Code::Unimplemented, "no method"),
        (
            Ask::to("/test.v1.Rusty/Act"),
            Code::Unimplemented,
            "codec = postcard",
        ),
        (
            Ask::to(ACT).header("grpc-encoding", "gzip"),
            Code::Unimplemented,
            "gzip",
        ),
        (
            Ask::to(ACT).header("grpc-timeout", "1.5S"),
            Code::InvalidArgument,
            "grpc-timeout",
        ),
        (
            Ask::to(ACT).header("content-type", "application/grpc+json"),
            Code::Unimplemented,
            "protobuf",
        ),
    ];
    for (ask, code, why) in cases {
        let answer = raw.call(ask.message(&text("hello"))).await;
        assert_eq!((answer.http, answer.status), (200, code as u32), "{why}");
        let message = answer.trailers["grpc-message"].to_str().unwrap();
        assert!(message.contains(why), "{message}");
    }
    let compressed = Ask::to(ACT).header("grpc-encoding", "gzip");
    let answer = raw.call(compressed.message(&text("hello"))).await;
    assert_eq!(answer.trailers["grpc-accept-encoding"], "identity");
}

#[tokio::test]
async fn given_bodies_that_are_no_messages_then_the_status_says_why_and_others_are_served() {
    let world = World::with(ServerOptions {
        max_message_bytes: 1_000,
        ..ServerOptions::default()
    });
    let mut raw = world.connect().await;
    let hello = message(&text("hello").encode_to_vec());
    let cases: [(&str, Vec<u8>, Code); 8] = [
        ("half a prefix", vec![0, 0], Code::Internal),
        ("half a message", hello[..6].to_vec(), Code::Internal),
        ("compressed", [&[1], &hello[1..]].concat(), Code::Internal),
        (
            "a flag nobody knows",
            [&[2], &hello[1..]].concat(),
            Code::Internal,
        ),
        (
            "4 GiB announced",
            vec![0, 255, 255, 255, 255],
            Code::ResourceExhausted,
        ),
        ("too long", message(&[0; 1_001]), Code::ResourceExhausted),
        ("nothing", Vec::new(), Code::Unimplemented),
        (
            "two requests of one",
            [&hello[..], &hello].concat(),
            Code::Unimplemented,
        ),
    ];
    for (what, body, code) in cases {
        let answer = raw.call(Ask::to(ACT).bytes(&body)).await;
        assert_eq!(answer.status, code as u32, "{what}");
    }
    let answer = raw.call(Ask::to(ACT).bytes(&hello)).await;
    assert_eq!(answer.status, 0);
    world.idle().await;
}

#[tokio::test]
async fn given_all_places_taken_over_quic_when_a_grpc_client_calls_then_it_is_told_when_to_return()
{
    let world = World::with(ServerOptions {
        max_calls: 1,
        ..ServerOptions::default()
    });
    let quic = world.server.local_address().unwrap();
    let probe = ProbeClient::new(world.organization.connect(quic).await);
    let waiting = tokio::spawn(async move { probe.act(Context::new(), text("wait")).await });
    world.busy().await;
    let mut raw = world.connect().await;
    let refused = raw.call(Ask::to(ACT).message(&text("hello"))).await;
    assert_eq!(refused.status, Code::ResourceExhausted as u32);
    let pushback = refused.trailers["grpc-retry-pushback-ms"].to_str().unwrap();
    assert!((1..=1_000).contains(&pushback.parse::<u64>().unwrap()));
    // Whoever asks for its health is answered all the same.
    let health = raw
        .call(Ask::to("/grpc.health.v1.Health/Check").message(&text("")))
        .await;
    assert_eq!(health.status, 0);
    waiting.abort();
    world.idle().await;
    let answer = raw.call(Ask::to(ACT).message(&text("hello"))).await;
    assert_eq!(answer.status, 0);
}

#[tokio::test]
async fn given_a_drain_then_running_calls_are_answered_and_new_ones_refused_without_effect() {
    let world = World::new();
    let mut raw = world.connect().await;
    let begun = raw.begin(Ask::to(ACT).message(&text("a moment"))).await;
    let mut watch = raw
        .begin(Ask::to("/grpc.health.v1.Health/Watch").message(&text("")))
        .await;
    let serving = watch.message().await.unwrap();
    assert_eq!(serving, Bytes::from_static(&[8, 1]));
    world.busy().await;

    let server = world.server.clone();
    let drain = tokio::spawn(async move { server.shutdown().await });
    assert_eq!(watch.message().await.unwrap(), Bytes::from_static(&[8, 2]));
    assert_eq!(watch.end().await.status, Code::Unavailable as u32);
    // The stream is refused, or the farewell has arrived already: nothing was done either way.
    assert!(
        raw.try_call(Ask::to(ACT).message(&text("hello")))
            .await
            .is_err()
    );
    let answer = begun.end().await;
    assert_eq!(
        (answer.status, texts(&answer)),
        (0, vec!["rested".to_owned()])
    );
    let report = tokio::time::timeout(support::DEADLINE, drain)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(report.cut, 0);
    assert!(report.took < Duration::from_secs(2), "{report:?}");
    let member = world.organization.member(&[]);
    assert!(world.connect_as(&member, Key::Companion).await.is_err());
}

#[tokio::test]
async fn given_the_health_of_services_then_it_is_told_and_a_new_one_is_noticed() {
    let world = World::new();
    let mut raw = world.connect().await;
    let check = |service: &str| Ask::to("/grpc.health.v1.Health/Check").message(&text(service));
    for service in ["", "test.v1.Probe"] {
        let answer = raw.call(check(service)).await;
        assert_eq!(answer.messages, [Bytes::from_static(&[8, 1])], "{service}");
    }
    let unknown = raw.call(check("test.v1.Late")).await;
    assert_eq!(unknown.status, Code::NotFound as u32);

    let watch = Ask::to("/grpc.health.v1.Health/Watch").message(&text("late.v1.Late"));
    let mut watch = raw.begin(watch).await;
    assert_eq!(watch.message().await.unwrap(), Bytes::from_static(&[8, 3]));
    world.server.register(late::LateServer::new(late::MyLate));
    assert_eq!(watch.message().await.unwrap(), Bytes::from_static(&[8, 1]));
}

mod late {
    use super::{Context, Status, Text};

    #[warren_rpc::service(package = "late.v1", codec = prost)]
    pub(super) trait Late {
        async fn act(&self, ctx: Context, request: Text) -> Result<Text, Status>;
    }

    pub(super) struct MyLate;

    impl Late for MyLate {
        async fn act(&self, _: Context, request: Text) -> Result<Text, Status> {
            Ok(request)
        }
    }
}

#[tokio::test]
async fn given_who_is_no_member_then_the_handshake_fails() {
    let world = World::new();
    let stranger = Organization::new("org_grpc").member(&[]);
    for key in [Key::Node, Key::Companion, Key::None] {
        let refused = world.connect_as(&stranger, key).await;
        assert!(refused.is_err(), "{key:?}");
    }
}

#[tokio::test]
async fn given_a_client_that_speaks_something_else_then_it_is_let_go() {
    let world = World::new();
    let address = world.server.grpc_address().unwrap();
    let member = world.organization.member(&[]);
    let tls = client::tls(&world.organization.ca, &member, Key::Companion);
    let said = client::say(address, tls, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
    assert_eq!(said, b"");
}

#[tokio::test]
async fn given_descriptors_that_are_none_then_they_are_refused() {
    let world = World::new();
    let refused = world.server.register_descriptors(b"\xff");
    assert!(matches!(refused, Err(DescriptorsError::Malformed(_))));
}

#[tokio::test]
async fn given_a_running_server_when_grpc_is_added_then_it_is_served_there_too() {
    let world = World::new();
    let address = world
        .server
        .serve_grpc("127.0.0.1:0".parse().unwrap())
        .unwrap();
    let member = world.organization.member(&[]);
    let raw = Raw::connect(address, &world.organization.ca, &member, Key::Companion).await;
    let answer = raw
        .unwrap()
        .call(Ask::to(ACT).message(&text("hello")))
        .await;
    assert_eq!(answer.status, 0);
}
