//! Which addresses we announce, and the signed record that says so.

use std::time::{Duration, Instant};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use warren_identity::{NodeRecord, Signed, Trust};

use crate::config::NodeDescription;
use crate::core::members::is_loopback;
use crate::core::records::next_sequence;
use crate::error::StartError;
use crate::info::MeshEvent;
use crate::node::reach::is_circuit;
use crate::node::{Node, unix_ms};

/// Addresses one record has at most; what comes first is kept.
const MAX_ADDRESSES: usize = 32;

/// Address changes come in bursts; members are told once the burst is over.
const SETTLE: Duration = Duration::from_millis(500);

/// A record is signed and announced anew at least this often, so that members that missed it, or
/// forgot us, learn it: others drop what is not newer than what they have.
const ANNOUNCE_INTERVAL: Duration = Duration::from_secs(900);

/// What we announced, and when we do it again.
#[derive(Debug, Default)]
pub(super) struct Announced {
    current: Vec<Multiaddr>,
    due: Option<Instant>,
}

impl Announced {
    pub(super) fn current(&self) -> &[Multiaddr] {
        &self.current
    }
}

/// Signs what we say of ourselves.
pub(super) fn sign(
    trust: &Trust,
    node: &NodeDescription,
    addresses: Vec<Multiaddr>,
    sequence: u64,
) -> Result<Signed<NodeRecord>, StartError> {
    let record = NodeRecord {
        peer_id: trust.peer_id(),
        organization: trust.organization().clone(),
        name: node.name.clone(),
        region: node.region.clone(),
        roles: node.roles.clone(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        bulk_addresses: node.bulk_addresses.clone(),
        sequence,
        issued_at_unix_s: unix_ms() / 1000,
    };
    Signed::sign(record, trust.key()).map_err(|error| StartError::Setup {
        part: "node record",
        reason: error.to_string(),
    })
}

impl Node {
    /// Recomputes what we announce; a change is signed at once and told once it has settled.
    pub(super) fn addresses_changed(&mut self) {
        let now = self.announceable();
        if now != self.announced.current {
            self.announced.current = now;
            self.renew_record(Instant::now() + SETTLE);
            self.emit(MeshEvent::AddressesChanged);
        }
    }

    /// Signs a new record and plans to tell others.
    pub(super) fn renew_record(&mut self, announce_at: Instant) {
        let sequence = next_sequence(self.gate.record().value().sequence, unix_ms());
        let addresses = self.announced.current.clone();
        match sign(&self.gate.trust, &self.config.node, addresses, sequence) {
            Ok(record) => {
                self.gate.set_record(record);
                self.announced.due = Some(announce_at);
            }
            Err(error) => tracing::warn!("the old node record stays in use: {error}"),
        }
    }

    pub(super) fn announce_due(&mut self, now: Instant) {
        if self.announced.due.is_none_or(|due| due > now) {
            return;
        }
        let age_s = (unix_ms() / 1000).saturating_sub(self.gate.record().value().issued_at_unix_s);
        if age_s >= ANNOUNCE_INTERVAL.as_secs() {
            self.renew_record(now);
        }
        self.announced.due = Some(now + ANNOUNCE_INTERVAL);
        self.announce_record();
    }

    /// What of a peer's addresses is worth a dial. A loopback address means its own machine: dialled from another one it
    /// leads to whoever listens there, mostly ourselves. So it counts only for a peer that was met over loopback, and
    /// where we listen on loopback alone.
    pub(super) fn dialable(&self, peer: &PeerId, mut addresses: Vec<Multiaddr>) -> Vec<Multiaddr> {
        let mut listeners = self
            .swarm
            .listeners()
            .filter(|address| !is_circuit(address));
        let near = self.table.was_near(peer) || listeners.all(is_loopback);
        addresses.retain(|address| !is_unspecified(address) && (near || !is_loopback(address)));
        addresses
    }

    /// Configured addresses alone; else where we listen, what was confirmed and what relays offer.
    /// What leads to a machine of its own link only is left out.
    fn announceable(&self) -> Vec<Multiaddr> {
        if !self.config.announce_addresses.is_empty() {
            return self
                .config
                .announce_addresses
                .iter()
                .take(MAX_ADDRESSES)
                .cloned()
                .collect();
        }
        let mut addresses: Vec<Multiaddr> = self.swarm.external_addresses().cloned().collect();
        addresses.extend(self.swarm.listeners().cloned());
        addresses.retain(|address| !is_link_local(address));
        addresses.sort();
        addresses.dedup();
        if addresses.iter().any(|address| !is_loopback(address)) {
            addresses.retain(|address| !is_loopback(address));
        }
        addresses.truncate(MAX_ADDRESSES);
        addresses
    }
}

/// Whether an address has a meaning on one link only: without the name of an interface, which differs
/// from machine to machine, nobody can dial it.
pub(super) fn is_link_local(address: &Multiaddr) -> bool {
    matches!(address.iter().next(), Some(Protocol::Ip6(ip)) if ip.is_unicast_link_local())
}

/// Whether an address says "any address" and thereby none.
fn is_unspecified(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_unspecified(),
        Some(Protocol::Ip6(ip)) => ip.is_unspecified(),
        _ => false,
    }
}
