//! A block as it is stored and sent: its encoding, its plain size, its encoded bytes; and the check that admits one.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::id::BlockId;

/// Largest block, plain: a chunk at its maximum, and the limit of an encoded manifest.
pub const MAX_BLOCK_BYTES: u32 = 4 * 1024 * 1024;

/// Level 1: the speed of ingest decides, and higher levels win little on text.
const ZSTD_LEVEL: i32 = 1;
/// Below this a frame header eats what compression saves.
const MIN_COMPRESSIBLE_BYTES: usize = 128;
/// Blocks above this are sampled before they are compressed whole.
const PROBE_ABOVE_BYTES: usize = 64 * 1024;
/// One sample; three are taken: start, middle, end.
const PROBE_SAMPLE_BYTES: usize = 8 * 1024;

/// How the bytes of a block are stored and sent. The name of a block never depends on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Encoding {
    /// As they are.
    Plain,
    /// One zstd frame (RFC 8878).
    Zstd,
}

/// A block as it lies on disk and goes over the wire.
///
/// Nothing here is checked: turn it into a [`VerifiedBlock`] before a byte of it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredBlock {
    /// How [`Self::bytes`] are encoded.
    pub encoding: Encoding,
    /// Bytes after decoding, at most [`MAX_BLOCK_BYTES`].
    pub plain_size: u32,
    /// The encoded bytes, never more than `plain_size`.
    pub bytes: Bytes,
}

/// Why a block was not accepted. Nothing was kept of it.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum VerifyBlockError {
    /// Larger than any block may be, or its encoded form larger than its plain form.
    #[error(
        "block {id} claims {plain_size} bytes plain in {stored_size} stored: outside the limits of a block"
    )]
    Size {
        /// The block asked for.
        id: BlockId,
        /// Claimed plain size.
        plain_size: u32,
        /// Size of the encoded bytes.
        stored_size: usize,
    },
    /// The encoded bytes do not decode to exactly the claimed plain size.
    #[error("block {id} does not decode to its {plain_size} bytes")]
    Decode {
        /// The block asked for.
        id: BlockId,
        /// Claimed plain size.
        plain_size: u32,
    },
    /// The bytes are not those the name stands for.
    #[error("block {id} has other content than its name says")]
    WrongHash {
        /// The block asked for.
        id: BlockId,
    },
}

/// A block whose plain bytes are known to have the hash in its name. The only way to make one is to check it.
#[derive(Debug, Clone)]
pub struct VerifiedBlock {
    id: BlockId,
    stored: StoredBlock,
    plain: Bytes,
}

impl StoredBlock {
    /// Decodes and checks against `id`. CPU work of about 0.3 ms per MiB, plus decompression.
    ///
    /// # Errors
    /// [`VerifyBlockError`]; memory use is bounded by [`MAX_BLOCK_BYTES`] whatever the input claims.
    pub fn verify(self, id: BlockId) -> Result<VerifiedBlock, VerifyBlockError> {
        let plain = self.decode(id)?;
        if blake3::hash(&plain).as_bytes() != id.hash() {
            return Err(VerifyBlockError::WrongHash { id });
        }
        Ok(VerifiedBlock {
            id,
            stored: self,
            plain,
        })
    }

    fn decode(&self, id: BlockId) -> Result<Bytes, VerifyBlockError> {
        let plain_size = self.plain_size;
        let stored_size = self.bytes.len();
        if plain_size > MAX_BLOCK_BYTES || stored_size > plain_size as usize {
            return Err(VerifyBlockError::Size {
                id,
                plain_size,
                stored_size,
            });
        }
        let plain = match self.encoding {
            Encoding::Plain => self.bytes.clone(),
            Encoding::Zstd => zstd::bulk::decompress(&self.bytes, plain_size as usize)
                .map(Bytes::from)
                .map_err(|_| VerifyBlockError::Decode { id, plain_size })?,
        };
        if plain.len() != plain_size as usize {
            return Err(VerifyBlockError::Decode { id, plain_size });
        }
        Ok(plain)
    }
}

impl VerifiedBlock {
    /// Its name.
    #[must_use]
    pub const fn id(&self) -> BlockId {
        self.id
    }

    /// As stored.
    #[must_use]
    pub const fn stored(&self) -> &StoredBlock {
        &self.stored
    }

    /// As stored.
    #[must_use]
    pub fn into_stored(self) -> StoredBlock {
        self.stored
    }

    /// The plain bytes, checked.
    #[must_use]
    pub const fn plain(&self) -> &Bytes {
        &self.plain
    }

    /// The plain bytes, checked.
    #[must_use]
    pub fn into_plain(self) -> Bytes {
        self.plain
    }
}

