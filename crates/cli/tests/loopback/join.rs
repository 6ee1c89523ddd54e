//! A machine joins with a one-time token.

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::support::{Finished, Home, Invocation, Node, Organization, Plan, eventually, tool};

/// An organisation with a node that issues.
struct Joining {
    organization: Organization,
    issuer: Node,
}

impl Joining {
    fn new() -> Self {
        let organization = Organization::new();
        let home = organization.planned(
            "node-1",
            Plan {
                capabilities: vec!["storage", "discovery", "relay", "admin"],
                roles: "storage, discovery, issuer",
                security: format!(", issuer_dir: {}", organization.ca().display()),
                ..Plan::default()
            },
        );
        home.edit(
            "roles:",
            &format!(
                "discovery: {{server: {{listen_address: '{}'}}}}\nroles:",
                server(&home)
            ),
        );
        Self {
            issuer: Node::start(&home),
            organization,
        }
    }

    fn url(&self) -> String {
        format!("https://{}", server(&self.issuer))
    }

    fn path(&self, name: &str) -> PathBuf {
        self.organization.folder().join(name)
    }

    /// Asks for a token in a file of this name.
    fn grant(&self, file: &str, arguments: &[&str]) -> Finished {
        let path = self.path(file);
        self.issuer
            .invocation()
            .args(["ca", "token", "--out", path.to_str().unwrap()])
            .args(arguments)
            .run()
    }

    /// `warren check` of what `join` wrote into this folder: its values and its certificate.
    fn check(&self, folder: &str) -> Finished {
        let config = self.path(folder).join("warren.yaml");
        crate::support::warren(["check", "--config", config.to_str().unwrap()])
    }

    /// Makes a token in a file of this name.
    fn token(&self, name: &str, further: &[&str]) -> PathBuf {
        let path = self.path(name);
        self.issuer
            .invocation()
            .args(["ca", "token", "--name", "node-2", "--capability", "storage"])
            .args(further)
            .args(["--out", path.to_str().unwrap()])
            .run()
            .ok();
        path
    }

    fn join(&self, token: &std::path::Path, folder: &str) -> Finished {
        let (dir, storage) = (self.path(folder), self.path(folder).join("data"));
        Invocation::warren()
            .args(["join", &self.url(), "--token-file", token.to_str().unwrap()])
            .args([
                "--dir",
                dir.to_str().unwrap(),
                "--storage",
                storage.to_str().unwrap(),
            ])
            .run()
    }
}

fn server(home: &Home) -> SocketAddr {
    (home.ip, Home::DISCOVERY_PORT).into()
}

#[test]
fn given_a_token_when_a_machine_joins_then_its_node_starts_and_connects() {
    let joining = Joining::new();
    let token = joining.token("token", &[]);

    let joined = joining.join(&token, "joined");

    assert!(joined.ok().contains("warren start --config"), "{joined:?}");
    let dir = joining.path("joined");
    let key = dir.join("node.pem");
    let home = Home {
        config: dir.join("warren.yaml"),
        peer_id: crate::support::warren(["peerid", "--key", key.to_str().unwrap()]).ok(),
        // The configuration that `join` wrote listens everywhere; the test moves it aside.
        ip: [127, 0, 0, 1].into(),
        folder: dir,
    };
    let free = |name: &'static str, value: &'static str| (name, value);
    let _node = Node::launch(
        &home,
        &[
            free("WARREN_LISTEN_ADDRESS", "/ip4/127.0.0.1/tcp/0"),
            free("WARREN_NETWORK__TRANSFER__LISTEN_ADDRESS", "127.0.0.1:0"),
            free("WARREN_API__LISTEN_ADDRESS", "127.0.0.1:0"),
            free("WARREN_NETWORK__LIBP2P__MDNS__ENABLED", "false"),
            free("WARREN_NETWORK__LIBP2P__UPNP__ENABLED", "false"),
        ],
    );
    joining.issuer.meets(&home);
    let peers = joining
        .issuer
        .get("/api/v1/network/peers?status=online")
        .json();
    assert_eq!(peers["peers"][0]["node_name"], "node-2");
    assert_eq!(
        peers["peers"][0]["capabilities"],
        serde_json::json!(["storage"])
    );
}

#[test]
fn given_a_joined_machine_when_its_files_are_looked_at_then_the_key_is_private() {
    let joining = Joining::new();
    let token = joining.token("token", &[]);
    joining.join(&token, "joined").ok();

    let mode = |name: &str| std::fs::metadata(joining.path(name)).unwrap().mode() & 0o777;

    assert_eq!((mode("joined/node.pem"), mode("token")), (0o600, 0o600));
}

