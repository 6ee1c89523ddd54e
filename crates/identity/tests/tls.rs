//! TLS from one live `Trust`: between nodes, towards stock clients, and for a machine that joins.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use rustls::time_provider::TimeProvider;
use rustls::{
    ClientConfig, ClientConnection, HandshakeKind, ProtocolVersion, ServerConfig, ServerConnection,
};
use support::{
    DAY, NOW_S, at, ca, ca_of, key, leaf, now, openssl, org, read, request, serial, try_openssl,
    write,
};
use warren_identity::join::{JoinSecret, JoinToken};
use warren_identity::tls::{
    ClientCertificates, ExpectedPeer, TlsError, https_client, https_client_of,
    https_client_of_node, https_server, join_client, member_from_tls, node_client, node_server,
    refusal_of,
};
use warren_identity::{
    Capabilities, Capability, CertificateAuthority, CertificateFacts, HttpsIdentity,
    IssuanceLedger, LeafRequest, MergeOutcome, Refusal, Roots, SubjectKey, Trust, UnixTime,
};

const ALPN: &[&[u8]] = &[b"warren-test/1"];

#[derive(Debug)]
struct Clock(UnixTime);

impl TimeProvider for Clock {
    fn current_time(&self) -> Option<UnixTime> {
        Some(self.0)
    }
}

fn trust(n: u8) -> Trust {
    let trust = Trust::new(key(n), ca().roots().clone());
    trust.replace_leaf(leaf(n), now()).unwrap();
    trust
}

fn client(config: Result<ClientConfig, TlsError>) -> Arc<ClientConfig> {
    let mut config = config.unwrap();
    config.time_provider = Arc::new(Clock(now()));
    Arc::new(config)
}

fn server(config: Result<ServerConfig, TlsError>) -> Arc<ServerConfig> {
    let mut config = config.unwrap();
    config.time_provider = Arc::new(Clock(now()));
    Arc::new(config)
}

/// What ended a handshake, seen from the side that ended it.
#[derive(Debug)]
enum Ended {
    ByClient(rustls::Error),
    ByServer(rustls::Error),
}

impl Ended {
    fn refusal(&self) -> &Refusal {
        let (Self::ByClient(error) | Self::ByServer(error)) = self;
        refusal_of(error).unwrap_or_else(|| panic!("ended by something else: {error}"))
    }
}

/// A whole handshake in memory.
fn handshake(
    client: &Arc<ClientConfig>,
    server: &Arc<ServerConfig>,
    name: &str,
) -> Result<(ClientConnection, ServerConnection), Ended> {
    let mut client =
        ClientConnection::new(Arc::clone(client), name.to_owned().try_into().unwrap()).unwrap();
    let mut server = ServerConnection::new(Arc::clone(server)).unwrap();
    while client.is_handshaking()
        || server.is_handshaking()
        || client.wants_write()
        || server.wants_write()
    {
        let mut wire = Vec::new();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        server.read_tls(&mut wire.as_slice()).unwrap();
        server.process_new_packets().map_err(Ended::ByServer)?;
        let mut wire = Vec::new();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        client.read_tls(&mut wire.as_slice()).unwrap();
        client.process_new_packets().map_err(Ended::ByClient)?;
    }
    Ok((client, server))
}

fn between(
    a: &Trust,
    b: &Trust,
    expected: ExpectedPeer,
) -> Result<(ClientConnection, ServerConnection), Ended> {
    handshake(
        &client(node_client(a, expected, ALPN)),
        &server(node_server(b, ALPN)),
        "192.0.2.1",
    )
}

#[test]
fn given_two_members_when_they_connect_then_each_learns_who_the_other_is() {
    let (a, b) = (trust(1), trust(2));
    let (client, server) = between(&a, &b, ExpectedPeer::Peer(b.peer_id())).unwrap();
    assert_eq!(
        member_from_tls(&a, client.peer_certificates(), now())
            .unwrap()
            .peer_id,
        b.peer_id()
    );
    assert_eq!(
        member_from_tls(&b, server.peer_certificates(), now())
            .unwrap()
            .peer_id,
        a.peer_id()
    );
    assert_eq!(
        (client.protocol_version(), client.alpn_protocol()),
        (Some(ProtocolVersion::TLSv1_3), Some(ALPN[0]))
    );
}

