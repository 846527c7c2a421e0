//! The life of a client: its reconnects, when it gives up, and the order of its events.

use std::{
    pin::pin,
    sync::{Arc, Mutex},
    task::{Context, Wake},
    thread,
};

use ocpp_rpc::{
    CallError, Close, Error, RpcClient, RpcRouter,
    client::{ClientState, ConnectError, Reconnect},
    close::CloseCause,
    event::{EventKind, Events},
    extract::{Responder, State},
    handler::NoResponse,
};
use serde_json::{Value, json};
use tokio::{
    runtime::Handle,
    sync::{Notify, mpsc},
    time::Instant,
};

use crate::{
    csms::{Csms, Dials, accept, becomes, client, connected, connected_once, connecting, reconnect},
    support::SECOND,
};

#[tokio::test(start_paused = true)]
async fn b59_client_reconnects_after_a_close_of_the_server() {
    let (builder, mut dials) = client();
    let (client, mut csms) = connected(builder, &mut dials).await;
    let mut events = client.events();
    csms.close(1012, "update").await;
    assert_eq!(csms.closed().await, (1012, "update".to_owned()));
    drop(csms);
    let mut csms = dials.accept("ocpp1.6").await;
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("a response");
    let disconnected = events.expect(|event| match event.kind {
        EventKind::Disconnected(closed) => Some(closed),
        _ => None,
    });
    let closed = disconnected.await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1012, "update", CloseCause::Remote));
}

#[tokio::test(start_paused = true)]
async fn b57_backoff_grows_if_the_server_accepts_and_closes_at_once() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder, &mut dials).await;
    drop(csms);
    let mut last = Instant::now();
    for waited in [1, 2, 4, 8, 10, 10] {
        drop(dials.accept("ocpp1.6").await);
        assert_eq!(last.elapsed().as_secs(), waited);
        last = Instant::now();
    }
    // A connection that lasts for a while resets the backoff.
    let csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    becomes(&client, ClientState::Connecting).await;
    let mut last = Instant::now();
    for waited in [1, 2, 4] {
        drop(dials.next().await);
        assert_eq!(last.elapsed().as_secs(), waited);
        last = Instant::now();
    }
}

#[tokio::test(start_paused = true)]
async fn b55_client_gives_up_after_the_last_attempt() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(reconnect().attempts(2)), &mut dials).await;
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    drop(dials.next().await);
    drop(dials.next().await);
    drop(dials.next().await);
    assert_eq!(client.closed().await.expect("the client has run").cause, CloseCause::GaveUp);

    let (builder, mut dials) = connected_once(Reconnect::never()).await;
    assert_eq!(builder.closed().await.expect("the client has run").cause, CloseCause::Remote);
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b54_connect_joins_an_attempt_and_works_after_a_close() {
    let (builder, mut dials) = client();
    let (client, attempt) = connecting(builder);
    let stream = dials.next().await;
    let joined = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    tokio::task::yield_now().await;
    let mut csms = Csms(accept(stream, "ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    joined.await.expect("no panic").expect("connected");
    client.connect().await.expect("nothing to do");
    assert!(dials.none());

    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(Close::normal()).await }
    });
    becomes(&client, ClientState::Closing).await;
    assert!(matches!(client.connect().await, Err(ConnectError::Closing)));
    assert!(matches!(client.call::<Value>("Any", &()).await, Err(Error::Closing | Error::Closed)));
    csms.closed().await;
    drop(csms);
    closing.await.expect("no panic");

    // Another run, with another protocol and another identity.
    client.update(|settings| settings.endpoint("ws://csms.test/other").identity("CP-2")).expect("valid settings");
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    let mut csms = dials.accept("ocpp2.0.1").await;
    attempt.await.expect("no panic").expect("connected");
    assert_eq!(&*client.session().identity(), "CP-2");
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("a response");
}