#[test]
fn given_a_used_token_when_used_again_then_it_is_refused_and_says_so() {
    let joining = Joining::new();
    let token = joining.token("token", &[]);
    joining.join(&token, "first").ok();

    let refusal = joining.join(&token, "second").failed();

    assert!(refusal.contains("used"), "{refusal}");
    assert!(!joining.path("second/node_cert.pem").exists());
}

#[test]
fn given_a_token_that_has_ended_when_used_then_it_is_refused_and_says_so() {
    let joining = Joining::new();
    let token = joining.token("token", &["--expires", "1s"]);
    let refusal = eventually("the token has ended", || {
        // Every attempt but a late one would consume it: wait by the token's own clock.
        let made = std::fs::metadata(&token).unwrap().modified().unwrap();
        let late = made.elapsed().unwrap() > std::time::Duration::from_millis(2_100);
        late.then(|| joining.join(&token, "late").failed())
    });

    assert!(
        refusal.contains("expired") || refusal.contains("ended"),
        "{refusal}"
    );
}

#[test]
fn given_a_token_of_another_organisation_when_used_then_the_server_is_not_trusted() {
    let (joining, other) = (Joining::new(), Joining::new());
    let token = other.token("token", &[]);

    let refusal = joining.join(&token, "joined").failed();

    assert!(refusal.contains("CA"), "{refusal}");
    // It was not consumed either: its own server still takes it.
    other.join(&token, "joined").ok();
}

#[test]
fn given_a_token_that_was_changed_when_used_then_it_is_refused_before_anything_is_sent() {
    let joining = Joining::new();
    let token = joining.token("token", &[]);
    let text = std::fs::read_to_string(&token).unwrap();
    let end = text.len() - 3;
    let other = if &text[end..=end] == "A" { "B" } else { "A" };
    std::fs::write(
        &token,
        format!("{}{other}{}", &text[..end], &text[end + 1..]),
    )
    .unwrap();

    let refusal = joining.join(&token, "joined").failed();

    assert!(refusal.contains("token"), "{refusal}");
}

#[test]
fn given_a_capability_that_the_issuer_may_not_give_when_a_token_is_made_then_it_is_refused() {
    let joining = Joining::new();
    let path = joining.path("token");

    let refusal = joining
        .issuer
        .warren([
            "ca",
            "token",
            "--name",
            "node-2",
            "--capability",
            "no spaces",
            "--out",
            path.to_str().unwrap(),
        ])
        .usage();

    assert!(refusal.contains("no spaces"), "{refusal}");
    assert!(!path.exists());
}

#[test]
fn given_a_file_in_the_way_when_a_token_is_made_then_no_token_is_made_at_all() {
    let joining = Joining::new();
    let path = joining.path("token");
    std::fs::write(&path, "mine").unwrap();

    let refusal = joining
        .issuer
        .warren([
            "ca",
            "token",
            "--name",
            "node-2",
            "--out",
            path.to_str().unwrap(),
        ])
        .failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(std::fs::read(&path).unwrap(), b"mine");
    assert!(
        !joining.issuer.log().contains("/api/v1/join/tokens"),
        "a token was made for nobody"
    );
}

#[test]
fn given_a_node_that_does_not_issue_when_a_token_is_asked_for_then_it_says_who_can() {
    let organization = Organization::new();
    let node = Node::start(&organization.home("node-1"));

    let refusal = node.warren(["ca", "token", "--name", "node-2"]).failed();

    assert!(refusal.contains("issuer"), "{refusal}");
}

#[test]
fn given_a_join_when_logs_and_files_are_searched_then_the_token_is_nowhere() {
    let joining = Joining::new();
    joining
        .issuer
        .edit("roles:", "logging: {level: trace}\nroles:");
    joining.issuer.warren(["reload"]).ok();
    let token = joining.token("token", &[]);
    let text = std::fs::read_to_string(&token).unwrap();

    joining.join(&token, "joined").ok();

    assert!(
        !joining.issuer.log().contains(text.trim()),
        "the token is in the log"
    );
    std::fs::remove_file(&token).unwrap();
    let found = tool(
        "grep",
        joining.organization.folder(),
        ["-rlF", text.trim(), "."],
    );
    assert_eq!(
        found.code,
        Some(1),
        "the token is kept in {:?}",
        String::from_utf8(found.stdout)
    );
}

#[test]
fn given_a_token_on_the_command_line_when_joining_then_there_is_no_such_option() {
    crate::support::warren(["join", "https://127.0.0.1:1", "--token", "secret"]).usage();
}

#[test]
fn given_no_token_file_when_joining_then_the_next_step_is_told() {
    let refusal = crate::support::warren(["join", "https://127.0.0.1:1"]).failed();

    assert!(
        refusal.contains("--token-file") && refusal.contains("warren ca token"),
        "{refusal}"
    );
}

