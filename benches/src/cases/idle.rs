//! A node that has nothing to do: memory and CPU.

use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::Bench;
use super::program::{Service, text, timed};
use crate::measure;
use crate::outcome::{Bound, Row, Target};

/// After the start, before the measurement.
const SETTLE: Duration = Duration::from_secs(10);

/// `warren init` and `warren start` as they come, alone in their network.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let warren = bench.warren()?;
    let folder = bench.folder()?;
    let (dir, storage) = (folder.path().join("node"), folder.path().join("storage"));
    let here = &bench.place.here;
    let mut init = Command::new(warren);
    init.args([
        "init",
        "--org",
        "org_bench",
        "--dir",
        text(&dir)?,
        "--storage",
        text(&storage)?,
    ]);
    timed(here, quietly(init))?;
    let config = dir.join("warren.yaml");
    let command = |subcommand: &[&str]| {
        let mut command = Command::new(warren);
        command.arg("--config").arg(&config).args(subcommand);
        if !bench.place.is_lab() {
            // The ports may be somebody else's here.
            command.env(
                "WARREN_NETWORK__LIBP2P__LISTEN_ADDRESSES",
                "/ip4/127.0.0.1/tcp/0,/ip4/127.0.0.1/udp/0/quic-v1",
            );
            command.env("WARREN_NETWORK__TRANSFER__LISTEN_ADDRESS", "127.0.0.1:0");
        }
        command
    };
    let mut node = Service::start(here, command(&["start"]), &folder.path().join("node.log"))?;
    node.until(Duration::from_secs(30), || {
        timed(here, quietly(command(&["health"]))).is_ok()
    })?;
    std::thread::sleep(SETTLE);
    let window = Duration::from_secs(if bench.quick { 15 } else { 60 });
    let gone = "the node has ended";
    let before_s = measure::running_cpu_s(node.pid()).context(gone)?;
    std::thread::sleep(window);
    let used_s = measure::running_cpu_s(node.pid()).context(gone)? - before_s;
    let resident_mib = measure::memory_mib(node.pid(), "VmRSS").context(gone)?;
    timed(here, quietly(command(&["health"])))?;
    let ended = node.stop()?;
    ensure!(
        ended.status.success(),
        "the node ended with {}",
        ended.status
    );
    let cpu = Target {
        must: Some(Bound::AtMost(0.5)),
        aim: None,
    };
    Ok(vec![
        Row::alone(
            "idle",
            "MiB resident",
            &[resident_mib],
            Target::at_most(60.0, 40.0),
        ),
        Row::alone(
            "idle (CPU)",
            "% of a core",
            &[100.0 * used_s / window.as_secs_f64()],
            cpu,
        ),
    ])
}

fn quietly(mut command: Command) -> Command {
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}
