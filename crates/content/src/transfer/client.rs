//! The asking side of the block protocol: one connection, many requests at once, for many askers.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{mpsc, oneshot};
use tokio::time::{Instant, MissedTickBehavior, interval, timeout_at};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};
use warren_identity::{PeerId, Signed};

use super::budget::{ByteBudget, HeldBytes};
use super::frames::{EndReason, FrameReader, FrameWriter};
use super::metrics::{BlockCounters, Side};
use super::{BlockStream, FarEnd, MembershipEnded, TransferLimits, TransferMetrics};
use crate::core::block::{MAX_BLOCK_BYTES, StoredBlock, VerifiedBlock, VerifyBlockError};
use crate::core::id::{BlockId, DocumentId};
use crate::core::record::DocumentRecord;
use crate::core::wire::{
    BlockHeader, MAX_HAVE_DOCUMENTS, Request, RequestId, Response, bitmap_holds,
};

/// Requests handed over and not yet written; more than any one asker keeps in flight.
const COMMAND_QUEUE: usize = 2048;
/// Requests without an answer; many retrievals at once stay below it. A peer that answers some and never the others is
/// given up here.
const MAX_PENDING: usize = 16 * 1024;
/// [`CallError::Refused`]'s code for a `Busy` answer.
const CODE_BUSY: u16 = 429;
/// Requests written between two looks at the socket.
const WRITE_BATCH: usize = 256;

/// An answer to [`BlockClient::get`].
#[derive(Debug)]
pub struct Arrival {
    /// Who answered, or failed to.
    pub peer: PeerId,
    /// The asker's own number for what it asked.
    pub ticket: u64,
    /// What came.
    pub outcome: Outcome,
}

/// What came of asking one peer for one block.
#[derive(Debug)]
pub enum Outcome {
    /// Bytes that claim to be the block: not verified.
    Block(ReceivedBlock),
    /// The peer announced more plain bytes than were asked for. Nothing of them was kept.
    Oversized {
        /// Bytes announced.
        plain_size: u32,
    },
    /// The peer does not hold it.
    NotFound,
    /// The peer asks to be left alone for this long.
    Busy(Duration),
    /// The peer refused with this code.
    Refused(u16),
    /// The connection ended first.
    Lost,
}

/// A block as a peer sent it. It counts against [`TransferLimits::unverified_bytes`] of its connection until it is
/// verified or dropped.
#[derive(Debug)]
pub struct ReceivedBlock {
    stored: StoredBlock,
    _held: HeldBytes,
}

impl ReceivedBlock {
    /// Bytes it claims to have when decoded; at most what was asked for.
    #[must_use]
    pub const fn plain_size(&self) -> u32 {
        self.stored.plain_size
    }

    /// As [`StoredBlock::verify`].
    ///
    /// # Errors
    /// [`VerifyBlockError`]; nothing is kept then.
    pub fn verify(self, id: BlockId) -> Result<VerifiedBlock, VerifyBlockError> {
        self.stored.verify(id)
    }
}

/// Why a request was not taken. Nothing will arrive for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    /// Too many requests wait for the socket.
    #[error("too many requests wait for this connection")]
    Full,
    /// The connection has ended.
    #[error("the connection has ended")]
    Closed,
}

/// Why a question to a peer has no answer. Nothing changed on either side.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request was not taken.
    #[error("peer {peer} could not be asked: {source}")]
    Send {
        /// Peer asked.
        peer: PeerId,
        /// Why.
        source: SendError,
    },
    /// The connection ended before the answer.
    #[error("peer {peer} was lost before it answered")]
    Lost {
        /// Peer asked.
        peer: PeerId,
    },
    /// The peer refused, or is too busy.
    #[error("peer {peer} refused the question ({code})")]
    Refused {
        /// Peer asked.
        peer: PeerId,
        /// Its code; 429 for `Busy`.
        code: u16,
    },
    /// The answer is not what was asked for, or its signature is wrong.
    #[error("peer {peer} sent a document record that does not hold: {reason}")]
    BadRecord {
        /// Peer asked.
        peer: PeerId,
        /// What is wrong.
        reason: String,
    },
}

enum Command {
    Get {
        block: BlockId,
        max_bytes: u32,
        asker: Asker,
    },
    Have {
        documents: Vec<DocumentId>,
        reply: oneshot::Sender<Reply>,
    },
    Record {
        document: DocumentId,
        reply: oneshot::Sender<Reply>,
    },
}

struct Asker {
    ticket: u64,
    replies: mpsc::Sender<Arrival>,
}

enum Reply {
    Having(Vec<u8>),
    Record(Vec<u8>),
    NotFound,
    Refused(u16),
}

enum Pending {
    Get { max_bytes: u32, asker: Asker },
    Have(oneshot::Sender<Reply>),
    Record(oneshot::Sender<Reply>),
}

