//! Kademlia: who enters the routing table, what is stored for others, and lookups.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use libp2p::kad::store::RecordStore as _;
use libp2p::kad::{self, InboundRequest, ProviderRecord, QueryId, QueryResult, RecordKey};
use libp2p::{Multiaddr, PeerId};
use tokio::sync::oneshot;

use crate::config::AdmissionPolicy;
use crate::core::members::is_loopback;
use crate::core::protocol;
use crate::error::DhtError;
use crate::info::{RoutingBucket, RoutingEntry};
use crate::node::Node;

/// Providers after which a lookup ends early: enough to fetch from.
const ENOUGH_PROVIDERS: usize = 20;

/// After the first provider, others have this long to be found.
const MORE_PROVIDERS_WITHIN: Duration = Duration::from_millis(500);

/// Lookups under way at once; one more is refused as timed out.
const MAX_LOOKUPS: usize = 1_024;

/// A query somebody waits for.
pub(super) enum Lookup {
    Provide(oneshot::Sender<Result<(), DhtError>>),
    Providers {
        found: BTreeSet<PeerId>,
        /// When the first was found.
        first_at: Option<Instant>,
        reply: oneshot::Sender<Result<Vec<PeerId>, DhtError>>,
    },
    Peer {
        peer: PeerId,
        reply: oneshot::Sender<Result<Vec<Multiaddr>, DhtError>>,
    },
}

