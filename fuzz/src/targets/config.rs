//! The configuration reader.

use std::path::PathBuf;

use warren_config::{Inputs, load};

/// One file: the reader ends with settings, or with every problem named.
pub fn file(data: &[u8]) -> bool {
    warren_config::fuzz(data);
    let inputs = Inputs {
        files: vec![PathBuf::from("fuzz.yaml")],
        hostname: Some("host".into()),
        ..Inputs::default()
    };
    load(&inputs, |_| Ok(data.to_vec())).is_ok()
}
