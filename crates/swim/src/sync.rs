//! Anti-entropy: two members compare hashes, then incarnations, then exchange what differs.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use rand::RngExt as _;
use rand::rngs::Xoshiro256PlusPlus;

use crate::config::{Config, limits};
use crate::core::Swim;
use crate::effects::{Destination, Transport};
use crate::member::{Fingerprint, Member, MemberId, State};
use crate::statement::{Attestor, SignedStatement};
use crate::table::bucket_of;
use crate::wire::{
    BUCKETS, Claim, ClaimKind, Message, PacketKind, SUMMARY_ENTRY_BYTES, Summary, Update, Writer,
    write_claim, write_statement,
};

/// Entries of one summary page.
const PAGE_ENTRIES: usize =
    (limits::MESSAGE_BYTES - limits::STATEMENT_BYTES - 16) / SUMMARY_ENTRY_BYTES;
/// A page of entries begins a new one when it is this full.
const PAGE_BYTES: usize = limits::MESSAGE_BYTES - limits::STATEMENT_BYTES - 64;
/// What brings more at once is spread by further syncs, not by gossip.
const GOSSIP_AT_MOST: usize = 8;
/// Seeds that one attempt to join contacts.
const SEEDS_AT_ONCE: usize = 3;
/// One in so many reconnect attempts goes to a seed though others have failed or nobody has.
const SEED_EVERY: u32 = 12;
/// Eager syncs after one that brought something: a partner that lacks the same is no proof that nothing is missing.
const EAGER_ROUNDS: u32 = 10;
/// An eager sync is delayed by at most 2 to this power.
const MOST_DOUBLINGS: u32 = 6;

#[derive(Debug)]
pub(crate) struct SyncState {
    pub(crate) next: Instant,
    pub(crate) next_reconnect: Instant,
    /// When a stranger that knows us is next asked who it is.
    next_meeting: Instant,
    /// Until then syncs are eager whether they bring something or not.
    eager_until: Instant,
    /// Eager syncs since one that brought something.
    fruitless: u32,
    /// Bytes we may still answer with.
    budget: usize,
    budget_at: Instant,
}

impl SyncState {
    pub(crate) fn new(config: &Config, random: &mut Xoshiro256PlusPlus, now: Instant) -> Self {
        Self {
            next: now + config.sync_interval.mul_f64(random.random()),
            next_reconnect: now + config.reconnect_interval.mul_f64(random.random()),
            next_meeting: now,
            eager_until: now,
            fruitless: 0,
            budget: config.sync_bytes_per_s,
            budget_at: now,
        }
    }

    pub(crate) fn due(&mut self, at: Instant) {
        self.next = self.next.min(at);
    }

    pub(crate) fn shift(&mut self, lost: Duration) {
        self.next += lost;
        self.next_reconnect += lost;
    }
}

/// What a summary asks us to do.
#[derive(Debug, Default)]
struct Difference {
    want: Vec<Fingerprint>,
    give: Vec<Fingerprint>,
    /// Live members that the other holds failed.
    accused: Vec<Fingerprint>,
}

impl Difference {
    fn is_empty(&self) -> bool {
        self.want.is_empty() && self.give.is_empty() && self.accused.is_empty()
    }
}

impl<A: Attestor> Swim<A> {
    pub(crate) fn run_sync(&mut self, now: Instant) {
        if self.sync.next <= now {
            self.sync.next = now + self.jittered(self.config.sync_interval);
            if self.table.live().is_empty() {
                self.try_seeds(SEEDS_AT_ONCE);
                self.sync_soon(now);
            } else if let [partner] = self.table.sample(&mut self.random, 1, |_| true)[..] {
                self.open_sync(partner);
                if now < self.sync.eager_until {
                    let pause = self.jittered(self.config.sync_eager_interval);
                    self.sync.due(now + pause);
                }
            }
        }
        if self.sync.next_reconnect <= now {
            self.sync.next_reconnect = now + self.jittered(self.config.reconnect_interval);
            let retriable = self.table.retriable();
            if !retriable.is_empty() {
                let index = self.random.random_range(0..retriable.len());
                self.open_sync(retriable[index]);
            }
            if self.random.random_ratio(1, SEED_EVERY) {
                self.try_seeds(1);
            }
        }
    }

