//! A lane at the server: reads calls, polls handlers on the spot, writes what is answered.

use std::collections::HashMap;
use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, Waker};
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use super::connection::Peer;
use super::intake::{Accepted, accept, code_of, guarded, meter_of, panicked, turned_away};
use super::keyed::once;
use super::session::{ConnectionPlace, QueuedAnswer};
use crate::client::{BIG_MESSAGE_BYTES, CHUNKS};
use crate::core::admission::{Place, Unwritten};
use crate::core::compress::{pack, unpack};
use crate::core::frame::{
    BIG_REPLY, Body, Frame, MAX_BOUND_METHODS, MAX_OVERHEAD_BYTES, MAX_PATH_BYTES, Part, Terms,
    WireFailure, put_failure, put_part, put_reply,
};
use crate::core::metadata::Metadata;
use crate::core::pace::Pace;
use crate::core::wire::{FrameError, FrameReader};
use crate::observe::{MethodMeter, Tally};
use crate::service::{BoxFuture, Failure, Route};
use crate::status::{Code, Status};

/// Answers that wait before they are written while more calls are read, in bytes.
const MAX_OUT_BYTES: usize = 256 * 1024;
/// Answers of handlers' tasks taken at once.
const FINISHED_BATCH: usize = 256;

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
        tallied: Vec::new(),
        now: Instant::now(),
    };
    let mut reader = FrameReader::new(BIG_MESSAGE_BYTES + MAX_OVERHEAD_BYTES);
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut batch = Vec::new();
    loop {
        tokio::select! {
            read = receive.read_chunks(&mut chunks) => {
                let Ok(Some(count)) = read else { break };
                match lane.take_frames(&mut reader, &mut chunks[..count], &mut send).await {
                    // There is more: others first.
                    Ok(()) if count == CHUNKS => tokio::task::yield_now().await,
                    Ok(()) => {}
                    Err(LaneEnd::Gone) => break,
                    Err(LaneEnd::Protocol(error)) => {
                        peer.protocol_error(&error);
                        break;
                    }
                }
            }
            _ = results.recv_many(&mut batch, FINISHED_BATCH) => {
                batch.drain(..).for_each(|finished| lane.finish(finished));
            }
        }
        lane.add_up();
        if !lane.out.is_empty() && lane.write(&mut send).await.is_err() {
            break;
        }
    }
    lane.end();
}

/// Why a lane is read no more.
enum LaneEnd {
    /// Its client is gone.
    Gone,
    /// Its client does not keep to the protocol.
    Protocol(FrameError),
}

impl From<FrameError> for LaneEnd {
    fn from(error: FrameError) -> Self {
        Self::Protocol(error)
    }
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
    /// Methods that have answers to be added up.
    tallied: Vec<usize>,
    /// When the last poll ended: reading the clock costs as much as a small call's dispatch, so calls share readings.
    now: Instant,
}

struct Bound {
    path: Box<str>,
    route: Option<Route>,
    /// Whether its handlers keep the lane.
    pace: Pace,
    /// Where its calls are counted, and those that were not added up yet.
    meter: Option<Arc<MethodMeter>>,
    tally: Tally,
}

struct Running {
    sequence: u64,
    method: usize,
    begun: Instant,
    task: AbortHandle,
}

/// What a handler's task brings back.
struct Finished {
    id: u32,
    sequence: u64,
    result: HandlerResult,
    /// Held until the answer is about to be written.
    _held: (Option<Unwritten>, ConnectionPlace, QueuedAnswer),
}

/// A call that waits for its handler's task.
struct Begun {
    id: u32,
    method: usize,
    at: Instant,
    deadline: Option<Instant>,
    /// `None` where the execution under an idempotency key has it.
    on_server: Option<Place>,
    on_connection: ConnectionPlace,
}

impl Lane {
    async fn take_frames(
        &mut self,
        reader: &mut FrameReader,
        chunks: &mut [Bytes],
        send: &mut quinn::SendStream,
    ) -> Result<(), LaneEnd> {
        self.now = Instant::now();
        for chunk in chunks {
            reader.push(std::mem::take(chunk));
            while let Some((kind, payload)) = reader.next_frame()? {
                self.take_frame(kind, payload)?;
                // Small calls may have large answers.
                if self.out.len() > MAX_OUT_BYTES {
                    self.write(send).await?;
                    self.now = Instant::now();
                }
            }
        }
        Ok(())
    }

    /// Writes what was answered; waits while the client does not read.
    async fn write(&mut self, send: &mut quinn::SendStream) -> Result<(), LaneEnd> {
        let out = self.out.split().freeze();
        send.write_chunk(out).await.map_err(|_| LaneEnd::Gone)
    }

    /// Nobody waits for what still runs.
    fn end(&mut self) {
        for (_, running) in self.running.drain() {
            running.task.abort();
            let took = running.begun.elapsed();
            let failed = Some(Code::Cancelled);
            self.bound[running.method].count(running.method, took, failed, &mut self.tallied);
        }
        self.add_up();
    }

