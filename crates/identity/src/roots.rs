//! The CA certificates an organisation trusts: one, or two while it changes from one CA to the next.

use std::fmt;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use rustls_pki_types::{CertificateDer, TrustAnchor, UnixTime};
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::prelude::X509Certificate;

use crate::certificate::{CertificateFacts, certificate_pem, certificates_from_pem};
use crate::organization::OrganizationId;

/// The most CA certificates one organisation may trust at a time.
const MAX_ROOTS: usize = 16;

/// A CA is followed by another when less than this remains of it: no leaf outlives its CA, and machines that are off for
/// a while have to fetch theirs of the new one.
pub const ROLL_OVER_BEFORE: Duration = Duration::from_secs(90 * 24 * 3600);

/// One trusted CA certificate, parsed once.
#[derive(Clone)]
pub struct RootCertificate {
    der: CertificateDer<'static>,
    anchor: TrustAnchor<'static>,
    facts: CertificateFacts,
    key_hash: [u8; 32],
}

impl fmt::Debug for RootCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "RootCertificate({}, sha256 {})",
            self.facts.subject,
            hex::encode(self.fingerprint())
        )
    }
}

impl RootCertificate {
    /// The certificate itself.
    #[must_use]
    pub fn der(&self) -> &CertificateDer<'static> {
        &self.der
    }

    /// What it says.
    #[must_use]
    pub fn facts(&self) -> &CertificateFacts {
        &self.facts
    }

    /// SHA-256 of the certificate's DER: what a join token pins and `openssl x509 -fingerprint -sha256` prints.
    #[must_use]
    pub fn fingerprint(&self) -> [u8; 32] {
        sha256(&self.der)
    }

    /// SHA-256 of the CA's public key (its `SubjectPublicKeyInfo` in DER): names the CA in [`crate::Member::issuer`].
    #[must_use]
    pub fn key_hash(&self) -> [u8; 32] {
        self.key_hash
    }
}

/// The trusted CA certificates of one organisation.
///
/// During a roll-over both the old and the new CA are in the set: leaves of either are members, each CA revokes its
/// own. Drop the old one once every leaf is of the new one.
#[derive(Clone, Debug)]
pub struct Roots {
    organization: OrganizationId,
    certificates: Vec<RootCertificate>,
    anchors: Vec<TrustAnchor<'static>>,
}

/// Why a set of CA certificates cannot be trusted. Nothing was changed.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum RootsError {
    /// No certificate in the text.
    #[error(
        "no certificate in it: expected `-----BEGIN CERTIFICATE-----` of the organisation's CA"
    )]
    NoCertificate,
    /// More than 16.
    #[error(
        "{0} CA certificates are too many: at most {MAX_ROOTS}, usually one, two while the CA changes"
    )]
    TooMany(usize),
    /// One is not readable.
    #[error("CA certificate {index} is damaged: {reason}")]
    Malformed {
        /// Counted from 1.
        index: usize,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// One is not allowed to sign certificates.
    #[error("`{subject}` is no CA: its certificate lacks CA:TRUE or the key usage keyCertSign")]
    NotACa {
        /// Its subject.
        subject: String,
    },
    /// One belongs to another organisation.
    #[error("the CA `{subject}` is for organisation {found}, but this node belongs to {expected}")]
    ForeignOrganization {
        /// Its subject.
        subject: String,
        /// The organisation the CA certificate names.
        found: OrganizationId,
        /// The configured one.
        expected: OrganizationId,
    },
}

impl Roots {
    /// Trusts these CA certificates for `organization`. A certificate without an organisation of its own (made by
    /// `openssl`) is trusted for the configured one.
    ///
    /// # Errors
    /// [`RootsError`] names the certificate that does not fit.
    pub fn new(
        organization: OrganizationId,
        certificates: impl IntoIterator<Item = CertificateDer<'static>>,
    ) -> Result<Self, RootsError> {
        let mut roots = Self::none(organization);
        for (i, der) in certificates.into_iter().enumerate() {
            let root = read_root(der, i + 1)?;
            if let Some(found) = root
                .facts
                .organization_of_ca()
                .filter(|org| *org != roots.organization)
            {
                return Err(RootsError::ForeignOrganization {
                    subject: root.facts.subject,
                    found,
                    expected: roots.organization,
                });
            }
            if roots.certificates.iter().all(|known| known.der != root.der) {
                roots.anchors.push(root.anchor.clone());
                roots.certificates.push(root);
            }
        }
        match roots.certificates.len() {
            0 => Err(RootsError::NoCertificate),
            n if n > MAX_ROOTS => Err(RootsError::TooMany(n)),
            _ => Ok(roots),
        }
    }

