//! The WebSocket of a connection: messages in, messages out, and a disconnect that the peer gets to see.
//!
//! The only file that knows the WebSocket engine. Nothing here awaits but the disconnect: reading and flushing are
//! polls of the driver's turn, and what is queued leaves with the next flush, many messages in one write.
//!
//! The engine owns the buffers, and is there only while something is under way: it is made for bytes that came in or a
//! message that goes out, and let go when all of them have been passed on. A connection that rests has no buffer.

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

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(ByteString),
    /// A binary frame, as a text where it could be one.
    Binary(Option<ByteString>),
    Ping,
    Pong(Bytes),
    /// The end, and how to part.
    End(Disconnect),
}

/// How to part from a peer, and what is to be said of it afterwards.
#[derive(Debug)]
pub(crate) struct Disconnect {
    closed: CloseInfo,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Send a close frame and wait for the peer's.
    CloseHandshake,
    /// Send a close frame to a peer whose frames can no longer be read.
    SendClose,
    /// The peer's close frame came; the answer to it is on its way.
    ReplyClose,
    /// Nobody is there any more, or nothing shall be said.
    Abort,
}

impl Disconnect {
    /// This side closes.
    #[cold]
    pub(crate) fn close(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::CloseHandshake }
    }

    /// This side drops the socket without a word.
    #[cold]
    pub(crate) fn forced(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::Abort }
    }

    /// The socket is dropped without a word.
    #[cold]
    pub(crate) fn abort(cause: CloseCause) -> Self {
        Self { closed: CloseInfo::abnormal(cause), step: Step::Abort }
    }

    /// Whether this side wished for the end.
    pub(crate) fn is_local(&self) -> bool {
        matches!(self.closed.cause, CloseCause::Local | CloseCause::Replaced)
    }

    /// The peer broke the protocol, and is told.
    #[cold]
    fn tell(code: u16, cause: CloseCause, reason: String) -> Self {
        Self { closed: Close::new(code).reason(reason).with_cause(cause).outcome(), step: Step::SendClose }
    }
}

pub(crate) struct Socket {
    stream: Stream,
    engine: Engine,
    /// The bytes that the messages had at least which the engine has given out. As long as they are fewer than it has
    /// read, it may hold a part of a message. What a message has beyond the least is not known (further frames, lengths
    /// in more bytes than they need), so that such a peer's engine stays.
    given_out: u64,
    /// Bytes given to the engine to write so far, with the heads of their frames.
    queued: u64,
    /// Whether something was queued that has not been flushed.
    dirty: bool,
    max_unsent: u64,
}

/// How long a disconnect's unread input is read and thrown away.
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// How much of what comes in is read at once after a rest.
const INPUT: usize = 8 << 10;

/// How much of it any engine takes at once that has given out all that it had read: the longest head of a frame.
const LEAST_INPUT: usize = 14;

/// How much is queued before it is flushed.
const WRITE_BATCH: u64 = 64 << 10;

