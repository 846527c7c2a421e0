//! The stream below a WebSocket, as it is in the moment of a poll: what is not ready would block.

use std::{
    io::{self, ErrorKind, Read, Write},
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};

use crate::io::Io;

/// A stream that counts.
pub(super) struct Stream {
    io: Box<dyn Io>,
    pub(super) read: u64,
    pub(super) written: u64,
    /// Whether the last read got less than it had room for, and none has been in vain since: the next one will be, most
    /// likely.
    pub(super) ran_dry: bool,
}

/// How much of a disconnect's unread input is read and thrown away: bytes left unread at a drop become a reset, and
/// the peer would not see the close frame.
const DRAIN_BYTES: usize = 64 << 10;

impl Stream {
    /// A stream of which `read_buf` has been read already.
    pub(super) fn new(io: Box<dyn Io>, read_buf: &[u8]) -> Self {
        Self { io, read: read_buf.len() as u64, written: 0, ran_dry: false }
    }

    pub(super) fn poll_read(&mut self, buffer: &mut ReadBuf<'_>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        self.ran_dry = false;
        ready!(Pin::new(&mut self.io).poll_read(cx, buffer))?;
        self.ran_dry = buffer.remaining() > 0;
        self.read += (buffer.filled().len() - before) as u64;
        Poll::Ready(Ok(()))
    }

    /// Shuts the write side down and reads the rest away, so that the close frame arrives.
    pub(super) async fn drain(&mut self) -> io::Result<()> {
        self.io.shutdown().await?;
        let mut scrap = [0; 1024];
        let mut left = DRAIN_BYTES;
        while left > 0 {
            match self.io.read(&mut scrap).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}

/// A stream in the moment of a poll, as the engine wants it: what is not ready would block.
pub(super) struct PollIo<'a, 'b> {
    pub(super) stream: &'a mut Stream,
    /// What was read of it already.
    pub(super) input: &'a [u8],
    pub(super) cx: &'a mut Context<'b>,
}

impl Read for PollIo<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if !self.input.is_empty() {
            return Read::read(&mut self.input, buffer);
        }
        let mut buffer = ReadBuf::new(buffer);
        ready_now(self.stream.poll_read(&mut buffer, self.cx))?;
        Ok(buffer.filled().len())
    }
}

impl Write for PollIo<'_, '_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = ready_now(Pin::new(&mut self.stream.io).poll_write(self.cx, bytes))?;
        self.stream.written += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        ready_now(Pin::new(&mut self.stream.io).poll_flush(self.cx))
    }
}

fn ready_now<T>(polled: Poll<io::Result<T>>) -> io::Result<T> {
    match polled {
        Poll::Ready(done) => done,
        Poll::Pending => Err(ErrorKind::WouldBlock.into()),
    }
}

/// A stream that is never ready: what is queued waits for a flush.
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
