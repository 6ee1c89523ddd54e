//! Seeds as people write them.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

/// The port of membership.
pub const DEFAULT_PORT: u16 = 7946;

/// Where a cluster may be found: a name or address, and a port.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Seed {
    pub(crate) host: String,
    pub(crate) port: u16,
}

/// Why a text is no seed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no seed: write HOST:PORT, HOST, ADDRESS:PORT or [IPV6]:PORT")]
pub struct SeedError(String);

impl FromStr for Seed {
    type Err = SeedError;

    fn from_str(text: &str) -> Result<Self, SeedError> {
        let text = text.trim();
        let bad = || SeedError(text.chars().take(260).collect());
        if let Ok(address) = text.parse::<SocketAddr>() {
            return if address.port() == 0 {
                Err(bad())
            } else {
                Ok(Self {
                    host: address.ip().to_string(),
                    port: address.port(),
                })
            };
        }
        let bare = text.trim_start_matches('[').trim_end_matches(']');
        if let Ok(address) = bare.parse::<IpAddr>() {
            return Ok(Self {
                host: address.to_string(),
                port: DEFAULT_PORT,
            });
        }
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().map_err(|_| bad())?),
            None => (text, DEFAULT_PORT),
        };
        let is_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
        if host.is_empty() || host.len() > 253 || port == 0 || !host.chars().all(is_name) {
            return Err(bad());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
        })
    }
}

impl fmt::Display for Seed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.parse::<Ipv6Addr>().is_ok() {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn given_the_ways_to_write_a_seed_when_parsed_then_host_and_port_are_right() {
        for (text, shown) in [
            ("10.0.0.1:8000", "10.0.0.1:8000"),
            ("10.0.0.1", "10.0.0.1:7946"),
            ("director-1:7946", "director-1:7946"),
            (" director-1.example.org ", "director-1.example.org:7946"),
            ("[2001:db8::1]:1", "[2001:db8::1]:1"),
            ("2001:db8::1", "[2001:db8::1]:7946"),
        ] {
            assert_eq!(text.parse::<Seed>().unwrap().to_string(), shown);
        }
    }

    #[test]
    fn given_what_is_no_seed_when_parsed_then_it_is_named() {
        for text in [
            "",
            ":7946",
            "host:0",
            "host:port",
            "a b:1",
            "http://host:1",
            "10.0.0.1:0",
        ] {
            assert!(text.parse::<Seed>().is_err(), "{text}");
        }
    }
}
