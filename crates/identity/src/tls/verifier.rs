//! The one implementation of rustls' two verifier traits: decisions come from [`crate::verify`].

use std::fmt;
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::CryptoProvider;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{DigitallySignedStruct, DistinguishedName, Error, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use webpki::EndEntityCert;

use super::client::ExpectedPeer;
use super::server::{ClientCertificates, Guest};
use super::{provider, refused};
use crate::capability::Capability;
use crate::certificate::CertificateFacts;
use crate::organization::OrganizationId;
use crate::revocation::Revocations;
use crate::roots::Roots;
use crate::trust::Trust;
use crate::verify::{
    Member, Purpose, Refusal, verify_certificate, verify_member, verify_member_or_companion,
};

/// Which signatures a verifier takes in the handshake.
#[derive(Clone, Copy, Debug)]
enum Schemes {
    /// Members only: so the other side presents its Ed25519 leaf.
    Ed25519,
    /// Whatever the provider verifies.
    All,
}

/// Checks the handshake's signature; shared by all verifiers.
struct Signatures {
    provider: Arc<CryptoProvider>,
    schemes: Schemes,
}

impl Signatures {
    fn new(schemes: Schemes) -> Self {
        Self {
            provider: provider(),
            schemes,
        }
    }

    fn supported(&self) -> Vec<SignatureScheme> {
        match self.schemes {
            Schemes::Ed25519 => vec![SignatureScheme::ED25519],
            Schemes::All => self
                .provider
                .signature_verification_algorithms
                .supported_schemes(),
        }
    }
}

/// The half of rustls' verifier traits that is about the handshake's signature; both traits have the same three methods.
macro_rules! handshake_signatures {
    () => {
        fn verify_tls12_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.signatures.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls12_signature(message, cert, signed, algorithms)
        }

        fn verify_tls13_signature(
            &self,
            message: &[u8],
            cert: &CertificateDer<'_>,
            signed: &DigitallySignedStruct,
        ) -> Result<HandshakeSignatureValid, Error> {
            let algorithms = &self.signatures.provider.signature_verification_algorithms;
            rustls::crypto::verify_tls13_signature(message, cert, signed, algorithms)
        }

        fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
            self.signatures.supported()
        }
    };
}

/// How a server is to be known.
pub(super) enum ServerRule {
    /// A member of our organisation, and which.
    Member {
        trust: Trust,
        expected: ExpectedPeer,
    },
    /// Any certificate of our CAs for the name that was dialled; or, under whatever name, the leaf of the expected member.
    Name {
        trust: Trust,
        or_member: Option<ExpectedPeer>,
    },
    /// A discovery member of the organisation whose CA has this SHA-256.
    Pinned { ca_fingerprint: [u8; 32] },
}

pub(super) struct ServerVerifier {
    rule: ServerRule,
    signatures: Signatures,
}

impl ServerVerifier {
    pub(super) fn new(rule: ServerRule) -> Self {
        let schemes = match rule {
            ServerRule::Member { .. } | ServerRule::Pinned { .. } => Schemes::Ed25519,
            ServerRule::Name { .. } => Schemes::All,
        };
        Self {
            rule,
            signatures: Signatures::new(schemes),
        }
    }
}

