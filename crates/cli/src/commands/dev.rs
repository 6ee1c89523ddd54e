//! `warren dev`: a small network on this machine, a folder shared through it, every byte compared.

use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context, anyhow, bail};
use futures::TryStreamExt;
use serde::Serialize;
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{Signal, SignalKind, signal};
use warren_content::store::PutOptions;
use warren_daemon::dev::Network;

use crate::args::DevArgs;
use crate::output::{self, Format, print_line, table};

/// Organisation of a development network.
const ORGANIZATION: &str = "org_dev";
/// Source of what the node held already.
const LOCAL: &str = "local";
/// Bytes read from a file at once while comparing.
const COMPARE_BYTES: usize = 1 << 20;

/// One line of the table.
#[derive(Debug, Serialize)]
struct Shared {
    file: String,
    size: u64,
    chunks: u64,
    id: String,
    source: String,
    milliseconds: f64,
    equal: bool,
}

pub(crate) async fn run(args: &DevArgs, format: Format) -> anyhow::Result<ExitCode> {
    let folder = folder_to_share(args.dir.as_deref())?;
    let mut stop = Stop::watch()?;
    let temporary;
    let home = match &args.keep {
        Some(home) => home.clone(),
        None => {
            temporary = tempfile::Builder::new()
                .prefix("warren-dev-")
                .tempdir()
                .context("cannot make a temporary folder")?;
            temporary.path().to_owned()
        }
    };
    let began = Instant::now();
    let network = tokio::select! {
        network = Network::start(&home, ORGANIZATION, args.nodes) => network?,
        () = stop.asked() => bail!("stopped before the nodes were up"),
    };
    if format == Format::Text {
        print_line(&nodes_text(&network, began))?;
    }
    let shared = tokio::select! {
        shared = share(&network, &folder) => shared,
        () = stop.asked() => Err(anyhow!("stopped before every file was compared")),
    };
    let shared = match shared {
        Ok(shared) => shared,
        Err(error) => {
            network.shutdown().await;
            return Err(error);
        }
    };
    format.print(&shared, |shared| shared_text(shared, &folder))?;
    let differing = shared.iter().filter(|line| !line.equal).count();
    if !args.once {
        if format == Format::Text {
            print_line(&next_text(&network, &shared))?;
        }
        stop.asked().await;
    }
    network.shutdown().await;
    if differing > 0 {
        bail!("{differing} of {} files came back different", shared.len());
    }
    Ok(ExitCode::SUCCESS)
}

/// Ctrl-C and SIGTERM: either way to stop leaves no temporary folder behind.
struct Stop {
    interrupt: Signal,
    terminate: Signal,
}

impl Stop {
    fn watch() -> anyhow::Result<Self> {
        let watch = |kind| signal(kind).context("cannot watch for signals");
        Ok(Self {
            interrupt: watch(SignalKind::interrupt())?,
            terminate: watch(SignalKind::terminate())?,
        })
    }

