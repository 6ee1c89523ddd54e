//! The index: which blocks there are and where, which documents are listed, what holds a block in place.
//!
//! Tables, all in one redb file:
//!
//! | table | key | value |
//! |---|---|---|
//! | `blocks` | hash | [`Entry`] |
//! | `inline` | number | stored bytes of a block of at most 16 KiB |
//! | `packs` | number | length, live bytes, live blocks |
//! | `garbage` | hash | blocks that no document needs |
//! | `freed` | pack, offset | length of a dead stretch not yet given back to the file system |
//! | `documents` | document | [`Listed`] |
//! | `order` | number | document, in order of listing |
//! | `expiry` | time, document | documents with a retention |
//! | `leases` | document | end of a retrieval's lease |
//! | `leased` | document, block | blocks held by a lease |
//! | `removed` | document | the last row of one that is no longer listed, while its manifest is still here |
//! | `counters` | name | next numbers and totals |

use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

use redb::{
    Database, DatabaseError, ReadOnlyDatabase, ReadTransaction, ReadableDatabase as _,
    StorageError, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use warren_identity::UnixMillis;

use crate::core::block::Encoding;
use crate::core::id::DocumentId;
use crate::store::Origin;
use crate::store::error::StoreError;
use crate::store::layout::open_private;

pub(super) type Hash = [u8; 32];

pub(super) const BLOCKS: TableDefinition<'_, Hash, [u8; Entry::BYTES]> =
    TableDefinition::new("blocks");
pub(super) const INLINE: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("inline");
pub(super) const PACKS: TableDefinition<'_, u64, (u64, u64, u64)> = TableDefinition::new("packs");
pub(super) const GARBAGE: TableDefinition<'_, Hash, ()> = TableDefinition::new("garbage");
pub(super) const FREED: TableDefinition<'_, (u64, u64), u64> = TableDefinition::new("freed");
pub(super) const DOCUMENTS: TableDefinition<'_, Hash, &[u8]> = TableDefinition::new("documents");
pub(super) const ORDER: TableDefinition<'_, u64, Hash> = TableDefinition::new("order");
pub(super) const EXPIRY: TableDefinition<'_, (u64, Hash), ()> = TableDefinition::new("expiry");
pub(super) const LEASES: TableDefinition<'_, Hash, u64> = TableDefinition::new("leases");
pub(super) const LEASED: TableDefinition<'_, (Hash, Hash), ()> = TableDefinition::new("leased");
pub(super) const REMOVED: TableDefinition<'_, Hash, &[u8]> = TableDefinition::new("removed");
pub(super) const COUNTERS: TableDefinition<'_, &str, u64> = TableDefinition::new("counters");

/// Pages kept in memory: enough for the inner nodes of an index of some million blocks.
const CACHE_BYTES: usize = 16 * 1024 * 1024;

/// Where the stored bytes of a block are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Location {
    /// Nowhere: needed by a document, but lost to a disk error and not yet repaired.
    Missing,
    /// In the `inline` table.
    Inline(u64),
    /// At a frame of a pack.
    Pack { pack: u64, offset: u64 },
}

/// What the index knows of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry {
    /// Manifests that name it as a chunk.
    pub(super) chunk_refs: u32,
    /// Manifests and documents that name it as a manifest. Counted apart: only the first of these makes the block's
    /// own links count.
    pub(super) manifest_refs: u32,
    pub(super) encoding: Encoding,
    pub(super) plain_size: u32,
    pub(super) stored_size: u32,
    pub(super) location: Location,
}

impl Entry {
    pub(super) const BYTES: usize = 34;

    pub(super) const fn is_referenced(&self) -> bool {
        self.chunk_refs > 0 || self.manifest_refs > 0
    }

    pub(super) fn to_bytes(self) -> [u8; Self::BYTES] {
        let (tag, pack, offset) = match self.location {
            Location::Missing => (0_u8, 0, 0),
            Location::Inline(number) => (1, number, 0),
            Location::Pack { pack, offset } => (2, pack, offset),
        };
        let encoding = match self.encoding {
            Encoding::Plain => 0_u8,
            Encoding::Zstd => 1,
        };
        let mut bytes = [0; Self::BYTES];
        bytes[0..4].copy_from_slice(&self.chunk_refs.to_le_bytes());
        bytes[4..8].copy_from_slice(&self.manifest_refs.to_le_bytes());
        bytes[8] = encoding;
        bytes[9] = tag;
        bytes[10..14].copy_from_slice(&self.plain_size.to_le_bytes());
        bytes[14..18].copy_from_slice(&self.stored_size.to_le_bytes());
        bytes[18..26].copy_from_slice(&pack.to_le_bytes());
        bytes[26..34].copy_from_slice(&offset.to_le_bytes());
        bytes
    }

