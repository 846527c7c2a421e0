//! A server in an axum application: stations connect under `/ocpp/`, and the other routes are ordinary axum handlers.
//! They find connected stations through the server, which is their state.
//!
//!     cargo run --example mount

use std::{convert::Infallible, error::Error};

use axum::{Json, Router, extract::State, routing::get};
use ocpp_rpc::{RpcRouter, RpcServer};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = RpcRouter::new().on("BootNotification", boot);
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build()?;
    let app = Router::new()
        .route("/stations", get(stations))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(server.clone());

    // `axum::serve` works too. The listener adds timeouts for handshakes, and a shutdown that waits for sessions.
    let listener = server.bind("127.0.0.1:9220").app(app).serve().await?;
    let address = listener.local_addr();
    println!("stations connect to ws://{address}/ocpp/<identity>");
    println!("list them with      curl http://{address}/stations");
    listener.run_until(shutdown_signal()).await;
    Ok(())
}

async fn stations(State(server): State<RpcServer>) -> Json<Vec<String>> {
    Json(server.sessions().iter().map(|session| session.identity().to_string()).collect())
}

async fn boot() -> Result<Value, Infallible> {
    Ok(json!({"status": "Accepted", "interval": 300, "currentTime": "2026-01-01T00:00:00Z"}))
}

/// Completes on Ctrl-C, and on the SIGTERM of a container or a service manager.
async fn shutdown_signal() {
    #[cfg(unix)]
    let terminated = async {
        use tokio::signal::unix::{SignalKind, signal};
        signal(SignalKind::terminate()).expect("a handler of SIGTERM").recv().await
    };
    #[cfg(not(unix))]
    let terminated = std::future::pending::<()>();
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        _ = terminated => {}
    }
}
