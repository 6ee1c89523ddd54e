//! One write transaction of the index: blocks come and go, documents are listed and dropped, references are counted.
//!
//! References: a listed document counts one on its manifest; a manifest that is counted at least once as a manifest
//! counts one on each of its links. So shared content is counted once per manifest, and dropping a document walks only
//! the part of it that nothing else needs.
//!
//! Entries are changed in memory and written back in order of hash ([`Ledger::write_back`]): hashes are random, and
//! sorted writes touch each page once.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use bytes::Bytes;
use redb::{ReadableTable as _, Table, WriteTransaction};
use warren_identity::UnixMillis;

use crate::core::block::StoredBlock;
use crate::core::id::{BlockId, DocumentId};
use crate::core::manifest::{Link, LinkRole, Manifest, ManifestError};
use crate::store::error::StoreError;
use crate::store::index::{
    BLOCKS, COUNTERS, DOCUMENTS, EXPIRY, Entry, FREED, GARBAGE, Hash, INLINE, IndexError, LEASED,
    LEASES, Listed, Location, ORDER, PACKS, REMOVED, counter, successor,
};
use crate::store::pack::FRAME_HEADER_BYTES;
use crate::store::shared::{PendingBlock, Shared};

/// Entries held in memory before they are written back: some 10 MiB.
const CACHED_ENTRIES: usize = 65_536;
/// Missing blocks named in one refusal; the rest shows once these are here.
const MISSING_NAMED: usize = 4096;

/// Why a change cannot be made. Nothing of it may be committed.
#[derive(Debug)]
pub(super) enum Refusal {
    /// The index or the disk failed.
    Store(StoreError),
    /// Blocks of the document are not here.
    Missing(Vec<BlockId>),
    /// A manifest of the document breaks the format.
    Manifest(DocumentId, ManifestError),
}

impl<E: Into<IndexError>> From<E> for Refusal {
    fn from(error: E) -> Self {
        Self::Store(error.into().into_inner())
    }
}

/// A document to be listed.
#[derive(Debug, Clone)]
pub(super) struct NewListing {
    pub(super) document: DocumentId,
    pub(super) origin: crate::store::Origin,
    pub(super) added_at: UnixMillis,
    pub(super) expires_at: Option<UnixMillis>,
    pub(super) record: Option<Vec<u8>>,
}

impl NewListing {
    /// Its record and when that ends, or else those of an earlier row.
    fn record_or_of(&self, earlier: Option<&Listed>) -> (Option<Vec<u8>>, Option<UnixMillis>) {
        match (&self.record, earlier) {
            (None, Some(earlier)) => (earlier.record.clone(), earlier.expires_at),
            (record, _) => (record.clone(), self.expires_at),
        }
    }
}

/// Dead stretches and packs to be given back once the transaction is durable.
#[derive(Debug, Default)]
pub(super) struct Reclaimable {
    /// Pack, offset, length.
    pub(super) stretches: Vec<(u64, u64, u64)>,
    pub(super) packs: Vec<u64>,
}

/// One step of a collection.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Collected {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
    /// Where the next step goes on; `None` at the end.
    pub(super) next: Option<Hash>,
}

#[derive(Debug, Clone, Copy)]
struct Cached {
    /// As the table has it.
    stored: Option<Entry>,
    /// As it will be.
    entry: Option<Entry>,
}

pub(super) struct Ledger<'t> {
    shared: &'t Shared,
    blocks: Table<'t, Hash, [u8; Entry::BYTES]>,
    inline: Table<'t, u64, &'static [u8]>,
    packs: Table<'t, u64, (u64, u64, u64)>,
    garbage: Table<'t, Hash, ()>,
    freed: Table<'t, (u64, u64), u64>,
    documents: Table<'t, Hash, &'static [u8]>,
    order: Table<'t, u64, Hash>,
    expiry: Table<'t, (u64, Hash), ()>,
    leases: Table<'t, Hash, u64>,
    leased: Table<'t, (Hash, Hash), ()>,
    removed: Table<'t, Hash, &'static [u8]>,
    counters: Table<'t, &'static str, u64>,
    cached: BTreeMap<Hash, Cached>,
    /// Changes to packs: live bytes and blocks to add and to subtract, and the new length of the active one.
    pack_changes: BTreeMap<u64, PackChange>,
    totals: Totals,
}

