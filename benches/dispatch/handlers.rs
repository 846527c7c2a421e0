//! Typed handlers, as in a backend.

use std::convert::Infallible;

use ocpp_rpc::{ErrorCode, RpcRouter, extract::Params};
use serde::{Deserialize, Serialize};

pub(crate) fn router() -> RpcRouter {
    RpcRouter::new().on("Heartbeat", heartbeat).on("MeterValues", meter_values)
}

async fn heartbeat() -> Result<Heartbeat, Infallible> {
    Ok(Heartbeat { current_time: format!("{:.3}", jiff::Timestamp::now()) })
}

async fn meter_values(Params(meter): Params<MeterValues>) -> Result<(), ErrorCode> {
    if meter.meter_value.iter().all(|value| !value.sampled_value.is_empty()) {
        Ok(())
    } else {
        Err(ErrorCode::OCCURRENCE_CONSTRAINT_VIOLATION)
    }
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Heartbeat {
    current_time: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a backend")]
struct MeterValues {
    connector_id: u32,
    transaction_id: Option<i64>,
    meter_value: Vec<MeterValue>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
#[expect(dead_code, reason = "decoded in full, as in a backend")]
struct MeterValue {
    timestamp: String,
    sampled_value: Vec<SampledValue>,
}

#[derive(Deserialize)]
#[expect(dead_code, reason = "decoded in full, as in a backend")]
struct SampledValue {
    value: String,
    context: Option<String>,
    format: Option<String>,
    measurand: Option<String>,
    phase: Option<String>,
    location: Option<String>,
    unit: Option<String>,
}
