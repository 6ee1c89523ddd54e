//! The sockets of a node, and who gets in: what all link tasks share.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use quinn::{Endpoint, Incoming, TokioRuntime};
use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use warren_identity::tls::refusal_of;
use warren_identity::{CertificateDer, Refusal, Trust, UnixTime};

use crate::core::gate::{Gate, Source};
use crate::driver::Input;
use crate::link::{Proven, REFUSED, canonical, run_quic, run_tcp};
use crate::metrics::{ClusterMetrics, Reason};
use crate::tls::{ALPN, LinkConfigError, endpoint, quic_server, tcp_server};

/// How long a handshake may take.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// Handshakes of strangers at once; one more is refused.
const MOST_HANDSHAKES: usize = 256;
/// From so many on, a caller over UDP has to show first that it receives at its address (RFC 9000, section 8.1.2).
const BUSY: usize = 64;
/// A TCP connection whose data is not acknowledged for so long is broken.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(4);
/// Ports tried when any free one will do, until one is free for UDP and TCP.
const PORT_ATTEMPTS: usize = 32;
/// The pause after the system refused to accept: out of files, say.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What all tasks of one node share.
pub(crate) struct Shell {
    pub(crate) trust: Trust,
    pub(crate) endpoint: Endpoint,
    pub(crate) metrics: ClusterMetrics,
    pub(crate) inputs: mpsc::Sender<Input>,
    pub(crate) next_link: AtomicU64,
    pub(crate) stop: CancellationToken,
    pub(crate) tasks: TaskTracker,
    gate: Mutex<Gate>,
    handshakes: Arc<Semaphore>,
}

/// The sockets, both on one port.
pub(crate) struct Sockets {
    udp: UdpSocket,
    tcp: std::net::TcpListener,
    pub(crate) address: SocketAddr,
}

impl Sockets {
    /// Takes the address for UDP and TCP; with port 0, a port that is free for both.
    pub(crate) fn bind(address: SocketAddr) -> io::Result<Self> {
        let attempts = if address.port() == 0 {
            PORT_ATTEMPTS
        } else {
            1
        };
        let mut last = Err(io::ErrorKind::AddrInUse.into());
        for _ in 0..attempts {
            last = Self::bind_once(address);
            match &last {
                Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
                _ => break,
            }
        }
        last
    }

    fn bind_once(address: SocketAddr) -> io::Result<Self> {
        let udp = Socket::new(
            Domain::for_address(address),
            Type::DGRAM,
            Some(Protocol::UDP),
        )?;
        open_to_both(&udp, address)?;
        udp.bind(&address.into())?;
        let udp = UdpSocket::from(udp);
        let address = udp.local_addr()?;
        let tcp = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        open_to_both(&tcp, address)?;
        // A node that starts again does not wait for what its connections left in the kernel.
        tcp.set_reuse_address(true)?;
        tcp.set_nonblocking(true)?;
        tcp.bind(&address.into())?;
        tcp.listen(128)?;
        Ok(Self {
            udp,
            tcp: tcp.into(),
            address,
        })
    }
}

/// The unspecified IPv6 address takes IPv4 too, whatever the system's default.
fn open_to_both(socket: &Socket, address: SocketAddr) -> io::Result<()> {
    if address.ip() == IpAddr::from(Ipv6Addr::UNSPECIFIED) {
        socket.set_only_v6(false)?;
    }
    Ok(())
}

/// The address from which this machine would reach `towards`. Sends nothing.
pub(crate) fn outward_address(towards: Option<SocketAddr>, is_ipv6: bool) -> Option<IpAddr> {
    let anywhere: IpAddr = if is_ipv6 {
        Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1).into()
    } else {
        Ipv4Addr::new(192, 0, 2, 1).into()
    };
    let towards = towards.unwrap_or_else(|| (anywhere, 9).into());
    let local: IpAddr = if towards.is_ipv6() {
        Ipv6Addr::UNSPECIFIED.into()
    } else {
        Ipv4Addr::UNSPECIFIED.into()
    };
    let socket = UdpSocket::bind((local, 0)).ok()?;
    socket.connect(towards).ok()?;
    let address = socket.local_addr().ok()?.ip().to_canonical();
    (!address.is_unspecified()).then_some(address)
}

