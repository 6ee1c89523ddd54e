//! Capabilities: what a leaf entitles its holder to. They come from the certificate, never from a node's own claim.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

/// The longest text of one capability, in bytes.
const MAX_CAPABILITY_BYTES: usize = 64;
/// The most capabilities one leaf may carry.
const MAX_CAPABILITIES: usize = 64;

/// One capability as it stands in a leaf.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Capability {
    /// Holds content for others.
    Storage,
    /// Answers queries.
    Search,
    /// Speaks for the organisation to other organisations.
    Federation,
    /// Runs a discovery server; a joining machine trusts only such a member.
    Discovery,
    /// Coordinates the packet plane.
    Coordinator,
    /// Directs callers to workers.
    Director,
    /// Executes calls.
    Worker,
    /// Serves as a replication hub.
    Hub,
    /// Caches at the edge.
    Edge,
    /// Relays for members that cannot reach each other.
    Relay,
    /// Lets members out to the Internet.
    Exit,
    /// Accepts traffic from outside.
    Gateway,
    /// Administers nodes through their API.
    Admin,
    /// Changes access-control documents.
    AclWrite,
    /// Announces itself as the way to this prefix.
    Route(IpNet),
    /// A name this version does not know. It is kept and shown, and it grants nothing that this version knows.
    Other(OtherCapability),
}

/// A capability name that this version does not know. It exists only for names that are no known capability.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OtherCapability(String);

impl OtherCapability {
    /// The name as the leaf has it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Why a text is no capability.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum CapabilityError {
    /// Empty, too long or with a character no name has.
    #[error(
        "`{0}` is no capability: use 1 to 64 characters of a-z, 0-9, `:`, `.`, `-`, `_`, `/`, e.g. storage or route:192.168.4.0/24"
    )]
    BadName(String),
    /// `route:` without a prefix, or with host bits set.
    #[error(
        "`{0}` names no prefix: write route:ADDRESS/LENGTH with no bits beyond the length, e.g. route:192.168.4.0/24"
    )]
    BadRoute(String),
    /// Where a capability is granted: a name that this version does not know, so most likely a slip.
    #[error("`{name}` is no capability this version knows: {}known are {}, route:PREFIX", suggestion(*nearest), NAMED.map(|(name, _)| name).join(", "))]
    Unknown {
        /// What was asked for, at most 80 characters of it.
        name: String,
        /// The known name that was probably meant.
        nearest: Option<&'static str>,
    },
    /// More than a leaf may carry.
    #[error("{0} capabilities are too many for one leaf, which carries at most {MAX_CAPABILITIES}")]
    TooMany(usize),
}

const NAMED: [(&str, Capability); 14] = [
    ("storage", Capability::Storage),
    ("search", Capability::Search),
    ("federation", Capability::Federation),
    ("discovery", Capability::Discovery),
    ("coordinator", Capability::Coordinator),
    ("director", Capability::Director),
    ("worker", Capability::Worker),
    ("hub", Capability::Hub),
    ("edge", Capability::Edge),
    ("relay", Capability::Relay),
    ("exit", Capability::Exit),
    ("gateway", Capability::Gateway),
    ("admin", Capability::Admin),
    ("acl:write", Capability::AclWrite),
];

fn suggestion(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("did you mean `{name}`? "))
}

/// The known name that `text` is a slip of the finger away from.
fn nearest(text: &str) -> Option<&'static str> {
    let text: String = text
        .chars()
        .take(MAX_CAPABILITY_BYTES)
        .flat_map(char::to_lowercase)
        .collect();
    let allowed = (text.chars().count() / 3).clamp(1, 3);
    Capability::names()
        .map(|name| (strsim::damerau_levenshtein(&text, name), name))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, name)| name)
}

impl Capability {
    /// The names this version knows, besides `route:PREFIX`.
    pub fn names() -> impl Iterator<Item = &'static str> {
        NAMED.iter().map(|(name, _)| *name)
    }

    /// Parses a name that is about to be granted. Unlike [`FromStr`], which reads leaves of later versions too, it
    /// takes no name that would grant nothing.
    fn parse_known(text: &str) -> Result<Self, CapabilityError> {
        match text.parse() {
            Ok(Self::Other(_)) | Err(CapabilityError::BadName(_)) => {
                Err(CapabilityError::Unknown {
                    name: text.chars().take(80).collect(),
                    nearest: nearest(text),
                })
            }
            parsed => parsed,
        }
    }
}

impl FromStr for Capability {
    type Err = CapabilityError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let allowed = |b: u8| {
            b.is_ascii_lowercase()
                || b.is_ascii_digit()
                || matches!(b, b':' | b'.' | b'-' | b'_' | b'/')
        };
        if text.is_empty() || text.len() > MAX_CAPABILITY_BYTES || !text.bytes().all(allowed) {
            return Err(CapabilityError::BadName(text.chars().take(80).collect()));
        }
        if let Some((_, known)) = NAMED.iter().find(|(name, _)| *name == text) {
            return Ok(known.clone());
        }
        if let Some(prefix) = text.strip_prefix("route:") {
            return match prefix.parse::<IpNet>() {
                Ok(net) if net.trunc() == net => Ok(Self::Route(net)),
                _ => Err(CapabilityError::BadRoute(text.to_owned())),
            };
        }
        Ok(Self::Other(OtherCapability(text.to_owned())))
    }
}

