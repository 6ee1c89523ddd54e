//! The README's steps on real machines, with every default as `init` and `join` write it: in a network namespace of its
//! own, where the default ports are free.

use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::{Finished, Home, Node, binary, eventually, tool, warren};

/// A first node as `warren init` makes it, running.
struct First {
    folder: TempDir,
    node: Node,
}

impl First {
    /// `None`, and said so, where namespaces cannot be made.
    fn new(test: &str) -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        if tool("unshare", folder.path(), ["-n", "true"]).code != Some(0) {
            warren_lab::skip(test, "needs root, for a network namespace");
            return None;
        }
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        warren([
            "init",
            "--org",
            "org_acme_corp",
            "--dir",
            &path("etc"),
            "--storage",
            &path("data"),
        ])
        .ok();
        let home = home(folder.path().join("etc"));
        let script = "ip link set lo up; exec \"$@\"";
        let node = Node::launch_through(&home, &["unshare", "-n", "sh", "-c", script, "sh"]);
        let mut this = Self { folder, node };
        eventually("the first node is ready", || {
            this.node.assert_running();
            (this.asks("etc", &["health", "--endpoint", "ready"]).code == Some(0)).then_some(())
        });
        Some(this)
    }

    fn path(&self, name: &str) -> String {
        self.folder.path().join(name).to_str().unwrap().to_owned()
    }

    /// Runs `warren` in the namespace.
    fn inside(&self, arguments: &[&str]) -> Finished {
        let pid = self.node.pid().to_string();
        let program = binary();
        let fixed = ["-t", &pid, "-n", program.to_str().unwrap()];
        tool("nsenter", self.folder.path(), fixed.iter().chain(arguments))
    }

    /// Asks the node whose configuration is in this folder.
    fn asks(&self, folder: &str, question: &[&str]) -> Finished {
        let config = self.path(&format!("{folder}/warren.yaml"));
        let mut arguments = vec!["--config", config.as_str()];
        arguments.extend(question);
        self.inside(&arguments)
    }

    /// Makes a token and joins with it, into this folder.
    fn join(&self, folder: &str) -> Finished {
        let (token, data) = (
            self.path(&format!("{folder}.token")),
            self.path(&format!("{folder}.data")),
        );
        let grant = [
            "ca",
            "token",
            "--name",
            folder,
            "--capability",
            "storage",
            "--out",
            &token,
        ];
        self.asks("etc", &grant).ok();
        let (url, dir) = ("https://127.0.0.1:8081", self.path(folder));
        self.inside(&[
            "join",
            url,
            "--token-file",
            &token,
            "--dir",
            &dir,
            "--storage",
            &data,
        ])
    }
}

fn home(folder: PathBuf) -> Home {
    let key = folder.join("node.pem");
    let peer_id = match key.exists() {
        true => warren([Path::new("peerid"), Path::new("--key"), &key]).ok(),
        false => String::new(),
    };
    Home {
        config: folder.join("warren.yaml"),
        peer_id,
        ip: [127, 0, 0, 1].into(),
        folder,
    }
}

#[test]
fn given_an_initialised_node_when_asked_with_the_defaults_then_it_answers() {
    let Some(first) = First::new("first_steps::answers") else {
        return;
    };

    let status = first.asks("etc", &["status", "--json"]).json();

    assert_eq!(status["peer_id"], first.node.peer_id.as_str());
    assert_eq!(
        status["roles"],
        serde_json::json!(["storage", "discovery", "relay", "issuer"])
    );
    assert_eq!(status["warnings"], serde_json::json!([]));
}

#[test]
fn given_an_initialised_node_when_a_machine_joins_with_the_defaults_then_documents_travel() {
    let Some(first) = First::new("first_steps::join") else {
        return;
    };
    first.join("second").ok();
    let pid = first.node.pid().to_string();
    // Two machines would have the same ports; here the second moves aside.
    let ports = [
        "WARREN_LISTEN_ADDRESS=/ip4/127.0.0.1/tcp/4011",
        "WARREN_NETWORK__TRANSFER__LISTEN_ADDRESS=127.0.0.1:4012",
        "WARREN_API__LISTEN_ADDRESS=127.0.0.1:8090",
    ];
    let enter = ["nsenter", "-t", &pid, "-n", "env"];
    let second = home(first.folder.path().join("second"));
    let program: Vec<&str> = enter.into_iter().chain(ports).collect();
    let _second = Node::launch_through(&second, &program);
    let (file, out) = (first.path("report.bin"), first.path("copy.bin"));
    std::fs::write(&file, crate::support::noise(1, 2_000_000)).unwrap();
    let id = first.asks("etc", &["put", &file]).ok();
    let token = first.path("second.data/admin.token");

    eventually("the second node has the document", || {
        let api = [
            "--api",
            "http://127.0.0.1:8090",
            "--token-file",
            &token,
            "get",
            &id,
            "--force",
            "-o",
            &out,
        ];
        (first.inside(&api).code == Some(0)).then_some(())
    });

    assert!(std::fs::read(&out).unwrap() == std::fs::read(&file).unwrap());
    let peers = first.asks("etc", &["peers", "--json"]).json();
    assert_eq!(peers["peers"][0]["peer_id"], second.peer_id.as_str());
}

#[test]
fn given_a_joined_machine_when_its_configuration_is_checked_then_it_is_valid() {
    let Some(first) = First::new("first_steps::check") else {
        return;
    };
    first.join("second").ok();

    let checked = first.asks("second", &["check", "--json"]).json();

    assert_eq!(checked["valid"], true, "{checked}");
}
