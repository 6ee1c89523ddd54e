//! What TCP gives at best: our frames and our table of calls over TLS over TCP, written in batches as our lanes are,
//! without deadlines, admission, limits or dispatch by name.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use anyhow::{Context as _, bail};
use bytes::{Bytes, BytesMut};
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use warren_rpc::core::calls::{Answer, Calls};
use warren_rpc::core::frame::{Body, Frame, Terms, put_call, put_reply};
use warren_rpc::core::wire::FrameReader;
use warren_rpc::{Codec, Postcard, Status};

use super::{Echo, MAX_CALLS, Message, pki};

/// Read at a time.
const READ_BYTES: usize = 64 * 1024;
/// More than a frame takes.
const MAX_FRAME_BYTES: usize = 1024;

pub(super) async fn serve(pki: &Path, listen: SocketAddr) -> anyhow::Result<SocketAddr> {
    let acceptor = TlsAcceptor::from(Arc::new(pki::server(pki)?));
    let listener = TcpListener::bind(listen).await?;
    let address = listener.local_addr()?;
    tokio::spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            tokio::spawn(answer(acceptor.clone(), socket));
        }
    });
    Ok(address)
}

async fn answer(acceptor: TlsAcceptor, socket: TcpStream) -> anyhow::Result<()> {
    socket.set_nodelay(true)?;
    let mut stream = acceptor.accept(socket).await?;
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    let (mut read, mut out) = (BytesMut::new(), BytesMut::new());
    loop {
        read.reserve(READ_BYTES);
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(());
        }
        reader.push(read.split().freeze());
        while let Some((kind, payload)) = reader.next_frame()? {
            let Frame::Call { id, body, .. } = Frame::parse(kind, payload)? else {
                bail!("a frame that is no call");
            };
            let message: Message = Postcard::decode(body.bytes)?;
            put_reply(&mut out, id, &Body::plain(Postcard::encode(&message)?));
        }
        stream.write_all(&out).await?;
        stream.flush().await?;
        out.clear();
    }
}

#[derive(Clone)]
struct Client(Arc<Lane>);

#[derive(Default)]
struct Lane {
    state: Mutex<State>,
    written: Notify,
}

#[derive(Default)]
struct State {
    calls: Calls,
    out: BytesMut,
}

pub(super) async fn connect(pki: &Path, server: SocketAddr) -> anyhow::Result<impl Echo> {
    let connector = TlsConnector::from(Arc::new(pki::client(pki)?));
    let socket = TcpStream::connect(server).await?;
    socket.set_nodelay(true)?;
    let stream = connector
        .connect(ServerName::try_from(pki::NAME)?, socket)
        .await?;
    let (receive, send) = tokio::io::split(stream);
    let lane = Arc::new(Lane::default());
    tokio::spawn(write(Arc::clone(&lane), send));
    let reading = Arc::clone(&lane);
    tokio::spawn(async move {
        if let Err(error) = read(&reading, receive).await {
            let lost = Status::new(warren_rpc::Code::Unavailable, error.to_string());
            let wakers = reading.lock().calls.lose(&lost);
            wakers.into_iter().for_each(Waker::wake);
        }
    });
    Ok(Client(lane))
}

impl Lane {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn write(lane: Arc<Lane>, mut send: impl AsyncWrite + Unpin) -> anyhow::Result<()> {
    loop {
        lane.written.notified().await;
        // Every caller that is ready queues its call first.
        tokio::task::yield_now().await;
        let batch = lane.lock().out.split();
        send.write_all(&batch).await?;
        send.flush().await?;
    }
}

async fn read(lane: &Lane, mut receive: impl AsyncRead + Unpin) -> anyhow::Result<()> {
    let mut reader = FrameReader::new(MAX_FRAME_BYTES);
    let mut bytes = BytesMut::new();
    let mut wakers = Vec::new();
    loop {
        bytes.reserve(READ_BYTES);
        if receive.read_buf(&mut bytes).await? == 0 {
            bail!("the server ended the connection");
        }
        reader.push(bytes.split().freeze());
        {
            let mut state = lane.lock();
            while let Some((kind, payload)) = reader.next_frame()? {
                let Frame::Reply { id, body } = Frame::parse(kind, payload)? else {
                    bail!("a frame that is no reply");
                };
                wakers.extend(state.calls.answer(id, Answer::Reply(body)).1);
            }
        }
        wakers.drain(..).for_each(Waker::wake);
    }
}

impl Echo for Client {
    async fn echo(&mut self, body: Bytes) -> anyhow::Result<Bytes> {
        let request = Body::plain(Postcard::encode(&Message { body })?);
        let id = {
            let mut state = self.0.lock();
            let id = state
                .calls
                .begin(MAX_CALLS as usize, None)
                .context("too many calls in flight")?;
            put_call(&mut state.out, id, 0, &Terms::default(), &request);
            id
        };
        self.0.written.notify_one();
        match poll_fn(|context| self.0.lock().calls.poll(id, context.waker())).await {
            Answer::Reply(body) => {
                let message: Message = Postcard::decode(body.bytes)?;
                Ok(message.body)
            }
            other => bail!("no reply: {other:?}"),
        }
    }
}
