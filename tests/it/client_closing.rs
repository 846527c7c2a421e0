//! The close of a client.

use std::sync::Arc;

use futures_util::SinkExt;
use ocpp_rpc::{
    CallError, Close, Error, RpcRouter,
    client::{ClientState, ConnectError},
    close::CloseCause,
    event::EventKind,
    extract::State,
};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, sync::Semaphore, time::Instant};
use tokio_tungstenite::tungstenite::Message;

use crate::{
    csms::{becomes, client, connected, connected_once, connecting, reconnect},
    support::{SECOND, echo},
};

#[tokio::test(start_paused = true)]
async fn b56_close_takes_effect_in_every_state() {
    // Never connected.
    let (builder, _dials) = client();
    let idle = builder.build().expect("valid settings");
    assert_eq!(idle.close(Close::new(4000)).await.code, 4000);

    // Dialling for the first time.
    let (builder, mut dials) = client();
    let (first, attempt) = connecting(builder);
    let mut stream = dials.next().await;
    let start = Instant::now();
    let closed = first.close(Close::normal()).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "connection aborted", CloseCause::Local));
    assert!(matches!(attempt.await.expect("no panic"), Err(ConnectError::Aborted)));
    let mut head = Vec::new();
    stream.read_to_end(&mut head).await.expect("the end of the stream");

    // Waiting to reconnect, and dialling again.
    for dialling in [false, true] {
        let (client, mut dials) = connected_once(reconnect()).await;
        becomes(&client, ClientState::Connecting).await;
        let _stream = if dialling { Some(dials.next().await) } else { None };
        let start = Instant::now();
        let waiting = tokio::spawn(client.call::<Value>("Waiting", &()));
        tokio::task::yield_now().await;
        let closed = client.close(Close::new(1000).reason("enough").drain(30 * SECOND)).await;
        assert_eq!((closed.code, &*closed.reason), (1000, "enough"));
        assert_eq!(start.elapsed().as_secs(), 0);
        assert!(waiting.await.expect("no panic").expect_err("closed").is_retryable());
        assert!(dials.none());
    }
    assert!(start.elapsed() < 5 * SECOND);
}

#[tokio::test]
async fn b51_client_close_is_seen_at_both_ends() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let (ours, theirs) = tokio::join!(client.close(Close::new(3001).reason("moving")), async {
        let seen = csms.closed().await;
        // The server must close the stream first (RFC 6455 §7.1.1).
        drop(csms);
        seen
    });
    assert_eq!(theirs, (3001, "moving".to_owned()));
    assert_eq!((ours.code, &*ours.reason, ours.cause), (3001, "moving", CloseCause::Local));
    assert!(dials.none());
}

#[tokio::test]
async fn b46_dropping_the_last_handle_closes_with_1000() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    let other = client.clone();
    drop(client);
    let call = tokio::spawn(other.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("a response");
    drop(other);
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    while events.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn client_stays_responsive_while_a_silent_server_closes() {
    for forced in [false, true] {
        let (builder, mut dials) = client();
        let (client, mut csms) = connected(builder, &mut dials).await;
        csms.0.send(Message::binary(vec![1])).await.expect("open");
        becomes(&client, ClientState::Connecting).await;
        // The client still waits for the close frame of the server.
        let start = Instant::now();
        let late = client.call::<Value>("Late", &()).total_timeout(SECOND).await;
        assert!(matches!(late, Err(Error::NeverSent)), "{late:?}");
        assert_eq!(start.elapsed().as_secs(), 1);
        if forced {
            client.close(Close::forced()).await;
            assert_eq!(start.elapsed().as_secs(), 1);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn b54_connect_fails_once_close_is_called() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut closing = Box::pin(client.close(Close::normal()));
    assert!(futures_util::poll!(&mut closing).is_pending());
    assert!(matches!(client.connect().await, Err(ConnectError::Closing)));
    let (_, seen) = tokio::join!(closing, async {
        let seen = csms.closed().await;
        drop(csms);
        seen
    });
    assert_eq!(seen.0, 1000);
}

#[tokio::test(start_paused = true)]
async fn connection_lost_during_a_draining_close_is_not_dialled_again() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    let _call = tokio::spawn(client.call::<Value>("Any", &()));
    csms.receive_call("Any").await;
    let mut closing = Box::pin(client.close(Close::normal().drain(30 * SECOND)));
    assert!(futures_util::poll!(&mut closing).is_pending());
    becomes(&client, ClientState::Closing).await;
    drop(csms);
    let closed = closing.await;
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::Remote));
    drop(client);
    while let Some(event) = events.next().await {
        assert!(!matches!(event.kind, EventKind::Disconnected(_) | EventKind::Connecting), "{:?}", event.kind);
    }
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b47_draining_close_waits_for_responses_kept_over_reconnect() {
    async fn wait(State(gate): State<Arc<Semaphore>>) -> Result<Value, CallError> {
        gate.acquire().await.map_err(CallError::internal)?.forget();
        Ok(json!({"late": true}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let (builder, mut dials) = client();
    let router = RpcRouter::with_state(gate.clone()).on("Wait", wait).on("Echo", echo);
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    csms.send(json!([2, "1", "Wait", {}])).await;
    csms.send(json!([2, "2", "Echo", {}])).await;
    csms.receive().await;
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    let closing = tokio::spawn(async move { client.close(Close::normal().drain(30 * SECOND)).await });
    csms.send(json!([2, "3", "Echo", {}])).await;
    assert_eq!(csms.receive().await, json!([3, "3", {}]));
    gate.add_permits(1);
    assert_eq!(csms.receive().await, json!([3, "1", {"late": true}]));
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    closing.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn events_of_a_closed_client_end_when_it_is_dropped() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    drop(client);
    while events.next().await.is_some() {}
}
