//! What stands in a certificate: SPIFFE id, names, validity, capabilities; and leaves as PEM and as bounded chains.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::time::Duration;

use libp2p_identity::PeerId;
use rustls_pki_types::{CertificateDer, UnixTime};
use x509_parser::asn1_rs::{FromDer as _, Sequence, ToDer as _, Utf8String};
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::oid_registry::{Oid, asn1_rs::oid};
use x509_parser::prelude::X509Certificate;

use crate::capability::Capabilities;
use crate::organization::OrganizationId;

/// The extension that lists a leaf's capabilities: non-critical, DER `SEQUENCE OF UTF8String`.
///
/// The arc is ITU-T X.667's `2.25`, under which anyone may use a number that nobody else draws; this one was drawn at
/// random below 2^63 and is fixed for ever. `.1` is the capability list; further extensions of Warren take `.2` on.
pub const CAPABILITIES_OID: [u64; 4] = [2, 25, 6_842_175_390_418_277_053, 1];
const CAPABILITIES_OID_DER: Oid<'static> = oid!(2.25.6842175390418277053.1);

/// The most certificates a peer may send: leaf and up to three intermediates.
pub const MAX_CHAIN_CERTIFICATES: usize = 4;
/// The longest certificate that is looked at, in bytes.
pub const MAX_CERTIFICATE_BYTES: usize = 16 * 1024;
/// A leaf is renewed when less than this remains, or a third of its lifetime if that is shorter.
pub const RENEW_BEFORE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The identity that a member's leaf carries as its one URI SAN: `spiffe://<organization_id>/node/<peer_id>`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpiffeId {
    /// The organisation, which is the SPIFFE trust domain.
    pub organization: OrganizationId,
    /// The node.
    pub peer_id: PeerId,
}

impl SpiffeId {
    /// Parses the exact form; `None` for any other text.
    #[must_use]
    pub fn parse(uri: &str) -> Option<Self> {
        let (organization, peer_id) = uri.strip_prefix("spiffe://")?.split_once("/node/")?;
        let id = Self {
            organization: OrganizationId::new(organization).ok()?,
            peer_id: PeerId::from_str(peer_id).ok()?,
        };
        // One spelling only: a peer id has several text forms.
        (id.to_string() == uri).then_some(id)
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/node/{}", self.organization, self.peer_id)
    }
}

/// The public key of a certificate, as far as trust decisions look at it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SubjectKey {
    /// A node key.
    Ed25519([u8; 32]),
    /// The curve of companion leaves: an uncompressed point.
    P256(Vec<u8>),
    /// Anything else, by name or OID.
    Other(String),
}

/// What a certificate says. Parsing proves nothing: only [`crate::verify_member`] does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CertificateFacts {
    /// Serial number, big-endian without leading zeros.
    pub serial: Vec<u8>,
    /// Subject common name, if there is one.
    pub common_name: Option<String>,
    /// The whole subject, for people.
    pub subject: String,
    /// The whole issuer, for people.
    pub issuer: String,
    /// Start of validity.
    pub not_before: UnixTime,
    /// End of validity.
    pub not_after: UnixTime,
    /// Whether basic constraints say CA:TRUE.
    pub is_ca: bool,
    /// The public key.
    pub key: SubjectKey,
    /// URI SANs as they stand.
    pub uris: Vec<String>,
    /// DNS SANs.
    pub dns: Vec<String>,
    /// IP SANs.
    pub ip: Vec<IpAddr>,
    /// The capability extension; empty when absent.
    pub capabilities: Capabilities,
    /// Subject key identifier.
    pub subject_key_id: Option<Vec<u8>>,
    /// Authority key identifier.
    pub authority_key_id: Option<Vec<u8>>,
}

