//! Protocol names on the wire, and the message type each one's bytes are counted under.

/// Membership is proven here before anything else is said on a connection.
pub(crate) const ADMISSION: &str = "/warren/admission/1.0.0";
/// Requests and answers of the sync protocol.
pub(crate) const SYNC: &str = "/warren/sync/1.0.0";
/// Streams of content blocks.
pub(crate) const BLOCKS: &str = "/warren/blocks/1.0.0";
/// What `identify` says we speak.
pub(crate) const IDENTIFY_VERSION: &str = "warren/1.0.0";

/// The Kademlia protocol of one mesh: tables of different meshes never mix.
pub(crate) fn kademlia(mesh: &str) -> String {
    format!("/warren/{mesh}/kad/1.0.0")
}

/// What a substream's bytes are counted as: the `message_type` label of the traffic metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MessageType {
    /// `identify`.
    Identify,
    /// `ping`.
    Ping,
    /// Kademlia.
    Dht,
    /// Gossipsub.
    Gossip,
    /// `/warren/sync/1.0.0`.
    Sync,
    /// `/warren/blocks/1.0.0` over a libp2p stream.
    Blocks,
    /// Circuit relay, both as its server and as its client.
    Relay,
    /// Hole punching.
    HolePunch,
    /// Reachability probes.
    AutoNat,
    /// Anything else.
    Other,
}

impl MessageType {
    /// The value of the label.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identify => "identify",
            Self::Ping => "ping",
            Self::Dht => "dht",
            Self::Gossip => "gossip",
            Self::Sync => "sync",
            Self::Blocks => "blocks",
            Self::Relay => "relay",
            Self::HolePunch => "hole_punch",
            Self::AutoNat => "autonat",
            Self::Other => "other",
        }
    }

    /// The type of a protocol as it is named on the wire.
    pub(crate) fn of_protocol(protocol: &str) -> Self {
        match protocol {
            SYNC => Self::Sync,
            BLOCKS => Self::Blocks,
            "/libp2p/dcutr" => Self::HolePunch,
            p if p.starts_with("/ipfs/id/") => Self::Identify,
            p if p.starts_with("/ipfs/ping/") => Self::Ping,
            p if p.starts_with("/meshsub/") || p.starts_with("/floodsub/") => Self::Gossip,
            p if p.starts_with("/libp2p/circuit/relay/") => Self::Relay,
            p if p.starts_with("/libp2p/autonat/") => Self::AutoNat,
            p if p.contains("/kad/") => Self::Dht,
            _ => Self::Other,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_the_protocols_we_speak_when_classified_then_each_has_its_own_type() {
        for (protocol, expected) in [
            ("/ipfs/id/1.0.0", "identify"),
            ("/ipfs/id/push/1.0.0", "identify"),
            ("/ipfs/ping/1.0.0", "ping"),
            ("/warren/org_acme/kad/1.0.0", "dht"),
            ("/meshsub/1.1.0", "gossip"),
            ("/warren/sync/1.0.0", "sync"),
            ("/warren/blocks/1.0.0", "blocks"),
            ("/libp2p/circuit/relay/0.2.0/hop", "relay"),
            ("/libp2p/dcutr", "hole_punch"),
            ("/libp2p/autonat/2/dial-back", "autonat"),
            ("/somebody/else/1", "other"),
        ] {
            assert_eq!(MessageType::of_protocol(protocol).as_str(), expected);
        }
    }
}
