//! Validation by OCPP's own schemas: the server rejects an invalid call before any handler runs, and never sends an
//! invalid call of its own. The error has a JSON pointer to the invalid value.
//!
//!     cargo run --example validation --features ocpp-schemas

use std::{convert::Infallible, error::Error};

use ocpp_rpc::{
    Close, Options, RpcClient, RpcRouter, RpcServer,
    validate::{OcppSchemas, Validation},
};
use serde_json::{Value, json};

async fn boot() -> Result<Value, Infallible> {
    println!("the handler runs");
    Ok(json!({"status": "Accepted", "interval": 300, "currentTime": "2026-01-01T00:00:00Z"}))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let server = RpcServer::builder(RpcRouter::new().on("BootNotification", boot))
        .protocols(["ocpp1.6"])
        .options(Options::server().validation(Validation::new(OcppSchemas)))
        .build()?;
    let listener = server.listen("127.0.0.1:0").await?;
    let endpoint = format!("ws://{}", listener.local_addr());
    let client = RpcClient::builder(endpoint, "CP-1").protocols(["ocpp1.6"]).connect().await?;

    // The station sends anything, because only the server validates.
    for boot in [
        json!({"chargePointVendor": "ACME", "chargePointModel": "One"}),
        json!({"chargePointVendor": "ACME"}),
        json!({"chargePointVendor": "ACME", "chargePointModel": "A name of more than twenty characters"}),
    ] {
        match client.call::<Value>("BootNotification", &boot).await {
            Ok(result) => println!("accepted: {result}"),
            Err(error) => println!("{error}"),
        }
    }

    let session = server.session("CP-1").ok_or("CP-1 is not connected")?;
    if let Err(error) = session.call::<Value>("Reset", &json!({"type": "Immediate"})).await {
        println!("not sent: {error}");
    }
    listener.close(Close::going_away()).await;
    Ok(())
}
