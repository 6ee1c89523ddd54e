//! From files or live trust to a bound server.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use quinn::Endpoint;
use warren_identity::{Leaf, NodeKey, Roots, Trust, UnixTime};

use super::{Hooks, Server, ServerOptions};
use crate::authorize::Authorizer;
use crate::core::dedupe::DedupeLimits;
use crate::observe::RpcMetrics;
use crate::tls::{QuicConfigError, quic_server};

/// Why a server could not be built. Nothing is bound then.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in a file does not serve.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// Something was not given.
    #[error("no {0}: call {1} first")]
    Missing(&'static str, &'static str),
    /// TLS could not be set up.
    #[error(transparent)]
    Config(#[from] QuicConfigError),
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
    identity: Option<(NodeKey, Leaf, PathBuf)>,
    trust: Option<Trust>,
    options: ServerOptions,
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
    /// [`BuildError::File`], [`BuildError::Content`].
    pub fn with_cert_and_key(
        mut self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<Self, BuildError> {
        let (cert, key) = (cert.as_ref(), key.as_ref());
        let node_key =
            NodeKey::from_pem(&read(key)?).map_err(|error| content(key, error.to_string()))?;
        let leaf =
            Leaf::from_pem(&read(cert)?).map_err(|error| content(cert, error.to_string()))?;
        self.identity = Some((node_key, leaf, cert.to_owned()));
        Ok(self)
    }

    /// The organisation's CAs, from a PEM file. The leaf must be of one of them.
    ///
    /// # Errors
    /// [`BuildError::File`], [`BuildError::Content`], [`BuildError::Missing`] without leaf and key.
    pub fn with_ca_cert(mut self, ca: impl AsRef<Path>) -> Result<Self, BuildError> {
        let ca = ca.as_ref();
        let (key, leaf, path) = self
            .identity
            .take()
            .ok_or(BuildError::Missing("certificate", "with_cert_and_key"))?;
        let roots = Roots::from_pem(leaf.organization().clone(), &read(ca)?)
            .map_err(|error| content(ca, error.to_string()))?;
        let trust = Trust::new(key, roots);
        trust
            .replace_leaf(leaf, UnixTime::now())
            .map_err(|error| content(&path, error.to_string()))?;
        self.trust = Some(trust);
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

    /// Binds the UDP socket. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`BuildError::Missing`] without certificates, [`BuildError::Bind`], [`BuildError::Config`].
    pub fn bind(self, address: SocketAddr) -> Result<Server, BuildError> {
        let trust = self.trust.ok_or(BuildError::Missing(
            "certificates",
            "with_cert_and_key and with_ca_cert",
        ))?;
        let config = quic_server(&trust)?;
        let endpoint = Endpoint::server(config, address)
            .map_err(|source| BuildError::Bind { address, source })?;
        Ok(Server::new(endpoint, trust, self.options, self.hooks))
    }
}

fn read(path: &Path) -> Result<String, BuildError> {
    std::fs::read_to_string(path).map_err(|source| BuildError::File {
        path: path.to_owned(),
        source,
    })
}

fn content(path: &Path, reason: String) -> BuildError {
    BuildError::Content {
        path: path.to_owned(),
        reason,
    }
}
