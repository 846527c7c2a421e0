//! HTTP/2 on the same port as HTTP/1.1: applications over both, and charging stations that share a connection.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    response::Response as Responder,
    routing::{any, get},
};
use bytes::Bytes;
use http::{Method, Request, Response, Version, request};
use http_body_util::{BodyExt, Empty};
use hyper::{
    body::Incoming,
    client::conn::http2::{self, SendRequest},
    ext::Protocol,
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Reject, RpcRouter, RpcServer, RpcUpgrade, Session,
    close::CloseCause,
    server::{ConnectionInfo, Listener, RequestBody, RpcServerBuilder},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, DuplexStream},
    net::TcpStream,
    sync::{Notify, mpsc},
    time::Instant,
};
use tokio_tungstenite::{WebSocketStream, tungstenite::protocol::Role};

use crate::{
    compression::{OFFER, Peer},
    support::{SECOND, Station},
    tcp::{Client, offering, soon},
};

const WHO: &str = r#"[2,"1","Who",{}]"#;

/// The connection preface of an HTTP/2 client, with an empty SETTINGS frame.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A server with a `Who` handler that returns the identity of its session.
fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        Ok(json!({"who": session.identity()}))
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
        .protocols(["ocpp2.0.1", "ocpp1.6"])
        .options(Options::server().close_timeout(Duration::from_millis(100)))
}

/// Listens on a port, with the server as part of an application.
async fn backend(server: &RpcServer) -> Listener {
    server.bind("127.0.0.1:0").app(app(server)).serve().await.expect("a port")
}

fn app(server: &RpcServer) -> Router {
    async fn hello(Path(name): Path<String>, request: axum::extract::Request) -> String {
        format!("{name} by {:?}", request.version())
    }
    async fn connect(upgrade: RpcUpgrade, State(server): State<RpcServer>) -> Responder {
        server.accept(upgrade, Accept::new())
    }
    Router::new()
        .route("/hello/{name}", get(hello))
        .route("/extracted/{*identity}", any(connect))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(server.clone())
}

/// The client end of an HTTP/2 connection.
struct Multiplexed(SendRequest<Empty<Bytes>>);

impl Multiplexed {
    async fn dial(address: SocketAddr) -> Self {
        Self::over(soon(TcpStream::connect(address)).await.expect("a listener")).await
    }

    async fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        let handshake = http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
        let (requests, connection) = soon(handshake).await.expect("a handshake");
        tokio::spawn(connection);
        Self(requests)
    }

    async fn send(&self, request: Request<Empty<Bytes>>) -> Result<Response<Incoming>, hyper::Error> {
        let mut requests = self.0.clone();
        soon(async {
            requests.ready().await?;
            requests.send_request(request).await
        })
        .await
    }

    /// Returns status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::get(format!("http://test{path}")).body(Empty::new()).expect("a request");
        let response = self.send(request).await.expect("a response");
        assert_eq!(response.version(), Version::HTTP_2);
        let status = response.status().as_u16();
        let body = soon(response.into_body().collect()).await.expect("a body").to_bytes();
        (status, String::from_utf8(body.into()).expect("text"))
    }

    /// Sends an extended CONNECT, and returns the response.
    async fn connect(&self, path: &str, protocol: &'static str, version: &str) -> Response<Incoming> {
        let request = Self::handshake(path, protocol, version).body(Empty::new()).expect("a request");
        self.send_connect(request).await
    }

    async fn send_connect(&self, request: Request<Empty<Bytes>>) -> Response<Incoming> {
        // The client must not send an extended CONNECT before it has received the server's settings.
        self.get("/").await;
        self.send(request).await.expect("a response")
    }

    fn handshake(path: &str, protocol: &'static str, version: &str) -> request::Builder {
        Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://test{path}"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", version)
            .header("sec-websocket-protocol", "ocpp1.6")
    }

    /// Opens a session, and returns the station.
    async fn enter(&self, path: &str) -> MultiplexedStation {
        let response = self.connect(path, "websocket", "13").await;
        assert_eq!(response.status(), 200, "{response:?}");
        for name in ["upgrade", "connection", "sec-websocket-accept", "content-length"] {
            assert!(!response.headers().contains_key(name), "{response:?}");
        }
        let protocol = response.headers().get("sec-websocket-protocol");
        let protocol = protocol.map(|protocol| protocol.to_str().expect("a token").to_owned());
        let upgraded = TokioIo::new(soon(hyper::upgrade::on(response)).await.expect("a stream"));
        Station { ws: WebSocketStream::from_raw_socket(upgraded, Role::Client, None).await, protocol }
    }
}

