//! Warren's `mesh` crate.
