//! The spelling of header names on the wire.
//!
//! `http` stores names in lower case, and hyper writes them so. Some embedded stations compare the names of the
//! handshake letter by letter, and expect them as RFC 6455 and RFC 9110 spell them. hyper's own title case does not
//! help: it writes `Sec-Websocket-Accept`.

use std::sync::OnceLock;

use http::Extensions;
use hyper_util::rt::TokioIo;
use tokio::{io::AsyncWriteExt, task::unconstrained};

/// The spellings in a response that accepts a handshake, in lines of a message.
const UPGRADE_LINES: &str = concat!(
    "Connection: x\r\n",
    "Date: x\r\n",
    "Sec-WebSocket-Accept: x\r\n",
    "Sec-WebSocket-Extensions: x\r\n",
    "Sec-WebSocket-Protocol: x\r\n",
    "Server: x\r\n",
    "Set-Cookie: x\r\n",
    "Upgrade: x\r\n",
);

/// The other spellings.
const OTHER_LINES: &str = concat!(
    "Authorization: x\r\n",
    "Content-Length: 0\r\n",
    "Content-Type: x\r\n",
    "Cookie: x\r\nCookie: x\r\nCookie: x\r\nCookie: x\r\n",
    "Host: x\r\n",
    "Location: x\r\n",
    "Origin: x\r\n",
    "Proxy-Authorization: x\r\n",
    "Retry-After: x\r\n",
    "Sec-WebSocket-Key: x\r\n",
    "Sec-WebSocket-Version: x\r\n",
    "Set-Cookie: x\r\nSet-Cookie: x\r\nSet-Cookie: x\r\n",
    "User-Agent: x\r\n",
    "WWW-Authenticate: x\r\nWWW-Authenticate: x\r\nWWW-Authenticate: x\r\nWWW-Authenticate: x\r\n",
);

/// Returns the extensions that make hyper write the usual spelling of header names in HTTP/1.1.
///
/// Other names stay in lower case. hyper has no constructor for the spellings, so the first call lets hyper read them
/// from a message.
pub(crate) fn header_case() -> Extensions {
    static HEADER_CASE: OnceLock<Extensions> = OnceLock::new();
    HEADER_CASE.get_or_init(|| read(&[UPGRADE_LINES, OTHER_LINES].concat()).unwrap_or_default()).clone()
}

/// Returns the same for a response that accepts a handshake, which is cheaper to clone.
///
/// Of the headers that layers of the application add, `Server` and one `Set-Cookie` have their usual spelling.
#[cfg(feature = "server")]
pub(crate) fn upgrade_header_case() -> Extensions {
    static HEADER_CASE: OnceLock<Extensions> = OnceLock::new();
    HEADER_CASE.get_or_init(|| read(UPGRADE_LINES).unwrap_or_default()).clone()
}

/// Reads spellings by hyper's server. A spelling applies as often as it occurs in the lines.
///
/// The future is unconstrained, because the budget of the calling task may be used up.
#[cfg(feature = "server")]
fn read(lines: &str) -> Option<Extensions> {
    use std::{convert::Infallible, sync::mpsc};

    use futures_util::FutureExt;
    use http::{Request, Response};
    use http_body_util::Empty;
    use hyper::{body::Incoming, server::conn::http1, service::service_fn};

    let (mut client, io) = tokio::io::duplex(4096);
    // HTTP/1.0 has no upgrade, which would be a second extension.
    unconstrained(client.write_all(format!("GET / HTTP/1.0\r\n{lines}\r\n").as_bytes())).now_or_never()?.ok()?;
    let (sender, extensions) = mpsc::channel();
    let service = service_fn(move |request: Request<Incoming>| {
        let _ = sender.send(request.into_parts().0.extensions);
        async { Ok::<_, Infallible>(Response::new(Empty::<bytes::Bytes>::new())) }
    });
    let connection = http1::Builder::new().preserve_header_case(true).serve_connection(TokioIo::new(io), service);
    // The request has arrived already, so one poll suffices.
    let _ = unconstrained(connection).now_or_never();
    extensions.try_recv().ok()
}

/// Reads spellings by hyper's client, with unconstrained futures as well.
#[cfg(not(feature = "server"))]
fn read(lines: &str) -> Option<Extensions> {
    use futures_util::FutureExt;
    use http::Request;
    use http_body_util::Empty;
    use hyper::client::conn::http1;

    let (mut server, io) = tokio::io::duplex(4096);
    let handshake = http1::Builder::new().preserve_header_case(true).handshake(TokioIo::new(io));
    let (mut sender, connection) = unconstrained(handshake).now_or_never()?.ok()?;
    let mut connection = unconstrained(connection);
    let mut response = Box::pin(unconstrained(sender.send_request(Request::new(Empty::<bytes::Bytes>::new()))));
    let _ = (&mut response).now_or_never();
    // hyper treats a response before the request as an error.
    let _ = (&mut connection).now_or_never();
    unconstrained(server.write_all(format!("HTTP/1.0 200 OK\r\n{lines}\r\n").as_bytes())).now_or_never()?.ok()?;
    let _ = (&mut connection).now_or_never();
    Some(response.now_or_never()?.ok()?.into_parts().0.extensions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spellings_are_the_only_extension() {
        assert_eq!(header_case().len(), 1);
    }

    #[tokio::test]
    async fn spellings_are_read_in_a_task_without_budget() {
        while tokio::task::coop::has_budget_remaining() {
            tokio::task::coop::consume_budget().await;
        }
        assert_eq!(read(UPGRADE_LINES).map(|extensions| extensions.len()), Some(1));
    }
}
