//! Single flight: of all retrievals of this process, one at a time fetches a given block, and whoever wants it later finds
//! it in the store, even if he looked there before it came.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lru::LruCache;
use tokio::sync::watch;

use crate::core::block::VerifiedBlock;
use crate::core::id::BlockId;

/// Landed blocks remembered: more than retrievals look up in the store before they ask for them.
const MAX_LANDED: NonZeroUsize = NonZeroUsize::new(16 * 1024).unwrap();

type Hash = [u8; 32];
type Landing = Option<VerifiedBlock>;

/// The blocks being fetched now. Cheap to clone; clones share the table.
#[derive(Clone)]
pub(crate) struct Flights {
    table: Arc<Mutex<Table>>,
}

struct Table {
    flying: HashMap<Hash, watch::Receiver<Landing>>,
    /// The latest to have landed; the oldest is forgotten first.
    landed: LruCache<Hash, ()>,
}

impl Default for Flights {
    fn default() -> Self {
        let table = Table {
            flying: HashMap::new(),
            landed: LruCache::new(MAX_LANDED),
        };
        Self {
            table: Arc::new(Mutex::new(table)),
        }
    }
}

/// The answer to [`Flights::claim`].
pub(crate) enum Claim {
    /// Nobody fetches it: now the caller does.
    Mine(Flight),
    /// Somebody does: await the outcome.
    Theirs(Waiter),
}

/// The right, and the promise, to fetch one block. To be held until the block is where others find it. Dropped without
/// [`Flight::land`], it passes to whoever claims next.
pub(crate) struct Flight {
    hash: Hash,
    flights: Flights,
    landing: watch::Sender<Landing>,
}

/// Waits for somebody else's flight.
pub(crate) struct Waiter(watch::Receiver<Landing>);

impl Flights {
    /// Claims `block` for the caller, unless it is claimed.
    pub(crate) fn claim(&self, block: BlockId) -> Claim {
        match self.table().flying.entry(*block.hash()) {
            Entry::Occupied(entry) => Claim::Theirs(Waiter(entry.get().clone())),
            Entry::Vacant(entry) => {
                let (landing, waiter) = watch::channel(None);
                entry.insert(waiter);
                Claim::Mine(Flight {
                    hash: *block.hash(),
                    flights: self.clone(),
                    landing,
                })
            }
        }
    }

    /// Whether the block was fetched lately, and so may be in the store by now.
    pub(crate) fn has_landed(&self, block: BlockId) -> bool {
        self.table().landed.contains(block.hash())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Hands the block to all who wait.
    pub(crate) fn land(&self, block: &VerifiedBlock) {
        self.landing.send_replace(Some(block.clone()));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        let has_landed = self.landing.borrow().is_some();
        let mut table = self.flights.table();
        table.flying.remove(&self.hash);
        if has_landed {
            table.landed.put(self.hash, ());
        }
    }
}

impl Waiter {
    /// The block, or `None` when its fetcher gave up.
    pub(crate) async fn wait(mut self) -> Option<VerifiedBlock> {
        // An error means that the sender is gone: what it left last counts.
        let _ = self.0.wait_for(Option::is_some).await;
        self.0.borrow().clone()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use bytes::Bytes;

    use super::*;
    use crate::core::block::{Encoding, StoredBlock};
    use crate::core::id::ChunkId;

    fn block() -> VerifiedBlock {
        let bytes = Bytes::from_static(b"warren");
        let id = BlockId::Chunk(ChunkId::of(&bytes));
        StoredBlock {
            encoding: Encoding::Plain,
            plain_size: 6,
            bytes,
        }
        .verify(id)
        .unwrap()
    }

    #[tokio::test]
    async fn given_a_claimed_block_when_claimed_again_then_the_second_gets_what_the_first_lands() {
        let flights = Flights::default();
        let Claim::Mine(flight) = flights.claim(block().id()) else {
            panic!("not free")
        };
        let Claim::Theirs(waiter) = flights.claim(block().id()) else {
            panic!("claimed twice")
        };
        let waiting = tokio::spawn(waiter.wait());
        flight.land(&block());
        assert_eq!(waiting.await.unwrap().unwrap().plain().as_ref(), b"warren");
    }

    #[tokio::test]
    async fn given_a_flight_that_landed_when_it_is_over_then_it_is_remembered() {
        let flights = Flights::default();
        let Claim::Mine(flight) = flights.claim(block().id()) else {
            panic!("not free")
        };
        flight.land(&block());
        assert!(!flights.has_landed(block().id()));
        drop(flight);
        assert!(flights.has_landed(block().id()));
    }

    #[tokio::test]
    async fn given_a_flight_that_is_given_up_when_waited_for_then_there_is_nothing_and_it_can_be_claimed()
     {
        let flights = Flights::default();
        let Claim::Mine(flight) = flights.claim(block().id()) else {
            panic!("not free")
        };
        let Claim::Theirs(waiter) = flights.claim(block().id()) else {
            panic!("claimed twice")
        };
        drop(flight);
        assert!(waiter.wait().await.is_none());
        assert!(matches!(flights.claim(block().id()), Claim::Mine(_)));
    }
}
