//! The server's side: accepts members, reads their calls, answers.
//!
//! One task per lane reads calls and polls each handler once on the spot: most are ready, and their answers leave in one
//! write with everything else that was read at once. A handler that is not ready gets a task; its answer comes back
//! through the lane. While a client does not read its answers the lane does not read its calls.

mod builder;
mod connection;
mod drain;
pub(crate) mod intake;
pub(crate) mod keyed;
mod lane;
mod requests;
pub(crate) mod session;
mod stream;

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use arc_swap::ArcSwap;
use quinn::{Endpoint, VarInt};
use tokio::sync::watch;
use tokio_util::task::TaskTracker;
use warren_cluster::Cluster;
use warren_identity::Trust;

pub use self::builder::{BuildError, ServerBuilder};
pub use self::drain::{DrainReport, SignalError};
pub(crate) use self::lane::{unknown_method, within};
use crate::authorize::Authorizer;
use crate::core::admission::Admission;
use crate::core::dedupe::DedupeLimits;
use crate::grpc::Grpc;
use crate::observe::{Refused, RpcMetrics};
use crate::service::{Fallback, Router, Service};

/// The close code of whoever met something that is no protocol of ours.
pub(crate) const PROTOCOL_ERROR: VarInt = VarInt::from_u32(2);
/// The close code of a server that stops.
const STOPPED: VarInt = VarInt::from_u32(3);

/// How a server behaves.
#[derive(Clone, Copy, Debug)]
pub struct ServerOptions {
    /// The largest request taken, in bytes, once decompressed.
    pub max_message_bytes: usize,
    /// Responses of at least this many bytes are compressed where that helps; `None`: never.
    pub compress_above: Option<usize>,
    /// Calls in flight over all connections; beyond it callers are told when to come back.
    pub max_calls: usize,
    /// Calls in flight on one connection.
    pub max_calls_per_connection: u32,
    /// Bytes of one connection's requests that are being received or carried out, and as many of answers that its client
    /// has not taken yet. Small requests are not counted: they are at most 64 KiB each. A single message may always be
    /// as large as it may be.
    pub max_queued_bytes_per_connection: usize,
    /// Connections; beyond it handshakes are refused.
    pub max_connections: usize,
    /// How long a drain waits for calls in flight.
    pub drain_timeout: Duration,
}

impl Default for ServerOptions {
    fn default() -> Self {
        Self {
            max_message_bytes: 16 * 1024 * 1024,
            compress_above: Some(16 * 1024),
            max_calls: 16_384,
            max_calls_per_connection: 4_096,
            max_queued_bytes_per_connection: 64 * 1024 * 1024,
            max_connections: 10_000,
            drain_timeout: Duration::from_secs(30),
        }
    }
}

/// Serves registered services to members. Clones are handles to the same server.
#[derive(Clone)]
pub struct Server(pub(crate) Arc<Shared>);

/// What a server's tasks share.
pub(crate) struct Shared {
    endpoint: Endpoint,
    pub(crate) trust: Trust,
    pub(crate) options: ServerOptions,
    pub(crate) router: ArcSwap<Router>,
    pub(crate) admission: Arc<Admission>,
    pub(crate) phase: watch::Sender<Phase>,
    pub(crate) connections: TaskTracker,
    pub(crate) grpc: Grpc,
    cluster: OnceLock<Cluster>,
    /// Calls with idempotency keys, which outlive their connections.
    keyed: keyed::Keyed,
    authorizer: Option<Arc<dyn Authorizer>>,
    pub(crate) metrics: Option<RpcMetrics>,
    /// What log lines call this server.
    worker_id: String,
}

/// What watches over the calls of a server.
#[derive(Default)]
struct Hooks {
    authorizer: Option<Arc<dyn Authorizer>>,
    metrics: Option<RpcMetrics>,
    dedupe: DedupeLimits,
}

impl Shared {
    pub(crate) fn refused(&self, reason: Refused) {
        if let Some(metrics) = &self.metrics {
            metrics.refused(reason);
        }
    }
}

