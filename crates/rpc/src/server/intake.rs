//! What every call goes through between its arrival and its handler, whatever it arrived on: who calls, what the caller may,
//! which key and which trace it has; and the log lines around the handler.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use futures::FutureExt;
use tracing::{Instrument, Level, Span, field};

use super::session::Session;
use crate::authorize::{AuthorizeRequest, bearer_token, insufficient_permissions};
use crate::context::{Context, IDEMPOTENCY_KEY, REQUEST_ID};
use crate::core::claims::Claims;
use crate::core::frame::Terms;
use crate::core::metadata::Metadata;
use crate::core::trace::{TRACEPARENT, TRACESTATE, TraceParent, uuid};
use crate::observe::{MethodMeter, Refused};
use crate::service::{Failure, Route};
use crate::status::{Code, Status};

/// The longest idempotency key.
const MAX_KEY_BYTES: usize = 255;
/// The longest request id taken over from a caller.
const MAX_REQUEST_ID_BYTES: usize = 64;
/// The target of the lines about single calls.
const TARGET: &str = "warren_rpc::request";

/// A call that may go to its handler.
pub(crate) struct Accepted {
    pub(crate) context: Context,
    /// Its idempotency key.
    pub(crate) key: Option<String>,
    /// Where its lines go; `None` while nobody reads them.
    pub(crate) span: Option<RequestSpan>,
}

/// Decides whether a call may go to its handler, and makes what the handler gets.
///
/// # Errors
/// What the caller gets; nothing was done then.
pub(crate) fn accept(
    session: &Session,
    route: &Route,
    mut terms: Terms<Metadata>,
    takes_key: bool,
    now: Instant,
) -> Result<Accepted, Status> {
    let metadata = &mut terms.metadata;
    let claims = authorize(session, route, metadata)?;
    let logged = tracing::enabled!(target: TARGET, Level::DEBUG);
    let mut key = None;
    let mut span = None;
    if logged || !metadata.is_empty() {
        key = metadata.take(IDEMPOTENCY_KEY);
        if key
            .as_ref()
            .is_some_and(|key| !(1..=MAX_KEY_BYTES).contains(&key.len()) || !takes_key)
        {
            return Err(Status::new(
                Code::InvalidArgument,
                "idempotency keys have 1 to 255 characters and go along with unary calls only",
            )
            .not_processed());
        }
        let step = next_step(metadata, logged);
        if logged {
            span = Some(RequestSpan::new(session, route, metadata, step));
        }
    }
    let caller = Arc::clone(&session.member);
    Ok(Accepted {
        context: Context::received(terms, caller, claims, now),
        key,
        span,
    })
}

fn authorize(
    session: &Session,
    route: &Route,
    metadata: &Metadata,
) -> Result<Option<Arc<Claims>>, Status> {
    let (path, permission) = declared(route);
    match &session.shared.authorizer {
        Some(authorizer) => authorizer.authorize(&AuthorizeRequest {
            path,
            permission,
            caller: &session.member,
            token: bearer_token(metadata)?,
            now: SystemTime::now(),
        }),
        // Nobody here can tell who holds it.
        None if permission.is_some() => Err(insufficient_permissions()),
        None => Ok(None),
    }
}

/// Where the calls of a route are counted; `None`: of a method that is not here.
pub(crate) fn meter_of(session: &Session, route: Option<&Route>) -> Option<Arc<MethodMeter>> {
    let metrics = session.shared.metrics.as_ref()?;
    Some(match route {
        Some(Route::Method { method, .. }) => metrics.method(&method.path),
        Some(Route::Fallback { .. }) => metrics.passed_on(),
        None => metrics.stray(),
    })
}

/// Counts a call that no handler saw.
pub(crate) fn turned_away(session: &Session, meter: Option<&MethodMeter>, status: &Status) {
    session.shared.refused(Refused::of(status));
    if let Some(meter) = meter {
        meter.turned_away(status.code());
    }
}

/// What kind of failure it is.
pub(crate) const fn code_of(failure: &Failure) -> Code {
    match failure {
        Failure::Application { status, .. } | Failure::Status(status) => status.code(),
    }
}

