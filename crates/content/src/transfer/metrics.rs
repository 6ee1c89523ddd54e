//! What block transfer counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use warren_telemetry::Metrics;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct SideLabels {
    side: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct EndLabels {
    side: &'static str,
    reason: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Which end of the block protocol counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Server,
    Client,
}

impl Side {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Server => "server",
            Self::Client => "client",
        }
    }
}

/// The metrics of block transfer and retrieval. Cheap to clone; all clones count into the same families.
#[derive(Clone, Debug)]
pub struct TransferMetrics {
    blocks: Family<SideLabels, Counter>,
    bytes: Family<SideLabels, Counter>,
    ends: Family<EndLabels, Counter>,
    bad_blocks: Family<ReasonLabels, Counter>,
    handshakes_refused: Family<ReasonLabels, Counter>,
    /// Bytes of blocks that clients hold unverified.
    pub(crate) unverified_bytes: Gauge,
    /// Bytes of requests that servers hold unanswered.
    pub(crate) queued_request_bytes: Gauge,
}

impl TransferMetrics {
    /// Registers the families with `metrics`; once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let this = Self {
            blocks: Family::default(),
            bytes: Family::default(),
            ends: Family::default(),
            bad_blocks: Family::default(),
            handshakes_refused: Family::default(),
            unverified_bytes: Gauge::default(),
            queued_request_bytes: Gauge::default(),
        };
        metrics.register(
            "transfer_blocks",
            "Blocks sent (server) and received (client)",
            this.blocks.clone(),
        );
        metrics.register(
            "transfer_bytes",
            "Stored bytes of blocks sent (server) and received (client)",
            this.bytes.clone(),
        );
        metrics.register(
            "transfer_sessions_ended",
            "Block connections that ended, by reason",
            this.ends.clone(),
        );
        metrics.register(
            "transfer_bad_blocks",
            "Blocks from peers that were not what was asked for, by reason",
            this.bad_blocks.clone(),
        );
        metrics.register(
            "transfer_handshakes_refused",
            "Bulk connections refused before the first request, by reason",
            this.handshakes_refused.clone(),
        );
        metrics.register(
            "transfer_unverified_bytes",
            "Bytes of blocks received from peers and not verified yet",
            this.unverified_bytes.clone(),
        );
        metrics.register(
            "transfer_queued_request_bytes",
            "Bytes of requests received from peers and not answered yet",
            this.queued_request_bytes.clone(),
        );
        this
    }

    /// What one connection counts its blocks with: resolved once, because it is asked for every block.
    pub(crate) fn blocks(&self, side: Side) -> BlockCounters {
        let labels = SideLabels {
            side: side.as_str(),
        };
        BlockCounters {
            blocks: self.blocks.get_or_create_owned(&labels),
            bytes: self.bytes.get_or_create_owned(&labels),
        }
    }

    pub(crate) fn ended(&self, side: Side, reason: &'static str) {
        self.ends
            .get_or_create(&EndLabels {
                side: side.as_str(),
                reason,
            })
            .inc();
    }

    pub(crate) fn bad_block(&self, reason: &'static str) {
        self.bad_blocks
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    pub(crate) fn handshake_refused(&self, reason: &'static str) {
        self.handshakes_refused
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }
}

/// Blocks and stored bytes of one side.
pub(crate) struct BlockCounters {
    blocks: Counter,
    bytes: Counter,
}

impl BlockCounters {
    pub(crate) fn count(&self, stored_bytes: u64) {
        self.blocks.inc();
        self.bytes.inc_by(stored_bytes);
    }
}
