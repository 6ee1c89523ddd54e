//! The call plane of a node with the role director or worker: its server, its place in the cluster, its readiness.
//!
//! Taken down in order by [`CallPlane::drain`]: no new calls, wait for those in flight, leave the cluster, close.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::{Notify, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_balance::Place;
use warren_cluster::{Cluster, ClusterConfig, READY_TAG, ROLE_TAG};
use warren_config::{Role, Settings};
use warren_director::control::{ClusterServiceServer, LABEL_TAG};
use warren_director::health::{Counts, HealthServiceServer, Probe, ReadyRule};
use warren_director::{
    CommandOptions, Commands, Control, Director, DirectorOptions, RemoteDirectors, keep_targets,
};
use warren_identity::Trust;
use warren_rpc::{
    Client, ClientOptions, REGION_TAG, RPC_TAG, RpcMetrics, Server, ServerOptions, ZONE_TAG,
};
use warren_telemetry::health::Weight;
use warren_telemetry::{ComponentHealth, Health, Metrics};

/// How often readiness is looked at when nothing else says that it changed.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);

/// What it is put together from.
pub(crate) struct Parts<'a> {
    pub(crate) trust: &'a Trust,
    pub(crate) metrics: &'a Metrics,
    pub(crate) health: &'a Health,
    pub(crate) tasks: &'a TaskTracker,
    pub(crate) shutdown: &'a CancellationToken,
    /// Told when the node is to stop.
    pub(crate) stop: Arc<Notify>,
}

/// A running call plane.
pub(crate) struct CallPlane {
    server: Server,
    calls: SocketAddr,
    gossip: SocketAddr,
    draining: watch::Sender<bool>,
}

impl CallPlane {
    /// Starts it where the roles ask for it.
    ///
    /// # Errors
    /// What cannot be listened on, by key.
    pub(crate) async fn start(
        settings: &Settings,
        ground: Parts<'_>,
    ) -> anyhow::Result<Option<Self>> {
        if !settings.takes_calls() {
            return Ok(None);
        }
        let server = Server::builder()
            .with_trust(ground.trust.clone())
            .with_options(server_options(settings))
            .with_metrics(&RpcMetrics::register(ground.metrics))
            .bind(settings.rpc.bind_addr)
            .context("calls cannot be taken; choose another rpc.bind_addr")?;
        let calls = server.local_address()?;
        let cluster = server
            .enable_cluster_with(cluster_config(settings), ground.metrics)
            .await?;
        let gossip = cluster.local_address();
        set_fallback(&server, &cluster, settings, &ground)?;
        let draining = watch::Sender::new(false);
        let probe = probe(settings, &cluster, &ground, draining.subscribe());
        server.register(HealthServiceServer::new(probe.clone()));
        server.register(ClusterServiceServer::new(Control::new(
            cluster.clone(),
            Arc::clone(&ground.stop),
        )));
        let component = ground.health.component("calls", Weight::Needed);
        let followed = follow_readiness(
            probe,
            cluster,
            component,
            draining.subscribe(),
            ground.shutdown.clone(),
        );
        ground.tasks.spawn(followed);
        let running = server.clone();
        ground.tasks.spawn(async move { running.run().await });
        Ok(Some(Self {
            server,
            calls,
            gossip,
            draining,
        }))
    }

    /// Where calls are taken, UDP.
    pub(crate) const fn calls(&self) -> SocketAddr {
        self.calls
    }

    /// Where members gossip, UDP and TCP.
    pub(crate) const fn gossip(&self) -> SocketAddr {
        self.gossip
    }

    /// Takes no new calls, waits for those in flight, leaves the cluster, closes. Bounded by `rpc.drain_timeout` and
    /// a few seconds for the rest.
    pub(crate) async fn drain(&self) {
        self.draining.send_replace(true);
        self.server.shutdown().await;
    }
}

impl Drop for CallPlane {
    /// Where the rest of the node could not start, and after a drain, which has left nothing.
    fn drop(&mut self) {
        self.server.kill();
    }
}

fn server_options(settings: &Settings) -> ServerOptions {
    let rpc = &settings.rpc;
    ServerOptions {
        max_message_bytes: bytes(rpc.max_message_size),
        max_calls: rpc.max_calls,
        max_calls_per_connection: rpc.max_calls_per_connection,
        max_connections: rpc.max_connections,
        drain_timeout: rpc.drain_timeout,
        ..ServerOptions::default()
    }
}

fn bytes(size: u64) -> usize {
    usize::try_from(size).unwrap_or(usize::MAX)
}

