//! What both engines must do. Each case runs against redb and against a real PostgreSQL.

use std::{sync::Arc, time::Duration};

use warren_discovery::{
    core::{
        grants::{self, Denied, grant_id},
        registry::{Change, Conflict, PeerQuery, Registration, Status},
    },
    engine::{
        Embedded, EngineError, Postgres, PostgresOptions, RedeemError, Registry, RegistryError,
        Sign,
    },
};
use warren_identity::{Csr, NodeKey, UnixMillis};
use warren_lab::PostgresServer;

use crate::support::{authority, embedded, token};

const TTL: Duration = Duration::from_secs(90);
const NOW: UnixMillis = UnixMillis(1_800_000_000_000);

/// Makes a test of a case for each engine.
macro_rules! on_both_engines {
    ($($case:ident),* $(,)?) => {
        mod on_redb {
            $(
                #[tokio::test]
                async fn $case() {
                    let temp = super::embedded();
                    super::$case(temp.registry.clone()).await;
                }
            )*
        }
        mod on_postgresql {
            $(
                #[tokio::test]
                async fn $case() {
                    let Some(cluster) = warren_lab::PostgresServer::shared(stringify!($case)) else { return };
                    let registry = super::open(&cluster.database()).await;
                    super::$case(registry).await;
                }
            )*
        }
    };
}

on_both_engines!(
    a_registration_is_listed_and_repeating_it_changes_nothing,
    a_replayed_request_is_refused,
    an_older_record_is_refused,
    an_entry_without_heartbeats_expires_and_is_forgotten_later,
    leaving_ends_an_entry_at_once,
    a_page_holds_what_was_asked_for_in_a_stable_order,
    status_and_region_filter,
    the_newest_peers_come_first_in_a_bootstrap_list,
    a_token_is_redeemed_once_and_repeated_for_the_same_machine_only,
    a_failed_signature_leaves_the_token_whole,
    a_withdrawn_token_is_unknown,
    live_nodes_are_counted_by_organization,
);

pub async fn open(url: &str) -> Arc<dyn Registry> {
    let registry = Postgres::new(url, &PostgresOptions::default()).unwrap();
    registry.probe().await.unwrap();
    Arc::new(registry)
}

fn node(n: u8, organization: &str) -> Registration {
    Registration {
        peer_id: NodeKey::from_seed([n; 32]).peer_id(),
        organization: organization.parse().unwrap(),
        name: format!("node-{n}"),
        region: Some(
            if n.is_multiple_of(2) {
                "us-east"
            } else {
                "us-west"
            }
            .into(),
        ),
        addresses: vec![format!("/ip4/10.0.1.{n}/tcp/4001")],
        bulk_addresses: vec![format!("10.0.1.{n}:4002")],
        roles: vec!["storage".into()],
        capabilities: vec!["storage".into(), "route:10.0.0.0/8".into()],
        record: Some(vec![n, 0, 255]),
        sequence: 7,
        certificate_ends_at: NOW.plus(Duration::from_secs(86_400)),
    }
}

