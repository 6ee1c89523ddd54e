//! `warren ca`: the organisation's certificate authority.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::Method;
use serde::Serialize;
use warren_api::types::{Grant, GrantRequest};
use warren_daemon::ca_folder::{CaFolder, NewCa, SignedList};
use warren_daemon::files::{self, Overwrite};
use warren_daemon::material::read_key;
use warren_identity::{
    Capabilities, Csr, LeafRequest, LeafRevocation, OrganizationId, PeerId, UnixMillis,
    WildcardNames,
};

use crate::args::{AuthorityArgs, CaCommand, Global, IssueArgs, RevokeArgs, TokenArgs};
use crate::client::ApiClient;
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
            passphrase_file,
        } => {
            let new = NewCa {
                organization: OrganizationId::new(&org)?,
                validity: Duration::from_secs(u64::from(days) * DAY_S),
                passphrase_file: passphrase_file.as_deref(),
            };
            init(&dir, &new, after.as_deref(), format)
        }
        CaCommand::Issue(args) => issue(&args, format),
        CaCommand::Revoke(args) => revoke(&args, format),
        CaCommand::Crl(args) => sign_crl(&args, format),
        CaCommand::List { dir } => list(&dir, format),
        CaCommand::Token(_) => Err(anyhow!(
            "a token needs a running node; --config {:?} names none",
            global.config
        )),
    }
}

fn folder(args: &AuthorityArgs) -> anyhow::Result<CaFolder> {
    let organization = args.org.as_deref().map(OrganizationId::new).transpose()?;
    Ok(CaFolder::new(&args.dir, organization).with_passphrase_file(args.passphrase_file.clone()))
}

#[derive(Serialize)]
struct Made {
    organization: String,
    certificate: String,
    key: String,
}

fn init(dir: &Path, new: &NewCa<'_>, after: Option<&Path>, format: Format) -> anyhow::Result<()> {
    match after {
        None => CaFolder::create(dir, new)?,
        Some(old) => CaFolder::create_after(dir, new, old)?,
    };
    let made = Made {
        organization: new.organization.to_string(),
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
    /// Whether the file also holds a P-256 leaf for clients that refuse Ed25519.
    companion: bool,
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
    let leaf = folder(&args.authority)?.issue(&request)?;
    files::write_whole(
        &args.out,
        leaf.to_pem().as_bytes(),
        0o644,
        Overwrite::Replace,
    )?;
    let issued = Issued {
        peer_id: peer_id.to_string(),
        certificate: args.out.display().to_string(),
        companion: leaf.companion().is_some(),
    };
    if !issued.companion && format == Format::Text {
        eprintln!(
            "warren: the certificate has no P-256 companion for clients that refuse Ed25519: {} does not tell its key; \
             a request made with `warren keygen --csr FILE`, or --key, does",
            if args.peer.is_some() {
                "a peer id"
            } else {
                "this request"
            }
        );
    }
    Ok(format.print(&issued, |issued| issued.certificate.clone())?)
}

/// The peer to certify, and the public key of its companion leaf where it can be known.
fn subject(args: &IssueArgs) -> anyhow::Result<(PeerId, Option<Vec<u8>>)> {
    if let Some(path) = &args.key {
        let key = read_key(path, args.key_passphrase_file.as_deref())?;
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
    #[serde(flatten)]
    signed: ShownList,
}

#[derive(Serialize)]
struct RevokedLeaf {
    serial: String,
    outcome: &'static str,
    #[serde(flatten)]
    signed: ShownList,
}

/// A revocation list that was written.
#[derive(Serialize)]
struct ShownList {
    list: String,
    number: u64,
}

impl From<SignedList> for ShownList {
    fn from(signed: SignedList) -> Self {
        Self {
            list: signed.path.display().to_string(),
            number: signed.list.number(),
        }
    }
}

impl ShownList {
    fn next(&self) -> String {
        format!(
            "{} is list {}: any node whose network.security.crl names it takes it at once and passes it on",
            self.list, self.number
        )
    }
}

fn revoke(args: &RevokeArgs, format: Format) -> anyhow::Result<()> {
    let ca = folder(&args.authority)?;
    if let Some(serial) = &args.serial {
        return revoke_leaf(&ca, serial, format);
    }
    let peer = args
        .peer
        .as_deref()
        .context("name what to revoke: --peer or --serial")?;
    let peer = parse_peer(peer)?;
    let (leaves, signed) = ca.revoke(peer)?;
    let shown = RevokedPeer {
        peer_id: peer.to_string(),
        revoked_leaves: leaves,
        signed: signed.into(),
    };
    Ok(format.print(&shown, |shown| {
        let leaves = match shown.revoked_leaves {
            None => "it was revoked before".to_owned(),
            Some(1) => "1 certificate of it was still valid".to_owned(),
            Some(count) => format!("{count} certificates of it were still valid"),
        };
        format!(
            "revoked {}: {leaves}\n{}",
            shown.peer_id,
            shown.signed.next()
        )
    })?)
}

fn revoke_leaf(ca: &CaFolder, serial: &str, format: Format) -> anyhow::Result<()> {
    let bytes = parse_serial(serial)?;
    let (revocation, signed) = ca.revoke_leaf(&bytes)?;
    let shown = RevokedLeaf {
        serial: serial.to_owned(),
        outcome: match revocation {
            LeafRevocation::Revoked => "revoked",
            LeafRevocation::RevokedUnknown => {
                "revoked, though this CA's ledger does not know it: compare it with `warren ca list`"
            }
            LeafRevocation::Already => "it was revoked before",
        },
        signed: signed.into(),
    };
    Ok(format.print(&shown, |shown| {
        format!(
            "certificate {}: {}\n{}",
            shown.serial,
            shown.outcome,
            shown.signed.next()
        )
    })?)
}

/// A serial as people copy it: hexadecimal in either case, perhaps with colons or a prefix as `openssl` prints it.
fn parse_serial(text: &str) -> anyhow::Result<Vec<u8>> {
    let digits: String = text
        .trim_start_matches("serial=")
        .chars()
        .filter(|c| *c != ':')
        .collect();
    let even = if digits.len().is_multiple_of(2) {
        digits
    } else {
        format!("0{digits}")
    };
    let pairs = even
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect();
    bytes
        .filter(|bytes| (1..=20).contains(&bytes.len()))
        .with_context(|| format!("{text:?} is no serial: expected 1 to 40 hexadecimal digits"))
}

fn sign_crl(args: &AuthorityArgs, format: Format) -> anyhow::Result<()> {
    let shown = ShownList::from(folder(args)?.sign_list()?);
    Ok(format.print(&shown, |shown| {
        format!("{} is list {}", shown.list, shown.number)
    })?)
}

fn list(dir: &Path, format: Format) -> anyhow::Result<()> {
    let ledger = CaFolder::new(dir, None).ledger()?;
    Ok(format.print(&ledger, |ledger| {
        let rows = ledger.issued().iter().map(|leaf| {
            let revoked =
                ledger.is_peer_revoked(&leaf.peer_id) || ledger.is_leaf_revoked(&leaf.serial);
            let state = if revoked { "revoked" } else { "" };
            vec![
                leaf.peer_id.to_string(),
                leaf.name.clone(),
                leaf.serial.clone(),
                UnixMillis::from_secs(leaf.not_after_unix_s).rfc3339(),
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
