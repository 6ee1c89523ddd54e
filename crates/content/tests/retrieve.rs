//! Retrieval from peers over pipes: good ones, bad ones, and ones that go away.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod transfer_support;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures::StreamExt as _;

use tokio::io::AsyncWriteExt as _;
use transfer_support::{
    Node, Reader, answer_with, block_frame, flipped, frame, next_request, noise, read_all,
};
use warren_content::core::block::Encoder;
use warren_content::core::fetch::FetchLimits;
use warren_content::core::manifest::{
    ChunkRef, DirectoryEntry, FileBuilder, Manifest, PartRef, TreeOf, build_directory,
};
use warren_content::core::wire::Response;
use warren_content::retrieve::{DirectoryPiece, RetrieveError, RetrievedDirectory};
use warren_content::store::PutOptions;
use warren_content::{BlockId, ChunkId, DocumentId, Encoding, MAX_BLOCK_BYTES, Store, StoredBlock};
use warren_identity::UnixMillis;
use warren_telemetry::SourceType;

const MIB: usize = 1024 * 1024;

/// The store works in real time, so virtual time would run ahead of it: real time-outs, but short ones.
fn impatient() -> FetchLimits {
    FetchLimits {
        stall_timeout: Duration::from_millis(300),
        ..FetchLimits::default()
    }
}

#[tokio::test]
async fn given_a_document_on_a_peer_when_read_then_it_is_identical_listed_with_its_record_and_announced()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = noise("whole", 9 * MIB + 17);
    let document = holder.put(&content).await;
    reader.network.add_node(&holder);

    let retrieved = reader.retriever.open(document, None).await.unwrap();
    assert_eq!(
        (retrieved.size, retrieved.source),
        (content.len() as u64, SourceType::P2p)
    );
    assert!(
        read_all(retrieved).await.unwrap() == content,
        "the content differs"
    );

    let listed = reader
        .node
        .store
        .document(document)
        .unwrap()
        .expect("it is listed");
    assert_eq!(
        listed.record.expect("with its record").value().title,
        "a document"
    );
    assert_eq!(*reader.network.announced.lock().unwrap(), [document]);
}

#[tokio::test]
async fn given_a_retrieved_document_when_read_again_then_it_comes_from_the_local_store() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = noise("again", 3 * MIB);
    let document = holder.put(&content).await;
    reader.network.add_node(&holder);
    reader.read(document).await.unwrap();
    reader.network.remove(1);

    let retrieved = reader.retriever.open(document, None).await.unwrap();
    assert_eq!(retrieved.source, SourceType::Local);
    assert!(
        read_all(retrieved).await.unwrap() == content,
        "the content differs"
    );
}

#[tokio::test]
async fn given_text_when_retrieved_then_it_travels_compressed() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = "The warren has many entrances. "
        .repeat(100_000)
        .into_bytes();
    let document = holder.put(&content).await;
    reader.network.add_node(&holder);
    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    let sent = holder.counter(r#"warren_transfer_bytes_total{side="server"}"#);
    assert!(
        sent < content.len() as u64 / 10,
        "{sent} bytes sent for {}",
        content.len()
    );
}

#[tokio::test]
async fn given_an_empty_document_when_read_then_it_is_empty_and_listed() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(b"").await;
    reader.network.add_node(&holder);
    assert_eq!(reader.read(document).await.unwrap(), b"");
    assert!(reader.node.store.document(document).unwrap().is_some());
}

