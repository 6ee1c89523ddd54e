//! News that ride on packets: what was sent least goes first, what was sent often enough is dropped.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};

use crate::config::limits;
use crate::member::Fingerprint;
use crate::wire::Writer;

/// What an item is about: newer news of the same topic replace older ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Topic {
    Statement(Fingerprint),
    Claim(Fingerprint),
}

#[derive(Debug)]
struct Item {
    bytes: Box<[u8]>,
    sendings: u32,
    order: u64,
}

/// How many items a packet looks at before it goes with what it has.
const LOOK_AT: usize = 32;

#[derive(Debug, Default)]
pub(crate) struct Queue {
    items: BTreeMap<Topic, Item>,
    /// Least sent first; of those the newest.
    by_urgency: BTreeSet<(u32, Reverse<u64>, Topic)>,
    next_order: u64,
}

impl Queue {
    pub(crate) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    pub(crate) fn contains(&self, topic: Topic) -> bool {
        self.items.contains_key(&topic)
    }

    /// Adds news. A statement voids the claims about its subject.
    pub(crate) fn push(&mut self, topic: Topic, bytes: Vec<u8>) {
        if let Topic::Statement(subject) = topic {
            self.remove(Topic::Claim(subject));
        }
        self.remove(topic);
        let order = self.next_order;
        self.next_order += 1;
        self.by_urgency.insert((0, Reverse(order), topic));
        self.items.insert(
            topic,
            Item {
                bytes: bytes.into(),
                sendings: 0,
                order,
            },
        );
        if self.items.len() > limits::QUEUE_ITEMS
            && let Some((_, _, loser)) = self.by_urgency.last().copied()
        {
            self.remove(loser);
        }
    }

    pub(crate) fn remove(&mut self, topic: Topic) {
        if let Some(item) = self.items.remove(&topic) {
            self.by_urgency
                .remove(&(item.sendings, Reverse(item.order), topic));
        }
    }

    /// Fills what room a packet has, but for `except`. Returns whether anything was added.
    pub(crate) fn fill(
        &mut self,
        writer: &mut Writer,
        packet_bytes: usize,
        most_sendings: u32,
        except: Option<Topic>,
    ) -> bool {
        let mut sent = Vec::new();
        for (_, _, topic) in self.by_urgency.iter().take(LOOK_AT) {
            let room = packet_bytes.saturating_sub(writer.len());
            if let Some(item) = self.items.get(topic)
                && item.bytes.len() <= room
                && Some(*topic) != except
            {
                writer.bytes(&item.bytes);
                sent.push(*topic);
            }
        }
        for topic in &sent {
            self.count(*topic, most_sendings);
        }
        !sent.is_empty()
    }

    fn count(&mut self, topic: Topic, most_sendings: u32) {
        let Some(item) = self.items.get_mut(&topic) else {
            return;
        };
        self.by_urgency
            .remove(&(item.sendings, Reverse(item.order), topic));
        item.sendings += 1;
        if item.sendings >= most_sendings {
            self.items.remove(&topic);
        } else {
            self.by_urgency
                .insert((item.sendings, Reverse(item.order), topic));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn statement(number: u64) -> Topic {
        Topic::Statement(Fingerprint(number))
    }

    fn filled(queue: &mut Queue, room: usize, most: u32) -> Vec<u8> {
        let mut writer = Writer::with_capacity(room);
        queue.fill(&mut writer, room, most, None);
        writer.finish()
    }

    #[test]
    fn given_news_when_sent_often_enough_then_they_are_dropped() {
        let mut queue = Queue::default();
        queue.push(statement(1), vec![1]);

        assert_eq!(filled(&mut queue, 10, 2), [1]);
        assert_eq!(filled(&mut queue, 10, 2), [1]);

        assert!(queue.is_empty());
    }

    #[test]
    fn given_more_news_than_room_when_sent_then_the_least_sent_goes_first() {
        let mut queue = Queue::default();
        queue.push(statement(1), vec![1; 6]);
        assert_eq!(filled(&mut queue, 10, 9), [1; 6]);
        queue.push(statement(2), vec![2; 6]);

        assert_eq!(filled(&mut queue, 10, 9), [2; 6]);
    }

    #[test]
    fn given_a_newer_statement_when_pushed_then_the_claim_it_voids_is_gone() {
        let mut queue = Queue::default();
        queue.push(Topic::Claim(Fingerprint(1)), vec![7]);

        queue.push(statement(1), vec![1]);

        assert_eq!(filled(&mut queue, 10, 9), [1]);
    }

    #[test]
    fn given_a_full_queue_when_pushed_then_what_was_sent_most_loses() {
        let mut queue = Queue::default();
        queue.push(statement(0), vec![0]);
        filled(&mut queue, 10, 9);

        for number in 1..=limits::QUEUE_ITEMS as u64 {
            queue.push(statement(number), vec![0]);
        }

        assert!(!queue.contains(statement(0)));
        assert!(queue.contains(statement(1)));
    }
}
