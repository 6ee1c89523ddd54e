//! `warren join`: a new machine trades a one-time token for a certificate and writes all that a node needs.

use std::path::{Path, PathBuf};

use anyhow::Context;
use serde::Serialize;
use warren_config::{Role, Template};
use warren_daemon::files::{self, Overwrite};
use warren_daemon::{key_file, material, random};
use warren_discovery::client::{Joined, TimeOuts, join};
use warren_identity::NodeKey;
use warren_identity::join::JoinToken;
use zeroize::Zeroizing;

use super::init::{CERT, CONFIG, KEY, absolute, refuse_a_second};
use crate::args::{Global, JoinArgs};
use crate::output::Format;

const CA_CERT: &str = "ca_cert.pem";

#[derive(Serialize)]
struct Shown {
    organization: String,
    peer_id: String,
    config: String,
    /// What the certificate allows the node to do.
    roles: Vec<&'static str>,
}

pub(crate) async fn run(
    args: &JoinArgs,
    global: &Global,
    format: Format,
) -> anyhow::Result<std::process::ExitCode> {
    let token_file = global.token_file.as_deref().context(
        "a join needs its one-time token: pass --token-file FILE, the file that `warren ca token --out FILE` wrote on a member",
    )?;
    let text = Zeroizing::new(files::read_secret(
        "the join token",
        token_file,
        "make one with `warren ca token --out FILE` on a member",
    )?);
    let token = JoinToken::parse(&text)
        .with_context(|| format!("{} holds no join token", token_file.display()))?;
    let dir = &args.dir;
    refuse_a_second(dir, &[CONFIG, CERT, CA_CERT])?;
    // The key is written first: a join that breaks off after the server has issued can be repeated with it.
    let key_path = dir.join(KEY);
    let passphrase_file = absolute(args.passphrase_file.as_deref())?;
    let passphrase_file = passphrase_file.as_deref();
    let key = if key_path.exists() {
        material::read_key(&key_path, passphrase_file)?
    } else {
        make_key(&key_path, passphrase_file)?
    };
    let host = rustix::system::uname()
        .nodename()
        .to_string_lossy()
        .into_owned();
    let joined = join(&args.url, &token, &key, &host, TimeOuts::default()).await?;
    let roles = material::roles_allowed_by(&joined.accepted.member.capabilities);
    let config = write(args, &joined, &roles, passphrase_file)?;
    let shown = Shown {
        organization: joined.response.organization.as_str().to_owned(),
        peer_id: key.peer_id().to_string(),
        config: config.display().to_string(),
        roles: roles.iter().map(|role| role.as_str()).collect(),
    };
    format.print(&shown, |shown| {
        format!(
            "joined {} as {}\n{}",
            shown.organization,
            shown.peer_id,
            next(args, shown, &joined)
        )
    })?;
    Ok(std::process::ExitCode::SUCCESS)
}

/// What to do after the join.
fn next(args: &JoinArgs, shown: &Shown, joined: &Joined) -> String {
    let member = &joined.accepted.member;
    if shown.roles.is_empty() {
        let kept: Vec<String> = [CONFIG, CERT, CA_CERT]
            .iter()
            .map(|name| args.dir.join(name).display().to_string())
            .collect();
        return format!(
            "its certificate allows no role (capabilities: {}), so `warren start` would refuse it\n\
             next: to run a node, make another token with `warren ca token --name {} --capability storage` on the issuer, \
             remove {} and join again",
            if member.capabilities.is_empty() {
                "none".to_owned()
            } else {
                member.capabilities.to_string()
            },
            member.name,
            kept.join(", "),
        );
    }
    format!("next: warren start --config {}", shown.config)
}

/// Writes what the join brought and a configuration that uses it; gives the configuration's path.
fn write(
    args: &JoinArgs,
    joined: &Joined,
    roles: &[Role],
    passphrase_file: Option<&Path>,
) -> anyhow::Result<PathBuf> {
    let dir = &args.dir;
    files::write_whole(
        &dir.join(CERT),
        joined.response.leaf_pem.as_bytes(),
        0o644,
        Overwrite::Refuse,
    )?;
    files::write_whole(
        &dir.join(CA_CERT),
        joined.response.ca_pem.as_bytes(),
        0o644,
        Overwrite::Refuse,
    )?;
    let storage =
        std::path::absolute(&args.storage).context("the storage folder has no absolute path")?;
    if !joined.response.crl_pem.is_empty() {
        let learnt = storage.join(material::LEARNT_CRL);
        files::write_whole(
            &learnt,
            joined.response.crl_pem.as_bytes(),
            0o644,
            Overwrite::Replace,
        )?;
    }
    // A configuration has at least one role; `start` names the capability that this one lacks.
    let roles = if roles.is_empty() {
        &[Role::Storage]
    } else {
        roles
    };
    let config = Template {
        node_id: &joined.accepted.member.name,
        organization_id: joined.response.organization.as_str(),
        region: None,
        peer_key: Path::new(KEY),
        tls_cert: Path::new(CERT),
        ca_cert: Path::new(CA_CERT),
        crl: None,
        roles,
        passphrase_file,
        issuer_dir: None,
        discovery_servers: &[args.url.as_str().trim_end_matches('/')],
        storage_path: &storage,
    };
    let path = dir.join(CONFIG);
    files::write_whole(&path, config.render().as_bytes(), 0o644, Overwrite::Refuse)?;
    Ok(path)
}

fn make_key(path: &Path, passphrase_file: Option<&Path>) -> anyhow::Result<NodeKey> {
    let key = NodeKey::from_seed(random::bytes());
    key_file::write(
        path,
        &key.to_pem(),
        0o600,
        Overwrite::Refuse,
        passphrase_file,
    )?;
    Ok(key)
}
