//! The certificate authority: `ca init`, `issue`, `revoke`, `crl`, `list`, `cert show`, `init`.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::support::warren;

struct Authority {
    folder: TempDir,
}

impl Authority {
    fn new() -> Self {
        let this = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        warren([
            "ca",
            "init",
            "--org",
            "org_acme_corp",
            "--dir",
            &this.file("ca"),
        ])
        .ok();
        this
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    fn key(&self, name: &str) -> String {
        warren(["keygen", "--output", &self.file(name)]).ok()
    }

    fn issue(&self, further: &[&str]) -> crate::support::Finished {
        let (ca, out) = (self.file("ca"), self.file("node_cert.pem"));
        let fixed = [
            "ca", "issue", "--dir", &ca, "--name", "node-1", "--out", &out,
        ];
        warren(fixed.iter().chain(further))
    }

    /// `cert show --json` of the issued certificate: the leaf, then its companion where it has one.
    fn shown(&self) -> serde_json::Value {
        warren(["cert", "show", &self.file("node_cert.pem"), "--json"]).json()
    }
}

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn given_a_new_authority_when_made_then_its_key_can_only_be_read_by_its_owner() {
    let authority = Authority::new();

    assert_eq!(mode(&authority.path("ca/ca_key.pem")), 0o400);
}

#[test]
fn given_an_authority_in_place_when_made_again_then_it_is_refused_and_nothing_changes() {
    let authority = Authority::new();
    let before = std::fs::read(authority.path("ca/ca_key.pem")).unwrap();

    let refusal = warren([
        "ca",
        "init",
        "--org",
        "org_other",
        "--dir",
        &authority.file("ca"),
    ])
    .failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(
        std::fs::read(authority.path("ca/ca_key.pem")).unwrap(),
        before
    );
}

#[test]
fn given_a_bad_organisation_id_when_an_authority_is_made_then_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let ca = folder.path().join("ca");

    warren([
        "ca",
        "init",
        "--org",
        "no spaces",
        "--dir",
        ca.to_str().unwrap(),
    ])
    .failed();

    assert!(!ca.exists());
}

#[test]
fn given_a_key_when_issued_then_the_leaf_says_all_that_was_asked_for() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");

    authority
        .issue(&[
            "--key",
            &authority.file("node.pem"),
            "--dns",
            "node1.acme.com",
            "--ip",
            "10.0.1.5",
            "--days",
            "30",
            "--capability",
            "storage",
            "--capability",
            "route:192.168.4.0/24",
        ])
        .ok();

    let leaf = &authority.shown()[0];
    assert_eq!(leaf["peer_id"], peer.as_str());
    assert_eq!(leaf["organization"], "org_acme_corp");
    assert_eq!(leaf["dns"], serde_json::json!(["node1.acme.com"]));
    assert_eq!(leaf["ip"], serde_json::json!(["10.0.1.5"]));
    assert_eq!(
        leaf["capabilities"],
        serde_json::json!(["storage", "route:192.168.4.0/24"])
    );
    assert!(
        (29..=30).contains(&leaf["days_left"].as_i64().unwrap()),
        "{leaf}"
    );
}

#[test]
fn given_an_unknown_capability_when_issued_then_it_is_refused_and_nothing_is_signed() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");

    for (unknown, told) in [
        ("storge", "did you mean `storage`?"),
        ("Storage", "did you mean `storage`?"),
        ("bogus", "acl:write"),
    ] {
        let refusal = authority
            .issue(&["--peer", &peer, "--capability", unknown])
            .usage();

        assert!(
            refusal.contains(unknown) && refusal.contains(told),
            "{refusal}"
        );
        assert!(!authority.path("node_cert.pem").exists());
    }
}

