//! Clusters in virtual time: thousands of nodes, one thread, one seed.
//!
//! Owns: the event queue, the network between nodes (loss, delay, one-way links, partitions), what happens to nodes
//! (crashes, restarts, stalls, clock jumps), and the figures that are drawn from them. Anything that implements
//! [`Membership`] can run in it; [`swim`] is the adapter of `warren-swim`.
//! Never does: real time, sockets, threads. The same seed gives the same run.
//!
//! Start reading at [`Simulation`], then [`figures`]. `cargo run --release -p warren-sim -- figures` prints them.

pub mod figures;
pub mod membership;
pub mod network;
mod simulation;
pub mod swim;

pub use membership::{Membership, NodeIndex, Notice, Outgoing, Transport};
pub use network::{Link, Network};
pub use simulation::{Record, Simulation, Stall, Start, Traffic, View};
