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
use rustls::unbuffered::{ConnectionState, EncodeError, EncryptError, UnbufferedStatus};
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
    outgoing: Outgoing,
    peer_closed: bool,
    close_sent: bool,
}

/// What a session can do next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// What was wanted is done.
    Done,
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
            let stepped = stream.step(&mut ReadBuf::new(&mut []), &Wanted::Plaintext);
            // What there is to say goes out even on failure: the peer learns by an alert that it was refused.
            let flushed = stream.flush_outgoing().await;
            match stepped? {
                Next::Closed => return Err(io::ErrorKind::UnexpectedEof.into()),
                Next::Done | Next::NeedsInput => flushed?,
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

    fn step(&mut self, out: &mut ReadBuf<'_>, wanted: &Wanted<'_>) -> io::Result<Next> {
        match &mut self.session {
            Either::Client(session) => self.buffers.step(session, out, wanted),
            Either::Server(session) => self.buffers.step(session, out, wanted),
        }
    }

    /// Encrypts or says goodbye.
    fn speak(&mut self, wanted: &Wanted<'_>) -> io::Result<()> {
        match self.step(&mut ReadBuf::new(&mut []), wanted)? {
            Next::Done => Ok(()),
            Next::NeedsInput | Next::Closed => Err(io::ErrorKind::BrokenPipe.into()),
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
        let outgoing = &mut self.buffers.outgoing;
        while !outgoing.pending().is_empty() {
            let count = ready!(Pin::new(&mut self.io).poll_write(cx, outgoing.pending()))?;
            if count == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            outgoing.sent(count);
        }
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
            match this.step(out, &Wanted::Plaintext)? {
                Next::Done if out.remaining() > 0 => {}
                Next::Done | Next::Closed => return Poll::Ready(Ok(())),
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
        if this.buffers.outgoing.pending().len() >= WRITE_PIECE {
            ready!(this.poll_drain(cx))?;
        }
        let piece = &plain[..plain.len().min(WRITE_PIECE)];
        this.speak(&Wanted::Encrypted(piece))?;
        // A full buffer is offered to the socket at once; whether it took all is for the next call to see.
        if this.buffers.outgoing.pending().len() >= WRITE_PIECE
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
            this.speak(&Wanted::Goodbye)?;
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
            outgoing: Outgoing::default(),
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

    /// Lets the session look at the ciphertext until it has done what is wanted or can do nothing more with it.
    ///
    /// rustls keeps positions in the ciphertext between calls, so it must see the same bytes every time, whatever is
    /// wanted: plaintext that turns up while something else is wanted waits in `plain`.
    fn step<S: Session>(
        &mut self,
        session: &mut S,
        out: &mut ReadBuf<'_>,
        wanted: &Wanted<'_>,
    ) -> io::Result<Next> {
        let reading = matches!(wanted, Wanted::Plaintext);
        if reading && self.peer_closed {
            return Ok(Next::Closed);
        }
        loop {
            let incoming = &mut self.incoming[self.incoming_start..self.incoming_end];
            let UnbufferedStatus {
                mut discard, state, ..
            } = session.process(incoming);
            let mut next = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(record) = traffic.next_record() {
                        let record = record.map_err(invalid)?;
                        discard += record.discard;
                        let room = if reading { out.remaining() } else { 0 };
                        let (direct, rest) =
                            record.payload.split_at(record.payload.len().min(room));
                        out.put_slice(direct);
                        self.plain.extend_from_slice(rest);
                    }
                    next = reading.then_some(Next::Done);
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    self.outgoing.put(|space| Ok(message.encode(space)?))?;
                }
                // The send buffer is written in order, before anything that comes later.
                Ok(ConnectionState::TransmitTlsData(transmit)) => transmit.done(),
                Ok(ConnectionState::WriteTraffic(mut traffic)) => match wanted {
                    Wanted::Plaintext => next = Some(Next::NeedsInput),
                    Wanted::Encrypted(plain) => {
                        self.outgoing.reserve(plain.len() + WRITE_SLACK);
                        self.outgoing
                            .put(|space| Ok(traffic.encrypt(plain, space)?))?;
                        next = Some(Next::Done);
                    }
                    Wanted::Goodbye => {
                        self.outgoing
                            .put(|space| Ok(traffic.queue_close_notify(space)?))?;
                        next = Some(Next::Done);
                    }
                },
                Ok(ConnectionState::BlockedHandshake) => next = Some(Next::NeedsInput),
                Ok(ConnectionState::PeerClosed) => {
                    self.peer_closed = true;
                    next = reading.then_some(Next::Closed);
                }
                Ok(ConnectionState::Closed) => next = Some(Next::Closed),
                // No configuration of ours allows early data, and the enum may grow.
                Ok(_) => return Err(io::Error::from(io::ErrorKind::InvalidData)),
                Err(error) => {
                    self.discard(discard);
                    self.queue_alert(session);
                    return Err(invalid(error));
                }
            }
            self.discard(discard);
            if let Some(next) = next {
                return Ok(next);
            }
        }
    }

    fn discard(&mut self, count: usize) {
        self.incoming_start += count;
        if self.incoming_start == self.incoming_end {
            self.incoming_start = 0;
            self.incoming_end = 0;
        }
    }

    /// After a failure: the alert that tells the peer, which comes before anything else a session has to say.
    fn queue_alert<S: Session>(&mut self, session: &mut S) {
        let incoming = &mut self.incoming[self.incoming_start..self.incoming_end];
        if let Ok(ConnectionState::EncodeTlsData(mut message)) = session.process(incoming).state {
            // Without room for an alert the connection just ends.
            let _ = self.outgoing.put(|space| Ok(message.encode(space)?));
        }
    }
}

/// What a session is made to do.
enum Wanted<'a> {
    /// Decrypt what is here.
    Plaintext,
    /// Encrypt this behind what waits to be sent.
    Encrypted(&'a [u8]),
    /// Say `close_notify`.
    Goodbye,
}

/// Ciphertext for the socket: `bytes[start..end]`.
#[derive(Default)]
struct Outgoing {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Outgoing {
    fn pending(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn sent(&mut self, count: usize) {
        self.start += count;
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Room for `count` more. What was sent makes place first: a socket that never takes all must not let it grow.
    fn reserve(&mut self, count: usize) {
        if self.bytes.len() - self.end < count && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < count {
            self.bytes.resize(self.end + count, 0);
        }
    }

    /// Appends what `write` produces; the buffer grows as far as it asks.
    fn put(&mut self, mut write: impl FnMut(&mut [u8]) -> Result<usize, Room>) -> io::Result<()> {
        loop {
            match write(&mut self.bytes[self.end..]) {
                Ok(written) => {
                    self.end += written;
                    return Ok(());
                }
                Err(Room::Needs(count)) => self.reserve(count),
                Err(Room::Failed(error)) => return Err(error),
            }
        }
    }
}

/// Why a message could not be put into the send buffer.
enum Room {
    Needs(usize),
    Failed(io::Error),
}

impl From<EncodeError> for Room {
    fn from(error: EncodeError) -> Self {
        match error {
            EncodeError::InsufficientSize(needs) => Self::Needs(needs.required_size),
            error => Self::Failed(io::Error::other(error)),
        }
    }
}

impl From<EncryptError> for Room {
    fn from(error: EncryptError) -> Self {
        match error {
            EncryptError::InsufficientSize(needs) => Self::Needs(needs.required_size),
            error => Self::Failed(io::Error::other(error)),
        }
    }
}

fn invalid(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]

    use std::time::Duration;

    use tokio::io::{AsyncReadExt, DuplexStream};
    use warren_identity::tls::{ExpectedPeer, node_client, node_server};
    use warren_identity::{
        CA_VALIDITY, CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey,
        OrganizationId, Serial, Trust, UnixTime, WildcardNames,
    };

    use super::*;

    fn authority() -> CertificateAuthority {
        let request = CaRequest {
            organization: OrganizationId::new("org_acme_corp").unwrap(),
            key_material: zeroize::Zeroizing::new([1; 32]),
            serial: Serial::from_random([1; 16]),
            validity: CA_VALIDITY,
        };
        CertificateAuthority::create(&request, UnixTime::now()).unwrap()
    }

    fn trust(authority: &CertificateAuthority, n: u8) -> Trust {
        let key = NodeKey::from_seed([n; 32]);
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: format!("node-{n}"),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(["storage"]).unwrap(),
            validity: Duration::from_secs(3600),
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let now = UnixTime::now();
        let leaf = authority
            .issue(&request, now, Serial::from_random([n; 16]))
            .unwrap();
        let trust = Trust::new(key, authority.roots().clone());
        trust.replace_leaf(leaf, now).unwrap();
        trust
    }

    type Stream = TlsStream<DuplexStream>;

    /// Two ends of a connection over a pipe that takes no more than `pipe` bytes at a time.
    async fn pair(pipe: usize) -> (Stream, Stream) {
        let authority = authority();
        let client =
            node_client(&trust(&authority, 1), ExpectedPeer::AnyMember, &[b"test"]).unwrap();
        let server = node_server(&trust(&authority, 2), &[b"test"]).unwrap();
        let (near, far) = tokio::io::duplex(pipe);
        let name = ServerName::IpAddress(std::net::Ipv4Addr::LOCALHOST.into());
        let (client, server) = tokio::join!(
            TlsStream::connect(near, Arc::new(client), name),
            TlsStream::accept(far, Arc::new(server))
        );
        (client.unwrap(), server.unwrap())
    }

    fn noise(seed: &str, length: usize) -> Vec<u8> {
        let mut bytes = vec![0; length];
        blake3::Hasher::new_derive_key(seed)
            .finalize_xof()
            .fill(&mut bytes);
        bytes
    }

    /// Writes all of `out` in pieces of odd sizes while reading as much as `expected`.
    async fn exchange(stream: Stream, out: &[u8], expected: usize) -> (Vec<u8>, Stream) {
        let (mut read, mut write) = tokio::io::split(stream);
        let mut received = vec![0; expected];
        let reading = async {
            let mut filled = 0;
            for step in [1usize, 7, 16_384, 16_385, 100_000].iter().cycle() {
                let end = (filled + step).min(expected);
                filled += read.read(&mut received[filled..end]).await.unwrap();
                if filled == expected {
                    break;
                }
            }
        };
        let writing = async {
            let mut rest = out;
            for step in [3usize, 300_000, 1, 16_384, 131_073].iter().cycle() {
                let (piece, after) = rest.split_at((*step).min(rest.len()));
                write.write_all(piece).await.unwrap();
                rest = after;
                if rest.is_empty() {
                    break;
                }
            }
            write.flush().await.unwrap();
        };
        tokio::join!(reading, writing);
        (received, read.unsplit(write))
    }

    #[tokio::test]
    async fn given_both_sides_writing_at_once_in_odd_pieces_when_read_then_nothing_is_lost_or_mixed_up()
     {
        let (client, server) = pair(5_000).await;
        let (there, back) = (noise("there", 3_000_001), noise("back", 1_234_567));
        let ((at_client, _), (at_server, _)) = tokio::join!(
            exchange(client, &there, back.len()),
            exchange(server, &back, there.len())
        );
        assert!(at_server == there, "the server read something else");
        assert!(at_client == back, "the client read something else");
    }

    #[test]
    fn given_a_socket_that_never_takes_all_when_much_is_sent_then_the_buffer_stays_small_and_in_order()
     {
        let mut outgoing = Outgoing::default();
        let (mut put, mut sent) = (0_u8, 0_u8);
        for _ in 0..10_000 {
            outgoing.reserve(100);
            let written = outgoing.put(|space| {
                space[..100].fill(put);
                Ok(100)
            });
            written.unwrap();
            put = put.wrapping_add(1);
            if outgoing.pending().len() > 100 {
                assert!(outgoing.pending()[..100].iter().all(|byte| *byte == sent));
                outgoing.sent(100);
                sent = sent.wrapping_add(1);
            }
        }
        assert!(outgoing.bytes.len() <= 1000, "{}", outgoing.bytes.len());
    }

    #[tokio::test]
    async fn given_a_goodbye_when_read_to_the_end_then_the_end_is_clean() {
        let (mut client, mut server) = pair(100_000).await;
        client.write_all(b"last words").await.unwrap();
        client.shutdown().await.unwrap();
        let mut words = Vec::new();
        server.read_to_end(&mut words).await.unwrap();
        assert_eq!(words, b"last words");
    }

    #[tokio::test]
    async fn given_a_stream_cut_without_a_goodbye_when_read_to_the_end_then_it_is_an_error() {
        let (mut client, mut server) = pair(100_000).await;
        client.write_all(b"half a sen").await.unwrap();
        client.flush().await.unwrap();
        drop(client);
        let mut words = Vec::new();
        let error = server.read_to_end(&mut words).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::UnexpectedEof);
        assert_eq!(words, b"half a sen");
    }

    #[tokio::test]
    async fn given_a_turned_bit_in_the_ciphertext_when_read_then_it_is_an_error() {
        let (mut client, mut server) = pair(100_000).await;
        client.speak(&Wanted::Encrypted(b"whole")).unwrap();
        let outgoing = &mut client.buffers.outgoing;
        outgoing.bytes[outgoing.end - 1] ^= 1;
        client.flush().await.unwrap();
        let error = server.read_to_end(&mut Vec::new()).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }

    #[tokio::test]
    async fn given_a_partial_record_waiting_when_written_meanwhile_then_both_directions_go_on() {
        let (mut client, mut server) = pair(100_000).await;
        client.speak(&Wanted::Encrypted(&[7; 1000])).unwrap();
        let ciphertext = client.buffers.outgoing.pending().to_vec();
        let (first, second) = ciphertext.split_at(500);
        client.io.write_all(first).await.unwrap();
        std::future::poll_fn(|cx| server.poll_fill(cx))
            .await
            .unwrap();
        server.write_all(b"meanwhile").await.unwrap();
        server.flush().await.unwrap();
        client.io.write_all(second).await.unwrap();
        let mut received = [0; 1000];
        server.read_exact(&mut received).await.unwrap();
        assert_eq!(received, [7; 1000]);
        let mut word = [0; 9];
        client.read_exact(&mut word).await.unwrap();
        assert_eq!(&word, b"meanwhile");
    }
}
