//! Nodes of the real binary on hosts of the lab.
//!
//! An [`Organization`] makes keys and certificates with the command line, a [`Node`] is one `warren start` on one host. What a
//! node is asked goes through the command line too, as an operator would. A node's log is printed when its test panics.
#![allow(
    dead_code,
    reason = "each test file uses the part of the support that it needs"
)]

use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use warren_daemon::ca_folder::CaFolder;
use warren_identity::{Capabilities, LeafRequest, WildcardNames};
use warren_lab::{Host, Output, Process, ProcessError, Signal, eventually};

/// How long a node may take to come up on a busy machine.
const UP_WITHIN: Duration = Duration::from_secs(20);
/// How long one question to a node may take.
const ANSWER_WITHIN: Duration = Duration::from_secs(45);
/// How much of a node's log is shown when its test fails.
const SHOWN_LOG_LINES: usize = 250;

/// The binary under test.
pub(crate) fn warren() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_warren"));
    // Nothing of the developer's own settings reaches a test.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("WARREN_")) {
        command.env_remove(name);
    }
    command
}

/// Runs the binary on this machine, for what needs no network.
#[track_caller]
pub(crate) fn run(args: &[&str]) -> String {
    let output = warren().args(args).output().unwrap();
    assert!(
        output.status.success(),
        "warren {args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

/// Waits until `look` finds something, and gives it.
#[track_caller]
pub(crate) fn found<T>(within: Duration, what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let began = Instant::now();
    let mut seen = None;
    let waited = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        eventually(within, || {
            seen = look();
            seen.is_some()
        });
    }));
    match (waited, seen) {
        (Ok(()), Some(seen)) => {
            println!("{what}: after {:.1} s", began.elapsed().as_secs_f64());
            seen
        }
        _ => panic!("not within {within:?}: {what}"),
    }
}

/// Waits until `holds`.
#[track_caller]
pub(crate) fn until(within: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    found(within, what, || holds().then_some(()));
}

