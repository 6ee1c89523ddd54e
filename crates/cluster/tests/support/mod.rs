//! Organisations and their nodes for the tests, all on loopback.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use warren_cluster::{Cluster, ClusterConfig, Node, State};
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, OrganizationId, PeerId,
    Serial, Trust, UnixTime, WildcardNames,
};
use warren_telemetry::Metrics;

/// Long enough for two busy cores, short enough to fail a test that hangs.
pub const DEADLINE: Duration = Duration::from_secs(60);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

static NEXT: AtomicU32 = AtomicU32::new(1);

pub fn fresh() -> [u8; 32] {
    let mut bytes = [7; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

pub fn serial() -> Serial {
    Serial::from_random(fresh()[..16].try_into().unwrap())
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

    /// A new member with these capabilities.
    pub fn member(&self, capabilities: &[&str]) -> Trust {
        let trust = Trust::new(NodeKey::from_seed(fresh()), self.ca.roots().clone());
        self.issue(&trust, capabilities, YEAR);
        trust
    }

    /// Gives a node a new leaf.
    pub fn issue(&self, trust: &Trust, capabilities: &[&str], validity: Duration) {
        let request = LeafRequest {
            peer_id: trust.peer_id(),
            name: "node".into(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(capabilities.iter().copied()).unwrap(),
            validity,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = self.ca.issue(&request, UnixTime::now(), serial()).unwrap();
        trust.replace_leaf(leaf, UnixTime::now()).unwrap();
    }

    /// A new node, with the first of `seeds` to find others.
    pub fn node(&self, capabilities: &[&str], seeds: &[SocketAddr]) -> TestNode {
        TestNode::start(self.member(capabilities), config(seeds))
    }
}

/// On a free port of loopback, with timings that find failures within seconds.
pub fn config(seeds: &[SocketAddr]) -> ClusterConfig {
    let config = ClusterConfig::default();
    let swim = warren_swim::Config {
        suspicion_max_factor: 2.0,
        reconnect_interval: Duration::from_secs(1),
        sync_interval: Duration::from_secs(2),
        ..config.swim.clone()
    };
    config
        .with_bind_addr("127.0.0.1:0".parse().unwrap())
        .with_seeds(seeds)
        .with_swim(swim)
}

/// A node in a runtime of its own, so that it can be killed.
pub struct TestNode {
    pub cluster: Cluster,
    pub metrics: Metrics,
    pub trust: Trust,
    runtime: Option<tokio::runtime::Runtime>,
}

impl TestNode {
    pub fn start(trust: Trust, config: ClusterConfig) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        Self::start_in(runtime, trust, config)
    }

    pub fn start_in(runtime: tokio::runtime::Runtime, trust: Trust, config: ClusterConfig) -> Self {
        let metrics = Metrics::new();
        let (task_trust, task_metrics) = (trust.clone(), metrics.clone());
        let task = async move { Cluster::join(task_trust, config, &task_metrics) };
        let cluster = std::thread::scope(|scope| {
            let wait = || futures::executor::block_on(runtime.spawn(task)).unwrap();
            scope.spawn(wait).join().unwrap()
        });
        Self {
            cluster: cluster.unwrap(),
            metrics,
            trust,
            runtime: Some(runtime),
        }
    }

    pub fn id(&self) -> PeerId {
        self.trust.peer_id()
    }

    pub fn address(&self) -> SocketAddr {
        self.cluster.local_address()
    }

    /// Aborts every task and closes the sockets, without a word to anyone.
    pub fn kill(mut self) -> Trust {
        self.runtime.take().unwrap().shutdown_background();
        self.trust.clone()
    }

    pub fn node(&self, id: &PeerId) -> Option<Arc<Node>> {
        self.cluster.snapshot().node(id).cloned()
    }

    pub fn state(&self, of: &PeerId) -> Option<State> {
        self.node(of).map(|node| node.state)
    }

    /// The sum of a metric's samples whose labels contain `labels`.
    pub fn metric(&self, name: &str, labels: &str) -> f64 {
        let text = self.metrics.encode();
        let samples = text
            .lines()
            .filter(|line| !line.starts_with('#'))
            .filter(|line| line.starts_with(name) && line.contains(labels));
        samples
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }
}

impl Drop for TestNode {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// Whether each of them counts all of them, and knows whose leaf says what.
pub fn all_meet(nodes: &[&TestNode]) -> bool {
    nodes.iter().all(|node| {
        node.cluster.node_count() == nodes.len()
            && nodes.iter().all(|other| {
                let seen = node.node(&other.id());
                seen.is_some_and(|seen| seen.state == State::Alive && seen.name.is_some())
            })
    })
}

/// Waits for `condition`, and fails the test when it does not come true.
#[track_caller]
pub fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
