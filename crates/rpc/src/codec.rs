//! How user types become bytes: [`Postcard`] for serde types, [`Prost`] for protobuf's.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::status::{Code, Status};

/// Messages up to this many bytes are encoded on the stack first.
const SMALL_MESSAGE_BYTES: usize = 256;

/// Turns messages of type `T` into bytes and back. A service names one for all its messages.
pub trait Codec<T> {
    /// The message as bytes.
    ///
    /// # Errors
    /// [`Code::Internal`] when the type cannot be represented.
    fn encode(message: &T) -> Result<Bytes, Status>;

    /// The message in `bytes`.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] when the bytes are no such message.
    fn decode(bytes: Bytes) -> Result<T, Status>;
}

/// [postcard](https://postcard.jamesmunns.com/wire-format): compact, for types with serde's derives. Both sides must
/// have the same type: fields are told apart by place.
#[derive(Clone, Copy, Debug)]
pub struct Postcard;

impl<T: Serialize + DeserializeOwned> Codec<T> for Postcard {
    fn encode(message: &T) -> Result<Bytes, Status> {
        // One allocation of the right size for small messages, instead of one for each doubling.
        let mut small = [0; SMALL_MESSAGE_BYTES];
        let encoded = match postcard::to_slice(message, &mut small) {
            Ok(encoded) => Ok(Bytes::copy_from_slice(encoded)),
            Err(postcard::Error::SerializeBufferFull) => {
                postcard::to_allocvec(message).map(Bytes::from)
            }
            Err(error) => Err(error),
        };
        encoded.map_err(|error| {
            Status::new(
                Code::Internal,
                format!("the message cannot be encoded: {error}"),
            )
        })
    }

    fn decode(bytes: Bytes) -> Result<T, Status> {
        match postcard::take_from_bytes(&bytes) {
            Ok((message, [])) => Ok(message),
            Ok((_, rest)) => Err(Status::new(
                Code::InvalidArgument,
                format!(
                    "the message has {} bytes too many; do both sides have the same type?",
                    rest.len()
                ),
            )),
            Err(error) => Err(Status::new(
                Code::InvalidArgument,
                format!(
                    "the message cannot be decoded: {error}; do both sides have the same type?"
                ),
            )),
        }
    }
}

/// Protocol buffers, for types that `prost-build` writes from a `.proto` or that derive `prost::Message`: what gRPC
/// clients speak, and types that change by the rules of protobuf.
#[derive(Clone, Copy, Debug)]
pub struct Prost;

impl<T: prost::Message + Default> Codec<T> for Prost {
    fn encode(message: &T) -> Result<Bytes, Status> {
        Ok(Bytes::from(message.encode_to_vec()))
    }

    fn decode(bytes: Bytes) -> Result<T, Status> {
        T::decode(bytes).map_err(|error| {
            Status::new(
                Code::InvalidArgument,
                format!(
                    "the message cannot be decoded: {error}; do both sides have the same `.proto`?"
                ),
            )
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    #[test]
    fn given_messages_around_the_size_that_the_stack_holds_then_each_comes_back() {
        for length in [
            0,
            1,
            SMALL_MESSAGE_BYTES - 2,
            SMALL_MESSAGE_BYTES - 1,
            100_000,
        ] {
            let message = "a".repeat(length);
            let encoded = Postcard::encode(&message).unwrap();
            assert_eq!(Postcard::decode(encoded), Ok(message), "{length}");
        }
    }

    #[test]
    fn given_bytes_after_a_message_then_they_are_not_overlooked() {
        let decoded: Result<u8, _> = Postcard::decode(Bytes::from_static(&[1, 2]));
        assert_eq!(decoded.unwrap_err().code(), Code::InvalidArgument);
    }

    #[test]
    fn given_a_message_of_a_newer_protobuf_then_what_is_known_of_it_is_taken() {
        // Field 1 is known; field 9 is not.
        let newer = Bytes::from_static(&[0x08, 7, 0x48, 1]);
        let decoded: Result<u32, _> = Prost::decode(newer);
        assert_eq!(decoded, Ok(7));
    }
}
