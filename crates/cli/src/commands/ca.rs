//! `warren ca`: the organisation's certificate authority.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::Method;
use serde::Serialize;
use warren_api::types::{Grant, GrantRequest};
use warren_daemon::ca_folder::{CaFolder, NewCa, Revocable, SignedList};
use warren_daemon::files::{self, Overwrite};
use warren_daemon::material::{self, read_key};
use warren_identity::{
    Capabilities, Csr, IssuanceLedger, IssuedLeaf, Leaf, LeafRequest, LeafRevocation,
    OrganizationId, PeerId, Serial, UnixMillis, UnixTime, WildcardNames,
};

use crate::args::{AuthorityArgs, CaCommand, Global, IssueArgs, RevokeArgs, TokenArgs};
use crate::client::ApiClient;
use crate::output::{Format, table};
use crate::values::{self, SerialNumber};

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
        CaCommand::Revoke(args) => revoke(&args, global, format),
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
    super::refuse_existing(&args.out, args.force)?;
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
        .context("name what to certify: --key, --csr or --peer")?;
    Ok((peer, None))
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

fn revoke(args: &RevokeArgs, global: &Global, format: Format) -> anyhow::Result<()> {
    let ca = folder(&args.authority)?;
    let revocable = match args.force {
        true => Revocable::Anything,
        false => Revocable::Known,
    };
    if !args.force {
        spare_own_node(args, global)?;
    }
    if let Some(serial) = &args.serial {
        return revoke_leaf(&ca, serial, revocable, format);
    }
    let peer = args
        .peer
        .context("name what to revoke: --peer or --serial")?;
    let (leaves, signed) = ca.revoke(peer, revocable).context(NOT_REVOKED)?;
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

/// Stands before the reason where nothing was revoked.
const NOT_REVOKED: &str = "nothing was revoked (--force revokes what the ledger does not know)";

/// Refuses to revoke the node that stands beside this CA, or the one that is configured here: it would be cut off at once,
/// and with an issuer nobody could join or renew any more.
fn spare_own_node(args: &RevokeArgs, global: &Global) -> anyhow::Result<()> {
    for leaf in own_leaves(&args.authority.dir, global) {
        let is_meant = match (&args.peer, &args.serial) {
            (Some(peer), _) => *peer == leaf.peer_id(),
            (None, Some(serial)) => serial.bytes() == leaf.facts().serial,
            (None, None) => false,
        };
        if is_meant {
            return Err(anyhow!(
                "{} is this machine's own node: revoked, it is cut off at once and comes back with a new key only; \
                 --force revokes it all the same",
                leaf.peer_id()
            ));
        }
    }
    Ok(())
}

/// The leaves of this machine: as `warren init` lays them out beside the CA's folder, and as the configuration names one.
/// Where neither can be read, nothing is known to spare.
fn own_leaves(ca: &Path, global: &Global) -> Vec<Leaf> {
    // A certificate without a configuration beside it was issued here for another machine.
    let beside = std::path::absolute(ca)
        .ok()
        .and_then(|ca| ca.parent().map(Path::to_owned))
        .filter(|folder| folder.join(super::init::CONFIG).exists())
        .map(|folder| folder.join(super::init::CERT));
    let configured = super::load_config(global)
        .ok()
        .map(|loaded| loaded.settings.network.security.tls_cert);
    beside
        .into_iter()
        .chain(configured)
        .filter_map(|path| material::leaf(&path).ok())
        .collect()
}

fn revoke_leaf(
    ca: &CaFolder,
    serial: &SerialNumber,
    revocable: Revocable,
    format: Format,
) -> anyhow::Result<()> {
    let (revocation, signed) = ca
        .revoke_leaf(serial.bytes(), revocable)
        .context(NOT_REVOKED)?;
    let shown = RevokedLeaf {
        serial: values::hex(serial.bytes()),
        outcome: match revocation {
            LeafRevocation::Revoked => "revoked",
            LeafRevocation::RevokedUnknown => "revoked, though this CA's ledger does not know it",
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

fn sign_crl(args: &AuthorityArgs, format: Format) -> anyhow::Result<()> {
    let shown = ShownList::from(folder(args)?.sign_list()?);
    Ok(format.print(&shown, |shown| {
        format!("{} is list {}", shown.list, shown.number)
    })?)
}

/// A leaf of the ledger, and what it is worth today.
#[derive(Serialize)]
struct ListedLeaf {
    #[serde(flatten)]
    leaf: IssuedLeaf,
    /// Serial of the P-256 leaf that was issued and is revoked with it.
    companion_serial: Option<String>,
    /// `in force`, `replaced` by a later one of its node (and good until it ends all the same), `ended` or `revoked`.
    state: &'static str,
}

#[derive(Serialize)]
struct ListedLeaves {
    issued: Vec<ListedLeaf>,
    /// The number of the last revocation list; 0 before the first.
    crl_number: u64,
}

/// Each leaf with its companion, oldest first.
fn listed(ledger: &IssuanceLedger, now: UnixTime) -> Vec<ListedLeaf> {
    let issued = ledger.issued();
    let companions: BTreeMap<String, &str> = issued
        .iter()
        .filter_map(|leaf| Some((companion_of(&leaf.serial)?, leaf.serial.as_str())))
        .filter(|(companion, _)| issued.iter().any(|leaf| leaf.serial == *companion))
        .collect();
    let of_leaf: BTreeMap<&str, &String> = companions
        .iter()
        .map(|(companion, leaf)| (*leaf, companion))
        .collect();
    let leaves: Vec<&IssuedLeaf> = issued
        .iter()
        .filter(|leaf| !companions.contains_key(&leaf.serial))
        .collect();
    let state = |index: usize, leaf: &IssuedLeaf| {
        let later = &leaves[index + 1..];
        if ledger.is_peer_revoked(&leaf.peer_id) || ledger.is_leaf_revoked(&leaf.serial) {
            "revoked"
        } else if leaf.not_after_unix_s < now.as_secs() {
            "ended"
        } else if later.iter().any(|other| other.peer_id == leaf.peer_id) {
            "replaced"
        } else {
            "in force"
        }
    };
    leaves
        .iter()
        .enumerate()
        .map(|(index, leaf)| ListedLeaf {
            leaf: (*leaf).clone(),
            companion_serial: of_leaf
                .get(leaf.serial.as_str())
                .map(|&serial| serial.clone()),
            state: state(index, leaf),
        })
        .collect()
}

/// The serial that the companion of this leaf has, if it has one.
fn companion_of(serial: &str) -> Option<String> {
    let bytes: [u8; 16] = values::serial(serial).ok()?.bytes().try_into().ok()?;
    let companion = Serial::from_random(bytes).companion();
    Some(values::hex(companion.as_bytes()))
}

fn list(dir: &Path, format: Format) -> anyhow::Result<()> {
    let ledger = CaFolder::new(dir, None).ledger()?;
    let leaves = ListedLeaves {
        issued: listed(&ledger, UnixTime::now()),
        crl_number: ledger.crl_number(),
    };
    Ok(format.print(&leaves, |leaves| {
        let rows = leaves.issued.iter().map(|listed| {
            let leaf = &listed.leaf;
            let companion = match listed.companion_serial {
                Some(_) => "with",
                None => "without",
            };
            vec![
                leaf.peer_id.to_string(),
                leaf.name.clone(),
                leaf.serial.clone(),
                UnixMillis::from_secs(leaf.not_after_unix_s).rfc3339(),
                companion.to_owned(),
                listed.state.to_owned(),
            ]
        });
        table(
            &["peer", "name", "serial", "until", "companion", "state"],
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
        expires_in_seconds: args.expires,
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
