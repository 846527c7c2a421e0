//! The client: calls, handlers and options across its connections.

use std::{convert::Infallible, sync::Arc};

use futures_util::StreamExt;
use ocpp_rpc::{
    CallError, Close, Error, Options, RpcRouter, RpcServer, Session,
    client::ClientState,
    close::CloseCause,
    event::EventKind,
    extract::{CancellationToken, State},
    handler::{IncomingCall, Response},
    middleware::{self, Next},
};
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    csms::{Csms, accept, becomes, client, connected, connecting, reconnect},
    support::{SECOND, echo, serve},
};

#[tokio::test]
async fn client_and_server_call_each_other() {
    let server =
        RpcServer::builder(RpcRouter::new().on("Echo", echo)).protocols(["ocpp1.6"]).build().expect("valid settings");
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.router(RpcRouter::new().on("Echo", echo)));
    serve(&server, dials.next().await);
    attempt.await.expect("no panic").expect("connected");
    assert_eq!((client.state(), client.session().protocol().as_deref()), (ClientState::Open, Some("ocpp1.6")));
    assert_eq!(client.call::<Value>("Echo", &json!({"a": 1})).await.expect("a response"), json!({"a": 1}));
    let session = server.session("CP-1").expect("registered");
    assert_eq!(session.call::<Value>("Echo", &json!({"b": 2})).await.expect("a response"), json!({"b": 2}));
    let closed = client.close(Close::new(1000).reason("bye")).await;
    assert_eq!((closed.code, closed.cause, client.state()), (1000, CloseCause::Local, ClientState::Closed));
    assert_eq!((session.closed().await.code, &*session.closed().await.reason), (1000, "bye"));
}

#[tokio::test(start_paused = true)]
async fn b28_calls_made_while_connecting_are_queued_in_order() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    let stream = dials.next().await;
    let calls = ["A", "B", "C"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    let late = tokio::spawn(client.call::<Value>("Late", &()).total_timeout(2 * SECOND));
    let dropped = tokio::spawn(client.call::<Value>("Dropped", &()));
    tokio::task::yield_now().await;
    dropped.abort();
    assert!(matches!(late.await.expect("no panic"), Err(Error::NeverSent)));
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    for action in ["A", "B", "C"] {
        csms.answer(action).await;
    }
    attempt.await.expect("no panic").expect("connected");
    for call in calls {
        call.await.expect("no panic").expect("a response");
    }
    let more = timeout(20 * SECOND, csms.receive()).await;
    assert!(more.is_err(), "dropped and timed out calls are never sent: {more:?}");
}

#[tokio::test(start_paused = true)]
async fn b29_disconnect_fails_written_calls_and_keeps_queued_ones() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let written = tokio::spawn(client.call::<Value>("Written", &()));
    csms.receive_call("Written").await;
    let waiting = ["A", "B"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    tokio::task::yield_now().await;
    drop(csms);
    assert!(written.await.expect("no panic").expect_err("disconnected").maybe_delivered());
    assert_eq!(client.state(), ClientState::Connecting);
    let during = tokio::spawn(client.call::<Value>("C", &()));
    let mut csms = dials.accept("ocpp1.6").await;
    for action in ["A", "B", "C"] {
        csms.answer(action).await;
    }
    for call in waiting.into_iter().chain([during]) {
        call.await.expect("no panic").expect("a response");
    }
    becomes(&client, ClientState::Open).await;
}

