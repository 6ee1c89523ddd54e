//! Who holds a document and how to reach them: what `content` asks for, answered with the mesh.
//!
//! Holders are found by asking every connected member and by the routing table, side by side. A holder is reached at the
//! bulk port it announces, tried at the addresses it is connected from; where that port cannot be reached, as behind most
//! NATs, blocks take a stream of the mesh connection.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::num::NonZeroUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use lru::LruCache;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use tokio::time::timeout;
use tokio_util::compat::FuturesAsyncReadCompatExt;
use tokio_util::sync::CancellationToken;
use warren_content::retrieve::{Connector, Providers};
use warren_content::transfer::bulk::{BulkDialer, far_end};
use warren_content::transfer::{ByteCounter, ConnectError, CounterOf, Link};
use warren_content::{BlockId, DocumentId, Store};
use warren_identity::{Capability, PeerId, Trust};
use warren_mesh::{
    BLOCKS_PROTOCOL, BlockCounter, HaveQuery, Mesh, Multiaddr, OpenStreamError, PeerInfo,
    SyncRequest, SyncResponse, Traffic,
};

/// Members may take this long to say whether they hold a document.
const HAVE_TIMEOUT: Duration = Duration::from_secs(3);
/// After the first yes, others have this long to say it too.
const HAVE_GRACE: Duration = Duration::from_millis(150);
/// A bulk port that could not be reached is left alone for this long; the mesh stream serves meanwhile.
const BULK_PAUSE: Duration = Duration::from_secs(60);
/// All addresses of a bulk port together may take this long, so that time is left for a stream: filtered addresses are silent.
const BULK_TIMEOUT: Duration = Duration::from_secs(8);
/// Peers whose bulk port is remembered as unreachable.
const MAX_REMEMBERED: NonZeroUsize = NonZeroUsize::new(1024).expect("1024 is not zero");
/// Documents announced and withdrawn that wait for the routing table; the oldest wait longest, none is lost but at the
/// next start all are announced again.
const ANNOUNCE_QUEUE: usize = 4096;

/// The mesh as `content` sees it. Cheap to clone.
#[derive(Clone)]
pub(crate) struct MeshPeers {
    mesh: Mesh,
    trust: Trust,
    dialer: BulkDialer,
    unreachable: Arc<Mutex<LruCache<PeerId, Instant>>>,
    announcements: mpsc::Sender<Announcement>,
}

/// A document that this node holds now, or no longer.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Announcement {
    Holds(DocumentId),
    Dropped(DocumentId),
}

/// Key of a document in the routing table: the multihash of its id.
fn routing_key(document: DocumentId) -> Vec<u8> {
    document.to_cid().hash().to_bytes()
}

impl MeshPeers {
    /// Also gives the queue that [`announce`] empties.
    pub(crate) fn new(mesh: Mesh, trust: Trust) -> (Self, mpsc::Receiver<Announcement>) {
        let (announcements, queue) = mpsc::channel(ANNOUNCE_QUEUE);
        let dialer = BulkDialer::new(trust.clone()).counted_by(counters(&mesh));
        let unreachable = Arc::new(Mutex::new(LruCache::new(MAX_REMEMBERED)));
        (
            Self {
                mesh,
                trust,
                dialer,
                unreachable,
                announcements,
            },
            queue,
        )
    }

    /// Tells the mesh about a document, soon. A full queue drops it: members find it by asking. Without [`announce`], as
    /// on a node that does not store, nothing is told.
    pub(crate) fn tell(&self, announcement: Announcement) {
        if let Err(TrySendError::Full(_)) = self.announcements.try_send(announcement) {
            tracing::debug!(?announcement, "not announced: too many wait");
        }
    }

    async fn holders(&self, document: DocumentId) -> Vec<PeerId> {
        let asked = self.ask_members(document).await;
        if !asked.is_empty() {
            return asked;
        }
        match self.mesh.find_providers(routing_key(document)).await {
            Ok(mut providers) => {
                providers.retain(|peer| *peer != self.trust.peer_id());
                self.answering_first(providers).await
            }
            Err(error) => {
                tracing::debug!(%document, "the routing table names no holder: {error}");
                Vec::new()
            }
        }
    }

