//! What happens to blocks: looked up, read, verified, passed on, kept.

use std::collections::HashSet;

use futures::future::join_all;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tracing::{debug, warn};
use warren_identity::PeerId;
use warren_telemetry::SourceType;

use super::super::RetrieveError;
use super::{Engine, Got, Keep, Need, Slot, State, Step, Storing, Unverified, Wanted};
use crate::core::block::{VerifiedBlock, VerifyBlockError};
use crate::core::fetch::{Ticket, Verdict};
use crate::core::id::BlockId;
use crate::store::{ReadError, StoreError};
use crate::transfer::{Arrival, BlockClient, Outcome};

/// Bytes read ahead from the local store.
const LOCAL_WINDOW: u64 = 8 * 1024 * 1024;
/// Blocks read from it at once: what a manifest that lies about sizes can bring beyond the window.
const LOCAL_READS: usize = 16;
/// Blocks and bytes verified in one go: enough to make the hop to another thread cheap.
const VERIFY_BATCH_BLOCKS: usize = 128;
const VERIFY_BATCH_BYTES: usize = 1024 * 1024;
/// Verification tasks at once: one can hash while the results of the other are handled.
const VERIFIERS: usize = 2;

impl Engine {
    /// Hands a slot to the planner.
    pub(super) fn fetch(&mut self, index: u64) {
        if let Some(slot) = self.slots.get_mut(&index) {
            slot.state = State::Fetching;
            let Wanted {
                block, size_hint, ..
            } = slot.wanted;
            self.planner
                .want(Ticket(index), block, size_hint, Instant::now().into_std());
        }
    }

    pub(super) fn check_unchecked(&mut self) {
        if self.checking || self.unchecked.is_empty() {
            return;
        }
        self.checking = true;
        let indices = std::mem::take(&mut self.unchecked);
        let ids: Vec<BlockId> = indices
            .iter()
            .filter_map(|index| self.slots.get(index))
            .map(|slot| slot.wanted.block)
            .collect();
        let store = self.context.store.clone();
        let keep = self.job.keep.clone();
        self.work.push(Box::pin(async move {
            let missing = match keep {
                Keep::Lease(lease) => store.hold(&lease, ids).await,
                Keep::Repair | Keep::Nothing => blocking(move || {
                    let lacks = |id: &BlockId| store.has_block(*id).map(|has| !has).unwrap_or(true);
                    Ok(ids.into_iter().filter(lacks).collect())
                })
                .await
                .unwrap_or(Err(StoreError::Closed)),
            };
            Step::Checked(
                indices,
                missing.map(|ids| ids.iter().map(|id| *id.hash()).collect()),
            )
        }));
    }

    pub(super) fn handle_checked(
        &mut self,
        indices: Vec<u64>,
        missing: Result<HashSet<[u8; 32]>, StoreError>,
    ) {
        self.checking = false;
        let missing = match missing {
            Ok(missing) => Some(missing),
            Err(error) => {
                self.storing_failed(error);
                None
            }
        };
        for index in indices {
            let Some(slot) = self.slots.get_mut(&index) else {
                continue;
            };
            let Wanted {
                block,
                size_hint,
                need,
            } = slot.wanted;
            if missing
                .as_ref()
                .is_none_or(|missing| missing.contains(block.hash()))
            {
                self.fetch(index);
            } else if need == Need::Presence {
                slot.state = State::Ready(Got {
                    source: SourceType::Local,
                    size: size_hint,
                    content: None,
                });
            } else {
                slot.state = State::Local;
                self.to_read.push_back(index);
            }
        }
    }

    pub(super) fn read_local(&mut self) {
        while let Some(&index) = self.to_read.front() {
            let Some(slot) = self.slots.get_mut(&index) else {
                break;
            };
            let size = u64::from(slot.wanted.size_hint);
            let has_room =
                self.local_bytes + size <= LOCAL_WINDOW && self.local_reads < LOCAL_READS;
            if !has_room && index != self.next_out {
                break;
            }
            self.to_read.pop_front();
            self.local_reads += 1;
            self.local_bytes += size;
            slot.asked_at = Instant::now();
            let block = slot.wanted.block;
            let store = self.context.store.clone();
            self.work.push(Box::pin(async move {
                let read = blocking(move || store.read_block(block))
                    .await
                    .unwrap_or(Ok(None));
                Step::LocalRead(index, read)
            }));
        }
    }

