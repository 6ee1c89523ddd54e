//! For whom a call is made, where directors stand in between.

use warren_identity::{Capability, PeerId};
use warren_rpc::Context;

/// Metadata: the member that called the director. Believed only of a peer whose leaf has the director capability.
pub const ON_BEHALF_OF: &str = "on-behalf-of";

/// The member a call is made for: who called, or whom a calling director names.
///
/// `None` at the caller, where nobody called yet.
#[must_use]
pub fn origin(context: &Context) -> Option<PeerId> {
    let caller = context.caller()?;
    let named = context
        .metadata(ON_BEHALF_OF)
        .filter(|_| is_director(context))
        .and_then(|named| named.parse().ok());
    Some(named.unwrap_or(caller.peer_id))
}

/// Whether the peer that called may speak for others.
pub(crate) fn is_director(context: &Context) -> bool {
    context
        .caller()
        .is_some_and(|caller| caller.allows(&Capability::Director))
}
