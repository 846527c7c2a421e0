//! Events that a server emits for its connections.

use ocpp_rpc::{
    Close, Options, RpcRouter, Session,
    event::{Direction, EventKind, Events},
    extract::Params,
};
use serde_json::{Value, json};

use crate::support::{SECOND, Station, connected, echo, server, server_with};

fn arrow(direction: Direction) -> &'static str {
    match direction {
        Direction::In => "in",
        Direction::Out => "out",
    }
}

/// Formats the next event as one line, with `ID` in place of the server's own ids. Skips raw messages and ends of calls.
async fn line(events: &mut Events) -> Option<String> {
    let mask = |id: &str| if id.len() == 36 { "ID".to_owned() } else { id.to_owned() };
    loop {
        return Some(match events.next().await?.kind {
            EventKind::Received(_) | EventKind::Sent(_) | EventKind::CallEnded { .. } => continue,
            EventKind::Opened { protocol, .. } => format!("opened {}", protocol.as_deref().unwrap_or("without")),
            EventKind::Closing => "closing".to_owned(),
            EventKind::Closed(closed) => format!("closed {closed}"),
            EventKind::Call { direction, id, action, params, .. } => {
                format!("{} call {} {action} {params:?}", arrow(direction), mask(id.as_str()))
            }
            EventKind::CallResult { direction, id, result, .. } => {
                format!("{} result {} {result:?}", arrow(direction), mask(id.as_str()))
            }
            EventKind::CallError { direction, id, error, .. } => {
                format!("{} error {} {error}", arrow(direction), mask(id.as_str()))
            }
            EventKind::CallResultError { direction, id, error, .. } => {
                format!("{} result error {} {error}", arrow(direction), mask(id.as_str()))
            }
            EventKind::Send { direction, id, action, params, .. } => {
                format!("{} send {} {action} {params:?}", arrow(direction), mask(id.as_str()))
            }
            EventKind::ResponseWritten(id) => format!("written {id}"),
            EventKind::LateResponse(id) => format!("late {}", mask(id.as_str())),
            EventKind::UnhandledSend { action, .. } => format!("unhandled {action}"),
            EventKind::Pong(time) => format!("pong {time:?}"),
            other => format!("{other:?}"),
        });
    }
}

