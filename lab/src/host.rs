//! A machine in the lab.

use std::net::IpAddr;
use std::process::Command;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use ipnet::IpNet;

use crate::bridge::Bridge;
use crate::firewall::{self, Block};
use crate::lab::LabInner;
use crate::link::{self, Link, ShapedLink};
use crate::namespace::Namespace;
use crate::process::{Output, Process};
use crate::{LabError, ProcessError};

/// How long [`Host::exec`] waits: far beyond what a command-line call takes, well below a test run's patience.
const EXEC_WITHIN: Duration = Duration::from_secs(60);

/// A machine: a network namespace with its own interfaces, routes, names and packet filter, on the file system of the
/// machine the lab runs on. Clones are the same machine.
#[derive(Clone, Debug)]
pub struct Host {
    name: String,
    namespace: Arc<Namespace>,
    lab: Arc<LabInner>,
    addresses: Arc<Mutex<Vec<IpNet>>>,
}

impl Host {
    pub(crate) fn create(lab: &Arc<LabInner>, name: &str) -> Result<Self, LabError> {
        let namespace = lab.namespace(name)?;
        lab.register_host(&namespace)?;
        Ok(Self {
            name: name.to_owned(),
            namespace,
            lab: Arc::clone(lab),
            addresses: Arc::default(),
        })
    }

    /// The machine's name in the lab.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The namespace's name, for `ip netns exec` by hand.
    #[must_use]
    pub fn namespace_name(&self) -> &str {
        self.namespace.name()
    }

    /// Plugs the machine into a segment, with addresses like `10.0.0.1/24` or `2001:db8::1/64`. The interfaces of a
    /// machine are `eth0`, `eth1`, … in this order.
    ///
    /// # Errors
    /// [`LabError::Address`], or what the system refused.
    pub fn attach(&self, segment: &Bridge, addresses: &[&str]) -> Result<Link, LabError> {
        let addresses = parse_addresses(addresses)?;
        let link = link::connect(self, segment, &addresses)?;
        self.remember(addresses);
        Ok(link)
    }

    /// As [`Host::attach`], through a shim that starts as a perfect link and makes its random choices from `seed`. The
    /// seed is printed, so that a failed test's output has it.
    ///
    /// # Errors
    /// As [`Host::attach`].
    pub fn attach_through_shim(
        &self,
        segment: &Bridge,
        addresses: &[&str],
        seed: u64,
    ) -> Result<ShapedLink, LabError> {
        let addresses = parse_addresses(addresses)?;
        let link = link::connect_through_shim(self, segment, &addresses, seed)?;
        self.remember(addresses);
        Ok(link)
    }

    /// Sends what has no nearer route to `gateway`; IPv4 or IPv6 as the address says.
    ///
    /// # Errors
    /// [`LabError::Address`], or when the gateway is on no segment of this machine.
    pub fn default_route(&self, gateway: &str) -> Result<(), LabError> {
        let gateway = parse_address(gateway)?;
        let destination = match gateway {
            IpAddr::V4(_) => "0.0.0.0/0",
            IpAddr::V6(_) => "::/0",
        };
        self.namespace
            .ip(&[format!("route replace {destination} via {gateway}")])
    }

    /// Sends what goes to `network` (`10.2.0.0/24`) to `gateway`.
    ///
    /// # Errors
    /// As [`Host::default_route`].
    pub fn route(&self, network: &str, gateway: &str) -> Result<(), LabError> {
        let gateway = parse_address(gateway)?;
        let network: IpNet = parse(network, "network with prefix length")?;
        self.namespace
            .ip(&[format!("route replace {network} via {gateway}")])
    }

    /// The addresses given so far, in the order they were given.
    #[must_use]
    pub fn addresses(&self) -> Vec<IpAddr> {
        self.lock_addresses().iter().map(IpNet::addr).collect()
    }

    /// Starts a program on this machine; its output is captured to files.
    ///
    /// # Errors
    /// When it cannot be started.
    pub fn spawn(&self, command: Command) -> Result<Process, ProcessError> {
        Process::spawn(
            &self.name,
            self.namespace.entry(),
            command,
            self.lab.outputs(),
        )
    }

    /// Runs a program on this machine to its end, at most a minute; it is killed after that.
    ///
    /// # Errors
    /// When it cannot be started, does not end, or ends with another status than zero.
    pub fn exec(&self, command: Command) -> Result<Output, ProcessError> {
        self.spawn(command)?.wait_success(EXEC_WITHIN)
    }

    /// Runs `work` on this machine, on a thread of its own: a socket made there stays on this machine wherever it is used
    /// later. A panic in `work` goes on in the caller.
    ///
    /// # Errors
    /// When the lab is gone.
    pub fn enter<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, LabError> {
        self.namespace.enter(work)
    }

