//! What kind of address translation stands between us and our peers, told from what they see.
//!
//! Each peer we dialled tells the address it sees us at. One address of our own: no translation.
//! The same foreign address and port for all: a cone, which hole punching gets through. Another
//! port for each: symmetric, where only a relay helps. See RFC 4787 §4.1 (endpoint-independent
//! against address-dependent mapping).
//!
//! UDP is asked first, since all QUIC dials leave from the socket we listen on. TCP dials try to
//! leave from the listening port too, but may be given another, so they count only where nothing
//! is known of UDP.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};

use crate::info::{NatKind, Reachability};

/// Peers whose view is kept; one that comes later replaces nobody.
const MAX_OBSERVERS: usize = 64;

/// Tested addresses that are kept.
const MAX_TESTED: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Layer {
    Udp,
    Tcp,
}

/// What peers see and what probes found.
#[derive(Debug, Default)]
pub(crate) struct NatView {
    observations: BTreeMap<(Layer, PeerId), (SocketAddr, Multiaddr)>,
    own: BTreeSet<Multiaddr>,
    /// Addresses that were dialled back, and whether it worked.
    tested: BTreeMap<Multiaddr, bool>,
}

impl NatView {
    /// A peer that we dialled tells what it sees. Addresses without an IP say nothing.
    pub(crate) fn observed(&mut self, by: PeerId, address: &Multiaddr) {
        let Some((layer, socket)) = socket(address) else {
            return;
        };
        let full = self.observations.len() >= MAX_OBSERVERS;
        let key = (layer, by);
        if full && !self.observations.contains_key(&key) {
            return;
        }
        self.observations.insert(key, (socket, address.clone()));
    }

    /// A peer left; what it saw may no longer hold.
    pub(crate) fn forget(&mut self, peer: &PeerId) {
        self.observations.retain(|(_, by), _| by != peer);
    }

    pub(crate) fn listening(&mut self, address: Multiaddr) {
        self.own.insert(address);
    }

    /// An address went away, and with it what was known of the network behind it.
    pub(crate) fn not_listening(&mut self, address: &Multiaddr) {
        if self.own.remove(address) {
            self.observations.clear();
            self.tested.clear();
        }
    }

    /// A member tried to dial us at `address`.
    pub(crate) fn tested(&mut self, address: Multiaddr, reachable: bool) {
        if self.tested.len() < MAX_TESTED || self.tested.contains_key(&address) {
            self.tested.insert(address, reachable);
        }
    }

    /// Whether a peer sees us at an address that is not ours.
    pub(crate) fn is_translated(&self) -> bool {
        let own_ips = self.own_ips();
        self.observations
            .values()
            .any(|(socket, _)| !own_ips.contains(&socket.ip()))
    }

    fn own_ips(&self) -> BTreeSet<IpAddr> {
        self.own
            .iter()
            .filter_map(|address| Some(socket(address)?.1.ip()))
            .collect()
    }

    pub(crate) fn reachability(&self) -> Reachability {
        match (self.tested.values().any(|ok| *ok), self.tested.is_empty()) {
            (true, _) => Reachability::Public,
            (false, false) => Reachability::Private,
            (false, true) => Reachability::Unknown,
        }
    }

    pub(crate) fn observed_addresses(&self) -> Vec<Multiaddr> {
        let distinct: BTreeSet<_> = self.observations.values().map(|(_, a)| a.clone()).collect();
        distinct.into_iter().collect()
    }

    pub(crate) fn kind(&self) -> NatKind {
        match self.kind_of(Layer::Udp) {
            NatKind::Unknown => self.kind_of(Layer::Tcp),
            known => known,
        }
    }

    /// Whether somebody has tried to dial us.
    fn is_answered(&self) -> bool {
        self.reachability() != Reachability::Unknown
    }

    fn kind_of(&self, layer: Layer) -> NatKind {
        let own_ips = self.own_ips();
        let (ours, foreign): (Vec<SocketAddr>, Vec<SocketAddr>) = self
            .observations
            .iter()
            .filter(|((of, _), _)| *of == layer)
            .map(|(_, (socket, _))| *socket)
            .partition(|socket| own_ips.contains(&socket.ip()));
        let distinct: BTreeSet<&SocketAddr> = foreign.iter().collect();
        // IPv4 and IPv6 are translated apart; more than one socket counts within one family only.
        let most = [true, false]
            .map(|v4| distinct.iter().filter(|s| s.is_ipv4() == v4).count())
            .into_iter()
            .max()
            .unwrap_or(0);
        match (foreign.len(), most) {
            // A neighbour sees our own address too where a router stands between us and everybody else.
            (0, _) if !self.is_answered() && !ours.iter().any(|socket| is_global(socket.ip())) => {
                NatKind::Unknown
            }
            (0, _) if ours.is_empty() => NatKind::Unknown,
            (0, _) => NatKind::None,
            (1, _) => NatKind::Unknown,
            (_, 0 | 1) => NatKind::Cone,
            _ => NatKind::Symmetric,
        }
    }
}

/// Whether an address is valid everywhere, so that no translator stands before whoever is seen at it.
fn is_global(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(ip) => {
            // 100.64.0.0/10 is for carriers' translators (RFC 6598).
            let shared = ip.octets()[0] == 100 && ip.octets()[1] & 0xc0 == 64;
            !(ip.is_private() || ip.is_loopback() || ip.is_link_local() || shared)
        }
        IpAddr::V6(ip) => !(ip.is_unique_local() || ip.is_loopback() || ip.is_unicast_link_local()),
    }
}

