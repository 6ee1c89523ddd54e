//! The composed behaviour: which protocols a node speaks, and with whom.

pub(crate) mod gatekeeper;
mod members_only;
pub(crate) mod streams;

use std::convert::Infallible;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use libp2p::identity::Keypair;
use libp2p::kad::store::{MemoryStore, MemoryStoreConfig};
use libp2p::swarm::NetworkBehaviour;
use libp2p::swarm::behaviour::toggle::Toggle;
use libp2p::{
    PeerId, StreamProtocol, autonat, connection_limits, dcutr, gossipsub, identify, kad, mdns,
    ping, relay, request_response, upnp,
};

use crate::behaviour::gatekeeper::Gatekeeper;
use crate::behaviour::members_only::MembersOnly;
use crate::behaviour::streams::Streams;
use crate::config::{
    DhtConfig, DhtMode, GossipConfig, MAX_GOSSIP_BYTES, MeshConfig, RelayServerConfig,
};
use crate::core::{gossip, protocol};
use crate::error::StartError;
use crate::gate::Gate;
use crate::sync::{MAX_REQUEST_BYTES, MAX_RESPONSE_BYTES, WireRequest, WireResponse};

/// A peer that does not answer a ping within this time is taken for dead.
const PING_TIMEOUT: Duration = Duration::from_secs(10);

/// Providers of one key that are kept: as many as one answer names.
const MAX_PROVIDERS_PER_KEY: usize = 20;

/// How long a provider record lives without being published again.
const PROVIDER_TTL: Duration = Duration::from_secs(24 * 3600);

/// How often our own are published again.
const PROVIDER_REPUBLISH: Duration = Duration::from_secs(6 * 3600);

/// Sync requests open at once on one connection, both directions together.
const MAX_CONCURRENT_REQUESTS: usize = 64;

/// How long a message's id is remembered, so that it is handled once.
const DUPLICATE_MEMORY: Duration = Duration::from_secs(120);

pub(crate) type SyncBehaviour =
    request_response::Behaviour<request_response::cbor::codec::Codec<WireRequest, WireResponse>>;

/// The order matters for denials: limits come before anything is booked.
#[derive(NetworkBehaviour)]
#[behaviour(to_swarm = "Event", prelude = "libp2p::swarm::derive_prelude")]
pub(crate) struct Behaviour {
    pub(crate) limits: connection_limits::Behaviour,
    pub(crate) gatekeeper: Gatekeeper,
    pub(crate) identify: identify::Behaviour,
    pub(crate) ping: ping::Behaviour,
    pub(crate) kad: Toggle<kad::Behaviour<MemoryStore>>,
    pub(crate) mdns: Toggle<mdns::tokio::Behaviour>,
    pub(crate) gossip: MembersOnly<Toggle<gossipsub::Behaviour>>,
    pub(crate) relay_server: MembersOnly<Toggle<relay::Behaviour>>,
    pub(crate) relay_client: MembersOnly<relay::client::Behaviour>,
    pub(crate) dcutr: MembersOnly<Toggle<dcutr::Behaviour>>,
    pub(crate) autonat_client: MembersOnly<Toggle<autonat::v2::client::Behaviour>>,
    pub(crate) autonat_server: MembersOnly<Toggle<autonat::v2::server::Behaviour>>,
    pub(crate) upnp: Toggle<upnp::tokio::Behaviour>,
    pub(crate) sync: MembersOnly<SyncBehaviour>,
    pub(crate) streams: MembersOnly<Streams>,
}

/// What the swarm task hears of it.
#[derive(Debug)]
pub(crate) enum Event {
    Identify(identify::Event),
    Ping(ping::Event),
    Kad(kad::Event),
    Mdns(mdns::Event),
    Gossip(gossipsub::Event),
    RelayServer(relay::Event),
    RelayClient(relay::client::Event),
    HolePunch(dcutr::Event),
    AutoNat(autonat::v2::client::Event),
    /// We tested an address for somebody; nothing to do.
    AutoNatServed,
    Upnp(upnp::Event),
    Sync(request_response::Event<WireRequest, WireResponse>),
}

