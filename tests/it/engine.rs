//! The connection: calls both ways, what becomes of bad messages, time, and the end.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, SinkExt, future::join_all};
use ocpp_rpc::{
    CallError, Cause, Close, Error, ErrorCode, EventKind, Fault, NoReply, Options, Payload, RpcRouter, RpcServer,
    Session,
    extract::{Action, CancellationToken, MessageId, Params, Peer, State},
};
use serde_json::{Value, json};
use tokio::{
    sync::{Notify, Semaphore},
    time::{Instant, advance},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{Station, dial, dial_with_buffer};

const SECOND: Duration = Duration::from_secs(1);

fn server<S: Send + Sync + 'static>(router: RpcRouter<S>) -> RpcServer {
    with(router, Options::server())
}

fn with<S: Send + Sync + 'static>(router: RpcRouter<S>, options: Options) -> RpcServer {
    let protocols = ["ocpp2.1", "ocpp2.0.1", "ocpp1.6"];
    RpcServer::builder(router).protocols(protocols).options(options).build().expect("a sound configuration")
}

/// A station and its session, once the server has it.
async fn connected(server: &RpcServer, protocol: &str) -> (Station, Session) {
    let mut events = server.events();
    let station = Station::connect(server, "CP-1", protocol).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::Opened { .. }) {}
    (station, server.session("CP-1").expect("registered"))
}

async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
    Ok(params)
}

// Calls in.

