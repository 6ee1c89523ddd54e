//! Pack files: the bytes of blocks above 16 KiB, one frame after the other, only ever appended to.
//!
//! ```text
//! file   = "warren-pack 1\n\0\0"                                      16 bytes
//!          frame*
//! frame  = "WBLK" encoding(1) 0(3) plain_size(4) stored_size(4) hash(32)   48 bytes, little endian
//!          stored bytes
//! ```
//!
//! A pack comes into being under a temporary name, is synced and renamed. Frames are appended behind what the index
//! knows; they count only once the file is synced and the index committed, so a crash leaves at worst a tail that the
//! index does not know, which opening cuts off. There is no checksum: a block's own hash is its check. The header only
//! tells a hole from a block before the bytes are decoded.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::FileExt as _;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use lru::LruCache;
use rustix::fs::FallocateFlags;
use rustix::io::Errno;

use crate::core::block::{Encoding, StoredBlock};
use crate::store::index::{Entry, Hash};
use crate::store::layout::{Layout, create_durably};

const FILE_HEADER: &[u8; 16] = b"warren-pack 1\n\0\0";
const FRAME_MAGIC: &[u8; 4] = b"WBLK";
/// Bytes a frame takes beside its block.
pub(super) const FRAME_HEADER_BYTES: u64 = 48;
/// A pack is closed once it is this long: small enough that whole files die, large enough that there are few.
pub(super) const PACK_BYTES: u64 = 256 * 1024 * 1024;
/// The kernel is asked to begin writing out whenever this much has been added, so that a sync finds little left to do
/// and the disk is not idle until then.
const WRITE_OUT_BYTES: u64 = 4 * 1024 * 1024;
/// Open files kept for reading.
const OPEN_PACKS: NonZeroUsize = match NonZeroUsize::new(64) {
    Some(count) => count,
    None => NonZeroUsize::MIN,
};

/// Reads packs and gives their space back. Shared by all threads.
pub(super) struct Packs {
    layout: Layout,
    open: Mutex<LruCache<u64, Arc<File>>>,
}

/// The pack that is appended to. Owned by the writer thread.
pub(super) struct ActivePack {
    pub(super) number: u64,
    /// Where the next frame goes.
    pub(super) length: u64,
    file: File,
    synced: u64,
    /// Up to here the kernel was asked to begin writing out.
    begun: u64,
}

impl Packs {
    pub(super) fn new(layout: Layout) -> Self {
        Self {
            layout,
            open: Mutex::new(LruCache::new(OPEN_PACKS)),
        }
    }

