//! The PostgreSQL engine: several discovery servers share one registry.
//!
//! Nothing here waits for the database longer than [`PostgresOptions`] says, and a server starts without it: until
//! [`Registry::probe`] has reached the database once and brought its tables up to date, every call answers
//! [`EngineError::Unavailable`]. The server probes at start and every few seconds.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use futures::future::BoxFuture;
use sqlx::{
    ConnectOptions, PgConnection, PgPool, Row,
    migrate::Migrator,
    postgres::{PgConnectOptions, PgPoolOptions, PgRow, PgSslMode},
};
use warren_identity::{
    OrganizationId, PeerId, UnixMillis,
    join::{JoinGrant, TokenHash},
};

use super::{EngineError, MAX_LISTED_GRANTS, Page, RedeemError, Registry, RegistryError, Sign};
use crate::core::{
    grants::{self, Allowed, Redemption, StoredGrant},
    registry::{self, Change, Conflict, Entry, PeerQuery, Registration, StatusBounds},
};

static MIGRATIONS: Migrator = sqlx::migrate!("./migrations");

/// How the database is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PostgresOptions {
    /// Connections this server opens at most. Ten serve some thousand heartbeats per second; PostgreSQL allows 100 to all.
    pub max_connections: u32,
    /// How long a request waits for a connection, connecting included.
    pub acquire_timeout: Duration,
    /// How long one statement, or waiting for a lock, may take before PostgreSQL ends it.
    pub statement_timeout: Duration,
}

impl Default for PostgresOptions {
    fn default() -> Self {
        Self {
            max_connections: 10,
            acquire_timeout: Duration::from_secs(3),
            statement_timeout: Duration::from_secs(5),
        }
    }
}

/// A migration of a big table may take longer than a request.
const MIGRATION_TIMEOUT_MS: &str = "300000";

/// The registry in a PostgreSQL database.
#[derive(Debug)]
pub struct Postgres {
    pool: PgPool,
    place: String,
    migrated: AtomicBool,
}

impl Postgres {
    /// Prepares to use the database at `url` (`postgresql://user:password@host:port/name?sslmode=verify-full`). Does not
    /// connect.
    ///
    /// # Errors
    /// [`EngineError::Open`] when the URL is none; its password is not repeated.
    pub fn new(url: &str, options: &PostgresOptions) -> Result<Self, EngineError> {
        let connect: PgConnectOptions =
            url.parse()
                .map_err(|error: sqlx::Error| EngineError::Open {
                    place: "at `database.url`".into(),
                    reason: format!(
                        "{error}; expected postgresql://USER:PASSWORD@HOST:PORT/DATABASE"
                    ),
                })?;
        let place = place(&connect);
        warn_if_clear(&connect, &place);
        let timeout_ms = options.statement_timeout.as_millis().to_string();
        let connect = connect
            .application_name("warren-discovery")
            .options([
                ("statement_timeout", timeout_ms.as_str()),
                ("lock_timeout", timeout_ms.as_str()),
                ("idle_in_transaction_session_timeout", timeout_ms.as_str()),
            ])
            .disable_statement_logging();
        let pool = PgPoolOptions::new()
            .max_connections(options.max_connections.max(1))
            .acquire_timeout(options.acquire_timeout)
            .idle_timeout(Duration::from_secs(300))
            .max_lifetime(Duration::from_secs(1_800))
            .connect_lazy_with(connect);
        Ok(Self {
            pool,
            place,
            migrated: AtomicBool::new(false),
        })
    }

    /// Where the database is, without user and password.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Closes all connections.
    pub async fn close(&self) {
        self.pool.close().await;
    }

    fn ready(&self) -> Result<&PgPool, EngineError> {
        if self.migrated.load(Ordering::Acquire) {
            Ok(&self.pool)
        } else {
            Err(EngineError::Unavailable {
                reason: format!(
                    "{} has not been reached since this server started",
                    self.place
                ),
            })
        }
    }

    fn failed(&self, error: &sqlx::Error) -> EngineError {
        use sqlx::Error as E;
        match error {
            E::ColumnDecode { .. }
            | E::ColumnNotFound(_)
            | E::Decode(_)
            | E::TypeNotFound { .. } => EngineError::Corrupt {
                place: self.place.clone(),
                reason: error.to_string(),
            },
            E::PoolTimedOut => EngineError::Unavailable {
                reason: format!("{}: no connection in time", self.place),
            },
            other => EngineError::Unavailable {
                reason: format!("{}: {other}", self.place),
            },
        }
    }

