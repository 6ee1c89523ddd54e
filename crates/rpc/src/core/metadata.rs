//! Metadata: short key-value pairs that go along with a call (trace context, token, idempotency key).

use serde::{Deserialize, Serialize};

/// The most bytes all keys and values take together.
pub const MAX_METADATA_BYTES: usize = 8 * 1024;
/// The most pairs.
const MAX_PAIRS: usize = 64;

/// Why a pair was not taken.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MetadataError {
    /// Keys are HTTP header names, so that gRPC can carry them too.
    #[error("`{0}` is no metadata key: use a-z, 0-9, `-`, `_` and `.`")]
    BadKey(String),
    /// Values are visible ASCII and spaces.
    #[error(
        "the value of `{0}` has a character that metadata cannot carry: use visible ASCII, or base64"
    )]
    BadValue(String),
    /// More than [`MAX_METADATA_BYTES`] bytes or 64 pairs.
    #[error("more metadata than the {MAX_METADATA_BYTES} bytes a call may carry")]
    TooMuch,
}

/// The pairs that go along with a call, in the order they were put in; a key stands once.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Metadata(Vec<(String, String)>);

impl std::fmt::Debug for Metadata {
    /// Keys only: values may be tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list()
            .entries(self.iter().map(|(key, _)| key))
            .finish()
    }
}

impl Metadata {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The pairs in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// The value of `key`.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(known, _)| known == key)
            .map(|(_, value)| value.as_str())
    }

    /// Puts a pair in, replacing the older value of the key.
    ///
    /// # Errors
    /// [`MetadataError`]; nothing changed then.
    pub fn insert(&mut self, key: &str, value: &str) -> Result<(), MetadataError> {
        check(key, value)?;
        let others: usize = self
            .0
            .iter()
            .filter(|(known, _)| known != key)
            .map(|(known, value)| known.len() + value.len())
            .sum();
        if others + key.len() + value.len() > MAX_METADATA_BYTES {
            return Err(MetadataError::TooMuch);
        }
        if let Some((_, old)) = self.0.iter_mut().find(|(known, _)| known == key) {
            value.clone_into(old);
            return Ok(());
        }
        if self.0.len() == MAX_PAIRS {
            return Err(MetadataError::TooMuch);
        }
        self.0.push((key.to_owned(), value.to_owned()));
        Ok(())
    }

    /// Takes the pair of `key` out.
    pub(crate) fn take(&mut self, key: &str) -> Option<String> {
        let at = self.0.iter().position(|(known, _)| known == key)?;
        Some(self.0.remove(at).1)
    }

    /// Reads what the other side sent, holding it to the same rules.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.len() > 2 * MAX_METADATA_BYTES {
            return None;
        }
        let pairs: Vec<(String, String)> = postcard::from_bytes(bytes).ok()?;
        let mut metadata = Self::default();
        for (key, value) in &pairs {
            metadata.insert(key, value).ok()?;
        }
        Some(metadata)
    }

    /// What the other side reads.
    pub(crate) fn encode(&self) -> Vec<u8> {
        // Strings always serialise.
        postcard::to_allocvec(&self.0).unwrap_or_default()
    }
}

fn check(key: &str, value: &str) -> Result<(), MetadataError> {
    let good_key = (1..=64).contains(&key.len())
        && key
            .bytes()
            .all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.'));
    if !good_key {
        return Err(MetadataError::BadKey(key.chars().take(64).collect()));
    }
    if !value.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Err(MetadataError::BadValue(key.to_owned()));
    }
    Ok(())
}
