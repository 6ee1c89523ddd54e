//! `warren put`, `get`, `ls`, `stat`, `rm` and `store`: documents on a running node.

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use anyhow::{Context, bail};
use futures::{StreamExt, TryStreamExt};
use indicatif::ProgressBar;
use reqwest::{Body, Method, Response, header};
use tokio::io::AsyncWriteExt;
use tokio_util::io::{ReaderStream, StreamReader, SyncIoBridge};
use warren_api::types::{Collected, Document, Documents, PutQuery, Stored, Verified};
use warren_content::DocumentId;

use crate::args::{GetArgs, LsArgs, PutArgs};
use crate::client::ApiClient;
use crate::commands::folder;
use crate::output::{self, Format, progress, table};

/// Bytes read from a file at once.
const READ_BYTES: usize = 1 << 20;
/// Stands before the system's answer.
const NO_STDOUT: &str = "cannot write to standard output";
/// Type of a folder on its way to or from the node.
const TAR: &str = "application/x-tar";

pub(crate) async fn put(client: &ApiClient, args: &PutArgs, format: Format) -> anyhow::Result<()> {
    let source = &args.source;
    if let Some(tag) = args.tag.iter().find(|tag| tag.contains(',')) {
        bail!("tag {tag:?} holds a comma: give each tag its own --tag");
    }
    let query = PutQuery {
        title: args.title.clone(),
        file_name: default_title(source),
        tags: (!args.tag.is_empty()).then(|| args.tag.join(",")),
        source_type: args.source_type.clone(),
        retention_seconds: args.retention,
    };
    let upload = upload(source).await?;
    let request = client
        .request(Method::POST, upload.path)
        .query(&query)
        .body(upload.body);
    let sent = client.send(request).await;
    upload.bar.finish_and_clear();
    let stored = match upload.broken.get() {
        // The request broke off because its source did; what the HTTP library says of that names the wrong one.
        Some(reason) if sent.is_err() => {
            bail!(
                "cannot read {}: {reason}; nothing was stored",
                shown(source)
            )
        }
        _ => sent,
    };
    let stored: Stored = stored?
        .json()
        .await
        .context("the node's answer is not what this version expects")?;
    if format == Format::Text {
        for skipped in &stored.skipped {
            eprintln!("warren: left out {skipped}: only files and folders can be put");
        }
        if stored.skipped_unlisted > 0 {
            eprintln!("warren: left out {} more", stored.skipped_unlisted);
        }
        if stored.existed {
            eprintln!("{}", already_here(&stored));
        }
        eprintln!(
            "stored {}; every member of the organisation may read it until access control is built",
            output::bytes(stored.size)
        );
    }
    Ok(format.print(&stored, |stored| stored.id.clone())?)
}

/// What goes to the node.
struct Upload {
    /// The route that takes it.
    path: &'static str,
    body: Body,
    bar: ProgressBar,
    /// Why reading it broke off.
    broken: Arc<OnceLock<String>>,
}

async fn upload(source: &Path) -> anyhow::Result<Upload> {
    const FILES: &str = "/api/v1/documents";
    let broken = Arc::default();
    let (path, body, bar) = if source.as_os_str() == "-" {
        let bar = progress(None, &shown(source));
        let stream = ReaderStream::with_capacity(tokio::io::stdin(), READ_BYTES);
        (FILES, watched(stream, &bar, &broken), bar)
    } else if source.is_dir() {
        let bar = progress(Some(folder::size(source)?), &shown(source));
        let stream = folder::pack(source);
        ("/api/v1/directories", watched(stream, &bar, &broken), bar)
    } else {
        let file = tokio::fs::File::open(source)
            .await
            .with_context(|| format!("cannot read {}", shown(source)))?;
        let length = file
            .metadata()
            .await
            .with_context(|| format!("cannot look at {}", shown(source)))?
            .len();
        let bar = progress(Some(length), &shown(source));
        let stream = ReaderStream::with_capacity(file, READ_BYTES);
        (FILES, watched(stream, &bar, &broken), bar)
    };
    Ok(Upload {
        path,
        body,
        bar,
        broken,
    })
}

fn shown(source: &Path) -> String {
    match source.as_os_str() == "-" {
        true => "standard input".to_owned(),
        false => source.display().to_string(),
    }
}

/// What is said of a document that was here already: what was not named stays as it was.
fn already_here(stored: &Stored) -> String {
    let ends = match &stored.expires_at {
        Some(at) => format!("until {at}"),
        None => "until it is removed".to_owned(),
    };
    format!(
        "this document was here already: it is called {:?} and kept {ends}; --title, --tag, --source-type and --retention change what they name",
        stored.title
    )
}

