//! The handle to a running membership.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use tokio::sync::{mpsc, oneshot, watch};
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;
use warren_balance::TagFilter;
use warren_identity::{PeerId, Trust, UnixMillis};
use warren_swim::{ConfigError, Swim, TagError, limits};
use warren_telemetry::Metrics;

use crate::config::ClusterConfig;
use crate::core::seed::{Seed, SeedError};
use crate::core::tags;
use crate::driver::{Driver, Input, Wires};
use crate::metrics::ClusterMetrics;
use crate::node::{Node, Registry, Snapshot};
use crate::seeds::{Advertise, resolve};
use crate::shell::{ServeError, Shell, Sockets, outward_address};
use crate::state::ClusterState;
use crate::tls::{LinkConfigError, random_bytes};

/// Inputs that wait for the driver; of each link there is a bounded share.
const MOST_INPUTS: usize = 8_192;

/// Why a node cannot take part in a cluster. Nothing runs.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The node is no member of its organisation yet.
    #[error(
        "cannot join a cluster: this node has no certificate; get one with `warren ca issue` or `warren join`"
    )]
    NoLeaf,
    /// A seed that is none.
    #[error("cannot join a cluster: {0}")]
    Seed(#[from] SeedError),
    /// A tag that is none.
    #[error("cannot join a cluster: {0}")]
    Tag(#[from] TagError),
    /// Timings that cannot work.
    #[error("cannot join a cluster: {0}")]
    Timing(#[from] ConfigError),
    /// The address is taken, or not this machine's.
    #[error(
        "cannot listen for cluster members on {address} (UDP and TCP): {source}; choose another `cluster.bind_addr`"
    )]
    Bind {
        /// The configured address.
        address: SocketAddr,
        /// What the system says.
        source: io::Error,
    },
    /// The TLS library refuses.
    #[error("cannot join a cluster: {0}")]
    Tls(#[from] LinkConfigError),
}

/// A node's membership in its cluster. Clones are handles to the same; when the last one is dropped, the node stops
/// without a word, and the others find it failed.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    trust: Trust,
    peer_id: PeerId,
    address: SocketAddr,
    tags: watch::Sender<BTreeMap<String, String>>,
    snapshot: watch::Receiver<Snapshot>,
    inputs: mpsc::Sender<Input>,
    stop: CancellationToken,
    tasks: TaskTracker,
    _stop_when_dropped: DropGuard,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Cluster")
            .field("peer_id", &self.0.peer_id)
            .field("address", &self.0.address)
            .field("node_count", &self.node_count())
            .finish_non_exhaustive()
    }
}

impl Cluster {
    /// Listens, and looks for others until it is left, shut down or dropped. Returns at once: without seeds, or before
    /// any is up, the node is a cluster of one. Registers its metrics, so one registry takes one cluster.
    ///
    /// # Errors
    /// [`JoinError`].
    ///
    /// # Panics
    /// Outside a tokio runtime, and when `metrics` has a cluster's metrics already.
    pub fn join(trust: Trust, config: ClusterConfig, metrics: &Metrics) -> Result<Self, JoinError> {
        if trust.leaf().is_none() {
            return Err(JoinError::NoLeaf);
        }
        let (seeds, own_tags) = checked(&config)?;
        let bind_failed = |source| JoinError::Bind {
            address: config.bind_addr,
            source,
        };
        let sockets = Sockets::bind(config.bind_addr).map_err(bind_failed)?;
        let bound = sockets.address;
        let (advertised, advertise) = advertised(&config, bound);
        let mut swim = Swim::new(
            config.swim.clone(),
            trust.key().clone(),
            trust.peer_id(),
            advertised,
            UnixMillis::from(SystemTime::now()).0,
            u64::from_be_bytes(random_bytes()),
            Instant::now(),
        )?;
        for (key, value) in &own_tags {
            swim.set_tag(key, value, Instant::now())?;
        }
        let (input_sender, inputs) = mpsc::channel(MOST_INPUTS);
        let (snapshots, snapshot) = watch::channel(Snapshot::default());
        let (tag_sender, tag_changes) = watch::channel(own_tags);
        let (change_sender, trust_changes) = watch::channel(trust.generation());
        trust.on_change(move |generation| {
            change_sender.send_replace(generation);
        });
        let peer_id = trust.peer_id();
        let shell = Shell::serve(trust.clone(), sockets, input_sender.clone(), || {
            ClusterMetrics::register(metrics)
        });
        let shell = shell.map_err(|error| match error {
            ServeError::Config(error) => JoinError::Tls(error),
            ServeError::Io(source) => bind_failed(source),
        })?;
        let wires = Wires {
            inputs,
            tags: tag_changes,
            trust_changes,
            snapshots,
        };
        let driver = Driver::new(
            Arc::clone(&shell),
            swim,
            wires,
            &config.swim,
            config.max_links,
            config.leave_timeout,
        );
        // It ends by itself when told to stop: it has connections to close.
        shell.tasks.spawn(driver.run());
        shell.spawn(resolve(
            Arc::clone(&shell),
            seeds,
            bound,
            advertise,
            snapshot.clone(),
        ));
        tracing::info!(%bound, %advertised, %peer_id, "taking part in the cluster");
        Ok(Self(Arc::new(Inner {
            trust,
            peer_id,
            address: bound,
            tags: tag_sender,
            snapshot,
            inputs: input_sender,
            stop: shell.stop.clone(),
            tasks: shell.tasks.clone(),
            _stop_when_dropped: shell.stop.clone().drop_guard(),
        })))
    }

