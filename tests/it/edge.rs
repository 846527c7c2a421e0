//! Settings of a server's edge: subprotocols, identities, limits of sessions, and connections accepted elsewhere.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::any};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use http::Request;
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Reject, RpcRouter, RpcServer, RpcUpgrade, Session,
    close::CloseCause,
    event::EventKind,
    server::{
        ConnectionInfo, DuplicateIdentity, Identity, NoCommonProtocol, RpcServerBuilder, TrustedProxies, UpgradeError,
    },
    tls::{TlsInfo, TlsVersion},
};
use serde_json::{Value, json};
use tokio::{
    io::DuplexStream,
    sync::{Notify, mpsc},
    time::{Instant, sleep},
};
use tower::util::MapRequestLayer;

use crate::tcp::{Client, Site, TcpStation, head, offering, soon, with};

const WHO: &str = r#"[2,"1","Who",{}]"#;

/// A server with a `Who` handler that returns the identity and protocol of its session.
fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        Ok(json!({"who": [session.identity(), session.protocol()]}))
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
}

async fn who(station: &mut TcpStation) -> Value {
    let response = soon(station.ask(WHO)).await;
    let (_, _, mut who): (u8, String, Value) = serde_json::from_str(&response).expect("a result");
    who["who"].take()
}

/// An in-memory client of a connection that `server` serves with this information.
fn connect(server: &RpcServer, info: ConnectionInfo) -> Client<DuplexStream> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = server.clone();
    tokio::spawn(async move { server.serve_connection(far, info).await });
    Client::over(near)
}

fn from(address: &str) -> ConnectionInfo {
    ConnectionInfo::new().remote_address(SocketAddr::new(address.parse().expect("an address"), 1))
}

// Subprotocols.

#[tokio::test]
async fn server_protocol_order_decides_if_preferred() {
    let site = Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).prefer_server_order(true)).await;
    for (offer, agreed) in [("ocpp1.6, ocpp2.0.1", "ocpp2.0.1"), ("mine, ocpp1.6", "ocpp1.6")] {
        let mut station = site.enter(&offering("/CP", offer)).await;
        assert_eq!(station.protocol.as_deref(), Some(agreed), "{offer}");
        assert_eq!(who(&mut station).await, json!(["CP", agreed]));
    }
}

#[tokio::test]
async fn station_without_offer_gets_unnamed_default_protocol() {
    let site = Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).default_protocol("ocpp1.6")).await;
    for head in [head("/CP"), offering("/CP", ""), offering("/CP", " ,, ")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None, "{head}");
        assert_eq!(who(&mut station).await, json!(["CP", "ocpp1.6"]), "{head}");
    }
    let mut station = site.enter(&offering("/CP", "ocpp2.0.1")).await;
    assert_eq!(who(&mut station).await, json!(["CP", "ocpp2.0.1"]));
    // The default protocol does not apply to a client that offers an unknown protocol.
    let mut other = site.enter(&offering("/CP", "mine")).await;
    assert_eq!(soon(other.closed()).await.0, 1002);
}

#[tokio::test]
async fn authenticator_may_choose_default_protocol_without_offer() {
    let authenticator = async |handshake: Handshake| Ok(Accept::new().protocol(handshake.identity()));
    let site =
        Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).default_protocol("ocpp1.6").auth(authenticator)).await;
    let mut station = site.enter(&head("/ocpp1.6")).await;
    assert_eq!(station.protocol, None);
    assert_eq!(who(&mut station).await, json!(["ocpp1.6", "ocpp1.6"]));
    assert_eq!(site.ask(&head("/ocpp2.0.1")).await.status, 400);
    assert_eq!(site.ask(&offering("/ocpp1.6", "ocpp2.0.1")).await.status, 400);
}

