//! Nodes for transfer tests: honest ones with a store, and ones that misbehave on a raw stream.
// Each test binary uses its own part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt as _;
use futures::future::BoxFuture;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream};
use warren_content::core::fetch::FetchLimits;
use warren_content::core::wire::{
    BlockHeader, LENGTH_PREFIX, Request, RequestId, Response, frame_length,
};
use warren_content::retrieve::{Connector, Peers, Providers, Retriever, RetrieverOptions};
use warren_content::store::PutOptions;
use warren_content::transfer::{
    BlockServer, ConnectError, FarEnd, Link, Membership, MembershipEnded, TransferLimits,
    TransferMetrics,
};
use warren_content::{BlockId, DocumentId, Store, StoreOptions, StoredBlock};
use warren_identity::{NodeKey, PeerId, UnixMillis};
use warren_telemetry::{Metrics, RetrievalMetrics};

/// What a pipe holds: less than a block, so that a transfer can be cut in the middle.
const PIPE: usize = 64 * 1024;

pub fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

pub fn peer(n: u8) -> PeerId {
    key(n).peer_id()
}

/// Bytes that neither repeat nor compress.
pub fn noise(seed: &str, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key(seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes
}

/// Still a member.
pub struct Always;

impl Membership for Always {
    fn check(&self) -> Result<(), MembershipEnded> {
        Ok(())
    }
}

pub fn member(n: u8) -> FarEnd {
    FarEnd {
        peer: peer(n),
        membership: Arc::new(Always),
    }
}

/// A store in a directory of its own, and what serves it.
pub struct Node {
    pub number: u8,
    pub store: Store,
    pub metrics: Metrics,
    pub server: BlockServer,
    pub transfer: TransferMetrics,
    directory: TempDir,
}

impl Node {
    pub fn new(number: u8) -> Self {
        Self::with_limits(number, TransferLimits::default())
    }

    pub fn with_limits(number: u8, limits: TransferLimits) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let metrics = Metrics::new();
        let store = Store::open(
            &directory.path().join("store"),
            StoreOptions::default(),
            &metrics,
        )
        .unwrap();
        let transfer = TransferMetrics::register(&metrics);
        let server = BlockServer::new(store.clone(), limits, transfer.clone());
        Self {
            number,
            store,
            metrics,
            server,
            transfer,
            directory,
        }
    }

    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub async fn put(&self, content: &[u8]) -> DocumentId {
        let options = PutOptions {
            title: Some("a document".to_owned()),
            now: UnixMillis(1),
            ..PutOptions::default()
        };
        self.store
            .put(content, options, &key(self.number))
            .await
            .unwrap()
            .document
    }

    /// A counter of this node, 0 if it was never counted.
    pub fn counter(&self, sample: &str) -> u64 {
        let text = self.metrics.encode();
        let line = text.lines().find_map(|line| {
            line.strip_prefix(sample)?
                .strip_prefix(' ')
                .map(str::to_owned)
        });
        line.map_or(0, |value| value.parse().unwrap())
    }

    pub fn blocks_sent(&self) -> u64 {
        self.counter(r#"warren_transfer_blocks_total{side="server"}"#)
    }
}

type Dial = Box<dyn Fn() -> BoxFuture<'static, Result<Link, ConnectError>> + Send + Sync>;

/// Peers by number, each reached in its own way.
#[derive(Default)]
pub struct Network {
    dials: Mutex<BTreeMap<PeerId, Arc<Dial>>>,
    order: Mutex<Vec<PeerId>>,
    pub announced: Mutex<Vec<DocumentId>>,
    pub connects: AtomicUsize,
}

impl Network {
    /// Later ones are less promising.
    pub fn add(
        &self,
        n: u8,
        dial: impl Fn() -> BoxFuture<'static, Result<Link, ConnectError>> + Send + Sync + 'static,
    ) {
        self.dials
            .lock()
            .unwrap()
            .insert(peer(n), Arc::new(Box::new(dial)));
        let mut order = self.order.lock().unwrap();
        order.retain(|known| *known != peer(n));
        order.push(peer(n));
    }

    /// A peer whose far end is played by `play`.
    pub fn add_player<F>(&self, n: u8, play: impl Fn(DuplexStream) -> F + Send + Sync + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.add(n, move || {
            let (near, far) = tokio::io::duplex(PIPE);
            tokio::spawn(play(far));
            async move {
                Ok(Link {
                    stream: Box::new(near),
                    far_end: member(n),
                })
            }
            .boxed()
        });
    }

    pub fn add_node(&self, node: &Node) {
        let server = node.server.clone();
        self.add_player(node.number, move |stream| {
            let server = server.clone();
            async move { server.serve(stream, member(99)).await }
        });
    }

    pub fn remove(&self, n: u8) {
        self.dials.lock().unwrap().remove(&peer(n));
        self.order.lock().unwrap().retain(|known| *known != peer(n));
    }
}

impl Connector for Network {
    fn connect(&self, peer: PeerId) -> BoxFuture<'_, Result<Link, ConnectError>> {
        self.connects.fetch_add(1, Ordering::Relaxed);
        let dial = self.dials.lock().unwrap().get(&peer).cloned();
        async move {
            match dial {
                Some(dial) => dial().await,
                None => Err(ConnectError::Unreachable {
                    peer,
                    reason: "it is off".to_owned(),
                }),
            }
        }
        .boxed()
    }
}

