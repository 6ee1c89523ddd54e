//! What the management API asks of the daemon: reload, bootstrap, register, join tokens, announcements.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::FutureExt;
use rustls_pki_types::CertificateDer;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use warren_api::types::{Grant, GrantRequest, Reloaded, Renewed};
use warren_api::{ApiError, Control, ControlFuture, Held, StatusCode};
use warren_config::{Loaded, Role, Settings};
use warren_content::DocumentId;
use warren_discovery::engine::{EngineError, Registry};
use warren_discovery::grants::{CreateGrantError, Grants};
use warren_identity::join::{JoinGrant, JoinSecret, JoinToken};
use warren_identity::{
    Capabilities, Revocations, Roots, Trust, UnixMillis, UnixTime, verify_member,
};
use warren_mesh::Mesh;
use warren_telemetry::logging::LogHandle;

use crate::peers::{Announcement, MeshPeers};
use crate::random;
use crate::settings::Sources;
use crate::trust_keeper::RenewalRequest;

/// How long `bootstrap` waits for a first peer.
const BOOTSTRAP_WAIT: Duration = Duration::from_secs(10);

/// Seconds after which a registry that is away may be back.
const REGISTRY_RETRY_S: u64 = 10;

/// Seconds that a renewal takes at most, as a rule.
const RENEWAL_RETRY_S: u64 = 10;

/// The daemon as the API sees it.
pub(crate) struct DaemonControl {
    /// What to read again; no files for a node that was not started from files.
    pub(crate) sources: Sources,
    /// What is in force.
    pub(crate) loaded: Mutex<Loaded>,
    /// The settings in force, for those who can follow a change.
    pub(crate) settings: watch::Sender<Arc<Settings>>,
    pub(crate) log: Option<LogHandle>,
    pub(crate) mesh: Mesh,
    pub(crate) peers: MeshPeers,
    pub(crate) trust: Trust,
    /// Asks the keeper of the certificate for another.
    pub(crate) renewals: mpsc::Sender<RenewalRequest>,
    /// Asks the discovery client for the list again; `None` without servers.
    pub(crate) refresh: Option<Arc<Notify>>,
    /// Where join tokens are kept; `None` without the role.
    pub(crate) registry: Option<Arc<dyn Registry>>,
}

impl DaemonControl {
    /// Reads the files again and applies what can change.
    pub(crate) async fn reload_now(&self) -> Result<Reloaded, ApiError> {
        let refuse = |message: String| {
            ApiError::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "bad_configuration",
                message,
            )
        };
        if self.sources.files.is_empty() {
            return Err(refuse("this node was not started from configuration files: there is nothing to read again".to_owned()));
        }
        let sources = self.sources.clone();
        let new = tokio::task::spawn_blocking(move || sources.load())
            .await
            .map_err(|error| {
                ApiError::internal(format!("the configuration could not be read: {error}"))
            })?
            .map_err(|problems| refuse(format!("the configuration in force stays: {problems}")))?;
        let mut loaded = self.loaded.lock().unwrap_or_else(PoisonError::into_inner);
        let warnings = new.warnings.iter().map(ToString::to_string).collect();
        let plan = match warren_config::diff(&loaded, &new) {
            Ok(plan) => plan,
            Err(refused) => {
                let refused: Vec<String> = refused.iter().map(ToString::to_string).collect();
                tracing::warn!(
                    "the new configuration would lower protection and was not taken: {}",
                    refused.join("; ")
                );
                return Ok(Reloaded {
                    applied: Vec::new(),
                    needs_restart: Vec::new(),
                    refused,
                    warnings,
                });
            }
        };
        if let Some(log) = &self.log {
            log.set_level(&plan.in_force.settings.logging.level)
                .map_err(|error| refuse(error.to_string()))?;
        }
        let names =
            |keys: &[&'static str]| keys.iter().map(|key| (*key).to_owned()).collect::<Vec<_>>();
        let reloaded = Reloaded {
            applied: names(&plan.apply),
            needs_restart: names(&plan.needs_restart),
            refused: Vec::new(),
            warnings,
        };
        self.settings
            .send_replace(Arc::new(plan.in_force.settings.clone()));
        *loaded = plan.in_force;
        tracing::info!(applied = ?reloaded.applied, needs_restart = ?reloaded.needs_restart, "configuration read again");
        Ok(reloaded)
    }

    async fn bootstrap_now(&self) -> Result<(), ApiError> {
        if let Some(refresh) = &self.refresh {
            refresh.notify_one();
        }
        let seeds = self
            .settings
            .borrow()
            .network
            .libp2p
            .bootstrap_peers
            .clone();
        if seeds.is_empty() && self.refresh.is_none() {
            return Ok(());
        }
        let dials = seeds.into_iter().map(|seed| {
            let mesh = self.mesh.clone();
            async move {
                if let Err(error) = mesh.connect(seed).await {
                    tracing::info!("a bootstrap peer was not reached: {error}");
                }
            }
        });
        // The dials go on by themselves; the answer says who is there by now.
        let _ = tokio::time::timeout(BOOTSTRAP_WAIT, futures::future::join_all(dials)).await;
        Ok(())
    }

