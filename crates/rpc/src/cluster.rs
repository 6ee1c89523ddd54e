//! Servers and pools in a cluster: a server says where it takes calls, a pool follows who does.
//!
//! A member takes calls of a pool while it is live, says that it is ready (or says nothing of it), carries the wanted tags
//! and, for the tag `role`, proves it by its certificate. The connection is checked again: the server must be that very
//! node, and its certificate of the moment must still grant the role. A suspect member keeps its calls: its connection
//! says more about it than the doubt of others. One that failed loses its connection at once, so that calls that wait
//! for it are tried elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use warren_balance::{Place, TagFilter};
use warren_cluster::{
    Cluster, ClusterConfig, JoinError, Node, Proof, READY_TAG, ROLE_TAG, Snapshot, State,
};
use warren_identity::Capability;
use warren_identity::tls::ExpectedPeer;
use warren_telemetry::Metrics;

use crate::client::{Client, ClientOptions};
use crate::pool::{Liveness, Pool, PoolOptions, Target};
use crate::server::Server;

/// The tag that says where a member takes calls: `ip:port`. An unspecified address stands for the one it gossips at.
pub const RPC_TAG: &str = "rpc";
/// The tag with a member's region.
pub const REGION_TAG: &str = "region";
/// The tag with a member's zone.
pub const ZONE_TAG: &str = "zone";

/// The pause after a socket could not be opened: out of files, say.
const SOCKET_PAUSE: Duration = Duration::from_secs(1);

/// Members with this tag: `tag("role", "worker")`. A role counts only where it is proven.
#[must_use]
pub fn tag(name: &str, value: &str) -> TagFilter {
    TagFilter::tag(name, value)
}

/// Why a server takes part in no cluster.
#[derive(Debug, thiserror::Error)]
pub enum EnableClusterError {
    /// It takes part in one.
    #[error("this server takes part in a cluster already")]
    Enabled,
    /// Where it listens is not known.
    #[error("cannot tell members where this server takes calls: {0}")]
    Address(#[source] std::io::Error),
    /// The cluster cannot be joined.
    #[error(transparent)]
    Join(#[from] JoinError),
}

impl Server {
    /// Takes part in a cluster with the server's certificate, and says there where calls are taken: the tag [`RPC_TAG`],
    /// unless `config` has it. The server's drain then says that it is not ready, and leaves the cluster before it closes
    /// its connections. Cancellation safe: a dropped future joined or did not.
    ///
    /// # Errors
    /// [`EnableClusterError`]; the server goes on without a cluster.
    pub async fn enable_cluster(
        &self,
        config: ClusterConfig,
    ) -> Result<Cluster, EnableClusterError> {
        self.enable_cluster_with(config, &Metrics::new()).await
    }

    /// As [`Server::enable_cluster`], counting into `metrics`.
    ///
    /// # Errors
    /// [`EnableClusterError`].
    pub async fn enable_cluster_with(
        &self,
        mut config: ClusterConfig,
        metrics: &Metrics,
    ) -> Result<Cluster, EnableClusterError> {
        if self.cluster().is_some() {
            return Err(EnableClusterError::Enabled);
        }
        let address = self.local_address().map_err(EnableClusterError::Address)?;
        config
            .tags
            .entry(RPC_TAG.to_owned())
            .or_insert_with(|| address.to_string());
        let cluster = Cluster::join(self.trust().clone(), config, metrics)?;
        self.set_cluster(cluster.clone())
            .map_err(|_| EnableClusterError::Enabled)?;
        // Whoever asks the handle next finds this node in it. The sender ends only with the cluster.
        let _ = cluster
            .watch()
            .wait_for(|snapshot| !snapshot.nodes.is_empty())
            .await;
        Ok(cluster)
    }
}

impl Pool {
    /// A pool over the members that match, now and later, with the default options. It calls with this node's own
    /// certificate, and keeps the node in the cluster. Needs a Tokio runtime.
    #[must_use]
    pub fn from_cluster(cluster: Cluster, filter: TagFilter) -> Self {
        Self::from_cluster_with(cluster, filter, PoolOptions::default())
    }

    /// As [`Pool::from_cluster`], with other options.
    #[must_use]
    pub fn from_cluster_with(cluster: Cluster, filter: TagFilter, options: PoolOptions) -> Self {
        let (sender, targets) = watch::channel(Vec::new());
        Self::kept_by(options, async move |shared| {
            let client = client_of(&cluster).await;
            tokio::join!(
                follow(&cluster, sender, |snapshot| targets_of(snapshot, &filter)),
                crate::pool::keep(shared, client, targets)
            );
        })
    }
}

/// A client with this node's certificate, as soon as there is a socket for it.
async fn client_of(cluster: &Cluster) -> Client {
    loop {
        match Client::new(cluster.trust().clone(), ClientOptions::default()) {
            Ok(client) => return client,
            Err(error) => {
                tracing::error!(%error, "no calls to the cluster's members");
                tokio::time::sleep(SOCKET_PAUSE).await;
            }
        }
    }
}

/// Keeps `targets` what `choose` makes of the members, until nobody listens or the cluster ends.
pub async fn follow(
    cluster: &Cluster,
    targets: watch::Sender<Vec<Target>>,
    choose: impl Fn(&Snapshot) -> Vec<Target>,
) {
    let mut snapshots = cluster.watch();
    loop {
        let chosen = choose(&snapshots.borrow_and_update());
        targets.send_if_modified(|targets| {
            let is_news = *targets != chosen;
            if is_news {
                *targets = chosen;
            }
            is_news
        });
        tokio::select! {
            changed = snapshots.changed() => if changed.is_err() { return },
            () = targets.closed() => return,
        }
    }
}

/// The members that match, as a pool's targets; failed ones as [`Liveness::Lost`].
#[must_use]
pub fn targets_of(snapshot: &Snapshot, filter: &TagFilter) -> Vec<Target> {
    snapshot
        .nodes
        .iter()
        .filter_map(|node| target_of(node, filter))
        .collect()
}

fn target_of(node: &Arc<Node>, filter: &TagFilter) -> Option<Target> {
    let liveness = match node.state {
        State::Alive | State::Suspect => Liveness::Alive,
        State::Failed => Liveness::Lost,
        State::Left => return None,
    };
    let is_ready = node.tags.get(READY_TAG).is_none_or(|ready| ready == "true");
    if liveness == Liveness::Alive && !is_ready {
        return None;
    }
    let mut tags = node.tags.clone();
    tags.remove(ROLE_TAG);
    let expected = if filter.matches(&tags) {
        ExpectedPeer::Peer(node.peer_id)
    } else {
        let proven = node
            .roles
            .iter()
            .filter(|role| role.proof == Proof::Proven)
            .find(|role| {
                tags.insert(ROLE_TAG.to_owned(), role.name.clone());
                filter.matches(&tags)
            })?;
        let capability: Capability = proven.name.parse().ok()?;
        ExpectedPeer::PeerWith(node.peer_id, capability)
    };
    Some(Target {
        address: address_of(node)?,
        expected,
        place: Place {
            region: tags.get(REGION_TAG).cloned(),
            zone: tags.get(ZONE_TAG).cloned(),
        },
        tags,
        liveness,
    })
}

/// Where a member takes calls, if it says so.
#[must_use]
pub fn address_of(node: &Node) -> Option<SocketAddr> {
    let mut address: SocketAddr = node.tags.get(RPC_TAG)?.parse().ok()?;
    if address.ip().is_unspecified() {
        address.set_ip(node.address.ip());
    }
    (address.port() != 0).then_some(address)
}
