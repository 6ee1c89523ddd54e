//! `warren cluster`: questions to a director or worker about its cluster.

use std::path::Path;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::{Context, bail};
use serde::Serialize;
use warren_cluster::{ClusterState, DEFAULT_MAX_AGE};
use warren_daemon::files;
use warren_director::control::{ClusterReport, MemberReport, MemberState};
use warren_director::core::sizing::{SizingMetrics, recommend_sizing};

use super::{Asked, within};
use crate::args::{ClusterArgs, ClusterCommand, Global};
use crate::output::{Format, print_line, table};

pub(crate) async fn run(
    args: &ClusterArgs,
    global: &Global,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let ask = async || Asked::connect(global, args.rpc.as_deref()).await;
    match &args.command {
        ClusterCommand::Status => {
            let report = ask().await?.report().await?;
            format.print(&report, status_text)?;
        }
        ClusterCommand::Health => return health(&ask().await?.report().await?, format),
        ClusterCommand::CheckWorker { worker } => {
            return check_worker(&ask().await?.report().await?, worker, format);
        }
        ClusterCommand::Backup { out } => backup(&ask().await?, out, format).await?,
        ClusterCommand::Restore { file, apply: false } => {
            format.print(&Backup::of(&read(file)?), Backup::text)?;
        }
        ClusterCommand::Restore { file, apply: true } => {
            restore(&ask().await?, file, format).await?;
        }
        ClusterCommand::Leave => {
            ask().await?.cluster().leave(within(), ()).await?;
            let left = serde_json::json!({ "leaving": true });
            format.print(&left, |_| {
                "the node drains, says good-bye and stops".to_owned()
            })?;
        }
        ClusterCommand::Sizing {
            avg_cpu,
            avg_memory,
            p99_cpu,
        } => {
            let metrics = SizingMetrics {
                avg_cpu_usage: *avg_cpu,
                avg_memory_usage: *avg_memory,
                p99_cpu_usage: *p99_cpu,
            };
            let advice = recommend_sizing(&metrics).name();
            let advised = serde_json::json!({ "recommendation": advice });
            format.print(&advised, |_| advice.to_owned())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn status_text(report: &ClusterReport) -> String {
    let rows: Vec<Vec<String>> = report.members.iter().map(row).collect();
    let headings = [
        "member", "state", "roles", "ready", "region", "zone", "calls", "gossip", "peer",
    ];
    format!(
        "{} members, {} of {} workers take calls\n\n{}",
        report.node_count,
        report.healthy_workers,
        report.worker_count,
        table(&headings, &rows)
    )
}

fn row(member: &MemberReport) -> Vec<String> {
    let roles: Vec<String> = member
        .roles
        .iter()
        .map(|role| match role.proven {
            true => role.name.clone(),
            false => format!("{} (not proven)", role.name),
        })
        .collect();
    let title = match member.is_self {
        true => format!("{} *", member.title()),
        false => member.title().to_owned(),
    };
    let ready = if member.ready { "yes" } else { "no" };
    vec![
        title,
        member.state.name().to_owned(),
        roles.join(", "),
        ready.to_owned(),
        member.region.clone().unwrap_or_default(),
        member.zone.clone().unwrap_or_default(),
        member.rpc_address.clone().unwrap_or_default(),
        member.gossip_address.clone(),
        member.peer_id.clone(),
    ]
}

#[derive(Serialize)]
struct Health<'a> {
    status: &'static str,
    complaints: Vec<String>,
    #[serde(flatten)]
    report: &'a ClusterReport,
}

/// Exit code 1 where something is not as it should be.
fn health(report: &ClusterReport, format: Format) -> anyhow::Result<ExitCode> {
    let complaints = report.complaints();
    let is_whole = complaints.is_empty();
    let health = Health {
        status: if is_whole { "healthy" } else { "degraded" },
        complaints,
        report,
    };
    format.print(&health, |health| {
        let complaints: String = health
            .complaints
            .iter()
            .map(|complaint| format!("{complaint}\n"))
            .collect();
        format!("{}\n{complaints}\n{}", health.status, status_text(report))
    })?;
    Ok(code(is_whole))
}

fn check_worker(report: &ClusterReport, called: &str, format: Format) -> anyhow::Result<ExitCode> {
    let worker = report.worker(called);
    let is_there = worker.is_some_and(|worker| worker.ready);
    let state = match worker {
        Some(worker) if worker.ready => "takes calls",
        Some(_) => "is registered and takes no calls",
        None => "is not registered",
    };
    let checked =
        serde_json::json!({ "worker": called, "registered": worker.is_some(), "ready": is_there });
    format.print(&checked, |_| format!("{called} {state}"))?;
    Ok(code(is_there))
}

fn code(is_good: bool) -> ExitCode {
    if is_good {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// What a backup holds.
#[derive(Serialize)]
struct Backup {
    file: Option<String>,
    /// Live members in it, which a restore contacts.
    members: usize,
    /// Members in it that had gone.
    dropped: usize,
}

impl Backup {
    fn of(state: &ClusterState) -> Self {
        let members = seeds(state);
        Self {
            file: None,
            members,
            dropped: state.nodes.len() - members,
        }
    }

    fn text(&self) -> String {
        format!(
            "{} members to contact, {} that had gone are left out; --apply contacts them",
            self.members, self.dropped
        )
    }
}

/// How many members a restore would contact.
fn seeds(state: &ClusterState) -> usize {
    state.seeds(SystemTime::now(), DEFAULT_MAX_AGE).len()
}

async fn backup(asked: &Asked, out: &Path, format: Format) -> anyhow::Result<()> {
    let text = asked.cluster().backup(within(), ()).await?;
    if out == Path::new("-") {
        return Ok(print_line(&text)?);
    }
    let state: ClusterState = serde_json::from_str(&text)
        .context("the node's backup is not what this version expects")?;
    if let Some(folder) = out.parent().filter(|folder| !folder.as_os_str().is_empty()) {
        files::make_folder(folder)?;
    }
    state.write(out)?;
    let written = Backup {
        file: Some(out.display().to_string()),
        ..Backup::of(&state)
    };
    Ok(format.print(&written, |written| {
        format!(
            "{} has {} members to restore from",
            out.display(),
            written.members
        )
    })?)
}

fn read(file: &Path) -> anyhow::Result<ClusterState> {
    Ok(ClusterState::read(file)?)
}

async fn restore(asked: &Asked, file: &Path, format: Format) -> anyhow::Result<()> {
    // Read here first, so that a wrong file is told by its name.
    let state = read(file)?;
    if seeds(&state) == 0 {
        bail!(
            "{} has no member to contact: all had gone, or it is older than 30 days",
            file.display()
        );
    }
    let text = serde_json::to_string(&state)?;
    let restored = asked.cluster().restore(within(), text).await?;
    Ok(format.print(&restored, |restored| {
        format!("contacting {} members", restored.contacted)
    })?)
}

/// Whether a report has failed members only by their own fault: for `warren verify`.
pub(super) fn gone(report: &ClusterReport) -> impl Iterator<Item = &MemberReport> {
    report
        .members
        .iter()
        .filter(|member| matches!(member.state, MemberState::Suspect | MemberState::Failed))
}
