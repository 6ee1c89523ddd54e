//! Seeds from `warren-swim`: each kind of datagram and message.

use anyhow::Context;
use warren_fuzz::targets::swim::{node, statement};
use warren_fuzz::world;
use warren_swim::{
    Claim, ClaimKind, Fingerprint, Liveness, Message, Packet, PacketKind, State, Summary, Update,
    VersionRange,
};

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> anyhow::Result<Vec<(&'static str, Seeds)>> {
    Ok(vec![
        ("swim_message", messages()?),
        ("swim_packet", packets()?),
    ])
}

fn name(number: u8) -> anyhow::Result<Fingerprint> {
    Fingerprint::of(&world::node(number).peer_id()).context("the id of an Ed25519 key")
}

fn claim(kind: ClaimKind, subject: u8, incarnation: u64) -> anyhow::Result<Update> {
    let mut observers = vec![name(1)?, name(2)?];
    observers.sort_unstable();
    Ok(Update::Claim(Claim {
        kind,
        subject: name(subject)?,
        incarnation,
        observers,
    }))
}

fn packets() -> anyhow::Result<Seeds> {
    let news = vec![
        Update::Statement(statement(3, 11, Liveness::Left)),
        Update::Statement(node().local().clone()),
        claim(ClaimKind::Suspect, 3, 10)?,
        claim(ClaimKind::Failed, 1, 12)?,
    ];
    let both = VersionRange { min: 1, max: 2 };
    let kinds = [
        ("ping", PacketKind::Ping(7), news.clone()),
        (
            "ping-request",
            PacketKind::PingRequest(8, name(3)?),
            Vec::new(),
        ),
        (
            "ack",
            PacketKind::Ack(7),
            vec![claim(ClaimKind::Suspect, 3, 10)?],
        ),
        ("nack", PacketKind::Nack(8), Vec::new()),
        ("gossip", PacketKind::Gossip, news),
        ("refusal", PacketKind::Refusal(both), Vec::new()),
        (
            "newcomer",
            PacketKind::Gossip,
            vec![Update::Statement(statement(4, 1, Liveness::Alive))],
        ),
    ];
    let encoded = kinds.into_iter().map(|(name, kind, updates)| {
        let packet = Packet {
            version: 1,
            kind,
            updates,
        };
        (name, packet.encode())
    });
    Ok(encoded.collect())
}

fn messages() -> anyhow::Result<Seeds> {
    let sender = || statement(2, 12, Liveness::Alive);
    let mut summaries = Vec::new();
    let states = [State::Alive, State::Suspect, State::Failed, State::Left];
    for (number, state) in (1..).zip(states) {
        summaries.push(Summary {
            subject: name(number)?,
            incarnation: 10 + u64::from(number),
            state,
        });
    }
    summaries.sort_unstable_by_key(|entry| entry.subject);
    let mut wanted = vec![name(1)?, name(3)?];
    wanted.sort_unstable();
    let entries = vec![
        Update::Statement(statement(4, 1, Liveness::Alive)),
        claim(ClaimKind::Failed, 3, 10)?,
    ];
    let messages = [
        ("open", Message::Open(sender(), Box::new([3; 64]))),
        ("summary", Message::Summary(sender(), u64::MAX, summaries)),
        ("summary-empty", Message::Summary(sender(), 1, Vec::new())),
        ("entries", Message::Entries(entries)),
        ("want", Message::Want(wanted)),
    ];
    let encoded = messages
        .into_iter()
        .map(|(name, message)| (name, message.encode(1)));
    Ok(encoded.collect())
}
