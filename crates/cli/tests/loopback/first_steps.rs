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

/// The commands of one section of the operations' guide, block by block.
fn pasted(section: &str) -> Vec<String> {
    let guide = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/operations.md");
    let guide = std::fs::read_to_string(guide).unwrap();
    let (_, rest) = guide.split_once(&format!("\n## {section}\n")).unwrap();
    let text = rest.split("\n## ").next().unwrap();
    let blocks = text.split("```sh\n").skip(1);
    blocks
        .map(|block| block.split("```").next().unwrap().to_owned())
        .collect()
}

/// Runs commands in the namespace as they stand in the guide, on the machine of this folder.
fn paste(inside: &str, folder: &Path, machine: &str, commands: &str) -> Finished {
    let script = format!(
        r#"set -e
        systemctl() {{ :; }}
        warren() {{
            command=$1; shift
            case "$command" in
                init | join) "$BINARY" "$command" "$@" --dir "$PWD/{machine}" --storage "$PWD/{machine}.data" ;;
                *) "$BINARY" --config "$PWD/{machine}/warren.yaml" "$command" "$@" ;;
            esac
        }}
        {commands}"#
    );
    let script = script.replace("10.0.1.5", "127.0.0.1");
    let binary = format!("BINARY={}", binary().to_str().unwrap());
    tool(
        "sh",
        folder,
        [
            "-c",
            &format!("exec {inside} env {binary} bash -c \"$0\""),
            &script,
        ],
    )
}

#[test]
fn given_the_guide_for_many_machines_when_pasted_then_each_has_a_configuration_that_checks() {
    let folder = tempfile::tempdir().unwrap();
    if tool("unshare", folder.path(), ["-n", "true"]).code != Some(0) {
        warren_lab::skip("first_steps::guide", "needs root, for a network namespace");
        return;
    }
    let blocks = pasted("From one machine to many");
    let [init, tokens, join, peers] = blocks.as_slice() else {
        panic!("the guide has other blocks now: {blocks:?}")
    };
    paste("", folder.path(), "node-1", init).ok();
    let first = home(folder.path().join("node-1"));
    let script = "ip link set lo up; exec \"$@\"";
    let node = Node::launch_through(&first, &["unshare", "-n", "sh", "-c", script, "sh"]);
    let inside = format!("nsenter -t {} -n", node.pid());
    let on = |machine: &str, commands: &str| paste(&inside, folder.path(), machine, commands);
    eventually("the first node is ready", || {
        (on("node-1", "warren health --endpoint ready").code == Some(0)).then_some(())
    });

    on("node-1", tokens).ok();
    for machine in ["node-2", "node-3", "node-4"] {
        on(machine, &join.replace("node-2", machine)).ok();

        let checked = on(machine, "warren check");
        assert!(checked.ok().contains("valid"), "{checked:?}");
    }
    on("node-1", peers).ok();
    let issued = on("node-1", "warren ca list --dir node-1/ca").ok();
    for machine in ["node-1", "node-2", "node-3", "node-4"] {
        assert!(issued.contains(machine), "{issued}");
    }
}
