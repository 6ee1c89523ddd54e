//! The mesh's decoders as fuzzers feed them: what bytes of a stranger, or of a member, meet first. Their formats are
//! the mesh's own business, so the targets and the seeds of their corpus are made here; programs have no use for them.

use futures::executor::block_on;
use futures::io::Cursor;
use libp2p::StreamProtocol;
use libp2p::request_response::{Codec as _, cbor};
use warren_identity::{Member, NodeRecord, PeerId, Refusal, Signed};

use crate::core::admission::{Exchange, Presented, Side, Step};
use crate::core::gossip::{self, Announcement, MeshMessage};
use crate::core::multistream::{PEEK_LIMIT, Peek, peek};
use crate::core::protocol;
use crate::sync::{
    MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, MemberProof, SyncRequest, SyncResponse, WireRequest,
    WireResponse,
};

/// Inputs of a target with their names.
pub type Seeds = Vec<(&'static str, Vec<u8>)>;

/// One member: who it is and what it shows.
#[derive(Debug, Clone)]
pub struct Party {
    /// The peer its secure channel belongs to.
    pub peer_id: PeerId,
    /// Its certificates, DER, leaf first.
    pub chain: Vec<Vec<u8>>,
    /// Its signed record.
    pub record: Signed<NodeRecord>,
}

impl Party {
    fn exchange(&self, side: Side, with: PeerId) -> Exchange {
        let presented = Presented {
            chain: self.chain.clone(),
            revocations: vec![([3; 32], 7)],
            record: self.record.clone(),
        };
        Exchange::new(side, with, presented)
    }
}

/// Decides over a chain of certificates.
pub type Verdict = dyn Fn(&[Vec<u8>]) -> Result<Member, Refusal> + Sync;

/// The two sides of an exchange, and who decides over their certificates.
pub struct Parties<'a> {
    /// Who dials.
    pub dialler: Party,
    /// Who listens.
    pub listener: Party,
    /// The verdict on a chain.
    pub verify: &'a Verdict,
}

/// The first bytes of a substream: more bytes never change a verdict. True if they name a protocol.
///
/// # Panics
/// When that does not hold.
pub fn opening(bytes: &[u8]) -> bool {
    let bytes = &bytes[..bytes.len().min(PEEK_LIMIT)];
    let whole = peek(bytes);
    for end in 0..bytes.len() {
        let part = peek(&bytes[..end]);
        assert!(
            part == Peek::NeedMore || part == whole,
            "{end} bytes said {part:?}, all of them {whole:?}"
        );
    }
    matches!(whole, Peek::Proposal(_))
}

/// Admission messages, each after its length in four bytes, to a listener and to a dialler. True if one of them goes
/// on or admits; and whoever is admitted is who the channel belongs to.
///
/// # Panics
/// When somebody else is admitted.
pub fn admission(bytes: &[u8], parties: &Parties<'_>) -> bool {
    let (dialler, listener) = (&parties.dialler, &parties.listener);
    let heard = hears(
        listener.exchange(Side::Listener, dialler.peer_id),
        dialler.peer_id,
        bytes,
        parties,
    );
    let answered = hears(
        dialler.exchange(Side::Dialler, listener.peer_id),
        listener.peer_id,
        bytes,
        parties,
    );
    heard || answered
}

fn hears(mut exchange: Exchange, peer: PeerId, mut bytes: &[u8], parties: &Parties<'_>) -> bool {
    let mut went_on = false;
    while let Some((prefix, rest)) = bytes.split_first_chunk::<4>() {
        let length = u32::from_be_bytes(*prefix) as usize;
        let Some((message, after)) = rest.split_at_checked(length) else {
            break;
        };
        bytes = after;
        match exchange.handle_message(message, parties.verify) {
            Step::Send(_) => went_on = true,
            Step::SendAndAdmit(_, admitted) | Step::Admit(admitted) => {
                assert_eq!(
                    admitted.member.peer_id, peer,
                    "only who the channel belongs to is admitted"
                );
                assert_eq!(
                    admitted.record.signer(),
                    peer,
                    "and only with its own record"
                );
                return true;
            }
            Step::Refuse(..) => return went_on,
        }
    }
    went_on
}

/// A gossip message of the mesh's own topic: what is read is written again the same.
///
/// # Panics
/// When it is not.
pub fn gossip(bytes: &[u8]) -> bool {
    let Some(message) = gossip::decode(bytes) else {
        return false;
    };
    let written = gossip::encode(&message);
    let again = gossip::decode(&written).map(|again| gossip::encode(&again));
    assert_eq!(
        again,
        Some(written),
        "a message reads back as it was written"
    );
    true
}

type SyncCodec = cbor::codec::Codec<WireRequest, WireResponse>;

const SYNC: StreamProtocol = StreamProtocol::new(protocol::SYNC);

fn codec() -> SyncCodec {
    SyncCodec::default()
        .set_request_size_maximum(MAX_REQUEST_BYTES)
        .set_response_size_maximum(MAX_RESPONSE_BYTES)
}

