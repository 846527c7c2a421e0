//! A client over TCP whose head of a request is a text that the test has written, for handshakes that no WebSocket
//! client would make. Nothing here waits for ever.

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

/// Waits for something that should not take long.
pub async fn soon<T>(what: impl Future<Output = T>) -> T {
    timeout(Duration::from_secs(10), what).await.expect("should have happened by now")
}

/// The head of a sound handshake that offers no protocol (RFC 6455 §1.3).
pub fn head(path: &str) -> String {
    format!(
        "GET {path} HTTP/1.1\r\nHost: test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    )
}

/// The same head with one more header line.
pub fn with(head: &str, line: &str) -> String {
    format!("{}{line}\r\n\r\n", head.strip_suffix("\r\n").expect("a whole head"))
}

/// A head that offers these protocols.
pub fn offering(path: &str, protocols: &str) -> String {
    with(&head(path), &format!("Sec-WebSocket-Protocol: {protocols}"))
}

/// A text frame as a client sends it, masked.
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
    /// A header's value, empty where there is none.
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

    /// Sends all of it, in one segment where it fits. A server that does not want to read it is no failure.
    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = soon(self.0.write_all(bytes.as_ref())).await;
    }

    pub async fn answer(&mut self) -> Responder {
        let status = self.status().await;
        self.answer_behind(status).await
    }

    /// The first line of the answer.
    pub async fn status(&mut self) -> u16 {
        let line = self.line().await;
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        status.unwrap_or_else(|| panic!("no answer: {line:?}"))
    }

    /// The answer whose first line was read already.
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

    /// What comes until the server closes the connection.
    pub async fn rest(mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end, too.
        let _ = soon(self.0.read_to_end(&mut rest)).await;
        rest
    }

    /// Asks, and gives the answer.
    pub async fn ask(&mut self, head: &str) -> Responder {
        self.send(head).await;
        self.answer().await
    }

    /// Goes on as a station, once the answer was 101.
    pub async fn upgraded(self, answer: &Responder) -> Station<BufReader<S>> {
        assert_eq!(answer.status, 101, "{answer:?}");
        let protocol = answer.headers.get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().expect("a token").to_owned());
        Station { ws: WebSocketStream::from_raw_socket(self.0, Role::Client, None).await, protocol }
    }
}

/// A server that listens by itself, and what happens at it.
pub struct Site {
    pub server: RpcServer,
    pub listener: Listener,
    pub events: Events,
}

impl Site {
    pub async fn of(builder: RpcServerBuilder) -> Self {
        let server = builder.build().expect("a sound configuration");
        let listener = server.listen("127.0.0.1:0").await.expect("a port");
        Self { events: server.events(), listener, server }
    }

    pub async fn dial(&self) -> Client {
        Client::dial(self.listener.local_addr()).await
    }

    /// The answer to a handshake on a connection of its own.
    pub async fn ask(&self, head: &str) -> Responder {
        self.dial().await.ask(head).await
    }

    /// A session: its client's end.
    pub async fn enter(&self, head: &str) -> TcpStation {
        let mut client = self.dial().await;
        let answer = client.ask(head).await;
        client.upgraded(&answer).await
    }

    /// The next handshake that was refused: identity, status, and why.
    pub async fn refused(&mut self) -> (Option<String>, Option<u16>, String) {
        loop {
            let event = soon(self.events.next()).await.expect("an event");
            if let EventKind::HandshakeRefused { status, reason, .. } = event.kind {
                return (event.identity.as_deref().map(str::to_owned), status, reason);
            }
        }
    }
}
