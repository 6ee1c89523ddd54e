//! The sides of the measurements, each a process: ours in [`warren`], the peers beside it; those of the call
//! benchmarks in [`calls`].

pub(crate) mod calls;
pub(crate) mod iroh;
pub(crate) mod tls;
pub(crate) mod warren;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use self::calls::Flavour;
use crate::child;

/// Read and written at a time by the peers that read and write files.
pub(crate) const PIECE_BYTES: usize = 1024 * 1024;

/// What a process does.
#[derive(Debug, Subcommand)]
pub(crate) enum Role {
    /// Put a file into a store
    WarrenPut { store: PathBuf, input: PathBuf },
    /// Put a folder into a store
    WarrenPutFolder { store: PathBuf, input: PathBuf },
    /// Serve a store
    WarrenServe {
        pki: PathBuf,
        store: PathBuf,
        listen: IpAddr,
    },
    /// Retrieve a document
    WarrenGet(WarrenGet),
    /// Send a file over TLS
    TlsSend {
        pki: PathBuf,
        input: PathBuf,
        listen: IpAddr,
    },
    /// Receive it, hash it, and write it to `output` if there is one
    TlsReceive {
        pki: PathBuf,
        from: SocketAddr,
        output: Option<PathBuf>,
    },
    /// Serve a file with iroh-blobs, from memory or from a store
    IrohSend {
        input: PathBuf,
        listen: IpAddr,
        store: Option<PathBuf>,
    },
    /// Fetch it, to a stream or into a store
    IrohGet {
        listen: IpAddr,
        from: String,
        hash: String,
        store: Option<PathBuf>,
    },
    /// Answer calls
    CallServe(calls::CallServe),
    /// Make calls
    CallLoad(calls::CallLoad),
}

/// See [`Role::WarrenGet`].
#[derive(Debug, Args)]
pub(crate) struct WarrenGet {
    pub(crate) pki: PathBuf,
    pub(crate) store: PathBuf,
    pub(crate) from: SocketAddr,
    pub(crate) document: String,
    pub(crate) how: How,
}

/// What a retrieval is for.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum How {
    /// The whole file into the store, durable; read back and checked after the measurement
    Keep,
    /// The file's bytes to a consumer, as they come
    Stream,
    /// A folder into the store, durable, then every file read
    Folder,
}

/// Runs a role to its end.
pub(crate) fn run(role: Role) -> anyhow::Result<()> {
    child::set_alarm();
    let flavour = match &role {
        Role::CallServe(serve) => serve.flavour,
        Role::CallLoad(load) => load.flavour,
        // The flavour that every side gets.
        _ => Flavour::MultiThread,
    };
    flavour.runtime()?.block_on(async {
        match role {
            Role::WarrenPut { store, input } => warren::put(&store, &input).await,
            Role::WarrenPutFolder { store, input } => warren::put_folder(&store, &input).await,
            Role::WarrenServe { pki, store, listen } => warren::serve(&pki, &store, listen).await,
            Role::WarrenGet(get) => warren::get(get).await,
            Role::TlsSend { pki, input, listen } => tls::send(&pki, input, listen).await,
            Role::TlsReceive { pki, from, output } => tls::receive(&pki, from, output).await,
            Role::IrohSend {
                input,
                listen,
                store,
            } => iroh::send(input, listen, store).await,
            Role::IrohGet {
                listen,
                from,
                hash,
                store,
            } => iroh::get(listen, &from, &hash, store).await,
            Role::CallServe(serve) => calls::serve(serve).await,
            Role::CallLoad(load) => calls::load(load).await,
        }
    })
}
