//! Many stations built on the crate's client, with the backend and the other servers.

use crate::harness::{Backend, Fleet, Server};

#[test]
fn five_hundred_stations_reconnect_after_three_restarts() {
    const STATIONS: usize = 500;
    let mut backend = Backend::start();
    let address = backend.address().to_owned();
    let fleet = Fleet::start(&format!("ws://{address}/ocpp"), STATIONS);
    backend.wait_for_stations(STATIONS);
    for _ in 0..3 {
        drop(backend);
        fleet.wait_for(&format!("0 of {STATIONS} connected"));
        backend = Backend::listening_on(&address, &[]);
        // The longest backoff delay is 12.5 s, which is less than the timeout of this wait.
        backend.wait_for_stations(STATIONS);
        fleet.wait_for(&format!("{STATIONS} of {STATIONS} connected"));
    }
}

#[test]
fn demo_stations_accept_reset() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2"]);
    backend.wait_for_stations(2);
    for (station, protocol, reset) in
        [("DEMO-1", "ocpp1.6", r#"{"type":"Soft"}"#), ("DEMO-2", "ocpp2.0.1", r#"{"type":"Immediate"}"#)]
    {
        assert_eq!(backend.listed(station).expect("a connected station")["protocol"], protocol);
        let response = backend.post(&format!("/api/stations/{station}/calls/Reset"), reset);
        assert_eq!((response.status, &response.body["result"]["status"]), (200, &"Accepted".into()));
    }
}

#[test]
fn strict_backend_rejects_calls_invalid_for_version() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2", "--strict"]);
    backend.wait_for_stations(2);
    let reset = |station, kind| {
        let response =
            backend.post(&format!("/api/stations/{station}/calls/Reset"), &format!(r#"{{"type":"{kind}"}}"#));
        (response.status, response.body["pointer"].clone())
    };
    // Each type of reset is valid in one version and invalid in the other.
    for (station, valid, invalid) in [("DEMO-1", "Soft", "Immediate"), ("DEMO-2", "Immediate", "Soft")] {
        assert_eq!(reset(station, valid), (200, serde_json::Value::Null));
        assert_eq!(reset(station, invalid), (422, "/type".into()));
    }
}

#[test]
fn other_servers_accept_stations() {
    for (name, arguments) in [
        ("examples/server", &["127.0.0.1:0"][..]),
        ("load_target", &["--port", "0"]),
        ("load_target", &["--port", "0", "--strict"]),
    ] {
        let server = Server::start(name, arguments);
        Fleet::start(&server.url, 3).wait_for("3 of 3 connected");
    }
}
