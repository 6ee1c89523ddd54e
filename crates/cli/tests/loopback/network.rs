//! Peers, connecting by hand, routing table, NAT and traffic: the questions of troubleshooting.

use serde_json::Value;

use crate::support::{Node, Organization, Plan, eventually};

struct Pair {
    first: Node,
    second: Node,
    _organization: Organization,
}

impl Pair {
    fn apart() -> Self {
        let organization = Organization::new();
        Self {
            first: Node::start(&organization.home("node-1")),
            second: Node::start(&organization.home("node-2")),
            _organization: organization,
        }
    }

    fn connected() -> Self {
        let pair = Self::apart();
        pair.second.warren(["connect", &pair.first.address()]).ok();
        pair
    }
}

#[test]
fn given_an_address_when_connected_then_the_peer_appears_on_both_sides() {
    let pair = Pair::apart();

    let connected = pair
        .second
        .warren(["connect", &pair.first.address(), "--json"])
        .json();

    assert_eq!(connected["connected"], true);
    assert_eq!(connected["peer_id"], pair.first.peer_id.as_str());
    pair.first.meets(&pair.second);
    pair.second.meets(&pair.first);
}

#[test]
fn given_the_id_of_somebody_else_when_connected_then_it_fails_with_the_reason() {
    let pair = Pair::apart();
    let wrong = pair
        .first
        .address()
        .replace(&pair.first.peer_id, &pair.second.peer_id);
    let stranger = "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ";
    let other = pair.first.address().replace(&pair.first.peer_id, stranger);

    let to_itself = pair.second.warren(["connect", &wrong]).failed();
    let refusal = pair.second.warren(["connect", &other]).failed();

    assert!(
        to_itself.contains("itself") || to_itself.contains("own"),
        "{to_itself}"
    );
    assert!(
        refusal.contains(stranger) && refusal.contains(&pair.first.peer_id),
        "both ids should be named: {refusal}"
    );
}

#[test]
fn given_nobody_at_an_address_when_connected_then_it_fails_with_the_reason() {
    let pair = Pair::apart();
    let nobody = pair.first.address().replace("14001", "9");

    let refusal = pair.second.warren(["connect", &nobody]).failed();

    assert!(refusal.contains("refused"), "{refusal}");
}

#[test]
fn given_no_address_at_all_when_connected_then_it_fails_with_the_reason() {
    let pair = Pair::apart();

    let refusal = pair
        .second
        .warren(["connect", "node1.acme.com:4001"])
        .usage();

    assert!(
        refusal.contains("node1.acme.com:4001") && refusal.contains("/ip4/10.0.1.5/tcp/4001/p2p/"),
        "{refusal}"
    );
}

#[test]
fn given_a_member_of_another_organisation_when_connected_then_it_is_turned_away() {
    let pair = Pair::apart();
    let foreign = Organization::without_ca("org_other");
    let ca = foreign.ca();
    crate::support::warren([
        "ca",
        "init",
        "--org",
        "org_other",
        "--dir",
        ca.to_str().unwrap(),
    ])
    .ok();
    let stranger = Node::start(&foreign.home("node-x"));

    stranger.warren(["connect", &pair.first.address()]).failed();

    assert!(pair.first.online().is_empty());
    let metrics = eventually("the refusal is counted", || {
        let text = pair.first.get("/metrics").text();
        text.lines()
            .find(|line| {
                line.starts_with("warren_network_admission_refused_total{") && !line.ends_with(" 0")
            })
            .map(str::to_owned)
    });
    assert!(metrics.contains("reason="), "{metrics}");
}

#[test]
fn given_a_peer_when_the_api_tells_of_it_then_every_documented_field_has_its_type() {
    let pair = Pair::connected();
    // Round trip and protocols are known a moment after the connection.
    let peers = eventually("the peer has been asked everything", || {
        let peers = pair.second.get("/api/v1/network/peers").json();
        let peer = &peers["peers"][0];
        let known = peer["latency_ms"].is_u64() && !peer["protocols"].as_array()?.is_empty();
        known.then_some(peers)
    });

    let listed = peers["peers"].as_array().unwrap();
    assert_eq!(peers["total"], listed.len());
    let peer = &listed[0];
    assert_eq!(peer["peer_id"], pair.first.peer_id.as_str());
    let strings = |value: &Value| value.as_array().unwrap().iter().all(Value::is_string);
    assert!(
        strings(&peer["addresses"]) && strings(&peer["protocols"]),
        "{peer}"
    );
    let since = peer["connected_at"].as_str().unwrap();
    assert!(
        since.ends_with('Z') && since.parse::<jiff::Timestamp>().is_ok(),
        "{since}"
    );
    for field in ["uptime_seconds", "total_bytes_sent", "total_bytes_received"] {
        assert!(peer[field].is_u64(), "{field}: {peer}");
    }
    assert_eq!(peer["status"], "online");
    assert_eq!(peer["organization_id"], "org_acme_corp");
    assert_eq!(peer["region"], "us-west");
    assert_eq!(peer["node_name"], "node-1");
    let protocols = peer["protocols"].as_array().unwrap();
    assert!(protocols.contains(&"warren/sync/1.0.0".into()), "{peer}");
}

