//! Node keys: an Ed25519 seed in PKCS#8 PEM (RFC 8410), and the peer id derived from its public half.

use std::fmt;
use std::sync::Arc;

use aws_lc_rs::agreement::{ECDH_P256, PrivateKey as AgreementKey};
use aws_lc_rs::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _,
};
use libp2p_identity::{KeyType, PeerId};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use x509_parser::asn1_rs::{Any, FromDer, Integer, OctetString, Oid, Sequence, Tag};
use zeroize::{Zeroize as _, Zeroizing};

/// DER of `PrivateKeyInfo { version 0, Ed25519, OCTET STRING { OCTET STRING (32) } }` up to the seed (RFC 8410 §7).
const PKCS8_PREFIX: [u8; 16] = [
    0x30, 0x2e, 0x02, 0x01, 0x00, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x04, 0x22, 0x04, 0x20,
];
/// `id-Ed25519`, 1.3.101.112.
const OID_ED25519: &[u8] = &[0x2b, 0x65, 0x70];
/// PEM text longer than this is no key of ours.
const MAX_KEY_PEM_BYTES: usize = 64 * 1024;

/// Why a node key could not be read. Nothing was changed; the message never contains key bytes.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum KeyError {
    /// The text holds no PEM block at all.
    #[error(
        "no PEM block in it: expected `-----BEGIN PRIVATE KEY-----`; make a key with `warren keygen --output FILE`"
    )]
    NotPem,
    /// A PEM block begins but does not end, or its base64 or DER stops early.
    #[error(
        "the key is truncated or damaged: {0}; restore it from a backup or make a new one with `warren keygen`"
    )]
    Damaged(&'static str),
    /// The PEM block is something else than a PKCS#8 private key.
    #[error(
        "the PEM block is `{0}`, not `PRIVATE KEY` (PKCS#8); make a key with `warren keygen --output FILE`"
    )]
    WrongBlock(String),
    /// The key is under a passphrase: [`crate::decrypt_key_pem`] opens it.
    #[error(
        "the key is encrypted: name the file with its passphrase (`--passphrase-file FILE`; for a running node `network.security.tls_key_passphrase_file`)"
    )]
    Encrypted,
    /// A private key of another algorithm.
    #[error(
        "the key is {0}, but a node key is Ed25519; make one with `warren keygen --output FILE`"
    )]
    WrongAlgorithm(&'static str),
    /// The public half stored beside the seed is not the seed's.
    #[error(
        "the public key stored in the file does not belong to its private key; the file is damaged"
    )]
    PublicKeyMismatch,
    /// The 32 bytes given are no private scalar of the curve (odds 2^-32); draw again.
    #[error("these random bytes are no P-256 private key; draw again")]
    NotAScalar,
}

/// A node's Ed25519 key. Cloning shares the one copy in memory, which is wiped when the last clone goes.
#[derive(Clone)]
pub struct NodeKey(Arc<Inner>);

struct Inner {
    seed: Zeroizing<[u8; 32]>,
    pair: Ed25519KeyPair,
    public: [u8; 32],
    peer_id: PeerId,
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("NodeKey").field(&self.0.peer_id).finish()
    }
}

