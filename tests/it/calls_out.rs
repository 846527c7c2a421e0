//! Outgoing calls: their order, timeouts, results and cancellation.

use std::{task::Poll, time::Duration};

use futures_util::{FutureExt, future::join_all};
use ocpp_rpc::{
    Close, Error, ErrorCode, Options, Payload, RpcRouter,
    close::CloseCause,
    event::{EventKind, Events},
    extract::CancellationToken,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{NextNow, SECOND, connected, says_nothing_twice, server, server_with};

#[tokio::test]
async fn b23_calls_leave_in_order_one_at_a_time() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..20).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let responses = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..20 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Count", {"n": n}]));
        assert!(station.ws.next_now().is_none(), "the next call waits for the response");
        station.send(format!(r#"[3,"{id}",{{"n":{n}}}]"#)).await;
    }
    for (n, response) in responses.await.expect("no panic").into_iter().enumerate() {
        assert_eq!(response.expect("a response"), json!({"n": n}));
    }
}

#[tokio::test]
async fn b23_concurrency_of_three_allows_three_calls_in_flight() {
    let server = server_with(RpcRouter::new(), Options::server().call_concurrency(3));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..5).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let _responses = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..3 {
        assert_eq!(station.receive_call().await.1, json!(["Count", {"n": n}]));
    }
    tokio::task::yield_now().await;
    assert!(station.ws.next_now().is_none());
}

#[tokio::test]
async fn b26_rejection_keeps_code_description_and_details_verbatim() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","OccurenceConstraintViolation","missing","type"]"#)).await;
    match call.await.expect("no panic") {
        Err(Error::Rejected(error)) => {
            assert_eq!(*error.code(), ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION);
            assert_eq!(error.code().as_str(), "OccurenceConstraintViolation");
            assert_eq!(error.description(), "missing");
            assert_eq!(error.details().map(Payload::as_str), Some("\"type\""));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn b25_timeout_runs_from_the_write_total_timeout_from_the_call() {
    let server = server_with(RpcRouter::new(), Options::server().call_timeout(10 * SECOND));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    let timed = |call: ocpp_rpc::Call<Value>| async move { (call.await, start.elapsed().as_secs()) };
    let calls = tokio::spawn(join_all([
        timed(session.call("First", &())),
        timed(session.call("Second", &()).timeout(3 * SECOND)),
        timed(session.call("Third", &()).total_timeout(12 * SECOND)),
    ]));
    let (late, _) = station.receive_call().await;
    let outcomes = calls.await.expect("no panic");
    assert!(matches!(outcomes[0], (Err(Error::Timeout), 10)), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], (Err(Error::Timeout), 13)), "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], (Err(Error::NeverSent), 12)), "{:?}", outcomes[2]);
    let mut events = server.events();
    station.send(format!(r#"[3,"{late}",{{}}]"#)).await;
    let is_late = |kind| matches!(kind, EventKind::LateResponse(id) if id.as_str() == late);
    events.expect(|event| is_late(event.kind).then_some(())).await;
}

#[tokio::test(start_paused = true)]
async fn b24_dropped_queued_call_is_never_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let second = tokio::spawn(session.call::<Value>("Second", &()));
    tokio::task::yield_now().await;
    second.abort();
    assert!(second.await.expect_err("aborted").is_cancelled());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("a response");
    station.silent().await;
}

#[tokio::test]
async fn b24_dropped_call_in_flight_frees_its_slot() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    first.abort();
    let _second = tokio::spawn(session.call::<Value>("Second", &()));
    assert_eq!(station.receive_call().await.1[0], "Second");
}

#[tokio::test]
async fn b29_full_queue_rejects_calls_until_it_has_space() {
    let server = server_with(RpcRouter::new(), Options::server().call_queue(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let waiting = [session.call::<Value>("A", &()), session.call("B", &())].map(tokio::spawn);
    tokio::task::yield_now().await;
    let refused = session.call::<Value>("C", &()).await.expect_err("the queue is full");
    assert!(matches!(refused, Error::QueueFull) && refused.is_retryable());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("a response");
    assert_eq!(station.receive_call().await.1[0], "A");
    let _fits = tokio::spawn(session.call::<Value>("D", &()));
    for call in &waiting {
        assert!(!call.is_finished());
    }
}

#[tokio::test]
async fn b29_disconnect_reports_if_a_call_may_be_delivered() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = [session.call::<Value>("Written", &()), session.call("Waiting", &())].map(tokio::spawn);
    station.receive_call().await;
    drop(station);
    let [written, waiting] = calls;
    let error = written.await.expect("no panic").expect_err("disconnected");
    assert!(error.maybe_delivered() && !error.is_retryable(), "{error:?}");
    let error = waiting.await.expect("no panic").expect_err("disconnected");
    assert!(!error.maybe_delivered() && error.is_retryable(), "{error:?}");
    assert_eq!((session.closed().await.code, session.closed().await.cause), (1006, CloseCause::Remote));
    assert!(matches!(session.call::<Value>("After", &()).await, Err(Error::Closed)));
}

#[tokio::test]
async fn b26_payload_of_the_wrong_type_is_an_error_of_the_caller() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.call::<Value>("List", &[1, 2]).await, Err(Error::Encode(_))));
    let call = tokio::spawn(session.call::<std::collections::HashMap<String, u8>>("Typed", &()));
    let (id, call_text) = station.receive_call().await;
    assert_eq!(call_text, json!(["Typed", {}]), "the list was never written");
    station.send(format!(r#"[3,"{id}",{{"a":"b"}}]"#)).await;
    let error = call.await.expect("no panic").expect_err("not decodable");
    assert!(matches!(error, Error::Decode(_)), "{error:?}");
    says_nothing_twice(&error);
}

#[tokio::test]
async fn b27_call_without_response_completes_when_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    session.call::<Value>("Forget", &()).fire_and_forget().await.expect("written");
    assert_eq!(station.receive_call().await.1[0], "Forget");
}

