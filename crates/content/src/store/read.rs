//! Reading what is here: blocks, manifests, ranges of a file, listings, and what is missing.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::Bytes;
use warren_identity::Signed;

use crate::core::block::{StoredBlock, VerifiedBlock};
use crate::core::id::{BlockId, DocumentId};
use crate::core::manifest::{Link, LinkRole, Manifest, ManifestError};
use crate::core::record::DocumentRecord;
use crate::store::error::{ReadError, StoreError};
use crate::store::index::{COUNTERS, DOCUMENTS, Listed, Location, ORDER, counter, document_of};
use crate::store::shared::Found;
use crate::store::writer::Change;
use crate::store::{Cursor, DocumentInfo, DocumentPage, Store, Usage};

/// Largest page of a listing.
const MAX_PAGE: usize = 1000;
/// Documents looked at for one page of those with a tag.
const TAG_SCAN: usize = 10_000;

impl Store {
    /// Stored bytes of a block as they go over the wire, unchecked beyond its framing: whoever receives them checks.
    ///
    /// # Errors
    /// [`ReadError::Corrupt`] if something else lies at its place, [`ReadError::Store`] if the disk refuses.
    pub fn block(&self, id: BlockId) -> Result<Option<StoredBlock>, ReadError> {
        match self.inner.shared.find(id)? {
            None => Ok(None),
            Some(Found::Block(block, _)) => Ok(Some(block)),
            Some(Found::Damaged(place)) => Err(self.set_aside(id, place)),
        }
    }

