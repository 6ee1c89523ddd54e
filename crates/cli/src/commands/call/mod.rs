//! Directors, workers and their cluster: running them, asking them, checking them.

mod checklist;
mod cluster;
mod preflight;
mod verify;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use warren_config::{Flag, Settings};
use warren_daemon::material;
use warren_daemon::settings::{Sources, Variables};
use warren_director::control::{ClusterReport, ClusterServiceClient};
use warren_identity::tls::ExpectedPeer;
use warren_identity::{Trust, UnixTime};
use warren_rpc::{Client, ClientOptions, Connection, Context};

pub(crate) use self::cluster::run as cluster;
pub(crate) use self::preflight::run as preflight;
pub(crate) use self::verify::run as verify;
use crate::args::{CallArgs, Global, StartArgs};
use crate::output::{Failure, Format};

/// How long one answer of a node may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// `warren director` and `warren worker`.
pub(crate) fn run(
    args: &CallArgs,
    variables: Variables,
    global: &Global,
    format: Format,
) -> anyhow::Result<ExitCode> {
    let sources = Sources {
        flags: flags(args),
        ..super::sources(global, variables)
    };
    let start = StartArgs {
        dry_run: args.dry_run,
    };
    super::start::run(&start, sources, format)
}

fn flags(args: &CallArgs) -> Vec<Flag> {
    let flag = |name: &str, path: &str, value: Option<String>| {
        value.map(|value| Flag {
            name: name.to_owned(),
            path: path.to_owned(),
            value,
        })
    };
    let address = |address: Option<SocketAddr>| address.map(|address| address.to_string());
    let seeds = (!args.seed.is_empty()).then(|| args.seed.join(","));
    [
        flag("--listen", "rpc.bind_addr", address(args.listen)),
        flag("--gossip", "cluster.bind_addr", address(args.gossip)),
        flag("--seed", "cluster.seeds", seeds),
        flag("--label", "cluster.label", args.label.clone()),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// A director or worker that answers, and what this machine calls it with.
struct Asked {
    settings: Settings,
    client: Client,
    connection: Connection,
}

impl Asked {
    /// The node at `rpc`, else this machine's own; with this machine's certificate.
    async fn connect(global: &Global, rpc: Option<&str>) -> anyhow::Result<Self> {
        let settings = super::load_sources(&super::sources(global, Variables::Call))?.settings;
        let trust = material::load_identity(&settings, UnixTime::now())?;
        let (address, expected) = match rpc {
            Some(named) => (resolve(named).await?, ExpectedPeer::AnyMember),
            None => (
                own_address(&settings)?,
                ExpectedPeer::Peer(Trust::peer_id(&trust)),
            ),
        };
        let client = Client::new(trust, ClientOptions::default())?;
        let connection = client.connect(address, expected).await.map_err(|error| {
            let message = format!(
                "no director or worker answers at {address}/udp: start it with `warren director` or `warren worker`, or name another with --rpc ({error})"
            );
            Failure::new("no_node", message)
        })?;
        Ok(Self {
            settings,
            client,
            connection,
        })
    }

    fn cluster(&self) -> ClusterServiceClient<Connection> {
        ClusterServiceClient::new(self.connection.clone())
    }

    async fn report(&self) -> anyhow::Result<ClusterReport> {
        Ok(self.cluster().status(within(), ()).await?)
    }
}

fn within() -> Context {
    Context::deadline(ANSWER_TIMEOUT)
}

async fn resolve(named: &str) -> anyhow::Result<SocketAddr> {
    let found = tokio::net::lookup_host(named)
        .await
        .with_context(|| format!("cannot find {named}: write HOST:PORT"))?
        .next();
    found.ok_or_else(|| anyhow!("{named} has no address"))
}

/// Where this machine's own node takes calls.
fn own_address(settings: &Settings) -> anyhow::Result<SocketAddr> {
    let mut address = settings.rpc.bind_addr;
    if address.ip().is_unspecified() {
        address.set_ip(match address {
            SocketAddr::V4(_) => std::net::Ipv4Addr::LOCALHOST.into(),
            SocketAddr::V6(_) => std::net::Ipv6Addr::LOCALHOST.into(),
        });
    }
    if address.port() == 0 {
        return Err(anyhow!(
            "rpc.bind_addr has port 0: the node chose a port when it started; name it with --rpc"
        ));
    }
    Ok(address)
}
