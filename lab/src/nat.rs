//! How a router translates addresses, in the terms of RFC 4787, and the packet filter rules that do it.

/// How a NAT behaves towards UDP and TCP. IPv4 only: IPv6 is routed, behind a filter that lets in answers alone, as home
/// routers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Nat {
    /// Endpoint-independent mapping: an inside address and port has one outside port, whomever it talks to. The port is
    /// kept unless another inside machine has it already. Mappings last as long as the lab.
    Cone {
        /// Who may send to a mapping.
        filtering: Filtering,
        /// Whether inside machines reach each other through their outside addresses.
        hairpin: Hairpin,
    },
    /// Address and port-dependent mapping: a random outside port for each destination, filtered by address and port,
    /// no hairpin.
    Symmetric,
}

/// Who may send to a mapping of a cone NAT (RFC 4787, section 5).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Filtering {
    /// Anyone: "full cone".
    EndpointIndependent,
    /// Whoever's address has been sent to from it: "restricted cone".
    AddressDependent,
    /// Whoever's address and port have been sent to from it: "port-restricted cone", what most home routers are.
    AddressAndPortDependent,
}

/// Whether a NAT turns inside traffic to its own outside address around (RFC 4787, section 6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Hairpin {
    /// It does, and the receiver sees the sender's outside address and port.
    On,
    /// Such packets are dropped.
    Off,
}

impl Nat {
    /// Port-restricted without hairpin: what most home routers are.
    pub const CONE: Self = Self::Cone {
        filtering: Filtering::AddressAndPortDependent,
        hairpin: Hairpin::Off,
    };
    /// Anyone may send to a mapping; with hairpin.
    pub const FULL_CONE: Self = Self::Cone {
        filtering: Filtering::EndpointIndependent,
        hairpin: Hairpin::On,
    };

    /// The rules for a router whose interface `outside` has `address`.
    pub(crate) fn ruleset(self, outside: &str, address: std::net::Ipv4Addr) -> String {
        let translation = match self {
            Self::Cone { filtering, hairpin } => cone(outside, address, filtering, hairpin),
            Self::Symmetric => symmetric(outside),
        };
        translation + &filter(outside, address)
    }
}

fn symmetric(outside: &str) -> String {
    format!(
        "table ip lab_nat {{
  chain leave {{ type nat hook postrouting priority srcnat; policy accept;
    oifname \"{outside}\" meta l4proto {{ tcp, udp }} masquerade fully-random
    oifname \"{outside}\" masquerade
  }}
}}
"
    )
}

/// Plain `masquerade` keeps ports too, but two inside machines with the same port then get mappings that differ per
/// destination. So mappings are kept in two maps of our own: `outside` (inside endpoint to port), `inside` (the way back).
/// A port that is taken is replaced by a number counted up from 0x4e00; the kernel writes it in its own byte order,
/// which is of no matter here.
///
/// `learn` runs after translation on the first packets, when both endpoints are known. Connections that were turned
/// around carry connection mark 1.
fn cone(
    outside: &str,
    address: std::net::Ipv4Addr,
    filtering: Filtering,
    hairpin: Hairpin,
) -> String {
    let to_inside = "dnat ip to meta l4proto . th dport map @inside";
    let admit = match filtering {
        Filtering::EndpointIndependent => {
            format!("iifname \"{outside}\" meta l4proto {{ tcp, udp }} {to_inside}")
        }
        Filtering::AddressDependent => format!(
            "iifname \"{outside}\" meta l4proto . th dport . ip saddr @contacted meta l4proto {{ tcp, udp }} {to_inside}"
        ),
        // Connection tracking knows exactly the answers.
        Filtering::AddressAndPortDependent => String::new(),
    };
    let turn_around = match hairpin {
        Hairpin::On => format!(
            "iifname != \"{outside}\" ip daddr {address} meta l4proto {{ tcp, udp }} ct mark set 1 {to_inside}"
        ),
        Hairpin::Off => String::new(),
    };
    format!(
        "table ip lab_nat {{
  map outside {{ type inet_proto . ipv4_addr . inet_service : inet_service; size 65535; flags dynamic; }}
  map inside {{ type inet_proto . inet_service : ipv4_addr . inet_service; size 65535; flags dynamic; }}
  set contacted {{ type inet_proto . inet_service . ipv4_addr; size 65535; flags dynamic; }}
  chain map_endpoint {{
    meta l4proto . ip saddr . th sport @outside return
    meta l4proto . th sport @inside add @outside {{ meta l4proto . ip saddr . th sport : numgen inc mod 4096 offset 19968 }} return
    add @outside {{ meta l4proto . ip saddr . th sport : th sport }}
  }}
  chain translate {{
    jump map_endpoint
    meta l4proto {{ tcp, udp }} snat ip to {address} : meta l4proto . ip saddr . th sport map @outside
  }}
  chain leave {{ type nat hook postrouting priority srcnat; policy accept;
    oifname \"{outside}\" meta l4proto {{ tcp, udp }} jump translate
    ct mark 1 meta l4proto {{ tcp, udp }} jump translate
    oifname \"{outside}\" masquerade
  }}
  chain remember {{
    meta l4proto {{ tcp, udp }} add @inside {{ meta l4proto . th sport : ct original ip saddr . ct original proto-src }}
    add @contacted {{ meta l4proto . th sport . ip daddr }}
  }}
  chain learn {{ type filter hook postrouting priority srcnat + 10; policy accept;
    oifname \"{outside}\" meta l4proto {{ tcp, udp }} ct direction original ip saddr {address} jump remember
    ct mark 1 meta l4proto {{ tcp, udp }} ct direction original jump remember
  }}
  chain arrive {{ type nat hook prerouting priority dstnat; policy accept;
    {turn_around}
    {admit}
  }}
}}
"
    )
}

/// What comes from outside unasked is dropped, not refused, and before connection tracking confirms it: a confirmed stray
/// packet would occupy the tuple that the inside machine's own packet needs a moment later, and break hole punching.
fn filter(outside: &str, address: std::net::Ipv4Addr) -> String {
    format!(
        "table inet lab_filter {{
  chain input {{ type filter hook input priority filter; policy accept;
    iifname != \"{outside}\" ip daddr {address} meta l4proto {{ tcp, udp }} drop
    iifname \"{outside}\" ct state established,related accept
    iifname \"{outside}\" meta l4proto {{ icmp, ipv6-icmp }} accept
    iifname \"{outside}\" drop
  }}
  chain forward {{ type filter hook forward priority filter; policy accept;
    iifname \"{outside}\" ct state established,related accept
    iifname \"{outside}\" ct status dnat accept
    iifname \"{outside}\" drop
  }}
}}
"
    )
}
