//! The store through its public interface: putting, reading, listing, removing, repairing.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod store_support;

use std::io;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::task::{Context, Poll};

use store_support::{NOW, key, noise, open, open_with, packs, put, read, titled};
use tokio::io::{AsyncRead, ReadBuf};
use warren_content::core::manifest::Manifest;
use warren_content::core::record::DocumentRecord;
use warren_content::store::{
    CommitFetchedError, DocumentPage, OpenError, Origin, PutError, PutOptions, ReadError,
    Retention, StoreError,
};
use warren_content::{BlockId, ChunkId, DocumentId, Store, StoreOptions, VerifiedBlock};
use warren_identity::UnixMillis;
use warren_telemetry::Metrics;

fn block(plain: &[u8]) -> (ChunkId, VerifiedBlock) {
    let id = ChunkId::of(plain);
    let stored =
        warren_content::core::block::Encoder::new().encode(&bytes::Bytes::copy_from_slice(plain));
    (id, stored.verify(id.into()).unwrap())
}

fn verified(store: &Store, id: BlockId) -> VerifiedBlock {
    store.read_block(id).unwrap().unwrap()
}

#[tokio::test]
async fn given_documents_of_all_sizes_when_put_then_read_back_the_same() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    for length in [0, 1, 15_000, 17_000, 262_143, 262_144, 3_000_000, 9_000_000] {
        let content = noise(&format!("size {length}"), length);
        let receipt = store.put(&content[..], titled("t"), &key()).await.unwrap();
        assert_eq!((receipt.size, receipt.file_count), (length as u64, 1));
        assert_eq!(
            read(&store, receipt.document).unwrap(),
            content,
            "{length} bytes"
        );
    }
    let text = "A sentence that repeats itself. ".repeat(100_000);
    let receipt = store
        .put(text.as_bytes(), titled("t"), &key())
        .await
        .unwrap();
    assert!(receipt.stored_bytes < receipt.size / 20, "{receipt:?}");
    assert_eq!(read(&store, receipt.document).unwrap(), text.as_bytes());
}

#[tokio::test]
async fn given_a_put_when_reopened_then_everything_is_there() {
    let folder = tempfile::tempdir().unwrap();
    let (small, large) = (noise("small", 900), noise("large", 5_000_000));
    let store = open(folder.path());
    let ids = [put(&store, &small).await, put(&store, &large).await];
    drop(store);

    let store = open(folder.path());
    assert_eq!(read(&store, ids[0]).unwrap(), small);
    assert_eq!(read(&store, ids[1]).unwrap(), large);
    let info = store.document(ids[1]).unwrap().unwrap();
    let record = info.record.unwrap();
    assert_eq!(
        (record.value().title.as_str(), record.value().size),
        ("a document", 5_000_000)
    );
    assert_eq!(record.signer(), key().peer_id());
    // And it goes on in the same pack.
    put(&store, &noise("more", 100_000)).await;
    assert_eq!(packs(folder.path()).0.len(), 1);
}

#[tokio::test]
async fn given_content_put_twice_then_it_is_stored_once_and_keeps_its_creation_time() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let content = noise("twice", 4_000_000);
    let first = store
        .put(&content[..], titled("first"), &key())
        .await
        .unwrap();
    let blocks = store.usage().unwrap().blocks;
    let later = PutOptions {
        now: UnixMillis(NOW.0 + 5),
        ..titled("second")
    };
    let second = store.put(&content[..], later, &key()).await.unwrap();

    assert_eq!((second.document, second.stored_bytes), (first.document, 0));
    assert_eq!(store.usage().unwrap().blocks, blocks);
    let page = store.documents(None, 10).unwrap();
    assert_eq!(page.documents.len(), 1);
    let record = page.documents[0].record.clone().unwrap();
    let record = record.value();
    assert_eq!((record.title.as_str(), record.created_at), ("second", NOW));
    assert_eq!(record.updated_at, UnixMillis(NOW.0 + 5));
    assert!(store.remove(first.document).await.unwrap());
    store.gc(NOW).await.unwrap();
    assert_eq!(store.usage().unwrap().blocks, 0);
}

#[tokio::test]
async fn given_repeated_content_in_one_document_then_each_block_is_stored_once() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let receipt = store
        .put(&vec![0; 40 << 20][..], titled("zeros"), &key())
        .await
        .unwrap();
    assert_eq!(receipt.chunk_count, 10);
    assert_eq!(store.usage().unwrap().blocks, 2);
    assert_eq!(read(&store, receipt.document).unwrap().len(), 40 << 20);
}

