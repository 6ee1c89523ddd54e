//! The client's side: an endpoint, connections to servers, and calls over them.

mod builder;
mod lane;
mod stream;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Endpoint, VarInt};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use warren_identity::tls::{ExpectedPeer, member_from_tls};
use warren_identity::{Member, Refusal, Trust, UnixTime};

pub use self::builder::ClientBuilder;
pub(crate) use self::lane::CHUNKS;
use self::lane::Lane;
use crate::caller::Caller;
use crate::context::Context;
use crate::core::calls::Answer;
use crate::core::compress::{pack, unpack};
use crate::core::frame::{BIG_REPLY, CONTROL, Control, MAX_SMALL_FRAME_BYTES};
use crate::core::wire::FrameReader;
use crate::descriptor::Method;
use crate::service::Failure;
use crate::status::{Code, Status};
use crate::streaming::Incoming;
use crate::tls::{QuicConfigError, quic_client};

/// Requests above this many bytes get a stream of their own, so that small ones do not wait behind them.
pub(crate) const BIG_MESSAGE_BYTES: usize = 64 * 1024;
/// Calls in flight on one connection until the server has said its own limit.
const ASSUMED_MAX_CALLS: u32 = 1_024;
/// How many calls pass between two looks at how many lanes to use.
const CALLS_PER_LOOK: usize = 64;
/// A server within this round trip is nearby.
const NEARBY: Duration = Duration::from_millis(2);
/// So many calls in flight make batches as large as they get.
const CALLS_THAT_FILL_A_LANE: usize = 256;
/// How often a connection to a server that stops is looked at for calls in flight.
const IDLE_CHECK_INTERVAL: Duration = Duration::from_millis(5);
/// The close code of a client that is done.
const DONE: VarInt = VarInt::from_u32(0);

/// How a client behaves.
#[derive(Clone, Copy, Debug)]
pub struct ClientOptions {
    /// Lanes per connection: a lost packet holds up the calls of one lane only. Four cost next to nothing and lose
    /// little to batching.
    pub lanes: usize,
    /// The largest response taken, in bytes, once decompressed.
    pub max_message_bytes: usize,
    /// Requests of at least this many bytes are compressed where that helps; `None`: never.
    pub compress_above: Option<usize>,
    /// How long the handshake with a server may take.
    pub connect_timeout: Duration,
}

impl Default for ClientOptions {
    fn default() -> Self {
        Self {
            lanes: 4,
            max_message_bytes: 16 * 1024 * 1024,
            compress_above: Some(16 * 1024),
            connect_timeout: Duration::from_secs(5),
        }
    }
}

