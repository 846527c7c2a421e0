//! The WebSocket codec alone: messages of any kind, which the public interface does not have.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;
use http::{HeaderMap, HeaderValue};

use crate::{
    message::tolerance::Tolerance,
    websocket::{
        self,
        compression::Compression,
        extension::{self, DeflateParams},
        head::Role,
        reader::{self, Reader},
        writer::Writer,
    },
};

/// A message or a control frame.
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(missing_docs, reason = "as in RFC 6455")]
pub enum Message {
    Text(ByteString),
    Binary(Bytes),
    Ping(Bytes),
    Pong(Bytes),
    /// The code as it was sent, and the code of the reply.
    Close {
        code: Option<u16>,
        reason: String,
        reply: Option<u16>,
    },
}

/// One end of a WebSocket, without a stream.
#[expect(missing_debug_implementations, reason = "it holds text of the peer")]
pub struct Codec {
    reader: Reader,
    writer: Writer,
}

impl Codec {
    /// Creates the server's end. Returns the header of the response if it accepts an offer of the request.
    pub fn server(
        request: &HeaderMap,
        compression: Option<&Compression>,
        tolerance: Tolerance,
        max_size: usize,
    ) -> (Self, Option<HeaderValue>) {
        let accepted = compression.and_then(|settings| extension::accept(request, settings));
        let (params, header) = accepted.unzip();
        (Self::new(Role::Server, params, compression, tolerance, max_size), header)
    }

    /// Returns the header of a client's request.
    pub fn offer(compression: &Compression) -> HeaderValue {
        extension::offer(compression)
    }

    /// Creates the client's end.
    ///
    /// # Errors
    ///
    /// If the response has an extension that was not offered.
    pub fn client(
        response: &HeaderMap,
        compression: Option<&Compression>,
        tolerance: Tolerance,
        max_size: usize,
    ) -> Result<Self, Cow<'static, str>> {
        let params = extension::check_response(response, compression)?;
        Ok(Self::new(Role::Client, params, compression, tolerance, max_size))
    }

    fn new(
        role: Role,
        params: Option<DeflateParams>,
        compression: Option<&Compression>,
        tolerance: Tolerance,
        max_size: usize,
    ) -> Self {
        let (reader, writer) = websocket::codec(role, tolerance, max_size, params.zip(compression.copied()));
        Self { reader, writer }
    }

    /// Adds bytes of the peer.
    pub fn put(&mut self, bytes: &[u8]) {
        self.reader.put(bytes);
    }

    /// Takes the next message. Returns `None` if more bytes are needed.
    ///
    /// # Errors
    ///
    /// The code and the reason of the close frame that the peer should get.
    pub fn take(&mut self) -> Result<Option<Message>, (u16, String)> {
        let message = loop {
            let message = self.reader.take().map_err(|error| (error.close_code(), error.to_string()))?;
            if message.is_some() || !self.reader.is_inflating() {
                break message;
            }
        };
        Ok(message.map(|message| match message {
            reader::Message::Text(text) => Message::Text(text.text),
            reader::Message::Binary(bytes) => Message::Binary(bytes),
            reader::Message::Ping(bytes) => Message::Ping(bytes),
            reader::Message::Pong(bytes) => Message::Pong(bytes),
            reader::Message::Close(frame) => {
                Message::Close { code: frame.code, reason: frame.reason, reply: frame.reply }
            }
        }))
    }

    /// Queues a message. A close frame is sent with the code of its reply.
    pub fn queue(&mut self, message: Message) {
        match message {
            Message::Text(text) => _ = self.writer.text(text.to_string()),
            Message::Binary(bytes) => _ = self.writer.binary(bytes.into()),
            Message::Ping(bytes) => self.writer.ping(&bytes),
            Message::Pong(bytes) => self.writer.pong(&bytes),
            Message::Close { reason, reply, .. } => self.writer.close(reply, &reason),
        }
    }

    /// Returns the bytes to send.
    pub fn unsent(&self) -> &[u8] {
        self.writer.unsent()
    }

    /// Marks the next `bytes` bytes as sent.
    pub fn mark_sent(&mut self, bytes: usize) {
        self.writer.mark_sent(bytes);
    }
}
