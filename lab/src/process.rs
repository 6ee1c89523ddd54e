//! Programs inside hosts: started, signalled, awaited with a deadline, and gone when their handle is.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock, PoisonError, mpsc};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::process::{
    Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal, set_parent_process_death_signal,
};

use crate::ProcessError;
use crate::namespace::Entry;

/// How much of a process' standard error goes into an error or is shown when a test panics.
const TAIL_BYTES: usize = 4096;

/// What a finished program wrote.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// Standard output; what is no UTF-8 is replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// A running program inside a host. Killed when dropped; while a panic unwinds, the end of its output is printed first.
///
/// Its output goes to files in the lab's output folder, so that a talkative program never blocks on a full pipe.
#[derive(Debug)]
pub struct Process {
    name: String,
    child: Child,
    /// Names this process whatever its number is used for later.
    handle: OwnedFd,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Process {
    /// Starts `command` where `entry` leads; its output goes to `outputs`.
    pub(crate) fn spawn(
        host: &str,
        entry: &Entry,
        mut command: Command,
        outputs: &Path,
    ) -> Result<Self, ProcessError> {
        static PROCESSES: AtomicU32 = AtomicU32::new(0);
        let program = Path::new(command.get_program()).file_name().map_or_else(
            || "program".into(),
            |file| file.to_string_lossy().into_owned(),
        );
        let number = PROCESSES.fetch_add(1, Ordering::Relaxed);
        let name = format!("{host}-{program}-{number}");
        let failed = |what| {
            let name = name.clone();
            move |source| ProcessError::System { name, what, source }
        };
        let stdout = outputs.join(format!("{name}.stdout"));
        let stderr = outputs.join(format!("{name}.stderr"));
        command
            .stdin(Stdio::null())
            .stdout(File::create(&stdout).map_err(failed("make its output file"))?)
            .stderr(File::create(&stderr).map_err(failed("make its output file"))?);
        entry.apply(&mut command);
        // SAFETY: one system call on a constant; it neither allocates nor locks.
        unsafe {
            command.pre_exec(|| Ok(set_parent_process_death_signal(Some(Signal::KILL))?));
        }
        let mut child = spawn_from_lasting_thread(command).map_err(failed("start it"))?;
        let handle = pid(&child).and_then(|pid| Ok(pidfd_open(pid, PidfdFlags::empty())?));
        match handle {
            Ok(handle) => Ok(Self {
                name,
                child,
                handle,
                stdout,
                stderr,
            }),
            Err(source) => {
                // It may be gone already; either way nobody else will look after it.
                let _ = child.kill();
                let _ = child.wait();
                Err(failed("open a handle to it")(source))
            }
        }
    }

    /// Its number on this machine.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal: [`Signal::KILL`], [`Signal::STOP`], [`Signal::CONT`], [`Signal::TERM`], [`Signal::HUP`], …
    ///
    /// # Errors
    /// When the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<(), ProcessError> {
        pidfd_send_signal(&self.handle, signal)
            .map_err(|errno| self.failed("send a signal", errno.into()))
    }

    /// Whether it has not ended yet (a stopped process runs).
    #[must_use]
    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    /// Waits until it ends, and leaves it running when it does not.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`] when it still runs after `within`.
    pub fn wait(&mut self, within: Duration) -> Result<ExitStatus, ProcessError> {
        let deadline = Instant::now() + within;
        loop {
            let ended = self.child.try_wait();
            if let Some(status) = ended.map_err(|error| self.failed("wait for it", error))? {
                return Ok(status);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ProcessError::TimedOut {
                    name: self.name.clone(),
                    within,
                    stderr: tail(&self.stderr),
                });
            }
            let timeout = Timespec {
                tv_sec: i64::try_from(left.as_secs()).unwrap_or(i64::MAX),
                tv_nsec: left.subsec_nanos().into(),
            };
            match rustix::event::poll(
                &mut [PollFd::new(&self.handle, PollFlags::IN)],
                Some(&timeout),
            ) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(errno) => return Err(self.failed("wait for it", errno.into())),
            }
        }
    }

    /// Waits for it to end well.
    ///
    /// # Errors
    /// [`ProcessError::TimedOut`], or [`ProcessError::Failed`] for any status but zero.
    pub fn wait_success(&mut self, within: Duration) -> Result<Output, ProcessError> {
        let status = self.wait(within)?;
        if status.success() {
            return Ok(Output {
                stdout: self.stdout(),
                stderr: self.stderr(),
            });
        }
        Err(ProcessError::Failed {
            name: self.name.clone(),
            status,
            stderr: tail(&self.stderr),
        })
    }

    /// Kills it with SIGKILL and collects it; at once, like a power cut.
    ///
    /// # Errors
    /// When the system refuses, which it does not for one's own child.
    pub fn kill(&mut self) -> Result<ExitStatus, ProcessError> {
        self.child
            .kill()
            .and_then(|()| self.child.wait())
            .map_err(|error| self.failed("kill it", error))
    }

    /// What it wrote to standard output so far; what is no UTF-8 is replaced.
    #[must_use]
    pub fn stdout(&self) -> String {
        text(&self.stdout)
    }

    /// What it wrote to standard error so far.
    #[must_use]
    pub fn stderr(&self) -> String {
        text(&self.stderr)
    }

    fn failed(&self, what: &'static str, source: io::Error) -> ProcessError {
        ProcessError::System {
            name: self.name.clone(),
            what,
            source,
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "--- {}, end of standard output:\n{}",
                self.name,
                tail(&self.stdout)
            );
            eprintln!(
                "--- {}, end of standard error:\n{}",
                self.name,
                tail(&self.stderr)
            );
        }
        // Both fail only when it has been collected already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn pid(child: &Child) -> io::Result<Pid> {
    i32::try_from(child.id())
        .ok()
        .and_then(Pid::from_raw)
        .ok_or_else(|| io::Error::other("the process number is out of range"))
}

fn text(path: &Path) -> String {
    String::from_utf8_lossy(&fs::read(path).unwrap_or_default()).into_owned()
}

fn tail(path: &Path) -> String {
    let bytes = fs::read(path).unwrap_or_default();
    let from = bytes.len().saturating_sub(TAIL_BYTES);
    String::from_utf8_lossy(&bytes[from..]).into_owned()
}

type Job = (Command, mpsc::SyncSender<io::Result<Child>>);

/// The kernel sends the death signal when the *thread* that started a process ends, so all are started by one thread
/// that lasts as long as we do.
fn spawn_from_lasting_thread(command: Command) -> io::Result<Child> {
    static STARTER: OnceLock<Mutex<mpsc::Sender<Job>>> = OnceLock::new();
    let starter = STARTER.get_or_init(|| {
        let (jobs, inbox) = mpsc::channel::<Job>();
        std::thread::spawn(move || {
            while let Ok((mut command, reply)) = inbox.recv() {
                // A caller that is gone drops the channel, and the child's pipes with it.
                let _ = reply.send(command.spawn());
            }
        });
        Mutex::new(jobs)
    });
    let (reply, answer) = mpsc::sync_channel(1);
    let gone = |_| io::Error::other("the thread that starts processes is gone");
    starter
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .send((command, reply))
        .map_err(|_| io::Error::other("the thread that starts processes is gone"))?;
    answer.recv().map_err(gone)?
}
