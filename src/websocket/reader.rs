//! Reads WebSocket messages out of bytes: frames, fragments, limits, UTF-8 and close frames (RFC 6455 §5 to §8).

use bytes::{Buf, Bytes, BytesMut};
use bytestring::ByteString;

use crate::{
    message::tolerance::{Deviation, Deviations, Tolerance},
    websocket::head::{Head, HeadError, Opcode, Role, apply_mask, is_valid_close_code},
};

/// A message or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Message {
    /// A text message, and the deviations that were tolerated to read it.
    Text(ByteString, Deviations),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    Close(CloseFrame),
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
    #[error("RSV1 set although no compression was agreed")]
    NotAgreed,
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
            Self::TooLarge => 1009,
            Self::NotUtf8 => 1007,
            _ => 1002,
        }
    }
}

/// Reads messages out of the bytes of a peer. It has a buffer only while it holds a part of a message.
#[derive(Debug)]
pub(crate) struct Reader {
    role: Role,
    tolerance: Tolerance,
    max_message_size: usize,
    input: BytesMut,
    /// The message of which fragments were read.
    partial: Option<Box<Partial>>,
    /// The deviations of the frames since the last text message.
    deviations: Deviations,
}

/// A message without its last frame.
#[derive(Debug)]
struct Partial {
    opcode: Opcode,
    payload: Vec<u8>,
}

/// The longest frame that shares its memory with the frames that follow it.
///
/// A payload keeps the memory of its frame. A small one must not keep that of a large neighbour.
const MAX_SHARED: usize = 8 << 10;

impl Reader {
    /// Creates a reader at the end `role`.
    pub(crate) fn new(role: Role, tolerance: Tolerance, max_message_size: usize) -> Self {
        Self {
            role,
            tolerance,
            max_message_size,
            input: BytesMut::new(),
            partial: None,
            deviations: Deviations::default(),
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

    /// Takes the next message. Returns `None` if more bytes are needed.
    pub(crate) fn take(&mut self) -> Result<Option<Message>, ReadError> {
        while let Some((head, head_len)) = Head::read(&self.input)? {
            self.check(&head)?;
            let Some(mut payload) = self.take_payload(head_len, head.payload_len) else { return Ok(None) };
            if let Some(mask) = head.mask {
                apply_mask(&mut payload, mask);
            }
            if let Some(message) = self.message(&head, payload)? {
                return Ok(Some(message));
            }
        }
        Ok(None)
    }

    /// Checks a head before its payload is awaited.
    fn check(&mut self, head: &Head) -> Result<(), ReadError> {
        if head.is_compressed {
            return Err(ReadError::NotAgreed);
        }
        match (self.role, head.mask) {
            (Role::Server, None) if Deviation::UnmaskedFrame.is_allowed_by(self.tolerance) => {
                self.deviations.add(Deviation::UnmaskedFrame);
            }
            (Role::Server, None) => return Err(ReadError::Unmasked),
            (Role::Client, Some(_)) => return Err(ReadError::Masked),
            (Role::Server, Some(_)) | (Role::Client, None) => {}
        }
        let before = match (head.opcode, &self.partial) {
            (Opcode::Continuation, None) => return Err(ReadError::NothingToContinue),
            (Opcode::Continuation, Some(partial)) => partial.payload.len(),
            (Opcode::Text | Opcode::Binary, Some(_)) => return Err(ReadError::Unfinished),
            _ => 0,
        };
        let free = self.max_message_size.saturating_sub(before);
        if !head.opcode.is_control() && head.payload_len > free as u64 {
            return Err(ReadError::TooLarge);
        }
        Ok(())
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
        let (opcode, payload) = match (head.opcode, self.partial.take()) {
            (Opcode::Text | Opcode::Binary, _) if head.is_final => (head.opcode, payload.freeze()),
            (opcode @ (Opcode::Text | Opcode::Binary), _) => {
                self.partial = Some(Box::new(Partial { opcode, payload: payload.into() }));
                return Ok(None);
            }
            (Opcode::Continuation, Some(mut partial)) => {
                partial.payload.extend_from_slice(&payload);
                if !head.is_final {
                    self.partial = Some(partial);
                    return Ok(None);
                }
                (partial.opcode, partial.payload.into())
            }
            (control, partial) => {
                self.partial = partial;
                (control, payload.freeze())
            }
        };
        Ok(Some(match opcode {
            Opcode::Text => self.text(payload)?,
            Opcode::Ping => Message::Ping(payload),
            Opcode::Pong => Message::Pong(payload),
            Opcode::Close => Message::Close(CloseFrame::read(&payload)),
            Opcode::Binary | Opcode::Continuation => Message::Binary(payload),
        }))
    }

    fn text(&mut self, payload: Bytes) -> Result<Message, ReadError> {
        let mut deviations = std::mem::take(&mut self.deviations);
        let kept = Deviation::InvalidUtf8.is_allowed_by(self.tolerance).then(|| payload.clone());
        let text = match (ByteString::try_from(payload), kept) {
            (Ok(text), _) => text,
            (Err(_), Some(payload)) => {
                deviations.add(Deviation::InvalidUtf8);
                String::from_utf8_lossy(&payload).into_owned().into()
            }
            (Err(_), None) => return Err(ReadError::NotUtf8),
        };
        Ok(Message::Text(text, deviations))
    }
}
