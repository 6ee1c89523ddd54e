//! Streams of messages: [`Streaming`] with types, [`Incoming`] and [`Outgoing`] without.

use std::marker::PhantomData;
use std::pin::Pin;
use std::task::{Context as TaskContext, Poll, ready};

use bytes::Bytes;
use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use tokio::sync::mpsc;

use crate::codec::Codec;
use crate::service::Failure;
use crate::status::{Code, Status};

/// Messages a handler may be ahead of the network.
pub(crate) const OUTGOING_MESSAGES: usize = 32;

/// Messages from the other side, as bytes. Reading slowly slows the sender down; dropping it tells the sender to stop.
pub struct Incoming(BoxStream<'static, Result<Bytes, Failure>>);

impl Incoming {
    /// Messages out of any stream.
    pub fn new(messages: impl Stream<Item = Result<Bytes, Status>> + Send + 'static) -> Self {
        Self(Box::pin(messages.map_err(Failure::Status)))
    }

    /// What a server answers: its last item may be the service's own error, which [`Incoming::response`] gives whole.
    pub fn responses(
        messages: impl Stream<Item = Result<Bytes, Failure>> + Send + 'static,
    ) -> Self {
        Self(Box::pin(messages))
    }

    /// The first and only message, for methods that take one.
    ///
    /// # Errors
    /// [`Code::InvalidArgument`] when there is none, or what ended the stream.
    pub async fn only(mut self) -> Result<Bytes, Status> {
        self.next().await.unwrap_or_else(|| {
            Err(Status::new(
                Code::InvalidArgument,
                "the caller sent no request message",
            ))
        })
    }

    /// The one response of a method that takes a stream.
    ///
    /// # Errors
    /// [`Failure`], or [`Code::Internal`] when the server ended the call without an answer.
    pub async fn response(mut self) -> Result<Bytes, Failure> {
        self.0.next().await.unwrap_or_else(|| {
            Err(Failure::Status(Status::new(
                Code::Internal,
                "the server ended the call without a response",
            )))
        })
    }
}

impl Stream for Incoming {
    type Item = Result<Bytes, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(self.0.as_mut().poll_next(task));
        Poll::Ready(next.map(|message| message.map_err(Status::from)))
    }
}

/// Where a handler puts its responses, as bytes.
#[derive(Clone, Debug)]
pub struct Outgoing(mpsc::Sender<Bytes>);

impl Outgoing {
    /// A pair: what is sent to the first comes out of the second. At most [`OUTGOING_MESSAGES`] wait in between.
    pub(crate) fn channel() -> (Self, mpsc::Receiver<Bytes>) {
        let (sender, receiver) = mpsc::channel(OUTGOING_MESSAGES);
        (Self(sender), receiver)
    }

    /// Puts a response, waiting while the other side reads slowly. Cancellation safe: a dropped future sent nothing.
    ///
    /// # Errors
    /// [`Code::Cancelled`] when nobody listens any more.
    pub async fn send(&self, message: Bytes) -> Result<(), Status> {
        self.0
            .send(message)
            .await
            .map_err(|_| Status::new(Code::Cancelled, "the caller is gone"))
    }
}

/// Messages of type `T` from the other side.
pub struct Streaming<T> {
    messages: Incoming,
    decode: fn(Bytes) -> Result<T, Status>,
    item: PhantomData<fn() -> T>,
}

impl<T> Streaming<T> {
    /// The messages of `incoming`, decoded with `C`.
    #[must_use]
    pub fn new<C: Codec<T>>(messages: Incoming) -> Self {
        Self::with(messages, C::decode)
    }

    pub(crate) fn with(messages: Incoming, decode: fn(Bytes) -> Result<T, Status>) -> Self {
        Self {
            messages,
            decode,
            item: PhantomData,
        }
    }

    /// The next message; `None` when the other side ended well. Cancellation safe.
    pub async fn message(&mut self) -> Option<Result<T, Status>> {
        self.next().await
    }
}

impl<T> Stream for Streaming<T> {
    type Item = Result<T, Status>;

    fn poll_next(mut self: Pin<&mut Self>, task: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        let next = ready!(Pin::new(&mut self.messages).poll_next(task));
        Poll::Ready(next.map(|bytes| bytes.and_then(self.decode)))
    }
}
