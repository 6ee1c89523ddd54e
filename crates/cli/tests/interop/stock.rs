//! The stock node of `peer.mjs`: installed once from the pinned packages, started by the tests.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::support::{Home, Invocation, eventually};

const SCRIPTS: [(&str, &str); 2] = [
    ("peer.mjs", include_str!("peer.mjs")),
    ("node18.mjs", include_str!("node18.mjs")),
];
const MANIFEST: &str = include_str!("package.json");
/// Holds the hash of every package, so that whichever registry npm asks, it is these bytes or an error. It names no
/// registry: `npm install --package-lock-only --omit-lockfile-registry-resolved` in the folder keeps it so.
const LOCK: &str = include_str!("package-lock.json");

/// The oldest Node.js that the pinned packages run on: Debian 12's.
const OLDEST_NODE: u32 = 18;

/// 12 MB of packages on a slow line.
const NPM_LIMIT: Duration = Duration::from_secs(240);

/// What npm says where the network, not the package, is to blame.
const OFFLINE: [&str; 10] = [
    "EAI_AGAIN",
    "ECONNREFUSED",
    "ECONNRESET",
    "EHOSTUNREACH",
    "EIDLETIMEOUT",
    "ENETUNREACH",
    "ENOTFOUND",
    "ERR_SOCKET_TIMEOUT",
    "ETIMEDOUT",
    "FETCH_ERROR",
];

/// Kademlia of the mesh, whose name is the default.
const KAD: &str = "/warren/warren/kad/1.0.0";
const TOPIC: &str = "warren.global";

/// Programs of the stock node, ready to run.
pub(crate) struct Stock {
    folder: PathBuf,
}

impl Stock {
    /// Says that the test which calls it is skipped, and why, where the stock node cannot be had.
    pub(crate) fn or_skip() -> Option<Self> {
        // Also a failure is remembered, so that it costs one test its time, not each.
        static INSTALLED: OnceLock<Installation> = OnceLock::new();
        match INSTALLED.get_or_init(install) {
            Installation::Done(folder) => Some(Self {
                folder: folder.clone(),
            }),
            Installation::Failed(error) => panic!("npm did not install the stock node: {error}"),
            Installation::Lacks(missing) => {
                // The runner names a test's thread after the test, if there are several.
                let thread = std::thread::current();
                warren_lab::skip(
                    thread.name().unwrap_or("interop"),
                    format!("needs {missing}"),
                );
                None
            }
        }
    }

    /// Dials, and reports what a stranger gets: identify, a lookup of `wanted`, ping, each protocol of `open`, gossip.
    pub(crate) fn dial(&self, address: &str, wanted: &Home, open: &[&str]) -> Report {
        let order = json!({
            "address": address, "kad": KAD, "find": wanted.peer_id, "open": open, "topic": TOPIC,
        });
        let finished = Invocation::new("node".as_ref())
            .args(["peer.mjs", "dial", &order.to_string()])
            .folder(&self.folder)
            .run();
        Report::of(&finished.ok())
    }

    /// Starts a stock node that listens until the value is dropped.
    pub(crate) fn listen(&self) -> Listening {
        let printed = tempfile::NamedTempFile::new().unwrap();
        let child = Command::new("node")
            .args(["peer.mjs", "listen"])
            .arg(json!({"kad": KAD, "topic": TOPIC}).to_string())
            .current_dir(&self.folder)
            .stdin(Stdio::piped())
            .stdout(printed.reopen().unwrap())
            .spawn()
            .unwrap();
        Listening { child, printed }
    }
}

/// A stock node that is dialled.
pub(crate) struct Listening {
    child: Child,
    printed: tempfile::NamedTempFile,
}

impl Listening {
    pub(crate) fn address(&self) -> String {
        let listening = self.says("listening");
        listening["addresses"][0].as_str().unwrap().to_owned()
    }

    /// Waits for a step.
    pub(crate) fn says(&self, step: &str) -> Value {
        eventually(&format!("the stock node says {step:?}"), || {
            self.report().find(step).cloned()
        })
    }

