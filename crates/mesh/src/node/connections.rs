//! Connections that come, fail and go.

use std::time::{Duration, Instant, SystemTime};

use libp2p::core::ConnectedPoint;
use libp2p::core::transport::TransportError;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::swarm::{ConnectionDenied, ConnectionId, DialError, ListenError};
use libp2p::{Multiaddr, PeerId, connection_limits, identify, mdns, ping};
use warren_telemetry::DisconnectReason as Counted;

use crate::core::admission::AdmissionError;
use crate::core::conduct::Offence;
use crate::core::gossip::behind;
use crate::core::members::{Identity, Opened, Standing};
use crate::core::neighbours::Found;
use crate::core::protocol::MessageType;
use crate::core::redial::Failure;
use crate::error::ConnectError;
use crate::info::{ConnectionInfo, DisconnectReason, MeshEvent};
use crate::node::reach::is_circuit;
use crate::node::{Node, jitter};
use crate::transport;

/// Targets dialled per tick: a mesh that comes up does not dial everyone in the same instant.
const DIALS_PER_TICK: usize = 16;

/// Direct addresses of a peer that are dialled before its circuits; eight are dialled at once.
const DIRECT_BEFORE_CIRCUITS: usize = 5;

/// How long QUIC alone is dialled where a peer offers it: most answers come sooner.
const QUIC_HEAD_START: Duration = Duration::from_millis(300);

/// Whom to keep dialling.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Target {
    /// A configured address, and who is expected there or was found there.
    Bootstrap(Multiaddr),
    /// A member seen before, a neighbour found by mDNS, or somebody a discovery server names.
    Peer(PeerId),
}

impl Node {
    pub(super) fn plan_bootstrap(&mut self, now: Instant) {
        for address in self.config.bootstrap_peers.clone() {
            // One target for all addresses of a peer: they are dialled together.
            let first = peer_of(&address).and_then(|peer| self.bootstrap_addresses(peer).next());
            let leads_elsewhere = peer_of(&address) != Some(*self.swarm.local_peer_id());
            if leads_elsewhere && first.is_none_or(|first| *first == address) {
                self.redial.add(Target::Bootstrap(address), now);
            }
        }
    }

    fn bootstrap_addresses(&self, peer: PeerId) -> impl Iterator<Item = &Multiaddr> {
        let configured = self.config.bootstrap_peers.iter();
        configured.filter(move |address| peer_of(address) == Some(peer))
    }

    pub(super) fn on_established(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        endpoint: &ConnectedPoint,
    ) {
        let admitted = self.gate.desk.take(&peer);
        let behind = admitted
            .as_ref()
            .is_some_and(|a| behind(&self.gate.list_numbers(), &a.revocations));
        let standing = match admitted {
            Some(admitted) => Standing::Proven(Box::new(admitted)),
            None if self.gate.desk.is_member(&peer) => Standing::Member,
            None => Standing::Stranger,
        };
        self.local_ends.opened(id, endpoint);
        let info = ConnectionInfo {
            remote_address: endpoint.get_remote_address().clone(),
            outbound: endpoint.is_dialer(),
            relayed: endpoint.is_relayed(),
        };
        tracing::debug!(%peer, address = %info.remote_address, outbound = info.outbound, "connected");
        let opened = self
            .table
            .opened(peer, id, info, standing, SystemTime::now());
        if let Some(pending) = self.pending_connects.remove(&id) {
            let _ = pending.reply.send(Ok(peer));
        }
        self.first_dials.remove(&id);
        self.neighbours.remove(&peer);
        if let Some(target) = self.dialled_targets.remove(&id) {
            self.redial.connected(&target);
        }
        self.redial.connected(&Target::Peer(peer));
        for target in self.bootstrap_targets(peer) {
            self.redial.connected(&target);
        }
        if opened == Opened::First {
            self.on_first_connection(peer);
        }
        // A revocation that came in between the handshake and now counts too.
        self.recheck_members();
        if behind && self.table.is_member(&peer) {
            self.fetch_revocations(peer);
        }
    }

    fn on_first_connection(&mut self, peer: PeerId) {
        let member = self.table.member(&peer);
        if member.is_some() {
            self.redial.add(Target::Peer(peer), Instant::now());
            self.redial.connected(&Target::Peer(peer));
            self.fetch_members(peer);
        }
        self.emit(MeshEvent::PeerConnected { peer, member });
    }