#[tokio::test(start_paused = true)]
async fn b40_response_to_a_call_of_an_earlier_connection_is_unmatched() {
    let (builder, mut dials) = client();
    let options = Options::client().max_bad_messages(0);
    let (client, mut csms) = connected(builder.reconnect(reconnect()).options(options), &mut dials).await;
    let mut ids = Vec::new();
    for id in [None, Some("own")] {
        let call = client.call::<Value>("Lost", &());
        let call = tokio::spawn(if let Some(id) = id { call.id(id) } else { call });
        ids.push(csms.receive_call("Lost").await);
        drop(csms);
        assert!(matches!(call.await.expect("no panic"), Err(Error::Disconnected { maybe_delivered: true })));
        csms = dials.accept("ocpp1.6").await;
    }
    let mut events = client.events();
    for id in &ids {
        csms.send(json!([3, id, {}])).await;
    }
    let mut unmatched = Vec::new();
    while unmatched.len() < ids.len() {
        match events.next().await.expect("another event").kind {
            EventKind::UnmatchedResponse(id) => unmatched.push(id.to_string()),
            EventKind::LateResponse(_) | EventKind::BadMessage { .. } => panic!("a late response, or a bad message"),
            _ => {}
        }
    }
    assert_eq!(unmatched, ids);
    // No later call has an id of these.
    let _call = tokio::spawn(client.call::<Value>("Next", &()));
    assert!(!ids.contains(&csms.receive_call("Next").await));
}

#[tokio::test(start_paused = true)]
async fn b52_handler_response_is_sent_after_reconnect_or_dropped() {
    async fn wait(disconnected: CancellationToken, State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        disconnected.cancelled().await;
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(json!({"late": true}))
    }
    for keeps in [true, false] {
        for finished_offline in [true, false] {
            let gate = Arc::new(Semaphore::new(0));
            let router = RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo);
            let policy = if keeps { reconnect() } else { reconnect().drop_responses(true) };
            let (builder, mut dials) = client();
            let (client, mut csms) = connected(builder.router(router).reconnect(policy), &mut dials).await;
            csms.send(json!([2, "1", "Wait", {}])).await;
            csms.send(json!([2, "2", "Echo", {}])).await;
            assert_eq!(csms.receive().await, json!([3, "2", {}]));
            drop(csms);
            becomes(&client, ClientState::Connecting).await;
            if finished_offline {
                gate.add_permits(1);
            }
            let mut csms = dials.accept("ocpp1.6").await;
            // The id is free on this connection, even if the earlier handler still runs.
            csms.send(json!([2, "1", "Echo", {}])).await;
            let mut seen = vec![csms.receive().await];
            gate.add_permits(1);
            csms.send(json!([2, "3", "Echo", {}])).await;
            while seen.last() != Some(&json!([3, "3", {}])) {
                seen.push(csms.receive().await);
            }
            if let Ok(more) = timeout(SECOND, csms.receive()).await {
                seen.push(more);
            }
            assert!(seen.contains(&json!([3, "1", {}])), "{seen:?}");
            assert_eq!(seen.contains(&json!([3, "1", {"late": true}])), keeps, "{seen:?}");
        }
    }
}

/// Returns when its connection has ended.
async fn wait(disconnected: CancellationToken) -> Result<(), Infallible> {
    disconnected.cancelled().await;
    Ok(())
}

/// Delays each call until the gate has another permit.
async fn delay(State(gate): State<Arc<Semaphore>>, call: IncomingCall, next: Next) -> Response {
    gate.acquire().await.expect("never closed").forget();
    next.run(call).await
}

#[tokio::test(start_paused = true)]
async fn token_of_a_delayed_handler_is_that_of_its_own_connection() {
    let gate = Arc::new(Semaphore::new(0));
    let delay = middleware::from_fn_with_state(gate.clone(), delay);
    let router = RpcRouter::new().on("Wait", wait).layer(delay).on("Echo", echo);
    let (builder, mut dials) = client();
    let (_client, mut csms) = connected(builder.router(router).reconnect(reconnect()), &mut dials).await;
    csms.send(json!([2, "1", "Wait", {}])).await;
    csms.send(json!([2, "2", "Echo", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "2", {}]));
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    csms.send(json!([2, "3", "Echo", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "3", {}]));
    gate.add_permits(1);
    assert_eq!(timeout(SECOND, csms.receive()).await, Ok(json!([3, "1", {}])));
}

