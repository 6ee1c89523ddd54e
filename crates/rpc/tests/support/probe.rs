//! A service that tells what it was called with.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::{Stream, stream};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;
use warren_rpc::{Client, ClientOptions, Code, Connection, Context, Status, Streaming};

/// What a handler was told beside its request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct About {
    pub caller: String,
    pub subject: Option<String>,
    pub request_id: Option<String>,
    pub trace_parent: Option<String>,
    pub idempotency_key: Option<String>,
}

#[warren_rpc::service(package = "test.v1")]
pub trait Probe {
    /// The same bytes.
    async fn echo(&self, ctx: Context, bytes: Vec<u8>) -> Result<Vec<u8>, Status>;
    /// What came along.
    async fn about(&self, ctx: Context, request: ()) -> Result<About, Status>;
    /// The same, for those who may.
    #[rpc(permission = "probe:guarded")]
    async fn guarded(&self, ctx: Context, request: ()) -> Result<About, Status>;
    /// Counts executions; waits for leave where there is none; 13 fails.
    async fn pay(&self, ctx: Context, amount: u32) -> Result<u32, Status>;
    /// So many bytes.
    async fn inflate(&self, ctx: Context, bytes: u32) -> Result<String, Status>;
    /// Panics, at once or after a while.
    async fn crash(&self, ctx: Context, later: bool) -> Result<(), Status>;
    /// Asks the next server what came along.
    async fn pass_on(&self, ctx: Context, request: ()) -> Result<About, Status>;
    /// Numbers up to the last.
    async fn count(&self, ctx: Context, last: u32) -> impl Stream<Item = Result<u32, Status>>;
    /// How many messages there were.
    async fn gather(&self, ctx: Context, parts: Streaming<Vec<u8>>) -> Result<u32, Status>;
}

/// Its state, seen by the test.
#[derive(Clone)]
pub struct MyProbe {
    pub paid: Arc<AtomicUsize>,
    /// A permit lets one payment through.
    pub leave: Arc<Semaphore>,
    pub next: Option<Connection>,
}

impl Default for MyProbe {
    fn default() -> Self {
        Self {
            paid: Arc::default(),
            leave: Arc::new(Semaphore::new(Semaphore::MAX_PERMITS)),
            next: None,
        }
    }
}

fn about(ctx: &Context) -> About {
    About {
        caller: ctx.caller().unwrap().peer_id.to_string(),
        subject: ctx
            .claims()
            .and_then(|claims| claims.subject())
            .map(str::to_owned),
        request_id: ctx.request_id().map(str::to_owned),
        trace_parent: ctx.trace_parent().map(|parent| parent.to_string()),
        idempotency_key: ctx.metadata("idempotency-key").map(str::to_owned),
    }
}

impl Probe for MyProbe {
    async fn echo(&self, _: Context, bytes: Vec<u8>) -> Result<Vec<u8>, Status> {
        Ok(bytes)
    }

    async fn about(&self, ctx: Context, (): ()) -> Result<About, Status> {
        Ok(about(&ctx))
    }

    async fn guarded(&self, ctx: Context, (): ()) -> Result<About, Status> {
        Ok(about(&ctx))
    }

    async fn pay(&self, _: Context, amount: u32) -> Result<u32, Status> {
        let number = self.paid.fetch_add(1, Ordering::SeqCst) + 1;
        self.leave.acquire().await.unwrap().forget();
        if amount == 13 {
            return Err(Status::new(Code::FailedPrecondition, "no luck"));
        }
        Ok(number as u32)
    }

    async fn inflate(&self, _: Context, bytes: u32) -> Result<String, Status> {
        Ok("x".repeat(bytes as usize))
    }

    async fn crash(&self, _: Context, later: bool) -> Result<(), Status> {
        if later {
            tokio::task::yield_now().await;
        }
        panic!("as the test wants it");
    }

    async fn pass_on(&self, ctx: Context, (): ()) -> Result<About, Status> {
        let next = self.next.clone().unwrap();
        ProbeClient::new(next).about(ctx, ()).await
    }

    async fn count(&self, _: Context, last: u32) -> impl Stream<Item = Result<u32, Status>> {
        stream::iter((1..=last).map(Ok))
    }

    async fn gather(&self, _: Context, mut parts: Streaming<Vec<u8>>) -> Result<u32, Status> {
        let mut count = 0;
        while let Some(part) = parts.message().await {
            part?;
            count += 1;
        }
        Ok(count)
    }
}

/// A client of the server at `address`, as a new member.
pub async fn client(
    organization: &super::Organization,
    address: std::net::SocketAddr,
) -> ProbeClient<Connection> {
    ProbeClient::new(organization.connect(address).await)
}

/// A client that is the member of `trust`.
pub async fn client_as(
    trust: &warren_identity::Trust,
    address: std::net::SocketAddr,
) -> ProbeClient<Connection> {
    let client = Client::new(trust.clone(), ClientOptions::default()).unwrap();
    let anyone = warren_identity::tls::ExpectedPeer::AnyMember;
    ProbeClient::new(client.connect(address, anyone).await.unwrap())
}
