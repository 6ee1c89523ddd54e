//! Directors and workers as processes, and a client that loads them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process};
use tokio::runtime::Runtime;
use warren_identity::Capability;
use warren_identity::tls::ExpectedPeer;
use warren_rpc::{Caller, Client, Context, Kind, Method, Pool, PoolOptions, Target, ms};

use crate::support::{Finished, Home, Invocation, Organization, Plan, Request, binary, eventually};

pub(crate) const RPC_PORT: u16 = 8080;
pub(crate) const GOSSIP_PORT: u16 = 7946;
const MONITORING_PORT: u16 = 19100;

/// A machine's key, certificate and environment: there is no configuration file.
pub(crate) struct Machine {
    pub(crate) home: Home,
    role: &'static str,
    environment: BTreeMap<String, String>,
}

impl Machine {
    pub(crate) fn director(organization: &Organization, name: &str, seeds: &[&Machine]) -> Self {
        let mut this = Self::new(organization, name, "director", &["director"]);
        let ip = this.home.ip;
        this.set("DIRECTOR_ADDR", format!("{ip}:{RPC_PORT}"));
        this.set("SEED_NODES", addresses(seeds, GOSSIP_PORT));
        this
    }

    /// A worker whose method `compute` answers in capital letters.
    pub(crate) fn worker(organization: &Organization, name: &str, director: &Machine) -> Self {
        let mut this = Self::new(organization, name, "worker", &["worker"]);
        this.set("WORKER_LABEL", name.to_owned());
        this.set("WORKER_ADDR", format!("{}:{RPC_PORT}", this.home.ip));
        this.set("DIRECTOR_ADDR", format!("{}:{RPC_PORT}", director.home.ip));
        this.command("tr a-z A-Z");
        this
    }

    pub(crate) fn new(
        organization: &Organization,
        name: &str,
        role: &'static str,
        capabilities: &[&'static str],
    ) -> Self {
        let plan = Plan {
            capabilities: capabilities.to_vec(),
            ..Plan::default()
        };
        let home = organization.planned(name, plan);
        let text = |path: std::path::PathBuf| path.to_str().unwrap().to_owned();
        let (ip, key) = (home.ip, text(home.path("node.pem")));
        let ca = text(organization.ca().join("ca_cert.pem"));
        let mut this = Self {
            home: home.clone(),
            role,
            environment: BTreeMap::new(),
        };
        for (name, value) in [
            ("WARREN_NETWORK__NODE_ID", name.to_owned()),
            ("WARREN_NETWORK__LIBP2P__PEER_KEY", key),
            (
                "WARREN_NETWORK__LIBP2P__LISTEN_ADDRESSES",
                format!("/ip4/{ip}/tcp/14001"),
            ),
            ("WARREN_NETWORK__LIBP2P__MDNS__ENABLED", "false".to_owned()),
            ("WARREN_NETWORK__LIBP2P__UPNP__ENABLED", "false".to_owned()),
            ("WARREN_NETWORK__TRANSFER__ENABLED", "false".to_owned()),
            (
                "WARREN_NETWORK__SECURITY__TLS_CERT",
                text(home.path("node_cert.pem")),
            ),
            ("WARREN_NETWORK__SECURITY__CA_CERT", ca),
            ("WARREN_API__LISTEN_ADDRESS", home.api().to_string()),
            ("WARREN_STORAGE__PATH", text(home.path("data"))),
            (
                "WARREN_MONITORING__LISTEN_ADDRESS",
                format!("{ip}:{MONITORING_PORT}"),
            ),
            ("BIND_ADDR", format!("{ip}:{GOSSIP_PORT}")),
        ] {
            this.set(name, value);
        }
        this
    }

    pub(crate) fn set(&mut self, name: &str, value: String) {
        self.environment.insert(name.to_owned(), value);
    }

    /// What carries out `compute`.
    pub(crate) fn command(&mut self, script: &str) {
        let commands = format!(
            "[{{method: compute, run: [/bin/sh, -c, '{script}'], max_running: 64, timeout: 60s}}]"
        );
        self.set("WARREN_RPC__WORKER__COMMANDS", commands);
    }

    /// `warren` with these arguments in this machine's environment.
    pub(crate) fn warren<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Finished {
        let mut invocation = Invocation::warren();
        for (name, value) in &self.environment {
            invocation = invocation.env(name, value);
        }
        invocation.args(arguments).run()
    }

    /// `warren director` or `warren worker`.
    pub(crate) fn start(&self) -> Running {
        let path = self.home.path("log");
        let log = File::options()
            .create(true)
            .append(true)
            .open(&path)
            .unwrap();
        let mut command = Command::new(binary());
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("WARREN_") {
                command.env_remove(name);
            }
        }
        let child = command
            .arg(self.role)
            .envs(&self.environment)
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .spawn()
            .unwrap();
        Running { child, log: path }
    }

