//! What is left of every future that is dropped before its end.

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
async fn b62_a_connect_that_is_dropped_leaves_the_attempt_to_go_on() {
    let (builder, mut dials) = client();
    let client = builder.build().expect("sound");
    {
        let unpolled = client.connect();
        drop(unpolled);
        assert_eq!(client.state(), ClientState::Closed);
        let mut attempt = pin!(client.connect());
        assert!(poll!(&mut attempt).is_pending());
    }
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    let (answer, ()) = tokio::join!(client.call::<Value>("Any", &()), csms.answer("Any"));
    answer.expect("an answer");

    // The same where one has joined an attempt to reconnect.
    drop(csms);
    becomes(&client, ClientState::Connecting).await;
    assert!(timeout(SECOND / 2, client.connect()).await.is_err());
    let _csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
}

#[tokio::test(start_paused = true)]
async fn b62_a_builders_connect_that_is_dropped_takes_the_client_with_it() {
    let (builder, mut dials) = client();
    let attempt = builder.reconnect(reconnect().retry_first_connect(true)).connect();
    assert!(timeout(SECOND, attempt).await.is_err());
    let mut head = Vec::new();
    dials.next().await.read_to_end(&mut head).await.expect("the stream is closed");
    tokio::time::sleep(60 * SECOND).await;
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b62_a_call_or_a_send_that_is_dropped_is_taken_back_wherever_it_stands() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp2.1").await;
    // Never polled, and polled once; the second drop comes before the connection's task has run.
    drop(session.call::<Value>("Unpolled", &()));
    drop(session.send("Unpolled", &()));
    assert!(session.call::<Value>("Polled", &()).now_or_never().is_none());
    assert!(session.send("Polled", &()).now_or_never().is_none());
    assert!(session.call::<Value>("Polled", &()).fire_and_forget().now_or_never().is_none());
    station.silent().await;
    // On the wire: its answer comes late, and the place is free.
    let mut written = Box::pin(session.call::<Value>("Written", &()));
    assert!(poll!(&mut written).is_pending());
    let (id, _) = station.receive_call().await;
    drop(written);
    let mut events = server.events();
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    while !matches!(events.next().await.expect("more").kind, EventKind::LateResponse(_)) {}
    let _next = tokio::spawn(session.call::<Value>("Next", &()));
    assert_eq!(station.receive_call().await.1[0], "Next");
}

#[tokio::test(start_paused = true)]
async fn b62_a_close_that_was_polled_once_goes_on_when_it_is_dropped() {
    let (router, _gate) = gated();
    let server = server(router);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    drop(session.close(Close::new(3000)));
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "nothing was wished for yet");
    assert!(session.close(Close::new(3001)).now_or_never().is_none());
    assert_eq!(station.closed().await.0, 3001);
    drop(station);
    assert_eq!(session.closed().await.code, 3001);

    // Of a client's as well, and while it waits for calls.
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    let mut call = pin!(client.call::<Value>("Any", &()));
    assert!(poll!(&mut call).is_pending());
    assert!(client.close(Close::new(3002).drain(30 * SECOND)).now_or_never().is_none());
    csms.answer("Any").await;
    call.await.expect("an answer");
    assert_eq!(csms.closed().await.0, 3002);
    drop(csms);
    becomes(&client, ClientState::Closed).await;
    assert!(matches!(client.closed().now_or_never(), Some(Some(closed)) if closed.code == 3002));
}