fn query(organization: &str) -> PeerQuery {
    PeerQuery {
        organization: organization.parse().unwrap(),
        region: None,
        status: None,
        limit: 50,
        after: None,
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

async fn a_registration_is_listed_and_repeating_it_changes_nothing(registry: Arc<dyn Registry>) {
    let (_, first) = registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    let later = NOW.plus(secs(10));
    let (entry, second) = registry
        .register(node(1, "org_a"), None, later, TTL)
        .await
        .unwrap();
    assert_eq!((first, second), (Change::Created, Change::Unchanged));

    let page = registry.peers(query("org_a"), later, TTL).await.unwrap();

    assert_eq!(page.entries, [entry]);
    assert_eq!(page.entries[0].registration, node(1, "org_a"));
    assert_eq!((page.total, page.more), (1, false));
}

async fn a_replayed_request_is_refused(registry: Arc<dyn Registry>) {
    let peer = node(1, "org_a").peer_id;
    registry
        .register(node(1, "org_a"), Some(NOW), NOW, TTL)
        .await
        .unwrap();
    let again = registry
        .register(node(1, "org_a"), Some(NOW), NOW, TTL)
        .await;
    assert!(matches!(
        again,
        Err(RegistryError::Conflict(Conflict::Replayed))
    ));
    let beat = registry.heartbeat(peer, Some(NOW), NOW, TTL).await;
    assert!(matches!(
        beat,
        Err(RegistryError::Conflict(Conflict::Replayed))
    ));
    let newer = NOW.plus(secs(1));
    registry
        .heartbeat(peer, Some(newer), newer, TTL)
        .await
        .unwrap();
}

async fn an_older_record_is_refused(registry: Arc<dyn Registry>) {
    registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    let older = Registration {
        sequence: 6,
        ..node(1, "org_a")
    };
    let refused = registry.register(older, None, NOW, TTL).await.unwrap_err();
    assert!(matches!(
        refused,
        RegistryError::Conflict(Conflict::StaleRecord {
            held: 7,
            offered: 6
        })
    ));
}

async fn an_entry_without_heartbeats_expires_and_is_forgotten_later(registry: Arc<dyn Registry>) {
    registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    let gone = NOW.plus(TTL);
    assert_eq!(
        registry
            .peers(query("org_a"), gone, TTL)
            .await
            .unwrap()
            .total,
        0
    );
    let offline = PeerQuery {
        status: Some(Status::Offline),
        ..query("org_a")
    };
    assert_eq!(
        registry
            .peers(offline.clone(), gone, TTL)
            .await
            .unwrap()
            .total,
        1
    );
    let beat = registry
        .heartbeat(node(1, "org_a").peer_id, None, gone, TTL)
        .await;
    assert!(matches!(
        beat,
        Err(RegistryError::Conflict(Conflict::NotRegistered))
    ));
    assert_eq!(registry.forget(gone).await.unwrap(), 0);
    assert_eq!(registry.forget(gone.plus(secs(1))).await.unwrap(), 1);
    assert_eq!(registry.peers(offline, gone, TTL).await.unwrap().total, 0);
}

async fn leaving_ends_an_entry_at_once(registry: Arc<dyn Registry>) {
    let peer = node(1, "org_a").peer_id;
    registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    assert!(registry.leave(peer, None, NOW).await.unwrap());
    assert!(!registry.leave(peer, None, NOW).await.unwrap());
    assert_eq!(
        registry
            .peers(query("org_a"), NOW, TTL)
            .await
            .unwrap()
            .total,
        0
    );
}

async fn a_page_holds_what_was_asked_for_in_a_stable_order(registry: Arc<dyn Registry>) {
    for n in 1..=7 {
        registry
            .register(node(n, "org_a"), None, NOW, TTL)
            .await
            .unwrap();
    }
    registry
        .register(node(8, "org_b"), None, NOW, TTL)
        .await
        .unwrap();
    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = PeerQuery {
            limit: 3,
            after,
            ..query("org_a")
        };
        let page = registry.peers(page, NOW, TTL).await.unwrap();
        assert_eq!(page.total, 7);
        seen.extend(
            page.entries
                .iter()
                .map(|entry| entry.registration.peer_id.to_string()),
        );
        after = page.entries.last().map(|entry| entry.registration.peer_id);
        if !page.more {
            break;
        }
    }
    let mut expected: Vec<_> = (1..=7)
        .map(|n| node(n, "org_a").peer_id.to_string())
        .collect();
    expected.sort();
    assert_eq!(seen, expected);
}

async fn status_and_region_filter(registry: Arc<dyn Registry>) {
    registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    let later = NOW.plus(secs(70));
    registry
        .register(node(2, "org_a"), None, later, TTL)
        .await
        .unwrap();
    let names = async |query: PeerQuery| -> Vec<String> {
        let page = registry.peers(query, later, TTL).await.unwrap();
        page.entries
            .into_iter()
            .map(|entry| entry.registration.name)
            .collect()
    };
    let with = |status| PeerQuery {
        status: Some(status),
        ..query("org_a")
    };
    assert_eq!(names(with(Status::Online)).await, ["node-2"]);
    assert_eq!(names(with(Status::Unreachable)).await, ["node-1"]);
    assert!(names(with(Status::Offline)).await.is_empty());
    let west = PeerQuery {
        region: Some("us-west".into()),
        ..query("org_a")
    };
    assert_eq!(names(west).await, ["node-1"]);
}

async fn the_newest_peers_come_first_in_a_bootstrap_list(registry: Arc<dyn Registry>) {
    for n in 1..=4 {
        let seen = NOW.plus(secs(u64::from(n)));
        registry
            .register(node(n, "org_a"), None, seen, TTL)
            .await
            .unwrap();
    }
    registry
        .register(node(5, "org_b"), None, NOW, TTL)
        .await
        .unwrap();
    let recent = registry
        .recent("org_a".parse().unwrap(), 2, NOW.plus(secs(5)))
        .await
        .unwrap();
    let names: Vec<_> = recent
        .into_iter()
        .map(|entry| entry.registration.name)
        .collect();
    assert_eq!(names, ["node-4", "node-3"]);
}

fn request(n: u8) -> (Csr, [u8; 32]) {
    let key = NodeKey::from_seed([n; 32]);
    let csr = Csr::from_pem(&Csr::create_pem(&key, "new").unwrap()).unwrap();
    let hash = grants::request_hash(&csr);
    (csr, hash)
}

fn signs(n: u8, text: &str) -> Sign {
    let (csr, hash) = request(n);
    let text = text.to_owned();
    Box::new(move |_| Ok(grants::redemption(hash, csr.peer_id(), text, NOW)))
}

async fn a_token_is_redeemed_once_and_repeated_for_the_same_machine_only(
    registry: Arc<dyn Registry>,
) {
    let (_, mut grant) = token(&authority("org_a"), "new");
    grant.expires_at_unix_s = NOW.as_secs() + 60;
    let hash = grant.token_hash;
    registry.create_grant(grant.clone(), NOW).await.unwrap();
    registry.create_grant(grant, NOW).await.unwrap();

    let first = registry
        .redeem(hash, request(1).1, NOW, signs(1, "first"))
        .await
        .unwrap();
    let repeat = registry
        .redeem(hash, request(1).1, NOW, signs(1, "second"))
        .await
        .unwrap();
    let other = registry
        .redeem(hash, request(2).1, NOW, signs(2, "third"))
        .await;

    assert_eq!((first.leaf_pem.as_str(), &repeat), ("first", &first));
    assert!(matches!(
        other,
        Err(RedeemError::Denied(Denied::Used { .. }))
    ));
    let listed = registry.grants().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!(listed[0].redemption.as_ref(), Some(&first));
}

async fn a_failed_signature_leaves_the_token_whole(registry: Arc<dyn Registry>) {
    let (_, mut grant) = token(&authority("org_a"), "new");
    grant.expires_at_unix_s = NOW.as_secs() + 60;
    let hash = grant.token_hash;
    registry.create_grant(grant, NOW).await.unwrap();
    let failing: Sign = Box::new(|_| Err("no space left on device".into()));
    let failed = registry.redeem(hash, request(1).1, NOW, failing).await;
    assert!(matches!(failed, Err(RedeemError::Sign(_))));
    registry
        .redeem(hash, request(2).1, NOW, signs(2, "leaf"))
        .await
        .unwrap();
}

async fn a_withdrawn_token_is_unknown(registry: Arc<dyn Registry>) {
    let (_, mut grant) = token(&authority("org_a"), "new");
    grant.expires_at_unix_s = NOW.as_secs() + 60;
    let hash = grant.token_hash;
    registry.create_grant(grant, NOW).await.unwrap();
    assert!(
        !registry
            .withdraw_grant("0123456789abcdef".into())
            .await
            .unwrap()
    );
    assert!(registry.withdraw_grant(grant_id(&hash)).await.unwrap());
    let redeemed = registry
        .redeem(hash, request(1).1, NOW, signs(1, "leaf"))
        .await;
    assert!(matches!(
        redeemed,
        Err(RedeemError::Denied(Denied::Unknown))
    ));
}

async fn live_nodes_are_counted_by_organization(registry: Arc<dyn Registry>) {
    for (n, organization) in [(1, "org_a"), (2, "org_a"), (3, "org_b")] {
        registry
            .register(node(n, organization), None, NOW, TTL)
            .await
            .unwrap();
    }
    let live = registry.live(NOW).await.unwrap();
    assert_eq!(
        live.into_iter().collect::<Vec<_>>(),
        [("org_a".into(), 2), ("org_b".into(), 1)]
    );
}

#[tokio::test]
async fn given_a_redb_file_when_reopened_then_registrations_are_there() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("discovery.redb");
    let registry = Embedded::open(&path).unwrap();
    registry
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    let taken = Embedded::open(&path).unwrap_err();
    assert!(matches!(taken, EngineError::Open { .. }), "{taken}");
    drop(registry);
    let registry = Embedded::open(&path).unwrap();
    assert_eq!(
        registry
            .peers(query("org_a"), NOW, TTL)
            .await
            .unwrap()
            .total,
        1
    );
}

