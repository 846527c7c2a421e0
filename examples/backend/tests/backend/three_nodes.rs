//! Three backends as one cluster, over a NATS server of the test's own.

use std::{
    env,
    net::TcpListener,
    path::Path,
    process::{Child, Command, Stdio},
};

use http_body_util::{BodyExt, Full};
use hyper::{Request, StatusCode};
use ocpp_rpc::{Close, RpcRouter};
use serde_json::{Value, json};
use tokio::time::{Duration, Instant, sleep};

use crate::support::{Backend, TIMEOUT, deadline};

/// A NATS server. Dropping this value kills it.
struct Nats {
    process: Child,
    url: String,
}

impl Nats {
    fn start() -> Self {
        let peers = env::var("OCPP_RPC_PEERS").expect("tests/run sets OCPP_RPC_PEERS");
        let port = TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port();
        let mut server = Command::new(Path::new(&peers).join("python/bin/nats-server"));
        server.args(["--addr", "127.0.0.1", "--port", &port.to_string()]);
        let process = server.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("nats-server");
        Self { process, url: format!("nats://127.0.0.1:{port}") }
    }

    async fn node(&self, name: &str) -> Backend {
        while tokio::net::TcpStream::connect(self.url.trim_start_matches("nats://")).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
        Backend::start(&["--nats", &self.url, "--node", name])
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn station() -> RpcRouter {
    RpcRouter::new().on("Reset", async || Ok::<_, std::convert::Infallible>(json!({"status": "Accepted"})))
}

/// Returns the identities and nodes of all stations, and the nodes that did not answer.
async fn list(backend: &Backend) -> (Vec<(String, String)>, Vec<String>) {
    let request = Request::builder().uri("/api/stations").header("host", backend.address());
    let response = backend.send(request.body(Full::default()).expect("a request")).await;
    let missing = response.headers().get_all("x-missing-nodes").iter();
    let missing = missing.map(|name| name.to_str().expect("text").to_owned()).collect();
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let stations: Vec<Value> = serde_json::from_slice(&body).expect("an array");
    (stations.iter().map(|station| (text(&station["identity"]), text(&station["node"]))).collect(), missing)
}

#[tokio::test]
async fn every_node_lists_and_calls_the_stations_of_all() {
    let nats = Nats::start();
    let (a, b, c) = (nats.node("a").await, nats.node("b").await, nats.node("c").await);
    let on_b = b.station_with("CP-1", "ocpp1.6", station()).await;
    let _on_c = c.station_with("CP-2", "ocpp1.6", station()).await;
    let expected = [("CP-1", "b"), ("CP-2", "c")].map(|(identity, node)| (identity.to_owned(), node.to_owned()));
    let until = deadline();
    while list(&a).await != (expected.to_vec(), vec![]) {
        assert!(Instant::now().into_std() < until, "{:?}", list(&a).await);
    }
    for node in [&a, &b, &c] {
        for identity in ["CP-1", "CP-2"] {
            let (status, body) = node.post(&format!("/api/stations/{identity}/calls/Reset"), &json!({})).await;
            assert_eq!((status, body), (StatusCode::OK, json!({"result": {"status": "Accepted"}})));
        }
    }
    let (status, body) = a.post("/api/stations/CP-3/calls/Reset", &json!({})).await;
    assert_eq!((status, body), (StatusCode::NOT_FOUND, json!({"error": "not_connected"})));

    // A node is killed: its station is on no node, until it connects to another one.
    b.kill();
    let until = deadline();
    loop {
        let (status, body) = a.post("/api/stations/CP-1/calls/Reset", &json!({})).await;
        if status == StatusCode::NOT_FOUND {
            break;
        }
        assert_eq!((status, &body["error"]), (StatusCode::SERVICE_UNAVAILABLE, &json!("disconnected")));
        assert!(Instant::now().into_std() < until);
    }
    on_b.close(Close::normal()).await;
    let _moved = c.station_with("CP-1", "ocpp1.6", station()).await;
    let until = deadline();
    while a.post("/api/stations/CP-1/calls/Reset", &json!({})).await.0 != StatusCode::OK {
        assert!(Instant::now().into_std() < until);
    }

    // Without NATS, each node calls its own stations.
    drop(nats);
    let until = Instant::now() + TIMEOUT;
    loop {
        let (status, body) = a.post("/api/stations/CP-1/calls/Reset", &json!({})).await;
        assert_eq!(status, StatusCode::SERVICE_UNAVAILABLE, "{body}");
        if body == json!({"error": "unreachable", "maybe_delivered": false}) {
            break;
        }
        assert!(Instant::now() < until, "{body}");
    }
    assert_eq!(c.post("/api/stations/CP-1/calls/Reset", &json!({})).await.0, StatusCode::OK);
}
