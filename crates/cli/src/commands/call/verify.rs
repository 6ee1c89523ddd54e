//! `warren verify`: eight points to look at in a running cluster after a deployment.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use warren_config::Settings;
use warren_director::control::{ClusterReport, MemberReport, MemberState};
use warren_director::health::{HealthServiceClient, HealthStatus};
use warren_identity::tls::ExpectedPeer;
use warren_rpc::Connection;

use super::checklist::{self, Point};
use super::{Asked, cluster, within};
use crate::args::{Global, VerifyArgs};
use crate::output::Format;

/// Calls to each director, whose 99th percentile is looked at.
const CALLS: usize = 100;
/// How long `/metrics` may take.
const SCRAPE_TIMEOUT: Duration = Duration::from_secs(5);

/// What one member answered.
struct Answered<'a> {
    member: &'a MemberReport,
    health: Result<HealthStatus, String>,
    /// Times of calls, ascending; none where it is no director or did not answer.
    latencies: Vec<Duration>,
}

pub(crate) async fn run(
    args: &VerifyArgs,
    global: &Global,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let asked = Asked::connect(global, args.rpc.as_deref()).await?;
    let report = asked.report().await?;
    let mut answers = Vec::new();
    for member in &report.members {
        if member.state == MemberState::Alive && member.rpc_address.is_some() {
            answers.push(ask(&asked, member).await);
        }
    }
    let settings = &asked.settings;
    let points = vec![
        Point::new("all nodes healthy", healthy(&report, &answers)),
        Point::new("dashboards", dashboards(settings).await),
        Point::new("failover", failover(&report)),
        Point::new("performance", performance(&answers, args.max_latency)),
        Point::new("logs", logs(settings)),
        Point::new(
            "rolling update",
            rolling_update(settings, &report, &answers),
        ),
        Point::new("backups", checklist::backup(&args.documents.backup)),
        Point::new(
            "documentation",
            checklist::documents(&args.documents.runbooks),
        ),
    ];
    checklist::print(points, format)
}

async fn ask<'a>(asked: &Asked, member: &'a MemberReport) -> Answered<'a> {
    let mut answered = Answered {
        member,
        health: Err("it says nowhere where it takes calls".to_owned()),
        latencies: Vec::new(),
    };
    let connection = match connect(asked, member).await {
        Ok(connection) => connection,
        Err(error) => {
            answered.health = Err(error);
            return answered;
        }
    };
    let service = HealthServiceClient::new(connection);
    answered.health = service
        .health(within(), ())
        .await
        .map_err(|error| error.to_string());
    if answered.health.is_ok() && member.has_role("director") {
        for _ in 0..CALLS {
            let begun = Instant::now();
            if service.ready(within(), ()).await.is_err() {
                answered.latencies.clear();
                return answered;
            }
            answered.latencies.push(begun.elapsed());
        }
        answered.latencies.sort_unstable();
    }
    answered
}

async fn connect(asked: &Asked, member: &MemberReport) -> Result<Connection, String> {
    let address = member.rpc_address.as_deref().unwrap_or_default();
    let address = address
        .parse()
        .map_err(|_| format!("{address:?} is no address"))?;
    let peer = member
        .peer_id
        .parse()
        .map_err(|_| format!("{:?} is no peer id", member.peer_id))?;
    asked
        .client
        .connect(address, ExpectedPeer::Peer(peer))
        .await
        .map_err(|error| error.to_string())
}

