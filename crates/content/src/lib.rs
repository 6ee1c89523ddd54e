//! Content: documents as chunks named by their hash, the store that keeps them, and the transfer that moves them.
//!
//! Owns the content ids, the chunker, the manifest and record formats (all in [`core`], pure), the chunk store on disk
//! ([`store`]), the block protocol between nodes ([`transfer`]) and retrieval ([`retrieve`]). What `core` writes is
//! frozen as `v1`, with test vectors beside it.
//!
//! Never does: it does not decide who may read (every member may, until access control is built), does not know who has
//! what or where a peer lives (the caller hands in [`retrieve::Providers`] and a [`retrieve::Connector`]), and never
//! passes on a byte that it has not checked against the hash it was asked for.
//!
//! Start reading at [`core::id`] (what a name is), then [`core::manifest`], then [`store::Store`]; for what goes between
//! nodes at [`core::wire`], [`core::fetch`], then [`retrieve::Retriever`].

pub mod core;
pub mod retrieve;
pub mod store;
pub mod transfer;

pub use crate::core::block::{
    Encoding, MAX_BLOCK_BYTES, StoredBlock, VerifiedBlock, VerifyBlockError,
};
pub use crate::core::id::{BlockId, ChunkId, DocumentId, ParseIdError};
pub use crate::core::record::{DocumentRecord, RecordError};
pub use crate::store::{Store, StoreOptions};