/// Encodes blocks for the store, keeping one compression context across calls.
pub struct Encoder {
    zstd: Option<zstd::bulk::Compressor<'static>>,
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

impl Encoder {
    /// Never fails: without memory for a zstd context blocks stay plain.
    #[must_use]
    pub fn new() -> Self {
        Self {
            zstd: zstd::bulk::Compressor::new(ZSTD_LEVEL).ok(),
        }
    }

    /// The smallest of plain and zstd level 1; plain where zstd would save less than 5 %.
    ///
    /// Large blocks are sampled first, so that data that does not compress costs next to nothing. `plain` must not
    /// exceed [`MAX_BLOCK_BYTES`].
    #[must_use]
    pub fn encode(&mut self, plain: &Bytes) -> StoredBlock {
        debug_assert!(plain.len() <= MAX_BLOCK_BYTES as usize);
        #[expect(
            clippy::cast_possible_truncation,
            reason = "callers pass blocks, which are at most 4 MiB"
        )]
        let plain_size = plain.len() as u32;
        let (encoding, bytes) = match self.compress(plain) {
            Some(compressed) => (Encoding::Zstd, compressed),
            None => (Encoding::Plain, plain.clone()),
        };
        StoredBlock {
            encoding,
            plain_size,
            bytes,
        }
    }

    fn compress(&mut self, plain: &[u8]) -> Option<Bytes> {
        let zstd = self.zstd.as_mut()?;
        if plain.len() < MIN_COMPRESSIBLE_BYTES {
            return None;
        }
        if plain.len() > PROBE_ABOVE_BYTES {
            let middle = plain.len() / 2;
            let mut sample = Vec::with_capacity(3 * PROBE_SAMPLE_BYTES);
            sample.extend_from_slice(&plain[..PROBE_SAMPLE_BYTES]);
            sample.extend_from_slice(&plain[middle..middle + PROBE_SAMPLE_BYTES]);
            sample.extend_from_slice(&plain[plain.len() - PROBE_SAMPLE_BYTES..]);
            if !worth_it(sample.len(), zstd.compress(&sample).ok()?.len()) {
                return None;
            }
        }
        let compressed = zstd.compress(plain).ok()?;
        worth_it(plain.len(), compressed.len()).then(|| Bytes::from(compressed))
    }
}

fn worth_it(plain: usize, compressed: usize) -> bool {
    compressed < plain - plain / 20
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::core::id::ChunkId;

    fn noise(length: usize) -> Bytes {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key("block tests")
            .finalize_xof()
            .fill(&mut bytes);
        bytes.into()
    }

    fn encoded(plain: &Bytes) -> (BlockId, StoredBlock) {
        (ChunkId::of(plain).into(), Encoder::new().encode(plain))
    }

    #[test]
    fn text_is_compressed_and_comes_back() {
        let plain = Bytes::from("all work and no play. ".repeat(50_000));
        let (id, block) = encoded(&plain);
        assert_eq!(block.encoding, Encoding::Zstd);
        assert!(block.bytes.len() < plain.len() / 10);
        assert_eq!(block.verify(id).unwrap().plain(), &plain);
    }

    #[test]
    fn what_does_not_compress_is_kept_plain() {
        for length in [0, 1, 100, 4096, 1 << 20] {
            let plain = noise(length);
            let (id, block) = encoded(&plain);
            assert_eq!(
                (block.encoding, &block.bytes),
                (Encoding::Plain, &plain),
                "{length}"
            );
            assert!(block.verify(id).is_ok());
        }
    }

    #[test]
    fn other_bytes_than_the_name_says_are_refused() {
        let (id, block) = encoded(&noise(1000));
        let mut bytes = block.bytes.to_vec();
        bytes[500] ^= 1;
        let flipped = StoredBlock {
            bytes: bytes.into(),
            ..block
        };
        assert_eq!(
            flipped.verify(id).unwrap_err(),
            VerifyBlockError::WrongHash { id }
        );
    }

    #[test]
    fn claims_beyond_the_limits_are_refused_before_decoding() {
        let plain = Bytes::from(vec![b'a'; 10_000]);
        let (id, block) = encoded(&plain);
        let huge = StoredBlock {
            plain_size: u32::MAX,
            ..block.clone()
        };
        assert!(matches!(
            huge.verify(id),
            Err(VerifyBlockError::Size { .. })
        ));
        for plain_size in [9_999, 10_001] {
            let lying = StoredBlock {
                plain_size,
                ..block.clone()
            };
            assert_eq!(
                lying.verify(id).unwrap_err(),
                VerifyBlockError::Decode { id, plain_size }
            );
        }
        let garbage = StoredBlock {
            bytes: Bytes::from_static(b"no zstd at all"),
            ..block
        };
        assert!(matches!(
            garbage.verify(id),
            Err(VerifyBlockError::Decode { .. })
        ));
    }
}
