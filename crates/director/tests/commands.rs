//! Methods that a command carries out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod support;

use std::path::PathBuf;
use std::time::{Duration, Instant};

use bytes::Bytes;
use support::{Answering, Organization, eventually, method};
use warren_director::{CommandOptions, Commands};
use warren_rpc::{Caller, Code, Connection, Context, Failure, Server, Status, ms};

fn shell(name: &str, script: &str) -> CommandOptions {
    CommandOptions {
        method: name.to_owned(),
        program: PathBuf::from("/bin/sh"),
        arguments: vec!["-c".to_owned(), script.to_owned()],
        timeout: Duration::from_secs(20),
        max_running: 4,
        max_output_bytes: 1024 * 1024,
    }
}

struct Worker {
    _server: Server,
    connection: Connection,
}

impl Worker {
    async fn start(commands: Commands) -> Self {
        let organization = Organization::new();
        let (server, address) = organization.serve(&["worker"], commands);
        Self {
            _server: server,
            connection: organization.connect(&[], address).await,
        }
    }

    async fn call(&self, name: &str, request: impl Into<Bytes>) -> Result<Bytes, Status> {
        let answer: Result<Bytes, Failure> = self
            .connection
            .unary(
                &method(name, false),
                Context::deadline(ms(30_000)),
                request.into(),
            )
            .await;
        answer.map_err(Status::from)
    }
}

#[tokio::test]
async fn given_a_command_then_its_standard_output_answers_its_standard_input() {
    let worker = Worker::start(Commands::new([shell("compute", "tr a-z A-Z")])).await;

    assert_eq!(worker.call("compute", "tokens").await.unwrap(), "TOKENS");
}

#[tokio::test]
async fn given_a_request_and_an_answer_too_big_for_a_lane_then_they_go_through() {
    let worker = Worker::start(Commands::new([shell("echo", "cat")])).await;
    let big = Bytes::from(vec![7; 900_000]);

    assert!(worker.call("echo", big.clone()).await.unwrap() == big);
}

#[tokio::test]
async fn given_a_command_that_fails_then_the_caller_learns_how_and_its_last_words() {
    let worker = Worker::start(Commands::new([shell(
        "compute",
        "echo warming up >&2; echo no such model >&2; exit 3",
    )]))
    .await;

    let failed = worker.call("compute", "").await.unwrap_err();

    assert_eq!(failed.code(), Code::Unknown);
    assert!(
        failed.message().contains("no such model") && failed.message().contains('3'),
        "{failed}"
    );
}

#[tokio::test]
async fn given_a_command_that_takes_too_long_then_it_is_killed_with_all_it_started() {
    let folder = tempfile_folder();
    let pids = folder.join("pids");
    let script = format!(
        "sleep 1000 & echo $! > {0}.part; mv {0}.part {0}; wait",
        pids.display()
    );
    let mut slow = shell("slow", &script);
    slow.timeout = Duration::from_secs(1);
    let worker = Worker::start(Commands::new([slow])).await;

    let begun = Instant::now();
    let failed = worker.call("slow", "").await.unwrap_err();

    assert_eq!(failed.code(), Code::DeadlineExceeded, "{failed}");
    assert!(begun.elapsed() < Duration::from_secs(15));
    let pid = std::fs::read_to_string(&pids).unwrap();
    eventually("what it started is gone", || has_ended(pid.trim())).await;
    std::fs::remove_dir_all(folder).unwrap();
}

/// Nobody may be there to collect a dead process.
fn has_ended(pid: &str) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.is_empty() || stat.contains(") Z ")
}

fn tempfile_folder() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("warren-director-{}", std::process::id()));
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

#[tokio::test]
async fn given_as_many_runs_as_there_may_be_then_the_next_caller_is_told_when_to_come_back() {
    let mut single = shell("single", "cat; sleep 1000");
    single.max_running = 1;
    let worker = Worker::start(Commands::new([single])).await;
    let call = || Box::pin(worker.call("single", ""));

    // One of the two runs, for longer than the test; the other ends at once.
    let (first, _) = futures::future::select(call(), call()).await.factor_first();

    let refused = first.unwrap_err();
    assert!(refused.retry_after().is_some(), "{refused}");
    assert!(refused.had_no_effect());
}

#[tokio::test]
async fn given_an_answer_that_is_too_long_then_it_is_an_error_and_not_cut() {
    let mut chatty = shell("chatty", "yes");
    chatty.max_output_bytes = 10_000;
    let worker = Worker::start(Commands::new([chatty])).await;

    let failed = worker.call("chatty", "").await.unwrap_err();

    assert_eq!(failed.code(), Code::ResourceExhausted, "{failed}");
}

#[tokio::test]
async fn given_a_program_that_is_not_there_then_nothing_happened_and_the_program_is_named() {
    let mut missing = shell("compute", "");
    missing.program = "/nowhere/model".into();
    let worker = Worker::start(Commands::new([missing])).await;

    let failed = worker.call("compute", "").await.unwrap_err();

    assert_eq!(failed.code(), Code::Unavailable);
    assert!(
        failed.had_no_effect() && failed.message().contains("/nowhere/model"),
        "{failed}"
    );
}

#[tokio::test]
async fn given_a_command_then_it_learns_method_and_caller() {
    let worker = Worker::start(Commands::new([shell(
        "who",
        "echo $WARREN_METHOD $WARREN_CALLER",
    )]))
    .await;

    let told = worker.call("who", "").await.unwrap();

    assert!(told.starts_with(b"who 12D3KooW"), "{told:?}");
}

#[tokio::test]
async fn given_a_method_without_a_command_then_the_next_in_line_takes_it_or_it_is_unknown() {
    let alone = Worker::start(Commands::new([])).await;
    assert_eq!(
        alone.call("other", "").await.unwrap_err().code(),
        Code::Unimplemented
    );

    let next = Answering(|_: &str, _: &Context, _| Ok(Bytes::from_static(b"next")));
    let followed = Worker::start(Commands::new([shell("compute", "cat")]).or(next)).await;
    assert_eq!(followed.call("other", "").await.unwrap(), "next");
    assert_eq!(followed.call("compute", "x").await.unwrap(), "x");
}
