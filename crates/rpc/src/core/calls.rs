//! The calls a client's lane waits for.
//!
//! A call is `Waiting` from [`Calls::begin`] until its answer comes, then `Answered` until its owner takes the answer
//! with [`Calls::poll`]. An owner that goes away first leaves it `Abandoned`: the id stays taken until the server has
//! answered, so that a late answer can never be taken for another call's. Ids count from 0 and are reused.
//!
//! A call may have a deadline. [`Calls::next_deadline`] is a lower bound of all of them: most calls are answered long
//! before, so the table does not keep order among deadlines but looks at every call when the bound is reached.
//! [`Calls::expire`] makes the late ones `Expired`: the owner learns it, and the id stays taken as if abandoned.

use std::task::{Poll, Waker};
use std::time::Instant;

use slab::Slab;

use super::frame::{Body, WireFailure};
use crate::status::Status;

/// How a call was answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// By the handler.
    Reply(Body),
    /// By the handler's error or by the server.
    Failure(WireFailure),
    /// Not at all: the connection ended.
    Lost(Status),
    /// Not in time.
    Expired,
}

#[derive(Debug)]
enum Slot {
    Waiting {
        waker: Option<Waker>,
        deadline: Option<Instant>,
    },
    Expired,
    Answered(Answer),
    Abandoned,
}

/// What becomes of the owner's going away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Abandon {
    /// The server is to be told.
    Cancel,
    /// It had answered already.
    Answered,
}

/// The calls in flight on one lane.
#[derive(Debug, Default)]
pub struct Calls {
    slots: Slab<Slot>,
    /// No call that waits has an earlier deadline.
    next_deadline: Option<Instant>,
}

impl Calls {
    /// Calls whose ids are taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slots.len()
    }

    /// Whether no id is taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.slots.is_empty()
    }

    /// A new call, unless `limit` are in flight.
    pub fn begin(&mut self, limit: usize, deadline: Option<Instant>) -> Option<u32> {
        if self.slots.len() >= limit {
            return None;
        }
        self.next_deadline = earlier(self.next_deadline, deadline);
        let waiting = Slot::Waiting {
            waker: None,
            deadline,
        };
        u32::try_from(self.slots.insert(waiting)).ok()
    }

    /// When [`Calls::expire`] is to be called next.
    #[must_use]
    pub const fn next_deadline(&self) -> Option<Instant> {
        self.next_deadline
    }

    /// Gives up the calls whose deadline is `now` or earlier. The wakers are to be woken.
    pub fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut wakers = Vec::new();
        let mut next = None;
        for (_, slot) in &mut self.slots {
            let Slot::Waiting { waker, deadline } = slot else {
                continue;
            };
            if deadline.is_some_and(|deadline| deadline <= now) {
                wakers.extend(waker.take());
                *slot = Slot::Expired;
            } else {
                next = earlier(next, *deadline);
            }
        }
        self.next_deadline = next;
        wakers
    }

    /// Takes an answer of the server. The waker is to be woken once the lock over this table is given back. An id that
    /// waits for nothing is the server's fault and changes nothing: `false`.
    pub fn answer(&mut self, id: u32, answer: Answer) -> (bool, Option<Waker>) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return (false, None);
        };
        match slot {
            Slot::Waiting { waker, .. } => {
                let waker = waker.take();
                *slot = Slot::Answered(answer);
                (true, waker)
            }
            // The owner has not looked yet: late is better than not at all.
            Slot::Expired => {
                *slot = Slot::Answered(answer);
                (true, None)
            }
            Slot::Abandoned => {
                self.slots.remove(id as usize);
                (true, None)
            }
            Slot::Answered(_) => (false, None),
        }
    }

    /// The answer to a call that its owner waits for; its id is free afterwards.
    pub fn poll(&mut self, id: u32, waker: &Waker) -> Poll<Answer> {
        match self.slots.get_mut(id as usize) {
            Some(Slot::Waiting { waker: known, .. }) => {
                match known {
                    Some(known) => known.clone_from(waker),
                    None => *known = Some(waker.clone()),
                }
                Poll::Pending
            }
            Some(slot @ Slot::Expired) => {
                *slot = Slot::Abandoned;
                Poll::Ready(Answer::Expired)
            }
            Some(Slot::Answered(_)) => match self.slots.remove(id as usize) {
                Slot::Answered(answer) => Poll::Ready(answer),
                // The arm above has looked.
                Slot::Waiting { .. } | Slot::Expired | Slot::Abandoned => Poll::Pending,
            },
            // Owners poll their own live calls only.
            Some(Slot::Abandoned) | None => Poll::Pending,
        }
    }

    /// The owner of a call goes away.
    pub fn abandon(&mut self, id: u32) -> Abandon {
        match self.slots.get_mut(id as usize) {
            Some(slot @ (Slot::Waiting { .. } | Slot::Expired)) => {
                *slot = Slot::Abandoned;
                Abandon::Cancel
            }
            Some(Slot::Answered(_)) => {
                self.slots.remove(id as usize);
                Abandon::Answered
            }
            Some(Slot::Abandoned) | None => Abandon::Answered,
        }
    }

    /// The connection ended: every call is answered with `status`. The wakers are to be woken.
    pub fn lose(&mut self, status: &Status) -> Vec<Waker> {
        let mut wakers = Vec::new();
        self.slots.retain(|_, slot| match slot {
            Slot::Waiting { waker, .. } => {
                wakers.extend(waker.take());
                *slot = Slot::Answered(Answer::Lost(status.clone()));
                true
            }
            Slot::Answered(_) | Slot::Expired => true,
            Slot::Abandoned => false,
        });
        wakers
    }
}

