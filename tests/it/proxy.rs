//! A server behind a proxy: what the proxy says of its clients reaches hook, session, events and limits.

use std::net::SocketAddr;

use axum::{Router, extract::Extension, response::Response, routing::any};
use ocpp_rpc::{
    Accept, Handshake, Reject, RpcRouter, RpcServer, RpcUpgrade,
    event::EventKind,
    server::{RemoteAddress, RpcServerBuilder, TrustedProxies},
    tls::TlsInfo,
};

use crate::tcp::{Client, Site, head, soon, with};

const STATION: &str = "203.0.113.9:0";

/// A server that believes the loopback, and lets in whom a proxy vouches for.
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

/// A handshake as a proxy hands it on.
fn forwarded(head: &str) -> String {
    with(head, "X-Forwarded-For: 1.1.1.1, 203.0.113.9\r\nX-Forwarded-Proto: https\r\nX-Client-Cert: AQID")
}

/// Checks that the station is known by what the proxy says.
async fn is_seen_through(server: &RpcServer, address: SocketAddr) {
    let mut events = server.events();
    let mut client = Client::dial(address).await;
    // Refused without a certificate, and known all the same.
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
async fn what_a_trusted_proxy_says_holds_for_the_service() {
    let Site { server, listener, .. } = Site::of(builder()).await;
    is_seen_through(&server, listener.local_addr()).await;
}

#[tokio::test]
async fn what_a_trusted_proxy_says_holds_below_axums_own_server() {
    let server = builder().build().expect("sound");
    let app = Router::new().nest_service("/ocpp", server.clone());
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");
    tokio::spawn(async { axum::serve(listener, app.into_make_service_with_connect_info::<SocketAddr>()).await });
    is_seen_through(&server, address).await;
}

#[tokio::test]
async fn what_a_trusted_proxy_says_holds_for_the_whole_application_of_a_listener() {
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
    let server = builder().build().expect("sound");
    let app = Router::new().route("/ocpp/{identity}", any(connect)).with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let answer = Client::dial(listener.local_addr()).await.ask(&forwarded(&head("/ocpp/CP"))).await;
    assert_eq!(answer.status, 101);
    let mut events = server.events();
    while server.session("CP").is_none() {
        soon(events.next()).await;
    }
    let session = server.session("CP").expect("registered");
    assert_eq!(session.remote_address().map(|address| address.to_string()).as_deref(), Some(STATION));
}

#[tokio::test]
async fn the_extractor_below_axums_own_server_is_believed_when_the_session_opens() {
    async fn connect(upgrade: RpcUpgrade, axum::extract::State(server): axum::extract::State<RpcServer>) -> Response {
        server.accept(upgrade, Accept::new())
    }
    let server = builder().build().expect("sound");
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
async fn anybody_elses_word_means_nothing() {
    let proxies = TrustedProxies::x_forwarded(["10.0.0.0/8"]).expect("a network");
    let stranger = builder().trusted_proxies(proxies.client_certificate("x-client-cert".parse().expect("a name")));
    let mut site = Site::of(stranger).await;
    let mut client = site.dial().await;
    assert_eq!(client.ask(&forwarded(&head("/CP"))).await.status, 401);
    let event = soon(site.events.next()).await.expect("an event");
    assert_eq!(event.remote_address, Some(client.address()));
}

#[tokio::test]
async fn sessions_are_counted_by_the_address_behind_the_proxy() {
    let site = Site::of(builder().max_sessions_per_address(1)).await;
    let mut clients = Vec::new();
    for (identity, address, status) in [
        ("one", "203.0.113.9", 101),
        ("two", "203.0.113.9", 429),
        ("three", "203.0.113.10", 101),
        // Who comes to the proxy with a line of his own is himself.
        ("four", "198.51.100.1, 203.0.113.10", 429),
    ] {
        let head = forwarded(&head(&format!("/{identity}"))).replace("1.1.1.1, 203.0.113.9", address);
        let mut client = site.dial().await;
        assert_eq!(client.ask(&head).await.status, status, "{identity}");
        clients.push(client);
    }
}
