//! Reads WebSocket messages out of bytes: frames, fragments, limits, compression, UTF-8 and close frames (RFC 6455 §5 to
//! §8, RFC 7692 §6.2).

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;

use crate::{
    message::tolerance::{Deviation, Deviations, Tolerance},
    websocket::{
        deflate::{self, Inflate, InflateError, Inflated},
        head::{Head, HeadError, Opcode, Role, apply_mask, is_valid_close_code},
    },
};

/// A message or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    Text(TextMessage),
    /// A binary message that is not tolerated as text.
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close(CloseFrame),
}

/// A text message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TextMessage {
    pub(crate) text: ByteString,
    /// The deviations that were tolerated to read it.
    pub(crate) deviations: Deviations,
    /// The length of its payload, if that was compressed.
    pub(crate) compressed_len: Option<usize>,
}

/// A close frame, as the peer sent it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CloseFrame {
    /// The code, which may be one that must not be sent. `None` if the frame has none.
    pub(crate) code: Option<u16>,
    /// The reason, with U+FFFD in place of bytes that are not UTF-8.
    pub(crate) reason: String,
    /// The code of the reply: that of the peer if its frame is valid.
    pub(crate) reply: Option<u16>,
}

impl CloseFrame {
    fn read(payload: &[u8]) -> Self {
        let Some((code, reason)) = payload.split_first_chunk() else {
            // One byte is no code.
            let reply = (!payload.is_empty()).then_some(1002);
            return Self { code: None, reason: String::new(), reply };
        };
        let code = u16::from_be_bytes(*code);
        let reply = match str::from_utf8(reason) {
            _ if !is_valid_close_code(code) => 1002,
            Ok(_) => code,
            Err(_) => 1007,
        };
        Self { code: Some(code), reason: String::from_utf8_lossy(reason).into_owned(), reply: Some(reply) }
    }
}

