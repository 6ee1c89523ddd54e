//! The one task that owns the membership core, the links and what is known of certificates.
//!
//! It takes inputs, hands them to the core with the time, and then does what the core asks: [`Driver::turn`]. It
//! decides nothing about membership.

mod board;
mod credentials;
mod sending;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot, watch};
use tokio::time::{sleep_until, timeout};
use warren_identity::{NodeKey, PeerId};
use warren_swim::{Config, Counters, Event, Swim, limits};

use self::board::Board;
use crate::core::dials::{Dials, Target};
use crate::core::frame::Frame;
use crate::core::links::{LinkId, Links, Path};
use crate::core::vault::Vault;
use crate::link::{Handle, STOPPED};
use crate::node::Snapshot;
use crate::shell::Shell;

/// Inputs taken before the core's timers are looked at again.
const MOST_AT_ONCE: usize = 256;
/// Between two looks at what has no timer of its own.
const TICK: Duration = Duration::from_secs(1);
/// How long the last datagrams of a good-bye have to leave.
const LINGER: Duration = Duration::from_millis(200);
/// How long connections have to say that they end.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(1);
/// Addresses remembered as our own.
const MOST_OWN_ADDRESSES: usize = 64;

/// What the driver hears.
pub(crate) enum Input {
    /// A link to a proven member.
    Up(Box<Handle>),
    /// A link ended.
    Down(LinkId),
    /// Something came in.
    Received {
        link: LinkId,
        frame: Frame,
        /// The link's share of this queue.
        place: OwnedSemaphorePermit,
    },
    /// A dial is over.
    Dialled { target: Target, has_link: bool },
    /// What the configured seeds resolve to now.
    Seeds(Vec<SocketAddr>),
    /// Further seeds.
    Contact(Vec<SocketAddr>),
    /// Where this node is reached now.
    Address(SocketAddr),
    /// Say good-bye, and answer when it has spread.
    Leave(oneshot::Sender<()>),
}

/// A good-bye under way.
struct Leaving {
    ends: Instant,
    waiting: Vec<oneshot::Sender<()>>,
}

/// What the driver listens to beside its inputs.
pub(crate) struct Wires {
    pub(crate) inputs: mpsc::Receiver<Input>,
    pub(crate) tags: watch::Receiver<BTreeMap<String, String>>,
    pub(crate) trust_changes: watch::Receiver<u64>,
    pub(crate) snapshots: watch::Sender<Snapshot>,
}

/// The owner of everything.
pub(crate) struct Driver {
    shell: Arc<Shell>,
    own: PeerId,
    swim: Swim<NodeKey>,
    wires: Wires,
    links: Links,
    handles: BTreeMap<LinkId, Handle>,
    dials: Dials,
    vault: Vault,
    board: Board,
    seeds: Vec<SocketAddr>,
    contacts: Vec<SocketAddr>,
    own_addresses: BTreeSet<SocketAddr>,
    /// Tags of ours that the core has, the leaf's name excluded.
    tags: BTreeMap<String, String>,
    counted: Counters,
    next_tick: Instant,
    leave_timeout: Duration,
    leaving: Option<Leaving>,
}

impl Driver {
    /// A driver of `swim`, which knows its tags already.
    pub(crate) fn new(
        shell: Arc<Shell>,
        swim: Swim<NodeKey>,
        wires: Wires,
        config: &Config,
        max_links: usize,
        leave_timeout: Duration,
    ) -> Self {
        let tags = wires.tags.borrow().clone();
        let mut driver = Self {
            own: shell.trust.peer_id(),
            links: Links::new(max_links),
            handles: BTreeMap::new(),
            dials: Dials::default(),
            vault: Vault::new(config.max_members),
            board: Board::default(),
            seeds: Vec::new(),
            contacts: Vec::new(),
            own_addresses: BTreeSet::new(),
            tags,
            counted: Counters::default(),
            next_tick: Instant::now(),
            leave_timeout,
            leaving: None,
            shell,
            swim,
            wires,
        };
        driver.name_own_leaf(Instant::now());
        driver.show_own();
        driver.publish();
        driver
    }

