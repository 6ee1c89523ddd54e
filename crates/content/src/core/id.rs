//! Names of content: a block is named by the BLAKE3-256 hash of its plain bytes, as a real CIDv1.
//!
//! | type | codec | text |
//! |---|---|---|
//! | [`ChunkId`] | raw `0x55` | `bafkr4i…`, 59 characters |
//! | [`DocumentId`] | dag-cbor `0x71` | `bafyr4i…`, 59 characters |
//!
//! The hash is taken before compression, so a name never depends on how a node stores the bytes. The network-layer
//! document's form, `bafk` followed by the hash in base58btc, is read as an alias of a [`ChunkId`] and never written.

use std::fmt;
use std::str::FromStr;

use cid::Cid;
use multihash::Multihash;
use serde::{Deserialize, Serialize};
use thiserror::Error;

/// Multicodec of raw bytes.
pub const CODEC_RAW: u64 = 0x55;
/// Multicodec of DAG-CBOR.
pub const CODEC_DAG_CBOR: u64 = 0x71;
/// Multihash code of BLAKE3; always 32 bytes here.
pub const HASH_BLAKE3: u64 = 0x1e;

/// Longest text accepted by the parsers: 59 for a CIDv1, 48 for the alias, with room for a clear error on neither.
const MAX_TEXT_BYTES: usize = 64;

/// Why a text is no content id.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ParseIdError {
    /// The text is neither a CID nor the `bafk` + base58 alias.
    #[error("`{0}` is not a content id: expected a CIDv1 in base32 such as bafkr4i… or bafyr4i…")]
    NotACid(String),
    /// A CID, but not with a 32-byte BLAKE3 hash.
    #[error(
        "`{0}` is a content id with another hash: only BLAKE3-256 (0x1e, 32 bytes) is used here"
    )]
    WrongHash(String),
    /// A CID with a BLAKE3 hash, but of the other kind (a chunk where a document was asked for, or the reverse).
    #[error("`{text}` names a {found}, not a {expected}")]
    WrongKind {
        /// The text as given.
        text: String,
        /// What it names.
        found: &'static str,
        /// What was asked for.
        expected: &'static str,
    },
}

/// The name of a chunk: BLAKE3-256 of its plain bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ChunkId([u8; 32]);

/// The name of a document: BLAKE3-256 of its manifest block.
///
/// Equal content has an equal manifest, so equal documents have equal ids on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DocumentId([u8; 32]);

/// The name of any block in the store: a chunk or a manifest.
///
/// A store finds blocks by [`BlockId::hash`] alone: the same bytes are the same block whatever they are used for.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum BlockId {
    /// Raw content.
    Chunk(ChunkId),
    /// A manifest in DAG-CBOR.
    Manifest(DocumentId),
}

impl ChunkId {
    /// The name of `plain`.
    #[must_use]
    pub fn of(plain: &[u8]) -> Self {
        Self(*blake3::hash(plain).as_bytes())
    }

    /// A name from a hash already computed.
    #[must_use]
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The BLAKE3-256 hash.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a CIDv1.
    #[must_use]
    pub fn to_cid(&self) -> Cid {
        cid_of(CODEC_RAW, &self.0)
    }
}

impl DocumentId {
    /// The name of an encoded manifest.
    #[must_use]
    pub fn of(manifest: &[u8]) -> Self {
        Self(*blake3::hash(manifest).as_bytes())
    }

    /// A name from a hash already computed.
    #[must_use]
    pub const fn from_hash(hash: [u8; 32]) -> Self {
        Self(hash)
    }

    /// The BLAKE3-256 hash.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        &self.0
    }

    /// As a CIDv1.
    #[must_use]
    pub fn to_cid(&self) -> Cid {
        cid_of(CODEC_DAG_CBOR, &self.0)
    }
}

impl BlockId {
    /// The BLAKE3-256 hash of the plain bytes.
    #[must_use]
    pub const fn hash(&self) -> &[u8; 32] {
        match self {
            Self::Chunk(id) => id.hash(),
            Self::Manifest(id) => id.hash(),
        }
    }

    /// As a CIDv1.
    #[must_use]
    pub fn to_cid(&self) -> Cid {
        match self {
            Self::Chunk(id) => id.to_cid(),
            Self::Manifest(id) => id.to_cid(),
        }
    }

