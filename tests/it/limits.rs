//! What holds at the edges: floods, backlogs, spent budgets, changes at run time.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use futures_util::{SinkExt, future::join_all};
use ocpp_rpc::{
    CallError, Close, Error, Options, RpcRouter, RpcServer, Session,
    close::CloseCause,
    event::{EventKind, Events},
    extract::{Params, State},
};
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{Station, dial_with_buffer, echo};

const SECOND: Duration = Duration::from_secs(1);

fn server<S: Send + Sync + 'static>(router: RpcRouter<S>, options: Options) -> RpcServer {
    RpcServer::builder(router).protocols(["ocpp2.1", "ocpp1.6"]).options(options).build().expect("sound")
}

/// A station over a stream that holds so many bytes, and its session.
async fn connected(server: &RpcServer, protocol: &str, bytes: usize) -> (Station, Session) {
    let mut events = server.events();
    let station = Station::open(dial_with_buffer(server, bytes), "CP-1", protocol).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::Opened { .. }) {}
    (station, server.session("CP-1").expect("registered"))
}

/// Waits for so many messages to have gone in or out.
async fn messages(events: &mut Events, count: usize) {
    for _ in 0..count {
        while !matches!(events.next().await.expect("more").kind, EventKind::Received(_) | EventKind::Sent(_)) {}
    }
}

/// Handlers that wait until they are let go, and others that do not.
fn gated() -> (RpcRouter<Arc<Semaphore>>, Arc<Semaphore>) {
    async fn wait(State(gate): State<Arc<Semaphore>>) -> Result<(), CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(())
    }
    async fn echo(Params(params): Params<Value>) -> Result<Value, Infallible> {
        Ok(params)
    }
    let gate = Arc::new(Semaphore::new(0));
    (RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo), gate)
}

// Peers that do not read.