fn healthy(report: &ClusterReport, answers: &[Answered<'_>]) -> Result<String, String> {
    let gone = cluster::gone(report)
        .map(|member| format!("{} is {}", member.title(), member.state.name()));
    let ill = answers.iter().filter_map(|answered| {
        let who = answered.member.title();
        match &answered.health {
            Ok(health) if health.healthy => None,
            Ok(_) => Some(format!("{who} is not well")),
            Err(error) => Some(format!("{who} does not answer: {error}")),
        }
    });
    let complaints: Vec<String> = gone.chain(ill).collect();
    match complaints.is_empty() {
        true => Ok(format!("{} members", report.node_count)),
        false => Err(complaints.join("; ")),
    }
}

/// What dashboards are drawn from: this node's metrics.
async fn dashboards(settings: &Settings) -> Result<String, String> {
    let Some(mut address) = settings.monitoring.listen_address else {
        return Err("nothing can scrape this node: set monitoring.listen_address".to_owned());
    };
    if address.ip().is_unspecified() {
        address.set_ip(std::net::Ipv4Addr::LOCALHOST.into());
    }
    let url = format!("http://{address}/metrics");
    let http = reqwest::Client::builder()
        .no_proxy()
        .tls_certs_only([])
        .timeout(SCRAPE_TIMEOUT)
        .build()
        .map_err(|error| error.to_string())?;
    let response = http.get(&url).send().await;
    let text = match response.and_then(reqwest::Response::error_for_status) {
        Ok(response) => response.text().await.map_err(|error| error.to_string())?,
        Err(error) => return Err(format!("{url} does not answer: {error}")),
    };
    let count = text
        .lines()
        .filter(|line| line.starts_with("# TYPE warren_"))
        .count();
    match count {
        0 => Err(format!("{url} has no metrics of this node")),
        count => Ok(format!("{count} metrics at {url}")),
    }
}

/// Whether any one machine can go.
fn failover(report: &ClusterReport) -> Result<String, String> {
    let alive = |role: &str| {
        report
            .members
            .iter()
            .filter(|member| {
                member.state == MemberState::Alive && member.ready && member.has_role(role)
            })
            .count()
    };
    let (directors, workers) = (alive("director"), alive("worker"));
    match directors >= 2 && workers >= 2 {
        true => Ok(format!("{directors} directors, {workers} workers")),
        false => Err(format!(
            "{directors} directors and {workers} workers take calls: with fewer than two of each, the loss of one machine is an outage"
        )),
    }
}

fn performance(answers: &[Answered<'_>], limit: Duration) -> Result<String, String> {
    let percentile = |answered: &Answered<'_>| {
        let index = (answered.latencies.len() * 99).div_ceil(100).max(1) - 1;
        let latency = answered.latencies.get(index).copied()?;
        Some((latency, answered.member.title().to_owned()))
    };
    let slowest = answers.iter().filter_map(percentile).max();
    match slowest {
        None => Err("no director answered".to_owned()),
        Some((latency, who)) if latency > limit => Err(format!(
            "{who} answers in {latency:?} at the 99th percentile, more than {limit:?}"
        )),
        Some((latency, who)) => Ok(format!(
            "{latency:?} at the 99th percentile of the slowest director, {who}"
        )),
    }
}

fn logs(settings: &Settings) -> Result<String, String> {
    let Some(file) = &settings.logging.file else {
        return Ok("on standard error, which the service manager keeps".to_owned());
    };
    match std::fs::metadata(file) {
        Ok(found) if found.len() > 0 => Ok(file.display().to_string()),
        Ok(_) => Err(format!("{} is empty", file.display())),
        Err(error) => Err(format!("{} cannot be read: {error}", file.display())),
    }
}

/// Whether an update has come to its end: one version everywhere, and a stop that leaves before it is killed.
fn rolling_update(
    settings: &Settings,
    report: &ClusterReport,
    answers: &[Answered<'_>],
) -> Result<String, String> {
    let versions: BTreeSet<&str> = answers
        .iter()
        .filter_map(|answered| answered.health.as_ref().ok())
        .map(|health| health.version.as_str())
        .collect();
    let failed: Vec<&str> = report
        .members
        .iter()
        .filter(|member| member.state == MemberState::Failed)
        .map(MemberReport::title)
        .collect();
    let versions: Vec<&str> = versions.into_iter().collect();
    match (versions.as_slice(), failed.is_empty()) {
        ([version], true) => Ok(format!(
            "every member runs {version} and drains for up to {:?}",
            settings.rpc.drain_timeout
        )),
        (_, false) => Err(format!(
            "{} went without leaving: an update stops with SIGTERM and waits",
            failed.join(", ")
        )),
        _ => Err(format!(
            "members run different versions: {}",
            versions.join(", ")
        )),
    }
}
