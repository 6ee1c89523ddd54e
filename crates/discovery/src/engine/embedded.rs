//! The embedded engine: one redb file, owned by one server.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use futures::future::BoxFuture;
use redb::{
    Database, Durability, ReadableDatabase, ReadableTable, TableDefinition, WriteTransaction,
};
use serde::{Deserialize, Serialize};
use warren_identity::{
    OrganizationId, PeerId, UnixMillis,
    join::{JoinGrant, TokenHash},
};

use super::{EngineError, MAX_LISTED_GRANTS, Page, RedeemError, Registry, RegistryError, Sign};
use crate::core::{
    grants::{self, Allowed, Redemption, StoredGrant},
    registry::{self, Change, Entry, PeerQuery, Registration, StatusBounds},
};

/// Peer id as text → [`NodeRow`] as JSON. JSON, so that a later version can add a field and still read this one's rows.
const NODES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("nodes_v1");
/// Hash of the token → [`StoredGrant`] as JSON.
const GRANTS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("join_grants_v1");

/// [`Entry`] as stored.
#[derive(Serialize, Deserialize)]
struct NodeRow {
    organization: OrganizationId,
    name: String,
    region: Option<String>,
    addresses: Vec<String>,
    bulk_addresses: Vec<String>,
    roles: Vec<String>,
    capabilities: Vec<String>,
    record: Option<Vec<u8>>,
    sequence: u64,
    certificate_ends_at: UnixMillis,
    registered_at: UnixMillis,
    last_seen_at: UnixMillis,
    expires_at: UnixMillis,
    last_stamp: UnixMillis,
}

impl From<&Entry> for NodeRow {
    fn from(entry: &Entry) -> Self {
        let registration = entry.registration.clone();
        Self {
            organization: registration.organization,
            name: registration.name,
            region: registration.region,
            addresses: registration.addresses,
            bulk_addresses: registration.bulk_addresses,
            roles: registration.roles,
            capabilities: registration.capabilities,
            record: registration.record,
            sequence: registration.sequence,
            certificate_ends_at: registration.certificate_ends_at,
            registered_at: entry.registered_at,
            last_seen_at: entry.last_seen_at,
            expires_at: entry.expires_at,
            last_stamp: entry.last_stamp,
        }
    }
}

impl NodeRow {
    fn into_entry(self, peer_id: PeerId) -> Entry {
        Entry {
            registration: Registration {
                peer_id,
                organization: self.organization,
                name: self.name,
                region: self.region,
                addresses: self.addresses,
                bulk_addresses: self.bulk_addresses,
                roles: self.roles,
                capabilities: self.capabilities,
                record: self.record,
                sequence: self.sequence,
                certificate_ends_at: self.certificate_ends_at,
            },
            registered_at: self.registered_at,
            last_seen_at: self.last_seen_at,
            expires_at: self.expires_at,
            last_stamp: self.last_stamp,
        }
    }
}

/// The registry in one redb file. Cheap to clone; the file is closed with the last clone.
#[derive(Clone)]
pub struct Embedded {
    shared: Arc<Shared>,
}

struct Shared {
    database: Database,
    place: String,
}

impl std::fmt::Debug for Embedded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Embedded")
            .field("place", &self.shared.place)
            .finish_non_exhaustive()
    }
}

impl Embedded {
    /// Opens or creates the file. Blocks on the disk.
    ///
    /// # Errors
    /// [`EngineError::Open`], for instance when another process has the file open.
    pub fn open(path: &Path) -> Result<Self, EngineError> {
        let place = path.display().to_string();
        let open = |reason: String| EngineError::Open {
            place: place.clone(),
            reason,
        };
        let database = Database::create(path).map_err(|error| open(error.to_string()))?;
        let shared = Shared {
            database,
            place: place.clone(),
        };
        // Reads find their tables from the start.
        shared
            .write(Durability::Immediate, |transaction| {
                transaction.open_table(NODES)?;
                transaction.open_table(GRANTS)?;
                Ok::<_, Failure<std::convert::Infallible>>(())
            })
            .map_err(|failure| match failure {
                Failure::Refused(never) => match never {},
                Failure::Redb(error) => open(error.to_string()),
                Failure::Corrupt(reason) => open(reason),
            })?;
        Ok(Self {
            shared: Arc::new(shared),
        })
    }

    /// Runs blocking work off the async threads.
    async fn run<T, E>(
        &self,
        work: impl FnOnce(&Shared) -> Result<T, Failure<E>> + Send + 'static,
    ) -> Result<T, E>
    where
        T: Send + 'static,
        E: From<EngineError> + Send + 'static,
    {
        let shared = Arc::clone(&self.shared);
        match tokio::task::spawn_blocking(move || {
            work(&shared).map_err(|failure| failure.into_error(&shared.place))
        })
        .await
        {
            Ok(result) => result,
            Err(error) => Err(EngineError::Unavailable {
                reason: format!("a registry transaction ended early ({error})"),
            }
            .into()),
        }
    }
}

/// Why a transaction was not committed.
enum Failure<E> {
    Refused(E),
    Redb(redb::Error),
    Corrupt(String),
}

