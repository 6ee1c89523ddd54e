//! Who is a member: one pure function of (chain, roots, revocations, now), with the exact reason of every refusal.

use std::time::Duration;

use libp2p_identity::PeerId;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::{
    EndEntityCert, Error as PathError, ExtendedKeyUsageValidator, KeyPurposeIdIter, KeyUsage,
};

use crate::capability::{Capabilities, Capability};
use crate::certificate::{
    CertificateFacts, MAX_CHAIN_CERTIFICATES, SpiffeId, SubjectKey, key_of_peer, printable, trimmed,
};
use crate::organization::OrganizationId;
use crate::record::NodeRecord;
use crate::revocation::Revocations;
use crate::roots::{Roots, spki_hash};

/// How far a leaf's start may lie in the future: clocks of machines that just booted differ by minutes. The end has no
/// tolerance, and the CA backdates what it issues by [`crate::ISSUE_BACKDATE`] for clocks that are further behind.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(300);

/// A proven member of an organisation. One that exists has passed [`verify_member`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// Its organisation.
    pub organization: OrganizationId,
    /// The node.
    pub peer_id: PeerId,
    /// The subject's common name, for people; it entitles to nothing.
    pub name: String,
    /// What the leaf entitles it to.
    pub capabilities: Capabilities,
    /// When the membership ends unless renewed; a session ends then too.
    pub not_after: UnixTime,
    /// The leaf's serial, big-endian without leading zeros.
    pub serial: Vec<u8>,
    /// Names the CA whose root the chain ends in: [`crate::RootCertificate::key_hash`].
    pub issuer: [u8; 32],
    /// CAs between that root and the leaf, the root's own first; most organisations have none.
    pub intermediates: Vec<Intermediate>,
}

/// A CA between a root and a leaf, as far as a live session depends on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Intermediate {
    /// SHA-256 of its key, under which it would sign revocation lists.
    pub key_hash: [u8; 32],
    /// Its serial, big-endian without leading zeros; the CA above it revokes it by that.
    pub serial: Vec<u8>,
    /// When what it signed ends with it.
    pub not_after: UnixTime,
}

impl Member {
    /// Looks again at a member of a live session, after roots or revocations have changed or time has passed.
    ///
    /// # Errors
    /// The reason for which the session must end now.
    pub fn recheck(
        &self,
        roots: &Roots,
        revocations: &Revocations,
        now: UnixTime,
    ) -> Result<(), Refusal> {
        let root = roots
            .by_key_hash(&self.issuer)
            .ok_or(Refusal::UnknownIssuer)?;
        if self.organization != *roots.organization() {
            return Err(Refusal::WrongOrganization {
                expected: roots.organization().clone(),
                found: self.organization.clone(),
            });
        }
        refuse_expired_issuer(root.facts().not_after, now)?;
        if now.as_secs() > self.not_after.as_secs() {
            return Err(Refusal::Expired {
                since: self.not_after,
            });
        }
        check_intermediates(
            &self.issuer,
            &self.intermediates,
            &self.serial,
            now,
            revocations,
        )?;
        refuse_revoked(&self.issuer, &self.serial, Some(&self.peer_id), revocations)
    }

    /// Holds what the node says of itself against its leaf: the same node and organisation, and no role that is the name
    /// of a capability the leaf lacks. A role of another name (`issuer`, which takes the CA's key) entitles to nothing here.
    ///
    /// # Errors
    /// What does not fit, in a few words; then nothing of the record counts.
    pub fn check_record(&self, record: &NodeRecord) -> Result<(), &'static str> {
        if record.peer_id != self.peer_id {
            return Err("it is of another node");
        }
        if record.organization != self.organization {
            return Err("it names another organisation");
        }
        let unearned = |role: &String| match role.parse() {
            Ok(Capability::Other(_)) | Err(_) => false,
            Ok(capability) => !self.allows(&capability),
        };
        if record.roles.iter().any(unearned) {
            return Err("it claims a role that its certificate does not allow");
        }
        Ok(())
    }

    /// Whether the leaf carries this capability.
    #[must_use]
    pub fn allows(&self, capability: &Capability) -> bool {
        self.capabilities.allows(capability)
    }
}

/// A time for people, in UTC.
pub(crate) fn shown(time: UnixTime) -> String {
    let seconds = i64::try_from(time.as_secs()).unwrap_or(i64::MAX);
    time::OffsetDateTime::from_unix_timestamp(seconds).map_or_else(
        |_| format!("second {seconds} of the calendar"),
        |time| {
            let (date, hour, minute, second) =
                (time.date(), time.hour(), time.minute(), time.second());
            format!("{date}T{hour:02}:{minute:02}:{second:02}Z")
        },
    )
}

