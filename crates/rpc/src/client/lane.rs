//! A lane at the client: calls go in under a short lock and are written in batches; answers wake their callers.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use tokio::sync::Notify;

use crate::context::Context;
use crate::core::calls::{Abandon, Answer, Calls};
use crate::core::frame::{
    Body, Frame, LANE, MAX_BOUND_METHODS, MAX_OVERHEAD_BYTES, Part, put_bind, put_call, put_cancel,
};
use crate::core::wire::{FrameError, FrameReader};
use crate::descriptor::Method;
use crate::server::PROTOCOL_ERROR;
use crate::status::{Code, Status};

/// How much later than its deadline a call may be given up.
const DEADLINE_GRAIN: Duration = Duration::from_millis(1);
/// Bytes that wait to be written before callers wait too.
const MAX_QUEUED_BYTES: usize = 1024 * 1024;
/// Chunks taken from QUIC at once; one is what one packet carried.
pub(crate) const CHUNKS: usize = 32;

/// One lane.
#[derive(Debug)]
pub(super) struct Lane {
    state: Mutex<State>,
    /// There is something to write.
    written: Notify,
    /// There is room to write more.
    room: Notify,
}

#[derive(Debug)]
struct State {
    calls: Calls,
    out: BytesMut,
    /// Calls whose frames are in `out` still: the server cannot know of them.
    unsent: Vec<u32>,
    /// Numbers of the methods that were bound on this lane.
    bound: HashMap<Box<str>, u16>,
    closed: Option<Status>,
}

/// A call that was queued. Dropping it before its answer cancels it.
pub(super) struct Call {
    lane: Arc<Lane>,
    id: u32,
    answered: bool,
}

impl Lane {
    pub(super) fn new() -> Self {
        let mut out = BytesMut::with_capacity(4096);
        out.put_u8(LANE);
        Self {
            state: Mutex::new(State {
                calls: Calls::default(),
                out,
                unsent: Vec::new(),
                bound: HashMap::new(),
                closed: None,
            }),
            written: Notify::new(),
            room: Notify::new(),
        }
    }

    pub(super) fn in_flight(&self) -> usize {
        self.lock().calls.len()
    }