#[derive(Debug, Default)]
struct PackChange {
    length: Option<u64>,
    live_bytes: i64,
    live_blocks: i64,
}

/// Totals of the whole store.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) stored_bytes: u64,
    pub(super) blocks: u64,
    pub(super) documents: u64,
}

/// Bytes of the store that a block takes.
pub(super) const fn cost(entry: &Entry) -> u64 {
    match entry.location {
        Location::Missing => 0,
        Location::Inline(_) => entry.stored_size as u64,
        Location::Pack { .. } => entry.stored_size as u64 + FRAME_HEADER_BYTES,
    }
}

impl<'t> Ledger<'t> {
    pub(super) fn open(
        shared: &'t Shared,
        transaction: &'t WriteTransaction,
    ) -> Result<Self, IndexError> {
        let counters = transaction.open_table(COUNTERS)?;
        let total = |name| -> Result<u64, IndexError> {
            Ok(counters.get(name)?.map_or(0, |row| row.value()))
        };
        let totals = Totals {
            stored_bytes: total(counter::STORED_BYTES)?,
            blocks: total(counter::BLOCKS)?,
            documents: total(counter::DOCUMENTS)?,
        };
        Ok(Self {
            shared,
            blocks: transaction.open_table(BLOCKS)?,
            inline: transaction.open_table(INLINE)?,
            packs: transaction.open_table(PACKS)?,
            garbage: transaction.open_table(GARBAGE)?,
            freed: transaction.open_table(FREED)?,
            documents: transaction.open_table(DOCUMENTS)?,
            order: transaction.open_table(ORDER)?,
            expiry: transaction.open_table(EXPIRY)?,
            leases: transaction.open_table(LEASES)?,
            leased: transaction.open_table(LEASED)?,
            removed: transaction.open_table(REMOVED)?,
            counters,
            cached: BTreeMap::new(),
            pack_changes: BTreeMap::new(),
            totals,
        })
    }

    /// The last thing done: writes back what is still in memory.
    pub(super) fn finish(mut self) -> Result<Totals, IndexError> {
        self.write_back()?;
        let totals = self.totals;
        self.counters
            .insert(counter::STORED_BYTES, totals.stored_bytes)?;
        self.counters.insert(counter::BLOCKS, totals.blocks)?;
        self.counters.insert(counter::DOCUMENTS, totals.documents)?;
        Ok(totals)
    }

    fn next_number(&mut self, name: &'static str) -> Result<u64, IndexError> {
        let number = self.counters.get(name)?.map_or(1, |row| row.value());
        self.counters.insert(name, number + 1)?;
        Ok(number)
    }

    /// Reserves the number of a new pack.
    pub(super) fn next_pack(&mut self) -> Result<u64, IndexError> {
        self.next_number(counter::NEXT_PACK)
    }

    fn entry(&mut self, hash: &Hash) -> Result<Option<Entry>, IndexError> {
        if let Some(cached) = self.cached.get(hash) {
            return Ok(cached.entry);
        }
        let stored = self
            .blocks
            .get(hash)?
            .map(|row| Entry::from_bytes(&row.value()))
            .transpose()?;
        if self.cached.len() >= CACHED_ENTRIES {
            self.write_back()?;
        }
        self.cached.insert(
            *hash,
            Cached {
                stored,
                entry: stored,
            },
        );
        Ok(stored)
    }

    /// Changes an entry that [`Self::entry`] has just given.
    fn set_entry(&mut self, hash: &Hash, entry: Option<Entry>) {
        if let Some(cached) = self.cached.get_mut(hash) {
            cached.entry = entry;
        }
    }

