//! The WebSocket of a connection: messages in, messages out, and a farewell that the peer gets to see.
//!
//! The only file that knows the WebSocket engine. Nothing here awaits but the farewell: reading and flushing are
//! polls of the driver's turn, and what is queued leaves with the next flush, many messages in one write.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::{Sink, StreamExt};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf},
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{
        self, Message,
        error::ProtocolError,
        protocol::{CloseFrame, Role, WebSocketConfig},
    },
};

use crate::{
    close::{Cause, Close, Closed},
    options::Options,
};

/// Any stream of bytes.
pub(crate) trait Io: AsyncRead + AsyncWrite + Send + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin + 'static> Io for T {}

/// What came in.
#[derive(Debug)]
pub(crate) enum Incoming {
    Text(ByteString),
    /// A binary frame, as a text where it could be one.
    Binary(Option<ByteString>),
    Ping,
    Pong(Bytes),
    /// The end, and how to part.
    End(Farewell),
}

/// How to part from a peer, and what is to be said of it afterwards.
#[derive(Debug)]
pub(crate) struct Farewell {
    closed: Closed,
    step: Step,
}

#[derive(Debug)]
enum Step {
    /// Send a close frame and wait for the peer's.
    Close,
    /// Send a close frame to a peer whose frames can no longer be read.
    Tell,
    /// The peer's close frame came; the answer to it is on its way.
    Answer,
    /// Nobody is there any more, or nothing shall be said.
    Drop,
}

impl Farewell {
    /// This side closes.
    pub(crate) fn close(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::Close }
    }

    /// This side drops the socket without a word.
    pub(crate) fn forced(close: &Close) -> Self {
        Self { closed: close.outcome(), step: Step::Drop }
    }

    /// The socket is dropped without a word.
    pub(crate) fn drop(cause: Cause) -> Self {
        Self { closed: Closed::abnormal(cause), step: Step::Drop }
    }

    /// Whether this side wished for the end.
    pub(crate) fn is_wished_for(&self) -> bool {
        matches!(self.closed.cause, Cause::Local | Cause::Replaced)
    }

    /// The peer broke the protocol, and is told.
    fn tell(code: u16, cause: Cause, reason: String) -> Self {
        Self { closed: Close::new(code).reason(reason).because(cause).outcome(), step: Step::Tell }
    }
}

pub(crate) struct Socket {
    ws: WebSocketStream<Metered>,
    /// Bytes given to the WebSocket engine so far, with the heads of their frames.
    queued: u64,
    /// The bytes of a frame's mask: a client masks.
    mask: usize,
    /// Whether something was queued that has not been flushed.
    dirty: bool,
    max_unsent: u64,
}

/// How much of a farewell's unread input is read and thrown away: bytes left unread at a drop become a reset, and
/// the peer would not see the close frame.
const DRAIN_BYTES: usize = 64 << 10;
const DRAIN_TIME: Duration = Duration::from_secs(1);

/// A small buffer: it is kept while a connection is idle, and filled with zeros at each read.
const READ_BUFFER: usize = 4 << 10;

/// How much is queued before it is flushed.
const WRITE_BATCH: u64 = 64 << 10;

