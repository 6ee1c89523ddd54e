//! Identities, servers and waiting, for all tests here.

use std::{
    net::{Ipv4Addr, SocketAddr},
    sync::{Arc, Mutex},
    time::{Duration, Instant, SystemTime},
};

use reqwest::Url;
use tokio_util::sync::CancellationToken;
use warren_discovery::{
    engine::{Embedded, Registry},
    server::{DiscoveryServer, Issuer, LedgerError, LedgerStore, ServerConfig},
};
use warren_identity::{
    CaRequest, Capabilities, Capability, CertificateAuthority, IssuanceLedger, LeafRequest,
    NodeKey, NodeRecord, Roots, Serial, Signed, Trust, UnixMillis, UnixTime, WildcardNames,
    join::{JoinError, JoinGrant, JoinSecret, JoinToken},
};
use warren_telemetry::Metrics;
use zeroize::Zeroizing;

pub const ORGANIZATION: &str = "org_acme_corp";
const YEAR: Duration = Duration::from_secs(365 * 86_400);

pub fn now() -> UnixTime {
    UnixTime::now()
}

fn ago(span: Duration) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(now().as_secs()) - span)
}

pub fn now_ms() -> UnixMillis {
    SystemTime::now().into()
}

pub fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).unwrap();
    bytes
}

pub fn authority(organization: &str) -> Arc<CertificateAuthority> {
    let request = CaRequest {
        organization: organization.parse().unwrap(),
        key_material: Zeroizing::new(random()),
        serial: Serial::from_random(random()),
        validity: 2 * YEAR,
    };
    Arc::new(CertificateAuthority::create(&request, ago(YEAR)).unwrap())
}

/// What a leaf of a test says: names fit servers on loopback.
pub fn leaf_request(key: &NodeKey, name: &str, capabilities: &[&str]) -> LeafRequest {
    LeafRequest {
        peer_id: key.peer_id(),
        name: name.into(),
        dns: vec!["localhost".into()],
        ip: vec![Ipv4Addr::LOCALHOST.into()],
        capabilities: Capabilities::parse(capabilities).unwrap(),
        validity: YEAR / 2,
        companion_key: Some(key.companion_key().public_key().to_vec()),
        wildcards: WildcardNames::Refuse,
    }
}

pub fn member(authority: &CertificateAuthority, name: &str, capabilities: &[&str]) -> Trust {
    member_since(authority, name, capabilities, now())
}

/// A member whose leaf has a third of its life behind it.
pub fn old_member(authority: &CertificateAuthority, name: &str, capabilities: &[&str]) -> Trust {
    member_since(authority, name, capabilities, ago(YEAR / 5))
}

fn member_since(
    authority: &CertificateAuthority,
    name: &str,
    capabilities: &[&str],
    since: UnixTime,
) -> Trust {
    let key = NodeKey::from_seed(random());
    let request = leaf_request(&key, name, capabilities);
    let leaf = authority
        .issue(&request, since, Serial::from_random(random()))
        .unwrap();
    let trust = Trust::new(key, authority.roots().clone());
    trust.replace_leaf(leaf, now()).unwrap();
    trust
}

