//! The balancer itself: a set of endpoints, who of them takes the next call, and what their calls came to.

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use thiserror::Error;

use crate::endpoint::{Endpoint, TagFilter};
use crate::locality::{FadingShare, Happened, Locality, Place, TIERS, TierLoad};
use crate::outlier::{Change, EjectionReason, Ejector, OutlierSettings};
use crate::policy::ewma::{Baseline, FAILURE_GAIN, Latency};
use crate::policy::{Candidates, PeakEwma, Policy};
use crate::random::{Dice, fraction_of, mix};
use crate::slots::{SlotId, Slots, State};
use crate::view::{Epoch, Layout, View};

/// Most endpoints of one balancer. Of a larger set, those with the greatest keys are left out.
pub const MAX_ENDPOINTS: usize = 16_384;

/// Most tag filters whose matches are kept ready. One more, and the filter not asked for the longest is made anew, in
/// O(n), when it is asked for again.
pub const MAX_FILTERS: usize = 16;

/// Most events that wait for [`Balancer::poll_event`]. Of more, the oldest are lost.
pub const MAX_EVENTS: usize = 1_024;

/// How far one refusal moves a tier's share of refusals: the share is about that of its last 32 calls.
const REFUSAL_GAIN: f64 = 1.0 / 32.0;

/// How fast a tier's refusals are forgotten when nothing is heard. A burst is over in seconds.
const REFUSAL_FADE: Duration = Duration::from_secs(5);

/// How a [`Balancer`] decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How one of the endpoints is chosen.
    pub policy: Policy,
    /// Near before far; `None` takes all endpoints for equally far.
    pub locality: Option<Locality>,
    /// Ejection of outliers; `None` never ejects.
    pub outliers: Option<OutlierSettings>,
}

impl Default for Settings {
    /// Two choices by peak EWMA, near before far, outliers ejected.
    fn default() -> Self {
        Self {
            policy: Policy::default(),
            locality: Some(Locality::default()),
            outliers: Some(OutlierSettings::default()),
        }
    }
}

/// What a call asks of its endpoint. The default asks nothing.
#[derive(Debug)]
pub struct PickRequest<'a, K> {
    /// What the call is about, for [`Policy::ConsistentHash`]: calls with the same key go to the same endpoint. `None`
    /// goes anywhere.
    pub hash_key: Option<u64>,
    /// Not these: tried before, say, or without a connection. Few, since each is looked for.
    pub exclude: &'a [K],
    /// Only endpoints that match. See [`MAX_FILTERS`].
    pub filter: Option<&'a TagFilter>,
}

impl<K> Clone for PickRequest<'_, K> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<K> Copy for PickRequest<'_, K> {}

impl<K> Default for PickRequest<'_, K> {
    fn default() -> Self {
        Self {
            hash_key: None,
            exclude: &[],
            filter: None,
        }
    }
}

/// Why there is nobody to send a call to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NoEndpoint {
    /// The set is empty. Wait until discovery brings an endpoint.
    #[error("no endpoint is known yet; check that one is running and that its role is proven")]
    Empty,
    /// Endpoints are known, but none carries the wanted tags. Another set or another filter may help, a retry does not.
    #[error("none of the {known} known endpoints carries the wanted tags")]
    NoneMatches {
        /// Endpoints in the set.
        known: usize,
    },
    /// All that match were excluded by the request. Exclude fewer (wait, then try them again) or give up.
    #[error("all {matching} endpoints that match were tried or are excluded")]
    AllExcluded {
        /// Endpoints that carry the tags.
        matching: usize,
    },
}

/// A call in flight at an endpoint. Hand it to [`Balancer::finished`] exactly once, whatever becomes of the call: one
/// that is lost counts as in flight for as long as the endpoint stays.
#[must_use = "the call counts as in flight until it is finished"]
#[derive(Debug)]
pub struct Pick<K> {
    key: K,
    slot: SlotId,
    generation: u32,
    is_answered: bool,
}

impl<K> Pick<K> {
    /// Whom to call.
    pub const fn key(&self) -> &K {
        &self.key
    }
}