/// Why there is no connection. Nothing was sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// Nobody said who calls.
    #[error("no certificates to call with: call with_cert_and_key and with_ca_cert, or with_trust")]
    NoIdentity,
    /// No socket could be opened.
    #[error("cannot open a UDP socket for calls: {0}")]
    Socket(#[source] std::io::Error),
    /// TLS could not be set up.
    #[error(transparent)]
    Config(#[from] QuicConfigError),
    /// The address is not one to dial.
    #[error("{address} cannot be dialled: {source}")]
    Address {
        /// What was to be dialled.
        address: SocketAddr,
        /// Why not.
        source: quinn::ConnectError,
    },
    /// The handshake failed.
    #[error("no connection to {address}: {source}")]
    Handshake {
        /// What was dialled.
        address: SocketAddr,
        /// What happened.
        source: quinn::ConnectionError,
    },
    /// Nobody answered in time.
    #[error("no connection to {address}: no answer within {within:?}")]
    TimedOut {
        /// What was dialled.
        address: SocketAddr,
        /// The time allowed.
        within: Duration,
    },
    /// The server's certificate is not in force any more.
    #[error("{address} is no member to talk to: {refusal}")]
    Refused {
        /// What was dialled.
        address: SocketAddr,
        /// Why.
        refusal: Refusal,
    },
}

/// Opens connections. Clones share the socket.
#[derive(Clone, Debug)]
pub struct Client {
    endpoint: Endpoint,
    trust: Trust,
    options: ClientOptions,
}

impl Client {
    /// Begins to describe a client.
    #[must_use]
    pub fn builder() -> ClientBuilder {
        ClientBuilder::default()
    }

    /// A client with a socket of its own. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`ConnectError::Socket`].
    pub fn new(trust: Trust, options: ClientOptions) -> Result<Self, ConnectError> {
        let any = SocketAddr::from((std::net::Ipv6Addr::UNSPECIFIED, 0));
        let any_v4 = SocketAddr::from((std::net::Ipv4Addr::UNSPECIFIED, 0));
        let endpoint = Endpoint::client(any)
            .or_else(|_| Endpoint::client(any_v4))
            .map_err(ConnectError::Socket)?;
        Ok(Self {
            endpoint,
            trust,
            options,
        })
    }

    /// Connects to the server at `address` and makes sure that it is `expected`. Cancellation safe.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(
        &self,
        address: SocketAddr,
        expected: ExpectedPeer,
    ) -> Result<Connection, ConnectError> {
        let config = quic_client(&self.trust, expected)?;
        let connecting = self
            .endpoint
            .connect_with(config, address, &address.ip().to_string())
            .map_err(|source| ConnectError::Address { address, source })?;
        let within = self.options.connect_timeout;
        let quic = tokio::time::timeout(within, connecting)
            .await
            .map_err(|_| ConnectError::TimedOut { address, within })?
            .map_err(|source| ConnectError::Handshake { address, source })?;
        let server = peer_of(&self.trust, &quic)
            .map_err(|refusal| ConnectError::Refused { address, refusal })?;
        Connection::open(quic, server, self.options)
            .await
            .map_err(|source| ConnectError::Handshake { address, source })
    }
}

/// The member at the other end of a finished handshake.
pub(crate) fn peer_of(trust: &Trust, quic: &quinn::Connection) -> Result<Member, Refusal> {
    let chain = quic.peer_identity().and_then(|any| {
        any.downcast::<Vec<rustls::pki_types::CertificateDer<'static>>>()
            .ok()
    });
    member_from_tls(trust, chain.as_deref().map(Vec::as_slice), UnixTime::now())
}

/// A connection to one server. Clones are handles; the last one closes it.
#[derive(Clone, Debug)]
pub struct Connection(Arc<Owner>);

/// Ends the tasks with the last handle.
#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    _tasks: JoinSet<()>,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.shared.quic.close(DONE, b"done");
    }
}

/// What the tasks of a connection and its callers share.
#[derive(Debug)]
struct Shared {
    quic: quinn::Connection,
    server: Member,
    lanes: Vec<Arc<Lane>>,
    next_lane: AtomicUsize,
    /// How many of the lanes calls are spread over now, at least one.
    lanes_in_use: AtomicUsize,
    options: ClientOptions,
    /// The server's limits, once it has said them.
    max_calls: AtomicU32,
    max_message_bytes: AtomicU32,
    going_away: AtomicBool,
    gone_away: Notify,
    /// Calls on streams of their own.
    own_streams: AtomicUsize,
}

impl Connection {
    async fn open(
        quic: quinn::Connection,
        server: Member,
        options: ClientOptions,
    ) -> Result<Self, quinn::ConnectionError> {
        let mut tasks = JoinSet::new();
        let mut lanes = Vec::with_capacity(options.lanes.max(1));
        for _ in 0..options.lanes.max(1) {
            let (send, receive) = quic.open_bi().await?;
            let lane = Arc::new(Lane::new());
            tasks.spawn(lane::write(Arc::clone(&lane), send));
            tasks.spawn(lane::read(
                Arc::clone(&lane),
                receive,
                quic.clone(),
                options.max_message_bytes,
            ));
            lanes.push(lane);
        }
        let shared = Arc::new(Shared {
            quic,
            server,
            lanes,
            next_lane: AtomicUsize::new(0),
            lanes_in_use: AtomicUsize::new(1),
            options,
            max_calls: AtomicU32::new(ASSUMED_MAX_CALLS),
            max_message_bytes: AtomicU32::new(u32::MAX),
            going_away: AtomicBool::new(false),
            gone_away: Notify::new(),
            own_streams: AtomicUsize::new(0),
        });
        tasks.spawn(hear_server(Arc::clone(&shared)));
        Ok(Self(Arc::new(Owner {
            shared,
            _tasks: tasks,
        })))
    }

