//! A retrieved document has the record its holders have, however its blocks came here.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod transfer_support;

use std::time::Duration;

use futures::StreamExt as _;
use transfer_support::{Node, Reader, noise};
use warren_content::DocumentId;
use warren_content::store::{Origin, PutOptions, Retention};
use warren_identity::UnixMillis;

/// The content of the document that every test is about.
fn content() -> Vec<u8> {
    noise("records", 3 * 1024 * 1024)
}

fn title(node: &Node, document: DocumentId) -> Option<String> {
    let listed = node.store.document(document).unwrap();
    let listed = listed.expect("the document is listed");
    listed.record.map(|record| record.value().title.clone())
}

/// A node that holds the document and has lost its record.
async fn without_record(number: u8, document: DocumentId, holder: &Node) -> Node {
    let node = Node::new(number);
    let store = &node.store;
    let lease = store
        .begin_retrieval(document, UnixMillis(u64::MAX))
        .await
        .unwrap();
    let root = holder.store.read_block(document.into()).unwrap().unwrap();
    let manifest = holder.store.manifest(document).unwrap().unwrap();
    store.insert_block(&lease, root).await.unwrap();
    for link in manifest.links() {
        let block = holder.store.read_block(link.id).unwrap().unwrap();
        store.insert_block(&lease, block).await.unwrap();
    }
    store
        .commit_fetched(lease, None, UnixMillis(2))
        .await
        .unwrap();
    assert_eq!(title(&node, document), None);
    node
}

#[tokio::test]
async fn given_a_removed_document_whose_blocks_are_still_here_when_read_again_then_it_has_its_record()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&content()).await;
    reader.network.add_node(&holder);
    reader.read(document).await.unwrap();
    assert!(reader.node.store.remove(document).await.unwrap());

    reader.read(document).await.unwrap();

    assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
}

#[tokio::test]
async fn given_a_removed_document_and_no_other_holder_when_read_again_then_it_has_the_record_it_had()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&content()).await;
    reader.network.add_node(&holder);
    reader.read(document).await.unwrap();
    reader.network.remove(1);
    assert!(reader.node.store.remove(document).await.unwrap());

    reader.read(document).await.unwrap();

    assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
}

#[tokio::test]
async fn given_a_document_whose_blocks_came_with_another_when_read_then_it_has_the_record_of_its_holder()
 {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&content()).await;
    let mut folder = reader.node.store.begin_directory();
    folder.add("file", content().as_slice()).await.unwrap();
    let key = transfer_support::key(100);
    folder.finish(Default::default(), &key).await.unwrap();
    reader.network.add_node(&holder);

    reader.read(document).await.unwrap();

    assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
    assert_eq!(holder.blocks_sent(), 0, "the blocks were here");
}

#[tokio::test]
async fn given_holders_of_which_one_has_the_record_when_read_then_it_has_the_record_whoever_answers_first()
 {
    let holder = Node::new(3);
    let document = holder.put(&content()).await;
    let first = without_record(1, document, &holder).await;
    let second = without_record(2, document, &holder).await;
    for order in [
        [&first, &second, &holder],
        [&holder, &first, &second],
        [&second, &holder, &first],
    ] {
        let reader = Reader::new();
        for node in order {
            reader.network.add_node(node);
        }
        reader.read(document).await.unwrap();
        assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
    }
}

#[tokio::test]
async fn given_a_document_when_its_last_byte_is_handed_out_then_it_is_listed_with_its_record() {
    let (holder, reader) = (Node::new(1), Reader::new());
    let document = holder.put(&content()).await;
    reader.network.add_node(&holder);
    let mut retrieved = reader.retriever.open(document, None).await.unwrap();

    let mut read = 0;
    while read < retrieved.size {
        read += retrieved.next().await.unwrap().unwrap().len() as u64;
    }

    assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
}

#[tokio::test]
async fn given_a_document_that_is_here_without_its_record_when_read_then_its_holders_are_asked_for_it()
 {
    let holder = Node::new(1);
    let document = holder.put(&content()).await;
    let reader = Reader::new();
    let bare = without_record(2, document, &holder).await;
    reader.network.add_node(&bare);
    reader.read(document).await.unwrap();
    assert_eq!(title(&reader.node, document), None);
    reader.network.add_node(&holder);

    reader.read(document).await.unwrap();

    // Its reader does not wait for that.
    let deadline = tokio::time::Instant::now() + Duration::from_secs(10);
    while title(&reader.node, document).as_deref() != Some("a document") {
        assert!(
            tokio::time::Instant::now() < deadline,
            "it was not asked for"
        );
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let listed = reader.node.store.document(document).unwrap().unwrap();
    assert_eq!(listed.origin, Origin::Fetched);
}

#[tokio::test]
async fn given_documents_that_are_here_without_their_records_when_completed_then_each_has_it_that_a_holder_gives()
 {
    let holder = Node::new(1);
    let document = holder.put(&content()).await;
    let reader = Reader::new();
    let bare = without_record(2, document, &holder).await;
    reader.network.add_node(&bare);
    reader.read(document).await.unwrap();
    let put = reader.node.put(b"of its own").await;

    let asked_in_vain = reader.retriever.complete_records(None, 10).await.unwrap();
    assert_eq!(asked_in_vain, None, "there is one");
    assert_eq!(title(&reader.node, document), None);
    reader.network.add_node(&holder);
    reader.retriever.complete_records(None, 10).await.unwrap();

    assert_eq!(title(&reader.node, document).as_deref(), Some("a document"));
    assert_eq!(title(&reader.node, put).as_deref(), Some("a document"));
}

#[tokio::test]
async fn given_a_removed_document_with_a_retention_when_read_again_then_it_still_ends_and_gone_blocks_leave_no_record()
 {
    let reader = Reader::new();
    let store = &reader.node.store;
    let options = PutOptions {
        retention: Some(Retention::Seconds(60)),
        now: UnixMillis(1_000),
        ..PutOptions::default()
    };
    let key = transfer_support::key(100);
    let put = store.put(&b"short"[..], options, &key).await.unwrap();
    store.remove(put.document).await.unwrap();

    reader.read(put.document).await.unwrap();

    assert_eq!(store.expire(UnixMillis(60_999)).await.unwrap(), []);
    assert_eq!(
        store.expire(UnixMillis(61_000)).await.unwrap(),
        [put.document]
    );
    store.gc(UnixMillis(u64::MAX)).await.unwrap();
    // The same bytes come back by another way: nothing is left of what was said of them.
    let node = Node::new(1);
    node.put(b"short").await;
    let bare = without_record(2, put.document, &node).await;
    reader.network.add_node(&bare);
    reader.read(put.document).await.unwrap();
    assert_eq!(title(&reader.node, put.document), None);
}
