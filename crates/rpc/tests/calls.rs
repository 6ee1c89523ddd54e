//! Calls between two ends over real QUIC on loopback, without the code that the attribute writes.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::borrow::Cow;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use support::{Organization, eventually};
use tokio::sync::Notify;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{
    BoxFuture, Caller, Client, ClientOptions, Code, Context, Encoding, Failure, Incoming, Kind,
    Method, Outgoing, Server, ServerOptions, Service, ServiceDescriptor, Status, ms,
};

const METHODS: &[Method] = &[
    method("test.Parrot/echo", Kind::Unary),
    method("test.Parrot/wait", Kind::Unary),
    method("test.Parrot/refuse", Kind::Unary),
    method("test.Parrot/who", Kind::Unary),
    method("test.Parrot/repeat", Kind::Bidirectional),
];
const ECHO: &Method = &METHODS[0];
const WAIT: &Method = &METHODS[1];
const REFUSE: &Method = &METHODS[2];
const WHO: &Method = &METHODS[3];
const REPEAT: &Method = &METHODS[4];

const fn method(path: &'static str, kind: Kind) -> Method {
    Method {
        path: Cow::Borrowed(path),
        kind,
        idempotent: false,
        permission: None,
    }
}

/// Says again what it hears; waits where it is told.
#[derive(Clone, Default)]
struct Parrot {
    waiting: Arc<AtomicUsize>,
    go_on: Arc<Notify>,
}

/// Counts a handler while it lives.
struct Waiting(Arc<AtomicUsize>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

impl Service for Parrot {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
            name: "test.Parrot",
            encoding: Encoding::Postcard,
            methods: METHODS,
        };
        &DESCRIPTOR
    }

    fn unary(
        &self,
        method: usize,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        let this = self.clone();
        Box::pin(async move {
            match method {
                0 => Ok(request),
                1 => {
                    this.waiting.fetch_add(1, Ordering::SeqCst);
                    let _waiting = Waiting(this.waiting);
                    this.go_on.notified().await;
                    Ok(request)
                }
                2 => Err(Failure::Application {
                    encoded: request,
                    status: Status::new(Code::NotFound, "no such thing"),
                }),
                _ => {
                    let caller = context.caller().unwrap().peer_id.to_string();
                    let token = context.metadata("token").unwrap_or_default();
                    Ok(Bytes::from(format!("{caller} {token}")))
                }
            }
        })
    }

    fn streaming(
        &self,
        _method: usize,
        _context: Context,
        mut incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        Box::pin(async move {
            while let Some(message) = incoming.next().await {
                outgoing.send(message?).await?;
            }
            Ok(())
        })
    }
}

fn status(result: Result<Bytes, Failure>) -> Status {
    match result.unwrap_err() {
        Failure::Status(status) | Failure::Application { status, .. } => status,
    }
}

