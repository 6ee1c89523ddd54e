//! Raw streams between members, their bytes never touching the swarm task.
//!
//! A stream is opened on the best connection (a direct one before a relayed one) and handed to
//! whoever asked; an inbound one goes into the bounded queue of whoever accepts its protocol. From
//! then on the connection's own task moves the bytes. Members' connections are kept open by this
//! handler, except relayed ones beside a direct one.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::convert::Infallible;
use std::future::{Ready, ready};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use libp2p::core::transport::PortUse;
use libp2p::core::{Endpoint, UpgradeInfo};
use libp2p::swarm::behaviour::FromSwarm;
use libp2p::swarm::handler::{
    ConnectionEvent, DialUpgradeError, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionHandlerEvent, ConnectionId, NetworkBehaviour,
    NotifyHandler, StreamProtocol, StreamUpgradeError, SubstreamProtocol, THandler,
    THandlerInEvent, THandlerOutEvent, ToSwarm,
};
use libp2p::{InboundUpgrade, Multiaddr, OutboundUpgrade, PeerId, Stream};
use tokio::sync::{mpsc, oneshot};

use crate::error::OpenStreamError;

/// Inbound streams that wait to be accepted; beyond it a new one is reset at once, which the other
/// side sees as a broken stream and may retry elsewhere.
const MAX_WAITING_INBOUND: usize = 64;

/// Streams being opened at once on one connection; beyond it the request fails at once.
const MAX_OPENING: usize = 128;

/// An inbound stream of a member.
#[derive(Debug)]
pub struct IncomingStream {
    /// Who opened it.
    pub peer: PeerId,
    /// The stream; dropping it resets it.
    pub stream: Stream,
}

/// Inbound streams of one protocol. Dropping it stops the protocol from being offered.
pub type IncomingStreams = mpsc::Receiver<IncomingStream>;

/// Which protocols are accepted now, and where their streams go.
#[derive(Debug, Default)]
pub(crate) struct Acceptors(Mutex<BTreeMap<&'static str, mpsc::Sender<IncomingStream>>>);

impl Acceptors {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<&'static str, mpsc::Sender<IncomingStream>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Accepts `protocol`; `None` if somebody already does.
    pub(crate) fn accept(&self, protocol: &'static str) -> Option<IncomingStreams> {
        let mut acceptors = self.lock();
        acceptors.retain(|_, sender| !sender.is_closed());
        if acceptors.contains_key(protocol) {
            return None;
        }
        let (sender, receiver) = mpsc::channel(MAX_WAITING_INBOUND);
        acceptors.insert(protocol, sender);
        Some(receiver)
    }

    fn protocols(&self) -> Vec<StreamProtocol> {
        let mut acceptors = self.lock();
        acceptors.retain(|_, sender| !sender.is_closed());
        acceptors
            .keys()
            .map(|name| StreamProtocol::new(name))
            .collect()
    }

    fn deliver(&self, peer: PeerId, protocol: &StreamProtocol, stream: Stream) {
        let sender = self.lock().get(protocol.as_ref()).cloned();
        let delivered =
            sender.is_some_and(|sender| sender.try_send(IncomingStream { peer, stream }).is_ok());
        if !delivered {
            tracing::debug!(%peer, %protocol, "an inbound stream was reset: nobody accepts it fast enough");
        }
    }
}

type Reply = oneshot::Sender<Result<Stream, OpenStreamError>>;

/// Somebody waits for a stream. A connection that ends takes its requests along: dropped, each still answers.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    peer: PeerId,
    protocol: &'static str,
    reply: Option<Reply>,
}

impl OpenRequest {
    fn new(peer: PeerId, protocol: &'static str, reply: Reply) -> Self {
        Self {
            peer,
            protocol,
            reply: Some(reply),
        }
    }

    fn answer(mut self, outcome: Result<Stream, OpenStreamError>) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Result<Stream, OpenStreamError>) {
        if let Some(reply) = self.reply.take() {
            // The caller may have given up; then nobody needs to know.
            let _ = reply.send(outcome);
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.send(Err(OpenStreamError::Broken {
            peer: self.peer,
            reason: "the connection closed".into(),
        }));
    }
}

