//! The authenticator over TCP: its view of the request, its responses, and when it is dropped.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderName, HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ocpp_rpc::{
    Accept, Authenticate, Close, Handshake, Reject, RpcRouter, RpcServer,
    event::EventKind,
    extract::{Extension, State},
    server::RpcServerBuilder,
};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, DuplexStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::Instant,
};
use tower::Service;

use crate::{
    support::{dial, dial_with_buffer},
    tcp::{Site, frame, head, offering, soon, with},
};

/// Builds a server with this authenticator.
fn server_with_auth(authenticator: impl Authenticate) -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new()).auth(authenticator)
}

/// An authenticator that waits for a permit and reports when it starts and when it is dropped early.
struct Gate {
    entered: mpsc::UnboundedSender<()>,
    dropped: mpsc::UnboundedSender<()>,
    open: Arc<Semaphore>,
}

/// The test's end of a [`Gate`].
struct GateControl {
    entered: mpsc::UnboundedReceiver<()>,
    dropped: mpsc::UnboundedReceiver<()>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> (Self, GateControl) {
        let (has_entered, entered) = mpsc::unbounded_channel();
        let (was_dropped, dropped) = mpsc::unbounded_channel();
        let open = Arc::new(Semaphore::new(0));
        (
            Self { entered: has_entered, dropped: was_dropped, open: open.clone() },
            GateControl { entered, dropped, open },
        )
    }
}

impl Authenticate for Gate {
    async fn authenticate(&self, _: Handshake) -> Result<Accept, Reject> {
        struct Guard<'a>(&'a mpsc::UnboundedSender<()>);
        impl Drop for Guard<'_> {
            fn drop(&mut self) {
                let _ = self.0.send(());
            }
        }
        let guard = Guard(&self.dropped);
        self.entered.send(()).expect("the test receives");
        self.open.acquire().await.expect("not closed").forget();
        std::mem::forget(guard);
        Ok(Accept::new())
    }
}

