//! From manifests to blocks: the order in which a document's parts are wanted.

use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use tokio::sync::mpsc;
use warren_telemetry::SourceType;

use super::engine::{Fetch, Finish, Got, Need, Wanted};
use super::{FetchSummary, RetrieveError};
use crate::core::block::MAX_BLOCK_BYTES;
use crate::core::id::DocumentId;
use crate::core::manifest::{ChunkRef, DirectoryEntry, Link, LinkRole, Manifest, PartRef};

/// Blocks wanted ahead of their reader; the planner's window decides how many of them are asked for.
const LOOKAHEAD: usize = 2048;
/// Blocks handed to the engine at a time.
const BATCH: usize = 256;
/// Guess for a manifest of which nothing is known.
const ROOT_SIZE_HINT: u32 = 64 * 1024;

/// Fetches the manifest at the root of `document`.
pub(super) async fn root(
    fetch: &mut Fetch,
    document: DocumentId,
) -> Result<Manifest, RetrieveError> {
    fetch
        .want(vec![Wanted {
            block: document.into(),
            size_hint: ROOT_SIZE_HINT,
            need: Need::Content,
        }])
        .await?;
    let got = fetch.next().await?;
    decode(document, document, &got)
}

/// The entries of a directory whose root is `root`, parts included.
pub(super) async fn entries(
    fetch: &mut Fetch,
    document: DocumentId,
    root: Manifest,
) -> Result<Vec<DirectoryEntry>, RetrieveError> {
    match root {
        Manifest::Directory { entries, .. } => Ok(entries),
        Manifest::File { .. } => Err(RetrieveError::NotADirectory { document }),
        Manifest::Tree { .. } => {
            let links: Vec<Link> = root.links().collect();
            let mut all = Vec::new();
            for link in links {
                fetch.want(vec![wanted(&link, Need::Content)]).await?;
                if let Manifest::Directory { entries, .. } =
                    decode_link(document, &link, &fetch.next().await?)?
                {
                    all.extend(entries);
                }
            }
            Ok(all)
        }
    }
}

