//! The settings of HTTP connections.

use std::time::Duration;

/// The limits of HTTP connections, and the flags of HTTP/2.
#[derive(Debug, Clone)]
pub(crate) struct HttpSettings {
    /// The timeout from the accepted connection to the end of the WebSocket handshake.
    pub(crate) handshake_timeout: Duration,
    /// The maximum size of a request's head, in bytes.
    pub(crate) max_head_size: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_connections: usize,
    /// Set if a WebSocket may be a stream of HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) websockets_over_http2: bool,
}

impl HttpSettings {
    /// Returns `true` if a WebSocket may be a stream of HTTP/2.
    pub(crate) fn has_websockets_over_http2(&self) -> bool {
        #[cfg(feature = "http2")]
        {
            self.websockets_over_http2
        }
        #[cfg(not(feature = "http2"))]
        false
    }
}
