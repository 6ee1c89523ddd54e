//! Tokens and permissions, over real connections.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use support::lines::Lines;
use support::probe::{MyProbe, ProbeClient, ProbeServer, client};
use support::{Organization, eventually};
use warren_identity::NodeKey;
use warren_rpc::{
    Code, Connection, Context, JwtAuthorizer, Server, Status, TokenAlgorithm, TokenKeys,
};

const ISSUER: &str = "https://issuer.example";
const AUDIENCE: &str = "warren";

fn now() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs()
}

/// Claims that are in order, with `changes` made to them; `null` takes one away.
fn claims(changes: Value) -> Value {
    let mut claims = json!({
        "sub": "alice", "iss": ISSUER, "aud": AUDIENCE, "exp": now() + 600,
        "permissions": ["probe:guarded"],
    });
    for (name, value) in changes.as_object().unwrap() {
        claims[name] = value.clone();
        if value.is_null() {
            claims.as_object_mut().unwrap().remove(name);
        }
    }
    claims
}

/// An issuer with an Ed25519 key.
struct Issuer {
    id: &'static str,
    key: NodeKey,
}

impl Issuer {
    fn new(id: &'static str, seed: u8) -> Self {
        let key = NodeKey::from_seed([seed; 32]);
        Self { id, key }
    }

    fn token(&self, claims: &Value) -> String {
        let mut header = Header::new(Algorithm::EdDSA);
        header.kid = Some(self.id.into());
        let key = EncodingKey::from_ed_der(self.key.private_key_der().secret_der());
        encode(&header, claims, &key).unwrap()
    }

    fn public_pem(&self) -> String {
        let mut der = vec![
            0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00,
        ];
        der.extend_from_slice(&self.key.public_key());
        pem::encode(&pem::Pem::new("PUBLIC KEY", der))
    }
}

fn write_jwks(path: &Path, issuers: &[&Issuer]) {
    let keys: Vec<Value> = issuers
        .iter()
        .map(|issuer| {
            let x = URL_SAFE_NO_PAD.encode(issuer.key.public_key());
            json!({"kty": "OKP", "crv": "Ed25519", "alg": "EdDSA", "use": "sig", "kid": issuer.id, "x": x})
        })
        .collect();
    // As a careful tool does it.
    let beside = path.with_extension("tmp");
    std::fs::write(&beside, json!({"keys": keys}).to_string()).unwrap();
    std::fs::rename(beside, path).unwrap();
}

fn bearer(token: &str) -> Context {
    Context::new()
        .with_metadata("authorization", &format!("Bearer {token}"))
        .unwrap()
}

fn serve(organization: &Organization, authorizer: Arc<JwtAuthorizer>) -> (Server, SocketAddr) {
    organization.serve_as(ProbeServer::new(MyProbe::default()), |builder| {
        builder.with_authorizer(authorizer)
    })
}

fn ed25519(issuer: &Issuer) -> Arc<JwtAuthorizer> {
    let keys = TokenKeys::from_pem(TokenAlgorithm::EdDSA, &issuer.public_pem()).unwrap();
    Arc::new(JwtAuthorizer::new(keys, ISSUER, AUDIENCE))
}

async fn code(client: &ProbeClient<Connection>, context: Context) -> Code {
    client.guarded(context, ()).await.unwrap_err().code()
}

#[tokio::test]
async fn given_a_good_token_then_the_handler_sees_who_it_is_and_which_member_calls() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let (_server, address) = serve(&organization, ed25519(&issuer));
    let client = client(&organization, address).await;
    // The second time it is remembered.
    for _ in 0..2 {
        let context = bearer(&issuer.token(&claims(json!({}))));
        let about = client.guarded(context, ()).await.unwrap();
        assert_eq!(about.subject.as_deref(), Some("alice"));
        assert!(about.caller.starts_with("12D3KooW"), "{}", about.caller);
    }
}

