//! Waiting for a condition with a deadline, instead of sleeping and hoping.

use std::future::Future;
use std::time::{Duration, Instant};

/// How often a condition is looked at: short against what a network does, long against what a look costs.
const LOOK_EVERY: Duration = Duration::from_millis(10);

/// Waits until `condition` holds; it is looked at once more when the time is over.
///
/// # Panics
/// At the caller's line when `condition` does not hold `within` that time.
#[track_caller]
pub fn eventually(within: Duration, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    loop {
        let last = Instant::now() >= deadline;
        if condition() {
            return;
        }
        assert!(!last, "the condition did not hold within {within:?}");
        std::thread::sleep(LOOK_EVERY);
    }
}

/// [`eventually`] for a condition that awaits. A look that hangs is cut off at the deadline. Cancellation safe as far
/// as `condition` is.
///
/// # Errors
/// [`tokio::time::error::Elapsed`] when `condition` does not hold `within` that time.
pub async fn eventually_async<F, Fut>(
    within: Duration,
    mut condition: F,
) -> Result<(), tokio::time::error::Elapsed>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    tokio::time::timeout(within, async {
        while !condition().await {
            tokio::time::sleep(LOOK_EVERY).await;
        }
    })
    .await
}
