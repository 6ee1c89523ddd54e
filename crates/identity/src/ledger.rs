//! The CA's issuance ledger: which serials went to which peer, and what is revoked. A plain value with serde; the
//! caller keeps it beside the CA key and writes it before it hands out what was signed.

use std::time::Duration;

use libp2p_identity::PeerId;
use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::authority::{
    CertificateAuthority, CrlRequest, IssueError, LeafRequest, RevokedSerial, Serial,
};
use crate::certificate::{CertificateFacts, Leaf, trimmed};

/// How long a revocation list promises to be the newest. The machine with the CA key is meant to be offline most of
/// the time; a month lets its owner be on holiday before nodes begin to warn.
pub const CRL_VALIDITY: Duration = Duration::from_secs(30 * 24 * 3600);

/// One leaf that was issued.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuedLeaf {
    /// Serial in hexadecimal, as `openssl x509 -serial` prints it but in lower case.
    pub serial: String,
    /// The node.
    #[serde(with = "crate::key::peer_id_serde")]
    pub peer_id: PeerId,
    /// Subject common name.
    pub name: String,
    /// When it was issued, in seconds since 1970.
    pub issued_at_unix_s: u64,
    /// When it ends, in seconds since 1970.
    pub not_after_unix_s: u64,
}

/// What became of a leaf that was to be revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeafRevocation {
    /// It is revoked now.
    Revoked,
    /// It is revoked now, and the ledger does not know it: it is another CA's, or the serial has a typing error.
    RevokedUnknown,
    /// It was revoked before.
    Already,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RevokedPeer {
    #[serde(with = "crate::key::peer_id_serde")]
    peer_id: PeerId,
    at_unix_s: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RevokedLeaf {
    serial: String,
    at_unix_s: u64,
    /// Until when it must be listed; absent when the leaf is not in the ledger.
    not_after_unix_s: Option<u64>,
}

/// What a CA has issued and revoked.
///
/// Losing it costs the list of serials, not the power to revoke: a peer is revoked by its id as well, and list
/// numbers continue above any earlier one because they follow the clock.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct IssuanceLedger {
    issued: Vec<IssuedLeaf>,
    revoked_peers: Vec<RevokedPeer>,
    revoked_leaves: Vec<RevokedLeaf>,
    crl_number: u64,
}

impl IssuanceLedger {
    /// Issues a leaf and enters it (and its companion). A revoked peer gets none.
    ///
    /// # Errors
    /// [`IssueError`]; the ledger is unchanged then.
    pub fn issue(
        &mut self,
        authority: &CertificateAuthority,
        request: &LeafRequest,
        now: UnixTime,
        serial: Serial,
    ) -> Result<Leaf, IssueError> {
        if self.is_peer_revoked(&request.peer_id) {
            return Err(IssueError::PeerRevoked(request.peer_id));
        }
        let leaf = authority.issue(request, now, serial)?;
        self.record(&leaf, now);
        Ok(leaf)
    }

    /// Enters a leaf that was issued elsewhere with the same CA key.
    pub fn record(&mut self, leaf: &Leaf, now: UnixTime) {
        let companion = leaf
            .companion()
            .and_then(|der| CertificateFacts::parse(der).ok());
        for facts in std::iter::once(leaf.facts()).chain(&companion) {
            let serial = hex::encode(&facts.serial);
            if self.issued.iter().any(|known| known.serial == serial) {
                continue;
            }
            self.issued.push(IssuedLeaf {
                serial,
                peer_id: leaf.peer_id(),
                name: facts.common_name.clone().unwrap_or_default(),
                issued_at_unix_s: now.as_secs(),
                not_after_unix_s: facts.not_after.as_secs(),
            });
        }
    }

    /// What was issued, oldest first.
    #[must_use]
    pub fn issued(&self) -> &[IssuedLeaf] {
        &self.issued
    }

    /// Revokes a peer: every leaf it was given and every one it may yet turn up with. It stays revoked; the machine
    /// comes back with a new key only. Returns how many of its leaves are still valid; `None` if it was revoked
    /// already.
    pub fn revoke_peer(&mut self, peer_id: PeerId, now: UnixTime) -> Option<usize> {
        if self.is_peer_revoked(&peer_id) {
            return None;
        }
        self.revoked_peers.push(RevokedPeer {
            peer_id,
            at_unix_s: now.as_secs(),
        });
        Some(
            self.issued
                .iter()
                .filter(|l| l.peer_id == peer_id && l.not_after_unix_s >= now.as_secs())
                .count(),
        )
    }

