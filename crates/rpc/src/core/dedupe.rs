//! One execution per idempotency key.
//!
//! A caller that sends the same key again, because it does not know whether its call was carried out, gets the answer of
//! the first execution: it waits for one that runs, and an execution that ended left its answer here. Keys belong to the
//! caller and the method. What the caller means by a key is one request: another request under it is refused.
//!
//! Answers are kept for [`DedupeLimits::max_age`], as long as there is room. When the room of one caller or of all is
//! used up, the oldest answers go first: a caller that floods loses its own before anybody else's.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_identity::PeerId;

/// How much is remembered.
#[derive(Clone, Copy, Debug)]
pub struct DedupeLimits {
    /// Keys of all callers.
    pub max_entries: usize,
    /// Keys of one caller.
    pub max_entries_per_caller: usize,
    /// Bytes of all answers.
    pub max_bytes: usize,
    /// Bytes of one caller's answers. A single answer above it is not kept.
    pub max_bytes_per_caller: usize,
    /// How long an answer is kept.
    pub max_age: Duration,
}

impl Default for DedupeLimits {
    fn default() -> Self {
        Self {
            max_entries: 65_536,
            max_entries_per_caller: 8_192,
            max_bytes: 64 * 1024 * 1024,
            max_bytes_per_caller: 8 * 1024 * 1024,
            // Whoever tries again does so within minutes.
            max_age: Duration::from_secs(600),
        }
    }
}

/// Whose key, for what.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DedupeKey {
    /// The caller.
    pub caller: PeerId,
    /// The method's path.
    pub method: Arc<str>,
    /// The key.
    pub key: Arc<str>,
}

/// A digest of the request, so that another one under the same key is noticed.
pub type RequestDigest = [u8; 32];

/// What is to be done with a call that has a key.
#[derive(Debug, PartialEq, Eq)]
pub enum Begin<A> {
    /// Carry it out, then say [`Dedupe::complete`] or [`Dedupe::forget`].
    Run,
    /// It runs already; the waiter was taken and comes back with the answer.
    Wait,
    /// It was carried out: this is the answer.
    Answered(A),
    /// The key stands for another request.
    OtherRequest,
    /// The caller has as many calls with keys running as it may have.
    Full,
}

#[derive(Debug)]
struct Entry<A, W> {
    digest: RequestDigest,
    state: State<A, W>,
}

#[derive(Debug)]
enum State<A, W> {
    Running(Vec<W>),
    Answered {
        answer: A,
        bytes: usize,
        sequence: u64,
        at: Instant,
    },
}

#[derive(Debug, Default)]
struct Usage {
    entries: usize,
    bytes: usize,
}

/// The keys of all callers. `A` is an answer, `W` whoever waits for one.
#[derive(Debug)]
pub struct Dedupe<A, W> {
    limits: DedupeLimits,
    entries: BTreeMap<DedupeKey, Entry<A, W>>,
    /// Answered keys in the order of their answers.
    by_age: BTreeMap<u64, DedupeKey>,
    /// The same by caller.
    by_caller: BTreeSet<(PeerId, u64)>,
    usage: BTreeMap<PeerId, Usage>,
    bytes: usize,
    next_sequence: u64,
}

impl<A: Clone, W> Dedupe<A, W> {
    /// Nothing remembered yet.
    #[must_use]
    pub fn new(limits: DedupeLimits) -> Self {
        Self {
            limits,
            entries: BTreeMap::new(),
            by_age: BTreeMap::new(),
            by_caller: BTreeSet::new(),
            usage: BTreeMap::new(),
            bytes: 0,
            next_sequence: 0,
        }
    }

    /// Keys remembered, running ones included.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether nothing is remembered.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Bytes of the answers remembered.
    #[must_use]
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes a call. `waiter` is kept where the answer is [`Begin::Run`] or [`Begin::Wait`], and dropped otherwise.
    pub fn begin(
        &mut self,
        key: &DedupeKey,
        digest: RequestDigest,
        waiter: W,
        now: Instant,
    ) -> Begin<A> {
        self.expire(now);
        if let Some(entry) = self.entries.get_mut(key) {
            if entry.digest != digest {
                return Begin::OtherRequest;
            }
            return match &mut entry.state {
                State::Running(waiters) => {
                    waiters.push(waiter);
                    Begin::Wait
                }
                State::Answered { answer, .. } => Begin::Answered(answer.clone()),
            };
        }
        if !self.make_room(key.caller, 1, 0) {
            return Begin::Full;
        }
        let state = State::Running(vec![waiter]);
        self.entries.insert(key.clone(), Entry { digest, state });
        self.usage.entry(key.caller).or_default().entries += 1;
        Begin::Run
    }