#[tokio::test]
async fn given_a_range_when_read_then_exactly_those_bytes_come() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let content = noise("range", 5_000_000);
    let id = put(&store, &content).await;
    for range in [
        0..0,
        0..1,
        1_234_567..4_321_000,
        4_999_999..5_000_000,
        5_000_000..5_000_000,
    ] {
        let pieces: Result<Vec<_>, _> = store.read_range(id, range.clone()).unwrap().collect();
        let expected =
            &content[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()];
        assert_eq!(pieces.unwrap().concat(), expected, "{range:?}");
    }
    assert!(matches!(
        store.read_range(id, 0..5_000_001),
        Err(ReadError::Range {
            size: 5_000_000,
            ..
        })
    ));
    let nobody = DocumentId::of(b"nobody");
    assert!(
        matches!(store.read_range(nobody, 0..0), Err(ReadError::UnknownDocument(id)) if id == nobody)
    );
}

#[tokio::test]
async fn given_many_documents_when_listed_then_pages_are_newest_first_and_stable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut ids = Vec::new();
    for n in 0..7_u8 {
        ids.push(put(&store, &[n; 100]).await);
    }
    ids.reverse();
    let first = store.documents(None, 3).unwrap();
    put(&store, b"newer than the first page").await;
    store.remove(ids[4]).await.unwrap();
    let second = store.documents(first.next, 3).unwrap();
    let third = store.documents(second.next, 3).unwrap();
    let listed: Vec<_> = [first, second, third]
        .into_iter()
        .flat_map(|page| page.documents)
        .map(|info| info.id)
        .collect();
    ids.remove(4);
    assert_eq!(listed, ids);
}

#[tokio::test]
async fn given_few_lookups_when_asked_whether_a_document_is_whole_then_what_takes_more_counts_as_not()
 {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let receipt = store
        .put(&noise("whole", 20 << 20)[..], titled("whole"), &key())
        .await
        .unwrap();
    let blocks = usize::try_from(receipt.chunk_count).unwrap() + 1;

    let mut enough = blocks + 5;
    assert!(store.is_whole(receipt.document, &mut enough).unwrap());
    assert_eq!(enough, 5);
    let mut few = blocks - 1;
    assert!(!store.is_whole(receipt.document, &mut few).unwrap());
    assert_eq!(few, 0);
}

#[tokio::test]
async fn given_a_rare_tag_when_listed_then_pages_are_full_and_hold_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut tagged = Vec::new();
    for n in 0..40_u8 {
        let is_tagged = n % 10 == 3;
        let options = PutOptions {
            // In the title it is no tag.
            tags: Some(vec![if is_tagged { "rare" } else { "rarer" }.to_owned()]),
            ..titled("rare")
        };
        let receipt = store.put(&[n; 100][..], options, &key()).await.unwrap();
        if is_tagged {
            tagged.push(receipt.document);
        }
    }
    tagged.reverse();
    let ids = |page: &DocumentPage| {
        page.documents
            .iter()
            .map(|info| info.id)
            .collect::<Vec<_>>()
    };

    let first = store.documents_tagged("rare", None, 3).unwrap();
    let second = store.documents_tagged("rare", first.next, 3).unwrap();

    assert_eq!(
        (ids(&first), ids(&second)),
        (tagged[..3].to_vec(), tagged[3..].to_vec())
    );
    assert!(second.next.is_none());
    assert!(
        store
            .documents_tagged("", None, 3)
            .unwrap()
            .documents
            .is_empty()
    );
}

#[tokio::test]
async fn given_a_removed_document_when_collected_then_its_space_is_free_and_shared_blocks_stay() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    // One chunk each of some 200 KB: the second document shares none, the third is the first again in a directory.
    let (one, two) = (noise("one", 200_000), noise("two", 200_000));
    let (first, second) = (put(&store, &one).await, put(&store, &two).await);
    let tree = tempfile::tempdir().unwrap();
    std::fs::write(tree.path().join("same.bin"), &one).unwrap();
    let directory = store
        .put_directory(tree.path(), titled("d"), &key())
        .await
        .unwrap();
    assert_eq!(
        directory.stored_bytes,
        store
            .block(directory.document.into())
            .unwrap()
            .unwrap()
            .bytes
            .len() as u64
    );

    assert!(store.remove(first).await.unwrap());
    assert!(!store.remove(first).await.unwrap());
    assert_eq!(store.gc(NOW).await.unwrap().blocks, 0);
    assert_eq!(read(&store, first).unwrap(), one);

    assert!(store.remove(second).await.unwrap());
    let before = packs(folder.path()).1;
    let report = store.gc(NOW).await.unwrap();
    assert_eq!(report.blocks, 2);
    assert!(
        packs(folder.path()).1 < before - 150_000,
        "no hole was made"
    );
    assert!(matches!(
        read(&store, second),
        Err(ReadError::UnknownDocument(_))
    ));

    assert!(store.remove(directory.document).await.unwrap());
    store.gc(NOW).await.unwrap();
    let usage = store.usage().unwrap();
    assert_eq!(
        (usage.blocks, usage.stored_bytes, usage.documents),
        (0, 0, 0)
    );
    assert_eq!(
        packs(folder.path()).0.len(),
        0,
        "a dead pack is removed whole"
    );
    assert_eq!(read(&store, put(&store, &two).await).unwrap(), two);
}

