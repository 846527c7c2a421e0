//! Handlers: extractors, responses, errors, and the effect of a disconnect.

use std::{convert::Infallible, future::poll_fn, io, sync::Arc, task::Poll};

use futures_util::FutureExt;
use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, MessageId, Options, Payload, RpcRouter, Session,
    event::EventKind,
    extract::{Action, CancellationToken, Params, State},
    handler::NoResponse,
    validate::Violation,
};
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, mpsc},
    time::Instant,
};

use crate::support::{SECOND, Station, connected, echo, gated, server, server_with};

#[tokio::test]
async fn b32_handler_receives_all_extractors() {
    async fn all(
        State(greeting): State<&'static str>,
        action: Action,
        id: MessageId,
        session: Session,
        peer: Session,
        payload: Payload,
        token: CancellationToken,
    ) -> Result<Value, Infallible> {
        assert!(action == "Any" && "7" == id && action.len() == 3 && AsRef::<str>::as_ref(&payload).starts_with('{'));
        let seen = json!([greeting, action, id, session.identity(), peer.protocol(), payload]);
        Ok(json!({"seen": seen, "cancelled": token.is_cancelled()}))
    }
    let server = server(RpcRouter::with_state("hello").fallback(all));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    let response = station.ask(r#"[2,"7","Any",{"p":1}]"#).await;
    assert_eq!(response, r#"[3,"7",{"cancelled":false,"seen":["hello","Any","7","CP-1","ocpp2.0.1",{"p":1}]}]"#);
}

#[tokio::test]
async fn b33_error_codes_use_the_spelling_of_the_protocol() {
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
    assert_eq!(old.ask(r#"[2,"2","Unknown",{}]"#).await, r#"[4,"2","NotImplemented","no handler for Unknown",{}]"#);
}

#[tokio::test]
async fn b32_invalid_parameters_are_rejected_with_reason() {
    async fn typed(Params(_): Params<std::collections::HashMap<String, u8>>) -> Result<(), Infallible> {
        Ok(())
    }
    let server = server(RpcRouter::new().on("Typed", typed));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let response = station.ask(r#"[2,"1","Typed",{"x":"\"no"}]"#).await;
    assert_eq!(response, r#"[4,"1","TypeConstraintViolation","/x: is a string, not u8",{"pointer":"/x"}]"#);
}

#[tokio::test]
async fn b34_detailed_errors_include_text_of_internal_error() {
    async fn fail() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("the database is down".into())
    }
    let server = server_with(RpcRouter::new().on("Fail", fail), Options::server().detailed_errors(true));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert!(station.ask(r#"[2,"1","Fail",{}]"#).await.contains("the database is down"));
}

#[tokio::test]
async fn b33_handler_with_no_response_sends_nothing() {
    async fn silent() -> Result<NoResponse, Infallible> {
        Ok(NoResponse)
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
async fn b32_typed_parameters_are_decoded() {
    #[derive(serde::Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Start {
        id_tag: String,
        #[serde(default)]
        connector_id: Option<u8>,
    }
    async fn start(Params(start): Params<Start>) -> Result<Value, Infallible> {
        Ok(json!({"tag": start.id_tag, "connector": start.connector_id}))
    }
    let server = server(RpcRouter::new().on("Start", start));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let response = station.ask(r#"[2,"1","Start",{"idTag":"\u00fc","connectorId":2,"more":[]}]"#).await;
    assert_eq!(response, r#"[3,"1",{"connector":2,"tag":"ü"}]"#);
}

#[tokio::test(start_paused = true)]
async fn b32_token_fires_on_disconnect_but_not_while_draining() {
    async fn watch(
        token: CancellationToken,
        State((sender, gate)): State<(mpsc::UnboundedSender<bool>, Arc<Semaphore>)>,
    ) -> Result<(), CallError> {
        tokio::select! {
            () = token.cancelled() => {}
            permit = gate.acquire() => permit.map_err(CallError::internal)?.forget(),
        }
        sender.send(token.is_cancelled()).map_err(CallError::internal)
    }
    for (how, fires) in [("lost", true), ("left", true), ("at once", true), ("after pending", false)] {
        let (sender, mut receiver) = mpsc::unbounded_channel();
        let gate = Arc::new(Semaphore::new(0));
        let server = server(RpcRouter::with_state((sender, gate.clone())).on("Watch", watch).on("Echo", echo));
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.send(r#"[2,"1","Watch",{}]"#).await;
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
        let close = |close| {
            let session = session.clone();
            tokio::spawn(async move { session.close(close).await })
        };
        match how {
            "lost" => drop(station),
            "left" => station.close(1000, "").await,
            "at once" => drop(close(Close::normal())),
            _ => {
                close(Close::normal().drain(30 * SECOND));
                assert_eq!(
                    station.ask(r#"[2,"3","Echo",{}]"#).await,
                    r#"[3,"3",{}]"#,
                    "the session must serve calls while it drains"
                );
                gate.add_permits(1);
                assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
            }
        }
        assert_eq!(receiver.recv().await, Some(fires), "{how}");
    }
}

#[tokio::test]
async fn b34_errors_convertible_to_call_error_work_with_question_mark() {
    #[derive(Debug)]
    struct NoSuchTag(String);
    impl From<NoSuchTag> for CallError {
        fn from(NoSuchTag(tag): NoSuchTag) -> Self {
            Self::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "no such tag").with_details(&json!({"tag": tag}))
        }
    }
    fn look_up(tag: &str) -> Result<(), NoSuchTag> {
        Err(NoSuchTag(tag.to_owned()))
    }
    async fn own() -> Result<Value, CallError> {
        look_up("A1")?;
        Ok(json!({}))
    }
    async fn own_type() -> Result<Value, NoSuchTag> {
        Err(NoSuchTag("A2".to_owned()))
    }
    async fn anything() -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        let port: u16 = "hunter2".parse()?;
        Ok(json!({"port": port}))
    }
    async fn boxed() -> Result<Value, Box<dyn std::error::Error + Send + Sync>> {
        Err(Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/port", "is a string"))?
    }
    let router = RpcRouter::new().on("Own", own).on("OwnType", own_type).on("Anything", anything).on("Boxed", boxed);
    let server = server(router);
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    for (action, response) in [
        ("Own", r#"[4,"1","PropertyConstraintViolation","no such tag",{"tag":"A1"}]"#),
        ("OwnType", r#"[4,"1","PropertyConstraintViolation","no such tag",{"tag":"A2"}]"#),
        ("Anything", r#"[4,"1","InternalError","An internal error occurred",{}]"#),
        ("Boxed", r#"[4,"1","TypeConstraintViolation","/port: is a string",{"pointer":"/port"}]"#),
    ] {
        assert_eq!(station.ask(format!(r#"[2,"1","{action}",{{}}]"#)).await, response);
    }
}

#[tokio::test]
async fn b34_question_mark_converts_foreign_errors() {
    async fn handler(Params(params): Params<Value>) -> Result<Value, CallError> {
        let secret = "hunter2";
        match params["error"].as_str() {
            Some("io") => Err(io::Error::new(io::ErrorKind::NotFound, secret))?,
            Some("parse") => drop(secret.parse::<u16>()?),
            Some("anyhow") => Err(anyhow::Error::msg(secret).context("cannot open the door"))?,
            Some("anyhow around io") => Err(anyhow::Error::from(io::Error::other(secret)))?,
            Some("boxed") => Err(Box::<dyn std::error::Error + Send + Sync>::from(secret))?,
            Some("text") => Err(secret)?,
            Some("string") => Err(secret.to_owned())?,
            Some("own") => Err(Error::Rejected(CallError::new(ErrorCode::SECURITY_ERROR, secret)))?,
            Some("code") => Err(ErrorCode::NOT_SUPPORTED)?,
            Some("violation") => Err(Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "/a", "is too long"))?,
            _ => {}
        }
        Ok(json!({}))
    }
    async fn anyhow_result() -> anyhow::Result<Value> {
        anyhow::bail!("hunter2")
    }
    let router = RpcRouter::new().on("Any", handler).on("Anyhow", anyhow_result);
    let server = server(router.clone());
    let open = server_with(router, Options::server().detailed_errors(true));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    let mut detailed = Station::connect(&open, "CP-1", "ocpp2.0.1").await;
    let internal = r#"[4,"1","InternalError","An internal error occurred",{}]"#;
    let cases = ["io", "parse", "anyhow", "anyhow around io", "boxed", "text", "string", "own"];
    for call in cases
        .map(|case| format!(r#"[2,"1","Any",{{"error":"{case}"}}]"#))
        .iter()
        .chain([&r#"[2,"1","Anyhow",{}]"#.to_owned()])
    {
        assert_eq!(station.ask(call).await, internal, "{call}");
        let shown = detailed.ask(call).await;
        let secret = ["hunter2", "invalid digit", "cannot open the door"].iter().any(|text| shown.contains(text));
        assert!(shown.starts_with(r#"[4,"1","InternalError","An internal error occurred: "#) && secret, "{shown}");
    }
    for (case, response) in [
        ("code", r#"[4,"1","NotSupported","",{}]"#),
        ("violation", r#"[4,"1","PropertyConstraintViolation","/a: is too long",{"pointer":"/a"}]"#),
    ] {
        assert_eq!(station.ask(format!(r#"[2,"1","Any",{{"error":"{case}"}}]"#)).await, response);
    }
}

#[test]
fn b34_call_error_keeps_its_source() {
    let error = CallError::from(io::Error::from(io::ErrorKind::NotFound));
    let source = error.source().and_then(|source| source.downcast_ref::<io::Error>()).expect("the error");
    assert_eq!(source.kind(), io::ErrorKind::NotFound);
    assert!(CallError::new(ErrorCode::GENERIC_ERROR, "").source().is_none());
    assert!(std::error::Error::source(&Error::Rejected(error)).is_none());
}

#[tokio::test]
async fn b34_panic_is_internal_error_and_other_handlers_go_on() {
    async fn at_once() -> Result<(), Infallible> {
        panic!("hunter2")
    }
    async fn later() -> Result<(), Infallible> {
        tokio::task::yield_now().await;
        panic!("hunter2")
    }
    for detailed in [false, true] {
        let (router, gate) = gated();
        let options = if detailed { Options::server().detailed_errors(true) } else { Options::server() };
        let server = server_with(router.on("AtOnce", at_once).on("Later", later), options);
        let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        for action in ["AtOnce", "Later", "AtOnce"] {
            let response = station.ask(format!(r#"[2,"2","{action}",{{}}]"#)).await;
            assert_eq!(response, r#"[4,"2","InternalError","An internal error occurred",{}]"#);
        }
        gate.add_permits(1);
        assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    }
}

#[tokio::test]
async fn b34_error_whose_text_panics_ends_only_its_call() {
    #[derive(Debug)]
    struct Broken;

    impl std::fmt::Display for Broken {
        fn fmt(&self, _: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            panic!("hunter2")
        }
    }

    impl std::error::Error for Broken {}

    async fn fail() -> Result<(), Broken> {
        Err(Broken)
    }
    let options = Options::server().detailed_errors(true);
    let server = server_with(RpcRouter::new().on("Fail", fail).on("Echo", echo), options);
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let response = station.ask(r#"[2,"1","Fail",{}]"#).await;
    assert!(response.starts_with(r#"[4,"1","InternalError","#), "{response}");
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn b36_new_router_serves_new_calls_but_not_those_in_flight() {
    async fn new() -> Result<Value, Infallible> {
        Ok(json!({"new": true}))
    }
    let (router, gate) = gated();
    let old = router.clone();
    let server = server(router);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut other = Station::connect(&server, "CP-2", "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);

    session.set_router(RpcRouter::new().on("Wait", new));
    assert_eq!(station.ask(r#"[2,"3","Wait",{}]"#).await, r#"[3,"3",{"new":true}]"#);
    assert!(station.ask(r#"[2,"4","Echo",{}]"#).await.contains("NotImplemented"));
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(other.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "the other connection must keep its router");

    // The old router without one of its handlers.
    session.set_router(old.without("Wait"));
    assert_eq!(station.ask(r#"[2,"5","Echo",{}]"#).await, r#"[3,"5",{}]"#);
    assert!(station.ask(r#"[2,"6","Wait",{}]"#).await.contains("NotImplemented"));
}

#[tokio::test(start_paused = true)]
async fn b37_handlers_finish_after_disconnect_without_response() {
    async fn work(
        token: CancellationToken,
        id: MessageId,
        State(sender): State<mpsc::UnboundedSender<(String, bool)>>,
    ) -> Result<Value, CallError> {
        token.cancelled().await;
        // Clean-up takes some time after the disconnect.
        tokio::time::sleep(5 * SECOND).await;
        sender.send((id.to_string(), token.is_cancelled())).map_err(CallError::internal)?;
        Ok(json!({"done": true}))
    }
    let (sender, mut receiver) = mpsc::unbounded_channel();
    let server = server(RpcRouter::with_state(sender).on("Work", work).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for id in 0..10 {
        station.send(format!(r#"[2,"{id}","Work",{{}}]"#)).await;
    }
    station.ask(r#"[2,"x","Echo",{}]"#).await;
    drop(station);
    session.closed().await;
    // The station reconnects before the handlers have finished.
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(
        station.ask(r#"[2,"0","Echo",{}]"#).await,
        r#"[3,"0",{}]"#,
        "the new connection must accept the same id"
    );
    let mut finished = Vec::new();
    for _ in 0..10 {
        finished.push(receiver.recv().await.expect("the handler must finish"));
    }
    finished.sort();
    assert_eq!(finished, (0..10).map(|id| (id.to_string(), true)).collect::<Vec<_>>());
    station.silent().await;
    while let Some(Some(event)) = events.next().now_or_never() {
        if let EventKind::Sent(text) = event.kind {
            assert_eq!(text.as_str(), r#"[3,"0",{}]"#);
        }
    }
}

#[tokio::test]
async fn b32_self_waking_handlers_progress_and_starve_no_other() {
    async fn wake_self(Params(times): Params<Value>) -> Result<(), Infallible> {
        let mut left = times["times"].as_u64().unwrap_or(u64::MAX);
        poll_fn(|cx| {
            cx.waker().wake_by_ref();
            left = left.saturating_sub(1);
            if left == 0 { Poll::Ready(()) } else { Poll::Pending }
        })
        .await;
        Ok(())
    }
    let server = server(RpcRouter::new().on("WakeSelf", wake_self).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","WakeSelf",{"times":1000}]"#).await, r#"[3,"1",{}]"#);
    station.send(r#"[2,"2","WakeSelf",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"3","Echo",{"a":1}]"#).await, r#"[3,"3",{"a":1}]"#);
    session.close(Close::forced()).await;
}
