//! The fetch planner: which block is asked of which provider, and what happens when that does not work.
//!
//! One planner serves one retrieval. It owns no socket, clock or task. Its driver tells it what happened and does what
//! it says:
//!
//! 1. call [`want`](FetchPlanner::want) for blocks in the order their reader needs them, `handle_*` for whatever
//!    happened, and [`handle_timeout`](FetchPlanner::handle_timeout) when the instant of
//!    [`poll_timeout`](FetchPlanner::poll_timeout) has passed;
//! 2. then drain [`poll_event`](FetchPlanner::poll_event) and [`poll_transmit`](FetchPlanner::poll_transmit) until
//!    both return `None`.
//!
//! Rules it keeps:
//!
//! * **Order.** The lowest ticket not yet verified is always next. Later blocks are asked for only while the window
//!   has room.
//! * **Window.** Bytes asked for, plus bytes verified and not yet [released](FetchPlanner::release), stay within
//!   [`FetchLimits::window_bytes`]. Only the head (the lowest unreleased ticket) may exceed it, by at most two blocks of
//!   the largest size, so a full window can never block the very block its reader waits for.
//! * **No answer is larger than its share of the window.** Every request carries the most bytes its answer may have.
//!   Where an answer announces more, either the peer lies or the manifest that gave the size does: nothing is kept of it,
//!   and the block is asked for once more as one of the largest size ([`FetchPlanner::handle_oversized`]). Then the hash
//!   tells who lied.
//! * **Several providers at once**, each as deep as its measured rate deserves; the one that would be done first gets
//!   the block.
//! * **Failure is local.** A block that a provider lacks, refuses, is too slow with, or disconnects over, goes to
//!   another; a provider that sends a wrong block is dropped and not taken back. A head that is overdue is asked of a
//!   second provider as well.
//! * **Asking ends.** When no known provider can help, more are asked for ([`Event::NeedProviders`]), a bounded number
//!   of times; then [`Event::Failed`] names the block and what was tried.
//!
//! A block counts as had only through [`handle_block`](FetchPlanner::handle_block) or
//! [`handle_local`](FetchPlanner::handle_local), which the driver calls after it has verified the bytes.

mod provider;
mod types;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::{Duration, Instant};

use self::provider::{Entry, Flight, Phase, Provider, Standing};
pub use self::types::{
    DropReason, Event, Failure, FetchFailure, FetchLimits, Ticket, TimeoutReason, Transmit, Verdict,
};
use crate::core::block::MAX_BLOCK_BYTES;
use crate::core::id::BlockId;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Search {
    Idle,
    Running,
    PausedUntil(Instant),
}

/// See the [module](self) for the calling order. `P` names a provider.
#[derive(Debug)]
pub struct FetchPlanner<P> {
    limits: FetchLimits,
    entries: BTreeMap<Ticket, Entry<P>>,
    /// Waiting blocks that some usable provider may have.
    queued: BTreeSet<Ticket>,
    /// Waiting blocks that no usable provider has.
    starved: BTreeSet<Ticket>,
    providers: BTreeMap<P, Provider>,
    events: VecDeque<Event<P>>,
    outstanding_bytes: u64,
    /// Requests in flight, those for blocks that came from elsewhere meanwhile included.
    in_flight: usize,
    /// Entries in phase `InFlight`.
    asked: usize,
    /// Entries in phase `Elsewhere`.
    elsewhere: usize,
    search: Search,
    fruitless_searches: u32,
    last_gain: Instant,
    failed: bool,
}

