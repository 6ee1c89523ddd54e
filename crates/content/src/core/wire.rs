//! The block protocol, version 1: what two nodes say to each other to move content.
//!
//! The protocol runs over any reliable ordered byte stream whose far end has already been authenticated (a bulk
//! connection with ALPN [`ALPN`], or a mesh stream named [`STREAM_PROTOCOL`]); it carries no identity of its own.
//! The dialler asks, the listener answers. Requests are numbered by the asker, may be sent without waiting for
//! earlier answers, and may be answered in any order.
//!
//! All integers are big-endian. One frame is
//!
//! ```text
//! frame    := length:u32  kind:u8  request:u32  fields        length counts what follows it, 5..=65536
//! block-id := codec:u8 (0x55 chunk | 0x71 manifest)  blake3:32 bytes
//!
//! 0x01 Get       block-id
//! 0x02 Have      count:u16 (1..=1024)  count × blake3 of a document id
//! 0x03 Record    blake3 of a document id
//!
//! 0x81 Block     encoding:u8 (0 plain | 1 zstd)  plain_size:u32  stored_size:u32   then stored_size raw bytes
//! 0x82 NotFound
//! 0x83 Busy      retry_after_ms:u32
//! 0x84 Error     code:u16  message: UTF-8, at most 512 bytes, to the end of the frame
//! 0x85 Having    bitmap, bit i (least significant first) = the i-th document asked for is held whole
//! 0x86 Record    the signed document record, to the end of the frame
//! ```
//!
//! A block travels in the encoding it is stored in; the receiver decodes it (never beyond `plain_size`) and compares
//! BLAKE3 over the plain bytes with the id it asked for before anything else sees it. `plain_size` is at most
//! [`MAX_BLOCK_BYTES`] and `stored_size` at most `plain_size`, checked *before* anything is allocated.
//!
//! Whatever does not decode ends the connection: after a framing error there is no way to find the next frame.

use crate::core::block::{Encoding, MAX_BLOCK_BYTES};
use crate::core::id::{BlockId, ChunkId, DocumentId};

/// ALPN protocol name of a bulk connection.
pub const ALPN: &[u8] = b"warren-blocks/1";
/// Name of the block protocol on a mesh stream.
pub const STREAM_PROTOCOL: &str = "/warren/blocks/1.0.0";

/// Bytes before a frame's body.
pub const LENGTH_PREFIX: usize = 4;
/// Largest frame body in bytes (the raw bytes of a block follow their frame and do not count).
pub const MAX_FRAME: usize = 64 * 1024;
/// Most documents one `Have` may name.
pub const MAX_HAVE_DOCUMENTS: usize = 1024;
/// Longest error message in bytes.
pub const MAX_MESSAGE: usize = 512;
/// Largest document record in bytes that fits a frame.
pub const MAX_RECORD: usize = MAX_FRAME - HEADER;

/// `Error` code: the asker may not read this. Says nothing about whether the block exists.
pub const CODE_ACCESS_DENIED: u16 = 403;
/// `Error` code: the answering side failed to read what it holds.
pub const CODE_INTERNAL: u16 = 500;

/// Kind and request number.
const HEADER: usize = 5;

/// Number of a request, chosen by the asker, unique among its unanswered requests on one connection.
pub type RequestId = u32;

/// What the asking side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Request {
    /// Send me this block.
    Get {
        /// Number the answer will carry.
        request: RequestId,
        /// Block wanted.
        block: BlockId,
    },
    /// Which of these documents do you hold whole?
    Have {
        /// Number the answer will carry.
        request: RequestId,
        /// 1 to [`MAX_HAVE_DOCUMENTS`] documents.
        documents: Vec<DocumentId>,
    },
    /// Send me the signed record of this document.
    Record {
        /// Number the answer will carry.
        request: RequestId,
        /// Document whose record is wanted.
        document: DocumentId,
    },
}