    async fn migrate(&self) -> Result<(), EngineError> {
        let unavailable = |reason: String| EngineError::Unavailable {
            reason: format!("{}: {reason}", self.place),
        };
        let mut connection = self.pool.acquire().await.map_err(|e| self.failed(&e))?;
        // The connection is closed afterwards, so that this setting does not leak into requests.
        for setting in ["statement_timeout", "lock_timeout"] {
            sqlx::query("SELECT set_config($1, $2, false)")
                .bind(setting)
                .bind(MIGRATION_TIMEOUT_MS)
                .execute(&mut *connection)
                .await
                .map_err(|error| self.failed(&error))?;
        }
        // Takes an advisory lock: servers that start together do not collide.
        let outcome = MIGRATIONS.run_direct(None, &mut *connection, false).await;
        connection.close().await.map_err(|e| self.failed(&e))?;
        outcome.map_err(|error| {
            unavailable(format!("its tables cannot be brought up to date: {error}"))
        })?;
        self.migrated.store(true, Ordering::Release);
        Ok(())
    }

    /// Reads one node under a lock that excludes every other change of it, lets `decide` make its successor (`None`:
    /// leave it), stores that.
    async fn change_node<T: Send>(
        &self,
        peer_id: PeerId,
        decide: impl FnOnce(Option<&Entry>) -> Result<(Option<Entry>, T), Conflict> + Send,
    ) -> Result<T, RegistryError> {
        let key = peer_id.to_string();
        let failed = |error: sqlx::Error| self.failed(&error);
        let mut transaction = self.ready()?.begin().await.map_err(failed)?;
        // A row lock would not do: there may be no row yet.
        sqlx::query("SELECT pg_advisory_xact_lock(hashtextextended($1, 7261))")
            .bind(&key)
            .execute(&mut *transaction)
            .await
            .map_err(failed)?;
        let existing = sqlx::query("SELECT * FROM nodes WHERE peer_id = $1")
            .bind(&key)
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?
            .map(|row| node_from_row(&row))
            .transpose()
            .map_err(failed)?;
        let (successor, value) = decide(existing.as_ref())?;
        if let Some(entry) = successor {
            store_node(&mut transaction, &key, &entry)
                .await
                .map_err(failed)?;
        }
        transaction.commit().await.map_err(failed)?;
        Ok(value)
    }
}

fn place(options: &PgConnectOptions) -> String {
    let database = options.get_database().unwrap_or("(default)");
    match options.get_socket() {
        Some(socket) => format!("database {database} at {}", socket.display()),
        None => format!(
            "database {database} at {}:{}",
            options.get_host(),
            options.get_port()
        ),
    }
}

fn warn_if_clear(options: &PgConnectOptions, place: &str) {
    let host = options.get_host();
    let local = options.get_socket().is_some()
        || host == "localhost"
        || host.starts_with('/')
        || host
            .parse::<std::net::IpAddr>()
            .is_ok_and(|ip| ip.is_loopback());
    let verified = matches!(
        options.get_ssl_mode(),
        PgSslMode::VerifyCa | PgSslMode::VerifyFull
    );
    if !local && !verified {
        tracing::warn!(
            place,
            "the connection to the registry's database does not verify the server; add ?sslmode=verify-full&sslrootcert=FILE to `database.url`"
        );
    }
}

async fn store_node(
    connection: &mut PgConnection,
    key: &str,
    entry: &Entry,
) -> Result<(), sqlx::Error> {
    let registration = &entry.registration;
    sqlx::query(
        "INSERT INTO nodes (peer_id, organization, name, region, addresses, bulk_addresses, roles, capabilities, record, \
             record_sequence, certificate_ends_at, registered_at, last_seen_at, expires_at, last_stamp) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15) \
         ON CONFLICT (peer_id) DO UPDATE SET organization = $2, name = $3, region = $4, addresses = $5, \
             bulk_addresses = $6, roles = $7, capabilities = $8, record = $9, record_sequence = $10, \
             certificate_ends_at = $11, registered_at = $12, last_seen_at = $13, expires_at = $14, last_stamp = $15",
    )
    .bind(key)
    .bind(registration.organization.as_str())
    .bind(&registration.name)
    .bind(&registration.region)
    .bind(&registration.addresses)
    .bind(&registration.bulk_addresses)
    .bind(&registration.roles)
    .bind(&registration.capabilities)
    .bind(&registration.record)
    .bind(i64::try_from(registration.sequence).unwrap_or(i64::MAX))
    .bind(registration.certificate_ends_at.to_i64())
    .bind(entry.registered_at.to_i64())
    .bind(entry.last_seen_at.to_i64())
    .bind(entry.expires_at.to_i64())
    .bind(entry.last_stamp.to_i64())
    .execute(connection)
    .await?;
    Ok(())
}

