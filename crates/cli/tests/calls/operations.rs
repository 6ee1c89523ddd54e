//! What operators ask a cluster, and tell it.

use std::time::Duration;

use rustix::process::Signal;

use crate::lot::{GOSSIP_PORT, Lot, Machine, RPC_PORT};
use crate::support::{Organization, eventually, within};

#[test]
fn given_three_directors_and_two_workers_then_any_director_serves_any_client_and_knows_them_all() {
    let lot = Lot::start(3, 2);
    let load = lot.client();

    for _ in 0..20 {
        assert_eq!(load.call("tokens").unwrap(), "TOKENS");
    }

    for (director, _) in &lot.directors {
        let report = director.report().unwrap();
        assert_eq!(report["members"].as_array().unwrap().len(), 5);
        director.warren(["health", "--endpoint", "ready"]).ok();
        director.warren(["cluster", "health"]).ok();
        director
            .warren(["cluster", "check-worker", "worker-2"])
            .ok();
        let missing = director.warren(["cluster", "check-worker", "worker-9"]);
        assert_eq!(missing.code, Some(1), "{missing:?}");
    }
    let shown = lot.directors[0].0.warren(["cluster", "status"]).ok();
    assert!(
        shown.contains("5 members, 2 of 2 workers take calls"),
        "{shown}"
    );
}

#[test]
fn given_a_director_without_workers_then_it_is_not_ready_and_the_cluster_is_degraded() {
    let lot = Lot::start(1, 0);
    let director = &lot.directors[0].0;

    assert_eq!(
        director.warren(["health", "--endpoint", "ready"]).code,
        Some(1)
    );
    director.warren(["health", "--endpoint", "health"]).ok();
    let health = director.warren(["cluster", "health", "--json"]);
    assert_eq!(health.code, Some(1));
    let told: serde_json::Value = serde_json::from_slice(&health.stdout).unwrap();
    assert_eq!(told["status"], "degraded");
    assert_eq!(told["complaints"][0], "no worker takes calls");
}

#[test]
fn given_a_node_that_is_told_to_leave_then_it_stops_and_the_others_know_that_it_left() {
    let mut lot = Lot::start(1, 1);

    lot.workers[0].0.warren(["cluster", "leave"]).ok();

    assert!(lot.workers[0].1.ended().success());
    let (director, worker) = (&lot.directors[0].0, &lot.workers[0].0);
    eventually("the director knows that it left", || {
        director.state_of(worker).filter(|state| state == "left")
    });
    let gone = director.warren(["cluster", "check-worker", "worker-1"]);
    assert_eq!(gone.code, Some(1));
}

#[test]
fn given_a_member_that_is_no_administrator_then_it_may_look_and_not_touch() {
    let lot = Lot::start(1, 1);
    let director = format!("{}:{RPC_PORT}", lot.directors[0].0.home.ip);
    let worker = &lot.workers[0].0;

    worker
        .warren(["cluster", "status", "--rpc", &director])
        .ok();
    let refused = worker.warren(["cluster", "leave", "--rpc", &director]);

    assert!(refused.failed().contains("admin"), "{refused:?}");
}

#[test]
fn given_all_directors_gone_when_a_new_one_gets_the_backup_then_the_cluster_forms_again() {
    let mut lot = Lot::start(2, 1);
    let backup = lot.organization.folder().join("state.json");
    let file = backup.to_str().unwrap();
    lot.directors[0]
        .0
        .warren(["cluster", "backup", "--out", file])
        .ok();
    let saved: serde_json::Value =
        serde_json::from_slice(&std::fs::read(&backup).unwrap()).unwrap();
    assert_eq!(saved["nodes"].as_array().unwrap().len(), 3);
    for (_, running) in lot.directors.drain(..) {
        running.signal(Signal::KILL);
    }

    // It knows nobody, and nobody knows it.
    let new = Machine::director(&lot.organization, "director-9", &[]);
    let _running = new.start();
    new.knows(1, 0);
    let shown = new.warren(["cluster", "restore", file, "--json"]).json();
    assert_eq!(shown["members"], 3);
    new.warren(["cluster", "restore", file, "--apply"]).ok();

    within(Duration::from_secs(60), "the worker is found", || {
        let report = new.report()?;
        (report["healthy_workers"] == 1).then_some(())
    });
}

#[test]
fn given_a_folder_as_configuration_then_the_environments_file_beats_the_default_and_may_be_missing()
{
    let organization = Organization::new();
    let mut machine = Machine::director(&organization, "director-1", &[]);
    let folder = machine.home.path("config");
    std::fs::create_dir(&folder).unwrap();
    let file = |name: &str, text: &str| std::fs::write(folder.join(name), text).unwrap();
    file("default.yaml", "rpc: {drain_timeout: 11s, max_calls: 7}\n");
    file("production.yaml", "rpc: {drain_timeout: 12s}\n");
    let shown = |machine: &Machine| {
        let folder = folder.to_str().unwrap();
        machine.warren(["--config", folder, "config", "show"]).ok()
    };
    let has = |shown: &str, key: &str, value: &str| {
        shown
            .lines()
            .any(|line| line.contains(key) && line.contains(value))
    };

    machine.set("ENV", "production".to_owned());
    let both = shown(&machine);
    assert!(has(&both, "rpc.drain_timeout", "12s"), "{both}");
    assert!(has(&both, "rpc.max_calls", "7"), "{both}");
    machine.set("WARREN_ENV", "staging".to_owned());
    assert!(has(&shown(&machine), "rpc.drain_timeout", "11s"));
    machine.set("WARREN_RPC__DRAIN_TIMEOUT", "13s".to_owned());
    assert!(has(&shown(&machine), "rpc.drain_timeout", "13s"));
}

#[test]
fn given_flags_then_they_beat_the_environment() {
    let lot = Lot::start(1, 0);
    let other = Machine::director(&lot.organization, "other", &[]);
    let seed = format!("{}:{GOSSIP_PORT}", lot.directors[0].0.home.ip);

    let planned = other
        .warren([
            "director",
            "--dry-run",
            "--json",
            "--seed",
            &seed,
            "--label",
            "chosen",
        ])
        .json();

    assert_eq!(planned["roles"][0], "director");
    assert_eq!(planned["node_id"], "other");
}
