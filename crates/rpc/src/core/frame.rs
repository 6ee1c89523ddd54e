//! What frames say.
//!
//! A connection carries, each stream telling by its first byte what it is:
//!
//! * **Lanes** ([`LANE`]), opened by the client, a few per connection, living as long as it does. The client binds a
//!   method's path to a number once per lane ([`Frame::Bind`]) and calls by number; the server answers every call
//!   exactly once ([`Frame::Reply`], [`Frame::Failure`]), also one that was cancelled. A call's id is free again with
//!   its answer.
//! * **Calls on a stream of their own** ([`CALL`]), opened by the client, for streaming methods and big requests: one
//!   [`Opening`], then messages each way ([`Part`]). The client ends with the stream's end, the server with
//!   [`Part::End`] or [`Part::Failure`].
//! * **Control** ([`CONTROL`]), one, opened by the server: [`Control::Hello`] first, [`Control::GoAway`] at drain.
//! * **Big replies** ([`BIG_REPLY`]), opened by the server, so that they do not hold up a lane: lane, call, then the
//!   body as one [`Part`].
//!
//! Numbers are little-endian. A message that was compressed says so in its flags and is Zstandard (RFC 8878).

use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use super::metadata::Metadata;
use super::wire::{FrameError, put_frame};
use crate::status::{Code, Status};

/// The protocol's name in the TLS handshake (RFC 7301). A change of the wire that both sides must know changes it.
pub const ALPN: &[u8] = b"warren-rpc/1";

/// First byte of a lane.
pub const LANE: u8 = 1;
/// First byte of a call on a stream of its own.
pub const CALL: u8 = 2;
/// First byte of the server's control stream.
pub const CONTROL: u8 = 3;
/// First byte of a big reply.
pub const BIG_REPLY: u8 = 4;

/// The most methods one lane binds.
pub const MAX_BOUND_METHODS: u16 = 4_096;
/// The longest path of a method, in bytes.
pub const MAX_PATH_BYTES: usize = 255;
/// What a frame may have beside its message: ids, metadata, an error's status.
pub const MAX_OVERHEAD_BYTES: usize = 24 * 1024;
/// The largest frame of a control stream and the largest opening, in bytes.
pub const MAX_SMALL_FRAME_BYTES: usize = MAX_OVERHEAD_BYTES;

const BIND: u8 = 1;
const CALL_FRAME: u8 = 2;
const CANCEL: u8 = 3;
const REPLY: u8 = 4;
const FAILURE: u8 = 5;
const OPENING: u8 = 6;
const MESSAGE: u8 = 7;
const END: u8 = 8;
const HELLO: u8 = 9;
const GO_AWAY: u8 = 10;

const COMPRESSED: u8 = 1;
const HAS_METADATA: u8 = 2;
const IDEMPOTENT: u8 = 4;

/// What a caller says beside the request. `M` is [`Metadata`], borrowed where it is written.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Terms<M> {
    /// The time left to the caller, to the millisecond.
    pub timeout: Option<Duration>,
    /// Whether carrying the call out twice is as good as once: whoever passes it on may then try it again.
    pub idempotent: bool,
    /// What goes along.
    pub metadata: M,
}

impl Terms<Option<&Metadata>> {
    fn flags(&self) -> u8 {
        let idempotent = if self.idempotent { IDEMPOTENT } else { 0 };
        let has_metadata = self.metadata.map_or(0, |_| HAS_METADATA);
        idempotent | has_metadata
    }

    fn put(&self, out: &mut BytesMut) {
        out.put_u32_le(whole_milliseconds(self.timeout));
        if let Some(metadata) = self.metadata {
            put_metadata(out, metadata);
        }
    }
}

impl Terms<Metadata> {
    fn take(flags: u8, payload: &mut Bytes) -> Option<Self> {
        let timeout = match payload.try_get_u32_le().ok()? {
            0 => None,
            milliseconds => Some(Duration::from_millis(milliseconds.into())),
        };
        let metadata = if flags & HAS_METADATA == 0 {
            Metadata::default()
        } else {
            take_metadata(payload)?
        };
        Some(Self {
            timeout,
            idempotent: flags & IDEMPOTENT != 0,
            metadata,
        })
    }
}

/// A message and whether it is compressed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// As it travels.
    pub bytes: Bytes,
    /// Whether `bytes` are Zstandard.
    pub compressed: bool,
}

impl Body {
    /// A message as it is.
    #[must_use]
    pub const fn plain(bytes: Bytes) -> Self {
        Self {
            bytes,
            compressed: false,
        }
    }

    const fn flags(&self) -> u8 {
        if self.compressed { COMPRESSED } else { 0 }
    }
}

/// How a call failed: the status, and the service's own error where it was the service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WireFailure {
    /// For everyone.
    pub status: Status,
    /// The service's error as its codec encodes it.
    pub application: Option<Bytes>,
}

