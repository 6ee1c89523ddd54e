//! What membership counts.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use warren_swim::{Counters, State};
use warren_telemetry::Metrics;

use crate::core::links::Path;
use crate::node::Snapshot;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct StateLabels {
    state: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ByteLabels {
    direction: &'static str,
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PathLabels {
    path: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Why something was dropped or a handshake refused.
pub(crate) type Reason = &'static str;

/// The metrics of one cluster. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct ClusterMetrics {
    members: Family<StateLabels, Gauge>,
    healthy_workers: Gauge,
    workers: Gauge,
    bytes: Family<ByteLabels, Counter>,
    drops: Family<ReasonLabels, Counter>,
    handshakes_refused: Family<ReasonLabels, Counter>,
    links: Family<PathLabels, Gauge>,
    pub(crate) suspicions: Counter,
    pub(crate) refutations: Counter,
    pub(crate) failures: Counter,
    accusations: Counter,
    local_health: Gauge,
}

impl ClusterMetrics {
    /// Registers the families with `metrics`; once per registry.
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self {
            members: Family::default(),
            healthy_workers: Gauge::default(),
            workers: Gauge::default(),
            bytes: Family::default(),
            drops: Family::default(),
            handshakes_refused: Family::default(),
            links: Family::default(),
            suspicions: Counter::default(),
            refutations: Counter::default(),
            failures: Counter::default(),
            accusations: Counter::default(),
            local_health: Gauge::default(),
        };
        metrics.register(
            "cluster_members",
            "Members of the cluster by state, this node included",
            this.members.clone(),
        );
        metrics.register(
            "cluster_healthy_workers",
            "Workers that take work: proven, alive and ready",
            this.healthy_workers.clone(),
        );
        metrics.register(
            "cluster_workers",
            "Live members with a proven role of worker",
            this.workers.clone(),
        );
        metrics.register(
            "cluster_gossip_bytes",
            "Bytes of membership sent and received, without their envelopes",
            this.bytes.clone(),
        );
        metrics.register(
            "cluster_drops",
            "What was dropped of membership traffic, by reason",
            this.drops.clone(),
        );
        metrics.register(
            "cluster_handshakes_refused",
            "Gossip connections refused before a byte counted, by reason",
            this.handshakes_refused.clone(),
        );
        metrics.register(
            "cluster_links",
            "Gossip connections open right now",
            this.links.clone(),
        );
        metrics.register(
            "cluster_suspicions",
            "Members that this node began to suspect, or heard to be suspected",
            this.suspicions.clone(),
        );
        metrics.register(
            "cluster_refutations",
            "Suspected members that turned out to live",
            this.refutations.clone(),
        );
        metrics.register(
            "cluster_failures",
            "Members that were found to have failed",
            this.failures.clone(),
        );
        metrics.register(
            "cluster_accusations",
            "Times that this node itself was suspected and refuted",
            this.accusations.clone(),
        );
        metrics.register(
            "cluster_local_health",
            "This node's own health score; 0 is fine, 8 is worst",
            this.local_health.clone(),
        );
        this
    }

    pub(crate) fn sent(&self, path: Path, bytes: usize) {
        self.count_bytes("out", path, bytes);
    }

    pub(crate) fn received(&self, path: Path, bytes: usize) {
        self.count_bytes("in", path, bytes);
    }

    fn count_bytes(&self, direction: &'static str, path: Path, bytes: usize) {
        let path = path.as_str();
        self.bytes
            .get_or_create(&ByteLabels { direction, path })
            .inc_by(bytes as u64);
    }

    pub(crate) fn dropped(&self, reason: Reason, count: u64) {
        if count > 0 {
            self.drops
                .get_or_create(&ReasonLabels { reason })
                .inc_by(count);
        }
    }

    pub(crate) fn refused(&self, reason: Reason) {
        self.handshakes_refused
            .get_or_create(&ReasonLabels { reason })
            .inc();
    }

    pub(crate) fn set_links(&self, path: Path, count: usize) {
        let path = path.as_str();
        self.links
            .get_or_create(&PathLabels { path })
            .set(gauge(count));
    }

    pub(crate) fn show(&self, snapshot: &Snapshot) {
        for (state, label) in [
            (State::Alive, "alive"),
            (State::Suspect, "suspect"),
            (State::Failed, "failed"),
            (State::Left, "left"),
        ] {
            let count = snapshot.nodes.iter().filter(|node| node.state == state);
            self.members
                .get_or_create(&StateLabels { state: label })
                .set(gauge(count.count()));
        }
        self.healthy_workers
            .set(gauge(snapshot.registry.healthy_count));
        self.workers.set(gauge(snapshot.registry.worker_count));
        self.local_health.set(i64::from(snapshot.local_health));
    }

    /// Adds what the core counted since `before`.
    pub(crate) fn add_core(&self, before: &Counters, after: &Counters) {
        for (reason, count) in drops_of(after) {
            let earlier = drops_of(before)
                .into_iter()
                .find(|(other, _)| *other == reason)
                .map_or(0, |(_, count)| count);
            self.dropped(reason, count.saturating_sub(earlier));
        }
        self.accusations
            .inc_by(after.refutations.saturating_sub(before.refutations));
    }
}

/// The core's drops by reason.
fn drops_of(counters: &Counters) -> [(Reason, u64); 16] {
    [
        ("oversized", counters.oversized),
        ("malformed", counters.malformed),
        ("unknown_version", counters.unknown_version),
        ("forged", counters.forged),
        ("stale", counters.stale),
        ("implausible", counters.implausible),
        ("incompatible", counters.incompatible),
        ("table_full", counters.table_full),
        ("fingerprint_clash", counters.fingerprint_clash),
        ("expelled", counters.expelled),
        ("stranger", counters.stranger),
        ("unknown_subject", counters.unknown_subject),
        ("unexpected_answer", counters.unexpected_answer),
        ("relay_refused", counters.relay_refused),
        ("sync_over_budget", counters.sync_over_budget),
        ("transmits_lost", counters.transmits_lost),
    ]
}

fn gauge(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}
