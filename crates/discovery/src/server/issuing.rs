//! `/api/v1/join`, `/api/v1/join/tokens` and `/api/v1/renew`: what an issuer does.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Path, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde_json::json;
use warren_identity::{
    Capability, CertificateAuthority, Csr, IssuanceLedger, IssueError, Leaf, Serial,
    join::{self, JoinError, JoinGrant, JoinRequest, JoinResponse, RenewRequest},
};

use super::{Shared, auth::Call, error::ApiError, now, unix_time};
use crate::{
    core::grants::{self, grant_id},
    engine::Sign,
    grants::{CreateGrantError, Grants},
    wire::{GrantEntry, GrantsAnswer},
};

/// The CA's ledger, wherever it is kept.
pub trait LedgerStore: Send + Sync + 'static {
    /// Lets `work` change the ledger and stores it durably, or not at all. Exclusive; may block for a disk write.
    ///
    /// # Errors
    /// `work`'s own, or [`LedgerError::Store`].
    fn update(
        &self,
        work: &mut dyn FnMut(&mut IssuanceLedger) -> Result<(), JoinError>,
    ) -> Result<(), LedgerError>;
}

/// Why a leaf was not entered in the ledger, and so not handed out.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Nothing was signed.
    #[error(transparent)]
    Join(#[from] JoinError),
    /// The ledger could not be stored.
    #[error("the CA's ledger cannot be written: {0}")]
    Store(String),
}

/// What makes this server an issuer.
#[derive(Clone)]
pub struct Issuer {
    /// The CA.
    pub authority: Arc<CertificateAuthority>,
    /// Where it notes what it issues.
    pub ledger: Arc<dyn LedgerStore>,
    /// Validity of renewed leaves.
    pub leaf_lifetime: Duration,
}

impl Shared {
    fn issuer(&self) -> Result<&Issuer, ApiError> {
        self.issuer.as_ref().ok_or_else(|| {
            ApiError::new(
                StatusCode::NOT_FOUND,
                "no_issuer",
                "this server issues no certificates; ask the one with `roles: [issuer]`, or have the leaf made with `warren ca issue`",
            )
        })
    }

    /// Everything a signature needs, for use inside a transaction.
    fn signer(&self, issuer: &Issuer) -> Signer {
        Signer {
            issuer: issuer.clone(),
            roots: self.trust.roots(),
            revocations: self.trust.revocations(),
        }
    }
}

struct Signer {
    issuer: Issuer,
    roots: warren_identity::Roots,
    revocations: warren_identity::Revocations,
}

impl Signer {
    fn sign(
        &self,
        issue: impl Fn(
            &join::Issuer<'_>,
            &mut IssuanceLedger,
            Serial,
        ) -> Result<JoinResponse, JoinError>,
    ) -> Result<JoinResponse, LedgerError> {
        let issuer = join::Issuer {
            authority: &self.issuer.authority,
            roots: &self.roots,
            revocations: &self.revocations,
        };
        let serial = random_serial()?;
        let mut response = None;
        self.issuer.ledger.update(&mut |ledger| {
            response = Some(issue(&issuer, ledger, serial)?);
            Ok(())
        })?;
        response.ok_or_else(|| LedgerError::Store("the ledger did not take the leaf".into()))
    }

    /// The answer with a leaf that was issued before.
    fn repeat(&self, leaf_pem: String) -> JoinResponse {
        JoinResponse {
            leaf_pem,
            ca_pem: self.roots.to_pem(),
            crl_pem: self.revocations.to_pem(),
            organization: self.issuer.authority.organization().clone(),
        }
    }
}

fn random_serial() -> Result<Serial, LedgerError> {
    let mut bytes = [0; 16];
    aws_lc_rs::rand::fill(&mut bytes)
        .map_err(|_| LedgerError::Store("the system gave no random bytes".into()))?;
    Ok(Serial::from_random(bytes))
}

/// `POST /api/v1/join`: the one thing a stranger may do, if it holds a token.
pub(crate) async fn join(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let outcome = redeem(&shared, &call).await;
    let label = match &outcome {
        Ok(_) => "joined",
        Err(error) => match error.status() {
            StatusCode::UNAUTHORIZED => "unknown_token",
            StatusCode::GONE => "expired_token",
            StatusCode::CONFLICT => "used_token",
            StatusCode::SERVICE_UNAVAILABLE => "unavailable",
            _ => "refused",
        },
    };
    shared.metrics.joined(label);
    outcome
}

async fn redeem(shared: &Arc<Shared>, call: &Call) -> Result<Response, ApiError> {
    let issuer = shared.issuer()?;
    // serde's message could repeat a part of the secret.
    let request: JoinRequest = serde_json::from_slice(&call.body).map_err(|_| {
        ApiError::bad_request("the body is no join request: expected `secret` and `csr_pem`")
    })?;
    let csr = Csr::from_pem(&request.csr_pem).map_err(|error| {
        ApiError::new(
            StatusCode::UNPROCESSABLE_ENTITY,
            "bad_csr",
            error.to_string(),
        )
    })?;
    let peer_id = csr.peer_id();
    let token = request.secret.token_hash();
    let request_hash = grants::request_hash(&csr);
    let signer = shared.signer(issuer);
    let redeemed_at = now();
    let sign: Sign = Box::new(move |grant: &JoinGrant| {
        let response = signer
            .sign(|issuer, ledger, serial| {
                grant.issue(&request, issuer, ledger, unix_time(), serial)
            })
            .map_err(|error| error.to_string())?;
        Ok(grants::redemption(
            request_hash,
            peer_id,
            response.leaf_pem,
            redeemed_at,
        ))
    });
    match shared
        .registry
        .redeem(token, request_hash, redeemed_at, sign)
        .await
    {
        Ok(redemption) => {
            tracing::info!(%peer_id, grant = grant_id(&token), "a machine joined with a token");
            let answer = shared.signer(issuer).repeat(redemption.leaf_pem);
            Ok(Json(answer).into_response())
        }
        Err(error) => {
            tracing::warn!(%peer_id, grant = grant_id(&token), "a join was refused: {error}");
            Err(error.into())
        }
    }
}