    fn write_back(&mut self) -> Result<(), IndexError> {
        for (hash, Cached { stored, entry }) in std::mem::take(&mut self.cached) {
            // Lost and no longer needed: nothing is left of it.
            let entry =
                entry.filter(|entry| entry.is_referenced() || entry.location != Location::Missing);
            if entry == stored {
                continue;
            }
            let was_garbage = stored.is_some_and(|entry| !entry.is_referenced());
            let is_garbage = entry.is_some_and(|entry| !entry.is_referenced());
            match entry {
                Some(entry) => {
                    self.blocks.insert(hash, entry.to_bytes())?;
                    self.totals.blocks += u64::from(stored.is_none());
                }
                None => {
                    self.blocks.remove(hash)?;
                    self.removed.remove(hash)?;
                    self.totals.blocks = self
                        .totals
                        .blocks
                        .saturating_sub(u64::from(stored.is_some()));
                }
            }
            match (was_garbage, is_garbage) {
                (false, true) => {
                    self.garbage.insert(hash, ())?;
                }
                (true, false) => {
                    self.garbage.remove(hash)?;
                }
                _ => {}
            }
        }
        for (pack, change) in std::mem::take(&mut self.pack_changes) {
            let (length, bytes, blocks) =
                self.packs.get(pack)?.map_or((0, 0, 0), |row| row.value());
            let bytes = bytes.saturating_add_signed(change.live_bytes);
            let blocks = blocks.saturating_add_signed(change.live_blocks);
            self.packs
                .insert(pack, (change.length.unwrap_or(length), bytes, blocks))?;
        }
        Ok(())
    }

    /// Notes how far the active pack is written.
    pub(super) fn set_pack_length(&mut self, pack: u64, length: u64) {
        self.pack_changes.entry(pack).or_default().length = Some(length);
    }

    /// Takes over blocks that are written but not indexed.
    pub(super) fn add_pending(
        &mut self,
        pending: &HashMap<Hash, PendingBlock>,
    ) -> Result<(), IndexError> {
        let mut sorted: Vec<_> = pending.iter().collect();
        sorted.sort_unstable_by_key(|(hash, _)| **hash);
        for (hash, block) in sorted {
            let known = self.entry(hash)?;
            let mut entry = block.entry;
            if let Some(known) = known {
                if known.location != Location::Missing {
                    if !self.shared.damaged().contains(hash) {
                        continue;
                    }
                    self.free(&known)?;
                }
                entry.chunk_refs = known.chunk_refs;
                entry.manifest_refs = known.manifest_refs;
            }
            if let Some(bytes) = &block.inline {
                let number = self.next_number(counter::NEXT_INLINE)?;
                self.inline.insert(number, bytes.as_ref())?;
                entry.location = Location::Inline(number);
            }
            if let Location::Pack { pack, .. } = entry.location {
                let change = self.pack_changes.entry(pack).or_default();
                change.live_bytes += cost(&entry).cast_signed();
                change.live_blocks += 1;
            }
            self.totals.stored_bytes += cost(&entry);
            self.set_entry(hash, Some(entry));
        }
        Ok(())
    }

    /// Lists a document, or renews its row if it is listed.
    pub(super) fn list(&mut self, new: &NewListing) -> Result<(), Refusal> {
        let hash = *new.document.hash();
        let manifest = self.root(new.document)?;
        let known = self
            .documents
            .get(hash)?
            .map(|row| Listed::from_bytes(row.value()))
            .transpose()?;
        let row = match known {
            // What was put here keeps its own record, whatever comes from elsewhere.
            Some(known)
                if known.origin == crate::store::Origin::Put && new.origin != known.origin =>
            {
                known
            }
            Some(known) => {
                self.forget_expiry(hash, &known)?;
                let (record, expires_at) = new.record_or_of(Some(&known));
                Listed {
                    origin: new.origin,
                    expires_at,
                    record,
                    ..known
                }
            }
            None => {
                self.reference(new.document)?;
                self.totals.documents += 1;
                let number = self.next_number(counter::NEXT_ORDER)?;
                self.order.insert(number, hash)?;
                let removed = self
                    .removed
                    .remove(hash)?
                    .map(|row| Listed::from_bytes(row.value()))
                    .transpose()?;
                let (record, expires_at) = new.record_or_of(removed.as_ref());
                Listed {
                    origin: new.origin,
                    added_at: new.added_at,
                    number,
                    is_directory: manifest.is_directory(),
                    size: manifest.size(),
                    expires_at,
                    record,
                }
            }
        };
        if let Some(UnixMillis(at)) = row.expires_at {
            self.expiry.insert((at, hash), ())?;
        }
        self.documents.insert(hash, row.to_bytes()?.as_slice())?;
        Ok(())
    }

