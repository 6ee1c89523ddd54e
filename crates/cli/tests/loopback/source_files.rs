//! The `network:` and `discovery:` files of the source documents start a node as they are: the brand in names exchanged,
//! real peer ids and paths in place of placeholders. Each runs in a network namespace of its own, for it takes its ports.

use crate::support::{Home, Node, Organization, eventually, tool};

/// The deployment guide's `config/network.yaml`.
const GUIDE: &str = r#"# config/network.yaml
network:
  libp2p:
    # Identity
    peer_key: "/etc/warren/peer_key.pem"

    # Listen addresses
    listen_addresses:
      - "/ip4/0.0.0.0/tcp/4001"
      - "/ip6/::/tcp/4001"
      - "/ip4/0.0.0.0/udp/4001/quic-v1"

    # Public address (for NAT)
    announce_addresses:
      - "/ip4/203.0.113.10/tcp/4001"
      - "/dns4/warren-node1.acme.com/tcp/4001"

    # Bootstrap peers
    bootstrap_peers:
      - "/ip4/10.0.1.5/tcp/4001/p2p/12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ"
      - "/dns4/warren-node2.acme.com/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

    # DHT
    dht:
      enabled: true
      mode: "server"
      bootstrap_interval: 300

    # mDNS (local network discovery)
    mdns:
      enabled: true
      interval: 60

    # Gossipsub
    gossipsub:
      enabled: true
      topics:
        - "warren.global"
        - "warren.org.acme_corp"
        - "warren.acl.updates"

      # Mesh parameters
      d: 6         # Desired peers in mesh
      d_low: 4     # Low watermark
      d_high: 12   # High watermark
"#;

/// The network layer's `config/network.yaml`.
const LAYER: &str = r#"# config/network.yaml
network:
  node_id: "warren-node-1"

  # libp2p configuration
  libp2p:
    listen_addresses:
      - "/ip4/0.0.0.0/tcp/4001"
      - "/ip6/::/tcp/4001"
      - "/ip4/0.0.0.0/udp/4001/quic-v1"

    bootstrap_peers:
      - "/ip4/10.0.1.5/tcp/4001/p2p/12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ"
      - "/dns4/bootstrap.warren.network/tcp/4001/p2p/12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"

    dht:
      enabled: true
      mode: "server"  # or "client"

    mdns:
      enabled: true
      interval: 60s

    gossipsub:
      topics:
        - "warren.global"
        - "warren.org.{organization_id}"
        - "warren.acl.updates"

  # Discovery
  discovery:
    enabled: true
    servers:
      - "https://discovery1.warren.network"
      - "https://discovery2.warren.network"

    registration:
      auto_register: true
      heartbeat_interval: 30s
      retry_interval: 60s

  # CDN
  cdn:
    enabled: true
    providers_config_file: "config/cdn.yaml"

  # Replication
  replication:
    enabled: true
    default_factor: 3
    policies_file: "config/replication.yaml"

  # Security
  security:
    tls_cert: "certs/node.crt"
    tls_key: "certs/node.key"
    ca_cert: "certs/ca.crt"

    trust_model: "explicit"  # explicit, web-of-trust

    acl_enforcement: "strict"
"#;

/// The deployment guide's `config/discovery.yaml`.
const DISCOVERY: &str = r#"# config/discovery.yaml
discovery:
  server:
    listen_address: "0.0.0.0:8080"

    # Database for peer registry
    database:
      url: "postgresql://discovery:password@localhost/warren_discovery"

    # Authentication
    auth:
      require_certificates: true
      ca_cert: "/etc/warren/ca.crt"

    # Bootstrap peers (seed nodes)
    bootstrap_peers:
      - peer_id: "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ"
        addresses: ["/ip4/10.0.1.5/tcp/4001"]
        organization: "org_acme_corp"
        region: "us-west"

      - peer_id: "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN"
        addresses: ["/ip4/10.0.2.10/tcp/4001"]
        organization: "org_acme_corp"
        region: "us-east"
"#;

/// What an installation has in `/etc/warren` and `/var/lib/warren`, in a folder of the test.
struct Installation {
    organization: Organization,
    home: Home,
}

