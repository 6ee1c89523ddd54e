//! The discovery server and its client, over real TLS on loopback.
#![allow(clippy::unwrap_used, clippy::expect_used, unreachable_pub)]

mod client;
mod joining;
mod limits;
mod network;
mod registry;
mod support;
