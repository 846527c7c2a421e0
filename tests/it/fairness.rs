//! Limits on what one peer can take from others: time of the thread, memory, and handlers that outlive their session.

use std::{
    convert::Infallible,
    future::poll_fn,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::Poll,
};

use futures_util::{FutureExt, SinkExt, StreamExt};
use ocpp_rpc::{
    CallError, Close, Options, RpcRouter, RpcServer, Session,
    client::ClientState,
    close::CloseCause,
    extract::{Params, Responder, State},
    handler::NoResponse,
};
use serde_json::{Value, json};
use tokio::{
    sync::Semaphore,
    task::yield_now,
    time::{advance, sleep, timeout},
};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    csms::{becomes, client, connected as client_connected, reconnect},
    support::{NextNow, SECOND, Station, dial_with_buffer, echo, opened},
};

/// Counts its calls, and lets them wait for the gate.
#[derive(Clone)]
struct Work {
    calls: Arc<AtomicUsize>,
    gate: Arc<Semaphore>,
}

impl Work {
    fn new() -> Self {
        Self { calls: Arc::default(), gate: Arc::new(Semaphore::new(0)) }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// A router with a handler, `Wait`, that waits for the gate, one, `Large`, that returns 64 KiB at once, and one,
    /// `Later`, that returns them the next time it is polled. `Long` computes for 2 ms, `WaitLong` does so when the gate
    /// is open, and `Early` responds with 4 KiB before it ends.
    fn router(&self) -> RpcRouter<Self> {
        async fn wait(State(work): State<Work>) -> Result<(), CallError> {
            work.calls.fetch_add(1, Ordering::Relaxed);
            work.gate.acquire().await.map_err(CallError::internal)?.forget();
            Ok(())
        }
        async fn large(State(work): State<Work>) -> Result<Value, Infallible> {
            work.calls.fetch_add(1, Ordering::Relaxed);
            Ok(json!({"text": "x".repeat(64 << 10)}))
        }
        async fn later(State(work): State<Work>) -> Result<Value, Infallible> {
            yield_now().await;
            work.calls.fetch_add(1, Ordering::Relaxed);
            Ok(json!({"text": "x".repeat(64 << 10)}))
        }
        async fn size(State(work): State<Work>, Params(_): Params<Value>) -> Result<(), Infallible> {
            work.calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn yields() -> Result<(), Infallible> {
            next_turn().await;
            Ok(())
        }
        /// Works for two milliseconds.
        fn compute() {
            let _ = advance(SECOND / 500).now_or_never();
        }
        async fn long(State(work): State<Work>) -> Result<(), Infallible> {
            compute();
            work.calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn wait_long(State(work): State<Work>) -> Result<(), CallError> {
            work.gate.acquire().await.map_err(CallError::internal)?.forget();
            compute();
            work.calls.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }
        async fn early(State(work): State<Work>, responder: Responder) -> Result<NoResponse, Infallible> {
            work.calls.fetch_add(1, Ordering::Relaxed);
            drop(responder.send(json!({"text": "x".repeat(4 << 10)})));
            Ok(NoResponse)
        }
        let router = RpcRouter::with_state(self.clone()).on("Wait", wait).on("Large", large).on("Later", later);
        let router = router.on("Long", long).on("WaitLong", wait_long).on("Early", early);
        router.on("Yield", yields).on("Size", size).on("Echo", echo)
    }
}

fn server(work: &Work, options: Options) -> RpcServer {
    RpcServer::builder(work.router()).protocols(["ocpp1.6"]).options(options).build().expect("valid settings")
}

/// Connects a station over a stream with a buffer of `bytes` bytes and returns it with its session.
async fn connected(server: &RpcServer, identity: &str, bytes: usize) -> (Station, Session) {
    let mut events = server.events();
    let station = Station::open(dial_with_buffer(server, bytes), identity, "ocpp1.6").await;
    (station, opened(&mut events).await)
}

// Time

/// Waits until the other tasks have had their turn. Tokio's `yield_now` lets them have many.
pub async fn next_turn() {
    let mut is_next = false;
    poll_fn(|cx| {
        cx.waker().wake_by_ref();
        if std::mem::replace(&mut is_next, true) { Poll::Ready(()) } else { Poll::Pending }
    })
    .await;
}

/// Waits until there were so many calls. Returns how many there were in the turn of the connection with the most calls,
/// or zero if there was only one turn.
async fn largest_turn(work: Work, calls: usize) -> usize {
    // This task and that of the connection run in turn.
    let largest = tokio::spawn(async move {
        let mut largest = 0;
        while work.calls() < calls {
            let before = work.calls();
            next_turn().await;
            largest = largest.max(work.calls() - before);
        }
        largest
    });
    largest.await.expect("no panic")
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_few_calls_of_a_flood() {
    let text = "x".repeat(64 << 10);
    for (call, most) in [
        (r#""Large",{}"#.to_owned(), 5),
        (r#""Later",{}"#.to_owned(), 5),
        (format!(r#""Size",{{"text":"{text}"}}"#), 5),
    ] {
        let work = Work::new();
        let server = server(&work, Options::server().max_unsent(32 << 20));
        let (mut station, _session) = connected(&server, "CP-1", 32 << 20).await;
        for id in 0..60 {
            station.ws.feed(Message::text(format!(r#"[2,"{id}",{call}]"#))).await.expect("open");
        }
        station.ws.flush().await.expect("open");
        let largest = largest_turn(work, 60).await;
        assert!((1..=most).contains(&largest), "{largest} calls in one turn: {call:.9}");
        for _ in 0..60 {
            station.receive().await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_few_of_many_queued_calls() {
    let text = "x".repeat(60 << 10);
    for call in [format!(r#""Size",{{"text":"{text}"}}"#), r#""Long",{}"#.to_owned()] {
        let work = Work::new();
        let server = server(&work, Options::server().handler_concurrency(1));
        let (mut station, _session) = connected(&server, "CP-1", 32 << 20).await;
        station.send(r#"[2,"first","Wait",{}]"#).await;
        for id in 0..60 {
            station.send(format!(r#"[2,"{id}",{call}]"#)).await;
        }
        sleep(SECOND).await;
        assert_eq!(work.calls(), 1, "the others are queued");
        work.gate.add_permits(1);
        let largest = largest_turn(work, 61).await;
        assert!((1..=10).contains(&largest), "{largest} calls in one turn: {call:.9}");
        for _ in 0..61 {
            assert!(station.receive().await.starts_with("[3,"));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_few_of_many_handlers_that_end() {
    let work = Work::new();
    let server = server(&work, Options::server());
    let (mut station, _session) = connected(&server, "CP-1", 32 << 20).await;
    for id in 0..60 {
        station.send(format!(r#"[2,"{id}","WaitLong",{{}}]"#)).await;
    }
    sleep(SECOND).await;
    work.gate.add_permits(60);
    let largest = largest_turn(work, 60).await;
    assert!((1..=10).contains(&largest), "{largest} handlers in one turn");
    for _ in 0..60 {
        assert!(station.receive().await.starts_with("[3,"));
    }
}

#[tokio::test(start_paused = true)]
async fn other_tasks_run_between_few_of_many_handlers_that_end_without_a_connection() {
    let work = Work::new();
    let (builder, mut dials) = client();
    let (_client, mut csms) = client_connected(builder.router(work.router()), &mut dials).await;
    for id in 0..60 {
        csms.send(json!([2, id.to_string(), "WaitLong", {}])).await;
    }
    sleep(SECOND).await;
    drop(csms);
    // The client waits for this handshake.
    let _dial = dials.next().await;
    work.gate.add_permits(60);
    let largest = largest_turn(work, 60).await;
    assert!((1..=10).contains(&largest), "{largest} handlers in one turn");
}

#[tokio::test(start_paused = true)]
async fn calls_are_written_between_the_turns_of_a_flood() {
    let work = Work::new();
    let server = server(&work, Options::server().max_unsent(32 << 20));
    let (mut station, session) = connected(&server, "CP-1", 32 << 20).await;
    for id in 0..60 {
        station.ws.feed(Message::text(format!(r#"[2,"{id}","Large",{{}}]"#))).await.expect("open");
    }
    station.ws.flush().await.expect("open");
    let calls = tokio::spawn(async move {
        session.call::<Value>("Reset", &()).fire_and_forget().await.expect("written");
        work.calls()
    });
    let calls = calls.await.expect("no panic");
    assert!(calls < 60, "it does not wait for the whole flood: {calls}");
}

#[tokio::test(start_paused = true)]
async fn handlers_go_on_between_the_turns_of_a_flood() {
    let work = Work::new();
    let server = server(&work, Options::server());
    let (mut station, _session) = connected(&server, "CP-1", 32 << 20).await;
    let text = "x".repeat(64 << 10);
    for id in 0..60 {
        let call = if id == 0 { r#""Yield",{}"#.to_owned() } else { format!(r#""Size",{{"text":"{text}"}}"#) };
        station.ws.feed(Message::text(format!(r#"[2,"{id}",{call}]"#))).await.expect("open");
    }
    station.ws.flush().await.expect("open");
    let calls = tokio::spawn(async move {
        while !station.receive().await.starts_with(r#"[3,"0""#) {}
        work.calls()
    });
    let calls = calls.await.expect("no panic");
    assert!(calls < 20, "the handler does not wait for the whole flood: {calls}");
}

// Memory

#[tokio::test(start_paused = true)]
async fn b31_reading_pauses_for_a_peer_that_does_not_read() {
    let work = Work::new();
    let server = server(&work, Options::server().max_unsent(1 << 20));
    let (station, session) = connected(&server, "CP-1", 64 << 10).await;
    let (mut sink, mut stream) = station.ws.split();
    let sending = tokio::spawn(async move {
        for id in 0..60 {
            sink.send(Message::text(format!(r#"[2,"{id}","Large",{{}}]"#))).await.expect("open");
        }
        sink
    });
    sleep(SECOND).await;
    // Half a mebibyte, and what fits into the stream and one turn.
    assert!((8..=12).contains(&work.calls()), "{} calls", work.calls());
    assert!(session.is_open());
    let mut responses = 0;
    while responses < 60 {
        let message = timeout(SECOND, stream.next()).await.expect("in time");
        responses += usize::from(matches!(message, Some(Ok(Message::Text(_)))));
    }
    let _open = sending.await.expect("all are sent");
}

#[tokio::test(start_paused = true)]
async fn b31_reading_goes_on_for_responses_to_calls_in_flight() {
    let work = Work::new();
    let server = server(&work, Options::server().max_unsent(4 << 20));
    let (mut station, session) = connected(&server, "CP-1", 64 << 10).await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    let (id, _) = station.receive_call().await;
    for id in 0..40 {
        station.ws.feed(Message::text(format!(r#"[2,"{id}","Large",{{}}]"#))).await.expect("open");
    }
    station.send(format!(r#"[3,"{id}",{{"ok":true}}]"#)).await;
    assert_eq!(call.await.expect("no panic").expect("a result"), json!({"ok": true}));
    assert_eq!(work.calls(), 40, "more than two mebibytes are unsent");
}

#[tokio::test(start_paused = true)]
async fn b51_peer_that_reads_slowly_gets_all_early_responses() {
    let work = Work::new();
    let server = server(&work, Options::server());
    let (mut station, session) = connected(&server, "CP-1", 64 << 10).await;
    for id in 0..450 {
        station.send(format!(r#"[2,"{id}","Early",{{}}]"#)).await;
    }
    sleep(SECOND).await;
    assert_eq!(work.calls(), 450, "there is room for all of them");
    for _ in 0..450 {
        assert!(timeout(SECOND, station.receive()).await.expect("in time").starts_with("[3,"));
    }
    assert!(session.is_open());
}

#[tokio::test(start_paused = true)]
async fn b31_early_responses_pause_reading() {
    let work = Work::new();
    let server = server(&work, Options::server().max_unsent(1 << 20));
    let (station, session) = connected(&server, "CP-1", 64 << 10).await;
    let (mut sink, mut stream) = station.ws.split();
    let sending = tokio::spawn(async move {
        for id in 0..3000 {
            sink.send(Message::text(format!(r#"[2,"{id}","Early",{{}}]"#))).await.expect("open");
        }
        sink
    });
    sleep(SECOND).await;
    // Half a mebibyte, and what fits into the stream and one turn.
    assert!((120..=190).contains(&work.calls()), "{} calls", work.calls());
    assert!(session.is_open());
    let mut responses = 0;
    while responses < 3000 {
        let message = timeout(SECOND, stream.next()).await.expect("in time");
        responses += usize::from(matches!(message, Some(Ok(Message::Text(_)))));
    }
    let _open = sending.await.expect("all are sent");
}

#[tokio::test(start_paused = true)]
async fn b51_early_responses_count_as_unsent_bytes() {
    let work = Work::new();
    let server = server(&work, Options::server().max_unsent(1 << 20));
    let (mut station, session) = connected(&server, "CP-1", 64 << 10).await;
    // Reading does not pause, because a response to this call may follow.
    let _call = tokio::spawn(session.call::<Value>("Reset", &()));
    station.receive_call().await;
    for id in 0..1000 {
        if station.ws.send(Message::text(format!(r#"[2,"{id}","Early",{{}}]"#))).await.is_err() {
            break;
        }
    }
    assert_eq!(session.closed().await.cause, CloseCause::NotReading);
    assert!((256..=320).contains(&work.calls()), "a mebibyte in responses of 4 KiB: {} calls", work.calls());
}

// Handlers

/// Sends `count` calls, and returns how many are rejected.
async fn wait_calls(station: &mut Station, count: usize) -> usize {
    for id in 0..count {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    // Everything else comes to rest before the clock moves.
    sleep(SECOND).await;
    rejected(std::iter::from_fn(|| station.ws.next_now()))
}

/// Counts rejections among messages.
fn rejected(messages: impl Iterator<Item = Message>) -> usize {
    let texts = messages.filter_map(|message| message.into_text().ok().filter(|text| text.starts_with('[')));
    let rejections = texts.inspect(|text| {
        assert!(text.contains(r#""GenericError","too many calls of earlier connections"#), "{text}");
    });
    rejections.count()
}

#[tokio::test(start_paused = true)]
async fn b64_station_that_reconnects_cannot_start_more_handlers() {
    let work = Work::new();
    let server = server(&work, Options::server().handler_concurrency(4));
    for round in 0..20 {
        let (mut station, session) = connected(&server, "CP-1", 64 << 10).await;
        let rejected = wait_calls(&mut station, 4).await;
        assert_eq!(rejected, if round < 2 { 0 } else { 4 }, "round {round}");
        drop(station);
        session.closed().await;
    }
    assert_eq!(work.calls(), 8, "twice as many as of one connection");
    // Another station is not affected.
    let (mut other, _session) = connected(&server, "CP-2", 64 << 10).await;
    assert_eq!(wait_calls(&mut other, 4).await, 0);

    work.gate.add_permits(12);
    sleep(SECOND).await;
    let (mut station, _session) = connected(&server, "CP-1", 64 << 10).await;
    assert_eq!(wait_calls(&mut station, 4).await, 0, "the handlers have finished");
}

#[tokio::test(start_paused = true)]
async fn b64_fewer_handlers_run_beside_those_of_earlier_connections() {
    let work = Work::new();
    let server = server(&work, Options::server().handler_concurrency(4));
    for calls in [4, 3] {
        let (mut station, session) = connected(&server, "CP-1", 64 << 10).await;
        assert_eq!(wait_calls(&mut station, calls).await, 0);
        drop(station);
        session.closed().await;
    }
    // There is room for one. The second call waits for it, and starts when it has finished.
    let (mut station, _session) = connected(&server, "CP-1", 64 << 10).await;
    assert_eq!(wait_calls(&mut station, 2).await, 0);
    assert_eq!(work.calls(), 8);
    work.gate.add_permits(9);
    assert_eq!([station.receive().await, station.receive().await], [r#"[3,"0",{}]"#, r#"[3,"1",{}]"#]);
}

#[tokio::test(start_paused = true)]
async fn b64_handlers_of_all_stations_are_limited_when_they_outlive_sessions() {
    let work = Work::new();
    let builder = RpcServer::builder(work.router()).protocols(["ocpp1.6"]);
    let server = builder.max_outliving_handlers(10).build().expect("valid settings");
    for identity in ["CP-1", "CP-2"] {
        let (mut station, session) = connected(&server, identity, 64 << 10).await;
        assert_eq!(wait_calls(&mut station, 5).await, 0);
        drop(station);
        session.closed().await;
    }
    let (mut station, _session) = connected(&server, "CP-3", 64 << 10).await;
    assert_eq!(wait_calls(&mut station, 5).await, 5);
    // A handler that finishes makes room.
    work.gate.add_permits(1);
    sleep(SECOND).await;
    assert_eq!(wait_calls(&mut station, 1).await, 0);
}

#[tokio::test(start_paused = true)]
async fn b64_handlers_of_a_client_count_over_its_connections() {
    let work = Work::new();
    let (builder, mut dials) = client();
    let options = Options::client().handler_concurrency(4);
    let builder = builder.router(work.router()).options(options).reconnect(reconnect());
    let (client, mut csms) = client_connected(builder, &mut dials).await;
    for round in 0..6 {
        for id in 0..4 {
            csms.send(json!([2, format!("{round}-{id}"), "Wait", {}])).await;
        }
        sleep(SECOND).await;
        let rejected = rejected(std::iter::from_fn(|| csms.0.next_now()));
        assert_eq!(rejected, if round < 2 { 0 } else { 4 }, "round {round}");
        if round == 3 {
            // Handlers of an earlier run count as well.
            client.close(Close::normal()).await;
            let connecting = tokio::spawn({
                let client = client.clone();
                async move { client.connect().await }
            });
            csms = dials.accept("ocpp1.6").await;
            connecting.await.expect("no panic").expect("connected");
        } else {
            drop(csms);
            csms = dials.accept("ocpp1.6").await;
        }
        becomes(&client, ClientState::Open).await;
    }
    assert_eq!(work.calls(), 8);
}
