//! gRPC over HTTP/2 as bytes and header values ([the protocol](https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md)).
//! A message is `compressed: u8 | length: u32 BE | bytes`. Messages are not compressed here: `identity` only.

use std::fmt::Write;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use crate::status::{Code, Status};

/// Bytes in front of each message.
pub const PREFIX_BYTES: usize = 5;

/// Why what came is no message. Nobody knows where the next one begins.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MessageError {
    /// A message that says it is compressed, though no compression was agreed on.
    #[error("a compressed message, and no compression was agreed on")]
    Compressed,
    /// A first byte that is neither of the two.
    #[error("a message with the flag {0}, where only 0 and 1 mean something")]
    Flag(u8),
    /// A message longer than this side takes.
    #[error("a message of {length} bytes where at most {limit} are taken")]
    TooLong {
        /// What the prefix claims.
        length: usize,
        /// What is taken.
        limit: usize,
    },
    /// The stream ended before the message did.
    #[error("the stream of the call ended within a message")]
    Truncated,
}

impl From<MessageError> for Status {
    fn from(error: MessageError) -> Self {
        let code = match error {
            MessageError::TooLong { .. } => Code::ResourceExhausted,
            // As the protocol has it.
            MessageError::Compressed | MessageError::Flag(_) | MessageError::Truncated => {
                Code::Internal
            }
        };
        Self::new(code, error.to_string())
    }
}

/// Cuts what arrives into messages, which share the memory they arrived in; only one that lies across two arrivals is
/// copied together. Never holds more than one message that is not whole, and of that only what arrived.
#[derive(Debug)]
pub struct MessageReader {
    /// What arrived and was not looked at yet.
    arrived: Bytes,
    /// The beginning of a message that lies across arrivals.
    begun: BytesMut,
    limit: usize,
}

impl MessageReader {
    /// Takes messages of up to `limit` bytes.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            arrived: Bytes::new(),
            begun: BytesMut::new(),
            limit,
        }
    }

    /// Takes what arrived. Call [`MessageReader::next_message`] until it yields nothing before the next push.
    pub fn push(&mut self, bytes: Bytes) {
        debug_assert!(
            self.arrived.is_empty(),
            "messages of the last arrival were left"
        );
        self.arrived = bytes;
    }

    /// The length of the message that has begun and not ended, where it is known already.
    #[must_use]
    pub fn begun_message(&self) -> Option<usize> {
        let &[_, a, b, c, d] = self.begun.first_chunk::<PREFIX_BYTES>()?;
        Some(u32::from_be_bytes([a, b, c, d]) as usize)
    }

    /// The next whole message.
    ///
    /// # Errors
    /// [`MessageError`]; nothing sensible follows.
    pub fn next_message(&mut self) -> Result<Option<Bytes>, MessageError> {
        if self.begun.is_empty() {
            let whole = self.length_of(&self.arrived)?;
            if let Some(length) = whole.filter(|it| self.arrived.len() >= PREFIX_BYTES + it) {
                self.arrived.advance(PREFIX_BYTES);
                return Ok(Some(self.arrived.split_to(length)));
            }
            self.complete_to(usize::MAX);
            return Ok(None);
        }
        self.complete_to(PREFIX_BYTES);
        let Some(length) = self.length_of(&self.begun)? else {
            return Ok(None);
        };
        self.complete_to(PREFIX_BYTES + length);
        if self.begun.len() < PREFIX_BYTES + length {
            return Ok(None);
        }
        let mut message = self.begun.split().freeze();
        message.advance(PREFIX_BYTES);
        Ok(Some(message))
    }

    /// Says that nothing more comes.
    ///
    /// # Errors
    /// [`MessageError::Truncated`] when a message has begun and not ended.
    pub fn finish(&self) -> Result<(), MessageError> {
        if self.begun.is_empty() && self.arrived.is_empty() {
            return Ok(());
        }
        Err(MessageError::Truncated)
    }

    /// The length that `bytes` begin with, once it is there and within limits.
    fn length_of(&self, bytes: &[u8]) -> Result<Option<usize>, MessageError> {
        let Some(&[flag, a, b, c, d]) = bytes.first_chunk::<PREFIX_BYTES>() else {
            return Ok(None);
        };
        match flag {
            0 => {}
            1 => return Err(MessageError::Compressed),
            other => return Err(MessageError::Flag(other)),
        }
        let length = u32::from_be_bytes([a, b, c, d]) as usize;
        if length > self.limit {
            let limit = self.limit;
            return Err(MessageError::TooLong { length, limit });
        }
        Ok(Some(length))
    }

    /// Moves what arrived to what has begun, until that is `length` bytes long.
    fn complete_to(&mut self, length: usize) {
        let missing = length.saturating_sub(self.begun.len());
        let taken = self.arrived.split_to(missing.min(self.arrived.len()));
        self.begun.extend_from_slice(&taken);
    }
}

