//! One-time join tokens: how a new machine gets its first leaf from a discovery server that it has never seen.
//!
//! `warren ca token` makes a [`JoinToken`] and a [`JoinGrant`]. The token goes to the new machine in a file; the grant,
//! which knows the token only by its hash, goes to the discovery servers. The machine connects with
//! [`crate::tls::join_client`], which talks only to a member with the capability `discovery` whose chain ends in the
//! very CA that the token pins; it sends [`JoinRequest`]. The server looks the grant up by [`JoinSecret::token_hash`],
//! **consumes it atomically**, and calls [`JoinGrant::issue`]. What is granted stands in the grant, never in the request.
//!
//! Text form: `warren-join-1.` and base64url without padding of `pin (32) ‖ secret (32) ‖ hint (UTF-8) ‖ checksum (4)`.
//! The checksum catches typing errors; it protects nothing.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use libp2p_identity::PeerId;
use rustls_pki_types::{CertificateDer, UnixTime};
use serde::{Deserialize, Serialize};
use zeroize::{Zeroize as _, Zeroizing};

use crate::authority::{
    CertificateAuthority, IssueError, LeafRequest, LeafTerms, Serial, WildcardNames,
};
use crate::capability::Capabilities;
use crate::certificate::{Leaf, LeafError};
use crate::csr::{Csr, CsrError};
use crate::key::NodeKey;
use crate::ledger::IssuanceLedger;
use crate::organization::OrganizationId;
use crate::revocation::{CrlError, RevocationList, Revocations};
use crate::roots::{Roots, RootsError, sha256};
use crate::verify::{Member, Refusal, verify_member};

const PREFIX: &str = "warren-join-1.";
const MAX_HINT_BYTES: usize = 255;
const MAX_TOKEN_CHARS: usize = 512;
const HOUR_S: u64 = 3600;
/// Eight leaves with their companions: a leaf for an hour, the shortest that an issuer makes, is renewed every forty
/// minutes, and answers get lost.
const MAX_CERTIFICATES_PER_HOUR: usize = 16;

/// The secret part of a token. Hidden in `Debug`, wiped when dropped.
#[derive(Clone, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct JoinSecret(Zeroizing<[u8; 32]>);

impl JoinSecret {
    /// A secret of 32 fresh random bytes.
    #[must_use]
    pub fn from_random(bytes: [u8; 32]) -> Self {
        Self(Zeroizing::new(bytes))
    }

    /// What the issuer stores and looks up: BLAKE3 in key-derivation mode. From it the secret cannot be found, so
    /// whoever reads the servers' database cannot join.
    #[must_use]
    pub fn token_hash(&self) -> TokenHash {
        TokenHash(blake3::derive_key(
            "warren 2026 join token hash v1",
            self.0.as_slice(),
        ))
    }
}

impl fmt::Debug for JoinSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinSecret(hidden)")
    }
}

impl TryFrom<String> for JoinSecret {
    type Error = TokenError;

    fn try_from(mut text: String) -> Result<Self, Self::Error> {
        let mut bytes = Zeroizing::new([0_u8; 32]);
        let decoded = URL_SAFE_NO_PAD.decode_slice(text.as_bytes(), bytes.as_mut_slice());
        text.zeroize();
        if decoded == Ok(32) {
            Ok(Self(bytes))
        } else {
            Err(TokenError::Damaged)
        }
    }
}

impl From<JoinSecret> for String {
    fn from(secret: JoinSecret) -> Self {
        URL_SAFE_NO_PAD.encode(secret.0.as_slice())
    }
}

/// The stored name of a token: 32 bytes, hexadecimal in text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for TokenHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

impl FromStr for TokenHash {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut hash = [0; 32];
        hex::decode_to_slice(text, &mut hash).map_err(|_| TokenError::Damaged)?;
        Ok(Self(hash))
    }
}

impl TryFrom<String> for TokenHash {
    type Error = TokenError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<TokenHash> for String {
    fn from(hash: TokenHash) -> Self {
        hash.to_string()
    }
}

/// Why a text is no join token. The message never repeats it.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum TokenError {
    /// Another sort of text.
    #[error(
        "not a join token: expected text that begins with `warren-join-1.`, as `warren ca token` prints it"
    )]
    NotAToken,
    /// A newer or older format.
    #[error(
        "this join token is of another version of warren: make a new one with `warren ca token`"
    )]
    OtherVersion,
    /// Characters are missing or wrong.
    #[error("the join token is damaged: copy it again, whole and unchanged")]
    Damaged,
    /// The hint does not fit.
    #[error("the address in a join token is at most {MAX_HINT_BYTES} bytes of printable text")]
    BadHint,
}