/// Why no sockets could be served.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ServeError {
    #[error(transparent)]
    Config(#[from] LinkConfigError),
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl Shell {
    /// Takes the sockets into service. The accepting tasks end with `stop`.
    pub(crate) fn serve(
        trust: Trust,
        sockets: Sockets,
        inputs: mpsc::Sender<Input>,
        metrics: impl FnOnce() -> ClusterMetrics,
    ) -> Result<Arc<Self>, ServeError> {
        let server = quic_server(&trust)?;
        let tls = TlsAcceptor::from(tcp_server(&trust)?);
        let runtime = Arc::new(TokioRuntime);
        let endpoint = Endpoint::new(endpoint(&trust), Some(server), sockets.udp, runtime)?;
        let listener = TcpListener::from_std(sockets.tcp)?;
        let shell = Arc::new(Self {
            trust,
            endpoint,
            // Nothing fails after this, so a second attempt does not register twice.
            metrics: metrics(),
            inputs,
            next_link: AtomicU64::new(0),
            stop: CancellationToken::new(),
            tasks: TaskTracker::new(),
            gate: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(MOST_HANDSHAKES)),
        });
        shell.spawn(accept_quic(Arc::clone(&shell)));
        shell.spawn(accept_tcp(Arc::clone(&shell), listener, tls));
        Ok(shell)
    }

    /// Runs a task until it ends or the node stops.
    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(task).await;
        });
    }

    fn admit(&self, address: IpAddr, source: Source) -> bool {
        let mut gate = self.gate.lock().unwrap_or_else(PoisonError::into_inner);
        gate.admit(address, source, Instant::now())
    }

    /// Who is at the other end, if it is a member and speaks our protocol.
    fn prove(
        &self,
        chain: Vec<CertificateDer<'static>>,
        alpn: Option<&[u8]>,
    ) -> Result<Proven, Reason> {
        if alpn != Some(ALPN) {
            return Err("alpn");
        }
        let member = self.trust.verify(&chain, UnixTime::now());
        let member = Arc::new(member.map_err(|refusal| refusal.label())?);
        Ok(Proven { member, chain })
    }

    /// Who is at the other end of a QUIC connection.
    pub(crate) fn prove_quic(&self, quic: &quinn::Connection) -> Result<Proven, Reason> {
        let data = quic.handshake_data();
        let data =
            data.and_then(|data| data.downcast::<quinn::crypto::rustls::HandshakeData>().ok());
        let alpn = data.and_then(|data| data.protocol);
        let identity = quic.peer_identity();
        let chain =
            identity.and_then(|chain| chain.downcast::<Vec<CertificateDer<'static>>>().ok());
        self.prove(
            chain.map(|chain| *chain).unwrap_or_default(),
            alpn.as_deref(),
        )
    }

    /// Who is at the other end of a TLS session.
    pub(crate) fn prove_tls(&self, session: &rustls::CommonState) -> Result<Proven, Reason> {
        let chain = session.peer_certificates().unwrap_or_default();
        let chain = chain.iter().map(|der| der.clone().into_owned()).collect();
        self.prove(chain, session.alpn_protocol())
    }
}

/// The reason for the metrics, of a TLS handshake that failed.
pub(crate) fn tls_reason(error: &io::Error) -> Reason {
    let inner = error.get_ref();
    let inner = inner.and_then(|inner| inner.downcast_ref::<rustls::Error>());
    inner
        .and_then(refusal_of)
        .map_or("handshake", Refusal::label)
}

async fn accept_quic(shell: Arc<Shell>) {
    while let Some(incoming) = shell.endpoint.accept().await {
        let address = incoming.remote_address().ip();
        let is_proven = incoming.remote_address_validated();
        let source = if is_proven {
            Source::Proven
        } else {
            Source::Claimed
        };
        let is_busy = shell.handshakes.available_permits() < MOST_HANDSHAKES - BUSY;
        let is_admitted = shell.admit(address, source);
        if !is_proven && (is_busy || !is_admitted) {
            // Costs no state. Cannot fail: the address is not validated.
            let _ = incoming.retry();
        } else if !is_admitted {
            shell.metrics.refused("rate");
            incoming.refuse();
        } else if let Ok(place) = Arc::clone(&shell.handshakes).try_acquire_owned() {
            let task = Arc::clone(&shell);
            shell.spawn(async move {
                let accepted = shake_quic(&task, incoming).await;
                drop(place);
                if let Some((quic, proven)) = accepted {
                    run_quic(task, quic, proven, None).await;
                }
            });
        } else {
            shell.metrics.refused("busy");
            incoming.refuse();
        }
    }
}

async fn shake_quic(shell: &Shell, incoming: Incoming) -> Option<(quinn::Connection, Proven)> {
    let remote = canonical(incoming.remote_address());
    let quic = match timeout(HANDSHAKE_TIMEOUT, incoming).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            shell.metrics.refused("handshake");
            tracing::debug!(%remote, %error, "refused a gossip link");
            return None;
        }
        Err(_) => {
            shell.metrics.refused("timeout");
            return None;
        }
    };
    match shell.prove_quic(&quic) {
        Ok(proven) => Some((quic, proven)),
        Err(reason) => {
            shell.metrics.refused(reason);
            quic.close(REFUSED, b"");
            None
        }
    }
}

async fn accept_tcp(shell: Arc<Shell>, listener: TcpListener, tls: TlsAcceptor) {
    loop {
        let (stream, remote) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                tracing::warn!(%error, "cannot accept gossip links over TCP");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if !shell.admit(remote.ip(), Source::Proven) {
            shell.metrics.refused("rate");
            continue;
        }
        let Ok(place) = Arc::clone(&shell.handshakes).try_acquire_owned() else {
            shell.metrics.refused("busy");
            continue;
        };
        prepare(&stream);
        let (task, tls) = (Arc::clone(&shell), tls.clone());
        shell.spawn(async move {
            let stream = match timeout(HANDSHAKE_TIMEOUT, tls.accept(stream)).await {
                Ok(Ok(stream)) => stream,
                Ok(Err(error)) => {
                    tracing::debug!(%remote, %error, "refused a gossip link");
                    return task.metrics.refused(tls_reason(&error));
                }
                Err(_) => return task.metrics.refused("timeout"),
            };
            drop(place);
            match task.prove_tls(stream.get_ref().1) {
                Ok(proven) => run_tcp(task, stream, remote, proven, None).await,
                Err(reason) => task.metrics.refused(reason),
            }
        });
    }
}

/// Small frames leave at once, and a dead path shows soon. What the system refuses costs only that.
pub(crate) fn prepare(stream: &TcpStream) {
    let socket = SockRef::from(stream);
    let _ = socket.set_tcp_nodelay(true);
    let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
    let _ = socket.set_tcp_keepalive(&keepalive);
    #[cfg(target_os = "linux")]
    let _ = socket.set_tcp_user_timeout(Some(TCP_USER_TIMEOUT));
}
