//! A real PostgreSQL server in a temporary directory.

use std::io;
use std::net::TcpListener;
use std::os::unix::fs::chown;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};

use crate::{eventually, skip};

const USER: &str = "lab";
const PASSWORD: &str = "correct-horse-battery";
const MISSING: &str = "PostgreSQL is not installed (apt-get install postgresql)";
/// From its start to its first answer, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);

/// A running server on a loopback port of its own. Stops when dropped.
///
/// Calls block for what PostgreSQL takes, some hundred milliseconds, and panic where it does not do what was asked: a test
/// has nothing to do without its database.
pub struct PostgresServer {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
    databases: AtomicU32,
}

impl PostgresServer {
    /// One server for all tests of a process that run at the same time, or `None` after saying that `test` is skipped.
    ///
    /// # Panics
    /// When PostgreSQL is installed and does not start.
    #[must_use]
    pub fn shared(test: &str) -> Option<Arc<Self>> {
        static SHARED: Mutex<Weak<PostgresServer>> = Mutex::new(Weak::new());
        let binaries = installed(test)?;
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        let server = shared.upgrade().unwrap_or_else(|| {
            let started = Arc::new(Self::create(binaries));
            *shared = Arc::downgrade(&started);
            started
        });
        Some(server)
    }

    /// A server of the test's own, to be stopped and started.
    ///
    /// # Panics
    /// As [`Self::shared`].
    #[must_use]
    pub fn own(test: &str) -> Option<Self> {
        installed(test).map(Self::create)
    }

    fn create(binaries: PathBuf) -> Self {
        Self::prepare(binaries)
            .and_then(|this| this.try_start().map(|()| this))
            .unwrap_or_else(|error| panic!("PostgreSQL does not start: {error}"))
    }

    fn prepare(binaries: PathBuf) -> io::Result<Self> {
        let directory = tempfile::tempdir()?;
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, PASSWORD)?;
        if let Some((uid, gid)) = unprivileged()? {
            for path in [directory.path(), &password_file] {
                chown(path, Some(uid), Some(gid))?;
            }
        }
        let made = command(&binaries.join("initdb"))?
            .current_dir(directory.path())
            .arg("--pgdata")
            .arg(directory.path().join("data"))
            .arg("--pwfile")
            .arg(&password_file)
            .arg(format!("--username={USER}"))
            .args([
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                // A locale other than C, where the machine has it, would show a sort order that pages depend on.
                "--locale=C",
                "--no-sync",
            ])
            .output()?;
        worked("initdb", &made)?;
        let port = TcpListener::bind("127.0.0.1:0")?.local_addr()?.port();
        Ok(Self {
            directory,
            binaries,
            port,
            child: Mutex::new(None),
            databases: AtomicU32::new(0),
        })
    }

    /// Starts a stopped server, on the same port, and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start(&self) {
        if let Err(error) = self.try_start() {
            panic!("PostgreSQL does not start: {error}");
        }
    }

    fn try_start(&self) -> io::Result<()> {
        let folder = self.directory.path();
        let child = command(&self.binaries.join("postgres"))?
            .current_dir(folder)
            .arg("-D")
            .arg(folder.join("data"))
            .args(["-p", &self.port.to_string()])
            .args(["-c", "listen_addresses=127.0.0.1", "-c", "fsync=off", "-c"])
            .arg(format!("unix_socket_directories={}", folder.display()))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(folder.join("log"))?)
            .spawn()?;
        *self.child.lock().unwrap_or_else(PoisonError::into_inner) = Some(child);
        eventually(PATIENCE, || self.run("SELECT 1").is_ok());
        Ok(())
    }

    /// Stops the server and waits for its end.
    pub fn stop(&self) {
        let child = self
            .child
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(mut child) = child {
            // SIGINT is PostgreSQL's fast shutdown. `setpriv` replaced itself, so this is the server's own pid.
            let pid = Pid::from_child(&child);
            let _ = kill_process(pid, Signal::INT);
            let _ = child.wait();
        }
    }

    /// A new, empty database; its URL.
    ///
    /// # Panics
    /// When PostgreSQL does not make it.
    #[must_use]
    pub fn database(&self) -> String {
        let name = format!("lab_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        if let Err(error) = self.run(&format!("CREATE DATABASE {name}")) {
            panic!("no database: {error}");
        }
        self.url(&name)
    }

    fn url(&self, database: &str) -> String {
        format!(
            "postgresql://{USER}:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    fn run(&self, sql: &str) -> io::Result<()> {
        let ran = Command::new(self.binaries.join("psql"))
            .args(["--no-psqlrc", "--quiet", "--command", sql])
            .arg(self.url("postgres"))
            .stdin(Stdio::null())
            .output()?;
        worked("psql", &ran)
    }
}

impl Drop for PostgresServer {
    fn drop(&mut self) {
        self.stop();
    }
}

fn worked(program: &str, output: &Output) -> io::Result<()> {
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(io::Error::other(format!("{program}: {said}")))
}

fn installed(test: &str) -> Option<PathBuf> {
    let found = find_binaries();
    if found.is_none() {
        skip(test, MISSING);
    }
    found
}

fn find_binaries() -> Option<PathBuf> {
    let mut versions: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .ok()?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin")))
        .filter(|bin| bin.join("initdb").exists() && bin.join("postgres").exists())
        .collect();
    versions.sort();
    versions.pop()
}

/// uid and gid of the user `postgres`, if this process is root: PostgreSQL refuses to run as root.
fn unprivileged() -> io::Result<Option<(u32, u32)>> {
    if !rustix::process::geteuid().is_root() {
        return Ok(None);
    }
    let passwd = std::fs::read_to_string("/etc/passwd")?;
    let ids = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .and_then(|line| {
            let mut fields = line.split(':').skip(2).map(str::parse);
            Some((fields.next()?.ok()?, fields.next()?.ok()?))
        });
    ids.map(Some)
        .ok_or_else(|| io::Error::other("there is no user `postgres`, which the package makes"))
}

fn command(program: &Path) -> io::Result<Command> {
    let Some((uid, gid)) = unprivileged()? else {
        return Ok(Command::new(program));
    };
    let mut command = Command::new("setpriv");
    command
        .arg(format!("--reuid={uid}"))
        .arg(format!("--regid={gid}"))
        .args(["--clear-groups", "--"])
        .arg(program);
    Ok(command)
}
