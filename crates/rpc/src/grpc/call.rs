//! One call: its request becomes what a handler takes, what the handler gives becomes the response.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use futures::{Stream, StreamExt, stream};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Empty, StreamBody};
use hyper::body::{Frame, Incoming as RequestBody};
use hyper::{HeaderMap, Request, Response};
use tokio::sync::{mpsc, oneshot};
use tokio_util::task::AbortOnDropHandle;

use super::connection::Peer;
use super::head::{self, Refused};
use super::requests::Requests;
use crate::context::Context;
use crate::core::admission::Place;
use crate::core::frame::Terms;
use crate::core::grpc::prefixed;
use crate::core::metadata::Metadata;
use crate::descriptor::{Encoding, Kind};
use crate::observe::{self, MethodMeter};
use crate::server::intake::{Accepted, accept, code_of, guarded, meter_of, panicked, turned_away};
use crate::server::keyed::once;
use crate::server::session::{ConnectionPlace, Session};
use crate::server::{unknown_method, within};
use crate::service::{Failure, Route};
use crate::status::{Code, Status};
use crate::streaming::Outgoing;

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Answers one request. Dropped when the caller resets its stream, and the handler with it.
///
/// # Errors
/// The server takes no calls any more: the stream is refused, so that clients try elsewhere by themselves.
pub(super) async fn answer(
    peer: Arc<Peer>,
    request: Request<RequestBody>,
) -> Result<Response<Body>, h2::Error> {
    let begun = Instant::now();
    let session = &peer.session;
    let (parts, body) = request.into_parts();
    let terms = match head::read(&parts) {
        Ok(terms) => terms,
        Err(refused) => {
            session.shared.refused(observe::Refused::BadRequest);
            return Ok(refusal(refused));
        }
    };
    let path = parts.uri.path();
    let path = path.strip_prefix('/').unwrap_or(path);
    let call = match peer.own.get(path) {
        Some(route) => Ok(Call::of_own_service(session, route, terms, begun)),
        None if session.is_draining() => {
            session.shared.refused(observe::Refused::Draining);
            return Err(h2::Reason::REFUSED_STREAM.into());
        }
        None => Call::find(session, path, terms, begun),
    };
    let answered = match call {
        Ok(call) => call.carry_out(Requests::new(session, body)).await,
        Err(status) => Err(status.into()),
    };
    Ok(answered.unwrap_or_else(|failure| only_trailers(head::trailers(Err(failure)))))
}

/// A call that may go to its handler.
struct Call {
    session: Arc<Session>,
    route: Route,
    kind: Kind,
    accepted: Accepted,
    count: Count,
    /// `None` of the services beside the registered ones, which have no part in limits.
    on_connection: Option<ConnectionPlace>,
}

impl Call {
    fn of_own_service(
        session: &Arc<Session>,
        route: Route,
        terms: Terms<Metadata>,
        begun: Instant,
    ) -> Self {
        let caller = Arc::clone(&session.member);
        Self {
            kind: route.kind(),
            route,
            accepted: Accepted {
                context: Context::received(terms, caller, None, begun),
                key: None,
                span: None,
            },
            count: Count::new(session, None, begun),
            on_connection: None,
            session: Arc::clone(session),
        }
    }

    /// Looks up what is called, and whether the caller may.
    fn find(
        session: &Arc<Session>,
        path: &str,
        terms: Terms<Metadata>,
        begun: Instant,
    ) -> Result<Self, Status> {
        let route = session.shared.router.load().get(path);
        let meter = meter_of(session, route.as_ref());
        let entered = || {
            let route = callable(route, path)?;
            let place = session.enter()?;
            let takes_key = route.is_unary();
            let accepted = accept(session, &route, terms, takes_key, begun)?;
            Ok((route, place, accepted))
        };
        let (route, place, accepted) = entered().inspect_err(|status| {
            turned_away(session, meter.as_deref(), status);
        })?;
        Ok(Self {
            kind: route.kind(),
            route,
            accepted,
            count: Count::new(session, meter, begun),
            on_connection: Some(place),
            session: Arc::clone(session),
        })
    }