fn time(row: &PgRow, column: &str) -> Result<UnixMillis, sqlx::Error> {
    row.try_get(column).map(UnixMillis::from_i64)
}

/// Parses a text column into a type that validates.
fn parsed<T>(row: &PgRow, column: &str) -> Result<T, sqlx::Error>
where
    T: std::str::FromStr,
    T::Err: std::error::Error + Send + Sync + 'static,
{
    let text: String = row.try_get(column)?;
    text.parse()
        .map_err(|error: T::Err| sqlx::Error::ColumnDecode {
            index: column.to_owned(),
            source: Box::new(error),
        })
}

fn bytes_32(row: &PgRow, column: &str) -> Result<[u8; 32], sqlx::Error> {
    let bytes: Vec<u8> = row.try_get(column)?;
    <[u8; 32]>::try_from(bytes).map_err(|bytes| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: format!("expected 32 bytes, found {}", bytes.len()).into(),
    })
}

fn node_from_row(row: &PgRow) -> Result<Entry, sqlx::Error> {
    let sequence: i64 = row.try_get("record_sequence")?;
    Ok(Entry {
        registration: Registration {
            peer_id: parsed(row, "peer_id")?,
            organization: parsed(row, "organization")?,
            name: row.try_get("name")?,
            region: row.try_get("region")?,
            addresses: row.try_get("addresses")?,
            bulk_addresses: row.try_get("bulk_addresses")?,
            roles: row.try_get("roles")?,
            capabilities: row.try_get("capabilities")?,
            record: row.try_get("record")?,
            sequence: sequence.unsigned_abs(),
            certificate_ends_at: time(row, "certificate_ends_at")?,
        },
        registered_at: time(row, "registered_at")?,
        last_seen_at: time(row, "last_seen_at")?,
        expires_at: time(row, "expires_at")?,
        last_stamp: time(row, "last_stamp")?,
    })
}

fn grant_from_row(row: &PgRow) -> Result<StoredGrant, sqlx::Error> {
    let grant: String = row.try_get("grant_json")?;
    let grant = serde_json::from_str(&grant).map_err(|error| sqlx::Error::ColumnDecode {
        index: "grant_json".to_owned(),
        source: Box::new(error),
    })?;
    let redeemed_at: Option<i64> = row.try_get("redeemed_at")?;
    let redemption = match redeemed_at {
        None => None,
        Some(at) => Some(Redemption {
            request_hash: bytes_32(row, "request_hash")?,
            peer_id: row.try_get("peer_id")?,
            leaf_pem: row.try_get("leaf_pem")?,
            redeemed_at: UnixMillis::from_i64(at),
        }),
    };
    Ok(StoredGrant {
        grant,
        created_at: time(row, "created_at")?,
        redemption,
    })
}

/// What `peers` selects; `$2` region or null, then the four bounds of the status.
const PEERS_WHERE: &str = "organization = $1 AND ($2::text IS NULL OR region = $2) \
     AND expires_at >= $3 AND expires_at < $4 AND last_seen_at >= $5 AND last_seen_at < $6";

