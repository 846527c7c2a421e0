//! Charging stations built on libraries by other authors, with each protocol, and the backend's responses to curl while
//! they are connected.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Backend, Kind, Library, Response, Station};

const NPM: Kind = Kind { library: Library::Npm, protocol: "ocpp1.6" };

/// Runs each of these scenarios with each kind of station. The modules have the kinds' names.
macro_rules! with_each_kind_of_station {
    ($($scenario:ident)*) => {
        with_each_kind_of_station! { @ npm_ocpp1_6, Npm, "ocpp1.6"; $($scenario)* }
        with_each_kind_of_station! { @ npm_ocpp2_0_1, Npm, "ocpp2.0.1"; $($scenario)* }
        with_each_kind_of_station! { @ python_ocpp1_6, Python, "ocpp1.6"; $($scenario)* }
        with_each_kind_of_station! { @ python_ocpp2_0_1, Python, "ocpp2.0.1"; $($scenario)* }
    };
    (@ $module:ident, $library:ident, $protocol:literal; $($scenario:ident)*) => {
        mod $module {
            use crate::harness::{Kind, Library};

            $(
                #[test]
                fn $scenario() {
                    super::$scenario(Kind { library: Library::$library, protocol: $protocol });
                }
            )*
        }
    };
}

with_each_kind_of_station! {
    booted_station_is_listed
    heartbeats_receive_responses
    b23_hundred_concurrent_calls_each_way_complete
    b31_unknown_action_is_not_implemented
    b26_call_rejected_by_station_returns_502
    reset_call_is_accepted
    b25_call_timeout_returns_504_and_keeps_connection
    b29_station_disconnect_fails_call_in_flight_with_503
    b51_station_close_is_reported_with_code_and_reason
    b51_delete_closes_station_with_code_and_reason
    b21_second_connection_replaces_first
    b11_percent_encoded_identity_is_decoded
    b15_station_on_unknown_path_is_refused_with_404
    b50_ctrl_c_closes_station_after_call_finishes
}

fn booted_station_is_listed(kind: Kind) {
    let backend = Backend::start();
    let station = backend.start_station(kind, "CP-1");

    assert_eq!(station.event("open")["protocol"], kind.protocol);
    let boot = station.event("boot");
    assert_eq!(boot["status"], "Accepted");
    assert!(boot["interval"].as_u64() > Some(0), "{boot}");

    let listed = backend.listed("CP-1").expect("a station that has booted is listed");
    assert_eq!(listed["protocol"], kind.protocol);
    let remote_address = listed["remote_address"].as_str();
    assert!(remote_address.is_some_and(|address| address.starts_with("127.0.0.1")), "{listed}");
    assert!(listed["connected_at"].is_string() && listed["last_seen_at"].is_string(), "{listed}");
}

fn heartbeats_receive_responses(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    for _ in 0..3 {
        send_heartbeat(&mut station);
    }
}

fn b23_hundred_concurrent_calls_each_way_complete(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    let list_version = match kind.protocol {
        "ocpp1.6" => json!({"listVersion": 7}),
        _ => json!({"versionNumber": 7}),
    };

    station.send("calls 100");
    let calls =
        Vec::from_iter((0..100).map(|_| backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}")));
    for call in calls {
        call.response().expect(200, &json!({"result": list_version}));
    }
    let calls = station.event("calls");
    assert_eq!((&calls["ok"], &calls["failed"]), (&json!(100), &json!(0)));
}

fn b31_unknown_action_is_not_implemented(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    assert_eq!(station.send_and_wait("unknown", "error")["code"], "NotImplemented");
}

fn b26_call_rejected_by_station_returns_502(kind: Kind) {
    let backend = Backend::start();
    let _station = backend.station(kind, "CP-1");
    let rejected = json!({"error": "rejected", "code": "InternalError", "description": "no cache here", "details": {}});
    backend.post("/api/stations/CP-1/calls/ClearCache", "{}").expect(502, &rejected);
}

fn reset_call_is_accepted(kind: Kind) {
    let backend = Backend::start();
    let station = backend.station(kind, "CP-1");
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
    assert_eq!(station.event("call")["action"], "Reset");
}

fn b25_call_timeout_returns_504_and_keeps_connection(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    station.send_and_wait("hold", "holding");

    let response = backend.post("/api/stations/CP-1/calls/GetLocalListVersion?timeout_ms=200", "{}");
    response.expect(504, &json!({"error": "timeout", "maybe_delivered": true}));

    // The late response must not affect the connection.
    station.send_and_wait("release", "released");
    send_heartbeat(&mut station);
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
}

fn b29_station_disconnect_fails_call_in_flight_with_503(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    station.send_and_wait("hold", "holding");

    let call = backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}");
    station.event("call");
    station.send_and_wait("close 1000 bye", "closed");
    call.response().expect(503, &json!({"error": "disconnected", "maybe_delivered": true}));
}

