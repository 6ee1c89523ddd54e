//! What the code that `#[warren_rpc::service]` writes calls. Not for people: it changes with the attribute.

pub use std::borrow::Cow;
pub use std::boxed::Box;
pub use std::sync::Arc;

pub use bytes::Bytes;
pub use futures::Stream;

use std::pin::pin;

use futures::StreamExt;

use crate::caller::Caller;
use crate::codec::Codec;
use crate::context::Context;
use crate::descriptor::{Method, ServiceDescriptor};
use crate::service::{ApplicationError, BoxFuture, Failure};
use crate::status::{CallError, Code, Status};
use crate::streaming::{Incoming, Outgoing, Streaming};

/// A request at the server.
///
/// # Errors
/// What the codec says.
pub fn decode<C: Codec<T>, T>(request: Bytes) -> Result<T, Failure> {
    C::decode(request).map_err(Failure::Status)
}

/// A response at the server.
///
/// # Errors
/// What the codec says.
pub fn encode<C: Codec<T>, T>(response: T) -> Result<Bytes, Failure> {
    C::encode(&response).map_err(Failure::Status)
}

/// The service's own error on its way to the caller.
pub fn failure<C: Codec<E>, E: ApplicationError>(error: E) -> Failure {
    let encoded = C::encode(&error);
    let status = Status::from(error);
    match encoded {
        Ok(encoded) => Failure::Application { encoded, status },
        // The caller learns the code and the text all the same.
        Err(_) => Failure::Status(status),
    }
}

/// A status that a handler fails with. Whether the calls that the handler made had an effect says nothing about its own.
#[must_use]
pub fn status_failure(status: Status) -> Failure {
    Failure::Status(status.of_unknown_effect())
}

/// The only request of a method that streams its responses.
///
/// # Errors
/// What ended the stream before, or the codec.
pub async fn only<C: Codec<T>, T>(incoming: Incoming) -> Result<T, Failure> {
    decode::<C, T>(incoming.only().await?)
}

/// The requests of a method that takes many.
#[must_use]
pub fn requests<C: Codec<T>, T>(incoming: Incoming) -> Streaming<T> {
    Streaming::new::<C>(incoming)
}

/// Sends what a handler yields, to its end or its first error.
///
/// # Errors
/// The handler's, the codec's, or that nobody listens any more.
pub async fn respond<C: Codec<T>, T>(
    responses: impl Stream<Item = Result<T, Status>> + Send,
    outgoing: Outgoing,
) -> Result<(), Failure> {
    let mut responses = pin!(responses);
    while let Some(response) = responses.next().await {
        let response = response.map_err(status_failure)?;
        outgoing.send(C::encode(&response)?).await?;
    }
    Ok(())
}

/// The answer to an index that the service does not have, or that is of the other sort.
pub fn no_such_method<T: Send + 'static>(
    service: &'static ServiceDescriptor,
    method: usize,
) -> BoxFuture<Result<T, Failure>> {
    let message = match service.methods.get(method) {
        Some(known) => format!("`{}` is not called this way", known.path),
        None => format!("`{}` has no method {method}", service.name),
    };
    let status = Status::new(Code::Unimplemented, message).not_processed();
    Box::pin(std::future::ready(Err(Failure::Status(status))))
}

/// A unary call.
///
/// # Errors
/// The handler's or the machinery's.
pub async fn unary<C: Codec<Q>, Q, D: Codec<R>, R, K: Caller>(
    caller: &K,
    method: &'static Method,
    context: Context,
    request: Q,
) -> Result<R, Failure> {
    let request = encode_request::<C, Q>(request)?;
    let response = caller.unary(method, context, request).await?;
    Ok(decode_response::<D, R>(response)?)
}

/// A call with a stream of requests and one response.
///
/// # Errors
/// The handler's or the machinery's.
pub async fn upload<C: Codec<Q> + 'static, Q: 'static, D: Codec<R>, R, K: Caller>(
    caller: &K,
    method: &'static Method,
    context: Context,
    requests: impl Stream<Item = Q> + Send + 'static,
) -> Result<R, Failure> {
    let requests = encode_requests::<C, Q>(requests);
    let responses = caller.streaming(method, context, requests).await?;
    Ok(decode_response::<D, R>(responses.response().await?)?)
}

/// A call with one request and a stream of responses.
///
/// # Errors
/// The call could not be begun.
pub async fn download<C: Codec<Q>, Q, D: Codec<R>, R, K: Caller>(
    caller: &K,
    method: &'static Method,
    context: Context,
    request: Q,
) -> Result<Streaming<R>, Status> {
    let request = encode_request::<C, Q>(request)?;
    let requests = Incoming::new(futures::stream::once(std::future::ready(Ok(request))));
    let responses = caller.streaming(method, context, requests).await?;
    Ok(Streaming::with(responses, decode_response::<D, R>))
}

/// A call with a stream each way.
///
/// # Errors
/// The call could not be begun.
pub async fn exchange<C: Codec<Q> + 'static, Q: 'static, D: Codec<R>, R, K: Caller>(
    caller: &K,
    method: &'static Method,
    context: Context,
    requests: impl Stream<Item = Q> + Send + 'static,
) -> Result<Streaming<R>, Status> {
    let requests = encode_requests::<C, Q>(requests);
    let responses = caller.streaming(method, context, requests).await?;
    Ok(Streaming::with(responses, decode_response::<D, R>))
}

/// A failure as the caller of a method with an error of its own sees it. One that does not decode, say of a newer
/// version, is a status with its code and its text.
pub fn call_error<C: Codec<E>, E>(failure: Failure) -> CallError<E> {
    match failure {
        Failure::Application { encoded, status } => {
            C::decode(encoded).map_or(CallError::Status(status), CallError::Application)
        }
        Failure::Status(status) => CallError::Status(status),
    }
}

fn encode_request<C: Codec<Q>, Q>(request: Q) -> Result<Bytes, Status> {
    C::encode(&request).map_err(Status::not_processed)
}

fn encode_requests<C: Codec<Q> + 'static, Q: 'static>(
    requests: impl Stream<Item = Q> + Send + 'static,
) -> Incoming {
    Incoming::new(requests.map(encode_request::<C, Q>))
}

/// A response that is none: the server's fault, not the argument's.
fn decode_response<C: Codec<R>, R>(response: Bytes) -> Result<R, Status> {
    C::decode(response).map_err(|status| {
        Status::new(
            Code::Internal,
            format!("the server's response is of another type: {status}"),
        )
    })
}
