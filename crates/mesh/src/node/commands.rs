//! What handles ask of the swarm task.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p::multiaddr::Protocol;
use libp2p::swarm::dial_opts::{DialOpts, PeerCondition};
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::oneshot;

use crate::config::NodeDescription;
use crate::error::{ConnectError, DhtError, OpenStreamError, PublishError, RequestError};
use crate::info::{DisconnectReason, MemberInfo, NatStatus, PeerInfo, RoutingBucket};
use crate::node::connections::Target;
use crate::node::{Node, PendingConnect};
use crate::sync::{SyncRequest, SyncResponse};

type Reply<T> = oneshot::Sender<T>;

/// One command; the reply is dropped unanswered only when the node stops.
pub(crate) enum Command {
    ListenAddresses(Reply<Vec<Multiaddr>>),
    AnnouncedAddresses(Reply<Vec<Multiaddr>>),
    Connect {
        address: Multiaddr,
        reply: Reply<Result<PeerId, ConnectError>>,
    },
    Found(Vec<(PeerId, Vec<Multiaddr>)>),
    Disconnect {
        peer: PeerId,
        reason: String,
        reply: Reply<bool>,
    },
    Peers(Reply<Vec<PeerInfo>>),
    Members(Reply<Vec<MemberInfo>>),
    Provide {
        key: Vec<u8>,
        reply: Reply<Result<(), DhtError>>,
    },
    StopProviding {
        key: Vec<u8>,
    },
    FindProviders {
        key: Vec<u8>,
        reply: Reply<Result<Vec<PeerId>, DhtError>>,
    },
    FindPeer {
        peer: PeerId,
        reply: Reply<Result<Vec<Multiaddr>, DhtError>>,
    },
    OpenStream {
        peer: PeerId,
        protocol: &'static str,
        reply: Reply<Result<Stream, OpenStreamError>>,
    },
    Request {
        peer: PeerId,
        request: SyncRequest,
        reply: Reply<Result<SyncResponse, RequestError>>,
    },
    Publish {
        topic: String,
        data: Vec<u8>,
        reply: Reply<Result<(), PublishError>>,
    },
    GossipMesh {
        topic: String,
        reply: Reply<Vec<PeerId>>,
    },
    GossipMeshes(Reply<BTreeMap<String, usize>>),
    RoutingTable(Reply<Vec<RoutingBucket>>),
    NatStatus(Reply<NatStatus>),
    Describe(NodeDescription),
    Shutdown(Reply<()>),
}

impl Node {
    /// A reply nobody waits for any more is dropped: the caller gave up.
    pub(super) fn on_command(&mut self, command: Command) {
        match command {
            Command::ListenAddresses(reply) => {
                let _ = reply.send(self.swarm.listeners().cloned().collect());
            }
            Command::AnnouncedAddresses(reply) => {
                let _ = reply.send(self.announced.current().to_vec());
            }
            Command::Connect { address, reply } => self.connect(address, reply),
            Command::Found(list) => self.on_found(list),
            Command::Disconnect {
                peer,
                reason,
                reply,
            } => {
                let known = self.cut(peer, DisconnectReason::Requested(reason));
                let _ = reply.send(known);
            }
            Command::Peers(reply) => {
                let _ = reply.send(self.table.peers());
            }
            Command::Members(reply) => {
                let redial = &self.redial;
                let unreached = |peer: &PeerId| redial.is_unreached(&Target::Peer(*peer));
                let _ = reply.send(self.table.members(unreached));
            }
            Command::Provide { key, reply } => self.provide(key, reply),
            Command::StopProviding { key } => self.stop_providing(key),
            Command::FindProviders { key, reply } => self.find_providers(key, reply),
            Command::FindPeer { peer, reply } => self.find_peer(peer, reply),
            Command::OpenStream {
                peer,
                protocol,
                reply,
            } => {
                self.swarm
                    .behaviour_mut()
                    .streams
                    .inner_mut()
                    .open(peer, protocol, reply);
            }
            Command::Request {
                peer,
                request,
                reply,
            } => self.ask_peer(peer, request, reply),
            Command::Publish { topic, data, reply } => {
                let _ = reply.send(self.publish(topic, data));
            }
            Command::GossipMesh { topic, reply } => {
                let _ = reply.send(self.gossip_mesh(topic));
            }
            Command::GossipMeshes(reply) => {
                let _ = reply.send(self.gossip_meshes());
            }
            Command::RoutingTable(reply) => {
                let _ = reply.send(self.routing_table());
            }
            Command::NatStatus(reply) => {
                let _ = reply.send(self.current_nat_status());
            }
            Command::Describe(node) => {
                self.config.node = node;
                self.renew_record(Instant::now());
            }
            Command::Shutdown(reply) => self.shutdown = Some(reply),
        }
    }

    fn connect(&mut self, address: Multiaddr, reply: Reply<Result<PeerId, ConnectError>>) {
        let options = match address.iter().last() {
            Some(Protocol::P2p(peer)) if self.table.is_connected(&peer) => {
                let _ = reply.send(Ok(peer));
                return;
            }
            Some(Protocol::P2p(peer)) => DialOpts::peer_id(peer)
                .addresses(vec![address.clone()])
                .condition(PeerCondition::Always)
                .build(),
            _ => DialOpts::unknown_peer_id().address(address.clone()).build(),
        };
        let id = options.connection_id();
        self.pending_connects
            .insert(id, PendingConnect { address, reply });
        if let Err(error) = self.swarm.dial(options) {
            self.on_dial_failed(id, None, &error);
        }
    }
}
