//! What travels on a link. On QUIC a packet is a datagram, bare; everything else is a frame that fills one stream. On
//! TCP everything is a frame behind its length.
//!
//! ```text
//! frame     kind(1) body
//! packet    1  a datagram of the membership protocol, at most 1,200 bytes
//! message   2  a message of the membership protocol, at most 64 KiB
//! ask       3  the public keys of 1 to 32 members, 32 bytes each: whose certificates are wanted
//! chains    4  per member: key(32) length(2) certificates in DER, leaf first
//! on TCP    length(4) frame
//! ```
//!
//! All numbers are big-endian. Nothing answers a frame as such: chains prove themselves, whoever passes them on.

use bytes::{BufMut as _, Bytes, BytesMut};
use warren_identity::{PeerId, peer_id_of_public_key, public_key_of_peer_id};
use warren_swim::limits;

/// The longest frame, in bytes, kind included.
pub const MAX_FRAME_BYTES: usize = 1 + limits::MESSAGE_BYTES;
/// Members that one frame asks for, and that one answers for.
pub const MAX_ASKED: usize = 32;

const PACKET: u8 = 1;
const MESSAGE: u8 = 2;
const ASK: u8 = 3;
const CHAINS: u8 = 4;
const KEY_BYTES: usize = 32;

/// One frame of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A datagram of the membership protocol.
    Packet(Bytes),
    /// A message of the membership protocol.
    Message(Bytes),
    /// Whose certificates are wanted.
    Ask(Vec<PeerId>),
    /// Certificate chains in DER, one after the other, by member.
    Chains(Vec<(PeerId, Bytes)>),
}

/// Why bytes are no frame. The link that they came on is closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// No byte at all, or one cut short.
    #[error("a frame cut short")]
    Short,
    /// Longer than its kind may be.
    #[error("a frame longer than its kind may be")]
    TooLong,
    /// A kind that this version does not know.
    #[error("a frame of the unknown kind {0}")]
    Kind(u8),
    /// Not a public key.
    #[error("a frame with a key that is none")]
    Key,
}

impl Frame {
    /// Reads a whole frame.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn decode(mut bytes: Bytes) -> Result<Self, FrameError> {
        if bytes.len() > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong);
        }
        let kind = *bytes.first().ok_or(FrameError::Short)?;
        let body = bytes.split_off(1);
        match kind {
            PACKET if body.len() > limits::PACKET_BYTES => Err(FrameError::TooLong),
            PACKET => Ok(Self::Packet(body)),
            MESSAGE => Ok(Self::Message(body)),
            ASK => decode_ask(&body).map(Self::Ask),
            CHAINS => decode_chains(body).map(Self::Chains),
            other => Err(FrameError::Kind(other)),
        }
    }

    /// The bytes that [`Frame::decode`] reads. A member whose id is not that of an Ed25519 key is left out: it cannot
    /// have a leaf.
    #[must_use]
    pub fn encode(&self) -> Bytes {
        let mut out = BytesMut::with_capacity(64);
        match self {
            Self::Packet(body) => {
                out.put_u8(PACKET);
                out.put_slice(body);
            }
            Self::Message(body) => {
                out.put_u8(MESSAGE);
                out.put_slice(body);
            }
            Self::Ask(members) => {
                out.put_u8(ASK);
                for key in members.iter().filter_map(public_key_of_peer_id) {
                    out.put_slice(&key);
                }
            }
            Self::Chains(chains) => {
                out.put_u8(CHAINS);
                for (member, chain) in chains {
                    let (Some(key), Ok(length)) =
                        (public_key_of_peer_id(member), u16::try_from(chain.len()))
                    else {
                        continue;
                    };
                    out.put_slice(&key);
                    out.put_u16(length);
                    out.put_slice(chain);
                }
            }
        }
        out.freeze()
    }

    /// What it costs on the wire beside its envelope, in bytes.
    pub(crate) fn weight(&self) -> usize {
        match self {
            Self::Packet(body) | Self::Message(body) => body.len(),
            Self::Ask(members) => members.len() * KEY_BYTES,
            Self::Chains(chains) => chains
                .iter()
                .map(|(_, chain)| chain.len() + KEY_BYTES + 2)
                .sum(),
        }
    }
}

fn member_of(key: &[u8]) -> Result<PeerId, FrameError> {
    let key = key.try_into().map_err(|_| FrameError::Short)?;
    peer_id_of_public_key(key).ok_or(FrameError::Key)
}

fn decode_ask(body: &[u8]) -> Result<Vec<PeerId>, FrameError> {
    if body.len() > MAX_ASKED * KEY_BYTES {
        return Err(FrameError::TooLong);
    }
    if body.is_empty() {
        return Err(FrameError::Short);
    }
    body.chunks(KEY_BYTES).map(member_of).collect()
}

fn decode_chains(mut body: Bytes) -> Result<Vec<(PeerId, Bytes)>, FrameError> {
    let mut chains = Vec::new();
    while !body.is_empty() {
        if chains.len() == MAX_ASKED {
            return Err(FrameError::TooLong);
        }
        if body.len() < KEY_BYTES + 2 {
            return Err(FrameError::Short);
        }
        let head = body.split_to(KEY_BYTES + 2);
        let member = member_of(&head[..KEY_BYTES])?;
        let length = usize::from(u16::from_be_bytes([head[KEY_BYTES], head[KEY_BYTES + 1]]));
        if body.len() < length {
            return Err(FrameError::Short);
        }
        chains.push((member, body.split_to(length)));
    }
    Ok(chains)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use warren_identity::NodeKey;

    fn member(number: u8) -> PeerId {
        NodeKey::from_seed([number; 32]).peer_id()
    }

    #[test]
    fn given_each_kind_when_encoded_then_it_decodes_to_the_same() {
        let frames = [
            Frame::Packet(Bytes::from_static(b"ping")),
            Frame::Message(Bytes::from_static(b"open")),
            Frame::Ask(vec![member(1), member(2)]),
            Frame::Chains(vec![
                (member(1), Bytes::from_static(b"der")),
                (member(2), Bytes::new()),
            ]),
        ];
        for frame in frames {
            assert_eq!(Frame::decode(frame.encode()), Ok(frame));
        }
    }

    #[test]
    fn given_a_chain_cut_anywhere_when_decoded_then_it_is_refused_or_shorter() {
        let whole = Frame::Chains(vec![(member(1), Bytes::from_static(b"certificate"))]);
        let bytes = whole.encode();
        for end in 0..bytes.len() {
            let cut = Frame::decode(bytes.slice(..end));
            assert_ne!(cut, Ok(whole.clone()), "cut at {end}");
        }
    }

    #[test]
    fn given_too_much_when_decoded_then_it_is_refused() {
        let packet = [vec![PACKET], vec![0; limits::PACKET_BYTES + 1]].concat();
        let ask = [vec![ASK], vec![0; (MAX_ASKED + 1) * KEY_BYTES]].concat();
        let message = vec![MESSAGE; MAX_FRAME_BYTES + 1];
        for bytes in [packet, ask, message] {
            assert_eq!(Frame::decode(bytes.into()), Err(FrameError::TooLong));
        }
    }

    #[test]
    fn given_an_unknown_kind_when_decoded_then_it_is_named() {
        assert_eq!(
            Frame::decode(Bytes::from_static(&[9])),
            Err(FrameError::Kind(9))
        );
        assert_eq!(Frame::decode(Bytes::new()), Err(FrameError::Short));
    }
}
