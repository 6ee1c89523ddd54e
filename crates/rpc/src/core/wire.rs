//! Frames out of a byte stream. A frame is `length: u32 LE | kind: u8 | payload`, where `length` counts kind and payload.
//! A length beyond the limit ends the stream before a byte of it is kept.

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// Bytes in front of each frame.
pub const LENGTH_BYTES: usize = 4;

/// Room that is made for a frame on the strength of its length alone, in bytes.
const MAX_RESERVED_BYTES: usize = 256 * 1024;

/// Why what came is no frame. The stream cannot be read on: nobody knows where the next frame begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// A frame without even a kind.
    #[error("a frame of no bytes")]
    Empty,
    /// A frame longer than this side takes.
    #[error("a frame of {length} bytes where at most {limit} are taken")]
    TooLong {
        /// What the frame claims.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// A kind that this version does not know, or that has no place here.
    #[error("a frame of kind {0}, which has no place here")]
    Kind(u8),
    /// A payload that ends early or carries what its kind cannot have.
    #[error("a frame of kind {0} with a payload that is none")]
    Payload(u8),
}

/// Cuts what arrives into frames. Payloads share the memory they arrived in; only a frame that lies across two
/// arrivals is copied together.
#[derive(Debug)]
pub struct FrameReader {
    /// What arrived and was not looked at yet.
    arrived: Bytes,
    /// The beginning of a frame that lies across arrivals. Never longer than that frame.
    begun: BytesMut,
    limit: usize,
}

impl FrameReader {
    /// Takes frames of up to `limit` bytes, kind included.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            arrived: Bytes::new(),
            begun: BytesMut::new(),
            limit,
        }
    }

    /// Takes what arrived. Call [`FrameReader::next_frame`] until it yields nothing before the next push.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(
            self.arrived.is_empty(),
            "frames of the last arrival were left"
        );
        self.arrived = bytes;
    }

    /// Whether a frame has begun and not ended: at the end of the stream, something is missing.
    #[must_use]
    pub fn is_within_frame(&self) -> bool {
        !self.begun.is_empty() || !self.arrived.is_empty()
    }

    /// The length of the frame that has begun and not ended, once it is known.
    #[must_use]
    pub fn begun_frame(&self) -> Option<usize> {
        let length = self.begun.first_chunk::<LENGTH_BYTES>()?;
        Some(u32::from_le_bytes(*length) as usize)
    }

    /// The next whole frame: its kind and payload.
    ///
    /// # Errors
    /// [`FrameError`]; nothing sensible follows.
    pub fn next_frame(&mut self) -> Result<Option<(u8, Bytes)>, FrameError> {
        if self.begun.is_empty() {
            let Some(length) = self.length_of(&self.arrived)? else {
                self.keep_rest();
                return Ok(None);
            };
            if self.arrived.len() < LENGTH_BYTES + length {
                // Beyond this, room is made for what came, not for what was announced.
                self.begun
                    .reserve((LENGTH_BYTES + length).min(MAX_RESERVED_BYTES));
                self.keep_rest();
                return Ok(None);
            }
            self.arrived.advance(LENGTH_BYTES);
            return Ok(Some(kind_and_payload(self.arrived.split_to(length))));
        }
        self.complete_to(LENGTH_BYTES);
        let Some(length) = self.length_of(&self.begun)? else {
            return Ok(None);
        };
        self.complete_to(LENGTH_BYTES + length);
        if self.begun.len() < LENGTH_BYTES + length {
            return Ok(None);
        }
        let mut frame = self.begun.split().freeze();
        frame.advance(LENGTH_BYTES);
        Ok(Some(kind_and_payload(frame)))
    }

    /// The length that `bytes` begin with, once it is there and within limits.
    fn length_of(&self, bytes: &[u8]) -> Result<Option<usize>, FrameError> {
        let Some(length) = bytes.first_chunk::<LENGTH_BYTES>() else {
            return Ok(None);
        };
        let length = u32::from_le_bytes(*length) as usize;
        match length {
            0 => Err(FrameError::Empty),
            length if length > self.limit => Err(FrameError::TooLong {
                length,
                limit: self.limit,
            }),
            length => Ok(Some(length)),
        }
    }

    fn keep_rest(&mut self) {
        self.begun.extend_from_slice(&self.arrived);
        self.arrived.clear();
    }

    /// Moves bytes over until the begun frame has `target` of them or none are left.
    fn complete_to(&mut self, target: usize) {
        let missing = target.saturating_sub(self.begun.len());
        let taken = self.arrived.split_to(missing.min(self.arrived.len()));
        self.begun.extend_from_slice(&taken);
    }
}

/// `frame` has at least one byte: [`FrameReader::length_of`] refuses none.
fn kind_and_payload(mut frame: Bytes) -> (u8, Bytes) {
    let kind = frame.get_u8();
    (kind, frame)
}

/// Appends a frame whose payload `write` appends.
pub fn put_frame(out: &mut BytesMut, kind: u8, write: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32_le(0);
    out.put_u8(kind);
    write(out);
    let length = out.len() - start - LENGTH_BYTES;
    // Whoever writes holds messages to a limit far below 4 GiB.
    let length = u32::try_from(length).unwrap_or(u32::MAX);
    out[start..start + LENGTH_BYTES].copy_from_slice(&length.to_le_bytes());
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    fn written(frames: &[(u8, Vec<u8>)]) -> Bytes {
        let mut out = BytesMut::new();
        for (kind, payload) in frames {
            put_frame(&mut out, *kind, |out| out.extend_from_slice(payload));
        }
        out.freeze()
    }

    proptest! {
        #[test]
        fn given_any_cuts_then_the_same_frames_come_out(
            frames in prop::collection::vec((any::<u8>(), prop::collection::vec(any::<u8>(), 0..200)), 0..20),
            cut in 1_usize..300,
        ) {
            let bytes = written(&frames);
            let mut reader = FrameReader::new(201);
            let mut read = Vec::new();
            for at in (0..bytes.len()).step_by(cut) {
                reader.push(bytes.slice(at..bytes.len().min(at + cut)));
                while let Some((kind, payload)) = reader.next_frame().unwrap() {
                    read.push((kind, payload.to_vec()));
                }
            }
            prop_assert_eq!(read, frames);
            prop_assert!(!reader.is_within_frame());
        }
    }

    #[test]
    fn given_a_length_beyond_the_limit_then_it_is_refused_before_anything_is_kept() {
        let mut reader = FrameReader::new(100);
        reader.push(Bytes::from_static(&[101, 0, 0, 0]));
        assert_eq!(
            reader.next_frame(),
            Err(FrameError::TooLong {
                length: 101,
                limit: 100
            })
        );
        assert!(reader.begun.is_empty());
    }

    #[test]
    fn given_a_frame_of_nothing_then_it_is_refused() {
        let mut reader = FrameReader::new(100);
        reader.push(Bytes::from_static(&[0, 0, 0, 0]));
        assert_eq!(reader.next_frame(), Err(FrameError::Empty));
    }
}
