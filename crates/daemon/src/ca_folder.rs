//! The folder of a certificate authority: `ca_cert.pem`, `ca_key.pem` (0400), `ledger.json` and `crl.pem`.
//!
//! The command line and a running issuer may use one folder at the same time: each operation holds `ca.lock`, reads the
//! ledger, and writes it back whole before anything it issued is handed out.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use warren_identity::{
    CRL_VALIDITY, CaRequest, CertificateAuthority, CrlError, IssuanceLedger, IssueError,
    IssuedLeaf, Leaf, LeafRequest, LeafRevocation, LoadAuthorityError, OrganizationId, PeerId,
    RevocationList, Serial, UnixTime,
};
use zeroize::Zeroizing;

use crate::files::{self, FileError, Overwrite};
use crate::key_file::{self, KeyFileError};
use crate::random;

/// Name of the CA certificate in its folder.
pub const CA_CERT: &str = "ca_cert.pem";
/// Name of the CA key in its folder.
pub const CA_KEY: &str = "ca_key.pem";
/// Name of the newest revocation list in the folder.
pub const CRL: &str = "crl.pem";
const LEDGER: &str = "ledger.json";
const LOCK: &str = "ca.lock";

/// Why the CA's folder could not be used. Nothing was issued or revoked.
#[derive(Debug, thiserror::Error)]
pub enum CaError {
    /// A file of it.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its key does not open, or was not written.
    #[error(transparent)]
    KeyFile(#[from] KeyFileError),
    /// Its certificate and key.
    #[error("the CA in {} cannot be used: {source}", folder.display())]
    Load {
        /// The folder.
        folder: PathBuf,
        /// Why.
        source: Box<LoadAuthorityError>,
    },
    /// The ledger is damaged.
    #[error("{} is damaged: {source}; restore it from a backup, or move it away: revoked peers must then be revoked again", path.display())]
    Ledger {
        /// The ledger.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The CA refused.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A peer that the ledger does not know was to be revoked.
    #[error("this CA has given {peer} no certificate{}", nearest(.known.as_deref()))]
    UnknownPeer {
        /// The peer.
        peer: Box<PeerId>,
        /// The one of the ledger that is written most like it.
        known: Option<String>,
    },
    /// A leaf that the ledger does not know was to be revoked.
    #[error("this CA has issued no certificate {serial}{}", nearest(.known.as_deref()))]
    UnknownSerial {
        /// Its serial, in hexadecimal.
        serial: String,
        /// The one of the ledger that is written most like it.
        known: Option<String>,
    },
    /// The list that was signed cannot be read back. What was to be revoked is in the ledger.
    #[error("the new revocation list cannot be read back: {0}")]
    Crl(#[from] CrlError),
}

/// What may be revoked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Revocable {
    /// What the ledger knows, so that no typing error passes for a revocation.
    Known,
    /// Anything: the ledger was lost, or `openssl` issued the leaf.
    Anything,
}

/// A revocation list that was signed and written.
#[derive(Debug)]
pub struct SignedList {
    /// The list.
    pub list: RevocationList,
    /// Where it is.
    pub path: PathBuf,
}

/// The folder of a CA.
#[derive(Debug, Clone)]
pub struct CaFolder {
    folder: PathBuf,
    organization: Option<OrganizationId>,
    /// File with the passphrase of the CA's key.
    passphrase_file: Option<PathBuf>,
}

/// What a new CA is made from.
#[derive(Debug, Clone)]
pub struct NewCa<'a> {
    /// The organisation it speaks for.
    pub organization: OrganizationId,
    /// How long it is valid, usually [`warren_identity::CA_VALIDITY`].
    pub validity: Duration,
    /// File with the passphrase that its key is put under.
    pub passphrase_file: Option<&'a Path>,
}

impl CaFolder {
    /// Makes a CA in `folder`.
    ///
    /// # Errors
    /// [`FileError::Exists`] where one is; nothing is changed then.
    pub fn create(folder: &Path, new: &NewCa<'_>) -> Result<Self, CaError> {
        Self::create_with(folder, new, &IssuanceLedger::default())
    }