#[tokio::test]
async fn a_call_is_answered_by_its_handler() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"a\"1","Echo",{"x":[1,2]}]"#).await, r#"[3,"a\"1",{"x":[1,2]}]"#);
    assert_eq!(station.ask(r#"[2,"2","Echo"]"#).await, r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn handlers_get_what_they_ask_for() {
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
async fn errors_are_answered_as_the_protocol_spells_them() {
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
async fn parameters_that_do_not_fit_are_refused_with_a_reason() {
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
async fn detailed_errors_tell_what_an_internal_error_was_about() {
    async fn fail() -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        Err("the database is down".into())
    }
    let server = with(RpcRouter::new().on("Fail", fail), Options::server().detailed_errors());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert!(station.ask(r#"[2,"1","Fail",{}]"#).await.contains("the database is down"));
}

#[tokio::test]
async fn a_handler_may_leave_a_call_unanswered() {
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

/// A handler that waits until it is let go.
fn gated() -> (RpcRouter<Arc<Semaphore>>, Arc<Semaphore>) {
    async fn wait(State(gate): State<Arc<Semaphore>>) -> Result<(), CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(())
    }
    let gate = Arc::new(Semaphore::new(0));
    (RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo), gate)
}

#[tokio::test]
async fn an_id_that_is_being_worked_on_is_refused_and_the_first_call_is_answered() {
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
async fn calls_beyond_the_limit_wait_in_line_and_beyond_that_are_refused() {
    let (router, gate) = gated();
    let server = with(router, Options::server().handler_concurrency(1).handler_queue(1));
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
async fn a_handler_may_call_back_and_await_the_answer() {
    async fn back(peer: Peer, Params(params): Params<Value>) -> Result<Value, CallError> {
        let depth = params["depth"].as_u64().unwrap_or_default();
        Ok(peer.call("Back", &json!({"depth": depth + 1})).await?)
    }
    let server = server(RpcRouter::new().on("Back", back));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.send(r#"[2,"0","Back",{"depth":0}]"#).await;
    let mut ids = Vec::new();
    for depth in 1..10 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Back", {"depth": depth}]));
        // At a concurrency of 1 the server calls again only once this call is answered.
        station.send(format!(r#"[3,"{id}",{{"depth":{depth}}}]"#)).await;
        assert_eq!(station.receive().await, format!(r#"[3,"{}",{{"depth":{depth}}}]"#, depth - 1));
        station.send(format!(r#"[2,"{depth}","Back",{{"depth":{depth}}}]"#)).await;
        ids.push(id);
    }
    ids.dedup();
    assert_eq!(ids.len(), 9, "no id is used twice");
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

// Calls out.

#[tokio::test]
async fn calls_go_out_in_order_one_at_a_time_and_get_their_answers() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..20).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let answers = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..20 {
        let (id, call) = station.receive_call().await;
        assert_eq!(call, json!(["Count", {"n": n}]));
        assert!(station.ws.next_now().is_none(), "the next one waits for the answer");
        station.send(format!(r#"[3,"{id}",{{"n":{n}}}]"#)).await;
    }
    for (n, answer) in answers.await.expect("no panic").into_iter().enumerate() {
        assert_eq!(answer.expect("an answer"), json!({"n": n}));
    }
}

/// What has arrived already.
trait NextNow {
    fn next_now(&mut self) -> Option<Message>;
}

impl<S: futures_util::Stream<Item = Result<Message, E>> + Unpin, E> NextNow for S {
    fn next_now(&mut self) -> Option<Message> {
        futures_util::StreamExt::next(self).now_or_never().flatten().and_then(Result::ok)
    }
}

#[tokio::test]
async fn concurrency_lets_several_calls_out() {
    let server = with(RpcRouter::new(), Options::server().call_concurrency(3));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = (0..5).map(|n| session.call::<Value>("Count", &json!({"n": n})));
    let _answers = tokio::spawn(join_all(calls.collect::<Vec<_>>()));
    for n in 0..3 {
        assert_eq!(station.receive_call().await.1, json!(["Count", {"n": n}]));
    }
    tokio::task::yield_now().await;
    assert!(station.ws.next_now().is_none());
}

#[tokio::test]
async fn a_rejection_says_code_description_and_details() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    station.send(format!(r#"[4,"{id}","OccurenceConstraintViolation","missing","type"]"#)).await;
    match call.await.expect("no panic") {
        Err(Error::Rejected(error)) => {
            assert_eq!(*error.code(), ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION);
            assert_eq!(error.code().as_str(), "OccurenceConstraintViolation");
            assert_eq!(error.description(), "missing");
            assert_eq!(error.details().map(Payload::as_str), Some("\"type\""));
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test(start_paused = true)]
async fn the_timeout_runs_from_the_writing_of_a_call() {
    let server = with(RpcRouter::new(), Options::server().call_timeout(10 * SECOND));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    let timed = |call: ocpp_rpc::Call<Value>| async move { (call.await, start.elapsed().as_secs()) };
    let calls = tokio::spawn(join_all([
        timed(session.call("First", &())),
        timed(session.call("Second", &()).timeout(3 * SECOND)),
        timed(session.call("Third", &()).within(12 * SECOND)),
    ]));
    let (late, _) = station.receive_call().await;
    let outcomes = calls.await.expect("no panic");
    assert!(matches!(outcomes[0], (Err(Error::Timeout), 10)), "{:?}", outcomes[0]);
    assert!(matches!(outcomes[1], (Err(Error::Timeout), 13)), "{:?}", outcomes[1]);
    assert!(matches!(outcomes[2], (Err(Error::NeverSent), 12)), "{:?}", outcomes[2]);
    let mut events = server.events();
    station.send(format!(r#"[3,"{late}",{{}}]"#)).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::LateAnswer(ref id) if id.as_str() == late) {}
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_is_never_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let second = tokio::spawn(session.call::<Value>("Second", &()));
    tokio::task::yield_now().await;
    second.abort();
    assert!(second.await.expect_err("aborted").is_cancelled());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("an answer");
    station.silent().await;
}

#[tokio::test]
async fn a_dropped_call_in_flight_frees_its_place() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    first.abort();
    let _second = tokio::spawn(session.call::<Value>("Second", &()));
    assert_eq!(station.receive_call().await.1[0], "Second");
}

#[tokio::test]
async fn a_full_queue_refuses_at_once_and_recovers() {
    let server = with(RpcRouter::new(), Options::server().call_queue(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let first = tokio::spawn(session.call::<Value>("First", &()));
    let (id, _) = station.receive_call().await;
    let waiting = [session.call::<Value>("A", &()), session.call("B", &())].map(tokio::spawn);
    tokio::task::yield_now().await;
    let refused = session.call::<Value>("C", &()).await.expect_err("full");
    assert!(matches!(refused, Error::QueueFull) && refused.is_retryable());
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    first.await.expect("no panic").expect("an answer");
    assert_eq!(station.receive_call().await.1[0], "A");
    let _fits = tokio::spawn(session.call::<Value>("D", &()));
    for call in &waiting {
        assert!(!call.is_finished());
    }
}

#[tokio::test]
async fn a_lost_connection_says_what_may_have_been_delivered() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let calls = [session.call::<Value>("Written", &()), session.call("Waiting", &())].map(tokio::spawn);
    station.receive_call().await;
    drop(station);
    let [written, waiting] = calls;
    let error = written.await.expect("no panic").expect_err("lost");
    assert!(error.maybe_delivered() && !error.is_retryable(), "{error:?}");
    let error = waiting.await.expect("no panic").expect_err("lost");
    assert!(!error.maybe_delivered() && error.is_retryable(), "{error:?}");
    assert_eq!((session.closed().await.code, session.closed().await.cause), (1006, Cause::Remote));
    assert!(matches!(session.call::<Value>("After", &()).await, Err(Error::Closed)));
}

#[tokio::test]
async fn parameters_and_answers_that_do_not_fit_are_errors_of_the_caller() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.call::<Value>("List", &[1, 2]).await, Err(Error::Encode(_))));
    let call = tokio::spawn(session.call::<std::collections::HashMap<String, u8>>("Typed", &()));
    let (id, call_text) = station.receive_call().await;
    assert_eq!(call_text, json!(["Typed", {}]), "the list was never written");
    station.send(format!(r#"[3,"{id}",{{"a":"b"}}]"#)).await;
    assert!(matches!(call.await.expect("no panic"), Err(Error::Decode(_))));
}

#[tokio::test]
async fn a_call_without_answer_is_done_when_written() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    session.call::<Value>("Forget", &()).without_answer().await.expect("written");
    assert_eq!(station.receive_call().await.1[0], "Forget");
}

#[tokio::test]
async fn a_send_goes_out_beside_a_call_where_the_protocol_has_it() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    let _call = tokio::spawn(session.call::<Value>("First", &()));
    station.receive_call().await;
    session.send("NotifyPeriodicEventStream", &json!({"id": 1})).await.expect("written");
    let text = station.receive().await;
    assert!(text.starts_with("[6,") && text.ends_with(r#","NotifyPeriodicEventStream",{"id":1}]"#), "{text}");

    let (_station, session) = connected(&server, "ocpp1.6").await;
    assert!(matches!(session.send("Any", &()).await, Err(Error::NoSend)));
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

// Bad messages.

#[tokio::test]
async fn a_message_that_is_no_ocpp_gets_the_dialects_answer_and_an_event() {
    let rpc = |id| Some(format!(r#"[4,"{id}","RpcFrameworkError""#));
    for (text, fault, v16, v201) in [
        ("hello", Fault::NotJson, None, rpc("-1")),
        ("{}", Fault::NotAnArray, None, rpc("-1")),
        (r#"[2,"1"]"#, Fault::NoAction, Some(r#"[4,"1","FormationViolation""#.to_owned()), rpc("1")),
        (r#"[2,5,"A",{}]"#, Fault::NoMessageId, None, rpc("-1")),
        (r#"[9,"1","A",{}]"#, Fault::UnknownMessageType, None, Some(r#"[4,"1","MessageTypeNotSupported""#.to_owned())),
        (r#"[3,"nobody",{}]"#, Fault::UnknownMessageId, None, None),
        (r#"[4,"","X","",{}]"#, Fault::UnknownMessageId, None, None),
        (r#"[3,"1",{"cut":"#, Fault::NotJson, None, None),
    ] {
        for (protocol, expected) in [("ocpp1.6", v16), ("ocpp2.0.1", v201)] {
            let server = server(RpcRouter::new().on("Echo", echo));
            let (mut station, _session) = connected(&server, protocol).await;
            let mut events = server.events();
            station.send(text).await;
            if let Some(expected) = &expected {
                let answer = station.receive().await;
                assert!(answer.starts_with(expected), "{protocol} {text}: {answer}");
            }
            assert_eq!(station.ask(r#"[2,"9","Echo",{}]"#).await, r#"[3,"9",{}]"#, "{protocol} {text}: it lives");
            loop {
                if let EventKind::BadMessage { text: seen, fault: why, answer, .. } =
                    events.next().await.expect("more").kind
                {
                    assert_eq!((seen.as_str(), why, answer.is_some()), (text, fault, expected.is_some()));
                    break;
                }
            }
        }
    }
}

#[tokio::test]
async fn an_empty_message_is_nothing() {
    let server = with(RpcRouter::new().on("Echo", echo), Options::server().max_bad_messages(0));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    station.send("").await;
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test]
async fn what_breaks_the_websocket_is_told_to_the_peer() {
    let binary = Message::binary(vec![1]);
    let big = Message::text("x".repeat(2000));
    for (message, code, reason, cause) in
        [(binary, 1003, "OCPP-J is text", Cause::ProtocolError), (big, 1009, "message too large", Cause::TooLarge)]
    {
        let server = with(RpcRouter::new(), Options::server().max_message_size(1000));
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.ws.send(message).await.expect("open");
        assert_eq!(station.closed().await, (code, reason.to_owned()));
        let closed = session.closed().await;
        assert_eq!((closed.code, closed.cause), (code, cause));
    }
}

#[tokio::test]
async fn broken_frames_are_told_to_the_peer() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    for (frame, code) in [
        (&[0x81, 0x01, b'x'][..], 1002_u16),           // not masked
        (&[0xc1, 0x81, 0, 0, 0, 0, b'x'], 1002),       // a reserved bit
        (&[0x81, 0x81, 0, 0, 0, 0, 0xff], 1007),       // not UTF-8
        (&[0x89, 0xfe, 0x00, 0x7e, 0, 0, 0, 0], 1002), // a ping of 126 bytes
        (&[0x81, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0], 1009), // 2^63 bytes
        (&[0x80, 0x81, 0, 0, 0, 0, b'x'], 1002),       // a continuation of nothing
    ] {
        let server = server(RpcRouter::new());
        let (station, session) = connected(&server, "ocpp1.6").await;
        let mut stream = station.ws.into_inner();
        let padded = [frame, &[0; 200][..]].concat();
        stream.write_all(&padded).await.expect("open");
        stream.shutdown().await.expect("open");
        let mut seen = Vec::new();
        stream.read_to_end(&mut seen).await.expect("an end without a reset");
        let start = seen.iter().position(|&byte| byte == 0x88).unwrap_or_else(|| panic!("{frame:x?}: {seen:x?}"));
        assert_eq!(u16::from_be_bytes([seen[start + 2], seen[start + 3]]), code, "{frame:x?}");
        assert_eq!(session.closed().await.code, code);
    }
}

#[tokio::test]
async fn too_many_bad_messages_in_a_row_close_the_connection() {
    let server = with(RpcRouter::new().on("Echo", echo), Options::server().max_bad_messages(2));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for text in ["bad", "bad", r#"[2,"1","Echo",{}]"#, "bad", "bad", "bad"] {
        station.send(text).await;
    }
    assert_eq!(station.closed().await, (1002, "too many bad messages".to_owned()));
    assert_eq!(session.closed().await.cause, Cause::ProtocolError);
}

// Pings.

#[tokio::test(start_paused = true)]
async fn a_silent_peer_is_dropped_after_two_intervals() {
    let server = with(RpcRouter::new(), Options::server().ping_interval(30 * SECOND));
    let (station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    // The station reads nothing, so no pong goes out.
    let closed = session.closed().await;
    assert_eq!((closed.code, closed.cause), (1006, Cause::PingTimeout));
    let lived = start.elapsed();
    assert!((60 * SECOND..=91 * SECOND).contains(&lived), "{lived:?}");
    drop(station);
}

#[tokio::test(start_paused = true)]
async fn pongs_keep_a_connection_alive_and_tell_the_round_trip_time() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    station.silent().await;
    assert!(session.peer().is_open());
    let pongs = async {
        let mut pongs = 0;
        while let Some(Some(event)) = events.next().now_or_never() {
            pongs += usize::from(matches!(event.kind, EventKind::Pong(_)));
        }
        pongs
    };
    assert!(pongs.await >= 119, "one in 30 s for an hour");
}

#[tokio::test(start_paused = true)]
async fn no_interval_no_pings() {
    let server = with(RpcRouter::new(), Options::server().ping_interval(Duration::ZERO));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let heard = tokio::time::timeout(3600 * SECOND, station.next()).await;
    assert!(heard.is_err(), "{heard:?}");
}

#[tokio::test]
async fn a_ping_of_the_peer_is_answered() {
    let server = server(RpcRouter::new());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.ws.send(Message::Ping(Bytes::from_static(b"you?"))).await.expect("open");
    assert_eq!(station.next().await, Message::Pong(Bytes::from_static(b"you?")));
}

// Closing.

#[tokio::test]
async fn both_sides_see_who_closed_and_why() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (ours, theirs) = tokio::join!(session.close(Close::new(1012).reason("update")), station.closed());
    assert_eq!(theirs, (1012, "update".to_owned()));
    assert_eq!((ours.code, &*ours.reason, ours.cause), (1012, "update", Cause::Local));

    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.close(1001, "rebooting").await;
    let closed = session.closed().await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "rebooting", Cause::Remote));
    assert_eq!(station.closed().await, (1001, "rebooting".to_owned()), "the close is answered");
    assert!(server.session("CP-1").is_none());
}

#[tokio::test]
async fn a_close_at_once_fails_calls_and_tells_handlers() {
    let told = Arc::new(Notify::new());
    async fn wait(gone: CancellationToken, State(told): State<Arc<Notify>>) -> Result<(), Infallible> {
        gone.cancelled().await;
        told.notify_one();
        Ok(())
    }
    let server = server(RpcRouter::with_state(told.clone()).on("Wait", wait).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    station.receive_call().await;
    let (_, theirs) = tokio::join!(session.close(Close::normal()), station.closed());
    assert_eq!(theirs.0, 1000);
    assert!(call.await.expect("no panic").expect_err("closed").maybe_delivered());
    told.notified().await;
}

#[tokio::test(start_paused = true)]
async fn a_waiting_close_lets_both_directions_end() {
    let (router, gate) = gated();
    let server = server(router);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let calls = [session.call::<Value>("First", &()), session.call("Second", &())].map(tokio::spawn);
    let (first, _) = station.receive_call().await;
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close(Close::going_away().after_pending()).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(session.call::<Value>("Third", &()).await, Err(Error::Closing)));
    // A call that was in line when the close began still goes out, and the station's calls are still answered.
    station.send(format!(r#"[3,"{first}",{{}}]"#)).await;
    let (second, _) = station.receive_call().await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    station.send(format!(r#"[3,"{second}",{{}}]"#)).await;
    for call in calls {
        call.await.expect("no panic").expect("an answer");
    }
    assert!(!closing.is_finished());
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.closed().await.0, 1001);
    drop(station);
    assert_eq!(closing.await.expect("no panic").code, 1001);
}

#[tokio::test(start_paused = true)]
async fn every_close_ends_within_its_deadline() {
    let options = Options::server().close_timeout(5 * SECOND).ping_interval(Duration::ZERO);
    for (close, code, seconds) in [
        (Close::normal(), 1000, 5..=6),
        (Close::normal().within(10 * SECOND), 1000, 15..=16),
        (Close::forced(), 1006, 0..=0),
    ] {
        let (router, _gate) = gated();
        let server = with(router, options.clone());
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        let call = tokio::spawn(session.call::<Value>("Reset", &()));
        station.receive_call().await;
        let start = Instant::now();
        // The station is silent from here on. The first close decides.
        let (first, second) = tokio::join!(session.close(close.clone()), session.close(Close::new(4000)));
        assert_eq!((first.code, first.cause), (code, Cause::Local), "{close:?}");
        assert_eq!(first, second);
        let elapsed = start.elapsed().as_secs();
        assert!(seconds.contains(&elapsed), "{close:?}: {elapsed} s");
        assert!(call.await.expect("no panic").expect_err("closed").maybe_delivered());
        drop(station);
    }
}

#[tokio::test]
async fn times_without_end_are_no_panic() {
    let options =
        Options::server().call_timeout(Duration::MAX).close_timeout(Duration::MAX).ping_interval(Duration::MAX);
    let server = with(RpcRouter::new(), options);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("Any", &()).timeout(Duration::MAX).within(Duration::MAX));
    let (id, _) = station.receive_call().await;
    let closing = tokio::spawn(async move { session.close(Close::normal().within(Duration::MAX)).await });
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    call.await.expect("no panic").expect("an answer");
    assert_eq!(station.closed().await.0, 1000);
    drop(station);
    assert_eq!(closing.await.expect("no panic").code, 1000);
    server.close(Close::normal().within(Duration::MAX)).await;
}

#[tokio::test]
async fn a_lost_connection_lets_handlers_finish_and_a_forced_close_does_not() {
    let finished = Arc::new(AtomicUsize::new(0));
    async fn work(gone: CancellationToken, State(finished): State<Arc<AtomicUsize>>) -> Result<(), Infallible> {
        gone.cancelled().await;
        tokio::task::yield_now().await;
        finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    let server = server(RpcRouter::with_state(finished.clone()).on("Work", work).on("Echo", echo));
    for (forced, expected) in [(true, 0), (false, 10)] {
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        for id in 0..10 {
            station.send(format!(r#"[2,"{id}","Work",{{}}]"#)).await;
        }
        station.ask(r#"[2,"x","Echo",{}]"#).await;
        match forced {
            true => drop(session.close(Close::forced()).await),
            false => drop(station),
        }
        if !forced {
            session.closed().await;
            while finished.load(Ordering::Relaxed) < 10 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(finished.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_that_closes_waits_for_its_sessions_and_then_drops_them() {
    let (router, _gate) = gated();
    let server = with(router, Options::server().ping_interval(Duration::ZERO));
    let mut polite = Station::connect(&server, "polite", "ocpp1.6").await;
    let mut stuck = Station::connect(&server, "stuck", "ocpp1.6").await;
    stuck.send(r#"[2,"1","Wait",{}]"#).await;
    stuck.ask(r#"[2,"2","Echo",{}]"#).await;
    polite.ask(r#"[2,"2","Echo",{}]"#).await;
    let (report, closed) = tokio::join!(server.close(Close::going_away()), polite.closed());
    assert_eq!(closed.0, 1001);
    assert_eq!((report.clean, report.forced), (1, 1), "a handler never ended");
    assert!(server.sessions().is_empty());
    assert_eq!(server.close(Close::normal()).await, report);
}

#[tokio::test(start_paused = true)]
async fn sessions_tell_when_they_were_seen() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    advance(10 * SECOND).await;
    station.ask(r#"[2,"1","Echo",{}]"#).await;
    let seen = session.last_seen_at().duration_since(session.connected_at()).expect("later");
    assert_eq!(seen.as_secs(), 10);
}

#[tokio::test]
async fn a_stream_that_is_dropped_in_the_handshake_leaves_nothing() {
    let server = server(RpcRouter::new());
    drop(dial(&server));
    let report = server.close(Close::normal()).await;
    assert_eq!((report.clean, report.forced), (0, 0));
}
