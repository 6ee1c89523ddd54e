//! Near before far: the caller's zone, then its region, then everything, and when calls spill over to the next.
//!
//! Calls stay as near as they can. A tier of distance gives calls to the next one
//! * when it is **unhealthy**: of its weight, the share that is not ejected, times
//!   [`overprovision_percent`](Locality::overprovision_percent), is what it keeps. With the default of 140 % it keeps all
//!   while at least 5 of 7 are well, and 70 % of the calls when half are;
//! * when it is **full**: the caller itself has [`full_at_in_flight`](Locality::full_at_in_flight) calls in flight there
//!   per endpoint (of mean weight). What is above goes on;
//! * when it **refuses**: the share of recent calls that its endpoints turned away as overloaded goes on at once.
//!
//! A tier with no endpoint in it is passed over. When every tier is full, the least full one takes the call.
//! With consistent hashing the key decides which calls spill, so that the same keys do.

use std::time::{Duration, Instant};

/// Where a caller or an endpoint is. Unknown parts match nothing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Place {
    /// Machines that are far from other regions, such as `us-west`.
    pub region: Option<String>,
    /// Machines of one region that share a building, such as `us-west-1a`.
    pub zone: Option<String>,
}

impl Place {
    /// A place of which nothing is known.
    pub const fn nowhere() -> Self {
        Self {
            region: None,
            zone: None,
        }
    }

    /// A zone of a region.
    pub fn new(region: impl Into<String>, zone: impl Into<String>) -> Self {
        Self {
            region: Some(region.into()),
            zone: Some(zone.into()),
        }
    }

    /// A region, in no known zone.
    pub fn region(region: impl Into<String>) -> Self {
        Self {
            region: Some(region.into()),
            zone: None,
        }
    }

    /// A zone counts as the same only when the regions do not contradict it: `a` of two regions are two zones.
    pub(crate) fn distance(&self, other: &Self) -> Distance {
        let same =
            |ours: &Option<String>, theirs: &Option<String>| ours.is_some() && ours == theirs;
        let regions_differ =
            self.region.is_some() && other.region.is_some() && self.region != other.region;
        if same(&self.zone, &other.zone) && !regions_differ {
            Distance::Zone
        } else if same(&self.region, &other.region) {
            Distance::Region
        } else {
            Distance::Elsewhere
        }
    }
}

/// How far an endpoint is; nearer is less.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Distance {
    Zone,
    Region,
    Elsewhere,
}

/// How many tiers there are.
pub(crate) const TIERS: usize = 3;

/// When calls leave the nearest endpoints. See the [module](self).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    /// A tier keeps this many percent of its healthy share, at most all. 140: the margin a tier is taken to have before
    /// the loss of some of its endpoints overloads the rest. Below 100 counts as 100.
    pub overprovision_percent: u32,
    /// A tier is full at this many of our own calls in flight per endpoint. 128: above what one caller keeps busy at a
    /// worker in good order (Little: 128 calls of 10 ms are 12,800 calls/s). 0 counts as 1.
    pub full_at_in_flight: u32,
}

impl Default for Locality {
    fn default() -> Self {
        Self {
            overprovision_percent: 140,
            full_at_in_flight: 128,
        }
    }
}

/// What locality looks at in a tier.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct TierLoad {
    /// Weight and number of all endpoints, ejected ones too.
    pub(crate) weight: u64,
    pub(crate) endpoints: usize,
    /// Weight of those that take calls, and their calls in flight.
    pub(crate) healthy_weight: u64,
    pub(crate) in_flight: u64,
    /// 0.0 to 1.0: calls lately turned away as overloaded.
    pub(crate) refused_share: f64,
}

impl TierLoad {
    /// Calls in flight per endpoint of mean weight.
    fn in_flight_per_endpoint(&self) -> f64 {
        if self.healthy_weight == 0 {
            return f64::INFINITY;
        }
        let mean_weight = self.weight as f64 / self.endpoints as f64;
        self.in_flight as f64 * mean_weight / self.healthy_weight as f64
    }
}

impl Locality {
    /// Which tier takes the call; `coin` is even in `0.0..1.0`.
    pub(crate) fn choose(&self, tiers: &[TierLoad; TIERS], mut coin: f64) -> usize {
        for (index, tier) in tiers.iter().enumerate() {
            let kept = self.kept_share(tier);
            if coin < kept {
                return index;
            }
            // What is left of the coin is even again among the calls that go on.
            coin = (coin - kept) / (1.0 - kept);
        }
        least_full(tiers)
    }