#[test]
fn given_every_known_capability_when_help_is_asked_for_then_it_is_listed() {
    for command in ["issue", "token"] {
        let help = warren(["ca", command, "--help"]).ok();

        let words: Vec<&str> = help
            .split(|c: char| c.is_whitespace() || c == ',')
            .collect();
        for name in warren_identity::Capability::names() {
            assert!(
                words.contains(&name),
                "{command} --help lacks {name}: {help}"
            );
        }
        assert!(words.contains(&"route:PREFIX"), "{help}");
    }
}

#[test]
fn given_a_name_that_no_configuration_takes_when_a_first_node_is_set_up_then_nothing_is_written() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("etc");
    let dir_text = dir.to_str().unwrap();

    let refusal = warren([
        "init",
        "--org",
        "org_acme_corp",
        "--dir",
        dir_text,
        "--name",
        "bad name",
    ])
    .failed();

    assert!(refusal.contains("bad name"), "{refusal}");
    assert!(!dir.exists());
}

#[test]
fn given_only_a_peer_id_when_issued_then_the_leaf_is_for_that_key() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");

    let issued = authority.issue(&["--peer", &peer]);

    issued.ok();
    assert_eq!(authority.shown()[0]["peer_id"], peer.as_str());
    // A peer id does not tell the companion's key: it says so, and a request does.
    assert_eq!(authority.shown().as_array().unwrap().len(), 1);
    assert!(issued.stderr.contains("no P-256 companion"), "{issued:?}");
}

#[test]
fn given_a_request_when_issued_then_the_authority_never_needs_the_key() {
    let authority = Authority::new();
    let peer = warren([
        "keygen",
        "--output",
        &authority.file("node.pem"),
        "--csr",
        &authority.file("node.csr"),
    ])
    .ok();
    std::fs::remove_file(authority.path("node.pem")).unwrap();

    authority
        .issue(&["--csr", &authority.file("node.csr")])
        .ok();

    assert_eq!(authority.shown()[0]["peer_id"], peer.as_str());
}

#[test]
fn given_a_request_that_was_changed_when_issued_then_it_is_refused() {
    let authority = Authority::new();
    authority.key("node.pem");
    warren([
        "keygen",
        "--key",
        &authority.file("node.pem"),
        "--csr",
        &authority.file("node.csr"),
    ])
    .ok();
    let text = std::fs::read_to_string(authority.path("node.csr")).unwrap();
    let middle = text.len() / 2;
    let other = if text.as_bytes()[middle] == b'A' {
        "B"
    } else {
        "A"
    };
    let mut changed = text;
    changed.replace_range(middle..=middle, other);
    std::fs::write(authority.path("node.csr"), changed).unwrap();

    let refusal = authority
        .issue(&["--csr", &authority.file("node.csr")])
        .failed();

    assert!(refusal.contains("node.csr"), "{refusal}");
    assert!(!authority.path("node_cert.pem").exists());
}

#[test]
fn given_no_subject_or_two_when_issued_then_it_is_a_usage_error() {
    let authority = Authority::new();

    authority.issue(&[]).usage();
    authority.issue(&["--peer", "x", "--csr", "y"]).usage();
}

#[test]
fn given_a_certificate_in_place_when_issued_without_force_then_it_stays() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");
    authority.issue(&["--peer", &peer]).ok();
    let before = std::fs::read(authority.path("node_cert.pem")).unwrap();

    let refusal = authority.issue(&["--peer", &peer]).failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(
        std::fs::read(authority.path("node_cert.pem")).unwrap(),
        before
    );
    authority.issue(&["--peer", &peer, "--force"]).ok();
}

#[test]
fn given_a_wildcard_name_when_issued_then_it_takes_a_word_of_its_own() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");

    let refusal = authority
        .issue(&["--peer", &peer, "--dns", "*.acme.com"])
        .failed();

    assert!(refusal.contains("*.acme.com"), "{refusal}");
    authority
        .issue(&["--peer", &peer, "--dns", "*.acme.com", "--allow-wildcard"])
        .ok();
}

