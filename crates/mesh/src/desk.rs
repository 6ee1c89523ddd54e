//! Where the transport leaves proofs of membership for the swarm to pick up.
//!
//! A transport can hand nothing but `(PeerId, muxer)` to the swarm, so what admission learnt about
//! the other side goes through here: the transport leaves one [`Admitted`] per connection, the
//! behaviours ask [`AdmissionDesk::is_member`] while the connection is being set up, and the swarm
//! task takes the proof once it stands. A connection that admission passed but that was never
//! established (the losing one of two simultaneous dials) leaves a proof behind; those are bounded
//! and the oldest go first.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use libp2p::PeerId;

use crate::core::admission::Admitted;

/// Proofs that wait to be picked up. More than twice the pending connections allowed.
const MAX_WAITING: usize = 1_024;

/// Proofs kept for one peer: as many as it may have connections.
const MAX_WAITING_PER_PEER: usize = 8;

#[derive(Debug, Default)]
pub(crate) struct AdmissionDesk {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<PeerId, Admitted>,
    /// Oldest first; a peer stands here once per proof.
    order: VecDeque<PeerId>,
    connected: BTreeMap<PeerId, usize>,
}

impl AdmissionDesk {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The state is consistent between any two statements below, so a panic elsewhere while
        // the lock was held cannot have broken it.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The transport admitted a connection of this member.
    pub(crate) fn leave(&self, admitted: Admitted) {
        let peer = admitted.member.peer_id;
        let mut state = self.lock();
        state.waiting.insert(peer, admitted);
        state.order.push_back(peer);
        if state.order.iter().filter(|p| **p == peer).count() > MAX_WAITING_PER_PEER
            && let Some(at) = state.order.iter().position(|p| *p == peer)
        {
            state.order.remove(at);
        }
        if state.order.len() > MAX_WAITING
            && let Some(oldest) = state.order.pop_front()
            && !state.order.contains(&oldest)
        {
            state.waiting.remove(&oldest);
        }
    }

    /// Whether connections of this peer are those of a member.
    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        let state = self.lock();
        state.waiting.contains_key(peer) || state.connected.contains_key(peer)
    }

    /// Where a member that waits says it stands.
    pub(crate) fn region(&self, peer: &PeerId) -> Option<String> {
        let state = self.lock();
        state.waiting.get(peer)?.record.value().region.clone()
    }

    /// The swarm task picks up the proof of a connection that now stands.
    pub(crate) fn take(&self, peer: &PeerId) -> Option<Admitted> {
        let mut state = self.lock();
        let at = state.order.iter().position(|p| p == peer)?;
        state.order.remove(at);
        if state.order.contains(peer) {
            state.waiting.get(peer).cloned()
        } else {
            state.waiting.remove(peer)
        }
    }

    /// A member's connection stands.
    pub(crate) fn opened(&self, peer: PeerId) {
        *self.lock().connected.entry(peer).or_default() += 1;
    }

    /// A member's connection is gone.
    pub(crate) fn closed(&self, peer: &PeerId) {
        let mut state = self.lock();
        if let Some(count) = state.connected.get_mut(peer) {
            *count -= 1;
            if *count == 0 {
                state.connected.remove(peer);
            }
        }
    }
}
