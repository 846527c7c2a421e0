//! What holds where nobody says otherwise, and what holds once somebody does.

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

/// What came of a call, and after how many seconds.
async fn timed(call: Call<Value>) -> (Result<Value, Error>, u64) {
    let start = Instant::now();
    (call.await, start.elapsed().as_secs())
}

#[tokio::test(start_paused = true)]
async fn b01_a_call_times_out_after_thirty_seconds_at_a_server_unless_told_otherwise() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = || session.call::<Value>("Any", &());
    for (call, seconds) in [
        (call(), Some(30)),
        (call().timeout(45 * SECOND), Some(45)),
        (call().timeout(None), None),
        (call().timeout(Duration::MAX), None),
    ] {
        let outcome = tokio::spawn(timed(call));
        station.receive_call().await;
        station.silent().await;
        match seconds {
            Some(seconds) => {
                assert!(matches!(outcome.await.expect("no panic"), (Err(Error::Timeout), s) if s == seconds))
            }
            None => {
                assert!(!outcome.is_finished(), "it waits for ever");
                outcome.abort();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b01_a_call_times_out_after_sixty_seconds_at_a_client_unless_told_otherwise() {
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
            None => assert!(!by_default.is_finished() && !overridden.is_finished(), "they wait for ever"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b02_the_ping_interval_is_thirty_seconds_at_both_ends_and_can_be_changed_while_connected() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;

    let first = pinged(&mut station.ws).await;
    assert!(first <= 30 * SECOND, "{first:?}");
    for _ in 0..3 {
        assert_eq!(pinged(&mut station.ws).await, 30 * SECOND);
    }
    session.set_options(Options::server().ping_interval(7 * SECOND)).expect("sound");
    for _ in 0..3 {
        assert_eq!(pinged(&mut station.ws).await, 7 * SECOND);
    }
    session.set_options(Options::server().ping_interval(None)).expect("sound");
    let heard = tokio::time::timeout(3600 * SECOND, station.next()).await;
    assert!(heard.is_err(), "zero disables: {heard:?}");

    // Nobody answered the client meanwhile.
    drop((client, csms.0.close(None).await));
    let (builder, mut dials) = csms::client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    let first = pinged(&mut csms.0).await;
    assert!(first <= 30 * SECOND, "{first:?}");
    assert_eq!(pinged(&mut csms.0).await, 30 * SECOND);
    client.set_options(Options::client().ping_interval(7 * SECOND)).expect("sound");
    assert_eq!(pinged(&mut csms.0).await, 7 * SECOND);
    client.set_options(Options::client().ping_interval(None)).expect("sound");
    csms.silent().await;
}

/// How long it takes until a ping comes.
async fn pinged(ws: &mut tokio_tungstenite::WebSocketStream<tokio::io::DuplexStream>) -> Duration {
    let start = Instant::now();
    while !matches!(futures_util::StreamExt::next(ws).await, Some(Ok(Message::Ping(_)))) {}
    // The answer leaves now.
    ws.flush().await.expect("open");
    start.elapsed()
}

#[tokio::test(start_paused = true)]
async fn b03_activity_postpones_pings_only_where_it_shall() {
    let nothing = Bytes::new();
    let signs = [Message::text(""), Message::Ping(nothing.clone()), Message::Pong(nothing)];
    for (options, deferred) in [(Options::server(), false), (Options::server().activity_defers_pings(true), true)] {
        for sign in &signs {
            let server = server_with(RpcRouter::new(), options.clone());
            let (mut station, _session) = connected(&server, "ocpp1.6").await;
            let mut pings = 0;
            let mut last = Instant::now();
            for _ in 0..30 {
                station.ws.send(sign.clone()).await.expect("open");
                last = Instant::now();
                pings += pings_within(20 * SECOND, &mut station).await;
            }
            match deferred {
                true => assert_eq!(pings, 0, "{sign:?}"),
                false => assert!((19..=21).contains(&pings), "{pings} pings in ten minutes of {sign:?}"),
            }
            if deferred {
                pinged(&mut station.ws).await;
                assert_eq!(last.elapsed(), 30 * SECOND, "after an interval of silence");
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
async fn b04_one_call_is_out_at_a_time_until_more_are_let_out_while_connected() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let _calls = ["A", "B", "C", "D"].map(|action| tokio::spawn(session.call::<Value>(action, &())));
    assert_eq!(station.receive_call().await.1[0], "A");
    tokio::task::yield_now().await;
    assert!(crate::support::NextNow::next_now(&mut station.ws).is_none(), "one at a time");
    session.set_options(Options::server().call_concurrency(3)).expect("sound");
    assert_eq!(station.receive_call().await.1[0], "B");
    assert_eq!(station.receive_call().await.1[0], "C");
    tokio::task::yield_now().await;
    assert!(crate::support::NextNow::next_now(&mut station.ws).is_none(), "three at a time");
}

#[tokio::test]
async fn b05_bad_messages_are_borne_errors_tell_little_and_nothing_is_validated() {
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
    let answer = station.ask(r#"[2,"1","Fail",{}]"#).await;
    assert_eq!(answer, r#"[4,"1","InternalError","An internal error occurred",{}]"#);
    // None of this fits OCPP 1.6, whichever way it goes.
    let answer = station.ask(r#"[2,"2","BootNotification",{"model":1}]"#).await;
    assert_eq!(answer, r#"[3,"2",{"status":7,"you said":{"model":1}}]"#);
    assert_eq!(station.ask(r#"[2,"3","Nonsense",{}]"#).await, r#"[3,"3",{"unknown":"Nonsense"}]"#);
    let reset = tokio::spawn(session.call::<Value>("Reset", &json!({"type": "Gentle"})));
    let (id, call) = station.receive_call().await;
    assert_eq!(call, json!(["Reset", {"type": "Gentle"}]));
    station.send(format!(r#"[3,"{id}",{{"status":"Perhaps"}}]"#)).await;
    assert_eq!(reset.await.expect("no panic").expect("an answer"), json!({"status": "Perhaps"}));
}

#[tokio::test(start_paused = true)]
async fn b06_a_client_dials_again_for_ever_with_waits_that_grow_from_one_second_to_ten() {
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
    assert!(least < 8.5 && most > 11.5, "a quarter of a wait is left to chance: {least} to {most}");
}

#[tokio::test(start_paused = true)]
async fn b06_changing_one_field_of_the_back_off_keeps_the_others() {
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
