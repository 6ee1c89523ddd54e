//! How routes about content answer: headers, and which status a failure of the store or of a retrieval has.

use std::time::SystemTime;

use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use warren_content::retrieve::RetrieveError;
use warren_content::store::{PutError, ReadError, StoreError};
use warren_identity::UnixMillis;
use warren_telemetry::SourceType;

use crate::error::ApiError;

/// What an id stands for never changes.
const FOREVER: &str = "private, max-age=31536000, immutable";
/// Says which source served the answer: `local` or `p2p`.
const SOURCE_HEADER: &str = "x-warren-source";

pub(super) fn put_error(error: PutError) -> ApiError {
    match error {
        PutError::Store(error) => store_error(error),
        PutError::Manifest(_) | PutError::Record(_) => ApiError::bad_request(error.to_string()),
        PutError::Source { .. } => ApiError::new(
            StatusCode::BAD_REQUEST,
            "incomplete",
            format!("nothing was stored: {error}"),
        ),
        PutError::Sign(_) => ApiError::internal(error.to_string()),
    }
}

pub(super) fn store_error(error: StoreError) -> ApiError {
    let message = error.to_string();
    match error {
        StoreError::NoSpace | StoreError::Quota { .. } => {
            ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", message)
        }
        StoreError::ReadOnly => {
            ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "read_only", message)
        }
        _ => ApiError::internal(message),
    }
}

/// Stored content is somebody's upload: a browser must neither guess its type nor run it.
pub(super) fn content_headers(
    etag: &str,
    source: SourceType,
    kind: &'static str,
    name: &str,
) -> HeaderMap {
    let mut headers = HeaderMap::new();
    let text =
        |value: &str| HeaderValue::from_str(value).unwrap_or_else(|_| HeaderValue::from_static(""));
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(header::ETAG, text(etag));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(FOREVER));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(
        header::CONTENT_DISPOSITION,
        text(&format!("attachment; filename=\"{name}\"")),
    );
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    headers.insert(
        header::CONTENT_SECURITY_POLICY,
        HeaderValue::from_static("default-src 'none'; sandbox"),
    );
    headers.insert(SOURCE_HEADER, HeaderValue::from_static(source.as_str()));
    headers
}

pub(super) fn not_modified(etag: &str) -> Response {
    let etag = HeaderValue::from_str(etag).unwrap_or_else(|_| HeaderValue::from_static(""));
    let headers = [
        (header::ETAG, etag),
        (header::CACHE_CONTROL, HeaderValue::from_static(FOREVER)),
    ];
    (StatusCode::NOT_MODIFIED, headers).into_response()
}

pub(super) fn read_error(error: ReadError) -> ApiError {
    match error {
        ReadError::UnknownDocument(_) => ApiError::not_found(error.to_string()),
        ReadError::Store(error) => store_error(error),
        _ => ApiError::internal(error.to_string()),
    }
}

pub(super) fn retrieve_error(error: RetrieveError) -> ApiError {
    let message = error.to_string();
    match error {
        RetrieveError::Unavailable { .. } => ApiError::not_found(message),
        RetrieveError::Malformed { .. } => {
            ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "malformed", message)
        }
        RetrieveError::IsADirectory { .. } | RetrieveError::NotADirectory { .. } => {
            ApiError::bad_request(message)
        }
        RetrieveError::Range { .. } => ApiError::new(
            StatusCode::RANGE_NOT_SATISFIABLE,
            "range_not_satisfiable",
            message,
        ),
        RetrieveError::Read(error) => read_error(error),
        RetrieveError::Store(error) => store_error(error),
        RetrieveError::List { .. } => ApiError::internal(message),
        RetrieveError::Stopped => ApiError::unavailable(message, 5),
    }
}

/// The time of the request.
pub(super) fn now() -> UnixMillis {
    SystemTime::now().into()
}
