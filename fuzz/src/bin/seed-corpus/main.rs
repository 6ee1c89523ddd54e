//! Writes the seeds of `fuzz/corpus`: valid inputs as the crates make them, and what a clumsy or hostile sender makes
//! of each (cut short, one bit flipped, bytes after the end). Inputs that fuzzing found lie beside them, untouched.

mod cluster;
mod config;
mod content;
mod discovery;
mod grpc;
mod identity;
mod mesh;
mod rpc;
mod swim;

use std::path::Path;

use anyhow::Context;

/// Valid inputs of one target, each under a name that says what it is.
type Seeds = Vec<(&'static str, Vec<u8>)>;

fn main() -> anyhow::Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    for (target, seeds) in [
        vec![cluster::seeds()],
        vec![config::seeds()],
        content::seeds()?,
        discovery::seeds()?,
        vec![grpc::seeds()?],
        identity::seeds()?,
        mesh::seeds(),
        rpc::seeds()?,
        swim::seeds()?,
    ]
    .concat()
    {
        let folder = corpus.join(target);
        std::fs::create_dir_all(&folder)
            .with_context(|| format!("cannot make {}", folder.display()))?;
        let mut count = 0;
        for (name, seed) in &seeds {
            for (suffix, input) in variants(seed) {
                let path = folder.join(format!("{name}{suffix}"));
                std::fs::write(&path, input)
                    .with_context(|| format!("cannot write {}", path.display()))?;
                count += 1;
            }
        }
        println!("{target}: {count} seeds");
    }
    Ok(())
}

/// The input, and three ways to spoil it.
fn variants(seed: &[u8]) -> Vec<(&'static str, Vec<u8>)> {
    let mut flipped = seed.to_vec();
    if let Some(byte) = flipped.get_mut(seed.len() / 2) {
        *byte ^= 0x10;
    }
    let mut trailing = seed.to_vec();
    trailing.extend_from_slice(&[0, 0xff]);
    vec![
        ("", seed.to_vec()),
        ("-cut", seed[..seed.len() * 2 / 3].to_vec()),
        ("-flipped", flipped),
        ("-trailing", trailing),
    ]
}