#[tokio::test(start_paused = true)]
async fn b62_waiting_for_the_end_may_be_given_up_and_begun_again() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (builder, mut dials) = client();
    let (client, mut csms) = csms::connected(builder, &mut dials).await;
    for _ in 0..3 {
        assert!(session.closed().now_or_never().is_none());
        assert!(client.closed().now_or_never().is_none());
    }
    assert_eq!(station.ask(r#"[2,"1","Any",{}]"#).await, r#"[4,"1","NotImplemented","",{}]"#, "nothing has changed");
    station.close(1000, "bye").await;
    assert_eq!(session.closed().await.reason, "bye");
    let (closed, _) = tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    assert_eq!(client.closed().await, Some(closed));
}

#[tokio::test]
async fn b62_no_event_is_lost_with_a_future_that_is_dropped() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    let mut seen = Vec::new();
    let mut said = Vec::new();
    for id in 0..100 {
        // One that waits, until something else comes.
        assert!(events.next().now_or_never().is_none());
        let text = format!(r#"[2,"{id}","Echo",{{}}]"#);
        let answer = station.ask(&text).await;
        said.extend([text, answer]);
        // One that was never polled, although there is something to read.
        drop(events.next());
        while let Some(event) = events.next().now_or_never() {
            if let EventKind::Received(text) | EventKind::Sent(text) = event.expect("more").kind {
                seen.push(text.to_string());
            }
        }
    }
    assert_eq!(seen, said);
}

#[tokio::test]
async fn b62_an_early_answer_goes_out_although_nobody_waits_for_it_to_be_written() {
    async fn unpolled(answer: Responder) -> Result<NoResponse, CallError> {
        drop(answer.send(json!({"early": 1})));
        Ok(NoResponse)
    }
    async fn polled(answer: Responder, State(go): State<Arc<Notify>>) -> Result<NoResponse, Infallible> {
        assert!(answer.send(json!({"early": 2})).now_or_never().is_none());
        go.notified().await;
        Ok(NoResponse)
    }
    let go = Arc::new(Notify::new());
    let server = server(RpcRouter::with_state(go.clone()).on("Unpolled", unpolled).on("Polled", polled));
    let mut station = Station::connect(&server, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Unpolled",{}]"#).await, r#"[3,"1",{"early":1}]"#);
    assert_eq!(station.ask(r#"[2,"2","Polled",{}]"#).await, r#"[3,"2",{"early":2}]"#);
    go.notify_one();
    assert!(station.ask(r#"[2,"3","Any",{}]"#).await.contains("NotImplemented"));
    assert!(station.ws.next_now().is_none(), "each is answered once");
}

#[tokio::test(start_paused = true)]
async fn b62_a_servers_close_that_was_polled_once_goes_on_when_it_is_dropped() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    drop(server.close(Close::normal()));
    assert!(!server.is_closing());
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#, "nothing was wished for yet");
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
async fn b62_a_listener_whose_end_is_no_longer_waited_for() {
    // Before the signal, dropping it is dropping the listener: the port is closed, sessions live on.
    let server = server(RpcRouter::new().on("Echo", echo));
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    let mut client = Client::dial(address).await;
    let answer = client.ask(&offering("/CP", "ocpp1.6")).await;
    let mut station = client.upgraded(&answer).await;
    assert!(listener.run_until(std::future::pending()).now_or_never().is_none());
    refused(address).await;
    assert!(!server.is_closing());
    assert_eq!(soon(station.ask(r#"[2,"1","Echo",{}]"#)).await, r#"[3,"1",{}]"#);

    // Once it closes, it goes on to do so.
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr();
    assert!(listener.close(Close::restart()).now_or_never().is_none());
    assert!(server.is_closing());
    assert_eq!(soon(station.closed()).await.0, 1012);
    refused(address).await;
}

/// Waits until a port is closed: its task has to run first.
async fn refused(address: std::net::SocketAddr) {
    soon(async { while TcpStream::connect(address).await.is_ok() {} }).await;
}

#[tokio::test]
async fn b62_a_session_outlives_the_future_that_served_its_http_connection() {
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

    // Before there is a session, it takes the connection with it.
    let (near, far) = tokio::io::duplex(4096);
    assert!(server.serve_connection(far, ConnectionInfo::new()).now_or_never().is_none());
    assert!(Client::over(near).rest().await.is_empty());
}