impl Providers for Network {
    fn find(&self, _target: BlockId) -> BoxFuture<'_, Vec<PeerId>> {
        let order = self.order.lock().unwrap().clone();
        async move { order }.boxed()
    }

    fn fetched(&self, document: DocumentId) {
        self.announced.lock().unwrap().push(document);
    }
}

/// A node that retrieves from a network of others.
pub struct Reader {
    pub node: Node,
    pub network: Arc<Network>,
    pub retriever: Retriever,
    pub peers: Peers,
}

impl Reader {
    pub fn new() -> Self {
        Self::with_fetch_limits(FetchLimits::default())
    }

    pub fn with_fetch_limits(fetch: FetchLimits) -> Self {
        let node = Node::new(100);
        let network = Arc::new(Network::default());
        let connector: Arc<dyn Connector> = network.clone();
        let providers: Arc<dyn Providers> = network.clone();
        let limits = TransferLimits::default();
        let peers = Peers::new(
            connector,
            limits,
            node.transfer.clone(),
            Duration::from_secs(5),
        );
        let retrieval = RetrievalMetrics::register(&node.metrics);
        let options = RetrieverOptions { fetch };
        let retriever = Retriever::new(
            node.store.clone(),
            peers.clone(),
            providers,
            retrieval,
            options,
        );
        Self {
            node,
            network,
            retriever,
            peers,
        }
    }

    pub async fn read(
        &self,
        document: DocumentId,
    ) -> Result<Vec<u8>, warren_content::retrieve::RetrieveError> {
        read_all(self.retriever.open(document, None).await?).await
    }

    pub fn bad_blocks(&self, reason: &str) -> u64 {
        self.node.counter(&format!(
            r#"warren_transfer_bad_blocks_total{{reason="{reason}"}}"#
        ))
    }

    pub fn sessions_ended(&self, reason: &str) -> u64 {
        self.node.counter(&format!(
            r#"warren_transfer_sessions_ended_total{{side="client",reason="{reason}"}}"#
        ))
    }
}

pub async fn read_all(
    mut retrieved: warren_content::retrieve::Retrieved,
) -> Result<Vec<u8>, warren_content::retrieve::RetrieveError> {
    use futures::StreamExt as _;
    let mut content = Vec::new();
    while let Some(piece) = retrieved.next().await {
        content.extend_from_slice(&piece?);
    }
    Ok(content)
}

/// The next request on a raw stream; `None` when the asker is gone.
pub async fn next_request(stream: &mut DuplexStream) -> Option<Request> {
    let mut prefix = [0; LENGTH_PREFIX];
    stream.read_exact(&mut prefix).await.ok()?;
    let mut body = vec![0; frame_length(prefix).unwrap()];
    stream.read_exact(&mut body).await.ok()?;
    Some(Request::decode(&body).unwrap())
}

pub fn frame(response: &Response) -> Vec<u8> {
    let mut out = Vec::new();
    response.encode(&mut out);
    out
}

pub fn block_frame(request: RequestId, block: &StoredBlock) -> Vec<u8> {
    let header = BlockHeader {
        encoding: block.encoding,
        plain_size: block.plain_size,
        stored_size: block.bytes.len() as u32,
    };
    let mut out = frame(&Response::Block { request, header });
    out.extend_from_slice(&block.bytes);
    out
}

/// Answers `Get` with what `answer` makes of the honest block, in bytes; `None` closes the connection. Everything else is
/// not found.
pub async fn answer_with(
    mut stream: DuplexStream,
    store: Store,
    mut answer: impl FnMut(RequestId, BlockId, StoredBlock) -> Option<Vec<u8>>,
) {
    while let Some(request) = next_request(&mut stream).await {
        let bytes = match request {
            Request::Get { request, block } => match store.block(block).unwrap() {
                Some(stored) => answer(request, block, stored),
                None => Some(frame(&Response::NotFound { request })),
            },
            other => Some(frame(&Response::NotFound {
                request: other.id(),
            })),
        };
        let Some(bytes) = bytes else { return };
        if stream.write_all(&bytes).await.is_err() {
            return;
        }
    }
}

/// The block with one bit of its stored bytes turned.
pub fn flipped(block: &StoredBlock) -> StoredBlock {
    let mut bytes = block.bytes.to_vec();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    StoredBlock {
        bytes: Bytes::from(bytes),
        ..block.clone()
    }
}
