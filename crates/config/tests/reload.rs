//! What a running node takes over from a new configuration.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use sources::node;
use warren_config::{Admission, diff};

#[test]
fn given_live_and_fixed_changes_when_compared_then_only_the_live_ones_are_in_the_new_settings() {
    let old = node("{storage: {gc: {interval: 1h}, path: /a}, logging: {level: info}}").loaded();
    let new = node("{storage: {gc: {interval: 2h}, path: /b}, logging: {level: debug}}").loaded();

    let plan = diff(&old, &new).unwrap();

    assert_eq!(plan.apply, ["storage.gc.interval", "logging.level"]);
    assert_eq!(plan.needs_restart, ["api.token_file", "storage.path"]);
    assert_eq!(plan.in_force.settings.storage.gc.interval.as_secs(), 7200);
    assert_eq!(plan.in_force.settings.storage.path.to_str(), Some("/a"));
    assert_eq!(plan.in_force.settings.logging.level, "debug");
}

#[test]
fn given_the_same_values_written_differently_when_compared_then_nothing_changes() {
    let old = node("network: {libp2p: {dht: {bootstrap_interval: 300}}}").loaded();
    let new = node("# moved\n\nnetwork: {libp2p: {dht: {bootstrap_interval: 5m}}}").loaded();

    let plan = diff(&old, &new).unwrap();

    assert!(plan.apply.is_empty() && plan.needs_restart.is_empty());
    assert_eq!(plan.in_force.settings, old.settings);
}

#[test]
fn given_a_key_that_is_no_longer_set_when_compared_then_its_default_applies() {
    let old = node("network: {security: {crl: revoked.pem}}").loaded();
    let new = node("").loaded();

    let plan = diff(&old, &new).unwrap();

    assert_eq!(plan.apply, ["network.security.crl"]);
    assert_eq!(plan.in_force.settings.network.security.crl, None);
}

#[test]
fn given_lowered_protection_when_compared_then_every_such_key_is_refused() {
    let old =
        node("network: {security: {admission: members}}\napi: {tls: {enabled: true}}").loaded();
    let new = node(
        "\
network: {security: {admission: open}}
discovery: {server: {auth: {require_certificates: false, anonymous_bootstrap: true}}}
roles: [discovery]
",
    )
    .loaded();

    let refusals: Vec<String> = diff(&old, &new)
        .unwrap_err()
        .iter()
        .map(ToString::to_string)
        .collect();

    assert_eq!(
        refusals[0],
        "node.yaml:1:33: network.security.admission: a reload does not lower protection (from members to open); restart the \
         node to apply it"
    );
    assert_eq!(refusals.len(), 4, "{refusals:?}");
}

#[test]
fn given_the_api_moved_off_loopback_when_compared_then_it_is_refused() {
    let old = node("").loaded();
    let new = node("api: {listen_address: '0.0.0.0:8080', tls: {enabled: true}}").loaded();

    let refusals = diff(&old, &new).unwrap_err();

    assert_eq!(refusals[0].path.as_deref(), Some("api.listen_address"));
}

#[test]
fn given_raised_admission_when_compared_then_it_is_not_refused_and_waits_for_a_restart() {
    let old = node("network: {security: {admission: open}}").loaded();
    let new = node("network: {security: {admission: members}}").loaded();

    let plan = diff(&old, &new).unwrap();

    assert_eq!(plan.needs_restart, ["network.security.admission"]);
    assert_eq!(
        plan.in_force.settings.network.security.admission,
        Admission::Open
    );
}

#[test]
fn given_a_reload_that_left_keys_for_a_restart_when_reloaded_again_then_they_still_wait() {
    let old = node("storage: {path: /a}").loaded();
    let new = node("{storage: {path: /b}, logging: {level: debug}}").loaded();

    let in_force = diff(&old, &new).unwrap().in_force;
    let again = diff(&in_force, &new).unwrap();

    assert!(again.apply.is_empty(), "{:?}", again.apply);
    assert_eq!(again.needs_restart, ["api.token_file", "storage.path"]);
}
