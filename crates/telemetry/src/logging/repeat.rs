//! A message that repeats is written once a window; then one line says how often it was left out.

use std::collections::HashMap;
use std::fmt;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io::Write as _;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::{Destinations, Format};

/// Different messages watched at once. Beyond this a new message is written every time: no message is ever lost for
/// want of room.
const MAX_WATCHED: usize = 1024;

/// Bytes of a message that its summary repeats.
const MAX_QUOTED: usize = 200;

/// Stops repeated events before they are formatted.
pub(super) struct RepeatLayer {
    shared: Arc<Shared>,
}

struct Shared {
    table: Mutex<RepeatTable>,
    format: Format,
    out: Destinations,
}

/// The thread that writes the summary of messages that stopped coming. Ends, after a last round, when dropped.
#[derive(Debug)]
pub(super) struct Sweeper {
    stop: Option<Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

impl Drop for Sweeper {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            // The thread only fails by a panic of ours, and then there is nothing left to write.
            let _ = thread.join();
        }
    }
}

impl RepeatLayer {
    pub(super) fn start(window: Duration, format: Format, out: Destinations) -> (Self, Sweeper) {
        let shared = Arc::new(Shared {
            table: Mutex::new(RepeatTable::new(window)),
            format,
            out,
        });
        let (stop, stopped) = mpsc::channel::<()>();
        let sweeping = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("warren-log-sum".to_owned())
            .spawn(move || {
                loop {
                    let ended = stopped.recv_timeout(window) != Err(RecvTimeoutError::Timeout);
                    sweeping.write_summaries(Instant::now(), ended);
                    if ended {
                        return;
                    }
                }
            });
        // Without the thread summaries come with the next repeat only.
        (
            Self { shared },
            Sweeper {
                stop: Some(stop),
                thread: thread.ok(),
            },
        )
    }
}

impl<S: Subscriber> Layer<S> for RepeatLayer {
    fn event_enabled(&self, event: &Event<'_>, _ctx: Context<'_, S>) -> bool {
        let mut fields = Fields {
            hasher: DefaultHasher::new(),
            message: String::new(),
        };
        event.metadata().callsite().hash(&mut fields.hasher);
        event.record(&mut fields);
        let message = Message {
            level: *event.metadata().level(),
            target: event.metadata().target(),
            text: fields.message,
        };
        let mut table = self
            .shared
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let (pass, summary) = table.admit(fields.hasher.finish(), message, Instant::now());
        drop(table);
        if let Some(summary) = summary {
            self.shared.write(&summary);
        }
        pass
    }
}

impl Shared {
    fn write_summaries(&self, now: Instant, all: bool) {
        let summaries = self
            .table
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .sweep(now, all);
        for summary in summaries {
            self.write(&summary);
        }
    }

    fn write(&self, summary: &Summary) {
        let Message {
            level,
            target,
            text,
        } = &summary.message;
        let repeats = match summary.suppressed {
            1 => "1 repeat".to_owned(),
            count => format!("{count} repeats"),
        };
        let message = format!("suppressed {repeats} of: {text}");
        let timestamp = format!("{:.6}", jiff::Timestamp::now());
        let line = match self.format {
            Format::Text => format!("{timestamp} {level:>5} {target}: {message}\n"),
            Format::Json => {
                let line = serde_json::json!({
                    "timestamp": timestamp,
                    "level": level.to_string(),
                    "fields": { "message": message, "suppressed": summary.suppressed },
                    "target": target,
                });
                format!("{line}\n")
            }
        };
        // A full queue drops and counts the line; there is nobody else to tell.
        let _ = self.out.for_target(target).write(line.as_bytes());
    }
}

/// Hashes all fields and keeps the message.
struct Fields {
    hasher: DefaultHasher,
    message: String,
}

impl Visit for Fields {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        let text = format!("{value:?}");
        field.name().hash(&mut self.hasher);
        text.hash(&mut self.hasher);
        if field.name() == "message" {
            self.message = quoted(text);
        }
    }
}

