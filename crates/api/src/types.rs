//! The bodies of requests and answers. The command line uses the same types, so the two cannot drift apart.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use utoipa::{IntoParams, ToSchema};

/// `GET /api/v1/status`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Status {
    /// Name of the node.
    pub node_id: String,
    /// Its peer id.
    pub peer_id: String,
    /// Its organisation.
    pub organization_id: String,
    /// Its region, if it has one.
    pub region: Option<String>,
    /// What it runs.
    pub roles: Vec<String>,
    /// Version of the program.
    pub version: String,
    /// RFC 3339, UTC.
    pub started_at: String,
    /// Seconds since then.
    pub uptime_seconds: u64,
    /// `ready`, `waiting` or `failing`.
    pub readiness: String,
    /// Each component's state.
    pub components: BTreeMap<String, serde_json::Value>,
    /// Addresses of the mesh that others can use.
    pub listen_addresses: Vec<String>,
    /// TCP address of the bulk port, if it is open.
    pub transfer_address: Option<String>,
    /// Connected peers.
    pub peers: usize,
    /// Peers that this node's gossip goes to directly, by topic; empty where gossip is off.
    pub gossip_mesh_peers: BTreeMap<String, usize>,
    /// Listed documents and what they take.
    pub storage: StorageStatus,
    /// The node's certificate.
    pub certificate: CertificateStatus,
    /// What was noticed when the configuration was read.
    pub warnings: Vec<String>,
}

/// How full the store is.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct StorageStatus {
    /// Listed documents.
    pub documents: u64,
    /// Bytes taken by blocks.
    pub used_bytes: u64,
    /// Bytes that may be taken.
    pub max_bytes: u64,
}

/// The node's certificate and the revocation lists it knows.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct CertificateStatus {
    /// End of validity, RFC 3339.
    pub not_after: String,
    /// Whether it is time to renew it.
    pub renewal_due: bool,
    /// What it allows.
    pub capabilities: Vec<String>,
    /// Highest number of a revocation list that is known; 0 for none.
    pub revocation_list_number: u64,
}

/// `GET /api/v1/network/peers`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Peers {
    /// One page of peers, by peer id.
    pub peers: Vec<Peer>,
    /// How many there are on this page.
    pub total: usize,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// One peer.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Peer {
    /// Who.
    pub peer_id: String,
    /// What it calls itself.
    pub node_name: Option<String>,
    /// Its organisation, proved by its certificate; absent for a stranger.
    pub organization_id: Option<String>,
    /// `online`; `offline`: known, not connected; or `unreachable`: not connected, and the last attempt to reach it
    /// failed.
    pub status: String,
    /// Where it says it is.
    pub region: Option<String>,
    /// What its certificate allows.
    pub capabilities: Vec<String>,
    /// Where it can be dialled.
    pub addresses: Vec<String>,
    /// Since when it is connected, RFC 3339 UTC; absent when it is not.
    pub connected_at: Option<String>,
    /// Last measured round trip, in milliseconds; absent before the first ping.
    pub latency_ms: Option<u64>,
    /// Protocols it speaks, without the leading slash.
    pub protocols: Vec<String>,
    /// `direct` or `relayed`; absent when not connected.
    pub path: Option<String>,
    /// Seconds since it connected.
    pub uptime_seconds: u64,
    /// Bytes sent to it since this node started.
    pub total_bytes_sent: u64,
    /// Bytes received from it since this node started.
    pub total_bytes_received: u64,
    /// When it was last seen, RFC 3339 UTC.
    pub last_seen_at: Option<String>,
}

/// Selects peers.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct PeersQuery {
    /// `online`, `offline` or `unreachable`.
    pub status: Option<String>,
    /// Only peers of this region.
    pub region: Option<String>,
    /// Only peers of this organisation.
    pub organization: Option<String>,
    /// At most this many, 1 to 500; 50 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// `POST /api/v1/network/connect`: one of the two forms.
