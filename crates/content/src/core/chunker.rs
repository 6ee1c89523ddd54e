//! Content-defined chunking, version 1: FastCDC with normalised chunking, and cuts at sentence ends for text.
//!
//! # The rule, frozen
//!
//! The rolling hash at position `p` is `sum(GEAR[byte[p - 1 - k]] << k for k in 0..64)` modulo 2^64: it depends on the
//! 64 bytes before `p` and on nothing else. `GEAR` is 256 little-endian `u64` out of BLAKE3's extendable output in
//! key-derivation mode, context [`GEAR_CONTEXT`], empty key material.
//!
//! With `start` the beginning of a chunk and `n = p - start`, the chunk's *candidate* is the first `p` with
//!
//! * `256 KiB <= n < 832 KiB` and the hash's top 22 bits zero, or
//! * `832 KiB <= n < 4 MiB` and its top 18 bits zero, or
//! * `n = 4 MiB`.
//!
//! Two masks around a middle (FastCDC, USENIX ATC 2016, section 4.4) keep sizes close together; the middle is placed
//! so that the mean of random input comes out at 1 MiB.
//!
//! A document is *text* if its first 8 KiB (or all of it, if shorter) hold no NUL byte and are valid UTF-8, a character
//! torn by the end of those 8 KiB aside, and it is not empty. In a text document a candidate is moved, within 64 KiB to
//! either side and within the size limits, to the nearest sentence end, the earlier of two at equal distance; where
//! there is none, to the nearest line end; where there is none either, back to the nearest boundary of a UTF-8
//! character. What a sentence end is, the module `sentence` says.
//!
//! The last chunk is what is left. The result is a function of the bytes alone, never of how they arrived.

use std::collections::VecDeque;
use std::sync::LazyLock;

use bytes::{Bytes, BytesMut};

use crate::core::sentence;

/// No chunk but the last is smaller.
pub const MIN_CHUNK_BYTES: usize = 256 * 1024;
/// What the mean size of chunks is near.
pub const TARGET_CHUNK_BYTES: usize = 1024 * 1024;
/// No chunk is larger.
pub const MAX_CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// How far a cut in text moves at most, to either side.
pub const TEXT_WINDOW_BYTES: usize = 64 * 1024;
/// How much of a document decides whether it is text.
pub const TEXT_PROBE_BYTES: usize = 8 * 1024;
/// BLAKE3 key-derivation context of the gear table.
pub const GEAR_CONTEXT: &str = "warren content chunker gear table v1";

/// Where the strict condition gives way to the loose one.
const MIDDLE_BYTES: usize = 832 * 1024;
/// Top 22 bits zero.
const STRICT_BELOW: u64 = 1 << (64 - 22);
/// Top 18 bits zero.
const LOOSE_BELOW: u64 = 1 << (64 - 18);
/// Bytes the rolling hash depends on.
const HASH_WINDOW_BYTES: usize = 64;
/// Stretches of a block rolled side by side, and the length of each.
const LANES: usize = 4;
const LANE_BYTES: usize = 4096;
/// How the accumulation buffer grows: one target chunk at a time.
const BUFFER_STEP_BYTES: usize = 2 * 1024 * 1024;

static GEAR: LazyLock<[u64; 256]> = LazyLock::new(|| {
    let mut stream = blake3::Hasher::new_derive_key(GEAR_CONTEXT).finalize_xof();
    std::array::from_fn(|_| {
        let mut word = [0; 8];
        stream.fill(&mut word);
        u64::from_le_bytes(word)
    })
});

/// Cuts a stream into chunks.
///
/// Call [`push`](Self::push) with whatever arrived, then [`next_chunk`](Self::next_chunk) until it gives `None`; at the
/// end of the stream [`finish`](Self::finish) and `next_chunk` until `None`. So drained, it holds at most
/// [`MAX_CHUNK_BYTES`] + [`TEXT_WINDOW_BYTES`] and the last push.
pub struct Chunker {
    /// From the start of the current chunk.
    buffer: BytesMut,
    /// Positions of `buffer` whose hash has been looked at.
    scanned: usize,
    hash: u64,
    candidate: Option<usize>,
    kind: Kind,
    ended: bool,
    done: VecDeque<Bytes>,
}

/// How cuts are placed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// Fewer than [`TEXT_PROBE_BYTES`] have arrived.
    Undecided,
    Text,
    Binary,
}

impl Default for Chunker {
    fn default() -> Self {
        Self::new()
    }
}

impl Chunker {
    /// At the start of a stream.
    #[must_use]
    pub fn new() -> Self {
        Self {
            buffer: BytesMut::new(),
            scanned: 0,
            hash: 0,
            candidate: None,
            kind: Kind::Undecided,
            ended: false,
            done: VecDeque::new(),
        }
    }

    /// Takes the next bytes of the stream.
    pub fn push(&mut self, bytes: &[u8]) {
        debug_assert!(!self.ended, "push after finish");
        if self.buffer.capacity() - self.buffer.len() < bytes.len() {
            self.buffer.reserve(bytes.len().max(BUFFER_STEP_BYTES));
        }
        self.buffer.extend_from_slice(bytes);
        self.cut();
    }

    /// Says that the stream has ended.
    pub fn finish(&mut self) {
        if !self.ended {
            self.ended = true;
            self.cut();
        }
    }

    /// The next chunk that is certain, if any.
    pub fn next_chunk(&mut self) -> Option<Bytes> {
        self.done.pop_front()
    }