/// A frame of a lane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Client: `method` stands for `path` on this lane from now on. Numbers count up from 0.
    Bind {
        /// The number.
        method: u16,
        /// The path.
        path: Bytes,
    },
    /// Client: carry this out.
    Call {
        /// Free until now.
        id: u32,
        /// A bound number.
        method: u16,
        /// What goes along.
        terms: Terms<Metadata>,
        /// The request.
        body: Body,
    },
    /// Client: nobody waits for this call any more. The server still answers, if only that it was cancelled.
    Cancel {
        /// A call that was not answered yet; one that just was is ignored.
        id: u32,
    },
    /// Server: the answer.
    Reply {
        /// The call.
        id: u32,
        /// The response.
        body: Body,
    },
    /// Server: the other answer.
    Failure {
        /// The call.
        id: u32,
        /// Why.
        failure: WireFailure,
    },
}

/// Appends [`Frame::Bind`].
pub fn put_bind(out: &mut BytesMut, method: u16, path: &str) {
    put_frame(out, BIND, |out| {
        out.put_u16_le(method);
        out.extend_from_slice(path.as_bytes());
    });
}

/// Appends [`Frame::Call`].
pub fn put_call(
    out: &mut BytesMut,
    id: u32,
    method: u16,
    terms: &Terms<Option<&Metadata>>,
    body: &Body,
) {
    put_frame(out, CALL_FRAME, |out| {
        out.put_u8(body.flags() | terms.flags());
        out.put_u32_le(id);
        out.put_u16_le(method);
        terms.put(out);
        out.extend_from_slice(&body.bytes);
    });
}

/// Appends [`Frame::Cancel`].
pub fn put_cancel(out: &mut BytesMut, id: u32) {
    put_frame(out, CANCEL, |out| out.put_u32_le(id));
}

/// Appends [`Frame::Reply`].
pub fn put_reply(out: &mut BytesMut, id: u32, body: &Body) {
    put_frame(out, REPLY, |out| {
        out.put_u8(body.flags());
        out.put_u32_le(id);
        out.extend_from_slice(&body.bytes);
    });
}

/// Appends [`Frame::Failure`].
pub fn put_failure(out: &mut BytesMut, id: u32, failure: &WireFailure) {
    put_frame(out, FAILURE, |out| {
        out.put_u32_le(id);
        put_wire_failure(out, failure);
    });
}

impl Frame {
    /// Reads a frame that [`FrameReader`](super::wire::FrameReader) cut.
    ///
    /// # Errors
    /// [`FrameError`]; nothing sensible follows on this lane.
    pub fn parse(kind: u8, mut payload: Bytes) -> Result<Self, FrameError> {
        let frame = match kind {
            BIND => payload.try_get_u16_le().ok().map(|method| Self::Bind {
                method,
                path: payload,
            }),
            CALL_FRAME => parse_call(payload),
            CANCEL => payload.try_get_u32_le().ok().map(|id| Self::Cancel { id }),
            REPLY => parse_reply(payload),
            FAILURE => parse_failure(payload),
            other => return Err(FrameError::Kind(other)),
        };
        frame.ok_or(FrameError::Payload(kind))
    }
}

fn parse_call(mut payload: Bytes) -> Option<Frame> {
    let flags = payload.try_get_u8().ok()?;
    let id = payload.try_get_u32_le().ok()?;
    let method = payload.try_get_u16_le().ok()?;
    let terms = Terms::take(flags, &mut payload)?;
    Some(Frame::Call {
        id,
        method,
        terms,
        body: Body {
            bytes: payload,
            compressed: flags & COMPRESSED != 0,
        },
    })
}

fn parse_reply(mut payload: Bytes) -> Option<Frame> {
    let flags = payload.try_get_u8().ok()?;
    let id = payload.try_get_u32_le().ok()?;
    let body = Body {
        bytes: payload,
        compressed: flags & COMPRESSED != 0,
    };
    Some(Frame::Reply { id, body })
}

fn parse_failure(mut payload: Bytes) -> Option<Frame> {
    let id = payload.try_get_u32_le().ok()?;
    let failure = take_wire_failure(payload)?;
    Some(Frame::Failure { id, failure })
}

/// The first frame of a call on a stream of its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The method.
    pub path: Bytes,
    /// What goes along.
    pub terms: Terms<Metadata>,
}

/// Appends an [`Opening`].
pub fn put_opening(out: &mut BytesMut, path: &str, terms: &Terms<Option<&Metadata>>) {
    put_frame(out, OPENING, |out| {
        out.put_u8(terms.flags());
        terms.put(out);
        out.extend_from_slice(path.as_bytes());
    });
}

impl Opening {
    /// Reads the first frame of a call's own stream.
    ///
    /// # Errors
    /// [`FrameError`].
    pub fn parse(kind: u8, mut payload: Bytes) -> Result<Self, FrameError> {
        if kind != OPENING {
            return Err(FrameError::Kind(kind));
        }
        let flags = payload.try_get_u8();
        let terms = flags
            .ok()
            .and_then(|flags| Terms::take(flags, &mut payload));
        let terms = terms.ok_or(FrameError::Payload(kind))?;
        Ok(Self {
            path: payload,
            terms,
        })
    }
}