    /// What a scraper gets.
    pub(crate) fn metrics(&self) -> Option<String> {
        let address = (self.home.ip, MONITORING_PORT).into();
        let reply = Request::new(address, "GET", "/metrics").try_send().ok()?;
        (reply.status == 200).then(|| String::from_utf8_lossy(&reply.body).into_owned())
    }

    /// The node's report of its cluster.
    pub(crate) fn report(&self) -> Option<serde_json::Value> {
        let finished = self.warren(["cluster", "status", "--json"]);
        (finished.code == Some(0)).then(|| finished.json())
    }

    /// Waits until the node knows so many live members, of which so many are workers that take calls.
    pub(crate) fn knows(&self, nodes: u64, workers: u64) {
        eventually(&format!("{nodes} members, {workers} workers"), || {
            let report = self.report()?;
            (report["node_count"] == nodes && report["healthy_workers"] == workers).then_some(())
        });
    }

    /// How the node holds another.
    pub(crate) fn state_of(&self, other: &Machine) -> Option<String> {
        let report = self.report()?;
        let members = report["members"].as_array().unwrap();
        let member = members
            .iter()
            .find(|member| member["peer_id"] == other.home.peer_id.as_str())?;
        Some(member["state"].as_str().unwrap().to_owned())
    }
}

fn addresses(machines: &[&Machine], port: u16) -> String {
    let addresses: Vec<String> = machines
        .iter()
        .map(|machine| format!("{}:{port}", machine.home.ip))
        .collect();
    addresses.join(",")
}

/// A process that ends with the test, at once.
pub(crate) struct Running {
    child: Child,
    log: std::path::PathBuf,
}

impl Running {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        eventually("the process has ended", || self.child.try_wait().unwrap())
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            eprintln!("--- {}\n{}", self.log.display(), self.log());
        }
    }
}

/// Three directors that know each other, and workers.
pub(crate) struct Lot {
    pub(crate) directors: Vec<(Machine, Running)>,
    pub(crate) workers: Vec<(Machine, Running)>,
    /// Last: logs are read before its folder goes.
    pub(crate) organization: Organization,
}

impl Lot {
    pub(crate) fn start(directors: usize, workers: usize) -> Self {
        let organization = Organization::new();
        let mut lot = Self {
            organization,
            directors: Vec::new(),
            workers: Vec::new(),
        };
        for number in 1..=directors {
            let seeds: Vec<&Machine> = lot.directors.iter().map(|(machine, _)| machine).collect();
            let name = format!("director-{number}");
            let machine = Machine::director(&lot.organization, &name, &seeds);
            let running = machine.start();
            lot.directors.push((machine, running));
        }
        for number in 1..=workers {
            let name = format!("worker-{number}");
            let machine = Machine::worker(&lot.organization, &name, &lot.directors[0].0);
            let running = machine.start();
            lot.workers.push((machine, running));
        }
        let (nodes, workers) = ((directors + workers) as u64, workers as u64);
        for (machine, _) in &lot.directors {
            machine.knows(nodes, workers);
        }
        lot
    }

    /// A client that knows the directors and nothing else.
    pub(crate) fn client(&self) -> Load {
        let directors = self.directors.iter().map(|(machine, _)| machine);
        Load::of(&self.organization, directors)
    }
}

/// A client with calls in flight.
pub(crate) struct Load {
    runtime: Runtime,
    pool: Pool,
    done: Arc<AtomicUsize>,
    stop: Arc<AtomicBool>,
    calls: Vec<tokio::task::JoinHandle<Vec<String>>>,
}

pub(crate) fn compute(idempotent: bool) -> Method {
    Method {
        path: Cow::Borrowed("compute"),
        kind: Kind::Unary,
        idempotent,
        permission: None,
    }
}

