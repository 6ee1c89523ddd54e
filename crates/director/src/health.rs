//! The health service that every director and worker has.

use std::sync::Arc;
use std::time::Instant;

use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use warren_rpc::{Context, Status};
use warren_telemetry::Health;

/// Whether a node is well, for whoever asks it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthStatus {
    /// Whether every part that it cannot do without works.
    pub healthy: bool,
    /// Its version.
    pub version: String,
    /// For how long it has run.
    pub uptime_secs: u64,
}

/// Whether calls should be sent to a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReadyStatus {
    /// Whether it can do what it is there for.
    pub ready: bool,
    /// Workers that take calls.
    pub workers_available: usize,
    /// Members of its cluster, itself included.
    pub cluster_size: usize,
}

/// How a node is.
#[warren_rpc::service(package = "warren.v1")]
pub trait HealthService {
    /// Whether it lives.
    #[rpc(idempotent)]
    async fn health(&self, ctx: Context, request: ()) -> Result<HealthStatus, Status>;
    /// Whether calls should be sent to it.
    #[rpc(idempotent)]
    async fn ready(&self, ctx: Context, request: ()) -> Result<ReadyStatus, Status>;
}

/// What a node knows of its cluster.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Workers that take calls.
    pub workers_available: usize,
    /// Members, itself included.
    pub cluster_size: usize,
}

/// What being ready means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReadyRule {
    /// There are workers to pass calls to.
    HasWorkers,
    /// The node itself takes calls.
    TakesCalls,
}

/// Answers [`HealthService`] from what the node knows of itself.
#[derive(Clone)]
pub struct Probe {
    started: Instant,
    health: Health,
    rule: ReadyRule,
    counts: Arc<dyn Fn() -> Counts + Send + Sync>,
    draining: watch::Receiver<bool>,
}

impl std::fmt::Debug for Probe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Probe")
            .field("rule", &self.rule)
            .finish_non_exhaustive()
    }
}

impl Probe {
    /// A node that started now. `counts` is asked at each call; `draining` says when the node takes no more calls.
    #[must_use]
    pub fn new(
        health: Health,
        rule: ReadyRule,
        counts: impl Fn() -> Counts + Send + Sync + 'static,
        draining: watch::Receiver<bool>,
    ) -> Self {
        Self {
            started: Instant::now(),
            health,
            rule,
            counts: Arc::new(counts),
            draining,
        }
    }

    /// Whether calls should be sent here.
    #[must_use]
    pub fn is_ready(&self) -> ReadyStatus {
        let Counts {
            workers_available,
            cluster_size,
        } = (self.counts)();
        let can = match self.rule {
            ReadyRule::HasWorkers => workers_available > 0,
            ReadyRule::TakesCalls => true,
        };
        ReadyStatus {
            ready: can && self.health.live().passes() && !*self.draining.borrow(),
            workers_available,
            cluster_size,
        }
    }
}

impl HealthService for Probe {
    async fn health(&self, _: Context, (): ()) -> Result<HealthStatus, Status> {
        Ok(HealthStatus {
            healthy: self.health.live().passes(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            uptime_secs: self.started.elapsed().as_secs(),
        })
    }

    async fn ready(&self, _: Context, (): ()) -> Result<ReadyStatus, Status> {
        Ok(self.is_ready())
    }
}