    /// Queues a call, waiting while too much is queued. Cancellation safe: a dropped future queued nothing.
    ///
    /// # Errors
    /// The lane is closed, or `limit` calls are in flight; nothing was sent.
    pub(super) async fn begin(
        self: &Arc<Self>,
        method: &Method,
        context: &Context,
        body: &Body,
        limit: usize,
    ) -> Result<Call, Status> {
        loop {
            let room = self.room.notified();
            {
                let mut state = self.lock();
                if state.closed.is_some() || state.out.len() < MAX_QUEUED_BYTES {
                    let id = state.begin(method, context, body, limit)?;
                    drop(state);
                    self.written.notify_one();
                    return Ok(Call {
                        lane: Arc::clone(self),
                        id,
                        answered: false,
                    });
                }
            }
            room.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Every change under this lock is whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is to be written next.
    fn take_batch(&self) -> Option<Bytes> {
        let mut state = self.lock();
        if state.out.is_empty() {
            return None;
        }
        state.unsent.clear();
        Some(state.out.split().freeze())
    }

    /// Gives up the calls whose time is over; gives when the next one's may be.
    fn expire(&self, now: Instant) -> Option<Instant> {
        let mut state = self.lock();
        let wakers = match state.calls.next_deadline() {
            Some(deadline) if deadline <= now => state.calls.expire(now),
            _ => Vec::new(),
        };
        let next = state.calls.next_deadline();
        drop(state);
        wakers.into_iter().for_each(Waker::wake);
        next
    }

    /// Takes no more calls if none is in flight; whether that is so now.
    pub(super) fn close_if_idle(&self, status: &Status) -> bool {
        let mut state = self.lock();
        if state.closed.is_none() && state.calls.is_empty() {
            state.closed = Some(status.clone().not_processed());
        }
        state.closed.is_some()
    }

    /// No more answers will come.
    fn close(&self, status: &Status) {
        let wakers = {
            let mut state = self.lock();
            if state.closed.is_some() {
                return;
            }
            let unsent = std::mem::take(&mut state.unsent);
            let mut wakers: Vec<Waker> = unsent
                .into_iter()
                .filter_map(|id| {
                    let untouched = Answer::Lost(status.clone().not_processed());
                    state.calls.answer(id, untouched).1
                })
                .collect();
            wakers.extend(state.calls.lose(status));
            state.closed = Some(status.clone().not_processed());
            wakers
        };
        wakers.into_iter().for_each(Waker::wake);
        self.room.notify_waiters();
    }
}

impl State {
    fn begin(
        &mut self,
        method: &Method,
        context: &Context,
        body: &Body,
        limit: usize,
    ) -> Result<u32, Status> {
        if let Some(status) = &self.closed {
            return Err(status.clone());
        }
        let number = self.bind(&method.path)?;
        let Some(id) = self.calls.begin(limit, context.ends_at()) else {
            return Err(Status::overloaded(Duration::from_millis(5)));
        };
        let terms = context.terms(method);
        put_call(&mut self.out, id, number, &terms, body);
        self.unsent.push(id);
        Ok(id)
    }

    /// The number of `path` on this lane.
    fn bind(&mut self, path: &str) -> Result<u16, Status> {
        if let Some(&number) = self.bound.get(path) {
            return Ok(number);
        }
        let number = u16::try_from(self.bound.len()).unwrap_or(u16::MAX);
        if number >= MAX_BOUND_METHODS {
            return Err(Status::new(
                Code::ResourceExhausted,
                format!("more than {MAX_BOUND_METHODS} methods called over one connection"),
            )
            .not_processed());
        }
        put_bind(&mut self.out, number, path);
        self.bound.insert(path.into(), number);
        Ok(number)
    }
}

impl Call {
    /// The answer, once it is there. Dropping the future cancels the call.
    pub(super) async fn answer(mut self) -> Answer {
        let answer = poll_fn(|task| self.lane.lock().calls.poll(self.id, task.waker())).await;
        self.answered = true;
        answer
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if self.answered {
            return;
        }
        let mut state = self.lane.lock();
        if state.calls.abandon(self.id) == Abandon::Cancel && state.closed.is_none() {
            put_cancel(&mut state.out, self.id);
            drop(state);
            self.lane.written.notify_one();
        }
    }
}

/// Writes what callers queue: all that is there at once, after having let every caller that is ready queue its own.
/// Gives up calls at their deadline: one timer for all of the lane's calls, since a timer per call would cost as much as
/// the call.
pub(super) async fn write(lane: Arc<Lane>, mut stream: quinn::SendStream) {
    let timer = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(timer);
    let mut deadline = None;
    loop {
        tokio::select! {
            biased;
            () = lane.written.notified() => tokio::task::yield_now().await,
            () = &mut timer, if deadline.is_some() => {}
        }
        let next = lane.expire(Instant::now());
        if next != deadline {
            deadline = next;
            if let Some(at) = next {
                // Deadlines that are close together are given up together.
                timer.as_mut().reset((at + DEADLINE_GRAIN).into());
            }
        }
        while let Some(batch) = lane.take_batch() {
            lane.room.notify_waiters();
            if let Err(error) = stream.write_chunk(batch).await {
                lane.close(&Status::new(
                    Code::Unavailable,
                    format!("the server takes no more calls on this connection: {error}"),
                ));
                return;
            }
        }
    }
}

/// Takes answers and wakes whoever waits for them.
pub(super) async fn read(
    lane: Arc<Lane>,
    mut stream: quinn::RecvStream,
    quic: quinn::Connection,
    max_message_bytes: usize,
) {
    let mut reader = FrameReader::new(max_message_bytes + MAX_OVERHEAD_BYTES);
    let mut chunks: [Bytes; CHUNKS] = std::array::from_fn(|_| Bytes::new());
    let mut wakers = Vec::new();
    let end = loop {
        let count = match stream.read_chunks(&mut chunks).await {
            Ok(Some(count)) => count,
            Ok(None) => break Status::new(Code::Unavailable, "the server ended the connection"),
            Err(quinn::ReadError::ConnectionLost(reason)) => break super::lost(&reason),
            Err(error) => {
                break Status::new(Code::Unavailable, format!("the connection ended: {error}"));
            }
        };
        if let Err(error) = take_answers(&lane, &mut reader, &mut chunks[..count], &mut wakers) {
            // The stream cannot be read on, and the server cannot be trusted to keep to the protocol elsewhere.
            quic.close(PROTOCOL_ERROR, error.to_string().as_bytes());
            break Status::from(error);
        }
        wakers.drain(..).for_each(Waker::wake);
    };
    wakers.drain(..).for_each(Waker::wake);
    lane.close(&end);
}

fn take_answers(
    lane: &Lane,
    reader: &mut FrameReader,
    chunks: &mut [Bytes],
    wakers: &mut Vec<Waker>,
) -> Result<(), FrameError> {
    let mut state = lane.lock();
    for chunk in chunks {
        reader.push(std::mem::take(chunk));
        while let Some((kind, payload)) = reader.next_frame()? {
            let (id, answer) = match Frame::parse(kind, payload)? {
                Frame::Reply { id, body } => (id, Answer::Reply(body)),
                Frame::Failure { id, failure } => (id, Answer::Failure(failure)),
                _ => return Err(FrameError::Kind(kind)),
            };
            let (expected, waker) = state.calls.answer(id, answer);
            if !expected {
                return Err(FrameError::Payload(kind));
            }
            wakers.extend(waker);
        }
    }
    Ok(())
}

/// Takes a reply that was too big for its lane: `lane: u8 | call: u32 LE`, then the message.
pub(super) async fn hear_big_reply(
    lanes: &[Arc<Lane>],
    mut stream: quinn::RecvStream,
    max_message_bytes: usize,
) {
    let mut address = [0; 5];
    if stream.read_exact(&mut address).await.is_err() {
        return;
    }
    let [lane, id @ ..] = address;
    let Some(lane) = lanes.get(usize::from(lane)) else {
        return;
    };
    let answer = match crate::stream_io::next_part(
        &mut stream,
        &mut FrameReader::new(max_message_bytes + MAX_OVERHEAD_BYTES),
    )
    .await
    {
        Ok(Some(Part::Message(body))) => Answer::Reply(body),
        Ok(_) => Answer::Lost(Status::new(Code::Internal, "the server sent half a reply")),
        Err(status) => Answer::Lost(status),
    };
    let waker = lane.lock().calls.answer(u32::from_le_bytes(id), answer).1;
    if let Some(waker) = waker {
        waker.wake();
    }
}
