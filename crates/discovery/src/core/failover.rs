//! Which discovery server the client talks to next, and when.
//!
//! ```text
//!            success                 announcement known
//! bootstrap ────────▶ (idle) ───────────────────────────▶ register ──▶ heartbeat every interval
//!     ▲  failure: next server at once; all failed: retry_interval ◀──────┘ failure
//!     └── every refresh_interval, from the first server on
//! ```
//!
//! A round asks the servers one after another, beginning with the one that answered last. When none answers, the next round
//! starts after `retry_interval`, with the first server; the first such round comes after a tenth of it, so that one lost
//! heartbeat does not cost a registration that lives for three. Every `refresh_interval` the order begins anew with the first configured server, so that
//! after an outage all nodes gather at the same server again: servers with registries of their own would otherwise split
//! their clients for ever.
//!
//! Calling order: `poll` until it gives an action, carry it out, then exactly one of `handle_success` and `handle_failure`;
//! `poll_timeout` says when to poll again. `now` is monotonic, counted from any fixed start.

use std::time::Duration;

/// When things happen. All of them positive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// Between heartbeats of a registered node.
    pub heartbeat_interval: Duration,
    /// Between rounds when no server answered.
    pub retry_interval: Duration,
    /// Between bootstraps of a node that is content.
    pub refresh_interval: Duration,
}

/// One request to make. `server` is the index in the configured list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Fetch the bootstrap list.
    Bootstrap {
        /// Index of the server to ask.
        server: usize,
    },
    /// Register this node.
    Register {
        /// Index of the server to ask.
        server: usize,
    },
    /// Say that this node still lives.
    Heartbeat {
        /// Index of the server to ask.
        server: usize,
    },
}

impl Action {
    /// The server this is for.
    #[must_use]
    pub fn server(self) -> usize {
        match self {
            Self::Bootstrap { server } | Self::Register { server } | Self::Heartbeat { server } => {
                server
            }
        }
    }
}

/// Why a request brought nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// Not reached, timed out, or answered 5xx.
    Unavailable,
    /// Refused (4xx): another server may know better, this one will not soon.
    Refused,
    /// 429: not before this long.
    Throttled(Duration),
    /// The server does not know this node (any more): register again, there.
    NotRegistered,
}

/// What the client as a whole has come to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// Nothing tried yet.
    Starting,
    /// The server with this index answered last.
    Connected {
        /// Index of that server.
        server: usize,
        /// Whether this node is registered there.
        registered: bool,
    },
    /// No server answered in the last round.
    AllFailed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Registered {
    Nowhere,
    At(usize),
}

/// The client's decisions. One per client, owned by its one task.
#[derive(Debug)]
pub struct Failover {
    timing: Timing,
    servers: usize,
    /// Where the next request goes.
    current: usize,
    /// Servers that failed in this round.
    failed_in_round: usize,
    /// Whether the last round failed as well, with nothing achieved since.
    failing: bool,
    not_before: Duration,
    next_bootstrap: Duration,
    next_heartbeat: Duration,
    bootstrapped: bool,
    registered: Registered,
    /// Whether there is something to announce.
    announcing: bool,
    /// Whether what is announced changed since the last registration.
    dirty: bool,
    in_flight: Option<Action>,
    standing: Standing,
    rng: u64,
}

impl Failover {
    /// For `servers` servers (at least one); `seed` spreads the timers of many nodes.
    #[must_use]
    pub fn new(servers: usize, timing: Timing, seed: u64) -> Self {
        Self {
            timing,
            servers: servers.max(1),
            current: 0,
            failed_in_round: 0,
            failing: false,
            not_before: Duration::ZERO,
            next_bootstrap: Duration::ZERO,
            next_heartbeat: Duration::ZERO,
            bootstrapped: false,
            registered: Registered::Nowhere,
            announcing: false,
            dirty: false,
            in_flight: None,
            standing: Standing::Starting,
            rng: seed,
        }
    }