/// A message with its prefix.
///
/// # Errors
/// [`MessageError::TooLong`] for one that the prefix cannot say the length of.
pub fn prefixed(message: &[u8]) -> Result<Bytes, MessageError> {
    let length = u32::try_from(message.len()).map_err(|_| MessageError::TooLong {
        length: message.len(),
        limit: u32::MAX as usize,
    })?;
    let mut out = BytesMut::with_capacity(PREFIX_BYTES + message.len());
    out.put_u8(0);
    out.put_u32(length);
    out.put_slice(message);
    Ok(out.freeze())
}

/// The value of `grpc-timeout`: up to eight digits and a unit.
#[must_use]
pub fn parse_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let digits = &text[..text.len() - unit.len_utf8()];
    if !(1..=8).contains(&digits.len()) || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let count: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(count * 3_600),
        'M' => Duration::from_secs(count * 60),
        'S' => Duration::from_secs(count),
        'm' => Duration::from_millis(count),
        'u' => Duration::from_micros(count),
        'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

/// A message for people as `grpc-message` carries it: visible ASCII and spaces stay, all else becomes `%XX` of its UTF-8.
#[must_use]
pub fn percent_encoded(message: &str) -> String {
    let mut out = String::with_capacity(message.len());
    for byte in message.bytes() {
        if matches!(byte, b' '..=b'~') && byte != b'%' {
            out.push(char::from(byte));
        } else {
            // Writing to a string does not fail.
            let _ = write!(out, "%{byte:02X}");
        }
    }
    out
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;

    use super::*;

    /// All messages of what arrives in these pieces.
    fn read(pieces: &[&[u8]], limit: usize) -> Result<Vec<Bytes>, MessageError> {
        let mut reader = MessageReader::new(limit);
        let mut messages = Vec::new();
        for piece in pieces {
            reader.push(Bytes::copy_from_slice(piece));
            while let Some(message) = reader.next_message()? {
                messages.push(message);
            }
        }
        reader.finish()?;
        Ok(messages)
    }

    proptest! {
        #[test]
        fn given_messages_in_any_pieces_then_they_come_out_as_they_went_in(
            messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..40), 0..6),
            step in 1_usize..60,
        ) {
            let mut sent = Vec::new();
            for message in &messages {
                sent.extend_from_slice(&prefixed(message).unwrap());
            }
            let pieces: Vec<&[u8]> = sent.chunks(step).collect();
            prop_assert_eq!(read(&pieces, 40).unwrap(), messages);
        }
    }

    #[test]
    fn given_what_is_no_message_then_it_is_told_what_is_wrong() {
        let too_long = MessageError::TooLong {
            length: u32::MAX as usize,
            limit: 8,
        };
        let cases: [(&[u8], _); 6] = [
            (&[1, 0, 0, 0, 0], MessageError::Compressed),
            (&[2, 0, 0, 0, 0], MessageError::Flag(2)),
            (&[0, 255, 255, 255, 255], too_long),
            (&[0], MessageError::Truncated),
            (&[0, 0, 0, 0, 2, 7], MessageError::Truncated),
            (&[0, 0, 0, 0, 0, 0], MessageError::Truncated),
        ];
        for (bytes, wrong) in cases {
            assert_eq!(read(&[bytes], 8), Err(wrong), "{bytes:?}");
            let each: Vec<&[u8]> = bytes.chunks(1).collect();
            assert_eq!(read(&each, 8), Err(wrong), "{bytes:?}, byte by byte");
        }
    }

    #[test]
    fn given_timeouts_then_each_unit_is_what_it_says_and_all_else_is_none() {
        let cases = [
            ("2H", Some(Duration::from_secs(7_200))),
            ("3M", Some(Duration::from_secs(180))),
            ("4S", Some(Duration::from_secs(4))),
            ("250m", Some(Duration::from_millis(250))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("0n", Some(Duration::ZERO)),
            ("", None),
            ("S", None),
            ("5", None),
            ("5x", None),
            ("-5S", None),
            ("+5S", None),
            ("1.5S", None),
            ("123456789n", None),
            ("5é", None),
        ];
        for (text, timeout) in cases {
            assert_eq!(parse_timeout(text), timeout, "{text:?}");
        }
    }

    #[test]
    fn given_a_message_with_more_than_ascii_then_it_travels_percent_encoded() {
        assert_eq!(percent_encoded("100 % zu\nspät"), "100 %25 zu%0Asp%C3%A4t");
    }
}
