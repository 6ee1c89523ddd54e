//! What one retrieval took from peers, in the synchronisation log: a line when it first needs them and one when it ends.

use std::collections::BTreeMap;

use tokio::time::Instant;
use tracing::info;
use warren_identity::PeerId;
use warren_telemetry::logging::SYNC_TARGET;

use super::RetrieveError;
use crate::core::id::BlockId;

/// Peers named in a line; the others are only counted.
const MAX_NAMED: usize = 8;

/// One retrieval. One that needs no peer leaves no line.
pub(super) struct SyncLog {
    document: BlockId,
    begun: Option<Instant>,
    /// Blocks by who gave them.
    givers: BTreeMap<PeerId, u64>,
    bytes: u64,
    errors: u64,
    outcome: String,
}

impl SyncLog {
    pub(super) fn new(document: BlockId) -> Self {
        Self {
            document,
            begun: None,
            givers: BTreeMap::new(),
            bytes: 0,
            errors: 0,
            outcome: "broken off".to_owned(),
        }
    }

    /// Peers are looked for; only the first time counts.
    pub(super) fn begin(&mut self) {
        if self.begun.is_none() {
            self.begun = Some(Instant::now());
            info!(target: SYNC_TARGET, document = %self.document, "sync started");
        }
    }

    /// A good block of `bytes` stored bytes came from `peer`.
    pub(super) fn took(&mut self, peer: PeerId, bytes: usize) {
        *self.givers.entry(peer).or_default() += 1;
        self.bytes += bytes as u64;
    }

    /// A peer could not be reached, stalled or sent something wrong.
    pub(super) fn erred(&mut self) {
        self.errors += 1;
    }

    pub(super) fn done(&mut self) {
        "done".clone_into(&mut self.outcome);
    }

    pub(super) fn failed(&mut self, error: &RetrieveError) {
        self.outcome = error.to_string();
    }
}

impl Drop for SyncLog {
    fn drop(&mut self) {
        let Some(begun) = self.begun else { return };
        let mut peers: Vec<String> = self
            .givers
            .iter()
            .take(MAX_NAMED)
            .map(|(peer, blocks)| format!("{peer}:{blocks}"))
            .collect();
        if self.givers.len() > MAX_NAMED {
            peers.push(format!("and {} more", self.givers.len() - MAX_NAMED));
        }
        info!(
            target: SYNC_TARGET,
            document = %self.document,
            outcome = self.outcome,
            peers = peers.join(","),
            blocks = self.givers.values().sum::<u64>(),
            bytes = self.bytes,
            errors = self.errors,
            milliseconds = u64::try_from(begun.elapsed().as_millis()).unwrap_or(u64::MAX),
            "sync ended"
        );
    }
}
