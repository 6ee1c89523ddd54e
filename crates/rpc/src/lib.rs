//! Typed calls over QUIC between the members of an organisation, and the same services for stock gRPC clients.
//!
//! Owns: the frames on the wire, connections with mutual TLS, unary and streaming calls with deadlines, cancellation,
//! metadata, limits and typed errors. A service is a trait with the `service` attribute on it, which writes its server and
//! its client.
//!
//! Never does: decide who belongs to the organisation (`warren-identity`), which server is picked (`warren-balance`),
//! which servers there are (`warren-cluster`).
//!
//! Start reading at [`core::frame`] for what is on the wire, then `client/lane.rs` and `server/lane.rs` for the two ends
//! of a call; at `grpc/mod.rs` for gRPC.

// What the service attribute writes names this crate from outside; the services of `grpc` are written by it too.
extern crate self as warren_rpc;

#[doc(hidden)]
#[path = "generated.rs"]
pub mod __private;
mod authorize;
mod caller;
mod client;
mod cluster;
mod codec;
mod context;
pub mod core;
mod descriptor;
mod files;
mod grpc;
mod observe;
mod pool;
mod reload;
mod server;
mod service;
mod status;
mod stream_io;
mod streaming;
mod tls;

pub use self::authorize::{
    AuthorizeRequest, Authorizer, JwtAuthorizer, Token, TokenAlgorithm, TokenKeys, TokenKeysError,
};
pub use self::caller::Caller;
pub use self::client::{Client, ClientBuilder, ClientOptions, ConnectError, Connection};
pub use self::cluster::{
    EnableClusterError, REGION_TAG, RPC_TAG, ZONE_TAG, address_of, follow, tag, targets_of,
};
pub use self::codec::{Codec, Postcard, Prost};
pub use self::context::{Context, ms};
pub use self::core::claims::{Claims, ClaimsError};
pub use self::core::dedupe::DedupeLimits;
pub use self::core::metadata::{Metadata, MetadataError};
pub use self::core::trace::TraceParent;
pub use self::descriptor::{Encoding, Kind, Method, ServiceDescriptor};
pub use self::files::FilesError;
pub use self::grpc::{DescriptorsError, GrpcError};
pub use self::observe::RpcMetrics;
pub use self::pool::{Liveness, Pool, PoolOptions, ServerStatus, Target};
pub use self::reload::{CertificateFiles, ReloadError, RotationOptions, rotate_certificates};
pub use self::server::{
    BuildError, DrainReport, Server, ServerBuilder, ServerOptions, SignalError,
};
pub use self::service::{ApplicationError, BoxFuture, Failure, Fallback, Service};
pub use self::status::{CallError, Code, Status};
pub use self::streaming::{Incoming, Outgoing, Streaming};
pub use self::tls::QuicConfigError;

/// Makes a trait a service: writes its server, its client and its descriptor.
///
/// ```
/// use futures::{Stream, StreamExt, stream};
/// use serde::{Deserialize, Serialize};
/// use warren_rpc::{ApplicationError, Context, Status, Streaming};
///
/// #[derive(Debug, Serialize, Deserialize, thiserror::Error)]
/// #[error("more than 64 bits hold")]
/// pub struct TooMuch;
/// impl ApplicationError for TooMuch {}
///
/// #[warren_rpc::service(package = "calculator.v1")]
/// pub trait Calculator {
///     /// The sum of two numbers.
///     #[rpc(idempotent)]
///     async fn add(&self, ctx: Context, request: (i64, i64)) -> Result<i64, TooMuch>;
///     /// Every number from the first to the last.
///     async fn count(&self, ctx: Context, ends: (u32, u32)) -> impl Stream<Item = Result<u32, Status>>;
///     /// The sum of many numbers.
///     async fn total(&self, ctx: Context, numbers: Streaming<i64>) -> Result<i64, Status>;
///     /// After each number the sum of those so far.
///     async fn totals(&self, ctx: Context, numbers: Streaming<i64>) -> impl Stream<Item = Result<i64, Status>>;
/// }
///
/// struct MyCalculator;
///
/// impl Calculator for MyCalculator {
///     async fn add(&self, _: Context, (a, b): (i64, i64)) -> Result<i64, TooMuch> {
///         a.checked_add(b).ok_or(TooMuch)
///     }
///     async fn count(&self, _: Context, (first, last): (u32, u32)) -> impl Stream<Item = Result<u32, Status>> {
///         stream::iter((first..=last).map(Ok))
///     }
///     async fn total(&self, _: Context, mut numbers: Streaming<i64>) -> Result<i64, Status> {
///         let mut sum = 0_i64;
///         while let Some(number) = numbers.message().await {
///             sum = sum.checked_add(number?).ok_or(TooMuch)?;
///         }
///         Ok(sum)
///     }
///     async fn totals(&self, _: Context, numbers: Streaming<i64>) -> impl Stream<Item = Result<i64, Status>> {
///         numbers.scan(0, |sum, number| {
///             let next = number.map(|number| { *sum += number; *sum });
///             std::future::ready(Some(next))
///         })
///     }
/// }
///
/// # fn both(server: warren_rpc::Server, connection: warren_rpc::Connection) {
/// server.register(CalculatorServer::new(MyCalculator));
/// let calculator = CalculatorClient::new(connection);
/// # }
/// ```
///
/// # The trait
///
/// A method is an `async fn` of `&self`, a [`Context`] and one owned request: a message, or [`Streaming`] of them. It
/// returns `Result<Response, Error>`, or `impl Stream<Item = Result<Response, Status>>`, which may borrow from `self`.
/// Which of the four [`Kind`]s it is follows from that. Implementations write plain `async fn`; their futures and streams
/// must be `Send`. A future or stream is dropped when the caller gives up or its deadline passes.
///
/// Options of the service: `package = "calculator.v1"` (default: none) goes before the trait's name; `codec = postcard`
/// (the default, [`Postcard`]) or `codec = prost` ([`Prost`]). Of a method: `#[rpc(idempotent)]`: carrying it out twice is
/// as good as once; `#[rpc(permission = "compute:execute")]`: what the caller's token must hold;
/// `#[rpc(name = "Sum")]`: its name on the wire, which otherwise is its name in upper camel case as gRPC has it.
/// `add_two` of the trait above is `calculator.v1.Calculator/AddTwo`, whatever the codec.
///
/// # Errors of methods
///
/// `Status` (by this name) is [`Status`] and arrives as it is. Any other error implements [`ApplicationError`] and is a
/// message of the codec: the client's method returns [`CallError`] with it. An error that the caller cannot decode, of a
/// newer version say, is left as a [`Status`] with its code and text. Where a method or a stream fails with [`Status`],
/// `?` takes an [`ApplicationError`] too, which then loses its type.
///
/// # What is written, for a trait `Calculator`
///
/// * `CalculatorServer<T>`: `new(T)`, `shared(Arc<T>)`, a [`Service`] for [`Server::register`].
/// * `CalculatorClient<C>`: `new(C)` for any [`Caller`], and the trait's methods. Streams of requests are any
///   `impl Stream<Item = Request> + Send + 'static`; streams of responses are [`Streaming`].
/// * `CALCULATOR_SERVICE`: the [`ServiceDescriptor`].
pub use warren_rpc_macros::service;
