//! The client against real servers: order, failover, heartbeats, leaving.

use std::{sync::Arc, time::Duration};

use reqwest::Url;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;
use warren_discovery::{
    client::{ClientConfig, ClientState, DiscoveryClient, StartError},
    core::failover::Timing,
    server::ServerConfig,
    wire::PeerEntry,
};
use warren_identity::{CertificateAuthority, NodeRecord, Signed, Trust};
use warren_telemetry::Metrics;

use crate::support::{
    ORGANIZATION, Server, TempRegistry, authority, embedded, eventually, loopback, member, record,
};

/// Virtual-time tests of the same decisions are in `core::failover`; these are short enough to wait for.
const TIMING: Timing = Timing {
    heartbeat_interval: Duration::from_millis(200),
    retry_interval: Duration::from_millis(300),
    refresh_interval: Duration::from_secs(600),
};

struct Site {
    server: Server,
    registry: TempRegistry,
}

impl Site {
    async fn start(authority: &CertificateAuthority) -> Self {
        let registry = embedded();
        let trust = member(authority, "discovery", &["discovery"]);
        let mut config = ServerConfig::new(loopback(), trust, registry.registry.clone());
        config.ttl = Duration::from_secs(2);
        Self {
            server: Server::start(config).await,
            registry,
        }
    }

    async fn live(&self) -> u64 {
        let live = self
            .registry
            .registry
            .live(crate::support::now_ms())
            .await
            .unwrap();
        live.values().sum()
    }
}

struct Node {
    client: DiscoveryClient,
    peers: mpsc::Receiver<Vec<PeerEntry>>,
    record: watch::Sender<Option<Signed<NodeRecord>>>,
    trust: Trust,
    shutdown: CancellationToken,
}

impl Node {
    fn start(authority: &CertificateAuthority, servers: Vec<Url>) -> Self {
        let trust = member(authority, "node-2", &["storage"]);
        let (record, receiver) = watch::channel(None);
        let shutdown = CancellationToken::new();
        let config = ClientConfig {
            timing: TIMING,
            ..ClientConfig::new(servers)
        };
        let (client, peers) = DiscoveryClient::start(
            config,
            trust.clone(),
            receiver,
            &Metrics::new(),
            shutdown.clone(),
        )
        .unwrap();
        Self {
            client,
            peers,
            record,
            trust,
            shutdown,
        }
    }

    fn announce(&self, address: &str, sequence: u64) {
        self.record
            .send_replace(Some(record(&self.trust, &[address], sequence)));
    }

    async fn reaches(&self, what: &str, wanted: impl Fn(&ClientState) -> bool) {
        let mut state = self.client.state();
        let reached = tokio::time::timeout(Duration::from_secs(10), state.wait_for(wanted))
            .await
            .is_ok();
        assert!(
            reached,
            "not within 10 s: {what}; it is {:?}",
            self.client.state().borrow()
        );
    }

    async fn registered_at(&self, server: &Url) {
        let wanted = ClientState::Connected {
            server: server.clone(),
            registered: true,
        };
        self.reaches("registered", |state| *state == wanted).await;
    }
}

#[tokio::test]
async fn given_a_server_then_the_node_gets_peers_first_and_registers_when_it_has_addresses() {
    let authority = authority(ORGANIZATION);
    let site = Site::start(&authority).await;
    let mut node = Node::start(&authority, vec![site.server.url.clone()]);
    let peers = tokio::time::timeout(Duration::from_secs(10), node.peers.recv())
        .await
        .unwrap()
        .unwrap();
    assert!(
        peers.is_empty(),
        "nobody is registered yet, this node included: {peers:?}"
    );
    assert_eq!(site.live().await, 0);

    node.announce("/ip4/10.0.1.6/tcp/4001", 1);

    node.registered_at(&site.server.url).await;
    assert_eq!(site.live().await, 1);
}

