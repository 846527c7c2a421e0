//! The WebSocket of a connection: messages in, messages out, and the closing handshake.
//!
//! This is the only file that depends on the WebSocket engine. Reading and flushing are polls within a turn of the
//! driver; only [`Socket::close`] awaits. Queued messages are written by the next flush, many at once.
//!
//! The engine owns the buffers. It is created for input or for a message to write, and dropped when it has passed on
//! all of them. An idle connection therefore has no buffers.

mod stream;

use std::{
    future::poll_fn,
    io::ErrorKind,
    mem::MaybeUninit,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use tokio::{io::ReadBuf, time::timeout};
use tungstenite::{
    Message,
    error::ProtocolError,
    protocol::{CloseFrame, Role, WebSocketConfig, WebSocketContext},
};

use crate::{
    close::{
        info::{CloseCause, CloseInfo},
        intent::Close,
    },
    connection::socket::stream::{Later, PollIo, Stream},
    io::Io,
    options::Options,
};

/// The input of one read.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(ByteString),
    /// A binary message, as text if it is UTF-8.
    Binary(Option<ByteString>),
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
    /// Flushes the reply to the close frame of the peer, which the engine has queued.
    ReplyClose,
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

    /// Returns whether this end requested the close, rather than the peer or an error.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.closed.cause, CloseCause::Local | CloseCause::Replaced)
    }

    /// Returns the disconnect for input that cannot be read. The close frame says why.
    #[cold]
    fn unreadable(code: u16, cause: CloseCause, reason: String) -> Self {
        Self { closed: Close::new(code).reason(reason).with_cause(cause).outcome(), step: Step::SendClose }
    }
}

/// A WebSocket that is polled by the driver.
pub(crate) struct Socket {
    stream: Stream,
    engine: Engine,
    /// The minimum size on the wire of the messages that the engine has returned.
    ///
    /// If it is less than the bytes read, the engine may hold a part of a message and must stay. A peer that splits
    /// messages into frames, or encodes lengths in more bytes than necessary, needs more than the minimum. Its engine
    /// stays as well.
    returned: u64,
    /// The bytes that were queued so far, including the heads of frames.
    queued: u64,
    /// Set while queued messages are not flushed.
    needs_flush: bool,
    max_unsent: u64,
}

/// The longest time for which input is read and discarded after a close frame.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(1);

/// The buffer size of a read without an engine, in bytes.
const INPUT_SIZE: usize = 8 << 10;

/// The bytes that an engine without unfinished input accepts at once: the longest head of a frame.
const MIN_INPUT_SIZE: usize = 14;

/// The number of unsent bytes at which the driver flushes before it queues more.
const WRITE_BATCH: u64 = 64 << 10;

