//! The CA's issuance ledger: which serials went to which peer, and what is revoked. A plain value with serde; the
//! caller keeps it beside the CA key (`issued.json`) and writes it before it hands out what was signed.

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

    /// Revokes one leaf by its serial in bytes; the peer may still use others. Returns `false` if it was revoked.
    pub fn revoke_serial(&mut self, serial: &[u8], now: UnixTime) -> bool {
        let serial = hex::encode(trimmed(serial));
        if self
            .revoked_leaves
            .iter()
            .any(|known| known.serial == serial)
        {
            return false;
        }
        let not_after_unix_s = self
            .issued
            .iter()
            .find(|l| l.serial == serial)
            .map(|l| l.not_after_unix_s);
        self.revoked_leaves.push(RevokedLeaf {
            serial,
            at_unix_s: now.as_secs(),
            not_after_unix_s,
        });
        true
    }

    /// Whether the peer was revoked.
    #[must_use]
    pub fn is_peer_revoked(&self, peer_id: &PeerId) -> bool {
        self.revoked_peers
            .iter()
            .any(|revoked| revoked.peer_id == *peer_id)
    }

    /// The revoked peers, in the order of their revocation.
    pub fn revoked_peers(&self) -> impl Iterator<Item = PeerId> {
        self.revoked_peers.iter().map(|revoked| revoked.peer_id)
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
