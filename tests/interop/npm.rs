//! Both ends against the npm module `ocpp-rpc`, statement by statement: it as a station of our server, and it as the
//! server of our client.

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

use crate::harness::{Library, PATIENCE, Script};

const PROTOCOL: &str = "ocpp2.0.1";

/// Which end the npm module is.
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
                    let scenario = tokio::time::timeout(super::PATIENCE, super::$scenario(super::Role::$role));
                    scenario.await.expect("a scenario comes to its end");
                }
            )*
        }
    };
}

at_either_end! {
    b23_calls_reach_it_in_order_and_one_at_a_time
    b23_as_many_calls_as_allowed_reach_it_at_once
    b24_a_call_that_is_dropped_in_line_never_reaches_it
    b25_a_call_times_out_and_its_answer_comes_late
    b26_its_errors_come_through_verbatim
    b27_a_call_without_answer_is_done_when_written
    b29_calls_know_whether_they_were_written_when_it_is_killed
    b30_handlers_of_both_call_back
    b31_an_action_without_handler_is_not_implemented_at_both
    b33_results_errors_and_panics_reach_it
    b35_an_id_that_is_being_worked_on_is_refused_and_the_first_call_is_answered
    b36_another_router_answers_it
    b37_a_handler_is_told_and_finishes_when_it_is_killed
    b38_a_message_that_is_no_ocpp_is_answered_and_told
    b39_too_many_bad_messages_in_a_row_close_with_1002
    b40_an_answer_to_nothing_is_told_and_not_answered
    b46_codes_that_may_not_be_sent_become_1000_and_long_reasons_are_cut
    b47_a_waiting_close_lets_both_directions_end
    b47_its_own_waiting_close_gets_its_answer
    b48_a_forced_close_is_1006_at_both
    b51_code_and_reason_are_the_same_at_both_whoever_closes
}

/// The npm module, and our end of the connection to it.
struct Pair {
    npm: Script,
    peer: Session,
    events: Events,
    // Kept as long as the connection.
    _ours: Ours,
}

#[expect(dead_code, reason = "only kept")]
enum Ours {
    Server(Listener),
    Client(RpcClient),
}

impl Pair {
    async fn meet<S: Send + Sync + 'static>(role: Role, router: RpcRouter<S>, options: Options) -> Self {
        match role {
            Role::Station => {
                let server = RpcServer::builder(router).protocols([PROTOCOL]).options(options).build().expect("sound");
                let mut events = server.events();
                let listener = server.listen("127.0.0.1:0").await.expect("a port");
                let url = format!("ws://{}/ocpp", listener.local_addr());
                let mut npm = npm(&["client", PROTOCOL, &url]);
                npm.tell(r#"{"do":"connect"}"#);
                npm.event("open").await;
                next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;
                let peer = server.session("CP-1").expect("registered");
                Self { npm, peer, events, _ours: Ours::Server(listener) }
            }
            Role::Server => {
                let mut npm = npm(&["server", PROTOCOL]);
                let port = npm.port().await;
                let client = builder(port).router(router).options(options).build().expect("sound");
                let mut events = client.events();
                client.connect().await.expect("the server is there");
                npm.event("connected").await;
                next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;
                let peer = client.session();
                Self { npm, peer, events, _ours: Ours::Client(client) }
            }
        }
    }

    /// Has the npm module answer an action so from now on.
    async fn answers(&mut self, action: &str, with: Value) {
        self.npm.tell(&json!({"do": "answer", "action": action, "with": with}).to_string());
        self.npm.event("ready").await;
    }

    /// What comes of a call that the npm module makes.
    async fn outcome_of(&mut self, action: &str, params: Value) -> Value {
        self.npm.tell(&json!({"do": "call", "action": action, "params": params}).to_string());
        self.npm.event("outcome").await
    }

    fn raw(&mut self, text: &str) {
        self.npm.tell(&json!({"do": "raw", "text": text}).to_string());
    }

    /// The next frame that the npm module receives.
    async fn received(&mut self) -> Value {
        self.npm.event("received").await["frame"].take()
    }

    /// The action of the next call that it receives.
    async fn called(&mut self) -> String {
        let frame = self.received().await;
        assert_eq!(frame[0], 2, "{frame}");
        frame[2].as_str().expect("an action").to_owned()
    }

