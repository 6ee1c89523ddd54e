//! An HTTP/2 client that says exactly what it is told to.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, Bytes, BytesMut};
use futures::FutureExt;
use h2::client::{ResponseFuture, SendRequest};
use h2::{Reason, RecvStream, SendStream};
use hyper::http::{HeaderMap, HeaderName, HeaderValue, Request};
use rustls::pki_types::{PrivateKeyDer, ServerName, pem::PemObject};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio_rustls::TlsConnector;
use warren_identity::{CertificateAuthority, Trust};

use crate::support::DEADLINE;

/// What a client presents.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Key {
    Node,
    Companion,
    None,
}

pub(crate) fn tls(ca: &CertificateAuthority, member: &Trust, key: Key) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(ca.certificate().clone()).unwrap();
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let builder = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots);
    let mut config = match key {
        Key::None => builder.with_no_client_auth(),
        Key::Node => builder
            .with_client_auth_cert(member.chain(), member.key().private_key_der())
            .unwrap(),
        Key::Companion => {
            let companion = member.leaf().unwrap().companion().unwrap().clone();
            let pem = member.key().companion_key().to_pem();
            let key = PrivateKeyDer::from_pem_slice(pem.as_bytes()).unwrap();
            builder.with_client_auth_cert(vec![companion], key).unwrap()
        }
    };
    config.alpn_protocols = vec![b"h2".to_vec()];
    TlsConnector::from(Arc::new(config))
}

/// What the server says to these bytes, until it hangs up.
pub(crate) async fn say(address: SocketAddr, tls: TlsConnector, bytes: &[u8]) -> Vec<u8> {
    let socket = TcpStream::connect(address).await.unwrap();
    let name = ServerName::try_from("localhost").unwrap();
    let mut stream = tls.connect(name, socket).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut said = Vec::new();
    let read = stream.read_to_end(&mut said);
    // It ends without a farewell: that is an error of TLS, and an end all the same.
    let _ = tokio::time::timeout(DEADLINE, read).await.unwrap();
    said
}

/// What a call says.
pub(crate) struct Ask {
    request: Request<()>,
    body: BytesMut,
    left_open: bool,
}

impl Ask {
    pub(crate) fn to(path: &str) -> Self {
        let request = Request::post(format!("https://localhost{path}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers");
        Self {
            request: request.body(()).unwrap(),
            body: BytesMut::new(),
            left_open: false,
        }
    }

    pub(crate) fn method(mut self, method: &str) -> Self {
        *self.request.method_mut() = method.parse().unwrap();
        self
    }

    pub(crate) fn header(mut self, key: &str, value: &str) -> Self {
        let key = HeaderName::try_from(key).unwrap();
        let value = HeaderValue::try_from(value).unwrap();
        self.request.headers_mut().insert(key, value);
        self
    }

    pub(crate) fn without(mut self, key: &str) -> Self {
        self.request.headers_mut().remove(key);
        self
    }

    pub(crate) fn message(self, it: &impl prost::Message) -> Self {
        let bytes = message(&it.encode_to_vec());
        self.bytes(&bytes)
    }

    pub(crate) fn bytes(mut self, bytes: &[u8]) -> Self {
        self.body.extend_from_slice(bytes);
        self
    }

    /// Does not say that this was all.
    pub(crate) fn left_open(mut self) -> Self {
        self.left_open = true;
        self
    }
}

/// A message with its prefix.
pub(crate) fn message(bytes: &[u8]) -> Vec<u8> {
    let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[0], &length[..], bytes].concat()
}

/// What came back.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) http: u16,
    pub(crate) headers: HeaderMap,
    pub(crate) messages: Vec<Bytes>,
    /// Those at the end, or the headers where they are all.
    pub(crate) trailers: HeaderMap,
    /// `grpc-status`; 99 where there is none.
    pub(crate) status: u32,
}

/// A connection.
pub(crate) struct Raw {
    send: SendRequest<Bytes>,
    task: AbortHandle,
}

