//! The headers of a call, and those of its answer.

use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD_NO_PAD;
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use hyper::http::request::Parts;
use hyper::{Method, StatusCode};

use crate::core::frame::Terms;
use crate::core::grpc::{parse_timeout, percent_encoded};
use crate::core::metadata::Metadata;
use crate::service::Failure;
use crate::status::{Code, Status};

/// What answers are, and requests begin with.
const GRPC: &str = "application/grpc";
/// A service's own errors up to this many bytes go along with the status; more would not fit among headers.
const MAX_ERROR_BYTES: usize = 4 * 1024;

const STATUS: HeaderName = HeaderName::from_static("grpc-status");
const MESSAGE: HeaderName = HeaderName::from_static("grpc-message");
const PUSHBACK: HeaderName = HeaderName::from_static("grpc-retry-pushback-ms");
const ACCEPT_ENCODING: HeaderName = HeaderName::from_static("grpc-accept-encoding");
/// The service's own error in its codec; base64, as all values of keys that end in `-bin`.
const ERROR: HeaderName = HeaderName::from_static("application-error-bin");

/// A request that is no call, or one that cannot be read.
#[derive(Debug)]
pub(super) enum Refused {
    /// Not gRPC: whoever sent it understands HTTP.
    Http(StatusCode, HeaderMap),
    /// gRPC: a status, and what goes along with it.
    Grpc(Box<Status>, HeaderMap),
}

impl From<Status> for Refused {
    fn from(status: Status) -> Self {
        Self::Grpc(Box::new(status.not_processed()), HeaderMap::new())
    }
}

/// Reads the headers of a call.
///
/// # Errors
/// [`Refused`]: nothing was done.
pub(super) fn read(parts: &Parts) -> Result<Terms<Metadata>, Refused> {
    if parts.method != Method::POST {
        let allow = HeaderMap::from_iter([(ALLOW, HeaderValue::from_static("POST"))]);
        return Err(Refused::Http(StatusCode::METHOD_NOT_ALLOWED, allow));
    }
    check_content_type(&parts.headers)?;
    let trailers = parts.headers.get(TE).map(HeaderValue::as_bytes);
    if trailers != Some(b"trailers") {
        return Err(Status::new(
            Code::Internal,
            "the header `te: trailers` is missing: something in between drops it, and with it the status of calls",
        )
        .into());
    }
    check_encoding(&parts.headers)?;
    Ok(Terms {
        timeout: timeout(&parts.headers)?,
        idempotent: false,
        metadata: metadata(&parts.headers)?,
    })
}

fn check_content_type(headers: &HeaderMap) -> Result<(), Refused> {
    let value = headers.get(CONTENT_TYPE).and_then(|it| it.to_str().ok());
    let value = value.unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    match essence.strip_prefix(GRPC) {
        Some("" | "+proto") => Ok(()),
        Some(other) if other.starts_with('+') => Err(Status::new(
            Code::Unimplemented,
            format!("messages are protobuf here, not `{essence}`"),
        )
        .into()),
        _ => Err(Refused::Http(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            HeaderMap::new(),
        )),
    }
}

fn check_encoding(headers: &HeaderMap) -> Result<(), Refused> {
    let encoding = headers.get("grpc-encoding").map(HeaderValue::as_bytes);
    match encoding {
        None | Some(b"identity") => Ok(()),
        Some(other) => {
            let other = String::from_utf8_lossy(other);
            let message = format!("messages are not compressed here, neither by `{other}`");
            let status = Status::new(Code::Unimplemented, message).not_processed();
            let known = [(ACCEPT_ENCODING, HeaderValue::from_static("identity"))];
            Err(Refused::Grpc(Box::new(status), HeaderMap::from_iter(known)))
        }
    }
}

fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, Status> {
    let Some(value) = headers.get("grpc-timeout") else {
        return Ok(None);
    };
    let timeout = value.to_str().ok().and_then(parse_timeout);
    timeout.map(Some).ok_or_else(|| {
        Status::new(
            Code::InvalidArgument,
            "`grpc-timeout` is no timeout: one to eight digits and one of H, M, S, m, u, n",
        )
    })
}

/// What the caller's program put in: all headers but those that HTTP and gRPC have themselves. Keys that come more than
/// once are one with their values listed. Values of `-bin` keys stay base64.
fn metadata(headers: &HeaderMap) -> Result<Metadata, Status> {
    let mut metadata = Metadata::default();
    for key in headers.keys().filter(|key| !is_of_the_protocol(key)) {
        let mut values = Vec::new();
        for value in headers.get_all(key) {
            values.push(value.to_str().map_err(|_| {
                Status::new(
                    Code::InvalidArgument,
                    format!(
                        "the metadata `{key}` is not ASCII; binary values have keys that end in -bin"
                    ),
                )
            })?);
        }
        metadata
            .insert(key.as_str(), &values.join(","))
            .map_err(|error| match error {
                crate::MetadataError::TooMuch => {
                    Status::new(Code::ResourceExhausted, error.to_string())
                }
                _ => Status::new(Code::InvalidArgument, error.to_string()),
            })?;
    }
    Ok(metadata)
}