    /// Asserts that the connection works, and that nothing else has come before.
    async fn works(&mut self) {
        self.answers("Works", json!({"result": {"fine": true}})).await;
        let answer = self.peer.call::<Value>("Works", &()).await;
        assert_eq!(answer.expect("an answer"), json!({"fine": true}));
        assert_eq!(self.called().await, "Works");
    }
}

fn npm(arguments: &[&str]) -> Script {
    Script::start(Library::Npm.script("peer").args(arguments))
}

fn builder(port: u16) -> ocpp_rpc::client::RpcClientBuilder {
    let soon = Backoff::exponential().min(Duration::from_millis(20)).max(Duration::from_millis(200));
    RpcClient::builder(format!("ws://127.0.0.1:{port}/ocpp"), "CP-1")
        .protocols([PROTOCOL])
        .reconnect(Reconnect::always().backoff(soon))
}

/// The first of the coming events that `pick` makes something of.
async fn next<T>(events: &mut Events, pick: impl Fn(EventKind) -> Option<T>) -> T {
    let found = timeout(PATIENCE, async {
        loop {
            let event = events.next().await.expect("more to come");
            if let Some(picked) = pick(event.kind) {
                return picked;
            }
        }
    });
    found.await.expect("such an event")
}

async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

async fn b23_calls_reach_it_in_order_and_one_at_a_time(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    pair.answers("First", json!("hold")).await;
    pair.answers("Second", json!({"result": {"n": 2}})).await;
    pair.answers("Third", json!({"result": {"n": 3}})).await;
    let calls = ["First", "Second", "Third"].map(|action| tokio::spawn(pair.peer.call::<Value>(action, &())));
    assert_eq!(pair.called().await, "First");
    // Had another one come by now, it would be skipped here and missed below.
    pair.answers("Nothing", json!({"result": {}})).await;
    pair.npm.tell(r#"{"do":"release"}"#);
    assert_eq!(pair.called().await, "Second");
    assert_eq!(pair.called().await, "Third");
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.expect("no panic").expect("an answer"));
    }
    assert_eq!(answers, [json!({}), json!({"n": 2}), json!({"n": 3})]);
}

async fn b23_as_many_calls_as_allowed_reach_it_at_once(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server().call_concurrency(3)).await;
    pair.answers("Hold", json!("hold")).await;
    pair.answers("Next", json!({"result": {}})).await;
    let calls = ["Hold", "Hold", "Hold", "Next"].map(|action| tokio::spawn(pair.peer.call::<Value>(action, &())));
    for _ in 0..3 {
        assert_eq!(pair.called().await, "Hold");
    }
    assert!(calls.iter().all(|call| !call.is_finished()));
    pair.npm.tell(r#"{"do":"release"}"#);
    assert_eq!(pair.called().await, "Next");
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
}

