//! Log lines: text or JSON, to standard error or a rotating file.
//!
//! An event passes the level filter (changeable while running), then the limit on repeated identical messages, then
//! is formatted and handed to a bounded queue. A thread takes lines from the queue, removes what looks like a secret and
//! writes. The queue holds [`QUEUE_LINES`] lines; when it is full new lines are dropped and counted
//! ([`LogHandle::dropped_lines`]), so that a stuck disk or terminal never stops the node.
//!
//! Events with the target [`SYNC_TARGET`] go to `sync.log` beside the log file as well.

mod repeat;
mod rotate;
mod scrub;

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tracing::{Metadata, Subscriber};
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use repeat::{RepeatLayer, Sweeper};
use rotate::RotatingFile;
use scrub::Scrub;

/// Lines waiting to be written, per destination. At 200 bytes a line this is under 2 MiB.
pub const QUEUE_LINES: usize = 8192;

/// The target of what the synchronisation of nodes logs: start and end, peer, counts, errors.
pub const SYNC_TARGET: &str = "sync";

/// Name of the file for [`SYNC_TARGET`], beside the log file.
const SYNC_FILE: &str = "sync.log";

/// What the subscriber is built from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogSettings {
    /// A level or filter directives: `info`, `info,warren_mesh=debug`.
    pub level: String,
    /// How a line looks.
    pub format: Format,
    /// The file to write to; `None` writes to standard error.
    pub file: Option<FileSettings>,
    /// A message identical to one written this short a time ago is counted, not written; afterwards one line says
    /// `suppressed N`. Zero turns this off.
    pub repeat_window: Duration,
}

/// A log file and its rotation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileSettings {
    /// The current file. Rotated ones are `<path>.1` (newest) to `<path>.<max_files>`.
    pub path: PathBuf,
    /// A file is rotated before a line would make it larger than this many bytes.
    pub max_size: u64,
    /// Rotated files kept. Zero: the file starts anew.
    pub max_files: usize,
}

/// How a line looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// For people.
    Text,
    /// One JSON object with `timestamp`, `level`, `target`, `fields`.
    Json,
}

/// Why logging could not be set up or changed. Nothing has changed then.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    /// The level is neither a level nor a list of directives.
    #[error(
        "log level {level:?} is not valid: {reason}; use error, warn, info, debug or trace, or target=level pairs"
    )]
    Level {
        /// What was given.
        level: String,
        /// What the parser says.
        reason: String,
    },
    /// The log file cannot be opened.
    #[error("log file {} cannot be opened: {source}; check logging.file and the rights on its folder", path.display())]
    Open {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The process has a subscriber already.
    #[error("logging is already set up in this process")]
    AlreadySet,
    /// The subscriber was dropped.
    #[error("the log level cannot be changed: the log subscriber is gone")]
    Gone,
}

/// Keeps logging going. Dropping it writes what is queued (within a second) and ends the writer threads.
#[derive(Debug)]
pub struct LogHandle {
    filter: reload::Handle<EnvFilter, Registry>,
    dropped: Vec<ErrorCounter>,
    // Dropped in this order: the last summaries are queued before the writers are told to finish.
    _sweeper: Option<Sweeper>,
    _guards: Vec<WorkerGuard>,
}

impl LogHandle {
    /// Changes the level at once, for all targets.
    ///
    /// # Errors
    /// [`LogError::Level`] for what is no level; the old one stays.
    pub fn set_level(&self, level: &str) -> Result<(), LogError> {
        self.filter
            .reload(parse_level(level)?)
            .map_err(|_| LogError::Gone)
    }

    /// The level in force.
    #[must_use]
    pub fn level(&self) -> String {
        self.filter
            .with_current(ToString::to_string)
            .unwrap_or_default()
    }

    /// Lines lost because the queue was full, since the start.
    #[must_use]
    pub fn dropped_lines(&self) -> usize {
        self.dropped.iter().map(ErrorCounter::dropped_lines).sum()
    }
}

/// Checks a level without setting it.
///
/// # Errors
/// [`LogError::Level`] with the parser's reason.
pub fn parse_level(level: &str) -> Result<EnvFilter, LogError> {
    let error = |reason: String| LogError::Level {
        level: level.to_owned(),
        reason,
    };
    if level.trim().is_empty() {
        return Err(error("it is empty".to_owned()));
    }
    EnvFilter::builder()
        .parse(level)
        .map_err(|source| error(source.to_string()))
}

