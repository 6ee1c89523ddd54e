//! How user types become bytes: [`Postcard`] for serde types, [`Prost`] for protobuf's.

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::status::{Code, Status};

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
        postcard::to_allocvec(message)
            .map(Bytes::from)
            .map_err(|error| {
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