/// A join token as the new machine gets it.
#[derive(Clone)]
pub struct JoinToken {
    ca_fingerprint: [u8; 32],
    secret: JoinSecret,
    hint: Option<String>,
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "JoinToken(ca {}, hint {:?}, secret hidden)",
            hex::encode(self.ca_fingerprint),
            self.hint
        )
    }
}

impl JoinToken {
    /// A token for this CA. `hint` may name the discovery server, so that the machine needs no address besides.
    ///
    /// # Errors
    /// [`TokenError::BadHint`].
    pub fn new(
        ca_certificate: &CertificateDer<'_>,
        secret: JoinSecret,
        hint: Option<String>,
    ) -> Result<Self, TokenError> {
        if hint.as_ref().is_some_and(|hint| !is_hint(hint)) {
            return Err(TokenError::BadHint);
        }
        Ok(Self {
            ca_fingerprint: sha256(ca_certificate),
            secret,
            hint,
        })
    }

    /// Parses the text form; blanks around it are ignored. This is the decoder for untrusted input.
    ///
    /// # Errors
    /// [`TokenError`].
    pub fn parse(text: &str) -> Result<Self, TokenError> {
        let text = text.trim();
        let Some(encoded) = text.strip_prefix(PREFIX) else {
            let other = text.starts_with("warren-join-");
            return Err(if other {
                TokenError::OtherVersion
            } else {
                TokenError::NotAToken
            });
        };
        if encoded.len() > MAX_TOKEN_CHARS {
            return Err(TokenError::Damaged);
        }
        let bytes = Zeroizing::new(
            URL_SAFE_NO_PAD
                .decode(encoded)
                .map_err(|_| TokenError::Damaged)?,
        );
        let (body, sum) = bytes.split_last_chunk::<4>().ok_or(TokenError::Damaged)?;
        if checksum(body) != *sum {
            return Err(TokenError::Damaged);
        }
        let (ca_fingerprint, rest) = body.split_first_chunk::<32>().ok_or(TokenError::Damaged)?;
        let (secret, hint) = rest.split_first_chunk::<32>().ok_or(TokenError::Damaged)?;
        let hint = std::str::from_utf8(hint).map_err(|_| TokenError::Damaged)?;
        if !hint.is_empty() && !is_hint(hint) {
            return Err(TokenError::Damaged);
        }
        Ok(Self {
            ca_fingerprint: *ca_fingerprint,
            secret: JoinSecret::from_random(*secret),
            hint: (!hint.is_empty()).then(|| hint.to_owned()),
        })
    }

    /// The text form. It is a secret: write it to a file of its owner's (0600), never to a command line or a log.
    #[must_use]
    pub fn to_text(&self) -> Zeroizing<String> {
        let mut bytes = Zeroizing::new(Vec::with_capacity(68 + MAX_HINT_BYTES));
        bytes.extend_from_slice(&self.ca_fingerprint);
        bytes.extend_from_slice(self.secret.0.as_slice());
        bytes.extend_from_slice(self.hint.as_deref().unwrap_or_default().as_bytes());
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        Zeroizing::new(format!(
            "{PREFIX}{}",
            URL_SAFE_NO_PAD.encode(bytes.as_slice())
        ))
    }

    /// SHA-256 of the CA certificate that the server's chain must end in.
    #[must_use]
    pub fn ca_fingerprint(&self) -> [u8; 32] {
        self.ca_fingerprint
    }

    /// The secret, for the request.
    #[must_use]
    pub fn secret(&self) -> &JoinSecret {
        &self.secret
    }

    /// The discovery server, if the token names it.
    #[must_use]
    pub fn hint(&self) -> Option<&str> {
        self.hint.as_deref()
    }
}

fn is_hint(hint: &str) -> bool {
    !hint.is_empty()
        && hint.len() <= MAX_HINT_BYTES
        && hint.chars().all(|c| !c.is_control() && !c.is_whitespace())
}

