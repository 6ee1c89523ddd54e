//! Opening a store: lock, format, index, and what a crash left behind.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};

use redb::{DatabaseError, ReadableTable as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use warren_telemetry::Metrics;

use crate::store::error::{OpenError, StoreError};
use crate::store::index::{COUNTERS, Index, IndexError, PACKS, counter, create_tables};
use crate::store::layout::{Access, Layout, Lock, sync_directory};
use crate::store::ledger::Totals;
use crate::store::metrics::StoreMetrics;
use crate::store::pack::{ActivePack, PACK_BYTES};
use crate::store::shared::Shared;
use crate::store::writer::{Writer, WriterHandle};
use crate::store::{Store, StoreOptions};

/// Puts whose content is read at the same time. Each holds up to one chunk in the making; who comes later waits.
const CONCURRENT_PUTS: usize = 32;
/// Most helper tasks, however many processors there are.
const MAX_HELPERS: usize = 8;

/// What all clones of a [`Store`] share.
pub(super) struct Inner {
    pub(super) shared: Arc<Shared>,
    pub(super) helpers: Arc<Semaphore>,
    pub(super) max_bytes: Option<u64>,
    puts: Arc<Semaphore>,
    /// `None` in a read-only store, and while being dropped.
    writer: Option<WriterHandle>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
    /// Let go of last: nobody else opens the store before the writer is done.
    _lock: Lock,
}

impl Inner {
    pub(super) fn writer(&self) -> Result<&WriterHandle, StoreError> {
        self.writer.as_ref().ok_or(StoreError::ReadOnly)
    }

    pub(super) async fn put_permit(&self) -> Result<OwnedSemaphorePermit, StoreError> {
        self.puts
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| StoreError::Closed)
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.writer = None;
        let thread = self
            .thread
            .get_mut()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        if thread.is_some_and(|thread| thread.join().is_err()) {
            tracing::error!("the writer of the store ended by a panic");
        }
    }
}

impl Store {
    /// Opens the store in `path`, or creates one in an empty or new directory. Takes an exclusive lock, removes what a
    /// crash left, and starts one thread. A store that can only be read is opened for reading. Blocking.
    ///
    /// The last clone to be dropped waits for the writer to finish and lets go of the lock.
    ///
    /// # Errors
    /// [`OpenError`]: in use by another process, newer format, not a store, damaged, or refused by the system.
    pub fn open(path: &Path, options: StoreOptions, metrics: &Metrics) -> Result<Self, OpenError> {
        let layout = Layout::new(path);
        let (lock, access) = layout.prepare()?;
        let metrics = StoreMetrics::register(metrics);
        let (shared, writer, thread) = match access {
            Access::ReadWrite => {
                let (shared, handle, thread) = open_for_writing(&layout, &options, metrics)?;
                (shared, Some(handle), Some(thread))
            }
            Access::ReadOnly(source) => {
                tracing::warn!(path = %path.display(), reason = %source, "the store is opened for reading only");
                let index = Index::open_read_only(&layout.index()).map_err(|error| {
                    OpenError::ReadOnly {
                        path: path.to_owned(),
                        source,
                        reason: error.to_string(),
                    }
                })?;
                (Arc::new(Shared::new(layout, index, metrics)), None, None)
            }
        };
        let helpers = std::thread::available_parallelism()
            .map_or(1, std::num::NonZero::get)
            .min(MAX_HELPERS);
        Ok(Self {
            inner: Arc::new(Inner {
                shared,
                helpers: Arc::new(Semaphore::new(helpers)),
                max_bytes: options.max_bytes,
                puts: Arc::new(Semaphore::new(CONCURRENT_PUTS)),
                writer,
                thread: Mutex::new(thread),
                _lock: lock,
            }),
        })
    }

    /// Whether nothing can be put, removed or fetched into it, because its directory cannot be written.
    #[must_use]
    pub fn is_read_only(&self) -> bool {
        self.inner.writer.is_none()
    }
}

