//! What the registry believes about a node, and what may change it.
//!
//! Both engines keep [`Entry`] values and call the functions here inside one transaction, so they cannot differ in what they
//! accept. Nothing here knows who asked: authentication happened before (`server::auth`).

use std::time::Duration;

use serde::{Deserialize, Serialize};
use warren_identity::{OrganizationId, PeerId, UnixMillis};

/// Three heartbeats of 30 s: two may be lost before the entry ends.
pub const DEFAULT_TTL: Duration = Duration::from_secs(90);

/// How long an expired entry is kept, to be listed as `offline` and to recognise replayed requests.
pub const DEFAULT_RETENTION: Duration = Duration::from_secs(24 * 3_600);

/// What a node registered, as verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Registration {
    /// The node.
    pub peer_id: PeerId,
    /// Its organisation, from its certificate.
    pub organization: OrganizationId,
    /// Its name, from its certificate.
    pub name: String,
    /// Where it says it is.
    pub region: Option<String>,
    /// Multiaddresses of the mesh.
    pub addresses: Vec<String>,
    /// `host:port` addresses of the bulk listener; empty without a signed record.
    pub bulk_addresses: Vec<String>,
    /// Roles it says it runs; empty without a signed record.
    pub roles: Vec<String>,
    /// Capabilities, from its certificate and from nowhere else.
    pub capabilities: Vec<String>,
    /// The signed node record as it came, for other nodes to verify.
    pub record: Option<Vec<u8>>,
    /// Sequence number of `record`; 0 without one.
    pub sequence: u64,
    /// End of the certificate: the entry never outlives it.
    pub certificate_ends_at: UnixMillis,
}

/// A registration with its history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// What was registered last.
    pub registration: Registration,
    /// Since when the node is known without a break.
    pub registered_at: UnixMillis,
    /// Last registration or heartbeat.
    pub last_seen_at: UnixMillis,
    /// The entry counts as live before this time.
    pub expires_at: UnixMillis,
    /// When the newest signed request of this node was made; requests not newer are replays.
    pub last_stamp: UnixMillis,
}

/// What a node is to those who ask for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Seen within two thirds of the time-out.
    Online,
    /// Missed heartbeats, not yet given up.
    Unreachable,
    /// Expired, or left by itself.
    Offline,
}

/// What a registration changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The node was not known, or had expired.
    Created,
    /// Something about the node changed.
    Updated,
    /// Exactly what was registered before: it counts as a heartbeat.
    Unchanged,
}

/// Why a change was not made. The entry stays as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Conflict {
    /// The signed request is not newer than the last one of this node.
    #[error(
        "this signed request was served before, or a newer one of the same node was; sign a new one"
    )]
    Replayed,
    /// The record is older than the registered one.
    #[error(
        "the registry holds record {held} of this node, newer than {offered}; send the newest record"
    )]
    StaleRecord {
        /// Sequence number the registry holds.
        held: u64,
        /// Sequence number that was offered.
        offered: u64,
    },
    /// There is no live entry of this node.
    #[error("this node is not registered here, or its registration expired; register again")]
    NotRegistered,
}

/// When an entry seen at `now` expires.
fn expiry(certificate_ends_at: UnixMillis, now: UnixMillis, ttl: Duration) -> UnixMillis {
    now.plus(ttl).min(certificate_ends_at)
}

/// Takes `incoming` in. `stamp` is the time of a signed request, `None` for one authenticated by TLS.
///
/// # Errors
/// [`Conflict::Replayed`] and [`Conflict::StaleRecord`].
pub fn register(
    existing: Option<&Entry>,
    incoming: Registration,
    stamp: Option<UnixMillis>,
    now: UnixMillis,
    ttl: Duration,
) -> Result<(Entry, Change), Conflict> {
    let last_stamp = next_stamp(existing, stamp)?;
    let expires_at = expiry(incoming.certificate_ends_at, now, ttl);
    let (registered_at, change) = match existing {
        Some(entry) => {
            let held = &entry.registration;
            let live = entry.expires_at > now;
            // An ended entry holds nobody back: a node whose clock was ahead, and is right again, comes with a lower number.
            if live && incoming.record.is_some() && incoming.sequence < held.sequence {
                return Err(Conflict::StaleRecord {
                    held: held.sequence,
                    offered: incoming.sequence,
                });
            }
            if !live {
                (now, Change::Created)
            } else if *held == incoming {
                (entry.registered_at, Change::Unchanged)
            } else {
                (entry.registered_at, Change::Updated)
            }
        }
        None => (now, Change::Created),
    };
    let entry = Entry {
        registration: incoming,
        registered_at,
        last_seen_at: now,
        expires_at,
        last_stamp,
    };
    Ok((entry, change))
}

