//! Recipes of the documentation for applications with their own HTTP stack: layers around a server, and a shutdown of
//! both that loses no response.

use std::{convert::Infallible, future::IntoFuture, sync::Arc, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use http::{HeaderName, HeaderValue, Request};
use ocpp_rpc::{Accept, Close, Handshake, RpcRouter, RpcServer, extract};
use serde_json::{Value, json};
use tokio::{
    net::TcpListener,
    sync::{Semaphore, oneshot},
    time::timeout,
};
use tower_http::{
    request_id::{MakeRequestId, PropagateRequestIdLayer, RequestId, SetRequestIdLayer},
    timeout::TimeoutLayer,
    trace::TraceLayer,
};

use crate::{
    support::Station,
    tcp::{Client, head, soon},
};

/// Sets the same id for every request.
#[derive(Clone)]
struct FixedId;

impl MakeRequestId for FixedId {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Some(RequestId::new(HeaderValue::from_static("request-7")))
    }
}

#[tokio::test]
async fn layers_apply_to_handshake_but_not_to_session() {
    let hook = async |handshake: Handshake| {
        let id = handshake.headers()["x-request-id"].clone();
        Ok(Accept::new().extension(id))
    };
    let server = RpcServer::builder(RpcRouter::new()).auth(hook).build().expect("valid settings");
    let id = HeaderName::from_static("x-request-id");
    let timeout = Duration::from_millis(100);
    let app = Router::new()
        .route_service("/ocpp/{*identity}", server.clone())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, timeout))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(TraceLayer::new_for_http())
        .layer(SetRequestIdLayer::new(id, FixedId));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut client = Client::dial(listener.local_addr()).await;
    let response = client.ask(&head("/ocpp/CP")).await;
    assert_eq!((response.status, response.header("x-request-id")), (101, "request-7"));
    let mut station = client.upgraded(&response).await;
    // The timeout of the layer applies to the handshake only: a call may take longer.
    let mut events = server.events();
    while server.session("CP").is_none() {
        soon(events.next()).await;
    }
    let session = server.session("CP").expect("registered");
    assert_eq!(session.extension(), Some(HeaderValue::from_static("request-7")));
    let outcome = session.call::<Value>("Any", &()).timeout(2 * timeout).await.expect_err("no response");
    assert!(outcome.is_timeout(), "{outcome:?}");
    soon(station.receive_call()).await;
    assert!(soon(station.ask(r#"[2,"1","Any",{}]"#)).await.starts_with("[4,"));
}

#[derive(Clone)]
struct App {
    server: RpcServer,
}

async fn reset(State(app): State<App>, Path(identity): Path<String>) -> Result<Json<Value>, StatusCode> {
    let station = app.server.session(&identity).ok_or(StatusCode::NOT_FOUND)?;
    station.call("Reset", &json!({})).await.map(Json).map_err(|_| StatusCode::BAD_GATEWAY)
}

#[tokio::test]
async fn joint_shutdown_with_axum_loses_no_response() {
    async fn slow(extract::State(gate): extract::State<Arc<Semaphore>>) -> Result<Value, Infallible> {
        gate.acquire().await.expect("an open semaphore").forget();
        Ok(json!({"answered": "late"}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let server =
        RpcServer::builder(RpcRouter::with_state(gate.clone()).on("Slow", slow)).build().expect("valid settings");
    let app = Router::new()
        .route("/reset/{identity}", post(reset))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(App { server: server.clone() });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");

    // The code of the documentation of the server.
    let (stop, stopped) = oneshot::channel::<()>();
    let http = axum::serve(listener, app).with_graceful_shutdown(async { _ = stopped.await });
    let http = tokio::spawn(http.into_future());

    let stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
    let mut station = soon(Station::open(stream, "CP", "")).await;
    // Pending calls in both directions, and an HTTP request that waits for one of them.
    soon(station.send(r#"[2,"slow","Slow",{}]"#)).await;
    let mut http_client = Client::dial(address).await;
    http_client.send("POST /reset/CP HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").await;
    let (id, _) = soon(station.receive_call()).await;

    drop(stop);
    let ending = {
        let server = server.clone();
        tokio::spawn(async move {
            let http = timeout(Duration::from_secs(10), http).await;
            let report = server.close(Close::going_away().drain(Duration::from_secs(10))).await;
            (http.is_ok(), report)
        })
    };
    // The listener accepts no more connections, but existing ones stay open.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.is_closing(), "an HTTP request still waits for its station");
    soon(station.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#))).await;
    let response = http_client.answer().await;
    assert_eq!((response.status, &*response.body), (200, r#"{"status":"Accepted"}"#));

    gate.add_permits(1);
    assert_eq!(soon(station.receive()).await, r#"[3,"slow",{"answered":"late"}]"#);
    assert_eq!(soon(station.closed()).await.0, 1001);
    let (http_ended, report) = soon(ending).await.expect("no panic");
    assert!(http_ended);
    assert_eq!((report.clean, report.forced), (1, 0));
}
