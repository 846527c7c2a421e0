//! The stream below a WebSocket, with the blocking interface that the engine expects.

use std::{
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::io::Io;

/// A stream that counts its bytes.
pub(super) struct Stream {
    io: Box<dyn Io>,
    pub(super) read: u64,
    pub(super) written: u64,
    /// Set if the last read was ready and did not fill its buffer: the next one is likely to be pending.
    pub(super) last_read_was_short: bool,
}

/// The bytes of input that are discarded after a close frame, at most.
///
/// If a socket is dropped with unread input, TCP sends a reset, and the peer may not see the close frame.
const DRAIN_BYTES: usize = 64 << 10;

impl Stream {
    /// Creates a stream of which `read_buf` has been read already.
    pub(super) fn new(io: Box<dyn Io>, read_buf: &[u8]) -> Self {
        Self { io, read: read_buf.len() as u64, written: 0, last_read_was_short: false }
    }

    /// Reads into `buffer` and counts the bytes.
    pub(super) fn poll_read(&mut self, buffer: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.last_read_was_short = false;
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.last_read_was_short = buffer.remaining() > 0;
        self.read += (buffer.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }

    /// Shuts down the write side and discards the input, so that the close frame arrives.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        let mut discarded = [0; 1024];
        let mut left = DRAIN_BYTES;
        while left > 0 {
            match self.io.read(&mut discarded).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}

/// A stream within one poll. Reads and writes that are not ready return `WouldBlock`.
pub(super) struct PollIo<'a, 'b> {
    pub(super) stream: &'a mut Stream,
    /// The input that was read from the stream already.
    pub(super) input: &'a [u8],
    pub(super) cx: &'a mut Context<'b>,
}

impl Read for PollIo<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.input.is_empty() {
            return Read::read(&mut self.input, buffer);
        }
        let mut buffer = ReadBuf::new(buffer);
        into_result(self.stream.poll_read(&mut buffer, self.cx))?;
        Ok(buffer.filled().len())
    }
}

impl Write for PollIo<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = into_result(Pin::new(&mut self.stream.io).poll_write(self.cx, bytes))?;
        self.stream.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        into_result(Pin::new(&mut self.stream.io).poll_flush(self.cx))
    }
}

/// Converts `Poll::Pending` into `WouldBlock`.
fn into_result<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

/// A stream that is never ready, so that messages stay queued until a flush.
pub(super) struct Later;

impl Read for Later {
    fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }
}

impl Write for Later {
    fn write(&mut self, _: &[u8]) -> io::Result<usize> {
        Err(ErrorKind::WouldBlock.into())
    }

    fn flush(&mut self) -> io::Result<()> {
        Err(ErrorKind::WouldBlock.into())
    }
}
