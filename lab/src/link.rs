//! Cables between machines and segments: plugging, cutting, losing packets.

use std::fmt::Write as _;
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;

use crate::LabError;
use crate::bridge::Bridge;
use crate::capture::Capture;
use crate::core::link::{Impairment, LinkStats, Probability};
use crate::host::Host;
use crate::lab::LabInner;
use crate::namespace::Namespace;
use crate::shim::Shim;

/// Which way packets go on a link, seen from the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the machine to the segment.
    Outbound,
    /// From the segment to the machine.
    Inbound,
}

impl Direction {
    /// Both of them.
    pub const BOTH: [Self; 2] = [Self::Outbound, Self::Inbound];

    /// Position in arrays of two.
    pub(crate) fn index(self) -> usize {
        match self {
            Self::Outbound => 0,
            Self::Inbound => 1,
        }
    }
}

/// A cable between a machine and a segment. A handle: the cable stays when it is dropped. Clones are the same cable.
#[derive(Clone, Debug)]
pub struct Link {
    machine: End,
    segment: End,
    faults: Arc<Mutex<[Fault; 2]>>,
    lab: Arc<LabInner>,
}

/// One end of a veth pair.
#[derive(Clone, Debug)]
struct End {
    namespace: Arc<Namespace>,
    interface: String,
}

/// What is wrong in one direction.
#[derive(Clone, Copy, Debug, Default)]
struct Fault {
    cut: bool,
    loss: Probability,
}

impl Link {
    /// Every packet vanishes from now on, both ways; the interfaces stay up, as when something breaks further away.
    ///
    /// # Errors
    /// What the system refused.
    pub fn cut(&self) -> Result<(), LabError> {
        Direction::BOTH
            .into_iter()
            .try_for_each(|direction| self.cut_one_way(direction))
    }

    /// Packets in one direction vanish from now on.
    ///
    /// # Errors
    /// What the system refused.
    pub fn cut_one_way(&self, direction: Direction) -> Result<(), LabError> {
        self.change(direction, |fault| fault.cut = true)
    }

    /// Undoes [`Link::cut`] and [`Link::cut_one_way`]; loss stays as it was set.
    ///
    /// # Errors
    /// What the system refused.
    pub fn heal(&self) -> Result<(), LabError> {
        Direction::BOTH
            .into_iter()
            .try_for_each(|direction| self.change(direction, |fault| fault.cut = false))
    }

    /// Loses packets at random from now on, by the kernel's own unseeded generator; [`Probability::NEVER`] ends it. A
    /// [`ShapedLink`] does it with a seed.
    ///
    /// # Errors
    /// What the system refused.
    pub fn set_loss(&self, direction: Direction, loss: Probability) -> Result<(), LabError> {
        self.change(direction, |fault| fault.loss = loss)
    }

    /// Pulls the cable: the machine sees its interface without carrier. Addresses and routes stay.
    ///
    /// # Errors
    /// What the system refused.
    pub fn unplug(&self) -> Result<(), LabError> {
        self.segment.set("down")
    }

    /// Plugs the cable in again, and returns when it carries.
    ///
    /// # Errors
    /// What the system refused.
    pub fn plug(&self) -> Result<(), LabError> {
        self.segment.set("up")?;
        self.segment
            .namespace
            .wait_until_up(&self.segment.interface)
    }

    /// Records what passes the machine's end, cut packets that arrive there included.
    ///
    /// # Errors
    /// When the capture does not start within ten seconds.
    pub fn capture(&self) -> Result<Capture, LabError> {
        Capture::start(
            &self.machine.namespace,
            &self.machine.interface,
            self.lab.outputs(),
        )
    }

    /// The interface's name on the machine.
    #[must_use]
    pub fn interface(&self) -> &str {
        &self.machine.interface
    }

    /// Faults are rules at the receiving end.
    fn change(
        &self,
        direction: Direction,
        change: impl FnOnce(&mut Fault),
    ) -> Result<(), LabError> {
        let mut faults = self.faults.lock().unwrap_or_else(PoisonError::into_inner);
        let fault = &mut faults[direction.index()];
        change(fault);
        let receiver = match direction {
            Direction::Outbound => &self.segment,
            Direction::Inbound => &self.machine,
        };
        receiver
            .namespace
            .nft(&fault_rules(&receiver.interface, *fault))
    }
}

fn fault_rules(interface: &str, fault: Fault) -> String {
    let mut rules = format!("table netdev lab_{interface}\ndelete table netdev lab_{interface}\n");
    let dropped = if fault.cut {
        Probability::ALWAYS
    } else {
        fault.loss
    };
    let condition = match dropped {
        Probability::NEVER => return rules,
        Probability::ALWAYS => String::new(),
        chance => format!("numgen random mod 1000000 < {}", chance.of_a_million()),
    };
    let _ = writeln!(
        rules,
        "table netdev lab_{interface} {{\n  chain arrive {{ type filter hook ingress device \"{interface}\" priority 0; policy accept;\n    {condition} drop\n  }}\n}}"
    );
    rules
}

impl End {
    fn set(&self, state: &str) -> Result<(), LabError> {
        self.namespace
            .ip(&[format!("link set dev {} {state}", self.interface)])
    }

