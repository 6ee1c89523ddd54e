//! From the files that the configuration names to a [`Trust`]: key, certificate, CA certificates, revocation lists.
//!
//! Revocation lists come from two places and the higher number wins: the file that the operator names
//! (`network.security.crl`) and `crl.pem` in the storage folder, where lists learnt from peers are kept.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use warren_config::{Role, Settings};
use warren_identity::join::revocations_from_pem;
use warren_identity::{
    Capabilities, Capability, CertificateFacts, CrlError, HttpsIdentity, HttpsIdentityError,
    KeyError, Leaf, LeafError, MergeOutcome, NodeKey, OrganizationError, OrganizationId,
    ReplaceError, RevocationList, Roots, RootsError, Trust, UnixTime,
};
use zeroize::Zeroizing;

use crate::files::{self, FileError, Overwrite};
use crate::key_file::{self, KeyFileError};

/// Name of the file, in the storage folder, that keeps the newest revocation lists.
pub const LEARNT_CRL: &str = "crl.pem";

/// Why the node's identity could not be read. Each names the file.
#[derive(Debug, thiserror::Error)]
pub enum MaterialError {
    /// A file is missing, readable by others, or cannot be read.
    #[error(transparent)]
    File(#[from] FileError),
    /// A private key that does not open.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// The node key.
    #[error("the node key {} cannot be used: {source}", path.display())]
    Key {
        /// The file.
        path: PathBuf,
        /// Why.
        source: KeyError,
    },
    /// `network.security.tls_key` is another key than the node's.
    #[error("{} is another key than the node's own {}: the certificate of a node is for its node key", tls_key.display(), peer_key.display())]
    TwoKeys {
        /// `network.security.tls_key`
        tls_key: PathBuf,
        /// `network.libp2p.peer_key`
        peer_key: PathBuf,
    },
    /// The CA certificates.
    #[error("the CA certificate {} cannot be used: {source}", path.display())]
    Roots {
        /// The file.
        path: PathBuf,
        /// Why.
        source: RootsError,
    },
    /// The organisation's id.
    #[error(transparent)]
    Organization(#[from] OrganizationError),
    /// The node's certificate.
    #[error("the certificate {} cannot be used: {source}", path.display())]
    Leaf {
        /// The file.
        path: PathBuf,
        /// Why.
        source: LeafError,
    },
    /// The certificate is not this node's, or members would refuse it.
    #[error("the certificate {} cannot be used: {source}; `warren ca issue` makes another", path.display())]
    Refused {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<ReplaceError>,
    },
    /// A role that the certificate does not allow: others would refuse what the node does in it.
    #[error("the certificate {} lacks the capability `{role}` that the role `{role}` needs: have it issued with `warren ca issue --capability {role}`, or take the role out of `roles`", path.display())]
    LacksCapability {
        /// The certificate.
        path: PathBuf,
        /// Role and capability.
        role: &'static str,
    },
    /// A revocation list.
    #[error("the revocation list {} cannot be used: {source}", path.display())]
    Crl {
        /// The file.
        path: PathBuf,
        /// Why.
        source: CrlError,
    },
    /// The certificate of the management API.
    #[error("the API certificate {} cannot be served: {source}", path.display())]
    Https {
        /// The certificate file.
        path: PathBuf,
        /// Why.
        source: HttpsIdentityError,
    },
}

/// Reads everything and puts it together.
///
/// # Errors
/// The first file that cannot be used.
pub fn load(settings: &Settings, now: UnixTime) -> Result<Trust, MaterialError> {
    let trust = load_identity(settings, now)?;
    if let Some(leaf) = trust.leaf() {
        check_roles(&settings.roles, &settings.network.security.tls_cert, &leaf)?;
    }
    if let Some(tls) = &settings.api.tls {
        trust.replace_https_identity(https_identity(&tls.cert, &tls.key)?);
    }
    Ok(trust)
}

/// Reads what this machine proves to members who it is with, whatever it does.
///
/// # Errors
/// The first file that cannot be used.
pub fn load_identity(settings: &Settings, now: UnixTime) -> Result<Trust, MaterialError> {
    let security = &settings.network.security;
    let key = node_key(settings)?;
    let leaf = leaf(&security.tls_cert)?;
    let organization = match &settings.network.organization_id {
        Some(id) => OrganizationId::new(id.clone())?,
        None => leaf.organization().clone(),
    };
    let trust = Trust::new(key, roots(&security.ca_cert, organization)?);
    for path in security.crl.iter().cloned().chain([learnt_crl(settings)]) {
        if path.exists() {
            merge_file(&trust, &path)?;
        }
    }
    replace_leaf(&trust, &security.tls_cert, leaf, now)?;
    Ok(trust)
}

/// The capability that a role takes. The issuer needs the CA's key instead of one.
fn capability_for(role: Role) -> Option<Capability> {
    match role {
        Role::Storage => Some(Capability::Storage),
        Role::Discovery => Some(Capability::Discovery),
        Role::Relay => Some(Capability::Relay),
        Role::Director => Some(Capability::Director),
        Role::Worker => Some(Capability::Worker),
        Role::Issuer => None,
    }
}

/// The roles that a certificate with these capabilities allows; whether the node is an issuer too, it does not say.
#[must_use]
pub fn roles_allowed_by(capabilities: &Capabilities) -> Vec<Role> {
    [
        Role::Storage,
        Role::Discovery,
        Role::Relay,
        Role::Director,
        Role::Worker,
    ]
    .into_iter()
    .filter(|role| capability_for(*role).is_some_and(|needed| capabilities.allows(&needed)))
    .collect()
}

/// The roles that a certificate with these capabilities does not allow.
pub(crate) fn roles_without_capability(
    roles: &BTreeSet<Role>,
    capabilities: &Capabilities,
) -> impl Iterator<Item = &'static str> {
    roles
        .iter()
        .filter(|role| capability_for(**role).is_some_and(|needed| !capabilities.allows(&needed)))
        .map(|role| role.as_str())
}

/// Whether a leaf allows every one of these roles.
///
/// # Errors
/// [`MaterialError::LacksCapability`] of the first one that it does not.
pub(crate) fn check_roles(
    roles: &BTreeSet<Role>,
    path: &Path,
    leaf: &Leaf,
) -> Result<(), MaterialError> {
    match roles_without_capability(roles, &leaf.facts().capabilities).next() {
        None => Ok(()),
        Some(role) => Err(MaterialError::LacksCapability {
            path: path.to_owned(),
            role,
        }),
    }
}

/// Where lists learnt from peers are kept.
#[must_use]
pub fn learnt_crl(settings: &Settings) -> PathBuf {
    settings.storage.path.join(LEARNT_CRL)
}

pub(crate) fn node_key(settings: &Settings) -> Result<NodeKey, MaterialError> {
    let path = &settings.network.libp2p.peer_key;
    let security = &settings.network.security;
    let passphrase = security.tls_key_passphrase_file.as_deref();
    let key = read_key(path, passphrase)?;
    let tls_key = &security.tls_key;
    if tls_key != path && read_key(tls_key, passphrase)?.peer_id() != key.peer_id() {
        return Err(MaterialError::TwoKeys {
            tls_key: tls_key.clone(),
            peer_key: path.clone(),
        });
    }
    Ok(key)
}

/// Reads a node key, opened with the first line of `passphrase_file` where it is encrypted.
///
/// # Errors
/// Missing, readable by others, under another passphrase, or no node key.
pub fn read_key(path: &Path, passphrase_file: Option<&Path>) -> Result<NodeKey, MaterialError> {
    let hint = "make one with `warren keygen --output FILE`, or all of it with `warren init`";
    let text = key_file::read("the node key", path, hint, passphrase_file)?;
    NodeKey::from_pem(&text).map_err(|source| MaterialError::Key {
        path: path.to_owned(),
        source,
    })
}

/// Reads a leaf file.
///
/// # Errors
/// Missing or no leaf.
pub fn leaf(path: &Path) -> Result<Leaf, MaterialError> {
    let text = files::read_text(
        "the node's certificate",
        path,
        "have the CA issue one: `warren ca issue`",
    )?;
    Leaf::from_pem(&text).map_err(|source| MaterialError::Leaf {
        path: path.to_owned(),
        source,
    })
}

/// Reads the CA certificates of an organisation.
///
/// # Errors
/// Missing, or one that cannot serve as a CA.
pub fn roots(path: &Path, organization: OrganizationId) -> Result<Roots, MaterialError> {
    let text = roots_text(path)?;
    Roots::from_pem(organization, &text).map_err(|source| MaterialError::Roots {
        path: path.to_owned(),
        source,
    })
}

pub(crate) fn roots_text(path: &Path) -> Result<String, MaterialError> {
    let hint = "copy ca_cert.pem from the machine that has the CA";
    Ok(files::read_text("the CA certificate", path, hint)?)
}

pub(crate) fn lists_text(path: &Path) -> Result<String, MaterialError> {
    let hint = "take network.security.crl out, or write one with `warren ca revoke`";
    Ok(files::read_text("the revocation list", path, hint)?)
}

/// Puts a leaf in place.
///
/// # Errors
/// It is not this node's, or members would refuse it. The old one stays.
pub fn replace_leaf(
    trust: &Trust,
    path: &Path,
    leaf: Leaf,
    now: UnixTime,
) -> Result<(), MaterialError> {
    trust
        .replace_leaf(leaf, now)
        .map_err(|source| MaterialError::Refused {
            path: path.to_owned(),
            source: Box::new(source),
        })
}

/// What the revocation lists of a file changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FileMerge {
    /// One was newer than what was known, and is in force now.
    Newer,
    /// All were known.
    Known,
    /// One was older than what is in force, which stays: the file lags behind the peers, or somebody put an old one back.
    Older,
}