/// Why a certificate chain was refused, for the log and the counters. The other side is told a word of it at most.
#[derive(Clone, Debug, thiserror::Error, PartialEq, Eq)]
pub enum Refusal {
    /// No certificate was presented.
    #[error("it presented no certificate")]
    NoCertificate,
    /// Not a certificate, or one whose parts contradict each other.
    #[error("its certificate is malformed: {0}")]
    Malformed(&'static str),
    /// A feature or limit of X.509 that this version does not accept.
    #[error("its certificate chain is not acceptable: {0}")]
    Unsupported(&'static str),
    /// The chain ends in no trusted CA.
    #[error("its certificate is of no trusted CA")]
    UnknownIssuer,
    /// A trusted CA is named as issuer but did not sign this.
    #[error("the signature on its certificate is wrong: the certificate was altered")]
    BadSignature,
    /// An issuing CA certificate is outside its validity.
    #[error("the CA certificate that its certificate ends in expired at {}", shown(*since))]
    IssuerExpired {
        /// End of the CA's validity.
        since: UnixTime,
    },
    /// The leaf has ended.
    #[error("its certificate expired at {}; renew it, or check this machine's clock", shown(*since))]
    Expired {
        /// End of validity.
        since: UnixTime,
    },
    /// The leaf has not begun, beyond [`CLOCK_TOLERANCE`].
    #[error("its certificate is valid from {} on; check both machines' clocks", shown(*until))]
    NotYetValid {
        /// Start of validity.
        until: UnixTime,
    },
    /// This certificate is on its CA's revocation list.
    #[error("its certificate {} is revoked", hex::encode(serial))]
    Revoked {
        /// The revoked serial.
        serial: Vec<u8>,
    },
    /// The node as a whole is on a trusted CA's revocation list.
    #[error("the node {0} is revoked, with every certificate it has")]
    PeerRevoked(PeerId),
    /// A CA certificate where a leaf belongs.
    #[error("it presented a CA certificate as its own")]
    NotALeaf,
    /// Key usages forbid to authenticate with it.
    #[error("its certificate is not for client authentication")]
    WrongUsage,
    /// No SPIFFE URI, as in leaves made by `openssl`.
    #[error(
        "its certificate names no node: no URI SAN spiffe://ORG/node/PEER_ID; joining the mesh takes a leaf from `warren ca issue`"
    )]
    NoSpiffeId,
    /// A SPIFFE URI of another form.
    #[error("its certificate's SPIFFE id `{0}` is not of the form spiffe://ORG/node/PEER_ID")]
    BadSpiffeId(String),
    /// More than one SPIFFE URI.
    #[error("its certificate names several SPIFFE ids, which is not allowed")]
    SeveralSpiffeIds,
    /// A node of another organisation.
    #[error("it belongs to organisation {found}, not {expected}")]
    WrongOrganization {
        /// Ours.
        expected: OrganizationId,
        /// Its own.
        found: OrganizationId,
    },
    /// A companion or other key that cannot prove membership.
    #[error(
        "its certificate is not for an Ed25519 key; a companion leaf serves HTTPS but proves no membership"
    )]
    KeyIsNotEd25519,
    /// The key certified is not the one inside the peer id, or the peer is not the expected one.
    #[error("its certificate names {named}, but the key belongs to {actual}")]
    PeerIdMismatch {
        /// The peer id named in the certificate, or the one expected.
        named: Box<PeerId>,
        /// The peer id of the key, or the one that answered.
        actual: Box<PeerId>,
    },
    /// A proven member without a capability that is needed here.
    #[error("it lacks the capability {0}")]
    MissingCapability(Capability),
}

impl Refusal {
    /// A stable name of the reason for metrics and logs.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::NoCertificate => "no_certificate",
            Self::Malformed(_) => "malformed",
            Self::Unsupported(_) => "unsupported",
            Self::UnknownIssuer => "unknown_issuer",
            Self::BadSignature => "bad_signature",
            Self::IssuerExpired { .. } => "issuer_expired",
            Self::Expired { .. } => "expired",
            Self::NotYetValid { .. } => "not_yet_valid",
            Self::Revoked { .. } => "revoked",
            Self::PeerRevoked(_) => "peer_revoked",
            Self::NotALeaf => "not_a_leaf",
            Self::WrongUsage => "wrong_usage",
            Self::NoSpiffeId => "no_spiffe_id",
            Self::BadSpiffeId(_) => "bad_spiffe_id",
            Self::SeveralSpiffeIds => "several_spiffe_ids",
            Self::WrongOrganization { .. } => "wrong_organization",
            Self::KeyIsNotEd25519 => "key_is_not_ed25519",
            Self::PeerIdMismatch { .. } => "peer_id_mismatch",
            Self::MissingCapability(_) => "missing_capability",
        }
    }

    /// Every label, for registering counters up front.
    pub const LABELS: [&'static str; 19] = [
        "no_certificate",
        "malformed",
        "unsupported",
        "unknown_issuer",
        "bad_signature",
        "issuer_expired",
        "expired",
        "not_yet_valid",
        "revoked",
        "peer_revoked",
        "not_a_leaf",
        "wrong_usage",
        "no_spiffe_id",
        "bad_spiffe_id",
        "several_spiffe_ids",
        "wrong_organization",
        "key_is_not_ed25519",
        "peer_id_mismatch",
        "missing_capability",
    ];
}

