//! Validation of payloads by a custom validator of a private protocol.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use ocpp_rpc::{
    Accept, CallError, Error, ErrorCode, Handshake, Options, Payload, Reject, RpcRouter, RpcServer,
    event::{Direction, EventKind, Events},
    extract::{Params, State},
    validate::{PayloadContext, PayloadKind, Valid, Validation, Validator, Violation},
};
use serde_json::{Value, json};

use crate::{
    csms::{accept, client, connecting},
    support::{SECOND, Station, connected, echo},
};

/// A validator of two actions: requests must have a member `n`, responses a boolean `ok`.
struct Acme;

impl Validator for Acme {
    fn supports(&self, protocol: &str) -> bool {
        protocol == "acme1"
    }

    fn validate(&self, context: &PayloadContext<'_>) -> Result<Valid, Violation> {
        if !["Do", "Panic"].contains(&context.action) {
            return Err(Violation::new(ErrorCode::NOT_IMPLEMENTED, "", "no such action"));
        }
        let mut value: Value = context.payload.decode().expect("JSON");
        match context.kind {
            PayloadKind::Request if context.action == "Panic" => panic!("a broken validator"),
            PayloadKind::Request if value.get("n").is_none() => {
                Err(Violation::new(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION, "/n", "is missing"))
            }
            PayloadKind::Response if !value["ok"].is_boolean() => {
                Err(Violation::new(ErrorCode::TYPE_CONSTRAINT_VIOLATION, "/ok", "is no truth value"))
            }
            // The extra member shows that a handler or caller received the validated value.
            _ => {
                value["checked"] = json!(true);
                Ok(Valid::with_value(value))
            }
        }
    }
}

/// A server of the private protocol and another one, with handlers that count their calls.
fn server(validation: Validation) -> (RpcServer, Arc<AtomicUsize>) {
    async fn act(Params(params): Params<Value>, State(calls): State<Arc<AtomicUsize>>) -> Result<Value, Infallible> {
        calls.fetch_add(1, Ordering::Relaxed);
        match params.get("checked") {
            Some(checked) if params.get("result").is_none() => Ok(json!({"ok": checked})),
            _ => Ok(json!({"ok": params["result"]})),
        }
    }
    let calls = Arc::new(AtomicUsize::new(0));
    let router = RpcRouter::with_state(calls.clone()).on("Do", act).fallback(act);
    let server = RpcServer::builder(router).protocols(["acme1", "other"]);
    let server = server.options(Options::server().validation(validation)).build().expect("valid settings");
    (server, calls)
}

/// Returns the next violation: direction, kind, action, id, pointer, and `true` if it was enforced.
async fn violation(events: &mut Events) -> (Direction, PayloadKind, String, String, String, bool) {
    events
        .expect(|event| match event.kind {
            EventKind::ValidationFailed { direction, kind, action, id, violation, enforced, .. } => {
                let (action, id, pointer) = (action.to_string(), id.to_string(), violation.pointer().to_owned());
                Some((direction, kind, action, id, pointer, enforced))
            }
            _ => None,
        })
        .await
}

