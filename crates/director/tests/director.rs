//! Calls through directors, over real connections on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use support::{Answering, Organization, eventually, method, target};
use tokio::sync::watch;
use warren_balance::Place;
use warren_director::origin::origin;
use warren_director::{Director, DirectorOptions};
use warren_identity::PeerId;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{
    Caller, Code, Connection, Context, Failure, Incoming, Kind, Pool, PoolOptions, Server, Status,
    Target, ms,
};

fn text(answer: Result<Bytes, Failure>) -> String {
    String::from_utf8(answer.unwrap().to_vec()).unwrap()
}

fn status(answer: Result<Bytes, Failure>) -> Status {
    Status::from(answer.unwrap_err())
}

/// A worker that answers with its name.
fn worker(organization: &Organization, name: &'static str) -> (Server, SocketAddr) {
    organization.serve(
        &["worker"],
        Answering(move |_: &str, _: &Context, _| Ok(Bytes::from_static(name.as_bytes()))),
    )
}

/// A director in `region` over these targets.
fn director(
    organization: &Organization,
    region: Option<&str>,
    targets: Vec<Target>,
) -> (Server, SocketAddr, Director) {
    let options = DirectorOptions {
        here: Place {
            region: region.map(str::to_owned),
            zone: None,
        },
        pool: PoolOptions {
            wait_for_server: Duration::from_millis(500),
            ..PoolOptions::default()
        },
    };
    let client = organization.client(&["director"]);
    let director = Director::new(client, watch::Sender::new(targets).subscribe(), options);
    let (server, address) = organization.serve(&["director"], director.clone());
    (server, address, director)
}

async fn connected(director: &Director, servers: usize) {
    eventually("the director is connected", || {
        director.pool().servers().len() == servers
    })
    .await;
}

async fn call(connection: &Connection, context: Context) -> Result<Bytes, Failure> {
    connection
        .unary(&method("any/thing", true), context, Bytes::new())
        .await
}

#[tokio::test]
async fn given_a_call_of_any_method_then_a_worker_answers_with_path_metadata_and_time_left() {
    let organization = Organization::new();
    let (_worker, at) = organization.serve(
        &["worker"],
        Answering(|path: &str, context: &Context, request: Bytes| {
            let left = context.remaining(std::time::Instant::now()).unwrap();
            let key = context.metadata("key").unwrap_or_default();
            let told = format!(
                "{path} {key} {} {} {}",
                request.len(),
                context.is_idempotent(),
                left <= ms(5_000)
            );
            Ok(Bytes::from(told))
        }),
    );
    let (_server, address, director) =
        director(&organization, None, vec![target(at, "worker", None)]);
    connected(&director, 1).await;
    let connection = organization.connect(&[], address).await;
    let context = Context::deadline(ms(5_000))
        .with_metadata("key", "value")
        .unwrap();

    let answer = connection
        .unary(
            &method("some.Service/Method", true),
            context,
            Bytes::from_static(b"12345"),
        )
        .await;

    assert_eq!(text(answer), "some.Service/Method value 5 true true");
}

#[tokio::test]
async fn given_a_stream_then_it_goes_through_the_director_too() {
    let organization = Organization::new();
    let (_worker, at) = worker(&organization, "first");
    let (_server, address, director) =
        director(&organization, None, vec![target(at, "worker", None)]);
    connected(&director, 1).await;
    let connection = organization.connect(&[], address).await;
    let mut streaming = method("any/stream", false);
    streaming.kind = Kind::Bidirectional;
    let requests = Incoming::new(futures::stream::iter([Ok(Bytes::from_static(b"second"))]));

    let responses = connection
        .streaming(&streaming, Context::new(), requests)
        .await
        .unwrap();

    let responses: Vec<Bytes> = responses.map(Result::unwrap).collect().await;
    assert_eq!(responses, ["first", "second"]);
}

/// A worker that tells for whom it is called.
fn teller(organization: &Organization) -> (Server, SocketAddr) {
    organization.serve(
        &["worker"],
        Answering(|_: &str, context: &Context, _| {
            Ok(Bytes::from(origin(context).unwrap().to_string()))
        }),
    )
}

#[tokio::test]
async fn given_a_director_in_between_then_the_worker_learns_who_called_and_nobody_else_can_claim_it()
 {
    let organization = Organization::new();
    let (_worker, at) = teller(&organization);
    let (_server, address, director) =
        director(&organization, None, vec![target(at, "worker", None)]);
    connected(&director, 1).await;
    let trust = organization.member(&[]);
    let caller: PeerId = trust.peer_id();
    let client = warren_rpc::Client::new(trust, warren_rpc::ClientOptions::default()).unwrap();
    let somebody = organization.member(&[]).peer_id().to_string();
    let lie = || {
        Context::deadline(ms(10_000))
            .with_metadata("on-behalf-of", &somebody)
            .unwrap()
    };

    let through = client
        .connect(address, ExpectedPeer::AnyMember)
        .await
        .unwrap();
    assert_eq!(text(call(&through, lie()).await), caller.to_string());
    let straight = client.connect(at, ExpectedPeer::AnyMember).await.unwrap();
    assert_eq!(text(call(&straight, lie()).await), caller.to_string());

    let as_director = organization.connect(&["director"], at).await;
    assert_eq!(text(call(&as_director, lie()).await), somebody);
}