/// The path of a route and the permission that its method declares.
fn declared(route: &Route) -> (&str, Option<&str>) {
    match route {
        Route::Method { method, .. } => (&method.path, method.permission.as_deref()),
        Route::Fallback { path, .. } => (path, None),
    }
}

/// This server's step of the call's trace, put where the calls that the handler makes take it from. A call that belongs
/// to none begins one if that is `wanted`.
fn next_step(metadata: &mut Metadata, wanted: bool) -> Option<TraceParent> {
    let step = match metadata.get(TRACEPARENT) {
        Some(value) => match TraceParent::parse(value) {
            Some(parent) => Some(parent.child(random())),
            None => {
                // Section 3.2.2.1: without a parent the state means nothing.
                metadata.take(TRACEPARENT);
                metadata.take(TRACESTATE);
                None
            }
        },
        None => None,
    };
    let step = step.or_else(|| wanted.then(|| TraceParent::start(random(), random())))?;
    // Where metadata is full the trace ends here.
    let _ = metadata.insert(TRACEPARENT, &step.to_string());
    Some(step)
}

/// Not all zero but once in 2^64 times; where the system has no randomness, ids are the same.
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [1; N];
    let _ = aws_lc_rs::rand::fill(&mut bytes);
    bytes
}

/// The lines about one call: `Processing request`, then `Request completed` or `Request failed`. Never the payload.
pub(crate) struct RequestSpan {
    span: Span,
    request_id: String,
    worker_id: String,
}

impl RequestSpan {
    fn new(
        session: &Session,
        route: &Route,
        metadata: &mut Metadata,
        step: Option<TraceParent>,
    ) -> Self {
        let request_id = match metadata.get(REQUEST_ID).filter(|id| is_request_id(id)) {
            Some(id) => id.to_owned(),
            None => {
                let id = uuid(random());
                // Where metadata is full, other servers name the request anew.
                let _ = metadata.insert(REQUEST_ID, &id);
                id
            }
        };
        let worker_id = session.shared.worker_id.clone();
        let span = tracing::debug_span!(
            target: TARGET,
            "process_request",
            request_id,
            worker_id,
            trace_id = step.map(|step| step.trace_id()),
            span_id = step.map(|step| step.parent_id()),
            method = declared(route).0,
            caller = %session.member.peer_id,
            data_size = field::Empty,
            response_size = field::Empty,
            error = field::Empty,
        );
        Self {
            span,
            request_id,
            worker_id,
        }
    }

    /// The handler with its lines; `size` is how many bytes an answer has, where there is one.
    pub(crate) async fn around<T>(
        self,
        data_size: Option<usize>,
        handler: impl Future<Output = Result<T, Failure>>,
        size: impl FnOnce(&T) -> Option<usize>,
    ) -> Result<T, Failure> {
        let Self {
            span,
            request_id,
            worker_id,
        } = self;
        span.record("data_size", data_size);
        let inner = span.clone();
        async move {
            tracing::debug!(target: TARGET, request_id, worker_id, data_size, "Processing request");
            let result = handler.await;
            match &result {
                Ok(answer) => {
                    let response_size = size(answer);
                    inner.record("response_size", response_size);
                    tracing::debug!(target: TARGET, request_id, worker_id, response_size, "Request completed");
                }
                Err(Failure::Application { status, .. } | Failure::Status(status)) => {
                    let error = format!("{}: {status}", status.code().name());
                    inner.record("error", &error);
                    tracing::debug!(target: TARGET, request_id, worker_id, error, "Request failed");
                }
            }
            result
        }
        .instrument(span)
        .await
    }
}

/// Whether a line may carry it as it is.
fn is_request_id(id: &str) -> bool {
    (1..=MAX_REQUEST_ID_BYTES).contains(&id.len())
        && id
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
}

/// A handler whose panic is an answer: one bad request must not take the calls of others along.
pub(crate) async fn guarded<T>(
    handler: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    AssertUnwindSafe(handler)
        .catch_unwind()
        .await
        .unwrap_or_else(|_| Err(panicked().into()))
}

/// What the caller of a handler that panicked gets.
pub(crate) fn panicked() -> Status {
    Status::new(Code::Internal, "the handler panicked")
}
