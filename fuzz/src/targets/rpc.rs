//! What a caller and a server say to each other: lanes, calls on streams of their own, control, metadata.

use bytes::{Bytes, BytesMut};
use warren_rpc::Metadata;
use warren_rpc::core::compress::unpack;
use warren_rpc::core::frame::{
    Body, Control, Frame, Opening, Part, Terms, put_bind, put_call, put_cancel, put_control,
    put_failure, put_opening, put_part, put_reply,
};
use warren_rpc::core::trace::TraceParent;
use warren_rpc::core::wire::{FrameError, FrameReader};

/// Frames up to this many bytes are taken, in this world.
const LIMIT: usize = 64 * 1024;
/// The flag of a call that has metadata, and its length without any.
const HAS_METADATA: u8 = 2;

/// The frames in `data`, which are the same however they arrive.
fn frames(data: &[u8]) -> Result<Vec<(u8, Bytes)>, FrameError> {
    let at_once = cut(data, data.len().max(1));
    assert_eq!(cut(data, 7), at_once, "arrival changes nothing");
    at_once
}

fn cut(data: &[u8], length: usize) -> Result<Vec<(u8, Bytes)>, FrameError> {
    let mut reader = FrameReader::new(LIMIT);
    let mut frames = Vec::new();
    for chunk in data.chunks(length) {
        reader.push(Bytes::copy_from_slice(chunk));
        while let Some(frame) = reader.next_frame()? {
            assert!(frame.1.len() < LIMIT, "the limit holds");
            frames.push(frame);
        }
    }
    Ok(frames)
}

/// The one frame that `write` writes.
fn written(write: impl FnOnce(&mut BytesMut)) -> (u8, Bytes) {
    let mut out = BytesMut::new();
    write(&mut out);
    let mut reader = FrameReader::new(usize::MAX / 2);
    reader.push(out.freeze());
    let frame = reader.next_frame().expect("a written frame is one");
    frame.expect("a written frame is whole")
}

fn borrowed(terms: &Terms<Metadata>) -> Terms<Option<&Metadata>> {
    Terms {
        timeout: terms.timeout,
        idempotent: terms.idempotent,
        metadata: (!terms.metadata.is_empty()).then_some(&terms.metadata),
    }
}

fn unpacks(body: &Body) {
    if let Ok(message) = unpack(body.clone(), LIMIT) {
        assert!(
            message.len() <= LIMIT,
            "the limit holds for what is unpacked"
        );
    }
}

/// Frames of a lane, of either side.
pub fn lane(data: &[u8]) -> bool {
    let Ok(frames) = frames(data) else {
        return false;
    };
    let whole = !frames.is_empty();
    frames
        .into_iter()
        .all(|(kind, payload)| lane_frame(kind, payload))
        && whole
}

fn lane_frame(kind: u8, payload: Bytes) -> bool {
    let Ok(frame) = Frame::parse(kind, payload) else {
        return false;
    };
    let (kind, payload) = match &frame {
        Frame::Bind { method, path } => {
            let Ok(path) = std::str::from_utf8(path) else {
                return false;
            };
            written(|out| put_bind(out, *method, path))
        }
        Frame::Call {
            id,
            method,
            terms,
            body,
        } => {
            unpacks(body);
            written(|out| put_call(out, *id, *method, &borrowed(terms), body))
        }
        Frame::Cancel { id } => written(|out| put_cancel(out, *id)),
        Frame::Reply { id, body } => {
            unpacks(body);
            written(|out| put_reply(out, *id, body))
        }
        Frame::Failure { id, failure } => written(|out| put_failure(out, *id, failure)),
    };
    let again = Frame::parse(kind, payload);
    assert_eq!(again, Ok(frame), "a frame is written as it was read");
    true
}

/// A call on a stream of its own: an opening, then parts of either side.
pub fn stream(data: &[u8]) -> bool {
    let Ok(frames) = frames(data) else {
        return false;
    };
    let mut frames = frames.into_iter();
    let Some((kind, payload)) = frames.next() else {
        return false;
    };
    opening(kind, payload) && frames.all(|(kind, payload)| part(kind, payload))
}

fn opening(kind: u8, payload: Bytes) -> bool {
    let Ok(opening) = Opening::parse(kind, payload) else {
        return false;
    };
    let Ok(path) = std::str::from_utf8(&opening.path) else {
        return false;
    };
    let (kind, payload) = written(|out| put_opening(out, path, &borrowed(&opening.terms)));
    assert_eq!(Opening::parse(kind, payload), Ok(opening));
    true
}

fn part(kind: u8, payload: Bytes) -> bool {
    let Ok(part) = Part::parse(kind, payload) else {
        return false;
    };
    if let Part::Message(body) = &part {
        unpacks(body);
    }
    let (kind, payload) = written(|out| put_part(out, &part));
    assert_eq!(Part::parse(kind, payload), Ok(part));
    true
}

/// Frames of a server's control stream.
pub fn control(data: &[u8]) -> bool {
    let Ok(frames) = frames(data) else {
        return false;
    };
    let whole = !frames.is_empty();
    let known = |(kind, payload): (u8, Bytes)| {
        let Ok(control) = Control::parse(kind, &payload) else {
            return false;
        };
        if control != Control::Unknown {
            let (kind, payload) = written(|out| put_control(out, &control));
            assert_eq!(Control::parse(kind, &payload), Ok(control));
        }
        true
    };
    frames.into_iter().all(known) && whole
}

/// Metadata as it stands in an opening, with a trace among it.
pub fn metadata(data: &[u8]) -> bool {
    let Ok(length) = u16::try_from(data.len()) else {
        return false;
    };
    let mut payload = vec![HAS_METADATA, 0, 0, 0, 0];
    payload.extend_from_slice(&length.to_le_bytes());
    payload.extend_from_slice(data);
    let (kind, _) = written(|out| put_opening(out, "a/b", &Terms::default()));
    let Ok(opening) = Opening::parse(kind, payload.into()) else {
        return false;
    };
    let metadata = opening.terms.metadata;
    let mut again = Metadata::default();
    for (key, value) in metadata.iter() {
        let put = again.insert(key, value);
        assert_eq!(put, Ok(()), "accepted metadata keeps to the rules");
    }
    assert_eq!(again, metadata, "a key stands once");
    if let Some(parent) = metadata.get("traceparent").and_then(TraceParent::parse) {
        assert_eq!(TraceParent::parse(&parent.to_string()), Some(parent));
    }
    true
}
