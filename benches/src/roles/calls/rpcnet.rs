//! The peer rpcnet 0.1.0 as published: QUIC of s2n-quic with a stream per call. It has no way to ask clients for a
//! certificate, and its TLS, s2n-tls, prefers AES-128-GCM where rustls takes AES-256-GCM.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use anyhow::Context as _;
use bytes::Bytes;
use rpcnet::{RpcClient, RpcConfig, RpcError, RpcServer};
use warren_rpc::{Codec, Postcard};

use super::pki::{Files, NAME};
use super::{Echo, Message};

const METHOD: &str = "echo";

pub(super) async fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let files = Files::of_server(pki);
    let config = RpcConfig::new(files.certificate, listen.to_string()).with_key_path(files.key);
    let mut server = RpcServer::new(config);
    server.register(METHOD, answer).await;
    let socket = server.bind()?;
    let address = server.socket_addr.context("bound to nothing")?;
    tokio::spawn(async move { server.start(socket).await });
    Ok(address)
}

async fn answer(request: Vec<u8>) -> Result<Vec<u8>, RpcError> {
    let internal = |status: warren_rpc::Status| RpcError::InternalError(status.to_string());
    let message: Message = Postcard::decode(request.into()).map_err(internal)?;
    Ok(Postcard::encode(&message).map_err(internal)?.into())
}

#[derive(Clone)]
struct Client(Arc<RpcClient>);

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl Echo> {
    let files = Files::of_client(pki);
    let config = RpcConfig::new(files.ca, "0.0.0.0:0").with_server_name(NAME);
    Ok(Client(Arc::new(RpcClient::connect(server, config).await?)))
}

impl Echo for Client {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Postcard::encode(&Message { body })?;
        let reply = self.0.call(METHOD, request.into()).await?;
        let reply: Message = Postcard::decode(reply.into())?;
        Ok(reply.body)
    }
}
