//! A client over TCP that sends the request head that the test passes, for handshakes that no WebSocket client makes.
//! Every wait has a timeout.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, HeaderName, HeaderValue};
use ocpp_rpc::{
    RpcServer,
    event::{EventKind, Events},
    server::{Listener, RpcServerBuilder},
};
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader},
    net::TcpStream,
    time::timeout,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::support::Station;

/// Waits for a future that must complete within 10 seconds.
pub async fn soon<T>(future: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), future).await.expect("completed within 10 s")
}

/// The head of a valid handshake that offers no protocol (RFC 6455 §1.3).
pub fn head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// Adds a header line to a head.
pub fn with(head: &str, line: &str) -> String {
    format!("{}{line}\r\n\r\n", head.strip_suffix("\r\n").expect("a whole head"))
}

/// A head that offers these protocols.
pub fn offering(path: &str, protocols: &str) -> String {
    with(&head(path), &format!("Sec-WebSocket-Protocol: {protocols}"))
}

/// A masked text frame, as clients send it.
pub fn frame(text: &str) -> Vec<u8> {
    const MASK: [u8; 4] = [1, 2, 3, 4];
    let length = u8::try_from(text.len()).ok().filter(|length| *length < 126).expect("a short text");
    let masked = text.bytes().zip(MASK.into_iter().cycle()).map(|(byte, mask)| byte ^ mask);
    [0x81, 0x80 | length].into_iter().chain(MASK).chain(masked).collect()
}

pub struct Client<S = TcpStream>(BufReader<S>);

pub type TcpStation = Station<BufReader<TcpStream>>;

#[derive(Debug)]
pub struct Responder {
    pub status: u16,
    pub headers: HeaderMap,
    pub body: String,
}

impl Responder {
    /// Returns the value of a header, or an empty text if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("ASCII"))
    }
}

impl Client {
    pub async fn dial(address: SocketAddr) -> Self {
        Self::over(soon(TcpStream::connect(address)).await.expect("a listener"))
    }

    pub fn address(&self) -> SocketAddr {
        self.0.get_ref().local_addr().expect("a socket")
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Client<S> {
    pub fn over(stream: S) -> Self {
        Self(BufReader::new(stream))
    }

    /// Sends all bytes, in one segment if they fit. Ignores errors, because a server may close without reading.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon(self.0.write_all(bytes.as_ref())).await;
    }

    pub async fn answer(&mut self) -> Responder {
        let status = self.status().await;
        self.answer_behind(status).await
    }

    /// Reads the status from the first line of the response.
    pub async fn status(&mut self) -> u16 {
        let line = self.line().await;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no response: {line:?}"))
    }

    /// Reads the rest of a response after its first line.
    pub async fn answer_behind(&mut self, status: u16) -> Responder {
        let mut headers = HeaderMap::new();
        while let Some((name, value)) = self.line().await.split_once(": ") {
            let name: HeaderName = name.parse().expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let length = headers.get("content-length").and_then(|length| length.to_str().ok()?.parse().ok());
        let mut body = vec![0; length.unwrap_or(0)];
        soon(self.0.read_exact(&mut body)).await.expect("the whole body");
        Responder { status, headers, body: String::from_utf8(body).expect("text") }
    }

    async fn line(&mut self) -> String {
        let mut line = String::new();
        soon(self.0.read_line(&mut line)).await.expect("a line");
        line.trim_end().to_owned()
    }

    /// Reads a number of bytes.
    pub async fn read(&mut self, bytes: usize) -> Vec<u8> {
        let mut read = vec![0; bytes];
        soon(self.0.read_exact(&mut read)).await.expect("bytes");
        read
    }

    /// Reads until the server closes the connection.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset closes the connection as well.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }

    /// Sends a request and returns the response.
    pub async fn ask(&mut self, head: &str) -> Responder {
        self.send(head).await;
        self.answer().await
    }

    /// Continues as a station after a response with status 101.
    pub async fn upgraded(self, response: &Responder) -> Station<BufReader<S>> {
        assert_eq!(response.status, 101, "{response:?}");
        let protocol = response.headers.get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().expect("a token").to_owned());
        Station { ws: WebSocketStream::from_raw_socket(self.0, Role::Client, None).await, protocol }
    }
}

/// A server with its own listener, and its events.
pub struct Site {
    pub server: RpcServer,
    pub listener: Listener,
    pub events: Events,
}

impl Site {
    pub async fn of(builder: RpcServerBuilder) -> Self {
        let server = builder.build().expect("a valid configuration");
        let listener = server.listen("127.0.0.1:0").await.expect("a port");
        Self { events: server.events(), listener, server }
    }

    pub async fn dial(&self) -> Client {
        Client::dial(self.listener.local_addr()).await
    }

    /// Sends a handshake on a new connection and returns the response.
    pub async fn ask(&self, head: &str) -> Responder {
        self.dial().await.ask(head).await
    }

    /// Opens a session and returns the client's end.
    pub async fn enter(&self, head: &str) -> TcpStation {
        let mut client = self.dial().await;
        let response = client.ask(head).await;
        client.upgraded(&response).await
    }

    /// Returns identity, status and reason of the next refused handshake.
    pub async fn refused(&mut self) -> (Option<String>, Option<u16>, String) {
        self.events
            .expect(|event| match event.kind {
                EventKind::HandshakeRefused { status, reason, .. } => {
                    Some((event.identity.as_deref().map(str::to_owned), status, reason))
                }
                _ => None,
            })
            .await
    }
}
