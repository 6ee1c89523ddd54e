//! The calls a client's lane waits for.
//!
//! A call is `Waiting` from [`Calls::begin`] until its answer comes, then `Answered` until its owner takes the answer
//! with [`Calls::poll`]. An owner that goes away first leaves it `Abandoned`: the id stays taken until the server has
//! answered, so that a late answer can never be taken for another call's. Ids count from 0 and are reused, the lowest
//! free one first by way of the slab's free list.

use std::task::{Poll, Waker};

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
}

#[derive(Debug)]
enum Slot {
    Waiting(Option<Waker>),
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
    pub fn begin(&mut self, limit: usize) -> Option<u32> {
        if self.slots.len() >= limit {
            return None;
        }
        u32::try_from(self.slots.insert(Slot::Waiting(None))).ok()
    }

    /// Takes an answer of the server. The waker is to be woken once the lock over this table is given back. An id that
    /// waits for nothing is the server's fault and changes nothing: `false`.
    pub fn answer(&mut self, id: u32, answer: Answer) -> (bool, Option<Waker>) {
        let Some(slot) = self.slots.get_mut(id as usize) else {
            return (false, None);
        };
        match slot {
            Slot::Waiting(waker) => {
                let waker = waker.take();
                *slot = Slot::Answered(answer);
                (true, waker)
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
            Some(Slot::Waiting(waiting)) => {
                match waiting {
                    Some(known) => known.clone_from(waker),
                    None => *waiting = Some(waker.clone()),
                }
                Poll::Pending
            }
            Some(Slot::Answered(_)) => match self.slots.remove(id as usize) {
                Slot::Answered(answer) => Poll::Ready(answer),
                // The arm above has looked.
                Slot::Waiting(_) | Slot::Abandoned => Poll::Pending,
            },
            // Owners poll their own live calls only.
            Some(Slot::Abandoned) | None => Poll::Pending,
        }
    }

    /// The owner of a call goes away.
    pub fn abandon(&mut self, id: u32) -> Abandon {
        match self.slots.get_mut(id as usize) {
            Some(slot @ Slot::Waiting(_)) => {
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
            Slot::Waiting(waker) => {
                wakers.extend(waker.take());
                *slot = Slot::Answered(Answer::Lost(status.clone()));
                true
            }
            Slot::Answered(_) => true,
            Slot::Abandoned => false,
        });
        wakers
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
        let first = calls.begin(10).unwrap();
        assert_eq!(calls.abandon(first), Abandon::Cancel);
        assert_ne!(calls.begin(10), Some(first));
        assert!(calls.answer(first, reply()).0);
        assert_eq!(calls.begin(10), Some(first));
    }

    #[test]
    fn given_an_answer_when_the_owner_polls_then_it_has_it_once() {
        let mut calls = Calls::default();
        let id = calls.begin(10).unwrap();
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
        let id = calls.begin(10).unwrap();
        calls.answer(id, reply());
        let other = Answer::Lost(Status::new(crate::Code::Internal, "second"));
        assert!(!calls.answer(id, other.clone()).0);
        assert!(!calls.answer(77, other).0);
        assert_eq!(calls.poll(id, Waker::noop()), Poll::Ready(reply()));
    }

    #[test]
    fn given_the_limit_then_no_call_begins() {
        let mut calls = Calls::default();
        calls.begin(1).unwrap();
        assert_eq!(calls.begin(1), None);
    }

    #[test]
    fn given_a_lost_connection_then_whoever_waits_learns_it_and_the_abandoned_are_gone() {
        let mut calls = Calls::default();
        let (waiting, abandoned) = (calls.begin(10).unwrap(), calls.begin(10).unwrap());
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
