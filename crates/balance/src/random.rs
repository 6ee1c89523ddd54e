//! The balancer's dice: SplitMix64 (Steele, Lea, Flood 2014), seeded by the caller. Fast and even; no secret.

/// A generator whose whole future follows from its seed.
#[derive(Debug, Clone)]
pub(crate) struct Dice(u64);

impl Dice {
    pub(crate) const fn new(seed: u64) -> Self {
        Self(seed)
    }

    pub(crate) const fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        mix(self.0)
    }

    /// Evenly from `0..bound`; 0 for a bound of 0. The bias of the multiply-shift (at most `bound / 2^64`) is no matter.
    pub(crate) const fn below(&mut self, bound: u64) -> u64 {
        ((self.roll() as u128 * bound as u128) >> 64) as u64
    }
}

/// Maps 64 random bits to `0.0..1.0`.
pub(crate) const fn fraction_of(bits: u64) -> f64 {
    (bits >> 11) as f64 / (1_u64 << 53) as f64
}

/// SplitMix64's finaliser: every input bit reaches every output bit; one to one.
pub(crate) const fn mix(mut z: u64) -> u64 {
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_a_seed_when_rolled_then_the_reference_sequence_comes_out() {
        let mut dice = Dice::new(0);

        assert_eq!(dice.roll(), 0xe220_a839_7b1d_cdaf);
        assert_eq!(dice.roll(), 0x6e78_9e6a_a1b9_65f4);
    }

    #[test]
    fn given_a_bound_when_rolled_often_then_every_value_below_it_is_as_likely() {
        let mut dice = Dice::new(7);
        let mut counts = [0_u32; 5];

        for _ in 0..50_000 {
            counts[dice.below(5) as usize] += 1;
        }

        for count in counts {
            assert!((9_500..10_500).contains(&count), "{counts:?}");
        }
    }
}