/// Sets up logging for the whole process. Call it once, first thing; keep the handle until the end.
///
/// # Errors
/// When the level is not valid, the file cannot be opened or logging is set up already.
pub fn init(settings: &LogSettings) -> Result<LogHandle, LogError> {
    let (subscriber, handle) = subscriber(settings)?;
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::AlreadySet)?;
    Ok(handle)
}

/// The subscriber that [`init`] installs, for a caller that installs it for a scope of its own.
///
/// # Errors
/// When the level is not valid or the file cannot be opened.
pub fn subscriber(
    settings: &LogSettings,
) -> Result<(impl Subscriber + Send + Sync + use<>, LogHandle), LogError> {
    let (filter, filter_handle) = reload::Layer::new(parse_level(&settings.level)?);
    let (writer, guards) = open(settings)?;
    let dropped = [Some(&writer.main), writer.sync.as_ref()]
        .into_iter()
        .flatten()
        .map(NonBlocking::error_counter)
        .collect();
    let ansi =
        settings.file.is_none() && settings.format == Format::Text && io::stderr().is_terminal();
    let lines: Box<dyn Layer<_> + Send + Sync> = match settings.format {
        Format::Text => fmt::layer()
            .with_ansi(ansi)
            .with_writer(writer.clone())
            .boxed(),
        Format::Json => fmt::layer().json().with_writer(writer.clone()).boxed(),
    };
    let (repeats, sweeper) = if settings.repeat_window.is_zero() {
        (None, None)
    } else {
        let (layer, sweeper) = RepeatLayer::start(settings.repeat_window, settings.format, writer);
        (Some(layer), Some(sweeper))
    };
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(lines)
        .with(repeats);
    Ok((
        subscriber,
        LogHandle {
            filter: filter_handle,
            dropped,
            _sweeper: sweeper,
            _guards: guards,
        },
    ))
}

fn open(settings: &LogSettings) -> Result<(Destinations, Vec<WorkerGuard>), LogError> {
    let Some(file) = &settings.file else {
        let (main, guard) = queue(Scrub::new(io::stderr(), settings.format));
        return Ok((Destinations { main, sync: None }, vec![guard]));
    };
    let rotating = |path: &Path| {
        RotatingFile::open(path, file.max_size, file.max_files).map_err(|source| LogError::Open {
            path: path.to_owned(),
            source,
        })
    };
    let (main, main_guard) = queue(Scrub::new(rotating(&file.path)?, settings.format));
    let sync_path = file.path.with_file_name(SYNC_FILE);
    if sync_path == file.path {
        return Ok((Destinations { main, sync: None }, vec![main_guard]));
    }
    let (sync, sync_guard) = queue(Scrub::new(rotating(&sync_path)?, settings.format));
    Ok((
        Destinations {
            main,
            sync: Some(sync),
        },
        vec![main_guard, sync_guard],
    ))
}

fn queue(writer: impl Write + Send + 'static) -> (NonBlocking, WorkerGuard) {
    NonBlockingBuilder::default()
        .buffered_lines_limit(QUEUE_LINES)
        .lossy(true)
        .thread_name("warren-log")
        .finish(writer)
}

/// Where lines go, by target.
#[derive(Debug, Clone)]
struct Destinations {
    main: NonBlocking,
    sync: Option<NonBlocking>,
}

impl Destinations {
    fn for_target(&self, target: &str) -> Routed {
        let sync = if target == SYNC_TARGET {
            self.sync.clone()
        } else {
            None
        };
        Routed {
            main: self.main.clone(),
            sync,
        }
    }
}

impl<'a> MakeWriter<'a> for Destinations {
    type Writer = Routed;

    fn make_writer(&'a self) -> Routed {
        self.for_target("")
    }

    fn make_writer_for(&'a self, meta: &Metadata<'_>) -> Routed {
        self.for_target(meta.target())
    }
}

/// Queues one line for one or two destinations.
struct Routed {
    main: NonBlocking,
    sync: Option<NonBlocking>,
}

impl Write for Routed {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        if let Some(sync) = &mut self.sync {
            sync.write_all(line)?;
        }
        self.main.write(line)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