#[tokio::test]
async fn given_a_file_that_equals_a_manifest_when_one_is_removed_then_the_other_stays_whole() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let content = noise("content", 100_000);
    let document = put(&store, &content).await;
    let manifest = verified(&store, document.into()).into_plain();
    store.remove(document).await.unwrap();
    let as_file = put(&store, &manifest).await;
    assert_eq!(put(&store, &content).await, document);

    store.remove(as_file).await.unwrap();
    store.gc(NOW).await.unwrap();
    assert_eq!(read(&store, document).unwrap(), content);

    let as_file = put(&store, &manifest).await;
    store.remove(document).await.unwrap();
    store.gc(NOW).await.unwrap();
    assert_eq!(read(&store, as_file).unwrap(), manifest);
    assert!(!store.has_block(ChunkId::of(&content).into()).unwrap());
}

#[tokio::test]
async fn given_a_directory_when_put_then_every_file_is_a_document_and_links_are_left_out() {
    let tree = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(tree.path().join("sub/deep")).unwrap();
    let large = noise("large", 3_000_000);
    for (name, content) in [
        ("a.txt", &b"first"[..]),
        ("sub/empty", b""),
        ("sub/deep/large.bin", &large),
        ("z", b"first"),
    ] {
        std::fs::write(tree.path().join(name), content).unwrap();
    }
    std::os::unix::fs::symlink("/etc/passwd", tree.path().join("sub/link")).unwrap();
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let receipt = store
        .put_directory(tree.path(), titled("tree"), &key())
        .await
        .unwrap();

    assert_eq!((receipt.file_count, receipt.size), (4, 3_000_010));
    assert_eq!(receipt.skipped, [tree.path().join("sub/link")]);
    let Some(Manifest::Directory { entries, .. }) = store.manifest(receipt.document).unwrap()
    else {
        panic!("no directory");
    };
    let names: Vec<_> = entries.iter().map(|entry| entry.name.as_str()).collect();
    assert_eq!(names, ["a.txt", "sub/deep/large.bin", "sub/empty", "z"]);
    assert_eq!(read(&store, entries[1].id).unwrap(), large);
    assert_eq!(read(&store, entries[2].id).unwrap(), b"");
    assert_eq!(entries[0].id, entries[3].id);
    assert_eq!(store.documents(None, 10).unwrap().documents.len(), 1);
    assert!(
        store
            .document(receipt.document)
            .unwrap()
            .unwrap()
            .is_directory
    );
    assert!(matches!(
        store.read_range(receipt.document, 0..1),
        Err(ReadError::IsDirectory(_))
    ));

    // The same files as streams, in another order, are the same document.
    let mut streams = store.begin_directory();
    streams.add("z", &b"first"[..]).await.unwrap();
    streams.add("sub/deep/large.bin", &large[..]).await.unwrap();
    streams.add("a.txt", &b"first"[..]).await.unwrap();
    assert!(matches!(
        streams.add("../a", &b""[..]).await,
        Err(PutError::Manifest(_))
    ));
    streams.add("sub/empty", &b""[..]).await.unwrap();
    assert_eq!(
        streams
            .finish(titled("again"), &key())
            .await
            .unwrap()
            .document,
        receipt.document
    );

    store.remove(receipt.document).await.unwrap();
    store.gc(NOW).await.unwrap();
    assert_eq!(store.usage().unwrap().blocks, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_many_small_puts_at_once_then_all_are_durable() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let mut puts = tokio::task::JoinSet::new();
    for n in 0..300_u32 {
        let store = store.clone();
        puts.spawn(async move {
            let content = noise(&format!("small {n}"), 4096);
            (
                store
                    .put(&content[..], titled("s"), &key())
                    .await
                    .unwrap()
                    .document,
                content,
            )
        });
    }
    let all = puts.join_all().await;
    drop(store);
    let store = open(folder.path());
    assert_eq!(store.usage().unwrap().documents, 300);
    for (id, content) in all {
        assert_eq!(read(&store, id).unwrap(), content);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_collections_during_puts_and_reads_then_nobody_loses_anything() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let contents: Vec<_> = (0..6)
        .map(|n| noise(&format!("stress {n}"), 400_000))
        .collect();
    let collector = tokio::spawn({
        let store = store.clone();
        async move {
            for _ in 0..120 {
                store.gc(NOW).await.unwrap();
                tokio::task::yield_now().await;
            }
        }
    });
    let mut workers = tokio::task::JoinSet::new();
    for (n, content) in contents.iter().cloned().enumerate() {
        let store = store.clone();
        // Two workers on each content: one's removal must not hurt the other's put.
        for _ in 0..2 {
            let (store, content) = (store.clone(), content.clone());
            workers.spawn(async move {
                for _ in 0..10 {
                    let id = store
                        .put(&content[..], titled("x"), &key())
                        .await
                        .unwrap()
                        .document;
                    match read(&store, id) {
                        Ok(found) => assert_eq!(found, content, "content {n}"),
                        // Removed and collected by the other worker.
                        Err(ReadError::UnknownDocument(_) | ReadError::Missing(_)) => {}
                        Err(error) => panic!("content {n}: {error}"),
                    }
                    store.remove(id).await.unwrap();
                }
            });
        }
    }
    workers.join_all().await;
    collector.await.unwrap();
    store.gc(NOW).await.unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.blocks, usage.stored_bytes), (0, 0));
}

