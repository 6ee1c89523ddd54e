//! What a running node says about itself: metrics, health and log lines.
//!
//! The crate owns the metric registry ([`Metrics`]), the metrics of the mesh and of retrieval ([`NetworkMetrics`],
//! [`RetrievalMetrics`]), the list of named components and their state ([`Health`]), and the log subscriber ([`logging`]).
//! It serves nothing: the HTTP side is in the API crate. It never decides: other crates count into it and report to it.
//! Each crate keeps its own metrics next to what they count and registers them with [`Metrics::register`].
//! Every name is listed in `docs/metrics.md`; a test compares.
//!
//! Start reading at [`Metrics`], then [`Health`], then [`logging::init`].

pub mod health;
pub mod logging;
mod metrics;
mod network;
mod retrieval;

pub use health::{ComponentHealth, Health, HealthReport};
pub use metrics::{FamilyDescription, Metrics, OPENMETRICS_CONTENT_TYPE};
pub use network::{DisconnectReason, MAX_TRACKED_PEERS, NetworkMetrics, OTHER_PEERS, Traffic};
pub use retrieval::{RetrievalMetrics, SourceType};