/// A frame of a call's own stream after its opening.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Part {
    /// Either side: one message.
    Message(Body),
    /// Server: that was all, and all is well.
    End,
    /// Server: that was all, and this went wrong.
    Failure(WireFailure),
}

/// Appends a [`Part`].
pub fn put_part(out: &mut BytesMut, part: &Part) {
    match part {
        Part::Message(body) => put_frame(out, MESSAGE, |out| {
            out.put_u8(body.flags());
            out.extend_from_slice(&body.bytes);
        }),
        Part::End => put_frame(out, END, |_| {}),
        Part::Failure(failure) => put_frame(out, FAILURE, |out| put_wire_failure(out, failure)),
    }
}

impl Part {
    /// Reads a frame of a call's own stream.
    ///
    /// # Errors
    /// [`FrameError`]; nothing sensible follows on this stream.
    pub fn parse(kind: u8, mut payload: Bytes) -> Result<Self, FrameError> {
        let part = match kind {
            MESSAGE => payload.try_get_u8().ok().map(|flags| {
                Self::Message(Body {
                    bytes: payload,
                    compressed: flags & COMPRESSED != 0,
                })
            }),
            END => Some(Self::End),
            FAILURE => take_wire_failure(payload).map(Self::Failure),
            other => return Err(FrameError::Kind(other)),
        };
        part.ok_or(FrameError::Payload(kind))
    }
}

/// What a server says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The largest message it takes, in bytes, once decompressed.
    pub max_message_bytes: u32,
    /// The most calls in flight it takes on this connection.
    pub max_calls: u32,
}

/// A frame of the control stream. Kinds that a reader does not know are passed over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Control {
    /// The server's limits.
    Hello(Hello),
    /// The server is about to stop: what it has read it will answer, new calls go elsewhere.
    GoAway,
    /// Something of a later version.
    Unknown,
}

/// Appends a [`Control`] frame.
pub fn put_control(out: &mut BytesMut, control: &Control) {
    match control {
        Control::Hello(hello) => put_frame(out, HELLO, |out| {
            // Two integers always serialise.
            out.extend_from_slice(&postcard::to_allocvec(hello).unwrap_or_default());
        }),
        Control::GoAway => put_frame(out, GO_AWAY, |_| {}),
        Control::Unknown => {}
    }
}

impl Control {
    /// Reads a frame of the control stream.
    ///
    /// # Errors
    /// [`FrameError::Payload`].
    pub fn parse(kind: u8, payload: &[u8]) -> Result<Self, FrameError> {
        match kind {
            // What a later version adds behind the fields is passed over.
            HELLO => postcard::take_from_bytes(payload)
                .map(|(hello, _)| Self::Hello(hello))
                .map_err(|_| FrameError::Payload(kind)),
            GO_AWAY => Ok(Self::GoAway),
            _ => Ok(Self::Unknown),
        }
    }
}

/// Zero is no time-out, so anything shorter than a millisecond is one.
fn whole_milliseconds(timeout: Option<Duration>) -> u32 {
    timeout.map_or(0, |timeout| {
        u32::try_from(timeout.as_micros().div_ceil(1000))
            .unwrap_or(u32::MAX)
            .max(1)
    })
}

fn put_metadata(out: &mut BytesMut, metadata: &Metadata) {
    let encoded = metadata.encode();
    // Metadata holds itself to 8 KiB and 64 pairs.
    out.put_u16_le(u16::try_from(encoded.len()).unwrap_or(0));
    out.extend_from_slice(&encoded);
}

fn take_metadata(payload: &mut Bytes) -> Option<Metadata> {
    let length = usize::from(payload.try_get_u16_le().ok()?);
    if length == 0 {
        return Some(Metadata::default());
    }
    if payload.len() < length {
        return None;
    }
    Metadata::decode(&payload.split_to(length))
}

fn put_wire_failure(out: &mut BytesMut, failure: &WireFailure) {
    // A code, a bounded text, a duration and a flag always serialise.
    let status = postcard::to_allocvec(&failure.status).unwrap_or_default();
    out.put_u8(u8::from(failure.application.is_some()));
    out.put_u16_le(u16::try_from(status.len()).unwrap_or(0));
    out.extend_from_slice(&status);
    if let Some(application) = &failure.application {
        out.extend_from_slice(application);
    }
}

fn take_wire_failure(mut payload: Bytes) -> Option<WireFailure> {
    let is_application = payload.try_get_u8().ok()? != 0;
    let length = usize::from(payload.try_get_u16_le().ok()?);
    if payload.len() < length {
        return None;
    }
    let status: Status = postcard::from_bytes(&payload.split_to(length)).ok()?;
    Some(WireFailure {
        status,
        application: is_application.then_some(payload),
    })
}

impl From<FrameError> for Status {
    fn from(error: FrameError) -> Self {
        Self::new(
            Code::Internal,
            format!("the other side does not keep to the protocol: {error}"),
        )
    }
}