impl fmt::Display for Capability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Route(net) => write!(f, "route:{net}"),
            Self::Other(other) => f.write_str(&other.0),
            known => {
                let name = NAMED
                    .iter()
                    .find(|(_, c)| c == known)
                    .map_or("", |(name, _)| name);
                f.write_str(name)
            }
        }
    }
}

impl TryFrom<String> for Capability {
    type Error = CapabilityError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Capability> for String {
    fn from(capability: Capability) -> Self {
        capability.to_string()
    }
}

/// The set of capabilities of one leaf, in a fixed order.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<Capability>", into = "Vec<Capability>")]
pub struct Capabilities(BTreeSet<Capability>);

impl Capabilities {
    /// Collects capabilities into a set.
    ///
    /// # Errors
    /// [`CapabilityError::TooMany`] above 64.
    pub fn new(
        capabilities: impl IntoIterator<Item = Capability>,
    ) -> Result<Self, CapabilityError> {
        let set: BTreeSet<_> = capabilities.into_iter().collect();
        if set.len() > MAX_CAPABILITIES {
            return Err(CapabilityError::TooMany(set.len()));
        }
        Ok(Self(set))
    }

    /// The empty set: a member that may take part and nothing more.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    /// Parses names as they stand in a leaf or a file, unknown ones included.
    ///
    /// # Errors
    /// The first name that is none.
    pub fn parse<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, CapabilityError> {
        let parsed = names
            .into_iter()
            .map(|name| name.as_ref().parse())
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(parsed)
    }

    /// Parses names that are about to be granted, on a command line or through the API.
    ///
    /// # Errors
    /// The first name that is none, or none that this version knows; [`CapabilityError::TooMany`] above 64.
    pub fn parse_known<S: AsRef<str>>(
        names: impl IntoIterator<Item = S>,
    ) -> Result<Self, CapabilityError> {
        let parsed = names
            .into_iter()
            .map(|name| Capability::parse_known(name.as_ref()))
            .collect::<Result<Vec<_>, _>>()?;
        Self::new(parsed)
    }

    /// Whether the set holds exactly this capability. No capability implies another.
    #[must_use]
    pub fn allows(&self, capability: &Capability) -> bool {
        self.0.contains(capability)
    }

    /// The capabilities in their order.
    pub fn iter(&self) -> impl Iterator<Item = &Capability> {
        self.0.iter()
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Capabilities {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, capability) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(", ")?;
            }
            write!(f, "{capability}")?;
        }
        Ok(())
    }
}

impl TryFrom<Vec<Capability>> for Capabilities {
    type Error = CapabilityError;

    fn try_from(list: Vec<Capability>) -> Result<Self, Self::Error> {
        Self::new(list)
    }
}

impl From<Capabilities> for Vec<Capability> {
    fn from(set: Capabilities) -> Self {
        set.0.into_iter().collect()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_every_known_name_when_parsed_and_printed_then_it_is_the_same_and_known() {
        for (name, capability) in NAMED {
            assert_eq!(name.parse::<Capability>().unwrap(), capability);
            assert_eq!(capability.to_string(), name);
            assert!(!matches!(capability, Capability::Other(_)));
        }
    }

    #[test]
    fn given_an_unknown_name_when_parsed_then_it_is_kept_and_grants_nothing_known() {
        let set = Capabilities::parse(["quantum", "storage2"]).unwrap();
        assert_eq!(set.to_string(), "quantum, storage2");
        assert!(NAMED.iter().all(|(_, known)| !set.allows(known)));
    }

    #[test]
    fn given_an_unknown_name_when_it_would_be_granted_then_it_is_refused_with_what_was_meant() {
        for (name, nearest) in [
            ("storge", Some("storage")),
            ("Relay", Some("relay")),
            ("bogus", None),
        ] {
            let refused = Capabilities::parse_known(["search", name]);
            let name = name.to_owned();
            assert_eq!(refused, Err(CapabilityError::Unknown { name, nearest }));
        }
        let known = ["acl:write", "route:10.0.0.0/8"];
        assert_eq!(Capabilities::parse_known(known), Capabilities::parse(known));
    }

    #[test]
    fn given_a_route_when_parsed_then_it_is_that_prefix_and_allows_no_other() {
        let set = Capabilities::parse(["route:192.168.4.0/22"]).unwrap();
        assert!(set.allows(&Capability::Route("192.168.4.0/22".parse().unwrap())));
        assert!(!set.allows(&Capability::Route("192.168.0.0/16".parse().unwrap())));
    }

    #[test]
    fn given_malformed_names_when_parsed_then_each_is_refused() {
        for bad in [
            "",
            "Storage",
            "a b",
            "route:",
            "route:192.168.4.1/24",
            "route:x",
            &"a".repeat(65),
        ] {
            assert!(bad.parse::<Capability>().is_err(), "{bad}");
        }
        let many = (0..65).map(|i| format!("c{i}"));
        assert_eq!(Capabilities::parse(many), Err(CapabilityError::TooMany(65)));
    }
}
