//! What a call can be sent to, and which of them a request wants.

use std::collections::BTreeMap;
use std::num::NonZeroU32;

use crate::locality::Place;
use crate::random::mix;

/// What an endpoint says of itself: name → value. Whether a tag may be believed is decided before it comes here.
pub type Tags = BTreeMap<String, String>;

/// Something that takes calls.
///
/// `K` names it for the caller; it is cloned into every [`Pick`](crate::Pick), so take what clones without an
/// allocation (a peer id, a number, an `Arc`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint<K> {
    /// Who it is. One set holds a key once.
    pub key: K,
    /// [`stable_hash`] of who it is, the same on every machine: where it stands on the ring of
    /// [`ConsistentHash`](crate::Policy::ConsistentHash). Two endpoints with the same hash share their stretches of it.
    pub identity_hash: u64,
    /// Where it is.
    pub place: Place,
    /// What [`TagFilter`] looks at.
    pub tags: Tags,
    /// How much of the traffic it should take, relative to the others: twice the weight, twice the calls.
    pub weight: NonZeroU32,
}

impl<K> Endpoint<K> {
    /// An endpoint of weight 1, nowhere in particular, without tags.
    pub const fn new(key: K, identity_hash: u64) -> Self {
        Self {
            key,
            identity_hash,
            place: Place::nowhere(),
            tags: Tags::new(),
            weight: NonZeroU32::MIN,
        }
    }

    /// The same endpoint, at `place`.
    #[must_use]
    pub fn at(mut self, place: Place) -> Self {
        self.place = place;
        self
    }

    /// The same endpoint, with one tag more.
    #[must_use]
    pub fn tagged(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(name.into(), value.into());
        self
    }

    /// The same endpoint, with this weight.
    #[must_use]
    pub const fn weighing(mut self, weight: NonZeroU32) -> Self {
        self.weight = weight;
        self
    }
}

/// Tags that an endpoint must all carry with exactly these values. The empty filter matches everything.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct TagFilter(Tags);

impl TagFilter {
    /// Wants one tag.
    pub fn tag(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self::default().and(name, value)
    }

    /// Wants one tag more. Naming a tag again replaces the value wanted before.
    #[must_use]
    pub fn and(mut self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.0.insert(name.into(), value.into());
        self
    }

    /// Whether `tags` carry all that is wanted.
    pub fn matches(&self, tags: &Tags) -> bool {
        self.0
            .iter()
            .all(|(name, value)| tags.get(name) == Some(value))
    }
}

/// A hash that is the same in every process, on every machine and in every release: FNV-1a, then a finaliser that
/// spreads it over all 64 bits. For [`Endpoint::identity_hash`] and [`PickRequest::hash_key`](crate::PickRequest).
///
/// It withstands chance, not an adversary: who chooses keys can aim them at one endpoint, and the load bound of
/// [`ConsistentHash`](crate::Policy::ConsistentHash) is what limits the harm.
pub const fn stable_hash(bytes: &[u8]) -> u64 {
    let mut hash: u64 = 0xcbf2_9ce4_8422_2325;
    let mut index = 0;
    while index < bytes.len() {
        hash = (hash ^ bytes[index] as u64).wrapping_mul(0x0000_0100_0000_01b3);
        index += 1;
    }
    mix(hash)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_several_wanted_tags_when_one_differs_then_the_filter_does_not_match() {
        let filter = TagFilter::tag("role", "worker").and("gpu", "yes");
        let endpoint = Endpoint::new(1, 1).tagged("role", "worker");

        assert!(!filter.matches(&endpoint.tags));
        assert!(!filter.matches(&endpoint.clone().tagged("gpu", "no").tags));
        assert!(filter.matches(&endpoint.tagged("gpu", "yes").tags));
    }

    #[test]
    fn given_the_same_bytes_when_hashed_anywhere_then_the_value_is_this_one() {
        // A frozen vector: directors of different releases must agree on where a key lives.
        assert_eq!(stable_hash(b"warren"), 0x561c_27c8_2959_aee2);
        assert_ne!(stable_hash(b""), stable_hash(b"\0"));
    }
}