    /// Whether the block's bytes are here.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn has_block(&self, id: BlockId) -> Result<bool, ReadError> {
        Ok(self.inner.shared.contains(id.hash())?)
    }

    /// A block, checked against its name. A damaged one is set aside, so that it counts as missing from then on.
    ///
    /// # Errors
    /// As [`Self::block`].
    pub fn read_block(&self, id: BlockId) -> Result<Option<VerifiedBlock>, ReadError> {
        match self.inner.shared.find(id)? {
            None => Ok(None),
            Some(Found::Block(block, place)) => match block.verify(id) {
                Ok(verified) => Ok(Some(verified)),
                Err(_) => Err(self.set_aside(id, place)),
            },
            Some(Found::Damaged(place)) => Err(self.set_aside(id, place)),
        }
    }

    fn set_aside(&self, id: BlockId, found: Location) -> ReadError {
        self.inner.shared.metrics.corrupt_blocks.inc();
        tracing::error!(block = %id, "a block is damaged on disk and set aside");
        self.inner.shared.damaged().insert(*id.hash());
        if let Ok(writer) = self.inner.writer() {
            writer.change_later(Change::Quarantine {
                hash: *id.hash(),
                found,
            });
        }
        ReadError::Corrupt(id)
    }

    /// The decoded manifest of a document, or of a part of one.
    ///
    /// # Errors
    /// As [`Self::block`], and [`ReadError::Manifest`] if it breaks the format.
    pub fn manifest(&self, id: DocumentId) -> Result<Option<Manifest>, ReadError> {
        let Some(block) = self.read_block(id.into())? else {
            return Ok(None);
        };
        Manifest::decode(block.plain())
            .map(Some)
            .map_err(|source| ReadError::Manifest { id, source })
    }

    /// Verified pieces of `range` of a file, in order, each at most one block, from this store alone.
    ///
    /// # Errors
    /// At once if the document is not here, is a directory, or the range lies outside it; from the iterator, which ends
    /// with it, if a block is missing or damaged.
    pub fn read_range(&self, id: DocumentId, range: Range<u64>) -> Result<RangeReader, ReadError> {
        let manifest = self.manifest(id)?.ok_or(ReadError::UnknownDocument(id))?;
        if manifest.is_directory() {
            return Err(ReadError::IsDirectory(id));
        }
        let size = manifest.size();
        if range.start > range.end || range.end > size {
            return Err(ReadError::Range {
                start: range.start,
                end: range.end,
                size,
            });
        }
        let open = overlapping(&manifest, 0, &range);
        Ok(RangeReader {
            store: self.clone(),
            range,
            open,
        })
    }

    /// Blocks of the document that are not here, as deep as the manifests that are here reach; at most `limit`.
    ///
    /// # Errors
    /// [`ReadError`]; a damaged block is no error but missing.
    pub fn missing_blocks(&self, id: DocumentId, limit: usize) -> Result<Vec<BlockId>, ReadError> {
        let mut lookups = usize::MAX;
        let missing = self.find_missing(id, limit, &mut lookups)?;
        Ok(missing.unwrap_or_default())
    }

    /// Whether all blocks of the document are here. Looks at no more than `lookups` of them and takes those from it; what
    /// cannot be told within that counts as not whole.
    ///
    /// # Errors
    /// [`ReadError`]; a damaged block is no error but missing.
    pub fn is_whole(&self, id: DocumentId, lookups: &mut usize) -> Result<bool, ReadError> {
        let missing = self.find_missing(id, 1, lookups)?;
        Ok(missing.is_some_and(|missing| missing.is_empty()))
    }

    /// `None` where `lookups` did not suffice.
    fn find_missing(
        &self,
        id: DocumentId,
        limit: usize,
        lookups: &mut usize,
    ) -> Result<Option<Vec<BlockId>>, ReadError> {
        let mut missing = Vec::new();
        let mut seen = BTreeSet::new();
        let mut open = VecDeque::from([Link {
            id: id.into(),
            size: 0,
            role: LinkRole::Root,
        }]);
        while let Some(link) = open.pop_front() {
            if missing.len() >= limit {
                break;
            }
            match lookups.checked_sub(1) {
                Some(left) => *lookups = left,
                None => return Ok(None),
            }
            match link.id {
                // A chunk that is here is looked up at each of its places rather than remembered: there may be millions.
                BlockId::Chunk(_) if seen.contains(&link.id) || self.has_block(link.id)? => {}
                BlockId::Chunk(_) => {
                    seen.insert(link.id);
                    missing.push(link.id);
                }
                BlockId::Manifest(_) if !seen.insert(link.id) => {}
                BlockId::Manifest(manifest) => match self.manifest(manifest) {
                    Ok(Some(found)) => {
                        found
                            .check_link(&link)
                            .map_err(|source| ReadError::Manifest {
                                id: manifest,
                                source,
                            })?;
                        // Depth first: the queue holds one path and its siblings, not a whole level.
                        for child in found.links().collect::<Vec<_>>().into_iter().rev() {
                            open.push_front(child);
                        }
                    }
                    Ok(None) | Err(ReadError::Corrupt(_)) => missing.push(link.id),
                    Err(error) => return Err(error),
                },
            }
        }
        Ok(Some(missing))
    }

    /// Listed documents, newest first, at most `limit` and never more than 1,000.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn documents(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<DocumentPage, ReadError> {
        self.page(after, limit, MAX_PAGE, |id, row| Some(info(id, row)))
    }

    /// As [`Self::documents`], of those whose record carries `tag`. Looks at 10,000 documents at most: where `tag` is rare
    /// a page has fewer than `limit`, even none, and goes on all the same.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn documents_tagged(
        &self,
        tag: &str,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<DocumentPage, ReadError> {
        self.page(after, limit, TAG_SCAN, |id, row| {
            let record = row.record.as_deref().unwrap_or_default();
            if !may_carry(record, tag) {
                return None;
            }
            let document = info(id, row);
            let tags = &document.record.as_ref()?.value().tags;
            tags.iter().any(|has| has == tag).then_some(document)
        })
    }

    /// As [`Self::documents`], of those that are listed without a record. Looks at 10,000 documents at most: a page may have
    /// fewer than `limit`, even none, and goes on all the same.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn documents_without_record(
        &self,
        after: Option<Cursor>,
        limit: usize,
    ) -> Result<DocumentPage, ReadError> {
        self.page(after, limit, TAG_SCAN, |id, row| {
            row.record.is_none().then(|| info(id, row))
        })
    }

    /// Up to `limit` of the documents that `select` makes of rows, at most `scan` of them looked at.
    fn page(
        &self,
        after: Option<Cursor>,
        limit: usize,
        scan: usize,
        select: impl Fn(DocumentId, Listed) -> Option<DocumentInfo>,
    ) -> Result<DocumentPage, ReadError> {
        let limit = limit.clamp(1, MAX_PAGE);
        let below = after.map_or(u64::MAX, |Cursor(number)| number);
        Ok(self.inner.shared.index.read(|transaction| {
            let order = transaction.open_table(ORDER)?;
            let documents = transaction.open_table(DOCUMENTS)?;
            let mut page = DocumentPage {
                documents: Vec::new(),
                next: None,
            };
            for (scanned, row) in order.range(..below)?.rev().enumerate() {
                let (number, hash) = row?;
                if let Some(listed) = documents.get(hash.value())? {
                    let listed = Listed::from_bytes(listed.value())?;
                    page.documents
                        .extend(select(document_of(hash.value()), listed));
                }
                if page.documents.len() == limit || scanned + 1 == scan {
                    page.next = Some(Cursor(number.value()));
                    break;
                }
            }
            Ok(page)
        })?)
    }

    /// A listed document.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn document(&self, id: DocumentId) -> Result<Option<DocumentInfo>, ReadError> {
        let row = self.inner.shared.index.read(|transaction| {
            let documents = transaction.open_table(DOCUMENTS)?;
            let row = documents.get(*id.hash())?;
            Ok(row.map(|row| Listed::from_bytes(row.value())).transpose()?)
        })?;
        Ok(row.map(|row| info(id, row)))
    }

    /// Totals of the store.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the index fails.
    pub fn usage(&self) -> Result<Usage, ReadError> {
        let max_bytes = self.inner.max_bytes;
        Ok(self.inner.shared.index.read(|transaction| {
            let counters = transaction.open_table(COUNTERS)?;
            let total = |name| {
                counters
                    .get(name)
                    .map(|row| row.map_or(0, |row| row.value()))
            };
            Ok(Usage {
                stored_bytes: total(counter::STORED_BYTES)?,
                blocks: total(counter::BLOCKS)?,
                documents: total(counter::DOCUMENTS)?,
                max_bytes,
            })
        })?)
    }
}