#[tokio::test]
async fn given_a_quota_when_a_put_would_pass_it_then_it_is_refused_and_removal_makes_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(
        folder.path(),
        StoreOptions {
            max_bytes: Some(3_000_000),
        },
    );
    let kept = noise("kept", 1_000_000);
    let id = put(&store, &kept).await;
    let large = noise("large", 2_500_000);
    let error = store
        .put(&large[..], titled("l"), &key())
        .await
        .unwrap_err();
    assert!(
        matches!(
            error,
            PutError::Store(StoreError::Quota { max: 3_000_000, .. })
        ),
        "{error}"
    );
    assert!(error.to_string().contains("storage.max_size"), "{error}");
    assert_eq!(read(&store, id).unwrap(), kept);
    assert_eq!(store.usage().unwrap().documents, 1);
    assert!(store.usage().unwrap().stored_bytes <= 3_000_000);

    store.remove(id).await.unwrap();
    let id = put(&store, &large).await;
    assert_eq!(read(&store, id).unwrap(), large);
}

const SMALL_QUOTA: StoreOptions = StoreOptions {
    max_bytes: Some(16 * 1024 * 1024),
};

/// Content that no store of [`SMALL_QUOTA`] holds, and its refusal.
async fn put_over_quota(store: &Store) {
    let error = store
        .put(&noise("over", 60_000_000)[..], titled("over"), &key())
        .await
        .unwrap_err();
    assert!(
        matches!(error, PutError::Store(StoreError::Quota { .. })),
        "{error}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn given_a_put_refused_by_the_quota_when_collected_then_its_space_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    put_over_quota(&store).await;
    let report = store.gc(NOW).await.unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.blocks, usage.stored_bytes), (0, 0), "{report:?}");
    put(&store, &noise("fits", 5_000_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn given_a_put_refused_by_the_quota_when_reopened_then_its_space_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    put_over_quota(&store).await;
    drop(store);
    let store = open_with(folder.path(), SMALL_QUOTA);
    let usage = store.usage().unwrap();
    assert_eq!((usage.blocks, usage.stored_bytes), (0, 0));
    put(&store, &noise("fits", 5_000_000)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn given_a_put_refused_by_the_quota_when_another_fits_then_it_is_taken_without_a_collection()
{
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    put_over_quota(&store).await;
    let content = noise("fits", 5_000_000);
    let id = put(&store, &content).await;
    assert_eq!(read(&store, id).unwrap(), content);
}

/// A retrieval of more than a store of [`SMALL_QUOTA`] holds, up to its refusal.
async fn retrieve_over_quota(store: &Store) {
    let document = DocumentId::from_hash([7; 32]);
    let later = UnixMillis(NOW.0 + 60_000);
    let lease = store.begin_retrieval(document, later).await.unwrap();
    for number in 0..20 {
        let (_, block) = block(&noise(&format!("part {number}"), 1_000_000));
        match store.insert_block(&lease, block).await {
            Ok(()) => {}
            Err(StoreError::Quota { .. }) => return,
            Err(error) => panic!("{error}"),
        }
    }
    panic!("the quota let everything pass");
}

#[tokio::test]
async fn given_a_retrieval_refused_by_the_quota_when_collected_then_its_space_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    retrieve_over_quota(&store).await;
    let report = store.gc(NOW).await.unwrap();
    assert_eq!(store.usage().unwrap().stored_bytes, 0, "{report:?}");
}

#[tokio::test]
async fn given_a_retrieval_refused_by_the_quota_when_a_document_is_put_then_it_has_room() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    retrieve_over_quota(&store).await;
    put(&store, &noise("fits", 5_000_000)).await;
}

#[tokio::test]
async fn given_a_retrieval_refused_by_the_quota_when_reopened_then_its_space_is_free() {
    let folder = tempfile::tempdir().unwrap();
    let store = open_with(folder.path(), SMALL_QUOTA);
    retrieve_over_quota(&store).await;
    drop(store);
    let store = open_with(folder.path(), SMALL_QUOTA);
    assert_eq!(store.usage().unwrap().stored_bytes, 0);
}

#[tokio::test]
async fn given_a_block_that_comes_after_its_lease_ended_when_collected_then_it_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let document = DocumentId::from_hash([7; 32]);
    let later = UnixMillis(NOW.0 + 60_000);
    let lease = store.begin_retrieval(document, later).await.unwrap();
    store.abandon_retrieval(lease.clone()).await.unwrap();
    let (_, late) = block(&noise("late", 100_000));
    store.insert_block(&lease, late).await.unwrap();
    store.gc(NOW).await.unwrap();
    assert_eq!(store.usage().unwrap().blocks, 0);
}