/// What the answering side sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Response {
    /// The block: `header.stored_size` raw bytes follow this frame.
    Block {
        /// Request answered.
        request: RequestId,
        /// What follows.
        header: BlockHeader,
    },
    /// Not held here.
    NotFound {
        /// Request answered.
        request: RequestId,
    },
    /// Too much asked at once; ask again later.
    Busy {
        /// Request answered.
        request: RequestId,
        /// Earliest useful time of the next try, milliseconds from now.
        retry_after_ms: u32,
    },
    /// Refused or failed.
    Error {
        /// Request answered.
        request: RequestId,
        /// [`CODE_ACCESS_DENIED`], [`CODE_INTERNAL`] or a later version's code.
        code: u16,
        /// For people; at most [`MAX_MESSAGE`] bytes.
        message: String,
    },
    /// Answer to [`Request::Have`].
    Having {
        /// Request answered.
        request: RequestId,
        /// One bit per document asked for, least significant bit first.
        bitmap: Vec<u8>,
    },
    /// Answer to [`Request::Record`].
    Record {
        /// Request answered.
        request: RequestId,
        /// The signed record, opaque here.
        record: Vec<u8>,
    },
}

/// Describes the raw bytes that follow a `Block` frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockHeader {
    /// How the bytes are encoded.
    pub encoding: Encoding,
    /// Size in bytes after decoding, at most [`MAX_BLOCK_BYTES`].
    pub plain_size: u32,
    /// Bytes that follow, at most `plain_size`.
    pub stored_size: u32,
}

/// Why bytes are not a frame of this protocol. The connection they came on must be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The announced frame length is outside 5..=[`MAX_FRAME`].
    #[error("a frame of {length} bytes was announced, {HEADER} to {MAX_FRAME} are allowed")]
    FrameLength {
        /// Announced length in bytes.
        length: u32,
    },
    /// The frame's kind is not one this side receives.
    #[error("frame kind 0x{kind:02x} is unknown")]
    UnknownKind {
        /// Kind byte received.
        kind: u8,
    },
    /// The frame ended inside a field.
    #[error("the frame ends inside a field")]
    Truncated,
    /// Bytes are left after the last field.
    #[error("the frame has bytes after its last field")]
    TrailingBytes,
    /// A block id's codec is neither chunk nor manifest.
    #[error("block codec 0x{codec:02x} is unknown")]
    UnknownCodec {
        /// Codec byte received.
        codec: u8,
    },
    /// A block's encoding is unknown.
    #[error("block encoding {encoding} is unknown")]
    UnknownEncoding {
        /// Encoding byte received.
        encoding: u8,
    },
    /// A block announces more bytes than any block may have. Nothing was allocated for it.
    #[error(
        "a block of {plain_size} bytes ({stored_size} as sent) was announced, the limit is {MAX_BLOCK_BYTES}"
    )]
    BlockTooLarge {
        /// Announced size after decoding.
        plain_size: u32,
        /// Announced size on the wire.
        stored_size: u32,
    },
    /// `Have` names no document or too many.
    #[error("{count} documents asked about, 1 to {MAX_HAVE_DOCUMENTS} are allowed")]
    DocumentCount {
        /// Number announced.
        count: u16,
    },
    /// An error message is no UTF-8 or too long.
    #[error("an error message is no UTF-8 or longer than {MAX_MESSAGE} bytes")]
    BadMessage,
}

impl DecodeError {
    /// Short stable name for a counter's `reason` label.
    #[must_use]
    pub fn reason(&self) -> &'static str {
        match self {
            Self::FrameLength { .. } => "frame_length",
            Self::UnknownKind { .. } => "unknown_kind",
            Self::Truncated => "truncated_frame",
            Self::TrailingBytes => "trailing_bytes",
            Self::UnknownCodec { .. } => "unknown_codec",
            Self::UnknownEncoding { .. } => "unknown_encoding",
            Self::BlockTooLarge { .. } => "block_too_large",
            Self::DocumentCount { .. } => "document_count",
            Self::BadMessage => "bad_message",
        }
    }
}

/// Checks a frame's length prefix and returns the body's size in bytes.
///
/// # Errors
/// [`DecodeError::FrameLength`] when no frame of this protocol has that size.
pub fn frame_length(prefix: [u8; LENGTH_PREFIX]) -> Result<usize, DecodeError> {
    let length = u32::from_be_bytes(prefix);
    match usize::try_from(length) {
        Ok(size) if (HEADER..=MAX_FRAME).contains(&size) => Ok(size),
        _ => Err(DecodeError::FrameLength { length }),
    }
}

