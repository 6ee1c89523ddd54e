//! The fetch planner against providers that die, lie, stall, lack blocks and come back, in virtual time.
//!
//! Every run is a function of its seed; a failure prints it. `WARREN_SEED=N` runs that one alone.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use warren_content::core::fetch::{Event, FetchLimits, FetchPlanner, Ticket, Transmit, Verdict};
use warren_content::{BlockId, ChunkId, MAX_BLOCK_BYTES};

const RUNS: u64 = 2000;
/// Far beyond any time-out of the planner: a run that takes longer hangs.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// And so does one that does nothing, over and over, at one instant.
const MOST_STEPS: u64 = 100_000;

/// `SplitMix64`: small, seeded, the same everywhere.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    fn chance(&mut self, percent: u64) -> bool {
        self.below(100) < percent
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Character {
    /// Holds everything, answers everything.
    Honest,
    /// Holds some blocks.
    Partial,
    /// Answers with wrong bytes now and then.
    Liar,
    /// Stops answering at some point.
    Staller,
    /// Disconnects at some point, and can be reconnected.
    Mortal,
    /// Says `Busy` often.
    Busy,
}

struct Provider {
    character: Character,
    holds: BTreeSet<u64>,
    answers_left: u64,
    latency_ms: u64,
    bytes_per_ms: u64,
    free_at: Instant,
    connected: bool,
}

#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Happening {
    Good,
    Wrong,
    Oversized,
    NotFound,
    Busy,
    Disconnect,
}

struct Simulation {
    seed: u64,
    random: Random,
    now: Instant,
    start: Instant,
    limits: FetchLimits,
    planner: FetchPlanner<u8>,
    providers: BTreeMap<u8, Provider>,
    /// In order of time; the number keeps it stable.
    agenda: BTreeMap<(Instant, u64), (u8, Ticket, Happening)>,
    searches: BTreeMap<(Instant, u64), ()>,
    sequence: u64,
    steps: u64,
    sizes: Vec<u32>,
    /// Bytes of blocks delivered and not yet released, by ticket.
    held: BTreeMap<u64, u64>,
    in_flight: BTreeMap<(u8, u64), u64>,
    delivered: BTreeSet<u64>,
    next_release: u64,
}

fn block(index: u64) -> BlockId {
    BlockId::Chunk(ChunkId::of(&index.to_be_bytes()))
}

impl Simulation {
    fn new(seed: u64) -> Self {
        let mut random = Random(seed);
        let start = Instant::now();
        let limits = FetchLimits {
            window_bytes: [2, 8, 16][random.below(3) as usize] * 1024 * 1024,
            window_blocks: 64,
            ..FetchLimits::default()
        };
        let count = 1 + random.below(120);
        let sizes: Vec<u32> = (0..count)
            .map(|_| 1 + random.below(u64::from(MAX_BLOCK_BYTES)) as u32)
            .collect();
        let mut providers = BTreeMap::new();
        for peer in 0..1 + random.below(6) as u8 {
            let character = match random.below(7) {
                0 | 1 => Character::Honest,
                2 => Character::Partial,
                3 => Character::Liar,
                4 => Character::Staller,
                5 => Character::Mortal,
                _ => Character::Busy,
            };
            let holds = (0..count)
                .filter(|_| character != Character::Partial || random.chance(60))
                .collect();
            let provider = Provider {
                character,
                holds,
                answers_left: random.below(count),
                latency_ms: 1 + random.below(200),
                bytes_per_ms: 1 + random.below(100_000),
                free_at: start,
                connected: false,
            };
            providers.insert(peer, provider);
        }
        Self {
            seed,
            random,
            now: start,
            start,
            planner: FetchPlanner::new(limits.clone(), start),
            limits,
            providers,
            agenda: BTreeMap::new(),
            searches: BTreeMap::new(),
            sequence: 0,
            steps: 0,
            sizes,
            held: BTreeMap::new(),
            in_flight: BTreeMap::new(),
            delivered: BTreeSet::new(),
            next_release: 0,
        }
    }

    /// Whether some provider that never misbehaves holds every block (a slow one may be given up, so it must be fit).
    fn must_complete(&self) -> bool {
        self.providers.values().any(|p| {
            matches!(p.character, Character::Honest | Character::Busy) && p.bytes_per_ms >= 1_000
        })
    }