/// The transport and socket address at the front of a direct address.
fn socket(address: &Multiaddr) -> Option<(Layer, SocketAddr)> {
    if address.iter().any(|part| part == Protocol::P2pCircuit) {
        return None;
    }
    let mut parts = address.iter();
    let ip = match parts.next()? {
        Protocol::Ip4(ip) => IpAddr::V4(ip),
        Protocol::Ip6(ip) => IpAddr::V6(ip),
        _ => return None,
    };
    match parts.next()? {
        Protocol::Udp(port) => Some((Layer::Udp, SocketAddr::new(ip, port))),
        Protocol::Tcp(port) => Some((Layer::Tcp, SocketAddr::new(ip, port))),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn view(own: &[&str], seen: &[&str]) -> NatView {
        let mut view = NatView::default();
        for address in own {
            view.listening(address.parse().unwrap());
        }
        for address in seen {
            view.observed(PeerId::random(), &address.parse().unwrap());
        }
        view
    }

    const OWN: &[&str] = &["/ip4/10.0.0.2/udp/4001/quic-v1"];

    #[test]
    fn given_nobody_or_one_foreign_view_when_classified_then_it_is_unknown() {
        assert_eq!(view(OWN, &[]).kind(), NatKind::Unknown);
        assert_eq!(
            view(OWN, &["/ip4/203.0.113.1/udp/5000/quic-v1"]).kind(),
            NatKind::Unknown
        );
    }

    #[test]
    fn given_views_when_one_is_foreign_then_we_are_translated() {
        let (ours, foreign) = (OWN[0], "/ip4/203.0.113.1/udp/5000/quic-v1");
        assert!(!view(OWN, &[ours]).is_translated());
        assert!(view(OWN, &[ours, foreign]).is_translated());
    }

    #[test]
    fn given_a_private_address_of_ours_when_seen_then_it_is_unknown_until_somebody_dialled_us() {
        let mut seen = view(OWN, OWN);
        assert_eq!(seen.kind(), NatKind::Unknown);
        seen.tested(OWN[0].parse().unwrap(), true);
        assert_eq!(seen.kind(), NatKind::None);
    }

    #[test]
    fn given_a_global_address_of_ours_when_seen_then_there_is_no_translation() {
        let global = &["/ip4/203.0.113.9/udp/4001/quic-v1"];
        assert_eq!(view(global, global).kind(), NatKind::None);
        let carrier = &["/ip4/100.100.0.1/udp/4001/quic-v1"];
        assert_eq!(view(carrier, carrier).kind(), NatKind::Unknown);
    }

    #[test]
    fn given_one_mapping_for_all_when_classified_then_it_is_a_cone() {
        let seen = ["/ip4/203.0.113.1/udp/5000/quic-v1"; 3];
        assert_eq!(view(OWN, &seen).kind(), NatKind::Cone);
    }

    #[test]
    fn given_a_neighbour_that_sees_us_directly_when_others_do_not_then_the_others_decide() {
        let seen = [
            "/ip4/10.0.0.2/udp/4001/quic-v1",
            "/ip4/203.0.113.1/udp/5000/quic-v1",
            "/ip4/203.0.113.1/udp/5000/quic-v1",
        ];
        assert_eq!(view(OWN, &seen).kind(), NatKind::Cone);
    }

    #[test]
    fn given_another_port_for_each_when_classified_then_it_is_symmetric() {
        let seen = [
            "/ip4/203.0.113.1/udp/5000/quic-v1",
            "/ip4/203.0.113.1/udp/5001/quic-v1",
        ];
        assert_eq!(view(OWN, &seen).kind(), NatKind::Symmetric);
    }

    #[test]
    fn given_scattered_tcp_ports_when_udp_is_a_cone_then_it_is_a_cone() {
        let seen = [
            "/ip4/203.0.113.1/udp/5000/quic-v1",
            "/ip4/203.0.113.1/udp/5000/quic-v1",
            "/ip4/203.0.113.1/tcp/6000",
            "/ip4/203.0.113.1/tcp/6001",
        ];
        assert_eq!(view(OWN, &seen).kind(), NatKind::Cone);
    }

    #[test]
    fn given_one_ipv4_and_one_ipv6_mapping_when_classified_then_it_is_a_cone() {
        let seen = [
            "/ip4/203.0.113.1/udp/5000/quic-v1",
            "/ip6/2001:db8::1/udp/5000/quic-v1",
        ];
        assert_eq!(view(OWN, &seen).kind(), NatKind::Cone);
    }

    #[test]
    fn given_probes_when_one_succeeds_then_we_are_public_until_the_address_goes() {
        let mut view = view(OWN, &[]);
        assert_eq!(view.reachability(), Reachability::Unknown);
        view.tested("/ip4/203.0.113.1/udp/5000/quic-v1".parse().unwrap(), false);
        assert_eq!(view.reachability(), Reachability::Private);
        view.tested("/ip4/203.0.113.1/tcp/4001".parse().unwrap(), true);
        assert_eq!(view.reachability(), Reachability::Public);
        view.not_listening(&OWN[0].parse().unwrap());
        assert_eq!(view.reachability(), Reachability::Unknown);
    }
}