    async fn carry_out(self, requests: Requests) -> Result<Response<Body>, Failure> {
        match self.kind {
            Kind::Unary => self.unary(requests).await,
            Kind::ServerStreaming | Kind::ClientStreaming | Kind::Bidirectional => {
                self.streaming(requests).await
            }
        }
    }

    async fn unary(self, requests: Requests) -> Result<Response<Body>, Failure> {
        // Not before the request has come: one that takes long to arrive takes nobody's place.
        let enter = self.entrance();
        let Self {
            session,
            route,
            accepted: Accepted { context, key, span },
            mut count,
            on_connection,
            ..
        } = self;
        let deadline = context.ends_at();
        let handling = async {
            let (request, _room) = requests.only().await?;
            let data_size = Some(request.len());
            let mut on_server = None;
            let mut handler = match (key, enter()?) {
                (Some(key), Some(place)) => {
                    let run = |request| route.unary(context, request);
                    once(&session, route.path(), &key, place, request, run)?
                }
                (_, place) => {
                    on_server = place;
                    route.unary(context, request)
                }
            };
            count.handled = true;
            if let Some(span) = span {
                let size = |response: &Bytes| Some(response.len());
                handler = Box::pin(span.around(data_size, handler, size));
            }
            let result = guarded(handler).await;
            session.shared.admission.took(count.begun.elapsed());
            let unwritten = on_server.map(Place::answered);
            let (result, queued) = session.queue_answer(result);
            Ok::<_, Failure>((result?, (unwritten, queued)))
        };
        let result = within(deadline, handling).await;
        count.ended(result.as_ref().err());
        let (response, held) = result?;
        let message = message_to(&session, &response)?;
        let frames = [
            Frame::data(message),
            Frame::trailers(head::trailers(Ok(()))),
        ];
        Ok(response_of(stream::iter(frames).inspect(move |_| {
            // Held until the answer is written.
            let _ = (&held, &on_connection);
        })))
    }

    /// Runs the handler beside the response, which gives what it answers: a caller that reads slowly does not keep it
    /// from its deadline.
    async fn streaming(self, requests: Requests) -> Result<Response<Body>, Failure> {
        let place = self.entrance()();
        let Self {
            session,
            route,
            kind,
            accepted: Accepted { context, span, .. },
            mut count,
            on_connection,
        } = self;
        let place = place.inspect_err(|status| count.ended(Some(&status.clone().into())))?;
        count.handled = true;
        let (outgoing, responses) = Outgoing::channel();
        let (ended, result) = oneshot::channel();
        let handler = tokio::spawn(async move {
            let deadline = context.ends_at();
            let incoming = match kind {
                Kind::ServerStreaming => requests.single(),
                _ => requests.incoming(),
            };
            let mut handler = route.streaming(context, incoming, outgoing);
            if let Some(span) = span {
                handler = Box::pin(span.around(None, handler, |()| None));
            }
            let result = within(deadline, guarded(handler)).await;
            count.ended(result.as_ref().err());
            // Nobody waits for a call that was given up.
            let _ = ended.send(result);
            // The call counts until its answer is written, which ends this task, but no longer than the caller wanted to
            // wait.
            let _held = (place.map(Place::answered), on_connection);
            match deadline {
                Some(at) => tokio::time::sleep_until(at.into()).await,
                None => std::future::pending().await,
            }
        });
        let mut answers = Answers {
            session,
            responses,
            result: Some(result),
            _handler: AbortOnDropHandle::new(handler),
        };
        match answers.next().await {
            Some(Answer::Message(first)) => {
                let first = stream::once(std::future::ready(Frame::data(first)));
                Ok(response_of(first.chain(answers.frames())))
            }
            Some(Answer::End(trailers)) => Ok(only_trailers(trailers)),
            None => Err(panicked().into()),
        }
    }

    /// What gives the call its place among all of the server's.
    fn entrance(&self) -> impl FnOnce() -> Result<Option<Place>, Status> + Send + use<> {
        let admission = Arc::clone(&self.session.shared.admission);
        let has_limits = self.on_connection.is_some();
        move || {
            let place = has_limits.then(|| admission.enter());
            place.transpose().map_err(Status::overloaded)
        }
    }
}