    /// Revokes one leaf by its serial in bytes, and the companion that the ledger knows of it; the peer may still use
    /// other leaves. A leaf that the ledger does not know, of `openssl` say, is revoked all the same.
    pub fn revoke_serial(&mut self, serial: &[u8], now: UnixTime) -> LeafRevocation {
        let serial = trimmed(serial);
        let companion = <[u8; 16]>::try_from(serial)
            .map(|bytes| hex::encode(Serial::from_random(bytes).companion().as_bytes()))
            .ok()
            .filter(|companion| self.entry(companion).is_some());
        let serial = hex::encode(serial);
        let outcome = match self.entry(&serial) {
            _ if self.is_leaf_revoked(&serial) => LeafRevocation::Already,
            Some(_) => LeafRevocation::Revoked,
            None => LeafRevocation::RevokedUnknown,
        };
        for serial in std::iter::once(serial).chain(companion) {
            if self.is_leaf_revoked(&serial) {
                continue;
            }
            let not_after_unix_s = self.entry(&serial).map(|leaf| leaf.not_after_unix_s);
            self.revoked_leaves.push(RevokedLeaf {
                serial,
                at_unix_s: now.as_secs(),
                not_after_unix_s,
            });
        }
        outcome
    }

    fn entry(&self, serial: &str) -> Option<&IssuedLeaf> {
        self.issued.iter().find(|leaf| leaf.serial == serial)
    }

    /// Whether the leaf with this serial (lower-case hexadecimal) was revoked by itself.
    #[must_use]
    pub fn is_leaf_revoked(&self, serial: &str) -> bool {
        self.revoked_leaves
            .iter()
            .any(|revoked| revoked.serial == serial)
    }

    /// How many certificates the peer was given since then; a companion counts beside its leaf.
    #[must_use]
    pub fn issued_since(&self, peer_id: &PeerId, since: UnixTime) -> usize {
        self.issued
            .iter()
            .filter(|leaf| leaf.peer_id == *peer_id && leaf.issued_at_unix_s >= since.as_secs())
            .count()
    }

    /// Whether the peer was revoked.
    #[must_use]
    pub fn is_peer_revoked(&self, peer_id: &PeerId) -> bool {
        self.revoked_peers
            .iter()
            .any(|revoked| revoked.peer_id == *peer_id)
    }

    /// Signs the revocation list of the moment and returns its DER. Serials of leaves that ended by themselves are
    /// left out; peers never are. The number is the Unix time in seconds, or one above the last if that is higher.
    ///
    /// # Errors
    /// [`IssueError`]; the number is not used up then.
    pub fn sign_crl(
        &mut self,
        authority: &CertificateAuthority,
        now: UnixTime,
        validity: Duration,
    ) -> Result<Vec<u8>, IssueError> {
        let number = now.as_secs().max(self.crl_number.saturating_add(1));
        let next_update = UnixTime::since_unix_epoch(Duration::from_secs(
            now.as_secs().saturating_add(validity.as_secs()),
        ));
        let revoked = self.revoked_serials(now);
        let der = authority.sign_crl(&CrlRequest {
            number,
            this_update: now,
            next_update,
            revoked,
        })?;
        self.crl_number = number;
        Ok(der)
    }

    /// The number of the last list that was signed; 0 before the first.
    #[must_use]
    pub fn crl_number(&self) -> u64 {
        self.crl_number
    }

    /// Makes the ledger of the CA that follows: revoked peers stay revoked under it, leaves and numbers begin anew.
    #[must_use]
    pub fn for_next_authority(&self) -> Self {
        Self {
            revoked_peers: self.revoked_peers.clone(),
            ..Self::default()
        }
    }

