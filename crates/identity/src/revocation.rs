//! X.509 revocation lists (RFC 5280 §5): what they revoke, and which of two is the newer. The policies stand with
//! [`Revocations`] and [`peer_revocation_serial`].

use std::collections::BTreeSet;
use std::fmt;

use libp2p_identity::PeerId;
use rustls_pki_types::UnixTime;
use webpki::OwnedCertRevocationList;
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::prelude::{CertificateRevocationList, X509Certificate};

use crate::certificate::{pem_text, printable, trimmed, unix_time};
use crate::roots::{RootCertificate, Roots};

/// The longest revocation list that is looked at, in bytes: about 25,000 entries.
pub const MAX_CRL_BYTES: usize = 1024 * 1024;

/// The serial that stands in a revocation list for all leaves of a peer, whenever issued.
///
/// `warren ca revoke --peer` lists the serial of every leaf known to have been issued to that peer, for any X.509
/// software, and beside them this one, which no leaf ever has. [`crate::verify_member`] looks for both. So a revoked
/// node cannot return with another of its leaves, one that the issuance ledger has lost, or one issued later.
///
/// 20 bytes, the longest serial RFC 5280 allows: `0x57`, then 19 bytes of BLAKE3 over the peer id. Leaves get serials
/// of 16 bytes, so it is never one of theirs.
#[must_use]
pub fn peer_revocation_serial(peer_id: &PeerId) -> [u8; 20] {
    let hash = blake3::derive_key("warren 2026 revoked peer serial v1", &peer_id.to_bytes());
    let mut serial = [0x57; 20];
    serial[1..].copy_from_slice(&hash[..19]);
    serial
}

/// Why a revocation list was not taken. What was in force stays in force.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CrlError {
    /// Not a list this version can read.
    #[error("not a readable X.509 revocation list: {0}")]
    Malformed(&'static str),
    /// No trusted CA goes by that name.
    #[error("the revocation list is of `{issuer}`, which is no trusted CA of {organization}")]
    UnknownIssuer {
        /// Who claims to have signed it.
        issuer: String,
        /// The organisation whose CAs were looked at.
        organization: String,
    },
    /// The CA of that name did not sign it.
    #[error(
        "the signature of the revocation list of `{0}` is wrong: it was altered or signed by another key"
    )]
    BadSignature(String),
    /// An older list than the one in force.
    #[error(
        "revocation list {offered} of `{issuer}` is older than {have}, which is in force: stale or replayed"
    )]
    Replayed {
        /// The CA.
        issuer: String,
        /// The number of the list in force.
        have: u64,
        /// The number of the refused list.
        offered: u64,
    },
    /// The same number with different contents.
    #[error(
        "two different revocation lists of `{issuer}` have number {number}: sign a new one with `warren ca crl`"
    )]
    Conflict {
        /// The CA.
        issuer: String,
        /// The number of both.
        number: u64,
    },
}

impl CrlError {
    /// A stable name of the reason for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Malformed(_) => "malformed",
            Self::UnknownIssuer { .. } => "unknown_issuer",
            Self::BadSignature(_) => "bad_signature",
            Self::Replayed { .. } => "replayed",
            Self::Conflict { .. } => "conflict",
        }
    }
}

/// A revocation list whose signature by a trusted CA was checked. One that exists is authentic.
#[derive(Clone, PartialEq, Eq)]
pub struct RevocationList {
    der: Vec<u8>,
    issuer: String,
    issuer_key_hash: [u8; 32],
    number: u64,
    this_update: UnixTime,
    next_update: UnixTime,
    serials: BTreeSet<Vec<u8>>,
}

impl fmt::Debug for RevocationList {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RevocationList({} number {}, {} entries)",
            self.issuer,
            self.number,
            self.serials.len()
        )
    }
}

