//! A network segment.

use std::sync::Arc;

use crate::LabError;
use crate::lab::LabInner;
use crate::namespace::Namespace;

/// The bridge's name in its own namespace.
const DEVICE: &str = "bridge0";

/// A switch with as many ports as are plugged in. It floods multicast (no snooping), so mDNS passes, and forwards at
/// once (no spanning tree).
#[derive(Clone, Debug)]
pub struct Bridge {
    namespace: Arc<Namespace>,
}

impl Bridge {
    pub(crate) fn create(lab: &LabInner, name: &str) -> Result<Self, LabError> {
        let namespace = lab.namespace(name)?;
        // The switch itself speaks no IP.
        namespace.set_kernel("net/ipv6/conf/all/disable_ipv6", "1")?;
        namespace.set_kernel("net/ipv6/conf/default/disable_ipv6", "1")?;
        namespace.ip(&[
            format!("link add name {DEVICE} type bridge stp_state 0 mcast_snooping 0"),
            format!("link set dev {DEVICE} up"),
        ])?;
        Ok(Self { namespace })
    }

    pub(crate) fn namespace(&self) -> &Arc<Namespace> {
        &self.namespace
    }

    /// Makes an interface of the switch's namespace one of its ports, and brings it up.
    pub(crate) fn plug(&self, port: &str) -> Result<(), LabError> {
        self.namespace.ip(&[
            format!("link set dev {port} master {DEVICE}"),
            format!("link set dev {port} up"),
        ])
    }
}
