//! What a member says of itself, signed: nobody else can say it.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use warren_identity::NodeKey;

use crate::config::limits;
use crate::member::{Fingerprint, MemberId, id_of, key_of};
use crate::wire::{Reader, Writer};

/// An Ed25519 signature.
pub type Signature = [u8; 64];

/// Signs for us and verifies for others. The real one is Ed25519 with the node's key.
pub trait Attestor {
    /// Signs bytes that begin with their purpose.
    fn sign(&self, bytes: &[u8]) -> Signature;
    /// Whether `signer` signed these bytes.
    fn verify(&self, signer: &MemberId, bytes: &[u8], signature: &Signature) -> bool;
}

/// The real one: Ed25519 with the node's key.
impl Attestor for NodeKey {
    fn sign(&self, bytes: &[u8]) -> Signature {
        Self::sign(self, bytes)
    }

    fn verify(&self, signer: &MemberId, bytes: &[u8], signature: &Signature) -> bool {
        key_of(signer).is_some_and(|key| {
            UnparsedPublicKey::new(&ED25519, key)
                .verify(bytes, signature)
                .is_ok()
        })
    }
}

impl<T: Attestor + ?Sized> Attestor for Arc<T> {
    fn sign(&self, bytes: &[u8]) -> Signature {
        T::sign(self, bytes)
    }

    fn verify(&self, signer: &MemberId, bytes: &[u8], signature: &Signature) -> bool {
        T::verify(self, signer, bytes, signature)
    }
}

const DOMAIN: &[u8] = b"warren swim statement v1";
/// The first byte of a statement's body.
const FORMAT: u8 = 1;

/// Protocol versions that somebody speaks, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct VersionRange {
    /// The lowest.
    pub min: u8,
    /// The highest.
    pub max: u8,
}

impl VersionRange {
    /// What this implementation speaks.
    pub const SPOKEN: Self = Self { min: 1, max: 1 };

    /// The highest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u8> {
        let highest = self.max.min(other.max);
        (highest >= self.min.max(other.min)).then_some(highest)
    }

    /// Whether it contains `version`.
    #[must_use]
    pub fn contains(self, version: u8) -> bool {
        (self.min..=self.max).contains(&version)
    }
}

/// Whether the subject stays or goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Liveness {
    /// It is there.
    Alive,
    /// It says good-bye.
    Left,
}

/// A tag's value and when it got it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tag {
    /// The value.
    pub value: String,
    /// The subject's incarnation when it was set.
    pub version: u64,
}

/// A member's key-values, in order of their keys, within their limits.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tags(BTreeMap<String, Tag>);

/// Why a tag cannot be set. Nothing has changed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TagError {
    /// Empty, too long or with other characters.
    #[error("`{0}` is no tag key: use 1 to 64 characters of a-z, 0-9, `.`, `-`, `_`, `/`, `:`")]
    BadKey(String),
    /// Too long or with control characters.
    #[error("the value of tag `{0}` is longer than 255 bytes or has control characters")]
    BadValue(String),
    /// The statement would not fit in a datagram.
    #[error(
        "tag `{0}` does not fit: a member has at most 32 tags and 640 bytes of keys and values"
    )]
    TooMuch(String),
    /// The member has left.
    #[error("tag `{0}` cannot be set: this node has left the cluster")]
    HasLeft(String),
}

impl Tags {
    /// The value of a tag.
    #[must_use]
    pub fn get(&self, key: &str) -> Option<&str> {
        self.0.get(key).map(|tag| tag.value.as_str())
    }

    /// All of them, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &Tag)> {
        self.0.iter().map(|(key, tag)| (key.as_str(), tag))
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn set(&mut self, key: &str, value: &str, version: u64) -> Result<(), TagError> {
        if !is_key(key) {
            return Err(TagError::BadKey(key.chars().take(80).collect()));
        }
        if !is_value(value) {
            return Err(TagError::BadValue(key.into()));
        }
        let others = self.0.iter().filter(|(other, _)| *other != key);
        let (count, bytes) = others.fold((1, key.len() + value.len()), |(count, bytes), (k, t)| {
            (count + 1, bytes + k.len() + t.value.len())
        });
        if count > limits::TAGS || bytes > limits::TAGS_BYTES {
            return Err(TagError::TooMuch(key.into()));
        }
        let value = value.into();
        self.0.insert(key.into(), Tag { value, version });
        Ok(())
    }

    pub(crate) fn remove(&mut self, key: &str) -> bool {
        self.0.remove(key).is_some()
    }
}

fn is_key(key: &str) -> bool {
    let allowed =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_/:".contains(&byte);
    !key.is_empty() && key.len() <= limits::TAG_KEY_BYTES && key.bytes().all(allowed)
}

fn is_value(value: &str) -> bool {
    value.len() <= limits::TAG_VALUE_BYTES && !value.chars().any(char::is_control)
}

/// What a member says of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Who says it.
    pub subject: MemberId,
    /// Its age: only a higher one replaces it.
    pub incarnation: u64,
    /// Whether it stays.
    pub liveness: Liveness,
    /// Where it is reached.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: VersionRange,
    /// What else it says.
    pub tags: Tags,
}

/// A statement with the bytes that were signed, kept as received.
///
/// One that came out of [`SignedStatement::decode`] is well-formed, but its signature may still be wrong: see
/// [`SignedStatement::verify`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedStatement {
    statement: Statement,
    fingerprint: Fingerprint,
    /// Body, then signature.
    bytes: Box<[u8]>,
}

impl std::ops::Deref for SignedStatement {
    type Target = Statement;

    fn deref(&self) -> &Statement {
        &self.statement
    }
}