impl fmt::Debug for ServerVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("ServerVerifier")
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let chain = chain_of(end_entity, intermediates);
        match &self.rule {
            ServerRule::Member { trust, expected } => {
                let member = trust.verify(&chain, now).map_err(refused)?;
                expected.check(&member).map_err(refused)?;
            }
            ServerRule::Name { trust, or_member } => {
                let is_meant = |expected: &ExpectedPeer| {
                    trust
                        .verify(&chain, now)
                        .is_ok_and(|member| expected.check(&member).is_ok())
                };
                if or_member.as_ref().is_some_and(is_meant) {
                    return Ok(ServerCertVerified::assertion());
                }
                let state = trust.snapshot();
                verify_certificate(
                    &chain,
                    &state.roots,
                    &state.revocations,
                    now,
                    Purpose::Server,
                )
                .map_err(refused)?;
                check_name(end_entity, server_name)?;
            }
            ServerRule::Pinned { ca_fingerprint } => {
                verify_pinned(&chain, ca_fingerprint, now).map_err(refused)?;
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    handshake_signatures!();
}

pub(super) struct ClientVerifier {
    trust: Trust,
    rule: ClientCertificates,
    guests: Vec<Guest>,
    signatures: Signatures,
}

impl ClientVerifier {
    /// Guests are taken where any certificate of our CAs is, and never for members.
    pub(super) fn new(trust: Trust, rule: ClientCertificates, guests: Vec<Guest>) -> Self {
        let schemes = match rule {
            ClientCertificates::RequireMember => Schemes::Ed25519,
            _ => Schemes::All,
        };
        Self {
            trust,
            rule,
            guests,
            signatures: Signatures::new(schemes),
        }
    }
}

impl fmt::Debug for ClientVerifier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ClientVerifier({:?})", self.rule)
    }
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.rule != ClientCertificates::None
    }

    fn client_auth_mandatory(&self) -> bool {
        matches!(
            self.rule,
            ClientCertificates::RequireCertificate
                | ClientCertificates::RequireMember
                | ClientCertificates::RequireMemberOrCompanion
        )
    }

    /// None: naming our CAs would tell a stranger which organisation this is.
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain = chain_of(end_entity, intermediates);
        let state = self.trust.snapshot();
        match self.rule {
            ClientCertificates::RequireMember => {
                verify_member(&chain, &state.roots, &state.revocations, now).map_err(refused)?;
            }
            ClientCertificates::RequireMemberOrCompanion => {
                verify_member_or_companion(&chain, &state.roots, &state.revocations, now)
                    .map_err(refused)?;
            }
            _ => {
                let of = |roots: &Roots, revocations: &Revocations| {
                    verify_certificate(&chain, roots, revocations, now, Purpose::Client)
                };
                if let Err(refusal) = of(&state.roots, &state.revocations)
                    && !self
                        .guests
                        .iter()
                        .any(|guest| of(&guest.roots, &guest.revocations).is_ok())
                {
                    return Err(refused(refusal));
                }
            }
        }
        Ok(ClientCertVerified::assertion())
    }

    handshake_signatures!();
}

fn chain_of<'a>(
    end_entity: &CertificateDer<'a>,
    intermediates: &[CertificateDer<'a>],
) -> Vec<CertificateDer<'a>> {
    std::iter::once(end_entity)
        .chain(intermediates)
        .cloned()
        .collect()
}

fn check_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let bad_encoding = |_| refused(Refusal::Malformed("it does not follow the X.509 profile"));
    let cert = EndEntityCert::try_from(end_entity).map_err(bad_encoding)?;
    cert.verify_is_valid_for_subject_name(name)
        .map_err(|_| Error::InvalidCertificate(rustls::CertificateError::NotValidForName))
}

/// A discovery server as a joining machine sees it: the machine knows one hash and nothing else, not even the
/// organisation's name, which it takes from the server's own leaf below the pinned CA.
pub(super) fn verify_pinned(
    chain: &[CertificateDer<'_>],
    ca_fingerprint: &[u8; 32],
    now: UnixTime,
) -> Result<Member, Refusal> {
    let leaf = chain.first().ok_or(Refusal::NoCertificate)?;
    let pinned = chain
        .iter()
        .skip(1)
        .find(|der| crate::roots::sha256(der) == *ca_fingerprint)
        .ok_or(Refusal::UnknownIssuer)?;
    let facts = CertificateFacts::parse(leaf).map_err(Refusal::Malformed)?;
    let organization: OrganizationId = facts.spiffe_id().ok_or(Refusal::NoSpiffeId)?.organization;
    let roots = Roots::new(organization, [pinned.clone().into_owned()])
        .map_err(|_| Refusal::UnknownIssuer)?;
    let member = verify_member(chain, &roots, &Revocations::none(), now)?;
    if !member.allows(&Capability::Discovery) {
        return Err(Refusal::MissingCapability(Capability::Discovery));
    }
    Ok(member)
}
