//! `warren preflight`: ten points to look at before a node takes calls in production.

use std::process::ExitCode;
use std::time::Duration;

use rustix::process::{Resource, getrlimit};
use warren_config::{Inspection, LogFormat, Settings};
use warren_daemon::preflight::obstacles;
use warren_daemon::settings::Variables;
use warren_daemon::{files, material};
use warren_identity::{RENEW_BEFORE, UnixTime};

use super::checklist::{self, Point};
use crate::args::{Global, PreflightArgs};
use crate::output::Format;

/// Orchestrators wait 45 s after SIGTERM; leaving and closing take their share.
const LONGEST_DRAIN: Duration = Duration::from_secs(40);
/// Files that a node has open beside its connections.
const FILES_BESIDE_CONNECTIONS: u64 = 256;

pub(crate) fn run(
    args: &PreflightArgs,
    global: &Global,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let inspection = super::super::sources(global, Variables::Call).inspect();
    let settings = &inspection.sketch;
    let points = vec![
        Point::new("certificate of a trusted CA", certificate(&inspection)),
        Point::new("secrets are kept apart", secrets(settings)),
        Point::new("monitoring and alerts", monitoring(settings)),
        Point::new("log aggregation", logs(settings)),
        Point::new("health checks", health_checks(settings)),
        Point::new("graceful shutdown", shutdown(settings)),
        Point::new("limits", limits(settings)),
        Point::new("autoscaling", autoscaling(settings)),
        Point::new("backup tested", checklist::backup(&args.backup)),
        Point::new("runbooks", checklist::documents(&args.runbooks)),
    ];
    checklist::print(points, format)
}

/// The configuration and every file it names, as a start would take them, and not about to end.
fn certificate(inspection: &Inspection) -> Result<String, String> {
    let now = UnixTime::now();
    if let Err(problems) = &inspection.outcome {
        return Err(problems.to_string().replace('\n', "; "));
    }
    if let Some(first) = obstacles(inspection, now).first() {
        return Err(first.to_string());
    }
    let path = &inspection.sketch.network.security.tls_cert;
    let leaf = material::leaf(path).map_err(|error| error.to_string())?;
    let left = leaf
        .facts()
        .not_after
        .as_secs()
        .saturating_sub(now.as_secs());
    let days = left / 86_400;
    if left < RENEW_BEFORE.as_secs() {
        return Err(format!(
            "{} ends in {days} days: `warren cert renew`, or have the CA issue another",
            path.display()
        ));
    }
    Ok(format!("good for {days} days"))
}

/// Keys that only the node's user can read, and none of them in the configuration.
fn secrets(settings: &Settings) -> Result<String, String> {
    let key = &settings.network.libp2p.peer_key;
    files::read_secret("the node key", key, "make it 0600").map_err(|error| error.to_string())?;
    Ok(format!("{} is its user's alone", key.display()))
}

fn monitoring(settings: &Settings) -> Result<String, String> {
    match settings.monitoring.listen_address {
        Some(address) => Ok(format!("metrics at http://{address}/metrics")),
        None => Err(
            "nothing can scrape this node: set monitoring.listen_address, such as 0.0.0.0:9100"
                .to_owned(),
        ),
    }
}

fn logs(settings: &Settings) -> Result<String, String> {
    match (&settings.logging.file, settings.logging.format) {
        (_, LogFormat::Json) => Ok("JSON lines".to_owned()),
        (Some(file), LogFormat::Text) => Ok(format!("text in {}", file.display())),
        (None, LogFormat::Text) => Err(
            "lines for people on standard error: set logging.format: json, or logging.file"
                .to_owned(),
        ),
    }
}

fn health_checks(settings: &Settings) -> Result<String, String> {
    match settings.takes_calls() {
        true => Ok(format!(
            "`warren health --endpoint ready`, http://{}/ready, and warren.v1.HealthService at {}/udp",
            settings.api.listen_address, settings.rpc.bind_addr
        )),
        false => Err("this node takes no calls: roles has neither director nor worker".to_owned()),
    }
}

fn shutdown(settings: &Settings) -> Result<String, String> {
    let drain = settings.rpc.drain_timeout;
    if drain.is_zero() {
        return Err("rpc.drain_timeout is 0: a stop cuts every call".to_owned());
    }
    if drain > LONGEST_DRAIN {
        return Err(format!(
            "rpc.drain_timeout is {drain:?}: what stops the node waits 45 s as a rule, and kills it before it has left"
        ));
    }
    Ok(format!(
        "a stop waits up to {drain:?} for calls, then leaves"
    ))
}

/// The limits of calls that are configured, and that the system lets the node have the files for them.
fn limits(settings: &Settings) -> Result<String, String> {
    let wanted =
        FILES_BESIDE_CONNECTIONS + u64::from(settings.network.libp2p.limits.max_connections);
    let allowed = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    if allowed < wanted {
        return Err(format!(
            "the system allows {allowed} open files and the node may need {wanted}: raise `ulimit -n` or LimitNOFILE"
        ));
    }
    Ok(format!(
        "{} calls, {} connections, {} bytes a message, {allowed} files",
        settings.rpc.max_calls, settings.rpc.max_connections, settings.rpc.max_message_size
    ))
}

/// Whether machines can come and go without a change to this one: they find the cluster by a seed, and a scaler has its
/// figures.
fn autoscaling(settings: &Settings) -> Result<String, String> {
    if settings.cluster.seeds.is_empty() {
        return Err(
            "cluster.seeds is empty: name the directors, so that a machine that is added finds them"
                .to_owned(),
        );
    }
    if settings.monitoring.listen_address.is_none() {
        return Err("a scaler has no figures: set monitoring.listen_address".to_owned());
    }
    Ok("seeds and metrics are there; `warren cluster sizing` advises".to_owned())
}
