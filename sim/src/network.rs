//! The network between nodes.

use std::collections::BTreeMap;
use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use crate::membership::{NodeIndex, Transport};

/// One direction between two nodes.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Link {
    /// Share of datagrams that are lost.
    pub loss: f64,
    /// The least delay.
    pub delay: Duration,
    /// Mean of what comes on top, exponentially distributed.
    pub jitter: Duration,
}

impl Link {
    /// A switched network: half a millisecond of round trip, one packet in a thousand lost.
    pub const LAN: Self = Self {
        loss: 0.001,
        delay: Duration::from_micros(150),
        jitter: Duration::from_micros(100),
    };

    /// Nothing comes through.
    pub const DEAD: Self = Self {
        loss: 1.0,
        ..Self::LAN
    };

    fn once(&self, random: &mut Xoshiro256PlusPlus) -> Duration {
        let uniform: f64 = random.random();
        self.delay + self.jitter.mul_f64(-(1.0 - uniform).ln())
    }
}

/// A lost packet of a stream is sent again after this long.
const RETRANSMIT: Duration = Duration::from_millis(200);
/// What a stream carries, in bytes per second.
const STREAM_BYTES_PER_S: f64 = 125e6;

/// All links. One that is not set apart is like every other.
#[derive(Clone, Debug)]
pub struct Network {
    /// What links are like.
    pub default: Link,
    /// Share of datagrams that arrive twice.
    pub duplicates: f64,
    links: BTreeMap<(NodeIndex, NodeIndex), Link>,
    /// Nodes reach those of their own side only. Empty: all do.
    sides: BTreeMap<NodeIndex, u32>,
}

impl Network {
    /// All links alike.
    #[must_use]
    pub fn new(default: Link) -> Self {
        Self {
            default,
            duplicates: 0.0,
            links: BTreeMap::new(),
            sides: BTreeMap::new(),
        }
    }

    /// Sets one direction apart.
    pub fn set_link(&mut self, from: NodeIndex, to: NodeIndex, link: Link) {
        self.links.insert((from, to), link);
    }

    /// Cuts these nodes off from the others; they reach each other.
    pub fn partition(&mut self, nodes: impl IntoIterator<Item = NodeIndex>) {
        let side = self.sides.values().max().map_or(1, |side| side + 1);
        self.sides
            .extend(nodes.into_iter().map(|node| (node, side)));
    }

    /// Ends all partitions.
    pub fn heal(&mut self) {
        self.sides.clear();
    }

    fn side(&self, node: NodeIndex) -> u32 {
        self.sides.get(&node).copied().unwrap_or(0)
    }

    fn link(&self, from: NodeIndex, to: NodeIndex) -> Link {
        self.links.get(&(from, to)).copied().unwrap_or(self.default)
    }

    /// How long bytes are under way; `None` if they do not arrive.
    pub fn delay(
        &self,
        from: NodeIndex,
        to: NodeIndex,
        transport: Transport,
        length: usize,
        random: &mut Xoshiro256PlusPlus,
    ) -> Option<Duration> {
        if self.side(from) != self.side(to) {
            return None;
        }
        let there = self.link(from, to);
        match transport {
            Transport::Datagram => {
                (random.random::<f64>() >= there.loss).then(|| there.once(random))
            }
            Transport::Stream => {
                let back = self.link(to, from);
                if there.loss >= 1.0 || back.loss >= 1.0 {
                    return None;
                }
                // A handshake there and back, then the bytes.
                let mut total = there.once(random) + back.once(random) + there.once(random);
                total += Duration::from_secs_f64(length as f64 / STREAM_BYTES_PER_S);
                let loss = 1.0 - (1.0 - there.loss) * (1.0 - back.loss);
                while random.random::<f64>() < loss {
                    total += RETRANSMIT;
                }
                Some(total)
            }
        }
    }
}
