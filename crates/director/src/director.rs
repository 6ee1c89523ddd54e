//! The director: takes calls of whatever method and passes them on.
//!
//! Deadline, metadata and the promise that a call may run twice travel on; the body is not looked at. Which worker gets
//! the call and whether it is tried again elsewhere is the rule of [`Pool`]. A unary call with a body above 64 KiB, and
//! every streaming one, is tried once: its messages are gone once they are sent.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::watch;
use warren_balance::{Place, TagFilter};
use warren_rpc::{
    BoxFuture, Caller, Client, Code, Context, Failure, Fallback, Incoming, Kind, Method, Outgoing,
    Pool, PoolOptions, Status, Target,
};

use crate::core::route::{
    Arrival, DATA_REGION, Destination, VIA, VIA_DIRECTOR, VIA_REGION, destination,
};
use crate::origin::{ON_BEHALF_OF, is_director, origin};

/// Tag of targets: what they are.
pub const ROLE: &str = "role";
/// Tag of targets: where they are.
pub const REGION: &str = "region";
/// [`ROLE`] of workers.
pub const WORKER: &str = "worker";
/// [`ROLE`] of directors of other regions.
pub const DIRECTOR: &str = "director";

/// How long a director waits for a worker to come. Shorter than its callers wait for it ([`PoolOptions`]): they are to
/// hear that there is none, and may know another director.
const WAIT_FOR_WORKER: Duration = Duration::from_secs(2);

/// How a director behaves.
#[derive(Debug, Clone)]
pub struct DirectorOptions {
    /// Where it stands. Without a region calls are not passed to other regions unless they ask for one.
    pub here: Place,
    /// How workers are chosen and calls tried again.
    pub pool: PoolOptions,
}

impl Default for DirectorOptions {
    fn default() -> Self {
        Self {
            here: Place::nowhere(),
            pool: PoolOptions {
                wait_for_server: WAIT_FOR_WORKER,
                ..PoolOptions::default()
            },
        }
    }
}

/// Passes calls on. Clones are handles to the same pool; give one to [`warren_rpc::Server::set_fallback`].
#[derive(Debug, Clone)]
pub struct Director(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    region: Option<String>,
    targets: watch::Receiver<Vec<Target>>,
    anywhere: Pool,
    workers: Pool,
}

impl Director {
    /// A director over `targets`: workers, tagged [`ROLE`] = [`WORKER`], and directors of other regions, tagged [`ROLE`] =
    /// [`DIRECTOR`]; both with [`REGION`] where they have one. Whether a tag is proven is decided before. Needs a Tokio
    /// runtime.
    #[must_use]
    pub fn new(
        client: Client,
        targets: watch::Receiver<Vec<Target>>,
        options: DirectorOptions,
    ) -> Self {
        let region = options.here.region.clone();
        let pool = PoolOptions {
            here: options.here,
            ..options.pool
        };
        let anywhere = Pool::new(client, targets.clone(), pool);
        let workers = anywhere.filtered(TagFilter::tag(ROLE, WORKER));
        Self(Arc::new(Shared {
            region,
            targets,
            anywhere,
            workers,
        }))
    }

    /// The pool of everybody it passes calls to.
    #[must_use]
    pub fn pool(&self) -> &Pool {
        &self.0.anywhere
    }

    /// Where the call goes, and what it says there.
    fn pass_on(&self, context: Context) -> Result<(Pool, Context), Status> {
        let shared = &self.0;
        let arrival = match is_director(&context) {
            true => Arrival::of(context.metadata(VIA)),
            false => Arrival::FromCaller,
        };
        let wanted = context.metadata(DATA_REGION).map(str::to_owned);
        let destination = destination(shared.region.as_deref(), arrival, wanted.as_deref())
            .map_err(|reason| {
                Status::new(Code::FailedPrecondition, reason.to_string()).not_processed()
            })?;
        let (pool, via) = match destination {
            Destination::Anywhere if shared.region.is_some() => {
                (shared.anywhere.clone(), VIA_REGION)
            }
            Destination::Anywhere | Destination::Workers => (shared.workers.clone(), VIA_DIRECTOR),
            Destination::WorkersOf(region) => (shared.of_region(WORKER, region), VIA_DIRECTOR),
            Destination::Region(region) => shared.serving(region)?,
        };
        let named = origin(&context).map(|peer| peer.to_string());
        let context = context
            .with_metadata(ON_BEHALF_OF, named.as_deref().unwrap_or_default())
            .and_then(|context| context.with_metadata(VIA, via))
            .map_err(|error| {
                let what = format!("no room for a director's metadata: {error}");
                Status::new(Code::InvalidArgument, what).not_processed()
            })?;
        Ok((pool, context))
    }
}

impl Shared {
    fn of_region(&self, role: &str, region: &str) -> Pool {
        self.anywhere
            .filtered(TagFilter::tag(ROLE, role).and(REGION, region))
    }

    /// Directors of that region, or workers of it in this cluster.
    fn serving(&self, region: &str) -> Result<(Pool, &'static str), Status> {
        let known = |role: &str| {
            self.targets.borrow().iter().any(|target| {
                target.tags.get(ROLE).map(String::as_str) == Some(role)
                    && target.tags.get(REGION).map(String::as_str) == Some(region)
            })
        };
        if known(DIRECTOR) {
            return Ok((self.of_region(DIRECTOR, region), VIA_REGION));
        }
        if known(WORKER) {
            return Ok((self.of_region(WORKER, region), VIA_DIRECTOR));
        }
        let here = self.region.as_deref().unwrap_or("none");
        let what = format!(
            "the data of this call must stay in region `{region}`, and this director of region `{here}` knows nobody there; name its directors in `cluster.remote_directors`"
        );
        Err(Status::new(Code::FailedPrecondition, what).not_processed())
    }
}

fn method(path: &str, kind: Kind, context: &Context) -> Method {
    Method {
        path: Cow::Owned(path.to_owned()),
        kind,
        idempotent: context.is_idempotent(),
        permission: None,
    }
}

impl Fallback for Director {
    fn unary(
        &self,
        path: &str,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        let method = method(path, Kind::Unary, &context);
        let passed = self.pass_on(context);
        Box::pin(async move {
            let (pool, context) = passed?;
            pool.unary(&method, context, request).await
        })
    }

    fn streaming(
        &self,
        path: &str,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        let method = method(path, Kind::Bidirectional, &context);
        let passed = self.pass_on(context);
        Box::pin(async move {
            let (pool, context) = passed?;
            let mut responses = pool.streaming(&method, context, incoming).await?;
            while let Some(response) = responses.next().await {
                outgoing.send(response?).await?;
            }
            Ok(())
        })
    }
}
