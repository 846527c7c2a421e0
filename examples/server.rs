//! A server of charging stations and nothing else: one port, two handlers, and a fallback for all other calls. Stations
//! connect to `ws://127.0.0.1:9220/<identity>` with OCPP 1.6 or 2.0.1. The first argument sets another address.
//!
//!     cargo run --example server

use std::{convert::Infallible, env, error::Error};

use jiff::Timestamp;
use ocpp_rpc::{RpcRouter, RpcServer, Session, extract::Action};
use serde_json::{Value, json};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let router = RpcRouter::new().on("BootNotification", boot).on("Heartbeat", heartbeat).fallback(fallback);
    let server = RpcServer::builder(router).protocols(["ocpp2.0.1", "ocpp1.6"]).build()?;

    let address = env::args().nth(1).unwrap_or_else(|| "127.0.0.1:9220".to_owned());
    let listener = server.listen(address).await?;
    println!("listening on ws://{}/<identity>", listener.local_addr());
    listener.run_until(shutdown_signal()).await;
    Ok(())
}

async fn boot(session: Session) -> Result<Value, Infallible> {
    println!("{} boots with {}", session.identity(), session.protocol().as_deref().unwrap_or("no protocol"));
    Ok(json!({"status": "Accepted", "interval": 300, "currentTime": now()}))
}

async fn heartbeat() -> Result<Value, Infallible> {
    Ok(json!({"currentTime": now()}))
}

async fn fallback(action: Action, session: Session) -> Result<(), Infallible> {
    println!("{} calls {action}", session.identity());
    Ok(())
}

/// Returns the current time in milliseconds, because some stations cannot parse more digits.
fn now() -> String {
    format!("{:.3}", Timestamp::now())
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
