//! Our client at servers on libraries by others, each with each protocol.

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

/// How long a scenario may take. Shorter than a call of ours would wait for its answer.
const LIMIT: Duration = Duration::from_secs(50);

/// As long as passwords of OCPP may be, and not UTF-8.
const PASSWORD: [u8; 20] = [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 0xff];

/// Runs each of these scenarios with each kind of server, in modules named after the kinds.
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
                    scenario.await.expect("a scenario comes to its end");
                }
            )*
        }
    };
}

with_each_kind_of_server! {
    boots
    b23_has_a_hundred_calls_out_each_way_at_once
    b26_is_refused_a_call_with_an_error
    b33_refuses_a_call_with_an_error
    b51_closes_with_a_code_and_a_reason
    b59_comes_back_after_it_was_closed_with_a_code_and_a_reason
    b29_keeps_waiting_calls_in_order_while_the_server_is_killed
    b29_learns_at_once_that_a_call_in_flight_is_lost
    b52_finishes_a_handler_while_the_server_is_down
    b52_finishes_a_handler_after_the_server_is_back
    b07_proves_itself_with_a_binary_password
    b53_is_refused_with_a_wrong_password
    settles_for_the_second_protocol_it_offers
    b53_has_no_protocol_in_common
    b55_keeps_its_protocol_when_it_reconnects
}

async fn boots(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let client = dial(&csms).connect().await.expect("the server is there");
    let connected = csms.event("connected").await;
    assert_eq!(connected, json!({"event": "connected", "identity": "CP-1", "protocol": kind.protocol}));
    assert_eq!(client.session().protocol().as_deref(), Some(kind.protocol));

    boot(&client, &mut csms).await;
}

async fn b23_has_a_hundred_calls_out_each_way_at_once(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let options = Options::client().call_concurrency(100);
    let client = dial(&csms).options(options).connect().await.expect("the server is there");
    csms.event("connected").await;

    csms.ask("hold", "holding").await;
    let calls = (0..100).map(|n| client.call::<Value>("DataTransfer", &parcel("org.example", &n.to_string())));
    let answers = tokio::spawn(try_join_all(calls));
    // The Python library takes calls one by one.
    let at_once = if let Library::Npm = kind.library { 100 } else { 1 };
    for _ in 0..at_once {
        csms.event("call").await;
    }
    csms.tell("calls 100");
    csms.ask("release", "released").await;

    let answers = answers.await.expect("no panic").expect("all are answered");
    for (n, answer) in answers.iter().enumerate() {
        assert_eq!(*answer, json!({"status": "Accepted", "data": n.to_string()}));
    }
    assert_eq!(csms.event("calls").await, json!({"event": "calls", "ok": 100, "failed": 0}));
}

async fn b26_is_refused_a_call_with_an_error(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let answer = client.call::<Value>("DataTransfer", &parcel("refuse", "")).await;
    let Err(Error::Rejected(error)) = answer else { panic!("not refused: {answer:?}") };
    assert_eq!((error.code(), error.description()), (&ErrorCode::SECURITY_ERROR, "not for this vendor"));
    let details: Value = error.details().expect("details").decode().expect("JSON");
    assert_eq!(details, json!({"vendorId": "refuse"}));
    boot(&client, &mut csms).await;
}

async fn b33_refuses_a_call_with_an_error(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let refused = json!({"event": "error", "code": "InternalError", "description": "no cache here"});
    assert_eq!(csms.ask("clearcache", "error").await, refused);
    boot(&client, &mut csms).await;
}

async fn b51_closes_with_a_code_and_a_reason(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let closed = client.close(Close::new(1000).reason("bye")).await;
    assert_eq!((closed.code, &*closed.reason, closed.cause), (1000, "bye", CloseCause::Local));
    assert_eq!(client.state(), ClientState::Closed);
    let seen = csms.event("disconnected").await;
    assert_eq!(seen, json!({"event": "disconnected", "code": 1000, "reason": "bye"}));
}

async fn b59_comes_back_after_it_was_closed_with_a_code_and_a_reason(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    let mut events = client.events();
    csms.tell("close 1001 maintenance");

    let closed =
        next(&mut events, |event| if let EventKind::Disconnected(closed) = event { Some(closed) } else { None });
    let CloseInfo { code, reason, cause, .. } = closed.await;
    assert_eq!((code, &*reason, cause), (1001, "maintenance", CloseCause::Remote));
    next(&mut events, |event| matches!(event, EventKind::Connecting).then_some(())).await;
    next(&mut events, |event| matches!(event, EventKind::Opened { .. }).then_some(())).await;

    csms.event("connected").await;
    boot(&client, &mut csms).await;
}

