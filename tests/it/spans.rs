//! Spans and log lines of connections and calls.

use ocpp_rpc::{CallError, ErrorCode, RpcRouter, RpcServer, extract::Params};
use serde_json::{Value, json};
use tracing_subscriber::fmt::format::FmtSpan;

use crate::{
    support::{Log, echo, log_to},
    tcp::{Site, offering, soon},
};

/// Returns the log, down to this level, of a session with one successful and one failed call in each direction.
async fn log_at(level: tracing::Level) -> String {
    async fn refuse(Params(_): Params<Value>) -> Result<Value, CallError> {
        Err(ErrorCode::SECURITY_ERROR.into())
    }
    let log = Log::default();
    let subscriber =
        tracing_subscriber::fmt().with_ansi(false).with_span_events(FmtSpan::CLOSE).with_writer(log.clone());
    let _logged = log_to(subscriber.with_max_level(level).finish());
    let router = RpcRouter::new().on("Echo", echo).on("Refuse", refuse);
    let site = Site::of(RpcServer::builder(router).protocols(["ocpp1.6"])).await;
    let mut station = site.enter(&offering("/CP-1", "ocpp1.6")).await;
    soon(station.ask(r#"[2,"one","Echo",{"idTag":"a payload"}]"#)).await;
    soon(station.ask(r#"[2,"two","Refuse",{"idTag":"a payload"}]"#)).await;
    let session = site.server.session("CP-1").expect("registered");
    for response in [r#"[3,"ID",{"idTag":"a payload"}]"#, r#"[4,"ID","NotSupported","",{}]"#] {
        let call = tokio::spawn(session.call::<Value>("Reset", &json!({"idTag": "a payload"})));
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