impl CertificateFacts {
    /// Parses one DER certificate of at most [`MAX_CERTIFICATE_BYTES`].
    ///
    /// # Errors
    /// What is malformed, in a few words.
    pub fn parse(der: &[u8]) -> Result<Self, &'static str> {
        if der.len() > MAX_CERTIFICATE_BYTES {
            return Err("the certificate is longer than 16 KiB");
        }
        let (rest, cert) =
            X509Certificate::from_der(der).map_err(|_| "the DER is no X.509 certificate")?;
        if !rest.is_empty() {
            return Err("bytes follow the certificate");
        }
        let mut facts = Self {
            serial: trimmed(cert.raw_serial()).to_vec(),
            common_name: (cert.subject().iter_common_name().next())
                .and_then(|cn| cn.as_str().ok())
                .map(printable),
            subject: printable(&cert.subject().to_string()),
            issuer: printable(&cert.issuer().to_string()),
            not_before: unix_time(cert.validity().not_before.timestamp()),
            not_after: unix_time(cert.validity().not_after.timestamp()),
            is_ca: false,
            key: subject_key(&cert),
            uris: Vec::new(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::none(),
            subject_key_id: None,
            authority_key_id: None,
        };
        facts.read_extensions(&cert)?;
        Ok(facts)
    }

    fn read_extensions(&mut self, cert: &X509Certificate<'_>) -> Result<(), &'static str> {
        let mut seen = Vec::new();
        for extension in cert.extensions() {
            if seen.contains(&&extension.oid) {
                return Err("an extension occurs twice");
            }
            seen.push(&extension.oid);
            if extension.oid == CAPABILITIES_OID_DER {
                self.capabilities = decode_capabilities(extension.value)?;
                continue;
            }
            match extension.parsed_extension() {
                ParsedExtension::BasicConstraints(constraints) => self.is_ca = constraints.ca,
                ParsedExtension::SubjectKeyIdentifier(id) => {
                    self.subject_key_id = Some(id.0.to_vec());
                }
                ParsedExtension::AuthorityKeyIdentifier(id) => {
                    self.authority_key_id = id.key_identifier.as_ref().map(|id| id.0.to_vec());
                }
                ParsedExtension::SubjectAlternativeName(names) => {
                    for name in &names.general_names {
                        self.read_name(name)?;
                    }
                }
                ParsedExtension::ParseError { .. } => return Err("an extension is malformed"),
                _ => {}
            }
        }
        Ok(())
    }

    fn read_name(&mut self, name: &GeneralName<'_>) -> Result<(), &'static str> {
        match name {
            GeneralName::URI(uri) => self.uris.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => self.dns.push((*dns).to_owned()),
            GeneralName::IPAddress(bytes) => self
                .ip
                .push(ip_address(bytes).ok_or("an IP name has a wrong length")?),
            GeneralName::Invalid(..) => return Err("a subject alternative name is malformed"),
            _ => {}
        }
        Ok(())
    }

    /// The SPIFFE URIs among the URI SANs.
    pub fn spiffe_uris(&self) -> impl Iterator<Item = &str> {
        self.uris
            .iter()
            .map(String::as_str)
            .filter(|uri| uri.starts_with("spiffe://"))
    }

    /// The one node identity of the certificate, if it has exactly one SPIFFE URI and that is a node's.
    #[must_use]
    pub fn spiffe_id(&self) -> Option<SpiffeId> {
        let mut uris = self.spiffe_uris();
        let first = SpiffeId::parse(uris.next()?)?;
        uris.next().is_none().then_some(first)
    }

    /// The organisation of a CA certificate that carries `spiffe://<org>` (every CA made by Warren does).
    #[must_use]
    pub fn organization_of_ca(&self) -> Option<OrganizationId> {
        self.spiffe_uris()
            .find_map(|uri| OrganizationId::new(uri.strip_prefix("spiffe://")?).ok())
    }

    /// Time left until the end of validity; zero when it has passed.
    #[must_use]
    pub fn remaining(&self, now: UnixTime) -> Duration {
        Duration::from_secs(self.not_after.as_secs().saturating_sub(now.as_secs()))
    }

    /// Whether the leaf should be renewed now: less than 30 days remain ([`RENEW_BEFORE`]), or less than a third of
    /// the lifetime where that is shorter, so that a leaf for a day is not renewed on every look.
    #[must_use]
    pub fn renewal_due(&self, now: UnixTime) -> bool {
        self.remaining(now) < self.renewal_margin()
    }

    fn renewal_margin(&self) -> Duration {
        RENEW_BEFORE.min(self.lifetime() / 3)
    }

    /// From its beginning to its end.
    #[must_use]
    pub fn lifetime(&self) -> Duration {
        Duration::from_secs(
            self.not_after
                .as_secs()
                .saturating_sub(self.not_before.as_secs()),
        )
    }

    /// From here on an issuer renews it, long before [`Self::renewal_due`] has its node ask.
    pub(crate) fn end_of_first_third(&self) -> UnixTime {
        let passed = self
            .not_before
            .as_secs()
            .saturating_add((self.lifetime() / 3).as_secs());
        UnixTime::since_unix_epoch(Duration::from_secs(passed))
    }
}

/// A node's leaf as it is kept in `node_cert.pem`: the leaf itself, intermediates if its CA has any, and the companion.
///
/// In PEM the leaf comes first, so `openssl x509` and `openssl verify` see it; the companion, a P-256 leaf with the
/// same SPIFFE id, comes last.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    chain_der: Vec<CertificateDer<'static>>,
    companion: Option<CertificateDer<'static>>,
    facts: CertificateFacts,
    spiffe: SpiffeId,
}

/// Why a PEM text is no member's leaf.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum LeafError {
    /// No certificate in the text.
    #[error("no certificate in it: expected `-----BEGIN CERTIFICATE-----`")]
    NoCertificate,
    /// More certificates than a chain may have.
    #[error(
        "{0} certificates are too many: a leaf file holds the leaf, at most 3 intermediates and one companion"
    )]
    TooMany(usize),
    /// One is not readable.
    #[error("certificate {index} in the file is damaged: {reason}")]
    Malformed {
        /// Counted from 1.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The first certificate is a CA.
    #[error(
        "the first certificate is a CA, not a leaf; the leaf comes first, and CA certificates belong in `ca_cert`"
    )]
    NotALeaf,
    /// The first certificate binds no peer id.
    #[error(
        "the certificate of `{subject}` names no node: it has no URI SAN spiffe://ORG/node/PEER_ID; it can serve HTTPS, \
         but joining the mesh takes a leaf from `warren ca issue`"
    )]
    NoPeerId {
        /// Its subject.
        subject: String,
    },
    /// The first certificate names a node but carries another sort of key.
    #[error(
        "the first certificate is not for the Ed25519 key of {0}; the node's own leaf comes first in the file"
    )]
    WrongKey(Box<PeerId>),
}

