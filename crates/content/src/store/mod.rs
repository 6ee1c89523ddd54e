//! The chunk store on disk: what is put is durable, what is read is checked.
//!
//! One directory holds an index (redb) and pack files; blocks up to 16 KiB live in the index. One thread writes;
//! everybody reads. Guarantees:
//!
//! * what was acknowledged survives `kill -9` and power loss; a document is listed whole or not at all;
//! * equal blocks are stored once, and kept as long as one listed document, running put or lease needs them;
//! * no plain byte leaves without having been checked against its name;
//! * a full disk or quota refuses what comes, loses nothing, and leaves reading and removing possible.
//!
//! The way of a put: [`ingest`] cuts and encodes, [`writer`] appends and commits, [`ledger`] counts references.
//! The way of a read: [`shared`] finds, `read` checks. `open` restores what a crash left, `verify` scrubs.

mod directory;
mod error;
mod index;
mod ingest;
mod layout;
mod ledger;
mod metrics;
mod open;
mod pack;
mod put;
mod read;
mod shared;
mod verify;
mod writer;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tokio::io::AsyncRead;
use warren_identity::{NodeKey, Signed, UnixMillis};

pub use self::directory::DirectoryIngest;
pub use self::error::{CommitFetchedError, OpenError, PutError, ReadError, StoreError};
use self::ledger::{Collected, NewListing, Refusal};
use self::put::PutContent;
pub use self::read::RangeReader;
use self::shared::Pins;
pub use self::verify::{VerifyProgress, VerifyReport};
use self::writer::{Change, EXPIRE_STEP, Outcome};
use crate::core::block::VerifiedBlock;
use crate::core::id::{BlockId, DocumentId};
use crate::core::record::DocumentRecord;

/// How to open a store.
#[derive(Debug, Clone, Copy, Default)]
pub struct StoreOptions {
    /// Bytes of encoded blocks it may hold, the index's own overhead (some 100 bytes a block) not counted; `None`: as
    /// the disk allows.
    pub max_bytes: Option<u64>,
}

/// What is said of a document when it is put. Of a document that is listed here already, what is `None` stays as it is.
#[derive(Debug, Clone, Default)]
pub struct PutOptions {
    /// For people.
    pub title: Option<String>,
    /// The title of a document that has none here, for instance the name of its file.
    pub default_title: String,
    /// In any order; duplicates are dropped.
    pub tags: Option<Vec<String>>,
    /// For instance `contract`.
    pub source_type: Option<String>,
    /// Until it is removed, unless something else is said here or was said before.
    pub retention: Option<Retention>,
    /// The time written into the record.
    pub now: UnixMillis,
}

/// How long a document is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retention {
    /// Until somebody removes it.
    UntilRemoved,
    /// This many seconds from the put; then it may be dropped.
    Seconds(u64),
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
    /// Bytes newly taken in the store, after deduplication and compression.
    pub stored_bytes: u64,
    /// Files in it: 1, or those of a directory.
    pub file_count: u64,
    /// Whether the document was listed here before.
    pub existed: bool,
    /// The title it has now.
    pub title: String,
    /// When it may be dropped now, if ever.
    pub expires_at: Option<UnixMillis>,
    /// Paths of a directory that were left out: symbolic links, sockets, devices.
    pub skipped: Vec<PathBuf>,
}

/// How a document came here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
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

/// Where a listing goes on: opaque; survives restarts, puts and removals.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cursor(pub u64);

/// One page of a listing, newest first.
#[derive(Debug, Clone)]
pub struct DocumentPage {
    /// At most as many as asked for.
    pub documents: Vec<DocumentInfo>,
    /// Hand it in for the next page; `None` at the end.
    pub next: Option<Cursor>,
}

/// Totals of a store.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Encoded bytes of all blocks, garbage included.
    pub stored_bytes: u64,
    /// All blocks, garbage included.
    pub blocks: u64,
    /// Listed documents.
    pub documents: u64,
    /// The configured limit of `stored_bytes`.
    pub max_bytes: Option<u64>,
}

/// What a collection gave back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blocks forgotten.
    pub blocks: u64,
    /// Encoded bytes given back.
    pub bytes: u64,
}

/// Keeps the blocks of one retrieval from being collected until it is committed or its time is up. Survives restarts:
/// beginning again on the same document finds what was fetched before, the last 64 MiB perhaps not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lease {
    document: DocumentId,
}

