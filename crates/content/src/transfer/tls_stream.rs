//! A TLS stream made for bulk: rustls' record layer over buffers of our own.
//!
//! rustls' buffered connection reads a few KiB per system call and keeps each record in an allocation of its own until
//! it is written. At hundreds of megabytes per second that costs more than the cipher. Here ciphertext is read in large
//! pieces, records are decrypted from there into the reader's buffer, and plaintext is encrypted straight into one send
//! buffer that leaves in large writes.
//!
//! Handshake, certificate checks and key schedule are rustls' alone. A stream that ends without `close_notify` is an
//! error, as truncation must be.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use rustls::client::UnbufferedClientConnection;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::server::UnbufferedServerConnection;
use rustls::unbuffered::{
    ConnectionState, EncodeError, EncryptError, InsufficientSizeError, UnbufferedStatus,
};
use rustls::{ClientConfig, CommonState, ServerConfig};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt, ReadBuf};

/// Ciphertext read at once when the peer sends that much.
const MAX_INCOMING: usize = 256 * 1024;
/// Ciphertext buffer of a connection on which little happens; holds any one record.
const MIN_INCOMING: usize = 32 * 1024;
/// Plaintext encrypted before it is offered to the socket: small enough to stay in the second-level cache.
const WRITE_PIECE: usize = 128 * 1024;
/// More than TLS 1.3 adds to one piece: 22 bytes per record of 16 KiB, and a pending handshake message.
const WRITE_SLACK: usize = 4 * 1024;

/// Either side of rustls' connection without buffers.
trait Session {
    type Data;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data>;
    fn common(&self) -> &CommonState;
}

impl Session for UnbufferedClientConnection {
    type Data = rustls::client::ClientConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

impl Session for UnbufferedServerConnection {
    type Data = rustls::server::ServerConnectionData;
    fn process<'c, 'i>(
        &'c mut self,
        incoming: &'i mut [u8],
    ) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }
    fn common(&self) -> &CommonState {
        self
    }
}

enum Either {
    Client(UnbufferedClientConnection),
    Server(UnbufferedServerConnection),
}

/// TLS over `IO`, handshake done.
pub(crate) struct TlsStream<IO> {
    io: IO,
    session: Either,
    buffers: Buffers,
}

/// What lies between the socket and the session.
struct Buffers {
    /// Ciphertext from the socket: `incoming[incoming_start..incoming_end]`.
    incoming: Vec<u8>,
    incoming_start: usize,
    incoming_end: usize,
    /// The rest of a record that did not fit its reader.
    plain: Vec<u8>,
    plain_start: usize,
    /// Ciphertext for the socket: `outgoing[outgoing_start..outgoing_end]`.
    outgoing: Vec<u8>,
    outgoing_start: usize,
    outgoing_end: usize,
    peer_closed: bool,
    close_sent: bool,
}

/// What a session can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// Plaintext was given out.
    Read,
    /// Nothing more to do with the ciphertext that is here.
    NeedsInput,
    /// The peer said goodbye.
    Closed,
}

impl<IO: AsyncRead + AsyncWrite + Unpin> TlsStream<IO> {
    /// Opens TLS as the client. Not cancel safe: drop the stream with the future.
    ///
    /// # Errors
    /// The I/O error, or [`io::ErrorKind::InvalidData`] around the `rustls::Error`.
    pub(crate) async fn connect(
        io: IO,
        config: Arc<ClientConfig>,
        name: ServerName<'static>,
    ) -> io::Result<Self> {
        let session = UnbufferedClientConnection::new(config, name).map_err(invalid)?;
        Self::handshake(io, Either::Client(session)).await
    }

    /// Opens TLS as the server. Not cancel safe: drop the stream with the future.
    ///
    /// # Errors
    /// The I/O error, or [`io::ErrorKind::InvalidData`] around the `rustls::Error`.
    pub(crate) async fn accept(io: IO, config: Arc<ServerConfig>) -> io::Result<Self> {
        let session = UnbufferedServerConnection::new(config).map_err(invalid)?;
        Self::handshake(io, Either::Server(session)).await
    }

    /// The peer's chain, leaf first; empty only where the configuration asks for none.
    pub(crate) fn peer_certificates(&self) -> &[CertificateDer<'static>] {
        self.common().peer_certificates().unwrap_or_default()
    }

    /// The protocol agreed on.
    pub(crate) fn alpn(&self) -> Option<&[u8]> {
        self.common().alpn_protocol()
    }

    async fn handshake(io: IO, session: Either) -> io::Result<Self> {
        let mut stream = Self {
            io,
            session,
            buffers: Buffers::new(),
        };
        loop {
            let stepped = stream.step(&mut ReadBuf::new(&mut []));
            // What there is to say goes out even on failure: the peer learns by an alert that it was refused.
            let flushed = stream.flush_outgoing().await;
            match stepped? {
                Next::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Next::Read | Next::NeedsInput => flushed?,
            }
            if !stream.common().is_handshaking() {
                return Ok(stream);
            }
            std::future::poll_fn(|cx| stream.poll_fill(cx)).await?;
        }
    }