fn checksum(body: &[u8]) -> [u8; 4] {
    let hash = blake3::derive_key("warren 2026 join token checksum v1", body);
    [hash[0], hash[1], hash[2], hash[3]]
}

/// Whoever made the grant was asked.
const GRANTED_WILDCARDS: WildcardNames = WildcardNames::Allow;

/// What a token entitles to, as the issuer keeps it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinGrant {
    /// Which token.
    pub token_hash: TokenHash,
    /// The name the node gets.
    pub name: String,
    /// What the node may do.
    pub capabilities: Capabilities,
    /// DNS names of the leaf.
    pub dns: Vec<String>,
    /// IP addresses of the leaf.
    pub ip: Vec<IpAddr>,
    /// Validity of the leaf, in seconds.
    pub validity_s: u64,
    /// Until when the token may be used, in seconds since 1970.
    pub expires_at_unix_s: u64,
}

/// What the new machine sends, inside TLS to a server it has verified. `Debug` hides the secret.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct JoinRequest {
    /// The token's secret.
    pub secret: JoinSecret,
    /// [`Csr::create_pem`].
    pub csr_pem: String,
}

impl JoinRequest {
    /// The request of a machine with this key.
    ///
    /// # Errors
    /// [`CsrError`] when the request cannot be signed.
    pub fn new(token: &JoinToken, key: &NodeKey, name: &str) -> Result<Self, CsrError> {
        Ok(Self {
            secret: token.secret.clone(),
            csr_pem: Csr::create_pem(key, name)?,
        })
    }
}

/// What a member sends, over mutual TLS, to renew its leaf before it ends. Answered with [`JoinResponse`].
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct RenewRequest {
    /// [`Csr::create_pem`] with the same key.
    pub csr_pem: String,
}

/// What comes back: everything a node needs to be a member.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct JoinResponse {
    /// For `node_cert.pem`: leaf and companion.
    pub leaf_pem: String,
    /// For `ca_cert.pem`: every CA the organisation trusts.
    pub ca_pem: String,
    /// For `crl.pem`: the revocation lists in force, one PEM block each; empty if there are none.
    pub crl_pem: String,
    /// The organisation.
    pub organization: OrganizationId,
}

/// Why a join or renewal was refused by the issuer. The machine is told the text; it names no other machine.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub enum JoinError {
    /// The secret is not this grant's.
    #[error(
        "the join token is not known here; it may have been used already: ask for a new one (`warren ca token`)"
    )]
    UnknownToken,
    /// Too late.
    #[error("the join token expired at {}; ask for a new one (`warren ca token`)", crate::verify::shown(UnixTime::since_unix_epoch(Duration::from_secs(*.0))))]
    ExpiredToken(u64),
    /// The signing request is bad.
    #[error(transparent)]
    Csr(#[from] CsrError),
    /// The CA refused.
    #[error(transparent)]
    Issue(#[from] IssueError),
    /// A renewal for another node than the one that asks.
    #[error(
        "the signing request is for another node's key; a member renews its own certificate only"
    )]
    OtherNode,
    /// The leaf has most of its life before it.
    #[error("the certificate can be renewed from {} on, when a third of its life is over; for other names or capabilities have one issued with `warren ca issue`", crate::verify::shown(*.from))]
    NotDue {
        /// When it will be taken.
        from: UnixTime,
    },
    /// It renews again and again, and each fills the ledger.
    #[error(
        "node {0} was given {MAX_CERTIFICATES_PER_HOUR} certificates within the hour; it can renew again later"
    )]
    TooManyRenewals(PeerId),
}

impl JoinError {
    /// A stable name of the reason for metrics.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::UnknownToken => "unknown_token",
            Self::ExpiredToken(_) => "expired_token",
            Self::Csr(_) => "bad_request",
            Self::Issue(_) => "not_issued",
            Self::OtherNode => "other_node",
            Self::NotDue { .. } => "not_due",
            Self::TooManyRenewals(_) => "too_many_renewals",
        }
    }
}

/// What an issuer needs beside the request: its CA and what it tells new members to trust.
pub struct Issuer<'a> {
    /// The CA.
    pub authority: &'a CertificateAuthority,
    /// All CAs of the organisation; during a roll-over more than the issuing one.
    pub roots: &'a Roots,
    /// The lists in force.
    pub revocations: &'a Revocations,
}