#[tokio::test]
async fn no_common_protocol_is_refused_if_set() {
    let builder = builder().protocols(["ocpp1.6"]).no_common_protocol(NoCommonProtocol::Refuse);
    let mut site = Site::of(builder).await;
    for head in [head("/CP"), offering("/CP", "ocpp2.1")] {
        let response = site.ask(&head).await;
        assert_eq!((response.status, &*response.body), (400, "no common subprotocol"), "{head}");
        assert_eq!(response.header("upgrade"), "");
        assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(400), "no common subprotocol".to_owned()));
    }
}

#[tokio::test]
async fn no_common_protocol_is_served_if_set() {
    let site = Site::of(builder().protocols(["ocpp1.6"]).no_common_protocol(NoCommonProtocol::Serve)).await;
    for head in [head("/CP"), offering("/CP", "ocpp2.1")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None, "{head}");
        assert_eq!(who(&mut station).await, json!(["CP", null]), "{head}");
    }
    let mut station = site.enter(&offering("/CP", "ocpp1.6")).await;
    assert_eq!(who(&mut station).await, json!(["CP", "ocpp1.6"]));
}

#[tokio::test]
async fn b78_largest_edge_settings_serve_a_handshake() {
    let max = usize::MAX;
    let builder = builder().max_headers(24_576).max_head_size(i32::MAX as usize).max_identity_length(max);
    let builder = builder.max_pending_handshakes(max).max_pending_handshakes_per_address(max).max_connections(max);
    let builder = builder.max_sessions(max).max_sessions_per_address(max);
    let site = Site::of(builder.max_outliving_handlers(max)).await;
    let mut request = head("/CP");
    request.truncate(request.len() - 2);
    let many = (0..24_000).map(|n| format!("x-{n}: 1\r\n")).collect::<String>();
    let mut station = site.enter(&format!("{request}{many}\r\n")).await;
    assert_eq!(who(&mut station).await[0], "CP");
}

#[test]
fn b10_invalid_edge_settings_are_refused_by_name() {
    type Invalidate = fn(RpcServerBuilder) -> RpcServerBuilder;
    let cases: &[(Invalidate, &str)] = &[
        (|builder| builder.protocols(["ocpp1.6"]).default_protocol("ocpp2.1"), "\"ocpp2.1\" is not in protocols"),
        (|builder| builder.default_protocol("ocpp1.6"), "\"ocpp1.6\" is not in protocols"),
        (|builder| builder.max_sessions(0), "max_sessions must be more than zero"),
        (|builder| builder.max_sessions_per_address(0), "max_sessions_per_address must be more than zero"),
        (|builder| builder.max_headers(0), "max_headers must be more than zero"),
        (|builder| builder.max_connections(0), "max_connections must be more than zero"),
        (|builder| builder.max_head_size(8191), "max_head_size"),
        (|builder| builder.max_head_size(usize::MAX), "max_head_size"),
        (|builder| builder.max_headers(24_577), "max_headers must be at most 24576"),
        (|builder| builder.max_headers(usize::MAX), "max_headers must be at most 24576"),
        (|builder| builder.handshake_timeout(Duration::from_micros(999)), "handshake_timeout"),
    ];
    for (invalidate, text) in cases {
        let error = invalidate(builder()).build().expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    }
}

// Identities.

/// Sets the identity from the query, if there is one. A layer applies it to each request.
fn identify<B>(mut request: Request<B>) -> Request<B> {
    if let Some(identity) = request.uri().query().map(|query| Identity(query.replace('+', " "))) {
        request.extensions_mut().insert(identity);
    }
    request
}

