//! Calls that come in: who answers them, with what, and how many at once.

use std::convert::Infallible;

use futures_util::SinkExt;
use ocpp_rpc::{
    CallError, ErrorCode, EventKind, NoReply, Options, Payload, RpcRouter, RpcServer, Session,
    extract::{Action, CancellationToken, MessageId, Params, Peer, State},
};
use serde_json::{Value, json};
use tokio::time::Instant;
use tokio_tungstenite::tungstenite::Message;

use crate::support::{SECOND, Station, dial_with_buffer, echo, gated, server, server_with};

#[tokio::test]
async fn b31_a_call_is_answered_by_the_handler_of_its_action() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"a\"1","Echo",{"x":[1,2]}]"#).await, r#"[3,"a\"1",{"x":[1,2]}]"#);
    assert_eq!(station.ask(r#"[2,"2","Echo"]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn b32_handlers_get_what_they_ask_for() {
    async fn all(
        State(greeting): State<&'static str>,
        action: Action,
        id: MessageId,
        session: Session,
        peer: Peer,
        payload: Payload,
        gone: CancellationToken,
    ) -> Result<Value, Infallible> {
        Ok(json!([greeting, action.as_str(), id.as_str(), session.identity(), peer.protocol(), payload])
            .as_array()
            .map(|seen| json!({"seen": seen, "gone": gone.is_cancelled()}))
            .unwrap_or_default())
    }
    let server = server(RpcRouter::with_state("hello").fallback(all));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    let answer = station.ask(r#"[2,"7","Any",{"p":1}]"#).await;
    assert_eq!(answer, r#"[3,"7",{"gone":false,"seen":["hello","Any","7","CP-1","ocpp2.0.1",{"p":1}]}]"#);
}

#[tokio::test]
async fn b33_errors_are_answered_as_the_protocol_spells_them() {
    async fn fail(Params(kind): Params<Value>) -> Result<Value, CallError> {
        match kind["kind"].as_str() {
            Some("call") => Err(CallError::new(ErrorCode::FORMAT_VIOLATION, "why").with_details(&json!({"at": 1}))),
            Some("panic") => panic!("a bug"),
            Some("list") => Ok(json!([1])),
            _ => Err(CallError::from(Box::<dyn std::error::Error + Send + Sync>::from("secret"))),
        }
    }
    let server = server(RpcRouter::new().on("Fail", fail));
    let mut old = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let mut new = Station::connect(&server, "CP-2", "ocpp2.0.1").await;
    let internal = r#"[4,"1","InternalError","An internal error occurred",{}]"#;
    for (kind, v16, v201) in [
        ("call", r#"[4,"1","FormationViolation","why",{"at":1}]"#, r#"[4,"1","FormatViolation","why",{"at":1}]"#),
        ("panic", internal, internal),
        ("list", internal, internal),
        ("other", internal, internal),
    ] {
        let call = format!(r#"[2,"1","Fail",{{"kind":"{kind}"}}]"#);
        assert_eq!(old.ask(&call).await, v16);
        assert_eq!(new.ask(&call).await, v201);
    }
    assert_eq!(old.ask(r#"[2,"2","Nobody",{}]"#).await, r#"[4,"2","NotImplemented","",{}]"#);
}

#[tokio::test]
async fn b32_parameters_that_do_not_fit_are_refused_with_a_reason() {
    async fn typed(Params(_): Params<std::collections::HashMap<String, u8>>) -> Result<(), Infallible> {
        Ok(())
    }
    let server = server(RpcRouter::new().on("Typed", typed));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let answer = station.ask(r#"[2,"1","Typed",{"x":"\"no"}]"#).await;
    let (kind, _, code, why, _): (u8, String, String, String, Value) = serde_json::from_str(&answer).expect("JSON");
    assert_eq!((kind, &*code), (4, "FormationViolation"));
    assert!(why.contains("invalid type: string"), "{why}");
}

#[tokio::test]
async fn b34_detailed_errors_tell_what_an_internal_error_was_about() {
    async fn fail() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("the database is down".into())
    }
    let server = server_with(RpcRouter::new().on("Fail", fail), Options::server().detailed_errors());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert!(station.ask(r#"[2,"1","Fail",{}]"#).await.contains("the database is down"));
}

#[tokio::test]
async fn b33_a_handler_may_leave_a_call_unanswered() {
    async fn silent() -> Result<NoReply, Infallible> {
        Ok(NoReply)
    }
    let server = server(RpcRouter::new().on("Silent", silent).on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.send(r#"[2,"1","Silent",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn layers_wrap_handlers() {
    tokio::time::pause();
    async fn slow() -> Result<(), Infallible> {
        tokio::time::sleep(60 * SECOND).await;
        Ok(())
    }
    let layer = tower::timeout::TimeoutLayer::new(20 * SECOND);
    let server = server(RpcRouter::new().on("Slow", slow).layer(layer).on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let start = Instant::now();
    assert!(station.ask(r#"[2,"1","Slow",{}]"#).await.starts_with(r#"[4,"1","InternalError""#));
    assert_eq!(start.elapsed().as_secs(), 20);
}

#[tokio::test]
async fn b35_an_id_that_is_being_worked_on_is_refused_and_the_first_call_is_answered() {
    for (protocol, code) in [("ocpp1.6", "GenericError"), ("ocpp2.0.1", "RpcFrameworkError")] {
        let (router, gate) = gated();
        let server = server(router);
        let mut station = Station::connect(&server, "CP-1", protocol).await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        assert!(station.ask(r#"[2,"1","Echo",{}]"#).await.starts_with(&format!(r#"[4,"1","{code}""#)));
        gate.add_permits(1);
        assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
        assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "the id is free again");
    }
}

#[tokio::test]
async fn b31_calls_beyond_the_limit_wait_in_line_and_beyond_that_are_refused() {
    let (router, gate) = gated();
    let server = server_with(router, Options::server().handler_concurrency(1).handler_queue(1));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    for id in 1..=3 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"3","GenericError","too many calls"#));
    gate.add_permits(2);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn answers_to_messages_of_one_read_leave_together() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (near, far) = tokio::io::duplex(64 << 10);
    let (mut station, mut raw) = tapped(&server, near, far).await;
    for id in 0..8 {
        station.ws.feed(Message::text(format!(r#"[2,"{id}","Echo",{{}}]"#))).await.expect("open");
    }
    station.ws.flush().await.expect("open");
    let writes = raw.recv().await.expect("a write");
    assert_eq!(writes, 8 * (2 + r#"[3,"0",{}]"#.len()), "one write has all eight answers");
}

/// A station whose server's writes are told of, each by its size.
async fn tapped(
    server: &RpcServer,
    near: tokio::io::DuplexStream,
    mut far: tokio::io::DuplexStream,
) -> (Station, tokio::sync::mpsc::UnboundedReceiver<usize>) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let (tell, told) = tokio::sync::mpsc::unbounded_channel();
    let mut inner = dial_with_buffer(server, 64 << 10);
    tokio::spawn(async move {
        let (mut up, mut down) = ([0; 4096], [0; 4096]);
        loop {
            tokio::select! {
                read = far.read(&mut up) => match read {
                    Ok(read @ 1..) => inner.write_all(&up[..read]).await.expect("open"),
                    _ => break,
                },
                read = inner.read(&mut down) => match read {
                    Ok(read @ 1..) => {
                        far.write_all(&down[..read]).await.expect("open");
                        let _ = tell.send(read);
                    }
                    _ => break,
                },
            }
        }
    });
    let station = Station::open(near, "CP-1", "ocpp1.6").await;
    let mut told = told;
    // The head of the response.
    told.recv().await;
    (station, told)
}

#[tokio::test]
async fn a_send_is_handled_and_never_answered() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
    station.send(r#"[6,"1","Echo",{}]"#).await;
    station.send(r#"[6,"2","Nobody",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"3","Echo",{}]"#).await, r#"[3,"3",{}]"#);
    loop {
        if let EventKind::UnhandledSend { action, .. } = events.next().await.expect("more").kind {
            return assert_eq!(action.as_str(), "Nobody");
        }
    }
}
