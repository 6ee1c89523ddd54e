//! The organisation's certificate authority: it makes leaves and revocation lists.
//!
//! A CA made here has an ECDSA P-256 key, so that companion leaves chain for clients that refuse Ed25519. A CA made by
//! `openssl req -x509` (RSA or elliptic-curve) serves as well. Serials and key material are drawn by the caller; only
//! the nonces of ECDSA signatures come from the crypto library.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use libp2p_identity::PeerId;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CustomExtension,
    DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, PublicKeyData, RevocationReason, RevokedCertParams, SanType, SerialNumber,
    SignatureAlgorithm,
};
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::prelude::X509Certificate;
use zeroize::Zeroizing;

use crate::capability::Capabilities;
use crate::certificate::{
    CAPABILITIES_OID, CertificateFacts, Leaf, LeafError, SpiffeId, certificate_pem,
    encode_capabilities,
};
use crate::key::{CompanionKey, KeyError, public_key_of_peer_id};
use crate::organization::OrganizationId;
use crate::revocation::peer_revocation_serial;
use crate::roots::{Roots, RootsError};

/// How long a CA made here is valid: 10 years of 365 days, as `openssl req -days 3650`.
pub const CA_VALIDITY: Duration = Duration::from_secs(3650 * 24 * 3600);
/// Leaves begin this much before they are issued, for machines whose clock is behind.
pub const ISSUE_BACKDATE: Duration = Duration::from_secs(3600);
/// The longest validity of a leaf: 825 days, the most that common TLS clients accept of a private CA.
const MAX_LEAF_VALIDITY: Duration = Duration::from_secs(825 * 24 * 3600);
/// The most names one leaf may carry.
const MAX_NAMES: usize = 64;

/// A certificate's serial number: 16 random bytes, made positive and of full length.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Serial([u8; 16]);

impl Serial {
    /// Shapes random bytes into a serial of exactly 16 bytes (RFC 5280 §4.1.2.2: positive, at most 20).
    #[must_use]
    pub fn from_random(mut bytes: [u8; 16]) -> Self {
        bytes[0] = (bytes[0] & 0x3f) | 0x40;
        Self(bytes)
    }

    /// The bytes, big-endian.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 16] {
        &self.0
    }

    /// The serial of the companion issued together with this leaf.
    #[must_use]
    pub fn companion(&self) -> Self {
        let hash = blake3::derive_key("warren 2026 companion leaf serial v1", &self.0);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(&hash[..16]);
        Self::from_random(bytes)
    }
}

/// What a new CA is made from. It has no `Debug`, for it holds the private key.
pub struct CaRequest {
    /// The organisation it speaks for.
    pub organization: OrganizationId,
    /// 32 fresh random bytes: the private key.
    pub key_material: Zeroizing<[u8; 32]>,
    /// Fresh random serial.
    pub serial: Serial,
    /// How long it is valid, usually [`CA_VALIDITY`].
    pub validity: Duration,
}

/// Whether a leaf may carry `*.` names, with which its holder can pose as any host of that domain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum WildcardNames {
    /// Such a name is an error.
    #[default]
    Refuse,
    /// The operator asked for it.
    Allow,
}

/// What a leaf shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeafRequest {
    /// The node, whose public key is inside its peer id.
    pub peer_id: PeerId,
    /// Subject common name: 1 to 64 printable characters.
    pub name: String,
    /// DNS names.
    pub dns: Vec<String>,
    /// IP addresses.
    pub ip: Vec<IpAddr>,
    /// What the node may do.
    pub capabilities: Capabilities,
    /// From now; at most 825 days. The leaf never outlives its CA.
    pub validity: Duration,
    /// The P-256 public point (65 bytes) of a companion leaf to issue as well.
    pub companion_key: Option<Vec<u8>>,
    /// Whether `*.` names are allowed.
    pub wildcards: WildcardNames,
}

