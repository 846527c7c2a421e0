//! The client: what it makes of every kind of server, and what becomes of calls and handlers meanwhile.

use std::{
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{SinkExt, StreamExt};
use ocpp_rpc::{
    Accept, Backoff, CallError, Cause, ClientState, Close, ConnectError, Error, EventKind, Handshake, Options,
    Reconnect, Reject, RpcClient, RpcClientBuilder, RpcRouter, RpcServer, Target,
    extract::{CancellationToken, Params, Session, State},
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex},
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::{Instant, timeout},
};
use tokio_tungstenite::{
    WebSocketStream, accept_hdr_async,
    tungstenite::{
        Message,
        handshake::server::{Request, Response},
        http::HeaderValue,
        protocol::CloseFrame,
    },
};

use crate::support::serve;

const SECOND: Duration = Duration::from_secs(1);

/// The far ends of a client's dials, one after the other.
struct Dials(mpsc::UnboundedReceiver<DuplexStream>);

/// A client that dials into memory.
fn client() -> (RpcClientBuilder, Dials) {
    let (tell, told) = mpsc::unbounded_channel();
    let connector = move |_: Target| {
        let (near, far) = duplex(64 << 10);
        let dialled = tell.send(far).map(|()| near).map_err(|_| io::ErrorKind::ConnectionRefused.into());
        async { dialled }
    };
    let backoff = Backoff::exponential().jitter(0.0);
    let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1")
        .protocols(["ocpp2.0.1", "ocpp1.6"])
        .reconnect(Reconnect::always().backoff(backoff))
        .connector(connector);
    (client, Dials(told))
}

fn reconnect() -> Reconnect {
    Reconnect::always().backoff(Backoff::exponential().jitter(0.0))
}

/// A server's end of a WebSocket that says exactly what it is told to.
struct Csms(WebSocketStream<DuplexStream>);

impl Dials {
    async fn next(&mut self) -> DuplexStream {
        timeout(600 * SECOND, self.0.recv()).await.expect("a dial in ten minutes").expect("a client")
    }

    /// Accepts the next dial.
    async fn accept(&mut self, protocol: &'static str) -> Csms {
        let stream = self.next().await;
        #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
        let name = |_: &Request, mut response: Response| {
            response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
            Ok(response)
        };
        Csms(accept_hdr_async(stream, name).await.expect("a handshake"))
    }

    /// Answers the next dial with a text in place of a handshake.
    async fn answer(&mut self, text: &str) -> DuplexStream {
        let mut stream = self.next().await;
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await.expect("a head"));
        }
        let key = String::from_utf8_lossy(&head).into_owned();
        assert!(key.contains("sec-websocket-key: "), "{key}");
        stream.write_all(text.as_bytes()).await.expect("open");
        stream
    }

    fn none(&mut self) -> bool {
        self.0.try_recv().is_err()
    }
}

impl Csms {
    async fn receive(&mut self) -> Value {
        loop {
            match self.0.next().await.expect("open").expect("a message") {
                Message::Text(text) => return serde_json::from_str(&text).expect("JSON"),
                Message::Ping(_) | Message::Pong(_) => {}
                other => panic!("no text: {other:?}"),
            }
        }
    }

    /// Receives a call of this action and gives its id.
    async fn receive_call(&mut self, action: &str) -> String {
        let call = self.receive().await;
        assert_eq!((&call[0], call[2].as_str()), (&json!(2), Some(action)), "{call}");
        call[1].as_str().expect("an id").to_owned()
    }

    async fn answer(&mut self, action: &str) {
        let id = self.receive_call(action).await;
        self.send(json!([3, id, {"to": action}])).await;
    }

    async fn send(&mut self, message: Value) {
        self.0.send(Message::text(message.to_string())).await.expect("open");
    }

    async fn close(&mut self, code: u16, reason: &'static str) {
        let frame = CloseFrame { code: code.into(), reason: reason.into() };
        self.0.send(Message::Close(Some(frame))).await.expect("open");
    }

