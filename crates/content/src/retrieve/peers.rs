//! Connections to peers, shared by all retrievals: at most one per peer, opened on demand.

use std::collections::HashMap;
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use futures::future::{BoxFuture, Shared};
use lru::LruCache;
use tokio::time::{Instant, timeout};
use warren_identity::PeerId;

use crate::transfer::{BlockClient, ConnectError, Link, TransferLimits, TransferMetrics};

/// A peer that sent a wrong block is not connected to for this long.
const PENALTY: Duration = Duration::from_secs(600);
/// Penalties remembered; the oldest is forgotten first.
const MAX_PENALTIES: NonZeroUsize = NonZeroUsize::new(1024).unwrap();

/// Opens block connections. Implemented by whoever knows the peers' addresses.
pub trait Connector: Send + Sync + 'static {
    /// Connects to `peer` and proves that it is `peer` and a member: by a bulk connection to an address it announced,
    /// or else by a mesh stream. Cancel safe: dropping the future leaves nothing open.
    fn connect(&self, peer: PeerId) -> BoxFuture<'_, Result<Link, ConnectError>>;
}

type Opening = Shared<BoxFuture<'static, Result<BlockClient, ConnectError>>>;

/// The connections of this node to others' block servers. Cheap to clone; clones share them.
#[derive(Clone)]
pub struct Peers {
    inner: Arc<Inner>,
}

struct Inner {
    connector: Arc<dyn Connector>,
    limits: TransferLimits,
    metrics: TransferMetrics,
    connect_timeout: Duration,
    table: Mutex<Table>,
}

struct Table {
    openings: HashMap<PeerId, Opening>,
    penalties: LruCache<PeerId, Instant>,
}

impl Peers {
    /// No connection yet. An attempt that takes longer than `connect_timeout` is given up.
    #[must_use]
    pub fn new(
        connector: Arc<dyn Connector>,
        limits: TransferLimits,
        metrics: TransferMetrics,
        connect_timeout: Duration,
    ) -> Self {
        let table = Mutex::new(Table {
            openings: HashMap::new(),
            penalties: LruCache::new(MAX_PENALTIES),
        });
        Self {
            inner: Arc::new(Inner {
                connector,
                limits,
                metrics,
                connect_timeout,
                table,
            }),
        }
    }

    /// The connection to `peer`, opened if there is none. Cancel safe; concurrent callers share one attempt.
    ///
    /// # Errors
    /// [`ConnectError`]; the next call tries again.
    pub async fn client(&self, peer: PeerId) -> Result<BlockClient, ConnectError> {
        let opening = self.opening(peer)?;
        let result = opening.clone().await;
        if result.is_err() {
            let mut table = self.table();
            if table
                .openings
                .get(&peer)
                .is_some_and(|current| current.ptr_eq(&opening))
            {
                table.openings.remove(&peer);
            }
        }
        result
    }

    /// Whether [`Self::client`] would refuse because of a recent wrong block.
    #[must_use]
    pub fn is_penalised(&self, peer: &PeerId) -> bool {
        self.table()
            .penalties
            .peek(peer)
            .is_some_and(|until| *until > Instant::now())
    }

    /// Closes the connection to `peer` once nobody uses it any more.
    pub(crate) fn discard(&self, peer: &PeerId) {
        self.table().openings.remove(peer);
    }

    /// `peer` sent a wrong block: closes its connection and leaves it alone for ten minutes.
    pub(crate) fn penalise(&self, peer: PeerId) {
        let mut table = self.table();
        if let Some(Ok(client)) = table
            .openings
            .remove(&peer)
            .as_ref()
            .and_then(Opening::peek)
        {
            client.close();
        }
        table.penalties.put(peer, Instant::now() + PENALTY);
    }

    pub(crate) fn metrics(&self) -> &TransferMetrics {
        &self.inner.metrics
    }

    fn opening(&self, peer: PeerId) -> Result<Opening, ConnectError> {
        if self.is_penalised(&peer) {
            return Err(ConnectError::Penalised { peer });
        }
        let mut table = self.table();
        // Connections that ended leave the table here, so it holds no more than were open at once plus one.
        table
            .openings
            .retain(|_, opening| !matches!(opening.peek(), Some(Ok(client)) if client.is_closed()));
        let opening = table.openings.entry(peer).or_insert_with(|| {
            let Inner {
                connector,
                limits,
                metrics,
                connect_timeout,
                ..
            } = &*self.inner;
            open(
                Arc::clone(connector),
                peer,
                limits.clone(),
                metrics.clone(),
                *connect_timeout,
            )
            .boxed()
            .shared()
        });
        Ok(opening.clone())
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.inner
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

async fn open(
    connector: Arc<dyn Connector>,
    peer: PeerId,
    limits: TransferLimits,
    metrics: TransferMetrics,
    allowed: Duration,
) -> Result<BlockClient, ConnectError> {
    let link = match timeout(allowed, connector.connect(peer)).await {
        Ok(link) => link?,
        Err(_) => {
            return Err(ConnectError::TimedOut {
                peer,
                seconds: allowed.as_secs(),
            });
        }
    };
    if link.far_end.peer != peer {
        return Err(ConnectError::Refused {
            peer,
            reason: format!("{} answered instead", link.far_end.peer),
        });
    }
    Ok(BlockClient::start(
        link.stream,
        link.far_end,
        limits,
        metrics,
    ))
}
