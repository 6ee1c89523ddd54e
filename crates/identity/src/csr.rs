//! Certificate signing requests: how a node asks for a leaf without showing its private key.

use libp2p_identity::PeerId;
use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};
use x509_parser::asn1_rs::FromDer as _;
use x509_parser::extensions::{GeneralName, ParsedExtension};
use x509_parser::prelude::X509CertificationRequest;

use crate::certificate::{SubjectKey, key_of_spki, pem_text};
use crate::key::{NodeKey, peer_id_of_public_key};
use crate::roots::sha256;

/// The longest signing request that is looked at.
const MAX_CSR_BYTES: usize = 16 * 1024;

/// A certificate signing request whose proof of possession holds: the sender has the private key.
///
/// `node.csr` holds two PEM blocks: the node key's request and, after it, that of the companion key. The first names
/// the second key by its hash, so nobody can slip in a companion key of their own on the way to the CA. What they ask
/// for besides keys is not granted by itself: names and capabilities come from the operator or a join grant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Csr {
    peer_id: PeerId,
    common_name: Option<String>,
    companion_key: Option<Vec<u8>>,
}

/// Why a signing request was refused.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CsrError {
    /// No request in the text.
    #[error(
        "no signing request in it: expected `-----BEGIN CERTIFICATE REQUEST-----`; make one with `warren keygen --csr`"
    )]
    NotPem,
    /// Not readable.
    #[error("the signing request is damaged or longer than 16 KiB")]
    Malformed,
    /// Not signed by the key it is for.
    #[error(
        "the signing request is not signed by its own key: it was altered, or its sender does not have the key"
    )]
    NoProofOfPossession,
    /// Not for a node key.
    #[error("the signing request is for {0}, but a node key is Ed25519")]
    WrongAlgorithm(String),
    /// The second request is not for the P-256 key that the first one names.
    #[error(
        "the second signing request in the text is not for the P-256 companion key that the first one names: it was \
         exchanged or altered on the way"
    )]
    BadCompanion,
    /// The library refused to sign.
    #[error("the signing request could not be signed: {0}")]
    Sign(String),
}

impl Csr {
    /// Makes the requests of a node: for its key and its companion key.
    ///
    /// # Errors
    /// [`CsrError::Sign`].
    pub fn create_pem(key: &NodeKey, name: &str) -> Result<String, CsrError> {
        let sign_error = |e: rcgen::Error| CsrError::Sign(e.to_string());
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, name);
        let companion_pem = key.companion_key().to_pem();
        let companion_pair = KeyPair::from_pem(&companion_pem).map_err(sign_error)?;
        let mut own = params.clone();
        let reference = companion_reference(key.companion_key().public_key());
        own.subject_alt_names = vec![SanType::URI(reference.try_into().map_err(sign_error)?)];
        let own = own.serialize_request(key).map_err(sign_error)?;
        let companion = params
            .serialize_request(&companion_pair)
            .map_err(sign_error)?;
        Ok([
            pem_text("CERTIFICATE REQUEST", own.der()),
            pem_text("CERTIFICATE REQUEST", companion.der()),
        ]
        .concat())
    }

    /// Reads and proves one or two requests. `openssl req -new` with an Ed25519 key makes the first just as well.
    ///
    /// # Errors
    /// [`CsrError`].
    pub fn from_pem(text: &str) -> Result<Self, CsrError> {
        if text.len() > 4 * MAX_CSR_BYTES {
            return Err(CsrError::Malformed);
        }
        let blocks = pem::parse_many(text).map_err(|_| CsrError::Malformed)?;
        let mut requests = blocks
            .iter()
            .filter(|b| matches!(b.tag(), "CERTIFICATE REQUEST" | "NEW CERTIFICATE REQUEST"));
        let Some(first) = requests.next() else {
            let begun = text.contains("-----BEGIN");
            return Err(if begun {
                CsrError::Malformed
            } else {
                CsrError::NotPem
            });
        };
        let own = read_csr(first.contents())?;
        let SubjectKey::Ed25519(public) = own.key else {
            return Err(CsrError::WrongAlgorithm(match own.key {
                SubjectKey::Other(name) => format!("a key of type {name}"),
                _ => "an elliptic-curve key (P-256)".to_owned(),
            }));
        };
        let companion_key = match requests.next() {
            None => None,
            Some(block) => match read_csr(block.contents())?.key {
                SubjectKey::P256(point) if own.uris.contains(&companion_reference(&point)) => {
                    Some(point)
                }
                _ => return Err(CsrError::BadCompanion),
            },
        };
        let peer_id = peer_id_of_public_key(&public).ok_or(CsrError::Malformed)?;
        Ok(Self {
            peer_id,
            common_name: own.common_name,
            companion_key,
        })
    }

    /// The node that asks.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.peer_id
    }

    /// The name it asks for.
    #[must_use]
    pub fn common_name(&self) -> Option<&str> {
        self.common_name.as_deref()
    }

    /// The public point of its companion key, for [`crate::LeafRequest::companion_key`].
    #[must_use]
    pub fn companion_key(&self) -> Option<&[u8]> {
        self.companion_key.as_deref()
    }
}

/// How the node key's request names the companion key: a URN with the SHA-256 of its point.
fn companion_reference(point: &[u8]) -> String {
    format!("urn:warren:companion:{}", hex::encode(sha256(point)))
}

struct ReadCsr {
    key: SubjectKey,
    common_name: Option<String>,
    uris: Vec<String>,
}

fn read_csr(der: &[u8]) -> Result<ReadCsr, CsrError> {
    if der.len() > MAX_CSR_BYTES {
        return Err(CsrError::Malformed);
    }
    let (rest, csr) = X509CertificationRequest::from_der(der).map_err(|_| CsrError::Malformed)?;
    if !rest.is_empty() {
        return Err(CsrError::Malformed);
    }
    let info = &csr.certification_request_info;
    csr.verify_signature()
        .map_err(|_| CsrError::NoProofOfPossession)?;
    let mut uris = Vec::new();
    for extension in csr.requested_extensions().into_iter().flatten() {
        if let ParsedExtension::SubjectAlternativeName(names) = extension {
            uris.extend(names.general_names.iter().filter_map(|name| match name {
                GeneralName::URI(uri) => Some((*uri).to_owned()),
                _ => None,
            }));
        }
    }
    let common_name = info
        .subject
        .iter_common_name()
        .next()
        .and_then(|cn| cn.as_str().ok());
    Ok(ReadCsr {
        key: key_of_spki(&info.subject_pki),
        common_name: common_name.map(str::to_owned),
        uris,
    })
}
