//! Pings: whom we ping next, whom we ask to ping for us, and pings for others (SWIM §4.1, §4.3; Lifeguard §IV-A).

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom as _;

use crate::config::limits;
use crate::core::Swim;
use crate::member::Fingerprint;
use crate::statement::Attestor;
use crate::wire::PacketKind;

/// One ping of ours in flight.
#[derive(Debug)]
struct Probe {
    target: Fingerprint,
    number: u32,
    /// When helpers are asked; `None` once they were.
    direct_until: Option<Instant>,
    helpers: Vec<Fingerprint>,
    nacks: Vec<Fingerprint>,
}

/// A ping for somebody else in flight.
#[derive(Debug)]
struct Relay {
    requester: Fingerprint,
    number: u32,
    target: Fingerprint,
    next: RelayStep,
}

/// What a relay does when its time comes. One lost packet is no evidence, so it pings twice before it says so.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RelayStep {
    PingAgain,
    Nack,
}

#[derive(Debug)]
pub(crate) struct Prober {
    /// Everyone to ping, in this round's order; those before the cursor had their turn.
    order: Vec<Fingerprint>,
    cursor: usize,
    probe: Option<Probe>,
    /// When the next period begins; `None` after we left.
    next: Option<Instant>,
    next_number: u32,
    /// By the number of our ping.
    relays: BTreeMap<u32, Relay>,
    /// When each of them does its next step.
    relay_steps: BTreeSet<(Instant, u32)>,
}

impl Prober {
    pub(crate) fn new(first: Instant, number: u32) -> Self {
        Self {
            order: Vec::new(),
            cursor: 0,
            probe: None,
            next: Some(first),
            // Far from wrapping: two pings a second reach the top in 34 years.
            next_number: number >> 1,
            relays: BTreeMap::new(),
            relay_steps: BTreeSet::new(),
        }
    }

    pub(crate) fn stop(&mut self) {
        self.probe = None;
        self.next = None;
        self.order.clear();
    }

    pub(crate) fn next_deadline(&self) -> Option<Instant> {
        let direct = self.probe.as_ref().and_then(|probe| probe.direct_until);
        direct.or(self.next)
    }

    pub(crate) fn next_relay(&self) -> Option<Instant> {
        self.relay_steps.first().map(|(at, _)| *at)
    }

    /// Moves what is due by the time we were not run. Those who asked us to ping have given up.
    pub(crate) fn shift(&mut self, lost: Duration) {
        self.next = self.next.map(|at| at + lost);
        self.relays.clear();
        self.relay_steps.clear();
        if let Some(probe) = &mut self.probe {
            probe.direct_until = probe.direct_until.map(|at| at + lost);
        }
    }

    /// Gives a newcomer a random turn among those to come in this round.
    pub(crate) fn enlist(&mut self, name: Fingerprint, random: &mut Xoshiro256PlusPlus) {
        self.order.push(name);
        let last = self.order.len() - 1;
        let turn = random.random_range(self.cursor.min(last)..=last);
        self.order.swap(turn, last);
    }

    fn number(&mut self) -> u32 {
        self.next_number = self.next_number.wrapping_add(1);
        self.next_number
    }
}

impl<A: Attestor> Swim<A> {
    /// The next live member of the round. Those that are gone leave the list when their turn comes.
    fn next_target(&mut self) -> Option<Fingerprint> {
        let mut turns = self.prober.order.len();
        while turns > 0 {
            turns -= 1;
            if self.prober.cursor >= self.prober.order.len() {
                // Who failed and came back within a round stands in the list twice.
                self.prober.order.sort_unstable();
                self.prober.order.dedup();
                self.prober.order.shuffle(&mut self.random);
                self.prober.cursor = 0;
            }
            let name = *self.prober.order.get(self.prober.cursor)?;
            if self
                .table
                .get(name)
                .is_some_and(|member| member.state.is_live())
            {
                self.prober.cursor += 1;
                return Some(name);
            }
            self.prober.order.swap_remove(self.prober.cursor);
        }
        None
    }

    /// Asks helpers, concludes a period, begins the next.
    pub(crate) fn run_probe(&mut self, now: Instant) {
        if let Some(probe) = &mut self.prober.probe
            && probe.direct_until.is_some_and(|at| at <= now)
        {
            probe.direct_until = None;
            let (target, number) = (probe.target, probe.number);
            self.ask_helpers(target, number);
        }
        if self.prober.next.is_none_or(|at| at > now) {
            return;
        }
        self.conclude_probe(now);
        self.review_suspicions(now);
        let period = self.health.stretch(self.config.probe_interval);
        self.prober.next = Some(now + period);
        if let Some(target) = self.next_target() {
            let number = self.prober.number();
            let timeout = self.health.stretch(self.config.probe_timeout);
            self.prober.probe = Some(Probe {
                target,
                number,
                direct_until: Some(now + timeout),
                helpers: Vec::new(),
                nacks: Vec::new(),
            });
            self.send(target, PacketKind::Ping(number));
        }
    }