impl<E: From<EngineError>> Failure<E> {
    fn into_error(self, place: &str) -> E {
        match self {
            Self::Refused(error) => error,
            Self::Redb(error) => EngineError::Unavailable {
                reason: format!("{place}: {error}"),
            }
            .into(),
            Self::Corrupt(reason) => EngineError::Corrupt {
                place: place.to_owned(),
                reason,
            }
            .into(),
        }
    }
}

macro_rules! redb_failures {
    ($($error:ty),*) => {$(
        impl<E> From<$error> for Failure<E> {
            fn from(error: $error) -> Self {
                Self::Redb(error.into())
            }
        }
    )*};
}
redb_failures!(
    redb::TransactionError,
    redb::TableError,
    redb::StorageError,
    redb::CommitError,
    redb::SetDurabilityError
);

impl<E> From<serde_json::Error> for Failure<E> {
    fn from(error: serde_json::Error) -> Self {
        Self::Corrupt(error.to_string())
    }
}

fn decode_node<E>(key: &str, bytes: &[u8]) -> Result<Entry, Failure<E>> {
    let peer_id: PeerId = key
        .parse()
        .map_err(|_| Failure::Corrupt(format!("`{key}` is no peer id")))?;
    Ok(serde_json::from_slice::<NodeRow>(bytes)?.into_entry(peer_id))
}

impl Shared {
    fn write<T, E>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, Failure<E>>,
    ) -> Result<T, Failure<E>> {
        let mut transaction = self.database.begin_write()?;
        transaction.set_durability(durability)?;
        let value = work(&transaction)?;
        transaction.commit()?;
        Ok(value)
    }

    /// Reads one node, lets `decide` make its successor (`None`: leave it), stores that.
    fn change_node<T, E>(
        &self,
        peer_id: PeerId,
        durability: Durability,
        decide: impl FnOnce(Option<&Entry>) -> Result<(Option<Entry>, T), E>,
    ) -> Result<T, Failure<E>> {
        self.write(durability, |transaction| {
            let mut table = transaction.open_table(NODES)?;
            let key = peer_id.to_string();
            let existing = match table.get(key.as_str())? {
                Some(guard) => Some(decode_node(&key, guard.value())?),
                None => None,
            };
            let (successor, value) = decide(existing.as_ref()).map_err(Failure::Refused)?;
            if let Some(successor) = successor {
                let row = serde_json::to_vec(&NodeRow::from(&successor))?;
                table.insert(key.as_str(), row.as_slice())?;
            }
            Ok(value)
        })
    }

    /// Calls `visit` for every node, in the order of the peer ids as text.
    fn each_node<E>(&self, mut visit: impl FnMut(Entry)) -> Result<(), Failure<E>> {
        let transaction = self.database.begin_read()?;
        let table = transaction.open_table(NODES)?;
        for row in table.iter()? {
            let (key, value) = row?;
            visit(decode_node(key.value(), value.value())?);
        }
        Ok(())
    }
}

