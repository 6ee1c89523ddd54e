//! Who is connected, what is sent, how far away peers are.
//!
//! A label `peer_id` gets a value of its own only while that peer is connected, and only for the first
//! [`MAX_TRACKED_PEERS`] peers; everyone else is counted under [`OTHER_PEERS`]. So strangers cannot grow the registry, and a
//! peer that left takes its series along.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::Histogram;

use crate::Metrics;

/// Peers with series of their own. Meshes have up to 500 machines; beyond this a scrape would pass some megabytes.
pub const MAX_TRACKED_PEERS: usize = 512;

/// Message types with series of their own for one peer; more are counted as `other`.
const MAX_MESSAGE_TYPES_PER_PEER: usize = 16;

/// The `peer_id` of everyone without series of their own.
pub const OTHER_PEERS: &str = "other";

/// Upper bounds in seconds; from the network document, so that its dashboards fit.
const LATENCY_BUCKETS: [f64; 7] = [0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0];

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct PlaceLabels {
    organization: Arc<str>,
    region: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct MessageLabels {
    peer_id: Arc<str>,
    message_type: &'static str,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct BandwidthLabels {
    direction: &'static str,
    peer_id: Arc<str>,
    region: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct ReasonLabels {
    reason: &'static str,
}

/// Why a connection ended or was not let in; the label `reason`. A fixed word, never text from the other side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DisconnectReason(pub &'static str);

/// The metrics of the mesh. Cheap to clone; all clones count into the same families.
#[derive(Debug, Clone)]
pub struct NetworkMetrics {
    peers: Family<PlaceLabels, Gauge>,
    bytes_sent: Family<MessageLabels, Counter>,
    bytes_received: Family<MessageLabels, Counter>,
    latency: Family<MessageLabels, Histogram, fn() -> Histogram>,
    connections: Gauge,
    disconnections: Family<ReasonLabels, Counter>,
    bandwidth: Family<BandwidthLabels, Counter>,
    tracked: Arc<Mutex<BTreeMap<Arc<str>, Tracked>>>,
}

/// A peer that is connected. Holds what is needed to take its series away again.
#[derive(Debug)]
struct Tracked {
    place: PlaceLabels,
    connections: u32,
    message_types: Vec<&'static str>,
    /// False above [`MAX_TRACKED_PEERS`]: counted in the gauges, but without series of its own.
    own_series: bool,
}

/// The byte counters of one peer and message type, for paths where a lookup per message is too much.
///
/// When the peer leaves, its series are dropped; what a handle counts after that shows nowhere.
#[derive(Debug, Clone)]
pub struct Traffic {
    sent: Counter,
    received: Counter,
    bandwidth_sent: Counter,
    bandwidth_received: Counter,
}

impl Traffic {
    /// Counts bytes given to the peer.
    pub fn sent(&self, bytes: u64) {
        self.sent.inc_by(bytes);
        self.bandwidth_sent.inc_by(bytes);
    }

    /// Counts bytes taken from the peer.
    pub fn received(&self, bytes: u64) {
        self.received.inc_by(bytes);
        self.bandwidth_received.inc_by(bytes);
    }
}

impl NetworkMetrics {
    /// Registers the families with `metrics`; once per registry.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let new_histogram: fn() -> Histogram = || Histogram::new(LATENCY_BUCKETS);
        let this = Self {
            peers: Family::default(),
            bytes_sent: Family::default(),
            bytes_received: Family::default(),
            latency: Family::new_with_constructor(new_histogram),
            connections: Gauge::default(),
            disconnections: Family::default(),
            bandwidth: Family::default(),
            tracked: Arc::default(),
        };
        metrics.register(
            "network_peers_total",
            "Peers this node is connected to now",
            this.peers.clone(),
        );
        metrics.register(
            "network_bytes_sent",
            "Bytes this node gave to peers",
            this.bytes_sent.clone(),
        );
        metrics.register(
            "network_bytes_received",
            "Bytes this node took from peers",
            this.bytes_received.clone(),
        );
        metrics.register(
            "network_latency_seconds",
            "Seconds from a message to its answer, measured at this node",
            this.latency.clone(),
        );
        metrics.register(
            "network_peer_connections",
            "Connections with peers that are open now",
            this.connections.clone(),
        );
        metrics.register(
            "network_peer_disconnections",
            "Connections that ended, by reason",
            this.disconnections.clone(),
        );
        metrics.register(
            "network_bandwidth_bytes",
            "Bytes exchanged with peers, by direction and the peer's region",
            this.bandwidth.clone(),
        );
        this
    }

    /// A connection with `peer_id` is up and admitted. Call it for each connection; a peer with two is one peer.
    pub fn connected(&self, peer_id: &str, organization: &str, region: Option<&str>) {
        let mut tracked = self.lock();
        self.connections.inc();
        let own_series =
            tracked.values().filter(|peer| peer.own_series).count() < MAX_TRACKED_PEERS;
        match tracked.entry(Arc::from(peer_id)) {
            Entry::Occupied(mut entry) => entry.get_mut().connections += 1,
            Entry::Vacant(entry) => {
                let place = PlaceLabels {
                    organization: Arc::from(organization),
                    region: Arc::from(region.unwrap_or("")),
                };
                self.peers.get_or_create(&place).inc();
                entry.insert(Tracked {
                    place,
                    connections: 1,
                    message_types: Vec::new(),
                    own_series,
                });
            }
        }
    }

    /// A connection that [`Self::connected`] was called for ended. With its last connection a peer's series go.
    /// A connection that was never admitted is counted by [`Self::refused`].
    pub fn disconnected(&self, peer_id: &str, reason: DisconnectReason) {
        self.disconnections
            .get_or_create(&ReasonLabels { reason: reason.0 })
            .inc();
        let mut tracked = self.lock();
        let Some(peer) = tracked.get_mut(peer_id) else {
            return;
        };
        self.connections.dec();
        peer.connections -= 1;
        if peer.connections == 0
            && let Some((id, peer)) = tracked.remove_entry(peer_id)
        {
            self.drop_series(&id, &peer);
        }
    }

    /// A connection ended before its other side was admitted: no peer, only a reason.
    pub fn refused(&self, reason: DisconnectReason) {
        self.disconnections
            .get_or_create(&ReasonLabels { reason: reason.0 })
            .inc();
    }

    /// Counters to keep for as long as the peer is connected. `message_type` is a fixed word of the protocol.
    #[must_use]
    pub fn traffic(&self, peer_id: &str, message_type: &'static str) -> Traffic {
        let mut tracked = self.lock();
        let (labels, region) = message_labels(&mut tracked, peer_id, message_type);
        let bandwidth = |direction| BandwidthLabels {
            direction,
            peer_id: labels.peer_id.clone(),
            region: region.clone(),
        };
        Traffic {
            sent: self.bytes_sent.get_or_create_owned(&labels),
            received: self.bytes_received.get_or_create_owned(&labels),
            bandwidth_sent: self.bandwidth.get_or_create_owned(&bandwidth("sent")),
            bandwidth_received: self.bandwidth.get_or_create_owned(&bandwidth("received")),
        }
    }

    /// Counts one message given to a peer.
    pub fn sent(&self, peer_id: &str, message_type: &'static str, bytes: u64) {
        self.traffic(peer_id, message_type).sent(bytes);
    }

    /// Counts one message taken from a peer.
    pub fn received(&self, peer_id: &str, message_type: &'static str, bytes: u64) {
        self.traffic(peer_id, message_type).received(bytes);
    }

    /// Counts one round trip.
    pub fn latency(&self, peer_id: &str, message_type: &'static str, round_trip: Duration) {
        let mut tracked = self.lock();
        let (labels, _) = message_labels(&mut tracked, peer_id, message_type);
        self.latency
            .get_or_create(&labels)
            .observe(round_trip.as_secs_f64());
    }

    fn drop_series(&self, peer_id: &Arc<str>, peer: &Tracked) {
        let gone = self.peers.get_or_create(&peer.place).dec() <= 1;
        if gone {
            self.peers.remove(&peer.place);
        }
        if !peer.own_series {
            return;
        }
        for message_type in peer.message_types.iter().copied().chain([OTHER_MESSAGES]) {
            let labels = MessageLabels {
                peer_id: peer_id.clone(),
                message_type,
            };
            self.bytes_sent.remove(&labels);
            self.bytes_received.remove(&labels);
            self.latency.remove(&labels);
        }
        for direction in ["sent", "received"] {
            let region = peer.place.region.clone();
            self.bandwidth.remove(&BandwidthLabels {
                direction,
                peer_id: peer_id.clone(),
                region,
            });
        }
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Arc<str>, Tracked>> {
        self.tracked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The message type of a peer that used more than [`MAX_MESSAGE_TYPES_PER_PEER`].
const OTHER_MESSAGES: &str = "other";

/// The labels to count under, and the peer's region.
fn message_labels(
    tracked: &mut BTreeMap<Arc<str>, Tracked>,
    peer_id: &str,
    message_type: &'static str,
) -> (MessageLabels, Arc<str>) {
    let id = tracked.get_key_value(peer_id).map(|(id, _)| id.clone());
    if let (Some(id), Some(peer)) = (id, tracked.get_mut(peer_id))
        && peer.own_series
    {
        let known = peer.message_types.contains(&message_type);
        let message_type = if known {
            message_type
        } else if peer.message_types.len() < MAX_MESSAGE_TYPES_PER_PEER {
            peer.message_types.push(message_type);
            message_type
        } else {
            OTHER_MESSAGES
        };
        return (
            MessageLabels {
                peer_id: id,
                message_type,
            },
            peer.place.region.clone(),
        );
    }
    (
        MessageLabels {
            peer_id: Arc::from(OTHER_PEERS),
            message_type,
        },
        Arc::from(""),
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const GONE: DisconnectReason = DisconnectReason("closed");

    fn metrics() -> (Metrics, NetworkMetrics) {
        let metrics = Metrics::new();
        let network = NetworkMetrics::register(&metrics);
        (metrics, network)
    }

    #[test]
    fn given_two_connections_of_one_peer_when_one_ends_then_one_peer_remains() {
        let (metrics, network) = metrics();
        network.connected("12D3A", "org_acme_corp", Some("us-west"));
        network.connected("12D3A", "org_acme_corp", Some("us-west"));

        network.disconnected("12D3A", GONE);

        let text = metrics.encode();
        assert!(
            text.contains(
                "warren_network_peers_total{organization=\"org_acme_corp\",region=\"us-west\"} 1\n"
            ),
            "{text}"
        );
        assert!(
            text.contains("warren_network_peer_connections 1\n"),
            "{text}"
        );
        assert!(
            text.contains("warren_network_peer_disconnections_total{reason=\"closed\"} 1\n"),
            "{text}"
        );
    }

    #[test]
    fn given_a_peer_with_traffic_when_it_leaves_then_nothing_names_it_any_more() {
        let (metrics, network) = metrics();
        network.connected("12D3A", "org_acme_corp", Some("us-west"));
        network.sent("12D3A", "block", 1000);
        network.received("12D3A", "sync", 24);
        network.latency("12D3A", "ping", Duration::from_millis(30));
        let during = metrics.encode();
        assert!(
            during.contains(
                "warren_network_bytes_sent_total{peer_id=\"12D3A\",message_type=\"block\"} 1000\n"
            ),
            "{during}"
        );
        assert!(
            during.contains(
                "warren_network_bytes_received_total{peer_id=\"12D3A\",message_type=\"sync\"} 24\n"
            ),
            "{during}"
        );
        assert!(
            during.contains(
                "warren_network_bandwidth_bytes_total{direction=\"sent\",peer_id=\"12D3A\",region=\"us-west\"} 1000\n"
            ),
            "{during}"
        );

        network.disconnected("12D3A", GONE);

        let after = metrics.encode();
        assert!(!after.contains("12D3A"), "{after}");
        assert!(!after.contains("org_acme_corp"), "{after}");
    }

    #[test]
    fn given_a_30_ms_round_trip_when_counted_then_the_documented_buckets_show_it() {
        let (metrics, network) = metrics();
        network.connected("12D3A", "org_acme_corp", None);

        network.latency("12D3A", "ping", Duration::from_millis(30));

        let text = metrics.encode();
        let counts: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| line.strip_prefix("warren_network_latency_seconds_bucket{le=\""))
            .map(|line| {
                (
                    line.split('"').next().unwrap(),
                    line.rsplit(' ').next().unwrap(),
                )
            })
            .collect();
        assert_eq!(
            counts,
            [
                ("0.001", "0"),
                ("0.005", "0"),
                ("0.01", "0"),
                ("0.05", "1"),
                ("0.1", "1"),
                ("0.5", "1"),
                ("1.0", "1"),
                ("+Inf", "1")
            ]
        );
    }

    #[test]
    fn given_a_stranger_when_it_sends_then_it_is_counted_as_other() {
        let (metrics, network) = metrics();

        network.received("12D3Stranger", "hello", 10);

        let text = metrics.encode();
        assert!(
            text.contains("bytes_received_total{peer_id=\"other\",message_type=\"hello\"} 10\n"),
            "{text}"
        );
        assert!(!text.contains("12D3Stranger"), "{text}");
    }

    #[test]
    fn given_more_peers_than_tracked_when_all_send_then_the_rest_share_one_series() {
        let (metrics, network) = metrics();
        for n in 0..MAX_TRACKED_PEERS + 50 {
            let peer = format!("12D3{n}");
            network.connected(&peer, "org_acme_corp", None);
            network.sent(&peer, "block", 1);
        }

        let text = metrics.encode();

        let series = text
            .lines()
            .filter(|line| line.starts_with("warren_network_bytes_sent_total{"))
            .count();
        assert_eq!(series, MAX_TRACKED_PEERS + 1);
        assert!(
            text.contains("bytes_sent_total{peer_id=\"other\",message_type=\"block\"} 50\n"),
            "{text}"
        );
        assert!(
            text.contains(&format!("region=\"\"}} {}\n", MAX_TRACKED_PEERS + 50)),
            "all are counted as peers"
        );
    }

    #[test]
    fn given_a_full_table_when_a_peer_leaves_then_its_place_is_free_again() {
        let (metrics, network) = metrics();
        for n in 0..MAX_TRACKED_PEERS {
            network.connected(&format!("12D3{n}"), "org_acme_corp", None);
        }
        network.disconnected("12D37", GONE);
        network.connected("12D3New", "org_acme_corp", None);

        network.sent("12D3New", "block", 5);

        assert!(
            metrics
                .encode()
                .contains("{peer_id=\"12D3New\",message_type=\"block\"} 5\n")
        );
    }

    #[test]
    fn given_a_refused_connection_when_counted_then_only_the_reason_shows() {
        let (metrics, network) = metrics();

        network.refused(DisconnectReason("revoked"));

        let text = metrics.encode();
        assert!(
            text.contains("peer_disconnections_total{reason=\"revoked\"} 1\n"),
            "{text}"
        );
        assert!(
            text.contains("warren_network_peer_connections 0\n"),
            "{text}"
        );
    }
}
