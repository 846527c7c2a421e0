//! The test kit: stations, servers and single handlers in memory.

use std::panic::AssertUnwindSafe;

use futures_util::FutureExt;
use ocpp_rpc::{
    Accept, CallError, Close, Error, ErrorCode, Handshake, Options, Reject, RpcClient, RpcRouter, RpcServer, Session,
    client::{Backoff, Reconnect},
    close::CloseCause,
    event::EventKind,
    extract::{Extension, State},
    testing::{Csms, Request, Station},
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::support::{SECOND, echo, opened, server, server_with};

#[tokio::test(start_paused = true)]
async fn station_makes_and_receives_calls() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
    let echoed: Value = station.call("Echo", &json!({"a": 1})).await.expect("a response");
    assert_eq!(echoed, json!({"a": 1}));

    let of_server = server.station("CP-1");
    let calls = tokio::spawn(async move {
        let accepted = of_server.call::<Value>("Reset", &json!({"type": "Soft"})).await;
        let rejected = of_server.call::<Value>("Unlock", &json!({})).await;
        let dropped = of_server.call::<Value>("Clear", &json!({})).await;
        of_server.send("Notify", &json!({})).await.expect("written");
        (accepted, rejected, dropped)
    });
    let reset = station.next_call().await;
    assert_eq!((reset.action(), reset.params::<Value>().expect("JSON")), ("Reset", json!({"type": "Soft"})));
    assert!(reset.expects_response() && !reset.id().as_str().is_empty());
    reset.respond(&json!({"status": "Accepted"})).await;
    station.expect_call("Unlock").await.reject(CallError::new(ErrorCode::NOT_SUPPORTED, "no lock")).await;
    drop(station.expect_call("Clear").await);
    let notify = station.expect_call("Notify").await;
    assert!(!notify.expects_response());
    let (accepted, rejected, dropped) = calls.await.expect("no panic");
    assert_eq!(accepted.expect("a response"), json!({"status": "Accepted"}));
    assert!(matches!(rejected, Err(Error::Rejected(error)) if error.code() == &ErrorCode::NOT_SUPPORTED));
    assert!(dropped.is_err_and(|error| error.is_timeout()));
}

