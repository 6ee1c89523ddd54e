//! Our side: a store, the bulk port and the retriever, put together as the daemon does it, without mesh and API.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use anyhow::{Context, ensure};
use futures::StreamExt as _;
use futures::future::{BoxFuture, FutureExt as _};
use tokio_util::sync::CancellationToken;
use warren_content::retrieve::{Connector, Peers, Providers, Retriever, RetrieverOptions};
use warren_content::store::PutOptions;
use warren_content::transfer::bulk::{BulkDialer, BulkListener};
use warren_content::transfer::{BlockServer, ConnectError, Link, TransferLimits, TransferMetrics};
use warren_content::{BlockId, DocumentId, Store, StoreOptions};
use warren_identity::{
    CaRequest, Capabilities, CertificateAuthority, Leaf, LeafRequest, NodeKey, OrganizationId,
    PeerId, Roots, Serial, Trust, UnixMillis, UnixTime, WildcardNames,
};
use warren_telemetry::{Metrics, RetrievalMetrics};

use super::{How, WarrenGet};
use crate::child::{self, Ready, Report};
use crate::material::FolderDigest;
use crate::measure::Section;

const ORGANIZATION: &str = "org_bench";
const VALIDITY: Duration = Duration::from_secs(7 * 24 * 3600);
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// Seeds of the two nodes' keys, which protect nothing.
pub(super) const SERVER: u8 = 1;
pub(super) const CLIENT: u8 = 2;

/// Makes an organisation of two nodes in `folder`.
pub(crate) fn write_pki(folder: &Path) -> anyhow::Result<()> {
    let now = UnixTime::now();
    let request = CaRequest {
        organization: organization()?,
        key_material: [7; 32].into(),
        serial: Serial::from_random([7; 16]),
        validity: VALIDITY,
    };
    let authority = CertificateAuthority::create(&request, now)?;
    std::fs::write(folder.join("ca.pem"), authority.certificate_pem())?;
    for node in [SERVER, CLIENT] {
        let request = LeafRequest {
            peer_id: key(node).peer_id(),
            name: format!("node-{node}"),
            dns: Vec::new(),
            ip: Vec::new(),
            capabilities: Capabilities::parse(["storage"])?,
            validity: VALIDITY,
            companion_key: None,
            wildcards: WildcardNames::Refuse,
        };
        let leaf = authority.issue(&request, now, Serial::from_random([node; 16]))?;
        std::fs::write(folder.join(format!("node-{node}.pem")), leaf.to_pem())?;
    }
    Ok(())
}

fn organization() -> anyhow::Result<OrganizationId> {
    Ok(OrganizationId::new(ORGANIZATION)?)
}

fn key(node: u8) -> NodeKey {
    NodeKey::from_seed([node; 32])
}

/// What a node of [`write_pki`] trusts and is.
pub(super) fn trust(pki: &Path, node: u8) -> anyhow::Result<Trust> {
    let roots = Roots::from_pem(
        organization()?,
        &std::fs::read_to_string(pki.join("ca.pem"))?,
    )?;
    let trust = Trust::new(key(node), roots);
    let leaf = std::fs::read_to_string(pki.join(format!("node-{node}.pem")))?;
    trust.replace_leaf(Leaf::from_pem(&leaf)?, UnixTime::now())?;
    Ok(trust)
}

fn now() -> UnixMillis {
    SystemTime::now().into()
}

fn options() -> PutOptions {
    PutOptions {
        title: Some("benchmark".to_owned()),
        now: now(),
        ..PutOptions::default()
    }
}

pub(crate) async fn put(store: &Path, input: &Path) -> anyhow::Result<()> {
    let store = Store::open(store, StoreOptions::default(), &Metrics::new())?;
    let section = Section::begin();
    let reader = tokio::fs::File::open(input).await?;
    let receipt = store.put(reader, options(), &key(SERVER)).await?;
    let report = section.end();
    child::say(&Report {
        bytes: receipt.size,
        result: receipt.document.to_string(),
        ..report
    })
}

pub(crate) async fn put_folder(store: &Path, input: &Path) -> anyhow::Result<()> {
    let store = Store::open(store, StoreOptions::default(), &Metrics::new())?;
    let section = Section::begin();
    let receipt = store.put_directory(input, options(), &key(SERVER)).await?;
    let report = section.end();
    ensure!(receipt.skipped.is_empty(), "files were skipped");
    child::say(&Report {
        bytes: receipt.size,
        result: receipt.document.to_string(),
        ..report
    })
}

