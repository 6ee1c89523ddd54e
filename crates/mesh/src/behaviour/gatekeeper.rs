//! Books connections in and out, and keeps out what admission did not let in.
//!
//! In a members-only mesh every connection the swarm sees has passed admission. Should one ever
//! not have, it is denied here: fail closed.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::Arc;
use std::task::{Context, Poll};

use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, FromSwarm, NetworkBehaviour, THandler, THandlerInEvent,
    THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};
use warren_telemetry::DisconnectReason;

use crate::config::AdmissionPolicy;
use crate::gate::Gate;

#[derive(Debug, thiserror::Error)]
#[error("peer {0} has not proven membership")]
struct NotAdmitted(PeerId);

/// Connections one address may have in the making: a whole site may come back at once behind one
/// address, but no one address may take all the places there are.
pub(crate) const MAX_PENDING_PER_ADDRESS: usize = 32;

#[derive(Debug, thiserror::Error)]
#[error("{0} has {MAX_PENDING_PER_ADDRESS} connections in the making already")]
struct TooManyPending(IpAddr);

pub(crate) struct Gatekeeper {
    gate: Arc<Gate>,
    /// Connections of members that were booked in.
    booked: BTreeMap<ConnectionId, PeerId>,
    /// Inbound connections in the making, by where they come from; relayed ones have no address.
    pending: BTreeMap<ConnectionId, IpAddr>,
}

impl Gatekeeper {
    pub(crate) fn new(gate: Arc<Gate>) -> Self {
        Self {
            gate,
            booked: BTreeMap::new(),
            pending: BTreeMap::new(),
        }
    }

    fn book(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
    ) -> Result<dummy::ConnectionHandler, ConnectionDenied> {
        if self.gate.desk.is_member(&peer) {
            let region = self.gate.desk.region(&peer);
            let organization = self.gate.trust.organization();
            self.gate.network.connected(
                &peer.to_string(),
                organization.as_str(),
                region.as_deref(),
            );
            self.gate.desk.opened(peer);
            self.booked.insert(id, peer);
        } else if self.gate.policy() == AdmissionPolicy::Members {
            return Err(ConnectionDenied::new(NotAdmitted(peer)));
        }
        Ok(dummy::ConnectionHandler)
    }

    /// Another behaviour denied the connection after it was booked.
    fn cancel(&mut self, id: ConnectionId) {
        if let Some(peer) = self.booked.remove(&id) {
            self.gate.desk.closed(&peer);
            self.gate
                .network
                .disconnected(&peer.to_string(), DisconnectReason("denied"));
        }
    }
}

impl NetworkBehaviour for Gatekeeper {
    type ConnectionHandler = dummy::ConnectionHandler;
    type ToSwarm = Infallible;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        _: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        let Some(ip) = source_of(remote) else {
            return Ok(());
        };
        if self.pending.values().filter(|of| **of == ip).count() >= MAX_PENDING_PER_ADDRESS {
            return Err(ConnectionDenied::new(TooManyPending(ip)));
        }
        self.pending.insert(id, ip);
        Ok(())
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.pending.remove(&id);
        self.book(id, peer)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        self.book(id, peer)
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            // The swarm task, which knows why, counts the end in the metrics.
            FromSwarm::ConnectionClosed(event) => {
                if let Some(peer) = self.booked.remove(&event.connection_id) {
                    self.gate.desk.closed(&peer);
                }
            }
            FromSwarm::DialFailure(event) => self.cancel(event.connection_id),
            FromSwarm::ListenFailure(event) => {
                self.pending.remove(&event.connection_id);
                self.cancel(event.connection_id);
            }
            _ => {}
        }
    }

    fn on_connection_handler_event(
        &mut self,
        _: PeerId,
        _: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {}
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Infallible, THandlerInEvent<Self>>> {
        Poll::Pending
    }
}

/// Where a connection comes from; of an IPv6 address the /64, since one host usually owns all of it.
fn source_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(Ipv6Addr::from(u128::from(ip) & !u128::from(u64::MAX)).into()),
        _ => None,
    }
}
