//! New certificates while the server runs.
//!
//! A connection keeps the certificates of its handshake, so running calls notice nothing; the next handshake has the new one.
//! The node's key is its name: other members know it as this peer id. So a new certificate is for the same key. A node with
//! another key is another node, and takes a restart with its own certificate and key.

use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_identity::{Leaf, NodeKey, PeerId, ReplaceError, UnixTime};
use zeroize::Zeroizing;

use crate::server::Server;

/// Why a certificate was not put in place. The old one stays.
#[derive(Debug, thiserror::Error)]
pub enum ReloadError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// What is in a file is no certificate or no key.
    #[error("{}: {reason}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The two do not belong together.
    #[error(
        "{} is a certificate for {of_cert} and {} the key of {of_key}; put a pair there",
        cert.display(),
        key.display()
    )]
    Mismatch {
        /// The certificate's file.
        cert: PathBuf,
        /// The key's file.
        key: PathBuf,
        /// Whose key the certificate binds.
        of_cert: Box<PeerId>,
        /// Whose key it is.
        of_key: Box<PeerId>,
    },
    /// A pair of another key, which would be another node.
    #[error("{} and its certificate are of node {found}, but this server runs as {own}; restart it to change its key", key.display())]
    OtherKey {
        /// The key's file.
        key: PathBuf,
        /// The node of the new pair.
        found: Box<PeerId>,
        /// This node.
        own: Box<PeerId>,
    },
    /// Other members would not accept it: expired, revoked, of a foreign CA.
    #[error("{}: {source}", cert.display())]
    Refused {
        /// The certificate's file.
        cert: PathBuf,
        /// Why.
        source: ReplaceError,
    },
}

/// Where a server's certificate and key lie. New ones are put beside them with `.new` at the end of the name.
#[derive(Clone, Debug)]
pub struct CertificateFiles {
    /// The leaf, with its intermediates if it has any, in PEM.
    pub cert: PathBuf,
    /// The node's key, in PEM.
    pub key: PathBuf,
}

/// How certificates are watched.
#[derive(Clone, Copy, Debug)]
pub struct RotationOptions {
    /// How often the files are looked at.
    pub check_interval: Duration,
    /// How long before the certificate ends each look says so.
    pub warn_before: Duration,
}

impl Default for RotationOptions {
    fn default() -> Self {
        Self {
            check_interval: Duration::from_secs(3600),
            warn_before: Duration::from_secs(30 * 24 * 3600),
        }
    }
}

impl Server {
    /// Puts the certificate of these PEM files in place. New connections get it; running calls notice nothing. Cancellation
    /// safe: a dropped future leaves the old one or the new one in place, whole.
    ///
    /// # Errors
    /// [`ReloadError`]; the old one stays.
    pub async fn reload_certificate(
        &self,
        cert: impl AsRef<Path>,
        key: impl AsRef<Path>,
    ) -> Result<(), ReloadError> {
        let files = CertificateFiles {
            cert: cert.as_ref().to_owned(),
            key: key.as_ref().to_owned(),
        };
        let leaf = files.read(&self.trust().peer_id()).await?;
        self.put_in_place(leaf, files.cert)
    }

    fn put_in_place(&self, leaf: Leaf, cert: PathBuf) -> Result<(), ReloadError> {
        self.trust()
            .replace_leaf(leaf, UnixTime::now())
            .map_err(|source| ReloadError::Refused { cert, source })
    }
}

impl CertificateFiles {
    /// The certificate, once it is seen to belong to the key and to `own`.
    async fn read(&self, own: &PeerId) -> Result<Leaf, ReloadError> {
        let leaf = Leaf::from_pem(&read(&self.cert).await?)
            .map_err(|error| content(&self.cert, error.to_string()))?;
        let key = NodeKey::from_pem(&read(&self.key).await?)
            .map_err(|error| content(&self.key, error.to_string()))?;
        if leaf.peer_id() != key.peer_id() {
            return Err(ReloadError::Mismatch {
                cert: self.cert.clone(),
                key: self.key.clone(),
                of_cert: Box::new(leaf.peer_id()),
                of_key: Box::new(key.peer_id()),
            });
        }
        if key.peer_id() != *own {
            return Err(ReloadError::OtherKey {
                key: self.key.clone(),
                found: Box::new(key.peer_id()),
                own: Box::new(*own),
            });
        }
        Ok(leaf)
    }

