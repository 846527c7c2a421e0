//! The settings of HTTP connections.

use std::time::Duration;

/// The limits of HTTP connections, and the flags of HTTP/2.
#[derive(Debug, Clone)]
pub(crate) struct HttpSettings {
    /// The timeout from the accepted connection to the end of the WebSocket handshake.
    pub(crate) handshake_timeout: Duration,
    /// The maximum time in which the body of a request or a response makes no progress.
    pub(crate) body_timeout: Option<Duration>,
    /// The maximum size of a request's head, in bytes.
    pub(crate) max_head_size: usize,
    pub(crate) max_headers: usize,
    pub(crate) max_connections: usize,
    pub(crate) max_connections_per_address: usize,
    /// Set if a WebSocket may be a stream of HTTP/2.
    #[cfg(feature = "http2")]
    pub(crate) websockets_over_http2: bool,
}

impl Default for HttpSettings {
    fn default() -> Self {
        Self {
            handshake_timeout: Duration::from_secs(10),
            body_timeout: Some(Duration::from_secs(30)),
            max_head_size: 64 << 10,
            max_headers: 100,
            max_connections: 4096,
            max_connections_per_address: 1024,
            #[cfg(feature = "http2")]
            websockets_over_http2: false,
        }
    }
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
