//! The directory of a store: names, format version, lock, and the steps that make a file's existence durable.
//!
//! ```text
//! format          "warren-store 1\n"
//! lock            flock(2) held while open; the holder's process id inside
//! index.redb      everything but the bytes of larger blocks
//! packs/          0000000000000001.pack …: append-only files of blocks
//! ```

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, SeekFrom, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use rustix::fs::FlockOperation;
use rustix::io::Errno;

use crate::store::error::OpenError;

/// The format written by this version, and the newest it reads. There is no older one to migrate from.
const FORMAT: u32 = 1;
const FORMAT_PREFIX: &str = "warren-store ";
/// Nobody but the node reads the files of a store.
const DIRECTORY_MODE: u32 = 0o700;
const FILE_MODE: u32 = 0o600;

/// Paths below the store's directory.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    root: PathBuf,
}

/// Whether the directory can be written.
#[derive(Debug)]
pub(super) enum Access {
    ReadWrite,
    /// With the refusal that says why.
    ReadOnly(io::Error),
}

/// Held while the store is open; the system lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

impl Layout {
    pub(super) fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
        }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    pub(super) fn index(&self) -> PathBuf {
        self.root.join("index.redb")
    }

    pub(super) fn packs(&self) -> PathBuf {
        self.root.join("packs")
    }

    pub(super) fn pack(&self, number: u64) -> PathBuf {
        self.packs().join(format!("{number:016x}.pack"))
    }

    fn format(&self) -> PathBuf {
        self.root.join("format")
    }

    fn lock(&self) -> PathBuf {
        self.root.join("lock")
    }

    /// Creates what is missing, takes the lock, and checks the format.
    pub(super) fn prepare(&self) -> Result<(Lock, Access), OpenError> {
        match create_directory(&self.root) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(self.io("create the directory", &self.root, source)),
        }
        self.refuse_foreign_directory()?;
        let (lock, access) = self.take_lock()?;
        match (&access, self.check_format()?) {
            (_, true) => {}
            (Access::ReadWrite, false) => self.create_format()?,
            (Access::ReadOnly(source), false) => {
                return Err(OpenError::ReadOnly {
                    path: self.root.clone(),
                    source: io::Error::from(source.kind()),
                    reason: "there is no store in it yet".to_owned(),
                });
            }
        }
        Ok((lock, access))
    }

    /// A directory without a format file must hold nothing but what an interrupted creation leaves.
    fn refuse_foreign_directory(&self) -> Result<(), OpenError> {
        if self.format().exists() {
            return Ok(());
        }
        let list =
            fs::read_dir(&self.root).map_err(|source| self.io("list", &self.root, source))?;
        for entry in list {
            let name = entry
                .map_err(|source| self.io("list", &self.root, source))?
                .file_name();
            if !["lock", "packs", "format.new", "lost+found"]
                .iter()
                .any(|ours| name == *ours)
            {
                return Err(OpenError::NotAStore {
                    path: self.root.clone(),
                    reason: "it holds other files and no `format`",
                });
            }
        }
        Ok(())
    }

    fn take_lock(&self) -> Result<(Lock, Access), OpenError> {
        let path = self.lock();
        let opened = open_private(&path);
        let (mut file, access) = match opened {
            Ok(file) => (file, Access::ReadWrite),
            Err(source)
                if matches!(
                    source.kind(),
                    io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied
                ) =>
            {
                let file = File::open(&path).map_err(|error| OpenError::ReadOnly {
                    path: self.root.clone(),
                    source: io::Error::from(source.kind()),
                    reason: format!("cannot open its lock: {error}"),
                })?;
                (file, Access::ReadOnly(source))
            }
            Err(source) => return Err(self.io("open", &path, source)),
        };
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(Errno::WOULDBLOCK) => {
                let mut holder = String::new();
                let read = (&file).take(32).read_to_string(&mut holder);
                let holder = holder.trim();
                let holder = if read.is_err() || holder.is_empty() {
                    "unknown"
                } else {
                    holder
                };
                return Err(OpenError::Locked {
                    path: self.root.clone(),
                    holder: holder.to_owned(),
                });
            }
            Err(errno) => return Err(self.io("lock", &path, errno.into())),
        }
        if matches!(access, Access::ReadWrite) {
            // Best effort: the number only helps a person to find the holder, the lock itself is what counts.
            let written = file
                .set_len(0)
                .and_then(|()| file.seek(SeekFrom::Start(0)))
                .and_then(|_| writeln!(file, "{}", std::process::id()));
            if let Err(error) = written {
                tracing::warn!(path = %path.display(), %error, "cannot note the process id in the lock of the store");
            }
        }
        Ok((Lock { _file: file }, access))
    }

    /// Whether there is a format file, and it is one this version reads.
    fn check_format(&self) -> Result<bool, OpenError> {
        let path = self.format();
        let mut text = String::new();
        match File::open(&path) {
            Ok(file) => {
                if let Err(source) = file.take(64).read_to_string(&mut text) {
                    return Err(self.io("read", &path, source));
                }
            }
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(false),
            Err(source) => return Err(self.io("read", &path, source)),
        }
        let version: Option<u32> = text
            .strip_prefix(FORMAT_PREFIX)
            .and_then(|rest| rest.strip_suffix('\n'))
            .and_then(|n| n.parse().ok());
        match version {
            Some(FORMAT) => Ok(true),
            Some(found) if found > FORMAT => Err(OpenError::Newer {
                path: self.root.clone(),
                found,
                supported: FORMAT,
            }),
            Some(_) | None => Err(OpenError::NotAStore {
                path: self.root.clone(),
                reason: "its `format` file is damaged",
            }),
        }
    }

    /// The format file is written last of what creation does, so a directory that has one is a store.
    fn create_format(&self) -> Result<(), OpenError> {
        let packs = self.packs();
        match create_directory(&packs) {
            Ok(()) => {}
            Err(source) if source.kind() == io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(self.io("create the directory", &packs, source)),
        }
        // The entry of the store's own directory, which `create_durably` does not reach.
        let parent = match self.root.parent() {
            Some(parent) if parent != Path::new("") => parent,
            _ => Path::new("."),
        };
        match sync_directory(parent) {
            // What may not be listed cannot be synced from here.
            Err(source) if source.kind() != io::ErrorKind::PermissionDenied => {
                return Err(self.io("sync", parent, source));
            }
            _ => {}
        }
        let path = self.format();
        create_durably(&path, format!("{FORMAT_PREFIX}{FORMAT}\n").as_bytes())
            .map_err(|source| self.io("create", &path, source))?;
        Ok(())
    }

    fn io(&self, action: &'static str, path: &Path, source: io::Error) -> OpenError {
        OpenError::Io {
            action,
            path: path.to_owned(),
            source,
        }
    }
}

/// Opens a file for reading and writing, or creates it for nobody but the node.
pub(super) fn open_private(path: &Path) -> io::Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(FILE_MODE)
        .open(path)
}

fn create_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new()
        .mode(DIRECTORY_MODE)
        .recursive(true)
        .create(path)
}

/// Creates `path` with `content` so that after a crash it exists whole or not at all: temporary name, fsync, rename,
/// fsync of the directory. Gives the open file, positioned after `content`.
pub(super) fn create_durably(path: &Path, content: &[u8]) -> io::Result<File> {
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(true)
        .mode(FILE_MODE)
        .open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    if let Some(directory) = path.parent() {
        sync_directory(directory)?;
    }
    Ok(file)
}

/// Makes creations, renames and removals in `path` durable.
pub(super) fn sync_directory(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
