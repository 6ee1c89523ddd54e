//! Keeps certificate, CA certificates and revocation lists current while the node runs.
//!
//! Files are looked at once a second and read again when they change, so a certificate or list that an operator or a
//! script puts in place takes effect at once; one that cannot be used is refused by name and the old one stays. A list that
//! came from a peer is kept on disk. A leaf near its end is renewed through a discovery server that issues, or by this
//! node's own issuer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio_util::sync::CancellationToken;
use warren_config::Settings;
use warren_discovery::client::{ServerApi, TimeOuts};
use warren_identity::{LeafRequest, RootCertificate, Trust, UnixMillis, UnixTime};
use warren_telemetry::ComponentHealth;

use crate::ca_folder::{CA_CERT, CaFolder};
use crate::files::{self, Overwrite};
use crate::material::{self, FileMerge, MaterialError};

/// How often files are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// A renewal rests at most this long, failed or not, so that a server that cannot issue is not asked all the time.
const LONGEST_RENEWAL_PAUSE: Duration = Duration::from_secs(3600);
/// And at least this long.
const SHORTEST_RENEWAL_PAUSE: Duration = Duration::from_secs(10);

/// Asks for a renewal now; the answer comes when the new certificate is in force, or says why there is none.
pub(crate) type RenewalRequest = oneshot::Sender<Result<(), String>>;

/// Size and time of a file; `None` where it is not there.
type Stamp = Option<(SystemTime, u64)>;

fn stamp(path: &Path) -> Stamp {
    let metadata = std::fs::metadata(path).ok()?;
    Some((metadata.modified().ok()?, metadata.len()))
}

struct Watched {
    path: PathBuf,
    seen: Stamp,
}

impl Watched {
    fn new(path: PathBuf) -> Self {
        let seen = stamp(&path);
        Self { path, seen }
    }

    fn changed(&mut self) -> bool {
        let now = stamp(&self.path);
        let changed = now.is_some() && now != self.seen;
        self.seen = now;
        changed
    }
}

/// The keeper's task and what it remembers.
pub(crate) struct TrustKeeper {
    trust: Trust,
    settings: watch::Receiver<Arc<Settings>>,
    leaf: Watched,
    roots: Watched,
    crl: Option<Watched>,
    /// Certificate and key of the management API, where it has its own.
    api: Option<(Watched, Watched)>,
    /// Why the newest leaf file could not be used.
    leaf_refused: Option<String>,
    /// What was last said of the CA's end.
    ca_warning: Option<String>,
    /// Whether this node issues under the CA of its own leaf: a younger CA that is trusted too gives it none.
    is_of_our_own_ca: bool,
    learnt: PathBuf,
    /// Issuer and number of each list that is on disk.
    kept: Vec<(String, u64)>,
    health: ComponentHealth,
    next_renewal: tokio::time::Instant,
    asked: mpsc::Receiver<RenewalRequest>,
}

impl TrustKeeper {
    pub(crate) fn new(
        trust: Trust,
        settings: watch::Receiver<Arc<Settings>>,
        health: ComponentHealth,
        asked: mpsc::Receiver<RenewalRequest>,
    ) -> Self {
        let now = Arc::clone(&settings.borrow());
        let security = &now.network.security;
        Self {
            leaf: Watched::new(security.tls_cert.clone()),
            roots: Watched::new(security.ca_cert.clone()),
            crl: security.crl.clone().map(Watched::new),
            api: now
                .api
                .tls
                .as_ref()
                .filter(|tls| tls.cert != security.tls_cert)
                .map(|tls| {
                    (
                        Watched::new(tls.cert.clone()),
                        Watched::new(tls.key.clone()),
                    )
                }),
            leaf_refused: None,
            ca_warning: None,
            is_of_our_own_ca: false,
            learnt: material::learnt_crl(&now),
            kept: Vec::new(),
            next_renewal: tokio::time::Instant::now(),
            trust,
            settings,
            health,
            asked,
        }
    }