impl Postgres {
    async fn page(
        &self,
        query: PeerQuery,
        now: UnixMillis,
        ttl: Duration,
    ) -> Result<Page, EngineError> {
        let failed = |error: sqlx::Error| self.failed(&error);
        let pool = self.ready()?;
        let bounds = StatusBounds::new(query.status, now, ttl);
        let bind = |sql: String| {
            // Only constants of this file go into the text; values are bound.
            sqlx::query(sqlx::AssertSqlSafe(sql))
                .bind(query.organization.as_str().to_owned())
                .bind(query.region.clone())
                .bind(bounds.expires_from.to_i64())
                .bind(bounds.expires_before.to_i64())
                .bind(bounds.seen_from.to_i64())
                .bind(bounds.seen_before.to_i64())
        };
        let total: i64 = bind(format!("SELECT count(*) FROM nodes WHERE {PEERS_WHERE}"))
            .fetch_one(pool)
            .await
            .and_then(|row| row.try_get(0))
            .map_err(failed)?;
        let after = query.after.map(|peer| peer.to_string()).unwrap_or_default();
        let rows = bind(format!(
            "SELECT * FROM nodes WHERE {PEERS_WHERE} AND peer_id COLLATE \"C\" > $7 \
             ORDER BY peer_id COLLATE \"C\" LIMIT $8"
        ))
        .bind(after)
        .bind(i64::from(query.limit) + 1)
        .fetch_all(pool)
        .await
        .map_err(failed)?;
        let mut entries = rows
            .iter()
            .map(node_from_row)
            .collect::<Result<Vec<_>, _>>()
            .map_err(failed)?;
        let limit = usize::try_from(query.limit).unwrap_or(usize::MAX);
        let more = entries.len() > limit;
        entries.truncate(limit);
        Ok(Page {
            entries,
            total: total.unsigned_abs(),
            more,
        })
    }

    async fn redeem_once(
        &self,
        token: TokenHash,
        request_hash: [u8; 32],
        now: UnixMillis,
        sign: Sign,
    ) -> Result<Redemption, RedeemError> {
        let failed = |error: sqlx::Error| self.failed(&error);
        let mut transaction = self.ready()?.begin().await.map_err(failed)?;
        // The row lock makes every other redemption of this token wait, on whichever server, until this one is done.
        let stored = sqlx::query("SELECT * FROM join_grants WHERE token_hash = $1 FOR UPDATE")
            .bind(token.as_bytes().as_slice())
            .fetch_optional(&mut *transaction)
            .await
            .map_err(failed)?
            .map(|row| grant_from_row(&row))
            .transpose()
            .map_err(failed)?;
        let redemption = match grants::redeem(stored.as_ref(), &request_hash, now)? {
            Allowed::Repeat(redemption) => return Ok(redemption.clone()),
            Allowed::Issue(grant) => {
                let grant = grant.clone();
                // Signing writes the CA's ledger to disk.
                tokio::task::spawn_blocking(move || sign(&grant))
                    .await
                    .map_err(|error| RedeemError::Sign(format!("signing ended early ({error})")))?
                    .map_err(RedeemError::Sign)?
            }
        };
        let spent = sqlx::query(
            "UPDATE join_grants SET redeemed_at = $2, request_hash = $3, peer_id = $4, leaf_pem = $5 \
             WHERE token_hash = $1 AND redeemed_at IS NULL",
        )
        .bind(token.as_bytes().as_slice())
        .bind(redemption.redeemed_at.to_i64())
        .bind(redemption.request_hash.as_slice())
        .bind(&redemption.peer_id)
        .bind(&redemption.leaf_pem)
        .execute(&mut *transaction)
        .await
        .map_err(failed)?;
        if spent.rows_affected() != 1 {
            // Cannot happen under the row lock; never hand out a leaf if it does.
            return Err(RedeemError::Sign(
                "the token changed while it was being used".into(),
            ));
        }
        transaction.commit().await.map_err(failed)?;
        Ok(redemption)
    }
}

