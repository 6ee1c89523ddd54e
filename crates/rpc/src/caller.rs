//! What a client calls through: [`Caller`], implemented by a [`Connection`](crate::Connection) to one server and by a
//! pool of them.

use std::future::Future;

use bytes::Bytes;

use crate::context::Context;
use crate::descriptor::Method;
use crate::service::Failure;
use crate::status::Status;
use crate::streaming::Incoming;

/// Carries calls to wherever they are answered. Clones are handles to the same connections.
pub trait Caller: Clone + Send + Sync + 'static {
    /// Makes a unary call. Dropping the future cancels the call at the server.
    ///
    /// # Errors
    /// [`Failure`]: the handler's own error or the machinery's.
    fn unary(
        &self,
        method: &Method,
        context: Context,
        request: Bytes,
    ) -> impl Future<Output = Result<Bytes, Failure>> + Send;

    /// Makes a call of any other kind: sends what `requests` yields as fast as the server takes it, and gives the
    /// responses. Dropping them cancels the call at the server.
    ///
    /// # Errors
    /// [`Status`] when the call could not be begun; later failures end the stream of responses.
    fn streaming(
        &self,
        method: &Method,
        context: Context,
        requests: Incoming,
    ) -> impl Future<Output = Result<Incoming, Status>> + Send;
}
