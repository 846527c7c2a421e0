//! Tests of a backend with stations in memory.

use std::time::Duration;

use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, Handshake, Options, Reject, RpcRouter, RpcServer, close::CloseCause,
    extract::Params,
};
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::testing::{Reading, Station};

const SECOND: Duration = Duration::from_secs(1);

async fn echo(Params(params): Params<Value>) -> Result<Value, CallError> {
    Ok(params)
}

fn server(options: Options) -> RpcServer {
    RpcServer::builder(RpcRouter::new().on("Echo", echo))
        .protocols(["ocpp1.6"])
        .options(options)
        .build()
        .expect("valid")
}

async fn connected(options: Options) -> (RpcServer, Station) {
    let server = server(options);
    let station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    (server, station)
}

#[tokio::test(start_paused = true)]
async fn station_calls_and_responds_as_the_test_wants() {
    let (server, mut station) = connected(Options::server()).await;
    assert_eq!(station.call::<Value>("Echo", json!({"a": 1})).await.expect("a response"), json!({"a": 1}));
    let session = server.session("CP-1").expect("connected");
    let backend = tokio::spawn(async move {
        let accepted = session.call::<Value>("Reset", &json!({"type": "Soft"})).await;
        let rejected = session.call::<Value>("Reset", &json!({"type": "Hard"})).await;
        let ignored = session.call::<Value>("ClearCache", &()).timeout(SECOND).await;
        (accepted, rejected, ignored)
    });
    let reset = station.expect_call("Reset").await;
    assert_eq!(reset.params["type"], "Soft");
    reset.respond(json!({"status": "Accepted"}));
    station.next_call().await.reject(CallError::new(ErrorCode::NOT_SUPPORTED, "no"));
    drop(station.expect_call("ClearCache").await);
    let (accepted, rejected, ignored) = backend.await.expect("no panic");
    assert_eq!(accepted.expect("a response"), json!({"status": "Accepted"}));
    assert!(matches!(rejected, Err(Error::Rejected(_))), "{rejected:?}");
    assert!(matches!(ignored, Err(Error::Timeout)), "{ignored:?}");
}

#[tokio::test(start_paused = true)]
async fn station_sees_every_text_and_silence() {
    let (server, mut station) = connected(Options::server().ping_interval(None)).await;
    station.expect_silence(3600 * SECOND).await;
    let session = server.session("CP-1").expect("connected");
    let _call = tokio::spawn(session.call::<Value>("Reset", &()));
    assert!(station.next_text().await.contains("\"Reset\""));
}

#[tokio::test(start_paused = true)]
#[should_panic(expected = "the connection is closed")]
async fn connection_that_is_lost_is_not_silent() {
    let (_server, mut station) = connected(Options::server()).await;
    station.drop_link();
    station.expect_silence(SECOND).await;
}

#[tokio::test(start_paused = true)]
async fn station_sends_any_text() {
    let (_server, mut station) = connected(Options::server()).await;
    station.send_raw(r#"[2,"mine","Echo",{"a":1}]"#).await.expect("open");
    assert_eq!(station.next_text().await, r#"[3,"mine",{"a":1}]"#);
    station.send_raw(r#"[2,"broken","Echo""#).await.expect("open");
    let response = station.next_text().await;
    assert!(response.starts_with("[4,"), "{response}");
}

#[tokio::test(start_paused = true)]
async fn dropped_link_ends_both_ends_without_a_close_frame() {
    let (server, station) = connected(Options::server()).await;
    let session = server.session("CP-1").expect("connected");
    station.drop_link();
    assert_eq!(session.closed().await.code, 1006);
    assert_eq!(station.closed().await.code, 1006);
    assert!(server.session("CP-1").is_none());
}

#[tokio::test(start_paused = true)]
async fn station_that_does_not_read_is_dropped() {
    let (server, station) = connected(Options::server().max_unsent(100_000)).await;
    let session = server.session("CP-1").expect("connected");
    station.set_reading(Reading::Nothing);
    let large = json!({"text": "x".repeat(60_000)});
    let closed = session.closed();
    let calls = async {
        while session.is_open() {
            let _ = session.call::<Value>("DataTransfer", &large).timeout(SECOND).await;
        }
    };
    assert_eq!(tokio::join!(closed, calls).0.cause, CloseCause::NotReading);
}

#[tokio::test(start_paused = true)]
async fn slow_reader_gets_its_response_late() {
    let (_server, station) = connected(Options::server()).await;
    station.set_reading(Reading::Slowly { bytes: 100, interval: SECOND });
    let started = Instant::now();
    let large = json!({"text": "x".repeat(2000)});
    assert_eq!(station.call::<Value>("Echo", &large).await.expect("a response"), large);
    assert_eq!(started.elapsed().as_secs(), 21);
    assert_eq!(station.close(Close::normal()).await.code, 1000);
}

#[tokio::test(start_paused = true)]
async fn station_that_is_refused_gets_an_error() {
    let refuse = async |_: Handshake| Err(Reject::unauthorized());
    let server = RpcServer::builder(RpcRouter::new()).auth(refuse).build().expect("valid");
    let error = Station::try_connect(&server, "CP-1", "ocpp1.6").await.expect_err("refused");
    assert_eq!(error.status().expect("a status"), 401);
}