/// A signed record of a node with these addresses.
pub fn record(trust: &Trust, addresses: &[&str], sequence: u64) -> Signed<NodeRecord> {
    let storage = trust
        .own_member()
        .is_some_and(|member| member.allows(&Capability::Storage));
    let record = NodeRecord {
        peer_id: trust.peer_id(),
        organization: trust.organization().clone(),
        name: "node".into(),
        region: Some("us-west".into()),
        roles: storage.then(|| "storage".to_owned()).into_iter().collect(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        bulk_addresses: vec!["10.0.1.5:4002".into()],
        sequence,
        issued_at_unix_s: now().as_secs(),
    };
    Signed::sign(record, trust.key()).unwrap()
}

pub struct Server {
    pub url: Url,
    pub address: SocketAddr,
    pub metrics: Metrics,
    shutdown: CancellationToken,
    running: DiscoveryServer,
}

impl Server {
    pub async fn start(config: ServerConfig) -> Self {
        let metrics = Metrics::new();
        let shutdown = CancellationToken::new();
        let scheme = match config.transport {
            warren_discovery::server::Transport::Https => "https",
            warren_discovery::server::Transport::PlainLoopback => "http",
        };
        let running = DiscoveryServer::bind(config, &metrics, shutdown.clone())
            .await
            .unwrap();
        let address = running.local_address();
        Self {
            url: format!("{scheme}://{address}").parse().unwrap(),
            address,
            metrics,
            shutdown,
            running,
        }
    }

    pub async fn stop(self) {
        self.shutdown.cancel();
        self.running.stopped().await;
    }
}

pub fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A registry in a temporary file, which goes with the directory.
pub struct TempRegistry {
    pub registry: Arc<dyn Registry>,
    _directory: tempfile::TempDir,
}

pub fn embedded() -> TempRegistry {
    let directory = tempfile::tempdir().unwrap();
    let registry = Embedded::open(&directory.path().join("discovery.redb")).unwrap();
    TempRegistry {
        registry: Arc::new(registry),
        _directory: directory,
    }
}

#[derive(Default)]
pub struct MemoryLedger {
    ledger: Mutex<IssuanceLedger>,
    pub full_disk: std::sync::atomic::AtomicBool,
}

impl MemoryLedger {
    pub fn issued(&self) -> usize {
        self.ledger.lock().unwrap().issued().len()
    }
}

impl LedgerStore for MemoryLedger {
    fn update(
        &self,
        work: &mut dyn FnMut(&mut IssuanceLedger) -> Result<(), JoinError>,
    ) -> Result<(), LedgerError> {
        let mut ledger = self.ledger.lock().unwrap();
        let mut changed = ledger.clone();
        work(&mut changed)?;
        if self.full_disk.load(std::sync::atomic::Ordering::Relaxed) {
            return Err(LedgerError::Store("no space left on device".into()));
        }
        *ledger = changed;
        Ok(())
    }
}

pub fn issuer(authority: &Arc<CertificateAuthority>, ledger: &Arc<MemoryLedger>) -> Issuer {
    let ledger: Arc<dyn LedgerStore> = Arc::<MemoryLedger>::clone(ledger);
    Issuer {
        authority: Arc::clone(authority),
        ledger,
        leaf_lifetime: Duration::from_secs(90 * 86_400),
    }
}

pub fn token(authority: &CertificateAuthority, name: &str) -> (JoinToken, JoinGrant) {
    let secret = JoinSecret::from_random(random());
    let grant = JoinGrant {
        token_hash: secret.token_hash(),
        name: name.into(),
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        dns: vec!["new.acme.example".into()],
        ip: Vec::new(),
        validity_s: 30 * 86_400,
        expires_at_unix_s: now().as_secs() + 3_600,
    };
    let token = JoinToken::new(authority.certificate(), secret, None).unwrap();
    (token, grant)
}

/// Trust of a server's client that is no member: it verifies the server and shows no certificate.
pub fn stranger_http(roots: &Roots) -> reqwest::Client {
    let trust = Trust::new(NodeKey::from_seed(random()), roots.clone());
    let tls = warren_identity::tls::https_client(&trust, &[b"http/1.1"]).unwrap();
    http(tls)
}

/// A client that shows `trust`'s leaf, and signs nothing.
pub fn member_http(trust: &Trust) -> reqwest::Client {
    http(warren_identity::tls::https_client(trust, &[b"http/1.1"]).unwrap())
}

fn http(tls: rustls::ClientConfig) -> reqwest::Client {
    reqwest::Client::builder()
        .tls_backend_preconfigured(tls)
        .no_proxy()
        .timeout(Duration::from_secs(20))
        .build()
        .unwrap()
}

/// Polls until `condition` holds; panics with `what` after ten seconds.
pub async fn eventually(what: &str, mut condition: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    while !condition().await {
        assert!(Instant::now() < deadline, "not within 10 s: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A stock TLS client: it trusts `server_roots` and shows `trust`'s leaf, of whichever organisation.
pub fn guest_http(trust: &Trust, server_roots: &Roots) -> reqwest::Client {
    let mut store = rustls::RootCertStore::empty();
    for root in server_roots.certificates() {
        store.add(root.der().clone()).unwrap();
    }
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(store)
        .with_client_auth_cert(trust.chain(), trust.key().private_key_der())
        .unwrap();
    http(tls)
}

/// A signed registration as someone on the front end could have kept it.
pub struct CapturedRequest {
    headers: [(&'static str, String); 2],
    body: Vec<u8>,
}

impl CapturedRequest {
    pub fn register(trust: &Trust, body: &serde_json::Value) -> Self {
        Self::made_at(trust, serde_json::to_vec(body).unwrap(), now_ms())
    }

    fn made_at(trust: &Trust, body: Vec<u8>, at: UnixMillis) -> Self {
        let subject = warren_discovery::proof::Subject {
            method: "POST",
            target: warren_discovery::wire::path::REGISTER,
            body: &body,
        };
        let headers =
            warren_discovery::proof::headers(subject, &trust.chain(), trust.key(), at).unwrap();
        Self { headers, body }
    }

    pub fn with_body(&self, body: &serde_json::Value) -> Self {
        Self {
            headers: self.headers.clone(),
            body: serde_json::to_vec(body).unwrap(),
        }
    }

    pub fn made_days_ago(&self, days: u64, trust: &Trust) -> Self {
        let then = now_ms().minus(Duration::from_secs(days * 86_400));
        Self::made_at(trust, self.body.clone(), then)
    }

    pub async fn send(&self, server: &Server) -> (reqwest::StatusCode, serde_json::Value) {
        let url = server
            .url
            .join(warren_discovery::wire::path::REGISTER)
            .unwrap();
        let mut request = reqwest::Client::builder()
            .no_proxy()
            .tls_backend_preconfigured(plain_tls())
            .build()
            .unwrap()
            .post(url)
            .body(self.body.clone());
        for (name, value) in &self.headers {
            request = request.header(*name, value);
        }
        let response = request.send().await.unwrap();
        let status = response.status();
        (status, response.json().await.unwrap())
    }
}

fn plain_tls() -> rustls::ClientConfig {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth()
}
