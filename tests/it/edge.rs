//! What can be chosen at a server's edge: subprotocols, identities, how many sessions, and who accepts connections.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use axum::{Router, routing::any};
use base64::{Engine, prelude::BASE64_STANDARD};
use futures_util::future::join_all;
use http::Request;
use ocpp_rpc::{
    Accept, Close, Handshake, Options, Reject, RpcRouter, RpcServer, RpcUpgrade, Session,
    close::CloseCause,
    event::EventKind,
    server::{ConnectionInfo, DuplicateIdentity, Identity, NoCommonProtocol, RpcServerBuilder, UpgradeError},
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

/// A server that tells its clients who they are.
fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        Ok(json!([session.identity(), session.protocol()])
            .as_array()
            .map(|who| json!({"who": who}))
            .unwrap_or_default())
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
}

async fn who(station: &mut TcpStation) -> Value {
    let answer = soon(station.ask(WHO)).await;
    let (_, _, mut who): (u8, String, Value) = serde_json::from_str(&answer).expect("a result");
    who["who"].take()
}

/// A client in memory, of a connection that `server` was given with these facts.
fn connect(server: &RpcServer, facts: ConnectionInfo) -> Client<DuplexStream> {
    let (near, far) = tokio::io::duplex(64 << 10);
    let server = server.clone();
    tokio::spawn(async move { server.serve_connection(far, facts).await });
    Client::over(near)
}

fn from(address: &str) -> ConnectionInfo {
    ConnectionInfo::new().remote_address(SocketAddr::new(address.parse().expect("an address"), 1))
}

// Subprotocols.

#[tokio::test]
async fn the_order_of_the_server_decides_where_it_was_told_to() {
    let site = Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).prefer_server_order(true)).await;
    for (offer, agreed) in [("ocpp1.6, ocpp2.0.1", "ocpp2.0.1"), ("mine, ocpp1.6", "ocpp1.6")] {
        let mut station = site.enter(&offering("/CP", offer)).await;
        assert_eq!(station.protocol.as_deref(), Some(agreed), "{offer}");
        assert_eq!(who(&mut station).await, json!(["CP", agreed]));
    }
}

#[tokio::test]
async fn who_offers_nothing_is_served_by_the_default_protocol_which_is_not_named() {
    let site = Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).default_protocol("ocpp1.6")).await;
    for head in [head("/CP"), offering("/CP", ""), offering("/CP", " ,, ")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None, "{head}");
        assert_eq!(who(&mut station).await, json!(["CP", "ocpp1.6"]), "{head}");
    }
    let mut station = site.enter(&offering("/CP", "ocpp2.0.1")).await;
    assert_eq!(who(&mut station).await, json!(["CP", "ocpp2.0.1"]));
    // Who offers something else has something else in mind.
    let mut other = site.enter(&offering("/CP", "mine")).await;
    assert_eq!(soon(other.closed()).await.0, 1002);
}

#[tokio::test]
async fn the_hook_may_choose_the_default_protocol_for_who_offers_nothing() {
    let hook = async |handshake: Handshake| Ok(Accept::new().protocol(handshake.identity()));
    let site = Site::of(builder().protocols(["ocpp2.0.1", "ocpp1.6"]).default_protocol("ocpp1.6").auth(hook)).await;
    let mut station = site.enter(&head("/ocpp1.6")).await;
    assert_eq!(station.protocol, None);
    assert_eq!(who(&mut station).await, json!(["ocpp1.6", "ocpp1.6"]));
    assert_eq!(site.ask(&head("/ocpp2.0.1")).await.status, 400);
    assert_eq!(site.ask(&offering("/ocpp1.6", "ocpp2.0.1")).await.status, 400);
}

#[tokio::test]
async fn no_common_protocol_is_refused_where_it_was_told_to() {
    let builder = builder().protocols(["ocpp1.6"]).no_common_protocol(NoCommonProtocol::Refuse);
    let mut site = Site::of(builder).await;
    for head in [head("/CP"), offering("/CP", "ocpp2.1")] {
        let answer = site.ask(&head).await;
        assert_eq!((answer.status, &*answer.body), (400, "no common subprotocol"), "{head}");
        assert_eq!(answer.header("upgrade"), "");
        assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(400), "no common subprotocol".to_owned()));
    }
}