/// The name of a file or folder. A device's or a pipe's says nothing of what comes out of it.
fn default_title(source: &Path) -> Option<String> {
    let full = source.canonicalize().ok()?;
    if !(full.is_file() || full.is_dir()) {
        return None;
    }
    Some(full.file_name()?.to_string_lossy().into_owned())
}

/// A body that moves the bar, and keeps why its source broke off.
fn watched<S>(stream: S, bar: &ProgressBar, broken: &Arc<OnceLock<String>>) -> Body
where
    S: futures::Stream<Item = std::io::Result<bytes::Bytes>> + Send + 'static,
{
    let (bar, broken) = (bar.clone(), Arc::clone(broken));
    Body::wrap_stream(
        stream
            .inspect_ok(move |piece| bar.inc(piece.len() as u64))
            .inspect_err(move |error| {
                // The first reason counts.
                let _ = broken.set(error.to_string());
            }),
    )
}

pub(crate) async fn get(client: &ApiClient, args: &GetArgs) -> anyhow::Result<()> {
    let request = client.request(
        Method::GET,
        &format!("/api/v1/documents/{}/content", args.id),
    );
    let response = client.send(request).await?;
    let is_folder = response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|kind| kind.as_bytes() == TAR.as_bytes());
    let bar = progress(response.content_length(), &args.id.to_string());
    let received = match (&args.output, is_folder) {
        (None, true) => bail!(
            "{} is a folder: name one to write it to with -o DIR",
            args.id
        ),
        (None, false) => receive_to_stdout(response, &bar).await,
        (Some(target), true) => receive_folder(response, target, &bar).await,
        (Some(target), false) => receive_file(response, target, args.force, &bar).await,
    };
    bar.finish_and_clear();
    received
}

async fn receive_to_stdout(response: Response, bar: &ProgressBar) -> anyhow::Result<()> {
    let mut stdout = tokio::io::stdout();
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.context(
            "the document broke off and what was printed is not whole; the node's log says why",
        )?;
        if let Err(error) = stdout.write_all(&piece).await {
            // The reader has had enough, as in `warren get … | head`.
            return if error.kind() == std::io::ErrorKind::BrokenPipe {
                Ok(())
            } else {
                Err(error).context(NO_STDOUT)
            };
        }
        bar.inc(piece.len() as u64);
    }
    stdout.flush().await.context(NO_STDOUT)
}

async fn receive_file(
    response: Response,
    target: &Path,
    force: bool,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    if target.is_dir() {
        bail!(
            "{} is a folder and the document is a file: name the file to write",
            target.display()
        );
    }
    if target.exists() && !force {
        bail!(
            "{} exists: choose another name, or pass --force",
            target.display()
        );
    }
    let folder = match target.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if !folder.is_dir() {
        bail!(
            "cannot write {}: there is no folder {folder}; make it with `mkdir -p {folder}`",
            target.display(),
            folder = folder.display()
        );
    }
    let cannot = || format!("cannot write {}", target.display());
    // Moved into place when it is whole, so that no half document ever has the name.
    let partial = match tempfile::NamedTempFile::new_in(folder) {
        Ok(partial) => partial,
        // The library's message names the temporary file, which says nothing to anybody.
        Err(error) => bail!(
            "cannot write to the folder {}: {}; name another file with -o",
            folder.display(),
            error.kind()
        ),
    };
    let mut file = tokio::fs::File::from_std(partial.reopen().with_context(cannot)?);
    let mut stream = response.bytes_stream();
    while let Some(piece) = stream.next().await {
        let piece = piece.with_context(|| {
            format!(
                "the document broke off and {} was not written; the node's log says why, and what came is kept: try again",
                target.display()
            )
        })?;
        file.write_all(&piece).await.with_context(cannot)?;
        bar.inc(piece.len() as u64);
    }
    file.flush().await.with_context(cannot)?;
    drop(file);
    let kept = if force {
        partial.persist(target).map(drop)
    } else {
        partial.persist_noclobber(target).map(drop)
    };
    kept.map_err(|error| error.error).with_context(cannot)?;
    // A temporary file is 0600; a document is as open as the umask lets any new file be.
    folder::set_ordinary_mode(target).with_context(cannot)
}