    /// Whether each block is held by somebody at all.
    fn can_complete(&self) -> bool {
        (0..self.sizes.len() as u64)
            .all(|index| self.providers.values().any(|p| p.holds.contains(&index)))
    }

    fn at(&mut self, after: Duration) -> (Instant, u64) {
        self.sequence += 1;
        (self.now + after, self.sequence)
    }

    fn run(mut self) -> Result<(), String> {
        for index in 0..self.sizes.len() as u64 {
            self.planner.want(
                Ticket(index),
                block(index),
                self.sizes[index as usize],
                self.now,
            );
        }
        loop {
            if let Some(failed) = self.drain()? {
                return match failed {
                    _ if self.must_complete() => {
                        Err(format!("seed {}: failed though it could be had", self.seed))
                    }
                    _ => Ok(()),
                };
            }
            self.release();
            if self.drain()?.is_some() {
                continue;
            }
            if self.next_release == self.sizes.len() as u64 {
                return match self.can_complete() {
                    true => Ok(()),
                    false => Err(format!(
                        "seed {}: complete although a block is nowhere",
                        self.seed
                    )),
                };
            }
            self.advance()?;
        }
    }

    /// Acts on all events and transmits. `Some`: the planner gave up.
    fn drain(&mut self) -> Result<Option<()>, String> {
        loop {
            if let Some(event) = self.planner.poll_event() {
                match event {
                    Event::NeedProviders => {
                        let delay = Duration::from_millis(self.random.below(500));
                        let key = self.at(delay);
                        self.searches.insert(key, ());
                    }
                    Event::Dropped { peer, .. } => self.disconnect(peer),
                    Event::Failed(_) => return Ok(Some(())),
                }
            } else if let Some(transmit) = self.planner.poll_transmit(self.now) {
                self.send(&transmit)?;
            } else {
                return Ok(None);
            }
        }
    }

    fn send(&mut self, transmit: &Transmit<u8>) -> Result<(), String> {
        let &Transmit { peer, ticket, .. } = transmit;
        let size = u64::from(self.sizes[ticket.0 as usize]);
        if self.delivered.contains(&ticket.0) {
            return Err(format!(
                "seed {}: block {} asked for again after it was had",
                self.seed, ticket.0
            ));
        }
        if self.in_flight.insert((peer, ticket.0), size).is_some() {
            return Err(format!(
                "seed {}: block {} asked of {peer} twice at once",
                self.seed, ticket.0
            ));
        }
        self.check_window()?;
        let now = self.now;
        let roll = self.random.below(100);
        let provider = self.providers.get_mut(&peer).unwrap();
        if !provider.connected {
            return Err(format!(
                "seed {}: {peer} asked while not connected",
                self.seed
            ));
        }
        let happening = match provider.character {
            _ if !provider.holds.contains(&ticket.0) => Happening::NotFound,
            Character::Liar if roll < 20 => Happening::Wrong,
            Character::Liar if roll < 40 && transmit.max_bytes < MAX_BLOCK_BYTES => {
                Happening::Oversized
            }
            Character::Busy if roll < 30 => Happening::Busy,
            Character::Staller if provider.answers_left == 0 => return Ok(()),
            Character::Mortal if provider.answers_left == 0 => {
                provider.answers_left = 5;
                Happening::Disconnect
            }
            _ => Happening::Good,
        };
        provider.answers_left = provider.answers_left.saturating_sub(1);
        provider.free_at =
            provider.free_at.max(now) + Duration::from_millis(size / provider.bytes_per_ms);
        let after = provider.free_at - now + Duration::from_millis(provider.latency_ms);
        let key = self.at(after);
        self.agenda.insert(key, (peer, ticket, happening));
        Ok(())
    }

    fn check_window(&self) -> Result<(), String> {
        let bytes = self.in_flight.values().sum::<u64>() + self.held.values().sum::<u64>();
        let bound = self.limits.window_bytes + 2 * u64::from(MAX_BLOCK_BYTES);
        if bytes > bound || self.in_flight.len() > self.limits.window_blocks + 2 {
            return Err(format!(
                "seed {}: {bytes} bytes in {} requests in flight",
                self.seed,
                self.in_flight.len()
            ));
        }
        Ok(())
    }