#[derive(Debug, Clone, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ConnectRequest {
    /// An address that ends in `/p2p/<peer id>`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub multiaddr: Option<String>,
    /// The peer to connect to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub peer_id: Option<String>,
    /// Where to try it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<String>,
}

/// The connection that was made.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Connected {
    /// Always true: a failure is an error.
    pub connected: bool,
    /// To whom.
    pub peer_id: String,
    /// How long it took, in milliseconds.
    pub latency_ms: u64,
    /// What the other side runs, as it says.
    pub protocol_version: String,
}

/// `POST /api/v1/network/bootstrap`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Bootstrapped {
    /// Whether at least one peer is connected.
    pub bootstrapped: bool,
    /// Connected peers.
    pub connected_peers: usize,
    /// Peers in the routing table.
    pub routing_table_size: usize,
}

/// `GET /api/v1/network/dht/routing-table`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct RoutingTable {
    /// Buckets that hold somebody, nearest last.
    pub buckets: Vec<Bucket>,
    /// Peers in all of them.
    pub total: usize,
}

/// One bucket.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Bucket {
    /// Leading bits that its peers share with this node.
    pub common_prefix_bits: u32,
    /// Its peers.
    pub peers: Vec<BucketPeer>,
}

/// One peer of a bucket.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BucketPeer {
    /// Who.
    pub peer_id: String,
    /// Where.
    pub addresses: Vec<String>,
    /// Whether it is connected now.
    pub connected: bool,
}

/// `GET /api/v1/network/nat`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Nat {
    /// `public`, `private` or `unknown`: whether others can dial this node.
    pub reachability: String,
    /// `none`, `cone`, `symmetric` or `unknown`.
    pub nat: String,
    /// What that means for connecting.
    pub summary: String,
    /// Addresses that peers see this node at.
    pub observed_addresses: Vec<String>,
    /// Addresses that were proved, configured or mapped.
    pub confirmed_addresses: Vec<String>,
    /// Addresses that the gateway mapped.
    pub mapped_addresses: Vec<String>,
    /// Relays that hold a slot for this node.
    pub relays: Vec<String>,
    /// Hole punches that worked.
    pub hole_punches_succeeded: u64,
    /// Hole punches that did not.
    pub hole_punches_failed: u64,
}

/// `GET /api/v1/network/stats/bandwidth`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct BandwidthStats {
    /// The period that was asked for: `1h`, `24h`, `7d` or `30d`.
    pub period: String,
    /// Seconds of it that this node has been watching.
    pub covered_seconds: u64,
    /// Bytes sent within it.
    pub total_bytes_sent: u64,
    /// Bytes received within it.
    pub total_bytes_received: u64,
    /// Average rate sent, in megabits a second.
    pub sent_mbps: f64,
    /// Average rate received, in megabits a second.
    pub received_mbps: f64,
    /// The ten peers with the most traffic since the node started.
    pub top_peers: Vec<PeerTraffic>,
}

/// Traffic with one peer since the node started.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct PeerTraffic {
    /// Who.
    pub peer_id: String,
    /// Bytes to it.
    pub bytes_sent: u64,
    /// Bytes from it.
    pub bytes_received: u64,
}

/// Which period to report.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct BandwidthQuery {
    /// `1h`, `24h`, `7d` or `30d`; `1h` when left out.
    pub period: Option<String>,
}

/// A document as it is listed.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Document {
    /// Its id.
    pub id: String,
    /// `file` or `directory`.
    pub kind: String,
    /// Its title, if its record came along.
    pub title: String,
    /// Its tags.
    pub tags: Vec<String>,
    /// Where it comes from, if that was said.
    pub source_type: String,
    /// Bytes of content.
    pub size: u64,
    /// Chunks it consists of, if its record came along.
    pub chunks: Option<u64>,
    /// `put` here, or `fetched` from a peer.
    pub origin: String,
    /// When it was first put, RFC 3339.
    pub created_at: Option<String>,
    /// When it was listed on this node, RFC 3339.
    pub added_at: String,
    /// When its retention ends, RFC 3339; absent: it is kept until removed.
    pub expires_at: Option<String>,
    /// Peer id of the node that signed its record.
    pub signed_by: Option<String>,
}

