//! What load balancers and monitoring see, and the API's description of itself.

use std::collections::BTreeSet;

use crate::support::{Node, Organization, Plan, Request, eventually};

#[test]
fn given_a_running_node_when_its_health_is_asked_then_it_is_200_and_says_healthy() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let reply = Request::new(node.api(), "GET", "/health").send();

    assert_eq!(reply.status, 200);
    assert!(reply.text().contains("healthy"), "{}", reply.text());
    let table = node.warren(["health"]).ok();
    assert!(table.starts_with("healthy\n\npart "), "{table}");
    let states: Vec<&str> = table
        .lines()
        .skip(3)
        .map(|line| line.split_whitespace().nth(1).unwrap_or("no state"))
        .collect();
    assert!(
        !states.is_empty() && states.iter().all(|state| *state == "ok"),
        "{table}"
    );
}

#[test]
fn given_a_running_node_when_asked_whether_it_is_ready_then_parts_are_a_table_and_json_is_the_answer()
 {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let table = node.warren(["health", "--endpoint", "ready"]);
    let json = node.warren(["health", "--endpoint", "ready", "--json"]);

    let table = String::from_utf8(table.stdout).unwrap();
    assert!(
        table.contains("part  ") && table.contains("storage"),
        "{table}"
    );
    let report: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(report["components"]["storage"]["status"], "ok", "{report}");
}

#[test]
fn given_the_storage_folder_is_gone_when_health_is_asked_then_it_is_503_without_the_word() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    std::fs::rename(node.path("data"), node.path("elsewhere")).unwrap();

    let reply = eventually("the node is unwell", || {
        let reply = Request::new(node.api(), "GET", "/health").send();
        (reply.status == 503).then_some(reply)
    });

    assert!(!reply.text().contains("healthy"), "{}", reply.text());
}

#[test]
fn given_the_store_inside_the_storage_folder_is_gone_when_health_is_asked_then_it_is_503() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    std::fs::rename(node.path("data/store"), node.path("elsewhere")).unwrap();

    eventually("the node is unwell", || {
        let reply = Request::new(node.api(), "GET", "/health").send();
        (reply.status == 503).then_some(())
    });
}

#[test]
fn given_a_client_without_peers_when_readiness_is_asked_then_it_waits_and_says_for_what() {
    let organization = Organization::new();
    let home = organization.planned(
        "node-1",
        Plan {
            network: "bootstrap_mode: client".to_owned(),
            bootstrap: vec![
                "/ip4/127.0.0.1/tcp/9/p2p/12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ"
                    .to_owned(),
            ],
            ..Plan::default()
        },
    );
    let mut node = Node::launch(&home, &[]);
    eventually("the node is up", || node.answers("/health"));

    let reply = Request::new(node.api(), "GET", "/ready").send();

    assert_eq!(reply.status, 503);
    assert!(
        reply.json()["components"]["peers"]["reason"]
            .as_str()
            .unwrap()
            .contains("peer")
    );
    assert_eq!(home.warren(["health", "--endpoint", "ready"]).code, Some(1));
}

#[test]
fn given_a_client_that_has_joined_when_readiness_is_asked_then_it_is_ready() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));

    let second = Node::start(&organization.planned(
        "node-2",
        Plan {
            network: "bootstrap_mode: client".to_owned(),
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    ));

    assert!(
        second
            .warren(["health", "--endpoint", "ready"])
            .ok()
            .contains("ready")
    );
}

