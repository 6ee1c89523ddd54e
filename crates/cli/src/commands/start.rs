//! `warren start`: one node in the foreground until SIGINT or SIGTERM.

use std::process::ExitCode;

use anyhow::Context;
use serde::Serialize;
use tokio::signal::unix::{Signal, SignalKind, signal};
use warren_config::{LogFormat, Logging};
use warren_daemon::node::{Node, Start};
use warren_daemon::settings::Sources;
use warren_telemetry::logging::{self, FileSettings, LogSettings};

use crate::args::StartArgs;
use crate::output::Format;

/// What `--dry-run` tells.
#[derive(Serialize)]
struct Planned {
    node_id: String,
    roles: Vec<&'static str>,
}

pub(crate) fn run(args: &StartArgs, sources: Sources, format: Format) -> anyhow::Result<ExitCode> {
    let loaded = super::load_sources(&sources)?;
    if args.dry_run {
        let settings = &loaded.settings;
        let planned = Planned {
            node_id: settings.network.node_id.clone(),
            roles: settings.roles.iter().map(|role| role.as_str()).collect(),
        };
        format.print(&planned, |planned| {
            format!(
                "would start {} with roles {}",
                planned.node_id,
                planned.roles.join(", ")
            )
        })?;
        return Ok(ExitCode::SUCCESS);
    }
    let log =
        logging::init(&log_settings(&loaded.settings.logging)).context("cannot set up logging")?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let start = Start {
        loaded,
        sources,
        log: Some(log),
    };
    super::block_on(serve(start))?;
    Ok(ExitCode::SUCCESS)
}

async fn serve(start: Start) -> anyhow::Result<()> {
    // Watched from the beginning, so that a stop during the start is not lost.
    let mut interrupt = watch(SignalKind::interrupt())?;
    let mut terminate = watch(SignalKind::terminate())?;
    let mut hangup = watch(SignalKind::hangup())?;
    let node = tokio::select! {
        node = Node::start(start) => node?,
        _ = interrupt.recv() => return Ok(()),
        _ = terminate.recv() => return Ok(()),
    };
    let addresses = node.addresses();
    tracing::info!(peer_id = %node.peer_id(), api = %addresses.api, "the node is up");
    for (what, address) in [
        ("bulk transfers", addresses.transfer),
        ("the discovery server", addresses.discovery),
        ("monitoring", addresses.monitoring),
        ("calls", addresses.calls),
        ("the cluster's gossip", addresses.gossip),
    ] {
        if let Some(address) = address {
            tracing::info!("listening on {address} for {what}");
        }
    }
    loop {
        tokio::select! {
            _ = interrupt.recv() => break,
            _ = terminate.recv() => break,
            () = node.told_to_stop() => break,
            _ = hangup.recv() => node.reload().await,
        }
    }
    tracing::info!("stopping");
    node.shutdown().await;
    tracing::info!("stopped");
    Ok(())
}

fn watch(kind: SignalKind) -> anyhow::Result<Signal> {
    signal(kind).context("cannot watch for signals")
}

fn log_settings(logging: &Logging) -> LogSettings {
    LogSettings {
        level: logging.level.clone(),
        format: match logging.format {
            LogFormat::Text => logging::Format::Text,
            LogFormat::Json => logging::Format::Json,
        },
        file: logging.file.clone().map(|path| FileSettings {
            path,
            max_size: logging.max_size,
            max_files: logging.max_files,
        }),
        repeat_window: logging.repeat_window,
    }
}
