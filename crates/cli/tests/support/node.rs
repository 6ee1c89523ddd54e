//! A running node of the real binary.

use std::fs::File;
use std::io::{Read, Seek};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use super::command::{Finished, binary, clean};
use super::home::{Home, text};
use super::http::Request;
use super::{eventually, noise};

/// Ends with the test, at once.
pub(crate) struct Node {
    pub(crate) home: Home,
    child: Child,
    /// Open for reading, for the folder may go before the node does.
    log: File,
}

impl std::ops::Deref for Node {
    type Target = Home;

    fn deref(&self) -> &Home {
        &self.home
    }
}

impl Node {
    /// Starts the node and waits until it is ready.
    pub(crate) fn start(home: &Home) -> Self {
        Self::start_with(home, &[])
    }

    /// As [`start`](Self::start), with further variables in its environment.
    pub(crate) fn start_with(home: &Home, environment: &[(&str, &str)]) -> Self {
        let mut node = Self::launch(home, environment);
        eventually("the node is ready", || node.answers("/ready"));
        node
    }

    /// Starts the node and waits for nothing.
    pub(crate) fn launch(home: &Home, environment: &[(&str, &str)]) -> Self {
        Self::spawn(home, clean(&binary()), environment)
    }

    /// As [`launch`](Self::launch), through a program that replaces itself by the command that it gets as arguments.
    pub(crate) fn launch_through(home: &Home, program: &[&str]) -> Self {
        let mut command = clean(program[0].as_ref());
        command.args(&program[1..]).arg(binary());
        Self::spawn(home, command, &[])
    }

    fn spawn(home: &Home, mut command: Command, environment: &[(&str, &str)]) -> Self {
        let path = home.path("log");
        let sink = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let child = command
            .args(["start", "--config", text(&home.config)])
            .envs(environment.iter().copied())
            .stdin(Stdio::null())
            .stdout(sink.try_clone().unwrap())
            .stderr(sink)
            .spawn()
            .unwrap();
        Self {
            home: home.clone(),
            child,
            log: File::open(path).unwrap(),
        }
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Panics when the node has ended, which waiting would not heal.
    pub(crate) fn assert_running(&mut self) {
        if let Some(status) = self.child.try_wait().unwrap() {
            panic!("the node has ended with {status}");
        }
    }

    /// Whether a probe passes; panics when the node has ended.
    pub(crate) fn answers(&mut self, path: &str) -> Option<()> {
        self.assert_running();
        let reply = Request::new(self.home.api(), "GET", path).try_send().ok()?;
        (reply.status == 200).then_some(())
    }

    /// A request with the admin token.
    pub(crate) fn request(&self, method: &str, path: &str) -> Request {
        Request::new(self.home.api(), method, path)
            .header("authorization", &format!("Bearer {}", self.home.token()))
    }

    pub(crate) fn get(&self, path: &str) -> super::Reply {
        self.request("GET", path).send()
    }

    /// Puts bytes by standard input; gives the document's id.
    pub(crate) fn put(&self, bytes: &[u8]) -> String {
        self.home
            .invocation()
            .args(["put", "-"])
            .input(bytes)
            .run()
            .ok()
    }

    /// Puts incompressible bytes; gives the id and the bytes.
    pub(crate) fn put_noise(&self, seed: u64, length: usize) -> (String, Vec<u8>) {
        let bytes = noise(seed, length);
        (self.put(&bytes), bytes)
    }

    /// The document's bytes, from wherever.
    pub(crate) fn content(&self, id: &str) -> Finished {
        self.home.warren(["get", id])
    }

    /// Peer ids of connected peers.
    pub(crate) fn online(&self) -> Vec<String> {
        let peers = self.get("/api/v1/network/peers?status=online").json();
        let peers = peers["peers"].as_array().unwrap();
        peers
            .iter()
            .map(|peer| peer["peer_id"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until the two are connected.
    pub(crate) fn meets(&self, other: &Home) {
        eventually("the nodes are connected", || {
            self.online().contains(&other.peer_id).then_some(())
        });
    }

    pub(crate) fn log(&self) -> String {
        let mut text = Vec::new();
        (&self.log).rewind().unwrap();
        (&self.log).read_to_end(&mut text).unwrap();
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Waits for a line in the log.
    pub(crate) fn logs(&self, what: &str) {
        eventually(&format!("{what:?} in the log"), || {
            self.log().contains(what).then_some(())
        });
    }

    pub(crate) fn signal(&self, signal: Signal) {
        let pid = Pid::from_child(&self.child);
        kill_process(pid, signal).unwrap();
    }

    /// Asks it to stop and waits.
    pub(crate) fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        eventually("the node has stopped", || self.child.try_wait().unwrap())
    }

    pub(crate) fn api(&self) -> SocketAddr {
        self.home.api()
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!(
                "--- log of {} ({})\n{}",
                self.home.folder.display(),
                self.home.peer_id,
                self.log()
            );
        }
    }
}
