//! What readers, ingest and the writer thread share, and how a block is found and read.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use bytes::Bytes;
use redb::ReadTransaction;

use crate::core::block::{Encoder, StoredBlock};
use crate::core::id::BlockId;
use crate::store::error::StoreError;
use crate::store::index::{self, Entry, Hash, INLINE, Index, IndexError, Location, io_error};
use crate::store::layout::Layout;
use crate::store::metrics::StoreMetrics;
use crate::store::pack::Packs;

/// Compression contexts kept for the next block; each is about 1 MiB.
const IDLE_ENCODERS: usize = 4;

/// A block that is written but not yet in the index.
#[derive(Debug, Clone)]
pub(super) struct PendingBlock {
    /// Sizes, encoding and place; an inline block's number is given at commit.
    pub(super) entry: Entry,
    /// The stored bytes, if the block is to be kept inline.
    pub(super) inline: Option<Bytes>,
}

pub(super) struct Shared {
    pub(super) layout: Layout,
    pub(super) index: Index,
    pub(super) packs: Packs,
    pub(super) metrics: StoreMetrics,
    /// Written, not yet indexed. A reader looks here first, then in the index.
    pub(super) pending: RwLock<HashMap<Hash, PendingBlock>>,
    /// Blocks that a running put counts on, with how many do. Collection leaves them alone.
    pins: Mutex<HashMap<Hash, u32>>,
    /// Found damaged on disk and not yet noted so in the index: as good as absent.
    damaged: Mutex<HashSet<Hash>>,
    /// Held shared from looking a block up until its bytes are read; taken alone (and let go at once) by the collector
    /// between forgetting blocks and giving their space back, so that no reader is left with an old place.
    pub(super) gate: RwLock<()>,
    encoders: Mutex<Vec<Encoder>>,
}

impl Shared {
    pub(super) fn new(layout: Layout, index: Index, metrics: StoreMetrics) -> Self {
        Self {
            packs: Packs::new(layout.clone()),
            layout,
            index,
            metrics,
            pending: RwLock::default(),
            pins: Mutex::default(),
            damaged: Mutex::default(),
            gate: RwLock::default(),
            encoders: Mutex::default(),
        }
    }

    /// Counts a refusal of the system and puts it into the store's terms.
    pub(super) fn io(&self, action: &'static str, source: std::io::Error) -> StoreError {
        self.metrics.io_errors.inc();
        tracing::warn!(action, error = %source, "the store's disk refused");
        io_error(action, source)
    }

    pub(super) fn pins(&self) -> MutexGuard<'_, HashMap<Hash, u32>> {
        self.pins.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn damaged(&self) -> MutexGuard<'_, HashSet<Hash>> {
        self.damaged.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The stored form of `plain`, by an idle compression context.
    pub(super) fn encode(&self, plain: &Bytes) -> StoredBlock {
        let idle = self
            .encoders
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop();
        let mut encoder = idle.unwrap_or_default();
        let block = encoder.encode(plain);
        let mut idle = self.encoders.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < IDLE_ENCODERS {
            idle.push(encoder);
        }
        block
    }

    fn pending(&self, hash: &Hash) -> Option<PendingBlock> {
        self.pending
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .get(hash)
            .cloned()
    }

    /// Whether the block's bytes are here.
    pub(super) fn contains(&self, hash: &Hash) -> Result<bool, StoreError> {
        if self.pending(hash).is_some() {
            return Ok(true);
        }
        if self.damaged().contains(hash) {
            return Ok(false);
        }
        let entry = self
            .index
            .read(|transaction| index::entry(transaction, hash))?;
        Ok(entry.is_some_and(|entry| entry.location != Location::Missing))
    }

    /// What the store has of a block. The bytes themselves are not checked.
    pub(super) fn find(&self, id: BlockId) -> Result<Option<Found>, StoreError> {
        let _reading = self.gate.read().unwrap_or_else(PoisonError::into_inner);
        let hash = id.hash();
        let (entry, inline) = match self.pending(hash) {
            Some(PendingBlock { entry, inline }) => (entry, inline),
            None if self.damaged().contains(hash) => return Ok(None),
            None => match self.index.read(|transaction| indexed(transaction, hash))? {
                Some(found) => found,
                None => return Ok(None),
            },
        };
        let bytes = match (entry.location, inline) {
            (Location::Missing, None) => return Ok(None),
            (_, Some(bytes)) => Some(bytes),
            (Location::Inline(_), None) => None,
            (Location::Pack { pack, offset }, None) => self
                .packs
                .read(pack, offset, hash, &entry)
                .map_err(|error| self.io("read a block", error))?,
        };
        Ok(Some(match bytes {
            Some(bytes) => Found::Block(
                StoredBlock {
                    encoding: entry.encoding,
                    plain_size: entry.plain_size,
                    bytes,
                },
                entry.location,
            ),
            None => Found::Damaged(entry.location),
        }))
    }
}

/// What lies at a block's place.
pub(super) enum Found {
    /// Its frame.
    Block(StoredBlock, Location),
    /// Something else.
    Damaged(Location),
}

fn indexed(
    transaction: &ReadTransaction,
    hash: &Hash,
) -> Result<Option<(Entry, Option<Bytes>)>, IndexError> {
    let Some(entry) = index::entry(transaction, hash)? else {
        return Ok(None);
    };
    let Location::Inline(number) = entry.location else {
        return Ok(Some((entry, None)));
    };
    let table = transaction.open_table(INLINE)?;
    let row = table.get(number)?;
    Ok(Some((
        entry,
        row.map(|row| Bytes::copy_from_slice(row.value())),
    )))
}

/// Blocks that one put counts on; dropping it lets the collector have them.
pub(super) struct Pins {
    shared: Arc<Shared>,
    held: Mutex<Vec<Hash>>,
}

impl Pins {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            held: Mutex::default(),
        }
    }

    /// From here on until the drop the block is not collected. To be called before looking whether it is here.
    pub(super) fn pin(&self, hash: Hash) {
        *self.shared.pins().entry(hash).or_default() += 1;
        self.held
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(hash);
    }
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut pins = self.shared.pins();
        for hash in self.held.get_mut().unwrap_or_else(PoisonError::into_inner) {
            if let Some(count) = pins.get_mut(hash) {
                *count -= 1;
                if *count == 0 {
                    pins.remove(hash);
                }
            }
        }
    }
}
