//! One direction of a link as a state machine: packets and the time go in, packets come out later, or never.
//!
//! Calling order: [`LinkCore::handle_packet`] for each packet that arrives; [`LinkCore::poll_transmit`] until it
//! returns `None`; sleep until [`LinkCore::poll_timeout`]; again. `now` is the time since the link began and never
//! runs backwards. Randomness is the caller's, so a seed repeats a run.
//!
//! A packet meets, in this order: loss, the rate limit's queue (tail drop), duplication, then delay with jitter.
//! Jitter alone never reorders (as on a real queue); `reorder` holds single packets back so that others overtake.

use std::cmp::Ordering;
use std::collections::BinaryHeap;
use std::time::Duration;

use super::random::Random;

/// The most bytes a direction holds on the way, whatever its settings: enough for 10 Gbit/s over 50 ms. The packet
/// that would pass it is dropped and counted in [`LinkStats::queue_dropped`].
pub const MAX_IN_FLIGHT_BYTES: usize = 64 * 1024 * 1024;

/// The queue before a rate limit unless told otherwise: what a home router with some bufferbloat holds.
pub const DEFAULT_QUEUE_BYTES: usize = 256 * 1024;

/// A chance between never and always, in steps of one millionth.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability {
    per_million: u32,
}

impl Probability {
    /// It never happens.
    pub const NEVER: Self = Self { per_million: 0 };
    /// It always happens.
    pub const ALWAYS: Self = Self {
        per_million: 1_000_000,
    };

    /// `percent` of 100; what is above is always.
    #[must_use]
    pub const fn percent(percent: u32) -> Self {
        Self::per_million(percent.saturating_mul(10_000))
    }

    /// `count` of a million; what is above is always.
    #[must_use]
    pub const fn per_million(count: u32) -> Self {
        let per_million = if count > 1_000_000 { 1_000_000 } else { count };
        Self { per_million }
    }

    /// How often of a million.
    #[must_use]
    pub const fn of_a_million(self) -> u32 {
        self.per_million
    }

    fn happens(self, random: &mut Random) -> bool {
        match self.per_million {
            0 => false,
            1_000_000 => true,
            chance => random.below(1_000_000) < u64::from(chance),
        }
    }
}

/// How fast a link carries bits; counted over whole Ethernet frames without preamble and checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    bits_per_second: u64,
}

impl Rate {
    /// Megabits per second; zero is taken as one bit per second, for a link that is there but carries nothing.
    #[must_use]
    pub const fn mbps(megabits: u64) -> Self {
        Self::bits_per_second(megabits.saturating_mul(1_000_000))
    }

    /// Bits per second, at least one.
    #[must_use]
    pub const fn bits_per_second(bits: u64) -> Self {
        Self {
            bits_per_second: if bits == 0 { 1 } else { bits },
        }
    }

    fn time_for(self, bytes: usize) -> Duration {
        let nanoseconds =
            (bytes as u128 * 8 * 1_000_000_000).div_ceil(u128::from(self.bits_per_second));
        Duration::from_nanos(u64::try_from(nanoseconds).unwrap_or(u64::MAX))
    }

    fn bytes_in(self, time: Duration) -> usize {
        let bytes = time.as_nanos() * u128::from(self.bits_per_second) / 8 / 1_000_000_000;
        usize::try_from(bytes).unwrap_or(usize::MAX)
    }
}

/// What one direction of a link does to its packets. The default is a perfect link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Impairment {
    /// Time on the way.
    pub delay: Duration,
    /// The delay varies evenly by up to this much to either side, never below zero.
    pub jitter: Duration,
    /// Chance that a packet vanishes.
    pub loss: Probability,
    /// Chance that a packet is held back by `reorder_by`, so that later ones overtake it.
    pub reorder: Probability,
    /// How long a reordered packet is held back on top of its delay.
    pub reorder_by: Duration,
    /// Chance that a packet arrives twice.
    pub duplicate: Probability,
    /// How fast packets leave; `None` is as fast as they come.
    pub rate: Option<Rate>,
    /// How many bytes wait for the rate limit before the newest is dropped.
    pub queue_bytes: usize,
}

impl Default for Impairment {
    fn default() -> Self {
        Self {
            delay: Duration::ZERO,
            jitter: Duration::ZERO,
            loss: Probability::NEVER,
            reorder: Probability::NEVER,
            // Longer than a burst's spacing at any usual rate, shorter than a retransmission time-out.
            reorder_by: Duration::from_millis(5),
            duplicate: Probability::NEVER,
            rate: None,
            queue_bytes: DEFAULT_QUEUE_BYTES,
        }
    }
}

