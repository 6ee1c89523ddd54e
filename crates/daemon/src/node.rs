//! One node, put together from its settings from the bottom up and taken down in the opposite order.
//!
//! Order of start: identity, store, bulk port, mesh, retriever, discovery, API. Each part gets what it needs and knows
//! nothing of its neighbours. Every task ends with the one shutdown token; [`Node::shutdown`] waits for them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context;
use tokio::net::TcpListener;
use tokio::sync::{Notify, mpsc, watch};
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_api::guard::{ClientIdentity, Guard};
use warren_api::serve::{ListenerTls, serve};
use warren_api::traffic_log::TrafficLog;
use warren_api::{ApiState, NodeFacts};
use warren_config::{Loaded, Role, Settings};
use warren_content::retrieve::{Peers, Retriever, RetrieverOptions};
use warren_content::transfer::bulk::{BulkListener, far_end};
use warren_content::transfer::{BlockServer, TransferLimits, TransferMetrics};
use warren_content::{Store, StoreOptions};
use warren_identity::tls::{ClientCertificates, https_server, member_from_tls};
use warren_identity::{Capability, NodeRecord, PeerId, Signed, Trust, UnixTime};
use warren_mesh::{BLOCKS_PROTOCOL, Mesh, Multiaddr};
use warren_telemetry::health::Weight;
use warren_telemetry::logging::LogHandle;
use warren_telemetry::{Health, Metrics, NetworkMetrics, RetrievalMetrics};
use zeroize::Zeroizing;

use crate::call_plane::{self, CallPlane};
use crate::control::DaemonControl;
use crate::discovery_parts::{self, RunningClient, RunningServer};
use crate::files::{self, Overwrite};
use crate::mesh_settings::{description, mesh_config, role_names};
use crate::peers::{self, MeshPeers};
use crate::settings::Sources;
use crate::trust_keeper::{RenewalRequest, TrustKeeper};
use crate::upkeep;
use crate::{material, random};

/// How long one connection to a holder may take, bulk port and stream together.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Requests to renew the certificate that wait at most; one more is told to come back.
const RENEWAL_REQUESTS: usize = 4;

/// What a node is started from.
pub struct Start {
    /// The configuration.
    pub loaded: Loaded,
    /// What it came from, to be read again at a reload; without files it cannot be reloaded.
    pub sources: Sources,
    /// Where the log level is changed; `None` leaves it alone.
    pub log: Option<LogHandle>,
}

/// Where a running node really listens.
#[derive(Debug, Clone)]
pub struct Addresses {
    /// The mesh.
    pub mesh: Vec<Multiaddr>,
    /// The management API.
    pub api: SocketAddr,
    /// The bulk port.
    pub transfer: Option<SocketAddr>,
    /// The monitoring listener.
    pub monitoring: Option<SocketAddr>,
    /// The discovery server.
    pub discovery: Option<SocketAddr>,
    /// Calls of members, UDP.
    pub calls: Option<SocketAddr>,
    /// The cluster's gossip, UDP and TCP.
    pub gossip: Option<SocketAddr>,
}

/// A running node.
pub struct Node {
    addresses: Addresses,
    token_file: PathBuf,
    mesh: Mesh,
    retriever: Retriever,
    store: Store,
    trust: Trust,
    control: Arc<DaemonControl>,
    health: Health,
    shutdown: CancellationToken,
    tasks: TaskTracker,
    server: Option<RunningServer>,
    call_plane: Option<CallPlane>,
    stop: Arc<Notify>,
}

/// The parts below the planes, made first.
struct Ground {
    trust: Trust,
    metrics: Metrics,
    health: Health,
    network: NetworkMetrics,
    shutdown: CancellationToken,
    tasks: TaskTracker,
}

/// The store and what serves and fetches blocks.
struct Content {
    store: Store,
    server: BlockServer,
    metrics: TransferMetrics,
    bulk_address: Option<SocketAddr>,
    /// Bound, and served once there is a mesh to count with.
    bulk: Option<BulkListener>,
}

