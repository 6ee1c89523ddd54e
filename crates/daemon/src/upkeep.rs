//! What a node does by itself from time to time: garbage, retention, traffic samples, looking after its health.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_api::traffic_log::SAMPLE_INTERVAL;
use warren_api::{ApiState, Control, Held, total_traffic};
use warren_config::{BootstrapMode, Settings};
use warren_content::Store;
use warren_content::retrieve::Retriever;
use warren_content::store::Usage;
use warren_mesh::{Mesh, MeshEvent};
use warren_telemetry::ComponentHealth;

/// How often the store is asked whether it still works.
const STORE_LOOK_INTERVAL: Duration = Duration::from_secs(5);

/// Documents that are here without their records are asked about again after this long, should nobody new come before.
const RECORD_INTERVAL: Duration = Duration::from_secs(600);
/// Many peers may come at once: they are asked together after this long.
const RECORD_PAUSE: Duration = Duration::from_secs(5);
/// Of these documents, how many are looked up at a time.
const RECORD_PAGE: usize = 64;

/// A store with less than this share of its limit left is said to be nearly full.
const FREE_PERCENT: u64 = 5;

/// Starts the recurring work.
pub(crate) fn spawn(
    state: &ApiState,
    control: Arc<dyn Control>,
    settings: watch::Receiver<Arc<Settings>>,
    tasks: &TaskTracker,
    shutdown: &CancellationToken,
) {
    tasks.spawn(collect(
        state.store.clone(),
        control,
        settings,
        shutdown.clone(),
    ));
    tasks.spawn(complete_records(
        state.retriever.clone(),
        state.mesh.clone(),
        shutdown.clone(),
    ));
    let (state, shutdown) = (state.clone(), shutdown.clone());
    tasks.spawn(async move {
        while shutdown
            .run_until_cancelled(tokio::time::sleep(SAMPLE_INTERVAL))
            .await
            .is_some()
        {
            state.traffic.record(total_traffic(&state), Instant::now());
        }
    });
}

/// Drops what has outlived its retention and gives back the space of what nothing needs.
async fn collect(
    store: Store,
    control: Arc<dyn Control>,
    mut settings: watch::Receiver<Arc<Settings>>,
    shutdown: CancellationToken,
) {
    loop {
        let interval = settings.borrow_and_update().storage.gc.interval;
        tokio::select! {
            () = shutdown.cancelled() => return,
            // A new interval begins now.
            Ok(()) = settings.changed() => continue,
            () = tokio::time::sleep(interval) => {}
        }
        match store.expire(SystemTime::now().into()).await {
            Ok(expired) => {
                for document in expired {
                    tracing::info!(%document, "its retention has ended: dropped");
                    control.announce(document, Held::Gone);
                }
            }
            Err(error) => {
                tracing::warn!("documents whose retention has ended were not dropped: {error}");
            }
        }
        match store.gc(SystemTime::now().into()).await {
            Ok(report) if report.blocks > 0 => tracing::info!(
                blocks = report.blocks,
                bytes = report.bytes,
                "gave back unused space"
            ),
            Ok(_) => {}
            Err(error) => tracing::warn!("unused space was not given back: {error}"),
        }
    }
}

/// Asks for the records of documents that are here without: now and then, and when a peer has come that may have them.
async fn complete_records(retriever: Retriever, mesh: Mesh, shutdown: CancellationToken) {
    let mut events = mesh.subscribe();
    let due = async {
        loop {
            let somebody_came = async {
                loop {
                    match events.recv().await {
                        Ok(MeshEvent::PeerConnected { .. })
                        | Err(broadcast::error::RecvError::Lagged(_)) => return,
                        Ok(_) => {}
                        Err(broadcast::error::RecvError::Closed) => std::future::pending().await,
                    }
                }
            };
            // Nobody else came is as good a reason as any: records are put later than documents, too.
            let _ = tokio::time::timeout(RECORD_INTERVAL, somebody_came).await;
            tokio::time::sleep(RECORD_PAUSE).await;
            let mut after = None;
            loop {
                match retriever.complete_records(after, RECORD_PAGE).await {
                    Ok(None) => break,
                    Ok(next) => after = next,
                    Err(error) => {
                        tracing::warn!("documents without a record stay so: {error}");
                        break;
                    }
                }
            }
        }
    };
    shutdown.run_until_cancelled(due).await;
}

/// Says in the health report whether the store works.
pub(crate) async fn watch_store(
    store: Store,
    path: PathBuf,
    health: ComponentHealth,
    shutdown: CancellationToken,
) {
    loop {
        let (store, path) = (store.clone(), path.clone());
        let looked = tokio::task::spawn_blocking(move || {
            if store.is_read_only() {
                return Err(
                    "it can only be read: make storage.path writable and restart".to_owned(),
                );
            }
            std::fs::metadata(&path)
                .map_err(|error| format!("{} is gone: {error}", path.display()))?;
            store.usage().map_err(|error| error.to_string())
        });
        match looked.await {
            Ok(Ok(usage)) => match nearly_full(&usage) {
                Some(reason) => health.degraded(reason),
                None => health.ok(),
            },
            Ok(Err(reason)) => health.failing(reason),
            Err(_) => health.failing("looking at the store broke off"),
        }
        if shutdown
            .run_until_cancelled(tokio::time::sleep(STORE_LOOK_INTERVAL))
            .await
            .is_none()
        {
            return;
        }
    }
}

/// What is to be said of a store that is at its limit or nearly so: what comes is refused, what is there stays.
fn nearly_full(usage: &Usage) -> Option<String> {
    let max_bytes = usage.max_bytes?;
    let free = max_bytes.saturating_sub(usage.stored_bytes);
    (free < max_bytes / 100 * FREE_PERCENT).then(|| {
        format!(
            "{free} of {max_bytes} bytes are free, and what does not fit is refused: `warren store gc`, remove documents, or raise storage.max_size"
        )
    })
}

/// Says in the health report whether the node has joined. Only one that must join others waits for a peer; any that had
/// peers and has lost them all says so.
pub(crate) async fn watch_peers(
    mesh: Mesh,
    mode: BootstrapMode,
    health: ComponentHealth,
    shutdown: CancellationToken,
) {
    const TRIED: &str = "bootstrap peers and discovery servers are tried again and again";
    let must_join = mode == BootstrapMode::Client;
    let mut had_peers = false;
    let mut events = mesh.subscribe();
    loop {
        let has_peers = !mesh.peers().await.is_empty();
        had_peers |= has_peers;
        match (has_peers, had_peers, must_join) {
            (true, ..) | (false, false, false) => health.ok(),
            (false, false, true) => health.waiting(format!("no peer is connected yet: {TRIED}")),
            (false, true, true) => {
                health.failing(format!("no peer is connected any more: {TRIED}"));
            }
            (false, true, false) => {
                health.degraded(format!("no peer is connected any more: {TRIED}"));
            }
        }
        loop {
            match shutdown.run_until_cancelled(events.recv()).await {
                None | Some(Err(broadcast::error::RecvError::Closed)) => return,
                Some(
                    Ok(MeshEvent::PeerConnected { .. } | MeshEvent::PeerDisconnected { .. })
                    | Err(broadcast::error::RecvError::Lagged(_)),
                ) => break,
                Some(Ok(_)) => {}
            }
        }
    }
}
