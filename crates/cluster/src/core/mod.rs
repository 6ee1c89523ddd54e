//! What decides and touches nothing: the frames of a link, which link to send on, whom to dial, whom to let in, and
//! whose credentials are known.

pub(crate) mod dials;
pub(crate) mod frame;
pub(crate) mod gate;
pub(crate) mod links;
pub(crate) mod seed;
pub(crate) mod tags;
pub(crate) mod vault;
