//! Many servers as one: a [`Pool`] keeps a connection to each, picks one for every call, and tries a failed call
//! elsewhere where that cannot do harm.
//!
//! Only servers with a live connection are in the balancer, so a server that is gone is never picked: its connection's
//! end takes it out, and a task of its own brings it back. A call that finds no server waits for one as long as its
//! deadline and [`PoolOptions::wait_for_server`] allow.
//!
//! What is tried again is `warren-balance`'s rule: a call that certainly had no effect, or whose method is idempotent,
//! within tries, deadline and budget.

mod link;

use std::hash::{BuildHasher, Hasher, RandomState};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use tokio::sync::{Notify, watch};
use tokio::task::AbortHandle;
use warren_balance::{
    Attempt, Balancer, Endpoint, EndpointStatus, Exposure, Idempotency, Outcome, Pick, PickRequest,
    Place, RetryBudget, RetryBudgetSettings, RetryDecision, RetryPolicy, Settings, TagFilter, Tags,
};
use warren_identity::tls::ExpectedPeer;

use self::link::Live;
pub(crate) use self::link::keep;
use crate::caller::Caller;
use crate::client::{Client, Connection};
use crate::context::Context;
use crate::descriptor::Method;
use crate::service::Failure;
use crate::status::{Code, Status};
use crate::streaming::Incoming;

/// A server that calls may go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where it is.
    pub address: SocketAddr,
    /// Who it must be.
    pub expected: ExpectedPeer,
    /// Where it stands, for locality.
    pub place: Place,
    /// What it says of itself, for filters.
    pub tags: Tags,
    /// What others know of it.
    pub liveness: Liveness,
}

/// Whether a server is there, as far as others know.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Liveness {
    /// Nobody says otherwise.
    #[default]
    Alive,
    /// It is gone without a word. Calls that wait for it are given up at once, so that they can be tried elsewhere; a
    /// target that is taken out instead keeps them.
    Lost,
}

impl Target {
    /// A server at `address` that must be `expected`, nowhere in particular.
    #[must_use]
    pub const fn new(address: SocketAddr, expected: ExpectedPeer) -> Self {
        Self {
            address,
            expected,
            place: Place::nowhere(),
            tags: Tags::new(),
            liveness: Liveness::Alive,
        }
    }
}

/// How a pool behaves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PoolOptions {
    /// How one of the servers is chosen, and when one is left alone for a while.
    pub balance: Settings,
    /// Where the callers are, for locality.
    pub here: Place,
    /// How often and after how long a call is tried again.
    pub retry: RetryPolicy,
    /// How many retries all calls together may cost.
    pub retry_budget: RetryBudgetSettings,
    /// How long a call waits for a first server. Longer than a server takes to restart.
    pub wait_for_server: Duration,
}

impl Default for PoolOptions {
    fn default() -> Self {
        Self {
            balance: Settings::default(),
            here: Place::nowhere(),
            retry: RetryPolicy::default(),
            retry_budget: RetryBudgetSettings::default(),
            wait_for_server: Duration::from_secs(5),
        }
    }
}

/// Calls spread over servers. Clones are handles to the same pool; the last one closes its connections.
#[derive(Clone, Debug)]
pub struct Pool {
    owner: Arc<Owner>,
    /// Only servers that match take this handle's calls.
    filter: Option<Arc<TagFilter>>,
}

#[derive(Debug)]
struct Owner {
    shared: Arc<Shared>,
    keeper: AbortHandle,
}

impl Drop for Owner {
    fn drop(&mut self) {
        self.keeper.abort();
    }
}

#[derive(Debug)]
pub(crate) struct Shared {
    options: PoolOptions,
    state: Mutex<State>,
    /// The set of live servers changed.
    changed: Notify,
}

#[derive(Debug)]
struct State {
    balancer: Balancer<Live>,
    budget: RetryBudget,
    jitter: u64,
}

/// What is known of one server, for people.
#[derive(Clone, Debug, PartialEq)]
pub struct ServerStatus {
    /// Where it is.
    pub address: SocketAddr,
    /// This pool's calls in flight there.
    pub in_flight: u32,
    /// What a call would take there.
    pub latency: Duration,
    /// Recent share of calls that failed, 0.0 to 1.0.
    pub failure_share: f64,
    /// Whether it is left alone for a while.
    pub is_ejected: bool,
}

impl Pool {
    /// A pool over the servers that `targets` names, now and later. Needs a Tokio runtime.
    #[must_use]
    pub fn new(
        client: Client,
        targets: watch::Receiver<Vec<Target>>,
        options: PoolOptions,
    ) -> Self {
        Self::kept_by(options, |shared| link::keep(shared, client, targets))
    }