#[tokio::test]
async fn given_a_registered_node_then_heartbeats_keep_it_and_leaving_removes_it() {
    let authority = authority(ORGANIZATION);
    let site = Site::start(&authority).await;
    let node = Node::start(&authority, vec![site.server.url.clone()]);
    node.announce("/ip4/10.0.1.6/tcp/4001", 1);
    node.registered_at(&site.server.url).await;
    eventually("several heartbeats came", async || {
        let text = site.server.metrics.encode();
        let line = text
            .lines()
            .find(|line| line.contains("/heartbeat\",code=\"200\""));
        line.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok())
            .is_some_and(|beats| beats >= 3)
    })
    .await;
    node.shutdown.cancel();
    node.client.stopped().await;
    assert_eq!(site.live().await, 0);
}

#[tokio::test]
async fn given_new_addresses_then_they_are_registered() {
    let authority = authority(ORGANIZATION);
    let site = Site::start(&authority).await;
    let node = Node::start(&authority, vec![site.server.url.clone()]);
    node.announce("/ip4/10.0.1.6/tcp/4001", 1);
    node.registered_at(&site.server.url).await;
    node.announce("/ip4/10.0.1.7/tcp/4001", 2);
    eventually("the new address is there", async || {
        let organization = ORGANIZATION.parse().unwrap();
        let recent = site
            .registry
            .registry
            .recent(organization, 1, crate::support::now_ms())
            .await
            .unwrap();
        recent[0].registration.addresses == ["/ip4/10.0.1.7/tcp/4001"]
    })
    .await;
}

#[tokio::test]
async fn given_server_one_dies_then_the_node_registers_at_server_two_and_with_both_dead_it_retries()
{
    let authority = authority(ORGANIZATION);
    let (one, two) = (Site::start(&authority).await, Site::start(&authority).await);
    let (url_one, url_two) = (one.server.url.clone(), two.server.url.clone());
    let two_address = two.server.address;
    let node = Node::start(&authority, vec![url_one.clone(), url_two.clone()]);
    node.announce("/ip4/10.0.1.6/tcp/4001", 1);
    node.registered_at(&url_one).await;

    one.server.stop().await;
    node.registered_at(&url_two).await;

    two.server.stop().await;
    node.reaches("all failed", |state| {
        matches!(state, ClientState::AllFailed { .. })
    })
    .await;

    let trust = member(&authority, "discovery", &["discovery"]);
    let config = ServerConfig::new(two_address, trust, Arc::clone(&two.registry.registry));
    let again = Server::start(config).await;
    node.registered_at(&url_two).await;
    again.stop().await;
}

#[tokio::test]
async fn given_a_server_of_another_organization_then_nothing_is_said_to_it() {
    let site = Site::start(&authority("org_other")).await;
    let node = Node::start(&authority(ORGANIZATION), vec![site.server.url.clone()]);
    node.announce("/ip4/10.0.1.6/tcp/4001", 1);
    node.reaches("refused", |state| match state {
        ClientState::AllFailed { reason } => reason.contains("trusted CA"),
        _ => false,
    })
    .await;
    assert!(
        !site.server.metrics.encode().contains("route="),
        "no request came"
    );
}

#[tokio::test]
async fn given_urls_in_clear_or_none_then_the_client_does_not_start() {
    let start = |servers: Vec<&str>| {
        let trust = member(&authority(ORGANIZATION), "node-2", &[]);
        let servers = servers
            .into_iter()
            .map(|server| server.parse().unwrap())
            .collect();
        let (_sender, receiver) = watch::channel(None);
        let shutdown = CancellationToken::new();
        DiscoveryClient::start(
            ClientConfig::new(servers),
            trust,
            receiver,
            &Metrics::new(),
            shutdown,
        )
        .err()
    };
    assert!(matches!(start(vec![]), Some(StartError::NoServer)));
    assert!(matches!(
        start(vec!["http://discovery.acme.example"]),
        Some(StartError::Insecure(_))
    ));
    assert!(start(vec!["http://127.0.0.1:9"]).is_none());
}