impl NodeKey {
    /// The key of a 32-byte seed (RFC 8032 §5.1.5). The caller draws the seed from a cryptographic generator.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every 32-byte string is an Ed25519 seed, and its public key is a point"
    )]
    pub fn from_seed(mut seed: [u8; 32]) -> Self {
        let pair = Ed25519KeyPair::from_seed_unchecked(&seed).expect("32 bytes are a seed");
        let public: [u8; 32] = pair
            .public_key()
            .as_ref()
            .try_into()
            .expect("an Ed25519 public key has 32 bytes");
        let peer_id = peer_id_of_public_key(&public).expect("a derived public key is a point");
        let kept = Zeroizing::new(seed);
        seed.zeroize();
        Self(Arc::new(Inner {
            seed: kept,
            pair,
            public,
            peer_id,
        }))
    }

    /// Reads a PKCS#8 PEM key: ours, or one of `openssl genpkey -algorithm ed25519`.
    ///
    /// # Errors
    /// [`KeyError`] says exactly what the text is instead.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        if text.len() > MAX_KEY_PEM_BYTES {
            return Err(KeyError::Damaged("it is longer than any key"));
        }
        let blocks = pem::parse_many(text).map_err(|_| damaged_or_no_pem(text))?;
        let Some(block) = blocks
            .iter()
            .find(|b| b.tag() != "EC PARAMETERS" && b.tag() != "CERTIFICATE")
            .or(blocks.first())
        else {
            return Err(damaged_or_no_pem(text));
        };
        match block.tag() {
            "PRIVATE KEY" if is_traditionally_encrypted(block) => Err(KeyError::Encrypted),
            "PRIVATE KEY" => Self::from_pkcs8(block.contents()),
            "ENCRYPTED PRIVATE KEY" => Err(KeyError::Encrypted),
            _ if is_traditionally_encrypted(block) => Err(KeyError::Encrypted),
            "RSA PRIVATE KEY" => Err(KeyError::WrongAlgorithm("RSA")),
            "EC PRIVATE KEY" => Err(KeyError::WrongAlgorithm("elliptic-curve (ECDSA)")),
            other => Err(KeyError::WrongBlock(other.chars().take(40).collect())),
        }
    }

    /// Reads the DER of a PKCS#8 `PrivateKeyInfo` or RFC 5958 `OneAsymmetricKey`.
    ///
    /// # Errors
    /// As [`NodeKey::from_pem`].
    pub fn from_pkcs8(der: &[u8]) -> Result<Self, KeyError> {
        let short = |_| KeyError::Damaged("its DER stops early or is malformed");
        let (rest, outer) = Sequence::from_der(der).map_err(short)?;
        if !rest.is_empty() {
            return Err(KeyError::Damaged("bytes follow the key"));
        }
        let (body, _version) = Integer::from_der(&outer.content).map_err(short)?;
        let (body, algorithm) = Sequence::from_der(body).map_err(short)?;
        let (_, oid) = Oid::from_der(&algorithm.content).map_err(short)?;
        if oid.as_bytes() != OID_ED25519 {
            return Err(KeyError::WrongAlgorithm(algorithm_name(&oid)));
        }
        let (mut body, wrapped) = OctetString::from_der(body).map_err(short)?;
        let (rest, seed) = OctetString::from_der(wrapped.as_cow().as_ref())
            .map_err(short)
            .map(|(rest, seed)| (rest.len(), Zeroizing::new(seed.as_cow().to_vec())))?;
        let seed: [u8; 32] = match seed.as_slice().try_into() {
            Ok(seed) if rest == 0 => seed,
            _ => return Err(KeyError::Damaged("an Ed25519 key has 32 bytes")),
        };
        let key = Self::from_seed(seed);
        while !body.is_empty() {
            let (rest, field) = Any::from_der(body).map_err(short)?;
            body = rest;
            // RFC 5958: [1] IMPLICIT BIT STRING publicKey; its first byte counts unused bits.
            if field.tag() == Tag(1) && field.data.get(1..) != Some(&key.0.public[..]) {
                return Err(KeyError::PublicKeyMismatch);
            }
        }
        Ok(key)
    }

    /// The key as PKCS#8 PEM, in the very form `openssl genpkey` writes. Store it readable by its owner only.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        private_key_pem(&self.pkcs8())
    }

    /// The peer id: base58 `12D3KooW…` of the identity multihash of the protobuf-encoded public key.
    #[must_use]
    pub fn peer_id(&self) -> PeerId {
        self.0.peer_id
    }

    /// Signs `message` with Ed25519 (RFC 8032). Sign nothing without a domain prefix: use [`crate::Signed`].
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "an Ed25519 signature has 64 bytes by definition"
    )]
    pub fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.0
            .pair
            .sign(message)
            .as_ref()
            .try_into()
            .expect("an Ed25519 signature has 64 bytes")
    }

    /// The raw public key.
    #[must_use]
    pub fn public_key(&self) -> [u8; 32] {
        self.0.public
    }

    /// The same key for libp2p's transports.
    #[must_use]
    #[expect(
        clippy::expect_used,
        reason = "every 32-byte string is an Ed25519 seed"
    )]
    pub fn libp2p_keypair(&self) -> libp2p_identity::Keypair {
        let mut seed = Zeroizing::new(*self.0.seed);
        libp2p_identity::Keypair::ed25519_from_bytes(seed.as_mut_slice())
            .expect("32 bytes are a seed")
    }

    /// The same key for rustls, as PKCS#8 DER.
    #[must_use]
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8().to_vec()))
    }

    /// The P-256 key of this node's companion leaf. It is derived from the seed, so there is no second file to guard:
    /// whoever has the node key can serve clients that refuse Ed25519, and nobody else can.
    #[must_use]
    pub fn companion_key(&self) -> CompanionKey {
        let mut attempt = 0_u32;
        loop {
            let mut material = Zeroizing::new([0_u8; 36]);
            material[..32].copy_from_slice(self.0.seed.as_slice());
            material[32..].copy_from_slice(&attempt.to_be_bytes());
            let scalar = Zeroizing::new(blake3::derive_key(
                "warren 2026 companion P-256 key v1",
                material.as_slice(),
            ));
            // A hash is no scalar with odds 2^-32; the next one then is.
            if let Ok(key) = CompanionKey::from_scalar(&scalar) {
                return key;
            }
            attempt += 1;
        }
    }

    fn pkcs8(&self) -> Zeroizing<Vec<u8>> {
        let mut der = Zeroizing::new(Vec::with_capacity(48));
        der.extend_from_slice(&PKCS8_PREFIX);
        der.extend_from_slice(self.0.seed.as_slice());
        der
    }
}