#[tokio::test(start_paused = true)]
async fn client_session_lasts_over_all_runs() {
    let (builder, mut dials) = client();
    let client = builder.build().expect("valid settings");
    let session = client.session();
    assert_eq!((&*session.identity(), session.protocol(), session.connected_at()), ("CP-1", None, None));
    assert!(!session.is_open());
    assert!(matches!(session.call::<Value>("Any", &()).await, Err(Error::Closed)));
    // A session that was never connected is already closed.
    session.closed().await;
    session.close(Close::normal()).await;

    for (identity, protocol) in [("CP-1", "ocpp1.6"), ("CP-2", "ocpp2.0.1")] {
        client.update(|settings| settings.identity(identity)).expect("valid settings");
        let attempt = tokio::spawn({
            let client = client.clone();
            async move { client.connect().await }
        });
        let mut csms = dials.accept(protocol).await;
        attempt.await.expect("no panic").expect("connected");
        assert_eq!((&*session.identity(), session.protocol().as_deref()), (identity, Some(protocol)));
        assert!(session.is_open() && session.connected_at().is_some());
        let call = tokio::spawn(session.call::<Value>("Hello", &()));
        csms.answer("Hello").await;
        call.await.expect("no panic").expect("a response");
        let closing = tokio::spawn({
            let session = session.clone();
            async move { session.close(Close::new(4000)).await }
        });
        csms.closed().await;
        drop(csms);
        assert_eq!(closing.await.expect("no panic").code, 4000);
        assert_eq!((client.state(), session.is_open()), (ClientState::Closed, false));
    }
}

#[tokio::test(start_paused = true)]
async fn handler_of_an_earlier_run_does_not_respond_in_the_next() {
    type Outcomes = mpsc::Sender<Result<(), Error>>;
    async fn slow(
        responder: Responder,
        State((gate, outcomes)): State<(Arc<Notify>, Outcomes)>,
    ) -> Result<NoResponse, CallError> {
        gate.notified().await;
        let outcome = responder.send(json!({"late": true})).await;
        outcomes.send(outcome).await.expect("the test listens");
        Ok(NoResponse)
    }
    let gate = Arc::new(Notify::new());
    let (outcomes, mut outcome) = mpsc::channel(1);
    let (builder, mut dials) = client();
    let router = RpcRouter::with_state((gate.clone(), outcomes)).on("Slow", slow);
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    csms.send(json!([2, "1", "Slow", {}])).await;
    // The call is read before the client closes.
    csms.send(json!([2, "2", "Unknown", {}])).await;
    assert_eq!(csms.receive().await[1], "2");
    let mut csms = close_and_connect(&client, csms, &mut dials).await;
    // The call of this run has the same id but another sequence number.
    csms.send(json!([2, "1", "Slow", {}])).await;
    csms.send(json!([2, "2", "Unknown", {}])).await;
    assert_eq!(csms.receive().await[1], "2");
    // This wakes the handler of the earlier run, because it has waited longer.
    gate.notify_one();
    let late = outcome.recv().await.expect("an outcome");
    assert!(matches!(late, Err(Error::Disconnected { maybe_delivered: false })), "{late:?}");
    csms.send(json!([2, "3", "Unknown", {}])).await;
    assert_eq!(csms.receive().await[1], "3", "the late response is not sent");
    gate.notify_one();
    assert_eq!(csms.receive().await, json!([3, "1", {"late": true}]));
    assert!(client.session().is_open());
}

#[tokio::test(start_paused = true)]
async fn b59_client_events_are_in_order() {
    let (builder, mut dials) = client();
    let client = builder.build().expect("valid settings");
    let mut events = client.events();
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    drop(dials.accept("ocpp1.6").await);
    attempt.await.expect("no panic").expect("connected");
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    tokio::join!(client.close(Close::normal()), async {
        csms.closed().await;
        drop(csms);
    });
    let mut seen = Vec::new();
    loop {
        let kind = events.next().await.expect("another event").kind;
        seen.push(match kind {
            EventKind::Connecting => "connecting".to_owned(),
            EventKind::Opened { protocol, .. } => format!("open {}", protocol.expect("named")),
            EventKind::Disconnected(closed) => format!("disconnect {}", closed.code),
            EventKind::Closing => "closing".to_owned(),
            EventKind::Closed(closed) => format!("close {}", closed.code),
            _ => continue,
        });
        if seen.last().is_some_and(|last| last.starts_with("close ")) {
            break;
        }
    }
    let expected =
        ["connecting", "open ocpp1.6", "disconnect 1006", "connecting", "open ocpp1.6", "closing", "close 1000"];
    assert_eq!(seen, expected);
}

