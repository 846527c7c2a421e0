//! Typed handlers for the calls of stations under load, as a backend would have them.

use std::convert::Infallible;

use ocpp_rpc::{ErrorCode, RpcRouter, extract::Params};
use serde::{Deserialize, Serialize};

/// Returns a router for Heartbeat, BootNotification and MeterValues.
pub fn router() -> RpcRouter {
    RpcRouter::new().on("Heartbeat", heartbeat).on("BootNotification", boot).on("MeterValues", meter_values)
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