    /// A pool whose servers the future keeps, which is dropped with the pool.
    pub(crate) fn kept_by<K>(options: PoolOptions, keep: impl FnOnce(Arc<Shared>) -> K) -> Self
    where
        K: Future<Output = ()> + Send + 'static,
    {
        // From the operating system; only spreads picks of different processes.
        let seed = RandomState::new().build_hasher().finish();
        let state = State {
            balancer: Balancer::new(options.balance.clone(), options.here.clone(), seed),
            budget: RetryBudget::new(options.retry_budget),
            jitter: seed | 1,
        };
        let shared = Arc::new(Shared {
            options,
            state: Mutex::new(state),
            changed: Notify::new(),
        });
        let keeper = tokio::spawn(keep(Arc::clone(&shared)));
        let owner = Arc::new(Owner {
            shared,
            keeper: keeper.abort_handle(),
        });
        Self {
            owner,
            filter: None,
        }
    }

    /// A handle to the same pool whose calls go only to servers with these tags.
    #[must_use]
    pub fn filtered(&self, filter: TagFilter) -> Self {
        Self {
            owner: Arc::clone(&self.owner),
            filter: Some(Arc::new(filter)),
        }
    }

    /// A pool over servers that stay the same.
    #[must_use]
    pub fn fixed(client: Client, targets: Vec<Target>, options: PoolOptions) -> Self {
        // The keeper goes on with the last value once the sender is gone.
        Self::new(client, watch::Sender::new(targets).subscribe(), options)
    }

    /// What is known of each connected server.
    #[must_use]
    pub fn servers(&self) -> Vec<ServerStatus> {
        let describe = |status: EndpointStatus<'_, Live>| ServerStatus {
            address: status.endpoint.key.address(),
            in_flight: status.in_flight,
            latency: status.latency,
            failure_share: status.failure_share,
            is_ejected: status.ejected_until.is_some(),
        };
        let state = self.owner.shared.lock();
        state
            .balancer
            .status(Instant::now())
            .map(describe)
            .collect()
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // The balancer's changes are whole before anything that could panic.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes the balancer's set exactly these servers.
    fn set_live(&self, live: Vec<Endpoint<Live>>) {
        self.lock().balancer.update(live);
        self.changed.notify_waiters();
    }

    /// A server for one try, waiting for one while there is none.
    async fn pick(
        self: &Arc<Self>,
        context: &Context,
        tried: &[Live],
        filter: Option<&TagFilter>,
    ) -> Result<InFlight, Status> {
        let begun = Instant::now();
        let mut patience = begun + self.options.wait_for_server;
        if let Some(at) = context.ends_at() {
            patience = patience.min(at);
        }
        loop {
            let changed = self.changed.notified();
            let now = Instant::now();
            let reason = {
                let mut state = self.lock();
                let any = PickRequest {
                    filter,
                    ..PickRequest::default()
                };
                let fresh = PickRequest {
                    exclude: tried,
                    ..any
                };
                // Better a server that was tried before than none.
                let picked = state
                    .balancer
                    .pick(now, &fresh)
                    .or_else(|_| state.balancer.pick(now, &any));
                match picked {
                    Ok(pick) => return Ok(InFlight::new(Arc::clone(self), pick, now)),
                    Err(reason) => reason,
                }
            };
            if tokio::time::timeout_at(patience.into(), changed)
                .await
                .is_err()
            {
                return Err(Status::new(Code::Unavailable, reason.to_string()).not_processed());
            }
        }
    }

    /// Whether a call that failed is tried again, and after how long.
    fn decide(
        &self,
        method: &Method,
        context: &Context,
        tries: u32,
        failure: &Failure,
    ) -> Option<Duration> {
        let now = Instant::now();
        let attempt = Attempt {
            tries,
            exposure: exposure(failure),
            idempotency: if method.idempotent {
                Idempotency::Idempotent
            } else {
                Idempotency::NotIdempotent
            },
            time_left: context.remaining(now),
        };
        let mut state = self.lock();
        let state = &mut *state;
        // Xorshift (Marsaglia 2003): never zero, and jitter needs no better.
        state.jitter ^= state.jitter << 13;
        state.jitter ^= state.jitter >> 7;
        state.jitter ^= state.jitter << 17;
        let decision = self
            .options
            .retry
            .decide(&attempt, &mut state.budget, state.jitter, now);
        match decision {
            RetryDecision::Retry { after } => Some(after),
            RetryDecision::GiveUp(_) => None,
        }
    }

    /// The context of one try: the call's, or shorter where a try has a time-out of its own.
    fn context_of_try(&self, context: &Context) -> Context {
        match self.options.retry.try_timeout {
            Some(timeout) => context.clone().with_deadline(timeout),
            None => context.clone(),
        }
    }
}

/// A call at a server. Dropped without a result it counts as cancelled.
#[derive(Debug)]
struct InFlight {
    shared: Arc<Shared>,
    pick: Option<Pick<Live>>,
    begun: Instant,
}

