//! Writes WebSocket messages as frames, and keeps them until they are sent.

use crate::{
    random::random,
    websocket::{
        deflate::Deflate,
        head::{Head, Opcode, Role, apply_mask},
    },
};

/// The frames that are written and not yet sent. Its buffer is freed when all of them are sent.
pub(crate) struct Writer {
    role: Role,
    /// Set if compression was agreed: every message is compressed then.
    ///
    /// Some versions of libwebsockets (4.1.6) never return from a plain message after a compressed one.
    deflate: Option<Box<Deflate>>,
    buffer: Vec<u8>,
    /// The bytes at the front of the buffer that are sent.
    sent: usize,
    needs_flush: bool,
}

impl Writer {
    /// Creates a writer at the end `role`. It compresses messages if it has a `deflate`.
    pub(crate) fn new(role: Role, deflate: Option<Box<Deflate>>) -> Self {
        Self { role, deflate, buffer: Vec::new(), sent: 0, needs_flush: false }
    }

    /// Writes a text message in one frame. Returns the length of its payload if that is compressed.
    pub(crate) fn text(&mut self, text: String) -> Option<usize> {
        self.message(Opcode::Text, text.into_bytes())
    }

    /// Writes a binary message in one frame, like [`text`](Self::text).
    #[cfg(feature = "unstable")]
    pub(crate) fn binary(&mut self, payload: Vec<u8>) -> Option<usize> {
        self.message(Opcode::Binary, payload)
    }

    fn message(&mut self, opcode: Opcode, message: Vec<u8>) -> Option<usize> {
        let Some(deflate) = &mut self.deflate else {
            self.frame(opcode, false, message);
            return None;
        };
        let mut payload = Vec::new();
        deflate.message(&message, &mut payload);
        let compressed_len = payload.len();
        self.frame(opcode, true, payload);
        Some(compressed_len)
    }

    /// Writes a ping of at most 125 bytes.
    pub(crate) fn ping(&mut self, payload: &[u8]) {
        self.frame(Opcode::Ping, false, payload.to_vec());
    }

    /// Writes a pong of at most 125 bytes.
    pub(crate) fn pong(&mut self, payload: &[u8]) {
        self.frame(Opcode::Pong, false, payload.to_vec());
    }

    /// Writes a close frame with a reason of at most 123 bytes. Without a code, it has no reason either.
    pub(crate) fn close(&mut self, code: Option<u16>, reason: &str) {
        let payload = code.map_or_else(Vec::new, |code| [&code.to_be_bytes(), reason.as_bytes()].concat());
        self.frame(Opcode::Close, false, payload);
    }

    fn frame(&mut self, opcode: Opcode, is_compressed: bool, mut payload: Vec<u8>) {
        let mask = (self.role == Role::Client).then(random);
        if let Some(mask) = mask {
            apply_mask(&mut payload, mask);
        }
        let head = Head { opcode, is_final: true, is_compressed, mask, payload_len: payload.len() as u64 };
        if self.buffer.is_empty() {
            // Most often there is one message to send: its own memory becomes the buffer.
            let payload_len = payload.len();
            self.buffer = payload;
            head.write(&mut self.buffer);
            self.buffer.rotate_left(payload_len);
        } else {
            self.forget_sent();
            head.write(&mut self.buffer);
            self.buffer.append(&mut payload);
        }
    }

    /// Removes the bytes that are sent, once they are the larger part of the buffer.
    fn forget_sent(&mut self) {
        if self.sent > self.buffer.len() / 2 {
            self.buffer.drain(..self.sent);
            self.sent = 0;
        }
    }

    /// Returns the bytes to send.
    pub(crate) fn unsent(&self) -> &[u8] {
        &self.buffer[self.sent..]
    }

    /// Marks the next `bytes` bytes as sent.
    pub(crate) fn mark_sent(&mut self, bytes: usize) {
        self.needs_flush = true;
        self.sent += bytes;
        if self.sent >= self.buffer.len() {
            self.buffer = Vec::new();
            self.sent = 0;
        }
    }

    /// Returns whether bytes were sent since the last flush of the stream, which may keep them, as TLS does.
    pub(crate) fn needs_flush(&self) -> bool {
        self.needs_flush
    }

    pub(crate) fn mark_flushed(&mut self) {
        self.needs_flush = false;
    }
}