impl LeafRequest {
    /// The same leaf again for the same node, for a renewal. Names and capabilities come from the present leaf.
    #[must_use]
    pub fn renewal_of(present: &Leaf, validity: Duration, companion_key: Option<Vec<u8>>) -> Self {
        let facts = present.facts();
        Self {
            peer_id: present.peer_id(),
            name: facts.common_name.clone().unwrap_or_default(),
            dns: facts.dns.clone(),
            ip: facts.ip.clone(),
            capabilities: facts.capabilities.clone(),
            validity,
            companion_key,
            // The CA allowed what the present leaf has.
            wildcards: WildcardNames::Allow,
        }
    }
}

/// Why a CA could not be made or loaded. Nothing was created.
#[derive(Debug, thiserror::Error)]
pub enum LoadAuthorityError {
    /// The certificate cannot serve as a CA.
    #[error(transparent)]
    Certificate(#[from] RootsError),
    /// The certificate names no organisation and none was given.
    #[error("the CA certificate names no organisation; say which one it is for (`--org ORG`)")]
    NoOrganization,
    /// The key is damaged, encrypted or of an algorithm that cannot sign certificates here.
    #[error("the CA key cannot be used: {0}")]
    Key(&'static str),
    /// The key is another CA's.
    #[error("the CA key does not belong to the CA certificate `{0}`")]
    KeyMismatch(String),
    /// The random bytes are no private key (odds 2^-32).
    #[error(transparent)]
    Material(#[from] KeyError),
    /// The crypto library refused to sign the CA's own certificate.
    #[error("the CA certificate could not be signed: {0}")]
    Sign(String),
    /// rcgen cannot write the CA's subject as the certificate has it, so its leaves would not chain.
    #[error(
        "the subject of the CA `{0}` has a form that cannot be written into leaves; make a CA with plain text names"
    )]
    Subject(String),
}

/// Why a leaf or a revocation list was not signed. Nothing was issued.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum IssueError {
    /// The name is empty, too long or unprintable.
    #[error("`{0}` is no name for a node: use 1 to 64 printable characters")]
    BadName(String),
    /// Not a host name.
    #[error("`{0}` is no DNS name")]
    BadDnsName(String),
    /// A wildcard that was not asked for.
    #[error(
        "`{0}` lets its holder pose as every host of that domain; pass --allow-wildcard if that is meant"
    )]
    Wildcard(String),
    /// More names than a leaf may carry.
    #[error("{0} names are too many for one leaf, which carries at most {MAX_NAMES}")]
    TooManyNames(usize),
    /// Zero or beyond the limit.
    #[error("a validity of {0} seconds is not allowed: use 1 second to 825 days")]
    BadValidity(u64),
    /// The peer id holds no Ed25519 key.
    #[error("peer id {0} holds no Ed25519 key; node peer ids begin with 12D3KooW")]
    NotAnEd25519Peer(PeerId),
    /// The companion key is no P-256 point.
    #[error("the companion key is no uncompressed P-256 point of 65 bytes")]
    BadCompanionKey,
    /// The CA itself has ended, or has not begun.
    #[error(
        "the CA certificate is outside its validity; make a new CA and trust both during the change"
    )]
    AuthorityExpired,
    /// The peer was revoked.
    #[error("node {0} is revoked; give the machine a new key with `warren keygen`")]
    PeerRevoked(PeerId),
    /// The CA's key usages forbid it.
    #[error(
        "the key usage of the CA certificate does not allow to sign revocation lists (cRLSign)"
    )]
    NoCrlSign,
    /// The crypto or encoding library refused.
    #[error("it could not be signed: {0}")]
    Sign(String),
    /// What came out is no leaf; a bug rather than bad input.
    #[error("what was signed is no usable leaf: {0}")]
    Unusable(#[from] LeafError),
}

/// An organisation's CA with its private key.
pub struct CertificateAuthority {
    roots: Roots,
    issuer: Issuer<'static, KeyPair>,
    key_id: Vec<u8>,
    key_pem: Zeroizing<String>,
}

impl fmt::Debug for CertificateAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateAuthority")
            .field("roots", &self.roots)
            .finish_non_exhaustive()
    }
}

