//! From manifests to blocks: the order in which a document's parts are wanted.
//!
//! A document is walked depth first, in the order of its bytes, so that a folder's first file comes before its last
//! manifest. What is held of it is bounded whatever its manifests say: the links of one manifest per level (a document is
//! at most five links deep), and of the manifests ahead as many links as [`LINKS_AHEAD`] allows. A manifest that comes
//! early and has more links than its size accounts for is dropped, and fetched again when its turn has come.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;
use std::vec::IntoIter;

use bytes::Bytes;
use tokio::sync::mpsc;
use warren_telemetry::SourceType;

use super::engine::{Fetch, Finish, Got, Need, Wanted};
use super::{DirectoryPiece, FetchSummary, RetrieveError};
use crate::core::block::MAX_BLOCK_BYTES;
use crate::core::chunker::MIN_CHUNK_BYTES;
use crate::core::id::DocumentId;
use crate::core::manifest::{
    ChunkRef, DirectoryEntry, Link, LinkRole, MAX_LINKS, Manifest, NameOrder, PartRef, TreeOf,
};

/// Blocks wanted ahead of their reader; the planner's window decides how many of them are asked for.
const LOOKAHEAD: usize = 8192;
/// Blocks handed to the engine at a time.
const BATCH: usize = 256;
/// Manifests of files wanted before the chunks of the files before them.
const MANIFESTS_AHEAD: usize = 2048;
/// Links that those may have together: no further one is wanted beyond it. 36 bytes each.
const LINKS_AHEAD: usize = 2 * MAX_LINKS;
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
    let links: Vec<Link> = match root {
        Manifest::Directory { entries, .. } => return Ok(entries),
        Manifest::File { .. } => return Err(RetrieveError::NotADirectory { document }),
        Manifest::Tree { .. } => root.links().collect(),
    };
    let mut all = Vec::new();
    for link in links {
        fetch.want(vec![wanted(&link, Need::Content)]).await?;
        let part = decode_link(document, &link, &fetch.next().await?)?;
        if let Manifest::Directory { entries, .. } = part {
            all.extend(entries);
        }
    }
    Ok(all)
}

/// Sends what the walk gives to `out`, in order, and concludes the fetch. The last piece goes out when that is done: whoever
/// has the last byte finds the document listed.
pub(super) async fn stream(
    mut fetch: Fetch,
    mut walk: Walk,
    out: mpsc::Sender<Result<DirectoryPiece, RetrieveError>>,
) {
    let finish = if walk.range.is_none() {
        Finish::List
    } else {
        Finish::Leave
    };
    let mut last = None;
    let result = loop {
        let piece = tokio::select! {
            piece = walk.next(&mut fetch) => piece,
            () = out.closed() => return,
        };
        match piece {
            Ok(Some(piece)) if walk.is_at_end() => last = Some(piece),
            Ok(Some(piece)) => {
                if out.send(Ok(piece)).await.is_err() {
                    return;
                }
            }
            Ok(None) => break fetch.finish(finish).await,
            Err(error) => break Err(error),
        }
    };
    if let Some(last) = last
        && out.send(Ok(last)).await.is_err()
    {
        return;
    }
    if let Err(error) = result {
        let _ = out.send(Err(error)).await;
    }
}

/// Gets every block below `document` into the store, and concludes the fetch.
pub(super) async fn fetch_all(
    mut fetch: Fetch,
    document: DocumentId,
) -> Result<FetchSummary, RetrieveError> {
    fetch
        .want(vec![Wanted {
            block: document.into(),
            size_hint: ROOT_SIZE_HINT,
            need: Need::Content,
        }])
        .await?;
    let got = fetch.next().await?;
    let root = decode(document, document, &got)?;
    let mut walk = Walk::new(document, root, None, Need::Presence);
    walk.count(&got);
    while walk.next(&mut fetch).await?.is_some() {}
    fetch.finish(Finish::List).await?;
    Ok(walk.summary)
}