impl InFlight {
    fn new(shared: Arc<Shared>, pick: Pick<Live>, begun: Instant) -> Self {
        Self {
            shared,
            pick: Some(pick),
            begun,
        }
    }

    fn live(&self) -> Option<&Live> {
        self.pick.as_ref().map(Pick::key)
    }

    fn connection(&self) -> Result<&Connection, Status> {
        // Taken only by `end`, which consumes.
        self.live()
            .map(Live::connection)
            .ok_or_else(|| Status::new(Code::Internal, "a call without a server").not_processed())
    }

    /// The first answer of a stream came.
    fn answered(&mut self) {
        if let Some(pick) = &mut self.pick {
            let now = Instant::now();
            let latency = now.saturating_duration_since(self.begun);
            self.shared.lock().balancer.answered(pick, latency, now);
        }
    }

    fn end(mut self, outcome: Outcome) {
        self.finish(outcome);
    }

    fn finish(&mut self, outcome: Outcome) {
        if let Some(pick) = self.pick.take() {
            let now = Instant::now();
            let latency = now.saturating_duration_since(self.begun);
            self.shared
                .lock()
                .balancer
                .finished(pick, outcome, latency, now);
        }
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.finish(Outcome::Cancelled);
    }
}

/// How far a failed call got.
fn exposure(failure: &Failure) -> Exposure {
    match failure {
        Failure::Application { .. } => Exposure::Answered,
        Failure::Status(status) if status.had_no_effect() => Exposure::Refused,
        Failure::Status(status) => match status.code() {
            Code::Unavailable | Code::DeadlineExceeded => Exposure::Unknown,
            _ => Exposure::Answered,
        },
    }
}

/// What a call's end says of its server.
fn outcome<T>(result: &Result<T, Failure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Success,
        Err(Failure::Application { status, .. } | Failure::Status(status)) => of_status(status),
    }
}

fn of_status(status: &Status) -> Outcome {
    match status.code() {
        _ if status.retry_after().is_some() => Outcome::Overloaded,
        Code::Unavailable if status.had_no_effect() => Outcome::NotSent,
        Code::Unavailable | Code::Internal | Code::DataLoss => Outcome::Failure,
        // Whether the server was slow or the caller in a hurry, the call took at least this long.
        Code::DeadlineExceeded | Code::Cancelled => Outcome::Cancelled,
        _ => Outcome::Success,
    }
}

impl Caller for Pool {
    async fn unary(
        &self,
        method: &Method,
        context: Context,
        request: Bytes,
    ) -> Result<Bytes, Failure> {
        let shared = &self.owner.shared;
        let filter = self.filter.as_deref();
        shared.lock().budget.deposit(Instant::now());
        let mut tried = Vec::new();
        let mut tries = 0;
        loop {
            let call = shared.pick(&context, &tried, filter).await?;
            let server = call.live().cloned();
            tries += 1;
            let result = call
                .connection()?
                .unary(method, shared.context_of_try(&context), request.clone())
                .await;
            call.end(outcome(&result));
            let Err(failure) = result else {
                return result;
            };
            let Some(after) = shared.decide(method, &context, tries, &failure) else {
                return Err(failure);
            };
            tried.extend(server);
            tokio::time::sleep(after.max(asked_to_wait(&failure))).await;
        }
    }

    async fn streaming(
        &self,
        method: &Method,
        context: Context,
        requests: Incoming,
    ) -> Result<Incoming, Status> {
        // Requests are gone once they are sent, so a stream that was begun is not begun again.
        let filter = self.filter.as_deref();
        let call = self.owner.shared.pick(&context, &[], filter).await?;
        let responses = call
            .connection()?
            .streaming(method, context, requests)
            .await;
        match responses {
            Ok(responses) => Ok(counted(call, responses)),
            Err(status) => {
                call.end(of_status(&status));
                Err(status)
            }
        }
    }
}

/// How long the only server there is wants to be left alone. Others are asked at once.
fn asked_to_wait(failure: &Failure) -> Duration {
    match failure {
        Failure::Status(status) => status.retry_after().unwrap_or_default(),
        Failure::Application { .. } => Duration::ZERO,
    }
}

/// Responses that count as a call in flight until they end.
fn counted(call: InFlight, responses: Incoming) -> Incoming {
    Incoming::new(futures::stream::unfold(
        Some((call, responses)),
        |state| async move {
            let (mut call, mut responses) = state?;
            match responses.next().await {
                Some(Ok(message)) => {
                    call.answered();
                    Some((Ok(message), Some((call, responses))))
                }
                Some(Err(status)) => {
                    call.end(of_status(&status));
                    Some((Err(status), None))
                }
                None => {
                    call.end(Outcome::Success);
                    None
                }
            }
        },
    ))
}