impl Node {
    /// A peer said what it speaks: if it serves the routing table and may be in ours, it enters.
    pub(super) fn learn_route(&mut self, peer: PeerId) {
        let is_member = self.table.is_member(&peer);
        let may = is_member || self.config.admission == AdmissionPolicy::Open;
        let serves = self
            .table
            .offers(&peer, &protocol::kademlia(&self.config.mesh_name));
        let addresses = self.dialable(&peer, self.table.routable_addresses(&peer));
        let only_loopback = addresses.iter().all(is_loopback);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return;
        };
        if !may || !serves {
            kad.remove_peer(&peer);
            return;
        }
        for address in addresses {
            if only_loopback || !is_loopback(&address) {
                kad.add_address(&peer, address);
            }
        }
        self.count_routes();
    }

    pub(super) fn forget_route(&mut self, peer: &PeerId) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.remove_peer(peer);
        }
        self.count_routes();
    }

    /// Refills the routing table now and then. An empty one offers nobody to ask: whoever connects enters it, and that
    /// starts a refill by itself.
    pub(super) fn refill_routes(&mut self, now: Instant) {
        let Some(dht) = &self.config.dht else { return };
        if now.saturating_duration_since(self.routes_refilled_at) < dht.bootstrap_interval {
            return;
        }
        self.routes_refilled_at = now;
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && kad.kbuckets().any(|bucket| !bucket.is_empty())
            && let Err(error) = kad.bootstrap()
        {
            tracing::debug!(%error, "the routing table is not refilled");
        }
    }

    /// The library plans a refill whenever an address is new and nobody is connected, and warns if it then finds nobody
    /// to ask. A refill that we start takes the place of the planned one, and of an empty table it ends at once.
    pub(super) fn refill_nothing(&mut self) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && kad.kbuckets().all(|bucket| bucket.is_empty())
        {
            let _ = kad.bootstrap();
        }
    }

    fn count_routes(&mut self) {
        let count: usize = match self.swarm.behaviour_mut().kad.as_mut() {
            Some(kad) => kad.kbuckets().map(|bucket| bucket.num_entries()).sum(),
            None => 0,
        };
        self.metrics
            .routing_table_peers
            .set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(super) fn on_kad(&mut self, event: kad::Event) {
        match event {
            kad::Event::OutboundQueryProgressed {
                id, result, step, ..
            } => {
                self.on_query(id, result, step.last);
            }
            kad::Event::InboundRequest {
                request:
                    InboundRequest::AddProvider {
                        record: Some(record),
                    },
            } => self.store_provider(record),
            kad::Event::RoutingUpdated { .. } => self.count_routes(),
            _ => {}
        }
    }

    /// Members may say that they provide something; nobody may say it for another (the behaviour
    /// drops those), and strangers may not store anything here.
    fn store_provider(&mut self, record: ProviderRecord) {
        if !self.table.is_member(&record.provider) {
            return;
        }
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && let Err(error) = kad.store_mut().add_provider(record)
        {
            tracing::debug!(?error, "a provider record was not stored");
        }
    }

    fn on_query(&mut self, id: QueryId, result: QueryResult, last: bool) {
        match result {
            QueryResult::StartProviding(result) => {
                if let Some(Lookup::Provide(reply)) = self.lookups.remove(&id) {
                    let outcome = result.map(|_| ()).map_err(|_| DhtError::TimedOut);
                    let _ = reply.send(outcome);
                }
            }
            QueryResult::GetProviders(result) => self.on_providers(id, result, last),
            QueryResult::GetClosestPeers(result) => {
                if let Some(Lookup::Peer { peer, reply }) = self.lookups.remove(&id) {
                    let peers = match result {
                        Ok(found) => found.peers,
                        Err(kad::GetClosestPeersError::Timeout { peers, .. }) => peers,
                    };
                    let found = peers.into_iter().find(|info| info.peer_id == peer);
                    let _ = reply.send(Ok(found.map(|info| info.addrs).unwrap_or_default()));
                }
            }
            QueryResult::Bootstrap(Err(error)) => {
                tracing::warn!(%error, "the routing table was not refilled");
            }
            _ => {}
        }
    }

    fn on_providers(
        &mut self,
        id: QueryId,
        result: Result<kad::GetProvidersOk, kad::GetProvidersError>,
        last: bool,
    ) {
        let local = *self.swarm.local_peer_id();
        let Some(Lookup::Providers {
            found, first_at, ..
        }) = self.lookups.get_mut(&id)
        else {
            return;
        };
        let timed_out = result.is_err();
        if let Ok(kad::GetProvidersOk::FoundProviders { providers, .. }) = result {
            found.extend(providers.into_iter().filter(|peer| *peer != local));
        }
        if !found.is_empty() {
            first_at.get_or_insert_with(Instant::now);
        }
        let enough = found.len() >= ENOUGH_PROVIDERS;
        if !last && !enough {
            return;
        }
        if enough
            && let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
            && let Some(mut query) = kad.query_mut(&id)
        {
            query.finish();
        }
        if let Some(Lookup::Providers { found, reply, .. }) = self.lookups.remove(&id) {
            let outcome = match (found.is_empty(), timed_out) {
                (true, true) => Err(DhtError::TimedOut),
                _ => Ok(found.into_iter().collect()),
            };
            let _ = reply.send(outcome);
        }
    }

    /// Ends lookups that found somebody a while ago: what they still wait for is mostly a node that is
    /// gone but not forgotten, and the time-out of a dial to it.
    pub(super) fn end_lookups(&mut self, now: Instant) {
        let long_enough = |lookup: &Lookup| matches!(lookup, Lookup::Providers { first_at: Some(at), .. } if *at + MORE_PROVIDERS_WITHIN <= now);
        let ended = self.lookups.iter();
        let ended: Vec<QueryId> = ended
            .filter(|(_, lookup)| long_enough(lookup))
            .map(|(id, _)| *id)
            .collect();
        for id in ended {
            if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut()
                && let Some(mut query) = kad.query_mut(&id)
            {
                query.finish();
            }
            if let Some(Lookup::Providers { found, reply, .. }) = self.lookups.remove(&id) {
                let _ = reply.send(Ok(found.into_iter().collect()));
            }
        }
    }

    pub(super) fn provide(&mut self, key: Vec<u8>, reply: oneshot::Sender<Result<(), DhtError>>) {
        let lonely = self.table.connected_members().next().is_none();
        let limit = self
            .config
            .dht
            .as_ref()
            .map_or(0, |dht| dht.max_provider_keys);
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            let _ = reply.send(Err(DhtError::Disabled));
            return;
        };
        match kad.start_providing(RecordKey::from(key)) {
            Err(_) => {
                let _ = reply.send(Err(DhtError::TooManyKeys(limit)));
            }
            // The key is on the list of what is published again; there is nobody to tell now.
            Ok(_) if lonely => {
                let _ = reply.send(Err(DhtError::NoPeers));
            }
            Ok(id) => self.track(id, Lookup::Provide(reply)),
        }
    }

    pub(super) fn stop_providing(&mut self, key: Vec<u8>) {
        if let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() {
            kad.stop_providing(&RecordKey::from(key));
        }
    }

    pub(super) fn find_providers(
        &mut self,
        key: Vec<u8>,
        reply: oneshot::Sender<Result<Vec<PeerId>, DhtError>>,
    ) {
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            let _ = reply.send(Err(DhtError::Disabled));
            return;
        };
        let id = kad.get_providers(RecordKey::from(key));
        let found = BTreeSet::new();
        let first_at = None;
        self.track(
            id,
            Lookup::Providers {
                found,
                first_at,
                reply,
            },
        );
    }

    pub(super) fn find_peer(
        &mut self,
        peer: PeerId,
        reply: oneshot::Sender<Result<Vec<Multiaddr>, DhtError>>,
    ) {
        let known = self.dialable(&peer, self.table.routable_addresses(&peer));
        if !known.is_empty() {
            let _ = reply.send(Ok(known));
            return;
        }
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            let _ = reply.send(Err(DhtError::Disabled));
            return;
        };
        let id = kad.get_closest_peers(peer);
        self.track(id, Lookup::Peer { peer, reply });
    }

    fn track(&mut self, id: QueryId, lookup: Lookup) {
        if self.lookups.len() < MAX_LOOKUPS {
            self.lookups.insert(id, lookup);
            return;
        }
        match lookup {
            Lookup::Provide(reply) => drop(reply.send(Err(DhtError::TimedOut))),
            Lookup::Providers { reply, .. } => drop(reply.send(Err(DhtError::TimedOut))),
            Lookup::Peer { reply, .. } => drop(reply.send(Err(DhtError::TimedOut))),
        }
    }

    pub(super) fn routing_table(&mut self) -> Vec<RoutingBucket> {
        let table = &self.table;
        let Some(kad) = self.swarm.behaviour_mut().kad.as_mut() else {
            return Vec::new();
        };
        kad.kbuckets()
            .filter(|bucket| !bucket.is_empty())
            .map(|bucket| RoutingBucket {
                common_prefix_bits: 255 - bucket.range().0.ilog2().unwrap_or(0),
                peers: bucket
                    .iter()
                    .map(|entry| {
                        let peer_id = *entry.node.key.preimage();
                        RoutingEntry {
                            peer_id,
                            addresses: entry.node.value.iter().cloned().collect(),
                            connected: table.is_connected(&peer_id),
                        }
                    })
                    .collect(),
            })
            .collect()
    }
}
