//! Many stations of the crate's own client, and a backend that comes and goes.

use crate::harness::{Backend, Fleet, Server};

#[test]
fn five_hundred_stations_live_through_three_restarts() {
    const STATIONS: usize = 500;
    let mut backend = Backend::start();
    let address = backend.address().to_owned();
    let fleet = Fleet::start(&format!("ws://{address}/ocpp"), STATIONS);
    backend.wait_for_stations(STATIONS);
    for _ in 0..3 {
        drop(backend);
        fleet.wait_for(&format!("0 of {STATIONS} connected"));
        backend = Backend::listening_on(&address, &[]);
        // The longest wait of their back-off is 12.5 s.
        backend.wait_for_stations(STATIONS);
        fleet.wait_for(&format!("{STATIONS} of {STATIONS} connected"));
    }
}

#[test]
fn the_stations_inside_the_backend_do_as_they_are_told() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2"]);
    backend.wait_for_stations(2);
    for (station, protocol, reset) in
        [("DEMO-1", "ocpp1.6", r#"{"type":"Soft"}"#), ("DEMO-2", "ocpp2.0.1", r#"{"type":"Immediate"}"#)]
    {
        assert_eq!(backend.listed(station).expect("connected")["protocol"], protocol);
        let reply = backend.post(&format!("/api/stations/{station}/calls/Reset"), reset);
        assert_eq!((reply.status, &reply.body["result"]["status"]), (200, &"Accepted".into()));
    }
}

#[test]
fn a_backend_that_is_strict_lets_nothing_out_that_its_version_forbids() {
    let backend = Backend::listening_on("127.0.0.1:0", &["--demo", "2", "--strict"]);
    backend.wait_for_stations(2);
    let reset = |station, kind| {
        let reply = backend.post(&format!("/api/stations/{station}/calls/Reset"), &format!(r#"{{"type":"{kind}"}}"#));
        (reply.status, reply.body["pointer"].clone())
    };
    // What one version calls a reset, the other does not.
    for (station, right, wrong) in [("DEMO-1", "Soft", "Immediate"), ("DEMO-2", "Immediate", "Soft")] {
        assert_eq!(reset(station, right), (200, serde_json::Value::Null));
        assert_eq!(reset(station, wrong), (422, "/type".into()));
    }
}

#[test]
fn the_other_servers_take_stations() {
    for (name, arguments) in [
        ("examples/server", &["127.0.0.1:0"][..]),
        ("load_target", &["--port", "0"]),
        ("load_target", &["--port", "0", "--strict"]),
    ] {
        let server = Server::start(name, arguments);
        Fleet::start(&server.url, 3).wait_for("3 of 3 connected");
    }
}
