//! Warren's `api` crate.