#[tokio::test(start_paused = true)]
async fn b51_a_peer_that_does_not_read_is_dropped() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(10_000));
    let (station, session) = connected(&server, "ocpp1.6", 1024).await;
    let params = json!({"x": "x".repeat(8000)});
    for _ in 0..3 {
        let _ = session.call::<Value>("Big", &params).timeout(SECOND).await;
    }
    assert_eq!(session.closed().await.cause, CloseCause::NotReading);
    drop(station);
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_pings_and_does_not_read_is_dropped() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(10_000));
    let (mut station, session) = connected(&server, "ocpp1.6", 1024).await;
    let ping = Message::Ping(Bytes::from_static(&[b'x'; 125]));
    let flood = async { while station.ws.send(ping.clone()).await.is_ok() {} };
    let (closed, ()) = tokio::join!(session.closed(), flood);
    assert_eq!(closed.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn what_waits_for_a_slow_reader_is_counted_to_the_byte() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(1000));
    let (mut station, session) = connected(&server, "ocpp2.1", 256).await;
    // There is always something left unsent, so that no flush is ever complete.
    let send = async || tokio::time::timeout(SECOND, session.send("S", &())).await;
    for _ in 0..12 {
        let _ = send().await;
    }
    for _ in 0..500 {
        let _ = send().await;
        station.receive().await;
    }
    let mut more = 0;
    while session.is_open() {
        let _ = send().await;
        more += 1;
    }
    assert!(more < 30, "{more} messages of some fifty bytes before it was dropped");
    assert_eq!(session.closed().await.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn a_backlog_goes_out_to_a_peer_that_reads() {
    let server = server(RpcRouter::new(), Options::server());
    let (mut station, session) = connected(&server, "ocpp2.1", 1024).await;
    let reader = tokio::spawn(async move {
        for _ in 0..900 {
            station.receive().await;
        }
        station
    });
    let body = json!({"x": "x".repeat(10_000)});
    let sends = join_all((0..900).map(|_| session.send("S", &body))).await;
    assert!(sends.iter().all(Result::is_ok));
    reader.await.expect("all of it");
}

#[tokio::test(start_paused = true)]
async fn b27_what_never_left_is_not_reported_as_written() {
    let server = server(RpcRouter::new(), Options::server());
    let (station, session) = connected(&server, "ocpp2.1", 1024).await;
    let mut events = server.events();
    let send = tokio::spawn(session.send("S", &json!({"x": "x".repeat(10_000)})));
    let forget = tokio::spawn(session.call::<Value>("C", &json!({"x": "x".repeat(10_000)})).fire_and_forget());
    messages(&mut events, 2).await;
    drop(station);
    for written in [send, forget] {
        assert!(matches!(written.await.expect("no panic"), Err(Error::Disconnected { maybe_delivered: true })));
    }
}

// Time.

#[tokio::test(start_paused = true)]
async fn time_goes_on_when_handlers_use_up_the_budget_of_their_task() {
    async fn busy(State(gate): State<Arc<Semaphore>>) -> Result<(), CallError> {
        for _ in 0..20 {
            drop(gate.acquire().await.map_err(CallError::internal)?);
        }
        Ok(())
    }
    let router = RpcRouter::with_state(Arc::new(Semaphore::new(1000))).on("Busy", busy);
    let server = server(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6", 64 << 10).await;
    for id in 0..32 {
        station.ws.feed(Message::text(format!(r#"[2,"{id}","Busy",{{}}]"#))).await.expect("open");
    }
    station.ws.flush().await.expect("open");
    let call = session.call::<Value>("Any", &()).timeout(SECOND);
    let outcome = tokio::time::timeout(3600 * SECOND, call).await.expect("its own timeout comes first");
    assert!(matches!(outcome, Err(Error::Timeout)), "{outcome:?}");
}

// Full lines, and changes at run time.

#[tokio::test(start_paused = true)]
async fn a_send_is_not_answered_when_the_line_is_full() {
    let (router, gate) = gated();
    let server = server(router, Options::server().handler_concurrency(1).handler_queue(1));
    let (mut station, _session) = connected(&server, "ocpp2.1", 4096).await;
    for id in 1..=3 {
        station.send(format!(r#"[6,"{id}","Wait",{{}}]"#)).await;
    }
    station.silent().await;
    gate.add_permits(2);
    station.silent().await;
    assert_eq!(station.ask(r#"[2,"4","Echo",{}]"#).await, r#"[3,"4",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn a_send_frees_no_id_of_a_call() {
    let (router, _gate) = gated();
    let server = server(router, Options::server());
    let (mut station, _session) = connected(&server, "ocpp2.1", 4096).await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[6,"1","Echo",{}]"#).await;
    assert!(station.ask(r#"[2,"1","Echo",{}]"#).await.starts_with(r#"[4,"1","RpcFrameworkError""#));
}

#[tokio::test(start_paused = true)]
async fn b31_more_room_for_handlers_lets_the_line_move_on() {
    let (router, _gate) = gated();
    let server = server(router, Options::server().handler_concurrency(1));
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    let mut events = server.events();
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    messages(&mut events, 2).await;
    session.set_options(Options::server().handler_concurrency(2)).expect("sound");
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
    assert!(session.set_options(Options::server().call_concurrency(0)).is_err());
}

#[tokio::test(start_paused = true)]
async fn b31_a_handler_that_makes_room_for_others_lets_the_line_move_on() {
    async fn make_room(peer: Session) -> Result<(), Infallible> {
        peer.set_options(Options::server().handler_concurrency(2).ping_interval(None)).expect("sound");
        pending().await
    }
    let router = RpcRouter::new().on("MakeRoom", make_room).on("Echo", echo);
    let server = server(router, Options::server().handler_concurrency(1).ping_interval(None));
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    station.send(r#"[2,"1","MakeRoom",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    assert_eq!(timeout(SECOND, station.receive()).await.expect("a turn"), r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn b31_a_line_is_bounded_in_bytes_as_well() {
    let (router, _gate) = gated();
    let options = Options::server().handler_concurrency(1).handler_queue(100).max_message_size(1000);
    let server = server(router, options);
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    let params = json!({"x": "x".repeat(900)});
    for id in 0..6 {
        station.send(format!(r#"[2,"{id}","Wait",{params}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"5","GenericError""#), "one runs, four wait");
}

#[tokio::test]
async fn limits_without_end_are_no_panic() {
    let (router, gate) = gated();
    let most = usize::MAX;
    let options = Options::server().max_message_size(most).max_unsent(most).call_queue(most).call_concurrency(most);
    let server = server(router, options.handler_queue(most).handler_concurrency(1));
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    let mut events = server.events();
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    messages(&mut events, 2).await;
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
}

// Ends.

#[tokio::test(start_paused = true)]
async fn b48_a_forced_close_drops_handlers_also_when_the_peer_leaves_in_that_moment() {
    let (router, _gate) = gated();
    let server = server(router, Options::server());
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    drop(station);
    session.close(Close::forced()).await;
    let start = Instant::now();
    assert_eq!(server.close(Close::forced()).await.forced, 0);
    assert_eq!(start.elapsed().as_secs(), 0);
}

#[tokio::test(start_paused = true)]
async fn b26_a_session_that_is_dropped_says_which_calls_were_never_written() {
    let (router, _gate) = gated();
    let server = server(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    let calls = [session.call::<Value>("Written", &()), session.call("Waiting", &())]
        .map(|call| tokio::spawn(call.timeout(None)));
    station.receive_call().await;
    // The first close is so patient that the second one's time is up before.
    let patient = session.close(Close::normal().drain(3600 * SECOND));
    let (closed, report) = tokio::join!(patient, server.close(Close::going_away()));
    assert_eq!((closed.code, report.forced), (1006, 1));
    let [written, waiting] = calls.map(|call| async { call.await.expect("no panic").expect_err("dropped") });
    assert!(written.await.maybe_delivered());
    assert!(!waiting.await.maybe_delivered());
}

#[tokio::test]
async fn events_end_with_the_server() {
    let server = server(RpcRouter::new(), Options::server());
    let mut events = server.events();
    drop(server);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_message_of_type_6_is_ignored_where_there_is_none_whatever_it_carries() {
    let server = server(RpcRouter::new(), Options::server());
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    station.send(r#"[6,"1","A",["m"]]"#).await;
    station.silent().await;
    assert!(matches!(session.send("S", &()).await, Err(Error::SendNotSupported)));
}

#[tokio::test(start_paused = true)]
async fn b22_calls_beyond_the_rate_are_refused_and_told_why() {
    let server = server(RpcRouter::new().on("Echo", echo), Options::server().call_rate(2, 10 * SECOND));
    let (mut station, _session) = connected(&server, "ocpp1.6", 64 << 10).await;
    let refused = r#"[4,"1","GenericError","more than 2 calls in 10s",{}]"#;
    for (wait, answers) in [(0, [r#"[3,"1",{}]"#, r#"[3,"1",{}]"#, refused]), (5, [r#"[3,"1",{}]"#, refused, refused])]
    {
        tokio::time::advance(wait * SECOND).await;
        for answer in answers {
            assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, answer);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b31_what_waits_in_line_is_bounded_by_all_that_it_keeps_in_memory() {
    async fn wait() -> Result<(), Infallible> {
        std::future::pending().await
    }
    let options = Options::server().handler_concurrency(1).max_message_size(10_000);
    let server = server(RpcRouter::new().on("Wait", wait), options);
    let (mut station, _session) = connected(&server, "ocpp1.6", 64 << 10).await;
    // Next to nothing to read, in large messages: four of the largest may wait.
    let blanks = " ".repeat(9_900);
    for id in 0..6 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}{blanks}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"5","GenericError","too many calls are waiting"#));
    station.silent().await;
}
