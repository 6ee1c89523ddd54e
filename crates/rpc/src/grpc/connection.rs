//! One gRPC connection: who is there, its calls, its end.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hyper::server::conn::http2::Builder;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use warren_identity::tls::refusal_of;
use warren_identity::{Member, UnixTime};

use super::{ALPN, call};
use crate::observe::{Refused, RpcMetrics};
use crate::server::session::Session;
use crate::server::{Phase, Shared};
use crate::service::Router;

/// What every HTTP/2 client says first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// How long a client may take for the TLS handshake and for the preface, each.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a client is asked whether it is still there, and how long it may take to say so.
const KEEP_ALIVE: Duration = Duration::from_secs(10);
/// How often a standing connection's certificate is looked at again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);
/// What one call may have in flight unread, in bytes.
const STREAM_WINDOW_BYTES: u32 = 1024 * 1024;
/// What one connection may have in flight unread, in bytes: bounds the memory that a client can take.
const CONNECTION_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What waits to be written, for each call, in bytes.
const SEND_BUFFER_BYTES: usize = 256 * 1024;
/// The most that a call's headers take, in bytes: metadata twice over.
const MAX_HEADER_BYTES: u32 = 16 * 1024;

/// What the calls of one connection share.
pub(super) struct Peer {
    pub(super) session: Arc<Session>,
    /// Services beside the registered ones.
    pub(super) own: Arc<Router>,
}

/// Why a connection was let go before its first call.
#[derive(Debug, thiserror::Error)]
enum OpeningError {
    #[error("it did not finish its handshake in time")]
    TooSlow,
    #[error("{0}")]
    Tls(std::io::Error),
    #[error("it did not agree on HTTP/2 (ALPN `h2`)")]
    NotHttp2,
    #[error(transparent)]
    Refused(warren_identity::Refusal),
}

/// Serves one connection to its end.
pub(super) async fn serve(
    shared: Arc<Shared>,
    tls: TlsAcceptor,
    own: Arc<Router>,
    socket: TcpStream,
    source: SocketAddr,
) {
    match open(&shared, &tls, socket).await {
        Ok((stream, member)) => {
            let session = Session::new(shared, member);
            converse(Arc::new(Peer { session, own }), stream).await;
        }
        Err(error) => {
            shared.refused(error.reason());
            tracing::info!(%source, %error, "refused a gRPC connection");
        }
    }
}

impl OpeningError {
    const fn reason(&self) -> Refused {
        match self {
            Self::TooSlow | Self::Tls(_) => Refused::Handshake,
            Self::NotHttp2 => Refused::Protocol,
            Self::Refused(_) => Refused::NotMember,
        }
    }
}

/// Makes the handshakes: TLS, then the preface, for which the library has no time-out.
async fn open(
    shared: &Shared,
    tls: &TlsAcceptor,
    socket: TcpStream,
) -> Result<(impl AsyncRead + AsyncWrite + Unpin + Send + 'static, Member), OpeningError> {
    // Answers are small and whole: waiting to fill a segment only delays them. A socket without the option works too.
    let _ = socket.set_nodelay(true);
    let mut stream = tokio::time::timeout(HANDSHAKE_TIMEOUT, tls.accept(socket))
        .await
        .map_err(|_| OpeningError::TooSlow)?
        .map_err(handshake_error)?;
    let session = stream.get_ref().1;
    if session.alpn_protocol() != Some(ALPN) {
        return Err(OpeningError::NotHttp2);
    }
    let chain = session.peer_certificates().unwrap_or_default();
    let member = shared
        .trust
        .verify_with_companion(chain, UnixTime::now())
        .map_err(OpeningError::Refused)?;
    let mut preface = [0; PREFACE.len()];
    tokio::time::timeout(HANDSHAKE_TIMEOUT, stream.read_exact(&mut preface))
        .await
        .map_err(|_| OpeningError::TooSlow)?
        .map_err(OpeningError::Tls)?;
    if preface != PREFACE {
        return Err(OpeningError::NotHttp2);
    }
    let (read, write) = tokio::io::split(stream);
    // hyper wants to read the preface itself.
    Ok((tokio::io::join(PREFACE.chain(read), write), member))
}

/// The reason for which a certificate was refused, where it was that.
fn handshake_error(error: std::io::Error) -> OpeningError {
    let refusal = error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        .and_then(refusal_of)
        .cloned();
    refusal.map_or(OpeningError::Tls(error), OpeningError::Refused)
}

async fn converse(peer: Arc<Peer>, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
    let session = Arc::clone(&peer.session);
    let _counted = session.shared.metrics.as_ref().map(RpcMetrics::connected);
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_header_list_size(MAX_HEADER_BYTES)
        .max_concurrent_streams(session.shared.options.max_calls_per_connection);
    let service = service_fn(|request| call::answer(Arc::clone(&peer), request));
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::pin!(connection);
    let mut phase = session.shared.phase.subscribe();
    let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
    let mut said_farewell = false;
    loop {
        // Only what matters from here on: a server that drains says so once.
        let next = if said_farewell {
            Phase::Stopped
        } else {
            Phase::Draining
        };
        let is_due = |phase: &Phase| *phase == next || *phase == Phase::Stopped;
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(peer = %session.member.peer_id, %error, "a gRPC connection ended");
                }
                return;
            }
            reached = phase.wait_for(is_due) => match reached.as_deref() {
                Ok(Phase::Draining) => {
                    connection.as_mut().graceful_shutdown();
                    said_farewell = true;
                }
                _ => return,
            },
            _ = recheck.tick() => {
                if let Err(refusal) = session.shared.trust.recheck(&session.member, UnixTime::now()) {
                    tracing::info!(peer = %session.member.peer_id, %refusal, "closed a gRPC connection");
                    return;
                }
            }
        }
    }
}