/// Decides whether the holder of the first certificate's key is a member of the roots' organisation at `now`.
///
/// `chain` is the leaf, then intermediates in any order. The caller has proof of possession from its transport and
/// compares [`Member::peer_id`] with the transport's peer where that has one.
///
/// Order of the checks: readable, signed by a trusted CA, within its validity, not revoked, names one node of our
/// organisation, carries that node's own key. The signature comes before everything the certificate says, so an
/// altered certificate is reported as altered and not as expired.
///
/// # Errors
/// The exact [`Refusal`].
pub fn verify_member(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    revocations: &Revocations,
    now: UnixTime,
) -> Result<Member, Refusal> {
    let (facts, path) = check_certificate(chain, roots, revocations, now, Purpose::Member)?;
    let spiffe = node_of(&facts, roots)?;
    check_node_key(&facts, &spiffe)?;
    Ok(member_of(facts, spiffe, path))
}

/// As [`verify_member`], and takes the P-256 companion of a leaf as well: for clients whose TLS refuses Ed25519. The CA
/// certifies a companion's key only where the node's own key vouched for it, so whoever holds it is that node. What is
/// proven is weaker in one way: the peer id does not follow from the key that signed, it rests on the CA alone.
///
/// # Errors
/// The exact [`Refusal`].
pub fn verify_member_or_companion(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    revocations: &Revocations,
    now: UnixTime,
) -> Result<Member, Refusal> {
    let (facts, path) = check_certificate(chain, roots, revocations, now, Purpose::Member)?;
    let spiffe = node_of(&facts, roots)?;
    if !matches!(facts.key, SubjectKey::P256(_)) {
        check_node_key(&facts, &spiffe)?;
    }
    Ok(member_of(facts, spiffe, path))
}

/// The node that a certificate names, if it is one of the roots' organisation.
fn node_of(facts: &CertificateFacts, roots: &Roots) -> Result<SpiffeId, Refusal> {
    let spiffe = one_spiffe_id(facts)?;
    if spiffe.organization == *roots.organization() {
        return Ok(spiffe);
    }
    Err(Refusal::WrongOrganization {
        expected: roots.organization().clone(),
        found: spiffe.organization,
    })
}

/// Whether the key certified is the one inside the peer id.
fn check_node_key(facts: &CertificateFacts, spiffe: &SpiffeId) -> Result<(), Refusal> {
    let SubjectKey::Ed25519(key) = &facts.key else {
        return Err(Refusal::KeyIsNotEd25519);
    };
    if facts.key == key_of_peer(&spiffe.peer_id) {
        return Ok(());
    }
    let actual = crate::key::peer_id_of_public_key(key)
        .ok_or(Refusal::Malformed("its key is no Ed25519 point"))?;
    Err(Refusal::PeerIdMismatch {
        named: Box::new(spiffe.peer_id),
        actual: Box::new(actual),
    })
}

fn member_of(facts: CertificateFacts, spiffe: SpiffeId, path: Path) -> Member {
    Member {
        organization: spiffe.organization,
        peer_id: spiffe.peer_id,
        name: facts.common_name.unwrap_or_default(),
        capabilities: facts.capabilities,
        not_after: facts.not_after,
        serial: facts.serial,
        issuer: path.root,
        intermediates: path.intermediates,
    }
}

/// Decides whether a chain is any certificate of the organisation's CAs: a member's leaf, a companion, or one made by
/// `openssl`. For HTTPS with `require_certificates`, and for servers under their DNS name. It proves no membership.
///
/// # Errors
/// The exact [`Refusal`].
pub fn verify_certificate(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    revocations: &Revocations,
    now: UnixTime,
    purpose: Purpose,
) -> Result<CertificateFacts, Refusal> {
    check_certificate(chain, roots, revocations, now, purpose).map(|(facts, _)| facts)
}

