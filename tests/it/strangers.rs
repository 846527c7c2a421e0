//! Connections that hold a place at the server without using it.

use std::{convert::Infallible, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    response::sse::{Event, KeepAlive, Sse},
    routing::{get, post},
};
use futures_util::stream;
use ocpp_rpc::{
    RpcRouter, RpcServer,
    event::EventKind,
    server::{ConnectionInfo, RpcServerBuilder},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt, DuplexStream},
    time::{Instant, sleep},
};

use crate::{support::SECOND, tcp::head};

const GET: &str = "GET / HTTP/1.1\r\nHost: test\r\n\r\n";

fn builder() -> RpcServerBuilder {
    async fn ping() -> Result<(), Infallible> {
        Ok(())
    }
    RpcServer::builder(RpcRouter::new().on("Ping", ping))
}

/// An application that reads bodies, works for long, and sends long responses.
fn app() -> Router {
    async fn work(body: Bytes) -> String {
        sleep(90 * SECOND).await;
        format!("{} bytes", body.len())
    }
    let events = || stream::pending::<Result<Event, Infallible>>();
    Router::new()
        .route("/", get(async || "hello"))
        .route("/read", post(async |body: Bytes| format!("{} bytes", body.len())))
        .route("/work", post(work))
        .route("/large", get(async || vec![b'x'; 100_000]))
        .route(
            "/stream",
            get(async || Body::from_stream(stream::repeat(Ok::<_, Infallible>(Bytes::from("x".repeat(1000)))))),
        )
        .route("/events", get(async move || Sse::new(events())))
        .route(
            "/events/alive",
            get(async move || Sse::new(events()).keep_alive(KeepAlive::new().interval(15 * SECOND))),
        )
}

/// Returns the client's end of a connection in memory that `server` serves with the application.
fn connect(server: &RpcServer) -> DuplexStream {
    let (near, far) = tokio::io::duplex(1024);
    let server = server.clone();
    tokio::spawn(async move { server.serve_connection_with(far, ConnectionInfo::new(), app()).await });
    near
}

async fn send(stream: &mut DuplexStream, bytes: impl AsRef<[u8]>) {
    stream.write_all(bytes.as_ref()).await.expect("an open connection");
}

/// Reads a response whose end is this text.
async fn read_until(stream: &mut DuplexStream, end: &str) -> String {
    let mut read = Vec::new();
    while !read.ends_with(end.as_bytes()) {
        read.push(stream.read_u8().await.expect("a whole response"));
    }
    String::from_utf8(read).expect("text")
}

/// Reads until the server closes the connection, and returns the seconds that this takes.
async fn closed_after(stream: &mut DuplexStream) -> u64 {
    let start = Instant::now();
    let _ = stream.read_to_end(&mut Vec::new()).await;
    // A timer may fire a millisecond late.
    start.elapsed().as_secs()
}

/// Returns `true` if the server has closed the connection. Reads nothing.
async fn is_closed(stream: &mut DuplexStream) -> bool {
    stream.write_all(b"x").await.is_err()
}

