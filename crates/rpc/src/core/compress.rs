//! Messages get Zstandard (RFC 8878) where it helps, and never grow beyond their limit when it is taken off.

use bytes::Bytes;

use super::frame::Body;
use crate::status::{Code, Status};

/// The level: fast enough to be cheaper than a gigabit link.
const LEVEL: i32 = 1;
/// How much of a message is tried before all of it is compressed.
const SAMPLE_BYTES: usize = 4 * 1024;

/// `message` as it travels: compressed when it has at least `above` bytes and gets smaller by a tenth.
#[must_use]
pub fn pack(message: Bytes, above: Option<usize>) -> Body {
    if above.is_none_or(|above| message.len() < above) || !pays(&message) {
        return Body::plain(message);
    }
    match zstd::bulk::compress(&message, LEVEL) {
        Ok(packed) if packed.len() < message.len() / 10 * 9 => Body {
            bytes: packed.into(),
            compressed: true,
        },
        _ => Body::plain(message),
    }
}

/// The message of `body`, at most `limit` bytes of it.
///
/// # Errors
/// [`Code::ResourceExhausted`] beyond the limit, [`Code::InvalidArgument`] when the bytes are no Zstandard.
pub fn unpack(body: Body, limit: usize) -> Result<Bytes, Status> {
    if !body.compressed {
        return if body.bytes.len() > limit {
            Err(too_large(limit))
        } else {
            Ok(body.bytes)
        };
    }
    match zstd::zstd_safe::get_frame_content_size(&body.bytes) {
        Ok(Some(size)) if size > limit as u64 => Err(too_large(limit)),
        Ok(Some(size)) => {
            // Within the limit, as just seen.
            let size = usize::try_from(size).unwrap_or(limit);
            zstd::bulk::decompress(&body.bytes, size)
                .map(Bytes::from)
                .map_err(|_| damaged())
        }
        Ok(None) | Err(_) => Err(damaged()),
    }
}

/// How many bytes `body` has once decompressed, as it says itself; [`unpack`] holds it to that.
#[must_use]
pub fn unpacked_bytes(body: &Body) -> usize {
    if !body.compressed {
        return body.bytes.len();
    }
    match zstd::zstd_safe::get_frame_content_size(&body.bytes) {
        Ok(Some(size)) => usize::try_from(size).unwrap_or(usize::MAX),
        Ok(None) | Err(_) => 0,
    }
}

/// The refusal of a message beyond `limit` bytes.
#[must_use]
pub fn too_large(limit: usize) -> Status {
    Status::new(
        Code::ResourceExhausted,
        format!(
            "a message of more than {limit} bytes; send it in parts by a streaming method, or raise max_message_bytes"
        ),
    )
}

fn damaged() -> Status {
    Status::new(
        Code::InvalidArgument,
        "a compressed message that is no Zstandard",
    )
}

/// Random or compressed bytes do not get smaller: a sample tells.
fn pays(message: &[u8]) -> bool {
    if message.len() <= SAMPLE_BYTES {
        return true;
    }
    let sample = &message[..SAMPLE_BYTES];
    zstd::bulk::compress(sample, LEVEL).is_ok_and(|packed| packed.len() < SAMPLE_BYTES / 10 * 9)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_text_above_the_size_then_it_travels_smaller_and_arrives_equal() {
        let message = Bytes::from("the same line again\n".repeat(1000));
        let body = pack(message.clone(), Some(1024));
        assert!(body.compressed && body.bytes.len() < message.len() / 10);
        assert_eq!(unpack(body, message.len()), Ok(message));
    }

    #[test]
    fn given_a_message_below_the_size_then_it_travels_as_it_is() {
        let message = Bytes::from(vec![b'a'; 1000]);
        assert_eq!(pack(message.clone(), Some(1024)), Body::plain(message));
    }

    #[test]
    fn given_a_bomb_then_it_is_refused_before_it_is_unpacked() {
        let body = pack(Bytes::from(vec![0; 1 << 20]), Some(0));
        assert!(body.compressed);
        let refusal = unpack(body, 1 << 16).unwrap_err();
        assert_eq!(refusal.code(), Code::ResourceExhausted);
    }

    #[test]
    fn given_bytes_that_are_no_zstandard_then_it_is_said() {
        let body = Body {
            bytes: Bytes::from_static(b"not compressed"),
            compressed: true,
        };
        assert_eq!(unpack(body, 100).unwrap_err().code(), Code::InvalidArgument);
    }
}
