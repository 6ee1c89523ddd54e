//! Replays the committed corpus on stable, then mutates it for a moment.
//!
//! The seed of the mutations is printed; `WARREN_FUZZ_SEED` sets it. An input that breaks a target is printed in hex.

#![allow(clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant, SystemTime};

use warren_fuzz::mutate::{Random, mutate};
use warren_fuzz::{TARGETS, target};

/// How long one target is fed mutations, and how many at most.
const MOMENT: Duration = Duration::from_secs(1);
const MOST_MUTATIONS: usize = 20_000;

/// A test per target, and one that no target was left out.
macro_rules! replay {
    ($($name:ident)*) => {
        $(
            #[test]
            fn $name() {
                replay_and_mutate(stringify!($name));
            }
        )*

        #[test]
        fn every_target_is_replayed() {
            let replayed = [$(stringify!($name)),*];
            assert_eq!(TARGETS.iter().map(|(name, _)| *name).collect::<Vec<_>>(), replayed);
        }
    };
}

replay! {
    cluster_frame
    config
    content_block
    content_ids
    content_manifest
    content_record
    content_wire
    discovery_answers
    discovery_requests
    grpc_message
    identity_chain
    identity_crl
    identity_csr
    identity_join_token
    identity_key
    identity_node_record
    mesh_admission
    mesh_gossip
    mesh_opening
    mesh_sync
    rpc_control
    rpc_lane
    rpc_metadata
    rpc_stream
    swim_message
    swim_packet
}

#[test]
fn every_corpus_has_a_target() {
    let folders = std::fs::read_dir(corpus())
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap());

    for folder in folders {
        assert!(
            target(&folder).is_some(),
            "fuzz/corpus/{folder} belongs to no target"
        );
    }
}

#[test]
fn every_target_runs_under_libfuzzer_too() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("libfuzzer");
    let manifest = std::fs::read_to_string(folder.join("Cargo.toml")).unwrap();

    for (name, _) in TARGETS {
        assert!(
            folder.join(format!("fuzz_targets/{name}.rs")).is_file(),
            "{name} has no file"
        );
        assert!(
            manifest.contains(&format!("name = \"{name}\"")),
            "{name} has no [[bin]]"
        );
    }
}

fn corpus() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus")
}

fn replay_and_mutate(name: &str) {
    let target = target(name).unwrap();
    let mut files: Vec<PathBuf> = std::fs::read_dir(corpus().join(name))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    files.sort();
    assert!(!files.is_empty(), "fuzz/corpus/{name} is empty");
    let inputs: Vec<Vec<u8>> = files
        .iter()
        .map(|file| std::fs::read(file).unwrap())
        .collect();
    let accepted = files
        .iter()
        .zip(&inputs)
        .filter(|(file, input)| feed(target, input, &file.display().to_string()))
        .count();
    assert!(
        accepted > 0,
        "nothing in fuzz/corpus/{name} gets past the door: write the seeds again"
    );
    assert!(
        accepted < files.len(),
        "fuzz/corpus/{name} holds nothing that is refused"
    );

    let seed = match std::env::var("WARREN_FUZZ_SEED") {
        Ok(seed) => seed.parse().unwrap(),
        Err(_) => SystemTime::UNIX_EPOCH.elapsed().unwrap().as_nanos() as u64,
    };
    println!("{name}: WARREN_FUZZ_SEED={seed}");
    let (started, mut random) = (Instant::now(), Random::new(seed));
    for count in 0..MOST_MUTATIONS {
        if started.elapsed() > MOMENT {
            break;
        }
        feed(
            target,
            &mutate(&inputs, &mut random),
            &format!("mutation {count} of seed {seed}"),
        );
    }
}

fn feed(target: warren_fuzz::Target, input: &[u8], origin: &str) -> bool {
    /// Says what broke the target while the panic passes through.
    struct Culprit<'a>(&'a [u8], &'a str);

    impl Drop for Culprit<'_> {
        fn drop(&mut self) {
            if std::thread::panicking() {
                let hex: String = self.0.iter().map(|byte| format!("{byte:02x}")).collect();
                println!("{}: {} bytes: {hex}", self.1, self.0.len());
            }
        }
    }

    let _culprit = Culprit(input, origin);
    target(input)
}
