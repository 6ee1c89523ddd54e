//! `warren preflight`, `warren verify` and advice on sizes.

use crate::lot::{Lot, Machine};
use crate::support::{Finished, Organization, warren};

/// Names of the points, and which of them failed.
fn points(finished: &Finished) -> (Vec<String>, Vec<String>) {
    let told: serde_json::Value = serde_json::from_slice(&finished.stdout)
        .unwrap_or_else(|error| panic!("{error}: {finished:?}"));
    let name = |point: &serde_json::Value| point["name"].as_str().unwrap().to_owned();
    let points = told["points"].as_array().unwrap();
    let failed = points
        .iter()
        .filter(|point| point["passed"] == false)
        .map(name);
    let (all, failed) = (
        points.iter().map(name).collect(),
        failed.collect::<Vec<_>>(),
    );
    assert_eq!(told["passed"], failed.is_empty());
    (all, failed)
}

#[test]
fn given_a_machine_when_looked_at_before_a_deployment_then_ten_points_pass_or_say_what_to_do() {
    let organization = Organization::new();
    let first = Machine::director(&organization, "director-1", &[]);

    let bare = first.warren(["preflight", "--json"]);

    let (all, failed) = points(&bare);
    assert_eq!(all.len(), 10);
    assert_eq!(
        failed,
        [
            "log aggregation",
            "autoscaling",
            "backup tested",
            "runbooks"
        ]
    );
    assert_eq!(bare.code, Some(1));
}

#[test]
fn given_a_running_cluster_when_verified_then_eight_points_pass() {
    let mut lot = Lot::start(2, 2);
    let folder = lot.organization.folder().to_owned();
    let (backup, runbooks) = (folder.join("state.json"), folder.join("runbooks.md"));
    let (backup, runbooks) = (backup.to_str().unwrap(), runbooks.to_str().unwrap());
    std::fs::write(runbooks, "What to do when a worker is gone").unwrap();
    let director = &mut lot.directors[0].0;
    director.warren(["cluster", "backup", "--out", backup]).ok();
    let arguments = |command: &'static str| {
        [
            command,
            "--json",
            "--backup",
            backup,
            "--runbooks",
            runbooks,
        ]
    };
    let generous = ["--max-latency", "5s"];

    let verified = director.warren(arguments("verify").into_iter().chain(generous));

    let (all, failed) = points(&verified);
    assert_eq!(all.len(), 8);
    assert_eq!(failed, [""; 0], "{verified:?}");
    assert_eq!(verified.code, Some(0));

    let hurried = ["--max-latency", "0ms"];
    let (_, failed) = points(&director.warren(arguments("verify").into_iter().chain(hurried)));
    assert_eq!(failed, ["performance"]);

    director.set("WARREN_LOGGING__FORMAT", "json".to_owned());
    director.set("SEED_NODES", "127.0.0.1:7946".to_owned());
    let preflight = director.warren(arguments("preflight"));
    let (_, failed) = points(&preflight);
    assert_eq!(failed, [""; 0], "{preflight:?}");
    assert_eq!(preflight.code, Some(0));
}

#[test]
fn given_figures_of_the_workers_when_asked_for_advice_then_it_is_printed() {
    let advice = |avg: &str, p99: &str| {
        warren([
            "cluster",
            "sizing",
            "--avg-cpu",
            avg,
            "--avg-memory",
            "50",
            "--p99-cpu",
            p99,
        ])
        .ok()
    };
    assert_eq!(advice("10", "20"), "downsize_workers");
    assert_eq!(advice("30", "80"), "current_sizing_optimal");
    assert_eq!(advice("30", "81"), "upsize_workers");
    warren(["cluster", "sizing", "--avg-cpu", "120"]).usage();
}
