//! Values that the configuration is made of: how each is written, checked and printed.

use std::fmt;
use std::net::IpAddr;
use std::time::Duration;

use crate::problem::quoted;

/// Text that never shows in `Debug`, logs or `config show`: a database URL with its password.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    #[must_use]
    pub fn new(text: String) -> Self {
        Self(text)
    }

    /// The text itself; hand it straight to what needs it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(***)")
    }
}

/// A host name or IP address and a port: `node1.acme.com:4002`, `[2001:db8::1]:4002`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostPort {
    /// DNS name or IP address, without brackets.
    pub host: String,
    /// TCP port.
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

/// An `http` or `https` base URL without user, query or fragment; no slash at the end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Url(String);

impl Url {
    /// The URL as text, `https://discovery1.warren.network`.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Url {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl Url {
    /// Reads a server's base URL. Plain http is for this machine only: what is read over it steers the node.
    pub(crate) fn parse_server(text: &str) -> Result<Self, String> {
        let (scheme, rest) = text
            .split_once("://")
            .ok_or("it is no URL: write https://<host>[:<port>]")?;
        let scheme = scheme.to_ascii_lowercase();
        if scheme != "https" && scheme != "http" {
            return Err(format!("the scheme {} is not https", quoted(&scheme)));
        }
        let rest = rest.trim_end_matches('/');
        let (authority, path) = rest.split_once('/').map_or((rest, ""), |(a, p)| (a, p));
        if authority.contains('@') {
            return Err("a URL must not hold a user or password".to_owned());
        }
        if path.contains(['?', '#']) || !path.bytes().all(|b| b.is_ascii_graphic()) {
            return Err("a base URL has no query, fragment or blanks".to_owned());
        }
        let host = match HostPort::split(authority) {
            Some((host, port)) => {
                parse_port(port)?;
                host
            }
            None => authority.trim_start_matches('[').trim_end_matches(']'),
        };
        check_host(host)?;
        let loopback =
            host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback());
        if scheme == "http" && !loopback {
            return Err("plain http is allowed for this machine only: use https".to_owned());
        }
        Ok(Self(format!("{scheme}://{rest}")))
    }
}

impl HostPort {
    /// `host:port` or `[v6]:port` into its two halves; `None` where there is no port.
    fn split(text: &str) -> Option<(&str, &str)> {
        if let Some(rest) = text.strip_prefix('[') {
            return rest.split_once("]:");
        }
        text.split_once(':')
    }

    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let (host, port) = Self::split(text).ok_or("it is no <host>:<port>")?;
        check_host(host)?;
        Ok(Self {
            host: host.to_owned(),
            port: parse_port(port)?,
        })
    }
}

fn parse_port(text: &str) -> Result<u16, String> {
    text.parse()
        .map_err(|_| format!("{} is no port: 0 to 65535", quoted(text)))
}

/// A DNS name or an IP address.
pub(crate) fn check_host(host: &str) -> Result<(), String> {
    if host.parse::<IpAddr>().is_ok() {
        return Ok(());
    }
    let label = |label: &str| {
        (1..=63).contains(&label.len())
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label
                .bytes()
                .all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_')
    };
    // Digits and dots only: a mistyped IPv4 address, not a name.
    let numeric = host.bytes().all(|b| b.is_ascii_digit() || b == b'.');
    if host.len() <= 253 && !numeric && host.trim_end_matches('.').split('.').all(label) {
        return Ok(());
    }
    Err(format!(
        "{} is neither a DNS name nor an IP address",
        quoted(host)
    ))
}

/// Reads whole seconds, or a number with a suffix: `30s`, `5m`, `24h`, `7d`. For flags that take what a key takes.
///
/// # Errors
/// What is wrong and what is allowed, as one phrase.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let (number, unit) = split_unit(text);
    let seconds = match unit {
        "" | "s" => 1,
        "m" => 60,
        "h" => 3600,
        "d" => 86_400,
        _ => return Err(not_a(text, "duration", "30s, 5m, 24h, 7d or plain seconds")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| not_a(text, "duration", "30s, 5m, 24h, 7d or plain seconds"))?;
    number
        .checked_mul(seconds)
        .map(Duration::from_secs)
        .ok_or_else(|| format!("{} is too long", quoted(text)))
}

/// Bytes, or with a unit: `64KiB` (1024), `100GB` (1000).
pub(crate) fn parse_size(text: &str) -> Result<u64, String> {
    let (number, unit) = split_unit(text);
    let bytes: u64 = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1,
        "kb" => 1000,
        "mb" => 1000_u64.pow(2),
        "gb" => 1000_u64.pow(3),
        "tb" => 1000_u64.pow(4),
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        _ => return Err(not_a(text, "size", "64KiB, 100GB or plain bytes")),
    };
    let number: u64 = number
        .parse()
        .map_err(|_| not_a(text, "size", "64KiB, 100GB or plain bytes"))?;
    number
        .checked_mul(bytes)
        .ok_or_else(|| format!("{} is too large", quoted(text)))
}

