//! The admission protocol `/warren/admission/1.0.0`: both sides of a fresh connection prove that
//! they belong to the organisation, before anything else is said on it.
//!
//! It runs on the first substream of the connection, opened by the side that dialled (on a
//! hole-punched connection, where both dial, by the side that was told to act as the dialler).
//! Messages are postcard, each preceded by its length as four bytes, big-endian, at most 64 KiB:
//!
//! ```text
//! dialler                                   listener
//!   Hello { version, chain, revocations }  →            verifies the chain
//!                                          ←  Welcome { version, chain, revocations, record }
//!   verifies chain and record
//!   Accept { record }                      →            verifies the record
//! ```
//!
//! Either side answers with `Refused { code }` instead and closes. A refused side learns the code
//! and nothing else: the listener shows its certificate to members only. The leaf must bind the key
//! that the secure channel below was made with, so nothing said here can be replayed elsewhere.

use std::sync::Arc;

use libp2p::PeerId;
use serde::{Deserialize, Serialize};
use warren_identity::{Member, NodeRecord, Refusal, Signed};

/// The version of the messages below.
pub(crate) const VERSION: u16 = 1;

/// No message is longer.
pub(crate) const MAX_MESSAGE_BYTES: usize = 64 * 1024;

/// Certificate authorities whose lists one message may name: a roll-over has two.
const MAX_REVOCATION_LISTS: usize = 16;

/// Which CA's list, and its number: who is behind fetches from who is ahead.
pub(crate) type ListNumbers = Vec<([u8; 32], u64)>;

/// Why a connection was not admitted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// The other side asked for something else first: no node of ours.
    #[error("it does not prove membership: no node of this organisation")]
    Stranger,
    /// Its certificate is not a member's.
    #[error("{0}")]
    Refused(Refusal),
    /// Its certificate is another node's.
    #[error("its certificate is of node {0}, another than the one that connected")]
    OtherNode(PeerId),
    /// Somebody else than was dialled.
    #[error("node {0} answered, another than the one that was dialled")]
    WrongPeer(PeerId),
    /// It broke the rules of a protocol too often and has to wait.
    #[error("it is banned for a while, for breaking the rules of a protocol")]
    Banned,
    /// Its signed record is not its own, or is damaged.
    #[error("its node record is not acceptable: {0}")]
    Record(&'static str),
    /// What it sent is no message of the protocol.
    #[error("it sent something that is no admission message: {0}")]
    Malformed(&'static str),
    /// It announced a message longer than allowed.
    #[error("it announced an admission message of {0} bytes; the limit is 65536")]
    TooLong(usize),
    /// Another version of the protocol.
    #[error("it speaks version {0} of admission, this node version 1; update the older one")]
    Version(u16),
    /// It did not finish in time.
    #[error("it did not prove membership in time")]
    TimedOut,
    /// The connection ended meanwhile.
    #[error("the connection ended before membership was proven")]
    Closed,
    /// It refused us.
    #[error("it refused this node's certificate: {0}")]
    RefusedUs(RefusalCode),
}

impl AdmissionError {
    /// The label `reason` it is counted under.
    pub fn label(&self) -> &'static str {
        match self {
            Self::Stranger => "stranger",
            Self::Refused(refusal) => refusal.label(),
            Self::OtherNode(_) => "other_node",
            Self::WrongPeer(_) => "wrong_peer",
            Self::Banned => "banned",
            Self::Record(_) => "bad_record",
            Self::Malformed(_) => "malformed_message",
            Self::TooLong(_) => "message_too_long",
            Self::Version(_) => "version",
            Self::TimedOut => "timeout",
            Self::Closed => "closed",
            Self::RefusedUs(_) => "refused_by_peer",
        }
    }

    /// What the other side is told, if anything.
    pub(crate) fn code(&self) -> Option<RefusalCode> {
        match self {
            Self::Refused(Refusal::Expired { .. } | Refusal::IssuerExpired { .. }) => {
                Some(RefusalCode::Expired)
            }
            Self::Refused(Refusal::NotYetValid { .. }) => Some(RefusalCode::NotYetValid),
            Self::Refused(Refusal::Revoked { .. } | Refusal::PeerRevoked(_)) => {
                Some(RefusalCode::Revoked)
            }
            Self::Version(_) => Some(RefusalCode::Version),
            Self::Refused(_) | Self::OtherNode(_) | Self::Record(_) => {
                Some(RefusalCode::NotAMember)
            }
            Self::Malformed(_) | Self::TooLong(_) => Some(RefusalCode::Malformed),
            Self::Stranger
            | Self::WrongPeer(_)
            | Self::Banned
            | Self::TimedOut
            | Self::Closed
            | Self::RefusedUs(_) => None,
        }
    }
}