    /// From a CID, if it names content of ours.
    ///
    /// # Errors
    /// [`ParseIdError`] on another codec, hash or version.
    pub fn from_cid(cid: &Cid) -> Result<Self, ParseIdError> {
        let hash: [u8; 32] = match (cid.version(), cid.hash().code()) {
            (cid::Version::V1, HASH_BLAKE3) => cid
                .hash()
                .digest()
                .try_into()
                .map_err(|_| ParseIdError::WrongHash(cid.to_string()))?,
            _ => return Err(ParseIdError::WrongHash(cid.to_string())),
        };
        match cid.codec() {
            CODEC_RAW => Ok(Self::Chunk(ChunkId(hash))),
            CODEC_DAG_CBOR => Ok(Self::Manifest(DocumentId(hash))),
            _ => Err(ParseIdError::NotACid(cid.to_string())),
        }
    }

    const fn kind(&self) -> &'static str {
        match self {
            Self::Chunk(_) => "chunk",
            Self::Manifest(_) => "document",
        }
    }
}

impl From<ChunkId> for BlockId {
    fn from(id: ChunkId) -> Self {
        Self::Chunk(id)
    }
}

impl From<DocumentId> for BlockId {
    fn from(id: DocumentId) -> Self {
        Self::Manifest(id)
    }
}

#[expect(
    clippy::expect_used,
    reason = "32 bytes always fit a 64-byte multihash"
)]
fn cid_of(codec: u64, hash: &[u8; 32]) -> Cid {
    Cid::new_v1(
        codec,
        Multihash::wrap(HASH_BLAKE3, hash).expect("32 bytes fit"),
    )
}

impl FromStr for BlockId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > MAX_TEXT_BYTES {
            let head: String = text.chars().take(16).collect();
            return Err(ParseIdError::NotACid(format!("{head}…")));
        }
        // Only the canonical base32 spelling: one block, one text.
        match Cid::from_str(text) {
            Ok(cid) if cid.to_string() == text => Self::from_cid(&cid),
            _ => parse_alias(text)
                .map(|hash| Self::Chunk(ChunkId(hash)))
                .ok_or_else(|| ParseIdError::NotACid(text.to_owned())),
        }
    }
}

impl FromStr for ChunkId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            BlockId::Chunk(id) => Ok(id),
            other @ BlockId::Manifest(_) => Err(wrong_kind(text, other, "chunk")),
        }
    }
}

impl FromStr for DocumentId {
    type Err = ParseIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.parse()? {
            BlockId::Manifest(id) => Ok(id),
            other @ BlockId::Chunk(_) => Err(wrong_kind(text, other, "document")),
        }
    }
}

fn wrong_kind(text: &str, found: BlockId, expected: &'static str) -> ParseIdError {
    ParseIdError::WrongKind {
        text: text.to_owned(),
        found: found.kind(),
        expected,
    }
}

/// `bafk` + base58btc of exactly 32 bytes.
fn parse_alias(text: &str) -> Option<[u8; 32]> {
    const ALPHABET: &[u8; 58] = b"123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz";
    let digits = text.strip_prefix("bafk")?.as_bytes();
    if !(32..=44).contains(&digits.len()) {
        return None;
    }
    let mut hash = [0_u8; 32];
    for digit in digits {
        let mut carry = u32::try_from(ALPHABET.iter().position(|symbol| symbol == digit)?).ok()?;
        for byte in hash.iter_mut().rev() {
            carry += u32::from(*byte) * 58;
            [*byte, ..] = carry.to_le_bytes();
            carry >>= 8;
        }
        if carry != 0 {
            return None;
        }
    }
    // Each leading `1` stands for one zero byte, so that 32 bytes have exactly one spelling.
    let ones = digits.iter().take_while(|digit| **digit == b'1').count();
    let zeros = hash.iter().take_while(|byte| **byte == 0).count();
    (ones == zeros).then_some(hash)
}

macro_rules! text_form {
    ($($type:ty),*) => {$(
        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_cid().fmt(f)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.to_cid().fmt(f)
            }
        }
    )*};
}
text_form!(ChunkId, DocumentId, BlockId);

/// Text for people (JSON), the bare hash on the wire (postcard).
macro_rules! serde_form {
    ($($type:ident),*) => {$(
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
                } else {
                    <[u8; 32]>::deserialize(deserializer).map(Self)
                }
            }
        }
    )*};
}
serde_form!(ChunkId, DocumentId);

/// One byte of kind, then the hash, on the wire.
#[derive(Serialize, Deserialize)]
enum WireBlockId {
    Chunk(ChunkId),
    Manifest(DocumentId),
}

