//! The bytes of datagrams and stream messages. Everything is bounded before it is allocated, and has one encoding.
//!
//! A datagram is `version ‖ kind ‖ fields ‖ updates`, a stream message `version ‖ kind ‖ fields`. Numbers are
//! big-endian. The refusal (kind 0) has this layout in every version: `version ‖ 0 ‖ min ‖ max`.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::config::limits;
use crate::member::{Fingerprint, State};
use crate::statement::{SignedStatement, StatementError, VersionRange};

/// Ranges of keys that sync compares by hash.
pub(crate) const BUCKETS: usize = 64;
/// Bytes of one summary entry.
pub(crate) const SUMMARY_ENTRY_BYTES: usize = 17;

/// Why bytes are no packet or message. All of it is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// Longer than its kind may be.
    #[error("longer than its limit")]
    Oversized,
    /// Of a version outside the range we speak.
    #[error("of protocol version {0}")]
    Version(u8),
    /// Cut short, a field outside its range, an unknown kind, or bytes after the end.
    #[error("bad {0}")]
    Malformed(&'static str),
    /// A statement in it is not well-formed.
    #[error(transparent)]
    Statement(#[from] StatementError),
}

/// What somebody says of somebody else.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ClaimKind {
    /// It does not answer.
    Suspect,
    /// It is gone.
    Failed,
}

/// A claim with the observers it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// What is claimed.
    pub kind: ClaimKind,
    /// Of whom.
    pub subject: Fingerprint,
    /// Of which of its incarnations.
    pub incarnation: u64,
    /// Members whose own ping went unanswered, ascending, at most [`limits::OBSERVERS`].
    pub observers: Vec<Fingerprint>,
}

/// One piece of news.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Update {
    /// What a member says of itself.
    Statement(SignedStatement),
    /// What is said of a member.
    Claim(Claim),
}

/// What a datagram is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PacketKind {
    /// We share no version; this is what the sender speaks.
    Refusal(VersionRange),
    /// Answer with an ack of this number.
    Ping(u32),
    /// Ping the target for me, answer with an ack or a nack of this number.
    PingRequest(u32, Fingerprint),
    /// The pinged member lives.
    Ack(u32),
    /// The pinged member did not answer me.
    Nack(u32),
    /// News only.
    Gossip,
}

/// A datagram.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Packet {
    /// Its protocol version.
    pub version: u8,
    /// What it is for.
    pub kind: PacketKind,
    /// What rides on it.
    pub updates: Vec<Update>,
}

/// One member in a summary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Summary {
    /// Who.
    pub subject: Fingerprint,
    /// Its incarnation.
    pub incarnation: u64,
    /// Its state.
    pub state: State,
}

/// A message on a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message {
    /// What the sender says of itself, and its hashes.
    Open(SignedStatement, Box<[u64; BUCKETS]>),
    /// What the sender says of itself, a bit for each range that is listed in full, and the list, ascending.
    Summary(SignedStatement, u64, Vec<Summary>),
    /// What the receiver lacks.
    Entries(Vec<Update>),
    /// What the sender lacks.
    Want(Vec<Fingerprint>),
}

impl Update {
    /// Bytes on the wire.
    pub(crate) fn write(&self, writer: &mut Writer) {
        match self {
            Self::Statement(signed) => write_statement(writer, signed),
            Self::Claim(claim) => write_claim(writer, claim),
        }
    }

    fn read(reader: &mut Reader<'_>) -> Result<Self, DecodeError> {
        let kind = match reader.u8().ok_or(CUT)? {
            1 => return Ok(Self::Statement(read_statement(reader)?)),
            2 => ClaimKind::Suspect,
            3 => ClaimKind::Failed,
            _ => return Err(DecodeError::Malformed("kind of update")),
        };
        let subject = Fingerprint(reader.u64().ok_or(CUT)?);
        let incarnation = reader.u64().ok_or(CUT)?;
        let count = usize::from(reader.u8().ok_or(CUT)?);
        if count > limits::OBSERVERS {
            return Err(DecodeError::Malformed("number of observers"));
        }
        let observers = read_ascending(reader, count)?;
        Ok(Self::Claim(Claim {
            kind,
            subject,
            incarnation,
            observers,
        }))
    }
}

const CUT: DecodeError = DecodeError::Malformed("length");

pub(crate) fn write_statement(writer: &mut Writer, signed: &SignedStatement) {
    writer.u8(1);
    write_bare_statement(writer, signed);
}

fn write_bare_statement(writer: &mut Writer, signed: &SignedStatement) {
    // At most STATEMENT_BYTES: the limits of tags see to it.
    writer.u16(signed.as_bytes().len() as u16);
    writer.bytes(signed.as_bytes());
}

