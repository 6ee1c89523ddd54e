//! A member's certificate, key and CAs from PEM files, as `warren keygen` and `warren ca issue` write them.

use std::path::{Path, PathBuf};

use warren_identity::{Leaf, NodeKey, Roots, Trust, UnixTime};

/// Why files do not make a member.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file could not be read.
    #[error("cannot read {}: {source}", path.display())]
    Unreadable {
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
    /// The CAs were given before what they are to vouch for.
    #[error("no certificate for the CA to vouch for: call with_cert_and_key before with_ca_cert")]
    NoCertificate,
}

/// A leaf and its key, before it is known whose CAs vouch for it.
#[derive(Debug)]
pub(crate) struct Credentials {
    key: NodeKey,
    leaf: Leaf,
    leaf_path: PathBuf,
}

impl Credentials {
    pub(crate) fn read(cert: &Path, key: &Path) -> Result<Self, FilesError> {
        let node_key =
            NodeKey::from_pem(&read(key)?).map_err(|error| content(key, error.to_string()))?;
        let leaf =
            Leaf::from_pem(&read(cert)?).map_err(|error| content(cert, error.to_string()))?;
        Ok(Self {
            key: node_key,
            leaf,
            leaf_path: cert.to_owned(),
        })
    }

    /// The member, if a CA of `ca` vouches for it.
    pub(crate) fn vouched_for_by(self, ca: &Path) -> Result<Trust, FilesError> {
        let roots = Roots::from_pem(self.leaf.organization().clone(), &read(ca)?)
            .map_err(|error| content(ca, error.to_string()))?;
        let trust = Trust::new(self.key, roots);
        trust
            .replace_leaf(self.leaf, UnixTime::now())
            .map_err(|error| content(&self.leaf_path, error.to_string()))?;
        Ok(trust)
    }
}

pub(crate) fn read(path: &Path) -> Result<String, FilesError> {
    std::fs::read_to_string(path).map_err(|source| FilesError::Unreadable {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn content(path: &Path, reason: String) -> FilesError {
    FilesError::Content {
        path: path.to_owned(),
        reason,
    }
}
