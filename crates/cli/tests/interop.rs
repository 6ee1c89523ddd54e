//! Nodes of the real binary and a stock libp2p node of another implementation: served as a stranger by an open mesh,
//! turned away by one of members.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "interop/stock.rs"]
mod stock;
#[allow(dead_code, unused_imports, reason = "each set of tests uses a part")]
mod support;

use serde_json::Value;
use stock::{Report, Stock, texts};
use support::{Home, Node, Organization, Plan, eventually};

const WEBSOCKET_PORT: u16 = 14003;

/// All that a stranger is offered by an open mesh.
const FOR_STRANGERS: [&str; 4] = [
    "/ipfs/id/1.0.0",
    "/ipfs/id/push/1.0.0",
    "/ipfs/ping/1.0.0",
    "/warren/warren/kad/1.0.0",
];

/// What members speak with each other only.
const FOR_MEMBERS: [&str; 9] = [
    "/warren/blocks/1.0.0",
    "/warren/sync/1.0.0",
    "/meshsub/1.0.0",
    "/meshsub/1.1.0",
    "/meshsub/1.2.0",
    "/libp2p/circuit/relay/0.2.0/hop",
    "/libp2p/circuit/relay/0.2.0/stop",
    "/libp2p/dcutr",
    "/libp2p/autonat/2/dial-request",
];

/// Two connected nodes, with the same policy.
struct Mesh {
    node: Node,
    other: Node,
    _organization: Organization,
}

impl Mesh {
    fn start(admission: &str) -> Self {
        let organization = Organization::new();
        let home = |name, bootstrap| {
            let plan = Plan {
                security: format!(", admission: {admission}"),
                // Relays for members, so that there is something to keep from strangers.
                capabilities: vec!["storage", "relay", "admin"],
                roles: "storage, relay",
                bootstrap,
                ..Plan::default()
            };
            let home = organization.planned(name, plan);
            let websocket = format!("[/ip4/{}/tcp/{WEBSOCKET_PORT}/ws, ", home.ip);
            home.edit(
                "listen_addresses: [",
                &format!("listen_addresses: {websocket}"),
            );
            home
        };
        let node = Node::start(&home("node", Vec::new()));
        let other = Node::start(&home("other", vec![node.address()]));
        node.meets(&other);
        eventually("the other node is in the routing table", || {
            let table = node.get("/api/v1/network/dht/routing-table").text();
            table.contains(&other.peer_id).then_some(())
        });
        Self {
            node,
            other,
            _organization: organization,
        }
    }

    fn dialled_by(&self, stock: &Stock, transport: Transport, open: &[&str]) -> Report {
        stock.dial(&transport.address(&self.node), &self.other, open)
    }

    /// Connections refused because the peer is no member, as monitoring sees them.
    fn refused(&self) -> u64 {
        let metrics = self.node.get("/metrics").text();
        metrics
            .lines()
            .find_map(|line| {
                line.strip_prefix("warren_network_admission_refused_total{reason=\"stranger\"} ")
            })
            .map_or(0, |count| count.parse().unwrap())
    }

    /// What the node says of a connected peer.
    fn peer(&self, id: &str) -> Option<Value> {
        let peers = self.node.get("/api/v1/network/peers?status=online").json();
        let peers = peers["peers"].as_array().unwrap();
        peers.iter().find(|peer| peer["peer_id"] == id).cloned()
    }
}

#[derive(Debug, Clone, Copy)]
enum Transport {
    Tcp,
    WebSocket,
}

impl Transport {
    fn address(self, home: &Home) -> String {
        let (ip, id) = (home.ip, &home.peer_id);
        match self {
            Self::Tcp => home.address(),
            Self::WebSocket => format!("/ip4/{ip}/tcp/{WEBSOCKET_PORT}/ws/p2p/{id}"),
        }
    }
}

#[test]
fn given_an_open_mesh_when_a_stock_node_dials_over_tcp_then_it_identifies_pings_and_looks_a_peer_up()
 {
    if let Some(stock) = Stock::or_skip() {
        is_served(&stock, Transport::Tcp);
    }
}

#[test]
fn given_an_open_mesh_when_a_stock_node_dials_over_websocket_then_it_identifies_pings_and_looks_a_peer_up()
 {
    if let Some(stock) = Stock::or_skip() {
        is_served(&stock, Transport::WebSocket);
    }
}

fn is_served(stock: &Stock, transport: Transport) {
    let mesh = Mesh::start("open");
    let report = mesh.dialled_by(stock, transport, &[]);
    let identity = report.worked("identify");
    assert!(identity["agent"].as_str().unwrap().starts_with("warren/"));
    assert_eq!(texts(&identity["protocols"]), FOR_STRANGERS);
    assert!(report.worked("ping")["rtt"].is_u64());
    let found = report.worked("find");
    assert_eq!(found["peer"], mesh.other.peer_id.as_str());
    let addresses = texts(&found["addresses"]);
    assert!(
        addresses.contains(&mesh.other.address().as_str()),
        "{addresses:?}"
    );
    assert_eq!(report.worked("connection")["status"], "open");
}

