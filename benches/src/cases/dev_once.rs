//! The first thing that a person runs.

use std::path::Path;
use std::process::{Command, Stdio};

use super::Bench;
use super::program::timed;
use crate::outcome::{Row, Target};

/// `warren dev --once` on the project's own `docs/`; its exit code says that every file came back as it went in.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let warren = bench.warren()?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs");
    let (mut times, mut cpus) = (Vec::new(), Vec::new());
    for _ in 0..bench.rounds() {
        let mut command = Command::new(warren);
        command
            .args(["dev", "--once", "--dir"])
            .arg(&docs)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let (wall_s, usage) = timed(&bench.place.here, command)?;
        times.push(wall_s);
        cpus.push(usage.cpu_s);
    }
    Ok(vec![
        Row::alone("dev-once", "s", &times, Target::at_most(5.0, 2.0)),
        Row::alone("dev-once (CPU)", "CPU s", &cpus, Target::NONE),
    ])
}
