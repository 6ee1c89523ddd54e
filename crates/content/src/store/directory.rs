//! Directories: each file a document, and one directory document that names them all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rustix::fs::OFlags;
use tokio::io::AsyncRead;
use warren_identity::NodeKey;

use crate::core::chunker::MIN_CHUNK_BYTES;
use crate::core::id::DocumentId;
use crate::core::manifest::{DirectoryEntry, ManifestError, build_directory, check_name};
use crate::store::error::{PutError, StoreError};
use crate::store::ingest::{Ingest, IngestedFile};
use crate::store::put::PutContent;
use crate::store::shared::Pins;
use crate::store::{PutOptions, PutReceipt, Store};

/// What is read of a large file at a time.
const READ_BYTES: usize = 256 * 1024;

/// A directory whose files arrive one after the other, for instance over HTTP.
///
/// Nothing of it is listed before [`finish`](Self::finish); dropping it leaves only garbage. The files are found by
/// their own ids once it is listed, and go when the directory is removed, unless they were put on their own as well.
pub struct DirectoryIngest {
    store: Store,
    pins: Arc<Pins>,
    found: FoundFiles,
}

/// What has been ingested of a directory.
#[derive(Debug, Default)]
struct FoundFiles {
    entries: Vec<DirectoryEntry>,
    chunk_count: u64,
    stored_bytes: u64,
    skipped: Vec<PathBuf>,
}

impl DirectoryIngest {
    pub(super) fn new(store: Store) -> Self {
        let pins = Arc::new(Pins::new(store.inner.shared.clone()));
        Self {
            store,
            pins,
            found: FoundFiles::default(),
        }
    }

    /// Ingests one file under `name`, a relative path with `/` between its parts.
    ///
    /// # Errors
    /// [`PutError`]; the files before it stay, and another may be added.
    pub async fn add(
        &mut self,
        name: &str,
        reader: impl AsyncRead + Send + Unpin,
    ) -> Result<DocumentId, PutError> {
        check_name(name)?;
        let (file, stored) = self
            .store
            .ingest(reader, name.to_owned(), self.pins.clone())
            .await?;
        self.found.entries.push(DirectoryEntry {
            name: name.to_owned(),
            id: file.id,
            size: file.size,
        });
        self.found.chunk_count += file.chunk_count;
        self.found.stored_bytes += stored;
        Ok(file.id)
    }

    /// Lists the directory. Durable on return.
    ///
    /// # Errors
    /// [`PutError`]; nothing is listed then.
    pub async fn finish(self, options: PutOptions, key: &NodeKey) -> Result<PutReceipt, PutError> {
        let Self { store, pins, found } = self;
        store.finish_directory(found, pins, options, key).await
    }
}

impl Store {
    pub(super) async fn put_directory_at(
        &self,
        path: &Path,
        options: PutOptions,
        key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        let writer = self.inner.writer()?.clone();
        let permit = self.inner.put_permit().await?;
        let pins = Arc::new(Pins::new(self.inner.shared.clone()));
        let (shared, helpers) = (self.inner.shared.clone(), self.inner.helpers.clone());
        let (root, held) = (path.to_owned(), pins.clone());
        let walked = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            ingest_tree(&root, Ingest::new(shared, writer, held, helpers))
        });
        let found = walked.await.map_err(|_| StoreError::Closed)??;
        self.finish_directory(found, pins, options, key).await
    }

    async fn finish_directory(
        &self,
        found: FoundFiles,
        pins: Arc<Pins>,
        options: PutOptions,
        key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        let FoundFiles {
            entries,
            chunk_count,
            stored_bytes,
            skipped,
        } = found;
        let file_count = entries.len() as u64;
        let size = entries
            .iter()
            .try_fold(0_u64, |sum, entry| sum.checked_add(entry.size))
            .ok_or(ManifestError::Size)?;
        let blocks = build_directory(entries)?;
        let document = blocks
            .last()
            .map(|block| block.id)
            .ok_or(StoreError::Closed)?;
        let writer = self.inner.writer()?.clone();
        let (shared, helpers, held) = (
            self.inner.shared.clone(),
            self.inner.helpers.clone(),
            pins.clone(),
        );
        let written = tokio::task::spawn_blocking(move || {
            let mut ingest = Ingest::new(shared, writer, held, helpers);
            ingest.manifests(blocks)?;
            ingest.flush()
        });
        let stored_bytes = stored_bytes + written.await.map_err(|_| StoreError::Closed)??;
        let content = PutContent {
            document,
            size,
            chunk_count,
            stored_bytes,
            file_count,
            skipped,
        };
        let receipt = self.list_put(content, options, key).await?;
        drop(pins);
        Ok(receipt)
    }
}

