//! Who may call what, beyond being a member: [`Authorizer`], and the one that reads tokens, [`JwtAuthorizer`].
//!
//! A token travels in the metadata as `authorization: Bearer <token>`. It goes along with the calls that a handler makes
//! with its context, so that a director's workers see for whom they work. Neither `Debug` nor a log line shows it.

mod keys;

use std::collections::BTreeSet;
use std::num::NonZeroUsize;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, SystemTime};

use arc_swap::ArcSwap;
use aws_lc_rs::digest;
use jsonwebtoken::{Validation, decode, decode_header};
use lru::LruCache;
use tokio::task::AbortHandle;
use warren_identity::Member;

pub use self::keys::{TokenAlgorithm, TokenKeys, TokenKeysError};
use crate::core::claims::Claims;
use crate::core::metadata::Metadata;
use crate::status::{Code, Status};

/// The metadata key of the token.
pub(crate) const AUTHORIZATION: &str = "authorization";
/// How often a key file is looked at.
const JWKS_CHECK_INTERVAL: Duration = Duration::from_secs(1);
/// How far the issuer's clock may be off.
const DEFAULT_LEEWAY: Duration = Duration::from_secs(30);
/// Verified tokens remembered: a signature costs as much as fifty calls.
const REMEMBERED_TOKENS: NonZeroUsize = NonZeroUsize::MIN.saturating_add(4_095);

/// A call as an [`Authorizer`] sees it.
#[derive(Debug)]
#[non_exhaustive]
pub struct AuthorizeRequest<'a> {
    /// What is called: `Service/Method`.
    pub path: &'a str,
    /// The permission that the method declares. `None` also for what this server passes on: who carries it out knows.
    pub permission: Option<&'a str>,
    /// Who calls, as its certificate says.
    pub caller: &'a Member,
    /// What came as `authorization: Bearer …`.
    pub token: Option<Token<'a>>,
    /// The time of day.
    pub now: SystemTime,
}

/// A bearer's token. `Debug` does not show it.
#[derive(Clone, Copy)]
pub struct Token<'a>(&'a str);

impl<'a> Token<'a> {
    /// Its text.
    #[must_use]
    pub const fn expose(self) -> &'a str {
        self.0
    }
}

impl std::fmt::Debug for Token<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Decides about each call before its handler sees it. A method that declares a permission is refused by a server
/// without an authorizer.
pub trait Authorizer: Send + Sync + 'static {
    /// Lets a call through, with what its token says if it has one. Runs where calls are read, so it must not wait.
    ///
    /// # Errors
    /// What the caller gets: [`Code::Unauthenticated`] or [`Code::PermissionDenied`].
    fn authorize(&self, call: &AuthorizeRequest<'_>) -> Result<Option<Arc<Claims>>, Status>;
}

impl<T: Authorizer + ?Sized> Authorizer for Arc<T> {
    fn authorize(&self, call: &AuthorizeRequest<'_>) -> Result<Option<Arc<Claims>>, Status> {
        T::authorize(self, call)
    }
}

/// Verifies JSON Web Tokens (RFC 7519, with the practices of RFC 8725) and checks the permissions that methods declare.
///
/// Every call needs a token, but those of [`JwtAuthorizer::with_open_methods`]. A key serves its own algorithm only, so
/// the header's `alg` decides nothing; `none` is no algorithm here. `exp`, `iss` and `aud` must be there and right, `nbf` is held
/// to if there. A token that was verified once is remembered until the keys change; its times are checked at each call.
#[derive(Debug)]
pub struct JwtAuthorizer {
    keys: Arc<KeysInForce>,
    validation: Validation,
    leeway: Duration,
    open_methods: BTreeSet<String>,
    /// By SHA-256 of the token.
    verified: Mutex<LruCache<[u8; 32], Verified>>,
    _watch: Option<AbortOnDrop>,
}

#[derive(Debug)]
struct Verified {
    keys: Weak<TokenKeys>,
    claims: Arc<Claims>,
}

