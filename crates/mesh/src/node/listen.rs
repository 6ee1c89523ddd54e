//! Listening, and listening again when an address comes back.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use libp2p::Multiaddr;
use libp2p::core::transport::{ListenerId, TransportError};
use libp2p::multiaddr::Protocol;
use libp2p::swarm::SwarmEvent;

use crate::core::members::is_loopback;
use crate::error::StartError;
use crate::node::Node;
use crate::node::addresses::is_link_local;
use crate::node::reach::is_circuit;
use crate::transport;

/// How long start waits for the system to tell the addresses of the interfaces.
const FIRST_ADDRESS_TIMEOUT: Duration = Duration::from_secs(3);

/// How often a listener that closed is tried again.
const LISTEN_AGAIN: Duration = Duration::from_secs(5);

/// Configured listeners, and those to be tried again.
#[derive(Debug, Default)]
pub(super) struct Listeners {
    open: HashMap<ListenerId, Multiaddr>,
    closed: Vec<(Multiaddr, Instant)>,
}

impl Node {
    /// Listens everywhere and waits until each listener has told its addresses.
    pub(super) async fn listen_everywhere(&mut self) -> Result<(), StartError> {
        let mut silent = HashSet::new();
        for address in self.config.listen_addresses.clone() {
            refuse_taken_port(&address)?;
            let id = self.listen(&address).map_err(|reason| StartError::Listen {
                address: address.clone(),
                reason,
            })?;
            silent.insert(id);
        }
        for address in self.config.announce_addresses.clone() {
            self.swarm.add_external_address(address);
        }
        let deadline = tokio::time::Instant::now() + FIRST_ADDRESS_TIMEOUT;
        while !silent.is_empty() {
            let next = tokio::time::timeout_at(deadline, self.swarm.select_next_some()).await;
            let Ok(event) = next else {
                tracing::warn!(
                    "some listen addresses are on no interface that is up; listening goes on"
                );
                break;
            };
            match &event {
                SwarmEvent::NewListenAddr { listener_id, .. } => {
                    silent.remove(listener_id);
                }
                SwarmEvent::ListenerClosed {
                    listener_id,
                    reason,
                    ..
                } => {
                    if let Some(address) = self.listeners.open.get(listener_id) {
                        let reason = match reason {
                            Ok(()) => "the listener closed".to_owned(),
                            Err(error) => transport::innermost(error),
                        };
                        let address = address.clone();
                        return Err(StartError::Listen { address, reason });
                    }
                }
                _ => {}
            }
            self.on_swarm_event(event);
        }
        self.addresses_changed();
        Ok(())
    }

    fn listen(&mut self, address: &Multiaddr) -> Result<ListenerId, String> {
        let id = self
            .swarm
            .listen_on(address.clone())
            .map_err(|error| match error {
                TransportError::MultiaddrNotSupported(_) => {
                    "no transport for such an address".into()
                }
                TransportError::Other(error) => transport::innermost(&error),
            })?;
        self.listeners.open.insert(id, address.clone());
        Ok(id)
    }

    pub(super) fn on_listening(&mut self, id: ListenerId, address: Multiaddr) {
        tracing::info!("listening on {address}/p2p/{}", self.swarm.local_peer_id());
        if let Some(configured) = self.listeners.open.get(&id) {
            // Whoever relays is dialled and seldom dials, so nobody tells it what it is seen at; and
            // a relay without an address of its own can grant no slot.
            let offered =
                (is_loopback(configured) || !is_loopback(&address)) && !is_link_local(&address);
            if self.config.relay.server.is_some()
                && self.config.announce_addresses.is_empty()
                && offered
            {
                self.swarm.add_external_address(address.clone());
            }
            self.nat.listening(address);
            // With the address came a network: who could not be reached may be reachable now.
            self.redial.network_changed(Instant::now());
        }
        self.addresses_changed();
        self.refill_nothing();
    }

    /// An interface went away: what waits to be dialled may be reachable another way now.
    pub(super) fn on_not_listening(&mut self, addresses: &[Multiaddr]) {
        for address in addresses {
            tracing::info!(%address, "no longer listening");
            self.nat.not_listening(address);
            if !self.config.announce_addresses.contains(address) {
                self.swarm.remove_external_address(address);
            }
        }
        // A slot on a relay that ran out says nothing about the network under us.
        if addresses.iter().any(|address| !is_circuit(address)) {
            self.redial.network_changed(Instant::now());
            self.close_stranded(addresses);
        }
        self.addresses_changed();
        self.nat_may_have_changed();
    }

    pub(super) fn on_listener_closed(
        &mut self,
        id: ListenerId,
        addresses: &[Multiaddr],
        reason: std::io::Result<()>,
    ) {
        let now = Instant::now();
        if let Some(address) = self.listeners.open.remove(&id) {
            if let Err(error) = reason {
                tracing::warn!(%address, %error, "a listener closed and is tried again");
            }
            self.listeners.closed.push((address, now + LISTEN_AGAIN));
            self.on_not_listening(addresses);
        } else if self.relays.closed(id, now) {
            self.metrics.relay_reservations.set(self.relays.count());
            self.addresses_changed();
            self.nat_may_have_changed();
        }
    }

    pub(super) fn listen_again(&mut self, now: Instant) {
        let (due, waiting) = std::mem::take(&mut self.listeners.closed)
            .into_iter()
            .partition::<Vec<_>, _>(|(_, at)| *at <= now);
        self.listeners.closed = waiting;
        for (address, _) in due {
            if let Err(reason) = self.listen(&address) {
                tracing::debug!(%address, reason, "still cannot listen");
                self.listeners.closed.push((address, now + LISTEN_AGAIN));
            }
        }
    }
}

/// The TCP transport shares its port so that dials can leave from it, and the system then lets two
/// processes of one user listen on the same port. An exclusive bind beforehand tells.
fn refuse_taken_port(address: &Multiaddr) -> Result<(), StartError> {
    let mut parts = address.iter();
    let ip = match parts.next() {
        Some(Protocol::Ip4(ip)) => IpAddr::V4(ip),
        Some(Protocol::Ip6(ip)) => IpAddr::V6(ip),
        _ => return Ok(()),
    };
    let Some(Protocol::Tcp(port)) = parts.next() else {
        return Ok(());
    };
    // An IPv6 wildcard bound by the standard library takes IPv4 along; the transport does not.
    if port == 0 || (ip.is_ipv6() && ip.is_unspecified()) {
        return Ok(());
    }
    match TcpListener::bind(SocketAddr::new(ip, port)) {
        Ok(_) => Ok(()),
        Err(error) => Err(StartError::Listen {
            address: address.clone(),
            reason: error.to_string(),
        }),
    }
}
