//! Retrieval: documents and blocks from the local store, and from peers where it lacks them.
//!
//! [`Retriever::open`] gives a file's bytes in order, with its size known up front, from wherever its blocks are;
//! [`Retriever::open_directory`] a directory's files one after the other. What comes from peers is verified, kept in the store under a lease, and listed as a document of this node when it is
//! whole; a retrieval that breaks off leaves what it has for the next one. [`Retriever::fetch_all`] does the same for
//! whole directories without handing out bytes.
//!
//! Who has what, and how to reach them, is the caller's to say: [`Providers`] and [`Connector`].

mod engine;
mod flights;
mod peers;
mod record;
mod walk;

use std::ops::Range;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::Stream;
use futures::future::BoxFuture;
use tokio::sync::mpsc;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::warn;
use warren_identity::{PeerId, UnixMillis};
use warren_telemetry::{RetrievalMetrics, SourceType};

use self::engine::{Fetch, Finish, Job, Keep, Local, Need, Record, Storing, Wanted};
use self::flights::Flights;
pub use self::peers::{Connector, Peers};
use self::walk::Walk;
use crate::core::block::MAX_BLOCK_BYTES;
use crate::core::fetch::FetchLimits;
use crate::core::id::{BlockId, ChunkId, DocumentId};
use crate::core::manifest::{DirectoryEntry, Manifest, ManifestError};
use crate::store::{CommitFetchedError, Cursor, ReadError, Store, StoreError};

/// Knows who holds what. Implemented by whoever runs the mesh.
pub trait Providers: Send + Sync + 'static {
    /// Peers that may hold `target`, the most promising first, this node not among them.
    ///
    /// For a manifest: the document's holders, from have-sets and the DHT. For a chunk, which is not announced by
    /// itself: connected members. A search that takes longer than 20 s counts as one that found nobody.
    fn find(&self, target: BlockId) -> BoxFuture<'_, Vec<PeerId>>;

    /// `document` is now whole in the local store: others may be told.
    fn fetched(&self, document: DocumentId);
}

/// Bounds of a retriever.
#[derive(Clone, Debug, Default)]
pub struct RetrieverOptions {
    /// Bounds of each retrieval.
    pub fetch: FetchLimits,
}

/// Why content could not be retrieved. What was fetched before the failure is kept for the next try.
#[derive(Debug, thiserror::Error)]
pub enum RetrieveError {
    /// A block is on no peer that could be asked.
    #[error(
        "{target} cannot be retrieved: {reason}; check that a node that holds it is up (`warren peers`) and try again"
    )]
    Unavailable {
        /// What was asked for.
        target: BlockId,
        /// The block that could not be had.
        block: BlockId,
        /// What was tried.
        reason: String,
    },
    /// The document's own manifest breaks the format: no peer can help.
    #[error("document {document} is malformed at {part}: {source}")]
    Malformed {
        /// The document.
        document: DocumentId,
        /// The manifest that is wrong.
        part: DocumentId,
        /// What is wrong with it.
        source: ManifestError,
    },
    /// Bytes were asked for, but the document is a directory.
    #[error("document {document} is a directory: ask for its entries")]
    IsADirectory {
        /// The document.
        document: DocumentId,
    },
    /// Entries were asked for, but the document is a file.
    #[error("document {document} is a file, not a directory")]
    NotADirectory {
        /// The document.
        document: DocumentId,
    },
    /// The range is not within the document.
    #[error("bytes {start}..{end} are outside the document of {size} bytes")]
    Range {
        /// First byte asked for.
        start: u64,
        /// End asked for, exclusive.
        end: u64,
        /// Size of the document.
        size: u64,
    },
    /// The local store cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The local store cannot keep what must be kept.
    #[error(transparent)]
    Store(StoreError),
    /// The document is whole but cannot be listed.
    #[error("document {document} was retrieved but cannot be listed: {source}")]
    List {
        /// The document.
        document: DocumentId,
        /// Why.
        source: CommitFetchedError,
    },
    /// The node is shutting down.
    #[error("the retrieval was broken off: this node is shutting down")]
    Stopped,
}

impl RetrieveError {
    fn malformed(document: DocumentId) -> Self {
        Self::Malformed {
            document,
            part: document,
            source: ManifestError::Size,
        }
    }
}

/// The next of a directory's files, or more of the one before.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DirectoryPiece {
    /// A file begins; its `size` bytes follow. Names come in order, each once, and can be created below one folder.
    File(DirectoryEntry),
    /// Verified bytes of it.
    Bytes(Bytes),
}

