//! The sides of the call benchmarks: an echo server and a client that loads it, one pair per library.
//!
//! Every message is 64 bytes that no other call has; the server decodes and encodes it, and the client compares. TLS 1.3
//! everywhere, both ends with a certificate wherever the library has a way to say so.

mod frames;
mod load;
mod pki;
mod quinn;
mod rpcnet;
mod tarpc;
pub(crate) mod tonic;
mod warren;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use serde::{Deserialize, Serialize};

pub(crate) use self::load::CallReport;
pub(crate) use self::pki::write_pki;
use crate::child::{self, Ready};
use crate::measure::Section;

/// Bytes of a message.
pub(crate) const MESSAGE_BYTES: usize = 64;
/// Calls in flight that every server is told to allow, where it has such a limit: more than any load here has.
const MAX_CALLS: u32 = 65_536;

/// What the sides call through.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Library {
    /// Ours
    Warren,
    /// gRPC
    Tonic,
    /// The peer with bincode over TLS
    Tarpc,
    /// QUIC with a stream per call
    Quinn,
    /// The published crate
    Rpcnet,
    /// Our frames over TLS over TCP
    Frames,
}

/// What a side's tasks run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Flavour {
    /// One thread
    CurrentThread,
    /// A thread per processor
    MultiThread,
}

/// Options of the server.
#[derive(Debug, Args)]
pub(crate) struct CallServe {
    pub(crate) library: Library,
    pub(crate) flavour: Flavour,
    pub(crate) pki: PathBuf,
    pub(crate) listen: IpAddr,
}

/// Options of the client.
#[derive(Debug, Args)]
pub(crate) struct CallLoad {
    pub(crate) library: Library,
    pub(crate) flavour: Flavour,
    pub(crate) pki: PathBuf,
    pub(crate) server: SocketAddr,
    /// Connections to spread the calls over
    #[arg(long, default_value_t = 1)]
    pub(crate) channels: usize,
    /// Callers that call again once they are answered
    #[arg(long, default_value_t = 64)]
    pub(crate) concurrency: usize,
    /// Calls per second, begun at their time whatever became of those before, instead of callers
    #[arg(long)]
    pub(crate) rate: Option<f64>,
    #[arg(long)]
    pub(crate) warm_ms: u64,
    #[arg(long)]
    pub(crate) measure_ms: u64,
}

/// What is sent and comes back, for the libraries that speak serde.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Message {
    pub(crate) body: bytes::Bytes,
}

/// A way to call the server. Clones share the connection.
pub(crate) trait Echo: Clone + Send + 'static {
    /// Sends the body and gives what came back.
    fn echo(
        &mut self,
        body: bytes::Bytes,
    ) -> impl Future<Output = anyhow::Result<bytes::Bytes>> + Send;
}

impl Flavour {
    /// The runtime.
    pub(crate) fn runtime(self) -> std::io::Result<tokio::runtime::Runtime> {
        let mut builder = match self {
            Self::CurrentThread => tokio::runtime::Builder::new_current_thread(),
            Self::MultiThread => tokio::runtime::Builder::new_multi_thread(),
        };
        builder.enable_all().build()
    }
}

/// Serves until told to stop; the report is of the time since it was told to begin.
pub(crate) async fn serve(options: CallServe) -> anyhow::Result<()> {
    let CallServe { pki, listen, .. } = &options;
    let listen = SocketAddr::new(*listen, 0);
    let address = match options.library {
        Library::Warren => warren::serve(pki, listen)?,
        Library::Tonic => tonic::serve(pki, listen).await?,
        Library::Tarpc => tarpc::serve(pki, listen).await?,
        Library::Quinn => quinn::serve(pki, listen)?,
        Library::Rpcnet => rpcnet::serve(pki, listen).await?,
        Library::Frames => frames::serve(pki, listen).await?,
    };
    child::say(&Ready {
        address: address.to_string(),
    })?;
    child::until_told().await?;
    let section = Section::begin();
    child::until_told().await?;
    child::say(&section.end())
}

/// Connects, warms up, and measures once told to begin.
pub(crate) async fn load(options: CallLoad) -> anyhow::Result<()> {
    macro_rules! measure {
        ($library:ident) => {{
            let mut channels = Vec::new();
            for _ in 0..options.channels.max(1) {
                channels.push($library::connect(&options.pki, options.server).await?);
            }
            load::run(&channels, &options).await
        }};
    }
    match options.library {
        Library::Warren => measure!(warren),
        Library::Tonic => measure!(tonic),
        Library::Tarpc => measure!(tarpc),
        Library::Quinn => measure!(quinn),
        Library::Rpcnet => measure!(rpcnet),
        Library::Frames => measure!(frames),
    }
}
