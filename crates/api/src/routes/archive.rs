//! Folders on the wire: a POSIX tar stream in, a POSIX tar stream out. Neither is ever held as a whole.

use std::cell::Cell;
use std::io::{self, Read};
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use axum::body::Body;
use axum::http::{HeaderMap, header};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use futures::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, ReadBuf};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::io::SyncIoBridge;
use warren_content::retrieve::{DirectoryPiece, RetrieveError};
use warren_content::store::{PutOptions, PutReceipt};
use warren_content::{DocumentId, Store};
use warren_identity::NodeKey;

use super::answer::{content_headers, not_modified, put_error, retrieve_error};
use crate::error::ApiError;
use crate::piece_stream::{PieceWriter, written_by};
use crate::range::{Selection, select};
use crate::state::ApiState;

/// Bytes of one piece between the parser's thread and the store.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait at most: 4 MiB.
const QUEUE_PIECES: usize = 16;
/// Files one folder may have.
const MAX_FILES: usize = 1_000_000;

/// Bytes that may stand before a file's content: headers, long names, extended attributes. The parser keeps them in memory.
const MAX_HEADER_BYTES: u64 = 256 * 1024;

/// Names of entries left out that an answer tells; of more it tells the number.
const MAX_NAMED_SKIPPED: usize = 100;

/// A folder that is durably stored.
pub(super) struct PutFolder {
    pub(super) receipt: PutReceipt,
    /// Entries that were left out beside those that the receipt names.
    pub(super) skipped_unlisted: u64,
}

/// Entries that are no files or folders: the first by name, a stream may have millions.
#[derive(Default)]
struct Skipped {
    named: Vec<PathBuf>,
    unlisted: u64,
}

impl Skipped {
    fn add(&mut self, name: String) {
        if self.named.len() < MAX_NAMED_SKIPPED {
            self.named.push(name.into());
        } else {
            self.unlisted += 1;
        }
    }
}

/// What the parser found next.
enum Part {
    /// A file begins.
    File(String),
    /// Bytes of it.
    Data(Bytes),
    /// It ends.
    End,
    /// Something that is no file or folder.
    Skipped(String),
    /// The stream is no tar, or broke off.
    Broken(io::Error),
    /// The stream ended in order.
    Finished,
}

/// Stores the files of a tar stream and lists one folder of them all.
pub(super) async fn put(
    store: &Store,
    body: impl AsyncRead + Send + Unpin + 'static,
    options: PutOptions,
    key: &NodeKey,
) -> Result<PutFolder, ApiError> {
    let (parts, mut queue) = mpsc::channel(QUEUE_PIECES);
    let body = SyncIoBridge::new(body);
    tokio::task::spawn_blocking(move || {
        let last = match parse(body, &parts) {
            Ok(()) => Part::Finished,
            Err(error) => Part::Broken(error),
        };
        // Nobody is left to tell when the request has failed already.
        let _ = parts.blocking_send(last);
    });
    let mut folder = store.begin_directory();
    let mut skipped = Skipped::default();
    let mut files = 0;
    loop {
        match queue.recv().await {
            Some(Part::File(name)) => {
                files += 1;
                if files > MAX_FILES {
                    return Err(ApiError::bad_request(format!(
                        "a folder may have {MAX_FILES} files; put its parts"
                    )));
                }
                let mut file = FileReader {
                    queue: &mut queue,
                    piece: Bytes::new(),
                    ended: false,
                };
                folder.add(&name, &mut file).await.map_err(put_error)?;
            }
            Some(Part::Skipped(name)) => skipped.add(name),
            Some(Part::Finished) => break,
            Some(Part::Broken(error)) => {
                return Err(ApiError::bad_request(format!(
                    "nothing was stored: the folder's tar stream broke off: {error}"
                )));
            }
            Some(Part::Data(_) | Part::End) | None => {
                return Err(ApiError::internal(
                    "the folder's tar stream was read out of order",
                ));
            }
        }
    }
    let mut receipt = folder.finish(options, key).await.map_err(put_error)?;
    receipt.skipped.append(&mut skipped.named);
    Ok(PutFolder {
        receipt,
        skipped_unlisted: skipped.unlisted,
    })
}