impl Registry for Postgres {
    fn register(
        &self,
        registration: Registration,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<(Entry, Change), RegistryError>> {
        Box::pin(self.change_node(registration.peer_id, move |existing| {
            let (entry, change) = registry::register(existing, registration, stamp, now, ttl)?;
            Ok((Some(entry.clone()), (entry, change)))
        }))
    }

    fn heartbeat(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Entry, RegistryError>> {
        Box::pin(self.change_node(peer_id, move |existing| {
            let entry = registry::heartbeat(existing, stamp, now, ttl)?;
            Ok((Some(entry.clone()), entry))
        }))
    }

    fn leave(
        &self,
        peer_id: PeerId,
        stamp: Option<UnixMillis>,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<bool, RegistryError>> {
        Box::pin(self.change_node(peer_id, move |existing| {
            let ended = registry::leave(existing, stamp, now)?;
            let was_live = ended.is_some();
            Ok((ended, was_live))
        }))
    }

    fn peers(
        &self,
        query: PeerQuery,
        now: UnixMillis,
        ttl: Duration,
    ) -> BoxFuture<'_, Result<Page, EngineError>> {
        Box::pin(self.page(query, now, ttl))
    }

    fn recent(
        &self,
        organization: OrganizationId,
        limit: u32,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<Vec<Entry>, EngineError>> {
        Box::pin(async move {
            sqlx::query(
                "SELECT * FROM nodes WHERE organization = $1 AND expires_at > $2 ORDER BY last_seen_at DESC LIMIT $3",
            )
            .bind(organization.as_str())
            .bind(now.to_i64())
            .bind(i64::from(limit))
            .fetch_all(self.ready()?)
            .await
            .and_then(|rows| rows.iter().map(node_from_row).collect())
            .map_err(|error| self.failed(&error))
        })
    }

    fn live(&self, now: UnixMillis) -> BoxFuture<'_, Result<BTreeMap<String, u64>, EngineError>> {
        Box::pin(async move {
            sqlx::query(
                "SELECT organization, count(*) AS live FROM nodes WHERE expires_at > $1 GROUP BY organization",
            )
            .bind(now.to_i64())
            .fetch_all(self.ready()?)
            .await
            .and_then(|rows| {
                rows.iter()
                    .map(|row| {
                        let live: i64 = row.try_get("live")?;
                        Ok((row.try_get("organization")?, live.unsigned_abs()))
                    })
                    .collect()
            })
            .map_err(|error| self.failed(&error))
        })
    }

    fn forget(&self, before: UnixMillis) -> BoxFuture<'_, Result<u64, EngineError>> {
        Box::pin(async move {
            let pool = self.ready()?;
            let failed = |error: sqlx::Error| self.failed(&error);
            let nodes = sqlx::query("DELETE FROM nodes WHERE expires_at < $1")
                .bind(before.to_i64())
                .execute(pool)
                .await
                .map_err(failed)?;
            sqlx::query("DELETE FROM join_grants WHERE expires_at < $1")
                .bind(before.to_i64())
                .execute(pool)
                .await
                .map_err(failed)?;
            Ok(nodes.rows_affected())
        })
    }

    fn create_grant(
        &self,
        grant: JoinGrant,
        now: UnixMillis,
    ) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            let json = serde_json::to_string(&grant).map_err(|error| EngineError::Corrupt {
                place: self.place.clone(),
                reason: error.to_string(),
            })?;
            sqlx::query(
                "INSERT INTO join_grants (token_hash, grant_id, grant_json, created_at, expires_at) \
                 VALUES ($1, $2, $3, $4, $5) ON CONFLICT DO NOTHING",
            )
            .bind(grant.token_hash.as_bytes().as_slice())
            .bind(grants::grant_id(&grant.token_hash))
            .bind(json)
            .bind(now.to_i64())
            .bind(UnixMillis::from_secs(grant.expires_at_unix_s).to_i64())
            .execute(self.ready()?)
            .await
            .map_err(|error| self.failed(&error))?;
            Ok(())
        })
    }

    fn grants(&self) -> BoxFuture<'_, Result<Vec<StoredGrant>, EngineError>> {
        Box::pin(async move {
            sqlx::query("SELECT * FROM join_grants ORDER BY created_at DESC LIMIT $1")
                .bind(i64::try_from(MAX_LISTED_GRANTS).unwrap_or(i64::MAX))
                .fetch_all(self.ready()?)
                .await
                .and_then(|rows| rows.iter().map(grant_from_row).collect())
                .map_err(|error| self.failed(&error))
        })
    }

    fn withdraw_grant(&self, id: String) -> BoxFuture<'_, Result<bool, EngineError>> {
        Box::pin(async move {
            sqlx::query("DELETE FROM join_grants WHERE grant_id = $1 AND redeemed_at IS NULL")
                .bind(id)
                .execute(self.ready()?)
                .await
                .map(|done| done.rows_affected() > 0)
                .map_err(|error| self.failed(&error))
        })
    }

    fn redeem(
        &self,
        token: TokenHash,
        request_hash: [u8; 32],
        now: UnixMillis,
        sign: Sign,
    ) -> BoxFuture<'_, Result<Redemption, RedeemError>> {
        Box::pin(self.redeem_once(token, request_hash, now, sign))
    }

    fn probe(&self) -> BoxFuture<'_, Result<(), EngineError>> {
        Box::pin(async move {
            if !self.migrated.load(Ordering::Acquire) {
                self.migrate().await?;
            }
            sqlx::query("SELECT 1")
                .execute(&self.pool)
                .await
                .map_err(|error| self.failed(&error))?;
            Ok(())
        })
    }
}