#[test]
fn given_another_peer_or_a_lacking_capability_when_connecting_then_the_client_refuses() {
    let (a, b) = (trust(1), trust(2));
    let other = between(&a, &b, ExpectedPeer::Peer(key(3).peer_id())).unwrap_err();
    assert_eq!(other.refusal().label(), "peer_id_mismatch");
    let lacking = between(&a, &b, ExpectedPeer::Capability(Capability::Admin)).unwrap_err();
    assert_eq!(
        *lacking.refusal(),
        Refusal::MissingCapability(Capability::Admin)
    );
    assert!(between(&a, &b, ExpectedPeer::Capability(Capability::Storage)).is_ok());
}

#[test]
fn given_strangers_when_they_connect_to_a_node_then_it_refuses_each_with_its_reason() {
    let b = trust(2);
    let no_leaf = Trust::new(key(1), ca().roots().clone());
    assert!(matches!(
        between(&no_leaf, &b, ExpectedPeer::AnyMember),
        Err(Ended::ByServer(rustls::Error::NoCertificatesPresented))
    ));
    let foreign_ca = ca_of(org(), 101, at(NOW_S - DAY));
    let both = Roots::new(
        org(),
        [foreign_ca.certificate().clone(), ca().certificate().clone()],
    )
    .unwrap();
    let foreign = Trust::new(key(1), both);
    foreign
        .replace_leaf(
            foreign_ca.issue(&request(1), now(), serial(1)).unwrap(),
            now(),
        )
        .unwrap();
    let ended = between(&foreign, &b, ExpectedPeer::AnyMember).unwrap_err();
    assert!(matches!(ended, Ended::ByServer(_)));
    assert_eq!(*ended.refusal(), Refusal::UnknownIssuer);
}

#[test]
fn given_running_configurations_when_a_peer_is_revoked_then_the_next_handshake_refuses_it() {
    let (a, b) = (trust(1), trust(2));
    let (dial, listen) = (
        client(node_client(&a, ExpectedPeer::AnyMember, ALPN)),
        server(node_server(&b, ALPN)),
    );
    assert!(handshake(&dial, &listen, "192.0.2.1").is_ok());
    let mut ledger = IssuanceLedger::default();
    ledger.revoke_peer(a.peer_id(), now()).unwrap();
    let crl = ledger
        .sign_crl(&ca(), now(), Duration::from_secs(DAY))
        .unwrap();
    assert_eq!(b.merge_revocations(&crl).unwrap(), MergeOutcome::Updated);
    assert_eq!(
        *handshake(&dial, &listen, "192.0.2.1")
            .unwrap_err()
            .refusal(),
        Refusal::PeerRevoked(a.peer_id())
    );
}

#[test]
fn given_running_configurations_when_the_leaf_is_renewed_then_the_next_handshake_shows_the_new_one()
{
    let (a, b) = (trust(1), trust(2));
    let (dial, listen) = (
        client(node_client(&a, ExpectedPeer::AnyMember, ALPN)),
        server(node_server(&b, ALPN)),
    );
    let serial_seen = || {
        let (client, _server) = handshake(&dial, &listen, "192.0.2.1").unwrap();
        member_from_tls(&a, client.peer_certificates(), now())
            .unwrap()
            .serial
    };
    assert_eq!(serial_seen(), serial(2).as_bytes());
    b.replace_leaf(ca().issue(&request(2), now(), serial(42)).unwrap(), now())
        .unwrap();
    assert_eq!(serial_seen(), serial(42).as_bytes());
}