    fn disconnect(&mut self, peer: u8) {
        if let Some(provider) = self.providers.get_mut(&peer) {
            provider.connected = false;
        }
        self.agenda.retain(|_, (from, _, _)| *from != peer);
        self.in_flight.retain(|(from, _), _| *from != peer);
    }

    /// The reader takes what is there, in order.
    fn release(&mut self) {
        while self.held.remove(&self.next_release).is_some() {
            self.planner.release(Ticket(self.next_release), self.now);
            self.next_release += 1;
        }
    }

    /// Time passes until the next thing happens.
    fn advance(&mut self) -> Result<(), String> {
        let timer = self.planner.poll_timeout().map(|(at, _)| at);
        let answer = self.agenda.keys().next().copied();
        let search = self.searches.keys().next().copied();
        let next = [timer, answer.map(|k| k.0), search.map(|k| k.0)]
            .into_iter()
            .flatten()
            .min();
        let Some(next) = next else {
            return Err(format!(
                "seed {}: nothing left to happen at block {}",
                self.seed, self.next_release
            ));
        };
        self.now = self.now.max(next);
        self.steps += 1;
        if self.now - self.start > LONGEST || self.steps > MOST_STEPS {
            return Err(format!(
                "seed {}: hangs at block {}",
                self.seed, self.next_release
            ));
        }
        if answer.is_some_and(|key| key.0 == next) {
            let ((_, _), (peer, ticket, happening)) = self.agenda.pop_first().unwrap();
            return self.happen(peer, ticket, &happening);
        }
        if let Some(key) = search.filter(|key| key.0 == next) {
            self.searches.remove(&key);
            self.search();
        } else {
            self.planner.handle_timeout(self.now);
        }
        Ok(())
    }

    fn search(&mut self) {
        let peers: Vec<u8> = self.providers.keys().copied().collect();
        for peer in peers {
            let fit = matches!(
                self.providers[&peer].character,
                Character::Honest | Character::Busy
            );
            let reachable = fit || self.random.chance(80);
            if reachable && self.planner.may_connect(&peer) {
                self.providers.get_mut(&peer).unwrap().connected = true;
                self.planner.handle_provider(peer, self.now);
            }
        }
        self.planner.handle_search_finished(self.now);
    }

    fn happen(&mut self, peer: u8, ticket: Ticket, happening: &Happening) -> Result<(), String> {
        self.planner.handle_progress(&peer, self.now);
        if *happening == Happening::Disconnect {
            self.disconnect(peer);
            self.planner.handle_disconnected(&peer, self.now);
            return Ok(());
        }
        self.in_flight.remove(&(peer, ticket.0));
        match happening {
            Happening::Good => {
                let size = self.sizes[ticket.0 as usize];
                self.planner.handle_arrived(&peer, ticket, size, self.now);
                if self.planner.handle_block(&peer, ticket, size, self.now) == Verdict::Accepted {
                    if !self.delivered.insert(ticket.0) {
                        return Err(format!(
                            "seed {}: block {} delivered twice",
                            self.seed, ticket.0
                        ));
                    }
                    self.held.insert(ticket.0, u64::from(size));
                }
            }
            Happening::Oversized => self.planner.handle_oversized(&peer, ticket, self.now),
            Happening::Wrong => self.planner.handle_wrong_block(&peer, ticket, self.now),
            Happening::NotFound => self.planner.handle_not_found(&peer, ticket, self.now),
            Happening::Busy => {
                self.planner
                    .handle_busy(&peer, ticket, Duration::from_millis(200), self.now);
            }
            Happening::Disconnect => {}
        }
        Ok(())
    }
}

#[test]
fn given_any_mix_of_providers_when_simulated_then_it_completes_if_and_only_if_an_honest_one_has_all()
 {
    let seeds: Vec<u64> = match std::env::var("WARREN_SEED") {
        Ok(seed) => vec![seed.parse().expect("WARREN_SEED is a number")],
        Err(_) => (0..RUNS).collect(),
    };
    let failures: Vec<String> = seeds
        .into_iter()
        .filter_map(|seed| Simulation::new(seed).run().err())
        .collect();
    let report = failures.join("; ");
    assert!(
        failures.is_empty(),
        "{} runs failed: {report}",
        failures.len()
    );
}