    /// Makes the CA that follows the one in `old`: whoever is revoked there stays revoked, and a first list says so.
    ///
    /// # Errors
    /// As [`Self::create`], and when the old ledger cannot be read; nothing is made then.
    pub fn create_after(folder: &Path, new: &NewCa<'_>, old: &Path) -> Result<Self, CaError> {
        let carried = Self::new(old, None).ledger()?.for_next_authority();
        let this = Self::create_with(folder, new, &carried)?;
        this.sign_list()?;
        Ok(this)
    }

    fn create_with(
        folder: &Path,
        new: &NewCa<'_>,
        ledger: &IssuanceLedger,
    ) -> Result<Self, CaError> {
        let this = Self::new(folder, Some(new.organization.clone()))
            .with_passphrase_file(new.passphrase_file.map(Path::to_owned));
        for name in [CA_CERT, CA_KEY] {
            let path = folder.join(name);
            if path.exists() {
                return Err(FileError::Exists { path }.into());
            }
        }
        let request = CaRequest {
            organization: new.organization.clone(),
            key_material: Zeroizing::new(random::bytes()),
            serial: Serial::from_random(random::bytes()),
            validity: new.validity,
        };
        let authority = CertificateAuthority::create(&request, UnixTime::now())
            .map_err(|source| this.load_error(source))?;
        key_file::write(
            &folder.join(CA_KEY),
            authority.key_pem(),
            0o400,
            Overwrite::Refuse,
            new.passphrase_file,
        )?;
        files::write_whole(
            &folder.join(CA_CERT),
            authority.certificate_pem().as_bytes(),
            0o644,
            Overwrite::Refuse,
        )?;
        let _lock = this.lock()?;
        this.store_ledger(ledger)?;
        Ok(this)
    }

    /// The CA in `folder`; `organization` is needed where its certificate does not name one, as with `openssl`.
    #[must_use]
    pub fn new(folder: &Path, organization: Option<OrganizationId>) -> Self {
        Self {
            folder: folder.to_owned(),
            organization,
            passphrase_file: None,
        }
    }

    /// The same CA, whose key the first line of this file opens where it is encrypted.
    #[must_use]
    pub fn with_passphrase_file(self, passphrase_file: Option<PathBuf>) -> Self {
        Self {
            passphrase_file,
            ..self
        }
    }

    /// Loads certificate and key.
    ///
    /// # Errors
    /// A missing, readable-by-others or damaged file.
    pub fn authority(&self) -> Result<CertificateAuthority, CaError> {
        let hint = "make a CA with `warren ca init`";
        let certificate = files::read_text("the CA certificate", &self.folder.join(CA_CERT), hint)?;
        let key = key_file::read(
            "the CA key",
            &self.folder.join(CA_KEY),
            hint,
            self.passphrase_file.as_deref(),
        )?;
        CertificateAuthority::from_pem(&certificate, &key, self.organization.as_ref())
            .map_err(|source| self.load_error(source))
    }

    /// Issues a leaf and enters it in the ledger, which is stored before the leaf is handed out.
    ///
    /// # Errors
    /// What of the request cannot be certified.
    pub fn issue(&self, request: &LeafRequest) -> Result<Leaf, CaError> {
        let _lock = self.lock()?;
        let (authority, mut ledger) = (self.authority()?, self.ledger()?);
        let leaf = ledger.issue(
            &authority,
            request,
            UnixTime::now(),
            Serial::from_random(random::bytes()),
        )?;
        self.store_ledger(&ledger)?;
        Ok(leaf)
    }

    /// Lets `change` work on the ledger, which is stored only if it says so.
    ///
    /// # Errors
    /// The ledger cannot be read or written.
    pub fn update_ledger(
        &self,
        change: impl FnOnce(&mut IssuanceLedger) -> bool,
    ) -> Result<(), CaError> {
        let _lock = self.lock()?;
        let mut ledger = self.ledger()?;
        if change(&mut ledger) {
            self.store_ledger(&ledger)?;
        }
        Ok(())
    }

