//! Which parts of the node work.
//!
//! A component is named once and holds a handle to report through. A *vital* one that fails makes the process
//! unfit to live (a restart could help: the store, the swarm task); any other only makes it not ready (no peer yet, no
//! discovery server). `degraded` is said but fails neither.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;

/// The components of one node. Cheap to clone; all clones see the same list.
#[derive(Debug, Clone, Default)]
pub struct Health {
    components: Arc<Mutex<BTreeMap<&'static str, Component>>>,
}

#[derive(Debug, Clone)]
struct Component {
    weight: Weight,
    state: ComponentState,
}

/// What a failure of the component means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weight {
    /// Without it the process is no use: liveness fails.
    Vital,
    /// Without it the node cannot serve yet: readiness fails.
    Needed,
}

/// The state of one component.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "status", rename_all = "lowercase")]
pub enum ComponentState {
    /// Not yet up: alive, not ready.
    Starting,
    /// Up as far as it can be by itself: alive, not ready until somebody else has come.
    Waiting {
        /// For what, for the operator.
        reason: String,
    },
    /// Works.
    Ok,
    /// Works with less than it should have.
    Degraded {
        /// What is missing, for the operator.
        reason: String,
    },
    /// Does not work.
    Failing {
        /// Why, for the operator.
        reason: String,
    },
}

/// Reports the state of one component. When the last clone goes, the component stays as it was last reported.
#[derive(Debug, Clone)]
pub struct ComponentHealth {
    name: &'static str,
    health: Health,
}

impl ComponentHealth {
    /// It works.
    pub fn ok(&self) {
        self.set(ComponentState::Ok);
    }

    /// It works with less than it should have.
    pub fn degraded(&self, reason: impl Into<String>) {
        self.set(ComponentState::Degraded {
            reason: reason.into(),
        });
    }

    /// It waits for somebody else.
    pub fn waiting(&self, reason: impl Into<String>) {
        self.set(ComponentState::Waiting {
            reason: reason.into(),
        });
    }

    /// It does not work.
    pub fn failing(&self, reason: impl Into<String>) {
        self.set(ComponentState::Failing {
            reason: reason.into(),
        });
    }

    fn set(&self, state: ComponentState) {
        let mut components = self
            .health
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(component) = components.get_mut(self.name) {
            component.state = state;
        }
    }
}

/// The answer of a probe; serialises to the body of `/health` or `/ready`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    /// `healthy` or `failing` for liveness; `ready`, `waiting` or `failing` for readiness.
    pub status: &'static str,
    /// Each component by name. The liveness report leaves reasons out, so that its body holds the word `healthy` exactly
    /// when the node is.
    pub components: BTreeMap<&'static str, serde_json::Value>,
}

impl HealthReport {
    /// Whether the probe passes: HTTP 200, else 503.
    #[must_use]
    pub fn passes(&self) -> bool {
        matches!(self.status, "healthy" | "ready")
    }
}

impl Health {
    /// A node without components: alive and ready.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Names a component; it begins as `starting`. Naming it again starts it anew.
    ///
    /// # Panics
    /// When the name holds the word `healthy`, which load balancers look for in the body.
    #[must_use]
    pub fn component(&self, name: &'static str, weight: Weight) -> ComponentHealth {
        assert!(
            !name.contains("healthy"),
            "component {name} would make every report look healthy"
        );
        let mut components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        components.insert(
            name,
            Component {
                weight,
                state: ComponentState::Starting,
            },
        );
        ComponentHealth {
            name,
            health: self.clone(),
        }
    }

    /// Takes a component away: the plane was turned off.
    pub fn remove(&self, name: &str) {
        self.components
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(name);
    }

    /// The state of one component.
    #[must_use]
    pub fn state(&self, name: &str) -> Option<ComponentState> {
        let components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        components
            .get(name)
            .map(|component| component.state.clone())
    }

    /// Whether the process should live: fails when a vital component fails.
    #[must_use]
    pub fn live(&self) -> HealthReport {
        let components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let failing = components.values().any(|c| {
            c.weight == Weight::Vital && matches!(c.state, ComponentState::Failing { .. })
        });
        let status = if failing { "failing" } else { "healthy" };
        let components = components
            .iter()
            .map(|(name, c)| (*name, c.state.word().into()))
            .collect();
        HealthReport { status, components }
    }

