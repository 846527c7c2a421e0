//! What the documentation tells people to do with an HTTP stack of their own: layers around a server, and an end of
//! both in which no answer is lost.

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

/// The id of every request.
#[derive(Clone)]
struct Numbered;

impl MakeRequestId for Numbered {
    fn make_request_id<B>(&mut self, _: &Request<B>) -> Option<RequestId> {
        Some(RequestId::new(HeaderValue::from_static("request-7")))
    }
}

#[tokio::test]
async fn layers_around_a_server_see_the_handshake_and_let_the_session_be() {
    let hook = async |handshake: Handshake| {
        let id = handshake.headers()["x-request-id"].clone();
        Ok(Accept::new().extension(id))
    };
    let server = RpcServer::builder(RpcRouter::new()).auth(hook).build().expect("sound");
    let id = HeaderName::from_static("x-request-id");
    let deadline = Duration::from_millis(100);
    let app = Router::new()
        .route_service("/ocpp/{*identity}", server.clone())
        .layer(TimeoutLayer::with_status_code(StatusCode::GATEWAY_TIMEOUT, deadline))
        .layer(PropagateRequestIdLayer::new(id.clone()))
        .layer(TraceLayer::new_for_http())
        .layer(SetRequestIdLayer::new(id, Numbered));
    let listener = server.bind("127.0.0.1:0").app(app).serve().await.expect("a port");
    let mut client = Client::dial(listener.local_addr()).await;
    let answer = client.ask(&head("/ocpp/CP")).await;
    assert_eq!((answer.status, answer.header("x-request-id")), (101, "request-7"));
    let mut station = client.upgraded(&answer).await;
    // The timeout of the layer is one of the handshake: a call may take longer.
    let mut events = server.events();
    while server.session("CP").is_none() {
        soon(events.next()).await;
    }
    let session = server.session("CP").expect("registered");
    assert_eq!(session.extension(), Some(HeaderValue::from_static("request-7")));
    let outcome = session.call::<Value>("Any", &()).timeout(2 * deadline).await.expect_err("no answer");
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
async fn axum_and_the_server_end_together_and_no_answer_is_lost() {
    async fn slow(extract::State(gate): extract::State<Arc<Semaphore>>) -> Result<Value, Infallible> {
        gate.acquire().await.expect("open some day").forget();
        Ok(json!({"answered": "late"}))
    }
    let gate = Arc::new(Semaphore::new(0));
    let server = RpcServer::builder(RpcRouter::with_state(gate.clone()).on("Slow", slow)).build().expect("sound");
    let app = Router::new()
        .route("/reset/{identity}", post(reset))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(App { server: server.clone() });
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("a port");

    // As the documentation of the server has it.
    let (stop, stopped) = oneshot::channel::<()>();
    let http = axum::serve(listener, app).with_graceful_shutdown(async { _ = stopped.await });
    let http = tokio::spawn(http.into_future());

    let stream = tokio::net::TcpStream::connect(address).await.expect("a listener");
    let mut station = soon(Station::open(stream, "CP", "")).await;
    // Calls under way in both directions, and a request that waits for one of them.
    soon(station.send(r#"[2,"slow","Slow",{}]"#)).await;
    let mut person = Client::dial(address).await;
    person.send("POST /reset/CP HTTP/1.1\r\nHost: test\r\nContent-Length: 0\r\n\r\n").await;
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
    // No new connections, while the old ones go on.
    while tokio::net::TcpStream::connect(address).await.is_ok() {
        tokio::task::yield_now().await;
    }
    assert!(!server.is_closing(), "a request still waits for its station");
    soon(station.send(format!(r#"[3,"{id}",{{"status":"Accepted"}}]"#))).await;
    let answer = person.answer().await;
    assert_eq!((answer.status, &*answer.body), (200, r#"{"status":"Accepted"}"#));

    gate.add_permits(1);
    assert_eq!(soon(station.receive()).await, r#"[3,"slow",{"answered":"late"}]"#);
    assert_eq!(soon(station.closed()).await.0, 1001);
    let (http_ended, report) = soon(ending).await.expect("no panic");
    assert!(http_ended);
    assert_eq!((report.clean, report.forced), (1, 0));
}