#[test]
fn given_a_revoked_peer_when_issued_again_then_it_is_refused_and_the_list_says_so() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");
    authority.issue(&["--peer", &peer]).ok();

    let revoked = warren([
        "ca",
        "revoke",
        "--dir",
        &authority.file("ca"),
        "--peer",
        &peer,
        "--json",
    ])
    .json();

    assert_eq!(revoked["peer_id"], peer.as_str());
    let refusal = authority.issue(&["--peer", &peer, "--force"]).failed();
    assert!(refusal.contains("revoked"), "{refusal}");
    let listed = warren(["ca", "list", "--dir", &authority.file("ca")]).ok();
    assert!(
        listed.contains(&peer) && listed.contains("revoked"),
        "{listed}"
    );
}

#[test]
fn given_nobody_to_revoke_when_a_list_is_signed_then_its_number_still_rises() {
    let authority = Authority::new();
    let sign = || {
        let signed = warren(["ca", "crl", "--dir", &authority.file("ca"), "--json"]).json();
        signed["number"].as_u64().unwrap()
    };

    let (first, second) = (sign(), sign());

    assert!(first < second, "{first} {second}");
}

#[test]
fn given_a_peer_id_that_is_none_when_revoked_then_the_message_says_so() {
    let authority = Authority::new();

    let refusal = warren([
        "ca",
        "revoke",
        "--dir",
        &authority.file("ca"),
        "--peer",
        "nobody",
    ])
    .usage();

    assert!(
        refusal.contains("nobody") && refusal.contains("peer id"),
        "{refusal}"
    );
}

#[test]
fn given_a_first_node_when_initialised_then_its_configuration_checks() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("warren");
    let init = || {
        warren([
            "init",
            "--org",
            "org_acme_corp",
            "--dir",
            home.to_str().unwrap(),
            "--storage",
            folder.path().join("data").to_str().unwrap(),
            "--json",
        ])
    };

    let made = init().json();

    let checked = warren([
        "check",
        "--config",
        made["config"].as_str().unwrap(),
        "--json",
    ])
    .json();
    assert_eq!(checked["valid"], true, "{checked}");
    assert_eq!(mode(&home.join("node.pem")), 0o600);
    assert_eq!(mode(&home.join("ca/ca_key.pem")), 0o400);
}

#[test]
fn given_an_initialised_folder_when_initialised_again_then_it_is_refused_and_nothing_changes() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("warren");
    let init = || {
        warren([
            "init",
            "--org",
            "org_acme_corp",
            "--dir",
            home.to_str().unwrap(),
        ])
    };
    init().ok();
    let key = std::fs::read(home.join("node.pem")).unwrap();

    let refusal = init().failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(std::fs::read(home.join("node.pem")).unwrap(), key);
}

#[test]
fn given_no_certificate_when_shown_then_the_file_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("letter.txt");
    std::fs::write(&file, "dear reader").unwrap();

    let refusal = warren(["cert", "show", file.to_str().unwrap()]).failed();

    assert!(refusal.contains("letter.txt"), "{refusal}");
}

impl Authority {
    fn revoke(&self, further: &[&str]) -> crate::support::Finished {
        let ca = self.file("ca");
        warren(["ca", "revoke", "--dir", &ca].iter().chain(further))
    }
}

#[test]
fn given_a_serial_or_peer_with_a_typing_error_when_revoked_then_it_is_refused_with_the_nearest() {
    let authority = Authority::new();
    let peer = authority.key("node.pem");
    authority.issue(&["--peer", &peer]).ok();
    let serial = authority.shown()[0]["serial"].as_str().unwrap().to_owned();
    let mistyped = format!(
        "{}{}",
        &serial[..31],
        if serial.ends_with('0') { 1 } else { 0 }
    );
    let stranger = authority.key("other.pem");

    let by_serial = authority.revoke(&["--serial", &mistyped]).failed();
    let by_peer = authority.revoke(&["--peer", &stranger]).failed();

    assert!(
        by_serial.contains(&format!("did you mean {serial}?")) && by_serial.contains("--force"),
        "{by_serial}"
    );
    assert!(by_peer.contains(&stranger), "{by_peer}");
    assert!(!authority.path("ca/crl.pem").exists());
    authority.revoke(&["--serial", &mistyped, "--force"]).ok();
    authority.revoke(&["--peer", &stranger, "--force"]).ok();
}

