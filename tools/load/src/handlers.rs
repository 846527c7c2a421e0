//! Typed handlers for the calls of the stations, as in a real backend.

use std::convert::Infallible;

use ocpp_rpc::{ErrorCode, RpcRouter, extract::Params};
use serde::{Deserialize, Serialize};

/// Returns a router for Heartbeat, BootNotification and MeterValues.
pub fn router() -> RpcRouter {
    RpcRouter::new().on("Heartbeat", heartbeat).on("BootNotification", boot).on("MeterValues", meter_values)
}

async fn heartbeat() -> Result<HeartbeatResponse, Infallible> {
    Ok(HeartbeatResponse { current_time: now() })
}

async fn boot(Params(boot): Params<Boot>) -> Result<BootResponse, Infallible> {
    let is_valid = !boot.charge_point_vendor.is_empty() && !boot.charge_point_model.is_empty();
    let status = if is_valid { "Accepted" } else { "Rejected" };
    Ok(BootResponse { current_time: now(), interval: 300, status })
}

async fn meter_values(Params(meter): Params<MeterValues>) -> Result<(), ErrorCode> {
    if meter.meter_value.iter().all(|value| !value.sampled_value.is_empty()) {
        Ok(())
    } else {
        Err(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION)
    }
}

/// Returns the current time in milliseconds.
fn now() -> String {
    format!("{:.3}", jiff::Timestamp::now())
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct HeartbeatResponse {
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
struct BootResponse {
    current_time: String,
    interval: u32,
    status: &'static str,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct MeterValues {
    connector_id: u32,
    transaction_id: Option<i64>,
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct MeterValue {
    timestamp: String,
    sampled_value: Vec<SampledValue>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoded in full, as in a real backend")]
struct SampledValue {
    value: String,
    context: Option<String>,
    format: Option<String>,
    measurand: Option<String>,
    phase: Option<String>,
    location: Option<String>,
    unit: Option<String>,
}