macro_rules! event_from {
    ($($from:ty => $variant:ident),* $(,)?) => {
        $(impl From<$from> for Event {
            fn from(event: $from) -> Self {
                Self::$variant(event)
            }
        })*
    };
}

event_from! {
    identify::Event => Identify,
    ping::Event => Ping,
    kad::Event => Kad,
    mdns::Event => Mdns,
    gossipsub::Event => Gossip,
    relay::Event => RelayServer,
    relay::client::Event => RelayClient,
    dcutr::Event => HolePunch,
    autonat::v2::client::Event => AutoNat,
    upnp::Event => Upnp,
    request_response::Event<WireRequest, WireResponse> => Sync,
}

impl From<autonat::v2::server::Event> for Event {
    fn from(_: autonat::v2::server::Event) -> Self {
        Self::AutoNatServed
    }
}

impl From<Infallible> for Event {
    fn from(never: Infallible) -> Self {
        match never {}
    }
}

impl Behaviour {
    pub(crate) fn new(
        config: &MeshConfig,
        keypair: &Keypair,
        gate: &Arc<Gate>,
        relay_client: relay::client::Behaviour,
    ) -> Result<Self, StartError> {
        let local = keypair.public().to_peer_id();
        let desk = gate.desk.clone();
        let mdns = match &config.mdns {
            Some(mdns) => Some(multicast(mdns.interval, local)?),
            None => None,
        };
        let gossip = match &config.gossip {
            Some(gossip) => {
                let mesh_topic = gossip::topic(gate.trust.organization());
                Some(gossipsub(gossip, keypair, mesh_topic)?)
            }
            None => None,
        };
        let probing = config.autonat.then(autonat::v2::client::Behaviour::default);
        let probed = config.autonat.then(autonat::v2::server::Behaviour::default);
        let punching = config.hole_punching.then(|| dcutr::Behaviour::new(local));
        let relaying = config
            .relay
            .server
            .as_ref()
            .map(|c| relay::Behaviour::new(local, relay_config(c)));
        Ok(Self {
            limits: connection_limits::Behaviour::new(limits(config)),
            gatekeeper: Gatekeeper::new(gate.clone()),
            identify: identify::Behaviour::new(identify_config(config, keypair)),
            ping: ping::Behaviour::new(
                ping::Config::new()
                    .with_interval(config.ping_interval)
                    .with_timeout(PING_TIMEOUT),
            ),
            kad: config
                .dht
                .as_ref()
                .map(|dht| kademlia(dht, &config.mesh_name, local))
                .into(),
            mdns: mdns.into(),
            gossip: MembersOnly::new(gossip.into(), desk.clone()),
            relay_server: MembersOnly::new(relaying.into(), desk.clone()),
            relay_client: MembersOnly::new(relay_client, desk.clone()),
            dcutr: MembersOnly::new(punching.into(), desk.clone()),
            autonat_client: MembersOnly::new(probing.into(), desk.clone()),
            autonat_server: MembersOnly::new(probed.into(), desk.clone()),
            upnp: config.upnp.then(upnp::tokio::Behaviour::default).into(),
            sync: MembersOnly::new(sync(config.request_timeout), desk.clone()),
            streams: MembersOnly::new(Streams::default(), desk),
        })
    }
}

fn limits(config: &MeshConfig) -> connection_limits::ConnectionLimits {
    let limits = &config.limits;
    connection_limits::ConnectionLimits::default()
        .with_max_established(Some(limits.max_connections))
        .with_max_established_per_peer(Some(limits.max_connections_per_peer))
        .with_max_pending_incoming(Some(limits.max_pending_incoming))
        .with_max_pending_outgoing(Some(limits.max_pending_outgoing))
}

fn identify_config(config: &MeshConfig, keypair: &Keypair) -> identify::Config {
    identify::Config::new(protocol::IDENTIFY_VERSION.into(), keypair.public())
        .with_agent_version(format!("warren/{}", env!("CARGO_PKG_VERSION")))
        .with_push_listen_addr_updates(true)
        // The cache would hand every address a peer listens on to every dial, its loopback ones too. Where a peer may be
        // dialled is decided by the node.
        .with_cache_size(0)
        // What is announced by configuration is announced alone.
        .with_hide_listen_addrs(!config.announce_addresses.is_empty())
}