impl RevocationList {
    /// Reads a DER list and checks it against the CA that signed it.
    ///
    /// # Errors
    /// [`CrlError::Malformed`], [`CrlError::UnknownIssuer`] or [`CrlError::BadSignature`].
    pub fn from_der(der: &[u8], roots: &Roots) -> Result<Self, CrlError> {
        if der.len() > MAX_CRL_BYTES {
            return Err(CrlError::Malformed("longer than 1 MiB"));
        }
        // webpki refuses what would be misread: delta and indirect lists, partitioned reasons, unknown critical parts.
        OwnedCertRevocationList::from_der(der).map_err(|_| {
            CrlError::Malformed("damaged, or a delta, indirect or partitioned list")
        })?;
        let (rest, crl) = CertificateRevocationList::from_der(der)
            .map_err(|_| CrlError::Malformed("damaged DER"))?;
        if !rest.is_empty() {
            return Err(CrlError::Malformed("bytes follow the list"));
        }
        let root = signer(&crl, roots)?;
        let number = crl
            .crl_number()
            .ok_or(CrlError::Malformed("it has no number"))?;
        let number =
            u64::try_from(number).map_err(|_| CrlError::Malformed("its number exceeds 64 bits"))?;
        let next_update = crl
            .next_update()
            .ok_or(CrlError::Malformed("it has no nextUpdate"))?;
        Ok(Self {
            der: der.to_vec(),
            issuer: printable(&crl.issuer().to_string()),
            issuer_key_hash: root.key_hash(),
            number,
            this_update: unix_time(crl.last_update().timestamp()),
            next_update: unix_time(next_update.timestamp()),
            serials: crl
                .iter_revoked_certificates()
                .map(|entry| trimmed(entry.raw_serial()).to_vec())
                .collect(),
        })
    }

    /// Reads a list in PEM (`X509 CRL`) or DER, as files may have either.
    ///
    /// # Errors
    /// As [`RevocationList::from_der`].
    pub fn from_file_bytes(bytes: &[u8], roots: &Roots) -> Result<Self, CrlError> {
        if !bytes.starts_with(b"-----BEGIN") {
            return Self::from_der(bytes, roots);
        }
        if bytes.len() > 2 * MAX_CRL_BYTES {
            return Err(CrlError::Malformed("longer than 1 MiB"));
        }
        match pem::parse(bytes) {
            Ok(block) if block.tag() == "X509 CRL" => Self::from_der(block.contents(), roots),
            Ok(_) => Err(CrlError::Malformed("the PEM block is not `X509 CRL`")),
            Err(_) => Err(CrlError::Malformed("the PEM block is incomplete")),
        }
    }

    /// The list as it is stored and sent.
    #[must_use]
    pub fn der(&self) -> &[u8] {
        &self.der
    }

    /// The list as PEM.
    #[must_use]
    pub fn to_pem(&self) -> String {
        pem_text("X509 CRL", &self.der)
    }

    /// The name of the CA.
    #[must_use]
    pub fn issuer(&self) -> &str {
        &self.issuer
    }

    /// Names the CA's key: [`RootCertificate::key_hash`].
    #[must_use]
    pub fn issuer_key_hash(&self) -> [u8; 32] {
        self.issuer_key_hash
    }

    /// The CRL number (RFC 5280 §5.2.3).
    #[must_use]
    pub fn number(&self) -> u64 {
        self.number
    }

    /// When it was signed.
    #[must_use]
    pub fn this_update(&self) -> UnixTime {
        self.this_update
    }

    /// By when a newer one was promised.
    #[must_use]
    pub fn next_update(&self) -> UnixTime {
        self.next_update
    }

    /// Whether a newer list is overdue. The list stays in force; see the module's policy.
    #[must_use]
    pub fn is_stale(&self, now: UnixTime) -> bool {
        now.as_secs() > self.next_update.as_secs()
    }

    /// Whether this serial (big-endian, leading zeros ignored) is listed.
    #[must_use]
    pub fn is_revoked(&self, serial: &[u8]) -> bool {
        self.serials.contains(trimmed(serial))
    }

    /// Whether the peer as a whole is listed.
    #[must_use]
    pub fn is_peer_revoked(&self, peer_id: &PeerId) -> bool {
        self.is_revoked(&peer_revocation_serial(peer_id))
    }

    /// How many entries the list has, peer entries included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.serials.len()
    }

    /// Whether nothing is revoked.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.serials.is_empty()
    }
}