impl Request {
    /// Number of this request.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::Get { request, .. }
            | Self::Have { request, .. }
            | Self::Record { request, .. } => *request,
        }
    }

    /// Appends the whole frame, length prefix included, to `out`. Documents of a `Have` beyond
    /// [`MAX_HAVE_DOCUMENTS`] are left out: the asker splits its question before.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Get { request, block } => {
                frame(out, 0x01, *request, |out| put_block_id(out, block));
            }
            Self::Have { request, documents } => frame(out, 0x02, *request, |out| {
                let asked = &documents[..documents.len().min(MAX_HAVE_DOCUMENTS)];
                out.extend_from_slice(&(asked.len() as u16).to_be_bytes());
                for document in asked {
                    out.extend_from_slice(document.hash());
                }
            }),
            Self::Record { request, document } => {
                frame(out, 0x03, *request, |out| {
                    out.extend_from_slice(document.hash());
                });
            }
        }
    }

    /// Decodes a frame body (without its length prefix).
    ///
    /// # Errors
    /// See [`DecodeError`]; close the connection.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let kind = fields.u8()?;
        let request = fields.u32()?;
        let decoded = match kind {
            0x01 => Self::Get {
                request,
                block: fields.block_id()?,
            },
            0x02 => {
                let count = fields.u16()?;
                if !(1..=MAX_HAVE_DOCUMENTS).contains(&usize::from(count)) {
                    return Err(DecodeError::DocumentCount { count });
                }
                let documents = (0..count)
                    .map(|_| fields.document_id())
                    .collect::<Result<_, _>>()?;
                Self::Have { request, documents }
            }
            0x03 => Self::Record {
                request,
                document: fields.document_id()?,
            },
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        fields.end()?;
        Ok(decoded)
    }
}

impl Response {
    /// Number of the request this answers.
    #[must_use]
    pub fn id(&self) -> RequestId {
        match self {
            Self::Block { request, .. }
            | Self::NotFound { request }
            | Self::Busy { request, .. }
            | Self::Error { request, .. }
            | Self::Having { request, .. }
            | Self::Record { request, .. } => *request,
        }
    }

    /// Appends the whole frame, length prefix included, to `out`. The raw bytes of a block are the caller's to send
    /// right after it. Messages and records are cut at their limits.
    pub fn encode(&self, out: &mut Vec<u8>) {
        match self {
            Self::Block { request, header } => frame(out, 0x81, *request, |out| {
                out.push(encoding_byte(header.encoding));
                out.extend_from_slice(&header.plain_size.to_be_bytes());
                out.extend_from_slice(&header.stored_size.to_be_bytes());
            }),
            Self::NotFound { request } => frame(out, 0x82, *request, |_| {}),
            Self::Busy {
                request,
                retry_after_ms,
            } => {
                frame(out, 0x83, *request, |out| {
                    out.extend_from_slice(&retry_after_ms.to_be_bytes());
                });
            }
            Self::Error {
                request,
                code,
                message,
            } => frame(out, 0x84, *request, |out| {
                out.extend_from_slice(&code.to_be_bytes());
                out.extend_from_slice(cut(message).as_bytes());
            }),
            Self::Having { request, bitmap } => frame(out, 0x85, *request, |out| {
                out.extend_from_slice(&bitmap[..bitmap.len().min(MAX_HAVE_DOCUMENTS / 8)]);
            }),
            Self::Record { request, record } => frame(out, 0x86, *request, |out| {
                out.extend_from_slice(&record[..record.len().min(MAX_RECORD)]);
            }),
        }
    }

    /// Decodes a frame body (without its length prefix).
    ///
    /// # Errors
    /// See [`DecodeError`]; close the connection.
    pub fn decode(body: &[u8]) -> Result<Self, DecodeError> {
        let mut fields = Fields(body);
        let kind = fields.u8()?;
        let request = fields.u32()?;
        let decoded = match kind {
            0x81 => Self::Block {
                request,
                header: fields.block_header()?,
            },
            0x82 => Self::NotFound { request },
            0x83 => Self::Busy {
                request,
                retry_after_ms: fields.u32()?,
            },
            0x84 => {
                let code = fields.u16()?;
                let text = fields.rest();
                if text.len() > MAX_MESSAGE {
                    return Err(DecodeError::BadMessage);
                }
                let message = str::from_utf8(text).map_err(|_| DecodeError::BadMessage)?;
                Self::Error {
                    request,
                    code,
                    message: message.to_owned(),
                }
            }
            0x85 => {
                let bitmap = fields.rest();
                if bitmap.len() > MAX_HAVE_DOCUMENTS / 8 {
                    return Err(DecodeError::TrailingBytes);
                }
                Self::Having {
                    request,
                    bitmap: bitmap.to_vec(),
                }
            }
            0x86 => Self::Record {
                request,
                record: fields.rest().to_vec(),
            },
            kind => return Err(DecodeError::UnknownKind { kind }),
        };
        fields.end()?;
        Ok(decoded)
    }
}