    /// The CA that this node's own certificate is of, which a joining machine will see: while a CA is rolled over there
    /// are several.
    fn own_ca(&self) -> Option<CertificateDer<'static>> {
        let (chain, roots) = (self.trust.chain(), self.trust.roots());
        roots.certificates().iter().find_map(|root| {
            let only = Roots::new(roots.organization().clone(), [root.der().clone()]).ok()?;
            verify_member(&chain, &only, &Revocations::none(), UnixTime::now()).ok()?;
            Some(root.der().clone())
        })
    }

    async fn renew_now(&self) -> Result<Renewed, ApiError> {
        let (request, answer) = oneshot::channel();
        self.renewals.try_send(request).map_err(|_| {
            ApiError::unavailable("a renewal is under way; ask again", RENEWAL_RETRY_S)
        })?;
        let renewed = answer.await.map_err(|_| {
            ApiError::unavailable("the node stops; ask again once it is up", RENEWAL_RETRY_S)
        })?;
        renewed.map_err(|reason| {
            let message = format!("the certificate in force stays: {reason}");
            ApiError::new(StatusCode::CONFLICT, "not_renewed", message)
        })?;
        let leaf = self
            .trust
            .leaf()
            .ok_or_else(|| ApiError::internal("the node has no certificate"))?;
        Ok(Renewed {
            not_after: UnixMillis::from_secs(leaf.facts().not_after.as_secs()).rfc3339(),
        })
    }

    async fn grant_now(&self, request: GrantRequest) -> Result<Grant, ApiError> {
        let not_here = || {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "no_issuer",
                "this node issues no certificates: ask one that has the roles `discovery` and `issuer`",
            )
        };
        let registry = self.registry.clone().ok_or_else(not_here)?;
        if !self.settings.borrow().roles.contains(&Role::Issuer) {
            return Err(not_here());
        }
        let ca = self.own_ca().ok_or_else(|| {
            ApiError::internal("the node's certificate is of none of the CA certificates it has")
        })?;
        let token = JoinToken::new(&ca, JoinSecret::from_random(random::bytes()), None)
            .map_err(|error| bad(error.to_string()))?;
        let now_s = UnixTime::now().as_secs();
        let expires_at_unix_s = now_s.saturating_add(request.expires_in_seconds);
        let ip = request.ip.iter().map(|ip| {
            ip.parse()
                .map_err(|error| bad(format!("{ip:?} is no IP address: {error}")))
        });
        let grant = JoinGrant {
            token_hash: token.secret().token_hash(),
            name: request.name,
            capabilities: Capabilities::parse_known(&request.capabilities)
                .map_err(|error| bad(error.to_string()))?,
            dns: request.dns,
            ip: ip.collect::<Result<_, _>>()?,
            validity_s: request.validity_seconds,
            expires_at_unix_s,
        };
        Grants::new(registry)
            .create(grant, UnixMillis::from_secs(now_s))
            .await
            .map_err(not_granted)?;
        Ok(Grant {
            token: token.to_text().to_string(),
            expires_at: UnixMillis::from_secs(expires_at_unix_s).rfc3339(),
        })
    }
}

fn bad(message: String) -> ApiError {
    ApiError::new(StatusCode::UNPROCESSABLE_ENTITY, "bad_grant", message)
}

/// What the caller got wrong is one thing, a registry that is away another.
fn not_granted(error: CreateGrantError) -> ApiError {
    match error {
        CreateGrantError::Engine(error @ EngineError::Corrupt { .. }) => {
            ApiError::internal(error.to_string())
        }
        CreateGrantError::Engine(error) => {
            ApiError::unavailable(format!("no token was made: {error}"), REGISTRY_RETRY_S)
        }
        refused => bad(refused.to_string()),
    }
}

impl Control for DaemonControl {
    fn reload(&self) -> ControlFuture<'_, Reloaded> {
        self.reload_now().boxed()
    }

    fn bootstrap(&self) -> ControlFuture<'_, ()> {
        self.bootstrap_now().boxed()
    }

    fn register(&self) -> ControlFuture<'_, ()> {
        async move {
            match &self.refresh {
                Some(refresh) => {
                    refresh.notify_one();
                    Ok(())
                }
                None => Err(ApiError::new(
                    StatusCode::CONFLICT,
                    "no_servers",
                    "no discovery server is configured: set network.discovery.servers",
                )),
            }
        }
        .boxed()
    }

    fn grant(&self, request: GrantRequest) -> ControlFuture<'_, Grant> {
        self.grant_now(request).boxed()
    }

    fn renew(&self) -> ControlFuture<'_, Renewed> {
        self.renew_now().boxed()
    }

    fn announce(&self, document: DocumentId, held: Held) {
        self.peers.tell(match held {
            Held::Here => Announcement::Holds(document),
            Held::Gone => Announcement::Dropped(document),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_registry_that_is_away_is_no_fault_of_the_caller() {
        let away = CreateGrantError::Engine(EngineError::Unavailable {
            reason: "connection refused".to_owned(),
        });

        assert_eq!(not_granted(away).code(), "unavailable");
        assert_eq!(
            not_granted(CreateGrantError::BadLifetime).code(),
            "bad_grant"
        );
    }
}
