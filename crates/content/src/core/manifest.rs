//! The content manifest, version 1: which blocks make up a document, in DAG-CBOR with CID links.
//!
//! A manifest holds nothing but content: no title, no time, no owner. So equal bytes have equal ids on every node, and
//! the manifest's own id is the document's id.
//!
//! ```text
//! {"file":      {"size": N, "chunks":  [[CID raw, size], …]}}             a file: its chunks in order
//! {"directory": {"size": N, "entries": [["a/b.txt", CID dag-cbor, size], …]}}   members sorted by name (bytes)
//! {"tree":      {"size": N, "of": "file" | "directory", "parts": [[CID dag-cbor, size], …]}}
//! ```
//!
//! A `tree` stands for a manifest that would pass 4 MiB: its parts are `file` (or `directory`) manifests that read one
//! after the other. A file has a tree when it has more than 65,536 chunks, each part but the last holding exactly that
//! many. A directory is split before the entry that would bring the weight of a part (name bytes + 64 per entry) over
//! 4 MiB - 1 KiB. A tree never has a tree for a part, so that a document is at most five links deep.
//!
//! Decoding is strict: canonical DAG-CBOR only, bounded, sizes that add up, names that are safe to create below a
//! folder. It never panics.

use bytes::Bytes;
use cid::Cid;
use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::core::block::MAX_BLOCK_BYTES;
use crate::core::id::{BlockId, ChunkId, DocumentId};

/// Most links in one file manifest or tree: 47 bytes each at most, so 3 MiB encoded.
pub const MAX_LINKS: usize = 65_536;
/// Longest name of a directory entry, in bytes.
pub const MAX_NAME_BYTES: usize = 1024;
/// Longest part of a name between two slashes, as file systems have it.
pub const MAX_NAME_PART_BYTES: usize = 255;
/// What a directory manifest may weigh: name bytes + [`ENTRY_WEIGHT`] per entry.
const MAX_DIRECTORY_WEIGHT: usize = MAX_BLOCK_BYTES as usize - 1024;
/// Upper bound of an entry's encoding beside its name.
const ENTRY_WEIGHT: usize = 64;

/// A chunk of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ChunkRef {
    /// Its name.
    pub id: ChunkId,
    /// Plain bytes, 1 to 4 MiB.
    pub size: u32,
}

/// A part of a tree.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PartRef {
    /// The part's manifest.
    pub id: DocumentId,
    /// Bytes of content below it.
    pub size: u64,
}

/// A file in a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct DirectoryEntry {
    /// Relative path with `/` between its parts; see [`check_name`].
    pub name: String,
    /// The file's document.
    pub id: DocumentId,
    /// Bytes of the file.
    pub size: u64,
}

/// What the parts of a tree are.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TreeOf {
    /// Parts of one long file.
    File,
    /// Parts of one large directory.
    Directory,
}

/// A decoded manifest; a value that exists holds every rule of the format.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Manifest {
    /// A file, or a part of one.
    File {
        /// Sum of its chunks.
        size: u64,
        /// In order.
        chunks: Vec<ChunkRef>,
    },
    /// A directory, or a part of one.
    Directory {
        /// Sum of its entries.
        size: u64,
        /// Sorted by name.
        entries: Vec<DirectoryEntry>,
    },
    /// A document whose manifest would be larger than a block.
    Tree {
        /// Sum of its parts.
        size: u64,
        /// What the parts are.
        of: TreeOf,
        /// In order.
        parts: Vec<PartRef>,
    },
}

/// An encoded manifest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ManifestBlock {
    /// Its name.
    pub id: DocumentId,
    /// DAG-CBOR.
    pub bytes: Bytes,
}

/// What a link of a manifest leads to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LinkRole {
    /// A chunk of content.
    Chunk,
    /// A `file` manifest that is a part of a tree.
    FilePart,
    /// A `directory` manifest that is a part of a tree.
    DirectoryPart,
    /// A file of a directory: `file`, or a tree of them.
    Member,
    /// The document asked for: any manifest.
    Root,
}

