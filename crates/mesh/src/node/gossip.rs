//! Gossip: what is published, and what is believed and passed on.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use libp2p::PeerId;
use libp2p::gossipsub::{self, IdentTopic, MessageAcceptance, MessageId};
use warren_identity::MergeOutcome;

use crate::behaviour::topic_score_params;
use crate::config::MAX_GOSSIP_BYTES;
use crate::core::conduct::Offence;
use crate::core::gossip::{
    self, Announcement, MAX_INLINE_LIST_BYTES, MeshMessage, Verdict, judge_announcement,
    judge_revocations,
};
use crate::core::rate_limit::Signer;
use crate::error::{PublishError, StartError};
use crate::info::MeshEvent;
use crate::node::Node;
use crate::node::connections::Target;

/// Remembered of what gossip brought; there is one list in force per CA.
const MAX_HEARD_LISTS: usize = 16;

impl Node {
    pub(super) fn subscribe_topics(&mut self) -> Result<(), StartError> {
        let own = self.mesh_topic();
        let Some(config) = &self.config.gossip else {
            return Ok(());
        };
        let topics: Vec<String> = config.topics.iter().cloned().chain([own]).collect();
        let Some(gossip) = self.swarm.behaviour_mut().gossip.inner_mut().as_mut() else {
            return Ok(());
        };
        for topic in topics {
            let topic = IdentTopic::new(topic);
            let failed = |reason: String| StartError::Setup {
                part: "gossip",
                reason,
            };
            gossip
                .subscribe(&topic)
                .map_err(|error| failed(error.to_string()))?;
            gossip
                .set_topic_params(topic, topic_score_params())
                .map_err(|error| failed(error.to_owned()))?;
        }
        Ok(())
    }

    fn mesh_topic(&self) -> String {
        gossip::topic(self.gate.trust.organization())
    }

    pub(super) fn publish(&mut self, topic: String, data: Vec<u8>) -> Result<(), PublishError> {
        let ours = self
            .config
            .gossip
            .as_ref()
            .is_some_and(|g| g.topics.contains(&topic));
        if !ours {
            return Err(PublishError::UnknownTopic(topic));
        }
        self.publish_bytes(&topic, data)
    }

    fn publish_bytes(&mut self, topic: &str, data: Vec<u8>) -> Result<(), PublishError> {
        let bytes = data.len();
        let Some(gossip) = self.swarm.behaviour_mut().gossip.inner_mut().as_mut() else {
            return Err(PublishError::UnknownTopic(topic.to_owned()));
        };
        match gossip.publish(IdentTopic::new(topic), data) {
            Ok(_) => Ok(()),
            Err(gossipsub::PublishError::MessageTooLarge) => Err(PublishError::TooLong {
                bytes,
                limit: MAX_GOSSIP_BYTES,
            }),
            Err(gossipsub::PublishError::NoPeersSubscribedToTopic) => {
                Err(PublishError::NobodyListens(topic.to_owned()))
            }
            Err(error) => Err(PublishError::NotTaken {
                topic: topic.to_owned(),
                reason: match error {
                    gossipsub::PublishError::Duplicate => "it was sent before".into(),
                    gossipsub::PublishError::AllQueuesFull(_) => "all send queues are full".into(),
                    other => other.to_string(),
                },
            }),
        }
    }

    pub(super) fn gossip_mesh(&mut self, topic: String) -> Vec<PeerId> {
        let topic = IdentTopic::new(topic).hash();
        match self.swarm.behaviour_mut().gossip.inner_mut().as_mut() {
            Some(gossip) => gossip.mesh_peers(&topic).copied().collect(),
            None => Vec::new(),
        }
    }

    /// How many peers our gossip goes to directly, by topic; empty where gossip is off.
    pub(super) fn gossip_meshes(&self) -> BTreeMap<String, usize> {
        match self.swarm.behaviour().gossip.inner().as_ref() {
            Some(gossip) => gossip
                .topics()
                .map(|topic| (topic.to_string(), gossip.mesh_peers(topic).count()))
                .collect(),
            None => BTreeMap::new(),
        }
    }

    pub(super) fn count_gossip_meshes(&self) {
        for (topic, peers) in self.gossip_meshes() {
            self.metrics.gossip_mesh(&topic, peers);
        }
    }

    /// Tells members our record: by gossip, or one by one where gossip is off.
    pub(super) fn announce_record(&mut self) {
        if self.config.gossip.is_none() {
            self.send_record_to_all();
            return;
        }
        let announcement = Announcement {
            chain: self.gate.chain(),
            record: self.gate.record(),
        };
        self.say(&MeshMessage::Announcement(Box::new(announcement)));
    }

    fn say(&mut self, message: &MeshMessage) {
        let topic = self.mesh_topic();
        // Nobody may be subscribed yet; whoever connects learns the same at admission.
        if let Err(error) = self.publish_bytes(&topic, gossip::encode(message)) {
            tracing::debug!("not gossiped: {error}");
        }
    }

    /// Trust changed, by a file, a command or a peer's list: live sessions are judged anew, a new
    /// list is passed on and reported, a new certificate announced.
    pub(super) fn on_trust_changed(&mut self) {
        self.recheck_members();
        let revocations = self.gate.trust.revocations();
        let told = std::mem::replace(&mut self.told_lists, self.gate.list_numbers());
        for list in revocations.lists() {
            let key = (list.issuer_key_hash(), list.number());
            if told.contains(&key) {
                continue;
            }
            tracing::info!(
                issuer = list.issuer(),
                number = list.number(),
                "revocation list in force"
            );
            self.emit(MeshEvent::RevocationsUpdated {
                number: list.number(),
                der: Arc::from(list.der()),
            });
            if self.heard_lists.contains(&blake3::hash(list.der())) {
                continue;
            }
            if list.der().len() <= MAX_INLINE_LIST_BYTES {
                self.say(&MeshMessage::Revocations(list.der().to_vec()));
            } else {
                self.say(&MeshMessage::RevocationsAvailable(vec![key]));
            }
        }
        if std::mem::replace(&mut self.told_chain, self.gate.chain()) != self.told_chain {
            self.renew_record(Instant::now());
        }
    }