    /// Whether the node can serve: fails while any component is starting, waiting or failing. `waiting` says that time may
    /// mend it, `failing` that something is wrong.
    #[must_use]
    pub fn ready(&self) -> HealthReport {
        let components = self
            .components
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let any = |is: fn(&ComponentState) -> bool| components.values().any(|c| is(&c.state));
        let status = if any(|state| matches!(state, ComponentState::Failing { .. })) {
            "failing"
        } else if any(|state| {
            matches!(
                state,
                ComponentState::Starting | ComponentState::Waiting { .. }
            )
        }) {
            "waiting"
        } else {
            "ready"
        };
        let components = components
            .iter()
            .map(|(name, c)| (*name, c.state.json()))
            .collect();
        HealthReport { status, components }
    }
}

impl ComponentState {
    /// The state in one word.
    #[must_use]
    pub fn word(&self) -> &'static str {
        match self {
            Self::Starting => "starting",
            Self::Waiting { .. } => "waiting",
            Self::Ok => "ok",
            Self::Degraded { .. } => "degraded",
            Self::Failing { .. } => "failing",
        }
    }

    fn json(&self) -> serde_json::Value {
        match self {
            Self::Starting | Self::Ok => serde_json::json!({ "status": self.word() }),
            Self::Waiting { reason } | Self::Degraded { reason } | Self::Failing { reason } => {
                serde_json::json!({ "status": self.word(), "reason": reason })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn body(report: &HealthReport) -> String {
        serde_json::to_string(report).unwrap()
    }

    #[test]
    fn given_all_components_ok_when_asked_then_healthy_and_ready() {
        let health = Health::new();
        health.component("store", Weight::Vital).ok();
        health.component("mesh", Weight::Needed).ok();

        assert_eq!(
            body(&health.live()),
            r#"{"status":"healthy","components":{"mesh":"ok","store":"ok"}}"#
        );
        assert_eq!(
            body(&health.ready()),
            r#"{"status":"ready","components":{"mesh":{"status":"ok"},"store":{"status":"ok"}}}"#
        );
    }

    #[test]
    fn given_a_failing_vital_component_when_asked_then_the_live_body_lacks_the_word() {
        let health = Health::new();
        health
            .component("store", Weight::Vital)
            .failing("disk is not healthy");

        let live = health.live();

        assert!(!live.passes());
        assert!(!body(&live).contains("healthy"), "{}", body(&live));
        assert!(body(&health.ready()).contains("disk is not healthy"));
    }

    #[test]
    fn given_a_failing_needed_component_when_asked_then_alive_but_not_ready() {
        let health = Health::new();
        health
            .component("discovery", Weight::Needed)
            .failing("no server answers");

        assert!(health.live().passes());
        assert!(!health.ready().passes());
        assert_eq!(health.ready().status, "failing");
    }

    #[test]
    fn given_a_waiting_component_when_asked_then_alive_and_not_ready_with_the_reason() {
        let health = Health::new();
        let peers = health.component("peers", Weight::Needed);
        peers.waiting("nobody is here yet");

        assert!(health.live().passes());
        assert_eq!(health.ready().status, "waiting");
        assert!(body(&health.ready()).contains("nobody is here yet"));
        health
            .component("certificate", Weight::Needed)
            .failing("it is revoked");
        assert_eq!(health.ready().status, "failing");
    }

    #[test]
    fn given_a_degraded_component_when_asked_then_both_pass_and_the_reason_shows() {
        let health = Health::new();
        health
            .component("revocation", Weight::Vital)
            .degraded("the list is three days old");

        assert!(health.live().passes());
        assert!(health.ready().passes());
        assert!(body(&health.ready()).contains("three days old"));
    }

    #[test]
    fn given_a_component_still_starting_when_asked_then_not_ready_until_it_reports() {
        let health = Health::new();
        let mesh = health.component("mesh", Weight::Needed);
        assert!(!health.ready().passes());

        mesh.ok();

        assert!(health.ready().passes());
    }

    #[test]
    fn given_a_removed_component_when_asked_then_it_counts_no_more() {
        let health = Health::new();
        let mesh = health.component("mesh", Weight::Needed);
        health.remove("mesh");
        mesh.failing("too late");

        assert!(health.ready().passes());
        assert_eq!(health.state("mesh"), None);
    }
}
