//! iroh-blobs on iroh: QUIC between two addresses known to each other, no relay, no discovery.

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context, bail};
use bao_tree::io::BaoContentItem;
use futures::StreamExt as _;
use iroh::endpoint::presets;
use iroh::protocol::Router;
use iroh::{Endpoint, EndpointAddr, RelayMode};
use iroh_blobs::get::request::{GetBlobItem, get_blob};
use iroh_blobs::store::fs::FsStore;
use iroh_blobs::store::mem::MemStore;
use iroh_blobs::{ALPN, BlobsProtocol, Hash};
use tokio::io::AsyncReadExt as _;

use super::PIECE_BYTES;
use crate::child::{self, Ready, Report};
use crate::measure::Section;

async fn endpoint(listen: IpAddr) -> anyhow::Result<Endpoint> {
    let builder = Endpoint::builder(presets::Minimal)
        .relay_mode(RelayMode::Disabled)
        .clear_ip_transports()
        .bind_addr(SocketAddr::new(listen, 0))?;
    Ok(builder.bind().await?)
}

/// Says `ENDPOINT_ID@HOST:PORT#HASH`.
pub(crate) async fn send(
    input: PathBuf,
    listen: IpAddr,
    store: Option<PathBuf>,
) -> anyhow::Result<()> {
    let (blobs, hash) = match store {
        Some(folder) => {
            let store = FsStore::load(folder).await?;
            let added = store.blobs().add_path(std::path::absolute(input)?).await?;
            (BlobsProtocol::new(&store, None), added.hash)
        }
        None => {
            let store = MemStore::new();
            let added = store
                .blobs()
                .add_bytes(tokio::fs::read(input).await?)
                .await?;
            (BlobsProtocol::new(&store, None), added.hash)
        }
    };
    let endpoint = endpoint(listen).await?;
    let socket = endpoint
        .bound_sockets()
        .into_iter()
        .find(SocketAddr::is_ipv4)
        .context("no socket")?;
    let address = format!("{}@{}:{}#{hash}", endpoint.id(), listen, socket.port());
    let router = Router::builder(endpoint).accept(ALPN, blobs).spawn();
    let section = Section::begin();
    child::say(&Ready { address })?;
    child::until_told().await?;
    let report = section.end();
    router.shutdown().await?;
    child::say(&report)
}

pub(crate) async fn get(
    listen: IpAddr,
    from: &str,
    hash: &str,
    store: Option<PathBuf>,
) -> anyhow::Result<()> {
    let (id, socket) = from.split_once('@').context("no address")?;
    let address = EndpointAddr::new(id.parse()?).with_ip_addr(socket.parse()?);
    let hash: Hash = hash.parse()?;
    let endpoint = endpoint(listen).await?;
    let report = match store {
        Some(folder) => to_store(&endpoint, address, hash, FsStore::load(folder).await?).await?,
        None => to_stream(&endpoint, address, hash).await?,
    };
    endpoint.close().await;
    child::say(&report)
}

async fn to_store(
    endpoint: &Endpoint,
    from: EndpointAddr,
    hash: Hash,
    store: FsStore,
) -> anyhow::Result<Report> {
    let section = Section::begin();
    let connection = endpoint.connect(from, ALPN).await?;
    store.remote().fetch(connection, hash).complete().await?;
    store.sync_db().await?;
    let report = section.end();
    let mut reader = store.blobs().reader(hash);
    let mut hasher = blake3::Hasher::new();
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        match reader.read(&mut piece).await? {
            0 => break,
            count => hasher.update(&piece[..count]),
        };
    }
    let (bytes, result) = (hasher.count(), hasher.finalize().to_hex().to_string());
    store.shutdown().await?;
    Ok(Report {
        bytes,
        result,
        ..report
    })
}

async fn to_stream(endpoint: &Endpoint, from: EndpointAddr, hash: Hash) -> anyhow::Result<Report> {
    let section = Section::begin();
    let connection = endpoint.connect(from, ALPN).await?;
    let mut items = get_blob(connection, hash);
    let mut hasher = blake3::Hasher::new();
    loop {
        match items.next().await {
            Some(GetBlobItem::Item(BaoContentItem::Leaf(leaf))) => {
                hasher.update(&leaf.data);
            }
            Some(GetBlobItem::Item(BaoContentItem::Parent(_))) => {}
            Some(GetBlobItem::Done(_)) => break,
            Some(GetBlobItem::Error(error)) => return Err(error.into()),
            None => bail!("the stream ended early"),
        }
    }
    let report = section.end();
    Ok(Report {
        bytes: hasher.count(),
        result: hasher.finalize().to_hex().to_string(),
        ..report
    })
}
