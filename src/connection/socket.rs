//! The WebSocket of a connection: messages in, messages out, and the closing handshake.
//!
//! Reading and flushing are polls within a turn of the driver; only [`Socket::close`] awaits. Queued messages are
//! written by the next flush, many at once. The codec has buffers only for parts of messages, so that an idle connection
//! has none.

use std::{
    future::poll_fn,
    io::{self, ErrorKind},
    mem::MaybeUninit,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};

use crate::{
    close::{
        info::{CloseCause, CloseInfo},
        intent::{Close, MAX_REASON},
    },
    error::build::WithSources,
    io::Io,
    options::Options,
    websocket::{
        self,
        extension::DeflateParams,
        head::Role,
        reader::{Message, ReadError, Reader, TextMessage},
        writer::Writer,
    },
};

/// The input of one read.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(TextMessage),
    /// A binary message that is not tolerated as text.
    Binary,
    Ping,
    Pong(Bytes),
    /// The end of the input, and the way to disconnect.
    End(Disconnect),
}

/// The way to end a connection, and the outcome to report afterwards.
#[derive(Debug)]
pub(crate) struct Disconnect {
    closed: CloseInfo,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Sends a close frame and waits for that of the peer.
    CloseHandshake,
    /// Sends a close frame only, because the input is not readable any more.
    SendClose,
    /// Replies to the close frame of the peer with this code.
    ReplyClose(Option<u16>),
    /// Drops the socket without a close frame.
    Abort,
}

impl Disconnect {
    /// Returns a close by this end, with a closing handshake.
    #[cold]
    pub(crate) fn close(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::CloseHandshake }
    }

    /// Returns a close by this end, without a closing handshake.
    #[cold]
    pub(crate) fn forced(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::Abort }
    }

    /// Returns the end of a connection that is lost or given up, without a closing handshake.
    #[cold]
    pub(crate) fn abort(cause: CloseCause) -> Self {
        Self { closed: CloseInfo::abnormal(cause), step: Step::Abort }
    }

    /// Returns the end of a connection whose transport failed. The reason says why.
    #[cold]
    fn transport(error: &io::Error) -> Self {
        let closed = CloseInfo { reason: WithSources(error).to_string(), ..CloseInfo::abnormal(CloseCause::Transport) };
        Self { closed, step: Step::Abort }
    }

    /// Returns whether this end requested the close, rather than the peer or an error.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.closed.cause, CloseCause::Local | CloseCause::Replaced)
    }

    /// Returns the disconnect for input that cannot be read. The close frame says why.
    #[cold]
    fn unreadable(error: ReadError) -> Self {
        let code = error.close_code();
        let cause = if code == 1009 { CloseCause::TooLarge } else { CloseCause::ProtocolError };
        let close = Close::new(code).reason(error.to_string()).with_cause(cause);
        Self { closed: close.outcome(), step: Step::SendClose }
    }
}

/// A WebSocket that is polled by the driver.
pub(crate) struct Socket {
    io: Box<dyn Io>,
    reader: Reader,
    writer: Writer,
    // The options allow less than 2 GiB.
    max_unsent: u32,
    /// Set if bytes have arrived since [`take_activity`](Self::take_activity).
    is_active: bool,
    /// Set if the peer has read some of many bytes since [`take_progress`](Self::take_progress).
    has_progress: bool,
}

/// The buffer size of a read, in bytes.
const INPUT_SIZE: usize = 8 << 10;

/// The number of unsent bytes at which the driver flushes before it queues more.
const WRITE_BATCH: usize = 64 << 10;

/// The longest time for which input is read and discarded after a close frame.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The bytes of input that are discarded after a close frame, at most.
///
/// If a socket is dropped with unread input, TCP sends a reset, and the peer may not see the close frame.
const DRAIN_BYTES: usize = 64 << 10;

impl Socket {
    /// Creates the end `role` of a stream after the handshake, which agreed on `deflate`. `read_buf` has the input that
    /// followed the handshake.
    pub(crate) fn new(
        io: Box<dyn Io>,
        read_buf: &[u8],
        role: Role,
        deflate: Option<DeflateParams>,
        options: &Options,
    ) -> Box<Self> {
        let Options { tolerance, max_message_size, max_unsent, compression, .. } = *options;
        let (mut reader, writer) = websocket::codec(role, tolerance, max_message_size, deflate.zip(compression));
        reader.put(read_buf);
        let max_unsent = u32::try_from(max_unsent).unwrap_or(u32::MAX);
        Box::new(Self { io, reader, writer, max_unsent, is_active: !read_buf.is_empty(), has_progress: false })
    }

