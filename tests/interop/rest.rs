//! The backend's responses to curl while no peer's station is connected.

#[cfg(feature = "metrics")]
use std::time::Instant;

use serde_json::json;

use crate::harness::Backend;
#[cfg(feature = "metrics")]
use crate::harness::TIMEOUT;

#[test]
fn healthz_returns_200() {
    assert_eq!(Backend::start().get("/healthz").status, 200);
}

#[cfg(feature = "http2")]
#[test]
fn http2_and_http1_are_served_on_the_same_port() {
    let backend = Backend::start();
    // `--http2` offers HTTP/2 by the Upgrade header, which servers may ignore (RFC 9113 §3.1).
    for version in ["--http2-prior-knowledge", "--http2", "--http1.1"] {
        assert_eq!(backend.begin("/healthz", &[version]).response().status, 200, "{version}");
    }
}

#[test]
fn stations_without_connections_is_empty_list() {
    Backend::start().get("/api/stations").expect(200, &json!([]));
}

#[test]
fn call_to_disconnected_station_returns_404() {
    let response = Backend::start().post("/api/stations/CP-1/calls/Reset", r#"{"type":"Soft"}"#);
    response.expect(404, &json!({"error": "not_connected"}));
}

#[test]
fn change_without_json_content_type_returns_415() {
    let backend = Backend::start();
    let not_json = json!({"error": "not_json", "description": "send the header content-type: application/json"});
    let call = "/api/stations/CP-1/calls/Reset";
    for (path, arguments) in [
        (call, &["--data", r#"{"type":"Soft"}"#][..]),
        (call, &["--request", "POST"]),
        (call, &["--header", "content-type: text/plain", "--data", "{}"]),
        (call, &["--header", "content-type: application/jsonp", "--data", "{}"]),
        ("/api/stations/CP-1", &["--request", "DELETE"]),
        ("/api/stations/CP-1", &["--request", "PUT"]),
    ] {
        backend.begin(path, arguments).response().expect(415, &not_json);
    }
    for (path, arguments) in [
        (call, &["--json", r#"{"type":"Soft"}"#][..]),
        (call, &["--header", "content-type: Application/JSON; charset=utf-8", "--request", "POST"]),
        ("/api/stations/CP-1", &["--header", "content-type: application/json", "--request", "DELETE"]),
    ] {
        backend.begin(path, arguments).response().expect(404, &json!({"error": "not_connected"}));
    }
}

#[test]
fn b15_plain_get_on_station_path_returns_426() {
    assert_eq!(Backend::start().get("/ocpp/CP-1").status, 426);
}

#[test]
fn b16_undecodable_identity_returns_404() {
    let backend = Backend::start();
    for path in ["/ocpp/%E0%A4%A", "/ocpp/%", "/ocpp/%FF"] {
        assert_eq!(backend.handshake(path).status, 404, "{path}");
    }
}

#[cfg(feature = "metrics")]
#[test]
fn metrics_with_demo_stations_count_both_ends() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2", "--metrics"]);
    let counted = |name: &str| -> Option<f64> {
        let response = backend.get("/metrics");
        assert_eq!(response.status, 200);
        let page = response.body.as_str().expect("text");
        page.lines().find_map(|line| line.strip_prefix(name)?.trim_start().parse().ok())
    };
    // Both stations have sent a BootNotification and a StatusNotification.
    let handled = r#"ocpp_rpc_calls_total{direction="in",outcome="result"}"#;
    let deadline = Instant::now() + TIMEOUT;
    while counted(handled).is_none_or(|calls| calls < 4.0) {
        assert!(Instant::now() < deadline, "not counted: {:?}", backend.get("/metrics"));
    }
    // The stations run in the backend's process, so each connection is counted at both ends.
    assert_eq!(counted("ocpp_rpc_connections"), Some(4.0));
    let within_30_s = counted(r#"ocpp_rpc_call_seconds_bucket{direction="in",le="30"}"#);
    assert!(within_30_s.is_some_and(|calls| calls >= 4.0), "{within_30_s:?}");
}

#[test]
fn ctrl_c_and_sigterm_end_backend_with_status_0() {
    for signal in ["-INT", "-TERM"] {
        let backend = Backend::start();
        backend.send_signal(signal);
        assert!(backend.exit_status().success(), "{signal}");
    }
}
