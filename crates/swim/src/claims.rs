//! How statements and claims change the table: from suspicion to failure, and back by refutation.

use std::sync::Arc;
use std::time::Instant;

use crate::config::limits;
use crate::core::Swim;
use crate::dissemination::Topic;
use crate::effects::Event;
use crate::member::{Fingerprint, Member, State};
use crate::statement::{Attestor, Liveness, SignedStatement};
use crate::suspicion::Suspicion;
use crate::wire::{Claim, ClaimKind, PacketKind, Update, Writer};

/// What became of a suspicion after new evidence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ripeness {
    Ripe,
    NotYet,
}

impl<A: Attestor> Swim<A> {
    /// Takes a statement from gossip: what is new is gossiped on. Returns whether it was new.
    pub(crate) fn apply_statement(&mut self, signed: SignedStatement, now: Instant) -> bool {
        let Some(signed) = self.admit_statement(signed, now) else {
            return false;
        };
        self.queue_statement(&signed, now);
        true
    }

    /// Checks a statement and takes it into the table. Returns it if it was new and about somebody else.
    ///
    /// Cheap checks first: a signature is verified only where it would change something.
    pub(crate) fn admit_statement(
        &mut self,
        signed: SignedStatement,
        now: Instant,
    ) -> Option<Arc<SignedStatement>> {
        let name = signed.fingerprint();
        if signed.incarnation > limits::INCARNATION {
            self.counters.implausible += 1;
            return None;
        }
        if name == self.name {
            self.hear_of_ourselves(&signed, now);
            return None;
        }
        let known = self.table.get(name);
        if known.is_some_and(|member| member.id != signed.subject) {
            self.counters.fingerprint_clash += 1;
            return None;
        }
        if known.is_some_and(|member| member.incarnation() >= signed.incarnation) {
            self.counters.stale += 1;
            return None;
        }
        if self.is_expelled(name, now) {
            self.counters.expelled += 1;
            return None;
        }
        if self.config.protocol.common(signed.protocol).is_none() {
            self.counters.incompatible += 1;
            return None;
        }
        if !signed.verify(&self.config.cluster, &self.attestor) {
            self.counters.forged += 1;
            return None;
        }
        let signed = Arc::new(signed);
        let is_taken = match known {
            Some(_) => self.renew(name, &signed, now),
            None => self.welcome(name, &signed, now),
        };
        is_taken.then_some(signed)
    }

    /// A member that is not in the table.
    fn welcome(&mut self, name: Fingerprint, signed: &Arc<SignedStatement>, now: Instant) -> bool {
        if self.table.len() >= self.config.max_members {
            let Some((_, oldest)) = self.table.first_tombstone() else {
                self.counters.table_full += 1;
                return false;
            };
            self.forget(oldest);
        }
        let state = match signed.liveness {
            Liveness::Alive => State::Alive,
            Liveness::Left => State::Left,
        };
        self.table.insert(
            name,
            Member {
                id: signed.subject,
                state,
                since: now,
                statement: Arc::clone(signed),
                capabilities: None,
                live_index: 0,
                address_lost: false,
            },
        );
        if state == State::Alive {
            self.enlist(name);
        }
        true
    }

    /// A newer statement of a member in the table.
    fn renew(&mut self, name: Fingerprint, signed: &Arc<SignedStatement>, now: Instant) -> bool {
        let state = match signed.liveness {
            Liveness::Alive => State::Alive,
            Liveness::Left => State::Left,
        };
        let Some(former) = self.table.replace(name, Arc::clone(signed), state, now) else {
            return false;
        };
        self.drop_suspicion(name);
        self.queue.remove(Topic::Claim(name));
        match (former, state) {
            (State::Suspect, State::Alive) => self.emit(Event::Refuted(signed.subject)),
            (State::Alive, State::Alive) => self.emit(Event::Updated(signed.subject)),
            (State::Failed | State::Left, State::Alive) => self.enlist(name),
            (State::Left, _) => {}
            _ => self.emit(Event::Left(signed.subject)),
        }
        true
    }

    /// A member came to live, for the first time or again.
    fn enlist(&mut self, name: Fingerprint) {
        let Some(member) = self.table.get(name) else {
            return;
        };
        let (id, address) = (member.id, member.statement.address);
        let lacks_leaf = member.capabilities.is_none();
        self.table.take_address(address);
        self.prober.enlist(name, &mut self.random);
        self.emit(Event::Joined(id));
        if lacks_leaf {
            self.emit(Event::CredentialsWanted(id));
        }
    }