#[derive(Debug)]
struct KeysInForce(ArcSwap<TokenKeys>);

impl JwtAuthorizer {
    /// Takes tokens of `issuer` for `audience` that are signed with one of `keys`.
    #[must_use]
    pub fn new(keys: TokenKeys, issuer: &str, audience: &str) -> Self {
        let mut validation = Validation::default();
        validation.set_issuer(&[issuer]);
        validation.set_audience(&[audience]);
        validation.set_required_spec_claims(&["exp", "iss", "aud"]);
        // Times are checked at every call, signatures once.
        validation.validate_exp = false;
        validation.validate_nbf = false;
        Self {
            keys: Arc::new(KeysInForce(ArcSwap::from_pointee(keys))),
            validation,
            leeway: DEFAULT_LEEWAY,
            open_methods: BTreeSet::new(),
            verified: Mutex::new(LruCache::new(REMEMBERED_TOKENS)),
            _watch: None,
        }
    }

    /// The same with the keys of a JSON Web Key Set file, which is read again within a second of its change; a file that
    /// cannot be read then is logged and the keys stay. Needs a Tokio runtime.
    ///
    /// # Errors
    /// [`TokenKeysError`].
    pub fn from_jwks_file(
        path: impl AsRef<Path>,
        issuer: &str,
        audience: &str,
    ) -> Result<Self, TokenKeysError> {
        let path = path.as_ref();
        let stamp = stamp(path);
        let mut authorizer = Self::new(TokenKeys::from_jwks_file(path)?, issuer, audience);
        let watch = watch(path.to_owned(), stamp, Arc::downgrade(&authorizer.keys));
        authorizer._watch = Some(AbortOnDrop(tokio::spawn(watch).abort_handle()));
        Ok(authorizer)
    }

    /// How far the issuer's clock may be off; 30 s unless told.
    #[must_use]
    pub const fn with_leeway(mut self, leeway: Duration) -> Self {
        self.leeway = leeway;
        self
    }

    /// Methods (`Service/Method`) that members may call without a token, such as health checks. A permission that one of
    /// them declares is checked all the same.
    #[must_use]
    pub fn with_open_methods(mut self, paths: impl IntoIterator<Item: Into<String>>) -> Self {
        self.open_methods.extend(paths.into_iter().map(Into::into));
        self
    }

    /// Puts other keys in force, of a secret manager say. Tokens of keys that are left out are refused from now on.
    pub fn replace_keys(&self, keys: TokenKeys) {
        self.keys.0.store(Arc::new(keys));
    }

    fn verify(&self, token: &str, now: SystemTime) -> Result<Arc<Claims>, Status> {
        let keys = self.keys.0.load_full();
        let digest = sha256(token.as_bytes());
        let known = self
            .verified()
            .get(&digest)
            .filter(|known| std::ptr::eq(known.keys.as_ptr(), Arc::as_ptr(&keys)))
            .map(|known| Arc::clone(&known.claims));
        let claims = match known {
            Some(claims) => claims,
            None => {
                let claims = Arc::new(self.verify_signature(token, &keys)?);
                let known = Verified {
                    keys: Arc::downgrade(&keys),
                    claims: Arc::clone(&claims),
                };
                self.verified().put(digest, known);
                claims
            }
        };
        let now = now
            .duration_since(SystemTime::UNIX_EPOCH)
            .unwrap_or_default();
        claims
            .check(now, self.leeway)
            .map_err(|error| unauthenticated(error.to_string()))?;
        Ok(claims)
    }

