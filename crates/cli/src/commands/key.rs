//! `warren keygen`, `peerid` and `cert show`: what can be done with nothing but files.

use std::path::Path;

use anyhow::Context;
use serde::Serialize;
use warren_daemon::files::{self, Overwrite};
use warren_daemon::material::read_key;
use warren_daemon::{key_file, random};
use warren_identity::{CertificateFacts, Csr, Leaf, NodeKey, UnixMillis, UnixTime};

use crate::args::KeygenArgs;
use crate::output::{Format, print_line};

#[derive(Serialize)]
struct Generated {
    peer_id: String,
}

pub(crate) fn keygen(args: &KeygenArgs, format: Format) -> anyhow::Result<()> {
    let overwrite = if args.force {
        Overwrite::Replace
    } else {
        Overwrite::Refuse
    };
    // Looked at first, so that a refusal leaves no key without its request.
    for path in args.output.iter().chain(&args.csr) {
        super::refuse_existing(path, args.force)?;
    }
    let passphrase_file = args.passphrase_file.as_deref();
    let key = match (&args.key, &args.output) {
        (Some(path), _) => read_key(path, passphrase_file)?,
        (None, Some(path)) => {
            let key = NodeKey::from_seed(random::bytes());
            key_file::write(path, &key.to_pem(), 0o600, overwrite, passphrase_file)?;
            key
        }
        // clap requires one of the two.
        (None, None) => {
            anyhow::bail!("name the key: --output for a new one, --key for one that is there")
        }
    };
    if let Some(path) = &args.csr {
        let csr = Csr::create_pem(&key, &args.name)?;
        files::write_whole(path, csr.as_bytes(), 0o644, overwrite)?;
    }
    let generated = Generated {
        peer_id: key.peer_id().to_string(),
    };
    format.print(&generated, |generated| generated.peer_id.clone())?;
    Ok(())
}

pub(crate) fn peer_id(
    path: &Path,
    passphrase_file: Option<&Path>,
    format: Format,
) -> anyhow::Result<()> {
    let shown = Generated {
        peer_id: read_key(path, passphrase_file)?.peer_id().to_string(),
    };
    format.print(&shown, |shown| shown.peer_id.clone())?;
    Ok(())
}

/// What `cert show` tells of one certificate.
#[derive(Serialize)]
struct Shown {
    kind: &'static str,
    subject: String,
    issuer: String,
    serial: String,
    organization: Option<String>,
    peer_id: Option<String>,
    capabilities: Vec<String>,
    dns: Vec<String>,
    ip: Vec<std::net::IpAddr>,
    not_before: String,
    not_after: String,
    days_left: i64,
    renewal_due: bool,
}

impl Shown {
    fn new(facts: &CertificateFacts, kind: &'static str, now: UnixTime) -> Self {
        let spiffe = facts.spiffe_id();
        let organization = spiffe
            .as_ref()
            .map(|id| id.organization.clone())
            .or_else(|| facts.organization_of_ca());
        let seconds_left = i128::from(facts.not_after.as_secs()) - i128::from(now.as_secs());
        Self {
            kind,
            subject: facts.subject.clone(),
            issuer: facts.issuer.clone(),
            serial: facts
                .serial
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect(),
            organization: organization.map(|organization| organization.as_str().to_owned()),
            peer_id: spiffe.map(|id| id.peer_id.to_string()),
            capabilities: facts.capabilities.iter().map(ToString::to_string).collect(),
            dns: facts.dns.clone(),
            ip: facts.ip.clone(),
            not_before: rfc3339(facts.not_before),
            not_after: rfc3339(facts.not_after),
            days_left: i64::try_from(seconds_left.div_euclid(86_400)).unwrap_or(i64::MAX),
            renewal_due: facts.renewal_due(now),
        }
    }

    fn lines(&self) -> String {
        let ip: Vec<String> = self.ip.iter().map(ToString::to_string).collect();
        let rows = [
            ("certificate", self.kind.to_owned()),
            ("subject", self.subject.clone()),
            ("issuer", self.issuer.clone()),
            ("serial", self.serial.clone()),
            (
                "organization",
                self.organization
                    .clone()
                    .unwrap_or_else(|| "none: cannot join a mesh".to_owned()),
            ),
            (
                "peer id",
                self.peer_id.clone().unwrap_or_else(|| "none".to_owned()),
            ),
            ("capabilities", self.capabilities.join(", ")),
            ("dns names", self.dns.join(", ")),
            ("ip addresses", ip.join(", ")),
            ("valid from", self.not_before.clone()),
            (
                "valid until",
                format!("{} ({})", self.not_after, self.standing()),
            ),
        ];
        let lines: Vec<String> = rows
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key:<13} {value}"))
            .collect();
        lines.join("\n")
    }

    fn standing(&self) -> String {
        match (self.days_left, self.renewal_due) {
            (days, _) if days < 0 => format!("expired {} days ago", -days),
            (days, true) => format!("{days} days left: due for renewal"),
            (days, false) => format!("{days} days left"),
        }
    }
}

fn rfc3339(time: UnixTime) -> String {
    UnixMillis::from_secs(time.as_secs()).rfc3339()
}

pub(crate) fn show_certificate(path: &Path, format: Format) -> anyhow::Result<()> {
    let text = files::read_text("the certificate", path, "name a PEM file")?;
    let now = UnixTime::now();
    let cannot = || format!("{} cannot be shown", path.display());
    let mut shown = Vec::new();
    match Leaf::from_pem(&text) {
        Ok(leaf) => {
            shown.push(Shown::new(leaf.facts(), "node leaf", now));
            if let Some(companion) = leaf.companion() {
                let facts = CertificateFacts::parse(companion)
                    .map_err(anyhow::Error::msg)
                    .with_context(cannot)?;
                shown.push(Shown::new(&facts, "P-256 companion", now));
            }
        }
        Err(_) => {
            for der in warren_identity::certificates_from_pem(&text).map_err(|index| {
                anyhow::anyhow!("certificate {index} in {} is cut short", path.display())
            })? {
                let facts = CertificateFacts::parse(&der)
                    .map_err(anyhow::Error::msg)
                    .with_context(cannot)?;
                let kind = if facts.is_ca {
                    "certificate authority"
                } else {
                    "leaf without a node"
                };
                shown.push(Shown::new(&facts, kind, now));
            }
        }
    }
    anyhow::ensure!(!shown.is_empty(), "{} holds no certificate", path.display());
    if format == Format::Json {
        return Ok(format.print(&shown, |_| String::new())?);
    }
    let texts: Vec<String> = shown.iter().map(Shown::lines).collect();
    Ok(print_line(&texts.join("\n\n"))?)
}
