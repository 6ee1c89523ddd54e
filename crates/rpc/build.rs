//! Compiles the messages of the services that gRPC clients expect of every server. Nothing needs to be installed for it.

use std::path::PathBuf;

use protox::prost::Message;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo::rerun-if-changed=proto");
    let services = [
        "grpc/health/v1/health.proto",
        "grpc/reflection/v1/reflection.proto",
    ];
    let files = protox::compile(services, ["proto"])?;
    let folder = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(folder.join("descriptors.bin"), files.encode_to_vec())?;
    prost_build::Config::new().compile_fds(files)?;
    Ok(())
}