impl CertificateAuthority {
    /// Makes a new CA: ECDSA P-256, self-signed, CA:TRUE, keyCertSign and cRLSign, subject `O=<org>, CN=<org> Warren
    /// CA`, URI SAN `spiffe://<org>`.
    ///
    /// # Errors
    /// [`LoadAuthorityError::Material`] for unlucky random bytes; draw again.
    pub fn create(request: &CaRequest, now: UnixTime) -> Result<Self, LoadAuthorityError> {
        let organization = &request.organization;
        let key = CompanionKey::from_scalar(&request.key_material)?;
        let key_pem = key.to_pem();
        let pair = ca_key_pair(&key_pem)?;
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::OrganizationName, organization.as_str());
        params
            .distinguished_name
            .push(DnType::CommonName, ca_common_name(organization));
        params.not_before = date_time(before(now, ISSUE_BACKDATE));
        params.not_after = date_time(after(now, request.validity));
        params.serial_number = Some(SerialNumber::from_slice(request.serial.as_bytes()));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let uri = organization.trust_domain_uri();
        params.subject_alt_names = vec![SanType::URI(
            uri.try_into()
                .map_err(|e: rcgen::Error| LoadAuthorityError::Sign(e.to_string()))?,
        )];
        let certificate = params
            .self_signed(&pair)
            .map_err(|e| LoadAuthorityError::Sign(e.to_string()))?;
        Self::from_parts(
            Roots::new(organization.clone(), [certificate.der().clone()])?,
            pair,
            key_pem,
        )
    }

    /// Loads a CA: one made here, or by `openssl req -x509` with an RSA or elliptic-curve key. Of several
    /// certificates in the text (a roll-over file) the one that fits the key is used.
    ///
    /// `organization` may be `None` for a CA made here, whose certificate names it.
    ///
    /// # Errors
    /// [`LoadAuthorityError`].
    pub fn from_pem(
        certificate_pem: &str,
        key_pem: &str,
        organization: Option<&OrganizationId>,
    ) -> Result<Self, LoadAuthorityError> {
        let certificates =
            crate::certificate::certificates_from_pem(certificate_pem).map_err(|index| {
                RootsError::Malformed {
                    index,
                    reason: "its PEM is incomplete",
                }
            })?;
        let pair = ca_key_pair(key_pem)?;
        let own = pair.subject_public_key_info();
        let holds_own_key = |der: &CertificateDer<'_>| {
            X509Certificate::from_der(der).is_ok_and(|(_, cert)| cert.public_key().raw == own)
        };
        let first = certificates
            .first()
            .ok_or(RootsError::NoCertificate)?
            .clone();
        let Some(der) = certificates.into_iter().find(holds_own_key) else {
            let subject = CertificateFacts::parse(&first)
                .map(|facts| facts.subject)
                .unwrap_or_default();
            return Err(LoadAuthorityError::KeyMismatch(subject));
        };
        let named = CertificateFacts::parse(&der)
            .ok()
            .and_then(|facts| facts.organization_of_ca());
        let organization = organization
            .cloned()
            .or(named)
            .ok_or(LoadAuthorityError::NoOrganization)?;
        Self::from_parts(
            Roots::new(organization, [der])?,
            pair,
            Zeroizing::new(key_pem.to_owned()),
        )
    }

    fn from_parts(
        roots: Roots,
        pair: KeyPair,
        key_pem: Zeroizing<String>,
    ) -> Result<Self, LoadAuthorityError> {
        let der = roots.certificates()[0].der().clone();
        let key_id = roots.certificates()[0]
            .facts()
            .subject_key_id
            .clone()
            .unwrap_or_else(|| roots.certificates()[0].key_hash()[..20].to_vec());
        let subject = roots.certificates()[0].facts().subject.clone();
        let issuer = Issuer::from_ca_cert_der(&der, pair)
            .map_err(|_| LoadAuthorityError::Subject(subject.clone()))?;
        let authority = Self {
            roots,
            issuer,
            key_id,
            key_pem,
        };
        authority.check_subject_round_trip(subject)?;
        Ok(authority)
    }

    /// A trial leaf must name its issuer byte for byte as the CA certificate names itself (RFC 5280 §4.1.2.4).
    fn check_subject_round_trip(&self, subject: String) -> Result<(), LoadAuthorityError> {
        let mut params = CertificateParams::default();
        params.serial_number = Some(SerialNumber::from(1_u64));
        let trial = params
            .signed_by(self.issuer.key(), &self.issuer)
            .map_err(|e| LoadAuthorityError::Sign(e.to_string()))?;
        let own = X509Certificate::from_der(self.certificate());
        let of_trial = X509Certificate::from_der(trial.der());
        match (own, of_trial) {
            (Ok((_, own)), Ok((_, trial))) if own.subject().as_raw() == trial.issuer().as_raw() => {
                Ok(())
            }
            _ => Err(LoadAuthorityError::Subject(subject)),
        }
    }

    /// The organisation.
    #[must_use]
    pub fn organization(&self) -> &OrganizationId {
        self.roots.organization()
    }

    /// The CA certificate.
    #[must_use]
    pub fn certificate(&self) -> &CertificateDer<'static> {
        self.roots.certificates()[0].der()
    }

    /// The CA certificate as PEM, for `ca_cert.pem`.
    #[must_use]
    pub fn certificate_pem(&self) -> String {
        certificate_pem(self.certificate())
    }

    /// The private key as PEM, for `ca_key.pem` (0400).
    #[must_use]
    pub fn key_pem(&self) -> &str {
        &self.key_pem
    }

    /// Roots that trust this CA alone.
    #[must_use]
    pub fn roots(&self) -> &Roots {
        &self.roots
    }

    /// Signs a leaf, and its companion if a key for one is given. The CA needs the node's peer id only: the Ed25519
    /// public key is inside it.
    ///
    /// # Errors
    /// [`IssueError`] says what of the request cannot be certified.
    pub fn issue(
        &self,
        request: &LeafRequest,
        now: UnixTime,
        serial: Serial,
    ) -> Result<Leaf, IssueError> {
        let public = public_key_of_peer_id(&request.peer_id)
            .ok_or(IssueError::NotAnEd25519Peer(request.peer_id))?;
        let params = self.leaf_params(request, now)?;
        let mut chain = vec![self.sign_leaf(params.clone(), serial, &RawKey::ed25519(public))?];
        if let Some(point) = &request.companion_key {
            let key = RawKey::p256(point).ok_or(IssueError::BadCompanionKey)?;
            chain.push(self.sign_leaf(params, serial.companion(), &key)?);
        }
        Ok(Leaf::new(chain)?)
    }

    fn sign_leaf(
        &self,
        mut params: CertificateParams,
        serial: Serial,
        key: &RawKey,
    ) -> Result<CertificateDer<'static>, IssueError> {
        params.serial_number = Some(SerialNumber::from_slice(serial.as_bytes()));
        let certificate = params
            .signed_by(key, &self.issuer)
            .map_err(|e| IssueError::Sign(e.to_string()))?;
        Ok(certificate.der().clone())
    }

    fn leaf_params(
        &self,
        request: &LeafRequest,
        now: UnixTime,
    ) -> Result<CertificateParams, IssueError> {
        LeafTerms::of(request).check()?;
        let ca = self.roots.certificates()[0].facts();
        if now.as_secs() > ca.not_after.as_secs() || now.as_secs() < ca.not_before.as_secs() {
            return Err(IssueError::AuthorityExpired);
        }
        let sign_error = |e: rcgen::Error| IssueError::Sign(e.to_string());
        let spiffe = SpiffeId {
            organization: self.organization().clone(),
            peer_id: request.peer_id,
        };
        let mut names = vec![SanType::URI(
            spiffe.to_string().try_into().map_err(sign_error)?,
        )];
        for dns in &request.dns {
            names.push(SanType::DnsName(
                dns.as_str().try_into().map_err(sign_error)?,
            ));
        }
        names.extend(request.ip.iter().map(|ip| SanType::IpAddress(*ip)));
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params
            .distinguished_name
            .push(DnType::CommonName, request.name.as_str());
        params.not_before = date_time(before(now, ISSUE_BACKDATE).max(ca.not_before.as_secs()));
        params.not_after = date_time(after(now, request.validity).min(ca.not_after.as_secs()));
        params.subject_alt_names = names;
        // Writes CA:FALSE and, with it, the subject key identifier.
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.use_authority_key_identifier_extension = true;
        if !request.capabilities.is_empty() {
            params.custom_extensions = vec![CustomExtension::from_oid_content(
                &CAPABILITIES_OID,
                encode_capabilities(&request.capabilities),
            )];
        }
        Ok(params)
    }

    /// Signs a revocation list and returns its DER. [`crate::IssuanceLedger::sign_crl`] does the numbering.
    ///
    /// # Errors
    /// [`IssueError::NoCrlSign`] or [`IssueError::Sign`].
    pub fn sign_crl(&self, request: &CrlRequest) -> Result<Vec<u8>, IssueError> {
        let usages = self.issuer.key_usages();
        if !usages.is_empty() && !usages.contains(&KeyUsagePurpose::CrlSign) {
            return Err(IssueError::NoCrlSign);
        }
        let params = CertificateRevocationListParams {
            this_update: date_time(request.this_update.as_secs()),
            next_update: date_time(request.next_update.as_secs()),
            crl_number: SerialNumber::from(request.number),
            issuing_distribution_point: None,
            revoked_certs: request
                .revoked
                .iter()
                .map(RevokedSerial::to_params)
                .collect(),
            key_identifier_method: KeyIdMethod::PreSpecified(self.key_id.clone()),
        };
        let crl = params
            .signed_by(&self.issuer)
            .map_err(|e| IssueError::Sign(e.to_string()))?;
        Ok(crl.der().to_vec())
    }
}

