//! Where the sides run: two hosts of the lab on one bridge, with weather between them or without; or this machine's
//! loopback.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::process::{Child, Command};

use anyhow::{Context, anyhow};
use warren_lab::{Host, Impairment, Lab, LabError, ShapedLink, topology};

/// Of the losses between two hosts; the same run after run.
const WEATHER_SEED: u64 = 20;

/// Two machines, or one that stands for both.
pub(crate) struct Place {
    pub(crate) here: Spot,
    pub(crate) there: Spot,
    description: String,
    _weather: Option<ShapedLink>,
    // Last, so that it outlives what is in it.
    _lab: Option<Lab>,
}

/// One machine.
pub(crate) struct Spot {
    host: Option<Host>,
    pub(crate) address: IpAddr,
}

impl Place {
    /// The lab if this process may make one, else loopback.
    pub(crate) fn new() -> anyhow::Result<Self> {
        match Lab::new("bench") {
            Ok(lab) => Self::in_lab(lab),
            Err(LabError::Unavailable(reason)) => {
                let loopback = Self::loopback();
                Ok(Self {
                    description: format!("{}, not the lab ({reason})", loopback.description),
                    ..loopback
                })
            }
            Err(error) => Err(error).context("cannot make the lab"),
        }
    }

    /// Both on this machine as it is.
    pub(crate) fn loopback() -> Self {
        Self {
            here: Spot::loopback(),
            there: Spot::loopback(),
            description: "loopback of this machine, MTU 65536".to_owned(),
            _weather: None,
            _lab: None,
        }
    }

    fn in_lab(lab: Lab) -> anyhow::Result<Self> {
        let bridge = topology::one_bridge(&lab, 2)?;
        let [here, there] = bridge
            .hosts
            .try_into()
            .map_err(|_| anyhow!("the lab made another number of hosts than asked for"))?;
        Ok(Self {
            here: Spot::on(here)?,
            there: Spot::on(there)?,
            description:
                "lab: two network namespaces, veth cables to one bridge, MTU 1500, offloads on"
                    .to_owned(),
            _weather: None,
            _lab: Some(lab),
        })
    }

    /// The lab with `weather` each way between the two.
    pub(crate) fn with_weather(weather: &Impairment) -> anyhow::Result<Self> {
        let lab = Lab::new("bench")?;
        let bridge = lab.bridge("bridge")?;
        let (here, there) = (lab.host("here")?, lab.host("there")?);
        here.attach(&bridge, &["10.0.0.1/24"])?;
        let link = there.attach_through_shim(&bridge, &["10.0.0.2/24"], WEATHER_SEED)?;
        link.shape_both(weather);
        Ok(Self {
            here: Spot::on(here)?,
            there: Spot::on(there)?,
            description: "lab: two network namespaces, a link shim between, MTU 1500, offloads off"
                .to_owned(),
            _weather: Some(link),
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

    fn on(host: Host) -> anyhow::Result<Self> {
        let address = host.addresses().into_iter().find(IpAddr::is_ipv4);
        Ok(Self {
            address: address.context("a host without an IPv4 address")?,
            host: Some(host),
        })
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