/// A directory's files on their way: a stream of names and verified pieces in order.
///
/// An error ends the stream. Dropping it ends the retrieval; what was fetched is kept for the next try.
#[derive(Debug)]
pub struct RetrievedDirectory {
    /// The document.
    pub document: DocumentId,
    /// Bytes of all files together.
    pub size: u64,
    /// `Local` when all of the document was here when it was opened, else `P2p`.
    pub source: SourceType,
    pieces: mpsc::Receiver<Result<DirectoryPiece, RetrieveError>>,
}

impl Stream for RetrievedDirectory {
    type Item = Result<DirectoryPiece, RetrieveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        self.pieces.poll_recv(cx)
    }
}

/// What [`Retriever::fetch_all`] came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchSummary {
    /// The document.
    pub document: DocumentId,
    /// Bytes of content.
    pub size: u64,
    /// Blocks it refers to, manifests included, counted once per use.
    pub blocks: u64,
    /// Of these, how many came from peers.
    pub fetched_blocks: u64,
    /// Their plain bytes.
    pub fetched_bytes: u64,
}

/// What [`Retriever::repair`] came to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepairReport {
    /// Blocks that are whole again.
    pub repaired: Vec<BlockId>,
    /// Blocks that no reachable peer could give, each with what was tried.
    pub unavailable: Vec<(BlockId, String)>,
}

/// A document's bytes on their way: a stream of verified pieces in order.
///
/// An error ends the stream. Dropping it ends the retrieval; what was fetched is kept for the next try.
#[derive(Debug)]
pub struct Retrieved {
    /// The document.
    pub document: DocumentId,
    /// Bytes of the whole document.
    pub size: u64,
    /// The bytes this stream gives.
    pub range: Range<u64>,
    /// `Local` when all of the document was here when it was opened, else `P2p`.
    pub source: SourceType,
    pieces: mpsc::Receiver<Result<DirectoryPiece, RetrieveError>>,
}

impl Stream for Retrieved {
    type Item = Result<Bytes, RetrieveError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut TaskContext<'_>) -> Poll<Option<Self::Item>> {
        loop {
            return Poll::Ready(match ready!(self.pieces.poll_recv(cx)) {
                Some(Ok(DirectoryPiece::Bytes(piece))) => Some(Ok(piece)),
                // A file has no files in it.
                Some(Ok(DirectoryPiece::File(_))) => continue,
                Some(Err(error)) => Some(Err(error)),
                None => None,
            });
        }
    }
}

/// One block and where it came from.
#[derive(Clone, Debug)]
pub struct RetrievedBlock {
    /// The verified plain bytes.
    pub content: Bytes,
    /// Where they came from.
    pub source: SourceType,
}

/// What all retrievals share.
struct Context {
    store: Store,
    peers: Peers,
    providers: Arc<dyn Providers>,
    flights: Flights,
    retrieval: RetrievalMetrics,
    options: RetrieverOptions,
    tasks: TaskTracker,
    stop: CancellationToken,
}

/// Retrieves documents and blocks. Cheap to clone; clones share connections and single flight.
#[derive(Clone)]
pub struct Retriever {
    context: Arc<Context>,
}

impl Retriever {
    /// A retriever that keeps what it fetches in `store`. Its methods need a tokio runtime.
    #[must_use]
    pub fn new(
        store: Store,
        peers: Peers,
        providers: Arc<dyn Providers>,
        retrieval: RetrievalMetrics,
        options: RetrieverOptions,
    ) -> Self {
        let (flights, tasks, stop) = (
            Flights::default(),
            TaskTracker::new(),
            CancellationToken::new(),
        );
        let context = Context {
            store,
            peers,
            providers,
            flights,
            retrieval,
            options,
            tasks,
            stop,
        };
        Self {
            context: Arc::new(context),
        }
    }

    /// Opens a file document for reading, whole or `range` of it. Returns when its size is known.
    ///
    /// # Errors
    /// [`RetrieveError`]; [`RetrieveError::IsADirectory`] for a directory. Errors later on come with the stream.
    pub async fn open(
        &self,
        document: DocumentId,
        range: Option<Range<u64>>,
    ) -> Result<Retrieved, RetrieveError> {
        let (mut fetch, source) = self.start(document).await?;
        let root = walk::root(&mut fetch, document).await?;
        if root.is_directory() {
            return Err(RetrieveError::IsADirectory { document });
        }
        let size = root.size();
        let range = range.unwrap_or(0..size);
        if range.start > range.end || range.end > size {
            return Err(RetrieveError::Range {
                start: range.start,
                end: range.end,
                size,
            });
        }
        let part = (range != (0..size)).then(|| range.clone());
        let pieces = self.walk(fetch, Walk::new(document, root, part, Need::Content));
        Ok(Retrieved {
            document,
            size,
            range,
            source,
            pieces,
        })
    }

