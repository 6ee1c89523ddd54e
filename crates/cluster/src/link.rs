//! One link: its handle, and the task that moves its bytes.
//!
//! Every link has a proven member at its other end. What arrives goes into the driver's queue, and of each link only a
//! bounded number of things at a time; what leaves waits in a bounded queue of the link.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use warren_identity::{CertificateDer, Member};

use crate::core::dials::Target;
use crate::core::frame::{Frame, FrameError, MAX_FRAME_BYTES};
use crate::core::links::{LinkId, Path};
use crate::driver::Input;
use crate::metrics::Reason;
use crate::shell::Shell;
use crate::tls::IDLE_TIMEOUT;

/// Things of one link that may wait for the driver. Of datagrams the newest is the loser; streams wait.
const MOST_UNREAD: usize = 64;
/// Frames that may wait to be written to one link. The loser is the newest.
const MOST_UNWRITTEN: usize = 128;
/// How long one frame may take, in either direction.
const FRAME_TIMEOUT: Duration = Duration::from_secs(10);

/// The close code of a node that stops.
pub(crate) const STOPPED: quinn::VarInt = quinn::VarInt::from_u32(0);
/// The close code for a peer that is no member any more, or not the one meant.
pub(crate) const REFUSED: quinn::VarInt = quinn::VarInt::from_u32(1);
/// The close code for a peer that does not keep to the protocol.
const PROTOCOL_ERROR: quinn::VarInt = quinn::VarInt::from_u32(2);

/// Who is at the other end, and how it was proven.
#[derive(Clone, Debug)]
pub(crate) struct Proven {
    pub(crate) member: Arc<Member>,
    pub(crate) chain: Vec<CertificateDer<'static>>,
}

/// A link as the driver holds it.
#[derive(Debug)]
pub(crate) struct Handle {
    pub(crate) id: LinkId,
    pub(crate) path: Path,
    pub(crate) proven: Proven,
    pub(crate) remote: SocketAddr,
    /// What was dialled for it.
    pub(crate) dialled: Option<Target>,
    /// Datagrams go straight there.
    quic: Option<quinn::Connection>,
    frames: mpsc::Sender<Frame>,
    ended: CancellationToken,
    /// Frames that came in.
    pub(crate) received: u64,
}

impl Handle {
    /// Sends or queues a frame.
    ///
    /// # Errors
    /// Why it was dropped.
    pub(crate) fn send(&self, frame: Frame) -> Result<(), Reason> {
        let frame = match (&self.quic, frame) {
            (Some(quic), Frame::Packet(packet)) => match quic.send_datagram(packet.clone()) {
                Ok(()) => return Ok(()),
                // The path carries no datagram of this size: a stream takes it.
                Err(quinn::SendDatagramError::TooLarge) => Frame::Packet(packet),
                Err(_) => return Err("link_closed"),
            },
            (_, frame) => frame,
        };
        self.frames.try_send(frame).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "send_backlog",
            mpsc::error::TrySendError::Closed(_) => "link_closed",
        })
    }

    /// What came in so far: more of it is a sign of life.
    pub(crate) fn signs_of_life(&self) -> u64 {
        match &self.quic {
            Some(quic) => quic.stats().udp_rx.datagrams,
            None => self.received,
        }
    }

    /// Ends the link; its task says so to the driver.
    pub(crate) fn close(&self, code: quinn::VarInt) {
        if let Some(quic) = &self.quic {
            quic.close(code, b"");
        }
        self.ended.cancel();
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.close(STOPPED);
    }
}

/// Why a peer's bytes end its link.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error("a frame that does not come to its end")]
    Slow,
    #[error("the connection broke")]
    Broken,
    #[error("nothing came for long")]
    Idle,
}

impl LinkError {
    fn reason(&self) -> Option<Reason> {
        match self {
            Self::Frame(_) => Some("bad_frame"),
            Self::Slow => Some("slow_frame"),
            Self::Broken | Self::Idle => None,
        }
    }
}

/// What a link's tasks share.
#[derive(Clone)]
struct Inlet {
    shell: Arc<Shell>,
    id: LinkId,
    path: Path,
    unread: Arc<Semaphore>,
}