/// What a revocation list shall say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CrlRequest {
    /// Higher than every earlier number of this CA.
    pub number: u64,
    /// Now.
    pub this_update: UnixTime,
    /// By when the next list is promised.
    pub next_update: UnixTime,
    /// Everything revoked, in full: a list replaces its predecessor.
    pub revoked: Vec<RevokedSerial>,
}

/// One entry of a revocation list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RevokedSerial {
    /// Big-endian.
    pub serial: Vec<u8>,
    /// Since when.
    pub revoked_at: UnixTime,
}

impl RevokedSerial {
    /// The entry that revokes a peer with every leaf it has or will have.
    #[must_use]
    pub fn peer(peer_id: &PeerId, revoked_at: UnixTime) -> Self {
        Self {
            serial: peer_revocation_serial(peer_id).to_vec(),
            revoked_at,
        }
    }

    fn to_params(&self) -> RevokedCertParams {
        RevokedCertParams {
            serial_number: SerialNumber::from_slice(&self.serial),
            revocation_time: date_time(self.revoked_at.as_secs()),
            reason_code: Some(RevocationReason::PrivilegeWithdrawn),
            invalidity_date: None,
        }
    }
}

/// A public key without its private half.
struct RawKey {
    bytes: Vec<u8>,
    algorithm: &'static SignatureAlgorithm,
}

