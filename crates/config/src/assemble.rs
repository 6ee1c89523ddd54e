//! From checked values by path to [`Settings`].

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use multiaddr::{Multiaddr, PeerId};

use crate::decode::Set;
use crate::kind::Value;
use crate::settings::*;
use crate::table::Fallback;
use crate::value::{HostPort, Secret, Url};

/// The settings that `values` stand for; every key with a default must be there.
pub(crate) fn settings_from(
    values: &BTreeMap<&'static str, Set>,
    carried: Vec<Carried>,
) -> Settings {
    let v = Values(values);
    Settings {
        network: network(&v),
        roles: v
            .get::<Vec<Role>>("roles")
            .into_iter()
            .collect::<BTreeSet<_>>(),
        discovery_server: discovery_server(&v),
        api: Api {
            listen_address: v.get("api.listen_address"),
            tls: v.get::<bool>("api.tls.enabled").then(|| ApiTls {
                cert: v.get("api.tls.cert"),
                key: v.get("api.tls.key"),
            }),
            token_file: v.get("api.token_file"),
            allowed_hosts: v.get("api.allowed_hosts"),
        },
        storage: Storage {
            path: v.get("storage.path"),
            max_size: v.get("storage.max_size"),
            gc: Gc {
                interval: v.get("storage.gc.interval"),
            },
        },
        monitoring: Monitoring {
            listen_address: v.optional("monitoring.listen_address"),
        },
        logging: Logging {
            level: v.get("logging.level"),
            format: match v.word("logging.format") {
                "json" => LogFormat::Json,
                _ => LogFormat::Text,
            },
            file: v.optional("logging.file"),
            max_size: v.get("logging.max_size"),
            max_files: v.get("logging.max_files"),
            repeat_window: v.get("logging.repeat_window"),
        },
        rpc: rpc(&v),
        cluster: cluster(&v),
        carried,
    }
}

fn network(v: &Values<'_>) -> Network {
    Network {
        node_id: v.get("network.node_id"),
        organization_id: v.optional("network.organization_id"),
        region: v.optional("network.region"),
        bootstrap_mode: match v.word("network.bootstrap_mode") {
            "seed" => BootstrapMode::Seed,
            "client" => BootstrapMode::Client,
            _ => BootstrapMode::Auto,
        },
        mesh_name: v.get("network.mesh_name"),
        libp2p: libp2p(v),
        transfer: Transfer {
            enabled: v.get("network.transfer.enabled"),
            listen_address: v.get("network.transfer.listen_address"),
            announce_addresses: v.get("network.transfer.announce_addresses"),
        },
        discovery: DiscoveryClient {
            enabled: v.get("network.discovery.enabled"),
            servers: v.get("network.discovery.servers"),
            registration: Registration {
                auto_register: v.get("network.discovery.registration.auto_register"),
                heartbeat_interval: v.get("network.discovery.registration.heartbeat_interval"),
                retry_interval: v.get("network.discovery.registration.retry_interval"),
            },
        },
        security: security(v),
    }
}

