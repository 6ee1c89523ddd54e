//! The client: it keeps a node known to the discovery servers, and brings the node its first peers.
//!
//! [`DiscoveryClient::start`] runs one task. [`crate::core::failover`] decides what to ask whom and when; the task carries it
//! out over [`ServerApi`] and reports through a `watch` (how it stands) and a bounded channel (peers found). A node without
//! a certificate yet uses [`join()`].

mod api;
mod joining;

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use reqwest::Url;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;
use warren_identity::{NodeRecord, Signed, Trust, tls::TlsError};
use warren_telemetry::Metrics;

pub use self::{
    api::{RequestError, ServerApi, TimeOuts},
    joining::{JoinFailure, Joined, join},
};
use crate::{
    core::failover::{Action, Failover, Failure, Standing, Timing},
    metrics::ClientMetrics,
    wire::PeerEntry,
};

/// Lists of peers that wait for the node to take them; a further one is dropped, the next refresh brings another.
const PEERS_CHANNEL: usize = 8;
/// How long leaving may hold up a node that stops.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Heartbeats of the documents' configuration.
pub const DEFAULT_HEARTBEAT_INTERVAL: Duration = Duration::from_secs(30);
/// Retries of the documents' configuration.
pub const DEFAULT_RETRY_INTERVAL: Duration = Duration::from_secs(60);
/// A content node asks for the bootstrap list this often: peers that never met through the DHT get to know each other.
pub const DEFAULT_REFRESH_INTERVAL: Duration = Duration::from_secs(600);

/// What the client needs beside the node's trust.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Servers in order of preference; https, or http on loopback.
    pub servers: Vec<Url>,
    /// When things happen.
    pub timing: Timing,
    /// How long one request may take.
    pub time_outs: TimeOuts,
}

impl ClientConfig {
    /// The default times.
    #[must_use]
    pub fn new(servers: Vec<Url>) -> Self {
        Self {
            servers,
            timing: Timing {
                heartbeat_interval: DEFAULT_HEARTBEAT_INTERVAL,
                retry_interval: DEFAULT_RETRY_INTERVAL,
                refresh_interval: DEFAULT_REFRESH_INTERVAL,
            },
            time_outs: TimeOuts::default(),
        }
    }
}

/// Why a client did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The list is empty.
    #[error(
        "no discovery server is configured; set `network.discovery.servers`, or `network.discovery.enabled: false`"
    )]
    NoServer,
    /// A URL that would send what nodes say over the network in clear.
    #[error("discovery server {0} is not https; plain http is allowed to loopback only")]
    Insecure(Url),
    /// TLS cannot be set up.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The HTTP client cannot be set up.
    #[error("the discovery client cannot be set up: {0}")]
    Http(String),
}

/// How the client stands, for health and status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClientState {
    /// Nothing asked yet.
    Starting,
    /// A server answers.
    Connected {
        /// Which.
        server: Url,
        /// Whether this node is registered there.
        registered: bool,
    },
    /// No server answered the last time.
    AllFailed {
        /// What the last one failed with.
        reason: String,
    },
}

/// A running client. Dropping it does not stop it; its shutdown token does.
pub struct DiscoveryClient {
    state: watch::Receiver<ClientState>,
    refresh: Arc<Notify>,
    task: JoinHandle<()>,
}

