//! What the mesh counts beside traffic and peers (those are in `warren_telemetry::NetworkMetrics`).

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use warren_telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabel {
    reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ResultLabel {
    result: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct TopicLabel {
    topic: String,
}

/// The mesh's own families.
#[derive(Debug, Clone, Default)]
pub(crate) struct MeshMetrics {
    admission_refused: Family<ReasonLabel, Counter>,
    gossip_messages: Family<ResultLabel, Counter>,
    /// Topics are named in the configuration, never by a peer.
    gossip_mesh_peers: Family<TopicLabel, Gauge>,
    requests: Family<ResultLabel, Counter>,
    hole_punches: Family<ResultLabel, Counter>,
    pub(crate) routing_table_peers: Gauge,
    pub(crate) relay_reservations: Gauge,
    pub(crate) relay_circuits: Gauge,
}

impl MeshMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "network_admission_refused",
            "Connections ended because membership was not proven, by reason",
            this.admission_refused.clone(),
        );
        metrics.register(
            "network_gossip_messages",
            "Gossip messages received, by what was done with them: accepted, ignored, rejected or limited",
            this.gossip_messages.clone(),
        );
        metrics.register(
            "network_gossip_mesh_peers",
            "Peers that this node's gossip of a topic goes to directly, its mesh of that topic",
            this.gossip_mesh_peers.clone(),
        );
        metrics.register(
            "network_requests",
            "Sync requests received, by result: answered, limited, unknown or overloaded",
            this.requests.clone(),
        );
        metrics.register(
            "network_hole_punches",
            "Attempts to replace a relayed connection by a direct one, by result",
            this.hole_punches.clone(),
        );
        metrics.register(
            "network_routing_table_peers",
            "Peers in the Kademlia routing table",
            this.routing_table_peers.clone(),
        );
        metrics.register(
            "network_relay_reservations",
            "Slots this node holds on relays",
            this.relay_reservations.clone(),
        );
        metrics.register(
            "network_relay_circuits",
            "Circuits this node relays for others now",
            this.relay_circuits.clone(),
        );
        this
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.admission_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }

    pub(crate) fn gossip(&self, result: &'static str) {
        self.gossip_messages
            .get_or_create(&ResultLabel { result })
            .inc();
    }

    pub(crate) fn gossip_mesh(&self, topic: &str, peers: usize) {
        self.gossip_mesh_peers
            .get_or_create(&TopicLabel {
                topic: topic.to_owned(),
            })
            .set(i64::try_from(peers).unwrap_or(i64::MAX));
    }

    pub(crate) fn request(&self, result: &'static str) {
        self.requests.get_or_create(&ResultLabel { result }).inc();
    }

    pub(crate) fn hole_punch(&self, result: &'static str) {
        self.hole_punches
            .get_or_create(&ResultLabel { result })
            .inc();
    }
}