    fn ask_helpers(&mut self, target: Fingerprint, number: u32) {
        let count = self.config.helpers;
        let helpers = self
            .table
            .sample(&mut self.random, count, |name| name != target);
        for helper in &helpers {
            self.send(*helper, PacketKind::PingRequest(number, target));
        }
        if let Some(probe) = &mut self.prober.probe {
            probe.helpers = helpers;
        }
    }

    /// The probe in flight, if any, has failed.
    fn conclude_probe(&mut self, now: Instant) {
        let Some(probe) = self.prober.probe.take() else {
            return;
        };
        self.counters.probes_failed += 1;
        // Nacks that should have come and did not speak against us; so does silence with nobody to ask.
        let missing = probe.helpers.len() - probe.nacks.len();
        let doubt = if probe.helpers.is_empty() { 1 } else { missing };
        self.health.worsen(u32::try_from(doubt).unwrap_or(u32::MAX));
        if self
            .table
            .get(probe.target)
            .is_some_and(|member| member.state.is_live())
        {
            let mut observers = probe.nacks;
            observers.push(self.name);
            self.accuse(probe.target, &observers, None, now);
            if self.config.buddy {
                // The claim is in front of it: the subject learns of it sooner than gossip would bring it there.
                self.send(probe.target, PacketKind::Gossip);
            }
        }
    }

    pub(crate) fn handle_ack(&mut self, sender: Fingerprint, number: u32, now: Instant) {
        if let Some(relay) = self.prober.relays.get(&number) {
            if relay.target == sender {
                let (requester, theirs) = (relay.requester, relay.number);
                self.prober.relays.remove(&number);
                self.send(requester, PacketKind::Ack(theirs));
            } else {
                self.counters.unexpected_answer += 1;
            }
            return;
        }
        let is_answer = |probe: &Probe| {
            probe.number == number && (probe.target == sender || probe.helpers.contains(&sender))
        };
        match self.prober.probe.take_if(|probe| is_answer(probe)) {
            Some(probe) => {
                self.health.improve();
                if probe.target == sender {
                    self.withdraw_evidence(sender, now);
                }
            }
            None => self.counters.unexpected_answer += 1,
        }
    }

    pub(crate) fn handle_nack(&mut self, sender: Fingerprint, number: u32, now: Instant) {
        let Some(probe) = &mut self.prober.probe else {
            self.counters.unexpected_answer += 1;
            return;
        };
        let is_helper = probe.helpers.contains(&sender) && !probe.nacks.contains(&sender);
        if probe.number != number || !is_helper {
            self.counters.unexpected_answer += 1;
            return;
        }
        probe.nacks.push(sender);
        if probe.nacks.len() == probe.helpers.len() {
            // All evidence there will be.
            self.conclude_probe(now);
        }
    }

    /// Somebody cannot reach `target` and asks us to try.
    pub(crate) fn handle_ping_request(
        &mut self,
        requester: Fingerprint,
        number: u32,
        target: Fingerprint,
        now: Instant,
    ) {
        let knows_both = self.table.get(requester).is_some() && self.table.get(target).is_some();
        if !knows_both || self.prober.relays.len() >= limits::RELAYS {
            self.counters.relay_refused += 1;
            return;
        }
        let ours = self.prober.number();
        self.prober.relays.insert(
            ours,
            Relay {
                requester,
                number,
                target,
                next: RelayStep::PingAgain,
            },
        );
        let again_at = now + self.config.nack_after / 2;
        self.prober.relay_steps.insert((again_at, ours));
        self.send(target, PacketKind::Ping(ours));
    }

    /// Pings again for requesters, then tells them that their targets did not answer us either.
    pub(crate) fn run_relays(&mut self, now: Instant) {
        while let Some((at, ours)) = self.prober.relay_steps.first().copied()
            && at <= now
        {
            self.prober.relay_steps.remove(&(at, ours));
            let Some(relay) = self.prober.relays.get_mut(&ours) else {
                // Answered meanwhile.
                continue;
            };
            let (requester, number, target) = (relay.requester, relay.number, relay.target);
            match relay.next {
                RelayStep::PingAgain => {
                    relay.next = RelayStep::Nack;
                    let nack_at = now + self.config.nack_after / 2;
                    self.prober.relay_steps.insert((nack_at, ours));
                    if self.config.nacks {
                        self.send(target, PacketKind::Ping(ours));
                    }
                }
                RelayStep::Nack => {
                    self.prober.relays.remove(&ours);
                    if self.config.nacks {
                        self.send(requester, PacketKind::Nack(number));
                    }
                }
            }
        }
    }
}