#[tokio::test(start_paused = true)]
async fn b65_connection_without_request_ends_at_the_handshake_deadline() {
    let server = builder().build().expect("valid settings");
    let mut events = server.events();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for bytes in ["", "GET / HT", "PRI * HT", preface] {
        if bytes == preface && cfg!(not(feature = "http2")) {
            continue;
        }
        let mut stranger = connect(&server);
        send(&mut stranger, bytes).await;
        assert_eq!(closed_after(&mut stranger).await, 10, "{bytes:?}");
        let event = events.next().await.expect("an event");
        let EventKind::HandshakeRefused { reason, .. } = event.kind else { panic!("{event:?}") };
        assert_eq!(reason, "no request received: the handshake timed out", "{bytes:?}");
    }
    // Bytes do not extend the deadline.
    let mut stranger = connect(&server);
    let start = Instant::now();
    while !is_closed(&mut stranger).await {
        sleep(SECOND).await;
    }
    assert!([10, 11].contains(&start.elapsed().as_secs()), "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b65_connection_without_further_request_ends_after_a_minute() {
    let server = builder().handshake_timeout(3600 * SECOND).build().expect("valid settings");
    let mut stranger = connect(&server);
    for _ in 0..3 {
        send(&mut stranger, GET).await;
        read_until(&mut stranger, "hello").await;
        sleep(50 * SECOND).await;
    }
    // The head of the next request must be complete by then.
    send(&mut stranger, "GET /").await;
    assert_eq!(closed_after(&mut stranger).await, 10);
    // The time of a single handshake is shorter by default.
    let mut stranger = connect(&builder().build().expect("valid settings"));
    send(&mut stranger, GET).await;
    read_until(&mut stranger, "hello").await;
    assert_eq!(closed_after(&mut stranger).await, 10);
}

#[tokio::test(start_paused = true)]
async fn b65_request_body_without_progress_ends_its_connection() {
    for (timeout, seconds) in [(None, 30), (Some(5 * SECOND), 5)] {
        let server = match timeout {
            None => builder(),
            Some(timeout) => builder().body_timeout(timeout),
        };
        let server = server.build().expect("valid settings");
        let pace = Duration::from_secs(seconds - 1);
        for framing in ["Content-Length: 100", "Transfer-Encoding: chunked"] {
            let mut stranger = connect(&server);
            send(&mut stranger, format!("POST /read HTTP/1.1\r\nHost: test\r\n{framing}\r\n\r\n")).await;
            for part in ["1\r\nx\r\n"; 3] {
                sleep(pace).await;
                // Without chunks, this is a part of six bytes.
                send(&mut stranger, part).await;
            }
            assert_eq!(closed_after(&mut stranger).await, seconds, "{framing}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b65_application_may_work_for_longer_than_a_body_may_stall() {
    let server = builder().build().expect("valid settings");
    for body in ["Content-Length: 5\r\n\r\nhello", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"] {
        let mut client = connect(&server);
        for _ in 0..2 {
            send(&mut client, format!("POST /work HTTP/1.1\r\nHost: test\r\n{body}")).await;
            read_until(&mut client, "5 bytes").await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b65_response_that_is_not_read_ends_its_connection() {
    let server = builder().build().expect("valid settings");
    for path in ["/large", "/stream"] {
        let mut stranger = connect(&server);
        send(&mut stranger, format!("GET {path} HTTP/1.1\r\nHost: test\r\n\r\n")).await;
        // A slow reader is not disconnected.
        for _ in 0..10 {
            sleep(25 * SECOND).await;
            stranger.read_exact(&mut [0; 1000]).await.expect("an open connection");
        }
        let start = Instant::now();
        while !is_closed(&mut stranger).await {
            sleep(SECOND).await;
        }
        assert!([30, 31].contains(&start.elapsed().as_secs()), "{path}");
    }
    // Requests without end, whose responses fill all buffers.
    let mut stranger = connect(&server);
    let start = Instant::now();
    while stranger.write_all(GET.as_bytes()).await.is_ok() {}
    assert_eq!(start.elapsed().as_secs(), 30);
}

#[tokio::test(start_paused = true)]
async fn b65_server_sent_events_need_keep_alives() {
    let server = builder().build().expect("valid settings");
    let mut browser = connect(&server);
    send(&mut browser, "GET /events/alive HTTP/1.1\r\nHost: test\r\n\r\n").await;
    let start = Instant::now();
    while start.elapsed() < 600 * SECOND {
        browser.read_u8().await.expect("an open connection");
    }
    let mut browser = connect(&server);
    send(&mut browser, "GET /events HTTP/1.1\r\nHost: test\r\n\r\n").await;
    assert_eq!(closed_after(&mut browser).await, 30);

    let server = builder().body_timeout(None).build().expect("valid settings");
    let mut browser = connect(&server);
    send(&mut browser, "GET /events HTTP/1.1\r\nHost: test\r\n\r\n").await;
    read_until(&mut browser, "\r\n\r\n").await;
    sleep(3600 * SECOND).await;
    assert!(!is_closed(&mut browser).await);
}

#[tokio::test(start_paused = true)]
async fn b69_listener_refuses_requests_without_exactly_one_host() {
    let server = builder().build().expect("valid settings");
    for (host, status) in [("", 400), ("Host: a\r\nHost: a\r\n", 400), ("Host: a\r\n", 200)] {
        let mut client = connect(&server);
        send(&mut client, format!("GET / HTTP/1.1\r\n{host}\r\n")).await;
        let response = read_until(&mut client, "\r\n\r\n").await;
        assert!(response.starts_with(&format!("HTTP/1.1 {status} ")), "{host:?}: {response}");
    }
    // HTTP/1.0 has no such rule.
    let mut client = connect(&server);
    send(&mut client, "GET / HTTP/1.0\r\n\r\n").await;
    read_until(&mut client, "hello").await;
}

/// Real sockets. On other systems, 127.0.0.2 and its successors are not available.
#[cfg(target_os = "linux")]
mod sockets {
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

    use ocpp_rpc::{
        event::Events,
        server::{Listener, TrustedProxies},
    };
    use tokio::{
        net::{TcpSocket, TcpStream},
        sync::mpsc,
        task::JoinSet,
        time::interval,
    };

    use super::*;
    use crate::tcp::{Client, soon};

    const UNREAD: &str = "GET /stream HTTP/1.1\r\nHost: test\r\n\r\n";

    /// Read slowly.
    const TRICKLED_RESPONSE: &str = "GET /stream HTTP/1.1\r\nHost: test\r\nX-Slow: 1\r\n\r\n";

    /// Followed by a byte now and then.
    const TRICKLED_BODY: &str = "POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 1000000\r\n\r\n";

    /// Sent as often as the server accepts it, with responses that are read slowly.
    const PIPELINED: &str = "GET /large HTTP/1.1\r\nHost: test\r\n\r\n";

    async fn listen(builder: RpcServerBuilder) -> (Listener, Events) {
        let server = builder.build().expect("valid settings");
        let app = app().route_service("/ocpp/{identity}", server.clone());
        let socket = TcpSocket::new_v4().expect("a socket");
        // Connections inherit the size, so that a response that is not read soon fills it.
        socket.set_send_buffer_size(1).expect("a socket");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port");
        let socket = socket.listen(4096).expect("a port");
        (server.with_listener(socket).app(app).serve().await.expect("a listener"), server.events())
    }

    /// Connects from 127.0.0.`host`.
    async fn dial(listener: &Listener, host: u8) -> TcpStream {
        dial_address(listener.local_addr(), host).await.expect("a listener")
    }

    async fn dial_address(address: SocketAddr, host: u8) -> std::io::Result<TcpStream> {
        let socket = TcpSocket::new_v4()?;
        socket.set_recv_buffer_size(1)?;
        socket.bind(SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 0, 0, host)), 0))?;
        socket.connect(address).await
    }

    /// Sends a request from 127.0.0.`host`. Returns `None` if the server closes the connection instead of responding.
    async fn status(listener: &Listener, host: u8, request: &str) -> Option<u16> {
        let mut stream = dial(listener, host).await;
        stream.write_all(request.as_bytes()).await.ok()?;
        let mut line = [0; "HTTP/1.1 200".len()];
        stream.read_exact(&mut line).await.ok()?;
        str::from_utf8(&line[9..]).ok()?.parse().ok()
    }

    /// Asserts that a station gets in within seconds.
    async fn assert_station_enters(listener: &Listener) {
        assert_eq!(soon(status(listener, 100, &head("/ocpp/CP"))).await, Some(101));
    }

    #[tokio::test]
    async fn b65_longest_idle_connection_gives_way_to_a_newcomer() {
        let (listener, _) = listen(builder().max_connections(4).max_connections_per_address(4)).await;
        let mut idle = Vec::new();
        for _ in 0..4 {
            let mut client = Client::over(dial(&listener, 2).await);
            assert_eq!(client.ask(GET).await.status, 200);
            idle.push(client);
        }
        // The first has become the youngest.
        assert_eq!(idle[0].ask(GET).await.status, 200);
        assert_station_enters(&listener).await;
        assert!(idle.remove(1).rest().await.is_empty());
        for client in &mut idle {
            assert_eq!(client.ask(GET).await.status, 200);
        }
    }

    #[tokio::test]
    async fn b65_address_has_a_quarter_of_the_places() {
        let proxies = TrustedProxies::x_forwarded(["127.0.0.9"]).expect("an address");
        let (listener, mut events) = listen(builder().max_connections(8).trusted_proxies(proxies)).await;
        let mut first = Client::over(dial(&listener, 2).await);
        let mut second = Client::over(dial(&listener, 2).await);
        assert_eq!(first.ask(GET).await.status, 200);
        assert_eq!(second.ask(GET).await.status, 200);
        let third = dial(&listener, 2).await;
        let address = third.local_addr().expect("a socket");
        assert!(Client::over(third).rest().await.is_empty());
        let event = soon(events.next()).await.expect("an event");
        let EventKind::HandshakeRefused { status: None, reason, .. } = event.kind else { panic!("{event:?}") };
        assert_eq!((&*reason, event.remote_address), ("too many connections from this address", Some(address)));
        assert_station_enters(&listener).await;
        let mut proxied = Vec::new();
        for _ in 0..4 {
            let mut client = Client::over(dial(&listener, 9).await);
            assert_eq!(client.ask(GET).await.status, 200);
            proxied.push(client);
        }
        // A place is free again when its connection ends.
        drop(first);
        soon(async { while status(&listener, 2, GET).await.is_none() {} }).await;
    }

    #[tokio::test]
    async fn b65_station_gets_in_whatever_strangers_do() {
        let attacks = [
            "",
            "GET / HT",
            "PRI * HT",
            GET,
            // A body that never comes.
            "POST /read HTTP/1.1\r\nHost: test\r\nContent-Length: 100\r\n\r\nx",
            UNREAD,
            TRICKLED_RESPONSE,
            TRICKLED_BODY,
            PIPELINED,
        ];
        for bytes in attacks {
            const PLACES: usize = 64;
            let limits = builder().max_connections(PLACES).handshake_timeout(2 * SECOND).body_timeout(2 * SECOND);
            let (listener, _) = listen(limits).await;
            let address = listener.local_addr();
            let (sender, mut started) = mpsc::unbounded_channel();
            let mut strangers = JoinSet::new();
            for stranger in 0..PLACES {
                let (sender, host) = (sender.clone(), 2 + u8::try_from(stranger % 4).expect("small"));
                strangers.spawn(async move {
                    loop {
                        let Ok(mut stream) = dial_address(address, host).await else { continue };
                        let _ = stream.write_all(bytes.as_bytes()).await;
                        let _ = sender.send(());
                        let _ = hold(stream, bytes).await;
                    }
                });
            }
            for _ in 0..PLACES {
                soon(started.recv()).await.expect("a stranger");
            }
            for _ in 0..3 {
                assert_station_enters(&listener).await;
            }
            strangers.shutdown().await;
        }
    }

    /// Holds a connection until the server closes it.
    async fn hold(mut stream: TcpStream, bytes: &str) -> std::io::Result<()> {
        let mut pace = interval(Duration::from_millis(200));
        let mut read = [0; 1000];
        loop {
            pace.tick().await;
            match bytes {
                GET => stream.write_all(GET.as_bytes()).await?,
                PIPELINED => _ = stream.try_write(PIPELINED.as_bytes()),
                _ => {}
            }
            if [UNREAD, TRICKLED_BODY].contains(&bytes) {
                // Notices the end, and reads nothing.
                stream.write_all(b"x").await?;
            } else if stream.read(&mut read).await? == 0 {
                return Ok(());
            }
        }
    }
}
