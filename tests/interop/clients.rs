//! The crate's client with servers built on libraries by other authors, with each protocol.

use std::convert::Infallible;
use std::pin::pin;
use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join_all, try_join_all};
use ocpp_rpc::{
    CallError, Close, Error, ErrorCode, Options, RpcClient, RpcRouter,
    client::{Backoff, ClientState, ConnectError, Reconnect, RpcClientBuilder},
    close::{CloseCause, CloseInfo},
    event::{EventKind, Events},
};
use ocpp_rpc::{MessageId, Session};
use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot};

use crate::harness::{Kind, Library, Script};

/// The timeout of a scenario. It is shorter than the client's call timeout.
const LIMIT: Duration = Duration::from_secs(50);

/// A password of the maximum length in OCPP that is not UTF-8.
const PASSWORD: [u8; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 0xff];

/// Runs each of these scenarios with each kind of server. The modules have the kinds' names.
macro_rules! with_each_kind_of_server {
    ($($scenario:ident)*) => {
        with_each_kind_of_server! { @ npm_ocpp1_6, Npm, "ocpp1.6"; $($scenario)* }
        with_each_kind_of_server! { @ npm_ocpp2_0_1, Npm, "ocpp2.0.1"; $($scenario)* }
        with_each_kind_of_server! { @ python_ocpp1_6, Python, "ocpp1.6"; $($scenario)* }
        with_each_kind_of_server! { @ python_ocpp2_0_1, Python, "ocpp2.0.1"; $($scenario)* }
    };
    (@ $module:ident, $library:ident, $protocol:literal; $($scenario:ident)*) => {
        mod $module {
            use crate::harness::{Kind, Library};

            $(
                #[tokio::test]
                async fn $scenario() {
                    let kind = Kind { library: Library::$library, protocol: $protocol };
                    let scenario = tokio::time::timeout(super::LIMIT, super::$scenario(kind));
                    scenario.await.expect("the scenario timed out");
                }
            )*
        }
    };
}

with_each_kind_of_server! {
    boot_notification_is_accepted
    b23_hundred_concurrent_calls_each_way_complete
    b26_call_rejected_by_server_returns_call_error
    b33_handler_error_reaches_server
    b51_client_close_sends_code_and_reason
    b59_client_reconnects_after_server_closes
    b29_queued_calls_keep_order_across_server_restart
    b29_call_in_flight_fails_before_reconnect
    b52_handler_finishes_while_server_is_down
    b52_handler_finishes_after_reconnect
    b07_binary_password_is_accepted
    b53_wrong_password_is_refused
    second_offered_protocol_is_negotiated
    b53_connect_without_common_protocol_fails
    b55_reconnect_keeps_negotiated_protocol
}

async fn boot_notification_is_accepted(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let client = builder(&csms).connect().await.expect("the server accepts the connection");
    let connected = csms.event("connected").await;
    assert_eq!(connected, json!({"event": "connected", "identity": "CP-1", "protocol": kind.protocol}));
    assert_eq!(client.session().protocol().as_deref(), Some(kind.protocol));

    boot(&client, &mut csms).await;
}

async fn b23_hundred_concurrent_calls_each_way_complete(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let options = Options::client().call_concurrency(100);
    let client = builder(&csms).options(options).connect().await.expect("the server accepts the connection");
    csms.event("connected").await;

    csms.send_and_wait("hold", "holding").await;
    let calls = (0..100).map(|n| client.call::<Value>("DataTransfer", &data_transfer("org.example", &n.to_string())));
    let responses = tokio::spawn(try_join_all(calls));
    // The Python library handles one call at a time.
    let concurrent = if let Library::Npm = kind.library { 100 } else { 1 };
    for _ in 0..concurrent {
        csms.event("call").await;
    }
    csms.send("calls 100");
    csms.send_and_wait("release", "released").await;

    let responses = responses.await.expect("no panic").expect("a response to every call");
    for (n, response) in responses.iter().enumerate() {
        assert_eq!(*response, json!({"status": "Accepted", "data": n.to_string()}));
    }
    assert_eq!(csms.event("calls").await, json!({"event": "calls", "ok": 100, "failed": 0}));
}

