//! The hook that judges handshakes, over TCP: what it is shown, what it can say, and when it is dropped.

use std::{convert::Infallible, sync::Arc, time::Duration};

use base64::{Engine, prelude::BASE64_STANDARD};
use bytes::Bytes;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1};
use hyper_util::{rt::TokioIo, service::TowerToHyperService};
use ocpp_rpc::{
    Accept, Authenticate, Close, Handshake, Reject, RpcRouter, RpcServer, event::EventKind, extract::Extension,
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

/// A server that judges handshakes so.
fn judged_by(hook: impl Authenticate) -> RpcServerBuilder {
    RpcServer::builder(RpcRouter::new()).auth(hook)
}

/// A hook that lets the test know that it runs, that it was dropped before its end, and waits to be let go.
struct Gate {
    entered: mpsc::UnboundedSender<()>,
    dropped: mpsc::UnboundedSender<()>,
    open: Arc<Semaphore>,
}

/// The test's side of a gate.
struct Gatekeeper {
    entered: mpsc::UnboundedReceiver<()>,
    dropped: mpsc::UnboundedReceiver<()>,
    open: Arc<Semaphore>,
}

impl Gate {
    fn new() -> (Self, Gatekeeper) {
        let (has_entered, entered) = mpsc::unbounded_channel();
        let (was_dropped, dropped) = mpsc::unbounded_channel();
        let open = Arc::new(Semaphore::new(0));
        (Self { entered: has_entered, dropped: was_dropped, open: open.clone() }, Gatekeeper { entered, dropped, open })
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
        self.entered.send(()).expect("a test");
        self.open.acquire().await.expect("open some day").forget();
        std::mem::forget(guard);
        Ok(Accept::new())
    }
}

#[tokio::test]
async fn b20_what_the_hook_accepts_with_reaches_handlers_and_the_session() {
    #[derive(Clone, Debug, PartialEq)]
    struct Tenant(u32);
    async fn tenant(Extension(Tenant(tenant)): Extension<Tenant>) -> Result<Value, Infallible> {
        Ok(json!({"tenant": tenant}))
    }
    let router = RpcRouter::new().on("Tenant", tenant);
    let hook = async |_: Handshake| Ok(Accept::new().extension(Tenant(7)));
    let site = Site::of(RpcServer::builder(router).auth(hook)).await;
    let mut station = site.enter(&head("/CP")).await;
    assert_eq!(soon(station.ask(r#"[2,"1","Tenant",{}]"#)).await, r#"[3,"1",{"tenant":7}]"#);
    let session = site.server.session("CP").expect("registered");
    assert_eq!((session.extension(), session.extension::<String>()), (Some(Tenant(7)), None));
}

#[tokio::test]
async fn b12_what_the_hook_rejects_is_answered_as_it_says_whatever_the_protocols() {
    let hook = async |handshake: Handshake| match handshake.identity() {
        "default" => Err(Reject::default()),
        "banned" => Err(Reject::new(StatusCode::FORBIDDEN)
            .header(header::RETRY_AFTER, HeaderValue::from_static("60"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/json"))
            .body("{\"banned\":true}")),
        "unknown" => Err(Reject::not_found()),
        "moved" => Err(Reject::new(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, HeaderValue::from_static("/new/moved"))),
        // Statuses that would say something else are a mistake of the hook's.
        "mistaken" => Err(StatusCode::SWITCHING_PROTOCOLS.into()),
        _ => Err(StatusCode::OK.into()),
    };
    // None of these clients offers a protocol that the server has: the hook comes first all the same.
    let mut site = Site::of(judged_by(hook).protocols(["ocpp1.6"])).await;
    for (identity, status, name, value, body, reason) in [
        ("default", 401, "www-authenticate", "Basic realm=\"ocpp\"", "", "Unauthorized"),
        ("banned", 403, "retry-after", "60", "{\"banned\":true}", "{\"banned\":true}"),
        ("banned", 403, "content-type", "application/json", "{\"banned\":true}", "{\"banned\":true}"),
        ("unknown", 404, "content-length", "0", "", "Not Found"),
        ("moved", 307, "location", "/new/moved", "", "Temporary Redirect"),
        ("mistaken", 500, "upgrade", "", "", "Internal Server Error"),
        ("wrong", 500, "upgrade", "", "", "Internal Server Error"),
    ] {
        let answer = site.ask(&head(&format!("/ocpp/{identity}"))).await;
        assert_eq!((answer.status, answer.header(name), &*answer.body), (status, value, body), "{identity}");
        assert_eq!(site.refused().await, (Some(identity.to_owned()), Some(status), reason.to_owned()));
    }
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn a_client_that_was_turned_away_may_try_again_on_the_same_connection() {
    let hook = async |handshake: Handshake| match handshake.password().as_deref() {
        Some(b"secret") => Ok(Accept::new()),
        _ => Err(Reject::unauthorized()),
    };
    let site = Site::of(judged_by(hook)).await;
    let mut client = site.dial().await;
    assert_eq!(client.ask(&head("/CP")).await.status, 401);
    let credentials = BASE64_STANDARD.encode("CP:secret");
    let answer = client.ask(&with(&head("/CP"), &format!("Authorization: Basic {credentials}"))).await;
    let mut station = client.upgraded(&answer).await;
    let answer = soon(station.ask(r#"[2,"1","Unknown",{}]"#)).await;
    assert!(answer.starts_with(r#"[4,"1","NotImplemented","#), "{answer}");
}

#[tokio::test]
async fn b13_a_hook_that_panics_is_an_internal_error() {
    // One panics in its future, the other before it has made one.
    let hook = |handshake: Handshake| {
        assert_ne!(handshake.identity(), "at-once");
        async move { panic!("as it was told to be") }
    };
    let mut site = Site::of(judged_by(hook)).await;
    for identity in ["later", "at-once"] {
        assert_eq!(site.ask(&head(&format!("/{identity}"))).await.status, 500, "{identity}");
        assert_eq!(site.refused().await.1, Some(500), "{identity}");
    }
}

#[tokio::test]
async fn b13_a_hook_that_never_answers_is_dropped_at_the_deadline() {
    let (gate, mut keeper) = Gate::new();
    let mut site = Site::of(judged_by(gate).handshake_timeout(Duration::from_millis(100))).await;
    let answer = site.ask(&head("/CP")).await;
    assert_eq!((answer.status, answer.header("retry-after")), (503, "5"));
    soon(keeper.dropped.recv()).await.expect("dropped");
    let reason = "authentication timed out".to_owned();
    assert_eq!(site.refused().await, (Some("CP".to_owned()), Some(503), reason));
}

#[tokio::test]
async fn b13_the_hook_is_dropped_when_its_client_leaves() {
    let (gate, mut keeper) = Gate::new();
    let site = Site::of(judged_by(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(keeper.entered.recv()).await.expect("entered");
    drop(client);
    soon(keeper.dropped.recv()).await.expect("dropped");
    assert!(site.server.sessions().is_empty());
}

#[tokio::test]
async fn b13_the_hook_is_dropped_at_the_deadline_when_its_client_leaves_with_frames_unread() {
    let (gate, mut keeper) = Gate::new();
    let site = Site::of(judged_by(gate).handshake_timeout(Duration::from_millis(100))).await;
    let mut client = site.dial().await;
    client.send([head("/CP").into_bytes(), frame(r#"[2,"1","X",{}]"#)].concat()).await;
    drop(client);
    soon(keeper.dropped.recv()).await.expect("dropped");
}

#[tokio::test]
async fn b17_a_client_that_leaves_before_it_was_judged_is_an_event() {
    let (gate, mut keeper) = Gate::new();
    let mut site = Site::of(judged_by(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(keeper.entered.recv()).await.expect("entered");
    drop(client);
    let (identity, status, _) = site.refused().await;
    assert_eq!((identity.as_deref(), status), (Some("CP"), None));
}

#[tokio::test]
async fn b13_more_handshakes_than_may_wait_are_turned_away() {
    let (gate, mut keeper) = Gate::new();
    let mut site = Site::of(judged_by(gate).max_pending_handshakes(1)).await;
    let mut first = site.dial().await;
    first.send(head("/first")).await;
    soon(keeper.entered.recv()).await.expect("entered");
    let answer = site.ask(&head("/second")).await;
    assert_eq!((answer.status, answer.header("retry-after"), &*answer.body), (503, "5", "too many pending handshakes"));
    let refused = (Some("second".to_owned()), Some(503), "too many pending handshakes".to_owned());
    assert_eq!(site.refused().await, refused);
    // Its place is free again once the first one is in.
    keeper.open.add_permits(2);
    assert_eq!(first.answer().await.status, 101);
    assert_eq!(site.ask(&head("/second")).await.status, 101);
}

#[tokio::test]
async fn b13_a_handshake_under_way_is_turned_away_when_the_server_closes() {
    let (gate, mut keeper) = Gate::new();
    let site = Site::of(judged_by(gate)).await;
    let mut client = site.dial().await;
    client.send(head("/CP")).await;
    soon(keeper.entered.recv()).await.expect("entered");
    let report = soon(site.listener.close(Close::going_away())).await;
    assert_eq!((report.clean, report.forced), (0, 0));
    let answer = client.answer().await;
    assert_eq!((answer.status, answer.header("retry-after"), &*answer.body), (503, "5", "the server is closing"));
    soon(keeper.dropped.recv()).await.expect("dropped");
}

#[tokio::test]
async fn b12_the_hook_may_choose_a_protocol_among_those_offered() {
    let hook = async |handshake: Handshake| Ok(Accept::new().protocol(handshake.identity()));
    let mut site = Site::of(judged_by(hook).protocols(["ocpp1.6", "ocpp2.0.1"])).await;
    // The last is none of the server's: whoever accepts it by name knows better.
    for chosen in ["ocpp1.6", "ocpp2.0.1", "mine"] {
        let station = site.enter(&offering(&format!("/{chosen}"), "ocpp2.0.1, ocpp1.6, mine")).await;
        assert_eq!(station.protocol.as_deref(), Some(chosen));
    }
    for head in [head("/ocpp1.6"), offering("/ocpp1.6", "ocpp2.0.1, OCPP1.6")] {
        let answer = site.ask(&head).await;
        assert_eq!((answer.status, &*answer.body), (400, "the accepted protocol was not offered"));
        assert_eq!(site.refused().await, (Some("ocpp1.6".to_owned()), Some(400), answer.body));
    }
}

#[tokio::test]
async fn b11_the_hook_is_shown_the_whole_request() {
    let (shown, mut handshakes) = mpsc::unbounded_channel();
    let hook = move |handshake: Handshake| {
        shown.send(handshake).expect("a test");
        async { Ok(Accept::new()) }
    };
    let site = Site::of(judged_by(hook)).await;
    let mut client = site.dial().await;
    let head = with(&offering("/a%2Fb//tenant/CP%201?x=%201&y", "ocpp2.0.1,,ocpp1.6"), "User-Agent: station/1");
    let credentials = BASE64_STANDARD.encode([&b"CP 1:"[..], &[0, 0xff]].concat());
    let head = with(&head, &format!("Authorization: Basic {credentials}"));
    assert_eq!(client.ask(&head).await.status, 101);
    let handshake = soon(handshakes.recv()).await.expect("shown");
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
async fn b14_the_password_is_the_bytes_behind_the_identity_and_never_printed() {
    let (shown, mut handshakes) = mpsc::unbounded_channel();
    let hook = move |handshake: Handshake| {
        shown.send(handshake).expect("a test");
        async { Err(Reject::unauthorized()) }
    };
    let site = Site::of(judged_by(hook)).await;
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
        let handshake = soon(handshakes.recv()).await.expect("shown");
        assert_eq!(handshake.password().as_deref(), password, "{path} {encoded}");
        let printed = format!("{handshake:?} {:?} {:?}", handshake.headers(), handshake.parts());
        assert!(!printed.contains("secret") && !printed.contains(&encoded), "{printed}");
    }
}

#[tokio::test]
async fn b14_credentials_that_cannot_be_read_are_no_password_and_no_error() {
    let hook = async |handshake: Handshake| match handshake.password() {
        None => Ok(Accept::new()),
        Some(_) => Err(Reject::unauthorized()),
    };
    let site = Site::of(judged_by(hook)).await;
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
async fn b12_without_a_hook_everybody_is_let_in() {
    let site = Site::of(RpcServer::builder(RpcRouter::new())).await;
    for head in [head("/CP"), with(&head("/other"), "Authorization: Basic !!!")] {
        assert_eq!(site.ask(&head).await.status, 101);
    }
}

// Over streams in memory, where time can be paused.

/// Sends a sound handshake and gives the first line of the answer.
async fn first_line(mut stream: DuplexStream) -> String {
    stream.write_all(head("/CP").as_bytes()).await.expect("open");
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).await.expect("an answer");
    line.trim_end().to_owned()
}

#[tokio::test(start_paused = true)]
async fn b13_a_hook_has_ten_seconds() {
    let (gate, mut keeper) = Gate::new();
    let server = judged_by(gate).build().expect("sound");
    let start = Instant::now();
    assert_eq!(first_line(dial(&server)).await, "HTTP/1.1 503 Service Unavailable");
    assert_eq!(start.elapsed().as_secs(), 10);
    keeper.dropped.recv().await.expect("dropped");
}

#[tokio::test(start_paused = true)]
async fn b13_no_more_than_1024_handshakes_wait_for_the_hook() {
    let (gate, mut keeper) = Gate::new();
    let server = judged_by(gate).build().expect("sound");
    let mut waiting = JoinSet::new();
    for _ in 0..1024 {
        waiting.spawn(first_line(dial_with_buffer(&server, 1024)));
        keeper.entered.recv().await.expect("entered");
    }
    assert_eq!(first_line(dial(&server)).await, "HTTP/1.1 503 Service Unavailable");
    keeper.open.add_permits(1024);
    for line in waiting.join_all().await {
        assert_eq!(line, "HTTP/1.1 101 Switching Protocols");
    }
}

#[tokio::test(start_paused = true)]
async fn b17_a_client_that_does_not_take_its_answer_is_an_event() {
    for leaves in [true, false] {
        let server = RpcServer::builder(RpcRouter::new()).build().expect("sound");
        let mut events = server.events();
        // So small a buffer that the answer does not fit.
        let mut stream = dial_with_buffer(&server, 16);
        stream.write_all(head("/CP").as_bytes()).await.expect("open");
        stream.read_u8().await.expect("the answer begins");
        let expected = if leaves { "the client disconnected" } else { "sending the response timed out" };
        let stays = Some(stream).filter(|_| !leaves);
        let event = events.next().await.expect("an event");
        let EventKind::HandshakeRefused { status, reason, .. } = event.kind else { panic!("{event:?}") };
        assert_eq!((event.identity.as_deref(), status), (Some("CP"), None));
        assert!(reason.starts_with(expected), "{reason}");
        assert!(server.sessions().is_empty());
        drop(stays);
    }
}

#[tokio::test]
async fn b62_dropping_the_future_of_a_handshake_drops_the_hook() {
    let (gate, mut keeper) = Gate::new();
    let server = judged_by(gate).build().expect("sound");
    let mut events = server.events();
    let inner = server.clone();
    // An HTTP server that loses patience at once.
    let impatient = tower::service_fn(move |request: Request<Incoming>| {
        let mut handshake = inner.clone().call(request);
        async move {
            assert!(futures_util::poll!(&mut handshake).is_pending());
            drop(handshake);
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::from("later")))
        }
    });
    let (near, far) = tokio::io::duplex(4096);
    let connection = http1::Builder::new().serve_connection(TokioIo::new(far), TowerToHyperService::new(impatient));
    tokio::spawn(connection.with_upgrades());
    assert_eq!(first_line(near).await, "HTTP/1.1 200 OK");
    keeper.entered.recv().await.expect("entered");
    keeper.dropped.recv().await.expect("dropped");
    let event = events.next().await.expect("an event");
    assert!(matches!(event.kind, EventKind::HandshakeRefused { status: None, .. }), "{event:?}");
}
