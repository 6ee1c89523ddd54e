//! New certificates under load, and pairs that are refused.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use support::lines::Lines;
use support::probe::{MyProbe, ProbeServer, client};
use support::{Organization, eventually, issue};
use warren_identity::{Leaf, NodeKey};
use warren_rpc::{
    CertificateFiles, Context, ReloadError, RotationOptions, Server, rotate_certificates,
};

const YEAR: Duration = Duration::from_secs(365 * 24 * 3600);
const DAY: Duration = Duration::from_secs(24 * 3600);

struct Place {
    folder: tempfile::TempDir,
    organization: Organization,
    key: NodeKey,
    server: Server,
    address: std::net::SocketAddr,
}

impl Place {
    fn new() -> Self {
        let organization = Organization::new("org_test");
        let (server, address) =
            organization.serve_as(ProbeServer::new(MyProbe::default()), |builder| builder);
        let key = server.trust().key().clone();
        Self {
            folder: tempfile::tempdir().unwrap(),
            organization,
            key,
            server,
            address,
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn leaf(&self, validity: Duration) -> Leaf {
        issue(&self.organization, &self.key, validity)
    }

    fn put_leaf(&self, name: &str, leaf: &Leaf) -> PathBuf {
        write(&self.path(name), &leaf.to_pem())
    }

    fn put_key(&self, name: &str, key: &NodeKey) -> PathBuf {
        write(&self.path(name), &key.to_pem())
    }

    /// The serial number that a new connection sees.
    async fn serial(&self) -> Vec<u8> {
        let connection = self.organization.connect(self.address).await;
        connection.server().serial.clone()
    }
}

fn write(path: &Path, text: &str) -> PathBuf {
    std::fs::write(path, text).unwrap();
    path.to_owned()
}

fn serial_of(leaf: &Leaf) -> Vec<u8> {
    leaf.facts().serial.clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn given_calls_in_a_loop_when_the_certificate_is_exchanged_a_thousand_times_then_none_fails()
{
    let place = Place::new();
    let key = place.put_key("server.key", &place.key);
    let stop = Arc::new(AtomicBool::new(false));
    let answered = Arc::new(AtomicUsize::new(0));
    let client = client(&place.organization, place.address).await;
    let (stopped, counted) = (Arc::clone(&stop), Arc::clone(&answered));
    let calls = tokio::spawn(async move {
        while !stopped.load(Ordering::Relaxed) {
            client.echo(Context::new(), vec![1; 64]).await.unwrap();
            counted.fetch_add(1, Ordering::Relaxed);
        }
    });
    for round in 0..1_000 {
        let leaf = place.leaf(YEAR);
        let cert = place.put_leaf("server.crt", &leaf);
        place.server.reload_certificate(&cert, &key).await.unwrap();
        if round % 100 == 0 {
            assert_eq!(place.serial().await, serial_of(&leaf));
        }
    }
    stop.store(true, Ordering::Relaxed);
    calls.await.unwrap();
    assert!(answered.load(Ordering::Relaxed) > 100);
}

#[tokio::test]
async fn given_pairs_that_do_not_serve_then_each_is_refused_and_the_old_one_stays() {
    let place = Place::new();
    let before = place.serial().await;
    let other = NodeKey::from_seed([77; 32]);
    let good_key = place.put_key("good.key", &place.key);
    let good_cert = place.put_leaf("good.crt", &place.leaf(YEAR));
    let other_key = place.put_key("other.key", &other);
    let other_cert = place.put_leaf("other.crt", &issue(&place.organization, &other, YEAR));
    let foreign = Organization::new("org_test");
    let foreign_cert = place.put_leaf("foreign.crt", &issue(&foreign, &place.key, YEAR));
    let garbage = write(&place.path("garbage"), "-----BEGIN NOTHING");
    let missing = place.path("missing");
    let reload = |cert: &PathBuf, key: &PathBuf| {
        let (server, cert, key) = (place.server.clone(), cert.clone(), key.clone());
        async move { server.reload_certificate(cert, key).await.unwrap_err() }
    };
    let refused = reload(&good_cert, &other_key).await;
    assert!(matches!(refused, ReloadError::Mismatch { .. }), "{refused}");
    let refused = reload(&other_cert, &good_key).await;
    assert!(matches!(refused, ReloadError::Mismatch { .. }), "{refused}");
    let refused = reload(&other_cert, &other_key).await;
    assert!(matches!(refused, ReloadError::OtherKey { .. }), "{refused}");
    let refused = reload(&foreign_cert, &good_key).await;
    assert!(matches!(refused, ReloadError::Refused { .. }), "{refused}");
    for (cert, key) in [(&garbage, &good_key), (&good_cert, &garbage)] {
        let refused = reload(cert, key).await;
        assert!(matches!(refused, ReloadError::Content { .. }), "{refused}");
    }
    let refused = reload(&missing, &good_key).await;
    assert!(matches!(refused, ReloadError::File { .. }), "{refused}");
    assert_eq!(place.serial().await, before);
}

fn watched(place: &Place) -> (CertificateFiles, tokio::task::JoinHandle<()>) {
    let files = CertificateFiles {
        cert: place.path("server.crt"),
        key: place.path("server.key"),
    };
    let options = RotationOptions {
        check_interval: Duration::from_millis(20),
        ..RotationOptions::default()
    };
    let (server, watched) = (place.server.clone(), files.clone());
    let task = tokio::spawn(async move { rotate_certificates(&server, &watched, options).await });
    (files, task)
}

async fn eventually_serves(place: &Place, leaf: &Leaf) {
    let trust = place.server.trust().clone();
    eventually("the new certificate", || {
        trust.own_member().unwrap().serial == serial_of(leaf)
    })
    .await;
    assert_eq!(place.serial().await, serial_of(leaf));
}

#[tokio::test]
async fn given_a_new_pair_beside_one_that_ends_soon_then_it_takes_its_place_and_its_name() {
    let place = Place::new();
    place.put_key("server.key", &place.key);
    place.put_leaf("server.crt", &place.leaf(20 * DAY));
    let (files, _task) = watched(&place);
    let new = place.leaf(YEAR);
    place.put_key("server.key.new", &place.key);
    let beside = write(&place.path("beside"), &new.to_pem());
    std::fs::rename(beside, place.path("server.crt.new")).unwrap();

    eventually_serves(&place, &new).await;
    eventually("the names", || {
        !place.path("server.crt.new").exists() && !place.path("server.key.new").exists()
    })
    .await;
    assert_eq!(std::fs::read_to_string(&files.cert).unwrap(), new.to_pem());
}

#[tokio::test]
async fn given_a_certificate_that_changes_in_place_then_it_is_taken_up() {
    let place = Place::new();
    place.put_key("server.key", &place.key);
    let first = place.leaf(YEAR);
    place.put_leaf("server.crt", &first);
    let (_files, _task) = watched(&place);
    eventually_serves(&place, &first).await;
    let second = place.leaf(YEAR);
    let beside = write(&place.path("beside"), &second.to_pem());
    std::fs::rename(beside, place.path("server.crt")).unwrap();
    eventually_serves(&place, &second).await;
}

#[tokio::test]
async fn given_a_mismatched_new_pair_then_it_is_left_where_it_lies_and_a_right_one_counts_later() {
    let (lines, _guard) = Lines::of("warn");
    let place = Place::new();
    place.put_key("server.key", &place.key);
    let first = place.leaf(YEAR);
    place.put_leaf("server.crt", &first);
    let other = NodeKey::from_seed([77; 32]);
    place.put_leaf("server.crt.new", &issue(&place.organization, &other, YEAR));
    let (_files, task) = watched(&place);
    let said = "certificate not rotated; the old one stays";
    eventually("it was looked at again", || lines.with(said).len() > 2).await;
    assert!(place.path("server.crt.new").exists());
    let second = place.leaf(YEAR);
    let beside = write(&place.path("beside"), &second.to_pem());
    std::fs::rename(beside, place.path("server.crt.new")).unwrap();
    eventually_serves(&place, &second).await;

    place.server.stop_accepting();
    task.await.unwrap();
}
