//! What a server counts, over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::sync::Arc;

use futures::StreamExt;
use support::probe::{MyProbe, ProbeServer, client};
use support::{Organization, eventually};
use tokio::sync::Semaphore;
use warren_rpc::{Code, Context, RpcMetrics, Server, ServerOptions, ms};
use warren_telemetry::Metrics;

fn serve(
    organization: &Organization,
    probe: &MyProbe,
    options: ServerOptions,
) -> (Server, SocketAddr, Metrics) {
    let metrics = Metrics::new();
    let rpc = RpcMetrics::register(&metrics);
    let service = ProbeServer::new(probe.clone());
    let (server, address) = organization.serve_as(service, |builder| {
        builder.with_metrics(&rpc).with_options(options)
    });
    (server, address, metrics)
}

/// The value of a sample; 0 without one.
fn value(metrics: &Metrics, sample: &str) -> f64 {
    let text = metrics.encode();
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(&format!("warren_rpc_{sample} ")));
    line.map_or(0.0, |value| value.parse().unwrap())
}

#[tokio::test]
async fn given_a_hundred_calls_then_each_is_counted_once_with_its_latency() {
    let organization = Organization::new("org_test");
    let (_server, address, metrics) =
        serve(&organization, &MyProbe::default(), ServerOptions::default());
    let client = client(&organization, address).await;
    let calls = (0..100).map(|_| client.echo(Context::new(), vec![1]));
    for reply in futures::future::join_all(calls).await {
        reply.unwrap();
    }
    let total = r#"requests_total{method="test.v1.Probe/Echo"}"#;
    eventually("counted", || value(&metrics, total) == 100.0).await;
    let sample = |name: &str| {
        value(
            &metrics,
            &format!("{name}{{method=\"test.v1.Probe/Echo\"}}"),
        )
    };
    assert_eq!(sample("latency_seconds_count"), 100.0);
    assert!(sample("latency_seconds_sum") > 0.0);
    assert_eq!(value(&metrics, "connections"), 1.0);
    let in_last = r#"latency_seconds_bucket{le="+Inf",method="test.v1.Probe/Echo"}"#;
    assert_eq!(value(&metrics, in_last), 100.0);
}

#[tokio::test]
async fn given_timeouts_refusals_and_permission_errors_then_each_is_a_series_of_its_own() {
    let organization = Organization::new("org_test");
    let probe = MyProbe {
        leave: Arc::new(Semaphore::new(0)),
        ..MyProbe::default()
    };
    let options = ServerOptions {
        max_calls: 1,
        ..ServerOptions::default()
    };
    let (server, address, metrics) = serve(&organization, &probe, options);
    let client = client(&organization, address).await;
    let denied = client.guarded(Context::new(), ()).await.unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied);
    let waiting = {
        let client = client.clone();
        tokio::spawn(async move { client.pay(Context::deadline(ms(300)), 1).await })
    };
    eventually("one call has the place", || server.in_flight() == 1).await;
    assert_eq!(value(&metrics, "requests_in_flight"), 1.0);
    let refused = client.echo(Context::new(), vec![1]).await.unwrap_err();
    assert!(refused.retry_after().is_some());
    assert_eq!(
        waiting.await.unwrap().unwrap_err().code(),
        Code::DeadlineExceeded
    );

    for (what, sample) in [
        (
            "the timeout",
            r#"errors_total{method="test.v1.Probe/Pay",type="timeout"}"#,
        ),
        (
            "the permission",
            r#"errors_total{method="test.v1.Probe/Guarded",type="permission_denied"}"#,
        ),
        (
            "the refusal",
            r#"errors_total{method="test.v1.Probe/Echo",type="resource_exhausted"}"#,
        ),
        (
            "its reason",
            r#"refused_total{what="call",reason="overloaded"}"#,
        ),
        (
            "the other's reason",
            r#"refused_total{what="call",reason="permission_denied"}"#,
        ),
    ] {
        // A call given up at both ends may be counted as cancelled: whichever hears of it first.
        let cancelled = r#"errors_total{method="test.v1.Probe/Pay",type="cancelled"}"#;
        eventually(what, || {
            let found = value(&metrics, sample);
            found == 1.0 || (what == "the timeout" && value(&metrics, cancelled) == 1.0)
        })
        .await;
    }
}

#[tokio::test]
async fn given_streams_and_big_calls_then_they_are_counted_as_calls() {
    let organization = Organization::new("org_test");
    let (_server, address, metrics) =
        serve(&organization, &MyProbe::default(), ServerOptions::default());
    let client = client(&organization, address).await;
    let numbers = client.count(Context::new(), 5).await.unwrap();
    assert_eq!(numbers.count().await, 5);
    client.echo(Context::new(), vec![1; 1 << 20]).await.unwrap();
    for method in ["Count", "Echo"] {
        let total = format!("requests_total{{method=\"test.v1.Probe/{method}\"}}");
        eventually(method, || value(&metrics, &total) == 1.0).await;
    }
    let received = r#"bytes_total{direction="received"}"#;
    eventually("bytes", || value(&metrics, received) > 1_000.0).await;
}

#[tokio::test]
async fn given_a_stranger_then_its_refusal_is_counted() {
    let organization = Organization::new("org_test");
    let (_server, address, metrics) =
        serve(&organization, &MyProbe::default(), ServerOptions::default());
    let stranger = Organization::new("org_other").member(&[]);
    let client = warren_rpc::Client::new(stranger, warren_rpc::ClientOptions::default()).unwrap();
    let anyone = warren_identity::tls::ExpectedPeer::AnyMember;
    assert!(client.connect(address, anyone).await.is_err());
    drop(client);
    let refused = r#"refused_total{what="connection",reason="handshake"}"#;
    eventually("counted", || value(&metrics, refused) >= 1.0).await;
    assert_eq!(value(&metrics, "connections"), 0.0);
}

#[test]
fn given_the_registered_families_when_compared_with_the_docs_table_then_they_are_equal() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/rpc-metrics.md");
    let docs = std::fs::read_to_string(path).unwrap();
    let section = docs.split("## Calls\n").nth(1).unwrap();
    let section = section.split("\n## ").next().unwrap();
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let mut documented: Vec<[String; 3]> = rows
        .map(|row| {
            let cells: Vec<&str> = row.split('|').map(str::trim).collect();
            [cells[0], cells[1], cells[3]].map(|cell| cell.trim_matches('`').to_owned())
        })
        .collect();
    documented.sort();
    let metrics = Metrics::new();
    let _rpc = RpcMetrics::register(&metrics);
    let registered: Vec<[String; 3]> = metrics
        .families()
        .into_iter()
        .map(|family| [family.name, family.kind.to_owned(), family.help])
        .collect();
    assert_eq!(registered, documented);
}
