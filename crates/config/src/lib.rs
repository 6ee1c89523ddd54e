//! Warren's configuration.
mod settings;
mod value;
pub use multiaddr::{Multiaddr, PeerId};
pub use settings::*;
pub use value::{HostPort, Secret, Url};
