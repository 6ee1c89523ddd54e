//! QUIC configurations from a node's [`Trust`]: TLS 1.3 with the node's leaf on both sides (RFC 9001).

use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::{ClientConfig, IdleTimeout, ServerConfig, TransportConfig, VarInt};
use warren_identity::Trust;
use warren_identity::tls::{ExpectedPeer, TlsError, node_client, node_server};

use crate::core::frame::ALPN;

/// A connection on which nothing comes for this long is dead: three keep-alives were lost.
const IDLE_TIMEOUT_MS: u32 = 10_000;
/// How often an idle connection says that it lives.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// What one stream may have in flight unread, in bytes: a gigabit at 30 ms.
const STREAM_WINDOW_BYTES: u32 = 4 * 1024 * 1024;
/// What one connection may have in flight unread, in bytes: bounds the memory that a peer can take.
const CONNECTION_WINDOW_BYTES: u32 = 16 * 1024 * 1024;
/// Streams a client may have open at once: lanes and calls of their own.
const MAX_STREAMS: u32 = 1_024;

/// Why no QUIC configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum QuicConfigError {
    /// The TLS part.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The crypto provider lacks the cipher suite that QUIC begins with.
    #[error("the TLS provider lacks AES-128-GCM with SHA-256, which QUIC begins with")]
    NoInitialCipherSuite(#[from] NoInitialCipherSuite),
}

/// For a server: this node's leaf, members only.
pub(crate) fn quic_server(trust: &Trust) -> Result<ServerConfig, QuicConfigError> {
    let tls = node_server(trust, &[ALPN])?;
    let mut config = ServerConfig::with_crypto(Arc::new(QuicServerConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// For a client that means to reach `expected`.
pub(crate) fn quic_client(
    trust: &Trust,
    expected: ExpectedPeer,
) -> Result<ClientConfig, QuicConfigError> {
    let tls = node_client(trust, expected, &[ALPN])?;
    let mut config = ClientConfig::new(Arc::new(QuicClientConfig::try_from(tls)?));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(IDLE_TIMEOUT_MS))))
        .keep_alive_interval(Some(KEEP_ALIVE))
        .stream_receive_window(VarInt::from_u32(STREAM_WINDOW_BYTES))
        .receive_window(VarInt::from_u32(CONNECTION_WINDOW_BYTES))
        .send_window(u64::from(CONNECTION_WINDOW_BYTES))
        .max_concurrent_bidi_streams(VarInt::from_u32(MAX_STREAMS))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(None);
    transport
}
