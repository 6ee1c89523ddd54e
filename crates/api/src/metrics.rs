//! What the API counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use warren_telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reason {
    code: &'static str,
}

/// Requests that the guard turned away. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Refusals(Family<Reason, Counter>);

impl Refusals {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "api_requests_refused",
            "Requests to the management API that were turned away before their route, by reason",
            this.0.clone(),
        );
        this
    }

    /// `code` is that of the answer, such as `unauthorized`.
    pub(crate) fn count(&self, code: &'static str) {
        self.0.get_or_create(&Reason { code }).inc();
    }
}
