//! New settings of a running client, and its explicit reconnect.

use http::{HeaderMap, HeaderValue};
use ocpp_rpc::{
    Close, Error, Options, RpcClient, RpcRouter, RpcServer,
    client::{Backoff, ClientState, ConnectError, RpcClientBuilder},
    close::CloseCause,
    event::EventKind,
};
use serde_json::{Value, json};
use tokio::{task::JoinHandle, time::Instant};

use crate::{
    csms::{Csms, accept, becomes, client, connected, connected_once, connecting, reconnect},
    support::{self, SECOND, Station, gated},
};

/// Asks for a reconnect in a spawned task, and lets the client begin with it.
async fn reconnecting(client: &RpcClient) -> JoinHandle<Result<(), ConnectError>> {
    let client = client.clone();
    let reconnect = tokio::spawn(async move { client.reconnect().await });
    tokio::task::yield_now().await;
    reconnect
}

async fn is_working(client: &RpcClient, csms: &mut Csms) {
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("a response");
}

#[tokio::test(start_paused = true)]
async fn b66_new_settings_apply_from_the_next_connection() {
    let (builder, mut dials) = client();
    let builder = builder
        .password("old")
        .query("old", "1")
        .header("x-old".parse().expect("a name"), HeaderValue::from_static("1"));
    let (client, mut csms) = connected(builder, &mut dials).await;
    let headers = HeaderMap::from_iter([("x-new".parse().expect("a name"), HeaderValue::from_static("2"))]);
    let change = |settings: RpcClientBuilder| {
        let settings = settings.endpoint("ws://elsewhere.test:8080/other?a=b").raw_query("new=%32");
        settings.password("new").headers(headers).connect_timeout(7 * SECOND)
    };
    client.update(change).expect("valid settings");
    // The open connection stays.
    is_working(&client, &mut csms).await;
    assert!(dials.none());
    drop(csms);
    let (head, stream) = dials.head().await;
    assert!(head.starts_with("GET /other/CP-1?a=b&new=%32 HTTP/1.1\r\n"), "{head}");
    for line in ["Host: elsewhere.test:8080", "Authorization: Basic Q1AtMTpuZXc=", "x-new: 2"] {
        assert!(head.contains(&format!("\r\n{line}\r\n")), "{line}: {head}");
    }
    assert!(!head.contains("old"), "{head}");

    // A change while the client dials is for the attempt after that.
    client.update(RpcClientBuilder::without_password).expect("valid settings");
    let start = Instant::now();
    let (head, _stream) = dials.head().await;
    assert!(!head.contains("Authorization"), "{head}");
    // The new connect timeout and the wait of the back-off.
    assert_eq!(start.elapsed().as_secs(), 7 + 2);
    drop(stream);
}

#[tokio::test(start_paused = true)]
async fn b66_invalid_settings_change_nothing() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder.password("old"), &mut dials).await;
    type Change = fn(RpcClientBuilder) -> RpcClientBuilder;
    let changes: [Change; 7] = [
        |settings| settings.password("new").endpoint("http://csms.test"),
        |settings| settings.password("new").protocols(["a b"]),
        |settings| settings.password("new").raw_query("a b"),
        |settings| settings.password("new").connect_timeout(std::time::Duration::ZERO),
        |settings| settings.password("new").options(Options::client().call_concurrency(0)),
        |settings| settings.password("new").header(http::header::HOST, HeaderValue::from_static("x")),
        |settings| {
            let zero = Backoff::exponential().min(std::time::Duration::ZERO);
            settings.password("new").reconnect(reconnect().backoff(zero))
        },
    ];
    for (at, change) in changes.into_iter().enumerate() {
        assert!(client.update(change).is_err(), "change {at}");
    }
    is_working(&client, &mut csms).await;
    drop(csms);
    let (head, _stream) = dials.head().await;
    // CP-1:old
    assert!(head.starts_with("GET /ocpp/CP-1 ") && head.contains("Authorization: Basic Q1AtMTpvbGQ=\r\n"), "{head}");
}