/// What a refused side is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum RefusalCode {
    /// The certificate is of no CA the other side trusts, or otherwise not a member's.
    NotAMember,
    /// The certificate ended.
    Expired,
    /// The certificate has not begun.
    NotYetValid,
    /// The certificate was revoked.
    Revoked,
    /// Another version of the protocol.
    Version,
    /// The message could not be read.
    Malformed,
}

impl std::fmt::Display for RefusalCode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::NotAMember => {
                "it does not count this node a member; check that both use the same CA"
            }
            Self::Expired => "it has expired; renew it, or check both clocks",
            Self::NotYetValid => "it is not valid yet; check both clocks",
            Self::Revoked => "it is revoked",
            Self::Version => "it speaks another version of admission; update the older node",
            Self::Malformed => "it could not read what this node sent",
        })
    }
}

#[derive(Debug, Serialize, Deserialize)]
enum Message {
    Hello(Hello),
    Welcome(Hello, Signed<NodeRecord>),
    Accept(Signed<NodeRecord>),
    Refused(RefusalCode),
}

/// The proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Hello {
    version: u16,
    /// Certificates in DER, leaf first.
    chain: Vec<Vec<u8>>,
    revocations: ListNumbers,
}

/// What we show.
#[derive(Debug, Clone)]
pub(crate) struct Presented {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) revocations: ListNumbers,
    pub(crate) record: Signed<NodeRecord>,
}

/// What was learnt about an admitted peer.
#[derive(Debug, Clone)]
pub(crate) struct Admitted {
    pub(crate) member: Arc<Member>,
    pub(crate) record: Arc<Signed<NodeRecord>>,
    pub(crate) chain: Arc<[Vec<u8>]>,
    pub(crate) revocations: ListNumbers,
}

/// Which side of the exchange we are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Dialler,
    Listener,
}

/// Decides over a chain of DER certificates; `Trust` at one moment in time.
pub(crate) type Verify<'a> = &'a dyn Fn(&[Vec<u8>]) -> Result<Member, Refusal>;

/// What to do next.
#[derive(Debug)]
pub(crate) enum Step {
    /// Send this and wait for the next message.
    Send(Vec<u8>),
    /// Send this, then the peer is admitted.
    SendAndAdmit(Vec<u8>, Box<Admitted>),
    /// The peer is admitted.
    Admit(Box<Admitted>),
    /// Send this if there is something, then close.
    Refuse(Option<Vec<u8>>, AdmissionError),
}

/// One side of one exchange. Feed it each message once, in order; after anything but
/// [`Step::Send`] it is over.
#[derive(Debug)]
pub(crate) struct Exchange {
    side: Side,
    channel_peer: PeerId,
    presented: Presented,
    /// The listener's knowledge of the dialler between its two messages.
    verified: Option<(Member, Hello)>,
}

impl Exchange {
    /// `channel_peer` is who the secure channel says the other side is.
    pub(crate) fn new(side: Side, channel_peer: PeerId, presented: Presented) -> Self {
        Self {
            side,
            channel_peer,
            presented,
            verified: None,
        }
    }

    /// What the dialler sends before it hears anything.
    pub(crate) fn opening(&self) -> Option<Vec<u8>> {
        (self.side == Side::Dialler).then(|| encode(&Message::Hello(self.hello())))
    }

    /// The next message could not be read: ends the exchange.
    pub(crate) fn broken(error: AdmissionError) -> Step {
        let reply = error.code().map(|code| encode(&Message::Refused(code)));
        Step::Refuse(reply, error)
    }