    /// The member at the other end.
    #[must_use]
    pub fn server(&self) -> &Member {
        &self.0.shared.server
    }

    /// Where it is.
    #[must_use]
    pub fn remote_address(&self) -> SocketAddr {
        self.0.shared.quic.remote_address()
    }

    /// The smoothed round-trip time.
    #[must_use]
    pub fn round_trip(&self) -> Duration {
        self.0.shared.quic.rtt()
    }

    /// Whether new calls can go over it: it lives and the server is not about to stop.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let shared = &self.0.shared;
        shared.quic.close_reason().is_none() && !shared.going_away.load(Ordering::Relaxed)
    }

    /// Returns once [`Connection::is_usable`] has become false. Cancellation safe.
    pub async fn unusable(&self) {
        let shared = &self.0.shared;
        let gone = shared.gone_away.notified();
        if !self.is_usable() {
            return;
        }
        tokio::select! {
            () = gone => {}
            _ = shared.quic.closed() => {}
        }
    }

    /// Ends it: the server is gone, whatever the connection still hopes. Calls in flight are lost.
    pub(crate) fn give_up(&self) {
        self.0.shared.quic.close(DONE, b"the server is gone");
    }

    /// Calls in flight.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        let shared = &self.0.shared;
        let on_lanes: usize = shared.lanes.iter().map(|lane| lane.in_flight()).sum();
        on_lanes + shared.own_streams.load(Ordering::Relaxed)
    }
}

impl Shared {
    /// The lane of the next call. Calls that share a lane share packets and wake-ups; calls on different lanes do not
    /// wait for each other's lost packets. So nearby, where a lost packet is soon sent again, one lane is filled before
    /// the next is used, and far away calls are spread over all.
    fn lane(&self) -> &Arc<Lane> {
        let turn = self.next_lane.fetch_add(1, Ordering::Relaxed);
        if turn.is_multiple_of(CALLS_PER_LOOK) {
            let lanes = if self.quic.rtt() > NEARBY {
                self.lanes.len()
            } else {
                let on_lanes: usize = self.lanes.iter().map(|lane| lane.in_flight()).sum();
                (on_lanes / CALLS_THAT_FILL_A_LANE + 1).min(self.lanes.len())
            };
            self.lanes_in_use.store(lanes, Ordering::Relaxed);
        }
        &self.lanes[turn % self.lanes_in_use.load(Ordering::Relaxed)]
    }

    /// Refuses what the server would refuse, before it costs the network anything.
    fn check(&self, context: &Context, request_bytes: usize) -> Result<(), Status> {
        context.check()?;
        if self.going_away.load(Ordering::Relaxed) {
            return Err(going_away());
        }
        let limit = self.max_message_bytes.load(Ordering::Relaxed) as usize;
        if request_bytes > limit {
            return Err(crate::core::compress::too_large(limit).not_processed());
        }
        Ok(())
    }

    /// Closes the connection to a server that stops, once every call is answered.
    async fn hang_up_when_idle(&self) {
        let status = going_away();
        while !self.lanes.iter().all(|lane| lane.close_if_idle(&status))
            || self.own_streams.load(Ordering::Relaxed) > 0
        {
            tokio::time::sleep(IDLE_CHECK_INTERVAL).await;
        }
        self.quic.close(DONE, b"done");
    }

    /// Of the whole connection, since one lane may have all its calls; beyond it the server refuses.
    fn max_calls(&self) -> usize {
        self.max_calls.load(Ordering::Relaxed) as usize
    }
}

