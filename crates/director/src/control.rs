//! The service with which people look after a cluster through one of its nodes.

use std::sync::Arc;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use warren_cluster::{Cluster, ClusterState, DEFAULT_MAX_AGE, Node, Proof, READY_TAG, State};
use warren_identity::Capability;
use warren_rpc::{Code, Context, REGION_TAG, Status, ZONE_TAG, address_of};

/// The tag with what people call a member.
pub const LABEL_TAG: &str = "label";

/// What a node knows of its cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ClusterReport {
    /// The node that answers.
    pub peer_id: String,
    /// Live members, the answering one included.
    pub node_count: usize,
    /// Live members that are proven workers.
    pub worker_count: usize,
    /// Those of them that take calls.
    pub healthy_workers: usize,
    /// Everyone it knows, itself included; failed and left ones as long as they are remembered.
    pub members: Vec<MemberReport>,
}

/// One member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberReport {
    /// Who it is.
    pub peer_id: String,
    /// Its name in its certificate; absent until that was seen.
    pub name: Option<String>,
    /// What people call it.
    pub label: Option<String>,
    /// `alive`, `suspect`, `failed` or `left`.
    pub state: MemberState,
    /// The roles it claims.
    pub roles: Vec<RoleReport>,
    /// Whether it says that it takes calls.
    pub ready: bool,
    /// Its region.
    pub region: Option<String>,
    /// Its zone.
    pub zone: Option<String>,
    /// Where it gossips.
    pub gossip_address: String,
    /// Where it takes calls, if it does.
    pub rpc_address: Option<String>,
    /// Whether it is the node that answers.
    pub is_self: bool,
}

/// How a member is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MemberState {
    /// It answers.
    Alive,
    /// Somebody got no answer from it.
    Suspect,
    /// It is gone without a word.
    Failed,
    /// It said good-bye.
    Left,
}

impl MemberState {
    /// The word for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Alive => "alive",
            Self::Suspect => "suspect",
            Self::Failed => "failed",
            Self::Left => "left",
        }
    }
}

/// A role that a member claims.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RoleReport {
    /// Its name.
    pub name: String,
    /// Whether the member's certificate grants it; nobody acts upon one that it does not.
    pub proven: bool,
}

impl ClusterReport {
    /// What is not as it should be, for people; empty when the cluster is whole.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let mut complaints = Vec::new();
        for member in &self.members {
            let who = member.title();
            match member.state {
                MemberState::Suspect => complaints.push(format!("{who} does not answer everybody")),
                MemberState::Failed => complaints.push(format!("{who} is gone without a word")),
                MemberState::Alive if member.is_worker() && !member.ready => {
                    complaints.push(format!("{who} takes no calls"));
                }
                MemberState::Alive | MemberState::Left => {}
            }
            if member.state == MemberState::Alive {
                let unproven = member.roles.iter().filter(|role| !role.proven);
                complaints.extend(unproven.map(|role| {
                    format!(
                        "{who} claims the role {}, which its certificate does not grant",
                        role.name
                    )
                }));
            }
        }
        if self.healthy_workers == 0 {
            complaints.push("no worker takes calls".to_owned());
        }
        complaints
    }

    /// The live worker that is called so, by label, name or peer id.
    #[must_use]
    pub fn worker(&self, called: &str) -> Option<&MemberReport> {
        self.members.iter().find(|member| {
            let is_called = member.peer_id == called
                || member.label.as_deref() == Some(called)
                || member.name.as_deref() == Some(called);
            is_called && member.is_worker() && member.state == MemberState::Alive
        })
    }
}

impl MemberReport {
    /// What people call it.
    #[must_use]
    pub fn title(&self) -> &str {
        let named = self.label.as_deref().or(self.name.as_deref());
        named.unwrap_or(&self.peer_id)
    }

    /// Whether its certificate grants the role it claims.
    #[must_use]
    pub fn has_role(&self, name: &str) -> bool {
        self.roles
            .iter()
            .any(|role| role.proven && role.name == name)
    }

    fn is_worker(&self) -> bool {
        self.has_role("worker")
    }
}

/// What a restore came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restored {
    /// Members that will be contacted until they answer.
    pub contacted: usize,
}

/// Looks after a cluster. Members may ask for the status; the rest takes the node itself, or a member with the
/// capability `admin`.
#[warren_rpc::service(package = "warren.v1")]
pub trait ClusterService {
    /// Who is there.
    #[rpc(idempotent)]
    async fn status(&self, ctx: Context, request: ()) -> Result<ClusterReport, Status>;
    /// Who is there, as JSON to be kept; see [`ClusterService::restore`].
    #[rpc(idempotent)]
    async fn backup(&self, ctx: Context, request: ()) -> Result<String, Status>;
    /// Contacts the members of a backup.
    #[rpc(idempotent)]
    async fn restore(&self, ctx: Context, backup: String) -> Result<Restored, Status>;
    /// Drains the node, says good-bye to the cluster and stops it. Answers before it does.
    async fn leave(&self, ctx: Context, request: ()) -> Result<(), Status>;
}

/// Answers [`ClusterService`] for the node that holds this membership.
#[derive(Debug, Clone)]
pub struct Control {
    cluster: Cluster,
    leave: Arc<Notify>,
}

