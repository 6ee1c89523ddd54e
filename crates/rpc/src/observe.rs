//! What a server counts, in the form that Prometheus reads.
//!
//! Nothing here looks a label up while calls are served: a lane gets the [`MethodMeter`] of a method when the client binds
//! it, tallies what it answers in plain numbers ([`Tally`]) and adds them up once per write.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use prometheus_client::encoding::{EncodeMetric, MetricEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use warren_telemetry::Metrics;

use crate::core::admission::Admission;
use crate::status::{Code, Status};

/// Upper bounds of the latency buckets in seconds; those of the RpcNet guide, so that its dashboards fit.
const BUCKETS_S: [f64; 7] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];
/// The same in nanoseconds, and one for what takes longer.
const BUCKETS_NS: [u64; 8] = [
    1_000_000,
    5_000_000,
    10_000_000,
    50_000_000,
    100_000_000,
    500_000_000,
    1_000_000_000,
    u64::MAX,
];
/// The shortest time over which calls per second are counted.
const RATE_WINDOW: Duration = Duration::from_secs(1);

/// Why a call or a connection was turned away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Refused {
    /// As many calls as the server or the connection may have.
    Overloaded,
    /// The server is about to stop.
    Draining,
    /// No such method.
    UnknownMethod,
    /// No token, or none that counts.
    Unauthenticated,
    /// Without the permission.
    PermissionDenied,
    /// A request that is too large, no Zstandard, or under another's key.
    BadRequest,
    /// As many connections as the server may have.
    TooManyConnections,
    /// A handshake that failed or took too long: no member among others.
    Handshake,
    /// A member no more.
    NotMember,
    /// Something that is no protocol of ours.
    Protocol,
}

impl Refused {
    const ALL: [(Self, &'static str, &'static str); 10] = [
        (Self::Overloaded, "call", "overloaded"),
        (Self::Draining, "call", "draining"),
        (Self::UnknownMethod, "call", "unknown_method"),
        (Self::Unauthenticated, "call", "unauthenticated"),
        (Self::PermissionDenied, "call", "permission_denied"),
        (Self::BadRequest, "call", "bad_request"),
        (
            Self::TooManyConnections,
            "connection",
            "too_many_connections",
        ),
        (Self::Handshake, "connection", "handshake"),
        (Self::NotMember, "connection", "not_member"),
        (Self::Protocol, "connection", "protocol"),
    ];

    /// Which refusal a call's status stands for.
    pub(crate) fn of(status: &Status) -> Self {
        match status.code() {
            Code::Unauthenticated => Self::Unauthenticated,
            Code::PermissionDenied => Self::PermissionDenied,
            Code::Unimplemented => Self::UnknownMethod,
            Code::Unavailable => Self::Draining,
            Code::ResourceExhausted if status.retry_after().is_some() => Self::Overloaded,
            _ => Self::BadRequest,
        }
    }
}

/// What servers count. Clones are handles to the same numbers; several servers of one node share them.
#[derive(Clone)]
pub struct RpcMetrics(Arc<Numbers>);

struct Numbers {
    /// By path; a server's methods are few and known.
    methods: Mutex<BTreeMap<String, Arc<MethodMeter>>>,
    /// Calls that reached no method.
    stray: Arc<MethodMeter>,
    /// Calls that were passed on. Whoever calls chooses their paths, so they have no series of their own.
    passed_on: Arc<MethodMeter>,
    refused: [AtomicU64; Refused::ALL.len()],
    connections: AtomicI64,
    bytes_received: AtomicU64,
    bytes_sent: AtomicU64,
    /// Where calls in flight are counted.
    admissions: Mutex<Vec<Weak<Admission>>>,
    rate: Mutex<Rate>,
}

impl fmt::Debug for RpcMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RpcMetrics").finish_non_exhaustive()
    }
}

/// The numbers of one method.
#[derive(Debug, Default)]
pub(crate) struct MethodMeter {
    requests: AtomicU64,
    buckets: [AtomicU64; BUCKETS_NS.len()],
    sum_ns: AtomicU64,
    errors: [AtomicU64; Code::ALL.len()],
}