impl Socket {
    /// The server's end of a stream whose handshake is over. `read_buf` is what came in behind the handshake.
    pub(crate) fn server(io: Box<dyn Io>, read_buf: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, read_buf, Role::Server, options)
    }

    /// The client's end of such a stream.
    pub(crate) fn client(io: Box<dyn Io>, read_buf: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, read_buf, Role::Client, options)
    }

    fn new(io: Box<dyn Io>, read_buf: &[u8], role: Role, options: &Options) -> Box<Self> {
        Box::new(Self {
            stream: Stream::new(io, read_buf),
            engine: Engine::new(read_buf, role, options.max_message_size),
            given_out: 0,
            queued: 0,
            dirty: false,
            max_unsent: options.max_unsent as u64,
        })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let message = match ready!(self.poll_message(cx)) {
            Ok(message) => message,
            Err(error) => return Poll::Ready(Incoming::End(disconnect_after(&error))),
        };
        self.given_out += least_len(message.len(), self.engine.role == Role::Server);
        Poll::Ready(match message {
            Message::Text(text) => match ByteString::try_from(Bytes::from(text)) {
                Ok(text) => Incoming::Text(text),
                Err(error) => Incoming::End(Disconnect::tell(1007, CloseCause::ProtocolError, error.to_string())),
            },
            Message::Binary(bytes) => Incoming::Binary(ByteString::try_from(bytes).ok()),
            Message::Frame(_) => Incoming::Binary(None),
            Message::Ping(payload) => {
                // The engine has the pong ready, and would pile pongs up for a peer that does not read them.
                self.count(payload.len());
                match self.is_overfull() {
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
        let mut buffer = [MaybeUninit::uninit(); INPUT];
        let mut input = match self.engine.is_at_rest() {
            true => ReadBuf::uninit(&mut buffer),
            false if self.is_passed_on() && self.stream.ran_dry => ReadBuf::uninit(&mut buffer[..LEAST_INPUT]),
            false => return self.engine.poll_read(&mut self.stream, &[], cx),
        };
        // Perhaps nothing came in, and then the engine has no work: there is none, or one that has passed all of it on.
        ready!(self.stream.poll_read(&mut input, cx))?;
        if input.filled().is_empty() {
            return Poll::Ready(Err(ProtocolError::ResetWithoutClosingHandshake.into()));
        }
        self.engine.poll_read(&mut self.stream, input.filled(), cx)
    }

    /// Whether the engine has given out all that it has read.
    fn is_passed_on(&self) -> bool {
        self.given_out == self.stream.read
    }

    /// Queues a message for the next flush. With too much waiting for the peer already, nothing is queued and the
    /// socket is to be given up.
    pub(crate) fn queue(&mut self, text: String) -> Result<(), Disconnect> {
        self.feed(Message::text(text))
    }

    pub(crate) fn ping(&mut self, payload: [u8; 4]) -> Result<(), Disconnect> {
        self.feed(Message::Ping(Bytes::copy_from_slice(&payload)))
    }

    fn feed(&mut self, message: Message) -> Result<(), Disconnect> {
        if self.is_overfull() {
            return Err(Disconnect::abort(CloseCause::NotReading));
        }
        self.count(message.len());
        self.engine.queue(message).map_err(|error| disconnect_after(&error))
    }

    /// Counts a frame as queued.
    fn count(&mut self, payload: usize) {
        self.queued += frame_len(payload, self.engine.role == Role::Client);
        self.dirty = true;
    }

    /// Whether more may be queued before the next flush without piling up.
    pub(crate) fn has_room(&self) -> bool {
        self.unsent() < WRITE_BATCH
    }

    /// Whether too much waits for the peer to read it.
    fn is_overfull(&self) -> bool {
        self.unsent() > self.max_unsent
    }

    fn unsent(&self) -> u64 {
        self.queued.saturating_sub(self.stream.written)
    }

    /// Writes what is queued.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Disconnect>> {
        if self.dirty {
            let flushed = ready!(self.engine.poll_flush(&mut self.stream, cx));
            self.dirty = false;
            // Of several pings only the last is answered: from nothing unsent, count anew.
            self.queued = self.stream.written;
            flushed.map_err(|error| disconnect_after(&error))?;
        }
        Poll::Ready(Ok(()))
    }

    /// Lets go of the engine and its buffers, unless it has something to write, or may hold a part of a message.
    pub(crate) fn rest(&mut self) {
        if !self.dirty && self.is_passed_on() {
            self.engine.rest();
        }
    }

    /// Parts from the peer: what is queued goes out, then the close frame, and the peer has `close_timeout` to answer.
    /// Never longer than that and [`DRAIN_TIME`].
    pub(crate) async fn close(mut self: Box<Self>, disconnect: Disconnect, close_timeout: Duration) -> CloseInfo {
        let Disconnect { closed, step } = disconnect;
        let frame = CloseFrame { code: closed.code.into(), reason: closed.reason.as_str().into() };
        let parting = async {
            match step {
                Step::CloseHandshake => {
                    self.send(Message::Close(Some(frame))).await?;
                    loop {
                        // What still comes in is no longer answered. The end is an error.
                        poll_fn(|cx| self.engine.poll_read(&mut self.stream, &[], cx)).await?;
                    }
                }
                Step::SendClose => self.send(Message::Close(Some(frame))).await,
                Step::ReplyClose => self.flush().await,
                Step::Abort => Ok(()),
            }
        };
        // Whatever goes wrong now, the connection ends the way it was going to.
        let _ = timeout(close_timeout, parting).await;
        if !matches!(step, Step::Abort) {
            let _ = timeout(DRAIN_TIME, self.stream.drain()).await;
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

/// The bytes that a message has at least: those of its only frame. Without masks, two frames of which one is short have
/// shorter heads than one of more than 64 KiB has.
fn least_len(payload: usize, is_masked: bool) -> u64 {
    let saved = if payload > 0xffff && !is_masked { 4 } else { 0 };
    frame_len(payload, is_masked) - saved
}

/// The bytes of a frame (RFC 6455 §5.2).
fn frame_len(payload: usize, is_masked: bool) -> u64 {
    let head = match payload {
        0..=125 => 2,
        126..=0xffff => 4,
        _ => 10,
    };
    let mask = if is_masked { 4 } else { 0 };
    (head + mask + payload) as u64
}

/// The WebSocket engine, where there is one.
struct Engine {
    /// Boxed, because a connection that rests shall not keep room for it.
    context: Option<Box<WebSocketContext>>,
    role: Role,
    max_message_size: usize,
}

type Asked<T> = Result<T, tungstenite::Error>;

/// The smallest buffer of an engine: some small messages, or the beginning of a large one.
const LEAST_BUFFER: usize = 1 << 10;

impl Engine {
    /// One that has bytes to read already, if there are any.
    fn new(read_buf: &[u8], role: Role, max_message_size: usize) -> Self {
        let mut engine = Self { context: None, role, max_message_size };
        if !read_buf.is_empty() {
            let config = Some(config(LEAST_BUFFER, max_message_size));
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

    /// The engine, made for so many bytes that came in where it was at rest.
    fn wake(&mut self, input: usize) -> &mut WebSocketContext {
        let Self { context, role, max_message_size } = self;
        context.get_or_insert_with(|| {
            // It takes all of them at once, and wants as much room again for the message that they begin.
            let config = config(LEAST_BUFFER.max(2 * input), *max_message_size);
            Box::new(WebSocketContext::new(*role, Some(config)))
        })
    }

    /// The next message, of what was read already and then of the stream.
    fn poll_read(&mut self, stream: &mut Stream, input: &[u8], cx: &mut Context<'_>) -> Poll<Asked<Message>> {
        polled(self.wake(input.len()).read(&mut PollIo { stream, input, cx }))
    }

    fn poll_flush(&mut self, stream: &mut Stream, cx: &mut Context<'_>) -> Poll<Asked<()>> {
        polled(self.wake(0).flush(&mut PollIo { stream, input: &[], cx }))
    }

    /// Gives it a message, which it keeps until it is flushed.
    fn queue(&mut self, message: Message) -> Asked<()> {
        match polled(self.wake(0).write(&mut Later, message)) {
            Poll::Ready(done) => done,
            Poll::Pending => Ok(()),
        }
    }
}

fn config(buffer: usize, max_message_size: usize) -> WebSocketConfig {
    WebSocketConfig::default()
        .read_buffer_size(buffer)
        .max_message_size(Some(max_message_size))
        .max_frame_size(Some(max_message_size))
}

fn polled<T>(asked: Asked<T>) -> Poll<Asked<T>> {
    match asked {
        Err(tungstenite::Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => Poll::Pending,
        done => Poll::Ready(done),
    }
}

/// How to part after an error of the engine.
#[cold]
fn disconnect_after(error: &tungstenite::Error) -> Disconnect {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Disconnect::abort(CloseCause::Remote),
        Error::Io(_) => Disconnect::abort(CloseCause::Transport),
        Error::Utf8(_) => Disconnect::tell(1007, CloseCause::ProtocolError, "not UTF-8".to_owned()),
        Error::Capacity(_) => Disconnect::tell(1009, CloseCause::TooLarge, "message too large".to_owned()),
        error => Disconnect::tell(1002, CloseCause::ProtocolError, error.to_string()),
    }
}
