//! The answering side of the block protocol.
//!
//! Three futures of one task share a connection: one reads requests, one reads blocks from the store (on the blocking
//! pool), one writes answers. They are joined by bounded queues, so a peer that reads slowly slows down its own requests
//! and nothing else. Of requests, whose size the peer chooses, a session queues a bounded number of bytes; then it reads no
//! more until some are answered.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::io::{ReadHalf, WriteHalf};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{MissedTickBehavior, interval, timeout};
use tracing::{debug, warn};

use super::budget::{ByteBudget, HeldBytes};
use super::frames::{EndReason, FrameReader, FrameWriter};
use super::metrics::{BlockCounters, Side};
use super::{BlockStream, FarEnd, MembershipEnded, TransferLimits, TransferMetrics};
use crate::core::block::StoredBlock;
use crate::core::id::DocumentId;
use crate::core::wire::{
    BlockHeader, CODE_ACCESS_DENIED, CODE_INTERNAL, MAX_FRAME, Request, RequestId, Response, bitmap,
};
use crate::store::{ReadError, Store};

/// What a `Busy` answer asks for: a few round trips of the requests that are queued already.
const RETRY_AFTER_MS: u32 = 200;

/// Blocks looked up for one `Have`, of documents that are not listed here: some 200 GB of content, and less than a second.
/// Documents beyond it are answered as not held.
const HAVE_LOOKUPS: usize = 200_000;

/// Answers block requests from a store. Cheap to clone; clones share the bound on connections.
#[derive(Clone)]
pub struct BlockServer {
    store: Store,
    limits: TransferLimits,
    metrics: TransferMetrics,
    sessions: Arc<Semaphore>,
}

/// A request that waits for its answer.
struct Queued {
    request: Request,
    _held: HeldBytes,
}

/// An answer on its way to the socket.
enum Answer {
    Frame(Response),
    Block(RequestId, StoredBlock),
}

impl BlockServer {
    /// A server of `store`.
    #[must_use]
    pub fn new(store: Store, limits: TransferLimits, metrics: TransferMetrics) -> Self {
        let sessions = Arc::new(Semaphore::new(limits.sessions));
        Self {
            store,
            limits,
            metrics,
            sessions,
        }
    }

    /// Answers what `far_end` asks on `stream` until either side ends it.
    ///
    /// Every end is counted with its reason and logged; none is an error to the caller. Dropping the future closes the
    /// connection.
    pub async fn serve<S: BlockStream>(&self, stream: S, far_end: FarEnd) {
        let Ok(_slot) = self.sessions.try_acquire() else {
            self.metrics.ended(Side::Server, "too_many_sessions");
            warn!(peer = %far_end.peer, limit = self.limits.sessions, "block connection refused: too many are open");
            return;
        };
        let reason = Session::new(self, far_end.clone()).run(stream).await;
        self.metrics.ended(Side::Server, reason.label());
        match reason {
            EndReason::Closed | EndReason::Idle => {
                debug!(peer = %far_end.peer, %reason, "block connection ended");
            }
            _ => warn!(peer = %far_end.peer, %reason, "block connection ended"),
        }
    }
}

/// One connection.
struct Session<'a> {
    server: &'a BlockServer,
    far_end: FarEnd,
    blocks: BlockCounters,
    /// Requests read and not yet answered.
    unanswered: AtomicUsize,
    queued: ByteBudget,
}

impl<'a> Session<'a> {
    fn new(server: &'a BlockServer, far_end: FarEnd) -> Self {
        Self {
            server,
            far_end,
            blocks: server.metrics.blocks(Side::Server),
            unanswered: AtomicUsize::new(0),
            queued: ByteBudget::new(
                server.limits.queued_request_bytes.max(MAX_FRAME),
                server.metrics.queued_request_bytes.clone(),
            ),
        }
    }

    async fn run<S: BlockStream>(&self, stream: S) -> EndReason {
        let limits = &self.server.limits;
        let (read, write) = tokio::io::split(stream);
        let (request_tx, request_rx) = mpsc::channel(limits.queued_requests);
        let (answer_tx, answer_rx) = mpsc::channel(1);
        let mut writer = FrameWriter::new(write, limits.progress);
        let reason = tokio::select! {
            end = self.read(read, request_tx, answer_tx.clone()) => end,
            end = self.load(request_rx, answer_tx) => end,
            end = self.write(&mut writer, answer_rx) => end,
            ended = self.watch_membership() => EndReason::NotAMember(ended),
        };
        writer.close().await;
        reason
    }