impl Raw {
    /// Fails where the server does not want this client, which with TLS 1.3 shows after the handshake only.
    pub(crate) async fn connect(
        address: SocketAddr,
        ca: &CertificateAuthority,
        member: &Trust,
        key: Key,
    ) -> io::Result<Self> {
        let socket = TcpStream::connect(address).await?;
        let name = ServerName::try_from("localhost").unwrap();
        let stream = tls(ca, member, key).connect(name, socket).await?;
        let (send, mut connection) = h2::client::handshake(stream)
            .await
            .map_err(io::Error::other)?;
        let mut ping = connection.ping_pong().unwrap();
        let task = tokio::spawn(connection.map(drop)).abort_handle();
        ping.ping(h2::Ping::opaque())
            .await
            .map_err(io::Error::other)?;
        Ok(Self { send, task })
    }

    pub(crate) fn break_off(&self) {
        self.task.abort();
    }

    pub(crate) async fn begin(&mut self, ask: Ask) -> Begun {
        self.try_begin(ask).await.unwrap()
    }

    async fn try_begin(&mut self, ask: Ask) -> Result<Begun, h2::Error> {
        let mut send = self.send.clone().ready().await?;
        let has_end = !ask.left_open && ask.body.is_empty();
        let (response, mut stream) = send.send_request(ask.request, has_end)?;
        if !has_end {
            stream.send_data(ask.body.freeze(), !ask.left_open)?;
        }
        Ok(Begun {
            stream,
            response: Some(response),
            head: None,
            body: None,
            arrived: BytesMut::new(),
        })
    }

    pub(crate) async fn call(&mut self, ask: Ask) -> Answer {
        self.try_call(ask).await.unwrap()
    }

    pub(crate) async fn try_call(&mut self, ask: Ask) -> Result<Answer, h2::Error> {
        self.try_begin(ask).await?.try_end().await
    }
}

/// A call under way.
pub(crate) struct Begun {
    stream: SendStream<Bytes>,
    response: Option<ResponseFuture>,
    head: Option<(u16, HeaderMap)>,
    body: Option<RecvStream>,
    arrived: BytesMut,
}

impl Begun {
    pub(crate) fn reset(&mut self) {
        self.stream.send_reset(Reason::CANCEL);
    }

    /// The next message; `None` at the end.
    pub(crate) async fn message(&mut self) -> Option<Bytes> {
        self.try_message().await.unwrap()
    }

    async fn try_message(&mut self) -> Result<Option<Bytes>, h2::Error> {
        if let Some(response) = self.response.take() {
            let response = tokio::time::timeout(DEADLINE, response).await.unwrap()?;
            let (parts, body) = response.into_parts();
            self.head = Some((parts.status.as_u16(), parts.headers));
            self.body = Some(body);
        }
        let body = self.body.as_mut().unwrap();
        loop {
            if let Some(prefix) = self.arrived.first_chunk::<5>() {
                let length = u32::from_be_bytes(prefix[1..].try_into().unwrap()) as usize;
                if self.arrived.len() >= 5 + length {
                    self.arrived.advance(5);
                    return Ok(Some(self.arrived.split_to(length).freeze()));
                }
            }
            let next = tokio::time::timeout(DEADLINE, body.data()).await.unwrap();
            let Some(data) = next.transpose()? else {
                return Ok(None);
            };
            body.flow_control().release_capacity(data.len())?;
            self.arrived.extend_from_slice(&data);
        }
    }

    pub(crate) async fn end(self) -> Answer {
        self.try_end().await.unwrap()
    }

    async fn try_end(mut self) -> Result<Answer, h2::Error> {
        let mut messages = Vec::new();
        while let Some(message) = self.try_message().await? {
            messages.push(message);
        }
        let trailers = self.body.as_mut().unwrap().trailers().await?;
        let (http, headers) = self.head.unwrap();
        let trailers = trailers.unwrap_or_else(|| headers.clone());
        let status = trailers.get("grpc-status");
        let status = status.map_or(99, |it| it.to_str().unwrap().parse().unwrap());
        Ok(Answer {
            http,
            headers,
            messages,
            trailers,
            status,
        })
    }
}
