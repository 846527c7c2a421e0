//! The client: how it stays connected, when it gives up, and in which order it tells.

use ocpp_rpc::{Cause, ClientState, Close, ConnectError, Error, EventKind, Reconnect};
use serde_json::Value;
use tokio::time::Instant;

use crate::{
    csms::{Csms, UPGRADE, accept, becomes, client, connected, connected_once, connecting, reconnect},
    support::SECOND,
};

#[tokio::test(start_paused = true)]
async fn b59_a_close_of_the_server_is_followed_by_a_reconnect() {
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

#[tokio::test(start_paused = true)]
async fn b57_a_server_that_accepts_and_closes_at_once_is_not_hammered() {
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
async fn b55_reconnecting_is_given_up_where_it_cannot_help() {
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
async fn b55_a_refusal_is_dialled_again_where_that_is_wanted() {
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
async fn b55_attempts_are_used_up() {
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

#[tokio::test(start_paused = true)]
async fn b54_connect_joins_does_nothing_or_is_refused_and_works_again_after_a_close() {
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

#[tokio::test(start_paused = true)]
async fn b59_events_come_in_order() {
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
