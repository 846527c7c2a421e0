//! Tests of closing: codes, reasons, causes, timeouts, and the fate of calls and handlers.

use std::{
    convert::Infallible,
    io,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_util::FutureExt;
use ocpp_rpc::{
    Close, Error, Options, RpcRouter,
    close::CloseCause,
    event::EventKind,
    extract::{CancellationToken, State},
};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, DuplexStream, ReadBuf},
    sync::Notify,
    time::Instant,
};

use crate::support::{SECOND, Station, connected, dial, echo, gated, serve, server, server_with};

#[tokio::test]
async fn b51_both_sides_report_close_code_reason_and_cause() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (ours, theirs) = tokio::join!(session.close(Close::new(1012).reason("update")), station.closed());
    assert_eq!(theirs, (1012, "update".to_owned()));
    assert_eq!((ours.code, &*ours.reason, ours.cause), (1012, "update", CloseCause::Local));

    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.close(1001, "rebooting").await;
    let closed = session.closed().await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1001, "rebooting", CloseCause::Remote));
    assert_eq!(station.closed().await, (1001, "rebooting".to_owned()), "the server replies to the close");
    assert!(server.session("CP-1").is_none());
}

#[tokio::test]
async fn b47_immediate_close_fails_calls_and_cancels_handlers() {
    let notify = Arc::new(Notify::new());
    async fn wait(token: CancellationToken, State(notify): State<Arc<Notify>>) -> Result<(), Infallible> {
        token.cancelled().await;
        notify.notify_one();
        Ok(())
    }
    let server = server(RpcRouter::with_state(notify.clone()).on("Wait", wait).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let call = tokio::spawn(session.call::<Value>("Reset", &()));
    station.receive_call().await;
    let (_, theirs) = tokio::join!(session.close(Close::normal()), station.closed());
    assert_eq!(theirs.0, 1000);
    assert!(call.await.expect("no panic").expect_err("closed").maybe_delivered());
    notify.notified().await;
}

#[tokio::test(start_paused = true)]
async fn b47_draining_close_completes_calls_in_both_directions() {
    let (router, gate) = gated();
    let server = server(router);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    let calls = [session.call::<Value>("First", &()), session.call("Second", &())].map(tokio::spawn);
    let (first, _) = station.receive_call().await;
    let closing = tokio::spawn({
        let session = session.clone();
        async move { session.close(Close::going_away().drain(Duration::from_secs(30))).await }
    });
    tokio::task::yield_now().await;
    assert!(matches!(session.call::<Value>("Third", &()).await, Err(Error::Closing)));
    // While it drains, the session still sends queued calls and serves the station's calls.
    station.send(format!(r#"[3,"{first}",{{}}]"#)).await;
    let (second, _) = station.receive_call().await;
    assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
    station.send(format!(r#"[3,"{second}",{{}}]"#)).await;
    for call in calls {
        call.await.expect("no panic").expect("a response");
    }
    assert!(!closing.is_finished());
    gate.add_permits(1);
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.closed().await.0, 1001);
    drop(station);
    assert_eq!(closing.await.expect("no panic").code, 1001);
}

#[tokio::test(start_paused = true)]
async fn b49_close_at_silent_peer_ends_by_its_deadline() {
    let options = Options::server().close_timeout(5 * SECOND).ping_interval(None);
    for (close, code, seconds) in [
        (Close::normal(), 1000, 5..=6),
        (Close::normal().drain(10 * SECOND), 1000, 15..=16),
        (Close::forced(), 1006, 0..=0),
    ] {
        let (router, _gate) = gated();
        let server = server_with(router, options.clone());
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        let call = tokio::spawn(session.call::<Value>("Reset", &()));
        station.receive_call().await;
        let start = Instant::now();
        // The station is silent from here on. The first of two closes decides code and timeout.
        let (first, second) = tokio::join!(session.close(close.clone()), session.close(Close::new(4000)));
        assert_eq!((first.code, first.cause), (code, CloseCause::Local), "{close:?}");
        assert_eq!(first, second);
        let elapsed = start.elapsed().as_secs();
        assert!(seconds.contains(&elapsed), "{close:?}: {elapsed} s");
        assert!(call.await.expect("no panic").expect_err("closed").maybe_delivered());
        drop(station);
    }
}

#[tokio::test]
async fn timeouts_of_maximum_duration_do_not_panic() {
    let options =
        Options::server().call_timeout(Duration::MAX).close_timeout(Duration::MAX).ping_interval(Duration::MAX);
    let server = server_with(RpcRouter::new(), options);
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let call = tokio::spawn(session.call::<Value>("Any", &()).timeout(Duration::MAX).total_timeout(Duration::MAX));
    let (id, _) = station.receive_call().await;
    let closing = tokio::spawn(async move { session.close(Close::normal().drain(Duration::MAX)).await });
    station.send(format!(r#"[3,"{id}",{{}}]"#)).await;
    call.await.expect("no panic").expect("a response");
    assert_eq!(station.closed().await.0, 1000);
    drop(station);
    assert_eq!(closing.await.expect("no panic").code, 1000);
    server.close(Close::normal().drain(Duration::MAX)).await;
}

#[tokio::test]
async fn b37_handlers_finish_on_disconnect_but_not_on_forced_close() {
    let finished = Arc::new(AtomicUsize::new(0));
    async fn work(token: CancellationToken, State(finished): State<Arc<AtomicUsize>>) -> Result<(), Infallible> {
        token.cancelled().await;
        tokio::task::yield_now().await;
        finished.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    let server = server(RpcRouter::with_state(finished.clone()).on("Work", work).on("Echo", echo));
    for (forced, expected) in [(true, 0), (false, 10)] {
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        for id in 0..10 {
            station.send(format!(r#"[2,"{id}","Work",{{}}]"#)).await;
        }
        station.ask(r#"[2,"x","Echo",{}]"#).await;
        if forced {
            session.close(Close::forced()).await;
        } else {
            drop(station);
            session.closed().await;
            while finished.load(Ordering::Relaxed) < 10 {
                tokio::task::yield_now().await;
            }
        }
        assert_eq!(finished.load(Ordering::Relaxed), expected);
    }
}

#[tokio::test(start_paused = true)]
async fn b50_server_close_waits_for_sessions_then_aborts_them() {
    let (router, _gate) = gated();
    let server = server_with(router, Options::server().ping_interval(None));
    let mut polite = Station::connect(&server, "polite", "ocpp1.6").await;
    let mut stuck = Station::connect(&server, "stuck", "ocpp1.6").await;
    stuck.send(r#"[2,"1","Wait",{}]"#).await;
    stuck.ask(r#"[2,"2","Echo",{}]"#).await;
    polite.ask(r#"[2,"2","Echo",{}]"#).await;
    let (report, closed) = tokio::join!(server.close(Close::going_away()), polite.closed());
    assert_eq!(closed.0, 1001);
    assert_eq!((report.clean, report.forced), (1, 1), "one handler never ends");
    assert!(server.sessions().is_empty());
    assert_eq!(server.close(Close::normal()).await, report);
}

#[tokio::test(start_paused = true)]
async fn b50_server_close_overrides_longer_drain_of_session() {
    let (router, _gate) = gated();
    let server = server_with(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Wait",{}]"#).await;
    station.ask(r#"[2,"2","Echo",{}]"#).await;
    let draining = session.close(Close::normal().drain(SECOND * 3600));
    let start = Instant::now();
    let (_, report) = tokio::join!(draining, server.close(Close::going_away()));
    assert_eq!((report.clean, report.forced), (0, 1));
    assert!(start.elapsed() < SECOND * 60, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b51_session_dropped_by_a_server_close_is_reported() {
    let (router, _gate) = gated();
    let server = server_with(router, Options::server().ping_interval(None));
    let (_station, session) = connected(&server, "ocpp1.6").await;
    let mut events = server.events();
    // The station never replies to the close frame, and the session waits longer than the server.
    session.set_options(Options::server().close_timeout(SECOND * 3600)).expect("valid");
    let report = server.close(Close::going_away()).await;
    assert_eq!((report.clean, report.forced), (0, 1));
    let mut closed = Vec::new();
    while let Some(event) = events.next().await {
        if let EventKind::Closed(info) = event.kind {
            closed.push((info.code, info.cause));
        }
    }
    assert_eq!(closed, [(1006, CloseCause::Local)]);
}

#[tokio::test]
async fn stream_dropped_during_handshake_leaves_no_session() {
    let server = server(RpcRouter::new());
    drop(dial(&server));
    let report = server.close(Close::normal()).await;
    assert_eq!((report.clean, report.forced), (0, 0));
}

#[tokio::test]
async fn b46_invalid_codes_become_1000_and_long_reasons_are_cut() {
    let cut = "é".repeat(61);
    for (code, sent) in [(0, 1000), (999, 1000), (1005, 1000), (1006, 1000), (1015, 1000), (5000, 1000), (4999, 4999)] {
        let server = server(RpcRouter::new());
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        let close = Close::new(code).reason("é".repeat(100));
        let (ours, theirs) = tokio::join!(session.close(close), async {
            let seen = station.closed().await;
            drop(station);
            seen
        });
        assert_eq!(theirs, (sent, cut.clone()), "{code}");
        assert_eq!((ours.code, ours.reason), (sent, cut.clone()), "{code}");
    }
}

#[tokio::test]
async fn b46_close_code_is_1000_for_session_and_1001_for_server() {
    let server = server(RpcRouter::new());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let (ours, theirs) = tokio::join!(session.close(Close::normal()), station.closed());
    assert_eq!((ours.code, theirs), (1000, (1000, String::new())));

    let (mut station, _session) = connected(&server, "ocpp1.6").await;
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let (report, theirs) = tokio::join!(listener.run_until(std::future::ready(())), station.closed());
    assert_eq!((report.clean, theirs), (1, (1001, String::new())));
}

#[tokio::test(start_paused = true)]
async fn b46_close_frame_is_sent_when_drain_timeout_ends() {
    for (close, seconds) in [
        (Close::normal().drain(Duration::from_secs(30)), 30),
        (Close::normal().drain(7 * SECOND), 7),
        (Close::normal(), 0),
    ] {
        let (router, _gate) = gated();
        let server = server_with(router, Options::server().ping_interval(None));
        let (mut station, session) = connected(&server, "ocpp1.6").await;
        station.send(r#"[2,"1","Wait",{}]"#).await;
        assert_eq!(station.ask(r#"[2,"2","Echo",{}]"#).await, r#"[3,"2",{}]"#);
        let start = Instant::now();
        let (_, sent) = tokio::join!(session.close(close), async {
            station.closed().await;
            drop(station);
            start.elapsed()
        });
        assert_eq!(sent.as_secs(), seconds);
    }
}

#[tokio::test]
async fn b47_calls_fail_and_tokens_fire_before_close_frame() {
    async fn wait(token: CancellationToken, State(fired): State<Arc<AtomicUsize>>) -> Result<(), Infallible> {
        token.cancelled().await;
        fired.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
    let fired = Arc::new(AtomicUsize::new(0));
    let server = server(RpcRouter::with_state(fired.clone()).on("Wait", wait).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for id in 0..3 {
        station.send(format!(r#"[2,"{id}","Wait",{{}}]"#)).await;
    }
    station.ask(r#"[2,"x","Echo",{}]"#).await;
    let mut call = Box::pin(session.call::<Value>("Reset", &()));
    assert!(futures_util::poll!(&mut call).is_pending());
    station.receive_call().await;
    let mut closing = Box::pin(session.close(Close::normal()));
    assert!(futures_util::poll!(&mut closing).is_pending());
    assert_eq!(station.closed().await.0, 1000);
    assert_eq!(fired.load(Ordering::Relaxed), 3);
    assert!(matches!(call.now_or_never(), Some(Err(Error::Disconnected { maybe_delivered: true }))));
    drop(station);
    closing.await;
}

#[tokio::test(start_paused = true)]
async fn b48_forced_close_drops_socket_and_aborts_handlers() {
    /// Counts the handlers that are dropped before they finish.
    struct Guard(Arc<AtomicUsize>);
    impl Drop for Guard {
        fn drop(&mut self) {
            self.0.fetch_add(1, Ordering::Relaxed);
        }
    }
    async fn work(token: CancellationToken, State(dropped): State<Arc<AtomicUsize>>) -> Result<(), Infallible> {
        let guard = Guard(dropped);
        token.cancelled().await;
        tokio::time::sleep(SECOND).await;
        std::mem::forget(guard);
        Ok(())
    }
    let dropped = Arc::new(AtomicUsize::new(0));
    let server = server(RpcRouter::with_state(dropped.clone()).on("Work", work).on("Echo", echo));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    for id in 0..10 {
        station.send(format!(r#"[2,"{id}","Work",{{}}]"#)).await;
    }
    station.ask(r#"[2,"x","Echo",{}]"#).await;
    let closed = session.close(Close::forced()).await;
    assert_eq!((closed.code, closed.cause), (1006, CloseCause::Local));
    assert_eq!(dropped.load(Ordering::Relaxed), 10);
    let mut rest = Vec::new();
    station.ws.into_inner().read_to_end(&mut rest).await.expect("an end");
    assert!(rest.is_empty(), "bytes after a forced close: {rest:?}");
}

/// An in-memory stream that fails to read once `broken` is set.
struct Breakable {
    io: DuplexStream,
    broken: Arc<AtomicBool>,
}

impl AsyncRead for Breakable {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.broken.load(Ordering::Relaxed) {
            Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()))
        } else {
            Pin::new(&mut self.io).poll_read(cx, buf)
        }
    }
}

impl AsyncWrite for Breakable {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn b51_transport_failure_is_reported_as_cause() {
    let server = server(RpcRouter::new().on("Echo", echo));
    let (near, far) = tokio::io::duplex(4096);
    let broken = Arc::new(AtomicBool::new(false));
    serve(&server, Breakable { io: far, broken: broken.clone() });
    let mut station = Station::open(near, "CP-1", "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"1","Echo",{}]"#).await, r#"[3,"1",{}]"#);
    let session = server.session("CP-1").expect("registered");
    broken.store(true, Ordering::Relaxed);
    station.send(r#"[2,"2","Echo",{}]"#).await;
    let closed = session.closed().await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1006, "connection reset", CloseCause::Transport));
    assert!(server.session("CP-1").is_none());
}
