//! One large random file from node to node, put already done: against TLS over TCP, and against iroh-blobs.

use std::path::{Path, PathBuf};

use super::program::text;
use super::{Bench, MIB, Sample, Telling};
use crate::child::{Report, Running};
use crate::material;
use crate::outcome::{Row, Target};
use crate::place::Place;
use crate::roles;

const UNIT: &str = "MB/s";
const CPU_UNIT: &str = "CPU s/GiB, both ends";

/// The file, and our store that holds it.
struct Prepared {
    folder: PathBuf,
    file: PathBuf,
    bytes: u64,
    digest: String,
    document: String,
}

impl Prepared {
    fn new(bench: &Bench, folder: &Path) -> anyhow::Result<Self> {
        let bytes = if bench.quick { 256 * MIB } else { 1024 * MIB };
        let file = folder.join("file");
        let digest = material::random_file(&file, "transfer", bytes)?;
        roles::warren::write_pki(folder)?;
        roles::tls::write_pki(folder)?;
        let store = folder.join("ours");
        let put = Running::complete(
            &bench.place.here,
            &["warren-put", text(&store)?, text(&file)?],
        )?;
        Ok(Self {
            folder: folder.to_owned(),
            file,
            bytes,
            digest,
            document: put.result,
        })
    }

    /// A place for what the receiver keeps; emptied first.
    fn received(&self) -> anyhow::Result<PathBuf> {
        let path = self.folder.join("received");
        if path.is_dir() {
            std::fs::remove_dir_all(&path)?;
        } else if path.exists() {
            std::fs::remove_file(&path)?;
        }
        Ok(path)
    }

    fn sample(&self, receiver: &Report, sender: &Report) -> anyhow::Result<Sample> {
        receiver.verify(self.bytes, &self.digest)?;
        #[expect(clippy::cast_precision_loss, reason = "sizes are far below 2^52")]
        let gib = self.bytes as f64 / (1024 * MIB) as f64;
        Ok(Sample {
            value: receiver.megabytes_per_s(),
            cpu: (receiver.cpu_s + sender.cpu_s) / gib,
        })
    }

    fn ours(&self, place: &Place, how: &str) -> anyhow::Result<Sample> {
        let (pki, received) = (text(&self.folder)?, self.received()?);
        let store = self.folder.join("ours");
        let mut server = Running::start(
            &place.here,
            &[
                "warren-serve",
                pki,
                text(&store)?,
                &place.here.address.to_string(),
            ],
        )?;
        let from = server.ready()?.address;
        let get = [
            "warren-get",
            pki,
            text(&received)?,
            &from,
            &self.document,
            how,
        ];
        let receiver = Running::complete(&place.there, &get)?;
        let sample = self.sample(&receiver, &server.finish()?);
        self.received()?;
        sample
    }

    fn tls(&self, place: &Place, to_file: bool) -> anyhow::Result<Sample> {
        let (pki, received) = (text(&self.folder)?, self.received()?);
        let mut sender = Running::start(
            &place.here,
            &[
                "tls-send",
                pki,
                text(&self.file)?,
                &place.here.address.to_string(),
            ],
        )?;
        let from = sender.ready()?.address;
        let mut receive = vec!["tls-receive", pki, &from];
        if to_file {
            receive.push(text(&received)?);
        }
        let receiver = Running::complete(&place.there, &receive)?;
        if to_file {
            let written = material::file_digest(&received)?;
            anyhow::ensure!(written == self.digest, "the written file differs");
        }
        let sample = self.sample(&receiver, &sender.finish()?);
        self.received()?;
        sample
    }

    /// Between stores if `stored`, else from memory to a stream.
    fn iroh(&self, place: &Place, stored: bool) -> anyhow::Result<Sample> {
        let received = self.received()?;
        let (here, there) = (
            place.here.address.to_string(),
            place.there.address.to_string(),
        );
        let kept = self.folder.join("iroh");
        let mut send = vec!["iroh-send", text(&self.file)?, &here];
        if stored {
            send.push(text(&kept)?);
        }
        let mut sender = Running::start(&place.here, &send)?;
        let ready = sender.ready()?.address;
        let (from, hash) = ready.split_once('#').unwrap_or((&ready, ""));
        let mut get = vec!["iroh-get", &there, from, hash];
        if stored {
            get.push(text(&received)?);
        }
        let receiver = Running::complete(&place.there, &get)?;
        let sample = self.sample(&receiver, &sender.finish()?);
        self.received()?;
        sample
    }
}

/// From our file store to our file store, durable at the end, against a receiver that hashes and discards, and against
/// one that hashes, writes and syncs a file.
pub(super) fn tls(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = bench.folder()?;
    let prepared = Prepared::new(bench, folder.path())?;
    let samples = bench.alternate(&mut [
        &mut || prepared.ours(&bench.place, "keep"),
        &mut || prepared.tls(&bench.place, false),
        &mut || prepared.tls(&bench.place, true),
    ])?;
    let telling = Telling {
        case: "transfer-tls",
        peer: "TLS 1.3 over TCP, BLAKE3, discarded",
        unit: UNIT,
        cpu_unit: CPU_UNIT,
        target: Target::at_least(0.6, 0.85),
    };
    let to_file = Telling {
        case: "transfer-tls-file",
        peer: "TLS 1.3 over TCP, BLAKE3, file synced",
        target: Target::NONE,
        ..telling
    };
    Ok([
        telling.rows(&samples[0], &samples[1]),
        to_file.rows(&samples[0], &samples[2]),
    ]
    .concat())
}

/// All files and stores in memory; the receiver hands a stream to a consumer, ours keeping what passes as it always does.
pub(super) fn iroh_stream(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = bench.folder_in_memory()?;
    let prepared = Prepared::new(bench, folder.path())?;
    let samples = bench.alternate(&mut [
        &mut || prepared.ours(&bench.place, "stream"),
        &mut || prepared.iroh(&bench.place, false),
        &mut || prepared.tls(&bench.place, false),
    ])?;
    let telling = Telling {
        case: "transfer-iroh-stream",
        peer: "iroh-blobs 0.104, memory to stream",
        unit: UNIT,
        cpu_unit: CPU_UNIT,
        target: Target::at_least(0.9, 1.3),
    };
    let tls = Telling {
        case: "transfer-tls-memory",
        peer: "TLS 1.3 over TCP, BLAKE3, discarded",
        target: Target::NONE,
        ..telling
    };
    Ok([
        telling.rows(&samples[0], &samples[1]),
        tls.rows(&samples[0], &samples[2]),
    ]
    .concat())
}

/// From file store to file store, ours durable at the end.
pub(super) fn iroh_store(bench: &Bench) -> anyhow::Result<Vec<Row>> {
    let folder = bench.folder()?;
    let prepared = Prepared::new(bench, folder.path())?;
    let samples = bench
        .alternate(&mut [&mut || prepared.ours(&bench.place, "keep"), &mut || {
            prepared.iroh(&bench.place, true)
        }])?;
    let telling = Telling {
        case: "transfer-iroh-store",
        peer: "iroh-blobs 0.104, file store to file store",
        unit: UNIT,
        cpu_unit: CPU_UNIT,
        target: Target::at_least(3.0, 5.0),
    };
    Ok(telling.rows(&samples[0], &samples[1]))
}