    async fn closed(&mut self) -> (u16, String) {
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

/// Waits for a state.
async fn becomes(client: &RpcClient, wanted: ClientState) {
    let mut states = client.states();
    let reached = timeout(3600 * SECOND, states.wait_for(|state| *state == wanted)).await;
    reached.unwrap_or_else(|_| panic!("never {wanted:?}")).expect("a client");
}

/// A client that connects in a task of its own, and the task.
fn connecting(client: RpcClientBuilder) -> (RpcClient, tokio::task::JoinHandle<Result<(), ConnectError>>) {
    let client = client.build().expect("sound settings");
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    (client, attempt)
}

/// A client that is connected, and the server's end.
async fn connected(client: RpcClientBuilder, dials: &mut Dials) -> (RpcClient, Csms) {
    let (client, attempt) = connecting(client);
    let csms = dials.accept("ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected");
    (client, csms)
}

async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

// Against our own server.

#[tokio::test]
async fn both_ends_call_each_other() {
    let server = RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]).build().expect("sound");
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.router(RpcRouter::new().on("Echo", echo)));
    serve(&server, dials.next().await);
    attempt.await.expect("no panic").expect("connected");
    assert_eq!((client.state(), client.protocol().as_deref()), (ClientState::Open, Some("ocpp1.6")));
    assert_eq!(client.call::<Value>("Echo", &json!({"a": 1})).await.expect("an answer"), json!({"a": 1}));
    let session = server.session("CP-1").expect("registered");
    assert_eq!(session.call::<Value>("Echo", &json!({"b": 2})).await.expect("an answer"), json!({"b": 2}));
    let closed = client.close(Close::new(1000).reason("bye")).await;
    assert_eq!((closed.code, closed.cause, client.state()), (1000, Cause::Local, ClientState::Closed));
    assert_eq!((session.closed().await.code, &*session.closed().await.reason), (1000, "bye"));
}

#[tokio::test]
async fn a_handshake_says_what_it_was_told_to() {
    let seen = Arc::new(Mutex::new(Vec::new()));
    let tell = seen.clone();
    let server = RpcServer::builder(RpcRouter::new())
        .protocols(["ocpp1.6"])
        .auth(move |handshake: Handshake| {
            let header = |name| handshake.headers().get(name).cloned();
            tell.lock().expect("no panic").push((
                handshake.identity().to_owned(),
                handshake.endpoint().to_owned(),
                handshake.query().map(str::to_owned),
                handshake.password(),
                header("host"),
                header("user-agent"),
                header("x-more"),
            ));
            async { Ok::<_, Reject>(Accept::new()) }
        })
        .build()
        .expect("sound");
    let (near, far) = duplex(4096);
    let near = Mutex::new(Some(near));
    serve(&server, far);
    let client = RpcClient::builder("ws://csms.test:8080/a/b/?x=1", "CP:1/ü")
        .protocols(["ocpp1.6"])
        .password([0, 0xff, b':'])
        .query("tag", "a&b")
        .header("x-more".parse().expect("a name"), HeaderValue::from_static("1"))
        .connector(move |target: Target| {
            assert_eq!((target.host(), target.port(), target.is_secure()), ("csms.test", 8080, false));
            let near = near.lock().expect("no panic").take();
            async { near.ok_or_else(|| io::ErrorKind::NotConnected.into()) }
        })
        .connect()
        .await
        .expect("connected");
    let seen = seen.lock().expect("no panic").pop().expect("a handshake");
    let text = |text| Some(HeaderValue::from_static(text));
    assert_eq!(seen.0, "CP:1/ü");
    assert_eq!((&*seen.1, seen.2.as_deref()), ("/a/b", Some("x=1&tag=a%26b")));
    assert_eq!(seen.3.as_deref(), Some(&[0, 0xff, b':'][..]));
    assert_eq!((seen.4, seen.6), (text("csms.test:8080"), text("1")));
    assert!(seen.5.expect("an agent").to_str().expect("text").starts_with("ocpp-rpc/"));
    assert!(!format!("{client:?}").contains("255"), "no password in Debug");
}