/// A connection to one peer. Cheap to clone; it closes when the last clone is dropped, when nothing was asked for
/// [`TransferLimits::idle`], when an answer is overdue, or when the peer misbehaves or stops being a member.
#[derive(Clone)]
pub struct BlockClient {
    peer: PeerId,
    commands: mpsc::Sender<Command>,
    clock: Arc<Clock>,
    stop: CancellationToken,
}

/// When something last came in, in a form that needs no lock.
struct Clock {
    start: Instant,
    last_progress_us: AtomicU64,
}

impl Clock {
    fn mark(&self) {
        let elapsed = self.start.elapsed().as_micros();
        self.last_progress_us.store(
            u64::try_from(elapsed).unwrap_or(u64::MAX),
            Ordering::Relaxed,
        );
    }

    fn last(&self) -> Instant {
        self.start + Duration::from_micros(self.last_progress_us.load(Ordering::Relaxed))
    }
}

impl BlockClient {
    /// Starts asking `far_end` on `stream`. Needs a tokio runtime.
    #[must_use]
    pub fn start<S: BlockStream>(
        stream: S,
        far_end: FarEnd,
        limits: TransferLimits,
        metrics: TransferMetrics,
    ) -> Self {
        let (commands, receiver) = mpsc::channel(COMMAND_QUEUE);
        let clock = Arc::new(Clock {
            start: Instant::now(),
            last_progress_us: AtomicU64::new(0),
        });
        let peer = far_end.peer;
        let driver = Driver {
            far_end,
            blocks: metrics.blocks(Side::Client),
            unverified: ByteBudget::new(
                limits.unverified_bytes.max(MAX_BLOCK_BYTES as usize),
                metrics.unverified_bytes.clone(),
            ),
            limits,
            metrics,
            clock: Arc::clone(&clock),
            pending: Mutex::default(),
        };
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        // Ends by itself: at the latest when the last handle, and with it the queue of commands, is gone.
        tokio::spawn(async move { driver.run(stream, receiver, stopped).await });
        Self {
            peer,
            commands,
            clock,
            stop,
        }
    }

    /// The peer at the far end.
    #[must_use]
    pub fn peer(&self) -> PeerId {
        self.peer
    }

    /// Whether the connection has ended.
    #[must_use]
    pub fn is_closed(&self) -> bool {
        self.commands.is_closed()
    }

    /// Ends the connection for everybody who uses it.
    pub fn close(&self) {
        self.stop.cancel();
    }

    /// When bytes last came in from the peer.
    #[must_use]
    pub fn last_progress(&self) -> Instant {
        self.clock.last()
    }

    /// Asks for a block of at most `max_bytes` plain bytes. Exactly one [`Arrival`] with `ticket` follows on `replies`, if
    /// that has room: whoever asks for more at once than its queue holds loses answers.
    ///
    /// # Errors
    /// [`SendError`]; nothing will arrive then.
    pub fn get(
        &self,
        block: BlockId,
        max_bytes: u32,
        ticket: u64,
        replies: &mpsc::Sender<Arrival>,
    ) -> Result<(), SendError> {
        self.send(Command::Get {
            block,
            max_bytes,
            asker: Asker {
                ticket,
                replies: replies.clone(),
            },
        })
    }

    /// Which of `documents` the peer holds whole, in the same order. Documents beyond
    /// [`MAX_HAVE_DOCUMENTS`] are reported as not held.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn have(&self, documents: &[DocumentId]) -> Result<Vec<bool>, CallError> {
        if documents.is_empty() {
            return Ok(Vec::new());
        }
        let asked = documents[..documents.len().min(MAX_HAVE_DOCUMENTS)].to_vec();
        match self
            .call(|reply| Command::Have {
                documents: asked,
                reply,
            })
            .await?
        {
            Reply::Having(bits) => Ok((0..documents.len())
                .map(|index| bitmap_holds(&bits, index))
                .collect()),
            Reply::Refused(code) => Err(CallError::Refused {
                peer: self.peer,
                code,
            }),
            Reply::NotFound | Reply::Record(_) => Err(CallError::Lost { peer: self.peer }),
        }
    }

    /// The signed record of a document, its signature and limits checked; `None` if the peer has none.
    ///
    /// # Errors
    /// [`CallError`].
    pub async fn record(
        &self,
        document: DocumentId,
    ) -> Result<Option<Signed<DocumentRecord>>, CallError> {
        match self
            .call(|reply| Command::Record { document, reply })
            .await?
        {
            Reply::Record(bytes) => self.check_record(document, &bytes).map(Some),
            Reply::NotFound => Ok(None),
            Reply::Refused(code) => Err(CallError::Refused {
                peer: self.peer,
                code,
            }),
            Reply::Having(_) => Err(CallError::Lost { peer: self.peer }),
        }
    }

    fn check_record(
        &self,
        document: DocumentId,
        bytes: &[u8],
    ) -> Result<Signed<DocumentRecord>, CallError> {
        let bad = |reason: String| CallError::BadRecord {
            peer: self.peer,
            reason,
        };
        let record =
            Signed::<DocumentRecord>::decode(bytes).map_err(|error| bad(error.to_string()))?;
        record
            .value()
            .validate()
            .map_err(|error| bad(error.to_string()))?;
        if record.value().document != document {
            return Err(bad("it is of another document".to_owned()));
        }
        Ok(record)
    }

    async fn call(
        &self,
        command: impl FnOnce(oneshot::Sender<Reply>) -> Command,
    ) -> Result<Reply, CallError> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply))
            .map_err(|source| CallError::Send {
                peer: self.peer,
                source,
            })?;
        answer
            .await
            .map_err(|_| CallError::Lost { peer: self.peer })
    }

    fn send(&self, command: Command) -> Result<(), SendError> {
        self.commands
            .try_send(command)
            .map_err(|error| match error {
                mpsc::error::TrySendError::Full(_) => SendError::Full,
                mpsc::error::TrySendError::Closed(_) => SendError::Closed,
            })
    }
}