#[tokio::test(start_paused = true)]
async fn b54_connect_that_joins_a_reconnect_shares_its_result() {
    for (refused, closed) in [(false, false), (true, false), (false, true)] {
        let (client, mut dials) = connected_once(reconnect().give_up_if(ConnectError::is_refused)).await;
        becomes(&client, ClientState::Connecting).await;
        let joined = tokio::spawn({
            let client = client.clone();
            async move { client.connect().await }
        });
        tokio::task::yield_now().await;
        assert!(!joined.is_finished());
        match (refused, closed) {
            (true, _) => drop(dials.answer("HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n").await),
            (_, true) => drop(client.close(Close::normal()).await),
            _ => {
                let _csms = dials.accept("ocpp1.6").await;
                joined.await.expect("no panic").expect("connected");
                continue;
            }
        }
        assert!(matches!(joined.await.expect("no panic"), Err(ConnectError::Aborted)));
        assert_eq!(client.state(), ClientState::Closed);
        assert!(dials.none());
    }
}

#[tokio::test(start_paused = true)]
async fn b55_reconnect_offers_and_requires_the_first_protocol() {
    let (client, mut dials) = connected_once(reconnect()).await;
    let (head, stream) = dials.head().await;
    assert!(head.contains("\r\nSec-WebSocket-Protocol: ocpp1.6\r\n"), "{head}");
    drop(stream);
    assert_eq!(client.session().protocol().as_deref(), Some("ocpp1.6"));

    // The server upgrades without a protocol, and then with another one.
    dials.accept_without_protocol().await;
    drop(dials.accept("ocpp2.0.1").await);
    assert_eq!(client.state(), ClientState::Connecting);
    let mut csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    csms.answer("Hello").await;
    call.await.expect("no panic").expect("a response");
}

#[tokio::test(start_paused = true)]
async fn b55_attempts_in_a_row_count_until_a_lasting_connection() {
    let (builder, mut dials) = client();
    let (client, csms) = connected(builder.reconnect(reconnect().attempts(3)), &mut dials).await;
    // Three connections that do not last are three failed attempts.
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    for _ in 0..2 {
        drop(dials.next().await);
    }
    let csms = dials.accept("ocpp1.6").await;
    becomes(&client, ClientState::Open).await;
    tokio::time::advance(11 * SECOND).await;
    drop(csms);
    for _ in 0..3 {
        drop(dials.accept("ocpp1.6").await);
    }
    // The last allowed attempt fails.
    drop(dials.next().await);
    let closed = client.closed().await.expect("the client has run");
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::GaveUp));
    assert!(dials.none());
}

#[tokio::test(start_paused = true)]
async fn b56_close_before_the_first_connection_ends_at_once_with_1001() {
    for close in [Close::new(4000).reason("mine"), Close::normal().drain(30 * SECOND), Close::forced()] {
        for dialled in [false, true] {
            let (builder, mut dials) = client();
            let (client, attempt) = connecting(builder.reconnect(reconnect().retry_first_connect(true)));
            let stream = dials.next().await;
            let stream = Some(stream).filter(|_| dialled);
            if !dialled {
                // The attempt failed, and the client waits before the next.
                tokio::time::sleep(SECOND / 2).await;
            }
            let call = tokio::spawn(client.call::<Value>("Any", &()));
            tokio::task::yield_now().await;
            let start = Instant::now();
            let closed = client.close(close.clone()).await;
            assert!(start.elapsed().is_zero());
            assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "connection aborted", CloseCause::Local));
            assert_eq!(client.state(), ClientState::Closed);
            assert!(matches!(attempt.await.expect("no panic"), Err(ConnectError::Aborted)));
            assert!(call.await.expect("no panic").expect_err("closed").is_retryable());
            drop(stream);
            tokio::time::sleep(60 * SECOND).await;
            assert!(dials.none());
        }
    }
}