/// One link of a manifest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Link {
    /// The block it names.
    pub id: BlockId,
    /// Bytes of content below it.
    pub size: u64,
    /// What must be found there.
    pub role: LinkRole,
}

/// Why bytes are no manifest, or a manifest cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum ManifestError {
    /// More than 4 MiB, or more links than a manifest may have.
    #[error("the manifest is larger than the format allows")]
    TooLarge,
    /// Not DAG-CBOR, not canonical, trailing bytes, or not one of the three kinds.
    #[error("the manifest is malformed: {0}")]
    Malformed(&'static str),
    /// Sizes that do not add up, or overflow.
    #[error("the sizes in the manifest do not add up")]
    Size,
    /// A name that is not safe to create below a folder, or given twice, or a file that is also a folder.
    #[error("directory entry `{name}`: {reason}")]
    Name {
        /// The offending name, shortened.
        name: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A link leads to a manifest of another kind or size than it says.
    #[error("a link of the manifest leads to something else than it says")]
    Link,
}

/// The serde shape; see the module's documentation.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "lowercase", deny_unknown_fields)]
enum Wire {
    File {
        size: u64,
        chunks: Vec<(Cid, u32)>,
    },
    Directory {
        size: u64,
        entries: Vec<(String, Cid, u64)>,
    },
    Tree {
        size: u64,
        of: TreeOf,
        parts: Vec<(Cid, u64)>,
    },
}

impl Manifest {
    /// Bytes of content below it.
    #[must_use]
    pub const fn size(&self) -> u64 {
        match self {
            Self::File { size, .. } | Self::Directory { size, .. } | Self::Tree { size, .. } => {
                *size
            }
        }
    }

    /// Whether the document is a directory.
    #[must_use]
    pub const fn is_directory(&self) -> bool {
        matches!(
            self,
            Self::Directory { .. }
                | Self::Tree {
                    of: TreeOf::Directory,
                    ..
                }
        )
    }

    /// Blocks it links to.
    #[must_use]
    pub const fn link_count(&self) -> usize {
        match self {
            Self::File { chunks, .. } => chunks.len(),
            Self::Directory { entries, .. } => entries.len(),
            Self::Tree { parts, .. } => parts.len(),
        }
    }

    /// Every block it links to, in order.
    pub fn links(&self) -> Box<dyn Iterator<Item = Link> + Send + '_> {
        match self {
            Self::File { chunks, .. } => Box::new(chunks.iter().map(|c| Link {
                id: c.id.into(),
                size: u64::from(c.size),
                role: LinkRole::Chunk,
            })),
            Self::Directory { entries, .. } => Box::new(entries.iter().map(|e| Link {
                id: e.id.into(),
                size: e.size,
                role: LinkRole::Member,
            })),
            Self::Tree { of, parts, .. } => {
                let role = match of {
                    TreeOf::File => LinkRole::FilePart,
                    TreeOf::Directory => LinkRole::DirectoryPart,
                };
                Box::new(parts.iter().map(move |p| Link {
                    id: p.id.into(),
                    size: p.size,
                    role,
                }))
            }
        }
    }

    /// Checks that this manifest is what `link` promised.
    ///
    /// # Errors
    /// [`ManifestError::Link`] where kind or size differ.
    pub fn check_link(&self, link: &Link) -> Result<(), ManifestError> {
        let kind = match link.role {
            LinkRole::Chunk => false,
            LinkRole::FilePart => matches!(self, Self::File { .. }),
            LinkRole::DirectoryPart => matches!(self, Self::Directory { .. }),
            LinkRole::Member => !self.is_directory(),
            LinkRole::Root => return Ok(()),
        };
        if kind && self.size() == link.size {
            Ok(())
        } else {
            Err(ManifestError::Link)
        }
    }

    /// Canonical DAG-CBOR, and its name.
    ///
    /// # Errors
    /// [`ManifestError`] where a rule of the format is broken: such a value cannot come from [`Self::decode`].
    pub fn encode(&self) -> Result<ManifestBlock, ManifestError> {
        self.check()?;
        let wire = match self {
            Self::File { size, chunks } => Wire::File {
                size: *size,
                chunks: chunks.iter().map(|c| (c.id.to_cid(), c.size)).collect(),
            },
            Self::Directory { size, entries } => Wire::Directory {
                size: *size,
                entries: entries
                    .iter()
                    .map(|e| (e.name.clone(), e.id.to_cid(), e.size))
                    .collect(),
            },
            Self::Tree { size, of, parts } => Wire::Tree {
                size: *size,
                of: *of,
                parts: parts.iter().map(|p| (p.id.to_cid(), p.size)).collect(),
            },
        };
        let bytes = serde_ipld_dagcbor::to_vec(&wire)
            .map_err(|_| ManifestError::Malformed("it does not encode"))?;
        if bytes.len() > MAX_BLOCK_BYTES as usize {
            return Err(ManifestError::TooLarge);
        }
        Ok(ManifestBlock {
            id: DocumentId::of(&bytes),
            bytes: bytes.into(),
        })
    }

    /// Strict decoding; the result holds every rule of the format.
    ///
    /// # Errors
    /// [`ManifestError`], whatever the bytes.
    pub fn decode(bytes: &[u8]) -> Result<Self, ManifestError> {
        if bytes.len() > MAX_BLOCK_BYTES as usize {
            return Err(ManifestError::TooLarge);
        }
        let wire: Wire = serde_ipld_dagcbor::from_slice(bytes)
            .map_err(|_| ManifestError::Malformed("it is no manifest"))?;
        let manifest = match wire {
            Wire::File { size, chunks } => Self::File {
                size,
                chunks: chunks
                    .into_iter()
                    .map(|(cid, size)| {
                        Ok(ChunkRef {
                            id: chunk_link(&cid)?,
                            size,
                        })
                    })
                    .collect::<Result<_, ManifestError>>()?,
            },
            Wire::Directory { size, entries } => Self::Directory {
                size,
                entries: entries
                    .into_iter()
                    .map(|(name, cid, size)| {
                        Ok(DirectoryEntry {
                            name,
                            id: manifest_link(&cid)?,
                            size,
                        })
                    })
                    .collect::<Result<_, ManifestError>>()?,
            },
            Wire::Tree { size, of, parts } => Self::Tree {
                size,
                of,
                parts: parts
                    .into_iter()
                    .map(|(cid, size)| {
                        Ok(PartRef {
                            id: manifest_link(&cid)?,
                            size,
                        })
                    })
                    .collect::<Result<_, ManifestError>>()?,
            },
        };
        // One document, one encoding: what does not come out the same was not canonical.
        if manifest.encode()?.bytes != bytes {
            return Err(ManifestError::Malformed("it is not canonical DAG-CBOR"));
        }
        Ok(manifest)
    }

    fn check(&self) -> Result<(), ManifestError> {
        match self {
            Self::File { size, chunks } => {
                if chunks.len() > MAX_LINKS {
                    return Err(ManifestError::TooLarge);
                }
                if chunks
                    .iter()
                    .any(|c| c.size == 0 || c.size > MAX_BLOCK_BYTES)
                {
                    return Err(ManifestError::Size);
                }
                check_sum(*size, chunks.iter().map(|c| u64::from(c.size)))
            }
            Self::Directory { size, entries } => {
                let weight: usize = entries.iter().map(|e| e.name.len() + ENTRY_WEIGHT).sum();
                if weight > MAX_DIRECTORY_WEIGHT {
                    return Err(ManifestError::TooLarge);
                }
                check_entries(entries)?;
                check_sum(*size, entries.iter().map(|e| e.size))
            }
            Self::Tree { size, parts, .. } => {
                if parts.len() > MAX_LINKS {
                    return Err(ManifestError::TooLarge);
                }
                if parts.len() < 2 {
                    return Err(ManifestError::Malformed("a tree has at least two parts"));
                }
                check_sum(*size, parts.iter().map(|p| p.size))
            }
        }
    }
}

