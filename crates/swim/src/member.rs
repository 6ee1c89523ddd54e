//! One member, as others see it.

use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use warren_identity::{Capabilities, Capability, PeerId};

use crate::statement::SignedStatement;
#[cfg(doc)]
use crate::statement::Tags;

/// Who a member is: the peer id of its Ed25519 key.
pub type MemberId = PeerId;

/// An Ed25519 public key inside an identity multihash: code, length, protobuf tag and type, length.
const ID_PREFIX: [u8; 6] = [0x00, 0x24, 0x08, 0x01, 0x12, 0x20];

/// The key inside a member id; `None` for an id of another kind of key.
pub(crate) fn key_of(id: &MemberId) -> Option<[u8; 32]> {
    let bytes = id.to_bytes();
    bytes.strip_prefix(&ID_PREFIX)?.try_into().ok()
}

/// The member id of a key. Whether the key is a point of the curve shows when a signature is checked.
pub(crate) fn id_of(key: &[u8; 32]) -> Option<MemberId> {
    let mut bytes = [0; 38];
    bytes[..6].copy_from_slice(&ID_PREFIX);
    bytes[6..].copy_from_slice(key);
    PeerId::from_bytes(&bytes).ok()
}

/// The first eight bytes of a member's key: its name in claims and summaries.
///
/// To make a key that begins like a given one takes 2⁶⁴ attempts. Whoever makes two of its own that begin alike has
/// only one of them in the table.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint(pub(crate) u64);

impl Fingerprint {
    /// Of a member; `None` if its id is not that of an Ed25519 key.
    #[must_use]
    pub fn of(id: &MemberId) -> Option<Self> {
        key_of(id).map(|key| Self::of_key(&key))
    }

    pub(crate) fn of_key(key: &[u8; 32]) -> Self {
        let [a, b, c, d, e, f, g, h, ..] = *key;
        Self(u64::from_be_bytes([a, b, c, d, e, f, g, h]))
    }
}

impl fmt::Debug for Fingerprint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// What is held of a member.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It answers.
    Alive,
    /// Somebody got no answer from it.
    Suspect,
    /// It is gone without a word.
    Failed,
    /// It said good-bye.
    Left,
}

impl State {
    /// Whether it is probed, gossiped with and counted.
    #[must_use]
    pub fn is_live(self) -> bool {
        matches!(self, Self::Alive | Self::Suspect)
    }
}

/// What a member's leaf says, as the shell found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Credentials {
    /// The leaf is valid and grants these.
    Proven(Capabilities),
    /// The leaf is missing, invalid, expired or revoked: the member is removed.
    Refused,
}

/// A member other than ourselves.
#[derive(Clone, Debug)]
pub struct Member {
    pub(crate) id: MemberId,
    pub(crate) state: State,
    pub(crate) since: Instant,
    pub(crate) statement: Arc<SignedStatement>,
    pub(crate) capabilities: Option<Arc<Capabilities>>,
    /// Its place in the table's list of live members.
    pub(crate) live_index: usize,
    /// Whether another key took over its address after it failed.
    pub(crate) address_lost: bool,
}

impl Member {
    /// Who.
    #[must_use]
    pub fn id(&self) -> MemberId {
        self.id
    }

    /// In which state we hold it.
    #[must_use]
    pub fn state(&self) -> State {
        self.state
    }

    /// Since when it is in that state.
    #[must_use]
    pub fn since(&self) -> Instant {
        self.since
    }

    /// What it says of itself.
    #[must_use]
    pub fn statement(&self) -> &SignedStatement {
        &self.statement
    }

    pub(crate) fn incarnation(&self) -> u64 {
        self.statement.incarnation
    }

    /// What its leaf grants; `None` until the shell has seen the leaf.
    #[must_use]
    pub fn capabilities(&self) -> Option<&Capabilities> {
        self.capabilities.as_deref()
    }

    /// The roles its tag `role` claims (comma-separated), each with whether its leaf grants the capability of that
    /// name. Only proven ones may be acted upon.
    pub fn roles(&self) -> impl Iterator<Item = (&str, Proof)> {
        let claimed = self.statement.tags.get("role").unwrap_or_default();
        claimed
            .split(',')
            .map(str::trim)
            .filter(|role| !role.is_empty())
            .map(|role| (role, self.proof(role)))
    }

    /// Whether it claims the role and its leaf grants it.
    #[must_use]
    pub fn has_role(&self, role: &str) -> bool {
        self.roles()
            .any(|(claimed, proof)| claimed == role && proof == Proof::Proven)
    }

    fn proof(&self, role: &str) -> Proof {
        match (&self.capabilities, role.parse::<Capability>()) {
            (None, _) => Proof::Pending,
            (Some(held), Ok(capability)) if held.allows(&capability) => Proof::Proven,
            _ => Proof::Unproven,
        }
    }
}

/// What a claimed role is worth; see [`Tags`] for the claim itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Proof {
    /// The leaf grants it.
    Proven,
    /// The leaf does not grant it.
    Unproven,
    /// The leaf has not been seen yet.
    Pending,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use warren_identity::NodeKey;

    #[test]
    fn given_a_node_key_when_taken_apart_then_its_id_comes_back_from_the_key() {
        let node = NodeKey::from_seed([3; 32]);

        let key = key_of(&node.peer_id()).unwrap();

        assert_eq!(key, node.public_key());
        assert_eq!(id_of(&key), Some(node.peer_id()));
    }

    #[test]
    fn given_an_id_of_a_hashed_key_when_taken_apart_then_it_is_none() {
        let mut hashed = vec![0x12, 0x20];
        hashed.extend([7; 32]);

        assert_eq!(key_of(&PeerId::from_bytes(&hashed).unwrap()), None);
    }
}
