//! The chunk store on disk.

mod error;

use std::ops::Range;
use std::path::Path;

use bytes::Bytes;
use tokio::io::AsyncRead;
use warren_identity::{NodeKey, Signed};

pub use self::error::{CommitFetchedError, OpenError, PutError, ReadError, StoreError};
use crate::core::block::{StoredBlock, VerifiedBlock};
use crate::core::id::{BlockId, DocumentId};
use crate::core::manifest::Manifest;
use crate::core::record::{DocumentRecord, UnixMillis};

/// How to open a store.
#[derive(Debug, Clone, Default)]
pub struct StoreOptions {
    /// Bytes of blocks it may hold; `None`: as the disk allows.
    pub max_bytes: Option<u64>,
}

/// What is said of a document when it is put.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// For people.
    pub title: String,
    /// In any order; duplicates are dropped.
    pub tags: Vec<String>,
    /// For instance `contract`.
    pub source_type: String,
    /// Seconds until it may be dropped.
    pub retention_s: Option<u64>,
    /// The time written into the record.
    pub now: UnixMillis,
}

/// What a put came to. It exists only once everything is durable.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PutReceipt {
    /// The document's id.
    pub document: DocumentId,
    /// Bytes of content.
    pub size: u64,
    /// Chunks, counted once per use.
    pub chunk_count: u64,
    /// Bytes newly written to the store (after deduplication and compression).
    pub stored_bytes: u64,
    /// Files in it: 1, or those of a directory.
    pub file_count: u64,
    /// Paths of a directory that were left out: symbolic links, sockets, devices.
    pub skipped: Vec<std::path::PathBuf>,
}

/// How a document came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, serde::Serialize, serde::Deserialize)]
pub enum Origin {
    /// Put on this node.
    Put,
    /// Retrieved from another node.
    Fetched,
}

/// A listed document.
#[derive(Debug, Clone)]
pub struct DocumentInfo {
    /// Its id.
    pub id: DocumentId,
    /// How it came here.
    pub origin: Origin,
    /// When it was listed here.
    pub added_at: UnixMillis,
    /// Whether it is a directory.
    pub is_directory: bool,
    /// Bytes of content, from the manifest.
    pub size: u64,
    /// Signed by the node that put it; `None` for a fetched document that came without one.
    pub record: Option<Signed<DocumentRecord>>,
}

/// Where a listing goes on. Opaque to callers; survives restarts and concurrent puts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cursor(pub u64);

/// One page of a listing, newest first.
#[derive(Debug, Clone)]
pub struct DocumentPage {
    /// At most as many as asked for.
    pub documents: Vec<DocumentInfo>,
    /// Hand it in for the next page; `None` at the end.
    pub next: Option<Cursor>,
}

/// Keeps the blocks of one retrieval from being collected until it is committed or its time is up. Survives restarts:
/// beginning again on the same document finds what was fetched before.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    pub(crate) document: DocumentId,
}

/// The chunk store. Cheap to clone; all clones are one store.
///
/// Methods that are not `async` do file I/O on the calling thread (at most one block unless they say otherwise): from
/// async code call them in `spawn_blocking`.
#[derive(Clone)]
pub struct Store {}

impl Store {
    /// Opens or creates the store in `path`.
    pub fn open(_path: &Path, _options: StoreOptions, _metrics: &warren_telemetry::Metrics) -> Result<Self, OpenError> {
        todo!()
    }
    /// Ingests a stream as one document. Returns once it is durable. Cancel safe: dropping it leaves only garbage.
    pub async fn put(
        &self,
        _reader: impl AsyncRead + Send + Unpin + 'static,
        _options: PutOptions,
        _key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        todo!()
    }
    /// Every regular file below `path` as a document, and one directory document of them all.
    pub async fn put_directory(&self, _path: &Path, _options: PutOptions, _key: &NodeKey) -> Result<PutReceipt, PutError> {
        todo!()
    }
    /// Stored bytes of a block, unverified beyond its framing: what goes over the wire. Blocking, one block.
    pub fn block(&self, _id: BlockId) -> Result<Option<StoredBlock>, ReadError> {
        todo!()
    }
    /// Whether the block's bytes are here.
    pub fn has_block(&self, _id: BlockId) -> Result<bool, ReadError> {
        todo!()
    }
    /// Verified block; a corrupt one is quarantined and reported as [`ReadError::Corrupt`]. Blocking, one block.
    pub fn read_block(&self, _id: BlockId) -> Result<Option<VerifiedBlock>, ReadError> {
        todo!()
    }
    /// Decoded manifest of a document or part of one, if here.
    pub fn manifest(&self, _id: DocumentId) -> Result<Option<Manifest>, ReadError> {
        todo!()
    }
    /// Local content only: verified pieces of `range`, in order, one block at a time.
    pub fn read_range(
        &self,
        _id: DocumentId,
        _range: Range<u64>,
    ) -> Result<Box<dyn Iterator<Item = Result<Bytes, ReadError>> + Send>, ReadError> {
        todo!()
    }
    /// Blocks of the document that are not here, as deep as the manifests that are here reach, at most `limit`.
    pub fn missing_blocks(&self, _id: DocumentId, _limit: usize) -> Result<Vec<BlockId>, ReadError> {
        todo!()
    }
    /// Begins or renews the retrieval of a document: what is inserted under the lease is kept until `until`.
    pub async fn begin_retrieval(&self, _id: DocumentId, _until: UnixMillis) -> Result<Lease, StoreError> {
        todo!()
    }
    /// Of `ids`, those that must be fetched; the others are here and held by the lease from now on.
    pub async fn hold(&self, _lease: &Lease, _ids: Vec<BlockId>) -> Result<Vec<BlockId>, StoreError> {
        todo!()
    }
    /// Keeps a fetched block. Readable at once, durable with [`Self::commit_fetched`].
    pub async fn insert_block(&self, _lease: &Lease, _block: VerifiedBlock) -> Result<(), StoreError> {
        todo!()
    }
    /// Fills in a block that a listed document needs and that is missing or quarantined (repair). Durable on return.
    pub async fn repair_block(&self, _block: VerifiedBlock) -> Result<(), StoreError> {
        todo!()
    }
    /// Lists a document whose blocks are all here, durably, and ends the lease.
    pub async fn commit_fetched(
        &self,
        _lease: Lease,
        _record: Option<Signed<DocumentRecord>>,
        _now: UnixMillis,
    ) -> Result<(), CommitFetchedError> {
        todo!()
    }
    /// Ends a lease: what was fetched under it is garbage unless something else needs it.
    pub async fn abandon_retrieval(&self, _lease: Lease) -> Result<(), StoreError> {
        todo!()
    }
    /// Newest first.
    pub fn documents(&self, _after: Option<Cursor>, _limit: usize) -> Result<DocumentPage, ReadError> {
        todo!()
    }
    /// A listed document.
    pub fn document(&self, _id: DocumentId) -> Result<Option<DocumentInfo>, ReadError> {
        todo!()
    }
    /// Drops a document from the listing; `false` if it was not listed. Its blocks become garbage unless shared.
    pub async fn remove(&self, _id: DocumentId) -> Result<bool, StoreError> {
        todo!()
    }
}