impl Control {
    /// `leave` is told when the node is to drain, leave and stop.
    #[must_use]
    pub fn new(cluster: Cluster, leave: Arc<Notify>) -> Self {
        Self { cluster, leave }
    }

    /// Only the node itself and administrators change anything.
    fn check(&self, context: &Context) -> Result<(), Status> {
        let may = context.caller().is_some_and(|caller| {
            caller.peer_id == self.cluster.peer_id() || caller.allows(&Capability::Admin)
        });
        match may {
            true => Ok(()),
            false => Err(Status::new(
                Code::PermissionDenied,
                "this takes the node's own certificate, or one with the capability `admin`",
            )),
        }
    }
}

fn member(node: &Arc<Node>) -> MemberReport {
    let tag = |name: &str| node.tags.get(name).cloned();
    MemberReport {
        peer_id: node.peer_id.to_string(),
        name: node.name.clone(),
        label: tag(LABEL_TAG),
        state: match node.state {
            State::Alive => MemberState::Alive,
            State::Suspect => MemberState::Suspect,
            State::Failed => MemberState::Failed,
            State::Left => MemberState::Left,
        },
        roles: node
            .roles
            .iter()
            .map(|role| RoleReport {
                name: role.name.clone(),
                proven: role.proof == Proof::Proven,
            })
            .collect(),
        ready: node.tags.get(READY_TAG).is_none_or(|ready| ready == "true"),
        region: tag(REGION_TAG),
        zone: tag(ZONE_TAG),
        gossip_address: node.address.to_string(),
        rpc_address: address_of(node).map(|address| address.to_string()),
        is_self: node.is_self,
    }
}

impl ClusterService for Control {
    async fn status(&self, _: Context, (): ()) -> Result<ClusterReport, Status> {
        let snapshot = self.cluster.snapshot();
        Ok(ClusterReport {
            peer_id: self.cluster.peer_id().to_string(),
            node_count: snapshot.node_count(),
            worker_count: snapshot.registry.worker_count,
            healthy_workers: snapshot.registry.healthy_count,
            members: snapshot.nodes.iter().map(member).collect(),
        })
    }

    async fn backup(&self, ctx: Context, (): ()) -> Result<String, Status> {
        self.check(&ctx)?;
        serde_json::to_string_pretty(&self.cluster.state())
            .map_err(|error| Status::new(Code::Internal, format!("no backup: {error}")))
    }

    async fn restore(&self, ctx: Context, backup: String) -> Result<Restored, Status> {
        self.check(&ctx)?;
        let state: ClusterState = serde_json::from_str(&backup)
            .map_err(|error| Status::new(Code::InvalidArgument, format!("no backup: {error}")))?;
        let seeds = state.seeds(SystemTime::now(), DEFAULT_MAX_AGE);
        let contacted = seeds.len();
        self.cluster.contact(seeds).await;
        tracing::info!(contacted, "contacting the members of a backup");
        Ok(Restored { contacted })
    }

    async fn leave(&self, ctx: Context, (): ()) -> Result<(), Status> {
        self.check(&ctx)?;
        tracing::info!("told to leave the cluster and stop");
        self.leave.notify_one();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn worker(label: &str, state: MemberState, proven: bool, ready: bool) -> MemberReport {
        MemberReport {
            peer_id: format!("peer-of-{label}"),
            name: None,
            label: Some(label.to_owned()),
            state,
            roles: vec![RoleReport {
                name: "worker".to_owned(),
                proven,
            }],
            ready,
            region: None,
            zone: None,
            gossip_address: String::new(),
            rpc_address: None,
            is_self: false,
        }
    }

    fn report(members: Vec<MemberReport>) -> ClusterReport {
        ClusterReport {
            peer_id: String::new(),
            node_count: members.len(),
            worker_count: members.len(),
            healthy_workers: members.len(),
            members,
        }
    }

    #[test]
    fn given_members_in_every_condition_then_only_what_is_wrong_is_complained_of() {
        let whole = report(vec![
            worker("a", MemberState::Alive, true, true),
            worker("b", MemberState::Left, true, false),
        ]);
        assert_eq!(whole.complaints(), [""; 0]);

        let degraded = report(vec![
            worker("a", MemberState::Alive, true, false),
            worker("b", MemberState::Failed, true, true),
            worker("c", MemberState::Suspect, true, true),
            worker("d", MemberState::Alive, false, true),
        ]);
        assert_eq!(
            degraded.complaints(),
            [
                "a takes no calls",
                "b is gone without a word",
                "c does not answer everybody",
                "d claims the role worker, which its certificate does not grant",
            ]
        );
    }

    #[test]
    fn given_a_cluster_without_workers_then_it_is_degraded() {
        assert_eq!(report(Vec::new()).complaints(), ["no worker takes calls"]);
    }

    #[test]
    fn given_a_worker_when_looked_for_then_it_must_live_and_be_proven() {
        let report = report(vec![
            worker("a", MemberState::Alive, true, true),
            worker("b", MemberState::Failed, true, true),
            worker("c", MemberState::Alive, false, true),
        ]);
        assert!(report.worker("a").is_some() && report.worker("peer-of-a").is_some());
        assert!(report.worker("b").is_none() && report.worker("c").is_none());
    }
}