fn split_unit(text: &str) -> (&str, &str) {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    (&text[..digits], text[digits..].trim_start())
}

fn not_a(text: &str, what: &str, allowed: &str) -> String {
    format!("{} is no {what}: write {allowed}", quoted(text))
}

/// The one way a duration is printed: in the largest unit that divides it.
pub(crate) fn show_duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match [(86_400, "d"), (3600, "h"), (60, "m")]
        .iter()
        .find(|(unit, _)| seconds > 0 && seconds.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", seconds / unit),
        None => format!("{seconds}s"),
    }
}

/// The one way a size is printed: in the largest unit that divides it.
pub(crate) fn show_size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 8] = [
        (1 << 40, "TiB"),
        (1_000_000_000_000, "TB"),
        (1 << 30, "GiB"),
        (1_000_000_000, "GB"),
        (1 << 20, "MiB"),
        (1_000_000, "MB"),
        (1 << 10, "KiB"),
        (1000, "KB"),
    ];
    match UNITS
        .iter()
        .find(|(unit, _)| bytes > 0 && bytes.is_multiple_of(*unit))
    {
        Some((unit, name)) => format!("{}{name}", bytes / unit),
        None => format!("{bytes}B"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_the_documents_durations_when_read_then_each_prints_one_normal_form() {
        for (text, seconds, normal) in [
            ("60", 60, "1m"),
            ("60s", 60, "1m"),
            ("30s", 30, "30s"),
            ("300", 300, "5m"),
            ("5m", 300, "5m"),
            ("24h", 86_400, "1d"),
            ("7d", 604_800, "7d"),
            ("0", 0, "0s"),
            ("90", 90, "90s"),
        ] {
            let duration = parse_duration(text).unwrap();
            assert_eq!(duration, Duration::from_secs(seconds), "{text}");
            assert_eq!(show_duration(duration), normal, "{text}");
            assert_eq!(parse_duration(normal), Ok(duration), "{normal}");
        }
        for text in [
            "",
            "s",
            "-1",
            "1.5h",
            "1w",
            "5 minutes",
            "99999999999999999999",
            "18446744073709551615d",
            "５s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn given_sizes_when_read_then_binary_and_decimal_units_differ() {
        for (text, bytes, normal) in [
            ("64KiB", 65_536, "64KiB"),
            ("100GB", 100_000_000_000, "100GB"),
            ("100 gb", 100_000_000_000, "100GB"),
            ("1024", 1024, "1KiB"),
            ("7", 7, "7B"),
            ("1000000", 1_000_000, "1MB"),
        ] {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
            assert_eq!(show_size(bytes), normal);
        }
        for text in ["", "GB", "1.5GB", "1PB", "-1", "99999999999TB"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn given_server_urls_when_read_then_only_https_or_loopback_pass() {
        for (text, url) in [
            (
                "https://discovery1.warren.network",
                "https://discovery1.warren.network",
            ),
            (
                "https://discovery1.warren.network:8443/",
                "https://discovery1.warren.network:8443",
            ),
            (
                "HTTPS://[2001:db8::1]:8443/base",
                "https://[2001:db8::1]:8443/base",
            ),
            ("http://127.0.0.1:8080", "http://127.0.0.1:8080"),
            ("http://localhost", "http://localhost"),
            ("http://[::1]:1", "http://[::1]:1"),
        ] {
            assert_eq!(
                Url::parse_server(text)
                    .map(|url| url.to_string())
                    .as_deref(),
                Ok(url),
                "{text}"
            );
        }
        for text in [
            "discovery1.warren.network",
            "http://discovery1.warren.network",
            "http://127.0.0.1.evil.example",
            "ftp://x",
            "https://",
            "https://user:pw@host",
            "https://host:99999",
            "https://host/?q",
            "https://ho st",
            "https://300.1.1.1",
        ] {
            assert!(Url::parse_server(text).is_err(), "{text}");
        }
    }

    #[test]
    fn given_hosts_with_ports_when_read_then_they_print_as_written() {
        for text in ["node1.acme.com:4002", "10.0.1.5:4002", "[2001:db8::1]:4002"] {
            assert_eq!(HostPort::parse(text).unwrap().to_string(), text);
        }
        for text in [
            "node1.acme.com",
            ":4002",
            "a:b",
            "a:70000",
            "2001:db8::1:4002",
            "-a:1",
        ] {
            assert!(HostPort::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn given_a_secret_when_debugged_then_nothing_shows() {
        assert_eq!(
            format!("{:?}", Secret::new("hunter2".to_owned())),
            "Secret(***)"
        );
    }
}
