//! Warren's `config` crate.