// The first connect.

const UPGRADE: &str = "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n";

#[tokio::test(start_paused = true)]
async fn what_is_no_websocket_server_is_an_error_and_not_dialled_again() {
    for (answer, expected) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", "refused with HTTP status 200"),
        ("HTTP/1.1 302 Found\r\nLocation: ws://other/\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 302"),
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 401"),
        ("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 404"),
        ("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n", "refused with HTTP status 503"),
        ("SSH-2.0-OpenSSH\r\n\r\n", "the server does not speak HTTP"),
        ("", "no connection in time"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upg", "no connection in time"),
        (&format!("{UPGRADE}Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n"), "the server does not speak WebSocket"),
        (&format!("{UPGRADE}\r\n"), "the server does not speak WebSocket"),
        ("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n", "does not speak WebSocket"),
    ] {
        let (builder, mut dials) = client();
        let (client, attempt) = connecting(builder);
        let start = Instant::now();
        let mut stream = dials.answer(answer).await;
        let error = attempt.await.expect("no panic").expect_err(answer);
        assert!(error.to_string().contains(expected), "{answer:?}: {error}");
        let due = if expected.contains("in time") { 30 } else { 0 };
        assert_eq!(start.elapsed().as_secs(), due, "{answer:?}");
        assert_eq!(client.state(), ClientState::Closed);
        assert_eq!(stream.read(&mut [0; 1]).await.expect("an end"), 0, "the socket is closed");
        assert!(dials.none(), "{answer:?}");
        assert!(matches!(client.call::<Value>("Any", &()).await, Err(Error::Closed)));
    }
}

#[tokio::test]
async fn a_server_that_leaves_in_the_handshake_is_an_error() {
    for read_first in [false, true] {
        let (builder, mut dials) = client();
        let (client, attempt) = connecting(builder);
        let stream = if read_first { dials.answer("HTTP/1.1 101 Sw").await } else { dials.next().await };
        drop(stream);
        let error = attempt.await.expect("no panic").expect_err("nobody there");
        assert!(matches!(error, ConnectError::Http(_)), "{error:?}");
        assert_eq!(client.state(), ClientState::Closed);
        assert!(dials.none());
    }
}

