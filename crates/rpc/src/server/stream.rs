//! A call on a stream of its own at the server: streaming methods, and unary ones with big requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::Peer;
use super::lane::{draining, unknown_method, within};
use crate::context::Context;
use crate::core::compress::{pack, unpack};
use crate::core::frame::{MAX_OVERHEAD_BYTES, MAX_SMALL_FRAME_BYTES, Opening, Part, WireFailure};
use crate::core::wire::{FrameError, FrameReader};
use crate::service::{Failure, Route};
use crate::status::{Code, Status};
use crate::stream_io::{PartSender, half_a_message, next_frame, next_part};
use crate::streaming::{Incoming, Outgoing};

/// How long a caller may take for the opening of a call.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// Serves one call to its end.
pub(super) async fn serve(peer: &Arc<Peer>, send: quinn::SendStream, receive: quinn::RecvStream) {
    let mut sender = PartSender::new(send);
    let gone = sender.stopped();
    let last = tokio::select! {
        result = answer(peer, &mut sender, receive) => match result {
            Ok(()) => Part::End,
            Err(failure) => Part::Failure(WireFailure::from(failure)),
        },
        // Whatever the handler does, nobody waits for it.
        () = gone => return,
    };
    if sender.send(&last).await.is_ok() {
        sender.finish();
    }
}

async fn answer(
    peer: &Arc<Peer>,
    sender: &mut PartSender,
    mut receive: quinn::RecvStream,
) -> Result<(), Failure> {
    if peer.is_draining() {
        return Err(draining().into());
    }
    let limit = peer.shared.options.max_message_bytes;
    let mut reader = FrameReader::new(limit + MAX_OVERHEAD_BYTES);
    let opening = tokio::time::timeout(OPENING_TIMEOUT, opening(&mut receive, &mut reader))
        .await
        .map_err(|_| Status::new(Code::DeadlineExceeded, "the call did not say what it wants"))??;
    let path = String::from_utf8_lossy(&opening.path);
    let route = peer.shared.router.load().get(&path);
    let route = route.ok_or_else(|| unknown_method(&path))?;
    let _on_connection = peer.enter()?;
    let _on_server = peer.shared.admission.enter().map_err(Status::overloaded)?;
    let member = Arc::clone(&peer.member);
    let context = Context::received(opening.terms, member, Instant::now());
    let deadline = context.ends_at();
    let incoming = requests(receive, reader, limit);
    if route.is_unary() {
        within(deadline, unary(peer, &route, context, incoming, sender)).await
    } else {
        within(deadline, streaming(peer, &route, context, incoming, sender)).await
    }
}

async fn opening(
    receive: &mut quinn::RecvStream,
    reader: &mut FrameReader,
) -> Result<Opening, Status> {
    match next_frame(receive, reader).await? {
        Some((_, payload)) if payload.len() > MAX_SMALL_FRAME_BYTES => {
            Err(Status::from(FrameError::TooLong {
                length: payload.len(),
                limit: MAX_SMALL_FRAME_BYTES,
            }))
        }
        Some((kind, payload)) => Opening::parse(kind, payload).map_err(Status::from),
        None => Err(half_a_message()),
    }
}

async fn unary(
    peer: &Peer,
    route: &Route,
    context: Context,
    incoming: Incoming,
    sender: &mut PartSender,
) -> Result<(), Failure> {
    let request = incoming.only().await?;
    let response = route.unary(context, request).await?;
    send(peer, sender, response).await
}

async fn streaming(
    peer: &Peer,
    route: &Route,
    context: Context,
    incoming: Incoming,
    sender: &mut PartSender,
) -> Result<(), Failure> {
    let (outgoing, mut responses) = Outgoing::channel();
    let mut handler = route.streaming(context, incoming, outgoing);
    let result = loop {
        tokio::select! {
            biased;
            Some(response) = responses.recv() => send(peer, sender, response).await?,
            result = &mut handler => break result,
        }
    };
    drop(handler);
    send_rest(peer, sender, &mut responses).await?;
    result
}

/// Sends what the handler had put before it ended.
async fn send_rest(
    peer: &Peer,
    sender: &mut PartSender,
    responses: &mut mpsc::Receiver<Bytes>,
) -> Result<(), Failure> {
    while let Ok(response) = responses.try_recv() {
        send(peer, sender, response).await?;
    }
    Ok(())
}

async fn send(peer: &Peer, sender: &mut PartSender, message: Bytes) -> Result<(), Failure> {
    let body = pack(message, peer.shared.options.compress_above);
    sender.send(&Part::Message(body)).await?;
    Ok(())
}

/// The messages that the caller sends.
fn requests(receive: quinn::RecvStream, reader: FrameReader, limit: usize) -> Incoming {
    let state = Some((receive, reader));
    Incoming::new(futures::stream::unfold(state, move |state| async move {
        let (mut receive, mut reader) = state?;
        match next_part(&mut receive, &mut reader).await {
            Ok(None) => None,
            Ok(Some(Part::Message(body))) => match unpack(body, limit) {
                Ok(message) => Some((Ok(message), Some((receive, reader)))),
                Err(status) => Some((Err(status), None)),
            },
            Ok(Some(Part::End | Part::Failure(_))) => {
                let status = Status::new(Code::Internal, "the caller sent what only servers send");
                Some((Err(status), None))
            }
            Err(status) => Some((Err(status), None)),
        }
    }))
}
