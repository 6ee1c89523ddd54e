//! What is known of the members, as others see it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use warren_balance::TagFilter;
use warren_identity::{Capabilities, Capability, PeerId};
use warren_swim::{Proof, State};

/// The tag with a node's roles, comma-separated.
pub const ROLE_TAG: &str = "role";
/// The tag with which a worker says whether it takes work. Without it, it does.
pub const READY_TAG: &str = "ready";

/// A role that a node claims.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Role {
    /// Its name: `worker`, `director`, …
    pub name: String,
    /// Whether the node's leaf grants the capability of that name. Only proven roles may be acted upon.
    pub proof: Proof,
}

/// One node of the cluster, this one included.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Who it is.
    pub peer_id: PeerId,
    /// Its name, from its leaf; `None` until the leaf has been seen.
    pub name: Option<String>,
    /// Where it takes part in membership.
    pub address: SocketAddr,
    /// In which state it is held.
    pub state: State,
    /// The age of what it says of itself.
    pub incarnation: u64,
    /// What it says of itself. Roles in it are claims: see [`Node::roles`].
    pub tags: BTreeMap<String, String>,
    /// The roles it claims.
    pub roles: Vec<Role>,
    /// Whether it is this node.
    pub is_self: bool,
}

impl Node {
    /// Whether it claims a role and its leaf grants it.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        self.roles
            .iter()
            .any(|role| role.name == name && role.proof == Proof::Proven)
    }

    /// Whether it is alive or suspect.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.state.is_live()
    }

    /// Whether it takes work: alive, and its tag `ready` is `true` or absent.
    #[must_use]
    pub fn is_healthy(&self) -> bool {
        let ready = self.tags.get(READY_TAG).is_none_or(|ready| ready == "true");
        self.state == State::Alive && ready
    }

    /// Whether its tags carry all that `filter` wants. The tag `role` has only what is proven: it matches with each
    /// proven role alone, and with all of them in the order claimed.
    #[must_use]
    pub fn matches(&self, filter: &TagFilter) -> bool {
        let mut tags = self.tags.clone();
        tags.remove(ROLE_TAG);
        let proven: Vec<&str> = self
            .roles
            .iter()
            .filter(|role| role.proof == Proof::Proven)
            .map(|role| role.name.as_str())
            .collect();
        if filter.matches(&tags) {
            return true;
        }
        let whole = proven.join(",");
        std::iter::once(whole.as_str())
            .chain(proven.iter().copied())
            .filter(|role| !role.is_empty())
            .any(|role| {
                tags.insert(ROLE_TAG.to_owned(), role.to_owned());
                filter.matches(&tags)
            })
    }
}

/// The roles in a `role` tag, with what a leaf says to them.
pub(crate) fn roles_of(claimed: &str, held: Option<&Capabilities>) -> Vec<Role> {
    claimed
        .split(',')
        .map(str::trim)
        .filter(|role| !role.is_empty())
        .map(|role| Role {
            name: role.to_owned(),
            proof: match (held, role.parse::<Capability>()) {
                (None, _) => Proof::Pending,
                (Some(held), Ok(capability)) if held.allows(&capability) => Proof::Proven,
                _ => Proof::Unproven,
            },
        })
        .collect()
}

/// The workers of a cluster: live members with a proven role `worker`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Registry {
    /// All of them.
    pub worker_count: usize,
    /// Those that take work: alive, nobody suspects them, and ready.
    pub healthy_count: usize,
}

/// All members at one moment. Cheap to clone and to hold on to.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Every node known, this one included, failed and left ones as long as they are remembered; by peer id.
    pub nodes: Arc<[Arc<Node>]>,
    /// Its workers.
    pub registry: Registry,
    /// Lifeguard's score of this node's own health: 0 is fine.
    pub local_health: u32,
}

impl Snapshot {
    pub(crate) fn new(nodes: Arc<[Arc<Node>]>, local_health: u32) -> Self {
        let workers = || {
            nodes
                .iter()
                .filter(|node| node.is_live() && node.has_role("worker"))
        };
        let registry = Registry {
            worker_count: workers().count(),
            healthy_count: workers().filter(|node| node.is_healthy()).count(),
        };
        Self {
            nodes,
            registry,
            local_health,
        }
    }

    /// Live nodes, this one included.
    #[must_use]
    pub fn node_count(&self) -> usize {
        self.nodes.iter().filter(|node| node.is_live()).count()
    }

    /// One node.
    #[must_use]
    pub fn node(&self, peer_id: &PeerId) -> Option<&Arc<Node>> {
        self.nodes.iter().find(|node| node.peer_id == *peer_id)
    }

    /// Live nodes whose tags match; a role only where it is proven.
    pub fn members_with(&self, filter: &TagFilter) -> impl Iterator<Item = &Arc<Node>> {
        self.nodes
            .iter()
            .filter(|node| node.is_live() && node.matches(filter))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use warren_identity::NodeKey;

    fn node(number: u8, tags: &[(&str, &str)], capabilities: &[&str]) -> Node {
        let tags: BTreeMap<String, String> = tags
            .iter()
            .map(|(key, value)| ((*key).to_owned(), (*value).to_owned()))
            .collect();
        let held = Capabilities::parse(capabilities.iter().copied()).unwrap();
        Node {
            peer_id: NodeKey::from_seed([number; 32]).peer_id(),
            name: None,
            address: "10.0.0.1:7946".parse().unwrap(),
            state: State::Alive,
            incarnation: 1,
            roles: roles_of(tags.get(ROLE_TAG).map_or("", String::as_str), Some(&held)),
            tags,
            is_self: false,
        }
    }

    #[test]
    fn given_a_claimed_role_without_capability_when_filtered_then_it_does_not_match() {
        let liar = node(1, &[("role", "worker"), ("zone", "a")], &[]);

        assert!(!liar.matches(&TagFilter::tag("role", "worker")));
        assert!(liar.matches(&TagFilter::tag("zone", "a")));
        assert!(!liar.has_role("worker"));
    }

    #[test]
    fn given_two_roles_of_which_one_is_proven_when_filtered_then_only_that_one_matches() {
        let both = node(
            1,
            &[("role", "director, worker"), ("zone", "a")],
            &["worker"],
        );

        assert!(both.matches(&TagFilter::tag("role", "worker").and("zone", "a")));
        assert!(!both.matches(&TagFilter::tag("role", "director")));
        assert!(!both.matches(&TagFilter::tag("role", "director, worker")));
    }

    #[test]
    fn given_workers_in_all_conditions_when_counted_then_only_ready_and_unsuspected_ones_are_healthy()
     {
        let worker = |number, ready: &[(&str, &str)]| {
            node(
                number,
                &[&[("role", "worker")], ready].concat(),
                &["worker"],
            )
        };
        let mut suspect = worker(4, &[]);
        suspect.state = State::Suspect;
        let mut failed = worker(5, &[]);
        failed.state = State::Failed;
        let nodes = [
            worker(1, &[]),
            worker(2, &[("ready", "true")]),
            worker(3, &[("ready", "false")]),
            suspect,
            failed,
            node(6, &[("role", "worker")], &[]),
        ];

        let snapshot = Snapshot::new(nodes.into_iter().map(Arc::new).collect(), 0);

        let wanted = Registry {
            worker_count: 4,
            healthy_count: 2,
        };
        assert_eq!(snapshot.registry, wanted);
        assert_eq!(snapshot.node_count(), 5);
    }
}
