//! The management API as commands use it.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_api::types::{Document, Documents, Peer, Peers};
use warren_daemon::files;
use warren_identity::tls::{https_client, https_client_of_node, refusal_of};
use warren_identity::{PeerId, Trust};

use crate::output::Failure;

/// How long a node may take to accept a connection.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How long the whole answer to a plain question may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// A request that moves nothing for this long is given up. A node that verifies a large store, or fetches a large folder
/// before its first byte, is silent for hours.
const STALL_TIMEOUT: Duration = Duration::from_secs(12 * 3600);
/// How often a silent connection is probed: a machine that has gone is noticed long before the stall time-out.
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);

/// A node's management API and the token that opens it.
pub(crate) struct ApiClient {
    http: reqwest::Client,
    base: String,
    token: String,
}

/// Where the API is and what opens it.
pub(crate) struct ApiAddress {
    /// `http://127.0.0.1:8080`
    pub(crate) base: String,
    /// The admin token's file.
    pub(crate) token_file: PathBuf,
    /// How an HTTPS API is known; by the system's CAs where nothing of the node is.
    pub(crate) server: Option<KnownServer>,
}

/// What the configuration of a node says of its HTTPS.
pub(crate) struct KnownServer {
    /// The organisation's CAs; no certificate of ours is shown.
    pub(crate) trust: Trust,
    /// The node that is meant. Its leaf is taken under whatever address it is dialled; any other certificate of the CAs
    /// must name that address.
    pub(crate) node: Option<PeerId>,
}

impl ApiClient {
    pub(crate) fn new(address: ApiAddress) -> anyhow::Result<Self> {
        let token = files::read_secret(
            "the admin token",
            &address.token_file,
            "the node writes it when it starts; is it running, and does --config or --token-file name its own?",
        )?;
        let mut builder = reqwest::Client::builder()
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(STALL_TIMEOUT)
            .tcp_keepalive(KEEPALIVE_INTERVAL)
            .no_proxy()
            .https_only(address.base.starts_with("https"));
        if let Some(server) = &address.server {
            let alpn: &[&[u8]] = &[b"http/1.1"];
            let tls = match server.node {
                Some(node) => https_client_of_node(&server.trust, node, alpn),
                None => https_client(&server.trust, alpn),
            };
            builder = builder.tls_backend_preconfigured(tls.context("cannot set up TLS")?);
        } else if !address.base.starts_with("https") {
            // Nothing to check: it must not need a system's CA certificates, which a container may lack.
            builder = builder.tls_certs_only([]);
        }
        Ok(Self {
            http: builder.build().context("cannot set up the HTTP client")?,
            base: address.base.trim_end_matches('/').to_owned(),
            token: token.trim().to_owned(),
        })
    }

    /// A request to `path`, which begins with a slash.
    pub(crate) fn request(&self, method: Method, path: &str) -> RequestBuilder {
        self.http
            .request(method, format!("{}{path}", self.base))
            .bearer_auth(&self.token)
    }

    /// Sends a request; an answer that is no success becomes an error with the node's own words.
    pub(crate) async fn send(&self, request: RequestBuilder) -> anyhow::Result<Response> {
        let response = request.send().await.map_err(|error| self.explain(&error))?;
        if response.status().is_success() {
            return Ok(response);
        }
        Err(refusal(response).await)
    }

    pub(crate) async fn get<T: DeserializeOwned>(&self, path: &str) -> anyhow::Result<T> {
        let request = self.request(Method::GET, path).timeout(ANSWER_TIMEOUT);
        let response = self.send(request).await?;
        response.json().await.with_context(|| {
            format!("the node's answer to GET {path} is not what this version expects")
        })
    }

    /// Gathers a list that comes in pages: all of it, or its first `most` entries.
    pub(crate) async fn list<P: Page>(
        &self,
        path: &str,
        query: &(impl Serialize + ?Sized),
        most: Option<usize>,
    ) -> anyhow::Result<Vec<P::Entry>> {
        let mut entries = Vec::new();
        let mut cursor: Option<String> = None;
        loop {
            let left = most.map_or(P::MOST, |most| {
                most.saturating_sub(entries.len()).min(P::MOST)
            });
            if left == 0 {
                return Ok(entries);
            }
            let request = self
                .request(Method::GET, path)
                .query(query)
                .query(&[("limit", left)])
                .query(&cursor.map(|cursor| [("cursor", cursor)]))
                .timeout(ANSWER_TIMEOUT);
            let page: P = self.send(request).await?.json().await.with_context(|| {
                format!("the node's answer to GET {path} is not what this version expects")
            })?;
            let (more, next) = page.into_parts();
            entries.extend(more);
            cursor = next;
            if cursor.is_none() {
                return Ok(entries);
            }
        }
    }