fn read_statement(reader: &mut Reader<'_>) -> Result<SignedStatement, DecodeError> {
    let length = usize::from(reader.u16().ok_or(CUT)?);
    Ok(SignedStatement::decode(reader.take(length).ok_or(CUT)?)?)
}

pub(crate) fn write_claim(writer: &mut Writer, claim: &Claim) {
    writer.u8(match claim.kind {
        ClaimKind::Suspect => 2,
        ClaimKind::Failed => 3,
    });
    writer.u64(claim.subject.0);
    writer.u64(claim.incarnation);
    writer.u8(claim.observers.len() as u8);
    for observer in &claim.observers {
        writer.u64(observer.0);
    }
}

fn read_ascending(reader: &mut Reader<'_>, count: usize) -> Result<Vec<Fingerprint>, DecodeError> {
    let mut list = Vec::with_capacity(count.min(reader.remaining() / 8));
    for _ in 0..count {
        let next = Fingerprint(reader.u64().ok_or(CUT)?);
        if list.last().is_some_and(|last| *last >= next) {
            return Err(DecodeError::Malformed("order"));
        }
        list.push(next);
    }
    Ok(list)
}

impl PacketKind {
    /// Begins a datagram; updates may follow.
    pub(crate) fn start(self, version: u8, writer: &mut Writer) {
        writer.u8(version);
        match self {
            Self::Refusal(range) => writer.bytes(&[0, range.min, range.max]),
            Self::Ping(number) => writer.numbered(1, number),
            Self::PingRequest(number, target) => {
                writer.numbered(2, number);
                writer.u64(target.0);
            }
            Self::Ack(number) => writer.numbered(3, number),
            Self::Nack(number) => writer.numbered(4, number),
            Self::Gossip => writer.u8(5),
        }
    }
}

impl Packet {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::with_capacity(limits::PACKET_BYTES);
        self.kind.start(self.version, &mut writer);
        for update in &self.updates {
            update.write(&mut writer);
        }
        writer.finish()
    }

    /// Reads a datagram whose version is in `spoken`, or a refusal of any version.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], spoken: VersionRange) -> Result<Self, DecodeError> {
        if bytes.len() > limits::PACKET_BYTES {
            return Err(DecodeError::Oversized);
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8().ok_or(CUT)?;
        let kind = reader.u8().ok_or(CUT)?;
        if kind != 0 && !spoken.contains(version) {
            return Err(DecodeError::Version(version));
        }
        let kind = match kind {
            0 => {
                let [min, max] = reader.array().ok_or(CUT)?;
                let is_whole = reader.is_empty() && min != 0 && min <= max;
                if !is_whole {
                    return Err(DecodeError::Malformed("refusal"));
                }
                PacketKind::Refusal(VersionRange { min, max })
            }
            1 => PacketKind::Ping(reader.u32().ok_or(CUT)?),
            2 => PacketKind::PingRequest(
                reader.u32().ok_or(CUT)?,
                Fingerprint(reader.u64().ok_or(CUT)?),
            ),
            3 => PacketKind::Ack(reader.u32().ok_or(CUT)?),
            4 => PacketKind::Nack(reader.u32().ok_or(CUT)?),
            5 => PacketKind::Gossip,
            _ => return Err(DecodeError::Malformed("kind of packet")),
        };
        let mut updates = Vec::new();
        while !reader.is_empty() {
            updates.push(Update::read(&mut reader)?);
        }
        Ok(Self {
            version,
            kind,
            updates,
        })
    }
}

impl Message {
    /// Its bytes.
    #[must_use]
    pub fn encode(&self, version: u8) -> Vec<u8> {
        let mut writer = Writer::with_capacity(1_024);
        writer.u8(version);
        match self {
            Self::Open(signed, hashes) => {
                writer.u8(1);
                write_bare_statement(&mut writer, signed);
                for hash in hashes.iter() {
                    writer.u64(*hash);
                }
            }
            Self::Summary(signed, whole, entries) => {
                writer.u8(2);
                write_bare_statement(&mut writer, signed);
                writer.u64(*whole);
                for entry in entries {
                    writer.u64(entry.subject.0);
                    writer.u64(entry.incarnation);
                    writer.u8(entry.state as u8);
                }
            }
            Self::Entries(updates) => {
                writer.u8(3);
                for update in updates {
                    update.write(&mut writer);
                }
            }
            Self::Want(subjects) => {
                writer.u8(4);
                for subject in subjects {
                    writer.u64(subject.0);
                }
            }
        }
        writer.finish()
    }

