//! `warren ca`: the organisation's certificate authority.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::Method;
use serde::Serialize;
use warren_api::types::{Grant, GrantRequest};
use warren_daemon::ca_folder::CaFolder;
use warren_daemon::files::{self, Overwrite};
use warren_identity::{Capabilities, Csr, LeafRequest, OrganizationId, PeerId, WildcardNames};

use crate::args::{CaCommand, Global, IssueArgs, TokenArgs};
use crate::client::ApiClient;
use crate::commands::key::read_key;
use crate::output::{Format, table};

/// Seconds of a day.
const DAY_S: u64 = 86_400;

pub(crate) fn run(command: CaCommand, global: &Global, format: Format) -> anyhow::Result<()> {
    match command {
        CaCommand::Init {
            org,
            dir,
            days,
            after,
        } => init(&org, &dir, days, after.as_deref(), format),
        CaCommand::Issue(args) => issue(&args, format),
        CaCommand::Revoke { dir, peer, org } => revoke(&dir, &peer, org.as_deref(), format),
        CaCommand::Crl { dir, org } => sign_crl(&dir, org.as_deref(), format),
        CaCommand::List { dir } => list(&dir, format),
        CaCommand::Token(_) => Err(anyhow!(
            "a token needs a running node; --config {:?} names none",
            global.config
        )),
    }
}

fn organization(id: Option<&str>) -> anyhow::Result<Option<OrganizationId>> {
    Ok(id.map(OrganizationId::new).transpose()?)
}

#[derive(Serialize)]
struct Made {
    organization: String,
    certificate: String,
    key: String,
}

fn init(
    org: &str,
    dir: &Path,
    days: u32,
    after: Option<&Path>,
    format: Format,
) -> anyhow::Result<()> {
    let organization = OrganizationId::new(org)?;
    let validity = Duration::from_secs(u64::from(days) * DAY_S);
    match after {
        None => CaFolder::create(dir, organization, validity)?,
        Some(old) => CaFolder::create_after(dir, organization, validity, old)?,
    };
    let made = Made {
        organization: org.to_owned(),
        certificate: dir
            .join(warren_daemon::ca_folder::CA_CERT)
            .display()
            .to_string(),
        key: dir
            .join(warren_daemon::ca_folder::CA_KEY)
            .display()
            .to_string(),
    };
    Ok(format.print(&made, |made| {
        format!(
            "{}\n{} (keep it safe: whoever has it can admit machines to {})",
            made.certificate, made.key, made.organization
        )
    })?)
}

#[derive(Serialize)]
struct Issued {
    peer_id: String,
    certificate: String,
}

fn issue(args: &IssueArgs, format: Format) -> anyhow::Result<()> {
    let (peer_id, companion_key) = subject(args)?;
    let request = LeafRequest {
        peer_id,
        name: args.name.clone(),
        dns: args.dns.clone(),
        ip: args.ip.clone(),
        capabilities: Capabilities::parse_known(&args.capability)?,
        validity: Duration::from_secs(u64::from(args.days) * DAY_S),
        companion_key,
        wildcards: if args.allow_wildcard {
            WildcardNames::Allow
        } else {
            WildcardNames::Refuse
        },
    };
    if args.out.exists() && !args.force {
        return Err(files::FileError::Exists {
            path: args.out.clone(),
        }
        .into());
    }
    let leaf = CaFolder::new(&args.dir, organization(args.org.as_deref())?).issue(&request)?;
    files::write_whole(
        &args.out,
        leaf.to_pem().as_bytes(),
        0o644,
        Overwrite::Replace,
    )?;
    let issued = Issued {
        peer_id: peer_id.to_string(),
        certificate: args.out.display().to_string(),
    };
    Ok(format.print(&issued, |issued| issued.certificate.clone())?)
}

/// The peer to certify, and the public key of its companion leaf where it can be known.
fn subject(args: &IssueArgs) -> anyhow::Result<(PeerId, Option<Vec<u8>>)> {
    if let Some(path) = &args.key {
        let key = read_key(path)?;
        return Ok((
            key.peer_id(),
            Some(key.companion_key().public_key().to_vec()),
        ));
    }
    if let Some(path) = &args.csr {
        let text = files::read_text(
            "the certificate request",
            path,
            "make one with `warren keygen --csr FILE`",
        )?;
        let csr =
            Csr::from_pem(&text).with_context(|| format!("{} cannot be signed", path.display()))?;
        return Ok((csr.peer_id(), csr.companion_key().map(<[u8]>::to_vec)));
    }
    let peer = args
        .peer
        .as_deref()
        .context("name what to certify: --key, --csr or --peer")?;
    Ok((parse_peer(peer)?, None))
}