impl Node {
    /// Starts every part that the settings name.
    ///
    /// # Errors
    /// The first part that cannot start, by name; what had been started is stopped again.
    pub async fn start(start: Start) -> anyhow::Result<Self> {
        let settings = start.loaded.settings.clone();
        let metrics = Metrics::new();
        let ground = Ground {
            trust: material::load(&settings, UnixTime::now())?,
            health: Health::new(),
            network: NetworkMetrics::register(&metrics),
            metrics,
            shutdown: CancellationToken::new(),
            tasks: TaskTracker::new(),
        };
        let guard = ground.shutdown.clone().drop_guard();
        let mut content = start_content(&settings, &ground).await?;
        let mesh = start_mesh(&settings, &ground, &mut content).await?;
        let node = Box::pin(Self::join(start, settings, ground, content, mesh.clone())).await;
        match node {
            Ok(node) => {
                guard.disarm();
                Ok(node)
            }
            Err(error) => {
                mesh.shutdown().await;
                Err(error)
            }
        }
    }

    /// Everything above the mesh.
    async fn join(
        start: Start,
        settings: Settings,
        ground: Ground,
        content: Content,
        mesh: Mesh,
    ) -> anyhow::Result<Self> {
        let Ground {
            trust,
            shutdown,
            tasks,
            ..
        } = &ground;
        let (mesh_peers, retriever) = start_retriever(&settings, &ground, &content, &mesh);
        let record = start_record(&settings, &ground, &mesh, content.bulk_address);
        let server = discovery_parts::start_server(
            &settings,
            trust,
            record.clone(),
            &ground.metrics,
            shutdown.clone(),
        )
        .await?;
        let refresh = start_client(&settings, &ground, &mesh, record)?;
        let (settings_sender, settings_receiver) = watch::channel(Arc::new(settings.clone()));
        let renewals = start_keeper(&ground, settings_receiver.clone());
        let facts = facts(&start.loaded, content.bulk_address);
        let control = Arc::new(DaemonControl {
            sources: start.sources,
            loaded: std::sync::Mutex::new(start.loaded),
            settings: settings_sender,
            log: start.log,
            mesh: mesh.clone(),
            peers: mesh_peers,
            trust: trust.clone(),
            renewals,
            refresh,
            registry: server.as_ref().map(|server| Arc::clone(&server.registry)),
        });
        let state = api_state(facts, &ground, &content, &retriever, &mesh, control.clone());
        upkeep::spawn(&state, control.clone(), settings_receiver, tasks, shutdown);
        // The API comes last: when it says that the node is ready, everything else listens.
        let monitoring = start_monitoring(&settings, &ground).await?;
        let stop = Arc::new(Notify::new());
        let call_plane = start_call_plane(&settings, &ground, &stop).await?;
        let api = start_api(&settings, &ground, state).await?;
        let addresses = Addresses {
            mesh: mesh.listen_addresses().await,
            api,
            transfer: content.bulk_address,
            monitoring,
            discovery: server.as_ref().map(|server| server.server.local_address()),
            calls: call_plane.as_ref().map(CallPlane::calls),
            gossip: call_plane.as_ref().map(CallPlane::gossip),
        };
        let Ground {
            trust,
            health,
            shutdown,
            tasks,
            ..
        } = ground;
        let store = content.store;
        let token_file = settings.api.token_file;
        Ok(Self {
            addresses,
            token_file,
            mesh,
            retriever,
            store,
            trust,
            control,
            health,
            shutdown,
            tasks,
            server,
            call_plane,
            stop,
        })
    }

    /// Where the node listens.
    #[must_use]
    pub fn addresses(&self) -> &Addresses {
        &self.addresses
    }

    /// The file that holds the admin token.
    #[must_use]
    pub fn token_file(&self) -> &std::path::Path {
        &self.token_file
    }

    /// The node's peer id.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.trust.peer_id()
    }

    /// The mesh.
    #[must_use]
    pub fn mesh(&self) -> &Mesh {
        &self.mesh
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// Documents from here or elsewhere.
    #[must_use]
    pub fn retriever(&self) -> &Retriever {
        &self.retriever
    }

    /// Key, certificate, roots and revocations in force.
    #[must_use]
    pub fn trust(&self) -> &Trust {
        &self.trust
    }

    /// Which parts work.
    #[must_use]
    pub fn health(&self) -> &Health {
        &self.health
    }

    /// Reads the configuration again, as SIGHUP asks for; the outcome is in the log.
    pub async fn reload(&self) {
        if let Err(error) = self.control.reload_now().await {
            tracing::warn!("not reloaded: {error}");
        }
    }

    /// Returns when somebody who may has told the node to stop. Cancellation safe.
    pub async fn told_to_stop(&self) {
        self.stop.notified().await;
    }

    /// Stops accepting, lets what runs finish within its own bounds, leaves cluster and mesh and closes the store. Calls
    /// are drained first, while everything that they may need still runs.
    pub async fn shutdown(self) {
        if let Some(call_plane) = &self.call_plane {
            call_plane.drain().await;
        }
        self.shutdown.cancel();
        self.retriever.shutdown().await;
        if let Some(server) = self.server {
            server.server.stopped().await;
        }
        self.tasks.close();
        self.tasks.wait().await;
        self.mesh.shutdown().await;
        // The last clone waits for the writer: not on a thread of the runtime.
        let (store, retriever, control) = (self.store, self.retriever, self.control);
        let closed = tokio::task::spawn_blocking(move || drop((retriever, control, store)));
        if closed.await.is_err() {
            tracing::error!("the store could not be closed in order");
        }
    }
}