fn check_sum(size: u64, mut parts: impl Iterator<Item = u64>) -> Result<(), ManifestError> {
    let sum = parts
        .try_fold(0_u64, u64::checked_add)
        .ok_or(ManifestError::Size)?;
    if sum == size {
        Ok(())
    } else {
        Err(ManifestError::Size)
    }
}

fn chunk_link(cid: &Cid) -> Result<ChunkId, ManifestError> {
    match BlockId::from_cid(cid) {
        Ok(BlockId::Chunk(id)) => Ok(id),
        _ => Err(ManifestError::Malformed("a link that is no chunk")),
    }
}

fn manifest_link(cid: &Cid) -> Result<DocumentId, ManifestError> {
    match BlockId::from_cid(cid) {
        Ok(BlockId::Manifest(id)) => Ok(id),
        _ => Err(ManifestError::Malformed("a link that is no manifest")),
    }
}

/// Whether `name` may be created below a folder: a relative path, `/` between its parts, no part empty, `.` or `..`,
/// no NUL, no part above 255 bytes, 1,024 bytes in all.
///
/// # Errors
/// [`ManifestError::Name`] with the reason.
pub fn check_name(name: &str) -> Result<(), ManifestError> {
    let refuse = |reason| Err(refused_name(name, reason));
    if name.is_empty() || name.len() > MAX_NAME_BYTES {
        return refuse("a name has 1 to 1024 bytes");
    }
    if name.starts_with('/') {
        return refuse("a name is relative, it never begins with a slash");
    }
    if name.contains('\0') {
        return refuse("a name never holds a NUL byte");
    }
    for part in name.split('/') {
        match part {
            "" | "." | ".." => return refuse("a name never has an empty part, `.` or `..`"),
            _ if part.len() > MAX_NAME_PART_BYTES => {
                return refuse("a part of the path is longer than 255 bytes");
            }
            _ => {}
        }
    }
    Ok(())
}

