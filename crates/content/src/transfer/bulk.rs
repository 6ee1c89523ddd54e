//! The bulk connection: TLS 1.3 over TCP to an announced `host:port`, mutual with the nodes' leaves.
//!
//! It carries the block protocol and nothing else (ALPN [`wire::ALPN`](crate::core::wire::ALPN)). The dialler names the
//! peer it wants, and a peer with another key never gets past the handshake.
//!
//! Socket buffers are left to the kernel: a fixed size switches its own tuning off, which does better than any constant.
//! `TCP_NODELAY` is on, because requests are small and answers are written in large pieces anyway.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use rustls::pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream, lookup_host};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use warren_identity::tls::{
    ExpectedPeer, TlsError, member_from_tls, node_client, node_server, refusal_of,
};
use warren_identity::{Member, PeerId, Trust, UnixTime};

use super::counted::{Counted, CounterOf};
use super::tls_stream::TlsStream;
use super::{
    BlockServer, ConnectError, FarEnd, Link, Membership, MembershipEnded, TransferMetrics,
};
use crate::core::wire::ALPN;

/// A handshake that takes longer is given up, on either side.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);
/// An address that does not take a connection within this is passed over.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Handshakes under way at one listener; more wait in the kernel's queue.
const MAX_HANDSHAKES: usize = 32;
/// Wait after an error that is this machine's own (no file descriptors left) before accepting again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// A member at the far end of a live connection, watched through [`Trust`].
struct LiveMember {
    trust: Trust,
    member: Member,
}

impl Membership for LiveMember {
    fn check(&self) -> Result<(), MembershipEnded> {
        self.trust
            .recheck(&self.member, UnixTime::now())
            .map_err(|refusal| MembershipEnded {
                reason: refusal.to_string(),
            })
    }
}

/// Makes the far end of a connection whose other side has proven to be `member`.
#[must_use]
pub fn far_end(trust: &Trust, member: Member) -> FarEnd {
    let peer = member.peer_id;
    FarEnd {
        peer,
        membership: Arc::new(LiveMember {
            trust: trust.clone(),
            member,
        }),
    }
}