/// Returns the events of a run of the client until it has closed.
async fn run_events(mut events: Events) -> Vec<String> {
    let mut seen = Vec::new();
    loop {
        seen.push(match events.next().await.expect("another event").kind {
            EventKind::Connecting => "connecting".to_owned(),
            EventKind::ConnectFailed { status: Some(status), .. } => format!("refused {status}"),
            EventKind::ConnectFailed { error, .. } => error,
            EventKind::Opened { protocol, .. } => format!("open {}", protocol.expect("named")),
            EventKind::Disconnected(closed) => format!("disconnect {} {}", closed.code, closed.cause),
            EventKind::Closing => "closing".to_owned(),
            EventKind::Closed(closed) => {
                seen.push(format!("close {} {}", closed.code, closed.cause));
                return seen;
            }
            _ => continue,
        });
    }
}

#[tokio::test(start_paused = true)]
async fn b59_client_events_are_in_order_for_every_kind_of_run() {
    const LOST: &str = "cannot connect: connection closed before message completed";
    const UNAUTHORIZED: &str = "HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n";
    // A first connect that fails.
    let (builder, mut dials) = client();
    let new = builder.build().expect("valid settings");
    let events = new.events();
    let attempt = tokio::spawn(async move { new.connect().await });
    drop(dials.next().await);
    assert!(attempt.await.expect("no panic").is_err());
    assert_eq!(run_events(events).await, ["connecting", LOST, "close 1006 gave_up"]);

    // A first connect that is closed.
    let (builder, mut dials) = client();
    let new = builder.build().expect("valid settings");
    let events = new.events();
    let attempt = tokio::spawn({
        let client = new.clone();
        async move { client.connect().await }
    });
    let _stream = dials.next().await;
    new.close(Close::normal()).await;
    assert!(attempt.await.expect("no panic").is_err());
    assert_eq!(run_events(events).await, ["connecting", "closing", "close 1001 local"]);

    // The server is killed, is unreachable, accepts and closes at once, and then refuses the client for good.
    let (builder, mut dials) = client();
    let policy = reconnect().give_up_if(ConnectError::is_refused);
    let (client, csms) = connected(builder.reconnect(policy), &mut dials).await;
    let events = client.events();
    drop(csms);
    drop(dials.next().await);
    let mut csms = dials.accept("ocpp1.6").await;
    csms.close(1001, "too busy").await;
    csms.closed().await;
    drop(csms);
    drop(dials.answer(UNAUTHORIZED).await);
    client.closed().await;
    let expected = [
        "disconnect 1006 remote",
        "connecting",
        LOST,
        "connecting",
        "open ocpp1.6",
        "disconnect 1001 remote",
        "connecting",
        "refused 401",
        "close 1006 gave_up",
    ];
    assert_eq!(run_events(events).await, expected);

    // A close while the client waits to reconnect.
    let (builder, mut dials) = self::client();
    let (client, csms) = connected(builder, &mut dials).await;
    let events = client.events();
    drop(csms);
    becomes(&client, ClientState::Connecting).await;
    tokio::time::sleep(SECOND / 2).await;
    client.close(Close::normal()).await;
    assert_eq!(run_events(events).await, ["disconnect 1006 remote", "closing", "close 1000 local"]);

    // The only connection is lost.
    let (builder, mut dials) = self::client();
    let (client, mut csms) = connected(builder.reconnect(Reconnect::never()), &mut dials).await;
    let events = client.events();
    csms.close(1012, "update").await;
    csms.closed().await;
    drop(csms);
    assert_eq!(run_events(events).await, ["close 1012 remote"]);
    assert_eq!(client.state(), ClientState::Closed);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn b59_closed_comes_before_the_events_of_a_connect_in_that_moment() {
    /// Connects the client when it is woken, and returns when the attempt has shown.
    struct Connect {
        client: RpcClient,
        runtime: Handle,
        connecting: Mutex<std::sync::mpsc::Receiver<()>>,
    }
    impl Wake for Connect {
        fn wake(self: Arc<Self>) {
            let (client, runtime) = (self.client.clone(), self.runtime.clone());
            thread::spawn(move || runtime.block_on(client.connect()));
            let connecting = self.connecting.lock().expect("no panic");
            connecting.recv_timeout(10 * SECOND).expect("the client connects");
        }
    }

    let (builder, mut dials) = client();
    let client = builder.build().expect("valid settings");
    let (mut events, runtime) = (client.events(), Handle::current());
    let (sender, connecting) = std::sync::mpsc::channel();
    // In a thread, because the client's first task waits in its wake-up of the state's readers.
    let reader = thread::spawn(move || {
        runtime.block_on(async {
            let mut seen = Vec::new();
            while seen.len() < 3 {
                match events.next().await.expect("another event").kind {
                    EventKind::Connecting => seen.push("connecting"),
                    EventKind::Closed(_) => seen.push("closed"),
                    _ => {}
                }
                if seen.iter().filter(|event| **event == "connecting").count() == 2 {
                    let _ = sender.send(());
                }
            }
            seen
        })
    });
    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    let stream = dials.next().await;
    let mut states = client.states();
    let mut closed = pin!(states.wait_for(|state| *state == ClientState::Closed));
    let connect = Connect { client: client.clone(), runtime: Handle::current(), connecting: Mutex::new(connecting) };
    assert!(closed.as_mut().poll(&mut Context::from_waker(&Arc::new(connect).into())).is_pending());
    // The first connect fails for good.
    drop(stream);
    assert!(attempt.await.expect("no panic").is_err());
    let seen = tokio::task::spawn_blocking(|| reader.join().expect("no panic")).await.expect("no panic");
    assert_eq!(seen, ["connecting", "closed", "connecting"]);
}

#[tokio::test(start_paused = true)]
async fn handler_of_an_earlier_run_does_not_count_calls_of_the_next() {
    async fn wait(State(gate): State<Arc<Notify>>) -> Result<(), CallError> {
        gate.notified().await;
        Ok(())
    }
    let gate = Arc::new(Notify::new());
    let (builder, mut dials) = client();
    let router = RpcRouter::with_state(gate.clone()).on("Wait", wait);
    let (client, mut csms) = connected(builder.router(router), &mut dials).await;
    let mut events = client.events();
    csms.send(json!([2, "1", "Wait", {}])).await;
    // The call is read before the client closes.
    csms.send(json!([2, "2", "Unknown", {}])).await;
    assert_eq!(csms.receive().await[1], "2");
    let mut csms = close_and_connect(&client, csms, &mut dials).await;
    let call = tokio::spawn(client.call::<Value>("Hello", &()));
    assert_eq!(csms.receive().await[2], "Hello");
    assert_eq!(client.session().in_flight(), 1);
    gate.notify_one();
    events
        .expect(|event| match event.kind {
            EventKind::CallEnded { action, .. } => (action == "Wait").then_some(()),
            _ => None,
        })
        .await;
    tokio::time::sleep(SECOND).await;
    assert_eq!(client.session().in_flight(), 1);
    call.abort();
}

/// Closes a client, and lets it connect again.
async fn close_and_connect(client: &RpcClient, mut csms: Csms, dials: &mut Dials) -> Csms {
    let closing = tokio::spawn({
        let client = client.clone();
        async move { client.close(Close::normal()).await }
    });
    csms.closed().await;
    drop(csms);
    closing.await.expect("no panic");

    let attempt = tokio::spawn({
        let client = client.clone();
        async move { client.connect().await }
    });
    let csms = dials.accept("ocpp1.6").await;
    attempt.await.expect("no panic").expect("connected");
    csms
}