    fn kept_share(&self, tier: &TierLoad) -> f64 {
        if tier.healthy_weight == 0
            || tier.in_flight_per_endpoint() >= f64::from(self.full_at_in_flight.max(1))
        {
            return 0.0;
        }
        let healthy = tier.healthy_weight as f64 / tier.weight as f64;
        let overprovision = f64::from(self.overprovision_percent.max(100)) / 100.0;
        (healthy * overprovision).min(1.0) * (1.0 - tier.refused_share)
    }
}

/// The tier with the fewest calls in flight per endpoint; the nearest among equals.
fn least_full(tiers: &[TierLoad; TIERS]) -> usize {
    let mut best = 0;
    for index in 1..TIERS {
        if tiers[index].in_flight_per_endpoint() < tiers[best].in_flight_per_endpoint() {
            best = index;
        }
    }
    best
}

/// A share of recent events: an average by count that also fades with time, so that silence forgives.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct FadingShare {
    value: f64,
    at: Option<Instant>,
}

impl FadingShare {
    /// 0.0 to 1.0, faded by `e` per `fade`.
    pub(crate) fn get(&self, fade: Duration, now: Instant) -> f64 {
        match self.at {
            Some(at) if self.value > 0.0 => {
                let age = now.saturating_duration_since(at).as_secs_f64();
                self.value * (-age / fade.as_secs_f64()).exp()
            }
            _ => 0.0,
        }
    }

    /// Takes one event into the average with `gain` (0.0 to 1.0).
    pub(crate) fn record(&mut self, happened: Happened, gain: f64, fade: Duration, now: Instant) {
        if happened == Happened::No && self.value == 0.0 {
            return;
        }
        let target = match happened {
            Happened::Yes => 1.0,
            Happened::No => 0.0,
        };
        let value = self.get(fade, now);
        self.value = value + gain * (target - value);
        self.at = Some(now);
    }
}

/// Whether an event was of the counted kind.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Happened {
    Yes,
    No,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tier(endpoints: u32, healthy: u32, in_flight: u64) -> TierLoad {
        TierLoad {
            weight: u64::from(endpoints),
            endpoints: endpoints as usize,
            healthy_weight: u64::from(healthy),
            in_flight,
            refused_share: 0.0,
        }
    }

    fn share_of_first(tiers: &[TierLoad; TIERS]) -> f64 {
        let locality = Locality::default();
        let local =
            (0..1_000).filter(|step| locality.choose(tiers, f64::from(*step) / 1_000.0) == 0);
        local.count() as f64 / 1_000.0
    }

    #[test]
    fn given_places_when_compared_then_zone_is_nearer_than_region_and_unknown_is_far() {
        let here = Place::new("eu", "a");

        assert_eq!(here.distance(&Place::new("eu", "a")), Distance::Zone);
        assert_eq!(here.distance(&Place::new("eu", "b")), Distance::Region);
        assert_eq!(here.distance(&Place::region("eu")), Distance::Region);
        assert_eq!(here.distance(&Place::new("us", "a")), Distance::Elsewhere);
        assert_eq!(
            Place::nowhere().distance(&Place::nowhere()),
            Distance::Elsewhere
        );
    }

    #[test]
    fn given_a_healthy_zone_when_choosing_then_every_call_stays() {
        assert_eq!(
            share_of_first(&[tier(7, 5, 0), tier(9, 9, 0), tier(9, 9, 0)]),
            1.0
        );
    }

    #[test]
    fn given_half_a_zone_when_choosing_then_seven_of_ten_calls_stay() {
        let share = share_of_first(&[tier(10, 5, 0), tier(9, 9, 0), TierLoad::default()]);

        assert!((share - 0.7).abs() < 0.01, "{share}");
    }

    #[test]
    fn given_a_zone_that_refuses_a_fifth_when_choosing_then_a_fifth_goes_on() {
        let mut zone = tier(10, 10, 0);
        zone.refused_share = 0.2;

        let share = share_of_first(&[zone, tier(9, 9, 0), TierLoad::default()]);

        assert!((share - 0.8).abs() < 0.01, "{share}");
    }

    #[test]
    fn given_a_full_zone_and_an_empty_region_when_choosing_then_calls_go_elsewhere() {
        let tiers = [tier(2, 2, 256), TierLoad::default(), tier(3, 3, 0)];

        assert_eq!(Locality::default().choose(&tiers, 0.0), 2);
    }

    #[test]
    fn given_all_tiers_full_when_choosing_then_the_least_full_takes_the_call() {
        let tiers = [tier(2, 2, 600), tier(2, 2, 300), tier(2, 2, 400)];

        assert_eq!(Locality::default().choose(&tiers, 0.5), 1);
    }
}