impl Impairment {
    /// Only a delay.
    #[must_use]
    pub fn delay(delay: Duration) -> Self {
        Self {
            delay,
            ..Self::default()
        }
    }
}

/// What happened to packets in one direction so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// Packets that came in.
    pub received: u64,
    /// Packets that went out, copies included.
    pub delivered: u64,
    /// Packets lost by chance.
    pub lost: u64,
    /// Packets dropped because a queue was full.
    pub queue_dropped: u64,
    /// Packets held back to be overtaken.
    pub reordered: u64,
    /// Extra copies made.
    pub duplicated: u64,
}

/// What became of a packet that came in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It will come out of [`LinkCore::poll_transmit`].
    Scheduled,
    /// Lost by chance.
    Lost,
    /// No room: the rate limit's queue or [`MAX_IN_FLIGHT_BYTES`].
    QueueFull,
}

/// One direction of a link.
#[derive(Debug, Default)]
pub struct LinkCore {
    impairment: Impairment,
    on_the_way: BinaryHeap<OnTheWay>,
    in_flight_bytes: usize,
    sequence: u64,
    /// When the rate limit has sent everything accepted so far.
    busy_until: Duration,
    /// When the newest packet in order arrives; the next one is never earlier.
    last_arrival: Duration,
    stats: LinkStats,
}

impl LinkCore {
    /// A direction that treats packets as `impairment` says.
    #[must_use]
    pub fn new(impairment: Impairment) -> Self {
        Self {
            impairment,
            ..Self::default()
        }
    }

    /// New conditions for packets from now on; those on the way keep their time, and are not overtaken.
    pub fn set_impairment(&mut self, impairment: Impairment) {
        // A queue built up at the old rate would otherwise keep a now faster link waiting for its old schedule.
        if self.impairment.rate != impairment.rate {
            self.busy_until = Duration::ZERO;
        }
        self.impairment = impairment;
    }

    /// A packet enters at `now`.
    pub fn handle_packet(
        &mut self,
        packet: Vec<u8>,
        now: Duration,
        random: &mut Random,
    ) -> Verdict {
        self.stats.received += 1;
        if self.impairment.loss.happens(random) {
            self.stats.lost += 1;
            return Verdict::Lost;
        }
        if self.in_flight_bytes + packet.len() > MAX_IN_FLIGHT_BYTES {
            self.stats.queue_dropped += 1;
            return Verdict::QueueFull;
        }
        let Some(departure) = self.departure(packet.len(), now) else {
            self.stats.queue_dropped += 1;
            return Verdict::QueueFull;
        };
        let copy = (self.impairment.duplicate.happens(random)
            && self.in_flight_bytes + 2 * packet.len() <= MAX_IN_FLIGHT_BYTES)
            .then(|| packet.clone());
        self.schedule(packet, departure, random);
        if let Some(copy) = copy {
            self.stats.duplicated += 1;
            self.schedule(copy, departure, random);
        }
        Verdict::Scheduled
    }

    /// When the last bit of `bytes` more leaves the rate limit, or `None` when its queue is full.
    fn departure(&mut self, bytes: usize, now: Duration) -> Option<Duration> {
        let Some(rate) = self.impairment.rate else {
            return Some(now);
        };
        let start = self.busy_until.max(now);
        let waiting = rate.bytes_in(start.saturating_sub(now));
        if waiting.saturating_add(bytes) > self.impairment.queue_bytes.max(bytes) {
            return None;
        }
        self.busy_until = start.saturating_add(rate.time_for(bytes));
        Some(self.busy_until)
    }

    fn schedule(&mut self, packet: Vec<u8>, departure: Duration, random: &mut Random) {
        let ordered = departure
            .saturating_add(self.delay(random))
            .max(self.last_arrival);
        let arrival = if self.impairment.reorder.happens(random) {
            self.stats.reordered += 1;
            ordered.saturating_add(self.impairment.reorder_by)
        } else {
            self.last_arrival = ordered;
            ordered
        };
        self.in_flight_bytes += packet.len();
        self.sequence += 1;
        self.on_the_way.push(OnTheWay {
            arrival,
            sequence: self.sequence,
            packet,
        });
    }

    fn delay(&self, random: &mut Random) -> Duration {
        let jitter_ns = u64::try_from(self.impairment.jitter.as_nanos()).unwrap_or(u64::MAX / 4);
        if jitter_ns == 0 {
            return self.impairment.delay;
        }
        let shift =
            Duration::from_nanos(random.below(jitter_ns.saturating_mul(2).saturating_add(1)));
        (self.impairment.delay + shift).saturating_sub(self.impairment.jitter)
    }