fn parse_peer(text: &str) -> anyhow::Result<PeerId> {
    text.parse()
        .map_err(|error| anyhow!("{text:?} is no peer id: {error}"))
}

#[derive(Serialize)]
struct RevokedPeer {
    peer_id: String,
    revoked_leaves: Option<usize>,
    list: String,
    number: u64,
}

fn revoke(dir: &Path, peer: &str, org: Option<&str>, format: Format) -> anyhow::Result<()> {
    let peer = parse_peer(peer)?;
    let revoked = CaFolder::new(dir, organization(org)?).revoke(peer)?;
    let shown = RevokedPeer {
        peer_id: peer.to_string(),
        revoked_leaves: revoked.leaves,
        list: revoked.path.display().to_string(),
        number: revoked.list.number(),
    };
    Ok(format.print(&shown, |shown| {
        let leaves = match shown.revoked_leaves {
            None => "it was revoked before".to_owned(),
            Some(1) => "1 certificate of it was still valid".to_owned(),
            Some(count) => format!("{count} certificates of it were still valid"),
        };
        format!(
            "revoked {}: {leaves}\n{} is list {}: any node whose network.security.crl names it takes it at once and passes it on",
            shown.peer_id, shown.list, shown.number
        )
    })?)
}

#[derive(Serialize)]
struct SignedList {
    list: String,
    number: u64,
}

fn sign_crl(dir: &Path, org: Option<&str>, format: Format) -> anyhow::Result<()> {
    let signed = CaFolder::new(dir, organization(org)?).sign_list()?;
    let shown = SignedList {
        list: signed.path.display().to_string(),
        number: signed.list.number(),
    };
    Ok(format.print(&shown, |shown| {
        format!("{} is list {}", shown.list, shown.number)
    })?)
}

fn list(dir: &Path, format: Format) -> anyhow::Result<()> {
    let ledger = CaFolder::new(dir, None).ledger()?;
    Ok(format.print(&ledger, |ledger| {
        let rows = ledger.issued().iter().map(|leaf| {
            let until = i64::try_from(leaf.not_after_unix_s)
                .ok()
                .and_then(|second| jiff::Timestamp::from_second(second).ok());
            let state = if ledger.is_peer_revoked(&leaf.peer_id) {
                "revoked"
            } else {
                ""
            };
            vec![
                leaf.peer_id.to_string(),
                leaf.name.clone(),
                leaf.serial.clone(),
                until.map(|until| until.to_string()).unwrap_or_default(),
                state.to_owned(),
            ]
        });
        table(
            &["peer", "name", "serial", "until", "state"],
            &rows.collect::<Vec<_>>(),
        )
    })?)
}

/// Where a token was written; its text stays in the file.
#[derive(Serialize)]
struct WrittenToken {
    file: String,
    expires_at: String,
}

pub(crate) async fn token(
    client: &ApiClient,
    args: &TokenArgs,
    format: Format,
) -> anyhow::Result<std::process::ExitCode> {
    // Looked at first: a token that cannot be written down is lost, and would stay usable.
    if let Some(path) = args.out.as_ref().filter(|path| path.exists()) {
        return Err(files::FileError::Exists { path: path.clone() }.into());
    }
    let request = GrantRequest {
        name: args.name.clone(),
        capabilities: args.capability.clone(),
        dns: args.dns.clone(),
        ip: args.ip.iter().map(ToString::to_string).collect(),
        validity_seconds: u64::from(args.days) * DAY_S,
        expires_in_seconds: super::seconds(&args.expires)?,
    };
    let request = client
        .request(Method::POST, "/api/v1/join/tokens")
        .json(&request);
    let grant: Grant = client.send(request).await?.json().await?;
    match &args.out {
        Some(path) => {
            files::write_whole(path, grant.token.as_bytes(), 0o600, Overwrite::Refuse)?;
            let written = WrittenToken {
                file: path.display().to_string(),
                expires_at: grant.expires_at,
            };
            format.print(&written, |written| {
                format!(
                    "{} (usable once, until {})",
                    written.file, written.expires_at
                )
            })?;
        }
        None => format.print(&grant, |grant| grant.token.clone())?,
    }
    Ok(std::process::ExitCode::SUCCESS)
}
