//! Signed payloads: a postcard body, the signer's public key and an Ed25519 signature bound to one purpose.
//!
//! What is signed is `"warren signed payload v1" ‖ length of DOMAIN as one byte ‖ DOMAIN ‖ body`, so a signature made
//! for one purpose is none for another. The body's bytes are kept as received: re-encoding never breaks a signature.

use std::fmt;
use std::marker::PhantomData;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use libp2p_identity::PeerId;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::key::{NodeKey, peer_id_of_public_key};

const PREFIX: &[u8] = b"warren signed payload v1";

/// Something that nodes sign.
pub trait SignedPayload: Serialize + DeserializeOwned {
    /// Names the purpose, e.g. `warren/node-record/1`; at most 255 bytes, unique in the project.
    const DOMAIN: &'static str;
    /// The longest accepted body, in bytes.
    const MAX_BYTES: usize = 64 * 1024;

    /// What must hold beyond the signature: bounds of fields, and that the signer may speak for the subject.
    ///
    /// # Errors
    /// What is wrong, in a few words.
    fn check(&self, signer: &PeerId) -> Result<(), &'static str>;
}

/// Why bytes are no signed payload. Nothing of them may be used.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum SignedError {
    /// Longer than its kind may be.
    #[error("a signed {domain} of {length} bytes exceeds its limit of {limit}")]
    TooLong {
        /// The kind.
        domain: &'static str,
        /// What came.
        length: usize,
        /// What is allowed.
        limit: usize,
    },
    /// The envelope or the body cannot be decoded, or bytes follow it.
    #[error("not a readable signed {0}")]
    Malformed(&'static str),
    /// The signature does not fit body, purpose and key.
    #[error("the signature of a signed {0} is wrong")]
    BadSignature(&'static str),
    /// The contents break a rule of their kind.
    #[error("a signed {domain} is not acceptable: {reason}")]
    Unacceptable {
        /// The kind.
        domain: &'static str,
        /// The rule.
        reason: &'static str,
    },
}

/// A payload whose signature holds. One that exists has been verified or was signed here.
pub struct Signed<T> {
    value: T,
    body: Vec<u8>,
    public_key: [u8; 32],
    signature: [u8; 64],
    signer: PeerId,
}

/// What goes over the wire, in postcard.
#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    public_key: [u8; 32],
    #[serde(borrow)]
    signature: &'a [u8],
    #[serde(borrow)]
    body: &'a [u8],
}

/// Envelope bytes beyond the body: key, signature, two lengths.
const OVERHEAD: usize = 32 + 64 + 1 + 5;

impl<T: SignedPayload> Signed<T> {
    /// Signs a payload.
    ///
    /// # Errors
    /// [`SignedError::TooLong`] or [`SignedError::Unacceptable`]: what receivers would refuse is not signed.
    pub fn sign(value: T, key: &NodeKey) -> Result<Self, SignedError> {
        let signer = key.peer_id();
        value
            .check(&signer)
            .map_err(|reason| SignedError::Unacceptable {
                domain: T::DOMAIN,
                reason,
            })?;
        let body = postcard::to_allocvec(&value).map_err(|_| SignedError::Malformed(T::DOMAIN))?;
        refuse_long::<T>(body.len(), T::MAX_BYTES)?;
        let signature = key.sign(&signed_bytes(T::DOMAIN, &body));
        Ok(Self {
            value,
            body,
            public_key: key.public_key(),
            signature,
            signer,
        })
    }

    /// Decodes and verifies. Never allocates more than the length of `bytes` allows.
    ///
    /// # Errors
    /// [`SignedError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, SignedError> {
        refuse_long::<T>(bytes.len(), T::MAX_BYTES + OVERHEAD)?;
        let malformed = || SignedError::Malformed(T::DOMAIN);
        let (envelope, rest) =
            postcard::take_from_bytes::<Envelope<'_>>(bytes).map_err(|_| malformed())?;
        let signature: [u8; 64] = envelope.signature.try_into().map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        refuse_long::<T>(envelope.body.len(), T::MAX_BYTES)?;
        let signer = peer_id_of_public_key(&envelope.public_key).ok_or_else(malformed)?;
        UnparsedPublicKey::new(&ED25519, &envelope.public_key)
            .verify(&signed_bytes(T::DOMAIN, envelope.body), &signature)
            .map_err(|_| SignedError::BadSignature(T::DOMAIN))?;
        let (value, rest) =
            postcard::take_from_bytes::<T>(envelope.body).map_err(|_| malformed())?;
        if !rest.is_empty() {
            return Err(malformed());
        }
        value
            .check(&signer)
            .map_err(|reason| SignedError::Unacceptable {
                domain: T::DOMAIN,
                reason,
            })?;
        Ok(Self {
            value,
            body: envelope.body.to_vec(),
            public_key: envelope.public_key,
            signature,
            signer,
        })
    }

    /// The bytes that [`Signed::decode`] reads.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        let envelope = Envelope {
            public_key: self.public_key,
            signature: &self.signature,
            body: &self.body,
        };
        // Writing plain bytes into memory has no failing path in postcard.
        postcard::to_allocvec(&envelope).unwrap_or_default()
    }
}

impl<T> Signed<T> {
    /// The payload.
    #[must_use]
    pub fn value(&self) -> &T {
        &self.value
    }

    /// Who signed it.
    #[must_use]
    pub fn signer(&self) -> PeerId {
        self.signer
    }
}