impl RawKey {
    fn ed25519(public: [u8; 32]) -> Self {
        Self {
            bytes: public.to_vec(),
            algorithm: &rcgen::PKCS_ED25519,
        }
    }

    fn p256(point: &[u8]) -> Option<Self> {
        let valid = point.len() == 65 && point[0] == 4;
        valid.then(|| Self {
            bytes: point.to_vec(),
            algorithm: &rcgen::PKCS_ECDSA_P256_SHA256,
        })
    }
}

impl PublicKeyData for RawKey {
    fn der_bytes(&self) -> &[u8] {
        &self.bytes
    }

    fn algorithm(&self) -> &'static SignatureAlgorithm {
        self.algorithm
    }
}

fn ca_key_pair(key_pem: &str) -> Result<KeyPair, LoadAuthorityError> {
    if key_pem.contains("ENCRYPTED") {
        return Err(LoadAuthorityError::Key(
            "it is encrypted: name the file with its passphrase (`--passphrase-file FILE`; for a running issuer `network.security.issuer_passphrase_file`)",
        ));
    }
    if !key_pem.contains("PRIVATE KEY-----") {
        return Err(LoadAuthorityError::Key(
            "there is no private key in it: expected PEM, RSA (2048 to 8192 bits) or ECDSA P-256/P-384",
        ));
    }
    KeyPair::from_pem(key_pem)
        .map_err(|_| LoadAuthorityError::Key("it is damaged or of an unsupported algorithm: expected PEM, RSA (2048 to 8192 bits) or ECDSA P-256/P-384"))
}

