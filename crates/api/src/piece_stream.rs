//! From a blocking writer to an asynchronous stream: what an archiver writes on a thread of its own, as pieces that wait for
//! their reader. Folders take this way in both directions, at the node and at the command line.

use std::io::{self, Write};

use bytes::Bytes;
use futures::Stream;
use tokio::sync::mpsc;

/// Bytes of one piece at least, but for the last.
const PIECE_BYTES: usize = 256 * 1024;
/// Pieces that wait at most: 4 MiB. Then the writer waits.
const QUEUE_PIECES: usize = 16;

/// Runs `write` on a thread where it may block, and gives what it writes. Its error is the stream's last item; where the stream
/// was dropped, `write` is told by an error of its next write.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn written_by<W>(write: W) -> impl Stream<Item = io::Result<Bytes>> + use<W>
where
    W: FnOnce(&mut PieceWriter) -> io::Result<()> + Send + 'static,
{
    let (pieces, mut queue) = mpsc::channel(QUEUE_PIECES);
    tokio::task::spawn_blocking(move || {
        let mut writer = PieceWriter {
            pieces,
            piece: Vec::new(),
        };
        if let Err(error) = write(&mut writer).and_then(|()| writer.flush()) {
            // Nobody is left to tell where the stream was dropped.
            let _ = writer.pieces.blocking_send(Err(error));
        }
    });
    futures::stream::poll_fn(move |context| queue.poll_recv(context))
}

/// Cuts what is written into pieces.
pub struct PieceWriter {
    pieces: mpsc::Sender<io::Result<Bytes>>,
    piece: Vec<u8>,
}

impl Write for PieceWriter {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.piece.capacity() == 0 {
            self.piece.reserve(PIECE_BYTES);
        }
        self.piece.extend_from_slice(bytes);
        if self.piece.len() >= PIECE_BYTES {
            self.flush()?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        if self.piece.is_empty() {
            return Ok(());
        }
        let piece = Bytes::from(std::mem::take(&mut self.piece));
        self.pieces
            .blocking_send(Ok(piece))
            .map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used)]
    use super::*;
    use futures::StreamExt;

    #[tokio::test]
    async fn given_more_than_a_piece_when_written_then_it_comes_out_whole_and_in_order() {
        let written: Vec<u8> = (0..PIECE_BYTES + 1000).map(|at| (at % 251) as u8).collect();
        let expected = written.clone();

        let stream =
            written_by(move |out| written.chunks(999).try_for_each(|part| out.write_all(part)));

        let pieces: Vec<Bytes> = stream.map(Result::unwrap).collect().await;
        assert_eq!(pieces.len(), 2);
        assert!(pieces.concat() == expected);
    }

    #[tokio::test]
    async fn given_a_writer_that_fails_when_read_then_its_error_comes_last() {
        let stream = written_by(|out| {
            out.write_all(b"some")?;
            out.flush()?;
            Err(io::Error::other("the file is gone"))
        });

        let items: Vec<_> = stream.collect().await;

        assert_eq!(items.len(), 2);
        assert_eq!(
            items[1].as_ref().unwrap_err().to_string(),
            "the file is gone"
        );
    }

    #[tokio::test]
    async fn given_a_reader_that_left_when_written_then_the_writer_learns_of_it() {
        let (told, outcome) = tokio::sync::oneshot::channel();
        let stream = written_by(move |out| {
            let written = (0..).try_for_each(|_| out.write_all(&[0; PIECE_BYTES]));
            let _ = told.send(written.map_err(|error| error.kind()));
            Ok(())
        });

        drop(stream);

        assert_eq!(outcome.await.unwrap(), Err(io::ErrorKind::BrokenPipe));
    }
}
