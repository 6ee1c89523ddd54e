//! What happens to calls when machines go.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::lot::{Lot, Machine};
use crate::support::{Organization, eventually};

#[test]
fn given_a_worker_that_is_killed_under_load_then_no_idempotent_call_fails() {
    let mut lot = Lot::start(2, 2);
    let mut load = lot.client();
    load.begin(8, true);

    lot.workers[0].1.signal(Signal::KILL);

    load.goes_on(100);
    eventually("the directors know", || {
        lot.directors[0]
            .0
            .state_of(&lot.workers[0].0)
            .filter(|state| state == "failed")
    });
    load.goes_on(20);
    assert_eq!(load.end(), [""; 0]);
    // Taken out of the lot, which would complain of it.
    drop(lot.workers.remove(0));
}

#[test]
fn given_three_directors_when_two_are_killed_under_load_then_no_call_through_a_pool_of_them_fails()
{
    let lot = Lot::start(3, 2);
    let mut load = lot.client();
    load.begin(8, true);

    for (_, running) in &lot.directors[..2] {
        running.signal(Signal::KILL);
        load.goes_on(20);
    }

    load.goes_on(100);
    assert_eq!(load.end(), [""; 0]);
}

#[test]
fn given_a_worker_that_is_asked_to_stop_under_load_then_no_call_is_lost_and_it_has_left() {
    let mut lot = Lot::start(1, 2);
    let mut load = lot.client();
    // Of these each runs once: whatever is lost stays lost.
    load.begin(8, false);

    let begun = Instant::now();
    lot.workers[0].1.signal(Signal::TERM);
    let status = lot.workers[0].1.ended();

    assert!(status.success(), "{status}");
    assert!(begun.elapsed() < Duration::from_secs(35));
    load.goes_on(20);
    assert_eq!(load.end(), [""; 0]);
    eventually("the director knows that it left", || {
        lot.directors[0]
            .0
            .state_of(&lot.workers[0].0)
            .filter(|state| state == "left")
    });
    let log = lot.workers[0].1.log();
    let place = |what: &str| {
        log.find(what)
            .unwrap_or_else(|| panic!("no {what:?} in\n{log}"))
    };
    assert!(place("shutdown received") < place("shutdown complete"));
}

#[test]
fn given_a_call_longer_than_the_drain_when_interrupted_then_the_node_leaves_and_ends_in_time() {
    let mut lot = Lot::start(1, 0);
    let mut slow = Machine::worker(&lot.organization, "slow", &lot.directors[0].0);
    slow.command("cat; sleep 1000");
    slow.set("WARREN_RPC__DRAIN_TIMEOUT", "2s".to_owned());
    let mut running = slow.start();
    lot.directors[0].0.knows(2, 1);
    let mut load = lot.client();
    load.spawn(1, true);
    eventually("the call runs", || {
        let metrics = slow.metrics()?;
        metrics
            .contains("warren_rpc_requests_in_flight 1\n")
            .then_some(())
    });

    let begun = Instant::now();
    running.signal(Signal::INT);
    let status = running.ended();

    assert!(status.success(), "{status}");
    assert!(
        begun.elapsed() < Duration::from_secs(20),
        "{:?}",
        begun.elapsed()
    );
    eventually("the director knows that it left", || {
        lot.directors[0]
            .0
            .state_of(&slow)
            .filter(|state| state == "left")
    });
    lot.directors.clear();
}

#[test]
fn given_a_certificate_without_the_capability_then_the_role_is_refused() {
    let organization = Organization::new();
    let director = Machine::director(&organization, "director-1", &[]);
    let refused = Machine::worker(&organization, "worker-1", &director);
    refused
        .home
        .issue(&organization, "worker-1", &["storage"])
        .ok();

    let mut running = refused.start();

    assert_eq!(running.ended().code(), Some(1));
    assert!(
        running.log().contains("lacks the capability `worker`"),
        "{}",
        running.log()
    );
}
