//! Whose leaf says what: proven in a session, or fetched from anyone, and looked at again when trust changes.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use warren_identity::{PeerId, UnixTime, decode_chain, encode_chain};
use warren_swim::Credentials;

use super::Driver;
use crate::core::frame::{Frame, MAX_ASKED, MAX_FRAME_BYTES};
use crate::core::vault::{Known, LEAF_TAG, is_final, leaf_name};
use crate::link::{Proven, REFUSED};
use crate::tls::random_bytes;

impl Driver {
    /// Tells everyone which leaf this node has.
    pub(super) fn name_own_leaf(&mut self, now: Instant) {
        let Some(name) = leaf_name(&self.shell.trust.chain()) else {
            return;
        };
        if let Err(error) = self.swim.set_tag(LEAF_TAG, &name, now) {
            tracing::debug!(%error, "this node's leaf is not announced");
        }
    }

    /// The leaf that a member says it has.
    fn announced_leaf(&self, peer: &PeerId) -> Option<&str> {
        self.swim.member(peer)?.statement().tags.get(LEAF_TAG)
    }

    /// Sees to it that the core knows what a member's present leaf grants.
    pub(super) fn check_credentials(&mut self, peer: &PeerId, now: Instant) {
        let Some(member) = self.swim.member(peer) else {
            return;
        };
        let announced = member.statement().tags.get(LEAF_TAG);
        let known = self.vault.get(peer);
        let known = known.filter(|known| announced.is_none_or(|leaf| leaf == known.leaf));
        match known {
            Some(known) if member.capabilities() == Some(&known.member.capabilities) => {}
            Some(known) => {
                let proven = Credentials::Proven(known.member.capabilities.clone());
                self.swim.handle_credentials(peer, proven, now);
            }
            None => self.vault.want(*peer, now),
        }
    }

    /// A session has shown a member's leaf, or a chain that somebody passed on has.
    pub(super) fn learn(&mut self, proven: Proven, now: Instant) {
        let peer = proven.member.peer_id;
        let Some(leaf) = leaf_name(&proven.chain) else {
            return;
        };
        let capabilities = proven.member.capabilities.clone();
        let known = Known {
            member: proven.member,
            chain: Bytes::from(encode_chain(&proven.chain)),
            leaf,
        };
        self.vault.learn(peer, known);
        let proven = Credentials::Proven(capabilities);
        self.swim.handle_credentials(&peer, proven, now);
    }

    /// Asks for the chains that are wanted: a member that is connected for its own, and anyone else for the others.
    pub(super) fn ask(&mut self, now: Instant) {
        let due = self.vault.due(now);
        let (connected, others): (Vec<_>, Vec<_>) = due
            .anyone
            .into_iter()
            .partition(|peer| !self.links.of(peer).is_empty());
        for peer in connected.into_iter().chain(due.themselves) {
            let address = self
                .swim
                .member(&peer)
                .map(|member| member.statement().address);
            match address {
                Some(address) => self.send(peer, Some(address), Frame::Ask(vec![peer]), now),
                None => self.vault.forget(&peer),
            }
        }
        for wanted in others.chunks(MAX_ASKED) {
            let count = self.links.peers().len().max(1);
            let index = usize::from(u16::from_be_bytes(random_bytes())) % count;
            let peer = self.links.peers().nth(index).copied();
            if let Some(peer) = peer {
                self.send(peer, None, Frame::Ask(wanted.to_vec()), now);
            }
        }
    }

    /// Somebody asks for chains.
    pub(super) fn answer(&mut self, from: PeerId, asked: &[PeerId], now: Instant) {
        let own = if asked.contains(&self.own) {
            encode_chain(&self.shell.trust.chain())
        } else {
            Vec::new()
        };
        let room = MAX_FRAME_BYTES.saturating_sub(own.len() + 64);
        let mut chains = self.vault.answer(asked, room);
        if !own.is_empty() {
            chains.truncate(MAX_ASKED - 1);
            chains.push((self.own, own.into()));
        }
        if !chains.is_empty() {
            self.send(from, None, Frame::Chains(chains), now);
        }
    }

