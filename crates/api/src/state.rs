//! What the routes work on.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use jiff::Timestamp;
use warren_content::Store;
use warren_content::retrieve::Retriever;
use warren_identity::{NodeKey, Trust};
use warren_mesh::Mesh;
use warren_telemetry::{Health, Metrics};

use crate::error::ApiError;
use crate::traffic_log::TrafficLog;
use crate::types::{Grant, GrantRequest, Reloaded, Renewed};

/// A future that a [`Control`] returns.
pub type ControlFuture<'a, T> = Pin<Box<dyn Future<Output = Result<T, ApiError>> + Send + 'a>>;

/// What the API asks of the daemon, which puts the node together and is above it.
pub trait Control: Send + Sync {
    /// Reads the configuration again and applies what can change while running.
    fn reload(&self) -> ControlFuture<'_, Reloaded>;
    /// Asks the discovery servers and dials the bootstrap peers again, now.
    fn bootstrap(&self) -> ControlFuture<'_, ()>;
    /// Registers with the discovery servers, now.
    fn register(&self) -> ControlFuture<'_, ()>;
    /// Makes a one-time join token.
    fn grant(&self, request: GrantRequest) -> ControlFuture<'_, Grant>;
    /// Has the node's certificate renewed, now; the answer comes when the new one is in force.
    fn renew(&self) -> ControlFuture<'_, Renewed>;
    /// Tells the mesh that this node holds a document, or no longer does.
    fn announce(&self, document: warren_content::DocumentId, held: Held);
}

/// Whether this node holds a document.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Held {
    /// It does now.
    Here,
    /// It no longer does.
    Gone,
}

/// Facts of the node that do not change while it runs.
#[derive(Debug, Clone)]
pub struct NodeFacts {
    /// Name of the node.
    pub node_id: String,
    /// Its region.
    pub region: Option<String>,
    /// What it runs.
    pub roles: Vec<String>,
    /// Version of the program.
    pub version: &'static str,
    /// When it started.
    pub started_at: Timestamp,
    /// Where the bulk port is open.
    pub transfer_address: Option<SocketAddr>,
    /// Bytes the store may take.
    pub max_store_bytes: u64,
    /// What was noticed when the configuration was read.
    pub warnings: Vec<String>,
}

/// Everything the routes need; cheap to clone.
#[derive(Clone)]
pub struct ApiState {
    /// What does not change.
    pub facts: Arc<NodeFacts>,
    /// Live key, certificate, roots, revocations.
    pub trust: Trust,
    /// The mesh.
    pub mesh: Mesh,
    /// The store.
    pub store: Store,
    /// Documents from here or elsewhere.
    pub retriever: Retriever,
    /// Signs document records.
    pub key: NodeKey,
    /// What monitoring reads.
    pub metrics: Metrics,
    /// Which parts work.
    pub health: Health,
    /// Traffic of the last thirty days.
    pub traffic: TrafficLog,
    /// The daemon.
    pub control: Arc<dyn Control>,
}
