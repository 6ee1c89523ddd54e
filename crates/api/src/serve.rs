//! The accept loop: bounded connections, bounded waits, TLS where the listener has it, and an orderly end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use rustls::pki_types::CertificateDer;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::guard::ClientIdentity;

/// Connections served at once; the next one waits in the kernel's queue.
const MAX_CONNECTIONS: usize = 512;
/// A client that has not sent its request's head, or not finished its handshake, by then is let go. So only HTTP/1.1 is
/// spoken: neither telling versions apart nor the preface of HTTP/2 has a time-out in the library.
const HEAD_TIMEOUT: Duration = Duration::from_secs(15);
/// How long running requests may go on once the node stops.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(10);
/// Pause after `accept` failed, as it does when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Judges the certificate chain that a TLS client presented; the listener has not checked it.
pub type JudgeClient = dyn Fn(&[CertificateDer<'_>]) -> ClientIdentity + Send + Sync;

/// TLS of a listener.
#[derive(Clone)]
pub struct ListenerTls {
    /// Makes the handshakes.
    pub acceptor: TlsAcceptor,
    /// Decides what a client's certificate is worth.
    pub judge: Arc<JudgeClient>,
}

/// Serves `router` on `listener` until `shutdown`, then lets running requests finish within ten seconds.
///
/// Each request carries its [`ClientIdentity`] and the client's address as extensions. A failed connection is its own
/// affair and never ends the loop.
pub async fn serve(
    listener: TcpListener,
    tls: Option<ListenerTls>,
    router: Router,
    shutdown: CancellationToken,
) {
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let tracker = TaskTracker::new();
    let overdue = CancellationToken::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => break,
            accepted = accept(&listener, &slots) => accepted,
        };
        match accepted {
            Ok((socket, address, slot)) => {
                let connection = handle(
                    socket,
                    address,
                    tls.clone(),
                    router.clone(),
                    shutdown.clone(),
                );
                let overdue = overdue.clone();
                tracker.spawn(async move {
                    if let Some(Err(error)) = overdue.run_until_cancelled(connection).await {
                        tracing::debug!(%address, "API connection ended: {error}");
                    }
                    drop(slot);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept API connections: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    tracker.close();
    if tokio::time::timeout(DRAIN_TIMEOUT, tracker.wait())
        .await
        .is_err()
    {
        tracing::warn!(
            "ended API requests that were still running {} s after the stop",
            DRAIN_TIMEOUT.as_secs()
        );
        overdue.cancel();
        tracker.wait().await;
    }
}

async fn accept(
    listener: &TcpListener,
    slots: &Arc<Semaphore>,
) -> io::Result<(TcpStream, SocketAddr, tokio::sync::OwnedSemaphorePermit)> {
    let slot = Arc::clone(slots)
        .acquire_owned()
        .await
        .map_err(io::Error::other)?;
    let (socket, address) = listener.accept().await?;
    socket.set_nodelay(true)?;
    Ok((socket, address, slot))
}

async fn handle(
    socket: TcpStream,
    address: SocketAddr,
    tls: Option<ListenerTls>,
    router: Router,
    shutdown: CancellationToken,
) -> io::Result<()> {
    let Some(tls) = tls else {
        return converse(socket, router, address, ClientIdentity::Anonymous, shutdown).await;
    };
    let stream = tokio::time::timeout(HEAD_TIMEOUT, tls.acceptor.accept(socket))
        .await
        .map_err(|_| {
            io::Error::new(io::ErrorKind::TimedOut, "the TLS handshake took too long")
        })??;
    let identity = match stream.get_ref().1.peer_certificates() {
        Some(chain) => (tls.judge)(chain),
        None => ClientIdentity::Anonymous,
    };
    converse(stream, router, address, identity, shutdown).await
}

async fn converse<S>(
    stream: S,
    router: Router,
    address: SocketAddr,
    identity: ClientIdentity,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let router = router
        .layer(axum::Extension(identity))
        .layer(axum::Extension(axum::extract::ConnectInfo(address)));
    let mut builder = Builder::new(TokioExecutor::new()).http1_only();
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT);
    let connection =
        builder.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    tokio::pin!(connection);
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended.map_err(io::Error::other)
}
