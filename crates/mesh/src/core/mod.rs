//! The decisions of the mesh, without sockets, clocks or randomness of their own.
//!
//! Each module takes inputs and `now` and gives back what is to be done; the shell around them
//! (`transport`, `behaviour`, `node`) only moves bytes, timers and events.

pub(crate) mod admission;
pub(crate) mod conduct;
pub(crate) mod gossip;
pub(crate) mod leads;
pub(crate) mod members;
pub(crate) mod multistream;
pub(crate) mod nat;
pub(crate) mod neighbours;
pub(crate) mod protocol;
pub(crate) mod punching;
pub(crate) mod rate_limit;
pub(crate) mod records;
pub(crate) mod redial;