/// What one task has answered of one method and not added up yet.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    requests: u64,
    buckets: [u64; BUCKETS_NS.len()],
    sum_ns: u64,
}

#[derive(Debug)]
struct Rate {
    since: Instant,
    requests: u64,
    per_second: f64,
}

impl RpcMetrics {
    /// Registers the families with `metrics`; once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let numbers = Arc::new(Numbers {
            methods: Mutex::default(),
            stray: Arc::default(),
            passed_on: Arc::default(),
            refused: Default::default(),
            connections: AtomicI64::new(0),
            bytes_received: AtomicU64::new(0),
            bytes_sent: AtomicU64::new(0),
            admissions: Mutex::default(),
            rate: Mutex::new(Rate {
                since: Instant::now(),
                requests: 0,
                per_second: 0.0,
            }),
        });
        for (family, name, help) in FAMILIES {
            let numbers = Arc::clone(&numbers);
            metrics.register(name, help, View { numbers, family });
        }
        Self(numbers)
    }

    /// The numbers of a method.
    pub(crate) fn method(&self, path: &str) -> Arc<MethodMeter> {
        let mut methods = lock(&self.0.methods);
        Arc::clone(methods.entry(path.to_owned()).or_default())
    }

    /// The numbers of calls that a fallback takes.
    pub(crate) fn passed_on(&self) -> Arc<MethodMeter> {
        Arc::clone(&self.0.passed_on)
    }

    /// The numbers of calls that reach no method.
    pub(crate) fn stray(&self) -> Arc<MethodMeter> {
        Arc::clone(&self.0.stray)
    }

    pub(crate) fn refused(&self, reason: Refused) {
        self.0.refused[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn connected(&self) -> ConnectionCount {
        self.0.connections.fetch_add(1, Ordering::Relaxed);
        ConnectionCount(Arc::clone(&self.0))
    }

    pub(crate) fn carried(&self, received: u64, sent: u64) {
        self.0.bytes_received.fetch_add(received, Ordering::Relaxed);
        self.0.bytes_sent.fetch_add(sent, Ordering::Relaxed);
    }

    /// Counts the calls in flight of one more server, while it lives.
    pub(crate) fn watch(&self, admission: &Arc<Admission>) {
        let mut admissions = lock(&self.0.admissions);
        admissions.retain(|known| known.strong_count() > 0);
        admissions.push(Arc::downgrade(admission));
    }
}

/// Counts a connection while it lives.
pub(crate) struct ConnectionCount(Arc<Numbers>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl MethodMeter {
    /// Counts one answered call.
    pub(crate) fn answered(&self, took: Duration) {
        let mut tally = Tally::default();
        tally.answered(took);
        self.add(&mut tally);
    }

    /// Counts a call that was turned away before any handler saw it.
    pub(crate) fn turned_away(&self, code: Code) {
        self.requests.fetch_add(1, Ordering::Relaxed);
        self.failed(code);
    }

    /// Counts an error; the call is counted by itself.
    pub(crate) fn failed(&self, code: Code) {
        self.errors[code as usize - 1].fetch_add(1, Ordering::Relaxed);
    }

    /// Adds up what a task has tallied.
    pub(crate) fn add(&self, tally: &mut Tally) {
        self.requests.fetch_add(tally.requests, Ordering::Relaxed);
        self.sum_ns.fetch_add(tally.sum_ns, Ordering::Relaxed);
        for (bucket, count) in self.buckets.iter().zip(&tally.buckets) {
            if *count > 0 {
                bucket.fetch_add(*count, Ordering::Relaxed);
            }
        }
        *tally = Tally::default();
    }
}

impl Tally {
    /// Counts one answered call.
    pub(crate) fn answered(&mut self, took: Duration) {
        let took = u64::try_from(took.as_nanos()).unwrap_or(u64::MAX);
        self.requests += 1;
        self.sum_ns = self.sum_ns.saturating_add(took);
        // Nearly all end in the first.
        let bucket = BUCKETS_NS.iter().position(|upper| took <= *upper);
        self.buckets[bucket.unwrap_or(BUCKETS_NS.len() - 1)] += 1;
    }

    pub(crate) const fn is_empty(&self) -> bool {
        self.requests == 0
    }
}

/// The label `type` of an error. A deadline that passed is `timeout`, as the RpcNet guide has it.
const fn error_type(code: Code) -> &'static str {
    match code {
        Code::DeadlineExceeded => "timeout",
        other => other.name(),
    }
}

/// The families that are registered.
#[derive(Clone, Copy, Debug)]
enum Family {
    Requests,
    Latency,
    Errors,
    PerSecond,
    InFlight,
    Connections,
    Refused,
    Bytes,
}

/// Names without prefix and `_total`, and what they say.
const FAMILIES: [(Family, &str, &str); 8] = [
    (Family::Requests, "rpc_requests", "Total RPC requests"),
    (
        Family::Latency,
        "rpc_latency_seconds",
        "RPC latency distribution: seconds from a call's arrival to its answer, calls turned away not counted",
    ),
    (Family::Errors, "rpc_errors", "Total RPC errors"),
    (
        Family::PerSecond,
        "rpc_requests_per_second",
        "RPC requests per second since the last look, over at least one second",
    ),
    (
        Family::InFlight,
        "rpc_requests_in_flight",
        "RPC requests that are being carried out now",
    ),
    (
        Family::Connections,
        "rpc_connections",
        "RPC connections of clients that are open now",
    ),
    (
        Family::Refused,
        "rpc_refused",
        "RPC calls and connections turned away before any handler, by reason",
    ),
    (
        Family::Bytes,
        "rpc_bytes",
        "Bytes of UDP payload that RPC connections carried, counted once a second",
    ),
];

/// One family over the shared numbers.
struct View {
    numbers: Arc<Numbers>,
    family: Family,
}

impl fmt::Debug for View {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.family.fmt(f)
    }
}

