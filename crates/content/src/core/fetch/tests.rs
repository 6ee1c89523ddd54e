#![allow(clippy::unwrap_used, clippy::expect_used)]

use super::*;
use crate::core::id::ChunkId;

type Planner = FetchPlanner<&'static str>;

const MIB: u32 = 1024 * 1024;

fn block(byte: u8) -> BlockId {
    BlockId::Chunk(ChunkId::from_hash([byte; 32]))
}

fn planner(now: Instant) -> Planner {
    FetchPlanner::new(FetchLimits::default(), now)
}

fn transmits(planner: &mut Planner, now: Instant) -> Vec<(&'static str, u64)> {
    std::iter::from_fn(|| planner.poll_transmit(now))
        .map(|t| (t.peer, t.ticket.0))
        .collect()
}

fn events(planner: &mut Planner) -> Vec<Event<&'static str>> {
    std::iter::from_fn(|| planner.poll_event()).collect()
}

/// The planner has no clock: any instant will do.
fn start() -> Instant {
    Instant::now()
}

#[test]
fn given_no_provider_when_a_block_is_wanted_then_providers_are_asked_for_once() {
    let now = start();
    let mut planner = planner(now);
    planner.want(Ticket(0), block(0), MIB, now);
    planner.want(Ticket(1), block(1), MIB, now);
    assert_eq!(events(&mut planner), [Event::NeedProviders]);
    assert_eq!(transmits(&mut planner, now), []);
}

#[test]
fn given_two_providers_when_blocks_are_wanted_then_both_are_asked_in_order() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.handle_provider("b", now);
    for ticket in 0..4 {
        planner.want(Ticket(ticket), block(ticket as u8), MIB, now);
    }
    assert_eq!(
        transmits(&mut planner, now),
        [("a", 0), ("b", 1), ("a", 2), ("b", 3)]
    );
}

#[test]
fn given_a_full_window_when_the_reader_takes_a_block_then_one_more_is_asked_for() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.handle_provider("b", now);
    for ticket in 0..40 {
        planner.want(Ticket(ticket), block(ticket as u8), MIB, now);
    }
    assert_eq!(transmits(&mut planner, now).len(), 16);
    assert_eq!(
        planner.handle_block(&"a", Ticket(0), MIB, now),
        Verdict::Accepted
    );
    assert_eq!(
        transmits(&mut planner, now),
        [],
        "a verified block still fills the window"
    );
    planner.release(Ticket(0), now);
    assert_eq!(transmits(&mut planner, now), [("a", 16)]);
}

#[test]
fn given_a_wrong_block_when_reported_then_its_sender_is_dropped_and_the_block_asked_elsewhere() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.handle_provider("b", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    planner.handle_wrong_block(&"a", Ticket(0), now);
    let reason = DropReason::WrongBlock { block: block(0) };
    assert_eq!(events(&mut planner), [Event::Dropped { peer: "a", reason }]);
    assert_eq!(transmits(&mut planner, now), [("b", 0)]);
    assert!(!planner.handle_provider("a", now), "a liar was taken back");
}

#[test]
fn given_a_provider_that_lacks_a_block_when_another_has_it_then_the_other_is_asked() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.handle_provider("b", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    planner.handle_not_found(&"a", Ticket(0), now);
    assert_eq!(transmits(&mut planner, now), [("b", 0)]);
}

#[test]
fn given_a_silent_provider_when_it_stalls_then_it_is_dropped_and_its_blocks_asked_elsewhere() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    let (at, reason) = planner.poll_timeout().unwrap();
    assert_eq!(
        (at, reason),
        (now + Duration::from_secs(10), TimeoutReason::Stall)
    );
    planner.handle_timeout(at);
    assert_eq!(
        events(&mut planner),
        [
            Event::Dropped {
                peer: "a",
                reason: DropReason::Stalled
            },
            Event::NeedProviders
        ]
    );
    planner.handle_provider("b", at);
    assert_eq!(transmits(&mut planner, at), [("b", 0)]);
}

#[test]
fn given_progress_when_the_stall_time_passes_then_the_provider_is_kept() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now).len(), 1);
    planner.handle_progress(&"a", now + Duration::from_secs(9));
    planner.handle_timeout(now + Duration::from_secs(11));
    assert_eq!(events(&mut planner), []);
}

#[test]
fn given_an_overdue_head_when_another_provider_is_free_then_it_is_asked_too_and_the_first_answer_counts()
 {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    planner.handle_provider("b", now);
    let (at, reason) = planner.poll_timeout().unwrap();
    assert_eq!(reason, TimeoutReason::Hedge);
    planner.handle_timeout(at);
    assert_eq!(transmits(&mut planner, at), [("b", 0)]);
    assert_eq!(
        planner.handle_block(&"b", Ticket(0), MIB, at),
        Verdict::Accepted
    );
    assert_eq!(
        planner.handle_block(&"a", Ticket(0), MIB, at),
        Verdict::Duplicate
    );
    planner.release(Ticket(0), at);
    assert_eq!(planner.outstanding_bytes(), 0);
}