    /// Dials all at once and puts first who answers: the routing table remembers a holder that is gone for a day.
    async fn answering_first(&self, mut peers: Vec<PeerId>) -> Vec<PeerId> {
        let mut dials: FuturesUnordered<_> = peers
            .iter()
            .map(|peer| self.connected(*peer).map(|outcome| outcome.ok()))
            .collect();
        let mut answering = BTreeSet::new();
        let deadline = tokio::time::sleep(HAVE_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => break,
                dialled = dials.next() => match dialled {
                    None => break,
                    Some(None) => {}
                    Some(Some(info)) => {
                        if answering.is_empty() {
                            deadline.as_mut().reset(tokio::time::Instant::now() + HAVE_GRACE);
                        }
                        answering.insert(info.peer_id);
                    }
                },
            }
        }
        drop(dials);
        peers.sort_by_key(|peer| !answering.contains(peer));
        peers
    }

    async fn ask_members(&self, document: DocumentId) -> Vec<PeerId> {
        let documents = vec![document.to_string()];
        let mut answers: FuturesUnordered<_> = self
            .connected_members()
            .await
            .into_iter()
            .map(|peer| {
                let request = self.mesh.request(
                    peer,
                    SyncRequest::Have {
                        documents: documents.clone(),
                    },
                );
                async move {
                    matches!(request.await, Ok(SyncResponse::Have(have)) if have == [true])
                        .then_some(peer)
                }
            })
            .collect();
        let mut holders = Vec::new();
        let deadline = tokio::time::sleep(HAVE_TIMEOUT);
        tokio::pin!(deadline);
        loop {
            tokio::select! {
                () = &mut deadline => return holders,
                answer = answers.next() => match answer {
                    None => return holders,
                    Some(None) => {}
                    Some(Some(holder)) => {
                        if holders.is_empty() {
                            deadline.as_mut().reset(tokio::time::Instant::now() + HAVE_GRACE);
                        }
                        holders.push(holder);
                    }
                },
            }
        }
    }

    /// Members to ask for content, those with a direct connection first.
    async fn connected_members(&self) -> Vec<PeerId> {
        let mut peers: Vec<PeerInfo> = self
            .mesh
            .peers()
            .await
            .into_iter()
            .filter(may_store)
            .collect();
        peers.sort_by_key(|peer| (!peer.is_direct(), peer.latency));
        peers.into_iter().map(|peer| peer.peer_id).collect()
    }

    async fn reach(&self, peer: PeerId) -> Result<Link, ConnectError> {
        let info = self.connected(peer).await?;
        if !may_store(&info) {
            return Err(ConnectError::Refused {
                peer,
                reason: "its certificate lacks the capability 'storage', so it serves no content"
                    .to_owned(),
            });
        }
        if let Some(link) = self.reach_bulk_port(&info).await {
            return Ok(link);
        }
        self.reach_by_stream(&info).await
    }

    async fn connected(&self, peer: PeerId) -> Result<PeerInfo, ConnectError> {
        if let Some(info) = self.find_connected(peer).await {
            return Ok(info);
        }
        let unreachable = |reason: String| ConnectError::Unreachable { peer, reason };
        let addresses = self
            .mesh
            .find_peer(peer)
            .await
            .map_err(|error| unreachable(error.to_string()))?;
        let mut tried = Vec::new();
        for address in addresses {
            let Ok(address) = address.with_p2p(peer) else {
                continue;
            };
            match self.mesh.connect(address).await {
                Ok(_) => break,
                Err(error) => tried.push(error.to_string()),
            }
        }
        self.find_connected(peer).await.ok_or_else(|| {
            unreachable(match tried.is_empty() {
                true => "no address of it is known".to_owned(),
                false => tried.join(", "),
            })
        })
    }

    async fn find_connected(&self, peer: PeerId) -> Option<PeerInfo> {
        self.mesh
            .peers()
            .await
            .into_iter()
            .find(|info| info.peer_id == peer)
    }

    /// `None` where the port is not announced or does not answer.
    async fn reach_bulk_port(&self, info: &PeerInfo) -> Option<Link> {
        let peer = info.peer_id;
        let now = Instant::now();
        let paused = {
            let mut unreachable = self
                .unreachable
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            unreachable
                .get(&peer)
                .is_some_and(|since| now.duration_since(*since) < BULK_PAUSE)
        };
        let addresses = bulk_addresses(info);
        if paused || addresses.is_empty() {
            return None;
        }
        let failure = match timeout(BULK_TIMEOUT, self.dialer.dial(peer, &addresses)).await {
            Ok(Ok(link)) => return Some(link),
            // Somebody else may have that address where we are: the mesh connection has proven who the peer is.
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("none of {} addresses answered in time", addresses.len()),
        };
        tracing::debug!(%peer, "blocks take a mesh stream: {failure}");
        self.unreachable
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .put(peer, now);
        None
    }

    async fn reach_by_stream(&self, info: &PeerInfo) -> Result<Link, ConnectError> {
        let peer = info.peer_id;
        let member = info.member.as_ref().ok_or_else(|| ConnectError::Refused {
            peer,
            reason: "it is no member".to_owned(),
        })?;
        let stream = self.mesh.open_stream(peer, BLOCKS_PROTOCOL).await.map_err(
            |error: OpenStreamError| ConnectError::Unreachable {
                peer,
                reason: error.to_string(),
            },
        )?;
        Ok(Link {
            stream: Box::new(stream.compat()),
            far_end: far_end(&self.trust, member.as_ref().clone()),
        })
    }
}