impl Leaf {
    /// Sorts the certificates of a chain into leaf, intermediates and companion.
    ///
    /// # Errors
    /// [`LeafError`] names the certificate that does not fit.
    pub fn new(certificates: Vec<CertificateDer<'static>>) -> Result<Self, LeafError> {
        if certificates.len() > MAX_CHAIN_CERTIFICATES + 1 {
            return Err(LeafError::TooMany(certificates.len()));
        }
        let mut parsed = Vec::with_capacity(certificates.len());
        for (i, der) in certificates.into_iter().enumerate() {
            let facts = CertificateFacts::parse(&der).map_err(|reason| LeafError::Malformed {
                index: i + 1,
                reason,
            })?;
            parsed.push((der, facts));
        }
        let mut parsed = parsed.into_iter();
        let (der, facts) = parsed.next().ok_or(LeafError::NoCertificate)?;
        if facts.is_ca {
            return Err(LeafError::NotALeaf);
        }
        let spiffe = facts.spiffe_id().ok_or_else(|| LeafError::NoPeerId {
            subject: facts.subject.clone(),
        })?;
        if facts.key != key_of_peer(&spiffe.peer_id) {
            return Err(LeafError::WrongKey(Box::new(spiffe.peer_id)));
        }
        let mut chain_der = vec![der];
        let mut companion = None;
        for (der, other) in parsed {
            if other.is_ca {
                chain_der.push(der);
            } else if matches!(other.key, SubjectKey::P256(_))
                && other.spiffe_id().as_ref() == Some(&spiffe)
            {
                companion = Some(der);
            }
        }
        Ok(Self {
            chain_der,
            companion,
            facts,
            spiffe,
        })
    }

    /// Reads a leaf file.
    ///
    /// # Errors
    /// As [`Leaf::new`].
    pub fn from_pem(text: &str) -> Result<Self, LeafError> {
        Self::new(
            certificates_from_pem(text).map_err(|index| LeafError::Malformed {
                index,
                reason: "its PEM is incomplete",
            })?,
        )
    }

