//! Calls on streams of their own, as both sides read and write them.

use bytes::{Bytes, BytesMut};
use quinn::{RecvStream, SendStream, VarInt, WriteError};

use crate::core::frame::{Part, put_part};
use crate::core::wire::FrameReader;
use crate::status::{Code, Status};

/// The code with which a stream that nobody wants any more is reset.
const CANCELLED: VarInt = VarInt::from_u32(1);

/// The sending half of a call's stream. Dropped before [`PartSender::finish`] it resets the stream: the other side must
/// never take half for all, which a stream that merely ended would say.
#[derive(Debug)]
pub(crate) struct PartSender {
    stream: SendStream,
    finished: bool,
}

impl PartSender {
    pub(crate) const fn new(stream: SendStream) -> Self {
        Self {
            stream,
            finished: false,
        }
    }

    /// Sends a part, waiting while the other side reads slowly. Not cancellation safe: a dropped future may have sent
    /// half a part, so the stream must be dropped with it.
    ///
    /// # Errors
    /// [`Code::Unavailable`] when the other side does not read on.
    pub(crate) async fn send(&mut self, part: &Part) -> Result<(), Status> {
        let mut out = BytesMut::new();
        put_part(&mut out, part);
        self.send_bytes(out.freeze()).await.map_err(|error| {
            Status::new(
                Code::Unavailable,
                format!("the other side stopped reading the call: {error}"),
            )
        })
    }

    /// Sends bytes as they are; otherwise as [`PartSender::send`].
    pub(crate) async fn send_bytes(&mut self, bytes: Bytes) -> Result<(), WriteError> {
        self.stream.write_chunk(bytes).await
    }

    /// Says that this was all.
    pub(crate) fn finish(&mut self) {
        // Fails on a stream that the other side has stopped already: it knows then.
        let _ = self.stream.finish();
        self.finished = true;
    }

    /// Returns when the other side has stopped reading or taken everything. Cancellation safe.
    pub(crate) fn stopped(&self) -> impl Future<Output = ()> + Send + 'static {
        let stopped = self.stream.stopped();
        async move {
            let _ = stopped.await;
        }
    }
}

impl Drop for PartSender {
    fn drop(&mut self) {
        if !self.finished {
            // Fails on a stream that is gone already.
            let _ = self.stream.reset(CANCELLED);
        }
    }
}

/// The next part of a call's own stream; `None` when the stream ended between parts. Cancellation safe: what arrived
/// stays in `reader`.
pub(crate) async fn next_part(
    stream: &mut RecvStream,
    reader: &mut FrameReader,
) -> Result<Option<Part>, Status> {
    next_frame(stream, reader)
        .await?
        .map(|(kind, payload)| Part::parse(kind, payload).map_err(Status::from))
        .transpose()
}

/// The next frame of a call's own stream, as [`next_part`].
pub(crate) async fn next_frame(
    stream: &mut RecvStream,
    reader: &mut FrameReader,
) -> Result<Option<(u8, Bytes)>, Status> {
    loop {
        if let Some(frame) = reader.next_frame()? {
            return Ok(Some(frame));
        }
        if !read_more(stream, reader).await? {
            return Ok(None);
        }
    }
}

/// Gives `reader` what arrives next; `false` when the stream ended between frames. Cancellation safe.
pub(crate) async fn read_more(
    stream: &mut RecvStream,
    reader: &mut FrameReader,
) -> Result<bool, Status> {
    match stream.read_chunk(usize::MAX, true).await {
        Ok(Some(chunk)) => {
            reader.push(chunk.bytes);
            Ok(true)
        }
        Ok(None) if reader.is_within_frame() => Err(half_a_message()),
        Ok(None) => Ok(false),
        Err(quinn::ReadError::Reset(_)) => Err(Status::new(
            Code::Cancelled,
            "the other side gave the call up",
        )),
        Err(error) => Err(Status::new(
            Code::Unavailable,
            format!("the connection ended: {error}; the call may have been carried out"),
        )),
    }
}

/// A stream that ended where it may not.
pub(crate) fn half_a_message() -> Status {
    Status::new(
        Code::Internal,
        "the stream of the call ended within a message",
    )
}
