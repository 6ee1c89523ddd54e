//! Programs that run to their end: the binary under test, `openssl`, `curl`.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{Seek, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Nothing that a test calls takes longer.
const LIMIT: Duration = Duration::from_secs(90);

/// The binary under test.
pub(crate) fn binary() -> OsString {
    std::env::var_os("WARREN_BIN").unwrap_or_else(|| env!("CARGO_BIN_EXE_warren").into())
}

/// A command without the variables that would reach the configuration of a node.
pub(super) fn clean(program: &OsStr) -> Command {
    let mut command = Command::new(program);
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("WARREN_") {
            command.env_remove(name);
        }
    }
    command
}

/// Runs `warren` with these arguments to its end.
pub(crate) fn warren<A: AsRef<OsStr>>(arguments: impl IntoIterator<Item = A>) -> Finished {
    Invocation::new(&binary()).args(arguments).run()
}

/// A program of the system; the caller skips its test where it is missing.
pub(crate) fn tool<A: AsRef<OsStr>>(
    program: &str,
    folder: &Path,
    arguments: impl IntoIterator<Item = A>,
) -> Finished {
    Invocation::new(program.as_ref())
        .args(arguments)
        .folder(folder)
        .run()
}

/// A command about to run.
pub(crate) struct Invocation {
    command: Command,
    shown: Vec<String>,
    input: Vec<u8>,
}

impl Invocation {
    pub(crate) fn new(program: &OsStr) -> Self {
        Self {
            command: clean(program),
            shown: vec![program.to_string_lossy().into_owned()],
            input: Vec::new(),
        }
    }

    pub(crate) fn warren() -> Self {
        Self::new(&binary())
    }

    pub(crate) fn args<A: AsRef<OsStr>>(mut self, arguments: impl IntoIterator<Item = A>) -> Self {
        for argument in arguments {
            self.shown
                .push(argument.as_ref().to_string_lossy().into_owned());
            self.command.arg(argument);
        }
        self
    }

    pub(crate) fn env(mut self, name: &str, value: &str) -> Self {
        self.command.env(name, value);
        self
    }

    pub(crate) fn folder(mut self, folder: &Path) -> Self {
        self.command.current_dir(folder);
        self
    }

    pub(crate) fn input(mut self, bytes: &[u8]) -> Self {
        self.input = bytes.to_vec();
        self
    }

    pub(crate) fn run(mut self) -> Finished {
        let shown = self.shown.join(" ");
        let mut input = tempfile::tempfile().unwrap();
        input.write_all(&self.input).unwrap();
        input.rewind().unwrap();
        // Files, not pipes: a program that prints a lot never waits for its reader.
        let (stdout, stderr) = (Captured::new(), Captured::new());
        let mut child = self
            .command
            .stdin(Stdio::from(input))
            .stdout(stdout.sink())
            .stderr(stderr.sink())
            .spawn()
            .unwrap_or_else(|error| panic!("cannot run {shown}: {error}"));
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            if let Some(status) = child.try_wait().unwrap() {
                break status;
            }
            if Instant::now() > deadline {
                child.kill().unwrap();
                child.wait().unwrap();
                panic!("not done within {LIMIT:?}: {shown}\n{}", stderr.text());
            }
            std::thread::sleep(Duration::from_millis(5));
        };
        Finished {
            shown,
            code: status.code(),
            stdout: stdout.bytes(),
            stderr: stderr.text(),
        }
    }
}

struct Captured {
    file: tempfile::NamedTempFile,
}

impl Captured {
    fn new() -> Self {
        Self {
            file: tempfile::NamedTempFile::new().unwrap(),
        }
    }

    fn sink(&self) -> File {
        self.file.reopen().unwrap()
    }

    fn bytes(&self) -> Vec<u8> {
        std::fs::read(PathBuf::from(self.file.path())).unwrap()
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }
}

/// A program that has ended.
#[derive(Debug)]
pub(crate) struct Finished {
    shown: String,
    /// `None` when a signal ended it.
    pub(crate) code: Option<i32>,
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: String,
}

impl Finished {
    fn expect_code(&self, code: i32) {
        assert_eq!(
            self.code,
            Some(code),
            "exit code of {}\nstdout: {}\nstderr: {}",
            self.shown,
            String::from_utf8_lossy(&self.stdout),
            self.stderr
        );
    }

    /// It worked; gives what it printed, without the last line's end.
    pub(crate) fn ok(&self) -> String {
        self.expect_code(0);
        String::from_utf8_lossy(&self.stdout).trim_end().to_owned()
    }

    /// It worked; gives the bytes it printed.
    pub(crate) fn bytes(&self) -> Vec<u8> {
        self.expect_code(0);
        self.stdout.clone()
    }

    /// It worked; gives the JSON it printed.
    pub(crate) fn json(&self) -> serde_json::Value {
        let text = self.ok();
        serde_json::from_str(&text)
            .unwrap_or_else(|error| panic!("{} printed no JSON ({error}): {text}", self.shown))
    }

    /// It failed with 1; gives what it said, which is one message and no backtrace.
    pub(crate) fn failed(&self) -> String {
        self.expect_code(1);
        assert!(
            !self.stderr.contains("panicked"),
            "{} panicked: {}",
            self.shown,
            self.stderr
        );
        self.stderr.clone()
    }

    /// It was called wrongly.
    pub(crate) fn usage(&self) -> String {
        self.expect_code(2);
        self.stderr.clone()
    }
}
