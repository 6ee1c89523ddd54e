//! Server configurations.

use std::fmt;
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;

use super::verifier::ClientVerifier;
use super::{TlsError, provider};
use crate::revocation::Revocations;
use crate::roots::Roots;
use crate::trust::Trust;

/// What a server wants of its clients.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClientCertificates {
    /// Nothing: no certificate is asked for.
    None,
    /// A certificate is asked for; one that is presented must be of our CAs and in force.
    Optional,
    /// A certificate of our CAs: a member's leaf, a companion, or one made by `openssl`.
    RequireCertificate,
    /// A member's leaf.
    RequireMember,
    /// A member's leaf, or its P-256 companion from a client that refuses Ed25519.
    RequireMemberOrCompanion,
}

/// Another organisation's CAs whose certificates pass the handshake as well. What they are worth is for the server to say.
#[derive(Clone, Debug)]
pub struct Guest {
    /// Its roots; they name the organisation.
    pub roots: Roots,
    /// What it revoked.
    pub revocations: Revocations,
}

/// A server for other nodes: TLS 1.3, this node's Ed25519 leaf, clients that are members. `alpn` names the protocols
/// in order of preference, e.g. `warren-blocks/1`. The leaf is looked up at each handshake; one without a leaf fails.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn node_server(trust: &Trust, alpn: &[&[u8]]) -> Result<ServerConfig, TlsError> {
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?;
    let config = builder
        .with_client_cert_verifier(Arc::new(ClientVerifier::new(
            trust.clone(),
            ClientCertificates::RequireMember,
            Vec::new(),
        )))
        .with_cert_resolver(Arc::new(NodeLeaf(trust.clone())));
    Ok(finish(config, alpn))
}

/// A server for HTTPS: TLS 1.2 and 1.3, with the first certificate that the client can verify of: the configured one,
/// the node's leaf, its companion.
///
/// # Errors
/// [`TlsError::NoLeaf`] when there is nothing to present, [`TlsError::Rustls`].
pub fn https_server(
    trust: &Trust,
    clients: ClientCertificates,
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    https_server_with_guests(trust, clients, &[], alpn)
}

/// As [`https_server`], for clients of these guests as well. Guests are certificates, never members: they pass under
/// [`ClientCertificates::Optional`] and [`ClientCertificates::RequireCertificate`].
///
/// # Errors
/// As [`https_server`].
pub fn https_server_with_guests(
    trust: &Trust,
    clients: ClientCertificates,
    guests: &[Guest],
    alpn: &[&[u8]],
) -> Result<ServerConfig, TlsError> {
    let state = trust.snapshot();
    if state.own.is_none() && state.https.is_none() {
        return Err(TlsError::NoLeaf);
    }
    let builder = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?;
    let builder = match clients {
        ClientCertificates::None => builder.with_no_client_auth(),
        wanted => builder.with_client_cert_verifier(Arc::new(ClientVerifier::new(
            trust.clone(),
            wanted,
            guests.to_vec(),
        ))),
    };
    Ok(finish(
        builder.with_cert_resolver(Arc::new(HttpsCertificate(trust.clone()))),
        alpn,
    ))
}

fn finish(mut config: ServerConfig, alpn: &[&[u8]]) -> ServerConfig {
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    config.max_early_data_size = 0;
    config
}

struct NodeLeaf(Trust);

impl fmt::Debug for NodeLeaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("NodeLeaf")
    }
}

impl ResolvesServerCert for NodeLeaf {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.0
            .snapshot()
            .own
            .as_ref()
            .map(|own| Arc::clone(&own.node))
    }
}

struct HttpsCertificate(Trust);

impl fmt::Debug for HttpsCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("HttpsCertificate")
    }
}

impl ResolvesServerCert for HttpsCertificate {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let state = self.0.snapshot();
        let configured = state
            .https
            .as_ref()
            .map(crate::trust::HttpsIdentity::certified);
        let own = state.own.as_ref();
        configured
            .into_iter()
            .chain(own.map(|own| Arc::clone(&own.https)))
            .chain(own.and_then(|own| own.companion.clone()))
            .find(|certified| {
                certified
                    .key
                    .choose_scheme(hello.signature_schemes())
                    .is_some()
            })
    }
}