async fn b24_a_call_that_is_dropped_in_line_never_reaches_it(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    pair.answers("First", json!("hold")).await;
    pair.answers("Third", json!({"result": {}})).await;
    let first = tokio::spawn(pair.peer.call::<Value>("First", &()));
    assert_eq!(pair.called().await, "First");
    let second = pair.peer.call::<Value>("Second", &());
    assert!(timeout(Duration::from_millis(20), second).await.is_err(), "it waits");
    let third = tokio::spawn(pair.peer.call::<Value>("Third", &()));
    pair.npm.tell(r#"{"do":"release"}"#);
    assert_eq!(pair.called().await, "Third");
    for call in [first, third] {
        call.await.expect("no panic").expect("an answer");
    }
    pair.works().await;
}

async fn b25_a_call_times_out_and_its_answer_comes_late(role: Role) {
    let options = Options::server().call_timeout(Duration::from_millis(50));
    let mut pair = Pair::meet(role, RpcRouter::new(), options).await;
    pair.answers("Slow", json!("hold")).await;
    let outcome = pair.peer.call::<Value>("Slow", &()).await;
    assert!(matches!(outcome, Err(Error::Timeout)), "{outcome:?}");
    let id = pair.received().await[1].as_str().expect("an id").to_owned();
    pair.npm.tell(r#"{"do":"release"}"#);
    let late = next(&mut pair.events, |event| if let EventKind::LateResponse(id) = event { Some(id) } else { None });
    assert_eq!(late.await.as_str(), id);
    pair.peer.set_options(Options::server()).expect("sound");
    pair.works().await;
}

async fn b26_its_errors_come_through_verbatim(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    for (code, text, details) in [
        ("Teapot", "short and stout", json!({"handle": 1, "spout": [null]})),
        ("SecurityError", "no", json!({})),
        ("FormationViolation", "spelled as in 1.6", json!({"a": "ü"})),
    ] {
        pair.answers("Fail", json!({"error": [code, text, details]})).await;
        let outcome = pair.peer.call::<Value>("Fail", &()).await;
        let Err(Error::Rejected(error)) = outcome else { panic!("{outcome:?}") };
        assert_eq!((error.code().as_str(), error.description()), (code, text));
        // Empty ones are none.
        let seen = error.details().map_or(Ok(json!({})), Payload::decode::<Value>);
        assert_eq!(seen.expect("JSON"), details);
    }
}

async fn b27_a_call_without_answer_is_done_when_written(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    pair.answers("Forget", json!({"result": {"who": "cares"}})).await;
    pair.peer.call::<Value>("Forget", &json!({"n": 1})).fire_and_forget().await.expect("written");
    let frame = pair.received().await;
    assert_eq!((&frame[2], &frame[3]), (&json!("Forget"), &json!({"n": 1})));
    let late = next(&mut pair.events, |event| if let EventKind::LateResponse(id) = event { Some(id) } else { None });
    assert_eq!(frame[1], late.await.as_str());
    pair.works().await;
}

async fn b29_calls_know_whether_they_were_written_when_it_is_killed(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    pair.answers("Hold", json!("hold")).await;
    let written = tokio::spawn(pair.peer.call::<Value>("Hold", &()));
    assert_eq!(pair.called().await, "Hold");
    let waiting = tokio::spawn(pair.peer.call::<Value>("Waiting", &()));
    drop(pair.npm);
    let written = written.await.expect("no panic");
    assert!(matches!(written, Err(Error::Disconnected { maybe_delivered: true })), "{written:?}");
    // A client's call waits for the next connection, for which there is no server any more.
    if let Role::Server = role {
        pair.peer.close(Close::normal()).await;
    }
    let waiting = waiting.await.expect("no panic");
    assert!(matches!(waiting, Err(Error::Disconnected { maybe_delivered: false })), "{waiting:?}");
}

async fn b30_handlers_of_both_call_back(role: Role) {
    async fn back(peer: Session) -> Result<Value, CallError> {
        let answer: Value = peer.call("Up", &json!({"from": "below"})).await?;
        Ok(json!({"heard": answer}))
    }
    let mut pair = Pair::meet(role, RpcRouter::new().on("Back", back).on("Echo", echo), Options::server()).await;
    pair.answers("Up", json!({"result": {"up": true}})).await;
    pair.answers("There", json!({"call": "Echo"})).await;
    for _ in 0..3 {
        let outcome = pair.outcome_of("Back", json!({})).await;
        assert_eq!(outcome["result"], json!({"heard": {"up": true}}), "{outcome}");
        let answer = pair.peer.call::<Value>("There", &()).await;
        assert_eq!(answer.expect("an answer"), json!({}));
    }
}

async fn b31_an_action_without_handler_is_not_implemented_at_both(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    let outcome = pair.outcome_of("Nobody", json!({})).await;
    assert_eq!(outcome["error"][0], "NotImplemented", "{outcome}");
    assert_eq!(pair.outcome_of("Echo", json!({"a": [1]})).await["result"], json!({"a": [1]}));
    let outcome = pair.peer.call::<Value>("Nobody", &()).await;
    let Err(Error::Rejected(error)) = outcome else { panic!("{outcome:?}") };
    assert_eq!(*error.code(), ErrorCode::NOT_IMPLEMENTED);
}

async fn b33_results_errors_and_panics_reach_it(role: Role) {
    async fn fail(Params(how): Params<Value>) -> Result<Value, CallError> {
        match how["how"].as_str() {
            Some("refuse") => Err(CallError::new(ErrorCode::SECURITY_ERROR, "not you").with_details(&json!({"at": 1}))),
            Some("unknown") => Err(CallError::internal("password is hunter2")),
            Some("panic") => panic!("a bug"),
            _ => Ok(json!({"well": "done"})),
        }
    }
    let mut pair = Pair::meet(role, RpcRouter::new().on("Do", fail), Options::server()).await;
    assert_eq!(pair.outcome_of("Do", json!({})).await["result"], json!({"well": "done"}));
    let internal = json!(["InternalError", "An internal error occurred", {}]);
    for (how, error) in
        [("refuse", json!(["SecurityError", "not you", {"at": 1}])), ("unknown", internal.clone()), ("panic", internal)]
    {
        assert_eq!(pair.outcome_of("Do", json!({"how": how})).await["error"], error, "{how}");
    }
    assert_eq!(pair.outcome_of("Do", json!({})).await["result"], json!({"well": "done"}));
}

/// A handler that waits until the test lets it go.
fn gated() -> (RpcRouter<mpsc::UnboundedSender<Waiting>>, mpsc::UnboundedReceiver<Waiting>) {
    async fn wait(
        gone: CancellationToken,
        State(tell): State<mpsc::UnboundedSender<Waiting>>,
    ) -> Result<Value, CallError> {
        let (go, gate) = tokio::sync::oneshot::channel();
        let (ended, end) = tokio::sync::oneshot::channel();
        tell.send(Waiting { go, end }).map_err(CallError::internal)?;
        tokio::select! {
            () = gone.cancelled() => {}
            gate = gate => gate.map_err(CallError::internal)?,
        }
        tokio::task::yield_now().await;
        let _ = ended.send(gone.is_cancelled());
        Ok(json!({"waited": true}))
    }
    let (tell, told) = mpsc::unbounded_channel();
    (RpcRouter::with_state(tell).on("Wait", wait).on("Echo", echo), told)
}

/// A handler at work.
struct Waiting {
    go: tokio::sync::oneshot::Sender<()>,
    /// Whether its token had fired when it ended.
    end: tokio::sync::oneshot::Receiver<bool>,
}

async fn b35_an_id_that_is_being_worked_on_is_refused_and_the_first_call_is_answered(role: Role) {
    let (router, mut waiting) = gated();
    let mut pair = Pair::meet(role, router, Options::server()).await;
    pair.raw(r#"[2,"twice","Wait",{}]"#);
    let first = waiting.recv().await.expect("it runs");
    pair.raw(r#"[2,"twice","Echo",{}]"#);
    let refused = pair.received().await;
    assert_eq!((&refused[0], &refused[1], &refused[2]), (&json!(4), &json!("twice"), &json!("RpcFrameworkError")));
    first.go.send(()).expect("it waits");
    assert_eq!(pair.received().await, json!([3, "twice", {"waited": true}]));
}

async fn b36_another_router_answers_it(role: Role) {
    async fn new() -> Result<Value, Infallible> {
        Ok(json!({"new": true}))
    }
    let mut pair = Pair::meet(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    assert_eq!(pair.outcome_of("Echo", json!({})).await["result"], json!({}));
    pair.peer.set_router(RpcRouter::new().on("Echo", new));
    assert_eq!(pair.outcome_of("Echo", json!({})).await["result"], json!({"new": true}));
}

async fn b37_a_handler_is_told_and_finishes_when_it_is_killed(role: Role) {
    let (router, mut waiting) = gated();
    let mut pair = Pair::meet(role, router, Options::server()).await;
    pair.npm.tell(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("it runs");
    drop(pair.npm);
    assert_eq!(handler.end.await, Ok(true), "it finishes, and its token has fired");
}

async fn b38_a_message_that_is_no_ocpp_is_answered_and_told(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new().on("Echo", echo), Options::server()).await;
    for (text, fault, id) in [
        ("hello", MessageError::NotJson, "-1"),
        ("{}", MessageError::NotAnArray, "-1"),
        (r#"[2,"x",7,{}]"#, MessageError::NoAction, "x"),
    ] {
        pair.raw(text);
        let answer = pair.received().await;
        assert_eq!((&answer[0], &answer[1], &answer[2]), (&json!(4), &json!(id), &json!("RpcFrameworkError")));
        let told = next(&mut pair.events, |event| match event {
            EventKind::BadMessage { text, fault, answer, .. } => Some((text, fault, answer)),
            _ => None,
        });
        let (seen, why, code) = told.await;
        assert_eq!((seen.as_str(), why, code), (text, fault, Some(ErrorCode::RPC_FRAMEWORK_ERROR)));
    }
    assert_eq!(pair.outcome_of("Echo", json!({})).await["result"], json!({}), "it lives");
}

async fn b39_too_many_bad_messages_in_a_row_close_with_1002(role: Role) {
    let options = Options::server().max_bad_messages(2);
    let mut pair = Pair::meet(role, RpcRouter::new().on("Echo", echo), options).await;
    for _ in 0..2 {
        pair.raw("bad");
        pair.raw("bad");
        assert_eq!(pair.outcome_of("Echo", json!({})).await["result"], json!({}), "a good one resets the counter");
    }
    for _ in 0..3 {
        pair.raw("bad");
    }
    let closed = pair.npm.event("closed").await;
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1002), &json!("too many bad messages")));
    assert_eq!(ended(&mut pair.events).await.cause, CloseCause::ProtocolError);
}

/// How the connection ended.
async fn ended(events: &mut Events) -> CloseInfo {
    next(events, |event| match event {
        EventKind::Disconnected(closed) | EventKind::Closed(closed) => Some(closed),
        _ => None,
    })
    .await
}

async fn b40_an_answer_to_nothing_is_told_and_not_answered(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    for text in [r#"[3,"nobody",{}]"#, r#"[4,"nobody","X","",{}]"#] {
        pair.raw(text);
        let told = next(&mut pair.events, |event| match event {
            EventKind::BadMessage { fault, answer, .. } => Some((fault, answer)),
            _ => None,
        });
        assert_eq!(told.await, (MessageError::UnknownMessageId, None));
    }
    // The first thing that reaches it is this.
    pair.works().await;
}

async fn b46_codes_that_may_not_be_sent_become_1000_and_long_reasons_are_cut(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::new(1005).reason("é".repeat(100))).await;
    assert_eq!((closed.code, closed.reason), (1000, "é".repeat(61)));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], seen["reason"].as_str()), (&json!(1000), Some(&*"é".repeat(61))));
}

