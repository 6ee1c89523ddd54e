//! Which links there are, which one to send on, and which one goes when there are too many.
//!
//! A link over QUIC shows by acknowledgements that it works. When it stays *silent* for [`SILENCE`] although something
//! was sent, what is sent goes over TCP too, and QUIC goes on being tried: whichever answers is preferred from then on.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use warren_identity::PeerId;

/// Longer than a round trip across the world; shorter than a suspicion.
pub(crate) const SILENCE: Duration = Duration::from_millis(400);
/// A QUIC link that was silent for so long is closed.
pub(crate) const DEAD: Duration = Duration::from_secs(5);
/// Links with one peer: both sides may have dialled, over both paths.
const MOST_PER_PEER: usize = 4;

/// A link's name in this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LinkId(pub(crate) u64);

/// What a link runs over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Path {
    /// UDP.
    Quic,
    /// TCP with TLS.
    Tcp,
}

impl Path {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Quic => "quic",
            Self::Tcp => "tcp",
        }
    }
}

/// What else would help to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wish {
    /// Nothing.
    Nothing,
    /// A link over QUIC: TCP works.
    Quic,
    /// Any link.
    Any,
}

/// How to reach a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Route {
    /// Send on these.
    pub(crate) over: [Option<LinkId>; 2],
    /// And dial.
    pub(crate) wish: Wish,
}

#[derive(Debug)]
struct Entry {
    peer: PeerId,
    path: Path,
    used: Instant,
    heard: Instant,
    /// What the shell counted as received when it last looked.
    received: u64,
    /// Since when something that was sent has gone without any sign of the other side.
    silent_since: Option<Instant>,
}

/// All links.
#[derive(Debug)]
pub(crate) struct Links {
    entries: BTreeMap<LinkId, Entry>,
    peers: BTreeMap<PeerId, Vec<LinkId>>,
    most: usize,
}

impl Links {
    /// At most `most` links.
    pub(crate) fn new(most: usize) -> Self {
        Self {
            entries: BTreeMap::new(),
            peers: BTreeMap::new(),
            most: most.max(1),
        }
    }

    /// Takes a link in, and gives the one that has to go for it: the peer's own least recently heard one, or the least
    /// recently used one of all.
    pub(crate) fn insert(
        &mut self,
        id: LinkId,
        peer: PeerId,
        path: Path,
        now: Instant,
    ) -> Option<LinkId> {
        let own = self.peers.get(&peer).map(Vec::as_slice).unwrap_or_default();
        let loser = if own.len() >= MOST_PER_PEER {
            own.iter()
                .copied()
                .min_by_key(|id| self.entries.get(id).map(|entry| entry.heard))
        } else if self.entries.len() >= self.most {
            let oldest = self.entries.iter().min_by_key(|(_, entry)| entry.used);
            oldest.map(|(id, _)| *id)
        } else {
            None
        };
        if let Some(loser) = loser {
            self.remove(loser);
        }
        let entry = Entry {
            peer,
            path,
            used: now,
            heard: now,
            received: 0,
            silent_since: None,
        };
        self.entries.insert(id, entry);
        self.peers.entry(peer).or_default().push(id);
        loser
    }

    /// Lets a link go.
    pub(crate) fn remove(&mut self, id: LinkId) {
        let Some(entry) = self.entries.remove(&id) else {
            return;
        };
        if let Some(links) = self.peers.get_mut(&entry.peer) {
            links.retain(|link| *link != id);
            if links.is_empty() {
                self.peers.remove(&entry.peer);
            }
        }
    }

    /// The links with a peer.
    pub(crate) fn of(&self, peer: &PeerId) -> &[LinkId] {
        self.peers.get(peer).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whoever there is a link with, in order.
    pub(crate) fn peers(&self) -> impl ExactSizeIterator<Item = &PeerId> {
        self.peers.keys()
    }

    /// Links over one path.
    pub(crate) fn count(&self, path: Path) -> usize {
        self.entries
            .values()
            .filter(|entry| entry.path == path)
            .count()
    }

    /// Something was sent.
    pub(crate) fn sent(&mut self, id: LinkId, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id) {
            entry.used = now;
            entry.silent_since.get_or_insert(now);
        }
    }

    /// What the shell has counted as received on a link: anything more than before is a sign of life.
    pub(crate) fn observe(&mut self, id: LinkId, received: u64, now: Instant) {
        if let Some(entry) = self.entries.get_mut(&id)
            && entry.received != received
        {
            entry.received = received;
            entry.heard = now;
            entry.used = now;
            entry.silent_since = None;
        }
    }

    /// How to reach a peer; its links have been observed just now.
    pub(crate) fn route(&self, peer: &PeerId, now: Instant) -> Route {
        let best = |path: Path| {
            let links = self.of(peer).iter().copied();
            links
                .filter_map(|id| Some((id, self.entries.get(&id)?)))
                .filter(|(_, entry)| entry.path == path)
                .max_by_key(|(id, entry)| (!is_silent(entry, now), entry.heard, *id))
        };
        let tcp = best(Path::Tcp).map(|(id, _)| id);
        match best(Path::Quic) {
            Some((quic, entry)) if !is_silent(entry, now) => Route {
                over: [Some(quic), None],
                wish: Wish::Nothing,
            },
            Some((quic, _)) => Route {
                over: [Some(quic), tcp],
                wish: if tcp.is_some() {
                    Wish::Nothing
                } else {
                    Wish::Any
                },
            },
            None => Route {
                over: [tcp, None],
                wish: if tcp.is_some() { Wish::Quic } else { Wish::Any },
            },
        }
    }