fn kademlia(dht: &DhtConfig, mesh: &str, local: PeerId) -> kad::Behaviour<MemoryStore> {
    // `try_from_owned` fails without a leading slash only.
    let name = StreamProtocol::try_from_owned(protocol::kademlia(mesh))
        .unwrap_or(StreamProtocol::new("/warren/kad/1.0.0"));
    let store = MemoryStore::with_config(
        local,
        MemoryStoreConfig {
            max_provided_keys: dht.max_provider_keys,
            max_providers_per_key: MAX_PROVIDERS_PER_KEY,
            // Values are never stored, only who provides what.
            max_records: 0,
            max_value_bytes: 0,
        },
    );
    let mut config = kad::Config::new(name);
    config
        .set_query_timeout(dht.query_timeout)
        .set_replication_factor(
            NonZeroUsize::new(dht.replication_factor).unwrap_or(NonZeroUsize::MIN),
        )
        // The node refills the table itself, when it has entries: see `node::dht`.
        .set_periodic_bootstrap_interval(None)
        .set_provider_record_ttl(Some(PROVIDER_TTL))
        .set_provider_publication_interval(Some(PROVIDER_REPUBLISH))
        // What others ask us to store is judged first, and who enters the table is our decision.
        .set_record_filtering(kad::StoreInserts::FilterBoth)
        .set_kbucket_inserts(kad::BucketInserts::Manual)
        // Several paths that share no peer: one that lies does not decide a lookup.
        .disjoint_query_paths(true);
    let mut kad = kad::Behaviour::with_config(local, store, config);
    kad.set_mode(Some(match dht.mode {
        DhtMode::Server => kad::Mode::Server,
        DhtMode::Client => kad::Mode::Client,
    }));
    kad
}

fn multicast(interval: Duration, local: PeerId) -> Result<mdns::tokio::Behaviour, StartError> {
    let config = mdns::Config {
        // A record outlives two lost queries.
        ttl: (interval * 3).max(Duration::from_secs(60)),
        query_interval: interval,
        enable_ipv6: false,
    };
    mdns::tokio::Behaviour::new(config, local).map_err(|error| StartError::Setup {
        part: "discovery on the local network",
        reason: error.to_string(),
    })
}

fn gossipsub(
    config: &GossipConfig,
    keypair: &Keypair,
    mesh_topic: String,
) -> Result<gossipsub::Behaviour, StartError> {
    let failed = |reason: String| StartError::Setup {
        part: "gossip",
        reason,
    };
    let built = gossipsub::ConfigBuilder::default()
        .mesh_n(config.degree)
        .mesh_n_low(config.degree_low)
        .mesh_n_high(config.degree_high)
        // gossipsub wants no more than half of the degree to be dialled by us.
        .mesh_outbound_min((config.degree / 2).min(config.degree_low.saturating_sub(1)))
        .max_transmit_size(MAX_GOSSIP_BYTES)
        .validation_mode(gossipsub::ValidationMode::Strict)
        .validate_messages()
        .duplicate_cache_time(DUPLICATE_MEMORY)
        .message_id_fn(move |message| message_id(&mesh_topic, message))
        .build()
        .map_err(|error| failed(error.to_string()))?;
    let signed = gossipsub::MessageAuthenticity::Signed(keypair.clone());
    let mut gossip =
        gossipsub::Behaviour::new(signed, built).map_err(|error| failed(error.to_owned()))?;
    gossip
        .with_peer_score(score_params(), gossipsub::PeerScoreThresholds::default())
        .map_err(failed)?;
    Ok(gossip)
}