    /// The leaf file: leaf, intermediates, companion.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.chain_der
            .iter()
            .chain(&self.companion)
            .map(|der| certificate_pem(der))
            .collect()
    }

    /// What is presented to other nodes: the leaf, then intermediates. Never empty.
    #[must_use]
    pub fn chain_der(&self) -> &[CertificateDer<'static>] {
        &self.chain_der
    }

    /// The P-256 leaf with the same SPIFFE id, if one was issued.
    #[must_use]
    pub fn companion(&self) -> Option<&CertificateDer<'static>> {
        self.companion.as_ref()
    }

    /// What the leaf says.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// The node the leaf is for.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.spiffe.peer_id
    }

    /// The organisation the leaf claims; proven only by [`crate::verify_member`].
    #[must_use]
    pub fn organization(&self) -> &OrganizationId {
        &self.spiffe.organization
    }
}

/// A chain on the wire: the certificates' DER one after the other (each carries its own length).
#[must_use]
pub fn encode_chain(chain: &[CertificateDer<'_>]) -> Vec<u8> {
    chain.iter().flat_map(|der| der.iter().copied()).collect()
}

/// Cuts a chain from the wire into at most [`MAX_CHAIN_CERTIFICATES`] certificates of at most
/// [`MAX_CERTIFICATE_BYTES`] each. Their contents are looked at by [`crate::verify_member`].
///
/// # Errors
/// What is wrong with the bytes, in a few words.
pub fn decode_chain(bytes: &[u8]) -> Result<Vec<CertificateDer<'static>>, &'static str> {
    let mut chain = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        if chain.len() == MAX_CHAIN_CERTIFICATES {
            return Err("the chain has more than 4 certificates");
        }
        let (after, _) =
            Sequence::from_der(rest).map_err(|_| "the chain is no sequence of certificates")?;
        let (this, after) = rest.split_at(rest.len() - after.len());
        if this.len() > MAX_CERTIFICATE_BYTES {
            return Err("a certificate is longer than 16 KiB");
        }
        chain.push(CertificateDer::from(this.to_vec()));
        rest = after;
    }
    if chain.is_empty() {
        Err("the chain is empty")
    } else {
        Ok(chain)
    }
}

/// The certificates of a PEM text in order; other blocks are skipped. The error is the number of the broken block.
pub fn certificates_from_pem(text: &str) -> Result<Vec<CertificateDer<'static>>, usize> {
    let begun = text.matches("-----BEGIN CERTIFICATE-----").count();
    let blocks = pem::parse_many(text).map_err(|_| begun.max(1))?;
    let certificates: Vec<_> = blocks
        .into_iter()
        .filter(|block| block.tag() == "CERTIFICATE")
        .map(|block| CertificateDer::from(block.into_contents()))
        .collect();
    if certificates.len() < begun {
        Err(certificates.len() + 1)
    } else {
        Ok(certificates)
    }
}

pub(crate) fn certificate_pem(der: &[u8]) -> String {
    pem_text("CERTIFICATE", der)
}

pub(crate) fn pem_text(tag: &str, der: &[u8]) -> String {
    pem::encode_config(
        &pem::Pem::new(tag, der),
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    )
}

/// The subject key that a leaf of this peer must have.
pub(crate) fn key_of_peer(peer_id: &PeerId) -> SubjectKey {
    crate::key::public_key_of_peer_id(peer_id).map_or_else(
        || SubjectKey::Other("a hashed peer id, which holds no key".to_owned()),
        SubjectKey::Ed25519,
    )
}

/// DER `SEQUENCE OF UTF8String`.
pub(crate) fn encode_capabilities(capabilities: &Capabilities) -> Vec<u8> {
    let texts: Vec<_> = capabilities
        .iter()
        .map(|c| Utf8String::from(c.to_string()))
        .collect();
    let content: Vec<u8> = texts
        .iter()
        .filter_map(|text| text.to_der_vec().ok())
        .flatten()
        .collect();
    Sequence::new(content.into())
        .to_der_vec()
        .unwrap_or_default()
}