    /// QUIC links that have been silent for too long.
    pub(crate) fn dead(&self, now: Instant) -> Vec<LinkId> {
        let is_dead = |entry: &Entry| silence(entry, now) >= DEAD;
        self.entries
            .iter()
            .filter(|(_, entry)| is_dead(entry))
            .map(|(id, _)| *id)
            .collect()
    }
}

fn silence(entry: &Entry, now: Instant) -> Duration {
    // TCP's acknowledgements do not show here; the kernel ends a connection whose data is not acknowledged.
    let since = entry.silent_since.filter(|_| entry.path == Path::Quic);
    since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
}

fn is_silent(entry: &Entry, now: Instant) -> bool {
    silence(entry, now) >= SILENCE
}

#[cfg(test)]
mod tests {
    use super::*;
    use warren_identity::NodeKey;

    const QUIC: LinkId = LinkId(1);
    const TCP: LinkId = LinkId(2);

    fn peer(number: u8) -> PeerId {
        NodeKey::from_seed([number; 32]).peer_id()
    }

    fn over(links: &Links, now: Instant) -> (Vec<LinkId>, Wish) {
        let route = links.route(&peer(1), now);
        (route.over.into_iter().flatten().collect(), route.wish)
    }

    #[test]
    fn given_no_link_when_routed_then_any_is_wished_for() {
        let (links, now) = (Links::new(8), Instant::now());

        assert_eq!(over(&links, now), (vec![], Wish::Any));
    }

    #[test]
    fn given_both_paths_when_quic_answers_then_only_quic_is_used() {
        let (mut links, now) = (Links::new(8), Instant::now());
        links.insert(QUIC, peer(1), Path::Quic, now);
        links.insert(TCP, peer(1), Path::Tcp, now);
        links.sent(QUIC, now);

        assert_eq!(over(&links, now + SILENCE / 2), (vec![QUIC], Wish::Nothing));
    }

    #[test]
    fn given_a_silent_quic_link_when_routed_then_tcp_is_used_beside_it_until_quic_is_heard() {
        let (mut links, now) = (Links::new(8), Instant::now());
        links.insert(QUIC, peer(1), Path::Quic, now);
        links.sent(QUIC, now);
        let later = now + SILENCE;
        assert_eq!(over(&links, later), (vec![QUIC], Wish::Any));

        links.insert(TCP, peer(1), Path::Tcp, later);
        assert_eq!(over(&links, later), (vec![QUIC, TCP], Wish::Nothing));

        links.observe(QUIC, 1, later);
        assert_eq!(over(&links, later + SILENCE), (vec![QUIC], Wish::Nothing));
    }

    #[test]
    fn given_tcp_only_when_routed_then_quic_is_wished_for() {
        let (mut links, now) = (Links::new(8), Instant::now());
        links.insert(TCP, peer(1), Path::Tcp, now);
        links.sent(TCP, now);

        let much_later = now + DEAD * 2;
        assert_eq!(over(&links, much_later), (vec![TCP], Wish::Quic));
        assert!(links.dead(much_later).is_empty());
    }

    #[test]
    fn given_a_restarted_peer_when_its_new_link_is_heard_then_the_old_one_is_not_used() {
        let (mut links, now) = (Links::new(8), Instant::now());
        links.insert(QUIC, peer(1), Path::Quic, now);
        let later = now + Duration::from_secs(1);
        links.insert(LinkId(7), peer(1), Path::Quic, later);

        assert_eq!(over(&links, later), (vec![LinkId(7)], Wish::Nothing));
    }

    #[test]
    fn given_a_quic_link_silent_for_long_when_asked_then_it_is_dead() {
        let (mut links, now) = (Links::new(8), Instant::now());
        links.insert(QUIC, peer(1), Path::Quic, now);
        assert!(
            links.dead(now + DEAD).is_empty(),
            "an idle link is not dead"
        );
        links.sent(QUIC, now);

        assert_eq!(links.dead(now + DEAD), vec![QUIC]);
    }

    #[test]
    fn given_as_many_links_as_there_may_be_when_one_more_comes_then_the_least_recently_used_goes() {
        let (mut links, now) = (Links::new(2), Instant::now());
        links.insert(LinkId(1), peer(1), Path::Quic, now);
        links.insert(LinkId(2), peer(2), Path::Quic, now);
        links.sent(LinkId(1), now + Duration::from_secs(1));

        let loser = links.insert(LinkId(3), peer(3), Path::Quic, now + Duration::from_secs(2));

        assert_eq!(loser, Some(LinkId(2)));
        assert!(links.of(&peer(2)).is_empty());
    }

    #[test]
    fn given_one_peer_that_opens_many_links_when_counted_then_it_has_its_four() {
        let (mut links, now) = (Links::new(100), Instant::now());
        for number in 0..50 {
            links.insert(LinkId(number), peer(1), Path::Quic, now);
        }

        assert_eq!(links.of(&peer(1)).len(), 4);
    }
}