#[tokio::test]
async fn b11_identity_set_by_layer_replaces_path_identity() {
    let seen = async |handshake: Handshake| {
        let shown = (handshake.identity().to_owned(), handshake.endpoint().to_owned());
        assert!(handshake.password_is(b"secret"), "{shown:?}");
        Ok(Accept::new().extension(shown))
    };
    let server = builder().auth(seen).max_identity_length(20).build().expect("valid settings");
    let extracted = {
        let server = server.clone();
        any(async move |upgrade: RpcUpgrade| {
            let shown = (upgrade.handshake().identity().to_owned(), upgrade.handshake().endpoint().to_owned());
            server.accept::<axum::body::Body>(upgrade, Accept::new().extension(shown))
        })
    };
    let app = Router::new()
        .route_service("/service", server.clone())
        .nest_service("/nested/stations", server.clone())
        .route("/extracted/", extracted)
        .layer(MapRequestLayer::new(identify::<axum::body::Body>));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let credentials = |path: &str, user: &str| {
        with(&head(path), &format!("Authorization: Basic {}", BASE64_STANDARD.encode(format!("{user}:secret"))))
    };
    for (path, endpoint) in
        [("/service", "/service"), ("/nested/stations/", "/nested/stations"), ("/extracted/", "/extracted")]
    {
        let mut client = Client::dial(listener.local_addr()).await;
        let response = client.ask(&credentials(&format!("{path}?old+CP/1"), "old CP/1")).await;
        let mut station = client.upgraded(&response).await;
        assert_eq!(who(&mut station).await, json!(["old CP/1", null]), "{path}");
        let session = server.session("old CP/1").expect("registered");
        assert_eq!(session.extension(), Some(("old CP/1".to_owned(), endpoint.to_owned())));
        for wrong in ["", "a\u{85}", &"x".repeat(21)] {
            let mut client = Client::dial(listener.local_addr()).await;
            let response = client.ask(&credentials(&format!("{path}?{wrong}"), wrong)).await;
            assert_eq!(response.status, 404, "{path} {wrong:?}");
        }
    }
    // If the layer sets no identity, the path determines it.
    let mut client = Client::dial(listener.local_addr()).await;
    assert_eq!(client.ask(&credentials("/nested/stations/CP", "CP")).await.status, 101);
}

// Sessions of one identity.

#[tokio::test]
async fn b21_oldest_session_stays_if_new_ones_are_rejected() {
    let mut site = Site::of(builder().duplicate_identity(DuplicateIdentity::RejectNew)).await;
    let mut old = site.enter(&head("/CP")).await;
    who(&mut old).await;
    let response = site.ask(&head("/CP")).await;
    assert_eq!((response.status, &*response.body), (409, "the identity is already connected"));
    assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(409), response.body));
    who(&mut old).await;

    let session = site.server.session("CP").expect("registered");
    let (_, _) = soon(async { tokio::join!(session.close(Close::normal()), old.closed()) }).await;
    who(&mut site.enter(&head("/CP")).await).await;
}

#[tokio::test]
async fn b21_second_of_simultaneous_handshakes_is_refused_if_set() {
    let server = builder().duplicate_identity(DuplicateIdentity::RejectNew).build().expect("valid settings");
    // The response does not fit into the pipe, so the first session cannot open yet.
    let (near, far) = tokio::io::duplex(16);
    tokio::spawn({
        let server = server.clone();
        async move { server.serve_connection(far, ConnectionInfo::new()).await }
    });
    let mut first = Client::over(near);
    first.send(head("/CP")).await;
    let status = first.status().await;
    assert!(server.sessions().is_empty());
    assert_eq!(connect(&server, ConnectionInfo::new()).ask(&head("/CP")).await.status, 409);
    let response = first.answer_behind(status).await;
    soon(first.upgraded(&response).await.ask(WHO)).await;
}

