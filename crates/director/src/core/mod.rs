//! What decides, without sockets, clocks or tasks.

pub mod route;
pub mod sizing;