/// Families of an OpenMetrics text, checked line by line (the OpenMetrics specification, "Overall Structure").
fn families(text: &str) -> BTreeSet<(String, String)> {
    let mut families = BTreeSet::new();
    let mut current = String::new();
    let body = text
        .strip_suffix("# EOF\n")
        .expect("the text ends with # EOF");
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# TYPE ") {
            let (name, kind) = described.split_once(' ').unwrap();
            current = name.to_owned();
            // A counter's family is named without the suffix that its samples carry.
            let shown = if kind == "counter" {
                format!("{name}_total")
            } else {
                name.to_owned()
            };
            assert!(
                families.insert((shown, kind.to_owned())),
                "{name} appears twice"
            );
        } else if !line.starts_with('#') {
            let (sample, value) = line.rsplit_once(' ').unwrap();
            let name = sample.split('{').next().unwrap();
            assert!(name.starts_with(&current), "{line} stands under {current}");
            assert!(value.parse::<f64>().is_ok(), "{line}");
        }
    }
    families
}

/// A family as the documentation has it.
struct Documented {
    name: String,
    kind: String,
    labelled: bool,
}

fn documented() -> Vec<Documented> {
    let pages = ["metrics.md", "rpc-metrics.md"].map(|page| {
        let docs = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs");
        std::fs::read_to_string(std::path::Path::new(docs).join(page)).unwrap()
    });
    pages
        .iter()
        .flat_map(|page| page.lines())
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| {
            let cells: Vec<&str> = row
                .split('|')
                .map(|cell| cell.trim().trim_matches('`'))
                .collect();
            Documented {
                name: cells[0].to_owned(),
                kind: cells[1].to_owned(),
                labelled: !cells[2].is_empty(),
            }
        })
        .collect()
}

/// A node that runs everything that registers metrics.
fn everything(organization: &Organization) -> Node {
    let home = organization.planned(
        "node-1",
        Plan {
            capabilities: vec![
                "storage",
                "discovery",
                "relay",
                "director",
                "worker",
                "admin",
            ],
            roles: "storage, discovery, relay, director, worker",
            sections: "discovery: {server: {listen_address: '127.0.0.1:0'}}
rpc: {bind_addr: '127.0.0.1:0'}
cluster: {bind_addr: '127.0.0.1:0'}
"
            .to_owned(),
            network: "discovery: {servers: ['https://127.0.0.1:9']}".to_owned(),
            ..Plan::default()
        },
    );
    let mut node = Node::launch(&home, &[]);
    eventually("the node is up", || node.answers("/health"));
    node
}

#[test]
fn given_a_node_with_every_role_when_its_metrics_are_read_then_they_are_those_of_the_docs() {
    let organization = Organization::new();
    let node = everything(&organization);

    let reply = Request::new(node.api(), "GET", "/metrics").send();

    assert!(
        reply
            .header("content-type")
            .unwrap()
            .starts_with("application/openmetrics-text")
    );
    let (mut undocumented, documented) = (families(&reply.text()), documented());
    // A family with labels shows from its first sample on.
    let missing: Vec<&str> = documented
        .iter()
        .filter(|family| !undocumented.remove(&(family.name.clone(), family.kind.clone())))
        .filter(|family| !family.labelled)
        .map(|family| family.name.as_str())
        .collect();
    assert!(
        undocumented.is_empty(),
        "not in docs/metrics.md: {undocumented:#?}"
    );
    assert!(missing.is_empty(), "not served: {missing:?}");
}

#[test]
fn given_a_peer_when_metrics_are_read_then_it_is_counted_by_organisation_and_region() {
    let organization = Organization::new();
    let first = Node::start(&organization.home("node-1"));
    let second = organization.planned(
        "node-2",
        Plan {
            bootstrap: vec![first.address()],
            ..Plan::default()
        },
    );
    let second = Node::start(&second);
    second.meets(&first);
    let (id, _) = first.put_noise(1, 10_000_000);
    second.content(&id).ok();

    let metrics = eventually("the peer is counted", || {
        let text = Request::new(first.api(), "GET", "/metrics").send().text();
        let line = r#"warren_network_peers_total{organization="org_acme_corp",region="us-west"} 1"#;
        text.contains(line).then_some(text)
    });

    let sent: f64 = metrics
        .lines()
        .filter(|line| line.starts_with("warren_network_bytes_sent_total{"))
        .filter(|line| line.contains(&second.peer_id))
        .map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap())
        .sum();
    assert!(
        (1e7..1.2e7).contains(&sent),
        "{sent} bytes counted for a document of 10 MB"
    );
}