/// A document on its way, as blocks wanted and pieces given.
pub(super) struct Walk {
    document: DocumentId,
    /// What of the document's bytes is walked; all of them without.
    range: Option<Range<u64>>,
    /// What is to come of its chunks.
    need: Need,
    /// What was not given or wanted yet, in the order of the document.
    nodes: VecDeque<Node>,
    /// Manifests that came before their turn.
    early: BTreeMap<u64, Manifest>,
    /// Wanted and not had yet, in the order wanted, with the files between them.
    pending: VecDeque<Pending>,
    /// Number of the next manifest to be wanted.
    next_number: u64,
    /// Manifests wanted and not opened yet, and the links they are expected to have.
    ahead: usize,
    links_ahead: usize,
    /// Manifests had since blocks were last wanted.
    had_manifests: usize,
    names: NameOrder,
    summary: FetchSummary,
}

enum Node {
    Manifest {
        child: Child,
        /// Of its first byte in the document.
        offset: u64,
        /// Under which it was wanted, if it was.
        number: Option<u64>,
    },
    Children {
        children: Children,
        /// Of the first byte of the first of them.
        offset: u64,
    },
}

enum Pending {
    Manifest {
        number: u64,
        link: Link,
    },
    /// With its size and what of it lies in the range.
    Chunk(u32, Range<usize>),
    /// The chunks that follow are this file's.
    File(DirectoryEntry),
}

/// What a manifest links to.
enum Child {
    Chunk(ChunkRef),
    Part(TreeOf, PartRef),
    File(DirectoryEntry),
}

/// The links of a manifest that are still to be looked at.
enum Children {
    Chunks(IntoIter<ChunkRef>),
    Parts(TreeOf, IntoIter<PartRef>),
    Files(IntoIter<DirectoryEntry>),
}

impl Walk {
    /// A walk of `range` of the document whose root is `root`, or of all of it.
    pub(super) fn new(
        document: DocumentId,
        root: Manifest,
        range: Option<Range<u64>>,
        need: Need,
    ) -> Self {
        let summary = FetchSummary {
            document,
            size: root.size(),
            blocks: 0,
            fetched_blocks: 0,
            fetched_bytes: 0,
        };
        let children = Children::of(root);
        Self {
            document,
            range,
            need,
            nodes: VecDeque::from([Node::Children {
                children,
                offset: 0,
            }]),
            early: BTreeMap::new(),
            pending: VecDeque::new(),
            next_number: 0,
            ahead: 0,
            links_ahead: 0,
            had_manifests: 0,
            names: NameOrder::default(),
            summary,
        }
    }

    /// The next piece; `None` at the end. Chunks that are only to be present are no pieces. Not cancel safe.
    pub(super) async fn next(
        &mut self,
        fetch: &mut Fetch,
    ) -> Result<Option<DirectoryPiece>, RetrieveError> {
        loop {
            self.want(fetch).await?;
            match self.pending.pop_front() {
                None => return Ok(None),
                Some(Pending::File(entry)) => return Ok(Some(DirectoryPiece::File(entry))),
                Some(Pending::Manifest { number, link }) => {
                    let got = fetch.next().await?;
                    self.count(&got);
                    self.take_manifest(number, decode_link(self.document, &link, &got)?);
                }
                Some(Pending::Chunk(size, take)) => {
                    let got = fetch.next().await?;
                    self.count(&got);
                    if self.need == Need::Presence {
                        continue;
                    }
                    let content = got.content.unwrap_or_default();
                    // A chunk of another size than its manifest says is the manifest's lie, not the peer's.
                    if content.len() != size as usize {
                        return Err(RetrieveError::malformed(self.document));
                    }
                    return Ok(Some(DirectoryPiece::Bytes(content.slice(take))));
                }
            }
        }
    }

    /// Whether nothing comes after what was given.
    fn is_at_end(&self) -> bool {
        self.pending.is_empty() && self.nodes.is_empty()
    }

    fn count(&mut self, got: &Got) {
        self.summary.blocks += 1;
        if got.source != SourceType::Local {
            self.summary.fetched_blocks += 1;
            self.summary.fetched_bytes += u64::from(got.size);
        }
    }

