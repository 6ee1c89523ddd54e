//! The plain peer: TLS 1.3 over TCP (tokio-rustls on aws-lc-rs, AES-256-GCM as ours), BLAKE3 at the receiver.

use std::fs::File;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::crypto::aws_lc_rs;
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::PIECE_BYTES;
use crate::child::{self, Ready, Report};
use crate::measure::Section;

const NAME: &str = "bench.invalid";
/// Pieces between a socket and a file.
const QUEUE: usize = 4;

/// Makes a certificate for the sender in `folder`.
pub(crate) fn write_pki(folder: &Path) -> anyhow::Result<()> {
    let made = rcgen::generate_simple_self_signed([NAME.to_owned()])?;
    std::fs::write(folder.join("tls_cert.pem"), made.cert.pem())?;
    std::fs::write(folder.join("tls_key.pem"), made.signing_key.serialize_pem())?;
    Ok(())
}

fn provider() -> Arc<rustls::crypto::CryptoProvider> {
    Arc::new(rustls::crypto::CryptoProvider {
        cipher_suites: vec![TLS13_AES_256_GCM_SHA384],
        ..aws_lc_rs::default_provider()
    })
}

pub(crate) async fn send(pki: &Path, input: PathBuf, listen: IpAddr) -> anyhow::Result<()> {
    let certificate = CertificateDer::from_pem_file(pki.join("tls_cert.pem"))?;
    let key = PrivateKeyDer::from_pem_file(pki.join("tls_key.pem"))?;
    let config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(vec![certificate], key)?;
    let listener = TcpListener::bind(SocketAddr::new(listen, 0)).await?;
    let section = Section::begin();
    child::say(&Ready {
        address: listener.local_addr()?.to_string(),
    })?;
    let (socket, _) = listener.accept().await?;
    socket.set_nodelay(true)?;
    let mut stream = TlsAcceptor::from(Arc::new(config)).accept(socket).await?;
    let (pieces, mut ready) = mpsc::channel(QUEUE);
    let reading = tokio::task::spawn_blocking(move || {
        let mut file = File::open(input)?;
        loop {
            let mut piece = vec![0; PIECE_BYTES];
            let count = file.read(&mut piece)?;
            piece.truncate(count);
            if count == 0 || pieces.blocking_send(piece).is_err() {
                return std::io::Result::Ok(());
            }
        }
    });
    while let Some(piece) = ready.recv().await {
        stream.write_all(&piece).await?;
    }
    reading.await??;
    stream.shutdown().await?;
    child::until_told().await?;
    child::say(&section.end())
}

pub(crate) async fn receive(
    pki: &Path,
    from: SocketAddr,
    output: Option<PathBuf>,
) -> anyhow::Result<()> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(pki.join("tls_cert.pem"))?)?;
    let config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_root_certificates(roots)
        .with_no_client_auth();
    let section = Section::begin();
    let socket = TcpStream::connect(from).await?;
    socket.set_nodelay(true)?;
    let mut stream = TlsConnector::from(Arc::new(config))
        .connect(ServerName::try_from(NAME)?, socket)
        .await?;
    let mut hasher = blake3::Hasher::new();
    match output {
        None => {
            let mut piece = vec![0; PIECE_BYTES / 4];
            loop {
                match stream.read(&mut piece).await? {
                    0 => break,
                    count => hasher.update(&piece[..count]),
                };
            }
        }
        Some(path) => {
            let (pieces, mut ready) = mpsc::channel::<Vec<u8>>(QUEUE);
            let writing = tokio::task::spawn_blocking(move || {
                let mut file = File::create(path)?;
                while let Some(piece) = ready.blocking_recv() {
                    file.write_all(&piece)?;
                }
                file.sync_all()
            });
            loop {
                let mut piece = Vec::with_capacity(PIECE_BYTES);
                while piece.len() < PIECE_BYTES && stream.read_buf(&mut piece).await? > 0 {}
                if piece.is_empty() {
                    break;
                }
                hasher.update(&piece);
                if pieces.send(piece).await.is_err() {
                    break;
                }
            }
            drop(pieces);
            writing.await??;
        }
    }
    let report = section.end();
    child::say(&Report {
        bytes: hasher.count(),
        result: hasher.finalize().to_hex().to_string(),
        ..report
    })
}
