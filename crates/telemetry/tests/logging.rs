//! The subscriber as the daemon uses it: events in, files out.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::path::Path;
use std::time::Duration;

use warren_telemetry::logging::{self, FileSettings, Format, LogError, LogHandle, LogSettings};

fn settings(dir: &Path, format: Format) -> LogSettings {
    let file = FileSettings {
        path: dir.join("node.log"),
        max_size: 1 << 20,
        max_files: 2,
    };
    LogSettings {
        level: "info".to_owned(),
        format,
        file: Some(file),
        repeat_window: Duration::from_secs(60),
    }
}

/// Runs `events` under a subscriber of its own; the files are complete when this returns.
fn log(settings: &LogSettings, events: impl FnOnce(&LogHandle)) {
    let (subscriber, handle) = logging::subscriber(settings).unwrap();
    tracing::subscriber::with_default(subscriber, || events(&handle));
    drop(handle);
}

fn lines(path: &Path) -> Vec<String> {
    std::fs::read_to_string(path)
        .unwrap()
        .lines()
        .map(str::to_owned)
        .collect()
}

#[test]
fn given_text_when_logged_then_one_line_has_level_target_message_and_fields() {
    let dir = tempfile::tempdir().unwrap();

    log(
        &settings(dir.path(), Format::Text),
        |_| tracing::info!(target: "mesh", peer = 7, "peer joined"),
    );

    let lines = lines(&dir.path().join("node.log"));
    assert_eq!(lines.len(), 1);
    assert!(
        lines[0].ends_with(" INFO mesh: peer joined peer=7"),
        "{}",
        lines[0]
    );
    assert!(
        !lines[0].contains('\u{1b}'),
        "no colours in a file: {}",
        lines[0]
    );
}

#[test]
fn given_json_when_logged_then_each_line_is_an_object() {
    let dir = tempfile::tempdir().unwrap();

    log(&settings(dir.path(), Format::Json), |_| {
        for _ in 0..3 {
            tracing::warn!(target: "mesh", peer = 7, "refused");
        }
    });

    let lines: Vec<serde_json::Value> = lines(&dir.path().join("node.log"))
        .iter()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert_eq!(lines[0]["level"], "WARN");
    assert_eq!(lines[0]["fields"]["peer"], 7);
    assert_eq!(
        lines[1]["fields"]["message"],
        "suppressed 2 repeats of: refused"
    );
    assert_eq!(lines[1]["target"], "mesh");
    assert_eq!(lines.len(), 2);
}

#[test]
fn given_a_repeated_message_when_logging_ends_then_one_line_tells_the_count() {
    let dir = tempfile::tempdir().unwrap();

    log(&settings(dir.path(), Format::Text), |_| {
        for attempt in 0..20 {
            tracing::warn!("server does not answer");
            tracing::info!(attempt, "trying");
        }
    });

    let lines = lines(&dir.path().join("node.log"));
    assert_eq!(
        lines
            .iter()
            .filter(|line| line.ends_with(": server does not answer"))
            .count(),
        2
    );
    assert!(
        lines
            .last()
            .unwrap()
            .contains("suppressed 19 repeats of: server does not answer"),
        "{lines:?}"
    );
    assert_eq!(
        lines.iter().filter(|line| line.contains("trying")).count(),
        20,
        "different fields are no repeats"
    );
}

#[test]
fn given_a_window_that_passes_when_the_message_stopped_then_the_count_is_written_while_running() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), Format::Text);
    settings.repeat_window = Duration::from_millis(20);

    log(&settings, |_| {
        for _ in 0..50 {
            tracing::warn!("flood");
        }
        let deadline = std::time::Instant::now() + Duration::from_secs(10);
        let path = dir.path().join("node.log");
        while !std::fs::read_to_string(&path)
            .unwrap()
            .contains("suppressed")
        {
            assert!(std::time::Instant::now() < deadline, "no summary in time");
            std::thread::yield_now();
        }
    });
}

#[test]
fn given_a_level_when_changed_while_running_then_it_holds_at_once() {
    let dir = tempfile::tempdir().unwrap();

    log(&settings(dir.path(), Format::Text), |handle| {
        tracing::debug!("before");
        handle.set_level("debug").unwrap();
        assert_eq!(handle.level(), "debug");
        tracing::debug!("after");
        let error = handle.set_level("loud=verbose").unwrap_err();
        assert!(matches!(error, LogError::Level { .. }), "{error}");
        tracing::debug!("still");
    });

    let text = lines(&dir.path().join("node.log")).join("\n");
    assert!(!text.contains("before"), "{text}");
    assert!(text.contains("after") && text.contains("still"), "{text}");
}

#[test]
fn given_a_secret_in_a_message_when_logged_then_it_is_not_in_the_file() {
    let dir = tempfile::tempdir().unwrap();

    log(&settings(dir.path(), Format::Json), |_| {
        tracing::error!(
            token = "s3cr3t",
            "cannot reach postgresql://discovery:hunter2@localhost/db"
        );
    });

    let text = lines(&dir.path().join("node.log")).join("\n");
    assert!(
        !text.contains("hunter2") && !text.contains("s3cr3t"),
        "{text}"
    );
    serde_json::from_str::<serde_json::Value>(&text).unwrap();
}

#[test]
fn given_sync_events_when_logged_then_they_are_in_both_files_and_others_are_not() {
    let dir = tempfile::tempdir().unwrap();

    log(&settings(dir.path(), Format::Text), |_| {
        tracing::info!(target: logging::SYNC_TARGET, peer = "12D3A", chunks = 3, "sync ended");
        tracing::info!("other");
    });

    let sync = lines(&dir.path().join("sync.log"));
    assert_eq!(sync.len(), 1);
    assert!(
        sync[0].ends_with("INFO sync: sync ended peer=\"12D3A\" chunks=3"),
        "{sync:?}"
    );
    assert_eq!(lines(&dir.path().join("node.log")).len(), 2);
}

#[test]
fn given_many_sync_events_when_the_file_is_full_then_it_rotates() {
    let dir = tempfile::tempdir().unwrap();
    let mut settings = settings(dir.path(), Format::Text);
    settings.file.as_mut().unwrap().max_size = 2000;

    log(&settings, |_| {
        for run in 0..100 {
            tracing::info!(target: logging::SYNC_TARGET, run, "sync ended");
        }
    });

    for name in ["sync.log", "sync.log.1", "sync.log.2", "node.log.1"] {
        let size = std::fs::metadata(dir.path().join(name)).unwrap().len();
        assert!((1..=2000).contains(&size), "{name} has {size} bytes");
    }
    assert!(!dir.path().join("sync.log.3").exists());
}

#[test]
fn given_a_file_that_cannot_be_opened_when_set_up_then_the_error_names_it() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("plain"), "").unwrap();
    let mut settings = settings(dir.path(), Format::Text);
    settings.file.as_mut().unwrap().path = dir.path().join("plain/node.log");

    let Err(error) = logging::subscriber(&settings) else {
        panic!("a file is no folder")
    };

    assert!(
        error
            .to_string()
            .contains("plain/node.log cannot be opened"),
        "{error}"
    );
}