pub(crate) async fn serve(pki: &Path, store: &Path, listen: IpAddr) -> anyhow::Result<()> {
    let metrics = Metrics::new();
    let store = Store::open(store, StoreOptions::default(), &metrics)?;
    let transfer = TransferMetrics::register(&metrics);
    let server = BlockServer::new(store, TransferLimits::default(), transfer.clone());
    let address = SocketAddr::new(listen, 0);
    let listener = BulkListener::bind(address, &trust(pki, SERVER)?, server, transfer).await?;
    let address = listener.local_addr().to_string();
    let stop = CancellationToken::new();
    let running = tokio::spawn(listener.run(stop.clone()));
    let section = Section::begin();
    child::say(&Ready { address })?;
    child::until_told().await?;
    let report = section.end();
    stop.cancel();
    running.await?;
    child::say(&report)
}

/// Knows one peer, which has everything.
struct OnePeer {
    peer: PeerId,
    address: String,
    dialer: BulkDialer,
}

impl Providers for OnePeer {
    fn find(&self, _: BlockId) -> BoxFuture<'_, Vec<PeerId>> {
        std::future::ready(vec![self.peer]).boxed()
    }

    fn fetched(&self, _: DocumentId) {}
}

impl Connector for OnePeer {
    fn connect(&self, peer: PeerId) -> BoxFuture<'_, Result<Link, ConnectError>> {
        let addresses = std::slice::from_ref(&self.address);
        self.dialer.dial(peer, addresses).boxed()
    }
}

pub(crate) async fn get(get: WarrenGet) -> anyhow::Result<()> {
    let document: DocumentId = get.document.parse().context("no document id")?;
    let metrics = Metrics::new();
    let store = Store::open(&get.store, StoreOptions::default(), &metrics)?;
    let peer = Arc::new(OnePeer {
        peer: key(SERVER).peer_id(),
        address: get.from.to_string(),
        dialer: BulkDialer::new(trust(&get.pki, CLIENT)?),
    });
    let transfer = TransferMetrics::register(&metrics);
    let peers = Peers::new(
        peer.clone(),
        TransferLimits::default(),
        transfer,
        CONNECT_TIMEOUT,
    );
    let retrieval = RetrievalMetrics::register(&metrics);
    let retriever = Retriever::new(
        store.clone(),
        peers,
        peer,
        retrieval,
        RetrieverOptions::default(),
    );
    let report = match get.how {
        How::Keep => keep(&retriever, store, document).await?,
        How::Stream => stream(&retriever, document).await?,
        How::Folder => folder(&retriever, store, document).await?,
    };
    retriever.shutdown().await;
    child::say(&report)
}

async fn keep(retriever: &Retriever, store: Store, document: DocumentId) -> anyhow::Result<Report> {
    let section = Section::begin();
    let summary = retriever.fetch_all(document).await?;
    let report = section.end();
    let digest = tokio::task::spawn_blocking(move || read_back(&store, document)).await??;
    Ok(Report {
        bytes: summary.size,
        result: digest.to_hex().to_string(),
        ..report
    })
}

async fn stream(retriever: &Retriever, document: DocumentId) -> anyhow::Result<Report> {
    let section = Section::begin();
    let mut pieces = retriever.open(document, None).await?;
    let mut hasher = blake3::Hasher::new();
    while let Some(piece) = pieces.next().await {
        hasher.update(&piece?);
    }
    let report = section.end();
    Ok(Report {
        bytes: hasher.count(),
        result: hasher.finalize().to_hex().to_string(),
        ..report
    })
}

async fn folder(
    retriever: &Retriever,
    store: Store,
    document: DocumentId,
) -> anyhow::Result<Report> {
    let section = Section::begin();
    let summary = retriever.fetch_all(document).await?;
    let entries = retriever.directory(document).await?;
    let reading = tokio::task::spawn_blocking(move || {
        let mut digest = FolderDigest::default();
        for entry in entries {
            digest.add(&entry.name, read_back(&store, entry.id)?);
        }
        anyhow::Ok(digest)
    });
    let digest = reading.await??;
    let report = section.end();
    Ok(Report {
        bytes: summary.size,
        result: digest.finish(),
        ..report
    })
}

/// The BLAKE3 of a file as the store alone gives it.
fn read_back(store: &Store, document: DocumentId) -> anyhow::Result<blake3::Hash> {
    let size = store
        .manifest(document)?
        .context("the document is not in the store")?
        .size();
    let mut hasher = blake3::Hasher::new();
    for piece in store.read_range(document, 0..size)? {
        hasher.update(&piece?);
    }
    Ok(hasher.finalize())
}
