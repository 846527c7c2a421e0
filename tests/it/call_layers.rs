//! Layers around calls to the peer.

use std::{
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use ocpp_rpc::{
    CallError, Error, ErrorCode, Options, Payload, RpcRouter, RpcServer, Session,
    cluster::Local,
    event::{CallOutcome, EventKind},
    extract::CancellationToken,
    outgoing::{self, CallResponse, CallService, FunctionLayer, Next, OutgoingCall},
    server::RpcServerBuilder,
};
use serde_json::{Value, json};
use tokio::time::{Instant, Sleep, sleep};
use tower::{
    BoxError, Service, ServiceBuilder,
    limit::GlobalConcurrencyLimitLayer,
    load_shed::LoadShedLayer,
    retry::{Policy, RetryLayer},
    timeout::TimeoutLayer,
};

use crate::{
    csms,
    support::{NextNow, SECOND, Station, connected},
};

/// Texts of layers, in order.
type Trace = Arc<Mutex<Vec<String>>>;

fn take(trace: &Trace) -> Vec<String> {
    std::mem::take(&mut *trace.lock().expect("no panic"))
}

/// A layer that traces its name, and the action of each call.
fn traced(trace: &Trace, name: &'static str) -> FunctionLayer<impl Fn(OutgoingCall, Next) -> Response + Clone + use<>> {
    let trace = trace.clone();
    outgoing::from_fn(move |call: OutgoingCall, next: Next| -> Response {
        trace.lock().expect("no panic").push(format!("{name} {}", call.action()));
        next.run(call).boxed()
    })
}

type Response = BoxFuture<'static, Result<CallResponse, Error>>;

fn builder() -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new()).protocols(["ocpp2.1", "ocpp1.6"])
}

/// Responds to the next call of the server, and returns its action.
async fn respond(station: &mut Station, response: &str) -> String {
    let (id, call) = station.receive_call().await;
    station.send(response.replace("ID", &id)).await;
    call[0].as_str().expect("an action").to_owned()
}

const RESULT: &str = r#"[3,"ID",{}]"#;

const REJECTION: &str = r#"[4,"ID","InternalError","busy",{}]"#;