type Opened = (Arc<Shared>, WriterHandle, std::thread::JoinHandle<()>);

fn open_for_writing(
    layout: &Layout,
    options: &StoreOptions,
    metrics: StoreMetrics,
) -> Result<Opened, OpenError> {
    let root = layout.root();
    let index = Index::open(&layout.index()).map_err(|error| match error {
        DatabaseError::Storage(redb::StorageError::Io(source)) => OpenError::Io {
            action: "open",
            path: layout.index(),
            source,
        },
        other => OpenError::Index {
            path: root.to_owned(),
            reason: other.to_string(),
        },
    })?;
    sync_directory(root).map_err(|source| OpenError::Io {
        action: "sync",
        path: root.to_owned(),
        source,
    })?;
    let shared = Arc::new(Shared::new(layout.clone(), index, metrics));
    let damaged = |error: StoreError| match error {
        StoreError::Io { action, source } => OpenError::Io {
            action,
            path: root.to_owned(),
            source: io::Error::new(source.kind(), source.to_string()),
        },
        other => OpenError::Index {
            path: root.to_owned(),
            reason: other.to_string(),
        },
    };
    create_all_tables(&shared).map_err(|error| damaged(error.into_inner()))?;
    let (known, totals) = shared
        .index
        .read(|transaction| {
            let mut known = BTreeMap::new();
            for row in transaction.open_table(PACKS)?.iter()? {
                let (number, state) = row?;
                known.insert(number.value(), state.value().0);
            }
            let counters = transaction.open_table(COUNTERS)?;
            let total = |name| {
                counters
                    .get(name)
                    .map(|row| row.map_or(0, |row| row.value()))
            };
            let totals = Totals {
                stored_bytes: total(counter::STORED_BYTES)?,
                blocks: total(counter::BLOCKS)?,
                documents: total(counter::DOCUMENTS)?,
            };
            Ok((known, totals))
        })
        .map_err(damaged)?;
    let active = recover_packs(&shared, &known).map_err(|source| OpenError::Io {
        action: "restore the packs in",
        path: layout.packs(),
        source,
    })?;
    let mut writer = Writer::new(shared.clone(), options.max_bytes, active, totals);
    writer.collect_all();
    let (handle, queue) = Writer::queue();
    let thread = std::thread::Builder::new()
        .name("content-store".to_owned())
        .spawn(move || writer.run(queue))
        .map_err(|source| OpenError::Io {
            action: "start the writer of",
            path: root.to_owned(),
            source,
        })?;
    Ok((shared, handle, thread))
}

fn create_all_tables(shared: &Shared) -> Result<(), IndexError> {
    let transaction = shared.index.begin_write()?;
    create_tables(&transaction)?;
    transaction.commit()?;
    Ok(())
}

/// Removes pack files that the index does not know, cuts every pack to what it knows, and gives the one to go on with.
fn recover_packs(shared: &Shared, known: &BTreeMap<u64, u64>) -> io::Result<Option<ActivePack>> {
    let (found, strays) = shared.packs.list()?;
    for stray in strays {
        tracing::info!(path = %stray.display(), "removing what an interrupted write left");
        std::fs::remove_file(stray)?;
    }
    for number in found.iter().filter(|number| !known.contains_key(number)) {
        tracing::info!(
            pack = number,
            "removing a pack of which nothing was acknowledged"
        );
        shared.packs.remove(*number)?;
    }
    let mut active = None;
    for (number, length) in known {
        if !found.contains(number) {
            tracing::error!(
                pack = number,
                "a pack is gone from the disk; run `warren store verify`"
            );
            continue;
        }
        match ActivePack::reopen(&shared.layout, *number, *length)? {
            Some(pack) if pack.length < PACK_BYTES => active = Some(pack),
            Some(_) => {}
            None => tracing::error!(
                pack = number,
                "a pack is shorter than written; run `warren store verify`"
            ),
        }
    }
    Ok(active)
}
