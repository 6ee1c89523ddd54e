//! Moves the bytes of the admission protocol; what they mean is decided in `core::admission`.

use std::future::poll_fn;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use libp2p::PeerId;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt as _, SubstreamBox};
use libp2p::core::{ConnectedPoint, Endpoint};
use libp2p::multiaddr::Protocol;
use multistream_select::{NegotiationError, Version};

use crate::config::AdmissionPolicy;
use crate::core::admission::{AdmissionError, Admitted, Exchange, MAX_MESSAGE_BYTES, Side, Step};
use crate::core::multistream::{PEEK_LIMIT, Peek, peek};
use crate::core::protocol::ADMISSION;
use crate::gate::Gate;
use crate::traffic::CountedMuxer;
use crate::transport::replay::{Prefixed, ReplayMuxer};

/// How long a listener of an open mesh waits for the first substream of a silent peer before it
/// takes it for a stranger. Every implementation opens `identify` at once.
const STRANGER_PATIENCE: Duration = Duration::from_secs(3);

/// How long a refused peer is given to read the code before the connection is closed under it.
const LINGER: Duration = Duration::from_secs(1);

/// The connection while it is being admitted.
struct Channel<'a> {
    muxer: &'a mut StreamMuxerBox,
    others: OtherSubstreams,
}

/// Whether the other side may open substreams beside the one that admission runs on. Each holds a receive window of
/// what was sent on it, so somebody who has proven nothing gets one and no more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum OtherSubstreams {
    /// The connection ends with the first of them.
    Forbidden,
    /// They wait for the swarm: the other side is proven and may be ahead of us, or it may stay a stranger.
    Wait,
}

/// What came of the first substream.
enum Outcome {
    Member(Box<Admitted>),
    /// Tolerated in an open mesh. The substream goes to the swarm as if nobody had looked.
    Stranger(Option<SubstreamBox>),
}

/// Admits a connection or ends it. The proof is left at the gate's desk.
pub(crate) async fn admit(
    gate: Arc<Gate>,
    peer: PeerId,
    muxer: StreamMuxerBox,
    endpoint: ConnectedPoint,
) -> Result<(PeerId, StreamMuxerBox), AdmissionError> {
    let result = admit_in_time(&gate, peer, muxer, &endpoint).await;
    if let Err(error) = &result {
        gate.refused(peer, endpoint.get_remote_address(), error);
    }
    result
}

async fn admit_in_time(
    gate: &Gate,
    peer: PeerId,
    mut muxer: StreamMuxerBox,
    endpoint: &ConnectedPoint,
) -> Result<(PeerId, StreamMuxerBox), AdmissionError> {
    check_dialled(peer, endpoint)?;
    if gate.is_banned(&peer) {
        return Err(AdmissionError::Banned);
    }
    let mut channel = Channel {
        muxer: &mut muxer,
        others: match gate.policy() {
            AdmissionPolicy::Members => OtherSubstreams::Forbidden,
            AdmissionPolicy::Open => OtherSubstreams::Wait,
        },
    };
    let exchange = async {
        match side(endpoint) {
            Side::Dialler => dial(gate, peer, &mut channel).await,
            Side::Listener => listen(gate, peer, &mut channel).await,
        }
    };
    let outcome = tokio::time::timeout(gate.timeout(), exchange)
        .await
        .unwrap_or(Err(AdmissionError::TimedOut));
    match outcome {
        Ok(Outcome::Member(admitted)) => {
            gate.admitted(*admitted);
            let counted = CountedMuxer::new(muxer, gate.traffic(), peer, Some(peer));
            Ok((peer, StreamMuxerBox::new(counted)))
        }
        Ok(Outcome::Stranger(first)) => {
            let replayed = StreamMuxerBox::new(ReplayMuxer::new(muxer, first));
            let counted = CountedMuxer::new(replayed, gate.traffic(), peer, None);
            Ok((peer, StreamMuxerBox::new(counted)))
        }
        Err(error) => {
            // Tells the other side at once rather than by a time-out; it may not be listening.
            let _ = tokio::time::timeout(LINGER, muxer.close()).await;
            Err(error)
        }
    }
}

/// Exactly one side is the dialler: on a hole-punched connection both dial, and the one whose role
/// is overridden acts as the listener here as it did in the security handshake.
fn side(endpoint: &ConnectedPoint) -> Side {
    match endpoint {
        ConnectedPoint::Dialer {
            role_override: Endpoint::Dialer,
            ..
        } => Side::Dialler,
        ConnectedPoint::Dialer { .. } | ConnectedPoint::Listener { .. } => Side::Listener,
    }
}

