//! A charging station: it connects, calls its server, and handles the server's calls on the same connection. The
//! server runs in the same program, and resets the station when it has booted.
//!
//!     cargo run --example client

use std::{convert::Infallible, error::Error, time::Duration};

use ocpp_rpc::{
    Close, RpcClient, RpcRouter, RpcServer,
    extract::{Params, State},
};
use serde_json::{Value, json};
use tokio::sync::mpsc;

/// Handles a call of the server.
async fn reset(Params(reset): Params<Value>, State(resets): State<mpsc::Sender<Value>>) -> Result<Value, Infallible> {
    let status = if resets.send(reset["type"].clone()).await.is_ok() { "Accepted" } else { "Rejected" };
    Ok(json!({"status": status}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = RpcServer::builder(RpcRouter::new().on("BootNotification", boot)).protocols(["ocpp1.6"]).build()?;
    let listener = server.listen("127.0.0.1:0").await?;

    let (sender, mut resets) = mpsc::channel(1);
    let client = RpcClient::builder(format!("ws://{}", listener.local_addr()), "CP-1")
        .protocols(["ocpp1.6"])
        .router(RpcRouter::with_state(sender).on("Reset", reset))
        .connect()
        .await?;
    let boot = json!({"chargePointVendor": "ACME", "chargePointModel": "One"});
    let result: Value = client.call("BootNotification", &boot).await?;
    println!("BootNotification: {}", result["status"]);

    let session = server.session("CP-1").ok_or("CP-1 is not connected")?;
    let result: Value = session.call("Reset", &json!({"type": "Soft"})).await?;
    println!("Reset: {}", result["status"]);
    println!("the station performs a {} reset", resets.recv().await.unwrap_or_default());

    let closed = client.close(Close::normal().drain(Duration::from_secs(30))).await;
    println!("closed with {} {}", closed.code, closed.cause);
    listener.close(Close::going_away()).await;
    Ok(())
}

/// Handles a call of the station.
async fn boot() -> Result<Value, Infallible> {
    Ok(json!({"status": "Accepted", "interval": 300, "currentTime": "2026-01-01T00:00:00Z"}))
}
