//! Looks at the first bytes of a substream without answering them.
//!
//! Every libp2p substream begins with multistream-select: the line `/multistream/1.0.0`, then the
//! line naming the protocol asked for, each preceded by its length as an unsigned varint. Admission
//! looks at that proposal before anything is said back, and the byte counters name a stream's
//! traffic after it. See <https://github.com/multiformats/multistream-select>.

/// More than this many bytes are never needed to tell what a substream is for: the header line
/// and one protocol name of at most 126 bytes.
pub(crate) const PEEK_LIMIT: usize = 20 + 2 + 128;

const HEADER: &[u8] = b"\x13/multistream/1.0.0\n";

/// What the first bytes of a substream say.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Peek<'a> {
    /// Not enough bytes to tell.
    NeedMore,
    /// The protocol the opener asks for, with its leading slash.
    Proposal(&'a str),
    /// Not multistream-select, or a name too long to be one of ours.
    Foreign,
}

/// Reads the proposal out of the first bytes of a substream.
pub(crate) fn peek(bytes: &[u8]) -> Peek<'_> {
    let seen = bytes.len().min(HEADER.len());
    if bytes[..seen] != HEADER[..seen] {
        return Peek::Foreign;
    }
    let rest = &bytes[seen..];
    if seen < HEADER.len() || rest.is_empty() {
        return Peek::NeedMore;
    }
    // A name of 127 bytes or more takes a second length byte; nothing of ours is that long.
    let length = usize::from(rest[0]);
    if length == 0 || length >= 128 {
        return Peek::Foreign;
    }
    let Some(line) = rest.get(1..=length) else {
        return Peek::NeedMore;
    };
    match line.strip_suffix(b"\n").map(std::str::from_utf8) {
        Some(Ok(name)) if name.starts_with('/') => Peek::Proposal(name),
        _ => Peek::Foreign,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn opening(protocol: &str) -> Vec<u8> {
        let mut bytes = HEADER.to_vec();
        bytes.push(u8::try_from(protocol.len() + 1).unwrap());
        bytes.extend_from_slice(protocol.as_bytes());
        bytes.push(b'\n');
        bytes
    }

    #[test]
    fn given_a_whole_opening_when_peeked_then_the_protocol_is_named() {
        assert_eq!(
            peek(&opening("/warren/admission/1.0.0")),
            Peek::Proposal("/warren/admission/1.0.0")
        );
    }

    #[test]
    fn given_any_prefix_of_an_opening_when_peeked_then_more_is_asked_for() {
        let bytes = opening("/ipfs/id/1.0.0");
        for end in 0..bytes.len() {
            assert_eq!(peek(&bytes[..end]), Peek::NeedMore, "prefix of {end} bytes");
        }
    }

    #[test]
    fn given_bytes_after_the_opening_when_peeked_then_they_are_ignored() {
        let mut bytes = opening("/ipfs/ping/1.0.0");
        bytes.extend_from_slice(&[0; 32]);
        assert_eq!(peek(&bytes), Peek::Proposal("/ipfs/ping/1.0.0"));
    }

    #[test]
    fn given_something_else_when_peeked_then_it_is_foreign() {
        assert_eq!(peek(b"GET / HTTP/1.1"), Peek::Foreign);
        assert_eq!(peek(&[0x13, b'/', b'x']), Peek::Foreign);
        let mut long = HEADER.to_vec();
        long.extend_from_slice(&[0xff, 0x01]);
        assert_eq!(peek(&long), Peek::Foreign);
        let mut empty = HEADER.to_vec();
        empty.push(0);
        assert_eq!(peek(&empty), Peek::Foreign);
    }
}
