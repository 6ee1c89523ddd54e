//! One organisation at a fixed moment, for all integration tests.
#![allow(dead_code, unreachable_pub)]

use std::path::Path;
use std::process::Command;
use std::sync::LazyLock;
use std::time::Duration;

use warren_identity::{
    CA_VALIDITY, CaRequest, Capabilities, CertificateAuthority, Leaf, LeafRequest, NodeKey,
    OrganizationId, Serial, UnixTime, WildcardNames,
};

pub const DAY: u64 = 24 * 3600;
/// 2026-11-20, midday.
pub const NOW_S: u64 = 1_795_176_000;

pub fn at(unix_s: u64) -> UnixTime {
    UnixTime::since_unix_epoch(Duration::from_secs(unix_s))
}

pub fn now() -> UnixTime {
    at(NOW_S)
}

pub fn org() -> OrganizationId {
    OrganizationId::new("org_acme_corp").unwrap()
}

pub fn serial(n: u8) -> Serial {
    Serial::from_random([n; 16])
}

pub fn key(n: u8) -> NodeKey {
    NodeKey::from_seed([n; 32])
}

pub fn ca_of(
    organization: OrganizationId,
    material: u8,
    made_at: UnixTime,
) -> CertificateAuthority {
    let request = CaRequest {
        organization,
        key_material: zeroize::Zeroizing::new([material; 32]),
        serial: serial(material),
        validity: CA_VALIDITY,
    };
    CertificateAuthority::create(&request, made_at).unwrap()
}

/// The organisation's CA, the same certificate each time: its ECDSA signature would differ if it were made anew.
pub fn ca() -> CertificateAuthority {
    static FILES: LazyLock<(String, String)> = LazyLock::new(|| {
        let made = ca_of(org(), 100, at(NOW_S - 100 * DAY));
        (made.certificate_pem(), made.key_pem().to_owned())
    });
    CertificateAuthority::from_pem(&FILES.0, &FILES.1, None).unwrap()
}

/// What node `n` asks for: `node-<n>` on loopback, storage and discovery, one year, with a companion.
pub fn request(n: u8) -> LeafRequest {
    LeafRequest {
        peer_id: key(n).peer_id(),
        name: format!("node-{n}"),
        dns: vec![format!("node{n}.acme.com"), "localhost".into()],
        ip: vec!["127.0.0.1".parse().unwrap()],
        capabilities: Capabilities::parse(["storage", "discovery", "route:192.168.4.0/24"])
            .unwrap(),
        validity: Duration::from_secs(365 * DAY),
        companion_key: Some(key(n).companion_key().public_key().to_vec()),
        wildcards: WildcardNames::Refuse,
    }
}

pub fn leaf(n: u8) -> Leaf {
    ca().issue(&request(n), now(), serial(n)).unwrap()
}

/// Runs the real `openssl` in `dir` and returns its output; a failure shows what it said.
pub fn openssl(dir: &Path, arguments: &[&str]) -> String {
    let (ok, output) = try_openssl(dir, arguments);
    assert!(ok, "openssl {}:\n{output}", arguments.join(" "));
    output
}

pub fn try_openssl(dir: &Path, arguments: &[&str]) -> (bool, String) {
    let run = Command::new("openssl")
        .args(arguments)
        .current_dir(dir)
        .stdin(std::process::Stdio::null())
        .output();
    let output = run
        .expect("this test needs the `openssl` command: install it with `apt-get install openssl`");
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

pub fn write(dir: &Path, name: &str, text: &str) {
    std::fs::write(dir.join(name), text).unwrap();
}

pub fn read(dir: &Path, name: &str) -> String {
    std::fs::read_to_string(dir.join(name)).unwrap()
}
