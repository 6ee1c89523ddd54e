//! The keys that tokens may be signed with, each for one algorithm only.

use std::fmt;
use std::path::{Path, PathBuf};

pub use jsonwebtoken::Algorithm as TokenAlgorithm;
use jsonwebtoken::jwk::{
    AlgorithmParameters, EllipticCurve, Jwk, JwkSet, KeyAlgorithm, PublicKeyUse,
};
use jsonwebtoken::{AlgorithmFamily, DecodingKey, Header};
use serde_json::Value;

/// The most keys taken from one set.
const MAX_KEYS: usize = 64;
/// The largest set read, in bytes.
const MAX_JWKS_BYTES: u64 = 1024 * 1024;

/// Why keys were not taken. What was in force stays.
#[derive(Debug, thiserror::Error)]
pub enum TokenKeysError {
    /// The file cannot be read.
    #[error("cannot read the token keys {}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is far larger than any key set.
    #[error("the token keys {} have more than {MAX_JWKS_BYTES} bytes", path.display())]
    TooLong {
        /// Which one.
        path: PathBuf,
    },
    /// No JSON Web Key Set (RFC 7517).
    #[error("no JSON Web Key Set: {0}")]
    NoJwks(#[source] serde_json::Error),
    /// A key of the set, or the key given, is damaged or its algorithm is not one it can have.
    #[error("the key `{id}` does not serve for {algorithm}: {reason}")]
    BadKey {
        /// Its `kid`, or where it stands.
        id: String,
        /// The algorithm it was to serve for.
        algorithm: String,
        /// Why not.
        reason: String,
    },
    /// A secret that can be guessed (RFC 7518, section 3.2).
    #[error(
        "a secret of {bytes} bytes is too short for {algorithm:?}: use at least {least} random ones"
    )]
    WeakSecret {
        /// What it was to serve for.
        algorithm: TokenAlgorithm,
        /// Its length.
        bytes: usize,
        /// The shortest.
        least: usize,
    },
    /// Two keys of one name.
    #[error("two keys have the id `{0}`")]
    SameId(String),
    /// Nothing that verifies signatures.
    #[error("the key set holds no key that verifies signatures")]
    NoKey,
    /// More keys than anyone needs.
    #[error("more than {MAX_KEYS} keys")]
    TooMany,
}

/// One key and what it is for.
#[derive(Clone)]
pub(super) struct TokenKey {
    id: Option<String>,
    pub(super) algorithm: TokenAlgorithm,
    pub(super) key: DecodingKey,
}

/// The keys in force.
#[derive(Clone)]
pub struct TokenKeys(Vec<TokenKey>);

impl fmt::Debug for TokenKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = self.0.iter().map(|key| (&key.id, key.algorithm));
        f.debug_list().entries(shown).finish()
    }
}

impl TokenKeys {
    /// The keys of a JSON Web Key Set (RFC 7517). A key's `alg` binds it; one without `alg` is bound to `ES256`, `ES384`,
    /// `EdDSA`, `RS256` or `HS256` by its kind. Keys for encryption, of kinds not known here, or for unknown algorithms
    /// are passed over, as issuers list them along.
    ///
    /// # Errors
    /// [`TokenKeysError`].
    pub fn from_jwks(json: &str) -> Result<Self, TokenKeysError> {
        // Key by key, so that one of an unknown kind does not take the others along.
        let set: Value = serde_json::from_str(json).map_err(TokenKeysError::NoJwks)?;
        let JwkSet { keys } = match set {
            Value::Object(mut set) => {
                let keys = set.remove("keys").unwrap_or_default();
                let keys: Vec<Value> =
                    serde_json::from_value(keys).map_err(TokenKeysError::NoJwks)?;
                let known = keys
                    .into_iter()
                    .filter_map(|key| serde_json::from_value(key).ok());
                JwkSet {
                    keys: known.collect(),
                }
            }
            other => serde_json::from_value(other).map_err(TokenKeysError::NoJwks)?,
        };
        if keys.len() > MAX_KEYS {
            return Err(TokenKeysError::TooMany);
        }
        let mut taken: Vec<TokenKey> = Vec::new();
        for (index, jwk) in keys.iter().enumerate() {
            let Some(algorithm) = algorithm_of(jwk) else {
                continue;
            };
            let id = jwk.common.key_id.clone();
            if id.is_some() && taken.iter().any(|other| other.id == id) {
                return Err(TokenKeysError::SameId(id.unwrap_or_default()));
            }
            let key = DecodingKey::from_jwk(jwk).map_err(|error| TokenKeysError::BadKey {
                id: id.clone().unwrap_or_else(|| format!("#{}", index + 1)),
                algorithm: format!("{algorithm:?}"),
                reason: error.to_string(),
            })?;
            taken.push(checked(id, algorithm, key)?);
        }
        if taken.is_empty() {
            return Err(TokenKeysError::NoKey);
        }
        Ok(Self(taken))
    }

