//! Machines, networks and bad weather on one computer, for end-to-end tests and benchmarks.
//!
//! Owns: hosts in network namespaces, bridges, NAT routers, firewalls, the link shim (delay, jitter, loss,
//! reordering, duplication, rate), processes inside hosts, packet captures, a PostgreSQL server on loopback, and the
//! teardown of all of it.
//! Never: touches the machine's own network (every bridge and veth lives in a namespace of the lab), or knows
//! anything of Warren itself.
//!
//! Start at [`Lab`], then [`topology`] for ready-made pictures; `docs/lab.md` shows how to write a test.
//! The decisions of the shim are in [`core::link`], without clock or sockets; `shim` only moves bytes and timers.
//! NAT behaviour is a rule text made by [`Nat`] in `nat`.

pub mod core;
pub mod topology;

mod available;
mod bridge;
mod capture;
mod error;
mod eventually;
mod firewall;
mod host;
mod lab;
mod leftovers;
mod link;
mod namespace;
mod nat;
mod packet_socket;
mod postgres;
mod process;
mod router;
mod shim;
mod skip;

pub use self::core::link::{Impairment, LinkStats, Probability, Rate};
pub use available::Reason;
pub use bridge::Bridge;
pub use capture::{Capture, Recording};
pub use error::{LabError, ProcessError};
pub use eventually::{eventually, eventually_async};
pub use firewall::Block;
pub use host::Host;
pub use lab::Lab;
pub use link::{Direction, Link, ShapedLink};
pub use nat::{Filtering, Hairpin, Nat};
pub use postgres::PostgresServer;
pub use process::{Output, Process};
pub use router::Router;
pub use rustix::process::Signal;
pub use skip::skip;
