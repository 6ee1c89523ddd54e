//! What admission needs to know and whom it tells: shared by all connections being set up.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use libp2p::{Multiaddr, PeerId};
use warren_identity::{CertificateDer, Member, NodeRecord, Refusal, Signed, Trust, UnixTime};
use warren_telemetry::{DisconnectReason, NetworkMetrics};

use crate::config::AdmissionPolicy;
use crate::core::admission::{AdmissionError, Admitted, ListNumbers, Presented};
use crate::desk::AdmissionDesk;
use crate::metrics::MeshMetrics;
use crate::traffic::TrafficTable;

pub(crate) struct Gate {
    pub(crate) trust: Trust,
    pub(crate) desk: Arc<AdmissionDesk>,
    pub(crate) network: NetworkMetrics,
    pub(crate) metrics: MeshMetrics,
    policy: AdmissionPolicy,
    timeout: Duration,
    traffic: Arc<TrafficTable>,
    record: RwLock<Signed<NodeRecord>>,
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
        if matches!(error, AdmissionError::Closed) {
            // Whoever dials several addresses at once hangs up on all but the first that answers.
            tracing::debug!(%peer, %address, reason, "{error}");
        } else {
            tracing::warn!(%peer, %address, reason, "connection refused: {error}");
        }
    }
}
