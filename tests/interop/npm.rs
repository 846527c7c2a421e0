//! Both ends with the npm module `ocpp-rpc`, one test per statement: the module is a station of the crate's server, and
//! the server of the crate's client.

use std::convert::Infallible;
use std::time::Duration;

use futures_util::FutureExt;
use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, Options, Payload, Reject, RpcClient, RpcRouter, RpcServer,
    client::{Backoff, ConnectError, Reconnect},
    close::{CloseCause, CloseInfo},
    event::{EventKind, Events},
    message::MessageError,
    server::Listener,
};
use ocpp_rpc::{
    Session,
    extract::{CancellationToken, Params, State},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{Library, Script, TIMEOUT};

const PROTOCOL: &str = "ocpp2.0.1";

/// The end of the connection that the npm module implements.
#[derive(Debug, Clone, Copy)]
enum Role {
    Station,
    Server,
}

/// Runs each of these scenarios with the npm module at either end.
macro_rules! at_either_end {
    ($($scenario:ident)*) => {
        at_either_end! { @ npm_as_station, Station; $($scenario)* }
        at_either_end! { @ npm_as_server, Server; $($scenario)* }
    };
    (@ $module:ident, $role:ident; $($scenario:ident)*) => {
        mod $module {
            $(
                #[tokio::test]
                async fn $scenario() {
                    let scenario = tokio::time::timeout(super::TIMEOUT, super::$scenario(super::Role::$role));
                    scenario.await.expect("the scenario timed out");
                }
            )*
        }
    };
}

at_either_end! {
    b23_queued_calls_reach_peer_in_order_one_at_a_time
    b23_concurrent_calls_reach_peer_up_to_limit
    b24_call_dropped_while_queued_is_never_sent
    b25_late_response_after_timeout_emits_event
    b26_call_error_from_peer_is_returned_verbatim
    b27_fire_and_forget_call_completes_when_written
    b29_killed_peer_fails_calls_with_delivery_status
    b30_handlers_at_both_ends_call_back
    b31_action_without_handler_is_not_implemented
    b33_handler_results_errors_and_panics_reach_peer
    b35_duplicate_id_is_rejected_and_first_call_completes
    b36_replaced_router_handles_next_call
    b37_handler_finishes_with_cancelled_token_after_kill
    b38_malformed_message_is_rejected_and_reported
    b39_too_many_bad_messages_close_with_1002
    b40_response_with_unknown_id_is_only_reported
    b46_close_replaces_invalid_code_and_truncates_reason
    b47_draining_close_waits_for_both_directions
    b47_draining_close_by_peer_receives_response
    b48_forced_close_is_1006_at_both_ends
    b51_close_code_and_reason_match_at_both_ends
}

/// The npm module and the crate's end of the connection to it.
struct Pair {
    npm: Script,
    peer: Session,
    events: Events,
    // Dropping it would close the connection.
    _own_end: OwnEnd,
}

#[expect(dead_code, reason = "keeps the connection open")]
enum OwnEnd {
    Server(Listener),
    Client(RpcClient),
}

impl Pair {
    async fn connect<S: Send + Sync + 'static>(role: Role, router: RpcRouter<S>, options: Options) -> Self {
        match role {
            Role::Station => {
                let server = RpcServer::builder(router)
                    .protocols([PROTOCOL])
                    .options(options)
                    .build()
                    .expect("a valid configuration");
                let mut events = server.events();
                let listener = server.listen("127.0.0.1:0").await.expect("a port");
                let url = format!("ws://{}/ocpp", listener.local_addr());
                let mut npm = npm(&["client", PROTOCOL, &url]);
                npm.send(r#"{"do":"connect"}"#);
                npm.event("open").await;
                next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;
                let peer = server.session("CP-1").expect("a registered session");
                Self { npm, peer, events, _own_end: OwnEnd::Server(listener) }
            }
            Role::Server => {
                let mut npm = npm(&["server", PROTOCOL]);
                let port = npm.port().await;
                let client = builder(port).router(router).options(options).build().expect("a valid configuration");
                let mut events = client.events();
                client.connect().await.expect("the server accepts the connection");
                npm.event("connected").await;
                next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;
                let peer = client.session();
                Self { npm, peer, events, _own_end: OwnEnd::Client(client) }
            }
        }
    }

    /// Sets the response of the npm module to calls of an action.
    async fn set_response(&mut self, action: &str, with: Value) {
        self.npm.send(&json!({"do": "answer", "action": action, "with": with}).to_string());
        self.npm.event("ready").await;
    }

    /// Makes the npm module call an action and returns the outcome.
    async fn call_from_npm(&mut self, action: &str, params: Value) -> Value {
        self.npm.send(&json!({"do": "call", "action": action, "params": params}).to_string());
        self.npm.event("outcome").await
    }

    fn send_raw(&mut self, text: &str) {
        self.npm.send(&json!({"do": "raw", "text": text}).to_string());
    }

    /// Returns the next message that the npm module receives.
    async fn received(&mut self) -> Value {
        self.npm.event("received").await["frame"].take()
    }

    /// Returns the action of the next message that the npm module receives, which must be a call.
    async fn next_action(&mut self) -> String {
        let frame = self.received().await;
        assert_eq!(frame[0], 2, "{frame}");
        frame[2].as_str().expect("an action").to_owned()
    }

    /// Asserts that the connection works and that the npm module has received no other message before.
    async fn assert_works(&mut self) {
        self.set_response("Works", json!({"result": {"fine": true}})).await;
        let response = self.peer.call::<Value>("Works", &()).await;
        assert_eq!(response.expect("a response"), json!({"fine": true}));
        assert_eq!(self.next_action().await, "Works");
    }
}

fn npm(arguments: &[&str]) -> Script {
    Script::start(Library::Npm.script("peer").args(arguments))
}

fn builder(port: u16) -> ocpp_rpc::client::RpcClientBuilder {
    let backoff = Backoff::exponential().min(Duration::from_millis(20)).max(Duration::from_millis(200));
    RpcClient::builder(format!("ws://127.0.0.1:{port}/ocpp"), "CP-1")
        .protocols([PROTOCOL])
        .reconnect(Reconnect::always().backoff(backoff))
}

/// Returns the first `Some` that `pick` returns for a later event.
async fn next<T>(events: &mut Events, pick: impl Fn(EventKind) -> Option<T>) -> T {
    let found = timeout(TIMEOUT, async {
        loop {
            let event = events.next().await.expect("another event");
            if let Some(picked) = pick(event.kind) {
                return picked;
            }
        }
    });
    found.await.expect("timed out waiting for the event")
}

async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

async fn b23_queued_calls_reach_peer_in_order_one_at_a_time(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    pair.set_response("First", json!("hold")).await;
    pair.set_response("Second", json!({"result": {"n": 2}})).await;
    pair.set_response("Third", json!({"result": {"n": 3}})).await;
    let calls = ["First", "Second", "Third"].map(|action| tokio::spawn(pair.peer.call::<Value>(action, &())));
    assert_eq!(pair.next_action().await, "First");
    // A call received too early would be skipped here, and the assertions below would fail.
    pair.set_response("Nothing", json!({"result": {}})).await;
    pair.npm.send(r#"{"do":"release"}"#);
    assert_eq!(pair.next_action().await, "Second");
    assert_eq!(pair.next_action().await, "Third");
    let mut responses = Vec::new();
    for call in calls {
        responses.push(call.await.expect("no panic").expect("a response"));
    }
    assert_eq!(responses, [json!({}), json!({"n": 2}), json!({"n": 3})]);
}

async fn b23_concurrent_calls_reach_peer_up_to_limit(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server().call_concurrency(3)).await;
    pair.set_response("Hold", json!("hold")).await;
    pair.set_response("Next", json!({"result": {}})).await;
    let calls = ["Hold", "Hold", "Hold", "Next"].map(|action| tokio::spawn(pair.peer.call::<Value>(action, &())));
    for _ in 0..3 {
        assert_eq!(pair.next_action().await, "Hold");
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    pair.npm.send(r#"{"do":"release"}"#);
    assert_eq!(pair.next_action().await, "Next");
    for call in calls {
        call.await.expect("no panic").expect("a response");
    }
}

async fn b24_call_dropped_while_queued_is_never_sent(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    pair.set_response("First", json!("hold")).await;
    pair.set_response("Third", json!({"result": {}})).await;
    let first = tokio::spawn(pair.peer.call::<Value>("First", &()));
    assert_eq!(pair.next_action().await, "First");
    let second = pair.peer.call::<Value>("Second", &());
    assert!(timeout(Duration::from_millis(20), second).await.is_err(), "still waiting");
    let third = tokio::spawn(pair.peer.call::<Value>("Third", &()));
    pair.npm.send(r#"{"do":"release"}"#);
    assert_eq!(pair.next_action().await, "Third");
    for call in [first, third] {
        call.await.expect("no panic").expect("a response");
    }
    pair.assert_works().await;
}

async fn b25_late_response_after_timeout_emits_event(role: Role) {
    let options = Options::server().call_timeout(Duration::from_millis(50));
    let mut pair = Pair::connect(role, RpcRouter::new(), options).await;
    pair.set_response("Slow", json!("hold")).await;
    let outcome = pair.peer.call::<Value>("Slow", &()).await;
    assert!(matches!(outcome, Err(Error::Timeout)), "{outcome:?}");
    let id = pair.received().await[1].as_str().expect("an id").to_owned();
    pair.npm.send(r#"{"do":"release"}"#);
    let late = next(&mut pair.events, |event| if let EventKind::LateResponse(id) = event { Some(id) } else { None });
    assert_eq!(late.await.as_str(), id);
    pair.peer.set_options(Options::server()).expect("a valid configuration");
    pair.assert_works().await;
}

async fn b26_call_error_from_peer_is_returned_verbatim(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    for (code, text, details) in [
        ("Teapot", "short and stout", json!({"handle": 1, "spout": [null]})),
        ("SecurityError", "no", json!({})),
        ("FormationViolation", "spelled as in 1.6", json!({"a": "ü"})),
    ] {
        pair.set_response("Fail", json!({"error": [code, text, details]})).await;
        let outcome = pair.peer.call::<Value>("Fail", &()).await;
        let Err(Error::Rejected(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((error.code().as_str(), error.description()), (code, text));
        // The crate reports empty details as `None`.
        let seen = error.details().map_or(Ok(json!({})), Payload::decode::<Value>);
        assert_eq!(seen.expect("JSON"), details);
    }
}

async fn b27_fire_and_forget_call_completes_when_written(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    pair.set_response("Forget", json!({"result": {"who": "cares"}})).await;
    pair.peer.call::<Value>("Forget", &json!({"n": 1})).fire_and_forget().await.expect("written");
    let frame = pair.received().await;
    assert_eq!((&frame[2], &frame[3]), (&json!("Forget"), &json!({"n": 1})));
    let late = next(&mut pair.events, |event| if let EventKind::LateResponse(id) = event { Some(id) } else { None });
    assert_eq!(frame[1], late.await.as_str());
    pair.assert_works().await;
}

async fn b29_killed_peer_fails_calls_with_delivery_status(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    pair.set_response("Hold", json!("hold")).await;
    let written = tokio::spawn(pair.peer.call::<Value>("Hold", &()));
    assert_eq!(pair.next_action().await, "Hold");
    let waiting = tokio::spawn(pair.peer.call::<Value>("Waiting", &()));
    drop(pair.npm);
    let written = written.await.expect("no panic");
    assert!(matches!(written, Err(Error::Disconnected { maybe_delivered: true })), "{written:?}");
    // The client keeps a queued call for the next connection. No server is left, so close the session to end the call.
    if let Role::Server = role {
        pair.peer.close(Close::normal()).await;
    }
    let waiting = waiting.await.expect("no panic");
    assert!(matches!(waiting, Err(Error::Disconnected { maybe_delivered: false })), "{waiting:?}");
}

async fn b30_handlers_at_both_ends_call_back(role: Role) {
    async fn back(peer: Session) -> Result<Value, CallError> {
        let response: Value = peer.call("Up", &json!({"from": "below"})).await?;
        Ok(json!({"heard": response}))
    }
    let mut pair = Pair::connect(role, RpcRouter::new().on("Back", back).on("Echo", echo), Options::server()).await;
    pair.set_response("Up", json!({"result": {"up": true}})).await;
    pair.set_response("There", json!({"call": "Echo"})).await;
    for _ in 0..3 {
        let outcome = pair.call_from_npm("Back", json!({})).await;
        assert_eq!(outcome["result"], json!({"heard": {"up": true}}), "{outcome}");
        let response = pair.peer.call::<Value>("There", &()).await;
        assert_eq!(response.expect("a response"), json!({}));
    }
}

async fn b31_action_without_handler_is_not_implemented(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    let outcome = pair.call_from_npm("Nobody", json!({})).await;
    assert_eq!(outcome["error"][0], "NotImplemented", "{outcome}");
    assert_eq!(pair.call_from_npm("Echo", json!({"a": [1]})).await["result"], json!({"a": [1]}));
    let outcome = pair.peer.call::<Value>("Nobody", &()).await;
    let Err(Error::Rejected(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(*error.code(), ErrorCode::NOT_IMPLEMENTED);
}

async fn b33_handler_results_errors_and_panics_reach_peer(role: Role) {
    async fn respond(Params(params): Params<Value>) -> Result<Value, CallError> {
        match params["how"].as_str() {
            Some("refuse") => Err(CallError::new(ErrorCode::SECURITY_ERROR, "not you").with_details(&json!({"at": 1}))),
            Some("unknown") => Err(CallError::internal("password is hunter2")),
            Some("panic") => panic!("a bug"),
            _ => Ok(json!({"well": "done"})),
        }
    }
    let mut pair = Pair::connect(role, RpcRouter::new().on("Do", respond), Options::server()).await;
    assert_eq!(pair.call_from_npm("Do", json!({})).await["result"], json!({"well": "done"}));
    let internal = json!(["InternalError", "An internal error occurred", {}]);
    for (how, error) in
        [("refuse", json!(["SecurityError", "not you", {"at": 1}])), ("unknown", internal.clone()), ("panic", internal)]
    {
        assert_eq!(pair.call_from_npm("Do", json!({"how": how})).await["error"], error, "{how}");
    }
    assert_eq!(pair.call_from_npm("Do", json!({})).await["result"], json!({"well": "done"}));
}

/// Returns a router with a handler that waits until the test resumes it.
fn pausing_router() -> (RpcRouter<mpsc::UnboundedSender<Waiting>>, mpsc::UnboundedReceiver<Waiting>) {
    async fn wait(
        token: CancellationToken,
        State(waiting): State<mpsc::UnboundedSender<Waiting>>,
    ) -> Result<Value, CallError> {
        let (resume, resumed) = tokio::sync::oneshot::channel();
        let (ended, end) = tokio::sync::oneshot::channel();
        waiting.send(Waiting { resume, end }).map_err(CallError::internal)?;
        tokio::select! {
            () = token.cancelled() => {}
            resumed = resumed => resumed.map_err(CallError::internal)?,
        }
        tokio::task::yield_now().await;
        let _ = ended.send(token.is_cancelled());
        Ok(json!({"waited": true}))
    }
    let (waiting, handlers) = mpsc::unbounded_channel();
    (RpcRouter::with_state(waiting).on("Wait", wait).on("Echo", echo), handlers)
}

/// A running handler.
struct Waiting {
    resume: tokio::sync::oneshot::Sender<()>,
    /// Receives `true` if the token was cancelled when the handler ended.
    end: tokio::sync::oneshot::Receiver<bool>,
}

async fn b35_duplicate_id_is_rejected_and_first_call_completes(role: Role) {
    let (router, mut waiting) = pausing_router();
    let mut pair = Pair::connect(role, router, Options::server()).await;
    pair.send_raw(r#"[2,"twice","Wait",{}]"#);
    let first = waiting.recv().await.expect("a running handler");
    pair.send_raw(r#"[2,"twice","Echo",{}]"#);
    let rejected = pair.received().await;
    assert_eq!((&rejected[0], &rejected[1], &rejected[2]), (&json!(4), &json!("twice"), &json!("RpcFrameworkError")));
    first.resume.send(()).expect("a waiting handler");
    assert_eq!(pair.received().await, json!([3, "twice", {"waited": true}]));
}

async fn b36_replaced_router_handles_next_call(role: Role) {
    async fn new() -> Result<Value, Infallible> {
        Ok(json!({"new": true}))
    }
    let mut pair = Pair::connect(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    assert_eq!(pair.call_from_npm("Echo", json!({})).await["result"], json!({}));
    pair.peer.set_router(RpcRouter::new().on("Echo", new));
    assert_eq!(pair.call_from_npm("Echo", json!({})).await["result"], json!({"new": true}));
}

async fn b37_handler_finishes_with_cancelled_token_after_kill(role: Role) {
    let (router, mut waiting) = pausing_router();
    let mut pair = Pair::connect(role, router, Options::server()).await;
    pair.npm.send(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("a running handler");
    drop(pair.npm);
    assert_eq!(handler.end.await, Ok(true), "the handler must finish with a cancelled token");
}

async fn b38_malformed_message_is_rejected_and_reported(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    for (text, fault, id) in [
        ("hello", MessageError::NotJson, "-1"),
        ("{}", MessageError::NotAnArray, "-1"),
        (r#"[2,"x",7,{}]"#, MessageError::NoAction, "x"),
    ] {
        pair.send_raw(text);
        let response = pair.received().await;
        assert_eq!((&response[0], &response[1], &response[2]), (&json!(4), &json!(id), &json!("RpcFrameworkError")));
        let event = next(&mut pair.events, |event| match event {
            EventKind::BadMessage { text, error, response, .. } => Some((text, error, response)),
            _ => None,
        });
        let (reported, reason, code) = event.await;
        assert_eq!((reported.as_str(), reason, code), (text, fault, Some(ErrorCode::RPC_FRAMEWORK_ERROR)));
    }
    assert_eq!(pair.call_from_npm("Echo", json!({})).await["result"], json!({}), "the connection must stay open");
}

async fn b39_too_many_bad_messages_close_with_1002(role: Role) {
    let options = Options::server().max_bad_messages(2);
    let mut pair = Pair::connect(role, RpcRouter::new().on("Echo", echo), options).await;
    for _ in 0..2 {
        pair.send_raw("bad");
        pair.send_raw("bad");
        assert_eq!(
            pair.call_from_npm("Echo", json!({})).await["result"],
            json!({}),
            "a good message must reset the counter"
        );
    }
    for _ in 0..3 {
        pair.send_raw("bad");
    }
    let closed = pair.npm.event("closed").await;
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1002), &json!("too many bad messages")));
    assert_eq!(ended(&mut pair.events).await.cause, CloseCause::ProtocolError);
}

/// Waits until the connection has ended and returns its close info.
async fn ended(events: &mut Events) -> CloseInfo {
    next(events, |event| match event {
        EventKind::Disconnected(closed) | EventKind::Closed(closed) => Some(closed),
        _ => None,
    })
    .await
}

async fn b40_response_with_unknown_id_is_only_reported(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    for text in [r#"[3,"nobody",{}]"#, r#"[4,"nobody","X","",{}]"#] {
        pair.send_raw(text);
        let event = next(&mut pair.events, |event| match event {
            EventKind::UnmatchedResponse(id) => Some(id),
            _ => None,
        });
        assert_eq!(event.await.as_str(), "nobody");
    }
    // Asserts that the npm module has received no response to these messages.
    pair.assert_works().await;
}

async fn b46_close_replaces_invalid_code_and_truncates_reason(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::new(1005).reason("é".repeat(100))).await;
    assert_eq!((closed.code, closed.reason), (1000, "é".repeat(61)));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], seen["reason"].as_str()), (&json!(1000), Some(&*"é".repeat(61))));
}

async fn b47_draining_close_waits_for_both_directions(role: Role) {
    let (router, mut waiting) = pausing_router();
    let mut pair = Pair::connect(role, router, Options::server()).await;
    pair.set_response("Hold", json!("hold")).await;
    pair.set_response("InLine", json!({"result": {"in": "line"}})).await;
    pair.npm.send(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("a running handler");
    let held = tokio::spawn(pair.peer.call::<Value>("Hold", &()));
    assert_eq!(pair.next_action().await, "Hold");
    let queued = tokio::spawn(pair.peer.call::<Value>("InLine", &()));
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let peer = pair.peer.clone();
        async move { peer.close(Close::going_away().drain(Duration::from_secs(30))).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(pair.peer.call::<Value>("Any", &()).now_or_never(), Some(Err(Error::Closing))));
    pair.npm.send(r#"{"do":"release"}"#);
    held.await.expect("no panic").expect("a response");
    assert_eq!(queued.await.expect("no panic").expect("a response"), json!({"in": "line"}));
    assert!(!closing.is_finished());
    handler.resume.send(()).expect("a waiting handler");
    assert_eq!(pair.npm.event("outcome").await["result"], json!({"waited": true}));
    assert_eq!(pair.npm.event("closed").await["code"], 1001);
    assert_eq!(closing.await.expect("no panic").code, 1001);
}

async fn b47_draining_close_by_peer_receives_response(role: Role) {
    let (router, mut waiting) = pausing_router();
    let mut pair = Pair::connect(role, router, Options::server()).await;
    pair.npm.send(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("a running handler");
    pair.npm.send(r#"{"do":"close","code":1001,"reason":"later","awaitPending":true}"#);
    handler.resume.send(()).expect("a waiting handler");
    assert_eq!(pair.npm.event("outcome").await["result"], json!({"waited": true}));
    let closed = ended(&mut pair.events).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "later", CloseCause::Remote));
}

async fn b48_forced_close_is_1006_at_both_ends(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::forced()).await;
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::Local));
    assert_eq!(pair.npm.event("closed").await["code"], 1006);
}

async fn b51_close_code_and_reason_match_at_both_ends(role: Role) {
    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::new(4321).reason("enough")).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (4321, "enough", CloseCause::Local));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], &seen["reason"]), (&json!(4321), &json!("enough")));

    let mut pair = Pair::connect(role, RpcRouter::new(), Options::server()).await;
    pair.npm.send(r#"{"do":"close","code":4322,"reason":"more than enough"}"#);
    let closed = ended(&mut pair.events).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (4322, "more than enough", CloseCause::Remote));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], &seen["reason"]), (&json!(4322), &json!("more than enough")));
}