/// Why bytes are no statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum StatementError {
    /// Cut short, or longer than a statement may be.
    #[error("a statement of impossible length")]
    Length,
    /// A field outside its range, in another than its one encoding, or an unknown format.
    #[error("a statement with a bad {0}")]
    Field(&'static str),
}

/// What is signed: the purpose, the cluster, the body.
fn signed_bytes(cluster: &str, body: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(DOMAIN.len() + 8 + cluster.len() + body.len());
    bytes.extend_from_slice(DOMAIN);
    bytes.extend_from_slice(&(cluster.len() as u64).to_be_bytes());
    bytes.extend_from_slice(cluster.as_bytes());
    bytes.extend_from_slice(body);
    bytes
}

impl SignedStatement {
    /// Signs a statement of our own. `None` if the subject's id is not that of an Ed25519 key.
    /// What receivers would refuse is signed all the same.
    #[must_use]
    pub fn sign(statement: Statement, cluster: &str, attestor: &impl Attestor) -> Option<Self> {
        let key = key_of(&statement.subject)?;
        let mut body = statement.encode(&key);
        let signature = attestor.sign(&signed_bytes(cluster, &body));
        body.extend_from_slice(&signature);
        Some(Self {
            statement,
            fingerprint: Fingerprint::of_key(&key),
            bytes: body.into(),
        })
    }

    /// Reads body and signature, and nothing after them. The signature is not checked.
    ///
    /// # Errors
    /// [`StatementError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, StatementError> {
        if bytes.len() > limits::STATEMENT_BYTES - 2 {
            return Err(StatementError::Length);
        }
        let body_length = bytes.len().checked_sub(64).ok_or(StatementError::Length)?;
        let (statement, fingerprint) = Statement::decode(&bytes[..body_length])?;
        Ok(Self {
            statement,
            fingerprint,
            bytes: bytes.into(),
        })
    }

    /// Whether the subject signed it for this cluster.
    pub fn verify(&self, cluster: &str, attestor: &impl Attestor) -> bool {
        let (body, signature) = self.bytes.split_at(self.bytes.len() - 64);
        signature.try_into().is_ok_and(|signature| {
            attestor.verify(
                &self.statement.subject,
                &signed_bytes(cluster, body),
                signature,
            )
        })
    }

    /// The bytes that [`SignedStatement::decode`] reads.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The subject's name in claims.
    #[must_use]
    pub fn fingerprint(&self) -> Fingerprint {
        self.fingerprint
    }
}

impl Statement {
    fn encode(&self, key: &[u8; 32]) -> Vec<u8> {
        let mut writer = Writer::with_capacity(192);
        writer.u8(FORMAT);
        writer.bytes(key);
        writer.u64(self.incarnation);
        writer.u8(match self.liveness {
            Liveness::Alive => 0,
            Liveness::Left => 1,
        });
        writer.u8(self.protocol.min);
        writer.u8(self.protocol.max);
        writer.address(self.address);
        // Both lengths are within their limits, which fit a byte.
        writer.u8(self.tags.len() as u8);
        for (key, tag) in self.tags.iter() {
            writer.short_bytes(key.as_bytes());
            writer.short_bytes(tag.value.as_bytes());
            writer.varint(self.incarnation.saturating_sub(tag.version));
        }
        writer.finish()
    }

    fn decode(body: &[u8]) -> Result<(Self, Fingerprint), StatementError> {
        let mut reader = Reader::new(body);
        let short = StatementError::Length;
        if reader.u8().ok_or(short)? != FORMAT {
            return Err(StatementError::Field("format"));
        }
        let key: [u8; 32] = reader.array().ok_or(short)?;
        let subject = id_of(&key).ok_or(StatementError::Field("key"))?;
        let incarnation = reader.u64().ok_or(short)?;
        let liveness = match reader.u8().ok_or(short)? {
            0 => Liveness::Alive,
            1 => Liveness::Left,
            _ => return Err(StatementError::Field("liveness")),
        };
        let protocol = VersionRange {
            min: reader.u8().ok_or(short)?,
            max: reader.u8().ok_or(short)?,
        };
        if protocol.min == 0 || protocol.min > protocol.max {
            return Err(StatementError::Field("protocol range"));
        }
        let address = reader
            .address()
            .filter(|address| is_reachable(*address))
            .ok_or(StatementError::Field("address"))?;
        let tags = decode_tags(&mut reader, incarnation)?;
        if !reader.is_empty() {
            return Err(short);
        }
        let statement = Self {
            subject,
            incarnation,
            liveness,
            address,
            protocol,
            tags,
        };
        Ok((statement, Fingerprint::of_key(&key)))
    }
}

fn is_reachable(address: SocketAddr) -> bool {
    let ip = address.ip();
    let is_broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    address.port() != 0 && !ip.is_unspecified() && !ip.is_multicast() && !is_broadcast
}

/// Keys strictly ascend, so a set of tags has one encoding.
fn decode_tags(reader: &mut Reader<'_>, incarnation: u64) -> Result<Tags, StatementError> {
    let bad = StatementError::Field("tag");
    let count = reader.u8().ok_or(StatementError::Length)?;
    let mut tags = Tags::default();
    let mut last = String::new();
    for _ in 0..count {
        let key = reader.short_text().ok_or(bad)?;
        let value = reader.short_text().ok_or(bad)?;
        let age = reader.varint().ok_or(bad)?;
        let version = incarnation.checked_sub(age).ok_or(bad)?;
        if key <= last.as_str() {
            return Err(bad);
        }
        tags.set(key, value, version).map_err(|_| bad)?;
        key.clone_into(&mut last);
    }
    Ok(tags)
}
