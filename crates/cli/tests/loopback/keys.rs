//! `keygen`, `peerid`, and what the command line promises as a whole.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::support::warren;

fn mode(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().mode() & 0o777
}

#[test]
fn given_a_new_key_when_made_then_only_its_owner_may_read_it() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");

    warren([Path::new("keygen"), Path::new("--output"), &key]).ok();

    assert_eq!(mode(&key), 0o600);
}

#[test]
fn given_a_key_when_asked_for_its_peer_id_then_it_is_the_one_keygen_printed() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");
    let printed = warren(["keygen", "--output", key.to_str().unwrap()]).ok();

    let asked = warren(["peerid", "--key", key.to_str().unwrap()]).ok();

    assert_eq!(asked, printed);
    assert!(
        printed.starts_with("12D3KooW") && printed.lines().count() == 1,
        "{printed}"
    );
}

#[test]
fn given_a_key_in_place_when_another_is_made_there_then_it_is_refused_and_the_first_stays() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");
    warren(["keygen", "--output", key.to_str().unwrap()]).ok();
    let first = std::fs::read(&key).unwrap();

    let refusal = warren(["keygen", "--output", key.to_str().unwrap()]).failed();

    assert!(
        refusal.contains("exists") && refusal.contains("--force"),
        "{refusal}"
    );
    assert_eq!(std::fs::read(&key).unwrap(), first);
}

#[test]
fn given_a_key_in_place_when_forced_then_it_is_replaced_and_stays_private() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");
    let first = warren(["keygen", "--output", key.to_str().unwrap()]).ok();

    let second = warren(["keygen", "--output", key.to_str().unwrap(), "--force"]).ok();

    assert_ne!(first, second);
    assert_eq!(mode(&key), 0o600);
}

#[test]
fn given_a_request_in_place_when_another_is_written_there_then_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let (key, csr) = (
        folder.path().join("node.pem"),
        folder.path().join("node.csr"),
    );
    std::fs::write(&csr, "somebody else's").unwrap();

    let refusal = warren([
        "keygen",
        "--output",
        key.to_str().unwrap(),
        "--csr",
        csr.to_str().unwrap(),
    ])
    .failed();

    assert!(refusal.contains("exists"), "{refusal}");
    assert_eq!(std::fs::read(&csr).unwrap(), b"somebody else's");
    assert!(!key.exists(), "half of what was asked for was made");
}

#[test]
fn given_a_key_that_others_may_read_when_used_then_it_is_refused_with_the_remedy() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");
    warren(["keygen", "--output", key.to_str().unwrap()]).ok();
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644)).unwrap();

    let refusal = warren(["peerid", "--key", key.to_str().unwrap()]).failed();

    assert!(refusal.contains("chmod 600"), "{refusal}");
}

#[test]
fn given_a_truncated_key_when_used_then_the_file_and_the_reason_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let key = folder.path().join("node.pem");
    warren(["keygen", "--output", key.to_str().unwrap()]).ok();
    let whole = std::fs::read_to_string(&key).unwrap();
    std::fs::write(&key, &whole[..whole.len() / 2]).unwrap();

    let refusal = warren(["peerid", "--key", key.to_str().unwrap()]).failed();

    assert!(refusal.contains("node.pem"), "{refusal}");
}

#[test]
fn given_an_unknown_command_when_called_then_it_is_a_usage_error() {
    let usage = warren(["dance"]).usage();

    assert!(usage.contains("dance"), "{usage}");
}

#[test]
fn given_a_missing_argument_when_called_then_it_is_a_usage_error() {
    warren(["keygen"]).usage();
}

#[test]
fn given_the_version_when_asked_both_ways_then_they_agree() {
    let text = warren(["version"]).ok();

    assert_eq!(text, warren(["--version"]).ok());
    assert_eq!(
        warren(["version", "--json"]).json()["version"],
        text.strip_prefix("warren ").unwrap()
    );
}

#[test]
fn given_a_shell_when_completions_are_asked_for_then_bash_takes_them() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("warren.bash");
    std::fs::write(&script, warren(["completions", "bash"]).bytes()).unwrap();

    let registered = crate::support::tool(
        "bash",
        folder.path(),
        ["-c", ". ./warren.bash && complete -p warren"],
    )
    .ok();

    assert!(registered.contains("warren"), "{registered}");
}

#[test]
fn given_a_reader_that_has_gone_when_completions_are_printed_then_it_is_no_failure() {
    let folder = tempfile::tempdir().unwrap();
    let arguments = [
        "-c".into(),
        r#""$0" completions bash | true; echo "${PIPESTATUS[0]}""#.into(),
        crate::support::binary(),
    ];

    let code = crate::support::tool("bash", folder.path(), arguments).ok();

    assert_eq!(code.trim(), "0");
}

#[test]
fn given_a_folder_when_manual_pages_are_written_then_every_command_has_its_own() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("man1");

    warren(["man", "--out", out.to_str().unwrap()]).ok();

    let page = |name: &str| std::fs::read_to_string(out.join(name)).unwrap_or_default();
    let help = warren(["--help"]).ok();
    let commands = help
        .split("Commands:")
        .nth(1)
        .unwrap()
        .split("Options:")
        .next()
        .unwrap();
    let named = commands
        .lines()
        .filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let mut count = 0;
    for command in named.filter_map(|line| line.split_whitespace().next()) {
        if command != "help" {
            count += 1;
            assert!(
                page(&format!("warren-{command}.1")).contains(".TH"),
                "{command} has no page"
            );
        }
    }
    assert!(count > 20, "{help}");
    assert!(page("warren-ca-issue.1").contains("capability"));
    assert!(page("warren.1").contains("warren\\-ca"));
}
