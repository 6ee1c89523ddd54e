//! Keeps a behaviour away from the connections of strangers.
//!
//! In an open mesh strangers may be identified, pinged and served the routing table. Everything
//! else is wrapped in [`MembersOnly`]: on a stranger's connection the wrapped behaviour has no
//! handler (so its protocols are not offered) and never hears of the connection. In a members-only
//! mesh there are no such connections and the wrapper passes everything through.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};

use either::Either;
use libp2p::core::Endpoint;
use libp2p::core::transport::PortUse;
use libp2p::swarm::behaviour::{ConnectionClosed, ConnectionEstablished, DialFailure};
use libp2p::swarm::{
    ConnectionDenied, ConnectionId, DialError, FromSwarm, NetworkBehaviour, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm, dummy,
};
use libp2p::{Multiaddr, PeerId};

use crate::desk::AdmissionDesk;

#[derive(Debug, thiserror::Error)]
#[error("peer {0} is a stranger")]
struct NotAMember(PeerId);

pub(crate) struct MembersOnly<B> {
    inner: B,
    desk: Arc<AdmissionDesk>,
    /// Connections the inner behaviour has a handler on.
    open: BTreeMap<ConnectionId, PeerId>,
}

impl<B> MembersOnly<B> {
    pub(crate) fn new(inner: B, desk: Arc<AdmissionDesk>) -> Self {
        Self {
            inner,
            desk,
            open: BTreeMap::new(),
        }
    }

    pub(crate) fn inner_mut(&mut self) -> &mut B {
        &mut self.inner
    }

    pub(crate) fn inner(&self) -> &B {
        &self.inner
    }

    fn others(&self, peer: &PeerId) -> usize {
        self.open.values().filter(|p| *p == peer).count()
    }
}

impl<B: NetworkBehaviour> MembersOnly<B> {
    /// The dial led to a stranger. What the inner behaviour wanted of it will not come, and it must not wait.
    fn failed(&mut self, peer: PeerId, connection_id: ConnectionId) {
        let error = DialError::Denied {
            cause: ConnectionDenied::new(NotAMember(peer)),
        };
        self.inner
            .on_swarm_event(FromSwarm::DialFailure(DialFailure {
                peer_id: Some(peer),
                error: &error,
                connection_id,
            }));
    }
}

impl<B: NetworkBehaviour> NetworkBehaviour for MembersOnly<B> {
    type ConnectionHandler = Either<THandler<B>, dummy::ConnectionHandler>;
    type ToSwarm = B::ToSwarm;

    fn handle_pending_inbound_connection(
        &mut self,
        id: ConnectionId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<(), ConnectionDenied> {
        self.inner
            .handle_pending_inbound_connection(id, local, remote)
    }

    fn handle_established_inbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        local: &Multiaddr,
        remote: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.desk.is_member(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self
            .inner
            .handle_established_inbound_connection(id, peer, local, remote)?;
        self.open.insert(id, peer);
        Ok(Either::Left(handler))
    }

    fn handle_pending_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: Option<PeerId>,
        addresses: &[Multiaddr],
        role: Endpoint,
    ) -> Result<Vec<Multiaddr>, ConnectionDenied> {
        self.inner
            .handle_pending_outbound_connection(id, peer, addresses, role)
    }

