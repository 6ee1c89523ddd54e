//! The mesh's own gossip: node records and revocations, and who may pass them on.
//!
//! They travel on a topic of their own, `warren.mesh.<organization_id>`, so that the configured
//! topics carry nothing but what was published on them. Every message proves itself: a record comes
//! with its member's certificates, a revocation list is signed by the CA. So it does not matter who
//! passed it on, and a message is judged before it is.

use serde::{Deserialize, Serialize};
use warren_identity::{
    CrlError, Member, MergeOutcome, NodeRecord, OrganizationId, Refusal, Signed,
};

use crate::core::admission::{ListNumbers, check_record};

/// Longer revocation lists are not gossiped; their number is, and they are fetched.
pub(crate) const MAX_INLINE_LIST_BYTES: usize = 48 * 1024;

/// The topic of one organisation's mesh.
pub(crate) fn topic(organization: &OrganizationId) -> String {
    format!("warren.mesh.{organization}")
}

/// What is said on it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) enum MeshMessage {
    /// A member's record, with the certificates that prove whose it is.
    Announcement(Box<Announcement>),
    /// A revocation list, DER.
    Revocations(Vec<u8>),
    /// Lists too long to be gossiped, by number.
    RevocationsAvailable(ListNumbers),
}

/// A member's record and its proof.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Announcement {
    pub(crate) chain: Vec<Vec<u8>>,
    pub(crate) record: Signed<NodeRecord>,
}

/// What is done with a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// Pass it on.
    Accept,
    /// Drop it; whoever passed it on may have done so in good faith.
    Ignore,
    /// Drop it as well: who signed it has had its share.
    Limited,
    /// Drop it and count it against whoever passed it on: no honest node would have.
    Reject,
}

pub(crate) fn decode(bytes: &[u8]) -> Option<MeshMessage> {
    let (message, rest) = postcard::take_from_bytes(bytes).ok()?;
    rest.is_empty().then_some(message)
}

/// Whether a message proves itself alone, so that who signs it for the way does not matter. Two nodes that publish the
/// same one then say the same thing; of any other message it counts who says it.
pub(crate) fn speaks_for_itself(bytes: &[u8]) -> bool {
    /// How postcard numbers [`MeshMessage::Announcement`], the first of the variants.
    const ANNOUNCEMENT: u8 = 0;
    bytes
        .first()
        .is_some_and(|variant| *variant != ANNOUNCEMENT)
}

pub(crate) fn encode(message: &MeshMessage) -> Vec<u8> {
    // Plain owned data always encodes; an empty message would be rejected by every receiver.
    postcard::to_stdvec(message).unwrap_or_default()
}

/// Judges who an announcement is of.
pub(crate) fn judge_announcement(
    verified: Result<Member, Refusal>,
    announcement: &Announcement,
) -> Result<Member, Verdict> {
    let member = verified.map_err(|refusal| match refusal {
        // Clocks, roll-overs and revocations reach nodes at different times.
        Refusal::Expired { .. }
        | Refusal::NotYetValid { .. }
        | Refusal::Revoked { .. }
        | Refusal::PeerRevoked(_)
        | Refusal::UnknownIssuer
        | Refusal::IssuerExpired { .. } => Verdict::Ignore,
        _ => Verdict::Reject,
    })?;
    check_record(&member, &announcement.record).map_err(|_| Verdict::Reject)?;
    Ok(member)
}

/// Judges a revocation list by what came of taking it over.
pub(crate) fn judge_revocations(merged: &Result<MergeOutcome, CrlError>) -> Verdict {
    match merged {
        Ok(MergeOutcome::Updated) => Verdict::Accept,
        Ok(MergeOutcome::Unchanged)
        | Err(
            CrlError::Replayed { .. } | CrlError::Conflict { .. } | CrlError::UnknownIssuer { .. },
        ) => Verdict::Ignore,
        Err(CrlError::Malformed(_) | CrlError::BadSignature(_)) => Verdict::Reject,
    }
}

/// The lists in which `theirs` is ahead of `ours`, or that we do not have.
pub(crate) fn behind(ours: &ListNumbers, theirs: &ListNumbers) -> bool {
    theirs.iter().any(|(issuer, number)| {
        ours.iter()
            .find(|(have, _)| have == issuer)
            .is_none_or(|(_, have)| have < number)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_list_numbers_when_compared_then_a_higher_or_unknown_one_means_behind() {
        let (a, b) = ([1; 32], [2; 32]);
        assert!(!behind(&vec![(a, 3)], &vec![(a, 3)]));
        assert!(!behind(&vec![(a, 4)], &vec![(a, 3)]));
        assert!(behind(&vec![(a, 3)], &vec![(a, 4)]));
        assert!(behind(&vec![(a, 3)], &vec![(a, 3), (b, 1)]));
        assert!(!behind(&vec![(a, 3)], &Vec::new()));
    }

    #[test]
    fn given_messages_when_asked_then_lists_speak_for_themselves_and_announcements_do_not() {
        let key = warren_identity::NodeKey::from_seed([1; 32]);
        let record = NodeRecord {
            peer_id: key.peer_id(),
            organization: OrganizationId::new("org_acme").unwrap(),
            name: String::new(),
            region: None,
            roles: Vec::new(),
            addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            sequence: 1,
            issued_at_unix_s: 0,
        };
        let announcement = MeshMessage::Announcement(Box::new(Announcement {
            chain: Vec::new(),
            record: Signed::sign(record, &key).unwrap(),
        }));
        assert!(!speaks_for_itself(&encode(&announcement)));
        assert!(!speaks_for_itself(&[]));
        assert!(speaks_for_itself(&encode(&MeshMessage::Revocations(vec![
            1
        ]))));
        let available = MeshMessage::RevocationsAvailable(Vec::new());
        assert!(speaks_for_itself(&encode(&available)));
    }

    #[test]
    fn given_garbage_or_a_tail_when_decoded_then_there_is_no_message() {
        assert!(decode(&[0xff; 40]).is_none());
        assert!(decode(&[]).is_none());
        let mut bytes = encode(&MeshMessage::Revocations(vec![1, 2, 3]));
        assert!(decode(&bytes).is_some());
        bytes.push(0);
        assert!(decode(&bytes).is_none());
    }

    #[test]
    fn given_a_forged_list_when_judged_then_who_passed_it_on_is_blamed_but_not_for_an_old_one() {
        let forged = Err(CrlError::BadSignature("CN=x".into()));
        assert_eq!(judge_revocations(&forged), Verdict::Reject);
        let old = Err(CrlError::Replayed {
            issuer: "CN=x".into(),
            have: 2,
            offered: 1,
        });
        assert_eq!(judge_revocations(&old), Verdict::Ignore);
        assert_eq!(
            judge_revocations(&Ok(MergeOutcome::Updated)),
            Verdict::Accept
        );
    }
}