#[test]
fn given_an_earlier_session_when_connecting_again_then_nothing_is_resumed() {
    let (a, b) = (trust(1), trust(2));
    for (dial, listen) in [
        (
            client(node_client(&a, ExpectedPeer::AnyMember, ALPN)),
            server(node_server(&b, ALPN)),
        ),
        (
            client(https_client(&a, ALPN)),
            server(https_server(&b, ClientCertificates::None, ALPN)),
        ),
    ] {
        for _ in 0..2 {
            let (client, _server) = handshake(&dial, &listen, "localhost").unwrap();
            assert_eq!(client.handshake_kind(), Some(HandshakeKind::Full));
            assert_eq!(client.tls13_tickets_received(), 0);
        }
    }
}

#[test]
fn given_an_https_server_when_dialled_by_name_then_only_names_of_its_leaf_are_accepted() {
    let dial = client(https_client(&trust(1), ALPN));
    let listen = server(https_server(
        &trust(2),
        ClientCertificates::RequireMember,
        ALPN,
    ));
    for good in ["localhost", "node2.acme.com", "127.0.0.1"] {
        assert!(handshake(&dial, &listen, good).is_ok(), "{good}");
    }
    for bad in ["node3.acme.com", "127.0.0.2"] {
        let ended = handshake(&dial, &listen, bad).unwrap_err();
        let Ended::ByClient(rustls::Error::InvalidCertificate(reason)) = ended else {
            panic!("{bad}: {ended:?}")
        };
        assert_eq!(reason, rustls::CertificateError::NotValidForName, "{bad}");
    }
}

#[test]
fn given_a_server_dialled_by_another_name_when_its_leaf_has_the_capability_then_it_is_accepted_all_the_same()
 {
    let dial = client(https_client_of(&trust(1), Capability::Discovery, ALPN));
    let listen = |trust: &Trust| server(https_server(trust, ClientCertificates::None, ALPN));
    handshake(&dial, &listen(&trust(2)), "192.0.2.7").unwrap();

    let plain = Trust::new(key(3), ca().roots().clone());
    let storage_only = LeafRequest {
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        ..request(3)
    };
    plain
        .replace_leaf(ca().issue(&storage_only, now(), serial(3)).unwrap(), now())
        .unwrap();
    assert!(handshake(&dial, &listen(&plain), "192.0.2.7").is_err());
}

#[test]
fn given_a_client_that_knows_the_node_when_dialled_by_another_name_then_only_that_node_is_accepted()
{
    let listen = server(https_server(&trust(2), ClientCertificates::None, ALPN));
    // It has no certificate of its own, as a command line has none.
    let asking = Trust::new(key(1), ca().roots().clone());
    let dial = |node: u8| client(https_client_of_node(&asking, key(node).peer_id(), ALPN));

    handshake(&dial(2), &listen, "192.0.2.7").unwrap();
    handshake(&dial(3), &listen, "node2.acme.com").unwrap();
    let other = handshake(&dial(3), &listen, "192.0.2.7").unwrap_err();
    let Ended::ByClient(rustls::Error::InvalidCertificate(reason)) = other else {
        panic!("{other:?}")
    };
    assert_eq!(reason, rustls::CertificateError::NotValidForName);
}

#[test]
fn given_a_join_token_when_connecting_then_only_a_discovery_member_of_the_pinned_ca_is_trusted() {
    let token = |authority: CertificateAuthority| {
        JoinToken::new(
            authority.certificate(),
            JoinSecret::from_random([9; 32]),
            None,
        )
        .unwrap()
    };
    let dial = client(join_client(&token(ca()), ALPN));
    let listen = |trust: &Trust| server(https_server(trust, ClientCertificates::Optional, ALPN));
    handshake(&dial, &listen(&trust(2)), "anything.example").unwrap();

    let elsewhere = client(join_client(&token(ca_of(org(), 101, now())), ALPN));
    let ended = handshake(&elsewhere, &listen(&trust(2)), "anything.example").unwrap_err();
    assert_eq!(*ended.refusal(), Refusal::UnknownIssuer);

    let plain_member = Trust::new(key(3), ca().roots().clone());
    let plain = LeafRequest {
        capabilities: Capabilities::parse(["storage"]).unwrap(),
        ..request(3)
    };
    plain_member
        .replace_leaf(ca().issue(&plain, now(), serial(3)).unwrap(), now())
        .unwrap();
    let ended = handshake(&dial, &listen(&plain_member), "anything.example").unwrap_err();
    assert_eq!(
        *ended.refusal(),
        Refusal::MissingCapability(Capability::Discovery)
    );
}