/// What became of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Answered, whatever the answer says: an application's error is the endpoint at work.
    Success,
    /// The endpoint's fault: connection lost or refused, internal error, no answer within a time that ought to be
    /// enough. A deadline that the caller chose too short is [`Cancelled`](Self::Cancelled).
    Failure,
    /// The endpoint turned the call away because it has too much to do. Costs it traffic, but never ejects it.
    Overloaded,
    /// The caller no longer wants the answer. Tells only that the call took at least this long.
    Cancelled,
    /// The call never left: as if it had not been picked.
    NotSent,
}

/// What [`Balancer::update`] did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Changes {
    /// Endpoints that were not there.
    pub added: usize,
    /// Endpoints that are no longer there.
    pub removed: usize,
    /// Endpoints that stay with another place, weight, hash or other tags.
    pub altered: usize,
    /// Endpoints left out because of [`MAX_ENDPOINTS`].
    pub left_out: usize,
}

/// What happened to an endpoint, for logs and metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event<K> {
    /// It takes no calls for a while.
    Ejected {
        /// Who.
        key: K,
        /// Why.
        reason: EjectionReason,
        /// When it returns at the latest.
        until: Instant,
    },
    /// It takes calls again.
    Returned {
        /// Who.
        key: K,
    },
}

/// What is known of an endpoint, for people.
#[derive(Debug, Clone, PartialEq)]
pub struct EndpointStatus<'a, K> {
    /// The endpoint as it was handed in.
    pub endpoint: &'a Endpoint<K>,
    /// Calls in flight there, of this balancer.
    pub in_flight: u32,
    /// What a call would take there; zero before any call was answered.
    pub latency: Duration,
    /// Recent share of calls that failed or were refused, 0.0 to 1.0.
    pub failure_share: f64,
    /// When it returns, while it is ejected.
    pub ejected_until: Option<Instant>,
}

/// Chooses the endpoint for each call.
///
/// # Order of calls
///
/// [`update`](Self::update) whenever the set changes; then for each call [`pick`](Self::pick), make the call, perhaps
/// [`answered`](Self::answered), and [`finished`](Self::finished). A pick is in flight from the moment it is made: there
/// is no gap in which a second thread could see the endpoint as idle still. `now` never has to be exact, but should not
/// run backwards; where it does, the time between counts as zero.
///
/// # Threads
///
/// A balancer has one owner and no lock of its own. `pick` and `finished` are O(1) to O(log n), short (tens to a few
/// hundred nanoseconds) and allocate nothing, so that a plain mutex around a balancer carries about a million calls a
/// second; never hold it across an await. Where a runtime per core is used, give each a balancer (and a seed) of its own:
/// each then judges endpoints by its own calls, and two choices keep independent balancers from falling upon the same
/// endpoint. Only the pick after a change (of the set, of who is ejected, to a filter not seen before) takes O(n).
#[derive(Debug)]
pub struct Balancer<K> {
    settings: Settings,
    measuring: PeakEwma,
    here: Place,
    slots: Slots<K>,
    /// The first has no filter; then at most [`MAX_FILTERS`] with one.
    views: Vec<View>,
    epoch: Epoch,
    ejector: Option<Ejector>,
    baseline: Baseline,
    refusals: [FadingShare; TIERS],
    dice: Dice,
    picks: u64,
    events: VecDeque<Event<K>>,
    /// The request's exclusions as slots; kept for its memory.
    excluded: Vec<SlotId>,
}

impl<K: Clone + Ord> Balancer<K> {
    /// A balancer without endpoints, for a caller at `here`. The same `seed` and inputs give the same picks.
    pub fn new(settings: Settings, here: Place, seed: u64) -> Self {
        let measuring = match &settings.policy {
            Policy::PeakEwma(ewma) => ewma.clone(),
            _ => PeakEwma::default(),
        };
        Self {
            measuring,
            here,
            slots: Slots::new(),
            views: vec![View::new(None, &settings.policy)],
            epoch: Epoch::default(),
            ejector: settings.outliers.clone().map(Ejector::new),
            baseline: Baseline::default(),
            refusals: [FadingShare::default(); TIERS],
            dice: Dice::new(seed),
            picks: 0,
            events: VecDeque::new(),
            excluded: Vec::new(),
            settings,
        }
    }

