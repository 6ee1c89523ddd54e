//! The accept loop's bounds, in virtual time: clients that say nothing, and requests that do not end.
#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::routing::get;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use warren_api::serve::serve;

async fn served(router: Router, shutdown: &CancellationToken) -> (TcpStream, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = tokio::spawn(serve(listener, None, router, shutdown.clone()));
    (TcpStream::connect(address).await.unwrap(), server)
}

#[tokio::test(start_paused = true)]
async fn given_a_client_that_says_nothing_or_too_little_when_time_is_up_then_its_connection_ends() {
    for said in [
        &b""[..],
        b"P",
        b"PRI * HTTP/2.0\r\n",
        b"GET / HTTP/1.1\r\nHost",
    ] {
        let shutdown = CancellationToken::new();
        let (mut client, _server) = served(Router::new(), &shutdown).await;
        client.write_all(said).await.unwrap();

        let mut answer = Vec::new();
        let ended =
            tokio::time::timeout(Duration::from_secs(60), client.read_to_end(&mut answer)).await;

        assert!(ended.is_ok(), "{said:?} keeps its connection open");
        shutdown.cancel();
    }
}

#[tokio::test(start_paused = true)]
async fn given_a_request_that_does_not_end_when_the_node_stops_then_it_is_ended_after_the_time_to_drain()
 {
    let state = Arc::new(());
    let held = Arc::clone(&state);
    let (begun, mut running) = tokio::sync::mpsc::channel(1);
    let router = Router::new().route(
        "/",
        get(async move || {
            begun.send(()).await.unwrap();
            std::future::pending::<()>().await;
            drop(held);
        }),
    );
    let shutdown = CancellationToken::new();
    let (mut client, server) = served(router, &shutdown).await;
    client
        .write_all(b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
        .await
        .unwrap();
    running.recv().await.unwrap();

    shutdown.cancel();
    server.await.unwrap();

    assert_eq!(Arc::strong_count(&state), 1, "the request still runs");
}