/// Starts calls and the cluster, where the roles ask for them.
async fn start_call_plane(
    settings: &Settings,
    ground: &Ground,
    stop: &Arc<Notify>,
) -> anyhow::Result<Option<CallPlane>> {
    let parts = call_plane::Parts {
        trust: &ground.trust,
        metrics: &ground.metrics,
        health: &ground.health,
        tasks: &ground.tasks,
        shutdown: &ground.shutdown,
        stop: Arc::clone(stop),
    };
    CallPlane::start(settings, parts).await
}

/// Starts what finds and fetches documents, and, on a node that stores, what tells others of ours.
fn start_retriever(
    settings: &Settings,
    ground: &Ground,
    content: &Content,
    mesh: &Mesh,
) -> (MeshPeers, Retriever) {
    let Ground {
        trust,
        metrics,
        shutdown,
        tasks,
        ..
    } = ground;
    let (mesh_peers, announcements) = MeshPeers::new(mesh.clone(), trust.clone());
    let connections = Peers::new(
        Arc::new(mesh_peers.clone()),
        TransferLimits::default(),
        content.metrics.clone(),
        CONNECT_TIMEOUT,
    );
    let retriever = Retriever::new(
        content.store.clone(),
        connections,
        Arc::new(mesh_peers.clone()),
        RetrievalMetrics::register(metrics),
        RetrieverOptions::default(),
    );
    if !settings.roles.contains(&Role::Storage) {
        return (mesh_peers, retriever);
    }
    let store = &content.store;
    tasks.spawn(peers::announce(
        store.clone(),
        mesh.clone(),
        announcements,
        shutdown.clone(),
    ));
    if let Some(queries) = mesh.have_queries() {
        tasks.spawn(peers::answer(store.clone(), queries, shutdown.clone()));
    }
    (mesh_peers, retriever)
}

/// Starts what keeps certificate, CA certificates and revocation lists current; gives what asks it for a renewal.
fn start_keeper(
    ground: &Ground,
    settings: watch::Receiver<Arc<Settings>>,
) -> mpsc::Sender<RenewalRequest> {
    let (renewals, asked) = mpsc::channel(RENEWAL_REQUESTS);
    let health = ground.health.component("certificate", Weight::Needed);
    let keeper = TrustKeeper::new(ground.trust.clone(), settings, health, asked);
    ground.tasks.spawn(keeper.run(ground.shutdown.clone()));
    renewals
}

async fn start_content(settings: &Settings, ground: &Ground) -> anyhow::Result<Content> {
    let health = ground.health.component("storage", Weight::Vital);
    let path = settings.storage.path.join("store");
    files::make_folder(&settings.storage.path)?;
    let watched = path.clone();
    let options = StoreOptions {
        max_bytes: Some(settings.storage.max_size),
    };
    let registry = ground.metrics.clone();
    let store = tokio::task::spawn_blocking(move || Store::open(&path, options, &registry))
        .await
        .context("opening the store broke off")??;
    ground.tasks.spawn(upkeep::watch_store(
        store.clone(),
        watched,
        health,
        ground.shutdown.clone(),
    ));
    let metrics = TransferMetrics::register(&ground.metrics);
    let server = BlockServer::new(store.clone(), TransferLimits::default(), metrics.clone());
    let mut bulk = None;
    // What does not store serves nobody: no socket.
    if settings.network.transfer.enabled && settings.roles.contains(&Role::Storage) {
        let address = settings.network.transfer.listen_address;
        let listener =
            BulkListener::bind(address, &ground.trust, server.clone(), metrics.clone()).await?;
        bulk = Some(listener);
    }
    Ok(Content {
        store,
        server,
        metrics,
        bulk_address: bulk.as_ref().map(BulkListener::local_addr),
        bulk,
    })
}

