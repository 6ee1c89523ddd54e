//! [`Mesh`]: the handle everyone else holds.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId, Stream};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::task::JoinHandle;
use warren_identity::{Member, Trust};
use warren_telemetry::{Metrics, NetworkMetrics};

use crate::behaviour::streams::{Acceptors, IncomingStreams};
use crate::config::{MeshConfig, NodeDescription};
use crate::error::{
    ConnectError, DhtError, OpenStreamError, PublishError, RequestError, StartError,
};
use crate::info::{Bandwidth, MemberInfo, MeshEvent, NatStatus, PeerInfo, RoutingBucket};
use crate::node::{Command, Node};
use crate::sync::{SyncRequest, SyncResponse};
use crate::traffic::{BlockCounter, TrafficTable};

/// Commands that wait for the swarm task; whoever sends one more waits.
const COMMAND_QUEUE: usize = 256;

/// Events a slow subscriber may lag behind before it loses the oldest.
const EVENT_QUEUE: usize = 1_024;

/// Have-queries that wait to be answered; one more is answered with an error.
const QUERY_QUEUE: usize = 256;

/// How long [`Mesh::connect`] waits.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

/// How long [`Mesh::shutdown`] waits for connections to close in order.
pub(crate) const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(3);

/// A peer asks which documents this node holds whole.
#[derive(Debug)]
pub struct HaveQuery {
    /// Who asks.
    pub peer: PeerId,
    /// Its membership.
    pub member: Arc<Member>,
    /// Document ids as text, at most [`crate::MAX_HAVE_DOCUMENTS`].
    pub documents: Vec<String>,
    /// One entry per document, in order. Dropped: the peer is told that it was not answered.
    pub answer: oneshot::Sender<Vec<bool>>,
}

