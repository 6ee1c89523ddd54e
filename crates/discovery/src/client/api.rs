//! One request to one server.

use std::{
    error::Error,
    io,
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use reqwest::{Client, Method, Url, header, redirect};
use rustls::ClientConfig as TlsConfig;
use serde::{Serialize, de::DeserializeOwned};
use warren_identity::{
    Capability, Csr, NodeRecord, Signed, Trust, UnixMillis,
    join::{JoinGrant, JoinResponse, RenewRequest},
    tls::{https_client_of, refusal_of},
};

use super::StartError;
use crate::{
    proof::{self, Subject},
    server::now,
    wire::{
        ALPN, BootstrapAnswer, ErrorAnswer, LeaveAnswer, PeersAnswer, PeersQuery, PublicKeyText,
        RegisterAnswer, RegisterRequest, path,
    },
};

/// The longest answer that is read: a page of 500 peers with their records is some 2 MiB.
const MAX_ANSWER_BYTES: usize = 8 * 1024 * 1024;
/// Half of what a server waits for the next request: it is the client that closes, and no request meets a closing server.
const POOL_IDLE: Duration = Duration::from_secs(5);

/// How long a request may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeOuts {
    /// TCP and TLS.
    pub connect: Duration,
    /// The whole request.
    pub request: Duration,
}

impl Default for TimeOuts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            request: Duration::from_secs(15),
        }
    }
}

/// A request that brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// No connection, no trust, or no answer in time.
    #[error("discovery server {server} cannot be reached: {reason}")]
    Unreachable {
        /// Which.
        server: String,
        /// Why.
        reason: String,
    },
    /// It answered with an error.
    #[error("discovery server {server} refused ({status} {code}): {message}")]
    Refused {
        /// Which.
        server: String,
        /// HTTP status.
        status: u16,
        /// The error's stable name.
        code: String,
        /// The error's text.
        message: String,
        /// When it wants to be asked again.
        retry_after: Option<Duration>,
    },
    /// It answered with something else than expected.
    #[error("discovery server {server} gave an answer that is not understood: {reason}")]
    BadAnswer {
        /// Which.
        server: String,
        /// Why.
        reason: String,
    },
}

impl RequestError {
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Unreachable { .. } => "unreachable",
            Self::Refused { .. } => "refused",
            Self::BadAnswer { .. } => "bad_answer",
        }
    }
}

/// The servers' API, as this node uses it. Every request shows the node's leaf in TLS, and is signed as well, for servers
/// behind a front end.
pub struct ServerApi {
    http: Client,
    trust: Trust,
    /// Signed requests of one node rise strictly in time.
    last_stamp: AtomicU64,
}

impl ServerApi {
    /// An API for a node with this trust.
    ///
    /// # Errors
    /// [`StartError::Tls`] and [`StartError::Http`].
    pub fn new(trust: Trust, time_outs: TimeOuts) -> Result<Self, StartError> {
        let http = http_client(
            https_client_of(&trust, Capability::Discovery, &ALPN)?,
            time_outs,
        )
        .map_err(|error| StartError::Http(error.to_string()))?;
        Ok(Self {
            http,
            trust,
            last_stamp: AtomicU64::new(0),
        })
    }