    async fn asked(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}

/// The folder that was named, else the project's own docs.
fn folder_to_share(named: Option<&Path>) -> anyhow::Result<PathBuf> {
    if let Some(folder) = named {
        anyhow::ensure!(
            folder.is_dir(),
            "{} is no folder: name one with --dir",
            folder.display()
        );
        return Ok(folder.to_owned());
    }
    let own = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs");
    [PathBuf::from("docs"), own]
        .into_iter()
        .find(|folder| folder.is_dir())
        .context("there is no docs/ folder here: name a folder to share with --dir")?
        .canonicalize()
        .context("cannot find the way to docs/")
}

fn nodes_text(network: &Network, began: Instant) -> String {
    let rows = network.nodes().iter().enumerate().map(|(index, node)| {
        let addresses = node.addresses();
        let mesh = addresses
            .mesh
            .first()
            .map(ToString::to_string)
            .unwrap_or_default();
        vec![
            format!("node {}", index + 1),
            node.peer_id().to_string(),
            format!("http://{}", addresses.api),
            mesh,
        ]
    });
    let nodes = table(&["", "peer id", "API", "mesh"], &rows.collect::<Vec<_>>());
    format!(
        "{nodes}\nconnected in {:.2} s\n",
        began.elapsed().as_secs_f64()
    )
}

/// Puts each file into the first node, reads it from the last, compares.
async fn share(network: &Network, folder: &Path) -> anyhow::Result<Vec<Shared>> {
    let mut files = Vec::new();
    list_files(folder, &mut files)?;
    files.sort();
    anyhow::ensure!(
        !files.is_empty(),
        "{} holds no file: name another folder with --dir",
        folder.display()
    );
    let bar = output::progress(None, "sharing");
    let mut shared = Vec::new();
    for path in files {
        let name = path
            .strip_prefix(folder)
            .unwrap_or(&path)
            .display()
            .to_string();
        bar.set_message(name.clone());
        shared.push(share_one(network, &path, name).await?);
    }
    bar.finish_and_clear();
    Ok(shared)
}

async fn share_one(network: &Network, path: &Path, name: String) -> anyhow::Result<Shared> {
    let (first, last) = network.ends();
    let cannot = || format!("cannot share {}", path.display());
    let began = Instant::now();
    let file = tokio::fs::File::open(path).await.with_context(cannot)?;
    let options = PutOptions {
        title: Some(name.clone()),
        now: std::time::SystemTime::now().into(),
        ..PutOptions::default()
    };
    let receipt = first
        .store()
        .put(file, options, first.trust().key())
        .await
        .with_context(cannot)?;
    let mut retrieved = last
        .retriever()
        .open(receipt.document, None)
        .await
        .with_context(cannot)?;
    let source = retrieved.source.as_str().to_owned();
    let mut original = tokio::fs::File::open(path).await.with_context(cannot)?;
    let mut expected = vec![0; COMPARE_BYTES];
    let mut equal = retrieved.size == receipt.size;
    while let Some(piece) = retrieved.try_next().await.with_context(cannot)? {
        for part in piece.chunks(COMPARE_BYTES) {
            let expected = &mut expected[..part.len()];
            equal = equal && original.read_exact(expected).await.is_ok() && expected == part;
        }
    }
    equal = equal
        && original
            .read(&mut expected[..1])
            .await
            .with_context(cannot)?
            == 0;
    Ok(Shared {
        file: name,
        size: receipt.size,
        chunks: receipt.chunk_count,
        id: receipt.document.to_string(),
        source,
        milliseconds: began.elapsed().as_secs_f64() * 1e3,
        equal,
    })
}

fn list_files(folder: &Path, files: &mut Vec<PathBuf>) -> anyhow::Result<()> {
    for entry in
        std::fs::read_dir(folder).with_context(|| format!("cannot read {}", folder.display()))?
    {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            list_files(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn shared_text(shared: &[Shared], folder: &Path) -> String {
    let rows: Vec<Vec<String>> = shared
        .iter()
        .map(|line| {
            vec![
                line.file.clone(),
                output::bytes(line.size),
                line.chunks.to_string(),
                line.id.clone(),
                line.source.clone(),
                format!("{:.1} ms", line.milliseconds),
                if line.equal { "equal" } else { "DIFFERENT" }.to_owned(),
            ]
        })
        .collect();
    format!(
        "{}\n{}",
        table(
            &["file", "size", "chunks", "id", "source", "time", "compared"],
            &rows
        ),
        verdict(shared, folder)
    )
}

/// How many came back as they were. A file that the last node held before (`--keep`, a second time) has shown nothing of the
/// network, and is not said to.
fn verdict(shared: &[Shared], folder: &Path) -> String {
    let travelled = shared.iter().filter(|line| line.source != LOCAL);
    let equal = travelled.filter(|line| line.equal).count();
    let there = shared.iter().filter(|line| line.source == LOCAL).count();
    let total: u64 = shared.iter().map(|line| line.size).sum();
    let of = format!(
        "of {} files of {} ({})",
        shared.len(),
        folder.display(),
        output::bytes(total)
    );
    let went =
        format!("{equal} {of} went into the first node and came out of the last, byte for byte");
    let kept = "in the last node's store from before and did not travel: change them, or start in a new folder";
    match there {
        0 => went,
        _ if there == shared.len() => format!("nothing was proved: all {of} were {kept}"),
        _ => format!("{went}; {there} were {kept}"),
    }
}

fn next_text(network: &Network, shared: &[Shared]) -> String {
    let (first, last) = network.ends();
    let command = std::env::current_exe()
        .map_or_else(|_| "warren".to_owned(), |path| path.display().to_string());
    let at = |node: &warren_daemon::node::Node| {
        format!(
            "{command} --api http://{} --token-file {}",
            node.addresses().api,
            node.token_file().display()
        )
    };
    let id = shared.first().map(|line| line.id.as_str()).unwrap_or("ID");
    format!(
        "\ntry next:\n  {} status\n  {} peers\n  {} put README.md\n  {} get {id}\n  curl -s http://{}/metrics | grep warren_\n\
         every member may read every document until access control is built\nCtrl-C, or SIGTERM, stops the network",
        at(first),
        at(last),
        at(first),
        at(last),
        first.addresses().api,
    )
}
