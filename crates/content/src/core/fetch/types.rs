//! What goes into the planner and what comes out of it.

use std::fmt;
use std::time::Duration;

use crate::core::id::BlockId;

/// Bounds and patience of one retrieval.
#[derive(Clone, Debug)]
pub struct FetchLimits {
    /// Bytes asked for or verified but not yet released. Four of the largest blocks by default: deep enough for
    /// 1 GB/s at 16 ms, small enough to hold in memory for several readers.
    pub window_bytes: u64,
    /// Requests in flight over all providers; for small blocks, which the byte window hardly bounds.
    pub window_blocks: usize,
    /// Requests in flight at one provider. Stays below what a server queues before it answers `Busy`.
    pub provider_blocks: usize,
    /// Bytes in flight at a provider whose rate is not known yet, and the least any provider gets.
    pub provider_first_bytes: u64,
    /// A provider with unanswered requests that sends nothing for this long is dropped.
    pub stall_timeout: Duration,
    /// A request unanswered for this long is taken back although its provider answers others.
    pub request_timeout: Duration,
    /// The head is asked of a second provider when it is this late, and three times later than expected.
    pub hedge_after: Duration,
    /// Longest wait a provider's `Busy` can impose.
    pub max_backoff: Duration,
    /// Pause after the first fruitless search for providers; doubles with each.
    pub search_pause: Duration,
    /// Fruitless searches before the retrieval fails.
    pub search_rounds: u32,
    /// The retrieval fails when its head is missing and no block was verified or released for this long.
    pub patience: Duration,
    /// Connections to the same provider without a good block between them.
    pub connections_per_provider: u32,
}

impl Default for FetchLimits {
    fn default() -> Self {
        Self {
            window_bytes: 16 * 1024 * 1024,
            window_blocks: 1024,
            provider_blocks: 512,
            provider_first_bytes: 8 * 1024 * 1024,
            stall_timeout: Duration::from_secs(10),
            request_timeout: Duration::from_secs(120),
            hedge_after: Duration::from_secs(2),
            max_backoff: Duration::from_secs(10),
            search_pause: Duration::from_secs(1),
            search_rounds: 3,
            patience: Duration::from_secs(150),
            connections_per_provider: 3,
        }
    }
}

/// Names one wanted block. The driver chooses it, unique among the tickets not released; lower ones are more urgent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ticket(pub u64);

/// Ask `peer` for `block`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Transmit<P> {
    /// Provider to ask.
    pub peer: P,
    /// Ticket to name in the `handle_*` call that reports the outcome.
    pub ticket: Ticket,
    /// Block to ask for.
    pub block: BlockId,
    /// Most plain bytes the answer may have. One that announces more is not to be kept, but reported to
    /// [`handle_oversized`](super::FetchPlanner::handle_oversized).
    pub max_bytes: u32,
}

/// What the driver must act on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event<P> {
    /// Look for (more) providers: report each with
    /// [`handle_provider`](super::FetchPlanner::handle_provider), then call
    /// [`handle_search_finished`](super::FetchPlanner::handle_search_finished) once. Not repeated before that.
    NeedProviders,
    /// Nothing more will be asked of this provider: close its connection if nobody else uses it.
    Dropped {
        /// The provider.
        peer: P,
        /// Why.
        reason: DropReason,
    },
    /// The retrieval cannot be completed. No further transmits or events follow.
    Failed(FetchFailure<P>),
}

/// Why a provider was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// It sent bytes that are not the block asked for. It is never taken back in this retrieval.
    WrongBlock {
        /// Block it was asked for.
        block: BlockId,
    },
    /// It sent nothing for [`FetchLimits::stall_timeout`] with requests unanswered.
    Stalled,
}

/// How asking one provider for one block ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// It does not hold the block.
    #[error("does not hold it")]
    NotFound,
    /// It refused with this code.
    #[error("refused ({0})")]
    Refused(u16),
    /// It did not answer in time.
    #[error("did not answer in time")]
    TimedOut,
    /// The connection ended before the block was whole.
    #[error("disconnected")]
    Disconnected,
    /// It sent something else.
    #[error("sent a wrong block")]
    WrongBlock,
}

/// The block that could not be had, and what was tried for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchFailure<P> {
    /// The most urgent block that could not be had.
    pub block: BlockId,
    /// Each provider asked for it, with the last outcome.
    pub tried: Vec<(P, Failure)>,
}

impl<P: fmt::Display> fmt::Display for FetchFailure<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "block {} could not be had: ", self.block)?;
        if self.tried.is_empty() {
            return f.write_str("no connected peer offers it");
        }
        for (index, (peer, failure)) in self.tried.iter().enumerate() {
            let separator = if index == 0 { "" } else { "; " };
            write!(f, "{separator}{peer} {failure}")?;
        }
        Ok(())
    }
}

/// What [`poll_timeout`](super::FetchPlanner::poll_timeout) waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TimeoutReason {
    /// A provider has been silent too long.
    Stall,
    /// A single request is overdue.
    Request,
    /// The head may be asked of a second provider.
    Hedge,
    /// A busy provider may be asked again.
    Backoff,
    /// The next search for providers is due.
    Search,
    /// Patience with the whole retrieval ends.
    Patience,
}

/// What became of a verified block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// First good copy: pass it on.
    Accepted,
    /// Already had from elsewhere, or no longer wanted: drop it.
    Duplicate,
}
