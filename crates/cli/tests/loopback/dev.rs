//! `warren dev`: the first command of the README.

use crate::support::{noise, warren};

#[test]
fn given_a_clone_when_the_development_network_runs_once_then_every_file_comes_back() {
    let told = warren(["dev", "--once"]).ok();

    assert!(
        told.contains("byte for byte") && told.contains("bafyr4i"),
        "{told}"
    );
    assert_eq!(told.matches("http://127.0.0.1:").count(), 3, "{told}");
}

#[test]
fn given_a_folder_and_two_nodes_when_run_once_then_each_file_is_a_row() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("deep")).unwrap();
    std::fs::write(folder.path().join("empty"), "").unwrap();
    std::fs::write(folder.path().join("deep/large.bin"), noise(1, 5_000_000)).unwrap();

    let rows = warren([
        "dev",
        "--once",
        "--nodes",
        "2",
        "--dir",
        folder.path().to_str().unwrap(),
        "--json",
    ])
    .json();

    let files: Vec<(&str, bool)> = rows
        .as_array()
        .unwrap()
        .iter()
        .map(|row| {
            (
                row["file"].as_str().unwrap(),
                row["equal"].as_bool().unwrap(),
            )
        })
        .collect();
    assert_eq!(files, [("deep/large.bin", true), ("empty", true)]);
    assert_eq!(rows[0]["source"], "p2p");
}

#[test]
fn given_a_kept_folder_when_run_again_then_the_same_nodes_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let home = folder.path().join("home");
    let shared = folder.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("a.txt"), "a").unwrap();
    let run = || {
        warren([
            "dev",
            "--once",
            "--keep",
            home.to_str().unwrap(),
            "--dir",
            shared.to_str().unwrap(),
        ])
        .ok()
    };
    let peer_ids = |told: &str| -> Vec<String> {
        told.split_whitespace()
            .filter(|word| word.starts_with("12D3KooW"))
            .map(str::to_owned)
            .collect()
    };

    let (first, second) = (run(), run());

    assert_eq!(peer_ids(&first).len(), 3, "{first}");
    assert_eq!(peer_ids(&first), peer_ids(&second));
}

#[test]
fn given_no_folder_or_an_empty_one_when_run_then_the_option_is_told() {
    let folder = tempfile::tempdir().unwrap();

    for dir in [folder.path().to_str().unwrap(), "/nowhere"] {
        let refusal = warren(["dev", "--once", "--dir", dir]).failed();

        assert!(refusal.contains("--dir"), "{refusal}");
    }
}

#[test]
fn given_a_count_that_is_no_network_when_run_then_it_is_a_usage_error() {
    warren(["dev", "--once", "--nodes", "1"]).usage();
}
