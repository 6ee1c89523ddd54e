//! Single flight: of all retrievals of this process, one at a time fetches a given block.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::watch;

use crate::core::block::VerifiedBlock;
use crate::core::id::BlockId;

type Landing = Option<VerifiedBlock>;

/// The blocks being fetched now. Cheap to clone; clones share the table.
#[derive(Clone, Default)]
pub(crate) struct Flights {
    table: Arc<Mutex<HashMap<[u8; 32], watch::Receiver<Landing>>>>,
}

/// The answer to [`Flights::claim`].
pub(crate) enum Claim {
    /// Nobody fetches it: now the caller does.
    Mine(Flight),
    /// Somebody does: await the outcome.
    Theirs(Waiter),
}

/// The right, and the promise, to fetch one block. Dropped without [`Flight::land`], it passes to whoever claims next.
pub(crate) struct Flight {
    hash: [u8; 32],
    flights: Flights,
    landing: watch::Sender<Landing>,
}

/// Waits for somebody else's flight.
pub(crate) struct Waiter(watch::Receiver<Landing>);

impl Flights {
    /// Claims `block` for the caller, unless it is claimed.
    pub(crate) fn claim(&self, block: BlockId) -> Claim {
        match self.table().entry(*block.hash()) {
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

    fn table(&self) -> MutexGuard<'_, HashMap<[u8; 32], watch::Receiver<Landing>>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Flight {
    /// Hands the block to all who wait.
    pub(crate) fn land(self, block: &VerifiedBlock) {
        self.landing.send_replace(Some(block.clone()));
    }
}

impl Drop for Flight {
    fn drop(&mut self) {
        self.flights.table().remove(&self.hash);
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