/// A sync request or answer, read by the codec that the swarm uses: what is read is written again the same.
///
/// # Panics
/// When it is not.
pub fn sync(bytes: &[u8]) -> bool {
    let request = read_request(bytes).map(|request| {
        let written = write_request(request);
        assert_eq!(
            read_request(&written).map(write_request),
            Some(written.clone()),
            "a request reads back"
        );
    });
    let response = read_response(bytes).map(|response| {
        let written = write_response(response);
        assert_eq!(
            read_response(&written).map(write_response),
            Some(written.clone()),
            "an answer reads back"
        );
    });
    request.is_some() || response.is_some()
}

fn read_request(bytes: &[u8]) -> Option<SyncRequest> {
    block_on(codec().read_request(&SYNC, &mut Cursor::new(bytes)))
        .ok()?
        .into_request()
        .ok()
}

fn write_request(request: SyncRequest) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    // Memory takes everything; an empty message would not read back.
    let _ = block_on(codec().write_request(&SYNC, &mut out, request.into()));
    out.into_inner()
}

fn read_response(bytes: &[u8]) -> Option<SyncResponse> {
    block_on(codec().read_response(&SYNC, &mut Cursor::new(bytes)))
        .ok()?
        .into_response()
        .ok()
}

fn write_response(response: SyncResponse) -> Vec<u8> {
    let mut out = Cursor::new(Vec::new());
    // As above.
    let _ = block_on(codec().write_response(&SYNC, &mut out, response.into()));
    out.into_inner()
}

/// Valid inputs of the targets, by target: what two members say to each other.
#[must_use]
pub fn seeds(parties: &Parties<'_>) -> Vec<(&'static str, Seeds)> {
    let opening = |name: &str| {
        let line = u8::try_from(name.len() + 1).unwrap_or(u8::MAX);
        [
            b"\x13/multistream/1.0.0\n",
            &[line][..],
            name.as_bytes(),
            b"\n",
        ]
        .concat()
    };
    let openings = vec![
        ("admission", opening(protocol::ADMISSION)),
        ("identify", opening("/ipfs/id/1.0.0")),
    ];
    vec![
        ("mesh_admission", admission_seeds(parties)),
        ("mesh_gossip", gossip_seeds(&parties.dialler)),
        ("mesh_opening", openings),
        ("mesh_sync", sync_seeds(&parties.dialler)),
    ]
}

fn admission_seeds(parties: &Parties<'_>) -> Seeds {
    let (dialler, listener) = (&parties.dialler, &parties.listener);
    let mut dials = dialler.exchange(Side::Dialler, listener.peer_id);
    let mut listens = listener.exchange(Side::Listener, dialler.peer_id);
    let mut seeds = Seeds::new();
    let Some(hello) = dials.opening() else {
        return seeds;
    };
    let framed = |message: &[u8]| [&(message.len() as u32).to_be_bytes(), message].concat();
    seeds.push(("hello", framed(&hello)));
    if let Step::Send(welcome) = listens.handle_message(&hello, parties.verify) {
        seeds.push(("welcome", framed(&welcome)));
        if let Step::SendAndAdmit(accept, _) = dials.handle_message(&welcome, parties.verify) {
            seeds.push((
                "hello-and-accept",
                [framed(&hello), framed(&accept)].concat(),
            ));
        }
    }
    seeds
}

fn gossip_seeds(party: &Party) -> Seeds {
    let announcement = Announcement {
        chain: party.chain.clone(),
        record: party.record.clone(),
    };
    let messages = [
        (
            "announcement",
            MeshMessage::Announcement(Box::new(announcement)),
        ),
        (
            "revocations",
            MeshMessage::Revocations(vec![0x30, 0x03, 0x02, 0x01, 0x05]),
        ),
        (
            "revocations-available",
            MeshMessage::RevocationsAvailable(vec![([3; 32], 7), ([4; 32], u64::MAX)]),
        ),
    ];
    messages
        .iter()
        .map(|(name, message)| (*name, gossip::encode(message)))
        .collect()
}

fn sync_seeds(party: &Party) -> Seeds {
    let proof = MemberProof(Announcement {
        chain: party.chain.clone(),
        record: party.record.clone(),
    });
    let requests = [
        (
            "have",
            SyncRequest::Have {
                documents: vec!["bafyr4i".into(), String::new()],
            },
        ),
        (
            "revocations",
            SyncRequest::Revocations {
                have: vec![([3; 32], 7)],
            },
        ),
        (
            "record",
            SyncRequest::Record {
                record: party.record.clone().into(),
            },
        ),
        ("members", SyncRequest::Members),
    ];
    let responses = [
        ("have-answer", SyncResponse::Have(vec![true, false, true])),
        (
            "revocations-answer",
            SyncResponse::Revocations(vec![vec![0x30, 0x00].into()]),
        ),
        (
            "record-answer",
            SyncResponse::Record(party.record.clone().into()),
        ),
        ("members-answer", SyncResponse::Members(vec![proof])),
    ];
    let requests = requests
        .into_iter()
        .map(|(name, request)| (name, write_request(request)));
    requests
        .chain(
            responses
                .into_iter()
                .map(|(name, response)| (name, write_response(response))),
        )
        .collect()
}
