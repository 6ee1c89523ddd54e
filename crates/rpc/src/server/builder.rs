//! From files or live trust to a bound server.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use quinn::Endpoint;
use warren_identity::Trust;

use super::{Hooks, Server, ServerOptions};
use crate::authorize::Authorizer;
use crate::core::dedupe::DedupeLimits;
use crate::files::{Credentials, FilesError};
use crate::grpc::GrpcError;
use crate::observe::RpcMetrics;
use crate::tls::{QuicConfigError, quic_server};

/// Why a server could not be built. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// Nobody said who serves.
    #[error(
        "no certificates to serve with: call with_cert_and_key and with_ca_cert, or with_trust"
    )]
    NoIdentity,
    /// TLS could not be set up.
    #[error(transparent)]
    Config(#[from] QuicConfigError),
    /// gRPC clients cannot be served.
    #[error(transparent)]
    Grpc(#[from] GrpcError),
    /// The address cannot be listened on.
    #[error("cannot listen on {address}/udp: {source}")]
    Bind {
        /// Which one.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
}

/// Describes a server.
#[derive(Default)]
pub struct ServerBuilder {
    credentials: Option<Credentials>,
    trust: Option<Trust>,
    options: ServerOptions,
    grpc: Option<SocketAddr>,
    hooks: Hooks,
}

impl std::fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("trust", &self.trust)
            .field("options", &self.options)
            .finish_non_exhaustive()
    }
}

impl ServerBuilder {
    /// The node's leaf and its Ed25519 key, from PEM files.
    ///
    /// # Errors
    /// [`FilesError`].
    pub fn with_cert_and_key(
        mut self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, FilesError> {
        self.credentials = Some(Credentials::read(cert.as_ref(), key.as_ref())?);
        Ok(self)
    }

    /// The organisation's CAs, from a PEM file. The leaf must be of one of them.
    ///
    /// # Errors
    /// [`FilesError`], also when there is no leaf yet.
    pub fn with_ca_cert(mut self, ca: impl AsRef<Path>) -> Result<Self, FilesError> {
        let credentials = self.credentials.take().ok_or(FilesError::NoCertificate)?;
        self.trust = Some(credentials.vouched_for_by(ca.as_ref())?);
        Ok(self)
    }

    /// The live trust of a running node, instead of files.
    #[must_use]
    pub fn with_trust(mut self, trust: Trust) -> Self {
        self.trust = Some(trust);
        self
    }

    /// Limits and time-outs.
    #[must_use]
    pub const fn with_options(mut self, options: ServerOptions) -> Self {
        self.options = options;
        self
    }

    /// Who may call what: without one, members may call every method that declares no permission, and nobody the others.
    #[must_use]
    pub fn with_authorizer(mut self, authorizer: impl Authorizer) -> Self {
        self.hooks.authorizer = Some(Arc::new(authorizer));
        self
    }

    /// Counts into `metrics`, which several servers may share.
    #[must_use]
    pub fn with_metrics(mut self, metrics: &RpcMetrics) -> Self {
        self.hooks.metrics = Some(metrics.clone());
        self
    }

    /// How much is remembered of calls with idempotency keys.
    #[must_use]
    pub fn with_dedupe_limits(mut self, limits: DedupeLimits) -> Self {
        self.hooks.dedupe = limits;
        self
    }

    /// Serves gRPC clients too, on this TCP address; see [`Server::serve_grpc`]. Off unless called.
    #[must_use]
    pub const fn with_grpc(mut self, address: SocketAddr) -> Self {
        self.grpc = Some(address);
        self
    }

    /// Binds the UDP socket, and the TCP one if there is to be gRPC. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`BuildError::NoIdentity`] without certificates, [`BuildError::Bind`], [`BuildError::Config`],
    /// [`BuildError::Grpc`].
    pub fn bind(self, address: SocketAddr) -> Result<Server, BuildError> {
        let trust = self.trust.ok_or(BuildError::NoIdentity)?;
        let config = quic_server(&trust)?;
        let endpoint = Endpoint::server(config, address)
            .map_err(|source| BuildError::Bind { address, source })?;
        let server = Server::new(endpoint, trust, self.options, self.hooks);
        if let Some(address) = self.grpc {
            server.bind_grpc(address)?;
        }
        Ok(server)
    }
}