impl JoinGrant {
    /// Whether a leaf with these names and this validity would be signed, so that a grant that no machine could redeem
    /// is refused to whoever makes it.
    ///
    /// # Errors
    /// The [`IssueError`] that [`issue`](Self::issue) would end with.
    pub fn check_terms(&self) -> Result<(), IssueError> {
        let terms = LeafTerms {
            name: &self.name,
            dns: &self.dns,
            ip: &self.ip,
            validity: Duration::from_secs(self.validity_s),
            wildcards: GRANTED_WILDCARDS,
        };
        terms.check()
    }

    /// Checks secret, time and signing request without issuing anything, and returns what would be certified. Do this
    /// first, then consume the grant, then [issue](Self::issue): so a damaged request does not use the token up.
    ///
    /// # Errors
    /// [`JoinError::UnknownToken`], [`JoinError::ExpiredToken`] or [`JoinError::Csr`].
    pub fn check(&self, request: &JoinRequest, now: UnixTime) -> Result<LeafRequest, JoinError> {
        // Comparing hashes of a 256-bit secret leaks nothing useful through its timing.
        if request.secret.token_hash() != self.token_hash {
            return Err(JoinError::UnknownToken);
        }
        if now.as_secs() > self.expires_at_unix_s {
            return Err(JoinError::ExpiredToken(self.expires_at_unix_s));
        }
        Ok(self.leaf_request(&Csr::from_pem(&request.csr_pem)?))
    }

    fn leaf_request(&self, csr: &Csr) -> LeafRequest {
        LeafRequest {
            peer_id: csr.peer_id(),
            name: self.name.clone(),
            dns: self.dns.clone(),
            ip: self.ip.clone(),
            capabilities: self.capabilities.clone(),
            validity: Duration::from_secs(self.validity_s),
            companion_key: csr.companion_key().map(<[u8]>::to_vec),
            wildcards: GRANTED_WILDCARDS,
        }
    }

    /// Issues what the grant names. The caller has consumed the grant.
    ///
    /// # Errors
    /// [`JoinError`]; nothing was issued then.
    pub fn issue(
        &self,
        request: &JoinRequest,
        issuer: &Issuer<'_>,
        ledger: &mut IssuanceLedger,
        now: UnixTime,
        serial: Serial,
    ) -> Result<JoinResponse, JoinError> {
        let leaf_request = self.check(request, now)?;
        issuer.respond(&leaf_request, ledger, now, serial)
    }
}

impl Issuer<'_> {
    /// Renews the leaf of a member that has proven itself by mutual TLS with `present`. Names and capabilities stay.
    /// Before a third of its life is over a leaf is renewed only while the CA is rolled over, when `present` is of
    /// another CA than the one that issues; and a peer gets a few leaves an hour only, whichever it presents.
    ///
    /// # Errors
    /// [`JoinError`]; nothing was issued then.
    pub fn renew(
        &self,
        present: &Leaf,
        request: &RenewRequest,
        ledger: &mut IssuanceLedger,
        validity: Duration,
        now: UnixTime,
        serial: Serial,
    ) -> Result<JoinResponse, JoinError> {
        let csr = Csr::from_pem(&request.csr_pem)?;
        if csr.peer_id() != present.peer_id() {
            return Err(JoinError::OtherNode);
        }
        if self.revocations.is_peer_revoked(&csr.peer_id()) {
            return Err(JoinError::Issue(IssueError::PeerRevoked(csr.peer_id())));
        }
        self.refuse_early(present, now)?;
        let hour_ago =
            UnixTime::since_unix_epoch(Duration::from_secs(now.as_secs().saturating_sub(HOUR_S)));
        if ledger.issued_since(&csr.peer_id(), hour_ago) >= MAX_CERTIFICATES_PER_HOUR {
            return Err(JoinError::TooManyRenewals(csr.peer_id()));
        }
        let companion_key = csr.companion_key().map(<[u8]>::to_vec);
        self.respond(
            &LeafRequest::renewal_of(present, validity, companion_key),
            ledger,
            now,
            serial,
        )
    }

    fn refuse_early(&self, present: &Leaf, now: UnixTime) -> Result<(), JoinError> {
        let from = present.facts().end_of_first_third();
        if now.as_secs() >= from.as_secs() {
            return Ok(());
        }
        let ours = self.authority.roots();
        match verify_member(present.chain_der(), ours, &Revocations::none(), now) {
            Err(Refusal::UnknownIssuer) => Ok(()),
            _ => Err(JoinError::NotDue { from }),
        }
    }

    fn respond(
        &self,
        request: &LeafRequest,
        ledger: &mut IssuanceLedger,
        now: UnixTime,
        serial: Serial,
    ) -> Result<JoinResponse, JoinError> {
        if self.revocations.is_peer_revoked(&request.peer_id) {
            return Err(JoinError::Issue(IssueError::PeerRevoked(request.peer_id)));
        }
        let leaf = ledger.issue(self.authority, request, now, serial)?;
        Ok(JoinResponse {
            leaf_pem: leaf.to_pem(),
            ca_pem: self.roots.to_pem(),
            crl_pem: self.revocations.to_pem(),
            organization: self.authority.organization().clone(),
        })
    }
}

