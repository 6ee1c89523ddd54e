//! Where peers may be that we have heard of and not met. Nothing of it is proven: a dial and its admission tell.

use std::collections::BTreeMap;

use libp2p::{Multiaddr, PeerId};

/// Peers kept; a longer list is cut off.
const MAX_LEADS: usize = 4_096;

/// Addresses kept of one peer; those named first stay.
const MAX_ADDRESSES: usize = 32;

/// What a new list changed.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changed {
    /// Named for the first time, or elsewhere than before.
    pub(crate) news: Vec<PeerId>,
    /// No longer named.
    pub(crate) gone: Vec<PeerId>,
}

/// Addresses by peer, as somebody said last.
#[derive(Debug, Default)]
pub(crate) struct Leads {
    addresses: BTreeMap<PeerId, Vec<Multiaddr>>,
}

impl Leads {
    /// Takes over a list as a whole.
    pub(crate) fn replace(&mut self, list: Vec<(PeerId, Vec<Multiaddr>)>) -> Changed {
        let mut fresh = BTreeMap::new();
        for (peer, mut addresses) in list.into_iter().take(MAX_LEADS) {
            addresses.truncate(MAX_ADDRESSES);
            fresh.insert(peer, addresses);
        }
        let before = std::mem::replace(&mut self.addresses, fresh);
        let named = self.addresses.iter();
        let news = named.filter(|(peer, addresses)| before.get(*peer) != Some(*addresses));
        let gone = before
            .keys()
            .filter(|peer| !self.addresses.contains_key(peer));
        Changed {
            news: news.map(|(peer, _)| *peer).collect(),
            gone: gone.copied().collect(),
        }
    }

    pub(crate) fn of(&self, peer: &PeerId) -> &[Multiaddr] {
        self.addresses.get(peer).map_or(&[], Vec::as_slice)
    }

    pub(crate) fn peers(&self) -> impl Iterator<Item = PeerId> + '_ {
        self.addresses.keys().copied()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    fn at(address: &str) -> Vec<Multiaddr> {
        vec![address.parse().unwrap()]
    }

    #[test]
    fn given_two_lists_when_the_second_replaces_the_first_then_movers_are_news_and_the_missing_are_gone()
     {
        let [stays, moves, leaves] = [(); 3].map(|()| PeerId::random());
        let (here, there) = (at("/ip4/10.0.0.1/tcp/4001"), at("/ip4/10.0.0.2/tcp/4001"));
        let mut leads = Leads::default();
        leads.replace(vec![
            (stays, here.clone()),
            (moves, here.clone()),
            (leaves, here.clone()),
        ]);

        let changed = leads.replace(vec![(stays, here), (moves, there.clone())]);

        let (news, gone) = (vec![moves], vec![leaves]);
        assert_eq!(changed, Changed { news, gone });
        assert_eq!(leads.of(&moves), there);
        assert!(leads.of(&leaves).is_empty());
    }

    #[test]
    fn given_an_endless_list_when_taken_then_it_is_cut_off() {
        let many = vec![at("/ip4/10.0.0.1/tcp/4001")[0].clone(); MAX_ADDRESSES + 1];
        let mut leads = Leads::default();
        leads.replace(
            (0..=MAX_LEADS)
                .map(|_| (PeerId::random(), many.clone()))
                .collect(),
        );
        assert_eq!(leads.peers().count(), MAX_LEADS);
        let one = leads.peers().next().unwrap();
        assert_eq!(leads.of(&one).len(), MAX_ADDRESSES);
    }
}
