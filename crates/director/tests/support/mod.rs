//! An organisation whose members serve and call each other on loopback.
#![allow(dead_code, unreachable_pub, clippy::unwrap_used, clippy::expect_used)]

use std::borrow::Cow;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use warren_identity::tls::ExpectedPeer;
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, LeafRequest, NodeKey, OrganizationId, Serial,
    Trust, UnixTime, WildcardNames,
};
use warren_rpc::{
    BoxFuture, Client, ClientOptions, Connection, Context, Failure, Fallback, Incoming, Kind,
    Method, Outgoing, Server, Target,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
/// Long enough for two busy cores.
pub const PATIENCE: Duration = Duration::from_secs(30);

static NEXT: AtomicU32 = AtomicU32::new(1);

fn fresh() -> [u8; 32] {
    let mut bytes = [5; 32];
    bytes[..4].copy_from_slice(&NEXT.fetch_add(1, Ordering::Relaxed).to_be_bytes());
    bytes
}

fn serial() -> Serial {
    Serial::from_random(fresh()[..16].try_into().unwrap())
}

pub struct Organization {
    ca: CertificateAuthority,
}

impl Organization {
    pub fn new() -> Self {
        let request = CaRequest {
            organization: OrganizationId::new("org_test").unwrap(),
            key_material: zeroize::Zeroizing::new(fresh()),
            serial: serial(),
            validity: YEAR,
        };
        let ca = CertificateAuthority::create(&request, UnixTime::now()).unwrap();
        Self { ca }
    }

    pub fn member(&self, capabilities: &[&str]) -> Trust {
        let key = NodeKey::from_seed(fresh());
        let request = LeafRequest {
            peer_id: key.peer_id(),
            name: "node".into(),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(capabilities.iter().copied()).unwrap(),
            validity: YEAR,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = self.ca.issue(&request, UnixTime::now(), serial()).unwrap();
        let trust = Trust::new(key, self.ca.roots().clone());
        trust.replace_leaf(leaf, UnixTime::now()).unwrap();
        trust
    }

    pub fn client(&self, capabilities: &[&str]) -> Client {
        Client::new(self.member(capabilities), ClientOptions::default()).unwrap()
    }

    /// A running server of a member with these capabilities that gives every call to `fallback`.
    pub fn serve(&self, capabilities: &[&str], fallback: impl Fallback) -> (Server, SocketAddr) {
        let server = Server::builder()
            .with_trust(self.member(capabilities))
            .bind("127.0.0.1:0".parse().unwrap())
            .unwrap();
        server.set_fallback(fallback);
        let address = server.local_address().unwrap();
        let running = server.clone();
        tokio::spawn(async move { running.run().await });
        (server, address)
    }

    pub async fn connect(&self, capabilities: &[&str], address: SocketAddr) -> Connection {
        self.client(capabilities)
            .connect(address, ExpectedPeer::AnyMember)
            .await
            .unwrap()
    }
}

pub fn target(address: SocketAddr, role: &str, region: Option<&str>) -> Target {
    let mut target = Target::new(address, ExpectedPeer::AnyMember);
    target.tags.insert("role".into(), role.into());
    if let Some(region) = region {
        target.tags.insert("region".into(), region.into());
        target.place.region = Some(region.into());
    }
    target
}

pub fn method(path: &str, idempotent: bool) -> Method {
    Method {
        path: Cow::Owned(path.to_owned()),
        kind: Kind::Unary,
        idempotent,
        permission: None,
    }
}

/// Answers every call with what `answer` makes of it.
pub struct Answering<F>(pub F);

impl<F> Fallback for Answering<F>
where
    F: Fn(&str, &Context, Bytes) -> Result<Bytes, Failure> + Send + Sync + 'static,
{
    fn unary(
        &self,
        path: &str,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        let answer = (self.0)(path, &context, request);
        Box::pin(async move { answer })
    }

    fn streaming(
        &self,
        path: &str,
        context: Context,
        incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        let path = path.to_owned();
        // The answer is of the first message; the rest is not looked at.
        let answer = (self.0)(&path, &context, Bytes::new());
        Box::pin(async move {
            let request = incoming.only().await?;
            outgoing.send(answer?).await?;
            Ok(outgoing.send(request).await?)
        })
    }
}

pub async fn eventually(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + PATIENCE;
    while !condition() {
        assert!(Instant::now() < end, "never: {what}");
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}
