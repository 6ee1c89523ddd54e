//! Where endpoints live: a slab whose indices stay while an endpoint stays, so that views, rings and calls in flight can
//! name one by a number. What policies read is apart from what only the caller needs.

use std::collections::BTreeMap;
use std::time::Instant;

use crate::endpoint::Endpoint;
use crate::locality::{Distance, FadingShare, Place};
use crate::outlier::Record;
use crate::policy::ewma::Latency;

/// Index of an endpoint in [`Slots`].
pub(crate) type SlotId = u32;

/// What is known of an endpoint by its calls.
#[derive(Debug)]
pub(crate) struct State {
    /// Raised when the slot's endpoint goes: a call of a former tenant no longer counts.
    pub(crate) generation: u32,
    pub(crate) weight: u32,
    pub(crate) identity_hash: u64,
    pub(crate) distance: Distance,
    pub(crate) in_flight: u32,
    /// Of those, the ones that have not been answered at all.
    pub(crate) unanswered: u32,
    /// Since when nothing was answered though something was asked.
    pub(crate) silent_since: Option<Instant>,
    pub(crate) latency: Option<Latency>,
    pub(crate) failures: FadingShare,
    pub(crate) record: Record,
    /// Number of its last pick; orders equals.
    pub(crate) last_pick: u64,
}

impl State {
    fn new<K>(endpoint: &Endpoint<K>, here: &Place, generation: u32) -> Self {
        Self {
            generation,
            weight: endpoint.weight.get(),
            identity_hash: endpoint.identity_hash,
            distance: here.distance(&endpoint.place),
            in_flight: 0,
            unanswered: 0,
            silent_since: None,
            latency: None,
            failures: FadingShare::default(),
            record: Record::default(),
            last_pick: 0,
        }
    }

    pub(crate) fn call_started(&mut self, now: Instant) {
        self.in_flight += 1;
        self.unanswered += 1;
        self.silent_since.get_or_insert(now);
    }

    pub(crate) fn call_answered(&mut self, now: Instant) {
        self.unanswered = self.unanswered.saturating_sub(1);
        self.silent_since = (self.unanswered > 0).then_some(now);
    }

    /// Gives up on a call without an answer: the silence goes on while others wait.
    pub(crate) fn call_abandoned(&mut self) {
        self.unanswered = self.unanswered.saturating_sub(1);
        if self.unanswered == 0 {
            self.silent_since = None;
        }
    }
}

/// All endpoints. `states` and `endpoints` have the same length; a free slot has no endpoint.
#[derive(Debug)]
pub(crate) struct Slots<K> {
    pub(crate) states: Vec<State>,
    endpoints: Vec<Option<Endpoint<K>>>,
    by_key: BTreeMap<K, SlotId>,
    free: Vec<SlotId>,
}

impl<K: Clone + Ord> Slots<K> {
    pub(crate) const fn new() -> Self {
        Self {
            states: Vec::new(),
            endpoints: Vec::new(),
            by_key: BTreeMap::new(),
            free: Vec::new(),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.by_key.len()
    }

    pub(crate) fn find(&self, key: &K) -> Option<SlotId> {
        self.by_key.get(key).copied()
    }

    pub(crate) fn endpoint(&self, slot: SlotId) -> Option<&Endpoint<K>> {
        self.endpoints.get(slot as usize)?.as_ref()
    }

    /// In the order of keys, so that a set gives the same picks whatever order it came in.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (SlotId, &Endpoint<K>)> {
        self.by_key
            .values()
            .filter_map(|slot| Some((*slot, self.endpoint(*slot)?)))
    }

    /// What a judgement takes: who there is, what is known of them, how many they are.
    pub(crate) fn judged(&mut self) -> (impl Iterator<Item = SlotId> + Clone, &mut [State], usize) {
        let ids = self.by_key.values().copied();
        (ids, &mut self.states, self.by_key.len())
    }

    /// Takes an endpoint in; one that is there keeps what is known of it.
    pub(crate) fn put(&mut self, endpoint: Endpoint<K>, here: &Place) {
        if let Some(slot) = self.find(&endpoint.key) {
            let state = &mut self.states[slot as usize];
            state.weight = endpoint.weight.get();
            state.identity_hash = endpoint.identity_hash;
            state.distance = here.distance(&endpoint.place);
            self.endpoints[slot as usize] = Some(endpoint);
            return;
        }
        let slot = match self.free.pop() {
            Some(slot) => {
                let state = &mut self.states[slot as usize];
                *state = State::new(&endpoint, here, state.generation);
                slot
            }
            None => {
                self.states.push(State::new(&endpoint, here, 0));
                self.endpoints.push(None);
                (self.states.len() - 1) as SlotId
            }
        };
        self.by_key.insert(endpoint.key.clone(), slot);
        self.endpoints[slot as usize] = Some(endpoint);
    }

    pub(crate) fn remove(&mut self, key: &K) {
        if let Some(slot) = self.by_key.remove(key) {
            let state = &mut self.states[slot as usize];
            state.generation = state.generation.wrapping_add(1);
            state.record = Record::default();
            self.endpoints[slot as usize] = None;
            self.free.push(slot);
        }
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.by_key.keys()
    }
}
