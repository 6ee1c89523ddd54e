//! The writer thread: the only one that appends to packs and commits the index.
//!
//! It takes jobs in order. Blocks are appended at once and answered at once; they are readable from then on, durable
//! with the next commit. Changes of the index wait for the end of the batch: whatever has queued up meanwhile shares
//! one sync of the pack and one commit, so many small documents cost little more than one.
//!
//! Order of a durable commit: pack synced, then index committed (redb syncs), then whoever waits is answered. A crash in
//! between leaves a tail behind the known length of a pack, cut off at the next opening.

use std::collections::{BTreeMap, HashMap};
use std::sync::mpsc::{Receiver, Sender};
use std::sync::{Arc, PoisonError};

use redb::Durability;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};
use warren_identity::UnixMillis;

use crate::core::block::{MAX_BLOCK_BYTES, StoredBlock};
use crate::core::id::{BlockId, DocumentId};
use crate::store::error::StoreError;
use crate::store::index::{Entry, Hash, IndexError, Location, PACKS};
use crate::store::ledger::{Collected, Ledger, NewListing, Reclaimable, Refusal, Totals, cost};
use crate::store::pack::{ActivePack, PACK_BYTES};
use crate::store::shared::{PendingBlock, Shared};

/// Blocks up to this size live in the index: a file of a few KiB costs no seek and no hole of its own.
const INLINE_BYTES: usize = 16 * 1024;
/// Bytes of jobs that may wait; who comes later waits before handing in. Loses: nobody, it is backpressure.
const QUEUE_KIB: u32 = 16 * 1024;
/// Bytes written but not indexed at which the index is committed even though nobody waits for it.
const PENDING_PACK_BYTES: u64 = 64 * 1024 * 1024;
/// The same for blocks kept in memory until then.
const PENDING_INLINE_BYTES: u64 = 8 * 1024 * 1024;
/// Blocks forgotten in one transaction of a collection, so that puts get their turn in between.
const COLLECT_STEP: usize = 512;
/// Documents dropped in one transaction of an expiry.
pub(super) const EXPIRE_STEP: usize = 256;
/// Free bytes below which nothing is added: redb cannot go on after a failed write, so it must not meet a full disk.
const RESERVE_BYTES: u64 = 8 * 1024 * 1024;
/// Free bytes below which nothing is written at all. The difference lets documents be removed on a full disk.
const LAST_RESERVE_BYTES: u64 = 1024 * 1024;

/// A change of the index.
#[derive(Debug, Clone)]
pub(super) enum Change {
    List {
        listing: NewListing,
        ends_lease: bool,
    },
    /// Gives a listed document the record that it lacks.
    Complete {
        document: DocumentId,
        record: Vec<u8>,
        expires_at: Option<UnixMillis>,
    },
    Unlist(DocumentId),
    Expire(UnixMillis),
    SetLease {
        document: DocumentId,
        until: UnixMillis,
    },
    EndLease(DocumentId),
    Hold {
        document: DocumentId,
        ids: Vec<BlockId>,
    },
    Quarantine {
        hash: Hash,
        found: Location,
    },
    Collect {
        now: UnixMillis,
        from: Hash,
    },
    /// Nothing, durably: everything before it is durable too.
    Flush,
}

impl Change {
    /// Whether it must be durable before it is answered. A lease that a crash forgets costs a second fetch, no more.
    const fn durability(&self) -> Durability {
        match self {
            Self::SetLease { .. } | Self::EndLease(_) | Self::Hold { .. } => Durability::None,
            _ => Durability::Immediate,
        }
    }

    /// Whether it may go on when the disk is nearly full.
    const fn frees(&self) -> bool {
        matches!(
            self,
            Self::Unlist(_) | Self::Expire(_) | Self::EndLease(_) | Self::Collect { .. }
        )
    }
}

/// What a change came to.
#[derive(Debug)]
pub(super) enum Outcome {
    Done,
    /// Whether there was a document that lacked it.
    Completed(bool),
    /// Whether the document was there.
    Unlisted(bool),
    Expired(Vec<DocumentId>),
    /// Blocks that are not here.
    Absent(Vec<BlockId>),
    Collected(Collected),
}

type Answer<T, E> = oneshot::Sender<Result<T, E>>;