async fn receive_folder(
    response: Response,
    target: &Path,
    bar: &ProgressBar,
) -> anyhow::Result<()> {
    let bar = bar.clone();
    let stream = response
        .bytes_stream()
        .inspect_ok(move |piece| bar.inc(piece.len() as u64))
        .map_err(std::io::Error::other);
    let reader = SyncIoBridge::new(StreamReader::new(stream));
    let target: PathBuf = target.to_owned();
    tokio::task::spawn_blocking(move || folder::unpack(reader, &target)).await?
}

pub(crate) async fn list(client: &ApiClient, args: &LsArgs, format: Format) -> anyhow::Result<()> {
    let query = [("tag", &args.tag)];
    let documents = client
        .list::<Documents>("/api/v1/documents", &query, args.limit)
        .await?;
    let all = Documents {
        total: documents.len(),
        documents,
        next_cursor: None,
    };
    if all.total == 0 && format == Format::Text {
        let which = if args.tag.is_some() {
            " with this tag"
        } else {
            ""
        };
        eprintln!(
            "warren: this node holds no document{which}; what other nodes hold is not listed, `warren get ID` fetches it"
        );
    }
    Ok(format.print(&all, |all| match all.total {
        0 => String::new(),
        _ => table(
            &["id", "kind", "size", "origin", "added", "title", "tags"],
            &all.documents.iter().map(document_row).collect::<Vec<_>>(),
        ),
    })?)
}

fn document_row(document: &Document) -> Vec<String> {
    vec![
        document.id.clone(),
        document.kind.clone(),
        output::bytes(document.size),
        document.origin.clone(),
        document.added_at.chars().take(19).collect(),
        document.title.clone(),
        document.tags.join(","),
    ]
}

pub(crate) async fn stat(client: &ApiClient, id: DocumentId, format: Format) -> anyhow::Result<()> {
    let document: Document = client.get(&format!("/api/v1/documents/{id}")).await?;
    Ok(format.print(&document, |document| {
        let rows = [
            ("id", document.id.clone()),
            ("kind", document.kind.clone()),
            ("title", document.title.clone()),
            ("tags", document.tags.join(", ")),
            ("source type", document.source_type.clone()),
            (
                "size",
                format!("{} ({} bytes)", output::bytes(document.size), document.size),
            ),
            (
                "chunks",
                document
                    .chunks
                    .map(|chunks| chunks.to_string())
                    .unwrap_or_default(),
            ),
            ("origin", document.origin.clone()),
            ("created", document.created_at.clone().unwrap_or_default()),
            ("added", document.added_at.clone()),
            (
                "kept until",
                document
                    .expires_at
                    .clone()
                    .unwrap_or_else(|| "removed".to_owned()),
            ),
            ("signed by", document.signed_by.clone().unwrap_or_default()),
        ];
        let lines: Vec<String> = rows
            .iter()
            .filter(|(_, value)| !value.is_empty())
            .map(|(key, value)| format!("{key:<12} {value}"))
            .collect();
        lines.join("\n")
    })?)
}

pub(crate) async fn remove(client: &ApiClient, id: DocumentId) -> anyhow::Result<()> {
    client
        .send(client.request(Method::DELETE, &format!("/api/v1/documents/{id}")))
        .await?;
    Ok(())
}

pub(crate) async fn verify(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let verified: Verified = client
        .send(client.request(Method::POST, "/api/v1/store/verify"))
        .await?
        .json()
        .await?;
    format.print(&verified, |verified| {
        let mut lines = vec![format!(
            "read {} blocks, {}",
            verified.blocks,
            output::bytes(verified.bytes)
        )];
        for block in &verified.damaged {
            let outcome = if verified.repaired.contains(block) {
                "repaired from a peer"
            } else {
                "no peer has it"
            };
            lines.push(format!("{block} was damaged: {outcome}"));
        }
        lines.join("\n")
    })?;
    let left = verified.damaged.len() - verified.repaired.len();
    anyhow::ensure!(
        left == 0,
        "{left} damaged blocks could not be repaired: connect a peer that holds their documents and run this again"
    );
    Ok(())
}

pub(crate) async fn collect_garbage(client: &ApiClient, format: Format) -> anyhow::Result<()> {
    let collected: Collected = client
        .send(client.request(Method::POST, "/api/v1/store/gc"))
        .await?
        .json()
        .await?;
    Ok(format.print(&collected, |collected| {
        format!(
            "dropped {} blocks, gave back {}",
            collected.blocks,
            output::bytes(collected.bytes)
        )
    })?)
}
