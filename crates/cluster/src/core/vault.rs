//! Whose certificates are known, and whose are wanted.
//!
//! Each node says in its signed tag [`LEAF_TAG`] which leaf it has. So a chain can come from anyone, an old leaf cannot
//! pass for the present one, and everyone notices when a node gets another.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use aws_lc_rs::digest::{SHA256, digest};
use bytes::Bytes;
use warren_identity::{CertificateDer, Member, PeerId, Refusal, UnixTime};

use crate::core::frame::MAX_ASKED;

/// The tag that names a node's leaf.
pub(crate) const LEAF_TAG: &str = "leaf";

/// The pause after the first question for a chain; doubled with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);
/// A moment in which wishes gather, so that one question asks for many.
const GATHER: Duration = Duration::from_millis(30);
/// Questions to whoever is connected before the member itself is dialled.
const ASKED_ELSEWHERE: u32 = 3;

/// What is known of a member.
#[derive(Clone, Debug)]
pub(crate) struct Known {
    /// What its leaf says.
    pub(crate) member: Arc<Member>,
    /// Its certificates in DER, leaf first.
    pub(crate) chain: Bytes,
    /// [`leaf_name`] of its leaf.
    pub(crate) leaf: String,
}

#[derive(Debug)]
struct Want {
    attempts: u32,
    next: Instant,
}

/// Members to ask for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Due {
    /// Anyone may be asked for these.
    pub(crate) anyone: Vec<PeerId>,
    /// These are to be asked themselves.
    pub(crate) themselves: Vec<PeerId>,
}

/// Certificates by member.
#[derive(Debug)]
pub(crate) struct Vault {
    known: BTreeMap<PeerId, Known>,
    wanted: BTreeMap<PeerId, Want>,
    most: usize,
}

/// What a leaf is called in the tag: the first eight bytes of its SHA-256, in hexadecimal.
pub(crate) fn leaf_name(chain: &[CertificateDer<'_>]) -> Option<String> {
    let leaf = chain.first()?;
    Some(hex::encode(&digest(&SHA256, leaf).as_ref()[..8]))
}

/// Whether a refusal of a member's present leaf ends its membership. Others may pass: a CA that has not come here yet,
/// a clock that is behind.
pub(crate) fn is_final(refusal: &Refusal) -> bool {
    matches!(
        refusal,
        Refusal::Revoked { .. }
            | Refusal::PeerRevoked(_)
            | Refusal::Expired { .. }
            | Refusal::IssuerExpired { .. }
    )
}

impl Vault {
    /// Chains of at most `most` members.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            known: BTreeMap::new(),
            wanted: BTreeMap::new(),
            most,
        }
    }

    /// What is known of a member.
    pub(crate) fn get(&self, peer: &PeerId) -> Option<&Known> {
        self.known.get(peer)
    }

    /// Puts what was proven in place. When the vault is full, a newcomer is not kept.
    pub(crate) fn learn(&mut self, peer: PeerId, known: Known) {
        self.wanted.remove(&peer);
        if self.known.len() < self.most || self.known.contains_key(&peer) {
            self.known.insert(peer, known);
        }
    }

    /// Forgets a member and what was wanted of it.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.known.remove(peer);
        self.wanted.remove(peer);
    }

    /// A member's chain is wanted.
    pub(crate) fn want(&mut self, peer: PeerId, now: Instant) {
        if self.wanted.len() < self.most {
            self.wanted.entry(peer).or_insert(Want {
                attempts: 0,
                next: now + GATHER,
            });
        }
    }

    /// Whether a member's chain is wanted.
    pub(crate) fn is_wanted(&self, peer: &PeerId) -> bool {
        self.wanted.contains_key(peer)
    }

    /// When somebody is next to be asked. Linear in what is wanted.
    pub(crate) fn next_due(&self) -> Option<Instant> {
        self.wanted.values().map(|want| want.next).min()
    }

    /// Whom to ask for now; each comes again after a pause until it is known.
    pub(crate) fn due(&mut self, now: Instant) -> Due {
        let mut due = Due::default();
        for (peer, want) in self.wanted.iter_mut().filter(|(_, want)| want.next <= now) {
            if want.attempts < ASKED_ELSEWHERE {
                due.anyone.push(*peer);
            } else {
                due.themselves.push(*peer);
            }
            let pause = FIRST_PAUSE * 2_u32.saturating_pow(want.attempts.min(8));
            want.attempts += 1;
            want.next = now + pause.min(LONGEST_PAUSE);
        }
        due
    }

    /// The chains of those that are known, as many as one answer holds in `room` bytes.
    pub(crate) fn answer(&self, asked: &[PeerId], room: usize) -> Vec<(PeerId, Bytes)> {
        let mut left = room;
        let mut chains = Vec::new();
        for peer in asked.iter().take(MAX_ASKED) {
            let Some(known) = self.known.get(peer) else {
                continue;
            };
            // The key and the length go with it.
            let Some(rest) = left.checked_sub(known.chain.len() + 34) else {
                break;
            };
            left = rest;
            chains.push((*peer, known.chain.clone()));
        }
        chains
    }

    /// Everyone known.
    pub(crate) fn members(&self) -> impl Iterator<Item = &Arc<Member>> {
        self.known.values().map(|known| &known.member)
    }

    /// When the first leaf ends.
    pub(crate) fn first_expiry(&self) -> Option<UnixTime> {
        let ends = self.members().map(|member| member.not_after);
        ends.min_by_key(|end| end.as_secs())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_identity::NodeKey;

    fn peer(number: u8) -> PeerId {
        NodeKey::from_seed([number; 32]).peer_id()
    }

    #[test]
    fn given_wishes_that_come_together_when_due_then_they_are_asked_for_together() {
        let (mut vault, now) = (Vault::new(10), Instant::now());
        vault.want(peer(1), now);
        vault.want(peer(2), now + GATHER / 2);
        assert_eq!(vault.due(now), Due::default());

        let due = vault.due(now + GATHER * 2);

        assert_eq!(due.anyone.len(), 2);
    }

    #[test]
    fn given_questions_without_answer_when_repeated_then_the_member_itself_is_asked_at_last() {
        let (mut vault, mut now) = (Vault::new(10), Instant::now());
        vault.want(peer(1), now);
        for _ in 0..ASKED_ELSEWHERE {
            now += LONGEST_PAUSE;
            assert_eq!(vault.due(now).anyone, [peer(1)]);
        }
        now += LONGEST_PAUSE;

        assert_eq!(vault.due(now).themselves, [peer(1)]);
    }

    #[test]
    fn given_more_wishes_than_members_fit_when_wanted_then_memory_stays_bounded() {
        let (mut vault, now) = (Vault::new(3), Instant::now());
        for number in 0..50 {
            vault.want(peer(number), now);
        }

        assert_eq!(vault.wanted.len(), 3);
    }

    #[test]
    fn given_two_leaves_when_named_then_their_names_differ() {
        let name = |bytes: &[u8]| leaf_name(&[CertificateDer::from(bytes.to_vec())]);

        assert_ne!(name(b"one"), name(b"two"));
        assert_eq!(name(b"one").map(|name| name.len()), Some(16));
        assert_eq!(leaf_name(&[]), None);
    }
}