    pub(super) fn handle_local_read(
        &mut self,
        index: u64,
        read: Result<Option<VerifiedBlock>, ReadError>,
    ) {
        self.local_reads -= 1;
        let Some(slot) = self.slots.get_mut(&index) else {
            return;
        };
        self.local_bytes = self
            .local_bytes
            .saturating_sub(u64::from(slot.wanted.size_hint));
        match read {
            Ok(Some(block)) => {
                if matches!(block.id(), BlockId::Chunk(_)) {
                    self.context
                        .retrieval
                        .observe(SourceType::Local, slot.asked_at.elapsed());
                }
                let plain = block.into_plain();
                #[expect(
                    clippy::cast_possible_truncation,
                    reason = "a verified block is at most 4 MiB"
                )]
                let size = plain.len() as u32;
                self.local_bytes += u64::from(size);
                slot.state = State::Ready(Got {
                    source: SourceType::Local,
                    size,
                    content: Some(plain),
                });
            }
            Ok(None) | Err(_) => {
                if let Err(error) = read {
                    warn!(block = %slot.wanted.block, %error, "a local block cannot be used: asking peers for it");
                }
                self.fetch(index);
            }
        }
    }

    pub(super) fn handle_arrivals(&mut self, first: Arrival) {
        self.handle_arrival(first);
        while let Ok(arrival) = self.arrivals.try_recv() {
            self.handle_arrival(arrival);
        }
    }

    pub(super) fn handle_arrival(&mut self, arrival: Arrival) {
        let Arrival {
            peer,
            ticket: index,
            outcome,
        } = arrival;
        let now = Instant::now().into_std();
        match outcome {
            Outcome::Block(received) => match self.slots.get(&index) {
                Some(Slot {
                    wanted,
                    state: State::Fetching,
                    ..
                }) => {
                    let size = received.plain_size();
                    self.planner.handle_arrived(&peer, Ticket(index), size, now);
                    self.to_verify.push_back(Unverified {
                        peer,
                        index,
                        block: wanted.block,
                        received,
                    });
                }
                // A copy that came second: nobody will look at it.
                _ => drop(self.planner.handle_block(
                    &peer,
                    Ticket(index),
                    received.plain_size(),
                    now,
                )),
            },
            Outcome::Oversized { plain_size } => {
                debug!(%peer, plain_size, "a block is announced larger than its manifest says");
                self.context.peers.metrics().bad_block("oversized");
                self.planner.handle_oversized(&peer, Ticket(index), now);
            }
            Outcome::NotFound => self.planner.handle_not_found(&peer, Ticket(index), now),
            Outcome::Busy(wait) => self.planner.handle_busy(&peer, Ticket(index), wait, now),
            Outcome::Refused(code) => self.planner.handle_refused(&peer, Ticket(index), code, now),
            Outcome::Lost => {
                // Of a connection that was replaced meanwhile, the planner has taken everything back already.
                if self.clients.get(&peer).is_some_and(BlockClient::is_closed) {
                    self.clients.remove(&peer);
                    self.planner.handle_disconnected(&peer, now);
                }
            }
        }
    }

    pub(super) fn start_verification(&mut self) {
        while self.verifying < VERIFIERS && !self.to_verify.is_empty() {
            let mut batch = Vec::new();
            let mut bytes = 0;
            while batch.len() < VERIFY_BATCH_BLOCKS && bytes < VERIFY_BATCH_BYTES {
                let Some(next) = self.to_verify.pop_front() else {
                    break;
                };
                bytes += next.received.plain_size() as usize;
                batch.push(next);
            }
            self.verifying += 1;
            self.work.push(Box::pin(async move {
                let verify =
                    |one: Unverified| (one.peer, one.index, one.received.verify(one.block));
                let verified = blocking(move || batch.into_iter().map(verify).collect()).await;
                Step::Verified(verified.unwrap_or_default())
            }));
        }
    }

    pub(super) fn handle_verified(
        &mut self,
        verified: Vec<(PeerId, u64, Result<VerifiedBlock, VerifyBlockError>)>,
    ) {
        self.verifying -= 1;
        let now = Instant::now().into_std();
        let mut good = Vec::new();
        for (peer, index, result) in verified {
            match result {
                Ok(block) => {
                    let size = block.stored().plain_size;
                    if self.planner.handle_block(&peer, Ticket(index), size, now)
                        == Verdict::Accepted
                    {
                        self.observe_arrival(index, block.id());
                        self.log.took(peer, block.stored().bytes.len());
                        good.push((index, block));
                    }
                }
                Err(error) => {
                    warn!(%peer, %error, "a peer sent a wrong block");
                    self.context
                        .peers
                        .metrics()
                        .bad_block(bad_block_reason(&error));
                    self.planner.handle_wrong_block(&peer, Ticket(index), now);
                }
            }
        }
        self.have(good);
    }

    pub(super) fn observe_arrival(&self, index: u64, block: BlockId) {
        if let (BlockId::Chunk(_), Some(slot)) = (block, self.slots.get(&index)) {
            self.context
                .retrieval
                .observe(SourceType::P2p, slot.asked_at.elapsed());
        }
    }

    /// Verified blocks: to the readers, to other retrievals that wait for them, and into the store.
    pub(super) fn have(&mut self, blocks: Vec<(u64, VerifiedBlock)>) {
        if blocks.is_empty() {
            return;
        }
        let keep = !matches!(self.job.keep, Keep::Nothing);
        for (index, block) in &blocks {
            if let Some(flight) = self.claims.get(index) {
                flight.land(block);
            }
            // Until the store has it, others get it from the flight.
            if !keep {
                self.claims.remove(index);
            }
            let Some(slot) = self.slots.get_mut(index) else {
                continue;
            };
            let content = (slot.wanted.need == Need::Content).then(|| block.plain().clone());
            slot.state = State::Ready(Got {
                source: SourceType::P2p,
                size: block.stored().plain_size,
                content,
            });
            slot.keeping = keep;
        }
        let keep = self.job.keep.clone();
        if matches!(keep, Keep::Nothing) {
            return;
        }
        let store = self.context.store.clone();
        self.work.push(Box::pin(async move {
            let indices = blocks.iter().map(|(index, _)| *index).collect();
            let store_one = async |block: VerifiedBlock| match &keep {
                Keep::Lease(lease) => store.insert_block(lease, block).await,
                Keep::Repair => store.repair_block(block).await,
                Keep::Nothing => Ok(()),
            };
            // All at once, so that the store can write them as one batch.
            let stored = join_all(blocks.into_iter().map(|(_, block)| store_one(block))).await;
            Step::Kept(indices, stored.into_iter().collect())
        }));
    }

    pub(super) fn handle_kept(&mut self, indices: Vec<u64>, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.storing_failed(error);
        }
        for index in indices {
            self.claims.remove(&index);
            if let Some(slot) = self.slots.get_mut(&index) {
                slot.keeping = false;
            }
            self.retire(index);
        }
    }

    pub(super) fn storing_failed(&mut self, error: StoreError) {
        match self.job.storing {
            Storing::Required => self.failure = Some(RetrieveError::Store(error)),
            Storing::BestEffort => {
                if !matches!(self.job.keep, Keep::Nothing) {
                    warn!(target = %self.job.target, %error, "retrieved content is passed on without being kept");
                }
                self.job.keep = Keep::Nothing;
            }
        }
    }
}

/// Runs `work` on the blocking pool; `None` when the runtime is going down.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Option<T> {
    spawn_blocking(work).await.ok()
}

fn bad_block_reason(error: &VerifyBlockError) -> &'static str {
    match error {
        VerifyBlockError::Size { .. } => "size",
        VerifyBlockError::Decode { .. } => "decode",
        VerifyBlockError::WrongHash { .. } => "hash",
    }
}
