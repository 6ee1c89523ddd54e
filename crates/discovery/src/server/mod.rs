//! The discovery server: who is there, for members; and, with the issuer role, how a new machine becomes a member.
//!
//! [`DiscoveryServer::bind`] opens the listener and starts two tasks: the accept loop (`listen`) and the housekeeping below.
//! A request passes `gate` (limits), `auth` (who is calling) and its handler in `network` or `issuing`. When the
//! registry's database is away, bootstrap answers from the last list it gave, and everything else answers 503.

mod auth;
mod error;
mod gate;
mod issuing;
mod listen;
mod network;

use std::{
    collections::BTreeMap,
    io,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::{Duration, SystemTime},
};

use axum::{
    Router,
    extract::DefaultBodyLimit,
    http::StatusCode,
    middleware,
    routing::{delete, get, post},
};
use tokio::{net::TcpListener, sync::watch, task::JoinHandle};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use warren_identity::{
    NodeRecord, OrganizationId, PeerId, Signed, Trust, UnixMillis, UnixTime,
    tls::{ClientCertificates, Guest, https_server_with_guests},
};
use warren_telemetry::Metrics;

use crate::{
    core::{
        rate::Limit,
        registry::{DEFAULT_RETENTION, DEFAULT_TTL, Entry, Registration},
    },
    engine::Registry,
    metrics::{OrganizationLabel, OutcomeLabel, ServerMetrics},
    wire::{ALPN, path},
};

pub use self::issuing::{Issuer, LedgerError, LedgerStore};

/// The longest body of any request: a CSR and a token, or a register request with its record.
const MAX_BODY_BYTES: usize = 64 * 1024;
/// How often the registry's database is probed and the gauges are brought up to date.
const PROBE_INTERVAL: Duration = Duration::from_secs(5);
/// How often what ended long ago is forgotten.
const FORGET_INTERVAL: Duration = Duration::from_secs(600);
/// How long `bind` waits for the database before it goes on without it.
const FIRST_PROBE_TIMEOUT: Duration = Duration::from_secs(10);

/// How the server is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Transport {
    /// HTTPS with this node's leaf.
    Https,
    /// Plain HTTP, on loopback only: for a front end on the same machine that ends TLS. Callers prove themselves by signed
    /// requests ([`crate::proof`]).
    PlainLoopback,
}

/// How members prove themselves (`auth.require_certificates`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientAuth {
    /// By a TLS client certificate only.
    Certificate,
    /// By a TLS client certificate or a signed request. There is no third way.
    CertificateOrSignedRequest,
}

/// Who may read the bootstrap list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BootstrapAccess {
    /// Members, and holders of any certificate of an accepted CA.
    Certified,
    /// Everyone: strangers get the seeds and live nodes of the server's own organisation. Only by an explicit setting.
    Anyone,
}

/// A node that the bootstrap list always holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Seed {
    /// Who.
    pub peer_id: PeerId,
    /// Multiaddresses.
    pub addresses: Vec<String>,
    /// Shown to this organisation only; to all without one.
    pub organization: Option<OrganizationId>,
    /// Where.
    pub region: Option<String>,
}

/// What one server bears.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Connections at once; the next one waits in the kernel's queue.
    pub max_connections: usize,
    /// Connections of one source at once.
    pub max_connections_per_source: usize,
    /// TLS handshake, and each request's head.
    pub head_timeout: Duration,
    /// Body and answer of one request.
    pub request_timeout: Duration,
    /// A connection is ended after this, however busy.
    pub connection_lifetime: Duration,
    /// Requests per source. 500 nodes behind one NAT send 17 heartbeats per second.
    pub requests: Limit,
    /// Attempts to join per source.
    pub joins: Limit,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_connections: 1_024,
            max_connections_per_source: 256,
            head_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(15),
            connection_lifetime: Duration::from_secs(600),
            requests: Limit {
                burst: 600,
                per_second: 50,
            },
            joins: Limit {
                burst: 30,
                per_second: 1,
            },
        }
    }
}

