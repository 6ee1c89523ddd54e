//! What people type on the command line, as values: each parser says what is wrong and how it is written.

use reqwest::Url;
use warren_config::Multiaddr;
use warren_identity::{Capabilities, PeerId};

/// Longest serial of a certificate, in bytes (RFC 5280 §4.1.2.2).
const MAX_SERIAL_BYTES: usize = 20;

/// The serial of a certificate.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct SerialNumber(Vec<u8>);

impl SerialNumber {
    /// Big-endian, with leading zeroes where people wrote some.
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// A serial as people copy it: hexadecimal in either case, perhaps with colons or a prefix as `openssl` prints it.
pub(crate) fn serial(text: &str) -> Result<SerialNumber, String> {
    let digits: String = text
        .trim_start_matches("serial=")
        .chars()
        .filter(|c| *c != ':')
        .collect();
    let even = if digits.len().is_multiple_of(2) {
        digits
    } else {
        format!("0{digits}")
    };
    let pairs = even
        .as_bytes()
        .chunks(2)
        .map(|pair| std::str::from_utf8(pair).ok());
    let bytes: Option<Vec<u8>> = pairs
        .map(|pair| u8::from_str_radix(pair?, 16).ok())
        .collect();
    bytes
        .filter(|bytes| (1..=MAX_SERIAL_BYTES).contains(&bytes.len()))
        .map(SerialNumber)
        .ok_or_else(|| "it is no serial: expected 1 to 40 hexadecimal digits".to_owned())
}

/// Bytes as a serial is printed.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A peer id: `12D3KooW…`.
pub(crate) fn peer_id(text: &str) -> Result<PeerId, String> {
    text.parse().map_err(|_| {
        "it is no peer id: one begins with 12D3KooW and has 52 characters, as `warren peers`, `warren peerid` and \
         `warren ca list` show it"
            .to_owned()
    })
}

/// A capability that means something to this version.
pub(crate) fn capability(text: &str) -> Result<String, String> {
    Capabilities::parse_known([text])
        .map(|_| text.to_owned())
        .map_err(|error| error.to_string())
}

/// Whole seconds, or a number with a unit; in seconds.
pub(crate) fn seconds(text: &str) -> Result<u64, String> {
    warren_config::parse_duration(text).map(|span| span.as_secs())
}

/// Where a peer is, with who it is.
pub(crate) fn peer_address(text: &str) -> Result<Multiaddr, String> {
    let example =
        "write /ip4/10.0.1.5/tcp/4001/p2p/12D3KooW…, as `warren status` on that node shows it";
    let address: Multiaddr = text
        .parse()
        .map_err(|error| format!("it is no multiaddr ({error}): {example}"))?;
    if address.iter().next().is_none() {
        return Err(format!("it is empty: {example}"));
    }
    Ok(address)
}

/// A node's management API: `http://127.0.0.1:8080`.
pub(crate) fn api_url(text: &str) -> Result<String, String> {
    let hint = format!(
        "it is no URL of a management API: write http://{0}, or https://{0} where api.tls.enabled is on",
        without_scheme(text, "127.0.0.1:8080")
    );
    let url = Url::parse(text).map_err(|_| hint.clone())?;
    if !matches!(url.scheme(), "http" | "https") || url.host_str().is_none() {
        return Err(hint);
    }
    Ok(text.trim_end_matches('/').to_owned())
}

/// A discovery server: `https://discovery.acme.com:8081`.
pub(crate) fn server_url(text: &str) -> Result<Url, String> {
    let hint = format!(
        "it is no URL of a discovery server: write https://{}",
        without_scheme(text, "discovery.acme.com:8081")
    );
    let url = Url::parse(text).map_err(|_| hint.clone())?;
    if url.scheme() != "https" || url.host_str().is_none() {
        return Err(hint);
    }
    Ok(url)
}

/// The host and port that were probably meant, to be put behind a scheme.
fn without_scheme<'a>(text: &'a str, example: &'a str) -> &'a str {
    let rest = text.split_once("://").map_or(text, |(_, rest)| rest);
    let looks_right = !rest.is_empty() && !rest.contains(char::is_whitespace);
    if looks_right { rest } else { example }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn a_url_without_its_scheme_is_told_with_one() {
        for text in [
            "localhost:8080",
            "10.0.1.6:8080",
            "ftp://node:1",
            "",
            "http://",
        ] {
            let told = api_url(text).unwrap_err();
            assert!(told.contains("write http://"), "{text}: {told}");
        }
        assert!(
            api_url("localhost:8080")
                .unwrap_err()
                .contains("http://localhost:8080,")
        );
        assert!(
            server_url("10.0.1.5:8081")
                .unwrap_err()
                .ends_with("write https://10.0.1.5:8081")
        );
        assert_eq!(api_url("http://[::1]:8080/").unwrap(), "http://[::1]:8080");
        assert_eq!(
            server_url("https://d.acme.com")
                .unwrap()
                .port_or_known_default(),
            Some(443)
        );
    }

    #[test]
    fn a_serial_is_read_as_openssl_and_the_list_print_it() {
        for text in ["4f3a", "4F:3A", "serial=4F3A"] {
            assert_eq!(serial(text).unwrap().bytes(), [0x4f, 0x3a], "{text}");
        }
        assert_eq!(serial("abc").unwrap().bytes(), [0x0a, 0xbc]);
        for text in ["", "xyz", &"0".repeat(41)] {
            assert!(serial(text).is_err(), "{text}");
        }
    }

    #[test]
    fn an_address_that_is_none_is_told_with_an_example() {
        for text in ["foo", "node1.acme.com:4001", ""] {
            let told = peer_address(text).unwrap_err();
            assert!(told.contains("/p2p/12D3KooW"), "{text}: {told}");
        }
    }
}