async fn b29_keeps_waiting_calls_in_order_while_the_server_is_killed(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    csms.ask("hold", "holding").await;
    let in_flight = tokio::spawn(client.call::<Value>("Heartbeat", &()));
    csms.event("call").await;

    let everyday = everyday(kind);
    let call = |(action, params): &(&str, Value)| client.call::<Value>(action, params);
    let mut in_line = pin!(join_all(everyday[..3].iter().map(call)));
    assert!(in_line.as_mut().now_or_never().is_none());

    let port = lose(csms, &client).await;
    in_flight.await.expect("no panic").expect_err("nobody is there to answer");
    let mut made_meanwhile = pin!(join_all(everyday[3..].iter().map(call)));
    assert!(made_meanwhile.as_mut().now_or_never().is_none());

    let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
    for answer in in_line.await.into_iter().chain(made_meanwhile.await) {
        answer.expect("it waited for the server");
    }
    for (action, _) in everyday {
        assert_eq!(csms.event("call").await["action"], action);
    }
}

async fn b29_learns_at_once_that_a_call_in_flight_is_lost(kind: Kind) {
    let (mut csms, client) = connected(kind).await;
    csms.ask("hold", "holding").await;
    let in_flight = tokio::spawn(client.call::<Value>("Heartbeat", &()));
    csms.event("call").await;

    // Nothing listens any more: it is no reconnect that ends the call.
    let port = lose(csms, &client).await;
    let lost = in_flight.await.expect("no panic");
    assert!(matches!(lost, Err(Error::Disconnected { maybe_delivered: true })), "{lost:?}");

    let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
    boot(&client, &mut csms).await;
}

async fn b52_finishes_a_handler_while_the_server_is_down(kind: Kind) {
    finishes_a_handler(kind, false).await;
}

async fn b52_finishes_a_handler_after_the_server_is_back(kind: Kind) {
    finishes_a_handler(kind, true).await;
}