/// Whether content is asked of a peer: what it says of itself counts for nothing.
fn may_store(info: &PeerInfo) -> bool {
    let member = info.member.as_ref();
    member.is_some_and(|member| member.allows(&Capability::Storage))
}

/// Counts bulk connections with the mesh's own, so that one figure says what a peer was given.
pub(crate) fn counters(mesh: &Mesh) -> Arc<CounterOf> {
    let mesh = mesh.clone();
    Arc::new(move |peer| Arc::new(BulkBytes(mesh.block_counter(peer))))
}

struct BulkBytes(BlockCounter);

impl ByteCounter for BulkBytes {
    fn sent(&self, bytes: u64) {
        self.0.add(Traffic {
            sent: bytes,
            received: 0,
        });
    }

    fn received(&self, bytes: u64) {
        self.0.add(Traffic {
            sent: 0,
            received: bytes,
        });
    }
}

/// Where the bulk port may answer: announced addresses as they are; an announced port without an address at every address
/// that the peer is directly connected from and announces as its own. Any other is a translator's, which has no mapping for
/// that port.
fn bulk_addresses(info: &PeerInfo) -> Vec<String> {
    let Some(record) = info.record.as_ref().map(|record| record.value()) else {
        return Vec::new();
    };
    let direct = info
        .connections
        .iter()
        .filter(|connection| !connection.relayed);
    let seen = direct.filter_map(|connection| ip_of(&connection.remote_address));
    expand(&record.bulk_addresses, &its_own(seen, &info.addresses))
}

/// Those of the addresses that a peer is seen at which it announces; all of them where it announces a name, which may stand
/// for any.
fn its_own(seen: impl Iterator<Item = IpAddr>, announced: &[Multiaddr]) -> BTreeSet<IpAddr> {
    let relayed = |address: &&Multiaddr| address.to_string().contains("/p2p-circuit");
    let direct: Vec<Option<IpAddr>> = announced
        .iter()
        .filter(|address| !relayed(address))
        .map(ip_of)
        .collect();
    seen.filter(|ip| direct.contains(&None) || direct.contains(&Some(*ip)))
        .collect()
}

/// Puts each address that a peer is seen at in the place of `0.0.0.0` and `[::]`; no address comes twice.
fn expand(announced: &[String], seen: &BTreeSet<IpAddr>) -> Vec<String> {
    let mut addresses: Vec<String> = Vec::new();
    for announced in announced {
        let meant = match announced.parse::<SocketAddr>() {
            Ok(socket) if socket.ip().is_unspecified() => seen
                .iter()
                .map(|ip| SocketAddr::new(*ip, socket.port()).to_string())
                .collect(),
            _ => vec![announced.clone()],
        };
        for address in meant {
            if !addresses.contains(&address) {
                addresses.push(address);
            }
        }
    }
    addresses
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    let text = address.to_string();
    let mut parts = text.split('/').skip(1);
    match (parts.next(), parts.next()) {
        (Some("ip4" | "ip6"), Some(ip)) => ip.parse().ok(),
        _ => None,
    }
}

impl Providers for MeshPeers {
    fn find(&self, target: BlockId) -> BoxFuture<'_, Vec<PeerId>> {
        match target {
            BlockId::Manifest(document) => self.holders(document).boxed(),
            BlockId::Chunk(_) => self.connected_members().boxed(),
        }
    }

    fn fetched(&self, document: DocumentId) {
        self.tell(Announcement::Holds(document));
    }
}

impl Connector for MeshPeers {
    fn connect(&self, peer: PeerId) -> BoxFuture<'_, Result<Link, ConnectError>> {
        self.reach(peer).boxed()
    }
}

/// Answers members that ask which documents are here, until the mesh or the node stops.
pub(crate) async fn answer(
    store: Store,
    mut queries: mpsc::Receiver<HaveQuery>,
    shutdown: CancellationToken,
) {
    while let Some(Some(query)) = shutdown.run_until_cancelled(queries.recv()).await {
        let store = store.clone();
        let held = tokio::task::spawn_blocking(move || {
            let holds = |id: &String| {
                id.parse()
                    .is_ok_and(|id| matches!(store.document(id), Ok(Some(_))))
            };
            let have = query.documents.iter().map(holds).collect();
            // A member that has gone away needs no answer.
            let _ = query.answer.send(have);
        });
        if held.await.is_err() {
            tracing::error!("a question about documents could not be answered");
        }
    }
}

