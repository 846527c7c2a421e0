//! Names the protocol of a client by its first bytes, and responds to a client that speaks a wrong one.

use std::{io, time::Duration};

use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::timeout,
};

use crate::server::http::proxy_protocol::{SIGNATURE, WORD};

/// The number of first bytes that suffice to name a protocol.
pub(crate) const LENGTH: usize = SIGNATURE.len();

/// The reason for events if a client sends a PROXY header to a listener that expects none.
pub(crate) const UNEXPECTED_PROXY_HEADER: &str =
    "unexpected PROXY header: set `proxy_protocol` on the listener, or disable the header at the proxy";

/// The maximum number of bytes that are discarded after a refusal, so that the client can read it.
const MAX_DISCARDED: u64 = 64 << 10;

/// The time that the client has to close after a refusal.
const DISCARD_TIMEOUT: Duration = Duration::from_secs(1);

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

/// Responds with 400 and this text, and closes the connection.
///
/// Returns an error with the reason for events. The response is the one that web servers give: a client that speaks TLS
/// reports it as a wrong version, which names the fault better than an alert would.
pub(crate) async fn refuse<T>(io: &mut T, reason: &'static str, text: &'static str) -> io::Error
where
    T: AsyncRead + AsyncWrite + Unpin,
{
    let length = text.len();
    let response = format!(
        "HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain; charset=utf-8\r\nContent-Length: {length}\r\n\
         Connection: close\r\n\r\n{text}"
    );
    // Unread bytes at the end of a connection become a reset, and the client would never see the response.
    let responding = async {
        io.write_all(response.as_bytes()).await?;
        io.shutdown().await?;
        tokio::io::copy(&mut io.take(MAX_DISCARDED), &mut tokio::io::sink()).await
    };
    // The client is refused in any case.
    _ = timeout(DISCARD_TIMEOUT, responding).await;
    io::Error::new(io::ErrorKind::InvalidData, reason)
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
