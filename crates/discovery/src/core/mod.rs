//! What decides, without a socket, a clock or a random number of its own.
//!
//! * [`registry`]: when a registration is accepted, what a node's status is, when an entry ends.
//! * [`grants`]: what a one-time join token still buys.
//! * [`failover`]: which server the client talks to next, and when.
//! * [`rate`]: how many requests one source may make.
//! * [`window`]: how old a signed request may be.

pub mod failover;
pub mod grants;
pub mod rate;
pub mod registry;
pub mod window;