    pub(super) fn on_closed(&mut self, peer: PeerId, id: ConnectionId) {
        let now = Instant::now();
        let was_member = self.table.is_member(&peer);
        self.local_ends.closed(id);
        let gone = self.table.closed(&peer, id);
        if was_member {
            let reason = gone.as_ref().map_or("remote", DisconnectReason::as_str);
            self.gate
                .network
                .disconnected(&peer.to_string(), Counted(reason));
        }
        let Some(reason) = gone else { return };
        self.limiter.forget(&peer);
        self.nat.forget(&peer);
        self.relays.lost(&peer);
        match reason {
            DisconnectReason::Remote => {
                tracing::debug!(%peer, "disconnected");
            }
            _ => tracing::info!(%peer, reason = reason.as_str(), "session ended"),
        }
        let mut targets = self.bootstrap_targets(peer);
        targets.push(Target::Peer(peer));
        for target in targets {
            match reason {
                DisconnectReason::Remote => self.redial.lost(&target, now, jitter()),
                _ => self.redial.ended(&target, now, jitter()),
            }
        }
        self.emit(MeshEvent::PeerDisconnected { peer, reason });
    }

    /// Closes every connection with a peer, for a reason; `false` if there is none.
    pub(super) fn cut(&mut self, peer: PeerId, reason: DisconnectReason) -> bool {
        let known = self.table.ending(&peer, reason);
        // Fails only if there is nothing to disconnect.
        let _ = self.swarm.disconnect_peer_id(peer);
        known
    }

    /// Counts an offence; at the limit the peer is cut off and kept out for a while.
    pub(super) fn penalize(&mut self, peer: PeerId, offence: Offence) {
        if self.conduct.offended(peer, offence, Instant::now()) {
            tracing::warn!(%peer, offence = offence.as_str(), "peer banned for a while");
            self.gate.ban(peer);
            self.cut(peer, DisconnectReason::Misbehaved(offence.as_str()));
        }
    }

    /// Ends the sessions of members whose certificate ended, was revoked or lost its root.
    pub(super) fn recheck_members(&mut self) {
        let gate = self.gate.clone();
        for (peer, reason, refusal) in self.table.recheck(|member| gate.recheck(member)) {
            tracing::warn!(%peer, reason = reason.as_str(), "ending the session: {refusal}");
            self.cut(peer, reason);
            self.forget_route(&peer);
        }
    }

    pub(super) fn on_dial_failed(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        error: &DialError,
    ) {
        let now = Instant::now();
        if self.first_dials.remove(&id) && refusals(error).is_empty() {
            // The second dial is planned, and what becomes of it counts.
            return;
        }
        let refusals = refusals(error);
        let failure = if refusals.is_empty() {
            Failure::Unreachable
        } else {
            Failure::Refused
        };
        let dialled = self.dialled_targets.remove(&id);
        if let Some(target) = &dialled {
            match target {
                Target::Bootstrap(address) => {
                    tracing::info!(%address, "a bootstrap peer was not reached and is tried again: {}", attempts(error));
                }
                Target::Peer(peer) => {
                    tracing::debug!(%peer, "not reached, tried again later: {}", attempts(error));
                }
            }
            self.redial.failed(target, failure, now, jitter());
        }
        if let Some(peer) = &peer {
            self.neighbours.failed(peer);
        }
        if let Some(peer) = peer
            && dialled != Some(Target::Peer(peer))
            && !self.table.is_connected(&peer)
            && !matches!(error, DialError::DialPeerConditionFalse(_))
        {
            self.redial
                .failed(&Target::Peer(peer), failure, now, jitter());
        }
        for (address, refused) in refusals {
            self.emit(MeshEvent::AdmissionRefused {
                peer,
                address,
                reason: refused.label(),
            });
        }
        if let Some(pending) = self.pending_connects.remove(&id) {
            let outcome = connect_error(pending.address, error);
            let _ = pending.reply.send(Err(outcome));
        }
    }

    pub(super) fn on_accept_failed(
        &mut self,
        peer: Option<PeerId>,
        address: Multiaddr,
        error: &ListenError,
    ) {
        match error {
            ListenError::Transport(TransportError::Other(error)) => {
                match transport::refusal(error) {
                    Some(refused) => self.emit(MeshEvent::AdmissionRefused {
                        peer,
                        address,
                        reason: refused.label(),
                    }),
                    None => tracing::debug!(%address, %error, "an inbound connection failed"),
                }
            }
            other => {
                tracing::debug!(%address, error = %other, "an inbound connection was not taken");
            }
        }
    }

