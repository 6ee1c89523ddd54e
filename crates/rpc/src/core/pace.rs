//! Whether a handler is polled where its call was read, or gets a task at once.
//!
//! Most handlers are ready at their first poll, and polling them on the spot spares a task. One that computes would hold
//! up the calls behind it, so a method whose polls take long gets tasks. A single long poll says nothing: any thread may
//! lose its processor in the middle of a short one.

use std::time::Duration;

/// A poll that took longer than this computes instead of waiting.
const LONG_POLL: Duration = Duration::from_micros(200);
/// So many long polls in a row are no accident.
const IN_A_ROW: u8 = 3;
/// One call in so many is polled on the spot all the same, to see whether the method has become quick.
const TRIED_AGAIN: u16 = 64;

/// What is known of one method's handlers.
#[derive(Clone, Copy, Debug, Default)]
pub struct Pace {
    long_in_a_row: u8,
    in_tasks: u16,
}

impl Pace {
    /// Whether the next handler is polled on the spot.
    pub fn polls_on_the_spot(&mut self) -> bool {
        if self.long_in_a_row < IN_A_ROW {
            return true;
        }
        self.in_tasks = (self.in_tasks + 1) % TRIED_AGAIN;
        self.in_tasks == 0
    }

    /// Tells how long a poll on the spot took.
    pub fn polled(&mut self, took: Duration) {
        self.long_in_a_row = if took > LONG_POLL {
            (self.long_in_a_row + 1).min(IN_A_ROW)
        } else {
            0
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_micros(1);
    const LONG: Duration = Duration::from_millis(1);

    #[test]
    fn given_a_long_poll_now_and_then_when_the_others_are_short_then_all_stay_on_the_spot() {
        let mut pace = Pace::default();
        for call in 0..1000 {
            assert!(pace.polls_on_the_spot(), "call {call}");
            pace.polled(if call % 3 == 0 { SHORT } else { LONG });
        }
    }

    #[test]
    fn given_long_polls_only_then_nearly_all_calls_get_tasks() {
        let mut pace = Pace::default();
        let mut on_the_spot = 0;
        for _ in 0..640 {
            if pace.polls_on_the_spot() {
                on_the_spot += 1;
                pace.polled(LONG);
            }
        }
        assert!((3..=13).contains(&on_the_spot), "{on_the_spot}");
    }

    #[test]
    fn given_a_method_that_becomes_quick_then_it_is_polled_on_the_spot_again() {
        let mut pace = Pace::default();
        (0..3).for_each(|_| pace.polled(LONG));
        let tried = (0..64).filter(|_| pace.polls_on_the_spot()).count();
        assert_eq!(tried, 1);
        pace.polled(SHORT);
        assert!((0..10).all(|_| pace.polls_on_the_spot()));
    }
}