    /// The new certificate beside the present one, with the new key if there is one. A certificate alone is for the
    /// present key.
    fn new_pair(&self) -> Option<Self> {
        let [cert, key] = [&self.cert, &self.key].map(|path| with_new(path));
        cert.exists().then(|| Self {
            cert,
            key: if key.exists() { key } else { self.key.clone() },
        })
    }
}

/// Watches a server's certificate until the server stops: puts what lies beside it as `.new` in place and in its name, takes
/// up what was changed in the files themselves, and warns before it ends. What is refused is left where it lies, and
/// said at every look. Cancellation safe.
pub async fn rotate_certificates(
    server: &Server,
    files: &CertificateFiles,
    options: RotationOptions,
) {
    let mut tick = tokio::time::interval(options.check_interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = tick.tick() => {}
            () = server.stopped() => return,
        }
        if let Err(error) = rotate(server, files).await {
            tracing::warn!(%error, "certificate not rotated; the old one stays");
        }
        warn_of_end(server, files, options.warn_before);
    }
}

async fn rotate(server: &Server, files: &CertificateFiles) -> Result<(), ReloadError> {
    let own = server.trust().peer_id();
    if let Some(new) = files.new_pair() {
        let leaf = new.read(&own).await?;
        server.put_in_place(leaf, new.cert.clone())?;
        told(server, &new.cert);
        // The key is the same, so that a crash in between leaves a pair.
        take_name(&new.cert, &files.cert).await;
        if new.key != files.key {
            take_name(&new.key, &files.key).await;
        }
        return Ok(());
    }
    let leaf = Leaf::from_pem(&read(&files.cert).await?)
        .map_err(|error| content(&files.cert, error.to_string()))?;
    let present = server.trust().leaf();
    if present.is_some_and(|present| present.chain_der() == leaf.chain_der()) {
        return Ok(());
    }
    let leaf = files.read(&own).await?;
    server.put_in_place(leaf, files.cert.clone())?;
    told(server, &files.cert);
    Ok(())
}

fn told(server: &Server, from: &Path) {
    let serial = server
        .trust()
        .own_member()
        .map(|member| hex(&member.serial));
    tracing::info!(file = %from.display(), serial, "certificate rotated successfully");
}

fn warn_of_end(server: &Server, files: &CertificateFiles, before: Duration) {
    let Some(leaf) = server.trust().leaf() else {
        return;
    };
    let remaining = leaf.facts().remaining(UnixTime::now());
    if remaining < before {
        let days = remaining.as_secs() / (24 * 3600);
        let new = with_new(&files.cert);
        tracing::warn!(
            days,
            "certificate expiring soon; put a new one at {}",
            new.display()
        );
    }
}

async fn take_name(from: &Path, to: &Path) {
    if let Err(error) = tokio::fs::rename(from, to).await {
        let (from, to) = (from.display(), to.display());
        tracing::warn!(%error, "cannot rename {from} to {to}: the certificate is in place until the next restart only");
    }
}

fn with_new(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".new");
    name.into()
}

async fn read(path: &Path) -> Result<Zeroizing<String>, ReloadError> {
    let read = tokio::fs::read_to_string(path).await;
    read.map(Zeroizing::new)
        .map_err(|source| ReloadError::File {
            path: path.to_owned(),
            source,
        })
}

fn content(path: &Path, reason: String) -> ReloadError {
    ReloadError::Content {
        path: path.to_owned(),
        reason,
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