// Tests that need the npm module at one particular end.

#[tokio::test]
async fn b12_rejected_station_receives_status_and_body() {
    let server = RpcServer::builder(RpcRouter::new())
        .protocols([PROTOCOL])
        .auth(async |_| Err(Reject::new(http::StatusCode::PAYMENT_REQUIRED).body("unpaid")))
        .build()
        .expect("a valid configuration");
    let mut events = server.events();
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let mut npm = npm(&["client", PROTOCOL, &format!("ws://{}/ocpp", listener.local_addr())]);
    npm.send(r#"{"do":"connect"}"#);
    assert_eq!(npm.event("refused").await["status"], 402);
    let refused = next(&mut events, |event| match event {
        EventKind::HandshakeRefused { status, reason, .. } => Some((status, reason)),
        _ => None,
    });
    assert_eq!(refused.await, (Some(402), "unpaid".to_owned()));
}

#[tokio::test]
async fn b53_refused_connect_returns_status_and_body() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    npm.send(r#"{"do":"reject","status":404,"body":"no such station"}"#);
    npm.event("rejecting").await;
    let error = builder(port).connect().await.expect_err("refused");
    let ConnectError::Refused { status, body, .. } = error else { panic!("{error:?}") };
    assert_eq!((status.as_u16(), &*body), (404, &b"no such station"[..]));
}

#[tokio::test]
async fn b55_client_gives_up_after_a_refusal_that_the_application_calls_final() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    let reconnect = Reconnect::always().give_up_if(ConnectError::is_refused);
    let client = builder(port).reconnect(reconnect).connect().await.expect("the server accepts the connection");
    npm.event("connected").await;
    npm.send(r#"{"do":"reject","status":401,"body":""}"#);
    npm.event("rejecting").await;
    npm.send(r#"{"do":"close","code":1012,"reason":"again"}"#);
    let closed = client.closed().await.expect("a client that has run");
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::GaveUp));
    assert!(closed.reason.contains("401"), "{closed}");
}

