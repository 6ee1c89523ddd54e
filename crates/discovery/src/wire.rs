//! The JSON that goes between client and server. Field names are the documents' own; what Warren adds is marked.
//!
//! Joining and renewing take [`warren_identity::join`]'s `JoinRequest`, `RenewRequest` and `JoinResponse`; an administrator
//! hands over a `JoinGrant`.

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use serde::{Deserialize, Serialize};
use warren_identity::{OrganizationId, PeerId, peer_id_of_public_key, peer_id_serde};

use crate::core::registry::Status;

/// The longest multiaddress, `host:port`, region or name that is taken in, in bytes.
pub const MAX_TEXT_BYTES: usize = 256;

/// The most addresses of one node.
pub const MAX_ADDRESSES: usize = 32;

/// What both sides speak over TLS: HTTP/1.1, whose every wait has a time-out.
pub(crate) const ALPN: [&[u8]; 1] = [b"http/1.1"];

/// Paths of the server, relative to its root.
pub mod path {
    /// GET: seeds and live nodes.
    pub const BOOTSTRAP: &str = "/api/v1/network/bootstrap";
    /// POST: register; DELETE: leave.
    pub const REGISTER: &str = "/api/v1/network/register";
    /// POST: still alive.
    pub const HEARTBEAT: &str = "/api/v1/network/heartbeat";
    /// GET: peers of the caller's organisation.
    pub const PEERS: &str = "/api/v1/network/peers";
    /// GET: the revocation lists in force, one PEM block each.
    pub const CRL: &str = "/api/v1/network/crl";
    /// POST: trade a join token and a CSR for a leaf.
    pub const JOIN: &str = "/api/v1/join";
    /// GET and POST: open join tokens.
    pub const TOKENS: &str = "/api/v1/join/tokens";
    /// DELETE: withdraw an open join token.
    pub const TOKEN: &str = "/api/v1/join/tokens/{id}";
    /// POST: a fresh leaf for a member.
    pub const RENEW: &str = "/api/v1/renew";
    /// GET: whether the server works.
    pub const HEALTH: &str = "/health";
}

/// One node in a bootstrap or peers list. The first four fields are the documented ones.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeerEntry {
    /// Who.
    #[serde(with = "peer_id_serde")]
    pub peer_id: PeerId,
    /// Multiaddresses.
    pub addresses: Vec<String>,
    /// Where; `null` if it did not say.
    pub region: Option<String>,
    /// What its certificate allows; empty for a seed that is not registered.
    #[serde(default)]
    pub capabilities: Vec<String>,
    /// Of which organisation (CF-11); `null` for a seed configured without one.
    #[serde(default)]
    pub organization_id: Option<OrganizationId>,
    /// Its name (CF-11); `null` for a seed.
    #[serde(default)]
    pub node_name: Option<String>,
    /// Whether it is there (CF-11); `null` for a seed that is not registered.
    #[serde(default)]
    pub status: Option<Status>,
    /// Since when it is registered without a break, in seconds (CF-11).
    #[serde(default)]
    pub uptime_seconds: Option<u64>,
    /// Last registration or heartbeat, RFC 3339 (CF-11).
    #[serde(default)]
    pub last_seen_at: Option<String>,
    /// Roles it says it runs. Ours.
    #[serde(default)]
    pub roles: Vec<String>,
    /// `host:port` of its bulk listener. Ours.
    #[serde(default)]
    pub bulk_addresses: Vec<String>,
    /// Its signed node record, base64; `null` without one. Ours.
    #[serde(default)]
    pub record: Option<String>,
}

/// Answer of `GET /api/v1/network/bootstrap`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootstrapAnswer {
    /// Seeds and live nodes.
    pub peers: Vec<PeerEntry>,
    /// Set when the registry's database cannot be asked and this is what it last said, so many seconds ago. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stale_seconds: Option<u64>,
}

/// Answer of `GET /api/v1/network/peers`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PeersAnswer {
    /// This page.
    pub peers: Vec<PeerEntry>,
    /// How many match on all pages.
    pub total: u64,
    /// Peers per page.
    pub limit: u32,
    /// Give this as `cursor` for the next page; `null` on the last.
    pub next_cursor: Option<String>,
}

/// Query of `GET /api/v1/network/peers`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PeersQuery {
    /// The caller's own organisation, which is also the default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub organization: Option<String>,
    /// Only this region.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// Only this status; otherwise all but offline.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<Status>,
    /// 1 to 500; 50 by default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// `next_cursor` of the page before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cursor: Option<String>,
}