    /// Runs until the node stops.
    pub(crate) async fn run(mut self, shutdown: CancellationToken) {
        let mut tick = tokio::time::interval(LOOK_INTERVAL);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let changed = Arc::new(Notify::new());
        let listener = Arc::clone(&changed);
        self.trust.on_change(move |_| listener.notify_one());
        loop {
            let mut waiting = None;
            let work: fn(&mut Self) = tokio::select! {
                () = shutdown.cancelled() => break,
                Some(request) = self.asked.recv() => {
                    waiting = Some(request);
                    Self::look_after_files
                }
                // A list from a peer is kept at once: the next moment may be a power cut.
                () = changed.notified() => Self::keep_lists,
                _ = tick.tick() => Self::look_after_files,
            };
            let Some(keeper) = self.off_the_runtime(work).await else {
                return;
            };
            self = keeper;
            let due = self.renewal_due() && tokio::time::Instant::now() >= self.next_renewal;
            if !due && waiting.is_none() {
                continue;
            }
            self.next_renewal = tokio::time::Instant::now() + self.renewal_pause();
            let Some(renewed) = shutdown.run_until_cancelled(self.renew()).await else {
                break;
            };
            let Some(keeper) = self.off_the_runtime(Self::look_after_files).await else {
                return;
            };
            self = keeper;
            if let Some(waiting) = waiting {
                let refused = self.leaf_refused.clone();
                // Whoever asked may have left.
                let _ = waiting.send(renewed.and(refused.map_or(Ok(()), Err)));
            }
        }
        self.off_the_runtime(Self::keep_lists).await;
    }

    /// Reading, syncing and checking signatures take their time: not on a thread that serves everybody.
    async fn off_the_runtime(mut self, work: fn(&mut Self)) -> Option<Self> {
        let worked = tokio::task::spawn_blocking(move || {
            work(&mut self);
            self
        });
        match worked.await {
            Ok(keeper) => Some(keeper),
            Err(error) => {
                tracing::error!(
                    "certificates and revocation lists are no longer followed, restart the node: {error}"
                );
                None
            }
        }
    }

    fn look_after_files(&mut self) {
        self.follow_settings();
        self.look();
        self.is_of_our_own_ca = self.issues_under_its_own_ca();
        self.keep_lists();
        self.report();
    }

    /// A reload may name other files; a file that is new to us counts as changed.
    fn follow_settings(&mut self) {
        if !self.settings.has_changed().unwrap_or(false) {
            return;
        }
        let settings = Arc::clone(&self.settings.borrow_and_update());
        let security = &settings.network.security;
        for (watched, path) in [
            (&mut self.leaf, &security.tls_cert),
            (&mut self.roots, &security.ca_cert),
        ] {
            if watched.path != *path {
                *watched = Watched {
                    path: path.clone(),
                    seen: None,
                };
            }
        }
        if self.crl.as_ref().map(|crl| &crl.path) != security.crl.as_ref() {
            self.crl = security
                .crl
                .clone()
                .map(|path| Watched { path, seen: None });
        }
    }

    /// Reads again what has changed on disk. CA certificates come first: a new leaf may be of a new CA.
    fn look(&mut self) {
        let now = UnixTime::now();
        if self.roots.changed() {
            let organization = self.trust.organization().clone();
            let replaced = material::roots(&self.roots.path, organization).and_then(|roots| {
                let path = self.roots.path.clone();
                self.trust
                    .replace_roots(roots, now)
                    .map_err(|source| MaterialError::Refused {
                        path,
                        source: Box::new(source),
                    })
            });
            // A leaf that was refused for want of these gets another look.
            if replaced.is_ok() && self.leaf_refused.is_some() {
                self.leaf.seen = None;
            }
            told(replaced, "CA certificates", &self.roots.path);
        }
        if self.leaf.changed() {
            let path = &self.leaf.path;
            let roles = &self.settings.borrow().roles;
            let replaced = material::leaf(path).and_then(|leaf| {
                // A role that runs would be refused by every receiver from now on.
                material::check_roles(roles, path, &leaf)?;
                material::replace_leaf(&self.trust, path, leaf, now)
            });
            self.leaf_refused = replaced.as_ref().err().map(ToString::to_string);
            told(replaced, "certificate", path);
        }
        if let Some((cert, key)) = &mut self.api {
            // Both are looked at: either may be copied first.
            let changed = [cert.changed(), key.changed()].contains(&true);
            if changed {
                let replaced = material::https_identity(&cert.path, &key.path)
                    .map(|identity| self.trust.replace_https_identity(identity));
                told(replaced, "API certificate", &cert.path);
            }
        }
        if let Some(crl) = &mut self.crl
            && crl.changed()
        {
            match material::merge_file(&self.trust, &crl.path) {
                Ok(FileMerge::Known) => {}
                Ok(FileMerge::Older) => tracing::warn!(
                    "{} is an older revocation list than the one in force, which stays: sign a fresh one with `warren ca crl`",
                    crl.path.display()
                ),
                merged => told(merged.map(drop), "revocation list", &crl.path),
            }
        }
    }

