//! The event queue and the nodes.

use std::cmp::Reverse;
use std::collections::{BTreeSet, BinaryHeap, VecDeque};
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::membership::{Membership, NodeIndex, Notice, Outgoing, Transport};
use crate::network::Network;

/// What UDP, IP and the QUIC around a datagram cost, in bytes.
const DATAGRAM_OVERHEAD: u64 = 70;
/// Stream bytes in one packet.
const STREAM_PACKET: u64 = 1_150;
/// Datagrams that wait at a stalled node, as in a socket's buffer; the newest are lost.
const INBOX: usize = 1_000;

/// Which life of which node a factory makes.
#[derive(Clone, Copy, Debug)]
pub struct Start {
    /// The node.
    pub node: NodeIndex,
    /// 0 at first, one more at each restart.
    pub life: u32,
    /// Decides its random choices.
    pub seed: u64,
    /// When.
    pub now: Instant,
}

/// How a node stalls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stall {
    /// The process is not run: no timers either. When it resumes, timers fire before packets are read.
    Frozen,
    /// Lifeguard's anomaly: timers run, but nothing is received or sent until it ends.
    Blocked,
}

/// What one node holds of another, from its notices.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum View {
    /// Never heard of.
    Unknown,
    /// A member.
    Up,
    /// Gone.
    Down,
    /// Said good-bye.
    Left,
}

/// One notice of one node.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Record {
    /// When, since the beginning.
    pub at: Duration,
    /// Whose.
    pub observer: NodeIndex,
    /// What.
    pub notice: Notice,
}

/// What a node sent, with the packets around it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Traffic {
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

#[derive(Debug)]
enum Happening {
    Deliver {
        from: NodeIndex,
        to: NodeIndex,
        transport: Transport,
        bytes: Vec<u8>,
    },
    Wake(NodeIndex),
    Stall(NodeIndex, Stall),
    Resume(NodeIndex),
}

struct Event {
    at: Duration,
    order: u64,
    what: Happening,
}

impl PartialEq for Event {
    fn eq(&self, other: &Self) -> bool {
        self.order == other.order
    }
}

impl Eq for Event {}

impl PartialOrd for Event {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Event {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.order).cmp(&(other.at, other.order))
    }
}

struct Node<M> {
    /// `None` while it is down.
    machine: Option<M>,
    life: u32,
    stall: Option<Stall>,
    inbox: VecDeque<(NodeIndex, Transport, Vec<u8>)>,
    outbox: Vec<Outgoing>,
    /// When it is to be woken; other wake-ups in the queue are void.
    wake_at: Option<Duration>,
    /// How far its clock has jumped ahead.
    ahead: Duration,
    traffic: Traffic,
    views: Vec<View>,
    up: usize,
}

/// Nodes, the network between them, and what will happen.
pub struct Simulation<M> {
    /// The network; change it at any time.
    pub network: Network,
    epoch: Instant,
    now: Duration,
    queue: BinaryHeap<Reverse<Event>>,
    next_order: u64,
    nodes: Vec<Node<M>>,
    random: Xoshiro256PlusPlus,
    factory: Box<dyn FnMut(Start) -> M>,
    records: Vec<Record>,
}

impl<M: Membership> Simulation<M> {
    /// `count` nodes that are down. The seed decides everything.
    pub fn new(
        count: u32,
        network: Network,
        seed: u64,
        factory: impl FnMut(Start) -> M + 'static,
    ) -> Self {
        let count = count as usize;
        let nodes = (0..count).map(|_| Node {
            machine: None,
            life: 0,
            stall: None,
            inbox: VecDeque::new(),
            outbox: Vec::new(),
            wake_at: None,
            ahead: Duration::ZERO,
            traffic: Traffic::default(),
            views: vec![View::Unknown; count],
            up: 0,
        });
        Self {
            network,
            // Only differences of instants matter.
            epoch: Instant::now(),
            now: Duration::ZERO,
            queue: BinaryHeap::new(),
            next_order: 0,
            nodes: nodes.collect(),
            random: Xoshiro256PlusPlus::seed_from_u64(seed),
            factory: Box::new(factory),
            records: Vec::new(),
        }
    }

    /// All nodes.
    pub fn indices(&self) -> impl Iterator<Item = NodeIndex> + use<M> {
        (0..self.nodes.len() as u32).map(NodeIndex)
    }

    /// Virtual time since the beginning.
    #[must_use]
    pub fn now(&self) -> Duration {
        self.now
    }

    /// For choices of a scenario.
    pub fn random(&mut self) -> &mut Xoshiro256PlusPlus {
        &mut self.random
    }

    /// A node's machine, if it runs.
    #[must_use]
    pub fn node(&self, node: NodeIndex) -> Option<&M> {
        self.nodes[node.index()].machine.as_ref()
    }