    /// Opens a directory document: its files come in the order of their names, each as soon as it is here. Returns when
    /// its size is known.
    ///
    /// # Errors
    /// [`RetrieveError`]; [`RetrieveError::NotADirectory`] for a file. Errors later on come with the stream.
    pub async fn open_directory(
        &self,
        document: DocumentId,
    ) -> Result<RetrievedDirectory, RetrieveError> {
        let (mut fetch, source) = self.start(document).await?;
        let root = walk::root(&mut fetch, document).await?;
        if !root.is_directory() {
            return Err(RetrieveError::NotADirectory { document });
        }
        let size = root.size();
        let pieces = self.walk(fetch, Walk::new(document, root, None, Need::Content));
        Ok(RetrievedDirectory {
            document,
            size,
            source,
            pieces,
        })
    }

    fn walk(
        &self,
        fetch: Fetch,
        walk: Walk,
    ) -> mpsc::Receiver<Result<DirectoryPiece, RetrieveError>> {
        let (out, pieces) = mpsc::channel(2);
        self.context.tasks.spawn(walk::stream(fetch, walk, out));
        pieces
    }

    /// The manifest at the root of a document. Fetches no more than that.
    ///
    /// # Errors
    /// [`RetrieveError`].
    pub async fn manifest(&self, document: DocumentId) -> Result<Manifest, RetrieveError> {
        let (mut fetch, _) = self.start(document).await?;
        let root = walk::root(&mut fetch, document).await?;
        fetch.finish(Finish::Leave).await?;
        Ok(root)
    }

    /// All entries of a directory document, in order, held in memory together. Fetches manifests only.
    ///
    /// # Errors
    /// [`RetrieveError`]; [`RetrieveError::NotADirectory`] for a file.
    pub async fn directory(
        &self,
        document: DocumentId,
    ) -> Result<Vec<DirectoryEntry>, RetrieveError> {
        let (mut fetch, _) = self.start(document).await?;
        let root = walk::root(&mut fetch, document).await?;
        let entries = walk::entries(&mut fetch, document, root).await?;
        fetch.finish(Finish::Leave).await?;
        Ok(entries)
    }

    /// Brings a whole document, directories with all their files, into the local store and lists it. Returns when it is
    /// durable. Dropping the future ends the retrieval; what was fetched is kept for the next try.
    ///
    /// # Errors
    /// [`RetrieveError`].
    pub async fn fetch_all(&self, document: DocumentId) -> Result<FetchSummary, RetrieveError> {
        let lease = engine::lease(&self.context, document)
            .await
            .map_err(RetrieveError::Store)?;
        let job = Job {
            target: document.into(),
            keep: Keep::Lease(lease),
            local: Local::Consult,
            storing: Storing::Required,
            record: Record::Wanted,
        };
        walk::fetch_all(Fetch::start(Arc::clone(&self.context), job), document).await
    }

    /// One block, from the local store or from peers; a chunk is asked of those that [`Providers::find`] names for it.
    ///
    /// # Errors
    /// [`RetrieveError`].
    pub async fn block(&self, id: BlockId) -> Result<RetrievedBlock, RetrieveError> {
        // A block on its own is kept under a lease of its own name: asked for again soon, it is here.
        let keep = match engine::lease(&self.context, DocumentId::from_hash(*id.hash())).await {
            Ok(lease) => Keep::Lease(lease),
            Err(_) => Keep::Nothing,
        };
        let job = Job {
            target: id,
            keep,
            local: Local::Consult,
            storing: Storing::BestEffort,
            record: Record::Unneeded,
        };
        let mut fetch = Fetch::start(Arc::clone(&self.context), job);
        fetch
            .want(vec![Wanted {
                block: id,
                size_hint: MAX_BLOCK_BYTES / 4,
                need: Need::Content,
            }])
            .await?;
        let got = fetch.next().await?;
        fetch.finish(Finish::Leave).await?;
        Ok(RetrievedBlock {
            content: got.content.unwrap_or_default(),
            source: got.source,
        })
    }

