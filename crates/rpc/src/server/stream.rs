//! A call on a stream of its own at the server: streaming methods, and unary ones with big requests.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::mpsc;

use super::connection::Peer;
use super::intake::{Accepted, accept, code_of, guarded, meter_of, turned_away};
use super::keyed::once;
use super::lane::{draining, unknown_method, within};
use super::requests::Requests;
use crate::core::admission::Place;
use crate::core::compress::pack;
use crate::core::frame::{MAX_OVERHEAD_BYTES, MAX_SMALL_FRAME_BYTES, Opening, Part, WireFailure};
use crate::core::wire::{FrameError, FrameReader};
use crate::observe::MethodMeter;
use crate::service::{Failure, Route};
use crate::status::{Code, Status};
use crate::stream_io::{PartSender, half_a_message, next_frame};
use crate::streaming::Outgoing;

/// How long a caller may take for the opening of a call.
const OPENING_TIMEOUT: Duration = Duration::from_secs(5);

/// How far a call has come, for what is counted of it.
struct Progress {
    begun: Instant,
    meter: Option<Arc<MethodMeter>>,
    /// Whether a handler has it.
    handled: bool,
}

/// Serves one call to its end.
pub(super) async fn serve(peer: &Arc<Peer>, send: quinn::SendStream, receive: quinn::RecvStream) {
    let mut sender = PartSender::new(send);
    let gone = sender.stopped();
    let mut progress = Progress {
        begun: Instant::now(),
        meter: meter_of(peer, None),
        handled: false,
    };
    let result = tokio::select! {
        result = answer(peer, &mut sender, receive, &mut progress) => result,
        // Whatever the handler does, nobody waits for it.
        () = gone => {
            let status = Status::new(Code::Cancelled, "cancelled by the caller");
            return progress.count(peer, Some(&status.into()));
        }
    };
    progress.count(peer, result.as_ref().err());
    let last = match result {
        Ok(()) => Part::End,
        Err(failure) => Part::Failure(WireFailure::from(failure)),
    };
    if sender.send(&last).await.is_ok() {
        sender.finish();
    }
}

impl Progress {
    fn count(&self, peer: &Peer, failure: Option<&Failure>) {
        match (failure, &self.meter) {
            (Some(Failure::Status(status)), meter) if !self.handled => {
                turned_away(peer, meter.as_deref(), status);
            }
            (failure, Some(meter)) => {
                meter.answered(self.begun.elapsed());
                if let Some(failure) = failure {
                    meter.failed(code_of(failure));
                }
            }
            (_, None) => {}
        }
    }
}

async fn answer(
    peer: &Arc<Peer>,
    sender: &mut PartSender,
    mut receive: quinn::RecvStream,
    progress: &mut Progress,
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
    progress.meter = meter_of(peer, Some(&route));
    let _on_connection = peer.enter()?;
    let takes_key = route.is_unary();
    let accepted = accept(peer, &route, opening.terms, takes_key, progress.begun)?;
    let deadline = accepted.context.ends_at();
    let requests = Requests::new(peer, receive, reader);
    if route.is_unary() {
        let call = unary(peer, &route, accepted, requests, sender, progress);
        within(deadline, call).await
    } else {
        let _on_server = enter(peer)?;
        progress.handled = true;
        let call = streaming(peer, &route, accepted, requests, sender);
        within(deadline, call).await
    }
}

fn enter(peer: &Peer) -> Result<Place, Status> {
    peer.shared.admission.enter().map_err(Status::overloaded)
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
    peer: &Arc<Peer>,
    route: &Route,
    accepted: Accepted,
    requests: Requests,
    sender: &mut PartSender,
    progress: &mut Progress,
) -> Result<(), Failure> {
    let (request, _room) = requests.only().await?;
    // Not before: a request that takes long to arrive takes nobody's place.
    let place = enter(peer)?;
    let Accepted { context, key, span } = accepted;
    let data_size = Some(request.len());
    let mut on_server = None;
    let mut handler = match key {
        None => {
            on_server = Some(place);
            route.unary(context, request)
        }
        Some(key) => {
            let run = |request| route.unary(context, request);
            once(peer, route.path(), &key, place, request, run)?
        }
    };
    progress.handled = true;
    if let Some(span) = span {
        let size = |response: &Bytes| Some(response.len());
        handler = Box::pin(span.around(data_size, handler, size));
    }
    let result = guarded(handler).await;
    let _unwritten = on_server.map(Place::answered);
    let (result, _queued) = peer.queue_answer(result);
    send(peer, sender, result?).await
}

async fn streaming(
    peer: &Peer,
    route: &Route,
    accepted: Accepted,
    requests: Requests,
    sender: &mut PartSender,
) -> Result<(), Failure> {
    let (outgoing, mut responses) = Outgoing::channel();
    let handler = route.streaming(accepted.context, requests.incoming(), outgoing);
    let handler = match accepted.span {
        None => handler,
        Some(span) => Box::pin(span.around(None, handler, |()| None)),
    };
    let mut handler = Box::pin(guarded(handler));
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