impl EncodeMetric for View {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        let numbers = &self.numbers;
        match self.family {
            Family::Requests => numbers.each_method(|path, meter| {
                let count = load(&meter.requests);
                encoder
                    .encode_family(&[("method", path)])?
                    .encode_counter::<NoLabelSet, u64, f64>(&count, None)
            }),
            Family::Latency => numbers.each_method(|path, meter| {
                if std::ptr::eq(meter, &*numbers.stray) {
                    return Ok(());
                }
                let counts = meter.buckets.each_ref().map(load);
                let upper = BUCKETS_S.into_iter().chain([f64::INFINITY]);
                let buckets: Vec<(f64, u64)> = upper.zip(counts).collect();
                let sum = Duration::from_nanos(load(&meter.sum_ns)).as_secs_f64();
                let count = counts.iter().sum();
                encoder
                    .encode_family(&[("method", path)])?
                    .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)
            }),
            Family::Errors => numbers.each_method(|path, meter| {
                for code in Code::ALL {
                    let count = load(&meter.errors[code as usize - 1]);
                    if count > 0 {
                        encoder
                            .encode_family(&[("method", path), ("type", error_type(code))])?
                            .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
                    }
                }
                Ok(())
            }),
            Family::PerSecond => encoder.encode_gauge(&numbers.per_second(Instant::now())),
            Family::InFlight => encoder.encode_gauge(&numbers.in_flight()),
            Family::Connections => {
                encoder.encode_gauge(&numbers.connections.load(Ordering::Relaxed))
            }
            Family::Refused => {
                for (reason, what, name) in Refused::ALL {
                    let count = load(&numbers.refused[reason as usize]);
                    encoder
                        .encode_family(&[("what", what), ("reason", name)])?
                        .encode_counter::<NoLabelSet, u64, f64>(&count, None)?;
                }
                Ok(())
            }
            Family::Bytes => {
                for (direction, bytes) in [
                    ("received", &numbers.bytes_received),
                    ("sent", &numbers.bytes_sent),
                ] {
                    encoder
                        .encode_family(&[("direction", direction)])?
                        .encode_counter::<NoLabelSet, u64, f64>(&load(bytes), None)?;
                }
                Ok(())
            }
        }
    }

    fn metric_type(&self) -> MetricType {
        match self.family {
            Family::Requests | Family::Errors | Family::Refused | Family::Bytes => {
                MetricType::Counter
            }
            Family::Latency => MetricType::Histogram,
            Family::PerSecond | Family::InFlight | Family::Connections => MetricType::Gauge,
        }
    }
}

