//! What curl gets while no station is connected.

use serde_json::json;

use crate::harness::Backend;

#[test]
fn it_is_healthy() {
    assert_eq!(Backend::start().get("/healthz").status, 200);
}

#[cfg(feature = "http2")]
#[test]
fn http_2_is_spoken_on_the_same_port() {
    let backend = Backend::start();
    // The second offers it by the Upgrade header, which nobody has to take (RFC 9113 §3.1).
    for version in ["--http2-prior-knowledge", "--http2", "--http1.1"] {
        assert_eq!(backend.begin("/healthz", &[version]).reply().status, 200, "{version}");
    }
}

#[test]
fn no_stations_are_an_empty_list() {
    Backend::start().get("/api/stations").expect(200, &json!([]));
}

#[test]
fn a_call_to_a_station_that_is_not_connected_is_404() {
    let reply = Backend::start().post("/api/stations/CP-1/calls/Reset", r#"{"type":"Soft"}"#);
    reply.expect(404, &json!({"error": "not_connected"}));
}

#[test]
fn b15_a_plain_get_where_stations_connect_is_426() {
    assert_eq!(Backend::start().get("/ocpp/CP-1").status, 426);
}

#[test]
fn b16_an_identity_that_cannot_be_decoded_is_404() {
    let backend = Backend::start();
    for path in ["/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%FF"] {
        assert_eq!(backend.handshake(path).status, 404, "{path}");
    }
}

#[test]
fn ctrl_c_ends_it_with_status_0() {
    let backend = Backend::start();
    backend.press_ctrl_c();
    assert!(backend.exit_status().success());
}
