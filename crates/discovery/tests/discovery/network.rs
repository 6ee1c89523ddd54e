//! Bootstrap, register, heartbeat, peers: the documented shapes, and who gets them.

use std::{sync::Arc, time::Duration};

use reqwest::{Method, StatusCode};
use serde_json::{Value, json};
use warren_discovery::{
    client::{ServerApi, TimeOuts},
    engine::{Postgres, PostgresOptions},
    server::{BootstrapAccess, ClientAuth, Seed, ServerConfig, Transport},
    wire::{PeersQuery, PublicKeyText},
};
use warren_identity::{
    CertificateAuthority, IssuanceLedger, Revocations, Signed, Trust, tls::Guest,
};
use warren_lab::PostgresServer;

use crate::support::{
    ORGANIZATION, Server, authority, embedded, eventually, guest_http, loopback, member,
    member_http, now, record, stranger_http,
};

struct World {
    authority: Arc<CertificateAuthority>,
    server_trust: Trust,
    server: Server,
    _registry: crate::support::TempRegistry,
}

async fn world(adjust: impl FnOnce(&mut ServerConfig)) -> World {
    let authority = authority(ORGANIZATION);
    let server_trust = member(&authority, "discovery-1", &["discovery"]);
    let registry = embedded();
    let mut config = ServerConfig::new(loopback(), server_trust.clone(), registry.registry.clone());
    adjust(&mut config);
    World {
        server: Server::start(config).await,
        authority,
        server_trust,
        _registry: registry,
    }
}

fn documented_body(trust: &Trust) -> Value {
    json!({
        "peer_id": trust.peer_id().to_string(),
        "addresses": ["/ip4/192.168.1.10/tcp/4001"],
        "organization_id": trust.organization().as_str(),
        "public_key": serde_json::to_value(PublicKeyText::new(&trust.key().public_key())).unwrap(),
    })
}

async fn ask(
    http: &reqwest::Client,
    server: &Server,
    method: Method,
    path: &str,
    body: Option<&Value>,
) -> (StatusCode, Value) {
    let mut request = http.request(method, server.url.join(path).unwrap());
    if let Some(body) = body {
        request = request.json(body);
    }
    let response = request.send().await.unwrap();
    let status = response.status();
    let text = response.text().await.unwrap();
    (
        status,
        serde_json::from_str(&text).unwrap_or(Value::String(text)),
    )
}

const BOOTSTRAP: &str = "/api/v1/network/bootstrap";
const REGISTER: &str = "/api/v1/network/register";
const PEERS: &str = "/api/v1/network/peers";

fn assert_error(answer: &Value, code: &str) {
    let error = &answer["error"];
    assert_eq!(error["code"], code, "{answer}");
    for field in ["message", "request_id", "timestamp"] {
        assert!(
            error[field].as_str().is_some_and(|text| !text.is_empty()),
            "{field}: {answer}"
        );
    }
    assert!(error["details"].is_object(), "{answer}");
    assert!(
        error["timestamp"].as_str().unwrap().ends_with('Z'),
        "{answer}"
    );
}

#[tokio::test]
async fn given_a_registered_node_then_bootstrap_has_the_documented_shape() {
    let world = world(|_| {}).await;
    let node = member(
        &world.authority,
        "node-2",
        &["storage", "search", "federation"],
    );
    let http = member_http(&node);
    let (status, answer) = ask(
        &http,
        &world.server,
        Method::POST,
        REGISTER,
        Some(&documented_body(&node)),
    )
    .await;
    assert_eq!(
        (status, &answer["registered"]),
        (StatusCode::CREATED, &json!(true)),
        "{answer}"
    );

    let (status, answer) = ask(&http, &world.server, Method::GET, BOOTSTRAP, None).await;

    assert_eq!(status, StatusCode::OK);
    let peer = &answer["peers"][0];
    assert_eq!(peer["peer_id"], node.peer_id().to_string());
    assert_eq!(peer["addresses"], json!(["/ip4/192.168.1.10/tcp/4001"]));
    assert_eq!(
        peer["capabilities"],
        json!(["storage", "search", "federation"])
    );
    assert!(peer.as_object().unwrap().contains_key("region"));
}

