//! Servers in a cluster, and pools that follow its members.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{Organization, eventually};
use warren_cluster::{Cluster, ClusterConfig, State};
use warren_rpc::{
    BoxFuture, Caller, Code, Context, Failure, Fallback, Incoming, Kind, Method, Outgoing, Pool,
    Server, ServerOptions, Status, ms, tag,
};

const LOOPBACK: &str = "127.0.0.1:0";

/// Answers with its name, after a while.
struct Named {
    name: &'static str,
    delay: Duration,
    begun: Arc<AtomicUsize>,
}

impl Fallback for Named {
    fn unary(&self, _: &str, _: Context, _: Bytes) -> BoxFuture<Result<Bytes, Failure>> {
        let (name, delay) = (self.name, self.delay);
        self.begun.fetch_add(1, Ordering::SeqCst);
        Box::pin(async move {
            tokio::time::sleep(delay).await;
            Ok(Bytes::from_static(name.as_bytes()))
        })
    }

    fn streaming(
        &self,
        _: &str,
        _: Context,
        _: Incoming,
        _: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        Box::pin(async { Err(Status::new(Code::Unimplemented, "no streams here").into()) })
    }
}

struct Member {
    server: Server,
    cluster: Cluster,
    begun: Arc<AtomicUsize>,
}

/// A server that claims to be a worker, with these capabilities.
async fn worker(
    organization: &Organization,
    capabilities: &[&str],
    name: &'static str,
    delay: Duration,
    seeds: &[SocketAddr],
) -> Member {
    let options = ServerOptions {
        drain_timeout: Duration::from_secs(5),
        ..ServerOptions::default()
    };
    let server = Server::builder()
        .with_trust(organization.member(capabilities))
        .with_options(options)
        .bind(LOOPBACK.parse().unwrap())
        .unwrap();
    let begun = Arc::default();
    server.set_fallback(Named {
        name,
        delay,
        begun: Arc::clone(&begun),
    });
    let config = ClusterConfig::default()
        .with_bind_addr(LOOPBACK.parse().unwrap())
        .with_seeds(seeds.iter());
    let cluster = server.enable_cluster(config).await.unwrap();
    cluster.set_tag("role", "worker").unwrap();
    let running = server.clone();
    tokio::spawn(async move { running.run().await });
    Member {
        server,
        cluster,
        begun,
    }
}

/// A member that only calls.
fn caller(organization: &Organization, seeds: &[SocketAddr]) -> Cluster {
    let config = ClusterConfig::default()
        .with_bind_addr(LOOPBACK.parse().unwrap())
        .with_seeds(seeds.iter());
    let metrics = warren_telemetry::Metrics::new();
    Cluster::join(organization.member(&[]), config, &metrics).unwrap()
}

async fn call(pool: &Pool) -> Result<Bytes, Failure> {
    let method = Method {
        path: Cow::Borrowed("any/thing"),
        kind: Kind::Unary,
        idempotent: true,
        permission: None,
    };
    pool.unary(&method, Context::deadline(ms(20_000)), Bytes::new())
        .await
}

#[tokio::test]
async fn given_members_of_a_cluster_then_calls_go_to_the_proven_and_ready_workers_only() {
    let organization = Organization::new("org_test");
    let now = Duration::ZERO;
    let good = worker(&organization, &["worker"], "good", now, &[]).await;
    let seeds = [good.cluster.local_address()];
    let liar = worker(&organization, &[], "liar", now, &seeds).await;
    let resting = worker(&organization, &["worker"], "resting", now, &seeds).await;
    resting.cluster.set_tag("ready", "false").unwrap();
    let caller = caller(&organization, &seeds);
    eventually("all are known, and who may be a worker", || {
        caller.node_count() == 4
            && caller.registry().worker_count == 2
            && caller.registry().healthy_count == 1
    })
    .await;

    let pool = Pool::from_cluster(caller.clone(), tag("role", "worker"));

    for _ in 0..20 {
        assert_eq!(call(&pool).await.unwrap(), "good");
    }
    assert_eq!(liar.begun.load(Ordering::SeqCst), 0);
    resting.cluster.set_tag("ready", "true").unwrap();
    eventually("the rested worker is connected", || {
        pool.servers().len() == 2
    })
    .await;
}

#[tokio::test]
async fn given_a_worker_that_joins_under_load_then_it_gets_calls() {
    let organization = Organization::new("org_test");
    let first = worker(&organization, &["worker"], "first", Duration::ZERO, &[]).await;
    let seeds = [first.cluster.local_address()];
    let pool = Pool::from_cluster(caller(&organization, &seeds), tag("role", "worker"));
    call(&pool).await.unwrap();

    let second = worker(&organization, &["worker"], "second", Duration::ZERO, &seeds).await;

    let end = Instant::now() + support::DEADLINE;
    while second.begun.load(Ordering::SeqCst) == 0 {
        assert!(Instant::now() < end, "the new worker never got a call");
        call(&pool).await.unwrap();
    }
}

