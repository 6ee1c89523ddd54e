//! Clusters of two regions, federated by their directors.

use rustix::process::Signal;
use warren_rpc::{Code, Status};

use crate::lot::{Load, Machine, RPC_PORT};
use crate::support::{Organization, eventually};

/// A machine of a region.
fn of(region: &str, mut machine: Machine) -> Machine {
    machine.set("WARREN_NETWORK__REGION", region.to_owned());
    machine
}

#[test]
fn given_two_regions_then_calls_stay_spill_over_when_nobody_is_there_and_data_never_does() {
    let organization = Organization::new();
    let us = of("us", Machine::director(&organization, "us", &[]));
    let mut us_worker = of("us", Machine::worker(&organization, "us-worker", &us));
    us_worker.command("echo us");
    let mut eu = of("eu", Machine::director(&organization, "eu", &[]));
    let remote = format!("[{{region: us, addresses: ['{}:{RPC_PORT}']}}]", us.home.ip);
    eu.set("WARREN_CLUSTER__REMOTE_DIRECTORS", remote);
    let mut eu_worker = of("eu", Machine::worker(&organization, "eu-worker", &eu));
    eu_worker.command("echo eu");
    let (_us, _us_worker, _eu) = (us.start(), us_worker.start(), eu.start());
    let mut leaving = eu_worker.start();
    us.knows(2, 1);
    eu.knows(2, 1);
    let load = Load::of(&organization, [&eu]);
    let answered = |region: Option<&str>| {
        let answer = load.call_for("", region).map_err(Status::from);
        answer.map(|bytes| String::from_utf8_lossy(&bytes).trim().to_owned())
    };

    for _ in 0..20 {
        assert_eq!(answered(None).unwrap(), "eu");
    }
    assert_eq!(answered(Some("eu")).unwrap(), "eu");
    eventually("the other region is connected", || {
        (answered(Some("us")).as_deref() == Ok("us")).then_some(())
    });
    let unknown = answered(Some("mars")).unwrap_err();
    assert_eq!(unknown.code(), Code::FailedPrecondition, "{unknown}");

    leaving.signal(Signal::TERM);
    assert!(leaving.ended().success());
    assert_eq!(answered(None).unwrap(), "us");
    let at_home = answered(Some("eu")).unwrap_err();
    assert_eq!(at_home.code(), Code::Unavailable, "{at_home}");
}