    /// A public key in PEM (SPKI; RSA also PKCS#1), for `algorithm` only.
    ///
    /// # Errors
    /// [`TokenKeysError::BadKey`].
    pub fn from_pem(algorithm: TokenAlgorithm, pem: &str) -> Result<Self, TokenKeysError> {
        let pem = pem.as_bytes();
        let key = match algorithm.family() {
            AlgorithmFamily::Rsa => DecodingKey::from_rsa_pem(pem),
            AlgorithmFamily::Ec => DecodingKey::from_ec_pem(pem),
            AlgorithmFamily::Ed => DecodingKey::from_ed_pem(pem),
            AlgorithmFamily::Hmac => {
                return Err(bad(algorithm, "a public key is no secret; use from_secret"));
            }
        };
        let key = key.map_err(|error| bad(algorithm, &error.to_string()))?;
        Ok(Self(vec![checked(None, algorithm, key)?]))
    }

    /// A secret shared with the issuer, for `HS256`, `HS384` or `HS512` only.
    ///
    /// # Errors
    /// [`TokenKeysError::WeakSecret`] when it is shorter than the hash, [`TokenKeysError::BadKey`] for other algorithms.
    pub fn from_secret(algorithm: TokenAlgorithm, secret: &[u8]) -> Result<Self, TokenKeysError> {
        if algorithm.family() != AlgorithmFamily::Hmac {
            return Err(bad(algorithm, "it takes a public key; use from_pem"));
        }
        let key = DecodingKey::from_secret(secret);
        Ok(Self(vec![checked(None, algorithm, key)?]))
    }

    /// The set in the file at `path`.
    ///
    /// # Errors
    /// [`TokenKeysError`].
    pub fn from_jwks_file(path: &Path) -> Result<Self, TokenKeysError> {
        let file = |source| TokenKeysError::File {
            path: path.to_owned(),
            source,
        };
        if std::fs::metadata(path).map_err(file)?.len() > MAX_JWKS_BYTES {
            return Err(TokenKeysError::TooLong {
                path: path.to_owned(),
            });
        }
        let text = zeroize::Zeroizing::new(std::fs::read_to_string(path).map_err(file)?);
        Self::from_jwks(&text)
    }

    /// The one key that a token with this header can be signed with. A header without `kid` must leave no choice.
    pub(super) fn find(&self, header: &Header) -> Option<&TokenKey> {
        let mut fitting = self.0.iter().filter(|key| {
            let same_id = match (&key.id, &header.kid) {
                (Some(own), Some(named)) => own == named,
                // A key without a name answers to all of them; a token without one takes what there is.
                _ => true,
            };
            same_id && key.algorithm == header.alg
        });
        let key = fitting.next()?;
        fitting.next().is_none().then_some(key)
    }
}

fn checked(
    id: Option<String>,
    algorithm: TokenAlgorithm,
    key: DecodingKey,
) -> Result<TokenKey, TokenKeysError> {
    if key.family() != algorithm.family() {
        return Err(TokenKeysError::BadKey {
            id: id.unwrap_or_default(),
            algorithm: format!("{algorithm:?}"),
            reason: "it is a key of another kind".into(),
        });
    }
    let least = match algorithm {
        TokenAlgorithm::HS256 => 32,
        TokenAlgorithm::HS384 => 48,
        TokenAlgorithm::HS512 => 64,
        _ => 0,
    };
    let bytes = key.try_get_as_bytes().map_or(usize::MAX, <[u8]>::len);
    if bytes < least {
        return Err(TokenKeysError::WeakSecret {
            algorithm,
            bytes,
            least,
        });
    }
    Ok(TokenKey { id, algorithm, key })
}

fn bad(algorithm: TokenAlgorithm, reason: &str) -> TokenKeysError {
    TokenKeysError::BadKey {
        id: String::new(),
        algorithm: format!("{algorithm:?}"),
        reason: reason.into(),
    }
}

