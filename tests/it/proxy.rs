//! A server behind a proxy: the client info in the proxy's headers reaches authenticator, session, events and limits.

use std::net::SocketAddr;

use axum::{Router, extract::Extension, response::Response, routing::any};
use ocpp_rpc::{
    Accept, Handshake, Reject, RpcRouter, RpcServer, RpcUpgrade,
    event::EventKind,
    server::{RemoteAddress, RpcServerBuilder, TrustedProxies, UpgradeError},
    tls::TlsInfo,
};

use crate::tcp::{Client, Site, head, soon, with};

const STATION: &str = "203.0.113.9:0";

/// A server that trusts the loopback address as a proxy, and accepts clients with a certificate in its headers.
fn builder() -> RpcServerBuilder {
    let proxies = TrustedProxies::x_forwarded(["127.0.0.1"]).expect("a network");
    let certificate = "x-client-cert".parse().expect("a name");
    RpcServer::builder(RpcRouter::new()).trusted_proxies(proxies.client_certificate(certificate)).auth(
        async |handshake: Handshake| match handshake.tls() {
            Some(tls) if tls.peer_chain().len() == 1 => Ok(Accept::new()),
            _ => Err(Reject::unauthorized()),
        },
    )
}

/// Adds the headers of a proxy to a handshake.
fn forwarded(head: &str) -> String {
    with(head, "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Client-Cert: AQID")
}

/// Checks that the server takes the station's address and certificate from the headers of the proxy.
async fn check_forwarded_info(server: &RpcServer, address: SocketAddr) {
    let mut events = server.events();
    let mut client = Client::dial(address).await;
    // The handshake is refused without a certificate; the event has the forwarded address nevertheless.
    let refused = forwarded(&head("/ocpp/CP")).replace("X-Client-Cert", "X-Other");
    assert_eq!(client.ask(&refused).await.status, 401);
    let event = soon(events.next()).await.expect("an event");
    assert_eq!(event.remote_address.map(|address| address.to_string()).as_deref(), Some(STATION));

    assert_eq!(client.ask(&forwarded(&head("/ocpp/CP"))).await.status, 101);
    let event = soon(events.next()).await.expect("an event");
    assert!(matches!(event.kind, EventKind::Opened { .. }), "{event:?}");
    let session = server.session("CP").expect("registered");
    assert_eq!(session.remote_address().map(|address| address.to_string()).as_deref(), Some(STATION));
    assert_eq!(session.tls(), Some(TlsInfo::new().with_peer_chain([vec![1, 2, 3]])));
}

#[tokio::test]
async fn trusted_proxy_headers_reach_service() {
    let Site { server, listener, .. } = Site::of(builder()).await;
    check_forwarded_info(&server, listener.local_addr()).await;
}

#[tokio::test]
async fn trusted_proxy_headers_reach_service_below_axum_serve() {
    let server = builder().build().expect("valid settings");
    let app = Router::new().nest_service("/ocpp", server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    check_forwarded_info(&server, address).await;
}

#[tokio::test]
async fn trusted_proxy_headers_reach_application_of_listener() {
    async fn connect(
        Extension(RemoteAddress(seen)): Extension<RemoteAddress>,
        tls: Option<Extension<TlsInfo>>,
        upgrade: RpcUpgrade,
        axum::extract::State(server): axum::extract::State<RpcServer>,
    ) -> Response {
        assert_eq!(seen.to_string(), STATION);
        assert_eq!(upgrade.handshake().remote_address(), Some(seen));
        assert_eq!(upgrade.handshake().tls(), tls.as_deref());
        server.accept(upgrade, Accept::new())
    }
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/ocpp/{identity}", any(connect)).with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let response = Client::dial(listener.local_addr()).await.ask(&forwarded(&head("/ocpp/CP"))).await;
    assert_eq!(response.status, 101);
    let mut events = server.events();
    while server.session("CP").is_none() {
        soon(events.next()).await;
    }
    let session = server.session("CP").expect("registered");
    assert_eq!(session.remote_address().map(|address| address.to_string()).as_deref(), Some(STATION));
}

#[tokio::test]
async fn trusted_proxy_headers_reach_session_by_axum_extractor() {
    async fn connect(upgrade: RpcUpgrade, axum::extract::State(server): axum::extract::State<RpcServer>) -> Response {
        server.accept(upgrade, Accept::new())
    }
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/ocpp/{identity}", any(connect)).with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    let mut events = server.events();
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    let mut client = Client::dial(address).await;
    assert_eq!(client.ask(&forwarded(&head("/ocpp/CP"))).await.status, 101);
    let event = soon(events.next()).await.expect("an event");
    assert_eq!(event.remote_address.map(|address| address.to_string()).as_deref(), Some(STATION));
    let session = server.session("CP").expect("registered");
    assert_eq!(session.tls().map(|tls| tls.peer_chain().len()), Some(1));
}

#[tokio::test]
async fn trusted_proxy_headers_reach_event_of_invalid_handshake_by_axum_extractor() {
    async fn connect(
        upgrade: Result<RpcUpgrade, UpgradeError>,
        axum::extract::State(server): axum::extract::State<RpcServer>,
    ) -> Response {
        server.refuse(upgrade.expect_err("no handshake"))
    }
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/ocpp/{identity}", any(connect)).with_state(server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    let mut events = server.events();
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    let request = with("GET /ocpp/CP HTTP/1.1\r\nHost: test\r\n\r\n", "X-Forwarded-For: 203.0.113.9");
    assert_eq!(Client::dial(address).await.ask(&request).await.status, 426);
    let event = soon(events.next()).await.expect("an event");
    assert!(matches!(event.kind, EventKind::HandshakeRefused { .. }), "{event:?}");
    assert_eq!(event.remote_address.map(|address| address.to_string()).as_deref(), Some(STATION));
}

#[tokio::test]
async fn untrusted_proxy_headers_are_ignored() {
    let proxies = TrustedProxies::x_forwarded(["10.0.0.0/8"]).expect("a network");
    let builder = builder().trusted_proxies(proxies.client_certificate("x-client-cert".parse().expect("a name")));
    let mut site = Site::of(builder).await;
    let mut client = site.dial().await;
    assert_eq!(client.ask(&forwarded(&head("/CP"))).await.status, 401);
    let event = soon(site.events.next()).await.expect("an event");
    assert_eq!(event.remote_address, Some(client.address()));
}

#[tokio::test]
async fn session_limit_counts_address_behind_proxy() {
    let site = Site::of(builder().max_sessions_per_address(1)).await;
    let mut clients = Vec::new();
    for (identity, address, status) in [
        ("one", "203.0.113.9", 101),
        ("two", "203.0.113.9", 429),
        ("three", "203.0.113.10", 101),
        // Only the address that the proxy appended counts, not one that the client sent.
        ("four", "198.51.100.1, 203.0.113.10", 429),
    ] {
        let head = forwarded(&head(&format!("/{identity}"))).replace("1.1.1.1, 203.0.113.9", address);
        let mut client = site.dial().await;
        assert_eq!(client.ask(&head).await.status, status, "{identity}");
        clients.push(client);
    }
}
