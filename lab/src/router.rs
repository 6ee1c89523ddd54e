//! A machine that forwards between segments.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;

use crate::LabError;
use crate::bridge::Bridge;
use crate::host::{Host, parse_addresses};
use crate::lab::LabInner;
use crate::link::Link;
use crate::nat::Nat;

/// A machine that forwards IPv4 and IPv6, and translates at its outside interface when it is a NAT.
#[derive(Clone, Debug)]
pub struct Router {
    host: Host,
    nat: Option<Nat>,
}

impl Router {
    pub(crate) fn create(
        lab: &Arc<LabInner>,
        name: &str,
        nat: Option<Nat>,
    ) -> Result<Self, LabError> {
        let host = Host::create(lab, name)?;
        host.namespace().set_kernel("net/ipv4/ip_forward", "1")?;
        host.namespace()
            .set_kernel("net/ipv6/conf/all/forwarding", "1")?;
        host.namespace()
            .set_kernel("net/ipv6/conf/default/forwarding", "1")?;
        Ok(Self { host, nat })
    }

    /// Plugs in the side that the world sees. Translation uses the first IPv4 address. A NAT has one outside.
    ///
    /// # Errors
    /// [`LabError::Address`] (a NAT needs an IPv4 address), or what the system refused.
    pub fn attach_outside(&self, segment: &Bridge, addresses: &[&str]) -> Result<Link, LabError> {
        let translation = match self.nat {
            Some(nat) => Some((nat, first_ipv4(addresses)?)),
            None => None,
        };
        let link = self.host.attach(segment, addresses)?;
        if let Some((nat, address)) = translation {
            self.host
                .namespace()
                .nft(&nat.ruleset(link.interface(), address))?;
        }
        Ok(link)
    }

    /// Plugs in a side whose machines use this router as their gateway.
    ///
    /// # Errors
    /// As [`Host::attach`].
    pub fn attach_inside(&self, segment: &Bridge, addresses: &[&str]) -> Result<Link, LabError> {
        self.host.attach(segment, addresses)
    }

    /// How long a NAT lets UDP answers in after the last packet out (30 s to begin with, 120 s for flows with answers).
    ///
    /// # Errors
    /// What the system refused.
    pub fn set_udp_timeout(&self, timeout: Duration) -> Result<(), LabError> {
        let seconds = timeout.as_secs().max(1).to_string();
        let namespace = self.host.namespace();
        namespace.set_kernel("net/netfilter/nf_conntrack_udp_timeout", &seconds)?;
        namespace.set_kernel("net/netfilter/nf_conntrack_udp_timeout_stream", &seconds)
    }

    /// The router as a machine: to run programs on it, block traffic through it, or give it routes.
    #[must_use]
    pub fn host(&self) -> &Host {
        &self.host
    }
}

fn first_ipv4(addresses: &[&str]) -> Result<Ipv4Addr, LabError> {
    let found = parse_addresses(addresses)?
        .into_iter()
        .find_map(|net| match net {
            IpNet::V4(net) => Some(net.addr()),
            IpNet::V6(_) => None,
        });
    found.ok_or_else(|| LabError::Address {
        text: addresses.join(", "),
        expected: "list with an IPv4 address, which a NAT's outside needs",
    })
}