    /// Adds up what was counted since the last time.
    fn add_up(&mut self) {
        for method in self.tallied.drain(..) {
            let bound = &mut self.bound[method];
            if let Some(meter) = &bound.meter {
                meter.add(&mut bound.tally);
            }
        }
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
                    turned_away(&self.peer, self.bound[method].meter.as_deref(), &status);
                    self.fail(id, Failure::Status(status));
                }
                Ok(())
            }
            Frame::Cancel { id } => {
                if let Some(running) = self.running.remove(&id) {
                    running.task.abort();
                    let status = Status::new(Code::Cancelled, "cancelled by the caller");
                    let took = running.begun.elapsed();
                    self.answer(id, running.method, took, Err(status.into()));
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
            meter: meter_of(&self.peer, route.as_ref()),
            route,
            pace: Pace::default(),
            tally: Tally::default(),
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
        let begun = self.now;
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
        // Bigger ones come on streams of their own.
        let limit = BIG_MESSAGE_BYTES.min(self.peer.shared.options.max_message_bytes);
        let request = unpack(body, limit)?;
        let Accepted { context, key, span } = accept(&self.peer, &route, terms, true, begun)?;
        let mut call = Begun {
            id,
            method,
            at: begun,
            deadline: context.ends_at(),
            on_server: None,
            on_connection,
        };
        let data_size = Some(request.len());
        let mut handler = match key {
            None => {
                call.on_server = Some(on_server);
                route.unary(context, request)
            }
            Some(key) => once(
                &self.peer,
                &bound.path,
                &key,
                on_server,
                request,
                |request| route.unary(context, request),
            )?,
        };
        if let Some(span) = span {
            let size = |response: &Bytes| Some(response.len());
            handler = Box::pin(span.around(data_size, handler, size));
        }
        if bound.pace.polls_on_the_spot() {
            let polled = poll_once(&mut handler);
            self.now = Instant::now();
            let took = self.now.saturating_duration_since(begun);
            bound.pace.polled(took);
            if let Poll::Ready(result) = polled {
                self.answer(id, method, took, result);
                return Ok(());
            }
        }
        self.start(call, handler);
        Ok(())
    }

    /// Gives a handler a task.
    fn start(&mut self, call: Begun, handler: BoxFuture<HandlerResult>) {
        self.sequence += 1;
        let (id, method, begun, sequence) = (call.id, call.method, call.at, self.sequence);
        let finished = self.finished.clone();
        let peer = Arc::clone(&self.peer);
        let task = tokio::spawn(async move {
            let result = within(call.deadline, guarded(handler)).await;
            peer.shared.admission.took(begun.elapsed());
            let (result, queued) = peer.queue_answer(result);
            let unwritten = call.on_server.map(Place::answered);
            // A lane that ended has nobody to tell.
            let _ = finished.send(Finished {
                id,
                sequence,
                result,
                _held: (unwritten, call.on_connection, queued),
            });
        });
        let running = Running {
            sequence,
            method,
            begun,
            task: task.abort_handle(),
        };
        self.running.insert(id, running);
    }

    /// Takes what a handler's task brings back, unless the call was cancelled meanwhile.
    fn finish(&mut self, finished: Finished) {
        let current = self
            .running
            .get(&finished.id)
            .is_some_and(|running| running.sequence == finished.sequence);
        if current && let Some(running) = self.running.remove(&finished.id) {
            let took = running.begun.elapsed();
            self.answer(finished.id, running.method, took, finished.result);
        }
    }

    fn answer(&mut self, id: u32, method: usize, took: Duration, result: HandlerResult) {
        let failed = result.as_ref().err().map(code_of);
        self.bound[method].count(method, took, failed, &mut self.tallied);
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
    fn answer_beside(&mut self, id: u32, body: Body) {
        let peer = Arc::clone(&self.peer);
        let compressed = body.compressed;
        let (result, queued) = peer.queue_answer(Ok(body.bytes));
        let body = match result {
            Ok(bytes) => Body { bytes, compressed },
            Err(failure) => return self.fail(id, failure),
        };
        // Lanes are counted to 16.
        let number = u8::try_from(self.number).unwrap_or(u8::MAX);
        let place = self.peer.enter();
        tokio::spawn(async move {
            let _held = (place, queued);
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
            self.meter = meter_of(peer, self.route.as_ref());
        }
        self.route.clone().ok_or_else(|| unknown_method(&self.path))
    }
}

impl Bound {
    /// Counts an answer; `number` goes among the `tallied` if it was not there.
    fn count(
        &mut self,
        number: usize,
        took: Duration,
        failed: Option<Code>,
        tallied: &mut Vec<usize>,
    ) {
        let Some(meter) = &self.meter else { return };
        if self.tally.is_empty() {
            tallied.push(number);
        }
        self.tally.answered(took);
        if let Some(code) = failed {
            meter.failed(code);
        }
    }
}

/// What a call of a method that is not here gets.
pub(crate) fn unknown_method(path: &str) -> Status {
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
pub(crate) async fn within<T>(
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
    let mut context = TaskContext::from_waker(Waker::noop());
    // A handler that panicked is not polled again: it is answered.
    catch_unwind(AssertUnwindSafe(|| Pin::new(handler).poll(&mut context)))
        .unwrap_or_else(|_| Poll::Ready(Err(panicked().into())))
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