/// Why an answer to a join or renewal was not taken. Nothing is stored then.
#[derive(Debug, thiserror::Error)]
pub enum ResponseError {
    /// The CA certificates cannot be trusted.
    #[error("the server's answer is not usable: {0}")]
    Roots(#[from] RootsError),
    /// The pinned CA is not among them.
    #[error(
        "the server's answer does not contain the CA that the join token pins; ask for a new token"
    )]
    PinMissing,
    /// The leaf file is no leaf.
    #[error("the server's answer is not usable: {0}")]
    Leaf(#[from] LeafError),
    /// The leaf is not this node's or would be refused.
    #[error("the server's answer is not usable: {0}")]
    Refused(#[from] Refusal),
    /// A revocation list is not authentic.
    #[error("the server's answer is not usable: {0}")]
    Crl(#[from] CrlError),
    /// The leaf is for another key.
    #[error("the server's answer is not usable: the certificate is not for this node's key")]
    OtherNode,
}

/// An answer that holds together: the leaf is this node's and its organisation's members will accept it.
#[derive(Clone, Debug)]
pub struct Accepted {
    /// The leaf and companion.
    pub leaf: Leaf,
    /// The node as a member.
    pub member: Member,
    /// The CAs.
    pub roots: Roots,
    /// The lists in force.
    pub revocations: Revocations,
}

impl JoinResponse {
    /// Checks the answer to a join: it must contain the pinned CA and a leaf for `key`.
    ///
    /// # Errors
    /// [`ResponseError`].
    pub fn accept(
        &self,
        token: &JoinToken,
        key: &NodeKey,
        now: UnixTime,
    ) -> Result<Accepted, ResponseError> {
        let roots = Roots::from_pem(self.organization.clone(), &self.ca_pem)?;
        if roots.by_fingerprint(&token.ca_fingerprint).is_none() {
            return Err(ResponseError::PinMissing);
        }
        let leaf = Leaf::from_pem(&self.leaf_pem)?;
        if leaf.peer_id() != key.peer_id() {
            return Err(ResponseError::OtherNode);
        }
        let revocations = revocations_from_pem(&self.crl_pem, &roots)?;
        let member = verify_member(leaf.chain_der(), &roots, &revocations, now)?;
        Ok(Accepted {
            leaf,
            member,
            roots,
            revocations,
        })
    }
}

/// Reads a file with one `X509 CRL` block per CA, as [`JoinResponse::crl_pem`] has it.
///
/// # Errors
/// [`CrlError`] of the first list that is not authentic.
pub fn revocations_from_pem(text: &str, roots: &Roots) -> Result<Revocations, CrlError> {
    let incomplete = || CrlError::Malformed("a PEM block is incomplete");
    let blocks = pem::parse_many(text).map_err(|_| incomplete())?;
    if blocks.len() != text.matches("-----BEGIN ").count() {
        return Err(incomplete());
    }
    let mut revocations = Revocations::none();
    for block in blocks.iter().filter(|block| block.tag() == "X509 CRL") {
        revocations.merge(RevocationList::from_der(block.contents(), roots)?)?;
    }
    Ok(revocations)
}
