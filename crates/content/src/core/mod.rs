//! The pure part: no files, sockets, clocks or randomness. Everything here is a function of its arguments.

pub mod block;
pub mod chunker;
pub mod fetch;
pub mod id;
pub mod manifest;
pub mod record;
mod sentence;
pub mod wire;