    /// Gives a document that is listed without a record its record; `false` if there is none such.
    pub(super) fn complete(
        &mut self,
        document: DocumentId,
        record: &[u8],
        expires_at: Option<UnixMillis>,
    ) -> Result<bool, IndexError> {
        let hash = *document.hash();
        let known = self
            .documents
            .get(hash)?
            .map(|row| Listed::from_bytes(row.value()))
            .transpose()?;
        let Some(known) = known.filter(|known| known.record.is_none()) else {
            return Ok(false);
        };
        let row = Listed {
            record: Some(record.to_vec()),
            expires_at,
            ..known
        };
        if let Some(UnixMillis(at)) = expires_at {
            self.expiry.insert((at, hash), ())?;
        }
        self.documents.insert(hash, row.to_bytes()?.as_slice())?;
        Ok(true)
    }

    fn root(&mut self, document: DocumentId) -> Result<Manifest, Refusal> {
        let entry = self
            .entry(document.hash())?
            .filter(|entry| entry.location != Location::Missing);
        let Some(entry) = entry else {
            return Err(Refusal::Missing(vec![document.into()]));
        };
        self.manifest(document, &entry)
    }

    /// Drops a document from the listing; `false` if it was not there.
    pub(super) fn unlist(&mut self, document: DocumentId) -> Result<bool, Refusal> {
        let hash = *document.hash();
        let Some(row) = self
            .documents
            .remove(hash)?
            .map(|row| Listed::from_bytes(row.value()))
            .transpose()?
        else {
            return Ok(false);
        };
        self.order.remove(row.number)?;
        self.forget_expiry(hash, &row)?;
        self.totals.documents = self.totals.documents.saturating_sub(1);
        if row.record.is_some() {
            // Listed again from what is still here, it is what it was.
            self.removed.insert(hash, row.to_bytes()?.as_slice())?;
        }
        self.dereference(document)?;
        Ok(true)
    }

    /// Drops every document whose retention has ended at `now`, at most `limit`.
    pub(super) fn expire(
        &mut self,
        now: UnixMillis,
        limit: usize,
    ) -> Result<Vec<DocumentId>, Refusal> {
        let mut due = Vec::new();
        for row in self.expiry.range(..=(now.0, [0xff; 32]))?.take(limit) {
            let (_, hash) = row?.0.value();
            due.push(DocumentId::from_hash(hash));
        }
        for document in &due {
            self.unlist(*document)?;
        }
        Ok(due)
    }

    fn forget_expiry(&mut self, hash: Hash, row: &Listed) -> Result<(), IndexError> {
        if let Some(UnixMillis(at)) = row.expires_at {
            self.expiry.remove((at, hash))?;
        }
        Ok(())
    }

    fn reference(&mut self, document: DocumentId) -> Result<(), Refusal> {
        let mut missing = BTreeSet::new();
        let mut open = vec![Link {
            id: document.into(),
            size: 0,
            role: LinkRole::Root,
        }];
        while let Some(link) = open.pop() {
            let hash = *link.id.hash();
            let Some(mut entry) = self
                .entry(&hash)?
                .filter(|entry| entry.location != Location::Missing)
            else {
                missing.insert(link.id);
                if missing.len() >= MISSING_NAMED {
                    break;
                }
                continue;
            };
            match link.id {
                BlockId::Chunk(_) => {
                    if u64::from(entry.plain_size) != link.size {
                        return Err(Refusal::Manifest(document, ManifestError::Link));
                    }
                    entry.chunk_refs = counted(entry.chunk_refs.checked_add(1))?;
                }
                BlockId::Manifest(id) => {
                    let manifest = self.manifest(id, &entry)?;
                    manifest
                        .check_link(&link)
                        .map_err(|error| Refusal::Manifest(id, error))?;
                    if entry.manifest_refs == 0 {
                        open.extend(manifest.links());
                    }
                    entry.manifest_refs = counted(entry.manifest_refs.checked_add(1))?;
                }
            }
            self.set_entry(&hash, Some(entry));
        }
        if missing.is_empty() {
            Ok(())
        } else {
            Err(Refusal::Missing(missing.into_iter().collect()))
        }
    }