impl Installation {
    /// `None`, and said so, where namespaces cannot be made.
    fn new(test: &str, capabilities: &[&str]) -> Option<Self> {
        let organization = Organization::new();
        let home = organization.home("etc");
        if tool("unshare", &home.folder, ["-n", "true"]).code != Some(0) {
            warren_lab::skip(test, "needs root, for a network namespace");
            return None;
        }
        home.issue(&organization, "warren-node-1", capabilities)
            .ok();
        std::fs::create_dir(home.path("certs")).unwrap();
        for (from, to) in [
            (home.path("node_cert.pem"), "certs/node.crt"),
            (home.path("node.pem"), "certs/node.key"),
            (home.path("node.pem"), "peer_key.pem"),
            (organization.ca().join("ca_cert.pem"), "certs/ca.crt"),
            (organization.ca().join("ca_cert.pem"), "ca.crt"),
        ] {
            std::fs::copy(from, home.path(to)).unwrap();
        }
        Some(Self { organization, home })
    }

    /// Writes the document's file with this installation's paths, and the storage beside it in a file of its own.
    fn start(self, document: &str) -> Running {
        let etc = self.home.folder.display().to_string();
        std::fs::write(&self.home.config, document.replace("/etc/warren", &etc)).unwrap();
        let storage = self.home.path("storage.yaml");
        let data = self.home.path("data").display().to_string();
        std::fs::write(&storage, format!("storage: {{path: {data}}}\n")).unwrap();
        let certs = self.home.path("certs").display().to_string();
        let script = format!(
            "ip link set lo up; \
             export WARREN_PEER_KEY_PATH={certs}/node.key WARREN_TLS_CERT={certs}/node.crt WARREN_NETWORK__SECURITY__CA_CERT={certs}/ca.crt; \
             exec \"$@\" --config {}",
            storage.display()
        );
        let node = Node::launch_through(&self.home, &["unshare", "-n", "sh", "-c", &script, "sh"]);
        Running {
            node,
            _organization: self.organization,
        }
    }
}

struct Running {
    node: Node,
    _organization: Organization,
}

impl Running {
    /// What the node answers inside its namespace, to a caller with the node's own certificate.
    fn answer(&mut self, url: &str) -> String {
        let pid = self.node.pid().to_string();
        let fixed = [
            "-t",
            &pid,
            "-n",
            "curl",
            "-ksS",
            "-o",
            "-",
            "-w",
            " %{http_code}",
        ];
        let identity = ["--cert", "certs/node.crt", "--key", "certs/node.key", url];
        eventually("the node answers in its namespace", || {
            self.node.assert_running();
            let asked = tool("nsenter", &self.node.folder, fixed.iter().chain(&identity));
            (asked.code == Some(0)).then(|| asked.ok())
        })
    }
}

#[test]
fn given_the_deployment_guides_network_file_when_started_then_the_node_is_well() {
    let Some(installation) = Installation::new("source_files::guide", &["storage"]) else {
        return;
    };

    let mut running = installation.start(GUIDE);

    let health = running.answer("http://127.0.0.1:8080/health");
    assert!(
        health.contains("healthy") && health.ends_with(" 200"),
        "{health}"
    );
    assert!(
        !running.node.log().contains("plane is not part"),
        "{}",
        running.node.log()
    );
}

#[test]
fn given_the_network_layers_file_when_started_then_the_node_is_well_and_names_each_later_plane_once()
 {
    let Some(installation) = Installation::new("source_files::layer", &["storage"]) else {
        return;
    };

    let mut running = installation.start(LAYER);

    let health = running.answer("http://127.0.0.1:8080/health");
    assert!(
        health.contains("healthy") && health.ends_with(" 200"),
        "{health}"
    );
    let log = running.node.log();
    for plane in ["cdn", "replication", "federation", "access"] {
        let warning = format!("the {plane} plane is not part of this build");
        assert_eq!(log.matches(&warning).count(), 1, "{plane}: {log}");
    }
}

#[test]
fn given_the_guides_discovery_file_when_started_then_the_server_answers_at_its_port() {
    let Some(installation) = Installation::new("source_files::discovery", &["discovery"]) else {
        return;
    };

    let mut running = installation.start(DISCOVERY);

    let answer = running.answer("https://127.0.0.1:8080/api/v1/network/bootstrap");
    // Its database is not there; the seeds of the file are told all the same.
    for seed in [
        "12D3KooWA8EXV3KjBxEU5EnsPfneLx84vMWAtTBQBeyooN3hYKTQ",
        "12D3KooWDpJ7As7BWAwRMfu1VU2WCqNjvq387JEYKDBj4kx6nXTN",
    ] {
        assert!(
            answer.contains(seed) && answer.ends_with(" 200"),
            "{answer}"
        );
    }
}