    async fn watch_membership(&self) -> MembershipEnded {
        let mut ticks = interval(self.server.limits.membership_interval);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            if let Err(ended) = self.far_end.membership.check() {
                return ended;
            }
        }
    }

    async fn read<S: BlockStream>(
        &self,
        read: ReadHalf<S>,
        requests: mpsc::Sender<Queued>,
        answers: mpsc::Sender<Vec<Answer>>,
    ) -> EndReason {
        let mut reader = FrameReader::new(read, self.server.limits.progress, || {});
        loop {
            let queued = match self.next_request(&mut reader).await {
                Ok(queued) => queued,
                Err(end) => return end,
            };
            if let Err(ended) = self.far_end.membership.check() {
                let denied = Response::Error {
                    request: queued.request.id(),
                    code: CODE_ACCESS_DENIED,
                    message: "access denied".to_owned(),
                };
                let _ = answers.try_send(vec![Answer::Frame(denied)]);
                return EndReason::NotAMember(ended);
            }
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            match requests.try_send(queued) {
                Ok(()) => {}
                Err(mpsc::error::TrySendError::Full(queued)) => {
                    let busy = Response::Busy {
                        request: queued.request.id(),
                        retry_after_ms: RETRY_AFTER_MS,
                    };
                    if answers.send(vec![Answer::Frame(busy)]).await.is_err() {
                        return EndReason::Closed;
                    }
                }
                Err(mpsc::error::TrySendError::Closed(_)) => return EndReason::Closed,
            }
        }
    }

    async fn next_request<S: BlockStream>(
        &self,
        reader: &mut FrameReader<ReadHalf<S>>,
    ) -> Result<Queued, EndReason> {
        loop {
            match timeout(self.server.limits.idle, reader.wait()).await {
                Ok(first_byte) => break first_byte?,
                // A peer that still reads its answers need not ask; one that does not is the writer's to notice.
                Err(_) if self.unanswered.load(Ordering::Relaxed) > 0 => {}
                Err(_) => return Err(EndReason::Idle),
            }
        }
        let body = reader.frame().await?;
        let held = self.queued.take(size_of::<Queued>() + body.len()).await;
        Ok(Queued {
            request: Request::decode(body)?,
            _held: held,
        })
    }

    async fn load(
        &self,
        mut requests: mpsc::Receiver<Queued>,
        answers: mpsc::Sender<Vec<Answer>>,
    ) -> EndReason {
        let mut queue = VecDeque::new();
        loop {
            if queue.is_empty() {
                match requests.recv().await {
                    Some(request) => queue.push_back(request),
                    None => return EndReason::Closed,
                }
            }
            while let Ok(request) = requests.try_recv() {
                queue.push_back(request);
                if queue.len() >= self.server.limits.queued_requests {
                    break;
                }
            }
            let store = self.server.store.clone();
            let budget = self.server.limits.read_ahead_bytes;
            let work = tokio::task::spawn_blocking(move || {
                let batch = answer_batch(&store, &mut queue, budget);
                (queue, batch)
            });
            let Ok((rest, batch)) = work.await else {
                return EndReason::Dropped;
            };
            queue = rest;
            if answers.send(batch).await.is_err() {
                return EndReason::Closed;
            }
        }
    }

    async fn write<S: BlockStream>(
        &self,
        writer: &mut FrameWriter<WriteHalf<S>>,
        mut answers: mpsc::Receiver<Vec<Answer>>,
    ) -> EndReason {
        loop {
            let batch = match answers.try_recv() {
                Ok(batch) => batch,
                Err(_) => {
                    if let Err(end) = writer.flush().await {
                        return end;
                    }
                    match answers.recv().await {
                        Some(batch) => batch,
                        None => return EndReason::Closed,
                    }
                }
            };
            for answer in batch {
                if let Err(end) = self.write_answer(writer, answer).await {
                    return end;
                }
                self.unanswered.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    async fn write_answer<S: BlockStream>(
        &self,
        writer: &mut FrameWriter<WriteHalf<S>>,
        answer: Answer,
    ) -> Result<(), EndReason> {
        match answer {
            Answer::Frame(response) => writer.message(|out| response.encode(out)).await,
            Answer::Block(request, block) => {
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a stored block is at most 4 MiB"
                )]
                let stored_size = block.bytes.len() as u32;
                let header = BlockHeader {
                    encoding: block.encoding,
                    plain_size: block.plain_size,
                    stored_size,
                };
                writer
                    .message(|out| Response::Block { request, header }.encode(out))
                    .await?;
                writer.raw(&block.bytes).await?;
                self.blocks.count(u64::from(stored_size));
                Ok(())
            }
        }
    }
}

/// Answers requests from the front of `queue` until `budget` bytes are read. Blocking.
fn answer_batch(store: &Store, queue: &mut VecDeque<Queued>, budget: usize) -> Vec<Answer> {
    let mut batch = Vec::new();
    let mut read = 0;
    while read < budget {
        let Some(queued) = queue.pop_front() else {
            break;
        };
        let id = queued.request.id();
        let answer = answer(store, queued.request).unwrap_or_else(|error| {
            warn!(%error, "block request failed: the store cannot be read");
            // No detail: the peer can do nothing about this node's disk.
            Answer::Frame(Response::Error {
                request: id,
                code: CODE_INTERNAL,
                message: "the store failed".to_owned(),
            })
        });
        read += match &answer {
            Answer::Block(_, block) => block.bytes.len(),
            Answer::Frame(Response::Record { record, .. }) => record.len(),
            Answer::Frame(_) => 0,
        };
        batch.push(answer);
    }
    batch
}

fn answer(store: &Store, request: Request) -> Result<Answer, ReadError> {
    Ok(match request {
        Request::Get { request, block } => match store.block(block)? {
            Some(block) => Answer::Block(request, block),
            None => Answer::Frame(Response::NotFound { request }),
        },
        Request::Have { request, documents } => {
            let mut lookups = HAVE_LOOKUPS;
            let held = documents
                .into_iter()
                .map(|id| holds_whole(store, id, &mut lookups))
                .collect::<Result<Vec<_>, _>>()?;
            Answer::Frame(Response::Having {
                request,
                bitmap: bitmap(&held),
            })
        }
        Request::Record { request, document } => {
            match store.document(document)?.and_then(|info| info.record) {
                Some(record) => Answer::Frame(Response::Record {
                    request,
                    record: record.to_bytes(),
                }),
                None => Answer::Frame(Response::NotFound { request }),
            }
        }
    })
}

fn holds_whole(store: &Store, id: DocumentId, lookups: &mut usize) -> Result<bool, ReadError> {
    if store.document(id)?.is_some() {
        return Ok(true);
    }
    Ok(store.has_block(id.into())? && store.is_whole(id, lookups)?)
}
