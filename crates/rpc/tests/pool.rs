//! Calls through a pool of servers: what happens when some of them refuse, fail or go away.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use support::{Organization, eventually};
use tokio::sync::watch;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{
    BoxFuture, Caller, Client, ClientOptions, Code, Context, Encoding, Failure, Incoming, Kind,
    Method, Outgoing, Pool, PoolOptions, Server, ServerOptions, Service, ServiceDescriptor, Status,
    Target, ms,
};

const METHODS: &[Method] = &[
    method("test.Worker/work", false),
    method("test.Worker/look", true),
];
const WORK: &Method = &METHODS[0];
const LOOK: &Method = &METHODS[1];

const fn method(path: &'static str, idempotent: bool) -> Method {
    Method {
        path: Cow::Borrowed(path),
        kind: Kind::Unary,
        idempotent,
        permission: None,
    }
}

/// What a worker does with a call.
#[derive(Clone, Copy)]
enum Mood {
    Works,
    Fails,
    Hangs,
}

/// Counts its calls and answers with its name.
#[derive(Clone)]
struct Worker {
    name: u8,
    mood: Mood,
    calls: Arc<AtomicUsize>,
}

impl Worker {
    fn new(name: u8, mood: Mood) -> Self {
        Self {
            name,
            mood,
            calls: Arc::default(),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::SeqCst)
    }
}

impl Service for Worker {
    fn descriptor(&self) -> &'static ServiceDescriptor {
        static DESCRIPTOR: ServiceDescriptor = ServiceDescriptor {
            name: "test.Worker",
            encoding: Encoding::Postcard,
            methods: METHODS,
        };
        &DESCRIPTOR
    }

    fn unary(
        &self,
        _method: usize,
        _context: Context,
        _request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        let this = self.clone();
        Box::pin(async move {
            this.calls.fetch_add(1, Ordering::SeqCst);
            match this.mood {
                Mood::Works => Ok(Bytes::copy_from_slice(&[this.name])),
                Mood::Fails => Err(Status::new(Code::Unavailable, "the disk is gone").into()),
                Mood::Hangs => std::future::pending().await,
            }
        })
    }

    fn streaming(
        &self,
        _method: usize,
        _context: Context,
        _incoming: Incoming,
        _outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        Box::pin(async { Err(Status::new(Code::Unimplemented, "no streams here").into()) })
    }
}

fn target(address: SocketAddr) -> Target {
    Target::new(address, ExpectedPeer::AnyMember)
}

struct Lot {
    organization: Organization,
    workers: Vec<(Worker, Server, SocketAddr)>,
    targets: watch::Sender<Vec<Target>>,
    pool: Pool,
}

impl Lot {
    /// Workers with these moods and a pool that is connected to all of them.
    async fn start(moods: &[Mood]) -> Self {
        let organization = Organization::new("org_test");
        let workers: Vec<_> = (0..)
            .zip(moods)
            .map(|(name, &mood)| {
                let worker = Worker::new(name, mood);
                let (server, address) =
                    organization.serve(worker.clone(), ServerOptions::default());
                (worker, server, address)
            })
            .collect();
        let targets: Vec<_> = workers.iter().map(|worker| target(worker.2)).collect();
        let targets = watch::Sender::new(targets);
        let client = Client::new(organization.member(&[]), ClientOptions::default()).unwrap();
        let pool = Pool::new(client, targets.subscribe(), PoolOptions::default());
        eventually("all are connected", || pool.servers().len() == moods.len()).await;
        Self {
            organization,
            workers,
            targets,
            pool,
        }
    }

    async fn call(&self, method: &Method) -> Result<Bytes, Failure> {
        self.pool
            .unary(method, Context::deadline(ms(10_000)), Bytes::new())
            .await
    }
}

fn code(result: &Result<Bytes, Failure>) -> Option<Code> {
    match result {
        Ok(_) => None,
        Err(Failure::Status(status) | Failure::Application { status, .. }) => Some(status.code()),
    }
}

