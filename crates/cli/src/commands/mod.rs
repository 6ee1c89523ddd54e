//! One module per group of commands, and what they share: finding the configuration and the node's API.

mod ca;
mod call;
mod config;
mod dev;
mod documents;
mod folder;
mod init;
mod join;
mod key;
mod net;
mod start;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::CommandFactory;
use warren_config::{Loaded, Settings};
use warren_daemon::settings::{Sources, Variables};
use warren_daemon::{material, random};
use warren_identity::{NodeKey, OrganizationId, Trust};

use crate::args::{
    CaCommand, CertCommand, Cli, Command, ConfigCommand, DEFAULT_CONFIG, Global, StoreCommand,
};
use crate::client::{ApiAddress, ApiClient, KnownServer};
use crate::output::{Format, print_line};

/// Runs one command. The exit code is 1 where a command worked and its answer is "no".
pub(crate) fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    let global = cli.global;
    let format = Format::from_flag(global.json);
    match cli.command {
        Command::Keygen(args) => key::keygen(&args, format)?,
        Command::Peerid {
            key,
            passphrase_file,
        } => key::peer_id(&key, passphrase_file.as_deref(), format)?,
        Command::Cert(CertCommand::Show { file }) => key::show_certificate(&file, format)?,
        Command::Ca(CaCommand::Token(args)) => {
            return asking(&global, async |client| {
                ca::token(client, &args, format).await
            });
        }
        Command::Ca(command) => ca::run(command, &global, format)?,
        Command::Init(args) => init::run(&args, format)?,
        Command::Join(args) => return block_on(join::run(&args, &global, format)),
        Command::Check => return config::check(&global, format),
        Command::Config(ConfigCommand::Show) => config::show(&global, format)?,
        Command::Config(ConfigCommand::Schema) => config::schema()?,
        Command::Dev(args) => return block_on(dev::run(&args, format)),
        Command::Start(args) => {
            // Says what to do where there is no file at all.
            load_config(&global)?;
            return start::run(&args, sources(&global, Variables::Own), format);
        }
        Command::Director(args) => return call::run(&args, Variables::Director, &global, format),
        Command::Worker(args) => return call::run(&args, Variables::Worker, &global, format),
        Command::Cluster(args) => return block_on(call::cluster(&args, &global, format)),
        Command::Preflight(args) => return call::preflight(&args, &global, format),
        Command::Verify(args) => return block_on(call::verify(&args, &global, format)),
        Command::Version => version(format)?,
        Command::Completions { shell } => {
            // The generator panics where its output ends early, as in `warren completions bash | head`.
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Cli::command(), "warren", &mut script);
            print_line(&String::from_utf8_lossy(&script))?;
        }
        Command::Man { out } => {
            std::fs::create_dir_all(&out)
                .and_then(|()| clap_mangen::generate_to(Cli::command(), &out))
                .with_context(|| format!("cannot write manual pages to {}", out.display()))?;
        }
        online => return asking(&global, async |client| ask(client, online, format).await),
    }
    Ok(ExitCode::SUCCESS)
}

async fn ask(client: &ApiClient, command: Command, format: Format) -> anyhow::Result<ExitCode> {
    match command {
        Command::Status => net::status(client, format).await?,
        Command::Peers(args) => net::peers(client, &args, format).await?,
        Command::Connect { multiaddr } => net::connect(client, &multiaddr, format).await?,
        Command::NatCheck => net::nat_check(client, format).await?,
        Command::Dht => net::dht(client, format).await?,
        Command::Cert(CertCommand::Renew) => net::renew(client, format).await?,
        Command::Reload => return net::reload(client, format).await,
        Command::Health(args) => return net::health(client, args.endpoint, format).await,
        Command::Put(args) => documents::put(client, &args, format).await?,
        Command::Get(args) => documents::get(client, &args).await?,
        Command::Ls(args) => documents::list(client, &args, format).await?,
        Command::Stat { id } => documents::stat(client, id, format).await?,
        Command::Rm { id } => documents::remove(client, id).await?,
        Command::Store(StoreCommand::Verify) => documents::verify(client, format).await?,
        Command::Store(StoreCommand::Gc) => documents::collect_garbage(client, format).await?,
        offline => bail!("{offline:?} asks no node"),
    }
    Ok(ExitCode::SUCCESS)
}

fn asking(
    global: &Global,
    question: impl AsyncFnOnce(&ApiClient) -> anyhow::Result<ExitCode>,
) -> anyhow::Result<ExitCode> {
    let client = api_client(global)?;
    block_on(question(&client))
}

fn block_on<T>(future: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    runtime.block_on(future)
}