impl Serialize for BlockId {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            return serializer.collect_str(self);
        }
        match *self {
            Self::Chunk(id) => WireBlockId::Chunk(id),
            Self::Manifest(id) => WireBlockId::Manifest(id),
        }
        .serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for BlockId {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            return String::deserialize(deserializer)?
                .parse()
                .map_err(serde::de::Error::custom);
        }
        Ok(match WireBlockId::deserialize(deserializer)? {
            WireBlockId::Chunk(id) => Self::Chunk(id),
            WireBlockId::Manifest(id) => Self::Manifest(id),
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const EMPTY: &str = "bafkr4ifpcne3t5pzugtkaqcn5i3nzskjtpfslsnnyejlpte2spfoihzsmi";

    #[test]
    fn the_empty_input_has_the_documented_id() {
        assert_eq!(ChunkId::of(b"").to_string(), EMPTY);
        assert_eq!(EMPTY.parse::<ChunkId>().unwrap(), ChunkId::of(b""));
    }

    #[test]
    fn ids_have_the_documented_shape() {
        for input in [b"a".as_slice(), b"warren", &[0; 1000]] {
            let chunk = ChunkId::of(input).to_string();
            assert!(chunk.starts_with("bafkr4i") && chunk.len() == 59, "{chunk}");
            let document = DocumentId::of(input).to_string();
            assert!(
                document.starts_with("bafyr4i") && document.len() == 59,
                "{document}"
            );
        }
    }

    #[test]
    fn the_base58_alias_reads_as_the_same_chunk() {
        // base58btc of BLAKE3(""), computed independently.
        let alias = "bafkCnRQX8RHiCM1krnQRbGMXaXPm6egnqUrV2ZiJLk7XPmb";
        assert_eq!(alias, alias_of(ChunkId::of(b"").hash()));
        assert_eq!(
            alias.parse::<BlockId>().unwrap(),
            BlockId::Chunk(ChunkId::of(b""))
        );
        let zeros = alias_of(&[0; 32]);
        assert_eq!(zeros, format!("bafk{}", "1".repeat(32)));
        assert_eq!(
            zeros.parse::<ChunkId>().unwrap(),
            ChunkId::from_hash([0; 32])
        );
        assert_eq!(
            alias_of(&[0xff; 32]).parse::<ChunkId>().unwrap(),
            ChunkId::from_hash([0xff; 32])
        );
        // 31 bytes, 33 bytes and an overflowing value are none.
        assert!(
            format!("bafk{}", "1".repeat(31))
                .parse::<ChunkId>()
                .is_err()
        );
        assert!(
            format!("bafk{}", "1".repeat(33))
                .parse::<ChunkId>()
                .is_err()
        );
        assert!(
            format!("bafk{}", "z".repeat(44))
                .parse::<ChunkId>()
                .is_err()
        );
    }

    fn alias_of(hash: &[u8; 32]) -> String {
        let alphabet: Vec<char> = "123456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"
            .chars()
            .collect();
        let mut value = hash.to_vec();
        let mut digits = Vec::new();
        while value.iter().any(|byte| *byte != 0) {
            let mut remainder = 0_u32;
            for byte in &mut value {
                let current = remainder * 256 + u32::from(*byte);
                *byte = u8::try_from(current / 58).unwrap();
                remainder = current % 58;
            }
            digits.push(alphabet[remainder as usize]);
        }
        digits.extend(hash.iter().take_while(|byte| **byte == 0).map(|_| '1'));
        digits
            .iter()
            .rev()
            .fold("bafk".to_owned(), |mut text, digit| {
                text.push(*digit);
                text
            })
    }

    #[test]
    fn a_document_is_no_chunk_and_the_error_says_so() {
        let document = DocumentId::of(b"x").to_string();
        let error = document.parse::<ChunkId>().unwrap_err();
        assert!(
            error.to_string().contains("names a document, not a chunk"),
            "{error}"
        );
        assert!(EMPTY.parse::<DocumentId>().is_err());
    }

    #[test]
    fn foreign_and_malformed_ids_are_refused() {
        for text in [
            "",
            "bafk",
            "QmYwAPJzv5CZsnA625s3Xf2nemtYgPpHdWEz79ojWKPbdG",
            "bafybeigdyrzt5sfp7udm7hu76uh7y26nf3efuylqabf3oclgtqy55fbzdi",
            &EMPTY[..58],
            &EMPTY.to_uppercase(),
            &"b".repeat(5000),
        ] {
            assert!(text.parse::<BlockId>().is_err(), "{text}");
        }
    }

    #[test]
    fn serde_is_text_for_people_and_bare_hashes_on_the_wire() {
        let id = BlockId::from(ChunkId::of(b"x"));
        let wire = postcard::to_stdvec(&id).unwrap();
        assert_eq!(wire.len(), 33);
        assert_eq!(postcard::from_bytes::<BlockId>(&wire).unwrap(), id);
    }
}