impl Inlet {
    fn new(shell: &Arc<Shell>, path: Path) -> Self {
        Self {
            shell: Arc::clone(shell),
            id: LinkId(shell.next_link.fetch_add(1, Ordering::Relaxed)),
            path,
            unread: Arc::new(Semaphore::new(MOST_UNREAD)),
        }
    }

    /// Hands a datagram on, or drops it when the driver is behind with this peer.
    fn packet(&self, packet: Bytes) {
        self.shell.metrics.received(self.path, packet.len());
        let Ok(place) = Arc::clone(&self.unread).try_acquire_owned() else {
            return self.shell.metrics.dropped("receive_backlog", 1);
        };
        if self
            .shell
            .inputs
            .try_send(self.received(Frame::Packet(packet), place))
            .is_err()
        {
            self.shell.metrics.dropped("receive_backlog", 1);
        }
    }

    /// Hands a frame on, and waits while the driver is behind with this peer.
    async fn frame(&self, bytes: Bytes) -> Result<(), LinkError> {
        self.shell.metrics.received(self.path, bytes.len());
        let frame = Frame::decode(bytes)?;
        let place = Arc::clone(&self.unread).acquire_owned().await;
        let place = place.map_err(|_| LinkError::Broken)?;
        let input = self.received(frame, place);
        let sent = self.shell.inputs.send(input).await;
        sent.map_err(|_| LinkError::Broken)
    }

    fn received(&self, frame: Frame, place: OwnedSemaphorePermit) -> Input {
        Input::Received {
            link: self.id,
            frame,
            place,
        }
    }

    fn report(&self, remote: SocketAddr, error: &LinkError) {
        if let Some(reason) = error.reason() {
            self.shell.metrics.dropped(reason, 1);
            tracing::warn!(%remote, %error, "closed a gossip link that does not keep to the protocol");
        }
    }
}

/// Runs a link over QUIC to its end.
pub(crate) async fn run_quic(
    shell: Arc<Shell>,
    quic: quinn::Connection,
    proven: Proven,
    dialled: Option<Target>,
) {
    let inlet = Inlet::new(&shell, Path::Quic);
    let (frames, outgoing) = mpsc::channel(MOST_UNWRITTEN);
    let ended = CancellationToken::new();
    let remote = canonical(quic.remote_address());
    let handle = Handle {
        id: inlet.id,
        path: Path::Quic,
        proven,
        remote,
        dialled,
        quic: Some(quic.clone()),
        frames,
        ended: ended.clone(),
        received: 0,
    };
    if shell
        .inputs
        .send(Input::Up(Box::new(handle)))
        .await
        .is_err()
    {
        return quic.close(STOPPED, b"");
    }
    let mut streams = JoinSet::new();
    streams.spawn(write_streams(quic.clone(), outgoing));
    let error = loop {
        tokio::select! {
            datagram = quic.read_datagram() => match datagram {
                Ok(packet) => inlet.packet(packet),
                Err(_) => break LinkError::Broken,
            },
            stream = quic.accept_uni() => match stream {
                Ok(stream) => drop(streams.spawn(read_stream(inlet.clone(), stream))),
                Err(_) => break LinkError::Broken,
            },
            Some(done) = streams.join_next() => {
                if let Ok(Err(error)) = done {
                    break error;
                }
            }
            () = ended.cancelled() => break LinkError::Broken,
        }
    };
    inlet.report(remote, &error);
    if error.reason().is_some() {
        quic.close(PROTOCOL_ERROR, b"");
    }
    // The driver may have stopped.
    let _ = shell.inputs.send(Input::Down(inlet.id)).await;
}

/// One frame per stream.
async fn read_stream(inlet: Inlet, mut stream: quinn::RecvStream) -> Result<(), LinkError> {
    let bytes = match timeout(FRAME_TIMEOUT, stream.read_to_end(MAX_FRAME_BYTES)).await {
        Ok(Ok(bytes)) => bytes,
        Ok(Err(quinn::ReadToEndError::TooLong)) => return Err(FrameError::TooLong.into()),
        // The peer took it back, or the connection ends, which shows elsewhere.
        Ok(Err(quinn::ReadToEndError::Read(_))) => return Ok(()),
        Err(_) => return Err(LinkError::Slow),
    };
    inlet.frame(bytes.into()).await
}

