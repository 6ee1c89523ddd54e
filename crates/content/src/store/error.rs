//! What can go wrong in the store, one enum per operation.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use thiserror::Error;
use warren_identity::SignedError;

use crate::core::id::{BlockId, DocumentId};
use crate::core::manifest::ManifestError;
use crate::core::record::RecordError;

/// Why a store could not be opened. The directory is as it was before.
#[derive(Debug, Error)]
pub enum OpenError {
    /// Another process has it open.
    #[error(
        "the store {path} is in use by process {holder}: stop that process, or give this node a directory of its own (storage.path)"
    )]
    Locked {
        /// The store.
        path: PathBuf,
        /// The holder's process id as it wrote it, or `unknown`.
        holder: String,
    },
    /// Written by a newer version.
    #[error(
        "the store {path} has format {found}, this version reads up to {supported}: upgrade warren, or use another directory"
    )]
    Newer {
        /// The store.
        path: PathBuf,
        /// Its format.
        found: u32,
        /// The newest format known here.
        supported: u32,
    },
    /// A directory with other things in it, or a damaged format file.
    #[error("{path} is not a store ({reason}): name an empty or new directory in storage.path")]
    NotAStore {
        /// The directory.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The directory cannot be written and holds no store that could be read.
    #[error(
        "the store {path} cannot be written ({source}) and cannot be read as it is either: {reason}"
    )]
    ReadOnly {
        /// The store.
        path: PathBuf,
        /// The refusal of the system.
        source: io::Error,
        /// Why reading alone does not work.
        reason: String,
    },
    /// The system refused.
    #[error("cannot {action} {path}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// The refusal.
        source: io::Error,
    },
    /// The index is damaged beyond its own repair.
    #[error(
        "the index of the store {path} is damaged: {reason}; restore the directory from a backup, or move it away and fetch its documents again"
    )]
    Index {
        /// The store.
        path: PathBuf,
        /// What redb says.
        reason: String,
    },
}

/// A failure of the disk or of the index. The store stays usable for what it can still do.
#[derive(Debug, Clone, Error)]
pub enum StoreError {
    /// Reading or writing a file failed.
    #[error("the store cannot {action}: {source}")]
    Io {
        /// What was attempted.
        action: &'static str,
        /// The refusal, shared with others waiting for the same write.
        source: Arc<io::Error>,
    },
    /// The disk has no room. Nothing acknowledged is lost; reads go on.
    #[error(
        "no space left on the disk of the store: free some, or remove documents and run `warren store gc`"
    )]
    NoSpace,
    /// The configured size is reached. Nothing was written over it.
    #[error(
        "the store is full: {used} of {max} bytes used and {needed} more needed; remove documents, or raise storage.max_size"
    )]
    Quota {
        /// Bytes in use.
        used: u64,
        /// Bytes this would add.
        needed: u64,
        /// The limit.
        max: u64,
    },
    /// The store was opened from a read-only directory or medium.
    #[error(
        "the store is read-only: remount or make the directory writable, then restart the node"
    )]
    ReadOnly,
    /// The index failed.
    #[error("the index of the store failed: {0}")]
    Index(String),
    /// The store is shutting down, or its writer ended after a failure.
    #[error("the store is closed")]
    Closed,
}

/// Why a document was not put. None of it is listed, and what was written of it is garbage for the next collection.
#[derive(Debug, Error)]
pub enum PutError {
    /// The source could not be read.
    #[error("cannot read {what}: {source}")]
    Source {
        /// The file, or `the stream`.
        what: String,
        /// The refusal.
        source: io::Error,
    },
    /// A name that no manifest can hold, or a document too large for the format.
    #[error(transparent)]
    Manifest(#[from] ManifestError),
    /// Title, tags or source type outside their limits.
    #[error(transparent)]
    Record(#[from] RecordError),
    /// The record could not be signed.
    #[error("cannot sign the document record: {0}")]
    Sign(#[from] SignedError),
    /// The store refused.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a read failed. Nothing changed, save that a block found corrupt is quarantined.
#[derive(Debug, Error)]
pub enum ReadError {
    /// No such document here.
    #[error("document {0} is not in this store")]
    UnknownDocument(DocumentId),
    /// A block of the document is not here: never fetched, or lost to a disk error.
    #[error(
        "block {0} of the document is missing from this store: `warren store verify` fetches it from peers"
    )]
    Missing(BlockId),
    /// The bytes on disk are not those that were written.
    #[error(
        "block {0} is damaged on disk and was set aside: `warren store verify` fetches it from peers"
    )]
    Corrupt(BlockId),
    /// A manifest in the store breaks the format; only possible for content fetched from a faulty peer.
    #[error("document {id}: {source}")]
    Manifest {
        /// Which manifest.
        id: DocumentId,
        /// What is wrong.
        source: ManifestError,
    },
    /// A directory has no bytes of its own.
    #[error("document {0} is a directory: read its files by their own ids")]
    IsDirectory(DocumentId),
    /// A range outside the document.
    #[error("bytes {start}..{end} are outside the document of {size} bytes")]
    Range {
        /// First byte asked for.
        start: u64,
        /// One past the last byte asked for.
        end: u64,
        /// Bytes there are.
        size: u64,
    },
    /// The store failed.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Why a fetched document was not listed. Its blocks stay under their lease.
#[derive(Debug, Error)]
pub enum CommitFetchedError {
    /// Not whole yet.
    #[error("document {document} is not whole: {} blocks are missing", missing.len())]
    Incomplete {
        /// Which document.
        document: DocumentId,
        /// What to fetch next; deeper blocks may be named only once these are here.
        missing: Vec<BlockId>,
    },
    /// The record is of another document, or outside the limits of the format.
    #[error("the record that came with document {0} does not describe it")]
    ForeignRecord(DocumentId),
    /// The content breaks the format.
    #[error(transparent)]
    Read(#[from] ReadError),
}

impl From<StoreError> for CommitFetchedError {
    fn from(error: StoreError) -> Self {
        Self::Read(error.into())
    }
}