/// Whether `entries` can all be created below one folder: safe names, sorted, each once, no file that is also a
/// folder. For a directory in several parts, call it on all entries together.
///
/// # Errors
/// [`ManifestError::Name`] with the first offending name.
pub fn check_entries(entries: &[DirectoryEntry]) -> Result<(), ManifestError> {
    let mut names = NameOrder::default();
    entries.iter().try_for_each(|entry| names.next(&entry.name))
}

/// Checks the names of a directory one after the other, as [`check_entries`] does for all at once. Of the names before it
/// holds those that the last one begins with: no more than that has bytes.
#[derive(Debug, Default)]
pub struct NameOrder {
    last: Option<String>,
    /// Files whose name begins the last one, and may yet turn out to be a folder of one that follows.
    files: Vec<String>,
}

impl NameOrder {
    /// Takes the next name.
    ///
    /// # Errors
    /// [`ManifestError::Name`] if it cannot be created beside those before it.
    pub fn next(&mut self, name: &str) -> Result<(), ManifestError> {
        check_name(name)?;
        let Some(last) = self.last.replace(name.to_owned()) else {
            return Ok(());
        };
        if *last >= *name {
            return Err(refused_name(
                name,
                "entries are sorted by name, each name once",
            ));
        }
        // Whatever follows a name without beginning with it comes after everything in the folder of that name.
        self.files.push(last);
        self.files.retain(|file| name.starts_with(file.as_str()));
        match self
            .files
            .iter()
            .find(|file| name.as_bytes().get(file.len()) == Some(&b'/'))
        {
            Some(folder) => Err(refused_name(folder, "it is both a file and a folder")),
            None => Ok(()),
        }
    }
}

fn refused_name(name: &str, reason: &'static str) -> ManifestError {
    ManifestError::Name {
        name: name.chars().take(64).collect(),
        reason,
    }
}

/// Collects the chunks of a stream into its manifest, holding at most one part in memory.
#[derive(Debug)]
pub struct FileBuilder {
    max_links: usize,
    chunks: Vec<ChunkRef>,
    part_size: u64,
    size: u64,
    chunk_count: u64,
    parts: Vec<PartRef>,
}

impl Default for FileBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl FileBuilder {
    /// An empty file.
    #[must_use]
    pub const fn new() -> Self {
        Self::with_max_links(MAX_LINKS)
    }