    /// The execution ended: remembers the answer, of `bytes` bytes, and gives back who waits for it.
    pub fn complete(&mut self, key: &DedupeKey, answer: A, bytes: usize, now: Instant) -> Vec<W> {
        self.expire(now);
        let waiters = self.waiters_of(key);
        // An answer takes room beside its bytes too: its key and the tables.
        let fits = self.entries.contains_key(key) && self.make_room(key.caller, 0, bytes);
        let Some(entry) = self.entries.get_mut(key).filter(|_| fits) else {
            self.remove(key);
            return waiters;
        };
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        entry.state = State::Answered {
            answer,
            bytes,
            sequence,
            at: now,
        };
        self.by_age.insert(sequence, key.clone());
        self.by_caller.insert((key.caller, sequence));
        self.usage.entry(key.caller).or_default().bytes += bytes;
        self.bytes += bytes;
        waiters
    }

    /// The execution ended without any effect: the next call with the key is carried out. Gives back who waits.
    pub fn forget(&mut self, key: &DedupeKey) -> Vec<W> {
        let waiters = self.waiters_of(key);
        self.remove(key);
        waiters
    }

    fn waiters_of(&mut self, key: &DedupeKey) -> Vec<W> {
        match self.entries.get_mut(key).map(|entry| &mut entry.state) {
            Some(State::Running(waiters)) => std::mem::take(waiters),
            _ => Vec::new(),
        }
    }

    fn expire(&mut self, now: Instant) {
        while let Some(oldest) = self.by_age.first_entry() {
            match self.entries.get(oldest.get()).map(|entry| &entry.state) {
                Some(State::Answered { at, .. })
                    if now.saturating_duration_since(*at) < self.limits.max_age =>
                {
                    return;
                }
                _ => {
                    let key = oldest.remove();
                    self.remove(&key);
                }
            }
        }
    }

    /// Forgets oldest answers until `entries` and `bytes` more fit; `false` when they never will.
    fn make_room(&mut self, caller: PeerId, entries: usize, bytes: usize) -> bool {
        let limits = self.limits;
        while self.usage.get(&caller).is_some_and(|usage| {
            usage.entries + entries > limits.max_entries_per_caller
                || usage.bytes + bytes > limits.max_bytes_per_caller
        }) || bytes > limits.max_bytes_per_caller
        {
            let own = (
                Bound::Included((caller, 0)),
                Bound::Included((caller, u64::MAX)),
            );
            let oldest = self
                .by_caller
                .range(own)
                .next()
                .map(|(_, sequence)| *sequence);
            let Some(key) = oldest.and_then(|sequence| self.by_age.get(&sequence).cloned()) else {
                return false;
            };
            self.remove(&key);
        }
        while self.entries.len() + entries > limits.max_entries
            || self.bytes + bytes > limits.max_bytes
        {
            let Some(key) = self.by_age.values().next().cloned() else {
                return false;
            };
            self.remove(&key);
        }
        true
    }

    fn remove(&mut self, key: &DedupeKey) {
        let Some(entry) = self.entries.remove(key) else {
            return;
        };
        let mut freed = 0;
        if let State::Answered {
            bytes, sequence, ..
        } = entry.state
        {
            self.by_age.remove(&sequence);
            self.by_caller.remove(&(key.caller, sequence));
            freed = bytes;
        }
        self.bytes -= freed;
        if let Some(usage) = self.usage.get_mut(&key.caller) {
            usage.entries -= 1;
            usage.bytes -= freed;
            if usage.entries == 0 {
                self.usage.remove(&key.caller);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use proptest::prelude::*;
    use warren_identity::NodeKey;

    use super::*;

    const LIMITS: DedupeLimits = DedupeLimits {
        max_entries: 6,
        max_entries_per_caller: 4,
        max_bytes: 100,
        max_bytes_per_caller: 60,
        max_age: Duration::from_secs(10),
    };

    fn caller(number: u8) -> PeerId {
        NodeKey::from_seed([number; 32]).peer_id()
    }

    fn key(of: u8, name: &str) -> DedupeKey {
        DedupeKey {
            caller: caller(of),
            method: "Bank/Pay".into(),
            key: name.into(),
        }
    }

    fn answered(table: &mut Dedupe<u32, u32>, key: &DedupeKey, bytes: usize, now: Instant) {
        assert_eq!(table.begin(key, [1; 32], 0, now), Begin::Run);
        table.complete(key, 7, bytes, now);
    }

    #[test]
    fn given_a_key_that_runs_when_it_comes_again_then_it_waits_and_both_get_the_answer() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        let key = key(1, "a");
        assert_eq!(table.begin(&key, [1; 32], 10, now), Begin::Run);
        assert_eq!(table.begin(&key, [1; 32], 11, now), Begin::Wait);
        assert_eq!(table.complete(&key, 7, 4, now), [10, 11]);
        assert_eq!(table.begin(&key, [1; 32], 12, now), Begin::Answered(7));
    }

    #[test]
    fn given_another_request_under_the_key_then_it_is_refused_while_it_runs_and_afterwards() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        let key = key(1, "a");
        assert_eq!(table.begin(&key, [1; 32], 0, now), Begin::Run);
        assert_eq!(table.begin(&key, [2; 32], 0, now), Begin::OtherRequest);
        table.complete(&key, 7, 4, now);
        assert_eq!(table.begin(&key, [2; 32], 0, now), Begin::OtherRequest);
    }

    #[test]
    fn given_the_same_key_of_another_caller_or_method_then_it_is_another_key() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        answered(&mut table, &key(1, "a"), 1, now);
        answered(&mut table, &key(2, "a"), 1, now);
        let elsewhere = DedupeKey {
            method: "Bank/Refund".into(),
            ..key(1, "a")
        };
        answered(&mut table, &elsewhere, 1, now);
    }