/// A handler lives on while its server is killed and started again, and the answer goes to one that never asked.
async fn finishes_a_handler(kind: Kind, when_back: bool) {
    let (told, mut resets) = mpsc::unbounded_channel();
    let reset = move |id: MessageId| {
        let (go, told_to_go) = oneshot::channel();
        told.send((id, go)).expect("the test listens");
        async move {
            told_to_go.await.expect("the test lets it go on");
            accepted().await
        }
    };
    let mut csms = Csms::start(kind).await;
    let router = RpcRouter::new().on("Reset", reset);
    let client = dial(&csms).router(router).connect().await.expect("the server is there");
    let mut events = client.events();
    csms.tell("reset");
    let (id, go) = resets.recv().await.expect("the handler is called");

    let port = lose(csms, &client).await;
    let go_on = || go.send(()).expect("the handler waits");
    let mut csms = if when_back {
        let mut csms = Csms::launch(kind.library, kind.protocol, port, None).await;
        csms.event("connected").await;
        go_on();
        csms
    } else {
        go_on();
        Csms::launch(kind.library, kind.protocol, port, None).await
    };
    let answer = format!(r#"[3,"{id}","#);
    next(&mut events, |event| match event {
        EventKind::Sent(text) => text.as_str().starts_with(&answer).then_some(()),
        _ => None,
    })
    .await;

    // The connection bears it.
    csms.tell("reset");
    let (_, go) = resets.recv().await.expect("the handler is called again");
    go.send(()).expect("the handler waits");
    assert_eq!(csms.event("result").await["status"], "Accepted");
    boot(&client, &mut csms).await;
    client.close(Close::normal()).await;
    let end = next(&mut events, |event| match event {
        EventKind::Disconnected(closed) | EventKind::Closed(closed) => Some(closed),
        _ => None,
    });
    assert_eq!(end.await.cause, CloseCause::Local);
}

async fn b07_proves_itself_with_a_binary_password(kind: Kind) {
    let mut csms = Csms::launch(kind.library, kind.protocol, 0, Some(&PASSWORD)).await;
    let client = builder(&csms, "CP:1").password(PASSWORD).connect().await.expect("it is the right password");
    assert_eq!(csms.event("connected").await["identity"], "CP:1");
    boot(&client, &mut csms).await;
}

async fn b53_is_refused_with_a_wrong_password(kind: Kind) {
    let csms = Csms::launch(kind.library, kind.protocol, 0, Some(&PASSWORD)).await;
    let builder = builder(&csms, "CP:1");
    let shorter = builder.clone().password(&PASSWORD[..19]);
    let empty = builder.clone().password("");
    for builder in [shorter, empty, builder] {
        let error = builder.connect().await.expect_err("it is the wrong password");
        assert_eq!(error.status().map(|status| status.as_u16()), Some(401), "{error}");
    }
}

async fn settles_for_the_second_protocol_it_offers(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let offers_both = dial(&csms).protocols([other_protocol(kind), kind.protocol]);
    let client = offers_both.connect().await.expect("there is one in common");
    assert_eq!(client.session().protocol().as_deref(), Some(kind.protocol));
    assert_eq!(csms.event("connected").await["protocol"], kind.protocol);
    boot(&client, &mut csms).await;
}

async fn b53_has_no_protocol_in_common(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let client = dial(&csms).protocols([other_protocol(kind)]).build().expect("a sound configuration");
    let error = client.connect().await.expect_err("there is none in common");
    match kind.library {
        // Agrees to none, and leaves it to the client to go.
        Library::Npm => {
            assert!(matches!(error, ConnectError::Protocol { .. }), "{error}");
            csms.event("connected").await;
            csms.event("disconnected").await;
        }
        Library::Python => assert_eq!(error.status().map(|status| status.as_u16()), Some(400), "{error}"),
    }
    assert_eq!(client.state(), ClientState::Closed);
}

async fn b55_keeps_its_protocol_when_it_reconnects(kind: Kind) {
    let mut csms = Csms::start(kind).await;
    let both = [other_protocol(kind), kind.protocol];
    let client = dial(&csms).protocols(both).connect().await.expect("there is one in common");
    csms.event("connected").await;

    // Both libraries take what comes first in their own list.
    let port = lose(csms, &client).await;
    let mut csms = Csms::launch(kind.library, &both.join(","), port, None).await;
    assert_eq!(csms.event("connected").await["protocol"], kind.protocol);
    boot(&client, &mut csms).await;
}

/// A server, and a client that is connected to it.
async fn connected(kind: Kind) -> (Csms, RpcClient) {
    let mut csms = Csms::start(kind).await;
    let client = dial(&csms).connect().await.expect("the server is there");
    csms.event("connected").await;
    (csms, client)
}

/// A client of the server's kind that is about to connect.
fn dial(csms: &Csms) -> RpcClientBuilder {
    builder(csms, "CP-1")
}

fn builder(csms: &Csms, identity: &str) -> RpcClientBuilder {
    let soon = Backoff::exponential().min(Duration::from_millis(20)).max(Duration::from_millis(200));
    RpcClient::builder(format!("ws://127.0.0.1:{}/ocpp", csms.port), identity)
        .protocols([&csms.protocol])
        .reconnect(Reconnect::always().backoff(soon))
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

async fn local_list_version(peer: Session) -> Result<Value, Infallible> {
    Ok(match peer.protocol() {
        Some("ocpp1.6") => json!({"listVersion": 7}),
        _ => json!({"versionNumber": 7}),
    })
}

async fn clear_cache() -> Result<Value, CallError> {
    Err(CallError::new(ErrorCode::INTERNAL_ERROR, "no cache here"))
}

/// Has a client boot.
async fn boot(client: &RpcClient, csms: &mut Csms) {
    let request = match client.session().protocol().as_deref() {
        Some("ocpp1.6") => json!({"chargePointVendor": "Interop", "chargePointModel": "Rust"}),
        _ => json!({"reason": "PowerUp", "chargingStation": {"vendorName": "Interop", "model": "Rust"}}),
    };
    let booted: Value = client.call("BootNotification", &request).await.expect("the server answers");
    assert_eq!((&booted["status"], &booted["interval"]), (&json!("Accepted"), &json!(300)));
    csms.event("booted").await;
}

/// A call of each kind that stations make all day, in the words of a protocol.
fn everyday(kind: Kind) -> [(&'static str, Value); 5] {
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
        ("DataTransfer", parcel("org.example", "intact")),
        ("Heartbeat", json!({})),
    ]
}

fn parcel(vendor: &str, data: &str) -> Value {
    json!({"vendorId": vendor, "data": data})
}

fn other_protocol(kind: Kind) -> &'static str {
    if kind.protocol == "ocpp1.6" { "ocpp2.0.1" } else { "ocpp1.6" }
}

/// Kills a server, and waits until its client has noticed. Gives the port that is free now.
async fn lose(csms: Csms, client: &RpcClient) -> u16 {
    let port = csms.port;
    drop(csms);
    let mut states = client.states();
    let connecting = states.wait_for(|state| *state == ClientState::Connecting);
    connecting.await.expect("the client is there");
    port
}

/// The first of the coming events that `pick` makes something of.
async fn next<T>(events: &mut Events, pick: impl Fn(EventKind) -> Option<T>) -> T {
    loop {
        let event = events.next().await.expect("the client is there");
        if let Some(picked) = pick(event.kind) {
            return picked;
        }
    }
}

/// A server; csms.js lists its commands and events. It is killed with this value.
struct Csms {
    protocol: String,
    port: u16,
    script: Script,
}

impl Csms {
    /// A server at a port of its choice, which takes any station.
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

    fn tell(&mut self, command: &str) {
        self.script.tell(command);
    }

    async fn event(&mut self, name: &str) -> Value {
        self.script.event(name).await
    }

    /// Tells a command, and waits for the event of this name.
    async fn ask(&mut self, command: &str, event: &str) -> Value {
        self.tell(command);
        self.event(event).await
    }
}
