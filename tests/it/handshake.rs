//! The opening handshake over TCP: requests that open a session, and the responses to all others.

use std::{
    convert::Infallible,
    sync::{Arc, OnceLock},
    time::Duration,
};

use http::Request;
use ocpp_rpc::{
    Close, Handshake, Options, Reject, RpcRouter, RpcServer, Session,
    compression::Compression,
    event::EventKind,
    extract::{Params, State},
    message::Dialect,
    server::RpcServerBuilder,
};
use serde_json::{Value, json};
use tower::ServiceExt;

use crate::tcp::{Client, Site, TcpStation, frame, head, offering, soon, with};

const WHO: &str = r#"[2,"1","Who",{}]"#;

/// A server with a `Who` handler that returns the identity and protocol of its session.
fn builder() -> RpcServerBuilder {
    async fn who(session: Session) -> Result<Value, Infallible> {
        Ok(json!({"identity": session.identity(), "protocol": session.protocol()}))
    }
    RpcServer::builder(RpcRouter::new().on("Who", who))
}

async fn who(station: &mut TcpStation) -> (String, Option<String>) {
    let response = soon(station.ask(WHO)).await;
    let (_, _, mut who): (u8, String, Value) = serde_json::from_str(&response).expect("a result");
    (serde_json::from_value(who["identity"].take()).expect("a name"), who["protocol"].as_str().map(str::to_owned))
}

