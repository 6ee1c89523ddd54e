//! rustls configurations that read [`crate::Trust`] at each handshake.
//!
//! * Node to node ([`node_server`], [`node_client`]): TLS 1.3 only, Ed25519 only, both sides are members. Peers are known
//!   by peer id and capability; no host name is looked at.
//! * HTTPS ([`https_server`], [`https_client`]): TLS 1.2 and 1.3 for stock clients and servers. The server gives the
//!   first of these that the client can verify: a configured certificate, the node's Ed25519 leaf, its P-256
//!   companion. The client checks the DNS or IP name against the organisation's CAs; or, where it knows which member it
//!   means, who the server is.
//! * Joining ([`join_client`]): the server's chain ends in the CA that a token pins, and the server is a member with
//!   the capability `discovery`.
//!
//! No session is ever resumed: a resumed session skips the certificate, and so would outlive expiry and revocation.
//! There are no tickets, no server-side session store, no client-side cache and no early data.
//!
//! `HandshakeRefusal` is the cause inside the `rustls::Error` that a refused handshake ends with; [`refusal_of`] gets it out.

mod client;
mod server;
mod verifier;

use std::fmt;
use std::sync::Arc;

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, UnixTime};

pub use client::{
    ExpectedPeer, https_client, https_client_of, https_client_of_node, join_client, node_client,
};
pub use server::{ClientCertificates, Guest, https_server, https_server_with_guests, node_server};

use crate::trust::Trust;
use crate::verify::{Member, Refusal};

/// The one crypto provider, handed over explicitly wherever rustls asks.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Why a configuration could not be built.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The node has no leaf to present.
    #[error(
        "this node has no certificate of its organisation: get one with `warren ca issue` or `warren join`"
    )]
    NoLeaf,
    /// rustls refused.
    #[error("the TLS configuration cannot be built: {0}")]
    Rustls(#[from] rustls::Error),
}

/// A [`Refusal`] as rustls carries it.
#[derive(Debug)]
pub struct HandshakeRefusal(Refusal);

impl fmt::Display for HandshakeRefusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::error::Error for HandshakeRefusal {}

/// The exact reason for which this side refused the other's certificate, if that is why the handshake failed. The
/// other side sees no more than an alert.
#[must_use]
pub fn refusal_of(error: &rustls::Error) -> Option<&Refusal> {
    let rustls::Error::InvalidCertificate(rustls::CertificateError::Other(other)) = error else {
        return None;
    };
    other
        .0
        .downcast_ref::<HandshakeRefusal>()
        .map(|refusal| &refusal.0)
}

/// Turns the certificates of a finished handshake (`peer_certificates()`) into a member.
///
/// # Errors
/// [`Refusal::NoCertificate`] when none was presented, else the exact reason.
pub fn member_from_tls(
    trust: &Trust,
    certificates: Option<&[CertificateDer<'_>]>,
    now: UnixTime,
) -> Result<Member, Refusal> {
    trust.verify(certificates.unwrap_or_default(), now)
}

fn refused(refusal: Refusal) -> rustls::Error {
    let cause: Arc<dyn std::error::Error + Send + Sync> = Arc::new(HandshakeRefusal(refusal));
    rustls::Error::InvalidCertificate(rustls::CertificateError::Other(rustls::OtherError(cause)))
}
