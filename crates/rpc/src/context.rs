//! What goes along with a call: its deadline, its metadata, and at the server who calls.

use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_identity::Member;

use crate::core::claims::Claims;
use crate::core::frame::Terms;
use crate::core::metadata::{Metadata, MetadataError};
use crate::core::trace::{TRACEPARENT, TraceParent};
use crate::descriptor::Method;
use crate::status::{Code, Status};

/// The metadata key of [`Context::with_idempotency_key`].
pub(crate) const IDEMPOTENCY_KEY: &str = "idempotency-key";
/// The metadata key of [`Context::request_id`].
pub(crate) const REQUEST_ID: &str = "x-request-id";

/// Milliseconds, for deadlines: `Context::deadline(ms(200))`.
#[must_use]
pub const fn ms(milliseconds: u64) -> Duration {
    Duration::from_millis(milliseconds)
}

/// What goes along with a call. The caller makes one; the handler gets one with the same deadline and metadata, and
/// passes it on to the calls it makes, so that the deadline travels and shrinks. Cloning is cheap.
#[derive(Clone, Debug, Default)]
pub struct Context {
    deadline: Option<Instant>,
    /// At the server: what the caller said of the method.
    idempotent: bool,
    /// Absent while there is nothing in it: most calls carry neither.
    baggage: Option<Arc<Baggage>>,
}

#[derive(Clone, Debug, Default)]
struct Baggage {
    metadata: Metadata,
    caller: Option<Arc<Member>>,
    claims: Option<Arc<Claims>>,
}

impl Context {
    /// A call that may take as long as it takes.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// A call that is given up `after` that time from now, at the caller and at every server that works for it.
    #[must_use]
    pub fn deadline(after: Duration) -> Self {
        Self::new().with_deadline(after)
    }

    /// The same, given up `after` that time from now unless it was to end earlier already.
    #[must_use]
    pub fn with_deadline(mut self, after: Duration) -> Self {
        // A time beyond what the clock can say is no deadline.
        if let Some(at) = Instant::now().checked_add(after) {
            self.deadline = Some(self.deadline.map_or(at, |earlier| earlier.min(at)));
        }
        self
    }

    /// When the call is given up.
    #[must_use]
    pub const fn ends_at(&self) -> Option<Instant> {
        self.deadline
    }

    /// The time left at `now`; zero when it is over.
    #[must_use]
    pub fn remaining(&self, now: Instant) -> Option<Duration> {
        self.deadline.map(|at| at.saturating_duration_since(now))
    }

    /// The same, with `key: value` among the metadata, replacing an older value.
    ///
    /// # Errors
    /// [`MetadataError`] when the key is no header name or the whole grows beyond its limit.
    pub fn with_metadata(mut self, key: &str, value: &str) -> Result<Self, MetadataError> {
        self.baggage_mut().metadata.insert(key, value)?;
        Ok(self)
    }

    /// The value of `key`, if it came along.
    #[must_use]
    pub fn metadata(&self, key: &str) -> Option<&str> {
        self.baggage.as_ref()?.metadata.get(key)
    }

    /// All that came along.
    #[must_use]
    pub fn all_metadata(&self) -> Option<&Metadata> {
        self.baggage
            .as_ref()
            .map(|baggage| &baggage.metadata)
            .filter(|metadata| !metadata.is_empty())
    }

    /// At the server: the member that calls, as its certificate says. `None` at the caller.
    #[must_use]
    pub fn caller(&self) -> Option<&Member> {
        self.baggage.as_ref()?.caller.as_deref()
    }

    /// At the server: whether the caller says that carrying the call out twice is as good as once.
    #[must_use]
    pub const fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// The same, with a key under which a server carries the call out once, however often it is sent: while it runs the
    /// others wait for it, for ten minutes afterwards they get its answer. Such a call goes on when its caller goes
    /// away or gives up. A key belongs to one caller, one unary method and one request, and to one server: another knows
    /// nothing of it. It does not go along with the calls that the handler makes. 1 to 255 characters, random ones best.
    ///
    /// # Errors
    /// [`MetadataError`].
    pub fn with_idempotency_key(self, key: &str) -> Result<Self, MetadataError> {
        self.with_metadata(IDEMPOTENCY_KEY, key)
    }

    /// At a server with an authorizer: what the caller's token says, verified.
    #[must_use]
    pub fn claims(&self) -> Option<&Claims> {
        self.baggage.as_ref()?.claims.as_deref()
    }

    /// The trace the call belongs to (W3C Trace Context), if it belongs to one. At a server, the step is the server's
    /// own: calls made with this context are its children.
    #[must_use]
    pub fn trace_parent(&self) -> Option<TraceParent> {
        TraceParent::parse(self.metadata(TRACEPARENT)?)
    }

    /// What log lines call the request, the same at every server that works for it, if any of them logs it.
    #[must_use]
    pub fn request_id(&self) -> Option<&str> {
        self.metadata(REQUEST_ID)
    }

    /// The context a handler gets, of a call that was read at `now`.
    pub(crate) fn received(
        terms: Terms<Metadata>,
        caller: Arc<Member>,
        claims: Option<Arc<Claims>>,
        now: Instant,
    ) -> Self {
        let baggage = Baggage {
            metadata: terms.metadata,
            caller: Some(caller),
            claims,
        };
        Self {
            deadline: terms.timeout.and_then(|timeout| now.checked_add(timeout)),
            idempotent: terms.idempotent,
            baggage: Some(Arc::new(baggage)),
        }
    }

    /// What a call of `method` says beside the request.
    pub(crate) fn terms(&self, method: &Method) -> Terms<Option<&Metadata>> {
        Terms {
            timeout: self.time_left(),
            idempotent: method.idempotent,
            metadata: self.all_metadata(),
        }
    }

    /// Refuses a call whose time is over.
    ///
    /// # Errors
    /// [`Code::DeadlineExceeded`], and nothing was done.
    pub(crate) fn check(&self) -> Result<(), Status> {
        match self.time_left() {
            Some(left) if left.is_zero() => Err(Status::new(
                Code::DeadlineExceeded,
                "the deadline had passed before the call was sent",
            )
            .not_processed()),
            _ => Ok(()),
        }
    }

    /// Does not read the clock for a call without a deadline.
    fn time_left(&self) -> Option<Duration> {
        self.deadline.and_then(|_| self.remaining(Instant::now()))
    }

    fn baggage_mut(&mut self) -> &mut Baggage {
        Arc::make_mut(self.baggage.get_or_insert_default())
    }
}
