//! Keys of the call plane: environment, precedence, lists of sections.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod sources;

use std::time::Duration;

use sources::{Sources, node};
use warren_config::{Role, WorkerCommand};

const NODE: &str = "network: {node_id: worker-7}\nroles: [worker]\n";

#[test]
fn given_commands_of_a_worker_when_loaded_then_what_is_left_out_has_the_tables_default() {
    let settings = Sources::new()
        .file(
            "node.yaml",
            format!(
                "{NODE}rpc:
  worker:
    commands:
      - {{method: compute, run: [/usr/bin/model, '--fast']}}
      - {{method: train, run: [/usr/bin/train], timeout: 2h, max_running: 1}}
"
            ),
        )
        .settings();

    let compute = WorkerCommand {
        method: "compute".into(),
        run: vec!["/usr/bin/model".into(), "--fast".into()],
        timeout: Duration::from_secs(30),
        max_running: 4,
    };
    assert_eq!(settings.rpc.worker_commands[0], compute);
    assert_eq!(settings.rpc.worker_commands[1].max_running, 1);
    assert_eq!(
        settings.rpc.worker_commands[1].timeout,
        Duration::from_secs(7200)
    );
    assert_eq!(settings.cluster.label, "worker-7");
    assert!(settings.roles.contains(&Role::Worker));
}

#[test]
fn given_two_commands_of_one_method_when_loaded_then_it_is_named() {
    let problems = node(format!(
        "{NODE}rpc: {{worker: {{commands: [{{method: a, run: [b]}}, {{method: a, run: [c]}}]}}}}\n"
    ))
    .problems();

    assert!(problems.contains("'a' is there twice"), "{problems}");
}

#[test]
fn given_a_command_without_a_program_when_loaded_then_it_is_named() {
    let problems = node(format!(
        "{NODE}rpc: {{worker: {{commands: [{{method: a, run: []}}]}}}}\n"
    ))
    .problems();

    assert!(problems.contains("no program"), "{problems}");
}

#[test]
fn given_one_key_in_every_source_when_loaded_then_flags_beat_ours_beat_legacy_names_beat_files() {
    let file = format!("{NODE}cluster: {{bind_addr: '10.0.0.1:1'}}\n");
    let legacy = node(&file).legacy("BIND_ADDR", "cluster.bind_addr", "10.0.0.1:2");
    assert_eq!(legacy.settings().cluster.bind_addr.port(), 2);

    let ours = legacy.env("WARREN_CLUSTER__BIND_ADDR", "10.0.0.1:3");
    assert_eq!(ours.settings().cluster.bind_addr.port(), 3);

    let flag = ours.flag("--gossip", "cluster.bind_addr", "10.0.0.1:4");
    assert_eq!(flag.settings().cluster.bind_addr.port(), 4);
}

#[test]
fn given_a_bad_legacy_variable_when_loaded_then_the_variable_is_named_as_it_was_written() {
    let problems = node(NODE)
        .legacy("SEED_NODES", "cluster.seeds", "nonsense")
        .problems();

    assert!(problems.contains("environment SEED_NODES"), "{problems}");
}