    pub(super) fn from_bytes(bytes: &[u8; Self::BYTES]) -> Result<Self, StoreError> {
        let damaged = || StoreError::Index("a block's entry is damaged".to_owned());
        let u32_at = |at: usize| {
            u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
        };
        let u64_at = |at: usize| u64::from(u32_at(at)) | u64::from(u32_at(at + 4)) << 32;
        Ok(Self {
            chunk_refs: u32_at(0),
            manifest_refs: u32_at(4),
            encoding: match bytes[8] {
                0 => Encoding::Plain,
                1 => Encoding::Zstd,
                _ => return Err(damaged()),
            },
            plain_size: u32_at(10),
            stored_size: u32_at(14),
            location: match bytes[9] {
                0 => Location::Missing,
                1 => Location::Inline(u64_at(18)),
                2 => Location::Pack {
                    pack: u64_at(18),
                    offset: u64_at(26),
                },
                _ => return Err(damaged()),
            },
        })
    }
}

/// A row of the listing.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Listed {
    pub(super) origin: Origin,
    pub(super) added_at: UnixMillis,
    /// Its key in `order`.
    pub(super) number: u64,
    pub(super) is_directory: bool,
    pub(super) size: u64,
    pub(super) expires_at: Option<UnixMillis>,
    /// The signed record, as it came.
    pub(super) record: Option<Vec<u8>>,
}

impl Listed {
    pub(super) fn to_bytes(&self) -> Result<Vec<u8>, StoreError> {
        postcard::to_stdvec(self).map_err(|error| StoreError::Index(error.to_string()))
    }

    pub(super) fn from_bytes(bytes: &[u8]) -> Result<Self, StoreError> {
        postcard::from_bytes(bytes)
            .map_err(|_| StoreError::Index("a document's row is damaged".to_owned()))
    }
}

/// Names in `counters`.
pub(super) mod counter {
    pub(in crate::store) const NEXT_INLINE: &str = "next_inline";
    pub(in crate::store) const NEXT_PACK: &str = "next_pack";
    pub(in crate::store) const NEXT_ORDER: &str = "next_order";
    pub(in crate::store) const STORED_BYTES: &str = "stored_bytes";
    pub(in crate::store) const BLOCKS: &str = "blocks";
    pub(in crate::store) const DOCUMENTS: &str = "documents";
}

enum Handle {
    ReadWrite(Database),
    ReadOnly(ReadOnlyDatabase),
}

/// The open database. redb refuses everything after a failed write until it is opened anew, so the handle can be
/// exchanged ([`Index::reopen`]) while readers come and go.
pub(super) struct Index {
    path: PathBuf,
    handle: RwLock<Option<Handle>>,
}

impl Index {
    pub(super) fn open(path: &Path) -> Result<Self, DatabaseError> {
        let database = open_database(path)?;
        Ok(Self {
            path: path.to_owned(),
            handle: RwLock::new(Some(Handle::ReadWrite(database))),
        })
    }

    pub(super) fn open_read_only(path: &Path) -> Result<Self, DatabaseError> {
        let database = Database::builder()
            .set_cache_size(CACHE_BYTES)
            .open_read_only(path)?;
        Ok(Self {
            path: path.to_owned(),
            handle: RwLock::new(Some(Handle::ReadOnly(database))),
        })
    }

