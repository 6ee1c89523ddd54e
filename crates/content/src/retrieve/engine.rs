//! One retrieval at work: drives a [`FetchPlanner`], the connections it asks for, verification and the store.
//!
//! The engine takes blocks to get in order ([`Fetch::want`]) and gives them back in the same order ([`Fetch::next`]),
//! from the store where they are there and from peers where not. It is one task; hashing and disk reads run on the
//! blocking pool, so that they overlap with the network. The planner's window bounds what is in memory: a block leaves it
//! when its reader has taken it *and* the store has it.

mod blocks;
mod providers;
mod sync_log;

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::{FuturesUnordered, StreamExt};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, warn};
use warren_identity::{PeerId, Signed};
use warren_telemetry::SourceType;

use self::blocks::blocking;
use self::sync_log::SyncLog;
use super::flights::Flight;
use super::{Context, RetrieveError, record, unix_now};
use crate::core::block::{VerifiedBlock, VerifyBlockError};
use crate::core::fetch::{FetchPlanner, Ticket, Verdict};
use crate::core::id::{BlockId, DocumentId};
use crate::core::record::DocumentRecord;
use crate::store::{CommitFetchedError, Lease, ReadError, StoreError};
use crate::transfer::{Arrival, BlockClient, ConnectError, ReceivedBlock};

/// Blocks of a retrieval that is broken off stay this long for the next try.
pub(super) const LEASE: Duration = Duration::from_secs(6 * 3600);
/// One block to get.
#[derive(Clone, Copy, Debug)]
pub(super) struct Wanted {
    pub(super) block: BlockId,
    /// Plain size in bytes, or the best guess.
    pub(super) size_hint: u32,
    pub(super) need: Need,
}

/// What is to come of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Need {
    /// Its plain bytes.
    Content,
    /// That the store has it.
    Presence,
}

/// One block had.
#[derive(Debug)]
pub(super) struct Got {
    pub(super) source: SourceType,
    pub(super) size: u32,
    /// The plain bytes where they were asked for.
    pub(super) content: Option<Bytes>,
}

/// What is done with fetched blocks.
#[derive(Clone, Debug)]
pub(super) enum Keep {
    /// They are kept under the lease; the document can be listed at the end.
    Lease(Lease),
    /// They fill holes of a listed document.
    Repair,
    /// They are passed on and forgotten.
    Nothing,
}

/// What a fetch is for.
#[derive(Debug)]
pub(super) struct Job {
    /// Whose providers are asked.
    pub(super) target: BlockId,
    pub(super) keep: Keep,
    pub(super) local: Local,
    pub(super) storing: Storing,
    pub(super) record: Record,
}

/// Whether the document's record is asked for, should it be had whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Wanted,
    Unneeded,
}

/// Whether blocks are taken from the local store where it has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Local {
    Consult,
    Ignore,
}

/// What a store that cannot keep a block means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Storing {
    /// The retrieval fails.
    Required,
    /// The retrieval goes on without a cache.
    BestEffort,
}

/// What happens when everything wanted was had.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Finish {
    /// The document is whole: list it.
    List,
    /// It is not (a range, a repair): leave it.
    Leave,
}

enum Command {
    Want(Vec<Wanted>),
    Finish(Finish),
}

/// The handle of a running engine. Dropped, the engine ends (unless all it has left to do is to list the document).
pub(super) struct Fetch {
    commands: mpsc::Sender<Command>,
    results: mpsc::Receiver<Result<Got, RetrieveError>>,
}

impl Fetch {
    /// Starts an engine on the retriever's task set.
    pub(super) fn start(context: Arc<Context>, job: Job) -> Self {
        let (command_tx, commands) = mpsc::channel(4);
        let (results, result_rx) = mpsc::channel(4);
        let tasks = context.tasks.clone();
        let stop = context.stop.clone();
        let engine = Engine::new(context, job);
        tasks.spawn(async move {
            let failed = results.clone();
            tokio::select! {
                // The stop comes first: an engine whose store answers at once would be done in one poll.
                biased;
                () = stop.cancelled() => { let _ = failed.try_send(Err(RetrieveError::Stopped)); }
                () = Box::pin(engine.run(commands, results)) => {}
            }
        });
        Self {
            commands: command_tx,
            results: result_rx,
        }
    }

