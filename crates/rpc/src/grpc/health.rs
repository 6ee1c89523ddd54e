//! `grpc.health.v1.Health`: whether the server, or one of its services, takes calls.

use std::sync::Weak;

use futures::{Stream, stream};
use tokio::sync::watch;
use warren_rpc_macros::service;

use self::messages::health_check_response::ServingStatus;
use self::messages::{HealthCheckRequest, HealthCheckResponse};
use crate::context::Context;
use crate::server::{Phase, Shared};
use crate::status::{Code, Status};

#[expect(unreachable_pub, clippy::all, reason = "written by `prost-build`")]
pub(super) mod messages {
    include!(concat!(env!("OUT_DIR"), "/grpc.health.v1.rs"));
}

/// As gRPC clients, balancers and orchestrators ask every server.
#[service(package = "grpc.health.v1", codec = prost)]
pub(super) trait Health {
    /// How a service is now.
    #[rpc(idempotent)]
    async fn check(
        &self,
        ctx: Context,
        request: HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Status>;

    /// How a service is now, and every change.
    #[rpc(idempotent)]
    async fn watch(
        &self,
        ctx: Context,
        request: HealthCheckRequest,
    ) -> impl Stream<Item = Result<HealthCheckResponse, Status>>;
}

/// The health of one server.
pub(super) struct HealthOfServer(Weak<Shared>);

impl HealthOfServer {
    pub(super) const fn new(server: Weak<Shared>) -> Self {
        Self(server)
    }

    /// How a service is; the empty name is the whole server's. A server that is gone takes no calls.
    fn of(&self, service: &str) -> ServingStatus {
        let Some(server) = self.0.upgrade() else {
            return ServingStatus::NotServing;
        };
        if !service.is_empty() && !server.router.load().has_service(service) {
            return ServingStatus::ServiceUnknown;
        }
        match *server.phase.borrow() {
            Phase::Serving => ServingStatus::Serving,
            Phase::Draining | Phase::Stopped => ServingStatus::NotServing,
        }
    }
}

impl Health for HealthOfServer {
    async fn check(
        &self,
        _: Context,
        request: HealthCheckRequest,
    ) -> Result<HealthCheckResponse, Status> {
        match self.of(&request.service) {
            ServingStatus::ServiceUnknown => Err(Status::new(
                Code::NotFound,
                format!("no service `{}` here", request.service),
            )),
            status => Ok(response(status)),
        }
    }

    async fn watch(
        &self,
        _: Context,
        request: HealthCheckRequest,
    ) -> impl Stream<Item = Result<HealthCheckResponse, Status>> {
        let changes = self.0.upgrade().map(|server| Changes {
            phase: server.phase.subscribe(),
            registered: server.grpc.registered.subscribe(),
            last: None,
            service: request.service,
        });
        stream::unfold(changes, async |changes| {
            let mut changes = changes?;
            let status = loop {
                let status = self.of(&changes.service);
                if changes.last != Some(status) {
                    break status;
                }
                if !changes.next().await {
                    // The connection ends soon; a client that watches on does so elsewhere.
                    let farewell = Status::new(Code::Unavailable, "the server is shutting down");
                    return Some((Err(farewell), None));
                }
            };
            changes.last = Some(status);
            Some((Ok(response(status)), Some(changes)))
        })
    }
}

/// What can change how a service is.
struct Changes {
    service: String,
    phase: watch::Receiver<Phase>,
    registered: watch::Receiver<()>,
    /// What the client knows.
    last: Option<ServingStatus>,
}

impl Changes {
    /// Waits for a change; `false` when none comes that matters: the server drains, and the client knows.
    async fn next(&mut self) -> bool {
        if *self.phase.borrow_and_update() != Phase::Serving {
            return false;
        }
        tokio::select! {
            changed = self.phase.changed() => changed.is_ok(),
            changed = self.registered.changed() => changed.is_ok(),
        }
    }
}

fn response(status: ServingStatus) -> HealthCheckResponse {
    let status = status.into();
    HealthCheckResponse { status }
}