    pub(super) fn dial_due(&mut self, now: Instant) {
        self.want_members(now);
        for target in self.redial.handle_timeout(now, DIALS_PER_TICK) {
            self.dial_quic_first(target, now);
        }
        let (due, later) = std::mem::take(&mut self.second_dials)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, at)| *at <= now);
        self.second_dials = later;
        for (target, _) in due {
            self.dial_all(target);
        }
    }

    /// Gives QUIC a head start. The address that peers see us at over UDP is what hole punching takes,
    /// and two nodes that are seen over different transports cannot punch; besides, it is the faster
    /// handshake.
    fn dial_quic_first(&mut self, target: Target, now: Instant) {
        let Some((peer, addresses)) = self.expected(&target) else {
            return self.dial_all(target);
        };
        let quic: Vec<Multiaddr> = addresses
            .into_iter()
            .filter(|address| is_quic(address) && !is_circuit(address))
            .collect();
        if quic.is_empty() {
            return self.dial_all(target);
        }
        let options = DialOpts::peer_id(peer)
            .addresses(quic)
            .condition(PeerCondition::Disconnected)
            .build();
        let id = options.connection_id();
        self.first_dials.insert(id);
        self.second_dials.push((target, now + QUIC_HEAD_START));
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, None, &error);
        }
    }

    /// Dials whatever is known of a target, unless it is connected by now.
    fn dial_all(&mut self, target: Target) {
        let options = match (self.expected(&target), &target) {
            (Some((peer, _)), _) if self.table.is_connected(&peer) => return,
            (Some((peer, addresses)), Target::Bootstrap(_)) => DialOpts::peer_id(peer)
                .addresses(addresses)
                .condition(PeerCondition::Disconnected)
                .build(),
            (Some((peer, addresses)), Target::Peer(_)) => DialOpts::peer_id(peer)
                .addresses(addresses)
                .extend_addresses_through_behaviour()
                // News of where it is may come while a dial to where it was is under way.
                .condition(PeerCondition::Disconnected)
                .build(),
            (None, Target::Bootstrap(address)) => {
                DialOpts::unknown_peer_id().address(address.clone()).build()
            }
            (None, Target::Peer(_)) => return,
        };
        let id = options.connection_id();
        self.dialled_targets.insert(id, target);
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, None, &error);
        }
    }

    /// Who is expected at a target, and where; `None` for an address that names nobody.
    fn expected(&self, target: &Target) -> Option<(PeerId, Vec<Multiaddr>)> {
        match target {
            Target::Bootstrap(address) => {
                let peer = peer_of(address)?;
                Some((peer, self.bootstrap_addresses(peer).cloned().collect()))
            }
            Target::Peer(peer) => Some((*peer, self.addresses_to_dial(peer))),
        }
    }

    /// A source names peers: they are dialled until they are met or the source drops them.
    pub(super) fn on_found(&mut self, mut list: Vec<(PeerId, Vec<Multiaddr>)>) {
        let now = Instant::now();
        let local = *self.swarm.local_peer_id();
        list.retain(|(peer, _)| *peer != local);
        let changed = self.leads.replace(list);
        for peer in changed.gone {
            if !self.table.is_known(&peer) {
                self.redial.remove(&Target::Peer(peer));
            }
        }
        for peer in self.leads.peers() {
            self.redial.add(Target::Peer(peer), now);
            if self.table.is_connected(&peer) {
                self.redial.connected(&Target::Peer(peer));
            }
        }
        for peer in changed.news {
            self.redial.hurry(&Target::Peer(peer), now);
        }
        self.dial_due(now);
    }

    /// All that is known of where a peer is. Direct addresses come first; circuits come early enough
    /// to be dialled beside them, since a direct address that nobody answers at takes its time to fail.
    fn addresses_to_dial(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let mut all = self.table.addresses(peer);
        for lead in self.leads.of(peer) {
            if !all.contains(lead) {
                all.push(lead.clone());
            }
        }
        let all = self.dialable(peer, all);
        let (circuits, mut ordered): (Vec<_>, Vec<_>) = all.into_iter().partition(is_circuit);
        let beside = ordered.len().min(DIRECT_BEFORE_CIRCUITS);
        ordered.splice(beside..beside, circuits);
        ordered
    }

    /// Below the wanted number of members, known ones become targets.
    fn want_members(&mut self, now: Instant) {
        let local = *self.swarm.local_peer_id();
        let missing = self
            .config
            .limits
            .wanted_members
            .saturating_sub(self.table.connected_members().count());
        if missing == 0 {
            return;
        }
        let candidates = self.table.unconnected().filter(|peer| *peer != local);
        let new: Vec<PeerId> = candidates
            .filter(|peer| !self.redial.contains(&Target::Peer(*peer)))
            .take(missing.min(DIALS_PER_TICK))
            .collect();
        for peer in new {
            self.redial.add(Target::Peer(peer), now);
        }
    }

    /// Bootstrap addresses that lead to this peer.
    fn bootstrap_targets(&self, peer: PeerId) -> Vec<Target> {
        self.bootstrap_addresses(peer)
            .map(|address| Target::Bootstrap(address.clone()))
            .collect()
    }

    pub(super) fn on_identify(&mut self, event: identify::Event) {
        let identify::Event::Received {
            peer_id,
            info,
            connection_id,
        } = event
        else {
            return;
        };
        self.table.identified(
            &peer_id,
            Identity {
                agent: info.agent_version,
                protocols: info.protocols.iter().map(ToString::to_string).collect(),
                addresses: info.listen_addrs,
            },
        );
        if self.table.is_outbound(&peer_id, connection_id) {
            self.nat.observed(peer_id, &info.observed_addr);
            self.nat_may_have_changed();
        }
        self.learn_route(peer_id);
    }

    pub(super) fn on_ping(&mut self, event: ping::Event) {
        match event.result {
            Ok(round_trip) => {
                self.table.measured(&event.peer, round_trip);
                if self.table.is_member(&event.peer) {
                    let kind = MessageType::Ping.as_str();
                    self.gate
                        .network
                        .latency(&event.peer.to_string(), kind, round_trip);
                }
            }
            Err(ping::Failure::Unsupported) => {}
            Err(error) => {
                tracing::debug!(peer = %event.peer, %error, "ping failed, closing the connection");
                self.swarm.close_connection(event.connection);
            }
        }
    }

    pub(super) fn on_mdns(&mut self, event: mdns::Event) {
        let now = Instant::now();
        match event {
            mdns::Event::Discovered(found) => {
                for (peer, _) in found {
                    self.on_neighbour(peer, now);
                }
            }
            mdns::Event::Expired(gone) => {
                for (peer, _) in gone {
                    if self.neighbours.remove(&peer) {
                        self.give_up(peer);
                    }
                }
            }
        }
    }

    /// Who is known is dialled on its own account; being near makes it worth a try at once.
    fn on_neighbour(&mut self, peer: PeerId, now: Instant) {
        if self.table.is_connected(&peer) {
            return;
        }
        if !self.table.is_known(&peer)
            && let Found::InsteadOf(loser) = self.neighbours.found(peer, now)
        {
            self.give_up(loser);
        }
        self.redial.add(Target::Peer(peer), now);
    }

    /// An unmet neighbour is dialled no longer, unless somebody else names it too.
    fn give_up(&mut self, peer: PeerId) {
        let wanted = self.table.is_known(&peer)
            || self.table.is_connected(&peer)
            || !self.leads.of(&peer).is_empty();
        if !wanted {
            self.redial.remove(&Target::Peer(peer));
        }
    }
}

