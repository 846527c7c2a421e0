//! Raw messages, and the relay of the examples, which is made of them.

use std::{
    borrow::Cow,
    convert::Infallible,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{HeaderValue, StatusCode, header};
use ocpp_rpc::{
    Accept, Close, Error, Handshake, Options, Reject, RpcClient, RpcRouter, RpcServer, Session,
    close::{CloseCause, CloseInfo},
    event::{Direction, EventKind},
    extract::{RawMessage, State},
};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    sync::{Semaphore, mpsc, oneshot},
    time::{Instant, timeout},
};
use tokio_util::task::TaskTracker;

use crate::{
    support::{SECOND, Station, dial, dial_with_buffer, echo},
    tcp::{Client, head, offering, with},
};

#[path = "../../examples/relay.rs"]
#[allow(dead_code, reason = "the program of the example does not run here")]
mod example;

use example::{Filter, Relay, Sender};

type Decision = Result<Accept, Reject>;

/// The server behind the relay. Its sessions record the messages that they get.
struct Upstream {
    server: RpcServer,
    opened: mpsc::UnboundedReceiver<Session>,
    messages: mpsc::UnboundedReceiver<String>,
    handshakes: Arc<Mutex<Vec<Handshake>>>,
}

impl Upstream {
    fn new() -> Self {
        Self::deciding(|_| Ok(Accept::new()))
    }

    fn deciding(decide: impl Fn(&Handshake) -> Decision + Send + Sync + 'static) -> Self {
        let (opens, opened) = mpsc::unbounded_channel();
        let (record, messages) = mpsc::unbounded_channel();
        let handshakes = Arc::<Mutex<Vec<Handshake>>>::default();
        let seen = handshakes.clone();
        async fn take(
            message: RawMessage,
            State(record): State<mpsc::UnboundedSender<String>>,
        ) -> Result<(), Infallible> {
            let _ = record.send(message.into());
            Ok(())
        }
        let server = RpcServer::builder(RpcRouter::with_state(record).raw(take))
            .protocols(["ocpp2.1", "ocpp1.6"])
            .auth(move |handshake: Handshake| {
                let opens = opens.clone();
                seen.lock().expect("no panic").push(handshake.clone());
                let decided = decide(&handshake).map(|accept| accept.on_open(move |session| _ = opens.send(session)));
                async { decided }
            });
        let server = server.build().expect("valid settings");
        Self { server, opened, messages, handshakes }
    }

    async fn session(&mut self) -> Session {
        self.opened.recv().await.expect("a session")
    }

    async fn message(&mut self) -> String {
        self.messages.recv().await.expect("a message")
    }
}

/// Returns a relay in front of a server.
fn relay(
    upstream: &Upstream,
    filter: impl for<'a> Fn(&str, Sender, &'a str) -> Option<Cow<'a, str>> + Send + Sync + 'static,
) -> RpcServer {
    let server = upstream.server.clone();
    relay_over(move || Ok(dial(&server)), Arc::new(filter))
}

fn relay_over(dial: impl Fn() -> io::Result<DuplexStream> + Send + Sync + 'static, filter: Filter) -> RpcServer {
    let upstream = RpcClient::builder("ws://csms.test/ocpp?site=7", "relay");
    let upstream = upstream.connector(move |_| std::future::ready(dial()));
    let relay = Relay { upstream, filter, tasks: TaskTracker::new() };
    RpcServer::builder(RpcRouter::new()).auth(relay).build().expect("valid settings")
}

fn all<'a>(_: &str, _: Sender, message: &'a str) -> Option<Cow<'a, str>> {
    Some(message.into())
}

/// Connects a station through a relay, and returns it with its session at the server.
async fn connected(relay: &RpcServer, upstream: &mut Upstream) -> (Station, Session) {
    let station = Station::connect(relay, "CP-1", "ocpp2.1").await;
    let session = upstream.session().await;
    (station, session)
}

/// Waits until a station is connected to a server.
async fn opened(server: &RpcServer) -> Session {
    server.station("CP-1").connected(SECOND).await.expect("a session");
    server.session("CP-1").expect("a session")
}

// The relay.

