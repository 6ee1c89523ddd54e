//! Peers that mDNS names and nobody has met. Anybody on the local network can name as many as it likes, so they have a
//! bound of their own and take no place of peers that are known otherwise.

use std::collections::BTreeMap;
use std::time::Instant;

use libp2p::PeerId;

/// Unmet neighbours that are dialled. A LAN with more members than this is met over those that were.
const MAX_UNMET: usize = 256;

/// What is to be done with a peer that was named.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// It was named before.
    Already,
    /// It is to be dialled.
    New,
    /// It is to be dialled in place of another.
    InsteadOf(PeerId),
}

#[derive(Debug, Clone, Copy)]
struct Neighbour {
    failures: u32,
    since: Instant,
}

/// The list. A peer leaves it when it is met, when it is named no longer, or for another.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    unmet: BTreeMap<PeerId, Neighbour>,
}

impl Neighbours {
    /// A peer was named. In a full list the one that was dialled in vain most often makes room, among equals the one
    /// that was named first.
    pub(crate) fn found(&mut self, peer: PeerId, now: Instant) -> Found {
        if self.unmet.contains_key(&peer) {
            return Found::Already;
        }
        let loser = (self.unmet.len() >= MAX_UNMET)
            .then(|| {
                self.unmet
                    .iter()
                    .min_by_key(|(_, n)| (std::cmp::Reverse(n.failures), n.since))
                    .map(|(peer, _)| *peer)
            })
            .flatten();
        if let Some(loser) = loser {
            self.unmet.remove(&loser);
        }
        let failures = 0;
        self.unmet.insert(
            peer,
            Neighbour {
                failures,
                since: now,
            },
        );
        loser.map_or(Found::New, Found::InsteadOf)
    }

    /// A dial did not lead to it.
    pub(crate) fn failed(&mut self, peer: &PeerId) {
        if let Some(neighbour) = self.unmet.get_mut(peer) {
            neighbour.failures = neighbour.failures.saturating_add(1);
        }
    }

    /// It was met, or is named no longer; `true` if it was on the list.
    pub(crate) fn remove(&mut self, peer: &PeerId) -> bool {
        self.unmet.remove(peer).is_some()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use std::time::Duration;

    use super::*;

    fn full(now: Instant) -> (Neighbours, Vec<PeerId>) {
        let mut neighbours = Neighbours::default();
        let peers: Vec<PeerId> = (0..MAX_UNMET).map(|_| PeerId::random()).collect();
        for (step, peer) in (0..).zip(&peers) {
            let found = neighbours.found(*peer, now + Duration::from_millis(step));
            assert_eq!(found, Found::New);
        }
        (neighbours, peers)
    }

    #[test]
    fn given_a_flood_of_names_when_the_list_is_full_then_it_grows_no_further() {
        let now = Instant::now();
        let (mut neighbours, peers) = full(now);
        let later = now + Duration::from_secs(1);
        for _ in 0..MAX_UNMET {
            let found = neighbours.found(PeerId::random(), later);
            assert!(matches!(found, Found::InsteadOf(loser) if peers.contains(&loser)));
        }
        assert_eq!(neighbours.unmet.len(), MAX_UNMET);
    }

    #[test]
    fn given_a_full_list_when_one_was_dialled_in_vain_then_it_goes_before_older_ones() {
        let now = Instant::now();
        let (mut neighbours, peers) = full(now);
        neighbours.failed(&peers[9]);
        let later = now + Duration::from_secs(1);
        let [first, second] = [(); 2].map(|()| PeerId::random());
        assert_eq!(neighbours.found(first, later), Found::InsteadOf(peers[9]));
        assert_eq!(neighbours.found(second, later), Found::InsteadOf(peers[0]));
    }

    #[test]
    fn given_a_neighbour_that_was_met_when_another_is_named_then_nobody_loses_its_place() {
        let now = Instant::now();
        let (mut neighbours, peers) = full(now);
        assert!(neighbours.remove(&peers[3]));
        assert!(!neighbours.remove(&peers[3]));
        assert_eq!(neighbours.found(PeerId::random(), now), Found::New);
        assert_eq!(neighbours.found(peers[4], now), Found::Already);
    }
}