    /// When the next packet is due; `None` while nothing is on the way.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        self.on_the_way.peek().map(|next| next.arrival)
    }

    /// A packet that is due at `now`, earliest first.
    pub fn poll_transmit(&mut self, now: Duration) -> Option<Vec<u8>> {
        if self.on_the_way.peek()?.arrival > now {
            return None;
        }
        let due = self.on_the_way.pop()?;
        self.in_flight_bytes -= due.packet.len();
        self.stats.delivered += 1;
        Some(due.packet)
    }

    /// What happened so far.
    #[must_use]
    pub fn stats(&self) -> LinkStats {
        self.stats
    }
}

/// A packet between its two ends; ordered so that the heap's greatest is the earliest, then the first that came.
#[derive(Debug)]
struct OnTheWay {
    arrival: Duration,
    sequence: u64,
    packet: Vec<u8>,
}

impl Ord for OnTheWay {
    fn cmp(&self, other: &Self) -> Ordering {
        (other.arrival, other.sequence).cmp(&(self.arrival, self.sequence))
    }
}

impl PartialOrd for OnTheWay {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for OnTheWay {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for OnTheWay {}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;

    const SEED: u64 = 0x5eed;
    const MILLISECOND: Duration = Duration::from_millis(1);

    /// Sends `count` packets of `bytes`, `spacing` apart; returns number and arrival of each that comes out.
    fn run(
        impairment: Impairment,
        count: u32,
        bytes: usize,
        spacing: Duration,
    ) -> (Vec<(u32, Duration)>, LinkStats) {
        println!("seed {SEED:#x}");
        let mut random = Random::from_seed(SEED);
        let mut link = LinkCore::new(impairment);
        let mut arrivals = Vec::new();
        let mut drain = |link: &mut LinkCore, until: Duration| {
            while let Some(due) = link.poll_timeout().filter(|due| *due <= until) {
                while let Some(packet) = link.poll_transmit(due) {
                    arrivals.push((u32::from_be_bytes(packet[..4].try_into().unwrap()), due));
                }
            }
        };
        for number in 0..count {
            let now = spacing * number;
            drain(&mut link, now);
            let mut packet = vec![0; bytes];
            packet[..4].copy_from_slice(&number.to_be_bytes());
            link.handle_packet(packet, now, &mut random);
        }
        drain(&mut link, Duration::MAX);
        assert_eq!(link.in_flight_bytes, 0);
        let stats = link.stats();
        (arrivals, stats)
    }

    #[test]
    fn given_a_perfect_link_when_packets_pass_then_all_come_out_at_once_in_order() {
        let (arrivals, _) = run(Impairment::default(), 100, 100, MILLISECOND);
        let expected: Vec<_> = (0..100)
            .map(|number| (number, MILLISECOND * number))
            .collect();
        assert_eq!(arrivals, expected);
    }

    #[test]
    fn given_a_delay_when_packets_pass_then_each_is_late_by_exactly_that() {
        let (arrivals, _) = run(Impairment::delay(40 * MILLISECOND), 100, 100, MILLISECOND);
        assert!(
            arrivals
                .iter()
                .all(|(number, at)| *at == MILLISECOND * (number + 40))
        );
    }

    #[test]
    fn given_five_percent_loss_when_many_pass_then_about_five_percent_are_missing() {
        let impairment = Impairment {
            loss: Probability::percent(5),
            ..Impairment::default()
        };
        let (arrivals, stats) = run(impairment, 100_000, 100, MILLISECOND);
        // Five standard deviations of a binomial: sqrt(100000 * 0.05 * 0.95) = 69.
        assert!((4_655..=5_345).contains(&stats.lost), "{stats:?}");
        assert_eq!(arrivals.len() as u64, 100_000 - stats.lost);
    }

    #[test]
    fn given_the_same_seed_when_run_twice_then_the_same_packets_are_lost() {
        let impairment = Impairment {
            loss: Probability::percent(20),
            jitter: 3 * MILLISECOND,
            ..Impairment::default()
        };
        let first = run(impairment.clone(), 1_000, 100, MILLISECOND);
        assert_eq!(first, run(impairment, 1_000, 100, MILLISECOND));
    }

