//! Wall-clock time as records and registries store it.

use std::time::{Duration, SystemTime};

use rustls_pki_types::UnixTime;
use serde::{Deserialize, Serialize};

use crate::verify::shown;

/// The last second that RFC 3339 can write.
const LAST_SECOND: u64 = 253_402_300_799;

/// Milliseconds since the Unix epoch. The moment is `UnixMillis::from(SystemTime::now())`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct UnixMillis(pub u64);

impl UnixMillis {
    /// From whole seconds, saturating.
    #[must_use]
    pub fn from_secs(secs: u64) -> Self {
        Self(secs.saturating_mul(1_000))
    }

    /// Whole seconds, rounded down.
    #[must_use]
    pub fn as_secs(self) -> u64 {
        self.0 / 1_000
    }

    /// This time plus `span`, saturating.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(millis(span)))
    }

    /// This time less `span`, never before the epoch.
    #[must_use]
    pub fn minus(self, span: Duration) -> Self {
        Self(self.0.saturating_sub(millis(span)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    #[must_use]
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_millis(self.0.saturating_sub(earlier.0))
    }

    /// For a column that is signed, as PostgreSQL's `bigint` is; saturating.
    #[must_use]
    pub fn to_i64(self) -> i64 {
        i64::try_from(self.0).unwrap_or(i64::MAX)
    }

    /// From a signed column; a negative value reads as the epoch.
    #[must_use]
    pub fn from_i64(value: i64) -> Self {
        Self(u64::try_from(value).unwrap_or(0))
    }

    /// RFC 3339 in UTC, to the second: `2025-12-03T10:00:00Z`.
    #[must_use]
    pub fn rfc3339(self) -> String {
        let seconds = self.as_secs().min(LAST_SECOND);
        shown(UnixTime::since_unix_epoch(Duration::from_secs(seconds)))
    }
}

/// A clock before 1970 reads as the epoch.
impl From<SystemTime> for UnixMillis {
    fn from(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH);
        Self(millis(since.unwrap_or_default()))
    }
}

fn millis(span: Duration) -> u64 {
    u64::try_from(span.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn a_time_reads_as_rfc_3339_in_utc() {
        assert_eq!(
            UnixMillis::from_secs(1_764_756_000).rfc3339(),
            "2025-12-03T10:00:00Z"
        );
        assert_eq!(UnixMillis(u64::MAX).rfc3339(), "9999-12-31T23:59:59Z");
    }

    #[test]
    fn arithmetic_saturates_instead_of_wrapping() {
        assert_eq!(UnixMillis(5).minus(Duration::from_secs(1)), UnixMillis(0));
        assert_eq!(
            UnixMillis(u64::MAX).plus(Duration::from_secs(1)),
            UnixMillis(u64::MAX)
        );
    }

    #[test]
    fn a_clock_reads_as_milliseconds_and_one_before_1970_as_the_epoch() {
        let after = SystemTime::UNIX_EPOCH + Duration::from_micros(1_500);
        assert_eq!(UnixMillis::from(after), UnixMillis(1));
        let before = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        assert_eq!(UnixMillis::from(before), UnixMillis(0));
    }
}
