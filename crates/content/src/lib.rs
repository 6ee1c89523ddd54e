//! Warren's `content` crate.
