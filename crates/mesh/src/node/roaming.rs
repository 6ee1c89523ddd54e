//! Connections that leave from an address which the machine has lost.
//!
//! Nothing tells the other side, and TCP takes its time to notice: until then gossip and requests go
//! into such a connection. So which address each one leaves from is kept, and when that address goes,
//! so does the connection; the way back is a new dial.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};

use libp2p::Multiaddr;
use libp2p::core::ConnectedPoint;
use libp2p::multiaddr::Protocol;
use libp2p::swarm::ConnectionId;

use crate::node::Node;
use crate::node::reach::is_circuit;

/// Our end of each direct connection.
#[derive(Debug, Default)]
pub(super) struct LocalEnds(BTreeMap<ConnectionId, IpAddr>);

impl LocalEnds {
    pub(super) fn opened(&mut self, id: ConnectionId, endpoint: &ConnectedPoint) {
        if let Some(ip) = local_end(endpoint) {
            self.0.insert(id, ip);
        }
    }

    pub(super) fn closed(&mut self, id: ConnectionId) {
        self.0.remove(&id);
    }
}

impl Node {
    /// Closes what leaves from addresses that are gone, unless they are listened on elsewhere still.
    pub(super) fn close_stranded(&mut self, gone: &[Multiaddr]) {
        let kept: BTreeSet<IpAddr> = self.swarm.listeners().filter_map(ip_of).collect();
        let gone: BTreeSet<IpAddr> = gone
            .iter()
            .filter(|address| !is_circuit(address))
            .filter_map(ip_of)
            .filter(|ip| !kept.contains(ip))
            .collect();
        let ends = self.local_ends.0.iter();
        let stranded: Vec<ConnectionId> = ends
            .filter(|(_, ip)| gone.contains(*ip))
            .map(|(id, _)| *id)
            .collect();
        for id in stranded {
            self.swarm.close_connection(id);
        }
    }
}

fn local_end(endpoint: &ConnectedPoint) -> Option<IpAddr> {
    if endpoint.is_relayed() {
        return None;
    }
    match endpoint {
        ConnectedPoint::Listener { local_addr, .. } => {
            ip_of(local_addr).filter(|ip| !ip.is_unspecified())
        }
        ConnectedPoint::Dialer { .. } => None,
    }
    .or_else(|| source_towards(ip_of(endpoint.get_remote_address())?))
}

/// The address that the system leaves from towards `remote`. Sends nothing.
fn source_towards(remote: IpAddr) -> Option<IpAddr> {
    const DISCARD_PORT: u16 = 9;
    let any: IpAddr = match remote {
        IpAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        IpAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).ok()?;
    socket.connect(SocketAddr::new(remote, DISCARD_PORT)).ok()?;
    Some(socket.local_addr().ok()?.ip())
}

fn ip_of(address: &Multiaddr) -> Option<IpAddr> {
    match address.iter().next()? {
        Protocol::Ip4(ip) => Some(ip.into()),
        Protocol::Ip6(ip) => Some(ip.into()),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use libp2p::core::Endpoint;
    use libp2p::core::transport::PortUse;

    fn address(text: &str) -> Multiaddr {
        text.parse().unwrap()
    }

    #[test]
    fn given_an_accepted_connection_when_asked_then_its_local_address_is_our_end() {
        let endpoint = ConnectedPoint::Listener {
            local_addr: address("/ip4/10.0.0.1/tcp/4001"),
            send_back_addr: address("/ip4/10.0.0.2/tcp/5000"),
        };
        assert_eq!(local_end(&endpoint), Some([10, 0, 0, 1].into()));
    }

    #[test]
    fn given_a_dialled_connection_when_asked_then_the_route_tells_our_end() {
        let endpoint = ConnectedPoint::Dialer {
            address: address("/ip4/127.0.0.1/tcp/5000"),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        assert_eq!(local_end(&endpoint), Some([127, 0, 0, 1].into()));
    }

    #[test]
    fn given_a_circuit_when_asked_then_it_has_no_end_of_its_own() {
        let relay =
            "/ip4/127.0.0.1/tcp/4001/p2p/12D3KooWSBv5zNHzpc5ugiJgfJnD2cRGmDnGHgUn1KKEnyNAmaxx";
        let endpoint = ConnectedPoint::Dialer {
            address: address(&format!("{relay}/p2p-circuit")),
            role_override: Endpoint::Dialer,
            port_use: PortUse::Reuse,
        };
        assert_eq!(local_end(&endpoint), None);
    }
}
