//! Pings, pongs and the time of the last received frame.

use futures_util::{FutureExt, SinkExt, StreamExt};
use ocpp_rpc::{Options, RpcRouter, close::CloseCause, event::EventKind};
use serde_json::json;
use tokio::{
    io::AsyncWriteExt,
    time::{Instant, advance, sleep},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{SECOND, Station, connected, echo, server, server_with};

#[tokio::test(start_paused = true)]
async fn b51_silent_peer_is_dropped_after_two_ping_intervals() {
    let server = server_with(RpcRouter::new(), Options::server().ping_interval(30 * SECOND));
    let (station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    // The station does not read, so it sends no pong.
    let closed = session.closed().await;
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::PingTimeout));
    let lived = start.elapsed();
    assert!((60 * SECOND..=91 * SECOND).contains(&lived), "{lived:?}");
    drop(station);
}

/// Sends a message every 20 s for ten minutes and never reads, so that it sends no pong.
async fn send_without_pongs(station: &mut Station) {
    for _ in 0..30 {
        let _ = station.ws.send(Message::text("")).await;
        advance(20 * SECOND).await;
    }
}

#[tokio::test(start_paused = true)]
async fn b03_peer_that_sends_but_no_pongs_stays_connected() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    send_without_pongs(&mut station).await;
    assert!(session.is_open());
    // Two silent intervals follow.
    let start = Instant::now();
    assert_eq!(session.closed().await.cause, CloseCause::PingTimeout);
    let lived = start.elapsed();
    assert!((40 * SECOND..=91 * SECOND).contains(&lived), "{lived:?}");
}

#[tokio::test(start_paused = true)]
async fn b03_required_pongs_drop_a_peer_that_only_sends() {
    for defers in [false, true] {
        let options = Options::server().require_pongs(true).activity_defers_pings(defers);
        let server = server_with(RpcRouter::new(), options.clone());
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        if defers {
            // The first ping follows an interval of silence.
            sleep(31 * SECOND).await;
        }
        send_without_pongs(&mut station).await;
        let closed = session.closed().now_or_never().expect("closed meanwhile");
        assert_eq!(closed.cause, CloseCause::PingTimeout);
    }
}

#[tokio::test(start_paused = true)]
async fn b03_required_pongs_are_not_missed_while_reading_pauses() {
    let options = Options::server().require_pongs(true).max_unsent(1 << 20);
    let server = server_with(RpcRouter::new().on("Echo", echo), options);
    let (station, session) = connected(&server, "ocpp1.6").await;
    let (mut sink, mut stream) = station.ws.split();
    let sending = tokio::spawn(async move {
        for id in 0..60 {
            let call = json!([2, id.to_string(), "Echo", {"text": "x".repeat(60 << 10)}]);
            sink.send(Message::text(call.to_string())).await.expect("open");
        }
        sink
    });
    // The station reads a message in 5 s. Its pongs are behind its calls, which the server does not read meanwhile.
    let mut responses = 0;
    while responses < 60 {
        sleep(5 * SECOND).await;
        let message = stream.next().await.expect("open").expect("a message");
        responses += usize::from(message.is_text());
    }
    assert!(session.is_open());
    let _sink = sending.await.expect("all are sent");
}

#[tokio::test(start_paused = true)]
async fn b03_bytes_of_an_unfinished_message_prove_life() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    // A masked text of 200 bytes, which arrives byte by byte in more than an hour.
    let frame = [&[0x81, 0xfe, 0, 200, 0, 0, 0, 0][..], &[b' '; 200]].concat();
    for byte in frame {
        station.ws.get_mut().write_all(&[byte]).await.expect("open");
        advance(20 * SECOND).await;
    }
    assert!(session.is_open());
    let (seen, connected) = (session.last_seen_at().expect("seen"), session.connected_at().expect("connected"));
    assert!(seen.duration_since(connected).expect("later").as_secs() >= 207 * 20);
}

#[tokio::test(start_paused = true)]
async fn b02_default_pings_every_30_s_keep_connection_open() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    station.silent().await;
    assert!(session.is_open());
    let pongs = async {
        let mut pongs = 0;
        while let Some(Some(event)) = events.next().now_or_never() {
            pongs += usize::from(matches!(event.kind, EventKind::Pong(_)));
        }
        pongs
    };
    assert!(pongs.await >= 119, "one pong every 30 s for an hour");
}

#[tokio::test(start_paused = true)]
async fn b02_no_ping_interval_sends_no_pings() {
    let server = server_with(RpcRouter::new(), Options::server().ping_interval(None));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let received = tokio::time::timeout(3600 * SECOND, station.next()).await;
    assert!(received.is_err(), "{received:?}");
}

#[tokio::test]
async fn peer_ping_receives_pong() {
    let server = server(RpcRouter::new());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.ws.send(Message::Ping(Bytes::from_static(b"you?"))).await.expect("open");
    assert_eq!(station.next().await, Message::Pong(Bytes::from_static(b"you?")));
}

#[tokio::test(start_paused = true)]
async fn session_last_seen_follows_last_message() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    advance(10 * SECOND).await;
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    let (seen, connected) = (session.last_seen_at().expect("seen"), session.connected_at().expect("connected"));
    let seen = seen.duration_since(connected).expect("last seen after the connection");
    assert_eq!(seen.as_secs(), 10);
}
