//! One connection at the server: who is there, its streams, its end.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::{BufMut, BytesMut};
use quinn::Incoming;
use tokio::task::JoinSet;
use warren_identity::UnixTime;

use super::session::Session;
use super::{PROTOCOL_ERROR, Phase, STOPPED, Shared, lane, stream};
use crate::client::peer_of;
use crate::core::frame::{CALL, CONTROL, Control, Hello, LANE, put_control};
use crate::observe::{Refused, RpcMetrics};

/// How long a client may take for its handshake.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a stream may take to say what it is.
const FIRST_BYTE_TIMEOUT: Duration = Duration::from_secs(5);
/// The most lanes one client may open.
const MAX_LANES: usize = 16;
/// How often a standing connection's certificate is looked at again.
const RECHECK_INTERVAL: Duration = Duration::from_secs(1);

/// What the tasks of one connection share.
pub(super) struct Peer {
    session: Arc<Session>,
    pub(super) quic: quinn::Connection,
    lanes: AtomicUsize,
}

impl Deref for Peer {
    type Target = Arc<Session>;

    fn deref(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Peer {
    /// Ends the connection of a client that does not keep to the protocol.
    pub(super) fn protocol_error(&self, error: &dyn std::fmt::Display) {
        self.shared.refused(Refused::Protocol);
        tracing::warn!(peer = %self.member.peer_id, %error, "closed a connection that does not keep to the protocol");
        self.quic
            .close(PROTOCOL_ERROR, error.to_string().as_bytes());
    }
}

/// Serves one connection to its end.
pub(super) async fn serve(shared: Arc<Shared>, incoming: Incoming) {
    let address = incoming.remote_address();
    let quic = match tokio::time::timeout(HANDSHAKE_TIMEOUT, incoming).await {
        Ok(Ok(quic)) => quic,
        Ok(Err(error)) => {
            shared.refused(Refused::Handshake);
            tracing::info!(%address, %error, "refused a connection");
            return;
        }
        Err(_) => {
            shared.refused(Refused::Handshake);
            tracing::info!(%address, "a connection did not finish its handshake in time");
            return;
        }
    };
    let member = match peer_of(&shared.trust, &quic) {
        Ok(member) => member,
        Err(refusal) => {
            shared.refused(Refused::NotMember);
            tracing::info!(%address, %refusal, "refused a connection");
            quic.close(STOPPED, b"refused");
            return;
        }
    };
    let peer = Arc::new(Peer {
        session: Session::new(shared, member),
        quic,
        lanes: AtomicUsize::new(0),
    });
    let _counted = peer.shared.metrics.as_ref().map(RpcMetrics::connected);
    let mut carried = Carried::default();
    let mut streams = JoinSet::new();
    streams.spawn(speak(Arc::clone(&peer)));
    let mut phase = peer.shared.phase.subscribe();
    let mut recheck = tokio::time::interval(RECHECK_INTERVAL);
    loop {
        tokio::select! {
            accepted = peer.quic.accept_bi() => {
                let Ok((send, receive)) = accepted else { break };
                streams.spawn(serve_stream(Arc::clone(&peer), send, receive));
            }
            Some(_) = streams.join_next() => {}
            _ = phase.wait_for(|phase| *phase == Phase::Stopped) => break,
            _ = recheck.tick() => {
                carried.count(&peer);
                if let Err(refusal) = peer.shared.trust.recheck(&peer.member, UnixTime::now()) {
                    tracing::info!(peer = %peer.member.peer_id, %refusal, "closed a connection");
                    break;
                }
            }
        }
    }
    carried.count(&peer);
    peer.quic.close(STOPPED, b"stopped");
}

/// What a connection has carried and was counted already.
#[derive(Default)]
struct Carried {
    received: u64,
    sent: u64,
}

impl Carried {
    fn count(&mut self, peer: &Peer) {
        if let Some(metrics) = &peer.shared.metrics {
            let stats = peer.quic.stats();
            let (received, sent) = (stats.udp_rx.bytes, stats.udp_tx.bytes);
            metrics.carried(
                received.saturating_sub(self.received),
                sent.saturating_sub(self.sent),
            );
            *self = Self { received, sent };
        }
    }
}

/// The control stream: limits first, then the farewell.
async fn speak(peer: Arc<Peer>) {
    let options = &peer.shared.options;
    let hello = Hello {
        max_message_bytes: u32::try_from(options.max_message_bytes).unwrap_or(u32::MAX),
        max_calls: options.max_calls_per_connection,
    };
    let Ok(mut stream) = peer.quic.open_uni().await else {
        return;
    };
    let mut out = BytesMut::new();
    out.put_u8(CONTROL);
    put_control(&mut out, &Control::Hello(hello));
    if stream.write_chunk(out.split().freeze()).await.is_err() {
        return;
    }
    let mut phase = peer.shared.phase.subscribe();
    if phase
        .wait_for(|phase| *phase != Phase::Serving)
        .await
        .is_err()
    {
        return;
    }
    put_control(&mut out, &Control::GoAway);
    if stream.write_chunk(out.freeze()).await.is_err() {
        return;
    }
    // The stream lives as long as the connection: its end would say nothing.
    let _ = stream.stopped().await;
}

async fn serve_stream(peer: Arc<Peer>, send: quinn::SendStream, mut receive: quinn::RecvStream) {
    let mut kind = [0];
    let first = tokio::time::timeout(FIRST_BYTE_TIMEOUT, receive.read_exact(&mut kind)).await;
    if !matches!(first, Ok(Ok(()))) {
        return;
    }
    match kind {
        [LANE] => {
            let number = peer.lanes.fetch_add(1, Ordering::Relaxed);
            if number >= MAX_LANES {
                return peer.protocol_error(&format_args!("more than {MAX_LANES} lanes"));
            }
            lane::serve(&peer, number, send, receive).await;
        }
        [CALL] => stream::serve(&peer, send, receive).await,
        [other] => peer.protocol_error(&format_args!("a stream of kind {other}")),
    }
}
