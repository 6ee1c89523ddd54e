//! One-time tokens over real servers: once, also with several servers on one database; and renewal.

use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use reqwest::{Method, StatusCode};
use warren_discovery::{
    client::{JoinFailure, RequestError, ServerApi, TimeOuts, join},
    core::rate::Limit,
    engine::Registry,
    grants::{CreateGrantError, Grants},
    server::{Limits, ServerConfig},
};
use warren_identity::{
    Capabilities, Capability, CertificateAuthority, Csr, IssuanceLedger, NodeKey, Trust,
    join::{JoinGrant, JoinToken},
};
use warren_lab::PostgresServer;

use crate::{
    registry,
    support::{
        MemoryLedger, ORGANIZATION, Server, TempRegistry, authority, embedded, issuer, loopback,
        member, now, now_ms, old_member, random, stranger_http, token,
    },
};

struct World {
    authority: Arc<CertificateAuthority>,
    ledger: Arc<MemoryLedger>,
    server_trust: Trust,
    grants: Grants,
    server: Server,
    _registry: TempRegistry,
}

async fn world() -> World {
    let registry = embedded();
    let authority = authority(ORGANIZATION);
    let ledger = Arc::new(MemoryLedger::default());
    let server_trust = member(&authority, "discovery-1", &["discovery"]);
    let server = issuing_server(
        &authority,
        &ledger,
        &server_trust,
        registry.registry.clone(),
    )
    .await;
    World {
        grants: Grants::new(registry.registry.clone()),
        authority,
        ledger,
        server_trust,
        server,
        _registry: registry,
    }
}

async fn issuing_server(
    authority: &Arc<CertificateAuthority>,
    ledger: &Arc<MemoryLedger>,
    trust: &Trust,
    registry: Arc<dyn Registry>,
) -> Server {
    let mut config = ServerConfig::new(loopback(), trust.clone(), registry);
    config.issuer = Some(issuer(authority, ledger));
    let joins = Limit {
        burst: 1_000,
        per_second: 1_000,
    };
    config.limits = Limits {
        joins,
        ..Limits::default()
    };
    Server::start(config).await
}

impl World {
    async fn open(&self, name: &str) -> (JoinToken, JoinGrant) {
        let (token, grant) = token(&self.authority, name);
        self.grants.create(grant.clone(), now_ms()).await.unwrap();
        (token, grant)
    }

    async fn join(&self, token: &JoinToken, key: &NodeKey) -> Result<Trust, JoinFailure> {
        let joined = join(
            &self.server.url,
            token,
            key,
            "anything",
            TimeOuts::default(),
        )
        .await?;
        let trust = Trust::new(key.clone(), joined.accepted.roots);
        trust.replace_leaf(joined.accepted.leaf, now()).unwrap();
        Ok(trust)
    }
}

fn code_of(failure: JoinFailure) -> (u16, String) {
    match failure {
        JoinFailure::Request(RequestError::Refused { status, code, .. }) => (status, code),
        other => panic!("{other}"),
    }
}

#[tokio::test]
async fn given_a_token_when_joining_then_the_leaf_has_what_was_granted_and_works() {
    let world = world().await;
    let (token, _) = world.open("node-7").await;
    let trust = world
        .join(&token, &NodeKey::from_seed(random()))
        .await
        .unwrap();

    let own = trust.own_member().unwrap();

    assert_eq!(
        own.name, "node-7",
        "the name is the grant's, not the request's"
    );
    assert!(own.allows(&Capability::Storage) && own.capabilities.len() == 1);
    assert_eq!(
        world.ledger.issued(),
        2,
        "the leaf and its companion are in the CA's ledger"
    );
    let api = ServerApi::new(trust, TimeOuts::default()).unwrap();
    api.bootstrap(&world.server.url).await.unwrap();
    let listed = world.grants.list().await.unwrap();
    assert!(listed[0].redemption.is_some());
}