/// Where a server is in its life.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    /// Takes connections and calls.
    Serving,
    /// Answers what it has, takes nothing new.
    Draining,
    /// Closes what is left.
    Stopped,
}

impl std::fmt::Debug for Server {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server")
            .field("address", &self.0.endpoint.local_addr().ok())
            .field("phase", &*self.0.phase.borrow())
            .finish_non_exhaustive()
    }
}

impl Server {
    /// Begins to describe a server.
    #[must_use]
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    fn new(endpoint: Endpoint, trust: Trust, options: ServerOptions, hooks: Hooks) -> Self {
        let admission = Admission::new(options.max_calls);
        if let Some(metrics) = &hooks.metrics {
            metrics.watch(&admission);
        }
        Self(Arc::new(Shared {
            worker_id: trust.peer_id().to_string(),
            endpoint,
            trust,
            options,
            router: ArcSwap::default(),
            admission,
            keyed: keyed::Keyed::new(hooks.dedupe),
            authorizer: hooks.authorizer,
            metrics: hooks.metrics,
            phase: watch::Sender::new(Phase::Serving),
            connections: TaskTracker::new(),
            cluster: OnceLock::new(),
            grpc: Grpc::default(),
        }))
    }

    /// Adds a service; one of the same name is replaced. Also while running: calls that are read afterwards see it.
    pub fn register(&self, service: impl Service) {
        let service: Arc<dyn Service> = Arc::new(service);
        self.0.router.rcu(|router| {
            let mut router = Router::clone(router);
            router.register(Arc::clone(&service));
            router
        });
        self.0.grpc.registered();
    }

    /// Gives calls of methods that no registered service has to `fallback`.
    pub fn set_fallback(&self, fallback: impl Fallback) {
        let fallback: Arc<dyn Fallback> = Arc::new(fallback);
        self.0.router.rcu(|router| {
            let mut router = Router::clone(router);
            router.set_fallback(Arc::clone(&fallback));
            router
        });
    }

    /// The cluster it takes part in.
    #[must_use]
    pub fn cluster(&self) -> Option<&Cluster> {
        self.0.cluster.get()
    }

    /// # Errors
    /// The cluster, when there is one already.
    pub(crate) fn set_cluster(&self, cluster: Cluster) -> Result<(), Cluster> {
        self.0.cluster.set(cluster)
    }

    /// Where it listens.
    ///
    /// # Errors
    /// What the operating system says.
    pub fn local_address(&self) -> std::io::Result<SocketAddr> {
        self.0.endpoint.local_addr()
    }

    /// The live trust it serves with.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.0.trust
    }

    /// Returns once the server has been told to take no new connections. Cancellation safe.
    pub(crate) async fn stopped(&self) {
        let mut phase = self.0.phase.subscribe();
        // The sender lives as long as this handle.
        let _ = phase.wait_for(|phase| *phase != Phase::Serving).await;
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.0.admission.in_flight()
    }

    /// Serves until [`Server::stop_accepting`]. Connections live on in tasks of their own. Cancellation safe: the
    /// server goes on when it is called again.
    pub async fn run(&self) {
        self.run_grpc();
        let mut phase = self.0.phase.subscribe();
        loop {
            let incoming = tokio::select! {
                incoming = self.0.endpoint.accept() => incoming,
                _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
            };
            let Some(incoming) = incoming else { return };
            if self.0.connections.len() >= self.0.options.max_connections {
                self.0.refused(Refused::TooManyConnections);
                incoming.refuse();
            } else if !incoming.remote_address_validated() && self.is_busy() {
                // A flood from forged addresses costs no handshake (RFC 9000, section 8.1.2).
                let _ = incoming.retry();
            } else {
                let shared = Arc::clone(&self.0);
                self.0
                    .connections
                    .spawn(connection::serve(shared, incoming));
            }
        }
    }

    /// Whether enough handshakes are open that addresses are to be proven first.
    fn is_busy(&self) -> bool {
        self.0.endpoint.open_connections() > self.0.options.max_connections / 2
    }
}
