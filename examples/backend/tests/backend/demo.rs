//! The main job: `backend --demo 5`.

use std::time::{Duration, Instant};

use http_body_util::Full;
use hyper::Request;
use serde_json::{Value, json};

use crate::support::{Backend, deadline, directory};

#[tokio::test]
async fn demo_prints_the_console_first_and_starts_five_stations() {
    let directory = directory("demo");
    let mut backend = Backend::start_in(&directory, &["--demo", "5", "--listen", "127.0.0.1:0"]);
    let started = Instant::now();
    // The first line has the address, or the backend would not have started.
    for _ in 0..4 {
        let line = backend.next_line();
        assert!(!line.contains("http://"), "{line}");
        assert!(line.contains(backend.address()), "{line}");
    }
    assert_eq!(backend.first_url(), format!("http://{}/console/", backend.address()));
    let deadline = deadline();
    let is_plugged_in = |list: &Value| {
        let list = list.as_array().expect("a list");
        list.iter().any(|transaction| transaction["station"] == "DEMO-1" && transaction["id_token"] == "DEMO-TAG")
    };
    while !is_plugged_in(&backend.get("/api/transactions").await) {
        assert!(Instant::now() < deadline, "DEMO-1 does not charge");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    // Printed with `--nocapture`. An assertion would depend on the speed of the machine.
    println!("DEMO-1 charges {:?} after the start", started.elapsed());
    let stations = backend.get("/api/stations").await;
    let identities: Vec<&Value> =
        stations.as_array().expect("a list").iter().map(|station| &station["identity"]).collect();
    assert_eq!(json!(identities), json!(["DEMO-1", "DEMO-2", "DEMO-3", "DEMO-4", "DEMO-5"]));
    // The console shows them.
    let overview = backend.get("/console/api/overview").await;
    assert_eq!((&overview["calls_allowed"], &overview["close_allowed"]), (&json!(true), &json!(true)));
    let listed = backend.get("/console/api/stations").await;
    assert_eq!((&listed["total"], &listed["stations"][0]["key"]), (&json!(5), &json!("DEMO-1")));
    assert!(backend.get("/console/").await.as_str().is_some_and(|page| page.contains("<!doctype html>")));
    // Another site may let its own name point to the backend. A balancer may check its health by any name.
    for (host, status) in [("LOCALHOST.", 200), ("[::1]:9220", 200), ("evil.example", 421)] {
        for (path, status) in [("/console/api/overview", status), ("/api/stations", status), ("/healthz", 200)] {
            let request = Request::builder().uri(path).header("host", host).body(Full::default());
            assert_eq!(backend.send(request.expect("a request")).await.status(), status, "{host} {path}");
        }
    }
    for host in ["evil.example", ""] {
        let reset = Request::post("/api/stations/DEMO-1/calls/Reset").header("host", host);
        let reset = reset.header("content-type", "application/json").body(Full::from(r#"{"type":"Soft"}"#));
        assert_eq!(backend.send(reset.expect("a request")).await.status(), 421, "{host}");
    }
    // The database is in memory.
    assert_eq!(directory.read_dir().expect("a directory").count(), 0);
}
