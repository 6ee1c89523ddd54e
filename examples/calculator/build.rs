//! Compiles the messages. Nothing needs to be installed for it: `protox` reads what `protoc` would.

use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let files = protox::compile(["proto/calculator.proto"], ["proto"])?;
    // What gRPC clients are told that ask by reflection.
    let descriptors = PathBuf::from(std::env::var("OUT_DIR")?).join("descriptors.bin");
    std::fs::write(descriptors, files.encode_to_vec())?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