/// Why the bulk port cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be listened on.
    #[error(
        "cannot listen on {address} for bulk transfers: {source}; free the port or change network.transfer.listen_address"
    )]
    Listen {
        /// Address asked for.
        address: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The TLS configuration cannot be built.
    #[error(transparent)]
    Tls(#[from] TlsError),
}

/// The listening side.
pub struct BulkListener {
    listener: TcpListener,
    address: SocketAddr,
    config: Arc<ServerConfig>,
    trust: Trust,
    server: BlockServer,
    metrics: TransferMetrics,
    counters: Option<Arc<CounterOf>>,
    handshakes: Arc<Semaphore>,
}

impl BulkListener {
    /// Listens on `address`; nothing is accepted before [`Self::run`].
    ///
    /// # Errors
    /// [`BindError`].
    pub async fn bind(
        address: SocketAddr,
        trust: &Trust,
        server: BlockServer,
        metrics: TransferMetrics,
    ) -> Result<Self, BindError> {
        let config = Arc::new(node_server(trust, &[ALPN])?);
        let failed = |source| BindError::Listen { address, source };
        let listener = TcpListener::bind(address).await.map_err(failed)?;
        let address = listener.local_addr().map_err(failed)?;
        let handshakes = Arc::new(Semaphore::new(MAX_HANDSHAKES));
        Ok(Self {
            listener,
            address,
            config,
            trust: trust.clone(),
            server,
            metrics,
            counters: None,
            handshakes,
        })
    }

    /// Has the bytes exchanged with each peer counted.
    #[must_use]
    pub fn counted_by(self, counters: Arc<CounterOf>) -> Self {
        Self {
            counters: Some(counters),
            ..self
        }
    }

    /// Where it listens, the port filled in.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Accepts and serves until `stop`; then closes all connections and returns.
    pub async fn run(self, stop: CancellationToken) {
        let listener = Arc::new(self);
        let mut connections = JoinSet::new();
        info!(address = %listener.address, "bulk transfers are served");
        loop {
            let permit = tokio::select! {
                permit = Arc::clone(&listener.handshakes).acquire_owned() => permit,
                () = stop.cancelled() => break,
            };
            // The semaphore is never closed.
            let Ok(permit) = permit else { break };
            let accepted = tokio::select! {
                accepted = listener.listener.accept() => accepted,
                () = stop.cancelled() => break,
                // Takes finished connections out of the set.
                Some(_) = connections.join_next(), if !connections.is_empty() => continue,
            };
            match accepted {
                Ok((socket, remote)) => {
                    let listener = Arc::clone(&listener);
                    connections.spawn(async move {
                        let handshake =
                            timeout(HANDSHAKE_TIMEOUT, listener.handshake(socket)).await;
                        drop(permit);
                        match handshake {
                            Ok(Ok((stream, member))) => {
                                debug!(peer = %member.peer_id, %remote, "bulk connection accepted");
                                let stream = Counted::new(
                                    stream,
                                    member.peer_id,
                                    listener.counters.as_ref(),
                                );
                                listener
                                    .server
                                    .serve(stream, far_end(&listener.trust, member))
                                    .await;
                            }
                            Ok(Err(error)) => listener.refuse(remote, &error),
                            Err(_) => listener.refuse(remote, &HandshakeError::TimedOut),
                        }
                    });
                }
                Err(error) => {
                    warn!(%error, "cannot accept bulk connections for the moment");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        connections.shutdown().await;
    }

    async fn handshake(
        &self,
        socket: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Member), HandshakeError> {
        socket.set_nodelay(true)?;
        let stream = TlsStream::accept(socket, Arc::clone(&self.config)).await?;
        let member = check(&self.trust, &stream)?;
        Ok((stream, member))
    }

    fn refuse(&self, remote: SocketAddr, error: &HandshakeError) {
        self.metrics.handshake_refused(error.label());
        warn!(%remote, %error, "bulk connection refused");
    }
}

/// Dials bulk ports. Cheap to clone.
#[derive(Clone)]
pub struct BulkDialer {
    trust: Trust,
    counters: Option<Arc<CounterOf>>,
}

impl BulkDialer {
    /// A dialler that proves itself with `trust`'s leaf.
    #[must_use]
    pub fn new(trust: Trust) -> Self {
        Self {
            trust,
            counters: None,
        }
    }

    /// Has the bytes exchanged with each peer counted.
    #[must_use]
    pub fn counted_by(self, counters: Arc<CounterOf>) -> Self {
        Self {
            counters: Some(counters),
            ..self
        }
    }

    /// Connects to `peer` at the first of `addresses` (`host:port`) where it is found. Cancel safe.
    ///
    /// # Errors
    /// [`ConnectError::Refused`] when somebody answered who is not the peer or no member,
    /// [`ConnectError::Unreachable`] when nobody answered; either names what was tried.
    pub async fn dial(&self, peer: PeerId, addresses: &[String]) -> Result<Link, ConnectError> {
        let mut tried = Vec::new();
        let mut refused = None;
        for address in addresses {
            match self.dial_one(peer, address).await {
                Ok(link) => return Ok(link),
                Err(error) => {
                    tried.push(format!("{address}: {error}"));
                    if let HandshakeError::Refused(_) = error {
                        refused = Some(error.to_string());
                    }
                }
            }
        }
        match refused {
            Some(reason) => Err(ConnectError::Refused { peer, reason }),
            None if tried.is_empty() => Err(ConnectError::Unreachable {
                peer,
                reason: "it announces no bulk address".to_owned(),
            }),
            None => Err(ConnectError::Unreachable {
                peer,
                reason: tried.join(", "),
            }),
        }
    }

    async fn dial_one(&self, peer: PeerId, address: &str) -> Result<Link, HandshakeError> {
        let mut last = HandshakeError::Io(io::Error::new(
            io::ErrorKind::NotFound,
            "the name has no address",
        ));
        for socket_address in lookup_host(address).await? {
            let connected = timeout(CONNECT_TIMEOUT, TcpStream::connect(socket_address)).await;
            match connected
                .map_err(|_| HandshakeError::TimedOut)
                .and_then(|socket| Ok(socket?))
            {
                Ok(socket) => return self.open(peer, socket, socket_address).await,
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    async fn open(
        &self,
        peer: PeerId,
        socket: TcpStream,
        address: SocketAddr,
    ) -> Result<Link, HandshakeError> {
        socket.set_nodelay(true)?;
        let config = node_client(&self.trust, ExpectedPeer::Peer(peer), &[ALPN])?;
        let name = ServerName::IpAddress(address.ip().into());
        let opening = TlsStream::connect(socket, Arc::new(config), name);
        let stream = timeout(HANDSHAKE_TIMEOUT, opening)
            .await
            .map_err(|_| HandshakeError::TimedOut)??;
        let member = check(&self.trust, &stream)?;
        Ok(Link {
            stream: Box::new(Counted::new(stream, member.peer_id, self.counters.as_ref())),
            far_end: far_end(&self.trust, member),
        })
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
enum HandshakeError {
    #[error("{0}")]
    Refused(Box<warren_identity::Refusal>),
    #[error("the peer does not speak warren-blocks/1")]
    Protocol,
    #[error("TLS failed: {0}")]
    Tls(Box<rustls::Error>),
    #[error(transparent)]
    Configuration(#[from] TlsError),
    #[error("it took too long")]
    TimedOut,
    #[error("{0}")]
    Io(io::Error),
}

impl HandshakeError {
    fn label(&self) -> &'static str {
        match self {
            Self::Refused(refusal) => refusal.label(),
            Self::Protocol => "protocol",
            Self::Tls(_) => "tls",
            Self::Configuration(_) => "configuration",
            Self::TimedOut => "timed_out",
            Self::Io(_) => "io",
        }
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        let Some(tls) = error
            .get_ref()
            .and_then(|inner| inner.downcast_ref::<rustls::Error>())
        else {
            return Self::Io(error);
        };
        match refusal_of(tls) {
            Some(refusal) => Self::Refused(Box::new(refusal.clone())),
            None => Self::Tls(Box::new(tls.clone())),
        }
    }
}

/// The handshake is done: who is it, and does it speak our protocol?
fn check<IO>(trust: &Trust, stream: &TlsStream<IO>) -> Result<Member, HandshakeError>
where
    IO: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    if stream.alpn() != Some(ALPN) {
        return Err(HandshakeError::Protocol);
    }
    member_from_tls(trust, Some(stream.peer_certificates()), UnixTime::now())
        .map_err(|refusal| HandshakeError::Refused(Box::new(refusal)))
}
