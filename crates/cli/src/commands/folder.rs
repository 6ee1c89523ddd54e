//! A folder as one stream: packed for `put`, unpacked for `get`. The stream is a POSIX tar archive.

use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use anyhow::{Context, bail};
use bytes::Bytes;
use futures::Stream;
use warren_api::piece_stream::written_by;

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
    let folder = folder.to_owned();
    written_by(move |out| {
        let mut archive = tar::Builder::new(out);
        // A link is told of by name and left out by the node: following it could leave the folder.
        archive.follow_symlinks(false);
        archive.append_dir_all("", &folder)?;
        archive.finish()
    })
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