#[tokio::test]
async fn b59_events_are_ordered_across_reconnect_and_close() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    let client = builder(port).build().expect("a valid configuration");
    let mut events = client.events();
    client.connect().await.expect("the server accepts the connection");
    npm.event("connected").await;
    npm.send(r#"{"do":"close","code":1012,"reason":"again"}"#);
    npm.event("connected").await;
    let mut seen = Vec::new();
    let mut opened = 0;
    loop {
        let event = next(&mut events, |event| match event {
            EventKind::Connecting => Some("connecting".to_owned()),
            EventKind::Opened { .. } => Some("open".to_owned()),
            EventKind::Disconnected(closed) => Some(format!("disconnect {}", closed.code)),
            EventKind::Closing => Some("closing".to_owned()),
            EventKind::Closed(closed) => Some(format!("close {}", closed.code)),
            _ => None,
        });
        let event = event.await;
        opened += usize::from(event == "open");
        let is_over = event.starts_with("close ");
        seen.push(event);
        if is_over {
            break;
        }
        if opened == 2 && seen.last().is_some_and(|last| last == "open") {
            client.close(Close::normal()).await;
        }
    }
    assert_eq!(seen, ["connecting", "open", "disconnect 1012", "connecting", "open", "closing", "close 1000"]);
}
