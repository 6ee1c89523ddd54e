//! Seeds from `warren-cluster`: each kind of frame.

use bytes::Bytes;
use warren_cluster::Frame;
use warren_fuzz::world;

use super::Seeds;

/// The seeds of this crate's target.
pub(crate) fn seeds() -> (&'static str, Seeds) {
    let member = |number| world::node(number).peer_id();
    let chain = |byte| Bytes::from(vec![byte; 40]);
    let frames = [
        ("packet", Frame::Packet(Bytes::from_static(b"a packet"))),
        ("message", Frame::Message(Bytes::from_static(b"a message"))),
        ("ask", Frame::Ask(vec![member(1), member(2)])),
        (
            "chains",
            Frame::Chains(vec![(member(1), chain(0x30)), (member(2), chain(0x31))]),
        ),
        ("chains-none", Frame::Chains(Vec::new())),
    ];
    let seeds = frames.map(|(name, frame)| (name, frame.encode().to_vec()));
    ("cluster_frame", seeds.into())
}