    fn dereference(&mut self, document: DocumentId) -> Result<(), Refusal> {
        let mut open: Vec<BlockId> = vec![document.into()];
        while let Some(id) = open.pop() {
            let Some(mut entry) = self.entry(id.hash())? else {
                continue;
            };
            match id {
                BlockId::Chunk(_) => entry.chunk_refs = entry.chunk_refs.saturating_sub(1),
                BlockId::Manifest(manifest) => {
                    if entry.manifest_refs == 1 {
                        match self.manifest(manifest, &entry) {
                            Ok(manifest) => open.extend(manifest.links().map(|link| link.id)),
                            // Without the manifest nobody can tell what it counted on: those blocks stay.
                            Err(Refusal::Missing(_) | Refusal::Manifest(..)) => {
                                tracing::warn!(%manifest, "a damaged manifest is dropped; its blocks stay in the store");
                            }
                            Err(refusal @ Refusal::Store(_)) => return Err(refusal),
                        }
                    }
                    entry.manifest_refs = entry.manifest_refs.saturating_sub(1);
                }
            }
            self.set_entry(id.hash(), Some(entry));
        }
        Ok(())
    }

    /// Reads and checks a manifest of the store.
    fn manifest(&self, id: DocumentId, entry: &Entry) -> Result<Manifest, Refusal> {
        let block = StoredBlock {
            encoding: entry.encoding,
            plain_size: entry.plain_size,
            bytes: self
                .bytes(id.hash(), entry)?
                .ok_or_else(|| Refusal::Missing(vec![id.into()]))?,
        };
        let verified = block
            .verify(id.into())
            .map_err(|_| Refusal::Missing(vec![id.into()]))?;
        Manifest::decode(verified.plain()).map_err(|error| Refusal::Manifest(id, error))
    }

    fn bytes(&self, hash: &Hash, entry: &Entry) -> Result<Option<Bytes>, IndexError> {
        match entry.location {
            Location::Missing => Ok(None),
            Location::Inline(number) => Ok(self
                .inline
                .get(number)?
                .map(|row| Bytes::copy_from_slice(row.value()))),
            Location::Pack { pack, offset } => Ok(self
                .shared
                .packs
                .read(pack, offset, hash, entry)
                .map_err(|error| self.shared.io("read a manifest", error))?),
        }
    }

    /// Begins or renews a lease.
    pub(super) fn set_lease(
        &mut self,
        document: DocumentId,
        until: UnixMillis,
    ) -> Result<(), IndexError> {
        self.leases.insert(*document.hash(), until.0)?;
        Ok(())
    }

    /// Ends a lease.
    pub(super) fn end_lease(&mut self, document: DocumentId) -> Result<(), IndexError> {
        let hash = *document.hash();
        self.leases.remove(hash)?;
        self.leased
            .retain_in((hash, [0; 32])..=(hash, [0xff; 32]), |_, ()| false)?;
        Ok(())
    }

    /// Puts blocks under a lease; gives those that are not here.
    pub(super) fn hold(
        &mut self,
        document: DocumentId,
        ids: &[BlockId],
    ) -> Result<Vec<BlockId>, IndexError> {
        let mut absent = Vec::new();
        for id in ids {
            match self.entry(id.hash())? {
                Some(entry) if entry.location != Location::Missing => {
                    self.leased.insert((*document.hash(), *id.hash()), ())?;
                }
                _ => absent.push(*id),
            }
        }
        Ok(absent)
    }

    /// Sets a damaged block aside, if it is still where it was found damaged.
    pub(super) fn quarantine(&mut self, hash: &Hash, found: Location) -> Result<bool, IndexError> {
        match self.entry(hash)? {
            Some(entry) if entry.location == found && found != Location::Missing => {
                self.free(&entry)?;
                self.set_entry(
                    hash,
                    Some(Entry {
                        location: Location::Missing,
                        stored_size: 0,
                        ..entry
                    }),
                );
                Ok(true)
            }
            _ => Ok(false),
        }
    }

