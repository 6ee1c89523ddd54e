//! Node records: where a node can be reached and what it calls itself, signed by its key. They entitle to nothing.

use libp2p_identity::PeerId;
use serde::{Deserialize, Serialize};

use crate::organization::OrganizationId;
use crate::signed::SignedPayload;

const MAX_ENTRIES: usize = 32;
const MAX_TEXT_BYTES: usize = 256;

/// What a node says of itself. Of two records of one node the one with the higher sequence counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeRecord {
    /// The node, which must be the signer.
    #[serde(with = "crate::key::peer_id_serde")]
    pub peer_id: PeerId,
    /// Its organisation; receivers compare it with the leaf.
    pub organization: OrganizationId,
    /// Its configured name, at most 256 bytes.
    pub name: String,
    /// Its configured region.
    pub region: Option<String>,
    /// The roles it runs; each counts only with the capability of the leaf.
    pub roles: Vec<String>,
    /// Multiaddresses to dial, at most 32.
    pub addresses: Vec<String>,
    /// `host:port` of the bulk transfer listener, at most 32.
    pub bulk_addresses: Vec<String>,
    /// Rises with every record; the Unix time in milliseconds serves well.
    pub sequence: u64,
    /// When it was signed, in seconds since 1970.
    pub issued_at_unix_s: u64,
}

impl NodeRecord {
    /// Whether this record replaces `other`: same node and a higher sequence.
    #[must_use]
    pub fn supersedes(&self, other: &Self) -> bool {
        self.peer_id == other.peer_id && self.sequence > other.sequence
    }
}

impl SignedPayload for NodeRecord {
    const DOMAIN: &'static str = "warren/node-record/1";
    const MAX_BYTES: usize = 32 * 1024;

    fn check(&self, signer: &PeerId) -> Result<(), &'static str> {
        if *signer != self.peer_id {
            return Err("its signer is another node");
        }
        let lists = [&self.roles, &self.addresses, &self.bulk_addresses];
        if lists.iter().any(|list| list.len() > MAX_ENTRIES) {
            return Err("a list has more than 32 entries");
        }
        let mut texts = lists
            .into_iter()
            .flatten()
            .chain(&self.region)
            .chain(std::iter::once(&self.name));
        if texts.any(|text| text.len() > MAX_TEXT_BYTES || text.chars().any(char::is_control)) {
            return Err("a text is longer than 256 bytes or has control characters");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::key::NodeKey;
    use crate::signed::{Signed, SignedError};

    fn record(key: &NodeKey) -> NodeRecord {
        NodeRecord {
            peer_id: key.peer_id(),
            organization: OrganizationId::new("org_acme").unwrap(),
            name: "node-1".into(),
            region: Some("us-west".into()),
            roles: vec!["storage".into()],
            addresses: vec!["/ip4/10.0.1.5/tcp/4001".into()],
            bulk_addresses: vec!["10.0.1.5:4002".into()],
            sequence: 3,
            issued_at_unix_s: 1_800_000_000,
        }
    }

    #[test]
    fn given_a_record_of_another_node_when_signed_then_it_is_refused() {
        let (own, other) = (NodeKey::from_seed([1; 32]), NodeKey::from_seed([2; 32]));
        assert!(Signed::sign(record(&own), &own).is_ok());
        assert!(matches!(
            Signed::sign(record(&other), &own),
            Err(SignedError::Unacceptable { .. })
        ));
    }

    #[test]
    fn given_oversized_or_unprintable_fields_when_signed_then_they_are_refused() {
        let key = NodeKey::from_seed([1; 32]);
        let many = NodeRecord {
            addresses: vec![String::new(); 33],
            ..record(&key)
        };
        let unprintable = NodeRecord {
            name: "a\nb".into(),
            ..record(&key)
        };
        assert!(Signed::sign(many, &key).is_err());
        assert!(Signed::sign(unprintable, &key).is_err());
    }
}
