//! A real PostgreSQL server in a temporary directory, shared by the tests that run at the same time.

use std::{
    net::TcpListener,
    os::unix::fs::chown,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc, Mutex, PoisonError, Weak,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};
use sqlx::{Connection as _, PgConnection};

const PASSWORD: &str = "correct-horse-battery";
const MISSING: &str = "PostgreSQL is not installed (apt-get install postgresql)";

/// A running server. Stops when dropped.
pub struct Cluster {
    directory: tempfile::TempDir,
    binaries: PathBuf,
    port: u16,
    child: Mutex<Option<Child>>,
    databases: AtomicU32,
}

/// The server, or `None` after saying that `test` is skipped.
pub async fn cluster(test: &str) -> Option<Arc<Cluster>> {
    static SHARED: Mutex<Weak<Cluster>> = Mutex::new(Weak::new());
    let Some(binaries) = find_binaries() else {
        warren_lab::skip(test, MISSING);
        return None;
    };
    let cluster = {
        let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
        match shared.upgrade() {
            Some(running) => running,
            None => {
                let started = Arc::new(Cluster::create(binaries));
                *shared = Arc::downgrade(&started);
                started
            }
        }
    };
    cluster.answers().await;
    Some(cluster)
}

/// A server of the test's own, to be stopped and started.
pub async fn own_cluster(test: &str) -> Option<Cluster> {
    let Some(binaries) = find_binaries() else {
        warren_lab::skip(test, MISSING);
        return None;
    };
    let cluster = Cluster::create(binaries);
    cluster.answers().await;
    Some(cluster)
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
fn unprivileged() -> Option<(u32, u32)> {
    if !rustix::process::geteuid().is_root() {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").unwrap();
    let line = passwd
        .lines()
        .find(|line| line.starts_with("postgres:"))
        .expect("the package made a user `postgres`");
    let mut fields = line.split(':').skip(2);
    let mut id = || fields.next().unwrap().parse().unwrap();
    Some((id(), id()))
}

fn command(program: &Path) -> Command {
    match unprivileged() {
        None => Command::new(program),
        Some((uid, gid)) => {
            let mut command = Command::new("setpriv");
            command
                .arg(format!("--reuid={uid}"))
                .arg(format!("--regid={gid}"))
                .args(["--clear-groups", "--"])
                .arg(program);
            command
        }
    }
}

impl Cluster {
    fn create(binaries: PathBuf) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let password_file = directory.path().join("password");
        std::fs::write(&password_file, PASSWORD).unwrap();
        if let Some((uid, gid)) = unprivileged() {
            for path in [directory.path(), &password_file] {
                chown(path, Some(uid), Some(gid)).unwrap();
            }
        }
        let output = command(&binaries.join("initdb"))
            .current_dir(directory.path())
            .arg("--pgdata")
            .arg(directory.path().join("data"))
            .arg("--pwfile")
            .arg(&password_file)
            .args([
                "--username=warren",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--no-sync",
            ])
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "initdb: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        let port = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap()
            .port();
        let cluster = Self {
            directory,
            binaries,
            port,
            child: Mutex::new(None),
            databases: AtomicU32::new(0),
        };
        cluster.start();
        cluster
    }

    /// Starts a stopped server, on the same port.
    pub fn start(&self) {
        let log = std::fs::File::create(self.directory.path().join("log")).unwrap();
        let child = command(&self.binaries.join("postgres"))
            .current_dir(self.directory.path())
            .arg("-D")
            .arg(self.directory.path().join("data"))
            .args([
                "-p",
                &self.port.to_string(),
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "fsync=off",
            ])
            .arg("-c")
            .arg(format!(
                "unix_socket_directories={}",
                self.directory.path().display()
            ))
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        *self.child.lock().unwrap() = Some(child);
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

    fn url(&self, database: &str) -> String {
        format!(
            "postgresql://warren:{PASSWORD}@127.0.0.1:{}/{database}",
            self.port
        )
    }

    pub async fn answers(&self) {
        let deadline = Instant::now() + Duration::from_secs(30);
        while let Err(error) = PgConnection::connect(&self.url("postgres")).await {
            let log =
                std::fs::read_to_string(self.directory.path().join("log")).unwrap_or_default();
            assert!(
                Instant::now() < deadline,
                "PostgreSQL does not answer: {error}\n{log}"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// A new, empty database; its URL.
    pub async fn database(&self) -> String {
        let name = format!("warren_{}", self.databases.fetch_add(1, Ordering::Relaxed));
        let mut connection = PgConnection::connect(&self.url("postgres")).await.unwrap();
        // A locale other than C, where the machine has it, would show a sort order that pages depend on.
        sqlx::query(sqlx::AssertSqlSafe(format!("CREATE DATABASE {name}")))
            .execute(&mut connection)
            .await
            .unwrap();
        self.url(&name)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.stop();
    }
}
