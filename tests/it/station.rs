//! The handle on a station: calls that go to the session of the moment.

use std::time::Duration;

use futures_util::FutureExt;
use ocpp_rpc::{Close, Error, Options, RpcRouter, testing::Station};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{SECOND, server, server_with};

#[tokio::test(start_paused = true)]
async fn b83_call_to_a_station_goes_to_its_session_of_the_moment() {
    let server = server(RpcRouter::new());
    let station = server.station("CP-1");
    let call = || station.call::<Value>("Reset", &json!({"type": "Soft"}));
    let unmade = call();
    assert!(matches!(call().await, Err(Error::NotConnected)));

    let mut first = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let respond = async |peer: &mut Station| {
        let reset = peer.expect_call("Reset").await;
        assert_eq!(reset.params::<Value>().expect("JSON"), json!({"type": "Soft"}));
        reset.respond(&json!({"status": "Accepted"})).await;
    };
    // A call that was created while the station was away.
    let (response, ()) = tokio::join!(unmade, respond(&mut first));
    assert_eq!(response.expect("a response"), json!({"status": "Accepted"}));

    let first_session = station.session().expect("connected");
    let mut second = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(first.closed().await.code, 1008);
    let (response, ()) = tokio::join!(call(), respond(&mut second));
    assert!(response.is_ok());
    assert_ne!(station.session().expect("connected").id(), first_session.id());

    assert_eq!(station.close(Close::normal()).await.expect("connected").code, 1000);
    assert!(matches!(call().await, Err(Error::NotConnected)));
    assert!(matches!(station.close(Close::normal()).await, Err(Error::NotConnected)));
}

#[tokio::test(start_paused = true)]
async fn b83_call_to_a_station_has_the_options_and_errors_of_a_session() {
    let server = server_with(RpcRouter::new(), Options::server().call_timeout(10 * SECOND));
    let mut peer = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let station = server.station("CP-1");
    let start = Instant::now();
    assert!(matches!(station.call::<Value>("Reset", &()).await, Err(Error::Timeout)));
    assert_eq!(start.elapsed(), 10 * SECOND);
    let in_flight = station.call::<Value>("Reset", &()).timeout(None);
    let mut in_flight = Box::pin(in_flight);
    assert!(in_flight.as_mut().now_or_never().is_none());
    let queued = station.call::<Value>("Reset", &()).total_timeout(SECOND);
    assert!(matches!(queued.await, Err(Error::NeverSent)));
    assert!(matches!(station.send("NotifyPeriodicEventStream", &()).await, Err(Error::SendNotSupported)));
    // A dropped call makes room for the next.
    drop(in_flight);
    for _ in 0..2 {
        peer.expect_call("Reset").await;
    }
    station.call::<Value>("Last", &()).fire_and_forget().await.expect("written");
    peer.expect_call("Last").await;
    peer.expect_silence(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn b83_station_waits_for_its_connection() {
    let server = server(RpcRouter::new());
    let station = server.station("CP-1");
    let start = Instant::now();
    assert!(matches!(station.connected(Duration::from_secs(60)).await, Err(Error::NotConnected)));
    assert_eq!(start.elapsed(), Duration::from_secs(60));

    let waiting = [(); 2].map(|()| station.connected(None));
    let [first, second] = waiting.map(Box::pin);
    let (mut first, mut second) = (first, second);
    assert!(first.as_mut().now_or_never().is_none() && second.as_mut().now_or_never().is_none());
    drop(second);
    let _other = Station::connect(&server, "CP-2", "ocpp1.6").await;
    assert!(first.as_mut().now_or_never().is_none(), "another station connected");
    let _peer = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    let info = first.await.expect("connected");
    assert_eq!((&*info.key, info.node, info.protocol.as_deref()), ("CP-1", None, Some("ocpp1.6")));
    assert_eq!(station.session().expect("connected").id(), session.id());
    assert_eq!(station.info().await.expect("no cluster"), Some(station.connected(None).await.expect("connected")));
    assert!(station.connected(None).now_or_never().is_some_and(|session| session.is_ok()), "it is connected already");

    let absent = server.station("CP-3");
    let (waiting, _) = tokio::join!(absent.connected(None), server.close(Close::going_away()));
    assert!(matches!(waiting, Err(Error::NotConnected)), "there will be no session");
}

#[tokio::test(start_paused = true)]
async fn b83_station_prefers_a_session_that_accepts_calls() {
    use ocpp_rpc::{RpcServer, server::DuplicateIdentity};

    let server = RpcServer::builder(RpcRouter::new()).duplicate_identity(DuplicateIdentity::AllowBoth);
    let server = server.protocols(["ocpp1.6"]).build().expect("valid");
    let station = server.station("CP-1");
    let _older = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let older = station.session().expect("connected");
    let _newer = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let newer = station.session().expect("connected");
    assert!(newer.id() > older.id());
    let close = newer.close(Close::normal().drain(SECOND));
    let mut close = Box::pin(close);
    assert!(close.as_mut().now_or_never().is_none());
    assert_eq!(station.session().expect("connected").id(), older.id());
}
