//! Files that must be right or not there: secrets with a mode, whole writes, and refusals to overwrite.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// Largest key, certificate, token, revocation list or ledger that is read: far above any real one.
const MAX_MATERIAL_BYTES: u64 = 64 * 1024 * 1024;

/// Why a file could not be read or written. Nothing was changed unless the variant says so.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// The file is not there.
    #[error("{what} {} is not there: {hint}", path.display())]
    Missing {
        /// What the file is for.
        what: &'static str,
        /// Where it should be.
        path: PathBuf,
        /// What to do.
        hint: String,
    },
    /// The file is there and must not be replaced.
    #[error("{} exists: choose another name, or move it away", path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// Others may read a secret.
    #[error("{what} {} can be read by others (mode {mode:o}): run `chmod 600 {}`", path.display(), path.display())]
    TooOpen {
        /// What the file is for.
        what: &'static str,
        /// The secret.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// The file is another user's.
    #[error("{what} {} is not yours to read: run this as the user that the node runs as (with `sudo`, say)", path.display())]
    Denied {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
    },
    /// The file is larger than such a file can be.
    #[error("{what} {} has {bytes} bytes, more than such a file can have: is it the right one?", path.display())]
    TooLarge {
        /// What the file is for.
        what: &'static str,
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// The system refused.
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl FileError {
    fn io(action: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Reads a text file that is no secret, such as a certificate.
///
/// # Errors
/// Missing, too large, not UTF-8 or not readable.
pub fn read_text(what: &'static str, path: &Path, hint: &str) -> Result<String, FileError> {
    let file = open(what, path, hint)?;
    read_bounded(what, path, file)
}

/// Reads a secret. A file that others may read is refused: a key that has been readable is no secret any more.
///
/// # Errors
/// As [`read_text`], and when its mode lets group or others in.
pub fn read_secret(what: &'static str, path: &Path, hint: &str) -> Result<String, FileError> {
    let file = open(what, path, hint)?;
    let mode = file
        .metadata()
        .map_err(|source| FileError::io("look at", path, source))?
        .mode()
        & 0o777;
    if mode & 0o077 != 0 {
        return Err(FileError::TooOpen {
            what,
            path: path.to_owned(),
            mode,
        });
    }
    read_bounded(what, path, file)
}

fn open(what: &'static str, path: &Path, hint: &str) -> Result<File, FileError> {
    File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => FileError::Missing {
            what,
            path: path.to_owned(),
            hint: hint.to_owned(),
        },
        io::ErrorKind::PermissionDenied => FileError::Denied {
            what,
            path: path.to_owned(),
        },
        _ => FileError::io("read", path, source),
    })
}

fn read_bounded(what: &'static str, path: &Path, file: File) -> Result<String, FileError> {
    let bytes = file
        .metadata()
        .map_err(|source| FileError::io("look at", path, source))?
        .len();
    if bytes > MAX_MATERIAL_BYTES {
        return Err(FileError::TooLarge {
            what,
            path: path.to_owned(),
            bytes,
        });
    }
    // Of its full size from the start: growing would leave copies of a secret behind.
    let mut text = String::with_capacity(usize::try_from(bytes).unwrap_or_default() + 1);
    file.take(MAX_MATERIAL_BYTES)
        .read_to_string(&mut text)
        .map_err(|source| FileError::io("read", path, source))?;
    Ok(text)
}

/// Whether [`write_whole`] may replace what is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Overwrite {
    /// An existing file stays and the write is refused.
    Refuse,
    /// An existing file is replaced as a whole.
    Replace,
}

/// Writes a file whole or not at all: a neighbour first, synced, then moved into place. Folders on the way are made.
///
/// # Errors
/// [`FileError::Exists`] under [`Overwrite::Refuse`], else the system's answer; the old file is untouched.
pub fn write_whole(
    path: &Path,
    contents: &[u8],
    mode: u32,
    overwrite: Overwrite,
) -> Result<(), FileError> {
    let folder = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_owned(),
        _ => PathBuf::from("."),
    };
    make_folder(&folder)?;
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    let neighbour = folder.join(format!(".{name}.{}.tmp", std::process::id()));
    let written = write_neighbour(&neighbour, contents, mode)
        .map_err(|source| FileError::io("write", path, source))
        .and_then(|()| move_into_place(&neighbour, path, overwrite));
    if written.is_err() {
        // Already gone when the rename took it; anything else is left for the error to tell.
        let _ = fs::remove_file(&neighbour);
    }
    written?;
    File::open(&folder)
        .and_then(|folder| folder.sync_all())
        .map_err(|source| FileError::io("sync", &folder, source))
}

/// Makes a folder and those above it.
///
/// # Errors
/// The system's answer.
pub fn make_folder(folder: &Path) -> Result<(), FileError> {
    fs::create_dir_all(folder).map_err(|source| FileError::io("make the folder", folder, source))
}

fn write_neighbour(neighbour: &Path, contents: &[u8], mode: u32) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(mode)
        .open(neighbour)?;
    // The creation mode is cut by the umask, and a left-over neighbour keeps its own.
    file.set_permissions(fs::Permissions::from_mode(mode))?;
    file.write_all(contents)?;
    file.sync_all()
}

fn move_into_place(neighbour: &Path, path: &Path, overwrite: Overwrite) -> Result<(), FileError> {
    match overwrite {
        Overwrite::Replace => {
            fs::rename(neighbour, path).map_err(|source| FileError::io("write", path, source))
        }
        Overwrite::Refuse => {
            // A hard link refuses an existing target atomically, which a rename does not.
            fs::hard_link(neighbour, path).map_err(|source| match source.kind() {
                io::ErrorKind::AlreadyExists => FileError::Exists {
                    path: path.to_owned(),
                },
                _ => FileError::io("write", path, source),
            })?;
            fs::remove_file(neighbour)
                .map_err(|source| FileError::io("tidy up after", path, source))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn mode_of(path: &Path) -> u32 {
        fs::metadata(path).unwrap().mode() & 0o777
    }

    #[test]
    fn a_secret_is_written_with_exactly_the_mode_asked_for() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("deep/er/node.pem");
        write_whole(&path, b"secret", 0o600, Overwrite::Refuse).unwrap();
        assert_eq!(mode_of(&path), 0o600);
        assert_eq!(fs::read(&path).unwrap(), b"secret");
    }

    #[test]
    fn an_existing_file_is_kept_when_overwriting_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        write_whole(&path, b"first", 0o600, Overwrite::Refuse).unwrap();
        let refused = write_whole(&path, b"second", 0o600, Overwrite::Refuse).unwrap_err();
        assert!(matches!(refused, FileError::Exists { .. }), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"first");
        assert_eq!(
            fs::read_dir(folder.path()).unwrap().count(),
            1,
            "the neighbour is left behind"
        );
    }

    #[test]
    fn a_secret_that_others_may_read_is_refused_with_the_remedy() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("node.pem");
        write_whole(&path, b"secret", 0o640, Overwrite::Refuse).unwrap();
        let refused = read_secret("the node key", &path, "").unwrap_err();
        assert!(refused.to_string().contains("chmod 600"), "{refused}");
    }

    #[test]
    fn a_missing_file_says_what_to_run() {
        let missing = read_text(
            "the CA certificate",
            Path::new("/nowhere/ca.pem"),
            "run `warren ca init`",
        )
        .unwrap_err();
        assert!(missing.to_string().contains("warren ca init"), "{missing}");
    }
}
