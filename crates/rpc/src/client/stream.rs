//! Calls on a stream of their own: streaming methods and big requests.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use futures::StreamExt;
use tokio::task::AbortHandle;

use super::{Shared, out_of_time};
use crate::context::Context;
use crate::core::compress::{pack, unpack};
use crate::core::frame::{Body, CALL, MAX_OVERHEAD_BYTES, Part, put_opening};
use crate::core::wire::FrameReader;
use crate::descriptor::Method;
use crate::service::Failure;
use crate::status::{Code, Status};
use crate::stream_io::{PartSender, half_a_message, next_part};
use crate::streaming::Incoming;

/// Makes a unary call with a big request.
pub(super) async fn unary(
    shared: &Arc<Shared>,
    method: &Method,
    context: &Context,
    request: Bytes,
) -> Result<Bytes, Failure> {
    let call = async {
        let _counted = OwnStream::new(shared);
        let (send, receive) = open(shared, method, context).await?;
        let mut call = Exchange::new(send, receive, shared.options.max_message_bytes);
        let body = pack(request, shared.options.compress_above);
        // An answer may come before the request is through: a refusal.
        let sent = call.send_only(body).await;
        match call.next().await {
            Ok(Some(Part::Message(body))) => {
                Ok(unpack(body, shared.options.max_message_bytes).map_err(Failure::Status)?)
            }
            Ok(Some(Part::Failure(failure))) => Err(failure.into()),
            Ok(Some(Part::End) | None) => Err(Failure::Status(half_a_message())),
            Err(status) => Err(Failure::Status(sent.err().unwrap_or(status))),
        }
    };
    match context.ends_at() {
        None => call.await,
        Some(at) => tokio::time::timeout_at(at.into(), call)
            .await
            .map_err(|_| out_of_time())?,
    }
}

/// Begins a call of a streaming method: requests go out from a task, responses are the result.
pub(super) async fn begin(
    shared: &Arc<Shared>,
    method: &Method,
    context: &Context,
    requests: Incoming,
) -> Result<Incoming, Status> {
    let counted = OwnStream::new(shared);
    let (send, receive) = open(shared, method, context).await?;
    let sender = tokio::spawn(send_requests(send, requests, shared.options.compress_above));
    let state = Responses {
        receive,
        reader: FrameReader::new(shared.options.max_message_bytes + MAX_OVERHEAD_BYTES),
        limit: shared.options.max_message_bytes,
        ended: false,
        deadline: context.ends_at(),
        _sender: AbortOnDrop(sender.abort_handle()),
        _counted: counted,
    };
    Ok(Incoming::responses(futures::stream::unfold(
        state,
        |mut state| async move {
            let item = state.next().await?;
            Some((item, state))
        },
    )))
}

async fn open(
    shared: &Arc<Shared>,
    method: &Method,
    context: &Context,
) -> Result<(PartSender, quinn::RecvStream), Status> {
    let unreachable = |reason: &dyn std::fmt::Display| {
        Status::new(
            Code::Unavailable,
            format!("the connection to the server ended: {reason}"),
        )
        .not_processed()
    };
    let (send, receive) = shared
        .quic
        .open_bi()
        .await
        .map_err(|reason| unreachable(&reason))?;
    let mut out = BytesMut::new();
    out.put_u8(CALL);
    put_opening(&mut out, &method.path, &context.terms(method));
    let mut send = PartSender::new(send);
    send.send_bytes(out.freeze())
        .await
        .map_err(|reason| unreachable(&reason))?;
    Ok((send, receive))
}

/// Both directions of a unary call; dropping it tells the server that nobody waits.
struct Exchange {
    send: PartSender,
    receive: quinn::RecvStream,
    reader: FrameReader,
}

impl Exchange {
    fn new(send: PartSender, receive: quinn::RecvStream, max_message_bytes: usize) -> Self {
        Self {
            send,
            receive,
            reader: FrameReader::new(max_message_bytes + MAX_OVERHEAD_BYTES),
        }
    }

    async fn send_only(&mut self, body: Body) -> Result<(), Status> {
        self.send.send(&Part::Message(body)).await?;
        self.send.finish();
        Ok(())
    }

    async fn next(&mut self) -> Result<Option<Part>, Status> {
        next_part(&mut self.receive, &mut self.reader).await
    }
}

async fn send_requests(
    mut send: PartSender,
    mut requests: Incoming,
    compress_above: Option<usize>,
) {
    while let Some(request) = requests.next().await {
        let Ok(message) = request else {
            // The caller's own stream failed: without its end, the server does not take what came for all.
            return;
        };
        let part = Part::Message(pack(message, compress_above));
        if send.send(&part).await.is_err() {
            // The server has answered without reading on; the answer says why.
            return;
        }
    }
    send.finish();
}

/// Counts a call while it lasts.
struct OwnStream(Arc<Shared>);

impl OwnStream {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.own_streams.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(shared))
    }
}

impl Drop for OwnStream {
    fn drop(&mut self) {
        self.0.own_streams.fetch_sub(1, Ordering::Relaxed);
    }
}

/// Ends the sending task with the last handle.
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Responses {
    receive: quinn::RecvStream,
    reader: FrameReader,
    limit: usize,
    ended: bool,
    deadline: Option<Instant>,
    _sender: AbortOnDrop,
    _counted: OwnStream,
}

impl Responses {
    async fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        if self.ended {
            return None;
        }
        let part = next_part(&mut self.receive, &mut self.reader);
        let part = match self.deadline {
            None => part.await,
            Some(at) => tokio::time::timeout_at(at.into(), part)
                .await
                .unwrap_or_else(|_| Err(out_of_time())),
        };
        let item = match part {
            Ok(Some(Part::Message(body))) => unpack(body, self.limit).map_err(Failure::Status),
            Ok(Some(Part::End)) => {
                self.ended = true;
                return None;
            }
            Ok(Some(Part::Failure(failure))) => Err(failure.into()),
            Ok(None) => Err(half_a_message().into()),
            Err(status) => Err(status.into()),
        };
        self.ended = item.is_err();
        Some(item)
    }
}
