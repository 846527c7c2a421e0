//! Charging stations on libraries by others, each with each protocol, and what curl gets while they are connected.

use std::io::Write;
use std::net::TcpStream;

use serde_json::{Value, json};

use crate::harness::{Backend, Kind, Library, Response, Station};

const NPM: Kind = Kind { library: Library::Npm, protocol: "ocpp1.6" };

/// Runs each of these scenarios with each kind of station, in modules named after the kinds.
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
    boots_and_is_listed
    sends_heartbeats
    b23_has_a_hundred_calls_out_each_way_at_once
    b31_is_told_that_an_action_is_unknown
    b26_refuses_a_call_with_an_error
    is_reset
    b25_is_late_with_an_answer
    b29_leaves_with_a_call_unanswered
    b51_closes_with_a_code_and_a_reason
    b51_is_closed_with_a_code_and_a_reason
    b21_is_replaced_by_a_second_connection
    b11_has_an_identity_that_needs_escapes
    b15_is_refused_where_no_stations_are_served
    b50_is_sent_away_by_ctrl_c_after_its_call_has_finished
}

fn boots_and_is_listed(kind: Kind) {
    let backend = Backend::start();
    let station = backend.dial(kind, "CP-1");

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

fn sends_heartbeats(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    for _ in 0..3 {
        beats(&mut station);
    }
}

fn b23_has_a_hundred_calls_out_each_way_at_once(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    let version = match kind.protocol {
        "ocpp1.6" => json!({"listVersion": 7}),
        _ => json!({"versionNumber": 7}),
    };

    station.tell("calls 100");
    let calls =
        Vec::from_iter((0..100).map(|_| backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}")));
    for call in calls {
        call.reply().expect(200, &json!({"result": version}));
    }
    let made = station.event("calls");
    assert_eq!((&made["ok"], &made["failed"]), (&json!(100), &json!(0)));
}

fn b31_is_told_that_an_action_is_unknown(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    assert_eq!(station.ask("unknown", "error")["code"], "NotImplemented");
}

fn b26_refuses_a_call_with_an_error(kind: Kind) {
    let backend = Backend::start();
    let _station = backend.station(kind, "CP-1");
    let rejected = json!({"error": "rejected", "code": "InternalError", "description": "no cache here", "details": {}});
    backend.post("/api/stations/CP-1/calls/ClearCache", "{}").expect(502, &rejected);
}

fn is_reset(kind: Kind) {
    let backend = Backend::start();
    let station = backend.station(kind, "CP-1");
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
    assert_eq!(station.event("call")["action"], "Reset");
}

fn b25_is_late_with_an_answer(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    station.ask("hold", "holding");

    let reply = backend.post("/api/stations/CP-1/calls/GetLocalListVersion?timeout_ms=200", "{}");
    reply.expect(504, &json!({"error": "timeout"}));

    // The late answer disturbs nothing.
    station.ask("release", "released");
    beats(&mut station);
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
}

fn b29_leaves_with_a_call_unanswered(kind: Kind) {
    let backend = Backend::start();
    let mut station = backend.station(kind, "CP-1");
    station.ask("hold", "holding");

    let call = backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}");
    station.event("call");
    station.ask("close 1000 bye", "closed");
    call.reply().expect(503, &json!({"error": "disconnected"}));
}

fn b51_closes_with_a_code_and_a_reason(kind: Kind) {
    let backend = Backend::start();
    let events = backend.events();
    let mut station = backend.station(kind, "CP-1");

    let closed = station.ask("close 1000 bye", "closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1000), &json!("bye")));
    assert!(station.exit_status().success());

    let told = events.next("the end of the connection", |event| event["code"] == 1000);
    assert_eq!((&told["station"], &told["reason"]), (&json!("CP-1"), &json!("bye")));
    backend.wait_until_unlisted("CP-1");
}

fn b51_is_closed_with_a_code_and_a_reason(kind: Kind) {
    let backend = Backend::start();
    let station = backend.station(kind, "CP-1");

    let reply = backend.delete("/api/stations/CP-1?code=1001&reason=maintenance");
    reply.expect(200, &json!({"code": 1001, "reason": "maintenance"}));
    assert_eq!(backend.listed("CP-1"), None);

    let closed = station.event("closed");
    assert_eq!((&closed["code"], &closed["reason"]), (&json!(1001), &json!("maintenance")));
    assert!(station.exit_status().success());
}

fn b21_is_replaced_by_a_second_connection(kind: Kind) {
    let backend = Backend::start();
    let first = backend.station(kind, "CP-1");
    let mut second = backend.station(kind, "CP-1");

    assert_eq!(first.event("closed")["code"], 1008);
    beats(&mut second);
    reset(&backend, kind, "CP-1").expect(200, &json!({"result": {"status": "Accepted"}}));
}

fn b11_has_an_identity_that_needs_escapes(kind: Kind) {
    let backend = Backend::start();
    let _station = backend.station(kind, "Straße 7/2");
    assert!(backend.listed("Straße 7/2").is_some());

    let escaped = "Stra%C3%9Fe%207%2F2";
    reset(&backend, kind, escaped).expect(200, &json!({"result": {"status": "Accepted"}}));
    let messages = backend.get(&format!("/api/messages?station={escaped}&limit=1")).body;
    assert_eq!(messages[0]["station"], "Straße 7/2");
    assert_eq!(backend.delete(&format!("/api/stations/{escaped}")).status, 200);
}

fn b15_is_refused_where_no_stations_are_served(kind: Kind) {
    let backend = Backend::start();
    let station = Station::start(kind, &format!("ws://{}/elsewhere", backend.address()), "CP-1");
    assert_eq!(station.event("refused")["status"], 404);
    assert!(station.exit_status().success());
}

fn b50_is_sent_away_by_ctrl_c_after_its_call_has_finished(kind: Kind) {
    let backend = Backend::start();
    let _events = backend.events();
    let mut station = backend.station(kind, "CP-1");
    station.ask("hold", "holding");
    let call = backend.begin_post("/api/stations/CP-1/calls/GetLocalListVersion", "{}");
    station.event("call");

    backend.press_ctrl_c();
    station.tell("release");

    assert_eq!(call.reply().status, 200);
    assert_eq!(station.event("closed")["code"], 1001);
    assert!(backend.exit_status().success());
}

#[test]
fn a_body_that_is_not_json_is_400() {
    let backend = Backend::start();
    let _station = backend.station(NPM, "CP-1");
    assert_eq!(backend.post("/api/stations/CP-1/calls/Reset", r#"{"type":"#).status, 400);
}

#[test]
fn messages_come_newest_first_and_by_station() {
    let backend = Backend::start();
    let _other = backend.station(NPM, "CP-2");
    let mut station = backend.station(NPM, "CP-1");
    beats(&mut station);

    let list = backend.get("/api/messages?station=CP-1&limit=3").body;
    let messages = list.as_array().expect("a list");
    let frames = Vec::from_iter(messages.iter().map(|message| {
        assert_eq!(message["station"], "CP-1");
        assert!(message["at"].is_string(), "{message}");
        (message["direction"].as_str().expect("a direction"), frame(message)[0].as_u64().expect("a message type"))
    }));
    // The answer to the heartbeat, the heartbeat, and before them the answer to the boot.
    assert_eq!(frames, [("out", 3), ("in", 2), ("out", 3)]);
    assert_eq!(frame(&messages[0])[1], frame(&messages[1])[1]);
    assert_eq!(frame(&messages[1])[2], "Heartbeat");
}

#[test]
fn events_tell_of_a_connect_messages_and_a_disconnect() {
    let backend = Backend::start();
    let events = backend.events();
    let mut station = backend.station(NPM, "CP-1");
    station.ask("close 1000 bye", "closed");

    let is_message = |event: &Value| event["direction"].is_string();
    let connect = events.next("a connect", |event| !is_message(event));
    assert_eq!(connect["station"], "CP-1");
    let boot = events.next("a message in", is_message);
    assert_eq!((&boot["station"], &boot["direction"]), (&json!("CP-1"), &json!("in")));
    assert_eq!(frame(&boot)[2], "BootNotification");
    let answer = events.next("a message out", is_message);
    assert_eq!((&frame(&answer)[1], &answer["direction"]), (&frame(&boot)[1], &json!("out")));
    let disconnect = events.next("a disconnect", |event| !is_message(event));
    assert_eq!(disconnect["station"], "CP-1");
}

#[test]
fn b16_bad_handshakes_disturb_no_station() {
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

    beats(&mut station);
    assert_eq!(backend.get("/healthz").status, 200);
    assert_eq!(backend.listed("CP-2"), None);
}

/// Has a station send a heartbeat.
fn beats(station: &mut Station) {
    let heartbeat = station.ask("heartbeat", "heartbeat");
    assert!(heartbeat["currentTime"].is_string(), "{heartbeat}");
}

/// Calls for a reset, in the words of the station's protocol.
fn reset(backend: &Backend, kind: Kind, identity: &str) -> Response {
    let kind_of_reset = match kind.protocol {
        "ocpp1.6" => "Soft",
        _ => "Immediate",
    };
    backend.post(&format!("/api/stations/{identity}/calls/Reset"), &json!({"type": kind_of_reset}).to_string())
}

/// The frame in a message of the log.
fn frame(message: &Value) -> Value {
    let text = message["text"].as_str().expect("a message has a text");
    serde_json::from_str(text).expect("a station's frames are JSON")
}
