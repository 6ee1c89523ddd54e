//! A gRPC client that nobody here wrote calls the calculator over mutual TLS.
#![allow(clippy::unwrap_used, clippy::expect_used)]

#[path = "grpc/stock.rs"]
mod stock;
mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use stock::{Running, Stock};
use support::{authority, member};
use tempfile::TempDir;
use warren_example_calculator::{bind, companion};
use warren_rpc::Server;

/// A calculator for gRPC clients, and a member's files for one of them.
struct World {
    server: Server,
    runtime: tokio::runtime::Runtime,
    stock: Stock,
    files: [PathBuf; 3],
    _folder: TempDir,
}

impl World {
    fn or_skip() -> Option<Self> {
        let stock = Stock::or_skip()?;
        let folder = tempfile::tempdir().unwrap();
        let ca = authority(7);
        let server_files = member(&ca, folder.path(), "server", 2);
        let client_files = member(&ca, folder.path(), "client", 3);
        let (certificate, key) = companion(&client_files).unwrap();
        let files = [
            client_files.ca,
            folder.path().join("companion.pem"),
            folder.path().join("companion.key"),
        ];
        std::fs::write(&files[1], certificate).unwrap();
        std::fs::write(&files[2], key.as_bytes()).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let entered = runtime.enter();
        let loopback = "127.0.0.1:0".parse().unwrap();
        let server = bind(&server_files, loopback, Some(loopback)).unwrap();
        let running = server.clone();
        runtime.spawn(async move { running.run().await });
        drop(entered);
        Some(Self {
            server,
            runtime,
            stock,
            files,
            _folder: folder,
        })
    }

    fn start(&self, scenario: &str) -> Running {
        let files = self.files.iter().map(|file| file.to_str().unwrap());
        self.start_with(scenario, &files.collect::<Vec<_>>())
    }

    fn start_with(&self, scenario: &str, files: &[&str]) -> Running {
        let address = self.server.grpc_address().unwrap().to_string();
        self.stock.start(&[&[scenario, &address], files].concat())
    }

    /// Waits until this many calls are in flight.
    fn has_in_flight(&self, calls: usize) {
        let end = Instant::now() + Duration::from_secs(30);
        while self.server.in_flight() != calls {
            assert!(
                Instant::now() < end,
                "{} calls in flight",
                self.server.in_flight()
            );
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

fn works(scenario: &str) {
    if let Some(world) = World::or_skip() {
        world.start(scenario).ends_well();
        world.has_in_flight(0);
    }
}

#[test]
fn given_a_stock_client_when_it_adds_then_it_gets_sums_and_typed_errors() {
    works("unary");
}

#[test]
fn given_a_stock_client_when_it_streams_then_each_way_works() {
    works("streaming");
}

#[test]
fn given_a_stock_client_with_a_deadline_when_it_passes_then_the_call_ends_on_both_sides() {
    works("deadline");
}

#[test]
fn given_a_stock_client_that_compresses_then_it_is_told_that_this_is_not_done_here() {
    works("compression");
}

#[test]
fn given_a_stock_client_when_it_asks_for_health_then_it_is_told() {
    works("health");
}

#[test]
fn given_a_stock_client_without_the_proto_then_reflection_tells_it_enough_to_call() {
    works("reflection");
}

#[test]
fn given_a_stock_client_when_it_cancels_then_the_handler_is_dropped_and_the_connection_lives_on() {
    let Some(world) = World::or_skip() else {
        return;
    };
    let mut client = world.start("cancellation");
    client.says("running");
    world.has_in_flight(1);
    client.go_on();
    client.says("cancelled");
    world.has_in_flight(0);
    client.go_on();
    client.ends_well();
}

#[test]
fn given_a_drain_when_a_stock_client_has_a_call_in_flight_then_it_is_answered_to_its_end() {
    let Some(world) = World::or_skip() else {
        return;
    };
    let mut client = world.start("drain");
    client.says("running");
    let report = world.runtime.block_on(world.server.shutdown());
    assert_eq!(report.cut, 0);
    client.ends_well();
}

#[test]
fn given_stock_clients_that_are_no_members_then_they_are_refused() {
    let Some(world) = World::or_skip() else {
        return;
    };
    let ca = world.files[0].to_str().unwrap();
    world.start_with("refused", &[ca]).ends_well();

    let folder = tempfile::tempdir().unwrap();
    let stranger = member(&authority(8), folder.path(), "stranger", 3);
    let (certificate, key) = companion(&stranger).unwrap();
    let files = ["companion.pem", "companion.key"].map(|name| folder.path().join(name));
    std::fs::write(&files[0], certificate).unwrap();
    std::fs::write(&files[1], key.as_bytes()).unwrap();
    let [certificate, key] = files.each_ref().map(|file| file.to_str().unwrap());
    world
        .start_with("refused", &[ca, certificate, key])
        .ends_well();
}
