//! Warren's `daemon` crate.
