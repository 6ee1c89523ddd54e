//! The peer tarpc: bincode in length-delimited frames over TLS over TCP, put together as its own example does it.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use futures::StreamExt as _;
use rustls::pki_types::ServerName;
use tarpc::context::Context;
use tarpc::serde_transport;
use tarpc::server::{BaseChannel, Channel as _};
use tarpc::tokio_serde::formats::Bincode;
use tarpc::tokio_util::codec::length_delimited::LengthDelimitedCodec;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::{Message, pki};

#[tarpc::service]
pub(crate) trait Parrot {
    async fn echo(message: Message) -> Message;
}

#[derive(Clone)]
struct Here;

impl Parrot for Here {
    async fn echo(self, _: Context, message: Message) -> Message {
        message
    }
}

pub(super) async fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let acceptor = TlsAcceptor::from(Arc::new(pki::server(pki)?));
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        loop {
            let (socket, _) = listener.accept().await?;
            socket.set_nodelay(true)?;
            let stream = acceptor.accept(socket).await?;
            let framed = LengthDelimitedCodec::builder().new_framed(stream);
            let transport = serde_transport::new(framed, Bincode::default());
            let requests = BaseChannel::with_defaults(transport).execute(Here.serve());
            tokio::spawn(requests.for_each(async |request| {
                tokio::spawn(request);
            }));
        }
        #[expect(unreachable_code, reason = "names the type of the errors above")]
        anyhow::Ok(())
    });
    Ok(address)
}

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl super::Echo> {
    let connector = TlsConnector::from(Arc::new(pki::client(pki)?));
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let stream = connector
        .connect(ServerName::try_from(pki::NAME)?, socket)
        .await?;
    let framed = LengthDelimitedCodec::builder().new_framed(stream);
    let transport = serde_transport::new(framed, Bincode::default());
    Ok(ParrotClient::new(tarpc::client::Config::default(), transport).spawn())
}

impl super::Echo for ParrotClient {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        let context = tarpc::context::current();
        Ok(Self::echo(self, context, Message { body }).await?.body)
    }
}
