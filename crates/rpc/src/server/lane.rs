//! A lane at the server: reads calls, polls handlers on the spot, writes what is answered.

use std::collections::HashMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::connection::{ConnectionPlace, Peer};
use crate::client::{BIG_MESSAGE_BYTES, CHUNKS};
use crate::context::Context;
use crate::core::admission::Place;
use crate::core::compress::{pack, unpack};
use crate::core::frame::{
    BIG_REPLY, Body, Frame, MAX_BOUND_METHODS, MAX_OVERHEAD_BYTES, MAX_PATH_BYTES, Part, Terms,
    WireFailure, put_failure, put_part, put_reply,
};
use crate::core::metadata::Metadata;
use crate::core::wire::{FrameError, FrameReader};
use crate::service::{BoxFuture, Failure, Route};
use crate::status::{Code, Status};

/// Answers of handlers' tasks taken at once.
const FINISHED_BATCH: usize = 256;
/// A handler that keeps the lane for longer than this gets a task from then on: it computes instead of waiting.
const LONG_POLL: Duration = Duration::from_micros(200);

type HandlerResult = Result<Bytes, Failure>;

/// Serves one lane to its end.
pub(super) async fn serve(
    peer: &Arc<Peer>,
    number: usize,
    mut send: quinn::SendStream,
    mut receive: quinn::RecvStream,
) {
    let (finished, mut results) = mpsc::unbounded_channel();
    let mut lane = Lane {
        peer: Arc::clone(peer),
        number,
        bound: Vec::new(),
        running: HashMap::new(),
        sequence: 0,
        finished,
        out: BytesMut::new(),
    };
    let mut reader = FrameReader::new(peer.shared.options.max_message_bytes + MAX_OVERHEAD_BYTES);
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            read = receive.read_chunks(&mut chunks) => {
                let Ok(Some(count)) = read else { break };
                if let Err(error) = lane.take_frames(&mut reader, &mut chunks[..count]) {
                    peer.protocol_error(&error);
                    break;
                }
            }
            _ = results.recv_many(&mut batch, FINISHED_BATCH) => {
                batch.drain(..).for_each(|finished| lane.finish(finished));
            }
        }
        if !lane.out.is_empty() && send.write_chunk(lane.out.split().freeze()).await.is_err() {
            break;
        }
    }
    // Nobody waits for what still runs.
    lane.running
        .values()
        .for_each(|running| running.task.abort());
}

struct Lane {
    peer: Arc<Peer>,
    number: usize,
    /// What the client's numbers stand for; `None`: a method that is not here.
    bound: Vec<Bound>,
    running: HashMap<u32, Running>,
    /// Tells a handler's task from an earlier one with the same call id.
    sequence: u64,
    finished: mpsc::UnboundedSender<Finished>,
    out: BytesMut,
}

struct Bound {
    path: Box<str>,
    route: Option<Route>,
    /// Whether its handlers have been seen to keep the lane.
    gets_task: bool,
}

struct Running {
    sequence: u64,
    task: AbortHandle,
}

/// What a handler's task brings back.
struct Finished {
    id: u32,
    sequence: u64,
    result: HandlerResult,
    /// Held until the answer is written.
    _places: Places,
}

type Places = (Place, ConnectionPlace);

impl Lane {
    fn take_frames(
        &mut self,
        reader: &mut FrameReader,
        chunks: &mut [Bytes],
    ) -> Result<(), FrameError> {
        for chunk in chunks {
            reader.push(std::mem::take(chunk));
            while let Some((kind, payload)) = reader.next_frame()? {
                self.take_frame(kind, payload)?;
            }
        }
        Ok(())
    }

    fn take_frame(&mut self, kind: u8, payload: Bytes) -> Result<(), FrameError> {
        match Frame::parse(kind, payload)? {
            Frame::Bind { method, path } => self.bind(kind, method, &path),
            Frame::Call {
                id,
                method,
                terms,
                body,
            } => {
                let method = usize::from(method);
                if method >= self.bound.len() || self.running.contains_key(&id) {
                    return Err(FrameError::Payload(kind));
                }
                if let Err(status) = self.call(id, method, terms, body) {
                    self.fail(id, Failure::Status(status));
                }
                Ok(())
            }
            Frame::Cancel { id } => {
                if let Some(running) = self.running.remove(&id) {
                    running.task.abort();
                    let status = Status::new(Code::Cancelled, "cancelled by the caller");
                    self.fail(id, Failure::Status(status));
                }
                Ok(())
            }
            Frame::Reply { .. } | Frame::Failure { .. } => Err(FrameError::Kind(kind)),
        }
    }

    fn bind(&mut self, kind: u8, method: u16, path: &[u8]) -> Result<(), FrameError> {
        let path = std::str::from_utf8(path).map_err(|_| FrameError::Payload(kind))?;
        let is_next = usize::from(method) == self.bound.len() && method < MAX_BOUND_METHODS;
        if !is_next || !(1..=MAX_PATH_BYTES).contains(&path.len()) {
            return Err(FrameError::Payload(kind));
        }
        let route = self.peer.shared.router.load().get(path);
        self.bound.push(Bound {
            path: path.into(),
            route,
            gets_task: false,
        });
        Ok(())
    }

