//! Typed calls over QUIC between the members of an organisation.
//!
//! Owns: the frames on the wire, connections with mutual TLS, unary and streaming calls with deadlines, cancellation,
//! metadata, limits and typed errors. A service is a trait with the `service` attribute on it, which writes its server and
//! its client.
//!
//! Never does: decide who belongs to the organisation (`warren-identity`), which server is picked (`warren-balance`),
//! which servers there are (`warren-cluster`).
//!
//! Start reading at [`core::frame`] for what is on the wire, then `client/lane.rs` and `server/lane.rs` for the two ends
//! of a call.

mod caller;
mod client;
mod codec;
mod context;
pub mod core;
mod descriptor;
mod server;
mod service;
mod status;
mod stream_io;
mod streaming;
mod tls;

pub use self::caller::Caller;
pub use self::client::{Client, ClientOptions, ConnectError, Connection};
pub use self::codec::{Codec, Postcard};
pub use self::context::{Context, ms};
pub use self::core::metadata::{Metadata, MetadataError};
pub use self::descriptor::{Kind, Method, ServiceDescriptor};
pub use self::server::{
    BuildError, DrainReport, Server, ServerBuilder, ServerOptions, SignalError,
};
pub use self::service::{BoxFuture, Failure, Service};
pub use self::status::{CallError, Code, Status};
pub use self::streaming::{Incoming, Outgoing, Streaming};
pub use self::tls::QuicConfigError;