#[tokio::test]
async fn given_a_flipped_bit_when_read_then_it_is_noticed_set_aside_and_repaired() {
    let folder = tempfile::tempdir().unwrap();
    let content = noise("flip", 3_000_000);
    let store = open(folder.path());
    let id = put(&store, &content).await;
    let Some(Manifest::File { chunks, .. }) = store.manifest(id).unwrap() else {
        panic!("no file")
    };
    let good = verified(&store, chunks[1].id.into());
    drop(store);
    let (files, _) = packs(folder.path());
    let mut bytes = std::fs::read(&files[0]).unwrap();
    let at = bytes
        .windows(32)
        .position(|window| window == chunks[1].id.hash())
        .unwrap()
        + 32
        + 1000;
    bytes[at] ^= 0x10;
    std::fs::write(&files[0], bytes).unwrap();

    let metrics = Metrics::new();
    let store = Store::open(folder.path(), StoreOptions::default(), &metrics).unwrap();
    let Err(ReadError::Corrupt(damaged)) = read(&store, id) else {
        panic!("not noticed")
    };
    assert_eq!(damaged, chunks[1].id.into());
    assert!(
        metrics
            .encode()
            .contains("warren_store_corrupt_blocks_total 1")
    );
    assert!(matches!(read(&store, id), Err(ReadError::Missing(missing)) if missing == damaged));
    assert_eq!(store.missing_blocks(id, 10).unwrap(), [damaged]);
    let report = store.verify(|_| ControlFlow::Continue(())).unwrap();
    assert_eq!(
        (report.missing, report.incomplete),
        (vec![damaged], vec![id])
    );

    store.repair_block(good).await.unwrap();
    assert_eq!(read(&store, id).unwrap(), content);
    let report = store.verify(|_| ControlFlow::Continue(())).unwrap();
    assert!(report.finished && report.missing.is_empty() && report.incomplete.is_empty());
}

#[tokio::test]
async fn given_damage_when_scrubbed_then_blocks_and_documents_are_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (hit, spared) = (noise("hit", 500_000), noise("spared", 500_000));
    let (id, other) = (put(&store, &hit).await, put(&store, &spared).await);
    let (files, _) = packs(folder.path());
    let mut bytes = std::fs::read(&files[0]).unwrap();
    // Not the payload but the frame in front of it.
    bytes[16] = b'X';
    std::fs::write(&files[0], bytes).unwrap();

    let mut calls = Vec::new();
    let report = store
        .verify(|progress| {
            calls.push(progress);
            ControlFlow::Continue(())
        })
        .unwrap();
    assert_eq!(report.corrupt.len(), 1);
    assert_eq!(report.incomplete, [id]);
    assert_eq!(calls.last().unwrap().blocks, store.usage().unwrap().blocks);
    assert_eq!(read(&store, other).unwrap(), spared);
    // Putting the content again repairs it as well.
    assert_eq!(put(&store, &hit).await, id);
    assert_eq!(read(&store, id).unwrap(), hit);
    let stopped = store.verify(|_| ControlFlow::Break(())).unwrap();
    assert!(!stopped.finished);
}

#[tokio::test]
async fn given_what_a_crash_leaves_when_opened_then_it_is_gone() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let content = noise("before the crash", 600_000);
    let id = put(&store, &content).await;
    drop(store);
    let (files, _) = packs(folder.path());
    let length = files[0].metadata().unwrap().len();
    // A block half written, a pack that nobody acknowledged, and one that was not even renamed.
    let mut torn = std::fs::OpenOptions::new()
        .append(true)
        .open(&files[0])
        .unwrap();
    io::Write::write_all(&mut torn, &noise("torn", 70_000)).unwrap();
    std::fs::copy(&files[0], folder.path().join("packs/00000000000000ff.pack")).unwrap();
    std::fs::write(folder.path().join("packs/0000000000000100.new"), b"warren").unwrap();

    let store = open(folder.path());
    assert_eq!(packs(folder.path()).0, files);
    assert_eq!(files[0].metadata().unwrap().len(), length);
    assert_eq!(read(&store, id).unwrap(), content);
}

