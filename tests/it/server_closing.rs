//! Closes of a server that a handler awaits, that are dropped, or that are spread over a time.

use std::{
    convert::Infallible,
    future,
    sync::{Arc, OnceLock},
    time::Duration,
};

use futures_util::{FutureExt, future::join_all};
use ocpp_rpc::{Close, Options, RpcRouter, RpcServer, Session, event::Events, extract::State, server::CloseReport};
use tokio::{
    sync::{Notify, mpsc},
    time::{Instant, sleep, timeout},
};

use crate::{
    support::{SECOND, Station, connected, dial, server_with},
    tcp::{Client, head, soon},
};

/// The state of handlers that close.
#[derive(Clone)]
struct App {
    server: Arc<OnceLock<RpcServer>>,
    close: Close,
    reports: mpsc::UnboundedSender<CloseReport>,
}

/// A server with three actions: `Stop` closes the server and reports to the test, `Stick` never ends, `Ready` responds
/// at once.
fn site(close: Close) -> (RpcServer, mpsc::UnboundedReceiver<CloseReport>) {
    async fn stop(State(app): State<App>) -> Result<(), Infallible> {
        let report = app.server.get().expect("set").close(app.close).await;
        app.reports.send(report).expect("the test receives");
        Ok(())
    }
    async fn stick() -> Result<(), Infallible> {
        future::pending().await
    }
    async fn ready() -> Result<(), Infallible> {
        Ok(())
    }
    let (reports, received) = mpsc::unbounded_channel();
    let app = App { server: Arc::default(), close, reports };
    let router = RpcRouter::with_state(app.clone()).on("Stop", stop).on("Stick", stick).on("Ready", ready);
    let server = server_with(router, Options::server().ping_interval(None));
    app.server.set(server.clone()).expect("set once");
    (server, received)
}