    /// Takes the next message of the other side.
    pub(crate) fn handle_message(&mut self, bytes: &[u8], verify: Verify<'_>) -> Step {
        self.try_message(bytes, verify).unwrap_or_else(Self::broken)
    }

    fn try_message(&mut self, bytes: &[u8], verify: Verify<'_>) -> Result<Step, AdmissionError> {
        let (message, rest) = postcard::take_from_bytes::<Message>(bytes)
            .map_err(|_| AdmissionError::Malformed("it cannot be decoded"))?;
        if !rest.is_empty() {
            return Err(AdmissionError::Malformed("bytes follow the message"));
        }
        match (self.side, message, self.verified.take()) {
            (_, Message::Refused(code), _) => Err(AdmissionError::RefusedUs(code)),
            (Side::Listener, Message::Hello(hello), None) => {
                let member = self.check(&hello, verify)?;
                self.verified = Some((member, hello));
                let welcome = Message::Welcome(self.hello(), self.presented.record.clone());
                Ok(Step::Send(encode(&welcome)))
            }
            (Side::Dialler, Message::Welcome(hello, record), None) => {
                let member = self.check(&hello, verify)?;
                let admitted = admit(member, hello, record)?;
                let accept = Message::Accept(self.presented.record.clone());
                Ok(Step::SendAndAdmit(encode(&accept), Box::new(admitted)))
            }
            (Side::Listener, Message::Accept(record), Some((member, hello))) => {
                Ok(Step::Admit(Box::new(admit(member, hello, record)?)))
            }
            _ => Err(AdmissionError::Malformed("it is out of turn")),
        }
    }

    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            chain: self.presented.chain.clone(),
            revocations: self.presented.revocations.clone(),
        }
    }

    fn check(&self, hello: &Hello, verify: Verify<'_>) -> Result<Member, AdmissionError> {
        if hello.version != VERSION {
            return Err(AdmissionError::Version(hello.version));
        }
        if hello.revocations.len() > MAX_REVOCATION_LISTS {
            return Err(AdmissionError::Malformed(
                "it names too many revocation lists",
            ));
        }
        let member = verify(&hello.chain).map_err(AdmissionError::Refused)?;
        if member.peer_id != self.channel_peer {
            return Err(AdmissionError::OtherNode(member.peer_id));
        }
        Ok(member)
    }
}

fn admit(
    member: Member,
    hello: Hello,
    record: Signed<NodeRecord>,
) -> Result<Admitted, AdmissionError> {
    check_record(&member, &record).map_err(AdmissionError::Record)?;
    Ok(Admitted {
        member: Arc::new(member),
        record: Arc::new(record),
        chain: hello.chain.into(),
        revocations: hello.revocations,
    })
}

/// Whether a record is the member's own and says nothing its certificate contradicts. Its signature
/// and bounds were checked when it was decoded.
pub(crate) fn check_record(
    member: &Member,
    record: &Signed<NodeRecord>,
) -> Result<(), &'static str> {
    if record.signer() != member.peer_id {
        return Err("it is of another node");
    }
    member.check_record(record.value())
}

