//! The planner's view of one wanted block and of one provider.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use super::types::{Failure, FetchLimits, Ticket};
use crate::core::id::BlockId;

/// Time-outs and disconnects of one block at one provider before it is not asked again.
const TRIES_PER_PROVIDER: u32 = 2;

#[derive(Debug)]
pub(super) struct Entry<P> {
    pub(super) block: BlockId,
    pub(super) size: u64,
    pub(super) phase: Phase,
    pub(super) tried: BTreeMap<P, (Failure, u32)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// In `queued` or `starved`.
    Waiting,
    /// Asked of this many providers.
    InFlight(u32),
    /// Another retrieval of this process fetches it.
    Elsewhere,
    /// Verified, held until released.
    Verified,
}

#[derive(Debug)]
pub(super) struct Flight {
    pub(super) size: u64,
    pub(super) sent_at: Instant,
    pub(super) overdue_at: Instant,
    /// All bytes are here and wait for verification; the provider owes nothing.
    pub(super) arrived: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Standing {
    Ready,
    Backoff(Instant),
    Gone,
    Banned,
}

#[derive(Debug)]
pub(super) struct Provider {
    pub(super) standing: Standing,
    pub(super) connections: u32,
    pub(super) flights: BTreeMap<Ticket, Flight>,
    pub(super) bytes_in_flight: u64,
    pub(super) last_progress: Instant,
    pub(super) rate: Rate,
}

/// Bytes per second a provider delivers while it has something to deliver.
#[derive(Debug)]
pub(super) struct Rate {
    pub(super) bytes_per_second: Option<u64>,
    pub(super) sample_start: Instant,
    pub(super) sample_bytes: u64,
}

impl Rate {
    /// Shorter samples say more about scheduling than about the path.
    const SAMPLE: Duration = Duration::from_millis(50);
    /// Assumed for a provider nobody measured: low enough that a measured good one is preferred.
    const UNKNOWN: u64 = 4 * 1024 * 1024;

    pub(super) fn get(&self) -> u64 {
        self.bytes_per_second.unwrap_or(Self::UNKNOWN).max(1)
    }

    pub(super) fn start(&mut self, now: Instant) {
        self.sample_start = now;
        self.sample_bytes = 0;
    }

    pub(super) fn add(&mut self, bytes: u64, now: Instant) {
        self.sample_bytes += bytes;
        let elapsed = now.saturating_duration_since(self.sample_start);
        if elapsed >= Self::SAMPLE {
            let measured =
                (u128::from(self.sample_bytes) * 1_000_000 / elapsed.as_micros().max(1)) as u64;
            self.bytes_per_second = Some(match self.bytes_per_second {
                None => measured,
                Some(before) => (before * 3 + measured) / 4,
            });
            self.start(now);
        }
    }

    pub(super) fn time_for(&self, bytes: u64) -> Duration {
        Duration::from_micros((u128::from(bytes) * 1_000_000 / u128::from(self.get())) as u64)
    }
}

impl<P: Ord> Entry<P> {
    pub(super) fn may_ask(&self, peer: &P) -> bool {
        match self.tried.get(peer) {
            None => true,
            Some((Failure::TimedOut | Failure::Disconnected, count)) => *count < TRIES_PER_PROVIDER,
            Some(_) => false,
        }
    }
}

impl Provider {
    pub(super) fn unconnected(now: Instant) -> Self {
        Self {
            standing: Standing::Gone,
            connections: 0,
            flights: BTreeMap::new(),
            bytes_in_flight: 0,
            last_progress: now,
            rate: Rate {
                bytes_per_second: None,
                sample_start: now,
                sample_bytes: 0,
            },
        }
    }

    pub(super) fn is_usable(&self) -> bool {
        matches!(self.standing, Standing::Ready | Standing::Backoff(_))
    }

    pub(super) fn has_room(&self, size: u64, limits: &FetchLimits, now: Instant) -> bool {
        let ready = match self.standing {
            Standing::Ready => true,
            Standing::Backoff(until) => until <= now,
            Standing::Gone | Standing::Banned => false,
        };
        // One second of its own rate: deep enough for any path, shallow enough that a slow one does not sit on the head.
        let budget = self
            .rate
            .bytes_per_second
            .unwrap_or(0)
            .max(limits.provider_first_bytes);
        ready
            && self.flights.len() < limits.provider_blocks
            && (self.flights.is_empty() || self.bytes_in_flight + size <= budget)
    }
}