#[tokio::test(start_paused = true)]
async fn b66_reconnect_keeps_queue_handlers_and_events() {
    let (router, gate) = gated();
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    let mut events = client.events();
    csms.send(json!([2, "1", "Wait", {}])).await;
    let in_flight = tokio::spawn(client.call::<Value>("InFlight", &()));
    csms.receive_call("InFlight").await;
    let queued = tokio::spawn(client.call::<Value>("Queued", &()));
    tokio::task::yield_now().await;
    client.update(|settings| settings.password("new")).expect("valid settings");
    tokio::time::sleep(SECOND).await;
    let start = Instant::now();
    let reconnected = reconnecting(&client).await;
    assert_eq!(csms.closed().await, (1000, "reconnecting".to_owned()));
    drop(csms);
    let lost = in_flight.await.expect("no panic").expect_err("lost");
    assert!(matches!(lost, Error::Disconnected { maybe_delivered: true }), "{lost:?}");

    let stream = dials.next().await;
    assert!(start.elapsed().is_zero(), "the client does not wait");
    assert!(!reconnected.is_finished());
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    reconnected.await.expect("no panic").expect("connected");
    csms.answer("Queued").await;
    queued.await.expect("no panic").expect("a response");
    gate.add_permits(1);
    assert_eq!(csms.receive().await, json!([3, "1", {}]));

    let mut seen = Vec::new();
    while seen.len() < 3 {
        seen.push(match events.next().await.expect("another event").kind {
            EventKind::Connecting => "connecting".to_owned(),
            EventKind::Opened { .. } => "open".to_owned(),
            EventKind::Disconnected(closed) => format!("disconnect {} {}", closed.code, closed.cause),
            EventKind::Closing | EventKind::Closed(_) => "close".to_owned(),
            _ => continue,
        });
    }
    assert_eq!(seen, ["disconnect 1000 local", "connecting", "open"]);
}

#[tokio::test(start_paused = true)]
async fn b66_reconnect_replaces_an_attempt_and_a_wait() {
    // The client waits between two dials.
    let slow = Backoff::exponential().min(300 * SECOND).max(300 * SECOND).jitter(0.0);
    let (client, mut dials) = connected_once(reconnect().backoff(slow)).await;
    becomes(&client, ClientState::Connecting).await;
    tokio::time::sleep(SECOND).await;
    client.update(|settings| settings.password("new")).expect("valid settings");
    let start = Instant::now();
    let first = reconnecting(&client).await;
    let (head, stalled) = dials.head().await;
    assert!(start.elapsed().is_zero());
    assert!(head.contains("Authorization: Basic Q1AtMTpuZXc=\r\n"), "{head}");

    // The client dials, and the server does not respond.
    client.update(|settings| settings.password("newer")).expect("valid settings");
    let second = reconnecting(&client).await;
    let (head, _stream) = dials.head().await;
    assert_eq!(start.elapsed(), SECOND / 10, "no two dials without a wait");
    assert!(head.contains("Authorization: Basic Q1AtMTpuZXdlcg==\r\n"), "{head}");
    drop(stalled);

    let third = reconnecting(&client).await;
    let _csms = dials.accept("ocpp1.6").await;
    for reconnect in [first, second, third] {
        reconnect.await.expect("no panic").expect("connected");
    }
}

#[tokio::test(start_paused = true)]
async fn b57_explicit_reconnects_do_not_flood_the_server() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder, &mut dials).await;
    let _flood = tokio::spawn(async move {
        loop {
            let _ = client.reconnect().await;
        }
    });
    drop(csms);
    let mut count = 0;
    let accepting = async {
        loop {
            dials.accept("ocpp1.6").await.closed().await;
            count += 1;
        }
    };
    let _ = tokio::time::timeout(10 * SECOND, accepting).await;
    assert!((50..=101).contains(&count), "{count}");
}

