//! How many bytes one connection may make this node hold.

use std::sync::Arc;

use prometheus_client::metrics::gauge::Gauge;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// A number of bytes that are taken before they are read and come back when nobody needs them any more.
pub(crate) struct ByteBudget {
    room: Arc<Semaphore>,
    total: u32,
    held: Gauge,
}

/// Bytes taken from a [`ByteBudget`]; given back on drop.
#[derive(Debug)]
pub(crate) struct HeldBytes {
    _permit: Option<OwnedSemaphorePermit>,
    bytes: i64,
    held: Gauge,
}

impl ByteBudget {
    /// `total` bytes; what is taken of them is added to `held`.
    pub(crate) fn new(total: usize, held: Gauge) -> Self {
        let total = u32::try_from(total).unwrap_or(u32::MAX);
        Self {
            room: Arc::new(Semaphore::new(total as usize)),
            total,
            held,
        }
    }

    /// Waits until `bytes` are free, and takes them; more than all are taken as all. Cancel safe.
    pub(crate) async fn take(&self, bytes: usize) -> HeldBytes {
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX).min(self.total);
        // The semaphore is never closed.
        let permit = Arc::clone(&self.room).acquire_many_owned(bytes).await.ok();
        self.held.inc_by(i64::from(bytes));
        HeldBytes {
            _permit: permit,
            bytes: i64::from(bytes),
            held: self.held.clone(),
        }
    }
}

impl Drop for HeldBytes {
    fn drop(&mut self) {
        self.held.dec_by(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use futures::FutureExt as _;

    use super::*;

    #[tokio::test]
    async fn given_a_budget_that_is_taken_when_more_is_wanted_then_it_waits_until_some_comes_back()
    {
        let gauge = Gauge::default();
        let budget = ByteBudget::new(100, gauge.clone());
        let first = budget.take(60).await;
        let mut second = Box::pin(budget.take(50));
        assert!((&mut second).now_or_never().is_none());
        assert_eq!(gauge.get(), 60);
        drop(first);
        let second = second.await;
        assert_eq!(gauge.get(), 50);
        drop(second);
        assert_eq!(gauge.get(), 0);
    }

    #[tokio::test]
    async fn given_more_than_the_whole_budget_when_taken_then_it_is_all_of_it_and_never_waits_for_ever()
     {
        let gauge = Gauge::default();
        let budget = ByteBudget::new(100, gauge.clone());
        let _held = budget.take(1000).await;
        assert_eq!(gauge.get(), 100);
    }
}
