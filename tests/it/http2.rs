//! HTTP/2 on the port of HTTP/1.1: applications by either, and charging stations that share a connection.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    extract::{Path, State},
    response::Response as Responder,
    routing::{any, get},
};
use bytes::Bytes;
use http::{Method, Request, Response, Version};
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
    server::{ConnectionInfo, Listener, RpcServerBuilder},
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
    support::{SECOND, Station},
    tcp::{Client, offering, soon},
};

const WHO: &str = r#"[2,"1","Who",{}]"#;

/// What a client of HTTP/2 begins with, and settings of it that say nothing.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// A server that tells its clients who they are.
fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        Ok(json!({"who": session.identity()}))
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
        .protocols(["ocpp2.0.1", "ocpp1.6"])
        .options(Options::server().close_timeout(Duration::from_millis(100)))
}

/// A server on a port, within an application.
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

/// A connection of HTTP/2.
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

    /// Status and body.
    async fn get(&self, path: &str) -> (u16, String) {
        let request = Request::get(format!("http://test{path}")).body(Empty::new()).expect("a request");
        let response = self.send(request).await.expect("an answer");
        assert_eq!(response.version(), Version::HTTP_2);
        let status = response.status().as_u16();
        let body = soon(response.into_body().collect()).await.expect("a body").to_bytes();
        (status, String::from_utf8(body.into()).expect("text"))
    }

    /// The answer to an extended CONNECT.
    async fn connect(&self, path: &str, protocol: &'static str, version: &str) -> Response<Incoming> {
        // A client asks once it has seen that it may.
        self.get("/").await;
        let request = Request::builder()
            .method(Method::CONNECT)
            .uri(format!("http://test{path}"))
            .extension(Protocol::from_static(protocol))
            .header("sec-websocket-version", version)
            .header("sec-websocket-protocol", "ocpp1.6")
            .body(Empty::new())
            .expect("a request");
        self.send(request).await.expect("an answer")
    }

    /// A session: its client's end.
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

/// One end of a connection in memory that `server` serves, and what ends with it.
fn connect(server: &RpcServer) -> (DuplexStream, impl Future<Output = ()>) {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = server.clone();
    let serving = tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
    (near, async { serving.await.expect("no panic") })
}

/// A frame of HTTP/2: its type, and what is in it.
async fn frame(stream: &mut (impl AsyncRead + Unpin)) -> (u8, Vec<u8>) {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.expect("a frame");
    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
    stream.read_exact(&mut payload).await.expect("a frame");
    (head[3], payload)
}

/// The settings that a server begins with.
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
async fn an_application_and_stations_are_served_on_one_port_by_either_version() {
    let server = builder().build().expect("sound");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    assert_eq!(http2.get("/hello/one").await, (200, "one by HTTP/2.0".to_owned()));
    let mut client = Client::dial(listener.local_addr()).await;
    let answer = client.ask("GET /hello/two HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(answer.body, "two by HTTP/1.1");
    let answer = client.ask(&offering("/ocpp/CP", "ocpp1.6")).await;
    let mut station = client.upgraded(&answer).await;
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP"}]"#);
    assert_eq!(http2.get("/hello/three").await, (200, "three by HTTP/2.0".to_owned()));
    // Where stations connect, there is nothing else.
    assert_eq!(http2.get("/ocpp/CP").await.0, 400);
}

#[tokio::test]
async fn a_head_that_comes_byte_by_byte_is_http_1_all_the_same() {
    let server = builder().build().expect("sound");
    for head in ["PRI * HTTP/1.1\r\nHost: test\r\n\r\n", "PUT / HTTP/1.1\r\nHost: test\r\n\r\n"] {
        let (near, far) = tokio::io::duplex(1);
        let server = server.clone();
        tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await });
        let answer = Client::over(near).ask(head).await;
        assert_eq!((answer.status, answer.header("content-length")), (404, "0"), "{head}");
    }
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn alpn_chooses_the_version_below_tls() {
    use crate::tls::{Authority, alpn, tls_to};
    let authority = Authority::new();
    let tls = ocpp_rpc::tls::ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate());
    let server = builder().websockets_over_http2(true).build().expect("sound");
    let listening = server.bind("127.0.0.1:0").tls(tls.build().expect("sound")).app(app(&server)).serve();
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
        let answer = client.ask(&offering("/ocpp/CP-1", "ocpp1.6")).await;
        let mut station = client.upgraded(&answer).await;
        assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP-1"}]"#);
    }
}

// Limits.