#[tokio::test]
async fn given_a_member_when_it_calls_then_every_answer_is_its_own() {
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let calls = (0..1000_u32).map(|n| {
        let connection = connection.clone();
        tokio::spawn(async move {
            let request = Bytes::copy_from_slice(&n.to_be_bytes());
            let reply = connection
                .unary(ECHO, Context::new(), request.clone())
                .await;
            assert_eq!(reply, Ok(request));
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    assert_eq!(connection.in_flight(), 0);
}

#[tokio::test]
async fn given_a_big_request_then_it_comes_back_whole_and_small_ones_pass_it() {
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let big: Vec<u8> = (0..5_000_000_u32).map(|n| (n ^ (n >> 7)) as u8).collect();
    let big = Bytes::from(big);
    let (echoed, small) = tokio::join!(
        connection.unary(ECHO, Context::new(), big.clone()),
        connection.unary(ECHO, Context::new(), Bytes::from_static(b"small")),
    );
    assert!(echoed.unwrap() == big);
    assert_eq!(small.unwrap(), "small");
}

#[tokio::test]
async fn given_a_request_beyond_the_limit_then_both_ends_refuse_it() {
    let organization = Organization::new("org_test");
    let options = ServerOptions {
        max_message_bytes: 1000,
        ..ServerOptions::default()
    };
    let (_server, address) = organization.serve(Parrot::default(), options);
    let connection = organization.connect(address).await;
    let request = Bytes::from(vec![b'a'; 1001]);
    let refused = status(connection.unary(ECHO, Context::new(), request).await);
    assert_eq!(refused.code(), Code::ResourceExhausted);
    let small = connection
        .unary(ECHO, Context::new(), Bytes::from_static(b"fits"))
        .await;
    assert_eq!(small.unwrap(), "fits");
}

#[tokio::test]
async fn given_a_deadline_when_the_handler_takes_longer_then_both_ends_give_up() {
    let organization = Organization::new("org_test");
    let parrot = Parrot::default();
    let (server, address) = organization.serve(parrot.clone(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let begun = Instant::now();
    let late = connection
        .unary(WAIT, Context::deadline(ms(100)), Bytes::new())
        .await;
    assert_eq!(status(late).code(), Code::DeadlineExceeded);
    assert!(begun.elapsed() >= Duration::from_millis(100));
    eventually("the handler ends", || {
        parrot.waiting.load(Ordering::SeqCst) == 0
    })
    .await;
    eventually("its place is free", || server.in_flight() == 0).await;
}

#[tokio::test]
async fn given_a_caller_that_goes_away_then_the_handler_is_dropped() {
    let organization = Organization::new("org_test");
    let parrot = Parrot::default();
    let (server, address) = organization.serve(parrot.clone(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let calling = connection.clone();
    let call = tokio::spawn(async move { calling.unary(WAIT, Context::new(), Bytes::new()).await });
    eventually("the handler runs", || {
        parrot.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    call.abort();
    eventually("the handler ends", || {
        parrot.waiting.load(Ordering::SeqCst) == 0
    })
    .await;
    eventually("its place is free", || server.in_flight() == 0).await;
    eventually("its id is free", || connection.in_flight() == 0).await;
}

#[tokio::test]
async fn given_an_error_of_the_service_then_it_crosses_the_wire_as_it_is() {
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let refused = connection
        .unary(REFUSE, Context::new(), Bytes::from_static(b"why"))
        .await;
    let Err(Failure::Application { encoded, status }) = refused else {
        panic!("{refused:?}");
    };
    assert_eq!((&encoded[..], status.code()), (&b"why"[..], Code::NotFound));
}

#[tokio::test]
async fn given_a_call_then_the_handler_knows_who_calls_and_what_came_along() {
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let trust = organization.member(&[]);
    let peer = trust.peer_id();
    let connection = Client::new(trust, ClientOptions::default())
        .unwrap()
        .connect(address, ExpectedPeer::AnyMember)
        .await
        .unwrap();
    let context = Context::new().with_metadata("token", "abc").unwrap();
    let who = connection.unary(WHO, context, Bytes::new()).await.unwrap();
    assert_eq!(who, format!("{peer} abc"));
}

#[tokio::test]
async fn given_a_method_that_is_not_there_then_it_is_said() {
    const MISSING: &Method = &method("test.Parrot/sing", Kind::Unary);
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let refused = status(
        connection
            .unary(MISSING, Context::new(), Bytes::new())
            .await,
    );
    assert_eq!(refused.code(), Code::Unimplemented);
    assert!(refused.message().contains("test.Parrot/sing"), "{refused}");
}

#[tokio::test]
async fn given_more_calls_than_the_server_takes_then_the_rest_is_told_when_to_come_back() {
    let organization = Organization::new("org_test");
    let options = ServerOptions {
        max_calls: 2,
        ..ServerOptions::default()
    };
    let parrot = Parrot::default();
    let (_server, address) = organization.serve(parrot.clone(), options);
    let connection = organization.connect(address).await;
    let waiting: Vec<_> = (0..2)
        .map(|_| {
            let connection = connection.clone();
            tokio::spawn(async move { connection.unary(WAIT, Context::new(), Bytes::new()).await })
        })
        .collect();
    eventually("both wait", || parrot.waiting.load(Ordering::SeqCst) == 2).await;
    let refused = status(connection.unary(ECHO, Context::new(), Bytes::new()).await);
    assert!(
        refused.retry_after().is_some() && refused.had_no_effect(),
        "{refused:?}"
    );
    parrot.go_on.notify_waiters();
    for call in waiting {
        call.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn given_a_stream_each_way_then_messages_come_back_in_order() {
    let organization = Organization::new("org_test");
    let (_server, address) = organization.serve(Parrot::default(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let requests = Incoming::new(futures::stream::iter(
        (0..1000_u32).map(|n| Ok(Bytes::copy_from_slice(&n.to_be_bytes()))),
    ));
    let responses = connection
        .streaming(REPEAT, Context::new(), requests)
        .await
        .unwrap();
    let responses: Vec<_> = responses.map(Result::unwrap).collect().await;
    let expected: Vec<_> = (0..1000_u32)
        .map(|n| Bytes::copy_from_slice(&n.to_be_bytes()))
        .collect();
    assert_eq!(responses, expected);
}

#[tokio::test]
async fn given_a_stranger_or_the_wrong_server_then_there_is_no_connection() {
    let (ours, theirs) = (
        Organization::new("org_ours"),
        Organization::new("org_theirs"),
    );
    let (_server, address) = ours.serve(Parrot::default(), ServerOptions::default());
    let stranger = Client::new(theirs.member(&[]), ClientOptions::default()).unwrap();
    assert!(
        stranger
            .connect(address, ExpectedPeer::AnyMember)
            .await
            .is_err()
    );
    let member = Client::new(ours.member(&[]), ClientOptions::default()).unwrap();
    let director = ExpectedPeer::Capability(warren_identity::Capability::Director);
    assert!(member.connect(address, director).await.is_err());
}

#[tokio::test]
async fn given_a_drain_then_calls_in_flight_are_answered_and_new_ones_refused() {
    let organization = Organization::new("org_test");
    let parrot = Parrot::default();
    let (server, address) = organization.serve(parrot.clone(), ServerOptions::default());
    let connection = organization.connect(address).await;
    let calling = connection.clone();
    let call = tokio::spawn(async move {
        calling
            .unary(WAIT, Context::new(), Bytes::from_static(b"in flight"))
            .await
    });
    eventually("the handler runs", || {
        parrot.waiting.load(Ordering::SeqCst) == 1
    })
    .await;
    let draining = server.clone();
    let drain = tokio::spawn(async move { draining.shutdown().await });
    connection.unusable().await;
    let refused = status(connection.unary(ECHO, Context::new(), Bytes::new()).await);
    assert!(
        refused.code() == Code::Unavailable && refused.had_no_effect(),
        "{refused:?}"
    );
    parrot.go_on.notify_waiters();
    assert_eq!(call.await.unwrap().unwrap(), "in flight");
    assert_eq!(drain.await.unwrap().cut, 0);
}

/// Passes every call on to another server.
struct Relay(warren_rpc::Connection);

fn passed_on(path: &str, context: &Context, kind: Kind) -> Method {
    Method {
        path: Cow::Owned(path.to_owned()),
        kind,
        idempotent: context.is_idempotent(),
        permission: None,
    }
}

impl warren_rpc::Fallback for Relay {
    fn unary(
        &self,
        path: &str,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        let method = passed_on(path, &context, Kind::Unary);
        let next = self.0.clone();
        Box::pin(async move { next.unary(&method, context, request).await })
    }

    fn streaming(
        &self,
        path: &str,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        let method = passed_on(path, &context, Kind::Bidirectional);
        let next = self.0.clone();
        Box::pin(async move {
            let mut responses = next.streaming(&method, context, incoming).await?;
            while let Some(response) = responses.next().await {
                outgoing.send(response?).await?;
            }
            Ok(())
        })
    }
}

#[tokio::test]
async fn given_a_server_that_passes_calls_on_then_all_kinds_of_calls_go_through_it() {
    let organization = Organization::new("org_test");
    let (_worker, behind) = organization.serve(Parrot::default(), ServerOptions::default());
    let relay = Server::builder()
        .with_trust(organization.member(&["director"]))
        .bind("127.0.0.1:0".parse().unwrap())
        .unwrap();
    relay.set_fallback(Relay(organization.connect(behind).await));
    let address = relay.local_address().unwrap();
    tokio::spawn(async move { relay.run().await });
    let connection = organization.connect(address).await;

    let small = connection
        .unary(ECHO, Context::new(), Bytes::from_static(b"small"))
        .await;
    assert_eq!(small.unwrap(), "small");
    let big = Bytes::from(vec![7; 300_000]);
    let echoed = connection.unary(ECHO, Context::new(), big.clone()).await;
    assert!(echoed.unwrap() == big);
    let requests = Incoming::new(futures::stream::iter([Ok(Bytes::from_static(b"one"))]));
    let responses = connection
        .streaming(REPEAT, Context::new(), requests)
        .await
        .unwrap();
    let responses: Vec<_> = responses.map(Result::unwrap).collect().await;
    assert_eq!(responses, ["one"]);
    let missing = status(
        connection
            .unary(
                &method("no/such", Kind::Unary),
                Context::new(),
                Bytes::new(),
            )
            .await,
    );
    assert_eq!(missing.code(), Code::Unimplemented);
}