#[tokio::test]
async fn given_a_used_token_then_another_machine_is_told_and_the_same_machine_gets_its_leaf_again()
{
    let world = world().await;
    let (token, _) = world.open("node-7").await;
    let key = NodeKey::from_seed(random());
    let first = world.join(&token, &key).await.unwrap();
    let again = world.join(&token, &key).await.unwrap();
    assert_eq!(first.chain(), again.chain());
    let thief = world
        .join(&token, &NodeKey::from_seed(random()))
        .await
        .unwrap_err();
    let text = thief.to_string();
    assert!(
        text.contains(&key.peer_id().to_string()) && text.contains("warren ca revoke"),
        "{text}"
    );
    assert_eq!(code_of(thief), (409, "token_used".into()));
    let metrics = world.server.metrics.encode();
    assert!(
        metrics.contains("warren_discovery_joins_total{outcome=\"used_token\"} 1"),
        "{metrics}"
    );
}

#[tokio::test]
async fn given_twenty_machines_race_over_two_servers_on_one_database_then_one_joins() {
    let Some(cluster) = PostgresServer::shared(
        "given_twenty_machines_race_over_two_servers_on_one_database_then_one_joins",
    ) else {
        return;
    };
    let url = cluster.database();
    let authority = authority(ORGANIZATION);
    let ledger = Arc::new(MemoryLedger::default());
    let trust = member(&authority, "discovery-1", &["discovery"]);
    let mut servers = Vec::new();
    for _ in 0..2 {
        servers.push(issuing_server(&authority, &ledger, &trust, registry::open(&url).await).await);
    }
    let (token, grant) = token(&authority, "node-7");
    Grants::new(registry::open(&url).await)
        .create(grant, now_ms())
        .await
        .unwrap();

    let attempts = (0..20).map(|n| {
        let server = servers[n % 2].url.clone();
        let token = token.clone();
        async move {
            let key = NodeKey::from_seed(random());
            join(&server, &token, &key, "racer", TimeOuts::default()).await
        }
    });
    let outcomes = futures::future::join_all(attempts).await;

    let (won, lost): (Vec<_>, Vec<_>) = outcomes.into_iter().partition(Result::is_ok);
    assert_eq!(won.len(), 1);
    for failure in lost {
        assert_eq!(code_of(failure.unwrap_err()), (409, "token_used".into()));
    }
    assert_eq!(
        ledger.issued(),
        2,
        "one leaf and its companion, no more, were ever signed"
    );
}

#[tokio::test]
async fn given_an_expired_or_unknown_token_then_it_is_refused_as_such() {
    let world = world().await;
    let (late, mut grant) = token(&world.authority, "node-7");
    grant.expires_at_unix_s = now().as_secs() + 1;
    world.grants.create(grant, now_ms()).await.unwrap();
    let (unknown, _) = token(&world.authority, "node-8");
    let key = NodeKey::from_seed(random());
    let failure = world.join(&unknown, &key).await.unwrap_err();
    assert_eq!(code_of(failure), (401, "token_unknown".into()));
    crate::support::eventually("the token ended", async || {
        now().as_secs() > now_end(&world).await
    })
    .await;
    let failure = world.join(&late, &key).await.unwrap_err();
    assert_eq!(code_of(failure), (410, "token_expired".into()));
    assert_eq!(world.ledger.issued(), 0);
}

async fn now_end(world: &World) -> u64 {
    world.grants.list().await.unwrap()[0]
        .grant
        .expires_at_unix_s
}

#[tokio::test]
async fn given_the_ledger_cannot_be_written_then_no_leaf_is_handed_out_and_the_token_stays_good() {
    let world = world().await;
    let (token, _) = world.open("node-7").await;
    world.ledger.full_disk.store(true, Ordering::Relaxed);
    let key = NodeKey::from_seed(random());
    let failure = world.join(&token, &key).await.unwrap_err();
    assert!(failure.to_string().contains("no space left"), "{failure}");
    world.ledger.full_disk.store(false, Ordering::Relaxed);
    world.join(&token, &key).await.unwrap();
}

#[tokio::test]
async fn given_a_server_of_another_ca_then_the_token_never_leaves_the_machine() {
    let world = world().await;
    let (foreign, _) = token(&authority(ORGANIZATION), "node-7");
    let failure = world
        .join(&foreign, &NodeKey::from_seed(random()))
        .await
        .unwrap_err();
    assert!(
        matches!(
            failure,
            JoinFailure::Request(RequestError::Unreachable { .. })
        ),
        "{failure}"
    );
    let text = world.server.metrics.encode();
    assert!(!text.contains("/api/v1/join"), "{text}");
}

