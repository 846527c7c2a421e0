//! Limits: floods, backlogs, exhausted task budgets, changes at run time.

use std::{convert::Infallible, future::pending, sync::Arc, time::Duration};

use futures_util::{SinkExt, future::join_all};
use ocpp_rpc::{
    CallError, Close, Error, Options, RpcClient, RpcRouter, RpcServer, Session, Tolerance,
    close::CloseCause,
    event::{EventKind, Events},
    extract::State,
};
use serde_json::{Value, json};
use tokio::{
    io::AsyncWriteExt,
    sync::Semaphore,
    time::{Instant, timeout},
};
use tokio_tungstenite::tungstenite::{Bytes, Message};

use crate::support::{SECOND, Station, dial_with_buffer, echo, gated, opened};

fn server<S: Send + Sync + 'static>(router: RpcRouter<S>, options: Options) -> RpcServer {
    RpcServer::builder(router).protocols(["ocpp2.1", "ocpp1.6"]).options(options).build().expect("valid settings")
}

/// Connects a station over a stream with a buffer of `bytes` bytes and returns it with its session.
async fn connected(server: &RpcServer, protocol: &str, bytes: usize) -> (Station, Session) {
    let mut events = server.events();
    let station = Station::open(dial_with_buffer(server, bytes), "CP-1", protocol).await;
    (station, opened(&mut events).await)
}

/// Waits until `count` messages were received or sent.
async fn messages(events: &mut Events, count: usize) {
    for _ in 0..count {
        events.expect(|event| matches!(event.kind, EventKind::Received(_) | EventKind::Sent(_)).then_some(())).await;
    }
}

// Peers that do not read