struct Driver {
    far_end: FarEnd,
    limits: TransferLimits,
    metrics: TransferMetrics,
    blocks: BlockCounters,
    clock: Arc<Clock>,
    pending: Mutex<HashMap<RequestId, Pending>>,
    unverified: ByteBudget,
}

impl Driver {
    async fn run<S: BlockStream>(
        &self,
        stream: S,
        mut commands: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        let (read, write) = tokio::io::split(stream);
        let mut writer = FrameWriter::new(write, self.limits.progress);
        let reason = tokio::select! {
            end = self.read(read) => end,
            end = self.write(&mut writer, &mut commands) => end,
            ended = self.watch_membership() => EndReason::NotAMember(ended),
            () = stop.cancelled() => EndReason::Dropped,
        };
        // First no new requests, then word to all who wait.
        commands.close();
        self.metrics.ended(Side::Client, reason.label());
        let peer = self.far_end.peer;
        match reason {
            EndReason::Closed | EndReason::Idle | EndReason::Dropped => {
                debug!(%peer, %reason, "block connection ended");
            }
            _ => warn!(%peer, %reason, "block connection ended"),
        }
        let lost = std::mem::take(&mut *self.pending());
        for pending in lost.into_values() {
            if let Pending::Get { asker, .. } = pending {
                self.deliver(asker, Outcome::Lost);
            }
        }
        while let Ok(command) = commands.try_recv() {
            if let Command::Get { asker, .. } = command {
                self.deliver(asker, Outcome::Lost);
            }
        }
        writer.close().await;
    }

    async fn watch_membership(&self) -> MembershipEnded {
        let mut ticks = interval(self.limits.membership_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(ended) = self.far_end.membership.check() {
                return ended;
            }
        }
    }

    async fn write<S: BlockStream>(
        &self,
        writer: &mut FrameWriter<WriteHalf<S>>,
        commands: &mut mpsc::Receiver<Command>,
    ) -> EndReason {
        let mut next_request: RequestId = 0;
        let mut batch = Vec::with_capacity(WRITE_BATCH);
        loop {
            if commands.recv_many(&mut batch, WRITE_BATCH).await == 0 {
                return EndReason::Dropped;
            }
            // All of them before anything that waits or fails: whoever asked is told when the connection ends.
            let requests: Vec<Request> = batch
                .drain(..)
                .map(|command| {
                    next_request = next_request.wrapping_add(1);
                    self.register(next_request, command)
                })
                .collect();
            if let Err(ended) = self.far_end.membership.check() {
                return EndReason::NotAMember(ended);
            }
            if self.pending().len() > MAX_PENDING {
                return EndReason::Stalled;
            }
            for request in requests {
                if let Err(end) = writer.message(|out| request.encode(out)).await {
                    return end;
                }
            }
            if let Err(end) = writer.flush().await {
                return end;
            }
        }
    }

    /// From here on the peer owes an answer.
    fn register(&self, id: RequestId, command: Command) -> Request {
        let mut pending = self.pending();
        if pending.is_empty() {
            self.clock.mark();
        }
        let (request, waiting) = match command {
            Command::Get {
                block,
                max_bytes,
                asker,
            } => (
                Request::Get { request: id, block },
                Pending::Get { max_bytes, asker },
            ),
            Command::Have { documents, reply } => (
                Request::Have {
                    request: id,
                    documents,
                },
                Pending::Have(reply),
            ),
            Command::Record { document, reply } => (
                Request::Record {
                    request: id,
                    document,
                },
                Pending::Record(reply),
            ),
        };
        pending.insert(id, waiting);
        request
    }