    /// The stored bytes of a block; `None` if what lies there is not its frame.
    pub(super) fn read(
        &self,
        pack: u64,
        offset: u64,
        hash: &Hash,
        entry: &Entry,
    ) -> io::Result<Option<Bytes>> {
        let file = match self.file(pack) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let header = frame_header(hash, entry.encoding, entry.plain_size, entry.stored_size);
        let wanted = header.len() + entry.stored_size as usize;
        let mut frame = Vec::with_capacity(wanted);
        while frame.len() < wanted {
            let at = offset + frame.len() as u64;
            match rustix::io::pread(&*file, rustix::buffer::spare_capacity(&mut frame), at) {
                Ok(0) => return Ok(None),
                Ok(_) | Err(Errno::INTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
        frame.truncate(wanted);
        if frame[..header.len()] != header {
            return Ok(None);
        }
        let mut frame = Bytes::from(frame);
        Ok(Some(frame.split_off(header.len())))
    }

    fn file(&self, pack: u64) -> io::Result<Arc<File>> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(file) = open.get(&pack) {
            return Ok(file.clone());
        }
        let file = Arc::new(File::open(self.layout.pack(pack))?);
        open.put(pack, file.clone());
        Ok(file)
    }

    /// Gives a dead stretch back to the file system. A file system without holes keeps it until the pack dies.
    pub(super) fn punch(&self, pack: u64, offset: u64, length: u64) -> io::Result<()> {
        let file = match OpenOptions::new().write(true).open(self.layout.pack(pack)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(error),
        };
        match rustix::fs::fallocate(
            &file,
            FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE,
            offset,
            length,
        ) {
            Ok(()) | Err(Errno::OPNOTSUPP) => Ok(()),
            Err(errno) => Err(errno.into()),
        }
    }

    /// Removes a pack in which nothing lives.
    pub(super) fn remove(&self, pack: u64) -> io::Result<()> {
        self.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .pop(&pack);
        match fs::remove_file(self.layout.pack(pack)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Numbers of the packs on disk, and paths of what is no pack (left by a crash between creation and rename).
    pub(super) fn list(&self) -> io::Result<(Vec<u64>, Vec<std::path::PathBuf>)> {
        let mut packs = Vec::new();
        let mut strays = Vec::new();
        for entry in fs::read_dir(self.layout.packs())? {
            let path = entry?.path();
            let number = path
                .file_name()
                .and_then(|name| name.to_str())
                .and_then(|name| name.strip_suffix(".pack"))
                .and_then(|digits| u64::from_str_radix(digits, 16).ok());
            match number {
                Some(number) if path == self.layout.pack(number) => packs.push(number),
                _ => strays.push(path),
            }
        }
        packs.sort_unstable();
        Ok((packs, strays))
    }
}

impl ActivePack {
    pub(super) fn create(layout: &Layout, number: u64) -> io::Result<Self> {
        let file = create_durably(&layout.pack(number), FILE_HEADER)?;
        let length = FILE_HEADER.len() as u64;
        Ok(Self {
            number,
            length,
            file,
            synced: length,
            begun: length,
        })
    }

    /// Opens an existing pack behind the `length` bytes that the index knows, cutting off what a crash left. `None` if
    /// the file is shorter than that: it lost data and is not written to again.
    pub(super) fn reopen(layout: &Layout, number: u64, length: u64) -> io::Result<Option<Self>> {
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .open(layout.pack(number))?;
        let found = file.metadata()?.len();
        if found < length {
            return Ok(None);
        }
        if found > length {
            file.set_len(length)?;
        }
        Ok(Some(Self {
            number,
            length,
            file,
            synced: length,
            begun: length,
        }))
    }

    /// Appends a frame and gives its offset. On failure the file is as long as before.
    pub(super) fn append(&mut self, hash: &Hash, block: &StoredBlock) -> io::Result<u64> {
        let offset = self.length;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a stored block is at most its 4 MiB plain size"
        )]
        let header = frame_header(
            hash,
            block.encoding,
            block.plain_size,
            block.bytes.len() as u32,
        );
        let written = self.file.write_all_at(&header, offset).and_then(|()| {
            self.file
                .write_all_at(&block.bytes, offset + FRAME_HEADER_BYTES)
        });
        if let Err(error) = written {
            // Should this fail as well, the tail is simply overwritten by the next frame or cut off at opening.
            if let Err(cut) = self.file.set_len(offset) {
                tracing::warn!(pack = self.number, error = %cut, "cannot cut off a half-written block");
            }
            return Err(error);
        }
        self.length = offset + FRAME_HEADER_BYTES + block.bytes.len() as u64;
        if self.length - self.begun >= WRITE_OUT_BYTES {
            begin_writing_out(&self.file, self.begun, self.length - self.begun);
            self.begun = self.length;
        }
        Ok(offset)
    }

    /// Makes everything appended so far durable.
    pub(super) fn sync(&mut self) -> io::Result<()> {
        if self.synced < self.length {
            self.file.sync_data()?;
            self.synced = self.length;
        }
        Ok(())
    }

    /// Whether nothing but the file header is in it.
    pub(super) const fn is_empty(&self) -> bool {
        self.length == FILE_HEADER.len() as u64
    }
}

/// Asks the kernel to begin writing a range to the disk, without waiting. Only a hint: what makes frames durable is
/// [`ActivePack::sync`], so a refusal is of no consequence.
fn begin_writing_out(file: &File, offset: u64, length: u64) {
    let (Ok(offset), Ok(length)) = (i64::try_from(offset), i64::try_from(length)) else {
        return;
    };
    // SAFETY: the descriptor is open for the whole call, and the call touches no memory of ours.
    unsafe {
        libc::sync_file_range(
            file.as_raw_fd(),
            offset,
            length,
            libc::SYNC_FILE_RANGE_WRITE,
        );
    }
}

fn frame_header(hash: &Hash, encoding: Encoding, plain_size: u32, stored_size: u32) -> [u8; 48] {
    let mut header = [0; 48];
    header[0..4].copy_from_slice(FRAME_MAGIC);
    header[4] = match encoding {
        Encoding::Plain => 0,
        Encoding::Zstd => 1,
    };
    header[8..12].copy_from_slice(&plain_size.to_le_bytes());
    header[12..16].copy_from_slice(&stored_size.to_le_bytes());
    header[16..48].copy_from_slice(hash);
    header
}