    fn cut(&mut self) {
        if self.kind == Kind::Undecided {
            if self.buffer.len() < TEXT_PROBE_BYTES && !self.ended {
                return;
            }
            let probe = &self.buffer[..self.buffer.len().min(TEXT_PROBE_BYTES)];
            self.kind = if is_text(probe) {
                Kind::Text
            } else {
                Kind::Binary
            };
        }
        while let Some(at) = self.next_cut() {
            self.done.push_back(self.buffer.split_to(at).freeze());
            self.scanned = 0;
            self.hash = 0;
            self.candidate = None;
        }
        if self.ended && !self.buffer.is_empty() {
            self.done
                .push_back(std::mem::take(&mut self.buffer).freeze());
        }
    }

    /// Where the current chunk ends, once that is certain.
    fn next_cut(&mut self) -> Option<usize> {
        if self.candidate.is_none() {
            self.candidate = self.scan();
        }
        let candidate = self.candidate?;
        let available = self.buffer.len();
        if self.kind == Kind::Binary {
            return Some(candidate);
        }
        let earliest = candidate
            .saturating_sub(TEXT_WINDOW_BYTES)
            .max(MIN_CHUNK_BYTES);
        let latest = (candidate + TEXT_WINDOW_BYTES).min(MAX_CHUNK_BYTES);
        // Whether a sentence ends at `latest` shows in the byte after it.
        if available <= latest && !self.ended {
            return None;
        }
        if candidate >= available {
            return None;
        }
        let latest = latest.min(available - 1);
        Some(sentence::nearest_cut(
            &self.buffer,
            earliest,
            candidate,
            latest,
        ))
    }

    /// Goes on looking for a candidate in what has arrived.
    fn scan(&mut self) -> Option<usize> {
        if self.scanned < MIN_CHUNK_BYTES {
            if self.buffer.len() < MIN_CHUNK_BYTES {
                return None;
            }
            let window = &self.buffer[MIN_CHUNK_BYTES - HASH_WINDOW_BYTES..MIN_CHUNK_BYTES];
            self.hash = window.iter().fold(0, |hash, byte| roll(&GEAR, hash, *byte));
            self.scanned = MIN_CHUNK_BYTES;
            if self.hash < STRICT_BELOW {
                return Some(MIN_CHUNK_BYTES);
            }
        }
        // A position carries the condition of its own length, so the strict stretch ends before the middle.
        for (end, below) in [
            (MIDDLE_BYTES - 1, STRICT_BELOW),
            (MAX_CHUNK_BYTES, LOOSE_BELOW),
        ] {
            let end = end.min(self.buffer.len());
            if self.scanned < end {
                let (hash, hit) = find(&GEAR, self.hash, &self.buffer[self.scanned..end], below);
                self.hash = hash;
                if let Some(offset) = hit {
                    return Some(self.scanned + offset);
                }
                self.scanned = end;
            }
        }
        (self.scanned == MAX_CHUNK_BYTES).then_some(MAX_CHUNK_BYTES)
    }
}

const fn roll(gear: &[u64; 256], hash: u64, byte: u8) -> u64 {
    (hash << 1).wrapping_add(gear[byte as usize])
}

/// Rolls `hash` over `bytes`; gives the hash after the last byte looked at, and how many bytes in it first fell below
/// `below`.
///
/// A hash depends on 64 bytes only, so several stretches of a block are rolled side by side: one alone waits for its own
/// last step most of the time. Only the rare block with a hit is gone through again in order.
fn find(gear: &[u64; 256], mut hash: u64, bytes: &[u8], below: u64) -> (u64, Option<usize>) {
    let mut blocks = bytes.chunks_exact(LANES * LANE_BYTES);
    let mut offset = 0;
    for block in &mut blocks {
        let (rolled, hit) = roll_block(gear, hash, block, below);
        if hit {
            return find_in_order(gear, hash, block, below, offset);
        }
        hash = rolled;
        offset += block.len();
    }
    find_in_order(gear, hash, blocks.remainder(), below, offset)
}

/// The hash after `block`, and whether any in it is below `below`.
fn roll_block(gear: &[u64; 256], hash: u64, block: &[u8], below: u64) -> (u64, bool) {
    let (first, second) = block.split_at(2 * LANE_BYTES);
    let (lane_0, lane_1) = first.split_at(LANE_BYTES);
    let (lane_2, lane_3) = second.split_at(LANE_BYTES);
    let after = |lane: &[u8]| {
        let window = &lane[LANE_BYTES - HASH_WINDOW_BYTES..];
        window.iter().fold(0, |hash, byte| roll(gear, hash, *byte))
    };
    let mut hashes = [hash, after(lane_0), after(lane_1), after(lane_2)];
    let mut hit = false;
    for (((a, b), c), d) in lane_0.iter().zip(lane_1).zip(lane_2).zip(lane_3) {
        hashes = [
            roll(gear, hashes[0], *a),
            roll(gear, hashes[1], *b),
            roll(gear, hashes[2], *c),
            roll(gear, hashes[3], *d),
        ];
        hit |= hashes[0].min(hashes[1]).min(hashes[2].min(hashes[3])) < below;
    }
    (hashes[LANES - 1], hit)
}

fn find_in_order(
    gear: &[u64; 256],
    mut hash: u64,
    bytes: &[u8],
    below: u64,
    mut offset: usize,
) -> (u64, Option<usize>) {
    for byte in bytes {
        hash = roll(gear, hash, *byte);
        offset += 1;
        if hash < below {
            return (hash, Some(offset));
        }
    }
    (hash, None)
}

fn is_text(probe: &[u8]) -> bool {
    if probe.is_empty() || probe.contains(&0) {
        return false;
    }
    match std::str::from_utf8(probe) {
        Ok(_) => true,
        // Only a character torn by the end of a full probe is forgiven.
        Err(error) => error.error_len().is_none() && probe.len() == TEXT_PROBE_BYTES,
    }
}

#[cfg(test)]
mod tests;