#[tokio::test]
async fn given_a_liar_among_the_providers_when_read_then_its_block_is_discarded_counted_and_fetched_elsewhere()
 {
    let (holder, reader) = (Node::new(2), Reader::new());
    let content = noise("liar", 6 * MIB);
    let document = holder.put(&content).await;
    let store = holder.store.clone();
    reader.network.add_player(1, move |stream| {
        answer_with(stream, store.clone(), |request, _, block| {
            Some(block_frame(request, &flipped(&block)))
        })
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    assert_eq!(
        reader.bad_blocks("hash"),
        1,
        "the liar was asked again, or never caught"
    );
    assert!(reader.peers.is_penalised(&transfer_support::peer(1)));
}

#[tokio::test]
async fn given_only_a_liar_when_read_then_the_error_names_it_and_nothing_is_passed_on() {
    let (holder, reader) = (Node::new(2), Reader::new());
    let document = holder.put(&noise("only a liar", MIB)).await;
    let store = holder.store.clone();
    reader.network.add_player(1, move |stream| {
        answer_with(stream, store.clone(), |request, _, block| {
            Some(block_frame(request, &flipped(&block)))
        })
    });

    let error = reader.read(document).await.unwrap_err();
    assert!(error.to_string().contains("sent a wrong block"), "{error}");
    assert!(!reader.node.store.has_block(document.into()).unwrap());
}

#[tokio::test]
async fn given_a_zstd_bomb_when_received_then_it_is_refused_as_what_it_claims_to_be() {
    let (holder, reader) = (Node::new(2), Reader::new());
    let document = holder.put(&"text ".repeat(200_000).into_bytes()).await;
    let store = holder.store.clone();
    reader.network.add_player(1, move |stream| {
        answer_with(stream, store.clone(), |request, id, mut block| {
            if matches!(id, BlockId::Chunk(_)) {
                let stored = block.bytes.len() as u32;
                block.plain_size = stored.max(1000);
            }
            Some(block_frame(request, &block))
        })
    });

    reader.read(document).await.unwrap_err();
    assert_eq!(reader.bad_blocks("decode"), 1);
}

#[tokio::test]
async fn given_half_a_block_and_a_closed_connection_when_read_then_another_provider_completes_it() {
    let (holder, reader) = (Node::new(2), Reader::new());
    let content = noise("half", 4 * MIB);
    let document = holder.put(&content).await;
    let store = holder.store.clone();
    reader.network.add_player(1, move |mut stream| {
        let store = store.clone();
        async move {
            let Some(warren_content::core::wire::Request::Get { request, block }) =
                next_request(&mut stream).await
            else {
                return;
            };
            let whole = block_frame(request, &store.block(block).unwrap().unwrap());
            stream.write_all(&whole[..whole.len() / 2]).await.unwrap();
        }
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    assert!(
        reader.sessions_ended("io") >= 1,
        "the cut connection was not counted"
    );
}

#[tokio::test]
async fn given_garbage_when_received_then_the_connection_is_closed_and_counted() {
    let (holder, reader) = (Node::new(2), Reader::new());
    let content = noise("garbage", MIB);
    let document = holder.put(&content).await;
    reader.network.add_player(1, |mut stream| async move {
        next_request(&mut stream).await;
        stream
            .write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n")
            .await
            .unwrap();
        // It must not be the end of the stream that ends it.
        std::future::pending::<()>().await;
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    // "HTTP" as a length is 1.2 GB.
    assert_eq!(reader.sessions_ended("frame_length"), 1);
}

#[tokio::test]
async fn given_a_block_of_two_gibibytes_when_announced_then_nothing_is_allocated_and_it_is_counted()
{
    let (holder, reader) = (Node::new(2), Reader::new());
    let content = noise("two gibibytes", MIB);
    let document = holder.put(&content).await;
    reader.network.add_player(1, |mut stream| async move {
        let request = next_request(&mut stream).await.unwrap().id();
        let mut bytes = vec![0, 0, 0, 14, 0x81];
        bytes.extend(request.to_be_bytes());
        bytes.push(0);
        bytes.extend((2u32 * 1024 * 1024 * 1024).to_be_bytes());
        bytes.extend((2u32 * 1024 * 1024 * 1024).to_be_bytes());
        stream.write_all(&bytes).await.unwrap();
        std::future::pending::<()>().await;
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    assert_eq!(reader.sessions_ended("block_too_large"), 1);
}

#[tokio::test]
async fn given_an_answer_that_was_never_asked_for_when_received_then_the_connection_is_closed_and_counted()
 {
    let (holder, reader) = (Node::new(2), Reader::new());
    let document = holder.put(&noise("unasked", MIB)).await;
    reader.network.add_player(1, |mut stream| async move {
        next_request(&mut stream).await;
        stream
            .write_all(&frame(&Response::NotFound { request: 77_777 }))
            .await
            .unwrap();
        std::future::pending::<()>().await;
    });
    reader.network.add_node(&holder);
    reader.read(document).await.unwrap();
    assert_eq!(reader.sessions_ended("unasked_answer"), 1);
}

#[tokio::test]
async fn given_a_silent_provider_when_read_then_another_is_asked_after_the_time_out() {
    let (holder, reader) = (Node::new(2), Reader::with_fetch_limits(impatient()));
    let content = noise("silence", 2 * MIB);
    let document = holder.put(&content).await;
    reader.network.add_player(1, |stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
}

#[tokio::test]
async fn given_only_a_silent_provider_when_read_then_it_fails_after_the_time_out() {
    let reader = Reader::with_fetch_limits(impatient());
    let document = Node::new(2).put(&noise("only silence", MIB)).await;
    reader.network.add_player(1, |stream| async move {
        let _open = stream;
        std::future::pending::<()>().await;
    });
    let error = reader.read(document).await.unwrap_err();
    assert!(
        error.to_string().contains("did not answer in time"),
        "{error}"
    );
}

#[tokio::test]
async fn given_the_first_provider_killed_in_the_middle_when_read_then_it_completes_from_another() {
    let (first, second, reader) = (Node::new(1), Node::new(2), Reader::new());
    let content = noise("killed", 24 * MIB);
    let document = first.put(&content).await;
    second.put(&content).await;
    let (store, answered) = (first.store.clone(), Arc::new(AtomicUsize::new(0)));
    let count = answered.clone();
    reader.network.add_player(1, move |stream| {
        let count = count.clone();
        answer_with(stream, store.clone(), move |request, _, block| {
            (count.fetch_add(1, Ordering::Relaxed) < 5).then(|| block_frame(request, &block))
        })
    });
    reader.network.add_node(&second);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    assert!(
        answered.load(Ordering::Relaxed) > 5,
        "the first provider was never killed"
    );
    assert!(second.blocks_sent() > 0);
}

#[tokio::test]
async fn given_a_retrieval_that_broke_off_when_tried_again_then_only_the_rest_is_fetched() {
    let (holder, reader) = (Node::new(2), Reader::new());
    let content = noise("resumed", 20 * MIB);
    let document = holder.put(&content).await;
    let (store, answered) = (holder.store.clone(), Arc::new(AtomicUsize::new(0)));
    reader.network.add_player(1, move |stream| {
        let answered = answered.clone();
        answer_with(stream, store.clone(), move |request, _, block| {
            (answered.fetch_add(1, Ordering::Relaxed) < 8).then(|| block_frame(request, &block))
        })
    });
    reader.read(document).await.unwrap_err();
    reader.network.remove(1);
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    let blocks = holder
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .count() as u64
        + 1;
    assert_eq!(holder.blocks_sent(), blocks - 8);
}

#[tokio::test]
async fn given_a_range_when_read_then_only_the_blocks_that_overlap_it_are_fetched() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = noise("range", 20 * MIB);
    let document = holder.put(&content).await;
    reader.network.add_node(&holder);
    let range = 7_000_000..7_000_100;

    let retrieved = reader
        .retriever
        .open(document, Some(range.clone()))
        .await
        .unwrap();
    assert_eq!(retrieved.size, content.len() as u64);
    let bytes = read_all(retrieved).await.unwrap();
    assert_eq!(bytes, content[range.start as usize..range.end as usize]);
    assert!(
        (2..=3).contains(&holder.blocks_sent()),
        "{} blocks sent",
        holder.blocks_sent()
    );
    assert!(
        reader.node.store.document(document).unwrap().is_none(),
        "a part is no document"
    );
}

#[tokio::test]
async fn given_a_range_beyond_the_end_when_opened_then_it_is_refused_with_the_size() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&noise("beyond", 1000)).await;
    reader.network.add_node(&holder);
    let error = reader
        .retriever
        .open(document, Some(900..1001))
        .await
        .unwrap_err();
    assert!(
        matches!(error, RetrieveError::Range { size: 1000, .. }),
        "{error}"
    );
}

#[tokio::test]
async fn given_two_readers_at_once_when_they_read_the_same_document_then_each_block_is_fetched_once()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = noise("single flight", 12 * MIB);
    let document = holder.put(&content).await;
    reader.network.add_node(&holder);

    let (one, other) = tokio::join!(reader.read(document), reader.read(document));
    assert!(
        one.unwrap() == content && other.unwrap() == content,
        "the content differs"
    );
    let blocks = holder
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .count() as u64
        + 1;
    assert_eq!(holder.blocks_sent(), blocks);
    assert_eq!(reader.network.connects.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn given_a_directory_of_many_small_files_when_fetched_then_all_of_it_is_here() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let folder = holder.directory().join("folder");
    std::fs::create_dir_all(folder.join("sub")).unwrap();
    for index in 0..500 {
        let name = if index % 2 == 0 {
            format!("{index}.txt")
        } else {
            format!("sub/{index}.txt")
        };
        std::fs::write(folder.join(name), format!("document {index}")).unwrap();
    }
    let options = PutOptions {
        now: UnixMillis(1),
        ..PutOptions::default()
    };
    let put = holder
        .store
        .put_directory(&folder, options, &transfer_support::key(1))
        .await
        .unwrap();
    reader.network.add_node(&holder);

    let summary = reader.retriever.fetch_all(put.document).await.unwrap();
    assert_eq!(summary.blocks, 1001);
    assert_eq!(summary.size, put.size);
    assert!(reader.node.store.document(put.document).unwrap().is_some());
    reader.network.remove(1);
    let entries = reader.retriever.directory(put.document).await.unwrap();
    assert_eq!(entries.len(), 500);
    let entry = entries
        .iter()
        .find(|entry| entry.name == "sub/77.txt")
        .unwrap();
    assert_eq!(reader.read(entry.id).await.unwrap(), b"document 77");
}

#[tokio::test]
async fn given_a_directory_when_opened_as_a_file_then_it_says_what_it_is() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let folder = holder.directory().join("folder");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join("a"), "a").unwrap();
    let put = holder
        .store
        .put_directory(&folder, PutOptions::default(), &transfer_support::key(1))
        .await
        .unwrap();
    reader.network.add_node(&holder);
    let error = reader.retriever.open(put.document, None).await.unwrap_err();
    assert!(
        matches!(error, RetrieveError::IsADirectory { .. }),
        "{error}"
    );
}

#[tokio::test]
async fn given_a_single_chunk_when_asked_for_then_it_comes_from_a_peer_and_then_from_here() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&noise("chunk", 3 * MIB)).await;
    let chunk = holder
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .next()
        .unwrap()
        .id;
    reader.network.add_node(&holder);
    let first = reader.retriever.block(chunk).await.unwrap();
    let second = reader.retriever.block(chunk).await.unwrap();
    assert_eq!(
        (first.source, second.source),
        (SourceType::P2p, SourceType::Local)
    );
    assert_eq!(first.content, second.content);
}

#[tokio::test]
async fn given_missing_blocks_when_repaired_then_they_are_filled_in_and_the_lost_ones_reported() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&noise("repair", 3 * MIB)).await;
    let chunk = holder
        .store
        .manifest(document)
        .unwrap()
        .unwrap()
        .links()
        .next()
        .unwrap()
        .id;
    let lost = BlockId::Chunk(warren_content::ChunkId::of(b"nobody has this"));
    reader.network.add_node(&holder);
    let report = reader
        .retriever
        .repair(document, vec![lost, chunk])
        .await
        .unwrap();
    assert_eq!(report.repaired, [chunk]);
    assert_eq!(
        report
            .unavailable
            .iter()
            .map(|(id, _)| *id)
            .collect::<Vec<_>>(),
        [lost]
    );
    assert!(reader.node.store.has_block(chunk).unwrap());
}

