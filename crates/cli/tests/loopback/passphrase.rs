//! Keys of nodes and CAs that are encrypted with a passphrase from a file.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use crate::support::{Home, Node, Organization, Plan, tool, warren};

const PASSPHRASE: &str = "correct horse battery staple";

/// A file with a passphrase, readable by its owner only.
fn passphrase_file(folder: &Path, name: &str, passphrase: &str) -> PathBuf {
    let path = folder.join(name);
    std::fs::write(&path, format!("{passphrase}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    path
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A home whose key is encrypted, and which is told where its passphrase is.
fn locked_home(organization: &Organization) -> Home {
    let home = organization.planned(
        "node-1",
        Plan {
            security: ", tls_key_passphrase_file: passphrase".to_owned(),
            ..Plan::default()
        },
    );
    passphrase_file(&home.folder, "passphrase", PASSPHRASE);
    std::fs::rename(home.path("node.pem"), home.path("plain.pem")).unwrap();
    tool(
        "openssl",
        &home.folder,
        [
            "pkcs8",
            "-topk8",
            "-v2",
            "aes-256-cbc",
            "-in",
            "plain.pem",
            "-out",
            "node.pem",
            "-passout",
            "file:passphrase",
        ],
    )
    .ok();
    std::fs::remove_file(home.path("plain.pem")).unwrap();
    home
}

#[test]
fn given_a_key_that_openssl_encrypted_when_its_passphrase_file_is_configured_then_the_node_runs() {
    let organization = Organization::new();
    let home = locked_home(&organization);

    let node = Node::start(&home);

    let status = node.warren(["status", "--json"]).json();
    assert_eq!(status["peer_id"], home.peer_id.as_str());
    assert!(!node.log().contains(PASSPHRASE));
}

#[test]
fn given_a_wrong_passphrase_or_none_when_a_node_starts_then_the_message_says_what_to_do() {
    let organization = Organization::new();
    let home = locked_home(&organization);
    passphrase_file(&home.folder, "passphrase", "another one");

    let wrong = home.warren(["start"]).failed();
    home.edit(", tls_key_passphrase_file: passphrase", "");
    let none = home.warren(["start"]).failed();

    assert!(
        wrong.contains("node.pem") && wrong.contains("passphrase is not the one"),
        "{wrong}"
    );
    assert!(!wrong.contains("another one"), "{wrong}");
    assert!(
        none.contains("network.security.tls_key_passphrase_file"),
        "{none}"
    );
}

#[test]
fn given_a_passphrase_file_when_a_key_is_made_then_it_is_encrypted_and_opens_with_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = passphrase_file(folder.path(), "passphrase", PASSPHRASE);
    let key = folder.path().join("node.pem");

    let peer = warren([
        "keygen",
        "--output",
        text(&key),
        "--passphrase-file",
        text(&file),
    ])
    .ok();

    let pem = std::fs::read_to_string(&key).unwrap();
    assert!(
        pem.starts_with("-----BEGIN ENCRYPTED PRIVATE KEY-----"),
        "{pem}"
    );
    let peer_id = ["peerid", "--key", text(&key)];
    let opened = warren(peer_id.iter().chain(&["--passphrase-file", text(&file)])).ok();
    assert_eq!(opened, peer);
    let refused = warren(peer_id).failed();
    assert!(refused.contains("--passphrase-file"), "{refused}");
}

#[test]
fn given_a_passphrase_file_that_others_may_read_when_a_key_is_made_then_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let file = passphrase_file(folder.path(), "passphrase", PASSPHRASE);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    let key = folder.path().join("node.pem");

    let refused = warren([
        "keygen",
        "--output",
        text(&key),
        "--passphrase-file",
        text(&file),
    ])
    .failed();

    assert!(refused.contains("chmod 600"), "{refused}");
    assert!(!key.exists());
}

#[test]
fn given_a_ca_under_a_passphrase_when_it_signs_then_it_takes_the_passphrase_for_each_signature() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");
    let ca_phrase = passphrase_file(folder.path(), "ca.passphrase", PASSPHRASE);
    let node_phrase = passphrase_file(folder.path(), "node.passphrase", "tr0ub4dor");
    let (key, out) = (
        folder.path().join("node.pem"),
        folder.path().join("node_cert.pem"),
    );
    let org = ["ca", "init", "--org", "org_acme_corp", "--dir", text(&ca)];
    warren(org.iter().chain(&["--passphrase-file", text(&ca_phrase)])).ok();
    let keygen = ["keygen", "--output", text(&key)];
    warren(
        keygen
            .iter()
            .chain(&["--passphrase-file", text(&node_phrase)]),
    )
    .ok();
    let issue = [
        "ca",
        "issue",
        "--dir",
        text(&ca),
        "--name",
        "node-1",
        "--key",
        text(&key),
        "--key-passphrase-file",
        text(&node_phrase),
        "--out",
        text(&out),
    ];

    let refused = warren(issue).failed();
    warren(issue.iter().chain(&["--passphrase-file", text(&ca_phrase)])).ok();
    let list = ["ca", "crl", "--dir", text(&ca)];
    warren(list).failed();
    warren(list.iter().chain(&["--passphrase-file", text(&ca_phrase)])).ok();

    assert!(
        refused.contains("ca_key.pem") || refused.contains("CA key"),
        "{refused}"
    );
    assert!(refused.contains("--passphrase-file"), "{refused}");
    assert!(out.exists());
}

#[test]
fn given_a_passphrase_file_when_a_first_node_is_set_up_then_both_keys_are_encrypted_and_it_checks()
{
    let folder = tempfile::tempdir().unwrap();
    let file = passphrase_file(folder.path(), "passphrase", PASSPHRASE);
    let (dir, storage) = (folder.path().join("etc"), folder.path().join("data"));

    let made = warren([
        "init",
        "--org",
        "org_acme_corp",
        "--dir",
        text(&dir),
        "--storage",
        text(&storage),
        "--passphrase-file",
        text(&file),
        "--json",
    ])
    .json();

    for key in ["node.pem", "ca/ca_key.pem"] {
        let pem = std::fs::read_to_string(dir.join(key)).unwrap();
        assert!(pem.contains("ENCRYPTED PRIVATE KEY"), "{key}");
    }
    let config = made["config"].as_str().unwrap();
    warren(["check", "--config", config]).ok();
    passphrase_file(folder.path(), "passphrase", "another one");
    let refused = warren(["check", "--config", config]);
    assert_eq!(refused.code, Some(1), "{refused:?}");
}
