//! Warren's `discovery` crate.
