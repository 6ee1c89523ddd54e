//! Ids, manifests, records, blocks and the block protocol.

use std::fmt::{Debug, Display};
use std::str::FromStr;

use bytes::Bytes;
use warren_content::core::manifest::Manifest;
use warren_content::core::wire::{LENGTH_PREFIX, Request, Response, frame_length};
use warren_content::{
    BlockId, ChunkId, DocumentId, DocumentRecord, Encoding, MAX_BLOCK_BYTES, StoredBlock,
};
use warren_identity::Signed;

/// The three kinds of id in their text form, the alias of the documents included.
pub fn ids(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else {
        return false;
    };
    reads_back::<ChunkId>(text) | reads_back::<DocumentId>(text) | reads_back::<BlockId>(text)
}

fn reads_back<T: FromStr<Err: Debug> + Display + Debug + PartialEq>(text: &str) -> bool {
    let Ok(id) = text.parse::<T>() else {
        return false;
    };
    assert_eq!(
        id.to_string()
            .parse::<T>()
            .expect("an id is read back from its text"),
        id
    );
    true
}

/// A manifest: there is one encoding of each, so what is accepted is written again byte by byte.
pub fn manifest(data: &[u8]) -> bool {
    let Ok(manifest) = Manifest::decode(data) else {
        return false;
    };
    let block = manifest
        .encode()
        .expect("an accepted manifest can be written");
    assert_eq!(block.bytes, data, "a manifest has one encoding");
    assert_eq!(block.id, DocumentId::of(data));
    let linked: u64 = manifest.links().map(|link| link.size).sum();
    let (Manifest::File { size, .. }
    | Manifest::Directory { size, .. }
    | Manifest::Tree { size, .. }) = manifest;
    assert_eq!(linked, size, "the sizes add up");
    true
}

/// A signed document record.
pub fn record(data: &[u8]) -> bool {
    let Ok(record) = Signed::<DocumentRecord>::decode(data) else {
        return false;
    };
    let again = Signed::<DocumentRecord>::decode(&record.to_bytes())
        .expect("an accepted record is accepted again");
    assert_eq!(again, record);
    // Times far in the future overflow nowhere.
    let _ = record.value().expires_at();
    true
}

/// One frame in each direction, with its length prefix, as it comes from a stranger's socket.
pub fn wire(data: &[u8]) -> bool {
    let Some((prefix, rest)) = data.split_first_chunk::<LENGTH_PREFIX>() else {
        return false;
    };
    let Ok(length) = frame_length(*prefix) else {
        return false;
    };
    let Some(body) = rest.get(..length) else {
        return false;
    };
    let frame = &data[..LENGTH_PREFIX + length];
    let mut again = Vec::new();
    match (Request::decode(body), Response::decode(body)) {
        (Ok(_), Ok(_)) => panic!("a frame is a request or a response, never both"),
        (Ok(request), Err(_)) => request.encode(&mut again),
        (Err(_), Ok(response)) => response.encode(&mut again),
        (Err(_), Err(_)) => return false,
    }
    assert_eq!(again, frame, "a frame has one encoding");
    if let Ok(Response::Block { header, .. }) = Response::decode(body) {
        assert!(header.stored_size <= header.plain_size && header.plain_size <= MAX_BLOCK_BYTES);
    }
    true
}

/// A block as a provider sends it: one byte of encoding, four of plain size, then the bytes. It never decodes to more
/// than it announced, and what it is verified to be is what its id says.
pub fn block(data: &[u8]) -> bool {
    let Some((&[encoding, a, b, c, d], stored)) = data.split_first_chunk::<5>() else {
        return false;
    };
    let encoding = if encoding & 1 == 0 {
        Encoding::Plain
    } else {
        Encoding::Zstd
    };
    let plain_size = u32::from_be_bytes([a, b, c, d]);
    let block = StoredBlock {
        encoding,
        bytes: Bytes::copy_from_slice(stored),
        plain_size,
    };
    let zeros = [0; 65_536];
    let mut accepted = false;
    for plain in [stored, b"hello", &zeros] {
        let id = ChunkId::of(plain);
        if let Ok(verified) = block.clone().verify(BlockId::Chunk(id)) {
            assert_eq!(
                verified.into_plain(),
                plain,
                "no bytes but its own pass for a chunk"
            );
            accepted = true;
        }
    }
    accepted
}
