//! What a verified token says of its bearer (RFC 7519, section 4), and whether it is good at a moment.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use serde_json::{Map, Value};

/// Why a token's claims do not serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ClaimsError {
    /// A time that is missing or no number.
    #[error("the token's `{0}` is missing or no time in seconds since 1970")]
    BadTime(&'static str),
    /// Its time is over.
    #[error("the token has expired; get a new one")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet; are the clocks right?")]
    NotYetValid,
}

/// The claims of a token whose signature was verified.
#[derive(Clone, PartialEq)]
pub struct Claims {
    all: Map<String, Value>,
    permissions: BTreeSet<String>,
    expires_at_s: f64,
    not_before_s: Option<f64>,
}

impl fmt::Debug for Claims {
    /// Who and until when; other claims may be personal.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Claims")
            .field("sub", &self.subject())
            .field("exp", &self.expires_at_s)
            .finish_non_exhaustive()
    }
}

impl Claims {
    /// Reads claims. Permissions are the strings of the array `permissions` and the words of `scope` (RFC 8693,
    /// section 4.2).
    ///
    /// # Errors
    /// [`ClaimsError::BadTime`]: `exp` must be there, `nbf` may be.
    pub fn new(all: Map<String, Value>) -> Result<Self, ClaimsError> {
        let expires_at_s = time(&all, "exp")?.ok_or(ClaimsError::BadTime("exp"))?;
        let not_before_s = time(&all, "nbf")?;
        let listed = all.get("permissions").and_then(Value::as_array);
        let scope = all.get("scope").and_then(Value::as_str).unwrap_or_default();
        let permissions = listed
            .into_iter()
            .flatten()
            .filter_map(Value::as_str)
            .chain(scope.split_ascii_whitespace())
            .map(str::to_owned)
            .collect();
        Ok(Self {
            all,
            permissions,
            expires_at_s,
            not_before_s,
        })
    }

    /// Whether they are in force `now` (time since 1970), give or take `leeway` for clocks that differ.
    ///
    /// # Errors
    /// [`ClaimsError::Expired`], [`ClaimsError::NotYetValid`].
    pub fn check(&self, now: Duration, leeway: Duration) -> Result<(), ClaimsError> {
        let (now, leeway) = (now.as_secs_f64(), leeway.as_secs_f64());
        if now >= self.expires_at_s + leeway {
            return Err(ClaimsError::Expired);
        }
        if self.not_before_s.is_some_and(|from| now + leeway < from) {
            return Err(ClaimsError::NotYetValid);
        }
        Ok(())
    }

    /// Whom the token is about: `sub`.
    #[must_use]
    pub fn subject(&self) -> Option<&str> {
        self.get("sub").and_then(Value::as_str)
    }

    /// Whether `permission` is among those granted, letter by letter.
    #[must_use]
    pub fn has_permission(&self, permission: &str) -> bool {
        self.permissions.contains(permission)
    }

    /// Any claim, as it stands in the token.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.all.get(name)
    }
}

/// A `NumericDate`, which may have a fraction.
fn time(all: &Map<String, Value>, name: &'static str) -> Result<Option<f64>, ClaimsError> {
    all.get(name)
        .map(|value| {
            value
                .as_f64()
                .filter(|seconds| *seconds >= 0.0)
                .ok_or(ClaimsError::BadTime(name))
        })
        .transpose()
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn claims(json: &str) -> Result<Claims, ClaimsError> {
        Claims::new(serde_json::from_str(json).unwrap())
    }

    fn at(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn given_times_when_checked_around_them_then_the_leeway_counts_on_both_sides() {
        let claims = claims(r#"{"exp": 1000, "nbf": 500.5}"#).unwrap();
        let leeway = at(10);
        assert_eq!(claims.check(at(490), leeway), Err(ClaimsError::NotYetValid));
        assert_eq!(claims.check(at(491), leeway), Ok(()));
        assert_eq!(claims.check(at(1009), leeway), Ok(()));
        assert_eq!(claims.check(at(1010), leeway), Err(ClaimsError::Expired));
    }

    #[test]
    fn given_no_end_or_one_that_is_no_number_then_there_are_no_claims() {
        for json in [
            "{}",
            r#"{"exp": "1000"}"#,
            r#"{"exp": -1}"#,
            r#"{"exp": null}"#,
        ] {
            assert_eq!(claims(json), Err(ClaimsError::BadTime("exp")), "{json}");
        }
        let nbf = claims(r#"{"exp": 1, "nbf": []}"#);
        assert_eq!(nbf, Err(ClaimsError::BadTime("nbf")));
    }

    #[test]
    fn given_permissions_in_either_form_then_only_whole_names_count() {
        let claims =
            claims(r#"{"exp": 1, "permissions": ["compute:execute", 7], "scope": "a b:c"}"#)
                .unwrap();
        for held in ["compute:execute", "a", "b:c"] {
            assert!(claims.has_permission(held), "{held}");
        }
        for not_held in ["compute", "compute:execute ", "b", "7", ""] {
            assert!(!claims.has_permission(not_held), "{not_held}");
        }
    }
}
