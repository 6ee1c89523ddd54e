//! Requests on streams of their own, held to what the requests of one connection may take.
//!
//! A message above 64 KiB is not read on before there is room for all of it; the client waits meanwhile, as QUIC's flow
//! control has it. A message keeps its room until its handler is done with it, or asks for the next.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::RecvStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::session::{BUDGET_UNIT_BYTES, Session};
use crate::client::BIG_MESSAGE_BYTES;
use crate::core::compress::{unpack, unpacked_bytes};
use crate::core::frame::Part;
use crate::core::wire::FrameReader;
use crate::status::{Code, Status};
use crate::stream_io::read_more;
use crate::streaming::Incoming;

/// How long a caller may pause within a message.
const STALL_TIMEOUT: Duration = Duration::from_secs(30);

/// The messages that a caller sends.
pub(super) struct Requests {
    receive: RecvStream,
    reader: FrameReader,
    limit: usize,
    budget: Arc<Semaphore>,
    retry_after: Duration,
}

/// The room that a message takes, given back when dropped.
pub(super) type Room = Option<OwnedSemaphorePermit>;

impl Requests {
    pub(super) fn new(session: &Session, receive: RecvStream, reader: FrameReader) -> Self {
        Self {
            receive,
            reader,
            limit: session.shared.options.max_message_bytes,
            budget: Arc::clone(&session.request_budget),
            retry_after: session.shared.admission.retry_after(),
        }
    }

    /// The one request of a unary call.
    pub(super) async fn only(mut self) -> Result<(Bytes, Room), Status> {
        self.next(true)
            .await?
            .ok_or_else(|| Status::new(Code::InvalidArgument, "the caller sent no request message"))
    }

    /// All of them, each keeping its room until the next is asked for.
    pub(super) fn incoming(self) -> Incoming {
        let state = Some((self, None));
        Incoming::new(futures::stream::unfold(state, |state| async move {
            let (mut requests, room) = state?;
            drop(room);
            match requests.next(false).await {
                Ok(Some((message, room))) => Some((Ok(message), Some((requests, room)))),
                Ok(None) => None,
                Err(status) => Some((Err(status), None)),
            }
        }))
    }

    /// The next message. While none has begun the caller may take its time unless it is `expected`.
    async fn next(&mut self, expected: bool) -> Result<Option<(Bytes, Room)>, Status> {
        let mut room = None;
        let (kind, payload) = loop {
            if let Some(frame) = self.reader.next_frame()? {
                break frame;
            }
            if let Some(length) = self.reader.begun_frame()
                && room.is_none()
                && length > BIG_MESSAGE_BYTES
            {
                room = Some(self.room(length).await?);
            }
            let patience = expected || self.reader.is_within_frame();
            let more = read_more(&mut self.receive, &mut self.reader);
            let more = if patience {
                tokio::time::timeout(STALL_TIMEOUT, more)
                    .await
                    .map_err(|_| stalled())?
            } else {
                more.await
            };
            if !more? {
                return Ok(None);
            }
        };
        let Part::Message(body) = Part::parse(kind, payload)? else {
            return Err(Status::new(
                Code::Internal,
                "the caller sent what only servers send",
            ));
        };
        let unpacked = unpacked_bytes(&body);
        if body.compressed && (BIG_MESSAGE_BYTES..=self.limit).contains(&unpacked) {
            // Waiting here, with what is packed in hand, calls could wait for each other.
            let more = Arc::clone(&self.budget)
                .try_acquire_many_owned(units(unpacked))
                .map_err(|_| Status::overloaded(self.retry_after))?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        Ok(Some((unpack(body, self.limit)?, room)))
    }

    async fn room(&self, bytes: usize) -> Result<OwnedSemaphorePermit, Status> {
        let room = Arc::clone(&self.budget).acquire_many_owned(units(bytes));
        // Nobody closes the budget.
        room.await.map_err(|_| Status::overloaded(self.retry_after))
    }
}

fn units(bytes: usize) -> u32 {
    u32::try_from(bytes.div_ceil(BUDGET_UNIT_BYTES)).unwrap_or(u32::MAX)
}

fn stalled() -> Status {
    Status::new(
        Code::DeadlineExceeded,
        format!("nothing of the request came for {STALL_TIMEOUT:?}"),
    )
    .not_processed()
}