#[tokio::test]
async fn b21_duplicate_sessions_coexist_if_both_are_allowed() {
    let site = Site::of(builder().duplicate_identity(DuplicateIdentity::AllowBoth)).await;
    let mut sessions = Vec::new();
    let mut stations = Vec::new();
    for _ in 0..3 {
        let mut station = site.enter(&head("/CP")).await;
        who(&mut station).await;
        sessions.push(site.server.session("CP").expect("the newest"));
        stations.push(station);
    }
    assert_eq!(site.server.sessions().len(), 3);
    for station in &mut stations {
        who(station).await;
    }
    // The server returns the newest of the remaining sessions, in any order of closing.
    for (leaving, newest) in [(1, Some(2)), (2, Some(0)), (0, None)] {
        let (closing, _) =
            soon(async { tokio::join!(sessions[leaving].close(Close::normal()), stations[leaving].closed()) }).await;
        assert_eq!(closing.cause, CloseCause::Local);
        let remaining = site.server.session("CP").map(|session| session.connected_at());
        assert_eq!(remaining, newest.map(|newest: usize| sessions[newest].connected_at()));
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b21_thousand_connections_of_one_identity_leave_one_session() {
    let options = Options::server().close_timeout(Duration::from_millis(100)).ping_interval(None);
    let server = builder().options(options).max_sessions(1).build().expect("valid settings");
    let clients = join_all((0..1000).map(async |_| {
        let mut client = connect(&server, ConnectionInfo::new());
        client.send(head("/CP")).await;
        client
    }));
    let responses = clients.await.into_iter().map(|mut client| async {
        let response = client.answer().await;
        (client, response)
    });
    let (mut entered, mut full) = (Vec::new(), 0);
    for (client, response) in join_all(responses).await {
        match response.status {
            101 => entered.push(tokio::spawn(async { client.rest().await })),
            503 => full += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((entered.len() + full, server.sessions().len()), (1000, 1));
    let last = server.session("CP").expect("one session remains");
    assert!(last.is_open());
    soon(last.close(Close::normal())).await;
    assert!(server.session("CP").is_none());
    for client in entered {
        soon(client).await.expect("every connection ends");
    }
    // Wait until the server has released every reservation.
    while connect(&server, ConnectionInfo::new()).ask(&head("/other")).await.status == 503 {
        tokio::task::yield_now().await;
    }
}

// Limits of sessions.

#[tokio::test]
async fn b22_sessions_over_limit_are_refused_until_one_ends() {
    let mut site = Site::of(builder().max_sessions(2)).await;
    let mut first = site.enter(&head("/first")).await;
    who(&mut first).await;
    let _second = site.enter(&head("/second")).await;
    let response = site.ask(&head("/third")).await;
    assert_eq!((response.status, response.header("retry-after"), &*response.body), (503, "5", "too many sessions"));
    assert_eq!(site.refused().await, (Some("third".to_owned()), Some(503), response.body));
    // A reconnecting station replaces its old session within the limit.
    let mut again = site.enter(&head("/first")).await;
    assert_eq!(soon(first.closed()).await.0, 1008);
    who(&mut again).await;
    assert_eq!(site.ask(&head("/third")).await.status, 503);

    let session = site.server.session("first").expect("registered");
    soon(async { tokio::join!(session.close(Close::normal()), again.closed()) }).await;
    while site.ask(&head("/third")).await.status == 503 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn b22_sessions_without_limit_all_open() {
    let unlimited =
        builder().max_sessions(1).max_sessions(None).max_sessions_per_address(1).max_sessions_per_address(None);
    let site = Site::of(unlimited).await;
    let _first = site.enter(&head("/first")).await;
    let _second = site.enter(&head("/second")).await;
    assert_eq!(site.ask(&head("/third")).await.status, 101);
}

#[tokio::test]
async fn b22_sessions_over_address_limit_are_refused() {
    let server = builder().max_sessions_per_address(2).build().expect("valid settings");
    let mut sessions = Vec::new();
    for (number, (address, status)) in [
        ("10.0.0.1", 101),
        ("10.0.0.1", 101),
        ("10.0.0.1", 429),
        // The same address, written as an IPv4-mapped IPv6 address.
        ("::ffff:10.0.0.1", 429),
        ("10.0.0.2", 101),
        // The limit applies to a /64 network as a whole.
        ("2001:db8:0:1::1", 101),
        ("2001:db8:0:1:ffff::1", 101),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 101),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = connect(&server, from(address));
        let response = client.ask(&head(&format!("/CP-{number}"))).await;
        assert_eq!(response.status, status, "{address}");
        match status {
            101 => sessions.push(client),
            _ => assert_eq!(response.header("retry-after"), "5"),
        }
    }
    // A station reconnects from the same address, and another one from an address at its limit.
    assert_eq!(connect(&server, from("10.0.0.1")).ask(&head("/CP-0")).await.status, 101);
    assert_eq!(connect(&server, from("2001:db8:0:1::3")).ask(&head("/CP-1")).await.status, 429);
    // Connections without a known address are not counted.
    for number in 0..3 {
        let mut client = connect(&server, ConnectionInfo::new());
        assert_eq!(client.ask(&head(&format!("/unknown-{number}"))).await.status, 101);
        sessions.push(client);
    }
    drop(sessions);
    while connect(&server, from("10.0.0.1")).ask(&head("/new")).await.status == 429 {
        tokio::task::yield_now().await;
    }
}

// Options.

#[tokio::test]
async fn authenticator_sets_options_of_session() {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "small" => Ok(Accept::new().options(Options::server().max_message_size(10))),
        "absurd" => Ok(Accept::new().options(Options::server().max_message_size(0))),
        _ => Ok(Accept::new()),
    };
    let mut site = Site::of(builder().auth(authenticator)).await;
    who(&mut site.enter(&head("/large")).await).await;
    let mut small = site.enter(&head("/small")).await;
    soon(small.send(WHO)).await;
    assert_eq!(soon(small.closed()).await.0, 1009);
    assert_eq!(site.ask(&head("/absurd")).await.status, 500);
    assert_eq!(site.refused().await.1, Some(500));
}

#[tokio::test]
async fn b09_new_server_options_apply_to_later_sessions() {
    let site = Site::of(builder()).await;
    let mut before = site.enter(&head("/before")).await;
    who(&mut before).await;
    assert!(site.server.set_options(Options::server().call_queue(0)).is_err());
    site.server.set_options(Options::server().max_message_size(10)).expect("valid settings");
    let mut after = site.enter(&head("/after")).await;
    soon(after.send(WHO)).await;
    assert_eq!(soon(after.closed()).await.0, 1009);
    who(&mut before).await;
}

#[tokio::test]
async fn b22_repeated_reconnects_stay_within_session_limits() {
    let mut site = Site::of(builder().max_sessions(3).max_sessions_per_address(3)).await;
    // A replaced client that does not disconnect still counts until its connection ends.
    let mut kept = Vec::new();
    let mut statuses = Vec::new();
    for _ in 0..10 {
        let mut client = site.dial().await;
        statuses.push(client.ask(&head("/same")).await.status);
        kept.push(client);
        site.server.session("same").expect("the newest");
    }
    let opened = statuses.iter().filter(|status| **status == 101).count();
    assert!((2..=4).contains(&opened), "{statuses:?}");
    assert!(statuses.iter().all(|status| [101, 429, 503].contains(status)), "{statuses:?}");
    assert!([Some(429), Some(503)].contains(&site.refused().await.1));
}

#[tokio::test]
async fn b22_client_without_common_protocol_counts_until_closed() {
    let site = Site::of(builder().protocols(["ocpp1.6"]).max_sessions(1)).await;
    let mut incompatible = site.dial().await;
    assert_eq!(incompatible.ask(&offering("/A", "mine")).await.status, 101);
    assert_eq!(site.ask(&offering("/B", "ocpp1.6")).await.status, 503);
}

#[tokio::test]
async fn b13_pending_handshakes_of_one_address_leave_places_for_others() {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "stuck" => std::future::pending().await,
        _ => Ok(Accept::new()),
    };
    let mut stuck = Vec::new();
    let mut fill = async |server: &RpcServer, handshakes: usize, address: &str| {
        let mut clients = Vec::new();
        for _ in 0..handshakes {
            let mut client = connect(server, from(address));
            client.send(head("/stuck")).await;
            clients.push(client);
        }
        tokio::task::yield_now().await;
        stuck.append(&mut clients);
    };
    let refusal = (503, "5".to_owned(), "too many pending handshakes from this address".to_owned());
    let refused = async |server: &RpcServer, address: &str| {
        let response = connect(server, from(address)).ask(&head("/CP")).await;
        (response.status, response.header("retry-after").to_owned(), response.body)
    };
    // A quarter by default. IPv6 networks of 64 bits count as one address, trusted proxies do not count.
    let proxies = TrustedProxies::x_forwarded(["10.9.0.0/16"]).expect("a network");
    let server = builder().auth(authenticator).trusted_proxies(proxies).build().expect("valid settings");
    fill(&server, 256, "10.0.0.2").await;
    assert_eq!(refused(&server, "10.0.0.2").await, refusal);
    fill(&server, 255, "2001:db8::2").await;
    assert_eq!(refused(&server, "2001:db8::3").await.0, 101);
    fill(&server, 1, "2001:db8::3").await;
    assert_eq!(refused(&server, "2001:db8::4").await, refusal);
    assert_eq!(refused(&server, "2001:db8:0:1::4").await.0, 101);
    fill(&server, 300, "10.9.0.1").await;
    assert_eq!(refused(&server, "10.9.0.1").await.0, 101);
    assert_eq!(refused(&server, "10.0.0.3").await.0, 101);

    let server = builder().auth(authenticator).max_pending_handshakes_per_address(2).build().expect("valid settings");
    fill(&server, 2, "10.0.0.2").await;
    assert_eq!(refused(&server, "10.0.0.2").await, refusal);
    assert_eq!(refused(&server, "10.0.0.3").await.0, 101);
}

// Connections that the application has accepted.

#[tokio::test]
async fn b11_connection_info_reaches_authenticator_and_session() {
    let (sender, mut handshakes) = mpsc::unbounded_channel();
    let authenticator = move |handshake: Handshake| {
        sender.send(handshake).expect("a test");
        async { Ok(Accept::new()) }
    };
    let server = builder().auth(authenticator).build().expect("valid settings");
    let tls = TlsInfo::new().with_version(TlsVersion::Tls12).with_peer_chain([vec![1, 2, 3], vec![4]]);
    let mut client = connect(&server, from("192.0.2.7").tls(tls.clone()));
    // The information applies to every request of the connection.
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
    let response = client.ask(&head("/CP")).await;
    soon(client.upgraded(&response).await.ask(WHO)).await;
    let handshake = soon(handshakes.recv()).await.expect("a handshake");
    let session = server.session("CP").expect("registered");
    assert_eq!((handshake.tls(), session.tls()), (Some(&tls), Some(tls.clone())));
    assert_eq!(handshake.remote_address().map(|address| address.to_string()), Some("192.0.2.7:1".to_owned()));
    assert_eq!(session.remote_address(), handshake.remote_address());
    let info = session.tls().expect("TLS information");
    assert_eq!((info.version(), info.peer_chain().len()), (Some(TlsVersion::Tls12), 2));
    assert_eq!(format!("{info:?}"), "TlsInfo { version: Some(Tls12), peer_certificates: 2 }");
}

#[tokio::test]
async fn served_connection_ends_on_upgrade_or_server_close() {
    let server = builder().build().expect("valid settings");
    let serve = || {
        let (near, far) = tokio::io::duplex(4096);
        let server = server.clone();
        (Client::over(near), tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await }))
    };
    let (mut client, served) = serve();
    let response = client.ask(&head("/CP")).await;
    let mut station = client.upgraded(&response).await;
    soon(served).await.expect("no panic");
    assert!(soon(station.ask(WHO)).await.starts_with("[3,"));

    let (client, served) = serve();
    let closing = async { tokio::join!(server.close(Close::going_away()), station.closed()) };
    soon(closing).await;
    soon(served).await.expect("no panic");
    assert!(client.rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn b13_handshake_timeout_covers_head_and_authenticator() {
    let authenticator = async |_: Handshake| std::future::pending::<Result<Accept, Reject>>().await;
    let server =
        builder().auth(authenticator).handshake_timeout(Duration::from_secs(5)).build().expect("valid settings");
    let start = Instant::now();
    let mut client = connect(&server, ConnectionInfo::new());
    let head = head("/CP");
    let (first, rest) = head.split_at(20);
    client.send(first).await;
    sleep(Duration::from_secs(3)).await;
    client.send(rest).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(start.elapsed().as_secs(), 5);
    // A later request on the same connection has its own deadline.
    client.send(&head).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(start.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn request_refused_by_handler_is_event_if_reported() {
    async fn connect(
        upgrade: Result<RpcUpgrade, UpgradeError>,
        axum::extract::State(server): axum::extract::State<RpcServer>,
    ) -> axum::response::Response {
        match upgrade {
            Ok(upgrade) => server.accept(upgrade, Accept::new()),
            Err(error) => server.refuse(error),
        }
    }
    let server = builder().build().expect("valid settings");
    let app = Router::new().route("/{identity}", any(connect)).with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut events = server.events();
    let mut client = Client::dial(listener.local_addr()).await;
    let response = client.ask(&head("/CP").replace("Version: 13", "Version: 7")).await;
    assert_eq!((response.status, response.header("sec-websocket-version")), (426, "13"));
    let event = soon(events.next()).await.expect("an event");
    assert_eq!(event.remote_address, Some(client.address()));
    assert!(matches!(event.kind, EventKind::HandshakeRefused { status: Some(426), .. }), "{event:?}");
    assert_eq!(client.ask(&head("/CP")).await.status, 101);
}

// Limits of the listener.

#[tokio::test]
async fn head_size_and_header_count_limits_can_be_set() {
    let site = Site::of(builder().max_head_size(16 << 10).max_headers(10)).await;
    for (bytes, status) in [(15 << 10, 101), (17 << 10, 431)] {
        let head = with(&head("/CP"), &format!("X-Padding: {}", "x".repeat(bytes)));
        assert_eq!(site.ask(&head).await.status, status, "{bytes}");
    }
    for (more, status) in [(5, 101), (6, 431)] {
        let lines = vec!["X-More: x"; more].join("\r\n");
        assert_eq!(site.ask(&with(&head("/CP"), &lines)).await.status, status, "{more}");
    }
}

#[tokio::test]
async fn clients_over_max_connections_wait_and_sessions_do_not_count() {
    let entered = Arc::new(Notify::new());
    let authenticator = {
        let entered = entered.clone();
        move |handshake: Handshake| {
            entered.notify_one();
            async move {
                match handshake.identity() {
                    "stuck" => std::future::pending().await,
                    _ => Ok(Accept::new()),
                }
            }
        }
    };
    let builder = builder().auth(authenticator).max_connections(2).max_connections_per_address(9);
    let builder = builder.handshake_timeout(Duration::from_secs(3600));
    let site = Site::of(builder).await;
    let mut sessions = Vec::new();
    for number in 0..5 {
        let mut station = site.enter(&head(&format!("/CP-{number}"))).await;
        who(&mut station).await;
        soon(entered.notified()).await;
        sessions.push(station);
    }
    let mut stuck = site.dial().await;
    stuck.send(head("/stuck")).await;
    soon(entered.notified()).await;
    let mut busy = site.dial().await;
    busy.send(head("/stuck")).await;
    soon(entered.notified()).await;
    let mut waiting = site.dial().await;
    waiting.send(head("/waiting")).await;
    who(&mut sessions[0]).await;
    assert!(site.server.session("waiting").is_none());
    drop(busy);
    assert_eq!(waiting.answer().await.status, 101);
}