fn cluster_config(settings: &Settings) -> ClusterConfig {
    let cluster = &settings.cluster;
    let roles: Vec<&str> = [Role::Director, Role::Worker]
        .into_iter()
        .filter(|role| settings.roles.contains(role))
        .map(Role::as_str)
        .collect();
    let mut config = ClusterConfig::default()
        .with_bind_addr(cluster.bind_addr)
        .with_seeds(&cluster.seeds)
        .with_tag(ROLE_TAG, roles.join(","))
        .with_tag(LABEL_TAG, &cluster.label)
        // Until the first look says otherwise.
        .with_tag(READY_TAG, "false");
    config.advertise_addr = cluster.advertise_addr;
    let told = [
        (
            RPC_TAG,
            settings
                .rpc
                .advertise_addr
                .map(|address| address.to_string()),
        ),
        (REGION_TAG, settings.network.region.clone()),
        (ZONE_TAG, cluster.zone.clone()),
    ];
    for (tag, value) in told {
        if let Some(value) = value {
            config = config.with_tag(tag, value);
        }
    }
    config
}

/// A worker's commands come first; what they do not have, a director passes on.
fn set_fallback(
    server: &Server,
    cluster: &Cluster,
    settings: &Settings,
    ground: &Parts<'_>,
) -> anyhow::Result<()> {
    let commands = Commands::new(commands(settings));
    let is = |role| settings.roles.contains(&role);
    match (is(Role::Worker), is(Role::Director)) {
        (true, true) => server.set_fallback(commands.or(director(cluster, settings, ground)?)),
        (true, false) => server.set_fallback(commands),
        (false, _) => server.set_fallback(director(cluster, settings, ground)?),
    }
    Ok(())
}

fn commands(settings: &Settings) -> Vec<CommandOptions> {
    let max_output_bytes = bytes(settings.rpc.max_message_size);
    let command = |command: &warren_config::WorkerCommand| {
        let (program, arguments) = command.run.split_first()?;
        Some(CommandOptions {
            method: command.method.clone(),
            program: PathBuf::from(program),
            arguments: arguments.to_vec(),
            timeout: command.timeout,
            max_running: command.max_running,
            max_output_bytes,
        })
    };
    settings
        .rpc
        .worker_commands
        .iter()
        .filter_map(command)
        .collect()
}

fn director(
    cluster: &Cluster,
    settings: &Settings,
    ground: &Parts<'_>,
) -> anyhow::Result<Director> {
    let options = ClientOptions {
        max_message_bytes: bytes(settings.rpc.max_message_size),
        ..ClientOptions::default()
    };
    let client = Client::new(ground.trust.clone(), options)?;
    let (sender, targets) = watch::channel(Vec::new());
    let region = settings.network.region.clone();
    let remote = settings
        .cluster
        .remote_directors
        .iter()
        .map(|directors| RemoteDirectors {
            region: directors.region.clone(),
            addresses: directors
                .addresses
                .iter()
                .map(ToString::to_string)
                .collect(),
        })
        .collect();
    let options = DirectorOptions {
        here: Place {
            region: region.clone(),
            zone: settings.cluster.zone.clone(),
        },
        ..DirectorOptions::default()
    };
    let (cluster, shutdown) = (cluster.clone(), ground.shutdown.clone());
    ground.tasks.spawn(async move {
        shutdown
            .run_until_cancelled(keep_targets(&cluster, region, remote, sender))
            .await;
    });
    Ok(Director::new(client, targets, options))
}

fn probe(
    settings: &Settings,
    cluster: &Cluster,
    ground: &Parts<'_>,
    draining: watch::Receiver<bool>,
) -> Probe {
    let rule = match settings.roles.contains(&Role::Worker) {
        true => ReadyRule::TakesCalls,
        false => ReadyRule::HasWorkers,
    };
    let cluster = cluster.clone();
    let counts = move || Counts {
        workers_available: cluster.registry().healthy_count,
        cluster_size: cluster.node_count(),
    };
    Probe::new(ground.health.clone(), rule, counts, draining)
}

/// Tells the cluster and the node's own readiness what the probe says.
async fn follow_readiness(
    probe: Probe,
    cluster: Cluster,
    component: ComponentHealth,
    mut draining: watch::Receiver<bool>,
    shutdown: CancellationToken,
) {
    let mut snapshots = cluster.watch();
    let mut tick = tokio::time::interval(LOOK_INTERVAL);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        if *draining.borrow_and_update() {
            // The server says so to the cluster itself.
            component.failing("calls are drained: the node stops");
            return;
        }
        let state = probe.is_ready();
        match state.ready {
            true => component.ok(),
            false if state.workers_available == 0 => {
                component
                    .failing("no worker takes calls: start one with this node among its seeds");
            }
            false => component.failing("a part that calls need does not work"),
        }
        // Directors without workers are there all the same; who leaves has no tags to set.
        let _ = cluster.set_tag(READY_TAG, if state.ready { "true" } else { "false" });
        tokio::select! {
            _ = tick.tick() => {}
            changed = snapshots.changed() => if changed.is_err() { return },
            _ = draining.changed() => {}
            () = shutdown.cancelled() => return,
        }
    }
}
