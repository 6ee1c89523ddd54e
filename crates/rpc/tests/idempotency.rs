//! One execution per idempotency key, over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use support::probe::{MyProbe, ProbeServer, client, client_as};
use support::{Organization, eventually};
use tokio::sync::Semaphore;
use warren_rpc::{Code, Context, DedupeLimits, Server, ms};

fn keyed(key: &str) -> Context {
    Context::new().with_idempotency_key(key).unwrap()
}

fn serve(organization: &Organization, probe: &MyProbe) -> (Server, SocketAddr) {
    organization.serve_as(ProbeServer::new(probe.clone()), |builder| builder)
}

/// Payments wait until the test lets them through.
fn waiting() -> MyProbe {
    MyProbe {
        leave: Arc::new(Semaphore::new(0)),
        ..MyProbe::default()
    }
}

fn paid(probe: &MyProbe) -> usize {
    probe.paid.load(Ordering::SeqCst)
}

#[tokio::test]
async fn given_a_key_that_was_answered_when_it_comes_again_then_the_answer_is_the_first_ones() {
    let organization = Organization::new("org_test");
    let probe = MyProbe::default();
    let (_server, address) = serve(&organization, &probe);
    let client = client(&organization, address).await;
    for _ in 0..3 {
        assert_eq!(client.pay(keyed("a"), 5).await, Ok(1));
    }
    assert_eq!(client.pay(keyed("b"), 5).await, Ok(2));
    assert_eq!(client.pay(Context::new(), 5).await, Ok(3));
    assert_eq!(paid(&probe), 3);
}

#[tokio::test]
async fn given_a_call_that_runs_when_its_key_comes_again_then_both_get_its_one_answer() {
    let organization = Organization::new("org_test");
    let probe = waiting();
    let (_server, address) = serve(&organization, &probe);
    let client = client(&organization, address).await;
    let calls: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.pay(keyed("a"), 5).await })
        })
        .collect();
    eventually("it runs", || paid(&probe) == 1).await;
    probe.leave.add_permits(10);
    for call in calls {
        assert_eq!(call.await.unwrap(), Ok(1));
    }
    assert_eq!(paid(&probe), 1);
}

#[tokio::test]
async fn given_a_caller_whose_connection_ends_when_it_asks_again_then_it_gets_the_one_execution() {
    let organization = Organization::new("org_test");
    let probe = waiting();
    let (server, address) = serve(&organization, &probe);
    let member = organization.member(&[]);
    let first = client_as(&member, address).await;
    let lost = tokio::spawn(async move { first.pay(keyed("a"), 5).await });
    eventually("it runs", || paid(&probe) == 1).await;
    lost.abort();
    assert!(lost.await.is_err());

    let again = client_as(&member, address).await;
    let answer = tokio::spawn(async move { again.pay(keyed("a"), 5).await });
    eventually("it waits", || server.in_flight() >= 1).await;
    probe.leave.add_permits(2);
    assert_eq!(answer.await.unwrap(), Ok(1));
    assert_eq!(paid(&probe), 1);
    eventually("nothing is left", || server.in_flight() == 0).await;
}

#[tokio::test]
async fn given_a_deadline_that_passes_when_it_asks_again_then_it_learns_how_the_first_ended() {
    let organization = Organization::new("org_test");
    let probe = waiting();
    let (_server, address) = serve(&organization, &probe);
    let client = client(&organization, address).await;
    let late = client.pay(keyed("a").with_deadline(ms(50)), 13).await;
    assert_eq!(late.unwrap_err().code(), Code::DeadlineExceeded);
    probe.leave.add_permits(2);
    let failed = client.pay(keyed("a"), 13).await.unwrap_err();
    assert_eq!(failed.message(), "no luck");
    assert_eq!(paid(&probe), 1);
}

#[tokio::test]
async fn given_another_request_under_the_key_then_it_is_refused() {
    let organization = Organization::new("org_test");
    let probe = MyProbe::default();
    let (_server, address) = serve(&organization, &probe);
    let client = client(&organization, address).await;
    client.pay(keyed("a"), 5).await.unwrap();
    let refused = client.pay(keyed("a"), 6).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.had_no_effect());
    assert_eq!(paid(&probe), 1);
}

#[tokio::test]
async fn given_the_same_key_of_another_member_then_it_is_another_call() {
    let organization = Organization::new("org_test");
    let probe = MyProbe::default();
    let (_server, address) = serve(&organization, &probe);
    for number in 1..=2 {
        let client = client(&organization, address).await;
        assert_eq!(client.pay(keyed("a"), 5).await, Ok(number));
    }
}

#[tokio::test]
async fn given_a_big_request_with_a_key_then_it_is_carried_out_once_too() {
    let organization = Organization::new("org_test");
    let probe = MyProbe::default();
    let (_server, address) = serve(&organization, &probe);
    let client = client(&organization, address).await;
    let big = vec![5; 1 << 20];
    for _ in 0..2 {
        assert_eq!(client.echo(keyed("a"), big.clone()).await, Ok(big.clone()));
    }
    let other = client.echo(keyed("a"), vec![6; 1 << 20]).await;
    assert_eq!(other.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn given_a_key_then_it_does_not_go_along_with_the_handlers_own_calls() {
    let organization = Organization::new("org_test");
    let (_worker, worker) = serve(&organization, &MyProbe::default());
    let director = MyProbe {
        next: Some(organization.connect(worker).await),
        ..MyProbe::default()
    };
    let (_server, address) = serve(&organization, &director);
    let client = client(&organization, address).await;
    let context = keyed("a").with_metadata("other", "kept").unwrap();
    let about = client.pass_on(context, ()).await.unwrap();
    assert_eq!(about.idempotency_key, None);
}

#[tokio::test]
async fn given_a_streaming_call_with_a_key_then_it_is_refused() {
    let organization = Organization::new("org_test");
    let (_server, address) = serve(&organization, &MyProbe::default());
    let client = client(&organization, address).await;
    let mut numbers = client.count(keyed("a"), 3).await.unwrap();
    let refused = numbers.message().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn given_an_answer_beyond_the_age_then_the_key_is_free_again() {
    let organization = Organization::new("org_test");
    let probe = MyProbe::default();
    let (_server, address) = organization.serve_as(ProbeServer::new(probe.clone()), |builder| {
        builder.with_dedupe_limits(DedupeLimits {
            max_age: Duration::from_millis(50),
            ..DedupeLimits::default()
        })
    });
    let client = client(&organization, address).await;
    let end = tokio::time::Instant::now() + support::DEADLINE;
    while client.pay(keyed("a"), 5).await == Ok(1) {
        assert!(tokio::time::Instant::now() < end, "remembered for ever");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(paid(&probe), 2);
}
