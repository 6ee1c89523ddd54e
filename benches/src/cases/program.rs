//! Stock programs as peers.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

use super::NotMeasurable;
use crate::measure::{self, Usage};
use crate::place::Spot;

/// Where a program is, or that it is not there and which Debian package brings it.
pub(super) fn find(program: &str, package: &str) -> anyhow::Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let more = ["/usr/sbin", "/sbin"].map(PathBuf::from);
    let found = std::env::split_paths(&path)
        .chain(more)
        .map(|folder| folder.join(program))
        .find(|file| file.is_file());
    let missing = || {
        NotMeasurable(format!(
            "`{program}` is not installed; run `apt-get install {package}`"
        ))
    };
    Ok(found.ok_or_else(missing)?)
}

/// A program that runs until it is stopped; its output goes to a file. Stopped when dropped.
pub(super) struct Service {
    child: Option<Child>,
    output: PathBuf,
}

impl Service {
    pub(super) fn start(spot: &Spot, mut command: Command, output: &Path) -> anyhow::Result<Self> {
        let file = File::create(output)?;
        let program = command.get_program().to_owned();
        command
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file);
        let child = spot
            .spawn(command)
            .with_context(|| format!("cannot start {}", program.display()))?;
        Ok(Self {
            child: Some(child),
            output: output.to_owned(),
        })
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.as_ref().map_or(0, Child::id)
    }

    /// Waits until `is_so`, and no longer than the program runs.
    pub(super) fn until(
        &mut self,
        within: Duration,
        mut is_so: impl FnMut() -> bool,
    ) -> anyhow::Result<()> {
        let deadline = Instant::now() + within;
        while !is_so() {
            let ended = self
                .child
                .as_mut()
                .is_none_or(|child| !matches!(child.try_wait(), Ok(None)));
            if ended || Instant::now() > deadline {
                let said = std::fs::read_to_string(&self.output).unwrap_or_default();
                bail!("a program does not become ready; it said: {said}");
            }
            std::thread::sleep(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Stops it with SIGTERM and gives what it used, its children included.
    pub(super) fn stop(mut self) -> anyhow::Result<Usage> {
        let child = self.child.take().context("stopped twice")?;
        terminate(&child);
        Ok(measure::wait(child)?)
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            terminate(&child);
            // Something failed already; how this one ends does not matter.
            let _ = child.wait();
        }
    }
}

fn terminate(child: &Child) {
    if let Ok(pid) = libc::pid_t::try_from(child.id()) {
        // SAFETY: no pointers; the child is ours and not waited for yet, so the number is its own.
        unsafe { libc::kill(pid, libc::SIGTERM) };
    }
}

/// Runs a program to its good end; gives its time and CPU.
pub(super) fn timed(spot: &Spot, mut command: Command) -> anyhow::Result<(f64, Usage)> {
    let program = command.get_program().to_owned();
    command.stdin(Stdio::null());
    let begun = Instant::now();
    let child = spot
        .spawn(command)
        .with_context(|| format!("cannot start {}", program.display()))?;
    let usage = measure::wait(child)?;
    let wall_s = begun.elapsed().as_secs_f64();
    ensure!(
        usage.status.success(),
        "{} ended with {}",
        program.display(),
        usage.status
    );
    Ok((wall_s, usage))
}

/// A path as an argument.
pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str().context("a path that is no UTF-8")
}
