//! What curl gets while no station is connected.

#[cfg(feature = "metrics")]
use std::time::Instant;

use serde_json::json;

use crate::harness::Backend;
#[cfg(feature = "metrics")]
use crate::harness::PATIENCE;

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

#[cfg(feature = "metrics")]
#[test]
fn prometheus_gets_what_is_counted() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2"]);
    let counted = |name: &str| -> Option<f64> {
        let reply = backend.get("/metrics");
        assert_eq!(reply.status, 200);
        let page = reply.body.as_str().expect("text");
        page.lines().find_map(|line| line.strip_prefix(name)?.trim_start().parse().ok())
    };
    // Both have booted and said how they are.
    let handled = r#"ocpp_rpc_calls_total{direction="in",outcome="result"}"#;
    let deadline = Instant::now() + PATIENCE;
    while counted(handled).is_none_or(|calls| calls < 4.0) {
        assert!(Instant::now() < deadline, "not counted: {:?}", backend.get("/metrics"));
    }
    // Each connection has two ends, and the other is in this process, too.
    assert_eq!(counted("ocpp_rpc_connections"), Some(4.0));
    let within_30_s = counted(r#"ocpp_rpc_call_seconds_bucket{direction="in",le="30"}"#);
    assert!(within_30_s.is_some_and(|calls| calls >= 4.0), "{within_30_s:?}");
}

#[test]
fn ctrl_c_ends_it_with_status_0() {
    let backend = Backend::start();
    backend.press_ctrl_c();
    assert!(backend.exit_status().success());
}
