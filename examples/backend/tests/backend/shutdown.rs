//! The end of the application on SIGTERM.

use std::sync::Arc;

use http_body_util::{BodyExt, Full};
use hyper::{Method, Request};
use ocpp_rpc::{CallError, RpcClient, RpcRouter, client::Reconnect, extract::State};
use serde_json::{Value, json};
use tokio::{sync::Notify, time::timeout};

use crate::support::{Backend, TIMEOUT, directory};

#[tokio::test]
async fn sigterm_ends_streams_first_then_calls_in_flight() {
    let backend = Backend::start(&[]);
    let (called, release) = (Arc::<Notify>::default(), Arc::<Notify>::default());
    let router = RpcRouter::with_state((called.clone(), release.clone())).on("Reset", hold);
    let router = RpcRouter::new().merge(router);
    let station = backend.station_with("CP-1", "ocpp1.6", router).await;
    station.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    assert_eq!(backend.get("/readyz").await, "ready");
    let request = Request::builder().uri("/api/events").header("host", "localhost").body(Full::default());
    let stream = backend.send(request.expect("a request")).await;
    let reset = json!({"type": "Soft"});
    let call = backend.post("/api/stations/CP-1/calls/Reset", &reset);
    let drained = async {
        called.notified().await;
        backend.terminate();
        // The stream ends while the call is in flight.
        timeout(TIMEOUT, stream.into_body().collect()).await.expect("the stream ends").expect("without an error");
        let (status, body) = backend.request(Method::GET, "/readyz", &Value::Null).await;
        assert_eq!((status.as_u16(), body), (503, json!({"error": "stopping"})));
        assert_eq!(backend.get("/healthz").await, "ok");
        let newcomer = RpcClient::builder(format!("ws://{}/ocpp", backend.address()), "CP-2")
            .protocols(["ocpp1.6"])
            .reconnect(Reconnect::never())
            .build()
            .expect("settings");
        let refused = newcomer.connect().await.expect_err("the backend stops");
        assert!(refused.to_string().contains("503"), "{refused}");
        release.notify_one();
    };
    let ((status, body), ()) = tokio::join!(call, drained);
    assert_eq!((status.as_u16(), body), (200, json!({"result": {"status": "Accepted"}})));
    assert!(backend.exit_status().await.success());
}

type Notifies = (Arc<Notify>, Arc<Notify>);

/// Responds when the test says so.
async fn hold(State((called, release)): State<Notifies>) -> Result<Value, CallError> {
    called.notify_one();
    release.notified().await;
    Ok(json!({"status": "Accepted"}))
}

#[tokio::test]
async fn sigterm_keeps_the_journal() {
    let directory = directory("shutdown");
    let database = format!("sqlite:{}", directory.join("backend.db").display());
    let backend = Backend::with_database(&database, "127.0.0.1:0", &[]);
    let station = backend.station("CP-1", "ocpp1.6").await;
    station.call::<Value>("Heartbeat", &json!({})).await.expect("a response");
    backend.terminate();
    assert!(backend.exit_status().await.success());
    let backend = Backend::with_database(&database, "127.0.0.1:0", &[]);
    assert_eq!(backend.all("/api/messages").await.len(), 2);
}