    /// Between half of it and one and a half times it.
    fn jittered(&mut self, interval: Duration) -> Duration {
        interval.mul_f64(0.5 + self.random.random::<f64>())
    }

    /// Schedules another sync; later and later while they bring nothing.
    fn sync_soon(&mut self, now: Instant) {
        let doublings = self.sync.fruitless.min(MOST_DOUBLINGS);
        self.sync.fruitless += 1;
        let delay = self.config.sync_eager_interval * 2_u32.pow(doublings);
        let delay = self.jittered(delay.min(self.config.sync_interval));
        self.sync.due(now + delay);
    }

    fn try_seeds(&mut self, count: usize) {
        let ours = self.me.address;
        let mut others: Vec<SocketAddr> = self
            .seeds
            .iter()
            .copied()
            .filter(|seed| *seed != ours)
            .collect();
        for _ in 0..count.min(others.len()) {
            let index = self.random.random_range(0..others.len());
            let seed = others.swap_remove(index);
            let open = self.open_message().encode(self.stranger_version);
            self.transmit(Destination::Seed(seed), Transport::Stream, open);
        }
    }

    /// Somebody whom we do not know counts us as a member: from before we started again, it seems.
    pub(crate) fn meet(&mut self, from: MemberId, sender: Fingerprint, now: Instant) {
        let is_due = now >= self.sync.next_meeting && !self.has_left;
        if is_due && self.table.get(sender).is_none() && !self.is_expelled(sender, now) {
            self.sync.next_meeting = now + self.config.sync_eager_interval;
            let open = self.open_message().encode(self.stranger_version);
            self.transmit(Destination::Session(from), Transport::Stream, open);
        }
    }

    fn open_message(&self) -> Message {
        Message::Open(
            SignedStatement::clone(&self.me),
            Box::new(*self.table.hashes()),
        )
    }

    fn open_sync(&mut self, partner: Fingerprint) {
        self.confront(partner);
        let message = self.open_message();
        self.send_message(partner, &message);
    }

    /// Shows a failed member its last statement and what is held against it, so that it refutes.
    fn confront(&mut self, partner: Fingerprint) {
        let Some(member) = self
            .table
            .get(partner)
            .filter(|member| !member.state.is_live())
        else {
            return;
        };
        let statement = Update::Statement(SignedStatement::clone(&member.statement));
        let claim = self.claim_about(partner).map(Update::Claim);
        let updates = std::iter::once(statement).chain(claim).collect();
        self.send_message(partner, &Message::Entries(updates));
    }

    fn send_message(&mut self, to: Fingerprint, message: &Message) {
        let version = self.version_for(to);
        self.send_bytes(to, message.encode(version));
    }

    fn send_bytes(&mut self, to: Fingerprint, bytes: Vec<u8>) {
        if let Some(to) = self.destination(to) {
            self.transmit(to, Transport::Stream, bytes);
        }
    }

    pub(crate) fn handle_message(
        &mut self,
        from: MemberId,
        sender: Fingerprint,
        message: Message,
        now: Instant,
    ) {
        if self.has_left {
            return;
        }
        if let Message::Open(signed, _) | Message::Summary(signed, ..) = &message {
            if signed.subject != from {
                self.counters.malformed += 1;
                return;
            }
            self.apply_statement(signed.clone(), now);
        }
        let is_known = self
            .table
            .get(sender)
            .is_some_and(|member| member.id == from);
        match message {
            // Those may be about us, and show what they are about by their own signature.
            Message::Entries(updates) => self.handle_entries(updates, sender, now),
            _ if !is_known => self.counters.stranger += 1,
            Message::Open(_, hashes) => self.answer_open(sender, &hashes, now),
            Message::Summary(_, whole, entries) => self.compare(sender, whole, &entries, now),
            Message::Want(subjects) => {
                self.give(sender, &subjects, now);
            }
        }
    }