/// A running mesh node. Clones are handles to the same one; it runs until [`Mesh::shutdown`] or
/// until the last handle is gone. Every method is cancellation safe: giving up waiting leaves the
/// node as it is.
#[derive(Debug, Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    local: PeerId,
    commands: mpsc::Sender<Command>,
    events: broadcast::Sender<MeshEvent>,
    acceptors: Arc<Acceptors>,
    traffic: Arc<TrafficTable>,
    queries: Mutex<Option<mpsc::Receiver<HaveQuery>>>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Mesh {
    /// Starts a node and returns once it listens on all its addresses.
    ///
    /// `trust` must hold a leaf that makes this node a member. `network` is shared with whoever
    /// else moves bytes between peers; the mesh's own metrics are registered with `metrics`.
    ///
    /// # Errors
    /// [`StartError`]; nothing keeps running.
    pub async fn start(
        config: MeshConfig,
        trust: Trust,
        metrics: &Metrics,
        network: NetworkMetrics,
    ) -> Result<Self, StartError> {
        let (commands, inbox) = mpsc::channel(COMMAND_QUEUE);
        let (events, _) = broadcast::channel(EVENT_QUEUE);
        let (queries, asked) = mpsc::channel(QUERY_QUEUE);
        let local = trust.peer_id();
        let node = Node::start(
            config,
            trust,
            metrics,
            network,
            inbox,
            events.clone(),
            queries,
        )
        .await?;
        let acceptors = node.acceptors();
        let traffic = node.traffic();
        let task = tokio::spawn(node.run());
        Ok(Self {
            inner: Arc::new(Inner {
                local,
                commands,
                events,
                acceptors,
                traffic,
                queries: Mutex::new(Some(asked)),
                task: Mutex::new(Some(task)),
            }),
        })
    }

    /// Who we are.
    pub fn peer_id(&self) -> PeerId {
        self.inner.local
    }

    /// Everything that happens from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<MeshEvent> {
        self.inner.events.subscribe()
    }

    /// The queries peers send; `None` after the first call. While nobody takes them they are
    /// answered with an error.
    pub fn have_queries(&self) -> Option<mpsc::Receiver<HaveQuery>> {
        self.inner
            .queries
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    /// Addresses we listen on, interfaces spelt out.
    pub async fn listen_addresses(&self) -> Vec<Multiaddr> {
        self.ask(Command::ListenAddresses).await.unwrap_or_default()
    }

    /// Addresses others are told to dial us at, as in our record.
    pub async fn announced_addresses(&self) -> Vec<Multiaddr> {
        self.ask(Command::AnnouncedAddresses)
            .await
            .unwrap_or_default()
    }

    /// Dials an address and waits for the outcome, at most 30 s. With `/p2p/<peer id>` at the end
    /// nobody else is accepted there. Returns at once if that peer is connected already.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, address: Multiaddr) -> Result<PeerId, ConnectError> {
        let target = address.to_string();
        if address.iter().last() == Some(Protocol::P2p(self.inner.local)) {
            return Err(ConnectError::Ourselves(address));
        }
        let outcome = self.ask(|reply| Command::Connect { address, reply });
        match tokio::time::timeout(CONNECT_TIMEOUT, outcome).await {
            Ok(Some(result)) => result,
            Ok(None) => Err(ConnectError::Stopped),
            Err(_) => Err(ConnectError::TimedOut {
                target,
                seconds: CONNECT_TIMEOUT.as_secs(),
            }),
        }
    }

    /// Tells where peers may be found, as a discovery server says: each is dialled, and dialled again
    /// with growing pauses, until it is met. A later list replaces this one; who is no longer named
    /// and was never met is given up.
    pub async fn found(&self, peers: Vec<(PeerId, Vec<Multiaddr>)>) {
        let _ = self.send(Command::Found(peers)).await;
    }

    /// Closes all connections with a peer; `false` if there were none. It may come back.
    pub async fn disconnect(&self, peer: PeerId, reason: impl Into<String>) -> bool {
        let reason = reason.into();
        self.ask(|reply| Command::Disconnect {
            peer,
            reason,
            reply,
        })
        .await
        .unwrap_or(false)
    }

    /// Connected peers, by peer id.
    pub async fn peers(&self) -> Vec<PeerInfo> {
        self.ask(Command::Peers).await.unwrap_or_default()
    }

    /// Members known, connected or not, by peer id.
    pub async fn members(&self) -> Vec<MemberInfo> {
        self.ask(Command::Members).await.unwrap_or_default()
    }

    /// Announces in the DHT that this node provides `key`, and again every six hours. Returns once
    /// the announcement has been placed as well as it could be.
    ///
    /// # Errors
    /// [`DhtError`]; after [`DhtError::TimedOut`] and [`DhtError::NoPeers`] the key stays on the
    /// list to be announced again.
    pub async fn provide(&self, key: Vec<u8>) -> Result<(), DhtError> {
        self.ask(|reply| Command::Provide { key, reply })
            .await
            .unwrap_or(Err(DhtError::Stopped))
    }

    /// Stops announcing `key`; records others hold run out within a day.
    pub async fn stop_providing(&self, key: Vec<u8>) {
        let _ = self.send(Command::StopProviding { key }).await;
    }

    /// Who provides `key`, ourselves not included. Ends at the query time-out at the latest.
    ///
    /// # Errors
    /// [`DhtError`]; [`DhtError::TimedOut`] only if nobody was found by then.
    pub async fn find_providers(&self, key: Vec<u8>) -> Result<Vec<PeerId>, DhtError> {
        self.ask(|reply| Command::FindProviders { key, reply })
            .await
            .unwrap_or(Err(DhtError::Stopped))
    }

    /// The addresses of a peer, from what is known or by a lookup.
    ///
    /// # Errors
    /// [`DhtError`].
    pub async fn find_peer(&self, peer: PeerId) -> Result<Vec<Multiaddr>, DhtError> {
        self.ask(|reply| Command::FindPeer { peer, reply })
            .await
            .unwrap_or(Err(DhtError::Stopped))
    }

    /// Opens a stream to a connected member, on a direct connection if there is one.
    ///
    /// # Errors
    /// [`OpenStreamError`].
    pub async fn open_stream(
        &self,
        peer: PeerId,
        protocol: &'static str,
    ) -> Result<Stream, OpenStreamError> {
        self.ask(|reply| Command::OpenStream {
            peer,
            protocol,
            reply,
        })
        .await
        .unwrap_or(Err(OpenStreamError::Stopped))
    }

    /// Accepts members' streams of a protocol until the receiver is dropped; `None` if somebody
    /// accepts it already.
    pub fn accept_streams(&self, protocol: &'static str) -> Option<IncomingStreams> {
        self.inner.acceptors.accept(protocol)
    }

    /// Asks a member; dials it first if its addresses are known.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn request(
        &self,
        peer: PeerId,
        request: SyncRequest,
    ) -> Result<SyncResponse, RequestError> {
        self.ask(|reply| Command::Request {
            peer,
            request,
            reply,
        })
        .await
        .unwrap_or(Err(RequestError::Stopped))
    }

    /// Publishes on one of the configured topics, signed with our key.
    ///
    /// # Errors
    /// [`PublishError`].
    pub async fn publish(
        &self,
        topic: impl Into<String>,
        data: Vec<u8>,
    ) -> Result<(), PublishError> {
        let topic = topic.into();
        self.ask(|reply| Command::Publish { topic, data, reply })
            .await
            .unwrap_or(Err(PublishError::Stopped))
    }

    /// Peers of our gossip mesh for a topic.
    pub async fn gossip_mesh(&self, topic: impl Into<String>) -> Vec<PeerId> {
        let topic = topic.into();
        self.ask(|reply| Command::GossipMesh { topic, reply })
            .await
            .unwrap_or_default()
    }

    /// How many peers our gossip goes to directly, by topic; empty where gossip is off.
    pub async fn gossip_meshes(&self) -> BTreeMap<String, usize> {
        self.ask(Command::GossipMeshes).await.unwrap_or_default()
    }

    /// The Kademlia routing table, empty buckets left out.
    pub async fn routing_table(&self) -> Vec<RoutingBucket> {
        self.ask(Command::RoutingTable).await.unwrap_or_default()
    }

    /// Whether and how others reach us.
    pub async fn nat_status(&self) -> NatStatus {
        self.ask(Command::NatStatus).await.unwrap_or_default()
    }

    /// Bytes by peer and kind of message since start.
    pub fn bandwidth(&self) -> Bandwidth {
        self.inner.traffic.snapshot()
    }

    /// Counts what is exchanged with a member on a bulk connection, so that [`Self::bandwidth`] has all of it.
    pub fn block_counter(&self, peer: PeerId) -> BlockCounter {
        self.inner.traffic.blocks(peer)
    }

    /// Changes what we say of ourselves; members are told.
    pub async fn describe(&self, node: NodeDescription) {
        let _ = self.send(Command::Describe(node)).await;
    }

    /// Closes all connections and stops. Returns when nothing of the node runs any more.
    pub async fn shutdown(&self) {
        let _ = self.ask(Command::Shutdown).await;
        let task = self
            .inner
            .task
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(task) = task {
            // The task does not panic on purpose; if it did, it is stopped all the same.
            let _ = task.await;
        }
    }

    async fn send(&self, command: Command) -> Option<()> {
        self.inner.commands.send(command).await.ok()
    }

    async fn ask<T>(&self, command: impl FnOnce(oneshot::Sender<T>) -> Command) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.send(command(reply)).await?;
        answer.await.ok()
    }
}
