//! Sync requests, ours and others'.

use std::sync::Arc;
use std::time::Instant;

use futures::FutureExt as _;
use libp2p::PeerId;
use libp2p::request_response::{self, Message, OutboundFailure, ResponseChannel};
use tokio::sync::{mpsc::error::TrySendError, oneshot};
use warren_identity::{NodeRecord, Signed};

use crate::core::conduct::Offence;
use crate::core::gossip::Announcement;
use crate::error::RequestError;
use crate::handle::HaveQuery;
use crate::node::{Asked, Node, jitter};
use crate::sync::{
    ListNumber, MAX_MEMBERS, MemberProof, SyncRequest, SyncResponse, WireRequest, WireResponse,
};

/// Requests of ours under way at once.
const MAX_ASKED: usize = 4_096;

impl Node {
    pub(super) fn ask_peer(
        &mut self,
        peer: PeerId,
        request: SyncRequest,
        reply: oneshot::Sender<Result<SyncResponse, RequestError>>,
    ) {
        if self.asked.len() >= MAX_ASKED {
            let reason = format!("{MAX_ASKED} requests are already under way");
            let _ = reply.send(Err(RequestError::Broken { peer, reason }));
            return;
        }
        let addresses = self.dialable(&peer, self.table.addresses(&peer));
        let sync = self.swarm.behaviour_mut().sync.inner_mut();
        let id = sync.send_request_with_addresses(&peer, request.into(), addresses);
        self.asked.insert(id, Asked::Caller(peer, reply));
    }

    fn ask_for_ourselves(&mut self, peer: PeerId, request: SyncRequest) {
        if self.asked.len() < MAX_ASKED {
            let id = self
                .swarm
                .behaviour_mut()
                .sync
                .inner_mut()
                .send_request(&peer, request.into());
            self.asked.insert(id, Asked::Ourselves);
        }
    }

    pub(super) fn fetch_revocations(&mut self, peer: PeerId) {
        let have = self.gate.list_numbers();
        self.ask_for_ourselves(peer, SyncRequest::Revocations { have });
    }

    /// Now and then asks a member, another each time, for lists that are newer than ours.
    pub(super) fn compare_lists(&mut self, now: Instant) {
        if now.saturating_duration_since(self.lists_compared_at)
            < self.config.compare_lists_interval
        {
            return;
        }
        self.lists_compared_at = now;
        let members: Vec<PeerId> = self.table.connected_members().collect();
        let at = (jitter() * members.len() as f64) as usize;
        if let Some(peer) = members.get(at) {
            self.fetch_revocations(*peer);
        }
    }

    pub(super) fn fetch_members(&mut self, peer: PeerId) {
        self.ask_for_ourselves(peer, SyncRequest::Members);
    }

    pub(super) fn send_record_to_all(&mut self) {
        let record = Arc::new(self.gate.record());
        let peers: Vec<PeerId> = self.table.connected_members().collect();
        for peer in peers {
            self.ask_for_ourselves(
                peer,
                SyncRequest::Record {
                    record: record.clone(),
                },
            );
        }
    }

    pub(super) fn on_sync(&mut self, event: request_response::Event<WireRequest, WireResponse>) {
        match event {
            request_response::Event::Message { peer, message, .. } => match message {
                Message::Request {
                    request, channel, ..
                } => self.on_request(peer, request, channel),
                Message::Response {
                    request_id,
                    response,
                } => match self.asked.remove(&request_id) {
                    Some(Asked::Caller(_, reply)) => {
                        let outcome = response
                            .into_response()
                            .map_err(|reason| RequestError::Refused { peer, reason });
                        let _ = reply.send(outcome);
                    }
                    Some(Asked::Ourselves) => self.on_answer(peer, response),
                    None => {}
                },
            },
            request_response::Event::OutboundFailure {
                request_id,
                error,
                peer,
                ..
            } => match self.asked.remove(&request_id) {
                Some(Asked::Caller(peer, reply)) => {
                    let _ = reply.send(Err(request_error(peer, error)));
                }
                _ => tracing::debug!(%peer, %error, "a sync request of ours failed"),
            },
            request_response::Event::InboundFailure { peer, error, .. } => {
                tracing::debug!(%peer, %error, "a sync request was not answered");
            }
            request_response::Event::ResponseSent { .. } => {}
        }
    }

