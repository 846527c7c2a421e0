//! Default settings, and the effect of changing each of them.

use std::{convert::Infallible, time::Duration};

use futures_util::SinkExt;
use ocpp_rpc::{
    Call, CallError, Error, Options, RpcRouter,
    client::{Backoff, Reconnect},
    extract::{Action, Params},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::{
    csms::{self, client, client_with_defaults},
    support::{SECOND, Station, connected, server, server_with},
};

/// Returns the result of a call and its duration in seconds.
async fn timed(call: Call<Value>) -> (Result<Value, Error>, u64) {
    let start = Instant::now();
    (call.await, start.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn b01_server_call_timeout_is_30_seconds_unless_set() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = || session.call::<Value>("Any", &());
    for (call, seconds) in [
        (call(), Some(30)),
        (call().timeout(45 * SECOND), Some(45)),
        (call().timeout(None), None),
        (call().timeout(Duration::MAX), None),
    ] {
        let result = tokio::spawn(timed(call));
        station.receive_call().await;
        station.silent().await;
        match seconds {
            Some(seconds) => {
                assert!(matches!(result.await.expect("no panic"), (Err(Error::Timeout), s) if s == seconds))
            }
            None => {
                assert!(!result.is_finished(), "a call without timeout must stay pending");
                result.abort();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b01_client_call_timeout_is_60_seconds_unless_set() {
    for (options, seconds) in [
        (Options::client(), Some(60)),
        (Options::client().call_timeout(7 * SECOND), Some(7)),
        (Options::client().call_timeout(None), None),
    ] {
        let (builder, mut dials) = client();
        let (client, mut csms) = csms::connected(builder.options(options), &mut dials).await;
        let calls = [client.call("Any", &()), client.call("Other", &()).timeout(SECOND)];
        let [by_default, overridden] = calls.map(|call| tokio::spawn(timed(call)));
        csms.receive_call("Any").await;
        if seconds.is_some() {
            csms.receive_call("Other").await;
        }
        csms.silent().await;
        match seconds {
            Some(seconds) => {
                assert!(matches!(by_default.await.expect("no panic"), (Err(Error::Timeout), s) if s == seconds));
                let one_more = seconds + 1;
                assert!(matches!(overridden.await.expect("no panic"), (Err(Error::Timeout), s) if s == one_more));
            }
            None => assert!(
                !by_default.is_finished() && !overridden.is_finished(),
                "calls without timeout must stay pending"
            ),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b02_ping_interval_is_30_seconds_and_changes_while_connected() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;

    let first = pinged(&mut station.ws).await;
    assert!(first <= 30 * SECOND, "{first:?}");
    for _ in 0..3 {
        assert_eq!(pinged(&mut station.ws).await, 30 * SECOND);
    }
    session.set_options(Options::server().ping_interval(7 * SECOND)).expect("valid options");
    for _ in 0..3 {
        assert_eq!(pinged(&mut station.ws).await, 7 * SECOND);
    }
    session.set_options(Options::server().ping_interval(None)).expect("valid options");
    let received = tokio::time::timeout(3600 * SECOND, station.next()).await;
    assert!(received.is_err(), "received although pings are disabled: {received:?}");

    // The first client has received no pongs meanwhile, so the test connects another one.
    drop((client, csms.0.close(None).await));
    let (builder, mut dials) = csms::client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    let first = pinged(&mut csms.0).await;
    assert!(first <= 30 * SECOND, "{first:?}");
    assert_eq!(pinged(&mut csms.0).await, 30 * SECOND);
    let options = Options::client().ping_interval(7 * SECOND);
    client.update(|settings| settings.options(options)).expect("valid options");
    assert_eq!(pinged(&mut csms.0).await, 7 * SECOND);
    let options = Options::client().ping_interval(None);
    client.update(|settings| settings.options(options)).expect("valid options");
    csms.silent().await;
}

/// Waits for the next ping, and returns the elapsed time.
async fn pinged(ws: &mut tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream>) -> Duration {
    let start = Instant::now();
    while !matches!(futures_util::StreamExt::next(ws).await, Some(Ok(Message::Ping(_)))) {}
    // This flush sends the pong.
    ws.flush().await.expect("open");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn b03_activity_postpones_pings_only_if_set() {
    let nothing = Bytes::new();
    let messages = [Message::text(""), Message::Ping(nothing.clone()), Message::Pong(nothing)];
    for (options, deferred) in [(Options::server(), false), (Options::server().activity_defers_pings(true), true)] {
        for message in &messages {
            let server = server_with(RpcRouter::new(), options.clone());
            let (mut station, _session) = connected(&server, "ocpp1.6").await;
            let mut pings = 0;
            let mut last = Instant::now();
            for _ in 0..30 {
                station.ws.send(message.clone()).await.expect("open");
                last = Instant::now();
                pings += pings_within(20 * SECOND, &mut station).await;
            }
            if deferred {
                assert_eq!(pings, 0, "{message:?}");
                pinged(&mut station.ws).await;
                assert_eq!(last.elapsed(), 30 * SECOND, "a ping follows an interval of silence");
            } else {
                assert!((19..=21).contains(&pings), "{pings} pings in ten minutes of {message:?}");
            }
        }
    }
}

async fn pings_within(time: Duration, station: &mut Station) -> usize {
    let end = Instant::now() + time;
    let mut pings = 0;
    while let Ok(message) = tokio::time::timeout_at(end, station.next()).await {
        pings += usize::from(matches!(message, Message::Ping(_)));
    }
    pings
}

#[tokio::test]
async fn b04_call_concurrency_is_one_until_raised_while_connected() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let _calls = ["A", "B", "C", "D"].map(|action| tokio::spawn(session.call::<Value>(action, &())));
    assert_eq!(station.receive_call().await.1[0], "A");
    tokio::task::yield_now().await;
    assert!(crate::support::NextNow::next_now(&mut station.ws).is_none(), "one at a time");
    session.set_options(Options::server().call_concurrency(3)).expect("valid options");
    assert_eq!(station.receive_call().await.1[0], "B");
    assert_eq!(station.receive_call().await.1[0], "C");
    tokio::task::yield_now().await;
    assert!(crate::support::NextNow::next_now(&mut station.ws).is_none(), "three at a time");
}

#[tokio::test]
async fn b05_bad_messages_tolerated_errors_hidden_nothing_validated() {
    async fn fail() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("the database is down".into())
    }
    async fn boot(Params(params): Params<Value>) -> Result<Value, CallError> {
        Ok(json!({"status": 7, "you said": params}))
    }
    async fn any(action: Action) -> Result<Value, Infallible> {
        Ok(json!({"unknown": action.as_str()}))
    }
    let server = server(RpcRouter::new().on("Fail", fail).on("BootNotification", boot).fallback(any));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for _ in 0..5000 {
        station.send("bad").await;
    }
    let response = station.ask(r#"[2,"1","Fail",{}]"#).await;
    assert_eq!(response, r#"[4,"1","InternalError","An internal error occurred",{}]"#);
    // Neither these requests nor these responses are valid in OCPP 1.6.
    let response = station.ask(r#"[2,"2","BootNotification",{"model":1}]"#).await;
    assert_eq!(response, r#"[3,"2",{"status":7,"you said":{"model":1}}]"#);
    assert_eq!(station.ask(r#"[2,"3","Nonsense",{}]"#).await, r#"[3,"3",{"unknown":"Nonsense"}]"#);
    let reset = tokio::spawn(session.call::<Value>("Reset", &json!({"type": "Gentle"})));
    let (id, call) = station.receive_call().await;
    assert_eq!(call, json!(["Reset", {"type": "Gentle"}]));
    station.send(format!(r#"[3,"{id}",{{"status":"Perhaps"}}]"#)).await;
    assert_eq!(reset.await.expect("no panic").expect("a response"), json!({"status": "Perhaps"}));
}

#[tokio::test(start_paused = true)]
async fn b06_reconnects_never_end_with_waits_from_1_to_10_seconds() {
    let (builder, mut dials) = client_with_defaults();
    let (_client, csms) = csms::connected(builder, &mut dials).await;
    drop(csms);
    let mut last = Instant::now();
    let mut waits = Vec::new();
    for nth in 0..200 {
        drop(dials.next().await);
        let waited = last.elapsed().as_secs_f64();
        last = Instant::now();
        let expected = [1.0, 2.0, 4.0, 8.0].get(nth).copied().unwrap_or(10.0);
        // A timer may be a millisecond late.
        assert!((0.75 * expected..=1.25 * expected + 0.002).contains(&waited), "wait {nth}: {waited} s");
        waits.push(waited);
    }
    let (least, most) = waits[4..].iter().fold((f64::MAX, 0.0_f64), |(a, b), wait| (a.min(*wait), b.max(*wait)));
    assert!(least < 8.5 && most > 11.5, "jitter must reach a quarter of the wait: {least} to {most}");
}

#[tokio::test(start_paused = true)]
async fn b06_changing_one_backoff_field_keeps_the_others() {
    let steady = || Backoff::exponential().jitter(0.0);
    for (backoff, expected) in [
        (steady(), [1, 2, 4, 8, 10, 10]),
        (steady().min(2 * SECOND), [2, 4, 8, 10, 10, 10]),
        (steady().max(3 * SECOND), [1, 2, 3, 3, 3, 3]),
        (steady().factor(3.0), [1, 3, 9, 10, 10, 10]),
    ] {
        let (builder, mut dials) = client();
        let (_client, csms) =
            csms::connected(builder.reconnect(Reconnect::always().backoff(backoff)), &mut dials).await;
        drop(csms);
        let mut last = Instant::now();
        for seconds in expected {
            drop(dials.next().await);
            assert_eq!(last.elapsed().as_secs(), seconds, "{expected:?}");
            last = Instant::now();
        }
    }
}
