//! Streams become documents: read, chunk, hash, look for duplicates, encode, hand to the writer.
//!
//! One blocking task per put cuts the stream; chunks above 64 KiB go to helper tasks while there are free ones (a number
//! shared by all puts), otherwise the task does the work itself. So a put keeps at most a read buffer, a chunk in the
//! making and [`CHUNKS_IN_FLIGHT`] chunks in memory, and many puts at once do not multiply the helpers.

use std::collections::VecDeque;
use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use crate::core::block::StoredBlock;
use crate::core::chunker::{Chunker, MIN_CHUNK_BYTES};
use crate::core::id::{BlockId, ChunkId, DocumentId};
use crate::core::manifest::{ChunkRef, FileBuilder, ManifestBlock};
use crate::store::Store;
use crate::store::error::{PutError, StoreError};
use crate::store::shared::{Pins, Shared};
use crate::store::writer::WriterHandle;

/// What is handed from the reading task to the cutting one at a time.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that may wait between the two.
const PIECES_WAITING: usize = 2;
/// Chunks of one put that are hashed, encoded or written at the same time.
const CHUNKS_IN_FLIGHT: usize = 3;
/// Blocks up to this size are not worth a task of their own; they are handed to the writer together.
const SMALL_BYTES: usize = 64 * 1024;
/// When collected small blocks are handed over.
const BATCH_BYTES: usize = 1024 * 1024;
const BATCH_BLOCKS: usize = 512;

/// A file that is in the store, durable with the next change of the index.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct IngestedFile {
    pub(super) id: DocumentId,
    pub(super) size: u64,
    pub(super) chunk_count: u64,
}

/// What helpers need.
#[derive(Clone)]
struct Tools {
    shared: Arc<Shared>,
    writer: WriterHandle,
    pins: Arc<Pins>,
    runtime: Handle,
}

/// Ingests files one after the other on a blocking thread.
pub(super) struct Ingest {
    tools: Tools,
    helpers: Arc<Semaphore>,
    batch: Vec<(BlockId, StoredBlock)>,
    batch_bytes: usize,
    stored_bytes: u64,
}

enum InFlight {
    Done(ChunkRef),
    Helper(JoinHandle<Result<(ChunkRef, u64), StoreError>>),
}

/// What the reading task tells the cutting one. A channel that closes without `End` is a put given up.
enum Piece {
    Data(Bytes),
    End,
    Failed(io::Error),
}

impl Ingest {
    /// Must be called, like everything on it, from a blocking task of a runtime.
    pub(super) fn new(
        shared: Arc<Shared>,
        writer: WriterHandle,
        pins: Arc<Pins>,
        helpers: Arc<Semaphore>,
    ) -> Self {
        let tools = Tools {
            shared,
            writer,
            pins,
            runtime: Handle::current(),
        };
        Self {
            tools,
            helpers,
            batch: Vec::new(),
            batch_bytes: 0,
            stored_bytes: 0,
        }
    }

    /// Ingests one file from `next`, which gives its pieces and then `None`.
    pub(super) fn file(
        &mut self,
        next: impl FnMut() -> Result<Option<Bytes>, PutError>,
    ) -> Result<IngestedFile, PutError> {
        let mut in_flight = VecDeque::new();
        let result = self.cut(next, &mut in_flight);
        // After a failure: a helper that goes on would pin the blocks of a put that is over.
        for started in in_flight {
            if let InFlight::Helper(helper) = started {
                // Its outcome changes nothing any more.
                let _ = self.tools.runtime.block_on(helper);
            }
        }
        result
    }