    /// Wants what can be wanted now.
    async fn want(&mut self, fetch: &mut Fetch) -> Result<(), RetrieveError> {
        // Manifests come in numbers: their chunks are wanted in batches too, and not one by one.
        let more_manifests = matches!(self.pending.front(), Some(Pending::Manifest { .. }));
        if more_manifests && self.had_manifests < BATCH / 4 {
            return Ok(());
        }
        self.had_manifests = 0;
        // Refilled by halves, for the same reason.
        if self.pending.len() > LOOKAHEAD / 2 {
            return Ok(());
        }
        while self.pending.len() < LOOKAHEAD {
            let mut batch = Vec::new();
            self.advance(&mut batch)?;
            self.look_ahead(&mut batch);
            if batch.is_empty() {
                break;
            }
            fetch.want(batch).await?;
        }
        Ok(())
    }

    /// Goes on at the front, until that is a manifest which is not here yet.
    fn advance(&mut self, batch: &mut Vec<Wanted>) -> Result<(), RetrieveError> {
        while batch.len() < BATCH {
            match self.nodes.front_mut() {
                None => break,
                Some(Node::Children { children, offset }) => {
                    match children.next_within(offset, self.range.as_ref()) {
                        None => drop(self.nodes.pop_front()),
                        Some((Child::Chunk(chunk), at)) => {
                            batch.push(Wanted {
                                block: chunk.id.into(),
                                size_hint: chunk.size,
                                need: self.need,
                            });
                            let take = overlap(self.range.as_ref(), at, chunk.size);
                            self.pending.push_back(Pending::Chunk(chunk.size, take));
                        }
                        Some((child, offset)) => self.nodes.push_front(Node::Manifest {
                            child,
                            offset,
                            number: None,
                        }),
                    }
                }
                Some(Node::Manifest {
                    number: Some(number),
                    ..
                }) => match self.early.remove(number) {
                    Some(manifest) => self.open_front(manifest)?,
                    None => break,
                },
                Some(Node::Manifest { number: None, .. }) => {
                    self.want_manifest(0, batch);
                    break;
                }
            }
        }
        Ok(())
    }

    /// The manifest at the front is here: its children take its place.
    fn open_front(&mut self, manifest: Manifest) -> Result<(), RetrieveError> {
        let Some(Node::Manifest { child, offset, .. }) = self.nodes.pop_front() else {
            return Ok(());
        };
        self.ahead -= 1;
        self.links_ahead -= child.expected_links();
        if let Child::File(entry) = child {
            // Each part of a directory is in order by itself; here they meet.
            self.names
                .next(&entry.name)
                .map_err(|source| RetrieveError::Malformed {
                    document: self.document,
                    part: self.document,
                    source,
                })?;
            self.pending.push_back(Pending::File(entry));
        }
        self.nodes.push_front(Node::Children {
            children: Children::of(manifest),
            offset,
        });
        Ok(())
    }

    /// Wants manifests of files that come after what is at the front.
    fn look_ahead(&mut self, batch: &mut Vec<Wanted>) {
        if self.ahead > MANIFESTS_AHEAD / 2 {
            return;
        }
        while self.ahead < MANIFESTS_AHEAD && self.links_ahead < LINKS_AHEAD {
            let first = self.nodes.iter_mut().enumerate().find_map(|(at, node)| {
                let Node::Children { children, offset } = node else {
                    return None;
                };
                if !children.can_be_early() {
                    return None;
                }
                let child = children.next_within(offset, self.range.as_ref())?;
                Some((at, child))
            });
            let Some((at, (child, offset))) = first else {
                break;
            };
            let node = Node::Manifest {
                child,
                offset,
                number: None,
            };
            self.nodes.insert(at, node);
            self.want_manifest(at, batch);
        }
    }

    fn want_manifest(&mut self, at: usize, batch: &mut Vec<Wanted>) {
        if let Some(Node::Manifest { child, number, .. }) = self.nodes.get_mut(at) {
            let link = child.link();
            batch.push(wanted(&link, Need::Content));
            *number = Some(self.next_number);
            self.pending.push_back(Pending::Manifest {
                number: self.next_number,
                link,
            });
            self.next_number += 1;
            self.ahead += 1;
            self.links_ahead += child.expected_links();
        }
    }