async fn b47_a_waiting_close_lets_both_directions_end(role: Role) {
    let (router, mut waiting) = gated();
    let mut pair = Pair::meet(role, router, Options::server()).await;
    pair.answers("Hold", json!("hold")).await;
    pair.answers("InLine", json!({"result": {"in": "line"}})).await;
    pair.npm.tell(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("it runs");
    let held = tokio::spawn(pair.peer.call::<Value>("Hold", &()));
    assert_eq!(pair.called().await, "Hold");
    let in_line = tokio::spawn(pair.peer.call::<Value>("InLine", &()));
    tokio::task::yield_now().await;
    let closing = tokio::spawn({
        let peer = pair.peer.clone();
        async move { peer.close(Close::going_away().drain(Duration::from_secs(30))).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(pair.peer.call::<Value>("Any", &()).now_or_never(), Some(Err(Error::Closing))));
    pair.npm.tell(r#"{"do":"release"}"#);
    held.await.expect("no panic").expect("an answer");
    assert_eq!(in_line.await.expect("no panic").expect("an answer"), json!({"in": "line"}));
    assert!(!closing.is_finished());
    handler.go.send(()).expect("it waits");
    assert_eq!(pair.npm.event("outcome").await["result"], json!({"waited": true}));
    assert_eq!(pair.npm.event("closed").await["code"], 1001);
    assert_eq!(closing.await.expect("no panic").code, 1001);
}

async fn b47_its_own_waiting_close_gets_its_answer(role: Role) {
    let (router, mut waiting) = gated();
    let mut pair = Pair::meet(role, router, Options::server()).await;
    pair.npm.tell(r#"{"do":"call","action":"Wait"}"#);
    let handler = waiting.recv().await.expect("it runs");
    pair.npm.tell(r#"{"do":"close","code":1001,"reason":"later","awaitPending":true}"#);
    handler.go.send(()).expect("it waits");
    assert_eq!(pair.npm.event("outcome").await["result"], json!({"waited": true}));
    let closed = ended(&mut pair.events).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "later", CloseCause::Remote));
}

async fn b48_a_forced_close_is_1006_at_both(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::forced()).await;
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::Local));
    assert_eq!(pair.npm.event("closed").await["code"], 1006);
}

async fn b51_code_and_reason_are_the_same_at_both_whoever_closes(role: Role) {
    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    let closed = pair.peer.close(Close::new(4321).reason("enough")).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (4321, "enough", CloseCause::Local));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], &seen["reason"]), (&json!(4321), &json!("enough")));

    let mut pair = Pair::meet(role, RpcRouter::new(), Options::server()).await;
    pair.npm.tell(r#"{"do":"close","code":4322,"reason":"more than enough"}"#);
    let closed = ended(&mut pair.events).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (4322, "more than enough", CloseCause::Remote));
    let seen = pair.npm.event("closed").await;
    assert_eq!((&seen["code"], &seen["reason"]), (&json!(4322), &json!("more than enough")));
}

