//! Who is connected, who is known, and whose time is up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use warren_identity::{Member, NodeRecord, Refusal, Signed};

use crate::core::admission::Admitted;
use crate::info::{ConnectionInfo, DisconnectReason, MemberInfo, PeerInfo};

/// Members kept in mind, connected or not; when full, an unconnected one makes room.
const MAX_KNOWN: usize = 10_000;

/// Addresses, protocols and the length of the agent kept from a peer's `identify`.
const MAX_IDENTIFY_ENTRIES: usize = 64;

/// What a peer says in `identify`.
#[derive(Debug, Default, Clone)]
pub(crate) struct Identity {
    pub(crate) agent: String,
    pub(crate) protocols: Vec<String>,
    pub(crate) addresses: Vec<Multiaddr>,
}

#[derive(Debug)]
struct Connected {
    since: SystemTime,
    is_member: bool,
    latency: Option<Duration>,
    identity: Option<Identity>,
    connections: BTreeMap<ConnectionId, ConnectionInfo>,
    /// Set when we end the connection, so that its closing can be told apart.
    ending: Option<DisconnectReason>,
}

#[derive(Debug)]
struct Known {
    member: Arc<Member>,
    chain: Arc<[Vec<u8>]>,
    record: Arc<Signed<NodeRecord>>,
}

/// What a new connection says about its peer.
#[derive(Debug)]
pub(crate) enum Standing {
    /// A member, with the proof that came with this connection.
    Proven(Box<Admitted>),
    /// A member whose proof came with an earlier connection.
    Member,
    /// Not a member, tolerated in an open mesh.
    Stranger,
}

/// The first connection to a peer, or one more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opened {
    First,
    Another,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct MemberTable {
    connected: BTreeMap<PeerId, Connected>,
    known: BTreeMap<PeerId, Known>,
}

impl MemberTable {
    /// A connection stands.
    pub(crate) fn opened(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        info: ConnectionInfo,
        standing: Standing,
        now: SystemTime,
    ) -> Opened {
        let is_member = !matches!(standing, Standing::Stranger);
        if let Standing::Proven(admitted) = standing {
            self.insert(admitted.member, admitted.chain, admitted.record);
        }
        let first = !self.connected.contains_key(&peer);
        let entry = self.connected.entry(peer).or_insert_with(|| Connected {
            since: now,
            is_member,
            latency: None,
            identity: None,
            connections: BTreeMap::new(),
            ending: None,
        });
        entry.is_member |= is_member;
        entry.connections.insert(id, info);
        if first {
            Opened::First
        } else {
            Opened::Another
        }
    }

    /// A connection is gone. With the last one, why the peer left.
    pub(crate) fn closed(&mut self, peer: &PeerId, id: ConnectionId) -> Option<DisconnectReason> {
        let entry = self.connected.get_mut(peer)?;
        entry.connections.remove(&id);
        if !entry.connections.is_empty() {
            return None;
        }
        let entry = self.connected.remove(peer)?;
        Some(entry.ending.unwrap_or(DisconnectReason::Remote))
    }

    /// We are about to end all connections of `peer`; `false` if it has none.
    pub(crate) fn ending(&mut self, peer: &PeerId, reason: DisconnectReason) -> bool {
        match self.connected.get_mut(peer) {
            Some(entry) => {
                entry.ending.get_or_insert(reason);
                true
            }
            None => false,
        }
    }

    /// Takes over a verified record if it is newer than the one we have; `true` if it was.
    pub(crate) fn insert(
        &mut self,
        member: Arc<Member>,
        chain: Arc<[Vec<u8>]>,
        record: Arc<Signed<NodeRecord>>,
    ) -> bool {
        let peer = member.peer_id;
        if let Some(known) = self.known.get_mut(&peer) {
            // A renewed certificate comes with an unchanged record.
            if member.not_after.as_secs() >= known.member.not_after.as_secs() {
                known.member = member;
                known.chain = chain;
            }
            if record.value().sequence <= known.record.value().sequence {
                return false;
            }
            known.record = record;
            return true;
        }
        if self.known.len() >= MAX_KNOWN && !self.make_room() {
            return false;
        }
        self.known.insert(
            peer,
            Known {
                member,
                chain,
                record,
            },
        );
        true
    }

    fn make_room(&mut self) -> bool {
        let idle = self
            .known
            .keys()
            .find(|peer| !self.connected.contains_key(peer));
        match idle.copied() {
            Some(peer) => self.known.remove(&peer).is_some(),
            None => false,
        }
    }

    pub(crate) fn identified(&mut self, peer: &PeerId, mut identity: Identity) {
        identity.protocols.truncate(MAX_IDENTIFY_ENTRIES);
        identity.addresses.truncate(MAX_IDENTIFY_ENTRIES);
        identity.agent = identity.agent.chars().take(MAX_IDENTIFY_ENTRIES).collect();
        if let Some(entry) = self.connected.get_mut(peer) {
            entry.identity = Some(identity);
        }
    }

    pub(crate) fn measured(&mut self, peer: &PeerId, round_trip: Duration) {
        if let Some(entry) = self.connected.get_mut(peer) {
            entry.latency = Some(round_trip);
        }
    }

    pub(crate) fn is_connected(&self, peer: &PeerId) -> bool {
        self.connected.contains_key(peer)
    }

    /// Connected as a member.
    pub(crate) fn is_member(&self, peer: &PeerId) -> bool {
        self.connected
            .get(peer)
            .is_some_and(|entry| entry.is_member)
    }