    /// Reads a message whose version is in `spoken`.
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(bytes: &[u8], spoken: VersionRange) -> Result<Self, DecodeError> {
        if bytes.len() > limits::MESSAGE_BYTES {
            return Err(DecodeError::Oversized);
        }
        let mut reader = Reader::new(bytes);
        let version = reader.u8().ok_or(CUT)?;
        if !spoken.contains(version) {
            return Err(DecodeError::Version(version));
        }
        let message = match reader.u8().ok_or(CUT)? {
            1 => {
                let signed = read_statement(&mut reader)?;
                let mut hashes = Box::new([0; BUCKETS]);
                for hash in hashes.iter_mut() {
                    *hash = reader.u64().ok_or(CUT)?;
                }
                Self::Open(signed, hashes)
            }
            2 => {
                let signed = read_statement(&mut reader)?;
                let whole = reader.u64().ok_or(CUT)?;
                Self::Summary(signed, whole, read_summary(&mut reader)?)
            }
            3 => {
                let mut updates = Vec::new();
                while !reader.is_empty() {
                    updates.push(Update::read(&mut reader)?);
                }
                Self::Entries(updates)
            }
            4 if reader.remaining() / 8 <= limits::WANTED => {
                let count = reader.remaining() / 8;
                Self::Want(read_ascending(&mut reader, count)?)
            }
            _ => return Err(DecodeError::Malformed("kind of message")),
        };
        if reader.is_empty() {
            Ok(message)
        } else {
            Err(CUT)
        }
    }
}

fn read_summary(reader: &mut Reader<'_>) -> Result<Vec<Summary>, DecodeError> {
    let mut entries: Vec<Summary> = Vec::with_capacity(reader.remaining() / SUMMARY_ENTRY_BYTES);
    while !reader.is_empty() {
        let subject = Fingerprint(reader.u64().ok_or(CUT)?);
        let incarnation = reader.u64().ok_or(CUT)?;
        let state = match reader.u8().ok_or(CUT)? {
            0 => State::Alive,
            1 => State::Suspect,
            2 => State::Failed,
            3 => State::Left,
            _ => return Err(DecodeError::Malformed("state")),
        };
        if entries.last().is_some_and(|last| last.subject >= subject) {
            return Err(DecodeError::Malformed("order"));
        }
        entries.push(Summary {
            subject,
            incarnation,
            state,
        });
    }
    Ok(entries)
}

/// Appends to a growing buffer.
#[derive(Debug)]
pub(crate) struct Writer(Vec<u8>);

impl Writer {
    pub(crate) fn with_capacity(bytes: usize) -> Self {
        Self(Vec::with_capacity(bytes))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn finish(self) -> Vec<u8> {
        self.0
    }

    pub(crate) fn u8(&mut self, value: u8) {
        self.0.push(value);
    }

    fn u16(&mut self, value: u16) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn u64(&mut self, value: u64) {
        self.bytes(&value.to_be_bytes());
    }

    pub(crate) fn bytes(&mut self, bytes: &[u8]) {
        self.0.extend_from_slice(bytes);
    }

    fn numbered(&mut self, kind: u8, number: u32) {
        self.u8(kind);
        self.bytes(&number.to_be_bytes());
    }

    /// A length of one byte, then as many bytes; the rest of longer ones is lost, so callers hold their limits.
    pub(crate) fn short_bytes(&mut self, bytes: &[u8]) {
        let length = bytes.len().min(255);
        self.u8(length as u8);
        self.bytes(&bytes[..length]);
    }

    /// Seven bits a byte, lowest first.
    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.u8(value as u8 | 0x80);
            value >>= 7;
        }
        self.u8(value as u8);
    }

    pub(crate) fn address(&mut self, address: SocketAddr) {
        match address.ip() {
            IpAddr::V4(ip) => {
                self.u8(4);
                self.bytes(&ip.octets());
            }
            IpAddr::V6(ip) => {
                self.u8(6);
                self.bytes(&ip.octets());
            }
        }
        self.u16(address.port());
    }
}

/// Takes from the front of a slice; `None` when there is not enough.
#[derive(Debug)]
pub(crate) struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.take(N)?.try_into().ok()
    }

    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.array().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Option<u16> {
        self.array().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_be_bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_be_bytes)
    }

    pub(crate) fn short_text(&mut self) -> Option<&'a str> {
        let length = self.u8()?;
        std::str::from_utf8(self.take(usize::from(length))?).ok()
    }

    /// `None` also for an encoding longer than needed.
    pub(crate) fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let byte = self.u8()?;
            let bits = u64::from(byte & 0x7f);
            if shift == 63 && bits > 1 || byte == 0 && shift > 0 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(crate) fn address(&mut self) -> Option<SocketAddr> {
        let ip: IpAddr = match self.u8()? {
            4 => Ipv4Addr::from(self.array::<4>()?).into(),
            6 => Ipv6Addr::from(self.array::<16>()?).into(),
            _ => return None,
        };
        Some(SocketAddr::new(ip, self.u16()?))
    }
}
