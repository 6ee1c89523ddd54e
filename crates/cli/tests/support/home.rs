//! Organisations with a CA, and homes of nodes: key, certificate, configuration, storage.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU16, Ordering};

use tempfile::TempDir;

use super::command::{Finished, Invocation, warren};

/// An organisation: a folder with `ca/` and a folder for each home.
pub(crate) struct Organization {
    folder: TempDir,
    pub(crate) id: String,
}

impl Organization {
    pub(crate) fn new() -> Self {
        let this = Self::without_ca("org_acme_corp");
        let ca = this.ca();
        warren(["ca", "init", "--org", &this.id, "--dir", text(&ca)]).ok();
        this
    }

    /// The test puts `ca/ca_cert.pem` and `ca/ca_key.pem` there itself.
    pub(crate) fn without_ca(id: &str) -> Self {
        Self {
            folder: tempfile::Builder::new()
                .prefix("warren-e2e-")
                .tempdir()
                .unwrap(),
            id: id.to_owned(),
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// `warren ca revoke`
    pub(crate) fn revoke(&self, peer: &str) {
        warren([
            "ca",
            "revoke",
            "--dir",
            text(&self.ca()),
            "--peer",
            peer,
            "--org",
            &self.id,
        ])
        .ok();
    }

    /// A home whose node may store and administer.
    pub(crate) fn home(&self, name: &str) -> Home {
        self.planned(name, Plan::default())
    }

    pub(crate) fn planned(&self, name: &str, plan: Plan) -> Home {
        Home::make(self, name, plan)
    }
}

/// What differs from an ordinary node. Each text is YAML in flow style, as it stands in the configuration.
#[derive(Clone)]
pub(crate) struct Plan {
    pub(crate) capabilities: Vec<&'static str>,
    pub(crate) roles: &'static str,
    /// Addresses to dial, with peer ids.
    pub(crate) bootstrap: Vec<String>,
    /// Further keys of `network`, such as `discovery: {…}`; one per line.
    pub(crate) network: String,
    /// Further keys of `network.security`, with a comma before each.
    pub(crate) security: String,
    /// Further keys of `api`, with a comma before each.
    pub(crate) api: String,
    /// Further keys of `storage`, with a comma before each.
    pub(crate) storage: String,
    /// Further sections.
    pub(crate) sections: String,
}

impl Default for Plan {
    fn default() -> Self {
        Self {
            capabilities: vec!["storage", "admin"],
            roles: "storage",
            bootstrap: Vec::new(),
            network: String::new(),
            security: String::new(),
            api: String::new(),
            storage: String::new(),
            sections: String::new(),
        }
    }
}

/// A node that need not run.
#[derive(Clone)]
pub(crate) struct Home {
    pub(crate) folder: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) peer_id: String,
    /// Its own address on loopback.
    pub(crate) ip: Ipv4Addr,
}

impl Home {
    pub(crate) const MESH_PORT: u16 = 14001;
    pub(crate) const BULK_PORT: u16 = 14002;
    pub(crate) const API_PORT: u16 = 18080;
    pub(crate) const DISCOVERY_PORT: u16 = 18081;

    fn make(organization: &Organization, name: &str, plan: Plan) -> Self {
        let folder = organization.folder().join(name);
        std::fs::create_dir(&folder).unwrap();
        let key = folder.join("node.pem");
        let peer_id = warren(["keygen", "--output", text(&key)]).ok();
        let this = Self {
            config: folder.join("warren.yaml"),
            ip: own_address(),
            peer_id,
            folder,
        };
        this.issue(organization, name, &plan.capabilities).ok();
        let configuration = this.configuration(organization, name, &plan);
        std::fs::write(&this.config, configuration).unwrap();
        this
    }

    /// Has the CA issue the node's certificate again.
    pub(crate) fn issue(
        &self,
        organization: &Organization,
        name: &str,
        capabilities: &[&str],
    ) -> Finished {
        self.issue_for(organization, name, capabilities, 365)
    }