#[tokio::test]
async fn given_nobody_with_the_document_when_opened_then_the_error_says_so_and_what_to_do() {
    let reader = Reader::new();
    let document = Node::new(1).put(b"somewhere else").await;
    let error = reader
        .retriever
        .open(document, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(
        error.contains("no connected peer offers it") && error.contains("warren peers"),
        "{error}"
    );
}

#[tokio::test]
async fn given_an_unreachable_provider_when_opened_then_the_error_says_what_was_tried() {
    let reader = Reader::new();
    let document = Node::new(1).put(b"unreachable").await;
    reader.network.add(1, || {
        let peer = transfer_support::peer(1);
        Box::pin(async move {
            Err(warren_content::transfer::ConnectError::Unreachable {
                peer,
                reason: "10.0.0.1:4002: refused".into(),
            })
        })
    });
    let error = reader
        .retriever
        .open(document, None)
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("10.0.0.1:4002: refused"), "{error}");
}

#[tokio::test]
async fn given_a_retrieved_chunk_when_counted_then_it_is_observed_by_its_source() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&noise("metrics", 100)).await;
    reader.network.add_node(&holder);
    reader.read(document).await.unwrap();
    reader.read(document).await.unwrap();
    let count = |source: &str| {
        reader.node.counter(&format!(
            r#"warren_chunk_retrieval_duration_seconds_count{{source_type="{source}"}}"#
        ))
    };
    assert_eq!((count("p2p"), count("local")), (1, 1));
}