#[tokio::test]
async fn given_a_pack_cut_short_when_opened_then_only_its_lost_blocks_are_missed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (kept, lost) = (noise("kept", 200_000), noise("lost", 200_000));
    let (first, second) = (put(&store, &kept).await, put(&store, &lost).await);
    drop(store);
    let (files, _) = packs(folder.path());
    let pack = std::fs::OpenOptions::new()
        .write(true)
        .open(&files[0])
        .unwrap();
    pack.set_len(pack.metadata().unwrap().len() - 10).unwrap();

    let store = open(folder.path());
    assert_eq!(read(&store, first).unwrap(), kept);
    assert!(matches!(read(&store, second), Err(ReadError::Corrupt(_))));
    assert_eq!(put(&store, &lost).await, second);
    assert_eq!(read(&store, second).unwrap(), lost);
    assert_eq!(
        packs(folder.path()).0.len(),
        2,
        "a pack that lost data is not written to again"
    );
}

#[tokio::test]
async fn given_a_retrieval_when_committed_whole_then_it_is_listed_as_fetched() {
    let source_folder = tempfile::tempdir().unwrap();
    let source = open(source_folder.path());
    let content = noise("fetched", 2_000_000);
    let id = put(&source, &content).await;
    let record = source.document(id).unwrap().unwrap().record;
    let Some(Manifest::File { chunks, .. }) = source.manifest(id).unwrap() else {
        panic!("no file")
    };
    let manifest = verified(&source, id.into());
    let mut blocks: Vec<_> = chunks
        .iter()
        .map(|chunk| verified(&source, chunk.id.into()))
        .collect();

    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    assert_eq!(store.missing_blocks(id, 10).unwrap(), [BlockId::from(id)]);
    let until = UnixMillis(NOW.0 + 60_000);
    let lease = store.begin_retrieval(id, until).await.unwrap();
    store.insert_block(&lease, manifest).await.unwrap();
    let last = blocks.pop().unwrap();
    for block in blocks {
        let block_id = block.id();
        store.insert_block(&lease, block).await.unwrap();
        assert!(store.has_block(block_id).unwrap(), "readable at once");
    }
    assert_eq!(store.gc(NOW).await.unwrap().blocks, 0, "held by the lease");
    drop(store);
    let store = open(folder.path());
    let lease = store.begin_retrieval(id, until).await.unwrap();
    assert_eq!(store.missing_blocks(id, 10).unwrap(), [last.id()]);
    let error = store
        .commit_fetched(lease.clone(), record.clone(), NOW)
        .await
        .unwrap_err();
    assert!(
        matches!(&error, CommitFetchedError::Incomplete { missing, .. } if *missing == [last.id()])
    );
    assert!(
        store.document(id).unwrap().is_none(),
        "no half document is listed"
    );

    let wanted = vec![last.id(), chunks[0].id.into()];
    assert_eq!(store.hold(&lease, wanted).await.unwrap(), [last.id()]);
    store.insert_block(&lease, last).await.unwrap();
    store
        .commit_fetched(lease, record.clone(), NOW)
        .await
        .unwrap();
    store.gc(UnixMillis(u64::MAX)).await.unwrap();
    let info = store.document(id).unwrap().unwrap();
    assert_eq!((info.origin, info.size), (Origin::Fetched, 2_000_000));
    assert_eq!(info.record.unwrap().value(), record.unwrap().value());
    assert_eq!(read(&store, id).unwrap(), content);
}

#[tokio::test]
async fn given_a_lease_that_ended_when_collected_then_its_blocks_go() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let document = DocumentId::of(b"never completed");
    let lease = store
        .begin_retrieval(document, UnixMillis(NOW.0 + 10))
        .await
        .unwrap();
    let (id, fetched) = block(&noise("leased", 50_000));
    store.insert_block(&lease, fetched.clone()).await.unwrap();
    store.gc(UnixMillis(NOW.0 + 9)).await.unwrap();
    assert!(store.has_block(id.into()).unwrap());
    store.gc(UnixMillis(NOW.0 + 10)).await.unwrap();
    assert!(!store.has_block(id.into()).unwrap());

    let lease = store
        .begin_retrieval(document, UnixMillis(u64::MAX))
        .await
        .unwrap();
    store.insert_block(&lease, fetched).await.unwrap();
    store.abandon_retrieval(lease).await.unwrap();
    store.gc(NOW).await.unwrap();
    assert!(!store.has_block(id.into()).unwrap());
}