    /// Makes the set exactly these endpoints, in one step. What is known of those that stay is kept; of two with one key
    /// the later counts. Calls in flight at endpoints that go may still be finished, which then changes nothing.
    pub fn update(&mut self, endpoints: impl IntoIterator<Item = Endpoint<K>>) -> Changes {
        let mut wanted: BTreeMap<K, Endpoint<K>> = endpoints
            .into_iter()
            .map(|endpoint| (endpoint.key.clone(), endpoint))
            .collect();
        let mut changes = Changes::default();
        while wanted.len() > MAX_ENDPOINTS {
            wanted.pop_last();
            changes.left_out += 1;
        }
        let gone: Vec<K> = self
            .slots
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        changes.removed = gone.len();
        for key in &gone {
            self.slots.remove(key);
        }
        for endpoint in wanted.into_values() {
            match self.slots.find(&endpoint.key) {
                None => changes.added += 1,
                Some(slot) if self.slots.endpoint(slot) == Some(&endpoint) => continue,
                Some(_) => changes.altered += 1,
            }
            self.slots.put(endpoint, &self.here);
        }
        if changes.added + changes.removed + changes.altered > 0 {
            self.epoch.set += 1;
            self.recount_ejected();
        }
        changes
    }

    /// How many endpoints there are.
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether there is no endpoint at all.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Chooses an endpoint and counts a call in flight there.
    ///
    /// An endpoint that is ejected or excluded is never picked while another remains that is neither. When only ejected
    /// ones are left that were not excluded, one of those takes the call: a try is better than none.
    ///
    /// # Errors
    ///
    /// [`NoEndpoint`], which leaves nothing counted.
    pub fn pick(
        &mut self,
        now: Instant,
        request: &PickRequest<'_, K>,
    ) -> Result<Pick<K>, NoEndpoint> {
        if self.is_empty() {
            return Err(NoEndpoint::Empty);
        }
        self.run_due(now);
        self.excluded.clear();
        for key in request.exclude {
            match self.slots.find(key) {
                Some(slot) if !self.excluded.contains(&slot) => self.excluded.push(slot),
                _ => {}
            }
        }
        let view = self.view_for(request.filter);
        let matching = self.views[view].members();
        if matching == 0 {
            return Err(NoEndpoint::NoneMatches {
                known: self.slots.len(),
            });
        }
        let slot = self
            .choose(view, request, now)
            .or_else(|| self.last_resort(view))
            .ok_or(NoEndpoint::AllExcluded { matching })?;
        let key = match self.slots.endpoint(slot) {
            Some(endpoint) => endpoint.key.clone(),
            // A fresh view names endpoints of the set only.
            None => return Err(NoEndpoint::Empty),
        };
        Ok(self.start(slot, key, now))
    }

    /// The first answer to a call that goes on (a stream's first item): its latency is learnt now, and the call is no
    /// longer waited for. It stays in flight until [`finished`](Self::finished), whose latency then counts no more.
    pub fn answered(&mut self, pick: &mut Pick<K>, latency: Duration, now: Instant) {
        if pick.is_answered || !self.is_current(pick) {
            return;
        }
        pick.is_answered = true;
        let state = &mut self.slots.states[pick.slot as usize];
        state.call_answered(now);
        observe_latency(state, &mut self.baseline, &self.measuring, latency, now);
        if let Some(ejector) = &mut self.ejector {
            ejector.succeeded(state, Some(latency), now);
        }
    }

    /// The call ended. `latency` runs from when it was sent to its (first) answer, or until it was given up.
    pub fn finished(&mut self, pick: Pick<K>, outcome: Outcome, latency: Duration, now: Instant) {
        if !self.is_current(&pick) {
            return;
        }
        let Pick {
            slot, is_answered, ..
        } = pick;
        let state = &mut self.slots.states[slot as usize];
        state.in_flight = state.in_flight.saturating_sub(1);
        if !is_answered {
            match outcome {
                Outcome::Success | Outcome::Overloaded => state.call_answered(now),
                Outcome::Failure | Outcome::Cancelled | Outcome::NotSent => state.call_abandoned(),
            }
        }
        for view in &mut self.views {
            view.load_changed(slot, -1, &self.slots.states);
        }
        self.learn(slot, outcome, (!is_answered).then_some(latency), now);
        self.run_due(now);
    }