#[tokio::test(start_paused = true)]
async fn b66_reconnect_fails_if_no_connection_will_follow() {
    // The client was never connected: the reconnect is its first connect.
    let (builder, mut dials) = client();
    let client = builder.build().expect("valid settings");
    let first = reconnecting(&client).await;
    drop(dials.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await);
    assert!(first.await.expect("no panic").expect_err("refused").is_refused());

    // The first connect starts anew, and is refused.
    let (builder, mut dials) = self::client();
    let (client, attempt) = connecting(builder);
    let stalled = dials.next().await;
    let again = reconnecting(&client).await;
    drop(dials.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await);
    assert!(again.await.expect("no panic").expect_err("refused").is_refused());
    assert!(attempt.await.expect("no panic").expect_err("refused").is_refused());
    drop(stalled);

    // The client gives up, and is closed.
    for gives_up in [true, false] {
        let (builder, mut dials) = self::client();
        let (client, csms) = connected(builder.reconnect(reconnect().attempts(0)), &mut dials).await;
        let reconnected = reconnecting(&client).await;
        drop(csms);
        if gives_up {
            drop(dials.next().await);
        } else {
            let _stalled = dials.next().await;
            client.close(Close::normal()).await;
        }
        assert!(matches!(reconnected.await.expect("no panic"), Err(ConnectError::Aborted)));
        assert_eq!(client.state(), ClientState::Closed);
        assert!(dials.none());
    }

    // The client is closing.
    let (builder, mut dials) = self::client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let pending = tokio::spawn(client.call::<Value>("Pending", &()));
    let id = csms.receive_call("Pending").await;
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(Close::normal().drain(30 * SECOND)).await }
    });
    becomes(&client, ClientState::Closing).await;
    assert!(matches!(client.reconnect().await, Err(ConnectError::Closing)));
    csms.send(json!([3, id, {}])).await;
    pending.await.expect("no panic").expect("a response");
    csms.closed().await;
    drop(csms);
    assert_eq!(closing.await.expect("no panic").cause, CloseCause::Local);
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b66_handler_can_wait_for_a_reconnect() {
    use ocpp_rpc::extract::{Responder, State};
    use std::sync::{Arc, OnceLock};

    type Own = Arc<OnceLock<RpcClient>>;
    async fn change(responder: Responder, State(client): State<Own>) -> Result<ocpp_rpc::handler::NoResponse, Error> {
        let client = client.get().expect("set");
        responder.send(json!({"status": "Accepted"})).await?;
        client.update(|settings| settings.password("new")).expect("valid settings");
        client.reconnect().await.expect("connected");
        client.call::<Value>("Done", &()).await?;
        Ok(ocpp_rpc::handler::NoResponse)
    }
    let own = Own::default();
    let (builder, mut dials) = client();
    let router = RpcRouter::with_state(own.clone()).on("ChangeConfiguration", change);
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    own.set(client).expect("once");
    csms.send(json!([2, "1", "ChangeConfiguration", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "1", {"status": "Accepted"}]));
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    csms.answer("Done").await;
}

#[tokio::test(start_paused = true)]
async fn b66_new_protocols_replace_that_of_the_first_connection() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder, &mut dials).await;
    let send_at_once = client.session().send("Notify", &()).await;
    assert!(matches!(send_at_once, Err(Error::SendNotSupported)));
    client.update(|settings| settings.protocols(["ocpp2.1", "ocpp1.6"])).expect("valid settings");
    assert_eq!(client.session().protocol().as_deref(), Some("ocpp1.6"), "the open connection stays");
    drop(csms);
    let (head, stream) = dials.head().await;
    assert!(head.contains("\r\nSec-WebSocket-Protocol: ocpp2.1, ocpp1.6\r\n"), "{head}");
    drop(stream);
    let mut csms = dials.accept("ocpp2.1").await;
    becomes(&client, ClientState::Open).await;
    assert_eq!(client.session().protocol().as_deref(), Some("ocpp2.1"));
    client.session().send("Notify", &()).await.expect("sent");
    assert_eq!(csms.receive().await[0], 6);
    // The new protocol is settled, and other settings do not change that.
    client.update(|settings| settings.password("new")).expect("valid settings");
    drop(csms);
    let (head, stream) = dials.head().await;
    assert!(head.contains("\r\nSec-WebSocket-Protocol: ocpp2.1\r\n"), "{head}");

    // What waits is checked for the protocol that follows.
    let call = tokio::spawn(client.call::<Value>("Waiting", &()));
    let send = tokio::spawn(client.session().send("Notify", &()));
    tokio::task::yield_now().await;
    client.update(|settings| settings.protocols(["ocpp1.6"])).expect("valid settings");
    drop(stream);
    let mut csms = dials.accept("ocpp1.6").await;
    assert!(matches!(send.await.expect("no panic"), Err(Error::SendNotSupported)));
    csms.answer("Waiting").await;
    call.await.expect("no panic").expect("a response");
}

