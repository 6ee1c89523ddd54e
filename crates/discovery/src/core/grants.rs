//! What a one-time join token still buys.
//!
//! The token's text never reaches the registry: it holds a hash of the token's secret. A token is spent by the transaction
//! that stores the issued leaf, never before, so a signature that fails leaves it whole. The same machine repeating its
//! request within [`REPEAT_WINDOW`] gets the same leaf again: an answer lost on the way costs no token.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_identity::{
    Csr, PeerId, UnixMillis,
    join::{JoinGrant, TokenHash},
};

/// How long the same request gets the same leaf again.
pub const REPEAT_WINDOW: Duration = Duration::from_secs(600);

/// The longest a token may stay open.
pub const MAX_TOKEN_LIFETIME: Duration = Duration::from_secs(30 * 86_400);

/// A short name of a grant that does not lead to its secret: the first 16 hexadecimal digits of the token's hash.
#[must_use]
pub fn grant_id(hash: &TokenHash) -> String {
    hash.to_string().chars().take(16).collect()
}

/// Names what is asked to be certified: BLAKE3 over the node's peer id and its companion key. Two requests of one machine
/// have the same, though their signatures differ; another machine cannot make one, for a CSR proves its key.
#[must_use]
pub fn request_hash(csr: &Csr) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new_derive_key("warren 2026 join request v1");
    hasher.update(&csr.peer_id().to_bytes());
    hasher.update(csr.companion_key().unwrap_or_default());
    *hasher.finalize().as_bytes()
}

/// What was issued for a token.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Redemption {
    /// See [`request_hash`].
    pub request_hash: [u8; 32],
    /// Who joined, as text.
    pub peer_id: String,
    /// The leaf and what follows it, in PEM.
    pub leaf_pem: String,
    /// When.
    pub redeemed_at: UnixMillis,
}

/// A grant and, once spent, what it was spent on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredGrant {
    /// What is granted.
    pub grant: JoinGrant,
    /// When the grant was made.
    pub created_at: UnixMillis,
    /// What was issued; `None` while the token is open.
    pub redemption: Option<Redemption>,
}

/// Why a token buys nothing. The grant stays as it was.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// No grant has this secret.
    #[error(
        "this join token is not known here; it may be mistyped, withdrawn, or meant for another server"
    )]
    Unknown,
    /// The token ended.
    #[error("this join token expired at {}; ask for a new one (`warren ca token`)", .0.rfc3339())]
    Expired(UnixMillis),
    /// The token was spent.
    #[error("this join token was used at {} by {peer_id}; if that was not you, have that node revoked (`warren ca revoke`) and ask for a new token", .at.rfc3339())]
    Used {
        /// When.
        at: UnixMillis,
        /// By whom.
        peer_id: String,
    },
}

/// What to do for a token that is good.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Allowed<'a> {
    /// Sign, store the redemption, answer: in one transaction.
    Issue(&'a JoinGrant),
    /// Answer with what was issued for the same request.
    Repeat(&'a Redemption),
}

/// Whether `stored` may be redeemed by the request with `request_hash` at `now`.
///
/// # Errors
/// [`Denied`].
pub fn redeem<'a>(
    stored: Option<&'a StoredGrant>,
    request_hash: &[u8; 32],
    now: UnixMillis,
) -> Result<Allowed<'a>, Denied> {
    let stored = stored.ok_or(Denied::Unknown)?;
    match &stored.redemption {
        Some(redemption)
            if redemption.request_hash == *request_hash
                && now.since(redemption.redeemed_at) <= REPEAT_WINDOW =>
        {
            Ok(Allowed::Repeat(redemption))
        }
        Some(redemption) => Err(Denied::Used {
            at: redemption.redeemed_at,
            peer_id: redemption.peer_id.clone(),
        }),
        None if now.as_secs() > stored.grant.expires_at_unix_s => Err(Denied::Expired(
            UnixMillis::from_secs(stored.grant.expires_at_unix_s),
        )),
        None => Ok(Allowed::Issue(&stored.grant)),
    }
}

/// What was issued to `peer_id` at `now`, ready to be stored.
#[must_use]
pub fn redemption(
    request_hash: [u8; 32],
    peer_id: PeerId,
    leaf_pem: String,
    now: UnixMillis,
) -> Redemption {
    Redemption {
        request_hash,
        peer_id: peer_id.to_string(),
        leaf_pem,
        redeemed_at: now,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);
    const REQUEST: [u8; 32] = [1; 32];
    const OTHER_REQUEST: [u8; 32] = [2; 32];

    fn open() -> StoredGrant {
        StoredGrant {
            grant: JoinGrant {
                token_hash: "09".repeat(32).parse().unwrap(),
                name: "node-2".into(),
                capabilities: warren_identity::Capabilities::parse(["storage"]).unwrap(),
                dns: Vec::new(),
                ip: Vec::new(),
                validity_s: 86_400,
                expires_at_unix_s: NOW.as_secs() + 3_600,
            },
            created_at: NOW,
            redemption: None,
        }
    }

    fn spent() -> StoredGrant {
        let peer = warren_identity::NodeKey::from_seed([3; 32]).peer_id();
        StoredGrant {
            redemption: Some(redemption(REQUEST, peer, "leaf".into(), NOW)),
            ..open()
        }
    }

    #[test]
    fn an_open_token_buys_what_was_granted() {
        let stored = open();
        assert_eq!(
            redeem(Some(&stored), &REQUEST, NOW),
            Ok(Allowed::Issue(&stored.grant))
        );
    }

    #[test]
    fn a_spent_token_gives_the_same_leaf_to_the_same_machine_only_and_not_for_long() {
        let stored = spent();
        let soon = NOW.plus(REPEAT_WINDOW);
        assert!(matches!(
            redeem(Some(&stored), &REQUEST, soon),
            Ok(Allowed::Repeat(_))
        ));
        assert!(matches!(
            redeem(Some(&stored), &OTHER_REQUEST, NOW),
            Err(Denied::Used { .. })
        ));
        let late = soon.plus(Duration::from_secs(1));
        assert!(matches!(
            redeem(Some(&stored), &REQUEST, late),
            Err(Denied::Used { .. })
        ));
    }

    #[test]
    fn an_expired_or_unknown_token_buys_nothing() {
        let stored = open();
        assert_eq!(
            redeem(
                Some(&stored),
                &REQUEST,
                UnixMillis::from_secs(NOW.as_secs() + 3_601)
            ),
            Err(Denied::Expired(UnixMillis::from_secs(
                NOW.as_secs() + 3_600
            )))
        );
        assert_eq!(redeem(None, &REQUEST, NOW), Err(Denied::Unknown));
    }

    #[test]
    fn messages_name_the_node_that_used_the_token_and_not_the_secret() {
        let text = redeem(Some(&spent()), &OTHER_REQUEST, NOW)
            .unwrap_err()
            .to_string();
        assert!(
            text.contains("12D3KooW") && text.contains("2023-11-14T22:13:20Z"),
            "{text}"
        );
    }
}
