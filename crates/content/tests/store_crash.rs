//! `kill -9` at any moment of a put: nothing acknowledged is lost, nothing half is listed, nothing is left over.
//!
//! The test starts itself again as the victim, with the store's path in the environment. The victim puts documents whose
//! content follows from their number and prints each id once it is acknowledged.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_support;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::ops::ControlFlow;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use store_support::{NOW, key, noise, open, packs, read, titled};
use warren_content::core::manifest::Manifest;
use warren_content::{DocumentId, Store};

const VICTIM_STORE: &str = "WARREN_TEST_VICTIM_STORE";
const ROUND: &str = "WARREN_TEST_VICTIM_ROUND";
const ROUNDS: u64 = 30;

/// Mostly small, some of several chunks, some repeated from another round.
fn content(round: u64, number: u64) -> Vec<u8> {
    let length = match number % 5 {
        0 => 200,
        1 => 40_000,
        2 => 700_000,
        3 => 3_500_000,
        _ => 12_000,
    };
    let seed = if number % 7 == 3 {
        format!("shared {number}")
    } else {
        format!("{round}/{number}")
    };
    noise(&seed, length).to_vec()
}

/// The victim: runs until it is killed. Does nothing when run as a test.
#[test]
fn victim() {
    let (Ok(path), Ok(round)) = (std::env::var(VICTIM_STORE), std::env::var(ROUND)) else {
        return;
    };
    let round: u64 = round.parse().unwrap();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .build()
        .unwrap();
    runtime.block_on(async {
        let store = open(Path::new(&path));
        let mut putting = tokio::task::JoinSet::new();
        for number in 0..u64::MAX {
            if putting.len() == 3 {
                acknowledge(putting.join_next().await.unwrap().unwrap());
            }
            let store = store.clone();
            putting.spawn(async move {
                let content = content(round, number);
                let id = if number % 11 == 10 {
                    let mut directory = store.begin_directory();
                    directory.add("a/one", &content[..]).await.unwrap();
                    directory
                        .add("two", &content[..content.len() / 2])
                        .await
                        .unwrap();
                    directory
                        .finish(titled("directory"), &key())
                        .await
                        .unwrap()
                        .document
                } else {
                    store
                        .put(&content[..], titled("file"), &key())
                        .await
                        .unwrap()
                        .document
                };
                if number % 6 == 5 {
                    // Removal and collection are interrupted as well.
                    let gone = store
                        .put(&content[1..], titled("gone"), &key())
                        .await
                        .unwrap()
                        .document;
                    store.remove(gone).await.unwrap();
                    store.gc(NOW).await.unwrap();
                }
                (number, id)
            });
        }
    });
}

fn acknowledge((number, id): (u64, DocumentId)) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "\nacknowledged {number} {id}").unwrap();
    out.flush().unwrap();
}

/// Runs a victim for `life` and kills it; gives what it acknowledged.
fn run_victim(path: &Path, round: u64, life: Duration) -> Vec<(u64, DocumentId)> {
    let mut victim = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "victim", "--nocapture", "--test-threads=1"])
        .env(VICTIM_STORE, path)
        .env(ROUND, round.to_string())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let out = BufReader::new(victim.stdout.take().unwrap());
    let reader = std::thread::spawn(move || {
        let mut acknowledged = Vec::new();
        for line in out.lines() {
            let line = line.unwrap();
            if let Some((number, id)) = line
                .strip_prefix("acknowledged ")
                .and_then(|rest| rest.split_once(' '))
            {
                // The last line may be torn by the kill; then it was not acknowledged.
                if let Ok(id) = id.parse() {
                    acknowledged.push((number.parse().unwrap(), id));
                }
            }
        }
        acknowledged
    });
    // Not a wait for anything: the moment of the kill is the test's random input.
    std::thread::sleep(life);
    victim.kill().unwrap();
    victim.wait().unwrap();
    reader.join().unwrap()
}

fn check_whole(store: &Store, id: DocumentId, expected: Option<&[u8]>) {
    match store.manifest(id).unwrap().unwrap() {
        Manifest::Directory { entries, .. } => {
            for entry in entries {
                assert_eq!(read(store, entry.id).unwrap().len() as u64, entry.size);
            }
        }
        _ => {
            let found = read(store, id).unwrap();
            assert!(
                expected.is_none_or(|expected| found == expected),
                "{id} has other content"
            );
        }
    }
}

fn check_after_kill(path: &Path, acknowledged: &BTreeMap<DocumentId, (u64, u64)>) {
    let store = open(path);
    for (id, (round, number)) in acknowledged {
        assert!(
            store.document(*id).unwrap().is_some(),
            "{id} was acknowledged and is not listed"
        );
        check_whole(&store, *id, Some(&content(*round, *number)));
    }
    let mut cursor = None;
    loop {
        let page = store.documents(cursor, 100).unwrap();
        for document in page.documents {
            check_whole(&store, document.id, None);
        }
        match page.next {
            Some(next) => cursor = Some(next),
            None => break,
        }
    }
    let report = store.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(
        report.corrupt.is_empty() && report.missing.is_empty(),
        "{report:?}"
    );
}

#[test]
fn given_a_kill_at_any_moment_then_what_was_acknowledged_is_whole() {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap();
    let mut seed = u64::try_from(now.as_nanos() & u128::from(u64::MAX)).unwrap() | 1;
    println!("seed {seed}");
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = BTreeMap::new();
    for round in 0..ROUNDS {
        // xorshift64: 20 to 400 ms of life.
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        let life = Duration::from_millis(20 + seed % 380);
        for (number, id) in run_victim(folder.path(), round, life) {
            acknowledged.insert(id, (round, number));
        }
        check_after_kill(folder.path(), &acknowledged);
    }
    assert!(
        !acknowledged.is_empty(),
        "no victim lived long enough to acknowledge anything"
    );

    // Once everything is removed nothing is left: no leaked block, no leaked pack.
    let store = open(folder.path());
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    runtime.block_on(async {
        while let Some(document) = store.documents(None, 1).unwrap().documents.first() {
            assert!(store.remove(document.id).await.unwrap());
        }
        store.gc(NOW).await.unwrap();
    });
    let usage = store.usage().unwrap();
    assert_eq!(
        (usage.blocks, usage.stored_bytes, usage.documents),
        (0, 0, 0)
    );
    assert_eq!(packs(folder.path()).0.len(), 0);
}
