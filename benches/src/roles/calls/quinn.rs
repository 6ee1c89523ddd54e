//! The peer quinn: a stream per call, the message on it and its end.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, Connection, Endpoint, ServerConfig, TransportConfig};
use warren_rpc::{Codec as _, Postcard};

use super::{Echo, MAX_CALLS, Message, pki};

/// More than a message takes.
const MAX_BYTES: usize = 1024;

pub(super) fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let tls = QuicServerConfig::try_from(pki::server(pki)?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let endpoint = Endpoint::server(config, listen)?;
    let address = endpoint.local_addr()?;
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let connection = incoming.await?;
            while let Ok((send, receive)) = connection.accept_bi().await {
                tokio::spawn(answer(send, receive));
            }
        }
        anyhow::Ok(())
    });
    Ok(address)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    // Its default of 100 would queue calls.
    transport.max_concurrent_bidi_streams(MAX_CALLS.into());
    transport
}

async fn answer(mut send: quinn::SendStream, mut receive: quinn::RecvStream) -> anyhow::Result<()> {
    let request: Message = Postcard::decode(receive.read_to_end(MAX_BYTES).await?.into())?;
    send.write_chunk(Postcard::encode(&request)?).await?;
    Ok(send.finish()?)
}

#[derive(Clone)]
struct Client(Connection);

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl Echo> {
    let tls = QuicClientConfig::try_from(pki::client(pki)?)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    let endpoint = Endpoint::client(SocketAddr::from(([0, 0, 0, 0], 0)))?;
    let connection = endpoint.connect_with(config, server, pki::NAME)?.await?;
    Ok(Client(connection))
}

impl Echo for Client {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        let (mut send, mut receive) = self.0.open_bi().await?;
        send.write_chunk(Postcard::encode(&Message { body })?)
            .await?;
        send.finish()?;
        let reply: Message = Postcard::decode(receive.read_to_end(MAX_BYTES).await?.into())?;
        Ok(reply.body)
    }
}