/// Sends the bytes of `range` of the file `root` to `out`, in order, and concludes the fetch.
pub(super) async fn stream(
    mut fetch: Fetch,
    document: DocumentId,
    root: Manifest,
    range: Range<u64>,
    out: mpsc::Sender<Result<Bytes, RetrieveError>>,
) {
    let whole = range == (0..root.size());
    let result = match FileWalk::new(document, root, range)
        .run(&mut fetch, &out)
        .await
    {
        Ok(Reader::Gone) => return,
        Ok(Reader::Served) => {
            fetch
                .finish(if whole { Finish::List } else { Finish::Leave })
                .await
        }
        Err(error) => Err(error),
    };
    if let Err(error) = result {
        let _ = out.send(Err(error)).await;
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reader {
    Served,
    Gone,
}

/// A block that was wanted and not had yet, in order.
enum Pending {
    Part(Link, u64),
    /// With its size and what of it lies in the range.
    Chunk(u32, Range<usize>),
}

/// Walks the chunks of a file (or a tree of them) that overlap a range.
struct FileWalk {
    document: DocumentId,
    range: Range<u64>,
    /// Parts not wanted yet, each with the offset of its first byte.
    parts: VecDeque<(PartRef, u64)>,
    /// Chunks not wanted yet, each with the offset of its first byte.
    chunks: VecDeque<(ChunkRef, u64)>,
    pending: VecDeque<Pending>,
    part_pending: bool,
}

impl FileWalk {
    fn new(document: DocumentId, root: Manifest, range: Range<u64>) -> Self {
        let mut walk = Self {
            document,
            range,
            parts: VecDeque::new(),
            chunks: VecDeque::new(),
            pending: VecDeque::new(),
            part_pending: false,
        };
        match root {
            Manifest::Tree { parts, .. } => {
                let mut offset = 0;
                for part in parts {
                    if overlaps(&walk.range, offset, part.size) {
                        walk.parts.push_back((part, offset));
                    }
                    offset += part.size;
                }
            }
            file => walk.add_chunks(&file, 0),
        }
        walk
    }

    fn add_chunks(&mut self, manifest: &Manifest, mut offset: u64) {
        if let Manifest::File { chunks, .. } = manifest {
            for chunk in chunks {
                if overlaps(&self.range, offset, u64::from(chunk.size)) {
                    self.chunks.push_back((*chunk, offset));
                }
                offset += u64::from(chunk.size);
            }
        }
    }

    async fn run(
        mut self,
        fetch: &mut Fetch,
        out: &mpsc::Sender<Result<Bytes, RetrieveError>>,
    ) -> Result<Reader, RetrieveError> {
        loop {
            let batch = self.next_batch();
            if !batch.is_empty() {
                fetch.want(batch).await?;
                continue;
            }
            let Some(pending) = self.pending.pop_front() else {
                return Ok(Reader::Served);
            };
            let got = tokio::select! {
                got = fetch.next() => got?,
                () = out.closed() => return Ok(Reader::Gone),
            };
            match pending {
                Pending::Part(link, offset) => {
                    self.part_pending = false;
                    self.add_chunks(&decode_link(self.document, &link, &got)?, offset);
                }
                Pending::Chunk(size, take) => {
                    let content = got.content.unwrap_or_default();
                    // A chunk of another size than its manifest says is the manifest's lie, not the peer's.
                    if content.len() != size as usize {
                        return Err(RetrieveError::malformed(self.document));
                    }
                    if out.send(Ok(content.slice(take))).await.is_err() {
                        return Ok(Reader::Gone);
                    }
                }
            }
        }
    }

    /// What to want next: one part ahead of the chunks, chunks up to the look-ahead.
    fn next_batch(&mut self) -> Vec<Wanted> {
        let mut batch = Vec::new();
        // A part is asked for when the chunks of the one before it are about to be: it is there when they are done.
        if !self.part_pending
            && self.chunks.len() < LOOKAHEAD
            && let Some((part, offset)) = self.parts.pop_front()
        {
            let link = Link {
                id: part.id.into(),
                size: part.size,
                role: LinkRole::FilePart,
            };
            batch.push(wanted(&link, Need::Content));
            self.pending.push_back(Pending::Part(link, offset));
            self.part_pending = true;
        }
        // Refilled by halves, so that blocks are wanted in batches and not one by one.
        if self.pending.len() <= LOOKAHEAD / 2 {
            while batch.len() < BATCH
                && let Some((chunk, offset)) = self.chunks.pop_front()
            {
                batch.push(Wanted {
                    block: chunk.id.into(),
                    size_hint: chunk.size,
                    need: Need::Content,
                });
                self.pending
                    .push_back(Pending::Chunk(chunk.size, self.overlap(offset, chunk.size)));
            }
        }
        batch
    }

    /// The bytes of a chunk that lie in the range.
    fn overlap(&self, offset: u64, size: u32) -> Range<usize> {
        let start = self.range.start.saturating_sub(offset).min(u64::from(size));
        let end = self.range.end.saturating_sub(offset).min(u64::from(size));
        // Both are at most a chunk's size.
        start as usize..end as usize
    }
}

/// Gets every block below `document` into the store, and concludes the fetch.
pub(super) async fn fetch_all(
    mut fetch: Fetch,
    document: DocumentId,
) -> Result<FetchSummary, RetrieveError> {
    let mut summary = FetchSummary {
        document,
        size: 0,
        blocks: 0,
        fetched_blocks: 0,
        fetched_bytes: 0,
    };
    let mut todo = VecDeque::from([Link {
        id: document.into(),
        size: 0,
        role: LinkRole::Root,
    }]);
    let mut pending: VecDeque<Link> = VecDeque::new();
    loop {
        if !todo.is_empty() && pending.len() <= LOOKAHEAD / 2 {
            let links: Vec<Link> = todo.drain(..todo.len().min(LOOKAHEAD / 2)).collect();
            let need = |link: &Link| {
                if link.role == LinkRole::Chunk {
                    Need::Presence
                } else {
                    Need::Content
                }
            };
            fetch
                .want(links.iter().map(|link| wanted(link, need(link))).collect())
                .await?;
            pending.extend(links);
            continue;
        }
        let Some(link) = pending.pop_front() else {
            break;
        };
        let got = fetch.next().await?;
        summary.blocks += 1;
        if got.source != SourceType::Local {
            summary.fetched_blocks += 1;
            summary.fetched_bytes += u64::from(got.size);
        }
        if link.role != LinkRole::Chunk {
            let manifest = decode_link(document, &link, &got)?;
            if link.role == LinkRole::Root {
                summary.size = manifest.size();
            }
            todo.extend(manifest.links());
        }
    }
    fetch.finish(Finish::List).await?;
    Ok(summary)
}

fn overlaps(range: &Range<u64>, offset: u64, size: u64) -> bool {
    offset < range.end && range.start < offset.saturating_add(size)
}

fn decode(document: DocumentId, part: DocumentId, got: &Got) -> Result<Manifest, RetrieveError> {
    let content = got.content.as_deref().unwrap_or_default();
    Manifest::decode(content).map_err(|source| RetrieveError::Malformed {
        document,
        part,
        source,
    })
}

fn decode_link(document: DocumentId, link: &Link, got: &Got) -> Result<Manifest, RetrieveError> {
    let part = DocumentId::from_hash(*link.id.hash());
    let manifest = decode(document, part, got)?;
    manifest
        .check_link(link)
        .map_err(|source| RetrieveError::Malformed {
            document,
            part,
            source,
        })?;
    Ok(manifest)
}

fn wanted(link: &Link, need: Need) -> Wanted {
    Wanted {
        block: link.id,
        size_hint: size_hint(link),
        need,
    }
}

/// A chunk's size is in its link; a manifest's follows from the content below it.
fn size_hint(link: &Link) -> u32 {
    let bytes = match link.role {
        LinkRole::Chunk => link.size,
        // At most one chunk per 256 KiB, 47 bytes per chunk.
        LinkRole::FilePart | LinkRole::Member => 128 + (link.size / (256 * 1024) + 1) * 47,
        LinkRole::DirectoryPart => u64::from(MAX_BLOCK_BYTES),
        LinkRole::Root => u64::from(ROOT_SIZE_HINT),
    };
    u32::try_from(bytes)
        .unwrap_or(MAX_BLOCK_BYTES)
        .min(MAX_BLOCK_BYTES)
}
