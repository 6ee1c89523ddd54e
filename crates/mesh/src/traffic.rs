//! Counts the bytes inside our encrypted connections, by peer and kind of message.
//!
//! Wrapped around every muxer, after the security handshake: a substream's first bytes name its
//! protocol (see `core::multistream`), and from there on each read and write adds to the counters
//! of that kind. What is counted is the payload of substreams, multistream-select included, without
//! the framing of muxer, security and transport.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use futures::{AsyncRead, AsyncWrite};
use libp2p::PeerId;
use libp2p::core::StreamMuxer;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerEvent, SubstreamBox};
use warren_telemetry::NetworkMetrics;

use crate::core::multistream::{self, PEEK_LIMIT, Peek};
use crate::core::protocol::MessageType;
use crate::info::{Bandwidth, Traffic};

/// Rows of [`Bandwidth`] with a peer of their own; later ones are counted under `None`.
const MAX_ROWS: usize = 16_384;

/// Whom a substream's bytes are counted under, and what they carry.
type RowKey = (Option<PeerId>, MessageType);

#[derive(Debug, Default)]
struct Row {
    sent: AtomicU64,
    received: AtomicU64,
}

/// All byte counters of one node.
#[derive(Debug)]
pub(crate) struct TrafficTable {
    rows: Mutex<BTreeMap<RowKey, Arc<Row>>>,
    metrics: NetworkMetrics,
}

impl TrafficTable {
    pub(crate) fn new(metrics: NetworkMetrics) -> Self {
        Self {
            rows: Mutex::default(),
            metrics,
        }
    }

    pub(crate) fn snapshot(&self) -> Bandwidth {
        let rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        rows.iter()
            .map(|(key, row)| {
                let traffic = Traffic {
                    sent: row.sent.load(Ordering::Relaxed),
                    received: row.received.load(Ordering::Relaxed),
                };
                (*key, traffic)
            })
            .collect()
    }

    /// Counts blocks that are exchanged with a member beside the swarm.
    pub(crate) fn blocks(&self, peer: PeerId) -> BlockCounter {
        BlockCounter {
            row: self.row(Some(peer), MessageType::Blocks),
            metrics: self
                .metrics
                .traffic(&peer.to_string(), MessageType::Blocks.as_str()),
        }
    }

    fn row(&self, peer: Option<PeerId>, message_type: MessageType) -> Arc<Row> {
        let mut rows = self.rows.lock().unwrap_or_else(PoisonError::into_inner);
        let full = rows.len() >= MAX_ROWS && !rows.contains_key(&(peer, message_type));
        let peer = if full { None } else { peer };
        rows.entry((peer, message_type)).or_default().clone()
    }
}

/// Counts what is exchanged with one member on a bulk connection, which the swarm does not see, as kind `blocks`.
#[derive(Debug, Clone)]
pub struct BlockCounter {
    row: Arc<Row>,
    metrics: warren_telemetry::Traffic,
}

impl BlockCounter {
    /// Adds bytes given to the member and taken from it.
    pub fn add(&self, traffic: Traffic) {
        add(&self.row, &self.metrics, traffic);
    }
}

/// A muxer whose substreams are counted.
pub(crate) struct CountedMuxer {
    inner: StreamMuxerBox,
    table: Arc<TrafficTable>,
    channel_peer: PeerId,
    /// The peer for the table; strangers are counted together.
    counted_as: Option<PeerId>,
}

impl CountedMuxer {
    pub(crate) fn new(
        inner: StreamMuxerBox,
        table: Arc<TrafficTable>,
        channel_peer: PeerId,
        counted_as: Option<PeerId>,
    ) -> Self {
        Self {
            inner,
            table,
            channel_peer,
            counted_as,
        }
    }

    fn wrap(&self, inner: SubstreamBox, opener: Opener) -> CountedStream {
        CountedStream {
            inner,
            opener,
            table: self.table.clone(),
            channel_peer: self.channel_peer,
            counted_as: self.counted_as,
            state: State::Sniffing {
                head: Vec::new(),
                pending: Traffic::default(),
            },
        }
    }
}

