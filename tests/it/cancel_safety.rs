//! Futures that are dropped before they complete.

use std::{convert::Infallible, pin::pin, sync::Arc};

use futures_util::{FutureExt, poll};
use ocpp_rpc::{
    CallError, Close, RpcRouter,
    client::ClientState,
    event::EventKind,
    extract::{Responder, State},
    handler::NoResponse,
    server::ConnectionInfo,
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpStream, sync::Notify, time::timeout};

use crate::{
    csms::{self, becomes, client, reconnect},
    support::{NextNow, SECOND, Station, connected, dial, echo, gated, server},
    tcp::{Client, head, offering, soon},
};

#[tokio::test(start_paused = true)]
async fn b62_dropped_connect_leaves_the_attempt_running() {
    let (builder, mut dials) = client();
    let client = builder.build().expect("valid settings");
    {
        let unpolled = client.connect();
        drop(unpolled);
        assert_eq!(client.state(), ClientState::Closed);
        let mut attempt = pin!(client.connect());
        assert!(poll!(&mut attempt).is_pending());
    }
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    let (response, ()) = tokio::join!(client.call::<Value>("Any", &()), csms.answer("Any"));
    response.expect("a response");

    // The same holds when the dropped future has joined an attempt to reconnect.
    drop(csms);
    becomes(&client, ClientState::Connecting).await;
    assert!(timeout(SECOND / 2, client.connect()).await.is_err());
    let _csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
}

#[tokio::test(start_paused = true)]
async fn b62_dropped_builder_connect_drops_the_client() {
    let (builder, mut dials) = client();
    let attempt = builder.reconnect(reconnect().retry_first_connect(true)).connect();
    assert!(timeout(SECOND, attempt).await.is_err());
    let mut head = Vec::new();
    dials.next().await.read_to_end(&mut head).await.expect("the stream is closed");
    tokio::time::sleep(60 * SECOND).await;
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b62_dropped_call_or_send_is_cancelled_at_every_stage() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    // Some are never polled, others once; all are dropped before the task of the connection runs.
    drop(session.call::<Value>("Unpolled", &()));
    drop(session.send("Unpolled", &()));
    assert!(session.call::<Value>("Polled", &()).now_or_never().is_none());
    assert!(session.send("Polled", &()).now_or_never().is_none());
    assert!(session.call::<Value>("Polled", &()).fire_and_forget().now_or_never().is_none());
    station.silent().await;
    // A call in flight: its response is late, and its slot is free.
    let mut written = Box::pin(session.call::<Value>("Written", &()));
    assert!(poll!(&mut written).is_pending());
    let (id, _) = station.receive_call().await;
    drop(written);
    let mut events = server.events();
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    events.expect(|event| matches!(event.kind, EventKind::LateResponse(_)).then_some(())).await;
    let _next = tokio::spawn(session.call::<Value>("Next", &()));
    assert_eq!(station.receive_call().await.1[0], "Next");
}