impl<P: Clone + Ord> FetchPlanner<P> {
    /// A planner that wants nothing and knows nobody.
    #[must_use]
    pub fn new(limits: FetchLimits, now: Instant) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            queued: BTreeSet::new(),
            starved: BTreeSet::new(),
            providers: BTreeMap::new(),
            events: VecDeque::new(),
            outstanding_bytes: 0,
            in_flight: 0,
            asked: 0,
            elsewhere: 0,
            search: Search::Idle,
            fruitless_searches: 0,
            last_gain: now,
            failed: false,
        }
    }

    /// Adds a block at the place its ticket gives it. `size` is its plain size in bytes, or the best guess.
    pub fn want(&mut self, ticket: Ticket, block: BlockId, size: u32, now: Instant) {
        debug_assert!(
            !self.entries.contains_key(&ticket),
            "a ticket names one block at a time"
        );
        if self.unfinished() == 0 {
            self.last_gain = now;
        }
        let size = u64::from(size.clamp(1, MAX_BLOCK_BYTES));
        self.entries.insert(
            ticket,
            Entry {
                block,
                size,
                phase: Phase::Waiting,
                tried: BTreeMap::new(),
            },
        );
        self.enqueue(ticket);
        self.review(now);
    }

    /// Blocks wanted and not yet verified.
    #[must_use]
    pub fn unfinished(&self) -> usize {
        self.queued.len() + self.starved.len() + self.elsewhere + self.asked
    }

    /// Bytes asked for, plus bytes verified and not released.
    #[must_use]
    pub fn outstanding_bytes(&self) -> u64 {
        self.outstanding_bytes
    }

    /// Whether a new connection to `peer` would be of use: it is not connected, was never caught lying and has not
    /// used up its connections.
    #[must_use]
    pub fn may_connect(&self, peer: &P) -> bool {
        self.providers.get(peer).is_none_or(|provider| {
            provider.standing == Standing::Gone
                && provider.connections < self.limits.connections_per_provider
        })
    }

    /// A provider is connected. Returns whether it will be used; if not, see [`Self::may_connect`].
    pub fn handle_provider(&mut self, peer: P, now: Instant) -> bool {
        if !self.may_connect(&peer) {
            return false;
        }
        let provider = self
            .providers
            .entry(peer)
            .or_insert_with(|| Provider::unconnected(now));
        provider.standing = Standing::Ready;
        provider.connections += 1;
        self.fruitless_searches = 0;
        for ticket in std::mem::take(&mut self.starved) {
            self.enqueue(ticket);
        }
        self.review(now);
        true
    }

    /// The search asked for by [`Event::NeedProviders`] is over.
    pub fn handle_search_finished(&mut self, now: Instant) {
        if self.starved.is_empty() {
            self.search = Search::Idle;
            self.fruitless_searches = 0;
        } else {
            let pause =
                self.limits.search_pause * 2u32.saturating_pow(self.fruitless_searches.min(8));
            self.fruitless_searches += 1;
            let exhausted = self.fruitless_searches >= self.limits.search_rounds;
            self.search = if exhausted {
                Search::Idle
            } else {
                Search::PausedUntil(now + pause)
            };
        }
        self.review(now);
    }

    /// Bytes came in from `peer` at `at`, which may lie in the past.
    pub fn handle_progress(&mut self, peer: &P, at: Instant) {
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.last_progress = provider.last_progress.max(at);
        }
    }

    /// All bytes of an answer are here, `size` of them when decoded; verification has yet to say what they are.
    pub fn handle_arrived(&mut self, peer: &P, ticket: Ticket, size: u32, now: Instant) {
        let Some(provider) = self.providers.get_mut(peer) else {
            return;
        };
        provider.last_progress = now;
        if let Some(flight) = provider.flights.get_mut(&ticket) {
            flight.arrived = true;
            provider.rate.add(u64::from(size), now);
        }
    }

    /// `peer` answered with the right bytes, `size` of them when decoded.
    pub fn handle_block(&mut self, peer: &P, ticket: Ticket, size: u32, now: Instant) -> Verdict {
        self.land(peer, ticket);
        let verdict = self.accept(ticket, size, now);
        if verdict == Verdict::Accepted
            && let Some(provider) = self.providers.get_mut(peer)
        {
            // Who delivers may come and go: a slow reader lets connections idle until they close.
            provider.connections = provider.connections.min(1);
        }
        verdict
    }

    /// The block was had without a provider (from the local store, or from another retrieval).
    pub fn handle_local(&mut self, ticket: Ticket, size: u32, now: Instant) -> Verdict {
        self.accept(ticket, size, now)
    }

    /// `peer` answered with other bytes than asked for. It is dropped for good.
    pub fn handle_wrong_block(&mut self, peer: &P, ticket: Ticket, now: Instant) {
        self.miss(peer, ticket, Failure::WrongBlock);
        let block = self.entries.get(&ticket).map(|entry| entry.block);
        if let Some(block) = block {
            self.drop_provider(peer, Standing::Banned, Failure::Disconnected);
            self.events.push_back(Event::Dropped {
                peer: peer.clone(),
                reason: DropReason::WrongBlock { block },
            });
        }
        self.review(now);
    }

    /// `peer` does not hold the block.
    pub fn handle_not_found(&mut self, peer: &P, ticket: Ticket, now: Instant) {
        self.miss(peer, ticket, Failure::NotFound);
        self.review(now);
    }

    /// `peer` refused the request.
    pub fn handle_refused(&mut self, peer: &P, ticket: Ticket, code: u16, now: Instant) {
        self.miss(peer, ticket, Failure::Refused(code));
        self.review(now);
    }

    /// `peer` announced more bytes than [`Transmit::max_bytes`]; nothing of them was kept. Nobody is blamed: the block is
    /// asked for again, of anybody, with room for the largest.
    pub fn handle_oversized(&mut self, peer: &P, ticket: Ticket, now: Instant) {
        self.handle_progress(peer, now);
        self.land(peer, ticket);
        if let Some(entry) = self.entries.get_mut(&ticket)
            && entry.phase != Phase::Verified
        {
            entry.size = u64::from(MAX_BLOCK_BYTES);
        }
        self.give_back(ticket);
        self.review(now);
    }

    /// `peer` wants to be left alone for a while. Its other requests stay in flight.
    pub fn handle_busy(&mut self, peer: &P, ticket: Ticket, retry_after: Duration, now: Instant) {
        if let Some(provider) = self.providers.get_mut(peer) {
            provider.last_progress = now;
            if provider.standing == Standing::Ready {
                provider.standing =
                    Standing::Backoff(now + retry_after.min(self.limits.max_backoff));
            }
        }
        self.land(peer, ticket);
        self.give_back(ticket);
        self.review(now);
    }

    /// The connection to `peer` ended. Answers that had [arrived](Self::handle_arrived) are still expected from
    /// verification.
    pub fn handle_disconnected(&mut self, peer: &P, now: Instant) {
        self.drop_provider(peer, Standing::Gone, Failure::Disconnected);
        self.review(now);
    }

    /// Another retrieval of this process is already fetching the block asked of `peer`: do not ask.
    pub fn handle_elsewhere(&mut self, peer: &P, ticket: Ticket, now: Instant) {
        self.land(peer, ticket);
        if let Some(entry) = self.entries.get_mut(&ticket)
            && entry.phase == Phase::InFlight(0)
        {
            entry.phase = Phase::Elsewhere;
            self.asked -= 1;
            self.elsewhere += 1;
            self.last_gain = now;
        }
    }

    /// The other retrieval gave the block up: it is this planner's to ask for.
    pub fn handle_elsewhere_abandoned(&mut self, ticket: Ticket, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&ticket)
            && entry.phase == Phase::Elsewhere
        {
            entry.phase = Phase::Waiting;
            self.elsewhere -= 1;
            self.enqueue(ticket);
        }
        self.review(now);
    }

    /// The reader has taken the block: its bytes leave the window and its ticket is forgotten.
    pub fn release(&mut self, ticket: Ticket, now: Instant) {
        let Some(entry) = self.entries.get(&ticket) else {
            return;
        };
        if entry.phase == Phase::Verified {
            self.outstanding_bytes = self.outstanding_bytes.saturating_sub(entry.size);
            self.entries.remove(&ticket);
            self.last_gain = now;
        }
    }

    /// Time has passed: takes back what is overdue.
    pub fn handle_timeout(&mut self, now: Instant) {
        let peers: Vec<P> = self.providers.keys().cloned().collect();
        for peer in peers {
            self.check_provider(&peer, now);
        }
        if let Search::PausedUntil(until) = self.search
            && until <= now
        {
            self.search = Search::Idle;
        }
        self.review(now);
    }

    /// The next instant at which [`Self::handle_timeout`] has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        if self.failed {
            return None;
        }
        let mut due: Vec<(Instant, TimeoutReason)> = Vec::new();
        for provider in self.providers.values() {
            if let Standing::Backoff(until) = provider.standing {
                due.push((until, TimeoutReason::Backoff));
            }
            if let Some(first) = provider
                .flights
                .values()
                .filter(|flight| !flight.arrived)
                .map(|f| f.sent_at)
                .min()
            {
                due.push((
                    provider.last_progress.max(first) + self.limits.stall_timeout,
                    TimeoutReason::Stall,
                ));
                due.push((first + self.limits.request_timeout, TimeoutReason::Request));
            }
        }
        if let Some(at) = self.hedge_due() {
            due.push((at, TimeoutReason::Hedge));
        }
        if let (Search::PausedUntil(until), false) = (self.search, self.starved.is_empty()) {
            due.push((until, TimeoutReason::Search));
        }
        if self.head_is_missing() {
            due.push((
                self.last_gain + self.limits.patience,
                TimeoutReason::Patience,
            ));
        }
        due.into_iter().min_by_key(|(at, _)| *at)
    }

    /// The next request to send, if any.
    pub fn poll_transmit(&mut self, now: Instant) -> Option<Transmit<P>> {
        if self.failed {
            return None;
        }
        let head = self.entries.keys().next().copied()?;
        if let Some(peer) = self.hedge_choice(head, now) {
            return self.send(peer, head, now);
        }
        let mut choice = None;
        for &ticket in &self.queued {
            let entry = self.entries.get(&ticket)?;
            let fits = self.outstanding_bytes + entry.size <= self.limits.window_bytes
                && self.in_flight < self.limits.window_blocks;
            if !fits && ticket != head {
                break;
            }
            if let Some(peer) = self.best_provider(entry, now) {
                choice = Some((peer, ticket));
                break;
            }
            if !self
                .providers
                .values()
                .any(|provider| provider.has_room(1, &self.limits, now))
            {
                break;
            }
        }
        let (peer, ticket) = choice?;
        self.send(peer, ticket, now)
    }

    /// The next thing to act on, if any.
    pub fn poll_event(&mut self) -> Option<Event<P>> {
        self.events.pop_front()
    }

    fn send(&mut self, peer: P, ticket: Ticket, now: Instant) -> Option<Transmit<P>> {
        let is_head = self.entries.keys().next() == Some(&ticket);
        let entry = self.entries.get_mut(&ticket)?;
        let provider = self.providers.get_mut(&peer)?;
        if provider.flights.values().all(|flight| flight.arrived) {
            provider.last_progress = now;
            provider.rate.start(now);
        }
        provider.standing = Standing::Ready;
        let expected = provider
            .rate
            .time_for(provider.bytes_in_flight + entry.size);
        let overdue_at = now + self.limits.hedge_after.max(expected * 3);
        provider.bytes_in_flight += entry.size;
        provider.flights.insert(
            ticket,
            Flight {
                size: entry.size,
                sent_at: now,
                overdue_at,
                arrived: false,
            },
        );
        entry.phase = match entry.phase {
            Phase::InFlight(copies) => Phase::InFlight(copies + 1),
            _ => {
                self.asked += 1;
                Phase::InFlight(1)
            }
        };
        self.queued.remove(&ticket);
        self.outstanding_bytes += entry.size;
        self.in_flight += 1;
        // Sizes were clamped to a block's limit when the block was wanted.
        let size = u32::try_from(entry.size).unwrap_or(MAX_BLOCK_BYTES);
        Some(Transmit {
            peer,
            ticket,
            block: entry.block,
            max_bytes: if is_head { MAX_BLOCK_BYTES } else { size },
        })
    }

    /// Removes a flight from its provider and from the window.
    fn land(&mut self, peer: &P, ticket: Ticket) -> bool {
        let Some(provider) = self.providers.get_mut(peer) else {
            return false;
        };
        let Some(flight) = provider.flights.remove(&ticket) else {
            return false;
        };
        provider.bytes_in_flight = provider.bytes_in_flight.saturating_sub(flight.size);
        self.outstanding_bytes = self.outstanding_bytes.saturating_sub(flight.size);
        self.in_flight = self.in_flight.saturating_sub(1);
        if let Some(Entry {
            phase: Phase::InFlight(copies),
            ..
        }) = self.entries.get_mut(&ticket)
        {
            *copies = copies.saturating_sub(1);
        }
        true
    }

    /// Puts a block with no copy in flight back in line.
    fn give_back(&mut self, ticket: Ticket) {
        if let Some(entry) = self.entries.get_mut(&ticket)
            && entry.phase == Phase::InFlight(0)
        {
            entry.phase = Phase::Waiting;
            self.asked -= 1;
            self.enqueue(ticket);
        }
    }

    fn accept(&mut self, ticket: Ticket, size: u32, now: Instant) -> Verdict {
        let Some(entry) = self.entries.get_mut(&ticket) else {
            return Verdict::Duplicate;
        };
        match entry.phase {
            Phase::Verified => return Verdict::Duplicate,
            Phase::Waiting => {
                self.queued.remove(&ticket);
                self.starved.remove(&ticket);
            }
            Phase::Elsewhere => self.elsewhere -= 1,
            Phase::InFlight(_) => self.asked -= 1,
        }
        entry.phase = Phase::Verified;
        entry.size = u64::from(size);
        self.outstanding_bytes += entry.size;
        self.last_gain = now;
        Verdict::Accepted
    }

    fn miss(&mut self, peer: &P, ticket: Ticket, failure: Failure) {
        self.land(peer, ticket);
        if let Some(entry) = self.entries.get_mut(&ticket) {
            let count = entry.tried.get(peer).map_or(0, |(_, count)| *count);
            entry.tried.insert(peer.clone(), (failure, count + 1));
        }
        self.give_back(ticket);
    }

    fn drop_provider(&mut self, peer: &P, standing: Standing, failure: Failure) {
        let Some(provider) = self.providers.get_mut(peer) else {
            return;
        };
        if provider.standing != Standing::Banned {
            provider.standing = standing;
        }
        let owed: Vec<Ticket> = provider
            .flights
            .iter()
            .filter(|(_, flight)| !flight.arrived)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in owed {
            self.miss(peer, ticket, failure);
        }
        for ticket in std::mem::take(&mut self.queued) {
            self.enqueue(ticket);
        }
    }

    fn check_provider(&mut self, peer: &P, now: Instant) {
        let Some(provider) = self.providers.get_mut(peer) else {
            return;
        };
        if let Standing::Backoff(until) = provider.standing
            && until <= now
        {
            provider.standing = Standing::Ready;
        }
        let owed = || {
            provider
                .flights
                .iter()
                .filter(|(_, flight)| !flight.arrived)
        };
        let Some(first) = owed().map(|(_, flight)| flight.sent_at).min() else {
            return;
        };
        if provider.last_progress.max(first) + self.limits.stall_timeout <= now {
            self.drop_provider(peer, Standing::Gone, Failure::TimedOut);
            self.events.push_back(Event::Dropped {
                peer: peer.clone(),
                reason: DropReason::Stalled,
            });
            return;
        }
        let overdue: Vec<Ticket> = owed()
            .filter(|(_, flight)| flight.sent_at + self.limits.request_timeout <= now)
            .map(|(ticket, _)| *ticket)
            .collect();
        for ticket in overdue {
            self.miss(peer, ticket, Failure::TimedOut);
        }
    }

    fn enqueue(&mut self, ticket: Ticket) {
        let Some(entry) = self.entries.get(&ticket) else {
            return;
        };
        let prospects = self
            .providers
            .iter()
            .any(|(peer, provider)| provider.is_usable() && entry.may_ask(peer));
        if prospects {
            self.queued.insert(ticket);
        } else {
            self.starved.insert(ticket);
        }
    }

    /// Asks for providers, or gives up, where blocks are starved.
    fn review(&mut self, now: Instant) {
        if self.failed {
            return;
        }
        let waiting_on_somebody = self.asked > 0 || self.elsewhere > 0 || !self.queued.is_empty();
        if self.head_is_missing() && self.last_gain + self.limits.patience <= now {
            self.fail();
        } else if !self.starved.is_empty() && self.search == Search::Idle {
            if self.fruitless_searches < self.limits.search_rounds {
                self.search = Search::Running;
                self.events.push_back(Event::NeedProviders);
            } else if !waiting_on_somebody {
                self.fail();
            }
        }
    }

    /// Whether the reader waits for a block that this planner is to get.
    fn head_is_missing(&self) -> bool {
        let head = self.entries.values().next();
        head.is_some_and(|entry| matches!(entry.phase, Phase::Waiting | Phase::InFlight(_)))
    }

    fn fail(&mut self) {
        self.failed = true;
        let unfinished = |entry: &&Entry<P>| !matches!(entry.phase, Phase::Verified);
        let starved = self
            .starved
            .first()
            .and_then(|ticket| self.entries.get(ticket));
        if let Some(entry) = starved.or_else(|| self.entries.values().find(unfinished)) {
            let tried = entry
                .tried
                .iter()
                .map(|(peer, (failure, _))| (peer.clone(), *failure))
                .collect();
            self.events.push_back(Event::Failed(FetchFailure {
                block: entry.block,
                tried,
            }));
        }
    }

    fn best_provider(&self, entry: &Entry<P>, now: Instant) -> Option<P> {
        self.providers
            .iter()
            .filter(|(peer, provider)| {
                provider.has_room(entry.size, &self.limits, now) && entry.may_ask(peer)
            })
            .min_by_key(|(_, provider)| {
                provider
                    .rate
                    .time_for(provider.bytes_in_flight + entry.size)
            })
            .map(|(peer, _)| peer.clone())
    }

    /// When the head's only copy becomes overdue, if somebody else could be asked for it now.
    fn hedge_due(&self) -> Option<Instant> {
        let (ticket, entry) = self.entries.iter().next()?;
        // One copy too many at a time: what a hedge left behind must land before the next.
        if entry.phase != Phase::InFlight(1) || self.in_flight > self.asked {
            return None;
        }
        let flight = self
            .providers
            .values()
            .find_map(|provider| provider.flights.get(ticket))?;
        let other = self.providers.iter().any(|(peer, provider)| {
            provider.standing == Standing::Ready
                && provider.has_room(entry.size, &self.limits, flight.sent_at)
                && !provider.flights.contains_key(ticket)
                && entry.may_ask(peer)
        });
        (other && !flight.arrived).then_some(flight.overdue_at)
    }

    fn hedge_choice(&self, head: Ticket, now: Instant) -> Option<P> {
        self.hedge_due().filter(|at| *at <= now)?;
        let entry = self.entries.get(&head)?;
        self.providers
            .iter()
            .filter(|(peer, provider)| !provider.flights.contains_key(&head) && entry.may_ask(peer))
            .filter(|(_, provider)| provider.has_room(entry.size, &self.limits, now))
            .min_by_key(|(_, provider)| {
                provider
                    .rate
                    .time_for(provider.bytes_in_flight + entry.size)
            })
            .map(|(peer, _)| peer.clone())
    }
}

#[cfg(test)]
mod tests;
