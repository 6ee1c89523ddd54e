//! Join tokens from the administrator's side, wherever that is: the discovery server's own endpoint, the node's management
//! API, or the command line beside the registry.

use std::sync::Arc;

use warren_config::BadNodeId;
use warren_identity::{Capabilities, CapabilityError, IssueError, UnixMillis, join::JoinGrant};

use crate::{
    core::grants::{MAX_TOKEN_LIFETIME, StoredGrant, grant_id},
    engine::{EngineError, Registry},
    wire::GrantEntry,
};

/// Why a grant was not stored.
#[derive(Debug, thiserror::Error)]
pub enum CreateGrantError {
    /// It would end in the past, or stay open too long.
    #[error("a join token must end between now and {} days from now", MAX_TOKEN_LIFETIME.as_secs() / 86_400)]
    BadLifetime,
    /// The machine would carry a name that its own configuration refuses.
    #[error(transparent)]
    Name(#[from] BadNodeId),
    /// It grants something that this version does not know: a slip of the finger that would grant nothing.
    #[error(transparent)]
    Capability(#[from] CapabilityError),
    /// No CA would sign what it grants.
    #[error(transparent)]
    Terms(#[from] IssueError),
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// The open and used join tokens of one registry. Cheap to clone.
#[derive(Clone)]
pub struct Grants {
    registry: Arc<dyn Registry>,
}

impl Grants {
    /// The grants kept in `registry`.
    #[must_use]
    pub fn new(registry: Arc<dyn Registry>) -> Self {
        Self { registry }
    }

    /// Opens a token. Making the same grant twice changes nothing.
    ///
    /// # Errors
    /// [`CreateGrantError`]; nothing is stored then.
    pub async fn create(&self, grant: JoinGrant, now: UnixMillis) -> Result<(), CreateGrantError> {
        let latest = now.plus(MAX_TOKEN_LIFETIME).as_secs();
        if grant.expires_at_unix_s <= now.as_secs() || grant.expires_at_unix_s > latest {
            return Err(CreateGrantError::BadLifetime);
        }
        warren_config::check_node_id(&grant.name)?;
        Capabilities::parse_known(grant.capabilities.iter().map(ToString::to_string))?;
        grant.check_terms()?;
        Ok(self.registry.create_grant(grant, now).await?)
    }

    /// All tokens, newest first, at most a thousand.
    ///
    /// # Errors
    /// [`EngineError`].
    pub async fn list(&self) -> Result<Vec<StoredGrant>, EngineError> {
        self.registry.grants().await
    }
}

impl From<StoredGrant> for GrantEntry {
    fn from(stored: StoredGrant) -> Self {
        let StoredGrant {
            grant,
            created_at,
            redemption,
        } = stored;
        let (redeemed_at, redeemed_by) = match redemption {
            Some(redemption) => (
                Some(redemption.redeemed_at.rfc3339()),
                Some(redemption.peer_id),
            ),
            None => (None, None),
        };
        Self {
            id: grant_id(&grant.token_hash),
            name: grant.name,
            capabilities: grant.capabilities.iter().map(ToString::to_string).collect(),
            created_at: created_at.rfc3339(),
            expires_at: UnixMillis::from_secs(grant.expires_at_unix_s).rfc3339(),
            redeemed_at,
            redeemed_by,
        }
    }
}