    /// As [`issue`](Self::issue), for so many days.
    pub(crate) fn issue_for(
        &self,
        organization: &Organization,
        name: &str,
        capabilities: &[&str],
        days: u32,
    ) -> Finished {
        let days = days.to_string();
        let (ca, key, out) = (
            organization.ca(),
            self.path("node.pem"),
            self.path("node_cert.pem"),
        );
        let ip = self.ip.to_string();
        let mut arguments = vec![
            "ca",
            "issue",
            "--dir",
            text(&ca),
            "--key",
            text(&key),
            "--name",
            name,
            "--org",
            &organization.id,
            "--ip",
            &ip,
            "--days",
            &days,
            "--force",
            "--out",
            text(&out),
        ];
        for capability in capabilities {
            arguments.extend(["--capability", capability]);
        }
        warren(arguments)
    }

    fn configuration(&self, organization: &Organization, name: &str, plan: &Plan) -> String {
        let (ip, mesh, bulk, api) = (self.ip, Self::MESH_PORT, Self::BULK_PORT, Self::API_PORT);
        let network: String = plan
            .network
            .lines()
            .map(|line| format!("  {line}\n"))
            .collect();
        format!(
            "network:
  node_id: {name}
  organization_id: {organization}
  region: us-west
  libp2p:
    peer_key: node.pem
    listen_addresses: [/ip4/{ip}/tcp/{mesh}, /ip4/{ip}/udp/{mesh}/quic-v1]
    bootstrap_peers: [{bootstrap}]
    mdns: {{enabled: false}}
    upnp: {{enabled: false}}
  transfer: {{listen_address: '{ip}:{bulk}'}}
  security: {{tls_cert: node_cert.pem, tls_key: node.pem, ca_cert: {ca}{security}}}
{network}roles: [{roles}]
api: {{listen_address: '{ip}:{api}'{api_keys}}}
storage: {{path: {storage}{storage_keys}}}
{sections}",
            organization = organization.id,
            bootstrap = plan.bootstrap.join(", "),
            ca = text(&organization.ca().join("ca_cert.pem")),
            security = plan.security,
            roles = plan.roles,
            api_keys = plan.api,
            storage = text(&self.path("data")),
            storage_keys = plan.storage,
            sections = plan.sections,
        )
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Exchanges a text in the configuration, which must be there.
    pub(crate) fn edit(&self, from: &str, to: &str) {
        let before = std::fs::read_to_string(&self.config).unwrap();
        assert!(before.contains(from), "{from:?} is not in\n{before}");
        std::fs::write(&self.config, before.replace(from, to)).unwrap();
    }

    pub(crate) fn api(&self) -> SocketAddr {
        (self.ip, Self::API_PORT).into()
    }

    /// The admin token, which stands in the storage folder unless the test has moved it.
    pub(crate) fn token(&self) -> String {
        std::fs::read_to_string(self.path("token"))
            .or_else(|_| std::fs::read_to_string(self.path("data/admin.token")))
            .unwrap()
    }

    /// Where others dial it.
    pub(crate) fn address(&self) -> String {
        format!(
            "/ip4/{}/tcp/{}/p2p/{}",
            self.ip,
            Self::MESH_PORT,
            self.peer_id
        )
    }

    /// `warren --config …` with these arguments.
    pub(crate) fn warren<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        self.invocation().args(arguments).run()
    }

    pub(crate) fn invocation(&self) -> Invocation {
        Invocation::warren().args(["--config", text(&self.config)])
    }
}

/// A path of a test as text.
pub(super) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// 127/8 is loopback as a whole: every node gets an address that no other node of this process, and hardly one of
/// another, has.
fn own_address() -> Ipv4Addr {
    /// Nodes to one value of the second byte.
    const PAGE: u16 = 249;
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let [.., high, low] = std::process::id().to_be_bytes();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    let second = match number / PAGE {
        0 => high.max(1),
        1 => (high ^ 0x80).max(1),
        _ => panic!("more nodes than loopback addresses of one process"),
    };
    let last = u8::try_from(number % PAGE + 1).unwrap();
    Ipv4Addr::new(127, second, low, last)
}