// What only one of the ends can show.

#[tokio::test]
async fn b12_a_station_that_is_rejected_sees_status_and_body() {
    let server = RpcServer::builder(RpcRouter::new())
        .protocols([PROTOCOL])
        .auth(async |_| Err(Reject::new(http::StatusCode::PAYMENT_REQUIRED).body("unpaid")))
        .build()
        .expect("sound");
    let mut events = server.events();
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let mut npm = npm(&["client", PROTOCOL, &format!("ws://{}/ocpp", listener.local_addr())]);
    npm.tell(r#"{"do":"connect"}"#);
    assert_eq!(npm.event("refused").await["status"], 402);
    let refused = next(&mut events, |event| match event {
        EventKind::HandshakeRefused { status, reason, .. } => Some((status, reason)),
        _ => None,
    });
    assert_eq!(refused.await, (Some(402), "unpaid".to_owned()));
}

#[tokio::test]
async fn b53_a_server_that_refuses_is_an_error_with_status_and_body() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    npm.tell(r#"{"do":"reject","status":404,"body":"no such station"}"#);
    npm.event("rejecting").await;
    let error = builder(port).connect().await.expect_err("refused");
    let ConnectError::Refused { status, body, .. } = error else { panic!("{error:?}") };
    assert_eq!((status.as_u16(), &*body), (404, &b"no such station"[..]));
}

#[tokio::test]
async fn b55_a_server_that_knows_the_station_no_more_is_given_up() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    let client = builder(port).connect().await.expect("the server is there");
    npm.event("connected").await;
    npm.tell(r#"{"do":"reject","status":401,"body":""}"#);
    npm.event("rejecting").await;
    npm.tell(r#"{"do":"close","code":1012,"reason":"again"}"#);
    let closed = client.closed().await.expect("a life");
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::GaveUp));
    assert!(closed.reason.contains("401"), "{closed}");
}

