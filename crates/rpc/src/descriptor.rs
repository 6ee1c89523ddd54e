//! What is known of a service and its methods before any call: names, kinds, promises.

use std::borrow::Cow;

/// How many messages go each way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Kind {
    /// One request, one response.
    Unary,
    /// One request, a stream of responses.
    ServerStreaming,
    /// A stream of requests, one response.
    ClientStreaming,
    /// A stream each way.
    Bidirectional,
}

/// One method.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Method {
    /// `service/method`, 1 to 255 bytes; what travels, and a gRPC path without its first slash.
    pub path: Cow<'static, str>,
    /// How many messages go each way.
    pub kind: Kind,
    /// Whether carrying it out twice is as good as once, so that it may be tried again when nobody knows.
    pub idempotent: bool,
    /// The permission that the caller's token must hold, if any.
    pub permission: Option<Cow<'static, str>>,
}

/// How a service's messages are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Encoding {
    /// By [`Postcard`](crate::Postcard).
    Postcard,
    /// By [`Prost`](crate::Prost): what gRPC clients speak.
    Protobuf,
}

/// A service: its name and its methods in the order of their indices.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceDescriptor {
    /// Package and name, e.g. `calculator.v1.Calculator`.
    pub name: &'static str,
    /// How its messages are written.
    pub encoding: Encoding,
    /// The methods; a [`Service`](crate::Service) is called by index into them.
    pub methods: &'static [Method],
}
