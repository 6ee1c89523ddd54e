//! When to dial whom again: exponential back-off with jitter, per target.
//!
//! Targets are bootstrap peers and members we once knew. A target that stays connected costs
//! nothing; one that fails is tried again after a delay that doubles from [`RedialPolicy::first`]
//! to [`RedialPolicy::longest`], each time shortened by up to half at random, so that a mesh that
//! lost its power does not come back in lockstep. A refusal by the other side waits for
//! [`RedialPolicy::after_refusal`] at once, since nothing changes until a person does something.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// Delays between attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RedialPolicy {
    /// Before the second attempt.
    pub first: Duration,
    /// No delay is longer.
    pub longest: Duration,
    /// After the other side, or we, refused membership.
    pub after_refusal: Duration,
}

impl Default for RedialPolicy {
    /// One second, so that a restart of the peer is hardly noticed; five minutes, so that a mesh
    /// of 500 with a dead site does not fill its logs; ten minutes after a refusal.
    fn default() -> Self {
        Self {
            first: Duration::from_secs(1),
            longest: Duration::from_secs(300),
            after_refusal: Duration::from_secs(600),
        }
    }
}

/// The most targets kept; beyond it the newest is not taken.
const MAX_TARGETS: usize = 16_384;

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Nobody answered, or the network failed.
    Unreachable,
    /// Membership was refused.
    Refused,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// To be dialled at this time.
    Due(Instant),
    /// A dial is under way.
    Dialing,
    Connected,
}

#[derive(Debug, Clone, Copy)]
struct Target {
    state: State,
    failures: u32,
    /// How the last dial failed, unless something new is known since.
    last: Option<Failure>,
}

/// The plan of all targets. `K` names a target (a bootstrap address or a peer).
#[derive(Debug)]
pub(crate) struct RedialPlan<K: Ord + Clone> {
    policy: RedialPolicy,
    targets: BTreeMap<K, Target>,
}

impl<K: Ord + Clone> RedialPlan<K> {
    pub(crate) fn new(policy: RedialPolicy) -> Self {
        Self {
            policy,
            targets: BTreeMap::new(),
        }
    }

    /// Adds a target, due at once. A known one is left as it is.
    pub(crate) fn add(&mut self, key: K, now: Instant) {
        if self.targets.len() >= MAX_TARGETS {
            return;
        }
        self.targets.entry(key).or_insert(Target {
            state: State::Due(now),
            failures: 0,
            last: None,
        });
    }

    pub(crate) fn remove(&mut self, key: &K) {
        self.targets.remove(key);
    }

    pub(crate) fn contains(&self, key: &K) -> bool {
        self.targets.contains_key(key)
    }

    /// The target is connected: no dial until it is not.
    pub(crate) fn connected(&mut self, key: &K) {
        if let Some(target) = self.targets.get_mut(key) {
            target.state = State::Connected;
            target.failures = 0;
            target.last = None;
        }
    }

    /// Whether nobody answered the last dial.
    pub(crate) fn is_unreached(&self, key: &K) -> bool {
        self.targets
            .get(key)
            .is_some_and(|target| target.last == Some(Failure::Unreachable))
    }

    /// The connection was lost: due after the first delay.
    pub(crate) fn lost(&mut self, key: &K, now: Instant, jitter: f64) {
        let delay = shorten(self.policy.first, jitter);
        if let Some(target) = self.targets.get_mut(key)
            && target.state == State::Connected
        {
            target.state = State::Due(now + delay);
        }
    }

    /// We ended the connection ourselves: due after the delay of a refusal.
    pub(crate) fn ended(&mut self, key: &K, now: Instant, jitter: f64) {
        let delay = shorten(self.policy.after_refusal, jitter);
        if let Some(target) = self.targets.get_mut(key) {
            target.state = State::Due(now + delay);
        }
    }

    /// A dial failed. `jitter` is uniform in `[0, 1)`.
    pub(crate) fn failed(&mut self, key: &K, failure: Failure, now: Instant, jitter: f64) {
        let policy = self.policy;
        let Some(target) = self.targets.get_mut(key) else {
            return;
        };
        if target.state == State::Connected {
            return;
        }
        target.failures = target.failures.saturating_add(1);
        target.last = Some(failure);
        let delay = match failure {
            Failure::Refused => policy.after_refusal,
            Failure::Unreachable => backoff(policy, target.failures),
        };
        target.state = State::Due(now + shorten(delay, jitter));
    }

    /// Something new is known of where the target is: due now, unless it is connected.
    pub(crate) fn hurry(&mut self, key: &K, now: Instant) {
        if let Some(target) = self.targets.get_mut(key)
            && target.state != State::Connected
        {
            *target = Target {
                state: State::Due(now),
                failures: 0,
                last: None,
            };
        }
    }

    /// The network under us changed: everything that waits is due now.
    pub(crate) fn network_changed(&mut self, now: Instant) {
        for target in self.targets.values_mut() {
            if let State::Due(at) = &mut target.state {
                *at = now;
            }
            target.failures = 0;
        }
    }

    /// Targets to dial now, at most `limit`, each marked as being dialled.
    pub(crate) fn handle_timeout(&mut self, now: Instant, limit: usize) -> Vec<K> {
        let mut due: Vec<(Instant, &K, &mut Target)> = self
            .targets
            .iter_mut()
            .filter_map(|(key, target)| match target.state {
                State::Due(at) if at <= now => Some((at, key, target)),
                _ => None,
            })
            .collect();
        // Who waits longest goes first: a flood of new targets does not hold up the others.
        due.sort_by_key(|(at, ..)| *at);
        due.truncate(limit);
        due.into_iter()
            .map(|(_, key, target)| {
                target.state = State::Dialing;
                key.clone()
            })
            .collect()
    }

