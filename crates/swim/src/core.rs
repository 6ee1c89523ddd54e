//! The machine: inputs, `now` and effects.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt as _, SeedableRng as _};

use crate::config::{Config, ConfigError, limits};
use crate::dissemination::{Queue, Topic};
use crate::effects::{Counters, Destination, Event, TimeoutReason, Transmit, Transport};
use crate::health::LocalHealth;
use crate::member::{Credentials, Fingerprint, Member, MemberId, State};
use crate::probe::Prober;
use crate::statement::{
    Attestor, Liveness, SignedStatement, Statement, TagError, Tags, VersionRange,
};
use crate::suspicion::Suspicion;
use crate::sync::SyncState;
use crate::table::Table;
use crate::wire::{DecodeError, Message, Packet, PacketKind, Update, Writer, write_statement};

/// Between two refusals of a protocol version, whoever they are for.
const REFUSAL_PAUSE: Duration = Duration::from_millis(100);
/// Stale claims of one packet that are answered.
const MOST_CORRECTIONS: usize = 4;

/// Membership of one node. See the [crate] for the protocol.
///
/// The calling order, which the shell keeps:
///
/// 1. call `handle_*` for whatever happened, or a command ([`set_tag`](Self::set_tag), [`leave`](Self::leave), …),
///    and [`handle_timeout`](Self::handle_timeout) when the instant of [`poll_timeout`](Self::poll_timeout) has
///    passed. `now` never goes backwards;
/// 2. then drain [`poll_event`](Self::poll_event) and [`poll_transmit`](Self::poll_transmit) until both return
///    `None`, and take the new `poll_timeout`.
///
/// `from` is who the session proves; nothing may be handed in that came without one.
#[derive(Debug)]
pub struct Swim<A> {
    pub(crate) config: Config,
    pub(crate) attestor: A,
    pub(crate) name: Fingerprint,
    pub(crate) me: Arc<SignedStatement>,
    pub(crate) has_left: bool,
    /// The incarnation this life began with.
    first_incarnation: u64,
    pub(crate) random: Xoshiro256PlusPlus,
    pub(crate) table: Table,
    pub(crate) health: LocalHealth,
    pub(crate) queue: Queue,
    pub(crate) prober: Prober,
    pub(crate) suspicions: BTreeMap<Fingerprint, Suspicion>,
    /// Clocks that still run.
    pub(crate) clocks: BTreeSet<(Instant, Fingerprint)>,
    pub(crate) sync: SyncState,
    pub(crate) seeds: Vec<SocketAddr>,
    /// What we speak to those whose range we do not know; a refusal corrects it.
    pub(crate) stranger_version: u8,
    next_gossip: Option<Instant>,
    next_refusal: Instant,
    /// Members whose leaf was refused, until when.
    expelled: BTreeMap<Fingerprint, Instant>,
    /// Members about which the packet at hand knew less than we do.
    pub(crate) corrections: Vec<Fingerprint>,
    transmits: VecDeque<Transmit>,
    events: VecDeque<Event>,
    pub(crate) counters: Counters,
}