#[tokio::test(start_paused = true)]
async fn b51_peer_not_reading_is_dropped() {
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
async fn pinging_peer_not_reading_is_dropped() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(10_000));
    let (mut station, session) = connected(&server, "ocpp1.6", 1024).await;
    let ping = Message::Ping(Bytes::from_static(&[b'x'; 125]));
    let flood = async { while station.ws.send(ping.clone()).await.is_ok() {} };
    let (closed, ()) = tokio::join!(session.closed(), flood);
    assert_eq!(closed.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn unsent_bytes_to_slow_reader_are_counted_exactly() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(1000));
    let (mut station, session) = connected(&server, "ocpp2.1", 256).await;
    // Some bytes always remain unsent, so no flush ever completes.
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
    assert!(more < 30, "{more} messages of some 50 bytes until the server dropped the connection");
    assert_eq!(session.closed().await.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn backlog_is_sent_to_reading_peer() {
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
    reader.await.expect("the whole backlog");
}

#[tokio::test(start_paused = true)]
async fn b27_unsent_message_is_not_reported_as_written() {
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

/// Returns the outcomes of calls that ended, and the number of messages that were sent, until the session closes.
async fn until_closed(events: &mut Events) -> (Vec<String>, usize) {
    let (mut outcomes, mut sent) = (Vec::new(), 0);
    loop {
        match events.next().await.expect("an event").kind {
            EventKind::CallEnded { outcome, .. } => outcomes.push(outcome.to_string()),
            EventKind::Sent(_) => sent += 1,
            EventKind::Closed(closed) => {
                assert_eq!(closed.cause, CloseCause::NotReading);
                return (outcomes, sent);
            }
            _ => {}
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b51_refused_call_was_never_sent() {
    let server = server(RpcRouter::new(), Options::server().max_unsent(1));
    let (_station, session) = connected(&server, "ocpp2.1", 16).await;
    let mut events = server.events();
    let sends = join_all((0..3).map(|_| session.send("S", &json!({"x": "x".repeat(100)})))).await;
    let delivered: Vec<_> = sends.into_iter().map(|sent| sent.expect_err("disconnected").maybe_delivered()).collect();
    assert_eq!(delivered, [true, false, false], "the first fills the stream, and the second is refused");
    assert_eq!(until_closed(&mut events).await.1, 1);
}

#[tokio::test(start_paused = true)]
async fn b51_refused_response_was_never_sent() {
    let (router, gate) = gated();
    let server = server(router, Options::server().max_unsent(1));
    let (mut station, session) = connected(&server, "ocpp2.1", 16).await;
    let mut events = server.events();
    for id in 1..=3 {
        station.send(format!(r#"[2,"{id}","Wait",{{"x":"{}"}}]"#, "x".repeat(100))).await;
    }
    tokio::time::sleep(SECOND).await;
    gate.add_permits(3);
    session.closed().await;
    let (outcomes, sent) = until_closed(&mut events).await;
    assert_eq!((&outcomes[..2], sent), (&["result".to_owned(), "disconnected".to_owned()][..], 1));
}

// Timeouts

#[tokio::test(start_paused = true)]
async fn call_times_out_while_handlers_exhaust_task_budget() {
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
    let outcome = tokio::time::timeout(3600 * SECOND, call).await.expect("the timeout of the call elapses first");
    assert!(matches!(outcome, Err(Error::Timeout)), "{outcome:?}");
}

// Full queues, and changes at run time

#[tokio::test(start_paused = true)]
async fn send_beyond_full_queue_gets_no_response() {
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
async fn send_does_not_free_id_of_running_call() {
    let (router, _gate) = gated();
    let server = server(router, Options::server());
    let (mut station, _session) = connected(&server, "ocpp2.1", 4096).await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[6,"1","Echo",{}]"#).await;
    assert!(station.ask(r#"[2,"1","Echo",{}]"#).await.starts_with(r#"[4,"1","RpcFrameworkError""#));
}

#[tokio::test(start_paused = true)]
async fn b31_raised_handler_concurrency_starts_queued_calls() {
    let (router, _gate) = gated();
    let server = server(router, Options::server().handler_concurrency(1));
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    let mut events = server.events();
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    messages(&mut events, 2).await;
    session.set_options(Options::server().handler_concurrency(2)).expect("valid settings");
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
    assert!(session.set_options(Options::server().call_concurrency(0)).is_err());
}

#[tokio::test(start_paused = true)]
async fn b31_handler_raising_concurrency_starts_queued_calls() {
    async fn raise_limit(session: Session) -> Result<(), Infallible> {
        session.set_options(Options::server().handler_concurrency(2).ping_interval(None)).expect("valid settings");
        pending().await
    }
    let router = RpcRouter::new().on("RaiseLimit", raise_limit).on("Echo", echo);
    let server = server(router, Options::server().handler_concurrency(1).ping_interval(None));
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    station.send(r#"[2,"1","RaiseLimit",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    assert_eq!(timeout(SECOND, station.receive()).await.expect("the queued call starts"), r#"[3,"2",{}]"#);
}

#[tokio::test]
async fn b31_handler_queue_is_bounded_in_bytes() {
    let (router, _gate) = gated();
    let options = Options::server().handler_concurrency(1).handler_queue(100).max_message_size(1000);
    let server = server(router, options);
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    let params = json!({"x": "x".repeat(900)});
    for id in 0..6 {
        station.send(format!(r#"[2,"{id}","Wait",{params}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"5","GenericError""#), "one call runs, four are queued");
}

#[tokio::test]
async fn b31_repaired_payloads_count_with_their_longer_text() {
    let (router, _gate) = gated();
    let options = Options::server().handler_concurrency(1).handler_queue(100).max_message_size(1000);
    let server = server(router, options.tolerance(Tolerance::Permissive));
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    let controls = "\u{1}".repeat(900);
    for id in 0..2 {
        station.send(format!(r#"[2,"{id}","Wait",{{"x":"{controls}"}}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"1","GenericError""#), "900 bytes become 5,400");
}

#[tokio::test]
async fn maximum_limits_do_not_panic() {
    let (router, gate) = gated();
    let (max, max_size) = (usize::MAX, i32::MAX as usize);
    let options = Options::server().max_message_size(max_size).max_unsent(max_size).max_bad_messages(u32::MAX);
    let options = options.call_queue(max).call_concurrency(max).call_timeout(Duration::MAX);
    let options = options.ping_interval(Duration::MAX).close_timeout(Duration::MAX).call_rate(u32::MAX, Duration::MAX);
    let server = server(router, options.handler_queue(max).handler_concurrency(1));
    let (mut station, _session) = connected(&server, "ocpp1.6", 4096).await;
    let mut events = server.events();
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.send(r#"[2,"2","Echo",{}]"#).await;
    messages(&mut events, 2).await;
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b78_message_near_the_largest_size_is_awaited() {
    let server = server(RpcRouter::new(), Options::server().max_message_size(i32::MAX as usize));
    for claimed in [i32::MAX as u64, u64::from(u32::MAX), u64::MAX >> 1] {
        let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
        let head = [&[0x81, 0xff][..], &claimed.to_be_bytes(), &[0; 4], b"[2,"].concat();
        station.ws.get_mut().write_all(&head).await.expect("open");
        if claimed > i32::MAX as u64 {
            assert_eq!(session.closed().await.cause, CloseCause::TooLarge);
        } else {
            tokio::time::sleep(SECOND).await;
            assert!(session.is_open());
        }
    }
}

#[test]
fn b78_options_that_cannot_work_are_build_errors() {
    let short = Duration::from_micros(999);
    let cases: [(&str, Options); 10] = [
        ("max_message_size", Options::server().max_message_size(usize::MAX)),
        ("max_message_size", Options::server().max_message_size(i32::MAX as usize + 1)),
        ("max_unsent", Options::server().max_unsent(usize::MAX - 1)),
        ("call_timeout", Options::server().call_timeout(short)),
        ("call_timeout", Options::server().call_timeout(Duration::ZERO)),
        ("ping_interval", Options::server().ping_interval(short)),
        ("ping_interval", Options::server().ping_interval(Duration::from_nanos(1))),
        ("close_timeout", Options::server().close_timeout(short)),
        ("call_rate", Options::server().call_rate(u32::MAX, Duration::from_secs(1))),
        ("call_rate", Options::server().call_rate(0, Duration::from_secs(1))),
    ];
    for (name, options) in cases {
        let built = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).options(options.clone()).build();
        assert!(built.expect_err(name).to_string().contains(name), "{options:?}");
        let built = RpcClient::builder("ws://localhost", "CP-1").options(options).build();
        assert!(built.expect_err(name).to_string().contains(name));
    }
}

// Closing

#[tokio::test(start_paused = true)]
async fn b48_forced_close_drops_handlers_after_peer_disconnected() {
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
async fn b26_dropped_session_reports_calls_never_written() {
    let (router, _gate) = gated();
    let server = server(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    let calls = [session.call::<Value>("Written", &()), session.call("Waiting", &())]
        .map(|call| tokio::spawn(call.timeout(None)));
    station.receive_call().await;
    // The drain period of the first close is longer than the close timeout of the second.
    let draining = session.close(Close::normal().drain(3600 * SECOND));
    let (closed, report) = tokio::join!(draining, server.close(Close::going_away()));
    assert_eq!((closed.code, report.forced), (1006, 1));
    let [written, waiting] = calls.map(|call| async { call.await.expect("no panic").expect_err("dropped") });
    assert!(written.await.maybe_delivered());
    assert!(!waiting.await.maybe_delivered());
}

#[tokio::test]
async fn events_end_when_server_is_dropped() {
    let server = server(RpcRouter::new(), Options::server());
    let mut events = server.events();
    drop(server);
    assert!(events.next().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn send_message_is_ignored_if_protocol_has_none() {
    let server = server(RpcRouter::new(), Options::server());
    let (mut station, session) = connected(&server, "ocpp1.6", 4096).await;
    station.send(r#"[6,"1","A",["m"]]"#).await;
    station.silent().await;
    assert!(matches!(session.send("S", &()).await, Err(Error::SendNotSupported)));
}

#[tokio::test(start_paused = true)]
async fn b22_calls_beyond_rate_are_rejected_with_reason() {
    let server = server(RpcRouter::new().on("Echo", echo), Options::server().call_rate(2, 10 * SECOND));
    let (mut station, _session) = connected(&server, "ocpp1.6", 64 << 10).await;
    let rejected = r#"[4,"1","GenericError","more than 2 calls in 10s",{}]"#;
    for (wait, responses) in
        [(0, [r#"[3,"1",{}]"#, r#"[3,"1",{}]"#, rejected]), (5, [r#"[3,"1",{}]"#, rejected, rejected])]
    {
        tokio::time::advance(wait * SECOND).await;
        for response in responses {
            assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, response);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b31_handler_queue_is_bounded_by_memory_of_messages() {
    async fn wait() -> Result<(), Infallible> {
        std::future::pending().await
    }
    let options = Options::server().handler_concurrency(1).max_message_size(10_000);
    let server = server(RpcRouter::new().on("Wait", wait), options);
    let (mut station, _session) = connected(&server, "ocpp1.6", 64 << 10).await;
    // Blanks make the messages large although their payloads are empty: at most four of the largest are queued.
    let blanks = " ".repeat(9_900);
    for id in 0..6 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}{blanks}]"#)).await;
    }
    assert!(station.receive().await.starts_with(r#"[4,"5","GenericError","too many calls are waiting"#));
    station.silent().await;
}