    #[test]
    fn given_jitter_when_packets_pass_then_delays_vary_within_it_and_order_holds() {
        let impairment = Impairment {
            delay: 20 * MILLISECOND,
            jitter: 5 * MILLISECOND,
            ..Impairment::default()
        };
        let (arrivals, _) = run(impairment, 10_000, 100, 20 * MILLISECOND);
        let delays: Vec<Duration> = arrivals
            .iter()
            .map(|(number, at)| *at - 20 * MILLISECOND * *number)
            .collect();
        let (least, most) = (delays.iter().min().unwrap(), delays.iter().max().unwrap());
        assert!(
            *least >= 15 * MILLISECOND && *least < 16 * MILLISECOND,
            "{least:?}"
        );
        assert!(
            *most <= 25 * MILLISECOND && *most > 24 * MILLISECOND,
            "{most:?}"
        );
        assert!(arrivals.is_sorted());
    }

    #[test]
    fn given_jitter_greater_than_the_spacing_when_packets_pass_then_none_overtakes() {
        let impairment = Impairment {
            delay: 20 * MILLISECOND,
            jitter: 20 * MILLISECOND,
            ..Impairment::default()
        };
        let (arrivals, _) = run(impairment, 1_000, 100, MILLISECOND);
        assert!(arrivals.iter().map(|(number, _)| number).is_sorted());
    }

    #[test]
    fn given_reordering_when_packets_pass_then_held_back_ones_are_overtaken_and_none_is_lost() {
        let impairment = Impairment {
            reorder: Probability::percent(10),
            reorder_by: 5 * MILLISECOND,
            ..Impairment::default()
        };
        let (arrivals, stats) = run(impairment, 10_000, 100, MILLISECOND);
        let overtaken = arrivals
            .windows(2)
            .filter(|pair| pair[0].0 > pair[1].0)
            .count();
        assert_eq!(arrivals.len(), 10_000);
        assert!((850..=1_150).contains(&stats.reordered), "{stats:?}");
        assert!(overtaken > 500, "{overtaken}");
    }

    #[test]
    fn given_duplication_when_packets_pass_then_copies_arrive_beside_the_originals() {
        let impairment = Impairment {
            duplicate: Probability::percent(10),
            ..Impairment::default()
        };
        let (mut arrivals, stats) = run(impairment, 10_000, 100, MILLISECOND);
        assert_eq!(arrivals.len() as u64, 10_000 + stats.duplicated);
        assert!((850..=1_150).contains(&stats.duplicated), "{stats:?}");
        arrivals.dedup();
        assert_eq!(arrivals.len(), 10_000);
    }

    #[test]
    fn given_ten_megabits_when_a_burst_comes_then_it_leaves_at_ten_megabits() {
        let impairment = Impairment {
            rate: Some(Rate::mbps(10)),
            ..Impairment::default()
        };
        let (arrivals, stats) = run(impairment, 100, 1_250, Duration::ZERO);
        // 1,250 bytes are 10,000 bits, one millisecond at this rate.
        assert_eq!(arrivals.last().unwrap().1, 100 * MILLISECOND);
        assert_eq!(stats.queue_dropped, 0);
    }

    #[test]
    fn given_a_short_queue_when_a_burst_comes_then_the_newest_are_dropped() {
        let impairment = Impairment {
            rate: Some(Rate::mbps(10)),
            queue_bytes: 12_500,
            ..Impairment::default()
        };
        let (arrivals, stats) = run(impairment, 100, 1_250, Duration::ZERO);
        let numbers: Vec<u32> = arrivals.iter().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..10).collect::<Vec<_>>());
        assert_eq!(stats.queue_dropped, 90);
    }

    #[test]
    fn given_a_long_delay_when_more_comes_than_may_be_on_the_way_then_the_rest_is_dropped() {
        let mut random = Random::from_seed(SEED);
        let mut link = LinkCore::new(Impairment::delay(Duration::from_secs(3600)));
        let megabyte = 1024 * 1024;
        for _ in 0..64 {
            let verdict = link.handle_packet(vec![0; megabyte], Duration::ZERO, &mut random);
            assert_eq!(verdict, Verdict::Scheduled);
        }
        let verdict = link.handle_packet(vec![0; 1], Duration::ZERO, &mut random);
        assert_eq!(verdict, Verdict::QueueFull);
    }

    #[test]
    fn given_a_delay_that_falls_when_packets_follow_then_those_on_the_way_are_not_overtaken() {
        let mut random = Random::from_seed(SEED);
        let mut link = LinkCore::new(Impairment::delay(40 * MILLISECOND));
        link.handle_packet(vec![1], Duration::ZERO, &mut random);
        link.set_impairment(Impairment::default());
        link.handle_packet(vec![2], MILLISECOND, &mut random);
        assert_eq!(link.poll_transmit(39 * MILLISECOND), None);
        assert_eq!(link.poll_transmit(40 * MILLISECOND), Some(vec![1]));
        assert_eq!(link.poll_transmit(40 * MILLISECOND), Some(vec![2]));
    }
}
