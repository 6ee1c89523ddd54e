//! `warren-swim` in the simulator, with signatures that cost nothing.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Instant;

use warren_identity::PeerId;
use warren_swim::{
    Attestor, Config, ConfigError, Destination, Event, MemberId, Signature, Swim, Transport as Via,
};

use crate::membership::{Membership, NodeIndex, Notice, Outgoing, Transport};
use crate::network::Network;
use crate::simulation::{Simulation, Start};

/// A hash in place of a signature: nobody in the simulator forges.
#[derive(Clone, Copy, Debug)]
pub struct CheapAttestor(pub MemberId);

impl CheapAttestor {
    fn hash(signer: &MemberId, bytes: &[u8]) -> u64 {
        let chunks = bytes.chunks(8).map(|chunk| {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            u64::from_le_bytes(word)
        });
        let start = u64::from(index_of(signer).0) + 1;
        chunks.fold(start, |hash, word| {
            (hash ^ word)
                .rotate_left(23)
                .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        })
    }
}

impl Attestor for CheapAttestor {
    fn sign(&self, bytes: &[u8]) -> Signature {
        let mut signature = [0; 64];
        signature[..8].copy_from_slice(&Self::hash(&self.0, bytes).to_be_bytes());
        signature
    }

    fn verify(&self, signer: &MemberId, bytes: &[u8], signature: &Signature) -> bool {
        signature[..8] == Self::hash(signer, bytes).to_be_bytes() && signature[8..] == [0; 56]
    }
}

/// The id of a node: a spread beginning, and its index at the end.
///
/// # Panics
/// Never: the bytes are always those of an identity multihash.
#[must_use]
#[expect(
    clippy::expect_used,
    reason = "38 bytes that begin as an identity multihash does"
)]
pub fn id_of(node: NodeIndex) -> MemberId {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&[0x00, 0x24, 0x08, 0x01, 0x12, 0x20]);
    let spread = u64::from(node.0 + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    bytes[6..14].copy_from_slice(&spread.to_be_bytes());
    bytes[34..].copy_from_slice(&node.0.to_be_bytes());
    PeerId::from_bytes(&bytes).expect("an identity multihash")
}

/// The node of an id that [`id_of`] made.
#[must_use]
pub fn index_of(id: &MemberId) -> NodeIndex {
    let bytes = id.to_bytes();
    let tail = bytes.last_chunk().copied().unwrap_or_default();
    NodeIndex(u32::from_be_bytes(tail))
}

/// Where a node listens.
#[must_use]
pub fn address_of(node: NodeIndex) -> SocketAddr {
    let [_, a, b, c] = node.0.to_be_bytes();
    (Ipv4Addr::new(10, a, b, c), 7946).into()
}

fn index_at(address: SocketAddr) -> NodeIndex {
    match address {
        SocketAddr::V4(v4) => {
            let [_, a, b, c] = v4.ip().octets();
            NodeIndex(u32::from_be_bytes([0, a, b, c]))
        }
        SocketAddr::V6(_) => NodeIndex(u32::MAX),
    }
}

/// One node.
#[derive(Debug)]
pub struct SwimNode(pub Swim<CheapAttestor>);

/// A factory of nodes with this configuration. Each life begins at a higher incarnation, as wall clocks give it.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
#[expect(
    clippy::expect_used,
    reason = "the configuration was checked before, and the ids are Ed25519"
)]
pub fn factory(config: Config) -> Result<impl FnMut(Start) -> SwimNode + 'static, ConfigError> {
    config.check()?;
    Ok(move |start: Start| {
        let id = id_of(start.node);
        let swim = Swim::new(
            config.clone(),
            CheapAttestor(id),
            id,
            address_of(start.node),
            1 + u64::from(start.life) * 1_000_000,
            start.seed,
            start.now,
        );
        SwimNode(swim.expect("a checked configuration"))
    })
}

/// A simulation of such nodes.
///
/// # Errors
/// [`ConfigError`], if the configuration cannot work.
pub fn simulation(
    count: u32,
    network: Network,
    config: Config,
    seed: u64,
) -> Result<Simulation<SwimNode>, ConfigError> {
    Ok(Simulation::new(count, network, seed, factory(config)?))
}

impl Membership for SwimNode {
    fn join(&mut self, seeds: &[NodeIndex], now: Instant) {
        let seeds: Vec<_> = seeds.iter().map(|seed| address_of(*seed)).collect();
        self.0.join(&seeds, now);
    }

    fn leave(&mut self, now: Instant) {
        self.0.leave(now);
    }

    fn receive(&mut self, from: NodeIndex, transport: Transport, bytes: &[u8], now: Instant) {
        match transport {
            Transport::Datagram => self.0.handle_packet(id_of(from), bytes, now),
            Transport::Stream => self.0.handle_stream(id_of(from), bytes, now),
        }
    }

    fn wake(&mut self, now: Instant) {
        self.0.handle_timeout(now);
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.0.poll_timeout().map(|(at, _)| at)
    }

    fn poll_send(&mut self) -> Option<Outgoing> {
        let transmit = self.0.poll_transmit()?;
        let to = match transmit.to {
            Destination::Member { address, .. } | Destination::Seed(address) => index_at(address),
            Destination::Session(id) => index_of(&id),
        };
        let transport = match transmit.transport {
            Via::Datagram => Transport::Datagram,
            Via::Stream => Transport::Stream,
        };
        Some(Outgoing {
            to,
            transport,
            bytes: transmit.payload,
        })
    }

    fn poll_notice(&mut self) -> Option<Notice> {
        loop {
            return Some(match self.0.poll_event()? {
                Event::Joined(id) => Notice::Up(index_of(&id)),
                Event::Suspected(id) => Notice::Suspected(index_of(&id)),
                Event::Failed(id) => Notice::Down(index_of(&id)),
                Event::Left(id) => Notice::Left(index_of(&id)),
                _ => continue,
            });
        }
    }
}