fn is_of_the_protocol(key: &HeaderName) -> bool {
    let key = key.as_str();
    key.starts_with("grpc-")
        || matches!(
            key,
            "te" | "content-type"
                | "content-length"
                | "user-agent"
                | "host"
                | "accept-encoding"
                | "date"
        )
}

/// The headers that an answer begins with.
pub(super) fn answer() -> HeaderMap {
    HeaderMap::from_iter([(CONTENT_TYPE, HeaderValue::from_static(GRPC))])
}

/// What a call ends with: all well, or why not.
pub(super) fn trailers(result: Result<(), Failure>) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    let (status, error) = match result {
        Ok(()) => {
            trailers.insert(STATUS, HeaderValue::from_static("0"));
            return trailers;
        }
        Err(Failure::Application { encoded, status }) => (status, Some(encoded)),
        Err(Failure::Status(status)) => (status, None),
    };
    trailers.insert(STATUS, HeaderValue::from(status.code() as u16));
    // Percent-encoded text always is a value.
    if let Ok(message) = HeaderValue::try_from(percent_encoded(status.message())) {
        trailers.insert(MESSAGE, message);
    }
    if let Some(after) = status.retry_after() {
        let after_ms = u64::try_from(after.as_millis()).unwrap_or(u64::MAX);
        trailers.insert(PUSHBACK, HeaderValue::from(after_ms));
    }
    if let Some(error) = error.filter(|error| error.len() <= MAX_ERROR_BYTES)
        && let Ok(error) = HeaderValue::try_from(BASE64_STANDARD_NO_PAD.encode(error))
    {
        trailers.insert(ERROR, error);
    }
    trailers
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use hyper::Request;

    use super::*;

    fn parts(change: impl FnOnce(&mut HeaderMap)) -> Parts {
        let request = Request::post("/calculator.v1.Calculator/Add")
            .header("content-type", GRPC)
            .header("te", "trailers");
        let mut parts = request.body(()).unwrap().into_parts().0;
        change(&mut parts.headers);
        parts
    }

    fn with(key: &'static str, value: &'static str) -> Parts {
        parts(|headers| {
            headers.insert(key, HeaderValue::from_bytes(value.as_bytes()).unwrap());
        })
    }

    #[test]
    fn given_headers_of_a_program_then_they_are_the_metadata_and_those_of_the_protocol_are_not() {
        let parts = parts(|headers| {
            for (key, value) in [
                ("authorization", "Bearer a.b.c"),
                ("trace-bin", "AAEC"),
                ("many", "1"),
                ("many", "2"),
                ("user-agent", "stock"),
                ("grpc-timeout", "2S"),
                ("grpc-accept-encoding", "gzip"),
            ] {
                headers.append(key, HeaderValue::from_static(value));
            }
        });
        let terms = read(&parts).unwrap();
        assert_eq!(terms.timeout, Some(Duration::from_secs(2)));
        let pairs: Vec<_> = terms.metadata.iter().collect();
        assert_eq!(
            pairs,
            [
                ("authorization", "Bearer a.b.c"),
                ("trace-bin", "AAEC"),
                ("many", "1,2"),
            ]
        );
    }

    #[test]
    fn given_headers_that_cannot_be_then_the_status_says_which() {
        let cases = [
            (with("te", "gzip"), Code::Internal),
            (with("grpc-timeout", "soon"), Code::InvalidArgument),
            (with("grpc-encoding", "gzip"), Code::Unimplemented),
            (
                with("content-type", "application/grpc+json"),
                Code::Unimplemented,
            ),
            (with("key", "\u{e9}"), Code::InvalidArgument),
            (with("no!key", "value"), Code::InvalidArgument),
        ];
        for (parts, code) in cases {
            match read(&parts).map(drop) {
                Err(Refused::Grpc(status, _)) => assert_eq!(status.code(), code),
                other => panic!("{:?}: {other:?}", parts.headers),
            }
        }
    }

    #[test]
    fn given_a_failure_of_the_service_then_its_error_goes_along() {
        let failure = Failure::Application {
            encoded: bytes::Bytes::from_static(&[1, 2, 255]),
            status: Status::new(Code::OutOfRange, "zu groß"),
        };
        let trailers = trailers(Err(failure));
        assert_eq!(trailers[STATUS], "11");
        assert_eq!(trailers[MESSAGE], "zu gro%C3%9F");
        assert_eq!(trailers[ERROR], "AQL/");
    }
}