    fn take_manifest(&mut self, taken: u64, manifest: Manifest) {
        self.had_manifests += 1;
        let wanted_as =
            |node: &Node| matches!(node, Node::Manifest { number, .. } if *number == Some(taken));
        let is_due = self.nodes.front().is_some_and(wanted_as);
        if !is_due
            && let Some(Node::Manifest { child, number, .. }) =
                self.nodes.iter_mut().find(|node| wanted_as(node))
            && manifest.link_count() > child.expected_links()
        {
            *number = None;
            self.ahead -= 1;
            self.links_ahead -= child.expected_links();
            return;
        }
        self.early.insert(taken, manifest);
    }
}

impl Child {
    /// Where a manifest is to be found. Chunks are wanted without it.
    fn link(&self) -> Link {
        match self {
            Self::Chunk(chunk) => Link {
                id: chunk.id.into(),
                size: u64::from(chunk.size),
                role: LinkRole::Chunk,
            },
            Self::Part(of, part) => Link {
                id: part.id.into(),
                size: part.size,
                role: match of {
                    TreeOf::File => LinkRole::FilePart,
                    TreeOf::Directory => LinkRole::DirectoryPart,
                },
            },
            Self::File(entry) => Link {
                id: entry.id.into(),
                size: entry.size,
                role: LinkRole::Member,
            },
        }
    }

    /// Links of a file's manifest, if its chunks are no smaller than those made here.
    fn expected_links(&self) -> usize {
        let most = self.link().size / MIN_CHUNK_BYTES as u64 + 1;
        usize::try_from(most).unwrap_or(MAX_LINKS).min(MAX_LINKS)
    }
}

impl Children {
    fn of(manifest: Manifest) -> Self {
        match manifest {
            Manifest::File { chunks, .. } => Self::Chunks(chunks.into_iter()),
            Manifest::Directory { entries, .. } => Self::Files(entries.into_iter()),
            Manifest::Tree { of, parts, .. } => Self::Parts(of, parts.into_iter()),
        }
    }

    /// Whether these are manifests of files, whose size says how large they are.
    const fn can_be_early(&self) -> bool {
        matches!(self, Self::Files(_) | Self::Parts(TreeOf::File, _))
    }

    /// The next child that `range` touches, with where it begins; `offset` moves behind it.
    fn next_within(
        &mut self,
        offset: &mut u64,
        range: Option<&Range<u64>>,
    ) -> Option<(Child, u64)> {
        loop {
            let (child, size) = match self {
                Self::Chunks(chunks) => {
                    let chunk = chunks.next()?;
                    (Child::Chunk(chunk), u64::from(chunk.size))
                }
                Self::Parts(of, parts) => {
                    let part = parts.next()?;
                    (Child::Part(*of, part), part.size)
                }
                Self::Files(entries) => {
                    let entry = entries.next()?;
                    let size = entry.size;
                    (Child::File(entry), size)
                }
            };
            let at = *offset;
            // The sizes of a manifest add up to its own, which fits.
            *offset = at.saturating_add(size);
            if range.is_none_or(|range| at < range.end && range.start < *offset) {
                return Some((child, at));
            }
        }
    }
}

/// The bytes of a chunk at `offset` that lie in the range.
fn overlap(range: Option<&Range<u64>>, offset: u64, size: u32) -> Range<usize> {
    let Some(range) = range else {
        return 0..size as usize;
    };
    let start = range.start.saturating_sub(offset).min(u64::from(size));
    let end = range.end.saturating_sub(offset).min(u64::from(size));
    // Both are at most a chunk's size.
    start as usize..end as usize
}