#[tokio::test]
async fn given_a_signed_record_then_its_region_roles_and_bulk_addresses_are_listed() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &["storage"]);
    let api = ServerApi::new(node.clone(), TimeOuts::default()).unwrap();
    let signed = record(&node, &["/ip4/10.0.1.6/tcp/4001"], 1);
    api.register(&world.server.url, &signed).await.unwrap();

    let answer = api
        .peers(&world.server.url, &PeersQuery::default())
        .await
        .unwrap();

    let peer = &answer.peers[0];
    assert_eq!(peer.region.as_deref(), Some("us-west"));
    assert_eq!(
        (&peer.roles, &peer.bulk_addresses),
        (&vec!["storage".into()], &vec!["10.0.1.5:4002".into()])
    );
    assert_eq!(
        peer.node_name.as_deref(),
        Some("node-2"),
        "the name is the certificate's"
    );
    assert!(peer.record.is_some());
}

#[tokio::test]
async fn given_seeds_then_bootstrap_holds_those_of_the_callers_organization() {
    let seed_of = |organization: Option<&str>| Seed {
        peer_id: warren_identity::NodeKey::from_seed(crate::support::random()).peer_id(),
        addresses: vec!["/ip4/10.0.1.5/tcp/4001".into()],
        organization: organization.map(|organization| organization.parse().unwrap()),
        region: Some("us-west".into()),
    };
    let (own, common, foreign) = (
        seed_of(Some(ORGANIZATION)),
        seed_of(None),
        seed_of(Some("org_other")),
    );
    let seeds = vec![own.clone(), common.clone(), foreign];
    let world = world(|config| config.seeds = seeds).await;
    let node = member(&world.authority, "node-2", &[]);

    let (_, answer) = ask(
        &member_http(&node),
        &world.server,
        Method::GET,
        BOOTSTRAP,
        None,
    )
    .await;

    let mut listed: Vec<_> = answer["peers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|peer| peer["peer_id"].clone())
        .collect();
    let mut expected = [own, common]
        .map(|seed| json!(seed.peer_id.to_string()))
        .to_vec();
    listed.sort_by_key(Value::to_string);
    expected.sort_by_key(Value::to_string);
    assert_eq!(listed, expected);
}

#[tokio::test]
async fn registering_again_is_the_same_registration() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    let body = documented_body(&node);
    ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;

    let (status, answer) = ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;

    assert_eq!(
        (status, &answer["change"]),
        (StatusCode::OK, &json!("unchanged"))
    );
    let (_, peers) = ask(&http, &world.server, Method::GET, PEERS, None).await;
    assert_eq!(
        (&peers["total"], peers["peers"].as_array().unwrap().len()),
        (&json!(1), 1)
    );
}

#[tokio::test]
async fn each_contradiction_to_the_certificate_is_refused() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let other = member(&world.authority, "node-3", &[]);
    let http = member_http(&node);
    let own_key = documented_body(&node)["public_key"].clone();
    let other_key = documented_body(&other)["public_key"].clone();
    let cases = [
        (
            json!({"peer_id": other.peer_id().to_string()}),
            403,
            "peer_id_mismatch",
        ),
        (
            json!({"organization_id": "org_other"}),
            403,
            "organization_mismatch",
        ),
        (json!({"public_key": other_key}), 422, "public_key_mismatch"),
        (
            json!({"public_key": "ed25519:ABC..."}),
            422,
            "public_key_mismatch",
        ),
        (json!({"addresses": ["10.0.1.5:4001"]}), 422, "bad_address"),
        (
            json!({"addresses": vec!["/ip4/10.0.1.5/tcp/4001"; 33]}),
            422,
            "too_many_addresses",
        ),
        (json!({"peer_id": "12D3KooWA8..."}), 400, "bad_request"),
        (json!({"record": "AAAA"}), 422, "bad_record"),
        (
            json!({"public_key": own_key, "region": "x".repeat(300)}),
            422,
            "bad_region",
        ),
    ];
    for (change, expected, code) in cases {
        let mut body = documented_body(&node);
        for (key, value) in change.as_object().unwrap() {
            body[key] = value.clone();
        }
        let (status, answer) = ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;
        assert_eq!(status.as_u16(), expected, "{change}: {answer}");
        assert_error(&answer, code);
    }
    let (_, peers) = ask(&http, &world.server, Method::GET, PEERS, None).await;
    assert_eq!(peers["total"], 0, "nothing refused was stored");
}

#[tokio::test]
async fn given_a_claimed_capability_then_the_certificates_are_listed() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &["storage"]);
    let http = member_http(&node);
    let mut body = documented_body(&node);
    body["capabilities"] = json!(["admin", "exit"]);
    ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;
    let (_, peers) = ask(&http, &world.server, Method::GET, PEERS, None).await;
    assert_eq!(peers["peers"][0]["capabilities"], json!(["storage"]));
}