async fn write_streams(
    quic: quinn::Connection,
    mut outgoing: mpsc::Receiver<Frame>,
) -> Result<(), LinkError> {
    while let Some(frame) = outgoing.recv().await {
        let write = async {
            let mut stream = quic.open_uni().await.map_err(|_| LinkError::Broken)?;
            let written = stream.write_chunk(frame.encode()).await;
            written.map_err(|_| LinkError::Broken)?;
            stream.finish().map_err(|_| LinkError::Broken)
        };
        // What does not get through in time is lost, as a datagram would be.
        if let Ok(Err(error)) = timeout(FRAME_TIMEOUT, write).await {
            return Err(error);
        }
    }
    Ok(())
}

/// Runs a link over TCP to its end.
pub(crate) async fn run_tcp<S>(
    shell: Arc<Shell>,
    stream: S,
    remote: SocketAddr,
    proven: Proven,
    dialled: Option<Target>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let inlet = Inlet::new(&shell, Path::Tcp);
    let (frames, outgoing) = mpsc::channel(MOST_UNWRITTEN);
    let ended = CancellationToken::new();
    let handle = Handle {
        id: inlet.id,
        path: Path::Tcp,
        proven,
        remote: canonical(remote),
        dialled,
        quic: None,
        frames,
        ended: ended.clone(),
        received: 0,
    };
    if shell
        .inputs
        .send(Input::Up(Box::new(handle)))
        .await
        .is_err()
    {
        return;
    }
    let (mut read, mut write) = tokio::io::split(stream);
    let error = tokio::select! {
        error = read_frames(&inlet, &mut read) => error,
        error = write_frames(&mut write, outgoing) => error,
        () = ended.cancelled() => LinkError::Broken,
    };
    inlet.report(remote, &error);
    // Says the end of the TLS session; nobody waits for it for long.
    let _ = timeout(Duration::from_secs(1), write.shutdown()).await;
    let _ = shell.inputs.send(Input::Down(inlet.id)).await;
}

async fn read_frames(inlet: &Inlet, read: &mut (impl AsyncRead + Unpin)) -> LinkError {
    loop {
        let length = match timeout(IDLE_TIMEOUT, read.read_u32()).await {
            Ok(Ok(length)) => length as usize,
            Ok(Err(_)) => return LinkError::Broken,
            Err(_) => return LinkError::Idle,
        };
        if length > MAX_FRAME_BYTES {
            return FrameError::TooLong.into();
        }
        let mut bytes = BytesMut::zeroed(length);
        match timeout(FRAME_TIMEOUT, read.read_exact(&mut bytes)).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return LinkError::Broken,
            Err(_) => return LinkError::Slow,
        }
        if let Err(error) = inlet.frame(bytes.freeze()).await {
            return error;
        }
    }
}

async fn write_frames(
    write: &mut (impl AsyncWrite + Unpin),
    mut outgoing: mpsc::Receiver<Frame>,
) -> LinkError {
    let mut buffer = BytesMut::new();
    while let Some(first) = outgoing.recv().await {
        buffer.clear();
        put(&mut buffer, &first);
        // What is waiting leaves in one record.
        while buffer.len() < 16 * 1024
            && let Ok(next) = outgoing.try_recv()
        {
            put(&mut buffer, &next);
        }
        let written = timeout(FRAME_TIMEOUT, async {
            write.write_all(&buffer).await?;
            write.flush().await
        });
        if !matches!(written.await, Ok(Ok(()))) {
            return LinkError::Broken;
        }
    }
    LinkError::Broken
}

fn put(buffer: &mut BytesMut, frame: &Frame) {
    let frame = frame.encode();
    // A frame of ours is no longer than the limit.
    buffer.put_u32(frame.len() as u32);
    buffer.put_slice(&frame);
}

/// IPv4 as such, also where an IPv6 socket says it.
pub(crate) fn canonical(address: SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}