#[test]
fn given_an_open_mesh_when_a_stock_node_opens_what_members_speak_over_tcp_then_each_is_refused() {
    if let Some(stock) = Stock::or_skip() {
        gets_no_more(&stock, Transport::Tcp);
    }
}

#[test]
fn given_an_open_mesh_when_a_stock_node_opens_what_members_speak_over_websocket_then_each_is_refused()
 {
    if let Some(stock) = Stock::or_skip() {
        gets_no_more(&stock, Transport::WebSocket);
    }
}

fn gets_no_more(stock: &Stock, transport: Transport) {
    let mesh = Mesh::start("open");
    let asked = [&FOR_STRANGERS[..], &FOR_MEMBERS].concat();
    let report = mesh.dialled_by(stock, transport, &asked);
    for protocol in FOR_STRANGERS {
        report.worked(&format!("open {protocol}"));
    }
    for protocol in FOR_MEMBERS {
        let error = report.failed(&format!("open {protocol}"));
        assert!(
            error.starts_with("UnsupportedProtocolError"),
            "{protocol}: {error}"
        );
    }
    // Nobody gossips with it either, though it subscribed to a topic of ours.
    let gossip = report.worked("gossip");
    assert!(texts(&gossip["peers"]).is_empty(), "{gossip}");
    assert!(texts(&gossip["subscribers"]).is_empty(), "{gossip}");
}

#[test]
fn given_an_open_mesh_when_it_dials_a_stock_node_then_the_two_identify_and_ping_each_other() {
    let Some(stock) = Stock::or_skip() else {
        return;
    };
    let mesh = Mesh::start("open");
    let stranger = stock.listen();
    let address = stranger.address();
    mesh.node.warren(["connect", &address]).ok();
    let identity = stranger.says("identify");
    assert_eq!(texts(&identity["protocols"]), FOR_STRANGERS);
    let id = address.rsplit_once("/p2p/").unwrap().1;
    let seen = eventually("the stock node is identified and pinged", || {
        let peer = mesh.peer(id)?;
        let complete = peer["latency_ms"].is_u64() && !texts(&peer["protocols"]).is_empty();
        complete.then_some(peer)
    });
    assert!(
        texts(&seen["protocols"]).contains(&"ipfs/ping/1.0.0"),
        "{seen}"
    );
    assert!(seen["organization_id"].is_null(), "{seen}");
}

#[test]
fn given_a_members_only_mesh_when_a_stock_node_dials_over_tcp_then_it_is_turned_away_and_learns_nothing()
 {
    if let Some(stock) = Stock::or_skip() {
        is_turned_away(&stock, Transport::Tcp);
    }
}

#[test]
fn given_a_members_only_mesh_when_a_stock_node_dials_over_websocket_then_it_is_turned_away_and_learns_nothing()
 {
    if let Some(stock) = Stock::or_skip() {
        is_turned_away(&stock, Transport::WebSocket);
    }
}

fn is_turned_away(stock: &Stock, transport: Transport) {
    let mesh = Mesh::start("members");
    let asked = [&FOR_STRANGERS[..], &FOR_MEMBERS].concat();
    let report = mesh.dialled_by(stock, transport, &asked);
    for step in ["identify", "find", "ping"] {
        report.failed(step);
    }
    for protocol in asked {
        report.failed(&format!("open {protocol}"));
    }
    knows_nothing(report.worked("remembered"));
    assert_ne!(report.worked("connection")["status"], "open");
}

/// No agent, no protocols: the peer id, which it dialled, is all it has.
fn knows_nothing(remembered: &Value) {
    assert!(remembered["agent"].is_null(), "{remembered}");
    assert!(texts(&remembered["protocols"]).is_empty(), "{remembered}");
}

#[test]
fn given_a_members_only_mesh_when_a_stock_node_was_turned_away_then_the_reason_is_logged_and_counted()
 {
    let Some(stock) = Stock::or_skip() else {
        return;
    };
    let mesh = Mesh::start("members");
    assert_eq!(mesh.refused(), 0);
    let report = mesh.dialled_by(&stock, Transport::Tcp, &[]);
    report.failed("identify");
    eventually("the refusal is counted", || {
        (mesh.refused() > 0).then_some(())
    });
    mesh.node
        .logs("connection refused: it does not prove membership: no node of this organisation");
}

#[test]
fn given_a_members_only_mesh_when_it_dials_a_stock_node_then_it_says_so_and_shows_nothing() {
    let Some(stock) = Stock::or_skip() else {
        return;
    };
    let mesh = Mesh::start("members");
    let stranger = stock.listen();
    let error = mesh.node.warren(["connect", &stranger.address()]).failed();
    assert!(error.contains("no node of this organisation"), "{error}");
    knows_nothing(&stranger.says("closed"));
    assert!(stranger.report().find("identify").is_none());
}