#[derive(Debug)]
pub(crate) enum Command {
    Open(OpenRequest),
    KeepAlive(KeepAlive),
}

/// Whether a connection is held open when nothing uses it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepAlive {
    Yes,
    No,
}

#[derive(Debug)]
struct Connection {
    id: ConnectionId,
    relayed: bool,
}

/// The behaviour; wrapped in `MembersOnly`.
#[derive(Debug, Default)]
pub(crate) struct Streams {
    acceptors: Arc<Acceptors>,
    connections: BTreeMap<PeerId, Vec<Connection>>,
    actions: VecDeque<ToSwarm<Infallible, Command>>,
    waker: Option<Waker>,
}

impl Streams {
    pub(crate) fn acceptors(&self) -> Arc<Acceptors> {
        self.acceptors.clone()
    }

    /// Opens a stream on the best connection to `peer`: a direct one before a relayed one, and the newest, since an older
    /// one may lead to an address that the peer has left.
    pub(crate) fn open(&mut self, peer: PeerId, protocol: &'static str, reply: Reply) {
        let request = OpenRequest::new(peer, protocol, reply);
        let best = self
            .connections
            .get(&peer)
            .and_then(|all| all.iter().min_by_key(|c| (c.relayed, Reverse(c.id))));
        let Some(connection) = best.map(|c| c.id) else {
            request.answer(Err(OpenStreamError::NotConnected(peer)));
            return;
        };
        self.notify(peer, connection, Command::Open(request));
    }

    fn notify(&mut self, peer_id: PeerId, connection: ConnectionId, event: Command) {
        self.actions.push_back(ToSwarm::NotifyHandler {
            peer_id,
            handler: NotifyHandler::One(connection),
            event,
        });
        if let Some(waker) = self.waker.take() {
            waker.wake();
        }
    }

    /// Holds relayed connections open only while there is no direct one.
    fn settle(&mut self, peer: PeerId) {
        let Some(all) = self.connections.get(&peer) else {
            return;
        };
        let keep = if all.iter().any(|c| !c.relayed) {
            KeepAlive::No
        } else {
            KeepAlive::Yes
        };
        let relayed: Vec<ConnectionId> = all.iter().filter(|c| c.relayed).map(|c| c.id).collect();
        for id in relayed {
            self.notify(peer, id, Command::KeepAlive(keep));
        }
    }
}

