//! Whom blocks are asked of: searching, connecting, asking, dropping.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};
use tracing::{debug, warn};
use warren_identity::PeerId;

use super::super::flights::Claim;
use super::super::{RetrieveError, unix_now};
use super::blocks::blocking;
use super::{Engine, Keep, LEASE, Local, Record, Step};
use crate::core::fetch::{DropReason, Event, FetchFailure, Transmit};
use crate::core::id::BlockId;
use crate::transfer::{BlockClient, ConnectError, SendError};

/// A retrieval that goes on renews its lease this often.
const LEASE_RENEWAL: Duration = Duration::from_secs(3600);
/// Providers connected to per search: several sources at once, without asking the whole mesh.
const CONNECTS_PER_SEARCH: usize = 4;
/// A search for providers ends after this, with what it found.
const SEARCH_TIMEOUT: Duration = Duration::from_secs(20);
/// A connection with a full queue is left alone this long.
const FULL_QUEUE_BACKOFF: Duration = Duration::from_millis(20);

impl Engine {
    pub(super) fn transmit(&mut self, transmit: &Transmit<PeerId>) {
        let Transmit {
            peer,
            ticket,
            block,
            max_bytes,
        } = transmit;
        let now = Instant::now().into_std();
        if self.must_look_again(ticket.0, *block) {
            self.planner.handle_elsewhere(peer, *ticket, now);
            let (index, block, store) = (ticket.0, *block, self.context.store.clone());
            self.work.push(Box::pin(async move {
                let read = blocking(move || store.read_block(block)).await;
                Step::Elsewhere(index, read.and_then(Result::ok).flatten())
            }));
            return;
        }
        if !self.claims.contains_key(&ticket.0) {
            match self.context.flights.claim(*block) {
                Claim::Mine(flight) => {
                    self.claims.insert(ticket.0, flight);
                }
                Claim::Theirs(waiter) => {
                    self.planner.handle_elsewhere(peer, *ticket, now);
                    let index = ticket.0;
                    self.work.push(Box::pin(async move {
                        Step::Elsewhere(index, waiter.wait().await)
                    }));
                    return;
                }
            }
        }
        if let Some(slot) = self.slots.get_mut(&ticket.0) {
            slot.asked_at = Instant::now();
        }
        let sent = match self.clients.get(peer) {
            Some(client) => client.get(*block, *max_bytes, ticket.0, &self.arrival_tx),
            None => Err(SendError::Closed),
        };
        match sent {
            Ok(()) => {}
            Err(SendError::Full) => {
                self.planner
                    .handle_busy(peer, *ticket, FULL_QUEUE_BACKOFF, now);
            }
            Err(SendError::Closed) => {
                self.clients.remove(peer);
                self.planner.handle_disconnected(peer, now);
            }
        }
    }

    /// Whether the block may have come into the store since it was looked up there, for another retrieval; once.
    fn must_look_again(&mut self, index: u64, block: BlockId) -> bool {
        let consults = self.job.local == Local::Consult && !self.claims.contains_key(&index);
        if !consults || !self.context.flights.has_landed(block) {
            return false;
        }
        self.slots
            .get_mut(&index)
            .is_some_and(|slot| !std::mem::replace(&mut slot.looked_again, true))
    }

    pub(super) fn handle_event(&mut self, event: Event<PeerId>) {
        match event {
            Event::NeedProviders => self.search(),
            Event::Dropped { peer, reason } => {
                self.clients.remove(&peer);
                self.log.erred();
                match reason {
                    DropReason::WrongBlock { .. } => self.context.peers.penalise(peer),
                    DropReason::Stalled => {
                        warn!(%peer, "a peer stopped sending: asking others");
                        self.context.peers.discard(&peer);
                    }
                }
            }
            Event::Failed(failure) => self.failure = Some(self.unavailable(&failure)),
        }
    }

    pub(super) fn unavailable(&self, failure: &FetchFailure<PeerId>) -> RetrieveError {
        let mut reason = failure.to_string();
        for (error, _) in self.connect_failures.values().take(4) {
            reason.push_str("; ");
            reason.push_str(&error.to_string());
        }
        RetrieveError::Unavailable {
            target: self.job.target,
            block: failure.block,
            reason,
        }
    }

    pub(super) fn search(&mut self) {
        self.log.begin();
        let providers = Arc::clone(&self.context.providers);
        let target = self.job.target;
        self.work.push(Box::pin(async move {
            Step::Candidates(
                timeout(SEARCH_TIMEOUT, providers.find(target))
                    .await
                    .unwrap_or_default(),
            )
        }));
    }

    pub(super) fn handle_candidates(&mut self, candidates: Vec<PeerId>) {
        let failures = |peer: &PeerId| {
            self.connect_failures
                .get(peer)
                .map_or(0, |(_, count)| *count)
        };
        let mut useful: Vec<PeerId> = Vec::new();
        for peer in candidates {
            let new = self.planner.may_connect(&peer) && !useful.contains(&peer);
            if new && !self.context.peers.is_penalised(&peer) {
                useful.push(peer);
            }
        }
        // Stable: among equals the order of the search counts.
        useful.sort_by_key(failures);
        useful.truncate(CONNECTS_PER_SEARCH);
        debug!(target = %self.job.target, providers = useful.len(), "providers found");
        self.connecting = useful.len();
        for peer in useful {
            let peers = self.context.peers.clone();
            self.work.push(Box::pin(async move {
                Step::Connected(peer, peers.client(peer).await)
            }));
        }
        if self.connecting == 0 {
            self.planner
                .handle_search_finished(Instant::now().into_std());
        }
    }

    pub(super) fn handle_connected(
        &mut self,
        peer: PeerId,
        result: Result<BlockClient, ConnectError>,
    ) {
        self.connecting -= 1;
        let now = Instant::now().into_std();
        match result {
            Ok(client) => {
                self.connect_failures.remove(&peer);
                self.ask_record(&client);
                self.clients.insert(peer, client);
                self.planner.handle_provider(peer, now);
            }
            Err(error) => {
                debug!(%peer, %error, "a provider cannot be used");
                self.log.erred();
                let count = self
                    .connect_failures
                    .get(&peer)
                    .map_or(0, |(_, count)| *count);
                self.connect_failures.insert(peer, (error, count + 1));
            }
        }
        if self.connecting == 0 {
            self.planner.handle_search_finished(now);
        }
    }

    /// A document that will be listed is listed with its record, if a provider has it. Each is asked: one that holds the
    /// document need not have its record.
    pub(super) fn ask_record(&mut self, client: &BlockClient) {
        let (Record::Wanted, BlockId::Manifest(document), None) =
            (self.job.record, self.job.target, &self.record)
        else {
            return;
        };
        let client = client.clone();
        self.work.push(Box::pin(async move {
            let record = client.record(document).await;
            Step::Record(record.unwrap_or_else(|error| {
                debug!(%error, "the document's record is not to be had from this peer");
                None
            }))
        }));
    }

    pub(super) fn renew_lease_later(&self) {
        self.work.push(Box::pin(async {
            sleep(LEASE_RENEWAL).await;
            Step::LeaseDue
        }));
    }

    pub(super) fn renew_lease(&self) {
        if let (Keep::Lease(_), BlockId::Manifest(document)) = (&self.job.keep, self.job.target) {
            let store = self.context.store.clone();
            self.work.push(Box::pin(async move {
                if let Err(error) = store.begin_retrieval(document, unix_now(LEASE)).await {
                    warn!(%document, %error, "the lease of a retrieval cannot be renewed");
                }
                Step::Nothing
            }));
        }
    }
}
