//! Directors and workers: who passes calls on, who carries them out, and how both say that they are well.
//!
//! Owns: the director, which takes calls of any method from members and passes them to workers ([`Director`]), with the
//! rule for calls of other regions ([`core::route`]); the worker that runs a configured command for each call
//! ([`Commands`]); the services that both have, [`health`] and [`control`]; advice on the number of workers
//! ([`core::sizing`]).
//!
//! Never does: picking a worker or trying again (`warren-rpc`'s pool does), membership (`warren-cluster`), reading
//! configuration (the daemon hands options in).
//!
//! Start reading at [`Director`], then [`core::route`].

pub mod command;
pub mod control;
pub mod core;
pub mod director;
pub mod health;
mod membership;
pub mod origin;

pub use self::command::{CommandOptions, Commands};
pub use self::control::Control;
pub use self::director::{Director, DirectorOptions};
pub use self::membership::{RemoteDirectors, keep_targets};