#[tokio::test]
async fn given_a_reader_that_goes_away_when_the_node_shuts_down_then_nothing_is_left_running() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&noise("shutdown", 8 * MIB)).await;
    reader.network.add_node(&holder);
    drop(reader.retriever.open(document, None).await.unwrap());
    tokio::time::timeout(Duration::from_secs(10), reader.retriever.shutdown())
        .await
        .unwrap();
    let error = reader.retriever.open(document, None).await.unwrap_err();
    assert!(matches!(error, RetrieveError::Stopped), "{error}");
}

#[tokio::test]
async fn given_a_manifest_that_lies_about_a_chunks_size_when_read_then_it_is_refused_as_malformed()
{
    let (holder, reader) = (Node::new(1), Reader::new());
    let content = noise("lying size", 1000);
    for claimed in [999, 1001] {
        let id = ChunkId::of(&content);
        let mut builder = FileBuilder::new();
        builder.push(ChunkRef { id, size: claimed }).unwrap();
        let manifest = builder.finish().unwrap().pop().unwrap();
        let lease = holder
            .store
            .begin_retrieval(manifest.id, UnixMillis(u64::MAX))
            .await
            .unwrap();
        for (id, bytes) in [
            (BlockId::from(id), content.clone().into()),
            (manifest.id.into(), manifest.bytes),
        ] {
            let block = Encoder::new().encode(&bytes).verify(id).unwrap();
            holder.store.insert_block(&lease, block).await.unwrap();
        }
        reader.network.add_node(&holder);

        let read = reader.read(manifest.id).await.map(|content| content.len());

        assert!(
            matches!(read, Err(RetrieveError::Malformed { .. })),
            "{claimed}: {read:?}"
        );
    }
}

