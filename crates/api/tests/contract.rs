//! The contract that is published (`contracts/network-layer.yaml`) is the one that is served.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::path::Path;

/// JSON is YAML, so the file needs no second format.
#[test]
fn given_the_published_contract_when_compared_with_the_served_description_then_they_are_equal() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../contracts/network-layer.yaml");
    let served = serde_json::to_value(warren_api::description()).unwrap();
    if std::env::var_os("WARREN_BLESS").is_some() {
        let text = serde_json::to_string_pretty(&served).unwrap();
        std::fs::write(&path, text + "\n").unwrap();
    }
    let published: serde_json::Value =
        serde_json::from_str(&std::fs::read_to_string(&path).unwrap()).unwrap();
    assert!(
        published == served,
        "the routes have changed: write the contract anew with `WARREN_BLESS=1 cargo test -p warren-api --test contract`"
    );
}

#[test]
fn given_the_description_when_read_then_it_names_the_documented_paths_and_wants_a_token() {
    let served = serde_json::to_value(warren_api::description()).unwrap();
    for path in [
        "/health",
        "/ready",
        "/metrics",
        "/chunks/{cid}",
        "/api/v1/documents",
        "/api/v1/documents/{id}/content",
        "/api/v1/network/peers",
        "/api/v1/network/dht/routing-table",
        "/api/v1/reload",
    ] {
        assert!(served["paths"][path].is_object(), "{path} is missing");
    }
    assert_eq!(served["security"][0]["token"], serde_json::json!([]));
    assert_eq!(
        served["paths"]["/health"]["get"]["security"],
        serde_json::json!([{}])
    );
}

const BEGIN: &str =
    "<!-- routes: begin (generated; WARREN_BLESS=1 cargo test -p warren-api writes it) -->\n\n";
const END: &str = "\n<!-- routes: end -->";

/// One table for each tag, in the order of the paths.
fn routes_tables(served: &serde_json::Value) -> String {
    let mut tables = std::collections::BTreeMap::<String, String>::new();
    for (path, operations) in served["paths"].as_object().unwrap() {
        for (method, operation) in operations.as_object().unwrap() {
            let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
            let query: Vec<String> = operation["parameters"]
                .as_array()
                .into_iter()
                .flatten()
                .filter(|parameter| parameter["in"] == "query")
                .map(|parameter| format!("`{}`", text(&parameter["name"])))
                .collect();
            let answers: Vec<&str> = operation["responses"]
                .as_object()
                .unwrap()
                .keys()
                .map(String::as_str)
                .collect();
            let row = format!(
                "| `{} {path}` | {} | {} | {} |\n",
                method.to_uppercase(),
                text(&operation["summary"]).replace('|', "\\|"),
                query.join(", "),
                answers.join(", ")
            );
            tables
                .entry(text(&operation["tags"][0]))
                .or_default()
                .push_str(&row);
        }
    }
    let table = |(tag, rows): (String, String)| {
        format!(
            "### {tag}\n\n| request | what it does | query | answers |\n|---|---|---|---|\n{rows}"
        )
    };
    tables.into_iter().map(table).collect::<Vec<_>>().join("\n")
}

#[test]
fn given_the_reference_when_compared_with_the_served_description_then_its_tables_are_equal() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/api.md");
    let text = std::fs::read_to_string(&path).unwrap();
    let start = text.find(BEGIN).expect("the begin mark") + BEGIN.len();
    let end = text.find(END).expect("the end mark");
    let tables = routes_tables(&serde_json::to_value(warren_api::description()).unwrap());

    if std::env::var_os("WARREN_BLESS").is_some() {
        let new = format!("{}{tables}{}", &text[..start], &text[end..]);
        std::fs::write(&path, new).unwrap();
        return;
    }

    assert_eq!(
        &text[start..end],
        tables,
        "run WARREN_BLESS=1 cargo test -p warren-api --test contract"
    );
}