    /// Reads a `ca_cert.pem` with one or more certificates.
    ///
    /// # Errors
    /// As [`Roots::new`].
    pub fn from_pem(organization: OrganizationId, text: &str) -> Result<Self, RootsError> {
        let certificates = certificates_from_pem(text).map_err(|index| RootsError::Malformed {
            index,
            reason: "its PEM is incomplete",
        })?;
        Self::new(organization, certificates)
    }

    /// Trusts nobody: every certificate is refused as of an unknown issuer.
    #[must_use]
    pub fn none(organization: OrganizationId) -> Self {
        Self {
            organization,
            certificates: Vec::new(),
            anchors: Vec::new(),
        }
    }

    /// The organisation these roots speak for.
    #[must_use]
    pub fn organization(&self) -> &OrganizationId {
        &self.organization
    }

    /// The trusted certificates in their given order.
    #[must_use]
    pub fn certificates(&self) -> &[RootCertificate] {
        &self.certificates
    }

    /// All certificates as one PEM text.
    #[must_use]
    pub fn to_pem(&self) -> String {
        self.certificates
            .iter()
            .map(|root| certificate_pem(&root.der))
            .collect()
    }

    /// The trusted CA whose certificate has this SHA-256, if any.
    #[must_use]
    pub fn by_fingerprint(&self, fingerprint: &[u8; 32]) -> Option<&RootCertificate> {
        self.certificates
            .iter()
            .find(|root| root.fingerprint() == *fingerprint)
    }

    pub(crate) fn by_key_hash(&self, key_hash: &[u8; 32]) -> Option<&RootCertificate> {
        self.certificates
            .iter()
            .find(|root| root.key_hash == *key_hash)
    }

    pub(crate) fn by_anchor(
        &self,
        anchor: &TrustAnchor<'_>,
    ) -> impl Iterator<Item = &RootCertificate> {
        self.certificates.iter().filter(move |root| {
            root.anchor.subject == anchor.subject
                && root.anchor.subject_public_key_info == anchor.subject_public_key_info
        })
    }

    pub(crate) fn anchors(&self) -> &[TrustAnchor<'static>] {
        &self.anchors
    }

    /// Whether a trusted CA has this subject key identifier.
    pub(crate) fn has_key_id(&self, key_id: &[u8]) -> bool {
        self.certificates
            .iter()
            .any(|root| root.facts.subject_key_id.as_deref() == Some(key_id))
    }

    /// The CA certificate that ends first, if that is so near that another has to take its place: within
    /// [`ROLL_OVER_BEFORE`], or the last third of its life where that is shorter.
    #[must_use]
    pub fn due_for_roll_over(&self, now: UnixTime) -> Option<&RootCertificate> {
        let first = self
            .certificates
            .iter()
            .min_by_key(|root| root.facts.not_after.as_secs())?;
        let margin = ROLL_OVER_BEFORE.min(first.facts.lifetime() / 3);
        (first.facts.remaining(now) < margin).then_some(first)
    }
}

pub(crate) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

/// SHA-256 of a trust anchor's or certificate's `SubjectPublicKeyInfo`. webpki hands out the contents of that
/// sequence, x509-parser the whole of it; everything here hashes the whole.
pub(crate) fn spki_hash(cert_der: &[u8]) -> Option<[u8; 32]> {
    let (_, cert) = X509Certificate::from_der(cert_der).ok()?;
    Some(sha256(cert.public_key().raw))
}

fn read_root(der: CertificateDer<'static>, index: usize) -> Result<RootCertificate, RootsError> {
    let malformed = |reason| RootsError::Malformed { index, reason };
    let facts = CertificateFacts::parse(&der).map_err(malformed)?;
    let (_, cert) = X509Certificate::from_der(&der)
        .map_err(|_| malformed("the DER is no X.509 certificate"))?;
    let usage = cert
        .key_usage()
        .map_err(|_| malformed("its key usage is malformed"))?;
    if !facts.is_ca || usage.is_some_and(|usage| !usage.value.key_cert_sign()) {
        return Err(RootsError::NotACa {
            subject: facts.subject,
        });
    }
    let key_hash = sha256(cert.public_key().raw);
    let anchor = webpki::anchor_from_trusted_cert(&der)
        .map_err(|_| malformed("it cannot serve as a trust anchor"))?
        .to_owned();
    Ok(RootCertificate {
        der,
        anchor,
        facts,
        key_hash,
    })
}