    #[test]
    fn given_an_execution_without_effect_then_the_next_call_runs() {
        let mut table: Dedupe<u32, u32> = Dedupe::new(LIMITS);
        let now = Instant::now();
        assert_eq!(table.begin(&key(1, "a"), [1; 32], 5, now), Begin::Run);
        assert_eq!(table.forget(&key(1, "a")), [5]);
        assert_eq!(table.begin(&key(1, "a"), [1; 32], 0, now), Begin::Run);
    }

    #[test]
    fn given_an_answer_of_the_age_limit_then_it_is_forgotten() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        answered(&mut table, &key(1, "a"), 1, now);
        let later = now + LIMITS.max_age;
        assert_eq!(table.begin(&key(1, "a"), [1; 32], 0, later), Begin::Run);
    }

    #[test]
    fn given_a_caller_that_floods_then_it_loses_its_own_answers() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        answered(&mut table, &key(1, "kept"), 1, now);
        for name in 0..100 {
            answered(&mut table, &key(2, &name.to_string()), 1, now);
        }
        assert_eq!(table.len(), 5);
        assert_eq!(
            table.begin(&key(1, "kept"), [1; 32], 0, now),
            Begin::Answered(7)
        );
    }

    #[test]
    fn given_only_running_calls_at_the_limit_then_the_next_is_refused() {
        let mut table: Dedupe<u32, u32> = Dedupe::new(LIMITS);
        let now = Instant::now();
        for name in ["a", "b", "c", "d"] {
            assert_eq!(table.begin(&key(1, name), [1; 32], 0, now), Begin::Run);
        }
        assert_eq!(table.begin(&key(1, "e"), [1; 32], 0, now), Begin::Full);
        assert_eq!(table.begin(&key(2, "e"), [1; 32], 0, now), Begin::Run);
    }

    #[test]
    fn given_an_answer_beyond_the_bytes_then_waiters_get_it_and_it_is_not_kept() {
        let mut table = Dedupe::new(LIMITS);
        let now = Instant::now();
        assert_eq!(table.begin(&key(1, "a"), [1; 32], 3, now), Begin::Run);
        assert_eq!(table.complete(&key(1, "a"), 7, 61, now), [3]);
        assert!(table.is_empty());
    }

    proptest! {
        #[test]
        fn given_any_calls_then_the_limits_hold_and_nothing_is_left_in_the_end(
            steps in prop::collection::vec((0_u8..3, 0_u8..8, 0_usize..70, 0_u64..4, any::<bool>()), 0..200),
        ) {
            let mut table: Dedupe<u32, u32> = Dedupe::new(LIMITS);
            let mut now = Instant::now();
            for (of, name, bytes, seconds, completes) in steps {
                now += Duration::from_secs(seconds);
                let key = key(of, &name.to_string());
                if table.begin(&key, [1; 32], 0, now) == Begin::Run {
                    if completes {
                        table.complete(&key, 7, bytes, now);
                    } else {
                        table.forget(&key);
                    }
                }
                prop_assert!(table.len() <= LIMITS.max_entries && table.bytes() <= LIMITS.max_bytes);
            }
            table.expire(now + LIMITS.max_age);
            prop_assert!(table.is_empty() && table.usage.is_empty() && table.by_caller.is_empty());
            prop_assert_eq!(table.bytes(), 0);
        }
    }
}
