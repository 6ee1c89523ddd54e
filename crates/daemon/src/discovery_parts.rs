//! The discovery server with its engine and issuer, and the client that keeps this node registered.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, anyhow};
use tokio::sync::{broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use warren_config::{Role, Settings};
use warren_discovery::client::{
    ClientConfig, ClientState, DEFAULT_REFRESH_INTERVAL, DiscoveryClient, TimeOuts,
};
use warren_discovery::core::failover::Timing;
use warren_discovery::engine::{Embedded, Postgres, PostgresOptions, Registry};
use warren_discovery::server::{
    BootstrapAccess, ClientAuth, DiscoveryServer, Issuer, LedgerError, LedgerStore, Seed,
    ServerConfig,
};
use warren_discovery::wire::{MAX_ADDRESSES, PeerEntry};
use warren_identity::join::JoinError;
use warren_identity::tls::Guest;
use warren_identity::{
    CertificateFacts, IssuanceLedger, NodeRecord, OrganizationId, Revocations, Roots, Signed,
    Trust, UnixMillis, certificates_from_pem,
};
use warren_mesh::{Mesh, MeshEvent, Multiaddr, NodeDescription};
use warren_telemetry::{ComponentHealth, Metrics};

use crate::ca_folder::{CaError, CaFolder};
use crate::files;

/// File of the embedded registry in the storage folder.
const REGISTRY_FILE: &str = "discovery.redb";

impl LedgerStore for CaFolder {
    fn update(
        &self,
        work: &mut dyn FnMut(&mut IssuanceLedger) -> Result<(), JoinError>,
    ) -> Result<(), LedgerError> {
        let mut refused = None;
        let stored = self.update_ledger(|ledger| {
            let outcome = work(ledger);
            let changed = outcome.is_ok();
            refused = outcome.err();
            changed
        });
        match (refused, stored) {
            (Some(error), _) => Err(error.into()),
            (None, Ok(())) => Ok(()),
            (None, Err(error)) => Err(LedgerError::Store(CaError::to_string(&error))),
        }
    }
}

/// A running server and its registry, which join tokens are made in.
pub(crate) struct RunningServer {
    pub(crate) server: DiscoveryServer,
    pub(crate) registry: Arc<dyn Registry>,
}

/// Starts the server where the node has the role.
pub(crate) async fn start_server(
    settings: &Settings,
    trust: &Trust,
    own_record: watch::Receiver<Option<Signed<NodeRecord>>>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<RunningServer>> {
    if !settings.roles.contains(&Role::Discovery) {
        return Ok(None);
    }
    let server = &settings.discovery_server;
    let registry = open_registry(settings).await?;
    let mut config = ServerConfig::new(server.listen_address, trust.clone(), Arc::clone(&registry));
    config.client_auth = match server.require_certificates {
        true => ClientAuth::Certificate,
        false => ClientAuth::CertificateOrSignedRequest,
    };
    if server.anonymous_bootstrap {
        config.bootstrap_access = BootstrapAccess::Anyone;
    }
    // Nodes that know nothing but this server find the mesh through it.
    config.own_record = Some(own_record);
    config.ttl = server.peer_expiry;
    config.seeds = seeds(settings)?;
    config.guests = guests(settings, trust)?;
    if settings.roles.contains(&Role::Issuer) {
        config.issuer = Some(issuer(settings, trust)?);
    }
    let server = DiscoveryServer::bind(config, metrics, shutdown).await?;
    Ok(Some(RunningServer { server, registry }))
}

async fn open_registry(settings: &Settings) -> anyhow::Result<Arc<dyn Registry>> {
    if let Some(url) = &settings.discovery_server.database_url {
        return Ok(Arc::new(Postgres::new(
            url.expose(),
            &PostgresOptions::default(),
        )?));
    }
    let path: PathBuf = settings.storage.path.join(REGISTRY_FILE);
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&path))
        .await
        .context("opening the registry broke off")??;
    Ok(Arc::new(opened))
}

fn seeds(settings: &Settings) -> anyhow::Result<Vec<Seed>> {
    let seed = |peer: &warren_config::SeedPeer| {
        Ok(Seed {
            peer_id: peer.peer_id,
            addresses: peer.addresses.iter().map(ToString::to_string).collect(),
            organization: Some(OrganizationId::new(peer.organization.clone())?),
            region: peer.region.clone(),
        })
    };
    settings
        .discovery_server
        .bootstrap_peers
        .iter()
        .map(seed)
        .collect()
}

/// `auth.ca_cert` may hold our own CA, which adds nothing, or those of guests.
fn guests(settings: &Settings, trust: &Trust) -> anyhow::Result<Vec<Guest>> {
    let path = &settings.discovery_server.ca_cert;
    if *path == settings.network.security.ca_cert {
        return Ok(Vec::new());
    }
    let text = files::read_text(
        "the CA certificate of discovery clients",
        path,
        "correct discovery.server.auth.ca_cert",
    )?;
    let certificates = certificates_from_pem(&text)
        .map_err(|index| anyhow!("{}: certificate {index} is cut short", path.display()))?;
    let ours = trust.roots();
    let mut guests = Vec::new();
    for der in certificates {
        if ours.certificates().iter().any(|root| *root.der() == der) {
            continue;
        }
        let facts = CertificateFacts::parse(&der)
            .map_err(|reason| anyhow!("{}: {reason}", path.display()))?;
        let organization = facts.organization_of_ca().ok_or_else(|| {
            anyhow!(
                "{}: the CA `{}` names no organisation, so its members cannot be told apart",
                path.display(),
                facts.subject
            )
        })?;
        let roots = Roots::new(organization, [der])
            .with_context(|| format!("{} cannot be used", path.display()))?;
        guests.push(Guest {
            roots,
            revocations: Revocations::none(),
        });
    }
    Ok(guests)
}