async fn start_mesh(
    settings: &Settings,
    ground: &Ground,
    content: &mut Content,
) -> anyhow::Result<Mesh> {
    let organization = ground.trust.organization().as_str().to_owned();
    let config = mesh_config(settings, &organization, content.bulk_address);
    let mesh = Mesh::start(
        config,
        ground.trust.clone(),
        &ground.metrics,
        ground.network.clone(),
    )
    .await?;
    if let Some(bulk) = content.bulk.take() {
        let bulk = bulk.counted_by(peers::counters(&mesh));
        ground.tasks.spawn(bulk.run(ground.shutdown.clone()));
    }
    let health = ground.health.component("mesh", Weight::Vital);
    health.ok();
    let joined = ground.health.component("peers", Weight::Needed);
    ground.tasks.spawn(upkeep::watch_peers(
        mesh.clone(),
        settings.network.bootstrap_mode,
        joined,
        ground.shutdown.clone(),
    ));
    if settings.roles.contains(&Role::Storage)
        && let Some(mut streams) = mesh.accept_streams(BLOCKS_PROTOCOL)
    {
        let (server, trust, mesh_of_streams) =
            (content.server.clone(), ground.trust.clone(), mesh.clone());
        let (shutdown, tasks) = (ground.shutdown.clone(), ground.tasks.clone());
        ground.tasks.spawn(async move {
            while let Some(Some(incoming)) = shutdown.run_until_cancelled(streams.recv()).await {
                let peers = mesh_of_streams.peers().await;
                let Some(member) = peers
                    .into_iter()
                    .find(|info| info.peer_id == incoming.peer)
                    .and_then(|info| info.member)
                else {
                    continue;
                };
                let (server, trust, shutdown) = (server.clone(), trust.clone(), shutdown.clone());
                tasks.spawn(async move {
                    let far_end = far_end(&trust, member.as_ref().clone());
                    shutdown
                        .run_until_cancelled(server.serve(incoming.stream.compat(), far_end))
                        .await;
                });
            }
        });
    }
    Ok(mesh)
}

/// Starts what keeps the node's signed record for discovery servers, its own and others'; `None` as long as there is none,
/// and for good where the node is not to be registered.
fn start_record(
    settings: &Settings,
    ground: &Ground,
    mesh: &Mesh,
    bulk_address: Option<SocketAddr>,
) -> watch::Receiver<Option<Signed<NodeRecord>>> {
    let (sender, record) = watch::channel(None);
    let discovery = &settings.network.discovery;
    let asked_for = !discovery.servers.is_empty() || settings.roles.contains(&Role::Discovery);
    if asked_for && discovery.registration.auto_register {
        ground.tasks.spawn(discovery_parts::keep_record(
            mesh.clone(),
            ground.trust.clone(),
            description(settings, bulk_address),
            sender,
            ground.shutdown.clone(),
        ));
    }
    record
}

/// Starts the discovery client with its tasks; gives what asks it for the list again.
fn start_client(
    settings: &Settings,
    ground: &Ground,
    mesh: &Mesh,
    records: watch::Receiver<Option<Signed<NodeRecord>>>,
) -> anyhow::Result<Option<Arc<tokio::sync::Notify>>> {
    let started = discovery_parts::start_client(
        settings,
        &ground.trust,
        records,
        &ground.metrics,
        ground.shutdown.clone(),
    )?;
    let Some(RunningClient { client, peers }) = started else {
        return Ok(None);
    };
    let Ground {
        tasks, shutdown, ..
    } = ground;
    let health = ground.health.component("discovery", Weight::Needed);
    tasks.spawn(discovery_parts::watch_client(
        client.state(),
        health,
        shutdown.clone(),
    ));
    tasks.spawn(discovery_parts::dial_found(
        mesh.clone(),
        peers,
        shutdown.clone(),
    ));
    let refresh = Arc::new(tokio::sync::Notify::new());
    let (asked, shutdown) = (Arc::clone(&refresh), shutdown.clone());
    tasks.spawn(async move {
        while shutdown
            .run_until_cancelled(asked.notified())
            .await
            .is_some()
        {
            client.refresh();
        }
        client.stopped().await;
    });
    Ok(Some(refresh))
}

