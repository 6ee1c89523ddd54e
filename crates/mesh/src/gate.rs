//! What admission needs to know and whom it tells: shared by all connections being set up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use libp2p::{Multiaddr, PeerId};
use warren_identity::{CertificateDer, Member, NodeRecord, Refusal, Signed, Trust, UnixTime};
use warren_telemetry::{DisconnectReason, NetworkMetrics};

use crate::config::AdmissionPolicy;
use crate::core::admission::{AdmissionError, Admitted, ListNumbers, Presented};
use crate::desk::AdmissionDesk;
use crate::metrics::MeshMetrics;
use crate::traffic::TrafficTable;

/// That another node answers at an address is said again after this long.
const WRONG_PEER_REMINDER: Duration = Duration::from_secs(6 * 3600);
/// Such addresses remembered; what happens at more is said each time.
const MAX_WRONG_PEERS: usize = 1024;

pub(crate) struct Gate {
    pub(crate) trust: Trust,
    pub(crate) desk: Arc<AdmissionDesk>,
    pub(crate) network: NetworkMetrics,
    pub(crate) metrics: MeshMetrics,
    policy: AdmissionPolicy,
    timeout: Duration,
    traffic: Arc<TrafficTable>,
    record: RwLock<Signed<NodeRecord>>,
    /// Where another node than the one that was dialled answers, and since when that is known.
    moved_in: Mutex<BTreeMap<(PeerId, Multiaddr), Instant>>,
    /// Kept as short as `core::conduct` keeps its own.
    banned: RwLock<BTreeSet<PeerId>>,
}

impl Gate {
    pub(crate) fn new(
        trust: Trust,
        record: Signed<NodeRecord>,
        policy: AdmissionPolicy,
        timeout: Duration,
        metrics: MeshMetrics,
        network: NetworkMetrics,
    ) -> Self {
        Self {
            trust,
            desk: Arc::default(),
            traffic: Arc::new(TrafficTable::new(network.clone())),
            network,
            metrics,
            policy,
            timeout,
            record: RwLock::new(record),
            moved_in: Mutex::default(),
            banned: RwLock::default(),
        }
    }

    pub(crate) fn policy(&self) -> AdmissionPolicy {
        self.policy
    }

    pub(crate) fn timeout(&self) -> Duration {
        self.timeout
    }

    pub(crate) fn traffic(&self) -> Arc<TrafficTable> {
        self.traffic.clone()
    }

    pub(crate) fn record(&self) -> Signed<NodeRecord> {
        self.record
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_record(&self, record: Signed<NodeRecord>) {
        *self.record.write().unwrap_or_else(PoisonError::into_inner) = record;
    }

    /// Keeps a peer out until [`Self::lift_ban`].
    pub(crate) fn ban(&self, peer: PeerId) {
        self.banned
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(peer);
    }

    pub(crate) fn lift_ban(&self, peer: &PeerId) {
        self.banned
            .write()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(peer);
    }

    pub(crate) fn is_banned(&self, peer: &PeerId) -> bool {
        self.banned
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(peer)
    }

    /// Our certificates, DER, leaf first.
    pub(crate) fn chain(&self) -> Vec<Vec<u8>> {
        self.trust.chain().iter().map(|der| der.to_vec()).collect()
    }

    /// The numbers of the revocation lists in force.
    pub(crate) fn list_numbers(&self) -> ListNumbers {
        let revocations = self.trust.revocations();
        revocations
            .lists()
            .iter()
            .map(|list| (list.issuer_key_hash(), list.number()))
            .collect()
    }

    pub(crate) fn presented(&self) -> Presented {
        Presented {
            chain: self.chain(),
            revocations: self.list_numbers(),
            record: self.record(),
        }
    }

    /// Decides over certificates as of now.
    pub(crate) fn verify(&self, chain: &[Vec<u8>]) -> Result<Member, Refusal> {
        let chain: Vec<CertificateDer<'_>> = chain
            .iter()
            .map(|der| CertificateDer::from(der.as_slice()))
            .collect();
        self.trust.verify(&chain, UnixTime::now())
    }

    /// Decides over a member of a live session as of now.
    pub(crate) fn recheck(&self, member: &Member) -> Result<(), Refusal> {
        self.trust.recheck(member, UnixTime::now())
    }

    pub(crate) fn admitted(&self, admitted: Admitted) {
        self.desk.leave(admitted);
    }

    pub(crate) fn refused(&self, peer: PeerId, address: &Multiaddr, error: &AdmissionError) {
        let reason = error.label();
        self.metrics.refused(reason);
        self.network.refused(DisconnectReason(reason));
        let is_old_news = match error {
            // Whoever dials several addresses at once hangs up on all but the first that answers.
            AdmissionError::Closed => true,
            AdmissionError::WrongPeer(_) => self.has_moved_in(peer, address, Instant::now()),
            _ => false,
        };
        if is_old_news {
            tracing::debug!(%peer, %address, reason, "connection refused: {error}");
        } else {
            tracing::warn!(%peer, %address, reason, "connection refused: {error}");
        }
    }

    /// Whether it was said in the last while that `peer` answers there in another's place. A machine that has a new key is
    /// dialled under the old one until everybody has forgotten that.
    fn has_moved_in(&self, peer: PeerId, address: &Multiaddr, now: Instant) -> bool {
        let mut moved_in = self.moved_in.lock().unwrap_or_else(PoisonError::into_inner);
        moved_in.retain(|_, since| now.saturating_duration_since(*since) < WRONG_PEER_REMINDER);
        let place = (peer, address.clone());
        if moved_in.contains_key(&place) {
            return true;
        }
        if moved_in.len() < MAX_WRONG_PEERS {
            moved_in.insert(place, now);
        }
        false
    }
}
