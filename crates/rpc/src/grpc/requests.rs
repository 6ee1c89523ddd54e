//! The messages of a request, held to what the requests of one connection may take.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::BodyExt;
use hyper::body::Incoming as Body;
use tokio::sync::OwnedSemaphorePermit;

use crate::client::BIG_MESSAGE_BYTES;
use crate::core::grpc::MessageReader;
use crate::server::session::{BUDGET_UNIT_BYTES, Session};
use crate::status::{Code, Status};
use crate::streaming::Incoming;

/// How long a caller may pause within a message.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The room that a message takes, given back when dropped.
pub(super) type Room = Option<OwnedSemaphorePermit>;

/// The messages of a request.
pub(super) struct Requests {
    body: Body,
    reader: MessageReader,
    session: Arc<Session>,
}

impl Requests {
    pub(super) fn new(session: &Arc<Session>, body: Body) -> Self {
        Self {
            body,
            reader: MessageReader::new(session.shared.options.max_message_bytes),
            session: Arc::clone(session),
        }
    }

    /// The message of a method that takes one.
    ///
    /// # Errors
    /// [`Code::Unimplemented`] where there is none or are more: the method is called as another kind than it is.
    pub(super) async fn only(mut self) -> Result<(Bytes, Room), Status> {
        let wrong = |what| {
            Status::new(
                Code::Unimplemented,
                format!("the caller sent {what}, and the method takes one"),
            )
            .not_processed()
        };
        let first = self.next(true).await?;
        let first = first.ok_or_else(|| wrong("no request message"))?;
        match self.next(true).await? {
            None => Ok(first),
            Some(_) => Err(wrong("more than one request message")),
        }
    }

    /// [`Requests::only`] for methods that answer with a stream.
    pub(super) fn single(self) -> Incoming {
        Incoming::new(stream::once(async move {
            let (message, _room) = self.only().await?;
            Ok(message)
        }))
    }

    /// All of them, each keeping its room until the next is asked for.
    pub(super) fn incoming(self) -> Incoming {
        let state = Some((self, None));
        Incoming::new(stream::unfold(state, |state| async move {
            let (mut requests, room) = state?;
            drop(room);
            match requests.next(false).await {
                Ok(Some((message, room))) => Some((Ok(message), Some((requests, room)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    /// The next message. While none has begun the caller may take its time unless something is `expected`.
    async fn next(&mut self, expected: bool) -> Result<Option<(Bytes, Room)>, Status> {
        let mut room = None;
        loop {
            if let Some(message) = self.reader.next_message()? {
                return Ok(Some((message, room)));
            }
            let begun = self.reader.begun_message();
            if let Some(length) = begun.filter(|length| *length > BIG_MESSAGE_BYTES)
                && room.is_none()
            {
                room = Some(self.room(length)?);
            }
            let is_within_message = self.reader.finish().is_err();
            let more = if expected || is_within_message {
                tokio::time::timeout(STALL_TIMEOUT, self.read_more())
                    .await
                    .map_err(|_| stalled())??
            } else {
                self.read_more().await?
            };
            if !more {
                self.reader.finish()?;
                return Ok(None);
            }
        }
    }

    /// Gives the reader what arrives next; `false` at the end.
    async fn read_more(&mut self) -> Result<bool, Status> {
        match self.body.frame().await {
            None => Ok(false),
            Some(Ok(frame)) => {
                // Trailers of a request say nothing.
                if let Ok(data) = frame.into_data() {
                    if let Some(metrics) = &self.session.shared.metrics {
                        metrics.carried(data.len() as u64, 0);
                    }
                    self.reader.push(data);
                }
                Ok(true)
            }
            Some(Err(error)) => Err(Status::new(
                Code::Cancelled,
                format!("the caller gave the call up: {error}"),
            )),
        }
    }

    /// Room for a message. One that does not fit is refused, not kept waiting: what has come of it already takes the
    /// connection's flow-control window from those that have room.
    fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let units = u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX);
        let room = Arc::clone(&self.session.request_budget).try_acquire_many_owned(units);
        room.map_err(|_| Status::overloaded(self.session.shared.admission.retry_after()))
    }
}

fn stalled() -> Status {
    Status::new(
        Code::DeadlineExceeded,
        format!("nothing of the request came for {STALL_TIMEOUT:?}"),
    )
    .not_processed()
}