    /// A tokio runtime of two worker threads whose spawned tasks run on this machine. A future given to `block_on` runs
    /// on the caller's thread, which is elsewhere: spawn instead.
    ///
    /// # Errors
    /// When the system refuses threads.
    pub fn runtime(&self) -> Result<tokio::runtime::Runtime, LabError> {
        let entry = self.namespace.entry().clone();
        tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name(format!("lab-{}", self.name))
            .on_thread_start(move || {
                if let Err(error) = entry.enter() {
                    // A worker elsewhere would send packets into the real network: nothing may run on it.
                    eprintln!("a runtime's thread cannot enter the lab: {error}");
                    std::process::abort();
                }
            })
            .enable_all()
            .build()
            .map_err(LabError::system(format!("make a runtime on {}", self.name)))
    }

    /// Drops these kinds of traffic, in and out and through, from now on; replaces what was blocked before, so an empty
    /// list opens everything.
    ///
    /// # Errors
    /// What the system refused.
    pub fn block(&self, blocks: &[Block]) -> Result<(), LabError> {
        self.namespace.nft(&firewall::ruleset(blocks))
    }

    /// Name servers of this machine, replacing those before; none to begin with, so that look-ups fail at once. An address
    /// where nothing answers makes them hang.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_name_servers(&self, servers: &[IpAddr]) -> Result<(), LabError> {
        let text: String = servers
            .iter()
            .map(|server| format!("nameserver {server}\n"))
            .collect();
        let file = self.namespace.etc_file("resolv.conf");
        // In place: the file is mounted into running processes.
        std::fs::write(&file, text).map_err(LabError::system(format!("write {}", file.display())))
    }

    /// One echo request to `address`: how long the answer took, or `None` when there is none within `within` (rounded up to a
    /// whole millisecond).
    ///
    /// # Errors
    /// When `ping` cannot be run at all.
    pub fn ping(
        &self,
        address: IpAddr,
        within: Duration,
    ) -> Result<Option<Duration>, ProcessError> {
        let seconds = within.as_secs_f64().max(0.001);
        let mut command = Command::new("ping");
        command
            .args(["-n", "-c", "1", "-W"])
            .arg(format!("{seconds:.3}"))
            .arg(address.to_string());
        let mut ping = self.spawn(command)?;
        // The end of a lost ping is its own time-out, plus the process' start on a busy machine.
        ping.wait(within + Duration::from_secs(10))?;
        Ok(round_trip(&ping.stdout()))
    }

    /// Whether `address` answers an echo request within a second.
    #[must_use]
    pub fn reaches(&self, address: IpAddr) -> bool {
        matches!(self.ping(address, Duration::from_secs(1)), Ok(Some(_)))
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    pub(crate) fn lab(&self) -> &Arc<LabInner> {
        &self.lab
    }

    fn remember(&self, addresses: Vec<IpNet>) {
        self.lock_addresses().extend(addresses);
    }

    fn lock_addresses(&self) -> std::sync::MutexGuard<'_, Vec<IpNet>> {
        self.addresses
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The round trip in `ping`'s line `64 bytes from …: icmp_seq=1 ttl=64 time=80.3 ms`.
fn round_trip(output: &str) -> Option<Duration> {
    let milliseconds = output.split("time=").nth(1)?.split_whitespace().next()?;
    Some(Duration::from_secs_f64(
        milliseconds.parse::<f64>().ok()? / 1000.0,
    ))
}

pub(crate) fn parse_addresses(texts: &[&str]) -> Result<Vec<IpNet>, LabError> {
    texts
        .iter()
        .map(|text| parse(text, "address with prefix length, like 10.0.0.1/24"))
        .collect()
}

fn parse_address(text: &str) -> Result<IpAddr, LabError> {
    parse(text, "IP address")
}

fn parse<T: std::str::FromStr>(text: &str, expected: &'static str) -> Result<T, LabError> {
    text.parse().map_err(|_| LabError::Address {
        text: text.to_owned(),
        expected,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_the_output_of_ping_when_read_then_the_round_trip_is_found_or_absent() {
        let answered = "PING 10.0.0.1 (10.0.0.1) 56(84) bytes of data.\n64 bytes from 10.0.0.1: icmp_seq=1 ttl=64 time=80.5 ms\n";
        assert_eq!(round_trip(answered), Some(Duration::from_micros(80_500)));
        let lost = "1 packets transmitted, 0 received, 100% packet loss, time 0ms\n";
        assert_eq!(round_trip(lost), None);
    }
}
