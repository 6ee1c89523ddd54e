//! A small mutator for the moment of fuzzing that every test run gets: seeded, so a failure comes back with its seed.

/// SplitMix64: enough to pick bytes, and the same everywhere.
#[derive(Debug, Clone)]
pub struct Random(u64);

impl Random {
    /// A generator that gives the same numbers for the same seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self(seed)
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `limit`, which is not 0.
    pub fn below(&mut self, limit: usize) -> usize {
        (self.next() % limit as u64) as usize
    }
}

/// No mutated input is longer, in bytes.
const MAX_INPUT: usize = 256 * 1024;

/// Bytes that decoders tend to trip over: extremes of lengths, tags and signs.
const INTERESTING: [u8; 9] = [0x00, 0x01, 0x7f, 0x80, 0xff, 0x30, 0x82, b'-', b'\n'];

/// Changes one of `corpus` in one to four ways. An empty corpus gives random bytes.
#[must_use]
pub fn mutate(corpus: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    let mut input = match corpus.len() {
        0 => Vec::new(),
        count => corpus[random.below(count)].clone(),
    };
    for _ in 0..=random.below(4) {
        change(&mut input, corpus, random);
    }
    input.truncate(MAX_INPUT);
    input
}

fn change(input: &mut Vec<u8>, corpus: &[Vec<u8>], random: &mut Random) {
    let at = random.below(input.len() + 1);
    let length = 1 + random.below(8);
    let end = (at + length).min(input.len());
    match random.below(7) {
        0 => input.truncate(at),
        1 if at < input.len() => input[at] ^= 1 << random.below(8),
        2 if at < input.len() => input[at] = INTERESTING[random.below(INTERESTING.len())],
        3 => input[at..end].fill(0xff),
        4 => drop(input.drain(at..end)),
        5 => {
            let again = input[at..end].repeat(1 + random.below(64));
            input.splice(at..at, again);
        }
        6 if !corpus.is_empty() => {
            let other = &corpus[random.below(corpus.len())];
            let from = random.below(other.len() + 1);
            input.truncate(at);
            input.extend_from_slice(&other[from..]);
        }
        _ => {
            let fresh: Vec<u8> = (0..length).map(|_| random.below(256) as u8).collect();
            input.splice(at..at, fresh);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_one_seed_when_mutated_twice_then_the_inputs_are_the_same() {
        let corpus = vec![b"hello".to_vec(), b"world, this is longer".to_vec()];
        let inputs = |seed| {
            let mut random = Random::new(seed);
            (0..100)
                .map(|_| mutate(&corpus, &mut random))
                .collect::<Vec<_>>()
        };

        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }
}