impl Socket {
    /// The server's end of a stream whose handshake is over. `early` is what came in behind the handshake.
    pub(crate) async fn server(io: Box<dyn Io>, early: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, early, Role::Server, options).await
    }

    /// The client's end of such a stream.
    pub(crate) async fn client(io: Box<dyn Io>, early: &[u8], options: &Options) -> Box<Self> {
        Self::new(io, early, Role::Client, options).await
    }

    async fn new(io: Box<dyn Io>, early: &[u8], role: Role, options: &Options) -> Box<Self> {
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(options.max_message_size))
            .max_frame_size(Some(options.max_message_size));
        let io = Metered { io, written: 0 };
        let ws = match early {
            [] => WebSocketStream::from_raw_socket(io, role, Some(config)).await,
            early => WebSocketStream::from_partially_read(io, early.to_vec(), role, Some(config)).await,
        };
        let mask = if role == Role::Client { 4 } else { 0 };
        Box::new(Self { ws, queued: 0, mask, dirty: false, max_unsent: options.max_unsent as u64 })
    }

    pub(crate) fn poll_read(&mut self, cx: &mut Context<'_>) -> Poll<Incoming> {
        let message = ready!(self.ws.poll_next_unpin(cx));
        Poll::Ready(match message {
            Some(Ok(Message::Text(text))) => match ByteString::try_from(Bytes::from(text)) {
                Ok(text) => Incoming::Text(text),
                Err(error) => Incoming::End(Farewell::tell(1007, Cause::ProtocolError, error.to_string())),
            },
            Some(Ok(Message::Binary(bytes))) => Incoming::Binary(ByteString::try_from(bytes).ok()),
            Some(Ok(Message::Frame(_))) => Incoming::Binary(None),
            Some(Ok(Message::Ping(payload))) => {
                // The engine has the pong ready, and would pile pongs up for a peer that does not read them.
                self.dirty = true;
                self.count(payload.len());
                match self.is_overfull() {
                    true => Incoming::End(Farewell::drop(Cause::NotReading)),
                    false => Incoming::Ping,
                }
            }
            Some(Ok(Message::Pong(payload))) => Incoming::Pong(payload),
            Some(Ok(Message::Close(frame))) => {
                let (code, reason) =
                    frame.map_or((1005, String::new()), |frame| (frame.code.into(), frame.reason.to_string()));
                Incoming::End(Farewell { closed: Closed::remote(code, reason), step: Step::Answer })
            }
            Some(Err(error)) => Incoming::End(farewell_after(&error)),
            None => Incoming::End(Farewell::drop(Cause::Remote)),
        })
    }

    /// Queues a message for the next flush. With too much waiting for the peer already, nothing is queued and the
    /// socket is to be given up.
    pub(crate) fn queue(&mut self, text: String) -> Result<(), Farewell> {
        self.feed(Message::text(text))
    }

    pub(crate) fn ping(&mut self, payload: [u8; 4]) -> Result<(), Farewell> {
        self.feed(Message::Ping(Bytes::copy_from_slice(&payload)))
    }

    fn feed(&mut self, message: Message) -> Result<(), Farewell> {
        if self.is_overfull() {
            return Err(Farewell::drop(Cause::NotReading));
        }
        self.count(message.len());
        self.dirty = true;
        // The engine buffers whatever it is given, so there is nothing to wait for.
        Pin::new(&mut self.ws).start_send(message).map_err(|error| farewell_after(&error))
    }

    /// Counts a frame as queued (RFC 6455 §5.2).
    fn count(&mut self, payload: usize) {
        let head = match payload {
            0..=125 => 2,
            126..=0xffff => 4,
            _ => 10,
        };
        self.queued += (head + self.mask + payload) as u64;
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
        self.queued.saturating_sub(self.ws.get_ref().written)
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Farewell>> {
        if !self.dirty {
            return Poll::Ready(Ok(()));
        }
        let flushed = ready!(Pin::new(&mut self.ws).poll_flush(cx));
        self.dirty = false;
        // Of several pings only the last is answered: from nothing unsent, count anew.
        self.queued = self.ws.get_ref().written;
        Poll::Ready(flushed.map_err(|error| farewell_after(&error)))
    }

    /// Parts from the peer: what is queued goes out, then the close frame, and the peer has `patience` to answer.
    /// Never longer than that and [`DRAIN_TIME`].
    pub(crate) async fn part(mut self: Box<Self>, farewell: Farewell, patience: Duration) -> Closed {
        let Farewell { closed, step } = farewell;
        let frame = CloseFrame { code: closed.code.into(), reason: closed.reason.as_str().into() };
        let parting = async {
            match step {
                Step::Close => {
                    self.send(Message::Close(Some(frame))).await?;
                    while let Some(message) = self.ws.next().await {
                        // What still comes in is no longer answered.
                        message?;
                    }
                }
                Step::Tell => self.send(Message::Close(Some(frame))).await?,
                Step::Answer => self.flush().await?,
                Step::Drop => {}
            }
            Ok::<_, tungstenite::Error>(())
        };
        // Whatever goes wrong now, the connection ends the way it was going to.
        let _ = timeout(patience, parting).await;
        if !matches!(step, Step::Drop) {
            let _ = timeout(DRAIN_TIME, self.drain()).await;
        }
        closed
    }

    async fn send(&mut self, message: Message) -> Result<(), tungstenite::Error> {
        Pin::new(&mut self.ws).start_send(message)?;
        self.flush().await
    }

    async fn flush(&mut self) -> Result<(), tungstenite::Error> {
        std::future::poll_fn(|cx| Pin::new(&mut self.ws).poll_flush(cx)).await
    }

    /// Shuts the write side down and reads the rest away, so that the close frame arrives.
    async fn drain(&mut self) -> io::Result<()> {
        let io = self.ws.get_mut();
        io.shutdown().await?;
        let mut scrap = [0; 1024];
        let mut left = DRAIN_BYTES;
        while left > 0 {
            match io.read(&mut scrap).await? {
                0 => break,
                read => left = left.saturating_sub(read),
            }
        }
        Ok(())
    }
}

/// How to part after an error of the engine.
fn farewell_after(error: &tungstenite::Error) -> Farewell {
    use tungstenite::Error;
    match error {
        Error::ConnectionClosed
        | Error::AlreadyClosed
        | Error::Protocol(ProtocolError::ResetWithoutClosingHandshake) => Farewell::drop(Cause::Remote),
        Error::Io(_) => Farewell::drop(Cause::Transport),
        Error::Utf8(_) => Farewell::tell(1007, Cause::ProtocolError, "not UTF-8".to_owned()),
        Error::Capacity(_) => Farewell::tell(1009, Cause::TooLarge, "message too large".to_owned()),
        error => Farewell::tell(1002, Cause::ProtocolError, error.to_string()),
    }
}

/// A stream that counts what was written to it.
struct Metered {
    io: Box<dyn Io>,
    written: u64,
}

impl AsyncRead for Metered {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let written = ready!(Pin::new(&mut self.io).poll_write(cx, buf))?;
        self.written += written as u64;
        Poll::Ready(Ok(written))
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}