    /// Seeds and live nodes.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn bootstrap(&self, server: &Url) -> Result<BootstrapAnswer, RequestError> {
        self.ask(server, Method::GET, path::BOOTSTRAP, None::<&()>)
            .await
    }

    /// Registers this node.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn register(
        &self,
        server: &Url,
        record: &Signed<NodeRecord>,
    ) -> Result<RegisterAnswer, RequestError> {
        let told = record.value();
        let request = RegisterRequest {
            peer_id: told.peer_id,
            addresses: told.addresses.clone(),
            organization_id: told.organization.clone(),
            public_key: PublicKeyText::new(&self.trust.key().public_key()),
            region: told.region.clone(),
            record: Some(BASE64.encode(record.to_bytes())),
        };
        self.ask(server, Method::POST, path::REGISTER, Some(&request))
            .await
    }

    /// Says that this node lives.
    ///
    /// # Errors
    /// [`RequestError`]; with the code `not_registered` the node has to register again.
    pub async fn heartbeat(&self, server: &Url) -> Result<RegisterAnswer, RequestError> {
        self.ask(server, Method::POST, path::HEARTBEAT, None::<&()>)
            .await
    }

    /// Ends this node's registration.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn leave(&self, server: &Url) -> Result<LeaveAnswer, RequestError> {
        self.ask(server, Method::DELETE, path::REGISTER, None::<&()>)
            .await
    }

    /// A page of the peers of this node's organisation.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn peers(
        &self,
        server: &Url,
        query: &PeersQuery,
    ) -> Result<PeersAnswer, RequestError> {
        let mut url = url(server, path::PEERS)?;
        {
            let mut pairs = url.query_pairs_mut();
            let status = query
                .status
                .and_then(|status| serde_json::to_value(status).ok());
            let fields = [
                ("organization", query.organization.clone()),
                ("region", query.region.clone()),
                (
                    "status",
                    status.and_then(|status| status.as_str().map(str::to_owned)),
                ),
                ("limit", query.limit.map(|limit| limit.to_string())),
                ("cursor", query.cursor.clone()),
            ];
            for (name, value) in fields {
                if let Some(value) = value {
                    pairs.append_pair(name, &value);
                }
            }
        }
        let target = match url.query() {
            Some(query) => format!("{}?{query}", path::PEERS),
            None => path::PEERS.to_owned(),
        };
        self.ask(server, Method::GET, &target, None::<&()>).await
    }

    /// A fresh leaf for this node, with the names and capabilities it has. The caller puts it in place
    /// ([`Trust::replace_leaf`]), which verifies it.
    ///
    /// # Errors
    /// [`RequestError`]; the code `no_issuer` says to ask another server.
    pub async fn renew(&self, server: &Url, name: &str) -> Result<JoinResponse, RequestError> {
        let csr_pem =
            Csr::create_pem(self.trust.key(), name).map_err(|error| RequestError::BadAnswer {
                server: server.to_string(),
                reason: error.to_string(),
            })?;
        let request = RenewRequest { csr_pem };
        self.ask(server, Method::POST, path::RENEW, Some(&request))
            .await
    }

    /// The revocation lists in force at the server, PEM; for `warren_identity::join::revocations_from_pem`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn crl_pem(&self, server: &Url) -> Result<String, RequestError> {
        let bytes = self
            .exchange(server, Method::GET, path::CRL, Vec::new())
            .await?;
        String::from_utf8(bytes).map_err(|_| bad_answer(server, "it is no text"))
    }

    /// Opens a join token; takes a leaf with the capability `admin`.
    ///
    /// # Errors
    /// [`RequestError`].
    pub async fn create_grant(&self, server: &Url, grant: &JoinGrant) -> Result<(), RequestError> {
        let _: serde_json::Value = self
            .ask(server, Method::POST, path::TOKENS, Some(grant))
            .await?;
        Ok(())
    }

    async fn ask<A: DeserializeOwned>(
        &self,
        server: &Url,
        method: Method,
        target: &str,
        body: Option<&(impl Serialize + Sync)>,
    ) -> Result<A, RequestError> {
        let body = match body {
            Some(body) => {
                serde_json::to_vec(body).map_err(|error| bad_answer(server, &error.to_string()))?
            }
            None => Vec::new(),
        };
        let bytes = self.exchange(server, method, target, body).await?;
        serde_json::from_slice(&bytes).map_err(|error| bad_answer(server, &error.to_string()))
    }

    async fn exchange(
        &self,
        server: &Url,
        method: Method,
        target: &str,
        body: Vec<u8>,
    ) -> Result<Vec<u8>, RequestError> {
        let subject = Subject {
            method: method.as_str(),
            target,
            body: &body,
        };
        let headers = proof::headers(subject, &self.trust.chain(), self.trust.key(), self.stamp())
            .map_err(|error| bad_answer(server, &error.to_string()))?;
        let mut request = self.http.request(method.clone(), url(server, target)?);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if !body.is_empty() {
            request = request
                .header(header::CONTENT_TYPE, "application/json")
                .body(body);
        }
        send(server, request).await
    }

    /// Now, or a millisecond after the last stamp if the clock did not move.
    fn stamp(&self) -> UnixMillis {
        let now = now().0;
        let next = |last: u64| Some(now.max(last + 1));
        let last = self
            .last_stamp
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, next)
            .unwrap_or_else(|last| last);
        UnixMillis(now.max(last + 1))
    }
}

