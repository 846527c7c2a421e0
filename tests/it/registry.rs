//! Sessions of a server over TCP: duplicate identities, and closing of sessions, listeners and servers.

use std::{convert::Infallible, future, pin::pin, sync::Arc, time::Duration};

use futures_util::FutureExt;
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Reject, RpcRouter, RpcServer, Session, close::CloseCause, extract::State,
    server::RpcServerBuilder,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::Notify,
};

use crate::{
    support::{self, dial, dial_with_buffer},
    tcp::{Client, Site, TcpStation, head, offering, soon},
};

/// A server with two actions: `Ping` responds at once; the handler of `Stick` notifies the test and never completes.
fn builder(stuck: Arc<Notify>) -> RpcServerBuilder {
    async fn ping() -> Result<(), Infallible> {
        Ok(())
    }
    async fn stick(State(stuck): State<Arc<Notify>>) -> Result<(), Infallible> {
        stuck.notify_one();
        future::pending().await
    }
    let router = RpcRouter::with_state(stuck).on("Ping", ping).on("Stick", stick);
    RpcServer::builder(router).options(Options::server().close_timeout(Duration::from_millis(100)))
}

/// Makes a call, so that the session of the station is registered afterwards.
async fn ping(station: &mut TcpStation) {
    assert_eq!(soon(station.ask(r#"[2,"1","Ping",{}]"#)).await, r#"[3,"1",{}]"#);
}

/// Connects a station and returns it with its registered session.
async fn enter(site: &Site, identity: &str) -> (TcpStation, Session) {
    let mut station = site.enter(&head(&format!("/{identity}"))).await;
    ping(&mut station).await;
    (station, site.server.session(identity).expect("registered"))
}

#[tokio::test]
async fn b21_newer_connection_replaces_older_one() {
    let site = Site::of(builder(Arc::default())).await;
    // This station does not read yet, so it does not see that it was replaced.
    let (mut old, old_session) = enter(&site, "CP").await;
    let (mut new, new_session) = enter(&site, "CP").await;
    assert!(!old_session.is_open() && new_session.is_open());

    let closed = soon(old_session.closed()).await;
    let replaced = (1008, "replaced by a newer connection", CloseCause::Replaced);
    assert_eq!((closed.code, &*closed.reason, closed.cause), replaced);
    assert_eq!(soon(old.closed()).await, (replaced.0, replaced.1.to_owned()));

    ping(&mut new).await;
    assert_eq!(site.server.sessions().len(), 1);
    assert!(site.server.session("CP").expect("the new one").is_open());
}

#[tokio::test]
async fn b21_refused_connection_replaces_no_session() {
    let hook = async |handshake: Handshake| match handshake.query() {
        Some("welcome") => Ok(Accept::new()),
        _ => Err(Reject::unauthorized()),
    };
    let site = Site::of(builder(Arc::default()).protocols(["ocpp1.6"]).auth(hook)).await;
    let mut station = site.enter(&offering("/CP?welcome", "ocpp1.6")).await;
    ping(&mut station).await;
    assert_eq!(site.ask(&head("/CP")).await.status, 401);
    // Accepted by the authenticator, but without a common protocol.
    let mut other = site.enter(&head("/CP?welcome")).await;
    assert_eq!(soon(other.closed()).await.0, 1002);
    ping(&mut station).await;
}

#[tokio::test]
async fn b51_closed_session_is_not_registered_after_close() {
    let mut site = Site::of(builder(Arc::default())).await;
    let (mut station, session) = enter(&site, "CP").await;
    let close = Close::new(3000).reason("enough");
    let (closed, seen) = soon(async { tokio::join!(session.close(close), station.closed()) }).await;
    assert!(site.server.session("CP").is_none() && site.server.sessions().is_empty());
    assert_eq!((closed.code, &*closed.reason, closed.cause), (3000, "enough", CloseCause::Local));
    assert_eq!(seen, (3000, "enough".to_owned()));
    assert_eq!(support::closed(&mut site.events).await, closed);
}

#[tokio::test]
async fn b19_closing_server_refuses_clients_and_waits_for_sessions() {
    let mut site = Site::of(builder(Arc::default())).await;
    let (mut silent, _) = enter(&site, "silent").await;
    let (server, head) = (site.server.clone(), head("/CP"));
    let mut closing = pin!(server.close(Close::restart().reason("update")));
    assert!(closing.as_mut().now_or_never().is_none() && server.is_closing());

    // The listener stops, but HTTP servers in which the server is mounted continue to serve.
    let mut mounted = Client::over(dial(&server));
    let response = tokio::select! {
        response = mounted.ask(&head) => response,
        _ = &mut closing => panic!("closed without waiting"),
    };
    assert_eq!((response.status, response.header("retry-after"), &*response.body), (503, "5", "the server is closing"));

    let report = soon(closing).await;
    assert_eq!((report.clean, report.forced), (1, 0));
    assert_eq!(soon(silent.closed()).await, (1012, "update".to_owned()));
    assert_eq!(soon(server.close(Close::normal())).await, report, "the first close decides");
    let refused = (Some("CP".to_owned()), Some(503), "the server is closing".to_owned());
    assert_eq!(site.refused().await, refused);
    assert!(server.sessions().is_empty());
    let refused = soon(TcpStream::connect(site.listener.local_addr())).await;
    assert!(refused.is_err(), "the port is closed");
}

#[tokio::test]
async fn b50_session_with_endless_handler_counts_as_forced() {
    let stuck = Arc::new(Notify::new());
    let site = Site::of(builder(stuck.clone())).await;
    let (_well_behaved, _) = enter(&site, "well-behaved").await;
    let (mut station, _) = enter(&site, "stuck").await;
    soon(station.send(r#"[2,"2","Stick",{}]"#)).await;
    soon(stuck.notified()).await;
    let report = soon(site.server.close(Close::going_away())).await;
    assert_eq!((report.clean, report.forced), (1, 1));
}

#[tokio::test]
async fn b50_handler_of_disconnected_session_counts_as_forced() {
    let stuck = Arc::new(Notify::new());
    let site = Site::of(builder(stuck.clone())).await;
    let (_well_behaved, _) = enter(&site, "well-behaved").await;
    let (mut disconnected, session) = enter(&site, "disconnected").await;
    soon(disconnected.send(r#"[2,"2","Stick",{}]"#)).await;
    soon(stuck.notified()).await;
    drop(disconnected);
    soon(session.closed()).await;
    let report = soon(site.server.close(Close::going_away())).await;
    assert_eq!((report.clean, report.forced), (1, 1));
}

#[tokio::test]
async fn b50_session_opening_during_close_is_closed_and_counted() {
    let server = builder(Arc::default()).build().expect("a valid configuration");
    // The response does not fit the small buffer, so the session opens only when the client has read the response.
    let mut client = Client::over(dial_with_buffer(&server, 16));
    client.send(head("/CP")).await;
    let status = client.status().await;
    let mut closing = pin!(server.close(Close::going_away()));
    assert!(closing.as_mut().now_or_never().is_none());
    let entering = async {
        let response = client.answer_behind(status).await;
        client.upgraded(&response).await.closed().await
    };
    let (report, (code, _)) = soon(async { tokio::join!(closing, entering) }).await;
    assert_eq!(code, 1001);
    assert_eq!((report.clean, report.forced), (1, 0));
}

#[tokio::test(start_paused = true)]
async fn b50_client_not_reading_handshake_response_is_not_counted() {
    let server = builder(Arc::default()).build().expect("a valid configuration");
    let mut client = Client::over(dial_with_buffer(&server, 16));
    client.send(head("/CP")).await;
    client.status().await;
    let start = tokio::time::Instant::now();
    let report = server.close(Close::going_away()).await;
    assert_eq!((report.clean, report.forced), (0, 0));
    // Before the handshake timeout elapses.
    assert!(start.elapsed() < Duration::from_secs(10), "{:?}", start.elapsed());
}

#[tokio::test]
async fn b50_closed_listener_closes_port_and_sessions() {
    let Site { server, listener, mut events } = Site::of(builder(Arc::default())).await;
    let address = listener.local_addr();
    let report = soon(listener.run_until(future::ready(()))).await;
    assert_eq!((report.clean, report.forced), (0, 0));
    assert!(soon(TcpStream::connect(address)).await.is_err());
    assert!(server.is_closing());
    assert!(soon(events.next()).await.is_none(), "no more events");
}

#[tokio::test]
async fn b50_closed_listener_closes_idle_and_incomplete_requests() {
    let site = Site::of(builder(Arc::default()).handshake_timeout(Duration::from_secs(3600))).await;
    let mut clients = [site.dial().await, site.dial().await, site.dial().await];
    let [_, idle, half] = &mut clients;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
    half.send("GET /CP HTTP/1.1\r\nHost: te").await;
    ping(&mut site.enter(&head("/CP")).await).await;
    soon(site.listener.close(Close::going_away())).await;
    for client in clients {
        assert!(client.rest().await.is_empty());
    }
}

#[tokio::test]
async fn dropped_listener_keeps_sessions_open() {
    let site = Site::of(builder(Arc::default())).await;
    let (mut station, session) = enter(&site, "CP").await;
    drop(site.listener);
    ping(&mut station).await;
    let (closed, _) = soon(async { tokio::join!(session.close(Close::normal()), station.closed()) }).await;
    assert_eq!(closed.cause, CloseCause::Local);
}

#[tokio::test]
async fn b51_close_frame_arrives_despite_unread_input() {
    let site = Site::of(builder(Arc::default())).await;
    let (station, _) = enter(&site, "CP").await;
    let mut stream = station.ws.into_inner();
    // An empty binary message, followed by more bytes than the server reads at once.
    let binary = [0x82, 0x80, 0, 0, 0, 0];
    soon(stream.write_all(&[&binary[..], &[0; 32 << 10]].concat())).await.expect("open");
    let mut seen = Vec::new();
    soon(stream.read_to_end(&mut seen)).await.expect("the end of the stream, not a reset");
    assert_eq!(seen[..4], [0x88, 2 + "OCPP-J is text".len() as u8, 0x03, 0xeb], "1003");
}
