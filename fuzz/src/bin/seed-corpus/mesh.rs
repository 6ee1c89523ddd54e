//! Seeds from `warren-mesh`, which makes them itself: its messages are its own business.

use warren_fuzz::targets::mesh::parties;

use super::Seeds;

/// The seeds of this crate's targets.
pub(crate) fn seeds() -> Vec<(&'static str, Seeds)> {
    warren_mesh::fuzz::seeds(parties())
}
