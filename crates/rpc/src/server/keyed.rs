//! Calls with idempotency keys: each runs once in a task of its own, whatever becomes of those who wait for it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use aws_lc_rs::digest;
use bytes::Bytes;
use tokio::sync::oneshot;
use tokio_util::task::TaskTracker;

use super::intake::guarded;
use super::session::Session;
use super::{Phase, Shared};
use crate::core::admission::Place;
use crate::core::dedupe::{Begin, Dedupe, DedupeKey, DedupeLimits, RequestDigest};
use crate::service::{BoxFuture, Failure};
use crate::status::{Code, Status};

type HandlerResult = Result<Bytes, Failure>;
type Waiter = oneshot::Sender<HandlerResult>;

/// The keys of a server's callers, and what runs under them.
pub(super) struct Keyed {
    table: Mutex<Dedupe<HandlerResult, Waiter>>,
    running: TaskTracker,
}

impl Keyed {
    pub(super) fn new(limits: DedupeLimits) -> Self {
        Self {
            table: Mutex::new(Dedupe::new(limits)),
            running: TaskTracker::new(),
        }
    }

    fn table(&self) -> MutexGuard<'_, Dedupe<HandlerResult, Waiter>> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Carries a call out unless its key has been; the future gives the answer of the one execution. `run` makes the handler
/// and is called where there is something to carry out; the execution keeps `place` then.
///
/// # Errors
/// What the caller gets; nothing was done then.
pub(crate) fn once(
    session: &Session,
    path: &str,
    key: &str,
    place: Place,
    request: Bytes,
    run: impl FnOnce(Bytes) -> BoxFuture<HandlerResult>,
) -> Result<BoxFuture<HandlerResult>, Status> {
    let shared = &session.shared;
    let key = DedupeKey {
        caller: session.member.peer_id,
        method: path.into(),
        key: key.into(),
    };
    let (waiter, answer) = oneshot::channel();
    let begun = shared
        .keyed
        .table()
        .begin(&key, digest_of(&request), waiter, Instant::now());
    match begun {
        Begin::Run => {
            let execution = execute(Arc::clone(shared), key, place, run(request));
            shared.keyed.running.spawn(execution);
        }
        Begin::Wait => {}
        Begin::Answered(answer) => return Ok(Box::pin(std::future::ready(answer))),
        Begin::OtherRequest => {
            return Err(Status::new(
                Code::InvalidArgument,
                "the idempotency key stands for another request; use a new key for each",
            )
            .not_processed());
        }
        Begin::Full => return Err(Status::overloaded(shared.admission.retry_after())),
    }
    Ok(Box::pin(async move {
        answer.await.unwrap_or_else(|_| Err(stopped().into()))
    }))
}

/// Not held to the caller's deadline: whoever asks again wants to know how it ended.
async fn execute(
    shared: Arc<Shared>,
    key: DedupeKey,
    place: Place,
    handler: BoxFuture<HandlerResult>,
) {
    let mut phase = shared.phase.subscribe();
    let result = tokio::select! {
        result = guarded(handler) => result,
        _ = phase.wait_for(|phase| *phase == Phase::Stopped) => Err(stopped().into()),
    };
    let waiters = if had_no_effect(&result) {
        shared.keyed.table().forget(&key)
    } else {
        let bytes = size_of_answer(&result) + key.key.len() + key.method.len();
        let answer = result.clone();
        shared
            .keyed
            .table()
            .complete(&key, answer, bytes, Instant::now())
    };
    drop(place);
    for waiter in waiters {
        // Whoever gave up needs no answer.
        let _ = waiter.send(result.clone());
    }
}

fn stopped() -> Status {
    Status::new(
        Code::Unavailable,
        "the server stopped while it carried the call out; it may have had its effect",
    )
}

fn had_no_effect(result: &HandlerResult) -> bool {
    matches!(result, Err(Failure::Status(status) | Failure::Application { status, .. }) if status.had_no_effect())
}

fn size_of_answer(result: &HandlerResult) -> usize {
    match result {
        Ok(response) => response.len(),
        Err(Failure::Application { encoded, status }) => encoded.len() + status.message().len(),
        Err(Failure::Status(status)) => status.message().len(),
    }
}

fn digest_of(request: &[u8]) -> RequestDigest {
    let mut out = [0; 32];
    // SHA-256 gives 32 bytes.
    out.copy_from_slice(digest::digest(&digest::SHA256, request).as_ref());
    out
}