    /// Adds blocks behind those wanted before.
    pub(super) async fn want(&mut self, wanted: Vec<Wanted>) -> Result<(), RetrieveError> {
        if self.commands.send(Command::Want(wanted)).await.is_ok() {
            return Ok(());
        }
        // The engine is gone: it left word why.
        while let Some(result) = self.results.recv().await {
            result?;
        }
        Err(RetrieveError::Stopped)
    }

    /// The next block, in the order wanted. Cancel safe.
    pub(super) async fn next(&mut self) -> Result<Got, RetrieveError> {
        self.results
            .recv()
            .await
            .unwrap_or(Err(RetrieveError::Stopped))
    }

    /// Waits until the store has everything, and the document is listed if so asked.
    pub(super) async fn finish(mut self, finish: Finish) -> Result<(), RetrieveError> {
        // An engine that is gone has left its reason among the results.
        let _ = self.commands.send(Command::Finish(finish)).await;
        while let Some(result) = self.results.recv().await {
            result?;
        }
        Ok(())
    }
}

struct Slot {
    wanted: Wanted,
    state: State,
    asked_at: Instant,
    /// The store is about to have it.
    keeping: bool,
    /// It came for another retrieval since it was looked up, and was looked up again.
    looked_again: bool,
    emitted: bool,
}

enum State {
    /// To be looked up in the store.
    Unchecked,
    /// In the store; to be read, or being read.
    Local,
    /// The planner's.
    Fetching,
    /// Had.
    Ready(Got),
    /// Given to the reader.
    Taken,
}

struct Unverified {
    peer: PeerId,
    index: u64,
    block: BlockId,
    received: ReceivedBlock,
}

/// Something that was begun has ended.
enum Step {
    Checked(Vec<u64>, Result<HashSet<[u8; 32]>, StoreError>),
    LocalRead(u64, Result<Option<VerifiedBlock>, ReadError>),
    Verified(Vec<(PeerId, u64, Result<VerifiedBlock, VerifyBlockError>)>),
    Elsewhere(u64, Option<VerifiedBlock>),
    Kept(Vec<u64>, Result<(), StoreError>),
    Candidates(Vec<PeerId>),
    Connected(PeerId, Result<BlockClient, ConnectError>),
    Record(Option<Signed<DocumentRecord>>),
    LeaseDue,
    Nothing,
}

struct Engine {
    context: Arc<Context>,
    job: Job,
    planner: FetchPlanner<PeerId>,
    /// By index, which is also the ticket; without gaps from `next_out` on.
    slots: BTreeMap<u64, Slot>,
    next_in: u64,
    next_out: u64,
    unchecked: Vec<u64>,
    checking: bool,
    to_read: VecDeque<u64>,
    /// Read from the store and not yet taken; of those being read, the expected size.
    local_bytes: u64,
    local_reads: usize,
    clients: BTreeMap<PeerId, BlockClient>,
    claims: HashMap<u64, Flight>,
    arrival_tx: mpsc::Sender<Arrival>,
    arrivals: mpsc::Receiver<Arrival>,
    to_verify: VecDeque<Unverified>,
    verifying: usize,
    connecting: usize,
    connect_failures: BTreeMap<PeerId, (ConnectError, u32)>,
    record: Option<Signed<DocumentRecord>>,
    finish: Option<Finish>,
    failure: Option<RetrieveError>,
    log: SyncLog,
    work: FuturesUnordered<BoxFuture<'static, Step>>,
}

impl Engine {
    fn new(context: Arc<Context>, job: Job) -> Self {
        let limits = context.options.fetch.clone();
        // Late answers of providers that were given up come on top of the window.
        let (arrival_tx, arrivals) = mpsc::channel(limits.window_blocks * 2 + 64);
        Self {
            planner: FetchPlanner::new(limits, Instant::now().into_std()),
            log: SyncLog::new(job.target),
            context,
            job,
            slots: BTreeMap::new(),
            next_in: 0,
            next_out: 0,
            unchecked: Vec::new(),
            checking: false,
            to_read: VecDeque::new(),
            local_bytes: 0,
            local_reads: 0,
            clients: BTreeMap::new(),
            claims: HashMap::new(),
            arrival_tx,
            arrivals,
            to_verify: VecDeque::new(),
            verifying: 0,
            connecting: 0,
            connect_failures: BTreeMap::new(),
            record: None,
            finish: None,
            failure: None,
            work: FuturesUnordered::new(),
        }
    }

