//! A charging station for tests: a WebSocket client that sends exactly the given messages, over a stream in memory, so
//! that time can be paused.

use std::{
    convert::Infallible,
    error::Error,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ocpp_rpc::{
    CallError, Options, RpcRouter, RpcServer, Session,
    close::CloseInfo,
    event::{EventKind, Events},
    extract::{Params, State},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream},
    sync::Semaphore,
    time::timeout,
};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Message, client::IntoClientRequest, http::HeaderValue, protocol::CloseFrame},
};
use tracing::{
    Dispatch, Subscriber,
    subscriber::{DefaultGuard, NoSubscriber, set_default},
};
use tracing_subscriber::fmt::MakeWriter;

pub const SECOND: Duration = Duration::from_secs(1);

/// A server with default options.
pub fn server<S: Send + Sync + 'static>(router: RpcRouter<S>) -> RpcServer {
    server_with(router, Options::server())
}

/// A server with these options.
pub fn server_with<S: Send + Sync + 'static>(router: RpcRouter<S>, options: Options) -> RpcServer {
    let protocols = ["ocpp2.1", "ocpp2.0.1", "ocpp1.6"];
    RpcServer::builder(router).protocols(protocols).options(options).build().expect("a valid configuration")
}

/// Connects a station and returns it with its session when the server has opened it.
pub async fn connected(server: &RpcServer, protocol: &str) -> (Station, Session) {
    let mut events = server.events();
    let station = Station::connect(server, "CP-1", protocol).await;
    (station, opened(&mut events).await)
}

/// Waits for the next session that opens.
pub async fn opened(events: &mut Events) -> Session {
    events
        .expect(|event| match event.kind {
            EventKind::Opened { .. } => event.session(),
            _ => None,
        })
        .await
}

/// Waits for the next session that closes.
pub async fn closed(events: &mut Events) -> CloseInfo {
    events
        .expect(|event| match event.kind {
            EventKind::Closed(closed) => Some(closed),
            _ => None,
        })
        .await
}

/// A handler that returns its params.
pub async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

/// A router with a handler, `Wait`, that waits for a permit of the semaphore, and one, `Echo`, that does not.
pub fn gated() -> (RpcRouter<Arc<Semaphore>>, Arc<Semaphore>) {
    async fn wait(State(gate): State<Arc<Semaphore>>) -> Result<(), CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(())
    }
    let gate = Arc::new(Semaphore::new(0));
    (RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo), gate)
}

/// Fails if an error and its causes, printed one after the other, repeat a text.
pub fn says_nothing_twice(error: &dyn Error) {
    let mut printed = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (**cause).source()) {
        let cause = cause.to_string();
        assert!(!printed.contains(&cause), "{cause:?} repeats {printed:?}");
        printed.push_str(&cause);
    }
}

/// A writer that keeps everything that was logged.
#[derive(Clone, Default)]
pub struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    pub fn text(&self) -> String {
        String::from_utf8(self.0.lock().expect("no panic").clone()).expect("UTF-8")
    }
}

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}

/// Sends the log of this thread to `subscriber` until the returned value is dropped.
///
/// The function registers a second subscriber as well. If there is only one, `tracing` caches the interest of the first
/// thread that reaches a callsite, and disables the callsite for all threads if that thread has no subscriber.
pub fn log_to(subscriber: impl Subscriber + Send + Sync) -> (DefaultGuard, Dispatch) {
    let other = Dispatch::new(NoSubscriber::default());
    (set_default(subscriber), other)
}

/// Access to messages that have arrived already.
pub trait NextNow {
    fn next_now(&mut self) -> Option<Message>;
}

impl<S: futures_util::Stream<Item = Result<Message, E>> + Unpin, E> NextNow for S {
    fn next_now(&mut self) -> Option<Message> {
        futures_util::StreamExt::next(self).now_or_never().flatten().and_then(Result::ok)
    }
}