pub(super) fn http_client(tls: TlsConfig, time_outs: TimeOuts) -> Result<Client, reqwest::Error> {
    Client::builder()
        .tls_backend_preconfigured(tls)
        .connect_timeout(time_outs.connect)
        .timeout(time_outs.request)
        // A discovery server never redirects; whoever does is something else.
        .redirect(redirect::Policy::none())
        // The mesh's own links do not go through the environment's web proxy.
        .no_proxy()
        .pool_idle_timeout(POOL_IDLE)
        .user_agent(concat!("warren/", env!("CARGO_PKG_VERSION")))
        .build()
}

pub(super) fn url(server: &Url, target: &str) -> Result<Url, RequestError> {
    server
        .join(target)
        .map_err(|error| bad_answer(server, &error.to_string()))
}

pub(super) async fn send(
    server: &Url,
    request: reqwest::RequestBuilder,
) -> Result<Vec<u8>, RequestError> {
    let unreachable = |error: &reqwest::Error| RequestError::Unreachable {
        server: server.to_string(),
        reason: root_cause(error),
    };
    let mut response = request.send().await.map_err(|error| unreachable(&error))?;
    let status = response.status();
    let retry_after = response
        .headers()
        .get(header::RETRY_AFTER)
        .and_then(|value| value.to_str().ok()?.parse().ok())
        .map(Duration::from_secs);
    let mut bytes = Vec::new();
    while let Some(chunk) = response
        .chunk()
        .await
        .map_err(|error| unreachable(&error))?
    {
        if bytes.len() + chunk.len() > MAX_ANSWER_BYTES {
            return Err(bad_answer(server, "it is longer than any answer should be"));
        }
        bytes.extend_from_slice(&chunk);
    }
    if status.is_success() {
        return Ok(bytes);
    }
    let (code, message) = match serde_json::from_slice::<ErrorAnswer>(&bytes) {
        Ok(answer) => (answer.error.code, answer.error.message),
        Err(_) => (
            "unknown".to_owned(),
            "it gave no reason that can be read".to_owned(),
        ),
    };
    Err(RequestError::Refused {
        server: server.to_string(),
        status: status.as_u16(),
        code,
        message,
        retry_after,
    })
}

fn bad_answer(server: &Url, reason: &str) -> RequestError {
    RequestError::BadAnswer {
        server: server.to_string(),
        reason: reason.to_owned(),
    }
}

/// The innermost error says what happened; those around it only that something did.
fn root_cause(error: &reqwest::Error) -> String {
    if error.is_timeout() {
        return "no answer in time".to_owned();
    }
    let mut cause: &dyn Error = error;
    loop {
        if let Some(refusal) = cause.downcast_ref().and_then(refusal_of) {
            return format!("this node refuses its certificate: {refusal}");
        }
        // `io::Error` passes over what it carries when asked for its source.
        let carried = cause
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        match carried
            .map(|inner| inner as &dyn Error)
            .or_else(|| cause.source())
        {
            Some(inner) => cause = inner,
            None => return cause.to_string(),
        }
    }
}
