//! Where registrations and join grants are kept.
//!
//! One trait, two engines: [`Embedded`] (redb, one file, one server) and [`Postgres`] (several servers share it). Each method is
//! one transaction; what it accepts is decided by [`crate::core`], so the engines cannot differ in it. Cancelling a
//! future either undoes the transaction or leaves it done, never half.

mod embedded;
mod postgres;

use std::{collections::BTreeMap, time::Duration};

use futures::future::BoxFuture;
use warren_identity::{
    OrganizationId, PeerId, UnixMillis,
    join::{JoinGrant, TokenHash},
};

pub use self::{
    embedded::Embedded,
    postgres::{Postgres, PostgresOptions},
};
use crate::core::{
    grants::{Denied, Redemption, StoredGrant},
    registry::{Change, Conflict, Entry, PeerQuery, Registration},
};

/// The engine could not do its work. Nothing was changed, unless a commit's answer was lost.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// Not reachable, or too slow: the same call may succeed in a while.
    #[error("the registry's database cannot be used right now: {reason}; the server keeps trying")]
    Unavailable {
        /// What the database or the way to it said; never holds the password.
        reason: String,
    },
    /// It answered, but not with what this version stores.
    #[error("the registry {place} holds something this version cannot read: {reason}")]
    Corrupt {
        /// File or table.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The engine's file or address cannot be opened at all.
    #[error("the registry {place} cannot be opened: {reason}")]
    Open {
        /// File, or address without its password.
        place: String,
        /// What is wrong with it.
        reason: String,
    },
}

/// A registry call failed.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The change is not acceptable; the entry stays as it was.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Redeeming a token failed. The token is as it was.
#[derive(Debug, thiserror::Error)]
pub enum RedeemError {
    /// The token buys nothing.
    #[error(transparent)]
    Denied(#[from] Denied),
    /// The token is good, but no leaf could be signed.
    #[error("the certificate could not be issued: {0}; the token is still good")]
    Sign(String),
    /// See [`EngineError`].
    #[error(transparent)]
    Engine(#[from] EngineError),
}

/// Signs the leaf for a grant, inside the transaction that spends it, on a thread that may block. Must not take long.
pub type Sign = Box<dyn FnOnce(&JoinGrant) -> Result<Redemption, String> + Send>;

/// A page of peers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Page {
    /// The peers, by peer id.
    pub entries: Vec<Entry>,
    /// How many match, on all pages.
    pub total: u64,
    /// Whether there are more after the last one.
    pub more: bool,
}

/// How many grants an administrator sees in one list.
pub const MAX_LISTED_GRANTS: usize = 1_000;

/// What a discovery server needs of its engine.
pub trait Registry: Send + Sync + 'static {
    /// Takes a registration in; see [`crate::core::registry::register`].
    fn register(
        &self,
        registration: Registration,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(Entry, Change), RegistryError>>;

    /// Prolongs an entry; see [`crate::core::registry::heartbeat`].
    fn heartbeat(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Entry, RegistryError>>;

    /// Ends an entry; whether there was one. See [`crate::core::registry::leave`].
    fn leave(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<bool, RegistryError>>;

    /// A page of one organisation's peers.
    fn peers(
        &self,
        query: PeerQuery,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Page, EngineError>>;

    /// The live peers of one organisation that were seen last, newest first, at most `limit`.
    fn recent(
        &self,
        organization: OrganizationId,
        limit: u32,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Vec<Entry>, EngineError>>;

    /// Live entries by organisation.
    fn live(&self, now: UnixMillis) -> BoxFuture<'_, Result<BTreeMap<String, u64>, EngineError>>;

    /// Forgets entries that expired before `before`, and grants that ended before it. How many entries were forgotten.
    fn forget(&self, before: UnixMillis) -> BoxFuture<'_, Result<u64, EngineError>>;

    /// Stores a grant made at `now`. One whose token is known already changes nothing.
    fn create_grant(
        &self,
        grant: JoinGrant,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<(), EngineError>>;

    /// All grants, newest first, at most [`MAX_LISTED_GRANTS`].
    fn grants(&self) -> BoxFuture<'_, Result<Vec<StoredGrant>, EngineError>>;

    /// Withdraws the open grant with this [`crate::core::grants::grant_id`]; whether there was one.
    fn withdraw_grant(&self, id: String) -> BoxFuture<'_, Result<bool, EngineError>>;

    /// Spends a token for a request: checks, signs and stores in one transaction.
    fn redeem(
        &self,
        token: TokenHash,
        request_hash: [u8; 32],
        now: UnixMillis,
        sign: Sign,
    ) -> BoxFuture<'_, Result<Redemption, RedeemError>>;

    /// Whether the engine can serve right now; for health checks.
    fn probe(&self) -> BoxFuture<'_, Result<(), EngineError>>;
}
