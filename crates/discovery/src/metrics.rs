//! What discovery counts. Names here come without the prefix `warren_` and, for counters, without `_total`.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, gauge::Gauge},
};
use warren_telemetry::Metrics;

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct RequestLabels {
    pub(crate) route: String,
    pub(crate) code: u16,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OutcomeLabel {
    pub(crate) outcome: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct OrganizationLabel {
    pub(crate) organization: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ReasonLabel {
    pub(crate) reason: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub(crate) struct ClientLabels {
    pub(crate) operation: &'static str,
    pub(crate) outcome: &'static str,
}

/// The server's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct ServerMetrics {
    pub(crate) requests: Family<RequestLabels, Counter>,
    pub(crate) registrations: Family<OutcomeLabel, Counter>,
    pub(crate) active_nodes: Family<OrganizationLabel, Gauge>,
    pub(crate) joins: Family<OutcomeLabel, Counter>,
    pub(crate) connections: Gauge,
    pub(crate) connections_refused: Family<ReasonLabel, Counter>,
    pub(crate) registry_up: Gauge,
}

impl ServerMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "discovery_requests",
            "Requests to the discovery server by route and status code",
            this.requests.clone(),
        );
        metrics.register(
            "discovery_registrations",
            "Registrations taken in by what they changed, and entries that ended",
            this.registrations.clone(),
        );
        metrics.register(
            "discovery_active_nodes",
            "Registered nodes that are alive, by organisation",
            this.active_nodes.clone(),
        );
        metrics.register(
            "discovery_joins",
            "Uses of join tokens and renewals by how they ended",
            this.joins.clone(),
        );
        metrics.register(
            "discovery_connections",
            "Connections to the discovery server right now",
            this.connections.clone(),
        );
        metrics.register(
            "discovery_connections_refused",
            "Connections to the discovery server that were not served, by reason",
            this.connections_refused.clone(),
        );
        metrics.register(
            "discovery_registry_up",
            "Whether the registry's database answered the last probe",
            this.registry_up.clone(),
        );
        this
    }

    pub(crate) fn joined(&self, outcome: &'static str) {
        self.joins.get_or_create(&OutcomeLabel { outcome }).inc();
    }

    pub(crate) fn registered(&self, outcome: &'static str) {
        self.registrations
            .get_or_create(&OutcomeLabel { outcome })
            .inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.connections_refused
            .get_or_create(&ReasonLabel { reason })
            .inc();
    }
}

/// The client's metrics.
#[derive(Debug, Clone, Default)]
pub(crate) struct ClientMetrics {
    requests: Family<ClientLabels, Counter>,
    pub(crate) registered: Gauge,
}

impl ClientMetrics {
    pub(crate) fn register(metrics: &Metrics) -> Self {
        let this = Self::default();
        metrics.register(
            "discovery_client_requests",
            "Requests of this node to discovery servers by operation and outcome",
            this.requests.clone(),
        );
        metrics.register(
            "discovery_client_registered",
            "Whether this node is registered with a discovery server",
            this.registered.clone(),
        );
        this
    }

    pub(crate) fn asked(&self, operation: &'static str, outcome: &'static str) {
        self.requests
            .get_or_create(&ClientLabels { operation, outcome })
            .inc();
    }
}