    pub(crate) fn member(&self, peer: &PeerId) -> Option<Arc<Member>> {
        self.is_member(peer)
            .then(|| self.known.get(peer).map(|known| known.member.clone()))
            .flatten()
    }

    pub(crate) fn connected_members(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.connected
            .iter()
            .filter(|(_, entry)| entry.is_member)
            .map(|(peer, _)| *peer)
    }

    /// Known members without a connection.
    pub(crate) fn unconnected(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.known
            .keys()
            .copied()
            .filter(|peer| !self.connected.contains_key(peer))
    }

    /// Whether we dialled that connection, past any relay.
    pub(crate) fn is_outbound(&self, peer: &PeerId, id: ConnectionId) -> bool {
        self.connected
            .get(peer)
            .and_then(|entry| entry.connections.get(&id))
            .is_some_and(|info| info.outbound && !info.relayed)
    }

    /// Whether a connected peer offers a protocol.
    pub(crate) fn offers(&self, peer: &PeerId, protocol: &str) -> bool {
        self.connected
            .get(peer)
            .and_then(|entry| entry.identity.as_ref())
            .is_some_and(|identity| identity.protocols.iter().any(|p| p == protocol))
    }

    /// Whether a peer has a connection that goes through no relay.
    pub(crate) fn is_direct(&self, peer: &PeerId) -> bool {
        self.connected
            .get(peer)
            .is_some_and(|entry| entry.connections.values().any(|c| !c.relayed))
    }

    pub(crate) fn remote_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.connected
            .get(peer)
            .map(|entry| {
                entry
                    .connections
                    .values()
                    .filter(|c| c.outbound)
                    .map(|c| c.remote_address.clone())
                    .collect()
            })
            .unwrap_or_default()
    }

    /// Where a known member says it is.
    pub(crate) fn addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        self.known
            .get(peer)
            .map(|known| parse_addresses(&known.record))
            .unwrap_or_default()
    }

    /// Where a peer may be dialled: what its record announces, else what it said in `identify`.
    pub(crate) fn routable_addresses(&self, peer: &PeerId) -> Vec<Multiaddr> {
        let announced = self.addresses(peer);
        if !announced.is_empty() {
            return announced;
        }
        self.connected
            .get(peer)
            .and_then(|entry| entry.identity.as_ref())
            .map(|identity| identity.addresses.clone())
            .unwrap_or_default()
    }

    /// The certificates that prove a known member.
    pub(crate) fn chain(&self, peer: &PeerId) -> Option<Arc<[Vec<u8>]>> {
        self.known.get(peer).map(|known| known.chain.clone())
    }

    /// Members known, with what proves them, for a peer that asks; at most `limit`.
    pub(crate) fn proofs(&self, limit: usize) -> Vec<(Arc<[Vec<u8>]>, Arc<Signed<NodeRecord>>)> {
        self.known
            .values()
            .take(limit)
            .map(|known| (known.chain.clone(), known.record.clone()))
            .collect()
    }

    /// Members whose standing ended: by time, by a new revocation list or by other roots.
    /// `recheck` is `Member::recheck` against the trust of this moment. Unconnected ones are
    /// forgotten on the way.
    pub(crate) fn recheck(
        &mut self,
        recheck: impl Fn(&Member) -> Result<(), Refusal>,
    ) -> Vec<(PeerId, DisconnectReason, Refusal)> {
        let mut ended = Vec::new();
        let connected = &self.connected;
        self.known
            .retain(|peer, known| match recheck(&known.member) {
                Ok(()) => true,
                Err(refusal) => {
                    let Some(entry) = connected.get(peer) else {
                        return false;
                    };
                    if entry.is_member && entry.ending.is_none() {
                        ended.push((*peer, reason_of(&refusal), refusal));
                    }
                    // Kept until its connections are closed, so that it stays a member in the books.
                    true
                }
            });
        ended
    }

    pub(crate) fn peers(&self) -> Vec<PeerInfo> {
        self.connected
            .iter()
            .map(|(peer, entry)| {
                let known = self.known.get(peer).filter(|_| entry.is_member);
                let identity = entry.identity.clone().unwrap_or_default();
                let announced = known
                    .map(|k| parse_addresses(&k.record))
                    .unwrap_or_default();
                PeerInfo {
                    peer_id: *peer,
                    member: known.map(|k| k.member.clone()),
                    record: known.map(|k| k.record.clone()),
                    addresses: if announced.is_empty() {
                        identity.addresses
                    } else {
                        announced
                    },
                    connected_at: entry.since,
                    latency: entry.latency,
                    protocols: identity.protocols,
                    agent: entry.identity.as_ref().map(|i| i.agent.clone()),
                    connections: entry.connections.values().cloned().collect(),
                }
            })
            .collect()
    }

    pub(crate) fn members(&self) -> Vec<MemberInfo> {
        self.known
            .iter()
            .map(|(peer, known)| MemberInfo {
                member: known.member.clone(),
                record: Some(known.record.clone()),
                connected: self.connected.contains_key(peer),
            })
            .collect()
    }
}

fn parse_addresses(record: &Signed<NodeRecord>) -> Vec<Multiaddr> {
    record
        .value()
        .addresses
        .iter()
        .filter_map(|text| text.parse().ok())
        .collect()
}

fn reason_of(refusal: &Refusal) -> DisconnectReason {
    match refusal {
        Refusal::Expired { .. } | Refusal::IssuerExpired { .. } => DisconnectReason::Expired,
        Refusal::Revoked { .. } | Refusal::PeerRevoked(_) => DisconnectReason::Revoked,
        _ => DisconnectReason::Untrusted,
    }
}