/// `<org> Warren CA`, with the organisation cut so that the name keeps to 64 characters (RFC 5280 appendix A).
fn ca_common_name(organization: &OrganizationId) -> String {
    const SUFFIX: &str = " Warren CA";
    let org = organization.as_str();
    format!("{}{SUFFIX}", &org[..org.len().min(64 - SUFFIX.len())])
}

/// What a leaf will say, before it is known for which key and when.
pub(crate) struct LeafTerms<'a> {
    pub(crate) name: &'a str,
    pub(crate) dns: &'a [String],
    pub(crate) ip: &'a [IpAddr],
    pub(crate) validity: Duration,
    pub(crate) wildcards: WildcardNames,
}

impl<'a> LeafTerms<'a> {
    fn of(request: &'a LeafRequest) -> Self {
        Self {
            name: &request.name,
            dns: &request.dns,
            ip: &request.ip,
            validity: request.validity,
            wildcards: request.wildcards,
        }
    }

    /// Whether a CA would sign this.
    pub(crate) fn check(&self) -> Result<(), IssueError> {
        check_name(self.name)?;
        let names = self.dns.len() + self.ip.len();
        if names > MAX_NAMES {
            return Err(IssueError::TooManyNames(names));
        }
        if self.validity.as_secs() == 0 || self.validity > MAX_LEAF_VALIDITY {
            return Err(IssueError::BadValidity(self.validity.as_secs()));
        }
        self.dns
            .iter()
            .try_for_each(|dns| check_dns_name(dns, self.wildcards))
    }
}

fn check_name(name: &str) -> Result<(), IssueError> {
    if name.is_empty() || name.chars().count() > 64 || name.chars().any(char::is_control) {
        return Err(IssueError::BadName(name.chars().take(80).collect()));
    }
    Ok(())
}

fn check_dns_name(name: &str, wildcards: WildcardNames) -> Result<(), IssueError> {
    let bad = || IssueError::BadDnsName(name.chars().take(80).collect());
    let host = match (name.strip_prefix("*."), wildcards) {
        (Some(_), WildcardNames::Refuse) => return Err(IssueError::Wildcard(name.to_owned())),
        (Some(host), WildcardNames::Allow) => host,
        (None, _) => name,
    };
    let label_ok = |label: &str| {
        (1..=63).contains(&label.len())
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    if host.len() > 253 || !host.split('.').all(label_ok) || host.parse::<IpAddr>().is_ok() {
        return Err(bad());
    }
    Ok(())
}

fn before(now: UnixTime, by: Duration) -> u64 {
    now.as_secs().saturating_sub(by.as_secs())
}

fn after(now: UnixTime, by: Duration) -> u64 {
    now.as_secs().saturating_add(by.as_secs())
}

/// The end of the year 9999 is the last moment X.509 can express (RFC 5280 §4.1.2.5).
const LAST_X509_SECOND: u64 = 253_402_300_799;

fn date_time(unix_s: u64) -> time::OffsetDateTime {
    time::OffsetDateTime::UNIX_EPOCH + Duration::from_secs(unix_s.min(LAST_X509_SECOND))
}