impl Lease {
    /// The document under retrieval.
    #[must_use]
    pub const fn document(&self) -> DocumentId {
        self.document
    }
}

/// The chunk store. Cheap to clone; all clones are one store.
///
/// Methods that are not `async` do file I/O on the calling thread, for at most one block or one short look into the
/// index unless they say otherwise: from async code call them in `spawn_blocking`. `async` methods need a tokio runtime
/// and never block it. Where one changes the store, dropping its future leaves the change made whole or not at all.
#[derive(Clone)]
pub struct Store {
    inner: Arc<open::Inner>,
}

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Store")
            .field("path", &self.inner.shared.layout.root())
            .finish_non_exhaustive()
    }
}

impl Store {
    /// Ingests a stream as one document, in bounded memory, and lists it with a record signed by `key`.
    ///
    /// Returns once everything is durable. The same content put again keeps its id, its creation time and what `options`
    /// do not name. Cancel safe: dropping the future leaves at worst garbage.
    ///
    /// # Errors
    /// [`PutError`]; nothing is listed then.
    pub async fn put(
        &self,
        reader: impl AsyncRead + Send + Unpin,
        options: PutOptions,
        key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        let pins = Arc::new(Pins::new(self.inner.shared.clone()));
        let (file, stored_bytes) = self
            .ingest(reader, "the stream".to_owned(), pins.clone())
            .await?;
        let content = PutContent {
            document: file.id,
            size: file.size,
            chunk_count: file.chunk_count,
            stored_bytes,
            file_count: 1,
            skipped: Vec::new(),
        };
        let receipt = self.list_put(content, options, key).await?;
        drop(pins);
        Ok(receipt)
    }

    /// Ingests every regular file below `path` and lists one directory document of them all. Symbolic links are never
    /// followed. Files and directory become durable together, which makes many small files fast.
    ///
    /// # Errors
    /// [`PutError`], the first one: nothing is listed then.
    pub async fn put_directory(
        &self,
        path: &Path,
        options: PutOptions,
        key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        self.put_directory_at(path, options, key).await
    }

    /// Begins a directory whose files arrive as streams.
    #[must_use]
    pub fn begin_directory(&self) -> DirectoryIngest {
        DirectoryIngest::new(self.clone())
    }