enum Work {
    Append {
        blocks: Vec<(BlockId, StoredBlock)>,
        lease: Option<DocumentId>,
        answer: Answer<u64, StoreError>,
    },
    Change {
        change: Change,
        answer: Answer<Outcome, Refusal>,
    },
}

struct Job {
    work: Work,
    room: Option<OwnedSemaphorePermit>,
}

/// Hands jobs to the writer. The thread ends when the last one is gone.
#[derive(Clone)]
pub(super) struct WriterHandle {
    jobs: Sender<Job>,
    room: Arc<Semaphore>,
}

impl WriterHandle {
    /// Writes blocks; gives the bytes newly taken. Not durable before the next change that is.
    pub(super) async fn append(
        &self,
        blocks: Vec<(BlockId, StoredBlock)>,
        lease: Option<DocumentId>,
    ) -> Result<u64, StoreError> {
        let bytes: usize = blocks.iter().map(|(_, block)| block.bytes.len()).sum();
        let (answer, answered) = oneshot::channel();
        self.submit(
            Work::Append {
                blocks,
                lease,
                answer,
            },
            bytes,
        )
        .await?;
        answered.await.map_err(|_| StoreError::Closed)?
    }

    /// Changes the index. Durable on return, leases aside.
    pub(super) async fn change(&self, change: Change) -> Result<Outcome, Refusal> {
        let (answer, answered) = oneshot::channel();
        self.submit(Work::Change { change, answer }, 0)
            .await
            .map_err(Refusal::from)?;
        answered
            .await
            .map_err(|_| Refusal::Store(StoreError::Closed))?
    }

    /// Hands in a change whose outcome nobody waits for. Only for what is rare: it does not wait for room.
    pub(super) fn change_later(&self, change: Change) {
        let (answer, _) = oneshot::channel();
        // A closed writer has no use for it either.
        let _ = self.jobs.send(Job {
            work: Work::Change { change, answer },
            room: None,
        });
    }

    async fn submit(&self, work: Work, bytes: usize) -> Result<(), StoreError> {
        let kib = u32::try_from(bytes / 1024)
            .unwrap_or(u32::MAX)
            .clamp(1, QUEUE_KIB);
        let room = self
            .room
            .clone()
            .acquire_many_owned(kib)
            .await
            .map_err(|_| StoreError::Closed)?;
        self.jobs
            .send(Job {
                work,
                room: Some(room),
            })
            .map_err(|_| StoreError::Closed)
    }
}

/// State of the writer thread.
pub(super) struct Writer {
    shared: Arc<Shared>,
    max_bytes: Option<u64>,
    active: Option<ActivePack>,
    totals: Totals,
    pending_pack_bytes: u64,
    pending_inline_bytes: u64,
    /// Leases on blocks that are written but not indexed.
    pending_leases: Vec<(DocumentId, BlockId)>,
    /// Given back to the file system, still noted in the index.
    given_back: Reclaimable,
}

impl Writer {
    pub(super) fn new(
        shared: Arc<Shared>,
        max_bytes: Option<u64>,
        active: Option<ActivePack>,
        totals: Totals,
    ) -> Self {
        let writer = Self {
            shared,
            max_bytes,
            active,
            totals,
            pending_pack_bytes: 0,
            pending_inline_bytes: 0,
            pending_leases: Vec::new(),
            given_back: Reclaimable::default(),
        };
        writer.publish_totals();
        writer
    }

    /// The queue in front of the thread.
    pub(super) fn queue() -> (WriterHandle, WriterQueue) {
        let (jobs, queue) = std::sync::mpsc::channel();
        (
            WriterHandle {
                jobs,
                room: Arc::new(Semaphore::new(QUEUE_KIB as usize)),
            },
            WriterQueue(queue),
        )
    }

    /// Works until every handle is gone, then makes durable what is left.
    pub(super) fn run(mut self, WriterQueue(queue): WriterQueue) {
        while let Ok(first) = queue.recv() {
            let mut changes = Vec::new();
            let mut next = Some(first);
            while let Some(Job { work, room }) = next.take() {
                match work {
                    Work::Append {
                        blocks,
                        lease,
                        answer,
                    } => {
                        let _ = answer.send(self.append(blocks, lease));
                    }
                    Work::Change { change, answer } => changes.push(Waiting {
                        change,
                        answer,
                        _room: room,
                    }),
                }
                if self.pending_is_large() {
                    break;
                }
                next = queue.try_recv().ok();
            }
            if !changes.is_empty() || self.pending_is_large() {
                self.commit(changes);
            }
        }
        self.commit(Vec::new());
    }

