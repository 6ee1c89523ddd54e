//! `director`, `worker`, `cluster`, `preflight`, `verify`.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

/// What a director or worker is told on the command line; it beats the environment, which beats the files.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct CallArgs {
    /// UDP address to take calls at (`rpc.bind_addr`)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) listen: Option<SocketAddr>,
    /// Address to gossip at (`cluster.bind_addr`)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) gossip: Option<SocketAddr>,
    /// Gossip address of a member to begin with (`cluster.seeds`); may be given again
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) seed: Vec<String>,
    /// Name of this member for people (`cluster.label`)
    #[arg(long)]
    pub(crate) label: Option<String>,
    /// Print what would be started, and exit
    #[arg(long)]
    pub(crate) dry_run: bool,
}

#[derive(Debug, Args)]
pub(crate) struct ClusterArgs {
    /// Director or worker to ask, instead of the one that the configuration names
    #[arg(long, value_name = "HOST:PORT", global = true)]
    pub(crate) rpc: Option<String>,
    #[command(subcommand)]
    pub(crate) command: ClusterCommand,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ClusterCommand {
    /// List the members and what is known of them
    Status,
    /// Say whether the cluster is whole; exit code 1 when it is degraded
    Health,
    /// Write who is a member, and where, to a file
    Backup {
        /// File to write; `-` is standard output
        #[arg(
            long,
            value_name = "FILE",
            default_value = "/backup/cluster_state.json"
        )]
        out: PathBuf,
    },
    /// Read a backup; with --apply, have the node contact the members in it
    Restore {
        /// File that `warren cluster backup` wrote
        file: PathBuf,
        /// Contact them
        #[arg(long)]
        apply: bool,
    },
    /// Exit with 0 if a worker takes calls, with 1 if not
    CheckWorker {
        /// Its label, name or peer id
        worker: String,
    },
    /// Have the node drain, say good-bye to the cluster and stop
    Leave,
    /// Advise on the number of workers from what their machines report
    Sizing {
        /// Average use of their processors, in percent
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        avg_cpu: f64,
        /// Average use of their memory, in percent
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        avg_memory: f64,
        /// 99th percentile of the use of their processors, in percent
        #[arg(long, value_name = "PERCENT", value_parser = percent)]
        p99_cpu: f64,
    },
}

#[derive(Debug, Args)]
pub(crate) struct PreflightArgs {
    /// Backup that a restore was tried with
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/backup/cluster_state.json"
    )]
    pub(crate) backup: PathBuf,
    /// File or folder with the runbooks
    #[arg(
        long,
        value_name = "PATH",
        default_value = "/usr/share/doc/warren/operations.md"
    )]
    pub(crate) runbooks: PathBuf,
}

#[derive(Debug, Args)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    pub(crate) documents: PreflightArgs,
    /// Director or worker to ask, instead of the one that the configuration names
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) rpc: Option<String>,
    /// The slowest 99th percentile of a director's answer that is good enough
    #[arg(long, value_name = "DURATION", default_value = "250ms", value_parser = latency)]
    pub(crate) max_latency: Duration,
}

fn percent(text: &str) -> Result<f64, String> {
    match text.trim_end_matches('%').parse() {
        Ok(value) if (0.0..=100.0).contains(&value) => Ok(value),
        _ => Err("a percentage is a number from 0 to 100".to_owned()),
    }
}

/// Milliseconds or seconds: below a second the configuration's durations say nothing.
fn latency(text: &str) -> Result<Duration, String> {
    let (number, to_seconds) = match (text.strip_suffix("ms"), text.strip_suffix('s')) {
        (Some(number), _) => (number, 0.001),
        (None, Some(number)) => (number, 1.0),
        (None, None) => return Err("write 250ms or 2s".to_owned()),
    };
    let seconds = number.parse::<f64>().ok().map(|value| value * to_seconds);
    seconds
        .and_then(|seconds| Duration::try_from_secs_f64(seconds).ok())
        .ok_or_else(|| "write 250ms or 2s".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_are_within_their_bounds() {
        assert_eq!(percent("12.5%"), Ok(12.5));
        for wrong in ["-1", "101", "many", "NaN"] {
            assert!(percent(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn latencies_have_a_unit() {
        assert_eq!(latency("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(latency("2s"), Ok(Duration::from_secs(2)));
        for wrong in ["250", "-1s", "soon"] {
            assert!(latency(wrong).is_err(), "{wrong}");
        }
    }
}