#[tokio::test]
async fn given_three_servers_then_every_one_of_them_gets_calls() {
    let lot = Lot::start(&[Mood::Works; 3]).await;
    let mut names = BTreeSet::new();
    for _ in 0..300 {
        names.insert(lot.call(WORK).await.unwrap()[0]);
    }
    assert_eq!(names, BTreeSet::from([0, 1, 2]));
}

#[tokio::test]
async fn given_a_server_that_fails_then_idempotent_calls_succeed_elsewhere() {
    let lot = Lot::start(&[Mood::Fails, Mood::Works]).await;
    for _ in 0..50 {
        assert_eq!(lot.call(LOOK).await.unwrap()[..], [1]);
    }
    assert!(
        lot.workers[0].0.calls() > 0,
        "the failing one was never asked"
    );
}

#[tokio::test]
async fn given_a_server_that_fails_then_other_calls_run_once_and_say_so() {
    let lot = Lot::start(&[Mood::Fails]).await;
    assert_eq!(code(&lot.call(WORK).await), Some(Code::Unavailable));
    assert_eq!(lot.workers[0].0.calls(), 1);
}

#[tokio::test]
async fn given_servers_that_drain_one_after_the_other_then_no_call_is_lost() {
    let lot = Lot::start(&[Mood::Works; 3]).await;
    let calling = lot.pool.clone();
    let calls = tokio::spawn(async move {
        for call in 0..3000 {
            let reply = calling
                .unary(WORK, Context::deadline(ms(10_000)), Bytes::new())
                .await;
            assert!(reply.is_ok(), "call {call}: {reply:?}");
        }
    });
    for (_, server, _) in &lot.workers[..2] {
        server.shutdown().await;
    }
    calls.await.unwrap();
    assert_eq!(lot.pool.servers().len(), 1);
}

#[tokio::test]
async fn given_a_target_that_is_added_then_it_gets_calls_and_one_that_goes_gets_none() {
    let lot = Lot::start(&[Mood::Works]).await;
    let worker = Worker::new(7, Mood::Works);
    let (_server, address) = lot.organization.serve(worker, ServerOptions::default());
    lot.targets.send_replace(vec![target(address)]);
    eventually("the new one replaces the old one", || {
        let servers = lot.pool.servers();
        servers.len() == 1 && servers[0].address == address
    })
    .await;
    assert_eq!(lot.call(WORK).await.unwrap()[..], [7]);
}

#[tokio::test]
async fn given_no_server_when_one_comes_within_the_deadline_then_the_call_waits_for_it() {
    let lot = Lot::start(&[]).await;
    let waiting = lot.pool.clone();
    let call = tokio::spawn(async move {
        waiting
            .unary(WORK, Context::deadline(ms(10_000)), Bytes::new())
            .await
    });
    let (_server, address) = lot
        .organization
        .serve(Worker::new(3, Mood::Works), ServerOptions::default());
    lot.targets.send_replace(vec![target(address)]);
    assert_eq!(call.await.unwrap().unwrap()[..], [3]);
}

#[tokio::test]
async fn given_no_server_then_the_call_says_why_and_that_nothing_happened() {
    let lot = Lot::start(&[]).await;
    let refused = lot
        .pool
        .unary(WORK, Context::deadline(ms(50)), Bytes::new())
        .await;
    let Err(Failure::Status(status)) = refused else {
        panic!("{refused:?}");
    };
    assert!(
        status.had_no_effect() && status.message().contains("no endpoint"),
        "{status:?}"
    );
}

#[tokio::test]
async fn given_a_call_that_hangs_when_its_server_dies_then_the_caller_learns_it() {
    let lot = Lot::start(&[Mood::Hangs]).await;
    let calling = lot.pool.clone();
    let call = tokio::spawn(async move { calling.unary(WORK, Context::new(), Bytes::new()).await });
    eventually("the handler runs", || lot.workers[0].0.calls() == 1).await;
    lot.workers[0].1.kill();
    assert_eq!(code(&call.await.unwrap()), Some(Code::Unavailable));
}