/// The API that `--api` names, else the one of the configured node.
fn api_client(global: &Global) -> anyhow::Result<ApiClient> {
    if let Some(base) = &global.api {
        let settings = match global.config.is_empty() {
            true => None,
            false => Some(load_config(global)?.settings),
        };
        let configured = settings.as_ref().map(|settings| &settings.api.token_file);
        let token_file = global
            .token_file
            .as_ref()
            .or(configured)
            .context("--api says where the node is, and what opens it is missing: add --token-file FILE, or --config FILE of that node")?;
        let https = settings.as_ref().filter(|_| base.starts_with("https://"));
        return ApiClient::new(ApiAddress {
            base: base.clone(),
            token_file: token_file.clone(),
            server: https.map(known_server).transpose()?,
        });
    }
    let settings = load_config(global)?.settings;
    let mut address = settings.api.listen_address;
    if address.ip().is_unspecified() {
        address.set_ip(if address.is_ipv4() {
            std::net::Ipv4Addr::LOCALHOST.into()
        } else {
            std::net::Ipv6Addr::LOCALHOST.into()
        });
    }
    if address.port() == 0 {
        bail!(
            "api.listen_address has port 0: the node chose a port when it started; name it with --api URL --token-file FILE"
        );
    }
    let (scheme, server) = match settings.api.tls.is_some() {
        true => ("https", Some(known_server(&settings)?)),
        false => ("http", None),
    };
    ApiClient::new(ApiAddress {
        base: format!("{scheme}://{address}"),
        token_file: global.token_file.clone().unwrap_or(settings.api.token_file),
        server,
    })
}

/// How the HTTPS of the configured node is known: by the CAs it trusts, and by its own peer id. So its certificate need
/// not name the address that it is asked at.
fn known_server(settings: &Settings) -> anyhow::Result<KnownServer> {
    let security = &settings.network.security;
    // The configuration may have been brought to another machine without the certificate, which may be no node's.
    let leaf = material::leaf(&security.tls_cert).ok();
    let organization = match (&settings.network.organization_id, &leaf) {
        (Some(id), _) => OrganizationId::new(id.clone())?,
        (None, Some(leaf)) => leaf.organization().clone(),
        (None, None) => bail!(
            "neither network.organization_id nor a certificate in {} says which organisation the node is of",
            security.tls_cert.display()
        ),
    };
    let roots = material::roots(&security.ca_cert, organization)?;
    // Trust wants a key; this one is nobody's, and is shown to nobody.
    let trust = Trust::new(NodeKey::from_seed(random::bytes()), roots);
    Ok(KnownServer {
        trust,
        node: leaf.map(|leaf| leaf.peer_id()),
    })
}

/// The files that make up the configuration. A folder stands for its `default.yaml`, and after it the file of the
/// environment that `WARREN_ENV` or `ENV` names, where that is there: `production.yaml`.
fn config_files(global: &Global) -> Vec<PathBuf> {
    if global.config.is_empty() {
        return vec![PathBuf::from(DEFAULT_CONFIG)];
    }
    let mut files = Vec::new();
    for path in &global.config {
        if !path.is_dir() {
            files.push(path.clone());
            continue;
        }
        files.push(path.join("default.yaml"));
        let name = ["WARREN_ENV", "ENV"]
            .iter()
            .find_map(|name| std::env::var(name).ok().filter(|name| !name.is_empty()));
        // A name, not a way out of the folder.
        let layer = name
            .filter(|name| !name.contains(['/', '\\']))
            .map(|name| path.join(format!("{name}.yaml")));
        files.extend(layer.filter(|path| path.is_file()));
    }
    files
}

/// What the configuration is read from. Directors and workers need no file where the environment says all.
fn sources(global: &Global, variables: Variables) -> Sources {
    let mut files = config_files(global);
    if is_missing_default(&files) && (variables != Variables::Own || environment_says_all()) {
        files.clear();
    }
    Sources {
        files,
        variables,
        flags: Vec::new(),
    }
}

/// Whether keys are set in the environment: then no file is needed.
fn environment_says_all() -> bool {
    std::env::vars_os().any(|(name, value)| {
        let name = name.to_string_lossy();
        name.starts_with("WARREN_") && name.contains("__") && !value.is_empty()
    })
}

fn is_missing_default(files: &[PathBuf]) -> bool {
    matches!(files, [only] if only == Path::new(DEFAULT_CONFIG) && !only.exists())
}

/// Reads the configuration; every problem is in the error.
fn load_config(global: &Global) -> anyhow::Result<Loaded> {
    if is_missing_default(&config_files(global)) && !environment_says_all() {
        bail!(
            "there is no {DEFAULT_CONFIG}: name a file with --config, make one with `warren init`, or join with `warren join`"
        );
    }
    load_sources(&sources(global, Variables::Own))
}

fn load_sources(sources: &Sources) -> anyhow::Result<Loaded> {
    sources
        .load()
        .map_err(|problems| config::bad_configuration(&problems).into())
}

/// Refuses to go on where the file is there and `--force` was not given.
fn refuse_existing(path: &Path, force: bool) -> anyhow::Result<()> {
    if path.exists() && !force {
        bail!(
            "{} exists: choose another name, or pass --force",
            path.display()
        );
    }
    Ok(())
}

fn version(format: Format) -> anyhow::Result<()> {
    let version = serde_json::json!({ "version": env!("CARGO_PKG_VERSION") });
    match format {
        Format::Json => Ok(format.print(&version, |_| String::new())?),
        Format::Text => Ok(print_line(concat!("warren ", env!("CARGO_PKG_VERSION")))?),
    }
}
