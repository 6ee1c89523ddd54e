//! The endpoints that one tag filter lets pass, ready to choose from: sorted by distance, without the ejected ones. Made
//! anew (O(n), with the ring O(n log n)) when the set changed or somebody was ejected or returned, and only then.

use crate::endpoint::TagFilter;
use crate::locality::{TIERS, TierLoad};
use crate::policy::{Chooser, Policy};
use crate::slots::{SlotId, Slots, State};

/// What the views were made from; a view with another one is stale.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) struct Epoch {
    /// Of the set of endpoints.
    pub(crate) set: u64,
    /// Of who is ejected.
    pub(crate) health: u64,
}

/// How a view is laid out.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Layout {
    pub(crate) is_local_first: bool,
    pub(crate) panic_percent: u32,
    pub(crate) epoch: Epoch,
}

/// Endpoints at one distance.
#[derive(Debug)]
pub(crate) struct Tier {
    /// All, whatever their health.
    pub(crate) members: Vec<SlotId>,
    member_weight: u64,
    /// Those that take calls.
    pub(crate) candidates: Vec<SlotId>,
    pub(crate) weight: u64,
    pub(crate) in_flight: u64,
    pub(crate) chooser: Chooser,
}

impl Tier {
    fn new(policy: &Policy) -> Self {
        Self {
            members: Vec::new(),
            member_weight: 0,
            candidates: Vec::new(),
            weight: 0,
            in_flight: 0,
            chooser: Chooser::new(policy),
        }
    }

    pub(crate) fn load(&self, refused_share: f64) -> TierLoad {
        TierLoad {
            weight: self.member_weight,
            endpoints: self.members.len(),
            healthy_weight: self.weight,
            in_flight: self.in_flight,
            refused_share,
        }
    }
}

/// Where a candidate stands.
#[derive(Debug, Clone, Copy)]
struct Position {
    tier: u8,
    index: u32,
}

/// See the [module](self).
#[derive(Debug)]
pub(crate) struct View {
    pub(crate) filter: Option<TagFilter>,
    /// Number of the last pick that used it.
    pub(crate) last_used: u64,
    epoch: Option<Epoch>,
    pub(crate) tiers: [Tier; TIERS],
    /// By slot.
    positions: Vec<Option<Position>>,
}

impl View {
    pub(crate) fn new(filter: Option<TagFilter>, policy: &Policy) -> Self {
        Self {
            filter,
            last_used: 0,
            epoch: None,
            tiers: std::array::from_fn(|_| Tier::new(policy)),
            positions: Vec::new(),
        }
    }

    pub(crate) fn members(&self) -> usize {
        self.tiers.iter().map(|tier| tier.members.len()).sum()
    }

    /// Brings the view up to date; O(1) when it is.
    pub(crate) fn refresh<K: Clone + Ord>(&mut self, slots: &Slots<K>, layout: Layout) {
        if self.epoch == Some(layout.epoch) {
            return;
        }
        if self.epoch.is_none_or(|epoch| epoch.set != layout.epoch.set) {
            self.collect_members(slots, layout);
        }
        self.collect_candidates(&slots.states, layout);
        self.epoch = Some(layout.epoch);
    }

    fn collect_members<K: Clone + Ord>(&mut self, slots: &Slots<K>, layout: Layout) {
        for tier in &mut self.tiers {
            tier.members.clear();
            tier.member_weight = 0;
        }
        for (slot, endpoint) in slots.iter() {
            if self
                .filter
                .as_ref()
                .is_none_or(|filter| filter.matches(&endpoint.tags))
            {
                let state = &slots.states[slot as usize];
                let tier = if layout.is_local_first {
                    state.distance as usize
                } else {
                    0
                };
                self.tiers[tier].members.push(slot);
                self.tiers[tier].member_weight += u64::from(state.weight);
            }
        }
        for tier in &mut self.tiers {
            tier.chooser.set_members(&tier.members, &slots.states);
        }
    }

    fn collect_candidates(&mut self, states: &[State], layout: Layout) {
        let is_well = |slot: &SlotId| !states[*slot as usize].record.is_ejected();
        let members = self.tiers.iter().flat_map(|tier| &tier.members);
        let well = members.filter(|slot| is_well(slot)).count();
        let is_panic = well * 100 < self.members() * layout.panic_percent as usize;
        self.positions.clear();
        self.positions.resize(states.len(), None);
        for (number, tier) in self.tiers.iter_mut().enumerate() {
            tier.candidates.clear();
            tier.candidates
                .extend(tier.members.iter().filter(|slot| is_panic || is_well(slot)));
            tier.weight = 0;
            tier.in_flight = 0;
            for (index, slot) in tier.candidates.iter().enumerate() {
                let state = &states[*slot as usize];
                tier.weight += u64::from(state.weight);
                tier.in_flight += u64::from(state.in_flight);
                self.positions[*slot as usize] = Some(Position {
                    tier: number as u8,
                    index: index as u32,
                });
            }
            tier.chooser.set_candidates(&tier.candidates, states);
        }
    }

    /// A call began (`1`) or ended (`-1`) at `slot`. A stale view may get this wrong; it is made anew before it is used.
    pub(crate) fn load_changed(&mut self, slot: SlotId, change: i64, states: &[State]) {
        if let Some(Some(position)) = self.positions.get(slot as usize) {
            let tier = &mut self.tiers[position.tier as usize];
            tier.in_flight = tier.in_flight.saturating_add_signed(change);
            tier.chooser
                .load_changed(position.index as usize, &states[slot as usize]);
        }
    }
}