impl StreamMuxer for CountedMuxer {
    type Substream = CountedStream;
    type Error = io::Error;

    fn poll_inbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        let polled = Pin::new(&mut self.inner).poll_inbound(cx);
        polled.map_ok(|stream| self.wrap(stream, Opener::Them))
    }

    fn poll_outbound(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<io::Result<Self::Substream>> {
        let polled = Pin::new(&mut self.inner).poll_outbound(cx);
        polled.map_ok(|stream| self.wrap(stream, Opener::Us))
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<StreamMuxerEvent>> {
        Pin::new(&mut self.inner).poll(cx)
    }
}

/// Who opened a substream, and so whose first bytes name its protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Opener {
    Us,
    Them,
}

enum State {
    /// The protocol is not known yet; bytes are kept to be counted once it is.
    Sniffing { head: Vec<u8>, pending: Traffic },
    Known {
        row: Arc<Row>,
        metrics: warren_telemetry::Traffic,
    },
}

/// A counted substream.
pub(crate) struct CountedStream {
    inner: SubstreamBox,
    opener: Opener,
    table: Arc<TrafficTable>,
    channel_peer: PeerId,
    counted_as: Option<PeerId>,
    state: State,
}

impl CountedStream {
    fn sent(&mut self, bytes: &[u8]) {
        self.count(
            Opener::Us,
            bytes,
            Traffic {
                sent: bytes.len() as u64,
                received: 0,
            },
        );
    }

    fn received(&mut self, bytes: &[u8]) {
        self.count(
            Opener::Them,
            bytes,
            Traffic {
                sent: 0,
                received: bytes.len() as u64,
            },
        );
    }

    fn count(&mut self, speaker: Opener, bytes: &[u8], traffic: Traffic) {
        let message_type = match &mut self.state {
            State::Known { row, metrics } => {
                add(row, metrics, traffic);
                return;
            }
            State::Sniffing { head, pending } => {
                pending.sent += traffic.sent;
                pending.received += traffic.received;
                if speaker != self.opener {
                    return;
                }
                let room = PEEK_LIMIT - head.len();
                head.extend_from_slice(&bytes[..bytes.len().min(room)]);
                match multistream::peek(head) {
                    Peek::NeedMore => return,
                    Peek::Proposal(protocol) => MessageType::of_protocol(protocol),
                    Peek::Foreign => MessageType::Other,
                }
            }
        };
        self.settle(message_type);
    }

    fn settle(&mut self, message_type: MessageType) {
        let row = self.table.row(self.counted_as, message_type);
        let metrics = self
            .table
            .metrics
            .traffic(&self.channel_peer.to_string(), message_type.as_str());
        if let State::Sniffing { pending, .. } = &self.state {
            add(&row, &metrics, *pending);
        }
        self.state = State::Known { row, metrics };
    }
}

impl Drop for CountedStream {
    fn drop(&mut self) {
        if let State::Sniffing { pending, .. } = &self.state
            && *pending != Traffic::default()
        {
            self.settle(MessageType::Other);
        }
    }
}

fn add(row: &Row, metrics: &warren_telemetry::Traffic, traffic: Traffic) {
    if traffic.sent > 0 {
        row.sent.fetch_add(traffic.sent, Ordering::Relaxed);
        metrics.sent(traffic.sent);
    }
    if traffic.received > 0 {
        row.received.fetch_add(traffic.received, Ordering::Relaxed);
        metrics.received(traffic.received);
    }
}

impl AsyncRead for CountedStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buffer);
        if let Poll::Ready(Ok(count)) = polled {
            self.received(&buffer[..count]);
        }
        polled
    }
}

impl AsyncWrite for CountedStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = Pin::new(&mut self.inner).poll_write(cx, bytes);
        if let Poll::Ready(Ok(count)) = polled {
            self.sent(&bytes[..count]);
        }
        polled
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_close(cx)
    }
}
