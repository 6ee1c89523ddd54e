//! Directors and workers of the real binary on loopback, run by their environment alone, and clients that call them.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod lot;
#[allow(dead_code, unused_imports, reason = "each set of tests uses a part")]
#[path = "../support/mod.rs"]
mod support;

mod checks;
mod failures;
mod history;
mod operations;
mod regions;