impl rcgen::PublicKeyData for NodeKey {
    fn der_bytes(&self) -> &[u8] {
        &self.0.public
    }

    fn algorithm(&self) -> &'static rcgen::SignatureAlgorithm {
        &rcgen::PKCS_ED25519
    }
}

impl rcgen::SigningKey for NodeKey {
    fn sign(&self, message: &[u8]) -> Result<Vec<u8>, rcgen::Error> {
        Ok(NodeKey::sign(self, message).to_vec())
    }
}

/// A P-256 key for HTTPS towards clients that refuse Ed25519. It never proves membership.
pub struct CompanionKey {
    pkcs8: Zeroizing<Vec<u8>>,
    public: Vec<u8>,
}

impl fmt::Debug for CompanionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CompanionKey(P-256, private part hidden)")
    }
}

impl CompanionKey {
    /// The key of a 32-byte big-endian private scalar.
    ///
    /// # Errors
    /// [`KeyError::NotAScalar`] when the number is zero or not below the order of the curve.
    pub fn from_scalar(scalar: &[u8; 32]) -> Result<Self, KeyError> {
        let agreement =
            AgreementKey::from_private_key(&ECDH_P256, scalar).map_err(|_| KeyError::NotAScalar)?;
        let public = agreement
            .compute_public_key()
            .map_err(|_| KeyError::NotAScalar)?
            .as_ref()
            .to_vec();
        let pair = EcdsaKeyPair::from_private_key_and_public_key(
            &ECDSA_P256_SHA256_ASN1_SIGNING,
            scalar,
            &public,
        )
        .map_err(|_| KeyError::NotAScalar)?;
        let pkcs8 = pair.to_pkcs8v1().map_err(|_| KeyError::NotAScalar)?;
        Ok(Self {
            pkcs8: Zeroizing::new(pkcs8.as_ref().to_vec()),
            public,
        })
    }

    /// The uncompressed public point, 65 bytes (SEC 1 §2.3.3).
    #[must_use]
    pub fn public_key(&self) -> &[u8] {
        &self.public
    }

    /// The key for rustls, as PKCS#8 DER.
    #[must_use]
    pub fn private_key_der(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(self.pkcs8.to_vec()))
    }

    /// The key as PKCS#8 PEM.
    #[must_use]
    pub fn to_pem(&self) -> Zeroizing<String> {
        private_key_pem(&self.pkcs8)
    }
}

