//! What is known of a document beside its content: signed by the node that put it, and kept apart from the manifest so
//! that equal bytes keep equal ids.

use serde::{Deserialize, Serialize};
use thiserror::Error;
use warren_identity::{PeerId, SignedPayload, UnixMillis};

use crate::core::id::DocumentId;

/// Longest title, in bytes of UTF-8.
pub const MAX_TITLE_BYTES: usize = 1024;
/// Most tags on one document.
pub const MAX_TAGS: usize = 64;
/// Longest tag, in bytes of UTF-8.
pub const MAX_TAG_BYTES: usize = 128;
/// Longest source type, in bytes of UTF-8.
pub const MAX_SOURCE_TYPE_BYTES: usize = 64;

/// A document's metadata, version 1. Travels as `Signed<DocumentRecord>`, signed by the node that put the document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DocumentRecord {
    /// Which document.
    pub document: DocumentId,
    /// For people; may be empty.
    pub title: String,
    /// Sorted, without duplicates.
    pub tags: Vec<String>,
    /// Where it comes from, for instance `contract`; may be empty.
    pub source_type: String,
    /// When this node first put it.
    pub created_at: UnixMillis,
    /// When this record was made.
    pub updated_at: UnixMillis,
    /// Seconds after `updated_at` at which it may be dropped; `None`: kept until removed.
    pub retention_s: Option<u64>,
    /// Bytes of content, all files of a directory together.
    pub size: u64,
    /// Chunks it consists of, counted once per use.
    pub chunk_count: u64,
}

/// Why a record is refused.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RecordError {
    /// A text is longer than the format allows, or holds control characters.
    #[error("the {field} is longer than {limit} bytes or holds control characters: shorten it")]
    Text {
        /// Which field.
        field: &'static str,
        /// Its limit in bytes.
        limit: usize,
    },
    /// Too many tags, or unsorted, or one twice.
    #[error("a document carries at most {MAX_TAGS} tags, each once")]
    Tags,
}

impl DocumentRecord {
    /// Checks every limit of the format. A record from elsewhere is used only after this.
    ///
    /// # Errors
    /// The first limit that is broken.
    pub fn validate(&self) -> Result<(), RecordError> {
        check_text("title", &self.title, MAX_TITLE_BYTES)?;
        check_text("source type", &self.source_type, MAX_SOURCE_TYPE_BYTES)?;
        for tag in &self.tags {
            check_text("tag", tag, MAX_TAG_BYTES)?;
        }
        let sorted = self.tags.windows(2).all(|pair| pair[0] < pair[1]);
        if self.tags.len() > MAX_TAGS || !sorted || self.tags.iter().any(String::is_empty) {
            return Err(RecordError::Tags);
        }
        Ok(())
    }

    /// When the document may be dropped, if ever. A time beyond the clock's range means never.
    #[must_use]
    pub fn expires_at(&self) -> Option<UnixMillis> {
        self.retention_s?
            .checked_mul(1000)?
            .checked_add(self.updated_at.0)
            .map(UnixMillis)
    }
}

fn check_text(field: &'static str, text: &str, limit: usize) -> Result<(), RecordError> {
    if text.len() > limit || text.chars().any(char::is_control) {
        return Err(RecordError::Text { field, limit });
    }
    Ok(())
}

impl SignedPayload for DocumentRecord {
    const DOMAIN: &'static str = "warren/document-record/v1";

    /// Any member may speak for any document: ids are hashes, and a record grants nothing.
    fn check(&self, _signer: &PeerId) -> Result<(), &'static str> {
        self.validate().map_err(|error| match error {
            RecordError::Text { .. } => "a text is too long or holds control characters",
            RecordError::Tags => "too many tags, or unsorted, or one twice",
        })
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use warren_identity::{NodeKey, Signed};

    use super::*;

    fn record() -> DocumentRecord {
        DocumentRecord {
            document: DocumentId::of(b"manifest"),
            title: "Annual report".to_owned(),
            tags: vec!["finance".to_owned(), "q4".to_owned()],
            source_type: "contract".to_owned(),
            created_at: UnixMillis(1_700_000_000_000),
            updated_at: UnixMillis(1_700_000_001_000),
            retention_s: Some(86_400),
            size: 12,
            chunk_count: 1,
        }
    }

    #[test]
    fn a_signed_record_survives_the_wire() {
        let key = NodeKey::from_seed([7; 32]);
        let signed = Signed::sign(record(), &key).unwrap();
        let back = Signed::<DocumentRecord>::decode(&signed.to_bytes()).unwrap();
        assert_eq!(back.value(), &record());
        assert_eq!(back.signer(), key.peer_id());
    }

    #[test]
    fn the_record_format_is_frozen() {
        let bytes = postcard::to_stdvec(&record()).unwrap();
        assert_eq!(blake3::hash(&bytes).to_hex().as_str(), RECORD_VECTOR_BLAKE3);
    }
    const RECORD_VECTOR_BLAKE3: &str =
        "9e840d2259e561b0307a5d890c5b1d6bbe693c74f724ce372337702015c27e65";

    #[test]
    fn a_record_outside_the_limits_is_neither_signed_nor_accepted() {
        let key = NodeKey::from_seed([7; 32]);
        let long = DocumentRecord {
            title: "x".repeat(MAX_TITLE_BYTES + 1),
            ..record()
        };
        assert!(matches!(
            long.validate(),
            Err(RecordError::Text { field: "title", .. })
        ));
        assert!(Signed::sign(long, &key).is_err());
        let control = DocumentRecord {
            source_type: "a\u{1b}[2J".to_owned(),
            ..record()
        };
        assert!(control.validate().is_err());
        let twice = DocumentRecord {
            tags: vec!["a".to_owned(), "a".to_owned()],
            ..record()
        };
        assert_eq!(twice.validate(), Err(RecordError::Tags));
    }

    #[test]
    fn retention_is_a_pure_function_of_the_record() {
        assert_eq!(record().expires_at(), Some(UnixMillis(1_700_086_401_000)));
        assert_eq!(
            DocumentRecord {
                retention_s: None,
                ..record()
            }
            .expires_at(),
            None
        );
        assert_eq!(
            DocumentRecord {
                retention_s: Some(u64::MAX),
                ..record()
            }
            .expires_at(),
            None
        );
    }
}