#[tokio::test]
async fn no_common_protocol_is_served_where_it_was_told_to() {
    let site = Site::of(builder().protocols(["ocpp1.6"]).no_common_protocol(NoCommonProtocol::Serve)).await;
    for head in [head("/CP"), offering("/CP", "ocpp2.1")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None, "{head}");
        assert_eq!(who(&mut station).await, json!(["CP", null]), "{head}");
    }
    let mut station = site.enter(&offering("/CP", "ocpp1.6")).await;
    assert_eq!(who(&mut station).await, json!(["CP", "ocpp1.6"]));
}

#[test]
fn b10_settings_of_the_edge_that_could_never_work_are_refused_with_their_names() {
    type Spoil = fn(RpcServerBuilder) -> RpcServerBuilder;
    let cases: &[(Spoil, &str)] = &[
        (|builder| builder.protocols(["ocpp1.6"]).default_protocol("ocpp2.1"), "\"ocpp2.1\" is not in protocols"),
        (|builder| builder.default_protocol("ocpp1.6"), "\"ocpp1.6\" is not in protocols"),
        (|builder| builder.max_sessions(0), "max_sessions must be more than zero"),
        (|builder| builder.max_sessions_per_address(0), "max_sessions_per_address must be more than zero"),
        (|builder| builder.max_headers(0), "max_headers must be more than zero"),
        (|builder| builder.max_connections(0), "max_connections must be more than zero"),
        (|builder| builder.max_head_size(8191), "max_head_size"),
    ];
    for (spoil, text) in cases {
        let error = spoil(builder()).build().expect_err(text);
        assert!(error.to_string().contains(text), "{error}");
    }
}

// Identities.

/// A layer's work: the identity stands in the query, where there is one.
fn identify<B>(mut request: Request<B>) -> Request<B> {
    if let Some(identity) = request.uri().query().map(|query| Identity(query.replace('+', " "))) {
        request.extensions_mut().insert(identity);
    }
    request
}

#[tokio::test]
async fn b11_an_identity_that_a_layer_knows_stands_in_for_the_path() {
    let seen = async |handshake: Handshake| {
        let shown = (handshake.identity().to_owned(), handshake.endpoint().to_owned());
        assert!(handshake.password_is(b"secret"), "{shown:?}");
        Ok(Accept::new().extension(shown))
    };
    let server = builder().auth(seen).max_identity_length(20).build().expect("sound");
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
        let answer = client.ask(&credentials(&format!("{path}?old+CP/1"), "old CP/1")).await;
        let mut station = client.upgraded(&answer).await;
        assert_eq!(who(&mut station).await, json!(["old CP/1", null]), "{path}");
        let session = server.session("old CP/1").expect("registered");
        assert_eq!(session.extension(), Some(("old CP/1".to_owned(), endpoint.to_owned())));
        for wrong in ["", "a\u{85}", &"x".repeat(21)] {
            let mut client = Client::dial(listener.local_addr()).await;
            let answer = client.ask(&credentials(&format!("{path}?{wrong}"), wrong)).await;
            assert_eq!(answer.status, 404, "{path} {wrong:?}");
        }
    }
    // Without the layer's word the path has it.
    let mut client = Client::dial(listener.local_addr()).await;
    assert_eq!(client.ask(&credentials("/nested/stations/CP", "CP")).await.status, 101);
}

// Sessions of one identity.

#[tokio::test]
async fn b21_the_oldest_stays_where_it_was_told_to() {
    let mut site = Site::of(builder().duplicate_identity(DuplicateIdentity::RejectNew)).await;
    let mut old = site.enter(&head("/CP")).await;
    who(&mut old).await;
    let answer = site.ask(&head("/CP")).await;
    assert_eq!((answer.status, &*answer.body), (409, "the identity is already connected"));
    assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(409), answer.body));
    who(&mut old).await;

    let session = site.server.session("CP").expect("registered");
    let (_, _) = soon(async { tokio::join!(session.close(Close::normal()), old.closed()) }).await;
    who(&mut site.enter(&head("/CP")).await).await;
}