    async fn read<S: BlockStream>(&self, read: ReadHalf<S>) -> EndReason {
        let clock = Arc::clone(&self.clock);
        let mut reader = FrameReader::new(read, self.limits.progress, move || clock.mark());
        loop {
            if let Err(end) = self.wait(&mut reader).await {
                return end;
            }
            if let Err(end) = self.read_answer(&mut reader).await {
                return end;
            }
        }
    }

    /// Waits for the first byte of an answer, as long as the peer may take for it.
    async fn wait<S: BlockStream>(
        &self,
        reader: &mut FrameReader<ReadHalf<S>>,
    ) -> Result<(), EndReason> {
        loop {
            let nothing_due = self.pending().is_empty();
            let patience = if nothing_due {
                self.limits.idle
            } else {
                self.limits.progress
            };
            // A request made meanwhile shortens the wait, so look again at the shorter interval.
            let look_at = (self.clock.last() + patience).min(Instant::now() + self.limits.progress);
            if let Ok(first_byte) = timeout_at(look_at, reader.wait()).await {
                return first_byte;
            }
            let silent = self.clock.last().elapsed();
            match self.pending().is_empty() {
                true if silent >= self.limits.idle => return Err(EndReason::Idle),
                false if silent >= self.limits.progress => return Err(EndReason::Stalled),
                _ => {}
            }
        }
    }

    async fn read_answer<S: BlockStream>(
        &self,
        reader: &mut FrameReader<ReadHalf<S>>,
    ) -> Result<(), EndReason> {
        let response = Response::decode(reader.frame().await?)?;
        if let Response::Block { request, header } = response {
            return self.read_block(reader, request, header).await;
        }
        let waiting = self
            .pending()
            .remove(&response.id())
            .ok_or(EndReason::Unasked)?;
        match waiting {
            Pending::Get { asker, .. } => self.deliver(asker, get_outcome(response)?),
            // Whoever asked may have gone: then nobody needs the answer.
            Pending::Have(reply) | Pending::Record(reply) => {
                drop(reply.send(call_reply(response)?));
            }
        }
        Ok(())
    }

    async fn read_block<S: BlockStream>(
        &self,
        reader: &mut FrameReader<ReadHalf<S>>,
        request: RequestId,
        header: BlockHeader,
    ) -> Result<(), EndReason> {
        let BlockHeader {
            encoding,
            plain_size,
            stored_size,
        } = header;
        let max_bytes = match self.pending().get(&request) {
            Some(Pending::Get { max_bytes, .. }) => *max_bytes,
            _ => return Err(EndReason::Unasked),
        };
        let outcome = if plain_size > max_bytes {
            reader.skip(stored_size as usize).await?;
            Outcome::Oversized { plain_size }
        } else {
            let held = self.unverified.take(stored_size as usize).await;
            // Waiting for room was this side's doing.
            self.clock.mark();
            let bytes = reader.raw(stored_size as usize).await?;
            self.blocks.count(u64::from(stored_size));
            Outcome::Block(ReceivedBlock {
                stored: StoredBlock {
                    encoding,
                    plain_size,
                    bytes,
                },
                _held: held,
            })
        };
        if let Some(Pending::Get { asker, .. }) = self.pending().remove(&request) {
            self.deliver(asker, outcome);
        }
        Ok(())
    }

    fn deliver(&self, asker: Asker, outcome: Outcome) {
        let arrival = Arrival {
            peer: self.far_end.peer,
            ticket: asker.ticket,
            outcome,
        };
        // Gone, or asked for more than it has room for: either way nobody waits for this answer.
        let _ = asker.replies.try_send(arrival);
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<RequestId, Pending>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn get_outcome(response: Response) -> Result<Outcome, EndReason> {
    match response {
        Response::NotFound { .. } => Ok(Outcome::NotFound),
        Response::Busy { retry_after_ms, .. } => Ok(Outcome::Busy(Duration::from_millis(
            u64::from(retry_after_ms),
        ))),
        Response::Error { code, .. } => Ok(Outcome::Refused(code)),
        Response::Block { .. } | Response::Having { .. } | Response::Record { .. } => {
            Err(EndReason::Unasked)
        }
    }
}

fn call_reply(response: Response) -> Result<Reply, EndReason> {
    match response {
        Response::Having { bitmap, .. } => Ok(Reply::Having(bitmap)),
        Response::Record { record, .. } => Ok(Reply::Record(record)),
        Response::NotFound { .. } => Ok(Reply::NotFound),
        Response::Busy { .. } => Ok(Reply::Refused(CODE_BUSY)),
        Response::Error { code, .. } => Ok(Reply::Refused(code)),
        Response::Block { .. } => Err(EndReason::Unasked),
    }
}