#[tokio::test(start_paused = true)]
async fn station_sends_and_receives_texts_unchanged() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.0.1").await;
    station.send_text(r#"[2,"a","Echo",{"x":1.50}]"#).await.expect("written");
    assert_eq!(station.next_text().await, r#"[3,"a",{"x":1.5}]"#);
    station.send_text("no message").await.expect("written");
    assert!(station.next_text().await.starts_with(r#"[4,"-1","#));
}

/// Returns the message of a panic of `future`.
async fn panics(future: impl Future<Output = ()>) -> String {
    let panic = AssertUnwindSafe(future).catch_unwind().await.expect_err("a panic");
    match panic.downcast::<String>() {
        Ok(message) => *message,
        Err(panic) => panic.downcast_ref::<&str>().map(|message| (*message).to_owned()).expect("a message"),
    }
}

#[tokio::test(start_paused = true)]
async fn station_that_expects_silence_gets_only_pings() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let mut station = Station::connect(&server, "CP-1", "ocpp2.1").await;
    let of_server = server.station("CP-1");
    let call = |action| tokio::spawn(of_server.call::<Value>(action, &json!({"a": 1})));
    // These messages have been received. More than the budget of a task, and then pings for an hour.
    for _ in 0..200 {
        station.call::<Value>("Echo", &json!({})).await.expect("a response");
    }
    let reset = call("Reset");
    station.expect_call("Reset").await.respond(&json!({})).await;
    reset.await.expect("no panic").expect("a response");
    station.expect_silence(3600 * SECOND).await;

    let late = async {
        tokio::time::sleep(SECOND).await;
        drop(call("Late"));
    };
    let silence = panics(station.expect_silence(2 * SECOND));
    assert!(tokio::join!(silence, late).0.contains(r#""Late",{"a":1}]"#));
    station.expect_call("Late").await.respond(&json!({})).await;

    // These have come before.
    drop(call("Early"));
    tokio::time::sleep(SECOND).await;
    assert!(panics(station.expect_silence(SECOND)).await.contains(r#"Early has come before: {"a":1}"#));
    station.expect_silence(SECOND).await;
    station.send_text(r#"[2,"mine","Echo",{}]"#).await.expect("written");
    tokio::time::sleep(SECOND).await;
    assert!(panics(station.expect_silence(SECOND)).await.contains(r#"has come before: [3,"mine",{}]"#));

    let pending = station.call::<Value>("Echo", &json!({}));
    assert!(tokio::join!(panics(station.expect_silence(SECOND)), pending).0.starts_with("not silent: [3,"));
    station.disconnect();
    assert_eq!(panics(station.expect_silence(SECOND)).await, "not silent: the connection has ended");
    station.closed().await;
    assert_eq!(panics(station.expect_silence(SECOND)).await, "not silent: the connection has ended");
}

#[tokio::test(start_paused = true)]
async fn station_that_reads_slowly_gets_its_response_late() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let large = json!({"text": "x".repeat(2000)});
    let seconds = async || {
        let started = Instant::now();
        assert_eq!(station.call::<Value>("Echo", &large).await.expect("a response"), large);
        started.elapsed().as_secs()
    };
    station.read_slowly(100, SECOND);
    assert_eq!(seconds().await, 21);
    let resume = async {
        tokio::time::sleep(SECOND / 2).await;
        station.resume_reading();
    };
    assert_eq!(tokio::join!(seconds(), resume).0, 0);
}

#[tokio::test(start_paused = true)]
async fn station_that_does_not_read_reaches_the_limit_of_the_server() {
    let server = server_with(RpcRouter::new(), Options::server().max_unsent(100_000));
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    station.stop_reading();
    let large = json!({"text": "x".repeat(60_000)});
    while session.is_open() {
        session.call::<Value>("DataTransfer", &large).timeout(SECOND).await.expect_err("no response");
    }
    assert_eq!(session.closed().await.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn event_that_is_expected_is_found_or_shown_what_came_instead() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut events, mut others) = (server.events(), server.events());
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.call::<Value>("Echo", &json!({"a": 1})).await.expect("a response");
    assert_eq!(&*opened(&mut events).await.identity(), "CP-1");
    let id = events.expect(|event| if let EventKind::Call { id, .. } = event.kind { Some(id) } else { None }).await;
    let is_written = |kind| matches!(kind, EventKind::ResponseWritten(written) if written == id);
    events.expect(|event| is_written(event.kind).then_some(())).await;

    let started = Instant::now();
    let message = panics(others.expect(|event| matches!(event.kind, EventKind::IdentityConflict).then_some(()))).await;
    assert_eq!(started.elapsed(), 60 * SECOND);
    let expected = "the expected event did not come within 60 s, after these events:
  CP-1: Opened { protocol: ";
    assert!(message.starts_with(expected), "{message}");
    assert!(
        message.contains(
            "
  CP-1: Received([2,"
        ) && message.contains(r#"params: {"a":1}"#),
        "{message}"
    );
    assert_eq!(panics(others.expect(|_| None)).await.lines().count(), 1 + 2, "two pings");
    server.close(Close::forced()).await;
    let message = panics(events.expect(|_| None)).await;
    assert!(message.starts_with("the events have ended without the expected one, after"), "{message}");
}

#[tokio::test(start_paused = true)]
async fn station_that_stops_reading_is_closed_by_the_server() {
    let options = Options::server().ping_interval(10 * SECOND).max_unsent(256 << 10);
    let server = server_with(RpcRouter::new().on("Echo", echo), options);
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    station.stop_reading();
    station.call::<Value>("Echo", &json!({})).timeout(5 * SECOND).await.expect_err("no response is read");
    assert!(session.is_open());
    assert_eq!(session.closed().await.cause, CloseCause::PingTimeout);

    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    station.stop_reading();
    let response = station.call::<Value>("Echo", &json!({"a": 1}));
    let resume = async {
        tokio::time::sleep(SECOND).await;
        station.resume_reading();
    };
    assert_eq!(tokio::join!(response, resume).0.expect("a response"), json!({"a": 1}));
}

#[tokio::test(start_paused = true)]
async fn station_loses_or_closes_its_connection() {
    let server = server(RpcRouter::new());
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    station.disconnect();
    assert_eq!(session.closed().await.code, 1006);
    station.closed().await;

    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    let session = server.session("CP-1").expect("registered");
    station.close(Close::new(4001).reason("maintenance")).await;
    let closed = session.closed().await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (4001, "maintenance", CloseCause::Remote));

    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    server.close(Close::restart()).await;
    assert_eq!(station.closed().await.code, 1012);
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the connection has ended without another call: 1001")]
async fn station_that_waits_for_a_call_fails_when_its_connection_ends() {
    let server = server(RpcRouter::new());
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    tokio::join!(station.next_call(), server.close(Close::going_away()));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "no call of the peer within 60 s")]
async fn station_that_waits_for_a_call_fails_after_a_minute() {
    let server = server(RpcRouter::new());
    Station::connect(&server, "CP-1", "ocpp1.6").await.next_call().await;
}

#[tokio::test]
async fn station_is_authenticated_by_password_path_and_header() {
    async fn accept(handshake: Handshake) -> Result<Accept, Reject> {
        let is_known = handshake.password_is(b"secret")
            && handshake.path() == "/acme/ocpp/CP-1"
            && handshake.headers().contains_key("x-tenant");
        if is_known { Ok(Accept::new()) } else { Err(Reject::unauthorized()) }
    }
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).auth(accept).build().expect("settings");
    let station = || Station::builder(&server, "CP-1").protocols(["ocpp2.0.1", "ocpp1.6"]).path("/acme/ocpp");
    let station = || station().header("x-tenant".parse().expect("a name"), "acme".parse().expect("a value"));
    let accepted = station().password("secret").connect().await.expect("accepted");
    assert_eq!(accepted.session().protocol().as_deref(), Some("ocpp1.6"));
    let refused = station().password("wrong").connect().await.expect_err("refused");
    assert_eq!(refused.status(), Some(http_status(401)));
}

#[tokio::test(start_paused = true)]
async fn csms_receives_and_makes_calls() {
    let mut csms = Csms::new("ocpp2.1");
    let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1").protocols(["ocpp2.1"]).password("secret");
    let client = client.router(RpcRouter::new().on("Echo", echo)).connector(csms.connector());
    let client = client.connect().await.expect("a connection");
    let mut session = csms.next_session().await;
    assert_eq!(session.handshake().password().as_deref(), Some(&b"secret"[..]));
    let boot = client.call::<Value>("BootNotification", &json!({}));
    let respond = async {
        let boot = session.expect_call("BootNotification").await;
        boot.respond(&json!({"status": "Pending"})).await;
    };
    assert_eq!(tokio::join!(boot, respond).0.expect("a response"), json!({"status": "Pending"}));
    assert_eq!(session.call::<Value>("Echo", &json!({"a": 1})).await.expect("a response"), json!({"a": 1}));
    session.expect_silence(3600 * SECOND).await;
    let notify = async {
        tokio::time::sleep(SECOND).await;
        client.session().send("NotifyEvent", &json!({})).await.expect("written");
    };
    let (message, ()) = tokio::join!(panics(session.expect_silence(2 * SECOND)), notify);
    assert!(message.starts_with("not silent: [6,"), "{message}");
    assert!(panics(session.expect_silence(SECOND)).await.contains("NotifyEvent has come before"));
    session.close(Close::normal()).await;
    assert_eq!(session.closed().await.code, 1000);
    assert_eq!(panics(session.expect_silence(SECOND)).await, "not silent: the connection has ended");
}

#[tokio::test(start_paused = true)]
async fn csms_that_is_down_refuses_or_disconnects_makes_the_client_connect_again() {
    let mut csms = Csms::new("ocpp1.6");
    let backoff = Backoff::exponential().min(SECOND).max(SECOND);
    let client = RpcClient::builder("ws://csms.test/ocpp", "CP-1").protocols(["ocpp1.6"]).connector(csms.connector());
    let client = client.reconnect(Reconnect::always().backoff(backoff)).connect().await.expect("a connection");
    let first = csms.next_session().await;

    csms.set_unreachable(true);
    csms.disconnect_all();
    first.closed().await;
    tokio::time::sleep(60 * SECOND).await;
    assert!(csms.next_session().now_or_never().is_none());
    csms.refuse_handshakes(http_status(503));
    csms.set_unreachable(false);
    // The waits after refusals double, and the last of them must be over within a minute.
    tokio::time::sleep(10 * SECOND).await;
    assert!(csms.next_session().now_or_never().is_none());
    csms.refuse_handshakes(None);
    csms.next_session().await;
    client.close(Close::normal()).await;
}

fn http_status(code: u16) -> axum::http::StatusCode {
    code.try_into().expect("a status")
}

#[tokio::test]
async fn request_runs_one_handler_without_a_connection() {
    async fn show(
        session: Session,
        Extension(tenant): Extension<&'static str>,
        State(state): State<u8>,
    ) -> Result<Value, CallError> {
        let called = session.call::<Value>("Reset", &json!({})).await;
        assert!(matches!(called, Err(Error::Closed)), "{called:?}");
        Ok(json!({"seen": [session.identity(), session.protocol(), tenant, state]}))
    }
    let router = RpcRouter::with_state(7).on("Show", show).protocol("ocpp2.1", RpcRouter::new().on("Only", echo));
    let request = || Request::new("Show", &json!({})).identity("CP-9").protocol("ocpp1.6");
    let seen: Value = router.oneshot(request().extension("acme")).await.expect("a result");
    assert_eq!(seen, json!({"seen": ["CP-9", "ocpp1.6", "acme", 7]}));
    let missing = router.oneshot::<Value>(request()).await.expect_err("no extension");
    assert_eq!(missing.code(), &ErrorCode::INTERNAL_ERROR);
    let only = || Request::new("Only", &json!({"a": 1}));
    assert_eq!(router.oneshot::<Value>(only().protocol("ocpp2.1")).await.expect("a result"), json!({"a": 1}));
    let unknown = router.oneshot::<Value>(only()).await.expect_err("of another protocol");
    assert_eq!(unknown.code(), &ErrorCode::NOT_IMPLEMENTED);
}
