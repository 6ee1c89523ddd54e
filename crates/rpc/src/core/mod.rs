//! What decides, without sockets or clocks.
//!
//! * [`wire`]: frames out of a byte stream, with a limit on their size.
//! * [`frame`]: what the frames of a lane and of a call's own stream say.
//! * [`calls`]: the calls a client's lane waits for.
//! * [`compress`]: smaller messages.
//! * [`admission`]: how many calls a server takes.
//! * [`dedupe`]: one execution per idempotency key.
//! * [`claims`]: what a verified token says.
//! * [`trace`]: which larger undertaking a call belongs to.
//! * [`grpc`]: what the bytes and headers of gRPC calls say.
//! * [`pace`]: who gets a task.
//! * [`metadata`]: what goes along with a call.

pub mod admission;
pub mod calls;
pub mod claims;
pub mod compress;
pub mod dedupe;
pub mod frame;
pub mod grpc;
pub mod metadata;
pub mod pace;
pub mod trace;
pub mod wire;