    /// Reads the next message, control frame, or the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let message = match ready!(self.poll_message(cx)) {
            Ok(message) => message,
            Err(disconnect) => return Poll::Ready(Incoming::End(disconnect)),
        };
        Poll::Ready(match message {
            Message::Text(text) => Incoming::Text(text),
            Message::Binary(_) => Incoming::Binary,
            Message::Ping(payload) => {
                // Pongs must not pile up for a peer that does not read.
                if let Err(disconnect) = self.check_limit(0) {
                    return Poll::Ready(Incoming::End(disconnect));
                }
                self.writer.pong(&payload);
                Incoming::Ping
            }
            Message::Pong(payload) => Incoming::Pong(payload),
            Message::Close(frame) => {
                let closed = CloseInfo::remote(frame.code.unwrap_or(1005), frame.reason);
                Incoming::End(Disconnect { closed, step: Step::ReplyClose(frame.reply) })
            }
        })
    }

    /// Returns whether bytes of the peer have arrived since the last call, be it only a part of a message.
    pub(crate) fn take_activity(&mut self) -> bool {
        std::mem::take(&mut self.is_active)
    }

    /// Returns whether the peer has read some of many bytes since the last call.
    pub(crate) fn take_progress(&mut self) -> bool {
        std::mem::take(&mut self.has_progress)
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, Disconnect>> {
        loop {
            if let Some(message) = self.reader.take().map_err(Disconnect::unreadable)? {
                return Poll::Ready(Ok(message));
            }
            if self.reader.is_inflating() {
                // Other tasks of the thread come first.
                cx.waker().wake_by_ref();
                return Poll::Pending;
            }
            let mut buffer = [MaybeUninit::uninit(); INPUT_SIZE];
            let mut input = ReadBuf::uninit(&mut buffer);
            let read = ready!(Pin::new(&mut self.io).poll_read(cx, &mut input));
            read.map_err(|error| Disconnect::transport(&error))?;
            if input.filled().is_empty() {
                return Poll::Ready(Err(Disconnect::abort(CloseCause::Remote)));
            }
            self.is_active = true;
            self.reader.put(input.filled());
        }
    }

    /// Queues a message for the next flush. Returns the length of its payload if that is compressed.
    ///
    /// The caller must [check the limit](Self::check_limit) before.
    pub(crate) fn queue(&mut self, text: String) -> Option<usize> {
        self.writer.text(text)
    }

    /// Queues a ping for the next flush.
    ///
    /// Returns an error if too many bytes wait already. The caller must then disconnect.
    pub(crate) fn ping(&mut self, payload: [u8; 4]) -> Result<(), Disconnect> {
        self.check_limit(0)?;
        self.writer.ping(&payload);
        Ok(())
    }

    /// Returns an error if more bytes wait for the peer than the options allow. `elsewhere` bytes wait outside of the
    /// socket. The caller must then disconnect.
    pub(crate) fn check_limit(&self, elsewhere: usize) -> Result<(), Disconnect> {
        if self.unsent(elsewhere) > self.max_unsent as usize {
            Err(Disconnect::abort(CloseCause::NotReading))
        } else {
            Ok(())
        }
    }

    /// Returns whether so many bytes wait for the peer that no more should be caused. `elsewhere` bytes wait outside of
    /// the socket.
    pub(crate) fn is_half_full(&self, elsewhere: usize) -> bool {
        self.unsent(elsewhere) > self.max_unsent as usize / 2
    }

    fn unsent(&self, elsewhere: usize) -> usize {
        self.writer.unsent().len().saturating_add(elsewhere)
    }

    /// Returns whether more may be queued before the next flush.
    pub(crate) fn has_room(&self) -> bool {
        self.writer.unsent().len() < WRITE_BATCH
    }

    /// Flushes all queued messages. `elsewhere` bytes wait outside of the socket.
    pub(crate) fn poll_flush(&mut self, elsewhere: usize, cx: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        let flushed = ready!(self.poll_send(elsewhere, cx));
        Poll::Ready(flushed.map_err(|error| Disconnect::transport(&error)))
    }

    fn poll_send(&mut self, elsewhere: usize, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            let unsent = self.writer.unsent();
            if unsent.is_empty() {
                break;
            }
            let sent = ready!(Pin::new(&mut self.io).poll_write(cx, unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(ErrorKind::WriteZero.into()));
            }
            self.has_progress |= self.is_half_full(elsewhere);
            self.writer.mark_sent(sent);
        }
        if self.writer.needs_flush() {
            ready!(Pin::new(&mut self.io).poll_flush(cx))?;
            self.writer.mark_flushed();
        }
        Poll::Ready(Ok(()))
    }

    /// Ends the connection as `disconnect` says, and returns its outcome.
    ///
    /// Queued messages are flushed first, unless `disconnect` is an abort. The closing handshake takes at most
    /// `close_timeout`, and discarding input after it at most [`DRAIN_TIMEOUT`].
    pub(crate) async fn close(mut self: Box<Self>, disconnect: Disconnect, close_timeout: Duration) -> CloseInfo {
        let Disconnect { closed, step } = disconnect;
        match step {
            Step::Abort => return closed,
            Step::CloseHandshake | Step::SendClose => self.writer.close(Some(closed.code), &closed.reason),
            Step::ReplyClose(code) => {
                // A reason that was not UTF-8 may be too long now.
                let echoes = code == Some(closed.code) && closed.reason.len() <= MAX_REASON;
                self.writer.close(code, if echoes { &closed.reason } else { "" });
            }
        }
        let closing = async {
            poll_fn(|cx| self.poll_send(0, cx)).await?;
            if let Step::CloseHandshake = step {
                self.reader.skip_messages();
                while !matches!(poll_fn(|cx| self.poll_message(cx)).await, Ok(Message::Close(_)) | Err(_)) {}
            }
            io::Result::Ok(())
        };
        // An error or a timeout does not change the outcome, which was decided before.
        let _ = timeout(close_timeout, closing).await;
        let _ = timeout(DRAIN_TIMEOUT, self.drain()).await;
        closed
    }

    /// Shuts down the write side and discards the input, so that the close frame arrives.
    async fn drain(&mut self) -> io::Result<()> {
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
