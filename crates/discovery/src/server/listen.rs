//! The accept loop: bounded connections, bounded waits, and an orderly end. A failed connection is its own affair.

use std::{
    collections::BTreeMap,
    io,
    net::{IpAddr, SocketAddr},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use axum::{Extension, Router};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto::Builder,
    service::TowerToHyperService,
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    sync::{OwnedSemaphorePermit, Semaphore},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use warren_identity::CertificateDer;

use super::{Limits, Shared};
use crate::core::rate::source_key;

/// Pause after `accept` failed, as it does when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// How long running requests may go on once the server stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(5);
/// Read buffer of one HTTP/1 connection, which bounds the request's head. A certificate chain in a header is 2 to 12 KiB.
const MAX_HEAD_BYTES: usize = 32 * 1024;

/// What is known of the connection a request came on.
#[derive(Debug, Clone)]
pub(crate) struct ConnectionInfo {
    pub(crate) source: SocketAddr,
    /// The certificates the client showed in TLS, whose key it proved to hold; not judged yet.
    pub(crate) chain: Option<Arc<Vec<CertificateDer<'static>>>>,
}

/// Connections by source.
#[derive(Default)]
struct Sources(Mutex<BTreeMap<IpAddr, usize>>);

/// A connection counted under its source, until dropped.
struct SourceSlot {
    sources: Arc<Sources>,
    source: IpAddr,
}

impl Sources {
    fn enter(self: &Arc<Self>, source: IpAddr, most: usize) -> Option<SourceSlot> {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let count = counts.entry(source).or_insert(0);
        if *count >= most {
            return None;
        }
        *count += 1;
        Some(SourceSlot {
            sources: Arc::clone(self),
            source,
        })
    }
}

impl Drop for SourceSlot {
    fn drop(&mut self) {
        let mut counts = self
            .sources
            .0
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = counts.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.source);
            }
        }
    }
}

/// Serves until `shutdown`, then lets running requests finish for five seconds.
pub(crate) async fn serve(
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
    router: Router,
    shared: Arc<Shared>,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(shared.limits.max_connections));
    let sources = Arc::new(Sources::default());
    let tracker = TaskTracker::new();
    let overdue = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        let (socket, source, slot) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!("cannot accept discovery connections: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let most = shared.limits.max_connections_per_source;
        let Some(source_slot) = sources.enter(source_key(source.ip()), most) else {
            shared.metrics.refused("too_many_of_source");
            continue;
        };
        let (tls, router, limits) = (tls.clone(), router.clone(), shared.limits);
        let (shared, shutdown, overdue) = (Arc::clone(&shared), shutdown.clone(), overdue.clone());
        tracker.spawn(async move {
            shared.metrics.connections.inc();
            let connection = handle(socket, source, tls, router, limits, shutdown);
            if let Some(Err(error)) = overdue.run_until_cancelled(connection).await {
                shared.metrics.refused(error.label());
                tracing::debug!(%source, "discovery connection ended: {error}");
            }
            shared.metrics.connections.dec();
            drop((slot, source_slot));
        });
    }
    tracker.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "ended discovery requests that were still running {} s after the stop",
            DRAIN_TIMEOUT.as_secs()
        );
        overdue.cancel();
        tracker.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, source) = listener.accept().await?;
    Ok((socket, source, slot))
}

/// Why a connection ended early.
#[derive(Debug, thiserror::Error)]
enum ConnectionError {
    #[error("no TLS handshake in time")]
    HandshakeTimeout,
    #[error("the TLS handshake failed: {0}")]
    Handshake(io::Error),
    #[error("{0}")]
    Http(Box<dyn std::error::Error + Send + Sync>),
}

impl ConnectionError {
    fn label(&self) -> &'static str {
        match self {
            Self::HandshakeTimeout => "handshake_timeout",
            Self::Handshake(_) => "handshake_failed",
            Self::Http(_) => "http",
        }
    }
}

async fn handle(
    socket: TcpStream,
    source: SocketAddr,
    tls: Option<TlsAcceptor>,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    // Answers are small and whole: waiting to fill a segment only delays them. A socket without the option works too.
    let _ = socket.set_nodelay(true);
    let Some(acceptor) = tls else {
        let info = ConnectionInfo {
            source,
            chain: None,
        };
        return exchange(socket, info, router, limits, shutdown).await;
    };
    let stream = tokio::time::timeout(limits.head_timeout, acceptor.accept(socket))
        .await
        .map_err(|_| ConnectionError::HandshakeTimeout)?
        .map_err(ConnectionError::Handshake)?;
    let chain = stream
        .get_ref()
        .1
        .peer_certificates()
        .map(|chain| Arc::new(chain.iter().map(|der| der.clone().into_owned()).collect()));
    exchange(
        stream,
        ConnectionInfo { source, chain },
        router,
        limits,
        shutdown,
    )
    .await
}

async fn exchange<I: AsyncRead + AsyncWrite + Unpin + Send + 'static>(
    io: I,
    info: ConnectionInfo,
    router: Router,
    limits: Limits,
    shutdown: CancellationToken,
) -> Result<(), ConnectionError> {
    // HTTP/1.1 only: neither telling versions apart nor the preface of HTTP/2 has a time-out in the library.
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.head_timeout)
        .max_buf_size(MAX_HEAD_BYTES);
    let service = TowerToHyperService::new(router.layer(Extension(info)));
    let connection = builder.serve_connection(TokioIo::new(io), service);
    tokio::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
        // Ends also a client that never reads its answers; an honest one connects again.
        () = tokio::time::sleep(limits.connection_lifetime) => {
            connection.as_mut().graceful_shutdown();
            tokio::time::timeout(limits.request_timeout, connection).await.unwrap_or(Ok(()))
        }
    };
    outcome.map_err(ConnectionError::Http)
}