/// The swarm compares peer ids too, but only after admission would have shown our certificate.
fn check_dialled(peer: PeerId, endpoint: &ConnectedPoint) -> Result<(), AdmissionError> {
    let ConnectedPoint::Dialer { address, .. } = endpoint else {
        return Ok(());
    };
    match address.iter().last() {
        Some(Protocol::P2p(dialled)) if dialled != peer => Err(AdmissionError::WrongPeer(peer)),
        _ => Ok(()),
    }
}

async fn dial(
    gate: &Gate,
    peer: PeerId,
    channel: &mut Channel<'_>,
) -> Result<Outcome, AdmissionError> {
    let stream = poll_fn(|cx| match channel.muxer.poll_outbound_unpin(cx) {
        Poll::Ready(opened) => Poll::Ready(opened.map_err(|_| AdmissionError::Closed)),
        Poll::Pending => channel
            .keep_moving(cx)
            .map_or_else(|error| Poll::Ready(Err(error)), |()| Poll::Pending),
    })
    .await?;
    let negotiated = drive(
        channel,
        multistream_select::dialer_select_proto(stream, [ADMISSION], Version::V1),
    )
    .await?;
    match negotiated {
        Ok((_, stream)) => exchange(gate, peer, channel, stream, Side::Dialler).await,
        Err(NegotiationError::Failed) => match gate.policy() {
            AdmissionPolicy::Open => Ok(Outcome::Stranger(None)),
            AdmissionPolicy::Members => Err(AdmissionError::Stranger),
        },
        Err(NegotiationError::ProtocolError(_)) => Err(AdmissionError::Closed),
    }
}

async fn listen(
    gate: &Gate,
    peer: PeerId,
    channel: &mut Channel<'_>,
) -> Result<Outcome, AdmissionError> {
    let mut first = None;
    let mut head = Vec::new();
    let looked = look(channel, &mut first, &mut head);
    let asks = match gate.policy() {
        AdmissionPolicy::Members => looked.await?,
        AdmissionPolicy::Open => match tokio::time::timeout(STRANGER_PATIENCE, looked).await {
            Ok(asks) => asks?,
            Err(_) => Asks::ForSomethingElse,
        },
    };
    let first = first.map(|stream| Prefixed::new(head, stream));
    match (asks, first, gate.policy()) {
        (Asks::ForAdmission, Some(stream), _) => {
            let (_, stream) = drive(
                channel,
                multistream_select::listener_select_proto(stream, [ADMISSION]),
            )
            .await?
            .map_err(|_| AdmissionError::Closed)?;
            exchange(gate, peer, channel, stream, Side::Listener).await
        }
        (_, first, AdmissionPolicy::Open) => Ok(Outcome::Stranger(first.map(SubstreamBox::new))),
        (_, _, AdmissionPolicy::Members) => Err(AdmissionError::Stranger),
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asks {
    ForAdmission,
    ForSomethingElse,
}

/// Takes the first inbound substream and reads as much of it as tells what it is for. What was
/// taken stays in `first` and `head` when the future is dropped.
async fn look(
    channel: &mut Channel<'_>,
    first: &mut Option<SubstreamBox>,
    head: &mut Vec<u8>,
) -> Result<Asks, AdmissionError> {
    let stream = poll_fn(|cx| {
        let opened = channel.muxer.poll_inbound_unpin(cx);
        if opened.is_pending() {
            channel.move_muxer(cx)?;
        }
        opened
    })
    .await
    .map_err(|_| AdmissionError::Closed)?;
    let stream = first.insert(stream);
    let mut buffer = [0; PEEK_LIMIT];
    loop {
        match peek(head) {
            Peek::Proposal(ADMISSION) => return Ok(Asks::ForAdmission),
            Peek::Proposal(_) | Peek::Foreign => return Ok(Asks::ForSomethingElse),
            Peek::NeedMore => {}
        }
        let room = PEEK_LIMIT - head.len();
        let count = drive(channel, stream.read(&mut buffer[..room]))
            .await?
            .map_err(|_| AdmissionError::Closed)?;
        if count == 0 {
            return Ok(Asks::ForSomethingElse);
        }
        head.extend_from_slice(&buffer[..count]);
    }
}

async fn exchange<S>(
    gate: &Gate,
    peer: PeerId,
    channel: &mut Channel<'_>,
    mut stream: S,
    side: Side,
) -> Result<Outcome, AdmissionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut exchange = Exchange::new(side, peer, gate.presented());
    if let Some(opening) = exchange.opening() {
        send(channel, &mut stream, &opening).await?;
    }
    loop {
        let step = match receive(channel, &mut stream).await {
            Ok(message) => exchange.handle_message(&message, &|chain| gate.verify(chain)),
            Err(error) => Exchange::broken(error),
        };
        match step {
            Step::Send(message) => {
                channel.others = OtherSubstreams::Wait;
                send(channel, &mut stream, &message).await?;
            }
            Step::SendAndAdmit(message, admitted) => {
                channel.others = OtherSubstreams::Wait;
                send(channel, &mut stream, &message).await?;
                finish(channel, &mut stream).await;
                return Ok(Outcome::Member(admitted));
            }
            Step::Admit(admitted) => {
                finish(channel, &mut stream).await;
                return Ok(Outcome::Member(admitted));
            }
            Step::Refuse(reply, error) => {
                if let Some(reply) = reply {
                    let told = tell(channel, &mut stream, &reply);
                    // The other side may be gone already; our reason stands either way.
                    let _ = tokio::time::timeout(LINGER, told).await;
                }
                return Err(error);
            }
        }
    }
}

/// Sends the last message of a refusal and waits until the other side has closed.
async fn tell<S>(
    channel: &mut Channel<'_>,
    stream: &mut S,
    reply: &[u8],
) -> Result<(), AdmissionError>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    send(channel, stream, reply).await?;
    finish(channel, stream).await;
    let mut rest = [0; 256];
    while drive(channel, stream.read(&mut rest))
        .await?
        .is_ok_and(|count| count > 0)
    {}
    Ok(())
}