fn libp2p(v: &Values<'_>) -> Libp2p {
    let switch = |path| Switch {
        enabled: v.get(path),
    };
    Libp2p {
        peer_key: v.get("network.libp2p.peer_key"),
        listen_addresses: v.get("network.libp2p.listen_addresses"),
        announce_addresses: v.get("network.libp2p.announce_addresses"),
        bootstrap_peers: v.get("network.libp2p.bootstrap_peers"),
        dht: Dht {
            enabled: v.get("network.libp2p.dht.enabled"),
            mode: match v.word("network.libp2p.dht.mode") {
                "client" => DhtMode::Client,
                _ => DhtMode::Server,
            },
            bootstrap_interval: v.get("network.libp2p.dht.bootstrap_interval"),
            replication_factor: v.get("network.libp2p.dht.replication_factor"),
            query_timeout: v.get("network.libp2p.dht.query_timeout"),
        },
        mdns: Mdns {
            enabled: v.get("network.libp2p.mdns.enabled"),
            interval: v.get("network.libp2p.mdns.interval"),
        },
        gossipsub: Gossipsub {
            enabled: v.get("network.libp2p.gossipsub.enabled"),
            topics: v.get("network.libp2p.gossipsub.topics"),
            d: v.get("network.libp2p.gossipsub.d"),
            d_low: v.get("network.libp2p.gossipsub.d_low"),
            d_high: v.get("network.libp2p.gossipsub.d_high"),
        },
        relay: Relay {
            client: v.get("network.libp2p.relay.client"),
            server: v.get("network.libp2p.relay.server"),
            max_circuits: v.get("network.libp2p.relay.max_circuits"),
            max_circuit_duration: v.get("network.libp2p.relay.max_circuit_duration"),
            max_circuit_size: v.get("network.libp2p.relay.max_circuit_size"),
        },
        autonat: switch("network.libp2p.autonat.enabled"),
        upnp: switch("network.libp2p.upnp.enabled"),
        hole_punching: switch("network.libp2p.hole_punching.enabled"),
        limits: Limits {
            max_connections: v.get("network.libp2p.limits.max_connections"),
            max_connections_per_peer: v.get("network.libp2p.limits.max_connections_per_peer"),
            max_pending_incoming: v.get("network.libp2p.limits.max_pending_incoming"),
            max_pending_outgoing: v.get("network.libp2p.limits.max_pending_outgoing"),
            requests_per_second: v.get("network.libp2p.limits.requests_per_second"),
            request_burst: v.get("network.libp2p.limits.request_burst"),
        },
    }
}

fn security(v: &Values<'_>) -> Security {
    Security {
        tls_cert: v.get("network.security.tls_cert"),
        tls_key: v.get("network.security.tls_key"),
        tls_key_passphrase_file: v.optional("network.security.tls_key_passphrase_file"),
        ca_cert: v.get("network.security.ca_cert"),
        crl: v.optional("network.security.crl"),
        admission: match v.word("network.security.admission") {
            "open" => Admission::Open,
            _ => Admission::Members,
        },
        renew_before: v.get("network.security.renew_before"),
        issuer_dir: v.optional("network.security.issuer_dir"),
        issuer_passphrase_file: v.optional("network.security.issuer_passphrase_file"),
        issuer_leaf_lifetime: v.get("network.security.issuer_leaf_lifetime"),
    }
}

fn discovery_server(v: &Values<'_>) -> DiscoveryServer {
    let seed = |record: &BTreeMap<&'static str, Value>| SeedPeer {
        peer_id: v.field(record, "peer_id"),
        addresses: v.field(record, "addresses"),
        organization: v.field(record, "organization"),
        region: record.get("region").and_then(FromValue::from_value),
    };
    let seeds = v.records("discovery.server.bootstrap_peers");
    DiscoveryServer {
        listen_address: v.get("discovery.server.listen_address"),
        database_url: v.optional("discovery.server.database.url"),
        require_certificates: v.get("discovery.server.auth.require_certificates"),
        ca_cert: v.get("discovery.server.auth.ca_cert"),
        anonymous_bootstrap: v.get("discovery.server.auth.anonymous_bootstrap"),
        peer_expiry: v.get("discovery.server.peer_expiry"),
        bootstrap_peers: seeds.iter().map(seed).collect(),
    }
}

fn rpc(v: &Values<'_>) -> Rpc {
    let command = |record: &BTreeMap<&'static str, Value>| WorkerCommand {
        method: v.field(record, "method"),
        run: v.field(record, "run"),
        timeout: v.field_or(record, "timeout", "rpc.worker.commands[].timeout"),
        max_running: v.field_or(record, "max_running", "rpc.worker.commands[].max_running"),
    };
    Rpc {
        bind_addr: v.get("rpc.bind_addr"),
        advertise_addr: v.optional("rpc.advertise_addr"),
        max_message_size: v.get("rpc.max_message_size"),
        max_calls: v.get("rpc.max_calls"),
        max_calls_per_connection: v.get("rpc.max_calls_per_connection"),
        max_connections: v.get("rpc.max_connections"),
        drain_timeout: v.get("rpc.drain_timeout"),
        worker_commands: v
            .records("rpc.worker.commands")
            .iter()
            .map(command)
            .collect(),
    }
}