fn encode(message: &Message) -> Vec<u8> {
    // Plain owned data always encodes; an empty message would be refused as malformed.
    postcard::to_stdvec(message).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::time::Duration;

    use proptest::prelude::*;
    use warren_identity::{
        CaRequest, Capabilities, CertificateAuthority, CertificateDer, LeafRequest, NodeKey,
        OrganizationId, Serial, Trust, UnixTime, WildcardNames,
    };

    use super::*;

    const NOW: UnixTime = UnixTime::since_unix_epoch(Duration::from_secs(1_800_000_000));
    const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

    struct Party {
        trust: Trust,
        presented: Presented,
    }

    impl Party {
        fn verify(&self, chain: &[Vec<u8>]) -> Result<Member, Refusal> {
            let chain: Vec<_> = chain
                .iter()
                .map(|der| CertificateDer::from(der.as_slice()))
                .collect();
            self.trust.verify(&chain, NOW)
        }

        fn exchange(&self, side: Side, with: &Self) -> Exchange {
            Exchange::new(side, with.trust.peer_id(), self.presented.clone())
        }

        fn take(&self, exchange: &mut Exchange, bytes: &[u8]) -> Step {
            exchange.handle_message(bytes, &|chain| self.verify(chain))
        }
    }

    fn authority() -> CertificateAuthority {
        let request = CaRequest {
            organization: OrganizationId::new("org_acme").unwrap(),
            key_material: zeroize::Zeroizing::new([1; 32]),
            serial: Serial::from_random([1; 16]),
            validity: YEAR * 2,
        };
        CertificateAuthority::create(&request, NOW).unwrap()
    }

    fn party(ca: &CertificateAuthority, seed: u8) -> Party {
        let key = NodeKey::from_seed([seed; 32]);
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: "node".into(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::none(),
            validity: YEAR,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = ca
            .issue(&request, NOW, Serial::from_random([seed; 16]))
            .unwrap();
        let trust = Trust::new(key, ca.roots().clone());
        trust.replace_leaf(leaf, NOW).unwrap();
        let record = NodeRecord {
            peer_id: trust.peer_id(),
            organization: trust.organization().clone(),
            name: "node".into(),
            region: None,
            roles: Vec::new(),
            addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            sequence: 1,
            issued_at_unix_s: NOW.as_secs(),
        };
        let presented = Presented {
            chain: trust.chain().iter().map(|der| der.to_vec()).collect(),
            revocations: vec![([7; 32], 3)],
            record: Signed::sign(record, trust.key()).unwrap(),
        };
        Party { trust, presented }
    }

    fn sent(step: Step) -> Vec<u8> {
        match step {
            Step::Send(bytes) | Step::SendAndAdmit(bytes, _) => bytes,
            other => panic!("nothing is sent: {other:?}"),
        }
    }

    #[test]
    fn given_two_members_when_they_talk_then_each_admits_the_other_with_its_record() {
        let ca = authority();
        let (a, b) = (party(&ca, 2), party(&ca, 3));
        let (mut dialler, mut listener) = (
            a.exchange(Side::Dialler, &b),
            b.exchange(Side::Listener, &a),
        );
        assert!(listener.opening().is_none());
        let welcome = sent(b.take(&mut listener, &dialler.opening().unwrap()));
        let Step::SendAndAdmit(accept, of_b) = a.take(&mut dialler, &welcome) else {
            panic!("the dialler does not admit");
        };
        let Step::Admit(of_a) = b.take(&mut listener, &accept) else {
            panic!("the listener does not admit");
        };
        assert_eq!(of_b.member.peer_id, b.trust.peer_id());
        assert_eq!(of_a.member.peer_id, a.trust.peer_id());
        assert_eq!(of_a.revocations, [([7; 32], 3)]);
    }

    #[test]
    fn given_a_record_with_a_role_that_the_certificate_lacks_when_presented_then_it_is_refused() {
        let ca = authority();
        let (mut a, b) = (party(&ca, 2), party(&ca, 3));
        let mut record = a.presented.record.value().clone();
        record.roles.push("relay".into());
        a.presented.record = Signed::sign(record, a.trust.key()).unwrap();
        let (mut dialler, mut listener) = (
            a.exchange(Side::Dialler, &b),
            b.exchange(Side::Listener, &a),
        );
        let welcome = sent(b.take(&mut listener, &dialler.opening().unwrap()));
        let accept = sent(a.take(&mut dialler, &welcome));
        assert!(matches!(
            b.take(&mut listener, &accept),
            Step::Refuse(Some(_), AdmissionError::Record(_))
        ));
    }

    #[test]
    fn given_a_chain_that_belongs_to_another_node_when_presented_then_it_is_refused() {
        let ca = authority();
        let (a, b, thief) = (party(&ca, 2), party(&ca, 3), party(&ca, 4));
        // The thief's channel, with a member's certificate.
        let stolen = Exchange::new(Side::Dialler, b.trust.peer_id(), a.presented.clone());
        let mut listener = b.exchange(Side::Listener, &thief);
        let step = b.take(&mut listener, &stolen.opening().unwrap());
        let Step::Refuse(Some(reply), error) = step else {
            panic!("not refused: {step:?}");
        };
        assert_eq!(error, AdmissionError::OtherNode(a.trust.peer_id()));
        assert!(reply.len() <= 2, "a refusal says a code and no more");
    }

    #[test]
    fn given_a_record_of_another_member_when_presented_then_it_is_refused() {
        let ca = authority();
        let (mut a, b, c) = (party(&ca, 2), party(&ca, 3), party(&ca, 4));
        a.presented.record = c.presented.record;
        let (mut dialler, mut listener) = (
            a.exchange(Side::Dialler, &b),
            b.exchange(Side::Listener, &a),
        );
        let welcome = sent(b.take(&mut listener, &dialler.opening().unwrap()));
        let accept = sent(a.take(&mut dialler, &welcome));
        let step = b.take(&mut listener, &accept);
        assert!(
            matches!(step, Step::Refuse(_, AdmissionError::Record(_))),
            "{step:?}"
        );
    }

    #[test]
    fn given_a_message_out_of_turn_when_received_then_it_is_refused() {
        let ca = authority();
        let (a, b) = (party(&ca, 2), party(&ca, 3));
        let accept = encode(&Message::Accept(a.presented.record.clone()));
        let step = b.take(&mut b.exchange(Side::Listener, &a), &accept);
        assert!(
            matches!(step, Step::Refuse(_, AdmissionError::Malformed(_))),
            "{step:?}"
        );
        let mut dialler = a.exchange(Side::Dialler, &b);
        let hello = b.exchange(Side::Dialler, &a).opening().unwrap();
        let step = a.take(&mut dialler, &hello);
        assert!(
            matches!(step, Step::Refuse(_, AdmissionError::Malformed(_))),
            "{step:?}"
        );
    }

    #[test]
    fn given_another_version_when_received_then_it_is_refused_by_number() {
        let ca = authority();
        let (a, b) = (party(&ca, 2), party(&ca, 3));
        let hello = Hello {
            version: 2,
            chain: a.presented.chain.clone(),
            revocations: Vec::new(),
        };
        let step = b.take(
            &mut b.exchange(Side::Listener, &a),
            &encode(&Message::Hello(hello)),
        );
        assert!(
            matches!(step, Step::Refuse(Some(_), AdmissionError::Version(2))),
            "{step:?}"
        );
    }

    #[test]
    fn given_a_refusal_when_received_then_its_code_is_told_and_nothing_answered() {
        let ca = authority();
        let (a, b) = (party(&ca, 2), party(&ca, 3));
        let refusal = encode(&Message::Refused(RefusalCode::Revoked));
        let step = a.take(&mut a.exchange(Side::Dialler, &b), &refusal);
        assert!(
            matches!(
                step,
                Step::Refuse(None, AdmissionError::RefusedUs(RefusalCode::Revoked))
            ),
            "{step:?}"
        );
    }

    proptest! {
        // proptest prints the seed of a failure and keeps it.
        #[test]
        fn given_any_bytes_when_received_then_the_listener_refuses_with_a_short_code(
            bytes in proptest::collection::vec(any::<u8>(), 0..2_048),
        ) {
            let ca = authority();
            let (a, b) = (party(&ca, 2), party(&ca, 3));
            let step = b.take(&mut b.exchange(Side::Listener, &a), &bytes);
            let Step::Refuse(reply, _) = step else {
                return Err(TestCaseError::fail("random bytes were not refused"));
            };
            prop_assert!(reply.is_none_or(|reply| reply.len() <= 2));
        }

        #[test]
        fn given_a_proof_with_one_byte_changed_when_received_then_no_other_member_comes_of_it(
            at in any::<prop::sample::Index>(),
            flip in 1u8..,
        ) {
            let ca = authority();
            let (a, b) = (party(&ca, 2), party(&ca, 3));
            let mut hello = a.exchange(Side::Dialler, &b).opening().unwrap();
            let at = at.index(hello.len());
            hello[at] ^= flip;
            match b.take(&mut b.exchange(Side::Listener, &a), &hello) {
                // The numbers of the revocation lists are the one part that nothing vouches for.
                Step::Send(_) => prop_assert!(hello.len() - at <= 36),
                Step::Refuse(..) => {}
                other => prop_assert!(false, "{:?}", other),
            }
        }
    }
}
