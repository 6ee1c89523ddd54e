//! Organisations and nodes for the tests, all on loopback.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use tokio::sync::broadcast;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, CrlRequest, Leaf, LeafRequest, NodeKey,
    OrganizationId, PeerId, RevokedSerial, Serial, Trust, UnixTime, WildcardNames,
};
use warren_mesh::{Mesh, MeshConfig, MeshEvent, Multiaddr, NodeDescription, RelayServerConfig};
use warren_telemetry::{Metrics, NetworkMetrics};

/// Long enough for two busy cores, short enough to fail a test that hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// A year.
pub const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

static NEXT: AtomicU32 = AtomicU32::new(1);

fn fresh() -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

/// An organisation with its CA.
pub struct Organization {
    pub ca: CertificateAuthority,
}

impl Organization {
    pub fn new(name: &str) -> Self {
        let request = CaRequest {
            organization: OrganizationId::new(name).unwrap(),
            key_material: zeroize::Zeroizing::new(fresh()),
            serial: serial(),
            validity: YEAR,
        };
        Self {
            ca: CertificateAuthority::create(&request, UnixTime::now()).unwrap(),
        }
    }

    pub fn leaf(&self, key: &NodeKey, validity: Duration) -> Leaf {
        self.leaf_for(key, validity, Capabilities::none())
    }

    fn leaf_for(&self, key: &NodeKey, validity: Duration, capabilities: Capabilities) -> Leaf {
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: "node".into(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities,
            validity,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        self.ca.issue(&request, UnixTime::now(), serial()).unwrap()
    }

    /// A new member's trust.
    pub fn trust(&self, validity: Duration) -> Trust {
        let key = NodeKey::from_seed(fresh());
        let leaf = self.leaf(&key, validity);
        let trust = Trust::new(key, self.ca.roots().clone());
        trust.replace_leaf(leaf, UnixTime::now()).unwrap();
        trust
    }

    /// A member that is certified to relay, and does.
    pub async fn relay_with(&self, change: impl FnOnce(&mut MeshConfig)) -> TestNode {
        let trust = self.trust(YEAR);
        let capabilities = Capabilities::parse(["relay"]).unwrap();
        let leaf = self.leaf_for(trust.key(), YEAR, capabilities);
        trust.replace_leaf(leaf, UnixTime::now()).unwrap();
        TestNode::start(trust, |config| {
            config.relay.server = Some(RelayServerConfig::default());
            change(config);
        })
        .await
    }

    /// A revocation list of these peers.
    pub fn revoke(&self, number: u64, peers: &[PeerId]) -> Vec<u8> {
        let now = UnixTime::now();
        let next = UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs() + 86_400));
        self.ca
            .sign_crl(&CrlRequest {
                number,
                this_update: now,
                next_update: next,
                revoked: peers
                    .iter()
                    .map(|peer| RevokedSerial::peer(peer, now))
                    .collect(),
            })
            .unwrap()
    }

    /// A member that listens on TCP.
    pub async fn node(&self) -> TestNode {
        self.node_with(|_| {}).await
    }

    pub async fn node_with(&self, change: impl FnOnce(&mut MeshConfig)) -> TestNode {
        TestNode::start(self.trust(YEAR), change).await
    }
}

fn serial() -> Serial {
    Serial::from_random(fresh()[..16].try_into().unwrap())
}

/// A running node.
pub struct TestNode {
    pub mesh: Mesh,
    pub trust: Trust,
    pub metrics: Metrics,
    pub events: broadcast::Receiver<MeshEvent>,
}

impl TestNode {
    pub async fn start(trust: Trust, change: impl FnOnce(&mut MeshConfig)) -> Self {
        let description = NodeDescription {
            name: "node".into(),
            region: Some("here".into()),
            ..NodeDescription::default()
        };
        let listen = vec!["/ip4/127.0.0.1/tcp/0".parse().unwrap()];
        let mut config = MeshConfig::new(trust.organization().as_str(), description, listen);
        change(&mut config);
        let metrics = Metrics::new();
        let network = NetworkMetrics::register(&metrics);
        let mesh = Mesh::start(config, trust.clone(), &metrics, network)
            .await
            .unwrap();
        let events = mesh.subscribe();
        Self {
            mesh,
            trust,
            metrics,
            events,
        }
    }

    pub fn id(&self) -> PeerId {
        self.mesh.peer_id()
    }

    /// Its first address of a kind (`/tcp/`, `/quic-v1`, `/ws`, `/ip6/`), with its peer id.
    pub async fn address(&self, kind: &str) -> Multiaddr {
        let all = self.mesh.listen_addresses().await;
        let bare = all
            .iter()
            .find(|address| address.to_string().contains(kind))
            .unwrap_or_else(|| panic!("no address of kind {kind} among {all:?}"));
        format!("{bare}/p2p/{}", self.id()).parse().unwrap()
    }

    pub async fn connect(&self, other: &Self) {
        let address = other.address("/tcp/").await;
        self.mesh.connect(address).await.unwrap();
        eventually("the other side sees the connection", async || {
            other.is_connected(self.id()).await
        })
        .await;
    }

    pub async fn is_connected(&self, peer: PeerId) -> bool {
        self.mesh.peers().await.iter().any(|p| p.peer_id == peer)
    }

    /// Waits for an event that `pick` makes something of.
    pub async fn event<T>(
        &mut self,
        what: &str,
        mut pick: impl FnMut(MeshEvent) -> Option<T>,
    ) -> T {
        let wait = async {
            loop {
                match self.events.recv().await {
                    Ok(event) => {
                        if let Some(picked) = pick(event) {
                            return picked;
                        }
                    }
                    Err(broadcast::error::RecvError::Lagged(_)) => {}
                    Err(error) => panic!("no event `{what}`: {error}"),
                }
            }
        };
        tokio::time::timeout(DEADLINE, wait)
            .await
            .unwrap_or_else(|_| panic!("no event `{what}` in time"))
    }

    /// The reason of the next refusal.
    pub async fn refusal(&mut self) -> &'static str {
        self.event("refusal", |event| match event {
            MeshEvent::AdmissionRefused { reason, .. } => Some(reason),
            _ => None,
        })
        .await
    }

    /// How often admission was refused for a reason.
    pub fn refused(&self, reason: &str) -> u64 {
        self.counter(&format!(
            "warren_network_admission_refused_total{{reason=\"{reason}\"}}"
        ))
    }

    pub fn counter(&self, series: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find(|line| line.starts_with(series));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }
}

/// Polls a condition until it holds; fails the test at the deadline.
pub async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while !holds().await {
        assert!(
            tokio::time::Instant::now() < deadline,
            "never came true: {what}"
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