/// `GET /api/v1/documents`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Documents {
    /// One page, newest first.
    pub documents: Vec<Document>,
    /// How many there are on this page.
    pub total: usize,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub next_cursor: Option<String>,
}

/// Selects documents.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub struct DocumentsQuery {
    /// Only documents with this tag.
    pub tag: Option<String>,
    /// At most this many, 1 to 1000; 100 when left out.
    pub limit: Option<usize>,
    /// `next_cursor` of the page before.
    pub cursor: Option<String>,
}

/// What is said of a document when it is put. Of one that this node lists already, what is left out stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub struct PutQuery {
    /// For people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub title: Option<String>,
    /// The title of a document that has none: the name of its file, say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file_name: Option<String>,
    /// Tags, with commas between them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tags: Option<String>,
    /// Where it comes from, such as `wiki`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source_type: Option<String>,
    /// Seconds after which this node may drop it; 0 keeps it until it is removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub retention_seconds: Option<u64>,
}

/// A document that is durably stored.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Stored {
    /// Its id.
    pub id: String,
    /// Bytes of content.
    pub size: u64,
    /// Chunks it consists of.
    pub chunks: u64,
    /// Bytes that were newly written: less than `size` where chunks were there already or compress well.
    pub stored_bytes: u64,
    /// Files in it.
    pub files: u64,
    /// Whether this node listed the document before. What the request left out stayed as it was.
    #[serde(default)]
    pub existed: bool,
    /// The title it has now.
    #[serde(default)]
    pub title: String,
    /// When its retention ends, RFC 3339; absent: it is kept until removed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<String>,
    /// Entries of a folder that were left out because they are no regular files; at most a hundred are named.
    pub skipped: Vec<String>,
    /// How many more were left out.
    #[serde(default)]
    pub skipped_unlisted: u64,
}

/// `POST /api/v1/store/verify`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Verified {
    /// Blocks that were read and hashed.
    pub blocks: u64,
    /// Bytes they have.
    pub bytes: u64,
    /// Blocks that were damaged or missing.
    pub damaged: Vec<String>,
    /// Of those, the ones that peers gave again.
    pub repaired: Vec<String>,
}

/// `POST /api/v1/store/gc`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Collected {
    /// Blocks that were dropped.
    pub blocks: u64,
    /// Bytes given back to the disk.
    pub bytes: u64,
}

/// `POST /api/v1/reload`
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Reloaded {
    /// Keys whose new value is in force.
    pub applied: Vec<String>,
    /// Keys whose new value waits for a restart.
    pub needs_restart: Vec<String>,
    /// Keys whose new value would lower protection and was not taken.
    pub refused: Vec<String>,
    /// What was noticed.
    pub warnings: Vec<String>,
}

/// `POST /api/v1/certificate/renew`: the new certificate is in force.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
pub struct Renewed {
    /// Its end, RFC 3339.
    pub not_after: String,
}

/// `POST /api/v1/join/tokens`: what the machine that joins will be given.
#[derive(Debug, Clone, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct GrantRequest {
    /// Name of the machine that will join.
    pub name: String,
    /// What its certificate will allow.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// DNS names in its certificate.
    #[serde(default)]
    pub dns: Vec<String>,
    /// IP addresses in its certificate.
    #[serde(default)]
    pub ip: Vec<String>,
    /// How long its certificate will be valid.
    pub validity_seconds: u64,
    /// How long the token can be used.
    pub expires_in_seconds: u64,
}

/// A one-time token. It is shown this once; only its hash is kept.
#[derive(Clone, Serialize, Deserialize, ToSchema)]
pub struct Grant {
    /// The token's text.
    pub token: String,
    /// When it can no longer be used, RFC 3339.
    pub expires_at: String,
}

impl std::fmt::Debug for Grant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Grant")
            .field("expires_at", &self.expires_at)
            .finish_non_exhaustive()
    }
}