#[tokio::test]
async fn given_a_token_without_the_permission_then_the_call_is_denied_with_the_documented_message()
{
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let (_server, address) = serve(&organization, ed25519(&issuer));
    let client = client(&organization, address).await;
    let context = bearer(&issuer.token(&claims(json!({"permissions": ["probe"], "scope": "x"}))));
    let refused: Status = client.guarded(context.clone(), ()).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    assert_eq!(refused.message(), "Insufficient permissions");
    // A method that declares none takes it.
    assert!(client.about(context, ()).await.is_ok());
}

#[tokio::test]
async fn given_the_permission_as_a_scope_then_the_call_goes_through() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let (_server, address) = serve(&organization, ed25519(&issuer));
    let client = client(&organization, address).await;
    let scoped = claims(json!({"permissions": null, "scope": "a probe:guarded b"}));
    assert!(
        client
            .guarded(bearer(&issuer.token(&scoped)), ())
            .await
            .is_ok()
    );
}

/// A token put together by hand, with a signature that is none.
fn unsigned(header: &Value, claims: &Value) -> String {
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    format!("{}.{}.", part(header), part(claims))
}

#[tokio::test]
async fn given_tokens_that_prove_nothing_then_each_is_refused_as_unauthenticated() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let (_server, address) = serve(&organization, ed25519(&issuer));
    let client = client(&organization, address).await;
    let good = issuer.token(&claims(json!({})));
    let signed = |changes| issuer.token(&claims(changes));
    // The public key as if it were a secret: the classic confusion of algorithms.
    let confused = encode(
        &Header::new(Algorithm::HS256),
        &claims(json!({})),
        &EncodingKey::from_secret(issuer.public_pem().as_bytes()),
    )
    .unwrap();
    let (body, signature) = good.rsplit_once('.').unwrap();
    let mut bent = signature.to_owned();
    bent.replace_range(4..5, if &bent[4..5] == "A" { "B" } else { "A" });
    let cases = [
        ("expired", signed(json!({"exp": now() - 60}))),
        ("without an end", signed(json!({"exp": null}))),
        ("an end that is no time", signed(json!({"exp": "tomorrow"}))),
        ("not valid yet", signed(json!({"nbf": now() + 300}))),
        ("another issuer", signed(json!({"iss": "https://other"}))),
        ("without an issuer", signed(json!({"iss": null}))),
        ("another audience", signed(json!({"aud": ["a", "b"]}))),
        ("without an audience", signed(json!({"aud": null}))),
        (
            "another key",
            Issuer::new("one", 2).token(&claims(json!({}))),
        ),
        ("a bent signature", format!("{body}.{bent}")),
        ("no signature", format!("{body}.")),
        (
            "alg none",
            unsigned(&json!({"alg": "none"}), &claims(json!({}))),
        ),
        (
            "alg None",
            unsigned(&json!({"alg": "None", "typ": "JWT"}), &claims(json!({}))),
        ),
        ("alg confusion", confused),
        ("two parts", body.to_owned()),
        ("nonsense", "nonsense".into()),
    ];
    for (name, token) in cases {
        assert_eq!(
            code(&client, bearer(&token)).await,
            Code::Unauthenticated,
            "{name}"
        );
    }
    let basic = Context::new().with_metadata("authorization", "Basic YTpi");
    assert_eq!(code(&client, basic.unwrap()).await, Code::Unauthenticated);
    assert_eq!(code(&client, Context::new()).await, Code::Unauthenticated);
    assert!(client.guarded(bearer(&good), ()).await.is_ok());
}

#[tokio::test]
async fn given_a_remembered_token_when_its_time_is_over_then_it_is_refused() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let keys = TokenKeys::from_pem(TokenAlgorithm::EdDSA, &issuer.public_pem()).unwrap();
    let authorizer = JwtAuthorizer::new(keys, ISSUER, AUDIENCE).with_leeway(Duration::ZERO);
    let (_server, address) = serve(&organization, Arc::new(authorizer));
    let client = client(&organization, address).await;
    let token = issuer.token(&claims(json!({"exp": now() + 2})));
    client.guarded(bearer(&token), ()).await.unwrap();
    let end = tokio::time::Instant::now() + support::DEADLINE;
    while client.guarded(bearer(&token), ()).await.is_ok() {
        assert!(tokio::time::Instant::now() < end, "taken for ever");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = client.guarded(bearer(&token), ()).await.unwrap_err();
    assert!(refused.message().contains("expired"), "{refused}");
}