    /// Runs until the node stops or has left.
    pub(crate) async fn run(mut self) {
        let stop = self.shell.stop.clone();
        loop {
            let deadline = self.next_deadline();
            tokio::select! {
                biased;
                () = stop.cancelled() => break,
                Ok(()) = self.wires.tags.changed() => self.take_tags(Instant::now()),
                Ok(()) = self.wires.trust_changes.changed() => self.take_trust(Instant::now()),
                Some(input) = self.wires.inputs.recv() => self.take(input),
                () = sleep_until(deadline.into()) => {}
            }
            let now = Instant::now();
            self.turn(now);
            if self
                .leaving
                .as_ref()
                .is_some_and(|leaving| leaving.ends <= now)
            {
                break;
            }
        }
        self.finish().await;
    }

    fn next_deadline(&self) -> Instant {
        let core = self.swim.poll_timeout().map(|(at, _)| at);
        let leaving = self.leaving.as_ref().map(|leaving| leaving.ends);
        [core, self.vault.next_due(), self.board.due(), leaving]
            .into_iter()
            .flatten()
            .fold(self.next_tick, Instant::min)
    }

    /// Takes what is waiting, so that an answer that is here already comes before the timer that waits for it.
    fn take(&mut self, first: Input) {
        self.handle(first, Instant::now());
        for _ in 1..MOST_AT_ONCE {
            match self.wires.inputs.try_recv() {
                Ok(input) => self.handle(input, Instant::now()),
                Err(_) => return,
            }
        }
    }

    fn handle(&mut self, input: Input, now: Instant) {
        match input {
            Input::Up(handle) => self.link_up(*handle, now),
            Input::Down(link) => self.link_down(link),
            Input::Received { link, frame, place } => {
                self.receive(link, frame, now);
                drop(place);
            }
            Input::Dialled { target, has_link } => {
                let lost = self.dials.ended(&target, has_link, now);
                self.shell.metrics.dropped("unreachable", lost as u64);
            }
            Input::Seeds(seeds) => {
                self.seeds = seeds;
                self.join_seeds(now);
            }
            Input::Contact(contacts) => {
                self.contacts = contacts;
                self.join_seeds(now);
            }
            Input::Address(address) => {
                if self.swim.local().address != address {
                    tracing::info!(%address, "others are told to reach this node elsewhere");
                    self.swim.set_address(address, now);
                    self.show_own();
                }
            }
            Input::Leave(done) => self.leave(done, now),
        }
        self.drain(now);
    }

    fn join_seeds(&mut self, now: Instant) {
        let seeds: Vec<SocketAddr> = self
            .contacts
            .iter()
            .chain(&self.seeds)
            .copied()
            .filter(|seed| !self.own_addresses.contains(seed))
            .take(limits::SEEDS)
            .collect();
        self.swim.join(&seeds, now);
    }

    fn leave(&mut self, done: oneshot::Sender<()>, now: Instant) {
        if let Some(leaving) = &mut self.leaving {
            return leaving.waiting.push(done);
        }
        self.leaving = Some(Leaving {
            ends: now + self.leave_timeout,
            waiting: vec![done],
        });
        tracing::info!("leaving the cluster");
        self.swim.leave(now);
        self.show_own();
    }

    fn receive(&mut self, link: LinkId, frame: Frame, now: Instant) {
        let Some(handle) = self.handles.get_mut(&link) else {
            return self.shell.metrics.dropped("link_closed", 1);
        };
        handle.received += 1;
        let peer = handle.proven.member.peer_id;
        if handle.path == Path::Tcp {
            self.links.observe(link, handle.received, now);
        }
        match frame {
            Frame::Packet(bytes) => self.swim.handle_packet(peer, &bytes, now),
            Frame::Message(bytes) => self.swim.handle_stream(peer, &bytes, now),
            Frame::Ask(members) => self.answer(peer, &members, now),
            Frame::Chains(chains) => self.take_chains(chains, now),
        }
    }

    /// What is due, then what the core has to say.
    fn turn(&mut self, now: Instant) {
        if self.swim.poll_timeout().is_some_and(|(at, _)| at <= now) {
            self.swim.handle_timeout(now);
        }
        if self.vault.next_due().is_some_and(|at| at <= now) {
            self.ask(now);
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.tick(now);
        }
        self.drain(now);
        if self.board.due().is_some_and(|at| at <= now) {
            self.publish();
        }
    }

