//! Spans and trace context, over a director and a worker.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use support::Organization;
use support::lines::Lines;
use support::probe::{About, MyProbe, ProbeServer, client};
use warren_rpc::{Context, TraceParent};

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

/// What a worker was told that a director called.
async fn through_a_director(context: Context) -> About {
    let organization = Organization::new("org_test");
    let (_worker, worker) =
        organization.serve_as(ProbeServer::new(MyProbe::default()), |builder| builder);
    let director = MyProbe {
        next: Some(organization.connect(worker).await),
        ..MyProbe::default()
    };
    let (_director, address) = organization.serve_as(ProbeServer::new(director), |builder| builder);
    let client = client(&organization, address).await;
    client.pass_on(context, ()).await.unwrap()
}

#[tokio::test]
async fn given_lines_about_calls_then_director_and_worker_name_the_request_alike() {
    let (lines, _guard) = Lines::of("warren_rpc::request=debug");
    through_a_director(Context::new()).await;
    let begun = lines.with("Processing request");
    let completed = lines.with("Request completed");
    assert_eq!((begun.len(), completed.len()), (2, 2), "{}", lines.text());
    let field = |line: &serde_json::Value, name: &str| line["fields"][name].clone();
    let ids: Vec<_> = begun.iter().map(|line| field(line, "request_id")).collect();
    assert_eq!(ids[0], ids[1]);
    assert_eq!(ids[0].as_str().unwrap().len(), 36);
    assert_ne!(field(&begun[0], "worker_id"), field(&begun[1], "worker_id"));
    let span = |line: &serde_json::Value, name: &str| line["span"][name].clone();
    assert_eq!(span(&begun[0], "name"), "process_request");
    assert_eq!(span(&begun[0], "trace_id"), span(&begun[1], "trace_id"));
    assert_ne!(span(&begun[0], "span_id"), span(&begun[1], "span_id"));
    assert!(completed[0]["fields"]["response_size"].as_u64().unwrap() > 0);
}

#[tokio::test]
async fn given_a_payload_and_a_token_then_neither_is_in_a_line() {
    let (lines, _guard) = Lines::of("trace");
    let organization = Organization::new("org_test");
    let (_server, address) =
        organization.serve_as(ProbeServer::new(MyProbe::default()), |builder| builder);
    let client = client(&organization, address).await;
    let secret = "Bearer c2VjcmV0LXRva2Vu";
    let context = Context::new().with_metadata("authorization", secret);
    let context = context.unwrap();
    assert!(!format!("{context:?}").contains("c2VjcmV0"));
    let payload = b"the-payload-of-the-test".to_vec();
    client.echo(context, payload).await.unwrap();
    let refused = client.pay(Context::new(), 13).await.unwrap_err();
    assert_eq!(refused.message(), "no luck");
    let failed = lines.with("Request failed");
    assert_eq!(failed[0]["fields"]["error"], "failed_precondition: no luck");
    let text = lines.text();
    let data_size = &lines.with("Processing request")[0]["fields"]["data_size"];
    assert!(data_size.as_u64().unwrap() >= 23, "{data_size}");
    for hidden in ["the-payload-of-the-test", "c2VjcmV0"] {
        assert!(!text.contains(hidden), "{hidden} in {text}");
    }
}

#[tokio::test]
async fn given_a_trace_then_it_goes_through_the_director_with_a_step_of_its_own() {
    let context = Context::new()
        .with_metadata("traceparent", PARENT)
        .and_then(|context| context.with_metadata("tracestate", "vendor=1"))
        .unwrap();
    let about = through_a_director(context).await;
    let given = TraceParent::parse(PARENT).unwrap();
    let seen = TraceParent::parse(&about.trace_parent.unwrap()).unwrap();
    assert_eq!(seen.trace_id(), given.trace_id());
    assert_ne!(seen.parent_id(), given.parent_id());
}

#[tokio::test]
async fn given_a_traceparent_that_is_none_then_it_goes_no_further() {
    let context = Context::new().with_metadata("traceparent", "00-what-ever-01");
    let about = through_a_director(context.unwrap()).await;
    assert_eq!(about.trace_parent, None);
}

#[tokio::test]
async fn given_nobody_who_reads_lines_then_calls_get_no_ids() {
    let about = through_a_director(Context::new()).await;
    assert_eq!((about.request_id, about.trace_parent), (None, None));
}
