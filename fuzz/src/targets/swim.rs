//! What members say to each other about membership, in a session that proves who speaks.

use std::net::SocketAddr;
use std::sync::LazyLock;
use std::time::Instant;

use warren_identity::NodeKey;
use warren_swim::{
    Config, Liveness, Message, Packet, PacketKind, SignedStatement, Statement, Swim, Tags, Update,
    VersionRange, limits,
};

use crate::world;

/// Nobody reads a clock: only that it is always the same instant matters.
static NOW: LazyLock<Instant> = LazyLock::new(Instant::now);

static MEMBERS: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let packet = Packet {
        version: 1,
        kind: PacketKind::Gossip,
        updates: [2, 3]
            .map(|number| Update::Statement(statement(number, 10, Liveness::Alive)))
            .into(),
    };
    packet.encode()
});

/// Where a node listens.
#[must_use]
pub fn address(number: u8) -> SocketAddr {
    ([10, 0, 1, number], 7946).into()
}

/// What a node says of itself.
#[must_use]
pub fn statement(number: u8, incarnation: u64, liveness: Liveness) -> SignedStatement {
    let statement = Statement {
        subject: world::node(number).peer_id(),
        incarnation,
        liveness,
        address: address(number),
        protocol: VersionRange::SPOKEN,
        tags: Tags::default(),
    };
    SignedStatement::sign(statement, &Config::lan().cluster, &world::node(number))
        .expect("the id of an Ed25519 key")
}

/// Node 1 of the organisation, with tags.
#[must_use]
pub fn node() -> Swim<NodeKey> {
    let (key, id) = (world::node(1), world::node(1).peer_id());
    let mut swim =
        Swim::new(Config::lan(), key, id, address(1), 10, 1, *NOW).expect("the defaults work");
    for (key, value) in [("role", "worker"), ("zone", "a")] {
        swim.set_tag(key, value, *NOW).expect("a valid tag");
    }
    swim
}

/// A datagram: there is one encoding of each, and whatever it says, only signed statements are in the table.
pub fn packet(data: &[u8]) -> bool {
    let mut swim = node_with_members();
    swim.handle_packet(world::node(2).peer_id(), data, *NOW);
    hold(&mut swim);
    let Ok(packet) = Packet::decode(data, VersionRange::SPOKEN) else {
        return false;
    };
    assert_eq!(packet.encode(), data, "a packet has one encoding");
    true
}

/// A message of a stream: the same.
pub fn message(data: &[u8]) -> bool {
    let mut swim = node_with_members();
    swim.handle_stream(world::node(2).peer_id(), data, *NOW);
    hold(&mut swim);
    let Ok(message) = Message::decode(data, VersionRange::SPOKEN) else {
        return false;
    };
    assert_eq!(message.encode(data[0]), data, "a message has one encoding");
    true
}

fn node_with_members() -> Swim<NodeKey> {
    let mut swim = node();
    swim.handle_packet(world::node(2).peer_id(), &MEMBERS, *NOW);
    swim
}

fn hold(swim: &mut Swim<NodeKey>) {
    let cluster = Config::lan().cluster;
    for member in swim.members() {
        let is_signed = member.statement().verify(&cluster, &world::node(1));
        assert!(
            is_signed,
            "a statement was believed that its subject never signed"
        );
    }
    for number in [2, 3] {
        let id = world::node(number).peer_id();
        assert!(swim.member(&id).is_some(), "a member was lost");
    }
    while let Some(transmit) = swim.poll_transmit() {
        assert!(transmit.payload.len() <= limits::MESSAGE_BYTES);
    }
}