    fn verify_signature(&self, token: &str, keys: &TokenKeys) -> Result<Claims, Status> {
        // Also where `alg` is `none`, which no JSON Web Token of ours has.
        let header =
            decode_header(token).map_err(|_| unauthenticated("the token is malformed".into()))?;
        if header.crit.is_some() {
            // RFC 7515, section 4.1.11: what must be understood and is not.
            return Err(unauthenticated(
                "the token has critical extensions, which are not known here".into(),
            ));
        }
        let key = keys.find(&header).ok_or_else(|| {
            unauthenticated(
                "the token is not signed with a key and algorithm that are accepted here".into(),
            )
        })?;
        let validation = Validation {
            algorithms: vec![key.algorithm],
            ..self.validation.clone()
        };
        let decoded = decode(token, &key.key, &validation)
            .map_err(|error| unauthenticated(format!("the token is refused: {error}")))?;
        Claims::new(decoded.claims).map_err(|error| unauthenticated(error.to_string()))
    }

    fn verified(&self) -> std::sync::MutexGuard<'_, LruCache<[u8; 32], Verified>> {
        self.verified.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Authorizer for JwtAuthorizer {
    fn authorize(&self, call: &AuthorizeRequest<'_>) -> Result<Option<Arc<Claims>>, Status> {
        let claims = match call.token {
            Some(token) => Some(self.verify(token.expose(), call.now)?),
            None if self.open_methods.contains(call.path) => None,
            None => {
                return Err(unauthenticated(
                    "no token; send one in the metadata as `authorization: Bearer …`".into(),
                ));
            }
        };
        let granted = |permission: &str| {
            claims
                .as_ref()
                .is_some_and(|claims| claims.has_permission(permission))
        };
        match call.permission {
            Some(permission) if !granted(permission) => Err(insufficient_permissions()),
            _ => Ok(claims),
        }
    }
}

/// What a caller gets whose token lacks what the method needs.
pub(crate) fn insufficient_permissions() -> Status {
    Status::new(Code::PermissionDenied, "Insufficient permissions").not_processed()
}

/// The token among `metadata`.
///
/// # Errors
/// [`Code::Unauthenticated`] when there is something else in its place.
pub(crate) fn bearer_token(metadata: &Metadata) -> Result<Option<Token<'_>>, Status> {
    let Some(value) = metadata.get(AUTHORIZATION) else {
        return Ok(None);
    };
    match value.split_once(' ') {
        Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() => {
            Ok(Some(Token(token)))
        }
        _ => Err(unauthenticated(
            "`authorization` is malformed; it takes the form `Bearer …`".into(),
        )),
    }
}

fn unauthenticated(message: String) -> Status {
    Status::new(Code::Unauthenticated, message).not_processed()
}

fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    let mut out = [0; 32];
    // SHA-256 gives 32 bytes.
    out.copy_from_slice(digest.as_ref());
    out
}

/// What changes with a file's content: when, how long, which.
type Stamp = Option<(SystemTime, u64, u64)>;

fn stamp(path: &Path) -> Stamp {
    let found = std::fs::metadata(path).ok()?;
    Some((found.modified().ok()?, found.len(), found.ino()))
}

/// Reads the key file again when it changes, until nobody holds the keys any more.
async fn watch(path: PathBuf, mut seen: Stamp, keys: Weak<KeysInForce>) {
    let mut tick = tokio::time::interval(JWKS_CHECK_INTERVAL);
    loop {
        tick.tick().await;
        let looked_at = path.clone();
        let read = tokio::task::spawn_blocking(move || {
            let now = stamp(&looked_at);
            (now != seen).then(|| (now, TokenKeys::from_jwks_file(&looked_at)))
        });
        let Some(keys) = keys.upgrade() else { return };
        match read.await {
            Ok(Some((stamp, Ok(read)))) => {
                tracing::info!(file = %path.display(), keys = ?read, "token keys read again");
                keys.0.store(Arc::new(read));
                seen = stamp;
            }
            Ok(Some((stamp, Err(error)))) => {
                tracing::warn!(file = %path.display(), %error, "token keys not read again; the old ones stay in force");
                seen = stamp;
            }
            Ok(None) => {}
            // The runtime ends.
            Err(_) => return,
        }
    }
}

/// Ends a task with whoever began it.
#[derive(Debug)]
struct AbortOnDrop(AbortHandle);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}
