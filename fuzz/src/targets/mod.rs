//! The targets, by the crate whose decoders they feed.

pub mod cluster;
pub mod config;
pub mod content;
pub mod discovery;
pub mod grpc;
pub mod identity;
pub mod mesh;
pub mod rpc;
pub mod swim;
