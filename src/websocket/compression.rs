//! The settings of compression.

/// The settings of compression (RFC 7692, permessage-deflate), the same at both ends.
///
/// Both ends must support it. Then each end compresses all of its messages, and each message may refer to the text of
/// earlier ones. An OCPP message takes about a quarter of its bytes.
///
/// ```
/// use ocpp_rpc::{Compression, Options};
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
    pub(crate) window_bits: u8,
    pub(crate) context_takeover: bool,
    pub(crate) max_ratio: Option<u32>,
}

impl Compression {
    /// Returns the defaults.
    pub const fn new() -> Self {
        Self { window_bits: 11, context_takeover: true, max_ratio: Some(256) }
    }

    /// Sets the size of the window, the earlier text to which a message may refer: 2<sup>bits</sup> bytes. At least 9,
    /// at most 15. Default 11, which is 2 KiB.
    ///
    /// A connection keeps at most that many bytes per direction. A client keeps up to 32 KiB of the server's text if the
    /// server uses so large a window: it does not limit that window, because servers may refuse such an offer.
    #[must_use]
    pub fn window_bits(self, bits: u8) -> Self {
        Self { window_bits: bits, ..self }
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