    fn common(&self) -> &CommonState {
        match &self.session {
            Either::Client(session) => session.common(),
            Either::Server(session) => session.common(),
        }
    }

    fn step(&mut self, out: &mut ReadBuf<'_>) -> io::Result<Next> {
        match &mut self.session {
            Either::Client(session) => self.buffers.step(session, out),
            Either::Server(session) => self.buffers.step(session, out),
        }
    }

    async fn flush_outgoing(&mut self) -> io::Result<()> {
        std::future::poll_fn(|cx| self.poll_drain(cx)).await?;
        self.io.flush().await
    }

    /// Reads ciphertext from the socket.
    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffers = &mut self.buffers;
        buffers.make_room();
        let mut spare = ReadBuf::new(&mut buffers.incoming[buffers.incoming_end..]);
        ready!(Pin::new(&mut self.io).poll_read(cx, &mut spare))?;
        let count = spare.filled().len();
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into()));
        }
        buffers.incoming_end += count;
        Poll::Ready(Ok(()))
    }

    /// Writes all ciphertext to the socket.
    fn poll_drain(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let buffers = &mut self.buffers;
        while buffers.outgoing_start < buffers.outgoing_end {
            let pending = &buffers.outgoing[buffers.outgoing_start..buffers.outgoing_end];
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, pending))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            buffers.outgoing_start += count;
        }
        buffers.outgoing_start = 0;
        buffers.outgoing_end = 0;
        Poll::Ready(Ok(()))
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncRead for TlsStream<IO> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        out: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.buffers.give_rest(out) || out.remaining() == 0 {
            return Poll::Ready(Ok(()));
        }
        let before = out.filled().len();
        loop {
            // As many records as are here and fit: one call per record would cost more than the copy.
            match this.step(out)? {
                Next::Read if out.remaining() > 0 => {}
                Next::Read | Next::Closed => return Poll::Ready(Ok(())),
                Next::NeedsInput if out.filled().len() > before => return Poll::Ready(Ok(())),
                Next::NeedsInput => ready!(this.poll_fill(cx))?,
            }
        }
    }
}

impl<IO: AsyncRead + AsyncWrite + Unpin> AsyncWrite for TlsStream<IO> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        plain: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        if this.buffers.outgoing_end - this.buffers.outgoing_start >= WRITE_PIECE {
            ready!(this.poll_drain(cx))?;
        }
        let piece = &plain[..plain.len().min(WRITE_PIECE)];
        match &mut this.session {
            Either::Client(session) => this.buffers.encrypt(session, piece)?,
            Either::Server(session) => this.buffers.encrypt(session, piece)?,
        }
        // A full buffer is offered to the socket at once; whether it takes all is for the next call to see.
        if this.buffers.outgoing_end - this.buffers.outgoing_start >= WRITE_PIECE
            && let Poll::Ready(Err(error)) = this.poll_drain(cx)
        {
            return Poll::Ready(Err(error));
        }
        Poll::Ready(Ok(piece.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if !this.buffers.close_sent {
            this.buffers.close_sent = true;
            match &mut this.session {
                Either::Client(session) => this.buffers.say_goodbye(session)?,
                Either::Server(session) => this.buffers.say_goodbye(session)?,
            }
        }
        ready!(this.poll_drain(cx))?;
        Pin::new(&mut this.io).poll_shutdown(cx)
    }
}

impl Buffers {
    fn new() -> Self {
        Self {
            incoming: vec![0; MIN_INCOMING],
            incoming_start: 0,
            incoming_end: 0,
            plain: Vec::new(),
            plain_start: 0,
            outgoing: Vec::new(),
            outgoing_start: 0,
            outgoing_end: 0,
            peer_closed: false,
            close_sent: false,
        }
    }

    /// Room for at least one more record behind what is there. A buffer that was filled to the end grows.
    fn make_room(&mut self) {
        let full = self.incoming_end == self.incoming.len();
        if self.incoming_start > 0 {
            self.incoming
                .copy_within(self.incoming_start..self.incoming_end, 0);
            self.incoming_end -= self.incoming_start;
            self.incoming_start = 0;
        }
        if full && self.incoming.len() < MAX_INCOMING {
            self.incoming.resize(self.incoming.len() * 2, 0);
        }
    }

    /// Hands out what is left of an earlier record; whether there was anything.
    fn give_rest(&mut self, out: &mut ReadBuf<'_>) -> bool {
        let rest = &self.plain[self.plain_start..];
        if rest.is_empty() {
            return false;
        }
        let count = rest.len().min(out.remaining());
        out.put_slice(&rest[..count]);
        self.plain_start += count;
        if self.plain_start == self.plain.len() {
            self.plain.clear();
            self.plain_start = 0;
        }
        true
    }