fn is_quic(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::QuicV1)
}

/// The peer id at the end of an address.
pub(super) fn peer_of(address: &Multiaddr) -> Option<PeerId> {
    match address.iter().last() {
        Some(Protocol::P2p(peer)) => Some(peer),
        _ => None,
    }
}

/// What admission said at each address of a failed dial.
fn refusals(error: &DialError) -> Vec<(Multiaddr, AdmissionError)> {
    let DialError::Transport(attempts) = error else {
        return Vec::new();
    };
    attempts
        .iter()
        .filter_map(|(address, error)| match error {
            TransportError::Other(error) => {
                Some((address.clone(), transport::refusal(error)?.clone()))
            }
            TransportError::MultiaddrNotSupported(_) => None,
        })
        .collect()
}

fn connect_error(address: Multiaddr, error: &DialError) -> ConnectError {
    if let Some((_, refused)) = refusals(error).into_iter().next() {
        return match refused {
            AdmissionError::WrongPeer(obtained) => ConnectError::WrongPeer { address, obtained },
            refused => ConnectError::Refused(refused),
        };
    }
    match error {
        DialError::WrongPeerId { obtained, .. } => ConnectError::WrongPeer {
            address,
            obtained: *obtained,
        },
        DialError::LocalPeerId { .. } => ConnectError::Ourselves(address),
        DialError::Denied { cause } => ConnectError::Limit(denied(cause)),
        other => ConnectError::Unreachable {
            target: address.to_string(),
            reason: attempts(other),
        },
    }
}

fn denied(cause: &ConnectionDenied) -> String {
    match cause.downcast_ref::<connection_limits::Exceeded>() {
        Some(exceeded) => exceeded.to_string(),
        None => cause.to_string(),
    }
}

/// What each attempt said, innermost cause first, without repeating the address we print anyway.
fn attempts(error: &DialError) -> String {
    let DialError::Transport(attempts) = error else {
        return error.to_string();
    };
    let said: Vec<String> = attempts
        .iter()
        .map(|(_, error)| match error {
            TransportError::MultiaddrNotSupported(_) => {
                "no transport for such an address".to_owned()
            }
            TransportError::Other(error) => transport::innermost(error),
        })
        .collect();
    said.join("; ")
}