    const fn pending_is_large(&self) -> bool {
        self.pending_pack_bytes >= PENDING_PACK_BYTES
            || self.pending_inline_bytes >= PENDING_INLINE_BYTES
    }

    fn append(
        &mut self,
        blocks: Vec<(BlockId, StoredBlock)>,
        lease: Option<DocumentId>,
    ) -> Result<u64, StoreError> {
        let result = self.append_all(blocks, lease);
        if let (Err(StoreError::Quota { .. }), Some(document)) = (&result, lease) {
            self.give_up_retrieval(document);
        }
        result
    }

    /// A retrieval that does not fit cannot be completed: what it brought must not keep others out until its lease is
    /// over, nor come back with the lease at the next opening.
    fn give_up_retrieval(&mut self, document: DocumentId) {
        let (answer, _) = oneshot::channel();
        self.commit(vec![Waiting {
            change: Change::EndLease(document),
            answer,
            _room: None,
        }]);
        self.collect_all();
    }

    fn append_all(
        &mut self,
        blocks: Vec<(BlockId, StoredBlock)>,
        lease: Option<DocumentId>,
    ) -> Result<u64, StoreError> {
        let needed: u64 = blocks
            .iter()
            .map(|(_, block)| block.bytes.len() as u64)
            .sum();
        self.check_space(needed)?;
        let mut taken = 0;
        for (id, block) in blocks {
            if let Some(document) = lease {
                self.pending_leases.push((document, id));
            }
            if self.shared.contains(id.hash())? {
                self.shared.metrics.dedup_hits.inc();
                continue;
            }
            taken += self.append_one(id.hash(), block)?;
        }
        Ok(taken)
    }

