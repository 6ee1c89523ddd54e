//! Warren's `identity` crate.