    /// Takes bytes from the budget of answers; false if there is not enough left.
    fn spend(&mut self, bytes: usize, now: Instant) -> bool {
        let passed = now
            .saturating_duration_since(self.sync.budget_at)
            .as_secs_f64();
        let rate = self.config.sync_bytes_per_s;
        let earned = (passed * rate as f64) as usize;
        self.sync.budget = self.sync.budget.saturating_add(earned).min(rate);
        self.sync.budget_at = now;
        match self.sync.budget.checked_sub(bytes) {
            Some(left) => {
                self.sync.budget = left;
                true
            }
            None => {
                self.counters.sync_over_budget += 1;
                false
            }
        }
    }

    fn answer_open(&mut self, sender: Fingerprint, theirs: &[u64; BUCKETS], now: Instant) {
        self.confront(sender);
        let ours = self.table.hashes();
        let differing: Vec<usize> = (0..BUCKETS).filter(|i| ours[*i] != theirs[*i]).collect();
        let mut page = Vec::new();
        let mut whole = 0_u64;
        for bucket in differing {
            let list = self.summarise(bucket);
            if page.len() + list.len() > PAGE_ENTRIES {
                self.send_summary(sender, whole, std::mem::take(&mut page), now);
                whole = 0;
            }
            if list.len() <= PAGE_ENTRIES {
                whole |= 1 << bucket;
                page.extend(list);
            } else {
                // Somebody makes keys that fall together: listed in pieces, of which none is the whole.
                for piece in list.chunks(PAGE_ENTRIES) {
                    self.send_summary(sender, 0, piece.to_vec(), now);
                }
            }
        }
        if whole != 0 {
            self.send_summary(sender, whole, page, now);
        }
    }

    /// Everybody in a range of keys, ourselves included, ascending.
    fn summarise(&self, bucket: usize) -> Vec<Summary> {
        let mut list: Vec<Summary> = self
            .table
            .bucket(bucket)
            .map(|(subject, member)| Summary {
                subject,
                incarnation: member.incarnation(),
                state: member.state,
            })
            .collect();
        if bucket_of(self.name) == bucket {
            let at = list.partition_point(|entry| entry.subject < self.name);
            list.insert(
                at,
                Summary {
                    subject: self.name,
                    incarnation: self.me.incarnation,
                    state: State::Alive,
                },
            );
        }
        list
    }

    fn send_summary(&mut self, to: Fingerprint, whole: u64, page: Vec<Summary>, now: Instant) {
        if whole == 0 && page.is_empty() {
            return;
        }
        let message = Message::Summary(SignedStatement::clone(&self.me), whole, page);
        let bytes = message.encode(self.version_for(to));
        if self.spend(bytes.len(), now) {
            self.send_bytes(to, bytes);
        }
    }

    /// The answer to our open: gives what the other lacks and asks for what we lack.
    fn compare(&mut self, sender: Fingerprint, whole: u64, theirs: &[Summary], now: Instant) {
        let difference = self.difference(whole, theirs);
        if difference.is_empty() {
            return;
        }
        for chunk in difference.want.chunks(limits::WANTED) {
            self.send_message(sender, &Message::Want(chunk.to_vec()));
        }
        self.give(sender, &difference.give, now);
        for subject in difference.accused {
            self.tell_subject(subject);
        }
        self.sync_soon(now);
    }

    fn difference(&self, whole: u64, theirs: &[Summary]) -> Difference {
        let mut difference = Difference::default();
        for entry in theirs {
            self.weigh(entry, &mut difference);
        }
        for bucket in (0..BUCKETS).filter(|bucket| whole & (1 << bucket) != 0) {
            let is_listed = |name: Fingerprint| {
                theirs
                    .binary_search_by_key(&name, |entry| entry.subject)
                    .is_ok()
            };
            let missing = self
                .table
                .bucket(bucket)
                .filter(|(name, member)| member.state != State::Failed && !is_listed(*name));
            difference.give.extend(missing.map(|(name, _)| name));
        }
        difference
    }

