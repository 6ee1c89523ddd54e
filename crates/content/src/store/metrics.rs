//! What the store counts.

use std::sync::atomic::AtomicU64;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
use warren_telemetry::Metrics;

/// Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(super) struct StoreMetrics {
    pub(super) bytes: Gauge<u64, AtomicU64>,
    pub(super) documents: Gauge<u64, AtomicU64>,
    pub(super) blocks: Gauge<u64, AtomicU64>,
    pub(super) dedup_hits: Counter,
    pub(super) corrupt_blocks: Counter,
    pub(super) io_errors: Counter,
}

impl StoreMetrics {
    pub(super) fn register(metrics: &Metrics) -> Self {
        let ours = Self::default();
        metrics.register(
            "store_bytes",
            "Bytes of blocks in the store, encoded",
            ours.bytes.clone(),
        );
        metrics.register(
            "store_documents",
            "Documents listed in the store",
            ours.documents.clone(),
        );
        metrics.register("store_blocks", "Blocks in the store", ours.blocks.clone());
        metrics.register(
            "store_dedup_hits",
            "Blocks that were in the store already when they were put",
            ours.dedup_hits.clone(),
        );
        metrics.register(
            "store_corrupt_blocks",
            "Blocks found damaged on disk and set aside",
            ours.corrupt_blocks.clone(),
        );
        metrics.register(
            "store_io_errors",
            "Reads and writes of the store that the system refused",
            ours.io_errors.clone(),
        );
        ours
    }
}