/// What a summary repeats of a message: whole words, and a sign that there was more.
fn quoted(mut text: String) -> String {
    if text.len() <= MAX_QUOTED {
        return text;
    }
    let whole = (0..=MAX_QUOTED).rev().find(|at| text.is_char_boundary(*at));
    text.truncate(whole.unwrap_or(0));
    if let Some(end) = text.rfind(' ') {
        text.truncate(end);
    }
    text.truncate(text.trim_end_matches([' ', ';', ',', ':', '.']).len());
    text.push('…');
    text
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Message {
    level: Level,
    target: &'static str,
    text: String,
}

#[derive(Debug, PartialEq, Eq)]
struct Summary {
    message: Message,
    suppressed: u64,
}

/// Which messages were written when. Takes the time as an argument.
struct RepeatTable {
    window: Duration,
    watched: HashMap<u64, Watched>,
}

struct Watched {
    since: Instant,
    suppressed: u64,
    message: Message,
}

impl RepeatTable {
    fn new(window: Duration) -> Self {
        Self {
            window,
            watched: HashMap::new(),
        }
    }

    /// Whether to write the message, and what to say of its earlier repeats first.
    fn admit(&mut self, key: u64, message: Message, now: Instant) -> (bool, Option<Summary>) {
        if let Some(watched) = self.watched.get_mut(&key) {
            if now.saturating_duration_since(watched.since) < self.window {
                watched.suppressed += 1;
                return (false, None);
            }
            let suppressed = std::mem::take(&mut watched.suppressed);
            watched.since = now;
            return (
                true,
                (suppressed > 0).then_some(Summary {
                    message,
                    suppressed,
                }),
            );
        }
        if self.watched.len() < MAX_WATCHED {
            self.watched.insert(
                key,
                Watched {
                    since: now,
                    suppressed: 0,
                    message,
                },
            );
        }
        (true, None)
    }

    /// Forgets messages whose window is over (or all) and returns what to say of them.
    fn sweep(&mut self, now: Instant, all: bool) -> Vec<Summary> {
        let window = self.window;
        let mut summaries: Vec<Summary> = self
            .watched
            .extract_if(|_, watched| all || now.saturating_duration_since(watched.since) >= window)
            .filter(|(_, watched)| watched.suppressed > 0)
            .map(|(_, watched)| Summary {
                message: watched.message,
                suppressed: watched.suppressed,
            })
            .collect();
        summaries.sort_by(|a, b| a.message.text.cmp(&b.message.text));
        summaries
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const WINDOW: Duration = Duration::from_secs(30);

    fn message(text: &str) -> Message {
        Message {
            level: Level::WARN,
            target: "mesh",
            text: text.to_owned(),
        }
    }

    #[test]
    fn given_a_message_repeated_within_the_window_when_asked_then_only_the_first_passes() {
        let mut table = RepeatTable::new(WINDOW);
        let start = Instant::now();

        let passed: Vec<bool> = (0..5)
            .map(|n| {
                table
                    .admit(1, message("a"), start + Duration::from_secs(n))
                    .0
            })
            .collect();

        assert_eq!(passed, [true, false, false, false, false]);
    }

    #[test]
    fn given_a_repeat_after_the_window_when_asked_then_it_passes_and_says_how_many_were_left_out() {
        let mut table = RepeatTable::new(WINDOW);
        let start = Instant::now();
        for _ in 0..4 {
            table.admit(1, message("a"), start);
        }

        let answer = table.admit(1, message("a"), start + WINDOW);

        assert_eq!(
            answer,
            (
                true,
                Some(Summary {
                    message: message("a"),
                    suppressed: 3
                })
            )
        );
    }

    #[test]
    fn given_a_message_that_stopped_when_swept_then_its_summary_comes_and_it_is_forgotten() {
        let mut table = RepeatTable::new(WINDOW);
        let start = Instant::now();
        table.admit(1, message("a"), start);
        table.admit(1, message("a"), start);
        table.admit(2, message("once"), start);

        assert_eq!(table.sweep(start + Duration::from_secs(1), false), []);
        assert_eq!(
            table.sweep(start + WINDOW, false),
            [Summary {
                message: message("a"),
                suppressed: 1
            }]
        );
        assert!(table.watched.is_empty());
    }

    #[test]
    fn given_a_long_message_when_quoted_then_it_ends_after_a_word_and_says_so() {
        let words = "refused by 10.0.0.1; ".repeat(20);

        let short = quoted(words.clone());

        let kept = short.strip_suffix("…").expect("there was more");
        assert!(kept.len() <= MAX_QUOTED, "{short}");
        assert!(words.starts_with(kept), "{short}");
        assert!(kept.ends_with("by") || kept.ends_with("refused") || kept.ends_with("10.0.0.1"));
        assert_eq!(quoted("whole; or".to_owned()), "whole; or");
        assert_eq!(quoted("ä".repeat(150)), format!("{}…", "ä".repeat(100)));
    }

    #[test]
    fn given_more_messages_than_watched_when_asked_then_every_one_passes() {
        let mut table = RepeatTable::new(WINDOW);
        let now = Instant::now();
        for key in 0..MAX_WATCHED as u64 {
            table.admit(key, message("a"), now);
        }

        assert!(table.admit(u64::MAX, message("b"), now).0);
        assert!(table.admit(u64::MAX, message("b"), now).0);
        assert_eq!(table.watched.len(), MAX_WATCHED);
    }
}