async fn b26_call_rejected_by_server_returns_call_error(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let response = client.call::<Value>("DataTransfer", &data_transfer("refuse", "")).await;
    let Err(Error::Rejected(error)) = response else { panic!("not rejected: {response:?}") };
    assert_eq!((error.code(), error.description()), (&ErrorCode::SECURITY_ERROR, "not for this vendor"));
    let details: Value = error.details().expect("details").decode().expect("JSON");
    assert_eq!(details, json!({"vendorId": "refuse"}));
    boot(&client, &mut csms).await;
}

async fn b33_handler_error_reaches_server(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let rejected = json!({"event": "error", "code": "InternalError", "description": "no cache here"});
    assert_eq!(csms.send_and_wait("clearcache", "error").await, rejected);
    boot(&client, &mut csms).await;
}

async fn b51_client_close_sends_code_and_reason(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let closed = client.close(Close::new(1000).reason("bye")).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1000, "bye", CloseCause::Local));
    assert_eq!(client.state(), ClientState::Closed);
    let seen = csms.event("disconnected").await;
    assert_eq!(seen, json!({"event": "disconnected", "code": 1000, "reason": "bye"}));
}

async fn b59_client_reconnects_after_server_closes(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let mut events = client.events();
    csms.send("close 1001 maintenance");

    let closed =
        next(&mut events, |event| if let EventKind::Disconnected(closed) = event { Some(closed) } else { None });
    let CloseInfo { code, reason, cause, .. } = closed.await;
    assert_eq!((code, &*reason, cause), (1001, "maintenance", CloseCause::Remote));
    next(&mut events, |event| matches!(event, EventKind::Connecting).then_some(())).await;
    next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;

    csms.event("connected").await;
    boot(&client, &mut csms).await;
}

async fn b29_queued_calls_keep_order_across_server_restart(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    csms.send_and_wait("hold", "holding").await;
    let in_flight = tokio::spawn(client.call::<Value>("Heartbeat", &()));
    csms.event("call").await;

    let everyday = everyday_calls(kind);
    let call = |(action, params): &(&str, Value)| client.call::<Value>(action, params);
    let mut queued = pin!(join_all(everyday[..3].iter().map(call)));
    assert!(queued.as_mut().now_or_never().is_none());

    let port = kill_server(csms, &client).await;
    in_flight.await.expect("no panic").expect_err("the server was killed before it responded");
    let mut offline = pin!(join_all(everyday[3..].iter().map(call)));
    assert!(offline.as_mut().now_or_never().is_none());

    let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
    for response in queued.await.into_iter().chain(offline.await) {
        response.expect("the call is sent after the reconnect");
    }
    for (action, _) in everyday {
        assert_eq!(csms.event("call").await["action"], action);
    }
}

async fn b29_call_in_flight_fails_before_reconnect(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    csms.send_and_wait("hold", "holding").await;
    let in_flight = tokio::spawn(client.call::<Value>("Heartbeat", &()));
    csms.event("call").await;

    // The server is not started again yet, so the call fails without a reconnect.
    let port = kill_server(csms, &client).await;
    let outcome = in_flight.await.expect("no panic");
    assert!(matches!(outcome, Err(Error::Disconnected { maybe_delivered: true })), "{outcome:?}");

    let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
    boot(&client, &mut csms).await;
}

async fn b52_handler_finishes_while_server_is_down(kind: Kind) {
    finish_handler(kind, false).await;
}

async fn b52_handler_finishes_after_reconnect(kind: Kind) {
    finish_handler(kind, true).await;
}

