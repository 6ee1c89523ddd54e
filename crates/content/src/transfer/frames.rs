//! Reading and writing frames and block bodies on a stream, with a time-out on every step.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::time::timeout;

use super::buffers::BlockBuffers;
use crate::core::wire::{DecodeError, LENGTH_PREFIX, MAX_FRAME, frame_length};

/// Enough for many small blocks per read; larger bodies bypass it.
const READ_BUFFER: usize = 64 * 1024;

/// Why a connection of the block protocol ended.
#[derive(Debug, thiserror::Error)]
pub(crate) enum EndReason {
    #[error("the peer closed the connection")]
    Closed,
    #[error("nothing was asked for too long")]
    Idle,
    #[error("the peer stopped in the middle of a message or owes an answer for too long")]
    Stalled,
    #[error("the connection broke: {0}")]
    Io(#[source] io::Error),
    #[error("the peer sent no block protocol: {0}")]
    Garbage(#[from] DecodeError),
    #[error("the peer answered a request that was never made, or with another kind of answer")]
    Unasked,
    #[error("{0}")]
    NotAMember(#[from] super::MembershipEnded),
    #[error("this side no longer needs it")]
    Dropped,
}

impl EndReason {
    /// Value of the `reason` label.
    pub(crate) fn label(&self) -> &'static str {
        match self {
            Self::Closed => "closed",
            Self::Idle => "idle",
            Self::Stalled => "stalled",
            Self::Io(_) => "io",
            Self::Garbage(error) => error.reason(),
            Self::Unasked => "unasked_answer",
            Self::NotAMember(_) => "not_a_member",
            Self::Dropped => "dropped",
        }
    }
}

/// The reading side of a connection.
pub(crate) struct FrameReader<R> {
    reader: BufReader<R>,
    body: Vec<u8>,
    progress: Duration,
    on_progress: Box<dyn Fn() + Send>,
    buffers: BlockBuffers,
}

impl<R: AsyncRead + Unpin> FrameReader<R> {
    /// `on_progress` is called whenever bytes came in.
    pub(crate) fn new(
        reader: R,
        progress: Duration,
        on_progress: impl Fn() + Send + 'static,
    ) -> Self {
        let on_progress = Box::new(on_progress);
        Self {
            reader: BufReader::with_capacity(READ_BUFFER, reader),
            body: Vec::new(),
            progress,
            on_progress,
            buffers: BlockBuffers::default(),
        }
    }

    /// Waits without limit for the first byte of a frame. Cancel safe.
    ///
    /// # Errors
    /// [`EndReason::Closed`] when the stream ends here, as it may; [`EndReason::Io`].
    pub(crate) async fn wait(&mut self) -> Result<(), EndReason> {
        match self.reader.fill_buf().await {
            Ok([]) => Err(EndReason::Closed),
            Ok(_) => Ok(()),
            Err(error) => Err(EndReason::Io(error)),
        }
    }

    /// Reads one frame and returns its body. Not cancel safe.
    pub(crate) async fn frame(&mut self) -> Result<&[u8], EndReason> {
        let mut prefix = [0; LENGTH_PREFIX];
        self.exact(&mut prefix).await?;
        let length = frame_length(prefix)?;
        debug_assert!(length <= MAX_FRAME);
        let mut body = std::mem::take(&mut self.body);
        body.resize(length, 0);
        self.exact(&mut body).await?;
        self.body = body;
        Ok(&self.body)
    }

    /// Reads the raw bytes of a block straight into a buffer of their size. Not cancel safe.
    ///
    /// `size` must have passed [`crate::core::wire`]'s limits.
    pub(crate) async fn raw(&mut self, size: usize) -> Result<Bytes, EndReason> {
        let mut block = self.buffers.take(size);
        let mut rest = (&mut self.reader).take(size as u64);
        while block.len() < size {
            match timeout(self.progress, rest.read_buf(&mut block)).await {
                Err(_) => return Err(EndReason::Stalled),
                Ok(Err(error)) => return Err(EndReason::Io(error)),
                Ok(Ok(0)) => return Err(EndReason::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(_)) => (self.on_progress)(),
            }
        }
        Ok(self.buffers.share(block))
    }

    /// Reads `size` raw bytes and keeps none. Not cancel safe.
    pub(crate) async fn skip(&mut self, size: usize) -> Result<(), EndReason> {
        let mut left = size;
        while left > 0 {
            let count = match timeout(self.progress, self.reader.fill_buf()).await {
                Err(_) => return Err(EndReason::Stalled),
                Ok(Err(error)) => return Err(EndReason::Io(error)),
                Ok(Ok([])) => return Err(EndReason::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(bytes)) => bytes.len().min(left),
            };
            self.reader.consume(count);
            left -= count;
            (self.on_progress)();
        }
        Ok(())
    }

    async fn exact(&mut self, buffer: &mut [u8]) -> Result<(), EndReason> {
        let mut filled = 0;
        while filled < buffer.len() {
            match timeout(self.progress, self.reader.read(&mut buffer[filled..])).await {
                Err(_) => return Err(EndReason::Stalled),
                Ok(Err(error)) => return Err(EndReason::Io(error)),
                Ok(Ok(0)) => return Err(EndReason::Io(io::ErrorKind::UnexpectedEof.into())),
                Ok(Ok(count)) => filled += count,
            }
        }
        (self.on_progress)();
        Ok(())
    }
}

/// The writing side of a connection: gathers small messages, hands large ones through.
pub(crate) struct FrameWriter<W> {
    writer: W,
    staged: Vec<u8>,
    progress: Duration,
}

/// What is gathered before it is written.
const STAGE: usize = 64 * 1024;

impl<W: AsyncWrite + Unpin> FrameWriter<W> {
    pub(crate) fn new(writer: W, progress: Duration) -> Self {
        Self {
            writer,
            staged: Vec::with_capacity(STAGE),
            progress,
        }
    }

    /// Appends a message with `encode`; it is written when enough has gathered or on [`Self::flush`].
    pub(crate) async fn message(
        &mut self,
        encode: impl FnOnce(&mut Vec<u8>),
    ) -> Result<(), EndReason> {
        encode(&mut self.staged);
        if self.staged.len() >= STAGE {
            self.write_staged().await
        } else {
            Ok(())
        }
    }

    /// Appends a block's raw bytes.
    pub(crate) async fn raw(&mut self, bytes: &[u8]) -> Result<(), EndReason> {
        if self.staged.len() + bytes.len() <= STAGE {
            self.staged.extend_from_slice(bytes);
            return Ok(());
        }
        self.write_staged().await?;
        write_all(&mut self.writer, bytes, self.progress).await
    }

    /// Everything appended so far leaves this process.
    pub(crate) async fn flush(&mut self) -> Result<(), EndReason> {
        self.write_staged().await?;
        match timeout(self.progress, self.writer.flush()).await {
            Err(_) => Err(EndReason::Stalled),
            Ok(result) => result.map_err(EndReason::Io),
        }
    }

    /// Says goodbye, briefly.
    pub(crate) async fn close(&mut self) {
        // The connection is over either way.
        let _ = timeout(Duration::from_secs(1), async {
            let _ = self.writer.flush().await;
            let _ = self.writer.shutdown().await;
        })
        .await;
    }

    async fn write_staged(&mut self) -> Result<(), EndReason> {
        let result = write_all(&mut self.writer, &self.staged, self.progress).await;
        self.staged.clear();
        result
    }
}

async fn write_all(
    writer: &mut (impl AsyncWrite + Unpin),
    bytes: &[u8],
    progress: Duration,
) -> Result<(), EndReason> {
    let mut rest = bytes;
    while !rest.is_empty() {
        match timeout(progress, writer.write(rest)).await {
            Err(_) => return Err(EndReason::Stalled),
            Ok(Err(error)) => return Err(EndReason::Io(error)),
            Ok(Ok(0)) => return Err(EndReason::Io(io::ErrorKind::WriteZero.into())),
            Ok(Ok(count)) => rest = &rest[count..],
        }
    }
    Ok(())
}
