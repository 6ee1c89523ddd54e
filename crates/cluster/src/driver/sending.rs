//! What the core wants sent: over which links, and what to dial for it.

use std::net::SocketAddr;
use std::time::Instant;

use warren_identity::PeerId;
use warren_swim::{Destination, Transmit, Transport};

use super::{Driver, MOST_OWN_ADDRESSES};
use crate::core::dials::{Paths, Target, Verdict};
use crate::core::frame::Frame;
use crate::core::links::{LinkId, Wish};
use crate::dial::dial;
use crate::link::Handle;

impl Driver {
    pub(super) fn transmit(&mut self, transmit: Transmit, now: Instant) {
        let frame = match transmit.transport {
            Transport::Datagram => Frame::Packet(transmit.payload.into()),
            Transport::Stream => Frame::Message(transmit.payload.into()),
        };
        match transmit.to {
            Destination::Member { id, address } => self.send(id, Some(address), frame, now),
            Destination::Session(id) => self.send(id, None, frame, now),
            Destination::Seed(address) => self.send_to_seed(address, frame, now),
        }
    }

    /// Sends to a member over the links with it, and dials it where they do not do.
    pub(super) fn send(
        &mut self,
        peer: PeerId,
        address: Option<SocketAddr>,
        frame: Frame,
        now: Instant,
    ) {
        for link in self.links.of(&peer).to_vec() {
            if let Some(handle) = self.handles.get(&link) {
                self.links.observe(link, handle.signs_of_life(), now);
            }
        }
        let route = self.links.route(&peer, now);
        for link in route.over.into_iter().flatten() {
            self.send_over(link, frame.clone(), now);
        }
        let paths = match route.wish {
            Wish::Nothing => return,
            Wish::Quic => Paths::QuicOnly,
            Wish::Any => Paths::Both,
        };
        let has_link = route.over[0].is_some();
        match address {
            Some(address) => {
                let target = Target {
                    address,
                    expected: Some(peer),
                    paths,
                };
                self.dial(target, (!has_link).then_some(frame), now);
            }
            None if !has_link => self.shell.metrics.dropped("no_session", 1),
            None => {}
        }
    }

    fn send_over(&mut self, link: LinkId, frame: Frame, now: Instant) {
        let Some(handle) = self.handles.get(&link) else {
            return;
        };
        let bytes = frame.weight();
        match handle.send(frame) {
            Ok(()) => {
                self.links.sent(link, now);
                self.shell.metrics.sent(handle.path, bytes);
            }
            Err(reason) => self.shell.metrics.dropped(reason, 1),
        }
    }

    fn send_to_seed(&mut self, address: SocketAddr, frame: Frame, now: Instant) {
        if self.own_addresses.contains(&address) {
            return;
        }
        let known = self.handles.values().find(|handle| {
            let dialled = handle.dialled.map(|target| target.address);
            handle.remote == address || dialled == Some(address)
        });
        if let Some(peer) = known.map(|handle| handle.proven.member.peer_id) {
            return self.send(peer, Some(address), frame, now);
        }
        let target = Target {
            address,
            expected: None,
            paths: Paths::Both,
        };
        self.dial(target, Some(frame), now);
    }

    fn dial(&mut self, target: Target, frame: Option<Frame>, now: Instant) {
        let frames = u64::from(frame.is_some());
        match self.dials.want(target, frame, now) {
            Verdict::Start => {
                let shell = self.shell.clone();
                self.shell.spawn(dial(shell, target));
            }
            Verdict::Waiting => {}
            Verdict::Resting => self.shell.metrics.dropped("unreachable", frames),
            Verdict::Refused => self.shell.metrics.dropped("too_many_dials", frames),
        }
    }

    /// A link to a proven member: whatever waited for it leaves.
    pub(super) fn link_up(&mut self, handle: Handle, now: Instant) {
        let (id, dialled) = (handle.id, handle.dialled);
        let peer = handle.proven.member.peer_id;
        if peer == self.own {
            if let Some(target) = dialled
                && self.own_addresses.len() < MOST_OWN_ADDRESSES
            {
                self.own_addresses.insert(target.address);
                self.join_seeds(now);
            }
            return;
        }
        tracing::debug!(%peer, remote = %handle.remote, path = handle.path.as_str(), "a gossip link is up");
        if let Some(loser) = self.links.insert(id, peer, handle.path, now) {
            self.handles.remove(&loser);
        }
        let proven = handle.proven.clone();
        self.handles.insert(id, handle);
        self.learn(proven, now);
        let waiting = dialled.map(|target| self.dials.connected(&target));
        for frame in waiting.into_iter().flatten() {
            self.send(peer, None, frame, now);
        }
    }

    pub(super) fn link_down(&mut self, link: LinkId) {
        self.links.remove(link);
        let Some(handle) = self.handles.remove(&link) else {
            return;
        };
        let peer = handle.proven.member.peer_id;
        tracing::debug!(%peer, path = handle.path.as_str(), "a gossip link ended");
        if self.links.of(&peer).is_empty() && self.swim.member(&peer).is_none() {
            self.vault.forget(&peer);
        }
    }
}
