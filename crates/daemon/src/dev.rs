//! A small network of one organisation in this process, on loopback, each node with a home of its own.
//!
//! Every node goes the way that a real one goes: a CA issues its certificate, a configuration is written and read, the
//! node starts from it. Homes that are there already are used again.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use warren_identity::{
    CA_VALIDITY, Capabilities, LeafRequest, NodeKey, OrganizationId, WildcardNames,
};
use warren_mesh::Multiaddr;

use crate::ca_folder::{CA_CERT, CA_KEY, CaFolder, NewCa};
use crate::files::{self, Overwrite};
use crate::node::{Node, Start};
use crate::{material, random, settings};

/// How long the nodes may take to find each other.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
const LEAF_VALIDITY: Duration = Duration::from_secs(30 * 86_400);

/// Running nodes; at least two.
pub struct Network {
    nodes: Vec<Node>,
}

impl Network {
    /// Starts `count` nodes with their homes below `home`, and waits until each is connected to the first.
    ///
    /// # Errors
    /// The first thing that fails; nodes that had been started are stopped.
    pub async fn start(home: &Path, organization: &str, count: u8) -> anyhow::Result<Self> {
        let organization = OrganizationId::new(organization)?;
        let home = std::path::absolute(home)?;
        let ca_folder = home.join("ca");
        let ca = match ca_folder.join(CA_KEY).exists() {
            true => CaFolder::new(&ca_folder, Some(organization.clone())),
            false => CaFolder::create(
                &ca_folder,
                &NewCa {
                    organization: organization.clone(),
                    validity: CA_VALIDITY,
                    passphrase_file: None,
                },
            )?,
        };
        let mut network = Self { nodes: Vec::new() };
        for number in 1..=count {
            let started = network.start_one(&home, &ca, &organization, number).await;
            if let Err(error) = started {
                network.shutdown().await;
                return Err(error.context(format!("node {number} did not start")));
            }
        }
        if let Err(error) = network.connected().await {
            network.shutdown().await;
            return Err(error);
        }
        Ok(network)
    }

    async fn start_one(
        &mut self,
        home: &Path,
        ca: &CaFolder,
        organization: &OrganizationId,
        number: u8,
    ) -> anyhow::Result<()> {
        let name = format!("node-{number}");
        let folder = home.join(&name);
        make_identity(&folder, ca, &name)?;
        let bootstrap = self.nodes.first().map(address_of).transpose()?;
        let text = configuration(
            &folder,
            &home.join("ca"),
            organization,
            &name,
            bootstrap.as_ref(),
        );
        let path = folder.join("warren.yaml");
        files::write_whole(&path, text.as_bytes(), 0o644, Overwrite::Replace)?;
        let loaded = settings::from_text(&path, &text)?;
        self.nodes.push(
            Node::start(Start {
                loaded,
                sources: settings::Sources::default(),
                log: None,
            })
            .await?,
        );
        Ok(())
    }

    /// Waits until the first node is connected to every other.
    async fn connected(&self) -> anyhow::Result<()> {
        let Some((first, others)) = self.nodes.split_first() else {
            return Ok(());
        };
        let address = address_of(first)?;
        for node in others {
            tokio::time::timeout(CONNECT_TIMEOUT, node.mesh().connect(address.clone()))
                .await
                .context("the nodes did not find each other in time")??;
        }
        Ok(())
    }

    /// The nodes in the order of their start.
    #[must_use]
    pub fn nodes(&self) -> &[Node] {
        &self.nodes
    }

    /// The first node and the last.
    ///
    /// # Panics
    /// Never: a network has at least two nodes.
    #[must_use]
    #[expect(clippy::expect_used, reason = "start() makes at least one node")]
    pub fn ends(&self) -> (&Node, &Node) {
        let first = self.nodes.first().expect("a network has nodes");
        (first, self.nodes.last().unwrap_or(first))
    }

    /// Stops every node.
    pub async fn shutdown(self) {
        futures::future::join_all(self.nodes.into_iter().map(Node::shutdown)).await;
    }
}

fn make_identity(folder: &Path, ca: &CaFolder, name: &str) -> anyhow::Result<()> {
    let key_path = folder.join("node.pem");
    let key = match key_path.exists() {
        true => material::read_key(&key_path, None)?,
        false => {
            let key = NodeKey::from_seed(random::bytes());
            files::write_whole(&key_path, key.to_pem().as_bytes(), 0o600, Overwrite::Refuse)?;
            key
        }
    };
    let leaf = ca.issue(&LeafRequest {
        peer_id: key.peer_id(),
        name: name.to_owned(),
        dns: vec!["localhost".to_owned()],
        ip: vec![std::net::Ipv4Addr::LOCALHOST.into()],
        capabilities: Capabilities::parse(["storage", "admin"])?,
        validity: LEAF_VALIDITY,
        companion_key: Some(key.companion_key().public_key().to_vec()),
        wildcards: WildcardNames::Refuse,
    })?;
    files::write_whole(
        &folder.join("node_cert.pem"),
        leaf.to_pem().as_bytes(),
        0o644,
        Overwrite::Replace,
    )?;
    Ok(())
}

fn address_of(node: &Node) -> anyhow::Result<Multiaddr> {
    let Some(address) = node.addresses().mesh.first() else {
        bail!("a node listens nowhere")
    };
    address
        .clone()
        .with_p2p(node.peer_id())
        .map_err(|address| anyhow::anyhow!("{address} names another node"))
}

/// Free ports everywhere, and nobody else's network: discovery is by the first node's address alone.
fn configuration(
    folder: &Path,
    ca_folder: &Path,
    organization: &OrganizationId,
    name: &str,
    bootstrap: Option<&Multiaddr>,
) -> String {
    let quoted = |path: PathBuf| format!("{:?}", path.display().to_string());
    format!(
        "network:
  node_id: {name}
  organization_id: {organization}
  libp2p:
    peer_key: {key}
    listen_addresses: [/ip4/127.0.0.1/tcp/0, /ip4/127.0.0.1/udp/0/quic-v1]
    bootstrap_peers: [{bootstrap}]
    mdns: {{enabled: false}}
    upnp: {{enabled: false}}
  transfer: {{listen_address: 127.0.0.1:0}}
  security: {{tls_cert: {cert}, tls_key: {key}, ca_cert: {ca}}}
roles: [storage]
api: {{listen_address: 127.0.0.1:0}}
storage: {{path: {storage}}}
",
        key = quoted(folder.join("node.pem")),
        cert = quoted(folder.join("node_cert.pem")),
        ca = quoted(ca_folder.join(CA_CERT)),
        storage = quoted(folder.join("data")),
        bootstrap = bootstrap.map(ToString::to_string).unwrap_or_default(),
    )
}