    /// Forgets up to `limit` blocks that nothing needs, from `from` on.
    pub(super) fn collect(
        &mut self,
        now: UnixMillis,
        from: Hash,
        limit: usize,
        pins: &HashMap<Hash, u32>,
    ) -> Result<Collected, IndexError> {
        self.write_back()?;
        let held = self.held_by_leases(now)?;
        let mut hashes = Vec::with_capacity(limit);
        for row in self.garbage.range(from..)?.take(limit) {
            hashes.push(row?.0.value());
        }
        let mut collected = Collected {
            next: None,
            ..Collected::default()
        };
        if hashes.len() == limit {
            collected.next = hashes.last().copied().and_then(successor);
        }
        for hash in hashes {
            if pins.contains_key(&hash) || held.contains(&hash) {
                continue;
            }
            if let Some(entry) = self.entry(&hash)? {
                self.free(&entry)?;
                collected.blocks += 1;
                collected.bytes += cost(&entry);
            }
            self.set_entry(&hash, None);
        }
        Ok(collected)
    }

    fn held_by_leases(&mut self, now: UnixMillis) -> Result<BTreeSet<Hash>, IndexError> {
        let mut ended = Vec::new();
        for row in self.leases.iter()? {
            let (document, until) = row?;
            if until.value() <= now.0 {
                ended.push(DocumentId::from_hash(document.value()));
            }
        }
        for document in ended {
            self.end_lease(document)?;
        }
        // A block that came after its lease ended has nobody to end its hold: without a lease it is not held.
        let mut held = BTreeSet::new();
        let mut orphans = BTreeSet::new();
        for row in self.leased.iter()? {
            let (document, block) = row?.0.value();
            if self.leases.get(document)?.is_some() {
                held.insert(block);
            } else {
                orphans.insert(document);
            }
        }
        for document in orphans {
            self.end_lease(DocumentId::from_hash(document))?;
        }
        Ok(held)
    }

    fn free(&mut self, entry: &Entry) -> Result<(), IndexError> {
        self.totals.stored_bytes = self.totals.stored_bytes.saturating_sub(cost(entry));
        match entry.location {
            Location::Missing => {}
            Location::Inline(number) => {
                self.inline.remove(number)?;
            }
            Location::Pack { pack, offset } => {
                self.freed.insert((pack, offset), cost(entry))?;
                let change = self.pack_changes.entry(pack).or_default();
                change.live_bytes -= cost(entry).cast_signed();
                change.live_blocks -= 1;
            }
        }
        Ok(())
    }

    /// What may be given back to the file system once this transaction is durable: all of it if nothing is `active`.
    pub(super) fn reclaimable(&mut self, active: Option<u64>) -> Result<Reclaimable, IndexError> {
        self.write_back()?;
        let mut reclaimable = Reclaimable::default();
        for row in self.packs.iter()? {
            let (number, state) = row?;
            if state.value().2 == 0 && Some(number.value()) != active {
                reclaimable.packs.push(number.value());
            }
        }
        for row in self.freed.iter()? {
            let (place, length) = row?;
            let (pack, offset) = place.value();
            if reclaimable.packs.binary_search(&pack).is_ok() {
                continue;
            }
            match reclaimable.stretches.last_mut() {
                // Neighbours become one hole, so that pages torn between two blocks are freed as well.
                Some(last) if last.0 == pack && last.1 + last.2 == offset => {
                    last.2 += length.value();
                }
                _ => reclaimable.stretches.push((pack, offset, length.value())),
            }
        }
        Ok(reclaimable)
    }

    /// Forgets what has been given back.
    pub(super) fn forget(&mut self, given_back: &Reclaimable) -> Result<(), IndexError> {
        for (pack, offset, length) in &given_back.stretches {
            self.freed
                .retain_in((*pack, *offset)..(*pack, offset + length), |_, _| false)?;
        }
        for pack in &given_back.packs {
            self.packs.remove(*pack)?;
            self.freed
                .retain_in((*pack, 0)..=(*pack, u64::MAX), |_, _| false)?;
        }
        Ok(())
    }
}

fn counted(count: Option<u32>) -> Result<u32, StoreError> {
    count.ok_or_else(|| {
        StoreError::Index("a block is referenced more than 4 billion times".to_owned())
    })
}