impl<T: Clone> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            value: self.value.clone(),
            body: self.body.clone(),
            public_key: self.public_key,
            signature: self.signature,
            signer: self.signer,
        }
    }
}

impl<T: fmt::Debug> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Signed")
            .field("signer", &self.signer)
            .field("value", &self.value)
            .finish_non_exhaustive()
    }
}

impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        (&self.body, self.public_key, self.signature)
            == (&other.body, other.public_key, other.signature)
    }
}

impl<T> Eq for Signed<T> {}

/// As bytes in binary formats, as base64 text in readable ones.
impl<T: SignedPayload> Serialize for Signed<T> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        use base64::Engine as _;
        let bytes = self.to_bytes();
        if serializer.is_human_readable() {
            serializer.serialize_str(&base64::engine::general_purpose::STANDARD.encode(bytes))
        } else {
            serializer.serialize_bytes(&bytes)
        }
    }
}

/// Verifies while reading: a message that holds a forged payload does not decode.
impl<'de, T: SignedPayload> Deserialize<'de> for Signed<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Visitor(PhantomData))
        } else {
            deserializer.deserialize_bytes(Visitor(PhantomData))
        }
    }
}

struct Visitor<T>(PhantomData<T>);

impl<T: SignedPayload> serde::de::Visitor<'_> for Visitor<T> {
    type Value = Signed<T>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a signed {}", T::DOMAIN)
    }

    fn visit_bytes<E: serde::de::Error>(self, bytes: &[u8]) -> Result<Self::Value, E> {
        Signed::decode(bytes).map_err(E::custom)
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Self::Value, E> {
        use base64::Engine as _;
        refuse_long::<T>(text.len() / 4 * 3, T::MAX_BYTES + OVERHEAD).map_err(E::custom)?;
        let bytes = base64::engine::general_purpose::STANDARD
            .decode(text)
            .map_err(E::custom)?;
        Signed::decode(&bytes).map_err(E::custom)
    }
}

fn refuse_long<T: SignedPayload>(length: usize, limit: usize) -> Result<(), SignedError> {
    if length > limit {
        Err(SignedError::TooLong {
            domain: T::DOMAIN,
            length,
            limit,
        })
    } else {
        Ok(())
    }
}

fn signed_bytes(domain: &'static str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(PREFIX.len() + 1 + domain.len() + body.len());
    bytes.extend_from_slice(PREFIX);
    bytes.push(u8::try_from(domain.len()).unwrap_or(u8::MAX));
    bytes.extend_from_slice(domain.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
    struct Note(String);

    impl SignedPayload for Note {
        const DOMAIN: &'static str = "test/note/1";
        const MAX_BYTES: usize = 100;

        fn check(&self, _signer: &PeerId) -> Result<(), &'static str> {
            if self.0.is_empty() {
                Err("it is empty")
            } else {
                Ok(())
            }
        }
    }

    #[derive(Debug, Serialize, Deserialize)]
    struct Order(String);

    impl SignedPayload for Order {
        const DOMAIN: &'static str = "test/order/1";

        fn check(&self, _signer: &PeerId) -> Result<(), &'static str> {
            Ok(())
        }
    }

    fn key() -> NodeKey {
        NodeKey::from_seed([7; 32])
    }

    #[test]
    fn given_a_signed_payload_when_sent_in_any_format_then_value_and_signer_come_back() {
        let signed = Signed::sign(Note("hello".into()), &key()).unwrap();
        let by_bytes = Signed::<Note>::decode(&signed.to_bytes()).unwrap();
        assert_eq!(
            (by_bytes.value().0.as_str(), by_bytes.signer()),
            ("hello", key().peer_id())
        );
        let by_postcard: Signed<Note> =
            postcard::from_bytes(&postcard::to_allocvec(&signed).unwrap()).unwrap();
        let by_json: Signed<Note> =
            serde_json::from_str(&serde_json::to_string(&signed).unwrap()).unwrap();
        assert_eq!(by_postcard, signed);
        assert_eq!(by_json, signed);
    }

    #[test]
    fn given_a_signature_for_one_purpose_when_read_for_another_then_it_is_refused() {
        let note = Signed::sign(Note("pay".into()), &key()).unwrap().to_bytes();
        assert_eq!(
            Signed::<Order>::decode(&note).unwrap_err(),
            SignedError::BadSignature("test/order/1")
        );
    }

    #[test]
    fn given_any_altered_byte_when_decoded_then_it_is_refused() {
        let good = Signed::sign(Note("hello".into()), &key())
            .unwrap()
            .to_bytes();
        for i in 0..good.len() {
            for bit in 0..8 {
                let mut bad = good.clone();
                bad[i] ^= 1 << bit;
                assert!(Signed::<Note>::decode(&bad).is_err(), "byte {i} bit {bit}");
            }
        }
        let longer = [good, vec![0]].concat();
        assert_eq!(
            Signed::<Note>::decode(&longer).unwrap_err(),
            SignedError::Malformed("test/note/1")
        );
    }

    #[test]
    fn given_what_receivers_would_refuse_when_signed_then_it_is_refused_already() {
        let long = Signed::sign(Note("x".repeat(100)), &key()).unwrap_err();
        assert!(matches!(
            long,
            SignedError::TooLong {
                length: 101,
                limit: 100,
                ..
            }
        ));
        assert!(matches!(
            Signed::sign(Note(String::new()), &key()),
            Err(SignedError::Unacceptable { .. })
        ));
    }
}
