//! The peer tonic: gRPC over TLS over TCP, messages of prost, client and server as its generator writes them.

use std::net::SocketAddr;
use std::path::Path;

use bytes::Bytes;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
};
use tonic::{Request, Response, Status};

use super::Echo;
use super::pki::{Files, NAME};

#[allow(
    clippy::pedantic,
    unreachable_pub,
    dead_code,
    reason = "what tonic's generator writes"
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/bench.v1.Echo.rs"));
}

use generated::echo_client::EchoClient;
use generated::echo_server::EchoServer;

/// What is sent and comes back.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub(crate) struct Message {
    #[prost(bytes = "bytes", tag = "1")]
    pub(crate) body: Bytes,
}

struct Here;

#[tonic::async_trait]
impl generated::echo_server::Echo for Here {
    async fn echo(&self, request: Request<Message>) -> Result<Response<Message>, Status> {
        Ok(Response::new(request.into_inner()))
    }
}

fn identity(files: &Files) -> anyhow::Result<(Certificate, Identity)> {
    let (certificate, key) = (
        std::fs::read(&files.certificate)?,
        std::fs::read(&files.key)?,
    );
    let ca = Certificate::from_pem(std::fs::read(&files.ca)?);
    Ok((ca, Identity::from_pem(certificate, key)))
}

pub(super) async fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let (ca, identity) = identity(&Files::of_server(pki))?;
    let tls = ServerTlsConfig::new().identity(identity).client_ca_root(ca);
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    let server = Server::builder()
        .tls_config(tls)?
        .add_service(EchoServer::new(Here));
    tokio::spawn(server.serve_with_incoming(incoming));
    Ok(address)
}

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl Echo> {
    let (ca, identity) = identity(&Files::of_client(pki))?;
    let tls = ClientTlsConfig::new()
        .ca_certificate(ca)
        .identity(identity)
        .domain_name(NAME);
    let endpoint = Endpoint::from_shared(format!("https://{server}"))?.tls_config(tls)?;
    Ok(EchoClient::new(endpoint.connect().await?))
}

impl Echo for EchoClient<Channel> {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        Ok(Self::echo(self, Message { body }).await?.into_inner().body)
    }
}