    /// When the next target is due; the shell ticks, so only tests ask.
    #[cfg(test)]
    fn poll_timeout(&self) -> Option<Instant> {
        self.targets
            .values()
            .filter_map(|target| match target.state {
                State::Due(at) => Some(at),
                State::Dialing | State::Connected => None,
            })
            .min()
    }
}

fn backoff(policy: RedialPolicy, failures: u32) -> Duration {
    let doublings = failures.saturating_sub(1).min(20);
    policy
        .first
        .saturating_mul(1 << doublings)
        .min(policy.longest)
}

/// Between half of `delay` and all of it.
fn shorten(delay: Duration, jitter: f64) -> Duration {
    delay.mul_f64(1.0 - jitter.clamp(0.0, 1.0) / 2.0)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const POLICY: RedialPolicy = RedialPolicy {
        first: Duration::from_secs(1),
        longest: Duration::from_secs(60),
        after_refusal: Duration::from_secs(600),
    };

    fn delay_after(plan: &RedialPlan<u8>, now: Instant) -> Duration {
        plan.poll_timeout().unwrap() - now
    }

    #[test]
    fn given_a_new_target_when_asked_then_it_is_due_once() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        plan.add(1, now);
        assert_eq!(plan.handle_timeout(now, 8), [1]);
        assert!(plan.handle_timeout(now, 8).is_empty());
        assert_eq!(plan.poll_timeout(), None);
    }

    #[test]
    fn given_failures_when_repeated_then_delays_double_up_to_the_longest() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        plan.add(1, now);
        let mut seen = Vec::new();
        for _ in 0..9 {
            plan.failed(&1, Failure::Unreachable, now, 0.0);
            seen.push(delay_after(&plan, now).as_secs());
        }
        assert_eq!(seen, [1, 2, 4, 8, 16, 32, 60, 60, 60]);
    }

    #[test]
    fn given_jitter_when_applied_then_the_delay_is_between_half_and_all() {
        let now = Instant::now();
        for step in 0..10 {
            let mut plan = RedialPlan::new(POLICY);
            plan.add(1, now);
            plan.failed(&1, Failure::Unreachable, now, f64::from(step) / 10.0);
            let delay = delay_after(&plan, now);
            assert!(delay > Duration::from_millis(500) && delay <= Duration::from_secs(1));
        }
    }

    #[test]
    fn given_a_refusal_when_it_comes_first_then_the_long_delay_applies() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        plan.add(1, now);
        plan.failed(&1, Failure::Refused, now, 0.0);
        assert_eq!(delay_after(&plan, now), Duration::from_secs(600));
    }

    #[test]
    fn given_a_connection_when_lost_then_the_count_starts_again() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        plan.add(1, now);
        for _ in 0..5 {
            plan.failed(&1, Failure::Unreachable, now, 0.0);
        }
        plan.connected(&1);
        assert_eq!(plan.poll_timeout(), None);
        plan.lost(&1, now, 0.0);
        assert_eq!(delay_after(&plan, now), Duration::from_secs(1));
    }

    #[test]
    fn given_news_of_targets_when_they_are_not_connected_then_they_are_due() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        for key in [1, 2, 3] {
            plan.add(key, now);
        }
        plan.handle_timeout(now, 8);
        plan.failed(&2, Failure::Refused, now, 0.0);
        plan.connected(&3);
        for key in [1, 2, 3, 4] {
            plan.hurry(&key, now);
        }
        assert_eq!(plan.handle_timeout(now, 8), [1, 2]);
    }

    #[test]
    fn given_a_flood_of_new_targets_when_an_older_one_is_due_then_it_goes_first() {
        let now = Instant::now();
        let later = now + Duration::from_secs(1);
        let mut plan = RedialPlan::new(POLICY);
        plan.add(9, now);
        for key in 0..8 {
            plan.add(key, later);
        }
        assert_eq!(plan.handle_timeout(later, 1), [9]);
    }

    #[test]
    fn given_failed_dials_when_nobody_answered_then_the_target_is_unreached_until_something_changes()
     {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        plan.add(1, now);
        assert!(!plan.is_unreached(&1), "not dialled yet");
        plan.failed(&1, Failure::Unreachable, now, 0.0);
        assert!(plan.is_unreached(&1));
        plan.hurry(&1, now);
        assert!(!plan.is_unreached(&1), "it may be elsewhere now");
        plan.failed(&1, Failure::Unreachable, now, 0.0);
        plan.failed(&1, Failure::Refused, now, 0.0);
        assert!(
            !plan.is_unreached(&1),
            "somebody answered, if only to refuse"
        );
        plan.failed(&1, Failure::Unreachable, now, 0.0);
        plan.connected(&1);
        assert!(!plan.is_unreached(&1));
    }

    #[test]
    fn given_waiting_targets_when_the_network_changes_then_all_are_due() {
        let now = Instant::now();
        let mut plan = RedialPlan::new(POLICY);
        for key in 0..3 {
            plan.add(key, now);
            plan.failed(&key, Failure::Refused, now, 0.0);
        }
        plan.network_changed(now);
        assert_eq!(plan.handle_timeout(now, 2), [0, 1]);
        assert_eq!(plan.handle_timeout(now, 2), [2]);
    }
}