#[test]
fn given_a_revoked_member_when_it_is_joined_again_with_the_same_key_then_it_is_refused() {
    let joining = Joining::new();
    joining.join(&joining.token("token-1", &[]), "joined").ok();
    let key = joining.path("joined/node.pem");
    let peer = crate::support::warren(["peerid", "--key", key.to_str().unwrap()]).ok();
    joining.organization.revoke(&peer);
    std::fs::create_dir(joining.path("again")).unwrap();
    tool(
        "cp",
        joining.organization.folder(),
        ["-p", "joined/node.pem", "again/node.pem"],
    )
    .ok();

    let refusal = joining
        .join(&joining.token("token-2", &[]), "again")
        .failed();

    assert!(refusal.contains("revoked"), "{refusal}");
}

#[test]
fn given_an_answer_that_was_lost_when_the_same_machine_joins_again_then_it_is_told_what_to_do() {
    let joining = Joining::new();
    let token = joining.token("token", &[]);
    joining.join(&token, "joined").ok();
    for lost in ["node_cert.pem", "ca_cert.pem", "warren.yaml"] {
        std::fs::remove_file(joining.path("joined").join(lost)).unwrap();
    }

    let again = joining.join(&token, "joined");

    // The same key proves the same machine: the certificate it already has may be given again, or a new token named.
    assert!(
        again.code == Some(0) || again.failed().contains("warren ca token"),
        "{again:?}"
    );
}

#[test]
fn given_a_token_without_a_capability_when_a_machine_joins_then_its_node_may_store() {
    let joining = Joining::new();
    joining.grant("token", &["--name", "node-3"]).ok();

    joining.join(&joining.path("token"), "joined").ok();

    joining.check("joined").ok();
}

#[test]
fn given_a_token_for_a_relay_when_a_machine_joins_then_that_is_the_role_it_is_given() {
    let joining = Joining::new();
    let arguments = ["--name", "node-3", "--capability", "relay"];
    joining.grant("token", &arguments).ok();

    joining.join(&joining.path("token"), "joined").ok();

    let config = std::fs::read_to_string(joining.path("joined/warren.yaml")).unwrap();
    assert!(config.contains("\nroles: [relay]\n"), "{config}");
    joining.check("joined").ok();
}

#[test]
fn given_a_token_for_a_discovery_server_when_a_machine_joins_then_its_configuration_holds() {
    let joining = Joining::new();
    let arguments = ["--name", "node-3", "--capability", "discovery"];
    joining.grant("token", &arguments).ok();

    joining.join(&joining.path("token"), "joined").ok();

    joining.check("joined").ok();
}

#[test]
fn given_a_token_that_allows_no_role_when_a_machine_joins_then_it_is_told_what_start_will_need() {
    let joining = Joining::new();
    let arguments = ["--name", "node-3", "--capability", "admin"];
    joining.grant("token", &arguments).ok();

    let joined = joining.join(&joining.path("token"), "joined").ok();

    assert!(
        joined.contains("ca token --name node-3 --capability storage")
            && !joined.contains("next: warren start"),
        "{joined}"
    );
}

#[test]
fn given_a_misspelt_capability_when_a_token_is_made_then_it_is_refused_with_the_nearest() {
    let joining = Joining::new();
    let arguments = ["--name", "node-3", "--capability", "storge"];

    let refusal = joining.grant("token", &arguments).usage();

    assert!(
        refusal.contains("did you mean `storage`?") && refusal.contains("acl:write"),
        "{refusal}"
    );
    assert!(!joining.path("token").exists());
}

#[test]
fn given_terms_that_no_join_could_meet_when_a_token_is_made_then_they_are_refused_at_once() {
    let joining = Joining::new();
    let long = "n".repeat(64);
    for (terms, named) in [
        (["--name", "bad name"].as_slice(), "bad name"),
        (&["--name", &long], &long),
        (&["--name", "node-3", "--dns", "bad host"], "bad host"),
        (&["--name", "node-3", "--days", "9999"], "825 days"),
    ] {
        let refusal = joining.grant("token", terms).failed();

        assert!(refusal.contains(named), "{terms:?}: {refusal}");
        assert!(!joining.path("token").exists(), "{terms:?}");
    }
}

#[test]
fn given_a_server_without_its_scheme_when_joined_then_it_is_a_usage_error_with_the_url_to_write() {
    let refusal =
        crate::support::warren(["join", "10.0.1.5:8081", "--token-file", "token"]).usage();

    assert!(refusal.contains("write https://10.0.1.5:8081"), "{refusal}");
}
