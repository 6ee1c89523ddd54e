//! What a cluster is to be like. Each default with its reason.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::core::seed::DEFAULT_PORT;

/// How a node takes part in its cluster.
#[derive(Clone, Debug)]
pub struct ClusterConfig {
    /// Where to listen, UDP and TCP. Port 0 takes a free one for both.
    pub bind_addr: SocketAddr,
    /// Where others reach this node; `None`: the bound address, and if that is unspecified the address that the
    /// machine would reach the first seed from.
    pub advertise_addr: Option<SocketAddr>,
    /// Where members may be found: `host:port` or `host`. Names are resolved again every minute, and every few seconds
    /// while nobody is known. At most 64 addresses are used.
    pub seeds: Vec<String>,
    /// What this node says of itself from the start.
    pub tags: BTreeMap<String, String>,
    /// Timings of the membership protocol; [`warren_swim::Config::lan`] unless members are far apart.
    pub swim: warren_swim::Config,
    /// Connections held open; beyond it the least recently used is closed. One costs some 20 KiB, and a new one two
    /// signatures on both sides.
    pub max_links: usize,
    /// How long a good-bye may take to spread.
    pub leave_timeout: Duration,
}

impl Default for ClusterConfig {
    fn default() -> Self {
        Self {
            bind_addr: (Ipv4Addr::UNSPECIFIED, DEFAULT_PORT).into(),
            advertise_addr: None,
            seeds: Vec::new(),
            tags: BTreeMap::new(),
            swim: warren_swim::Config {
                // Handshakes hold out who was refused; a renewed leaf should not wait for long.
                expelled_for: Duration::from_secs(60),
                ..warren_swim::Config::lan()
            },
            max_links: 1_024,
            leave_timeout: Duration::from_secs(5),
        }
    }
}

impl ClusterConfig {
    /// The same, listening elsewhere.
    #[must_use]
    pub fn with_bind_addr(mut self, bind_addr: SocketAddr) -> Self {
        self.bind_addr = bind_addr;
        self
    }

    /// The same, reached elsewhere: behind a port that is forwarded, say.
    #[must_use]
    pub fn with_advertise_addr(mut self, advertise_addr: SocketAddr) -> Self {
        self.advertise_addr = Some(advertise_addr);
        self
    }

    /// The same with these seeds in place of those before: `host:port`, `host`, or socket addresses.
    #[must_use]
    pub fn with_seeds<S: ToString>(mut self, seeds: impl IntoIterator<Item = S>) -> Self {
        self.seeds = seeds.into_iter().map(|seed| seed.to_string()).collect();
        self
    }

    /// The same with one tag more.
    #[must_use]
    pub fn with_tag(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.tags.insert(key.into(), value.into());
        self
    }

    /// The same with other timings.
    #[must_use]
    pub fn with_swim(mut self, swim: warren_swim::Config) -> Self {
        self.swim = swim;
        self
    }
}
