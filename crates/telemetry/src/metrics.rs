//! The registry that every crate registers its metrics with.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};

use prometheus_client::encoding::text;
use prometheus_client::metrics::MetricType;
use prometheus_client::registry::{Metric, Registry};

/// The media type of [`Metrics::encode`], for the `Content-Type` header.
pub const OPENMETRICS_CONTENT_TYPE: &str =
    "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What every name begins with.
const PREFIX: &str = "warren";

/// A registry with the prefix `warren`. Cheap to clone; all clones are one registry.
///
/// One node has one: `warren dev` with three nodes has three.
#[derive(Debug, Clone)]
pub struct Metrics {
    inner: Arc<RwLock<Inner>>,
}

#[derive(Debug)]
struct Inner {
    registry: Registry,
    families: BTreeMap<String, FamilyDescription>,
}

/// One registered family, as it shows on the wire.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FamilyDescription {
    /// Sample name: with the prefix, and with `_total` for a counter.
    pub name: String,
    /// `counter`, `gauge`, `histogram` or `info`.
    pub kind: &'static str,
    /// What it says, without a full stop at the end.
    pub help: String,
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl Metrics {
    /// An empty registry.
    #[must_use]
    pub fn new() -> Self {
        let registry = Registry::with_prefix(PREFIX);
        let families = BTreeMap::new();
        Self {
            inner: Arc::new(RwLock::new(Inner { registry, families })),
        }
    }

    /// Adds a family. `name` comes without the prefix and, for a counter, without `_total`; `help` without a full stop.
    ///
    /// # Panics
    /// When the name is taken: two families of one name make an exposition that no scraper reads.
    pub fn register(&self, name: &str, help: &str, metric: impl Metric) {
        let (kind, suffix) = match metric.metric_type() {
            MetricType::Counter => ("counter", "_total"),
            MetricType::Gauge => ("gauge", ""),
            MetricType::Histogram => ("histogram", ""),
            MetricType::Info => ("info", "_info"),
            MetricType::Unknown => ("unknown", ""),
        };
        let full = format!("{PREFIX}_{name}{suffix}");
        let description = FamilyDescription {
            name: full.clone(),
            kind,
            help: help.to_owned(),
        };
        let mut inner = self.inner.write().unwrap_or_else(PoisonError::into_inner);
        assert!(
            !inner.families.contains_key(&full),
            "metric {full} is registered twice"
        );
        inner.families.insert(full, description);
        inner.registry.register(name, help, metric);
    }

    /// All registered families by name, those without a sample yet included.
    #[must_use]
    pub fn families(&self) -> Vec<FamilyDescription> {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        inner.families.values().cloned().collect()
    }

    /// The OpenMetrics text exposition of everything registered, `# EOF` included. Serve it as [`OPENMETRICS_CONTENT_TYPE`].
    #[must_use]
    pub fn encode(&self) -> String {
        let inner = self.inner.read().unwrap_or_else(PoisonError::into_inner);
        let mut text = String::with_capacity(8 * 1024);
        if text::encode(&mut text, &inner.registry).is_err() {
            // Writing into a String cannot fail; a metric's own encoder may refuse. Half an exposition must not pass for a whole.
            text.clear();
            text.push_str("# EOF\n");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use prometheus_client::metrics::counter::Counter;

    #[test]
    fn given_a_counter_when_encoded_then_prefix_suffix_help_and_eof_are_there() {
        let metrics = Metrics::new();
        let counter: Counter = Counter::default();
        metrics.register("things_done", "Things done", counter.clone());
        counter.inc_by(3);

        let text = metrics.encode();

        assert_eq!(
            text,
            "# HELP warren_things_done Things done.\n# TYPE warren_things_done counter\nwarren_things_done_total 3\n# EOF\n"
        );
        assert_eq!(metrics.families()[0].name, "warren_things_done_total");
    }

    #[test]
    #[should_panic(expected = "metric warren_twice_total is registered twice")]
    fn given_a_taken_name_when_registered_again_then_it_panics() {
        let metrics = Metrics::new();
        metrics.register("twice", "First", Counter::<u64>::default());
        metrics.register("twice", "Second", Counter::<u64>::default());
    }
}