fn earlier(one: Option<Instant>, other: Option<Instant>) -> Option<Instant> {
    match (one, other) {
        (Some(one), Some(other)) => Some(one.min(other)),
        (one, other) => one.or(other),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use bytes::Bytes;

    use super::*;

    fn reply() -> Answer {
        Answer::Reply(Body::plain(Bytes::from_static(b"sum")))
    }

    #[test]
    fn given_an_abandoned_call_then_its_id_is_taken_until_the_server_answers() {
        let mut calls = Calls::default();
        let first = calls.begin(10, None).unwrap();
        assert_eq!(calls.abandon(first), Abandon::Cancel);
        assert_ne!(calls.begin(10, None), Some(first));
        assert!(calls.answer(first, reply()).0);
        assert_eq!(calls.begin(10, None), Some(first));
    }

    #[test]
    fn given_an_answer_when_the_owner_polls_then_it_has_it_once() {
        let mut calls = Calls::default();
        let id = calls.begin(10, None).unwrap();
        let waker = Waker::noop();
        assert!(calls.poll(id, waker).is_pending());
        let (expected, woken) = calls.answer(id, reply());
        assert!(expected && woken.is_some());
        assert_eq!(calls.poll(id, waker), Poll::Ready(reply()));
        assert!(calls.is_empty());
    }

    #[test]
    fn given_a_second_answer_then_it_is_refused_and_the_first_stands() {
        let mut calls = Calls::default();
        let id = calls.begin(10, None).unwrap();
        calls.answer(id, reply());
        let other = Answer::Lost(Status::new(crate::Code::Internal, "second"));
        assert!(!calls.answer(id, other.clone()).0);
        assert!(!calls.answer(77, other).0);
        assert_eq!(calls.poll(id, Waker::noop()), Poll::Ready(reply()));
    }

    #[test]
    fn given_deadlines_when_one_passes_then_its_owner_learns_it_and_the_id_stays_taken() {
        let mut calls = Calls::default();
        let start = Instant::now();
        let [soon, later] = [10, 20].map(|ms| start + std::time::Duration::from_millis(ms));
        let first = calls.begin(10, Some(later)).unwrap();
        let second = calls.begin(10, Some(soon)).unwrap();
        assert_eq!(calls.next_deadline(), Some(soon));
        assert!(calls.poll(second, Waker::noop()).is_pending());
        assert_eq!(calls.expire(soon).len(), 1);
        assert_eq!(
            calls.poll(second, Waker::noop()),
            Poll::Ready(Answer::Expired)
        );
        assert!(calls.poll(first, Waker::noop()).is_pending());
        assert_eq!((calls.len(), calls.next_deadline()), (2, Some(later)));
        assert!(calls.answer(second, reply()).0);
        assert_eq!(calls.len(), 1);
    }

    #[test]
    fn given_the_limit_then_no_call_begins() {
        let mut calls = Calls::default();
        calls.begin(1, None).unwrap();
        assert_eq!(calls.begin(1, None), None);
    }

    #[test]
    fn given_a_lost_connection_then_whoever_waits_learns_it_and_the_abandoned_are_gone() {
        let mut calls = Calls::default();
        let (waiting, abandoned) = (
            calls.begin(10, None).unwrap(),
            calls.begin(10, None).unwrap(),
        );
        calls.abandon(abandoned);
        let lost = Status::new(crate::Code::Unavailable, "gone");
        calls.lose(&lost);
        assert_eq!(
            calls.poll(waiting, Waker::noop()),
            Poll::Ready(Answer::Lost(lost))
        );
        assert!(calls.is_empty());
    }
}