    fn weigh(&self, entry: &Summary, difference: &mut Difference) {
        let subject = entry.subject;
        let (ours, state) = if subject == self.name {
            (self.me.incarnation, State::Alive)
        } else {
            match self.table.get(subject) {
                Some(member) => (member.incarnation(), member.state),
                // What failed before we came is no concern of ours.
                None if entry.state == State::Failed => return,
                None => return difference.want.push(subject),
            }
        };
        let is_held_failed = entry.state == State::Failed;
        if entry.incarnation > ours {
            difference.want.push(subject);
        } else if entry.incarnation < ours || state == State::Failed && !is_held_failed {
            difference.give.push(subject);
        } else if is_held_failed && state.is_live() && subject != self.name {
            difference.accused.push(subject);
        }
    }

    /// Somebody holds a member failed that we hold alive. Not believed: the member itself is to answer.
    fn tell_subject(&mut self, subject: Fingerprint) {
        let (Some(member), Some(to)) = (self.table.get(subject), self.destination(subject)) else {
            return;
        };
        let claim = Claim {
            kind: ClaimKind::Failed,
            subject,
            incarnation: member.incarnation(),
            observers: Vec::new(),
        };
        let mut writer = Writer::with_capacity(64);
        PacketKind::Gossip.start(self.version_for(subject), &mut writer);
        write_claim(&mut writer, &claim);
        self.transmit(to, Transport::Datagram, writer.finish());
    }

    /// Sends what we know of these subjects.
    fn give(&mut self, to: Fingerprint, subjects: &[Fingerprint], now: Instant) {
        let version = self.version_for(to);
        let mut page = Writer::with_capacity(1_024);
        for subject in subjects {
            if page.len() > PAGE_BYTES {
                self.send_page(to, version, page, now);
                page = Writer::with_capacity(PAGE_BYTES);
            }
            self.write_entry(*subject, &mut page);
        }
        self.send_page(to, version, page, now);
    }

    fn send_page(&mut self, to: Fingerprint, version: u8, page: Writer, now: Instant) {
        let updates = page.finish();
        if updates.is_empty() || !self.spend(updates.len(), now) {
            return;
        }
        let mut bytes = Message::Entries(Vec::new()).encode(version);
        bytes.extend(updates);
        self.send_bytes(to, bytes);
    }

    fn write_entry(&self, subject: Fingerprint, page: &mut Writer) {
        if subject == self.name {
            write_statement(page, &self.me);
        } else if let Some(member) = self.table.get(subject) {
            write_statement(page, &member.statement);
            if member.state == State::Failed
                && let Some(claim) = self.claim_about(subject)
            {
                write_claim(page, &claim);
            }
        }
    }

    fn handle_entries(&mut self, updates: Vec<Update>, sender: Fingerprint, now: Instant) {
        let mut learned = Vec::new();
        for update in updates {
            match update {
                Update::Statement(signed) => learned.extend(self.admit_statement(signed, now)),
                Update::Claim(claim) if claim.subject == self.name => {
                    self.handle_claim(&claim, sender, now);
                }
                Update::Claim(claim) => {
                    let is_held = |member: &Member| {
                        member.state.is_live() && member.incarnation() == claim.incarnation
                    };
                    if self.table.get(claim.subject).is_some_and(is_held) {
                        self.tell_subject(claim.subject);
                    }
                }
            }
        }
        if learned.is_empty() {
            return;
        }
        if learned.len() <= GOSSIP_AT_MOST {
            for signed in &learned {
                self.queue_statement(signed, now);
            }
        }
        self.sync.fruitless = 0;
        self.sync.eager_until = now + self.config.sync_eager_interval * EAGER_ROUNDS;
        self.sync_soon(now);
        self.schedule_gossip(now);
    }
}
