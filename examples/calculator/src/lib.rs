//! A calculator: a service whose messages come from a `.proto`, its implementation, and a client's tour of it.
//!
//! Start reading at [`Calculator`]; `bin/server.rs` serves it, `bin/client.rs` calls it, and `bin/companion.rs`
//! writes what a gRPC client needs to.

use std::collections::VecDeque;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use anyhow::Context as _;
use futures::{Stream, StreamExt, stream};
use warren_identity::tls::ExpectedPeer;
use warren_identity::{Leaf, NodeKey};
use warren_rpc::{
    ApplicationError, CallError, Client, Code, Connection, Context, Server, Status, Streaming, ms,
};
use zeroize::Zeroizing;

/// What `prost-build` wrote from `proto/calculator.proto`.
pub mod messages {
    include!(concat!(env!("OUT_DIR"), "/calculator.v1.rs"));
}

use messages::{AddRequest, AddResponse, CalculatorError, Entry, HistoryRequest, Number};

/// The same as descriptors, for gRPC clients that ask by reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/descriptors.bin"));

/// The most sums that a calculator remembers; older ones are forgotten first.
const MAX_ENTRIES: usize = 10_000;

/// A calculator that remembers.
#[warren_rpc::service(package = "calculator.v1", codec = prost)]
pub trait Calculator {
    /// The sum of two numbers.
    async fn add(&self, ctx: Context, request: AddRequest) -> Result<AddResponse, CalculatorError>;

    /// The sums so far.
    #[rpc(idempotent)]
    async fn history(
        &self,
        ctx: Context,
        request: HistoryRequest,
    ) -> impl Stream<Item = Result<Entry, Status>>;

    /// The sum of all numbers that are sent.
    async fn total(&self, ctx: Context, numbers: Streaming<Number>) -> Result<AddResponse, Status>;

    /// After each number the sum of those so far.
    async fn running_total(
        &self,
        ctx: Context,
        numbers: Streaming<Number>,
    ) -> impl Stream<Item = Result<Number, Status>>;
}

impl fmt::Display for CalculatorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} and {} make more than 64 bits hold",
            self.sum, self.value
        )
    }
}

impl std::error::Error for CalculatorError {}

impl ApplicationError for CalculatorError {
    fn code(&self) -> Code {
        Code::OutOfRange
    }
}

/// The calculator that the server has.
#[derive(Debug, Default)]
pub struct MemoryCalculator {
    entries: Mutex<VecDeque<Entry>>,
}

impl Calculator for MemoryCalculator {
    async fn add(&self, _: Context, request: AddRequest) -> Result<AddResponse, CalculatorError> {
        let sum = add(request.a, request.b)?;
        let mut entries = self.entries();
        let place = entries.back().map_or(0, |last| last.place + 1);
        if entries.len() == MAX_ENTRIES {
            entries.pop_front();
        }
        entries.push_back(Entry {
            place,
            request: Some(request),
            sum,
        });
        Ok(AddResponse { sum })
    }

    async fn history(
        &self,
        _: Context,
        request: HistoryRequest,
    ) -> impl Stream<Item = Result<Entry, Status>> {
        // Borrows the calculator: what is added meanwhile is told too.
        stream::unfold(request.since, async |place| {
            let entry = self.entry(place)?;
            let next = entry.place + 1;
            Some((Ok(entry), next))
        })
    }

    async fn total(
        &self,
        _: Context,
        mut numbers: Streaming<Number>,
    ) -> Result<AddResponse, Status> {
        let mut sum = 0;
        while let Some(number) = numbers.message().await {
            sum = add(sum, number?.value)?;
        }
        Ok(AddResponse { sum })
    }

    async fn running_total(
        &self,
        _: Context,
        numbers: Streaming<Number>,
    ) -> impl Stream<Item = Result<Number, Status>> {
        numbers.scan(0, |sum, number| {
            let next = number.and_then(|number| {
                *sum = add(*sum, number.value)?;
                Ok(Number { value: *sum })
            });
            std::future::ready(Some(next))
        })
    }
}