/// By content: the same revocation list published by two nodes is one message. Whatever counts by who signed it has
/// the signer in its id, or somebody could say the same first and have the other's message dropped as a duplicate.
fn message_id(mesh_topic: &str, message: &gossipsub::Message) -> gossipsub::MessageId {
    let mut hash = blake3::Hasher::new();
    hash.update(message.topic.as_str().as_bytes()).update(&[0]);
    if message.topic.as_str() != mesh_topic || !gossip::speaks_for_itself(&message.data) {
        let signer = message.source.map(PeerId::to_bytes).unwrap_or_default();
        hash.update(&signer).update(&[0]);
    }
    hash.update(&message.data);
    gossipsub::MessageId::from(hash.finalize().as_bytes()[..20].to_vec())
}

/// Scores punish what members must not do and leave the rest alone: our topics are quiet, so
/// nobody is expected to deliver a number of messages, and a whole mesh may sit behind one address.
fn score_params() -> gossipsub::PeerScoreParams {
    gossipsub::PeerScoreParams {
        ip_colocation_factor_weight: 0.0,
        app_specific_weight: 1.0,
        ..gossipsub::PeerScoreParams::default()
    }
}

/// The score of one topic: invalid messages count against a peer, first deliveries a little for it.
pub(crate) fn topic_score_params() -> gossipsub::TopicScoreParams {
    gossipsub::TopicScoreParams {
        topic_weight: 1.0,
        time_in_mesh_weight: 0.01,
        time_in_mesh_quantum: Duration::from_secs(1),
        time_in_mesh_cap: 300.0,
        first_message_deliveries_weight: 0.1,
        first_message_deliveries_cap: 50.0,
        mesh_message_deliveries_weight: 0.0,
        mesh_failure_penalty_weight: 0.0,
        invalid_message_deliveries_weight: -20.0,
        invalid_message_deliveries_decay: 0.9,
        ..gossipsub::TopicScoreParams::default()
    }
}

fn relay_config(config: &RelayServerConfig) -> relay::Config {
    relay::Config {
        max_reservations: config.max_reservations,
        max_circuits: config.max_circuits,
        max_circuits_per_peer: config.max_circuits_per_peer,
        max_circuit_duration: config.max_circuit_duration,
        max_circuit_bytes: config.max_circuit_bytes,
        // The library limits how often a peer or address may ask; a member that roams asks often,
        // and a whole site shares one address. The counts above are the bound.
        reservation_rate_limiters: Vec::new(),
        circuit_src_rate_limiters: Vec::new(),
        ..relay::Config::default()
    }
}

fn sync(timeout: Duration) -> SyncBehaviour {
    let codec = request_response::cbor::codec::Codec::default()
        .set_request_size_maximum(MAX_REQUEST_BYTES)
        .set_response_size_maximum(MAX_RESPONSE_BYTES);
    let config = request_response::Config::default()
        .with_request_timeout(timeout)
        .with_max_concurrent_streams(MAX_CONCURRENT_REQUESTS);
    request_response::Behaviour::with_codec(
        codec,
        [(
            StreamProtocol::new(protocol::SYNC),
            request_response::ProtocolSupport::Full,
        )],
        config,
    )
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use crate::core::gossip::{MeshMessage, encode};

    fn id(topic: &str, source: PeerId, data: Vec<u8>) -> gossipsub::MessageId {
        let message = gossipsub::Message {
            source: Some(source),
            data,
            sequence_number: None,
            topic: gossipsub::IdentTopic::new(topic).hash(),
        };
        message_id("warren.mesh.org_acme", &message)
    }

    #[test]
    fn given_one_text_of_two_signers_when_named_then_only_what_proves_itself_is_one_message() {
        let [a, b] = [(); 2].map(|()| PeerId::random());
        let list = encode(&MeshMessage::Revocations(vec![1, 2, 3]));
        let own = "warren.mesh.org_acme";
        assert_eq!(id(own, a, list.clone()), id(own, b, list.clone()));
        assert_ne!(
            id("warren.global", a, list.clone()),
            id("warren.global", b, list)
        );
        assert_ne!(id(own, a, vec![0, 7]), id(own, b, vec![0, 7]));
        assert_eq!(id(own, a, vec![0, 7]), id(own, a, vec![0, 7]));
    }
}
