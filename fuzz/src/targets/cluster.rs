//! What members send each other on a gossip link.

use bytes::Bytes;
use warren_cluster::{Frame, MAX_ASKED, MAX_FRAME_BYTES};

/// A frame: there is one encoding of each, and none holds more than its kind may.
pub fn frame(data: &[u8]) -> bool {
    let Ok(frame) = Frame::decode(Bytes::copy_from_slice(data)) else {
        return false;
    };
    assert!(data.len() <= MAX_FRAME_BYTES, "a frame is bounded");
    match &frame {
        Frame::Packet(_) | Frame::Message(_) => {}
        Frame::Ask(members) => assert!((1..=MAX_ASKED).contains(&members.len())),
        Frame::Chains(chains) => assert!(chains.len() <= MAX_ASKED),
    }
    assert_eq!(frame.encode(), data, "a frame has one encoding");
    true
}
