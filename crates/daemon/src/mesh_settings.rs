//! From settings to what the mesh is told.

use std::net::SocketAddr;

use warren_config::{Admission, DhtMode, Settings};
use warren_mesh::{
    AdmissionPolicy, DhtConfig, GossipConfig, MdnsConfig, MeshConfig, MeshLimits, NodeDescription,
    RelayClient, RelayConfig, RelayServerConfig, RequestRate,
};

/// The mesh's part of the settings; `bulk_port` is where the bulk listener really is.
pub(crate) fn mesh_config(
    settings: &Settings,
    organization: &str,
    bulk_port: Option<SocketAddr>,
) -> MeshConfig {
    let network = &settings.network;
    let libp2p = &network.libp2p;
    let mut config = MeshConfig::new(
        network.mesh_name.clone(),
        description(settings, bulk_port),
        libp2p.listen_addresses.clone(),
    );
    config
        .announce_addresses
        .clone_from(&libp2p.announce_addresses);
    config.bootstrap_peers.clone_from(&libp2p.bootstrap_peers);
    config.admission = match network.security.admission {
        Admission::Members => AdmissionPolicy::Members,
        Admission::Open => AdmissionPolicy::Open,
    };
    config.dht = libp2p.dht.enabled.then(|| DhtConfig {
        mode: match libp2p.dht.mode {
            DhtMode::Server => warren_mesh::DhtMode::Server,
            DhtMode::Client => warren_mesh::DhtMode::Client,
        },
        bootstrap_interval: libp2p.dht.bootstrap_interval,
        query_timeout: libp2p.dht.query_timeout,
        replication_factor: libp2p.dht.replication_factor,
        ..DhtConfig::default()
    });
    config.mdns = libp2p.mdns.enabled.then_some(MdnsConfig {
        interval: libp2p.mdns.interval,
    });
    config.gossip = libp2p.gossipsub.enabled.then(|| GossipConfig {
        topics: libp2p.gossipsub.topics_for(organization),
        degree: libp2p.gossipsub.d,
        degree_low: libp2p.gossipsub.d_low,
        degree_high: libp2p.gossipsub.d_high,
    });
    config.relay = relay_config(settings);
    config.autonat = libp2p.autonat.enabled;
    config.hole_punching = libp2p.hole_punching.enabled;
    config.upnp = libp2p.upnp.enabled;
    config.limits = limits(settings);
    config
}

fn relay_config(settings: &Settings) -> RelayConfig {
    let relay = settings.network.libp2p.relay;
    RelayConfig {
        client: if relay.client {
            RelayClient::WhenPrivate
        } else {
            RelayClient::Never
        },
        // Connected members that offer relaying are used; they need no list.
        relays: Vec::new(),
        server: settings.relays_for_others().then(|| RelayServerConfig {
            max_circuits: relay.max_circuits,
            max_circuit_duration: relay.max_circuit_duration,
            max_circuit_bytes: relay.max_circuit_size,
            ..RelayServerConfig::default()
        }),
    }
}

fn limits(settings: &Settings) -> MeshLimits {
    let limits = settings.network.libp2p.limits;
    MeshLimits {
        max_connections: limits.max_connections,
        max_connections_per_peer: limits.max_connections_per_peer,
        max_pending_incoming: limits.max_pending_incoming,
        max_pending_outgoing: limits.max_pending_outgoing,
        requests: RequestRate {
            per_second: f64::from(limits.requests_per_second),
            burst: f64::from(limits.request_burst),
        },
        ..MeshLimits::default()
    }
}

/// What this node says of itself.
pub(crate) fn description(settings: &Settings, bulk_port: Option<SocketAddr>) -> NodeDescription {
    let announced = &settings.network.transfer.announce_addresses;
    let bulk_addresses = match bulk_port {
        None => Vec::new(),
        Some(_) if !announced.is_empty() => announced.iter().map(ToString::to_string).collect(),
        Some(address) => vec![address.to_string()],
    };
    NodeDescription {
        name: settings.network.node_id.clone(),
        region: settings.network.region.clone(),
        roles: role_names(settings),
        bulk_addresses,
    }
}

/// The roles as they are written in the configuration.
pub(crate) fn role_names(settings: &Settings) -> Vec<String> {
    settings
        .roles
        .iter()
        .map(|role| role.as_str().to_owned())
        .collect()
}