    /// [`Self::block`] for a chunk.
    ///
    /// # Errors
    /// [`RetrieveError`].
    pub async fn chunk(&self, id: ChunkId) -> Result<RetrievedBlock, RetrieveError> {
        self.block(id.into()).await
    }

    /// Fetches `blocks` of the listed `document` again, whatever the store has of them, and fills them in.
    ///
    /// # Errors
    /// [`RetrieveError`] where the store fails; blocks that cannot be had are in the report.
    pub async fn repair(
        &self,
        document: DocumentId,
        blocks: Vec<BlockId>,
    ) -> Result<RepairReport, RetrieveError> {
        let mut report = RepairReport::default();
        let mut todo = blocks;
        while !todo.is_empty() {
            match self
                .repair_in_order(document, &todo, &mut report.repaired)
                .await
            {
                Ok(()) => todo.clear(),
                Err(RetrieveError::Unavailable { block, reason, .. }) => {
                    todo.retain(|id| *id != block && !report.repaired.contains(id));
                    report.unavailable.push((block, reason));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(report)
    }

    /// Asks the holders of documents that are listed here without a record for it: of at most `limit` of them, those listed
    /// before `after`. Says where to go on; `None` at the end.
    ///
    /// # Errors
    /// [`RetrieveError`] where the store fails.
    pub async fn complete_records(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<Option<Cursor>, RetrieveError> {
        let store = self.context.store.clone();
        let look = spawn_blocking(move || store.documents_without_record(after, limit));
        let page = look.await.map_err(|_| RetrieveError::Stopped)??;
        for document in page.documents {
            let sought = record::seek(&self.context, document.id);
            let found = self.context.stop.run_until_cancelled(sought).await;
            if let Some(found) = found.ok_or(RetrieveError::Stopped)? {
                let completed = self.context.store.complete_record(&found).await;
                completed.map_err(RetrieveError::Store)?;
            }
        }
        Ok(page.next)
    }

    /// Ends all retrievals and waits for them.
    pub async fn shutdown(&self) {
        self.context.stop.cancel();
        self.context.tasks.close();
        self.context.tasks.wait().await;
    }

    async fn repair_in_order(
        &self,
        document: DocumentId,
        blocks: &[BlockId],
        repaired: &mut Vec<BlockId>,
    ) -> Result<(), RetrieveError> {
        let job = Job {
            target: document.into(),
            keep: Keep::Repair,
            local: Local::Ignore,
            storing: Storing::Required,
            record: Record::Unneeded,
        };
        let mut fetch = Fetch::start(Arc::clone(&self.context), job);
        // Nothing says how large they are.
        let wanted = |block: &BlockId| Wanted {
            block: *block,
            size_hint: MAX_BLOCK_BYTES,
            need: Need::Presence,
        };
        fetch.want(blocks.iter().map(wanted).collect()).await?;
        for block in blocks {
            fetch.next().await?;
            repaired.push(*block);
        }
        fetch.finish(Finish::Leave).await
    }

    /// Begins to fetch `document`, and says where it will come from.
    async fn start(&self, document: DocumentId) -> Result<(Fetch, SourceType), RetrieveError> {
        let store = self.context.store.clone();
        let look = spawn_blocking(move || {
            let info = store.document(document)?;
            let listed = info.is_some();
            let record = match info.and_then(|info| info.record) {
                Some(_) => Record::Unneeded,
                None => Record::Wanted,
            };
            let whole = listed
                || (store.has_block(document.into())?
                    && store.missing_blocks(document, 1)?.is_empty());
            Ok::<_, ReadError>((listed, record, whole))
        });
        let (listed, record, whole) = look.await.map_err(|_| RetrieveError::Stopped)??;
        let keep = match listed {
            true => Keep::Repair,
            false => engine::lease(&self.context, document)
                .await
                .map(Keep::Lease)
                .unwrap_or_else(|error| {
                    warn!(%document, %error, "retrieved content is passed on without being kept");
                    Keep::Nothing
                }),
        };
        let job = Job {
            target: document.into(),
            keep,
            local: Local::Consult,
            storing: Storing::BestEffort,
            record,
        };
        let source = if whole {
            SourceType::Local
        } else {
            SourceType::P2p
        };
        Ok((Fetch::start(Arc::clone(&self.context), job), source))
    }
}

/// The wall clock, `ahead` from now.
fn unix_now(ahead: Duration) -> UnixMillis {
    UnixMillis::from(SystemTime::now()).plus(ahead)
}
