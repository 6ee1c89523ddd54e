//! CPU of a put against hashing and compressing the same corpus with the stock programs.

use std::fs::File;
use std::process::{Command, Stdio};

use anyhow::{Context, ensure};

use super::program::{find, text, timed};
use super::{Bench, MIB, NotMeasurable, Sample};
use crate::child::{Report, Running};
use crate::material;
use crate::outcome::{Row, Target};
use crate::roles;

/// Ours: one put, durable. The peer: `b3sum --num-threads 1` and `zstd -1`, one after the other.
pub(super) fn measure(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let (b3sum, zstd) = (find("b3sum", "b3sum")?, find("zstd", "zstd")?);
    let folder = bench.folder()?;
    let bytes = if bench.quick { 256 * MIB } else { 1024 * MIB };
    let corpus = folder.path().join("corpus");
    let digest = material::corpus(&corpus, bytes)?;
    roles::warren::write_pki(folder.path())?;
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let gib = bytes as f64 / (1024 * MIB) as f64;
    let (store, compressed) = (
        folder.path().join("store"),
        folder.path().join("compressed"),
    );
    let mut stored = Vec::new();
    let mut ours = || {
        let put = Running::complete(
            &bench.place.here,
            &["warren-put", text(&store)?, text(&corpus)?],
        )?;
        let read = read_back(bench, folder.path(), &put.result)?;
        read.verify(bytes, &digest)?;
        stored.push(size_of(&store)?);
        std::fs::remove_dir_all(&store)?;
        Ok(Sample {
            value: put.cpu_s / gib,
            cpu: put.wall_s / gib,
        })
    };
    let mut peers = || {
        let hash = folder.path().join("hash");
        let mut command = Command::new(&b3sum);
        command
            .args(["--num-threads", "1", "--no-names"])
            .arg(&corpus)
            .stdout(File::create(&hash)?);
        let (hash_wall_s, hashed) = timed(&bench.place.here, command)?;
        let said = std::fs::read_to_string(&hash)?;
        ensure!(
            said.trim() == digest,
            "b3sum says {said} of what hashes to {digest}"
        );
        let mut command = Command::new(&zstd);
        command
            .args(["-1", "-q", "-f", "-o"])
            .arg(&compressed)
            .arg(&corpus)
            .stdout(Stdio::null());
        let (zstd_wall_s, packed) = timed(&bench.place.here, command)?;
        ensure!(
            decompressed_digest(&compressed)? == digest,
            "zstd gave out something else"
        );
        Ok(Sample {
            value: (hashed.cpu_s + packed.cpu_s) / gib,
            cpu: (hash_wall_s + zstd_wall_s) / gib,
        })
    };
    let samples = bench.alternate(&mut [&mut ours, &mut peers])?;
    let pairs = |of: fn(&Sample) -> f64| {
        samples[0]
            .iter()
            .map(of)
            .zip(samples[1].iter().map(of))
            .collect::<Vec<_>>()
    };
    let peer = "b3sum --num-threads 1, then zstd -1";
    #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
    let share = |size: u64| 100.0 * size as f64 / bytes as f64;
    let packed = share(size_of(&compressed)?);
    let shares: Vec<_> = stored
        .into_iter()
        .map(|size| (share(size), packed))
        .collect();
    Ok(vec![
        Row::paired(
            "ingest",
            "CPU s/GiB",
            peer,
            &pairs(|sample| sample.value),
            Target::at_most(1.4, 1.15),
        ),
        Row::paired(
            "ingest (time)",
            "s/GiB",
            peer,
            &pairs(|sample| sample.cpu),
            Target::NONE,
        ),
        Row::paired(
            "ingest (size)",
            "% of the corpus",
            "zstd -1",
            &shares,
            Target::NONE,
        ),
    ])
}

/// Reads the document from another node, which checks every block and the whole.
fn read_back(
    bench: &Bench,
    folder: &std::path::Path,
    document: &str,
) -> anyhow::Result<crate::child::Report> {
    let (pki, store, other) = (text(folder)?, folder.join("store"), folder.join("other"));
    let here = bench.place.here.address.to_string();
    let mut server = Running::start(
        &bench.place.here,
        &["warren-serve", pki, text(&store)?, &here],
    )?;
    let from = server.ready()?.address;
    let read = Running::complete(
        &bench.place.there,
        &["warren-get", pki, text(&other)?, &from, document, "stream"],
    )?;
    server.finish::<Report>()?;
    std::fs::remove_dir_all(&other)?;
    Ok(read)
}

fn decompressed_digest(file: &std::path::Path) -> anyhow::Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut decoder = zstd::Decoder::new(File::open(file)?)?;
    std::io::copy(&mut decoder, &mut hasher)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Bytes that a file or folder takes on disk.
fn size_of(path: &std::path::Path) -> anyhow::Result<u64> {
    let asked = Command::new("du").args(["-s", "-B1"]).arg(path).output()?;
    let said = String::from_utf8_lossy(&asked.stdout).into_owned();
    let bytes = said
        .split_whitespace()
        .next()
        .and_then(|first| first.parse().ok());
    bytes.context(NotMeasurable("`du` does not answer".to_owned()))
}
