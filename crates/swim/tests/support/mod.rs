//! A few nodes with real keys, a perfect network without delay, and virtual time.

#![allow(dead_code, clippy::unwrap_used)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use warren_identity::NodeKey;
use warren_swim::{
    Claim, ClaimKind, Config, Destination, Event, Fingerprint, Liveness, MemberId, Packet,
    PacketKind, SignedStatement, State, Statement, Swim, Tags, Transport, Update, VersionRange,
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);

pub(crate) fn key(number: u8) -> NodeKey {
    NodeKey::from_seed([number; 32])
}

pub(crate) fn id(number: u8) -> MemberId {
    key(number).peer_id()
}

pub(crate) fn name(number: u8) -> Fingerprint {
    Fingerprint::of(&id(number)).unwrap()
}

pub(crate) fn address(number: u8) -> SocketAddr {
    ([10, 0, 0, number], 7946).into()
}

pub(crate) fn node(number: u8, config: Config, incarnation: u64, now: Instant) -> Swim<NodeKey> {
    let seed = u64::from(number);
    Swim::new(
        config,
        key(number),
        id(number),
        address(number),
        incarnation,
        seed,
        now,
    )
    .unwrap()
}

/// A statement of a node that need not run.
pub(crate) fn statement(number: u8, incarnation: u64) -> Statement {
    Statement {
        subject: id(number),
        incarnation,
        liveness: Liveness::Alive,
        address: address(number),
        protocol: VersionRange::SPOKEN,
        tags: Tags::default(),
    }
}

pub(crate) fn signed(number: u8, incarnation: u64) -> SignedStatement {
    SignedStatement::sign(statement(number, incarnation), "default", &key(number)).unwrap()
}

pub(crate) fn gossip(updates: Vec<Update>) -> Vec<u8> {
    let packet = Packet {
        version: 1,
        kind: PacketKind::Gossip,
        updates,
    };
    packet.encode()
}

pub(crate) fn claim(kind: ClaimKind, subject: u8, incarnation: u64, observers: &[u8]) -> Update {
    let mut observers: Vec<_> = observers.iter().map(|number| name(*number)).collect();
    observers.sort_unstable();
    Update::Claim(Claim {
        kind,
        subject: name(subject),
        incarnation,
        observers,
    })
}

/// What a node holds: enough to see any change.
pub(crate) fn snapshot(swim: &Swim<NodeKey>) -> Vec<(MemberId, State, Vec<u8>)> {
    let mut all: Vec<_> = swim
        .members()
        .map(|member| {
            (
                member.id(),
                member.state(),
                member.statement().as_bytes().to_vec(),
            )
        })
        .collect();
    all.sort();
    all
}

pub(crate) fn events(swim: &mut Swim<NodeKey>) -> Vec<Event> {
    std::iter::from_fn(|| swim.poll_event()).collect()
}

/// One node that knows the members 2 to `count` through their statements; they do not run.
pub(crate) fn knowing(count: u8, config: Config) -> (Swim<NodeKey>, Instant) {
    let now = Instant::now();
    let mut swim = node(1, config, 10, now);
    for number in 2..=count {
        let packet = gossip(vec![Update::Statement(signed(number, 10))]);
        swim.handle_packet(id(number), &packet, now);
    }
    events(&mut swim);
    while swim.poll_transmit().is_some() {}
    (swim, now)
}

/// Nodes 1, 2, … that run, and every packet they ever sent.
pub(crate) struct Cluster {
    pub(crate) now: Instant,
    pub(crate) nodes: Vec<Option<Swim<NodeKey>>>,
    pub(crate) sent: Vec<(MemberId, Transport, Vec<u8>)>,
}

impl Cluster {
    pub(crate) fn new(count: u8) -> Self {
        let now = Instant::now();
        let nodes = (1..=count).map(|number| Some(node(number, Config::lan(), 10, now)));
        let mut cluster = Self {
            now,
            nodes: nodes.collect(),
            sent: Vec::new(),
        };
        for number in 1..=count {
            cluster.at(number).join(&[address(1)], now);
        }
        cluster.run(3 * SECOND);
        for number in 1..=count {
            assert_eq!(cluster.at(number).live_count(), usize::from(count));
            events(cluster.at(number));
        }
        cluster
    }

    pub(crate) fn at(&mut self, number: u8) -> &mut Swim<NodeKey> {
        self.nodes[usize::from(number) - 1].as_mut().unwrap()
    }

    /// Lets time pass in steps of 10 ms; what is sent arrives at once.
    pub(crate) fn run(&mut self, duration: Duration) {
        let until = self.now + duration;
        while self.now < until {
            for swim in self.nodes.iter_mut().flatten() {
                if swim.poll_timeout().is_some_and(|(at, _)| at <= self.now) {
                    swim.handle_timeout(self.now);
                }
            }
            self.deliver();
            self.now += Duration::from_millis(10);
        }
    }

    pub(crate) fn deliver(&mut self) {
        loop {
            let mut under_way = Vec::new();
            for swim in self.nodes.iter_mut().flatten() {
                let from = swim.local().subject;
                while let Some(transmit) = swim.poll_transmit() {
                    let limit = match transmit.transport {
                        Transport::Datagram => Config::lan().packet_bytes,
                        Transport::Stream => warren_swim::limits::MESSAGE_BYTES,
                    };
                    assert!(transmit.payload.len() <= limit, "{transmit:?}");
                    under_way.push((from, transmit));
                }
            }
            if under_way.is_empty() {
                return;
            }
            for (from, transmit) in under_way {
                self.sent
                    .push((from, transmit.transport, transmit.payload.clone()));
                let to = self
                    .nodes
                    .iter_mut()
                    .flatten()
                    .find(|swim| match transmit.to {
                        Destination::Member { id, address } => {
                            swim.local().subject == id && swim.local().address == address
                        }
                        Destination::Session(id) => swim.local().subject == id,
                        Destination::Seed(address) => swim.local().address == address,
                    });
                match (to, transmit.transport) {
                    (Some(to), Transport::Datagram) => {
                        to.handle_packet(from, &transmit.payload, self.now);
                    }
                    (Some(to), Transport::Stream) => {
                        to.handle_stream(from, &transmit.payload, self.now);
                    }
                    (None, _) => {}
                }
            }
        }
    }
}
