//! Who is connected, who is known, and whose time is up.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;
use libp2p::{Multiaddr, PeerId};
use warren_identity::{Capability, Member, NodeRecord, Refusal, Signed};

use crate::core::admission::Admitted;
use crate::core::records::replaces;
use crate::info::{ConnectionInfo, DisconnectReason, MemberInfo, PeerInfo, Presence};

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
    /// Whether it was ever connected over loopback, so that it runs on this machine.
    near: bool,
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

/// A member's certificates and its record.
pub(crate) type Proof = (Arc<[Vec<u8>]>, Arc<Signed<NodeRecord>>);

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
            self.insert(admitted.member, admitted.chain, admitted.record, now);
        }
        if let Some(known) = self.known.get_mut(&peer) {
            known.near |= !info.relayed && is_loopback(&info.remote_address);
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
        now: SystemTime,
    ) -> bool {
        let peer = member.peer_id;
        if let Some(known) = self.known.get_mut(&peer) {
            // A renewed certificate comes with an unchanged record.
            if member.not_after.as_secs() >= known.member.not_after.as_secs() {
                known.member = member;
                known.chain = chain;
            }
            if !replaces(record.value(), known.record.value(), unix_ms(now)) {
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
                near: false,
            },
        );
        true
    }

    /// Whether a record says more than what we have of its node.
    pub(crate) fn is_news(&self, record: &NodeRecord, now: SystemTime) -> bool {
        self.known
            .get(&record.peer_id)
            .is_none_or(|known| replaces(record, known.record.value(), unix_ms(now)))
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

    /// Whether a member's record is kept, connected or not.
    pub(crate) fn is_known(&self, peer: &PeerId) -> bool {
        self.known.contains_key(peer)
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

    /// Whether a member was ever connected over loopback.
    pub(crate) fn was_near(&self, peer: &PeerId) -> bool {
        self.known.get(peer).is_some_and(|known| known.near)
    }

    /// Whether a connected peer offers a protocol.
    pub(crate) fn offers(&self, peer: &PeerId, protocol: &str) -> bool {
        self.connected
            .get(peer)
            .and_then(|entry| entry.identity.as_ref())
            .is_some_and(|identity| identity.protocols.iter().any(|p| p == protocol))
    }

    /// Whether a connected member's certificate makes it a relay: that it offers to be one is not enough. A discovery
    /// server relays for its organisation too.
    pub(crate) fn may_relay(&self, peer: &PeerId) -> bool {
        self.member(peer).is_some_and(|member| {
            member.allows(&Capability::Relay) || member.allows(&Capability::Discovery)
        })
    }

    /// Whether a peer has a connection that goes through no relay.
    pub(crate) fn is_direct(&self, peer: &PeerId) -> bool {
        self.connected
            .get(peer)
            .is_some_and(|entry| entry.connections.values().any(|c| !c.relayed))
    }

    /// Members connected through relays alone, where we dialled a circuit.
    pub(crate) fn only_relayed(&self) -> Vec<PeerId> {
        let connected = self.connected.iter().filter(|(_, entry)| entry.is_member);
        connected
            .filter(|(_, entry)| {
                let all = &entry.connections;
                all.values().all(|c| c.relayed) && all.values().any(|c| c.outbound)
            })
            .map(|(peer, _)| *peer)
            .collect()
    }

    /// The circuits to a peer that we dialled, oldest first.
    pub(crate) fn dialled_circuits(&self, peer: &PeerId) -> Vec<(ConnectionId, Multiaddr)> {
        let entry = self.connected.get(peer);
        let all = entry.into_iter().flat_map(|entry| &entry.connections);
        all.filter(|(_, info)| info.relayed && info.outbound)
            .map(|(id, info)| (*id, info.remote_address.clone()))
            .collect()
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
    pub(crate) fn proofs(&self, limit: usize) -> Vec<Proof> {
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

    /// Everyone known. `unreached` tells whom the last dial did not reach.
    pub(crate) fn members(&self, unreached: impl Fn(&PeerId) -> bool) -> Vec<MemberInfo> {
        self.known
            .iter()
            .map(|(peer, known)| MemberInfo {
                member: known.member.clone(),
                record: Some(known.record.clone()),
                presence: if self.connected.contains_key(peer) {
                    Presence::Connected
                } else if unreached(peer) {
                    Presence::Unreachable
                } else {
                    Presence::Away
                },
            })
            .collect()
    }
}

/// Whether an address leads nowhere but to its own machine.
pub(crate) fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

/// Milliseconds since 1970.
pub(crate) fn unix_ms(time: SystemTime) -> u64 {
    let elapsed = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
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

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use warren_identity::{Capabilities, NodeKey, OrganizationId, UnixTime};

    use super::*;

    const NOW: SystemTime = UNIX_EPOCH;

    fn admitted(seed: u8, sequence: u64) -> Admitted {
        let key = NodeKey::from_seed([seed; 32]);
        let organization = OrganizationId::new("org_acme").unwrap();
        let member = Member {
            organization: organization.clone(),
            peer_id: key.peer_id(),
            name: "node".into(),
            capabilities: Capabilities::none(),
            not_after: UnixTime::since_unix_epoch(Duration::from_secs(1_000 * u64::from(seed))),
            serial: vec![seed],
            issuer: [0; 32],
            intermediates: Vec::new(),
        };
        let record = NodeRecord {
            peer_id: key.peer_id(),
            organization,
            name: "node".into(),
            region: None,
            roles: Vec::new(),
            addresses: vec![format!("/ip4/10.0.0.{seed}/tcp/4001")],
            bulk_addresses: Vec::new(),
            sequence,
            issued_at_unix_s: 0,
        };
        Admitted {
            member: Arc::new(member),
            record: Arc::new(Signed::sign(record, &key).unwrap()),
            chain: Arc::from([vec![seed]]),
            revocations: Vec::new(),
        }
    }

    fn connection() -> ConnectionInfo {
        ConnectionInfo {
            remote_address: "/ip4/10.0.0.9/tcp/4001".parse().unwrap(),
            outbound: true,
            relayed: false,
        }
    }

    fn open(table: &mut MemberTable, seed: u8, id: usize) -> PeerId {
        let admitted = admitted(seed, 1);
        let peer = admitted.member.peer_id;
        let standing = Standing::Proven(Box::new(admitted));
        let id = ConnectionId::new_unchecked(id);
        table.opened(peer, id, connection(), standing, SystemTime::UNIX_EPOCH);
        peer
    }

    #[test]
    fn given_two_connections_when_one_closes_then_the_peer_stays_until_the_other_does() {
        let mut table = MemberTable::default();
        let peer = open(&mut table, 1, 1);
        open(&mut table, 1, 2);
        assert_eq!(table.closed(&peer, ConnectionId::new_unchecked(1)), None);
        assert!(table.is_member(&peer));
        let last = table.closed(&peer, ConnectionId::new_unchecked(2));
        assert_eq!(last, Some(DisconnectReason::Remote));
        assert!(!table.is_connected(&peer));
        assert_eq!(table.members(|_| false).len(), 1, "it is still known");
    }

    #[test]
    fn given_a_session_we_end_when_it_closes_then_our_first_reason_is_told() {
        let mut table = MemberTable::default();
        let peer = open(&mut table, 1, 1);
        assert!(table.ending(&peer, DisconnectReason::Revoked));
        assert!(table.ending(&peer, DisconnectReason::Expired));
        let told = table.closed(&peer, ConnectionId::new_unchecked(1));
        assert_eq!(told, Some(DisconnectReason::Revoked));
        assert!(!table.ending(&peer, DisconnectReason::Revoked));
    }

    #[test]
    fn given_a_recheck_when_some_fail_then_connected_ones_are_named_once_and_others_forgotten() {
        let mut table = MemberTable::default();
        let peer = open(&mut table, 1, 1);
        let away = admitted(2, 1);
        table.insert(away.member, away.chain, away.record, NOW);
        let fail = |_: &Member| Err(Refusal::PeerRevoked(PeerId::random()));
        let ended = table.recheck(fail);
        assert_eq!(ended.len(), 1);
        assert_eq!(
            (ended[0].0, &ended[0].1),
            (peer, &DisconnectReason::Revoked)
        );
        assert_eq!(table.members(|_| false).len(), 1);
        table.ending(&peer, DisconnectReason::Revoked);
        assert!(table.recheck(fail).is_empty());
    }

    #[test]
    fn given_an_older_or_equal_record_when_inserted_then_the_newer_one_stays() {
        let mut table = MemberTable::default();
        for (sequence, taken) in [(5, true), (5, false), (4, false), (6, true)] {
            let a = admitted(1, sequence);
            assert_eq!(
                table.insert(a.member, a.chain, a.record, NOW),
                taken,
                "sequence {sequence}"
            );
        }
        let record = table.members(|_| false)[0].record.clone().unwrap();
        assert_eq!(record.value().sequence, 6);
    }

    #[test]
    fn given_connections_when_one_is_over_loopback_then_the_member_is_known_to_be_near() {
        let mut table = MemberTable::default();
        let peer = open(&mut table, 1, 1);
        assert!(!table.was_near(&peer));
        let local = ConnectionInfo {
            remote_address: "/ip4/127.0.0.1/tcp/4001".parse().unwrap(),
            ..connection()
        };
        let circuit = ConnectionInfo {
            relayed: true,
            ..local.clone()
        };
        for (id, info, near) in [(2, circuit, false), (3, local, true)] {
            let id = ConnectionId::new_unchecked(id);
            table.opened(peer, id, info, Standing::Member, NOW);
            assert_eq!(table.was_near(&peer), near);
        }
    }

    #[test]
    fn given_a_stranger_when_connected_then_it_is_no_member_and_has_no_record() {
        let mut table = MemberTable::default();
        let peer = PeerId::random();
        let id = ConnectionId::new_unchecked(1);
        table.opened(
            peer,
            id,
            connection(),
            Standing::Stranger,
            SystemTime::UNIX_EPOCH,
        );
        assert!(table.is_connected(&peer) && !table.is_member(&peer));
        assert!(table.peers()[0].member.is_none());
        assert_eq!(table.connected_members().count(), 0);
    }

    #[test]
    fn given_a_talkative_identity_when_kept_then_it_is_cut_to_size() {
        let mut table = MemberTable::default();
        let peer = open(&mut table, 1, 1);
        let identity = Identity {
            agent: "a".repeat(10_000),
            protocols: vec!["/p".into(); 1_000],
            addresses: vec!["/ip4/1.1.1.1/tcp/1".parse().unwrap(); 1_000],
        };
        table.identified(&peer, identity);
        let info = &table.peers()[0];
        assert_eq!(info.agent.as_ref().unwrap().len(), MAX_IDENTIFY_ENTRIES);
        assert_eq!(info.protocols.len(), MAX_IDENTIFY_ENTRIES);
    }
}