/// Connects a station whose session is open when this returns.
async fn enter(server: &RpcServer, identity: &str) -> Station {
    let mut station = Station::connect(server, identity, "ocpp1.6").await;
    assert_eq!(station.ask(r#"[2,"0","Ready",{}]"#).await, r#"[3,"0",{}]"#);
    station
}

async fn ended(mut events: Events) {
    while events.next().await.is_some() {}
}

/// Reads until the server closes the connection.
async fn closed(mut station: Station) -> u16 {
    station.closed().await.0
}

#[tokio::test(start_paused = true)]
async fn b50_server_close_returns_to_a_handler_that_awaits_it() {
    for close in [Close::going_away(), Close::going_away().drain(30 * SECOND)] {
        let (server, mut reports) = site(close.clone());
        let events = server.events();
        let mut caller = enter(&server, "caller").await;
        let other = enter(&server, "other").await;
        let start = Instant::now();
        caller.send(r#"[2,"1","Stop",{}]"#).await;
        assert_eq!(tokio::join!(closed(caller), closed(other)), (1001, 1001));
        let report = reports.recv().await.expect("the handler continues");
        assert_eq!((report.clean, report.forced), (2, 0));
        assert_eq!(server.close(Close::normal()).await, report);
        ended(events).await;
        assert!(start.elapsed() < SECOND, "{close:?}: {:?}", start.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn b50_closing_completes_when_a_close_begins() {
    let (server, _reports) = site(Close::going_away());
    let mut station = enter(&server, "CP").await;
    station.send(r#"[2,"1","Stick",{}]"#).await;
    let mut closing = tokio::spawn(server.closing());
    assert!(timeout(SECOND, &mut closing).await.is_err(), "no close has begun");
    let start = Instant::now();
    // The session of the station closes 30 s later.
    let close = Close::going_away().drain(30 * SECOND);
    let (closed, ()) = tokio::join!(server.close(close), async {
        closing.await.expect("no panic");
        assert_eq!(start.elapsed(), Duration::ZERO);
    });
    assert!(start.elapsed() >= 30 * SECOND, "{closed:?}");
    server.closing().now_or_never().expect("the close has begun");
}

#[tokio::test(start_paused = true)]
async fn b50_server_close_waits_for_other_handlers_of_the_session_that_awaits_it() {
    let (server, mut reports) = site(Close::going_away().drain(30 * SECOND));
    let mut caller = enter(&server, "caller").await;
    let start = Instant::now();
    caller.send(r#"[2,"1","Stick",{}]"#).await;
    caller.send(r#"[2,"2","Stop",{}]"#).await;
    assert_eq!(closed(caller).await, 1001);
    assert_eq!(start.elapsed().as_secs(), 30);
    let report = reports.recv().await.expect("the handler continues");
    assert_eq!((report.clean, report.forced), (1, 0));
    // The other handler never ends.
    let report = server.close(Close::normal()).await;
    assert_eq!((report.clean, report.forced), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn b50_handler_that_awaits_the_close_gets_its_report_if_others_are_dropped() {
    let (server, mut reports) = site(Close::going_away());
    let events = server.events();
    let (mut caller, mut stuck) = (enter(&server, "caller").await, enter(&server, "stuck").await);
    stuck.ask(r#"[2,"1","Stick",{}]"#).now_or_never();
    stuck.ask(r#"[2,"2","Ready",{}]"#).await;
    caller.send(r#"[2,"1","Stop",{}]"#).await;
    tokio::join!(closed(caller), closed(stuck));
    let report = reports.recv().await.expect("the handler continues");
    assert_eq!((report.clean, report.forced), (1, 1));
    assert_eq!(server.close(Close::normal()).await, report);
    ended(events).await;
}

#[tokio::test(start_paused = true)]
async fn b50_session_close_returns_to_its_own_handler_without_delay() {
    async fn leave(session: Session, State(left): State<Arc<Notify>>) -> Result<(), Infallible> {
        session.close(Close::normal().drain(30 * SECOND)).await;
        left.notify_one();
        Ok(())
    }
    let left = Arc::new(Notify::new());
    let router = RpcRouter::with_state(left.clone()).on("Leave", leave);
    let server = server_with(router, Options::server().ping_interval(None));
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    station.send(r#"[2,"1","Leave",{}]"#).await;
    assert_eq!(closed(station).await, 1000);
    left.notified().await;
    session.closed().await;
    assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
}

#[tokio::test(start_paused = true)]
async fn b50_close_waits_for_a_handler_that_no_longer_awaits_it() {
    async fn leave(session: Session) -> Result<(), Infallible> {
        let close = session.close(Close::normal().drain(30 * SECOND));
        assert!(timeout(SECOND, close).await.is_err(), "another handler is at work");
        sleep(3 * SECOND).await;
        Ok(())
    }
    async fn work() -> Result<(), Infallible> {
        sleep(2 * SECOND).await;
        Ok(())
    }
    let server = server_with(RpcRouter::new().on("Leave", leave).on("Work", work), Options::server());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    station.send(r#"[2,"1","Work",{}]"#).await;
    station.send(r#"[2,"2","Leave",{}]"#).await;
    assert_eq!(station.receive().await, r#"[3,"1",{}]"#);
    assert_eq!(station.receive().await, r#"[3,"2",{}]"#, "the handler is not given up");
    assert_eq!(closed(station).await, 1000);
    session.closed().await;
}

#[tokio::test(start_paused = true)]
async fn b50_handler_counts_as_finished_while_it_awaits_any_close() {
    async fn leave(session: Session, State(left): State<Arc<Notify>>) -> Result<(), Infallible> {
        let close = || session.close(Close::normal().drain(30 * SECOND));
        // The first is given up. The second is not polled again while something else wakes the handler.
        let (first, second) = (close(), close());
        let rest = async { tokio::join!(second, sleep(3 * SECOND)) };
        let _ = tokio::join!(timeout(SECOND, first), rest);
        left.notify_one();
        Ok(())
    }
    async fn work() -> Result<(), Infallible> {
        sleep(2 * SECOND).await;
        Ok(())
    }
    let left = Arc::new(Notify::new());
    let router = RpcRouter::with_state(left.clone()).on("Leave", leave).on("Work", work);
    let server = server_with(router, Options::server());
    let (mut station, session) = connected(&server, "ocpp1.6").await;
    let start = Instant::now();
    station.send(r#"[2,"1","Work",{}]"#).await;
    station.send(r#"[2,"2","Leave",{}]"#).await;
    assert_eq!(closed(station).await, 1000);
    assert_eq!(start.elapsed().as_secs(), 2, "the close does not wait for the handler that awaits it");
    left.notified().await;
    session.closed().await;
}

#[tokio::test(start_paused = true)]
async fn b50_dropped_server_close_ends_by_its_deadline() {
    let (server, _reports) = site(Close::normal());
    let events = server.events();
    let mut station = enter(&server, "stuck").await;
    station.send(r#"[2,"1","Stick",{}]"#).await;
    station.send(r#"[2,"2","Ready",{}]"#).await;
    station.receive().await;
    let start = Instant::now();
    assert!(server.close(Close::going_away()).now_or_never().is_none());
    assert_eq!(closed(station).await, 1001);
    timeout(60 * SECOND, ended(events)).await.expect("the events end");
    // The close timeout, and 2 s.
    assert_eq!(start.elapsed().as_secs(), 7);
    let report = server.close(Close::normal()).await;
    assert_eq!((report.clean, report.forced), (0, 1));
}

#[tokio::test]
async fn b50_dropped_listener_close_ends_by_its_deadline() {
    let options = Options::server().close_timeout(Duration::from_millis(100));
    let server = server_with(RpcRouter::new(), options);
    let events = server.events();
    let requested = Arc::new(Notify::new());
    let is_requested = requested.clone();
    let endless = axum::routing::get(move || async move {
        is_requested.notify_one();
        future::pending::<()>().await
    });
    let app = axum::Router::new().route("/endless", endless);
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut client = Client::dial(listener.local_addr()).await;
    client.send("GET /endless HTTP/1.1\r\nHost: test\r\n\r\n").await;
    soon(requested.notified()).await;
    assert!(listener.close(Close::going_away()).now_or_never().is_none());
    assert!(client.rest().await.is_empty(), "the connection is dropped");
    soon(ended(events)).await;
}

#[tokio::test(start_paused = true)]
async fn b50_close_is_spread_evenly_over_its_time() {
    let (server, _reports) = site(Close::normal());
    let mut stations = Vec::new();
    for place in 0..10 {
        stations.push(enter(&server, &format!("CP-{place}")).await);
    }
    let start = Instant::now();
    let closing = tokio::spawn({
        let server = server.clone();
        async move { server.close(Close::restart().spread(100 * SECOND)).await }
    });
    let ends = join_all(stations.into_iter().map(|station| async move {
        let code = closed(station).await;
        (start.elapsed().as_secs(), code)
    }));
    let newcomer = async {
        tokio::time::sleep(SECOND).await;
        Client::over(dial(&server)).ask(&head("/late")).await.status
    };
    let (mut ends, status) = tokio::join!(ends, newcomer);
    ends.sort_unstable();
    let expected: Vec<_> = (0..10).map(|place| (place * 10, 1012)).collect();
    assert_eq!((ends, status), (expected, 503));
    let report = closing.await.expect("no panic");
    assert_eq!((report.clean, report.forced), (10, 0));
}