/// A file of `count` chunks of `size` bytes in the holder's store, whose manifest claims `claimed` bytes for each.
async fn put_small_chunks(
    holder: &Node,
    count: usize,
    size: usize,
    claimed: u32,
) -> (DocumentId, Vec<u8>) {
    let content = noise("small chunks", count * size);
    let mut builder = FileBuilder::new();
    let mut blocks: Vec<(BlockId, bytes::Bytes)> = Vec::new();
    for chunk in content.chunks(size) {
        let id = ChunkId::of(chunk);
        builder.push(ChunkRef { id, size: claimed }).unwrap();
        blocks.push((id.into(), chunk.to_vec().into()));
    }
    let manifest = builder.finish().unwrap().pop().unwrap();
    blocks.push((manifest.id.into(), manifest.bytes));
    insert(&holder.store, manifest.id, blocks).await;
    (manifest.id, content)
}

/// Puts blocks into a store as they are, whatever they say.
async fn insert(store: &Store, document: DocumentId, blocks: Vec<(BlockId, bytes::Bytes)>) {
    let lease = store
        .begin_retrieval(document, UnixMillis(u64::MAX))
        .await
        .unwrap();
    for (id, bytes) in blocks {
        let block = Encoder::new().encode(&bytes).verify(id).unwrap();
        store.insert_block(&lease, block).await.unwrap();
    }
}