    /// Does something with a node's machine, if it runs.
    pub fn with_node<T>(
        &mut self,
        index: NodeIndex,
        act: impl FnOnce(&mut M, Instant) -> T,
    ) -> Option<T> {
        let now = self.local_now(index);
        let result = self.nodes[index.index()]
            .machine
            .as_mut()
            .map(|machine| act(machine, now));
        self.settle(index);
        result
    }

    /// Every notice so far, in order.
    #[must_use]
    pub fn records(&self) -> &[Record] {
        &self.records
    }

    /// Forgets the notices so far.
    pub fn clear_records(&mut self) {
        self.records.clear();
    }

    /// What a node has sent.
    #[must_use]
    pub fn traffic(&self, node: NodeIndex) -> Traffic {
        self.nodes[node.index()].traffic
    }

    /// What `observer` holds of `subject`.
    #[must_use]
    pub fn view(&self, observer: NodeIndex, subject: NodeIndex) -> View {
        self.nodes[observer.index()].views[subject.index()]
    }

    /// Whether a node runs (a stalled one does).
    #[must_use]
    pub fn is_running(&self, node: NodeIndex) -> bool {
        self.nodes[node.index()].machine.is_some()
    }

    /// Whether every running node holds exactly the running nodes to be up.
    #[must_use]
    pub fn is_converged(&self) -> bool {
        let running: BTreeSet<_> = self
            .indices()
            .filter(|node| self.is_running(*node))
            .collect();
        running.iter().all(|observer| {
            let node = &self.nodes[observer.index()];
            node.up == running.len() - 1
                && running.iter().all(|subject| {
                    subject == observer || self.view(*observer, *subject) == View::Up
                })
        })
    }

    /// Runs until [`Self::is_converged`], looking every 10 ms; `None` if that takes longer than `limit`.
    pub fn run_until_converged(&mut self, limit: Duration) -> Option<Duration> {
        let (began, step) = (self.now, Duration::from_millis(10));
        while self.now - began < limit {
            self.run_for(step);
            // The cheap part first.
            let running = self
                .nodes
                .iter()
                .filter(|node| node.machine.is_some())
                .count();
            let counts_fit = self
                .nodes
                .iter()
                .all(|node| node.machine.is_none() || node.up + 1 == running);
            if counts_fit && self.is_converged() {
                return Some(self.now - began);
            }
        }
        None
    }

    /// Starts a node that is down, in its next life, and lets it join.
    pub fn start(&mut self, index: NodeIndex, seeds: &[NodeIndex]) {
        let count = self.nodes.len();
        let (seed, now) = (self.random.random(), self.local_now(index));
        let node = &mut self.nodes[index.index()];
        let life = node.life;
        node.life += 1;
        node.stall = None;
        node.inbox.clear();
        node.outbox.clear();
        node.views = vec![View::Unknown; count];
        node.up = 0;
        let start = Start {
            node: index,
            life,
            seed,
            now,
        };
        let mut machine = (self.factory)(start);
        machine.join(seeds, now);
        self.nodes[index.index()].machine = Some(machine);
        self.settle(index);
    }

    /// Starts all nodes at once, with these as seeds.
    pub fn start_all(&mut self, seeds: &[NodeIndex]) {
        for node in self.indices() {
            self.start(node, seeds);
        }
    }

    /// The node is gone without a word.
    pub fn crash(&mut self, node: NodeIndex) {
        self.nodes[node.index()].machine = None;
        self.nodes[node.index()].wake_at = None;
    }

    /// The node says good-bye; it keeps running until it is crashed.
    pub fn leave(&mut self, index: NodeIndex) {
        self.with_node(index, Membership::leave);
    }

    /// Stalls a node from `after` on, for `lasts`.
    pub fn stall(&mut self, node: NodeIndex, stall: Stall, after: Duration, lasts: Duration) {
        self.push(self.now + after, Happening::Stall(node, stall));
        self.push(self.now + after + lasts, Happening::Resume(node));
    }

    /// A node's clock jumps ahead.
    pub fn jump_clock(&mut self, index: NodeIndex, by: Duration) {
        let node = &mut self.nodes[index.index()];
        node.ahead += by;
        node.wake_at = None;
        self.settle(index);
    }

    /// Bytes that a node never sent arrive as if it had.
    pub fn inject(&mut self, from: NodeIndex, to: NodeIndex, transport: Transport, bytes: Vec<u8>) {
        self.push(
            self.now,
            Happening::Deliver {
                from,
                to,
                transport,
                bytes,
            },
        );
    }

    /// Lets virtual time pass.
    pub fn run_for(&mut self, duration: Duration) {
        let until = self.now + duration;
        while let Some(Reverse(event)) = self.queue.peek() {
            if event.at > until {
                break;
            }
            if let Some(Reverse(event)) = self.queue.pop() {
                self.now = event.at;
                self.happen(event.what);
            }
        }
        self.now = until;
    }