    /// The next thing that happened, oldest first. See [`MAX_EVENTS`].
    pub fn poll_event(&mut self) -> Option<Event<K>> {
        self.events.pop_front()
    }

    /// What is known of each endpoint, in the order of keys.
    pub fn status(&self, now: Instant) -> impl Iterator<Item = EndpointStatus<'_, K>> {
        self.slots.iter().map(move |(slot, endpoint)| {
            let state = &self.slots.states[slot as usize];
            let latency_s = self.measuring.latency_s(state, self.baseline.get_s(), now);
            EndpointStatus {
                endpoint,
                in_flight: state.in_flight,
                latency: Duration::try_from_secs_f64(latency_s).unwrap_or(Duration::MAX),
                failure_share: state.failures.get(self.measuring.effective_decay(), now),
                ejected_until: state.record.ejected_until(),
            }
        })
    }

    fn is_current(&self, pick: &Pick<K>) -> bool {
        self.slots.states[pick.slot as usize].generation == pick.generation
    }

    fn start(&mut self, slot: SlotId, key: K, now: Instant) -> Pick<K> {
        let state = &mut self.slots.states[slot as usize];
        state.call_started(now);
        self.picks += 1;
        state.last_pick = self.picks;
        let generation = state.generation;
        for view in &mut self.views {
            view.load_changed(slot, 1, &self.slots.states);
        }
        Pick {
            key,
            slot,
            generation,
            is_answered: false,
        }
    }

    /// The index of the filter's view, up to date.
    fn view_for(&mut self, filter: Option<&TagFilter>) -> usize {
        let found = self
            .views
            .iter()
            .position(|view| view.filter.as_ref() == filter);
        let index = found.unwrap_or_else(|| {
            let view = View::new(filter.cloned(), &self.settings.policy);
            if self.views.len() <= MAX_FILTERS {
                self.views.push(view);
                return self.views.len() - 1;
            }
            let stalest = (1..self.views.len())
                .min_by_key(|index| self.views[*index].last_used)
                .unwrap_or(1);
            self.views[stalest] = view;
            stalest
        });
        let layout = Layout {
            is_local_first: self.settings.locality.is_some(),
            panic_percent: self
                .ejector
                .as_ref()
                .map_or(0, |ejector| ejector.settings.panic_percent.min(100)),
            epoch: self.epoch,
        };
        let view = &mut self.views[index];
        view.last_used = self.picks;
        view.refresh(&self.slots, layout);
        index
    }

    fn choose(
        &mut self,
        view: usize,
        request: &PickRequest<'_, K>,
        now: Instant,
    ) -> Option<SlotId> {
        let hash = match request.hash_key {
            Some(key) => mix(key),
            None => self.dice.roll(),
        };
        let first = self.nearest_with_room(view, hash, now);
        let others = (0..TIERS).filter(|tier| *tier != first);
        for tier in std::iter::once(first).chain(others) {
            let tier = &mut self.views[view].tiers[tier];
            let candidates = Candidates {
                slots: &tier.candidates,
                weight: tier.weight,
                in_flight: tier.in_flight,
                excluded: &self.excluded,
                states: &self.slots.states,
                baseline_s: self.baseline.get_s(),
                hash,
                now,
            };
            let chosen = tier.chooser.choose(&candidates, &mut self.dice);
            if chosen.is_some() {
                return chosen;
            }
        }
        None
    }

    /// The tier that takes the call. With a key, the key is the coin: the same keys spill over.
    fn nearest_with_room(&self, view: usize, hash: u64, now: Instant) -> usize {
        let Some(locality) = &self.settings.locality else {
            return 0;
        };
        let loads: [TierLoad; TIERS] = std::array::from_fn(|index| {
            let refused_share = self.refusals[index].get(REFUSAL_FADE, now);
            self.views[view].tiers[index].load(refused_share)
        });
        // Mixed once more, so that it is independent of where the key stands on the ring.
        locality.choose(&loads, fraction_of(mix(hash)))
    }

    /// Of the members that are not excluded, all ejected, the nearest with the fewest calls.
    fn last_resort(&self, view: usize) -> Option<SlotId> {
        self.views[view]
            .tiers
            .iter()
            .flat_map(|tier| &tier.members)
            .filter(|slot| !self.excluded.contains(slot))
            .min_by_key(|slot| {
                let state = &self.slots.states[**slot as usize];
                (state.distance, state.in_flight, state.last_pick)
            })
            .copied()
    }

    /// `latency` is `None` where an earlier answer was learnt from.
    fn learn(&mut self, slot: SlotId, outcome: Outcome, latency: Option<Duration>, now: Instant) {
        let decay = self.measuring.effective_decay();
        let endpoints = self.slots.len();
        let state = &mut self.slots.states[slot as usize];
        let failed = match outcome {
            Outcome::Success => Happened::No,
            Outcome::Failure | Outcome::Overloaded => Happened::Yes,
            Outcome::Cancelled => {
                observe_at_least(state, self.baseline, decay, latency, now);
                return;
            }
            Outcome::NotSent => return,
        };
        state.failures.record(failed, FAILURE_GAIN, decay, now);
        let refused = match outcome {
            Outcome::Overloaded => Happened::Yes,
            _ => Happened::No,
        };
        self.refusals[state.distance as usize].record(refused, REFUSAL_GAIN, REFUSAL_FADE, now);
        match outcome {
            Outcome::Success => {
                if let Some(latency) = latency {
                    observe_latency(state, &mut self.baseline, &self.measuring, latency, now);
                }
                if let Some(ejector) = &mut self.ejector {
                    ejector.succeeded(state, latency, now);
                }
            }
            Outcome::Failure => {
                observe_at_least(state, self.baseline, decay, latency, now);
                if let Some(ejector) = &mut self.ejector {
                    let change = ejector.failed(slot, &mut self.slots.states, endpoints, now);
                    change.into_iter().for_each(|change| self.apply(change));
                }
            }
            Outcome::Overloaded | Outcome::Cancelled | Outcome::NotSent => {}
        }
    }

    fn run_due(&mut self, now: Instant) {
        let Some(ejector) = self.ejector.as_mut().filter(|ejector| ejector.is_due(now)) else {
            return;
        };
        let mut changes = Vec::new();
        let (ids, states, endpoints) = self.slots.judged();
        ejector.run_due(ids, states, endpoints, now, |change| changes.push(change));
        for change in changes {
            self.apply(change);
        }
    }

    fn recount_ejected(&mut self) {
        let Some(ejector) = &mut self.ejector else {
            return;
        };
        let mut changes = Vec::new();
        let (ids, states, endpoints) = self.slots.judged();
        ejector.set_changed(ids, states, endpoints, |change| changes.push(change));
        for change in changes {
            self.apply(change);
        }
    }

    fn apply(&mut self, change: Change) {
        self.epoch.health += 1;
        let (Change::Ejected { slot, .. } | Change::Returned { slot }) = change;
        let Some(endpoint) = self.slots.endpoint(slot) else {
            return;
        };
        let key = endpoint.key.clone();
        if self.events.len() == MAX_EVENTS {
            self.events.pop_front();
        }
        self.events.push_back(match change {
            Change::Ejected { reason, until, .. } => Event::Ejected { key, reason, until },
            Change::Returned { .. } => Event::Returned { key },
        });
    }
}

fn observe_latency(
    state: &mut State,
    baseline: &mut Baseline,
    measuring: &PeakEwma,
    latency: Duration,
    now: Instant,
) {
    let decay = measuring.effective_decay();
    match &mut state.latency {
        Some(known) => known.observe(latency, baseline.get_s(), decay, now),
        None => state.latency = Some(Latency::first(latency, now)),
    }
    baseline.observe(latency, decay, now);
}

fn observe_at_least(
    state: &mut State,
    baseline: Baseline,
    decay: Duration,
    latency: Option<Duration>,
    now: Instant,
) {
    let Some(latency) = latency else { return };
    if let Some(known) = &mut state.latency {
        known.observe_at_least(latency, baseline.get_s(), decay, now);
    } else if baseline
        .get_s()
        .is_none_or(|mean_s| latency.as_secs_f64() > mean_s)
    {
        state.latency = Some(Latency::first(latency, now));
    }
}