fn facts(loaded: &Loaded, transfer_address: Option<SocketAddr>) -> NodeFacts {
    let settings = &loaded.settings;
    NodeFacts {
        node_id: settings.network.node_id.clone(),
        region: settings.network.region.clone(),
        roles: role_names(settings),
        version: env!("CARGO_PKG_VERSION"),
        started_at: jiff::Timestamp::now(),
        transfer_address,
        max_store_bytes: settings.storage.max_size,
        warnings: loaded.warnings.iter().map(ToString::to_string).collect(),
    }
}

fn api_state(
    facts: NodeFacts,
    ground: &Ground,
    content: &Content,
    retriever: &Retriever,
    mesh: &Mesh,
    control: Arc<DaemonControl>,
) -> ApiState {
    ApiState {
        facts: Arc::new(facts),
        trust: ground.trust.clone(),
        mesh: mesh.clone(),
        store: content.store.clone(),
        retriever: retriever.clone(),
        key: ground.trust.key().clone(),
        metrics: ground.metrics.clone(),
        health: ground.health.clone(),
        traffic: TrafficLog::new(Instant::now()),
        control,
    }
}

async fn start_api(
    settings: &Settings,
    ground: &Ground,
    state: ApiState,
) -> anyhow::Result<SocketAddr> {
    let wanted = settings.api.listen_address;
    let listener = TcpListener::bind(wanted).await.with_context(|| {
        format!("the management API cannot listen on {wanted}; choose another api.listen_address")
    })?;
    let address = listener.local_addr()?;
    let mut names = settings.api.allowed_hosts.clone();
    if let Some(leaf) = ground.trust.leaf() {
        names.extend(material::served_names(leaf.facts()));
    }
    let tls = settings
        .api
        .tls
        .is_some()
        .then(|| api_tls(&ground.trust))
        .transpose()?;
    let guard = Guard::new(admin_token(settings)?, address, &names, tls.is_some());
    ground.tasks.spawn(serve(
        listener,
        tls,
        warren_api::router(state, guard),
        ground.shutdown.clone(),
    ));
    Ok(address)
}

fn api_tls(trust: &Trust) -> anyhow::Result<ListenerTls> {
    let config = https_server(trust, ClientCertificates::Optional, &[b"http/1.1"])?;
    let trust = trust.clone();
    Ok(ListenerTls {
        acceptor: tokio_rustls::TlsAcceptor::from(Arc::new(config)),
        judge: Arc::new(
            move |chain| match member_from_tls(&trust, Some(chain), UnixTime::now()) {
                Ok(member) if member.allows(&Capability::Admin) => ClientIdentity::Admin,
                _ => ClientIdentity::Anonymous,
            },
        ),
    })
}

/// The token in its file; made at the first start.
fn admin_token(settings: &Settings) -> anyhow::Result<Zeroizing<String>> {
    const MIN_TOKEN_BYTES: usize = 16;
    let path = &settings.api.token_file;
    if !path.exists() {
        let bytes: [u8; 32] = random::bytes();
        let token: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        files::write_whole(path, token.as_bytes(), 0o600, Overwrite::Refuse)?;
    }
    let text = Zeroizing::new(files::read_secret(
        "the admin token",
        path,
        "restart the node: it writes a new one",
    )?);
    let token = Zeroizing::new(text.trim().to_owned());
    anyhow::ensure!(
        token.len() >= MIN_TOKEN_BYTES,
        "the admin token in {} is shorter than {MIN_TOKEN_BYTES} characters: remove the file, and the node writes a good one",
        path.display()
    );
    Ok(token)
}

async fn start_monitoring(
    settings: &Settings,
    ground: &Ground,
) -> anyhow::Result<Option<SocketAddr>> {
    let Some(wanted) = settings.monitoring.listen_address else {
        return Ok(None);
    };
    let listener = TcpListener::bind(wanted).await.with_context(|| {
        format!("monitoring cannot listen on {wanted}; choose another monitoring.listen_address")
    })?;
    let address = listener.local_addr()?;
    let router = warren_api::monitoring_router(ground.health.clone(), ground.metrics.clone());
    ground
        .tasks
        .spawn(serve(listener, None, router, ground.shutdown.clone()));
    Ok(Some(address))
}