    pub(crate) fn report(&self) -> Report {
        let text = fs::read_to_string(self.printed.path()).unwrap();
        // The last line may be half written.
        Report::of(text.rsplit_once('\n').map_or("", |(whole, _)| whole))
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a stock node printed, a line per step.
#[derive(Debug)]
pub(crate) struct Report(Vec<Value>);

impl Report {
    fn of(text: &str) -> Self {
        let lines = text.lines().map(serde_json::from_str);
        Self(lines.map(Result::unwrap).collect())
    }

    pub(crate) fn find(&self, step: &str) -> Option<&Value> {
        self.0.iter().find(|line| line["step"] == step)
    }

    /// What a step gave; it must have worked.
    pub(crate) fn worked(&self, step: &str) -> &Value {
        let line = self.find(step);
        line.filter(|line| line["ok"] == true)
            .unwrap_or_else(|| panic!("{step} did not work: {self:#?}"))
    }

    /// Why a step failed; it must have been tried.
    pub(crate) fn failed(&self, step: &str) -> &str {
        let line = self.find(step);
        line.and_then(|line| line["error"].as_str())
            .unwrap_or_else(|| panic!("{step} did not fail: {self:#?}"))
    }
}

/// A list of texts in a report, sorted.
pub(crate) fn texts(list: &Value) -> Vec<&str> {
    let mut texts: Vec<&str> = list
        .as_array()
        .unwrap()
        .iter()
        .map(|text| text.as_str().unwrap())
        .collect();
    texts.sort_unstable();
    texts
}

/// What came of installing.
enum Installation {
    Done(PathBuf),
    /// Not to be had on this machine.
    Lacks(String),
    /// The packages are not what the lock file says, or npm itself fails.
    Failed(String),
}

/// Puts the program and its packages under `target`, once for all runs.
fn install() -> Installation {
    match version("node") {
        Some(OLDEST_NODE..) => {}
        Some(older) => {
            return Installation::Lacks(format!("node {OLDEST_NODE} or later, not {older}"));
        }
        None => return Installation::Lacks("node".to_owned()),
    }
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let folder = target.join("interop");
    fs::create_dir_all(&folder).unwrap();
    // Another process may be at it. Released when the file is closed.
    let guard = File::create(folder.join("lock")).unwrap();
    guard.lock().unwrap();
    for (name, text) in SCRIPTS {
        write_changed(&folder.join(name), text);
    }
    let installed = folder.join("installed.json");
    if fs::read_to_string(&installed).is_ok_and(|of| of == LOCK) {
        return Installation::Done(folder);
    }
    if version("npm").is_none() {
        return Installation::Lacks("npm".to_owned());
    }
    write_changed(&folder.join("package.json"), MANIFEST);
    write_changed(&folder.join("package-lock.json"), LOCK);
    match npm(&folder) {
        Ok(()) => {
            fs::write(&installed, LOCK).unwrap();
            Installation::Done(folder)
        }
        Err(error) => error,
    }
}

/// Installs what the lock file names, runs nothing of it, and gives up soon where there is no network.
fn npm(folder: &Path) -> Result<(), Installation> {
    let said = tempfile::NamedTempFile::new().unwrap();
    let mut child = Command::new("npm")
        .args(["ci", "--ignore-scripts", "--no-audit", "--no-fund"])
        .args(["--fetch-retries=1", "--fetch-retry-mintimeout=1000"])
        .args(["--fetch-timeout=20000", "--no-update-notifier"])
        .current_dir(folder)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(said.reopen().unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + NPM_LIMIT;
    let status = eventually_within(deadline, || child.try_wait().unwrap());
    let Some(status) = status else {
        child.kill().unwrap();
        child.wait().unwrap();
        let limit = format!("a network over which npm is done within {NPM_LIMIT:?}");
        return Err(Installation::Lacks(limit));
    };
    if status.success() {
        return Ok(());
    }
    let said = fs::read_to_string(said.path()).unwrap();
    Err(match OFFLINE.iter().find(|code| said.contains(**code)) {
        Some(code) => Installation::Lacks(format!("a way to npm's registry ({code})")),
        None => Installation::Failed(said),
    })
}

/// Asks again and again until there is an answer or the time is over.
fn eventually_within<T>(deadline: Instant, mut ask: impl FnMut() -> Option<T>) -> Option<T> {
    loop {
        let answer = ask();
        if answer.is_some() || Instant::now() > deadline {
            return answer;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// The major version of a program; `None` where it is missing.
fn version(program: &str) -> Option<u32> {
    let output = Command::new(program).arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout);
    let major = text.trim().trim_start_matches('v').split('.').next()?;
    major.parse().ok()
}

fn write_changed(path: &Path, text: &str) {
    if fs::read_to_string(path).is_ok_and(|present| present == text) {
        return;
    }
    fs::write(path, text).unwrap();
}