    fn cut(
        &mut self,
        mut next: impl FnMut() -> Result<Option<Bytes>, PutError>,
        in_flight: &mut VecDeque<InFlight>,
    ) -> Result<IngestedFile, PutError> {
        let mut chunker = Chunker::new();
        let mut builder = FileBuilder::new();
        loop {
            let piece = next()?;
            match &piece {
                Some(bytes) => chunker.push(bytes),
                None => chunker.finish(),
            }
            while let Some(chunk) = chunker.next_chunk() {
                if in_flight.len() >= CHUNKS_IN_FLIGHT {
                    self.settle_oldest(in_flight, &mut builder)?;
                }
                let started = self.start(chunk)?;
                in_flight.push_back(started);
            }
            if piece.is_none() {
                break;
            }
        }
        while !in_flight.is_empty() {
            self.settle_oldest(in_flight, &mut builder)?;
        }
        self.finish_file(builder)
    }

    /// Ingests a file below the size at which chunking begins.
    pub(super) fn small_file(&mut self, content: Bytes) -> Result<IngestedFile, PutError> {
        debug_assert!(content.len() < MIN_CHUNK_BYTES);
        let mut builder = FileBuilder::new();
        if !content.is_empty() {
            let size = block_size(&content);
            let id = ChunkId::of(&content);
            self.add_small(id.into(), content)?;
            builder.push(ChunkRef { id, size })?;
        }
        self.finish_file(builder)
    }

    /// Hands over what has been collected; gives the bytes newly taken by all files so far.
    pub(super) fn flush(&mut self) -> Result<u64, PutError> {
        if !self.batch.is_empty() {
            self.batch_bytes = 0;
            let blocks = std::mem::take(&mut self.batch);
            self.stored_bytes += self
                .tools
                .runtime
                .block_on(self.tools.writer.append(blocks, None))?;
        }
        Ok(self.stored_bytes)
    }

    /// Adds the manifests of a file or directory.
    pub(super) fn manifests(&mut self, blocks: Vec<ManifestBlock>) -> Result<(), PutError> {
        for ManifestBlock { id, bytes } in blocks {
            self.add_small(id.into(), bytes)?;
        }
        Ok(())
    }

    fn finish_file(&mut self, builder: FileBuilder) -> Result<IngestedFile, PutError> {
        let (size, chunk_count) = (builder.size(), builder.chunk_count());
        let blocks = builder.finish()?;
        let id = blocks
            .last()
            .map(|block| block.id)
            .ok_or(StoreError::Closed)?;
        self.manifests(blocks)?;
        Ok(IngestedFile {
            id,
            size,
            chunk_count,
        })
    }

    fn start(&mut self, chunk: Bytes) -> Result<InFlight, PutError> {
        if chunk.len() <= SMALL_BYTES {
            let reference = ChunkRef {
                id: ChunkId::of(&chunk),
                size: block_size(&chunk),
            };
            self.add_small(reference.id.into(), chunk)?;
            return Ok(InFlight::Done(reference));
        }
        match self.helpers.clone().try_acquire_owned() {
            Ok(permit) => {
                let tools = self.tools.clone();
                Ok(InFlight::Helper(self.tools.runtime.spawn_blocking(
                    move || {
                        let result = tools.add_chunk(&chunk);
                        drop(permit);
                        result
                    },
                )))
            }
            Err(_) => {
                let (reference, stored) = self.tools.add_chunk(&chunk)?;
                self.stored_bytes += stored;
                Ok(InFlight::Done(reference))
            }
        }
    }

    fn settle_oldest(
        &mut self,
        in_flight: &mut VecDeque<InFlight>,
        builder: &mut FileBuilder,
    ) -> Result<(), PutError> {
        let reference = match in_flight.pop_front() {
            None => return Ok(()),
            Some(InFlight::Done(reference)) => reference,
            Some(InFlight::Helper(helper)) => {
                let (reference, stored) = self
                    .tools
                    .runtime
                    .block_on(helper)
                    .map_err(|_| StoreError::Closed)??;
                self.stored_bytes += stored;
                reference
            }
        };
        if let Some(part) = builder.push(reference)? {
            self.manifests(vec![part])?;
        }
        Ok(())
    }