#[tokio::test]
async fn given_a_liar_with_huge_answers_to_small_questions_when_read_then_little_is_held_and_another_completes_it()
 {
    let (holder, reader) = (Node::new(2), Reader::new());
    let (document, content) = put_small_chunks(&holder, 500, 1000, 1000).await;
    let metrics = reader.node.metrics.clone();
    let most = Arc::new(AtomicUsize::new(0));
    let (store, seen) = (holder.store.clone(), most.clone());
    reader.network.add_player(1, move |stream| {
        let (metrics, seen) = (metrics.clone(), seen.clone());
        let huge = StoredBlock {
            encoding: Encoding::Plain,
            plain_size: MAX_BLOCK_BYTES,
            bytes: vec![7; MAX_BLOCK_BYTES as usize].into(),
        };
        answer_with(stream, store.clone(), move |request, id, block| {
            let text = metrics.encode();
            let held = text
                .lines()
                .find_map(|line| line.strip_prefix("warren_transfer_unverified_bytes "))
                .unwrap();
            seen.fetch_max(held.parse().unwrap(), Ordering::Relaxed);
            // Honest until there is something to gain.
            let answer = if matches!(id, BlockId::Chunk(_)) {
                &huge
            } else {
                &block
            };
            Some(block_frame(request, answer))
        })
    });
    reader.network.add_node(&holder);

    assert!(
        reader.read(document).await.unwrap() == content,
        "the content differs"
    );
    // The head's answer may be as large as a block may be; of the others nothing is kept.
    let most = most.load(Ordering::Relaxed);
    assert!(most <= 2 * MAX_BLOCK_BYTES as usize, "{most} bytes held");
    assert!(reader.peers.is_penalised(&transfer_support::peer(1)));
}

#[tokio::test]
async fn given_a_manifest_that_claims_less_than_its_chunks_have_when_read_then_it_is_malformed_and_no_peer_is_blamed()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let (document, _) = put_small_chunks(&holder, 60, MIB, 1).await;
    reader.network.add_node(&holder);

    let read = reader.read(document).await.map(|content| content.len());

    assert!(
        matches!(read, Err(RetrieveError::Malformed { .. })),
        "{read:?}"
    );
    assert!(!reader.peers.is_penalised(&transfer_support::peer(1)));
    assert_eq!(reader.bad_blocks("hash"), 0);
}

/// The files of a directory as they come; ends with the stream or its error.
async fn read_files(
    mut directory: RetrievedDirectory,
) -> (Vec<(String, Vec<u8>)>, Option<RetrieveError>) {
    let mut files: Vec<(String, Vec<u8>)> = Vec::new();
    while let Some(piece) = directory.next().await {
        match piece {
            Ok(DirectoryPiece::File(entry)) => files.push((entry.name, Vec::new())),
            Ok(DirectoryPiece::Bytes(bytes)) => files.last_mut().unwrap().1.extend(bytes),
            Err(error) => return (files, Some(error)),
        }
    }
    (files, None)
}

async fn put_files(holder: &Node, files: &[(String, Vec<u8>)]) -> DocumentId {
    let mut folder = holder.store.begin_directory();
    for (name, content) in files {
        folder.add(name, content.as_slice()).await.unwrap();
    }
    let options = PutOptions {
        now: UnixMillis(1),
        ..PutOptions::default()
    };
    let put = folder.finish(options, &transfer_support::key(1)).await;
    put.unwrap().document
}

#[tokio::test]
async fn given_a_directory_on_a_peer_when_opened_then_all_its_files_come_in_order_and_it_is_listed()
{
    let (holder, reader) = (Node::new(1), Reader::new());
    let mut files: Vec<(String, Vec<u8>)> = (0..700)
        .map(|index| {
            (
                format!("{index:03}.txt"),
                format!("document {index}").into_bytes(),
            )
        })
        .collect();
    files.push(("empty".to_owned(), Vec::new()));
    files.push(("large".to_owned(), noise("large", 5 * MIB)));
    files.push(("sub/last".to_owned(), b"last".to_vec()));
    let document = put_files(&holder, &files).await;
    reader.network.add_node(&holder);

    let directory = reader.retriever.open_directory(document).await.unwrap();
    assert_eq!(directory.source, SourceType::P2p);
    let (read, error) = read_files(directory).await;

    assert!(error.is_none(), "{error:?}");
    assert!(read == files, "the files differ");
    assert!(reader.node.store.document(document).unwrap().is_some());
}