#[tokio::test]
async fn given_two_organizations_then_each_sees_its_own_peers_only() {
    let guests = authority("org_other");
    let guest = Guest {
        roots: guests.roots().clone(),
        revocations: Revocations::none(),
    };
    let world = world(|config| config.guests = vec![guest]).await;
    let own = member(&world.authority, "node-2", &[]);
    let visitor = member(&guests, "visitor-1", &[]);
    let own_http = member_http(&own);
    let visitor_http = guest_http(&visitor, world.authority.roots());
    for (http, trust) in [(&own_http, &own), (&visitor_http, &visitor)] {
        let body = documented_body(trust);
        let (status, answer) = ask(http, &world.server, Method::POST, REGISTER, Some(&body)).await;
        assert_eq!(status, StatusCode::CREATED, "{answer}");
    }
    for (http, trust) in [(&own_http, &own), (&visitor_http, &visitor)] {
        let path = format!("{PEERS}?organization={}", trust.organization());
        let (_, answer) = ask(http, &world.server, Method::GET, &path, None).await;
        assert_eq!(answer["total"], 1, "{answer}");
        assert_eq!(answer["peers"][0]["peer_id"], trust.peer_id().to_string());
    }
    let path = format!("{PEERS}?organization=org_other");
    let (status, answer) = ask(&own_http, &world.server, Method::GET, &path, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_error(&answer, "foreign_organization");
}

#[tokio::test]
async fn given_a_guest_when_it_asks_for_the_revocation_lists_then_it_is_refused() {
    let guests = authority("org_other");
    let guest = Guest {
        roots: guests.roots().clone(),
        revocations: Revocations::none(),
    };
    let world = world(|config| config.guests = vec![guest]).await;
    let visitor = member(&guests, "visitor-1", &[]);
    let http = guest_http(&visitor, world.authority.roots());
    let path = "/api/v1/network/crl";
    let (status, answer) = ask(&http, &world.server, Method::GET, path, None).await;
    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_error(&answer, "forbidden");
}

#[tokio::test]
async fn given_a_record_that_claims_a_role_beyond_its_certificate_then_it_is_refused() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &["storage"]);
    let mut record = record(&node, &["/ip4/10.0.1.5/tcp/4001"], 1)
        .value()
        .clone();
    record.roles.push("relay".into());
    let mut body = documented_body(&node);
    body["addresses"] = json!(record.addresses);
    body["region"] = json!(record.region);
    body["record"] = json!(Signed::sign(record, node.key()).unwrap());
    let http = member_http(&node);
    let (status, answer) = ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;
    assert_eq!(status, StatusCode::UNPROCESSABLE_ENTITY, "{answer}");
    assert_error(&answer, "bad_record");
}

#[tokio::test]
async fn given_a_guest_ca_then_it_cannot_make_members_of_the_own_organization() {
    let guests = authority("org_other");
    // A foreign CA's certificate says its own organisation; a leaf under it that claims ours is an impostor.
    let impostors = authority(ORGANIZATION);
    let guest = Guest {
        roots: guests.roots().clone(),
        revocations: Revocations::none(),
    };
    let world = world(|config| config.guests = vec![guest]).await;
    let impostor = member(&impostors, "impostor", &["admin"]);
    let http = guest_http(&impostor, world.authority.roots());
    let refused = http.get(world.server.url.join(PEERS).unwrap()).send().await;
    assert!(
        refused.is_err(),
        "its CA is none of those accepted: {refused:?}"
    );
}

#[tokio::test]
async fn given_heartbeats_stop_then_the_entry_expires() {
    let world = world(|config| config.ttl = Duration::from_secs(1)).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    ask(
        &http,
        &world.server,
        Method::POST,
        REGISTER,
        Some(&documented_body(&node)),
    )
    .await;
    let (status, _) = ask(
        &http,
        &world.server,
        Method::POST,
        "/api/v1/network/heartbeat",
        None,
    )
    .await;
    assert_eq!(status, StatusCode::OK);
    eventually("the entry is gone", async || {
        let (_, answer) = ask(&http, &world.server, Method::GET, PEERS, None).await;
        answer["total"] == 0
    })
    .await;
    let (status, answer) = ask(
        &http,
        &world.server,
        Method::POST,
        "/api/v1/network/heartbeat",
        None,
    )
    .await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_error(&answer, "not_registered");
    let (_, offline) = ask(
        &http,
        &world.server,
        Method::GET,
        &format!("{PEERS}?status=offline"),
        None,
    )
    .await;
    assert_eq!(offline["peers"][0]["status"], "offline");
}

