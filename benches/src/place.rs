//! Where the sides run: two hosts of the lab on one cable, or, where there can be no lab, this machine's loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command};

use anyhow::Context;
use warren_lab::{Host, Lab, LabError, topology};

/// Two machines, or one that stands for both.
pub(crate) struct Place {
    pub(crate) here: Spot,
    pub(crate) there: Spot,
    description: String,
    _lab: Option<Lab>,
}

/// One machine.
pub(crate) struct Spot {
    host: Option<Host>,
    pub(crate) address: IpAddr,
}

impl Place {
    /// The lab if this process may make one.
    pub(crate) fn new() -> anyhow::Result<Self> {
        match Lab::new("bench") {
            Ok(lab) => Self::in_lab(lab),
            Err(LabError::Unavailable(reason)) => Ok(Self {
                here: Spot::loopback(),
                there: Spot::loopback(),
                description: format!("loopback of this machine, MTU 65536, not the lab ({reason})"),
                _lab: None,
            }),
            Err(error) => Err(error).context("cannot make the lab"),
        }
    }

    fn in_lab(lab: Lab) -> anyhow::Result<Self> {
        let bridge = topology::one_bridge(&lab, 2)?;
        let mut spots = bridge.hosts.into_iter().map(|host| {
            let address = host.addresses().into_iter().find(IpAddr::is_ipv4);
            address.map(|address| Spot {
                host: Some(host),
                address,
            })
        });
        let mut next = || {
            spots
                .next()
                .flatten()
                .context("the lab made fewer hosts than asked for")
        };
        let (here, there) = (next()?, next()?);
        let description =
            "lab: two network namespaces, veth cables to one bridge, MTU 1500, offloads on"
                .to_owned();
        Ok(Self {
            here,
            there,
            description,
            _lab: Some(lab),
        })
    }

    pub(crate) fn description(&self) -> &str {
        &self.description
    }

    pub(crate) fn is_lab(&self) -> bool {
        self.here.host.is_some()
    }
}

impl Spot {
    fn loopback() -> Self {
        Self {
            host: None,
            address: IpAddr::V4(Ipv4Addr::LOCALHOST),
        }
    }

    /// Starts a program on this machine. Its streams are as `command` says.
    pub(crate) fn spawn(&self, mut command: Command) -> io::Result<Child> {
        match &self.host {
            // A child belongs to the namespaces of the thread that starts it.
            Some(host) => host
                .enter(move || command.spawn())
                .map_err(io::Error::other)?,
            None => command.spawn(),
        }
    }
}
