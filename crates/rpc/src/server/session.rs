//! What the calls of one connection share, whatever protocol it speaks: who calls, and how much of the server it has.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use tokio::sync::Semaphore;
use warren_identity::Member;

use super::{Phase, ServerOptions, Shared};
use crate::core::frame::MAX_OVERHEAD_BYTES;
use crate::service::Failure;
use crate::status::{Code, Status};

/// What big requests are counted in.
pub(crate) const BUDGET_UNIT_BYTES: usize = 1024;

/// A member's connection.
pub(crate) struct Session {
    pub(crate) shared: Arc<Shared>,
    pub(crate) member: Arc<Member>,
    /// Room for big requests, in units of [`BUDGET_UNIT_BYTES`].
    pub(crate) request_budget: Arc<Semaphore>,
    calls: AtomicUsize,
    /// Bytes of answers that wait for the client to take them.
    queued_answers: AtomicUsize,
}

/// Bytes of an answer that wait to be taken, counted until dropped.
pub(crate) struct QueuedAnswer {
    session: Arc<Session>,
    bytes: usize,
}

/// A call's place on its connection, given back when dropped.
pub(crate) struct ConnectionPlace(Arc<Session>);

impl Session {
    pub(crate) fn new(shared: Arc<Shared>, member: Member) -> Arc<Self> {
        Arc::new(Self {
            request_budget: Arc::new(Semaphore::new(budget_units(&shared.options))),
            shared,
            member: Arc::new(member),
            calls: AtomicUsize::new(0),
            queued_answers: AtomicUsize::new(0),
        })
    }

    /// A place for one more call on this connection.
    ///
    /// # Errors
    /// The connection has as many calls as it may have.
    pub(crate) fn enter(self: &Arc<Self>) -> Result<ConnectionPlace, Status> {
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        let place = ConnectionPlace(Arc::clone(self));
        if before >= self.shared.options.max_calls_per_connection as usize {
            return Err(Status::overloaded(self.shared.admission.retry_after()));
        }
        Ok(place)
    }

    /// Counts an answer that is to be sent. One beyond what may wait becomes a failure: its client asks without reading.
    pub(crate) fn queue_answer(
        self: &Arc<Self>,
        result: Result<Bytes, Failure>,
    ) -> (Result<Bytes, Failure>, QueuedAnswer) {
        let bytes = match &result {
            Ok(response) => response.len(),
            Err(Failure::Application { encoded, .. }) => encoded.len(),
            Err(Failure::Status(_)) => 0,
        };
        let before = self.queued_answers.fetch_add(bytes, Ordering::Relaxed);
        let mut queued = QueuedAnswer {
            session: Arc::clone(self),
            bytes,
        };
        if before == 0 || before + bytes <= self.shared.options.max_queued_bytes_per_connection {
            return (result, queued);
        }
        self.queued_answers.fetch_sub(bytes, Ordering::Relaxed);
        queued.bytes = 0;
        let status = Status::new(
            Code::ResourceExhausted,
            "the call was carried out, but more answers wait than this client takes",
        );
        (Err(status.into()), queued)
    }

    pub(crate) fn is_draining(&self) -> bool {
        *self.shared.phase.borrow() != Phase::Serving
    }
}

impl Drop for QueuedAnswer {
    fn drop(&mut self) {
        let queued = &self.session.queued_answers;
        queued.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Drop for ConnectionPlace {
    fn drop(&mut self) {
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// How much big requests may take, at least one of the largest.
fn budget_units(options: &ServerOptions) -> usize {
    options
        .max_queued_bytes_per_connection
        .max(2 * (options.max_message_bytes + MAX_OVERHEAD_BYTES))
        .div_ceil(BUDGET_UNIT_BYTES)
}