fn parse(body: impl Read, parts: &mpsc::Sender<Part>) -> io::Result<()> {
    let send = |part| {
        parts
            .blocking_send(part)
            .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))
    };
    let allowance = Cell::new(MAX_HEADER_BYTES);
    let mut archive = tar::Archive::new(Metered {
        body,
        allowance: &allowance,
    });
    let mut entries = archive.entries()?;
    while let Some(entry) = {
        allowance.set(MAX_HEADER_BYTES);
        entries.next()
    } {
        allowance.set(u64::MAX);
        let mut entry = entry?;
        let path = entry.path()?;
        let path = path.strip_prefix(".").unwrap_or(&path);
        let name = path.to_str().map(str::to_owned);
        let shown = path.display().to_string();
        let kind = entry.header().entry_type();
        let name = match name {
            Some(name) if kind.is_file() => name,
            _ => {
                if !kind.is_dir() {
                    send(Part::Skipped(shown))?;
                }
                io::copy(&mut entry, &mut io::sink())?;
                continue;
            }
        };
        let mut left = entry.size();
        send(Part::File(name))?;
        while left > 0 {
            let mut piece = vec![0; PIECE_BYTES.min(usize::try_from(left).unwrap_or(PIECE_BYTES))];
            entry.read_exact(&mut piece)?;
            left -= piece.len() as u64;
            send(Part::Data(piece.into()))?;
        }
        send(Part::End)?;
    }
    Ok(())
}

/// A reader that gives no more than the allowance of the moment.
struct Metered<'a, R> {
    body: R,
    allowance: &'a Cell<u64>,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let left = self.allowance.get();
        if left == 0 && !into.is_empty() {
            return Err(io::Error::other(format!(
                "a header is larger than {MAX_HEADER_BYTES} bytes"
            )));
        }
        let most = into.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = self.body.read(&mut into[..most])?;
        self.allowance.set(left - count as u64);
        Ok(count)
    }
}

/// One file of the stream, as the store reads it.
struct FileReader<'a> {
    queue: &'a mut mpsc::Receiver<Part>,
    piece: Bytes,
    ended: bool,
}

impl AsyncRead for FileReader<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.piece.is_empty() && !self.ended {
            match std::task::ready!(self.queue.poll_recv(context)) {
                Some(Part::Data(piece)) => self.piece = piece,
                Some(Part::End) => self.ended = true,
                Some(Part::Broken(error)) => return Poll::Ready(Err(error)),
                _ => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            }
        }
        let count = self.piece.len().min(into.remaining());
        into.put_slice(&self.piece.split_to(count));
        Poll::Ready(Ok(()))
    }
}

/// A folder as a tar stream. Each file goes on its way as it comes from this node or from peers.
pub(super) async fn get(
    state: &ApiState,
    id: DocumentId,
    etag: &str,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    if select(request, etag, 0) == Selection::NotModified {
        return Ok(not_modified(etag));
    }
    let folder = state
        .retriever
        .open_directory(id)
        .await
        .map_err(retrieve_error)?;
    let name = format!("{id}.tar");
    let mut headers = content_headers(etag, folder.source, "application/x-tar", &name);
    // A tar stream has no ranges: its bytes are made on the way.
    headers.remove(header::ACCEPT_RANGES);
    let runtime = Handle::current();
    let stream = written_by(move |out| {
        pack(folder, &runtime, out).inspect_err(|error| {
            tracing::warn!(document = %id, "a folder's download broke off: {error}");
        })
    });
    Ok((headers, Body::from_stream(stream)).into_response())
}

/// Writes a folder's files as they come. Waits for them on `runtime`, so it must run where it may block.
fn pack<S>(mut folder: S, runtime: &Handle, out: &mut PieceWriter) -> io::Result<()>
where
    S: Stream<Item = Result<DirectoryPiece, RetrieveError>> + Unpin,
{
    let mut archive = tar::Builder::new(out);
    while let Some(piece) = runtime.block_on(folder.next()) {
        let DirectoryPiece::File(entry) = piece.map_err(io::Error::other)? else {
            return Err(io::Error::other("a file is longer than its folder says"));
        };
        let mut header = tar::Header::new_gnu();
        header.set_size(entry.size);
        header.set_mode(0o644);
        header.set_entry_type(tar::EntryType::Regular);
        let content = FileContent {
            folder: &mut folder,
            runtime,
            left: entry.size,
            piece: Bytes::new(),
        };
        archive.append_data(&mut header, &entry.name, content)?;
    }
    archive.finish()
}

/// The bytes of the file that a folder has come to.
struct FileContent<'a, S> {
    folder: &'a mut S,
    runtime: &'a Handle,
    /// Bytes still to be read.
    left: u64,
    piece: Bytes,
}