    pub(super) fn on_gossip(&mut self, event: gossipsub::Event) {
        let gossipsub::Event::Message {
            propagation_source,
            message_id,
            message,
        } = event
        else {
            return;
        };
        let verdict = if message.topic.as_str() == self.mesh_topic() {
            self.judge(propagation_source, message.source, &message.data)
        } else {
            self.deliver(message)
        };
        self.report(propagation_source, &message_id, verdict);
    }

    /// Whether a signer has had its share. Counted before anything costly is done with its message.
    fn is_over_limit(&mut self, source: PeerId) -> bool {
        let signer = if self.table.is_known(&source) {
            Signer::Member(source)
        } else {
            Signer::Unknown
        };
        !self.signers.admit(signer, Instant::now())
    }

    /// A message on a configured topic: its signature was checked; what it means is its plane's.
    fn deliver(&mut self, message: gossipsub::Message) -> Verdict {
        let Some(source) = message.source else {
            return Verdict::Reject;
        };
        if self.is_over_limit(source) {
            return Verdict::Limited;
        }
        self.emit(MeshEvent::Gossip {
            topic: message.topic.into_string(),
            source,
            data: message.data.into(),
        });
        Verdict::Accept
    }

    fn judge(&mut self, from: PeerId, source: Option<PeerId>, data: &[u8]) -> Verdict {
        match gossip::decode(data) {
            None => Verdict::Reject,
            Some(MeshMessage::Announcement(announcement)) => {
                let peer = announcement.record.value().peer_id;
                if source != Some(peer) {
                    return Verdict::Reject;
                }
                if self.is_over_limit(peer) {
                    return Verdict::Limited;
                }
                self.believe(*announcement)
            }
            // Whoever signed it for the way: the CA's signature alone counts, and a list must not be held up.
            Some(MeshMessage::Revocations(der)) => {
                let merged = self.gate.trust.merge_revocations(&der);
                match &merged {
                    Ok(MergeOutcome::Updated | MergeOutcome::Unchanged) => {
                        self.heard_lists.truncate(MAX_HEARD_LISTS - 1);
                        self.heard_lists.push_front(blake3::hash(&der));
                    }
                    Err(error) => {
                        tracing::debug!(peer = %from, "gossiped revocation list not taken: {error}");
                    }
                }
                judge_revocations(&merged)
            }
            Some(MeshMessage::RevocationsAvailable(numbers)) => {
                if !gossip::behind(&self.gate.list_numbers(), &numbers) {
                    return Verdict::Ignore;
                }
                if source.is_some_and(|source| self.is_over_limit(source)) {
                    return Verdict::Limited;
                }
                // Who only passed it on may not have fetched the list itself yet.
                let has_it = source.filter(|peer| self.table.is_member(peer));
                self.fetch_revocations(has_it.unwrap_or(from));
                Verdict::Accept
            }
        }
    }

    /// Takes over a member's record if its certificates prove it and it is news.
    pub(super) fn believe(&mut self, announcement: Announcement) -> Verdict {
        // Checking certificates is the costly part, and most of what a list of members says is known.
        if !self
            .table
            .is_news(announcement.record.value(), SystemTime::now())
        {
            return Verdict::Ignore;
        }
        let verified = self.gate.verify(&announcement.chain);
        let member = match judge_announcement(verified, &announcement) {
            Ok(member) => member,
            Err(verdict) => return verdict,
        };
        let peer = member.peer_id;
        if peer == *self.swarm.local_peer_id() {
            return Verdict::Ignore;
        }
        let record = Arc::new(announcement.record);
        if !self.table.insert(
            Arc::new(member),
            announcement.chain.into(),
            record.clone(),
            SystemTime::now(),
        ) {
            return Verdict::Ignore;
        }
        // Which protocols it speaks is known of connected peers only.
        if self.table.is_connected(&peer) {
            self.forget_route(&peer);
            self.learn_route(peer);
        }
        // It may have moved: what failed at the old address may work at the new one.
        self.redial.hurry(&Target::Peer(peer), Instant::now());
        self.emit(MeshEvent::RecordUpdated { record });
        Verdict::Accept
    }

    /// Takes over a list fetched from a peer.
    pub(super) fn believe_revocations(&mut self, from: PeerId, der: &[u8]) {
        match self.gate.trust.merge_revocations(der) {
            Ok(MergeOutcome::Updated | MergeOutcome::Unchanged) => {}
            Err(error) => {
                tracing::warn!(peer = %from, reason = error.label(), "fetched revocation list not taken: {error}");
            }
        }
    }

    fn report(&mut self, from: PeerId, id: &MessageId, verdict: Verdict) {
        let (acceptance, label) = match verdict {
            Verdict::Accept => (MessageAcceptance::Accept, "accepted"),
            Verdict::Ignore => (MessageAcceptance::Ignore, "ignored"),
            Verdict::Limited => (MessageAcceptance::Ignore, "limited"),
            Verdict::Reject => (MessageAcceptance::Reject, "rejected"),
        };
        self.metrics.gossip(label);
        if let Some(gossip) = self.swarm.behaviour_mut().gossip.inner_mut().as_mut() {
            gossip.report_message_validation_result(id, &from, acceptance);
        }
        if verdict == Verdict::Reject {
            self.penalize(from, Offence::InvalidGossip);
        }
    }
}
