//! What every request passes: the source's rate limit, the time limit, the counters.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use axum::{
    extract::{MatchedPath, Request, State},
    http::HeaderValue,
    middleware::Next,
    response::{IntoResponse, Response},
};

use super::{
    Shared,
    error::{ApiError, whole_seconds},
    listen::ConnectionInfo,
};
use crate::{
    core::rate::{Decision, Limit, RateLimiter, Verdict},
    metrics::RequestLabels,
    wire::path,
};

/// Sources remembered at once, about 1 MiB.
const MAX_SOURCES: usize = 10_000;

/// The rate limits, with the clock they need.
pub(crate) struct Gate {
    started: Instant,
    requests: Mutex<RateLimiter>,
    /// Joining is where guessing would happen, so it has a limit of its own.
    joins: Mutex<RateLimiter>,
}

impl Gate {
    pub(crate) fn new(requests: Limit, joins: Limit) -> Self {
        Self {
            started: Instant::now(),
            requests: Mutex::new(RateLimiter::new(requests, MAX_SOURCES)),
            joins: Mutex::new(RateLimiter::new(joins, MAX_SOURCES)),
        }
    }

    fn decide(&self, request: &Request) -> Option<(std::net::IpAddr, Decision)> {
        let source = request.extensions().get::<ConnectionInfo>()?.source.ip();
        let limiter = if request.uri().path() == path::JOIN {
            &self.joins
        } else {
            &self.requests
        };
        let now = self.started.elapsed();
        let mut limiter = limiter.lock().unwrap_or_else(PoisonError::into_inner);
        Some((source, limiter.handle_request(source, now)))
    }
}

/// The middleware around all routes.
pub(crate) async fn pass(
    State(shared): State<Arc<Shared>>,
    matched: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = matched.map_or_else(|| "other".to_owned(), |path| path.as_str().to_owned());
    let decision = shared.gate.decide(&request);
    let mut response = match decision {
        Some((
            source,
            Decision {
                verdict: Verdict::RetryAfter(after),
                ..
            },
        )) => ApiError::rate_limited(source, after).into_response(),
        Some(_) => {
            let limit = shared.limits.request_timeout;
            match tokio::time::timeout(limit, next.run(request)).await {
                Ok(response) => response,
                Err(_) => ApiError::too_slow(limit).into_response(),
            }
        }
        None => ApiError::unauthenticated("this connection cannot be identified").into_response(),
    };
    if let Some((_, decision)) = decision {
        let headers = response.headers_mut();
        headers.insert("x-ratelimit-limit", HeaderValue::from(decision.limit));
        headers.insert(
            "x-ratelimit-remaining",
            HeaderValue::from(decision.remaining),
        );
        headers.insert(
            "x-ratelimit-reset",
            HeaderValue::from(whole_seconds(decision.reset)),
        );
    }
    let code = response.status().as_u16();
    shared
        .metrics
        .requests
        .get_or_create(&RequestLabels { route, code })
        .inc();
    response
}