#[tokio::test]
async fn given_a_file_that_is_no_registry_then_it_is_refused_by_name() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("discovery.redb");
    std::fs::write(&path, vec![7; 64 * 1024]).unwrap();
    let error = Embedded::open(&path).unwrap_err().to_string();
    assert!(error.contains("discovery.redb"), "{error}");
}

#[tokio::test]
async fn given_servers_that_start_together_then_each_finds_the_tables_made() {
    let Some(cluster) =
        PostgresServer::shared("given_servers_that_start_together_then_each_finds_the_tables_made")
    else {
        return;
    };
    let url = cluster.database();
    let opened = futures::future::join_all((0..4).map(|_| open(&url))).await;
    opened[0]
        .register(node(1, "org_a"), None, NOW, TTL)
        .await
        .unwrap();
    assert_eq!(
        opened[3]
            .peers(query("org_a"), NOW, TTL)
            .await
            .unwrap()
            .total,
        1
    );
}

#[tokio::test]
async fn given_no_database_then_errors_never_name_the_password() {
    let url = "postgresql://warren:hunter2@127.0.0.1:1/registry";
    let options = PostgresOptions {
        acquire_timeout: Duration::from_millis(300),
        ..PostgresOptions::default()
    };
    let registry = Postgres::new(url, &options).unwrap();
    let error = registry.probe().await.unwrap_err();
    let seen = format!("{error} {error:?} {registry:?}");
    assert!(!seen.contains("hunter2"), "{seen}");
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");
    let bad = Postgres::new("postgresql://warren:hunter2@[::1/registry", &options).unwrap_err();
    assert!(!format!("{bad} {bad:?}").contains("hunter2"), "{bad:?}");
}
