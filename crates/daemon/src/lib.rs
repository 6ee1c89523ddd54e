//! The daemon: one node put together from its settings, kept running, reloaded and taken down in order.
//!
//! Owns composition and whatever needs several planes at once: who holds a document (mesh and discovery) and how to reach
//! it (bulk port, else a mesh stream), keeping certificate and revocation lists current, the CA's folder, `dev`.
//! Never does: protocol, storage or trust decisions of its own. Those are the planes'.
//! Start reading at [`node`].

pub mod ca_folder;
mod call_plane;
mod control;
pub mod dev;
mod discovery_parts;
pub mod files;
pub mod key_file;
pub mod material;
mod mesh_settings;
pub mod node;
mod peers;
pub mod preflight;
pub mod random;
pub mod settings;
mod trust_keeper;
mod upkeep;
