//! A machine's own packet filter.

use std::fmt::Write as _;

/// A kind of traffic that a machine neither sends, receives nor forwards; loopback is never touched.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Block {
    /// All UDP, over IPv4 and IPv6.
    Udp,
    /// All TCP.
    Tcp,
    /// UDP to or from a port.
    UdpPort(u16),
    /// TCP to or from a port.
    TcpPort(u16),
    /// ICMP and, but for neighbour discovery, ICMPv6.
    Icmp,
}

impl Block {
    fn matches(self) -> Vec<String> {
        match self {
            Self::Udp => vec!["meta l4proto udp".to_owned()],
            Self::Tcp => vec!["meta l4proto tcp".to_owned()],
            Self::UdpPort(port) => vec![format!("udp dport {port}"), format!("udp sport {port}")],
            Self::TcpPort(port) => vec![format!("tcp dport {port}"), format!("tcp sport {port}")],
            // Types 133 to 137 are neighbour discovery, without which IPv6 has no link at all.
            Self::Icmp => vec![
                "meta l4proto icmp".to_owned(),
                "icmpv6 type != 133-137".to_owned(),
            ],
        }
    }
}

/// The rules that drop exactly `blocks`, replacing those before, in silence as a firewall on the way does.
pub(crate) fn ruleset(blocks: &[Block]) -> String {
    let mut text = String::from(
        "table inet lab_firewall\n\
         delete table inet lab_firewall\n\
         table inet lab_firewall {\n",
    );
    for hook in ["input", "output", "forward"] {
        let _ = writeln!(
            text,
            "chain {hook} {{ type filter hook {hook} priority -10; policy accept;"
        );
        let _ = match hook {
            "output" => writeln!(text, "oifname \"lo\" accept"),
            _ => writeln!(text, "iifname \"lo\" accept"),
        };
        for condition in blocks.iter().flat_map(|block| block.matches()) {
            let _ = writeln!(text, "{condition} drop");
        }
        text.push_str("}\n");
    }
    text.push_str("}\n");
    text
}