#[tokio::test]
async fn given_two_regions_then_calls_stay_and_spill_over_only_when_nobody_is_there() {
    let organization = Organization::new();
    let (_us_worker, us_worker) = worker(&organization, "us");
    let (_us, us, us_director) = director(
        &organization,
        Some("us"),
        vec![target(us_worker, "worker", Some("us"))],
    );
    let (eu_server, eu_worker) = worker(&organization, "eu");
    let (_eu, eu, eu_director) = director(
        &organization,
        Some("eu"),
        vec![
            target(eu_worker, "worker", Some("eu")),
            target(us, "director", Some("us")),
        ],
    );
    connected(&us_director, 1).await;
    connected(&eu_director, 2).await;
    let connection = organization.connect(&[], eu).await;
    let within = || Context::deadline(ms(10_000));
    let of = |region: &str| within().with_metadata("data-region", region).unwrap();

    for _ in 0..50 {
        assert_eq!(text(call(&connection, within()).await), "eu");
    }
    assert_eq!(text(call(&connection, of("us")).await), "us");
    assert_eq!(text(call(&connection, of("eu")).await), "eu");

    eu_server.kill();
    connected(&eu_director, 1).await;
    assert_eq!(text(call(&connection, within()).await), "us");
    let refused = status(call(&connection, of("eu")).await);
    assert_eq!(refused.code(), Code::Unavailable, "{refused}");
}

#[tokio::test]
async fn given_data_of_an_unknown_region_then_the_call_fails_and_says_so() {
    let organization = Organization::new();
    let (_worker, at) = worker(&organization, "eu");
    let (_server, address, director) = director(
        &organization,
        Some("eu"),
        vec![target(at, "worker", Some("eu"))],
    );
    connected(&director, 1).await;
    let connection = organization.connect(&[], address).await;
    let context = Context::deadline(ms(10_000))
        .with_metadata("data-region", "mars")
        .unwrap();

    let refused = status(call(&connection, context).await);

    assert_eq!(refused.code(), Code::FailedPrecondition);
    assert!(
        refused.message().contains("`mars`") && refused.had_no_effect(),
        "{refused}"
    );
}

#[tokio::test]
async fn given_directors_that_take_each_other_for_workers_then_a_call_does_not_go_round() {
    let organization = Organization::new();
    let (sender, targets) = watch::channel(Vec::new());
    let client = organization.client(&["director"]);
    let director = Director::new(client, targets, DirectorOptions::default());
    let (_server, address) = organization.serve(&["director"], director.clone());
    sender.send_replace(vec![target(address, "worker", None)]);
    connected(&director, 1).await;
    let connection = organization.connect(&[], address).await;

    let refused = status(call(&connection, Context::deadline(ms(10_000))).await);

    assert_eq!(refused.code(), Code::FailedPrecondition, "{refused}");
}

#[tokio::test]
async fn given_a_worker_that_dies_under_load_then_no_idempotent_call_fails() {
    let organization = Organization::new();
    let (doomed, first) = worker(&organization, "first");
    let (_kept, second) = worker(&organization, "second");
    let targets = vec![
        target(first, "worker", None),
        target(second, "worker", None),
    ];
    let (_server, address, director) = director(&organization, None, targets);
    connected(&director, 2).await;
    let connection = organization.connect(&[], address).await;
    let (done, stop) = (
        Arc::new(AtomicUsize::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let callers: Vec<_> = (0..16)
        .map(|_| {
            let (connection, done, stop) = (connection.clone(), done.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    call(&connection, Context::deadline(ms(10_000)))
                        .await
                        .unwrap();
                    done.fetch_add(1, Ordering::Relaxed);
                }
            })
        })
        .collect();
    eventually("there is load", || done.load(Ordering::Relaxed) > 200).await;

    doomed.kill();

    let before = done.load(Ordering::Relaxed);
    eventually("calls go on", || {
        done.load(Ordering::Relaxed) > before + 200
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
}

#[tokio::test]
async fn given_three_directors_when_two_die_under_load_then_no_call_through_a_pool_of_them_fails() {
    let organization = Organization::new();
    let (_worker, at) = worker(&organization, "worker");
    let mut directors: Vec<_> = (0..3)
        .map(|_| director(&organization, None, vec![target(at, "worker", None)]))
        .collect();
    for (_, _, director) in &directors {
        connected(director, 1).await;
    }
    let targets = directors
        .iter()
        .map(|(_, address, _)| Target::new(*address, ExpectedPeer::AnyMember))
        .collect();
    let pool = Pool::fixed(organization.client(&[]), targets, PoolOptions::default());
    eventually("the client is connected", || pool.servers().len() == 3).await;
    let calling = pool.clone();
    let calls = tokio::spawn(async move {
        for number in 0..2_000 {
            let answer = calling
                .unary(
                    &method("any/thing", true),
                    Context::deadline(ms(10_000)),
                    Bytes::new(),
                )
                .await;
            assert!(answer.is_ok(), "call {number}: {answer:?}");
        }
    });

    for (server, _, _) in directors.drain(..2) {
        server.kill();
    }

    calls.await.unwrap();
    assert_eq!(pool.servers().len(), 1);
}
