//! Many stations built on the crate's client, with the backend and the other servers.

use std::convert::Infallible;

use ocpp_rpc::{
    RpcRouter, RpcServer,
    close::CloseCause,
    event::{EventKind, Events},
};
use serde_json::{Value, json};
use tokio::{task::block_in_place, time::timeout};

use crate::harness::{Backend, Fleet, Server, TIMEOUT};

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

#[tokio::test(flavor = "multi_thread")]
async fn station_closes_its_connection_on_a_signal() {
    async fn boot() -> Result<Value, Infallible> {
        Ok(json!({"status": "Accepted", "currentTime": "2026-01-01T00:00:00Z", "interval": 300}))
    }
    let router = RpcRouter::new().on("BootNotification", boot);
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build().expect("valid settings");
    let listener = server.listen("127.0.0.1:0").await.expect("a port");
    let url = format!("ws://{}/ocpp", listener.local_addr());
    for signal in ["-INT", "-TERM"] {
        let mut events = server.events();
        let station = Fleet::start(&url, 1);
        block_in_place(|| station.wait_for("1 of 1 connected"));
        station.send_signal(signal);
        let closed = timeout(TIMEOUT, closed(&mut events)).await.expect("the station closes");
        assert_eq!(closed, (1001, "the station stops".to_owned(), CloseCause::Remote), "{signal}");
        assert!(block_in_place(|| station.exit_status()).success(), "{signal}");
    }
}

/// Waits for the end of a session.
async fn closed(events: &mut Events) -> (u16, String, CloseCause) {
    loop {
        if let EventKind::Closed(closed) = events.next().await.expect("another event").kind {
            return (closed.code, closed.reason, closed.cause);
        }
    }
}