    fn handle_established_outbound_connection(
        &mut self,
        id: ConnectionId,
        peer: PeerId,
        address: &Multiaddr,
        role: Endpoint,
        port_use: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        if !self.desk.is_member(&peer) {
            return Ok(Either::Right(dummy::ConnectionHandler));
        }
        let handler = self
            .inner
            .handle_established_outbound_connection(id, peer, address, role, port_use)?;
        self.open.insert(id, peer);
        Ok(Either::Left(handler))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                if self.open.contains_key(&event.connection_id) {
                    let other_established = self.others(&event.peer_id) - 1;
                    self.inner.on_swarm_event(FromSwarm::ConnectionEstablished(
                        ConnectionEstablished {
                            other_established,
                            ..event
                        },
                    ));
                } else if event.endpoint.is_dialer() {
                    self.failed(event.peer_id, event.connection_id);
                }
            }
            FromSwarm::ConnectionClosed(event) => {
                if self.open.remove(&event.connection_id).is_some() {
                    let remaining_established = self.others(&event.peer_id);
                    self.inner
                        .on_swarm_event(FromSwarm::ConnectionClosed(ConnectionClosed {
                            remaining_established,
                            ..event
                        }));
                }
            }
            FromSwarm::AddressChange(event) => {
                if self.open.contains_key(&event.connection_id) {
                    self.inner.on_swarm_event(FromSwarm::AddressChange(event));
                }
            }
            FromSwarm::DialFailure(event) => {
                // Another behaviour may have denied a connection after we gave it a handler.
                self.open.remove(&event.connection_id);
                self.inner.on_swarm_event(FromSwarm::DialFailure(event));
            }
            FromSwarm::ListenFailure(event) => {
                self.open.remove(&event.connection_id);
                self.inner.on_swarm_event(FromSwarm::ListenFailure(event));
            }
            other => self.inner.on_swarm_event(other),
        }
    }

    fn on_connection_handler_event(
        &mut self,
        peer: PeerId,
        id: ConnectionId,
        event: THandlerOutEvent<Self>,
    ) {
        match event {
            Either::Left(event) => self.inner.on_connection_handler_event(peer, id, event),
            Either::Right(never) => match never {},
        }
    }

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        self.inner
            .poll(cx)
            .map(|action| action.map_in(Either::Left))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use libp2p::core::ConnectedPoint;
    use libp2p::request_response::{self, OutboundFailure, ProtocolSupport, cbor};
    use libp2p::{StreamProtocol, swarm::dial_opts::DialOpts};

    use super::*;

    type Requests = MembersOnly<cbor::Behaviour<(), ()>>;

    fn requests() -> Requests {
        let protocol = StreamProtocol::new("/test/1");
        let inner = cbor::Behaviour::new(
            [(protocol, ProtocolSupport::Full)],
            request_response::Config::default(),
        );
        MembersOnly::new(inner, Arc::default())
    }

    fn next(requests: &mut Requests) -> ToSwarm<request_response::Event<(), ()>, ()> {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        match requests.poll(&mut cx) {
            Poll::Ready(action) => action.map_in(|_| ()),
            Poll::Pending => panic!("the behaviour wants nothing"),
        }
    }

    fn dialled(requests: &mut Requests) -> DialOpts {
        match next(requests) {
            ToSwarm::Dial { opts } => opts,
            other => panic!("not a dial: {other:?}"),
        }
    }

    #[test]
    fn given_a_dial_that_leads_to_a_stranger_when_it_connects_then_what_waited_for_it_fails() {
        let mut requests = requests();
        let stranger = PeerId::random();
        let sent = requests.inner_mut().send_request(&stranger, ());
        let id = dialled(&mut requests).connection_id();
        let address: Multiaddr = "/ip4/127.0.0.1/tcp/1".parse().unwrap();
        let endpoint = ConnectedPoint::Dialer {
            address: address.clone(),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };

        let handler = requests.handle_established_outbound_connection(
            id,
            stranger,
            &address,
            Endpoint::Dialer,
            PortUse::Reuse,
        );
        assert!(matches!(handler, Ok(Either::Right(_))));
        requests.on_swarm_event(FromSwarm::ConnectionEstablished(ConnectionEstablished {
            peer_id: stranger,
            connection_id: id,
            endpoint: &endpoint,
            failed_addresses: &[],
            other_established: 0,
        }));

        match next(&mut requests) {
            ToSwarm::GenerateEvent(request_response::Event::OutboundFailure {
                request_id,
                error: OutboundFailure::DialFailure,
                ..
            }) => assert_eq!(request_id, sent),
            other => panic!("the request did not fail: {other:?}"),
        }
    }
}
