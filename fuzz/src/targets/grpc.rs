//! The body of a gRPC request, from a client that may be anyone's.

use bytes::Bytes;
use warren_rpc::core::grpc::{MessageError, MessageReader, prefixed};

/// The most a message may have here.
const LIMIT_BYTES: usize = 4096;

/// A body: its messages are the same in whatever pieces it arrives, and there is one encoding of each.
pub fn message(data: &[u8]) -> bool {
    let whole = read(data, data.len().max(1));
    for step in [1, 3, 7] {
        assert_eq!(
            read(data, step),
            whole,
            "the pieces it arrives in do not matter"
        );
    }
    let Ok(messages) = whole else { return false };
    let mut again = Vec::new();
    for message in messages {
        assert!(
            message.len() <= LIMIT_BYTES,
            "a message beyond the limit was taken"
        );
        let prefixed = prefixed(&message).expect("a message within the limit");
        again.extend_from_slice(&prefixed);
    }
    assert_eq!(again, data, "a message has one encoding");
    true
}

fn read(data: &[u8], step: usize) -> Result<Vec<Bytes>, MessageError> {
    let mut reader = MessageReader::new(LIMIT_BYTES);
    let mut messages = Vec::new();
    for piece in data.chunks(step) {
        reader.push(Bytes::copy_from_slice(piece));
        while let Some(message) = reader.next_message()? {
            messages.push(message);
        }
    }
    reader.finish()?;
    Ok(messages)
}
