//! Ours, as a person writes it: a trait with the `service` attribute.

use std::net::SocketAddr;
use std::path::Path;

use anyhow::anyhow;
use bytes::Bytes;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{Client, ClientOptions, Connection, Context, Server, ServerOptions, Status};

use super::{Echo, MAX_CALLS, Message};
use crate::roles::warren::{CLIENT, SERVER, trust};

/// What is called.
#[warren_rpc::service(package = "bench.v1")]
pub(crate) trait Parrot {
    /// The same again.
    async fn echo(&self, context: Context, message: Message) -> Result<Message, Status>;
}

struct Here;

impl Parrot for Here {
    async fn echo(&self, _: Context, message: Message) -> Result<Message, Status> {
        Ok(message)
    }
}

pub(super) fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let options = ServerOptions {
        max_calls: MAX_CALLS as usize,
        max_calls_per_connection: MAX_CALLS,
        ..ServerOptions::default()
    };
    let server = Server::builder()
        .with_trust(trust(pki, SERVER)?)
        .with_options(options)
        .bind(listen)?;
    server.register(ParrotServer::new(Here));
    let address = server.local_address()?;
    tokio::spawn(async move { server.run().await });
    Ok(address)
}

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl Echo> {
    let client = Client::new(trust(pki, CLIENT)?, ClientOptions::default())?;
    let connection = client.connect(server, ExpectedPeer::AnyMember).await?;
    Ok(ParrotClient::new(connection))
}

impl Echo for ParrotClient<Connection> {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        // Through the trait's method of the same name.
        let reply = Self::echo(self, Context::new(), Message { body }).await;
        Ok(reply.map_err(|error| anyhow!("{error}"))?.body)
    }
}