/// Body of `POST /api/v1/network/register`. The first four fields are the documented ones and suffice.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterRequest {
    /// The caller.
    #[serde(with = "peer_id_serde")]
    pub peer_id: PeerId,
    /// Multiaddresses.
    pub addresses: Vec<String>,
    /// The caller's organisation.
    pub organization_id: OrganizationId,
    /// See [`PublicKeyText`].
    pub public_key: PublicKeyText,
    /// Where.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub region: Option<String>,
    /// The signed node record, base64. When given, addresses and region must be the record's own. Ours.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub record: Option<String>,
}

/// Answer of `POST /api/v1/network/register` and of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RegisterAnswer {
    /// Always true: a refusal is an error.
    pub registered: bool,
    /// `created`, `updated` or `unchanged`.
    pub change: String,
    /// Who.
    #[serde(with = "peer_id_serde")]
    pub peer_id: PeerId,
    /// Of which organisation.
    pub organization_id: OrganizationId,
    /// When the entry ends unless a heartbeat comes, RFC 3339.
    pub expires_at: String,
    /// How long an entry lives after a heartbeat.
    pub ttl_seconds: u64,
}

/// Answer of `DELETE /api/v1/network/register`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaveAnswer {
    /// Whether there was a live entry.
    pub removed: bool,
}

/// One grant as an administrator sees it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantEntry {
    /// Names the grant; says nothing of the secret.
    pub id: String,
    /// The name the leaf will carry.
    pub name: String,
    /// Capabilities the leaf will carry.
    pub capabilities: Vec<String>,
    /// When it was made, RFC 3339.
    pub created_at: String,
    /// When it ends, RFC 3339.
    pub expires_at: String,
    /// When it was used, RFC 3339; `null` while open.
    pub redeemed_at: Option<String>,
    /// Who used it; `null` while open.
    pub redeemed_by: Option<String>,
}

/// Answer of `GET /api/v1/join/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantsAnswer {
    /// Newest first.
    pub tokens: Vec<GrantEntry>,
}

/// The body of every error answer (CF-15).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorAnswer {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, for programs (`code`) and people (`message`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorDetail {
    /// Stable name of the failure.
    pub code: String,
    /// What failed, why, and what to do.
    pub message: String,
    /// More for programs; an empty object where there is nothing more.
    #[serde(default)]
    pub details: serde_json::Value,
    /// Stands in the server's log too.
    pub request_id: String,
    /// RFC 3339, UTC.
    pub timestamp: String,
}

/// A node's public key as text: `ed25519:` and the 32 bytes in standard base64.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct PublicKeyText(String);

/// Why a public key's text is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublicKeyError {
    /// No `ed25519:` in front.
    #[error("`public_key` must begin with `ed25519:`; other keys make no peer id here")]
    Scheme,
    /// Not 32 bytes of base64.
    #[error(
        "`public_key` must be `ed25519:` and the 32 bytes of the key in standard base64 (44 characters)"
    )]
    Encoding,
    /// A key of another node.
    #[error("`public_key` belongs to another node, {0}")]
    OtherPeer(Box<PeerId>),
}

impl PublicKeyText {
    /// The text of a key.
    #[must_use]
    pub fn new(key: &[u8; 32]) -> Self {
        Self(format!("ed25519:{}", BASE64.encode(key)))
    }

    /// Checks that this is the key inside `peer_id`.
    ///
    /// # Errors
    /// [`PublicKeyError`].
    pub fn check(&self, peer_id: PeerId) -> Result<(), PublicKeyError> {
        let text = self
            .0
            .strip_prefix("ed25519:")
            .ok_or(PublicKeyError::Scheme)?;
        let key: [u8; 32] = BASE64
            .decode(text)
            .ok()
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or(PublicKeyError::Encoding)?;
        let found = peer_id_of_public_key(&key).ok_or(PublicKeyError::Encoding)?;
        if found == peer_id {
            Ok(())
        } else {
            Err(PublicKeyError::OtherPeer(Box::new(found)))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use warren_identity::NodeKey;

    #[test]
    fn given_a_key_when_written_and_checked_then_only_its_own_peer_passes() {
        let key = NodeKey::from_seed([1; 32]);
        let text = PublicKeyText::new(&key.public_key());
        assert_eq!(text.check(key.peer_id()), Ok(()));
        let other = NodeKey::from_seed([2; 32]).peer_id();
        assert!(matches!(
            text.check(other),
            Err(PublicKeyError::OtherPeer(_))
        ));
    }

    #[test]
    fn malformed_keys_are_refused_with_what_is_wrong() {
        let peer = NodeKey::from_seed([1; 32]).peer_id();
        let check = |text: &str| PublicKeyText(text.into()).check(peer).unwrap_err();
        assert_eq!(check("rsa:AAAA"), PublicKeyError::Scheme);
        assert_eq!(check("ed25519:AAAA"), PublicKeyError::Encoding);
        assert_eq!(check("ed25519:!"), PublicKeyError::Encoding);
    }
}