/// A route that gRPC clients can call.
fn callable(route: Option<Route>, path: &str) -> Result<Route, Status> {
    let Some(route @ Route::Method { .. }) = route else {
        return Err(unknown_method(path));
    };
    match &route {
        Route::Method { service, .. }
            if service.descriptor().encoding != Encoding::Protobuf =>
        {
            Err(Status::new(
                Code::Unimplemented,
                format!(
                    "`{}` has messages of Rust types (`codec = postcard`), which gRPC clients cannot read; call it \
                     over QUIC",
                    service.descriptor().name
                ),
            )
            .not_processed())
        }
        _ => Ok(route),
    }
}

/// Counts a call once, at its end; one that is dropped before was given up by its caller.
struct Count {
    session: Arc<Session>,
    begun: Instant,
    /// Taken at the end.
    meter: Option<Arc<MethodMeter>>,
    /// Whether a handler has it.
    handled: bool,
}

impl Count {
    /// Without a meter, nothing is counted.
    fn new(session: &Arc<Session>, meter: Option<Arc<MethodMeter>>, begun: Instant) -> Self {
        Self {
            session: Arc::clone(session),
            begun,
            meter,
            handled: false,
        }
    }

    fn ended(&mut self, failure: Option<&Failure>) {
        let Some(meter) = self.meter.take() else {
            return;
        };
        match failure {
            Some(Failure::Status(status)) if !self.handled => {
                turned_away(&self.session, Some(&meter), status);
            }
            failure => {
                meter.answered(self.begun.elapsed());
                if let Some(failure) = failure {
                    meter.failed(code_of(failure));
                }
            }
        }
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        let status = Status::new(Code::Cancelled, "cancelled by the caller");
        self.ended(Some(&status.into()));
    }
}

/// A message with its prefix, counted.
fn message_to(session: &Session, message: &[u8]) -> Result<Bytes, Status> {
    let message = prefixed(message)?;
    if let Some(metrics) = &session.shared.metrics {
        metrics.carried(0, message.len() as u64);
    }
    Ok(message)
}

/// What a handler answers, to its end. Dropped, it ends the handler.
struct Answers {
    session: Arc<Session>,
    responses: mpsc::Receiver<Bytes>,
    /// Taken at the end.
    result: Option<oneshot::Receiver<Result<(), Failure>>>,
    _handler: AbortOnDropHandle<()>,
}

enum Answer {
    /// With its prefix.
    Message(Bytes),
    End(HeaderMap),
}

impl Answers {
    async fn next(&mut self) -> Option<Answer> {
        let result = match self.responses.recv().await {
            Some(response) => match message_to(&self.session, &response) {
                Ok(message) => return Some(Answer::Message(message)),
                Err(status) => return Some(Answer::End(head::trailers(Err(status.into())))),
            },
            None => self.result.take()?.await,
        };
        let result = result.unwrap_or_else(|_| Err(panicked().into()));
        Some(Answer::End(head::trailers(result)))
    }

    fn frames(self) -> impl Stream<Item = Frame<Bytes>> + Send {
        stream::unfold(Some(self), |answers| async move {
            let mut answers = answers?;
            match answers.next().await? {
                Answer::Message(message) => Some((Frame::data(message), Some(answers))),
                Answer::End(trailers) => Some((Frame::trailers(trailers), None)),
            }
        })
    }
}

fn response_of(frames: impl Stream<Item = Frame<Bytes>> + Send + 'static) -> Response<Body> {
    let body = StreamBody::new(frames.map(Ok::<_, Infallible>)).boxed_unsync();
    let mut response = Response::new(body);
    *response.headers_mut() = head::answer();
    response
}

/// An answer without a message: its headers are its trailers.
fn only_trailers(trailers: HeaderMap) -> Response<Body> {
    let mut response = Response::new(Empty::new().boxed_unsync());
    *response.headers_mut() = head::answer();
    response.headers_mut().extend(trailers);
    response
}

fn refusal(refused: Refused) -> Response<Body> {
    match refused {
        Refused::Grpc(status, headers) => {
            let mut trailers = head::trailers(Err(Failure::Status(*status)));
            trailers.extend(headers);
            only_trailers(trailers)
        }
        Refused::Http(status, headers) => {
            let mut response = Response::new(Empty::new().boxed_unsync());
            *response.status_mut() = status;
            *response.headers_mut() = headers;
            response
        }
    }
}
