//! Seeds for the configuration reader: files as people write them, and what YAML can do to a reader.

use super::Seeds;

/// A node, with keys of every kind: lists, sizes, durations, addresses, sections of planes that are not built.
const NODE: &str = "\
network:
  node_id: node-1
  organization_id: org_acme_corp
  region: us-west
  libp2p:
    peer_key: node.pem
    listen_addresses: [/ip4/10.0.1.5/tcp/4001, /ip4/10.0.1.5/udp/4001/quic-v1]
    bootstrap_peers: []
    dht: {enabled: true, mode: server, bootstrap_interval: 5m, replication_factor: 3}
    mdns: {enabled: true, interval: 60s}
    gossipsub: {topics: [warren.global, 'warren.org.{organization_id}'], d: 6, d_low: 4, d_high: 12}
  discovery:
    enabled: true
    servers: [https://discovery1.acme.com]
    registration: {auto_register: true, heartbeat_interval: 30s, retry_interval: 60}
  security: {tls_cert: node_cert.pem, tls_key: node.pem, ca_cert: ca/ca_cert.pem, admission: members}
roles: [storage]
api: {listen_address: 127.0.0.1:8080}
storage: {path: /var/lib/warren, max_size: 500GB}
logging: {level: info, format: json}
replication:
  policies: [{name: hot, factor: 5, selector: {query_count: '> 1000/day'}}]
";

const DISCOVERY: &str = "\
discovery:
  server:
    listen_address: 0.0.0.0:8080
    database: {url: 'postgresql://discovery:password@localhost/warren_discovery'}
    auth: {require_certificates: true, ca_cert: /etc/warren/ca.crt}
    bootstrap_peers: []
roles: [discovery]
";

/// Every alias doubles what the one before it means.
const ALIASES: &str = "\
a: &a [x, x, x, x, x, x, x, x]
b: &b [*a, *a, *a, *a, *a, *a, *a, *a]
c: &c [*b, *b, *b, *b, *b, *b, *b, *b]
d: &d [*c, *c, *c, *c, *c, *c, *c, *c]
network: {libp2p: {bootstrap_peers: *d}}
";

/// The seeds of this crate's target.
pub(crate) fn seeds() -> (&'static str, Seeds) {
    let deep = format!("{}{}", "[".repeat(500), "]".repeat(500));
    let long_key = format!("{}: 1\n", "k".repeat(5_000));
    let texts = [
        ("node", NODE),
        ("discovery", DISCOVERY),
        ("aliases", ALIASES),
        ("deep", deep.as_str()),
        ("long-key", long_key.as_str()),
        ("empty", ""),
        ("unknown-key", "network: {libp2p: {peer_kye: node.pem}}\n"),
        ("twice", "roles: [storage]\nroles: [hub]\n"),
        (
            "variables",
            "network: {node_id: 'n-${HOSTNAME}', region: '${GONE}', organization_id: '${'}\n",
        ),
        ("two-documents", "roles: [storage]\n---\nroles: [hub]\n"),
        ("tab", "network:\n\tnode_id: x\n"),
        (
            "numbers",
            "storage: {max_size: 99999999999999999999EB}\nlogging: {level: 0x1F}\napi: {listen_address: :0}\n",
        ),
        (
            "tagged",
            "network: !!binary aGVsbG8=\nroles: !!set {storage}\n",
        ),
        ("merge", "x: &x {node_id: a}\nnetwork: {<<: *x}\n"),
    ];
    let mut seeds: Seeds = texts
        .iter()
        .map(|(name, text)| (*name, text.as_bytes().to_vec()))
        .collect();
    seeds.push((
        "byte-order-mark",
        [b"\xef\xbb\xbf", NODE.as_bytes()].concat(),
    ));
    seeds.push(("no-text", vec![0xff, 0xfe, 0x00, 0x80]));
    ("config", seeds)
}
