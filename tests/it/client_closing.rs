//! The client: how it ends.

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
async fn b56_a_close_is_heard_in_every_state() {
    // Never connected at all.
    let (builder, _dials) = client();
    let idle = builder.build().expect("sound");
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
    stream.read_to_end(&mut head).await.expect("an end");

    // Backing off, and dialling again.
    for dialling in [false, true] {
        let (client, mut dials) = connected_once(reconnect()).await;
        becomes(&client, ClientState::Connecting).await;
        let _stream = match dialling {
            true => Some(dials.next().await),
            false => None,
        };
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
async fn b51_both_sides_see_a_close_of_the_client() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let (ours, theirs) = tokio::join!(client.close(Close::new(3001).reason("moving")), async {
        let seen = csms.closed().await;
        // The server is the one to close the stream (RFC 6455 §7.1.1).
        drop(csms);
        seen
    });
    assert_eq!(theirs, (3001, "moving".to_owned()));
    assert_eq!((ours.code, &*ours.reason, ours.cause), (3001, "moving", CloseCause::Local));
    assert!(dials.none());
}

#[tokio::test]
async fn b46_the_last_handle_takes_the_connection_with_it_and_closes_with_1000() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    let other = client.clone();
    drop(client);
    let call = tokio::spawn(other.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("an answer");
    drop(other);
    assert_eq!(csms.closed().await.0, 1000);
    drop(csms);
    while events.next().await.is_some() {}
}

#[tokio::test(start_paused = true)]
async fn a_server_that_breaks_the_protocol_and_falls_silent_does_not_make_the_client_deaf() {
    for forced in [false, true] {
        let (builder, mut dials) = client();
        let (client, mut csms) = connected(builder, &mut dials).await;
        csms.0.send(Message::binary(vec![1])).await.expect("open");
        becomes(&client, ClientState::Connecting).await;
        // It still waits for the server's close frame.
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
async fn b54_connect_is_refused_from_the_moment_that_close_is_called() {
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
async fn a_connection_that_is_lost_while_a_close_waits_ends_as_it_did_and_is_not_dialled_again() {
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
async fn b47_a_waiting_close_waits_for_answers_that_were_kept_from_an_earlier_connection() {
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
async fn events_end_with_the_client_also_when_it_was_closed_before() {
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