#[tokio::test]
async fn given_a_revoked_key_then_a_good_token_does_not_bring_it_back() {
    let world = world().await;
    let key = NodeKey::from_seed(random());
    let mut ledger = IssuanceLedger::default();
    ledger.revoke_peer(key.peer_id(), now());
    let crl = ledger
        .sign_crl(&world.authority, now(), Duration::from_secs(86_400))
        .unwrap();
    world.server_trust.merge_revocations(&crl).unwrap();
    let (token, _) = world.open("node-7").await;
    let failure = world.join(&token, &key).await.unwrap_err();
    assert_eq!(code_of(failure), (422, "not_issued".into()));
    let fresh = NodeKey::from_seed(random());
    world
        .join(&token, &fresh)
        .await
        .expect("the token was not burnt");
}

#[tokio::test]
async fn given_garbage_then_joining_answers_with_4xx_and_repeats_no_secret() {
    let world = world().await;
    let http = stranger_http(world.authority.roots());
    let csr = Csr::create_pem(&NodeKey::from_seed(random()), "x").unwrap();
    let secret = "A".repeat(43);
    for (body, expected) in [
        (String::new(), 400),
        (format!("{{\"secret\": \"{secret}\""), 400),
        (
            format!("{{\"secret\": \"hunter2hunter2\", \"csr_pem\": {csr:?}}}"),
            400,
        ),
        (
            format!("{{\"secret\": \"{secret}\", \"csr_pem\": \"nothing\"}}"),
            422,
        ),
        (
            format!(
                "{{\"secret\": \"{secret}\", \"csr_pem\": {:?}}}",
                csr.replace("MI", "AA")
            ),
            422,
        ),
    ] {
        let url = world.server.url.join("/api/v1/join").unwrap();
        let response = http
            .request(Method::POST, url)
            .body(body.clone())
            .send()
            .await
            .unwrap();
        let status = response.status().as_u16();
        let text = response.text().await.unwrap();
        assert_eq!(status, expected, "{body}: {text}");
        assert!(
            !text.contains("hunter2") && !text.contains(&secret),
            "{text}"
        );
    }
}

#[tokio::test]
async fn given_no_issuer_role_then_the_answer_says_where_to_go() {
    let authority = authority(ORGANIZATION);
    let registry = embedded();
    let trust = member(&authority, "discovery-1", &["discovery"]);
    let mut config = ServerConfig::new(loopback(), trust, registry.registry.clone());
    config.client_auth = warren_discovery::server::ClientAuth::CertificateOrSignedRequest;
    let server = Server::start(config).await;
    let (token, _) = token(&authority, "node-7");
    let key = NodeKey::from_seed(random());
    let failure = join(&server.url, &token, &key, "x", TimeOuts::default())
        .await
        .unwrap_err();
    assert!(failure.to_string().contains("issuer"), "{failure}");
    assert_eq!(code_of(failure), (404, "no_issuer".into()));
}

#[tokio::test]
async fn given_an_administrator_then_tokens_are_made_listed_and_withdrawn_over_mutual_tls() {
    let world = world().await;
    let admin = member(&world.authority, "admin", &["admin"]);
    let plain = member(&world.authority, "node-2", &["storage"]);
    let (token, grant) = token(&world.authority, "node-7");
    let as_node = ServerApi::new(plain, TimeOuts::default()).unwrap();
    let refused = as_node
        .create_grant(&world.server.url, &grant)
        .await
        .unwrap_err();
    assert!(refused.to_string().contains("`admin`"), "{refused}");
    let as_admin = ServerApi::new(admin.clone(), TimeOuts::default()).unwrap();
    as_admin
        .create_grant(&world.server.url, &grant)
        .await
        .unwrap();

    let http = crate::support::member_http(&admin);
    let url = world.server.url.join("/api/v1/join/tokens").unwrap();
    let listed: serde_json::Value = http.get(url).send().await.unwrap().json().await.unwrap();
    let id = listed["tokens"][0]["id"].as_str().unwrap();
    assert_eq!(listed["tokens"][0]["name"], "node-7");
    assert!(
        !listed.to_string().contains(&grant.token_hash.to_string()),
        "{listed}"
    );

    let url = world
        .server
        .url
        .join(&format!("/api/v1/join/tokens/{id}"))
        .unwrap();
    assert_eq!(
        http.delete(url.clone()).send().await.unwrap().status(),
        StatusCode::NO_CONTENT
    );
    assert_eq!(
        http.delete(url).send().await.unwrap().status(),
        StatusCode::NOT_FOUND
    );
    let failure = world
        .join(&token, &NodeKey::from_seed(random()))
        .await
        .unwrap_err();
    assert_eq!(code_of(failure), (401, "token_unknown".into()));
}

