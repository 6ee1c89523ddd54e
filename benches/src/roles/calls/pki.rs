//! Certificates of the peers: one CA, a P-256 leaf for each end.

use std::path::Path;
use std::sync::Arc;

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, IsCa, KeyPair, KeyUsagePurpose,
};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

/// The name in the server's certificate.
pub(super) const NAME: &str = "localhost";

const CA: &str = "calls_ca.pem";
const SERVER: &str = "calls_server";
const CLIENT: &str = "calls_client";

/// Makes the CA and both leaves in `folder`.
pub(crate) fn write_pki(folder: &Path) -> anyhow::Result<()> {
    let mut params = named("bench CA", Vec::new())?;
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    std::fs::write(folder.join(CA), authority.pem())?;
    for end in [SERVER, CLIENT] {
        let key = KeyPair::generate()?;
        let leaf = named(end, vec![NAME.to_owned()])?.signed_by(&key, &authority)?;
        std::fs::write(folder.join(format!("{end}.pem")), leaf.pem())?;
        std::fs::write(folder.join(format!("{end}.key")), key.serialize_pem())?;
    }
    Ok(())
}

/// With a name of its own: s2n-tls takes a leaf that is called as its CA for one that signed itself.
fn named(common_name: &str, dns: Vec<String>) -> anyhow::Result<CertificateParams> {
    let mut params = CertificateParams::new(dns)?;
    params
        .distinguished_name
        .push(DnType::CommonName, common_name);
    Ok(params)
}

/// What one end has, as files: for libraries that read PEM.
pub(super) struct Files {
    pub(super) ca: std::path::PathBuf,
    pub(super) certificate: std::path::PathBuf,
    pub(super) key: std::path::PathBuf,
}

impl Files {
    pub(super) fn of_server(pki: &Path) -> Self {
        Self::of(pki, SERVER)
    }

    pub(super) fn of_client(pki: &Path) -> Self {
        Self::of(pki, CLIENT)
    }

    fn of(pki: &Path, end: &str) -> Self {
        Self {
            ca: pki.join(CA),
            certificate: pki.join(format!("{end}.pem")),
            key: pki.join(format!("{end}.key")),
        }
    }

    fn roots(&self) -> anyhow::Result<Arc<RootCertStore>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(&self.ca)?)?;
        Ok(Arc::new(roots))
    }

    fn leaf(&self) -> anyhow::Result<(Vec<CertificateDer<'static>>, PrivateKeyDer<'static>)> {
        let certificate = CertificateDer::from_pem_file(&self.certificate)?;
        Ok((vec![certificate], PrivateKeyDer::from_pem_file(&self.key)?))
    }
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(aws_lc_rs::default_provider())
}

/// TLS 1.3, clients with a certificate only.
pub(super) fn server(pki: &Path) -> anyhow::Result<ServerConfig> {
    let files = Files::of_server(pki);
    let (chain, key) = files.leaf()?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(files.roots()?, provider()).build()?;
    Ok(ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(chain, key)?)
}

/// TLS 1.3 with a certificate.
pub(super) fn client(pki: &Path) -> anyhow::Result<ClientConfig> {
    let files = Files::of_client(pki);
    let (chain, key) = files.leaf()?;
    Ok(ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(files.roots()?)
        .with_client_auth_cert(chain, key)?)
}
