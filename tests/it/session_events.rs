//! Events of sessions: the session that each belongs to, and how each call ended.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex, OnceLock},
};

use futures_util::FutureExt;
use ocpp_rpc::{
    Accept, CallError, Close, Error, ErrorCode, Handshake, Options, Reject, RpcRouter, RpcServer, Session,
    event::{CallOutcome, Direction, Event, EventKind, Events},
    extract::{Params, Responder},
    handler::NoResponse,
    server::DuplicateIdentity,
};
use serde_json::{Value, json};

use crate::{
    csms::{client, connected as client_connected},
    support::{SECOND, Station, connected, echo, gated, opened, server_with},
};

/// Returns direction, id, action, outcome and milliseconds of the next call that ends.
async fn ended(events: &mut Events) -> (&'static str, String, String, String, u128) {
    events
        .expect(|event| match event.kind {
            EventKind::CallEnded { direction, id, action, outcome, duration, .. } => {
                let direction = if direction == Direction::In { "in" } else { "out" };
                let (id, action) = (id.to_string(), action.to_string());
                Some((direction, id, action, outcome.to_string(), duration.as_millis()))
            }
            _ => None,
        })
        .await
}

fn options() -> Options {
    Options::server().ping_interval(None)
}

#[tokio::test(start_paused = true)]
async fn b75_events_of_a_session_carry_its_id_key_and_identity() {
    let authenticator =
        async |handshake: Handshake| Ok::<_, Reject>(Accept::new().key(format!("acme/{}", handshake.identity())));
    let router = RpcRouter::new().on("Echo", echo);
    let server = RpcServer::builder(router).options(options()).auth(authenticator).build().expect("valid settings");
    let mut events = server.events();
    let mut ids = Vec::new();
    for _ in 0..2 {
        let mut station = Station::connect(&server, "CP-1", "").await;
        station.ask(r#"[2,"1","Echo",{}]"#).await;
        let session = server.session("acme/CP-1").expect("registered");
        station.close(1000, "bye").await;
        session.closed().await;
        ids.push(session.id());
        let mut kinds = Vec::new();
        loop {
            let event = events.next().await.expect("more events");
            assert_eq!(event.session_id, Some(session.id()), "{event:?}");
            assert_eq!((event.key.as_deref(), event.identity.as_deref()), (Some("acme/CP-1"), Some("CP-1")));
            let json: Value = serde_json::from_str(&serde_json::to_string(&event).expect("JSON")).expect("JSON");
            assert_eq!((&json["session_id"], &json["key"]), (&json!(session.id()), &json!("acme/CP-1")));
            kinds.push(json["type"].as_str().expect("a text").to_owned());
            if let EventKind::Closed(_) = event.kind {
                break;
            }
        }
        let all = ["opened", "received", "call", "sent", "call_result", "call_ended", "response_written", "closed"];
        assert_eq!(kinds, all);
    }
    assert!(ids[0] < ids[1]);
}

#[tokio::test(start_paused = true)]
async fn b75_opened_event_carries_the_session() {
    let server = server_with(RpcRouter::new(), options());
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = opened(&mut events).await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#)).await;
    assert_eq!(call.await.expect("no panic").expect("a response"), json!({"status": "Accepted"}));

    let refused = server.clone().close(Close::normal()).now_or_never();
    assert!(refused.is_none());
    let mut late = crate::tcp::Client::over(crate::support::dial(&server));
    assert_eq!(late.ask(&crate::tcp::head("/CP-2")).await.status, 503);
    let is_refused = |event: &Event| matches!(event.kind, EventKind::HandshakeRefused { .. });
    let refused = events.expect(|event| is_refused(&event).then_some(event)).await;
    assert!(refused.session().is_none() && refused.session_id.is_none());
}

#[tokio::test(start_paused = true)]
async fn b75_unread_events_keep_no_session() {
    /// Data of a session that uses the server when it is dropped.
    #[derive(Clone)]
    struct Data(Arc<OnceLock<RpcServer>>, #[allow(dead_code, reason = "counts the copies")] Arc<()>);

    impl Drop for Data {
        fn drop(&mut self) {
            let _ = self.0.get().map(RpcServer::events);
        }
    }

    let (own, kept) = (Arc::new(OnceLock::new()), Arc::new(()));
    let weak = Arc::downgrade(&kept);
    let data = Mutex::new(Some(Data(own.clone(), kept)));
    let authenticator = move |_: Handshake| {
        let data = data.lock().expect("no panic").take().expect("one handshake");
        async move { Ok::<_, Reject>(Accept::new().extension(data)) }
    };
    let server = RpcServer::builder(RpcRouter::new().on("Echo", echo)).options(options()).auth(authenticator);
    let server = server.build().expect("valid settings");
    own.set(server.clone()).expect("set once");
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "").await;
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    let session = server.session("CP-1").expect("registered");
    station.close(1000, "bye").await;
    session.closed().await;
    drop((station, session));
    tokio::time::sleep(SECOND).await;
    assert!(weak.upgrade().is_none(), "the session is gone although its events are not read");
    let is_opened = |event: &Event| matches!(event.kind, EventKind::Opened { .. });
    let opened = events.expect(|event| is_opened(&event).then_some(event)).await;
    assert!(opened.session().is_none() && opened.session_id.is_some());
}

#[tokio::test(start_paused = true)]
async fn b75_each_call_of_a_station_that_ended_is_an_event() {
    async fn slow() -> Result<(), Infallible> {
        tokio::time::sleep(2 * SECOND).await;
        Ok(())
    }
    async fn refuse() -> Result<(), CallError> {
        Err(ErrorCode::SECURITY_ERROR.into())
    }
    async fn early(responder: Responder) -> Result<NoResponse, Error> {
        responder.send(json!({})).await?;
        tokio::time::sleep(SECOND).await;
        Ok(NoResponse)
    }
    async fn silent() -> Result<NoResponse, Infallible> {
        Ok(NoResponse)
    }
    async fn invalid() -> Result<Value, Infallible> {
        Ok(json!([]))
    }
    async fn panics(Params(_): Params<Value>) -> Result<(), Infallible> {
        panic!("a bug")
    }
    let router = RpcRouter::new().on("Echo", echo).on("Slow", slow).on("Refuse", refuse).on("Early", early);
    let router = router.on("Silent", silent).on("Invalid", invalid).on("Panics", panics);
    let server = server_with(router, options().handler_concurrency(1).handler_queue(1));
    let (mut station, _session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    for (action, outcome, millis) in [
        ("Echo", "result", 0),
        ("Slow", "result", 2000),
        ("Refuse", "SecurityError", 0),
        ("Early", "responded_early", 1000),
        ("Silent", "no_response", 0),
        ("Invalid", "InternalError", 0),
        ("Panics", "InternalError", 0),
        ("Nothing", "NotImplemented", 0),
    ] {
        station.send(format!(r#"[2,"1","{action}",{{}}]"#)).await;
        let expected = ("in", "1".to_owned(), action.to_owned(), outcome.to_owned(), millis);
        assert_eq!(ended(&mut events).await, expected);
    }
    // A SEND, and a call for which there is no room.
    station.send(r#"[6,"2","Echo",{}]"#).await;
    assert_eq!(ended(&mut events).await.3, "no_response");
    for id in 1..=3 {
        station.send(format!(r#"[2,"{id}","Slow",{{}}]"#)).await;
    }
    assert_eq!(ended(&mut events).await, ("in", "3".to_owned(), "Slow".to_owned(), "GenericError".to_owned(), 0));
    assert_eq!(ended(&mut events).await.1, "1");
    // The handler of the last call outlives its connection.
    drop(station);
    assert_eq!(ended(&mut events).await.3, "disconnected");
}

/// A router with a handler, `Stick`, that never ends, and one, `Early`, that does the same after its response.
fn sticky() -> RpcRouter {
    async fn stick() -> Result<(), Infallible> {
        std::future::pending().await
    }
    async fn early(responder: Responder) -> Result<(), Infallible> {
        drop(responder.send(json!({})));
        std::future::pending().await
    }
    RpcRouter::new().on("Stick", stick).on("Early", early).on("Echo", echo)
}

/// Returns id, outcome and milliseconds of the calls that have ended, sorted, until an event that `is_last`.
async fn all_ended(events: &mut Events, is_last: impl Fn(&EventKind) -> bool) -> Vec<(String, String, u128)> {
    let mut ended = Vec::new();
    loop {
        match events.next().await.expect("more events").kind {
            EventKind::CallEnded { direction: Direction::In, id, outcome, duration, .. } => {
                ended.push((id.to_string(), outcome.to_string(), duration.as_millis()));
            }
            last if is_last(&last) => break,
            _ => {}
        }
    }
    ended.sort();
    ended
}

fn outcomes<const N: usize>(outcomes: [(&str, &str, u128); N]) -> Vec<(String, String, u128)> {
    outcomes.map(|(id, outcome, millis)| (id.to_owned(), outcome.to_owned(), millis)).into()
}

#[tokio::test(start_paused = true)]
async fn b75_queued_calls_end_with_their_connection() {
    let server = server_with(sticky(), options().handler_concurrency(1));
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    for text in [r#"[2,"1","Stick",{}]"#, r#"[2,"2","Echo",{}]"#, r#"[6,"3","Echo",{}]"#] {
        station.send(text).await;
    }
    tokio::time::sleep(SECOND).await;
    station.close(1000, "bye").await;
    session.closed().await;
    let ended = all_ended(&mut events, |event| matches!(event, EventKind::Closed(_))).await;
    assert_eq!(ended, outcomes([("2", "disconnected", 0), ("3", "disconnected", 0)]));
}

#[tokio::test(start_paused = true)]
async fn b75_calls_end_when_a_forced_close_drops_their_handlers() {
    for calls in [1, 3] {
        let server = server_with(sticky(), options());
        let (mut station, session) = connected(&server, "ocpp2.1").await;
        let mut events = server.events();
        for text in &[r#"[2,"1","Stick",{}]"#, r#"[2,"2","Early",{}]"#, r#"[6,"3","Stick",{}]"#][..calls] {
            station.send(*text).await;
        }
        tokio::time::sleep(2 * SECOND).await;
        session.close(Close::forced()).await;
        let ended = all_ended(&mut events, |event| matches!(event, EventKind::Closed(_))).await;
        let all = [("1", "disconnected", 2000), ("2", "responded_early", 2000), ("3", "disconnected", 2000)];
        assert_eq!(ended, outcomes(all)[..calls]);
    }
}

#[tokio::test(start_paused = true)]
async fn b75_calls_end_when_a_server_or_a_client_drops_their_handlers() {
    // A server that has run out of time.
    let server = server_with(sticky(), options());
    let (mut station, _session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    station.send(r#"[2,"1","Stick",{}]"#).await;
    tokio::time::sleep(SECOND).await;
    let stopping = tokio::spawn(async move { server.close(Close::normal()).await });
    station.closed().await;
    drop(station);
    assert_eq!(stopping.await.expect("no panic").forced, 1);
    let mut ended = all_ended(&mut events, |event| matches!(event, EventKind::Closed(_))).await;
    if ended.is_empty() {
        // The handler has outlived its session.
        ended.extend(events.next().now_or_never().flatten().map(|event| match event.kind {
            EventKind::CallEnded { id, outcome, .. } => (id.to_string(), outcome.to_string(), 0),
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!((ended.len(), &*ended[0].0, &*ended[0].1), (1, "1", "disconnected"));

    // A client without a connection.
    let (builder, mut dials) = client();
    let (client, mut csms) = client_connected(builder.router(sticky()), &mut dials).await;
    let mut events = client.events();
    csms.send(json!([2, "1", "Stick", {}])).await;
    tokio::time::sleep(SECOND).await;
    drop(csms);
    let _dial = dials.next().await;
    client.close(Close::forced()).await;
    let ended = all_ended(&mut events, |event| matches!(event, EventKind::Closed(_))).await;
    assert_eq!((ended.len(), &*ended[0].0, &*ended[0].1), (1, "1", "disconnected"));
}

#[tokio::test(start_paused = true)]
async fn b75_rejected_requests_end_at_once() {
    // A SEND above the allowed rate.
    let server = server_with(sticky(), options().call_rate(1, 10 * SECOND));
    let (mut station, _session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    for id in ["1", "2"] {
        station.send(format!(r#"[6,"{id}","Echo",{{}}]"#)).await;
    }
    let outcome = |id: &str, outcome: &str| ("in", id.to_owned(), "Echo".to_owned(), outcome.to_owned(), 0);
    assert_eq!(ended(&mut events).await, outcome("1", "no_response"));
    assert_eq!(ended(&mut events).await, outcome("2", "GenericError"));

    // A queue that no handler will serve, because too many have outlived their connections.
    let server = RpcServer::builder(sticky()).protocols(["ocpp2.1"]).options(options().handler_concurrency(1));
    let server = server.duplicate_identity(DuplicateIdentity::AllowBoth).build().expect("valid settings");
    let mut stations = Vec::new();
    for _ in 0..2 {
        let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
        station.send(r#"[2,"1","Stick",{}]"#).await;
        stations.push(station);
    }
    tokio::time::sleep(SECOND).await;
    let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
    tokio::time::sleep(SECOND).await;
    let session = server.session("CP-1").expect("registered");
    let (router, gate) = gated();
    session.set_router(router);
    for text in [r#"[2,"2","Wait",{}]"#, r#"[6,"3","Echo",{}]"#, r#"[2,"4","Echo",{}]"#] {
        station.send(text).await;
    }
    tokio::time::sleep(SECOND).await;
    drop(stations);
    tokio::time::sleep(SECOND).await;
    let mut events = server.events();
    gate.add_permits(1);
    tokio::time::sleep(SECOND).await;
    let mut seen = Vec::new();
    while let Some(event) = events.next().now_or_never().flatten() {
        match event.kind {
            EventKind::CallEnded { id, outcome, .. } => seen.push(format!("{id} {outcome}")),
            EventKind::UnhandledSend { id, .. } => seen.push(format!("{id} unhandled")),
            _ => {}
        }
    }
    assert_eq!(seen, ["2 result", "3 unhandled", "3 GenericError", "4 GenericError"]);
}

#[tokio::test(start_paused = true)]
async fn b75_each_call_to_a_station_that_ended_is_an_event() {
    let server = server_with(RpcRouter::new(), options().call_queue(2));
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    for (response, outcome) in [
        (r#"[3,"ID",{}]"#, "result"),
        (r#"[4,"ID","NotSupported","",{}]"#, "NotSupported"),
        (r#"[3,"ID",{"status":7}]"#, "decode"),
    ] {
        #[derive(Debug, serde::Deserialize)]
        struct Status {
            #[allow(dead_code, reason = "decoding is the test")]
            status: Option<String>,
        }
        let call = tokio::spawn(session.call::<Status>("Reset", &()));
        let (id, _) = station.receive_call().await;
        tokio::time::sleep(SECOND).await;
        station.send(response.replace("ID", &id)).await;
        let _ = call.await.expect("no panic");
        let expected = ("out", id, "Reset".to_owned(), outcome.to_owned(), 1000);
        assert_eq!(ended(&mut events).await, expected);
        if outcome == "decode" {
            assert!(station.receive().await.starts_with("[5,"));
        }
    }
    let late = session.call::<Value>("Late", &()).timeout(3 * SECOND).await;
    let (id, _) = station.receive_call().await;
    assert!(late.expect_err("no response").is_timeout());
    assert_eq!(ended(&mut events).await, ("out", id, "Late".to_owned(), "timeout".to_owned(), 3000));

    assert!(session.call::<Value>("Drop", &()).now_or_never().is_none());
    assert_eq!(ended(&mut events).await.3, "cancelled");
    for call in [session.call::<Value>("Any", &()).fire_and_forget(), session.send("Notify", &())] {
        call.await.expect("written");
        assert_eq!(ended(&mut events).await.3, "no_response");
    }
    // A call that is never polled is never made.
    drop(session.call::<Value>("Never", &()));
    let mut queued = [session.call::<Value>("First", &()), session.call("Second", &())].map(Box::pin);
    assert!(futures_util::future::join_all(&mut queued).now_or_never().is_none());
    let full = session.call::<Value>("Third", &()).await.expect_err("no room");
    assert!(matches!(full, Error::QueueFull), "{full}");
    assert_eq!(ended(&mut events).await.3, "queue_full");
    station.close(1000, "").await;
    futures_util::future::join_all(queued).await;
    assert_eq!(ended(&mut events).await.2, "First");
    let outcome = events.expect(|event| match event.kind {
        EventKind::CallEnded { outcome, .. } => Some(outcome),
        _ => None,
    });
    let outcome = outcome.await;
    assert!(matches!(outcome, CallOutcome::Failed(Error::Disconnected { maybe_delivered: false })), "{outcome:?}");
}

#[tokio::test(start_paused = true)]
async fn b75_responses_in_both_directions_name_their_action() {
    async fn refuse() -> Result<(), CallError> {
        Err(ErrorCode::SECURITY_ERROR.into())
    }
    async fn call(session: &Session, station: &mut Station, response: &str) {
        let call = tokio::spawn(session.call::<Value>("Reset", &()));
        let (id, _) = station.receive_call().await;
        station.send(response.replace("ID", &id)).await;
        let _ = call.await.expect("no panic");
    }
    let server = server_with(RpcRouter::new().on("Echo", echo).on("Refuse", refuse), options());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    let mut seen = async || {
        events
            .expect(|event| match event.kind {
                EventKind::CallResult { action, .. }
                | EventKind::CallError { action, .. }
                | EventKind::CallResultError { action, .. } => Some(action.as_deref().map(str::to_owned)),
                _ => None,
            })
            .await
    };
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    assert_eq!(seen().await.as_deref(), Some("Echo"));
    station.ask(r#"[2,"2","Refuse",{}]"#).await;
    assert_eq!(seen().await.as_deref(), Some("Refuse"));
    for response in [r#"[3,"ID",{}]"#, r#"[4,"ID","NotSupported","",{}]"#] {
        call(&session, &mut station, response).await;
        assert_eq!(seen().await.as_deref(), Some("Reset"));
    }
    // An error without id ends the only call in flight.
    call(&session, &mut station, r#"[4,"-1","RpcFrameworkError","",{}]"#).await;
    assert_eq!(seen().await.as_deref(), Some("Reset"));
    // The server cannot use this result.
    let unusable = tokio::spawn(session.call::<Vec<u8>>("GetLog", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    assert!(unusable.await.expect("no panic").is_err());
    assert_eq!(seen().await.as_deref(), Some("GetLog"));
    assert_eq!(seen().await.as_deref(), Some("GetLog"), "the CALLRESULTERROR");
    station.receive().await;
    station.send(r#"[3,"unknown",{}]"#).await;
    assert_eq!(seen().await, None);
}

#[tokio::test(start_paused = true)]
async fn b75_events_about_bad_messages_carry_their_id() {
    let server = server_with(RpcRouter::new().on("Echo", echo), options());
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    for (text, id) in [(r#"[2,"1",7,{}]"#, Some("1")), (r#"[7,"2",{}]"#, Some("2")), ("garbage", None)] {
        station.send(text).await;
        let bad = events.expect(|event| match event.kind {
            EventKind::BadMessage { text, id, .. } => Some((text.to_string(), id.as_deref().map(str::to_owned))),
            _ => None,
        });
        assert_eq!(bad.await, (text.to_owned(), id.map(str::to_owned)));
    }
}

/// Returns the names of the events until the one with this name, without those of the connection itself.
async fn names_until(events: &mut Events, last: &str) -> Vec<&'static str> {
    let mut names = Vec::new();
    while names.last() != Some(&last) {
        names.push(events.next().await.expect("more events").kind.name());
    }
    names
}

#[tokio::test(start_paused = true)]
async fn b104_events_of_a_message_are_in_order() {
    async fn early(responder: Responder) -> Result<NoResponse, Error> {
        responder.send(json!({})).await?;
        Ok(NoResponse)
    }
    let router = RpcRouter::new().on("Echo", echo).on("Early", early);
    let options = options().call_rate(6, 10 * SECOND);
    let server = server_with(router, options);
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut events = server.events();
    let rejected = ["received", "call", "sent", "call_error", "call_ended", "response_written"];
    for (text, names) in [
        (r#"[2,"1","Echo",{}]"#, &["received", "call", "sent", "call_result", "call_ended", "response_written"][..]),
        (
            r#"[2,"2","Echo"]"#,
            &["received", "call", "deviation", "sent", "call_result", "call_ended", "response_written"],
        ),
        // The handler ends when its response is written.
        (r#"[2,"3","Early",{}]"#, &["received", "call", "sent", "call_result", "response_written", "call_ended"]),
        // No handler, a bad message, a SEND without a handler, and calls above the allowed rate.
        (r#"[2,"4","Other",{}]"#, &rejected),
        (r#"[2,"5"]"#, &["received", "bad_message", "sent", "call_error", "response_written"]),
        (r#"[6,"6","Other",{}]"#, &["received", "send", "unhandled_send", "call_ended"]),
        (r#"[2,"7","Echo",{}]"#, &["received", "call", "sent", "call_result", "call_ended", "response_written"]),
        (r#"[2,"8","Echo",{}]"#, &rejected),
        (r#"[6,"9","Echo",{}]"#, &["received", "send", "unhandled_send", "call_ended"]),
    ] {
        station.send(text).await;
        assert_eq!(names_until(&mut events, names[names.len() - 1]).await, names, "{text}");
        if names.contains(&"sent") {
            station.receive().await;
        }
    }
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    call.await.expect("no panic").expect("a response");
    assert_eq!(names_until(&mut events, "call_ended").await, ["sent", "call", "received", "call_result", "call_ended"]);
}

#[cfg(feature = "ocpp-schemas")]
#[tokio::test(start_paused = true)]
async fn b104_failed_validation_comes_before_the_response() {
    use ocpp_rpc::validate::{OcppSchemas, Validation};

    let server = server_with(RpcRouter::new().on("Reset", echo), options().validation(Validation::new(OcppSchemas)));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    for text in [r#"[2,"1","Reset",{}]"#, r#"[2,"2","Reset",{"type":"Soft"}]"#] {
        station.send(text).await;
        let names = ["received", "call", "validation_failed", "sent", "call_error", "call_ended", "response_written"];
        assert_eq!(names_until(&mut events, "response_written").await, names, "{text}");
    }
}
