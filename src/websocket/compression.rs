//! The settings of compression, and information on its effect.

use serde::Serialize;

/// The settings of compression (RFC 7692, permessage-deflate), the same at both ends.
///
/// Both ends must support it. Then each end compresses all of its messages, and each message may refer to the text of
/// earlier ones. An OCPP message takes about a quarter of its bytes.
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
/// parts of the text that share a message or a window with a secret, the attacker can guess the secret (CRIME). Turn
/// [`context_takeover`](Self::context_takeover) or the [compression](crate::Options::compression) off in that case.
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

    /// Sets the windows of both directions: the earlier text to which a message may refer, 2<sup>bits</sup> bytes. At
    /// least 9, at most 15. Default 11 for received messages, which is 2 KiB, and 10 for sent ones.
    ///
    /// A connection keeps at most that many bytes per direction. A client keeps up to 32 KiB of the server's text if the
    /// server uses so large a window: it does not limit that window, because servers may refuse such an offer.
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
    /// incorrectly with it, and if messages contain secrets.
    #[must_use]
    pub fn context_takeover(self, takeover: bool) -> Self {
        Self { context_takeover: takeover, ..self }
    }

    /// Sets how many times longer than its compressed payload a received message may be, if it is longer than 64 KiB. A
    /// longer one closes the connection with 1009. `None` turns the limit off. Default 256.
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