#[tokio::test]
async fn b20_authenticator_extension_reaches_handlers_and_session() {
    #[derive(Clone, Debug, PartialEq)]
    struct Tenant(u32);
    async fn tenant(Extension(Tenant(tenant)): Extension<Tenant>) -> Result<Value, Infallible> {
        Ok(json!({"tenant": tenant}))
    }
    let router = RpcRouter::new().on("Tenant", tenant);
    let authenticator = async |_: Handshake| Ok(Accept::new().extension(Tenant(7)));
    let site = Site::of(RpcServer::builder(router).auth(authenticator)).await;
    let mut station = site.enter(&head("/CP")).await;
    assert_eq!(soon(station.ask(r#"[2,"1","Tenant",{}]"#)).await, r#"[3,"1",{"tenant":7}]"#);
    let session = site.server.session("CP").expect("registered");
    assert_eq!((session.extension(), session.extension::<String>()), (Some(Tenant(7)), None));
}

#[tokio::test]
async fn b12_authenticator_rejection_is_sent_before_protocol_checks() {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "default" => Err(Reject::default()),
        "banned" => Err(Reject::new(StatusCode::FORBIDDEN)
            .header(header::RETRY_AFTER, HeaderValue::from_static("60"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body("{\"banned\":true}")),
        "unknown" => Err(Reject::not_found()),
        "moved" => Err(Reject::new(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, HeaderValue::from_static("/new/moved"))),
        // A status that is no rejection is an error of the authenticator.
        "mistaken" => Err(StatusCode::SWITCHING_PROTOCOLS.into()),
        _ => Err(StatusCode::OK.into()),
    };
    // No client offers a protocol of the server: the authenticator runs before the protocols are compared.
    let mut site = Site::of(server_with_auth(authenticator).protocols(["ocpp1.6"])).await;
    for (identity, status, name, value, body, reason) in [
        (
            "default",
            401,
            "www-authenticate",
            "Basic realm=\"ocpp\"",
            "",
            "Unauthorized: the request has no Authorization header",
        ),
        ("banned", 403, "retry-after", "60", "{\"banned\":true}", "{\"banned\":true}"),
        ("banned", 403, "content-type", "application/json", "{\"banned\":true}", "{\"banned\":true}"),
        ("unknown", 404, "content-length", "0", "", "Not Found"),
        ("moved", 307, "location", "/new/moved", "", "Temporary Redirect"),
        ("mistaken", 500, "upgrade", "", "", "Internal Server Error"),
        ("wrong", 500, "upgrade", "", "", "Internal Server Error"),
    ] {
        let response = site.ask(&head(&format!("/ocpp/{identity}"))).await;
        assert_eq!((response.status, response.header(name), &*response.body), (status, value, body), "{identity}");
        assert_eq!(site.refused().await, (Some(identity.to_owned()), Some(status), reason.to_owned()));
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b72_authenticator_sees_credentials_as_sent_and_401_says_why() {
    let (sender, mut seen) = mpsc::unbounded_channel();
    let authenticator = move |handshake: Handshake| {
        let sender = sender.clone();
        async move {
            assert!(!format!("{handshake:?}{:?}", handshake.credentials()).contains("secret"));
            let sent = handshake.credentials().map(|sent| (sent.user_name().to_vec(), sent.password().to_vec()));
            sender.send((sent, handshake.password())).expect("the test receives");
            Err(Reject::unauthorized())
        }
    };
    let mut site = Site::of(server_with_auth(authenticator)).await;
    let basic = |text: &str| format!("Authorization: Basic {}", BASE64_STANDARD.encode(text));
    for (line, sent, is_password, reason) in [
        ("X-None: 1".to_owned(), None, false, "the request has no Authorization header"),
        (
            "Authorization: Bearer c2VjcmV0".to_owned(),
            None,
            false,
            "the Authorization header has another scheme than Basic",
        ),
        ("Authorization: Basic %secret%".to_owned(), None, false, "the Basic credentials are not base64"),
        (basic("secret"), None, false, "the Basic credentials have no colon behind the user name"),
        (basic("operator:secret"), Some(("operator", "secret")), false, "the user name is not the identity"),
        (basic("CP:secret"), Some(("CP", "secret")), true, "the authenticator refused the password"),
        // Missing padding and unused bits of base64 are no reason.
        (
            "Authorization: Basic Q1A6c2VjcmV0cx".to_owned(),
            Some(("CP", "secrets")),
            true,
            "the authenticator refused the password",
        ),
    ] {
        assert_eq!(site.ask(&with(&head("/CP"), &line)).await.status, 401);
        let (credentials, password) = soon(seen.recv()).await.expect("the authenticator ran");
        let sent = sent.map(|(user_name, password)| (user_name.as_bytes().to_vec(), password.as_bytes().to_vec()));
        assert_eq!((&credentials, password.is_some()), (&sent, is_password), "{line}");
        assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(401), format!("Unauthorized: {reason}")));
    }
}

#[tokio::test]
async fn b72_401_with_a_reason_of_the_authenticator_says_nothing_else() {
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "reason" => Err(Reject::unauthorized().reason("the certificate is revoked")),
        "body" => Err(Reject::unauthorized().body("no token")),
        _ => Err(Reject::unauthorized().body("no token").reason("the token has expired")),
    };
    let mut site = Site::of(server_with_auth(authenticator)).await;
    for (identity, body, reason) in [
        ("reason", "", "the certificate is revoked"),
        ("body", "no token", "no token"),
        ("both", "no token", "the token has expired"),
    ] {
        let response = site.ask(&head(&format!("/{identity}"))).await;
        assert_eq!((response.status, &*response.body), (401, body), "{identity}");
        assert_eq!(site.refused().await, (Some(identity.to_owned()), Some(401), reason.to_owned()));
    }
}

#[tokio::test]
async fn rejected_client_may_retry_on_the_same_connection() {
    let authenticator = async |handshake: Handshake| match handshake.password().as_deref() {
        Some(b"secret") => Ok(Accept::new()),
        _ => Err(Reject::unauthorized()),
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    let mut client = site.dial().await;
    assert_eq!(client.ask(&head("/CP")).await.status, 401);
    let credentials = BASE64_STANDARD.encode("CP:secret");
    let response = client.ask(&with(&head("/CP"), &format!("Authorization: Basic {credentials}"))).await;
    let mut station = client.upgraded(&response).await;
    let response = soon(station.ask(r#"[2,"1","Unknown",{}]"#)).await;
    assert!(response.starts_with(r#"[4,"1","NotImplemented","#), "{response}");
}

#[tokio::test]
async fn b13_authenticator_panic_is_an_internal_error() {
    // The first panics in its future, the second before it returns one.
    let authenticator = |handshake: Handshake| {
        assert_ne!(handshake.identity(), "at-once");
        async move { panic!("the future panics") }
    };
    let mut site = Site::of(server_with_auth(authenticator)).await;
    for identity in ["later", "at-once"] {
        assert_eq!(site.ask(&head(&format!("/{identity}"))).await.status, 500, "{identity}");
        assert_eq!(site.refused().await.1, Some(500), "{identity}");
    }
}

#[tokio::test]
async fn b13_pending_authenticator_is_dropped_at_the_deadline() {
    let (gate, mut control) = Gate::new();
    let mut site = Site::of(server_with_auth(gate).handshake_timeout(Duration::from_millis(100))).await;
    let response = site.ask(&head("/CP")).await;
    assert_eq!((response.status, response.header("retry-after")), (503, "5"));
    soon(control.dropped.recv()).await.expect("dropped");
    let reason = "authentication timed out".to_owned();
    assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(503), reason));
}

#[tokio::test]
async fn b13_authenticator_is_dropped_when_the_client_disconnects() {
    let (gate, mut control) = Gate::new();
    let site = Site::of(server_with_auth(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(control.entered.recv()).await.expect("entered");
    drop(client);
    soon(control.dropped.recv()).await.expect("dropped");
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b13_authenticator_with_unread_frames_is_dropped_at_deadline() {
    let (gate, mut control) = Gate::new();
    let site = Site::of(server_with_auth(gate).handshake_timeout(Duration::from_millis(100))).await;
    let mut client = site.dial().await;
    client.send([head("/CP").into_bytes(), frame(r#"[2,"1","X",{}]"#)].concat()).await;
    drop(client);
    soon(control.dropped.recv()).await.expect("dropped");
}

#[tokio::test]
async fn b17_disconnect_during_authentication_is_an_event() {
    let (gate, mut control) = Gate::new();
    let mut site = Site::of(server_with_auth(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(control.entered.recv()).await.expect("entered");
    drop(client);
    let (identity, status, _) = site.refused().await;
    assert_eq!((identity.as_deref(), status), (Some("CP"), None));
}

#[tokio::test]
async fn b13_handshakes_beyond_the_limit_are_refused() {
    let (gate, mut control) = Gate::new();
    let mut site = Site::of(server_with_auth(gate).max_pending_handshakes(1)).await;
    let mut first = site.dial().await;
    first.send(head("/first")).await;
    soon(control.entered.recv()).await.expect("entered");
    let response = site.ask(&head("/second")).await;
    assert_eq!(
        (response.status, response.header("retry-after"), &*response.body),
        (503, "5", "too many pending handshakes")
    );
    let refused = (Some("second".to_owned()), Some(503), "too many pending handshakes".to_owned());
    assert_eq!(site.refused().await, refused);
    // The slot is free again when the first handshake is complete.
    control.open.add_permits(2);
    assert_eq!(first.answer().await.status, 101);
    assert_eq!(site.ask(&head("/second")).await.status, 101);
}

#[tokio::test]
async fn b13_pending_handshake_is_refused_when_the_server_closes() {
    let (gate, mut control) = Gate::new();
    let site = Site::of(server_with_auth(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(control.entered.recv()).await.expect("entered");
    let report = soon(site.listener.close(Close::going_away())).await;
    assert_eq!((report.clean, report.forced), (0, 0));
    let response = client.answer().await;
    assert_eq!((response.status, response.header("retry-after"), &*response.body), (503, "5", "the server is closing"));
    soon(control.dropped.recv()).await.expect("dropped");
}

#[tokio::test]
async fn b12_authenticator_may_choose_an_offered_protocol() {
    let authenticator = async |handshake: Handshake| Ok(Accept::new().protocol(handshake.identity()));
    let mut site = Site::of(server_with_auth(authenticator).protocols(["ocpp1.6", "ocpp2.0.1"])).await;
    // The server does not list the last protocol; an authenticator may accept it all the same.
    for chosen in ["ocpp1.6", "ocpp2.0.1", "mine"] {
        let station = site.enter(&offering(&format!("/{chosen}"), "ocpp2.0.1, ocpp1.6, mine")).await;
        assert_eq!(station.protocol.as_deref(), Some(chosen));
    }
    for head in [head("/ocpp1.6"), offering("/ocpp1.6", "ocpp2.0.1, OCPP1.6")] {
        let response = site.ask(&head).await;
        assert_eq!((response.status, &*response.body), (400, "the accepted protocol was not offered"));
        assert_eq!(site.refused().await, (Some("ocpp1.6".to_owned()), Some(400), response.body));
    }
}

#[tokio::test]
async fn b12_authenticator_may_open_a_session_without_protocol() {
    let authenticator = async |_: Handshake| Ok(Accept::new().without_protocol());
    let site = Site::of(server_with_auth(authenticator).protocols(["ocpp1.6"])).await;
    for head in [head("/CP"), offering("/CP", "ocpp1.6"), offering("/CP", "ocpp2.0.1")] {
        let mut station = site.enter(&head).await;
        assert_eq!(station.protocol, None);
        assert!(soon(station.ask(r#"[2,"1","Any",{}]"#)).await.contains("NotImplemented"), "the session is open");
        assert_eq!(site.server.session("CP").expect("registered").protocol(), None);
    }
}

#[tokio::test]
async fn b12_authenticator_may_set_the_router_of_a_session() {
    async fn who(State(name): State<&'static str>) -> Result<Value, Infallible> {
        Ok(json!({"router": name}))
    }
    let authenticator = async |handshake: Handshake| match handshake.identity() {
        "own" => Ok(Accept::new().router(RpcRouter::with_state("own").on("Who", who))),
        _ => Ok(Accept::new()),
    };
    let router = RpcRouter::with_state("server").on("Who", who);
    let site = Site::of(RpcServer::builder(router).auth(authenticator)).await;
    for (path, router) in [("/own", "own"), ("/other", "server")] {
        let mut station = site.enter(&head(path)).await;
        let response = format!(r#"[3,"1",{{"router":"{router}"}}]"#);
        assert_eq!(soon(station.ask(r#"[2,"1","Who",{}]"#)).await, response);
    }
}

#[tokio::test]
async fn b12_authenticator_may_add_headers_to_the_response() {
    let authenticator = async |handshake: Handshake| {
        let name = HeaderName::try_from(handshake.identity()).expect("a header name");
        let value = HeaderValue::from_static("mine");
        Ok(Accept::new().header(name.clone(), value.clone()).header(name, value))
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    let response = site.ask(&head("/x-node")).await;
    assert_eq!(response.status, 101);
    assert_eq!(response.headers.get_all("x-node").iter().collect::<Vec<_>>(), ["mine", "mine"]);
    assert_eq!(response.header("upgrade"), "websocket");
    for name in ["connection", "upgrade", "sec-websocket-accept", "sec-websocket-protocol", "content-length"] {
        let response = site.ask(&head(&format!("/{name}"))).await;
        assert_eq!((response.status, &*response.body), (500, "the session cannot be opened"), "{name}");
    }
}

#[tokio::test]
async fn b11_authenticator_sees_the_path_as_it_was_sent() {
    let (handshake_tx, mut handshakes) = mpsc::unbounded_channel();
    let authenticator = move |handshake: Handshake| {
        handshake_tx.send(handshake).expect("the test receives");
        async { Ok(Accept::new()) }
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    for (path, endpoint) in [("/ocpp//CP%2F1/?a", "/ocpp"), ("//CP%2F1", ""), ("/a/%2e/CP%2F1//", "/a/%2e")] {
        assert_eq!(site.ask(&head(path)).await.status, 101);
        let handshake = soon(handshakes.recv()).await.expect("a handshake");
        assert_eq!(handshake.path(), path.trim_end_matches("?a"));
        assert_eq!((handshake.endpoint(), handshake.identity()), (endpoint, "CP/1"));
    }
}

#[tokio::test]
async fn b11_authenticator_sees_the_whole_request() {
    let (handshake_tx, mut handshakes) = mpsc::unbounded_channel();
    let authenticator = move |handshake: Handshake| {
        handshake_tx.send(handshake).expect("the test receives");
        async { Ok(Accept::new()) }
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    let mut client = site.dial().await;
    let head = with(&offering("/a%2Fb//tenant/CP%201?x=%201&y", "ocpp2.0.1,,ocpp1.6"), "User-Agent: station/1");
    let credentials = BASE64_STANDARD.encode([&b"CP 1:"[..], &[0, 0xff]].concat());
    let head = with(&head, &format!("Authorization: Basic {credentials}"));
    assert_eq!(client.ask(&head).await.status, 101);
    let handshake = soon(handshakes.recv()).await.expect("a handshake");
    assert_eq!((handshake.identity(), handshake.endpoint()), ("CP 1", "/a%2Fb//tenant"));
    assert_eq!(handshake.query(), Some("x=%201&y"));
    assert_eq!(handshake.protocols(), ["ocpp2.0.1", "ocpp1.6"]);
    assert_eq!(handshake.headers()[header::USER_AGENT], "station/1");
    assert_eq!(handshake.parts().uri.path(), "/a%2Fb//tenant/CP%201");
    assert_eq!(handshake.parts().method, "GET");
    assert_eq!(handshake.remote_address(), Some(client.address()));
    assert_eq!(handshake.password().as_deref(), Some(&[0, 0xff][..]));
}

#[tokio::test]
async fn b14_password_follows_the_identity_and_is_never_printed() {
    let (handshake_tx, mut handshakes) = mpsc::unbounded_channel();
    let authenticator = move |handshake: Handshake| {
        handshake_tx.send(handshake).expect("the test receives");
        async { Err(Reject::unauthorized()) }
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    let binary = [&b"CP:"[..], &[0, 1, 0xfe, 0xff]].concat();
    for (path, scheme, credentials, password) in [
        ("/CP", "Basic", &b"CP:secret"[..], Some(&b"secret"[..])),
        ("/CP", "bAsIc", b"CP:secret", Some(b"secret")),
        ("/CP", "Basic", b"CP:a:b:", Some(b"a:b:")),
        ("/CP", "Basic", b"CP:", Some(b"")),
        ("/CP", "Basic", &binary, Some(&[0, 1, 0xfe, 0xff])),
        ("/a:b", "Basic", b"a:b:secret", Some(b"secret")),
        ("/a%2Fb%20c", "Basic", b"a/b c:secret", Some(b"secret")),
        ("/CP", "Basic", b"other:secret", None),
        ("/CP", "Basic", b"CP", None),
        ("/CP", "Bearer", b"CP:secret", None),
    ] {
        let encoded = BASE64_STANDARD.encode(credentials);
        site.ask(&with(&head(path), &format!("Authorization: {scheme} {encoded}"))).await;
        let handshake = soon(handshakes.recv()).await.expect("a handshake");
        assert_eq!(handshake.password().as_deref(), password, "{path} {encoded}");
        let printed = format!("{handshake:?} {:?} {:?}", handshake.headers(), handshake.parts());
        assert!(!printed.contains("secret") && !printed.contains(&encoded), "{printed}");
    }
}

#[tokio::test]
async fn b14_unreadable_credentials_yield_no_password() {
    let authenticator = async |handshake: Handshake| match handshake.password() {
        None => Ok(Accept::new()),
        Some(_) => Err(Reject::unauthorized()),
    };
    let site = Site::of(server_with_auth(authenticator)).await;
    for unreadable in
        ["", "Basic", "Basic ", "BasicQ1A6c2VjcmV0", "Basic !!!", "Basic Q1A6c2VjcmV0=", "Basic Q1A6c2VjcmV0 x"]
    {
        assert_eq!(
            site.ask(&with(&head("/CP"), &format!("Authorization: {unreadable}"))).await.status,
            101,
            "{unreadable}"
        );
    }
    assert_eq!(site.ask(&with(&head("/CP"), "Authorization: Basic Q1A6c2VjcmV0")).await.status, 401, "CP:secret");
}

#[tokio::test]
async fn b12_server_without_authenticator_accepts_all_clients() {
    let site = Site::of(RpcServer::builder(RpcRouter::new())).await;
    for head in [head("/CP"), with(&head("/other"), "Authorization: Basic !!!")] {
        assert_eq!(site.ask(&head).await.status, 101);
    }
}

// The tests below use streams in memory, so that time can be paused.

/// Sends a valid handshake and returns the first line of the response.
async fn first_line(mut stream: DuplexStream) -> String {
    stream.write_all(head("/CP").as_bytes()).await.expect("open");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.expect("a response");
    line.trim_end().to_owned()
}

#[tokio::test(start_paused = true)]
async fn b13_authenticator_times_out_after_ten_seconds() {
    let (gate, mut control) = Gate::new();
    let server = server_with_auth(gate).build().expect("valid settings");
    let start = Instant::now();
    assert_eq!(first_line(dial(&server)).await, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(start.elapsed().as_secs(), 10);
    control.dropped.recv().await.expect("dropped");
}

#[tokio::test(start_paused = true)]
async fn b13_pending_handshakes_are_limited_to_1024() {
    let (gate, mut control) = Gate::new();
    let server = server_with_auth(gate).build().expect("valid settings");
    let mut waiting = JoinSet::new();
    for _ in 0..1024 {
        waiting.spawn(first_line(dial_with_buffer(&server, 1024)));
        control.entered.recv().await.expect("entered");
    }
    assert_eq!(first_line(dial(&server)).await, "HTTP/1.1 503 Service Unavailable");
    control.open.add_permits(1024);
    for line in waiting.join_all().await {
        assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
    }
}

#[tokio::test(start_paused = true)]
async fn b17_client_that_does_not_read_the_response_is_an_event() {
    for disconnects in [true, false] {
        let server = RpcServer::builder(RpcRouter::new()).build().expect("valid settings");
        let mut events = server.events();
        // The buffer is too small for the response.
        let mut stream = dial_with_buffer(&server, 16);
        stream.write_all(head("/CP").as_bytes()).await.expect("open");
        stream.read_u8().await.expect("the response begins");
        let expected = if disconnects { "the client disconnected" } else { "sending the response timed out" };
        let open_stream = Some(stream).filter(|_| !disconnects);
        let event = events.next().await.expect("an event");
        let EventKind::HandshakeRefused { status, reason, .. } = event.kind else { panic!("{event:?}") };
        assert_eq!((event.identity.as_deref(), status), (Some("CP"), None));
        assert!(reason.starts_with(expected), "{reason}");
        assert!(server.sessions().is_empty());
        drop(open_stream);
    }
}

#[tokio::test]
async fn b62_dropped_handshake_future_drops_the_authenticator() {
    let (gate, mut control) = Gate::new();
    let server = server_with_auth(gate).build().expect("valid settings");
    let mut events = server.events();
    let inner = server.clone();
    // An HTTP service that drops the handshake after one poll.
    let service = tower::service_fn(move |request: Request<Incoming>| {
        let mut handshake = inner.clone().call(request);
        async move {
            assert!(futures_util::poll!(&mut handshake).is_pending());
            drop(handshake);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("later")))
        }
    });
    let (near, far) = tokio::io::duplex(4096);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(far), TowerToHyperService::new(service));
    tokio::spawn(connection.with_upgrades());
    assert_eq!(first_line(near).await, "HTTP/1.1 200 OK");
    control.entered.recv().await.expect("entered");
    control.dropped.recv().await.expect("dropped");
    let event = events.next().await.expect("an event");
    assert!(matches!(event.kind, EventKind::HandshakeRefused { status: None, .. }), "{event:?}");
}