    /// This node.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// The certificates it takes part with.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// Where this node listens, UDP and TCP.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.0.address
    }

    /// Sets a tag of this node, and tells everyone. Returns before anyone knows.
    ///
    /// # Errors
    /// [`TagError`]; nothing has changed. The key `leaf` is taken.
    pub fn set_tag(&self, key: &str, value: &str) -> Result<(), TagError> {
        if self.0.stop.is_cancelled() {
            return Err(TagError::HasLeft(key.into()));
        }
        let mut outcome = Ok(());
        self.0.tags.send_if_modified(|tags| {
            let is_same = tags.get(key).is_some_and(|present| present == value);
            outcome = tags::set(tags, key, value);
            outcome.is_ok() && !is_same
        });
        outcome
    }

    /// Removes a tag of this node, and tells everyone. Whether it was there.
    pub fn remove_tag(&self, key: &str) -> bool {
        let tags = &self.0.tags;
        tags.send_if_modified(|tags| tags.remove(key).is_some())
    }

    /// Every node known, this one included; failed and left ones as long as they are remembered.
    #[must_use]
    pub fn nodes(&self) -> Vec<Arc<Node>> {
        self.snapshot().nodes.to_vec()
    }

    /// Live nodes, this one included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.0.snapshot.borrow().node_count()
    }

    /// Live nodes whose tags match; a role only where it is proven.
    #[must_use]
    pub fn members_with(&self, filter: &TagFilter) -> Vec<Arc<Node>> {
        self.snapshot().members_with(filter).cloned().collect()
    }

    /// The workers.
    #[must_use]
    pub fn registry(&self) -> Registry {
        self.0.snapshot.borrow().registry
    }

    /// All members at this moment.
    #[must_use]
    pub fn snapshot(&self) -> Snapshot {
        self.0.snapshot.borrow().clone()
    }

    /// The present snapshot, and each later one: who reads slowly misses those in between.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<Snapshot> {
        self.0.snapshot.clone()
    }

    /// What a backup holds: see [`ClusterState::write`].
    #[must_use]
    pub fn state(&self) -> ClusterState {
        ClusterState::of(&self.snapshot(), SystemTime::now())
    }

    /// Tries these addresses as seeds beside the configured ones, in place of those given before: how a restored
    /// [`ClusterState`] is applied. Cancellation safe: then nothing has changed.
    pub async fn contact(&self, addresses: Vec<SocketAddr>) {
        // A node that has stopped contacts nobody.
        let _ = self.0.inputs.send(Input::Contact(addresses)).await;
    }

    /// Says good-bye and stops: others hold this node as left, not failed. Takes [`ClusterConfig::leave_timeout`] and
    /// some, at most. Cancelled, the node still leaves.
    pub async fn leave(&self) {
        let (done, left) = oneshot::channel();
        if self.0.inputs.send(Input::Leave(done)).await.is_ok() {
            // Dropped when the node stops for another reason meanwhile.
            let _ = left.await;
        }
        self.shutdown().await;
    }

    /// Stops without a word and closes the sockets: others find this node failed. Cancelled, the node still stops.
    pub async fn shutdown(&self) {
        self.0.stop.cancel();
        self.0.tasks.close();
        self.0.tasks.wait().await;
    }
}

/// The seeds and tags of a configuration that can work.
fn checked(config: &ClusterConfig) -> Result<(Vec<Seed>, BTreeMap<String, String>), JoinError> {
    config.swim.check()?;
    let seeds = config.seeds.iter().map(|seed| seed.parse::<Seed>());
    let seeds = seeds.collect::<Result<Vec<_>, _>>()?;
    let mut own_tags = BTreeMap::new();
    for (key, value) in &config.tags {
        tags::set(&mut own_tags, key, value)?;
    }
    Ok((seeds.into_iter().take(limits::SEEDS).collect(), own_tags))
}

/// Where others reach this node, and whether that is to be looked at again.
fn advertised(config: &ClusterConfig, bound: SocketAddr) -> (SocketAddr, Advertise) {
    if let Some(address) = config.advertise_addr {
        return (address, Advertise::Fixed);
    }
    if !bound.ip().is_unspecified() {
        return (bound, Advertise::Fixed);
    }
    let port = bound.port();
    let outward = outward_address(None, bound.is_ipv6());
    // A machine without a network has only itself; this is looked at again.
    let ip = outward.unwrap_or_else(|| std::net::Ipv4Addr::LOCALHOST.into());
    (SocketAddr::new(ip, port), Advertise::Outward { port })
}