#[test]
fn given_nothing_to_present_when_an_https_server_is_built_then_it_says_so() {
    let stranger = Trust::new(key(1), ca().roots().clone());
    assert!(matches!(
        https_server(&stranger, ClientCertificates::None, ALPN),
        Err(TlsError::NoLeaf)
    ));
}

/// Serves exactly one connection on loopback: handshake, one line, end. Returns the port.
fn serve_once(config: Arc<ServerConfig>) -> (u16, JoinHandle<Result<(), String>>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (socket, _) = listener.accept().map_err(|e| e.to_string())?;
        socket
            .set_read_timeout(Some(Duration::from_secs(20)))
            .map_err(|e| e.to_string())?;
        let mut stream = rustls::StreamOwned::new(ServerConnection::new(config).unwrap(), socket);
        stream
            .write_all(b"warren says hello\n")
            .map_err(|e| e.to_string())?;
        stream.conn.send_close_notify();
        stream.flush().map_err(|e| e.to_string())?;
        let _the_client_hangs_up = stream.sock.read(&mut [0; 64]);
        Ok(())
    });
    (port, thread)
}

/// One `openssl s_client` against one server; whether it was satisfied, and what it printed.
fn s_client(dir: &Path, config: Arc<ServerConfig>, more: &[&str]) -> (bool, String) {
    let (port, thread) = serve_once(config);
    let (connect, time) = (format!("127.0.0.1:{port}"), NOW_S.to_string());
    let common = [
        "s_client",
        "-connect",
        &connect,
        "-CAfile",
        "ca.pem",
        "-attime",
        &time,
        "-verify_return_error",
        "-ign_eof",
    ];
    let (ok, output) = try_openssl(dir, &[&common[..], more].concat());
    let served = thread.join().unwrap();
    (
        ok && served.is_ok() && output.contains("warren says hello"),
        output,
    )
}

#[test]
fn given_stock_clients_when_they_connect_then_each_gets_a_certificate_it_can_verify() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "ca.pem", &ca().certificate_pem());
    let listen = server(https_server(&trust(2), ClientCertificates::None, &[]));
    let cases: [(&str, &[&str]); 3] = [
        (
            "Peer signature type: ed25519",
            &["-verify_hostname", "localhost"],
        ),
        (
            "Peer signature type: ECDSA",
            &[
                "-verify_ip",
                "127.0.0.1",
                "-sigalgs",
                "ECDSA+SHA256:RSA-PSS+SHA256",
            ],
        ),
        (
            "Peer signature type: ECDSA",
            &["-tls1_2", "-sigalgs", "ECDSA+SHA256"],
        ),
    ];
    for (expected, arguments) in cases {
        let (ok, output) = s_client(dir.path(), Arc::clone(&listen), arguments);
        assert!(
            ok && output.contains(expected) && output.contains("Verify return code: 0"),
            "{arguments:?}\n{output}"
        );
    }
    let (ok, _) = s_client(dir.path(), listen, &["-verify_hostname", "other.example"]);
    assert!(!ok);
}