#[tokio::test]
async fn given_a_document_that_links_to_something_else_than_it_says_then_it_is_not_listed() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let (id, chunk) = block(b"five!");
    let lying = Manifest::File {
        size: 6,
        chunks: vec![warren_content::core::manifest::ChunkRef { id, size: 6 }],
    };
    let manifest = lying.encode().unwrap();
    let stored = warren_content::core::block::Encoder::new().encode(&manifest.bytes);
    let lease = store
        .begin_retrieval(manifest.id, UnixMillis(u64::MAX))
        .await
        .unwrap();
    store.insert_block(&lease, chunk).await.unwrap();
    store
        .insert_block(&lease, stored.verify(manifest.id.into()).unwrap())
        .await
        .unwrap();
    let error = store.commit_fetched(lease, None, NOW).await.unwrap_err();
    assert!(
        matches!(error, CommitFetchedError::Read(ReadError::Manifest { .. })),
        "{error}"
    );
    assert!(store.documents(None, 10).unwrap().documents.is_empty());
}

#[tokio::test]
async fn given_a_retention_when_it_ends_then_the_document_goes() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let options = PutOptions {
        retention: Some(Retention::Seconds(60)),
        ..titled("short")
    };
    let short = store
        .put(&b"short"[..], options, &key())
        .await
        .unwrap()
        .document;
    let long = put(&store, b"long").await;
    assert_eq!(store.expire(UnixMillis(NOW.0 + 59_999)).await.unwrap(), []);
    assert_eq!(
        store.expire(UnixMillis(NOW.0 + 60_000)).await.unwrap(),
        [short]
    );
    let listed: Vec<_> = store
        .documents(None, 10)
        .unwrap()
        .documents
        .iter()
        .map(|info| info.id)
        .collect();
    assert_eq!(listed, [long]);

    // Put again to be kept, it stays.
    let options = PutOptions {
        retention: Some(Retention::Seconds(60)),
        ..titled("short")
    };
    store.put(&b"short"[..], options, &key()).await.unwrap();
    let options = PutOptions {
        retention: Some(Retention::UntilRemoved),
        ..titled("kept")
    };
    store.put(&b"short"[..], options, &key()).await.unwrap();
    assert_eq!(store.expire(UnixMillis(u64::MAX)).await.unwrap(), []);
}

fn record(store: &Store, document: DocumentId) -> DocumentRecord {
    let listed = store.document(document).unwrap().unwrap();
    listed.record.unwrap().value().clone()
}

#[tokio::test]
async fn given_a_document_put_again_when_nothing_is_said_then_its_record_stays_as_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let said = PutOptions {
        title: Some("Quarterly report".to_owned()),
        tags: Some(vec!["finance".to_owned()]),
        source_type: Some("report".to_owned()),
        retention: Some(Retention::Seconds(3600)),
        now: NOW,
        ..PutOptions::default()
    };
    let first = store.put(&b"report"[..], said, &key()).await.unwrap();
    let before = record(&store, first.document);
    let silent = PutOptions {
        default_title: "report.pdf".to_owned(),
        now: UnixMillis(NOW.0 + 5_000),
        ..PutOptions::default()
    };
    let second = store.put(&b"report"[..], silent, &key()).await.unwrap();

    assert_eq!(record(&store, first.document), before);
    assert_eq!((first.existed, second.existed), (false, true));
    assert_eq!(second.title, "Quarterly report");
    assert_eq!(second.expires_at, Some(UnixMillis(NOW.0 + 3_600_000)));
}

#[tokio::test]
async fn given_a_document_put_again_when_something_is_said_then_that_alone_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let said = PutOptions {
        title: Some("Quarterly report".to_owned()),
        tags: Some(vec!["finance".to_owned()]),
        now: NOW,
        ..PutOptions::default()
    };
    let document = store
        .put(&b"report"[..], said, &key())
        .await
        .unwrap()
        .document;
    let later = |seconds: u64| PutOptions {
        default_title: "report.pdf".to_owned(),
        now: UnixMillis(NOW.0 + seconds * 1000),
        ..PutOptions::default()
    };

    let for_an_hour = PutOptions {
        retention: Some(Retention::Seconds(3600)),
        ..later(10)
    };
    store
        .put(&b"report"[..], for_an_hour, &key())
        .await
        .unwrap();
    let ends = record(&store, document).expires_at();
    let tagged = PutOptions {
        tags: Some(vec!["old".to_owned()]),
        ..later(20)
    };
    store.put(&b"report"[..], tagged, &key()).await.unwrap();

    let now = record(&store, document);
    assert_eq!(now.title, "Quarterly report");
    assert_eq!(now.tags, ["old"]);
    assert_eq!(ends, Some(UnixMillis(NOW.0 + 3_610_000)));
    assert_eq!(now.expires_at(), ends, "a tag moved the end");
}