/// Packs the answer to a `Have`.
#[must_use]
pub fn bitmap(held: &[bool]) -> Vec<u8> {
    let mut bits = vec![0u8; held.len().div_ceil(8)];
    for (index, _) in held.iter().enumerate().filter(|(_, held)| **held) {
        bits[index / 8] |= 1 << (index % 8);
    }
    bits
}

/// Reads bit `index` of a `Having` answer; what the answer does not cover is not held.
#[must_use]
pub fn bitmap_holds(bits: &[u8], index: usize) -> bool {
    bits.get(index / 8)
        .is_some_and(|byte| byte & (1 << (index % 8)) != 0)
}

fn frame(out: &mut Vec<u8>, kind: u8, request: RequestId, fields: impl FnOnce(&mut Vec<u8>)) {
    let start = out.len();
    out.extend_from_slice(&[0; LENGTH_PREFIX]);
    out.push(kind);
    out.extend_from_slice(&request.to_be_bytes());
    fields(out);
    let length = (out.len() - start - LENGTH_PREFIX) as u32;
    out[start..start + LENGTH_PREFIX].copy_from_slice(&length.to_be_bytes());
}

/// The longest prefix of `message` that fits a frame and ends at a character.
fn cut(message: &str) -> &str {
    let end = (0..=message.len().min(MAX_MESSAGE))
        .rev()
        .find(|&end| message.is_char_boundary(end));
    &message[..end.unwrap_or(0)]
}

const CODEC_CHUNK: u8 = 0x55;
const CODEC_MANIFEST: u8 = 0x71;

fn put_block_id(out: &mut Vec<u8>, block: &BlockId) {
    out.push(match block {
        BlockId::Chunk(_) => CODEC_CHUNK,
        BlockId::Manifest(_) => CODEC_MANIFEST,
    });
    out.extend_from_slice(block.hash());
}

fn encoding_byte(encoding: Encoding) -> u8 {
    match encoding {
        Encoding::Plain => 0,
        Encoding::Zstd => 1,
    }
}

/// What is left of a frame body.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let (field, rest) = self
            .0
            .split_first_chunk::<N>()
            .ok_or(DecodeError::Truncated)?;
        self.0 = rest;
        Ok(*field)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        self.take::<1>().map(|[byte]| byte)
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        self.take().map(u16::from_be_bytes)
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        self.take().map(u32::from_be_bytes)
    }

    fn block_id(&mut self) -> Result<BlockId, DecodeError> {
        let codec = self.u8()?;
        let hash = self.take()?;
        match codec {
            CODEC_CHUNK => Ok(BlockId::Chunk(ChunkId::from_hash(hash))),
            CODEC_MANIFEST => Ok(BlockId::Manifest(DocumentId::from_hash(hash))),
            codec => Err(DecodeError::UnknownCodec { codec }),
        }
    }

    fn document_id(&mut self) -> Result<DocumentId, DecodeError> {
        self.take().map(DocumentId::from_hash)
    }

    fn block_header(&mut self) -> Result<BlockHeader, DecodeError> {
        let encoding = match self.u8()? {
            0 => Encoding::Plain,
            1 => Encoding::Zstd,
            encoding => return Err(DecodeError::UnknownEncoding { encoding }),
        };
        let plain_size = self.u32()?;
        let stored_size = self.u32()?;
        if plain_size > MAX_BLOCK_BYTES || stored_size > plain_size {
            return Err(DecodeError::BlockTooLarge {
                plain_size,
                stored_size,
            });
        }
        Ok(BlockHeader {
            encoding,
            plain_size,
            stored_size,
        })
    }

    fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.0)
    }

    fn end(&self) -> Result<(), DecodeError> {
        if self.0.is_empty() {
            Ok(())
        } else {
            Err(DecodeError::TrailingBytes)
        }
    }
}

#[cfg(test)]
mod tests;
