//! A side of a measurement in a process of its own: this binary again, in a role, driven over its standard input and
//! output, one JSON line each way.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use anyhow::{Context, bail, ensure};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::measure;
use crate::place::Spot;

/// A role that takes longer than this is killed by its own alarm.
const ROLE_TIMEOUT_S: u32 = 1200;

/// What a server says once it can be used.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Ready {
    /// Where it listens, in a form that the other side of its kind takes.
    pub(crate) address: String,
}

/// What a side says at its end.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(crate) struct Report {
    /// Of the measured section.
    pub(crate) wall_s: f64,
    /// Of the measured section.
    pub(crate) cpu_s: f64,
    /// Of the whole process, at the end of the measured section.
    pub(crate) peak_mib: f64,
    /// Content that went through.
    pub(crate) bytes: u64,
    /// What came out: a BLAKE3 in hex, or a document id.
    pub(crate) result: String,
}

impl Report {
    /// Decimal megabytes per second of the measured section.
    pub(crate) fn megabytes_per_s(&self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let bytes = self.bytes as f64;
        bytes / 1e6 / self.wall_s
    }

    /// Fails unless what came out is what went in.
    pub(crate) fn verify(&self, bytes: u64, result: &str) -> anyhow::Result<()> {
        ensure!(
            self.bytes == bytes,
            "{} bytes came out where {bytes} went in",
            self.bytes
        );
        ensure!(
            self.result == result,
            "{} came out where {result} went in",
            self.result
        );
        Ok(())
    }
}

/// A running role. Killed when dropped.
pub(crate) struct Running {
    name: String,
    /// `None` once it is waited for: its number may be another's then.
    child: Option<Child>,
    input: Option<ChildStdin>,
    output: BufReader<ChildStdout>,
}

impl Running {
    /// Starts this binary in a role at `spot`.
    pub(crate) fn start(spot: &Spot, role: &[&str]) -> anyhow::Result<Self> {
        let name = role.first().copied().unwrap_or_default().to_owned();
        let mut command = Command::new(std::env::current_exe()?);
        command
            .arg("role")
            .args(role)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut child = spot
            .spawn(command)
            .with_context(|| format!("cannot start {name}"))?;
        let input = child.stdin.take();
        let output = child
            .stdout
            .take()
            .context("a child without standard output")?;
        Ok(Self {
            name,
            child: Some(child),
            input,
            output: BufReader::new(output),
        })
    }

    /// Runs a role that ends by itself.
    pub(crate) fn complete(spot: &Spot, role: &[&str]) -> anyhow::Result<Report> {
        Self::start(spot, role)?.finish()
    }

    /// Waits until a server can be used.
    pub(crate) fn ready(&mut self) -> anyhow::Result<Ready> {
        self.line()
    }

    /// Tells a role to go on; see [`until_told`].
    pub(crate) fn tell(&mut self) -> anyhow::Result<()> {
        let input = self.input.as_mut().context("already told to end")?;
        Ok(input.write_all(b"\n")?)
    }

    /// Tells a role, if it waits to be told, that nothing more will be; waits for its report and its end.
    pub(crate) fn finish<T: DeserializeOwned>(mut self) -> anyhow::Result<T> {
        self.input = None;
        let report = self.line()?;
        if let Some(child) = self.child.take() {
            let usage = measure::wait(child)?;
            ensure!(
                usage.status.success(),
                "{} ended with {}",
                self.name,
                usage.status
            );
        }
        Ok(report)
    }

    fn line<T: DeserializeOwned>(&mut self) -> anyhow::Result<T> {
        loop {
            let mut line = String::new();
            self.output.read_line(&mut line)?;
            if line.is_empty() {
                bail!("{} failed; what it said is above", self.name);
            }
            // A library may print for its own pleasure.
            if line.starts_with('{') {
                return Ok(serde_json::from_str(&line)?);
            }
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // Something failed already; how this one ends does not matter.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// In a role: ends the process when it takes too long.
pub(crate) fn set_alarm() {
    // SAFETY: no pointers; the signal's default action ends the process.
    unsafe { libc::alarm(ROLE_TIMEOUT_S) };
}

/// In a role: says one line.
pub(crate) fn say(message: &impl Serialize) -> anyhow::Result<()> {
    let mut line = serde_json::to_string(message)?;
    line.push('\n');
    let mut output = std::io::stdout().lock();
    output.write_all(line.as_bytes())?;
    Ok(output.flush()?)
}

/// In a role: returns when it is told to go on ([`Running::tell`]) or to end ([`Running::finish`]), or whoever could tell
/// it is gone.
pub(crate) async fn until_told() -> anyhow::Result<()> {
    tokio::task::spawn_blocking(|| std::io::stdin().read_line(&mut String::new())).await??;
    Ok(())
}
