//! What the store's tests have in common.
// Each test binary uses its own part of it.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;

use bytes::Bytes;
use warren_content::store::{PutOptions, ReadError};
use warren_content::{DocumentId, Store, StoreOptions};
use warren_identity::{NodeKey, UnixMillis};
use warren_telemetry::Metrics;

pub const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

pub fn key() -> NodeKey {
    NodeKey::from_seed([42; 32])
}

pub fn open(path: &Path) -> Store {
    open_with(path, StoreOptions::default())
}

pub fn open_with(path: &Path, options: StoreOptions) -> Store {
    Store::open(path, options, &Metrics::new()).unwrap()
}

pub fn titled(title: &str) -> PutOptions {
    PutOptions {
        title: Some(title.to_owned()),
        now: NOW,
        ..PutOptions::default()
    }
}

/// Pseudo-random bytes: nothing in them compresses.
pub fn noise(seed: &str, length: usize) -> Bytes {
    let mut bytes = vec![0; length];
    blake3::Hasher::new_derive_key(seed)
        .finalize_xof()
        .fill(&mut bytes);
    bytes.into()
}

pub async fn put(store: &Store, content: &[u8]) -> DocumentId {
    store
        .put(content, titled("a document"), &key())
        .await
        .unwrap()
        .document
}

pub fn read(store: &Store, id: DocumentId) -> Result<Vec<u8>, ReadError> {
    let size = store
        .manifest(id)?
        .ok_or(ReadError::UnknownDocument(id))?
        .size();
    let mut content = Vec::new();
    for piece in store.read_range(id, 0..size)? {
        content.extend_from_slice(&piece?);
    }
    Ok(content)
}

/// All pack files of a store, and the bytes they take on disk.
pub fn packs(path: &Path) -> (Vec<std::path::PathBuf>, u64) {
    use std::os::unix::fs::MetadataExt as _;
    let mut files: Vec<_> = std::fs::read_dir(path.join("packs"))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    let taken = files
        .iter()
        .map(|file| file.metadata().unwrap().blocks() * 512)
        .sum();
    (files, taken)
}