#[tokio::test]
async fn a_refusal_comes_with_status_headers_and_a_bounded_body() {
    let (builder, mut dials) = client();
    let (_client, attempt) = connecting(builder);
    let long = "x".repeat(100_000);
    let head = format!("HTTP/1.1 403 Forbidden\r\nX-Why: unpaid\r\nContent-Length: {}\r\n\r\n", long.len());
    let mut stream = dials.answer(&head).await;
    // The client may leave before it has heard it all.
    tokio::spawn(async move { drop(stream.write_all(long.as_bytes()).await) });
    match attempt.await.expect("no panic").expect_err("refused") {
        ConnectError::Refused { status, headers, body, .. } => {
            assert_eq!((status.as_u16(), body.len()), (403, 64 << 10));
            assert_eq!(headers["x-why"], "unpaid");
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_protocol_that_was_not_offered_or_none_is_an_error() {
    for (named, expected) in [("ocpp2.1", Some("ocpp2.1")), ("", Some(""))] {
        let (builder, mut dials) = client();
        let (_client, attempt) = connecting(builder);
        dials.accept(if named.is_empty() { "" } else { "ocpp2.1" }).await;
        match attempt.await.expect("no panic").expect_err("another protocol") {
            ConnectError::Protocol { named, .. } => assert_eq!(named.as_deref(), expected),
            other => panic!("{other:?}"),
        }
    }
    // Our own server finishes the handshake without a protocol before it closes.
    let server = RpcServer::builder(RpcRouter::new()).protocols(["acme"]).build().expect("sound");
    let (builder, mut dials) = client();
    let (_client, attempt) = connecting(builder);
    serve(&server, dials.next().await);
    let error = attempt.await.expect("no panic").expect_err("nothing in common");
    assert!(matches!(error, ConnectError::Protocol { named: None, .. }), "{error:?}");
}

#[tokio::test(start_paused = true)]
async fn the_first_connect_is_tried_again_where_that_is_wanted() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.reconnect(reconnect().first_connect_too()));
    let start = Instant::now();
    for waited in [0, 1, 3, 7, 15, 25, 35] {
        drop(dials.next().await);
        assert_eq!(start.elapsed().as_secs(), waited);
    }
    dials.accept("ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected in the end");
    drop(client);
}

// Calls and connections.

#[tokio::test(start_paused = true)]
async fn calls_wait_while_connecting_and_go_out_in_order() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    let stream = dials.next().await;
    let calls = ["A", "B", "C"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    let late = tokio::spawn(client.call::<Value>("Late", &()).within(2 * SECOND));
    let dropped = tokio::spawn(client.call::<Value>("Dropped", &()));
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(matches!(late.await.expect("no panic"), Err(Error::NeverSent)));
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    for action in ["A", "B", "C"] {
        csms.answer(action).await;
    }
    attempt.await.expect("no panic").expect("connected");
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    let more = timeout(20 * SECOND, csms.receive()).await;
    assert!(more.is_err(), "what was dropped or late is never sent: {more:?}");
}

async fn accept(stream: DuplexStream, protocol: &'static str) -> WebSocketStream<DuplexStream> {
    #[expect(clippy::result_large_err, reason = "tungstenite's signature")]
    let name = |_: &Request, mut response: Response| {
        response.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static(protocol));
        Ok(response)
    };
    accept_hdr_async(stream, name).await.expect("a handshake")
}

#[tokio::test(start_paused = true)]
async fn a_lost_connection_fails_what_was_written_and_keeps_what_waits() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let written = tokio::spawn(client.call::<Value>("Written", &()));
    csms.receive_call("Written").await;
    let waiting = ["A", "B"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    tokio::task::yield_now().await;
    drop(csms);
    assert!(written.await.expect("no panic").expect_err("lost").maybe_delivered());
    assert_eq!(client.state(), ClientState::Connecting);
    let during = tokio::spawn(client.call::<Value>("C", &()));
    let mut csms = dials.accept("ocpp1.6").await;
    for action in ["A", "B", "C"] {
        csms.answer(action).await;
    }
    for call in waiting.into_iter().chain([during]) {
        call.await.expect("no panic").expect("an answer");
    }
    becomes(&client, ClientState::Open).await;
}

