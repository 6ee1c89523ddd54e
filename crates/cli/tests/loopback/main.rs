//! The real binary on loopback, end to end: one module per subject.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "../support/mod.rs"]
mod support;

mod access;
mod bad_start;
mod certificates;
mod clock;
mod configuration;
mod content_http;
mod damage;
mod dev;
mod discovery;
mod discovery_postgres;
mod documents;
mod first_steps;
mod https;
mod join;
mod json;
mod keys;
mod monitoring;
mod names;
mod network;
mod noise;
mod openssl;
mod passphrase;
mod records;
mod reload;
mod renewal;
mod revocation;
mod source_files;
mod standing;