impl Caller for Connection {
    async fn unary(
        &self,
        method: &Method,
        context: Context,
        request: Bytes,
    ) -> Result<Bytes, Failure> {
        let shared = &self.0.shared;
        shared.check(&context, request.len())?;
        if request.len() > BIG_MESSAGE_BYTES {
            return stream::unary(shared, method, &context, request).await;
        }
        let body = pack(request, shared.options.compress_above);
        let lane = shared.lane();
        let call = lane
            .begin(method, &context, &body, shared.max_calls())
            .await?;
        match call.answer().await {
            Answer::Reply(body) => {
                Ok(unpack(body, shared.options.max_message_bytes).map_err(Failure::Status)?)
            }
            Answer::Failure(failure) => Err(failure.into()),
            Answer::Lost(status) => Err(Failure::Status(status)),
            Answer::Expired => Err(Failure::Status(out_of_time())),
        }
    }

    async fn streaming(
        &self,
        method: &Method,
        context: Context,
        requests: Incoming,
    ) -> Result<Incoming, Status> {
        let shared = &self.0.shared;
        shared.check(&context, 0)?;
        stream::begin(shared, method, &context, requests).await
    }
}

/// The server has said that it stops.
fn going_away() -> Status {
    Status::new(
        Code::Unavailable,
        "the server is shutting down and takes no new calls",
    )
    .not_processed()
}

/// The deadline passed while the server had the call.
fn out_of_time() -> Status {
    Status::new(
        Code::DeadlineExceeded,
        "the deadline passed before the answer came; the call may have been carried out",
    )
}

/// Why a connection that ended takes its calls along.
fn lost(reason: &quinn::ConnectionError) -> Status {
    Status::new(
        Code::Unavailable,
        format!("the connection to the server ended: {reason}; the call may have been carried out"),
    )
}

/// Takes what the server opens: its control stream and big replies.
async fn hear_server(shared: Arc<Shared>) {
    let mut streams = JoinSet::new();
    loop {
        tokio::select! {
            stream = shared.quic.accept_uni() => {
                let Ok(stream) = stream else { break };
                streams.spawn(hear_stream(Arc::clone(&shared), stream));
            }
            Some(_) = streams.join_next() => {}
        }
    }
}

async fn hear_stream(shared: Arc<Shared>, mut stream: quinn::RecvStream) {
    let mut kind = [0];
    if stream.read_exact(&mut kind).await.is_err() {
        return;
    }
    match kind {
        [CONTROL] => hear_control(&shared, stream).await,
        [BIG_REPLY] => {
            lane::hear_big_reply(&shared.lanes, stream, shared.options.max_message_bytes).await;
        }
        // Of a later version: dropping it tells the server that nobody listens.
        _ => {}
    }
}

async fn hear_control(shared: &Shared, mut stream: quinn::RecvStream) {
    let mut reader = FrameReader::new(MAX_SMALL_FRAME_BYTES);
    while let Ok(Some(chunk)) = stream.read_chunk(usize::MAX, true).await {
        reader.push(chunk.bytes);
        loop {
            let control = match reader.next_frame() {
                Ok(None) => break,
                Ok(Some((kind, payload))) => Control::parse(kind, &payload),
                Err(error) => Err(error),
            };
            match control {
                Ok(Control::Hello(hello)) => {
                    shared.max_calls.store(hello.max_calls, Ordering::Relaxed);
                    shared
                        .max_message_bytes
                        .store(hello.max_message_bytes, Ordering::Relaxed);
                }
                Ok(Control::GoAway) => {
                    shared.going_away.store(true, Ordering::Relaxed);
                    shared.gone_away.notify_waiters();
                    return shared.hang_up_when_idle().await;
                }
                Ok(Control::Unknown) => {}
                Err(error) => {
                    shared
                        .quic
                        .close(crate::server::PROTOCOL_ERROR, error.to_string().as_bytes());
                    return;
                }
            }
        }
    }
}