    /// Runs `read` on a consistent view. Keep it short: the exchange of the handle waits for it.
    pub(super) fn read<T>(
        &self,
        read: impl FnOnce(&ReadTransaction) -> Result<T, IndexError>,
    ) -> Result<T, StoreError> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        let transaction = match handle.as_ref() {
            Some(Handle::ReadWrite(database)) => database.begin_read(),
            Some(Handle::ReadOnly(database)) => database.begin_read(),
            None => {
                return Err(StoreError::Index(
                    "it could not be opened again after a disk error".to_owned(),
                ));
            }
        };
        transaction
            .map_err(IndexError::from)
            .and_then(|transaction| read(&transaction))
            .map_err(IndexError::into_inner)
    }

    /// Begins a write; only the writer thread calls it.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, IndexError> {
        let handle = self.handle.read().unwrap_or_else(PoisonError::into_inner);
        match handle.as_ref() {
            Some(Handle::ReadWrite(database)) => Ok(database.begin_write()?),
            Some(Handle::ReadOnly(_)) => Err(IndexError(StoreError::ReadOnly)),
            None => Err(IndexError(StoreError::Index(
                "it could not be opened again after a disk error".to_owned(),
            ))),
        }
    }

    /// Opens the database anew after a failed write.
    pub(super) fn reopen(&self) -> Result<(), DatabaseError> {
        let mut handle = self.handle.write().unwrap_or_else(PoisonError::into_inner);
        // The file lock of the old handle must be gone first.
        *handle = None;
        *handle = Some(Handle::ReadWrite(open_database(&self.path)?));
        Ok(())
    }
}

fn open_database(path: &Path) -> Result<Database, DatabaseError> {
    let file = open_private(path).map_err(StorageError::Io)?;
    Database::builder()
        .set_cache_size(CACHE_BYTES)
        .create_file(file)
}

/// Creates every table, so that readers never meet a missing one.
pub(super) fn create_tables(transaction: &WriteTransaction) -> Result<(), IndexError> {
    transaction.open_table(BLOCKS)?;
    transaction.open_table(INLINE)?;
    transaction.open_table(PACKS)?;
    transaction.open_table(GARBAGE)?;
    transaction.open_table(FREED)?;
    transaction.open_table(DOCUMENTS)?;
    transaction.open_table(ORDER)?;
    transaction.open_table(EXPIRY)?;
    transaction.open_table(LEASES)?;
    transaction.open_table(LEASED)?;
    transaction.open_table(REMOVED)?;
    transaction.open_table(COUNTERS)?;
    Ok(())
}

/// The entry of a block, if it is indexed.
pub(super) fn entry(
    transaction: &ReadTransaction,
    hash: &Hash,
) -> Result<Option<Entry>, IndexError> {
    let table = transaction.open_table(BLOCKS)?;
    let found = table.get(hash)?;
    Ok(found
        .map(|row| Entry::from_bytes(&row.value()))
        .transpose()?)
}

/// Any failure inside a transaction, already in the store's terms.
#[derive(Debug)]
pub(super) struct IndexError(StoreError);

impl IndexError {
    pub(super) fn into_inner(self) -> StoreError {
        self.0
    }
}

impl From<StoreError> for IndexError {
    fn from(error: StoreError) -> Self {
        Self(error)
    }
}

impl From<redb::Error> for IndexError {
    fn from(error: redb::Error) -> Self {
        Self(match error {
            redb::Error::Io(source) => io_error("read or write the index", source),
            other => StoreError::Index(other.to_string()),
        })
    }
}

macro_rules! from_redb {
    ($($error:ident),*) => {$(
        impl From<redb::$error> for IndexError {
            fn from(error: redb::$error) -> Self {
                redb::Error::from(error).into()
            }
        }
    )*};
}
from_redb!(
    StorageError,
    TableError,
    TransactionError,
    CommitError,
    SetDurabilityError
);

/// A refusal of the system in the store's terms.
pub(super) fn io_error(action: &'static str, source: io::Error) -> StoreError {
    match source.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::NoSpace,
        io::ErrorKind::ReadOnlyFilesystem => StoreError::ReadOnly,
        _ => StoreError::Io {
            action,
            source: Arc::new(source),
        },
    }
}

/// The document named by a key of `documents`.
pub(super) const fn document_of(hash: Hash) -> DocumentId {
    DocumentId::from_hash(hash)
}

/// The next hash in order, if there is one.
pub(super) fn successor(mut hash: Hash) -> Option<Hash> {
    for byte in hash.iter_mut().rev() {
        let (next, wrapped) = byte.overflowing_add(1);
        *byte = next;
        if !wrapped {
            return Some(hash);
        }
    }
    None
}