/// The node says that it lives.
///
/// # Errors
/// [`Conflict::NotRegistered`] and [`Conflict::Replayed`].
pub fn heartbeat(
    existing: Option<&Entry>,
    stamp: Option<UnixMillis>,
    now: UnixMillis,
    ttl: Duration,
) -> Result<Entry, Conflict> {
    let Some(entry) = existing.filter(|entry| entry.expires_at > now) else {
        return Err(Conflict::NotRegistered);
    };
    let last_stamp = next_stamp(existing, stamp)?;
    Ok(Entry {
        last_seen_at: now,
        expires_at: expiry(entry.registration.certificate_ends_at, now, ttl),
        last_stamp,
        ..entry.clone()
    })
}

/// The node leaves: its entry ends now. `None` if there was no live entry, which is no error.
///
/// # Errors
/// [`Conflict::Replayed`].
pub fn leave(
    existing: Option<&Entry>,
    stamp: Option<UnixMillis>,
    now: UnixMillis,
) -> Result<Option<Entry>, Conflict> {
    let last_stamp = next_stamp(existing, stamp)?;
    Ok(existing
        .filter(|entry| entry.expires_at > now)
        .map(|entry| Entry {
            expires_at: now,
            last_stamp,
            ..entry.clone()
        }))
}

fn next_stamp(existing: Option<&Entry>, stamp: Option<UnixMillis>) -> Result<UnixMillis, Conflict> {
    let last = existing.map_or(UnixMillis(0), |entry| entry.last_stamp);
    match stamp {
        Some(stamp) if stamp <= last => Err(Conflict::Replayed),
        Some(stamp) => Ok(stamp),
        None => Ok(last),
    }
}

/// A page of the peers of one organisation, ordered by peer id.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerQuery {
    /// Whose peers.
    pub organization: OrganizationId,
    /// Only those of this region.
    pub region: Option<String>,
    /// Only those with this status; without it all that are not offline.
    pub status: Option<Status>,
    /// Peers per page, 1 to [`MAX_PAGE`].
    pub limit: u32,
    /// Only those whose peer id, as text, sorts after this one.
    pub after: Option<PeerId>,
}

/// Peers in one page when the request names no number (CF-11).
pub const DEFAULT_PAGE: u32 = 50;

/// The most peers in one page: what the biggest intended network holds.
pub const MAX_PAGE: u32 = 500;

/// The times an entry must lie between to have a status: half-open ranges, so that an engine can use its index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StatusBounds {
    /// `expires_at` is at least this.
    pub expires_from: UnixMillis,
    /// `expires_at` is before this.
    pub expires_before: UnixMillis,
    /// `last_seen_at` is at least this.
    pub seen_from: UnixMillis,
    /// `last_seen_at` is before this.
    pub seen_before: UnixMillis,
}

impl StatusBounds {
    /// The bounds of `status`, or of everything live.
    #[must_use]
    pub fn new(status: Option<Status>, now: UnixMillis, ttl: Duration) -> Self {
        let live_from = UnixMillis(now.0.saturating_add(1));
        let fresh_from = now.minus(ttl * 2 / 3);
        // The largest value that an engine's signed integer holds.
        let end = UnixMillis(i64::MAX.unsigned_abs());
        let all_live = Self {
            expires_from: live_from,
            expires_before: end,
            seen_from: UnixMillis(0),
            seen_before: end,
        };
        match status {
            None => all_live,
            Some(Status::Online) => Self {
                seen_from: fresh_from,
                ..all_live
            },
            Some(Status::Unreachable) => Self {
                seen_before: fresh_from,
                ..all_live
            },
            Some(Status::Offline) => Self {
                expires_from: UnixMillis(0),
                expires_before: live_from,
                ..all_live
            },
        }
    }

    /// Whether `entry` lies within.
    #[must_use]
    pub fn contain(&self, entry: &Entry) -> bool {
        (self.expires_from..self.expires_before).contains(&entry.expires_at)
            && (self.seen_from..self.seen_before).contains(&entry.last_seen_at)
    }
}