#[tokio::test]
async fn given_a_directory_whose_last_file_is_late_when_opened_then_the_files_before_it_come_first()
{
    let (holder, reader) = (Node::new(1), Reader::new());
    let files: Vec<(String, Vec<u8>)> = ["a", "b", "c"]
        .map(|name| (name.to_owned(), noise(name, 2 * MIB)))
        .to_vec();
    let document = put_files(&holder, &files).await;
    let last = DocumentId::from_hash(
        *holder
            .store
            .manifest(document)
            .unwrap()
            .unwrap()
            .links()
            .last()
            .unwrap()
            .id
            .hash(),
    );
    let late: Vec<BlockId> = holder
        .store
        .manifest(last)
        .unwrap()
        .unwrap()
        .links()
        .map(|link| link.id)
        .collect();
    let store = holder.store.clone();
    reader.network.add_player(1, move |stream| {
        let late = late.clone();
        answer_with(stream, store.clone(), move |request, id, block| {
            Some(match late.contains(&id) {
                true => Vec::new(),
                false => block_frame(request, &block),
            })
        })
    });

    let mut directory = reader.retriever.open_directory(document).await.unwrap();
    let mut read: Vec<(String, Vec<u8>)> = Vec::new();
    loop {
        match directory.next().await.unwrap().unwrap() {
            DirectoryPiece::File(entry) if entry.name == "c" => break,
            DirectoryPiece::File(entry) => read.push((entry.name, Vec::new())),
            DirectoryPiece::Bytes(bytes) => read.last_mut().unwrap().1.extend(bytes),
        }
    }
    assert!(read == files[..2], "the files differ");
}

#[tokio::test]
async fn given_files_in_many_tiny_chunks_when_their_directory_is_opened_then_it_is_read_although_none_is_kept_early()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let mut entries = Vec::new();
    let mut files = Vec::new();
    let mut blocks: Vec<(BlockId, bytes::Bytes)> = Vec::new();
    for file in 0..40_u8 {
        let mut builder = FileBuilder::new();
        let content: Vec<u8> = (0..100).map(|byte| byte ^ file).collect();
        for byte in content.chunks(1) {
            let id = ChunkId::of(byte);
            builder.push(ChunkRef { id, size: 1 }).unwrap();
            blocks.push((id.into(), byte.to_vec().into()));
        }
        let manifest = builder.finish().unwrap().pop().unwrap();
        let name = format!("{file:02}");
        entries.push(DirectoryEntry {
            name: name.clone(),
            id: manifest.id,
            size: 100,
        });
        files.push((name, content));
        blocks.push((manifest.id.into(), manifest.bytes));
    }
    let root = build_directory(entries).unwrap().pop().unwrap();
    blocks.push((root.id.into(), root.bytes));
    insert(&holder.store, root.id, blocks).await;
    reader.network.add_node(&holder);

    let directory = reader.retriever.open_directory(root.id).await.unwrap();
    let (read, error) = read_files(directory).await;

    assert!(error.is_none(), "{error:?}");
    assert!(read == files, "the files differ");
}

#[tokio::test]
async fn given_a_directory_in_parts_that_clash_when_opened_then_it_breaks_off_as_malformed() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let file = holder.put(b"").await;
    let part = |names: &[&str]| {
        let entries = names
            .iter()
            .map(|name| DirectoryEntry {
                name: (*name).to_owned(),
                id: file,
                size: 0,
            })
            .collect();
        build_directory(entries).unwrap().pop().unwrap()
    };
    let parts = [part(&["a", "a-b"]), part(&["a/c"])];
    let root = Manifest::Tree {
        size: 0,
        of: TreeOf::Directory,
        parts: parts
            .iter()
            .map(|part| PartRef {
                id: part.id,
                size: 0,
            })
            .collect(),
    }
    .encode()
    .unwrap();
    let mut blocks: Vec<(BlockId, bytes::Bytes)> = vec![(root.id.into(), root.bytes)];
    blocks.extend(parts.map(|part| (part.id.into(), part.bytes)));
    insert(&holder.store, root.id, blocks).await;
    reader.network.add_node(&holder);

    let directory = reader.retriever.open_directory(root.id).await.unwrap();
    let (read, error) = read_files(directory).await;

    assert_eq!(read.len(), 2);
    assert!(
        matches!(error, Some(RetrieveError::Malformed { .. })),
        "{error:?}"
    );
}