    fn issues_under_its_own_ca(&self) -> bool {
        let settings = self.settings.borrow();
        let (Some(folder), Some(own)) = (
            &settings.network.security.issuer_dir,
            self.trust.own_member(),
        ) else {
            return false;
        };
        let organization = self.trust.organization().clone();
        material::roots(&folder.join(CA_CERT), organization).is_ok_and(|roots| {
            // What signs comes first; others may have been appended to be trusted.
            let signs = roots.certificates().first();
            signs.is_some_and(|ca| ca.key_hash() == own.issuer)
        })
    }

    /// Writes lists to the storage folder when a newer one has come from anywhere.
    fn keep_lists(&mut self) {
        let revocations = self.trust.revocations();
        let lists = revocations.lists().iter();
        let known: Vec<(String, u64)> = lists
            .map(|list| (list.issuer().to_owned(), list.number()))
            .collect();
        if known == self.kept {
            return;
        }
        match material::keep_revocations(&self.trust, &self.learnt) {
            Ok(()) => self.kept = known,
            Err(error) => {
                tracing::warn!("revocations are in force but not kept for the next start: {error}");
            }
        }
    }

    fn report(&mut self) {
        let now = UnixTime::now();
        let ca_warning = self.trust.roots().due_for_roll_over(now).map(ca_ends);
        if let Some(warning) = ca_warning
            .as_ref()
            .filter(|_| ca_warning != self.ca_warning)
        {
            tracing::warn!("{warning}");
        }
        self.ca_warning = ca_warning;
        let revocations = self.trust.revocations();
        let standing = match self.trust.own_member() {
            Some(member) => self
                .trust
                .recheck(&member, now)
                .map_err(|refusal| refusal.to_string()),
            None => Err("the node has none".to_owned()),
        };
        if let Err(reason) = standing {
            self.health.failing(format!(
                "the node's certificate admits it nowhere: {reason}; `warren ca issue` makes another, for a new key if this one was revoked"
            ));
        } else if revocations.stale(now).next().is_some() {
            self.health.degraded(
                "a revocation list is past its next update: sign a fresh one with `warren ca crl`",
            );
        } else if let Some(refused) = &self.leaf_refused {
            self.health
                .degraded(format!("the newest certificate was not taken: {refused}"));
        } else if let Some(warning) = &self.ca_warning {
            self.health.degraded(warning.clone());
        } else {
            self.health.ok();
        }
    }

    fn renewal_due(&self) -> bool {
        let now = UnixTime::now();
        let early = self.settings.borrow().network.security.renew_before;
        (self.trust.renewal_due(now) && !self.is_of_our_own_ca)
            || self.trust.leaf().is_some_and(|leaf| {
                let facts = leaf.facts();
                // A leaf that lives shorter than the configured margin is not renewed without end.
                facts.renewal_due(now) || facts.remaining(now) < early.min(facts.lifetime() / 3)
            })
    }

    fn renewal_pause(&self) -> Duration {
        let leaf = self.trust.leaf();
        pause_of(leaf.map_or(Duration::ZERO, |leaf| {
            leaf.facts().remaining(UnixTime::now())
        }))
    }