    fn on_request(
        &mut self,
        peer: PeerId,
        request: WireRequest,
        channel: ResponseChannel<WireResponse>,
    ) {
        if !self.limiter.admit(peer, Instant::now()) {
            self.metrics.request("limited");
            self.answer(
                channel,
                WireResponse::error("too many requests; wait a second"),
            );
            self.penalize(peer, Offence::TooManyRequests);
            return;
        }
        let response = match request.into_request() {
            Err(error) => {
                self.metrics.request("unknown");
                WireResponse::error(error)
            }
            Ok(SyncRequest::Have { documents }) => {
                self.pass_on(peer, documents, channel);
                return;
            }
            Ok(SyncRequest::Revocations { have }) => self.newer_lists(&have).into(),
            Ok(SyncRequest::Record { record }) => {
                self.take_record(peer, record);
                SyncResponse::Record(Arc::new(self.gate.record())).into()
            }
            Ok(SyncRequest::Members) => self.known_members().into(),
        };
        self.metrics.request("answered");
        self.answer(channel, response);
    }

    /// Hands a have-query to the daemon; the answer comes back through `owed`.
    fn pass_on(
        &mut self,
        peer: PeerId,
        documents: Vec<String>,
        channel: ResponseChannel<WireResponse>,
    ) {
        let Some(member) = self.table.member(&peer) else {
            self.answer(channel, WireResponse::error("not a member"));
            return;
        };
        let asked = documents.len();
        let (answer, answered) = oneshot::channel();
        let query = HaveQuery {
            peer,
            member,
            documents,
            answer,
        };
        match self.queries.try_send(query) {
            Ok(()) => {
                self.metrics.request("answered");
                let timeout = self.config.request_timeout;
                let owed = async move {
                    let response = match tokio::time::timeout(timeout, answered).await {
                        Ok(Ok(held)) if held.len() == asked => SyncResponse::Have(held).into(),
                        _ => WireResponse::error("not answered here"),
                    };
                    (channel, response)
                };
                self.owed.push(owed.boxed());
            }
            Err(TrySendError::Full(_)) => {
                self.metrics.request("overloaded");
                self.answer(channel, WireResponse::error("busy; ask again later"));
            }
            Err(TrySendError::Closed(_)) => {
                self.metrics.request("unknown");
                self.answer(
                    channel,
                    WireResponse::error("this node serves no documents"),
                );
            }
        }
    }

    pub(super) fn answer(
        &mut self,
        channel: ResponseChannel<WireResponse>,
        response: WireResponse,
    ) {
        // Fails only if the connection is gone; the peer sees that itself.
        let _ = self
            .swarm
            .behaviour_mut()
            .sync
            .inner_mut()
            .send_response(channel, response);
    }

    fn newer_lists(&self, have: &[ListNumber]) -> SyncResponse {
        let revocations = self.gate.trust.revocations();
        let newer = revocations.lists().iter().filter(|list| {
            let known = have
                .iter()
                .find(|(issuer, _)| *issuer == list.issuer_key_hash());
            known.is_none_or(|(_, number)| *number < list.number())
        });
        SyncResponse::Revocations(newer.map(|list| list.der().to_vec().into()).collect())
    }

    fn known_members(&self) -> SyncResponse {
        let proofs = self.table.proofs(MAX_MEMBERS);
        let members = proofs.into_iter().map(|(chain, record)| {
            MemberProof(Announcement {
                chain: chain.to_vec(),
                record: Signed::clone(&record),
            })
        });
        SyncResponse::Members(members.collect())
    }

    fn take_record(&mut self, peer: PeerId, record: Arc<Signed<NodeRecord>>) {
        if let Some(chain) = self.table.chain(&peer) {
            self.believe(Announcement {
                chain: chain.to_vec(),
                record: Signed::clone(&record),
            });
        }
    }

    /// The answer to something we asked on our own account.
    fn on_answer(&mut self, peer: PeerId, response: WireResponse) {
        match response.into_response() {
            Ok(SyncResponse::Revocations(lists)) => {
                for der in lists {
                    self.believe_revocations(peer, &der);
                }
            }
            Ok(SyncResponse::Record(record)) => self.take_record(peer, record),
            Ok(SyncResponse::Members(members)) => {
                for MemberProof(announcement) in members.into_iter().take(MAX_MEMBERS) {
                    self.believe(announcement);
                }
            }
            Ok(SyncResponse::Have(_)) => {}
            Err(reason) => tracing::debug!(%peer, reason, "a peer refused to answer"),
        }
    }
}

fn request_error(peer: PeerId, error: OutboundFailure) -> RequestError {
    match error {
        OutboundFailure::DialFailure => RequestError::Unreachable(peer),
        OutboundFailure::Timeout => RequestError::TimedOut(peer),
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported(peer),
        OutboundFailure::ConnectionClosed => RequestError::Broken {
            peer,
            reason: "the connection closed".into(),
        },
        OutboundFailure::Io(error) => RequestError::Broken {
            peer,
            reason: error.to_string(),
        },
    }
}
