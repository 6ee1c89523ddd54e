//! The member table: states, the list of live members, hashes for sync, tombstones. Nothing here takes time linear in
//! the members, save what says so.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use crate::member::{Fingerprint, Member, State};
use crate::statement::SignedStatement;
use crate::wire::BUCKETS;

#[derive(Debug)]
pub(crate) struct Table {
    members: BTreeMap<Fingerprint, Member>,
    /// Live members in no particular order; each knows its index.
    live: Vec<Fingerprint>,
    suspects: usize,
    /// One hash per range of keys over the live members' incarnations, ourselves included.
    hashes: [u64; BUCKETS],
    tombstones: BTreeSet<(Instant, Fingerprint)>,
    tombstone_for: Duration,
}

impl Table {
    pub(crate) fn new(tombstone_for: Duration) -> Self {
        Self {
            members: BTreeMap::new(),
            live: Vec::new(),
            suspects: 0,
            hashes: [0; BUCKETS],
            tombstones: BTreeSet::new(),
            tombstone_for,
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.members.len()
    }

    pub(crate) fn live(&self) -> &[Fingerprint] {
        &self.live
    }

    /// Live members that nobody doubts.
    pub(crate) fn unsuspected(&self) -> usize {
        self.live.len() - self.suspects
    }

    pub(crate) fn get(&self, name: Fingerprint) -> Option<&Member> {
        self.members.get(&name)
    }

    pub(crate) fn get_mut(&mut self, name: Fingerprint) -> Option<&mut Member> {
        self.members.get_mut(&name)
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = (Fingerprint, &Member)> {
        self.members.iter().map(|(name, member)| (*name, member))
    }

    /// Members of one range of keys, ascending.
    pub(crate) fn bucket(&self, bucket: usize) -> impl Iterator<Item = (Fingerprint, &Member)> {
        let first = (bucket as u64) << 58;
        let last = first | (u64::MAX >> 6);
        self.members
            .range(Fingerprint(first)..=Fingerprint(last))
            .map(|(name, member)| (*name, member))
    }

    pub(crate) fn hashes(&self) -> &[u64; BUCKETS] {
        &self.hashes
    }

    /// Takes a live incarnation into the hashes, or out again.
    pub(crate) fn toggle(&mut self, name: Fingerprint, incarnation: u64) {
        self.hashes[bucket_of(name)] ^= mix(name.0 ^ mix(incarnation));
    }

    pub(crate) fn insert(&mut self, name: Fingerprint, member: Member) {
        let (state, incarnation, since) = (member.state, member.incarnation(), member.since);
        self.members.insert(name, member);
        self.enter(name, state, incarnation, since);
    }

    /// Puts a newer statement, and with it a state, in place of what is held. Returns the former state.
    pub(crate) fn replace(
        &mut self,
        name: Fingerprint,
        statement: Arc<SignedStatement>,
        state: State,
        now: Instant,
    ) -> Option<State> {
        let former = self.withdraw(name)?;
        let member = self.members.get_mut(&name)?;
        if member.state != state {
            member.since = now;
        }
        if member.statement.address != statement.address {
            member.address_lost = false;
        }
        member.state = state;
        member.statement = statement;
        let (incarnation, since) = (member.incarnation(), member.since);
        self.enter(name, state, incarnation, since);
        Some(former)
    }

    /// Moves a member to another state.
    pub(crate) fn set_state(&mut self, name: Fingerprint, state: State, now: Instant) {
        if self.withdraw(name).is_none() {
            return;
        }
        if let Some(member) = self.members.get_mut(&name) {
            member.state = state;
            member.since = now;
            let incarnation = member.incarnation();
            self.enter(name, state, incarnation, now);
        }
    }

    pub(crate) fn remove(&mut self, name: Fingerprint) -> Option<Member> {
        self.withdraw(name)?;
        self.members.remove(&name)
    }

    fn enter(&mut self, name: Fingerprint, state: State, incarnation: u64, since: Instant) {
        if state.is_live() {
            let index = self.live.len();
            self.live.push(name);
            if let Some(member) = self.members.get_mut(&name) {
                member.live_index = index;
            }
            self.toggle(name, incarnation);
        } else {
            self.tombstones.insert((since + self.tombstone_for, name));
        }
        self.suspects += usize::from(state == State::Suspect);
    }

    /// Takes a member out of every list but the map itself.
    fn withdraw(&mut self, name: Fingerprint) -> Option<State> {
        let member = self.members.get(&name)?;
        let (state, index, incarnation, since) = (
            member.state,
            member.live_index,
            member.incarnation(),
            member.since,
        );
        if state.is_live() {
            self.live.swap_remove(index);
            if let Some(moved) = self.live.get(index).copied()
                && let Some(member) = self.members.get_mut(&moved)
            {
                member.live_index = index;
            }
            self.toggle(name, incarnation);
        } else {
            self.tombstones.remove(&(since + self.tombstone_for, name));
        }
        self.suspects -= usize::from(state == State::Suspect);
        Some(state)
    }

    /// When the next tombstone expires, and whose.
    pub(crate) fn first_tombstone(&self) -> Option<(Instant, Fingerprint)> {
        self.tombstones.first().copied()
    }

    /// Failed members worth another attempt. Linear in the tombstones.
    pub(crate) fn retriable(&self) -> Vec<Fingerprint> {
        self.tombstones
            .iter()
            .map(|(_, name)| *name)
            .filter(|name| {
                self.get(*name)
                    .is_some_and(|member| member.state == State::Failed && !member.address_lost)
            })
            .collect()
    }

    /// Another key lives at this address: failed members are not tried there again. Linear in the tombstones.
    pub(crate) fn take_address(&mut self, address: SocketAddr) {
        for (_, name) in &self.tombstones {
            if let Some(member) = self.members.get_mut(name)
                && member.statement.address == address
            {
                member.address_lost = true;
            }
        }
    }

    /// Up to `count` different live members for which `fits` holds, at random. Gives up after a few attempts each, so
    /// it may find fewer than there are.
    pub(crate) fn sample(
        &self,
        random: &mut Xoshiro256PlusPlus,
        count: usize,
        fits: impl Fn(Fingerprint) -> bool,
    ) -> Vec<Fingerprint> {
        let mut chosen = Vec::with_capacity(count);
        if self.live.len() <= count * 4 {
            // So few that every one can be looked at.
            let mut all: Vec<_> = self
                .live
                .iter()
                .copied()
                .filter(|name| fits(*name))
                .collect();
            while chosen.len() < count && !all.is_empty() {
                chosen.push(all.swap_remove(random.random_range(0..all.len())));
            }
            return chosen;
        }
        for _ in 0..count * 4 {
            if chosen.len() == count {
                break;
            }
            let name = self.live[random.random_range(0..self.live.len())];
            if !chosen.contains(&name) && fits(name) {
                chosen.push(name);
            }
        }
        chosen
    }
}

/// The range of keys a member falls into: the first six bits, so a range is contiguous in the table.
pub(crate) fn bucket_of(name: Fingerprint) -> usize {
    (name.0 >> 58) as usize
}

/// The finaliser of SplitMix64.
fn mix(mut z: u64) -> u64 {
    z = z.wrapping_add(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}
