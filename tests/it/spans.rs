//! Spans and log lines of connections and calls.

use http::StatusCode;
use ocpp_rpc::{
    CallError, ErrorCode, Handshake, Mask, MessageId, Reject, RpcRouter, RpcServer,
    client::ClientState,
    event::EventKind,
    extract::{Params, Responder},
    handler::NoResponse,
};
use serde_json::{Value, json};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::{
    csms,
    support::{Log, connected, echo, log_to, server},
    tcp::{Site, head, offering, soon},
};

/// Collects the log of this thread, down to this level, until the second value is dropped.
fn logged(level: tracing::Level) -> (Log, impl Sized) {
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_span_events(FmtSpan::CLOSE).with_writer(log.clone());
    let logged = log_to(subscriber.with_max_level(level).finish());
    (log, logged)
}

/// Returns the log, down to this level, of a session with one successful and one failed call in each direction.
async fn log_at(level: tracing::Level) -> String {
    async fn refuse(Params(_): Params<Value>) -> Result<Value, CallError> {
        Err(ErrorCode::SECURITY_ERROR.into())
    }
    let (log, _logged) = logged(level);
    let router = RpcRouter::new().on("Echo", echo).on("Refuse", refuse);
    let site = Site::of(RpcServer::builder(router).protocols(["ocpp1.6"])).await;
    let mut station = site.enter(&offering("/CP-1", "ocpp1.6")).await;
    soon(station.ask(r#"[2,"one","Echo",{"text":"a payload","idTag":"C0FFEE"}]"#)).await;
    soon(station.ask(r#"[2,"two","Refuse",{"text":"a payload","idTag":"C0FFEE"}]"#)).await;
    let session = site.server.session("CP-1").expect("registered");
    for response in [r#"[3,"ID",{"text":"a payload","idTag":"C0FFEE"}]"#, r#"[4,"ID","NotSupported","",{}]"#] {
        let call = tokio::spawn(session.call::<Value>("Reset", &json!({"text": "a payload", "idTag": "C0FFEE"})));
        let (id, _) = soon(station.receive_call()).await;
        station.send(response.replace("ID", &id)).await;
        let _ = call.await.expect("no panic");
    }
    drop(station);
    soon(session.closed()).await;
    soon(site.server.close(ocpp_rpc::Close::normal())).await;
    log.text()
}

#[tokio::test]
async fn b61_spans_have_fields_of_connection_and_call_outcome() {
    let log = log_at(tracing::Level::DEBUG).await;
    let connection = r#"connection{identity="CP-1" protocol="ocpp1.6" remote_address=127.0.0.1:"#;
    for (call, outcome) in [
        (r#"call{direction="in" action="Echo" id="one" outcome="result"}"#, connection),
        (r#"call{direction="in" action="Refuse" id="two" outcome="SecurityError"}"#, connection),
        (r#"call{direction="out" identity="CP-1" action="Reset" id=""#, r#"outcome="result"}"#),
        (r#"call{direction="out" identity="CP-1" action="Reset" id=""#, r#"outcome="NotSupported"}"#),
    ] {
        let is_logged =
            log.lines().any(|line| line.contains(call) && line.contains(outcome) && line.contains(": close"));
        assert!(is_logged, "{call} {outcome}: {log}");
    }
    assert!(
        log.lines().any(|line| line.contains(connection) && line.contains("}: ocpp_rpc::server::session::task: close")),
        "{log}"
    );
}

#[tokio::test]
async fn b61_payloads_are_logged_at_trace_level_only() {
    assert!(!log_at(tracing::Level::DEBUG).await.contains("a payload"));
    assert!(log_at(tracing::Level::TRACE).await.contains("a payload"));
}

#[tokio::test]
async fn b76_texts_of_a_peer_are_cut_in_the_log() {
    async fn fail(id: MessageId) -> Result<(), CallError> {
        assert!(!id.starts_with("panic"), "a bug");
        Err(CallError::internal("no disk"))
    }
    let (log, _logged) = logged(tracing::Level::DEBUG);
    let server = server(RpcRouter::new().fallback(fail));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let long = "é".repeat(5000);
    for id in ["", "panic"] {
        station.ask(format!(r#"[2,"{id}{long}","{long}",{{}}]"#)).await;
    }
    let call = tokio::spawn(session.call::<Value>("Reset", &json!({})));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","{long}","",{{}}]"#)).await;
    call.await.expect("no panic").expect_err("rejected");
    let log = log.text();
    assert_eq!(lines(&log, "a handler failed").len(), 2, "{log}");
    assert!(log.contains("outcome=\"éé"), "{log}");
    assert!(log.lines().all(|line| line.len() < 3000), "{log}");
}

#[tokio::test]
async fn b76_tokens_are_masked_in_the_log_and_in_serialized_events() {
    let log = log_at(tracing::Level::TRACE).await;
    // The station of the test logs its messages as well.
    let own = lines(&log, " ocpp_rpc::").join("\n");
    assert!(own.contains("***") && !own.contains("C0FFEE"), "{own}");

    for (mask, hidden) in
        [(Mask::new(), [true, false]), (Mask::new().name("vin"), [true, true]), (Mask::none(), [false; 2])]
    {
        let site = Site::of(RpcServer::builder(RpcRouter::new().on("Echo", echo)).mask(mask)).await;
        let mut events = site.server.events();
        let mut station = site.enter(&offering("/CP-1", "ocpp1.6")).await;
        soon(station.ask(r#"[2,"1","Echo",{"idTag":"C0FFEE","vin":"W1"}]"#)).await;
        soon(station.ask(r#"[2,"2","Echo",{"idTag":"C0FFEE","vin":"W1"},"#)).await;
        drop(station);
        let mut kinds = std::collections::BTreeSet::new();
        loop {
            let event = soon(events.next()).await.expect("an event");
            let json = serde_json::to_string(&event).expect("JSON");
            for (secret, is_hidden) in ["C0FFEE", "W1"].into_iter().zip(hidden) {
                assert!(!is_hidden || !json.contains(secret), "{json}");
            }
            if json.contains("***") == hidden[0] && json.contains("idTag") {
                kinds.insert(serde_json::from_str::<Value>(&json).expect("JSON")["type"].to_string());
            }
            if let EventKind::Closed(_) = event.kind {
                break;
            }
        }
        let expected = ["bad_message", "call", "call_result", "received", "sent"].map(|kind| format!("{kind:?}"));
        assert!(expected.iter().all(|kind| kinds.contains(kind)), "{kinds:?}");
    }
}

/// Returns the lines of a log that contain a text.
fn lines<'a>(log: &'a str, text: &str) -> Vec<&'a str> {
    log.lines().filter(|line| line.contains(text)).collect()
}

#[tokio::test]
async fn b76_connects_and_disconnects_are_logged_at_info_level() {
    let log = log_at(tracing::Level::INFO).await;
    let connection = r#"connection{identity="CP-1" protocol="ocpp1.6" remote_address=127.0.0.1:"#;
    let [opened] = lines(&log, "session opened")[..] else { panic!("not one line: {log}") };
    let [closed] = lines(&log, "session closed")[..] else { panic!("not one line: {log}") };
    assert!(opened.contains(" INFO ") && opened.contains(connection), "{opened}");
    assert!(closed.contains(" INFO ") && closed.contains(connection), "{closed}");
    assert!(closed.contains("code=1006") && closed.contains("cause=remote"), "{closed}");
}

#[tokio::test]
async fn b76_refused_handshakes_are_logged_with_their_reason_at_warn_level() {
    let (log, _logged) = logged(tracing::Level::WARN);
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "unpaid" => Err(Reject::new(StatusCode::FORBIDDEN).body("no access").reason("the tenant has not paid")),
        _ => Err(Reject::new(StatusCode::FORBIDDEN).body("\u{e4}".repeat(1000))),
    };
    let mut site = Site::of(RpcServer::builder(RpcRouter::new()).auth(authenticator)).await;
    assert_eq!(site.ask(&head("/unpaid")).await.body, "no access");
    let refused = (Some("unpaid".to_owned()), Some(403), "the tenant has not paid".to_owned());
    assert_eq!(site.refused().await, refused);
    assert_eq!(site.ask(&head("/long")).await.body.len(), 2000);
    assert_eq!(site.refused().await.2, "\u{e4}".repeat(256));
    let log = log.text();
    let [unpaid, long] = lines(&log, "handshake refused")[..] else { panic!("not two lines: {log}") };
    for expected in [" WARN ", r#"identity="unpaid""#, "remote_address=127.0.0.1:", "status=403", "has not paid"] {
        assert!(unpaid.contains(expected), "{expected}: {unpaid}");
    }
    assert!(long.len() < 1000, "{long}");
}

#[tokio::test]
async fn b76_failed_handlers_are_logged_with_their_action_at_warn_level() {
    async fn fail() -> Result<(), std::io::Error> {
        Err(std::io::Error::other("the disk is full"))
    }
    async fn give_up() -> Result<(), CallError> {
        Err(CallError::new(ErrorCode::INTERNAL_ERROR, "try later"))
    }
    async fn panics(Params(_): Params<Value>) -> Result<(), CallError> {
        panic!("a bug")
    }
    async fn early(responder: Responder) -> Result<NoResponse, CallError> {
        responder.reject(CallError::internal("the queue is full")).await?;
        Ok(NoResponse)
    }
    async fn refuse() -> Result<(), CallError> {
        Err(ErrorCode::SECURITY_ERROR.into())
    }
    let (log, _logged) = logged(tracing::Level::INFO);
    let router = RpcRouter::new().on("Fail", fail).on("GiveUp", give_up).on("Panics", panics).on("Early", early);
    let site = Site::of(RpcServer::builder(router.on("Refuse", refuse))).await;
    let mut station = site.enter(&head("/CP-1")).await;
    for action in ["Fail", "GiveUp", "Panics", "Early", "Refuse", "Nothing"] {
        assert!(soon(station.ask(format!(r#"[2,"id","{action}",{{}}]"#))).await.starts_with("[4,"));
    }
    let log = log.text();
    let failed = lines(&log, "a handler failed");
    let expected = [
        ("Fail", "the disk is full"),
        ("GiveUp", "try later"),
        ("Panics", "the handler panicked"),
        ("Early", "the queue is full"),
    ];
    assert_eq!(failed.len(), expected.len(), "{log}");
    for (line, (action, error)) in failed.iter().zip(expected) {
        for text in [" WARN ", r#"connection{identity="CP-1""#, &format!("action=\"{action}\""), error] {
            assert!(line.contains(text), "{text}: {line}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b76_each_connection_of_a_client_has_its_own_span() {
    let log = Log::default();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(log.clone());
    let _logged = log_to(subscriber.with_max_level(tracing::Level::INFO).finish());
    let (client, mut dials) = csms::connected_once(csms::reconnect()).await;
    for _ in 0..3 {
        let mut csms = dials.accept("ocpp1.6").await;
        csms.close(1012, "update").await;
        csms.closed().await;
    }
    drop(dials.answer("HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await);
    drop(dials.next().await);
    let _csms = dials.accept("ocpp1.6").await;
    csms::becomes(&client, ClientState::Open).await;
    let log = log.text();
    let connection = r#"connection{identity="CP-1" target=csms.test:80 protocol="ocpp1.6"}: "#;
    let unconnected = r#"connection{identity="CP-1" target=csms.test:80}: "#;
    for (level, span, text, count) in [
        (" INFO ", connection, "connected", 5),
        (" INFO ", connection, r#"disconnected code=1006 reason="" cause=remote"#, 1),
        (" INFO ", connection, r#"disconnected code=1012 reason="update" cause=remote"#, 3),
        (" WARN ", unconnected, "refused error=refused with HTTP status 503 Service Unavailable", 1),
        (" INFO ", unconnected, "cannot connect error=", 1),
    ] {
        let found = log.lines().filter(|line| {
            line.contains(level) && line.contains(&format!("supervisor: {text}")) && line.contains(span)
        });
        assert_eq!(found.count(), count, "{text}: {log}");
    }
    let longest = log.lines().map(|line| line.matches("protocol=").count()).max();
    assert_eq!((longest, lines(&log, "connection{identity=").len()), (Some(1), log.lines().count()), "{log}");
}