/// The peer id of an Ed25519 public key, or `None` when the bytes are no point of the curve.
#[must_use]
pub fn peer_id_of_public_key(public: &[u8; 32]) -> Option<PeerId> {
    let key = libp2p_identity::ed25519::PublicKey::try_from_bytes(public).ok()?;
    Some(PeerId::from_public_key(&key.into()))
}

/// The Ed25519 public key that is inside a peer id, or `None` for a peer id of another or a hashed key.
#[must_use]
pub fn public_key_of_peer_id(peer_id: &PeerId) -> Option<[u8; 32]> {
    let bytes = peer_id.to_bytes();
    // Identity multihash: code 0x00, length, then the protobuf-encoded public key.
    let [0x00, length, protobuf @ ..] = bytes.as_slice() else {
        return None;
    };
    if usize::from(*length) != protobuf.len() {
        return None;
    }
    let key = libp2p_identity::PublicKey::try_decode_protobuf(protobuf).ok()?;
    if key.key_type() != KeyType::Ed25519 {
        return None;
    }
    Some(key.try_into_ed25519().ok()?.to_bytes())
}

pub(crate) fn private_key_pem(der: &[u8]) -> Zeroizing<String> {
    let mut block = pem::Pem::new("PRIVATE KEY", der);
    let text = Zeroizing::new(pem::encode_config(
        &block,
        pem::EncodeConfig::new().set_line_ending(pem::LineEnding::LF),
    ));
    // The crate does not wipe what it encodes.
    let mut contents = std::mem::replace(&mut block, pem::Pem::new("", Vec::new())).into_contents();
    contents.zeroize();
    text
}

fn is_traditionally_encrypted(block: &pem::Pem) -> bool {
    block
        .headers()
        .iter()
        .any(|(name, value)| name == "Proc-Type" && value.contains("ENCRYPTED"))
}

fn damaged_or_no_pem(text: &str) -> KeyError {
    if text.contains("-----BEGIN") {
        KeyError::Damaged("the PEM block is incomplete")
    } else {
        KeyError::NotPem
    }
}