#[tokio::test(start_paused = true)]
async fn b62_dropped_close_continues_if_it_was_polled() {
    let (router, _gate) = gated();
    let server = server(router);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    drop(session.close(Close::new(3000)));
    assert_eq!(
        station.ask(r#"[2,"1","Echo",{}]"#).await,
        r#"[3,"1",{}]"#,
        "a future that was never polled closes nothing"
    );
    assert!(session.close(Close::new(3001)).now_or_never().is_none());
    assert_eq!(station.closed().await.0, 3001);
    drop(station);
    assert_eq!(session.closed().await.code, 3001);

    // The same holds for a client, also while it waits for pending calls.
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    let mut call = pin!(client.call::<Value>("Any", &()));
    assert!(poll!(&mut call).is_pending());
    assert!(client.close(Close::new(3002).drain(30 * SECOND)).now_or_never().is_none());
    csms.answer("Any").await;
    call.await.expect("a response");
    assert_eq!(csms.closed().await.0, 3002);
    drop(csms);
    becomes(&client, ClientState::Closed).await;
    assert!(matches!(client.closed().now_or_never(), Some(Some(closed)) if closed.code == 3002));
}

#[tokio::test(start_paused = true)]
async fn b62_dropped_closed_future_can_be_replaced_by_another() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    for _ in 0..3 {
        assert!(session.closed().now_or_never().is_none());
        assert!(client.closed().now_or_never().is_none());
    }
    assert_eq!(
        station.ask(r#"[2,"1","Any",{}]"#).await,
        r#"[4,"1","NotImplemented","no handler for Any",{}]"#,
        "the session is still open"
    );
    station.close(1000, "bye").await;
    assert_eq!(session.closed().await.reason, "bye");
    let (closed, _) = tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    assert_eq!(client.closed().await, Some(closed));
}

#[tokio::test]
async fn b62_dropped_event_future_loses_no_event() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let mut seen = Vec::new();
    let mut sent = Vec::new();
    for id in 0..100 {
        // This future is polled and waits.
        assert!(events.next().now_or_never().is_none());
        let text = format!(r#"[2,"{id}","Echo",{{}}]"#);
        let response = station.ask(&text).await;
        sent.extend([text, response]);
        // This future is never polled although an event is ready.
        drop(events.next());
        while let Some(event) = events.next().now_or_never() {
            if let EventKind::Received(text) | EventKind::Sent(text) = event.expect("another event").kind {
                seen.push(text.to_string());
            }
        }
    }
    assert_eq!(seen, sent);
}

#[tokio::test]
async fn b62_dropped_early_response_is_written() {
    async fn unpolled(responder: Responder) -> Result<NoResponse, CallError> {
        drop(responder.send(json!({"early": 1})));
        Ok(NoResponse)
    }
    async fn polled(responder: Responder, State(gate): State<Arc<Notify>>) -> Result<NoResponse, Infallible> {
        assert!(responder.send(json!({"early": 2})).now_or_never().is_none());
        gate.notified().await;
        Ok(NoResponse)
    }
    let gate = Arc::new(Notify::new());
    let server = server(RpcRouter::with_state(gate.clone()).on("Unpolled", unpolled).on("Polled", polled));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Unpolled",{}]"#).await, r#"[3,"1",{"early":1}]"#);
    assert_eq!(station.ask(r#"[2,"2","Polled",{}]"#).await, r#"[3,"2",{"early":2}]"#);
    gate.notify_one();
    assert!(station.ask(r#"[2,"3","Any",{}]"#).await.contains("NotImplemented"));
    assert!(station.ws.next_now().is_none(), "each call has one response");
}

#[tokio::test(start_paused = true)]
async fn b62_dropped_server_close_continues_if_it_was_polled() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    drop(server.close(Close::normal()));
    assert!(!server.is_closing());
    assert_eq!(
        station.ask(r#"[2,"1","Echo",{}]"#).await,
        r#"[3,"1",{}]"#,
        "a future that was never polled closes nothing"
    );
    assert!(server.close(Close::going_away()).now_or_never().is_none());
    assert!(server.is_closing());
    assert_eq!(station.closed().await.0, 1001);
    drop(station);
    let mut late = Client::over(dial(&server));
    assert_eq!(late.ask(&head("/late")).await.status, 503);
    let report = server.close(Close::normal()).await;
    assert_eq!((report.clean, report.forced), (1, 0));
}

#[tokio::test]
async fn b62_dropped_listener_future_closes_the_port() {
    // Before the signal, dropping the future drops the listener: the port is closed, and sessions stay open.
    let server = server(RpcRouter::new().on("Echo", echo));
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    let mut client = Client::dial(address).await;
    let response = client.ask(&offering("/CP", "ocpp1.6")).await;
    let mut station = client.upgraded(&response).await;
    assert!(listener.run_until(std::future::pending()).now_or_never().is_none());
    wait_until_refused(address).await;
    assert!(!server.is_closing());
    assert_eq!(soon(station.ask(r#"[2,"1","Echo",{}]"#)).await, r#"[3,"1",{}]"#);

    // A close that has begun continues.
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    assert!(listener.close(Close::restart()).now_or_never().is_none());
    assert!(server.is_closing());
    assert_eq!(soon(station.closed()).await.0, 1012);
    wait_until_refused(address).await;
}

/// Waits until the port is closed, because the task of the listener must run first.
async fn wait_until_refused(address: std::net::SocketAddr) {
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn b62_session_outlives_the_future_of_its_http_connection() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (near, far) = tokio::io::duplex(4096);
    let serving = tokio::spawn({
        let server = server.clone();
        async move { server.serve_connection(far, ConnectionInfo::new()).await }
    });
    let mut station = Station::open(near, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
    serving.abort();
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);

    // Dropping the future before a session exists drops the connection.
    let (near, far) = tokio::io::duplex(4096);
    assert!(server.serve_connection(far, ConnectionInfo::new()).now_or_never().is_none());
    assert!(Client::over(near).rest().await.is_empty());
}
