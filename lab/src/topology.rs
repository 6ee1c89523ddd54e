//! Ready-made pictures. Addresses are from private and documentation ranges; nothing of them leaves the lab.
//!
//! `docs/lab.md` draws each of them.

use crate::{Bridge, Host, Lab, LabError, Link, Nat, Router};

/// A machine behind a router of its own.
#[derive(Clone, Debug)]
pub struct Site {
    /// Where address translation happens.
    pub router: Router,
    /// The router's cable to the internet.
    pub uplink: Link,
    /// The network behind the router.
    pub lan: Bridge,
    /// The machine behind it.
    pub host: Host,
    /// The machine's cable.
    pub link: Link,
}

/// Two sites that have only a server on the internet in common.
#[derive(Clone, Debug)]
pub struct TwoSites {
    /// 192.0.2.0/24 and 2001:db8::/64, flat.
    pub internet: Bridge,
    /// Reachable by all: 192.0.2.10 and 2001:db8::10.
    pub server: Host,
    /// The server's cable.
    pub server_link: Link,
    /// Outside 192.0.2.1, inside 10.1.0.0/24, machine 10.1.0.2.
    pub left: Site,
    /// Outside 192.0.2.2, inside 10.2.0.0/24, machine 10.2.0.2.
    pub right: Site,
}

/// Two machines, each behind a port-restricted cone NAT of its own, and a server both reach: holes can be punched.
///
/// # Errors
/// What the system refused.
pub fn two_cone_nats_with_server(lab: &Lab) -> Result<TwoSites, LabError> {
    two_sites(lab, "server", Some(Nat::CONE))
}

/// Two machines, each behind a symmetric NAT of its own, and a relay both reach: no hole can be punched.
///
/// # Errors
/// What the system refused.
pub fn two_symmetric_nats_with_relay(lab: &Lab) -> Result<TwoSites, LabError> {
    two_sites(lab, "relay", Some(Nat::Symmetric))
}

fn two_sites(lab: &Lab, server: &str, nat: Option<Nat>) -> Result<TwoSites, LabError> {
    let internet = lab.bridge("internet")?;
    let server = lab.host(server)?;
    let server_link = server.attach(&internet, &["192.0.2.10/24", "2001:db8::10/64"])?;
    let left = site(lab, &internet, "left", 1, nat)?;
    let right = site(lab, &internet, "right", 2, nat)?;
    Ok(TwoSites {
        internet,
        server,
        server_link,
        left,
        right,
    })
}

fn site(
    lab: &Lab,
    internet: &Bridge,
    name: &str,
    number: u8,
    nat: Option<Nat>,
) -> Result<Site, LabError> {
    let router = lab.router(&format!("{name}-router"), nat)?;
    let uplink = router.attach_outside(internet, &[&format!("192.0.2.{number}/24")])?;
    let lan = lab.bridge(&format!("{name}-lan"))?;
    let gateway = format!("10.{number}.0.1");
    router.attach_inside(&lan, &[&format!("{gateway}/24")])?;
    let host = lab.host(name)?;
    let link = host.attach(&lan, &[&format!("10.{number}.0.2/24")])?;
    host.default_route(&gateway)?;
    Ok(Site {
        router,
        uplink,
        lan,
        host,
        link,
    })
}

/// Machines on one segment.
#[derive(Clone, Debug)]
pub struct OneBridge {
    /// The segment: 10.0.0.0/16 and 2001:db8:1::/64.
    pub bridge: Bridge,
    /// Machine `node-N` has 10.0.0.N and 2001:db8:1::N (N in hexadecimal), from 1; from the 251st on, 10.0.1.1 and so
    /// forth.
    pub hosts: Vec<Host>,
    /// Their cables, in the same order.
    pub links: Vec<Link>,
}

/// `count` machines on one segment, which multicast passes, with a default route so that programs which look for the
/// interface of the default route find it.
///
/// # Errors
/// What the system refused.
pub fn one_bridge(lab: &Lab, count: u16) -> Result<OneBridge, LabError> {
    let bridge = lab.bridge("bridge")?;
    let mut made = OneBridge {
        bridge,
        hosts: Vec::new(),
        links: Vec::new(),
    };
    for number in 1..=count {
        let host = lab.host(&format!("node-{number}"))?;
        let ipv4 = format!("10.0.{}.{}/16", (number - 1) / 250, (number - 1) % 250 + 1);
        let ipv6 = format!("2001:db8:1::{number:x}/64");
        made.links.push(host.attach(&made.bridge, &[&ipv4, &ipv6])?);
        // Nobody has this address: what leaves the segment goes nowhere.
        host.default_route("10.0.255.254")?;
        made.hosts.push(host);
    }
    Ok(made)
}

/// Two machines that have IPv6 only, on two segments with a router between them.
#[derive(Clone, Debug)]
pub struct Ipv6OnlyPair {
    /// 2001:db8:a::2.
    pub left: Host,
    /// Its cable.
    pub left_link: Link,
    /// 2001:db8:b::2.
    pub right: Host,
    /// Its cable.
    pub right_link: Link,
    /// Has the ::1 of both.
    pub router: Router,
}

/// Two machines without IPv4 addresses that reach each other through a router.
///
/// # Errors
/// What the system refused.
pub fn ipv6_only_pair(lab: &Lab) -> Result<Ipv6OnlyPair, LabError> {
    let router = lab.router("router", None)?;
    let side = |name: &str, letter: char| {
        let segment = lab.bridge(&format!("{name}-lan"))?;
        router.attach_inside(&segment, &[&format!("2001:db8:{letter}::1/64")])?;
        let host = lab.host(name)?;
        let link = host.attach(&segment, &[&format!("2001:db8:{letter}::2/64")])?;
        host.default_route(&format!("2001:db8:{letter}::1"))?;
        Ok::<_, LabError>((host, link))
    };
    let (left, left_link) = side("left", 'a')?;
    let (right, right_link) = side("right", 'b')?;
    Ok(Ipv6OnlyPair {
        left,
        left_link,
        right,
        right_link,
        router,
    })
}
