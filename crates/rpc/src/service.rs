//! What a server calls: [`Service`], implemented by the code that `#[warren_rpc::service]` writes, and the table of
//! methods that calls are looked up in.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use bytes::Bytes;

use crate::context::Context;
use crate::descriptor::{Encoding, Kind, Method, ServiceDescriptor};
use crate::status::{Code, Status};
use crate::streaming::{Incoming, Outgoing};

/// A boxed future, as handlers are once their types are forgotten.
pub type BoxFuture<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// Why a handler did not answer well.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Failure {
    /// The service's own error, encoded by the service's codec.
    Application {
        /// The error as the caller's type decodes it.
        encoded: Bytes,
        /// The same for callers that do not know the type: gRPC's, logs.
        status: Status,
    },
    /// The machinery's.
    Status(Status),
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::Status(status)
    }
}

impl From<Failure> for Status {
    /// What is left of a failure where the service's own error is not known: its code and its text.
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Application { status, .. } | Failure::Status(status) => status,
        }
    }
}

/// An error of a service's own, as its methods return it: one line, `impl ApplicationError for MyError {}`, makes any
/// error one that the service's codec can carry. Callers that know the type get it whole; others, gRPC's among them, get
/// its code and its text.
#[diagnostic::on_unimplemented(
    message = "`{Self}` cannot be the error of a service's method yet",
    note = "write `impl warren_rpc::ApplicationError for {Self} {{}}`; it must be a `std::error::Error` that the \
            service's codec can carry"
)]
pub trait ApplicationError: std::error::Error {
    /// What kind of failure it is, for callers that do not know the type and for metrics.
    fn code(&self) -> Code {
        Code::Unknown
    }
}

impl<E: ApplicationError> From<E> for Status {
    /// So that `?` takes a service's own errors where a method fails with [`Status`]: in what streams yield.
    fn from(error: E) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

/// A service without its types: messages are bytes, methods are indices into [`ServiceDescriptor::methods`].
pub trait Service: Send + Sync + 'static {
    /// Its name and methods.
    fn descriptor(&self) -> &'static ServiceDescriptor;

    /// Carries out a unary method. The future is polled once at the place where the call was read; only if it is not
    /// ready then does it get a task. It is dropped when the caller gives up or the deadline passes. A [`Status`] that says
    /// it had no effect is believed, and the call is made again elsewhere: never pass one on from a call of the handler's.
    fn unary(
        &self,
        method: usize,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>>;

    /// Carries out a method of any other kind: takes requests from `incoming`, puts responses into `outgoing`, and is
    /// over when the future is. Dropped as [`Service::unary`].
    fn streaming(
        &self,
        method: usize,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>>;
}

/// What takes the calls of methods that no registered service has: a director that passes them on.
pub trait Fallback: Send + Sync + 'static {
    /// Carries out a call that came on a lane: one request, one response. Dropped as [`Service::unary`].
    fn unary(
        &self,
        path: &str,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>>;

    /// Carries out a call that came on a stream of its own, of whatever kind. Dropped as [`Service::unary`].
    fn streaming(
        &self,
        path: &str,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>>;
}

/// Where the calls of one path go.
#[derive(Clone)]
pub(crate) enum Route {
    /// To a method of a registered service.
    Method {
        service: Arc<dyn Service>,
        index: usize,
        method: &'static Method,
    },
    /// To whoever takes the rest.
    Fallback {
        fallback: Arc<dyn Fallback>,
        path: Arc<str>,
    },
}

/// Every method a server has, by path.
#[derive(Clone, Default)]
pub(crate) struct Router {
    routes: BTreeMap<&'static str, Route>,
    fallback: Option<Arc<dyn Fallback>>,
}

impl Router {
    /// Adds a service; one of the same name is replaced.
    pub(crate) fn register(&mut self, service: Arc<dyn Service>) {
        for (index, method) in service.descriptor().methods.iter().enumerate() {
            let service = Arc::clone(&service);
            let route = Route::Method {
                service,
                index,
                method,
            };
            self.routes.insert(&*method.path, route);
        }
    }

    /// Gives the calls of all other paths to `fallback`.
    pub(crate) fn set_fallback(&mut self, fallback: Arc<dyn Fallback>) {
        self.fallback = Some(fallback);
    }

    /// Whether a service is registered, by its name.
    pub(crate) fn has_service(&self, name: &str) -> bool {
        self.services().any(|service| service.name == name)
    }

    /// The names of the services that gRPC clients can call.
    pub(crate) fn protobuf_services(&self) -> BTreeSet<&'static str> {
        self.services()
            .filter(|service| service.encoding == Encoding::Protobuf)
            .map(|service| service.name)
            .collect()
    }

    /// Each service as often as it has methods.
    fn services(&self) -> impl Iterator<Item = &'static ServiceDescriptor> {
        self.routes.values().filter_map(|route| match route {
            Route::Method { service, .. } => Some(service.descriptor()),
            Route::Fallback { .. } => None,
        })
    }

    pub(crate) fn get(&self, path: &str) -> Option<Route> {
        let registered = self.routes.get(path).cloned();
        registered.or_else(|| {
            let fallback = Arc::clone(self.fallback.as_ref()?);
            let path = path.into();
            Some(Route::Fallback { fallback, path })
        })
    }
}

impl Route {
    /// Whether calls may come on a lane, as one request that has one response.
    pub(crate) fn takes_lanes(&self) -> bool {
        match self {
            Self::Method { method, .. } => method.kind == Kind::Unary,
            Self::Fallback { .. } => true,
        }
    }

    /// How many messages go each way; what is passed on may be of any kind.
    pub(crate) fn kind(&self) -> Kind {
        match self {
            Self::Method { method, .. } => method.kind,
            Self::Fallback { .. } => Kind::Bidirectional,
        }
    }

    /// `service/method`.
    pub(crate) fn path(&self) -> &str {
        match self {
            Self::Method { method, .. } => &method.path,
            Self::Fallback { path, .. } => path,
        }
    }

    /// Whether a call on a stream of its own has one request and one response all the same.
    pub(crate) fn is_unary(&self) -> bool {
        match self {
            Self::Method { method, .. } => method.kind == Kind::Unary,
            Self::Fallback { .. } => false,
        }
    }

    pub(crate) fn unary(
        &self,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        match self {
            Self::Method { service, index, .. } => service.unary(*index, context, request),
            Self::Fallback { fallback, path } => fallback.unary(path, context, request),
        }
    }

    pub(crate) fn streaming(
        &self,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        match self {
            Self::Method { service, index, .. } => {
                service.streaming(*index, context, incoming, outgoing)
            }
            Self::Fallback { fallback, path } => {
                fallback.streaming(path, context, incoming, outgoing)
            }
        }
    }
}
