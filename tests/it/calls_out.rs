//! Calls that go out: their order, their time, their outcome, and how they are taken back.

use std::time::Duration;

use futures_util::future::join_all;
use ocpp_rpc::{Cause, Error, ErrorCode, EventKind, Options, Payload, RpcRouter, extract::CancellationToken};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{NextNow, SECOND, connected, server, server_with};

#[tokio::test]
async fn b23_calls_go_out_in_order_one_at_a_time_and_get_their_answers() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..20).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let answers = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..20 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Count", {"n": n}]));
        assert!(station.ws.next_now().is_none(), "the next one waits for the answer");
        station.send(format!(r#"[3,"{id}",{{"n":{n}}}]"#)).await;
    }
    for (n, answer) in answers.await.expect("no panic").into_iter().enumerate() {
        assert_eq!(answer.expect("an answer"), json!({"n": n}));
    }
}

#[tokio::test]
async fn b23_concurrency_lets_several_calls_out() {
    let server = server_with(RpcRouter::new(), Options::server().call_concurrency(3));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..5).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let _answers = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..3 {
        assert_eq!(station.receive_call().await.1, json!(["Count", {"n": n}]));
    }
    tokio::task::yield_now().await;
    assert!(station.ws.next_now().is_none());
}

#[tokio::test]
async fn b26_a_rejection_says_code_description_and_details_verbatim() {
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
async fn b25_the_timeout_runs_from_the_writing_of_a_call_and_a_total_deadline_from_its_making() {
    let server = server_with(RpcRouter::new(), Options::server().call_timeout(10 * SECOND));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    let timed = |call: ocpp_rpc::Call<Value>| async move { (call.await, start.elapsed().as_secs()) };
    let calls = tokio::spawn(join_all([
        timed(session.call("First", &())),
        timed(session.call("Second", &()).timeout(3 * SECOND)),
        timed(session.call("Third", &()).within(12 * SECOND)),
    ]));
    let (late, _) = station.receive_call().await;
    let outcomes = calls.await.expect("no panic");
    assert!(matches!(outcomes[0], (Err(Error::Timeout), 10)), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], (Err(Error::Timeout), 13)), "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], (Err(Error::NeverSent), 12)), "{:?}", outcomes[2]);
    let mut events = server.events();
    station.send(format!(r#"[3,"{late}",{{}}]"#)).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::LateAnswer(ref id) if id.as_str() == late) {}
}

#[tokio::test(start_paused = true)]
async fn b24_a_dropped_call_in_line_is_never_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let second = tokio::spawn(session.call::<Value>("Second", &()));
    tokio::task::yield_now().await;
    second.abort();
    assert!(second.await.expect_err("aborted").is_cancelled());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("an answer");
    station.silent().await;
}

#[tokio::test]
async fn b24_a_dropped_call_in_flight_frees_its_place() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    first.abort();
    let _second = tokio::spawn(session.call::<Value>("Second", &()));
    assert_eq!(station.receive_call().await.1[0], "Second");
}

#[tokio::test]
async fn b29_a_full_queue_refuses_at_once_and_recovers() {
    let server = server_with(RpcRouter::new(), Options::server().call_queue(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let waiting = [session.call::<Value>("A", &()), session.call("B", &())].map(tokio::spawn);
    tokio::task::yield_now().await;
    let refused = session.call::<Value>("C", &()).await.expect_err("full");
    assert!(matches!(refused, Error::QueueFull) && refused.is_retryable());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("an answer");
    assert_eq!(station.receive_call().await.1[0], "A");
    let _fits = tokio::spawn(session.call::<Value>("D", &()));
    for call in &waiting {
        assert!(!call.is_finished());
    }
}

#[tokio::test]
async fn b29_a_lost_connection_says_what_may_have_been_delivered() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = [session.call::<Value>("Written", &()), session.call("Waiting", &())].map(tokio::spawn);
    station.receive_call().await;
    drop(station);
    let [written, waiting] = calls;
    let error = written.await.expect("no panic").expect_err("lost");
    assert!(error.maybe_delivered() && !error.is_retryable(), "{error:?}");
    let error = waiting.await.expect("no panic").expect_err("lost");
    assert!(!error.maybe_delivered() && error.is_retryable(), "{error:?}");
    assert_eq!((session.closed().await.code, session.closed().await.cause), (1006, Cause::Remote));
    assert!(matches!(session.call::<Value>("After", &()).await, Err(Error::Closed)));
}

#[tokio::test]
async fn b26_parameters_and_answers_that_do_not_fit_are_errors_of_the_caller() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.call::<Value>("List", &[1, 2]).await, Err(Error::Encode(_))));
    let call = tokio::spawn(session.call::<std::collections::HashMap<String, u8>>("Typed", &()));
    let (id, call_text) = station.receive_call().await;
    assert_eq!(call_text, json!(["Typed", {}]), "the list was never written");
    station.send(format!(r#"[3,"{id}",{{"a":"b"}}]"#)).await;
    assert!(matches!(call.await.expect("no panic"), Err(Error::Decode(_))));
}

#[tokio::test]
async fn b27_a_call_without_answer_is_done_when_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    session.call::<Value>("Forget", &()).without_answer().await.expect("written");
    assert_eq!(station.receive_call().await.1[0], "Forget");
}

#[tokio::test]
async fn b27_a_send_goes_out_beside_a_call_where_the_protocol_has_it() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let _call = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    session.send("NotifyPeriodicEventStream", &json!({"id": 1})).await.expect("written");
    let text = station.receive().await;
    assert!(text.starts_with("[6,") && text.ends_with(r#","NotifyPeriodicEventStream",{"id":1}]"#), "{text}");

    let (_station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.send("Any", &()).await, Err(Error::NoSend)));
}

#[tokio::test]
async fn b24_a_call_is_taken_back_by_its_token() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let token = CancellationToken::new();
    let call = tokio::spawn(session.call::<Value>("First", &()).cancelled_by(&token));
    station.receive_call().await;
    token.cancel();
    let error = call.await.expect("no panic").expect_err("taken back");
    assert!(matches!(error, Error::Cancelled) && error.maybe_delivered());
    let _next = tokio::spawn(session.call::<Value>("Second", &()));
    assert_eq!(station.receive_call().await.1[0], "Second", "the place is free");
    assert!(matches!(session.call::<Value>("Third", &()).cancelled_by(&token).await, Err(Error::Cancelled)));
}

#[tokio::test(start_paused = true)]
async fn calls_that_time_out_in_a_row_are_counted() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    session.peer().set_options(Options::server().call_timeout(Duration::from_secs(1))).expect("sound");
    for expected in 1..=3 {
        assert!(session.call::<Value>("Ignored", &()).await.expect_err("silence").is_timeout());
        assert_eq!(session.peer().consecutive_timeouts(), expected);
        station.receive_call().await;
    }
    let call = tokio::spawn(session.call::<Value>("Answered", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","NotSupported","",{{}}]"#)).await;
    assert!(call.await.expect("no panic").is_err());
    assert_eq!(session.peer().consecutive_timeouts(), 0, "a refusal is an answer too");
}