impl Load {
    /// A client that knows these directors and nothing else.
    pub(crate) fn of<'a>(
        organization: &Organization,
        directors: impl IntoIterator<Item = &'a Machine>,
    ) -> Self {
        let targets = directors.into_iter().map(|machine| {
            let address = (machine.home.ip, RPC_PORT).into();
            Target::new(address, ExpectedPeer::Capability(Capability::Director))
        });
        Self::new(organization, targets.collect())
    }

    fn new(organization: &Organization, targets: Vec<Target>) -> Self {
        let plan = Plan {
            capabilities: Vec::new(),
            ..Plan::default()
        };
        let home = organization.planned("client", plan);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .unwrap();
        let servers = targets.len();
        let mut options = PoolOptions::default();
        // A director that is gone without a word is noticed by silence only.
        options.retry.try_timeout = Some(Duration::from_secs(5));
        let pool = runtime.block_on(async {
            let client = Client::builder()
                .with_cert_and_key(home.path("node_cert.pem"), home.path("node.pem"))
                .unwrap()
                .with_ca_cert(organization.ca().join("ca_cert.pem"))
                .unwrap()
                .build()
                .unwrap();
            Pool::fixed(client, targets, options)
        });
        eventually("the client is connected", || {
            (pool.servers().len() == servers).then_some(())
        });
        Self {
            runtime,
            pool,
            done: Arc::default(),
            stop: Arc::default(),
            calls: Vec::new(),
        }
    }

    /// One call.
    pub(crate) fn call(&self, request: &'static str) -> Result<Bytes, warren_rpc::Failure> {
        self.call_for(request, None)
    }

    /// One call, for data that must stay in a region.
    pub(crate) fn call_for(
        &self,
        request: &'static str,
        region: Option<&str>,
    ) -> Result<Bytes, warren_rpc::Failure> {
        let mut context = Context::deadline(ms(30_000));
        if let Some(region) = region {
            context = context.with_metadata("data-region", region).unwrap();
        }
        let request = Bytes::from_static(request.as_bytes());
        let (pool, method) = (self.pool.clone(), compute(true));
        self.runtime
            .block_on(async move { pool.unary(&method, context, request).await })
    }

    /// Begins `callers` calls at once, each followed by another, and waits until there is load.
    pub(crate) fn begin(&mut self, callers: usize, idempotent: bool) {
        self.spawn(callers, idempotent);
        self.goes_on(20);
    }

    /// As [`begin`](Self::begin), and waits for nothing.
    pub(crate) fn spawn(&mut self, callers: usize, idempotent: bool) {
        for _ in 0..callers {
            let (pool, done, stop) = (self.pool.clone(), self.done.clone(), self.stop.clone());
            let call = async move {
                let mut failures = Vec::new();
                while !stop.load(Ordering::Relaxed) {
                    let answer = pool
                        .unary(
                            &compute(idempotent),
                            Context::deadline(ms(30_000)),
                            Bytes::from_static(b"tokens"),
                        )
                        .await;
                    match answer {
                        Ok(answer) if answer == "TOKENS" => {}
                        other => failures.push(format!("{other:?}")),
                    }
                    done.fetch_add(1, Ordering::Relaxed);
                }
                failures
            };
            self.calls.push(self.runtime.spawn(call));
        }
    }

    /// What a caller of a test's own needs: the pool, when to stop, where to count.
    pub(crate) fn handles(&self) -> (Pool, Arc<AtomicBool>, Arc<AtomicUsize>) {
        (self.pool.clone(), self.stop.clone(), self.done.clone())
    }

    /// Runs a caller of a test's own.
    pub(crate) fn spawn_on<T: Send + 'static>(
        &self,
        caller: impl Future<Output = T> + Send + 'static,
    ) -> tokio::task::JoinHandle<T> {
        self.runtime.spawn(caller)
    }

    /// Lets callers of a test's own end, and gives what they bring.
    pub(crate) fn collect<T>(&self, callers: Vec<tokio::task::JoinHandle<T>>) -> Vec<T> {
        self.stop.store(true, Ordering::Relaxed);
        let end = |caller: tokio::task::JoinHandle<T>| self.runtime.block_on(caller).unwrap();
        callers.into_iter().map(end).collect()
    }

    /// Waits for so many further calls.
    pub(crate) fn goes_on(&self, calls: usize) {
        let before = self.done.load(Ordering::Relaxed);
        eventually("calls are answered", || {
            (self.done.load(Ordering::Relaxed) >= before + calls).then_some(())
        });
    }

    /// Lets the calls end; gives those that failed.
    pub(crate) fn end(&mut self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        let calls = std::mem::take(&mut self.calls);
        let runtime = &self.runtime;
        calls
            .into_iter()
            .flat_map(|call| runtime.block_on(call).unwrap())
            .collect()
    }
}
