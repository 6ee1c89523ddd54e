//! Which of two records of one node counts, and which number a node's next record gets.
//!
//! Numbers are times in milliseconds, so that they rise across restarts without a file. A node whose clock was ahead
//! and is right again would not be heard before time has caught up with its old record; so a record from the future
//! gives way to any that is not. While several are, or none, the higher number counts.

use warren_identity::{CLOCK_TOLERANCE, NodeRecord};

/// Whether `new` takes the place of `old` at a node whose clock says `now_unix_ms`.
pub(crate) fn replaces(new: &NodeRecord, old: &NodeRecord, now_unix_ms: u64) -> bool {
    match (
        is_ahead(new.sequence, now_unix_ms),
        is_ahead(old.sequence, now_unix_ms),
    ) {
        (false, true) => new.peer_id == old.peer_id,
        (true, false) => false,
        _ => new.supersedes(old),
    }
}

/// The number of the record after the one with number `previous`. If our clock was ahead and is right again, numbers
/// start again from the time it is.
pub(crate) fn next_sequence(previous: u64, now_unix_ms: u64) -> u64 {
    if is_ahead(previous, now_unix_ms) {
        now_unix_ms
    } else {
        now_unix_ms.max(previous + 1)
    }
}

/// Whether a number is of a time that has not come, tolerance for clocks included.
fn is_ahead(sequence: u64, now_unix_ms: u64) -> bool {
    let tolerance_ms = CLOCK_TOLERANCE.as_secs() * 1_000;
    sequence > now_unix_ms.saturating_add(tolerance_ms)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use warren_identity::{NodeKey, OrganizationId};

    use super::*;

    const NOW_MS: u64 = 1_800_000_000_000;
    const HOUR_MS: u64 = 3_600_000;

    fn record(sequence: u64) -> NodeRecord {
        NodeRecord {
            peer_id: NodeKey::from_seed([1; 32]).peer_id(),
            organization: OrganizationId::new("org_acme").unwrap(),
            name: "node".into(),
            region: None,
            roles: Vec::new(),
            addresses: Vec::new(),
            bulk_addresses: Vec::new(),
            sequence,
            issued_at_unix_s: sequence / 1_000,
        }
    }

    fn replaces_at(now: u64, new: u64, old: u64) -> bool {
        replaces(&record(new), &record(old), now)
    }

    #[test]
    fn given_a_record_of_a_clock_that_was_ahead_when_the_clock_is_right_again_then_the_new_record_counts()
     {
        assert!(replaces_at(NOW_MS, NOW_MS, NOW_MS + HOUR_MS));
        assert!(
            !replaces_at(NOW_MS, NOW_MS + HOUR_MS, NOW_MS),
            "and the old one does not come back"
        );
        assert!(replaces_at(NOW_MS, NOW_MS, u64::MAX));
    }

    #[test]
    fn given_two_records_of_one_kind_when_compared_then_the_higher_number_counts() {
        assert!(replaces_at(NOW_MS, NOW_MS, NOW_MS - 1));
        assert!(!replaces_at(NOW_MS, NOW_MS, NOW_MS));
        let minute = 60_000;
        assert!(
            replaces_at(NOW_MS, NOW_MS + minute, NOW_MS),
            "clocks differ by a minute"
        );
        assert!(
            replaces_at(NOW_MS - 24 * HOUR_MS, NOW_MS, NOW_MS - 1),
            "it is our own clock that is behind"
        );
    }

    #[test]
    fn given_the_next_number_when_chosen_then_it_rises_unless_the_last_was_of_a_wrong_clock() {
        assert_eq!(next_sequence(NOW_MS - 5, NOW_MS), NOW_MS);
        assert_eq!(next_sequence(NOW_MS, NOW_MS), NOW_MS + 1);
        assert_eq!(next_sequence(NOW_MS + 60_000, NOW_MS), NOW_MS + 60_001);
        assert_eq!(next_sequence(NOW_MS + HOUR_MS, NOW_MS), NOW_MS);
    }
}
