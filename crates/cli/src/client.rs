//! The management API as commands use it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use reqwest::{Method, RequestBuilder, Response, StatusCode};
use serde::Serialize;
use serde::de::DeserializeOwned;
use warren_api::types::{Document, Documents, Peer, Peers};
use warren_daemon::files;

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
    /// CA certificates that an HTTPS API is checked against.
    pub(crate) ca_cert: Option<PathBuf>,
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
        if let Some(path) = &address.ca_cert {
            builder = builder.tls_certs_only(certificates(path)?);
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
        let failure = if error.is_connect() {
            let message = format!(
                "no node answers at {}: start it with `warren start`, or name another with --api or --config",
                self.base
            );
            Failure::new("no_node", message)
        } else if error.is_timeout() {
            let message = format!(
                "the node at {} stopped answering: its log says more",
                self.base
            );
            Failure::new("timeout", message)
        } else {
            let message = format!(
                "the conversation with the node at {} broke off: {}",
                self.base,
                root_cause(error)
            );
            Failure::new("broken_off", message)
        };
        failure.into()
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

fn certificates(path: &Path) -> anyhow::Result<Vec<reqwest::Certificate>> {
    let text = files::read_text(
        "the CA certificate",
        path,
        "name it as network.security.ca_cert",
    )?;
    let certificates = reqwest::Certificate::from_pem_bundle(text.as_bytes())
        .map_err(|error| anyhow!("{} holds no certificate: {error}", path.display()))?;
    if certificates.is_empty() {
        bail!("{} holds no certificate", path.display());
    }
    Ok(certificates)
}
