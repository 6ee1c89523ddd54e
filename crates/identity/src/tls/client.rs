//! Client configurations.

use std::fmt;
use std::sync::Arc;

use libp2p_identity::PeerId;
use rustls::ClientConfig;
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::sign::CertifiedKey;
use rustls::{SignatureScheme, SupportedProtocolVersion};

use super::verifier::{ServerRule, ServerVerifier};
use super::{TlsError, provider};
use crate::capability::Capability;
use crate::join::JoinToken;
use crate::trust::Trust;
use crate::verify::{Member, Refusal};

/// Which member a client means to reach.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExpectedPeer {
    /// This node and no other.
    Peer(PeerId),
    /// This node, and only while its leaf grants this capability.
    PeerWith(PeerId, Capability),
    /// Any member with this capability.
    Capability(Capability),
    /// Any member.
    AnyMember,
}

impl ExpectedPeer {
    /// Whether a proven member is the expected one.
    ///
    /// # Errors
    /// [`Refusal::PeerIdMismatch`] or [`Refusal::MissingCapability`].
    pub fn check(&self, member: &Member) -> Result<(), Refusal> {
        match self {
            Self::Peer(expected) | Self::PeerWith(expected, _) if *expected != member.peer_id => {
                Err(Refusal::PeerIdMismatch {
                    named: Box::new(*expected),
                    actual: Box::new(member.peer_id),
                })
            }
            Self::PeerWith(_, needed) | Self::Capability(needed) if !member.allows(needed) => {
                Err(Refusal::MissingCapability(needed.clone()))
            }
            _ => Ok(()),
        }
    }
}

/// A client of other nodes: TLS 1.3, this node's leaf, and the expected member on the other side. The server name
/// given to rustls is not looked at; pass the address that is dialled.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn node_client(
    trust: &Trust,
    expected: ExpectedPeer,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let rule = ServerRule::Member {
        trust: trust.clone(),
        expected,
    };
    let mut config = build(rule, Some(trust), &[&rustls::version::TLS13], alpn)?;
    // A mesh address is no host name; the server learns nothing from it.
    config.enable_sni = false;
    Ok(config)
}

/// A client of HTTPS servers with certificates of the organisation's CAs: the DNS name or IP address that is dialled
/// must be in the certificate. Presents the node's leaf when asked for one.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn https_client(trust: &Trust, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    by_name(trust, None, alpn)
}

/// As [`https_client`], and besides it takes the leaf of this one node, under whatever name or address it was dialled:
/// for a client that knows which node it means, as one that reads the node's own configuration does.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn https_client_of_node(
    trust: &Trust,
    node: PeerId,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    by_name(trust, Some(ExpectedPeer::Peer(node)), alpn)
}

/// As [`https_client`], and besides it takes a member whose leaf carries `capability`, under whatever name or address it
/// was dialled: what the CA says of a server is more than a name.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn https_client_of(
    trust: &Trust,
    capability: Capability,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    by_name(trust, Some(ExpectedPeer::Capability(capability)), alpn)
}

fn by_name(
    trust: &Trust,
    or_member: Option<ExpectedPeer>,
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let versions: &[&SupportedProtocolVersion] =
        &[&rustls::version::TLS13, &rustls::version::TLS12];
    let rule = ServerRule::Name {
        trust: trust.clone(),
        or_member,
    };
    build(rule, Some(trust), versions, alpn)
}

/// A client that knows no more than a join token: the server's chain must contain the pinned CA and its leaf be that
/// of a member with the capability `discovery`. Names are not looked at; presents no certificate.
///
/// # Errors
/// [`TlsError::Rustls`].
pub fn join_client(token: &JoinToken, alpn: &[&[u8]]) -> Result<ClientConfig, TlsError> {
    let rule = ServerRule::Pinned {
        ca_fingerprint: token.ca_fingerprint(),
    };
    build(rule, None, &[&rustls::version::TLS13], alpn)
}

fn build(
    rule: ServerRule,
    own: Option<&Trust>,
    versions: &[&'static SupportedProtocolVersion],
    alpn: &[&[u8]],
) -> Result<ClientConfig, TlsError> {
    let builder = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(versions)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(ServerVerifier::new(rule)));
    let mut config = match own {
        Some(trust) => builder.with_client_cert_resolver(Arc::new(OwnCertificate(trust.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    Ok(config)
}

struct OwnCertificate(Trust);

impl fmt::Debug for OwnCertificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("OwnCertificate")
    }
}

impl ResolvesClientCert for OwnCertificate {
    fn resolve(
        &self,
        _root_hints: &[&[u8]],
        schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        let state = self.0.snapshot();
        let own = state.own.as_ref()?;
        std::iter::once(&own.node)
            .chain(&own.companion)
            .find(|certified| certified.key.choose_scheme(schemes).is_some())
            .map(Arc::clone)
    }

    fn has_certs(&self) -> bool {
        self.0.snapshot().own.is_some()
    }
}
