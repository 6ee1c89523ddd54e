//! A refused or failed request, in the one JSON shape of CF-15.

use std::{
    net::IpAddr,
    sync::{
        OnceLock,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use serde_json::json;

use crate::{
    core::{grants::Denied, registry::Conflict},
    engine::{EngineError, RedeemError, RegistryError},
    wire::{ErrorAnswer, ErrorDetail},
};

/// How long a client should wait when the registry's database is away.
const DATABASE_RETRY: Duration = Duration::from_secs(10);

/// A refused or failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    details: serde_json::Value,
    retry_after: Option<Duration>,
}

impl ApiError {
    pub(crate) fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            code,
            message: message.into(),
            details: json!({}),
            retry_after: None,
        }
    }

    pub(crate) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(crate) fn unauthenticated(message: impl Into<String>) -> Self {
        Self::new(StatusCode::UNAUTHORIZED, "unauthenticated", message)
    }

    pub(crate) fn forbidden(message: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "forbidden", message)
    }

    pub(crate) fn rate_limited(source: IpAddr, after: Duration) -> Self {
        Self {
            retry_after: Some(after),
            ..Self::new(
                StatusCode::TOO_MANY_REQUESTS,
                "rate_limited",
                format!(
                    "too many requests from {source}; wait {} s",
                    whole_seconds(after)
                ),
            )
        }
    }

    pub(crate) fn too_slow(limit: Duration) -> Self {
        Self::new(
            StatusCode::REQUEST_TIMEOUT,
            "timeout",
            format!(
                "the request was not complete, or not answered, within {} s",
                limit.as_secs()
            ),
        )
    }

    pub(crate) fn with_details(mut self, details: serde_json::Value) -> Self {
        self.details = details;
        self
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }
}

impl From<EngineError> for ApiError {
    fn from(error: EngineError) -> Self {
        // The log names the database; the client learns only that it is away.
        tracing::warn!("registry: {error}");
        match error {
            EngineError::Unavailable { .. } | EngineError::Open { .. } => Self {
                retry_after: Some(DATABASE_RETRY),
                ..Self::new(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "registry_unavailable",
                    "this server's registry cannot be used right now; try again, or ask another server",
                )
            },
            EngineError::Corrupt { .. } => Self::new(
                StatusCode::INTERNAL_SERVER_ERROR,
                "registry_corrupt",
                "this server's registry holds something it cannot read; see its log",
            ),
        }
    }
}

impl From<Conflict> for ApiError {
    fn from(conflict: Conflict) -> Self {
        let (status, code) = match conflict {
            Conflict::Replayed => (StatusCode::CONFLICT, "replayed"),
            Conflict::StaleRecord { .. } => (StatusCode::CONFLICT, "stale_record"),
            Conflict::NotRegistered => (StatusCode::NOT_FOUND, "not_registered"),
        };
        Self::new(status, code, conflict.to_string())
    }
}

impl From<RegistryError> for ApiError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Conflict(conflict) => conflict.into(),
            RegistryError::Engine(error) => error.into(),
        }
    }
}

impl From<RedeemError> for ApiError {
    fn from(error: RedeemError) -> Self {
        match error {
            RedeemError::Denied(denied) => {
                let (status, code) = match denied {
                    Denied::Unknown => (StatusCode::UNAUTHORIZED, "token_unknown"),
                    Denied::Expired(_) => (StatusCode::GONE, "token_expired"),
                    Denied::Used { .. } => (StatusCode::CONFLICT, "token_used"),
                };
                Self::new(status, code, denied.to_string())
            }
            RedeemError::Sign(_) => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "not_issued",
                error.to_string(),
            ),
            RedeemError::Engine(error) => error.into(),
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let request_id = next_request_id();
        if self.status.is_server_error() {
            tracing::warn!(
                request_id,
                code = self.code,
                "request failed: {}",
                self.message
            );
        } else {
            tracing::debug!(
                request_id,
                code = self.code,
                "request refused: {}",
                self.message
            );
        }
        let answer = ErrorAnswer {
            error: ErrorDetail {
                code: self.code.to_owned(),
                message: self.message,
                details: self.details,
                request_id,
                timestamp: super::now().rfc3339(),
            },
        };
        let mut response = (self.status, Json(answer)).into_response();
        if let Some(after) = self.retry_after {
            response
                .headers_mut()
                .insert(header::RETRY_AFTER, HeaderValue::from(whole_seconds(after)));
        }
        response
    }
}

/// Rounded up: a client that waits as told must not come too early.
pub(crate) fn whole_seconds(span: Duration) -> u64 {
    span.as_secs() + u64::from(span.subsec_nanos() > 0)
}

/// Unique within a run of the process; the start time tells runs apart.
fn next_request_id() -> String {
    static STARTED_MS: OnceLock<u64> = OnceLock::new();
    static NEXT: AtomicU64 = AtomicU64::new(1);
    let started_ms = STARTED_MS.get_or_init(|| super::now().0);
    format!("{started_ms:x}-{:x}", NEXT.fetch_add(1, Ordering::Relaxed))
}
