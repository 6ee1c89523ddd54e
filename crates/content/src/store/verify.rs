//! Scrubbing: every block is read and checked against its name; what is damaged is set aside, so that a retrieval
//! fetches it again.

use std::ops::ControlFlow;

use crate::core::id::{BlockId, ChunkId, DocumentId};
use crate::store::Store;
use crate::store::error::ReadError;
use crate::store::index::{BLOCKS, Entry, Hash, Location, entry, successor};

/// Keys read from the index at a time.
const BATCH: usize = 256;
/// Documents read from the listing at a time.
const PAGE: usize = 256;

/// How far a scrub has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct VerifyProgress {
    /// Blocks looked at.
    pub blocks: u64,
    /// Blocks there are; may change while it runs.
    pub blocks_total: u64,
    /// Plain bytes checked.
    pub bytes: u64,
}

/// What a scrub found.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct VerifyReport {
    /// Blocks looked at.
    pub blocks: u64,
    /// Plain bytes checked.
    pub bytes: u64,
    /// Found damaged by this scrub, and set aside.
    pub corrupt: Vec<BlockId>,
    /// Missing before it, and needed by a document.
    pub missing: Vec<BlockId>,
    /// Listed documents that are not whole; [`Store::missing_blocks`] says what each lacks.
    pub incomplete: Vec<DocumentId>,
    /// Whether it looked at everything, or was stopped by its progress callback.
    pub finished: bool,
}

impl Store {
    /// Checks every block. Reads the whole store: run it on a blocking thread. `progress` is called after every 256
    /// blocks and stops the scrub by [`ControlFlow::Break`]. Puts and reads go on meanwhile.
    ///
    /// # Errors
    /// [`ReadError::Store`] if the disk or the index refuses; what was found before is set aside already.
    pub fn verify(
        &self,
        mut progress: impl FnMut(VerifyProgress) -> ControlFlow<()>,
    ) -> Result<VerifyReport, ReadError> {
        let mut report = VerifyReport::default();
        let mut from = Some([0; 32]);
        while let Some(first) = from {
            let batch = self.entries(first)?;
            from = batch
                .last()
                .filter(|_| batch.len() == BATCH)
                .and_then(|(hash, _)| successor(*hash));
            for (hash, entry) in &batch {
                self.verify_one(*hash, entry, &mut report)?;
            }
            let blocks_total = self.usage()?.blocks;
            let state = VerifyProgress {
                blocks: report.blocks,
                blocks_total,
                bytes: report.bytes,
            };
            if progress(state).is_break() {
                return Ok(report);
            }
        }
        report.finished = true;
        if !report.corrupt.is_empty() || !report.missing.is_empty() {
            report.incomplete = self.incomplete_documents()?;
        }
        Ok(report)
    }

    fn verify_one(
        &self,
        hash: Hash,
        entry: &Entry,
        report: &mut VerifyReport,
    ) -> Result<(), ReadError> {
        report.blocks += 1;
        let id = match entry.manifest_refs {
            0 => BlockId::Chunk(ChunkId::from_hash(hash)),
            _ => BlockId::Manifest(DocumentId::from_hash(hash)),
        };
        if entry.location == Location::Missing {
            report.missing.push(id);
            return Ok(());
        }
        match self.read_block(id) {
            // Set aside by a read just now, unless it was removed and collected since the batch was read.
            Ok(None) if self.is_indexed(&hash)? => report.missing.push(id),
            Ok(None) => {}
            Ok(Some(block)) => report.bytes += block.plain().len() as u64,
            Err(ReadError::Corrupt(id)) => report.corrupt.push(id),
            Err(error) => return Err(error),
        }
        Ok(())
    }

    fn is_indexed(&self, hash: &Hash) -> Result<bool, ReadError> {
        let shared = &self.inner.shared;
        Ok(shared
            .index
            .read(|transaction| entry(transaction, hash))?
            .is_some())
    }

    fn entries(&self, from: Hash) -> Result<Vec<(Hash, Entry)>, ReadError> {
        Ok(self.inner.shared.index.read(|transaction| {
            let blocks = transaction.open_table(BLOCKS)?;
            let mut batch = Vec::with_capacity(BATCH);
            for row in blocks.range(from..)?.take(BATCH) {
                let (hash, entry) = row?;
                batch.push((hash.value(), Entry::from_bytes(&entry.value())?));
            }
            Ok(batch)
        })?)
    }

    /// Listed documents with at least one block missing.
    fn incomplete_documents(&self) -> Result<Vec<DocumentId>, ReadError> {
        let mut incomplete = Vec::new();
        let mut cursor = None;
        loop {
            let page = self.documents(cursor, PAGE)?;
            for document in page.documents {
                match self.missing_blocks(document.id, 1) {
                    Ok(missing) if missing.is_empty() => {}
                    Ok(_) | Err(ReadError::Manifest { .. }) => incomplete.push(document.id),
                    Err(error) => return Err(error),
                }
            }
            match page.next {
                Some(next) => cursor = Some(next),
                None => return Ok(incomplete),
            }
        }
    }
}