#[test]
fn given_a_monitoring_listener_when_asked_for_more_than_health_and_metrics_then_there_is_nothing() {
    let organization = Organization::new();
    let home = organization.home("node-1");
    let listener = std::net::SocketAddr::from((home.ip, 19100));
    home.edit(
        "roles:",
        &format!("monitoring: {{listen_address: '{listener}'}}\nroles:"),
    );
    let node = Node::start(&home);
    let status = |path: &str| {
        let bearer = format!("Bearer {}", node.token());
        Request::new(listener, "GET", path)
            .header("host", "monitoring.acme.com")
            .header("authorization", &bearer)
            .send()
            .status
    };

    let answers = [
        "/health",
        "/ready",
        "/metrics",
        "/api/v1/status",
        "/api/v1/openapi.json",
    ]
    .map(status);

    assert_eq!(answers, [200, 200, 200, 404, 404]);
    let told = Request::new(listener, "GET", "/api/v1/status")
        .send()
        .text();
    assert!(
        told.contains("/health, /ready, /metrics") && !told.contains("openapi"),
        "{told}"
    );
}

/// Every path and method of the description.
fn described(node: &Node) -> Vec<(String, String)> {
    let document = node.get("/api/v1/openapi.json").json();
    assert!(
        document["openapi"].as_str().unwrap().starts_with("3."),
        "{document}"
    );
    let mut routes = Vec::new();
    for (path, item) in document["paths"].as_object().unwrap() {
        for method in item.as_object().unwrap().keys() {
            routes.push((method.to_uppercase(), path.clone()));
        }
    }
    routes
}

#[test]
fn given_the_openapi_document_when_its_routes_are_called_then_each_is_served() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    for (method, path) in described(&node) {
        let concrete = path.replace("{id}", "nothing").replace("{cid}", "nothing");
        let reply = node.request(&method, &concrete).send();

        let unknown = reply.status == 405 || reply.text().contains("there is nothing at");
        assert!(
            !unknown,
            "{method} {path} is described and not served: {}",
            reply.text()
        );
    }
}

#[test]
fn given_the_issues_list_of_routes_when_compared_with_the_description_then_each_is_in_it() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));
    let described = described(&node);

    for (method, path) in [
        ("GET", "/health"),
        ("GET", "/ready"),
        ("GET", "/metrics"),
        ("GET", "/chunks/{cid}"),
        ("POST", "/api/v1/documents"),
        ("GET", "/api/v1/documents"),
        ("GET", "/api/v1/documents/{id}"),
        ("GET", "/api/v1/documents/{id}/content"),
        ("DELETE", "/api/v1/documents/{id}"),
        ("GET", "/api/v1/status"),
        ("GET", "/api/v1/network/peers"),
        ("POST", "/api/v1/network/connect"),
        ("POST", "/api/v1/network/bootstrap"),
        ("POST", "/api/v1/network/register"),
        ("GET", "/api/v1/network/dht/routing-table"),
        ("GET", "/api/v1/network/stats/bandwidth"),
        ("POST", "/api/v1/reload"),
        ("GET", "/api/v1/openapi.json"),
    ] {
        let route = (method.to_owned(), path.to_owned());
        assert!(
            described.contains(&route),
            "{method} {path} is not described"
        );
    }
}

#[test]
fn given_a_described_path_when_called_with_another_method_then_it_is_405_in_the_common_shape() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let reply = node.request("DELETE", "/api/v1/status").send();

    assert_eq!(reply.status, 405);
    assert_eq!(reply.json()["error"]["code"], "method_not_allowed");
    assert!(
        reply.header("allow").is_some(),
        "RFC 9110 §15.5.6 wants an Allow header"
    );
}
