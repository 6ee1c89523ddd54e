//! What a server bears from those who mean no good.

use std::time::{Duration, Instant};

use reqwest::StatusCode;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};
use warren_discovery::{
    core::rate::Limit,
    server::{ClientAuth, Limits, ServerConfig, Transport},
};

use crate::support::{
    ORGANIZATION, Server, TempRegistry, authority, embedded, loopback, member, member_http,
};

const IMPATIENT: Limits = Limits {
    max_connections: 16,
    max_connections_per_source: 4,
    head_timeout: Duration::from_millis(300),
    request_timeout: Duration::from_millis(300),
    connection_lifetime: Duration::from_secs(60),
    requests: Limit {
        burst: 1_000,
        per_second: 1_000,
    },
    joins: Limit {
        burst: 3,
        per_second: 1,
    },
};

async fn plain_server(limits: Limits) -> (Server, TempRegistry) {
    let registry = embedded();
    let trust = member(&authority(ORGANIZATION), "discovery-1", &["discovery"]);
    let mut config = ServerConfig::new(loopback(), trust, registry.registry.clone());
    config.transport = Transport::PlainLoopback;
    config.client_auth = ClientAuth::CertificateOrSignedRequest;
    config.limits = limits;
    (Server::start(config).await, registry)
}

/// Sends `bytes`, then nothing, and returns what comes until the server ends the connection.
async fn send_and_wait(server: &Server, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    tokio::time::timeout(Duration::from_secs(10), stream.read_to_end(&mut answer))
        .await
        .expect("the server lets go")
        .ok();
    String::from_utf8_lossy(&answer).into_owned()
}

#[tokio::test]
async fn given_a_body_that_is_too_large_then_413() {
    let registry = embedded();
    let authority = authority(ORGANIZATION);
    let trust = member(&authority, "discovery-1", &["discovery"]);
    let server = Server::start(ServerConfig::new(
        loopback(),
        trust,
        registry.registry.clone(),
    ))
    .await;
    let response = member_http(&member(&authority, "node-2", &[]))
        .post(server.url.join("/api/v1/network/register").unwrap())
        .body(vec![b' '; 65 * 1024])
        .send()
        .await
        .unwrap();
    assert_eq!(response.status(), StatusCode::PAYLOAD_TOO_LARGE);
    assert!(response.text().await.unwrap().contains("too_large"));
}

#[tokio::test]
async fn given_a_head_that_never_ends_then_the_connection_is_closed() {
    let (server, _registry) = plain_server(IMPATIENT).await;
    let started = Instant::now();
    send_and_wait(&server, b"GET /health HTTP/1.1\r\nhost: x\r\nx-slow: ").await;
    assert!(started.elapsed() >= IMPATIENT.head_timeout);
}

#[tokio::test]
async fn given_a_client_that_says_nothing_or_begins_another_protocol_then_the_connection_is_closed()
{
    let (server, _registry) = plain_server(IMPATIENT).await;

    for beginning in [&b""[..], b"P", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        send_and_wait(&server, beginning).await;
    }
}

#[tokio::test]
async fn given_a_head_that_is_too_long_then_it_is_refused() {
    let (server, _registry) = plain_server(IMPATIENT).await;
    let mut head = b"GET /health HTTP/1.1\r\nhost: x\r\nx-long: ".to_vec();
    head.resize(64 * 1024, b'a');
    head.extend_from_slice(b"\r\n\r\n");
    let answer = send_and_wait(&server, &head).await;
    assert!(
        answer.is_empty() || answer.starts_with("HTTP/1.1 431"),
        "{answer}"
    );
}

#[tokio::test]
async fn given_a_body_that_never_comes_then_408() {
    let (server, _registry) = plain_server(IMPATIENT).await;
    let head = b"POST /api/v1/network/register HTTP/1.1\r\nhost: x\r\ncontent-length: 100\r\nconnection: close\r\n\r\n{";
    let answer = send_and_wait(&server, head).await;
    assert!(answer.starts_with("HTTP/1.1 408"), "{answer}");
}

#[tokio::test]
async fn given_a_handshake_that_never_starts_then_the_connection_is_closed_and_counted() {
    let registry = embedded();
    let trust = member(&authority(ORGANIZATION), "discovery-1", &["discovery"]);
    let mut config = ServerConfig::new(loopback(), trust, registry.registry.clone());
    config.limits = IMPATIENT;
    let server = Server::start(config).await;
    send_and_wait(&server, b"").await;
    crate::support::eventually("the refusal is counted", async || {
        server
            .metrics
            .encode()
            .contains("warren_discovery_connections_refused_total{reason=\"handshake_timeout\"} 1")
    })
    .await;
}

#[tokio::test]
async fn given_garbage_instead_of_tls_then_the_server_stays_up() {
    let registry = embedded();
    let authority = authority(ORGANIZATION);
    let trust = member(&authority, "discovery-1", &["discovery"]);
    let server = Server::start(ServerConfig::new(
        loopback(),
        trust,
        registry.registry.clone(),
    ))
    .await;
    send_and_wait(&server, &[0x16, 3, 1, 0xff, 0xff, 0, 1, 2, 3, 4, 5, 6, 7]).await;
    let answer = member_http(&member(&authority, "node-2", &[]))
        .get(server.url.join("/health").unwrap())
        .send()
        .await
        .unwrap();
    assert_eq!(answer.status(), StatusCode::OK);
}

#[tokio::test]
async fn given_one_source_with_many_connections_then_the_surplus_is_closed() {
    let (server, _registry) = plain_server(Limits {
        head_timeout: Duration::from_secs(30),
        ..IMPATIENT
    })
    .await;
    let mut held = Vec::new();
    for _ in 0..IMPATIENT.max_connections_per_source {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        stream
            .write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
            .await
            .unwrap();
        let mut first = [0; 12];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"HTTP/1.1 200");
        held.push(stream);
    }
    assert_eq!(
        send_and_wait(&server, b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await,
        ""
    );
}

#[tokio::test]
async fn given_more_joins_than_allowed_then_429_says_when_to_come_again() {
    let (server, _registry) = plain_server(IMPATIENT).await;
    let request =
        b"POST /api/v1/join HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";
    for left in [2, 1, 0] {
        let answer = send_and_wait(&server, request).await;
        assert!(
            answer.contains(&format!("x-ratelimit-remaining: {left}")),
            "{answer}"
        );
    }
    let answer = send_and_wait(&server, request).await;
    assert!(answer.starts_with("HTTP/1.1 429"), "{answer}");
    for header in [
        "retry-after: 1",
        "x-ratelimit-limit: 3",
        "x-ratelimit-remaining: 0",
        "x-ratelimit-reset: 3",
    ] {
        assert!(answer.contains(header), "{header} in {answer}");
    }
    assert!(answer.contains("\"code\":\"rate_limited\""), "{answer}");
}