    const fn with_max_links(max_links: usize) -> Self {
        Self {
            max_links,
            chunks: Vec::new(),
            part_size: 0,
            size: 0,
            chunk_count: 0,
            parts: Vec::new(),
        }
    }

    /// Bytes so far.
    #[must_use]
    pub const fn size(&self) -> u64 {
        self.size
    }

    /// Chunks so far.
    #[must_use]
    pub const fn chunk_count(&self) -> u64 {
        self.chunk_count
    }

    /// Appends a chunk; gives the manifest of a part whenever one is full, to be stored at once.
    ///
    /// # Errors
    /// [`ManifestError`] for a chunk no manifest can hold, or a file beyond 2^32 chunks.
    pub fn push(&mut self, chunk: ChunkRef) -> Result<Option<ManifestBlock>, ManifestError> {
        let full = if self.chunks.len() == self.max_links {
            Some(self.close_part()?)
        } else {
            None
        };
        self.size = self
            .size
            .checked_add(u64::from(chunk.size))
            .ok_or(ManifestError::Size)?;
        self.part_size += u64::from(chunk.size);
        self.chunk_count += 1;
        self.chunks.push(chunk);
        Ok(full)
    }

    /// Ends the file: the manifests still to be stored, the document's own last.
    ///
    /// # Errors
    /// [`ManifestError::TooLarge`] beyond 2^32 chunks.
    pub fn finish(mut self) -> Result<Vec<ManifestBlock>, ManifestError> {
        let last = self.close_part()?;
        if self.parts.len() == 1 {
            return Ok(vec![last]);
        }
        let root = Manifest::Tree {
            size: self.size,
            of: TreeOf::File,
            parts: self.parts,
        }
        .encode()?;
        Ok(vec![last, root])
    }

    fn close_part(&mut self) -> Result<ManifestBlock, ManifestError> {
        if self.parts.len() == MAX_LINKS {
            return Err(ManifestError::TooLarge);
        }
        let size = std::mem::take(&mut self.part_size);
        let block = Manifest::File {
            size,
            chunks: std::mem::take(&mut self.chunks),
        }
        .encode()?;
        self.parts.push(PartRef { id: block.id, size });
        Ok(block)
    }
}

/// The manifests of a directory, the document's own last. `entries` in any order.
///
/// # Errors
/// [`ManifestError`] for unsafe or clashing names, or sizes that overflow.
pub fn build_directory(entries: Vec<DirectoryEntry>) -> Result<Vec<ManifestBlock>, ManifestError> {
    build_directory_within(entries, MAX_DIRECTORY_WEIGHT)
}

fn build_directory_within(
    mut entries: Vec<DirectoryEntry>,
    max_weight: usize,
) -> Result<Vec<ManifestBlock>, ManifestError> {
    entries.sort();
    check_entries(&entries)?;
    let mut groups: Vec<Vec<DirectoryEntry>> = vec![Vec::new()];
    let mut weight = 0;
    for entry in entries {
        let more = entry.name.len() + ENTRY_WEIGHT;
        if weight + more > max_weight && weight > 0 {
            groups.push(Vec::new());
            weight = 0;
        }
        weight += more;
        if let Some(group) = groups.last_mut() {
            group.push(entry);
        }
    }
    let mut blocks = Vec::with_capacity(groups.len() + 1);
    let mut parts = Vec::with_capacity(groups.len());
    let mut total = 0_u64;
    for entries in groups {
        let size = entries
            .iter()
            .try_fold(0_u64, |sum, e| sum.checked_add(e.size))
            .ok_or(ManifestError::Size)?;
        total = total.checked_add(size).ok_or(ManifestError::Size)?;
        let block = Manifest::Directory { size, entries }.encode()?;
        parts.push(PartRef { id: block.id, size });
        blocks.push(block);
    }
    if parts.len() > 1 {
        blocks.push(
            Manifest::Tree {
                size: total,
                of: TreeOf::Directory,
                parts,
            }
            .encode()?,
        );
    }
    Ok(blocks)
}

#[cfg(test)]
mod tests;