impl Entry {
    /// The node's status at `now`.
    #[must_use]
    pub fn status(&self, now: UnixMillis, ttl: Duration) -> Status {
        [Status::Offline, Status::Unreachable]
            .into_iter()
            .find(|status| StatusBounds::new(Some(*status), now, ttl).contain(self))
            .unwrap_or(Status::Online)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const TTL: Duration = Duration::from_secs(90);
    const NOW: UnixMillis = UnixMillis(1_700_000_000_000);

    fn peer() -> PeerId {
        warren_identity::NodeKey::from_seed([7; 32]).peer_id()
    }

    fn registration() -> Registration {
        Registration {
            peer_id: peer(),
            organization: "org_acme_corp".parse().unwrap(),
            name: "node-1".into(),
            region: Some("us-west".into()),
            addresses: vec!["/ip4/10.0.1.5/tcp/4001".into()],
            bulk_addresses: Vec::new(),
            roles: Vec::new(),
            capabilities: vec!["storage".into()],
            record: None,
            sequence: 0,
            certificate_ends_at: NOW.plus(Duration::from_secs(86_400)),
        }
    }

    fn entry() -> Entry {
        register(None, registration(), None, NOW, TTL).unwrap().0
    }

    fn secs(secs: u64) -> Duration {
        Duration::from_secs(secs)
    }

    #[test]
    fn given_the_same_registration_twice_then_nothing_changes_but_its_end() {
        let first = entry();
        let later = NOW.plus(secs(30));
        let (second, change) = register(Some(&first), registration(), None, later, TTL).unwrap();
        assert_eq!(change, Change::Unchanged);
        assert_eq!(second.registered_at, NOW);
        assert_eq!(second.expires_at, later.plus(TTL));
    }

    #[test]
    fn given_an_expired_entry_when_registered_then_it_is_new() {
        let later = NOW.plus(TTL);
        let (entry, change) = register(Some(&entry()), registration(), None, later, TTL).unwrap();
        assert_eq!((change, entry.registered_at), (Change::Created, later));
    }

    #[test]
    fn an_entry_never_outlives_the_certificate() {
        let mut short = registration();
        short.certificate_ends_at = NOW.plus(secs(10));
        let (entry, _) = register(None, short, None, NOW, TTL).unwrap();
        assert_eq!(entry.expires_at, NOW.plus(secs(10)));
        let beat = heartbeat(Some(&entry), None, NOW.plus(secs(5)), TTL).unwrap();
        assert_eq!(beat.expires_at, NOW.plus(secs(10)));
    }

    #[test]
    fn given_a_signed_request_when_replayed_then_it_is_refused_even_after_leaving() {
        let stamp = Some(NOW);
        let (first, _) = register(None, registration(), stamp, NOW, TTL).unwrap();
        let again = register(Some(&first), registration(), stamp, NOW.plus(secs(1)), TTL);
        assert_eq!(again.unwrap_err(), Conflict::Replayed);
        let left = leave(Some(&first), Some(NOW.plus(secs(2))), NOW.plus(secs(2)))
            .unwrap()
            .unwrap();
        let revive = register(Some(&left), registration(), stamp, NOW.plus(secs(3)), TTL);
        assert_eq!(revive.unwrap_err(), Conflict::Replayed);
    }

    #[test]
    fn given_an_older_record_then_the_newer_one_stays() {
        let record = |sequence| Registration {
            record: Some(vec![1]),
            sequence,
            ..registration()
        };
        let (held, _) = register(None, record(5), None, NOW, TTL).unwrap();
        assert_eq!(
            register(Some(&held), record(4), None, NOW, TTL).unwrap_err(),
            Conflict::StaleRecord {
                held: 5,
                offered: 4
            }
        );
    }

    #[test]
    fn given_an_expired_entry_when_its_clock_was_set_back_then_the_lower_record_is_taken() {
        let record = |sequence| Registration {
            record: Some(vec![1]),
            sequence,
            ..registration()
        };
        let (ended, _) = register(None, record(5), None, NOW, TTL).unwrap();
        let (entry, change) = register(Some(&ended), record(4), None, NOW.plus(TTL), TTL).unwrap();
        assert_eq!((entry.registration.sequence, change), (4, Change::Created));
    }

    #[test]
    fn given_no_live_entry_then_a_heartbeat_asks_to_register() {
        assert_eq!(
            heartbeat(None, None, NOW, TTL).unwrap_err(),
            Conflict::NotRegistered
        );
        assert_eq!(
            heartbeat(Some(&entry()), None, NOW.plus(TTL), TTL).unwrap_err(),
            Conflict::NotRegistered
        );
    }

    #[test]
    fn the_status_follows_the_time_since_the_last_heartbeat() {
        let entry = entry();
        let at = |after| entry.status(NOW.plus(secs(after)), TTL);
        assert_eq!(
            [at(0), at(60), at(61), at(89), at(90)],
            [
                Status::Online,
                Status::Online,
                Status::Unreachable,
                Status::Unreachable,
                Status::Offline
            ]
        );
    }

    #[test]
    fn given_a_node_left_then_it_is_offline_at_once_and_leaving_twice_is_no_error() {
        let left = leave(Some(&entry()), None, NOW).unwrap().unwrap();
        assert_eq!(left.status(NOW, TTL), Status::Offline);
        assert_eq!(leave(Some(&left), None, NOW).unwrap(), None);
    }
}
