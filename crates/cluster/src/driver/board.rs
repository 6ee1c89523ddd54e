//! What others see: members as nodes, published some milliseconds after a change at the latest.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use warren_identity::PeerId;
use warren_swim::{Liveness, State, Statement};

use super::Driver;
use crate::core::vault::LEAF_TAG;
use crate::node::{Node, ROLE_TAG, Role, Snapshot, roles_of};

/// Changes gather for so long: a thousand members that join together are a few snapshots, not a thousand.
const GATHER: Duration = Duration::from_millis(10);

/// All nodes, and whether somebody has yet to be told of a change.
#[derive(Debug, Default)]
pub(super) struct Board {
    nodes: BTreeMap<PeerId, Arc<Node>>,
    due: Option<Instant>,
    health: u32,
}

impl Board {
    /// When the next snapshot is due.
    pub(super) fn due(&self) -> Option<Instant> {
        self.due
    }

    /// Something changed.
    pub(super) fn touch(&mut self, now: Instant) {
        self.due.get_or_insert(now + GATHER);
    }

    /// The health score that was published last.
    pub(super) fn health(&self) -> u32 {
        self.health
    }
}

impl Driver {
    /// Takes over what the core holds of a member.
    pub(super) fn show(&mut self, id: &PeerId, now: Instant) {
        let Some(member) = self.swim.member(id) else {
            return;
        };
        let name = self.vault.get(id).map(|known| known.member.name.clone());
        let former = self.board.nodes.get(id).and_then(|node| node.name.clone());
        let roles = member.roles().map(|(role, proof)| Role {
            name: role.to_owned(),
            proof,
        });
        let node = Node {
            state: member.state(),
            roles: roles.collect(),
            ..node_of(member.statement(), name.or(former))
        };
        self.board.nodes.insert(*id, Arc::new(node));
        self.board.touch(now);
    }

    /// The same for this node.
    pub(super) fn show_own(&mut self) {
        let member = self.shell.trust.own_member();
        let statement = self.swim.local();
        let claimed = statement.tags.get(ROLE_TAG).unwrap_or_default();
        let node = Node {
            state: match statement.liveness {
                Liveness::Alive => State::Alive,
                Liveness::Left => State::Left,
            },
            roles: roles_of(claimed, member.as_ref().map(|member| &member.capabilities)),
            is_self: true,
            ..node_of(statement, member.as_ref().map(|member| member.name.clone()))
        };
        self.board.nodes.insert(self.own, Arc::new(node));
        self.board.touch(Instant::now());
    }

    /// Takes a member down.
    pub(super) fn forget(&mut self, id: &PeerId, now: Instant) {
        if self.links.of(id).is_empty() {
            self.vault.forget(id);
        }
        self.board.nodes.remove(id);
        self.board.touch(now);
    }

    /// Gives everyone the present state.
    pub(super) fn publish(&mut self) {
        self.board.due = None;
        self.board.health = self.swim.local_health();
        let nodes = self.board.nodes.values().cloned().collect();
        let snapshot = Snapshot::new(nodes, self.board.health);
        self.shell.metrics.show(&snapshot);
        self.wires.snapshots.send_replace(snapshot);
    }
}

fn node_of(statement: &Statement, name: Option<String>) -> Node {
    let tags = statement.tags.iter();
    let tags = tags.filter(|(key, _)| *key != LEAF_TAG);
    Node {
        peer_id: statement.subject,
        name,
        address: statement.address,
        state: State::Alive,
        incarnation: statement.incarnation,
        tags: tags
            .map(|(key, tag)| (key.to_owned(), tag.value.clone()))
            .collect(),
        roles: Vec::new(),
        is_self: false,
    }
}