    /// A statement under our own key: ours come back, those of a former life, or those of another process.
    fn hear_of_ourselves(&mut self, signed: &SignedStatement, now: Instant) {
        if signed.incarnation < self.me.incarnation || *signed == *self.me {
            self.counters.stale += 1;
            return;
        }
        if signed.subject != self.me.subject {
            self.counters.fingerprint_clash += 1;
            return;
        }
        if !signed.verify(&self.config.cluster, &self.attestor) {
            self.counters.forged += 1;
            return;
        }
        if !self.is_from_previous_life() {
            self.emit(Event::IdentityInUse {
                address: signed.address,
                incarnation: signed.incarnation,
            });
        }
        if !self.has_left {
            self.restate(signed.incarnation + 1, now, |_| {});
        }
    }

    /// A claim from gossip, in the session of `sender`.
    pub(crate) fn handle_claim(&mut self, claim: &Claim, sender: Fingerprint, now: Instant) {
        if claim.subject == self.name {
            self.refute(claim, sender, now);
            return;
        }
        if self.has_left {
            // Who is gone judges nobody, and nothing would ever run the clocks.
            return;
        }
        if !self
            .table
            .get(sender)
            .is_some_and(|member| member.state.is_live())
        {
            self.counters.stranger += 1;
            return;
        }
        let Some(member) = self.table.get(claim.subject) else {
            self.counters.unknown_subject += 1;
            return;
        };
        if claim.incarnation > member.incarnation() {
            self.counters.unknown_subject += 1;
            return;
        }
        if claim.incarnation < member.incarnation() {
            self.counters.stale += 1;
            self.corrections.push(claim.subject);
            return;
        }
        if !member.state.is_live() {
            self.counters.stale += 1;
            return;
        }
        let observers: Vec<_> = claim
            .observers
            .iter()
            .copied()
            .filter(|observer| self.may_observe(*observer, claim.subject))
            .collect();
        let claimant = (claim.kind == ClaimKind::Failed).then_some(sender);
        self.accuse(claim.subject, &observers, claimant, now);
    }

    fn may_observe(&self, observer: Fingerprint, subject: Fingerprint) -> bool {
        let is_live = |name| {
            self.table
                .get(name)
                .is_some_and(|member| member.state.is_live())
        };
        observer != subject && (observer == self.name || is_live(observer))
    }

    /// Adds evidence against a live member: starts a suspicion or feeds the one there is.
    pub(crate) fn accuse(
        &mut self,
        subject: Fingerprint,
        observers: &[Fingerprint],
        claimant: Option<Fingerprint>,
        now: Instant,
    ) {
        let Some(member) = self.table.get(subject) else {
            return;
        };
        let id = member.id;
        let is_new = member.state == State::Alive;
        if is_new {
            self.table.set_state(subject, State::Suspect, now);
            let suspicion = self.new_suspicion(now);
            self.suspicions.insert(subject, suspicion);
            self.emit(Event::Suspected(id));
        }
        let Some(suspicion) = self.suspicions.get_mut(&subject) else {
            return;
        };
        let before = suspicion.deadline();
        let mut has_more = is_new;
        for observer in observers {
            has_more |= suspicion.add_observer(*observer);
        }
        if let Some(claimant) = claimant {
            suspicion.add_claimant(claimant);
        }
        let after = suspicion.deadline();
        if is_new || self.clocks.remove(&(before, subject)) {
            self.clocks.insert((after, subject));
        }
        if self.judge(subject, now) == Ripeness::NotYet && has_more {
            self.queue_claim(subject, now);
        }
    }

    fn new_suspicion(&self, now: Instant) -> Suspicion {
        let min = self.config.suspicion_min(self.table.live().len() + 1);
        Suspicion {
            started: now,
            min,
            max: min.mul_f64(self.config.suspicion_max_factor),
            // Where few could confirm, few need to.
            confirmations: self.config.confirmations.min(self.table.unsuspected()),
            observers: Vec::new(),
            claimants: Vec::new(),
        }
    }

    /// Fails the subject if clock (or claims) and evidence say so.
    fn judge(&mut self, subject: Fingerprint, now: Instant) -> Ripeness {
        let others = self.table.unsuspected();
        let Some(suspicion) = self.suspicions.get(&subject) else {
            return Ripeness::NotYet;
        };
        let wanted = if self.table.live().len() + 1 >= self.config.large_cluster {
            self.config.quorum_large
        } else {
            self.config.quorum_small
        };
        let has_evidence = suspicion.observers.len() >= wanted.min(others + 1)
            // Plain SWIM believes whoever says so, with or without observers.
            || wanted == 1;
        let claims = self.config.failure_claims.min(others.max(1));
        let is_over = suspicion.deadline() <= now || suspicion.claimants.len() >= claims;
        if !(has_evidence && is_over) {
            return Ripeness::NotYet;
        }
        self.fail(subject, now);
        Ripeness::Ripe
    }