impl Numbers {
    /// Every method in order, then what reached none, if anything did.
    fn each_method(&self, mut each: impl FnMut(&str, &MethodMeter) -> fmt::Result) -> fmt::Result {
        for (path, meter) in &*lock(&self.methods) {
            each(path, meter)?;
        }
        for (name, meter) in [("passed_on", &self.passed_on), ("unknown", &self.stray)] {
            if load(&meter.requests) > 0 {
                each(name, meter)?;
            }
        }
        Ok(())
    }

    fn requests(&self) -> u64 {
        let known: u64 = lock(&self.methods)
            .values()
            .map(|meter| load(&meter.requests))
            .sum();
        known + load(&self.stray.requests) + load(&self.passed_on.requests)
    }

    fn in_flight(&self) -> u64 {
        let admissions = lock(&self.admissions);
        let live = admissions.iter().filter_map(Weak::upgrade);
        live.map(|admission| admission.in_flight() as u64).sum()
    }

    fn per_second(&self, now: Instant) -> f64 {
        let requests = self.requests();
        let mut rate = lock(&self.rate);
        let elapsed = now.saturating_duration_since(rate.since);
        if elapsed >= RATE_WINDOW {
            rate.per_second = (requests - rate.requests) as f64 / elapsed.as_secs_f64();
            rate.since = now;
            rate.requests = requests;
        }
        rate.per_second
    }
}

fn load(counter: &AtomicU64) -> u64 {
    counter.load(Ordering::Relaxed)
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_answers_when_encoded_then_they_lie_in_the_documented_buckets() {
        let metrics = Metrics::new();
        let rpc = RpcMetrics::register(&metrics);
        let meter = rpc.method("A/B");
        for ms in [1, 2, 70, 2_000] {
            meter.answered(Duration::from_millis(ms));
        }
        meter.failed(Code::DeadlineExceeded);
        let text = metrics.encode();
        for line in [
            r#"requests_total{method="A/B"} 4"#,
            r#"errors_total{method="A/B",type="timeout"} 1"#,
            r#"latency_seconds_sum{method="A/B"} 2.073"#,
            r#"latency_seconds_count{method="A/B"} 4"#,
            r#"latency_seconds_bucket{le="0.001",method="A/B"} 1"#,
            r#"latency_seconds_bucket{le="0.005",method="A/B"} 2"#,
            r#"latency_seconds_bucket{le="0.05",method="A/B"} 2"#,
            r#"latency_seconds_bucket{le="0.1",method="A/B"} 3"#,
            r#"latency_seconds_bucket{le="1.0",method="A/B"} 3"#,
            r#"latency_seconds_bucket{le="+Inf",method="A/B"} 4"#,
        ] {
            assert!(
                text.contains(&format!("warren_rpc_{line}\n")),
                "{line} missing in\n{text}"
            );
        }
        assert_eq!(text.matches("_bucket{").count(), 8, "{text}");
    }

    #[test]
    fn given_the_reasons_then_each_is_counted_at_its_place() {
        for (index, (reason, _, name)) in Refused::ALL.into_iter().enumerate() {
            assert_eq!(reason as usize, index, "{name}");
        }
        for (index, code) in Code::ALL.into_iter().enumerate() {
            assert_eq!(code as usize - 1, index);
        }
    }

    #[test]
    fn given_calls_between_two_looks_then_the_gauge_is_their_rate() {
        let metrics = Metrics::new();
        let rpc = RpcMetrics::register(&metrics);
        let meter = rpc.method("A/B");
        let start = lock(&rpc.0.rate).since;
        for _ in 0..100 {
            meter.answered(Duration::ZERO);
        }
        assert_eq!(rpc.0.per_second(start + Duration::from_millis(999)), 0.0);
        assert_eq!(rpc.0.per_second(start + Duration::from_secs(4)), 25.0);
        assert_eq!(rpc.0.per_second(start + Duration::from_millis(4_500)), 25.0);
        assert_eq!(rpc.0.per_second(start + Duration::from_secs(6)), 0.0);
    }
}