fn b51_station_close_is_reported_with_code_and_reason(kind: Kind) {
    let backend = Backend::start();
    let events = backend.events();
    let mut station = backend.station(kind, "CP-1");

    let closed = station.send_and_wait("close 1000 bye", "closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1000), &json!("bye")));
    assert!(station.exit_status().success());

    let disconnect = events.next("the end of the connection", |event| event["code"] == 1000);
    assert_eq!((&disconnect["station"], &disconnect["reason"]), (&json!("CP-1"), &json!("bye")));
    backend.wait_until_unlisted("CP-1");
}

fn b51_delete_closes_station_with_code_and_reason(kind: Kind) {
    let backend = Backend::start();
    let station = backend.station(kind, "CP-1");

    let response = backend.delete("/api/stations/CP-1?code=1001&reason=maintenance");
    response.expect(200, &json!({"code": 1001, "reason": "maintenance"}));
    assert_eq!(backend.listed("CP-1"), None);

    let closed = station.event("closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1001), &json!("maintenance")));
    assert!(station.exit_status().success());
}

fn b21_second_connection_replaces_first(kind: Kind) {
    let backend = Backend::start();
    let first = backend.station(kind, "CP-1");
    let mut second = backend.station(kind, "CP-1");

    assert_eq!(first.event("closed")["code"], 1008);
    send_heartbeat(&mut second);
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
}

fn b11_percent_encoded_identity_is_decoded(kind: Kind) {
    let backend = Backend::start();
    let _station = backend.station(kind, "Straße 7/2");
    assert!(backend.listed("Straße 7/2").is_some());

    let escaped = "Stra%C3%9Fe%207%2F2";
    reset(&backend, kind, escaped).expect(200, &json!({"result": {"status": "Accepted"}}));
    let messages = backend.get(&format!("/api/messages?station={escaped}&limit=1")).body;
    assert_eq!(messages[0]["station"], "Straße 7/2");
    assert_eq!(backend.delete(&format!("/api/stations/{escaped}")).status, 200);
}

fn b15_station_on_unknown_path_is_refused_with_404(kind: Kind) {
    let backend = Backend::start();
    let station = Station::start(kind, &format!("ws://{}/elsewhere", backend.address()), "CP-1");
    assert_eq!(station.event("refused")["status"], 404);
    assert!(station.exit_status().success());
}

fn b50_ctrl_c_closes_station_after_call_finishes(kind: Kind) {
    let backend = Backend::start();
    let _events = backend.events();
    let mut station = backend.station(kind, "CP-1");
    station.send_and_wait("hold", "holding");
    let call = backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}");
    station.event("call");

    backend.send_signal("-INT");
    station.send("release");

    assert_eq!(call.response().status, 200);
    assert_eq!(station.event("closed")["code"], 1001);
    assert!(backend.exit_status().success());
}

#[test]
fn call_with_invalid_json_returns_400() {
    let backend = Backend::start();
    let _station = backend.station(NPM, "CP-1");
    assert_eq!(backend.post("/api/stations/CP-1/calls/Reset", r#"{"type":"#).status, 400);
}

#[test]
fn messages_by_station_are_newest_first() {
    let backend = Backend::start();
    let _other = backend.station(NPM, "CP-2");
    let mut station = backend.station(NPM, "CP-1");
    send_heartbeat(&mut station);

    let list = backend.get("/api/messages?station=CP-1&limit=3").body;
    let messages = list.as_array().expect("a list");
    let frames = Vec::from_iter(messages.iter().map(|message| {
        assert_eq!(message["station"], "CP-1");
        assert!(message["at"].is_string(), "{message}");
        (message["direction"].as_str().expect("a direction"), frame(message)[0].as_u64().expect("a message type"))
    }));
    // The response to the Heartbeat, the Heartbeat, and the response to the BootNotification.
    assert_eq!(frames, [("out", 3), ("in", 2), ("out", 3)]);
    assert_eq!(frame(&messages[0])[1], frame(&messages[1])[1]);
    assert_eq!(frame(&messages[1])[2], "Heartbeat");
}

#[test]
fn events_report_connect_messages_and_disconnect() {
    let backend = Backend::start();
    let events = backend.events();
    let mut station = backend.station(NPM, "CP-1");
    station.send_and_wait("close 1000 bye", "closed");

    let is_message = |event: &Value| event["direction"].is_string();
    let connect = events.next("a connect", |event| !is_message(event));
    assert_eq!(connect["station"], "CP-1");
    let boot = events.next("a message in", is_message);
    assert_eq!((&boot["station"], &boot["direction"]), (&json!("CP-1"), &json!("in")));
    assert_eq!(frame(&boot)[2], "BootNotification");
    let boot_response = events.next("a message out", is_message);
    assert_eq!((&frame(&boot_response)[1], &boot_response["direction"]), (&frame(&boot)[1], &json!("out")));
    let disconnect = events.next("a disconnect", |event| !is_message(event));
    assert_eq!(disconnect["station"], "CP-1");
}

#[test]
fn b16_bad_handshakes_do_not_disturb_stations() {
    let backend = Backend::start();
    let mut station = backend.station(NPM, "CP-1");

    assert_eq!(backend.handshake("/ocpp/%E0%A4%A").status, 404);
    let half = b"GET /ocpp/CP-2 HTTP/1.1\r\nHost: localhost\r\nUpgrade: webso";
    let begin = || {
        let mut stream = TcpStream::connect(backend.address()).expect("the backend listens");
        stream.write_all(half).expect("the backend reads");
        stream
    };
    drop(begin());
    let _unfinished = begin();

    send_heartbeat(&mut station);
    assert_eq!(backend.get("/healthz").status, 200);
    assert_eq!(backend.listed("CP-2"), None);
}

/// Sends a Heartbeat from a station and expects its response.
fn send_heartbeat(station: &mut Station) {
    let heartbeat = station.send_and_wait("heartbeat", "heartbeat");
    assert!(heartbeat["currentTime"].is_string(), "{heartbeat}");
}

/// Calls Reset with the payload of the station's protocol.
fn reset(backend: &Backend, kind: Kind, identity: &str) -> Response {
    let reset_type = match kind.protocol {
        "ocpp1.6" => "Soft",
        _ => "Immediate",
    };
    backend.post(&format!("/api/stations/{identity}/calls/Reset"), &json!({"type": reset_type}).to_string())
}

/// Returns the OCPP message of an entry in the message log.
fn frame(message: &Value) -> Value {
    let text = message["text"].as_str().expect("the text of a message");
    serde_json::from_str(text).expect("a JSON message")
}
