//! `--json`: one JSON value on standard output, whatever is asked.

use crate::support::{Finished, Node, Organization, warren};

/// The one object that a failure prints, and nothing beside it.
fn failure(finished: &Finished) -> serde_json::Value {
    assert!(finished.stdout.is_empty(), "{finished:?}");
    let told: serde_json::Value = serde_json::from_str(&finished.stderr)
        .unwrap_or_else(|error| panic!("{error}: {}", finished.stderr));
    assert!(told["error"]["message"].is_string(), "{told}");
    told["error"].clone()
}

#[test]
fn given_a_node_that_refuses_when_asked_with_json_then_its_error_is_passed_on_whole() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let nobody = "bafyr4igmelil7mgxnrrrn3bcek3izwqbfcqkwjq7yka3fmx7givqf53wru";

    let failed = node.warren(["stat", nobody, "--json"]);

    assert_eq!(failed.code, Some(1));
    let error = failure(&failed);
    assert_eq!(error["code"], "not_found");
    assert!(error["request_id"].is_string(), "{error}");
}

#[test]
fn given_what_fails_before_a_node_is_asked_when_called_with_json_then_the_error_is_an_object_too() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let token = home.path("token");
    std::fs::write(&token, "0123456789abcdef").unwrap();
    crate::support::tool("chmod", &home.folder, ["600", "token"]).ok();
    let token = token.to_str().unwrap();

    let nobody = [
        "status",
        "--api",
        "http://127.0.0.1:1",
        "--token-file",
        token,
        "--json",
    ];
    assert_eq!(failure(&warren(nobody))["code"], "no_node");

    home.edit("roles: [storage]", "roles: [juggler]");
    let misconfigured = home.warren(["start", "--json"]);
    let error = failure(&misconfigured);
    assert_eq!(
        (misconfigured.code, &error["code"]),
        (Some(1), &"bad_configuration".into())
    );
    assert!(
        error["details"]["errors"][0]
            .as_str()
            .unwrap()
            .contains("juggler")
    );

    let missing = warren(["cert", "show", "/nowhere", "--json"]);
    assert_eq!(failure(&missing)["code"], "failed");

    for mistyped in [&["--json", "juggle"][..], &["stat", "../status", "--json"]] {
        let finished = warren(mistyped);
        assert_eq!(failure(&finished)["code"], "usage");
        finished.usage();
    }
}

#[test]
fn given_help_when_asked_with_json_then_it_is_help() {
    assert!(warren(["--json", "--help"]).ok().contains("Usage:"));
}

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