impl<A: Attestor> Swim<A> {
    /// A node that knows nobody yet. `incarnation` must exceed all that this key used before, as milliseconds since
    /// 1970 do; if it does not, the others' memory corrects it. `seed` decides every random choice.
    ///
    /// # Errors
    /// [`ConfigError`].
    pub fn new(
        config: Config,
        attestor: A,
        id: MemberId,
        address: SocketAddr,
        incarnation: u64,
        seed: u64,
        now: Instant,
    ) -> Result<Self, ConfigError> {
        config.check()?;
        let incarnation = incarnation.min(limits::INCARNATION);
        let statement = Statement {
            subject: id,
            incarnation,
            liveness: Liveness::Alive,
            address,
            protocol: config.protocol,
            tags: Tags::default(),
        };
        let me = SignedStatement::sign(statement, &config.cluster, &attestor)
            .ok_or(ConfigError::NotEd25519)?;
        let mut random = Xoshiro256PlusPlus::seed_from_u64(seed);
        let mut table = Table::new(config.tombstone);
        table.toggle(me.fingerprint(), incarnation);
        // Nodes started together do not ping together.
        let first_probe = now + config.probe_interval.mul_f64(random.random());
        let number = random.random();
        Ok(Self {
            name: me.fingerprint(),
            has_left: false,
            first_incarnation: incarnation,
            health: LocalHealth::new(config.local_health_max),
            queue: Queue::default(),
            prober: Prober::new(first_probe, number),
            suspicions: BTreeMap::new(),
            clocks: BTreeSet::new(),
            sync: SyncState::new(&config, &mut random, now),
            seeds: Vec::new(),
            stranger_version: config.protocol.max,
            next_gossip: None,
            next_refusal: now,
            expelled: BTreeMap::new(),
            corrections: Vec::new(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
            counters: Counters::default(),
            me: Arc::new(me),
            config,
            attestor,
            random,
            table,
        })
    }

    /// Contacts these addresses now, and again for as long as nobody is known; later now and then. More than
    /// [`limits::SEEDS`] are cut off.
    pub fn join(&mut self, seeds: &[SocketAddr], now: Instant) {
        self.seeds = seeds.iter().copied().take(limits::SEEDS).collect();
        self.sync.due(now);
    }

    /// What we say of ourselves.
    #[must_use]
    pub fn local(&self) -> &SignedStatement {
        &self.me
    }

    /// All other members, those that failed or left and are still remembered included.
    pub fn members(&self) -> impl Iterator<Item = &Member> {
        self.table.iter().map(|(_, member)| member)
    }

    /// One of them.
    #[must_use]
    pub fn member(&self, id: &MemberId) -> Option<&Member> {
        let member = self.table.get(Fingerprint::of(id)?)?;
        (member.id == *id).then_some(member)
    }

    /// Live members, ourselves included.
    #[must_use]
    pub fn live_count(&self) -> usize {
        self.table.live().len() + usize::from(!self.has_left)
    }

    /// Lifeguard's score: 0 is fine.
    #[must_use]
    pub fn local_health(&self) -> u32 {
        self.health.score()
    }

    /// What was dropped, by reason.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// Sets a tag and tells everyone.
    ///
    /// # Errors
    /// [`TagError`]; nothing has changed.
    pub fn set_tag(&mut self, key: &str, value: &str, now: Instant) -> Result<(), TagError> {
        self.observe(now);
        if self.has_left {
            return Err(TagError::HasLeft(key.into()));
        }
        if self.me.tags.get(key) == Some(value) {
            return Ok(());
        }
        let mut tags = self.me.tags.clone();
        tags.set(key, value, self.me.incarnation + 1)?;
        self.restate(self.me.incarnation + 1, now, |statement| {
            statement.tags = tags;
        });
        Ok(())
    }

    /// Removes a tag and tells everyone. Returns whether it was there.
    pub fn remove_tag(&mut self, key: &str, now: Instant) -> bool {
        self.observe(now);
        let mut tags = self.me.tags.clone();
        let removed = !self.has_left && tags.remove(key);
        if removed {
            self.restate(self.me.incarnation + 1, now, |statement| {
                statement.tags = tags;
            });
        }
        removed
    }

    /// Tells everyone that we are reached elsewhere.
    pub fn set_address(&mut self, address: SocketAddr, now: Instant) {
        self.observe(now);
        if !self.has_left && self.me.address != address {
            self.restate(self.me.incarnation + 1, now, |statement| {
                statement.address = address;
            });
        }
    }

    /// Says good-bye. [`Event::LeaveSpread`] follows when it was gossiped as often as it will be; until then the
    /// shell should keep running. Pings are answered even after that, and nothing else is done.
    pub fn leave(&mut self, now: Instant) {
        self.observe(now);
        if self.has_left {
            return;
        }
        self.has_left = true;
        self.prober.stop();
        self.suspicions.clear();
        self.clocks.clear();
        self.table.toggle(self.name, self.me.incarnation);
        self.restate(self.me.incarnation + 1, now, |statement| {
            statement.liveness = Liveness::Left;
        });
        if self.table.live().is_empty() {
            self.emit(Event::LeaveSpread);
        }
    }

    /// What the shell found in a member's leaf. A refused one is removed and not taken back for
    /// [`Config::expelled_for`].
    pub fn handle_credentials(&mut self, id: &MemberId, credentials: Credentials, now: Instant) {
        self.observe(now);
        let Some(name) = Fingerprint::of(id) else {
            return;
        };
        match credentials {
            Credentials::Proven(capabilities) => {
                if let Some(member) = self.table.get_mut(name)
                    && member.id == *id
                {
                    member.capabilities = Some(Arc::new(capabilities));
                    self.emit(Event::Updated(*id));
                }
            }
            Credentials::Refused => self.expel(name, *id, now),
        }
    }

    fn expel(&mut self, name: Fingerprint, id: MemberId, now: Instant) {
        if name == self.name {
            return;
        }
        self.expelled.retain(|_, until| *until > now);
        if self.expelled.len() >= limits::EXPELLED
            && let Some(first) = self.expelled.iter().min_by_key(|(_, until)| **until)
        {
            let first = *first.0;
            self.expelled.remove(&first);
        }
        self.expelled.insert(name, now + self.config.expelled_for);
        if self.table.get(name).is_some_and(|member| member.id == id) {
            self.drop_suspicion(name);
            self.table.remove(name);
            self.queue.remove(Topic::Statement(name));
            self.queue.remove(Topic::Claim(name));
            self.emit(Event::Expelled(id));
        }
    }

    pub(crate) fn is_expelled(&self, name: Fingerprint, now: Instant) -> bool {
        self.expelled.get(&name).is_some_and(|until| *until > now)
    }

    /// A datagram came in the session of `from`.
    pub fn handle_packet(&mut self, from: MemberId, bytes: &[u8], now: Instant) {
        self.observe(now);
        let Some(sender) = Fingerprint::of(&from).filter(|name| *name != self.name) else {
            self.counters.malformed += 1;
            return;
        };
        let packet = match Packet::decode(bytes, self.config.protocol) {
            Ok(packet) => packet,
            Err(error) => return self.drop_bytes(from, error, now),
        };
        // The news first: they may be what makes the sender known.
        let forged = self.counters.forged;
        for update in packet.updates {
            self.handle_update(update, sender, now);
        }
        self.report_forger(from, forged);
        match packet.kind {
            PacketKind::Gossip => {}
            PacketKind::Refusal(theirs) => self.handle_refusal(from, theirs, now),
            PacketKind::Ping(number) => {
                self.reply(from, packet.version, PacketKind::Ack(number));
                self.meet(from, sender, now);
            }
            PacketKind::PingRequest(number, target) => {
                self.handle_ping_request(sender, number, target, now);
            }
            PacketKind::Ack(number) => self.handle_ack(sender, number, now),
            PacketKind::Nack(number) => self.handle_nack(sender, number, now),
        }
        self.send_corrections(sender);
    }

    /// Shows a sender of stale claims what made them stale, at once: a member that missed a good-bye or a refutation
    /// does not wait for the next sync.
    fn send_corrections(&mut self, to: Fingerprint) {
        let mut subjects = std::mem::take(&mut self.corrections);
        if subjects.is_empty() || self.table.get(to).is_none() {
            return;
        }
        subjects.truncate(MOST_CORRECTIONS);
        let statements = subjects
            .iter()
            .filter_map(|subject| self.table.get(*subject));
        let statements: Vec<_> = statements
            .map(|member| Arc::clone(&member.statement))
            .collect();
        for statement in statements {
            let mut writer = Writer::with_capacity(self.config.packet_bytes);
            PacketKind::Gossip.start(self.version_for(to), &mut writer);
            write_statement(&mut writer, &statement);
            if let Some(to) = self.destination(to) {
                self.transmit(to, Transport::Datagram, writer.finish());
            }
        }
    }

    /// Where a member in the table is reached.
    pub(crate) fn destination(&self, name: Fingerprint) -> Option<Destination> {
        self.table.get(name).map(|member| Destination::Member {
            id: member.id,
            address: member.statement.address,
        })
    }

    /// The highest protocol version that a member and we speak.
    pub(crate) fn version_for(&self, name: Fingerprint) -> u8 {
        let theirs = self.table.get(name).map(|member| member.statement.protocol);
        let common = theirs.and_then(|theirs| self.config.protocol.common(theirs));
        // Members without a common version are not in the table.
        common.unwrap_or(self.config.protocol.max)
    }

    /// A whole message of a stream came in the session of `from`.
    pub fn handle_stream(&mut self, from: MemberId, bytes: &[u8], now: Instant) {
        self.observe(now);
        let Some(sender) = Fingerprint::of(&from).filter(|name| *name != self.name) else {
            self.counters.malformed += 1;
            return;
        };
        match Message::decode(bytes, self.config.protocol) {
            Ok(message) => {
                let forged = self.counters.forged;
                self.handle_message(from, sender, message, now);
                self.report_forger(from, forged);
            }
            Err(error) => self.drop_bytes(from, error, now),
        }
    }

    /// Says so if the bytes at hand raised the count of forged statements.
    fn report_forger(&mut self, from: MemberId, before: u64) {
        if self.counters.forged > before {
            self.emit(Event::Forged(from));
        }
    }

    fn drop_bytes(&mut self, from: MemberId, error: DecodeError, now: Instant) {
        match error {
            DecodeError::Oversized => self.counters.oversized += 1,
            DecodeError::Malformed(_) | DecodeError::Statement(_) => self.counters.malformed += 1,
            DecodeError::Version(version) => {
                self.counters.unknown_version += 1;
                if now >= self.next_refusal {
                    self.next_refusal = now + REFUSAL_PAUSE;
                    let refusal = PacketKind::Refusal(self.config.protocol);
                    self.transmit_packet(Destination::Session(from), version, refusal, None);
                }
            }
        }
    }

    /// A first contact was of a version that the other does not speak: try one it does, or tell the shell.
    fn handle_refusal(&mut self, from: MemberId, theirs: VersionRange, now: Instant) {
        match self.config.protocol.common(theirs) {
            Some(common) => {
                self.stranger_version = common;
                if self.table.live().is_empty() && !self.has_left {
                    self.sync.due(now + self.config.sync_eager_interval);
                }
            }
            None => self.emit(Event::Incompatible {
                member: from,
                theirs,
            }),
        }
    }

    fn handle_update(&mut self, update: Update, sender: Fingerprint, now: Instant) {
        match update {
            Update::Statement(signed) => {
                if self.apply_statement(signed, now) {
                    // A suspicion or a probe of it is void now; what else follows is in `apply_statement`.
                    self.schedule_gossip(now);
                }
            }
            Update::Claim(claim) => self.handle_claim(&claim, sender, now),
        }
    }

    /// The earliest instant at which [`handle_timeout`](Self::handle_timeout) has something to do.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<(Instant, TimeoutReason)> {
        let tombstone = self.table.first_tombstone();
        let tombstone = tombstone.map(|(at, _)| (at, TimeoutReason::Tombstone));
        self.next_deadline().into_iter().chain(tombstone).min()
    }