fn signer<'r>(
    crl: &CertificateRevocationList<'_>,
    roots: &'r Roots,
) -> Result<&'r RootCertificate, CrlError> {
    let mut named = false;
    for root in roots.certificates() {
        let Ok((_, cert)) = X509Certificate::from_der(root.der()) else {
            continue;
        };
        if cert.subject().as_raw() != crl.issuer().as_raw() {
            continue;
        }
        named = true;
        let may_sign = cert
            .key_usage()
            .is_ok_and(|usage| usage.is_none_or(|usage| usage.value.crl_sign()));
        // Two CAs may share a name during a roll-over: the signature tells which.
        if may_sign && crl.verify_signature(cert.public_key()).is_ok() {
            return Ok(root);
        }
    }
    let issuer = printable(&crl.issuer().to_string());
    if named {
        return Err(CrlError::BadSignature(issuer));
    }
    Err(CrlError::UnknownIssuer {
        issuer,
        organization: roots.organization().to_string(),
    })
}

/// What a merge did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MergeOutcome {
    /// The list is newer and now in force: pass it on, and look again at live sessions.
    Updated,
    /// The list was in force already.
    Unchanged,
}

/// The revocation lists in force: at most one per CA.
///
/// **Which list counts.** Each CA numbers its lists. A list replaces one of the same CA with a lower number; the same
/// number changes nothing; a lower one is refused as replayed.
///
/// **When a list is stale.** After its `nextUpdate` a list stays in force: it is [reported](Self::stale), the node warns
/// and keeps admitting members, because the machine with the CA key is meant to be offline and its being late must
/// not take the mesh down. What was revoked stays revoked. A node without any list admits members as if nothing had
/// been revoked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Revocations {
    lists: Vec<RevocationList>,
}

impl Revocations {
    /// No list: nothing is known to be revoked.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Puts a list in force if it is newer than the one of the same CA.
    ///
    /// # Errors
    /// [`CrlError::Replayed`] or [`CrlError::Conflict`]; the list in force stays.
    pub fn merge(&mut self, list: RevocationList) -> Result<MergeOutcome, CrlError> {
        let Some(current) = self
            .lists
            .iter_mut()
            .find(|have| have.issuer_key_hash == list.issuer_key_hash)
        else {
            self.lists.push(list);
            return Ok(MergeOutcome::Updated);
        };
        match list.number.cmp(&current.number) {
            std::cmp::Ordering::Greater => {
                *current = list;
                Ok(MergeOutcome::Updated)
            }
            // A CA may sign the same list twice: an ECDSA signature differs each time.
            std::cmp::Ordering::Equal if list.serials == current.serials => {
                Ok(MergeOutcome::Unchanged)
            }
            std::cmp::Ordering::Equal => Err(CrlError::Conflict {
                issuer: list.issuer,
                number: list.number,
            }),
            std::cmp::Ordering::Less => Err(CrlError::Replayed {
                issuer: list.issuer,
                have: current.number,
                offered: list.number,
            }),
        }
    }

    /// The lists whose CA is among these roots.
    #[must_use]
    pub fn retained(&self, roots: &Roots) -> Self {
        let trusted = |list: &&RevocationList| roots.by_key_hash(&list.issuer_key_hash).is_some();
        Self {
            lists: self.lists.iter().filter(trusted).cloned().collect(),
        }
    }

    /// The lists in force: store and send [`RevocationList::der`] of each.
    #[must_use]
    pub fn lists(&self) -> &[RevocationList] {
        &self.lists
    }

    /// The lists in force as PEM, one block each; empty without a list.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.lists.iter().map(RevocationList::to_pem).collect()
    }

    /// The highest number in force; 0 without a list. Peers compare it to know who should send.
    #[must_use]
    pub fn highest_number(&self) -> u64 {
        self.lists
            .iter()
            .map(RevocationList::number)
            .max()
            .unwrap_or(0)
    }

    /// The lists whose successor is overdue.
    pub fn stale(&self, now: UnixTime) -> impl Iterator<Item = &RevocationList> {
        self.lists.iter().filter(move |list| list.is_stale(now))
    }

    /// Whether the CA with this key has revoked the serial.
    #[must_use]
    pub fn is_revoked(&self, issuer_key_hash: &[u8; 32], serial: &[u8]) -> bool {
        self.lists
            .iter()
            .any(|list| list.issuer_key_hash == *issuer_key_hash && list.is_revoked(serial))
    }

    /// Whether any trusted CA has revoked the peer as a whole, whichever CA its leaf is of.
    #[must_use]
    pub fn is_peer_revoked(&self, peer_id: &PeerId) -> bool {
        self.lists.iter().any(|list| list.is_peer_revoked(peer_id))
    }
}
