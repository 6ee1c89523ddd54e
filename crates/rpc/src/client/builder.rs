//! From files or live trust to a client.

use std::path::Path;

use warren_identity::Trust;

use super::{Client, ClientOptions, ConnectError};
use crate::files::{Credentials, FilesError};

/// Describes a client.
#[derive(Debug, Default)]
pub struct ClientBuilder {
    credentials: Option<Credentials>,
    trust: Option<Trust>,
    options: ClientOptions,
}

impl ClientBuilder {
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
    pub const fn with_options(mut self, options: ClientOptions) -> Self {
        self.options = options;
        self
    }

    /// Opens the client's socket. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError::NoIdentity`] without certificates, [`ConnectError::Socket`].
    pub fn build(self) -> Result<Client, ConnectError> {
        Client::new(self.trust.ok_or(ConnectError::NoIdentity)?, self.options)
    }
}