#[tokio::test]
async fn b21_of_two_that_come_at_once_only_one_gets_the_place_that_the_oldest_keeps() {
    let server = builder().duplicate_identity(DuplicateIdentity::RejectNew).build().expect("sound");
    // The answer does not fit, so that the first session cannot open yet.
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
    let answer = first.answer_behind(status).await;
    soon(first.upgraded(&answer).await.ask(WHO)).await;
}

#[tokio::test]
async fn b21_both_are_sessions_where_it_was_told_to() {
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
    // The newest that is left, whoever leaves.
    for (leaving, newest) in [(1, Some(2)), (2, Some(0)), (0, None)] {
        let (closing, _) =
            soon(async { tokio::join!(sessions[leaving].close(Close::normal()), stations[leaving].closed()) }).await;
        assert_eq!(closing.cause, CloseCause::Local);
        let left = site.server.session("CP").map(|session| session.connected_at());
        assert_eq!(left, newest.map(|newest: usize| sessions[newest].connected_at()));
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b21_a_thousand_connections_of_one_identity_leave_one_session_and_nothing_else() {
    let options = Options::server().close_timeout(Duration::from_millis(100)).ping_interval(None);
    let server = builder().options(options).max_sessions(1).build().expect("sound");
    let clients = join_all((0..1000).map(async |_| {
        let mut client = connect(&server, ConnectionInfo::new());
        client.send(head("/CP")).await;
        client
    }));
    let answers = clients.await.into_iter().map(|mut client| async {
        let answer = client.answer().await;
        (client, answer)
    });
    let (mut entered, mut full) = (Vec::new(), 0);
    for (client, answer) in join_all(answers).await {
        match answer.status {
            101 => entered.push(tokio::spawn(async { client.rest().await })),
            503 => full += 1,
            other => panic!("{other}"),
        }
    }
    assert_eq!((entered.len() + full, server.sessions().len()), (1000, 1));
    let last = server.session("CP").expect("one is left");
    assert!(last.is_open());
    soon(last.close(Close::normal())).await;
    assert!(server.session("CP").is_none());
    for client in entered {
        soon(client).await.expect("every connection ends");
    }
    // Every place was given back.
    while connect(&server, ConnectionInfo::new()).ask(&head("/other")).await.status == 503 {
        tokio::task::yield_now().await;
    }
}

// How many sessions there may be.

#[tokio::test]
async fn b22_more_sessions_than_there_may_be_are_turned_away_until_one_has_ended() {
    let mut site = Site::of(builder().max_sessions(2)).await;
    let mut first = site.enter(&head("/first")).await;
    who(&mut first).await;
    let _second = site.enter(&head("/second")).await;
    let answer = site.ask(&head("/third")).await;
    assert_eq!((answer.status, answer.header("retry-after"), &*answer.body), (503, "5", "too many sessions"));
    assert_eq!(site.refused().await, (Some("third".to_owned()), Some(503), answer.body));
    // One that comes back takes the place of its old self.
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
async fn b22_sessions_without_a_limit_all_open() {
    let unlimited =
        builder().max_sessions(1).max_sessions(None).max_sessions_per_address(1).max_sessions_per_address(None);
    let site = Site::of(unlimited).await;
    let _first = site.enter(&head("/first")).await;
    let _second = site.enter(&head("/second")).await;
    assert_eq!(site.ask(&head("/third")).await.status, 101);
}

#[tokio::test]
async fn b22_more_sessions_from_one_address_than_there_may_be_are_turned_away() {
    let server = builder().max_sessions_per_address(2).build().expect("sound");
    let mut sessions = Vec::new();
    for (number, (address, status)) in [
        ("10.0.0.1", 101),
        ("10.0.0.1", 101),
        ("10.0.0.1", 429),
        // The same address by another name.
        ("::ffff:10.0.0.1", 429),
        ("10.0.0.2", 101),
        // One network of one customer.
        ("2001:db8:0:1::1", 101),
        ("2001:db8:0:1:ffff::1", 101),
        ("2001:db8:0:1:ffff::2", 429),
        ("2001:db8:0:2::1", 101),
    ]
    .into_iter()
    .enumerate()
    {
        let mut client = connect(&server, from(address));
        let answer = client.ask(&head(&format!("/CP-{number}"))).await;
        assert_eq!(answer.status, status, "{address}");
        match status {
            101 => sessions.push(client),
            _ => assert_eq!(answer.header("retry-after"), "5"),
        }
    }
    // One of them comes back, from the same address and from another that is full.
    assert_eq!(connect(&server, from("10.0.0.1")).ask(&head("/CP-0")).await.status, 101);
    assert_eq!(connect(&server, from("2001:db8:0:1::3")).ask(&head("/CP-1")).await.status, 429);
    // Who comes from nowhere is not counted.
    for number in 0..3 {
        let mut client = connect(&server, ConnectionInfo::new());
        assert_eq!(client.ask(&head(&format!("/nowhere-{number}"))).await.status, 101);
        sessions.push(client);
    }
    drop(sessions);
    while connect(&server, from("10.0.0.1")).ask(&head("/new")).await.status == 429 {
        tokio::task::yield_now().await;
    }
}

// Options.

#[tokio::test]
async fn the_hook_decides_the_options_of_a_session() {
    let hook = async |handshake: Handshake| match handshake.identity() {
        "small" => Ok(Accept::new().options(Options::server().max_message_size(10))),
        "absurd" => Ok(Accept::new().options(Options::server().max_message_size(0))),
        _ => Ok(Accept::new()),
    };
    let mut site = Site::of(builder().auth(hook)).await;
    who(&mut site.enter(&head("/large")).await).await;
    let mut small = site.enter(&head("/small")).await;
    soon(small.send(WHO)).await;
    assert_eq!(soon(small.closed()).await.0, 1009);
    assert_eq!(site.ask(&head("/absurd")).await.status, 500);
    assert_eq!(site.refused().await.1, Some(500));
}

#[tokio::test]
async fn b09_new_options_of_a_server_hold_for_later_sessions() {
    let site = Site::of(builder()).await;
    let mut before = site.enter(&head("/before")).await;
    who(&mut before).await;
    assert!(site.server.set_options(Options::server().call_queue(0)).is_err());
    site.server.set_options(Options::server().max_message_size(10)).expect("sound");
    let mut after = site.enter(&head("/after")).await;
    soon(after.send(WHO)).await;
    assert_eq!(soon(after.closed()).await.0, 1009);
    who(&mut before).await;
}

#[tokio::test]
async fn b22_whoever_comes_again_and_again_takes_no_more_than_there_is() {
    let mut site = Site::of(builder().max_sessions(3).max_sessions_per_address(3)).await;
    // One that ignores that it was replaced keeps its place until it has gone; nobody else gets more by it.
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
async fn b22_who_has_no_common_protocol_takes_a_place_until_it_has_gone() {
    let site = Site::of(builder().protocols(["ocpp1.6"]).max_sessions(1)).await;
    let mut stranger = site.dial().await;
    assert_eq!(stranger.ask(&offering("/A", "mine")).await.status, 101);
    assert_eq!(site.ask(&offering("/B", "ocpp1.6")).await.status, 503);
}

// Connections that somebody else accepted.

#[tokio::test]
async fn b11_what_is_known_of_a_connection_reaches_the_hook_and_the_session() {
    let (shown, mut handshakes) = mpsc::unbounded_channel();
    let hook = move |handshake: Handshake| {
        shown.send(handshake).expect("a test");
        async { Ok(Accept::new()) }
    };
    let server = builder().auth(hook).build().expect("sound");
    let tls = TlsInfo::new().with_version(TlsVersion::Tls12).with_peer_chain([vec![1, 2, 3], vec![4]]);
    let mut client = connect(&server, from("192.0.2.7").tls(tls.clone()));
    // One connection for several requests: the facts are those of all of them.
    assert_eq!(client.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
    let answer = client.ask(&head("/CP")).await;
    soon(client.upgraded(&answer).await.ask(WHO)).await;
    let handshake = soon(handshakes.recv()).await.expect("shown");
    let session = server.session("CP").expect("registered");
    assert_eq!((handshake.tls(), session.tls()), (Some(&tls), Some(tls.clone())));
    assert_eq!(handshake.remote_address().map(|address| address.to_string()), Some("192.0.2.7:1".to_owned()));
    assert_eq!(session.remote_address(), handshake.remote_address());
    let facts = session.tls().expect("known");
    assert_eq!((facts.version(), facts.peer_chain().len()), (Some(TlsVersion::Tls12), 2));
    assert_eq!(format!("{facts:?}"), "TlsInfo { version: Some(Tls12), peer_certificates: 2 }");
}

#[tokio::test]
async fn a_connection_that_is_served_ends_with_its_upgrade_or_with_the_server() {
    let server = builder().build().expect("sound");
    let serve = || {
        let (near, far) = tokio::io::duplex(4096);
        let server = server.clone();
        (Client::over(near), tokio::spawn(async move { server.serve_connection(far, ConnectionInfo::new()).await }))
    };
    let (mut client, served) = serve();
    let answer = client.ask(&head("/CP")).await;
    let mut station = client.upgraded(&answer).await;
    soon(served).await.expect("no panic");
    assert!(soon(station.ask(WHO)).await.starts_with("[3,"));

    let (client, served) = serve();
    let closing = async { tokio::join!(server.close(Close::going_away()), station.closed()) };
    soon(closing).await;
    soon(served).await.expect("no panic");
    assert!(client.rest().await.is_empty());
}

#[tokio::test(start_paused = true)]
async fn b13_the_deadline_of_a_handshake_is_one_for_the_head_and_the_hook() {
    let hook = async |_: Handshake| std::future::pending::<Result<Accept, Reject>>().await;
    let server = builder().auth(hook).handshake_timeout(Duration::from_secs(5)).build().expect("sound");
    let began = Instant::now();
    let mut client = connect(&server, ConnectionInfo::new());
    let head = head("/CP");
    let (first, rest) = head.split_at(20);
    client.send(first).await;
    sleep(Duration::from_secs(3)).await;
    client.send(rest).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(began.elapsed().as_secs(), 5);
    // A later request on the same connection has its own time.
    client.send(&head).await;
    assert_eq!(client.answer().await.status, 503);
    assert_eq!(began.elapsed().as_secs(), 10);
}

#[tokio::test]
async fn a_request_that_a_handler_refuses_is_an_event_where_the_handler_says_so() {
    async fn connect(
        upgrade: Result<RpcUpgrade, UpgradeError>,
        axum::extract::State(server): axum::extract::State<RpcServer>,
    ) -> axum::response::Response {
        match upgrade {
            Ok(upgrade) => server.accept(upgrade, Accept::new()),
            Err(error) => server.refuse(error),
        }
    }
    let server = builder().build().expect("sound");
    let app = Router::new().route("/{identity}", any(connect)).with_state(server.clone());
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut events = server.events();
    let mut client = Client::dial(listener.local_addr()).await;
    let answer = client.ask(&head("/CP").replace("Version: 13", "Version: 7")).await;
    assert_eq!((answer.status, answer.header("sec-websocket-version")), (426, "13"));
    let event = soon(events.next()).await.expect("an event");
    assert_eq!(event.remote_address, Some(client.address()));
    assert!(matches!(event.kind, EventKind::HandshakeRefused { status: Some(426), .. }), "{event:?}");
    assert_eq!(client.ask(&head("/CP")).await.status, 101);
}

// Limits of the listener.

#[tokio::test]
async fn the_size_of_a_head_and_the_number_of_its_lines_can_be_set() {
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
async fn clients_wait_when_there_are_as_many_connections_as_there_may_be_and_sessions_do_not_count() {
    let entered = Arc::new(Notify::new());
    let hook = {
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
    let builder = builder().auth(hook).max_connections(2).handshake_timeout(Duration::from_secs(3600));
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
    let mut idle = site.dial().await;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
    let mut waiting = site.dial().await;
    waiting.send(head("/waiting")).await;
    assert_eq!(idle.ask("GET / HTTP/1.1\r\nHost: test\r\n\r\n").await.status, 404);
    assert!(site.server.session("waiting").is_none());
    drop(idle);
    assert_eq!(waiting.answer().await.status, 101);
}