#[tokio::test]
async fn given_a_key_file_that_changes_then_new_keys_count_and_old_ones_no_more() {
    let (lines, _guard) = Lines::of("warn");
    let organization = Organization::new("org_test");
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("jwks.json");
    let (old, new) = (Issuer::new("old", 1), Issuer::new("new", 2));
    write_jwks(&path, &[&old]);
    let authorizer = JwtAuthorizer::from_jwks_file(&path, ISSUER, AUDIENCE).unwrap();
    let (_server, address) = serve(&organization, Arc::new(authorizer));
    let client = client(&organization, address).await;
    let tokens = [&old, &new].map(|issuer| issuer.token(&claims(json!({}))));
    client.guarded(bearer(&tokens[0]), ()).await.unwrap();
    assert_eq!(
        code(&client, bearer(&tokens[1])).await,
        Code::Unauthenticated
    );
    // What is no key set changes nothing once it was looked at.
    std::fs::write(&path, "half a fi").unwrap();
    let said = "token keys not read again; the old ones stay in force";
    eventually("it was looked at", || !lines.with(said).is_empty()).await;
    client.guarded(bearer(&tokens[0]), ()).await.unwrap();

    write_jwks(&path, &[&new]);
    let end = tokio::time::Instant::now() + support::DEADLINE;
    while client.guarded(bearer(&tokens[1]), ()).await.is_err() {
        assert!(
            tokio::time::Instant::now() < end,
            "the new key never counts"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(
        code(&client, bearer(&tokens[0])).await,
        Code::Unauthenticated
    );
}

#[tokio::test]
async fn given_a_shared_secret_then_its_tokens_count() {
    let organization = Organization::new("org_test");
    let secret = [7; 32];
    let keys = TokenKeys::from_secret(TokenAlgorithm::HS256, &secret).unwrap();
    let authorizer = JwtAuthorizer::new(keys, ISSUER, AUDIENCE);
    let (_server, address) = serve(&organization, Arc::new(authorizer));
    let client = client(&organization, address).await;
    let token = encode(
        &Header::new(Algorithm::HS256),
        &claims(json!({})),
        &EncodingKey::from_secret(&secret),
    );
    client.guarded(bearer(&token.unwrap()), ()).await.unwrap();
}

#[tokio::test]
async fn given_an_open_method_then_members_call_it_without_a_token() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let keys = TokenKeys::from_pem(TokenAlgorithm::EdDSA, &issuer.public_pem()).unwrap();
    let authorizer =
        JwtAuthorizer::new(keys, ISSUER, AUDIENCE).with_open_methods(["test.v1.Probe/About"]);
    let (_server, address) = serve(&organization, Arc::new(authorizer));
    let client = client(&organization, address).await;
    assert_eq!(
        client.about(Context::new(), ()).await.unwrap().subject,
        None
    );
    let echo = client.echo(Context::new(), vec![1]).await;
    assert_eq!(echo.unwrap_err().code(), Code::Unauthenticated);
}

#[tokio::test]
async fn given_no_authorizer_then_methods_that_need_a_permission_are_closed() {
    let organization = Organization::new("org_test");
    let (_server, address) =
        organization.serve_as(ProbeServer::new(MyProbe::default()), |builder| builder);
    let client = client(&organization, address).await;
    assert_eq!(code(&client, Context::new()).await, Code::PermissionDenied);
    assert!(client.about(Context::new(), ()).await.is_ok());
}

#[tokio::test]
async fn given_a_streaming_call_without_a_token_then_it_is_refused_too() {
    let organization = Organization::new("org_test");
    let issuer = Issuer::new("one", 1);
    let (server, address) = serve(&organization, ed25519(&issuer));
    let client = client(&organization, address).await;
    let mut numbers = client.count(Context::new(), 3).await.unwrap();
    let refused = numbers.message().await.unwrap().unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    eventually("the call is over", || server.in_flight() == 0).await;
    let big = client.echo(Context::new(), vec![0; 1 << 20]).await;
    assert_eq!(big.unwrap_err().code(), Code::Unauthenticated);
}