#[tokio::test]
async fn given_a_document_whose_retention_has_ended_when_put_again_then_it_is_kept() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let short = PutOptions {
        retention: Some(Retention::Seconds(1)),
        ..titled("short")
    };
    store.put(&b"short"[..], short, &key()).await.unwrap();
    let again = PutOptions {
        now: UnixMillis(NOW.0 + 1_000),
        ..PutOptions::default()
    };
    let put = store.put(&b"short"[..], again, &key()).await.unwrap();

    assert_eq!((put.existed, put.expires_at), (false, None));
    assert_eq!(store.expire(UnixMillis(u64::MAX)).await.unwrap(), []);
}

/// Gives some bytes and then fails, or never goes on.
struct Faulty {
    left: usize,
    hangs: bool,
}

impl AsyncRead for Faulty {
    fn poll_read(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.left == 0 {
            return if self.hangs {
                Poll::Pending
            } else {
                Poll::Ready(Err(io::Error::other("cut off")))
            };
        }
        let now = self.left.min(buf.remaining());
        buf.put_slice(&noise("faulty", now));
        self.left -= now;
        Poll::Ready(Ok(()))
    }
}

#[tokio::test]
async fn given_a_stream_that_breaks_when_put_then_nothing_is_listed_and_nothing_stays() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let broken = Faulty {
        left: 6_000_000,
        hangs: false,
    };
    let error = store.put(broken, titled("b"), &key()).await.unwrap_err();
    assert!(matches!(error, PutError::Source { .. }), "{error}");
    assert_eq!(error.to_string(), "cannot read the stream: cut off");

    let key = key();
    let given_up = store.put(
        Faulty {
            left: 6_000_000,
            hangs: true,
        },
        titled("b"),
        &key,
    );
    let timeout = std::time::Duration::from_millis(300);
    assert!(tokio::time::timeout(timeout, given_up).await.is_err());
    assert!(store.documents(None, 10).unwrap().documents.is_empty());
    // The cutting task notices by itself; its blocks are garbage from then on.
    warren_lab::eventually_async(std::time::Duration::from_secs(10), || async {
        store.gc(NOW).await.unwrap();
        store.usage().unwrap().blocks == 0
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn given_bad_metadata_when_put_then_it_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = store
        .put(&b"x"[..], titled(&"x".repeat(2000)), &key())
        .await
        .unwrap_err();
    assert!(matches!(error, PutError::Record(_)), "{error}");
    assert!(store.documents(None, 10).unwrap().documents.is_empty());
}

#[test]
fn given_a_store_in_use_when_opened_again_then_the_holder_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let store = open(folder.path());
    let error = Store::open(folder.path(), StoreOptions::default(), &Metrics::new()).unwrap_err();
    let holder = std::process::id().to_string();
    assert!(
        matches!(&error, OpenError::Locked { holder: pid, .. } if *pid == holder),
        "{error}"
    );
    drop(store);
    open(folder.path());
}

#[test]
fn given_a_newer_format_or_a_foreign_directory_then_it_is_refused_untouched() {
    let refused = |path: &std::path::Path| {
        Store::open(path, StoreOptions::default(), &Metrics::new()).unwrap_err()
    };
    let folder = tempfile::tempdir().unwrap();
    drop(open(folder.path()));
    std::fs::write(folder.path().join("format"), "warren-store 2\n").unwrap();
    assert!(matches!(
        refused(folder.path()),
        OpenError::Newer {
            found: 2,
            supported: 1,
            ..
        }
    ));
    std::fs::write(folder.path().join("format"), "garbage").unwrap();
    assert!(matches!(
        refused(folder.path()),
        OpenError::NotAStore { .. }
    ));

    let foreign = tempfile::tempdir().unwrap();
    std::fs::write(foreign.path().join("letters.txt"), "mine").unwrap();
    assert!(matches!(
        refused(foreign.path()),
        OpenError::NotAStore { .. }
    ));
    assert_eq!(std::fs::read_dir(foreign.path()).unwrap().count(), 1);

    let damaged = tempfile::tempdir().unwrap();
    drop(open(damaged.path()));
    std::fs::write(damaged.path().join("index.redb"), vec![7; 100_000]).unwrap();
    assert!(matches!(
        refused(damaged.path()),
        OpenError::Index { .. } | OpenError::Io { .. }
    ));
}

#[tokio::test]
async fn given_a_store_then_its_metrics_follow() {
    let folder = tempfile::tempdir().unwrap();
    let metrics = Metrics::new();
    let store = Store::open(folder.path(), StoreOptions::default(), &metrics).unwrap();
    put(&store, b"one").await;
    put(&store, b"one").await;
    let text = metrics.encode();
    for line in [
        "warren_store_documents 1",
        "warren_store_blocks 2",
        "warren_store_dedup_hits_total 2",
        "warren_store_corrupt_blocks_total 0",
        "warren_store_io_errors_total 0",
    ] {
        assert!(
            text.lines().any(|found| found == line),
            "{line} is not in\n{text}"
        );
    }
}