#[test]
fn given_a_peer_that_left_when_listed_then_it_is_offline_with_what_is_known() {
    let pair = Pair::connected();
    let gone = pair.first.peer_id.clone();
    assert!(pair.first.stop().success());

    let peer = eventually("the peer is offline", || {
        let peers = pair.second.get("/api/v1/network/peers").json();
        let peers = peers["peers"].as_array().unwrap().clone();
        peers.into_iter().find(|peer| peer["status"] != "online")
    });

    assert_eq!(peer["peer_id"], gone.as_str());
    assert!(peer["connected_at"].is_null(), "{peer}");
}

#[test]
fn given_filters_when_peers_are_listed_then_only_those_come() {
    let pair = Pair::connected();
    let total = |query: &str| {
        pair.second
            .get(&format!("/api/v1/network/peers?{query}"))
            .json()["total"]
            .clone()
    };

    assert_eq!(
        total("status=online&region=us-west&organization=org_acme_corp"),
        1
    );
    assert_eq!(total("region=eu-north"), 0);
    assert_eq!(total("status=offline"), 0);
    assert_eq!(
        pair.second
            .get("/api/v1/network/peers?status=asleep")
            .status,
        400
    );
    assert_eq!(pair.second.get("/api/v1/network/peers?limit=0").status, 400);
}

#[test]
fn given_a_query_of_the_wrong_type_when_sent_then_it_is_400_in_the_common_shape() {
    let pair = Pair::apart();

    let reply = pair.first.get("/api/v1/network/peers?limit=many");

    assert_eq!(reply.status, 400);
    assert_eq!(reply.json()["error"]["code"], "bad_request");
}

#[test]
fn given_two_nodes_when_the_routing_table_is_asked_for_then_each_holds_the_other() {
    let pair = Pair::connected();

    let table = eventually("the routing table is filled", || {
        let table = pair.second.get("/api/v1/network/dht/routing-table").json();
        (table["total"] == 1).then_some(table)
    });

    let entry = &table["buckets"][0]["peers"][0];
    assert_eq!(entry["peer_id"], pair.first.peer_id.as_str());
    assert_eq!(entry["connected"], true);
    assert!(
        pair.second
            .warren(["dht"])
            .ok()
            .contains(&pair.first.peer_id)
    );
}

#[test]
fn given_a_node_when_nat_is_checked_then_the_answer_has_its_two_words() {
    let pair = Pair::connected();

    let nat = pair.second.warren(["nat-check", "--json"]).json();

    let word = |field: &str| nat[field].as_str().unwrap().to_owned();
    assert!(
        ["public", "private", "unknown"].contains(&word("reachability").as_str()),
        "{nat}"
    );
    assert!(
        ["none", "cone", "symmetric", "unknown"].contains(&word("nat").as_str()),
        "{nat}"
    );
    assert!(!pair.second.warren(["nat-check"]).ok().is_empty());
}

#[test]
fn given_a_transfer_when_bandwidth_is_asked_for_then_its_bytes_are_in_it() {
    let pair = Pair::connected();
    let (id, _) = pair.first.put_noise(1, 5_000_000);
    pair.second.content(&id).ok();

    let stats = pair
        .second
        .get("/api/v1/network/stats/bandwidth?period=24h")
        .json();

    assert!(
        stats["total_bytes_received"].as_u64().unwrap() >= 5_000_000,
        "{stats}"
    );
    assert_eq!(stats["period"], "24h");
    assert_eq!(
        stats["top_peers"][0]["peer_id"],
        pair.first.peer_id.as_str()
    );
    assert_eq!(
        pair.second
            .get("/api/v1/network/stats/bandwidth?period=2h")
            .status,
        400
    );
}

#[test]
fn given_no_discovery_server_when_registration_is_asked_for_then_the_answer_says_what_is_missing() {
    let pair = Pair::apart();

    let reply = pair
        .first
        .request("POST", "/api/v1/network/register")
        .send();

    assert_eq!(reply.status, 409);
    assert!(
        reply.text().contains("network.discovery.servers"),
        "{}",
        reply.text()
    );
}

#[test]
fn given_bootstrap_peers_when_bootstrapping_is_asked_for_then_the_answer_counts_them() {
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

    let reply = second
        .request("POST", "/api/v1/network/bootstrap")
        .send()
        .json();

    assert_eq!(reply["bootstrapped"], true);
    assert_eq!(reply["connected_peers"], 1);
}

#[test]
fn given_a_running_node_when_its_status_is_asked_then_it_tells_who_and_where_it_is() {
    let pair = Pair::connected();

    let status = pair.second.warren(["status", "--json"]).json();

    assert_eq!(status["node_id"], "node-2");
    assert_eq!(status["peers"], 1);
    assert_eq!(status["readiness"], "ready");
    let addresses = status["listen_addresses"].to_string();
    assert!(addresses.contains("/tcp/14001"), "{status}");
    assert!(
        pair.second
            .warren(["status"])
            .ok()
            .contains(&pair.second.peer_id)
    );
    assert!(
        pair.second
            .warren(["peers"])
            .ok()
            .contains(&pair.first.peer_id)
    );
}