fn algorithm_name(oid: &Oid<'_>) -> &'static str {
    match oid.to_id_string().as_str() {
        "1.2.840.113549.1.1.1" => "RSA",
        "1.2.840.10045.2.1" => "elliptic-curve (ECDSA)",
        "1.3.101.110" => "X25519",
        "1.3.101.111" => "X448",
        "1.3.101.113" => "Ed448",
        _ => "of an unknown algorithm",
    }
}

/// Serde for [`PeerId`]: base58 text where formats are read by people, the multihash bytes elsewhere.
/// Use it as `#[serde(with = "warren_identity::peer_id_serde")]`.
pub mod peer_id_serde {
    use std::str::FromStr as _;

    use libp2p_identity::PeerId;
    use serde::{Deserialize as _, Deserializer, Serialize as _, Serializer, de::Error as _};

    /// Writes the peer id.
    ///
    /// # Errors
    /// Those of the serializer.
    pub fn serialize<S: Serializer>(peer_id: &PeerId, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            serializer.serialize_str(&peer_id.to_base58())
        } else {
            peer_id.to_bytes().serialize(serializer)
        }
    }

    /// Reads the peer id.
    ///
    /// # Errors
    /// When the text or the bytes are no peer id.
    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<PeerId, D::Error> {
        if deserializer.is_human_readable() {
            let text = String::deserialize(deserializer)?;
            PeerId::from_str(&text)
                .map_err(|_| D::Error::custom("not a peer id (expected 12D3KooW…)"))
        } else {
            let bytes = Vec::<u8>::deserialize(deserializer)?;
            PeerId::from_bytes(&bytes).map_err(|_| D::Error::custom("not the bytes of a peer id"))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    /// RFC 8410 §10.3: one key, without and with attributes and public key.
    const RFC_V1: &str = "MC4CAQAwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC";
    const RFC_V2: &str = "MHICAQEwBQYDK2VwBCIEINTuctv5E1hK1bbY8fdp+K06/nwoy/HU++CXqI9EdVhC\
        oB8wHQYKKoZIhvcNAQkJFDEPDA1DdXJkbGUgQ2hhaXJzgSEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";
    const RFC_PUBLIC: &str = "19bf44096984cdfe8541bac167dc3b96c85086aa30b6b6cb0c5c38ad703166e1";

    fn pem(base64: &str) -> String {
        format!("-----BEGIN PRIVATE KEY-----\n{base64}\n-----END PRIVATE KEY-----\n")
    }

    #[test]
    fn given_the_keys_of_rfc_8410_when_read_then_both_forms_are_the_same_key() {
        let (v1, v2) = (
            NodeKey::from_pem(&pem(RFC_V1)).unwrap(),
            NodeKey::from_pem(&pem(RFC_V2)).unwrap(),
        );
        assert_eq!(hex::encode(v1.public_key()), RFC_PUBLIC);
        assert_eq!(
            (v1.public_key(), v1.peer_id()),
            (v2.public_key(), v2.peer_id())
        );
        assert_eq!(v2.to_pem().as_str(), pem(RFC_V1));
    }

    #[test]
    fn given_a_key_when_used_through_libp2p_then_peer_id_and_signatures_agree() {
        let key = NodeKey::from_seed([3; 32]);
        let theirs = key.libp2p_keypair();
        assert_eq!(theirs.public().to_peer_id(), key.peer_id());
        assert!(theirs.public().verify(b"message", &key.sign(b"message")));
        assert_eq!(
            public_key_of_peer_id(&key.peer_id()),
            Some(key.public_key())
        );
        assert_eq!(
            peer_id_of_public_key(&key.public_key()),
            Some(key.peer_id())
        );
    }

    #[test]
    fn given_a_damaged_key_when_read_then_the_error_says_what_is_wrong() {
        let good = pem(RFC_V1);
        let error = |text: &str| NodeKey::from_pem(text).unwrap_err();
        assert_eq!(error(""), KeyError::NotPem);
        assert_eq!(error("hello"), KeyError::NotPem);
        assert!(
            matches!(error(&good[..60]), KeyError::Damaged(_)),
            "no end line"
        );
        assert!(
            matches!(error(&pem(&RFC_V1[..40])), KeyError::Damaged(_)),
            "DER stops early"
        );
        assert!(
            matches!(error(&good.repeat(1000)), KeyError::Damaged(_)),
            "too long"
        );
        let certificate = good.replace("PRIVATE KEY", "CERTIFICATE");
        assert_eq!(
            error(&certificate),
            KeyError::WrongBlock("CERTIFICATE".into())
        );
        let mut v2 = pem::parse(pem(RFC_V2)).unwrap().into_contents();
        *v2.last_mut().unwrap() ^= 1;
        assert_eq!(
            NodeKey::from_pkcs8(&v2).unwrap_err(),
            KeyError::PublicKeyMismatch
        );
    }

    #[test]
    fn given_errors_when_printed_then_no_key_material_is_in_them() {
        let text = pem(RFC_V1).replace("PRIVATE KEY", RFC_V1);
        let shown = NodeKey::from_pem(&text).unwrap_err().to_string();
        assert!(!shown.contains(RFC_V1), "{shown}");
    }

    #[test]
    fn given_a_node_key_when_asked_twice_for_its_companion_then_it_is_the_same_key() {
        let key = NodeKey::from_seed([3; 32]);
        assert_eq!(
            key.companion_key().public_key(),
            key.companion_key().public_key()
        );
        assert_ne!(
            key.companion_key().public_key(),
            NodeKey::from_seed([4; 32]).companion_key().public_key()
        );
        assert_eq!(
            CompanionKey::from_scalar(&[0; 32]).unwrap_err(),
            KeyError::NotAScalar
        );
        assert_eq!(
            CompanionKey::from_scalar(&[0xff; 32]).unwrap_err(),
            KeyError::NotAScalar
        );
    }

    #[test]
    fn given_peer_ids_of_other_kinds_when_asked_for_their_key_then_there_is_none() {
        let sha256_multihash = [&[0x12, 0x20][..], &[5; 32]].concat();
        let hashed = PeerId::from_bytes(&sha256_multihash).unwrap();
        assert_eq!(public_key_of_peer_id(&hashed), None);
    }
}