    /// As `poll_timeout`, without what may wait.
    fn next_deadline(&self) -> Option<(Instant, TimeoutReason)> {
        let syncs = [
            (self.sync.next, TimeoutReason::Sync),
            (self.sync.next_reconnect, TimeoutReason::Reconnect),
        ];
        let suspicion = self.clocks.first();
        let relay = self.prober.next_relay();
        let probe = self.prober.next_deadline();
        [
            probe.map(|at| (at, TimeoutReason::Probe)),
            relay.map(|at| (at, TimeoutReason::Relay)),
            suspicion.map(|(at, _)| (*at, TimeoutReason::Suspicion)),
            self.next_gossip.map(|at| (at, TimeoutReason::Gossip)),
        ]
        .into_iter()
        .flatten()
        .chain(syncs.into_iter().filter(|_| !self.has_left))
        .min()
    }

    /// Does what is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.observe(now);
        self.run_relays(now);
        if !self.has_left {
            self.run_probe(now);
            self.run_suspicions(now);
            self.run_sync(now);
        }
        self.run_gossip(now);
        while let Some((_, name)) = self.table.first_tombstone().filter(|(at, _)| *at <= now) {
            self.forget(name);
        }
    }

    /// Notices that we were not run: nothing that was due in that time may count against anybody.
    fn observe(&mut self, now: Instant) {
        let (Some(tolerance), Some((due, _))) = (self.config.stall_tolerance, self.next_deadline())
        else {
            return;
        };
        let lost = now.saturating_duration_since(due);
        if lost <= tolerance {
            return;
        }
        self.counters.stalls += 1;
        self.health.worsen(1);
        self.prober.shift(lost);
        self.sync.shift(lost);
        self.next_gossip = self.next_gossip.map(|at| at + lost);
        self.clocks = self
            .clocks
            .iter()
            .map(|(at, name)| (*at + lost, *name))
            .collect();
        for suspicion in self.suspicions.values_mut() {
            suspicion.started += lost;
        }
    }

    /// What to send next.
    pub fn poll_transmit(&mut self) -> Option<Transmit> {
        self.transmits.pop_front()
    }

    /// What happened next.
    pub fn poll_event(&mut self) -> Option<Event> {
        self.events.pop_front()
    }

    pub(crate) fn emit(&mut self, event: Event) {
        if self.events.len() >= limits::EVENTS {
            self.events.pop_front();
            self.counters.events_lost += 1;
        }
        self.events.push_back(event);
    }

    /// Says something new of ourselves, under a higher incarnation, and tells everyone.
    pub(crate) fn restate(
        &mut self,
        incarnation: u64,
        now: Instant,
        change: impl FnOnce(&mut Statement),
    ) {
        let mut statement = Statement::clone(&self.me);
        statement.incarnation = incarnation;
        change(&mut statement);
        // The id had a key when we started, so it has one now.
        let Some(signed) = SignedStatement::sign(statement, &self.config.cluster, &self.attestor)
        else {
            return;
        };
        if !self.has_left {
            self.table.toggle(self.name, self.me.incarnation);
            self.table.toggle(self.name, incarnation);
        }
        self.me = Arc::new(signed);
        self.announce(now);
    }

    /// Gossips our own statement, before all other news.
    pub(crate) fn announce(&mut self, now: Instant) {
        self.queue_statement(&Arc::clone(&self.me), now);
    }

    pub(crate) fn queue_statement(&mut self, signed: &SignedStatement, now: Instant) {
        let mut writer = Writer::with_capacity(signed.as_bytes().len() + 3);
        write_statement(&mut writer, signed);
        let topic = Topic::Statement(signed.fingerprint());
        self.queue.push(topic, writer.finish());
        self.schedule_gossip(now);
    }

    pub(crate) fn schedule_gossip(&mut self, now: Instant) {
        if self.next_gossip.is_none() && !self.queue.is_empty() && !self.table.live().is_empty() {
            self.next_gossip =
                Some(now + self.config.gossip_interval.mul_f64(self.random.random()));
        }
    }

    fn run_gossip(&mut self, now: Instant) {
        if self.next_gossip.is_none_or(|at| at > now) {
            return;
        }
        self.next_gossip = None;
        let fanout = self.config.gossip_fanout;
        for target in self.table.sample(&mut self.random, fanout, |_| true) {
            if !self.queue.is_empty() {
                self.send(target, PacketKind::Gossip);
            }
        }
        if !self.queue.is_empty() && !self.table.live().is_empty() {
            self.next_gossip = Some(now + self.config.gossip_interval);
        } else if self.has_left {
            self.emit(Event::LeaveSpread);
        }
    }

    pub(crate) fn most_sendings(&self) -> u32 {
        self.config.retransmissions(self.table.live().len() + 1)
    }

    /// Sends a datagram to a member, with the claim about it first and then what fits.
    pub(crate) fn send(&mut self, target: Fingerprint, kind: PacketKind) {
        if let Some(to) = self.destination(target) {
            let version = self.version_for(target);
            self.transmit_packet(to, version, kind, Some(target));
        }
    }

    fn reply(&mut self, to: MemberId, version: u8, kind: PacketKind) {
        match Fingerprint::of(&to).filter(|name| self.table.get(*name).is_some()) {
            Some(name) => self.send(name, kind),
            None => self.transmit_packet(Destination::Session(to), version, kind, None),
        }
    }

    fn transmit_packet(
        &mut self,
        to: Destination,
        version: u8,
        kind: PacketKind,
        target: Option<Fingerprint>,
    ) {
        let mut writer = Writer::with_capacity(self.config.packet_bytes);
        kind.start(version, &mut writer);
        if !matches!(kind, PacketKind::Refusal(_)) {
            let except = target.and_then(|target| self.write_buddy(target, &mut writer));
            let (room, most) = (self.config.packet_bytes, self.most_sendings());
            self.queue.fill(&mut writer, room, most, except);
        }
        self.transmit(to, Transport::Datagram, writer.finish());
    }

    /// Tells a member first what is held against it. Returns the topic that need not be added again.
    fn write_buddy(&mut self, target: Fingerprint, writer: &mut Writer) -> Option<Topic> {
        let member = self.table.get(target)?;
        if member.state == State::Alive || member.state == State::Suspect && !self.config.buddy {
            return None;
        }
        if matches!(member.state, State::Failed | State::Left) {
            // It may have started again below its last incarnation.
            write_statement(writer, &member.statement);
        }
        let claim = self.claim_about(target)?;
        Update::Claim(claim).write(writer);
        Some(Topic::Claim(target))
    }

    pub(crate) fn transmit(&mut self, to: Destination, transport: Transport, payload: Vec<u8>) {
        if self.transmits.len() >= limits::TRANSMITS {
            self.counters.transmits_lost += 1;
            return;
        }
        self.transmits.push_back(Transmit {
            to,
            transport,
            payload,
        });
    }

    pub(crate) fn forget(&mut self, name: Fingerprint) {
        self.drop_suspicion(name);
        if let Some(member) = self.table.remove(name) {
            self.emit(Event::Forgotten(member.id));
        }
    }

    /// Whether a statement of our own key is from before this start.
    pub(crate) fn is_from_previous_life(&self) -> bool {
        self.me.incarnation == self.first_incarnation
    }
}
