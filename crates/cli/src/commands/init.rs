//! `warren init`: all that a first node needs, in one folder.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, bail};
use serde::Serialize;
use warren_config::{Role, Template};
use warren_daemon::ca_folder::{CA_CERT, CRL, CaFolder, NewCa};
use warren_daemon::files::{self, Overwrite};
use warren_daemon::{key_file, random};
use warren_identity::{
    CA_VALIDITY, Capabilities, LeafRequest, NodeKey, OrganizationId, WildcardNames,
};

use crate::args::InitArgs;
use crate::output::Format;

/// Name of the configuration in its folder.
pub(super) const CONFIG: &str = "warren.yaml";
/// Name of the node key in the folder.
pub(super) const KEY: &str = "node.pem";
/// Name of the node's certificate in the folder.
pub(super) const CERT: &str = "node_cert.pem";
const CA: &str = "ca";
/// What the first node may do: keep documents, help others find and reach each other, and be administered.
const FIRST_NODE: [&str; 4] = ["storage", "discovery", "relay", "admin"];
const FIRST_ROLES: [Role; 4] = [Role::Storage, Role::Discovery, Role::Relay, Role::Issuer];
const LEAF_VALIDITY: Duration = Duration::from_secs(365 * 86_400);

#[derive(Serialize)]
struct Made {
    peer_id: String,
    config: String,
}

pub(crate) fn run(args: &InitArgs, format: Format) -> anyhow::Result<()> {
    let organization = OrganizationId::new(&args.org)?;
    let name = args.name.clone().unwrap_or_else(machine_name);
    warren_config::check_node_id(&name)?;
    let dir = &args.dir;
    refuse_a_second(dir, &[CONFIG, KEY, CERT])?;
    let passphrase_file = absolute(args.passphrase_file.as_deref())?;
    let ca = CaFolder::create(
        &dir.join(CA),
        &NewCa {
            organization,
            validity: CA_VALIDITY,
            passphrase_file: passphrase_file.as_deref(),
        },
    )?;
    let key = NodeKey::from_seed(random::bytes());
    let leaf = ca.issue(&LeafRequest {
        peer_id: key.peer_id(),
        name: name.clone(),
        dns: Vec::new(),
        ip: Vec::new(),
        capabilities: Capabilities::parse(FIRST_NODE)?,
        validity: LEAF_VALIDITY,
        companion_key: Some(key.companion_key().public_key().to_vec()),
        wildcards: WildcardNames::Refuse,
    })?;
    ca.sign_list()?;
    key_file::write(
        &dir.join(KEY),
        &key.to_pem(),
        0o600,
        Overwrite::Refuse,
        passphrase_file.as_deref(),
    )?;
    files::write_whole(
        &dir.join(CERT),
        leaf.to_pem().as_bytes(),
        0o644,
        Overwrite::Refuse,
    )?;
    let storage =
        std::path::absolute(&args.storage).context("the storage folder has no absolute path")?;
    let config = Template {
        node_id: &name,
        organization_id: &args.org,
        region: None,
        peer_key: Path::new(KEY),
        tls_cert: Path::new(CERT),
        ca_cert: &Path::new(CA).join(CA_CERT),
        crl: Some(&Path::new(CA).join(CRL)),
        roles: &FIRST_ROLES,
        passphrase_file: passphrase_file.as_deref(),
        issuer_dir: Some(Path::new(CA)),
        discovery_servers: &[],
        storage_path: &storage,
    };
    let path = dir.join(CONFIG);
    files::write_whole(&path, config.render().as_bytes(), 0o644, Overwrite::Refuse)?;
    let made = Made {
        peer_id: key.peer_id().to_string(),
        config: path.display().to_string(),
    };
    Ok(format.print(&made, |made| {
        format!(
            "{}\npeer id {}\nnext: warren start --config {}",
            made.config, made.peer_id, made.config
        )
    })?)
}

/// The configuration names the file wherever the command was run.
pub(super) fn absolute(passphrase_file: Option<&Path>) -> anyhow::Result<Option<PathBuf>> {
    passphrase_file
        .map(std::path::absolute)
        .transpose()
        .context("the passphrase file has no absolute path")
}

/// Nothing is written where one of the files is there already.
pub(super) fn refuse_a_second(dir: &Path, names: &[&str]) -> anyhow::Result<()> {
    let there = names
        .iter()
        .map(|name| dir.join(name))
        .find(|path| path.exists());
    if let Some(path) = there {
        bail!(
            "{} exists: a node is set up in this folder already; name another with --dir, or move its files away",
            path.display()
        );
    }
    Ok(())
}

/// What the machine is called, as far as a node may be called so.
fn machine_name() -> String {
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    match warren_config::check_node_id(&host) {
        Ok(()) => host,
        Err(_) => "node-1".to_owned(),
    }
}
