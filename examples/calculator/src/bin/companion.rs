//! Writes what a gRPC client whose TLS refuses Ed25519 presents for a member: a P-256 certificate and the key to it.

use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use warren_example_calculator::{Files, companion};

#[derive(Parser)]
struct Arguments {
    #[command(flatten)]
    files: Files,
    /// Where to write the certificate, PEM
    #[arg(long)]
    out_cert: PathBuf,
    /// Where to write its key, PEM; readable by you only
    #[arg(long)]
    out_key: PathBuf,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    let (certificate, key) = companion(&arguments.files)?;
    for (path, mode, text) in [
        (&arguments.out_cert, 0o644, certificate.as_str()),
        (&arguments.out_key, 0o600, key.as_str()),
    ] {
        let cannot = || format!("cannot write {}", path.display());
        let mut file = OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(mode)
            .open(path)
            .with_context(cannot)?;
        file.write_all(text.as_bytes()).with_context(cannot)?;
    }
    Ok(())
}