#[tokio::test(start_paused = true)]
async fn b102_messages_pass_as_they_are_in_both_directions() {
    let texts = [
        r#"[2,"1","BootNotification",{"a":1.0}]"#,
        r#" [ 2 , "2" , "Heartbeat" , { } ] "#,
        r#"[2,"1","BootNotification",{"a":1.0}]"#,
        r#"[2,"1","BootNotification",{"a":2}]"#,
        r#"[2,17,"NumericId",{}]"#,
        r#"[2,"","EmptyId",{}]"#,
        r#"[2,"an id that is longer than 36 characters","LongId",{"b":1e400}]"#,
        r#"[2,"3","NoPayload"]"#,
        r#"[3,"17",{"status":"\u0041ccepted"}]"#,
        r#"[3,"-1",null]"#,
        r#"[4,"2","FormatViolation","é\n",{"a":{}}]"#,
        r#"[4,"2","FormationViolation",""]"#,
        r#"[4,"2","Teapot","","a text"]"#,
        r#"[5,"2","GenericError","late",{}]"#,
        r#"[6,"4","NotifyPeriodicEventStream",{"id":1}]"#,
        r#"[7,"5","Unknown",{}]"#,
        "[2,\"cut",
        "not a message",
        "",
    ];
    let long = format!(r#"[4,"2","GenericError","{}",{{}}]"#, "x".repeat(70_000));
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let (mut station, session) = connected(&relay, &mut upstream).await;
    for text in texts.into_iter().chain([&*long]) {
        station.send(text).await;
        assert_eq!(upstream.message().await, text);
        session.send_raw(text).await.expect("written");
        assert_eq!(station.receive().await, text);
    }
    assert_eq!((opened(&relay).await.in_flight(), session.in_flight()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn b102_many_messages_at_once_keep_their_order() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let (mut station, session) = connected(&relay, &mut upstream).await;
    let text = |n: usize| format!(r#"[2,"{n}","MeterValues",{{}}]"#);
    let downwards = tokio::spawn(async move {
        // All of them are in flight together.
        let calls = (0..500).map(|n| session.send_raw(text(n)));
        futures_util::future::join_all(calls).await;
    });
    for n in 0..500 {
        station.send(text(n)).await;
    }
    for n in 0..500 {
        assert_eq!(upstream.message().await, text(n));
        assert_eq!(station.receive().await, text(n));
    }
    downwards.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn b102_response_may_take_longer_than_the_timeouts_of_a_relay() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let (mut station, session) = connected(&relay, &mut upstream).await;
    station.send(r#"[2,"1","Authorize",{}]"#).await;
    upstream.message().await;
    // A call without a response does not hold up the next one, and may be repeated.
    for text in [r#"[2,"2","Heartbeat",{}]"#, r#"[2,"1","Authorize",{}]"#] {
        station.send(text).await;
        assert_eq!(upstream.message().await, text);
    }
    let wait = timeout(600 * SECOND, station.receive());
    assert!(wait.await.is_err(), "nothing was sent to the station");
    session.send_raw(r#"[3,"1",{}]"#).await.expect("written");
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b102_server_sees_the_handshake_of_the_station() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let credentials = format!("Basic {}", BASE64_STANDARD.encode(b"operator:\xff:secret"));
    let request =
        with(&offering("/any/a%2Fb?x=%20", "private, ocpp1.6, ocpp2.1"), &format!("Authorization: {credentials}"));
    let mut client = Client::over(dial(&relay));
    let response = client.ask(&with(&request, "User-Agent: Wallbox/7")).await;
    let station = client.upgraded(&response).await;
    assert_eq!(station.protocol.as_deref(), Some("ocpp1.6"));
    let session = upstream.session().await;
    assert_eq!((&*session.identity(), session.protocol().as_deref()), ("a/b", Some("ocpp1.6")));
    let handshake = upstream.handshakes.lock().expect("no panic").pop().expect("a handshake");
    assert_eq!((handshake.path(), handshake.query()), ("/ocpp/a%2Fb", Some("site=7&x=%20")));
    assert_eq!(handshake.protocols(), ["private", "ocpp1.6", "ocpp2.1"]);
    assert_eq!(handshake.headers()["authorization"], *credentials);
    assert_eq!(handshake.headers()["user-agent"], "Wallbox/7");
}

#[tokio::test(start_paused = true)]
async fn b102_server_decides_before_the_station_is_accepted() {
    let upstream = Upstream::deciding(|handshake| {
        Err(match handshake.identity() {
            "unknown" => Reject::not_found().body("who are you?"),
            "busy" => {
                Reject::new(StatusCode::SERVICE_UNAVAILABLE).header(header::RETRY_AFTER, HeaderValue::from_static("77"))
            }
            _ => Reject::unauthorized(),
        })
    });
    let relay = relay(&upstream, all);
    let mut events = relay.events();
    for (identity, status, name, value, body) in [
        ("CP-1", 401, "www-authenticate", "Basic realm=\"ocpp\"", ""),
        ("unknown", 404, "content-type", "text/plain; charset=utf-8", "who are you?"),
        ("busy", 503, "retry-after", "77", ""),
    ] {
        let response = Client::over(dial(&relay)).ask(&offering(&format!("/{identity}"), "ocpp1.6")).await;
        assert_eq!((response.status, response.header(name), &*response.body), (status, value, body));
        let event = events.next().await.expect("an event");
        assert!(matches!(event.kind, EventKind::HandshakeRefused { status: Some(seen), .. } if seen == status));
    }
    assert_eq!(relay.sessions().len(), 0);
}

#[tokio::test(start_paused = true)]
async fn b102_server_that_cannot_be_reached_is_a_bad_gateway() {
    let relay = relay_over(|| Err(io::ErrorKind::ConnectionRefused.into()), Arc::new(all));
    let response = Client::over(dial(&relay)).ask(&offering("/CP-1", "ocpp1.6")).await;
    assert_eq!((response.status, response.header("retry-after")), (502, "10"));
    let upstream = Upstream::new();
    let response = Client::over(dial(&self::relay(&upstream, all))).ask(&offering("/CP-1", "ocpp9")).await;
    assert_eq!((response.status, &*response.body), (400, "no common subprotocol"));
}

#[tokio::test(start_paused = true)]
async fn b102_station_without_protocols_has_the_choice_of_the_server() {
    let upstream = RpcServer::builder(RpcRouter::new().on("Echo", echo)).build().expect("valid settings");
    let relay = relay_over(move || Ok(dial(&upstream)), Arc::new(all));
    let mut client = Client::over(dial(&relay));
    let response = client.ask(&head("/CP-1")).await;
    let mut station = client.upgraded(&response).await;
    assert_eq!((station.protocol.as_deref(), opened(&relay).await.protocol()), (None, None));
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b102_early_messages_of_the_server_wait_for_the_station() {
    let server = RpcServer::builder(RpcRouter::new()).auth(async |_: Handshake| {
        Ok::<_, Reject>(Accept::new().on_open(|session: Session| {
            for n in 0..100 {
                tokio::spawn({
                    let session = session.clone();
                    async move { session.send_raw(format!("early {n}")).await }
                });
            }
        }))
    });
    let server = server.build().expect("valid settings");
    let relay = relay_over(move || Ok(dial(&server)), Arc::new(all));
    // The station sends its request, and takes the response only later.
    let mut client = Client::over(dial_with_buffer(&relay, 16));
    client.send(head("/CP-1")).await;
    tokio::time::sleep(8 * SECOND).await;
    assert_eq!(relay.sessions().len(), 0, "the response is still on its way");
    let response = client.answer().await;
    let mut station = client.upgraded(&response).await;
    for n in 0..100 {
        assert_eq!(station.receive().await, format!("early {n}"));
    }
}

#[tokio::test(start_paused = true)]
async fn b102_close_of_either_end_closes_the_other_one_with_it() {
    for (code, reason, passed_on) in [(1000, "bye", 1000), (1012, "restart", 1012), (4321, "", 4321), (1008, "é", 1008)]
    {
        let mut upstream = Upstream::new();
        let relay = relay(&upstream, all);
        let (mut station, session) = connected(&relay, &mut upstream).await;
        // The last messages arrive before the end.
        for n in 0..20 {
            station.send(format!("last {n}")).await;
        }
        station.close(code, reason).await;
        let CloseInfo { code: seen, reason: why, .. } = session.closed().await;
        assert_eq!((seen, &*why), (passed_on, reason));
        for n in 0..20 {
            assert_eq!(upstream.message().await, format!("last {n}"));
        }

        let (mut station, session) = connected(&relay, &mut upstream).await;
        for n in 0..20 {
            session.send_raw(format!("last {n}")).await.expect("written");
        }
        let close = Close::new(code).reason(reason);
        tokio::spawn(async move { session.close(close).await });
        for n in 0..20 {
            assert_eq!(station.receive().await, format!("last {n}"));
        }
        assert_eq!(station.closed().await, (passed_on, reason.to_owned()));
    }
}

#[tokio::test(start_paused = true)]
async fn b102_lost_end_closes_the_other_one_with_a_reason() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let (station, session) = connected(&relay, &mut upstream).await;
    opened(&relay).await;
    drop(station);
    let closed = session.closed().await;
    assert_eq!((closed.code, &*closed.reason), (1001, "the station is gone: remote"));

    let (mut station, session) = connected(&relay, &mut upstream).await;
    let relayed = opened(&relay).await;
    session.close(Close::forced()).await;
    assert_eq!(station.closed().await, (1001, "the server is gone: remote".to_owned()));
    assert_eq!(relayed.closed().await.cause, CloseCause::Local);
}

#[tokio::test(start_paused = true)]
async fn b102_station_that_leaves_before_it_is_accepted_leaves_no_connection() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let mut client = Client::over(dial_with_buffer(&relay, 16));
    client.send(offering("/CP-1", "ocpp2.1")).await;
    let session = upstream.session().await;
    session.send_raw("early").await.expect("written");
    drop(client);
    assert_eq!(session.closed().await.code, 1000);
}

#[tokio::test(start_paused = true)]
async fn b102_filter_drops_and_changes_messages_of_either_end() {
    fn filter<'a>(identity: &str, sender: Sender, message: &'a str) -> Option<Cow<'a, str>> {
        assert_eq!(identity, "CP-1");
        match sender {
            Sender::Station if message.contains("Diagnostics") => None,
            Sender::Station => Some(message.replace("tag-1", "tag-2").into()),
            Sender::Server if message.contains("Reset") => None,
            Sender::Server => Some(message.replace("Accepted", "Blocked").into()),
        }
    }
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, filter);
    let (mut station, session) = connected(&relay, &mut upstream).await;
    for text in [r#"[2,"1","Diagnostics",{}]"#, r#"[2,"2","Authorize",{"idTag":"tag-1"}]"#] {
        station.send(text).await;
    }
    assert_eq!(upstream.message().await, r#"[2,"2","Authorize",{"idTag":"tag-2"}]"#);
    for text in [r#"[2,"3","Reset",{}]"#, r#"[3,"2",{"status":"Accepted"}]"#] {
        session.send_raw(text).await.expect("written");
    }
    assert_eq!(station.receive().await, r#"[3,"2",{"status":"Blocked"}]"#);
}

#[tokio::test(start_paused = true)]
async fn b102_slow_end_slows_the_other_one_and_loses_nothing() {
    async fn take(_: RawMessage, State(gate): State<Arc<Semaphore>>) -> Result<(), Infallible> {
        gate.acquire().await.expect("open").forget();
        Ok(())
    }
    let gate = Arc::new(Semaphore::new(0));
    let server = RpcServer::builder(RpcRouter::with_state(gate.clone()).raw(take)).build().expect("valid settings");
    let mut events = server.events();
    let relay = relay_over(move || Ok(dial(&server)), Arc::new(all));
    let mut station = Station::connect(&relay, "CP-1", "").await;
    let (done, mut sent_all) = oneshot::channel();
    // 20 MB, far more than any buffer.
    let sending = tokio::spawn(async move {
        for n in 0..200 {
            station.send(format!("{n} {}", "x".repeat(100_000))).await;
        }
        _ = done.send(());
        station
    });
    // Ping timeouts are shorter.
    tokio::time::sleep(600 * SECOND).await;
    assert!(sent_all.try_recv().is_err(), "the station waits");
    gate.add_permits(200);
    let mut next = 0;
    while next < 200 {
        if let EventKind::Received(text) = events.next().await.expect("an event").kind {
            assert!(text.starts_with(&format!("{next} x")), "{:?}", &text[..9]);
            next += 1;
        }
    }
    let mut station = sending.await.expect("no panic");
    station.close(1000, "").await;
}

// Raw messages.

#[tokio::test(start_paused = true)]
async fn b102_session_with_raw_messages_makes_calls_of_its_own() {
    let mut upstream = Upstream::new();
    let relay = relay(&upstream, all);
    let (mut station, _session) = connected(&relay, &mut upstream).await;
    let session = opened(&relay).await;
    let own = session.clone();
    let call = tokio::spawn(async move { own.call::<Value>("GetConfiguration", &()).await });
    let (id, _) = station.receive_call().await;
    // A response with another id is for the server.
    station.send(r#"[3,"1",{}]"#).await;
    assert_eq!(upstream.message().await, r#"[3,"1",{}]"#);
    station.send(format!(r#"[3,"{id}",{{"unknownKey":[]}}]"#)).await;
    assert_eq!(call.await.expect("no panic").expect("a result"), json!({"unknownKey": []}));
    // The server does not get a response that comes too late, and knows nothing of its call.
    let rejected = session.call::<Value>("Reset", &()).id("own").timeout(SECOND);
    let late = tokio::spawn(rejected);
    assert_eq!(station.receive_call().await.0, "own");
    station.send(r#"[4,"own","NotSupported","",{}]"#).await;
    assert!(matches!(late.await.expect("no panic"), Err(Error::Rejected(_))));
    let late = session.call::<Value>("Reset", &()).timeout(SECOND).await.expect_err("a timeout");
    assert!(late.is_timeout());
    let (id, _) = station.receive_call().await;
    for text in [&*format!(r#"[3,"{id}",{{}}]"#), "next"] {
        station.send(text).await;
    }
    assert_eq!(upstream.message().await, "next");
}

#[tokio::test(start_paused = true)]
async fn b102_handler_of_raw_messages_awaits_its_own_call() {
    async fn ask(
        _: RawMessage,
        session: Session,
        State(seen): State<mpsc::UnboundedSender<Value>>,
    ) -> Result<(), Error> {
        _ = seen.send(session.call("Ask", &()).await?);
        Ok(())
    }
    let (sender, mut seen) = mpsc::unbounded_channel();
    let server = RpcServer::builder(RpcRouter::with_state(sender).raw(ask)).build().expect("valid settings");
    let mut station = Station::connect(&server, "CP-1", "").await;
    for text in ["one", "two", "three"] {
        station.send(text).await;
    }
    for n in 0..3 {
        let (id, _) = station.receive_call().await;
        station.send(format!(r#"[3,"{id}",{{"n":{n}}}]"#)).await;
        assert_eq!(seen.recv().await, Some(json!({"n": n})));
    }
}

#[tokio::test(start_paused = true)]
async fn b102_raw_messages_are_events_and_no_bad_messages() {
    async fn ignore(_: RawMessage) -> Result<(), Infallible> {
        Ok(())
    }
    let options = Options::server().max_bad_messages(0);
    let server = RpcServer::builder(RpcRouter::new().raw(ignore)).options(options).build().expect("valid settings");
    let mut events = server.events();
    let mut station = Station::connect(&server, "CP-1", "").await;
    let session = opened(&server).await;
    for text in ["bad", r#"[2,"1","Reset",{}]"#, r#"[4,"2","Teapot","",{}]"#] {
        station.send(text).await;
    }
    session.send_raw("bad").await.expect("written");
    session.send_raw(r#"[3,"1",{"status":"Accepted"}]"#).await.expect("written");
    station.close(1000, "").await;
    let mut seen = Vec::new();
    loop {
        match events.next().await.expect("an event").kind {
            EventKind::Received(text) => seen.push(format!("received {text}")),
            EventKind::Sent(text) => seen.push(format!("sent {text}")),
            EventKind::Call { direction: Direction::In, action, .. } => seen.push(format!("call of {action}")),
            EventKind::CallError { direction: Direction::In, error, .. } => seen.push(error.to_string()),
            EventKind::CallResult { direction: Direction::Out, id, .. } => seen.push(format!("result of {id}")),
            EventKind::Closed(_) => break,
            EventKind::BadMessage { .. } | EventKind::CallEnded { .. } | EventKind::UnmatchedResponse(_) => {
                panic!("not of a raw message")
            }
            _ => {}
        }
    }
    seen.sort_unstable();
    assert_eq!(
        seen,
        [
            "Teapot",
            "call of Reset",
            "received [2,\"1\",\"Reset\",{}]",
            "received [4,\"2\",\"Teapot\",\"\",{}]",
            "received bad",
            "result of 1",
            "sent [3,\"1\",{\"status\":\"Accepted\"}]",
            "sent bad",
        ]
    );
    assert_eq!(session.errors(), 1);
}

#[tokio::test(start_paused = true)]
async fn b102_router_for_raw_messages_can_be_set_later_and_removed() {
    async fn answer(_: RawMessage, session: Session) -> Result<(), Error> {
        session.send_raw("raw").await
    }
    let router = RpcRouter::new().on("Echo", echo);
    let server = RpcServer::builder(router.clone()).build().expect("valid settings");
    let mut station = Station::connect(&server, "CP-1", "").await;
    let session = opened(&server).await;
    let call = r#"[2,"1","Echo",{}]"#;
    assert_eq!(station.ask(call).await, r#"[3,"1",{}]"#);
    session.set_router(router.clone().merge(RpcRouter::new().raw(answer)));
    assert_eq!(station.ask(call).await, "raw");
    session.set_router(router);
    assert_eq!(station.ask(call).await, r#"[3,"1",{}]"#);
}

#[tokio::test(start_paused = true)]
async fn b102_stuck_handlers_of_raw_messages_are_limited() {
    async fn never(_: RawMessage) -> Result<(), Infallible> {
        std::future::pending().await
    }
    let options = Options::server().handler_concurrency(1);
    let server = RpcServer::builder(RpcRouter::new().raw(never)).options(options).build().expect("valid settings");
    for _ in 0..2 {
        let mut station = Station::connect(&server, "CP-1", "").await;
        let session = opened(&server).await;
        station.send("stuck").await;
        drop(station);
        session.close(Close::normal()).await;
    }
    let mut station = Station::connect(&server, "CP-1", "").await;
    station.send("one more").await;
    let closed = timeout(60 * SECOND, station.closed()).await.expect("closed");
    assert_eq!(closed.0, 1008, "{}", closed.1);
}

#[test]
#[should_panic(expected = "the router of \"ocpp1.6\" has a handler of raw messages")]
fn b102_router_of_one_protocol_takes_no_raw_messages() {
    async fn raw() -> Result<(), Infallible> {
        Ok(())
    }
    let _ = RpcRouter::new().protocol("ocpp1.6", RpcRouter::new().raw(raw));
}

#[test]
#[should_panic(expected = "the router has a handler of raw messages already")]
fn second_handler_of_raw_messages_panics() {
    async fn ignore(_: RawMessage) -> Result<(), Infallible> {
        Ok(())
    }
    let _ = RpcRouter::new().raw(ignore).merge(RpcRouter::new().raw(ignore));
}

// Sessions that open.

#[tokio::test(start_paused = true)]
async fn b102_function_gets_the_session_before_its_first_message() {
    async fn boot(State(order): State<mpsc::UnboundedSender<String>>) -> Result<(), Infallible> {
        _ = order.send("boot".to_owned());
        Ok(())
    }
    let (sender, mut order) = mpsc::unbounded_channel();
    let opens = sender.clone();
    let server = RpcServer::builder(RpcRouter::with_state(sender).on("Boot", boot)).auth(move |_: Handshake| {
        let opens = opens.clone();
        async move {
            Ok::<_, Reject>(Accept::new().on_open(move |session: Session| {
                _ = opens.send(format!("{} opened", session.identity()));
                panic!("the session goes on");
            }))
        }
    });
    let server = server.build().expect("valid settings");
    let mut station = Station::connect(&server, "CP-1", "").await;
    assert_eq!(station.ask(r#"[2,"1","Boot",{}]"#).await, r#"[3,"1",{}]"#);
    assert_eq!(order.recv().await.as_deref(), Some("CP-1 opened"));
    assert_eq!(order.recv().await.as_deref(), Some("boot"));
}

#[tokio::test(start_paused = true)]
async fn b102_function_is_dropped_if_the_session_does_not_open() {
    let (sender, mut dropped) = mpsc::channel::<Infallible>(1);
    let server = RpcServer::builder(RpcRouter::new()).auth(move |_: Handshake| {
        let sender = sender.clone();
        async move { Ok::<_, Reject>(Accept::new().on_open(move |_| drop(sender.clone()))) }
    });
    let server = server.build().expect("valid settings");
    let mut client = Client::over(dial_with_buffer(&server, 16));
    client.send(head("/CP-1")).await;
    drop((client, server));
    let begun = Instant::now();
    assert!(dropped.recv().await.is_none());
    assert!(begun.elapsed() < Duration::from_secs(60));
}
