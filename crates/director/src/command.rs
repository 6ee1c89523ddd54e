//! Methods that a configured command carries out: the request goes to its standard input, its standard output is the
//! response.
//!
//! A run is bounded in time, in output and in number. It is killed, with all it started, when the caller gives up. The
//! command learns from its environment which method was called ([`METHOD_VARIABLE`]) and for whom
//! ([`CALLER_VARIABLE`]); variables of the node's own configuration are kept from it. What it writes to standard error
//! is logged, and its last line told to the caller when it fails.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, Command as Process};
use tokio::sync::Semaphore;
use warren_rpc::{BoxFuture, Code, Context, Failure, Fallback, Incoming, Outgoing, Status};

use crate::origin::origin;

/// Variable of a run: the method that was called.
pub const METHOD_VARIABLE: &str = "WARREN_METHOD";
/// Variable of a run: the peer id of the member that the call is for.
pub const CALLER_VARIABLE: &str = "WARREN_CALLER";
/// What is kept of a command's standard error; the end counts.
const MAX_ERROR_BYTES: u64 = 64 * 1024;
/// What a caller is told of it.
const MAX_TOLD_CHARS: usize = 200;
/// When a caller that was refused may come back: a run is seldom shorter.
const RETRY_AFTER: Duration = Duration::from_millis(100);

/// One method and the command that carries it out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandOptions {
    /// The method's name on the wire.
    pub method: String,
    /// The program; looked for in `PATH` unless it has a slash.
    pub program: PathBuf,
    /// Its arguments.
    pub arguments: Vec<String>,
    /// When a run is killed.
    pub timeout: Duration,
    /// Runs at once; beyond it callers are told when to come back.
    pub max_running: usize,
    /// The longest response, in bytes; a longer one is an error.
    pub max_output_bytes: usize,
}

/// Methods that commands carry out. Give it to [`warren_rpc::Server::set_fallback`].
pub struct Commands {
    by_method: BTreeMap<String, Arc<Command>>,
    otherwise: Option<Arc<dyn Fallback>>,
}

struct Command {
    options: CommandOptions,
    running: Semaphore,
}

impl Commands {
    /// Serves these methods; of two with one name the later counts.
    #[must_use]
    pub fn new(commands: impl IntoIterator<Item = CommandOptions>) -> Self {
        let command = |options: CommandOptions| {
            let running = Semaphore::new(options.max_running.min(Semaphore::MAX_PERMITS));
            let method = options.method.clone();
            (method, Arc::new(Command { options, running }))
        };
        Self {
            by_method: commands.into_iter().map(command).collect(),
            otherwise: None,
        }
    }

    /// The same, with calls of other methods given to `otherwise`.
    #[must_use]
    pub fn or(mut self, otherwise: impl Fallback) -> Self {
        self.otherwise = Some(Arc::new(otherwise));
        self
    }
}

impl std::fmt::Debug for Commands {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.by_method.keys()).finish()
    }
}

fn no_such_method(path: &str) -> Failure {
    let what = format!("no method `{path}` here; is it among the worker's commands?");
    Status::new(Code::Unimplemented, what)
        .not_processed()
        .into()
}

impl Fallback for Commands {
    fn unary(
        &self,
        path: &str,
        context: Context,
        request: Bytes,
    ) -> BoxFuture<Result<Bytes, Failure>> {
        match (self.by_method.get(path), &self.otherwise) {
            (Some(command), _) => {
                let command = Arc::clone(command);
                Box::pin(async move { Ok(command.run(&context, request).await?) })
            }
            (None, Some(otherwise)) => otherwise.unary(path, context, request),
            (None, None) => {
                let failure = no_such_method(path);
                Box::pin(async move { Err(failure) })
            }
        }
    }

    fn streaming(
        &self,
        path: &str,
        context: Context,
        mut incoming: Incoming,
        outgoing: Outgoing,
    ) -> BoxFuture<Result<(), Failure>> {
        match (self.by_method.get(path), &self.otherwise) {
            // A request too big for a lane: one message in, one out.
            (Some(command), _) => {
                let command = Arc::clone(command);
                Box::pin(async move {
                    let request = incoming.next().await.transpose()?.unwrap_or_default();
                    if incoming.next().await.is_some() {
                        let what = "a command takes one request message, not a stream of them";
                        return Err(Status::new(Code::InvalidArgument, what).into());
                    }
                    let response = command.run(&context, request).await?;
                    Ok(outgoing.send(response).await?)
                })
            }
            (None, Some(otherwise)) => otherwise.streaming(path, context, incoming, outgoing),
            (None, None) => {
                let failure = no_such_method(path);
                Box::pin(async move { Err(failure) })
            }
        }
    }
}