    /// Lets the session look at the ciphertext until it gave out plaintext or can do nothing more with it.
    fn step<S: Session>(&mut self, session: &mut S, out: &mut ReadBuf<'_>) -> io::Result<Next> {
        if self.peer_closed {
            return Ok(Next::Closed);
        }
        loop {
            let UnbufferedStatus {
                mut discard, state, ..
            } = session.process(&mut self.incoming[self.incoming_start..self.incoming_end]);
            let state = match state {
                Ok(state) => state,
                Err(error) => {
                    self.queue_alerts(session);
                    return Err(invalid(error));
                }
            };
            let mut next = None;
            match state {
                ConnectionState::ReadTraffic(mut traffic) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        let direct = record.payload.len().min(out.remaining());
                        out.put_slice(&record.payload[..direct]);
                        self.plain.extend_from_slice(&record.payload[direct..]);
                    }
                    next = Some(Next::Read);
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    put(
                        &mut self.outgoing,
                        &mut self.outgoing_end,
                        |space| match message.encode(space) {
                            Err(EncodeError::InsufficientSize(needs)) => Err(Room::Needs(needs)),
                            other => other.map_err(|error| Room::Failed(io::Error::other(error))),
                        },
                    )?;
                }
                // The send buffer is written in order before anything that comes later.
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                ConnectionState::BlockedHandshake | ConnectionState::WriteTraffic(_) => {
                    next = Some(Next::NeedsInput)
                }
                ConnectionState::PeerClosed | ConnectionState::Closed => {
                    self.peer_closed = true;
                    next = Some(Next::Closed);
                }
                // No configuration of ours allows early data, and the enum may grow.
                _ => {
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidData,
                        "TLS early data was not offered",
                    ));
                }
            }
            self.incoming_start += discard;
            if self.incoming_start == self.incoming_end {
                self.incoming_start = 0;
                self.incoming_end = 0;
            }
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    /// Encrypts `plain` behind what waits to be sent. Looks at no ciphertext: reading goes on by itself.
    fn encrypt<S: Session>(&mut self, session: &mut S, plain: &[u8]) -> io::Result<()> {
        loop {
            match session.process(&mut []).state.map_err(invalid)? {
                ConnectionState::WriteTraffic(mut traffic) => {
                    let spare = self.outgoing.len() - self.outgoing_end;
                    if spare < plain.len() + WRITE_SLACK {
                        self.outgoing
                            .resize(self.outgoing_end + plain.len() + WRITE_SLACK, 0);
                    }
                    return put(
                        &mut self.outgoing,
                        &mut self.outgoing_end,
                        |space| match traffic.encrypt(plain, space) {
                            Err(EncryptError::InsufficientSize(needs)) => Err(Room::Needs(needs)),
                            other => other.map_err(|error| Room::Failed(io::Error::other(error))),
                        },
                    );
                }
                ConnectionState::EncodeTlsData(mut message) => {
                    put(
                        &mut self.outgoing,
                        &mut self.outgoing_end,
                        |space| match message.encode(space) {
                            Err(EncodeError::InsufficientSize(needs)) => Err(Room::Needs(needs)),
                            other => other.map_err(|error| Room::Failed(io::Error::other(error))),
                        },
                    )?;
                }
                ConnectionState::TransmitTlsData(transmit) => transmit.done(),
                _ => return Err(io::ErrorKind::BrokenPipe.into()),
            }
        }
    }

    fn say_goodbye<S: Session>(&mut self, session: &mut S) -> io::Result<()> {
        if let Ok(ConnectionState::WriteTraffic(mut traffic)) = session.process(&mut []).state {
            put(
                &mut self.outgoing,
                &mut self.outgoing_end,
                |space| match traffic.queue_close_notify(space) {
                    Err(EncryptError::InsufficientSize(needs)) => Err(Room::Needs(needs)),
                    other => other.map_err(|error| Room::Failed(io::Error::other(error))),
                },
            )?;
        }
        Ok(())
    }

    /// After a failure: the alert that tells the peer.
    fn queue_alerts<S: Session>(&mut self, session: &mut S) {
        while let Ok(ConnectionState::EncodeTlsData(mut message)) = session.process(&mut []).state {
            let queued = put(
                &mut self.outgoing,
                &mut self.outgoing_end,
                |space| match message.encode(space) {
                    Err(EncodeError::InsufficientSize(needs)) => Err(Room::Needs(needs)),
                    other => other.map_err(|error| Room::Failed(io::Error::other(error))),
                },
            );
            if queued.is_err() {
                return;
            }
        }
    }
}

/// Why a message could not be put into the send buffer.
enum Room {
    Needs(InsufficientSizeError),
    Failed(io::Error),
}

/// Appends what `write` produces to the send buffer, which grows as far as it asks.
fn put(
    outgoing: &mut Vec<u8>,
    end: &mut usize,
    mut write: impl FnMut(&mut [u8]) -> Result<usize, Room>,
) -> io::Result<()> {
    loop {
        match write(&mut outgoing[*end..]) {
            Ok(written) => {
                *end += written;
                return Ok(());
            }
            Err(Room::Needs(InsufficientSizeError { required_size })) => {
                outgoing.resize(*end + required_size, 0)
            }
            Err(Room::Failed(error)) => return Err(error),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
