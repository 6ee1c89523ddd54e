//! TLS and QUIC configurations of links: TLS 1.3, the node's leaf on both sides, one ALPN name.

use std::sync::Arc;
use std::time::Duration;

use aws_lc_rs::digest::{SHA256, digest};
use aws_lc_rs::hmac;
use quinn::crypto::rustls::{NoInitialCipherSuite, QuicClientConfig, QuicServerConfig};
use quinn::crypto::{CryptoError, HmacKey};
use quinn::{
    ClientConfig, ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, ServerConfig,
    TransportConfig, VarInt,
};
use warren_identity::tls::{ExpectedPeer, TlsError, node_client, node_server};
use warren_identity::{PeerId, Trust};
use warren_swim::limits;

use crate::core::frame::MAX_FRAME_BYTES;

/// The protocol of links, the same over UDP and TCP.
pub(crate) const ALPN: &[u8] = b"warren-gossip/1";

/// An idle link is kept for so long: in a large cluster a member's turn comes rarely, and a handshake costs more than
/// a link that says nothing.
pub(crate) const IDLE_TIMEOUT: Duration = Duration::from_secs(900);
/// Streams that a peer may have open at once; each holds at most one frame.
const MAX_STREAMS: u32 = 16;
/// Datagrams waiting to be read or sent, in bytes. The loser is the oldest.
const DATAGRAM_BUFFER_BYTES: usize = 64 * 1024;

/// Why no configuration could be made.
#[derive(Debug, thiserror::Error)]
pub enum LinkConfigError {
    /// The TLS part.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The crypto provider lacks the cipher suite that QUIC begins with.
    #[error("the TLS provider lacks AES-128-GCM with SHA-256, which QUIC begins with")]
    NoInitialCipherSuite(#[from] NoInitialCipherSuite),
}

fn expected(peer: Option<PeerId>) -> ExpectedPeer {
    peer.map_or(ExpectedPeer::AnyMember, ExpectedPeer::Peer)
}

/// For TCP links that are accepted.
pub(crate) fn tcp_server(trust: &Trust) -> Result<Arc<rustls::ServerConfig>, LinkConfigError> {
    Ok(Arc::new(node_server(trust, &[ALPN])?))
}

/// For a TCP link to this peer, or to any member.
pub(crate) fn tcp_client(
    trust: &Trust,
    peer: Option<PeerId>,
) -> Result<Arc<rustls::ClientConfig>, LinkConfigError> {
    Ok(Arc::new(node_client(trust, expected(peer), &[ALPN])?))
}

/// For QUIC links that are accepted.
pub(crate) fn quic_server(trust: &Trust) -> Result<ServerConfig, LinkConfigError> {
    let tls = QuicServerConfig::try_from(node_server(trust, &[ALPN])?)?;
    let mut config = ServerConfig::with_crypto(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// For a QUIC link to this peer, or to any member.
pub(crate) fn quic_client(
    trust: &Trust,
    peer: Option<PeerId>,
) -> Result<ClientConfig, LinkConfigError> {
    let tls = QuicClientConfig::try_from(node_client(trust, expected(peer), &[ALPN])?)?;
    let mut config = ClientConfig::new(Arc::new(tls));
    config.transport_config(Arc::new(transport()));
    Ok(config)
}

/// Connection ids without any sign of which process made them: that of a process before is answered with a reset.
struct PlainIds;

const ID_BYTES: usize = 8;

impl ConnectionIdGenerator for PlainIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&random_bytes::<ID_BYTES>())
    }

    fn cid_len(&self) -> usize {
        ID_BYTES
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

/// Bytes that nobody can guess.
#[expect(
    clippy::expect_used,
    reason = "the system's random source does not fail once it is seeded, and without it there is no TLS either"
)]
pub(crate) fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system gives random bytes");
    bytes
}

/// The reset key comes from the node's own, so that a node that starts again tells its peers that it has forgotten their connections
/// (RFC 9000, section 10.3), instead of letting them wait.
pub(crate) fn endpoint(trust: &Trust) -> EndpointConfig {
    let secret = trust.key().sign(b"warren gossip stateless reset v1");
    let reset_key = hmac::Key::new(hmac::HMAC_SHA256, digest(&SHA256, &secret).as_ref());
    let mut config = EndpointConfig::new(Arc::new(ResetKey(reset_key)));
    config.cid_generator(|| Box::new(PlainIds));
    config
}

/// quinn knows the key of one provider only: ring's, where anything else in the program brings that along.
struct ResetKey(hmac::Key);

impl HmacKey for ResetKey {
    fn sign(&self, data: &[u8], signature_out: &mut [u8]) {
        signature_out.copy_from_slice(hmac::sign(&self.0, data).as_ref());
    }

    fn signature_len(&self) -> usize {
        hmac::HMAC_SHA256.digest_algorithm().output_len()
    }

    fn verify(&self, data: &[u8], signature: &[u8]) -> Result<(), CryptoError> {
        hmac::verify(&self.0, data, signature).map_err(|_| CryptoError)
    }
}

fn transport() -> TransportConfig {
    let idle_ms = u32::try_from(IDLE_TIMEOUT.as_millis()).unwrap_or(u32::MAX);
    let frame = u32::try_from(MAX_FRAME_BYTES).unwrap_or(u32::MAX);
    let mut transport = TransportConfig::default();
    transport
        .max_idle_timeout(Some(IdleTimeout::from(VarInt::from_u32(idle_ms))))
        .keep_alive_interval(None)
        .stream_receive_window(VarInt::from_u32(frame))
        .receive_window(VarInt::from_u32(frame * 4))
        .send_window(u64::from(frame) * 4)
        .max_concurrent_bidi_streams(VarInt::from_u32(0))
        .max_concurrent_uni_streams(VarInt::from_u32(MAX_STREAMS))
        .datagram_receive_buffer_size(Some(DATAGRAM_BUFFER_BYTES.max(limits::PACKET_BYTES)))
        .datagram_send_buffer_size(DATAGRAM_BUFFER_BYTES);
    transport
}
