//! A REST route that calls a station: `POST /stations/{id}/reset` resets a connected station, and an error of the call
//! becomes an HTTP status. A station in the same program accepts every reset.
//!
//!     cargo run --example rest-call

use std::{convert::Infallible, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    http::StatusCode,
    routing::post,
};
use ocpp_rpc::{Error, RpcClient, RpcRouter, RpcServer};
use serde_json::{Value, json};

async fn reset(State(server): State<RpcServer>, Path(id): Path<String>) -> Result<Json<Value>, (StatusCode, String)> {
    let station = server.station(id);
    let result = station.call("Reset", &json!({"type": "Soft"})).total_timeout(Duration::from_secs(10)).await;
    result.map(Json).map_err(|error| {
        let status = match &error {
            Error::NotConnected => StatusCode::NOT_FOUND,
            error if error.is_timeout() => StatusCode::GATEWAY_TIMEOUT,
            _ => StatusCode::BAD_GATEWAY,
        };
        (status, error.to_string())
    })
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let server = RpcServer::builder(RpcRouter::new()).protocols(["ocpp1.6"]).build()?;
    let app = Router::new()
        .route("/stations/{id}/reset", post(reset))
        .route_service("/ocpp/{*identity}", server.clone())
        .with_state(server.clone());
    let listener = server.bind("127.0.0.1:9220").app(app).serve().await?;
    let address = listener.local_addr();

    let _station = RpcClient::builder(format!("ws://{address}/ocpp"), "CP-1")
        .protocols(["ocpp1.6"])
        .router(RpcRouter::new().on("Reset", accept))
        .connect()
        .await?;
    println!("try: curl -X POST http://{address}/stations/CP-1/reset");
    listener.run_until(shutdown_signal()).await;
    Ok(())
}

/// Handles the call at the station.
async fn accept() -> Result<Value, Infallible> {
    Ok(json!({"status": "Accepted"}))
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