/// Bytes that no compression shortens, the same for the same seed.
pub(crate) fn content(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        // xorshift64*
        state ^= state >> 12;
        state ^= state << 25;
        state ^= state >> 27;
        bytes.extend_from_slice(&state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// Puts the entries of `change` over those of `base`, tables within tables.
pub(crate) fn merge(base: &mut Value, change: Value) {
    match (base, change) {
        (Value::Object(base), Value::Object(change)) => {
            for (key, value) in change {
                merge(base.entry(key).or_insert(Value::Null), value);
            }
        }
        (base, change) => *base = change,
    }
}

/// A CA with the folder of everything it certified.
pub(crate) struct Organization {
    folder: tempfile::TempDir,
    name: String,
}

impl Organization {
    pub(crate) fn new() -> Self {
        Self::named("org_lab")
    }

    pub(crate) fn named(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ca = folder.path().join("ca");
        run(&["ca", "init", "--org", name, "--dir", text(&ca)]);
        Self {
            folder,
            name: name.to_owned(),
        }
    }

    pub(crate) fn ca(&self) -> PathBuf {
        self.folder.path().join("ca")
    }

    /// Revokes every certificate of a node, in the CA's folder.
    pub(crate) fn revoke(&self, node: &Node) {
        let ca = self.ca();
        run(&["ca", "revoke", "--dir", text(&ca), "--peer", &node.peer_id]);
    }

    /// Signs a revocation list that names whoever was revoked so far, nobody to begin with; gives its number.
    pub(crate) fn sign_list(&self) -> u64 {
        let signed = run(&["--json", "ca", "crl", "--dir", text(&self.ca())]);
        let signed: Value = serde_json::from_str(&signed).unwrap();
        signed["number"].as_u64().unwrap()
    }

    /// Gives a node that is not started yet a certificate that ends this long from now.
    pub(crate) fn reissue_for(&self, node: &Node, validity: Duration) {
        let request = LeafRequest {
            peer_id: node.peer_id.parse().unwrap(),
            name: node.name.clone(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(["storage"]).unwrap(),
            validity,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = CaFolder::new(&self.ca(), None).issue(&request).unwrap();
        std::fs::write(node.folder.join("node_cert.pem"), leaf.to_pem()).unwrap();
    }

    /// The CA's revocation list, for `network.security.crl`; see [`Self::sign_list`].
    pub(crate) fn crl(&self) -> PathBuf {
        self.ca().join("crl.pem")
    }

    /// A node that may store and, where its roles say so, discover and relay; not started yet. `change` is merged into
    /// its configuration.
    pub(crate) fn node(&self, host: &Host, name: &str, change: Value) -> Node {
        let folder = self.folder.path().join(name);
        std::fs::create_dir(&folder).unwrap();
        let (key, certificate) = (folder.join("node.pem"), folder.join("node_cert.pem"));
        run(&["keygen", "--output", text(&key)]);
        self.issue(&key, name, &certificate);
        let peer_id = run(&["peerid", "--key", text(&key)]).trim().to_owned();
        let mut settings = json!({
            "network": {
                "node_id": name,
                "organization_id": self.name,
                // One source at a time: a test switches on what it is about.
                "libp2p": { "peer_key": key, "mdns": { "enabled": false }, "upnp": { "enabled": false } },
                "security": {
                    "tls_cert": certificate,
                    "tls_key": key,
                    "ca_cert": self.ca().join("ca_cert.pem"),
                },
            },
            "roles": ["storage"],
            "api": { "listen_address": "127.0.0.1:8080" },
            "storage": { "path": folder.join("data") },
            "logging": { "level": "info,warren_mesh=debug,warren_daemon=debug,warren_content=debug" },
        });
        merge(&mut settings, change);
        let config = folder.join("node.yaml");
        // YAML takes JSON as it is.
        std::fs::write(&config, serde_json::to_vec_pretty(&settings).unwrap()).unwrap();
        Node {
            host: host.clone(),
            name: name.to_owned(),
            folder,
            config,
            peer_id,
            process: RefCell::new(None),
        }
    }

    /// As [`Self::node`], running.
    pub(crate) fn start(&self, host: &Host, name: &str, change: Value) -> Node {
        let node = self.node(host, name, change);
        node.start();
        node
    }

    /// A node that runs a discovery server and relays.
    pub(crate) fn start_server(&self, host: &Host, name: &str) -> Node {
        self.start(host, name, json!({ "roles": ["discovery", "relay"] }))
    }

    fn issue(&self, key: &Path, name: &str, certificate: &Path) {
        run(&[
            "ca",
            "issue",
            "--dir",
            text(&self.ca()),
            "--key",
            text(key),
            "--name",
            name,
            "--days",
            "1",
            "--capability",
            "storage",
            "--capability",
            "discovery",
            "--capability",
            "relay",
            "--out",
            text(certificate),
        ]);
    }
}

/// The configuration of a node that knows nothing but these discovery servers.
pub(crate) fn discovery(servers: &[&str]) -> Value {
    let urls: Vec<String> = servers
        .iter()
        .map(|address| format!("https://{address}:8081"))
        .collect();
    json!({ "network": { "discovery": { "servers": urls } } })
}

/// The configuration of a node that knows nothing but these peers.
pub(crate) fn bootstrap(peers: &[&str]) -> Value {
    json!({ "network": { "libp2p": { "bootstrap_peers": peers } } })
}

/// One `warren start`.
pub(crate) struct Node {
    pub(crate) host: Host,
    pub(crate) name: String,
    pub(crate) folder: PathBuf,
    pub(crate) config: PathBuf,
    pub(crate) peer_id: String,
    process: RefCell<Option<Process>>,
}

impl Node {
    /// Starts it and waits until it is up.
    #[track_caller]
    pub(crate) fn start(&self) {
        let mut command = warren();
        command.arg("--config").arg(&self.config).arg("start");
        let process = self.host.spawn(command).unwrap();
        self.process.replace(Some(process));
        until(UP_WITHIN, &format!("{} is up", self.name), || {
            assert!(self.is_running(), "{} ended: {}", self.name, self.log());
            self.log().contains("the node is up")
        });
    }

    pub(crate) fn is_running(&self) -> bool {
        let mut process = self.process.borrow_mut();
        process.as_mut().is_some_and(Process::is_running)
    }

    /// As a power cut does.
    pub(crate) fn kill(&self) {
        if let Some(process) = self.process.borrow_mut().as_mut() {
            process.kill().unwrap();
        }
    }

    /// As a service manager does, to the end.
    #[track_caller]
    pub(crate) fn stop(&self) {
        let mut process = self.process.borrow_mut();
        let process = process.as_mut().unwrap();
        process.signal(Signal::TERM).unwrap();
        process.wait_success(UP_WITHIN).unwrap();
    }

    /// What it logged since it was started last.
    pub(crate) fn log(&self) -> String {
        let process = self.process.borrow();
        process.as_ref().map(Process::stderr).unwrap_or_default()
    }

    /// A question to the node by its command line, run on its host.
    pub(crate) fn ask(&self, args: &[&str]) -> Result<Output, ProcessError> {
        self.asking(args)?.wait_success(ANSWER_WITHIN)
    }

    /// The same, under way.
    pub(crate) fn asking(&self, args: &[&str]) -> Result<Process, ProcessError> {
        let mut command = warren();
        command.arg("--config").arg(&self.config).args(args);
        self.host.spawn(command)
    }

    #[track_caller]
    pub(crate) fn json(&self, args: &[&str]) -> Value {
        let mut all = vec!["--json"];
        all.extend(args);
        let answer = self.ask(&all).unwrap();
        serde_json::from_str(&answer.stdout).unwrap()
    }

    /// What it says of a peer, connected or not.
    #[track_caller]
    pub(crate) fn peer(&self, other: &Node) -> Option<Value> {
        let peers = self.json(&["peers"]);
        let peers = peers["peers"].as_array().unwrap();
        peers
            .iter()
            .find(|peer| peer["peer_id"] == *other.peer_id)
            .cloned()
    }

    /// `direct`, `relayed`, or `None` without a connection.
    #[track_caller]
    pub(crate) fn path_to(&self, other: &Node) -> Option<String> {
        let peer = self.peer(other)?;
        (peer["status"] == "online").then(|| peer["path"].as_str().unwrap_or_default().to_owned())
    }

    #[track_caller]
    pub(crate) fn is_connected(&self, other: &Node) -> bool {
        self.path_to(other).is_some()
    }

    /// Addresses that lead here, with the peer id, as its log tells them.
    pub(crate) fn address(&self, socket: &str) -> String {
        format!("{socket}/p2p/{}", self.peer_id)
    }

    /// Stores a document and gives its id.
    #[track_caller]
    pub(crate) fn put(&self, bytes: &[u8]) -> String {
        let file = self.folder.join("put");
        std::fs::write(&file, bytes).unwrap();
        let answer = self.ask(&["put", text(&file)]).unwrap();
        answer.stdout.trim().to_owned()
    }

    /// Reads a document from wherever it is.
    pub(crate) fn get(&self, document: &str) -> Result<Vec<u8>, ProcessError> {
        let file = self.folder.join("got");
        let _ = std::fs::remove_file(&file);
        let began = Instant::now();
        self.ask(&["get", document, "-o", text(&file)])?;
        println!(
            "{} got it after {:.1} s",
            self.name,
            began.elapsed().as_secs_f64()
        );
        Ok(std::fs::read(&file).unwrap())
    }

    /// The value of a metric, all labels that match summed up; zero where it was never counted.
    #[track_caller]
    pub(crate) fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let mut curl = Command::new("curl");
        curl.args(["-sS", "--max-time", "5", "http://127.0.0.1:8080/metrics"]);
        let text = self.host.exec(curl).unwrap().stdout;
        text.lines()
            .filter(|line| {
                line.starts_with(name) && labels.iter().all(|label| line.contains(label))
            })
            .filter(|line| {
                let rest = &line[name.len()..];
                rest.starts_with('{') || rest.starts_with(' ')
            })
            .filter_map(|line| line.split_whitespace().nth_back(0)?.parse::<f64>().ok())
            .sum()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            let from = lines.len().saturating_sub(SHOWN_LOG_LINES);
            eprintln!("=== log of {} ({})", self.name, self.peer_id);
            eprintln!("{}", lines[from..].join("\n"));
        }
    }
}

/// Paths of tests are UTF-8.
pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}