/// What a certificate is to be used for: it must allow the matching extended key usage, if it limits them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// Membership, which speaks in both directions: server and client authentication.
    Member,
    /// A TLS server.
    Server,
    /// A TLS client.
    Client,
}

impl ExtendedKeyUsageValidator for Purpose {
    fn validate(&self, iter: KeyPurposeIdIter<'_, '_>) -> Result<(), PathError> {
        let mut server = false;
        let mut client = false;
        let mut limited = false;
        let server_auth = KeyUsage::server_auth();
        let client_auth = KeyUsage::client_auth();
        for id in iter {
            let oid = id?.to_decoded_oid();
            limited = true;
            server |= server_auth.oid_values().eq(oid.iter().copied());
            client |= client_auth.oid_values().eq(oid.iter().copied());
        }
        let allowed = match self {
            Self::Member => server && client,
            Self::Server => server,
            Self::Client => client,
        };
        if !limited || allowed {
            Ok(())
        } else {
            Err(PathError::ExtensionValueInvalid)
        }
    }
}

fn one_spiffe_id(facts: &CertificateFacts) -> Result<SpiffeId, Refusal> {
    let mut uris = facts.spiffe_uris();
    let uri = uris.next().ok_or(Refusal::NoSpiffeId)?;
    if uris.next().is_some() {
        return Err(Refusal::SeveralSpiffeIds);
    }
    SpiffeId::parse(uri).ok_or_else(|| Refusal::BadSpiffeId(printable(uri)))
}

/// The CAs from a root to the leaf, without the leaf.
struct Path {
    /// Key hash of the root.
    root: [u8; 32],
    /// What lies between, the root's own first.
    intermediates: Vec<Intermediate>,
}

/// Whether every CA between root and leaf is in force. One is revoked by the CA above it, and so is the leaf, should
/// the intermediate that signed it be trusted to sign lists itself; the caller looks the leaf up under the root.
fn check_intermediates(
    root: &[u8; 32],
    intermediates: &[Intermediate],
    leaf_serial: &[u8],
    now: UnixTime,
    revocations: &Revocations,
) -> Result<(), Refusal> {
    let mut above = root;
    for intermediate in intermediates {
        refuse_expired_issuer(intermediate.not_after, now)?;
        refuse_revoked(above, &intermediate.serial, None, revocations)?;
        above = &intermediate.key_hash;
    }
    refuse_revoked(above, leaf_serial, None, revocations)
}