#[tokio::test(start_paused = true)]
async fn b66_dialects_change_with_the_protocols() {
    use ocpp_rpc::message::Dialect;

    let (builder, mut dials) = client();
    let builder = builder.protocols(["acme"]).dialect("acme", Dialect::OCPP_1_6);
    let (client, attempt) = connecting(builder);
    let mut csms = dials.accept("acme").await;
    attempt.await.expect("no panic").expect("connected");
    // 1.6 does not respond to a message without a readable id, 2.0.1 does.
    csms.send(json!([2])).await;
    is_working(&client, &mut csms).await;
    client.update(|settings| settings.dialect("acme", Dialect::OCPP_2_0_1)).expect("valid settings");
    drop(csms);
    let mut csms = dials.accept("acme").await;
    csms.send(json!([2])).await;
    assert_eq!(csms.receive().await[1], "-1");
    // The dialect goes with its protocol.
    client.update(|settings| settings.protocols(["ocpp1.6"])).expect("valid settings");
    assert!(client.update(|settings| settings.dialect("acme", Dialect::OCPP_1_6)).is_err());
}

#[tokio::test(start_paused = true)]
async fn b57_backoff_and_attempts_change_on_a_living_client() {
    let (client, mut dials) = connected_once(reconnect()).await;
    let mut last = Instant::now();
    drop(dials.next().await);
    assert_eq!(last.elapsed().as_secs(), 1);
    last = Instant::now();
    tokio::time::sleep(SECOND).await;
    let steady = Backoff::exponential().min(60 * SECOND).max(60 * SECOND).jitter(0.0);
    client.update(|settings| settings.reconnect(reconnect().backoff(steady.clone()))).expect("valid settings");
    // The wait that has begun is the earlier one.
    for waited in [2, 60, 60] {
        drop(dials.next().await);
        assert_eq!(last.elapsed().as_secs(), waited);
        last = Instant::now();
    }
    client.update(|settings| settings.reconnect(reconnect().backoff(steady).attempts(5))).expect("valid settings");
    drop(dials.next().await);
    let closed = client.closed().await.expect("the client has run");
    assert_eq!(closed.cause, CloseCause::GaveUp);
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b09_options_that_stay_do_not_change_at_a_reconnect() {
    let long = json!([2, "1", "Echo", {"text": "x".repeat(1000)}]);
    let router = || RpcRouter::new().on("Echo", support::echo);
    let small = || Options::client().max_message_size(100);
    // The session leaves its limits as they are, over all connections.
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder.router(router()), &mut dials).await;
    client.session().set_options(small()).expect("valid settings");
    for _ in 0..2 {
        csms.send(long.clone()).await;
        assert_eq!(csms.receive().await[0], 3);
        drop(csms);
        csms = dials.accept("ocpp1.6").await;
    }
    // A new limit of the client is for the next connection.
    client.update(|settings| settings.options(small())).expect("valid settings");
    csms.send(long.clone()).await;
    assert_eq!(csms.receive().await[0], 3);
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    csms.send(long).await;
    assert_eq!(csms.closed().await.0, 1009);
}

#[tokio::test(start_paused = true)]
async fn b09_options_that_stay_do_not_limit_queued_calls() {
    let (router, gate) = gated();
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build().expect("valid settings");
    let (mut station, session) = support::connected(&server, "ocpp1.6").await;
    let options = Options::server().handler_concurrency(1).max_message_size(10);
    session.set_options(options).expect("valid settings");
    for id in ["1", "2", "3"] {
        Station::send(&mut station, json!([2, id, "Wait", {"text": "x".repeat(50)}]).to_string()).await;
    }
    // The server has read them all.
    tokio::time::sleep(SECOND).await;
    gate.add_permits(3);
    for id in ["1", "2", "3"] {
        assert_eq!(station.receive().await, format!(r#"[3,"{id}",{{}}]"#));
    }
}