#[tokio::test(start_paused = true)]
async fn b60_all_messages_of_a_connection_are_events_in_order() {
    let server = server_with(RpcRouter::new().on("Echo", echo), Options::server().ping_interval(None));
    let mut events = server.events();
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let mut seen = async || line(&mut events).await.expect("more");
    assert_eq!(seen().await, "opened ocpp2.1");

    station.ask(r#"[2,"1","Echo",{"a":1}]"#).await;
    assert_eq!(seen().await, r#"in call 1 Echo {"a":1}"#);
    assert_eq!(seen().await, r#"out result 1 {"a":1}"#);
    assert_eq!(seen().await, "written 1");

    station.ask(r#"[2,"2","Nothing",{}]"#).await;
    assert_eq!(seen().await, "in call 2 Nothing {}");
    assert_eq!(seen().await, "out error 2 NotImplemented: no handler for Nothing");
    assert_eq!(seen().await, "written 2");

    for (response, event) in
        [(r#"[3,"ID",{"b":2}]"#, r#"in result ID {"b":2}"#), (r#"[4,"ID","Code","why",{}]"#, "in error ID Code: why")]
    {
        let call = tokio::spawn(session.call::<Value>("Do", &json!({"c": 3})));
        let (id, _) = station.receive_call().await;
        station.send(response.replace("ID", &id)).await;
        let _ = call.await.expect("no panic");
        assert_eq!(seen().await, r#"out call ID Do {"c":3}"#);
        assert_eq!(seen().await, event);
    }

    let late = session.call::<Value>("Slow", &()).timeout(SECOND).await;
    assert!(late.expect_err("a timeout").is_timeout());
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    assert_eq!(seen().await, "out call ID Slow {}");
    assert_eq!(seen().await, "in result ID {}");
    assert_eq!(seen().await, "late ID");

    session.send("Notify", &json!({"d": 4})).await.expect("written");
    station.receive().await;
    assert_eq!(seen().await, r#"out send ID Notify {"d":4}"#);
    station.send(r#"[6,"3","Report",{}]"#).await;
    assert_eq!(seen().await, "in send 3 Report {}");
    assert_eq!(seen().await, "unhandled Report");
    station.send(r#"[5,"1","FormatViolation","no status",{}]"#).await;
    assert_eq!(seen().await, "in result error 1 FormatViolation: no status");

    let closing = tokio::spawn(async move { session.close(Close::normal().reason("enough")).await });
    station.closed().await;
    drop(station);
    closing.await.expect("no panic");
    assert_eq!(seen().await, "closing");
    assert_eq!(seen().await, "closed 1000 \"enough\" (local)");
}

#[tokio::test(start_paused = true)]
async fn b60_raw_messages_have_time_identity_and_direction() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let before = std::time::SystemTime::now();
    station.ask(" [2, \"1\", \"Echo\", {}]\n").await;
    station.send("garbage").await;
    for expected in ["in  [2, \"1\", \"Echo\", {}]\n", "out [3,\"1\",{}]", "in garbage"] {
        let text = events.expect(|event| {
            assert_eq!(event.identity.as_deref(), Some("CP-1"));
            assert!(event.at >= before && event.at <= std::time::SystemTime::now());
            match event.kind {
                EventKind::Received(text) => Some(format!("in {text}")),
                EventKind::Sent(text) => Some(format!("out {text}")),
                _ => None,
            }
        });
        assert_eq!(text.await, expected);
    }
}

#[tokio::test(start_paused = true)]
async fn b60_pong_event_has_round_trip_time() {
    let server = server_with(RpcRouter::new(), Options::server().ping_interval(10 * SECOND));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let responding = tokio::spawn(async move { station.closed().await });
    assert_eq!(line(&mut events).await.expect("more"), "pong 0ns");
    responding.abort();
}

#[tokio::test(start_paused = true)]
async fn b60_replaced_session_reports_its_cause() {
    let server = server(RpcRouter::new());
    let (mut old, _) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let _new = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(line(&mut events).await.expect("more"), "opened ocpp1.6");
    assert_eq!(old.closed().await.0, 1008);
    drop(old);
    assert_eq!(line(&mut events).await.expect("more"), "closing");
    assert_eq!(line(&mut events).await.expect("more"), "closed 1008 \"replaced by a newer connection\" (replaced)");
}

#[tokio::test]
async fn b60_slow_reader_gets_lagged_count_and_slows_nothing() {
    async fn who(Params(_): Params<Value>, session: Session) -> Result<Value, std::convert::Infallible> {
        Ok(json!({"to": session.identity()}))
    }
    let server = server(RpcRouter::new().on("Who", who));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut slow = server.events();
    let mut quick = server.events();
    let mut read = 0;
    // Each call emits six events: raw and parsed, in and out, one for its end, and one for the written response.
    for call in 0..1000 {
        let response = station.ask(format!(r#"[2,"{call}","Who",{{}}]"#)).await;
        assert_eq!(response, format!(r#"[3,"{call}",{{"to":"CP-1"}}]"#));
        while let Some(Some(event)) = futures_util::FutureExt::now_or_never(quick.next()) {
            assert!(!matches!(event.kind, EventKind::Lagged(_)));
            read += 1;
        }
    }
    assert_eq!(read, 6000);
    let EventKind::Lagged(lost) = slow.next().await.expect("more").kind else { panic!("no event was lost") };
    assert_eq!(lost, 6000 - Events::CAPACITY as u64);
    assert!(!matches!(slow.next().await.expect("more").kind, EventKind::Lagged(_)));
}