    fn fail(&mut self, subject: Fingerprint, now: Instant) {
        let Some(id) = self.table.get(subject).map(|member| member.id) else {
            return;
        };
        let observers = self.drop_suspicion(subject);
        self.table.set_state(subject, State::Failed, now);
        self.emit(Event::Failed(id));
        let incarnation = self.table.get(subject).map_or(0, Member::incarnation);
        self.queue_update(Claim {
            kind: ClaimKind::Failed,
            subject,
            incarnation,
            observers,
        });
        self.schedule_gossip(now);
    }

    /// Ends a suspicion without a verdict. Returns its observers.
    pub(crate) fn drop_suspicion(&mut self, subject: Fingerprint) -> Vec<Fingerprint> {
        let Some(suspicion) = self.suspicions.remove(&subject) else {
            return Vec::new();
        };
        self.clocks.remove(&(suspicion.deadline(), subject));
        suspicion.observers
    }

    /// Our own ping to a suspect was answered: we are no observer any more, and our clock starts again.
    pub(crate) fn withdraw_evidence(&mut self, subject: Fingerprint, now: Instant) {
        let us = self.name;
        let Some(suspicion) = self.suspicions.get_mut(&subject) else {
            return;
        };
        self.clocks.remove(&(suspicion.deadline(), subject));
        suspicion.started = now;
        suspicion.claimants.clear();
        let was_ours = suspicion.remove_observer(us);
        if was_ours && suspicion.observers.is_empty() {
            self.suspicions.remove(&subject);
            self.queue.remove(Topic::Claim(subject));
            self.table.set_state(subject, State::Alive, now);
            if let Some(id) = self.table.get(subject).map(|member| member.id) {
                self.emit(Event::Refuted(id));
            }
            return;
        }
        self.clocks.insert((suspicion.deadline(), subject));
    }

    /// Judges suspicions whose clock ran out. Those without evidence stay, without a clock.
    pub(crate) fn run_suspicions(&mut self, now: Instant) {
        while let Some((at, subject)) = self.clocks.first().copied().filter(|(at, _)| *at <= now) {
            self.clocks.remove(&(at, subject));
            self.judge(subject, now);
        }
    }

    /// Judges suspicions that wait for evidence: fewer may be needed by now. Linear in the suspicions, once a period.
    pub(crate) fn review_suspicions(&mut self, now: Instant) {
        let waiting: Vec<_> = self
            .suspicions
            .iter()
            .filter(|(_, suspicion)| suspicion.deadline() <= now)
            .map(|(subject, _)| *subject)
            .collect();
        for subject in waiting {
            self.judge(subject, now);
        }
    }

    fn queue_claim(&mut self, subject: Fingerprint, now: Instant) {
        if let Some(claim) = self.claim_about(subject) {
            self.queue_update(claim);
            self.schedule_gossip(now);
        }
    }

    fn queue_update(&mut self, claim: Claim) {
        let subject = claim.subject;
        let mut writer = Writer::with_capacity(64);
        Update::Claim(claim).write(&mut writer);
        self.queue.push(Topic::Claim(subject), writer.finish());
    }

    /// What we hold against a member.
    pub(crate) fn claim_about(&self, subject: Fingerprint) -> Option<Claim> {
        let member = self.table.get(subject)?;
        let suspicion = self.suspicions.get(&subject);
        let kind = match member.state {
            State::Suspect => ClaimKind::Suspect,
            State::Failed => ClaimKind::Failed,
            State::Alive | State::Left => return None,
        };
        Some(Claim {
            kind,
            subject,
            incarnation: member.incarnation(),
            observers: suspicion.map_or_else(Vec::new, |suspicion| suspicion.observers.clone()),
        })
    }

    /// Somebody doubts us: say that we live under a higher incarnation, to all and to the accuser at once.
    fn refute(&mut self, claim: &Claim, accuser: Fingerprint, now: Instant) {
        if self.has_left {
            return;
        }
        if claim.incarnation > self.me.incarnation {
            // Only a statement of ours could have had it; the accuser will show it.
            self.counters.unknown_subject += 1;
            return;
        }
        if claim.incarnation == self.me.incarnation {
            self.counters.refutations += 1;
            self.health.worsen(1);
            self.restate(self.me.incarnation + 1, now, |_| {});
            self.emit(Event::Accused);
        } else {
            // Refuted already, and the accuser has not heard.
            self.counters.stale += 1;
            if self.queue.contains(Topic::Statement(self.name)) {
                return;
            }
            self.announce(now);
        }
        self.send(accuser, PacketKind::Gossip);
    }
}