#[tokio::test(start_paused = true)]
async fn token_of_a_new_run_outlives_the_handlers_of_the_last_run() {
    async fn late(_: CancellationToken, State(gate): State<Arc<Semaphore>>) -> Result<(), CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(())
    }
    for takes_token_between in [true, false] {
        let gate = Arc::new(Semaphore::new(0));
        let router = RpcRouter::with_state(gate.clone())
            .on("Late", late)
            .layer(middleware::from_fn_with_state(gate.clone(), delay))
            .on("Wait", wait)
            .on("Echo", echo);
        let (builder, mut dials) = client();
        let (client, mut csms) = connected(builder.router(router), &mut dials).await;
        csms.send(json!([2, "1", "Late", {}])).await;
        csms.send(json!([2, "2", "Echo", {}])).await;
        assert_eq!(csms.receive().await, json!([3, "2", {}]));
        drop(csms);
        client.close(Close::normal()).await;
        if takes_token_between {
            gate.add_permits(1);
            tokio::time::sleep(SECOND).await;
        }
        let (opened, mut csms) = tokio::join!(client.connect(), dials.accept("ocpp1.6"));
        opened.expect("connected");
        gate.add_permits(2);
        tokio::time::sleep(SECOND).await;
        csms.send(json!([2, "3", "Wait", {}])).await;
        let waited = timeout(SECOND, csms.receive()).await;
        assert!(waited.is_err(), "the connection is open: {waited:?} with {takes_token_between}");
    }
}

#[tokio::test(start_paused = true)]
async fn b04_options_and_handlers_change_on_an_open_connection() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder.router(RpcRouter::new().on("Echo", echo)), &mut dials).await;
    let options = Options::client().call_concurrency(2).call_timeout(3 * SECOND).ping_interval(5 * SECOND);
    client.update(|settings| settings.options(options)).expect("valid settings");
    let invalid = Options::client().call_concurrency(0);
    assert!(client.update(|settings| settings.options(invalid)).is_err());
    let start = Instant::now();
    let calls = ["A", "B"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    csms.receive_call("A").await;
    csms.receive_call("B").await;
    for call in calls {
        assert!(call.await.expect("no panic").expect_err("no response").is_timeout());
    }
    assert_eq!(start.elapsed().as_secs(), 3);
    assert!(matches!(csms.0.next().await, Some(Ok(Message::Ping(_)))));
    assert_eq!(start.elapsed().as_secs(), 5);

    client.update(|settings| settings.router(RpcRouter::new().on("New", echo))).expect("valid settings");
    csms.send(json!([2, "1", "Echo", {}])).await;
    assert_eq!(csms.receive().await[0], 4);
    csms.send(json!([2, "2", "New", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "2", {}]));
}

#[tokio::test]
async fn client_handler_takes_the_session_of_its_client() {
    async fn identify(session: Session) -> Result<Value, Infallible> {
        Ok(json!({"identity": session.identity()}))
    }
    let (builder, mut dials) = client();
    let (_client, mut csms) = connected(builder.router(RpcRouter::new().on("Any", identify)), &mut dials).await;
    csms.send(json!([2, "1", "Any", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "1", {"identity": "CP-1"}]));
}

#[tokio::test(start_paused = true)]
async fn b28_calls_without_connection_are_refused_if_set() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder.reconnect(reconnect().refuse_calls(true)));
    let refused = async || {
        let outcome = client.call::<Value>("A", &()).await;
        assert!(matches!(&outcome, Err(error @ Error::NotConnected) if error.is_retryable()), "{outcome:?}");
    };
    let stream = dials.next().await;
    refused().await;
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    // A call that is queued when the connection is lost stays queued.
    let [first, second] = ["First", "Second"].map(|action| tokio::spawn(client.call::<Value>(action, &())));
    csms.receive_call("First").await;
    drop(csms);
    assert!(first.await.expect("no panic").expect_err("disconnected").maybe_delivered());
    refused().await;
    let mut csms = dials.accept("ocpp1.6").await;
    csms.answer("Second").await;
    second.await.expect("no panic").expect("a response");
    let third = tokio::spawn(client.call::<Value>("Third", &()));
    csms.answer("Third").await;
    third.await.expect("no panic").expect("a response");
}
