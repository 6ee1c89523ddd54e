//! Organisation ids, which are SPIFFE trust domain names at the same time.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The id of an organisation, e.g. `org_acme_corp`: 1 to 64 characters of `a-z 0-9 . - _` (the SPIFFE trust domain
/// alphabet; 64 because it is also the subject's O attribute, RFC 5280 appendix A).
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct OrganizationId(String);

/// Why a text is no organisation id.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error(
    "`{0}` is no organisation id: use 1 to 64 characters of a-z, 0-9, `.`, `-`, `_`, e.g. org_acme_corp"
)]
pub struct OrganizationError(String);

impl OrganizationId {
    /// Checks and wraps an id.
    ///
    /// # Errors
    /// When it is empty, too long or holds another character.
    pub fn new(id: impl Into<String>) -> Result<Self, OrganizationError> {
        let id = id.into();
        let allowed =
            |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
        if id.is_empty() || id.len() > 64 || !id.bytes().all(allowed) {
            return Err(OrganizationError(id.chars().take(80).collect()));
        }
        Ok(Self(id))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The SPIFFE id of the organisation itself, `spiffe://<id>`; a Warren CA carries it as a URI SAN.
    #[must_use]
    pub fn trust_domain_uri(&self) -> String {
        format!("spiffe://{}", self.0)
    }
}

impl fmt::Display for OrganizationId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for OrganizationId {
    type Err = OrganizationError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::new(text)
    }
}

impl TryFrom<String> for OrganizationId {
    type Error = OrganizationError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        Self::new(text)
    }
}

impl From<OrganizationId> for String {
    fn from(id: OrganizationId) -> Self {
        id.0
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_texts_when_parsed_then_only_trust_domain_names_pass() {
        for good in ["org_acme_corp", "a", "acme.example", "x-1", &"a".repeat(64)] {
            assert_eq!(OrganizationId::new(good).unwrap().as_str(), good);
        }
        for bad in ["", "ACME", "a b", "a/b", "ä", "a:b", &"a".repeat(65)] {
            assert!(OrganizationId::new(bad).is_err(), "{bad}");
        }
    }
}
