//! The settings of compression, and information on its effect.

use serde::Serialize;

/// The settings of compression (RFC 7692, permessage-deflate), the same at both ends.
///
/// If both ends support it, each end compresses all of its messages, and a message may refer to the text of earlier ones.
/// About a quarter of the bytes that a station sends remain. The guide's page
/// [`compression`](crate::guide::compression) has the costs.
///
/// ```
/// use ocpp_rpc::{Options, compression::Compression};
///
/// let more_memory = Options::server().compression(Compression::new().window_bits(13));
/// let without = Options::server().compression(None);
/// ```
///
/// # Security
///
/// The length of a compressed message depends on its text. If an attacker sees the lengths of messages, and chooses
/// parts of the text that share a message or a window with a secret, the attacker can guess the secret (CRIME). If they
/// share only the window, turn [`context_takeover`](Self::context_takeover) off. If they can share a message, turn the
/// [compression](crate::Options::compression) off.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Compression {
    pub(crate) received_window_bits: u8,
    pub(crate) sent_window_bits: u8,
    pub(crate) context_takeover: bool,
    pub(crate) max_ratio: Option<u32>,
}

impl Compression {
    /// Returns the defaults.
    pub const fn new() -> Self {
        Self { received_window_bits: 11, sent_window_bits: 10, context_takeover: true, max_ratio: Some(256) }
    }

    /// Sets the window of each direction to 2<sup>bits</sup> bytes: a message may refer to that much earlier text. `bits`
    /// must be 9 to 15. Default 11 (2 KiB) for received and 10 (1 KiB) for sent messages.
    ///
    /// Also replaces the value of an earlier [`sent_window_bits`](Self::sent_window_bits). A connection keeps at most
    /// that many bytes per direction. A client does not limit the window of the server, because servers may refuse such
    /// an offer: it keeps up to 32 KiB if the server uses them.
    #[must_use]
    pub fn window_bits(self, bits: u8) -> Self {
        Self { received_window_bits: bits, sent_window_bits: bits, ..self }
    }

    /// Sets the window of sent messages alone, like [`window_bits`](Self::window_bits). Default 10.
    ///
    /// A larger window takes memory and processor time, and saves little: most messages of a server are short.
    #[must_use]
    pub fn sent_window_bits(self, bits: u8) -> Self {
        Self { sent_window_bits: bits, ..self }
    }

    /// Sets whether a message may refer to earlier messages. Default on.
    ///
    /// Without it, messages are longer and a connection keeps no text between them. Turn it off for peers that compress
    /// incorrectly with it, and if some messages contain secrets and others contain text of third parties.
    #[must_use]
    pub fn context_takeover(self, takeover: bool) -> Self {
        Self { context_takeover: takeover, ..self }
    }

    /// Sets the ratio of a received text to its compressed payload, at most. A text over 64 KiB that exceeds it closes
    /// the connection with 1009. `None` turns the limit off. Default 256.
    ///
    /// [`Options::max_message_size`](crate::Options::max_message_size) limits the text as well.
    #[must_use]
    pub fn max_ratio(self, ratio: impl Into<Option<u32>>) -> Self {
        Self { max_ratio: ratio.into(), ..self }
    }
}

impl Default for Compression {
    fn default() -> Self {
        Self::new()
    }
}

/// Information on the compression of a connection, returned by
/// [`SessionInfo::compression`](crate::SessionInfo::compression).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompressionInfo {
    /// The messages that this end has sent.
    pub sent: CompressedMessages,
    /// The messages that this end has received.
    pub received: CompressedMessages,
}

/// The compression of one direction of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct CompressedMessages {
    /// The base-2 logarithm of the window, from 8 to 15. If a client must use 8, it sends its messages uncompressed.
    pub window_bits: u8,
    /// True if messages may refer to earlier ones.
    pub context_takeover: bool,
    /// The length of the texts that were compressed, in bytes.
    pub text_bytes: u64,
    /// The length of their compressed payloads, in bytes. The heads of frames do not count.
    pub payload_bytes: u64,
}

impl CompressedMessages {
    /// Counts a message.
    pub(crate) fn count(&mut self, text: usize, payload: usize) {
        self.text_bytes += text as u64;
        self.payload_bytes += payload as u64;
    }
}