pub struct Station<S = DuplexStream> {
    pub ws: WebSocketStream<S>,
    /// The subprotocol that the server selected.
    pub protocol: Option<String>,
}

/// Returns one end of a connection in memory; `server` serves the other end.
pub fn dial(server: &RpcServer) -> DuplexStream {
    dial_with_buffer(server, 64 << 10)
}

/// Does the same over a stream with a buffer of `bytes` bytes in each direction.
pub fn dial_with_buffer(server: &RpcServer, bytes: usize) -> DuplexStream {
    let (near, far) = tokio::io::duplex(bytes);
    serve(server, far);
    near
}

/// Serves one end of a connection in memory by `server`.
pub fn serve(server: &RpcServer, far: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) {
    let connection = hyper::server::conn::http1::Builder::new()
        .serve_connection(TokioIo::new(far), TowerToHyperService::new(server.clone()))
        .with_upgrades();
    tokio::spawn(connection);
}

impl Station {
    /// Connects as `identity` and offers `protocols`, a header value; if it is empty, offers no protocol.
    pub async fn connect(server: &RpcServer, identity: &str, protocols: &str) -> Self {
        Self::open(dial(server), identity, protocols).await
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Station<S> {
    pub async fn open(stream: S, identity: &str, protocols: &str) -> Self {
        let mut request = format!("ws://test/ocpp/{identity}").into_client_request().expect("a request");
        if !protocols.is_empty() {
            let value = HeaderValue::from_str(protocols).expect("a header");
            request.headers_mut().insert("sec-websocket-protocol", value);
        }
        // The client compares the protocol of the response with its offer. Some tests violate this rule.
        let (ws, response) = client_async(request, stream).await.expect("a session");
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().expect("a token").to_owned());
        Self { ws, protocol }
    }

    pub async fn send(&mut self, text: impl Into<String>) {
        self.ws.send(Message::text(text.into())).await.expect("open");
    }

    /// Receives the next text message, and responds to pings in between.
    pub async fn receive(&mut self) -> String {
        loop {
            match self.next().await {
                Message::Text(text) => return text.to_string(),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// Sends a message and returns the response.
    pub async fn ask(&mut self, text: impl Into<String>) -> String {
        self.send(text).await;
        self.receive().await
    }

    /// Receives a call and returns its id, and its action and payload.
    pub async fn receive_call(&mut self) -> (String, serde_json::Value) {
        let text = self.receive().await;
        let (kind, id, action, params): (u8, String, String, serde_json::Value) =
            serde_json::from_str(&text).unwrap_or_else(|_| panic!("no call: {text}"));
        assert_eq!(kind, 2, "{text}");
        (id, serde_json::json!([action, params]))
    }

    pub async fn next(&mut self) -> Message {
        self.ws.next().await.expect("open").expect("a message")
    }

    /// Returns code and reason of the next close frame, after the reply that the protocol requires. Skips other
    /// messages before it.
    pub async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.ws.next().await {
                Some(Ok(Message::Close(Some(CloseFrame { code, reason })))) => {
                    let _ = self.ws.flush().await;
                    return (code.into(), reason.to_string());
                }
                Some(Ok(Message::Close(None))) => return (1005, String::new()),
                Some(Ok(_)) => {}
                Some(Err(_)) | None => return (1006, String::new()),
            }
        }
    }

    pub async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.ws.send(Message::Close(Some(frame))).await.expect("open");
    }

    /// Asserts that the station receives only pings and pongs for an hour. For tests with a paused clock.
    pub async fn silent(&mut self) {
        let received = timeout(Duration::from_secs(3600), async {
            loop {
                let message = self.next().await;
                if !matches!(message, Message::Ping(_) | Message::Pong(_)) {
                    return message;
                }
            }
        });
        if let Ok(message) = received.await {
            panic!("not silent: {message:?}");
        }
    }
}