/// Signature path, time, revocation. Returns what the leaf says and the path it hangs on.
fn check_certificate(
    chain: &[CertificateDer<'_>],
    roots: &Roots,
    revocations: &Revocations,
    now: UnixTime,
    purpose: Purpose,
) -> Result<(CertificateFacts, Path), Refusal> {
    let (leaf, intermediates) = chain.split_first().ok_or(Refusal::NoCertificate)?;
    if chain.len() > MAX_CHAIN_CERTIFICATES + 1 {
        return Err(Refusal::Unsupported("more than 4 certificates and a root"));
    }
    let facts = CertificateFacts::parse(leaf).map_err(Refusal::Malformed)?;
    if facts.is_ca {
        return Err(Refusal::NotALeaf);
    }
    if facts.not_before.as_secs() > facts.not_after.as_secs() {
        return Err(Refusal::Malformed("its validity ends before it begins"));
    }
    let path = build_path(
        leaf,
        intermediates,
        roots,
        revocations,
        &facts,
        now,
        purpose,
    )?;
    if now.as_secs().saturating_add(CLOCK_TOLERANCE.as_secs()) < facts.not_before.as_secs() {
        return Err(Refusal::NotYetValid {
            until: facts.not_before,
        });
    }
    if now.as_secs() > facts.not_after.as_secs() {
        return Err(Refusal::Expired {
            since: facts.not_after,
        });
    }
    let peer_id = facts.spiffe_id().map(|id| id.peer_id);
    refuse_revoked(&path.root, &facts.serial, peer_id.as_ref(), revocations)?;
    Ok((facts, path))
}

/// Finds the path to a trusted CA, all of it in force.
fn build_path(
    leaf: &CertificateDer<'_>,
    intermediates: &[CertificateDer<'_>],
    roots: &Roots,
    revocations: &Revocations,
    facts: &CertificateFacts,
    now: UnixTime,
    purpose: Purpose,
) -> Result<Path, Refusal> {
    let end_entity =
        EndEntityCert::try_from(leaf).map_err(|error| refusal_of(&error, facts, roots))?;
    // The leaf's own times are judged by the caller, with tolerance and after its signature: keep them out of the
    // path search by asking for a moment at which the leaf is valid.
    let at = now
        .as_secs()
        .clamp(facts.not_before.as_secs(), facts.not_after.as_secs());
    let path = end_entity
        .verify_for_usage(
            webpki::ALL_VERIFICATION_ALGS,
            roots.anchors(),
            intermediates,
            UnixTime::since_unix_epoch(Duration::from_secs(at)),
            purpose,
            None,
            None,
        )
        .map_err(|error| refusal_of(&error, facts, roots))?;
    let root = roots
        .by_anchor(path.anchor())
        .max_by_key(|root| root.facts().not_after.as_secs())
        .ok_or(Refusal::UnknownIssuer)?;
    refuse_expired_issuer(root.facts().not_after, now)?;
    let intermediates = path
        .intermediate_certificates()
        .rev()
        .map(|intermediate| {
            let der = intermediate.der();
            let unreadable = Refusal::Malformed("an intermediate is no certificate");
            Ok(Intermediate {
                key_hash: spki_hash(&der).ok_or(unreadable)?,
                serial: trimmed(intermediate.serial()).to_vec(),
                not_after: CertificateFacts::parse(&der)
                    .map_err(Refusal::Malformed)?
                    .not_after,
            })
        })
        .collect::<Result<Vec<_>, Refusal>>()?;
    let root = root.key_hash();
    check_intermediates(&root, &intermediates, &facts.serial, now, revocations)?;
    Ok(Path {
        root,
        intermediates,
    })
}

fn refuse_expired_issuer(since: UnixTime, now: UnixTime) -> Result<(), Refusal> {
    if now.as_secs() > since.as_secs() {
        Err(Refusal::IssuerExpired { since })
    } else {
        Ok(())
    }
}

fn refuse_revoked(
    issuer: &[u8; 32],
    serial: &[u8],
    peer_id: Option<&PeerId>,
    revocations: &Revocations,
) -> Result<(), Refusal> {
    if let Some(peer_id) = peer_id.filter(|peer_id| revocations.is_peer_revoked(peer_id)) {
        return Err(Refusal::PeerRevoked(*peer_id));
    }
    if revocations.is_revoked(issuer, serial) {
        return Err(Refusal::Revoked {
            serial: serial.to_vec(),
        });
    }
    Ok(())
}

fn refusal_of(error: &PathError, facts: &CertificateFacts, roots: &Roots) -> Refusal {
    match error {
        PathError::UnknownIssuer => Refusal::UnknownIssuer,
        PathError::InvalidSignatureForPublicKey => {
            // Another organisation's CA may have the same name as ours; its key identifier tells the two apart.
            let foreign = facts
                .authority_key_id
                .as_ref()
                .is_some_and(|id| !roots.has_key_id(id));
            if foreign {
                Refusal::UnknownIssuer
            } else {
                Refusal::BadSignature
            }
        }
        PathError::CertExpired { not_after, .. } => Refusal::IssuerExpired { since: *not_after },
        PathError::CertNotValidYet { .. } => {
            Refusal::Unsupported("an intermediate CA is not valid yet")
        }
        PathError::CaUsedAsEndEntity => Refusal::NotALeaf,
        PathError::RequiredEkuNotFoundContext(_) | PathError::ExtensionValueInvalid => {
            Refusal::WrongUsage
        }
        PathError::UnsupportedCriticalExtension => {
            Refusal::Unsupported("an unknown critical extension")
        }
        PathError::NameConstraintViolation => Refusal::Unsupported("a name its CA may not certify"),
        PathError::PathLenConstraintViolated | PathError::MaximumPathDepthExceeded => {
            Refusal::Unsupported("more intermediate CAs than allowed")
        }
        PathError::MaximumSignatureChecksExceeded
        | PathError::MaximumPathBuildCallsExceeded
        | PathError::MaximumNameConstraintComparisonsExceeded => {
            Refusal::Unsupported("too much work to check it")
        }
        PathError::UnsupportedSignatureAlgorithmContext(_)
        | PathError::UnsupportedSignatureAlgorithmForPublicKeyContext(_) => {
            Refusal::Unsupported("an unsupported signature algorithm")
        }
        PathError::EndEntityUsedAsCa => Refusal::UnknownIssuer,
        PathError::SignatureAlgorithmMismatch => {
            Refusal::Malformed("its two signature algorithms differ")
        }
        PathError::UnsupportedCertVersion => {
            Refusal::Unsupported("not an X.509 version 3 certificate")
        }
        _ => Refusal::Malformed("it does not follow the X.509 profile"),
    }
}