impl Socket {
    /// Creates the server's end of a stream after the handshake. `read_buf` has the input that followed the handshake.
    pub(crate) fn server(io: Box<dyn Io>, read_buf: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, read_buf, Role::Server, options)
    }

    /// Creates the client's end of a stream after the handshake, like [`server`](Self::server).
    pub(crate) fn client(io: Box<dyn Io>, read_buf: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, read_buf, Role::Client, options)
    }

    fn new(io: Box<dyn Io>, read_buf: &[u8], role: Role, options: &Options) -> Box<Self> {
        Box::new(Self {
            stream: Stream::new(io, read_buf),
            engine: Engine::new(read_buf, role, options.max_message_size),
            returned: 0,
            queued: 0,
            needs_flush: false,
            max_unsent: options.max_unsent as u64,
        })
    }

    /// Reads the next message, control frame, or the end.
    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let message = match ready!(self.poll_message(cx)) {
            Ok(message) => message,
            Err(error) => return Poll::Ready(Incoming::End(disconnect_after(&error))),
        };
        self.returned += min_len(message.len(), self.engine.role == Role::Server);
        Poll::Ready(match message {
            Message::Text(text) => match ByteString::try_from(Bytes::from(text)) {
                Ok(text) => Incoming::Text(text),
                Err(error) => Incoming::End(Disconnect::unreadable(1007, CloseCause::ProtocolError, error.to_string())),
            },
            Message::Binary(bytes) => Incoming::Binary(ByteString::try_from(bytes).ok()),
            Message::Frame(_) => Incoming::Binary(None),
            Message::Ping(payload) => {
                // The engine has queued a pong, and pongs must not pile up for a peer that does not read.
                self.count_frame(payload.len());
                match self.is_over_limit() {
                    true => Incoming::End(Disconnect::abort(CloseCause::NotReading)),
                    false => Incoming::Ping,
                }
            }
            Message::Pong(payload) => Incoming::Pong(payload),
            Message::Close(frame) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                Incoming::End(Disconnect { closed: CloseInfo::remote(code, reason), step: Step::ReplyClose })
            }
        })
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Message, tungstenite::Error>> {
        let mut buffer = [MaybeUninit::uninit(); INPUT_SIZE];
        let mut input = match self.engine.is_at_rest() {
            true => ReadBuf::uninit(&mut buffer),
            false if self.has_returned_all() && self.stream.last_read_was_short => {
                ReadBuf::uninit(&mut buffer[..MIN_INPUT_SIZE])
            }
            false => return self.engine.poll_read(&mut self.stream, &[], cx),
        };
        // Reads without the engine first, because it has no work if there is no input.
        ready!(self.stream.poll_read(&mut input, cx))?;
        if input.filled().is_empty() {
            return Poll::Ready(Err(ProtocolError::ResetWithoutClosingHandshake.into()));
        }
        self.engine.poll_read(&mut self.stream, input.filled(), cx)
    }

    /// Returns whether the engine has returned all messages that it has read, and holds no part of another.
    fn has_returned_all(&self) -> bool {
        self.returned == self.stream.read
    }

    /// Queues a message for the next flush. Returns an error if too many bytes wait already; the caller must then
    /// disconnect.
    pub(crate) fn queue(&mut self, text: String) -> Result<(), Disconnect> {
        self.queue_message(Message::text(text))
    }

    /// Queues a ping, like [`queue`](Self::queue).
    pub(crate) fn ping(&mut self, payload: [u8; 4]) -> Result<(), Disconnect> {
        self.queue_message(Message::Ping(Bytes::copy_from_slice(&payload)))
    }

    fn queue_message(&mut self, message: Message) -> Result<(), Disconnect> {
        if self.is_over_limit() {
            return Err(Disconnect::abort(CloseCause::NotReading));
        }
        self.count_frame(message.len());
        self.engine.queue(message).map_err(|error| disconnect_after(&error))
    }

    /// Counts a frame as queued.
    fn count_frame(&mut self, payload: usize) {
        self.queued += frame_len(payload, self.engine.role == Role::Client);
        self.needs_flush = true;
    }

    /// Returns whether more may be queued before the next flush.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent() < WRITE_BATCH
    }

    /// Returns whether more bytes wait for the peer than the options allow.
    fn is_over_limit(&self) -> bool {
        self.unsent() > self.max_unsent
    }

    fn unsent(&self) -> u64 {
        self.queued.saturating_sub(self.stream.written)
    }

    /// Flushes all queued messages.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        if self.needs_flush {
            let flushed = ready!(self.engine.poll_flush(&mut self.stream, cx));
            self.needs_flush = false;
            // The engine responds to the last of several pings only, so more pongs were counted than written.
            self.queued = self.stream.written;
            flushed.map_err(|error| disconnect_after(&error))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Drops the engine and its buffers, unless it has messages to write or may hold a part of one.
    pub(crate) fn rest(&mut self) {
        if !self.needs_flush && self.has_returned_all() {
            self.engine.rest();
        }
    }

    /// Ends the connection as `disconnect` says, and returns its outcome.
    ///
    /// Queued messages are flushed first, unless `disconnect` is an abort. The closing handshake takes at most
    /// `close_timeout`, and discarding input after it at most [`DRAIN_TIMEOUT`].
    pub(crate) async fn close(mut self: Box<Self>, disconnect: Disconnect, close_timeout: Duration) -> CloseInfo {
        let Disconnect { closed, step } = disconnect;
        let frame = CloseFrame { code: closed.code.into(), reason: closed.reason.as_str().into() };
        let closing = async {
            match step {
                Step::CloseHandshake => {
                    self.send(Message::Close(Some(frame))).await?;
                    loop {
                        // Messages that still come in are ignored. The end of the input is an error and ends the loop.
                        poll_fn(|cx| self.engine.poll_read(&mut self.stream, &[], cx)).await?;
                    }
                }
                Step::SendClose => self.send(Message::Close(Some(frame))).await,
                Step::ReplyClose => self.flush().await,
                Step::Abort => Ok(()),
            }
        };
        // An error or a timeout does not change the outcome, which was decided before.
        let _ = timeout(close_timeout, closing).await;
        if !matches!(step, Step::Abort) {
            let _ = timeout(DRAIN_TIMEOUT, self.stream.drain()).await;
        }
        closed
    }

    async fn send(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        self.engine.queue(message)?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), tungstenite::Error> {
        poll_fn(|cx| self.engine.poll_flush(&mut self.stream, cx)).await
    }
}