    fn revoked_serials(&self, now: UnixTime) -> Vec<RevokedSerial> {
        let entry = |serial: Vec<u8>, at: u64| RevokedSerial {
            serial,
            revoked_at: UnixTime::since_unix_epoch(Duration::from_secs(at)),
        };
        let mut entries = Vec::new();
        for peer in &self.revoked_peers {
            let at = UnixTime::since_unix_epoch(Duration::from_secs(peer.at_unix_s));
            entries.push(RevokedSerial::peer(&peer.peer_id, at));
            let live = |leaf: &&IssuedLeaf| {
                leaf.peer_id == peer.peer_id && leaf.not_after_unix_s >= now.as_secs()
            };
            let serials = self
                .issued
                .iter()
                .filter(live)
                .filter_map(|leaf| hex::decode(&leaf.serial).ok());
            entries.extend(serials.map(|serial| entry(serial, peer.at_unix_s)));
        }
        for leaf in &self.revoked_leaves {
            if leaf.not_after_unix_s.is_none_or(|end| end >= now.as_secs())
                && let Ok(serial) = hex::decode(&leaf.serial)
                && entries.iter().all(|known| known.serial != serial)
            {
                entries.push(entry(serial, leaf.at_unix_s));
            }
        }
        entries
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use zeroize::Zeroizing;

    use super::*;
    use crate::authority::{CaRequest, WildcardNames};
    use crate::capability::Capabilities;
    use crate::key::NodeKey;
    use crate::organization::OrganizationId;
    use crate::revocation::{RevocationList, peer_revocation_serial};

    const DAY: u64 = 24 * 3600;
    const NOW_S: u64 = 1_795_176_000;

    fn at(unix_s: u64) -> UnixTime {
        UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
    }

    fn authority() -> CertificateAuthority {
        let request = CaRequest {
            organization: OrganizationId::new("org_acme").unwrap(),
            key_material: Zeroizing::new([1; 32]),
            serial: Serial::from_random([1; 16]),
            validity: crate::CA_VALIDITY,
        };
        CertificateAuthority::create(&request, at(NOW_S)).unwrap()
    }

    fn peer() -> PeerId {
        NodeKey::from_seed([5; 32]).peer_id()
    }

    fn request() -> LeafRequest {
        LeafRequest {
            peer_id: peer(),
            name: "node-5".into(),
            dns: vec![],
            ip: vec![],
            capabilities: Capabilities::none(),
            validity: Duration::from_secs(30 * DAY),
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        }
    }

    fn sign(ledger: &mut IssuanceLedger, ca: &CertificateAuthority, when_s: u64) -> RevocationList {
        let der = ledger.sign_crl(ca, at(when_s), CRL_VALIDITY).unwrap();
        RevocationList::from_der(&der, ca.roots()).unwrap()
    }

    #[test]
    fn given_lists_signed_in_one_second_or_with_the_clock_set_back_when_numbered_then_numbers_still_rise()
     {
        let (ca, mut ledger) = (authority(), IssuanceLedger::default());
        let numbers: Vec<_> = [NOW_S, NOW_S, NOW_S - DAY]
            .map(|when| sign(&mut ledger, &ca, when).number())
            .into();
        assert_eq!(numbers, [NOW_S, NOW_S + 1, NOW_S + 2]);
    }

    #[test]
    fn given_a_revoked_peer_when_its_leaves_have_ended_then_the_peer_stays_listed_and_gets_no_leaf()
    {
        let (ca, mut ledger) = (authority(), IssuanceLedger::default());
        let serial = Serial::from_random([7; 16]);
        ledger.issue(&ca, &request(), at(NOW_S), serial).unwrap();
        assert_eq!(ledger.revoke_peer(peer(), at(NOW_S)), Some(1));
        assert_eq!(
            ledger.revoke_peer(peer(), at(NOW_S)),
            None,
            "once is enough"
        );
        let list = sign(&mut ledger, &ca, NOW_S);
        assert!(
            list.is_revoked(serial.as_bytes()) && list.is_revoked(&peer_revocation_serial(&peer()))
        );
        let later = sign(&mut ledger, &ca, NOW_S + 31 * DAY);
        assert!(!later.is_revoked(serial.as_bytes()) && later.is_peer_revoked(&peer()));
        let refused = ledger
            .issue(&ca, &request(), at(NOW_S), serial)
            .unwrap_err();
        assert_eq!(refused, IssueError::PeerRevoked(peer()));
        assert!(ledger.for_next_authority().is_peer_revoked(&peer()));
    }

    #[test]
    fn given_a_ledger_when_stored_as_json_then_it_comes_back_the_same() {
        let (ca, mut ledger) = (authority(), IssuanceLedger::default());
        ledger
            .issue(&ca, &request(), at(NOW_S), Serial::from_random([7; 16]))
            .unwrap();
        ledger.revoke_serial(&[0, 1, 2], at(NOW_S));
        ledger.revoke_peer(peer(), at(NOW_S));
        let text = serde_json::to_string(&ledger).unwrap();
        assert!(text.contains(&peer().to_base58()));
        assert_eq!(
            serde_json::from_str::<IssuanceLedger>(&text).unwrap(),
            ledger
        );
        assert_eq!(
            serde_json::from_str::<IssuanceLedger>("{}").unwrap(),
            IssuanceLedger::default()
        );
    }

    #[test]
    fn given_requests_that_cannot_be_certified_when_issued_then_each_is_refused_and_not_entered() {
        let (ca, mut ledger) = (authority(), IssuanceLedger::default());
        let mut refused = |request: LeafRequest, when_s| {
            ledger
                .issue(&ca, &request, at(when_s), Serial::from_random([7; 16]))
                .unwrap_err()
        };
        let year = Duration::from_secs(826 * DAY);
        assert!(matches!(
            refused(
                LeafRequest {
                    name: "a\nb".into(),
                    ..request()
                },
                NOW_S
            ),
            IssueError::BadName(_)
        ));
        assert!(matches!(
            refused(
                LeafRequest {
                    dns: vec!["a b".into()],
                    ..request()
                },
                NOW_S
            ),
            IssueError::BadDnsName(_)
        ));
        assert!(matches!(
            refused(
                LeafRequest {
                    dns: vec!["*.acme.com".into()],
                    ..request()
                },
                NOW_S
            ),
            IssueError::Wildcard(_)
        ));
        assert!(matches!(
            refused(
                LeafRequest {
                    validity: year,
                    ..request()
                },
                NOW_S
            ),
            IssueError::BadValidity(_)
        ));
        assert!(matches!(
            refused(
                LeafRequest {
                    companion_key: Some(vec![4; 64]),
                    ..request()
                },
                NOW_S
            ),
            IssueError::BadCompanionKey
        ));
        assert!(matches!(
            refused(request(), NOW_S + 4000 * DAY),
            IssueError::AuthorityExpired
        ));
        assert!(ledger.issued().is_empty());
    }
}
