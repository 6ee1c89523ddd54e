//! HTTPS of the server. Without guests it is exactly [`warren_identity::tls::https_server`]; with them, certificates of their
//! CAs pass the handshake too. Either way `auth` decides, for each request, what a certificate is worth.

use std::sync::Arc;

use rustls::{
    DigitallySignedStruct, DistinguishedName, Error, ServerConfig, SignatureScheme,
    client::danger::HandshakeSignatureValid,
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use warren_identity::{
    CertificateDer, Purpose, Revocations, Roots, Trust, UnixTime,
    tls::{ClientCertificates, TlsError, https_server},
    verify_certificate,
};

use super::Guest;

const ALPN: [&[u8]; 2] = [b"h2", b"http/1.1"];

/// The configuration for `wanted` certificates of the node's own CAs and of the guests'.
pub(super) fn server(
    trust: &Trust,
    guests: &[Guest],
    wanted: ClientCertificates,
) -> Result<ServerConfig, TlsError> {
    let own = https_server(trust, wanted, &ALPN)?;
    if guests.is_empty() {
        return Ok(own);
    }
    let provider = Arc::clone(own.crypto_provider());
    let verifier = Verifier {
        trust: trust.clone(),
        guests: guests.to_vec(),
        mandatory: wanted != ClientCertificates::Optional,
        provider: Arc::clone(&provider),
    };
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13, &rustls::version::TLS12])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::clone(&own.cert_resolver));
    // No resumption, as in `own`: a resumed session skips the certificate.
    config.session_storage = Arc::clone(&own.session_storage);
    config.send_tls13_tickets = own.send_tls13_tickets;
    config.max_early_data_size = own.max_early_data_size;
    config.alpn_protocols = own.alpn_protocols;
    Ok(config)
}

#[derive(Debug)]
struct Verifier {
    trust: Trust,
    guests: Vec<Guest>,
    mandatory: bool,
    provider: Arc<CryptoProvider>,
}

impl ClientCertVerifier for Verifier {
    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let chain: Vec<_> = std::iter::once(end_entity)
            .chain(intermediates)
            .cloned()
            .collect();
        let accepts = |roots: &Roots, revocations: &Revocations| {
            verify_certificate(&chain, roots, revocations, now, Purpose::Client).is_ok()
        };
        let accepted = accepts(&self.trust.roots(), &self.trust.revocations())
            || self
                .guests
                .iter()
                .any(|guest| accepts(&guest.roots, &guest.revocations));
        if accepted {
            Ok(ClientCertVerified::assertion())
        } else {
            Err(rustls::CertificateError::ApplicationVerificationFailure.into())
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, cert, dss, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
