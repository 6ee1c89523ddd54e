//! How a call ends other than well: [`Status`] from the machinery, [`CallError`] at the caller.

use std::fmt;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The longest message of a status, in bytes; longer ones are cut at a character.
const MAX_MESSAGE_BYTES: usize = 1024;

/// What kind of failure it is. Numbers and meanings are gRPC's, so that both protocols say the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[repr(u8)]
pub enum Code {
    /// The caller gave up.
    Cancelled = 1,
    /// An error of the service that it gave no code.
    Unknown = 2,
    /// The request cannot be right, whatever the state of the service.
    InvalidArgument = 3,
    /// The time the caller allowed is over. The call may have been carried out.
    DeadlineExceeded = 4,
    /// What was asked for does not exist.
    NotFound = 5,
    /// What was to be created exists.
    AlreadyExists = 6,
    /// The caller is known and may not do this.
    PermissionDenied = 7,
    /// A limit is reached: calls in flight, message size, quota.
    ResourceExhausted = 8,
    /// The service is not in the state the request needs.
    FailedPrecondition = 9,
    /// A conflict with another call; begin anew.
    Aborted = 10,
    /// Beyond the valid range.
    OutOfRange = 11,
    /// The other side knows no such method, or does not speak this version.
    Unimplemented = 12,
    /// The service is broken.
    Internal = 13,
    /// The other side cannot be reached, or is shutting down.
    Unavailable = 14,
    /// Data is lost or damaged.
    DataLoss = 15,
    /// The caller did not prove who it is.
    Unauthenticated = 16,
}

impl Code {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::Cancelled,
        Self::Unknown,
        Self::InvalidArgument,
        Self::DeadlineExceeded,
        Self::NotFound,
        Self::AlreadyExists,
        Self::PermissionDenied,
        Self::ResourceExhausted,
        Self::FailedPrecondition,
        Self::Aborted,
        Self::OutOfRange,
        Self::Unimplemented,
        Self::Internal,
        Self::Unavailable,
        Self::DataLoss,
        Self::Unauthenticated,
    ];

    /// The name as metrics and logs have it, e.g. `deadline_exceeded`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Cancelled => "cancelled",
            Self::Unknown => "unknown",
            Self::InvalidArgument => "invalid_argument",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::NotFound => "not_found",
            Self::AlreadyExists => "already_exists",
            Self::PermissionDenied => "permission_denied",
            Self::ResourceExhausted => "resource_exhausted",
            Self::FailedPrecondition => "failed_precondition",
            Self::Aborted => "aborted",
            Self::OutOfRange => "out_of_range",
            Self::Unimplemented => "unimplemented",
            Self::Internal => "internal",
            Self::Unavailable => "unavailable",
            Self::DataLoss => "data_loss",
            Self::Unauthenticated => "unauthenticated",
        }
    }
}

/// Why a call failed, as it crosses the wire.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    code: Code,
    message: String,
    /// Set when the other side says when to come back.
    retry_after: Option<Duration>,
    /// Whether the call certainly had no effect, so that anyone may try it elsewhere.
    not_processed: bool,
}

impl Status {
    /// A failure of kind `code`; `message` is for people and is cut at 1 KiB.
    #[must_use]
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        let mut message = message.into();
        if message.len() > MAX_MESSAGE_BYTES {
            let end = (0..=MAX_MESSAGE_BYTES)
                .rev()
                .find(|&at| message.is_char_boundary(at))
                .unwrap_or(0);
            message.truncate(end);
        }
        Self {
            code,
            message,
            retry_after: None,
            not_processed: false,
        }
    }

    /// The server has as many calls as it takes: nothing was done, come back after `retry_after`.
    #[must_use]
    pub fn overloaded(retry_after: Duration) -> Self {
        let mut status = Self::new(
            Code::ResourceExhausted,
            format!("the server is at its limit of calls in flight; try again in {retry_after:?}"),
        );
        status.retry_after = Some(retry_after);
        status.not_processed = true;
        status
    }

    /// The same failure, with the assurance that the call had no effect.
    #[must_use]
    pub fn not_processed(mut self) -> Self {
        self.not_processed = true;
        self
    }

    /// The same failure, without that assurance.
    #[must_use]
    pub(crate) const fn of_unknown_effect(mut self) -> Self {
        self.not_processed = false;
        self
    }

    /// What kind of failure it is.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.code
    }

    /// What happened, for people.
    #[must_use]
    pub fn message(&self) -> &str {
        &self.message
    }

    /// When the other side wants to be asked again, if it said so: it is overloaded.
    #[must_use]
    pub const fn retry_after(&self) -> Option<Duration> {
        self.retry_after
    }

    /// Whether the call certainly had no effect.
    #[must_use]
    pub const fn had_no_effect(&self) -> bool {
        self.not_processed
    }
}

impl fmt::Debug for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Status({}: {})", self.code.name(), self.message)
    }
}

impl fmt::Display for Status {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Status {}

/// How a call ends badly at the caller: the service's own error, or the machinery's.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CallError<E> {
    /// The handler ran and answered with its error.
    #[error("{0}")]
    Application(E),
    /// The call did not end with an answer of the handler. [`Status::had_no_effect`] says whether it may have run.
    #[error("{0}")]
    Status(Status),
}

impl<E> CallError<E> {
    /// The machinery's status, if it was not the service that refused.
    #[must_use]
    pub const fn status(&self) -> Option<&Status> {
        match self {
            Self::Application(_) => None,
            Self::Status(status) => Some(status),
        }
    }
}

impl<E> From<Status> for CallError<E> {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}
