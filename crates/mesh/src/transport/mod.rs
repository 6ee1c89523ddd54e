//! The transports of the mesh, each admitted before the swarm sees a connection.
//!
//! TCP with Noise and Yamux, the same over WebSocket, QUIC, and circuits through relays, all of
//! them with DNS names; then [`admission`] over whichever it was. Admission is the outermost layer,
//! so there is no path around it.
//!
//! What somebody who has proven nothing can have us hold, between the first packet and admission: on a QUIC connection
//! what its window lets it send, [`QUIC_WINDOW_BYTES`]; on any other the window of the one substream it may have,
//! 256 KiB. One address (of IPv6 a /64) has at most 32 such connections, which makes 128 MiB, all of them together
//! `limits.max_pending_incoming`, which makes 512 MiB by default (128). Each is gone after [`HANDSHAKE_TIMEOUT`] and the
//! admission time-out, 18 s by default. The window cannot be smaller before admission than after it: libp2p sets it once.

mod admission;
mod replay;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use either::Either;
use libp2p::core::muxing::StreamMuxerBox;
use libp2p::core::transport::dummy::DummyTransport;
use libp2p::core::transport::timeout::TransportTimeout;
use libp2p::core::transport::{Boxed, OrTransport};
use libp2p::core::upgrade::Version;
use libp2p::identity::Keypair;
use libp2p::{PeerId, Transport, dns, noise, quic, relay, tcp, websocket, yamux};

use crate::core::admission::AdmissionError;
use crate::error::StartError;
use crate::gate::Gate;

/// Dial or accept, security handshake and multiplexer, before admission begins. Less than the ten
/// seconds after which whoever asks to have an address tested gives up waiting for the outcome.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(8);

/// What a peer may have sent on one QUIC connection, on all substreams together, before it is read. libp2p's own is
/// 15 MB. 4 MiB carry 300 Mbit/s over a round trip of 100 ms, and bulk has connections of its own.
const QUIC_WINDOW_BYTES: u32 = 4 << 20;

/// Substreams open at once on one TCP connection, by both sides together.
const MAX_SUBSTREAMS: usize = 1_024;

type Output = (PeerId, StreamMuxerBox);

/// Everything the swarm can dial and listen with.
pub(crate) fn build(
    keypair: &Keypair,
    gate: Arc<Gate>,
) -> Result<(Boxed<Output>, relay::client::Behaviour), StartError> {
    let (circuits, relay_client) = relay::client::new(keypair.public().to_peer_id());
    let circuits = circuits
        .upgrade(Version::V1Lazy)
        .authenticate(noise_config(keypair)?)
        .multiplex(yamux_config())
        .boxed();
    let direct = direct(keypair)?;
    let websocket = websocket::Config::new(with_dns(tcp::tokio::Transport::new(tcp_config()))?)
        .upgrade(Version::V1Lazy)
        .authenticate(noise_config(keypair)?)
        .multiplex(yamux_config())
        .boxed();
    // WebSocket comes before TCP, which would take `/tcp/4001/ws` for its own.
    let all = either(websocket, either(circuits, direct));
    let timeout = HANDSHAKE_TIMEOUT + gate.timeout();
    let admitted = TransportTimeout::new(all, HANDSHAKE_TIMEOUT)
        .boxed()
        .and_then(move |(peer, muxer), endpoint| admission::admit(gate, peer, muxer, endpoint))
        .map_err(|error| match error {
            Either::Left(error) => error,
            Either::Right(refused) => io::Error::other(refused),
        });
    Ok((
        TransportTimeout::new(admitted, timeout).boxed(),
        relay_client,
    ))
}

