//! Names the protocol of a client by its first bytes, and responds to a client that speaks a wrong one.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy, sink},
    time::timeout,
};

use crate::server::http::proxy_protocol::{SIGNATURE, WORD};

/// The number of first bytes that suffice to name a protocol.
pub(crate) const LENGTH: usize = SIGNATURE.len();

/// The reason for events if a client sends a PROXY header to a listener that expects none.
pub(crate) const UNEXPECTED_PROXY_HEADER: &str =
    "unexpected PROXY header: set `proxy_protocol` on the listener, or disable the header at the proxy";

/// The maximum number of bytes that are discarded behind a response, so that the client can read it.
const MAX_DISCARDED: u64 = 64 << 10;

/// The time in which the client must take a response and close.
const RESPONSE_TIMEOUT: Duration = Duration::from_secs(1);

/// A protocol on top of TCP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum FirstBytes {
    /// A TLS handshake (RFC 8446 §5.1).
    Tls,
    /// The header of a proxy.
    ProxyHeader,
    /// The method of a request.
    Http,
    /// Another protocol, or too few bytes.
    Other,
}

impl FirstBytes {
    /// Names the protocol of a client that has sent these bytes. Further bytes may follow.
    pub(crate) fn of(bytes: &[u8]) -> Self {
        if bytes.starts_with(&[0x16, 0x03]) {
            Self::Tls
        } else if bytes.starts_with(WORD) || bytes.starts_with(SIGNATURE) {
            Self::ProxyHeader
        } else if bytes.len() >= 3 && bytes[..3].iter().all(u8::is_ascii_uppercase) {
            Self::Http
        } else {
            Self::Other
        }
    }
}

/// The failure of the set-up of a connection.
#[derive(Debug)]
pub(crate) struct SetupError<T> {
    pub(crate) error: io::Error,
    /// A response that is still due, if the client speaks a wrong protocol.
    pub(crate) response: Option<Response<T>>,
}

impl<T> SetupError<T> {
    /// Creates the error of a client that speaks a wrong protocol. `reason` is for events, `text` for the client.
    pub(crate) fn wrong_protocol(io: T, reason: &'static str, text: &'static str) -> Self {
        let error = io::Error::new(io::ErrorKind::InvalidData, reason);
        Self { error, response: Some(Response { io, text }) }
    }
}

impl<T> From<io::Error> for SetupError<T> {
    fn from(error: io::Error) -> Self {
        Self { error, response: None }
    }
}

/// A response with status 400 to a client that speaks a wrong protocol.
///
/// Web servers give the same response. A client that speaks TLS reports it as a wrong version, which names the fault
/// better than an alert would.
#[derive(Debug)]
pub(crate) struct Response<T> {
    io: T,
    text: &'static str,
}

impl<T: AsyncRead + AsyncWrite + Unpin> Response<T> {
    /// Sends the response and closes the connection, within a second.
    pub(crate) async fn send(mut self) {
        let (text, length) = (self.text, self.text.len());
        let response = format!(
            "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
             Connection: close\r\n\r\n{text}"
        );
        // Unread bytes at the end of a connection become a reset, and the client would never see the response.
        let responding = async {
            self.io.write_all(response.as_bytes()).await?;
            self.io.shutdown().await?;
            copy(&mut (&mut self.io).take(MAX_DISCARDED), &mut sink()).await
        };
        // A client that does not take the response is refused all the same.
        _ = timeout(RESPONSE_TIMEOUT, responding).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_bytes_name_the_protocol() {
        for (bytes, protocol) in [
            (&[0x16, 0x03, 0x01, 0x02, 0x00][..], FirstBytes::Tls),
            (b"PROXY TCP4 1", FirstBytes::ProxyHeader),
            (SIGNATURE, FirstBytes::ProxyHeader),
            (b"GET /", FirstBytes::Http),
            (b"POST", FirstBytes::Http),
            (b"PRI * HTTP/2", FirstBytes::Http),
            (b"", FirstBytes::Other),
            (b"G", FirstBytes::Other),
            (&[0x16], FirstBytes::Other),
            (&[0x80, 0x2e, 0x01], FirstBytes::Other),
        ] {
            assert_eq!(FirstBytes::of(bytes), protocol, "{bytes:?}");
        }
    }
}