/// CA and node leaf by plain `openssl`, and a node that serves HTTPS with them beside its own leaf.
fn with_openssl_leaf(dir: &Path) -> (Trust, UnixTime) {
    openssl(dir, &["genrsa", "-out", "ca_key.pem", "2048"]);
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-x509",
            "-days",
            "3650",
            "-key",
            "ca_key.pem",
            "-out",
            "ca.pem",
            "-subj",
            "/O=ACME Corp/CN=CA",
        ],
    );
    openssl(dir, &["genrsa", "-out", "node_key.pem", "2048"]);
    openssl(
        dir,
        &[
            "req",
            "-new",
            "-key",
            "node_key.pem",
            "-out",
            "node.csr",
            "-subj",
            "/CN=node1.acme.com",
        ],
    );
    write(
        dir,
        "ext.cnf",
        "subjectAltName=DNS:node1.acme.com,DNS:*.acme.com\n",
    );
    let sign = [
        "x509",
        "-req",
        "-in",
        "node.csr",
        "-CA",
        "ca.pem",
        "-CAkey",
        "ca_key.pem",
        "-CAcreateserial",
    ];
    openssl(
        dir,
        &[
            &sign[..],
            &[
                "-out",
                "node_cert.pem",
                "-days",
                "365",
                "-extfile",
                "ext.cnf",
            ],
        ]
        .concat(),
    );
    let authority = CertificateAuthority::from_pem(
        &read(dir, "ca.pem"),
        &read(dir, "ca_key.pem"),
        Some(&org()),
    )
    .unwrap();
    let when = at(CertificateFacts::parse(authority.certificate())
        .unwrap()
        .not_before
        .as_secs()
        + 60);
    let trust = Trust::new(key(1), authority.roots().clone());
    trust
        .replace_leaf(authority.issue(&request(1), when, serial(1)).unwrap(), when)
        .unwrap();
    let https =
        HttpsIdentity::from_pem(&read(dir, "node_cert.pem"), &read(dir, "node_key.pem")).unwrap();
    trust.replace_https_identity(Some(https));
    (trust, when)
}

fn server_at(trust: &Trust, clients: ClientCertificates, when: UnixTime) -> Arc<ServerConfig> {
    let mut config = https_server(trust, clients, &[]).unwrap();
    config.time_provider = Arc::new(Clock(when));
    Arc::new(config)
}

#[test]
fn given_a_configured_openssl_leaf_when_clients_connect_then_stock_ones_get_it_and_members_get_the_nodes_own()
 {
    let dir = tempfile::tempdir().unwrap();
    let (trust, when) = with_openssl_leaf(dir.path());
    let listen = server_at(&trust, ClientCertificates::None, when);
    let attime = when.as_secs().to_string();
    let (ok, output) = s_client(
        dir.path(),
        Arc::clone(&listen),
        &["-attime", &attime, "-verify_hostname", "node1.acme.com"],
    );
    assert!(
        ok && output.contains("Peer signature type: RSA-PSS"),
        "{output}"
    );
    let token = JoinToken::new(
        trust.roots().certificates()[0].der(),
        JoinSecret::from_random([1; 32]),
        None,
    )
    .unwrap();
    let mut dial = join_client(&token, &[]).unwrap();
    dial.time_provider = Arc::new(Clock(when));
    let (client, _server) = handshake(&Arc::new(dial), &listen, "anything.example").unwrap();
    let shown = CertificateFacts::parse(&client.peer_certificates().unwrap()[0]).unwrap();
    assert_eq!(shown.key, SubjectKey::Ed25519(key(1).public_key()));
}

#[test]
fn given_a_server_that_wants_certificates_when_openssl_connects_then_its_leaf_is_a_certificate_but_no_member()
 {
    let dir = tempfile::tempdir().unwrap();
    let (trust, when) = with_openssl_leaf(dir.path());
    let attime = when.as_secs().to_string();
    let with_leaf = [
        "-attime",
        &attime,
        "-cert",
        "node_cert.pem",
        "-key",
        "node_key.pem",
    ];
    let without = ["-attime", attime.as_str()];
    let try_with = |wanted, arguments: &[&str]| {
        s_client(dir.path(), server_at(&trust, wanted, when), arguments).0
    };
    assert!(try_with(ClientCertificates::RequireCertificate, &with_leaf));
    assert!(!try_with(ClientCertificates::RequireCertificate, &without));
    assert!(try_with(ClientCertificates::Optional, &without));
    assert!(!try_with(ClientCertificates::RequireMember, &with_leaf));
    write(dir.path(), "member.pem", &trust.leaf().unwrap().to_pem());
    write(dir.path(), "member_key.pem", &key(1).to_pem());
    let as_member = [
        "-attime",
        &attime,
        "-cert",
        "member.pem",
        "-key",
        "member_key.pem",
    ];
    assert!(try_with(ClientCertificates::RequireMember, &as_member));
}