fn decode_capabilities(der: &[u8]) -> Result<Capabilities, &'static str> {
    const MALFORMED: &str = "the capability extension is malformed";
    let (rest, list) = Sequence::from_der(der).map_err(|_| MALFORMED)?;
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    let mut names = Vec::new();
    let mut content: &[u8] = &list.content;
    while !content.is_empty() {
        let (after, name) = Utf8String::from_der(content).map_err(|_| MALFORMED)?;
        names.push(name.string());
        content = after;
    }
    Capabilities::parse(names).map_err(|_| MALFORMED)
}

/// A serial or other big-endian number without its leading zeros.
pub(crate) fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|b| **b == 0).count();
    &number[zeros..]
}

/// A text from a certificate as it may stand in a log: no control characters, at most 200 characters.
pub(crate) fn printable(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(200).collect()
}

pub(crate) fn unix_time(seconds: i64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(u64::try_from(seconds).unwrap_or(0)))
}

/// The subject key of a `SubjectPublicKeyInfo`.
pub(crate) fn key_of_spki(spki: &x509_parser::x509::SubjectPublicKeyInfo<'_>) -> SubjectKey {
    let bits: &[u8] = &spki.subject_public_key.data;
    match spki.algorithm.algorithm.to_id_string().as_str() {
        "1.3.101.112" => match <[u8; 32]>::try_from(bits) {
            Ok(key) if spki.subject_public_key.unused_bits == 0 => SubjectKey::Ed25519(key),
            _ => SubjectKey::Other("a malformed Ed25519 key".to_owned()),
        },
        "1.2.840.113549.1.1.1" => SubjectKey::Other("RSA".to_owned()),
        "1.2.840.10045.2.1" => {
            let curve = spki
                .algorithm
                .parameters
                .as_ref()
                .and_then(|p| p.as_oid().ok())
                .map(|oid| oid.to_id_string());
            match curve.as_deref() {
                Some("1.2.840.10045.3.1.7") => SubjectKey::P256(bits.to_vec()),
                _ => SubjectKey::Other("elliptic-curve, not P-256".to_owned()),
            }
        }
        other => SubjectKey::Other(other.to_owned()),
    }
}

fn subject_key(cert: &X509Certificate<'_>) -> SubjectKey {
    key_of_spki(cert.public_key())
}

fn ip_address(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(v4.into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(IpAddr::from)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const PEER: &str = "12D3KooWD3eckifWpRn9wQpMG9R9hX3sD158z7EqHWmweQAJU5SA";

    #[test]
    fn given_uris_when_parsed_then_only_the_one_exact_form_names_a_node() {
        let good = format!("spiffe://org_acme/node/{PEER}");
        assert_eq!(SpiffeId::parse(&good).unwrap().to_string(), good);
        let bad = [
            "spiffe://org_acme".to_owned(),
            format!("spiffe://org_acme/node/{PEER}/"),
            format!("spiffe://ORG/node/{PEER}"),
            format!("spiffe://org_acme/{PEER}"),
            format!("https://org_acme/node/{PEER}"),
            "spiffe://org_acme/node/12D3".to_owned(),
        ];
        for uri in bad {
            assert_eq!(SpiffeId::parse(&uri), None, "{uri}");
        }
    }

    #[test]
    fn given_capabilities_when_encoded_then_the_der_is_a_sequence_of_utf8_strings() {
        let set = Capabilities::parse(["relay", "hub"]).unwrap();
        let der = encode_capabilities(&set);
        assert_eq!(der, b"\x30\x0c\x0c\x03hub\x0c\x05relay");
        assert_eq!(decode_capabilities(&der).unwrap(), set);
        for bad in [
            &b"\x30\x01"[..],
            b"\x0c\x03hub",
            b"\x30\x05\x0c\x03HUB",
            b"\x30\x05\x0c\x03hub\x00",
        ] {
            assert!(decode_capabilities(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn given_the_extension_arc_when_written_as_numbers_and_as_oid_then_both_are_the_same() {
        let numbers: Vec<u64> = CAPABILITIES_OID_DER.iter().unwrap().collect();
        assert_eq!(numbers, CAPABILITIES_OID);
    }
}