#[tokio::test]
async fn given_a_node_leaves_then_it_is_no_longer_listed() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    ask(
        &http,
        &world.server,
        Method::POST,
        REGISTER,
        Some(&documented_body(&node)),
    )
    .await;
    let (_, left) = ask(&http, &world.server, Method::DELETE, REGISTER, None).await;
    assert_eq!(left, json!({"removed": true}));
    let (_, answer) = ask(&http, &world.server, Method::GET, BOOTSTRAP, None).await;
    assert_eq!(answer["peers"], json!([]));
}

#[tokio::test]
async fn pages_follow_their_cursor() {
    let world = world(|_| {}).await;
    for n in 0..5 {
        let node = member(&world.authority, &format!("node-{n}"), &[]);
        ask(
            &member_http(&node),
            &world.server,
            Method::POST,
            REGISTER,
            Some(&documented_body(&node)),
        )
        .await;
    }
    let http = member_http(&member(&world.authority, "reader", &[]));
    let (mut names, mut path) = (
        std::collections::BTreeSet::new(),
        format!("{PEERS}?limit=2"),
    );
    for expected in [2, 2, 1] {
        let (_, answer) = ask(&http, &world.server, Method::GET, &path, None).await;
        let peers = answer["peers"].as_array().unwrap();
        assert_eq!((peers.len(), &answer["total"]), (expected, &json!(5)));
        names.extend(peers.iter().map(|peer| peer["node_name"].to_string()));
        path = format!(
            "{PEERS}?limit=2&cursor={}",
            answer["next_cursor"].as_str().unwrap_or_default()
        );
    }
    assert_eq!(names.len(), 5);
    for bad in [
        "limit=0",
        "limit=501",
        "cursor=x",
        "status=asleep",
        "organisation=x",
    ] {
        let (status, _) = ask(
            &http,
            &world.server,
            Method::GET,
            &format!("{PEERS}?{bad}"),
            None,
        )
        .await;
        assert_eq!(status, StatusCode::BAD_REQUEST, "{bad}");
    }
}

#[tokio::test]
async fn given_certificates_required_then_strangers_fail_in_the_handshake() {
    let world = world(|_| {}).await;
    let http = stranger_http(world.authority.roots());
    assert!(
        http.get(world.server.url.join(BOOTSTRAP).unwrap())
            .send()
            .await
            .is_err()
    );
    let foreign = member(&authority(ORGANIZATION), "node-x", &[]);
    let http = guest_http(&foreign, world.authority.roots());
    assert!(
        http.get(world.server.url.join(BOOTSTRAP).unwrap())
            .send()
            .await
            .is_err()
    );
}

#[tokio::test]
async fn given_anonymous_bootstrap_then_strangers_may_read_that_list_and_nothing_else() {
    let world = world(|config| config.bootstrap_access = BootstrapAccess::Anyone).await;
    let http = stranger_http(world.authority.roots());
    let (status, answer) = ask(&http, &world.server, Method::GET, BOOTSTRAP, None).await;
    assert_eq!((status, answer), (StatusCode::OK, json!({"peers": []})));
    let someone = member(&world.authority, "node-2", &[]);
    for (method, path, body) in [
        (Method::GET, PEERS, None),
        (Method::POST, REGISTER, Some(documented_body(&someone))),
        (Method::DELETE, REGISTER, None),
        (Method::GET, "/api/v1/network/crl", None),
        (Method::GET, "/api/v1/join/tokens", None),
    ] {
        let (status, answer) = ask(&http, &world.server, method, path, body.as_ref()).await;
        assert_eq!(status, StatusCode::UNAUTHORIZED, "{path}: {answer}");
        assert_error(&answer, "unauthenticated");
    }
}