#[test]
fn given_the_node_beside_its_authority_when_revoked_then_it_takes_a_word_of_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("warren");
    let home_text = home.to_str().unwrap();
    let init = [
        "init",
        "--org",
        "org_acme_corp",
        "--dir",
        home_text,
        "--json",
    ];
    let made = warren(init).json();
    let ca = home.join("ca");
    let revoke = |further: &[&str]| {
        let fixed = ["ca", "revoke", "--dir", ca.to_str().unwrap(), "--peer"];
        warren(
            fixed
                .iter()
                .chain(&[made["peer_id"].as_str().unwrap()])
                .chain(further),
        )
    };

    let refusal = revoke(&[]).failed();

    assert!(
        refusal.contains("own node") && refusal.contains("--force"),
        "{refusal}"
    );
    revoke(&["--force"]).ok();
}

#[test]
fn given_a_folder_without_an_authority_when_listed_then_it_says_so() {
    let folder = tempfile::tempdir().unwrap();

    let refusal = warren(["ca", "list", "--dir", folder.path().to_str().unwrap()]).failed();

    assert!(refusal.contains("is not there"), "{refusal}");
}

#[test]
fn given_a_node_that_renewed_when_listed_then_each_leaf_is_one_line_with_its_state() {
    let authority = Authority::new();
    authority.key("node.pem");
    let key = authority.file("node.pem");
    authority.issue(&["--key", &key]).ok();
    authority.issue(&["--key", &key, "--force"]).ok();

    let list = ["ca", "list", "--dir", &authority.file("ca")];
    let table = warren(list).ok();
    let json = warren(list.iter().chain(&["--json"])).json();

    let lines: Vec<&str> = table.lines().collect();
    let [headings, first, second] = lines.as_slice() else {
        panic!("{table}")
    };
    assert!(headings.ends_with("companion  state"), "{table}");
    assert!(first.ends_with("with       replaced"), "{table}");
    assert!(second.ends_with("with       in force"), "{table}");
    let companion = authority.shown()[1]["serial"].clone();
    assert_eq!(json["issued"][1]["companion_serial"], companion, "{json}");
}

#[test]
fn given_bad_words_on_the_command_line_when_asked_with_json_then_each_is_a_usage_failure() {
    for line in [
        &["ca", "revoke", "--dir", "ca", "--peer", "12D3KooW"][..],
        &[
            "ca", "issue", "--dir", "ca", "--peer", "foo", "--name", "n", "--out", "o",
        ],
        &["ca", "token", "--name", "n", "--expires", "1x"],
        &["connect", "foo"],
        &["get", "foo"],
        &["put", "/dev/null", "--retention", "1x"],
        &["--api", "localhost:8080", "status"],
    ] {
        let refusal = warren(line.iter().chain(&["--json"])).usage();

        let failure: serde_json::Value = serde_json::from_str(&refusal).unwrap();
        assert_eq!(failure["error"]["code"], "usage", "{line:?}");
        let message = failure["error"]["message"].as_str().unwrap();
        assert!(message.matches("is no duration").count() < 2, "{message}");
    }
}

#[test]
fn given_no_name_when_a_first_node_is_set_up_then_it_is_called_as_its_machine() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("etc");
    let dir = dir.to_str().unwrap();
    warren(["init", "--org", "org_acme_corp", "--dir", dir]).ok();

    let configuration = std::fs::read_to_string(format!("{dir}/warren.yaml")).unwrap();

    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let called = match warren_config::check_node_id(&host) {
        Ok(()) => host,
        Err(_) => "node-1".to_owned(),
    };
    assert!(
        configuration.contains(&format!("node_id: {called}\n"))
            || configuration.contains(&format!("node_id: '{called}'\n")),
        "{configuration}"
    );
}