    fn tick(&mut self, now: Instant) {
        for link in self.links.dead(now) {
            // It may have been heard since it was last looked at.
            if let Some(handle) = self.handles.get(&link) {
                self.links.observe(link, handle.signs_of_life(), now);
            }
        }
        for link in self.links.dead(now) {
            tracing::debug!(link = link.0, "closed a gossip link that does not answer");
            self.links.remove(link);
            self.handles.remove(&link);
        }
        self.dials.prune(now);
        self.expire(now);
        let metrics = &self.shell.metrics;
        metrics.add_core(&self.counted, self.swim.counters());
        self.counted = *self.swim.counters();
        for path in [Path::Quic, Path::Tcp] {
            metrics.set_links(path, self.links.count(path));
        }
        if self.board.health() != self.swim.local_health() {
            self.board.touch(now);
        }
    }

    fn drain(&mut self, now: Instant) {
        loop {
            while let Some(event) = self.swim.poll_event() {
                self.heed(event, now);
            }
            let Some(transmit) = self.swim.poll_transmit() else {
                return;
            };
            self.transmit(transmit, now);
        }
    }

    fn heed(&mut self, event: Event, now: Instant) {
        match event {
            Event::Joined(id) => {
                tracing::info!(peer = %id, "a member joined the cluster");
                self.show(&id, now);
                self.check_credentials(&id, now);
            }
            Event::Updated(id) => {
                self.show(&id, now);
                self.check_credentials(&id, now);
            }
            Event::CredentialsWanted(id) => self.check_credentials(&id, now),
            Event::Suspected(id) => {
                self.shell.metrics.suspicions.inc();
                self.show(&id, now);
            }
            Event::Refuted(id) => {
                self.shell.metrics.refutations.inc();
                self.show(&id, now);
                self.check_credentials(&id, now);
            }
            Event::Failed(id) => {
                self.shell.metrics.failures.inc();
                tracing::warn!(peer = %id, "a member of the cluster failed");
                self.show(&id, now);
            }
            Event::Left(id) => {
                tracing::info!(peer = %id, "a member left the cluster");
                self.show(&id, now);
            }
            Event::Forgotten(id) => self.forget(&id, now),
            Event::Expelled(id) => {
                tracing::warn!(peer = %id, "removed a member whose certificate is refused");
                self.forget(&id, now);
            }
            Event::Forged(id) => {
                tracing::warn!(peer = %id, "closed the gossip links of a member that passed on a statement which its subject did not sign");
                self.cut(&id);
            }
            Event::Accused => self.show_own(),
            Event::IdentityInUse { address, .. } => {
                tracing::error!(%address, "another node uses this node's key: give each node its own with `warren keygen`");
                self.show_own();
            }
            Event::Incompatible { member, theirs } => {
                tracing::warn!(peer = %member, min = theirs.min, max = theirs.max, "a peer speaks no version of the membership protocol that this node speaks: upgrade the older one");
            }
            Event::LeaveSpread => {
                if let Some(leaving) = &mut self.leaving {
                    leaving.ends = leaving.ends.min(now + LINGER);
                }
            }
        }
    }

    fn take_tags(&mut self, now: Instant) {
        let wanted = self.wires.tags.borrow_and_update().clone();
        let gone: Vec<String> = self
            .tags
            .keys()
            .filter(|key| !wanted.contains_key(*key))
            .cloned()
            .collect();
        for key in gone {
            self.swim.remove_tag(&key, now);
        }
        for (key, value) in &wanted {
            // Checked before it came here; a tag that stays the same says nothing.
            if let Err(error) = self.swim.set_tag(key, value, now) {
                tracing::warn!(%error, "a tag was not set");
            }
        }
        self.tags = wanted;
        self.show_own();
    }

    /// Closes everything, and tells whoever waits for the good-bye.
    async fn finish(mut self) {
        if self.leaving.is_some() {
            self.show_own();
        }
        self.publish();
        self.handles.clear();
        self.shell.stop.cancel();
        self.shell.endpoint.close(STOPPED, b"");
        let _ = timeout(CLOSE_TIMEOUT, self.shell.endpoint.wait_idle()).await;
        for done in self.leaving.into_iter().flat_map(|leaving| leaving.waiting) {
            let _ = done.send(());
        }
    }
}