#[tokio::test]
async fn given_a_revocation_then_an_open_connection_is_worth_nothing() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    let (status, _) = ask(&http, &world.server, Method::GET, PEERS, None).await;
    assert_eq!(status, StatusCode::OK);
    let mut ledger = IssuanceLedger::default();
    ledger.revoke_peer(node.peer_id(), now());
    let crl = ledger
        .sign_crl(&world.authority, now(), Duration::from_secs(86_400))
        .unwrap();
    world.server_trust.merge_revocations(&crl).unwrap();

    let (status, answer) = ask(&http, &world.server, Method::GET, PEERS, None).await;

    assert_eq!(status, StatusCode::FORBIDDEN);
    assert_error(&answer, "certificate_refused");
    assert_eq!(answer["error"]["details"]["reason"], "peer_revoked");
    let other =
        ServerApi::new(member(&world.authority, "node-3", &[]), TimeOuts::default()).unwrap();
    let pem = other.crl_pem(&world.server.url).await.unwrap();
    let lists = warren_identity::join::revocations_from_pem(&pem, world.authority.roots()).unwrap();
    assert!(lists.is_peer_revoked(&node.peer_id()));
}

fn behind_a_front_end(config: &mut ServerConfig) {
    config.transport = Transport::PlainLoopback;
    config.client_auth = ClientAuth::CertificateOrSignedRequest;
}

#[tokio::test]
async fn given_a_front_end_that_ends_tls_then_signed_requests_prove_membership() {
    let world = world(behind_a_front_end).await;
    let node = member(&world.authority, "node-2", &["storage"]);
    let api = ServerApi::new(node.clone(), TimeOuts::default()).unwrap();
    let url = &world.server.url;
    api.register(url, &record(&node, &["/ip4/10.0.1.6/tcp/4001"], 1))
        .await
        .unwrap();
    api.heartbeat(url).await.unwrap();
    let query = PeersQuery {
        limit: Some(10),
        region: Some("us-west".into()),
        ..PeersQuery::default()
    };
    assert_eq!(api.peers(url, &query).await.unwrap().total, 1);
    assert!(api.leave(url).await.unwrap().removed);
}

#[tokio::test]
async fn given_a_signed_request_of_a_foreign_node_then_it_is_refused() {
    let world = world(behind_a_front_end).await;
    let foreign = member(&authority(ORGANIZATION), "node-x", &["admin"]);
    let api = ServerApi::new(foreign.clone(), TimeOuts::default()).unwrap();
    let error = api
        .heartbeat(&world.server.url)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("certificate_refused") && error.contains("unknown_issuer"),
        "{error}"
    );
}

#[tokio::test]
async fn given_a_captured_signed_request_then_replaying_or_changing_it_is_refused() {
    let world = world(behind_a_front_end).await;
    let node = member(&world.authority, "node-2", &[]);
    let captured = crate::support::CapturedRequest::register(&node, &documented_body(&node));
    assert_eq!(captured.send(&world.server).await.0, StatusCode::CREATED);
    let (status, answer) = captured.send(&world.server).await;
    assert_eq!(status, StatusCode::CONFLICT);
    assert_error(&answer, "replayed");
    let mut moved = documented_body(&node);
    moved["addresses"] = json!(["/ip4/6.6.6.6/tcp/4001"]);
    let (status, answer) = captured.with_body(&moved).send(&world.server).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED, "{answer}");
    let (status, answer) = captured.made_days_ago(3, &node).send(&world.server).await;
    assert_eq!(status, StatusCode::UNAUTHORIZED);
    assert!(
        answer["error"]["message"]
            .as_str()
            .unwrap()
            .contains("clock"),
        "{answer}"
    );
}

#[tokio::test]
async fn given_plain_http_then_it_is_refused_on_other_addresses_and_with_required_certificates() {
    let registry = embedded();
    let trust = member(&authority(ORGANIZATION), "discovery-1", &["discovery"]);
    let start = async |address: &str, client_auth| {
        let mut config = ServerConfig::new(
            address.parse().unwrap(),
            trust.clone(),
            registry.registry.clone(),
        );
        config.transport = Transport::PlainLoopback;
        config.client_auth = client_auth;
        let metrics = warren_telemetry::Metrics::new();
        let shutdown = tokio_util::sync::CancellationToken::new();
        let error =
            warren_discovery::server::DiscoveryServer::bind(config, &metrics, shutdown).await;
        error.unwrap_err().to_string()
    };
    let error = start("0.0.0.0:0", ClientAuth::CertificateOrSignedRequest).await;
    assert!(error.contains("loopback only"), "{error}");
    let error = start("127.0.0.1:0", ClientAuth::Certificate).await;
    assert!(error.contains("require_certificates"), "{error}");
}