    fn happen(&mut self, what: Happening) {
        match what {
            Happening::Deliver {
                from,
                to,
                transport,
                bytes,
            } => self.deliver(from, to, transport, bytes),
            Happening::Wake(index) => {
                let node = &mut self.nodes[index.index()];
                let is_frozen = node.stall == Some(Stall::Frozen);
                if node.wake_at == Some(self.now) && !is_frozen {
                    node.wake_at = None;
                    self.wake(index);
                }
            }
            Happening::Stall(index, stall) => self.nodes[index.index()].stall = Some(stall),
            Happening::Resume(index) => self.resume(index),
        }
    }

    fn wake(&mut self, index: NodeIndex) {
        let now = self.local_now(index);
        if let Some(machine) = &mut self.nodes[index.index()].machine
            && machine.poll_timeout().is_some_and(|at| at <= now)
        {
            machine.wake(now);
        }
        self.settle(index);
    }

    fn deliver(&mut self, from: NodeIndex, to: NodeIndex, transport: Transport, bytes: Vec<u8>) {
        let now = self.local_now(to);
        let node = &mut self.nodes[to.index()];
        let Some(machine) = &mut node.machine else {
            return;
        };
        if node.stall.is_some() {
            if node.inbox.len() < INBOX {
                node.inbox.push_back((from, transport, bytes));
            }
            return;
        }
        machine.receive(from, transport, &bytes, now);
        self.settle(to);
    }

    fn resume(&mut self, index: NodeIndex) {
        self.nodes[index.index()].stall = None;
        for outgoing in std::mem::take(&mut self.nodes[index.index()].outbox) {
            self.send(index, outgoing);
        }
        self.nodes[index.index()].wake_at = None;
        self.wake(index);
        while let Some((from, transport, bytes)) = self.nodes[index.index()].inbox.pop_front() {
            self.deliver(from, index, transport, bytes);
        }
    }

    /// Drains what a machine wants after it was called.
    fn settle(&mut self, index: NodeIndex) {
        loop {
            let node = &mut self.nodes[index.index()];
            let Some(machine) = &mut node.machine else {
                return;
            };
            if let Some(notice) = machine.poll_notice() {
                self.note(index, notice);
            } else if let Some(outgoing) = machine.poll_send() {
                if node.stall.is_some() {
                    node.outbox.push(outgoing);
                } else {
                    self.send(index, outgoing);
                }
            } else {
                break;
            }
        }
        let node = &mut self.nodes[index.index()];
        let Some(at) = node.machine.as_ref().and_then(Membership::poll_timeout) else {
            return;
        };
        let at = at
            .saturating_duration_since(self.epoch)
            .saturating_sub(node.ahead);
        let at = at.max(self.now);
        if node.wake_at != Some(at) {
            node.wake_at = Some(at);
            self.push(at, Happening::Wake(index));
        }
    }

    fn note(&mut self, observer: NodeIndex, notice: Notice) {
        let (subject, view) = match notice {
            Notice::Up(subject) => (subject, Some(View::Up)),
            Notice::Down(subject) => (subject, Some(View::Down)),
            Notice::Left(subject) => (subject, Some(View::Left)),
            Notice::Suspected(subject) => (subject, None),
        };
        if let Some(view) = view {
            let node = &mut self.nodes[observer.index()];
            let former = std::mem::replace(&mut node.views[subject.index()], view);
            node.up -= usize::from(former == View::Up);
            node.up += usize::from(view == View::Up);
        }
        self.records.push(Record {
            at: self.now,
            observer,
            notice,
        });
    }

    fn send(&mut self, from: NodeIndex, outgoing: Outgoing) {
        let Outgoing {
            to,
            transport,
            bytes,
        } = outgoing;
        let length = bytes.len() as u64;
        let packets = match transport {
            Transport::Datagram => 1,
            Transport::Stream => length.div_ceil(STREAM_PACKET).max(1),
        };
        let traffic = &mut self.nodes[from.index()].traffic;
        traffic.packets += packets;
        traffic.bytes += length + packets * DATAGRAM_OVERHEAD;
        if to.index() >= self.nodes.len() {
            return;
        }
        let network = &self.network;
        let random = &mut self.random;
        let delay = network.delay(from, to, transport, bytes.len(), random);
        let is_doubled = transport == Transport::Datagram
            && network.duplicates > 0.0
            && random.random_bool(network.duplicates);
        let again = is_doubled.then(|| network.delay(from, to, transport, bytes.len(), random));
        for delay in [delay, again.flatten()].into_iter().flatten() {
            let what = Happening::Deliver {
                from,
                to,
                transport,
                bytes: bytes.clone(),
            };
            self.push(self.now + delay, what);
        }
    }

    fn push(&mut self, at: Duration, what: Happening) {
        let order = self.next_order;
        self.next_order += 1;
        self.queue.push(Reverse(Event { at, order, what }));
    }

    fn local_now(&self, node: NodeIndex) -> Instant {
        self.epoch + self.now + self.nodes[node.index()].ahead
    }
}
