//! What the synchronisation log says of retrievals from peers.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

mod transfer_support;

use std::io;
use std::sync::{Arc, Mutex};

use transfer_support::{Node, Reader, answer_with, block_frame, flipped, noise, peer};

/// Lines of the subscriber that is the default of this thread until dropped.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Lines {
    fn watch() -> (Self, tracing::subscriber::DefaultGuard) {
        let lines = Self::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .without_time()
            .finish();
        (lines, tracing::subscriber::set_default(subscriber))
    }

    fn of_sync(&self) -> Vec<String> {
        let text = String::from_utf8(self.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().filter_map(|line| line.split_once(" sync: "));
        lines.map(|(_, said)| said.to_owned()).collect()
    }
}

#[tokio::test]
async fn given_a_liar_and_a_holder_when_a_document_is_retrieved_then_start_and_end_are_logged_with_peers_and_counts()
 {
    let (lines, _watched) = Lines::watch();
    let (holder, reader) = (Node::new(2), Reader::new());
    let document = holder.put(&noise("sync", 100_000)).await;
    let store = holder.store.clone();
    reader.network.add_player(1, move |stream| {
        answer_with(stream, store.clone(), |request, _, block| {
            Some(block_frame(request, &flipped(&block)))
        })
    });
    reader.network.add_node(&holder);

    reader.read(document).await.unwrap();
    reader.retriever.shutdown().await;

    let said = lines.of_sync();
    let [started, ended] = said.as_slice() else {
        panic!("{said:?}")
    };
    assert_eq!(started, &format!("sync started document={document}"));
    let expected = [
        format!("document={document}"),
        "outcome=\"done\"".to_owned(),
        format!("peers=\"{}:2\"", peer(2)),
        "blocks=2".to_owned(),
    ];
    for part in expected {
        assert!(ended.contains(&part), "{part} is not in {ended}");
    }
}

#[tokio::test]
async fn given_nobody_who_holds_it_when_a_document_is_retrieved_then_the_end_says_why_it_failed() {
    let (lines, _watched) = Lines::watch();
    let (holder, reader) = (Node::new(2), Reader::new());
    let document = holder.put(b"nobody has it").await;

    reader.read(document).await.unwrap_err();
    reader.retriever.shutdown().await;

    let said = lines.of_sync();
    assert_eq!(said.len(), 2, "{said:?}");
    assert!(said[1].contains("could not be had"), "{said:?}");
}

#[tokio::test]
async fn given_a_document_that_is_here_when_read_then_nothing_is_logged_of_it() {
    let (lines, _watched) = Lines::watch();
    let reader = Reader::new();
    let document = reader.node.put(b"it is here").await;

    reader.read(document).await.unwrap();
    reader.retriever.shutdown().await;

    assert_eq!(lines.of_sync(), Vec::<String>::new());
}