impl DiscoveryClient {
    /// Starts the client's task.
    ///
    /// `record` is what the node says of itself: with the first `Some` it is registered, with every change registered
    /// again. While it is `None` the client only bootstraps, so that a node can dial first and register when it knows its
    /// addresses; one that never registers (`auto_register: false`) leaves it `None`.
    ///
    /// When `shutdown` is cancelled the node is unregistered, within three seconds.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(
        config: ClientConfig,
        trust: Trust,
        record: watch::Receiver<Option<Signed<NodeRecord>>>,
        metrics: &Metrics,
        shutdown: CancellationToken,
    ) -> Result<(Self, mpsc::Receiver<Vec<PeerEntry>>), StartError> {
        if config.servers.is_empty() {
            return Err(StartError::NoServer);
        }
        if let Some(insecure) = config.servers.iter().find(|server| !is_acceptable(server)) {
            return Err(StartError::Insecure(insecure.clone()));
        }
        let seed = seed_of(&trust);
        let api = ServerApi::new(trust, config.time_outs)?;
        let (state_sender, state) = watch::channel(ClientState::Starting);
        let (peers_sender, peers) = mpsc::channel(PEERS_CHANNEL);
        let refresh = Arc::new(Notify::new());
        let runner = Runner {
            failover: Failover::new(config.servers.len(), config.timing, seed),
            servers: config.servers,
            api,
            record,
            refresh: Arc::clone(&refresh),
            state: state_sender,
            peers: peers_sender,
            metrics: ClientMetrics::register(metrics),
            started: Instant::now(),
            last_failure: String::new(),
        };
        let task = tokio::spawn(runner.run(shutdown));
        Ok((
            Self {
                state,
                refresh,
                task,
            },
            peers,
        ))
    }

    /// How the client stands; changes can be awaited.
    #[must_use]
    pub fn state(&self) -> watch::Receiver<ClientState> {
        self.state.clone()
    }

    /// Asks for the bootstrap list soon, for instance because the node has lost all peers. Not before the end of a running
    /// retry interval.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    /// Waits until the task has ended, after the shutdown token was cancelled.
    pub async fn stopped(self) {
        if let Err(error) = self.task.await {
            tracing::error!("the discovery client ended early: {error}");
        }
    }
}

/// https anywhere, http only where nobody listens in.
pub(crate) fn is_acceptable(server: &Url) -> bool {
    match (server.scheme(), server.host_str()) {
        ("https", Some(_)) => true,
        ("http", Some(host)) => {
            let bare = host.trim_start_matches('[').trim_end_matches(']');
            bare == "localhost"
                || bare
                    .parse::<std::net::IpAddr>()
                    .is_ok_and(|ip| ip.is_loopback())
        }
        _ => false,
    }
}

/// Nodes differ in their keys, so their timers drift apart without a random number.
fn seed_of(trust: &Trust) -> u64 {
    let hash = blake3::hash(&trust.key().public_key());
    hash.as_bytes()
        .iter()
        .take(8)
        .fold(0, |seed, byte| (seed << 8) | u64::from(*byte))
}

struct Runner {
    failover: Failover,
    servers: Vec<Url>,
    api: ServerApi,
    record: watch::Receiver<Option<Signed<NodeRecord>>>,
    refresh: Arc<Notify>,
    state: watch::Sender<ClientState>,
    peers: mpsc::Sender<Vec<PeerEntry>>,
    metrics: ClientMetrics,
    started: Instant,
    last_failure: String,
}

