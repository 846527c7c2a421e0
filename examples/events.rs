//! Events: connects, messages and disconnects of all stations, as they happen. A reader that falls behind loses the
//! oldest events, and never slows a connection.
//!
//!     cargo run --example events

use std::{convert::Infallible, error::Error};

use ocpp_rpc::{
    Close, RpcClient, RpcRouter, RpcServer,
    event::{Event, EventKind},
};
use serde_json::{Value, json};

async fn heartbeat() -> Result<Value, Infallible> {
    Ok(json!({"currentTime": "2026-01-01T00:00:00Z"}))
}

fn print(event: &Event) {
    let identity = event.identity.as_deref().unwrap_or("-");
    match &event.kind {
        EventKind::Opened { protocol, .. } => println!("{identity} connected with {protocol:?}"),
        EventKind::Received(text) => println!("{identity} > {text}"),
        EventKind::Sent(text) => println!("{identity} < {text}"),
        EventKind::Closed(closed) => println!("{identity} disconnected: {} {}", closed.code, closed.reason),
        EventKind::Lagged(events) => println!("{events} events were lost"),
        _ => {}
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = RpcRouter::new().on("Heartbeat", heartbeat);
    let server = RpcServer::builder(router).protocols(["ocpp1.6"]).build()?;
    let mut events = server.events();
    let printer = tokio::spawn(async move {
        while let Some(event) = events.next().await {
            print(&event);
        }
    });

    let listener = server.listen("127.0.0.1:0").await?;
    let endpoint = format!("ws://{}", listener.local_addr());
    let client = RpcClient::builder(endpoint, "CP-1").protocols(["ocpp1.6"]).connect().await?;
    let _: Value = client.call("Heartbeat", &json!({})).await?;
    client.close(Close::normal().reason("maintenance")).await;

    // The stream of events ends when the server has closed.
    listener.close(Close::going_away()).await;
    printer.await?;
    Ok(())
}
