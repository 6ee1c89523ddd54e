//! What fuzzers feed: one function per decoder that reads what others wrote.
//!
//! Owns the list of [`TARGETS`], each a function over bytes that panics when a promise of its decoder does not hold:
//! nothing panics, nothing is accepted that does not come out the same again, no signature is believed that nobody
//! made. It never looks for inputs itself: on stable, `tests/replay.rs` replays the corpus and mutates it for a
//! moment; `fuzz/libfuzzer` runs the same functions under libFuzzer.
//!
//! Start reading at [`targets`]; [`mutate`] is the small mutator, [`world`] the organisation the inputs are from.

#![expect(
    clippy::expect_used,
    reason = "a target panics when a promise does not hold: that is its finding"
)]

pub mod mutate;
pub mod targets;
pub mod world;

/// Feeds bytes to one decoder, and tells whether it accepted them. Panics if a promise does not hold.
pub type Target = fn(&[u8]) -> bool;

/// Every target by its name, which is that of its folder in `fuzz/corpus`.
pub const TARGETS: &[(&str, Target)] = &[
    ("cluster_frame", targets::cluster::frame),
    ("config", targets::config::file),
    ("content_block", targets::content::block),
    ("content_ids", targets::content::ids),
    ("content_manifest", targets::content::manifest),
    ("content_record", targets::content::record),
    ("content_wire", targets::content::wire),
    ("discovery_answers", targets::discovery::answers),
    ("discovery_requests", targets::discovery::requests),
    ("grpc_message", targets::grpc::message),
    ("identity_chain", targets::identity::chain),
    ("identity_crl", targets::identity::crl),
    ("identity_csr", targets::identity::csr),
    ("identity_join_token", targets::identity::join_token),
    ("identity_key", targets::identity::key),
    ("identity_node_record", targets::identity::node_record),
    ("mesh_admission", targets::mesh::admission),
    ("mesh_gossip", targets::mesh::gossip),
    ("mesh_opening", targets::mesh::opening),
    ("mesh_sync", targets::mesh::sync),
    ("rpc_control", targets::rpc::control),
    ("rpc_lane", targets::rpc::lane),
    ("rpc_metadata", targets::rpc::metadata),
    ("rpc_stream", targets::rpc::stream),
    ("swim_message", targets::swim::message),
    ("swim_packet", targets::swim::packet),
];

/// The function of a target.
#[must_use]
pub fn target(name: &str) -> Option<Target> {
    TARGETS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, target)| *target)
}