/// `POST /api/v1/renew`: a member's fresh leaf, with the names and capabilities it has.
pub(crate) async fn renew(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    let outcome = renewed(&shared, &call).await;
    let label = if outcome.is_ok() {
        "renewed"
    } else {
        "renewal_refused"
    };
    shared.metrics.joined(label);
    outcome
}

async fn renewed(shared: &Shared, call: &Call) -> Result<Response, ApiError> {
    let issuer = shared.issuer()?;
    let caller = call.member(shared)?;
    caller.require_own()?;
    let request: RenewRequest = call.json()?;
    let present = Leaf::new(caller.chain).map_err(|error| {
        ApiError::forbidden(format!("the certificate is no leaf of a node: {error}"))
    })?;
    let signer = shared.signer(issuer);
    let lifetime = issuer.leaf_lifetime;
    let outcome = tokio::task::spawn_blocking(move || {
        signer.sign(|issuer, ledger, serial| {
            issuer.renew(&present, &request, ledger, lifetime, unix_time(), serial)
        })
    })
    .await
    .map_err(|error| LedgerError::Store(format!("signing ended early ({error})")))
    .and_then(|outcome| outcome);
    match outcome {
        Ok(response) => {
            tracing::info!(peer_id = %caller.member.peer_id, "renewed a leaf");
            Ok(Json(response).into_response())
        }
        Err(LedgerError::Join(
            error @ (JoinError::OtherNode | JoinError::Issue(IssueError::PeerRevoked(_))),
        )) => Err(ApiError::forbidden(error.to_string())),
        Err(LedgerError::Join(error)) => {
            let (status, code) = match error {
                JoinError::NotDue { .. } => (StatusCode::CONFLICT, "not_due"),
                JoinError::TooManyRenewals(_) => {
                    (StatusCode::TOO_MANY_REQUESTS, "too_many_renewals")
                }
                _ => (StatusCode::UNPROCESSABLE_ENTITY, "not_issued"),
            };
            Err(ApiError::new(status, code, error.to_string()))
        }
        Err(error @ LedgerError::Store(_)) => {
            let status = StatusCode::INTERNAL_SERVER_ERROR;
            Err(ApiError::new(status, "not_issued", error.to_string()))
        }
    }
}

/// Tokens are made by administrators, over mutual TLS.
fn administrator(shared: &Shared, call: &Call) -> Result<(), ApiError> {
    let caller = call.member(shared)?;
    caller.require_own()?;
    if caller.stamp.is_some() {
        return Err(ApiError::forbidden(
            "join tokens are managed over mutual TLS only, not by signed requests",
        ));
    }
    if !caller.member.allows(&Capability::Admin) {
        return Err(ApiError::forbidden(
            "managing join tokens takes a certificate with the capability `admin`",
        ));
    }
    Ok(())
}

/// `POST /api/v1/join/tokens`: makes a grant. The body is a `JoinGrant`; its token's secret stays with the caller.
pub(crate) async fn create_token(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    shared.issuer()?;
    administrator(&shared, &call)?;
    let grant: JoinGrant = call.json()?;
    let id = grant_id(&grant.token_hash);
    Grants::new(Arc::clone(&shared.registry))
        .create(grant, now())
        .await?;
    Ok((StatusCode::CREATED, Json(json!({ "id": id }))).into_response())
}

/// `GET /api/v1/join/tokens`
pub(crate) async fn tokens(
    State(shared): State<Arc<Shared>>,
    call: Call,
) -> Result<Response, ApiError> {
    administrator(&shared, &call)?;
    let stored = shared.registry.grants().await?;
    let tokens = stored.into_iter().map(GrantEntry::from).collect();
    Ok(Json(GrantsAnswer { tokens }).into_response())
}

/// `DELETE /api/v1/join/tokens/{id}`
pub(crate) async fn withdraw_token(
    State(shared): State<Arc<Shared>>,
    Path(id): Path<String>,
    call: Call,
) -> Result<Response, ApiError> {
    administrator(&shared, &call)?;
    if shared.registry.withdraw_grant(id).await? {
        Ok(StatusCode::NO_CONTENT.into_response())
    } else {
        Err(ApiError::new(
            StatusCode::NOT_FOUND,
            "no_such_token",
            "there is no open join token with this id; a used one cannot be withdrawn, revoke the node instead",
        ))
    }
}

impl From<CreateGrantError> for ApiError {
    fn from(error: CreateGrantError) -> Self {
        match error {
            CreateGrantError::Engine(error) => error.into(),
            other => Self::new(
                StatusCode::UNPROCESSABLE_ENTITY,
                "bad_grant",
                other.to_string(),
            ),
        }
    }
}