    /// Makes this end send frames as they go over a real wire: no larger than the MTU, with checksums filled in.
    fn disable_offload(&self) -> Result<(), LabError> {
        let features = [
            "-K",
            &self.interface,
            "tx",
            "off",
            "rx",
            "off",
            "tso",
            "off",
            "gso",
            "off",
            "gro",
            "off",
        ];
        self.namespace.tool("ethtool", &features, "")?;
        Ok(())
    }
}

/// A cable with weather: a shim in the middle treats each direction as an [`Impairment`] says. What a [`Link`] can do, it
/// can too.
#[derive(Clone, Debug)]
pub struct ShapedLink {
    link: Link,
    shim: Arc<Shim>,
}

impl ShapedLink {
    /// New conditions for packets that enter from now on; they hold when this returns.
    pub fn shape(&self, direction: Direction, impairment: Impairment) {
        self.shim.shape(direction, impairment);
    }

    /// The same conditions both ways: a delay here counts twice in a round trip.
    pub fn shape_both(&self, impairment: &Impairment) {
        for direction in Direction::BOTH {
            self.shim.shape(direction, impairment.clone());
        }
    }

    /// What happened to packets so far, but for those of the last moment.
    #[must_use]
    pub fn stats(&self, direction: Direction) -> LinkStats {
        self.shim.stats(direction)
    }
}

impl Deref for ShapedLink {
    type Target = Link;

    fn deref(&self) -> &Link {
        &self.link
    }
}

/// A plain cable.
pub(crate) fn connect(
    host: &Host,
    segment: &Bridge,
    addresses: &[IpNet],
) -> Result<Link, LabError> {
    let (machine, port) = ends(host, segment);
    veth(&machine, &port)?;
    configure(&machine, addresses)?;
    segment.plug(&port.interface)?;
    for end in [&machine, &port] {
        end.namespace.wait_until_up(&end.interface)?;
    }
    Ok(link(host, machine, port))
}

/// Two cables with a shim between them.
pub(crate) fn connect_through_shim(
    host: &Host,
    segment: &Bridge,
    addresses: &[IpNet],
    seed: u64,
) -> Result<ShapedLink, LabError> {
    let (machine, port) = ends(host, segment);
    let label = format!("shim-{}-{}", host.namespace().interfaces(), host.name());
    let label: String = label.chars().take(32).collect();
    let middle = host.lab().namespace(&label)?;
    // The shim's own interfaces speak for nobody.
    middle.set_kernel("net/ipv6/conf/all/disable_ipv6", "1")?;
    middle.set_kernel("net/ipv6/conf/default/disable_ipv6", "1")?;
    let near = End {
        namespace: Arc::clone(&middle),
        interface: "near".to_owned(),
    };
    let far = End {
        namespace: Arc::clone(&middle),
        interface: "far".to_owned(),
    };
    veth(&machine, &near)?;
    veth(&port, &far)?;
    for end in [&machine, &near, &far, &port] {
        end.disable_offload()?;
    }
    near.set("up")?;
    far.set("up")?;
    let shim = Arc::new(Shim::start(&middle, &near.interface, &far.interface, seed)?);
    host.lab().keep_shim(Arc::clone(&shim));
    configure(&machine, addresses)?;
    segment.plug(&port.interface)?;
    for end in [&machine, &near, &far, &port] {
        end.namespace.wait_until_up(&end.interface)?;
    }
    Ok(ShapedLink {
        link: link(host, machine, port),
        shim,
    })
}

fn ends(host: &Host, segment: &Bridge) -> (End, End) {
    let machine = End {
        namespace: Arc::clone(host.namespace()),
        interface: format!("eth{}", host.namespace().next_interface()),
    };
    let port = End {
        namespace: Arc::clone(segment.namespace()),
        interface: format!("port{}", segment.namespace().next_interface()),
    };
    (machine, port)
}

fn link(host: &Host, machine: End, segment: End) -> Link {
    Link {
        machine,
        segment,
        faults: Arc::default(),
        lab: Arc::clone(host.lab()),
    }
}

/// Makes a veth pair right in its two namespaces, so that it never appears on the machine itself.
///
/// The two ends get different interface numbers: where they are equal by chance, the kernel takes the pair for a physical
/// interface and delays its carrier by up to a second.
fn veth(one: &End, other: &End) -> Result<(), LabError> {
    static NUMBERS: AtomicU32 = AtomicU32::new(100);
    let number = NUMBERS.fetch_add(2, Ordering::Relaxed);
    one.namespace.ip(&[format!(
        "link add name {} index {number} type veth peer name {} index {} netns {}",
        one.interface,
        other.interface,
        number + 1,
        other.namespace.name()
    )])
}

fn configure(end: &End, addresses: &[IpNet]) -> Result<(), LabError> {
    let mut lines: Vec<String> = addresses
        .iter()
        .map(|address| {
            // No duplicate address detection: it would keep the address unusable for a second.
            let nodad = if matches!(address, IpNet::V6(_)) {
                " nodad"
            } else {
                ""
            };
            format!("addr add {address} dev {}{nodad}", end.interface)
        })
        .collect();
    lines.push(format!("link set dev {} up", end.interface));
    end.namespace.ip(&lines)
}