/// Closes our half. A failure shows on the connection itself soon enough.
async fn finish<S: AsyncWrite + Unpin>(channel: &mut Channel<'_>, stream: &mut S) {
    let _ = drive(channel, stream.close()).await;
}

async fn send<S: AsyncWrite + Unpin>(
    channel: &mut Channel<'_>,
    stream: &mut S,
    message: &[u8],
) -> Result<(), AdmissionError> {
    let length = u32::try_from(message.len())
        .ok()
        .filter(|_| message.len() <= MAX_MESSAGE_BYTES)
        .ok_or(AdmissionError::TooLong(message.len()))?;
    let mut framed = length.to_be_bytes().to_vec();
    framed.extend_from_slice(message);
    let written = async {
        stream.write_all(&framed).await?;
        stream.flush().await
    };
    drive(channel, written)
        .await?
        .map_err(|_| AdmissionError::Closed)
}

async fn receive<S: AsyncRead + Unpin>(
    channel: &mut Channel<'_>,
    stream: &mut S,
) -> Result<Vec<u8>, AdmissionError> {
    let mut length = [0; 4];
    drive(channel, stream.read_exact(&mut length))
        .await?
        .map_err(|_| AdmissionError::Closed)?;
    let length = usize::try_from(u32::from_be_bytes(length)).unwrap_or(usize::MAX);
    if length > MAX_MESSAGE_BYTES {
        return Err(AdmissionError::TooLong(length));
    }
    let mut message = vec![0; length];
    drive(channel, stream.read_exact(&mut message))
        .await?
        .map_err(|_| AdmissionError::Closed)?;
    Ok(message)
}

/// Runs `work` while the muxer makes progress under it: a muxer only moves when it is polled.
async fn drive<F: Future>(channel: &mut Channel<'_>, work: F) -> Result<F::Output, AdmissionError> {
    let mut work = std::pin::pin!(work);
    poll_fn(|cx| {
        if let Poll::Ready(output) = work.as_mut().poll(cx) {
            return Poll::Ready(Ok(output));
        }
        let Err(error) = channel.keep_moving(cx) else {
            return Poll::Pending;
        };
        // The connection ended; what arrived before that can still be read.
        match work.as_mut().poll(cx) {
            Poll::Ready(output) if error == AdmissionError::Closed => Poll::Ready(Ok(output)),
            _ => Poll::Ready(Err(error)),
        }
    })
    .await
}

impl Channel<'_> {
    /// Moves the muxer on and sees to it that nothing comes in beside admission before its time.
    fn keep_moving(&mut self, cx: &mut Context<'_>) -> Result<(), AdmissionError> {
        self.move_muxer(cx).map_err(|_| AdmissionError::Closed)?;
        if self.others == OtherSubstreams::Wait {
            return Ok(());
        }
        match self.muxer.poll_inbound_unpin(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(Err(_)) => Err(AdmissionError::Closed),
            // No node of ours does; a stock one opens identify and more at once.
            Poll::Ready(Ok(_)) => Err(AdmissionError::Stranger),
        }
    }

    fn move_muxer(&mut self, cx: &mut Context<'_>) -> std::io::Result<()> {
        use libp2p::core::StreamMuxer as _;
        // The one event there is, a changed address, means nothing before admission.
        while let Poll::Ready(event) = Pin::new(&mut *self.muxer).poll(cx) {
            event?;
        }
        Ok(())
    }
}
