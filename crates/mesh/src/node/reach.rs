//! How others reach us: external addresses, port mappings, relays, hole punching.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use libp2p::core::transport::ListenerId;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, autonat, dcutr, relay, upnp};

use crate::config::RelayClient;
use crate::info::{MeshEvent, NatStatus, Reachability};
use crate::node::Node;
use crate::node::connections::peer_of;

/// Slots held at once: one relay may go away.
const WANTED_RELAYS: usize = 2;

/// A relay that refused or dropped us is asked again after this long.
const ASK_AGAIN: Duration = Duration::from_secs(30);

/// What a relay offers in `identify`.
const RELAY_PROTOCOL: &str = "/libp2p/circuit/relay/0.2.0/hop";

/// Our slots on relays.
#[derive(Debug, Default)]
pub(super) struct Relays {
    slots: BTreeMap<PeerId, Slot>,
    not_before: BTreeMap<PeerId, Instant>,
    mapped: Vec<Multiaddr>,
    succeeded: u64,
    failed: u64,
}

#[derive(Debug)]
struct Slot {
    listener: ListenerId,
    accepted: bool,
}

impl Relays {
    /// Slots relays have granted.
    pub(super) fn count(&self) -> i64 {
        i64::try_from(self.granted().count()).unwrap_or(i64::MAX)
    }

    fn granted(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.slots
            .iter()
            .filter(|(_, slot)| slot.accepted)
            .map(|(peer, _)| *peer)
    }

    /// A listener closed; `true` if it was one of ours.
    pub(super) fn closed(&mut self, listener: ListenerId, now: Instant) -> bool {
        let owner = self
            .slots
            .iter()
            .find(|(_, slot)| slot.listener == listener)
            .map(|(p, _)| *p);
        let Some(peer) = owner else { return false };
        self.slots.remove(&peer);
        self.not_before.insert(peer, now + ASK_AGAIN);
        true
    }

    /// A peer is gone; if it comes back it may be asked at once.
    pub(super) fn lost(&mut self, peer: &PeerId) {
        self.not_before.remove(peer);
    }
}

impl Node {
    /// Reserves slots while they are wanted and gives them back when they are not.
    pub(super) fn reserve_relays(&mut self, now: Instant) {
        let wanted = match self.config.relay.client {
            RelayClient::Never => false,
            RelayClient::Always => true,
            RelayClient::WhenPrivate => match self.nat.reachability() {
                Reachability::Private => true,
                Reachability::Public => false,
                // A test takes many seconds, and behind a translator it mostly fails: a slot at once
                // spares the wait. Who announces a forwarded port says that it can be reached.
                Reachability::Unknown => {
                    self.nat.is_translated() && self.config.announce_addresses.is_empty()
                }
            },
        };
        if !wanted {
            let slots = std::mem::take(&mut self.relays.slots);
            for slot in slots.values() {
                self.swarm.remove_listener(slot.listener);
            }
            if !slots.is_empty() {
                self.metrics.relay_reservations.set(0);
                self.addresses_changed();
            }
            return;
        }
        for (peer, address) in self.relay_candidates() {
            if self.relays.slots.len() >= WANTED_RELAYS {
                break;
            }
            let asked = self.relays.slots.contains_key(&peer);
            let waits = self
                .relays
                .not_before
                .get(&peer)
                .is_some_and(|at| *at > now);
            if asked || waits {
                continue;
            }
            match self.swarm.listen_on(address.with(Protocol::P2pCircuit)) {
                Ok(listener) => {
                    self.relays.slots.insert(
                        peer,
                        Slot {
                            listener,
                            accepted: false,
                        },
                    );
                }
                Err(error) => {
                    tracing::debug!(%peer, %error, "cannot ask the relay for a slot");
                    self.relays.not_before.insert(peer, now + ASK_AGAIN);
                }
            }
        }
    }

    /// Configured relays first, then connected members that are certified to relay and do; each address ends in its
    /// peer id.
    fn relay_candidates(&self) -> Vec<(PeerId, Multiaddr)> {
        let configured = self
            .config
            .relay
            .relays
            .iter()
            .filter_map(|a| Some((peer_of(a)?, a.clone())));
        let connected = self.table.connected_members().filter_map(|peer| {
            let relays = self.table.may_relay(&peer)
                && self.table.offers(&peer, RELAY_PROTOCOL)
                && self.table.is_direct(&peer);
            let dialled = self.table.remote_addresses(&peer);
            let known = self.dialable(&peer, self.table.addresses(&peer));
            let address = dialled
                .into_iter()
                .chain(known)
                .find(|a| relays && !is_circuit(a))?;
            Some((peer, with_peer(address, peer)))
        });
        let local = *self.swarm.local_peer_id();
        configured
            .chain(connected)
            .filter(|(peer, _)| *peer != local)
            .collect()
    }

    pub(super) fn on_relay_client(&mut self, event: &relay::client::Event) {
        if let relay::client::Event::ReservationReqAccepted {
            relay_peer_id,
            renewal,
            ..
        } = event
        {
            if !renewal {
                tracing::info!(relay = %relay_peer_id, "reachable through a relay");
            }
            if let Some(slot) = self.relays.slots.get_mut(relay_peer_id) {
                slot.accepted = true;
            }
            self.metrics.relay_reservations.set(self.relays.count());
            self.addresses_changed();
            self.nat_may_have_changed();
        }
    }