impl<S> Read for FileContent<'_, S>
where
    S: Stream<Item = Result<DirectoryPiece, RetrieveError>> + Unpin,
{
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.left == 0 || into.is_empty() {
            return Ok(0);
        }
        while self.piece.is_empty() {
            match self.runtime.block_on(self.folder.next()).transpose() {
                Ok(Some(DirectoryPiece::Bytes(piece))) => self.piece = piece,
                Ok(Some(DirectoryPiece::File(_)) | None) => {
                    return Err(io::Error::other("a file is shorter than its folder says"));
                }
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        let count = self.piece.len().min(into.len());
        self.left = self
            .left
            .checked_sub(count as u64)
            .ok_or_else(|| io::Error::other("a file is longer than its folder says"))?;
        into[..count].copy_from_slice(&self.piece.split_to(count));
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use warren_content::core::manifest::DirectoryEntry;

    use super::*;

    /// What came of a tar stream: names with their bytes, what was skipped, and how it ended.
    #[derive(Debug, Default, PartialEq)]
    struct Parsed {
        files: Vec<(String, usize)>,
        skipped: Vec<String>,
        broken: Option<String>,
    }

    fn parsed(stream: &[u8]) -> Parsed {
        let (parts, mut queue) = mpsc::channel(1024);
        let broken = parse(stream, &parts).err().map(|error| error.to_string());
        drop(parts);
        let mut parsed = Parsed {
            broken,
            ..Parsed::default()
        };
        while let Some(part) = queue.blocking_recv() {
            match part {
                Part::File(name) => parsed.files.push((name, 0)),
                Part::Data(piece) => parsed.files.last_mut().unwrap().1 += piece.len(),
                Part::Skipped(name) => parsed.skipped.push(name),
                Part::End | Part::Broken(_) | Part::Finished => {}
            }
        }
        parsed
    }

    fn header(kind: tar::EntryType, name: &str, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        // Straight into the field: the library's setter refuses hostile names.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(0o644);
        header.set_cksum();
        header
    }

    fn entry(kind: tar::EntryType, name: &str, content: &[u8]) -> Vec<u8> {
        let mut bytes = header(kind, name, content.len() as u64).as_bytes().to_vec();
        bytes.extend_from_slice(content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn whole(entries: &[Vec<u8>]) -> Vec<u8> {
        let mut stream = entries.concat();
        stream.resize(stream.len() + 1024, 0);
        stream
    }

    #[test]
    fn given_files_folders_and_links_when_parsed_then_files_come_and_links_are_named() {
        let stream = whole(&[
            entry(tar::EntryType::Directory, "docs/", b""),
            entry(tar::EntryType::Regular, "./docs/a.txt", b"abc"),
            entry(tar::EntryType::Symlink, "docs/link", b""),
            entry(tar::EntryType::Fifo, "docs/pipe", b""),
            entry(tar::EntryType::Regular, "docs/empty", b""),
        ]);

        let parsed = parsed(&stream);

        assert_eq!(
            parsed.files,
            [("docs/a.txt".to_owned(), 3), ("docs/empty".to_owned(), 0)]
        );
        assert_eq!(parsed.skipped, ["docs/link", "docs/pipe"]);
        assert_eq!(parsed.broken, None);
    }

    #[test]
    fn given_a_stream_cut_anywhere_when_parsed_then_it_never_ends_in_order_with_a_half_file() {
        let stream = whole(&[entry(tar::EntryType::Regular, "a", &[7; 700])]);

        for length in 1..stream.len() - 1024 {
            let parsed = parsed(&stream[..length]);

            let half = parsed.files.iter().any(|(_, size)| *size < 700);
            assert!(
                parsed.broken.is_some() || !half,
                "cut at {length}: {parsed:?}"
            );
        }
    }

    #[test]
    fn given_a_size_that_is_a_lie_when_parsed_then_it_breaks_off_without_taking_that_memory() {
        let mut stream = header(tar::EntryType::Regular, "a", 1 << 60)
            .as_bytes()
            .to_vec();
        stream.extend_from_slice(&[7; 4096]);

        let parsed = parsed(&stream);

        assert!(parsed.broken.is_some(), "{parsed:?}");
    }

    #[test]
    fn given_a_name_without_end_when_parsed_then_it_is_refused() {
        let long = vec![b'a'; 1 << 20];
        let stream = whole(&[
            entry(tar::EntryType::GNULongName, "././@LongLink", &long),
            entry(tar::EntryType::Regular, "a", b"abc"),
        ]);

        let parsed = parsed(&stream);

        assert!(parsed.files.is_empty(), "{:?}", parsed.files);
        assert!(parsed.broken.unwrap().contains("header is larger"));
    }

    #[test]
    fn given_more_left_out_than_an_answer_names_when_added_then_the_rest_is_counted() {
        let mut skipped = Skipped::default();

        for number in 0..MAX_NAMED_SKIPPED + 7 {
            skipped.add(format!("link-{number}"));
        }

        assert_eq!(
            (skipped.named.len(), skipped.unlisted),
            (MAX_NAMED_SKIPPED, 7)
        );
    }

    #[test]
    fn given_content_behind_something_skipped_when_parsed_then_the_next_file_is_read_right() {
        let stream = whole(&[
            entry(tar::EntryType::Continuous, "odd", &vec![9; 600_000]),
            entry(tar::EntryType::Regular, "a", b"abc"),
        ]);

        let parsed = parsed(&stream);

        assert_eq!(parsed.files, [("a".to_owned(), 3)]);
        assert_eq!(parsed.skipped, ["odd"]);
    }

    fn file(name: &str, size: u64) -> Result<DirectoryPiece, RetrieveError> {
        Ok(DirectoryPiece::File(DirectoryEntry {
            name: name.to_owned(),
            id: DocumentId::of(name.as_bytes()),
            size,
        }))
    }

    fn bytes(content: &[u8]) -> Result<DirectoryPiece, RetrieveError> {
        Ok(DirectoryPiece::Bytes(Bytes::copy_from_slice(content)))
    }

    /// The tar stream of a folder whose pieces come from `pieces`.
    fn packed(
        pieces: impl Stream<Item = Result<DirectoryPiece, RetrieveError>> + Send + Unpin + 'static,
    ) -> impl Stream<Item = io::Result<Bytes>> + Unpin {
        let runtime = Handle::current();
        written_by(move |out| pack(pieces, &runtime, out))
    }

    #[tokio::test]
    async fn given_files_of_any_size_when_packed_then_a_reader_of_tar_finds_them_all() {
        let long = format!("{}/{}", "d".repeat(150), "f".repeat(150));
        let large = vec![5; 1_000_001];
        let pieces = futures::stream::iter(vec![
            file("a", 3),
            bytes(b"ab"),
            bytes(b"c"),
            file("empty", 0),
            file("exact", 512),
            bytes(&[7; 512]),
            file(&long, large.len() as u64),
            bytes(&large),
        ]);

        let stream: Vec<Bytes> = packed(pieces).map(Result::unwrap).collect().await;

        let stream = stream.concat();
        let mut archive = tar::Archive::new(stream.as_slice());
        let files: Vec<(String, Vec<u8>)> = archive
            .entries()
            .unwrap()
            .map(|entry| {
                let mut entry = entry.unwrap();
                let mut content = Vec::new();
                entry.read_to_end(&mut content).unwrap();
                (entry.path().unwrap().display().to_string(), content)
            })
            .collect();
        let expected = [
            ("a".to_owned(), b"abc".to_vec()),
            ("empty".to_owned(), Vec::new()),
            ("exact".to_owned(), vec![7; 512]),
            (long, large),
        ];
        assert!(files == expected, "the files differ");
    }

    #[tokio::test]
    async fn given_a_file_that_is_cut_or_too_long_when_packed_then_the_stream_never_ends_in_order()
    {
        for pieces in [
            vec![file("a", 3), bytes(b"ab")],
            vec![file("a", 3), bytes(b"ab"), file("b", 0)],
            vec![file("a", 3), bytes(b"abcd")],
            vec![file("a", 0), bytes(b"a")],
        ] {
            let items: Vec<_> = packed(futures::stream::iter(pieces)).collect().await;
            assert!(items.last().unwrap().is_err());
        }
    }

    #[tokio::test]
    async fn given_a_file_that_is_late_when_packed_then_those_before_it_are_sent() {
        let pieces = futures::stream::iter(vec![file("a", 600_000), bytes(&[1; 600_000])]);
        // Ends with the test: a thread that waits for ever would keep the runtime.
        let (end, late) = tokio::sync::oneshot::channel::<()>();
        let pieces = pieces.chain(
            futures::stream::once(late)
                .filter_map(async |_| None)
                .boxed(),
        );
        let mut stream = packed(pieces);

        let first = stream.next().await.unwrap().unwrap();

        assert!(first.len() >= PIECE_BYTES);
        drop(end);
    }
}
