//! Defaults, each with its reason, and the limits that no configuration changes.

use std::time::Duration;

use crate::statement::VersionRange;

/// What the wire and the tables never exceed.
pub mod limits {
    /// A datagram, in bytes; longer ones are dropped unread.
    pub const PACKET_BYTES: usize = 1_200;
    /// A message on a stream, in bytes; longer ones are dropped unread.
    pub const MESSAGE_BYTES: usize = 64 * 1024;
    /// Tags of one member.
    pub const TAGS: usize = 32;
    /// A tag's key, in bytes.
    pub const TAG_KEY_BYTES: usize = 64;
    /// A tag's value, in bytes.
    pub const TAG_VALUE_BYTES: usize = 255;
    /// All keys and values of one member, in bytes: its statement has to fit in a datagram beside a ping.
    pub const TAGS_BYTES: usize = 640;
    /// A signed statement, in bytes, its length prefix included.
    pub const STATEMENT_BYTES: usize = 980;
    /// Observers that one claim names.
    pub const OBSERVERS: usize = 5;
    /// News waiting to be gossiped. The loser is what was sent most often, of those the oldest.
    pub const QUEUE_ITEMS: usize = 4_096;
    /// Effects waiting for the shell. A shell that drains after each input never meets it; the loser is the newest.
    pub const TRANSMITS: usize = 8_192;
    /// Events waiting for the shell. As above; the loser is the oldest, and `members()` is the truth.
    pub const EVENTS: usize = 65_536;
    /// Pings in flight on behalf of others. The loser is the newest request.
    pub const RELAYS: usize = 256;
    /// Expelled members remembered. The loser is the one that would be forgotten first.
    pub const EXPELLED: usize = 1_024;
    /// Seeds.
    pub const SEEDS: usize = 64;
    /// Subjects that one *want* asks for.
    pub const WANTED: usize = 1_024;
    /// No plausible incarnation is above it: milliseconds since 1970 reach it in 146 million years.
    pub const INCARNATION: u64 = 1 << 62;
}

/// Timings and bounds. [`Config::lan`] is tuned in the simulator, whose `figures` command prints what it reaches;
/// [`Config::wan`] has its proportions.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    /// Statements are signed for the cluster of this name and mean nothing in another.
    pub cluster: String,
    /// One ping per period, before local health stretches it.
    pub probe_interval: Duration,
    /// How long the direct ping may take.
    pub probe_timeout: Duration,
    /// How long a helper waits before it sends a nack.
    pub nack_after: Duration,
    /// Helpers of an indirect probe. SWIM and Lifeguard use 3.
    pub helpers: usize,
    /// The highest local health score; 0 switches local health off.
    pub local_health_max: u32,
    /// Minimum of the suspicion clock: this × max(1, log₁₀ n) × `probe_interval`.
    pub suspicion_factor: f64,
    /// The clock's maximum as a multiple of its minimum.
    pub suspicion_max_factor: f64,
    /// Confirmations after which the clock is at its minimum; 0 is plain SWIM's fixed clock.
    pub confirmations: usize,
    /// Whether helpers send nacks.
    pub nacks: bool,
    /// Whether packets to a suspect begin with the claim about it.
    pub buddy: bool,
    /// Members, ourselves included, from which on `quorum_large` holds.
    pub large_cluster: usize,
    /// Observers that a failure needs in a large cluster.
    pub quorum_large: usize,
    /// Observers that a failure needs in a small cluster.
    pub quorum_small: usize,
    /// Members whose *failed* claims together are believed at once; 1 is plain SWIM, which believes anyone.
    pub failure_claims: usize,
    /// How late a deadline may be handled before we conclude that we were not run; `None` never does.
    pub stall_tolerance: Option<Duration>,
    /// Between two rounds of gossip while there are news.
    pub gossip_interval: Duration,
    /// Members that one round of gossip goes to.
    pub gossip_fanout: usize,
    /// λ: news are sent ⌈λ·log₁₀(n+1)⌉ times.
    pub retransmit_factor: f64,
    /// Bytes of the datagrams we send.
    pub packet_bytes: usize,
    /// Between two syncs when the last one brought nothing.
    pub sync_interval: Duration,
    /// Between two syncs when the last one brought something, and between attempts to join.
    pub sync_eager_interval: Duration,
    /// Bytes of sync answers per second that we give to all others together. The loser is who asks then.
    pub sync_bytes_per_s: usize,
    /// Between two attempts at a failed member or a seed.
    pub reconnect_interval: Duration,
    /// How long failed and left members are remembered.
    pub tombstone: Duration,
    /// How long an expelled member is not let in again.
    pub expelled_for: Duration,
    /// Members held, tombstones included.
    pub max_members: usize,
    /// Protocol versions we speak.
    pub protocol: VersionRange,
}

/// Why a configuration cannot work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConfigError {
    /// A duration that must pass is zero.
    #[error("every interval and time-out must be longer than zero")]
    ZeroDuration,
    /// The ping, and the nack after it, must come back within a period.
    #[error("probe_timeout and nack_after together must be shorter than probe_interval")]
    ProbeTooSlow,
    /// Suspicion factors below their minimum.
    #[error(
        "suspicion_factor must be above 0, suspicion_max_factor and retransmit_factor at least 1"
    )]
    BadFactor,
    /// A count that must be at least one, or a size out of bounds.
    #[error(
        "quorums, failure_claims, gossip_fanout and max_members must be at least 1, packet_bytes 1,100 to 1,200"
    )]
    BadCount,
    /// The node's id is not that of an Ed25519 key.
    #[error("the node's id must be that of an Ed25519 key")]
    NotEd25519,
}