    pub(super) fn on_relay_server(&mut self, event: &relay::Event) {
        match event {
            relay::Event::CircuitReqAccepted { .. } => {
                self.metrics.relay_circuits.inc();
            }
            relay::Event::CircuitClosed { .. } => {
                self.metrics.relay_circuits.dec();
            }
            relay::Event::ReservationReqDenied {
                src_peer_id,
                status,
            } => {
                tracing::info!(peer = %src_peer_id, ?status, "a member was denied a slot on this relay");
            }
            relay::Event::CircuitReqDenied {
                src_peer_id,
                dst_peer_id,
                status,
            } => {
                tracing::info!(from = %src_peer_id, to = %dst_peer_id, ?status, "a circuit was denied");
            }
            _ => {}
        }
    }

    pub(super) fn on_hole_punch(&mut self, event: dcutr::Event) {
        let peer = event.remote_peer_id;
        let result = event.result.map(|_| ()).map_err(|error| error.to_string());
        match &result {
            Ok(()) => {
                self.relays.succeeded += 1;
                self.metrics.hole_punch("succeeded");
                tracing::info!(%peer, "a direct connection replaces the relayed one");
            }
            Err(error) => {
                self.relays.failed += 1;
                self.metrics.hole_punch("failed");
                tracing::info!(%peer, error, "no direct connection; the relayed one stays");
            }
        }
        self.emit(MeshEvent::HolePunch { peer, result });
        self.nat_may_have_changed();
    }

    /// Dials another circuit to peers that hole punching has not reached yet, which makes the other side try again.
    /// The one before it stays until the next round, for what is still under way on it.
    pub(super) fn punch_again(&mut self, now: Instant) {
        if !self.config.hole_punching {
            return;
        }
        let relayed = self.table.only_relayed();
        for peer in self.punching.handle_timeout(&relayed, now) {
            let mut circuits = self.table.dialled_circuits(&peer);
            let Some((_, address)) = circuits.pop() else {
                continue;
            };
            for (superseded, _) in circuits {
                self.swarm.close_connection(superseded);
            }
            let options = DialOpts::peer_id(peer)
                .addresses(vec![address])
                .condition(PeerCondition::Always)
                .build();
            tracing::debug!(%peer, "trying again to get past the relay");
            if let Err(error) = self.swarm.dial(options) {
                tracing::debug!(%peer, %error, "cannot dial another circuit");
            }
        }
    }

    pub(super) fn on_autonat(&mut self, event: autonat::v2::client::Event) {
        let reachable = event.result.is_ok();
        // That a circuit works says nothing about ourselves, nor does what a relay makes of our address.
        if !has_ip(&event.tested_addr) || is_circuit(&event.tested_addr) {
            return;
        }
        tracing::debug!(address = %event.tested_addr, server = %event.server, reachable, "address tested");
        self.nat.tested(event.tested_addr, reachable);
        self.nat_may_have_changed();
    }

    pub(super) fn on_upnp(&mut self, event: upnp::Event) {
        match event {
            upnp::Event::NewExternalAddr { external_addr, .. } => {
                tracing::info!(address = %external_addr, "the gateway maps a port for us");
                self.relays.mapped.push(external_addr);
            }
            upnp::Event::ExpiredExternalAddr { external_addr, .. } => {
                self.relays
                    .mapped
                    .retain(|address| *address != external_addr);
            }
            upnp::Event::GatewayNotFound => tracing::debug!("no gateway that maps ports"),
            upnp::Event::NonRoutableGateway => {
                tracing::info!("the gateway maps ports but is itself behind another one");
            }
        }
        self.nat_may_have_changed();
    }

    /// An address was proven. With configured ones, those alone are announced.
    pub(super) fn on_external(&mut self, address: Multiaddr) {
        let announced = &self.config.announce_addresses;
        if !announced.is_empty() && !announced.contains(&address) {
            self.swarm.remove_external_address(&address);
            return;
        }
        self.addresses_changed();
        self.nat_may_have_changed();
    }

    pub(super) fn current_nat_status(&self) -> NatStatus {
        NatStatus {
            reachability: self.nat.reachability(),
            kind: self.nat.kind(),
            observed: self.nat.observed_addresses(),
            confirmed: self.swarm.external_addresses().cloned().collect(),
            mapped: self.relays.mapped.clone(),
            relays: self.relays.granted().collect(),
            hole_punches_succeeded: self.relays.succeeded,
            hole_punches_failed: self.relays.failed,
        }
    }

    pub(super) fn nat_may_have_changed(&mut self) {
        let status = self.current_nat_status();
        if status != self.nat_status {
            self.nat_status = status.clone();
            self.emit(MeshEvent::NatStatusChanged(status));
        }
    }
}

fn has_ip(address: &Multiaddr) -> bool {
    matches!(
        address.iter().next(),
        Some(Protocol::Ip4(_) | Protocol::Ip6(_))
    )
}

/// Whether an address leads through a relay.
pub(super) fn is_circuit(address: &Multiaddr) -> bool {
    address.iter().any(|part| part == Protocol::P2pCircuit)
}

fn with_peer(address: Multiaddr, peer: PeerId) -> Multiaddr {
    match peer_of(&address) {
        Some(_) => address,
        None => address.with(Protocol::P2p(peer)),
    }
}
