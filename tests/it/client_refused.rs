//! A client whose server refuses it, breaks off its handshakes, or redirects it.

use std::{
    io::{self, ErrorKind},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use ocpp_rpc::{
    RpcClient, RpcRouter,
    client::{Backoff, ClientState, ConnectError, Reconnect, RpcClientBuilder, Target},
    close::{CloseCause, CloseInfo},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf, duplex},
    time::Instant,
};

use crate::{
    csms::{Dials, UPGRADE, becomes, client, connected, connected_once, connecting, reconnect},
    support::{SECOND, Station, serve, server},
};

/// The response of a server that does not accept the client.
#[derive(Clone, Copy, Debug)]
enum Answer<'a> {
    Text(&'a str),
    Protocol(&'static str),
    NoProtocol,
    Disconnect,
}

/// Answers the next dial.
async fn answer(dials: &mut Dials, answer: Answer<'_>) {
    match answer {
        Answer::Text(text) => drop(dials.answer(text).await),
        Answer::Protocol(protocol) => drop(dials.accept(protocol).await),
        Answer::NoProtocol => dials.accept_without_protocol().await,
        Answer::Disconnect => drop(dials.next().await),
    }
}

fn refusal(status: &str) -> String {
    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\n\r\n")
}

#[tokio::test(start_paused = true)]
async fn b55_no_refusal_is_final_after_the_first_connection() {
    let statuses =
        ["301 Moved", "400 Bad", "401 Unauthorized", "403 Forbidden", "404 Not Found", "500 Bad", "503 Busy"];
    let statuses = statuses.map(refusal);
    let wrong_accept = format!("{UPGRADE}Sec-WebSocket-Accept: d3Jvbmc=\r\n\r\n");
    let mut answers = vec![
        Answer::Text(&wrong_accept),
        Answer::Text("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: h2c\r\n\r\n"),
        Answer::Text("SSH-2.0-OpenSSH\r\n\r\n"),
        Answer::Protocol("ocpp2.0.1"),
        Answer::NoProtocol,
    ];
    answers.extend(statuses.iter().map(|status| Answer::Text(status)));
    for refused in answers {
        let (client, mut dials) = connected_once(reconnect()).await;
        let call = tokio::spawn(client.call::<Value>("Waiting", &()));
        let mut last = Instant::now();
        for waited in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            answer(&mut dials, refused).await;
            assert_eq!(last.elapsed().as_secs(), waited, "{refused:?}");
            last = Instant::now();
        }
        let mut csms = dials.accept("ocpp1.6").await;
        becomes(&client, ClientState::Open).await;
        csms.answer("Waiting").await;
        call.await.expect("no panic").expect("a response");
    }
}