    fn append_one(&mut self, hash: &Hash, block: StoredBlock) -> Result<u64, StoreError> {
        let stored_size = block.bytes.len();
        if block.plain_size > MAX_BLOCK_BYTES || stored_size > block.plain_size as usize {
            return Err(StoreError::Index(
                "a block outside its limits was handed in".to_owned(),
            ));
        }
        #[expect(
            clippy::cast_possible_truncation,
            reason = "just compared with its 4 MiB limit"
        )]
        let mut entry = Entry {
            chunk_refs: 0,
            manifest_refs: 0,
            encoding: block.encoding,
            plain_size: block.plain_size,
            stored_size: stored_size as u32,
            location: Location::Inline(0),
        };
        let mut inline = None;
        let inlined = stored_size <= INLINE_BYTES;
        self.check_quota(stored_size as u64)?;
        if inlined {
            // The slice may keep a much larger buffer alive.
            inline = Some(bytes::Bytes::copy_from_slice(&block.bytes));
            self.pending_inline_bytes += stored_size as u64 + 128;
        } else {
            let shared = self.shared.clone();
            let pack = self.pack()?;
            let offset = pack
                .append(hash, &block)
                .map_err(|error| shared.io("write a block", error))?;
            entry.location = Location::Pack {
                pack: pack.number,
                offset,
            };
            self.pending_pack_bytes += cost(&entry);
        }
        let taken = cost(&entry);
        let mut pending = self
            .shared
            .pending
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        pending.insert(*hash, PendingBlock { entry, inline });
        Ok(taken)
    }

    /// The pack to append to; a full one is closed and indexed before the next is begun.
    fn pack(&mut self) -> Result<&mut ActivePack, StoreError> {
        if self
            .active
            .as_ref()
            .is_some_and(|pack| pack.length >= PACK_BYTES)
        {
            self.try_commit(&mut Vec::new(), Durability::Immediate)
                .map_err(|error| self.after_failure(error))?;
            self.active = None;
        }
        if self.active.is_none() {
            let number = self
                .reserve_pack()
                .map_err(|error| self.after_failure(error.into_inner()))?;
            let pack = ActivePack::create(&self.shared.layout, number)
                .map_err(|error| self.shared.io("create a pack", error))?;
            self.active = Some(pack);
        }
        self.active.as_mut().ok_or(StoreError::Closed)
    }

    /// Never gives the same number twice, so that nothing noted about an old pack can apply to a new one.
    fn reserve_pack(&mut self) -> Result<u64, IndexError> {
        let shared = self.shared.clone();
        let transaction = shared.index.begin_write()?;
        let mut ledger = Ledger::open(&shared, &transaction)?;
        let number = ledger.next_pack()?;
        ledger.finish()?;
        transaction.commit()?;
        Ok(number)
    }

    fn check_space(&self, needed: u64) -> Result<(), StoreError> {
        if self.free_bytes()? < RESERVE_BYTES + self.pending_inline_bytes * 2 + needed {
            return Err(self
                .shared
                .io("write", std::io::ErrorKind::StorageFull.into()));
        }
        Ok(())
    }

    fn free_bytes(&self) -> Result<u64, StoreError> {
        let stat = rustix::fs::statvfs(self.shared.layout.root())
            .map_err(|errno| self.shared.io("ask for free space", errno.into()))?;
        Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
    }

    fn check_quota(&mut self, needed: u64) -> Result<(), StoreError> {
        let Some(max) = self.max_bytes else {
            return Ok(());
        };
        if self.used_bytes() + needed <= max {
            return Ok(());
        }
        // What was removed but not collected must not keep a document out.
        self.collect_all();
        let used = self.used_bytes();
        if used + needed <= max {
            Ok(())
        } else {
            Err(StoreError::Quota { used, needed, max })
        }
    }

    const fn used_bytes(&self) -> u64 {
        self.totals.stored_bytes + self.pending_pack_bytes + self.pending_inline_bytes
    }

    /// Collects everything that nothing needs, leases kept whatever their age.
    pub(super) fn collect_all(&mut self) {
        let mut from = Some([0; 32]);
        while let Some(hash) = from {
            let (answer, mut answered) = oneshot::channel();
            self.commit(vec![Waiting {
                change: Change::Collect {
                    now: UnixMillis(0),
                    from: hash,
                },
                answer,
                _room: None,
            }]);
            from = match answered.try_recv() {
                Ok(Ok(Outcome::Collected(step))) => step.next,
                _ => None,
            };
        }
    }

    /// Makes pending blocks and `changes` part of the index and answers them.
    fn commit(&mut self, changes: Vec<Waiting>) {
        let immediate = changes.is_empty()
            || changes
                .iter()
                .any(|waiting| matches!(waiting.change.durability(), Durability::Immediate));
        let durability = if immediate {
            Durability::Immediate
        } else {
            Durability::None
        };
        let mut changes = self.refuse_without_space(changes);
        let collects = changes
            .iter()
            .any(|waiting| matches!(waiting.change, Change::Collect { .. }));
        match self.try_commit(&mut changes, durability) {
            Ok(outcomes) => {
                if collects {
                    self.give_back();
                }
                for (waiting, outcome) in changes.into_iter().zip(outcomes) {
                    let _ = waiting.answer.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = self.after_failure(error);
                for waiting in changes {
                    let _ = waiting.answer.send(Err(Refusal::Store(error.clone())));
                }
            }
        }
    }

    /// On a nearly full disk only what frees space goes on.
    fn refuse_without_space(&self, changes: Vec<Waiting>) -> Vec<Waiting> {
        let free = self.free_bytes().unwrap_or(u64::MAX);
        if free >= RESERVE_BYTES {
            return changes;
        }
        let (kept, refused): (Vec<_>, Vec<_>) = changes
            .into_iter()
            .partition(|waiting| waiting.change.frees() && free >= LAST_RESERVE_BYTES);
        for waiting in refused {
            let error = self
                .shared
                .io("write the index", std::io::ErrorKind::StorageFull.into());
            let _ = waiting.answer.send(Err(Refusal::Store(error)));
        }
        kept
    }

    /// One transaction. A change that is refused is answered and taken out, and the rest is tried again without it.
    fn try_commit(
        &mut self,
        changes: &mut Vec<Waiting>,
        durability: Durability,
    ) -> Result<Vec<Outcome>, StoreError> {
        let shared = self.shared.clone();
        if let (Durability::Immediate, Some(pack)) = (durability, self.active.as_mut()) {
            pack.sync()
                .map_err(|error| shared.io("sync a pack", error))?;
        }
        let flushed = shared
            .pending
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        // A put that pins after this waits; one that pinned before is seen. See `Change::Collect`.
        let collects = changes
            .iter()
            .any(|waiting| matches!(waiting.change, Change::Collect { .. }));
        let pins = collects.then(|| shared.pins());
        let (totals, outcomes) = loop {
            let mut transaction = shared.index.begin_write().map_err(IndexError::into_inner)?;
            transaction
                .set_durability(durability)
                .map_err(|error| IndexError::from(error).into_inner())?;
            let mut ledger = Ledger::open(&shared, &transaction).map_err(IndexError::into_inner)?;
            self.flush_into(&mut ledger, &flushed)
                .map_err(IndexError::into_inner)?;
            match apply_all(&mut ledger, changes, pins.as_deref()) {
                Ok(outcomes) => {
                    let totals = ledger.finish().map_err(IndexError::into_inner)?;
                    transaction
                        .commit()
                        .map_err(|error| IndexError::from(error).into_inner())?;
                    break (totals, outcomes);
                }
                Err((_, Refusal::Store(error))) => return Err(error),
                Err((at, refusal)) => {
                    drop(ledger);
                    let _ = changes.remove(at).answer.send(Err(refusal));
                }
            }
        };
        drop(pins);
        self.forget_flushed(&flushed, changes);
        self.totals = totals;
        self.publish_totals();
        Ok(outcomes)
    }

    fn flush_into(
        &self,
        ledger: &mut Ledger<'_>,
        flushed: &HashMap<Hash, PendingBlock>,
    ) -> Result<(), IndexError> {
        ledger.forget(&self.given_back)?;
        ledger.add_pending(flushed)?;
        if let Some(pack) = self.active.as_ref().filter(|pack| !pack.is_empty()) {
            ledger.set_pack_length(pack.number, pack.length);
        }
        let mut by_document: BTreeMap<DocumentId, Vec<BlockId>> = BTreeMap::new();
        for (document, id) in &self.pending_leases {
            by_document.entry(*document).or_default().push(*id);
        }
        for (document, ids) in by_document {
            ledger.hold(document, &ids)?;
        }
        Ok(())
    }

    fn forget_flushed(&mut self, flushed: &HashMap<Hash, PendingBlock>, changes: &[Waiting]) {
        let mut damaged = self.shared.damaged();
        for waiting in changes {
            if let Change::Quarantine { hash, .. } = &waiting.change {
                damaged.remove(hash);
            }
        }
        damaged.retain(|hash| !flushed.contains_key(hash));
        drop(damaged);
        let mut pending = self
            .shared
            .pending
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        pending.retain(|hash, _| !flushed.contains_key(hash));
        drop(pending);
        self.pending_pack_bytes = 0;
        self.pending_inline_bytes = 0;
        self.pending_leases.clear();
        self.given_back = Reclaimable::default();
    }

    fn publish_totals(&self) {
        let metrics = &self.shared.metrics;
        metrics.bytes.set(self.totals.stored_bytes);
        metrics.blocks.set(self.totals.blocks);
        metrics.documents.set(self.totals.documents);
    }

    /// After a failed sync or commit nobody knows what reached the disk: goes back to what the index knows for sure.
    fn after_failure(&mut self, error: StoreError) -> StoreError {
        tracing::error!(%error, "a commit of the store failed; what was not acknowledged is dropped");
        self.shared.metrics.io_errors.inc();
        self.shared
            .pending
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
        self.pending_pack_bytes = 0;
        self.pending_inline_bytes = 0;
        self.pending_leases.clear();
        self.given_back = Reclaimable::default();
        if let Err(reopen) = self.shared.index.reopen() {
            tracing::error!(error = %reopen, "the index of the store cannot be opened again; restart the node");
        }
        if let Some(pack) = self.active.take() {
            // Whatever lies behind the known length is cut off, here or at the next opening.
            let known = self.shared.index.read(|transaction| {
                Ok(transaction
                    .open_table(PACKS)?
                    .get(pack.number)?
                    .map(|row| row.value().0))
            });
            if let Ok(Some(length)) = known {
                self.active = ActivePack::reopen(&self.shared.layout, pack.number, length)
                    .ok()
                    .flatten();
            }
        }
        error
    }

    /// Gives dead stretches and dead packs back to the file system.
    fn give_back(&mut self) {
        if self
            .active
            .as_ref()
            .is_some_and(|pack| self.is_dead(pack.number))
        {
            self.active = None;
        }
        let active = self.active.as_ref().map(|pack| pack.number);
        let found = self.reclaimable(active);
        let Ok(reclaimable) = found else { return };
        // Whoever looked a block up before it was forgotten reads it before its place is given back.
        drop(
            self.shared
                .gate
                .write()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let mut done = Reclaimable::default();
        for (pack, offset, length) in reclaimable.stretches {
            match self.shared.packs.punch(pack, offset, length) {
                Ok(()) => done.stretches.push((pack, offset, length)),
                Err(error) => {
                    self.shared.io("free the space of removed blocks", error);
                }
            }
        }
        for pack in reclaimable.packs {
            match self.shared.packs.remove(pack) {
                Ok(()) => done.packs.push(pack),
                Err(error) => {
                    self.shared.io("remove a dead pack", error);
                }
            }
        }
        self.given_back = done;
    }

    fn reclaimable(&self, active: Option<u64>) -> Result<Reclaimable, IndexError> {
        // Read only: the transaction is dropped, not committed.
        let transaction = self.shared.index.begin_write()?;
        let mut ledger = Ledger::open(&self.shared, &transaction)?;
        ledger.reclaimable(active)
    }

    /// Whether nothing lives in a pack, and nothing pending is in it.
    fn is_dead(&self, number: u64) -> bool {
        let live = self.shared.index.read(|transaction| {
            Ok(transaction
                .open_table(PACKS)?
                .get(number)?
                .map(|row| row.value().2))
        });
        self.pending_pack_bytes == 0 && matches!(live, Ok(Some(0)))
    }
}

/// The thread's end of the queue.
pub(super) struct WriterQueue(Receiver<Job>);

struct Waiting {
    change: Change,
    answer: Answer<Outcome, Refusal>,
    /// Held until the change is answered: it bounds how many wait.
    _room: Option<OwnedSemaphorePermit>,
}

/// Applies all changes, or says which one is refused.
fn apply_all(
    ledger: &mut Ledger<'_>,
    changes: &[Waiting],
    pins: Option<&HashMap<Hash, u32>>,
) -> Result<Vec<Outcome>, (usize, Refusal)> {
    let mut outcomes = Vec::with_capacity(changes.len());
    for (at, waiting) in changes.iter().enumerate() {
        outcomes.push(apply(ledger, &waiting.change, pins).map_err(|refusal| (at, refusal))?);
    }
    Ok(outcomes)
}

fn apply(
    ledger: &mut Ledger<'_>,
    change: &Change,
    pins: Option<&HashMap<Hash, u32>>,
) -> Result<Outcome, Refusal> {
    match change {
        Change::List {
            listing,
            ends_lease,
        } => {
            ledger.list(listing)?;
            if *ends_lease {
                ledger.end_lease(listing.document)?;
            }
            Ok(Outcome::Done)
        }
        Change::Complete {
            document,
            record,
            expires_at,
        } => Ok(Outcome::Completed(ledger.complete(
            *document,
            record,
            *expires_at,
        )?)),
        Change::Unlist(document) => Ok(Outcome::Unlisted(ledger.unlist(*document)?)),
        Change::Expire(now) => Ok(Outcome::Expired(ledger.expire(*now, EXPIRE_STEP)?)),
        Change::SetLease { document, until } => {
            ledger.set_lease(*document, *until)?;
            Ok(Outcome::Done)
        }
        Change::EndLease(document) => {
            ledger.end_lease(*document)?;
            Ok(Outcome::Done)
        }
        Change::Hold { document, ids } => Ok(Outcome::Absent(ledger.hold(*document, ids)?)),
        Change::Quarantine { hash, found } => {
            ledger.quarantine(hash, *found)?;
            Ok(Outcome::Done)
        }
        Change::Collect { now, from } => {
            let pins =
                pins.ok_or_else(|| StoreError::Index("a collection without its pins".to_owned()))?;
            Ok(Outcome::Collected(ledger.collect(
                *now,
                *from,
                COLLECT_STEP,
                pins,
            )?))
        }
        Change::Flush => Ok(Outcome::Done),
    }
}
