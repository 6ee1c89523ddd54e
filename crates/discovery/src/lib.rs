//! Discovery servers and their clients: who is in the network, where, and how a new machine becomes a member.
//!
//! Owns: the server's HTTP API ([`server`]), the registry behind it ([`engine`]: redb or PostgreSQL), one-time join tokens
//! ([`grants`]), and the client that keeps a node registered ([`client`]). What decides is in [`core`], without I/O.
//! Never does: dial peers, hold keys of its own, or take anybody's word for organisation, name or capabilities: these come
//! from the certificate that the caller proves to own, in TLS or by signing the request ([`proof`]).
//!
//! Start at [`server::DiscoveryServer::bind`] or [`client::DiscoveryClient::start`]; the wire format is in [`wire`].

pub mod client;
pub mod core;
pub mod engine;
pub mod grants;
mod metrics;
pub mod proof;
pub mod server;
pub mod wire;