    /// Begins or renews the retrieval of a document: what is inserted under the lease is kept until `until`.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn begin_retrieval(
        &self,
        document: DocumentId,
        until: UnixMillis,
    ) -> Result<Lease, StoreError> {
        self.change(Change::SetLease { document, until }).await?;
        Ok(Lease { document })
    }

    /// Of `ids`, those that must be fetched; the others are here, and held by the lease from now on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn hold(&self, lease: &Lease, ids: Vec<BlockId>) -> Result<Vec<BlockId>, StoreError> {
        match self
            .change(Change::Hold {
                document: lease.document,
                ids,
            })
            .await?
        {
            Outcome::Absent(absent) => Ok(absent),
            _ => Ok(Vec::new()),
        }
    }

    /// Keeps a fetched block under a lease. Readable at once, durable with [`Self::commit_fetched`] at the latest.
    /// Under a lease that has ended it is garbage.
    ///
    /// # Errors
    /// [`StoreError`]: the block is not kept. On [`StoreError::Quota`] the lease is ended as well, and what was fetched
    /// under it is given back: the document does not fit.
    pub async fn insert_block(
        &self,
        lease: &Lease,
        block: VerifiedBlock,
    ) -> Result<(), StoreError> {
        let blocks = vec![(block.id(), block.into_stored())];
        self.inner
            .writer()?
            .append(blocks, Some(lease.document))
            .await?;
        Ok(())
    }

    /// Fills in a block that a listed document lacks. Durable on return. One that nothing needs is collected later.
    ///
    /// # Errors
    /// [`StoreError`]: the block is not kept.
    pub async fn repair_block(&self, block: VerifiedBlock) -> Result<(), StoreError> {
        let blocks = vec![(block.id(), block.into_stored())];
        self.inner.writer()?.append(blocks, None).await?;
        self.change(Change::Flush).await?;
        Ok(())
    }

    /// Lists a fetched document, whose blocks must all be here, and ends the lease. Durable on return. A document that
    /// was put here stays as it is. Without `record` it has the one it had here before, as long as its blocks have not been
    /// collected since.
    ///
    /// # Errors
    /// [`CommitFetchedError`]; the lease goes on then.
    pub async fn commit_fetched(
        &self,
        lease: Lease,
        record: Option<Signed<DocumentRecord>>,
        now: UnixMillis,
    ) -> Result<(), CommitFetchedError> {
        let document = lease.document;
        if record
            .as_ref()
            .is_some_and(|record| record.value().document != document)
        {
            return Err(CommitFetchedError::ForeignRecord(document));
        }
        let listing = NewListing {
            document,
            origin: Origin::Fetched,
            added_at: now,
            expires_at: record
                .as_ref()
                .and_then(|record| record.value().expires_at()),
            record: record.map(|record| record.to_bytes()),
        };
        match self
            .inner
            .writer()?
            .change(Change::List {
                listing,
                ends_lease: true,
            })
            .await
        {
            Ok(_) => Ok(()),
            Err(Refusal::Missing(missing)) => {
                Err(CommitFetchedError::Incomplete { document, missing })
            }
            Err(Refusal::Store(error)) => Err(error.into()),
            Err(Refusal::Manifest(id, source)) => Err(ReadError::Manifest { id, source }.into()),
        }
    }

    /// Gives a document that is listed without a record its record; `false` if there is none such. Durable on return.
    ///
    /// # Errors
    /// [`StoreError`]; it has none then, as before.
    pub async fn complete_record(
        &self,
        record: &Signed<DocumentRecord>,
    ) -> Result<bool, StoreError> {
        let change = Change::Complete {
            document: record.value().document,
            record: record.to_bytes(),
            expires_at: record.value().expires_at(),
        };
        Ok(matches!(
            self.change(change).await?,
            Outcome::Completed(true)
        ))
    }

    /// Ends a lease: what was fetched under it is garbage unless something else needs it.
    ///
    /// # Errors
    /// [`StoreError`]; the lease then ends by its time.
    pub async fn abandon_retrieval(&self, lease: Lease) -> Result<(), StoreError> {
        self.change(Change::EndLease(lease.document)).await?;
        Ok(())
    }

    /// Drops a document from this store's listing; `false` if it was not listed. What nothing else needs of it becomes
    /// garbage for [`Self::gc`].
    ///
    /// # Errors
    /// [`StoreError`]; it is listed as before then.
    pub async fn remove(&self, document: DocumentId) -> Result<bool, StoreError> {
        Ok(matches!(
            self.change(Change::Unlist(document)).await?,
            Outcome::Unlisted(true)
        ))
    }

    /// Drops every document whose retention has ended at `now`, and names them.
    ///
    /// # Errors
    /// [`StoreError`]; what was dropped before stays dropped.
    pub async fn expire(&self, now: UnixMillis) -> Result<Vec<DocumentId>, StoreError> {
        let mut all = Vec::new();
        loop {
            let Outcome::Expired(mut some) = self.change(Change::Expire(now)).await? else {
                return Ok(all);
            };
            let more = some.len() >= EXPIRE_STEP;
            all.append(&mut some);
            if !more {
                return Ok(all);
            }
        }
    }

    /// Gives back the space of blocks that no document, running put or lease valid at `now` needs. Puts and reads go on
    /// meanwhile.
    ///
    /// # Errors
    /// [`StoreError`]; what was given back before stays so.
    pub async fn gc(&self, now: UnixMillis) -> Result<GcReport, StoreError> {
        let mut report = GcReport::default();
        let mut from = Some([0; 32]);
        while let Some(hash) = from {
            let outcome = self.change(Change::Collect { now, from: hash }).await?;
            let Outcome::Collected(Collected {
                blocks,
                bytes,
                next,
            }) = outcome
            else {
                break;
            };
            report.blocks += blocks;
            report.bytes += bytes;
            from = next;
        }
        Ok(report)
    }

    async fn change(&self, change: Change) -> Result<Outcome, StoreError> {
        self.inner
            .writer()?
            .change(change)
            .await
            .map_err(|refusal| match refusal {
                Refusal::Store(error) => error,
                Refusal::Missing(_) | Refusal::Manifest(..) => StoreError::Index(
                    "a manifest in the store is damaged: run `warren store verify`".to_owned(),
                ),
            })
    }
}
