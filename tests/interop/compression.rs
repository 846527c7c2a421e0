//! Compressed messages between both ends and other implementations of permessage-deflate (RFC 7692).
//!
//! The other end is a mirror, which sends every message back as mirror_ws.js describes. So each call of the crate's end
//! comes back as a call of the peer, and the response to that comes back as the response of the peer.
//!
//! All cases of a test run at once, the one without compression among them: their connections share the crate's zlib
//! states, which belong to the thread.

use std::{convert::Infallible, fs, path::Path, process::Command, time::Duration};

use futures_util::future::{join_all, try_join_all};
use ocpp_rpc::{
    Close, Error, Options, RpcClient, RpcRouter, RpcServer, Session,
    client::Reconnect,
    close::CloseCause,
    compression::{CompressedMessages, Compression},
    extract::{Params, State},
    server::Listener,
};
use serde_json::{Value, json};
use tokio::{
    sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel},
    time::timeout,
};

use crate::harness::{Library, Script, TIMEOUT, peer, program};

const PROTOCOL: &str = "ocpp1.6";

/// The timeout of all calls on a connection.
const LIMIT: Duration = Duration::from_secs(50);

/// A connection to a mirror.
#[derive(Debug, Clone, Copy)]
struct Case {
    /// The settings of the mirror, as its script takes them. `None` turns compression off.
    mirror: Option<&'static str>,
    /// The settings of the crate's end.
    own: Option<Compression>,
    /// The directions on which both ends must agree.
    agreed: Option<Agreed>,
}

/// The window and the context takeover of the messages that the crate's end sends, and of those that it receives.
#[derive(Debug, Clone, Copy)]
struct Agreed {
    sent: (u8, bool),
    received: (u8, bool),
}

impl Case {
    /// Returns a case with compression, with the window and the context takeover of each direction.
    const fn new(mirror: &'static str, own: Compression, sent: (u8, bool), received: (u8, bool)) -> Self {
        Self { mirror: Some(mirror), own: Some(own), agreed: Some(Agreed { sent, received }) }
    }

    const fn without(mirror: Option<&'static str>, own: Option<Compression>) -> Self {
        Self { mirror, own, agreed: None }
    }
}

const DEFAULT: Compression = Compression::new();

fn bits(bits: u8) -> Compression {
    DEFAULT.window_bits(bits)
}

fn no_context() -> Compression {
    DEFAULT.context_takeover(false)
}

