//! Cluster membership over real sockets: who is there, what each node says of itself, who is gone.
//!
//! Owns: the gossip links (QUIC on UDP 7946, TCP on the same port where UDP does not get through), the task that drives
//! the membership core of `warren-swim`, whose leaf grants which role, the worker registry, backup and restore.
//! Never does: decide who is suspect or failed (that is `warren-swim`), balance, carry calls.
//!
//! Start reading at [`Cluster`], then `driver` (the one task that owns the core), `link` and `dial` (how bytes
//! travel), and `core` (which link, whom to dial, whom to let in).
//!
//! # Links
//!
//! Both sides of a link are members of the organisation: TLS 1.3 with the node's leaf on both, before a byte counts.
//! What arrives is attributed to the peer id that the leaf proves. Membership packets are QUIC datagrams; messages,
//! questions for certificates and their answers fill one stream each. Where QUIC does not answer, TCP is dialled beside
//! it, and what QUIC does not acknowledge soon goes over TCP too; QUIC is preferred again as soon as it answers.
//! Links are kept while idle; beyond [`ClusterConfig::max_links`] the least recently used one is closed. A
//! link ends when its leaf expires or is revoked, and so does the membership of its node.
//!
//! # Roles
//!
//! Tags are claims. A role in the tag `role` counts only with the capability of that name in the node's leaf. Leaves are
//! fetched from whoever has them, so roles are proven before first contact; each node names its leaf in the signed tag
//! `leaf`, so an old one cannot pass for the present one.
//!
//! # What a partition does
//!
//! There is no leader and no quorum of the whole: each side of a partition finds the other side failed and goes on, with
//! its own directors and workers. Calls of each side reach its own members. When the partition heals, members that were held
//! failed are shown what is held against them, refute it under a higher incarnation, and both sides merge; who
//! has left stays left. Only a node itself raises its incarnation, so of two statements about it the newer is known, and
//! nothing has to be decided by hand. What must exist once in a cluster needs a lease from a coordinator: membership does
//! not fence.

mod cluster;
mod config;
mod core;
mod dial;
mod driver;
mod link;
mod metrics;
mod node;
mod seeds;
mod shell;
mod state;
mod tls;

pub use cluster::{Cluster, JoinError};
pub use config::ClusterConfig;
pub use core::frame::{Frame, FrameError, MAX_ASKED, MAX_FRAME_BYTES};
pub use core::seed::{DEFAULT_PORT, SeedError};
pub use node::{Node, READY_TAG, ROLE_TAG, Registry, Role, Snapshot};
pub use state::{BackupError, ClusterState, DEFAULT_MAX_AGE, SavedNode, SavedState};
pub use tls::LinkConfigError;
pub use warren_balance::TagFilter;
pub use warren_swim::{Proof, State, TagError};
