//! Signed requests: membership proven in the request itself, where TLS carries no client certificate.
//!
//! A front end that ends TLS takes the client's certificate away. So every request also carries two headers: the caller's
//! certificate chain and a statement, signed by the key in that certificate, of exactly this request and the time it was
//! made. The server takes it only where it does not insist on client certificates, only within
//! [`crate::core::window`], and for changes only once ([`crate::core::registry`]).

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use warren_identity::{
    CertificateDer, NodeKey, PeerId, Signed, SignedError, SignedPayload, UnixMillis, decode_chain,
    encode_chain,
};

/// Header with the caller's certificate chain, base64 of the concatenated DER.
pub const CHAIN_HEADER: &str = "warren-chain";

/// Header with the signed statement, base64.
pub const PROOF_HEADER: &str = "warren-proof";

/// The statement that is signed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct RequestProof {
    method: String,
    /// Path and query.
    target: String,
    body_blake3: [u8; 32],
    made_at: UnixMillis,
}

impl SignedPayload for RequestProof {
    const DOMAIN: &'static str = "warren/discovery-request/1";
    const MAX_BYTES: usize = 4 * 1024;

    fn check(&self, _signer: &PeerId) -> Result<(), &'static str> {
        Ok(())
    }
}

/// What a request is, for signing and checking.
#[derive(Debug, Clone, Copy)]
pub struct Subject<'a> {
    /// HTTP method, upper case.
    pub method: &'a str,
    /// Path and query.
    pub target: &'a str,
    /// The body's bytes; empty without one.
    pub body: &'a [u8],
}

/// A statement that fits its request. Whether the chain is a member's, and the time right, is not looked at yet.
#[derive(Debug)]
pub(crate) struct Proof {
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) signer: PeerId,
    pub(crate) made_at: UnixMillis,
}

/// Why a request's headers prove nothing.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ProofError {
    #[error("the header {0} is missing")]
    Missing(&'static str),
    #[error("the header {0} is not readable")]
    Malformed(&'static str),
    #[error(transparent)]
    Signature(#[from] SignedError),
    #[error("the signature is for another request")]
    OtherRequest,
}

/// The two headers for a request made at `now`: chain and statement, each with its name.
///
/// # Errors
/// [`SignedError::TooLong`] for a target of more than some kilobytes.
pub fn headers(
    subject: Subject<'_>,
    chain: &[CertificateDer<'_>],
    key: &NodeKey,
    now: UnixMillis,
) -> Result<[(&'static str, String); 2], SignedError> {
    let statement = RequestProof {
        method: subject.method.to_owned(),
        target: subject.target.to_owned(),
        body_blake3: *blake3::hash(subject.body).as_bytes(),
        made_at: now,
    };
    let signed = Signed::sign(statement, key)?;
    Ok([
        (CHAIN_HEADER, BASE64.encode(encode_chain(chain))),
        (PROOF_HEADER, BASE64.encode(signed.to_bytes())),
    ])
}

/// Reads the two headers and holds them against the request. `None` if neither is there.
pub(crate) fn read(
    chain: Option<&[u8]>,
    statement: Option<&[u8]>,
    subject: Subject<'_>,
) -> Result<Option<Proof>, ProofError> {
    let (chain, statement) = match (chain, statement) {
        (None, None) => return Ok(None),
        (None, Some(_)) => return Err(ProofError::Missing(CHAIN_HEADER)),
        (Some(_), None) => return Err(ProofError::Missing(PROOF_HEADER)),
        (Some(chain), Some(statement)) => (chain, statement),
    };
    let chain = BASE64
        .decode(chain)
        .ok()
        .and_then(|bytes| decode_chain(&bytes).ok())
        .ok_or(ProofError::Malformed(CHAIN_HEADER))?;
    let statement = BASE64
        .decode(statement)
        .map_err(|_| ProofError::Malformed(PROOF_HEADER))?;
    let signed = Signed::<RequestProof>::decode(&statement)?;
    let value = signed.value();
    let fits = value.method == subject.method
        && value.target == subject.target
        && value.body_blake3 == *blake3::hash(subject.body).as_bytes();
    if !fits {
        return Err(ProofError::OtherRequest);
    }
    Ok(Some(Proof {
        chain,
        signer: signed.signer(),
        made_at: value.made_at,
    }))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const SUBJECT: Subject<'static> = Subject {
        method: "POST",
        target: "/api/v1/network/register",
        body: b"{}",
    };

    fn signed() -> [(&'static str, String); 2] {
        let key = NodeKey::from_seed([5; 32]);
        // DER in form; whether it is a certificate matters to whoever judges the chain.
        let chain = [CertificateDer::from(vec![0x30, 1, 0])];
        headers(SUBJECT, &chain, &key, UnixMillis(1)).unwrap()
    }

    fn read_for(subject: Subject<'_>) -> Result<Option<Proof>, ProofError> {
        let [(_, chain), (_, statement)] = signed();
        read(Some(chain.as_bytes()), Some(statement.as_bytes()), subject)
    }

    #[test]
    fn a_statement_fits_its_own_request_only() {
        let others = [
            Subject {
                method: "DELETE",
                ..SUBJECT
            },
            Subject {
                target: "/api/v1/renew",
                ..SUBJECT
            },
            Subject {
                body: b"{ }",
                ..SUBJECT
            },
        ];
        let own = read_for(SUBJECT).unwrap().unwrap();
        assert_eq!(own.signer, NodeKey::from_seed([5; 32]).peer_id());
        for other in others {
            assert_eq!(read_for(other).unwrap_err(), ProofError::OtherRequest);
        }
    }

    #[test]
    fn without_headers_there_is_nothing_and_half_of_them_is_an_error() {
        assert!(read(None, None, SUBJECT).unwrap().is_none());
        assert_eq!(
            read(Some(b""), None, SUBJECT).unwrap_err(),
            ProofError::Missing(PROOF_HEADER)
        );
    }
}