#[tokio::test]
async fn b27_call_that_bypasses_the_queue_can_be_without_a_response() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let _call = tokio::spawn(session.call::<Value>("First", &()));
    assert_eq!(station.receive_call().await.1[0], "First");
    session.call::<Value>("Forget", &()).bypass_queue().fire_and_forget().await.expect("written");
    assert_eq!(station.receive_call().await.1[0], "Forget");
    session.call::<Value>("Bypass", &()).fire_and_forget().bypass_queue().await.expect("written");
    assert_eq!(station.receive_call().await.1[0], "Bypass");
}

#[tokio::test]
async fn b27_send_leaves_beside_a_call_if_the_protocol_has_it() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let _call = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    session.send("NotifyPeriodicEventStream", &json!({"id": 1})).await.expect("written");
    let text = station.receive().await;
    assert!(text.starts_with("[6,") && text.ends_with(r#","NotifyPeriodicEventStream",{"id":1}]"#), "{text}");

    let (_station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.send("Any", &()).await, Err(Error::SendNotSupported)));
}

#[tokio::test]
async fn b24_call_is_cancelled_by_its_token() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let token = CancellationToken::new();
    let call = tokio::spawn(session.call::<Value>("First", &()).cancel_on(&token));
    station.receive_call().await;
    token.cancel();
    let error = call.await.expect("no panic").expect_err("cancelled");
    assert!(matches!(error, Error::Cancelled) && error.maybe_delivered());
    let _next = tokio::spawn(session.call::<Value>("Second", &()));
    assert_eq!(station.receive_call().await.1[0], "Second", "the slot is free");
    assert!(matches!(session.call::<Value>("Third", &()).cancel_on(&token).await, Err(Error::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn consecutive_call_timeouts_are_counted() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    session.set_options(Options::server().call_timeout(Duration::from_secs(1))).expect("valid settings");
    for expected in 1..=3 {
        assert!(session.call::<Value>("Ignored", &()).await.expect_err("no response").is_timeout());
        assert_eq!(session.consecutive_timeouts(), expected);
        station.receive_call().await;
    }
    let call = tokio::spawn(session.call::<Value>("Answered", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","NotSupported","",{{}}]"#)).await;
    assert!(call.await.expect("no panic").is_err());
    assert_eq!(session.consecutive_timeouts(), 0, "a rejection is a response too");
}

#[tokio::test(start_paused = true)]
async fn b26_call_error_reports_timeout_retry_and_delivery() {
    /// Returns the error and three flags: it is a timeout, the call is retryable, the call may be delivered.
    fn facts(outcome: Result<Value, Error>) -> (Error, [bool; 3]) {
        let error = outcome.expect_err("no response");
        let facts = [error.is_timeout(), error.is_retryable(), error.maybe_delivered()];
        (error, facts)
    }
    const NONE: [bool; 3] = [false; 3];
    const TIMEOUT_DELIVERED: [bool; 3] = [true, false, true];
    const TIMEOUT_RETRY: [bool; 3] = [true, true, false];
    const RETRY: [bool; 3] = [false, true, false];
    const DELIVERED: [bool; 3] = [false, false, true];

    let server = server_with(RpcRouter::new(), Options::server().call_queue(1));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = |action: &str| session.call::<Value>(action, &()).timeout(3 * SECOND);
    assert!(matches!(facts(session.call("List", &[1]).await), (Error::Encode(_), NONE)));

    let rejected = tokio::spawn(call("Rejected"));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","Teapot","short and stout",{{"handle":1}}]"#)).await;
    let (error, none) = facts(rejected.await.expect("no panic"));
    let Error::Rejected(error) = error else { panic!("{error:?}") };
    assert_eq!((error.code().as_str(), error.description(), none), ("Teapot", "short and stout", NONE));
    assert_eq!(error.details().map(Payload::as_str), Some(r#"{"handle":1}"#));

    let decoded = tokio::spawn(call("Decode"));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",[]]"#)).await;
    assert!(matches!(facts(decoded.await.expect("no panic")), (Error::Decode(_), NONE)));

    assert!(matches!(facts(call("Slow").await), (Error::Timeout, TIMEOUT_DELIVERED)));
    station.receive_call().await;

    let token = CancellationToken::new();
    let ahead = tokio::spawn(call("Ahead").cancel_on(&token).timeout(None));
    station.receive_call().await;
    assert!(matches!(facts(call("Waits").total_timeout(SECOND).await), (Error::NeverSent, TIMEOUT_RETRY)));
    let waiting = tokio::spawn(call("Waits"));
    tokio::task::yield_now().await;
    assert!(matches!(facts(call("Full").await), (Error::QueueFull, RETRY)));
    token.cancel();
    assert!(matches!(facts(ahead.await.expect("no panic")), (Error::Cancelled, DELIVERED)));

    station.receive_call().await;
    let behind = tokio::spawn(call("Behind"));
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close(Close::normal().drain(SECOND)).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(facts(call("Closing").await), (Error::Closing, RETRY)));
    let maybe = facts(waiting.await.expect("no panic"));
    assert!(matches!(maybe, (Error::Disconnected { maybe_delivered: true }, DELIVERED)), "{maybe:?}");
    let never = facts(behind.await.expect("no panic"));
    assert!(matches!(never, (Error::Disconnected { maybe_delivered: false }, RETRY)), "{never:?}");
    drop(station);
    closing.await.expect("no panic");
    assert!(matches!(facts(call("Closed").await), (Error::Closed, RETRY)));
}

/// Returns the ids of the late responses (`true`) and the unmatched ones among the next events.
async fn ids_of_responses(events: &mut Events, count: usize) -> Vec<(bool, String)> {
    let mut ids = Vec::new();
    while ids.len() < count {
        match events.next().await.expect("another event").kind {
            EventKind::LateResponse(id) => ids.push((true, id.to_string())),
            EventKind::UnmatchedResponse(id) => ids.push((false, id.to_string())),
            EventKind::BadMessage { error, .. } => panic!("{error}"),
            _ => {}
        }
    }
    ids
}

#[tokio::test]
async fn b27_response_to_any_ended_call_is_late() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut ids = Vec::new();
    for _ in 0..100 {
        // Each call completes when it is written, although the station sends no response.
        session.call::<Value>("Forget", &()).fire_and_forget().await.expect("written");
        ids.push(station.receive_call().await.0);
    }
    let mut events = server.events();
    for id in ids.iter().chain(&ids) {
        station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    }
    let late: Vec<_> = ids.iter().chain(&ids).map(|id| (true, id.clone())).collect();
    assert_eq!(ids_of_responses(&mut events, 200).await, late);
    // An id that is not used yet.
    let last = ids.last().expect("an id");
    let next = format!("{}{:010x}", &last[..26], u64::from_str_radix(&last[26..], 16).expect("hexadecimal") + 1);
    station.send(format!(r#"[3,"{next}",{{}}]"#)).await;
    assert_eq!(ids_of_responses(&mut events, 1).await, [(false, next)]);
}

#[tokio::test]
async fn b27_ids_of_a_connection_share_a_random_part_and_count_up() {
    let mut prefixes = Vec::new();
    for _ in 0..3 {
        let server = server(RpcRouter::new());
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        let mut last = None;
        for _ in 0..20 {
            session.call::<Value>("Forget", &()).fire_and_forget().await.expect("written");
            let (id, _) = station.receive_call().await;
            assert_eq!(id.len(), 36);
            let (prefix, number) = id.split_at(26);
            assert!(last.replace(number.to_owned()).is_none_or(|last| *number > *last), "{id}");
            if prefixes.last().is_none_or(|last| last != prefix) {
                prefixes.push(prefix.to_owned());
            }
        }
    }
    assert_eq!(prefixes.len(), 3, "one random part for each connection: {prefixes:?}");
}

#[tokio::test(start_paused = true)]
async fn b77_call_with_an_id_of_its_caller() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let call = || session.call::<Value>("Reset", &()).timeout(SECOND).id("retried \"1\"");
    for _ in 0..2 {
        assert!(matches!(call().await, Err(Error::Timeout)));
        assert_eq!(station.receive_call().await.0, "retried \"1\"");
    }
    station.send(r#"[3,"retried \"1\"",{}]"#).await;
    assert_eq!(ids_of_responses(&mut events, 1).await, [(true, "retried \"1\"".to_owned())]);

    let pending = tokio::spawn(call());
    station.receive_call().await;
    let error = call().await.expect_err("a pending call has the id");
    assert!(matches!(error, Error::InvalidMessageId { .. }), "{error}");
    station.send(r#"[3,"retried \"1\"",{"a":1}]"#).await;
    assert_eq!(pending.await.expect("no panic").expect("a result"), json!({"a": 1}));
}

#[tokio::test(start_paused = true)]
async fn b77_id_that_is_empty_or_too_long_is_an_error_before_sending() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for id in [String::new(), "é".repeat(37)] {
        let error = session.call::<Value>("Reset", &()).id(id).await.expect_err("an invalid id");
        assert!(matches!(error, Error::InvalidMessageId { .. }) && !error.maybe_delivered(), "{error}");
    }
    let _longest = tokio::spawn(session.call::<Value>("Reset", &()).id("é".repeat(36)));
    assert_eq!(station.receive_call().await.0, "é".repeat(36));
}

#[tokio::test(start_paused = true)]
async fn b77_raw_text_is_sent_as_it_is() {
    let server = server_with(RpcRouter::new(), Options::server().call_queue(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let _ahead = tokio::spawn(session.call::<Value>("Ahead", &()).timeout(None));
    station.receive_call().await;
    // It is written beside the call in flight, and its response belongs to no call.
    session.send_raw("{not a message").await.expect("written");
    assert_eq!(station.receive().await, "{not a message");
    session.send_raw(r#"[2,"raw","Heartbeat",{}]"#).await.expect("written");
    assert_eq!(station.receive().await, r#"[2,"raw","Heartbeat",{}]"#);
    station.send(r#"[3,"raw",{}]"#).await;
    assert_eq!(ids_of_responses(&mut events, 1).await, [(false, "raw".to_owned())]);

    let texts = ["one", "two", "three"].map(|text| session.send_raw(text));
    let [one, two, three] = texts;
    drop(one);
    let mut two = Box::pin(two);
    assert!(futures_util::poll!(&mut two).is_pending());
    drop(two);
    three.await.expect("written");
    assert_eq!(station.receive().await, "three", "texts whose futures are dropped are not sent");

    session.close(Close::normal()).await;
    assert!(matches!(session.send_raw("late").await, Err(Error::Closed)));
}

#[tokio::test(start_paused = true)]
async fn b77_raw_texts_are_bounded_as_calls_are() {
    let server = server_with(RpcRouter::new(), Options::server().call_queue(2));
    let (station, session) = connected(&server, "ocpp1.6").await;
    let mut texts: Vec<_> = (0..3).map(|_| Box::pin(session.send_raw("text"))).collect();
    assert!(futures_util::poll!(&mut texts[0]).is_pending() && futures_util::poll!(&mut texts[1]).is_pending());
    assert!(matches!(futures_util::poll!(&mut texts[2]), Poll::Ready(Err(Error::QueueFull))));
    drop(texts);
    let text = tokio::spawn({
        let session = session.clone();
        async move { session.send_raw("x".repeat(100_000)).await }
    });
    tokio::task::yield_now().await;
    drop(station);
    assert!(matches!(text.await.expect("no panic"), Err(Error::Disconnected { maybe_delivered: true })));
}

#[tokio::test]
async fn b27_call_without_response_waits_for_its_turn() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let _first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let unanswered_call = tokio::spawn(session.call::<Value>("Forget", &()).fire_and_forget());
    tokio::task::yield_now().await;
    assert!(station.ws.next_now().is_none() && !unanswered_call.is_finished());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    assert_eq!(station.receive_call().await.1[0], "Forget");
    unanswered_call.await.expect("no panic").expect("written");
}

#[tokio::test]
async fn b28_calls_fail_at_once_while_closing_and_when_closed() {
    let server = server(RpcRouter::new());
    for close in [Close::normal(), Close::normal().drain(Duration::from_secs(30))] {
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        let pending = tokio::spawn(session.call::<Value>("Pending", &()));
        station.receive_call().await;
        let mut closing = Box::pin(session.close(close));
        // Calls fail as soon as close is called, before any other task has run.
        assert!(futures_util::poll!(&mut closing).is_pending());
        assert!(matches!(session.call::<Value>("Any", &()).now_or_never(), Some(Err(Error::Closing))));
        // They still fail while the close frame or the pending call has no response.
        tokio::task::yield_now().await;
        assert!(matches!(session.call::<Value>("Any", &()).now_or_never(), Some(Err(Error::Closing))));
        drop(station);
        closing.await;
        assert!(matches!(session.call::<Value>("Any", &()).now_or_never(), Some(Err(Error::Closed))));
        assert!(pending.await.expect("no panic").is_err());
    }
}

#[tokio::test]
async fn b29_call_queue_holds_a_thousand_calls() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let _ahead = tokio::spawn(session.call::<Value>("Ahead", &()));
    let (id, _) = station.receive_call().await;
    let mut waiting: Vec<_> = (0..1000).map(|n| Box::pin(session.call::<Value>("Wait", &json!({"n": n})))).collect();
    for call in &mut waiting {
        assert!(futures_util::poll!(call).is_pending());
    }
    assert!(matches!(session.call::<Value>("Full", &()).await, Err(Error::QueueFull)));
    // A dropped call frees its place in the queue.
    waiting.pop();
    tokio::task::yield_now().await;
    let mut fits = Box::pin(session.call::<Value>("Fits", &()));
    assert!(futures_util::poll!(&mut fits).is_pending());
    assert!(matches!(session.call::<Value>("Full", &()).await, Err(Error::QueueFull)));
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    for n in 0..999 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Wait", {"n": n}]));
        station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    }
    assert_eq!(station.receive_call().await.1[0], "Fits");
}