/// The reason admission gave inside a transport error, however often it was boxed.
pub(crate) fn refusal(error: &io::Error) -> Option<&AdmissionError> {
    let mut inner: &(dyn std::error::Error + 'static) = error.get_ref()?;
    loop {
        if let Some(refused) = inner.downcast_ref::<AdmissionError>() {
            return Some(refused);
        }
        inner = match inner.downcast_ref::<io::Error>() {
            Some(nested) => nested.get_ref()?,
            None => inner.source()?,
        };
    }
}

/// What went wrong at the bottom of an error that was boxed on its way up.
pub(crate) fn innermost(error: &std::io::Error) -> String {
    let mut inner: &(dyn std::error::Error + 'static) = error;
    loop {
        let next = inner
            .downcast_ref::<std::io::Error>()
            .and_then(|io| {
                io.get_ref()
                    .map(|e| e as &(dyn std::error::Error + 'static))
            })
            .or_else(|| inner.source());
        match next {
            Some(next) => inner = next,
            None => return inner.to_string(),
        }
    }
}

/// TCP and QUIC, DNS names resolved at each dial.
fn direct(keypair: &Keypair) -> Result<Boxed<Output>, StartError> {
    let tcp = tcp::tokio::Transport::new(tcp_config())
        .upgrade(Version::V1Lazy)
        .authenticate(noise_config(keypair)?)
        .multiplex(yamux_config())
        .boxed();
    let quic = quic::tokio::Transport::new(quic_config(keypair))
        .map(|(peer, muxer), _| (peer, StreamMuxerBox::new(muxer)))
        .boxed();
    Ok(with_dns(either(tcp, quic))?.boxed())
}

fn either(first: Boxed<Output>, second: Boxed<Output>) -> Boxed<Output> {
    OrTransport::new(first, second)
        .map(|output, _| match output {
            futures::future::Either::Left(output) | futures::future::Either::Right(output) => {
                output
            }
        })
        .boxed()
}

/// Names are resolved as the system does. A machine that names no server (no `/etc/resolv.conf`)
/// still resolves what its hosts file has; nobody is asked whom the operator did not name.
fn with_dns<T>(inner: T) -> Result<dns::tokio::Transport<T>, StartError> {
    // `system` keeps the inner transport when it fails, so another one goes first.
    if let Err(error) = dns::tokio::Transport::system(DummyTransport::<()>::new()) {
        tracing::warn!("no name server is configured ({error}); only the hosts file is used");
        let (config, options) = (dns::ResolverConfig::default(), dns::ResolverOpts::default());
        return Ok(dns::tokio::Transport::custom(inner, config, options));
    }
    dns::tokio::Transport::system(inner).map_err(|error| setup("name resolution", &error))
}

fn tcp_config() -> tcp::Config {
    tcp::Config::default().nodelay(true)
}

fn quic_config(keypair: &Keypair) -> quic::Config {
    let mut config = quic::Config::new(keypair);
    config.max_connection_data = QUIC_WINDOW_BYTES;
    // A substream that nobody reads leaves the others a quarter.
    config.max_stream_data = QUIC_WINDOW_BYTES / 4 * 3;
    config
}

fn noise_config(keypair: &Keypair) -> Result<noise::Config, StartError> {
    noise::Config::new(keypair).map_err(|error| setup("encryption", &error))
}

fn yamux_config() -> yamux::Config {
    let mut config = yamux::Config::default();
    config.set_max_num_streams(MAX_SUBSTREAMS);
    config
}

fn setup(part: &'static str, error: &dyn std::error::Error) -> StartError {
    StartError::Setup {
        part,
        reason: error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::behaviour::gatekeeper::MAX_PENDING_PER_ADDRESS;
    use crate::config::MeshLimits;

    #[test]
    fn given_the_defaults_when_strangers_take_every_place_then_they_hold_what_the_documentation_says()
     {
        let config = quic_config(&Keypair::generate_ed25519());
        let window = u64::from(config.max_connection_data);
        let places = u64::from(MeshLimits::default().max_pending_incoming);
        assert_eq!(window * places, 512 << 20);
        assert_eq!(window * MAX_PENDING_PER_ADDRESS as u64, 128 << 20);
        assert!(config.max_stream_data < config.max_connection_data);
    }
}