#[tokio::test(start_paused = true)]
async fn handlers_live_on_and_answer_on_the_next_connection_or_not_at_all() {
    async fn wait(gone: CancellationToken, State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        gone.cancelled().await;
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(json!({"late": true}))
    }
    for keeps in [true, false] {
        for finished_offline in [true, false] {
            let gate = Arc::new(Semaphore::new(0));
            let router = RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo);
            let policy = if keeps { reconnect() } else { reconnect().drop_answers() };
            let (builder, mut dials) = client();
            let (client, mut csms) = connected(builder.router(router).reconnect(policy), &mut dials).await;
            csms.send(json!([2, "1", "Wait", {}])).await;
            csms.send(json!([2, "2", "Echo", {}])).await;
            assert_eq!(csms.receive().await, json!([3, "2", {}]));
            drop(csms);
            becomes(&client, ClientState::Connecting).await;
            if finished_offline {
                gate.add_permits(1);
            }
            let mut csms = dials.accept("ocpp1.6").await;
            // The id is free on this connection, whatever the old handler does.
            csms.send(json!([2, "1", "Echo", {}])).await;
            let mut seen = vec![csms.receive().await];
            gate.add_permits(1);
            csms.send(json!([2, "3", "Echo", {}])).await;
            while seen.last() != Some(&json!([3, "3", {}])) {
                seen.push(csms.receive().await);
            }
            if let Ok(more) = timeout(SECOND, csms.receive()).await {
                seen.push(more);
            }
            assert!(seen.contains(&json!([3, "1", {}])), "{seen:?}");
            assert_eq!(seen.contains(&json!([3, "1", {"late": true}])), keeps, "{seen:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_close_of_the_server_is_followed_by_a_reconnect() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    csms.close(1012, "update").await;
    assert_eq!(csms.closed().await, (1012, "update".to_owned()));
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("an answer");
    loop {
        if let EventKind::Disconnected(closed) = events.next().await.expect("more").kind {
            assert_eq!((closed.code, &*closed.reason, closed.cause), (1012, "update", Cause::Remote));
            break;
        }
    }
}

// Backing off.

#[tokio::test(start_paused = true)]
async fn a_server_that_accepts_and_closes_at_once_is_not_hammered() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder, &mut dials).await;
    drop(csms);
    let mut last = Instant::now();
    for waited in [1, 2, 4, 8, 10, 10] {
        drop(dials.accept("ocpp1.6").await);
        assert_eq!(last.elapsed().as_secs(), waited);
        last = Instant::now();
    }
    // A connection that lived for a while was a success.
    let csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    becomes(&client, ClientState::Connecting).await;
    let mut last = Instant::now();
    for waited in [1, 2, 4] {
        drop(dials.next().await);
        assert_eq!(last.elapsed().as_secs(), waited);
        last = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn reconnecting_is_given_up_where_it_cannot_help() {
    let unauthorized = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    let wrong = format!("{UPGRADE}Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n");
    for (answer, reason) in [
        (Some(unauthorized), "refused with HTTP status 401 Unauthorized"),
        (Some(&*wrong), "the Sec-WebSocket-Accept does not fit the key"),
        (None, "the server chose the subprotocol \"ocpp2.0.1\""),
    ] {
        let (builder, mut dials) = client();
        let (client, csms) = connected(builder, &mut dials).await;
        drop(csms);
        let waiting = tokio::spawn(client.call::<Value>("Waiting", &()));
        match answer {
            Some(answer) => drop(dials.answer(answer).await),
            None => drop(dials.accept("ocpp2.0.1").await),
        }
        let closed = client.closed().await.expect("a life");
        assert_eq!((closed.code, closed.cause), (1006, Cause::GaveUp));
        assert!(closed.reason.contains(reason), "{closed}");
        assert_eq!(client.state(), ClientState::Closed);
        assert!(waiting.await.expect("no panic").expect_err("given up").is_retryable());
        assert!(dials.none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_refusal_is_dialled_again_where_that_is_wanted() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(reconnect().even_if_refused()), &mut dials).await;
    drop(csms);
    for _ in 0..3 {
        dials.answer("HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").await;
    }
    let _csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_are_used_up() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(reconnect().attempts(2)), &mut dials).await;
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    drop(dials.next().await);
    drop(dials.next().await);
    drop(dials.next().await);
    assert_eq!(client.closed().await.expect("a life").cause, Cause::GaveUp);

    let (builder, mut dials) = connected_once(Reconnect::never()).await;
    assert_eq!(builder.closed().await.expect("a life").cause, Cause::Remote);
    assert!(dials.none());
}

/// A client whose only connection is lost.
async fn connected_once(policy: Reconnect) -> (RpcClient, Dials) {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(policy), &mut dials).await;
    drop(csms);
    (client, dials)
}

// Closing and connecting.

#[tokio::test(start_paused = true)]
async fn a_close_is_heard_in_every_state() {
    // Never connected at all.
    let (builder, _dials) = client();
    let idle = builder.build().expect("sound");
    assert_eq!(idle.close(Close::new(4000)).await.code, 4000);

    // Dialling for the first time.
    let (builder, mut dials) = client();
    let (first, attempt) = connecting(builder);
    let mut stream = dials.next().await;
    let start = Instant::now();
    let closed = first.close(Close::normal()).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "connection aborted", Cause::Local));
    assert!(matches!(attempt.await.expect("no panic"), Err(ConnectError::Aborted)));
    let mut head = Vec::new();
    stream.read_to_end(&mut head).await.expect("an end");

    // Backing off, and dialling again.
    for dialling in [false, true] {
        let (client, mut dials) = connected_once(reconnect()).await;
        becomes(&client, ClientState::Connecting).await;
        let _stream = match dialling {
            true => Some(dials.next().await),
            false => None,
        };
        let start = Instant::now();
        let waiting = tokio::spawn(client.call::<Value>("Waiting", &()));
        tokio::task::yield_now().await;
        let closed = client.close(Close::new(1000).reason("enough").after_pending()).await;
        assert_eq!((closed.code, &*closed.reason), (1000, "enough"));
        assert_eq!(start.elapsed().as_secs(), 0);
        assert!(waiting.await.expect("no panic").expect_err("closed").is_retryable());
        assert!(dials.none());
    }
    assert!(start.elapsed() < 5 * SECOND);
}