    async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        results: mpsc::Sender<Result<Got, RetrieveError>>,
    ) {
        if matches!(self.job.keep, Keep::Lease(_)) {
            self.renew_lease_later();
        }
        loop {
            self.pump();
            if let Some(failure) = self.failure.take() {
                self.log.failed(&failure);
                let _ = results.send(Err(failure)).await;
                return self.give_up().await;
            }
            if self.finish.is_some() && self.slots.is_empty() {
                match self.job.keep {
                    Keep::Lease(_) => {
                        if let Err(error) = self.conclude().await {
                            let _ = results.send(Err(error)).await;
                        }
                    }
                    Keep::Repair | Keep::Nothing => {
                        // Its reader has everything.
                        drop(results);
                        self.complete().await;
                    }
                }
                return;
            }
            let timer = self
                .planner
                .poll_timeout()
                .map(|(at, _)| Instant::from_std(at));
            let all_taken = self.finish.is_some() && self.slots.values().all(|slot| slot.emitted);
            tokio::select! {
                permit = results.reserve(), if self.front().is_some() => match permit {
                    Ok(permit) => self.emit(permit),
                    Err(_) => return self.give_up().await,
                },
                command = commands.recv(), if self.finish.is_none() => match command {
                    Some(Command::Want(wanted)) => self.accept(wanted),
                    Some(Command::Finish(finish)) => self.finish = Some(finish),
                    None => return self.give_up().await,
                },
                Some(arrival) = self.arrivals.recv() => self.handle_arrivals(arrival),
                Some(step) = self.work.next(), if !self.work.is_empty() => self.handle_step(step),
                () = sleep_until(timer.unwrap_or_else(Instant::now)), if timer.is_some() => self.handle_timeout(),
                () = results.closed(), if !all_taken => return self.give_up().await,
            }
        }
    }

    /// Starts whatever can be started now.
    fn pump(&mut self) {
        self.check_unchecked();
        self.read_local();
        self.start_verification();
        let now = Instant::now().into_std();
        while let Some(event) = self.planner.poll_event() {
            self.handle_event(event);
        }
        while let Some(transmit) = self.planner.poll_transmit(now) {
            self.transmit(&transmit);
        }
        // Transmitting to a connection that has ended makes events of its own.
        while let Some(event) = self.planner.poll_event() {
            self.handle_event(event);
        }
    }

    fn accept(&mut self, wanted: Vec<Wanted>) {
        for wanted in wanted {
            let index = self.next_in;
            self.next_in += 1;
            let slot = Slot {
                wanted,
                state: State::Unchecked,
                asked_at: Instant::now(),
                keeping: false,
                looked_again: false,
                emitted: false,
            };
            self.slots.insert(index, slot);
            match self.job.local {
                Local::Consult => self.unchecked.push(index),
                Local::Ignore => self.fetch(index),
            }
        }
    }

    /// The next slot's turn has come.
    fn front(&self) -> Option<&Slot> {
        self.slots
            .get(&self.next_out)
            .filter(|slot| matches!(slot.state, State::Ready(_)))
    }

    fn emit(&mut self, permit: mpsc::Permit<'_, Result<Got, RetrieveError>>) {
        let index = self.next_out;
        let Some(slot) = self.slots.get_mut(&index) else {
            return;
        };
        if let State::Ready(got) = std::mem::replace(&mut slot.state, State::Taken) {
            if got.source == SourceType::Local && got.content.is_some() {
                self.local_bytes = self.local_bytes.saturating_sub(u64::from(got.size));
            }
            slot.emitted = true;
            self.next_out += 1;
            permit.send(Ok(got));
            self.retire(index);
        }
    }

    /// Whether a block is larger than its manifest says, and not the one its reader waits for.
    fn is_oversized(&self, index: u64, block: &VerifiedBlock) -> bool {
        let expected = self.slots.get(&index).map(|slot| slot.wanted.size_hint);
        index != self.next_out && expected.is_some_and(|size| block.stored().plain_size > size)
    }

    /// Forgets a slot that is taken and kept.
    fn retire(&mut self, index: u64) {
        if self
            .slots
            .get(&index)
            .is_some_and(|slot| slot.emitted && !slot.keeping)
        {
            self.slots.remove(&index);
            self.planner
                .release(Ticket(index), Instant::now().into_std());
        }
    }

    fn handle_timeout(&mut self) {
        for (peer, client) in &self.clients {
            self.planner
                .handle_progress(peer, client.last_progress().into_std());
        }
        self.planner.handle_timeout(Instant::now().into_std());
    }

    fn handle_step(&mut self, step: Step) {
        let now = Instant::now().into_std();
        match step {
            Step::Checked(indices, missing) => self.handle_checked(indices, missing),
            Step::LocalRead(index, read) => self.handle_local_read(index, read),
            Step::Verified(verified) => self.handle_verified(verified),
            // Larger than its share of this window: asked for again with room for it.
            Step::Elsewhere(index, Some(block)) if self.is_oversized(index, &block) => {
                self.planner.handle_elsewhere_abandoned(Ticket(index), now);
            }
            Step::Elsewhere(index, Some(block)) => {
                if self
                    .planner
                    .handle_local(Ticket(index), block.stored().plain_size, now)
                    == Verdict::Accepted
                {
                    self.have(vec![(index, block)]);
                }
            }
            Step::Elsewhere(index, None) => {
                self.planner.handle_elsewhere_abandoned(Ticket(index), now);
            }
            Step::Kept(indices, result) => self.handle_kept(indices, result),
            Step::Candidates(candidates) => self.handle_candidates(candidates),
            Step::Connected(peer, result) => self.handle_connected(peer, result),
            // Several may have one: the youngest says what is so now.
            Step::Record(record) => {
                let both = self.record.take().into_iter().chain(record);
                self.record = both.max_by_key(|record| record.value().updated_at);
            }
            Step::LeaseDue => {
                self.renew_lease();
                self.renew_lease_later();
            }
            Step::Nothing => {}
        }
    }

    /// Everything is had, taken and kept.
    async fn conclude(mut self) -> Result<(), RetrieveError> {
        let (Keep::Lease(lease), BlockId::Manifest(document), Some(Finish::List)) =
            (&self.job.keep, self.job.target, self.finish)
        else {
            self.log.done();
            return Ok(());
        };
        let found = match (self.record.take(), self.job.record) {
            (None, Record::Wanted) => record::seek(&self.context, document).await,
            (found, _) => found,
        };
        let store = &self.context.store;
        let mut listed = store
            .commit_fetched(lease.clone(), found, unix_now(Duration::ZERO))
            .await;
        if let Err(error @ CommitFetchedError::ForeignRecord(_)) = &listed {
            warn!(%document, %error, "the document is listed without a record");
            listed = store
                .commit_fetched(lease.clone(), None, unix_now(Duration::ZERO))
                .await;
        }
        self.log.done();
        match (listed, self.job.storing) {
            (Ok(()), _) => self.context.providers.fetched(document),
            (Err(error), Storing::Required) => {
                let error = RetrieveError::List {
                    document,
                    source: error,
                };
                self.log.failed(&error);
                return Err(error);
            }
            (Err(error), Storing::BestEffort) => {
                warn!(%document, %error, "a retrieved document cannot be listed here");
            }
        }
        Ok(())
    }

    /// Of a document that is listed without its record: has it, if a holder gives it.
    async fn complete(mut self) {
        self.log.done();
        let (Keep::Repair, BlockId::Manifest(document), Some(Finish::List), Record::Wanted) = (
            &self.job.keep,
            self.job.target,
            self.finish,
            self.job.record,
        ) else {
            return;
        };
        let found = match self.record.take() {
            None => record::seek(&self.context, document).await,
            found => found,
        };
        if let Some(found) = found
            && let Err(error) = self.context.store.complete_record(&found).await
        {
            warn!(%document, %error, "the document's record cannot be kept");
        }
    }

    /// Ends early. What was kept, now or by an earlier try, stays for the next one until the lease ends.
    async fn give_up(self) {
        let Keep::Lease(lease) = &self.job.keep else {
            return;
        };
        let store = &self.context.store;
        let (looked_in, target) = (store.clone(), self.job.target);
        let nothing = blocking(move || matches!(looked_in.has_block(target), Ok(false))).await;
        if nothing == Some(true)
            && let Err(error) = store.abandon_retrieval(lease.clone()).await
        {
            debug!(%target, %error, "the lease of a retrieval that found nothing cannot be ended");
        }
    }
}

/// The lease of a document, or none where the store cannot give one.
pub(super) async fn lease(context: &Context, document: DocumentId) -> Result<Lease, StoreError> {
    context
        .store
        .begin_retrieval(document, unix_now(LEASE))
        .await
}