fn cluster(v: &Values<'_>) -> Cluster {
    let remote = |record: &BTreeMap<&'static str, Value>| RemoteDirectors {
        region: v.field(record, "region"),
        addresses: v.field(record, "addresses"),
    };
    Cluster {
        bind_addr: v.get("cluster.bind_addr"),
        advertise_addr: v.optional("cluster.advertise_addr"),
        seeds: v.get("cluster.seeds"),
        label: v.get("cluster.label"),
        zone: v.optional("cluster.zone"),
        remote_directors: v
            .records("cluster.remote_directors")
            .iter()
            .map(remote)
            .collect(),
    }
}

/// Typed access. That each path has the type asked for is what the table says, and tests load every key.
struct Values<'a>(&'a BTreeMap<&'static str, Set>);

impl Values<'_> {
    fn get<T: FromValue>(&self, path: &str) -> T {
        let Some(value) = self.optional(path) else {
            unreachable!("key {path} has no default or another type")
        };
        value
    }

    fn optional<T: FromValue>(&self, path: &str) -> Option<T> {
        self.0.get(path).and_then(|set| T::from_value(&set.value))
    }

    fn word(&self, path: &str) -> &str {
        match self.0.get(path).map(|set| &set.value) {
            Some(Value::Text(word)) => word,
            _ => unreachable!("key {path} has no default or is no word"),
        }
    }

    fn records(&self, path: &str) -> &[BTreeMap<&'static str, Value>] {
        match self.0.get(path).map(|set| &set.value) {
            Some(Value::Records(records)) => records,
            _ => &[],
        }
    }

    /// The field, else the default that the table has for `path`.
    fn field_or<T: FromValue>(
        &self,
        record: &BTreeMap<&'static str, Value>,
        name: &str,
        path: &str,
    ) -> T {
        if let Some(value) = record.get(name).and_then(T::from_value) {
            return value;
        }
        let default = crate::table::find(path).and_then(|key| match key.default {
            Fallback::Value(text) => key.kind.read(text, None).ok(),
            _ => None,
        });
        let Some(value) = default.as_ref().and_then(T::from_value) else {
            unreachable!("key {path} has no default or another type")
        };
        value
    }

    fn field<T: FromValue>(&self, record: &BTreeMap<&'static str, Value>, name: &str) -> T {
        let Some(value) = record.get(name).and_then(T::from_value) else {
            unreachable!("field {name} is required and was checked")
        };
        value
    }
}

trait FromValue: Sized {
    fn from_value(value: &Value) -> Option<Self>;
}

macro_rules! from_value {
    ($($type:ty: $variant:ident),* $(,)?) => {
        $(impl FromValue for $type {
            fn from_value(value: &Value) -> Option<Self> {
                match value {
                    Value::$variant(value) => Some(value.clone()),
                    _ => None,
                }
            }
        })*
    };
}

from_value! {
    bool: Switch,
    Duration: Duration,
    String: Text,
    PathBuf: Path,
    SocketAddr: Socket,
    HostPort: HostPort,
    Multiaddr: Multiaddr,
    PeerId: PeerId,
    Url: Url,
    Secret: Secret,
    Role: Role,
}

impl FromValue for u64 {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::Count(number) | Value::Size(number) => Some(*number),
            _ => None,
        }
    }
}

impl FromValue for u32 {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).and_then(|number| number.try_into().ok())
    }
}

impl FromValue for usize {
    fn from_value(value: &Value) -> Option<Self> {
        u64::from_value(value).and_then(|number| number.try_into().ok())
    }
}

impl<T: FromValue> FromValue for Vec<T> {
    fn from_value(value: &Value) -> Option<Self> {
        match value {
            Value::List(items) => items.iter().map(T::from_value).collect(),
            _ => None,
        }
    }
}