#[tokio::test]
async fn b16_invalid_handshake_is_refused_with_reason() {
    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const NO_KEY: &str = "the Sec-WebSocket-Key is missing or not base64";
    const NO_CONNECTION: &str = "the handshake has no `Upgrade` in its Connection header";
    const NO_VERSION: &str = "the Sec-WebSocket-Version is not 13";
    const BAD_PROTOCOL: &str = "the Sec-WebSocket-Protocol header is malformed";
    let two_keys = KEY.repeat(2);
    let mut site = Site::of(builder()).await;
    for (valid, invalid, status, reason) in [
        ("GET ", "POST ", 400, "a WebSocket handshake must be a GET request"),
        ("HTTP/1.1", "HTTP/1.0", 400, "a WebSocket handshake must use HTTP/1.1"),
        ("Connection: Upgrade\r\n", "", 400, NO_CONNECTION),
        ("Connection: Upgrade", "Connection: keep-alive", 400, NO_CONNECTION),
        ("Sec-WebSocket-Version: 13\r\n", "", 426, NO_VERSION),
        ("Version: 13", "Version: 8", 426, NO_VERSION),
        ("Version: 13", "Version: 13\r\nSec-WebSocket-Version: 13", 426, NO_VERSION),
        (KEY, "", 400, NO_KEY),
        (KEY, &two_keys, 400, NO_KEY),
        ("dGhlIHNhbXBsZSBub25jZQ==", "", 400, NO_KEY),
        ("dGhlIHNhbXBsZSBub25jZQ==", "!!!lIHNhbXBsZSBub25jZQ==", 400, NO_KEY),
        (KEY, "Sec-WebSocket-Protocol: ocpp 1.6\r\n", 400, NO_KEY),
        ("Host: test", "Host: test\r\nSec-WebSocket-Protocol: ocpp 1.6", 400, BAD_PROTOCOL),
        (
            "Host: test",
            "Host: test\r\nSec-WebSocket-Protocol: ocpp1.6\r\nSec-WebSocket-Protocol: a;b",
            400,
            BAD_PROTOCOL,
        ),
    ] {
        let head = head("/ocpp/CP").replace(valid, invalid);
        let response = site.ask(&head).await;
        assert_eq!((response.status, &*response.body), (status, reason), "{head}");
        let headers = (response.header("upgrade"), response.header("sec-websocket-version"));
        assert_eq!(headers, if status == 426 { ("websocket", "13") } else { ("", "") }, "{head}");
        let (_, status_reported, reason_reported) = site.refused().await;
        assert_eq!((status_reported, &*reason_reported), (Some(status), reason), "{head}");
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b17_malformed_handshake_event_has_remote_address() {
    let mut site = Site::of(builder()).await;
    let mut client = site.dial().await;
    client.ask(&head("/ocpp/CP").replace("Version: 13", "Version: 8")).await;
    let event = soon(site.events.next()).await.expect("an event");
    assert_eq!(event.remote_address, Some(client.address()));
}

#[tokio::test]
async fn b17_event_has_the_request_without_credentials() {
    let mut site = Site::of(builder().auth(async |_: Handshake| Err(Reject::unauthorized()))).await;
    let valid = with(&offering("/ocpp//CP%201?token=secret", "ocpp1.6"), "User-Agent: EVSE/1.2");
    let valid = with(&valid, "Sec-WebSocket-Protocol: ocpp2.0.1");
    let valid = with(&valid, "Authorization: Basic c2VjcmV0\r\nCookie: secret\r\nProxy-Authorization: secret");
    // The first is refused by the authenticator, the others before it.
    for (status, head) in
        [(401, valid.clone()), (426, valid.replace("Version: 13", "Version: 8")), (400, valid.replace("GET ", "POST "))]
    {
        assert_eq!(site.ask(&head).await.status, status, "{head}");
        let event = soon(site.events.next()).await.expect("an event");
        let written = serde_json::to_string(&event).expect("JSON");
        let debug = format!("{event:?}");
        assert!(!written.contains("secret") && !written.contains("c2VjcmV0"), "{written}");
        assert!(!debug.contains("secret") && !debug.contains("c2VjcmV0"), "{debug}");
        let written: Value = serde_json::from_str(&written).expect("JSON");
        let expected = json!({
            "path": "/ocpp//CP%201", "protocols": "ocpp1.6, ocpp2.0.1", "user_agent": "EVSE/1.2",
            "authorization": "Basic", "tls": null, "certificate": null,
        });
        assert_eq!(written["request"], expected, "{head}");
    }
    let mut client = site.dial().await;
    client.send("no HTTP\r\n\r\n").await;
    let event = soon(site.events.next()).await.expect("an event");
    assert!(matches!(event.kind, EventKind::HandshakeRefused { request: None, .. }), "{event:?}");
}

#[tokio::test]
async fn b17_event_of_a_nested_server_has_the_whole_path() {
    let server = builder().auth(async |_: Handshake| Err(Reject::unauthorized())).build().expect("valid settings");
    let inner = axum::Router::new().route_service("/ocpp/{*identity}", server.clone());
    let app = axum::Router::new().nest("/tenant", inner);
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut events = server.events();
    for (head, status) in
        [(head("/tenant/ocpp/CP"), 401), (head("/tenant/ocpp/CP").replace("Version: 13", "Version: 8"), 426)]
    {
        assert_eq!(Client::dial(listener.local_addr()).await.ask(&head).await.status, status);
        let event = soon(events.next()).await.expect("an event");
        let EventKind::HandshakeRefused { request: Some(request), .. } = &event.kind else { panic!("{event:?}") };
        assert_eq!(request.path, "/tenant/ocpp/CP");
    }
}

#[tokio::test]
async fn b76_identity_of_a_refused_handshake_is_cut() {
    let server = builder().build().expect("valid settings");
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let mut events = server.events();
    let request = head(&format!("/ocpp/{}", "x".repeat(4000)));
    assert_eq!(Client::dial(listener.local_addr()).await.ask(&request).await.status, 404);
    let event = soon(events.next()).await.expect("an event");
    assert_eq!(event.identity.as_deref(), Some(&*"x".repeat(512)));
}

#[tokio::test]
async fn b15_plain_request_gets_404_at_listener_and_426_at_service() {
    let server = builder().build().expect("a valid configuration");
    let plain = server.listen("127.0.0.1:0").await.expect("a port");
    let service = server.bind("127.0.0.1:0").app(server.clone()).serve().await.expect("a port");
    for change in [("Upgrade: websocket\r\n", ""), ("Upgrade: websocket", "Upgrade: h2c")] {
        let head = head("/ocpp/CP").replace(change.0, change.1);
        for (listener, status, upgrade, version) in [(&plain, 404, "", ""), (&service, 426, "websocket", "13")] {
            let mut client = Client::dial(listener.local_addr()).await;
            let response = client.ask(&head).await;
            let seen = (response.status, response.header("upgrade"), response.header("sec-websocket-version"));
            assert_eq!(seen, (status, upgrade, version), "{head}");
        }
    }
}

#[tokio::test]
async fn handshake_header_variants_are_accepted() {
    let site = Site::of(builder()).await;
    for (usual, unusual) in [
        ("Connection: Upgrade", "Connection: keep-alive, uPGRADE"),
        ("Connection: Upgrade", "Connection: keep-alive\r\nConnection: Upgrade"),
        ("Connection: Upgrade", "Connection: é, Upgrade"),
        ("Upgrade: websocket", "UPGRADE: h2c, WebSocket"),
        ("Upgrade: websocket", "Upgrade: h2c\r\nUpgrade: websocket"),
        ("GET /ocpp/CP ", "GET http://elsewhere:1/ocpp/CP?a=b/c "),
        ("Sec-WebSocket-Key: ", "sec-websocket-key:\t "),
    ] {
        let head = head("/ocpp/CP").replace(usual, unusual);
        assert!(head.contains(unusual));
        let response = site.ask(&head).await;
        let accept = response.header("sec-websocket-accept");
        assert_eq!((response.status, accept), (101, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="), "{head}");
        assert_eq!((response.header("connection"), response.header("upgrade")), ("Upgrade", "websocket"), "{head}");
    }
}

#[tokio::test]
async fn b16_key_with_unused_bits_or_without_padding_is_accepted() {
    let site = Site::of(builder()).await;
    // The response is that of RFC 6455 for the text of the key, not for its bytes.
    for key in ["dGhlIHNhbXBsZSBub25jZR==", "dGhlIHNhbXBsZSBub25jZQ"] {
        let response = site.ask(&head("/ocpp/CP").replace("dGhlIHNhbXBsZSBub25jZQ==", key)).await;
        let accept = tokio_tungstenite::tungstenite::handshake::derive_accept_key(key.as_bytes());
        assert_eq!((response.status, response.header("sec-websocket-accept")), (101, &*accept), "{key}");
    }
}

#[tokio::test]
async fn b69_request_without_exactly_one_host_is_refused() {
    const REASON: &str = "the request does not have exactly one Host header";
    let mut site = Site::of(builder()).await;
    for host in ["", "Host: test\r\nHost: test\r\n", "Host: test\r\nhost: other\r\n"] {
        let response = site.ask(&head("/CP").replace("Host: test\r\n", host)).await;
        assert_eq!((response.status, &*response.body), (400, REASON), "{host:?}");
        assert_eq!(site.refused().await, (None, Some(400), REASON.to_owned()), "{host:?}");
    }
    // The value may be empty, and the target may name another host.
    for (usual, unusual) in [("Host: test", "Host:"), ("GET /CP", "GET http://elsewhere/CP")] {
        assert_eq!(site.ask(&head("/CP").replace(usual, unusual)).await.status, 101, "{unusual}");
    }
}

#[tokio::test]
async fn b11_identity_is_last_path_segment_decoded_once() {
    let site = Site::of(builder()).await;
    let longest = "x".repeat(255);
    let target = format!("/{longest}");
    for (path, identity) in [
        ("/CP", "CP"),
        ("//CP", "CP"),
        ("/CP/", "CP"),
        ("/ocpp//CP//?x=/y", "CP"),
        ("/ocpp/a%2Fb", "a/b"),
        ("/ocpp/a%252Fb", "a%2Fb"),
        ("/ocpp/%F0%9F%94%8C%20+", "🔌 +"),
        (&*target, &*longest),
    ] {
        let mut station = site.enter(&head(path)).await;
        assert_eq!(who(&mut station).await.0, identity, "{path}");
        assert_eq!(site.server.session(identity).expect("registered").identity().as_ref(), identity);
    }
}

#[tokio::test]
async fn b16_path_without_valid_identity_is_not_found() {
    let mut site = Site::of(builder().max_identity_length(48)).await;
    let (long, wide) = ("x".repeat(49), "é".repeat(25));
    let too_long = [format!("/ocpp/{long}"), format!("/ocpp/{}", "%C3%A9".repeat(25))];
    for (path, known) in
        ["/", "//", "/?CP", "/ocpp/%", "/ocpp/%4", "/ocpp/%zz", "/ocpp/%E0%A4%A", "/ocpp/%ff", "/ocpp/%00"]
            .map(|path| (path, None))
            .into_iter()
            .chain([(&*too_long[0], Some(long)), (&too_long[1], Some(wide))])
    {
        let response = site.ask(&head(path)).await;
        let (identity, status, reason) = site.refused().await;
        assert_eq!((response.status, status, identity), (404, Some(404), known), "{path}");
        assert_eq!(response.body, reason, "{path}");
        assert!(!reason.is_empty());
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b08_first_client_protocol_known_to_server_is_negotiated() {
    let site = Site::of(builder().protocols(["ocpp1.6", "ocpp2.0.1"])).await;
    for (lines, agreed) in [
        ("ocpp1.6", "ocpp1.6"),
        ("ocpp2.0.1, ocpp1.6", "ocpp2.0.1"),
        ("ocpp2.1,ocpp1.6,ocpp2.0.1", "ocpp1.6"),
        (",, ocpp2.0.1 ,", "ocpp2.0.1"),
        ("ocpp2.1\r\nSec-WebSocket-Protocol: ocpp2.0.1\r\nsec-websocket-protocol: ocpp1.6", "ocpp2.0.1"),
    ] {
        let mut station = site.enter(&offering("/CP", lines)).await;
        assert_eq!(station.protocol.as_deref(), Some(agreed), "{lines}");
        assert_eq!(who(&mut station).await.1.as_deref(), Some(agreed), "{lines}");
    }
}

#[tokio::test]
async fn b08_client_without_common_protocol_is_upgraded_and_closed() {
    let mut site = Site::of(builder().protocols(["ocpp1.6"])).await;
    for head in [head("/CP"), offering("/CP", ""), offering("/CP", "OCPP1.6, ocpp1.60")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None, "{head}");
        assert_eq!(soon(station.closed()).await, (1002, "no common subprotocol".to_owned()), "{head}");
        assert!(site.server.sessions().is_empty());
        // The refusal is the first event, so the session never opened.
        let event = soon(site.events.next()).await.expect("an event");
        let EventKind::HandshakeRefused { status, reason, .. } = event.kind else { panic!("{event:?}") };
        let reported = (event.identity.as_deref(), status, &*reason);
        assert_eq!(reported, (Some("CP"), Some(101), "no common subprotocol"), "{head}");
    }
}

#[tokio::test]
async fn b08_server_without_protocols_accepts_any_and_names_none() {
    let site = Site::of(builder()).await;
    for head in [head("/CP"), offering("/CP", "ocpp1.6, mine")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None);
        assert_eq!(who(&mut station).await, ("CP".to_owned(), None));
    }
}

#[tokio::test]
async fn b18_frames_sent_with_head_are_served_by_registered_session() {
    async fn registered(
        Params(params): Params<Value>,
        session: Session,
        State(server): State<Arc<OnceLock<RpcServer>>>,
    ) -> Result<Value, Infallible> {
        let known = server.get().and_then(|server| server.session(&session.identity()));
        Ok(json!({"registered": known.is_some(), "params": params}))
    }
    let holder = Arc::new(OnceLock::new());
    let router = RpcRouter::with_state(holder.clone()).on("Registered", registered);
    let site = Site::of(RpcServer::builder(router)).await;
    holder.set(site.server.clone()).expect("set once");
    let mut client = site.dial().await;
    let frames = ["a", "b"].map(|id| frame(&format!(r#"[2,"{id}","Registered",{{"n":1}}]"#)));
    client.send([head("/CP").into_bytes(), frames.concat()].concat()).await;
    let response = client.answer().await;
    let mut station = client.upgraded(&response).await;
    for id in ["a", "b"] {
        let result = format!(r#"[3,"{id}",{{"params":{{"n":1}},"registered":true}}]"#);
        assert_eq!(soon(station.receive()).await, result);
    }
}

#[tokio::test]
async fn head_over_64_kib_is_refused() {
    let site = Site::of(builder()).await;
    for (kib, status) in [(60, 101), (65, 431)] {
        let head = with(&head("/CP"), &format!("X-Padding: {}", "x".repeat(kib << 10)));
        assert_eq!(site.ask(&head).await.status, status, "{kib} KiB");
    }
}

#[tokio::test]
async fn b16_client_with_unfinished_head_is_disconnected_at_deadline() {
    let site = Site::of(builder().handshake_timeout(Duration::from_millis(100))).await;
    for part in ["", "GET /CP HTTP/1.1\r\nHost: te"] {
        let mut slow = site.dial().await;
        slow.send(part).await;
        let mut other = site.enter(&head("/other")).await;
        assert_eq!(who(&mut other).await.0, "other");
        let rest = slow.rest().await;
        assert!(rest.is_empty() || rest.starts_with(b"HTTP/1.1 408"), "{}", String::from_utf8_lossy(&rest));
    }
}

#[test]
fn b10_invalid_settings_are_refused_by_name() {
    type Invalidate = fn(RpcServerBuilder) -> RpcServerBuilder;
    let cases: &[(Invalidate, &str)] = &[
        (|builder| builder.protocols(["ocpp 1.6"]), "\"ocpp 1.6\" is not a token"),
        (|builder| builder.protocols([""]), "\"\" is not a token"),
        (|builder| builder.protocols(["a", "b", "a"]), "duplicate protocol \"a\""),
        (|builder| builder.protocols(["a"]).dialect("b", Dialect::OCPP_1_6), "dialect for \"b\""),
        (|builder| builder.dialect("ocpp1.6", Dialect::OCPP_1_6), "dialect for \"ocpp1.6\""),
        (|builder| builder.handshake_timeout(Duration::ZERO), "handshake_timeout"),
        (|builder| builder.handshake_timeout(Duration::MAX), "handshake_timeout"),
        (|builder| builder.max_pending_handshakes(0), "max_pending_handshakes"),
        (|builder| builder.max_identity_length(0), "max_identity_length"),
        (|builder| builder.options(Options::server().call_concurrency(0)), "call_concurrency"),
        (|builder| builder.options(Options::server().call_queue(0)), "call_queue"),
        (|builder| builder.options(Options::server().handler_concurrency(0)), "handler_concurrency"),
        (|builder| builder.options(Options::server().max_message_size(0)), "max_message_size"),
        (|builder| builder.options(Options::server().max_unsent(0)), "max_unsent"),
        (|builder| builder.options(Options::server().call_timeout(Duration::ZERO)), "call_timeout"),
        (|builder| builder.options(Options::server().ping_interval(Duration::ZERO)), "ping_interval"),
        (|builder| builder.options(Options::server().call_rate(0, Duration::from_secs(1))), "call_rate"),
        (|builder| builder.options(Options::server().call_rate(1, Duration::ZERO)), "call_rate"),
        (|builder| builder.options(Options::server().compression(Compression::new().window_bits(8))), "window_bits"),
        (|builder| builder.options(Options::server().compression(Compression::new().window_bits(16))), "window_bits"),
        (|builder| builder.options(Options::server().compression(Compression::new().max_ratio(0))), "max_ratio"),
    ];
    for (invalidate, text) in cases {
        match invalidate(builder()).build() {
            Ok(_) => panic!("invalid settings were accepted: {text}"),
            Err(error) => assert!(error.to_string().contains(text), "{error}"),
        }
    }
    let huge = builder().max_pending_handshakes(usize::MAX).protocols(["x!#$%&'*+-.^_`|~"]).build();
    assert!(huge.is_ok());
}

#[test]
fn b10_two_dialects_for_one_protocol_are_refused() {
    let twice = builder().protocols(["a"]).dialect("a", Dialect::OCPP_1_6).dialect("a", Dialect::OCPP_2_1);
    assert!(twice.build().is_err());
}

#[tokio::test]
async fn b16_request_on_connection_without_upgrade_is_refused() {
    let server = builder().build().expect("a valid configuration");
    let request = Request::get("/CP")
        .header("host", "test")
        .header("connection", "Upgrade")
        .header("upgrade", "websocket")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==");
    let response = soon(server.oneshot(request.body(()).expect("a request"))).await.expect("infallible");
    assert_eq!(response.status(), 400);
}

#[tokio::test]
async fn b15_wrong_websocket_version_gets_426_naming_version_13() {
    let site = Site::of(builder()).await;
    for version in ["8", "14", "x"] {
        let response = site.ask(&head("/CP").replace("Version: 13", &format!("Version: {version}"))).await;
        assert_eq!((response.status, response.header("sec-websocket-version")), (426, "13"), "{version}");
        assert_eq!(response.header("content-type"), "text/plain; charset=utf-8");
        assert_eq!(response.body, "the Sec-WebSocket-Version is not 13");
    }
}

#[tokio::test]
async fn b08_server_may_have_several_listeners() {
    let server = builder().build().expect("a valid configuration");
    let mut stations = Vec::new();
    for identity in ["A", "B", "C"] {
        let listener = server.listen("127.0.0.1:0").await.expect("a port");
        let mut client = Client::dial(listener.local_addr()).await;
        let response = client.ask(&head(&format!("/{identity}"))).await;
        let mut station = client.upgraded(&response).await;
        assert_eq!(who(&mut station).await.0, identity);
        stations.push((listener, station));
    }
    assert_eq!(server.sessions().len(), 3);
    let addresses: Vec<_> = stations.iter().map(|(listener, _)| listener.local_addr()).collect();
    let (listener, _) = stations.remove(0);
    soon(listener.close(Close::going_away())).await;
    for (_, station) in &mut stations {
        assert_eq!(soon(station.closed()).await.0, 1001);
    }
    for address in addresses {
        assert!(
            soon(tokio::net::TcpStream::connect(address)).await.is_err(),
            "all listeners of a server must stop together"
        );
    }
}
