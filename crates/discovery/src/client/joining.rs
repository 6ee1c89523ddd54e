//! How a machine with nothing but a join token becomes a member.

use std::time::Duration;

use reqwest::{Method, Url, header};
use warren_identity::{
    CsrError, NodeKey,
    join::{Accepted, JoinRequest, JoinResponse, JoinToken, ResponseError},
    tls::{TlsError, join_client},
};
use zeroize::Zeroizing;

use super::{
    RequestError, TimeOuts,
    api::{http_client, send, url},
};
use crate::{
    server::unix_time,
    wire::{ALPN, path},
};

/// The same request may be sent again without harm: the server answers it with the same leaf.
const ATTEMPTS: u32 = 3;
const PAUSE: Duration = Duration::from_secs(1);

/// A join that brought nothing. The token is as it was, unless the server says that it was used.
#[derive(Debug, thiserror::Error)]
pub enum JoinFailure {
    /// Only https to a server that the token pins.
    #[error("cannot join through {0}: a join takes an https address")]
    NotHttps(Url),
    /// TLS or HTTP cannot be set up.
    #[error("cannot join: {0}")]
    SetUp(String),
    /// The signing request cannot be made.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// See [`RequestError`].
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The answer does not hold together.
    #[error(transparent)]
    Answer(#[from] ResponseError),
}

impl From<TlsError> for JoinFailure {
    fn from(error: TlsError) -> Self {
        Self::SetUp(error.to_string())
    }
}

/// What a machine has after joining: the files to store, and the same verified.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Contents of `node_cert.pem`, `ca_cert.pem` and the revocation list.
    pub response: JoinResponse,
    /// What they say, verified against the token's pin and the node's key.
    pub accepted: Accepted,
}

/// Trades a token for a leaf. `name` only labels the request; the leaf's name comes from the grant.
///
/// Cancelling it may leave the token used; the same call again within ten minutes, with the same key, brings the leaf.
///
/// # Errors
/// [`JoinFailure`].
pub async fn join(
    server: &Url,
    token: &JoinToken,
    key: &NodeKey,
    name: &str,
    time_outs: TimeOuts,
) -> Result<Joined, JoinFailure> {
    if server.scheme() != "https" {
        return Err(JoinFailure::NotHttps(server.clone()));
    }
    let http = http_client(join_client(token, &ALPN)?, time_outs)
        .map_err(|error| JoinFailure::SetUp(error.to_string()))?;
    let request = JoinRequest::new(token, key, name)?;
    let body = Zeroizing::new(
        serde_json::to_string(&request).map_err(|error| JoinFailure::SetUp(error.to_string()))?,
    );
    let address = url(server, path::JOIN)?;
    let mut attempt = 1;
    let bytes = loop {
        let request = http
            .request(Method::POST, address.clone())
            .header(header::CONTENT_TYPE, "application/json")
            .body(body.as_bytes().to_vec());
        match send(server, request).await {
            Ok(bytes) => break bytes,
            Err(error) if attempt < ATTEMPTS && may_pass(&error) => {
                tracing::debug!(attempt, "joining: {error}; trying again");
                attempt += 1;
                tokio::time::sleep(PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    };
    let response: JoinResponse =
        serde_json::from_slice(&bytes).map_err(|error| RequestError::BadAnswer {
            server: server.to_string(),
            reason: error.to_string(),
        })?;
    let accepted = response.accept(token, key, unix_time())?;
    Ok(Joined { response, accepted })
}

fn may_pass(error: &RequestError) -> bool {
    match error {
        RequestError::Unreachable { .. } => true,
        RequestError::Refused { status, .. } => *status >= 500 || *status == 429,
        RequestError::BadAnswer { .. } => false,
    }
}
