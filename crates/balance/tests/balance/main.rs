//! The balancer as its callers see it, in virtual time.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod choosing;
mod ejection;
mod near;
mod properties;
mod simulation;
mod support;