impl NetworkBehaviour for Streams {
    type ConnectionHandler = Handler;
    type ToSwarm = Infallible;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.acceptors.clone()))
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        peer: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<THandler<Self>, ConnectionDenied> {
        Ok(Handler::new(peer, self.acceptors.clone()))
    }

    fn on_swarm_event(&mut self, event: FromSwarm<'_>) {
        match event {
            FromSwarm::ConnectionEstablished(event) => {
                self.connections
                    .entry(event.peer_id)
                    .or_default()
                    .push(Connection {
                        id: event.connection_id,
                        relayed: event.endpoint.is_relayed(),
                    });
                self.settle(event.peer_id);
            }
            FromSwarm::ConnectionClosed(event) => {
                if let Some(all) = self.connections.get_mut(&event.peer_id) {
                    all.retain(|c| c.id != event.connection_id);
                    if all.is_empty() {
                        self.connections.remove(&event.peer_id);
                    }
                }
                self.settle(event.peer_id);
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

    fn poll(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<ToSwarm<Self::ToSwarm, THandlerInEvent<Self>>> {
        if let Some(action) = self.actions.pop_front() {
            return Poll::Ready(action);
        }
        self.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

/// The handler of one connection.
#[derive(Debug)]
pub(crate) struct Handler {
    peer: PeerId,
    acceptors: Arc<Acceptors>,
    keep_alive: KeepAlive,
    requested: VecDeque<OpenRequest>,
    opening: usize,
}

impl Handler {
    fn new(peer: PeerId, acceptors: Arc<Acceptors>) -> Self {
        Self {
            peer,
            acceptors,
            keep_alive: KeepAlive::Yes,
            requested: VecDeque::new(),
            opening: 0,
        }
    }

    fn failed(
        &self,
        protocol: &'static str,
        error: StreamUpgradeError<Infallible>,
    ) -> OpenStreamError {
        let peer = self.peer;
        match error {
            StreamUpgradeError::NegotiationFailed => {
                OpenStreamError::Unsupported { peer, protocol }
            }
            StreamUpgradeError::Timeout => OpenStreamError::Broken {
                peer,
                reason: "no answer in time".into(),
            },
            StreamUpgradeError::Io(error) => OpenStreamError::Broken {
                peer,
                reason: error.to_string(),
            },
            StreamUpgradeError::Apply(never) => match never {},
        }
    }
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Command;
    type ToBehaviour = Infallible;
    type InboundProtocol = Offer;
    type OutboundProtocol = Offer;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = OpenRequest;

    fn listen_protocol(&self) -> SubstreamProtocol<Offer> {
        SubstreamProtocol::new(
            Offer {
                protocols: self.acceptors.protocols(),
            },
            (),
        )
    }

    fn connection_keep_alive(&self) -> bool {
        self.keep_alive == KeepAlive::Yes || !self.requested.is_empty() || self.opening > 0
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Offer, OpenRequest, Infallible>> {
        // The swarm polls a handler after every behaviour event, so no waker is kept.
        match self.requested.pop_front() {
            Some(request) => {
                self.opening += 1;
                let offer = Offer {
                    protocols: vec![StreamProtocol::new(request.protocol)],
                };
                Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest {
                    protocol: SubstreamProtocol::new(offer, request),
                })
            }
            None => Poll::Pending,
        }
    }

    fn on_behaviour_event(&mut self, event: Command) {
        match event {
            Command::KeepAlive(keep) => self.keep_alive = keep,
            Command::Open(request) => {
                if self.requested.len() + self.opening < MAX_OPENING {
                    self.requested.push_back(request);
                } else {
                    request.answer(Err(OpenStreamError::Broken {
                        peer: self.peer,
                        reason: format!("{MAX_OPENING} streams are already being opened"),
                    }));
                }
            }
        }
    }

    fn on_connection_event(&mut self, event: ConnectionEvent<'_, Offer, Offer, (), OpenRequest>) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound {
                protocol: (stream, protocol),
                ..
            }) => self.acceptors.deliver(self.peer, &protocol, stream),
            ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound {
                protocol: (stream, _),
                info,
            }) => {
                self.opening -= 1;
                info.answer(Ok(stream));
            }
            ConnectionEvent::DialUpgradeError(DialUpgradeError { info, error }) => {
                self.opening -= 1;
                let error = self.failed(info.protocol, error);
                info.answer(Err(error));
            }
            _ => {}
        }
    }
}

/// Negotiates one of several protocols and gives back the bare stream.
#[derive(Debug)]
pub(crate) struct Offer {
    protocols: Vec<StreamProtocol>,
}

impl UpgradeInfo for Offer {
    type Info = StreamProtocol;
    type InfoIter = std::vec::IntoIter<StreamProtocol>;

    fn protocol_info(&self) -> Self::InfoIter {
        self.protocols.clone().into_iter()
    }
}

impl InboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_inbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

impl OutboundUpgrade<Stream> for Offer {
    type Output = (Stream, StreamProtocol);
    type Error = Infallible;
    type Future = Ready<Result<Self::Output, Infallible>>;

    fn upgrade_outbound(self, stream: Stream, protocol: StreamProtocol) -> Self::Future {
        ready(Ok((stream, protocol)))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_a_stream_that_is_asked_for_when_the_connection_goes_then_who_waits_is_told_so() {
        let peer = PeerId::random();
        let (reply, mut answer) = oneshot::channel();
        let mut handler = Handler::new(peer, Arc::default());
        handler.on_behaviour_event(Command::Open(OpenRequest::new(peer, "/x/1.0.0", reply)));
        assert!(answer.try_recv().is_err(), "nothing is known yet");
        drop(handler);
        assert!(matches!(
            answer.try_recv(),
            Ok(Err(OpenStreamError::Broken { peer: of, .. })) if of == peer
        ));
    }
}