    /// What this node says of itself became known or changed: it will be registered (again).
    pub fn handle_announcement(&mut self) {
        self.announcing = true;
        self.dirty = true;
    }

    /// The node wants the bootstrap list now, for instance because it has no peers.
    pub fn handle_refresh(&mut self, now: Duration) {
        self.next_bootstrap = self.next_bootstrap.min(now);
    }

    /// The next request to make, if it is time for one and none is under way.
    pub fn poll(&mut self, now: Duration) -> Option<Action> {
        if self.in_flight.is_some() || now < self.not_before {
            return None;
        }
        let server = self.current;
        let action = if now >= self.next_bootstrap {
            if self.bootstrapped && self.failed_in_round == 0 {
                // A refresh starts with the first server again (see the module).
                self.current = 0;
            }
            Action::Bootstrap {
                server: self.current,
            }
        } else if !self.announcing {
            return None;
        } else if self.dirty || self.registered != Registered::At(server) {
            Action::Register { server }
        } else if now >= self.next_heartbeat {
            Action::Heartbeat { server }
        } else {
            return None;
        };
        self.in_flight = Some(action);
        if matches!(action, Action::Register { .. }) {
            // A change that comes while this is under way must not be lost.
            self.dirty = false;
        }
        Some(action)
    }

    /// When `poll` may give something next. `None` while a request is under way, or while nothing is due at all.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Duration> {
        if self.in_flight.is_some() {
            return None;
        }
        let mut due = self.next_bootstrap;
        if self.announcing {
            let announce = if self.dirty || self.registered != Registered::At(self.current) {
                Duration::ZERO
            } else {
                self.next_heartbeat
            };
            due = due.min(announce);
        }
        Some(due.max(self.not_before))
    }

    /// The request under way was answered.
    pub fn handle_success(&mut self, now: Duration) {
        let Some(action) = self.in_flight.take() else {
            return;
        };
        self.failed_in_round = 0;
        // A server that gives the list but refuses to register the node is not asked more often for it.
        self.failing &= self.announcing && matches!(action, Action::Bootstrap { .. });
        match action {
            Action::Bootstrap { .. } => {
                self.bootstrapped = true;
                self.next_bootstrap = now + self.spread(self.timing.refresh_interval);
            }
            Action::Register { server } => {
                self.registered = Registered::At(server);
                self.next_heartbeat = now + self.spread(self.timing.heartbeat_interval);
            }
            Action::Heartbeat { .. } => {
                self.next_heartbeat = now + self.spread(self.timing.heartbeat_interval);
            }
        }
        let server = action.server();
        self.standing = Standing::Connected {
            server,
            registered: self.registered == Registered::At(server),
        };
    }

    /// The request under way failed.
    pub fn handle_failure(&mut self, failure: Failure, now: Duration) {
        let Some(action) = self.in_flight.take() else {
            return;
        };
        if matches!(action, Action::Register { .. }) {
            self.dirty = true;
        }
        if failure == Failure::NotRegistered {
            self.registered = Registered::Nowhere;
            if matches!(action, Action::Heartbeat { .. }) {
                // Not the server's failure: it restarted, or the entry expired. Register with it at once.
                return;
            }
        }
        if self.registered == Registered::At(action.server()) {
            self.registered = Registered::Nowhere;
        }
        self.failed_in_round += 1;
        self.current = (action.server() + 1) % self.servers;
        if self.failed_in_round < self.servers {
            return;
        }
        self.failed_in_round = 0;
        self.current = 0;
        self.standing = Standing::AllFailed;
        // Ask for peers too when a server answers again: the list the node holds is old by then.
        self.next_bootstrap = Duration::ZERO;
        let mut wait = self.spread(self.timing.retry_interval);
        if !std::mem::replace(&mut self.failing, true) {
            wait /= 10;
        }
        if let Failure::Throttled(after) = failure {
            wait = wait.max(after);
        }
        self.not_before = now + wait;
    }

    /// What the client has come to.
    #[must_use]
    pub fn standing(&self) -> Standing {
        self.standing
    }

    /// `interval` less up to a tenth: never later than promised, and nodes started together drift apart.
    fn spread(&mut self, interval: Duration) -> Duration {
        // SplitMix64 (Steele, Lea, Flood 2014).
        self.rng = self.rng.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.rng;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^= z >> 31;
        let per_mille = u32::try_from(z % 101).unwrap_or(0);
        interval - interval * per_mille / 1_000
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const TIMING: Timing = Timing {
        heartbeat_interval: Duration::from_secs(30),
        retry_interval: Duration::from_secs(60),
        refresh_interval: Duration::from_secs(600),
    };

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    fn client(servers: usize) -> Failover {
        let mut client = Failover::new(servers, TIMING, 7);
        client.handle_announcement();
        client
    }

    /// Runs the client in virtual time; `up` says which server answers when.
    fn run(
        client: &mut Failover,
        until: Duration,
        mut up: impl FnMut(usize, Duration) -> bool,
    ) -> Vec<(Duration, Action)> {
        let mut now = Duration::ZERO;
        let mut log = Vec::new();
        while now <= until {
            if let Some(action) = client.poll(now) {
                log.push((now, action));
                if up(action.server(), now) {
                    client.handle_success(now);
                } else {
                    client.handle_failure(Failure::Unavailable, now);
                }
            } else {
                let next = client.poll_timeout().unwrap();
                assert!(next > now, "the client must never spin");
                now = next;
            }
        }
        log
    }

    #[test]
    fn given_a_server_when_started_then_bootstrap_precedes_registration() {
        let log = run(&mut client(1), secs(1), |_, _| true);
        assert_eq!(
            log.iter().map(|(_, action)| *action).collect::<Vec<_>>(),
            [
                Action::Bootstrap { server: 0 },
                Action::Register { server: 0 }
            ]
        );
    }

    #[test]
    fn given_nothing_to_announce_then_it_only_bootstraps() {
        let mut client = Failover::new(1, TIMING, 7);
        let log = run(&mut client, secs(300), |_, _| true);
        assert_eq!(log.len(), 1);
    }

    #[test]
    fn given_a_registration_when_time_passes_then_heartbeats_come_within_the_interval() {
        let log = run(&mut client(1), secs(500), |_, _| true);
        let beats: Vec<_> = log
            .iter()
            .filter(|(_, action)| matches!(action, Action::Heartbeat { .. }))
            .map(|(at, _)| *at)
            .collect();
        assert!(beats.len() >= 16, "{beats:?}");
        for pair in beats.windows(2) {
            let gap = pair[1] - pair[0];
            assert!(gap <= secs(30) && gap >= secs(27), "{gap:?}");
        }
    }

    #[test]
    fn given_server_one_dies_when_the_heartbeat_fails_then_it_registers_at_server_two_at_once() {
        let death = secs(100);
        let mut client = client(2);
        let log = run(&mut client, secs(200), |server, now| {
            server == 1 || now < death
        });
        let (failed_at, _) = log
            .iter()
            .find(|(at, _)| *at >= death)
            .expect("a heartbeat after the death");
        let registered = log
            .iter()
            .find(|(_, action)| *action == Action::Register { server: 1 })
            .expect("a registration at the second server");
        assert_eq!(registered.0, *failed_at);
        assert_eq!(
            client.standing(),
            Standing::Connected {
                server: 1,
                registered: true
            }
        );
    }

    #[test]
    fn given_both_servers_dead_then_each_is_asked_once_per_retry_interval() {
        let mut client = client(2);
        let log = run(&mut client, secs(600), |_, _| false);
        assert_eq!(client.standing(), Standing::AllFailed);
        assert_eq!(log[0].1, Action::Bootstrap { server: 0 });
        assert_eq!(log[1].1, Action::Bootstrap { server: 1 });
        let rounds = log.len() / 2;
        assert!((10..=13).contains(&rounds), "{rounds} rounds in 600 s");
    }

    #[test]
    fn given_one_lost_heartbeat_then_the_node_is_heard_of_again_before_it_expires() {
        let mut client = client(1);
        let lost = secs(105)..secs(117);
        let log = run(&mut client, secs(300), |_, now| !lost.contains(&now));
        let heard: Vec<_> = log
            .iter()
            .map(|(at, _)| *at)
            .filter(|at| !lost.contains(at))
            .collect();
        for pair in heard.windows(2) {
            assert!(pair[1] - pair[0] < secs(90), "{heard:?}");
        }
    }

    #[test]
    fn given_a_server_that_refuses_to_register_then_it_is_asked_once_per_retry_interval() {
        let mut client = client(1);
        let (mut now, mut registrations) = (secs(0), 0);
        while now < secs(600) {
            match client.poll(now) {
                Some(Action::Register { .. }) => {
                    registrations += 1;
                    client.handle_failure(Failure::Refused, now);
                }
                Some(_) => client.handle_success(now),
                None => now = client.poll_timeout().unwrap(),
            }
        }
        assert!(
            (10..=13).contains(&registrations),
            "{registrations} in 600 s"
        );
    }

    #[test]
    fn given_the_first_server_returns_when_refreshing_then_the_node_gathers_there_again() {
        let mut client = client(2);
        run(&mut client, secs(1_300), |server, now| {
            server == 1 || !(secs(50)..secs(400)).contains(&now)
        });
        assert_eq!(
            client.standing(),
            Standing::Connected {
                server: 0,
                registered: true
            }
        );
    }

    #[test]
    fn given_the_server_forgot_the_node_then_it_registers_there_again_at_once() {
        let mut client = client(2);
        run(&mut client, secs(1), |_, _| true);
        let beat = client.poll_timeout().unwrap();
        assert_eq!(client.poll(beat), Some(Action::Heartbeat { server: 0 }));
        client.handle_failure(Failure::NotRegistered, beat);
        assert_eq!(client.poll(beat), Some(Action::Register { server: 0 }));
    }

    #[test]
    fn given_addresses_change_then_it_registers_again_without_waiting() {
        let mut client = client(1);
        run(&mut client, secs(1), |_, _| true);
        assert_eq!(client.poll(secs(2)), None);
        client.handle_announcement();
        assert_eq!(client.poll(secs(2)), Some(Action::Register { server: 0 }));
    }

    #[test]
    fn given_a_change_while_registering_then_it_is_registered_afterwards() {
        let mut client = client(1);
        assert!(client.poll(secs(0)).is_some());
        client.handle_success(secs(0));
        assert_eq!(client.poll(secs(0)), Some(Action::Register { server: 0 }));
        client.handle_announcement();
        client.handle_success(secs(1));
        assert_eq!(client.poll(secs(1)), Some(Action::Register { server: 0 }));
    }

    #[test]
    fn given_the_only_server_throttles_then_its_wish_is_kept() {
        let mut client = client(1);
        client.poll(secs(0)).unwrap();
        client.handle_failure(Failure::Throttled(secs(300)), secs(0));
        assert_eq!(client.poll(secs(299)), None);
        assert_eq!(
            client.poll(secs(300)),
            Some(Action::Bootstrap { server: 0 })
        );
    }

    #[test]
    fn given_a_refresh_is_wanted_then_bootstrap_comes_at_once() {
        let mut client = client(1);
        run(&mut client, secs(1), |_, _| true);
        client.handle_refresh(secs(5));
        assert_eq!(client.poll(secs(5)), Some(Action::Bootstrap { server: 0 }));
    }
}