/// Everything a server needs.
pub struct ServerConfig {
    /// Where to listen; port 0 takes a free one.
    pub listen_address: SocketAddr,
    /// See [`Transport`].
    pub transport: Transport,
    /// See [`ClientAuth`].
    pub client_auth: ClientAuth,
    /// See [`BootstrapAccess`].
    pub bootstrap_access: BootstrapAccess,
    /// The node's own key, leaf, roots and revocations, live.
    pub trust: Trust,
    /// CAs whose members may use this server as well (`auth.ca_cert`), each for its own organisation only.
    pub guests: Vec<Guest>,
    /// Seeds (`bootstrap_peers`).
    pub seeds: Vec<Seed>,
    /// Where registrations are kept.
    pub registry: Arc<dyn Registry>,
    /// Signs leaves; `None` without the issuer role.
    pub issuer: Option<Issuer>,
    /// What the server's own node says of itself; listed like any registered node. `None` lists it only if it registers
    /// itself through some server.
    pub own_record: Option<watch::Receiver<Option<Signed<NodeRecord>>>>,
    /// How long a registration lives without a heartbeat.
    pub ttl: Duration,
    /// How long an expired registration is listed as offline.
    pub retention: Duration,
    /// See [`Limits`].
    pub limits: Limits,
}

impl ServerConfig {
    /// HTTPS, certificates required, nothing for strangers, the default times and limits.
    #[must_use]
    pub fn new(listen_address: SocketAddr, trust: Trust, registry: Arc<dyn Registry>) -> Self {
        Self {
            listen_address,
            transport: Transport::Https,
            client_auth: ClientAuth::Certificate,
            bootstrap_access: BootstrapAccess::Certified,
            trust,
            guests: Vec::new(),
            seeds: Vec::new(),
            registry,
            issuer: None,
            own_record: None,
            ttl: DEFAULT_TTL,
            retention: DEFAULT_RETENTION,
            limits: Limits::default(),
        }
    }
}

/// Why a server did not start. Nothing is left listening.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address is taken or not this machine's.
    #[error(
        "the discovery server cannot listen on {address}: {source}; choose another `discovery.server.listen_address`"
    )]
    Listen {
        /// The configured address.
        address: SocketAddr,
        /// What the system said.
        source: io::Error,
    },
    /// Plain HTTP where others could reach it.
    #[error("the discovery server would speak plain HTTP on {0}; that is allowed on loopback only")]
    PlainNotLoopback(SocketAddr),
    /// Plain HTTP has no client certificates to require.
    #[error(
        "the discovery server cannot require client certificates over plain HTTP; set `discovery.server.auth.require_certificates: false` or listen with HTTPS"
    )]
    PlainWithCertificates,
    /// TLS cannot be set up from the node's leaf.
    #[error("the discovery server cannot set up HTTPS: {0}")]
    Tls(String),
}

/// A running server. Dropping it does not stop it; its shutdown token does.
#[derive(Debug)]
pub struct DiscoveryServer {
    local_address: SocketAddr,
    tasks: [JoinHandle<()>; 2],
}

impl DiscoveryServer {
    /// Opens the listener and starts to serve. Waits up to ten seconds for the registry's database, then serves without it
    /// and keeps trying.
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        config: ServerConfig,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Result<Self, BindError> {
        let address = config.listen_address;
        let tls = match config.transport {
            Transport::Https => Some(acceptor(&config)?),
            Transport::PlainLoopback if !address.ip().is_loopback() => {
                return Err(BindError::PlainNotLoopback(address));
            }
            Transport::PlainLoopback if config.client_auth == ClientAuth::Certificate => {
                return Err(BindError::PlainWithCertificates);
            }
            Transport::PlainLoopback => None,
        };
        let listen = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(listen)?;
        let local_address = listener.local_addr().map_err(listen)?;
        let own_record = config.own_record.clone();
        let shared = Arc::new(Shared::new(config, ServerMetrics::register(metrics)));
        if tokio::time::timeout(FIRST_PROBE_TIMEOUT, shared.probe())
            .await
            .is_err()
        {
            tracing::warn!(
                "the registry's database did not answer in time; serving without it for now"
            );
        }
        let router = router(Arc::clone(&shared));
        let keeping = tokio::spawn(keep_house(
            Arc::clone(&shared),
            own_record,
            shutdown.clone(),
        ));
        let serving = tokio::spawn(listen::serve(listener, tls, router, shared, shutdown));
        Ok(Self {
            local_address,
            tasks: [keeping, serving],
        })
    }

