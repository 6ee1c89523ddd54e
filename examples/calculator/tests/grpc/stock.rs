//! The stock client of `client.py`: installed once from the pinned packages, started by the tests.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Write};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

const CLIENT: &str = include_str!("client.py");
const REQUIREMENTS: &str = include_str!("requirements.txt");
const PROTO: &str = include_str!("../../proto/calculator.proto");

/// 10 MB of packages on a slow line.
const PIP_LIMIT: Duration = Duration::from_secs(240);
/// A client that takes longer hangs.
const CLIENT_LIMIT: Duration = Duration::from_secs(60);

/// What pip says where the network, not the package, is to blame.
const OFFLINE: [&str; 8] = [
    "NewConnectionError",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ConnectionResetError",
    "ProtocolError",
    "ProxyError",
    "NameResolutionError",
    "Temporary failure in name resolution",
];

/// A stock client, ready to run.
#[derive(Clone)]
pub(crate) struct Stock {
    folder: PathBuf,
}

/// What came of installing.
#[derive(Clone)]
enum Installation {
    Done(PathBuf),
    /// Not to be had on this machine.
    Lacks(String),
    /// The packages are not what is pinned, or pip itself fails.
    Failed(String),
}

impl Stock {
    /// Says that the test which calls it is skipped, and why, where the client cannot be had.
    pub(crate) fn or_skip() -> Option<Self> {
        // Also a failure is remembered, so that it costs one test its time, not each.
        static INSTALLED: OnceLock<Installation> = OnceLock::new();
        match INSTALLED.get_or_init(install) {
            Installation::Done(folder) => Some(Self {
                folder: folder.clone(),
            }),
            Installation::Failed(error) => panic!("pip did not install the stock client: {error}"),
            Installation::Lacks(missing) => {
                // The runner names a test's thread after the test, if there are several.
                let thread = std::thread::current();
                let test = thread.name().unwrap_or("grpc");
                warren_lab::skip(test, format!("needs {missing}"));
                None
            }
        }
    }

    /// Begins a scenario.
    pub(crate) fn start(&self, arguments: &[&str]) -> Running {
        let said = tempfile::NamedTempFile::new().unwrap();
        let mut child = python()
            .arg("client.py")
            .args(arguments)
            .current_dir(&self.folder)
            .env("PYTHONPATH", self.folder.join("packages"))
            .env("GRPC_VERBOSITY", "NONE")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(said.reopen().unwrap())
            .spawn()
            .unwrap();
        let printed = BufReader::new(child.stdout.take().unwrap());
        Running {
            child,
            printed,
            said,
        }
    }
}

/// A scenario under way.
pub(crate) struct Running {
    child: Child,
    printed: BufReader<ChildStdout>,
    said: tempfile::NamedTempFile,
}

impl Running {
    /// Waits until the client prints this line.
    pub(crate) fn says(&mut self, wanted: &str) {
        let mut line = String::new();
        self.printed.read_line(&mut line).unwrap();
        assert_eq!(line.trim_end(), wanted, "{}", self.complaints());
    }

    /// Lets the client go on.
    pub(crate) fn go_on(&mut self) {
        self.child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
    }

    /// Waits for its good end.
    pub(crate) fn ends_well(mut self) {
        let deadline = Instant::now() + CLIENT_LIMIT;
        let status = within(deadline, || self.child.try_wait().unwrap());
        assert!(
            status.is_some_and(|it| it.success()),
            "{status:?}: {}",
            self.complaints()
        );
    }

    fn complaints(&self) -> String {
        fs::read_to_string(self.said.path()).unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn python() -> Command {
    Command::new("python3")
}

/// Puts the client, its packages and what it makes of the `.proto` under `target`, once for all runs.
fn install() -> Installation {
    if !works(&["--version"]) {
        return Installation::Lacks("python3".into());
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("grpc-client");
    fs::create_dir_all(&folder).unwrap();
    // Another process may be at it. Released when the file is closed.
    let guard = File::create(folder.join("lock")).unwrap();
    guard.lock().unwrap();
    fs::write(folder.join("client.py"), CLIENT).unwrap();
    let installed = folder.join("installed.txt");
    let wanted = format!("{}\n{REQUIREMENTS}\n{PROTO}", version());
    if fs::read_to_string(&installed).is_ok_and(|of| of == wanted) {
        return Installation::Done(folder);
    }
    if !works(&["-m", "pip", "--version"]) {
        return Installation::Lacks("pip (python3-pip)".into());
    }
    fs::write(folder.join("requirements.txt"), REQUIREMENTS).unwrap();
    fs::write(folder.join("calculator.proto"), PROTO).unwrap();
    if let Err(error) = pip(&folder) {
        return error;
    }
    let compiled = python()
        .args(["-m", "grpc_tools.protoc", "-I.", "--python_out=."])
        .args(["--grpc_python_out=.", "calculator.proto"])
        .current_dir(&folder)
        .env("PYTHONPATH", folder.join("packages"))
        .output()
        .unwrap();
    if !compiled.status.success() {
        let error = String::from_utf8_lossy(&compiled.stderr);
        return Installation::Failed(error.into_owned());
    }
    fs::write(&installed, wanted).unwrap();
    Installation::Done(folder)
}

/// Installs what is pinned into a folder of our own, builds nothing, and gives up soon where there is no network.
fn pip(folder: &Path) -> Result<(), Installation> {
    let packages = folder.join("packages");
    if packages.exists() {
        fs::remove_dir_all(&packages).unwrap();
    }
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = python()
        .args(["-m", "pip", "install", "--target", "packages"])
        .args([
            "--require-hashes",
            "--only-binary=:all:",
            "-r",
            "requirements.txt",
        ])
        .args(["--retries=1", "--timeout=20", "--disable-pip-version-check"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(said.reopen().unwrap())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + PIP_LIMIT;
    let Some(status) = within(deadline, || child.try_wait().unwrap()) else {
        child.kill().unwrap();
        child.wait().unwrap();
        let limit = format!("a network over which pip is done within {PIP_LIMIT:?}");
        return Err(Installation::Lacks(limit));
    };
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(said.path()).unwrap();
    Err(match OFFLINE.iter().find(|sign| said.contains(**sign)) {
        Some(sign) => Installation::Lacks(format!("a way to Python's package index ({sign})")),
        None => Installation::Failed(said),
    })
}

fn works(arguments: &[&str]) -> bool {
    let run = python().args(arguments).output();
    run.is_ok_and(|output| output.status.success())
}

/// Packages are built for one version.
fn version() -> String {
    let output = python().arg("--version").output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Asks again and again until there is an answer or the time is over.
fn within<T>(deadline: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}