#[tokio::test(start_paused = true)]
async fn half_a_preface_and_a_connection_without_a_request_end_at_the_deadline() {
    let server = builder().handshake_timeout(10 * SECOND).build().expect("sound");
    let began = Instant::now();
    for (bytes, at_most) in [(&b""[..], 10), (&PREFACE[..17], 10), (PREFACE, 20)] {
        let (mut stream, served) = connect(&server);
        stream.write_all(bytes).await.expect("open");
        let start = Instant::now();
        served.await;
        let took = start.elapsed();
        assert!(took >= 9 * SECOND && took <= (at_most + 1) * SECOND, "{took:?} of {bytes:?}");
    }
    assert!(began.elapsed() < 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_silent_after_an_answer_is_told_to_go() {
    let server = builder().handshake_timeout(10 * SECOND).build().expect("sound");
    let (stream, served) = connect(&server);
    let http2 = Multiplexed::over(stream).await;
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(http2.get("/").await.0, 404);
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(http2.get("/").await.0, 404);
    let start = Instant::now();
    // A client that goes when it is told to.
    served.await;
    let took = start.elapsed();
    assert!(took >= 9 * SECOND && took <= 11 * SECOND, "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn a_client_that_has_vanished_is_missed_also_in_the_midst_of_an_answer() {
    let server = builder().build().expect("sound");
    let dropped = Arc::new(Notify::new());
    let on_drop = dropped.clone();
    let application = tower::service_fn(move |_: Request<Incoming>| {
        let gone = Gone(on_drop.clone());
        async move {
            let _gone = gone;
            std::future::pending::<Result<Response<Empty<Bytes>>, Infallible>>().await
        }
    });
    let (mut stream, far) = tokio::io::duplex(64 << 10);
    tokio::spawn(async move { server.serve_connection_with(far, ConnectionInfo::new(), application).await });
    stream.write_all(PREFACE).await.expect("open");
    stream.write_all(&headers(&[(":method", "GET"), (":scheme", "http"), (":path", "/")])).await.expect("open");
    // The stream stays open, and nobody answers pings any more.
    let start = Instant::now();
    dropped.notified().await;
    assert!(start.elapsed() <= 60 * SECOND, "{:?}", start.elapsed());
}

/// Tells when it is dropped.
struct Gone(Arc<Notify>);

impl Drop for Gone {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// A frame of a request's headers that are its end as well, of the first stream.
fn headers(fields: &[(&str, &str)]) -> Vec<u8> {
    let short = |text: &str| u8::try_from(text.len()).ok().filter(|length| *length < 127).expect("a short text");
    // Literals that nobody remembers (RFC 7541 §6.2.2).
    let literal = |&(name, value): &(&str, &str)| {
        [&[0, short(name)], name.as_bytes(), &[short(value)], value.as_bytes()].concat()
    };
    let block: Vec<u8> = fields.iter().flat_map(literal).collect();
    let length = u16::try_from(block.len()).expect("a short block").to_be_bytes();
    [&[0, length[0], length[1], 1, 5, 0, 0, 0, 1], &block[..]].concat()
}

#[tokio::test]
async fn the_limits_of_a_head_hold_and_streams_are_limited_too() {
    let server = builder().max_head_size(8 << 10).max_headers(10).build().expect("sound");
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
        let answer = http2.send(with(lines, value)).await.expect("an answer");
        assert_eq!(answer.status(), status, "{lines} lines of {} bytes", value.len());
    }
}

#[tokio::test]
async fn a_panic_ends_its_own_request_and_no_other() {
    async fn panics() -> &'static str {
        panic!("as the test wants it")
    }
    let server = builder().websockets_over_http2(true).build().expect("sound");
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
async fn a_close_waits_for_answers_under_way_and_drops_what_does_not_end() {
    let (entered, mut entries) = mpsc::unbounded_channel();
    let (gate, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let (open, gone) = (gate.clone(), dropped.clone());
    let wait = async move |Path(what): Path<String>| {
        let _gone = Gone(gone.clone());
        entered.send(()).expect("a test");
        match &*what {
            "ever" => std::future::pending().await,
            _ => open.notified().await,
        }
        "x".repeat(200_000)
    };
    let server = builder().build().expect("sound");
    let app = Router::new().route("/wait/{what}", get(wait));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let address = listener.local_addr();
    let (one, other) = (Multiplexed::dial(address).await, Multiplexed::dial(address).await);
    let answer = tokio::spawn(async move { one.get("/wait/awhile").await });
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
    let (status, body) = answer.await.expect("no panic");
    assert_eq!((status, body.len()), (200, 200_000));
    soon(dropped.notified()).await;
    soon(closing).await.expect("no panic");
    soon(dropped.notified()).await;
    assert!(never.await.expect("no panic").is_err());
    assert!(start.elapsed() < 9 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_drops_streams_that_do_not_end_whoever_serves_them() {
    let server = builder().build().expect("sound");
    let (near, far) = tokio::io::duplex(64 << 10);
    let dropped = Arc::new(Notify::new());
    let (entered, mut entries) = mpsc::unbounded_channel();
    let on_drop = dropped.clone();
    let application = tower::service_fn(move |_: Request<Incoming>| {
        let gone = Gone(on_drop.clone());
        entered.send(()).expect("a test");
        async move {
            let _gone = gone;
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
async fn a_close_ends_the_sessions_of_a_connection_and_the_connection() {
    let server = builder().websockets_over_http2(true).build().expect("sound");
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
async fn sessions_outlive_a_listener_that_is_dropped() {
    let server = builder().websockets_over_http2(true).build().expect("sound");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    let mut station = http2.enter("/ocpp/CP").await;
    drop(listener);
    // The client was told that there will be no more streams.
    while http2.send(Request::get("http://test/").body(Empty::new()).expect("a request")).await.is_ok() {}
    assert_eq!(soon(station.ask(WHO)).await, r#"[3,"1",{"who":"CP"}]"#);
}

// Stations.

#[tokio::test]
async fn stations_share_a_connection_and_part_one_by_one() {
    let server = builder().websockets_over_http2(true).build().expect("sound");
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
        assert_eq!(call.await.expect("no panic").expect("an answer"), json!({"from": identity}));
    }
    let session = server.session("CP-1").expect("registered");
    one.close(3000, "enough").await;
    assert_eq!(soon(session.closed()).await.code, 3000);
    assert!(server.session("CP-1").is_none());
    assert_eq!(soon(other.ask(WHO)).await, r#"[3,"1",{"who":"CP-2"}]"#);
    // A large message goes through the windows of the stream, both ways.
    let session = server.session("CP-2").expect("registered");
    let large = json!({"x": "x".repeat(900_000)});
    let call = tokio::spawn(async move { session.call::<Value>("Echo", &large).await.map(|answer| (answer, large)) });
    let (id, call_in) = soon(other.receive_call()).await;
    other.send(format!(r#"[3,"{id}",{}]"#, call_in[1])).await;
    let (answer, large) = soon(call).await.expect("no panic").expect("an answer");
    assert!(answer == large);
    // And the closed one comes back.
    let mut again = http2.enter("/ocpp/CP-1").await;
    assert_eq!(soon(again.ask(WHO)).await, r#"[3,"1",{"who":"CP-1"}]"#);
}

#[tokio::test]
async fn sessions_are_lost_with_their_connection() {
    let server = builder().websockets_over_http2(true).build().expect("sound");
    let (near, served) = connect(&server);
    let (mut pipe, end) = tokio::io::duplex(64 << 10);
    let carrying = tokio::spawn(async move {
        let mut near = near;
        tokio::io::copy_bidirectional(&mut pipe, &mut near).await
    });
    let http2 = Multiplexed::over(end).await;
    let stations = [http2.enter("/CP-1").await, http2.enter("/CP-2").await];
    let mut sessions = server.sessions();
    assert_eq!(sessions.len(), 2);
    carrying.abort();
    soon(served).await;
    for session in sessions.drain(..) {
        let closed = soon(session.closed()).await;
        assert_eq!((closed.code, closed.cause), (1006, CloseCause::Transport));
    }
    drop(stations);
}

#[tokio::test]
async fn a_connect_is_judged_like_any_other_handshake() {
    let hook = async |handshake: Handshake| match handshake.identity() {
        "stranger" => Err(Reject::unauthorized()),
        _ => Ok(Accept::new()),
    };
    let server = builder().websockets_over_http2(true).auth(hook).build().expect("sound");
    let listener = backend(&server).await;
    let http2 = Multiplexed::dial(listener.local_addr()).await;
    for (path, protocol, version, status) in [
        ("/ocpp/CP", "connect-udp", "13", 501),
        ("/ocpp/CP", "websocket", "8", 400),
        ("/ocpp/%ff", "websocket", "13", 404),
        ("/ocpp/stranger", "websocket", "13", 401),
        ("/extracted/CP", "websocket", "8", 400),
        ("/hello/CP", "websocket", "13", 405),
    ] {
        let answer = http2.connect(path, protocol, version).await;
        assert_eq!(answer.status(), status, "{path} {protocol} {version}");
        assert_eq!(answer.headers().contains_key("sec-websocket-version"), version == "8");
    }
    assert!(server.sessions().is_empty());
    http2.enter("/ocpp/CP").await;
}

#[tokio::test]
async fn who_has_no_common_protocol_is_told_over_http_2_as_well() {
    let server = builder().protocols(["ocpp2.1"]).websockets_over_http2(true).build().expect("sound");
    let http2 = Multiplexed::over(connect(&server).0).await;
    let mut station = http2.enter("/CP").await;
    assert_eq!(station.protocol, None);
    assert_eq!(soon(station.closed()).await, (1002, "no common subprotocol".to_owned()));
    assert!(server.session("CP").is_none());
}

#[tokio::test]
async fn without_the_option_there_are_no_websockets_over_http_2() {
    for is_on in [false, true] {
        let server = builder().websockets_over_http2(is_on).build().expect("sound");
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
        // An answer, or a reset.
        let kind = loop {
            if let (kind @ (1 | 3), _) = soon(frame(&mut stream)).await {
                break kind;
            }
        };
        assert_eq!(kind == 1, is_on);
    }
    // The same where somebody else lets such requests through.
    let server = builder().build().expect("sound");
    let (near, far) = tokio::io::duplex(64 << 10);
    let service = hyper_util::service::TowerToHyperService::new(server.clone());
    let connection = hyper::server::conn::http2::Builder::new(TokioExecutor::new())
        .enable_connect_protocol()
        .serve_connection(TokioIo::new(far), service);
    tokio::spawn(connection);
    let http2 = Multiplexed::over(near).await;
    assert_eq!(http2.connect("/CP", "websocket", "13").await.status(), 501);
}