#[tokio::test]
async fn both_sides_see_a_close_of_the_client() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let (ours, theirs) = tokio::join!(client.close(Close::new(3001).reason("moving")), async {
        let seen = csms.closed().await;
        // The server is the one to close the stream (RFC 6455 §7.1.1).
        drop(csms);
        seen
    });
    assert_eq!(theirs, (3001, "moving".to_owned()));
    assert_eq!((ours.code, &*ours.reason, ours.cause), (3001, "moving", Cause::Local));
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn connect_joins_does_nothing_or_is_refused_and_works_again_after_a_close() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    let stream = dials.next().await;
    let joined = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    tokio::task::yield_now().await;
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    joined.await.expect("no panic").expect("connected");
    client.connect().await.expect("nothing to do");
    assert!(dials.none());

    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(Close::normal()).await }
    });
    becomes(&client, ClientState::Closing).await;
    assert!(matches!(client.connect().await, Err(ConnectError::Closing)));
    assert!(matches!(client.call::<Value>("Any", &()).await, Err(Error::Closing | Error::Closed)));
    csms.closed().await;
    drop(csms);
    closing.await.expect("no panic");

    // Another life, with another protocol and another identity.
    client.set_target("ws://csms.test/other", "CP-2").expect("sound");
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    let mut csms = dials.accept("ocpp2.0.1").await;
    attempt.await.expect("no panic").expect("connected");
    assert_eq!(client.peer().expect("a life").identity(), "CP-2");
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("an answer");
}

