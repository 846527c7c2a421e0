//! HTTP/1.1 and nothing else: what stands in for the feature `http2`.

use http::Extensions;

pub(super) use super::http1::serve;

/// What is served of a stream.
pub(super) type Stream<T> = T;

/// What TLS says that is spoken (RFC 7301).
#[cfg(all(feature = "listen", feature = "tls"))]
pub(super) const ALPN: &[&str] = &["http/1.1"];

/// What a server does by choice: nothing.
#[derive(Default)]
pub(super) struct Habits {}

impl Habits {
    /// Whether a WebSocket may be a stream of HTTP/2.
    pub(super) fn take_connect(&self) -> bool {
        false
    }
}

/// The protocol that a CONNECT asks for (RFC 8441 §4).
pub(super) fn protocol(_: &Extensions) -> Option<&str> {
    None
}