/// Whether a record may carry a tag: its encoding holds a tag's bytes as they are. Spares checking the signature of those
/// that cannot.
fn may_carry(record: &[u8], tag: &str) -> bool {
    // No record carries an empty tag.
    !tag.is_empty()
        && record
            .windows(tag.len())
            .any(|window| window == tag.as_bytes())
}

fn info(id: DocumentId, row: Listed) -> DocumentInfo {
    // A row of our own index that does not verify is shown without its record rather than hidden.
    let record = row
        .record
        .and_then(|bytes| Signed::<DocumentRecord>::decode(&bytes).ok());
    DocumentInfo {
        id,
        origin: row.origin,
        added_at: row.added_at,
        is_directory: row.is_directory,
        size: row.size,
        record,
    }
}

/// Pieces of a file; see [`Store::read_range`].
pub struct RangeReader {
    store: Store,
    range: Range<u64>,
    /// What is still to be read, with where it begins in the file.
    open: VecDeque<(u64, Link)>,
}

impl Iterator for RangeReader {
    type Item = Result<Bytes, ReadError>;

    fn next(&mut self) -> Option<Self::Item> {
        while let Some((start, link)) = self.open.pop_front() {
            let piece = match link.id {
                BlockId::Chunk(_) => self.chunk(start, &link),
                BlockId::Manifest(id) => match self.part(id, start, &link) {
                    Ok(()) => continue,
                    Err(error) => Err(error),
                },
            };
            if piece.is_err() {
                self.open.clear();
            }
            return Some(piece);
        }
        None
    }
}

impl RangeReader {
    fn chunk(&self, start: u64, link: &Link) -> Result<Bytes, ReadError> {
        let block = self
            .store
            .read_block(link.id)?
            .ok_or(ReadError::Missing(link.id))?;
        let plain = block.into_plain();
        let from = self.range.start.saturating_sub(start).min(link.size);
        let to = self.range.end.saturating_sub(start).min(link.size);
        // Within 4 MiB, so within usize; a block of another size than its link says is refused below.
        match (usize::try_from(from), usize::try_from(to)) {
            (Ok(from), Ok(to)) if plain.len() as u64 == link.size => Ok(plain.slice(from..to)),
            _ => Err(ReadError::Corrupt(link.id)),
        }
    }

    fn part(&mut self, id: DocumentId, start: u64, link: &Link) -> Result<(), ReadError> {
        let manifest = self
            .store
            .manifest(id)?
            .ok_or(ReadError::Missing(link.id))?;
        let malformed = |source: ManifestError| ReadError::Manifest { id, source };
        manifest.check_link(link).map_err(malformed)?;
        let mut inner = overlapping(&manifest, start, &self.range);
        inner.append(&mut self.open);
        self.open = inner;
        Ok(())
    }
}

/// Links of a manifest that begins at `start` and that `range` touches, each with where it begins.
fn overlapping(manifest: &Manifest, start: u64, range: &Range<u64>) -> VecDeque<(u64, Link)> {
    let mut at = start;
    let mut found = VecDeque::new();
    for link in manifest.links() {
        let end = at.saturating_add(link.size);
        if at < range.end && end > range.start {
            found.push_back((at, link));
        }
        at = end;
    }
    found
}

impl From<crate::store::index::IndexError> for ReadError {
    fn from(error: crate::store::index::IndexError) -> Self {
        let error: StoreError = error.into_inner();
        Self::Store(error)
    }
}
