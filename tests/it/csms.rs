//! A scripted server for tests of the client. It uses in-memory streams, so tests can pause the clock.

use std::io;

use futures_util::{SinkExt, StreamExt};
use ocpp_rpc::{
    RpcClient,
    client::{Backoff, ClientState, ConnectError, Reconnect, RpcClientBuilder, Target},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    sync::mpsc,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, accept_async, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::CloseFrame,
    },
};

use crate::support::SECOND;

/// The head of a successful upgrade response, without the empty line at its end.
pub const UPGRADE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";

/// The server ends of a client's connections, in the order in which it dials.
pub struct Dials(pub mpsc::UnboundedReceiver<DuplexStream>);

/// A client that dials in-memory streams, with reconnect waits without jitter.
pub fn client() -> (RpcClientBuilder, Dials) {
    let (client, dials) = client_with_defaults();
    (client.reconnect(reconnect()), dials)
}

/// A client that dials in-memory streams, with default settings.
pub fn client_with_defaults() -> (RpcClientBuilder, Dials) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let connector = move |_: Target| {
        let (near, far) = duplex(64 << 10);
        let dialled = sender.send(far).map(|()| near).map_err(|_| io::ErrorKind::ConnectionRefused.into());
        async { dialled }
    };
    let client =
        RpcClient::builder("ws://csms.test/ocpp", "CP-1").protocols(["ocpp2.0.1", "ocpp1.6"]).connector(connector);
    (client, Dials(receiver))
}

pub fn reconnect() -> Reconnect {
    Reconnect::always().backoff(Backoff::exponential().jitter(0.0))
}

/// The server end of a WebSocket, controlled by the test.
pub struct Csms(pub WebSocketStream<DuplexStream>);

impl Dials {
    pub async fn next(&mut self) -> DuplexStream {
        timeout(600 * SECOND, self.0.recv()).await.expect("a dial in ten minutes").expect("a client")
    }

    /// Accepts the next dial.
    pub async fn accept(&mut self, protocol: &'static str) -> Csms {
        Csms(accept(self.next().await, protocol).await)
    }

    /// Accepts the next dial without a subprotocol.
    pub async fn accept_without_protocol(&mut self) {
        let _ = accept_async(self.next().await).await;
    }

    /// Writes `text` in response to the handshake request of the next dial.
    pub async fn answer(&mut self, text: &str) -> DuplexStream {
        let mut stream = self.next().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let key = String::from_utf8_lossy(&head).into_owned();
        assert!(key.contains("Sec-WebSocket-Key: "), "{key}");
        stream.write_all(text.as_bytes()).await.expect("open");
        stream
    }

    /// Returns the head of the next handshake as it is on the wire, and the stream.
    pub async fn head(&mut self) -> (String, DuplexStream) {
        let mut stream = self.next().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        (String::from_utf8(head).expect("text"), stream)
    }

    pub fn none(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

impl Csms {
    pub async fn receive(&mut self) -> Value {
        loop {
            match self.0.next().await.expect("open").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// Receives a call of this action and returns its id.
    pub async fn receive_call(&mut self, action: &str) -> String {
        let call = self.receive().await;
        assert_eq!((&call[0], call[2].as_str()), (&json!(2), Some(action)), "{call}");
        call[1].as_str().expect("an id").to_owned()
    }

    pub async fn answer(&mut self, action: &str) {
        let id = self.receive_call(action).await;
        self.send(json!([3, id, {"to": action}])).await;
    }

    pub async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("open");
    }

    /// Asserts that only pings and pongs arrive for an hour. The clock must be paused.
    pub async fn silent(&mut self) {
        let received = timeout(3600 * SECOND, self.receive()).await;
        if let Ok(message) = received {
            panic!("not silent: {message}");
        }
    }

    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.0.send(Message::Close(Some(frame))).await.expect("open");
    }

    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.0.next().await {
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    let _ = self.0.flush().await;
                    return (code.into(), reason.to_string());
                }
                Some(Ok(_)) => {}
                _ => return (1006, String::new()),
            }
        }
    }
}

/// Waits until the client has this state.
pub async fn becomes(client: &RpcClient, wanted: ClientState) {
    let mut states = client.states();
    let reached = timeout(3600 * SECOND, states.wait_for(|state| *state == wanted)).await;
    reached.unwrap_or_else(|_| panic!("never {wanted:?}")).expect("a client");
}

/// Connects a client in a spawned task, and returns both.
pub fn connecting(client: RpcClientBuilder) -> (RpcClient, tokio::task::JoinHandle<Result<(), ConnectError>>) {
    let client = client.build().expect("valid settings");
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    (client, attempt)
}

/// Connects a client, and returns it with the server end.
pub async fn connected(client: RpcClientBuilder, dials: &mut Dials) -> (RpcClient, Csms) {
    let (client, attempt) = connecting(client);
    let csms = dials.accept("ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected");
    (client, csms)
}

/// Accepts a handshake.
pub async fn accept(stream: DuplexStream, protocol: &'static str) -> WebSocketStream<DuplexStream> {
    try_accept(stream, protocol).await.expect("a handshake")
}

/// Accepts a handshake. Returns `None` if the client has closed the stream.
pub async fn try_accept(stream: DuplexStream, protocol: &'static str) -> Option<WebSocketStream<DuplexStream>> {
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let name = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
        Ok(response)
    };
    accept_hdr_async(stream, name).await.ok()
}

/// Returns a client that has just lost its only connection.
pub async fn connected_once(policy: Reconnect) -> (RpcClient, Dials) {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(policy), &mut dials).await;
    drop(csms);
    (client, dials)
}