    /// Chains that somebody passed on. They prove themselves; what does not fit what the member announced is of no use.
    pub(super) fn take_chains(&mut self, chains: Vec<(PeerId, Bytes)>, now: Instant) {
        for (peer, der) in chains {
            if !self.vault.is_wanted(&peer) {
                self.shell.metrics.dropped("unasked_chain", 1);
                continue;
            }
            let Ok(chain) = decode_chain(&der) else {
                self.shell.metrics.dropped("bad_chain", 1);
                continue;
            };
            let announced = self.announced_leaf(&peer);
            let is_announced = announced.is_some() && announced == leaf_name(&chain).as_deref();
            if announced.is_some() && !is_announced {
                self.shell.metrics.dropped("other_chain", 1);
                continue;
            }
            match self.shell.trust.verify(&chain, UnixTime::now()) {
                Ok(member) if member.peer_id == peer => {
                    let member = Arc::new(member);
                    self.learn(Proven { member, chain }, now);
                }
                Err(refusal) if is_announced && is_final(&refusal) => {
                    tracing::warn!(%peer, %refusal, "refused a member");
                    self.refuse(&peer, now);
                }
                Ok(_) | Err(_) => self.shell.metrics.dropped("bad_chain", 1),
            }
        }
    }

    /// New CAs, a revocation, a renewed leaf of ours.
    pub(super) fn take_trust(&mut self, now: Instant) {
        self.wires.trust_changes.mark_unchanged();
        self.name_own_leaf(now);
        self.show_own();
        self.recheck(now);
    }

    /// Looks again when the first leaf ends.
    pub(super) fn expire(&mut self, now: Instant) {
        let sessions = self.handles.values();
        let sessions = sessions.map(|handle| handle.proven.member.not_after);
        let first = sessions
            .chain(self.vault.first_expiry())
            .min_by_key(|end| end.as_secs());
        if first.is_some_and(|end| end.as_secs() < UnixTime::now().as_secs()) {
            self.recheck(now);
        }
    }

    /// Ends every session, and the membership of everyone, whose leaf is not good any more.
    fn recheck(&mut self, now: Instant) {
        let (trust, time) = (&self.shell.trust, UnixTime::now());
        let mut ended = Vec::new();
        for (id, handle) in &self.handles {
            if let Err(refusal) = trust.recheck(&handle.proven.member, time) {
                let peer = handle.proven.member.peer_id;
                tracing::info!(%peer, %refusal, "ending the gossip session");
                self.shell.metrics.refused(refusal.label());
                handle.close(REFUSED);
                ended.push(*id);
            }
        }
        let refused: Vec<PeerId> = self
            .vault
            .members()
            .filter(|member| trust.recheck(member, time).is_err())
            .map(|member| member.peer_id)
            .collect();
        for link in ended {
            self.link_down(link);
        }
        for peer in refused {
            let known = self.vault.get(&peer).map(|known| known.leaf.as_str());
            let announced = self.announced_leaf(&peer);
            if announced.is_some() && announced != known {
                // It has another leaf by now.
                self.vault.forget(&peer);
                self.vault.want(peer, now);
            } else {
                self.refuse(&peer, now);
            }
        }
    }

    /// A member whose present leaf is refused is none any more.
    fn refuse(&mut self, peer: &PeerId, now: Instant) {
        self.cut(peer);
        self.vault.forget(peer);
        self.swim
            .handle_credentials(peer, Credentials::Refused, now);
    }

    /// Ends every session with a peer.
    pub(super) fn cut(&mut self, peer: &PeerId) {
        for link in self.links.of(peer).to_vec() {
            if let Some(handle) = self.handles.get(&link) {
                handle.close(REFUSED);
            }
            self.link_down(link);
        }
    }
}
