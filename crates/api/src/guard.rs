//! Who may call the management API.
//!
//! Everything but `/health`, `/ready` and `/metrics` wants the admin token, or a client certificate with the `admin`
//! capability. Before that, the Host header must name this listener (no DNS rebinding) and an Origin, where a browser
//! sends one, must be our own (no cross-site requests). The decision is [`Guard::check`], a pure function of the
//! request's head.

use std::net::SocketAddr;

use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use zeroize::Zeroizing;

use crate::error::ApiError;

/// Paths that answer without a token, for load balancers and monitoring: states, counts and peer ids, never content.
pub const PUBLIC_PATHS: [&str; 3] = ["/health", "/ready", "/metrics"];

/// Whether the caller's TLS client certificate, checked by the listener, carries the `admin` capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClientIdentity {
    /// No certificate, or one without the capability.
    Anonymous,
    /// A member whose certificate says `admin`.
    Admin,
}

/// The checks of one listener.
#[derive(Clone)]
pub struct Guard {
    token: Zeroizing<String>,
    hosts: Vec<String>,
    scheme: &'static str,
}

impl std::fmt::Debug for Guard {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Guard")
            .field("hosts", &self.hosts)
            .field("scheme", &self.scheme)
            .finish_non_exhaustive()
    }
}

impl Guard {
    /// A guard for a listener at `address`; `names` are the further host names that people reach it by (those of its
    /// certificate).
    pub fn new(token: Zeroizing<String>, address: SocketAddr, names: &[String], tls: bool) -> Self {
        let port = address.port();
        let mut hosts: Vec<String> = names
            .iter()
            .map(|name| format!("{}:{port}", name.to_ascii_lowercase()))
            .collect();
        hosts.push(address.to_string());
        if address.ip().is_loopback() || address.ip().is_unspecified() {
            hosts.extend([
                format!("localhost:{port}"),
                format!("127.0.0.1:{port}"),
                format!("[::1]:{port}"),
            ]);
        }
        Self {
            token,
            hosts,
            scheme: if tls { "https" } else { "http" },
        }
    }

    /// Decides whether a request may go on to its handler.
    ///
    /// # Errors
    /// The answer to give instead: 421 for a foreign Host, 403 for a foreign Origin, 401 without a valid token.
    pub fn check(&self, head: &Parts, client: ClientIdentity) -> Result<(), ApiError> {
        let authority = head
            .uri
            .authority()
            .map(|authority| authority.as_str().to_owned());
        let host = authority
            .or_else(|| text(&head.headers, header::HOST))
            .unwrap_or_default()
            .to_ascii_lowercase();
        if !self.is_ours(&host) {
            return Err(ApiError::new(
                StatusCode::MISDIRECTED_REQUEST,
                "wrong_host",
                format!(
                    "this API does not answer for host {host:?}: call it by one of {}",
                    self.hosts.join(", ")
                ),
            ));
        }
        self.check_origin(&head.headers)?;
        if PUBLIC_PATHS.contains(&head.uri.path())
            || client == ClientIdentity::Admin
            || self.has_token(&head.headers)
        {
            return Ok(());
        }
        let message = match head.headers.contains_key(header::AUTHORIZATION) {
            true => {
                "the token that was sent is not this node's: its own stands in admin.token in its storage folder"
            }
            false => {
                "send the admin token as `Authorization: Bearer …`: it stands in admin.token in the node's storage folder"
            }
        };
        Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "unauthorized",
            message,
        ))
    }

    fn is_ours(&self, host: &str) -> bool {
        let default_port = if self.scheme == "https" {
            ":443"
        } else {
            ":80"
        };
        self.hosts
            .iter()
            .any(|ours| ours == host || ours.strip_suffix(default_port) == Some(host))
    }

    fn check_origin(&self, headers: &HeaderMap) -> Result<(), ApiError> {
        let foreign = match text(headers, header::ORIGIN) {
            Some(origin) => origin
                .to_ascii_lowercase()
                .strip_prefix(self.scheme)
                .and_then(|rest| rest.strip_prefix("://"))
                .is_none_or(|host| !self.is_ours(host)),
            // A browser that leaves the Origin out still says where the request comes from.
            None => headers
                .get("sec-fetch-site")
                .is_some_and(|site| !matches!(site.as_bytes(), b"same-origin" | b"none")),
        };
        if foreign {
            return Err(ApiError::new(
                StatusCode::FORBIDDEN,
                "foreign_origin",
                "pages of another origin may not call this API",
            ));
        }
        Ok(())
    }

    fn has_token(&self, headers: &HeaderMap) -> bool {
        let given = text(headers, header::AUTHORIZATION);
        let given = given
            .as_deref()
            .and_then(|value| value.strip_prefix("Bearer "))
            .unwrap_or_default();
        // Hashes of equal length, compared without a shortcut, tell nothing by the time they take.
        blake3::hash(given.trim().as_bytes()) == blake3::hash(self.token.as_bytes())
    }
}

fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<String> {
    headers
        .get(name)
        .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use axum::http::Request;
    use axum::response::IntoResponse;

    use super::*;

    const TOKEN: &str = "0123456789abcdef";

    fn answer(path: &str, headers: &[(&str, &str)], client: ClientIdentity) -> u16 {
        let guard = Guard::new(
            Zeroizing::new(TOKEN.to_owned()),
            "127.0.0.1:8080".parse().unwrap(),
            &[],
            false,
        );
        let mut request = Request::get(path);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let (head, ()) = request.body(()).unwrap().into_parts();
        match guard.check(&head, client) {
            Ok(()) => 200,
            Err(refusal) => refusal.into_response().status().as_u16(),
        }
    }

    const HOST: (&str, &str) = ("host", "127.0.0.1:8080");
    const BEARER: (&str, &str) = ("authorization", "Bearer 0123456789abcdef");

    #[test]
    fn the_token_opens_the_api_and_its_absence_does_not() {
        assert_eq!(
            answer("/api/v1/status", &[HOST, BEARER], ClientIdentity::Anonymous),
            200
        );
        assert_eq!(
            answer("/api/v1/status", &[HOST], ClientIdentity::Anonymous),
            401
        );
        assert_eq!(
            answer(
                "/api/v1/status",
                &[HOST, ("authorization", "Bearer 0123")],
                ClientIdentity::Anonymous
            ),
            401
        );
        assert_eq!(
            answer(
                "/api/v1/status",
                &[HOST, ("authorization", "Bearer ")],
                ClientIdentity::Anonymous
            ),
            401
        );
    }

    #[test]
    fn an_admin_certificate_stands_in_for_the_token() {
        assert_eq!(
            answer("/api/v1/status", &[HOST], ClientIdentity::Admin),
            200
        );
    }

    #[test]
    fn health_ready_and_metrics_are_open_and_nothing_beside_them() {
        for path in PUBLIC_PATHS {
            assert_eq!(
                answer(path, &[HOST], ClientIdentity::Anonymous),
                200,
                "{path}"
            );
        }
        assert_eq!(answer("/health/", &[HOST], ClientIdentity::Anonymous), 401);
        assert_eq!(answer("//health", &[HOST], ClientIdentity::Anonymous), 401);
    }

    #[test]
    fn a_foreign_host_is_refused_even_with_the_token() {
        assert_eq!(
            answer(
                "/api/v1/status",
                &[("host", "evil.example:8080"), BEARER],
                ClientIdentity::Anonymous
            ),
            421
        );
        assert_eq!(
            answer(
                "/api/v1/status",
                &[("host", "127.0.0.1:9999"), BEARER],
                ClientIdentity::Anonymous
            ),
            421
        );
        assert_eq!(
            answer("/api/v1/status", &[BEARER], ClientIdentity::Anonymous),
            421
        );
    }

    #[test]
    fn a_page_of_another_origin_is_refused_even_with_the_token() {
        let cross = ("origin", "http://evil.example");
        assert_eq!(
            answer(
                "/api/v1/status",
                &[HOST, BEARER, cross],
                ClientIdentity::Anonymous
            ),
            403
        );
        assert_eq!(
            answer(
                "/health",
                &[HOST, ("origin", "null")],
                ClientIdentity::Anonymous
            ),
            403
        );
        assert_eq!(
            answer(
                "/health",
                &[HOST, ("sec-fetch-site", "cross-site")],
                ClientIdentity::Anonymous
            ),
            403
        );
        assert_eq!(
            answer(
                "/api/v1/status",
                &[HOST, BEARER, ("origin", "http://127.0.0.1:8080")],
                ClientIdentity::Anonymous
            ),
            200
        );
    }
}