    /// The address in use; its port is the real one.
    #[must_use]
    pub fn local_address(&self) -> SocketAddr {
        self.local_address
    }

    /// Waits until the server has stopped, after its shutdown token was cancelled. Not cancellation safe: a second call is
    /// impossible.
    pub async fn stopped(self) {
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!("a task of the discovery server ended early: {error}");
            }
        }
    }
}

fn acceptor(config: &ServerConfig) -> Result<TlsAcceptor, BindError> {
    // A handshake without a certificate must get through wherever a stranger has something to ask.
    let strangers = config.issuer.is_some()
        || config.bootstrap_access == BootstrapAccess::Anyone
        || config.client_auth == ClientAuth::CertificateOrSignedRequest;
    let wanted = if strangers {
        ClientCertificates::Optional
    } else {
        ClientCertificates::RequireCertificate
    };
    let tls = https_server_with_guests(&config.trust, wanted, &config.guests, &ALPN)
        .map_err(|error| BindError::Tls(error.to_string()))?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// What all requests share.
pub(crate) struct Shared {
    client_auth: ClientAuth,
    bootstrap_access: BootstrapAccess,
    trust: Trust,
    guests: Vec<Guest>,
    seeds: Vec<Seed>,
    registry: Arc<dyn Registry>,
    issuer: Option<Issuer>,
    ttl: Duration,
    retention: Duration,
    limits: Limits,
    gate: gate::Gate,
    metrics: ServerMetrics,
    /// What the registry last said, for when it cannot be asked. One list per organisation served.
    snapshots: Mutex<BTreeMap<OrganizationId, Snapshot>>,
}

struct Snapshot {
    taken_at: UnixMillis,
    entries: Vec<Entry>,
}

impl Shared {
    fn new(config: ServerConfig, metrics: ServerMetrics) -> Self {
        Self {
            client_auth: config.client_auth,
            bootstrap_access: config.bootstrap_access,
            trust: config.trust,
            guests: config.guests,
            seeds: config.seeds,
            registry: config.registry,
            issuer: config.issuer,
            ttl: config.ttl,
            retention: config.retention,
            limits: config.limits,
            gate: gate::Gate::new(config.limits.requests, config.limits.joins),
            metrics,
            snapshots: Mutex::default(),
        }
    }

    /// Lists our own node, or prolongs its entry.
    async fn list_own(&self, record: &watch::Receiver<Option<Signed<NodeRecord>>>) {
        let Some(record) = record.borrow().clone() else {
            return;
        };
        let Some(member) = self.trust.own_member() else {
            return;
        };
        let told = record.value();
        let registration = Registration {
            peer_id: member.peer_id,
            organization: member.organization.clone(),
            name: member.name.clone(),
            region: told.region.clone(),
            addresses: told.addresses.clone(),
            bulk_addresses: told.bulk_addresses.clone(),
            roles: told.roles.clone(),
            capabilities: member
                .capabilities
                .iter()
                .map(ToString::to_string)
                .collect(),
            sequence: told.sequence,
            record: Some(record.to_bytes()),
            certificate_ends_at: UnixMillis::from_secs(member.not_after.as_secs()),
        };
        let listed = self.registry.register(registration, None, now(), self.ttl);
        if let Err(error) = listed.await {
            tracing::warn!("this node is not listed in its own registry: {error}");
        }
    }

    /// Takes our own node off the list, where it was listed: it stops.
    async fn unlist_own(&self, record: &watch::Receiver<Option<Signed<NodeRecord>>>) {
        let Some(peer) = record
            .borrow()
            .as_ref()
            .map(|record| record.value().peer_id)
        else {
            return;
        };
        if let Err(error) = self.registry.leave(peer, None, now()).await {
            tracing::debug!("this node stays on its own list until it expires: {error}");
        }
    }

    async fn probe(&self) {
        let was_up = self.metrics.registry_up.get() == 1;
        match self.registry.probe().await {
            Ok(()) => {
                self.metrics.registry_up.set(1);
                if !was_up {
                    tracing::info!("the registry's database answers");
                }
            }
            Err(error) => {
                self.metrics.registry_up.set(0);
                if was_up {
                    tracing::warn!("{error}");
                }
            }
        }
    }

    async fn count_live(&self) {
        let Ok(live) = self.registry.live(now()).await else {
            return;
        };
        let gauge = &self.metrics.active_nodes;
        let own = self.trust.roots().organization().to_string();
        let guests = self
            .guests
            .iter()
            .map(|guest| guest.roots.organization().to_string());
        // Organisations served right now; the registry may still hold others.
        for organization in guests.chain([own]) {
            let count = live.get(&organization).copied().unwrap_or(0);
            gauge
                .get_or_create(&OrganizationLabel { organization })
                .set(i64::try_from(count).unwrap_or(i64::MAX));
        }
    }

    async fn forget(&self) {
        match self.registry.forget(now().minus(self.retention)).await {
            Ok(0) => {}
            Ok(forgotten) => {
                self.metrics
                    .registrations
                    .get_or_create(&OutcomeLabel {
                        outcome: "forgotten",
                    })
                    .inc_by(forgotten);
                tracing::debug!(forgotten, "forgot registrations that ended long ago");
            }
            Err(error) => tracing::debug!("cannot tidy the registry: {error}"),
        }
    }
}

async fn keep_house(
    shared: Arc<Shared>,
    own_record: Option<watch::Receiver<Option<Signed<NodeRecord>>>>,
    shutdown: CancellationToken,
) {
    // Without a record of our own the sender is gone at once, which ends the waiting for it.
    let mut own_record = own_record.unwrap_or_else(|| watch::channel(None).1);
    let mut own_lives = true;
    let mut probe = tokio::time::interval(PROBE_INTERVAL);
    let mut forget = tokio::time::interval(FORGET_INTERVAL);
    let mut renew = tokio::time::interval(shared.ttl / 3);
    for interval in [&mut probe, &mut forget, &mut renew] {
        interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    }
    let keeping = async {
        loop {
            tokio::select! {
                _ = probe.tick() => {
                    shared.probe().await;
                    shared.count_live().await;
                }
                _ = forget.tick() => shared.forget().await,
                _ = renew.tick() => shared.list_own(&own_record).await,
                changed = own_record.changed(), if own_lives => match changed {
                    Ok(()) => shared.list_own(&own_record).await,
                    Err(_) => own_lives = false,
                },
            }
        }
    };
    shutdown.run_until_cancelled(keeping).await;
    shared.unlist_own(&own_record).await;
}

fn router(shared: Arc<Shared>) -> Router {
    Router::new()
        .route(path::BOOTSTRAP, get(network::bootstrap))
        .route(
            path::REGISTER,
            post(network::register).delete(network::leave),
        )
        .route(path::HEARTBEAT, post(network::heartbeat))
        .route(path::PEERS, get(network::peers))
        .route(path::CRL, get(network::crl))
        .route(path::HEALTH, get(network::health))
        .route(path::JOIN, post(issuing::join))
        .route(
            path::TOKENS,
            get(issuing::tokens).post(issuing::create_token),
        )
        .route(path::TOKEN, delete(issuing::withdraw_token))
        .route(path::RENEW, post(issuing::renew))
        .fallback(|| async {
            error::ApiError::new(
                StatusCode::NOT_FOUND,
                "not_found",
                "there is nothing at this path",
            )
        })
        .method_not_allowed_fallback(|| async {
            error::ApiError::new(
                StatusCode::METHOD_NOT_ALLOWED,
                "method_not_allowed",
                "this path does not take this method",
            )
        })
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(
            Arc::clone(&shared),
            gate::pass,
        ))
        .with_state(shared)
}

/// The wall clock, for the registry.
pub(crate) fn now() -> UnixMillis {
    SystemTime::now().into()
}

/// The wall clock, for certificates.
pub(crate) fn unix_time() -> UnixTime {
    UnixTime::now()
}