    /// Revokes a peer for good and signs a new list. Gives how many of its leaves were still valid; `None`: it was
    /// revoked before.
    ///
    /// # Errors
    /// [`CaError::UnknownPeer`], or the list cannot be signed or written.
    pub fn revoke(
        &self,
        peer: PeerId,
        revocable: Revocable,
    ) -> Result<(Option<usize>, SignedList), CaError> {
        self.sign_after(|ledger, now| {
            let known = |leaf: &IssuedLeaf| leaf.peer_id == peer;
            if revocable == Revocable::Known
                && !ledger.is_peer_revoked(&peer)
                && !ledger.issued().iter().any(known)
            {
                let texts = ledger.issued().iter().map(|leaf| leaf.peer_id.to_string());
                return Err(CaError::UnknownPeer {
                    known: most_like(&peer.to_string(), texts),
                    peer: Box::new(peer),
                });
            }
            Ok(ledger.revoke_peer(peer, now))
        })
    }

    /// Revokes one leaf, and the companion that was issued with it, and signs a new list. The peer stays a member with
    /// any other leaf. Gives whether it was news.
    ///
    /// # Errors
    /// [`CaError::UnknownSerial`], or the list cannot be signed or written.
    pub fn revoke_leaf(
        &self,
        serial: &[u8],
        revocable: Revocable,
    ) -> Result<(LeafRevocation, SignedList), CaError> {
        self.sign_after(|ledger, now| {
            let mut after = ledger.clone();
            let outcome = after.revoke_serial(serial, now);
            if revocable == Revocable::Known && outcome == LeafRevocation::RevokedUnknown {
                let serial: String = serial.iter().map(|byte| format!("{byte:02x}")).collect();
                let texts = ledger.issued().iter().map(|leaf| leaf.serial.clone());
                return Err(CaError::UnknownSerial {
                    known: most_like(&serial, texts),
                    serial,
                });
            }
            *ledger = after;
            Ok(outcome)
        })
    }

    /// Signs a fresh list of what is revoked already.
    ///
    /// # Errors
    /// The list cannot be signed or written.
    pub fn sign_list(&self) -> Result<SignedList, CaError> {
        Ok(self.sign_after(|_, _| Ok(()))?.1)
    }

    /// The ledger is stored before the list is written: a list that is lost is signed again, a revocation is not.
    fn sign_after<T>(
        &self,
        change: impl FnOnce(&mut IssuanceLedger, UnixTime) -> Result<T, CaError>,
    ) -> Result<(T, SignedList), CaError> {
        let path = self.folder.join(CRL);
        let _lock = self.lock()?;
        let (authority, mut ledger) = (self.authority()?, self.ledger()?);
        let now = UnixTime::now();
        let changed = change(&mut ledger, now)?;
        let der = ledger.sign_crl(&authority, now, CRL_VALIDITY)?;
        self.store_ledger(&ledger)?;
        let list = RevocationList::from_der(&der, authority.roots())?;
        files::write_whole(&path, list.to_pem().as_bytes(), 0o644, Overwrite::Replace)?;
        Ok((changed, SignedList { list, path }))
    }

    /// What was issued and revoked: nothing yet, where a CA is there and no ledger.
    ///
    /// # Errors
    /// There is no CA in the folder, or the ledger cannot be read.
    pub fn ledger(&self) -> Result<IssuanceLedger, CaError> {
        let certificate = self.folder.join(CA_CERT);
        if !certificate.exists() {
            return Err(FileError::Missing {
                what: "the CA certificate",
                path: certificate,
                hint: "name the folder that `warren ca init` made".to_owned(),
            }
            .into());
        }
        let path = self.folder.join(LEDGER);
        if !path.exists() {
            return Ok(IssuanceLedger::default());
        }
        let text = files::read_secret("the CA's ledger", &path, "")?;
        serde_json::from_str(&text).map_err(|source| CaError::Ledger { path, source })
    }

    fn lock(&self) -> Result<File, FileError> {
        if !self.folder.is_dir() {
            return Err(FileError::Missing {
                what: "the CA's folder",
                path: self.folder.clone(),
                hint: "name the one that `warren ca init` made".to_owned(),
            });
        }
        let path = self.folder.join(LOCK);
        let cannot = |source| FileError::Io {
            action: "lock",
            path: path.clone(),
            source,
        };
        let lock = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&path)
            .map_err(cannot)?;
        lock.lock().map_err(cannot)?;
        Ok(lock)
    }

    fn store_ledger(&self, ledger: &IssuanceLedger) -> Result<(), CaError> {
        let path = self.folder.join(LEDGER);
        let text = serde_json::to_string_pretty(ledger).map_err(|source| CaError::Ledger {
            path: path.clone(),
            source,
        })?;
        Ok(files::write_whole(
            &path,
            text.as_bytes(),
            0o600,
            Overwrite::Replace,
        )?)
    }