#[tokio::test]
async fn b101_layers_wrap_calls_of_all_handles_the_last_one_first() {
    async fn call_back(session: Session) -> Result<Value, CallError> {
        session.call("FromHandler", &()).await.map_err(CallError::internal)
    }
    let trace = Trace::default();
    let server = RpcServer::builder(RpcRouter::new().on("CallBack", call_back))
        .protocols(["ocpp2.1"])
        .call_layer(traced(&trace, "inner"))
        .call_layer(traced(&trace, "outer"))
        .build()
        .expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp2.1").await;
    let station = server.station("CP-1");
    let calls = async {
        session.call::<Value>("One", &()).await.expect("a result");
        station.call::<Value>("Two", &()).await.expect("a result");
        session.send("Three", &()).await.expect("sent");
        station.send("Four", &()).await.expect("sent");
        session.call::<Value>("Five", &()).fire_and_forget().await.expect("sent");
        session.send_raw("[]").await.expect("sent");
    };
    let peer_of_calls = async {
        for action in ["One", "Two"] {
            assert_eq!(respond(&mut peer, RESULT).await, action);
        }
        for kind in ["[6,", "[6,", "[2,", "[]"] {
            assert!(peer.receive().await.starts_with(kind), "{kind}");
        }
        peer.send(r#"[2,"1","CallBack",{}]"#).await;
        assert_eq!(respond(&mut peer, RESULT).await, "FromHandler");
        assert_eq!(peer.receive().await, r#"[3,"1",{}]"#);
    };
    tokio::join!(calls, peer_of_calls);
    let actions = ["One", "Two", "Three", "Four", "Five", "FromHandler"];
    assert_eq!(take(&trace), actions.map(|action| [format!("outer {action}"), format!("inner {action}")]).concat());
}

#[tokio::test(start_paused = true)]
async fn b101_client_has_layers_also_while_it_connects() {
    let trace = Trace::default();
    let (builder, mut dials) = csms::client();
    let (client, attempt) = csms::connecting(builder.call_layer(traced(&trace, "layer")));
    let stream = dials.next().await;
    let queued = tokio::spawn(client.call::<Value>("Queued", &()));
    tokio::task::yield_now().await;
    assert_eq!(take(&trace), ["layer Queued"]);
    let mut csms = csms::Csms(csms::accept(stream, "ocpp1.6").await);
    csms.answer("Queued").await;
    attempt.await.expect("no panic").expect("connected");
    queued.await.expect("no panic").expect("a result");
    let second = tokio::spawn(client.session().call::<Value>("Second", &()));
    csms.answer("Second").await;
    second.await.expect("no panic").expect("a result");
    assert_eq!(take(&trace), ["layer Second"]);
}

#[tokio::test]
async fn b101_layer_sees_and_changes_the_call_and_its_response() {
    #[derive(Clone)]
    struct User(&'static str);
    async fn change(mut call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
        assert!(call.extensions().get::<&str>().is_none());
        let params: Value = call.params().decode().expect("JSON");
        let user = call.extensions().get::<User>().map(|user| user.0);
        let id = call.id().map(|id| id.as_str().to_owned());
        let protocol = call.session().and_then(|session| session.protocol());
        let seen = json!({
            "key": call.key(), "action": call.action(), "params": params, "user": user, "id": id, "protocol": protocol,
            "response": call.expects_response(), "send": call.is_send(), "timeout": call.timeout(),
            "deadline": call.deadline().is_some(),
        });
        if call.action() == "Cached" {
            return Ok(Payload::encode(&seen).expect("an object").into());
        }
        if call.action() == "Broken" {
            call.set_params(serde_json::from_str("[]").expect("JSON"));
        } else {
            call.set_params(Payload::encode(&seen).expect("an object"));
        }
        let response = next.run(call).await?;
        Ok(Payload::encode(&json!({"was": response.payload()})).expect("an object").into())
    }
    let server = builder().call_layer(outgoing::from_fn(change)).build().expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let seen = |action, more: Value| {
        let mut seen = json!({
            "key": "CP-1", "action": action, "params": {"a": 1}, "user": null, "id": null, "protocol": "ocpp1.6",
            "response": true, "send": false, "timeout": null, "deadline": false,
        });
        for (name, value) in more.as_object().expect("an object") {
            seen[name] = value.clone();
        }
        seen
    };

    let params = json!({"a": 1});
    let call = server.station("CP-1").call::<Value>("Plain", &params).extension(User("joe")).id("own").timeout(SECOND);
    let (result, ()) = tokio::join!(call, async {
        let (id, call) = peer.receive_call().await;
        assert_eq!(id, "own");
        let more = json!({"user": "joe", "id": "own", "timeout": {"secs": 1, "nanos": 0}});
        assert_eq!(call, json!(["Plain", seen("Plain", more)]));
        peer.send(r#"[3,"own",{"b":2}]"#).await;
    });
    assert_eq!(result.expect("a result"), json!({"was": {"b": 2}}));

    let cached = session.call::<Value>("Cached", &params).total_timeout(SECOND).await.expect("a result");
    assert_eq!(cached, seen("Cached", json!({"deadline": true})));
    let broken = session.call::<Value>("Broken", &()).await;
    assert!(matches!(broken, Err(Error::Encode(_))), "{broken:?}");
    let send = session.send("Send", &()).await;
    assert!(matches!(send, Err(Error::SendNotSupported)), "{send:?}");
    assert!(peer.ws.next_now().is_none());
    let (forgotten, (_, call)) =
        tokio::join!(session.call::<Value>("Forgotten", &params).timeout(None).fire_and_forget(), peer.receive_call());
    forgotten.expect("written");
    assert_eq!(call[1]["timeout"], Value::Null);
}

#[tokio::test]
async fn b101_calls_that_pass_layers_leave_in_order_and_can_bypass_the_queue() {
    let trace = Trace::default();
    let server = builder().call_layer(traced(&trace, "layer")).build().expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..20).map(|n| session.call::<Value>(&n.to_string(), &())).collect::<Vec<_>>();
    let calls = tokio::spawn(join_all(calls));
    let (first, _) = peer.receive_call().await;
    let bypassing = tokio::spawn(session.call::<Value>("Bypassing", &()).bypass_queue());
    assert_eq!(respond(&mut peer, RESULT).await, "Bypassing");
    bypassing.await.expect("no panic").expect("a result");
    peer.send(RESULT.replace("ID", &first)).await;
    for n in 1..20 {
        assert_eq!(respond(&mut peer, RESULT).await, n.to_string());
    }
    for result in calls.await.expect("no panic") {
        result.expect("a result");
    }
    assert_eq!(take(&trace).len(), 21);
}

#[tokio::test]
async fn b101_dropped_and_cancelled_calls_leave_their_layers_and_the_queue() {
    let server = builder().call_layer(GlobalConcurrencyLimitLayer::new(2)).build().expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let token = CancellationToken::new();
    let in_flight = tokio::spawn(session.call::<Value>("InFlight", &()).cancel_on(&token));
    let (late, _) = peer.receive_call().await;
    let queued = tokio::spawn(session.call::<Value>("Queued", &()));
    tokio::task::yield_now().await;
    let mut waiting = session.call::<Value>("Waiting", &());
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((session.in_flight(), session.queued()), (1, 1), "two calls have passed the limit");
    queued.abort();
    assert!(queued.await.expect_err("aborted").is_cancelled());
    tokio::task::yield_now().await;
    assert!((&mut waiting).now_or_never().is_none());
    assert_eq!((session.in_flight(), session.queued()), (1, 1), "another call has taken the place");
    drop(waiting);
    token.cancel();
    let cancelled = in_flight.await.expect("no panic");
    assert!(matches!(cancelled, Err(Error::Cancelled)), "{cancelled:?}");
    let mut events = server.events();
    peer.send(RESULT.replace("ID", &late)).await;
    while !matches!(events.next().await.expect("an event").kind, EventKind::LateResponse(_)) {}
    let (next, action) = tokio::join!(session.call::<Value>("Next", &()), respond(&mut peer, RESULT));
    next.expect("a result");
    assert_eq!(action, "Next");
}

#[tokio::test]
async fn b101_result_that_is_not_decodable_is_rejected_outside_of_the_layers() {
    async fn replace(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
        let is_replaced = call.action() == "Replaced";
        let response = next.run(call).await?;
        Ok(if is_replaced { Payload::encode(&json!({"a": "text"})).expect("an object").into() } else { response })
    }
    #[derive(serde::Deserialize, Debug)]
    struct Typed {
        #[allow(dead_code, reason = "only decoded")]
        a: u8,
    }
    let server = builder().call_layer(outgoing::from_fn(replace)).build().expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp2.1").await;
    let wrong = r#"[3,"ID",{"a":"text"}]"#;
    let (replaced, _) = tokio::join!(session.call::<Typed>("Replaced", &()), respond(&mut peer, r#"[3,"ID",{"a":1}]"#));
    assert!(matches!(replaced, Err(Error::Decode(_))), "{replaced:?}");
    let (result, _) = tokio::join!(session.call::<Typed>("Typed", &()), respond(&mut peer, wrong));
    assert!(matches!(result, Err(Error::Decode(_))), "{result:?}");
    let rejection: Value = serde_json::from_str(&peer.receive().await).expect("JSON");
    assert_eq!((&rejection[0], &rejection[2]), (&json!(5), &json!("TypeConstraintViolation")), "{rejection}");
    tokio::task::yield_now().await;
    assert!(peer.ws.next_now().is_none(), "a result of a layer is not the station's fault");
}

/// A layer that fails with an error of its own.
#[derive(Clone)]
struct Failing;

impl Service<OutgoingCall> for Failing {
    type Response = CallResponse;
    type Error = BoxError;
    type Future = std::future::Ready<Result<CallResponse, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: OutgoingCall) -> Self::Future {
        std::future::ready(Err("no quota".into()))
    }
}

#[tokio::test(start_paused = true)]
async fn b101_error_of_a_layer_is_the_error_of_the_call() {
    let failing = builder().call_layer(tower::layer::layer_fn(|_: CallService| Failing)).build().expect("settings");
    let failed = failing.station("CP-1").call::<Value>("Reset", &()).await.expect_err("failed");
    assert_eq!(failed.to_string(), "a layer around the call failed: no quota");
    assert!(!failed.is_retryable() && failed.maybe_delivered() && !failed.is_timeout());
    assert_eq!(failed.http_status(), 500);

    let server = builder()
        .call_layer(GlobalConcurrencyLimitLayer::new(1))
        .call_layer(LoadShedLayer::new())
        .call_layer(TimeoutLayer::new(5 * SECOND))
        .build()
        .expect("valid settings");
    let missing = server.station("CP-2").call::<Value>("Reset", &()).await;
    assert!(matches!(missing, Err(Error::NotConnected)), "{missing:?}");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let (rejected, _) = tokio::join!(session.call::<Value>("Reset", &()), respond(&mut peer, REJECTION));
    assert!(matches!(&rejected, Err(Error::Rejected(e)) if *e.code() == ErrorCode::INTERNAL_ERROR), "{rejected:?}");
    let start = Instant::now();
    let slow = tokio::spawn(session.call::<Value>("Slow", &()));
    peer.receive_call().await;
    let shed = session.call::<Value>("Shed", &()).await;
    assert!(matches!(shed, Err(Error::Layer(_))), "{shed:?}");
    let slow = slow.await.expect("no panic");
    assert!(matches!(slow, Err(Error::Timeout)), "{slow:?}");
    assert_eq!((start.elapsed(), session.in_flight()), (5 * SECOND, 0));
}

#[tokio::test(start_paused = true)]
async fn b101_limits_hold_for_all_stations_together() {
    let limit = ServiceBuilder::new().buffer(100).rate_limit(2, SECOND);
    let server =
        builder().call_layer(GlobalConcurrencyLimitLayer::new(3)).call_layer(limit).build().expect("valid settings");
    let start = Instant::now();
    let mut stations = Vec::new();
    let mut calls = Vec::new();
    for identity in 0..5 {
        stations.push(Station::connect(&server, &identity.to_string(), "ocpp1.6").await);
        calls.push(tokio::spawn(server.station(identity.to_string()).call::<Value>("Reset", &())));
    }
    let mut ids = Vec::new();
    for (station, second) in stations.iter_mut().zip([0, 0, 1]) {
        ids.push(station.receive_call().await.0);
        assert_eq!(start.elapsed().as_secs(), second);
    }
    sleep(10 * SECOND).await;
    assert!(stations[3].ws.next_now().is_none_or(|message| message.is_ping()), "three calls are pending");
    stations[0].send(RESULT.replace("ID", &ids[0])).await;
    assert_eq!(respond(&mut stations[3], RESULT).await, "Reset");
    assert_eq!(respond(&mut stations[4], RESULT).await, "Reset");
    for (station, id) in stations.iter_mut().zip(&ids).skip(1) {
        station.send(RESULT.replace("ID", id)).await;
    }
    for call in calls {
        call.await.expect("no panic").expect("a result");
    }
}

/// Makes at most so many further attempts, each a second later.
#[derive(Clone)]
struct Retries {
    left: u32,
    of: fn(&Error) -> bool,
}

impl Policy<OutgoingCall, CallResponse, Error> for Retries {
    type Future = Sleep;

    fn retry(&mut self, _: &mut OutgoingCall, result: &mut Result<CallResponse, Error>) -> Option<Sleep> {
        let is_retried = result.as_ref().is_err_and(self.of);
        self.left = self.left.checked_sub(1).filter(|_| is_retried)?;
        Some(sleep(SECOND))
    }

    fn clone_request(&mut self, call: &OutgoingCall) -> Option<OutgoingCall> {
        Some(call.clone())
    }
}

#[tokio::test(start_paused = true)]
async fn b101_retry_of_a_call_that_was_not_delivered_waits_for_the_station() {
    let retry = RetryLayer::new(Retries { left: 4, of: Error::is_retryable });
    let server = builder().call_layer(retry).build().expect("valid settings");
    let start = Instant::now();
    let failed = server.station("CP-1").call::<Value>("Reset", &()).await;
    assert!(matches!(failed, Err(Error::NotConnected)), "{failed:?}");
    assert_eq!(start.elapsed(), 4 * SECOND);

    let call = tokio::spawn(server.station("CP-1").call::<Value>("Reset", &json!({"type": "Soft"})));
    sleep(3 * SECOND / 2).await;
    let (mut peer, _) = connected(&server, "ocpp1.6").await;
    let (id, request) = peer.receive_call().await;
    assert_eq!(request, json!(["Reset", {"type": "Soft"}]));
    drop(peer);
    let lost = call.await.expect("no panic");
    assert!(lost.expect_err("disconnected").maybe_delivered(), "a call that was written is not repeated: {id}");
}

#[tokio::test(start_paused = true)]
async fn b101_each_attempt_is_a_call_with_an_id_and_an_event() {
    let retry = RetryLayer::new(Retries { left: 1, of: |error| matches!(error, Error::Rejected(_)) });
    let server = builder().call_layer(retry).build().expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let mut ids = Vec::new();
    for own_id in [None, Some("own")] {
        let call = session.call::<Value>("Reset", &());
        let call = tokio::spawn(own_id.into_iter().fold(call, ocpp_rpc::Call::id));
        for response in [REJECTION, r#"[3,"ID",{"status":"Accepted"}]"#] {
            let (id, _) = peer.receive_call().await;
            peer.send(response.replace("ID", &id)).await;
            ids.push(id);
        }
        assert_eq!(call.await.expect("no panic").expect("a result"), json!({"status": "Accepted"}));
    }
    assert_ne!(ids[0], ids[1]);
    assert_eq!(ids[2..], ["own", "own"]);
    let mut ended = Vec::new();
    while ended.len() < 4 {
        if let EventKind::CallEnded { id, outcome, .. } = events.next().await.expect("an event").kind {
            ended.push((id.to_string(), matches!(outcome, CallOutcome::Result)));
        }
    }
    assert_eq!(ended, ids.into_iter().zip([false, true, false, true]).collect::<Vec<_>>());
    session.close(ocpp_rpc::Close::normal()).await;
    while let Some(Some(event)) = events.next().now_or_never() {
        assert!(!matches!(event.kind, EventKind::CallEnded { .. }), "the call itself has no event");
    }
}

#[tokio::test(start_paused = true)]
async fn b101_total_timeout_includes_the_layers() {
    let limited = builder().call_layer(GlobalConcurrencyLimitLayer::new(2)).build().expect("valid settings");
    let (mut peer, session) = connected(&limited, "ocpp1.6").await;
    let timed = async |call: ocpp_rpc::Call<Value>| {
        let start = Instant::now();
        (call.await.expect_err("timed out"), start.elapsed().as_secs_f32())
    };
    let total = |action| session.call::<Value>(action, &()).timeout(None).total_timeout(3 * SECOND);
    let in_flight = tokio::spawn(session.call::<Value>("InFlight", &()).total_timeout(4 * SECOND));
    peer.receive_call().await;
    let queued = tokio::spawn(total("Queued"));
    tokio::task::yield_now().await;
    let waiting = timed(total("Waiting").total_timeout(2 * SECOND)).await;
    assert!(matches!(waiting, (Error::NeverSent, 2.0)), "{waiting:?}");
    let queued = queued.await.expect("no panic");
    assert!(matches!(queued, Err(Error::NeverSent)), "{queued:?}");
    let in_flight = in_flight.await.expect("no panic");
    assert!(matches!(in_flight, Err(Error::Timeout)), "{in_flight:?}");
    peer.silent().await;

    let retry = RetryLayer::new(Retries { left: 9, of: |_| true });
    let retried = builder().call_layer(retry).build().expect("valid settings");
    let missing = timed(retried.station("CP-1").call("Reset", &()).total_timeout(5 * SECOND / 2)).await;
    assert!(matches!(missing, (Error::NeverSent, 2.5)), "{missing:?}");
    let (mut peer, session) = connected(&retried, "ocpp1.6").await;
    let call = timed(session.call("Reset", &()).total_timeout(5 * SECOND / 2));
    let (rejected, ()) = tokio::join!(call, async {
        for _ in 0..3 {
            respond(&mut peer, REJECTION).await;
        }
    });
    assert!(matches!(rejected, (Error::Timeout, 2.5)), "the station may have done something: {rejected:?}");
    let (unanswered, ()) = tokio::join!(timed(session.call("Reset", &()).total_timeout(5 * SECOND / 2)), async {
        respond(&mut peer, REJECTION).await;
        peer.receive_call().await;
    });
    assert!(matches!(unanswered, (Error::Timeout, 2.5)), "{unanswered:?}");
    peer.silent().await;
}

#[tokio::test(start_paused = true)]
async fn b101_layers_of_the_calling_node_run_once_and_those_of_the_other_not() {
    let (cluster, trace) = (Local::new(), Trace::default());
    let node = |name| {
        let server = builder().call_layer(traced(&trace, name)).cluster(cluster.node(name));
        server.build().expect("valid settings")
    };
    let (a, b) = (node("a"), node("b"));
    let mut peer = Station::connect(&b, "CP-1", "ocpp2.1").await;
    sleep(Duration::from_millis(50)).await;
    for (server, name) in [(&a, "a"), (&b, "b")] {
        let station = server.station("CP-1");
        let (result, _) = tokio::join!(station.call::<Value>("Reset", &()), respond(&mut peer, RESULT));
        result.expect("a result");
        let (sent, _) = tokio::join!(station.send("Notify", &()), peer.receive());
        sent.expect("sent");
        let wrong = station.call::<Vec<u8>>("Wrong", &());
        let (wrong, _) = tokio::join!(wrong, respond(&mut peer, RESULT));
        assert!(matches!(wrong, Err(Error::Decode(_))), "{wrong:?}");
        assert!(peer.receive().await.starts_with("[5,"));
        assert_eq!(take(&trace), ["Reset", "Notify", "Wrong"].map(|action| format!("{name} {action}")));
    }
}

#[tokio::test(start_paused = true)]
async fn b101_call_in_a_layer_passes_the_layers_as_well() {
    async fn ask_first(call: OutgoingCall, next: Next) -> Result<CallResponse, Error> {
        if let (Some(session), "Reset") = (call.session(), call.action()) {
            session.call::<Value>("First", &()).await?;
        }
        next.run(call).await
    }
    let trace = Trace::default();
    let server = builder()
        .call_layer(outgoing::from_fn(ask_first))
        .call_layer(traced(&trace, "layer"))
        .options(Options::server())
        .build()
        .expect("valid settings");
    let (mut peer, session) = connected(&server, "ocpp1.6").await;
    let (result, ()) = tokio::join!(session.call::<Value>("Reset", &()), async {
        assert_eq!(respond(&mut peer, RESULT).await, "First");
        assert_eq!(respond(&mut peer, RESULT).await, "Reset");
    });
    result.expect("a result");
    assert_eq!(take(&trace), ["layer Reset", "layer First"]);
}
