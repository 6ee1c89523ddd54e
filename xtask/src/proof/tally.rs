//! Counting: what passed, failed and was skipped, from libtest's own words.

use std::fmt;
use std::ops::AddAssign;

/// How many items passed, failed, and could not run here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) passed: usize,
    pub(crate) failed: usize,
    pub(crate) skipped: usize,
}

impl Tally {
    /// A step that is one item.
    pub(crate) fn item(passed: bool) -> Self {
        Self {
            passed: usize::from(passed),
            failed: usize::from(!passed),
            skipped: 0,
        }
    }

    /// A step that could not run here.
    pub(crate) fn skipped() -> Self {
        Self {
            skipped: 1,
            ..Self::default()
        }
    }

    /// What one line of a test binary's output adds: only `test result: …` counts.
    pub(crate) fn of_line(line: &str) -> Self {
        let Some(counts) = line.strip_prefix("test result: ") else {
            return Self::default();
        };
        let count = |what: &str| {
            counts
                .split(['.', ';'])
                .find_map(|part| part.trim().strip_suffix(what)?.trim().parse().ok())
                .unwrap_or_default()
        };
        Self {
            passed: count("passed"),
            failed: count("failed"),
            skipped: count("ignored"),
        }
    }

    /// The same with `count` tests, which libtest took for passed, known to have been skipped.
    pub(crate) fn with_skipped(mut self, count: usize) -> Self {
        self.passed = self.passed.saturating_sub(count);
        self.skipped += count;
        self
    }

    /// The same after cargo has ended: when it failed and no test did, something did not build or crashed.
    pub(crate) fn ended(mut self, success: bool) -> Self {
        if !success && self.failed == 0 {
            self.failed = 1;
        }
        self
    }
}

impl AddAssign for Tally {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} passed, {} failed, {} skipped",
            self.passed, self.failed, self.skipped
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_line_is_counted() {
        let line = "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured; 2 filtered out; finished in 0.05s";

        assert_eq!(
            Tally::of_line(line),
            Tally {
                passed: 12,
                failed: 3,
                skipped: 1
            }
        );
    }

    #[test]
    fn any_other_line_counts_nothing() {
        for line in [
            "test a::b ... ok",
            "running 3 tests",
            "it says test result: ok. 5 passed; 0 failed",
        ] {
            assert_eq!(Tally::of_line(line), Tally::default(), "{line}");
        }
    }

    #[test]
    fn a_test_that_skipped_itself_is_not_passed() {
        let tally = Tally {
            passed: 5,
            failed: 0,
            skipped: 1,
        }
        .with_skipped(2);

        assert_eq!(
            tally,
            Tally {
                passed: 3,
                failed: 0,
                skipped: 3
            }
        );
    }

    #[test]
    fn a_build_that_fails_is_a_failure() {
        assert_eq!(
            Tally::default().ended(false),
            Tally {
                passed: 0,
                failed: 1,
                skipped: 0
            }
        );
    }

    #[test]
    fn a_failed_test_is_not_counted_twice() {
        let tally = Tally {
            passed: 1,
            failed: 2,
            skipped: 0,
        };

        assert_eq!(tally.ended(false), tally);
    }

    #[test]
    fn the_totals_read_as_promised() {
        assert_eq!(
            Tally {
                passed: 7,
                failed: 0,
                skipped: 2
            }
            .to_string(),
            "7 passed, 0 failed, 2 skipped"
        );
    }
}
