//! Pings, pongs and the time of the last received frame.

use futures_util::{FutureExt, SinkExt};
use ocpp_rpc::{Options, RpcRouter, close::CloseCause, event::EventKind};
use tokio::time::{Instant, advance};
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