#[tokio::test]
async fn given_a_name_or_capability_that_no_node_could_use_then_no_token_is_made_over_https() {
    let world = world().await;
    let admin = member(&world.authority, "admin", &["admin"]);
    let api = ServerApi::new(admin, TimeOuts::default()).unwrap();
    let (_, mut misnamed) = token(&world.authority, "node-7");
    misnamed.name = "node 7".into();
    let (_, mut mistyped) = token(&world.authority, "node-7");
    mistyped.capabilities = Capabilities::parse(["storrage"]).unwrap();

    for (grant, expected) in [(misnamed, "'node 7' is no name"), (mistyped, "storrage")] {
        let refused = api
            .create_grant(&world.server.url, &grant)
            .await
            .unwrap_err();

        assert!(refused.to_string().contains(expected), "{refused}");
    }
    assert!(world.grants.list().await.unwrap().is_empty());
}

#[tokio::test]
async fn given_an_absurd_lifetime_then_no_token_is_made() {
    let world = world().await;
    for offset in [0, 31 * 86_400] {
        let (_, mut grant) = token(&world.authority, "node-7");
        grant.expires_at_unix_s = now().as_secs() + offset;
        let error = world.grants.create(grant, now_ms()).await.unwrap_err();
        assert!(matches!(error, CreateGrantError::BadLifetime), "{error}");
    }
}

#[tokio::test]
async fn given_a_member_when_renewing_then_it_keeps_name_and_capabilities_with_a_new_serial() {
    let world = world().await;
    let trust = old_member(&world.authority, "node-2", &["storage", "relay"]);
    let before = trust.own_member().unwrap();
    let api = ServerApi::new(trust.clone(), TimeOuts::default()).unwrap();

    let answer = api.renew(&world.server.url, "someone-else").await.unwrap();

    let leaf = warren_identity::Leaf::from_pem(&answer.leaf_pem).unwrap();
    trust.replace_leaf(leaf, now()).unwrap();
    let after = trust.own_member().unwrap();
    assert_eq!(
        (&after.name, &after.capabilities),
        (&before.name, &before.capabilities)
    );
    assert_ne!(after.serial, before.serial);
    assert!(
        answer.leaf_pem.matches("BEGIN CERTIFICATE").count() == 2,
        "with its companion"
    );
}

#[tokio::test]
async fn given_a_fresh_certificate_when_renewing_then_it_is_refused_and_not_entered_in_the_ledger()
{
    let world = world().await;
    let trust = member(&world.authority, "node-2", &["storage"]);
    let api = ServerApi::new(trust, TimeOuts::default()).unwrap();

    let refused = api.renew(&world.server.url, "node-2").await.unwrap_err();

    assert!(
        matches!(&refused, RequestError::Refused { status: 409, code, .. } if code == "not_due"),
        "{refused:?}"
    );
    assert_eq!(world.ledger.issued(), 0);
}

#[tokio::test]
async fn given_a_csr_of_another_key_then_renewal_is_refused() {
    let world = world().await;
    let trust = member(&world.authority, "node-2", &[]);
    let csr_pem = Csr::create_pem(&NodeKey::from_seed(random()), "node-2").unwrap();
    let response = crate::support::member_http(&trust)
        .post(world.server.url.join("/api/v1/renew").unwrap())
        .json(&serde_json::json!({ "csr_pem": csr_pem }))
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::FORBIDDEN);
}
