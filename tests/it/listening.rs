//! The listener: on an address or an existing listening socket, with and without TLS.

use std::io;

use axum::{Router, routing::get};
use ocpp_rpc::{
    RpcRouter, RpcServer,
    server::{Listener, RpcServerBuilder},
};
use tokio::net::TcpListener;

use crate::tcp::{Client, head, offering, soon};

fn builder() -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"])
}

async fn status(listener: &Listener, head: &str) -> u16 {
    soon(Client::dial(listener.local_addr()).await.ask(head)).await.status
}

#[tokio::test]
async fn b15_existing_socket_serves_stations_only_by_default() {
    let server = builder().build().expect("valid settings");
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = socket.local_addr().expect("an address");
    let listener = server.with_listener(socket).serve().await.expect("a listening socket");
    assert_eq!(listener.local_addr(), address);
    assert_eq!(status(&listener, &offering("/ocpp/CP", "ocpp1.6")).await, 101);
    assert_eq!(status(&listener, "GET /ocpp/CP HTTP/1.1\r\nHost: test\r\n\r\n").await, 404);
}

#[tokio::test]
async fn existing_socket_serves_an_application() {
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/health", get(async || "ok")).route_service("/ocpp/{*identity}", server.clone());
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let listener = server.with_listener(socket).app(app).serve().await.expect("a listening socket");
    assert_eq!(status(&listener, &offering("/ocpp/CP", "ocpp1.6")).await, 101);
    assert_eq!(status(&listener, "GET /health HTTP/1.1\r\nHost: test\r\n\r\n").await, 200);
    assert_eq!(status(&listener, &head("/elsewhere/CP")).await, 404);
}

#[tokio::test]
async fn address_in_use_is_an_error() {
    let server = builder().build().expect("valid settings");
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let again = server.bind(listener.local_addr()).serve().await.expect_err("in use");
    assert_eq!(again.kind(), io::ErrorKind::AddrInUse);
}

#[tokio::test]
async fn address_resolving_to_nothing_is_an_error() {
    let server = builder().build().expect("valid settings");
    let no_addresses: &[std::net::SocketAddr] = &[];
    let error = server.bind(no_addresses).serve().await.expect_err("no address");
    assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
}

#[tokio::test]
async fn dropped_builder_leaves_server_open() {
    let server = builder().build().expect("valid settings");
    drop(server.bind("127.0.0.1:0"));
    assert!(!server.is_closing());
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    assert_eq!(status(&listener, &offering("/ocpp/CP", "ocpp1.6")).await, 101);
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn existing_socket_serves_tls() {
    use ocpp_rpc::tls::ServerTls;

    use crate::tls::{Authority, alpn, tls_to};

    let authority = Authority::new();
    let tls =
        ServerTls::builder().certificate(authority.issue("127.0.0.1").certificate()).build().expect("valid settings");
    let server = builder().build().expect("valid settings");
    let socket = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let listener = server.with_listener(socket).tls(tls).serve().await.expect("a listening socket");
    let stream = soon(tls_to(listener.local_addr(), alpn(&authority, &["http/1.1"]))).await.expect("a TLS stream");
    let mut client = Client::over(stream);
    assert_eq!(soon(client.ask(&offering("/ocpp/CP", "ocpp1.6"))).await.status, 101);
    let session = async {
        loop {
            match server.session("CP") {
                Some(session) => return session,
                None => tokio::task::yield_now().await,
            }
        }
    };
    assert!(soon(session).await.tls().is_some());
}

#[cfg(feature = "tls")]
#[tokio::test]
async fn tls_none_serves_plain_tcp() {
    let server = builder().build().expect("valid settings");
    let listener = server.bind("127.0.0.1:0").tls(None).serve().await.expect("a port");
    assert_eq!(status(&listener, &offering("/ocpp/CP", "ocpp1.6")).await, 101);
}