/// Ingests every regular file below `root`. Symbolic links are never followed: what they lead to may lie outside.
fn ingest_tree(root: &Path, mut ingest: Ingest) -> Result<FoundFiles, PutError> {
    let mut found = FoundFiles::default();
    let mut open = vec![root.to_owned()];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(&folder).map_err(|error| unreadable(&folder, error))? {
            let entry = entry.map_err(|error| unreadable(&folder, error))?;
            let path = entry.path();
            let kind = entry
                .file_type()
                .map_err(|error| unreadable(&path, error))?;
            if kind.is_dir() {
                open.push(path);
            } else if kind.is_file() {
                let name = entry_name(root, &path)?;
                let file = ingest_file(&path, &mut ingest)?;
                found.chunk_count += file.chunk_count;
                found.entries.push(DirectoryEntry {
                    name,
                    id: file.id,
                    size: file.size,
                });
            } else {
                found.skipped.push(path);
            }
        }
    }
    found.stored_bytes = ingest.flush()?;
    Ok(found)
}

fn ingest_file(path: &Path, ingest: &mut Ingest) -> Result<IngestedFile, PutError> {
    let mut file = open_regular(path).map_err(|error| unreadable(path, error))?;
    let mut first = Vec::with_capacity(expected_bytes(&file) + 1);
    (&mut file)
        .take(MIN_CHUNK_BYTES as u64)
        .read_to_end(&mut first)
        .map_err(|error| unreadable(path, error))?;
    let first = Bytes::from(first);
    if first.len() < MIN_CHUNK_BYTES {
        return ingest.small_file(first);
    }
    let mut first = Some(first);
    ingest.file(|| match first.take() {
        Some(first) => Ok(Some(first)),
        None => read_piece(&mut file).map_err(|error| unreadable(path, error)),
    })
}

/// Opens a file for reading. One that was exchanged for a link or a pipe since it was listed is refused, not followed or
/// waited for.
fn open_regular(path: &Path) -> io::Result<File> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(flags.bits().cast_signed())
        .open(path)?;
    if file.metadata()?.is_file() {
        Ok(file)
    } else {
        Err(io::Error::other("it is no regular file any more"))
    }
}

/// How much of the file is worth a buffer at once.
fn expected_bytes(file: &File) -> usize {
    let length = file.metadata().map_or(0, |metadata| metadata.len());
    usize::try_from(length)
        .unwrap_or(usize::MAX)
        .min(MIN_CHUNK_BYTES)
}

fn read_piece(file: &mut File) -> io::Result<Option<Bytes>> {
    let mut piece = BytesMut::zeroed(READ_BYTES);
    loop {
        match file.read(&mut piece) {
            Ok(0) => return Ok(None),
            Ok(read) => {
                piece.truncate(read);
                return Ok(Some(piece.freeze()));
            }
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

fn entry_name(root: &Path, path: &Path) -> Result<String, PutError> {
    let relative = path.strip_prefix(root).unwrap_or(path);
    let name = relative.to_str().ok_or_else(|| ManifestError::Name {
        name: relative.to_string_lossy().chars().take(64).collect(),
        reason: "a name is UTF-8; rename the file",
    })?;
    check_name(name)?;
    Ok(name.to_owned())
}

fn unreadable(path: &Path, source: io::Error) -> PutError {
    PutError::Source {
        what: path.display().to_string(),
        source,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use rustix::fs::{CWD, FileType, Mode, mknodat};

    use super::*;

    #[test]
    fn given_a_pipe_or_a_link_where_a_file_was_when_opened_then_it_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let (pipe, link, file) = (
            folder.path().join("pipe"),
            folder.path().join("link"),
            folder.path().join("file"),
        );
        mknodat(CWD, &pipe, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        fs::write(&file, "content").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();

        assert!(open_regular(&pipe).is_err());
        assert!(open_regular(&link).is_err());
        assert!(open_regular(folder.path()).is_err());
        assert!(open_regular(&file).is_ok());
    }
}
