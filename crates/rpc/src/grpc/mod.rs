//! The registered services for stock gRPC clients: TCP, TLS, HTTP/2, the same handlers behind it.
//!
//! HTTP/2 is hyper's; gRPC's own part is five bytes before each message and a handful of headers, which
//! [`crate::core::grpc`] and `head.rs` read. A framework (tonic) would bring types, codecs and a router of its own around
//! those, and take them away again: here messages are bytes and the router is the server's. Messages are passed on as bytes, as on QUIC, so only services whose
//! messages are protobuf's can be called; a call of another is answered with [`Code::Unimplemented`](crate::Code). Clients
//! are members: they present their leaf, or its P-256 companion where their TLS refuses Ed25519. Limits on calls are
//! those of the whole server, whichever way a call comes.
//!
//! What every server has beside its services, outside of all limits: `grpc.health.v1.Health`, and
//! `grpc.reflection.v1.ServerReflection` (also under its old name, `v1alpha`).
//!
//! A [`Fallback`](crate::Fallback) is not asked: nobody could tell whether who answers in the end reads protobuf.
//!
//! Start reading at `connection.rs`, then `call.rs`.

mod call;
mod connection;
mod descriptors;
mod head;
mod health;
mod reflection;
mod requests;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use warren_identity::Trust;
use warren_identity::tls::{ClientCertificates, TlsError, https_server};

use self::descriptors::Descriptors;
pub use self::descriptors::DescriptorsError;
use self::health::HealthOfServer;
use self::reflection::Reflection;
use crate::observe::Refused;
use crate::server::{Phase, Server, Shared};
use crate::service::Router;

/// HTTP/2, the only protocol that is spoken.
const ALPN: &[u8] = b"h2";
/// Pause after `accept` failed, as it does when the process is out of file descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why gRPC clients cannot be served. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum GrpcError {
    /// TLS could not be set up: the node has no leaf.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}/tcp: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// What a server knows for its gRPC clients.
#[derive(Debug, Default)]
pub(crate) struct Grpc {
    descriptors: ArcSwap<Descriptors>,
    /// Told of every newly registered service.
    registered: watch::Sender<()>,
    listeners: Mutex<Listeners>,
}

#[derive(Debug, Default)]
struct Listeners {
    first: Option<SocketAddr>,
    /// Bound, and not accepted from yet.
    waiting: Vec<Listener>,
}

struct Listener {
    socket: TcpListener,
    tls: TlsAcceptor,
}

impl std::fmt::Debug for Listener {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Listener({:?})", self.socket.local_addr().ok())
    }
}

impl Grpc {
    pub(crate) fn registered(&self) {
        self.registered.send_replace(());
    }

    fn listeners(&self) -> std::sync::MutexGuard<'_, Listeners> {
        // Every change under this lock is whole before anything that could panic.
        self.listeners
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

impl Server {
    /// Serves the registered services to gRPC clients too, at once, until [`Server::stop_accepting`]; gives where. Needs
    /// a Tokio runtime. Only services whose codec is [`Prost`](crate::Prost) can be called.
    ///
    /// # Errors
    /// [`GrpcError`]; nothing is served there.
    pub fn serve_grpc(&self, address: SocketAddr) -> Result<SocketAddr, GrpcError> {
        let (listener, address) = bind(&self.0.trust, address)?;
        self.0.grpc.listeners().first.get_or_insert(address);
        self.accept_from(listener);
        Ok(address)
    }

    /// Where gRPC clients are served: the first of the addresses.
    #[must_use]
    pub fn grpc_address(&self) -> Option<SocketAddr> {
        self.0.grpc.listeners().first
    }

    /// Tells gRPC clients that ask by reflection what the services are: a serialised `FileDescriptorSet` with all
    /// imports, as `protox` and `protoc --include_imports` write it. Sets add up.
    ///
    /// # Errors
    /// [`DescriptorsError`]; nothing of the set is taken then.
    pub fn register_descriptors(&self, set: &[u8]) -> Result<(), DescriptorsError> {
        let mut outcome = Ok(());
        self.0.grpc.descriptors.rcu(|known| {
            let mut descriptors = Descriptors::clone(known);
            outcome = descriptors.add(set);
            match outcome {
                Ok(()) => Arc::new(descriptors),
                Err(_) => Arc::clone(known),
            }
        });
        outcome
    }

    /// Binds, and accepts once [`Server::run`] runs: services are registered by then.
    pub(crate) fn bind_grpc(&self, address: SocketAddr) -> Result<(), GrpcError> {
        let (listener, address) = bind(&self.0.trust, address)?;
        let mut listeners = self.0.grpc.listeners();
        listeners.first.get_or_insert(address);
        listeners.waiting.push(listener);
        Ok(())
    }

    /// Accepts from what is bound.
    pub(crate) fn run_grpc(&self) {
        let waiting = std::mem::take(&mut self.0.grpc.listeners().waiting);
        for listener in waiting {
            self.accept_from(listener);
        }
    }

    fn accept_from(&self, listener: Listener) {
        let server = Arc::downgrade(&self.0);
        let phase = self.0.phase.subscribe();
        let own = Arc::new(own_services(&self.0));
        self.0
            .connections
            .spawn(accept(listener, server, phase, own));
    }
}

fn bind(trust: &Trust, address: SocketAddr) -> Result<(Listener, SocketAddr), GrpcError> {
    let tls = https_server(trust, ClientCertificates::RequireMemberOrCompanion, &[ALPN])?;
    let listen = || {
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let bound = socket.local_addr()?;
        Ok((socket, bound))
    };
    let (socket, bound) = listen().map_err(|source| GrpcError::Bind { address, source })?;
    let tls = TlsAcceptor::from(Arc::new(tls));
    Ok((Listener { socket, tls }, bound))
}

/// Health and reflection.
fn own_services(server: &Arc<Shared>) -> Router {
    let mut router = Router::default();
    let health = HealthOfServer::new(Arc::downgrade(server));
    router.register(Arc::new(health::HealthServer::new(health)));
    let reflection = Reflection::new(Arc::downgrade(server));
    router.register(Arc::new(reflection::server(reflection.clone())));
    router.register(Arc::new(reflection::server_under_its_old_name(reflection)));
    router
}

/// Accepts until the server drains or is gone.
async fn accept(
    listener: Listener,
    server: Weak<Shared>,
    mut phase: watch::Receiver<Phase>,
    own: Arc<Router>,
) {
    loop {
        let accepted = tokio::select! {
            accepted = listener.socket.accept() => accepted,
            _ = phase.wait_for(|phase| *phase != Phase::Serving) => return,
        };
        match accepted {
            Ok((socket, source)) => take(&listener, &server, &own, socket, source),
            Err(error) => {
                tracing::warn!(%error, "cannot accept gRPC connections");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

fn take(
    listener: &Listener,
    server: &Weak<Shared>,
    own: &Arc<Router>,
    socket: TcpStream,
    source: SocketAddr,
) {
    let Some(shared) = server.upgrade() else {
        return;
    };
    if shared.connections.len() >= shared.options.max_connections {
        shared.refused(Refused::TooManyConnections);
        tracing::info!(%source, "refused a gRPC connection: there are as many as may be");
        return;
    }
    let connection = connection::serve(
        Arc::clone(&shared),
        listener.tls.clone(),
        Arc::clone(own),
        socket,
        source,
    );
    shared.connections.spawn(connection);
}