impl Registry for Embedded {
    fn register(
        &self,
        registration: Registration,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(Entry, Change), RegistryError>> {
        Box::pin(self.run(move |shared| {
            let peer_id = registration.peer_id;
            shared.change_node(peer_id, Durability::Immediate, |existing| {
                let (entry, change) = registry::register(existing, registration, stamp, now, ttl)?;
                Ok((Some(entry.clone()), (entry, change)))
            })
        }))
    }

    fn heartbeat(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Entry, RegistryError>> {
        Box::pin(self.run(move |shared| {
            // Not worth an fsync: after a crash the node is asked to register again at worst.
            shared.change_node(peer_id, Durability::None, |existing| {
                let entry = registry::heartbeat(existing, stamp, now, ttl)?;
                Ok((Some(entry.clone()), entry))
            })
        }))
    }

    fn leave(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<bool, RegistryError>> {
        Box::pin(self.run(move |shared| {
            shared.change_node(peer_id, Durability::Immediate, |existing| {
                let ended = registry::leave(existing, stamp, now)?;
                let was_live = ended.is_some();
                Ok((ended, was_live))
            })
        }))
    }

    fn peers(
        &self,
        query: PeerQuery,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Page, EngineError>> {
        Box::pin(self.run(move |shared| {
            let bounds = StatusBounds::new(query.status, now, ttl);
            let after = query.after.map(|peer| peer.to_string());
            let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
            let (mut entries, mut total, mut more) = (Vec::new(), 0, false);
            shared.each_node(|entry| {
                let registration = &entry.registration;
                let wanted = registration.organization == query.organization
                    && (query.region.is_none() || query.region == registration.region)
                    && bounds.contain(&entry);
                if !wanted {
                    return;
                }
                total += 1;
                let on_later_page = after
                    .as_ref()
                    .is_none_or(|after| registration.peer_id.to_string() > *after);
                if on_later_page {
                    if entries.len() < limit {
                        entries.push(entry);
                    } else {
                        more = true;
                    }
                }
            })?;
            Ok(Page {
                entries,
                total,
                more,
            })
        }))
    }

    fn recent(
        &self,
        organization: OrganizationId,
        limit: u32,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Vec<Entry>, EngineError>> {
        Box::pin(self.run(move |shared| {
            let mut entries = Vec::new();
            shared.each_node(|entry| {
                if entry.registration.organization == organization && entry.expires_at > now {
                    entries.push(entry);
                }
            })?;
            entries.sort_by_key(|entry| std::cmp::Reverse(entry.last_seen_at));
            entries.truncate(usize::try_from(limit).unwrap_or(usize::MAX));
            Ok(entries)
        }))
    }

    fn live(&self, now: UnixMillis) -> BoxFuture<'_, Result<BTreeMap<String, u64>, EngineError>> {
        Box::pin(self.run(move |shared| {
            let mut counts = BTreeMap::new();
            shared.each_node(|entry| {
                if entry.expires_at > now {
                    let organization = entry.registration.organization.to_string();
                    *counts.entry(organization).or_insert(0) += 1;
                }
            })?;
            Ok(counts)
        }))
    }

    fn forget(&self, before: UnixMillis) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(self.run(move |shared| {
            shared.write(Durability::Immediate, |transaction| {
                let mut forgotten = 0;
                // What cannot be read is kept: the reader that trips over it names it.
                transaction.open_table(NODES)?.retain(|_, value| {
                    let keep = serde_json::from_slice::<NodeRow>(value)
                        .map_or(true, |row| row.expires_at >= before);
                    forgotten += u64::from(!keep);
                    keep
                })?;
                transaction.open_table(GRANTS)?.retain(|_, value| {
                    serde_json::from_slice::<StoredGrant>(value).map_or(true, |stored| {
                        stored.grant.expires_at_unix_s >= before.as_secs()
                    })
                })?;
                Ok(forgotten)
            })
        }))
    }

    fn create_grant(
        &self,
        grant: JoinGrant,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.run(move |shared| {
            shared.write(Durability::Immediate, |transaction| {
                let key = *grant.token_hash.as_bytes();
                let stored = serde_json::to_vec(&StoredGrant {
                    grant,
                    created_at: now,
                    redemption: None,
                })?;
                let mut table = transaction.open_table(GRANTS)?;
                let known = table.get(&key)?.is_some();
                if !known {
                    table.insert(&key, stored.as_slice())?;
                }
                Ok(())
            })
        }))
    }

    fn grants(&self) -> BoxFuture<'_, Result<Vec<StoredGrant>, EngineError>> {
        Box::pin(self.run(move |shared| {
            let transaction = shared.database.begin_read()?;
            let table = transaction.open_table(GRANTS)?;
            let mut all = Vec::new();
            for row in table.iter()? {
                all.push(serde_json::from_slice::<StoredGrant>(row?.1.value())?);
            }
            all.sort_by_key(|stored| std::cmp::Reverse(stored.created_at));
            all.truncate(MAX_LISTED_GRANTS);
            Ok(all)
        }))
    }

    fn withdraw_grant(&self, id: String) -> BoxFuture<'_, Result<bool, EngineError>> {
        Box::pin(self.run(move |shared| {
            shared.write(Durability::Immediate, |transaction| {
                let mut withdrawn = false;
                transaction.open_table(GRANTS)?.retain(|_, value| {
                    let matches =
                        serde_json::from_slice::<StoredGrant>(value).is_ok_and(|stored| {
                            stored.redemption.is_none()
                                && grants::grant_id(&stored.grant.token_hash) == id
                        });
                    withdrawn |= matches;
                    !matches
                })?;
                Ok(withdrawn)
            })
        }))
    }

    fn redeem(
        &self,
        token: TokenHash,
        request_hash: [u8; 32],
        now: UnixMillis,
        sign: Sign,
    ) -> BoxFuture<'_, Result<Redemption, RedeemError>> {
        Box::pin(self.run(move |shared| {
            // redb runs one write transaction at a time: whoever comes second sees the first one's redemption.
            shared.write(Durability::Immediate, |transaction| {
                let mut table = transaction.open_table(GRANTS)?;
                let stored = match table.get(token.as_bytes())? {
                    Some(guard) => Some(serde_json::from_slice::<StoredGrant>(guard.value())?),
                    None => None,
                };
                let refused = |error: RedeemError| Failure::Refused(error);
                let redemption = match grants::redeem(stored.as_ref(), &request_hash, now)
                    .map_err(|denied| refused(denied.into()))?
                {
                    Allowed::Repeat(redemption) => return Ok(redemption.clone()),
                    Allowed::Issue(grant) => {
                        let redemption =
                            sign(grant).map_err(|reason| refused(RedeemError::Sign(reason)))?;
                        let spent = serde_json::to_vec(&StoredGrant {
                            grant: grant.clone(),
                            created_at: stored.as_ref().map_or(now, |stored| stored.created_at),
                            redemption: Some(redemption.clone()),
                        })?;
                        table.insert(token.as_bytes(), spent.as_slice())?;
                        redemption
                    }
                };
                Ok(redemption)
            })
        }))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(self.run(move |shared| {
            shared.database.begin_read()?.open_table(NODES)?;
            Ok(())
        }))
    }
}
