//! Middleware: functions around handlers.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
};

use ocpp_rpc::{
    Accept, CallError, ErrorCode, Handshake, Payload, Reject, RpcRouter, RpcServer, Session,
    extract::{Action, Extension, Params, State},
    handler::{IncomingCall, Response},
    middleware::{self, Next},
};
use serde_json::{Value, json};

use crate::support::{Station, echo, server};

/// The names of the functions that have run, in order.
type Trace = Arc<Mutex<Vec<&'static str>>>;

async fn trace(State((trace, name)): State<(Trace, &'static str)>, call: IncomingCall, next: Next) -> Response {
    trace.lock().expect("no panic").push(name);
    next.run(call).await
}

fn payload(value: &Value) -> Payload {
    Payload::encode(value).expect("JSON")
}

#[tokio::test]
async fn b31_layers_wrap_all_handlers_those_of_actions_or_one() {
    let trace_of = Trace::default();
    let layer = |name| middleware::from_fn_with_state((trace_of.clone(), name), trace);
    let only = RpcRouter::new().on("One", echo).on("Three", echo).fallback(echo);
    let router = RpcRouter::new()
        .on("One", echo)
        .on("Two", echo)
        .protocol("ocpp2.0.1", only)
        .layer_on("One", layer("one"))
        .route_layer(layer("actions"))
        .layer(layer("all"));
    let server = server(router);
    for (protocol, action, names) in [
        ("ocpp1.6", "One", &["all", "actions", "one"][..]),
        ("ocpp1.6", "Two", &["all", "actions"]),
        ("ocpp1.6", "Four", &[]),
        ("ocpp2.0.1", "One", &["all", "actions", "one"]),
        ("ocpp2.0.1", "Three", &["all", "actions"]),
        ("ocpp2.0.1", "Four", &["all"]),
    ] {
        let mut station = Station::connect(&server, "CP-1", protocol).await;
        station.ask(&format!(r#"[2,"{action}","{action}",{{}}]"#)).await;
        assert_eq!(std::mem::take(&mut *trace_of.lock().expect("no panic")), names, "{action}");
    }
}

#[test]
#[should_panic(expected = "the action \"Two\" has no handler")]
fn b31_layer_on_an_action_without_a_handler_panics() {
    let _ = RpcRouter::new().on("One", echo).layer_on("Two", tower::layer::util::Identity::new());
}

#[tokio::test]
async fn b32_middleware_responds_or_changes_call_and_response() {
    async fn authorize(action: Action, mut call: IncomingCall) -> Result<IncomingCall, CallError> {
        if action == "Secret" {
            return Err(CallError::new(ErrorCode::SECURITY_ERROR, "not allowed"));
        }
        let params: Value = call.params().decode()?;
        call.set_params(payload(&json!({"was": params})));
        Ok(call)
    }
    async fn add(session: Session, response: Response) -> Response {
        match response {
            Response::Result(result) => Response::Result(payload(&json!({"of": session.identity(), "result": result}))),
            other => other,
        }
    }
    async fn cache(call: IncomingCall, next: Next) -> Result<Response, Infallible> {
        if call.action() == "Cached" { Ok(Response::Result(Payload::default())) } else { Ok(next.run(call).await) }
    }
    async fn typed(Params(params): Params<Value>) -> Result<Value, Infallible> {
        Ok(params)
    }
    let router = RpcRouter::new()
        .on("Typed", typed)
        .on("Secret", typed)
        .on("Cached", typed)
        .layer(middleware::map_request(authorize))
        .layer(middleware::map_response(add))
        .layer(middleware::from_fn(cache));
    let server = server(router);
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    for (action, response) in [
        ("Typed", r#"[3,"1",{"of":"CP-1","result":{"was":{"a":1}}}]"#),
        ("Secret", r#"[4,"1","SecurityError","not allowed",{}]"#),
        ("Cached", r#"[3,"1",{}]"#),
    ] {
        assert_eq!(station.ask(&format!(r#"[2,"1","{action}",{{"a":1}}]"#)).await, response);
    }
}

#[tokio::test]
async fn b32_extension_of_the_call_takes_precedence_and_may_be_absent() {
    async fn attach(mut call: IncomingCall) -> IncomingCall {
        if call.action() == "Attached" {
            call.extensions_mut().insert("of the call");
        }
        call
    }
    async fn show(extension: Option<Extension<&'static str>>) -> Result<Value, Infallible> {
        Ok(json!({"extension": extension.map(|Extension(text)| text)}))
    }
    let router = RpcRouter::new().on("Attached", show).on("Plain", show).layer(middleware::map_request(attach));
    let accept = async |handshake: Handshake| match handshake.identity() {
        "CP-1" => Ok::<_, Reject>(Accept::new().extension("of the session")),
        _ => Ok(Accept::new()),
    };
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).auth(accept).build().expect("settings");
    for (identity, action, extension) in [
        ("CP-1", "Attached", json!("of the call")),
        ("CP-1", "Plain", json!("of the session")),
        ("CP-2", "Attached", json!("of the call")),
        ("CP-2", "Plain", json!(null)),
    ] {
        let mut station = Station::connect(&server, identity, "ocpp1.6").await;
        let response = station.ask(&format!(r#"[2,"1","{action}",{{}}]"#)).await;
        assert_eq!(response, format!(r#"[3,"1",{{"extension":{extension}}}]"#));
    }
}

#[tokio::test]
async fn b32_handler_may_take_the_error_of_an_argument() {
    async fn tolerant(params: Result<Params<Vec<u8>>, CallError>) -> Result<Value, Infallible> {
        Ok(json!({"error": params.err().map(|error| error.code().to_string())}))
    }
    let server = server(RpcRouter::new().on("Tolerant", tolerant));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    assert_eq!(station.ask(r#"[2,"1","Tolerant",{}]"#).await, r#"[3,"1",{"error":"FormatViolation"}]"#);
}
