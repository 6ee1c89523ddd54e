//! Organisations, servers and clients for the tests, all on loopback.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

pub mod lines;
pub mod probe;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use warren_identity::tls::ExpectedPeer;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, Leaf, LeafRequest, NodeKey, OrganizationId,
    Serial, Trust, UnixTime, WildcardNames,
};
use warren_rpc::{
    Client, ClientOptions, Connection, Server, ServerBuilder, ServerOptions, Service,
};

/// Long enough for two busy cores, short enough to fail a test that hangs.
pub const DEADLINE: Duration = Duration::from_secs(30);

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);

static NEXT: AtomicU32 = AtomicU32::new(1);

fn fresh() -> [u8; 32] {
    let mut bytes = [9; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

fn serial() -> Serial {
    Serial::from_random(fresh()[..16].try_into().unwrap())
}

/// An organisation with its CA.
pub struct Organization {
    pub ca: CertificateAuthority,
}

impl Organization {
    pub fn new(name: &str) -> Self {
        let request = CaRequest {
            organization: OrganizationId::new(name).unwrap(),
            key_material: zeroize::Zeroizing::new(fresh()),
            serial: serial(),
            validity: YEAR,
        };
        Self {
            ca: CertificateAuthority::create(&request, UnixTime::now()).unwrap(),
        }
    }

    /// A new member with these capabilities.
    pub fn member(&self, capabilities: &[&str]) -> Trust {
        self.member_for(capabilities, YEAR)
    }

    /// A new member whose leaf is good for that long.
    pub fn member_for(&self, capabilities: &[&str], validity: Duration) -> Trust {
        let key = NodeKey::from_seed(fresh());
        let leaf = self.leaf(&key, capabilities, validity);
        let trust = Trust::new(key, self.ca.roots().clone());
        trust.replace_leaf(leaf, UnixTime::now()).unwrap();
        trust
    }

    fn leaf(&self, key: &NodeKey, capabilities: &[&str], validity: Duration) -> Leaf {
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: "node".into(),
            dns: vec!["localhost".into()],
            ip: Vec::new(),
            capabilities: Capabilities::parse(capabilities.iter().copied()).unwrap(),
            validity,
            companion_key: Some(key.companion_key().public_key().to_vec()),
            wildcards: WildcardNames::Refuse,
        };
        self.ca.issue(&request, UnixTime::now(), serial()).unwrap()
    }

    /// A running server with `service`, and where it is.
    pub fn serve(&self, service: impl Service, options: ServerOptions) -> (Server, SocketAddr) {
        self.serve_as(service, |builder| builder.with_options(options))
    }

    /// The same, described further by `describe`.
    pub fn serve_as(
        &self,
        service: impl Service,
        describe: impl FnOnce(ServerBuilder) -> ServerBuilder,
    ) -> (Server, SocketAddr) {
        let builder = Server::builder().with_trust(self.member(&["worker"]));
        let server = describe(builder)
            .bind("127.0.0.1:0".parse().unwrap())
            .unwrap();
        server.register(service);
        let address = server.local_address().unwrap();
        let running = server.clone();
        tokio::spawn(async move { running.run().await });
        (server, address)
    }

    /// A connection of a new member to the server at `address`.
    pub async fn connect(&self, address: SocketAddr) -> Connection {
        self.connect_with(address, ClientOptions::default()).await
    }

    pub async fn connect_with(&self, address: SocketAddr, options: ClientOptions) -> Connection {
        Client::new(self.member(&[]), options)
            .unwrap()
            .connect(address, ExpectedPeer::AnyMember)
            .await
            .unwrap()
    }
}

/// A new certificate for the holder of `key`.
pub fn issue(organization: &Organization, key: &NodeKey, validity: Duration) -> Leaf {
    organization.leaf(key, &["worker"], validity)
}

/// Waits for `condition`, and fails the test when it does not come true.
pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = std::time::Instant::now() + DEADLINE;
    while !condition() {
        assert!(std::time::Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