#[tokio::test(start_paused = true)]
async fn b41_requests_and_responses_are_checked_in_both_directions() {
    use {Direction::*, PayloadKind::*};
    let (server, calls) = server(Validation::new(Acme).only(["acme1"]));
    let (mut station, session) = connected(&server, "acme1").await;
    let mut events = server.events();
    let seen = |direction, kind, id: &str, pointer: &str| {
        (direction, kind, "Do".to_owned(), id.to_owned(), pointer.to_owned(), true)
    };

    // Incoming request: the call is rejected and no handler runs.
    assert_eq!(
        station.ask(r#"[2,"1","Do",{}]"#).await,
        r#"[4,"1","OccurrenceConstraintViolation","/n: is missing",{"pointer":"/n"}]"#
    );
    assert_eq!(calls.load(Ordering::Relaxed), 0);
    assert_eq!(violation(&mut events).await, seen(In, Request, "1", "/n"));
    // Outgoing response: it is replaced by an error that does not tell the peer about the violation.
    let response = station.ask(r#"[2,"2","Do",{"n":1,"result":"text"}]"#).await;
    assert_eq!(response, r#"[4,"2","InternalError","An internal error occurred",{}]"#);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
    assert_eq!(violation(&mut events).await, seen(Out, Response, "2", "/ok"));
    // Valid payloads pass.
    assert_eq!(station.ask(r#"[2,"3","Do",{"n":1,"result":true}]"#).await, r#"[3,"3",{"ok":true}]"#);
    // Incoming response: the call fails.
    let call = tokio::spawn(session.call::<Value>("Do", &json!({"n": 1})));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[3,"{id}",{{"ok":1}}]"#)).await;
    match call.await.expect("no panic") {
        Err(Error::Invalid(violation)) => assert_eq!(violation.to_string(), "/ok: is no truth value"),
        other => panic!("{other:?}"),
    }
    assert_eq!(violation(&mut events).await, seen(In, Response, &id, "/ok"));
    // Outgoing request: the call fails locally and nothing is sent.
    let error = session.call::<Value>("Do", &()).await.expect_err("no n");
    assert!(matches!(&error, Error::Invalid(violation) if violation.pointer() == "/n"));
    assert!(!error.maybe_delivered());
    let (direction, kind, .., pointer, _) = violation(&mut events).await;
    assert_eq!((direction, kind, &*pointer), (Out, Request, "/n"));
    station.silent().await;
}

#[tokio::test]
async fn b41_validated_value_is_reused_if_type_matches() {
    let (server, _) = server(Validation::new(Acme).only(["acme1"]));
    let (mut station, session) = connected(&server, "acme1").await;
    assert_eq!(station.ask(r#"[2,"1","Do",{"n":1}]"#).await, r#"[3,"1",{"ok":true}]"#);
    let call = tokio::spawn(session.call::<Value>("Do", &json!({"n": 1})));
    let other = tokio::spawn(session.call::<Payload>("Do", &json!({"n": 1})));
    for _ in 0..2 {
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{"ok":false}}]"#)).await;
    }
    assert_eq!(call.await.expect("no panic").expect("a result"), json!({"ok": false, "checked": true}));
    let payload = other.await.expect("no panic").expect("a result");
    assert_eq!(payload.as_str(), r#"{"ok":false}"#, "another type is decoded from the received text");
}

#[tokio::test]
async fn b41_panicking_validator_rejects_only_its_call() {
    let (server, calls) = server(Validation::new(Acme).only(["acme1"]));
    let mut station = Station::connect(&server, "CP-1", "acme1").await;
    let response = station.ask(r#"[2,"1","Panic",{}]"#).await;
    assert!(response.starts_with(r#"[4,"1","InternalError","#), "{response}");
    assert_eq!(station.ask(r#"[2,"2","Do",{"n":1,"result":true}]"#).await, r#"[3,"2",{"ok":true}]"#);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn b41_panicking_map_of_codes_rejects_only_its_payload() {
    let codes = |violation: &Violation| match violation.pointer() {
        "/n" => panic!("a broken map"),
        _ => None,
    };
    let (server, calls) = server(Validation::new(Acme).only(["acme1"]).codes(codes));
    let (mut station, session) = connected(&server, "acme1").await;
    let response = station.ask(r#"[2,"1","Do",{}]"#).await;
    assert_eq!(response, r#"[4,"1","InternalError","the validator panicked",{"pointer":""}]"#);
    let failed = session.call::<Value>("Do", &()).await.expect_err("no n");
    assert!(matches!(&failed, Error::Invalid(violation) if *violation.code() == ErrorCode::INTERNAL_ERROR), "{failed}");
    assert_eq!(station.ask(r#"[2,"2","Do",{"n":1,"result":true}]"#).await, r#"[3,"2",{"ok":true}]"#);
    assert_eq!(calls.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn b41_validator_that_panics_about_a_protocol_rejects_only_its_payload() {
    /// A validator that has panicked about its protocol as often as this says.
    struct Unsure(Arc<AtomicUsize>);

    impl Validator for Unsure {
        fn supports(&self, _: &str) -> bool {
            let left = self.0.load(Ordering::Relaxed);
            assert_ne!(self.0.fetch_sub(usize::from(left > 0), Ordering::Relaxed), 1, "a broken validator");
            true
        }

        fn validate(&self, _: &PayloadContext<'_>) -> Result<Valid, Violation> {
            Ok(Valid::without_value())
        }
    }

    let panics = Arc::new(AtomicUsize::new(0));
    let options = Options::server().validation(Validation::new(Unsure(panics.clone())));
    let server = RpcServer::builder(RpcRouter::new().on("Do", echo)).protocols(["acme1"]).options(options);
    let server = server.build().expect("valid settings");
    let mut station = Station::connect(&server, "CP-1", "acme1").await;
    assert_eq!(station.ask(r#"[2,"1","Do",{}]"#).await, r#"[3,"1",{}]"#);
    panics.store(1, Ordering::Relaxed);
    let response = station.ask(r#"[2,"2","Do",{}]"#).await;
    assert!(response.starts_with(r#"[4,"2","InternalError","#), "{response}");
    assert_eq!(station.ask(r#"[2,"3","Do",{}]"#).await, r#"[3,"3",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b43_validation_is_limited_by_protocol_and_report_only() {
    let named = Validation::new(Acme).only(["acme1"]);
    for (validation, protocol, reports) in
        [(named.clone(), "other", false), (named.clone().report_only(true), "acme1", true)]
    {
        let (server, calls) = server(validation);
        let (mut station, session) = connected(&server, protocol).await;
        let mut events = server.events();
        assert_eq!(station.ask(r#"[2,"1","Do",{"result":"text"}]"#).await, r#"[3,"1",{"ok":"text"}]"#);
        assert_eq!(calls.load(Ordering::Relaxed), 1);
        let call = tokio::spawn(session.call::<Value>("Do", &()));
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{"ok":1}}]"#)).await;
        assert_eq!(call.await.expect("no panic").expect("a result"), json!({"ok": 1}));
        drop((station, session));
        server.close(ocpp_rpc::Close::normal()).await;
        let mut violations = Vec::new();
        while let Some(event) = events.next().await {
            if let EventKind::ValidationFailed { direction, kind, enforced, .. } = event.kind {
                violations.push((direction, kind));
                assert!(!enforced);
            }
        }
        use {Direction::*, PayloadKind::*};
        let all = [(In, Request), (Out, Response), (Out, Request), (In, Response)];
        assert_eq!(violations, if reports { &all[..] } else { &[] }, "{protocol}");
    }
}

#[tokio::test(start_paused = true)]
async fn b44_calls_while_connecting_are_validated() {
    let settings = |client: ocpp_rpc::client::RpcClientBuilder| {
        client.protocols(["acme1"]).options(Options::client().validation(Validation::new(Acme)))
    };
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(settings(builder));
    let stream = dials.next().await;
    let bad = tokio::spawn(client.call::<Value>("Do", &()));
    let good = tokio::spawn(client.call::<Value>("Do", &json!({"n": 1})));
    let mut csms = crate::csms::Csms(accept(stream, "acme1").await);
    attempt.await.expect("no panic").expect("connected");
    assert!(matches!(bad.await.expect("no panic"), Err(Error::Invalid(_))));
    let id = csms.receive_call("Do").await;
    csms.send(json!([3, id, {"ok": true}])).await;
    assert_eq!(good.await.expect("no panic").expect("a response")["ok"], true);

    // While the client reconnects, the call fails at once, because the client remembers the protocol.
    drop(csms);
    crate::csms::becomes(&client, ocpp_rpc::client::ClientState::Connecting).await;
    let failed = tokio::time::timeout(SECOND / 10, client.call::<Value>("Do", &())).await.expect("at once");
    assert!(matches!(failed, Err(Error::Invalid(_))));
}

#[tokio::test]
async fn b45_unknown_action_is_not_implemented_despite_fallback() {
    let (server, calls) = server(Validation::new(Acme).only(["acme1"]));
    let mut station = Station::connect(&server, "CP-1", "acme1").await;
    let response = station.ask(r#"[2,"1","Dance",{"n":1}]"#).await;
    assert_eq!(response, r#"[4,"1","NotImplemented","no such action",{"pointer":""}]"#);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[test]
fn b10_impossible_validation_is_a_build_error() {
    let build = |protocols: &[&str], validation: Validation| {
        let options = Options::server().validation(validation.clone());
        let server = RpcServer::builder(RpcRouter::new()).protocols(protocols).options(options);
        let options = Options::client().validation(validation);
        let client = ocpp_rpc::RpcClient::builder("ws://h", "CP").protocols(protocols).options(options);
        (server.build().map(drop).map_err(|e| e.to_string()), client.build().map(drop).map_err(|e| e.to_string()))
    };
    for (protocols, validation, text) in [
        (&[][..], Validation::new(Acme), "without a protocol"),
        (&["acme1", "other"], Validation::new(Acme), "does not support the protocol \"other\""),
        (&["acme1"], Validation::new(Acme).only(["other"]), "not one of the protocols"),
        (&["acme1", "other"], Validation::new(Acme).only(["other"]), "does not support"),
    ] {
        let (server, client) = build(protocols, validation);
        assert_eq!(server, client);
        assert!(server.expect_err(text).contains(text), "{protocols:?}");
    }
    assert_eq!(build(&["acme1", "other"], Validation::new(Acme).only(["acme1"])), (Ok(()), Ok(())));
}

#[tokio::test]
async fn b26_undecodable_result_gets_callresulterror_if_supported() {
    for (protocol, sends_error) in [("ocpp2.0.1", false), ("ocpp2.1", true)] {
        let server = crate::support::server(RpcRouter::new().on("Echo", echo));
        let (mut station, session) = connected(&server, protocol).await;
        let call = tokio::spawn(session.call::<Vec<u8>>("Do", &()));
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
        assert!(matches!(call.await.expect("no panic"), Err(Error::Decode(_))));
        station.send(r#"[2,"1","Echo",{}]"#).await;
        let first = station.receive().await;
        if sends_error {
            let error = format!(r#"[5,"{id}","FormatViolation","is an object, not a sequence"#);
            assert!(first.starts_with(&error), "{first}");
        } else {
            assert_eq!(first, r#"[3,"1",{}]"#);
        }
    }
}

#[test]
fn b41_violation_converts_to_call_error_with_pointer() {
    let violation = Violation::new(ErrorCode::PROPERTY_CONSTRAINT_VIOLATION, "/a/0", "is too long");
    let error = CallError::from(violation);
    assert_eq!(error.to_string(), "PropertyConstraintViolation: /a/0: is too long");
    assert_eq!(error.details().map(Payload::as_str), Some(r#"{"pointer":"/a/0"}"#));
}

#[tokio::test]
async fn b43_accept_sets_validation_of_session() {
    let hook = async |handshake: ocpp_rpc::Handshake| {
        let options = Options::server();
        Ok(ocpp_rpc::Accept::new().options(match handshake.identity() {
            "checked" => options.validation(Validation::new(Acme)),
            _ => options,
        }))
    };
    let server = RpcServer::builder(RpcRouter::new().on("Do", echo)).protocols(["acme1"]).auth(hook);
    let server = server.build().expect("valid settings");
    for (identity, response) in [("checked", r#"[4,"1","Occur"#), ("free", r#"[3,"1",{}]"#)] {
        let mut station = Station::connect(&server, identity, "acme1").await;
        assert!(station.ask(r#"[2,"1","Do",{}]"#).await.starts_with(response), "{identity}");
    }
}

#[tokio::test]
async fn b43_changed_options_keep_validation_of_open_session() {
    let (server, calls) = server(Validation::new(Acme).only(["acme1"]));
    let (mut station, session) = connected(&server, "acme1").await;
    session.set_options(Options::server().ping_interval(5 * SECOND)).expect("valid settings");
    assert!(station.ask(r#"[2,"1","Do",{}]"#).await.starts_with(r#"[4,"1","Occur"#));
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn b43_unsupported_protocol_is_refused_if_all_are_validated() {
    let builder = || {
        let server = RpcServer::builder(RpcRouter::new().on("Do", echo)).protocols(["acme1"]);
        server.options(Options::server().validation(Validation::new(Acme)))
    };
    let authenticator = |handshake: Handshake| async move {
        let is_known = handshake.protocols().iter().any(|protocol| protocol == "acme1");
        Ok::<_, Reject>(if is_known { Accept::new() } else { Accept::new().without_protocol() })
    };
    let site = crate::tcp::Site::of(builder().auth(authenticator)).await;
    assert_eq!(site.ask(&crate::tcp::offering("/CP", "other")).await.status, 500);
    assert_eq!(site.ask(&crate::tcp::offering("/CP", "acme1")).await.status, 101);
}

#[tokio::test]
async fn b78_sessions_without_a_protocol_are_not_served_if_all_are_validated() {
    let serves = |options| {
        let server = RpcServer::builder(RpcRouter::new()).protocols(["acme1"]).options(options);
        server.no_common_protocol(ocpp_rpc::server::NoCommonProtocol::Serve).build()
    };
    let all = || Options::server().validation(Validation::new(Acme));
    let error = serves(all()).expect_err("they cannot be validated").to_string();
    assert!(error.contains("sessions without a protocol cannot be validated"), "{error}");
    let server = serves(Options::server().validation(Validation::new(Acme).only(["acme1"]))).expect("valid settings");
    assert!(server.set_options(all()).is_err());
}

#[tokio::test(start_paused = true)]
async fn b41_queued_call_is_validated_once_over_reconnects() {
    let (builder, mut dials) = client();
    let options = Options::client().validation(Validation::new(Acme).report_only(true));
    let (client, attempt) = connecting(builder.protocols(["acme1"]).options(options));
    let mut events = client.events();
    let mut csms = dials.accept("acme1").await;
    attempt.await.expect("no panic").expect("connected");
    let first = tokio::spawn(client.call::<Value>("Do", &json!({"n": 1})));
    csms.receive_call("Do").await;
    let second = tokio::spawn(client.call::<Value>("Do", &()));
    tokio::task::yield_now().await;
    drop(csms);
    assert!(first.await.expect("no panic").is_err());
    let mut csms = dials.accept("acme1").await;
    let id = csms.receive_call("Do").await;
    csms.send(json!([3, id, {"ok": true}])).await;
    second.await.expect("no panic").expect("a response");
    client.close(ocpp_rpc::Close::forced()).await;
    drop(client);
    let mut violations = 0;
    while let Some(event) = events.next().await {
        violations += usize::from(matches!(event.kind, EventKind::ValidationFailed { .. }));
    }
    assert_eq!(violations, 1);
}

#[tokio::test(start_paused = true)]
async fn b75_events_about_invalid_payloads_carry_the_payload() {
    let (server, _calls) = server(Validation::new(Acme).only(["acme1"]));
    let (mut station, session) = connected(&server, "acme1").await;
    let mut events = server.events();
    let mut seen = async || {
        events
            .expect(|event| match event.kind {
                EventKind::ValidationFailed { id, payload, .. } => Some((id.to_string(), payload.as_str().to_owned())),
                _ => None,
            })
            .await
    };
    station.ask(r#"[2,"1","Do",{"m": 1}]"#).await;
    assert_eq!(seen().await, ("1".to_owned(), r#"{"m": 1}"#.to_owned()));
    assert!(session.call::<Value>("Do", &json!({"m": 2})).await.is_err());
    assert_eq!(seen().await.1, r#"{"m":2}"#);
}

#[tokio::test(start_paused = true)]
async fn b41_codes_of_violations_can_be_set_for_any_validator() {
    let codes = |violation: &Violation| (violation.pointer() == "/n").then_some(ErrorCode::PROTOCOL_ERROR);
    let (server, _calls) = server(Validation::new(Acme).only(["acme1"]).codes(codes));
    let (mut station, session) = connected(&server, "acme1").await;
    let response = station.ask(r#"[2,"1","Do",{}]"#).await;
    assert_eq!(response, r#"[4,"1","ProtocolError","/n: is missing",{"pointer":"/n"}]"#);
    let invalid = session.call::<Value>("Do", &json!({})).await.expect_err("invalid");
    assert!(matches!(invalid, Error::Invalid(violation) if *violation.code() == ErrorCode::PROTOCOL_ERROR));
    let response = station.ask(r#"[2,"2","Other",{}]"#).await;
    assert!(response.contains("NotImplemented"), "{response}");
}