fn issuer(settings: &Settings, trust: &Trust) -> anyhow::Result<Issuer> {
    let security = &settings.network.security;
    let folder = security
        .issuer_dir
        .as_ref()
        .context("the role `issuer` needs network.security.issuer_dir")?;
    let ca = CaFolder::new(folder, Some(trust.organization().clone()))
        .with_passphrase_file(security.issuer_passphrase_file.clone());
    Ok(Issuer {
        authority: Arc::new(ca.authority()?),
        ledger: Arc::new(ca),
        leaf_lifetime: security.issuer_leaf_lifetime,
    })
}

/// A running client and the peers it hears of.
pub(crate) struct RunningClient {
    pub(crate) client: DiscoveryClient,
    pub(crate) peers: mpsc::Receiver<Vec<PeerEntry>>,
}

/// Starts the client where servers are configured.
pub(crate) fn start_client(
    settings: &Settings,
    trust: &Trust,
    record: watch::Receiver<Option<Signed<NodeRecord>>>,
    metrics: &Metrics,
    shutdown: CancellationToken,
) -> anyhow::Result<Option<RunningClient>> {
    let discovery = &settings.network.discovery;
    if !discovery.enabled || discovery.servers.is_empty() {
        return Ok(None);
    }
    let parse = |url: &warren_config::Url| {
        url.as_str()
            .parse()
            .with_context(|| format!("{url} is no URL"))
    };
    let config = ClientConfig {
        servers: discovery
            .servers
            .iter()
            .map(parse)
            .collect::<anyhow::Result<_>>()?,
        timing: Timing {
            heartbeat_interval: discovery.registration.heartbeat_interval,
            retry_interval: discovery.registration.retry_interval,
            refresh_interval: DEFAULT_REFRESH_INTERVAL,
        },
        time_outs: TimeOuts::default(),
    };
    let (client, peers) = DiscoveryClient::start(config, trust.clone(), record, metrics, shutdown)?;
    Ok(Some(RunningClient { client, peers }))
}

/// Has every peer that a server names dialled.
pub(crate) async fn dial_found(
    mesh: Mesh,
    mut peers: mpsc::Receiver<Vec<PeerEntry>>,
    shutdown: CancellationToken,
) {
    while let Some(Some(found)) = shutdown.run_until_cancelled(peers.recv()).await {
        let known = found.into_iter().map(|entry| {
            let addresses = entry.addresses.iter().filter_map(|text| text.parse().ok());
            (entry.peer_id, addresses.collect::<Vec<Multiaddr>>())
        });
        mesh.found(known.collect()).await;
    }
}

/// Signs what the node says of itself whenever its addresses change, for the discovery servers.
pub(crate) async fn keep_record(
    mesh: Mesh,
    trust: Trust,
    description: NodeDescription,
    record: watch::Sender<Option<Signed<NodeRecord>>>,
    shutdown: CancellationToken,
) {
    let mut events = mesh.subscribe();
    let mut last = Vec::new();
    loop {
        let addresses: Vec<String> = mesh
            .announced_addresses()
            .await
            .iter()
            .map(ToString::to_string)
            .take(MAX_ADDRESSES)
            .collect();
        if addresses != last {
            match sign_record(&trust, &description, addresses.clone()) {
                Ok(signed) => {
                    record.send_replace(Some(signed));
                    last = addresses;
                }
                Err(error) => tracing::warn!("the node's own record cannot be signed: {error:#}"),
            }
        }
        loop {
            match shutdown.run_until_cancelled(events.recv()).await {
                Some(
                    Ok(MeshEvent::AddressesChanged) | Err(broadcast::error::RecvError::Lagged(_)),
                ) => break,
                Some(Ok(_)) => {}
                Some(Err(broadcast::error::RecvError::Closed)) | None => return,
            }
        }
    }
}

fn sign_record(
    trust: &Trust,
    description: &NodeDescription,
    addresses: Vec<String>,
) -> anyhow::Result<Signed<NodeRecord>> {
    let now = UnixMillis::from(SystemTime::now());
    let record = NodeRecord {
        peer_id: trust.peer_id(),
        organization: trust.organization().clone(),
        name: description.name.clone(),
        region: description.region.clone(),
        roles: description.roles.clone(),
        addresses,
        bulk_addresses: description.bulk_addresses.clone(),
        sequence: now.0,
        issued_at_unix_s: now.as_secs(),
    };
    Ok(Signed::sign(record, trust.key())?)
}

/// Says in the health report how the client stands.
pub(crate) async fn watch_client(
    mut state: watch::Receiver<ClientState>,
    health: ComponentHealth,
    shutdown: CancellationToken,
) {
    loop {
        match &*state.borrow_and_update() {
            ClientState::Starting => {}
            ClientState::Connected { .. } => health.ok(),
            ClientState::AllFailed { reason } => {
                health.degraded(format!("no discovery server answers: {reason}"));
            }
        }
        if !matches!(
            shutdown.run_until_cancelled(state.changed()).await,
            Some(Ok(()))
        ) {
            return;
        }
    }
}
