//! How long chunks take to arrive, by where they came from.

use std::time::Duration;

use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;

use crate::Metrics;

/// Upper bounds in seconds; from the network document, so that its dashboards fit.
const BUCKETS: [f64; 6] = [0.01, 0.05, 0.1, 0.5, 1.0, 5.0];

/// Where a chunk came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum SourceType {
    /// This node's store.
    Local,
    /// A content delivery network.
    Cdn,
    /// Another node.
    P2p,
}

impl SourceType {
    /// The value of the `source_type` label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Local => "local",
            Self::Cdn => "cdn",
            Self::P2p => "p2p",
        }
    }
}

impl EncodeLabelValue for SourceType {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        EncodeLabelValue::encode(&self.as_str(), encoder)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SourceLabels {
    source_type: SourceType,
}

/// `warren_chunk_retrieval_duration_seconds`. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RetrievalMetrics {
    duration: Family<SourceLabels, Histogram, fn() -> Histogram>,
}

impl RetrievalMetrics {
    /// Registers the family with `metrics`; once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let duration: Family<SourceLabels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        metrics.register(
            "chunk_retrieval_duration_seconds",
            "Seconds from asking for a chunk to having it verified, by where it came from",
            duration.clone(),
        );
        Self { duration }
    }

    /// Counts one chunk that took `elapsed` from the question to the verified bytes.
    pub fn observe(&self, source_type: SourceType, elapsed: Duration) {
        self.duration
            .get_or_create(&SourceLabels { source_type })
            .observe(elapsed.as_secs_f64());
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_a_chunk_from_a_peer_when_observed_then_it_falls_into_the_documented_buckets() {
        let metrics = Metrics::new();
        let retrieval = RetrievalMetrics::register(&metrics);

        retrieval.observe(SourceType::P2p, Duration::from_millis(70));

        let text = metrics.encode();
        for line in [
            r#"bucket{le="0.01",source_type="p2p"} 0"#,
            r#"bucket{le="0.05",source_type="p2p"} 0"#,
            r#"bucket{le="0.1",source_type="p2p"} 1"#,
            r#"bucket{le="0.5",source_type="p2p"} 1"#,
            r#"bucket{le="1.0",source_type="p2p"} 1"#,
            r#"bucket{le="5.0",source_type="p2p"} 1"#,
            r#"bucket{le="+Inf",source_type="p2p"} 1"#,
        ] {
            assert!(
                text.contains(&format!("warren_chunk_retrieval_duration_seconds_{line}\n")),
                "{line} missing in\n{text}"
            );
        }
        assert_eq!(text.matches("_bucket{").count(), 7, "{text}");
    }
}