    /// Has a new leaf issued and puts it in its file; the reason why not is logged too.
    async fn renew(&self) -> Result<(), String> {
        let settings = Arc::clone(&self.settings.borrow());
        let security = &settings.network.security;
        let fresh = match &security.issuer_dir {
            Some(folder) => {
                let trust = self.trust.clone();
                let ca = CaFolder::new(folder, Some(trust.organization().clone()))
                    .with_passphrase_file(security.issuer_passphrase_file.clone());
                let lifetime = security.issuer_leaf_lifetime;
                blocking(move || issued_here(&trust, &ca, lifetime)).await
            }
            None => self.issued_elsewhere(&settings).await,
        };
        let path = self.leaf.path.clone();
        let renewed = match fresh {
            Ok(pem) => blocking(move || put_in_place(&path, &pem)).await,
            Err(reason) => Err(reason),
        };
        match &renewed {
            Ok(()) => tracing::info!("the node's certificate was renewed"),
            Err(reason) => tracing::warn!("the node's certificate was not renewed: {reason}"),
        }
        renewed
    }

    async fn issued_elsewhere(&self, settings: &Settings) -> Result<String, String> {
        let servers = &settings.network.discovery.servers;
        let api = ServerApi::new(self.trust.clone(), TimeOuts::default())
            .map_err(|error| error.to_string())?;
        let mut reason =
            "no discovery server is configured: issue one with `warren ca issue`".to_owned();
        for server in servers {
            let url = server
                .as_str()
                .parse()
                .map_err(|error| format!("{server} is no URL: {error}"))?;
            match api.renew(&url, &settings.network.node_id).await {
                Ok(answer) => return Ok(answer.leaf_pem),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }
}

fn ca_ends(root: &RootCertificate) -> String {
    format!(
        "the CA `{}` ends on {}, and every certificate of it by then: make the next with `warren ca init --after`, add it to network.security.ca_cert everywhere, and take the old one out once no certificate of it is left",
        root.facts().subject,
        UnixMillis::from_secs(root.facts().not_after.as_secs()).rfc3339()
    )
}

/// Several tries are left before a leaf ends, however short it lives.
fn pause_of(remaining: Duration) -> Duration {
    (remaining / 8).clamp(SHORTEST_RENEWAL_PAUSE, LONGEST_RENEWAL_PAUSE)
}

/// A leaf by this node's own issuer. Waits for the CA folder's lock.
fn issued_here(trust: &Trust, ca: &CaFolder, lifetime: Duration) -> Result<String, String> {
    let leaf = trust.leaf().ok_or("the node has no certificate")?;
    let companion = Some(trust.key().companion_key().public_key().to_vec());
    let request = LeafRequest::renewal_of(&leaf, lifetime, companion);
    let fresh = ca.issue(&request).map_err(|error| error.to_string())?;
    Ok(fresh.to_pem())
}

/// The file is what the next look finds, and what the next start reads.
fn put_in_place(path: &Path, pem: &str) -> Result<(), String> {
    files::write_whole(path, pem.as_bytes(), 0o644, Overwrite::Replace)
        .map_err(|error| error.to_string())
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(|error| format!("it broke off: {error}"))?
}

fn told(outcome: Result<(), MaterialError>, what: &str, path: &Path) {
    match outcome {
        Ok(()) => tracing::info!("took the new {what} from {}", path.display()),
        Err(error) => tracing::warn!("the new {what} was not taken, the old one stays: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_renewal_rests_an_hour_at_most_and_leaves_a_short_lived_leaf_several_tries() {
        let minutes = |count: u64| Duration::from_secs(60 * count);
        assert_eq!(pause_of(minutes(30 * 24 * 60)), LONGEST_RENEWAL_PAUSE);
        assert_eq!(pause_of(minutes(4)), Duration::from_secs(30));
        assert_eq!(pause_of(Duration::ZERO), SHORTEST_RENEWAL_PAUSE);
    }
}