fn decode(document: DocumentId, part: DocumentId, got: &Got) -> Result<Manifest, RetrieveError> {
    let content: &[u8] = got.content.as_ref().map_or(&[], Bytes::as_ref);
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
        LinkRole::FilePart | LinkRole::Member => {
            128 + (link.size / MIN_CHUNK_BYTES as u64 + 1).min(MAX_LINKS as u64) * 47
        }
        LinkRole::DirectoryPart => u64::from(MAX_BLOCK_BYTES),
        LinkRole::Root => u64::from(ROOT_SIZE_HINT),
    };
    u32::try_from(bytes)
        .unwrap_or(MAX_BLOCK_BYTES)
        .min(MAX_BLOCK_BYTES)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use super::*;
    use crate::core::id::ChunkId;

    fn id(number: usize) -> DocumentId {
        DocumentId::of(&number.to_le_bytes())
    }

    /// A directory of `count` files of `size` bytes each.
    fn directory(count: usize, size: u64) -> Manifest {
        let entries = (0..count)
            .map(|number| DirectoryEntry {
                name: format!("{number:06}"),
                id: id(number),
                size,
            })
            .collect();
        Manifest::Directory {
            size: size * count as u64,
            entries,
        }
    }

    /// A file of `count` chunks of one byte.
    fn crumbs(count: usize) -> Manifest {
        let chunk = ChunkRef {
            id: ChunkId::of(b"c"),
            size: 1,
        };
        Manifest::File {
            size: count as u64,
            chunks: vec![chunk; count],
        }
    }

    fn walk(root: Manifest) -> Walk {
        Walk::new(id(0), root, None, Need::Content)
    }

    /// What is wanted in one go.
    fn step(walk: &mut Walk) -> Vec<Wanted> {
        let mut batch = Vec::new();
        walk.advance(&mut batch).unwrap();
        walk.look_ahead(&mut batch);
        batch
    }

    #[test]
    fn given_a_directory_of_many_files_when_walked_then_only_so_many_manifests_are_wanted_ahead() {
        let mut walk = walk(directory(50_000, 10));
        assert_eq!(step(&mut walk).len(), MANIFESTS_AHEAD);
        assert_eq!(step(&mut walk).len(), 0);
        assert!(walk.nodes.len() <= MANIFESTS_AHEAD + 1);
    }

    #[test]
    fn given_files_with_large_manifests_when_walked_then_their_links_bound_what_is_wanted_ahead() {
        let half = MAX_LINKS as u64 / 2 * MIN_CHUNK_BYTES as u64;
        let mut walk = walk(directory(1000, half));
        let wanted = step(&mut walk).len();
        assert!((4..=5).contains(&wanted), "{wanted} manifests");
    }

    #[test]
    fn given_early_manifests_with_more_links_than_their_size_accounts_for_when_taken_then_they_are_not_kept()
     {
        let mut walk = walk(directory(1000, 60_000));
        let wanted = step(&mut walk).len();
        for number in 0..wanted as u64 {
            walk.take_manifest(number, crumbs(60_000));
        }
        assert_eq!(walk.early.len(), 1, "only the one whose turn it is");
        assert!(walk.links_ahead <= wanted);
    }

    #[test]
    fn given_a_file_in_parts_when_walked_then_its_chunks_come_before_those_of_the_next_file() {
        let mut walk = walk(directory(2, 4));
        assert_eq!(step(&mut walk).len(), 2);
        let parts = (10..12)
            .map(|number| PartRef {
                id: id(number),
                size: 2,
            })
            .collect();
        let tree = Manifest::Tree {
            size: 4,
            of: TreeOf::File,
            parts,
        };
        // The second file is here before the first one's parts.
        walk.take_manifest(1, crumbs(1));
        walk.take_manifest(0, tree);
        let wanted: Vec<_> = step(&mut walk).iter().map(|one| one.block).collect();
        assert_eq!(wanted, [id(10).into(), id(11).into()]);
        walk.take_manifest(2, crumbs(1));
        walk.take_manifest(3, crumbs(1));
        walk.pending.clear();
        step(&mut walk);
        let order: Vec<&str> = walk
            .pending
            .iter()
            .map(|pending| match pending {
                Pending::Chunk(..) => "chunk",
                Pending::File(_) => "file",
                Pending::Manifest { .. } => "manifest",
            })
            .collect();
        assert_eq!(order, ["chunk", "chunk", "file", "chunk"]);
    }
}
