//! Keys and certificates of an organisation for the example: what `warren ca init` and `warren ca issue` make.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, OrganizationId, Serial,
    UnixTime, WildcardNames,
};
use warren_rpc::{Client, Server, ServerBuilder};
use zeroize::Zeroizing;

const MONTH: Duration = Duration::from_secs(30 * 24 * 3600);
const CA: &str = "ca_cert.pem";

/// Makes a CA, and in `folder` key and certificate of each member. `members`: name and capabilities.
///
/// # Errors
/// The folder cannot be written.
pub fn set_up<'a>(
    folder: &Path,
    members: impl IntoIterator<Item = (String, &'a [&'a str])>,
) -> anyhow::Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
    let request = CaRequest {
        organization: OrganizationId::new("org_example")?,
        key_material: Zeroizing::new(random()),
        serial: Serial::from_random(random()),
        validity: MONTH,
    };
    let ca = CertificateAuthority::create(&request, UnixTime::now())?;
    write(&folder.join(CA), ca.certificate_pem().as_bytes())?;
    for (name, capabilities) in members {
        let key = NodeKey::from_seed(random());
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: name.clone(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(capabilities.iter().copied())?,
            validity: MONTH,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = ca.issue(&request, UnixTime::now(), Serial::from_random(random()))?;
        let files = Files::of(folder, &name);
        write(&files.key, key.to_pem().as_bytes())?;
        write(&files.cert, leaf.to_pem().as_bytes())?;
    }
    Ok(())
}

/// A member's files.
#[derive(Debug, Clone)]
pub struct Files {
    cert: PathBuf,
    key: PathBuf,
    ca: PathBuf,
}

impl Files {
    /// Those that [`set_up`] wrote for `name`.
    #[must_use]
    pub fn of(folder: &Path, name: &str) -> Self {
        Self {
            cert: folder.join(format!("{name}_cert.pem")),
            key: folder.join(format!("{name}.pem")),
            ca: folder.join(CA),
        }
    }

    /// A server of this member.
    ///
    /// # Errors
    /// The files do not serve.
    pub fn server(&self) -> anyhow::Result<ServerBuilder> {
        Ok(Server::builder()
            .with_cert_and_key(&self.cert, &self.key)?
            .with_ca_cert(&self.ca)?)
    }

    /// A client of this member.
    ///
    /// # Errors
    /// The files do not serve, or there is no socket.
    pub fn client(&self) -> anyhow::Result<Client> {
        Ok(Client::builder()
            .with_cert_and_key(&self.cert, &self.key)?
            .with_ca_cert(&self.ca)?
            .build()?)
    }
}

#[expect(
    clippy::expect_used,
    reason = "the system's random source does not fail once it is seeded"
)]
fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// Readable by its owner only.
fn write(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .mode(0o600)
        .open(path)
        .and_then(|mut file| file.write_all(bytes))
        .with_context(|| format!("cannot write {}", path.display()))
}
