//! A server to measure: it answers Heartbeat, BootNotification and MeterValues with typed handlers, calls Reset
//! as often as it is told to, and prints nothing per message.
//!
//!     cargo run --release --example load_target -- --port 9221
//!
//! With the feature `strict` it takes `--strict`, and validates what it reads and writes.

#[cfg(feature = "strict")]
#[path = "backend/strict.rs"]
mod strict;

/// Stands in for validation, where there is none.
#[cfg(not(feature = "strict"))]
mod strict {
    use ocpp_rpc::Options;

    #[derive(clap::Args)]
    pub(crate) struct Checks {}

    impl Checks {
        pub(crate) fn add_to(&self, options: Options) -> Options {
            options
        }
    }
}

use std::convert::Infallible;

use clap::Parser;
use ocpp_rpc::{
    Close, ErrorCode, Options, RpcRouter, RpcServer,
    extract::{Params, Session},
};
use serde::{Deserialize, Serialize};
use serde_json::json;

#[derive(Parser)]
struct Args {
    /// The port to listen on, at 127.0.0.1; any path is taken.
    #[arg(long)]
    port: u16,
    #[command(flatten)]
    checks: strict::Checks,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let Args { port, checks } = Args::parse();
    let router = RpcRouter::new()
        .on("Heartbeat", heartbeat)
        .on("BootNotification", boot)
        .on("MeterValues", meter_values)
        .on("Trigger", trigger);
    let options = checks.add_to(Options::server());
    let server = RpcServer::builder(router).max_connections(100_000).protocols(["ocpp1.6"]).options(options).build()?;
    let listener = server.listen(("127.0.0.1", port)).await?;
    println!("listening on ws://{}/<identity>", listener.local_addr());
    tokio::signal::ctrl_c().await?;
    listener.close(Close::going_away()).await;
    Ok(())
}

async fn heartbeat() -> Result<Heartbeat, Infallible> {
    Ok(Heartbeat { current_time: now() })
}

async fn boot(Params(boot): Params<Boot>) -> Result<Booted, Infallible> {
    let known = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
    let status = if known { "Accepted" } else { "Rejected" };
    Ok(Booted { current_time: now(), interval: 300, status })
}

async fn meter_values(Params(meter): Params<MeterValues>) -> Result<(), ErrorCode> {
    match meter.meter_value.iter().all(|value| !value.sampled_value.is_empty()) {
        true => Ok(()),
        false => Err(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION),
    }
}

async fn trigger(Params(trigger): Params<Trigger>, session: Session) -> Result<(), Infallible> {
    tokio::spawn(async move {
        for _ in 0..trigger.count {
            match session.call::<Reset>("Reset", &json!({"type": "Soft"})).await {
                Ok(reset) if reset.status == "Accepted" => {}
                _ => break,
            }
        }
    });
    Ok(())
}

fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    current_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Boot {
    charge_point_vendor: String,
    charge_point_model: String,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Booted {
    current_time: String,
    interval: u32,
    status: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read in full, as a backend would")]
struct MeterValues {
    connector_id: u32,
    transaction_id: Option<i64>,
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "read in full, as a backend would")]
struct MeterValue {
    timestamp: String,
    sampled_value: Vec<SampledValue>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "read in full, as a backend would")]
struct SampledValue {
    value: String,
    context: Option<String>,
    format: Option<String>,
    measurand: Option<String>,
    phase: Option<String>,
    location: Option<String>,
    unit: Option<String>,
}

#[derive(Deserialize)]
struct Trigger {
    count: u64,
}

#[derive(Deserialize)]
struct Reset {
    status: String,
}