#[tokio::test]
async fn ws_client_and_server_agree_and_exchange_calls() {
    let cases = [
        Case::new("{}", DEFAULT, (10, true), (11, true)),
        Case::new("{}", bits(9), (9, true), (9, true)),
        Case::new("{}", bits(15), (15, true), (15, true)),
        Case::new("{}", no_context(), (10, false), (11, false)),
        Case::new(r#"{"serverNoContextTakeover": true}"#, DEFAULT, (10, false), (11, true)),
        Case::new(r#"{"clientNoContextTakeover": true}"#, DEFAULT, (10, true), (11, false)),
        Case::new(
            r#"{"serverNoContextTakeover": true, "clientNoContextTakeover": true}"#,
            bits(15),
            (15, false),
            (15, false),
        ),
        Case::new(r#"{"serverMaxWindowBits": 9, "clientMaxWindowBits": 10}"#, DEFAULT, (9, true), (10, true)),
        Case::new(r#"{"serverMaxWindowBits": 12, "clientMaxWindowBits": 12}"#, bits(15), (12, true), (12, true)),
        Case::new(r#"{"serverMaxWindowBits": 15, "clientMaxWindowBits": 15}"#, DEFAULT, (10, true), (11, true)),
        Case::new(r#"{"clientMaxWindowBits": false}"#, DEFAULT, (10, true), (15, false)),
        // The window that zlib does not have.
        Case::without(Some(r#"{"serverMaxWindowBits": 8}"#), Some(DEFAULT)),
        Case::without(Some("{}"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_clients(&cases, || Library::Npm.script("mirror_ws")).await;
}

#[tokio::test]
async fn ws_server_and_client_agree_and_exchange_calls() {
    let cases = [
        Case::new("{}", DEFAULT, (10, true), (15, true)),
        Case::new("{}", bits(9), (9, true), (15, true)),
        Case::new("{}", bits(15), (15, true), (15, true)),
        Case::new("{}", no_context(), (10, false), (15, false)),
        Case::new(r#"{"serverNoContextTakeover": true}"#, DEFAULT, (10, true), (15, false)),
        Case::new(r#"{"clientNoContextTakeover": true}"#, DEFAULT, (10, false), (15, true)),
        Case::new(
            r#"{"serverNoContextTakeover": true, "clientNoContextTakeover": true}"#,
            bits(15),
            (15, false),
            (15, false),
        ),
        Case::new(r#"{"serverMaxWindowBits": 9, "clientMaxWindowBits": 10}"#, bits(15), (10, true), (9, true)),
        Case::new(r#"{"serverMaxWindowBits": 12, "clientMaxWindowBits": 12}"#, DEFAULT, (10, true), (12, true)),
        Case::new(r#"{"serverMaxWindowBits": 15, "clientMaxWindowBits": 15}"#, DEFAULT, (10, true), (15, true)),
        Case::without(Some("{}"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_servers(&cases, || Library::Npm.script("mirror_ws")).await;
}

#[tokio::test]
async fn websockets_client_and_server_agree_and_exchange_calls() {
    let cases = [
        Case::new("{}", DEFAULT, (10, true), (11, true)),
        Case::new("{}", bits(9), (9, true), (9, true)),
        Case::new("{}", bits(15), (15, true), (15, true)),
        Case::new("{}", no_context(), (10, false), (11, false)),
        Case::new(r#"{"server_no_context_takeover": true}"#, DEFAULT, (10, false), (11, true)),
        Case::new(r#"{"client_no_context_takeover": true}"#, DEFAULT, (10, true), (11, false)),
        Case::new(
            r#"{"server_no_context_takeover": true, "client_no_context_takeover": true}"#,
            bits(15),
            (15, false),
            (15, false),
        ),
        Case::new(r#"{"server_max_window_bits": 9, "client_max_window_bits": 10}"#, DEFAULT, (9, true), (10, true)),
        Case::new(r#"{"server_max_window_bits": 12, "client_max_window_bits": 12}"#, bits(15), (12, true), (12, true)),
        Case::new(r#"{"server_max_window_bits": 15, "client_max_window_bits": 15}"#, DEFAULT, (10, true), (11, true)),
        Case::new(r#"{"client_max_window_bits": null}"#, DEFAULT, (10, true), (15, false)),
        // The window that zlib does not have.
        Case::without(Some(r#"{"server_max_window_bits": 8}"#), Some(DEFAULT)),
        Case::without(Some("{}"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_clients(&cases, || Library::Python.script("mirror_websockets")).await;
}

#[tokio::test]
async fn websockets_server_and_client_agree_and_exchange_calls() {
    let cases = [
        Case::new("{}", DEFAULT, (10, true), (15, true)),
        Case::new("{}", bits(9), (9, true), (15, true)),
        Case::new("{}", bits(15), (15, true), (15, true)),
        Case::new("{}", no_context(), (10, false), (15, false)),
        Case::new(r#"{"server_no_context_takeover": true}"#, DEFAULT, (10, true), (15, false)),
        Case::new(r#"{"client_no_context_takeover": true}"#, DEFAULT, (10, false), (15, true)),
        Case::new(
            r#"{"server_no_context_takeover": true, "client_no_context_takeover": true}"#,
            bits(15),
            (15, false),
            (15, false),
        ),
        Case::new(r#"{"server_max_window_bits": 9, "client_max_window_bits": 10}"#, bits(15), (10, true), (9, true)),
        Case::new(r#"{"server_max_window_bits": 12, "client_max_window_bits": 12}"#, DEFAULT, (10, true), (12, true)),
        Case::new(r#"{"server_max_window_bits": 15, "client_max_window_bits": 15}"#, DEFAULT, (10, true), (15, true)),
        Case::without(Some("{}"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_servers(&cases, || Library::Python.script("mirror_websockets")).await;
}

#[tokio::test]
async fn aiohttp_client_and_server_agree_and_exchange_calls() {
    let cases = [
        Case::new("15", DEFAULT, (10, true), (11, true)),
        Case::new("15", bits(9), (9, true), (9, true)),
        Case::new("15", bits(15), (15, true), (15, true)),
        Case::new("15", no_context(), (10, false), (11, false)),
        Case::new("9", DEFAULT, (9, true), (11, true)),
        Case::new("10", bits(15), (10, true), (15, true)),
        Case::new("12", bits(15), (12, true), (15, true)),
        Case::without(Some("15"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_clients(&cases, || Library::Python.script("mirror_aiohttp")).await;
}

#[tokio::test]
async fn aiohttp_server_and_client_agree_and_exchange_calls() {
    let cases = [
        Case::new("15", DEFAULT, (10, true), (15, true)),
        Case::new("15", bits(9), (9, true), (15, true)),
        Case::new("15", bits(15), (15, true), (15, true)),
        Case::new("15", no_context(), (10, false), (15, false)),
        Case::without(Some("15"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_servers(&cases, || Library::Python.script("mirror_aiohttp")).await;
}

#[tokio::test]
async fn libwebsockets_client_and_server_agree_and_exchange_calls() {
    const BOTH: &str = "permessage-deflate; server_no_context_takeover; client_no_context_takeover";
    let cases = [
        Case::new("permessage-deflate; client_max_window_bits", DEFAULT, (10, true), (11, true)),
        Case::new("permessage-deflate; client_max_window_bits", bits(9), (9, true), (9, true)),
        Case::new("permessage-deflate; client_max_window_bits", bits(15), (15, true), (15, true)),
        Case::new("permessage-deflate; client_max_window_bits", no_context(), (10, false), (11, false)),
        Case::new("permessage-deflate; server_no_context_takeover", bits(15), (15, false), (15, true)),
        Case::new("permessage-deflate; client_no_context_takeover", bits(15), (15, true), (15, false)),
        Case::new(BOTH, DEFAULT, (10, false), (15, false)),
        Case::new("permessage-deflate", DEFAULT, (10, true), (15, false)),
        Case::new(
            "permessage-deflate; server_max_window_bits=9; client_max_window_bits=10",
            DEFAULT,
            (9, true),
            (10, true),
        ),
        Case::new(
            "permessage-deflate; server_max_window_bits=12; client_max_window_bits=12",
            bits(15),
            (12, true),
            (12, true),
        ),
        Case::without(Some("permessage-deflate; client_max_window_bits"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_clients(&cases, || Command::new(peer("libwebsockets").join("mirror"))).await;
}

#[tokio::test]
async fn libwebsockets_server_and_client_agree_and_exchange_calls() {
    let cases = [
        Case::new("permessage-deflate", DEFAULT, (10, true), (15, true)),
        Case::new("permessage-deflate", bits(9), (9, true), (15, true)),
        Case::new("permessage-deflate", bits(15), (15, true), (15, true)),
        Case::new("permessage-deflate", no_context(), (10, false), (15, false)),
        Case::without(Some("permessage-deflate"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_servers(&cases, || Command::new(peer("libwebsockets").join("mirror"))).await;
}

#[tokio::test]
async fn ocpp_kit_client_and_server_agree_and_exchange_calls() {
    let cases = [
        Case::new("on", DEFAULT, (10, true), (15, false)),
        Case::new("on", bits(9), (9, true), (15, false)),
        Case::new("on", bits(15), (15, true), (15, true)),
        Case::new("on", no_context(), (10, false), (15, false)),
        Case::without(Some("on"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_clients(&cases, || program("mirror-ocpp-kit")).await;
}

#[tokio::test]
async fn ocpp_kit_server_and_client_agree_and_exchange_calls() {
    let cases = [
        Case::new("on", DEFAULT, (10, true), (15, true)),
        Case::new("on", bits(9), (9, true), (15, true)),
        Case::new("on", bits(15), (15, true), (15, true)),
        Case::new("on", no_context(), (10, false), (15, false)),
        Case::without(Some("on"), None),
        Case::without(None, Some(DEFAULT)),
    ];
    test_servers(&cases, || program("mirror-ocpp-kit")).await;
}

#[tokio::test]
async fn chromium_and_server_agree_and_exchange_calls() {
    let cases = [
        Case::new("", DEFAULT, (10, true), (11, true)),
        Case::new("", bits(9), (9, true), (9, true)),
        Case::new("", bits(12), (12, true), (12, true)),
        Case::new("", bits(15), (15, true), (15, true)),
        Case::new("", no_context(), (10, false), (11, false)),
        Case::without(Some(""), None),
    ];
    let mut servers = start_servers(&cases).await;
    let urls: Vec<_> = servers.iter().map(Server::url).collect();

    let page = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/mirror_chromium.html");
    let profile = Path::new(env!("CARGO_TARGET_TMPDIR")).join("chromium");
    let _ = fs::remove_dir_all(&profile);
    let mut chromium = Command::new("chromium");
    // Its sandbox does not work for root, nor in most containers.
    chromium.args(["--headless", "--no-sandbox", "--disable-gpu", "--log-level=3"]);
    chromium.arg(format!("--user-data-dir={}", profile.display()));
    let _browser = Script::start(chromium.arg(format!("file://{}#{}", page.display(), urls.join(","))));
    join_all(servers.iter_mut().map(Server::test)).await;
}

/// Tests the crate's server with a mirror as client for each case.
async fn test_clients(cases: &[Case], script: impl Fn() -> Command) {
    let mut servers = start_servers(cases).await;
    join_all(servers.iter_mut().map(async |server| {
        let mut mirror = Script::start(script().args(["client", &server.url()]).args(server.case.mirror));
        server.test().await;
        mirror.succeeds().await;
    }))
    .await;
}

/// Tests the crate's client with a mirror as server for each case.
async fn test_servers(cases: &[Case], script: impl Fn() -> Command) {
    join_all(cases.iter().map(async |case| {
        let mut mirror = Script::start(script().arg("server").args(case.mirror));
        let (router, mut reports) = router();
        let client = RpcClient::builder(format!("ws://127.0.0.1:{}", mirror.port().await), "CP-1")
            .protocols([PROTOCOL])
            .router(router)
            .options(options(Options::client(), case))
            .reconnect(Reconnect::never())
            .connect()
            .await
            .unwrap_or_else(|error| panic!("{case:?}: {error}"));
        let (_, extensions) = next_report(&mut reports, case).await;
        test(&client.session(), &extensions, case).await;
    }))
    .await;
}

async fn start_servers(cases: &[Case]) -> Vec<Server> {
    join_all(cases.iter().map(Server::start)).await
}

/// The crate's server for one mirror.
struct Server {
    case: Case,
    listener: Listener,
    reports: UnboundedReceiver<Report>,
}

impl Server {
    async fn start(case: &Case) -> Self {
        let (router, reports) = router();
        let server = RpcServer::builder(router)
            .protocols([PROTOCOL])
            .options(options(Options::server(), case))
            .build()
            .expect("a valid configuration");
        Self { case: *case, listener: server.listen("127.0.0.1:0").await.expect("a port"), reports }
    }

    fn url(&self) -> String {
        format!("ws://{}/CP-1", self.listener.local_addr())
    }

    async fn test(&mut self) {
        let (session, extensions) = next_report(&mut self.reports, &self.case).await;
        test(&session, &extensions, &self.case).await;
    }
}

/// Returns the options of an end. Several calls are in flight at once, so that calls and responses mix.
fn options(options: Options, case: &Case) -> Options {
    options.compression(case.own).call_concurrency(4)
}

/// A connection, and the extensions of which the mirror knows.
type Report = (Session, Value);

/// Returns a router that responds to a mirror.
fn router() -> (RpcRouter<UnboundedSender<Report>>, UnboundedReceiver<Report>) {
    let (reports, received) = unbounded_channel();
    (RpcRouter::with_state(reports).on("DataTransfer", data_transfer), received)
}

async fn data_transfer(
    State(reports): State<UnboundedSender<Report>>,
    session: Session,
    Params(mut params): Params<Value>,
) -> Result<Value, Infallible> {
    let data = params["data"].take();
    if params["vendorId"] == "report" {
        reports.send((session, data.clone())).expect("the test waits for reports");
    }
    Ok(json!({"status": "Accepted", "data": data}))
}

async fn next_report(reports: &mut UnboundedReceiver<Report>, case: &Case) -> Report {
    let report = timeout(TIMEOUT, reports.recv()).await;
    report.ok().flatten().unwrap_or_else(|| panic!("{case:?}: the mirror did not connect"))
}

/// Exchanges calls with a mirror, and checks that both ends have compressed them as agreed.
async fn test(session: &Session, extensions: &Value, case: &Case) {
    let text_bytes = match timeout(LIMIT, exchange(session)).await {
        Ok(Ok(text_bytes)) => text_bytes,
        Ok(Err(error)) => panic!("{case:?}: {error}: {:?}", session.closed().await),
        Err(_) => panic!("{case:?}: timed out: {:?}", session.info().compression()),
    };

    if let Some(extensions) = extensions.as_str() {
        assert_eq!(extensions.starts_with("permessage-deflate"), case.agreed.is_some(), "{case:?}: {extensions}");
    }
    let compression = session.info().compression().copied();
    assert_eq!(compression.is_some(), case.agreed.is_some(), "{case:?}: {compression:?}");
    if let (Some(compression), Some(agreed)) = (compression, case.agreed) {
        // Mirrors that report their extensions compress every message, as the crate does. The texts differ in the report.
        let difference = compression.sent.text_bytes.abs_diff(compression.received.text_bytes);
        assert!(difference < 40 || extensions.is_null(), "{case:?}: {compression:?}");
        for (messages, agreed) in [(compression.sent, agreed.sent), (compression.received, agreed.received)] {
            let CompressedMessages { window_bits, context_takeover, .. } = messages;
            assert_eq!((window_bits, context_takeover), agreed, "{case:?}: {compression:?}");
            // Each text passes in a call and in a response.
            assert!(messages.text_bytes > 2 * text_bytes, "{case:?}: {compression:?}");
            assert!(messages.payload_bytes < messages.text_bytes / 2, "{case:?}: {compression:?}");
        }
    }

    let closed = session.close(Close::normal()).await;
    assert_eq!((closed.code, closed.cause), (1000, CloseCause::Local), "{case:?}: {closed:?}");
}

/// Calls the mirror with each text, one after another, and then several at once. Returns the length of all texts.
async fn exchange(session: &Session) -> Result<u64, Error> {
    let call = async |text: &String| {
        let request = json!({"vendorId": "org.example", "data": text});
        let response: Value = session.call("DataTransfer", &request).await?;
        assert!(response == json!({"status": "Accepted", "data": text}), "a text of {} bytes has changed", text.len());
        Ok::<_, Error>(text.len() as u64)
    };
    let mut texts = texts();
    let mut length = 0;
    for text in &texts {
        length += call(text).await?;
    }
    // One long text is enough for a build without optimisations.
    texts.retain(|text| text.len() < 50_000);
    Ok(length + try_join_all(texts.iter().map(call)).await?.iter().sum::<u64>())
}

/// Returns texts of every kind: empty, short, long, repeated, not ASCII, and one that can hardly be compressed.
fn texts() -> Vec<String> {
    let meter_values = |samples: u32| {
        let sample =
            |n| format!("{{'timestamp': {}, 'value': '{}.{}'}}", 1_717_243_200 + 900 * n, 230 + n % 7, n % 100);
        String::from_iter((0..samples).map(sample))
    };
    // Letters by Knuth's linear congruential generator.
    let noise = (0..20_000).scan(1_u64, |state, _| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        Some(char::from_digit((*state >> 33) as u32 % 36, 36).expect("a digit"))
    });
    let greeting = "Grüße aus Zürich: \u{26a1} 充電中 🔌";
    vec![
        String::new(),
        "a".to_owned(),
        "Available".to_owned(),
        "Available".to_owned(),
        greeting.to_owned(),
        meter_values(20),
        meter_values(20),
        String::from_iter(noise),
        greeting.repeat(200),
        String::new(),
        meter_values(2_500),
        "Available".to_owned(),
    ]
}