impl MemoryCalculator {
    fn entries(&self) -> MutexGuard<'_, VecDeque<Entry>> {
        // Every change under this lock is whole before anything that could panic.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The entry at `place`, or the oldest after it that is remembered.
    fn entry(&self, place: u64) -> Option<Entry> {
        let entries = self.entries();
        let at = entries.partition_point(|entry| entry.place < place);
        entries.get(at).cloned()
    }
}

fn add(sum: i64, value: i64) -> Result<i64, CalculatorError> {
    sum.checked_add(value).ok_or(CalculatorError { sum, value })
}

/// A member's files, as `warren keygen` and `warren ca issue` write them.
#[derive(Clone, Debug, clap::Args)]
pub struct Files {
    /// The member's certificate, PEM
    #[arg(long)]
    pub cert: PathBuf,
    /// Its Ed25519 key, PEM
    #[arg(long)]
    pub key: PathBuf,
    /// The organisation's CA, PEM
    #[arg(long)]
    pub ca: PathBuf,
}

/// A server with a calculator, bound to `listen`, and to `grpc` for gRPC clients if there are to be any.
///
/// # Errors
/// The files do not serve, or the address is taken.
pub fn bind(files: &Files, listen: SocketAddr, grpc: Option<SocketAddr>) -> anyhow::Result<Server> {
    let mut builder = Server::builder()
        .with_cert_and_key(&files.cert, &files.key)?
        .with_ca_cert(&files.ca)?;
    if let Some(address) = grpc {
        builder = builder.with_grpc(address);
    }
    let server = builder.bind(listen)?;
    server.register(CalculatorServer::new(MemoryCalculator::default()));
    server.register_descriptors(DESCRIPTORS)?;
    Ok(server)
}

/// A calculator at another machine.
///
/// # Errors
/// The files do not serve, or no member answers at the address.
pub async fn connect(
    files: &Files,
    server: SocketAddr,
) -> anyhow::Result<CalculatorClient<Connection>> {
    let client = Client::builder()
        .with_cert_and_key(&files.cert, &files.key)?
        .with_ca_cert(&files.ca)?
        .build()?;
    let connection = client.connect(server, ExpectedPeer::AnyMember).await?;
    Ok(CalculatorClient::new(connection))
}

/// What a gRPC client whose TLS refuses Ed25519 presents for this member: its companion certificate and the key to it,
/// PEM.
///
/// # Errors
/// The files do not serve, or the certificate has no companion.
pub fn companion(files: &Files) -> anyhow::Result<(String, Zeroizing<String>)> {
    let key = NodeKey::from_pem(&read(&files.key)?)?;
    let leaf = Leaf::from_pem(&read(&files.cert)?)?;
    let companion = leaf.companion().with_context(|| {
        format!(
            "{} has no companion: let the CA issue it with --key",
            files.cert.display()
        )
    })?;
    let certificate = pem::encode(&pem::Pem::new("CERTIFICATE", companion.to_vec()));
    Ok((certificate, key.companion_key().to_pem()))
}

fn read(path: &Path) -> anyhow::Result<String> {
    std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// Calls every method once and gives what they answered, a line each.
///
/// # Errors
/// A call failed.
pub async fn tour(
    calculator: &CalculatorClient<Connection>,
    a: i64,
    b: i64,
) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    let deadline = || Context::deadline(ms(2_000));

    let sum = calculator.add(deadline(), AddRequest { a, b }).await?.sum;
    lines.push(format!("{a} + {b} = {sum}"));

    let too_much = AddRequest { a: i64::MAX, b: 1 };
    if let Err(CallError::Application(error)) = calculator.add(deadline(), too_much).await {
        lines.push(format!("refused: {error}"));
    }

    let numbers = || stream::iter([a, b, sum].map(|value| Number { value }));
    let total = calculator.total(deadline(), numbers()).await?.sum;
    lines.push(format!("{a} + {b} + {sum} = {total}"));

    let mut totals = calculator.running_total(deadline(), numbers()).await?;
    while let Some(total) = totals.message().await {
        lines.push(format!("so far: {}", total?.value));
    }

    let everything = HistoryRequest { since: 0 };
    let mut history = calculator.history(deadline(), everything).await?;
    while let Some(entry) = history.message().await {
        let entry = entry?;
        lines.push(format!("sum {} was {}", entry.place, entry.sum));
    }
    Ok(lines)
}