    /// Asks `/health` or `/ready`: whether it passes, and what it says.
    pub(crate) async fn probe(&self, path: &str) -> anyhow::Result<(bool, String)> {
        let response = self
            .request(Method::GET, path)
            .timeout(ANSWER_TIMEOUT)
            .send()
            .await
            .map_err(|error| self.explain(&error))?;
        let passes = response.status().is_success();
        let body = response
            .text()
            .await
            .map_err(|error| self.explain(&error))?;
        Ok((passes, body))
    }

    fn explain(&self, error: &reqwest::Error) -> anyhow::Error {
        let base = &self.base;
        let failure = if let Some(tls) = tls_error(error) {
            Failure::new("tls", tls_message(base, tls))
        } else if error.is_connect() {
            let message = format!(
                "no node answers at {base}: start it with `warren start`, or name another with --api or --config"
            );
            Failure::new("no_node", message)
        } else if error.is_timeout() {
            let message = format!("the node at {base} stopped answering: its log says more");
            Failure::new("timeout", message)
        } else if base.starts_with("http:") && root_cause(error) == NO_HTTP {
            let message = format!(
                "what answers at {base} speaks no HTTP: where api.tls.enabled is on, write https://{}",
                base.trim_start_matches("http://")
            );
            Failure::new("no_http", message)
        } else {
            let message = format!(
                "the conversation with the node at {base} broke off: {}",
                root_cause(error)
            );
            Failure::new("broken_off", message)
        };
        failure.into()
    }
}

/// What the HTTP library says of an answer that is none, as the alert of a TLS server is.
const NO_HTTP: &str = "invalid HTTP version parsed";

/// Why TLS failed, if that is what failed.
fn tls_error<'a>(error: &'a (dyn std::error::Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = Some(error);
    while let Some(present) = cause {
        if let Some(tls) = present.downcast_ref::<rustls::Error>() {
            return Some(tls);
        }
        // An I/O error hides the error that it is made from, and gives that one's source as its own.
        let inner = present
            .downcast_ref::<std::io::Error>()
            .and_then(std::io::Error::get_ref);
        cause = match inner {
            Some(inner) => Some(inner),
            None => present.source(),
        };
    }
    None
}

fn tls_message(base: &str, error: &rustls::Error) -> String {
    use rustls::{CertificateError, Error};
    let failed = format!("TLS with the node at {base} failed");
    match error {
        Error::InvalidMessage(_) => format!(
            "what answers at {base} speaks no TLS: where api.tls.enabled is off, write http://{}",
            base.trim_start_matches("https://")
        ),
        Error::InvalidCertificate(
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
        ) => format!(
            "{failed}: its certificate neither names this address nor is that of the node whose configuration was read; \
             --config FILE of that very node finds it, and so does a certificate issued with --ip or --dns"
        ),
        Error::InvalidCertificate(CertificateError::UnknownIssuer) => format!(
            "{failed}: nothing here vouches for its certificate; --config FILE of that node names the CA that does"
        ),
        other => {
            let reason = refusal_of(other).map_or_else(|| other.to_string(), ToString::to_string);
            format!(
                "{failed}: {reason}; `warren cert show` tells what is in a certificate, `warren check` whether the node's is good"
            )
        }
    }
}

/// One page of a list.
pub(crate) trait Page: DeserializeOwned {
    /// What is listed.
    type Entry;
    /// Entries that a page can have.
    const MOST: usize;
    /// The entries, and where the next page begins.
    fn into_parts(self) -> (Vec<Self::Entry>, Option<String>);
}

impl Page for Documents {
    type Entry = Document;
    const MOST: usize = 1000;
    fn into_parts(self) -> (Vec<Document>, Option<String>) {
        (self.documents, self.next_cursor)
    }
}

impl Page for Peers {
    type Entry = Peer;
    const MOST: usize = 500;
    fn into_parts(self) -> (Vec<Peer>, Option<String>) {
        (self.peers, self.next_cursor)
    }
}

async fn refusal(response: Response) -> anyhow::Error {
    let status = response.status();
    let body: Option<serde_json::Value> = response.json().await.ok();
    match body.as_ref().and_then(Failure::from_answer) {
        Some(failure) => failure.into(),
        None if status == StatusCode::NOT_FOUND => {
            anyhow!("the node does not know this request: is it an older version?")
        }
        None => anyhow!("the node answered {status}"),
    }
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}