#[tokio::test]
async fn b59_events_come_in_order_when_the_server_closes_and_when_the_client_does() {
    let mut npm = npm(&["server", PROTOCOL]);
    let port = npm.port().await;
    let client = builder(port).build().expect("sound");
    let mut events = client.events();
    client.connect().await.expect("the server is there");
    npm.event("connected").await;
    npm.tell(r#"{"do":"close","code":1012,"reason":"again"}"#);
    npm.event("connected").await;
    let mut seen = Vec::new();
    let mut opened = 0;
    loop {
        let told = next(&mut events, |event| match event {
            EventKind::Connecting => Some("connecting".to_owned()),
            EventKind::Opened { .. } => Some("open".to_owned()),
            EventKind::Disconnected(closed) => Some(format!("disconnect {}", closed.code)),
            EventKind::Closing => Some("closing".to_owned()),
            EventKind::Closed(closed) => Some(format!("close {}", closed.code)),
            _ => None,
        });
        let told = told.await;
        opened += usize::from(told == "open");
        let is_over = told.starts_with("close ");
        seen.push(told);
        if is_over {
            break;
        }
        if opened == 2 && seen.last().is_some_and(|last| last == "open") {
            client.close(Close::normal()).await;
        }
    }
    assert_eq!(seen, ["connecting", "open", "disconnect 1012", "connecting", "open", "closing", "close 1000"]);
}