type MultiplexedStation = Station<TokioIo<hyper::upgrade::Upgraded>>;

/// The client end of an in-memory connection that `server` serves, and a future that ends with the connection.
fn connect(server: &RpcServer) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = server.clone();
    let serving = tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
    (near, async { serving.await.expect("no panic") })
}

/// Reads an HTTP/2 frame, and returns its type and payload.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.expect("a frame");
    (head[3], payload)
}

/// Reads the initial SETTINGS frame of a server.
async fn settings(stream: &mut (impl AsyncRead + Unpin)) -> Vec<(u16, u32)> {
    let (kind, payload) = frame(stream).await;
    assert_eq!(kind, 4);
    let setting = |bytes: &[u8]| {
        let value = bytes[2..].try_into().expect("four bytes");
        (u16::from_be_bytes([bytes[0], bytes[1]]), u32::from_be_bytes(value))
    };
    payload.chunks_exact(6).map(setting).collect()
}

// One port.

#[tokio::test]
async fn application_and_stations_share_port_with_either_version() {
    let server = builder().build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    assert_eq!(http2.get("/hello/one").await, (200, "one by HTTP/2.0".to_owned()));
    let mut client = Client::dial(listener.local_addr()).await;
    let response = client.ask("GET /hello/two HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(response.body, "two by HTTP/1.1");
    let response = client.ask(&offering("/ocpp/CP", "ocpp1.6")).await;
    let mut station = client.upgraded(&response).await;
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP"}]"#);
    assert_eq!(http2.get("/hello/three").await, (200, "three by HTTP/2.0".to_owned()));
    // The path of the stations serves only handshakes.
    assert_eq!(http2.get("/ocpp/CP").await.0, 400);
}

#[tokio::test]
async fn head_sent_byte_by_byte_is_read_as_http_1() {
    let server = builder().build().expect("valid settings");
    for head in ["PRI * HTTP/1.1\r\nHost: test\r\n\r\n", "PUT / HTTP/1.1\r\nHost: test\r\n\r\n"] {
        let (near, far) = tokio::io::duplex(1);
        let server = server.clone();
        tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
        let response = Client::over(near).ask(head).await;
        assert_eq!((response.status, response.header("content-length")), (404, "0"), "{head}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn alpn_selects_http_version() {
    use crate::tls::{Authority, alpn, tls_to};
    let authority = Authority::new();
    let tls = ocpp_rpc::tls::ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate());
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let listening = server.bind("127.0.0.1:0").tls(tls.build().expect("valid settings")).app(app(&server)).serve();
    let listener = listening.await.expect("a port");
    let address = listener.local_addr();

    let stream = tls_to(address, alpn(&authority, &["http/1.1", "h2"])).await.expect("a stream");
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    let http2 = Multiplexed::over(stream).await;
    assert_eq!(http2.get("/hello/one").await, (200, "one by HTTP/2.0".to_owned()));
    let mut station = http2.enter("/ocpp/CP-2").await;
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP-2"}]"#);
    assert!(server.session("CP-2").expect("registered").tls().is_some());

    for offered in [&["http/1.1"][..], &[]] {
        let stream = tls_to(address, alpn(&authority, offered)).await.expect("a stream");
        assert_eq!(stream.get_ref().1.alpn_protocol(), offered.first().map(|offer| offer.as_bytes()));
        let mut client = Client::over(stream);
        let response = client.ask(&offering("/ocpp/CP-1", "ocpp1.6")).await;
        let mut station = client.upgraded(&response).await;
        assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP-1"}]"#);
    }
}

// Limits.

#[tokio::test(start_paused = true)]
async fn partial_preface_or_no_request_ends_at_handshake_deadline() {
    let server = builder().handshake_timeout(10 * SECOND).build().expect("valid settings");
    let first_start = Instant::now();
    for (bytes, at_most) in [(&b""[..], 10), (&PREFACE[..17], 10), (PREFACE, 20)] {
        let (mut stream, served) = connect(&server);
        stream.write_all(bytes).await.expect("open");
        let start = Instant::now();
        served.await;
        let took = start.elapsed();
        assert!(took >= 9 * SECOND && took <= (at_most + 1) * SECOND, "{took:?} of {bytes:?}");
    }
    assert!(first_start.elapsed() < 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn connection_idle_after_response_is_closed() {
    let server = builder().handshake_timeout(10 * SECOND).build().expect("valid settings");
    let (stream, served) = connect(&server);
    let http2 = Multiplexed::over(stream).await;
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(http2.get("/").await.0, 404);
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(http2.get("/").await.0, 404);
    let start = Instant::now();
    // The client closes when it receives GOAWAY.
    served.await;
    let took = start.elapsed();
    assert!(took >= 9 * SECOND && took <= 11 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn vanished_client_is_detected_during_response() {
    let server = builder().build().expect("valid settings");
    let dropped = Arc::new(Notify::new());
    let on_drop = dropped.clone();
    let application = tower::service_fn(move |_: Request<RequestBody>| {
        let guard = NotifyOnDrop(on_drop.clone());
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let (mut stream, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move { server.serve_connection_with(far, ConnectionInfo::new(), application).await });
    stream.write_all(PREFACE).await.expect("open");
    stream.write_all(&headers(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])).await.expect("open");
    // The stream stays open, and the client no longer acknowledges pings.
    let start = Instant::now();
    dropped.notified().await;
    assert!(start.elapsed() <= 60 * SECOND, "{:?}", start.elapsed());
}

/// Notifies when it is dropped.
struct NotifyOnDrop(Arc<Notify>);

impl Drop for NotifyOnDrop {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A HEADERS frame of a request without a body, on stream 1.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let short = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
    // Literals without indexing (RFC 7541 §6.2.2).
    let literal = |&(name, value): &(&str, &str)| {
        [&[0, short(name)], name.as_bytes(), &[short(value)], value.as_bytes()].concat()
    };
    let block: Vec<u8> = fields.iter().flat_map(literal).collect();
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [&[0, length[0], length[1], 1, 5, 0, 0, 0, 1], &block[..]].concat()
}

#[tokio::test]
async fn head_limits_and_stream_limit_apply() {
    let server = builder().max_head_size(8 << 10).max_headers(10).build().expect("valid settings");
    let (mut stream, _served) = connect(&server);
    stream.write_all(PREFACE).await.expect("open");
    let settings = soon(settings(&mut stream)).await;
    assert!(settings.contains(&(3, 100)) && settings.contains(&(6, 8 << 10)), "{settings:?}");

    let http2 = Multiplexed::over(connect(&server).0).await;
    let with = |lines: usize, value: &str| {
        let mut request = Request::get("http://test/").body(Empty::new()).expect("a request");
        for line in 0..lines {
            let name = http::HeaderName::try_from(format!("x-{line}")).expect("a name");
            request.headers_mut().insert(name, value.parse().expect("a value"));
        }
        request
    };
    for (lines, value, status) in [(10, "x", 404), (11, "x", 431), (9, &*"x".repeat(1000), 431), (1, "x", 404)] {
        let response = http2.send(with(lines, value)).await.expect("a response");
        assert_eq!(response.status(), status, "{lines} lines of {} bytes", value.len());
    }
}

#[tokio::test]
async fn panic_ends_only_its_own_request() {
    async fn panics() -> &'static str {
        panic!("intended by this test")
    }
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let app = app(&server).route("/panics", get(panics));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let mut station = http2.enter("/ocpp/CP").await;
    let request = Request::get("http://test/panics").body(Empty::new()).expect("a request");
    assert!(http2.send(request).await.is_err());
    assert_eq!(http2.get("/hello/one").await.0, 200);
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP"}]"#);
}

// Closing.

#[tokio::test]
async fn close_waits_for_responses_and_drops_endless_streams() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let (gate, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (open, on_drop) = (gate.clone(), dropped.clone());
    let wait = async move |Path(what): Path<String>| {
        let _guard = NotifyOnDrop(on_drop.clone());
        entered.send(()).expect("a test");
        match &*what {
            "ever" => std::future::pending().await,
            _ => open.notified().await,
        }
        "x".repeat(200_000)
    };
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/wait/{what}", get(wait));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let address = listener.local_addr();
    let (one, other) = (Multiplexed::dial(address).await, Multiplexed::dial(address).await);
    let response = tokio::spawn(async move { one.get("/wait/awhile").await });
    soon(entries.recv()).await.expect("an entry");
    let request = Request::get("http://test/wait/ever").body(Empty::new()).expect("a request");
    let never = tokio::spawn(async move { other.send(request).await });
    soon(entries.recv()).await.expect("an entry");

    let start = Instant::now();
    let closing = tokio::spawn(listener.close(Close::going_away()));
    while !server.is_closing() {
        tokio::task::yield_now().await;
    }
    gate.notify_one();
    let (status, body) = response.await.expect("no panic");
    assert_eq!((status, body.len()), (200, 200_000));
    soon(dropped.notified()).await;
    soon(closing).await.expect("no panic");
    soon(dropped.notified()).await;
    assert!(never.await.expect("no panic").is_err());
    assert!(start.elapsed() < 9 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn server_close_drops_endless_streams_of_foreign_service() {
    let server = builder().build().expect("valid settings");
    let (near, far) = tokio::io::duplex(64 << 10);
    let dropped = Arc::new(Notify::new());
    let (entered, mut entries) = mpsc::unbounded_channel();
    let on_drop = dropped.clone();
    let application = tower::service_fn(move |_: Request<RequestBody>| {
        let guard = NotifyOnDrop(on_drop.clone());
        entered.send(()).expect("a test");
        async move {
            let _guard = guard;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let serving = server.clone();
    tokio::spawn(async move { serving.serve_connection_with(far, ConnectionInfo::new(), application).await });
    let http2 = Multiplexed::over(near).await;
    let never = tokio::spawn(async move {
        let request = Request::get("http://test/").body(Empty::new()).expect("a request");
        http2.send(request).await
    });
    entries.recv().await.expect("an entry");
    soon(server.close(Close::going_away())).await;
    dropped.notified().await;
    assert!(never.await.expect("no panic").is_err());
}

#[tokio::test]
async fn b80_station_over_http_2_is_compressed() {
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let request = Multiplexed::handshake("/ocpp/CP", "websocket", "13").header("sec-websocket-extensions", OFFER);
    let response = http2.send_connect(request.body(Empty::new()).expect("a request")).await;
    assert_eq!(
        response.headers().get("sec-websocket-extensions").expect("agreed"),
        "permessage-deflate; client_max_window_bits=11"
    );
    let upgraded = TokioIo::new(soon(hyper::upgrade::on(response)).await.expect("a stream"));
    let mut station = Peer::new(Client::over(upgraded), true);
    assert_eq!(station.ask(WHO).await, r#"[3,"1",{"who":"CP"}]"#);
    assert!(server.session("CP").expect("registered").info().compression().is_some());
}

#[tokio::test]
async fn close_ends_sessions_and_their_connection() {
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let (mut one, mut other) = (http2.enter("/ocpp/CP-1").await, http2.enter("/ocpp/CP-2").await);
    let closing = tokio::spawn(listener.close(Close::restart()));
    assert_eq!(soon(one.closed()).await.0, 1012);
    assert_eq!(soon(other.closed()).await.0, 1012);
    drop((one, other));
    let report = soon(closing).await.expect("no panic");
    assert_eq!((report.clean, report.forced), (2, 0));
    assert!(http2.send(Request::get("http://test/").body(Empty::new()).expect("a request")).await.is_err());
}

#[tokio::test]
async fn sessions_outlive_dropped_listener() {
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let mut station = http2.enter("/ocpp/CP").await;
    drop(listener);
    // Wait until the client has received GOAWAY and rejects new streams.
    while http2.send(Request::get("http://test/").body(Empty::new()).expect("a request")).await.is_ok() {}
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP"}]"#);
}

// Stations.

#[tokio::test]
async fn stations_share_connection_and_close_independently() {
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let mut one = http2.enter("/ocpp/CP-1").await;
    let mut other = http2.enter("/extracted/CP-2").await;
    assert_eq!((one.protocol.as_deref(), other.protocol.as_deref()), (Some("ocpp1.6"), Some("ocpp1.6")));
    for (station, identity) in [(&mut one, "CP-1"), (&mut other, "CP-2")] {
        assert_eq!(soon(station.ask(WHO)).await, format!(r#"[3,"1",{{"who":"{identity}"}}]"#));
        let session = server.session(identity).expect("registered");
        assert!(session.remote_address().is_some());
        let call = tokio::spawn(async move { session.call::<Value>("Ask", &json!({"of": identity})).await });
        let (id, call_in) = soon(station.receive_call()).await;
        assert_eq!(call_in, json!(["Ask", {"of": identity}]));
        station.send(format!(r#"[3,"{id}",{{"from":"{identity}"}}]"#)).await;
        assert_eq!(call.await.expect("no panic").expect("a response"), json!({"from": identity}));
    }
    let session = server.session("CP-1").expect("registered");
    one.close(3000, "enough").await;
    assert_eq!(soon(session.closed()).await.code, 3000);
    assert!(server.session("CP-1").is_none());
    assert_eq!(soon(other.ask(WHO)).await, r#"[3,"1",{"who":"CP-2"}]"#);
    // A large message exceeds the flow-control windows in both directions.
    let session = server.session("CP-2").expect("registered");
    let large = json!({"x": "x".repeat(900_000)});
    let call =
        tokio::spawn(async move { session.call::<Value>("Echo", &large).await.map(|response| (response, large)) });
    let (id, call_in) = soon(other.receive_call()).await;
    other.send(format!(r#"[3,"{id}",{}]"#, call_in[1])).await;
    let (response, large) = soon(call).await.expect("no panic").expect("a response");
    assert!(response == large);
    // The closed station can open a new session.
    let mut again = http2.enter("/ocpp/CP-1").await;
    assert_eq!(soon(again.ask(WHO)).await, r#"[3,"1",{"who":"CP-1"}]"#);
}

#[tokio::test]
async fn sessions_end_when_their_connection_is_lost() {
    let server = builder().websockets_over_http2(true).build().expect("valid settings");
    let (near, served) = connect(&server);
    let (mut pipe, end) = tokio::io::duplex(64 << 10);
    let forwarding = tokio::spawn(async move {
        let mut near = near;
        tokio::io::copy_bidirectional(&mut pipe, &mut near).await
    });
    let http2 = Multiplexed::over(end).await;
    let stations = [http2.enter("/CP-1").await, http2.enter("/CP-2").await];
    let mut sessions = server.sessions();
    assert_eq!(sessions.len(), 2);
    forwarding.abort();
    soon(served).await;
    for session in sessions.drain(..) {
        let closed = soon(session.closed()).await;
        assert_eq!((closed.code, closed.cause), (1006, CloseCause::Transport));
    }
    drop(stations);
}

#[tokio::test]
async fn extended_connect_is_checked_like_other_handshakes() {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "unknown" => Err(Reject::unauthorized()),
        _ => Ok(Accept::new()),
    };
    let server = builder().websockets_over_http2(true).auth(authenticator).build().expect("valid settings");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    for (path, protocol, version, status) in [
        ("/ocpp/CP", "connect-udp", "13", 501),
        ("/ocpp/CP", "websocket", "8", 400),
        ("/ocpp/%ff", "websocket", "13", 404),
        ("/ocpp/unknown", "websocket", "13", 401),
        ("/extracted/CP", "websocket", "8", 400),
        ("/hello/CP", "websocket", "13", 405),
    ] {
        let response = http2.connect(path, protocol, version).await;
        assert_eq!(response.status(), status, "{path} {protocol} {version}");
        assert_eq!(response.headers().contains_key("sec-websocket-version"), version == "8");
    }
    assert!(server.sessions().is_empty());
    http2.enter("/ocpp/CP").await;
}

#[tokio::test]
async fn client_without_common_protocol_over_http_2_is_closed() {
    let server = builder().protocols(["ocpp2.1"]).websockets_over_http2(true).build().expect("valid settings");
    let http2 = Multiplexed::over(connect(&server).0).await;
    let mut station = http2.enter("/CP").await;
    assert_eq!(station.protocol, None);
    assert_eq!(soon(station.closed()).await, (1002, "no common subprotocol".to_owned()));
    assert!(server.session("CP").is_none());
}

#[tokio::test]
async fn websockets_over_http_2_require_the_option() {
    for is_on in [false, true] {
        let server = builder().websockets_over_http2(is_on).build().expect("valid settings");
        let (mut stream, _served) = connect(&server);
        stream.write_all(PREFACE).await.expect("open");
        let settings = soon(settings(&mut stream)).await;
        assert_eq!(settings.contains(&(8, 1)), is_on, "{settings:?}");
        let connect = headers(&[
            (":method", "CONNECT"),
            (":protocol", "websocket"),
            (":scheme", "http"),
            (":authority", "test"),
            (":path", "/CP"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-protocol", "ocpp1.6"),
        ]);
        stream.write_all(&connect).await.expect("open");
        // The server sends either a HEADERS frame or a RST_STREAM frame.
        let kind = loop {
            if let (kind @ (1 | 3), _) = soon(frame(&mut stream)).await {
                break kind;
            }
        };
        assert_eq!(kind == 1, is_on);
    }
    // The service refuses such requests even if another listener allows the extended CONNECT.
    let server = builder().build().expect("valid settings");
    let (near, far) = tokio::io::duplex(64 << 10);
    let service = hyper_util::service::TowerToHyperService::new(server.clone());
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(far), service);
    tokio::spawn(connection);
    let http2 = Multiplexed::over(near).await;
    assert_eq!(http2.connect("/CP", "websocket", "13").await.status(), 501);
}

#[tokio::test(start_paused = true)]
async fn b65_stalled_body_ends_its_stream_and_leaves_sessions_open() {
    // The station answers no pings while the test waits.
    let options = Options::server().ping_interval(None);
    let server = builder().websockets_over_http2(true).options(options).build().expect("valid settings");
    let read = axum::routing::post(async |body: Bytes| format!("{} bytes", body.len()));
    let endless = || futures_util::stream::repeat(Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1000])));
    let app = app(&server)
        .route("/read", read)
        .route("/endless", get(async move || axum::body::Body::from_stream(endless())));
    let (near, far) = tokio::io::duplex(64 << 10);
    let serving = server.clone();
    let served = tokio::spawn(async move { serving.serve_connection_with(far, ConnectionInfo::new(), app).await });
    let http2 = Multiplexed::over(near).await;
    let mut station = http2.enter("/ocpp/CP-1").await;

    // The client takes the head and nothing of the body.
    let request = Request::get("http://test/endless").body(Empty::new()).expect("a request");
    let mut response = http2.send(request).await.expect("a response");
    let start = Instant::now();
    tokio::time::sleep(100 * SECOND).await;
    let broken = async {
        loop {
            match response.body_mut().frame().await {
                Some(Ok(_)) => {}
                other => return other,
            }
        }
    };
    assert!(matches!(broken.await, Some(Err(_))), "the stream must be reset");
    assert!(start.elapsed() < 101 * SECOND);
    assert_eq!(station.ask(WHO).await, r#"[3,"1",{"who":"CP-1"}]"#);
    // The connection takes no further requests, and ends with its last session.
    let request = Request::get("http://test/hello/one").body(Empty::new()).expect("a request");
    assert!(http2.send(request).await.is_err());
    station.close(1000, "").await;
    served.await.expect("no panic");
}

/// Serves a connection in memory with an application, and returns the client's end.
fn serve(server: &RpcServer, app: Router) -> DuplexStream {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = server.clone();
    tokio::spawn(async move { server.serve_connection_with(far, ConnectionInfo::new(), app).await });
    near
}

#[tokio::test(start_paused = true)]
async fn b50_request_may_await_the_close_of_the_server() {
    async fn stick() -> Result<(), Infallible> {
        std::future::pending().await
    }
    async fn stop(State(server): State<RpcServer>) -> String {
        let report = server.close(Close::going_away()).await;
        format!("{} clean, {} forced", report.clean, report.forced)
    }
    // A handler that never ends is dropped at the deadline, 2.1 s after the request.
    let cases = [("None", "1 clean, 0 forced", 0), ("Stick", "0 clean, 1 forced", 21)];
    let versions = [Version::HTTP_11, Version::HTTP_2];
    let cases = cases.iter().flat_map(|&case| versions.map(|version| (case, version)));
    for ((action, report, tenths), version) in cases {
        let (builder, router) = (builder(), RpcRouter::new().on("Stick", stick));
        let accept = move |_: Handshake| std::future::ready(Ok::<_, Reject>(Accept::new().router(router.clone())));
        let server = builder.auth(accept).websockets_over_http2(true).build().expect("valid settings");
        let app = app(&server).merge(Router::new().route("/stop", get(stop)).with_state(server.clone()));
        let http2 = Multiplexed::over(serve(&server, app.clone())).await;
        let mut station = http2.enter("/ocpp/CP").await;
        station.send(format!(r#"[2,"1","{action}",{{}}]"#)).await;
        station.ask(r#"[2,"2","None",{}]"#).await;
        let start = Instant::now();
        let ask = async {
            match version {
                Version::HTTP_2 => http2.get("/stop").await.1,
                _ => Client::over(serve(&server, app)).ask("GET /stop HTTP/1.1\r\nHost: test\r\n\r\n").await.body,
            }
        };
        let leave = async move { station.closed().await.0 };
        assert_eq!(tokio::join!(ask, leave), (report.to_owned(), 1001), "{version:?}");
        assert_eq!(start.elapsed().as_millis() / 100, tenths, "{version:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn b50_endless_responses_end_after_the_deadline_of_a_close_that_does_not_wait() {
    const GET: &str = "GET /endless HTTP/1.1\r\nHost: test\r\n\r\n";
    let server = builder().build().expect("valid settings");
    let endless = get(async || {
        axum::body::Body::from_stream(futures_util::stream::unfold((), async |()| {
            tokio::time::sleep(Duration::from_millis(100)).await;
            Some((Ok::<_, Infallible>(Bytes::from_static(b"x")), ()))
        }))
    });
    let app = Router::new().route("/endless", endless);
    let mut http1 = serve(&server, app.clone());
    http1.write_all(GET.as_bytes()).await.expect("open");
    let http2 = Multiplexed::over(serve(&server, app)).await;
    let request = Request::get("http://test/endless").body(Empty::new()).expect("a request");
    let mut response = http2.send(request).await.expect("a response");
    let start = Instant::now();
    server.close(Close::going_away()).await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    let ended = async {
        while http1.read_u8().await.is_ok() {}
        start.elapsed()
    };
    let reset = async {
        while let Some(Ok(_)) = response.body_mut().frame().await {}
        start.elapsed()
    };
    let (ended, reset) = tokio::join!(ended, reset);
    // The close timeout of 0.1 s, 2 s of the close, and 2 s for requests that awaited it.
    assert_eq!((ended.as_millis() / 100, reset.as_millis() / 100), (41, 41));
}
