//! `--json`: one JSON value on standard output, whatever is asked.

use crate::support::{Node, Organization};

#[test]
fn given_any_question_to_a_node_when_asked_with_json_then_one_value_is_printed() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let id = node.put(b"content");

    for question in [
        &["status"][..],
        &["peers"],
        &["nat-check"],
        &["dht"],
        &["ls"],
        &["stat", &id],
        &["store", "verify"],
        &["store", "gc"],
        &["reload"],
        &["health"],
        &["health", "--endpoint", "ready"],
        &["config", "show"],
        &["check"],
    ] {
        let answer = node
            .invocation()
            .args(question)
            .args(["--json"])
            .run()
            .json();

        assert!(answer.is_object() || answer.is_array(), "{question:?}");
    }
}

#[test]
fn given_the_questions_without_a_node_when_asked_with_json_then_one_value_is_printed() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let (ca, key, cert) = (
        organization.ca(),
        home.path("node.pem"),
        home.path("node_cert.pem"),
    );
    let text = |path: &std::path::PathBuf| path.to_str().unwrap().to_owned();

    for question in [
        &["peerid", "--key", &text(&key)][..],
        &["cert", "show", &text(&cert)],
        &["ca", "list", "--dir", &text(&ca)],
        &["ca", "crl", "--dir", &text(&ca)],
        &["version"],
        &["config", "schema"],
        &["keygen", "--output", &text(&home.path("another.pem"))],
    ] {
        let answer = crate::support::warren(question.iter().chain(&["--json"])).json();

        assert!(answer.is_object() || answer.is_array(), "{question:?}");
    }
}

#[test]
fn given_a_failure_when_asked_with_json_then_standard_output_stays_empty() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let failed = node.warren([
        "stat",
        "bafyr4igmelil7mgxnrrrn3bcek3izwqbfcqkwjq7yka3fmx7givqf53wru",
        "--json",
    ]);

    assert!(failed.failed().contains("not on this node"));
    assert!(failed.stdout.is_empty());
}
