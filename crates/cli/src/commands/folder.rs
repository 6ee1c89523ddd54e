//! A folder as one stream: packed for `put`, unpacked for `get`. The stream is a POSIX tar archive.

use std::fs;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

/// Pieces between the packing thread and the connection: 8 MiB at most.
const QUEUE_PIECES: usize = 8;
/// Bytes of a piece.
const PIECE_BYTES: usize = 1 << 20;

/// Bytes of all files below `folder`, for a progress bar.
pub(crate) fn size(folder: &Path) -> anyhow::Result<u64> {
    let mut total = 0;
    for entry in
        fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            total += size(&entry.path())?;
        } else if kind.is_file() {
            total += entry.metadata()?.len();
        }
    }
    Ok(total)
}

/// The folder as a tar stream, packed on a thread of its own that waits for the reader.
pub(crate) fn pack(folder: &Path) -> impl Stream<Item = io::Result<Bytes>> + use<> {
    let (pieces, mut queue) = mpsc::channel(QUEUE_PIECES);
    let folder = folder.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut archive = tar::Builder::new(PieceWriter {
            pieces: pieces.clone(),
            piece: Vec::new(),
        });
        // A link is told of by name and left out by the node: following it could leave the folder.
        archive.follow_symlinks(false);
        let packed = archive
            .append_dir_all("", &folder)
            .and_then(|()| archive.into_inner())
            .and_then(|mut rest| rest.flush());
        if let Err(error) = packed {
            // The connection has gone if nobody takes it, and then has its own error.
            let _ = pieces.blocking_send(Err(error));
        }
    });
    futures::stream::poll_fn(move |context| queue.poll_recv(context))
}

struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    }
}

/// Unpacks a tar stream below `target`, which is made and must be empty. Entries that would leave it are refused.
pub(crate) fn unpack(stream: impl Read, target: &Path) -> anyhow::Result<()> {
    let cannot = || format!("cannot write to {}", target.display());
    fs::create_dir_all(target).with_context(cannot)?;
    if fs::read_dir(target).with_context(cannot)?.next().is_some() {
        bail!("{} is not empty: name a new folder", target.display());
    }
    let mut archive = tar::Archive::new(stream);
    archive.set_preserve_permissions(false);
    archive.set_preserve_mtime(false);
    let broke_off = || {
        format!(
            "the folder broke off; what is in {} is not whole",
            target.display()
        )
    };
    for entry in archive.entries().with_context(broke_off)? {
        let mut entry = entry.with_context(broke_off)?;
        let name = entry
            .path()
            .map(|path| path.display().to_string())
            .unwrap_or_default();
        if !entry.unpack_in(target).with_context(broke_off)? {
            bail!("the node sent an unsafe name: {name}");
        }
    }
    Ok(())
}

/// Gives a file the mode that a newly created one would have.
pub(crate) fn set_ordinary_mode(path: &Path) -> io::Result<()> {
    let umask = rustix::process::umask(rustix::fs::Mode::empty());
    rustix::process::umask(umask);
    fs::set_permissions(
        path,
        fs::Permissions::from_mode(0o666 & !umask.as_raw_mode()),
    )
}