/// Returns the minimum size of a message on the wire.
///
/// This is the size of a single frame, with one exception: an unmasked frame of more than 64 KiB has a head of 10
/// bytes. The same message may come in two frames with heads of 4 and 2 bytes.
fn min_len(payload: usize, is_masked: bool) -> u64 {
    let saved = if payload > 0xffff && !is_masked { 4 } else { 0 };
    frame_len(payload, is_masked) - saved
}

/// Returns the size of a frame on the wire (RFC 6455 §5.2).
fn frame_len(payload: usize, is_masked: bool) -> u64 {
    let head = match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    let mask = if is_masked { 4 } else { 0 };
    (head + mask + payload) as u64
}

/// The WebSocket engine, created when it has work.
struct Engine {
    /// Boxed, because an idle connection must not keep room for it.
    context: Option<Box<WebSocketContext>>,
    role: Role,
    max_message_size: usize,
}

type EngineResult<T> = Result<T, tungstenite::Error>;

/// The minimum read buffer of an engine, in bytes: some small messages, or the beginning of a large one.
const MIN_BUFFER_SIZE: usize = 1 << 10;

impl Engine {
    /// Creates the engine if there is input to read.
    fn new(read_buf: &[u8], role: Role, max_message_size: usize) -> Self {
        let mut engine = Self { context: None, role, max_message_size };
        if !read_buf.is_empty() {
            let config = Some(config(MIN_BUFFER_SIZE, max_message_size));
            engine.context = Some(Box::new(WebSocketContext::from_partially_read(read_buf.to_vec(), role, config)));
        }
        engine
    }

    fn is_at_rest(&self) -> bool {
        self.context.is_none()
    }

    fn rest(&mut self) {
        self.context = None;
    }

    /// Returns the engine, and creates it for `input` bytes if necessary.
    fn get_or_create(&mut self, input: usize) -> &mut WebSocketContext {
        let Self { context, role, max_message_size } = self;
        context.get_or_insert_with(|| {
            // It must accept the input at once, and needs as much room again for the message that the input begins.
            let config = config(MIN_BUFFER_SIZE.max(2 * input), *max_message_size);
            Box::new(WebSocketContext::new(*role, Some(config)))
        })
    }

    /// Reads the next message, from `input` and then from the stream.
    fn poll_read(&mut self, stream: &mut Stream, input: &[u8], cx: &mut Context<'_>) -> Poll<EngineResult<Message>> {
        into_poll(self.get_or_create(input.len()).read(&mut PollIo { stream, input, cx }))
    }

    fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<EngineResult<()>> {
        into_poll(self.get_or_create(0).flush(&mut PollIo { stream, input: &[], cx }))
    }

    /// Queues a message in the engine until the next flush.
    fn queue(&mut self, message: Message) -> EngineResult<()> {
        match into_poll(self.get_or_create(0).write(&mut Later, message)) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }
}

fn config(buffer_size: usize, max_message_size: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffer_size)
        .max_message_size(Some(max_message_size))
        .max_frame_size(Some(max_message_size))
}

/// Converts an error that means *not ready* into `Poll::Pending`.
fn into_poll<T>(result: EngineResult<T>) -> Poll<EngineResult<T>> {
    match result {
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// Returns the way to disconnect after an error of the engine.
#[cold]
fn disconnect_after(error: &tungstenite::Error) -> Disconnect {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Disconnect::abort(CloseCause::Remote),
        Error::Io(_) => Disconnect::abort(CloseCause::Transport),
        Error::Utf8(_) => Disconnect::unreadable(1007, CloseCause::ProtocolError, "not UTF-8".to_owned()),
        Error::Capacity(_) => Disconnect::unreadable(1009, CloseCause::TooLarge, "message too large".to_owned()),
        error => Disconnect::unreadable(1002, CloseCause::ProtocolError, error.to_string()),
    }
}