    /// Begins a call, and answers it if its handler is ready at once.
    fn call(
        &mut self,
        id: u32,
        method: usize,
        terms: Terms<Metadata>,
        body: Body,
    ) -> Result<(), Status> {
        if self.peer.is_draining() {
            return Err(draining());
        }
        let bound = &mut self.bound[method];
        let route = bound.route_now(&self.peer)?;
        if !route.takes_lanes() {
            return Err(Status::new(
                Code::Unimplemented,
                format!(
                    "`{}` is a streaming method and was called as a unary one",
                    bound.path
                ),
            )
            .not_processed());
        }
        let on_connection = self.peer.enter()?;
        let on_server = self
            .peer
            .shared
            .admission
            .enter()
            .map_err(Status::overloaded)?;
        let places = (on_server, on_connection);
        let request = unpack(body, self.peer.shared.options.max_message_bytes)?;
        let begun = Instant::now();
        let context = Context::received(terms, Arc::clone(&self.peer.member), begun);
        let deadline = context.ends_at();
        let mut handler = route.unary(context, request);
        if !bound.gets_task {
            let polled = poll_once(&mut handler);
            bound.gets_task = begun.elapsed() > LONG_POLL;
            if let Poll::Ready(result) = polled {
                self.answer(id, result);
                return Ok(());
            }
        }
        self.start(id, handler, begun, deadline, places);
        Ok(())
    }

    /// Gives a handler a task.
    fn start(
        &mut self,
        id: u32,
        handler: BoxFuture<HandlerResult>,
        begun: Instant,
        deadline: Option<Instant>,
        places: Places,
    ) {
        self.sequence += 1;
        let sequence = self.sequence;
        let finished = self.finished.clone();
        let admission = Arc::clone(&self.peer.shared.admission);
        let task = tokio::spawn(async move {
            let result = within(deadline, handler).await;
            admission.took(begun.elapsed());
            // A lane that ended has nobody to tell.
            let _ = finished.send(Finished {
                id,
                sequence,
                result,
                _places: places,
            });
        });
        let task = task.abort_handle();
        self.running.insert(id, Running { sequence, task });
    }

    /// Takes what a handler's task brings back, unless the call was cancelled meanwhile.
    fn finish(&mut self, finished: Finished) {
        let current = self
            .running
            .get(&finished.id)
            .is_some_and(|running| running.sequence == finished.sequence);
        if current {
            self.running.remove(&finished.id);
            self.answer(finished.id, finished.result);
        }
    }

    fn answer(&mut self, id: u32, result: HandlerResult) {
        match result {
            Ok(response) => {
                let limit = self.peer.shared.options.compress_above;
                let body = pack(response, limit);
                if body.bytes.len() > BIG_MESSAGE_BYTES {
                    self.answer_beside(id, body);
                } else {
                    put_reply(&mut self.out, id, &body);
                }
            }
            Err(failure) => self.fail(id, failure),
        }
    }

    fn fail(&mut self, id: u32, failure: Failure) {
        put_failure(&mut self.out, id, &WireFailure::from(failure));
    }

    /// A big reply goes on a stream of its own, so that small ones do not wait behind it.
    fn answer_beside(&self, id: u32, body: Body) {
        let peer = Arc::clone(&self.peer);
        // Lanes are counted to 16.
        let number = u8::try_from(self.number).unwrap_or(u8::MAX);
        let place = self.peer.enter();
        tokio::spawn(async move {
            let _place = place;
            let Ok(mut stream) = peer.quic.open_uni().await else {
                return;
            };
            let mut out = BytesMut::with_capacity(body.bytes.len() + 16);
            out.put_u8(BIG_REPLY);
            out.put_u8(number);
            out.put_u32_le(id);
            put_part(&mut out, &Part::Message(body));
            if stream.write_chunk(out.freeze()).await.is_ok() {
                let _ = stream.finish();
            }
        });
    }
}

impl Bound {
    /// Where calls of this method go; a service that was registered since the binding is found.
    fn route_now(&mut self, peer: &Peer) -> Result<Route, Status> {
        if self.route.is_none() {
            self.route = peer.shared.router.load().get(&self.path);
        }
        self.route.clone().ok_or_else(|| unknown_method(&self.path))
    }
}

/// What a call of a method that is not here gets.
pub(super) fn unknown_method(path: &str) -> Status {
    Status::new(
        Code::Unimplemented,
        format!("no method `{path}` here; is the service registered, and of the same version?"),
    )
    .not_processed()
}

/// What a call gets that comes after the server said that it stops.
pub(super) fn draining() -> Status {
    Status::new(
        Code::Unavailable,
        "the server is shutting down and takes no new calls",
    )
    .not_processed()
}

/// A handler held to its deadline.
pub(super) async fn within<T>(
    deadline: Option<Instant>,
    handler: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    match deadline {
        None => handler.await,
        Some(at) => tokio::time::timeout_at(at.into(), handler)
            .await
            .unwrap_or_else(|_| {
                Err(Failure::Status(Status::new(
                    Code::DeadlineExceeded,
                    "the deadline passed while the handler ran",
                )))
            }),
    }
}

/// Polls a handler where it stands. Its task, if it gets one, polls it again with a waker that matters.
fn poll_once(handler: &mut BoxFuture<HandlerResult>) -> Poll<HandlerResult> {
    Pin::new(handler).poll(&mut TaskContext::from_waker(Waker::noop()))
}

impl From<Failure> for WireFailure {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Application { encoded, status } => Self {
                status,
                application: Some(encoded),
            },
            Failure::Status(status) => Self {
                status,
                application: None,
            },
        }
    }
}

impl From<WireFailure> for Failure {
    fn from(failure: WireFailure) -> Self {
        match failure.application {
            Some(encoded) => Self::Application {
                encoded,
                status: failure.status,
            },
            None => Self::Status(failure.status),
        }
    }
}
