//! How many calls a server takes, and what it tells those that it does not take.
//!
//! Two limits: calls in flight on one connection, so that one client cannot take all, and on the whole server. What is
//! beyond is refused at once with the time after which to try again, estimated from how long calls take.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

/// What a refused caller waits at least: shorter only makes the next refusal come sooner.
const MIN_RETRY_AFTER: Duration = Duration::from_millis(5);
/// What it waits at most.
const MAX_RETRY_AFTER: Duration = Duration::from_secs(1);

/// The limit of the whole server.
#[derive(Debug)]
pub struct Admission {
    limit: usize,
    in_flight: AtomicUsize,
    /// Calls whose handler is done and whose answer is not written yet: a client that does not read takes nobody's place.
    unwritten: AtomicUsize,
    /// Moving average of how long a call takes, in microseconds.
    average_us: AtomicU64,
}

/// A place among the calls in flight, given back when dropped.
#[derive(Debug)]
pub struct Place(Arc<Admission>);

/// A call whose answer is still to be written, counted until dropped.
#[derive(Debug)]
pub struct Unwritten(Arc<Admission>);

impl Admission {
    /// At most `limit` calls at once.
    #[must_use]
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self {
            limit,
            in_flight: AtomicUsize::new(0),
            unwritten: AtomicUsize::new(0),
            average_us: AtomicU64::new(0),
        })
    }

    /// A place for one more call.
    ///
    /// # Errors
    /// When there is none: the time after which to try again.
    pub fn enter(self: &Arc<Self>) -> Result<Place, Duration> {
        let before = self.in_flight.fetch_add(1, Ordering::Relaxed);
        let place = Place(Arc::clone(self));
        if before >= self.limit {
            return Err(self.retry_after());
        }
        Ok(place)
    }

    /// Calls in flight, those included whose answer is still to be written.
    #[must_use]
    pub fn in_flight(&self) -> usize {
        self.in_flight.load(Ordering::Relaxed) + self.unwritten.load(Ordering::Relaxed)
    }

    /// The time after which a place has likely become free.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        let average = Duration::from_micros(self.average_us.load(Ordering::Relaxed));
        average.clamp(MIN_RETRY_AFTER, MAX_RETRY_AFTER)
    }

    /// Tells how long a call that was not ready at once took.
    pub fn took(&self, time: Duration) {
        let sample = u64::try_from(time.as_micros()).unwrap_or(u64::MAX / 16);
        // Lost updates between threads are of no matter to an estimate.
        let average = self.average_us.load(Ordering::Relaxed);
        let next = average - average / 8 + sample / 8;
        self.average_us.store(next, Ordering::Relaxed);
    }
}

impl Place {
    /// Gives the place to others: the handler is done, only its answer is not written yet.
    #[must_use]
    pub fn answered(self) -> Unwritten {
        self.0.unwritten.fetch_add(1, Ordering::Relaxed);
        Unwritten(Arc::clone(&self.0))
    }
}

impl Drop for Unwritten {
    fn drop(&mut self) {
        self.0.unwritten.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    #[test]
    fn given_all_places_taken_when_one_is_given_back_then_the_next_call_enters() {
        let admission = Admission::new(2);
        let first = admission.enter().unwrap();
        let _second = admission.enter().unwrap();
        assert_eq!(admission.enter().map(drop), Err(MIN_RETRY_AFTER));
        drop(first);
        assert!(admission.enter().is_ok());
    }

    #[test]
    fn given_an_answer_to_be_written_then_it_counts_and_takes_no_place() {
        let admission = Admission::new(1);
        let unwritten = admission.enter().unwrap().answered();
        assert_eq!(admission.in_flight(), 1);
        let second = admission.enter().unwrap();
        assert_eq!(admission.in_flight(), 2);
        drop((unwritten, second));
        assert_eq!(admission.in_flight(), 0);
    }

    #[test]
    fn given_calls_that_take_long_then_a_refused_caller_is_told_to_wait_about_as_long() {
        let admission = Admission::new(0);
        for _ in 0..100 {
            admission.took(Duration::from_millis(200));
        }
        let told = admission.enter().map(drop).unwrap_err();
        assert!((150..=200).contains(&told.as_millis()), "{told:?}");
    }
}