impl Runner {
    async fn run(mut self, shutdown: CancellationToken) {
        if self.record.borrow_and_update().is_some() {
            self.failover.handle_announcement();
        }
        let mut node_lives = true;
        loop {
            if let Some(action) = self.failover.poll(self.started.elapsed()) {
                let outcome = tokio::select! {
                    () = shutdown.cancelled() => break,
                    outcome = self.perform(action) => outcome,
                };
                self.account(action, outcome);
                continue;
            }
            let due = self.failover.poll_timeout().unwrap_or(Duration::MAX);
            let wait = due.saturating_sub(self.started.elapsed());
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = tokio::time::sleep(wait) => {}
                () = self.refresh.notified() => self.failover.handle_refresh(self.started.elapsed()),
                changed = self.record.changed(), if node_lives => match changed {
                    Ok(()) if self.record.borrow_and_update().is_some() => self.failover.handle_announcement(),
                    Ok(()) => {}
                    Err(_) => node_lives = false,
                },
            }
        }
        self.leave().await;
    }

    async fn perform(&self, action: Action) -> Result<(), RequestError> {
        let Some(server) = self.servers.get(action.server()) else {
            return Ok(());
        };
        match action {
            Action::Bootstrap { .. } => {
                let answer = self.api.bootstrap(server).await?;
                if self.peers.try_send(answer.peers).is_err() {
                    tracing::debug!("nobody takes the bootstrap list; dropped it");
                }
                Ok(())
            }
            Action::Register { .. } => {
                let record = self.record.borrow().clone();
                match record {
                    Some(record) => self.api.register(server, &record).await.map(|_| ()),
                    None => Ok(()),
                }
            }
            Action::Heartbeat { .. } => self.api.heartbeat(server).await.map(|_| ()),
        }
    }

    fn account(&mut self, action: Action, outcome: Result<(), RequestError>) {
        let operation = match action {
            Action::Bootstrap { .. } => "bootstrap",
            Action::Register { .. } => "register",
            Action::Heartbeat { .. } => "heartbeat",
        };
        let now = self.started.elapsed();
        match outcome {
            Ok(()) => {
                self.metrics.asked(operation, "ok");
                self.failover.handle_success(now);
            }
            Err(error) => {
                self.metrics.asked(operation, error.label());
                let failure = match &error {
                    RequestError::Unreachable { .. } | RequestError::BadAnswer { .. } => {
                        Failure::Unavailable
                    }
                    RequestError::Refused { code, .. } if code == "not_registered" => {
                        Failure::NotRegistered
                    }
                    RequestError::Refused {
                        retry_after: Some(after),
                        ..
                    } => Failure::Throttled(*after),
                    RequestError::Refused { status, .. } if *status >= 500 => Failure::Unavailable,
                    RequestError::Refused { .. } => Failure::Refused,
                };
                tracing::debug!(operation, "{error}");
                self.last_failure = error.to_string();
                self.failover.handle_failure(failure, now);
            }
        }
        self.publish();
    }

    fn publish(&mut self) {
        let state = match self.failover.standing() {
            Standing::Starting => ClientState::Starting,
            Standing::Connected { server, registered } => match self.servers.get(server) {
                Some(server) => ClientState::Connected {
                    server: server.clone(),
                    registered,
                },
                None => return,
            },
            Standing::AllFailed => ClientState::AllFailed {
                reason: self.last_failure.clone(),
            },
        };
        let registered = matches!(
            state,
            ClientState::Connected {
                registered: true,
                ..
            }
        );
        self.metrics.registered.set(i64::from(registered));
        self.state.send_if_modified(|held| {
            if *held == state {
                return false;
            }
            match (&state, &*held) {
                (ClientState::AllFailed { reason }, ClientState::AllFailed { .. }) => {
                    tracing::debug!("still no discovery server: {reason}");
                }
                (ClientState::AllFailed { reason }, _) => {
                    tracing::warn!("no discovery server can be used, trying again later; the last one: {reason}");
                }
                (ClientState::Connected { server, registered: true }, _) => {
                    tracing::info!(%server, "registered with the discovery server");
                }
                _ => {}
            }
            *held = state;
            true
        });
    }

    async fn leave(&mut self) {
        let Standing::Connected {
            server,
            registered: true,
        } = self.failover.standing()
        else {
            return;
        };
        let Some(server) = self.servers.get(server) else {
            return;
        };
        match tokio::time::timeout(LEAVE_TIMEOUT, self.api.leave(server)).await {
            Ok(Ok(_)) => self.metrics.asked("leave", "ok"),
            Ok(Err(error)) => {
                self.metrics.asked("leave", error.label());
                tracing::debug!("could not unregister: {error}; the registration will expire");
            }
            Err(_) => self.metrics.asked("leave", "unreachable"),
        }
        self.metrics.registered.set(0);
        self.state.send_replace(ClientState::Starting);
    }
}
