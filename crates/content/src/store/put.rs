//! The last step of a put: what is said of the document, signed and listed.

use std::path::PathBuf;

use warren_identity::{NodeKey, Signed, UnixMillis};

use crate::core::id::DocumentId;
use crate::core::record::DocumentRecord;
use crate::store::error::{PutError, StoreError};
use crate::store::ledger::{NewListing, Refusal};
use crate::store::writer::Change;
use crate::store::{Origin, PutOptions, PutReceipt, Retention, Store};

/// What was written of a document before it is listed.
#[derive(Debug)]
pub(super) struct PutContent {
    pub(super) document: DocumentId,
    pub(super) size: u64,
    pub(super) chunk_count: u64,
    pub(super) stored_bytes: u64,
    pub(super) file_count: u64,
    pub(super) skipped: Vec<PathBuf>,
}

impl Store {
    /// Lists what was put. Where the document is listed here already, what `options` do not name stays as it is; where
    /// they name nothing, the record stays as it is.
    pub(super) async fn list_put(
        &self,
        content: PutContent,
        options: PutOptions,
        key: &NodeKey,
    ) -> Result<PutReceipt, PutError> {
        let (store, document, now) = (self.clone(), content.document, options.now);
        let known = tokio::task::spawn_blocking(move || store.document(document))
            .await
            .map_err(|_| StoreError::Closed)?
            .map_err(|error| StoreError::Index(error.to_string()))?
            // Its retention has ended: it is as good as gone, and nobody who puts it now wants that to go on.
            .filter(|known| known.record.as_ref().is_none_or(|it| !has_ended(it, now)));
        let existed = known.is_some();
        let before = known.and_then(|known| Some((known.origin, known.record?)));
        let signed = match before {
            Some((Origin::Put, own))
                if options.names_nothing() && own.signer() == key.peer_id() =>
            {
                own
            }
            before => {
                let record = record(&content, options, before.as_ref());
                record.validate()?;
                Signed::sign(record, key)?
            }
        };
        let expires_at = signed.value().expires_at();
        let listing = NewListing {
            document,
            origin: Origin::Put,
            added_at: now,
            expires_at,
            record: Some(signed.to_bytes()),
        };
        let list = Change::List {
            listing,
            ends_lease: false,
        };
        match self.inner.writer()?.change(list).await {
            Ok(_) => {}
            Err(Refusal::Store(error)) => return Err(error.into()),
            Err(Refusal::Manifest(_, error)) => return Err(error.into()),
            // Only after a failed commit, which drops what was written but not acknowledged.
            Err(Refusal::Missing(_)) => {
                return Err(StoreError::Index(
                    "blocks of this put were lost to a disk error: put it again".to_owned(),
                )
                .into());
            }
        }
        Ok(PutReceipt {
            document,
            size: content.size,
            chunk_count: content.chunk_count,
            stored_bytes: content.stored_bytes,
            file_count: content.file_count,
            existed,
            title: signed.value().title.clone(),
            expires_at,
            skipped: content.skipped,
        })
    }
}

impl PutOptions {
    const fn names_nothing(&self) -> bool {
        self.title.is_none()
            && self.tags.is_none()
            && self.source_type.is_none()
            && self.retention.is_none()
    }
}

fn has_ended(record: &Signed<DocumentRecord>, now: UnixMillis) -> bool {
    record.value().expires_at().is_some_and(|at| at <= now)
}

/// What `options` say of the document; where they do not, what was said `before`.
fn record(
    content: &PutContent,
    options: PutOptions,
    before: Option<&(Origin, Signed<DocumentRecord>)>,
) -> DocumentRecord {
    let now = options.now;
    let earlier = before.map(|(_, signed)| signed.value());
    let title = options.title.or_else(|| {
        let titled = earlier.filter(|earlier| !earlier.title.is_empty());
        titled.map(|earlier| earlier.title.clone())
    });
    let mut tags = options
        .tags
        .or_else(|| earlier.map(|earlier| earlier.tags.clone()))
        .unwrap_or_default();
    tags.sort();
    tags.dedup();
    let retention_s = match options.retention {
        Some(Retention::UntilRemoved) => None,
        Some(Retention::Seconds(seconds)) => Some(seconds),
        // It ends when it would have ended, though this record is younger.
        None => earlier
            .and_then(DocumentRecord::expires_at)
            .map(|at| at.0.saturating_sub(now.0).div_ceil(1000)),
    };
    DocumentRecord {
        document: content.document,
        title: title.unwrap_or(options.default_title),
        tags,
        source_type: options
            .source_type
            .or_else(|| earlier.map(|earlier| earlier.source_type.clone()))
            .unwrap_or_default(),
        created_at: match before {
            Some((Origin::Put, own)) => own.value().created_at,
            // When *this* node first put it.
            _ => now,
        },
        updated_at: now,
        retention_s,
        size: content.size,
        chunk_count: content.chunk_count,
    }
}
