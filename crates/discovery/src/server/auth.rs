//! Who is calling.
//!
//! The TLS layer only proves that the caller holds the key of the certificate it showed; whether that certificate is worth
//! anything is decided here, anew for every request, so that a revocation or an expiry counts on connections that are open.

use axum::{
    body::Bytes,
    extract::{FromRequest, Request},
    http::{HeaderMap, StatusCode, request::Parts},
};
use serde::de::DeserializeOwned;
use serde_json::json;
use warren_identity::{
    CertificateDer, Member, OrganizationId, Purpose, Refusal, UnixMillis, verify_certificate,
    verify_member,
};

use super::{ClientAuth, Shared, error::ApiError, listen::ConnectionInfo, now, unix_time};
use crate::{
    core::window,
    proof::{self, CHAIN_HEADER, PROOF_HEADER, Subject},
};

/// A request that has been read whole, within its limits.
pub(crate) struct Call {
    pub(crate) parts: Parts,
    pub(crate) body: Bytes,
    connection: ConnectionInfo,
}

impl<S: Send + Sync> FromRequest<S> for Call {
    type Rejection = ApiError;

    async fn from_request(request: Request, state: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let connection = parts
            .extensions
            .get::<ConnectionInfo>()
            .cloned()
            .ok_or_else(|| ApiError::unauthenticated("this connection cannot be identified"))?;
        let request = Request::from_parts(parts.clone(), body);
        let body = Bytes::from_request(request, state)
            .await
            .map_err(|rejection| {
                if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
                    ApiError::new(
                        StatusCode::PAYLOAD_TOO_LARGE,
                        "too_large",
                        "the body is larger than any valid request",
                    )
                } else {
                    ApiError::bad_request("the body could not be read")
                }
            })?;
        Ok(Self {
            parts,
            body,
            connection,
        })
    }
}

/// A caller whose membership is proven.
pub(crate) struct Caller {
    pub(crate) member: Member,
    /// The chain that proved it.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    /// Whether it belongs to the server's own organisation by the server's own trust.
    pub(crate) home: Home,
    /// When the request was signed; `None` if TLS authenticated it.
    pub(crate) stamp: Option<UnixMillis>,
}

impl Caller {
    /// Refuses members of a guest's organisation what is for the server's own.
    pub(crate) fn require_own(&self) -> Result<(), ApiError> {
        match self.home {
            Home::Own => Ok(()),
            Home::Guest => Err(ApiError::forbidden(
                "this is for members of the server's own organisation only",
            )),
        }
    }
}

/// By whose trust a member is one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Home {
    /// This node's own.
    Own,
    /// One of the CAs that are accepted for clients only.
    Guest,
}

impl Call {
    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ApiError> {
        serde_json::from_slice(&self.body).map_err(|error| {
            ApiError::bad_request(format!("the body is not the expected JSON: {error}"))
        })
    }

    /// The caller, who must be a member.
    pub(crate) fn member(&self, shared: &Shared) -> Result<Caller, ApiError> {
        let (chain, stamp) = self.credentials(shared)?;
        let (member, home) = shared.judge(&chain).map_err(|refusal| refused(&refusal))?;
        if let Some((signer, made_at)) = stamp {
            if signer != member.peer_id {
                return Err(ApiError::unauthenticated(
                    "the request is signed by another key than its certificate's",
                ));
            }
            window::check(made_at, now(), window::DEFAULT_WINDOW)
                .map_err(|error| ApiError::unauthenticated(error.to_string()))?;
        }
        Ok(Caller {
            member,
            chain,
            home,
            stamp: stamp.map(|(_, made_at)| made_at),
        })
    }

    /// The organisation of a caller who shows any certificate of an accepted CA, made by `openssl` perhaps: enough to
    /// read the bootstrap list, for nothing else.
    pub(crate) fn organization(&self, shared: &Shared) -> Result<OrganizationId, ApiError> {
        match (&self.connection.chain, self.member(shared)) {
            (_, Ok(caller)) => Ok(caller.member.organization),
            (Some(chain), Err(error)) => shared.judge_certificate(chain).ok_or(error),
            (None, Err(error)) => Err(error),
        }
    }

    /// Whether the caller showed anything to identify it.
    pub(crate) fn is_anonymous(&self) -> bool {
        self.connection.chain.is_none()
            && header(&self.parts.headers, CHAIN_HEADER).is_none()
            && header(&self.parts.headers, PROOF_HEADER).is_none()
    }

    fn credentials(&self, shared: &Shared) -> Result<Credentials, ApiError> {
        if let Some(chain) = &self.connection.chain {
            return Ok((chain.as_ref().clone(), None));
        }
        if shared.client_auth == ClientAuth::Certificate {
            return Err(ApiError::unauthenticated(
                "this server wants a TLS client certificate of its organisation's CA",
            ));
        }
        let target = self
            .parts
            .uri
            .path_and_query()
            .map_or("/", |target| target.as_str());
        let subject = Subject {
            method: self.parts.method.as_str(),
            target,
            body: &self.body,
        };
        let headers = &self.parts.headers;
        let proof = proof::read(
            header(headers, CHAIN_HEADER),
            header(headers, PROOF_HEADER),
            subject,
        )
        .map_err(|error| ApiError::unauthenticated(error.to_string()))?;
        let proof = proof.ok_or_else(|| {
            ApiError::unauthenticated(
                "show a TLS client certificate of the organisation's CA, or sign the request",
            )
        })?;
        Ok((proof.chain, Some((proof.signer, proof.made_at))))
    }
}

type Credentials = (
    Vec<CertificateDer<'static>>,
    Option<(warren_identity::PeerId, UnixMillis)>,
);

fn header<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a [u8]> {
    headers.get(name).map(axum::http::HeaderValue::as_bytes)
}

/// The caller learns the kind of refusal, which its own certificate tells it anyway; the log has all of it.
fn refused(refusal: &Refusal) -> ApiError {
    tracing::info!(reason = refusal.label(), "turned a caller away: {refusal}");
    ApiError::new(
        StatusCode::FORBIDDEN,
        "certificate_refused",
        format!(
            "your certificate is not accepted here ({})",
            refusal.label()
        ),
    )
    .with_details(json!({ "reason": refusal.label() }))
}

impl Shared {
    /// Whether a chain is a member's: by the node's own trust, or by a CA accepted for clients.
    fn judge(&self, chain: &[CertificateDer<'_>]) -> Result<(Member, Home), Refusal> {
        let now = unix_time();
        let own = match self.trust.verify(chain, now) {
            Ok(member) => return Ok((member, Home::Own)),
            Err(refusal) => refusal,
        };
        for guest in &self.guests {
            match verify_member(chain, &guest.roots, &guest.revocations, now) {
                Ok(member) => return Ok((member, Home::Guest)),
                Err(Refusal::UnknownIssuer) => {}
                Err(refusal) => return Err(refusal),
            }
        }
        Err(own)
    }

    /// The organisation of whose CA this certificate is.
    fn judge_certificate(&self, chain: &[CertificateDer<'_>]) -> Option<OrganizationId> {
        let now = unix_time();
        let own = (self.trust.roots(), self.trust.revocations());
        if verify_certificate(chain, &own.0, &own.1, now, Purpose::Client).is_ok() {
            return Some(own.0.organization().clone());
        }
        self.guests
            .iter()
            .find(|guest| {
                verify_certificate(
                    chain,
                    &guest.roots,
                    &guest.revocations,
                    now,
                    Purpose::Client,
                )
                .is_ok()
            })
            .map(|guest| guest.roots.organization().clone())
    }
}