/// Merges every revocation list of a file.
///
/// # Errors
/// A list that no trusted CA signed.
pub fn merge_file(trust: &Trust, path: &Path) -> Result<FileMerge, MaterialError> {
    let text = lists_text(path)?;
    let crl_error = |source| MaterialError::Crl {
        path: path.to_owned(),
        source,
    };
    let lists = revocations_from_pem(&text, &trust.roots()).map_err(crl_error)?;
    let (mut newer, mut older) = (false, false);
    for list in lists.lists() {
        match trust.merge_revocations(list.der()) {
            Ok(outcome) => newer |= matches!(outcome, MergeOutcome::Updated),
            Err(CrlError::Replayed { .. }) => older = true,
            Err(source) => return Err(crl_error(source)),
        }
    }
    Ok(match (newer, older) {
        (_, true) => FileMerge::Older,
        (true, false) => FileMerge::Newer,
        (false, false) => FileMerge::Known,
    })
}

/// Writes every list in force to the storage folder.
///
/// # Errors
/// The file cannot be written.
pub fn keep_revocations(trust: &Trust, path: &Path) -> Result<(), FileError> {
    let text: String = trust
        .revocations()
        .lists()
        .iter()
        .map(RevocationList::to_pem)
        .collect();
    files::write_whole(path, text.as_bytes(), 0o644, Overwrite::Replace)
}

/// The certificate of the management API, where it is not the node's own leaf.
///
/// # Errors
/// A missing file, or a key that is not the certificate's.
pub fn https_identity(cert: &Path, key: &Path) -> Result<Option<HttpsIdentity>, MaterialError> {
    let hint = "take api.tls out to serve the node's own certificate";
    let certificates = files::read_text("the API certificate", cert, hint)?;
    if Leaf::from_pem(&certificates).is_ok() {
        return Ok(None);
    }
    let key = Zeroizing::new(files::read_secret(
        "the key of the API certificate",
        key,
        hint,
    )?);
    let https = |source| MaterialError::Https {
        path: cert.to_owned(),
        source,
    };
    HttpsIdentity::from_pem(&certificates, &key)
        .map(Some)
        .map_err(https)
}

/// Names and addresses that the node's certificate speaks for.
#[must_use]
pub fn served_names(facts: &CertificateFacts) -> Vec<String> {
    facts
        .dns
        .iter()
        .cloned()
        .chain(facts.ip.iter().map(ToString::to_string))
        .collect()
}