#[tokio::test]
async fn given_a_drain_under_load_then_no_call_is_lost_and_the_others_hold_it_as_left() {
    let organization = Organization::new("org_test");
    let slow = ms(5);
    let leaving = worker(&organization, &["worker"], "leaving", slow, &[]).await;
    let seeds = [leaving.cluster.local_address()];
    let staying = worker(&organization, &["worker"], "staying", slow, &seeds).await;
    let caller = caller(&organization, &seeds);
    let pool = Pool::from_cluster(caller.clone(), tag("role", "worker"));
    eventually("both are connected", || pool.servers().len() == 2).await;
    let stop = Arc::new(AtomicBool::new(false));
    let calls: Vec<_> = (0..16)
        .map(|_| {
            let (pool, stop) = (pool.clone(), Arc::clone(&stop));
            tokio::spawn(async move {
                let mut last = Bytes::new();
                while !stop.load(Ordering::Relaxed) {
                    last = call(&pool).await.unwrap();
                }
                last
            })
        })
        .collect();
    eventually("it works", || leaving.begun.load(Ordering::SeqCst) > 20).await;

    let report = leaving.server.shutdown().await;

    assert_eq!(report.cut, 0);
    stop.store(true, Ordering::Relaxed);
    for call in calls {
        call.await.unwrap();
    }
    let left = leaving.cluster.peer_id();
    eventually("the others know that it left", || {
        caller
            .snapshot()
            .node(&left)
            .is_some_and(|node| node.state == State::Left)
    })
    .await;
    assert!(staying.begun.load(Ordering::SeqCst) > 0);
}

#[tokio::test]
async fn given_a_call_longer_than_the_drain_then_it_is_cut_and_the_node_leaves_all_the_same() {
    let organization = Organization::new("org_test");
    let stuck = worker(
        &organization,
        &["worker"],
        "stuck",
        Duration::from_secs(600),
        &[],
    )
    .await;
    let caller = caller(&organization, &[stuck.cluster.local_address()]);
    let pool = Pool::from_cluster(caller.clone(), tag("role", "worker"));
    let calling = pool.clone();
    let cut = tokio::spawn(async move { call(&calling).await });
    eventually("the call runs", || stuck.begun.load(Ordering::SeqCst) == 1).await;

    let begun = Instant::now();
    let report = stuck.server.shutdown().await;

    assert_eq!(report.cut, 1);
    assert!(begun.elapsed() < Duration::from_secs(20), "{report:?}");
    let peer = stuck.cluster.peer_id();
    eventually("the others know that it left", || {
        caller
            .snapshot()
            .node(&peer)
            .is_some_and(|node| node.state == State::Left)
    })
    .await;
    drop(pool);
    cut.abort();
}

#[tokio::test]
async fn given_a_server_in_a_cluster_when_enabled_again_then_it_is_refused() {
    let organization = Organization::new("org_test");
    let member = worker(&organization, &["worker"], "first", Duration::ZERO, &[]).await;
    let config = ClusterConfig::default().with_bind_addr(LOOPBACK.parse().unwrap());

    assert!(member.server.enable_cluster(config).await.is_err());
    assert_eq!(member.cluster.node_count(), 1);
}

#[tokio::test]
async fn given_a_worker_that_fails_without_a_word_then_calls_that_wait_for_it_are_tried_elsewhere()
{
    let organization = Organization::new("org_test");
    let doomed = worker(
        &organization,
        &["worker"],
        "doomed",
        Duration::from_secs(600),
        &[],
    )
    .await;
    let seeds = [doomed.cluster.local_address()];
    // Three members are the fewest of which two can agree on a third.
    let caller = caller(&organization, &seeds);
    let pool = Pool::from_cluster(caller.clone(), tag("role", "worker"));
    let calling = pool.clone();
    let waiting = tokio::spawn(async move { call(&calling).await });
    eventually("the call runs", || doomed.begun.load(Ordering::SeqCst) == 1).await;
    let second = worker(&organization, &["worker"], "second", Duration::ZERO, &seeds).await;
    eventually("all are known", || {
        caller.node_count() == 3 && second.cluster.node_count() == 3
    })
    .await;

    // Its membership stops without a word; its connection for calls, like that of a frozen machine, does not end.
    doomed.cluster.shutdown().await;

    assert_eq!(waiting.await.unwrap().unwrap(), "second");
}