#[tokio::test]
async fn the_last_handle_takes_the_connection_with_it() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    let other = client.clone();
    drop(client);
    let call = tokio::spawn(other.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("an answer");
    drop(other);
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    while events.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn events_come_in_order() {
    let (builder, mut dials) = client();
    let client = builder.build().expect("sound");
    let mut events = client.events();
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    drop(dials.accept("ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    let mut seen = Vec::new();
    loop {
        let kind = events.next().await.expect("more").kind;
        seen.push(match kind {
            EventKind::Connecting => "connecting".to_owned(),
            EventKind::Opened { protocol, .. } => format!("open {}", protocol.expect("named")),
            EventKind::Disconnected(closed) => format!("disconnect {}", closed.code),
            EventKind::Closing => "closing".to_owned(),
            EventKind::Closed(closed) => format!("close {}", closed.code),
            _ => continue,
        });
        if seen.last().is_some_and(|last| last.starts_with("close ")) {
            break;
        }
    }
    let expected =
        ["connecting", "open ocpp1.6", "disconnect 1006", "connecting", "open ocpp1.6", "closing", "close 1000"];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn a_connector_that_panics_is_an_error_and_no_end_of_waiting() {
    let connector = |_: Target| async {
        assert_eq!(1, 2, "a bug of the user's");
        Err::<DuplexStream, _>(io::ErrorKind::Other.into())
    };
    let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1").connector(connector).build().expect("sound");
    for _ in 0..2 {
        assert!(matches!(client.connect().await, Err(ConnectError::Io(_))));
        assert_eq!(client.state(), ClientState::Closed);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_the_protocol_and_falls_silent_does_not_make_the_client_deaf() {
    for forced in [false, true] {
        let (builder, mut dials) = client();
        let (client, mut csms) = connected(builder, &mut dials).await;
        csms.0.send(Message::binary(vec![1])).await.expect("open");
        becomes(&client, ClientState::Connecting).await;
        // It still waits for the server's close frame.
        let start = Instant::now();
        let late = client.call::<Value>("Late", &()).within(SECOND).await;
        assert!(matches!(late, Err(Error::NeverSent)), "{late:?}");
        assert_eq!(start.elapsed().as_secs(), 1);
        if forced {
            client.close(Close::forced()).await;
            assert_eq!(start.elapsed().as_secs(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn connect_is_refused_from_the_moment_that_close_is_called() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut closing = Box::pin(client.close(Close::normal()));
    assert!(futures_util::poll!(&mut closing).is_pending());
    assert!(matches!(client.connect().await, Err(ConnectError::Closing)));
    let (_, seen) = tokio::join!(closing, async {
        let seen = csms.closed().await;
        drop(csms);
        seen
    });
    assert_eq!(seen.0, 1000);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_is_lost_while_a_close_waits_ends_as_it_did_and_is_not_dialled_again() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    let _call = tokio::spawn(client.call::<Value>("Any", &()));
    csms.receive_call("Any").await;
    let mut closing = Box::pin(client.close(Close::normal().after_pending()));
    assert!(futures_util::poll!(&mut closing).is_pending());
    becomes(&client, ClientState::Closing).await;
    drop(csms);
    let closed = closing.await;
    assert_eq!((closed.code, closed.cause), (1006, Cause::Remote));
    drop(client);
    while let Some(event) = events.next().await {
        assert!(!matches!(event.kind, EventKind::Disconnected(_) | EventKind::Connecting), "{:?}", event.kind);
    }
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn a_waiting_close_waits_for_answers_that_were_kept_from_an_earlier_connection() {
    async fn wait(State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(json!({"late": true}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let (builder, mut dials) = client();
    let router = RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo);
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    csms.send(json!([2, "1", "Wait", {}])).await;
    csms.send(json!([2, "2", "Echo", {}])).await;
    csms.receive().await;
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    let closing = tokio::spawn(async move { client.close(Close::normal().after_pending()).await });
    csms.send(json!([2, "3", "Echo", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "3", {}]));
    gate.add_permits(1);
    assert_eq!(csms.receive().await, json!([3, "1", {"late": true}]));
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    closing.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn events_end_with_the_client_also_when_it_was_closed_before() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    drop(client);
    while events.next().await.is_some() {}
}

// Changes at run time.

#[tokio::test(start_paused = true)]
async fn options_and_handlers_change_on_an_open_connection() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder.router(RpcRouter::new().on("Echo", echo)), &mut dials).await;
    let options = Options::client().call_concurrency(2).call_timeout(3 * SECOND).ping_interval(5 * SECOND);
    client.set_options(options).expect("sound");
    assert!(client.set_options(Options::client().call_concurrency(0)).is_err());
    let start = Instant::now();
    let calls = ["A", "B"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    csms.receive_call("A").await;
    csms.receive_call("B").await;
    for call in calls {
        assert!(call.await.expect("no panic").expect_err("silence").is_timeout());
    }
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(matches!(csms.0.next().await, Some(Ok(Message::Ping(_)))));
    assert_eq!(start.elapsed().as_secs(), 5);

    client.set_router(RpcRouter::new().on("New", echo));
    csms.send(json!([2, "1", "Echo", {}])).await;
    assert_eq!(csms.receive().await[0], 4);
    csms.send(json!([2, "2", "New", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "2", {}]));
}

#[tokio::test]
async fn a_session_asked_for_by_a_clients_handler_is_an_error_and_no_panic() {
    async fn session(_: Session) -> Result<(), Infallible> {
        Ok(())
    }
    let (builder, mut dials) = client();
    let (_client, mut csms) = connected(builder.router(RpcRouter::new().on("Any", session)), &mut dials).await;
    csms.send(json!([2, "1", "Any", {}])).await;
    assert_eq!(csms.receive().await[2], "InternalError");
}

#[test]
fn settings_that_could_never_work_are_refused() {
    for (endpoint, identity, why) in [
        ("http://csms.test", "CP", "neither ws:// nor wss://"),
        ("csms.test", "CP", "neither ws:// nor wss://"),
        ("ws://", "CP", "is no URL"),
        ("ws://user:secret@csms.test", "CP", "a user"),
        ("wss://csms.test", "CP", "TLS"),
        ("ws://csms.test", "", "identity"),
        ("ws://csms.test", "C\nP", "identity"),
    ] {
        let error = RpcClient::builder(endpoint, identity).build().expect_err(endpoint).to_string();
        assert!(error.contains(why), "{endpoint}: {error}");
    }
    let base = || RpcClient::builder("ws://csms.test", "CP");
    assert!(base().protocols(["a b"]).build().is_err());
    assert!(base().protocols(["a"]).dialect("b", ocpp_rpc::Dialect::OCPP_1_6).build().is_err());
    for own in ["host", "upgrade", "sec-websocket-extensions"] {
        let error = base().header(own.parse().expect("a name"), HeaderValue::from_static("x")).build();
        assert!(error.expect_err(own).to_string().contains(own));
    }
    assert!(base().connect_deadline(Duration::ZERO).build().is_err());
    assert!(base().options(Options::client().max_message_size(0)).build().is_err());
    assert!(base().reconnect(Reconnect::always().backoff(Backoff::exponential().factor(0.1))).build().is_err());
}

// Real sockets.

#[tokio::test]
async fn tcp_is_dialled_straight_or_through_a_proxy() {
    let server = RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]).build().expect("sound");
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let endpoint = format!("ws://localhost:{}/ocpp", listener.local_addr().port());

    // A proxy for one connection (RFC 9110 §9.3.6).
    let proxy = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let proxy_address = proxy.local_addr().expect("an address");
    let upstream = listener.local_addr();
    tokio::spawn(async move {
        let (mut near, _) = proxy.accept().await.expect("a client");
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(near.read_u8().await.expect("a head"));
        }
        assert!(head.starts_with(b"CONNECT localhost:"));
        let mut far = TcpStream::connect(upstream).await.expect("the server");
        near.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.expect("open");
        tokio::io::copy_bidirectional(&mut near, &mut far).await
    });
    let through_proxy = move |target: Target| async move {
        let mut stream = TcpStream::connect(proxy_address).await?;
        stream.write_all(format!("CONNECT {target} HTTP/1.1\r\n\r\n").as_bytes()).await?;
        let mut answer = [0; 19];
        stream.read_exact(&mut answer).await?;
        Ok(stream)
    };
    let base = || RpcClient::builder(&endpoint, "CP-1").protocols(["ocpp1.6"]);
    for builder in [base(), base().connector(through_proxy)] {
        let client = builder.connect().await.expect("connected");
        assert_eq!(client.call::<Value>("Echo", &json!({"a": 1})).await.expect("an answer"), json!({"a": 1}));
        client.close(Close::normal()).await;
    }
    listener.close(Close::going_away()).await;
    let error = base().connect().await.expect_err("nobody there");
    assert!(matches!(error, ConnectError::Io(_)), "{error:?}");
}