/// Keeps the routing table told: at start every document here, then each change.
pub(crate) async fn announce(
    store: Store,
    mesh: Mesh,
    mut queue: mpsc::Receiver<Announcement>,
    shutdown: CancellationToken,
) {
    let work = async {
        for document in listed(store).await {
            provide(&mesh, document).await;
        }
        while let Some(announcement) = queue.recv().await {
            match announcement {
                Announcement::Holds(document) => provide(&mesh, document).await,
                Announcement::Dropped(document) => mesh.stop_providing(routing_key(document)).await,
            }
        }
    };
    shutdown.run_until_cancelled(work).await;
}

async fn provide(mesh: &Mesh, document: DocumentId) {
    if let Err(error) = mesh.provide(routing_key(document)).await {
        tracing::debug!(%document, "not announced in the routing table: {error}");
    }
}

async fn listed(store: Store) -> Vec<DocumentId> {
    const PAGE: usize = 1000;
    let walked = tokio::task::spawn_blocking(move || {
        let mut ids = BTreeMap::new();
        let mut cursor = None;
        loop {
            match store.documents(cursor, PAGE) {
                Ok(page) => {
                    ids.extend(page.documents.into_iter().map(|document| (document.id, ())));
                    cursor = page.next;
                    if cursor.is_none() {
                        return ids;
                    }
                }
                Err(error) => {
                    tracing::warn!("cannot list documents to announce them: {error}");
                    return ids;
                }
            }
        }
    });
    walked.await.unwrap_or_default().into_keys().collect()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn expanded(announced: &[&str], seen: &[&str]) -> Vec<String> {
        let announced: Vec<String> = announced.iter().map(|one| (*one).to_owned()).collect();
        expand(
            &announced,
            &seen.iter().map(|ip| ip.parse().unwrap()).collect(),
        )
    }

    #[test]
    fn a_port_without_an_address_is_tried_wherever_the_peer_is_seen() {
        assert_eq!(
            expanded(&["0.0.0.0:4002"], &["10.0.1.5", "fd00::5"]),
            ["10.0.1.5:4002", "[fd00::5]:4002"]
        );
    }

    #[test]
    fn announced_addresses_are_tried_as_they_are_and_once() {
        assert_eq!(
            expanded(
                &[
                    "node1.acme.com:4002",
                    "10.0.1.5:4002",
                    "0.0.0.0:4002",
                    "[::]:4002"
                ],
                &["10.0.1.5"]
            ),
            ["node1.acme.com:4002", "10.0.1.5:4002"]
        );
    }

    #[test]
    fn a_peer_that_is_seen_nowhere_directly_has_no_port_to_try() {
        assert!(expanded(&["0.0.0.0:4002"], &[]).is_empty());
    }

    #[test]
    fn a_translators_address_is_not_the_peers_own_but_a_name_may_stand_for_any() {
        let translator: IpAddr = "192.0.2.1".parse().unwrap();
        let own: IpAddr = "10.1.0.2".parse().unwrap();
        let relay = "12D3KooWSBv5zNHzpc5ugiJgfJnD2cRGmDnGHgUn1KKEnyNAmaxx";
        let circuit = format!("/ip4/192.0.2.1/tcp/4001/p2p/{relay}/p2p-circuit");
        let announced = |texts: &[&str]| -> Vec<Multiaddr> {
            texts.iter().map(|text| text.parse().unwrap()).collect()
        };
        let seen = || [translator, own].into_iter();

        let behind = announced(&["/ip4/10.1.0.2/tcp/4001", &circuit]);
        assert_eq!(its_own(seen(), &behind), BTreeSet::from([own]));
        let named = announced(&["/dns4/node1.acme.com/tcp/4001"]);
        assert_eq!(its_own(seen(), &named), BTreeSet::from([own, translator]));
    }

    #[test]
    fn only_the_first_part_of_an_address_is_where_a_peer_is_seen() {
        let relayed: Multiaddr = "/dns4/relay.acme.com/tcp/4001/ip4/10.0.0.1"
            .parse()
            .unwrap();
        let direct: Multiaddr = "/ip6/fd00::5/udp/4001/quic-v1".parse().unwrap();

        assert_eq!(ip_of(&relayed), None);
        assert_eq!(ip_of(&direct), Some("fd00::5".parse().unwrap()));
    }
}