#[test]
fn given_a_busy_provider_when_its_pause_is_over_then_it_is_asked_again() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now).len(), 1);
    planner.handle_busy(&"a", Ticket(0), Duration::from_millis(200), now);
    assert_eq!(transmits(&mut planner, now), []);
    let (at, reason) = planner.poll_timeout().unwrap();
    assert_eq!(
        (at, reason),
        (now + Duration::from_millis(200), TimeoutReason::Backoff)
    );
    planner.handle_timeout(at);
    assert_eq!(transmits(&mut planner, at), [("a", 0)]);
}

#[test]
fn given_nobody_with_the_block_when_searches_are_used_up_then_the_failure_names_what_was_tried() {
    let mut now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    planner.handle_not_found(&"a", Ticket(0), now);
    let mut searches = 0;
    let failure = loop {
        match planner.poll_event() {
            Some(Event::NeedProviders) => {
                searches += 1;
                planner.handle_search_finished(now);
            }
            Some(Event::Failed(failure)) => break failure,
            Some(other) => panic!("unexpected {other:?}"),
            None => {
                now = planner.poll_timeout().expect("it waits for something").0;
                planner.handle_timeout(now);
            }
        }
    };
    assert_eq!(searches, 3);
    assert_eq!(
        failure,
        FetchFailure {
            block: block(0),
            tried: vec![("a", Failure::NotFound)]
        }
    );
    assert!(
        failure
            .to_string()
            .ends_with("could not be had: a does not hold it"),
        "{failure}"
    );
}

#[test]
fn given_a_lost_provider_when_it_comes_back_then_it_is_used_again_a_bounded_number_of_times() {
    let now = start();
    let mut planner = planner(now);
    for ticket in 0..3 {
        assert!(planner.handle_provider("a", now));
        planner.want(Ticket(ticket), block(ticket as u8), MIB, now);
        planner.handle_disconnected(&"a", now);
    }
    assert!(!planner.handle_provider("a", now));
}

#[test]
fn given_a_provider_that_delivers_between_disconnects_when_it_comes_back_then_it_is_always_used() {
    let now = start();
    let mut planner = planner(now);
    for ticket in 0..20 {
        assert!(
            planner.handle_provider("a", now),
            "refused before ticket {ticket}"
        );
        planner.want(Ticket(ticket), block(ticket as u8), MIB, now);
        assert_eq!(transmits(&mut planner, now), [("a", ticket)]);
        planner.handle_block(&"a", Ticket(ticket), MIB, now);
        planner.release(Ticket(ticket), now);
        planner.handle_disconnected(&"a", now);
    }
}

#[test]
fn given_a_block_fetched_elsewhere_when_that_is_given_up_then_it_is_asked_for_here() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
    planner.handle_elsewhere(&"a", Ticket(0), now);
    assert_eq!(planner.outstanding_bytes(), 0);
    assert_eq!(transmits(&mut planner, now), []);
    planner.handle_elsewhere_abandoned(Ticket(0), now);
    assert_eq!(transmits(&mut planner, now), [("a", 0)]);
}

#[test]
fn given_arrived_answers_when_their_provider_disconnects_then_they_still_count() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    planner.want(Ticket(0), block(0), MIB, now);
    assert_eq!(transmits(&mut planner, now).len(), 1);
    planner.handle_arrived(&"a", Ticket(0), MIB, now);
    planner.handle_disconnected(&"a", now);
    assert_eq!(
        planner.handle_block(&"a", Ticket(0), MIB, now),
        Verdict::Accepted
    );
}

#[test]
fn given_a_slow_reader_when_much_time_passes_then_the_retrieval_does_not_fail() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    for ticket in 0..40 {
        planner.want(Ticket(ticket), block(ticket as u8), MIB, now);
    }
    for (peer, ticket) in transmits(&mut planner, now) {
        planner.handle_block(&peer, Ticket(ticket), MIB, now);
    }
    planner.handle_timeout(now + Duration::from_secs(3600));
    assert_eq!(events(&mut planner), []);
}

#[test]
fn given_small_blocks_when_asked_for_then_only_the_head_may_be_answered_with_more_than_its_size() {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    for ticket in 0..3 {
        planner.want(Ticket(ticket), block(ticket as u8), 1000, now);
    }
    let limits: Vec<u32> = std::iter::from_fn(|| planner.poll_transmit(now))
        .map(|transmit| transmit.max_bytes)
        .collect();
    assert_eq!(limits, [MAX_BLOCK_BYTES, 1000, 1000]);
}

#[test]
fn given_oversized_answers_when_asked_again_then_the_largest_size_counts_in_the_window_and_nobody_is_dropped()
 {
    let now = start();
    let mut planner = planner(now);
    planner.handle_provider("a", now);
    for ticket in 0..100 {
        planner.want(Ticket(ticket), block(ticket as u8), 1, now);
    }
    let asked = transmits(&mut planner, now);
    assert_eq!(asked.len(), 100);
    for (peer, ticket) in &asked[1..] {
        planner.handle_oversized(peer, Ticket(*ticket), now);
    }
    let again: Vec<_> = std::iter::from_fn(|| planner.poll_transmit(now)).collect();
    assert!(
        again.len() <= 4,
        "{} blocks of 4 MiB asked for at once",
        again.len()
    );
    assert!(
        again
            .iter()
            .all(|transmit| transmit.max_bytes == MAX_BLOCK_BYTES)
    );
    assert!(planner.outstanding_bytes() <= FetchLimits::default().window_bytes);
    assert_eq!(events(&mut planner), []);
}