impl Config {
    /// For members some milliseconds apart.
    ///
    /// A crash is first noticed by whoever pings next: half a second is what keeps that short while a ping every
    /// half second costs some 0.5 kB/s. 200 ms and then 160 ms cover a LAN's round trip and a busy scheduler many times.
    #[must_use]
    pub fn lan() -> Self {
        Self {
            cluster: "default".into(),
            probe_interval: Duration::from_millis(500),
            probe_timeout: Duration::from_millis(200),
            nack_after: Duration::from_millis(160),
            helpers: 3,
            local_health_max: 8,
            // 1.5 s at 100 members: twice what a refutation needs to reach everyone.
            suspicion_factor: 1.5,
            suspicion_max_factor: 6.0,
            confirmations: 3,
            nacks: true,
            buddy: true,
            // Below, three observers would be half of the cluster.
            large_cluster: 8,
            quorum_large: 3,
            quorum_small: 2,
            failure_claims: 2,
            // A scheduler is late by milliseconds; what is later than a ping's time-out spoils a probe.
            stall_tolerance: Some(Duration::from_millis(200)),
            gossip_interval: Duration::from_millis(100),
            gossip_fanout: 3,
            retransmit_factor: 4.0,
            // Fits a QUIC datagram before path MTU discovery has raised the 1,200 bytes that QUIC begins with.
            packet_bytes: 1_150,
            sync_interval: Duration::from_secs(30),
            sync_eager_interval: Duration::from_millis(400),
            sync_bytes_per_s: 32 * 1024 * 1024,
            reconnect_interval: Duration::from_secs(5),
            // A machine that comes back after a night is still known.
            tombstone: Duration::from_secs(24 * 3_600),
            expelled_for: Duration::from_secs(600),
            max_members: 10_000,
            protocol: VersionRange::SPOKEN,
        }
    }

    /// For members up to half a second of round trip apart.
    #[must_use]
    pub fn wan() -> Self {
        Self {
            probe_interval: Duration::from_millis(2_500),
            probe_timeout: Duration::from_millis(1_000),
            nack_after: Duration::from_millis(800),
            stall_tolerance: Some(Duration::from_millis(1_000)),
            gossip_interval: Duration::from_millis(300),
            gossip_fanout: 4,
            sync_interval: Duration::from_secs(60),
            sync_eager_interval: Duration::from_secs(2),
            reconnect_interval: Duration::from_secs(15),
            ..Self::lan()
        }
    }

    /// The same timings without Lifeguard, cut detection and stall detection: what they are measured against.
    #[must_use]
    pub fn without_extensions(self) -> Self {
        Self {
            local_health_max: 0,
            confirmations: 0,
            nacks: false,
            buddy: false,
            quorum_large: 1,
            quorum_small: 1,
            failure_claims: 1,
            stall_tolerance: None,
            ..self
        }
    }

    /// Checks what the types do not.
    ///
    /// # Errors
    /// [`ConfigError`], the first rule that is broken.
    pub fn check(&self) -> Result<(), ConfigError> {
        let durations = [
            self.probe_interval,
            self.probe_timeout,
            self.nack_after,
            self.gossip_interval,
            self.sync_interval,
            self.sync_eager_interval,
            self.reconnect_interval,
            self.tombstone,
        ];
        if durations.iter().any(Duration::is_zero) {
            return Err(ConfigError::ZeroDuration);
        }
        if self.probe_timeout + self.nack_after >= self.probe_interval {
            return Err(ConfigError::ProbeTooSlow);
        }
        let factors_fit = self.suspicion_factor > 0.0
            && self.suspicion_max_factor >= 1.0
            && self.retransmit_factor >= 1.0;
        if !factors_fit {
            return Err(ConfigError::BadFactor);
        }
        let counts = [
            self.quorum_large,
            self.quorum_small,
            self.failure_claims,
            self.gossip_fanout,
            self.max_members,
        ];
        if counts.contains(&0) || !(1_100..=limits::PACKET_BYTES).contains(&self.packet_bytes) {
            return Err(ConfigError::BadCount);
        }
        Ok(())
    }

    /// The shortest a suspicion may last among `members` members.
    pub(crate) fn suspicion_min(&self, members: usize) -> Duration {
        let scale = (members.max(1) as f64).log10().max(1.0);
        self.probe_interval.mul_f64(self.suspicion_factor * scale)
    }

    /// How often news are sent among `members` members.
    pub(crate) fn retransmissions(&self, members: usize) -> u32 {
        let count = self.retransmit_factor * (members as f64 + 1.0).log10();
        // At most 10,000 members: a small number.
        count.ceil().max(1.0) as u32
    }
}

impl Default for Config {
    fn default() -> Self {
        Self::lan()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn given_the_two_defaults_when_checked_then_both_can_work() {
        assert_eq!(Config::lan().check(), Ok(()));
        assert_eq!(Config::wan().check(), Ok(()));
        assert_eq!(Config::lan().without_extensions().check(), Ok(()));
    }

    #[test]
    fn given_a_timeout_longer_than_the_period_when_checked_then_it_is_refused() {
        let config = Config {
            probe_timeout: Duration::from_secs(1),
            ..Config::lan()
        };

        assert_eq!(config.check(), Err(ConfigError::ProbeTooSlow));
    }

    #[test]
    fn given_more_members_when_scaled_then_suspicions_last_longer_and_news_are_sent_more_often() {
        let config = Config::lan();

        assert_eq!(config.suspicion_min(3), Duration::from_millis(750));
        assert_eq!(config.suspicion_min(100), Duration::from_millis(1_500));
        assert_eq!(config.retransmissions(9), 4);
        assert_eq!(config.retransmissions(999), 12);
    }
}