    fn load_error(&self, source: LoadAuthorityError) -> CaError {
        CaError::Load {
            folder: self.folder.clone(),
            source: Box::new(source),
        }
    }
}

/// What of the ledger begins or ends most like `text`; nothing where the likeness may be chance.
fn most_like(text: &str, known: impl Iterator<Item = String>) -> Option<String> {
    const ENOUGH: usize = 4;
    let alike = |other: &str| {
        // Peer ids all begin alike: an Ed25519 key's first eight characters say nothing.
        let prefix = if text.starts_with("12D3KooW") { 8 } else { 0 };
        let same =
            |pairs: &mut dyn Iterator<Item = (u8, u8)>| pairs.take_while(|(a, b)| a == b).count();
        let first = same(&mut text.bytes().zip(other.bytes())).saturating_sub(prefix);
        let last = same(&mut text.bytes().rev().zip(other.bytes().rev()));
        first.max(last)
    };
    known
        .map(|other| (alike(&other), other))
        .filter(|(likeness, _)| *likeness >= ENOUGH)
        .max()
        .map(|(_, other)| other)
}

/// The end of a message about something that is not in the ledger.
fn nearest(known: Option<&str>) -> String {
    match known {
        Some(known) => format!("; did you mean {known}?"),
        None => ": `warren ca list` shows what it has issued".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::os::unix::fs::MetadataExt;

    use warren_identity::{Capabilities, NodeKey, WildcardNames};

    use super::*;

    fn acme() -> OrganizationId {
        OrganizationId::new("org_acme_corp").unwrap()
    }

    fn new_ca() -> NewCa<'static> {
        NewCa {
            organization: acme(),
            validity: CRL_VALIDITY,
            passphrase_file: None,
        }
    }

    fn request(key: &NodeKey) -> LeafRequest {
        LeafRequest {
            peer_id: key.peer_id(),
            name: "node-1".to_owned(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::none(),
            validity: Duration::from_secs(3600),
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        }
    }

    #[test]
    fn a_second_ca_is_not_made_over_the_first() {
        let folder = tempfile::tempdir().unwrap();
        CaFolder::create(folder.path(), &new_ca()).unwrap();
        let before = std::fs::read(folder.path().join(CA_KEY)).unwrap();
        let again = CaFolder::create(folder.path(), &new_ca()).unwrap_err();
        assert!(again.to_string().contains("exists"), "{again}");
        assert_eq!(std::fs::read(folder.path().join(CA_KEY)).unwrap(), before);
        assert_eq!(
            std::fs::metadata(folder.path().join(CA_KEY))
                .unwrap()
                .mode()
                & 0o777,
            0o400
        );
    }

    #[test]
    fn a_revoked_peer_gets_no_further_leaf() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CaFolder::create(folder.path(), &new_ca()).unwrap();
        let key = NodeKey::from_seed(random::bytes());
        ca.issue(&request(&key)).unwrap();
        let (leaves, signed) = ca.revoke(key.peer_id(), Revocable::Known).unwrap();
        assert_eq!(leaves, Some(1));
        assert!(signed.list.is_peer_revoked(&key.peer_id()));
        let refused = ca.issue(&request(&key)).unwrap_err();
        assert!(
            matches!(refused, CaError::Issue(IssueError::PeerRevoked(_))),
            "{refused}"
        );
    }

    #[test]
    fn a_revoked_leaf_is_listed_and_its_peer_may_have_another() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CaFolder::create(folder.path(), &new_ca()).unwrap();
        let key = NodeKey::from_seed(random::bytes());
        let leaf = ca.issue(&request(&key)).unwrap();
        let (revocation, signed) = ca
            .revoke_leaf(&leaf.facts().serial, Revocable::Known)
            .unwrap();
        assert_eq!(revocation, LeafRevocation::Revoked);
        assert!(signed.list.is_revoked(&leaf.facts().serial));
        assert!(!signed.list.is_peer_revoked(&key.peer_id()));
        ca.issue(&request(&key)).unwrap();
    }

    #[test]
    fn a_typing_error_is_no_revocation_and_the_nearest_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CaFolder::create(folder.path(), &new_ca()).unwrap();
        let (member, stranger) = (random::bytes(), random::bytes());
        let (member, stranger) = (NodeKey::from_seed(member), NodeKey::from_seed(stranger));
        let leaf = ca.issue(&request(&member)).unwrap();
        let mut serial = leaf.facts().serial.clone();
        serial[15] ^= 1;
        let before = ca.ledger().unwrap();

        let refused = ca.revoke_leaf(&serial, Revocable::Known).unwrap_err();
        let told: String = leaf
            .facts()
            .serial
            .iter()
            .map(|byte| format!("{byte:02x}"))
            .collect();
        assert!(refused.to_string().contains(&told), "{refused}");
        let refused = ca.revoke(stranger.peer_id(), Revocable::Known).unwrap_err();
        assert!(matches!(refused, CaError::UnknownPeer { .. }), "{refused}");
        assert_eq!(ca.ledger().unwrap(), before);

        ca.revoke_leaf(&serial, Revocable::Anything).unwrap();
        ca.revoke(stranger.peer_id(), Revocable::Anything).unwrap();
    }

    #[test]
    fn a_folder_without_a_ca_has_no_ledger() {
        let folder = tempfile::tempdir().unwrap();
        let refused = CaFolder::new(folder.path(), None).ledger().unwrap_err();
        assert!(refused.to_string().contains("is not there"), "{refused}");
    }

    #[test]
    fn likeness_counts_at_either_end_and_not_by_chance() {
        let known = || ["4f3a99c1".to_owned(), "77e0aa12".to_owned()].into_iter();
        assert_eq!(most_like("4f3a98c1", known()).as_deref(), Some("4f3a99c1"));
        assert_eq!(most_like("00e0aa12", known()).as_deref(), Some("77e0aa12"));
        assert_eq!(most_like("abcd", known()), None);
        let peers = || ["12D3KooWAbcdefgh".to_owned()].into_iter();
        assert_eq!(most_like("12D3KooWZZcdefxx", peers()), None);
    }

    #[test]
    fn a_key_under_a_passphrase_signs_with_it_only() {
        let folder = tempfile::tempdir().unwrap();
        let passphrase = folder.path().join("passphrase");
        files::write_whole(&passphrase, b"correct horse", 0o600, Overwrite::Refuse).unwrap();
        let dir = folder.path().join("ca");
        let new = NewCa {
            passphrase_file: Some(&passphrase),
            ..new_ca()
        };
        let made = CaFolder::create(&dir, &new).unwrap();
        made.issue(&request(&NodeKey::from_seed(random::bytes())))
            .unwrap();
        let refused = CaFolder::new(&dir, None).authority().unwrap_err();
        assert!(
            refused.to_string().contains("--passphrase-file"),
            "{refused}"
        );
    }

    #[test]
    fn whoever_was_revoked_stays_so_under_the_next_ca() {
        let home = tempfile::tempdir().unwrap();
        let (old, new) = (home.path().join("old"), home.path().join("new"));
        let revoked = NodeKey::from_seed(random::bytes());
        let ca = CaFolder::create(&old, &new_ca()).unwrap();
        ca.revoke(revoked.peer_id(), Revocable::Anything).unwrap();
        let next = CaFolder::create_after(&new, &new_ca(), &old).unwrap();
        let refused = next.issue(&request(&revoked)).unwrap_err();
        assert!(
            matches!(refused, CaError::Issue(IssueError::PeerRevoked(_))),
            "{refused}"
        );
        assert!(new.join(CRL).exists(), "no list of the new CA");
    }

    #[test]
    fn each_revocation_list_has_a_higher_number_than_the_one_before() {
        let folder = tempfile::tempdir().unwrap();
        let ca = CaFolder::create(folder.path(), &new_ca()).unwrap();
        let mut numbers = (0..3).map(|_| {
            ca.revoke(
                NodeKey::from_seed(random::bytes()).peer_id(),
                Revocable::Anything,
            )
            .unwrap()
            .1
            .list
            .number()
        });
        let (first, second, third) = (
            numbers.next().unwrap(),
            numbers.next().unwrap(),
            numbers.next().unwrap(),
        );
        assert!(first < second && second < third, "{first} {second} {third}");
    }
}