    fn add_small(&mut self, id: BlockId, plain: Bytes) -> Result<(), PutError> {
        self.tools.pins.pin(*id.hash());
        if self.tools.shared.contains(id.hash())? {
            self.tools.shared.metrics.dedup_hits.inc();
            return Ok(());
        }
        let block = self.tools.shared.encode(&plain);
        self.batch_bytes += block.bytes.len();
        self.batch.push((id, block));
        if self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS {
            self.flush()?;
        }
        Ok(())
    }
}

impl Store {
    /// Ingests one stream; gives the file and the bytes newly taken.
    pub(super) async fn ingest(
        &self,
        reader: impl AsyncRead + Send + Unpin,
        what: String,
        pins: Arc<Pins>,
    ) -> Result<(IngestedFile, u64), PutError> {
        let writer = self.inner.writer()?.clone();
        let permit = self.inner.put_permit().await?;
        let (shared, helpers) = (self.inner.shared.clone(), self.inner.helpers.clone());
        let (sender, receiver) = pieces();
        let cutting = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let mut ingest = Ingest::new(shared, writer, pins, helpers);
            let file = ingest.file(pieces_of(receiver, what))?;
            Ok::<_, PutError>((file, ingest.flush()?))
        });
        read_stream(reader, sender).await;
        cutting.await.map_err(|_| StoreError::Closed)?
    }
}

impl Tools {
    fn add_chunk(&self, chunk: &Bytes) -> Result<(ChunkRef, u64), StoreError> {
        let reference = ChunkRef {
            id: ChunkId::of(chunk),
            size: block_size(chunk),
        };
        self.pins.pin(*reference.id.hash());
        if self.shared.contains(reference.id.hash())? {
            self.shared.metrics.dedup_hits.inc();
            return Ok((reference, 0));
        }
        let block = self.shared.encode(chunk);
        let stored = self
            .runtime
            .block_on(self.writer.append(vec![(reference.id.into(), block)], None))?;
        Ok((reference, stored))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the chunker cuts at 4 MiB")]
fn block_size(chunk: &Bytes) -> u32 {
    chunk.len() as u32
}

/// The channel between [`read_stream`] and [`pieces_of`].
fn pieces() -> (mpsc::Sender<Piece>, mpsc::Receiver<Piece>) {
    mpsc::channel(PIECES_WAITING)
}

/// Reads `reader` to its end into `pieces`. Ends early if nobody listens any more: whoever listened has the reason.
async fn read_stream(mut reader: impl AsyncRead + Unpin, pieces: mpsc::Sender<Piece>) {
    let mut buffer = BytesMut::new();
    loop {
        if buffer.capacity() == buffer.len() {
            buffer.reserve(PIECE_BYTES);
        }
        let piece = match reader.read_buf(&mut buffer).await {
            // Few large pieces: small reads are gathered first.
            Ok(read) if read > 0 && buffer.len() < PIECE_BYTES / 2 => continue,
            Ok(0) => Piece::End,
            Ok(_) => Piece::Data(buffer.split().freeze()),
            Err(error) => Piece::Failed(error),
        };
        let last = !matches!(piece, Piece::Data(_));
        if last
            && !buffer.is_empty()
            && pieces
                .send(Piece::Data(buffer.split().freeze()))
                .await
                .is_err()
        {
            return;
        }
        if pieces.send(piece).await.is_err() || last {
            return;
        }
    }
}

/// The other end of [`read_stream`], for [`Ingest::file`].
fn pieces_of(
    mut pieces: mpsc::Receiver<Piece>,
    what: String,
) -> impl FnMut() -> Result<Option<Bytes>, PutError> {
    move || match pieces.blocking_recv() {
        Some(Piece::Data(bytes)) => Ok(Some(bytes)),
        Some(Piece::End) => Ok(None),
        Some(Piece::Failed(source)) => Err(PutError::Source {
            what: what.clone(),
            source,
        }),
        None => Err(PutError::Store(StoreError::Closed)),
    }
}
