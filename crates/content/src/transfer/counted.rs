//! Counts what a bulk connection carries: blocks and requests, without what TLS adds.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use warren_identity::PeerId;

/// Where the bytes exchanged with one peer are counted. Told of every read and write: must be cheap.
pub trait ByteCounter: Send + Sync + 'static {
    /// Bytes given to the peer.
    fn sent(&self, bytes: u64);
    /// Bytes taken from the peer.
    fn received(&self, bytes: u64);
}

/// Gives the counter of a peer, once per connection.
pub type CounterOf = dyn Fn(PeerId) -> Arc<dyn ByteCounter> + Send + Sync;

/// A stream whose bytes are counted, where somebody counts.
pub(super) struct Counted<S> {
    inner: S,
    counter: Option<Arc<dyn ByteCounter>>,
}

impl<S> Counted<S> {
    pub(super) fn new(inner: S, peer: PeerId, counters: Option<&Arc<CounterOf>>) -> Self {
        Self {
            inner,
            counter: counters.map(|counters| counters(peer)),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(context, into);
        if let Some(counter) = &self.counter {
            counter.received((into.filled().len() - before) as u64);
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(context, bytes);
        if let (Some(counter), Poll::Ready(Ok(count))) = (&self.counter, &polled) {
            counter.sent(*count as u64);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(context)
    }
}