#[tokio::test]
async fn given_a_taken_port_then_the_address_is_named() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap();
    let registry = embedded();
    let trust = member(&authority(ORGANIZATION), "discovery-1", &["discovery"]);
    let config = ServerConfig::new(address, trust, registry.registry.clone());
    let metrics = warren_telemetry::Metrics::new();
    let shutdown = tokio_util::sync::CancellationToken::new();
    let error = warren_discovery::server::DiscoveryServer::bind(config, &metrics, shutdown)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains(&address.to_string()), "{error}");
}

#[tokio::test]
async fn given_the_stock_curl_then_a_member_is_served_and_a_stranger_is_not() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let directory = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path
    };
    let ca = write("ca_cert.pem", &world.authority.certificate_pem());
    let cert = write("node_cert.pem", &node.leaf().unwrap().to_pem());
    let key = write("node.pem", &node.key().to_pem());
    let url = world.server.url.join(BOOTSTRAP).unwrap().to_string();
    let mut stranger = tokio::process::Command::new("curl");
    stranger
        .args(["--silent", "--show-error", "--noproxy", "*"])
        .arg("--cacert")
        .arg(&ca)
        .arg(&url);
    let Ok(refused) = stranger.output().await else {
        warren_lab::skip(
            "given_the_stock_curl_then_a_member_is_served_and_a_stranger_is_not",
            "curl is not installed (apt-get install curl)",
        );
        return;
    };
    assert!(
        !refused.status.success(),
        "{}",
        String::from_utf8_lossy(&refused.stdout)
    );

    let served = tokio::process::Command::new("curl")
        .args(["--silent", "--show-error", "--fail", "--noproxy", "*"])
        .arg("--cacert")
        .arg(&ca)
        .arg("--cert")
        .arg(&cert)
        .arg("--key")
        .arg(&key)
        .arg(&url)
        .output()
        .await
        .unwrap();

    assert!(
        served.status.success(),
        "{}",
        String::from_utf8_lossy(&served.stderr)
    );
    let answer: Value = serde_json::from_slice(&served.stdout).unwrap();
    assert_eq!(answer, json!({"peers": []}));
}

#[tokio::test]
async fn given_the_database_dies_then_bootstrap_uses_the_last_list_and_all_recovers() {
    let Some(cluster) = PostgresServer::own(
        "given_the_database_dies_then_bootstrap_uses_the_last_list_and_all_recovers",
    ) else {
        return;
    };
    let options = PostgresOptions {
        acquire_timeout: Duration::from_millis(500),
        ..PostgresOptions::default()
    };
    let registry = Arc::new(Postgres::new(&cluster.database(), &options).unwrap());
    let world = world(|config| config.registry = registry).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    let body = documented_body(&node);
    ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;
    let (_, before) = ask(&http, &world.server, Method::GET, BOOTSTRAP, None).await;
    cluster.stop();

    let (status, during) = ask(&http, &world.server, Method::GET, BOOTSTRAP, None).await;
    assert_eq!(
        (status, &during["peers"]),
        (StatusCode::OK, &before["peers"])
    );
    assert!(during["stale_seconds"].is_u64(), "{during}");
    let response = http
        .post(world.server.url.join(REGISTER).unwrap())
        .json(&body)
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert!(response.headers().contains_key("retry-after"));
    let (status, _) = ask(&http, &world.server, Method::GET, "/health", None).await;
    assert!(status == StatusCode::OK || status == StatusCode::SERVICE_UNAVAILABLE);

    cluster.start();
    eventually(
        "registrations are taken again, and the old one survived",
        async || {
            let (status, answer) =
                ask(&http, &world.server, Method::POST, REGISTER, Some(&body)).await;
            status == StatusCode::OK && answer["change"] == "unchanged"
        },
    )
    .await;
}

#[tokio::test]
async fn given_requests_then_they_are_counted_by_route_and_code() {
    let world = world(|_| {}).await;
    let node = member(&world.authority, "node-2", &[]);
    let http = member_http(&node);
    ask(
        &http,
        &world.server,
        Method::POST,
        REGISTER,
        Some(&documented_body(&node)),
    )
    .await;
    let (status, answer) = ask(&http, &world.server, Method::GET, "/no/such/path", None).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
    assert_error(&answer, "not_found");
    let text = world.server.metrics.encode();
    for line in [
        "warren_discovery_requests_total{route=\"/api/v1/network/register\",code=\"201\"} 1",
        "warren_discovery_requests_total{route=\"other\",code=\"404\"} 1",
        "warren_discovery_registrations_total{outcome=\"created\"} 1",
    ] {
        assert!(text.contains(line), "{line} in\n{text}");
    }
    world.server.stop().await;
}
