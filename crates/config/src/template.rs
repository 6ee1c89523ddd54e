//! The file that `warren init` writes.

use std::fmt::Write as _;
use std::path::Path;

use crate::settings::Role;

/// What a first configuration says.
#[derive(Debug, Clone)]
pub struct Template<'a> {
    /// Name of the node.
    pub node_id: &'a str,
    /// The organisation.
    pub organization_id: &'a str,
    /// Region label.
    pub region: Option<&'a str>,
    /// The node's key; a relative path counts from the folder of the written file.
    pub peer_key: &'a Path,
    /// Its certificate.
    pub tls_cert: &'a Path,
    /// The organisation's CA certificate.
    pub ca_cert: &'a Path,
    /// The newest revocation list, where one is kept up to date on this machine.
    pub crl: Option<&'a Path>,
    /// What the node does; the list must not be empty. With [`Role::Discovery`], the section of that server follows.
    pub roles: &'a [Role],
    /// The CA's folder, where this node signs for machines that join: for [`Role::Issuer`].
    pub issuer_dir: Option<&'a Path>,
    /// What opens the node's key, and the CA's of `issuer_dir`, where they are encrypted.
    pub passphrase_file: Option<&'a Path>,
    /// Discovery servers to join through.
    pub discovery_servers: &'a [&'a str],
    /// Data directory.
    pub storage_path: &'a Path,
}

impl Template<'_> {
    /// A commented `warren.yaml` that loads.
    #[must_use]
    // long: the file stands here in one piece, as people will read it
    pub fn render(&self) -> String {
        let path = |path: &Path| quote(&path.display().to_string());
        let region = self.region.map_or_else(
            || "  # region: us-west\n".to_owned(),
            |r| format!("  region: {}\n", quote(r)),
        );
        let roles: Vec<&str> = self.roles.iter().map(|role| role.as_str()).collect();
        let roles = roles.join(", ");
        let opened_by = |key: &str| {
            self.passphrase_file
                .map_or_else(String::new, |file| format!("    {key}: {}\n", path(file)))
        };
        let passphrase = opened_by("tls_key_passphrase_file");
        let issuer = self.issuer_dir.map_or_else(String::new, |dir| {
            let passphrase = opened_by("issuer_passphrase_file");
            format!("    issuer_dir: {}\n{passphrase}", path(dir))
        });
        let comment = match self.roles.contains(&Role::Issuer) {
            true => {
                "# Where machines join (`warren ca token` here, `warren join https://THIS-HOST:8081` there):"
            }
            false => "# Where members find each other:",
        };
        let server = match self.roles.contains(&Role::Discovery) {
            true => {
                format!("\n{comment}\ndiscovery:\n  server:\n    listen_address: 0.0.0.0:8081\n")
            }
            false => String::new(),
        };
        let crl = self
            .crl
            .map_or_else(String::new, |list| format!("    crl: {}\n", path(list)));
        let servers = match self.discovery_servers {
            [] => "  # Or discovery servers to join through:\n  # discovery:\n  #   servers: [https://discovery.example.com:8081]\n".to_owned(),
            some => {
                let quoted: Vec<String> = some.iter().map(|server| quote(server)).collect();
                format!("  discovery:\n    servers: [{}]\n", quoted.join(", "))
            }
        };
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = write!(
            text,
            "\
# Warren node. 'warren check --config FILE' finds every mistake, 'warren config show --config FILE' prints all values,
# 'warren config schema' describes all keys. ${{VAR}} stands for an environment variable; any key can be set by one,
# WARREN_NETWORK__LIBP2P__MDNS__ENABLED=false say.

network:
  node_id: {node_id}
  organization_id: {organization_id}
{region}
  libp2p:
    peer_key: {peer_key}
    listen_addresses:
      - /ip4/0.0.0.0/tcp/4001
      - /ip6/::/tcp/4001
      - /ip4/0.0.0.0/udp/4001/quic-v1
      - /ip6/::/udp/4001/quic-v1
    # Behind a port forwarding, what others dial:
    # announce_addresses: [/dns4/node1.example.com/tcp/4001]
    # Nodes to join through, besides those found on the local network:
    # bootstrap_peers: [/ip4/10.0.1.5/tcp/4001/p2p/<peer id>]

{servers}
  security:
    tls_cert: {tls_cert}
    tls_key: {peer_key}
{passphrase}    ca_cert: {ca_cert}
{crl}{issuer}    admission: members

roles: [{roles}]
{server}
api:
  listen_address: 127.0.0.1:8080

storage:
  path: {storage_path}
  max_size: 100GB

# Health and metrics for other machines, read-only:
# monitoring:
#   listen_address: 0.0.0.0:9100

logging:
  level: info
  format: text
",
            node_id = quote(self.node_id),
            organization_id = quote(self.organization_id),
            peer_key = path(self.peer_key),
            tls_cert = path(self.tls_cert),
            ca_cert = path(self.ca_cert),
            storage_path = path(self.storage_path),
        );
        text
    }
}

/// `text` as a YAML scalar that reads back as itself, `${` included.
fn quote(text: &str) -> String {
    let text = text.replace("${", "$${");
    let plain = text.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/')
        && text
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || b"/._-".contains(&b))
        && !matches!(text.as_str(), "null" | "true" | "false");
    if plain {
        return text;
    }
    format!("'{}'", text.replace('\'', "''"))
}
