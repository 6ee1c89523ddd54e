//! `warren dev`: the first command of the README.

use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{binary, eventually, noise, tool, warren};

/// `warren dev` that stays up, until the test lets go of it.
struct Staying {
    child: Child,
    folder: tempfile::TempDir,
}

impl Staying {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("tmp")).unwrap();
        std::fs::create_dir(folder.path().join("shared")).unwrap();
        std::fs::write(folder.path().join("shared/a.txt"), "a").unwrap();
        let child = Command::new(binary())
            .args(["dev", "--nodes", "2", "--dir"])
            .arg(folder.path().join("shared"))
            .env("TMPDIR", folder.path().join("tmp"))
            .stdin(Stdio::null())
            .stdout(std::fs::File::create(folder.path().join("out")).unwrap())
            .spawn()
            .unwrap();
        Self { child, folder }
    }

    /// What it printed, once it has told what to try.
    fn told(&self) -> String {
        eventually("the commands to try are printed", || {
            let told = std::fs::read_to_string(self.folder.path().join("out")).unwrap();
            told.contains("stops the network").then_some(told)
        })
    }
}

impl Drop for Staying {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn given_a_network_that_stays_up_when_its_hints_are_pasted_then_they_work() {
    let staying = Staying::new();
    let told = staying.told();

    for hint in [" status", " peers", " get bafyr4i"] {
        let line = told.lines().find(|line| line.contains(hint)).unwrap();

        let answer = tool("sh", staying.folder.path(), ["-c", line.trim()]);

        assert!(!answer.ok().is_empty(), "{line}");
    }
}

#[test]
fn given_a_network_that_stays_up_when_stopped_then_it_leaves_nothing_behind() {
    let mut staying = Staying::new();
    staying.told();

    kill_process(Pid::from_child(&staying.child), Signal::TERM).unwrap();

    let status = eventually("the network has stopped", || {
        staying.child.try_wait().unwrap()
    });
    assert!(status.success(), "{status}");
    let left = std::fs::read_dir(staying.folder.path().join("tmp"))
        .unwrap()
        .count();
    assert_eq!(left, 0, "temporary folders are left");
}

#[test]
fn given_a_clone_when_the_development_network_runs_once_then_every_file_comes_back() {
    let told = warren(["dev", "--once"]).ok();

    assert!(
        told.contains("byte for byte") && told.contains("bafyr4i"),
        "{told}"
    );
    assert_eq!(told.matches("http://127.0.0.1:").count(), 3, "{told}");
    assert!(!told.contains(".."), "{told}");
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
    // The last node had the file already: nothing travelled, and nothing is claimed.
    assert!(first.contains("byte for byte"), "{first}");
    assert!(
        second.contains("nothing was proved") && !second.contains("byte for byte"),
        "{second}"
    );
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