#[tokio::test(start_paused = true)]
async fn b55_server_that_is_unreachable_is_dialled_with_the_waits_of_the_backoff() {
    let (_client, mut dials) = connected_once(reconnect()).await;
    let mut last = Instant::now();
    let refused = refusal("503 Busy");
    let refused = Answer::Text(&refused);
    for (waited, next) in [
        (1, Answer::Disconnect),
        (2, Answer::Disconnect),
        (4, refused),
        (8, refused),
        (16, Answer::Disconnect),
        (10, Answer::Disconnect),
        (10, refused),
        (20, refused),
    ] {
        answer(&mut dials, next).await;
        assert_eq!(last.elapsed().as_secs(), waited, "{next:?}");
        last = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn b55_wait_is_not_shorter_than_retry_after() {
    for (headers, waited) in [
        ("Retry-After: 90", 90),
        ("Retry-After: 86400", 3600),
        ("Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:51:07 GMT", 90),
        ("Retry-After: Fri, 01 Jan 2100 00:00:00 GMT", 3600),
        ("Retry-After: Sun, 06 Nov 1994 08:51:07 GMT", 2),
        ("Retry-After: 0", 2),
        ("Retry-After: later", 2),
    ] {
        let (_client, mut dials) = connected_once(reconnect()).await;
        drop(dials.answer(&format!("HTTP/1.1 503 Busy\r\n{headers}\r\nContent-Length: 0\r\n\r\n")).await);
        let last = Instant::now();
        let next = tokio::time::timeout(7200 * SECOND, dials.0.recv()).await;
        assert!(next.is_ok_and(|stream| stream.is_some()), "{headers}");
        assert_eq!(last.elapsed().as_secs(), waited, "{headers}");
    }
}

#[tokio::test(start_paused = true)]
async fn b55_client_gives_up_after_an_error_that_the_application_calls_final() {
    let [unauthorized, unavailable] = ["401 Unauthorized", "503 Busy"].map(refusal);
    let is_unauthorized = |error: &ConnectError| error.status().is_some_and(|status| status == 401);
    let is_protocol = |error: &ConnectError| matches!(error, ConnectError::Protocol { .. });
    for (policy, passing, last, reason) in [
        (
            reconnect().give_up_if(is_unauthorized),
            Answer::Text(&unavailable),
            Answer::Text(&unauthorized),
            "refused with HTTP status 401 Unauthorized",
        ),
        (
            reconnect().give_up_if(is_protocol),
            Answer::Text(&unauthorized),
            Answer::Protocol("ocpp2.0.1"),
            "the server chose an unexpected subprotocol: \"ocpp2.0.1\"",
        ),
    ] {
        let (client, mut dials) = connected_once(policy).await;
        let waiting = tokio::spawn(client.call::<Value>("Waiting", &()));
        answer(&mut dials, passing).await;
        answer(&mut dials, last).await;
        let closed = client.closed().await.expect("the client has run");
        assert_eq!((closed.code, closed.cause), (1006, CloseCause::GaveUp));
        assert!(closed.reason.contains(reason), "{closed}");
        assert_eq!(client.state(), ClientState::Closed);
        assert!(waiting.await.expect("no panic").expect_err("given up").is_retryable());
        assert!(dials.none());
    }
}

#[tokio::test(start_paused = true)]
async fn b53_refused_first_connect_is_retried_only_if_set() {
    let unauthorized = refusal("401 Unauthorized");
    for refused in [Answer::Text(&unauthorized), Answer::Protocol("ocpp2.1"), Answer::NoProtocol] {
        let (builder, mut dials) = client();
        let (client, attempt) = connecting(builder);
        answer(&mut dials, refused).await;
        attempt.await.expect("no panic").expect_err("refused");
        assert_eq!(client.state(), ClientState::Closed);
        tokio::time::sleep(3600 * SECOND).await;
        assert!(dials.none());

        let (builder, mut dials) = self::client();
        let (_client, attempt) = connecting(builder.reconnect(reconnect().retry_first_connect(true)));
        for _ in 0..3 {
            answer(&mut dials, refused).await;
        }
        // No protocol is settled yet.
        let _csms = dials.accept("ocpp2.0.1").await;
        attempt.await.expect("no panic").expect("connected");
    }
}

/// Refuses every dial for ten seconds, and returns the number of dials.
async fn dials_in_ten_seconds(mut dials: Dials, response: Option<&str>) -> usize {
    let mut count = 0;
    let dialling = async {
        loop {
            match response {
                Some(response) => drop(dials.answer(response).await),
                None => drop(dials.next().await),
            }
            count += 1;
        }
    };
    let _ = tokio::time::timeout(10 * SECOND, dialling).await;
    count
}

#[tokio::test(start_paused = true)]
async fn b57_client_waits_before_each_dial_whatever_is_set() {
    let shortest = Duration::from_nanos(1);
    let base = || RpcClient::builder("ws://csms.test", "CP");
    for backoff in [
        Backoff::exponential().min(Duration::ZERO),
        Backoff::exponential().min(Duration::ZERO).max(Duration::ZERO),
        Backoff::ocpp2(Duration::ZERO, Duration::ZERO, 5),
    ] {
        let error = base().reconnect(Reconnect::always().backoff(backoff.clone())).build().expect_err("zero");
        assert!(error.to_string().contains("zero"), "{backoff:?}: {error}");
    }
    for backoff in [
        Backoff::exponential().min(shortest).max(shortest),
        Backoff::exponential().min(shortest).max(shortest).jitter(1.0),
        Backoff::ocpp2(Duration::ZERO, shortest, 0),
    ] {
        let (_client, dials) = connected_once(reconnect().backoff(backoff.clone())).await;
        let count = dials_in_ten_seconds(dials, None).await;
        assert!((50..=101).contains(&count), "{backoff:?}: {count}");
    }
    // A redirect that leads to itself.
    let redirect = "HTTP/1.1 302 Found\r\nLocation: /ocpp/CP-1\r\nContent-Length: 0\r\n\r\n";
    let (builder, dials) = client();
    let (_client, _attempt) = connecting(builder.max_redirects(u32::MAX));
    let count = dials_in_ten_seconds(dials, Some(redirect)).await;
    assert!((50..=101).contains(&count), "{count}");
}

/// A stream that fails at the end of its input.
struct Failing(DuplexStream);

impl AsyncRead for Failing {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let filled = buf.filled().len();
        ready!(Pin::new(&mut self.0).poll_read(cx, buf))?;
        let is_end = buf.filled().len() == filled;
        Poll::Ready(if is_end { Err(io::Error::new(ErrorKind::ConnectionReset, "the cable broke")) } else { Ok(()) })
    }
}

impl AsyncWrite for Failing {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

/// A client that dials streams that fail instead of ending.
fn failing_client() -> (RpcClientBuilder, Dials) {
    let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
    let connector = move |_: Target| {
        let (near, far) = duplex(64 << 10);
        let dialled = sender.send(far).map(|()| Failing(near)).map_err(|_| ErrorKind::ConnectionRefused.into());
        async { dialled }
    };
    let (builder, _) = client();
    (builder.connector(connector), Dials(receiver))
}

#[tokio::test(start_paused = true)]
async fn b69_connection_lost_during_the_handshake_is_an_io_error() {
    for fails in [false, true] {
        for sent in
            [None, Some(""), Some("HTTP/1.1 101 Sw"), Some("HTTP/1.1 101 Switching Protocols\r\nConnection: Up")]
        {
            let (builder, mut dials) = if fails { failing_client() } else { client() };
            let (client, attempt) = connecting(builder);
            match sent {
                Some(text) => drop(dials.answer(text).await),
                None => drop(dials.next().await),
            }
            let error = attempt.await.expect("no panic").expect_err("lost");
            let ConnectError::Io(cause) = &error else { panic!("{sent:?}: {error:?}") };
            let text = error.to_string();
            if fails {
                assert_eq!(cause.kind(), ErrorKind::ConnectionReset, "{sent:?}");
                assert!(text.starts_with("cannot connect: ") && text.contains("the cable broke"), "{sent:?}: {text}");
            } else {
                assert_eq!(cause.kind(), ErrorKind::UnexpectedEof, "{sent:?}");
            }
            assert!(!text.contains("HTTP"), "{text}");
            assert_eq!(client.state(), ClientState::Closed);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b69_refusal_whose_body_does_not_come_has_its_status() {
    let head = "HTTP/1.1 401 Unauthorized\r\nX-Why: unpaid\r\n";
    for (rest, body) in [
        ("Content-Length: 10\r\n\r\n", ""),
        ("Content-Length: 10\r\n\r\nhalf", "half"),
        ("Transfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n", "half"),
        ("\r\nhalf", "half"),
    ] {
        for (timeout, waited) in [(30, 5), (2, 2)] {
            let (builder, mut dials) = client();
            let (_client, attempt) = connecting(builder.connect_timeout(timeout * SECOND));
            let start = Instant::now();
            let _stream = dials.answer(&format!("{head}{rest}")).await;
            match attempt.await.expect("no panic").expect_err("refused") {
                ConnectError::Refused { status, headers, body: received, .. } => {
                    assert_eq!(
                        (status.as_u16(), &headers["x-why"], &*received),
                        (401, &"unpaid".parse().expect("a value"), body.as_bytes())
                    );
                }
                other => panic!("{rest:?}: {other:?}"),
            }
            assert_eq!(start.elapsed().as_secs(), waited, "{rest:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b68_disconnect_has_the_text_of_the_transport_error() {
    let expected = CloseCause::Transport;
    let check = |closed: &CloseInfo| {
        assert_eq!((closed.code, &*closed.reason, closed.cause), (1006, "the cable broke", expected));
    };
    // At a client.
    let (builder, mut dials) = failing_client();
    let (client, csms) = connected(builder.reconnect(Reconnect::never()), &mut dials).await;
    drop(csms);
    check(&client.closed().await.expect("the client has run"));

    // At a server.
    let server = server(RpcRouter::new());
    let (near, far) = duplex(64 << 10);
    serve(&server, Failing(far));
    let station = Station::open(near, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    drop(station);
    check(&session.closed().await);
}
