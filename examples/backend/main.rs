//! A backend for charging stations: REST and OCPP on one port.
//!
//!     cargo run --example backend
//!
//! Stations connect to `ws://127.0.0.1:9220/ocpp/<identity>` with OCPP 1.6, 2.0.1 or 2.1; people look at
//! `http://127.0.0.1:9220/api/stations`. What stations say is answered in `stations.rs`, what people ask in
//! `api.rs`.

mod api;
mod stations;

use std::time::Duration;

use clap::Parser;
use ocpp_rpc::{Close, Options, RpcServer};

#[derive(Parser)]
struct Args {
    /// Where to listen.
    #[arg(long, default_value = "127.0.0.1:9220")]
    listen: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_env_filter(log_filter()).init();
    let args = Args::parse();

    let server = RpcServer::builder(stations::router())
        .protocols(["ocpp2.1", "ocpp2.0.1", "ocpp1.6"])
        .options(Options::server().call_timeout(Duration::from_secs(30)))
        .build()?;
    let app = api::router(&server).route_service("/ocpp/{*identity}", server.clone());

    let listener = server.listen_with(&args.listen, app).await?;
    let address = listener.local_addr();
    println!("stations connect to  ws://{address}/ocpp/<identity>");
    println!("people look at       http://{address}/api/stations");

    tokio::signal::ctrl_c().await?;
    println!("closing: calls under way have ten seconds");
    let report = listener.close(Close::going_away().reason("the backend stops").within(Duration::from_secs(10))).await;
    println!("{} stations closed, {} dropped", report.clean, report.forced);
    Ok(())
}

/// What RUST_LOG says, else warnings.
fn log_filter() -> tracing_subscriber::EnvFilter {
    tracing_subscriber::EnvFilter::try_from_default_env().unwrap_or_else(|_| "warn".into())
}