impl Command {
    async fn run(&self, context: &Context, request: Bytes) -> Result<Bytes, Status> {
        let Ok(_place) = self.running.try_acquire() else {
            return Err(Status::overloaded(RETRY_AFTER));
        };
        let (mut child, mut group) = self.start(context)?;
        let talk = talk(&mut child, request, self.options.max_output_bytes);
        let ended = tokio::time::timeout(self.options.timeout, talk).await;
        let Ok(ended) = ended else {
            let what = format!(
                "{} took longer than {:?} and was killed",
                self.name(),
                self.options.timeout
            );
            return Err(Status::new(Code::DeadlineExceeded, what));
        };
        let ended = ended.map_err(|error| {
            let what = format!("the conversation with {} broke off: {error}", self.name());
            Status::new(Code::Internal, what)
        })?;
        if ended.status.is_some() {
            group.has_ended();
        }
        self.judge(ended)
    }

    fn name(&self) -> String {
        format!(
            "the command of `{}` ({})",
            self.options.method,
            self.options.program.display()
        )
    }

    /// Starts it at the head of a process group of its own.
    fn start(&self, context: &Context) -> Result<(Child, Group), Status> {
        let mut process = Process::new(&self.options.program);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                process.env_remove(name);
            }
        }
        if let Some(peer) = origin(context) {
            process.env(CALLER_VARIABLE, peer.to_string());
        }
        let child = process
            .args(&self.options.arguments)
            .env(METHOD_VARIABLE, &self.options.method)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .map_err(|error| {
                tracing::error!(method = %self.options.method, %error, "a worker's command cannot be started");
                let what = format!("{} cannot be started: {error}", self.name());
                Status::new(Code::Unavailable, what).not_processed()
            })?;
        let group = Group::of(&child);
        Ok((child, group))
    }

    fn judge(&self, ended: Ended) -> Result<Bytes, Status> {
        let complaint = String::from_utf8_lossy(&ended.errors);
        let last = complaint.lines().rev().find(|line| !line.trim().is_empty());
        if let Some(last) = last {
            tracing::debug!(method = %self.options.method, said = last, "a worker's command wrote to standard error");
        }
        if ended.output.len() > self.options.max_output_bytes {
            let what = format!(
                "{} answered with more than {} bytes",
                self.name(),
                self.options.max_output_bytes
            );
            return Err(Status::new(Code::ResourceExhausted, what));
        }
        if ended.status.is_some_and(|status| status.success()) {
            return Ok(Bytes::from(ended.output));
        }
        let told: String = last
            .unwrap_or("it said nothing")
            .chars()
            .take(MAX_TOLD_CHARS)
            .collect();
        let how = ended
            .status
            .map_or_else(|| "was killed".to_owned(), |status| status.to_string());
        let what = format!("{} failed ({how}): {told}", self.name());
        tracing::warn!(method = %self.options.method, "{what}");
        // The service's own failure: the worker is well.
        Err(Status::new(Code::Unknown, what))
    }
}

/// What came of a run.
struct Ended {
    output: Vec<u8>,
    errors: Vec<u8>,
    /// Absent where it was not waited for, because its output is too long already.
    status: Option<ExitStatus>,
}

/// Writes the request while it reads the response: a command that answers as it reads must not wait for us.
async fn talk(child: &mut Child, request: Bytes, max_output: usize) -> std::io::Result<Ended> {
    let (input, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let write = async {
        if let Some(mut input) = input {
            // A command that does not read its input to the end closes it; what it answers counts.
            let _ = input.write_all(&request).await;
        }
    };
    let most = u64::try_from(max_output).unwrap_or(u64::MAX - 1) + 1;
    let ((), output, errors) = tokio::join!(write, read(output, most), read_errors(errors));
    let output = output?;
    let status = match output.len() > max_output {
        true => None,
        false => Some(child.wait().await?),
    };
    Ok(Ended {
        output,
        errors,
        status,
    })
}

async fn read(from: Option<impl AsyncRead + Unpin>, most: u64) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if let Some(from) = from {
        from.take(most).read_to_end(&mut bytes).await?;
    }
    Ok(bytes)
}

/// The first part; the rest is thrown away, so that the command never waits for us.
async fn read_errors(from: Option<impl AsyncRead + Unpin>) -> Vec<u8> {
    let Some(mut from) = from else {
        return Vec::new();
    };
    let mut kept = Vec::new();
    // What could not be read is missing from a log line, no more.
    let _ = (&mut from)
        .take(MAX_ERROR_BYTES)
        .read_to_end(&mut kept)
        .await;
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
    kept
}

/// Kills a run that has not ended, with all it started, when dropped. Goes before its [`Child`] does: the number of a
/// process is nobody else's until somebody has waited for it.
struct Group(Option<Pid>);

impl Group {
    fn of(child: &Child) -> Self {
        let id = child.id().and_then(|id| i32::try_from(id).ok());
        Self(id.and_then(Pid::from_raw))
    }

    fn has_ended(&mut self) {
        self.0 = None;
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if let Some(group) = self.0 {
            // Nobody left is the rule.
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}