/// What a key of a set is for; `None` when not for signatures known here.
fn algorithm_of(jwk: &Jwk) -> Option<TokenAlgorithm> {
    if matches!(jwk.common.public_key_use, Some(PublicKeyUse::Encryption)) {
        return None;
    }
    if let Some(named) = jwk.common.key_algorithm {
        return match named {
            KeyAlgorithm::HS256 => Some(TokenAlgorithm::HS256),
            KeyAlgorithm::HS384 => Some(TokenAlgorithm::HS384),
            KeyAlgorithm::HS512 => Some(TokenAlgorithm::HS512),
            KeyAlgorithm::ES256 => Some(TokenAlgorithm::ES256),
            KeyAlgorithm::ES384 => Some(TokenAlgorithm::ES384),
            KeyAlgorithm::RS256 => Some(TokenAlgorithm::RS256),
            KeyAlgorithm::RS384 => Some(TokenAlgorithm::RS384),
            KeyAlgorithm::RS512 => Some(TokenAlgorithm::RS512),
            KeyAlgorithm::PS256 => Some(TokenAlgorithm::PS256),
            KeyAlgorithm::PS384 => Some(TokenAlgorithm::PS384),
            KeyAlgorithm::PS512 => Some(TokenAlgorithm::PS512),
            KeyAlgorithm::EdDSA => Some(TokenAlgorithm::EdDSA),
            _ => None,
        };
    }
    match &jwk.algorithm {
        AlgorithmParameters::EllipticCurve(key) => match key.curve {
            EllipticCurve::P256 => Some(TokenAlgorithm::ES256),
            EllipticCurve::P384 => Some(TokenAlgorithm::ES384),
            _ => None,
        },
        AlgorithmParameters::OctetKeyPair(key) => {
            matches!(key.curve, EllipticCurve::Ed25519).then_some(TokenAlgorithm::EdDSA)
        }
        AlgorithmParameters::RSA(_) => Some(TokenAlgorithm::RS256),
        AlgorithmParameters::OctetKey(_) => Some(TokenAlgorithm::HS256),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;

    const ED: &str = r#"{"kty":"OKP","crv":"Ed25519","kid":"ed","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}"#;

    fn header(algorithm: TokenAlgorithm, id: Option<&str>) -> Header {
        let mut header = Header::new(algorithm);
        header.kid = id.map(str::to_owned);
        header
    }

    #[test]
    fn given_a_set_with_keys_of_other_uses_then_only_the_signing_ones_count() {
        let json = format!(
            r#"{{"keys":[{ED},{{"kty":"RSA","use":"enc","alg":"RSA-OAEP","n":"AQAB","e":"AQAB"}},{{"kty":"new"}}]}}"#
        );
        let keys = TokenKeys::from_jwks(&json).unwrap();
        assert_eq!(keys.0.len(), 1);
        assert_eq!(keys.0[0].algorithm, TokenAlgorithm::EdDSA);
    }

    #[test]
    fn given_a_key_bound_to_one_algorithm_then_headers_of_others_find_nothing() {
        let keys = TokenKeys::from_jwks(&format!(r#"{{"keys":[{ED}]}}"#)).unwrap();
        let found = |algorithm, id| keys.find(&header(algorithm, id)).is_some();
        assert!(found(TokenAlgorithm::EdDSA, Some("ed")));
        assert!(found(TokenAlgorithm::EdDSA, None));
        assert!(!found(TokenAlgorithm::EdDSA, Some("other")));
        assert!(!found(TokenAlgorithm::HS256, Some("ed")));
    }

    #[test]
    fn given_two_keys_that_fit_then_a_header_without_an_id_finds_neither() {
        let other = ED.replace("\"ed\"", "\"ed2\"");
        let keys = TokenKeys::from_jwks(&format!(r#"{{"keys":[{ED},{other}]}}"#)).unwrap();
        assert!(keys.find(&header(TokenAlgorithm::EdDSA, None)).is_none());
        assert!(
            keys.find(&header(TokenAlgorithm::EdDSA, Some("ed2")))
                .is_some()
        );
    }

    #[test]
    fn given_bad_key_sets_then_each_is_refused_for_its_reason() {
        let twice = format!(r#"{{"keys":[{ED},{ED}]}}"#);
        let wrong = ED.replace("\"kid\"", "\"alg\":\"HS256\",\"kid\"");
        let wrong = format!(r#"{{"keys":[{wrong}]}}"#);
        let refused = |json: &str| TokenKeys::from_jwks(json).unwrap_err();
        assert!(matches!(refused(&twice), TokenKeysError::SameId(_)));
        assert!(matches!(refused(&wrong), TokenKeysError::BadKey { .. }));
        assert!(matches!(refused(r#"{"keys":[]}"#), TokenKeysError::NoKey));
        assert!(matches!(refused("{}"), TokenKeysError::NoJwks(_)));
        assert!(matches!(refused("nothing"), TokenKeysError::NoJwks(_)));
    }

    #[test]
    fn given_a_short_secret_then_it_is_refused() {
        let short = TokenKeys::from_secret(TokenAlgorithm::HS256, &[7; 31]);
        assert!(matches!(
            short,
            Err(TokenKeysError::WeakSecret { least: 32, .. })
        ));
        assert!(TokenKeys::from_secret(TokenAlgorithm::HS256, &[7; 32]).is_ok());
        assert!(TokenKeys::from_secret(TokenAlgorithm::ES256, &[7; 32]).is_err());
    }
}
