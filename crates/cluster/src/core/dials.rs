//! Whom to dial, when again after a failure, and what waits for it.

use std::collections::{BTreeMap, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_identity::PeerId;

use crate::core::frame::Frame;

/// Dials in progress; one more is refused.
const MOST_ACTIVE: usize = 128;
/// Targets remembered; one more is refused.
const MOST_TARGETS: usize = 16_384;
/// Frames that wait for one dial. The loser is the oldest.
const MOST_WAITING: usize = 16;
/// The pause after the first failure; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// Between two attempts at QUIC while TCP works.
const UPGRADE_PAUSE: Duration = Duration::from_secs(30);

/// What a dial may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Paths {
    /// QUIC, and TCP soon after.
    Both,
    /// QUIC: there is TCP already.
    QuicOnly,
}

/// Whom to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Target {
    /// Where.
    pub(crate) address: SocketAddr,
    /// Who must answer; `None` for a seed: any member.
    pub(crate) expected: Option<PeerId>,
    /// How.
    pub(crate) paths: Paths,
}

/// What became of a wish to dial.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Dial now.
    Start,
    /// It is being dialled.
    Waiting,
    /// Not now: it failed a moment ago. The frame is dropped.
    Resting,
    /// Too many dials. The frame is dropped.
    Refused,
}

#[derive(Debug)]
struct Entry {
    is_active: bool,
    failures: u32,
    rests_until: Instant,
    waiting: VecDeque<Frame>,
}

/// Dials in progress and targets that failed lately.
#[derive(Debug, Default)]
pub(crate) struct Dials {
    entries: BTreeMap<Target, Entry>,
    active: usize,
}

impl Dials {
    /// Asks for a dial, with a frame that is sent when it succeeds.
    pub(crate) fn want(&mut self, target: Target, frame: Option<Frame>, now: Instant) -> Verdict {
        if !self.entries.contains_key(&target) && self.entries.len() >= MOST_TARGETS {
            return Verdict::Refused;
        }
        let entry = self.entries.entry(target).or_insert_with(|| Entry {
            is_active: false,
            failures: 0,
            rests_until: now,
            waiting: VecDeque::new(),
        });
        let verdict = match entry.is_active {
            true => Verdict::Waiting,
            false if now < entry.rests_until => return Verdict::Resting,
            false if self.active >= MOST_ACTIVE => return Verdict::Refused,
            false => Verdict::Start,
        };
        if verdict == Verdict::Start {
            entry.is_active = true;
            self.active += 1;
        }
        if let Some(frame) = frame {
            if entry.waiting.len() >= MOST_WAITING {
                entry.waiting.pop_front();
            }
            entry.waiting.push_back(frame);
        }
        verdict
    }

    /// A dial has given a link; it may give another. What waited is to be sent now.
    pub(crate) fn connected(&mut self, target: &Target) -> VecDeque<Frame> {
        let entry = self.entries.get_mut(target);
        entry
            .map(|entry| {
                entry.failures = 0;
                std::mem::take(&mut entry.waiting)
            })
            .unwrap_or_default()
    }

    /// A dial is over. Gives how many frames are lost with it.
    pub(crate) fn ended(&mut self, target: &Target, has_link: bool, now: Instant) -> usize {
        let Some(entry) = self.entries.get_mut(target) else {
            return 0;
        };
        if std::mem::take(&mut entry.is_active) {
            self.active -= 1;
        }
        if has_link {
            entry.failures = 0;
            entry.rests_until = now;
        } else {
            let pause = match target.paths {
                Paths::QuicOnly => UPGRADE_PAUSE,
                Paths::Both => {
                    let doubled = FIRST_PAUSE * 2_u32.saturating_pow(entry.failures.min(8));
                    doubled.min(LONGEST_PAUSE)
                }
            };
            entry.failures += 1;
            entry.rests_until = now + pause;
        }
        std::mem::take(&mut entry.waiting).len()
    }

    /// Forgets what failed long ago.
    pub(crate) fn prune(&mut self, now: Instant) {
        self.entries
            .retain(|_, entry| entry.is_active || now < entry.rests_until + LONGEST_PAUSE);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use bytes::Bytes;

    fn target(port: u16) -> Target {
        Target {
            address: ([10, 0, 0, 1], port).into(),
            expected: None,
            paths: Paths::Both,
        }
    }

    fn frame(number: u8) -> Option<Frame> {
        Some(Frame::Packet(Bytes::copy_from_slice(&[number])))
    }

    #[test]
    fn given_a_dial_in_progress_when_more_is_sent_then_it_waits_and_the_oldest_are_lost() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        assert_eq!(dials.want(target(1), frame(0), now), Verdict::Start);
        for number in 1..20 {
            assert_eq!(dials.want(target(1), frame(number), now), Verdict::Waiting);
        }

        let waiting = dials.connected(&target(1));

        assert_eq!(waiting.len(), MOST_WAITING);
        assert_eq!(waiting.back().cloned(), frame(19));
    }

    #[test]
    fn given_failures_when_wanted_again_then_pauses_grow_to_their_limit() {
        let (mut dials, mut now) = (Dials::default(), Instant::now());
        for pause_ms in [500, 1_000, 2_000, 4_000, 5_000, 5_000] {
            assert_eq!(dials.want(target(1), frame(1), now), Verdict::Start);
            assert_eq!(dials.ended(&target(1), false, now), 1);
            let pause = Duration::from_millis(pause_ms);
            let almost = now + pause - Duration::from_millis(1);
            assert_eq!(dials.want(target(1), None, almost), Verdict::Resting);
            now += pause;
        }
    }

    #[test]
    fn given_many_targets_when_dialled_then_no_more_than_the_limit_run_at_once() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        let started = (1..=500)
            .filter(|port| dials.want(target(*port), None, now) == Verdict::Start)
            .count();
        assert_eq!(started, MOST_ACTIVE);

        dials.ended(&target(1), true, now);
        assert_eq!(dials.want(target(400), None, now), Verdict::Start);
    }

    #[test]
    fn given_a_target_that_failed_long_ago_when_pruned_then_it_is_forgotten() {
        let (mut dials, now) = (Dials::default(), Instant::now());
        dials.want(target(1), None, now);
        dials.ended(&target(1), false, now);

        dials.prune(now + Duration::from_secs(60));

        assert!(dials.entries.is_empty());
    }
}