/// An error that ends the input.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum ReadError {
    #[error(transparent)]
    Head(#[from] HeadError),
    #[error(transparent)]
    Inflate(#[from] InflateError),
    #[error("RSV1 set although no compression was agreed")]
    NotAgreed,
    #[error("RSV1 set on a frame that does not begin a message")]
    MisplacedRsv1,
    #[error("frame of a client without a mask")]
    Unmasked,
    #[error("frame of a server with a mask")]
    Masked,
    #[error("continuation frame without a message")]
    NothingToContinue,
    #[error("new message before the last frame of another")]
    Unfinished,
    #[error("message too large")]
    TooLarge,
    #[error("text that is not UTF-8")]
    NotUtf8,
}

impl ReadError {
    /// Returns the code of the close frame that reports the error (RFC 6455 §7.4.1).
    pub(crate) fn close_code(self) -> u16 {
        match self {
            Self::TooLarge | Self::Inflate(InflateError::TooLarge | InflateError::RatioExceeded(_)) => 1009,
            Self::NotUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// Reads messages out of the bytes of a peer. It has a buffer only while it holds a part of a message.
pub(crate) struct Reader {
    role: Role,
    tolerance: Tolerance,
    /// Set if a frame since the last text message has no mask, which is tolerated.
    is_unmasked: bool,
    /// Set if messages are skipped, and only control frames are of interest.
    skips_messages: bool,
    /// In bytes. Four bytes are enough, and idle connections keep them.
    max_message_size: u32,
    /// Set if compression was agreed.
    inflate: Option<Box<Inflate>>,
    input: BytesMut,
    /// The message of which fragments were read, or that is being inflated.
    partial: Option<Box<Partial>>,
}

/// A message without its last frame, or one that is being inflated, whose payload is elsewhere.
struct Partial {
    opcode: Opcode,
    is_compressed: bool,
    payload: Vec<u8>,
}

/// The longest frame that shares its memory with the frames that follow it.
///
/// A payload keeps the memory of its frame. A small one must not keep that of a large neighbour.
const MAX_SHARED: usize = 8 << 10;

impl Reader {
    /// Creates a reader at the end `role`. It reads compressed messages if it has an `inflate`.
    pub(crate) fn new(
        role: Role,
        tolerance: Tolerance,
        max_message_size: usize,
        inflate: Option<Box<Inflate>>,
    ) -> Self {
        Self {
            role,
            tolerance,
            is_unmasked: false,
            skips_messages: false,
            max_message_size: u32::try_from(max_message_size).unwrap_or(u32::MAX),
            inflate,
            input: BytesMut::new(),
            partial: None,
        }
    }

    /// Adds bytes of the peer.
    pub(crate) fn put(&mut self, bytes: &[u8]) {
        if self.input.is_empty() {
            // The exact size, because most input is one whole message.
            self.input = BytesMut::from(bytes);
        } else {
            self.input.extend_from_slice(bytes);
        }
    }

    /// Skips messages from now on, without the cost of their content.
    pub(crate) fn skip_messages(&mut self) {
        self.skips_messages = true;
        if let Some(inflate) = &mut self.inflate
            && inflate.abandon()
        {
            self.partial = None;
        }
    }

    /// Returns whether [`take`](Self::take) has more to do on a message without more bytes. Other tasks of the thread
    /// may come first.
    pub(crate) fn is_inflating(&self) -> bool {
        self.inflate.as_ref().is_some_and(|inflate| inflate.is_unfinished())
    }

    /// Takes the next message. Returns `None` if more bytes are needed, or if a large message
    /// [is being inflated](Self::is_inflating).
    pub(crate) fn take(&mut self) -> Result<Option<Message>, ReadError> {
        if self.is_inflating() {
            return self.inflate_more();
        }
        while let Some((head, head_len)) = Head::read(&self.input)? {
            self.check(&head)?;
            let Some(mut payload) = self.take_payload(head_len, head.payload_len) else { return Ok(None) };
            if let Some(mask) = head.mask {
                apply_mask(&mut payload, mask);
            }
            let message = self.message(&head, payload)?;
            if message.is_some() || self.is_inflating() {
                return Ok(message);
            }
        }
        Ok(None)
    }

    /// Checks a head before its payload is awaited.
    fn check(&mut self, head: &Head) -> Result<(), ReadError> {
        if head.is_compressed && self.inflate.is_none() {
            return Err(ReadError::NotAgreed);
        }
        if head.is_compressed && !matches!(head.opcode, Opcode::Text | Opcode::Binary) {
            return Err(ReadError::MisplacedRsv1);
        }
        match (self.role, head.mask) {
            (Role::Server, None) if Deviation::UnmaskedFrame.is_allowed_by(self.tolerance) => {
                self.is_unmasked = true;
            }
            (Role::Server, None) => return Err(ReadError::Unmasked),
            (Role::Client, Some(_)) => return Err(ReadError::Masked),
            (Role::Server, Some(_)) | (Role::Client, None) => {}
        }
        let (before, is_compressed) = match (head.opcode, &self.partial) {
            (Opcode::Continuation, None) => return Err(ReadError::NothingToContinue),
            (Opcode::Continuation, Some(partial)) => (partial.payload.len(), partial.is_compressed),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ReadError::Unfinished),
            (Opcode::Text | Opcode::Binary, None) => (0, head.is_compressed),
            (Opcode::Close | Opcode::Ping | Opcode::Pong, _) => return Ok(()),
        };
        let max_size = self.max_message_size as usize;
        let max_payload = if is_compressed { deflate::max_payload(max_size) } else { max_size };
        let free = max_payload.saturating_sub(before);
        if head.payload_len > free as u64 { Err(ReadError::TooLarge) } else { Ok(()) }
    }

    /// Takes a whole frame out of the input, and returns its payload, which may still be masked.
    fn take_payload(&mut self, head_len: usize, payload_len: u64) -> Option<BytesMut> {
        let len = head_len.saturating_add(usize::try_from(payload_len).ok()?);
        if self.input.len() < len {
            return None;
        }
        let mut frame = if self.input.len() == len {
            std::mem::take(&mut self.input)
        } else if len <= MAX_SHARED {
            self.input.split_to(len)
        } else {
            let rest = BytesMut::from(&self.input[len..]);
            self.input.truncate(len);
            std::mem::replace(&mut self.input, rest)
        };
        frame.advance(head_len);
        Some(frame)
    }

    /// Returns the message that ends with this frame.
    fn message(&mut self, head: &Head, payload: BytesMut) -> Result<Option<Message>, ReadError> {
        match head.opcode {
            Opcode::Ping => return Ok(Some(Message::Ping(payload.freeze()))),
            Opcode::Pong => return Ok(Some(Message::Pong(payload.freeze()))),
            Opcode::Close => return Ok(Some(Message::Close(CloseFrame::read(&payload)))),
            Opcode::Continuation | Opcode::Text | Opcode::Binary => {}
        }
        let payload = if self.skips_messages { BytesMut::new() } else { payload };
        let (opcode, is_compressed, payload) = match self.partial.take() {
            None if head.is_final => (head.opcode, head.is_compressed, payload.freeze()),
            None => {
                let (opcode, is_compressed) = (head.opcode, head.is_compressed);
                self.partial = Some(Box::new(Partial { opcode, is_compressed, payload: payload.into() }));
                return Ok(None);
            }
            Some(mut partial) => {
                partial.payload.extend_from_slice(&payload);
                if !head.is_final {
                    self.partial = Some(partial);
                    return Ok(None);
                }
                (partial.opcode, partial.is_compressed, partial.payload.into())
            }
        };
        if self.skips_messages {
            return Ok(None);
        }
        let (payload, compressed_len) = match &mut self.inflate {
            Some(inflate) if is_compressed => match inflate.begin(payload, self.max_message_size as usize)? {
                Some(Inflated { text, payload_len }) => (text.into(), Some(payload_len)),
                None => {
                    self.partial = Some(Box::new(Partial { opcode, is_compressed, payload: Vec::new() }));
                    return Ok(None);
                }
            },
            _ => (payload, None),
        };
        self.whole(opcode, payload, compressed_len).map(Some)
    }

    /// Inflates the next part of a message. Returns the message if it was the last one.
    #[cold]
    fn inflate_more(&mut self) -> Result<Option<Message>, ReadError> {
        let Some(inflate) = &mut self.inflate else { return Ok(None) };
        let Some(Inflated { text, payload_len }) = inflate.resume()? else { return Ok(None) };
        let Some(partial) = self.partial.take() else { return Ok(None) };
        self.whole(partial.opcode, text.into(), Some(payload_len)).map(Some)
    }

    /// Returns the message with this payload, which is not compressed any more.
    // Inlined with `text`, because the compiler would not, and most messages need no second step.
    #[inline(always)]
    fn whole(&mut self, opcode: Opcode, payload: Bytes, compressed_len: Option<usize>) -> Result<Message, ReadError> {
        let is_binary = opcode == Opcode::Binary;
        let reads_binary = Deviation::BinaryMessage.is_allowed_by(self.tolerance);
        if is_binary && !(reads_binary && str::from_utf8(&payload).is_ok()) {
            return Ok(Message::Binary(payload));
        }
        let (text, mut deviations) = self.text(payload)?;
        if is_binary {
            deviations.add(Deviation::BinaryMessage);
        }
        Ok(Message::Text(TextMessage { text, deviations, compressed_len }))
    }

    #[inline(always)]
    fn text(&mut self, payload: Bytes) -> Result<(ByteString, Deviations), ReadError> {
        let mut deviations = Deviations::default();
        if std::mem::take(&mut self.is_unmasked) {
            deviations.add(Deviation::UnmaskedFrame);
        }
        let kept = Deviation::InvalidUtf8.is_allowed_by(self.tolerance).then(|| payload.clone());
        let text = match (ByteString::try_from(payload), kept) {
            (Ok(text), _) => text,
            (Err(_), Some(payload)) => {
                deviations.add(Deviation::InvalidUtf8);
                let text = String::from_utf8_lossy(&payload).into_owned();
                // U+FFFD takes three bytes.
                if text.len() > self.max_message_size as usize {
                    return Err(ReadError::TooLarge);
                }
                text.into()
            }
            (Err(_), None) => return Err(ReadError::NotUtf8),
        };
        Ok((text, deviations))
    }
}
