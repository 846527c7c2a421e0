//! A REST route that calls a station: `POST /stations/{id}/reset` resets a connected station. An error of the call becomes
//! a response with a fitting status and a JSON body. A station in the same program accepts every reset.
//!
//!     cargo run --example rest-call

use std::{convert::Infallible, time::Duration};

use axum::{
    Json, Router,
    extract::{Path, State},
    routing::post,
};
use ocpp_rpc::{Error, RpcClient, RpcRouter, RpcServer};
use serde_json::{Value, json};

async fn reset(State(server): State<RpcServer>, Path(id): Path<String>) -> Result<Json<Value>, Error> {
    let reset = server.station(id).call("Reset", &json!({"type": "Soft"}));
    Ok(Json(reset.total_timeout(Duration::from_secs(10)).await?))
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