/// Lets a handler finish after its server has been killed. The restarted server receives a response to a call that it
/// never sent.
async fn finish_handler(kind: Kind, after_reconnect: bool) {
    let (calls, mut resets) = mpsc::unbounded_channel();
    let reset = move |id: MessageId| {
        let (resume, resumed) = oneshot::channel();
        calls.send((id, resume)).expect("the test receives the call");
        async move {
            resumed.await.expect("the test resumes the handler");
            accepted().await
        }
    };
    let mut csms = Csms::start(kind).await;
    let router = RpcRouter::new().on("Reset", reset);
    let client = builder(&csms).router(router).connect().await.expect("the server accepts the connection");
    let mut events = client.events();
    csms.send("reset");
    let (id, resume) = resets.recv().await.expect("the handler is called");

    let port = kill_server(csms, &client).await;
    let resume_handler = || resume.send(()).expect("the handler waits");
    let mut csms = if after_reconnect {
        let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
        csms.event("connected").await;
        resume_handler();
        csms
    } else {
        resume_handler();
        Csms::launch(kind.library, kind.protocol, port, None).await
    };
    let start_of_response = format!(r#"[3,"{id}","#);
    next(&mut events, |event| match event {
        EventKind::Sent(text) => text.as_str().starts_with(&start_of_response).then_some(()),
        _ => None,
    })
    .await;

    // The server must keep the connection open after the unexpected response.
    csms.send("reset");
    let (_, resume) = resets.recv().await.expect("the handler is called again");
    resume.send(()).expect("the handler waits");
    assert_eq!(csms.event("result").await["status"], "Accepted");
    boot(&client, &mut csms).await;
    client.close(Close::normal()).await;
    let closed = next(&mut events, |event| match event {
        EventKind::Disconnected(closed) | EventKind::Closed(closed) => Some(closed),
        _ => None,
    });
    assert_eq!(closed.await.cause, CloseCause::Local);
}

async fn b07_binary_password_is_accepted(kind: Kind) {
    let mut csms = Csms::launch(kind.library, kind.protocol, 0, Some(&PASSWORD)).await;
    let client =
        builder_for(&csms, "CP:1").password(PASSWORD).connect().await.expect("the server accepts the right password");
    assert_eq!(csms.event("connected").await["identity"], "CP:1");
    boot(&client, &mut csms).await;
}

async fn b53_wrong_password_is_refused(kind: Kind) {
    let csms = Csms::launch(kind.library, kind.protocol, 0, Some(&PASSWORD)).await;
    let builder = builder_for(&csms, "CP:1");
    let shorter = builder.clone().password(&PASSWORD[..19]);
    let empty = builder.clone().password("");
    for builder in [shorter, empty, builder] {
        let error = builder.connect().await.expect_err("the server refuses a wrong password");
        assert_eq!(error.status().map(|status| status.as_u16()), Some(401), "{error}");
    }
}

async fn second_offered_protocol_is_negotiated(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let offers_both = builder(&csms).protocols([other_protocol(kind), kind.protocol]);
    let client = offers_both.connect().await.expect("the server supports one of the protocols");
    assert_eq!(client.session().protocol().as_deref(), Some(kind.protocol));
    assert_eq!(csms.event("connected").await["protocol"], kind.protocol);
    boot(&client, &mut csms).await;
}

async fn b53_connect_without_common_protocol_fails(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let client = builder(&csms).protocols([other_protocol(kind)]).build().expect("a valid configuration");
    let error = client.connect().await.expect_err("the server supports none of the protocols");
    match kind.library {
        // The npm library negotiates no protocol and expects the client to disconnect.
        Library::Npm => {
            assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
            csms.event("connected").await;
            csms.event("disconnected").await;
        }
        Library::Python => assert_eq!(error.status().map(|status| status.as_u16()), Some(400), "{error}"),
    }
    assert_eq!(client.state(), ClientState::Closed);
}

async fn b55_reconnect_keeps_negotiated_protocol(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let both = [other_protocol(kind), kind.protocol];
    let client = builder(&csms).protocols(both).connect().await.expect("the server supports one of the protocols");
    csms.event("connected").await;

    // Both libraries prefer the order of their own list to the client's.
    let port = kill_server(csms, &client).await;
    let mut csms = Csms::launch(kind.library, &both.join(","), port, None).await;
    assert_eq!(csms.event("connected").await["protocol"], kind.protocol);
    boot(&client, &mut csms).await;
}

/// Returns a server and a client that is connected to it.
async fn connected(kind: Kind) -> (Csms, RpcClient) {
    let mut csms = Csms::start(kind).await;
    let client = builder(&csms).connect().await.expect("the server accepts the connection");
    csms.event("connected").await;
    (csms, client)
}

/// Returns a builder of a client that offers the server's protocols.
fn builder(csms: &Csms) -> RpcClientBuilder {
    builder_for(csms, "CP-1")
}

fn builder_for(csms: &Csms, identity: &str) -> RpcClientBuilder {
    let backoff = Backoff::exponential().min(Duration::from_millis(20)).max(Duration::from_millis(200));
    RpcClient::builder(format!("ws://127.0.0.1:{}/ocpp", csms.port), identity)
        .protocols([&csms.protocol])
        .reconnect(Reconnect::always().backoff(backoff))
        .router(
            RpcRouter::new()
                .on("Reset", accepted)
                .on("GetLocalListVersion", local_list_version)
                .on("ClearCache", clear_cache),
        )
}

async fn accepted() -> Result<Value, Infallible> {
    Ok(json!({"status": "Accepted"}))
}

async fn local_list_version(session: Session) -> Result<Value, Infallible> {
    Ok(match session.protocol().as_deref() {
        Some("ocpp1.6") => json!({"listVersion": 7}),
        _ => json!({"versionNumber": 7}),
    })
}

async fn clear_cache() -> Result<Value, CallError> {
    Err(CallError::new(ErrorCode::INTERNAL_ERROR, "no cache here"))
}

/// Sends a BootNotification and expects it to be accepted.
async fn boot(client: &RpcClient, csms: &mut Csms) {
    let request = match client.session().protocol().as_deref() {
        Some("ocpp1.6") => json!({"chargePointVendor": "Interop", "chargePointModel": "Rust"}),
        _ => json!({"reason": "PowerUp", "chargingStation": {"vendorName": "Interop", "model": "Rust"}}),
    };
    let booted: Value = client.call("BootNotification", &request).await.expect("a response to the BootNotification");
    assert_eq!((&booted["status"], &booted["interval"]), (&json!("Accepted"), &json!(300)));
    csms.event("booted").await;
}

/// Returns one call of each kind that stations send regularly, in the payload format of a protocol.
fn everyday_calls(kind: Kind) -> [(&'static str, Value); 5] {
    const NOON: &str = "2024-06-01T12:00:00Z";
    let v16 = kind.protocol == "ocpp1.6";
    let of_protocol = |old, new| if v16 { old } else { new };
    [
        (
            "StatusNotification",
            of_protocol(
                json!({"connectorId": 1, "errorCode": "NoError", "status": "Available"}),
                json!({"timestamp": NOON, "connectorStatus": "Available", "evseId": 1, "connectorId": 1}),
            ),
        ),
        (
            "MeterValues",
            of_protocol(
                json!({"connectorId": 1, "meterValue": [{"timestamp": NOON, "sampledValue": [{"value": "16.2"}]}]}),
                json!({"evseId": 1, "meterValue": [{"timestamp": NOON, "sampledValue": [{"value": 16.2}]}]}),
            ),
        ),
        (
            "Authorize",
            of_protocol(json!({"idTag": "0402A1B2"}), json!({"idToken": {"idToken": "0402A1B2", "type": "ISO14443"}})),
        ),
        ("DataTransfer", data_transfer("org.example", "intact")),
        ("Heartbeat", json!({})),
    ]
}

fn data_transfer(vendor: &str, data: &str) -> Value {
    json!({"vendorId": vendor, "data": data})
}

fn other_protocol(kind: Kind) -> &'static str {
    if kind.protocol == "ocpp1.6" { "ocpp2.0.1" } else { "ocpp1.6" }
}

/// Kills a server, waits until its client has disconnected, and returns the server's port.
async fn kill_server(csms: Csms, client: &RpcClient) -> u16 {
    let port = csms.port;
    drop(csms);
    let mut states = client.states();
    let connecting = states.wait_for(|state| *state == ClientState::Connecting);
    connecting.await.expect("the client is running");
    port
}

/// Returns the first `Some` that `pick` returns for a later event.
async fn next<T>(events: &mut Events, pick: impl Fn(EventKind) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the client is running");
        if let Some(picked) = pick(event.kind) {
            return picked;
        }
    }
}

/// A server process. csms.js lists its commands and events. Dropping this value kills the process.
struct Csms {
    protocol: String,
    port: u16,
    script: Script,
}

impl Csms {
    /// Starts a server on a free port that accepts any station.
    async fn start(kind: Kind) -> Self {
        Self::launch(kind.library, kind.protocol, 0, None).await
    }

    async fn launch(library: Library, protocols: &str, port: u16, password: Option<&[u8]>) -> Self {
        let hex = |bytes: &[u8]| String::from_iter(bytes.iter().map(|byte| format!("{byte:02x}")));
        let mut command = library.script("csms");
        command.args([&port.to_string(), protocols]).args(password.map(hex));
        let mut script = Script::start(&mut command);
        let port = script.port().await;
        Self { protocol: protocols.to_owned(), port, script }
    }

    fn send(&mut self, command: &str) {
        self.script.send(command);
    }

    async fn event(&mut self, name: &str) -> Value {
        self.script.event(name).await
    }

    /// Sends a command and waits for the event of this name.
    async fn send_and_wait(&mut self, command: &str, event: &str) -> Value {
        self.send(command);
        self.event(event).await
    }
}
